// A tree of folders, opened as they are looked into. Keys as of the ARIA tree pattern.

import { failed, h } from "./dom.js";
import { number } from "./format.js";

/** How many entries of a folder are shown at once. */
const SHOWN = 500;
/** Letters typed within so many milliseconds are one beginning of a name. */
const TYPING = 600;

export class Tree {
  /** `source`: children(entry or null), select(entry), note(entry). */
  constructor(label, source) {
    this.source = source;
    this.typed = { text: "", at: 0 };
    this.box = h("ul", { class: "tree", role: "tree", "aria-label": label });
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  async open() {
    this.box.setAttribute("aria-busy", "true");
    await this.fill(this.box, null, 1);
    this.box.removeAttribute("aria-busy");
    const first = this.items()[0];
    if (first) first.tabIndex = 0;
    // With a single folder at the top there is nothing to choose yet.
    const tops = this.box.children;
    if (tops.length === 1 && tops[0].getAttribute("aria-expanded") === "false") await this.toggle(tops[0], true);
  }

  async fill(list, entry, level) {
    const busy = h("li", { class: "tree-note", role: "treeitem", "aria-level": level, "aria-disabled": "true", tabindex: "-1" }, "Loading…");
    list.replaceChildren(busy);
    try {
      const { entries, truncated } = await this.source.children(entry);
      // Who went on to the note while it loaded stays in this folder.
      const isInside = busy === document.activeElement;
      list.replaceChildren();
      this.add(list, entries, level, truncated);
      if (isInside) this.focus(list.querySelector("[role=treeitem]"));
    } catch (error) {
      list.replaceChildren(h("li", { role: "none" }, failed(error, () => this.fill(list, entry, level))));
    }
  }

  add(list, entries, level, truncated) {
    list.append(...entries.slice(0, SHOWN).map((entry) => this.item(entry, level)));
    const rest = entries.slice(SHOWN);
    const note = (text, more) => {
      const item = h("li", { class: "tree-note", role: "treeitem", "aria-level": level, tabindex: "-1", onclick: more }, text);
      item.more = more;
      list.append(item);
    };
    if (rest.length) {
      note(`and ${number(rest.length)} more: show them`, (event) => {
        event?.stopPropagation();
        list.lastElementChild.remove();
        const at = list.children.length;
        this.add(list, rest, level, truncated);
        this.focus(list.children[at]);
      });
    } else if (truncated) note("This folder has more entries than are listed: search for them.");
    else if (entries.length === 0) note("This folder is empty.");
  }

  item(entry, level) {
    const isFolder = entry.kind === "folder";
    const row = h("div", { class: "tree-row" }, h("span", { class: "twist", "aria-hidden": "true" }), h("span", { class: `entry-name ${entry.kind}` }, entry.name),
      h("span", { class: "muted figure" }, this.source.note(entry)));
    const item = h("li", { role: "treeitem", "aria-level": level, "aria-selected": "false", tabindex: "-1", "aria-expanded": isFolder ? "false" : false }, row);
    item.entry = entry;
    row.style.paddingInlineStart = `${(level - 1) * 18 + 6}px`;
    row.addEventListener("click", () => {
      this.choose(item);
      if (isFolder) this.toggle(item);
    });
    return item;
  }

  async toggle(item, isOpen = item.getAttribute("aria-expanded") === "false") {
    item.setAttribute("aria-expanded", String(isOpen));
    const old = item.querySelector(":scope > ul");
    if (!isOpen || old) {
      if (old) old.hidden = !isOpen;
      return;
    }
    const list = h("ul", { role: "group" });
    item.append(list);
    await this.fill(list, item.entry, Number(item.getAttribute("aria-level")) + 1);
  }

  choose(item) {
    this.box.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    item.setAttribute("aria-selected", "true");
    this.focus(item);
    this.source.select(item.entry);
  }

  items() {
    return [...this.box.querySelectorAll("[role=treeitem]")].filter((item) => !item.closest("ul[hidden]"));
  }

  focus(item) {
    if (!item) return;
    for (const other of this.box.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
  }

  key(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const items = this.items();
    const at = items.indexOf(item);
    const expanded = item.getAttribute("aria-expanded");
    const actions = {
      ArrowDown: () => this.focus(items[at + 1]),
      ArrowUp: () => this.focus(items[at - 1]),
      Home: () => this.focus(items[0]),
      End: () => this.focus(items.at(-1)),
      ArrowRight: () => (expanded === "false" ? this.toggle(item) : expanded === "true" && this.focus(item.querySelector("[role=treeitem]"))),
      ArrowLeft: () => (expanded === "true" ? this.toggle(item, false) : this.focus(item.parentElement.closest("[role=treeitem]"))),
      Enter: () => (item.more ? item.more() : item.entry && this.choose(item)),
      " ": () => (item.more ? item.more() : item.entry && this.choose(item)),
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    } else if (event.key.length === 1) {
      this.focus(this.beginning(event, items, at));
    }
  }

  /** The next item whose name begins with what is typed; with more than a letter the present one may stay. */
  beginning({ key, timeStamp }, items, at) {
    const isMore = timeStamp - this.typed.at < TYPING;
    this.typed = { text: (isMore ? this.typed.text : "") + key.toLowerCase(), at: timeStamp };
    const from = this.typed.text.length > 1 ? at : at + 1;
    const order = [...items.slice(from), ...items.slice(0, from)];
    return order.find((one) => one.entry?.name.toLowerCase().startsWith(this.typed.text));
  }
}
