// The operator's page: asks /api/overview every two seconds and shows what it says. Everything that comes from a client
// or its peer is set as text.

import { bytes, duration, number, plural, rate as perSecond } from "/static/format.js";

const ASK_EVERY_MS = 2000;
const ASK_TIMEOUT_MS = 10000;
const ROWS_MAX = 500;
const STALE_SECONDS = 36 * 3600;
const PHASES = {
  idle: "idle", comparing: "comparing", receiving: "receiving", committing: "committing",
  listing: "listing", sending: "sending", verifying: "verifying",
};

const $ = (id) => document.getElementById(id);
let latest = null;
let sort = { by: "name", down: false };

// ---- figures as people read them ----

const rate = (count) => (count > 0 ? perSecond(count) : "–");

function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

// ---- elements ----

/** Changes a text only where it differs, so that nothing flickers and no screen reader speaks for nothing. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes a table's rows say `rows`, each a list of cells `{text, kind, title}`; the first cell heads its row. */
function fill(table, rows) {
  const body = table.tBodies[0];
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const ends = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("end"));
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) {
    const row = body.insertRow();
    labels.forEach((label, index) => {
      const cell = document.createElement(index === 0 ? "th" : "td");
      if (index === 0) cell.scope = "row";
      cell.dataset.label = label;
      row.append(cell);
    });
  }
  rows.forEach((cells, index) => {
    cells.forEach(({ text, kind, title }, place) => {
      const cell = body.rows[index].cells[place];
      setText(cell, text);
      cell.className = [ends[place] ? "end" : "", kind ?? ""].join(" ").trim();
      if (title) cell.title = title;
      else cell.removeAttribute("title");
    });
  });
}

function show(name, rows, emptyText) {
  const [table, empty] = [$(name), $(`${name}-empty`)];
  table.hidden = rows.length === 0;
  empty.hidden = rows.length > 0;
  if (emptyText) setText(empty, emptyText);
  fill(table, rows);
}

const cell = (text, kind, title) => ({ text, kind, title });

// ---- parts ----

function showFigures({ stats, disk, sessions, timestamp }) {
  setText($("slots"), `${number(stats.active_connections)} of ${number(stats.max_connections)}`);
  $("slots-bar").value = stats.active_connections / Math.max(1, stats.max_connections);
  setText($("slots-more"), `${number(stats.available_slots)} free, ${number(stats.waiting_connections)} waiting to prove themselves`);
  const total = (field) => sessions.reduce((sum, session) => sum + session[field], 0);
  setText($("rate-in"), perSecond(total("receive_rate")));
  setText($("rate-out"), `going out: ${perSecond(total("send_rate"))}`);
  if (disk.error) {
    setText($("disk"), "unknown");
    setText($("disk-more"), disk.error);
  } else {
    setText($("disk"), bytes(disk.available_bytes));
    $("disk-bar").value = 1 - disk.available_bytes / Math.max(1, disk.total_bytes);
    setText($("disk-more"), `left of ${bytes(disk.total_bytes)}${disk.low ? ": less than --low-space wants" : ""}`);
  }
  setText($("uptime"), duration(stats.uptime_seconds));
  setText($("since"), moment(Date.parse(timestamp) / 1000 - stats.uptime_seconds));
  setText($("stored"), number(stats.snapshots));
  setText($("stored-more"), `${plural(stats.files_received, "file")}, ${bytes(stats.bytes_received)} received`);
  setText($("failed"), number(stats.failures));
  setText($("failed-more"), `${number(stats.busy_answers)} told to come later, ${plural(stats.segments_repeated, "segment")} repeated`);
}

function showSessions({ sessions }) {
  show("sessions", sessions.map((session) => [
    cell(session.legacy ? `${session.client} (legacy)` : session.client),
    cell(session.peer, "mono"),
    cell(PHASES[session.phase] ?? session.phase),
    cell(rate(session.receive_rate)), cell(rate(session.send_rate)),
    cell(bytes(session.bytes_received)), cell(bytes(session.bytes_sent)),
    cell(duration(session.age_seconds), "", `since ${session.began}`),
  ]));
}

