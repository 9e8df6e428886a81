// The job that is watched: how far it is, what it does, and what can be done with it; and the list of all jobs.

import { get, post } from "./api.js";
import { Gauge, RateChart } from "./chart.js";
import { confirm, open } from "./dialogs.js";
import { $, announce, empty, h, setText, toast } from "./dom.js";
import { bytes, clock, duration, number, plural, rate } from "./format.js";
import { on, tell } from "./live.js";
import { fromInput, merge } from "./pick.js";
import { Rows } from "./rows.js";
import { again, uploadOf } from "./upload.js";

/** Files of a job that are remembered here: of more, the newest. */
const FILES_MAX = 5000;
const KINDS = { backup: "Backup of this host", upload: "Browser upload", restore: "Restore" };
const WORDS = { CONNECT: "connecting", BACKUP_IN_PROGRESS: "backing up", CLEANUP: "finishing", COMPLETED: "completed", READY: "connecting" };
const ENDED = ["completed", "failed", "cancelled"];

let jobs = [];
let chosen = null;
let shownId = null;
let announced = "";
/** What was told of the files of a job, by job. */
const told = new Map();
const parts = {};

export function setUp() {
  build();
  on("status", (status) => status.job_id && note(status));
  on("progress_update", note);
  on("jobs", (list) => { jobs = list; draw(); });
  on("jobs_changed", refresh);
  on("file_receipt", (data) => noteFile(data, "sent"));
  on("file_error", (data) => noteFile(data, "failed"));
  on("upload_moves", (upload) => upload.id === shownId && drawFiles());
  on("upload_problem", ({ message }) => toast(message, "bad"));
  on("progress_config", (config) => parts.gauge.configure(config));
  on("line", ({ open: isOpen }) => isOpen && refresh());
}

/** Shows this job from now on. */
export function watch(job) {
  chosen = job.job_id;
  merged(job);
  draw();
  if (innerWidth < 900) $("job-card").scrollIntoView({ block: "start" });
  refresh();
}

export async function refresh() {
  try {
    const list = (await get("/api/jobs")).jobs;
    jobs = list.map((job) => newer(jobs.find((old) => old.job_id === job.job_id), job));
    draw();
  } catch {
    // Said where the line is shown.
  }
}

/** An answer can be overtaken by what the bridge tells: a job never goes back. */
function newer(old, job) {
  return old && old.progress.percentage > job.progress.percentage ? { ...job, ...old } : { ...old, ...job };
}

function merged(status) {
  const index = jobs.findIndex((job) => job.job_id === status.job_id);
  if (index < 0) jobs.unshift(status);
  else jobs[index] = newer(jobs[index], status);
  return index >= 0;
}

function note(status) {
  const old = jobs.find((job) => job.job_id === status.job_id);
  const isNew = !merged(status);
  if (isNew || old.state !== status.state) refresh();
  if (status.job_id === current()?.job_id) parts.chart.add(status.state === "running" ? status.progress.rate : 0);
  draw();
}

function noteFile(data, state) {
  if (!told.has(data.job_id)) told.set(data.job_id, []);
  const files = told.get(data.job_id);
  files.push({ path: data.path, size: data.bytes, state, reason: data.reason });
  if (files.length > FILES_MAX) files.shift();
  while (told.size > 20) told.delete(told.keys().next().value);
  if (data.job_id === shownId) drawFiles();
}

/** The one to show: that which was chosen, else one that is under way, else the newest. */
function current() {
  return jobs.find((job) => job.job_id === chosen) ?? jobs.find((job) => job.state === "running")
    ?? jobs.find((job) => !ENDED.includes(job.state)) ?? jobs[0];
}

function build() {
  parts.gauge = new Gauge("Progress of the job");
  parts.chart = new RateChart();
  parts.title = h("h2", {}, "Progress");
  parts.state = h("span", { class: "badge" }, "");
  parts.now = h("p", { class: "now path" }, "");
  parts.figures = h("dl", { class: "figures" });
  parts.values = Object.fromEntries(["Data", "Files", "Rate", "Elapsed", "Left"].map((name) => {
    const value = h("dd", {}, "–");
    parts.figures.append(h("div", {}, h("dt", {}, name), value));
    return [name, value];
  }));
  const button = (text, action, kind = "") => h("button", { type: "button", class: kind, onclick: action }, text);
  parts.pause = button("Pause", () => steer("pause"));
  parts.resume = button("Resume", () => steer("resume"), "primary");
  parts.cancel = button("Cancel…", cancel, "danger");
  parts.history = button("Show it in the history", () => { location.hash = `#history/${current().snapshot ?? ""}`; }, "primary");
  parts.notes = h("div", { class: "notes" });
  parts.files = new Rows("Files of the job", drawFile);
  parts.filesTitle = h("h3", {}, "Files");
  parts.live = h("div", {}, h("div", { class: "gauge" }, parts.gauge.ring, h("div", { class: "gauge-side" }, parts.figures)),
    parts.gauge.bar, parts.now, parts.notes,
    h("div", { class: "row actions" }, parts.pause, parts.resume, parts.cancel, parts.history),
    parts.chart.box, parts.filesTitle, parts.files.box);
  parts.none = empty("No job yet", "Drop some files on the left, or choose folders of this host, and start. What happens then is shown here.");
  $("job-card").append(h("div", { class: "row between" }, parts.title, parts.state), parts.none, parts.live);
  draw();
}

