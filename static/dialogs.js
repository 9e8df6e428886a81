// Questions. The dialogs are the browser's own: they hold the focus and give it back.

import { h, set } from "./dom.js";

let numbers = 0;

/** Opens a dialog with these contents; resolves with what `close` is called with, or null. */
export function open(title, build, options = {}) {
  return new Promise((resolve) => {
    const id = `dialog-${(numbers += 1)}`;
    const dialog = h("dialog", { "aria-labelledby": id, class: options.wide ? "wide" : "" });
    let result = null;
    const close = (value = null) => {
      result = value;
      dialog.close();
    };
    dialog.append(h("h2", { id }, title), ...build(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks; resolves with true only if that is confirmed. */
export function confirm(title, text, yes, options = {}) {
  return open(title, (close) => [
    ...[text].flat().map((part) => (typeof part === "string" ? h("p", {}, part) : part)),
    h("div", { class: "row end" },
      set(h("button", { type: "button", onclick: () => close(false) }, options.no ?? "Back"), { autofocus: true }),
      h("button", { type: "button", class: options.kind ?? "primary", onclick: () => close(true) }, yes)),
  ]).then((answer) => answer === true);
}
