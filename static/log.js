// The bridge's log: by level, searched, exported; new lines come by themselves.

import { get, query } from "./api.js";
import { $, empty, failed, h, loading, setText } from "./dom.js";
import { clock, plural } from "./format.js";
import { on } from "./live.js";

const LINES_MAX = 2000;
const LEVELS = ["error", "warn", "info", "debug"];
const TYPING = 250;

let lines = [];
let file = "";
let isShown = false;
let drawing = 0;
const parts = {};

export function setUp() {
  parts.level = h("select", { id: "log-level" }, [["error", "Errors"], ["warn", "Warnings and worse"], ["info", "Information and worse"], ["debug", "Everything"]]
    .map(([value, text]) => h("option", { value, selected: value === "info" }, text)));
  parts.search = h("input", { type: "search", id: "log-search", autocomplete: "off", spellcheck: "false", placeholder: "Search the lines" });
  parts.count = h("p", { class: "muted", role: "status" });
  parts.body = h("div", { class: "log-lines", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Lines of the log" });
  const labelled = (text, input) => h("label", { class: "field inline" }, h("span", {}, text), input);
  $("log-card").append(h("div", { class: "row wrap log-tools" }, labelled("Level", parts.level), labelled("Search", parts.search),
    h("button", { type: "button", onclick: save }, "Export…"), h("button", { type: "button", class: "quiet", onclick: load }, "Refresh")), parts.count, parts.body);
  let timer = 0;
  parts.search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(load, TYPING);
  });
  parts.level.addEventListener("change", load);
  on("log", (line) => {
    if (!isShown || !fits(line)) return;
    lines.push(line);
    drawSoon();
  });
}

function fits(line) {
  return LEVELS.indexOf(line.level) <= LEVELS.indexOf(parts.level.value)
    && line.message.toLowerCase().includes(parts.search.value.trim().toLowerCase());
}

export function show(shown) {
  isShown = shown;
  if (shown) load();
}

async function load() {
  if (lines.length === 0) parts.body.replaceChildren(loading("Reading the log…"));
  try {
    const answer = await get(query("/api/logs", { level: parts.level.value, search: parts.search.value.trim(), limit: LINES_MAX }));
    lines = answer.lines;
    file = answer.file;
    draw();
  } catch (error) {
    parts.body.replaceChildren(failed(error, load));
  }
}

/** Once for each picture, however many lines come. */
function drawSoon() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    draw();
  });
}

function draw() {
  if (lines.length > LINES_MAX) lines = lines.slice(-LINES_MAX);
  setText(parts.count, `${plural(lines.length, "line")}, newest last. The whole log: ${file}`);
  if (lines.length === 0) {
    parts.body.replaceChildren(empty("No lines", "No line of the log fits what is asked for."));
    return;
  }
  const isAtEnd = parts.body.scrollTop + parts.body.clientHeight >= parts.body.scrollHeight - 40;
  parts.body.replaceChildren(...lines.map((line) => h("div", { class: "log-line", "data-level": line.level },
    h("time", { datetime: line.time }, clock(line.time)), h("span", { class: "level" }, line.level), h("span", { class: "message" }, line.message))));
  if (isAtEnd || !parts.drawn) parts.body.scrollTop = parts.body.scrollHeight;
  parts.drawn = true;
}

function save() {
  const text = lines.map((line) => `${line.time} ${line.level.toUpperCase().padEnd(5)} ${line.message}\n`).join("");
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  h("a", { href: url, download: "cyberbackup-log.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