function compare(left, right) {
  const [a, b] = [left[sort.by], right[sort.by]];
  const order = sort.by === "name" ? String(a).localeCompare(String(b)) : (a ?? -1) - (b ?? -1);
  return (sort.down ? -order : order) || String(left.name).localeCompare(String(right.name));
}

function clientCells(client, now) {
  if (client.error) {
    const nothing = Array.from({ length: 5 }, () => cell("–"));
    return [cell(client.name), cell(client.error, "bad"), ...nothing];
  }
  const last = client.last_success_seconds;
  const ago = last === null ? null : Math.max(0, now - last);
  const when = ago === null ? cell("never", "warn") : cell(`${duration(ago)} ago`, ago > STALE_SECONDS ? "warn" : "", moment(last));
  const damaged = client.damaged_snapshots > 0;
  const over = client.quota_bytes !== null && client.stored_bytes >= client.quota_bytes;
  return [
    cell(client.legacy ? `${client.name} (legacy)` : client.name),
    when,
    cell(damaged ? `${number(client.snapshots)}, ${number(client.damaged_snapshots)} damaged` : number(client.snapshots), damaged ? "bad" : ""),
    client.latest_bytes === null ? cell("sealed", "muted") : cell(bytes(client.latest_bytes), "", plural(client.latest_files, "file")),
    cell(bytes(client.stored_bytes)),
    cell(bytes(client.growth_bytes), "", `in ${client.growth_days} days`),
    client.quota_bytes === null ? cell("none", "muted") : cell(bytes(client.quota_bytes), over ? "bad" : ""),
  ];
}

function showClients({ clients, timestamp }) {
  const [wanted, now] = [$("search").value.trim().toLowerCase(), Date.parse(timestamp) / 1000];
  const found = clients.filter((client) => client.name.toLowerCase().includes(wanted)).sort(compare);
  const nobody = clients.length === 0 ? "No client has registered yet." : "No client has such a name.";
  show("clients", found.slice(0, ROWS_MAX).map((client) => clientCells(client, now)), nobody);
  const more = found.length > ROWS_MAX ? `The first ${number(ROWS_MAX)} are shown: search to find the others. ` : "";
  setText($("clients-more"), `${more}${plural(found.length, "client")}${wanted ? ` of ${number(clients.length)}` : ""}`);
  for (const button of document.querySelectorAll("[data-sort]")) {
    const head = button.closest("th");
    if (button.dataset.sort === sort.by) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function showFailures({ failures }) {
  show("failures", failures.map((failure) => [
    cell(moment(Date.parse(failure.time) / 1000)),
    cell(failure.client ?? "not proved"),
    cell(failure.peer, "mono"),
    cell(failure.count > 1 ? `${failure.text} (${number(failure.count)} times)` : failure.text),
  ]));
}

function showState(state, text) {
  $("state").dataset.state = state;
  setText($("state-text"), text);
}

function showAll(data) {
  latest = data;
  setText($("place"), `${data.address} · ${data.data} · key ${data.fingerprint}`);
  setText($("program"), data.program);
  const low = data.disk.low || data.disk.error;
  showState(low ? "warn" : "good", low ? "The disk wants attention" : "Running");
  showFigures(data);
  showSessions(data);
  showClients(data);
  showFailures(data);
}

// ---- asking ----

async function ask() {
  try {
    const answer = await fetch("/api/overview", { cache: "no-store", signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    showAll(data);
  } catch (error) {
    const old = latest ? `; what is shown is from ${new Date(latest.timestamp).toLocaleTimeString("en-GB")}` : "";
    const gone = error instanceof TypeError || error.name === "TimeoutError";
    showState("bad", (gone ? "The server does not answer" : error.message) + old);
  }
  setTimeout(ask, ASK_EVERY_MS);
}

$("search").addEventListener("input", () => latest && showClients(latest));
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const by = button.dataset.sort;
    sort = { by, down: sort.by === by ? !sort.down : by !== "name" };
    if (latest) showClients(latest);
  });
}
ask();
