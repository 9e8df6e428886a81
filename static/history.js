// The snapshots of this client at the server: what is in them, search, download, restore.

import { exactPath, get, post, query } from "./api.js";
import { isKnown, notMet } from "./connection.js";
import { $, announce, empty, failed, h, loading, toast } from "./dom.js";
import { bytes, number, plural, time } from "./format.js";
import { chooseFolder } from "./hosts.js";
import { on } from "./live.js";
import { Tree } from "./tree.js";
import { watch } from "./job.js";
import { hindrance, lockedNote, unlocked } from "./vault.js";

const SNAPSHOTS_SHOWN = 200;
const FOUND_SHOWN = 500;
/** A search begins when nothing was typed for so long, in milliseconds. */
const TYPING = 300;

let snapshots = [];
let chosen = null;
let isStale = true;
let selected = null;
let asked = 0;
/** The snapshots were asked for so often: only the answer to the newest question is shown. */
let loads = 0;
let newest = null;
const parts = {};

export function setUp() {
  $("snapshots-again").addEventListener("click", () => load());
  on("status", (status) => { if (status.state === "completed") jobCompleted(); });
  on("connected", () => { isStale = true; });
  on("vault_changed", vaultChanged);
}

/** There may be a snapshot more; the view may be shown before the bridge tells of it. */
function jobCompleted() {
  isStale = true;
  if (!$("history").hidden) load();
}

/** What a vault's snapshots are called, and what is in them, is known only while it is open. */
function vaultChanged() {
  if (!snapshots.some((one) => one.vault)) return;
  isStale = true;
  if ($("history").hidden) return;
  const hadFocus = $("snapshot-card").contains(document.activeElement);
  const present = snapshots.find((one) => one.snapshot === chosen);
  if (present?.vault) choose(chosen);
  if (hadFocus) $("snapshot-card").querySelector("h2").focus();
  load();
}

/** The view is shown, with a snapshot to choose or none. */
export async function show(id) {
  if (isStale || (id && !snapshots.some((one) => one.snapshot === id))) await load();
  if (id && snapshots.some((one) => one.snapshot === id)) choose(id);
}

function load() {
  newest = ask(++loads);
  return newest;
}

async function ask(turn) {
  if (!(await isKnown())) {
    $("snapshots").replaceChildren(notMet());
    return choose(null);
  }
  if (snapshots.length === 0) $("snapshots").replaceChildren(loading("Asking the server for its snapshots…"));
  const answer = await get("/api/snapshots").catch((error) => ({ error }));
  if (turn !== loads) return newest;
  if (answer.error) {
    snapshots = [];
    $("snapshots").replaceChildren(failed(answer.error, load));
    return choose(null);
  }
  isStale = false;
  snapshots = answer.snapshots;
  draw(SNAPSHOTS_SHOWN, answer.damaged ?? []);
  if (!snapshots.some((one) => one.snapshot === chosen)) choose(snapshots[0]?.snapshot ?? null);
  return undefined;
}

function draw(shown, damaged = []) {
  if (snapshots.length === 0) {
    $("snapshots").replaceChildren(empty("No snapshots yet", "The first backup makes the first one."), h("a", { class: "button", href: "#backup" }, "Back something up"));
    return;
  }
  const list = h("ul", { class: "plain snapshots" }, snapshots.slice(0, shown).map((one) => h("li", {},
    h("button", { type: "button", "data-snapshot": one.snapshot, "aria-current": one.snapshot === chosen ? "true" : false, onclick: () => choose(one.snapshot) },
      h("span", { class: "row between" }, h("strong", {}, time(one.committed)), one.label && h("span", { class: "chip" }, one.label), one.vault && h("span", { class: "chip" }, "vault")),
      ...factsOf(one)))));
  $("snapshots").replaceChildren(list);
  if (snapshots.length > shown) {
    $("snapshots").append(h("button", { type: "button", class: "quiet", onclick: () => draw(shown + SNAPSHOTS_SHOWN) }, `Show more (and ${number(snapshots.length - shown)} more)`));
  }
  for (const one of damaged) $("snapshots").append(h("p", { class: "note bad" }, `${one.snapshot ?? "A snapshot"} cannot be listed: ${one.reason}`));
}

/** What a row says of a snapshot; of one that cannot be read, what the server knows of it. */
function factsOf(one) {
  if (one.roots === null) {
    const when = hindrance(one) ? "when the vault is open" : "when the list is read again";
    return [h("span", { class: "muted" }, `Sealed. What it holds shows ${when}.`)];
  }
  const unreadable = one.unreadable ? `, ${number(one.unreadable)} unreadable` : "";
  return [h("span", { class: "muted path" }, one.roots.map((root) => root.path).join(", ")),
    h("span", { class: "muted" }, `${plural(one.files, "file")}, ${bytes(one.bytes)} (${bytes(one.new_bytes)} new)${unreadable}`)];
}

