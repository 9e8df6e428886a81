// Elements made from data. Text is only ever set as text: a file may be called "<img src=x>".

/** Makes an element: `h("p", {class: "muted", onclick: f}, "text", child)`. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes an element of SVG. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  element.append(...children);
  return element;
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
    else if (value === false || value === null || value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Changes a text only where it differs, so that screen readers are told of changes alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let said = "";
/** Tells screen readers. */
export function announce(text) {
  if (text !== said) $("announce").textContent = text;
  said = text;
}

/** A short message at the edge of the page. */
export function toast(text, kind = "good") {
  const box = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  const remove = () => box.remove();
  box.append(h("button", { type: "button", class: "quiet", "aria-label": "Close this message", onclick: remove }, "×"));
  $("toasts").append(box);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(remove, kind === "bad" ? 15000 : 6000);
}

/** What stands where there is nothing yet. */
export function empty(title, text, ...more) {
  return h("div", { class: "empty" }, h("p", {}, h("strong", {}, title)), h("p", { class: "muted" }, text), ...more);
}

/** What stands where something failed, with a way to try again. */
export function failed(error, again) {
  const button = again && h("button", { type: "button", onclick: again }, "Try again");
  return h("div", { class: "empty bad", role: "alert" }, h("p", {}, h("strong", {}, "This did not work")),
    h("p", {}, String(error.message ?? error)), button);
}

export function loading(text = "Loading…") {
  return h("p", { class: "loading", role: "status" }, h("span", { class: "spinner", "aria-hidden": "true" }), text);
}

/** A labelled field. */
export function field(label, input, hint) {
  return h("label", { class: "field" }, h("span", {}, label), input, hint && h("small", { class: "muted" }, hint));
}

/** The roving of arrow keys in a list of tabs. */
export function tabs(list, show) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab, focus) => {
    for (const one of all) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
      $(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
    if (focus) tab.focus();
    show(tab.id);
  };
  for (const [index, tab] of all.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(all[(index + step + all.length) % all.length], true);
    });
  }
  return (id) => choose($(id));
}
