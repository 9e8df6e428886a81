// The page: its parts are set up, and shown by the address's fragment.

import * as connection from "./connection.js";
import { $, announce, h, setText } from "./dom.js";
import * as history from "./history.js";
import * as job from "./job.js";
import * as live from "./live.js";
import * as log from "./log.js";
import * as settings from "./settings.js";
import * as source from "./source.js";
import * as statistics from "./statistics.js";
import { isUploading } from "./upload.js";
import * as vault from "./vault.js";

const VIEWS = ["backup", "history", "vault", "server", "log", "settings"];
let present = null;

function show(isFirst = false) {
  const [name, detail] = location.hash.slice(1).split("/");
  if (name === "main") return;
  const view = VIEWS.includes(name) ? name : "backup";
  for (const one of VIEWS) $(one).hidden = one !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = $(`${view}-title`);
  document.title = `${title.textContent} · CyberBackup`;
  if (!isFirst && view !== present) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
  present = view;
  statistics.show(view === "server");
  log.show(view === "log");
  if (view === "history") history.show(detail);
  if (view === "settings") settings.show();
}

/** The line to the bridge: what is wrong with it stands above everything. */
function drawLine({ open, answers }) {
  const box = $("lost");
  box.hidden = open;
  if (open) return box.replaceChildren();
  const text = answers ? "The live line to this program was lost. The page asks every 2 seconds until it is back."
    : "The program behind this page does not answer. Is “cyberbackup gui” still running? The page goes on trying.";
  if (box.dataset.text === text && box.firstChild) return undefined;
  box.dataset.text = text;
  box.replaceChildren(h("span", {}, text), h("button", { type: "button", onclick: live.connect }, "Try now"));
  return undefined;
}

addEventListener("hashchange", () => show());
addEventListener("beforeunload", (event) => {
  if (isUploading()) event.preventDefault();
});

settings.applyLast();
job.setUp();
source.setUp(job.watch);
history.setUp();
vault.setUp();
log.setUp();
live.on("line", drawLine);
live.on("connected", () => {
  if (present === "server") statistics.show(true);
  if (present === "history") history.show();
});
show(true);
live.connect();
let auto = false;
try {
  auto = (await settings.read()).auto_connect;
} catch (error) {
  announce(error.message);
}
await connection.setUp(auto);
setText($("announce"), "");