function draw() {
  const job = current();
  parts.none.hidden = Boolean(job);
  parts.live.hidden = !job;
  parts.state.hidden = !job;
  drawJobs();
  if (!job) return;
  if (job.job_id !== shownId) {
    shownId = job.job_id;
    parts.chart.clear();
    drawFiles();
  }
  const { progress } = job;
  const word = job.state === "running" ? WORDS[job.phase] ?? job.phase : job.state;
  setText(parts.title, titleOf(job));
  setText(parts.state, word);
  parts.state.dataset.state = job.state;
  parts.gauge.show({ percentage: progress.percentage, word, state: job.state });
  setText(parts.now, nowOf(job));
  const total = progress.counted ? "" : " so far";
  setText(parts.values.Data, `${bytes(progress.bytes_transferred)} of ${bytes(progress.total_bytes)}${total}`);
  setText(parts.values.Files, `${number(progress.files_done)} of ${number(progress.files_total)}${total}`);
  setText(parts.values.Rate, job.state === "running" ? rate(progress.rate) : "–");
  setText(parts.values.Elapsed, duration(progress.elapsed_seconds));
  setText(parts.values.Left, job.state === "running" ? duration(progress.eta_seconds) : "–");
  drawActions(job);
  drawNotes(job);
  say(job, word);
}

function titleOf(job) {
  return `${KINDS[job.kind] ?? "Job"}${job.vault ? ", into the vault" : ""}`;
}

function nowOf(job) {
  if (job.state === "running") return job.progress.current_file || job.message;
  // Of what has ended well, a note says it.
  return job.state === "completed" && job.snapshot ? "" : job.error || job.message;
}

/** Changes of phase and state are told to screen readers, and nothing in between. */
function say(job, word) {
  const text = `${KINDS[job.kind] ?? "Job"}: ${word}`;
  const key = job.job_id + text;
  if (key === announced) return;
  announced = key;
  announce(text);
}

function drawActions(job) {
  const isLost = job.kind === "upload" && job.state === "paused" && !uploadOf(job.job_id);
  const focused = document.activeElement;
  parts.pause.hidden = !["running", "queued"].includes(job.state);
  parts.resume.hidden = job.state !== "paused";
  setText(parts.resume, isLost ? "Pick the files again…" : "Resume");
  parts.cancel.hidden = ENDED.includes(job.state);
  parts.history.hidden = job.state !== "completed" || job.kind === "restore";
  // What had the focus and is gone hands it on.
  if (focused?.hidden && parts.live.contains(focused)) {
    [parts.resume, parts.pause, parts.history].find((button) => !button.hidden)?.focus();
  }
}

function drawNotes(job) {
  const notes = [];
  const upload = job.upload;
  if (upload && !ENDED.includes(job.state) && !uploadOf(job.job_id)) {
    const first = upload.wanted_path ? `, beginning with “${upload.wanted_path}”` : "";
    notes.push(["warn", job.state === "paused"
      ? `This upload was cut off, as by a reload. A browser forgets the files then: pick the same ${plural(upload.files, "file")} again to go on${first}. What the server has already is not sent again.`
      : "This upload gets its files from another window or program."]);
  }
  if (job.error_count) {
    const [first] = job.errors ?? [];
    notes.push(["warn", `${plural(job.error_count, "file")} left out${first ? `: ${first.path}: ${first.reason}` : ""}${job.error_count > 1 ? " …" : ""}`]);
  }
  if (job.error && job.state === "failed") notes.push(["bad", job.error]);
  if (job.state === "completed" && job.snapshot) notes.push(["good", `Stored as snapshot ${job.snapshot}`]);
  const key = JSON.stringify(notes);
  if (parts.notes.dataset.key === key) return;
  parts.notes.dataset.key = key;
  parts.notes.replaceChildren(...notes.map(([kind, text]) => h("p", { class: `note ${kind}` }, text)));
}

const STATES = { waiting: "waiting", sending: "sending", sent: "sent", held: "at the server", failed: "left out" };

function fileList() {
  const upload = uploadOf(shownId);
  return upload ? upload.files : told.get(shownId) ?? [];
}

function drawFiles() {
  const upload = uploadOf(shownId);
  const files = fileList();
  parts.filesTitle.hidden = parts.files.box.hidden = files.length === 0;
  setText(parts.filesTitle, files.length >= FILES_MAX && !upload ? `Files (the last ${number(FILES_MAX)})` : "Files");
  if (upload?.current) upload.passed = passedBy(upload);
  parts.files.update(files.length);
  if (upload?.current && upload.current.index !== parts.revealed) {
    parts.revealed = upload.current.index;
    parts.files.reveal(parts.revealed);
  }
}

