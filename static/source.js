// What to back up: files of this browser, or folders of the host.

import { post } from "./api.js";
import { $, announce, h, set, setText, tabs, toast } from "./dom.js";
import { bytes, number, plural } from "./format.js";
import { HostBrowser } from "./hosts.js";
import { on } from "./live.js";
import { FILES_MAX, fromDrop, fromInput, merge } from "./pick.js";
import { Rows } from "./rows.js";
import { begin } from "./upload.js";
import { exists } from "./vault.js";

let picked = [];
let where = "tab-browser";
const marked = new Set();
/** Whoever has a vault wants it used, until they say otherwise. */
let wish = true;
let rows;
let browser;
let started = () => {};

/** Sets the panel up; `done(job)` is told of what was begun. */
export function setUp(done) {
  started = done;
  tabs($("source-card").querySelector("[role=tablist]"), (id) => {
    where = id;
    if (id === "tab-host" && !browser.path) browser.go();
    drawStart();
  });
  for (const [button, input] of [["pick-files", "file-input"], ["pick-folder", "folder-input"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      add(fromInput($(input)), []);
      $(input).value = "";
    });
  }
  setUpDrop();
  setUpPicked();
  setUpHost();
  $("start-form").addEventListener("submit", start);
  $("into-vault").addEventListener("change", () => {
    wish = $("into-vault").checked;
    drawVault();
  });
  on("vault_changed", drawVault);
  drawStart();
}

function setUpDrop() {
  const drop = $("drop");
  // Anywhere on the page: a file that misses the field must not replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (document.querySelector("dialog[open]") || event.dataTransfer.items.length === 0) return;
    location.hash = "#backup";
    const { found, unreadable } = await fromDrop(event.dataTransfer, (count) => announce(`${count} files found so far`));
    add(found, unreadable);
  });
}

function setUpPicked() {
  rows = new Rows("Files to back up", (index) => {
    const file = picked[index];
    const remove = h("button", { type: "button", class: "quiet", "aria-label": `Leave out ${file.path}`, onclick: () => {
      picked.splice(index, 1);
      drawPicked();
      rows.box.focus();
    } }, "×");
    return h("div", {}, h("span", { class: "path", title: file.path }, file.path), h("span", { class: "muted figure" }, bytes(file.size)), remove);
  });
  drawPicked();
}

function add(found, unreadable) {
  if (unreadable.length) toast(`${plural(unreadable.length, "entry")} could not be read, beginning with ${unreadable[0]}`, "bad");
  if (found.length === 0 && !unreadable.length) {
    toast("There are no files in what was chosen. Empty folders are not backed up from a browser.", "bad");
  }
  picked = merge(picked, found);
  if (picked.length > FILES_MAX) {
    toast(`One upload takes at most ${number(FILES_MAX)} files: back up the folder itself, as a folder of this host.`, "bad");
    picked.length = FILES_MAX;
  }
  announce(`${plural(picked.length, "file")} to back up`);
  drawPicked();
}

function drawPicked() {
  const box = $("picked");
  rows.update(picked.length);
  if (picked.length === 0) {
    box.replaceChildren();
  } else {
    const all = picked.reduce((sum, file) => sum + file.size, 0);
    const clear = () => {
      picked = [];
      drawPicked();
      $("pick-files").focus();
    };
    const head = h("div", { class: "row between" }, h("strong", {}, `${plural(picked.length, "file")}, ${bytes(all)}`),
      h("button", { type: "button", class: "quiet", onclick: clear }, "Clear the list"));
    if (box.contains(rows.box)) box.firstElementChild.replaceWith(head);
    else box.replaceChildren(head, rows.box);
  }
  drawStart();
}

function setUpHost() {
  const summary = h("p", { class: "muted", role: "status" }, "Nothing is chosen yet.");
  browser = new HostBrowser({ mark: (entry) => {
    const box = h("input", { type: "checkbox", "aria-label": `Back up ${entry.path}`, checked: marked.has(entry.path) });
    box.addEventListener("change", () => {
      if (box.checked) marked.add(entry.path);
      else marked.delete(entry.path);
      drawMarked(summary);
    });
    return box;
  } });
  $("from-host").append(h("p", { class: "muted" }, "Folders and files of the machine that this program runs on. Later backups send only what changed."),
    browser.box, summary);
}

function drawMarked(summary) {
  const all = [...marked];
  const remove = (path) => () => {
    marked.delete(path);
    for (const box of browser.box.querySelectorAll("input")) if (box.getAttribute("aria-label") === `Back up ${path}`) box.checked = false;
    drawMarked(summary);
  };
  if (all.length === 0) summary.replaceChildren("Nothing is chosen yet.");
  else {
    summary.replaceChildren(...all.slice(0, 20).map((path) => h("span", { class: "chip" }, h("span", {}, path),
      h("button", { type: "button", class: "quiet", "aria-label": `Leave out ${path}`, onclick: remove(path) }, "×"))),
    all.length > 20 ? ` and ${number(all.length - 20)} more` : "");
  }
  drawStart();
}

/** Where there is no vault, `transfer.info` says what is wanted. */
const intoVault = () => (exists() ? wish : undefined);

/** Where there is a vault: whether the backup goes into it. */
function drawVault() {
  $("vault-choice").hidden = !exists();
  set($("into-vault"), { checked: wish });
  setText($("into-vault-note"), wish ? "Encrypted here with the vault’s key: the server cannot read it." : "Not into the vault: the server can read it.");
}

function drawStart() {
  const count = where === "tab-browser" ? picked.length : marked.size;
  set($("start"), { disabled: count === 0 });
  setText($("start-error"), "");
}

async function start(event) {
  event.preventDefault();
  const label = $("label").value.trim();
  set($("start"), { disabled: true });
  try {
    if (where === "tab-browser") {
      const job = await begin(picked, label, intoVault());
      picked = [];
      drawPicked();
      started(job);
    } else {
      const { job } = await post("/api/jobs", { paths: [...marked], label, vault: intoVault() });
      started(job);
    }
    drawStart();
  } catch (error) {
    drawStart();
    setText($("start-error"), error.message);
  }
}

