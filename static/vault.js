// The vault: its key is made, opened and locked here. A passphrase goes to this host's own program and is kept nowhere.

import { get, post } from "./api.js";
import { open } from "./dialogs.js";
import { $, announce, failed, field, h, loading, setText, toast } from "./dom.js";
import { on, tell } from "./live.js";

/** Passphrases shorter than this are called short, and long from the second number on. */
const SHORT = 12;
const LONG = 20;

let vault = null;
/** The vault that was made since the page was opened, until its key was taken away. */
let isFresh = false;
let drawn = "";

export function setUp() {
  $("vault-cards").replaceChildren(h("div", { class: "card" }, loading()));
  on("vault", took);
  on("line", ({ open: isOpen }) => isOpen && refresh());
}

async function refresh() {
  try {
    took((await get("/api/vault")).vault);
  } catch (error) {
    if (!vault) $("vault-cards").replaceChildren(h("div", { class: "card" }, failed(error, refresh)));
  }
}

/** Draws, and lets others know, only where something is new: what is typed stays. */
function took(now) {
  const key = JSON.stringify(now);
  vault = now;
  if (key === drawn) return;
  drawn = key;
  draw();
  tell("vault_changed", now);
}

/** Whether this host can back up into a vault. */
export const exists = () => Boolean(vault) && vault.state !== "none";

/** What stands against reading a snapshot: nothing, a passphrase, or that the key is not here. */
export function hindrance(snapshot) {
  if (!snapshot.vault || (vault?.state === "open" && vault.id === snapshot.vault)) return null;
  return vault?.state === "locked" && vault.id === snapshot.vault ? "locked" : "no key";
}

/** Asks for the passphrase where one is wanted; resolves with whether the snapshot can be read now. */
export async function unlocked(snapshot) {
  const what = hindrance(snapshot);
  if (what !== "locked") return what === null;
  return (await open("The vault is locked", (close) => [openForm(() => close(true), () => close())])) === true;
}

/** What stands in the place of a snapshot's contents while they cannot be read. */
export function lockedNote(snapshot) {
  if (hindrance(snapshot) === "locked") {
    return h("div", { class: "note locked" }, h("h3", {}, "This snapshot is in the vault, and the vault is locked"), openForm(() => {}));
  }
  const why = vault?.state === "put_only" && vault.id === snapshot.vault
    ? "This host has only the half of its key that writes: it backs up, and cannot read."
    : `It is in the vault ${snapshot.vault}, and this host does not have the key of that.`;
  return h("p", { class: "note warn" }, `${why} Restore where its vault.key is: cyberbackup restore ${snapshot.snapshot} --vault-key FILE.`);
}

let numbers = 0;

/** A field for a passphrase. Browsers may offer to keep one that is made, never one that is only tried. */
function secret(label, kind, hint) {
  const input = h("input", { type: "password", id: `passphrase-${(numbers += 1)}`, required: true, autocomplete: kind, autocapitalize: "off", spellcheck: "false", maxlength: 1000 });
  return { input, box: field(label, input, hint) };
}

/** A form that sends passphrases and forgets them; `done` is called when that worked. */
function form(fields, yes, send, done, ...buttons) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, yes);
  const inputs = fields.flatMap((one) => one.input ?? []);
  const submit = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    setText(problem, "");
    button.disabled = true;
    setText(button, "One moment…");
    try {
      const answer = await send();
      for (const input of inputs) input.value = "";
      took(answer.vault);
      done();
    } catch (error) {
      setText(problem, error.message);
      inputs[0].select();
      inputs[0].focus();
    }
    button.disabled = false;
    setText(button, yes);
  };
  // For managers of passwords: what the passphrase is of.
  const owner = h("input", { type: "text", autocomplete: "username", value: vault.id ?? "vault", readonly: true, hidden: true });
  return h("form", { onsubmit: submit }, owner, ...fields.map((one) => one.box ?? one), problem,
    h("div", { class: "row wrap" }, ...buttons, button));
}

function openForm(done, back) {
  const passphrase = secret("Passphrase", "current-password", "It opens the key on this host, and is not sent to the server.");
  const opened = () => {
    toast("The vault is open");
    done();
  };
  const buttons = back ? [h("button", { type: "button", onclick: back }, "Back")] : [];
  return form([passphrase], "Open the vault", () => post("/api/vault/open", { passphrase: passphrase.input.value }), opened, ...buttons);
}