/** Files are wanted in the order of their paths: what comes before the present one is dealt with. */
function passedBy(upload) {
  return Math.max(upload.passed ?? 0, upload.current.index);
}

function drawFile(index) {
  const upload = uploadOf(shownId);
  const files = fileList();
  // What was told last stands first.
  const file = upload ? files[index] : files[files.length - 1 - index];
  const job = jobs.find((one) => one.job_id === shownId);
  const state = upload ? upload.state(index, job) : file.state;
  const sending = upload?.current?.index === index && file.size > 0;
  const word = sending ? `${Math.floor((100 * Math.min(upload.current.sent, file.size)) / file.size)} %` : STATES[state];
  const row = h("div", { "data-state": state }, h("span", { class: "path", title: file.reason ? `${file.path}: ${file.reason}` : file.path }, file.path),
    h("span", { class: "muted figure" }, file.size === undefined ? "" : bytes(file.size)), h("span", { class: "tag" }, word));
  if (sending) row.style.setProperty("--sent", `${(100 * upload.current.sent) / file.size}%`);
  return row;
}

function drawJobs() {
  $("jobs-card").hidden = jobs.length < 2;
  const shown = jobs.slice(0, 30);
  const key = JSON.stringify(shown.map((job) => [job.job_id, job.state, Math.floor(job.progress.percentage), job.job_id === current()?.job_id]));
  if ($("jobs").dataset.key === key) return;
  const focused = $("jobs").contains(document.activeElement) ? document.activeElement.dataset.job : null;
  $("jobs").dataset.key = key;
  $("jobs").replaceChildren(...shown.map((job) => h("li", {}, h("button", { type: "button", class: "job-row", "data-job": job.job_id,
    "aria-current": job.job_id === current()?.job_id ? "true" : false, onclick: () => watch(job) },
  h("span", { class: "job-name" }, h("span", {}, KINDS[job.kind] ?? "Job"), job.label && h("span", { class: "muted" }, job.label)),
  h("span", { class: "muted" }, job.created ? clock(job.created) : ""),
  h("span", { class: "muted figure" }, `${Math.floor(job.progress.percentage)} %`),
  h("span", { class: "badge", "data-state": job.state }, job.state)))));
  if (focused) $("jobs").querySelector(`[data-job="${focused}"]`)?.focus();
}

async function steer(action) {
  const job = current();
  if (action === "resume" && job.upload && !uploadOf(job.job_id)) return pickAgain(job);
  try {
    if (action !== "resume") uploadOf(job.job_id)?.stop();
    const answer = await post(`/api/jobs/${job.job_id}/${action}`);
    note(answer.job);
  } catch (error) {
    toast(error.message, "bad");
    refresh();
  }
}

async function cancel() {
  const job = current();
  const keeps = job.kind === "restore" ? "What was restored so far stays where it is."
    : "What has arrived at the server is kept for 24 hours: the same backup, begun again, sends only what is lacking.";
  if (await confirm("Cancel this job?", keeps, "Cancel the job", { kind: "danger solid", no: "Let it go on" })) steer("cancel");
}

/** Asks for the files of an upload again; goes on if they are the same. */
async function pickAgain(job) {
  const files = await open("Pick the files again", (close) => {
    let list = [];
    const found = h("p", { role: "status" }, "Nothing is picked yet.");
    const go = h("button", { type: "button", class: "primary", disabled: true, onclick: () => close(list) }, "Go on with the upload");
    const input = (text, attributes) => {
      const picker = h("input", { type: "file", multiple: true, class: "off", tabindex: "-1", "aria-hidden": "true", ...attributes });
      picker.addEventListener("change", () => {
        list = merge(list, fromInput(picker));
        const all = list.reduce((sum, file) => sum + file.size, 0);
        const fits = list.length === job.upload.files && (!job.progress.counted || all === job.progress.total_bytes);
        found.textContent = `${plural(list.length, "file")}, ${bytes(all)} picked: ${fits ? "these can be the same." : "not the same as before."}`;
        go.disabled = !fits;
      });
      return [h("button", { type: "button", onclick: () => picker.click() }, text), picker];
    };
    const first = job.upload.wanted_path ? ` “${job.upload.wanted_path}” comes next.` : "";
    return [
      h("p", {}, `The upload had ${plural(job.upload.files, "file")}, ${bytes(job.progress.total_bytes)}. Pick the same ones.${first}`),
      h("div", { class: "row" }, ...input("Choose files…", {}), ...input("Choose a folder…", { webkitdirectory: true })), found,
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Back"), go),
    ];
  });
  if (!files) return;
  try {
    await again(job.job_id, files);
    tell("jobs_changed");
  } catch (error) {
    toast(error.message, "bad");
  }
}
