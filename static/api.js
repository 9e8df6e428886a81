// The bridge's API. A failure is an Error with the bridge's text and, in `data`, its whole answer.

/** How long an answer may take, in milliseconds. */
const ANSWER_TIMEOUT = 90000;

async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_TIMEOUT),
    });
  } catch {
    throw new Error("The program behind this page does not answer. Is “cyberbackup gui” still running?");
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok || data.success === false) {
    const error = new Error(data.error ?? `The answer was ${answer.status}.`);
    error.status = answer.status;
    error.data = data;
    throw error;
  }
  return data;
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}) => call("POST", path, body);

/** A query with its values encoded; those that are missing are left out. */
export function query(path, values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  return text ? `${path}?${text}` : path;
}

/** A path of a snapshot, exactly: from its bytes where it is no UTF-8. */
export function exactPath(entry) {
  if (!entry.path_base64) return encodeURIComponent(entry.path);
  const exact = Uint8Array.from(atob(entry.path_base64), (letter) => letter.charCodeAt(0));
  return Array.from(exact, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
}

/** Sends a file as it is. `progress` is told the bytes sent; `abort()` of what is returned ends it. */
export function put(path, file, progress) {
  const request = new XMLHttpRequest();
  const answer = new Promise((resolve, reject) => {
    const parse = () => {
      try {
        return JSON.parse(request.responseText);
      } catch {
        return {};
      }
    };
    request.onload = () => {
      const data = parse();
      if (request.status === 200) return resolve(data);
      reject(Object.assign(new Error(data.error ?? `The answer was ${request.status}.`), { status: request.status }));
    };
    request.onerror = () => reject(new Error("The file could not be read, or the connection was lost."));
    request.onabort = () => reject(Object.assign(new Error("stopped"), { aborted: true }));
  });
  request.upload.onprogress = (event) => progress(event.loaded);
  request.open("PUT", path);
  request.send(file);
  return { answer, abort: () => request.abort() };
}
