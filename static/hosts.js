// Browsing the files of the host that the bridge runs on.

import { get, query } from "./api.js";
import { $, empty, failed, h, loading } from "./dom.js";
import { bytes, number } from "./format.js";
import { open } from "./dialogs.js";

/** How many entries of a folder are shown at once. */
const SHOWN = 500;

/** A browser of folders. `mark(entry)` may give a control for each entry; `moved(path)` is told where it is. */
export class HostBrowser {
  constructor(options) {
    this.options = options;
    this.where = h("nav", { class: "crumbs", "aria-label": "Folder" });
    this.list = h("div", { class: "entries" });
    this.box = h("div", { class: "host-browser" }, this.where, this.list);
  }

  async go(path, focus = false) {
    this.list.replaceChildren(loading("Reading the folder…"));
    try {
      const folder = await get(query("/api/browse", { path }));
      this.path = folder.path;
      this.options.moved?.(folder.path);
      this.draw(folder, SHOWN);
      if (focus) this.list.querySelector("button")?.focus();
    } catch (error) {
      this.list.replaceChildren(failed(error, () => this.go(this.path)));
    }
  }

  draw(folder, shown) {
    this.crumbs(folder.path);
    const rows = folder.entries.filter((entry) => !this.options.foldersOnly || entry.kind === "folder");
    if (rows.length === 0) {
      this.list.replaceChildren(empty("Nothing here", "This folder has no entries to show."));
      return;
    }
    const list = h("ul", { class: "plain", "aria-label": `Entries of ${folder.path}` });
    list.append(...rows.slice(0, shown).map((entry) => this.row(entry)));
    this.list.replaceChildren(list);
    if (rows.length > shown || folder.truncated) {
      const more = rows.length - shown;
      const text = folder.truncated ? "This folder has more entries than are listed." : `and ${number(more)} more`;
      this.list.append(more > 0
        ? h("button", { type: "button", class: "quiet", onclick: () => this.draw(folder, shown + 5 * SHOWN) }, `Show more (${text})`)
        : h("p", { class: "muted" }, text));
    }
  }

  row(entry) {
    const name = entry.kind === "folder"
      ? h("button", { type: "button", class: "entry-name folder", onclick: () => this.go(entry.path, true) }, entry.name)
      : h("span", { class: `entry-name ${entry.kind}` }, entry.name);
    return h("li", {}, this.options.mark?.(entry), name,
      h("span", { class: "muted figure" }, entry.kind === "file" ? bytes(entry.size) : ""));
  }

  crumbs(path) {
    const parts = path.split("/").filter(Boolean);
    const step = (name, to) => h("button", { type: "button", class: "crumb", onclick: () => this.go(to) }, name);
    this.where.replaceChildren(step("/", "/"), ...parts.map((name, index) => step(name, `/${parts.slice(0, index + 1).join("/")}`)));
  }
}

/** Asks for a folder of this host; resolves with its path or null. */
export function chooseFolder(title, text, yes) {
  return open(title, (close) => {
    const path = h("input", { id: "folder-path", required: true, autocomplete: "off", spellcheck: "false", placeholder: "/home/…" });
    const browser = new HostBrowser({ foldersOnly: true, moved: (where) => { path.value = where; } });
    browser.go();
    const done = (event) => {
      event.preventDefault();
      if (path.value.startsWith("/")) return close(path.value);
      $("folder-problem").textContent = "Name the folder from its root on: /home/…";
    };
    return [h("p", { class: "muted" }, text), browser.box, h("form", { onsubmit: done },
      h("label", { class: "field" }, h("span", {}, "Folder"), path, h("small", { class: "muted" }, "It is made if it is missing.")),
      h("p", { class: "problem", id: "folder-problem", role: "alert" }),
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Back"),
        h("button", { type: "submit", class: "primary" }, yes)))];
  }, { wide: true });
}