function choose(id) {
  chosen = id;
  selected = null;
  for (const button of $("snapshots").querySelectorAll("[data-snapshot]")) {
    if (button.dataset.snapshot === id) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  const snapshot = snapshots.find((one) => one.snapshot === id);
  if (!snapshot) {
    $("snapshot-card").replaceChildren(h("h2", {}, "Contents"), empty("No snapshot is chosen", "What is in a snapshot is shown here: look into folders, search, download one file, or restore."));
    return;
  }
  const title = h("h2", { tabindex: "-1" }, `Contents of ${time(snapshot.committed)}`);
  const name = h("p", { class: "muted mono small" }, snapshot.snapshot);
  const why = hindrance(snapshot);
  const all = h("button", { type: "button", onclick: () => restore(null) }, "Restore all of it…");
  const head = h("div", { class: "row between" }, title, why !== "no key" && all);
  if (why) {
    $("snapshot-card").replaceChildren(head, name, lockedNote(snapshot));
    return;
  }
  const search = h("input", { type: "search", placeholder: "Search by name or path", autocomplete: "off", spellcheck: "false", "aria-label": "Search in this snapshot" });
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => find(search.value.trim()), TYPING);
  });
  // What the server lacks, or shows otherwise, of what this host has stored in the vault.
  parts.findings = h("div", { id: "findings" });
  parts.body = h("div", { class: "tree-box" });
  parts.detail = h("div", { class: "detail" });
  $("snapshot-card").replaceChildren(head, name, parts.findings, search, parts.body, parts.detail);
  drawTree();
  drawDetail();
}

async function entries(path, more = {}) {
  const { findings } = parts;
  const answer = await get(query(`/api/snapshots/${chosen}/entries`, more) + (path === null ? "" : `${Object.keys(more).length ? "&" : "?"}path=${path}`));
  findings.replaceChildren(...answer.findings.map(({ snapshot, reason }) => h("p", { class: "note bad" }, snapshot ? `Snapshot ${snapshot}: ${reason}` : reason)));
  return answer;
}

async function drawTree() {
  const tree = new Tree("Files of the snapshot", {
    children: async (entry) => {
      const answer = await entries(entry ? exactPath(entry) : null);
      return { entries: answer.entries, truncated: answer.truncated };
    },
    select,
    note: (entry) => (entry.kind === "file" ? bytes(entry.size) : ""),
  });
  parts.body.replaceChildren(tree.box);
  await tree.open();
}

async function find(text) {
  if (text === "") return drawTree();
  const number_ = (asked += 1);
  parts.body.replaceChildren(loading("Searching…"));
  try {
    const answer = await entries(null, { search: text, limit: FOUND_SHOWN });
    if (number_ !== asked) return undefined;
    drawFound(answer, text);
  } catch (error) {
    if (number_ === asked) parts.body.replaceChildren(failed(error, () => find(text)));
  }
  return undefined;
}

function drawFound(answer, text) {
  const found = answer.entries;
  announce(`${plural(found.length, "entry")} found`);
  if (found.length === 0) {
    parts.body.replaceChildren(empty("Nothing found", `No path in this snapshot holds “${text}”.`));
    return;
  }
  parts.body.replaceChildren(h("ul", { class: "plain found", "aria-label": "What was found" }, found.map((entry) => h("li", {},
    h("button", { type: "button", class: "found-row", onclick: () => select(entry) },
      h("span", { class: `entry-name path ${entry.kind}` }, entry.path), h("span", { class: "muted figure" }, entry.kind === "file" ? bytes(entry.size) : ""))))),
  answer.truncated && h("p", { class: "muted" }, `The first ${number(found.length)} are shown: search for more of the name.`) || "");
}

function select(entry) {
  selected = entry;
  drawDetail();
}

const download = (entry) => `/api/snapshots/${chosen}/file?path=${exactPath(entry)}`;

function drawDetail() {
  if (!selected) {
    parts.detail.replaceChildren(h("p", { class: "muted" }, "Choose a file or folder to download or restore it."));
    return;
  }
  const entry = selected;
  const facts = [["Path", entry.path], ["Kind", entry.kind]];
  if (entry.kind === "file") facts.push(["Size", `${bytes(entry.size)} (${number(entry.size)} bytes)`]);
  if (entry.mtime) facts.push(["Changed", time(entry.mtime)]);
  if (entry.mode) facts.push(["Mode", entry.mode]);
  if (entry.crc32) facts.push(["CRC-32", entry.crc32, "mono"]);
  if (entry.blake3) facts.push(["BLAKE3", entry.blake3, "mono"]);
  if (entry.unreadable) facts.push(["Note", "It could not be read when the backup was made."]);
  parts.detail.replaceChildren(h("h3", { class: "path" }, entry.name),
    h("dl", { class: "facts" }, facts.map(([name, value, kind]) => h("div", {}, h("dt", {}, name), h("dd", { class: kind ?? "path" }, value)))),
    h("div", { class: "row" },
      entry.kind === "file" && !entry.unreadable && h("a", { class: "button primary", id: "download", href: download(entry), download: entry.name, onclick: () => toast(`Downloading ${entry.name}`) }, "Download"),
      h("button", { type: "button", onclick: () => restore(entry) }, entry.kind === "folder" ? "Restore this folder…" : "Restore to a folder…")));
  announce(`${entry.name} is chosen`);
}

async function restore(entry) {
  const snapshot = snapshots.find((one) => one.snapshot === chosen);
  if (!(await unlocked(snapshot))) return;
  const what = entry ? `“${entry.path}”` : "all of this snapshot";
  const to = await chooseFolder("Restore to a folder", `Puts ${what} below a folder of the host that this program runs on.`, "Restore");
  if (!to) return;
  try {
    const paths = entry ? [entry.path_base64 ? { path_base64: entry.path_base64 } : entry.path] : undefined;
    const { job } = await post("/api/restore", { snapshot: snapshot.snapshot, paths, to });
    toast(`Restoring to ${to}`);
    watch(job);
    location.hash = "#backup";
  } catch (error) {
    toast(error.message, "bad");
  }
}

