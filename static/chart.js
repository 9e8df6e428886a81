// The ring, the bar and the chart of the rate: SVG by hand.

import { h, set, setText, svg } from "./dom.js";
import { rate as rateText } from "./format.js";

const PHASES = ["CONNECT", "BACKUP_IN_PROGRESS", "CLEANUP"];
const RADIUS = 52;
const ROUND = 2 * Math.PI * RADIUS;
/** A gap between the arcs of two phases. */
const GAP = 3;
/** How much of the past the chart shows, in milliseconds. */
const SPAN = 60000;
const [WIDTH, HEIGHT] = [300, 72];

/** The shares of the phases, and their colours. */
function shares(config) {
  const phases = PHASES.map((name) => config?.phases?.[name] ?? { weight: 1, color: "#2196F3" });
  const all = phases.reduce((sum, { weight }) => sum + weight, 0) || 1;
  let from = 0;
  return phases.map(({ weight, color }) => {
    const share = { from, part: weight / all, color };
    from += share.part;
    return share;
  });
}

const filled = ({ from, part }, done) => (part ? Math.min(1, Math.max(0, (done - from) / part)) : 0);

/** A ring and a bar whose parts are the phases, each in its colour. */
export class Gauge {
  constructor(label) {
    this.percent = h("span", { class: "percent" }, "0 %");
    this.word = h("span", { class: "word" }, "");
    this.svg = svg("svg", { viewBox: "0 0 120 120", "aria-hidden": "true" });
    this.ring = h("div", { class: "ring" }, this.svg, h("div", { class: "ring-text" }, this.percent, this.word));
    this.bar = h("div", { class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": 0,
      "aria-valuemax": 100 });
    this.configure(null);
  }

  configure(config) {
    this.shares = shares(config);
    const arc = () => svg("circle", { cx: 60, cy: 60, r: RADIUS, class: "arc" });
    this.arcs = this.shares.map(() => [arc(), arc()]);
    this.svg.replaceChildren(...this.arcs.map(([track]) => set(track, { class: "arc track" })),
      ...this.arcs.map(([, fill]) => fill));
    this.fills = this.shares.map((share) => {
      const fill = h("i");
      const piece = h("span", {}, fill);
      piece.style.flexGrow = String(share.part);
      fill.style.background = share.color;
      return [piece, fill];
    });
    this.bar.replaceChildren(...this.fills.map(([piece]) => piece));
    this.show(this.shown ?? { percentage: 0, word: "", state: null });
  }

  show(shown) {
    this.shown = shown;
    const done = shown.percentage / 100;
    for (const [index, share] of this.shares.entries()) {
      const [track, fill] = this.arcs[index];
      const long = Math.max(0, share.part * ROUND - GAP);
      const at = `rotate(${-90 + share.from * 360} 60 60)`;
      const part = filled(share, done);
      set(track, { "stroke-dasharray": `${long} ${ROUND}`, transform: at });
      set(fill, { "stroke-dasharray": `${part * long} ${ROUND}`, transform: at, stroke: share.color,
        visibility: part > 0 ? "visible" : "hidden" });
      this.fills[index][1].style.width = `${part * 100}%`;
    }
    setText(this.percent, `${shown.percentage < 100 ? Math.floor(shown.percentage) : 100} %`);
    setText(this.word, shown.word);
    set(this.bar, { "aria-valuenow": Math.round(shown.percentage), "aria-valuetext": `${Math.round(shown.percentage)} percent, ${shown.word}` });
    this.ring.dataset.state = this.bar.dataset.state = shown.state ?? "";
  }
}

/** The rate of the last minute. */
export class RateChart {
  constructor() {
    this.samples = [];
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    const grid = [0.5, 1].map((part) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }));
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "Rate: nothing yet" },
      ...grid, this.area, this.line);
    this.top = h("span", { class: "muted" }, "");
    this.box = h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, "Rate, last minute"), this.top), this.svg);
  }

  clear() {
    this.samples = [];
    this.draw();
  }

  add(rate) {
    const now = Date.now();
    this.samples.push([now, rate]);
    while (this.samples.length > 2 && now - this.samples[1][0] > SPAN) this.samples.shift();
    this.draw();
  }

  draw() {
    this.box.hidden = this.samples.length < 2;
    const peak = Math.max(1, ...this.samples.map(([, rate]) => rate));
    const [first, last] = [this.samples[0]?.[0] ?? 0, this.samples.at(-1)?.[0] ?? 1];
    const span = Math.max(last - first, 1000);
    const points = this.samples.map(([at, rate]) =>
      `${(WIDTH * (1 - (last - at) / span)).toFixed(1)},${(HEIGHT - 2 - (HEIGHT - 8) * (rate / peak)).toFixed(1)}`);
    const path = points.length > 1 ? `M${points.join("L")}` : "";
    set(this.line, { d: path });
    set(this.area, { d: path && `${path}V${HEIGHT}H${points[0].split(",")[0]}Z` });
    setText(this.top, this.samples.length > 1 ? `peak ${rateText(peak)}` : "");
    set(this.svg, { "aria-label": this.samples.length ? `Rate: now ${rateText(this.samples.at(-1)[1])}, at most ${rateText(peak)}` : "Rate: nothing yet" });
  }
}
