// The connection to the backup server: which, under what name, with which key, and how it does.

import { get, post } from "./api.js";
import { confirm } from "./dialogs.js";
import { $, announce, empty, field, h, loading, set, setText, toast } from "./dom.js";
import { on, tell } from "./live.js";

let info = null;
let connected = false;
let isBusy = false;
const parts = {};
let tellReady;
const ready = new Promise((resolve) => { tellReady = resolve; });

export async function setUp(autoConnect) {
  build();
  on("status", (status) => {
    if (connected !== status.connected) {
      connected = status.connected;
      refresh();
    }
  });
  await refresh();
  tellReady();
  if (autoConnect && info?.known) connect({}, true);
}

/** Whether the server has ever been met: before that it can be asked nothing. */
export async function isKnown() {
  await ready;
  return Boolean(info?.known);
}

/** What stands where nothing can be asked. */
export const notMet = () => empty("This server has not been met yet", "Connect first, and see whether its key is the right one.",
  h("a", { class: "button", href: "#server" }, "To the connection"));

async function refresh() {
  try {
    info = await get("/api/server_info");
    connected = info.connected;
  } catch (error) {
    setText(parts.problem, error.message);
  }
  draw();
}

function build() {
  parts.state = h("p", { class: "state" });
  parts.facts = h("dl", { class: "facts" });
  parts.host = h("input", { id: "host", required: true, autocomplete: "off", spellcheck: "false" });
  parts.port = h("input", { id: "port", type: "number", min: 1, max: 65535, required: true, inputmode: "numeric" });
  parts.name = h("input", { id: "username", required: true, autocomplete: "off", spellcheck: "false" });
  parts.token = h("input", { id: "token", autocomplete: "off", spellcheck: "false" });
  parts.connect = h("button", { type: "submit", class: "primary" }, "Connect");
  parts.disconnect = h("button", { type: "button", onclick: disconnect }, "Disconnect");
  parts.problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { id: "connect-form", onsubmit: submit },
    h("div", { class: "fields" }, field("Host", parts.host), field("Port", parts.port), field("Name", parts.name, "Under this name the server keeps your backups.")),
    h("details", {}, h("summary", {}, "The server wants a token"), field("Token", parts.token, "What “cyberbackup enroll” printed at the server.")),
    parts.problem, h("div", { class: "row" }, parts.connect, parts.disconnect));
  $("connection-card").append(h("h2", {}, "Connection"), parts.state, parts.facts, form);
  parts.state.append(loading("Looking for the server…"));
  $("connection-pill").addEventListener("click", () => {
    location.hash = "#server";
  });
}

function draw() {
  const server = info?.server;
  const [state, text, where = ""] = !info ? ["bad", "This program does not answer"] : isBusy ? ["busy", "Connecting…"]
    : connected ? ["good", "Connected", ` to ${server.host}:${server.port}`]
      : info.known ? ["bad", "Not connected"] : ["warn", "This server has not been met yet"];
  for (const element of [$("connection-pill"), parts.state]) element.dataset.state = state;
  const latency = connected && !isBusy && server.latency_ms !== null ? ` · ${server.latency_ms} ms` : "";
  if ($("connection-text").textContent !== text + where + latency) {
    $("connection-text").replaceChildren(text, h("span", { class: "where" }, where), latency);
  }
  parts.state.replaceChildren(h("span", { class: "dot", "aria-hidden": "true" }), h("strong", {}, text + where));
  parts.disconnect.hidden = !connected;
  parts.connect.disabled = isBusy;
  setText(parts.connect, info?.known ? "Connect" : "Connect and see its key");
  if (!server) return;
  const facts = [["Server", `${server.host}:${server.port}`], ["Name", server.username],
    ["Key", server.fingerprint ?? "not known yet"], ["Latency", server.latency_ms === null ? "–" : `${server.latency_ms} ms`]];
  if (info.local_server) facts.push(["Note", "This server runs inside this program."]);
  parts.facts.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: name === "Key" ? "mono" : "" }, value))));
  for (const [input, value] of [[parts.host, server.host], [parts.port, server.port], [parts.name, server.username]]) {
    if (document.activeElement !== input && !input.dataset.touched) input.value = value;
    input.oninput = () => { input.dataset.touched = "yes"; };
  }
}

async function submit(event) {
  event.preventDefault();
  if (isBusy) return;
  const wish = { host: parts.host.value.trim(), port: Number(parts.port.value), username: parts.name.value.trim() };
  if (parts.token.value.trim()) wish.token = parts.token.value.trim();
  busy(true);
  let key;
  try {
    key = await post("/api/server_key", wish);
  } catch (error) {
    busy(false);
    return problem(error, false);
  }
  busy(false);
  if (!key.confirm_needed) return connect(wish, false);
  return (await isTrusted(key.fingerprint, wish)) ? connect({ ...wish, confirm: key.fingerprint }, false) : undefined;
}

function busy(now) {
  isBusy = now;
  if (now) setText(parts.problem, "");
  draw();
}

function problem(error, isQuiet) {
  setText(parts.problem, error.message);
  if (!isQuiet) announce(error.message);
}

async function connect(wish, isQuiet) {
  if (isBusy) return;
  busy(true);
  try {
    const answer = await post("/api/connect", wish);
    connected = true;
    for (const input of [parts.host, parts.port, parts.name]) delete input.dataset.touched;
    if (!isQuiet) toast(`Connected to ${answer.server.host}:${answer.server.port}`);
    tell("connected", answer.server);
  } catch (error) {
    problem(error, isQuiet);
  }
  isBusy = false;
  await refresh();
}

/** Nobody can vouch for a key that is seen for the first time but who reads it at the server. */
function isTrusted(fingerprint, wish) {
  return confirm("Is this the server’s key?", [
    `This is the first contact with ${wish.host}:${wish.port}. Compare this with the line “key SHA256:…” that the server printed when it started:`,
    h("p", { class: "fingerprint mono", id: "fingerprint" }, fingerprint),
    "If they differ, somebody stands between you and the server: do not go on.",
  ], "It is the same: trust it", { no: "It differs, or I cannot tell" });
}

async function disconnect() {
  try {
    await post("/api/disconnect");
    connected = false;
    parts.connect.focus();
  } catch (error) {
    toast(error.message, "bad");
  }
  refresh();
}
