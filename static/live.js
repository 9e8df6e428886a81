// What the bridge tells by itself: over the WebSocket, or asked for again and again while that is lost.

import { get } from "./api.js";

/** Pauses between tries to connect, in milliseconds. */
const RETRY_FIRST = 500;
const RETRY_MAX = 10000;
/** How often is asked while the socket is lost. */
const POLL_EVERY = 2000;
/** How often the socket is tried when it is silent. */
const PING_EVERY = 20000;

const listeners = new Map();
let socket = null;
let wait = RETRY_FIRST;
let retryTimer = 0;
let pollTimer = 0;
let heard = 0;

/** Calls `listener` with the data of every such event. */
export function on(event, listener) {
  if (!listeners.has(event)) listeners.set(event, []);
  listeners.get(event).push(listener);
}

/** Hands an event on, as if the bridge had told it. */
export function tell(event, data) {
  for (const listener of listeners.get(event) ?? []) listener(data);
}

export function isOpen() {
  return socket !== null && socket.readyState === WebSocket.OPEN;
}

/** Connects now, whatever the pause. */
export function connect() {
  clearTimeout(retryTimer);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws`);
  socket.onopen = () => {
    wait = RETRY_FIRST;
    heard = Date.now();
    clearInterval(pollTimer);
    pollTimer = 0;
    tell("line", { open: true, answers: true });
  };
  socket.onmessage = (message) => {
    heard = Date.now();
    const { event, data } = JSON.parse(message.data);
    tell(event, data);
  };
  socket.onclose = lost;
}

function lost() {
  socket = null;
  const pause = wait * (0.75 + Math.random() / 2);
  wait = Math.min(wait * 2, RETRY_MAX);
  retryTimer = setTimeout(connect, pause);
  if (!pollTimer) {
    poll();
    pollTimer = setInterval(poll, POLL_EVERY);
  }
}

async function poll() {
  try {
    const [status, jobs] = await Promise.all([get("/api/status"), get("/api/jobs")]);
    tell("line", { open: isOpen(), answers: true });
    tell("status", status);
    tell("jobs", jobs.jobs);
  } catch (error) {
    tell("line", { open: isOpen(), answers: false, error });
  }
}

setInterval(() => {
  if (!isOpen()) return;
  if (Date.now() - heard > 2 * PING_EVERY + 5000) socket.close();
  else socket.send(JSON.stringify({ event: "ping" }));
}, PING_EVERY);