/** Two fields that must agree, and what their length is worth. */
function twice(label) {
  const first = secret(label, "new-password");
  const second = secret("The same again", "new-password");
  const hint = h("p", { class: "muted", role: "status" }, hintOf(""));
  const check = () => {
    setText(hint, hintOf(first.input.value));
    second.input.setCustomValidity(first.input.value === second.input.value ? "" : "The two are not the same.");
  };
  for (const one of [first, second]) one.input.addEventListener("input", check);
  return { first, parts: [first, second, hint] };
}

function hintOf(passphrase) {
  const length = [...passphrase].length;
  if (length === 0) return "Several words that belong to nobody and nothing are best.";
  if (length < SHORT) return "Short: who gets hold of vault.key can try them all.";
  return length < LONG ? "Long enough for most." : "Long: good.";
}

function createCard() {
  const { first, parts } = twice("Passphrase");
  const made = () => {
    isFresh = true;
    draw();
    toast("The vault is made");
    $("vault-title").focus();
  };
  return [h("h2", {}, "Make a vault"), h("p", { class: "muted" }, "Its key is made on this host and sealed under a passphrase. Nobody can look that up or set it anew: write it down."),
    form(parts, "Make the vault", () => post("/api/vault/create", { passphrase: first.input.value }), made)];
}

const STATES = {
  none: ["warn", "There is no vault on this host"],
  put_only: ["warn", "This host writes, and cannot read"],
  locked: ["good", "Locked"],
  open: ["busy", "Open"],
};

function stateCard() {
  const [kind, text] = STATES[vault.state];
  const parts = [h("h2", {}, "Vault"),
    h("p", {}, "What is backed up into the vault is encrypted on this host with a key that the server never gets: it keeps the pieces and counts them, and reads neither contents nor names. "
      + "Only vault.key and its passphrase bring them back."),
    h("p", { class: "state", "data-state": kind }, h("span", { class: "dot", "aria-hidden": "true" }), h("strong", { id: "vault-state" }, text))];
  if (vault.id) parts.push(h("dl", { class: "facts" }, h("div", {}, h("dt", {}, "Vault"), h("dd", { class: "mono" }, vault.id))));
  if (vault.state === "locked") parts.push(h("p", { class: "muted" }, "Backups into it go on. To look into them, open it."), openForm(() => $("vault-title").focus()));
  if (vault.state === "open") {
    parts.push(h("p", { class: "muted" }, `It locks itself when it was not used for ${Math.round(vault.idle_seconds / 60)} minutes, and when this program ends.`),
      h("div", { class: "row" }, h("button", { type: "button", onclick: lock }, "Lock it now")));
  }
  if (vault.state === "put_only") parts.push(h("p", { class: "muted" }, "It has vault-put.key alone. Look and restore where vault.key is."));
  return h("div", { class: "card" }, ...parts);
}

async function lock() {
  try {
    took((await post("/api/vault/lock")).vault);
    $("vault-title").focus();
    toast("The vault is locked");
  } catch (error) {
    toast(error.message, "bad");
  }
}

function keyCard() {
  const took_ = () => {
    isFresh = false;
    toast("Keep the copy of vault.key where this host’s fate does not reach it");
    drawn = "";
    setTimeout(refresh);
  };
  const download = h("a", { class: `button${isFresh ? " primary" : ""}`, id: "vault-key", href: "/api/vault/key", download: "vault.key", onclick: took_ }, "Download vault.key");
  return h("div", { class: "card" }, h("h2", {}, isFresh ? "Copy vault.key now" : "The key’s copy"),
    h("p", { class: isFresh ? "note warn" : "muted" }, "Without vault.key and its passphrase all that is in the vault is lost, for good and for everybody. Keep a copy on another medium: it is sealed, and useless without the passphrase."),
    h("p", { class: "muted mono small path" }, vault.key_file), h("div", { class: "row" }, download));
}

function passphraseCard() {
  const old = secret("The passphrase so far", "current-password");
  const { first, parts } = twice("New passphrase");
  const changed = () => {
    toast("The passphrase is changed: copy vault.key again");
    isFresh = true;
    draw();
    $("vault-title").focus();
  };
  return h("div", { class: "card" }, h("h2", {}, "Change the passphrase"),
    h("p", { class: "muted" }, "No data is touched. Copies of vault.key that were made before still open with the old one."),
    form([old, ...parts], "Change it", () => post("/api/vault/passphrase", { passphrase: old.input.value, new: first.input.value }), changed));
}

function draw() {
  const cards = [stateCard()];
  if (vault.state === "none") cards.push(h("div", { class: "card" }, ...createCard()));
  if (["locked", "open"].includes(vault.state)) cards.push(h("div", { class: "stack" }, keyCard(), passphraseCard()));
  $("vault-cards").replaceChildren(...cards);
  announce(`Vault: ${STATES[vault.state][1]}`);
}
