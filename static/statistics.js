// The statistics of the backup server, asked for while they are looked at.

import { get } from "./api.js";
import { isKnown, notMet } from "./connection.js";
import { $, failed, h, loading } from "./dom.js";
import { bytes, duration, number } from "./format.js";

const ASK_EVERY = 5000;

const FIGURES = [
  ["uptime_seconds", "Running for", duration], ["snapshots", "Snapshots stored", number], ["files_received", "Files received", number],
  ["bytes_received", "Received", bytes], ["bytes_sent", "Sent", bytes], ["sessions", "Sessions so far", number],
  ["connections", "Connections so far", number], ["failures", "Failures", number], ["busy_answers", "Turned away as busy", number],
  ["segments_damaged", "Damaged segments", number], ["segments_repeated", "Segments sent again", number],
];

let timer = 0;

export async function show(isShown) {
  clearInterval(timer);
  if (!isShown) return undefined;
  if (!(await isKnown())) return $("statistics").replaceChildren(notMet());
  if (!$("statistics").firstChild) $("statistics").replaceChildren(loading("Asking the server…"));
  ask();
  clearInterval(timer);
  timer = setInterval(() => !document.hidden && !$("server").hidden && ask(), ASK_EVERY);
  return undefined;
}

async function ask() {
  try {
    draw((await get("/api/stats")).stats);
  } catch (error) {
    clearInterval(timer);
    $("statistics").replaceChildren(failed(error, () => show(true)));
  }
}

function draw(stats) {
  const [used, all] = [stats.active_connections, stats.max_connections];
  const meter = h("div", { class: "slots" }, h("div", { class: "row between" }, h("span", {}, "Sessions now"), h("strong", {}, `${number(used)} of ${number(all)}`)),
    h("div", { class: "meter", role: "meter", "aria-label": "Sessions now", "aria-valuenow": used, "aria-valuemin": 0, "aria-valuemax": all || 1 }, h("i")));
  meter.querySelector("i").style.width = `${all ? (100 * used) / all : 0}%`;
  const tiles = FIGURES.filter(([name]) => stats[name] !== undefined)
    .map(([name, title, text]) => h("div", {}, h("dt", {}, title), h("dd", {}, text(stats[name]))));
  $("statistics").replaceChildren(meter, h("dl", { class: "tiles" }, tiles));
}
