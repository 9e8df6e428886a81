// A list that may be very long: only the rows that are seen exist.

import { h } from "./dom.js";

const ROW_PIXELS = 40;
const BEYOND = 8;

/** A scrolling list. `draw(index)` gives the element of a row. */
export class Rows {
  constructor(label, draw) {
    this.draw = draw;
    this.count = 0;
    this.from = this.to = -1;
    this.inner = h("div", { class: "rows-inner", role: "list", "aria-label": label });
    this.box = h("div", { class: "rows", tabindex: "0", role: "group", "aria-label": `${label}, scrolling` }, this.inner);
    this.box.addEventListener("scroll", () => this.show(), { passive: true });
    new ResizeObserver(() => this.show()).observe(this.box);
  }

  /** There are so many rows now; what they show may have changed. */
  update(count) {
    this.count = count;
    this.inner.style.height = `${count * ROW_PIXELS}px`;
    this.inner.setAttribute("role", count ? "list" : "presentation");
    this.show(true);
  }

  /** Scrolls until a row is seen. */
  reveal(index) {
    const top = index * ROW_PIXELS;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop || top + ROW_PIXELS > scrollTop + clientHeight) this.box.scrollTop = top - clientHeight / 2;
  }

  show(anew = false) {
    const from = Math.max(0, Math.floor(this.box.scrollTop / ROW_PIXELS) - BEYOND);
    const to = Math.min(this.count, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW_PIXELS) + BEYOND);
    if (!anew && from === this.from && to === this.to) return;
    [this.from, this.to] = [from, to];
    const rows = [];
    for (let index = from; index < to; index += 1) {
      const row = this.draw(index);
      row.classList.add("row-item");
      row.style.transform = `translateY(${index * ROW_PIXELS}px)`;
      row.setAttribute("role", "listitem");
      row.setAttribute("aria-setsize", this.count);
      row.setAttribute("aria-posinset", index + 1);
      rows.push(row);
    }
    this.inner.replaceChildren(...rows);
  }
}
