// The configuration: transfer.info, server_gui_settings.json and progress_config.json.

import { get, post } from "./api.js";
import { $, failed, field, h, loading, set, setText, toast } from "./dom.js";
import { tell } from "./live.js";

const PHASES = [["CONNECT", "Connecting"], ["BACKUP_IN_PROGRESS", "Backing up"], ["CLEANUP", "Finishing"]];
const THEMES = [["auto", "Automatic"], ["light", "Light"], ["dark", "Dark"]];

let settings = null;

/** Reads the settings; the page looks as they say from then on. */
export async function read() {
  took(await get("/api/settings"));
  return settings.settings;
}

function took(answer) {
  settings = answer;
  apply(answer.settings.theme);
  tell("progress_config", answer.progress);
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  const [, text] = THEMES.find(([name]) => name === theme) ?? THEMES[0];
  $("theme-button").replaceChildren(h("span", {}, "Theme: "), h("span", {}, text));
  set($("theme-button"), { "aria-label": `Theme: ${text}` });
}

/** Before anything is read: as it was last time. */
export function applyLast() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
  $("theme-button").addEventListener("click", async () => {
    const at = THEMES.findIndex(([name]) => name === document.documentElement.dataset.theme);
    const [theme] = THEMES[(at + 1) % THEMES.length];
    apply(theme);
    try {
      took(await post("/api/settings", { settings: { theme } }));
    } catch (error) {
      toast(error.message, "bad");
    }
  });
}

export async function show() {
  const cards = $("settings-cards");
  if (!cards.firstChild) cards.replaceChildren(loading());
  try {
    const [answer, transfer] = await Promise.all([get("/api/settings"), get("/api/transfer_info")]);
    took(answer);
    cards.replaceChildren(transferCard(transfer), h("div", { class: "stack" }, pageCard(answer), phasesCard(answer)));
  } catch (error) {
    cards.replaceChildren(failed(error, show));
  }
}

/** A card with a form; `gather` gives what is posted. */
function card(title, where, text, fields, path, gather) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, "Save");
  const submit = async (event) => {
    event.preventDefault();
    setText(problem, "");
    button.disabled = true;
    try {
      const answer = await post(path, gather());
      if (answer.settings) took(answer);
      toast(`${title}: saved`);
    } catch (error) {
      setText(problem, error.message);
    }
    button.disabled = false;
    button.focus();
  };
  return h("form", { class: "card", onsubmit: submit }, h("h2", {}, title), h("p", { class: "muted" }, text), ...fields,
    h("p", { class: "muted mono small path" }, where), problem, h("div", { class: "row" }, button));
}

function transferCard(info) {
  const server = h("input", { id: "set-server", value: info.server, required: true, pattern: "\\S+:[0-9]{1,5}", title: "HOST:PORT", autocomplete: "off", spellcheck: "false" });
  const user = h("input", { id: "set-user", value: info.user, required: true, autocomplete: "off", spellcheck: "false" });
  const vault = h("input", { type: "checkbox", id: "set-vault", checked: info.vault });
  const paths = h("textarea", { id: "set-paths", rows: 4, value: (info.paths ?? []).join("\n"), spellcheck: "false" });
  const fields = [field("Server", server, "HOST:PORT, the first line of the file"), field("Name", user, "the second line"),
    h("label", { class: "check" }, vault, "Back up into the vault, which the server cannot read"),
    field("Paths", paths, "one a line: what “cyberbackup backup” backs up when it is told nothing else")];
  return card("Backups", info.file, "What programs use that are told nothing else, from their next start on.", fields, "/api/transfer_info",
    () => ({ server: server.value.trim(), user: user.value.trim(), vault: vault.checked, paths: paths.value.split("\n").map((line) => line.trim()).filter(Boolean) }));
}

function pageCard({ settings: values, files }) {
  const theme = h("select", { id: "set-theme" }, THEMES.map(([value, text]) => h("option", { value, selected: value === values.theme }, text)));
  const auto = h("input", { type: "checkbox", id: "set-auto", checked: values.auto_connect });
  const interval = h("input", { type: "number", id: "set-interval", min: 100, max: 10000, step: 50, required: true, value: values.progress_interval });
  const fields = [field("Theme", theme), h("label", { class: "check" }, auto, "Connect when the page is opened"),
    field("Progress every … milliseconds", interval, "100 to 10,000")];
  return card("Page", files.settings, "How this page looks and behaves.", fields, "/api/settings",
    () => ({ settings: { theme: theme.value, auto_connect: auto.checked, progress_interval: Number(interval.value) } }));
}

function phasesCard({ progress, files }) {
  const rows = PHASES.map(([name, title]) => {
    const { color, weight } = progress.phases[name];
    return { name, title, color: h("input", { type: "color", value: color.toLowerCase(), "aria-label": `Colour of ${title}` }),
      weight: h("input", { type: "number", min: 0, max: 1000, step: "any", required: true, value: weight, "aria-label": `Weight of ${title}` }) };
  });
  const table = h("table", { class: "phases" }, h("thead", {}, h("tr", {}, ["Phase", "Colour", "Weight"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.title), h("td", {}, row.color), h("td", {}, row.weight)))));
  return card("Phases", files.progress, "Colours of the ring and the bar, and how much of them each phase takes, from the next job on.", [table], "/api/settings",
    () => ({ progress: { phases: Object.fromEntries(rows.map((row) => [row.name, { color: row.color.value.toUpperCase(), weight: Number(row.weight.value) }])) } }));
}
