// Files out of a drop or a file dialog, as a list of {path, size, mtime, file}.

/** As many as the bridge takes in one job. */
export const FILES_MAX = 50000;

const named = (path, file) => ({ path: path.replace(/^\/+/, ""), size: file.size, mtime: file.lastModified, file });

/** What a file dialog gave. */
export function fromInput(input) {
  return [...input.files].map((file) => named(file.webkitRelativePath || file.name, file));
}

/** What was dropped, folders walked through. Entries must be taken before the first wait. */
export async function fromDrop(transfer, progress) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry());
  const whole = [...transfer.files];
  const found = [];
  const unreadable = [];
  // A list of what is to do, not recursion: folders may be deep.
  const left = entries.filter(Boolean).reverse();
  if (left.length === 0) return { found: whole.map((file) => named(file.name, file)), unreadable };
  while (left.length && found.length <= FILES_MAX) {
    const entry = left.pop();
    try {
      if (entry.isFile) {
        found.push(named(entry.fullPath, await new Promise((resolve, reject) => entry.file(resolve, reject))));
        if (found.length % 500 === 0) progress(found.length);
      } else {
        left.push(...(await children(entry)).reverse());
      }
    } catch {
      unreadable.push(entry.fullPath.replace(/^\/+/, ""));
    }
  }
  return { found, unreadable };
}

async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}

/** A path as letters whose order is that of the bridge: by folders first, and by code points, not by UTF-16. */
const orderOf = (path) => path.replaceAll("/", "\0")
  .replace(/[\ud800-\uffff]/g, (unit) => String.fromCharCode(unit.charCodeAt(0) + (unit < "\ue000" ? 0x2000 : -0x800)));

/** The files of several picks in the order of their paths; of two with one path the newer pick counts. */
export function merge(old, added) {
  const byPath = new Map(old.map((file) => [file.path, file]));
  for (const file of added) byPath.set(file.path, file);
  return [...byPath.values()].map((file) => [orderOf(file.path), file])
    .sort(([left], [right]) => (left < right ? -1 : left > right ? 1 : 0)).map(([, file]) => file);
}
