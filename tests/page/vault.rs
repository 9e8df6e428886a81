//! The vault on the page: made, locked, opened, and what is in it browsed and restored.

use serde_json::json;

use super::{ENTER, Page};
use crate::bridge::vault::{PASSPHRASE, lose_the_newest};
use crate::support::{tree, wait_until};

/// Types a passphrase into the fields of what is shown, one after the other.
fn type_into(page: &Page, form: &str, texts: &[&str]) {
    let fields = page.browser.script(&format!(
        "return [...document.querySelectorAll('{form} input[type=password]')].map((field) => '#' + field.id)"
    ));
    let fields = fields.as_array().expect("fields");
    assert_eq!(fields.len(), texts.len(), "{form}");
    for (field, text) in fields.iter().zip(texts) {
        page.browser.script(&format!("document.querySelector('{}').value = ''", field.as_str().unwrap()));
        page.browser.enter(field.as_str().unwrap(), text);
    }
}

/// A page whose host has a vault, which is open.
fn with_a_vault() -> Page {
    let page = Page::open();
    page.gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    page.view("vault");
    page.browser.wait_for_text("#vault-state", "Open");
    page
}

/// The console was told of one refused request, and of nothing else.
fn assert_refused_once(page: &Page, path: &str) {
    let lines = page.browser.console();
    assert!(lines.len() == 1 && lines[0].contains(path) && lines[0].contains("403"), "{lines:?}");
}

#[test]
fn a_vault_is_made_and_its_key_is_copied() {
    let page = Page::open();
    let browser = &page.browser;
    browser.wait_for("document.getElementById('vault-choice').hidden");
    page.view("vault");
    browser.wait_for_text("#vault-state", "no vault");
    let form = "#vault-cards form";
    type_into(&page, form, &["short", "other"]);
    browser.wait_for_text(form, "Short:");
    browser.click_text("Make the vault");
    browser.wait_for("document.querySelector('#vault-cards input:invalid')");
    assert_eq!(page.gui.get("/api/vault").expect(200)["vault"]["state"], "none", "the two differ");
    type_into(&page, form, &[PASSPHRASE, PASSPHRASE]);
    browser.wait_for_text(form, "Long: good");
    browser.press(ENTER);
    browser.wait_for_text("#vault-state", "Open");
    browser.wait_for_text("#vault-cards", "Copy vault.key now");
    browser.assert_accessible("a vault that was made");
    browser.click("#vault-key");
    let copy = browser.downloads().join("vault.key");
    wait_until(|| copy.exists(), "the download");
    let original = std::fs::read(page.workplace.join("state/vault.key")).unwrap();
    wait_until(|| std::fs::read(&copy).is_ok_and(|bytes| bytes == original), "all of the download");
    browser.wait_for_text("#vault-cards", "The key’s copy");
    browser.assert_quiet();
}

#[test]
fn the_vault_is_locked_opened_and_given_another_passphrase() {
    let page = with_a_vault();
    let browser = &page.browser;
    browser.click_text("Lock it now");
    browser.wait_for_text("#vault-state", "Locked");
    let form = "#vault-cards .card:first-child form";
    browser.assert_quiet();
    type_into(&page, form, &["wrong"]);
    browser.press(ENTER);
    browser.wait_for_text(".problem", "the passphrase is wrong");
    assert_refused_once(&page, "/api/vault/open");
    type_into(&page, form, &[PASSPHRASE]);
    browser.press(ENTER);
    browser.wait_for_text("#vault-state", "Open");
    // Locked elsewhere, as after a while without use: the page hears it.
    page.gui.post("/api/vault/lock", json!({})).expect(200);
    browser.wait_for_text("#vault-state", "Locked");
    type_into(&page, "#vault-cards .stack form", &[PASSPHRASE, "other words", "other words"]);
    browser.press(ENTER);
    browser.wait_for_text("#vault-cards", "Copy vault.key now");
    page.gui.post("/api/vault/open", json!({ "passphrase": "other words" })).expect(200);
    browser.wait_for_text("#vault-state", "Open");
    browser.assert_quiet();
}

#[test]
fn the_vault_is_accessible_in_light_and_dark_and_on_a_phone() {
    let page = with_a_vault();
    let browser = &page.browser;
    for theme in ["light", "dark"] {
        page.gui.post("/api/settings", json!({"settings": {"theme": theme}})).expect(200);
        page.gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).expect(200);
        browser.reload();
        browser.wait_for(&format!("document.documentElement.dataset.theme === '{theme}'"));
        browser.wait_for_text("#vault-state", "Open");
        browser.assert_accessible(&format!("an open vault, {theme}"));
        page.gui.post("/api/vault/lock", json!({})).expect(200);
        browser.wait_for_text("#vault-state", "Locked");
        browser.assert_accessible(&format!("a locked vault, {theme}"));
        page.view("backup");
        browser.wait_for("!document.getElementById('vault-choice').hidden");
        browser.assert_accessible(&format!("the switch, {theme}"));
        page.view("vault");
    }
    browser.resize(375, 740);
    let width = browser.script("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 375, "the vault is {width} wide");
    browser.assert_accessible("the vault on a phone");
    browser.assert_quiet();
}

#[test]
fn what_the_server_lost_of_the_vault_is_shown_where_it_is_browsed() {
    let mut page = with_a_vault();
    let (server, [_, lost]) = lose_the_newest(&page.workplace, page.server, &page.gui);
    page.server = server;
    page.view("history");
    page.browser
        .wait_for_text("#findings", &format!("Snapshot {lost}: it was stored last by this host, and is gone"));
    page.browser.assert_accessible("what the server lost");
}

/// A page with a snapshot in the vault, which is locked, and the history shown.
fn with_a_locked_snapshot() -> Page {
    let page = with_a_vault();
    page.files(100_000);
    page.gui.post("/api/vault/lock", json!({})).expect(200);
    page.browser.wait_for_text("#vault-state", "Locked");
    page.view("backup");
    page.browser.click("#tab-host");
    page.browser.wait_for("document.querySelector('.host-browser li, .host-browser .empty')");
    let job = page.gui.job(json!({"paths": [page.workplace.join("drop")], "vault": true}));
    page.gui.wait_for(&job, "completed");
    page.browser.wait_for_text("#job-card h2", "into the vault");
    page.view("history");
    page.browser.wait_for_text(".snapshots", "shows when the vault is open");
    page
}

const LOCKED: &str = "#snapshot-card .locked";

#[test]
fn to_look_into_a_locked_snapshot_asks_for_the_passphrase_in_its_place() {
    let page = with_a_locked_snapshot();
    let browser = &page.browser;
    browser.wait_for_text(LOCKED, "the vault is locked");
    browser.assert_accessible("a snapshot that is locked");
    type_into(&page, LOCKED, &["wrong"]);
    browser.press(ENTER);
    browser.wait_for_text(LOCKED, "the passphrase is wrong");
    assert_refused_once(&page, "/api/vault/open");
    type_into(&page, LOCKED, &[PASSPHRASE]);
    browser.press(ENTER);
    browser.wait_for("document.querySelector('[role=treeitem] [role=treeitem] .tree-row')");
    browser.wait_for_text(".snapshots", "5 files");
    browser.wait_for_text(".snapshots .chip", "vault");
    browser.enter("#snapshot-card input[type=search]", "TWO.j");
    browser.wait_for_text(".found", "album/below/two.jpg");
    browser.click(".found-row");
    browser.wait_for_text(".detail", "BLAKE3");
    browser.assert_accessible("a snapshot of the vault");
    browser.click("#download");
    let original = page.workplace.join("drop/album/below/two.jpg");
    let copy = browser.downloads().join("two.jpg");
    let wanted = std::fs::read(original).unwrap();
    wait_until(|| std::fs::read(&copy).is_ok_and(|bytes| bytes == wanted), "the download");
    // Locked from elsewhere: what is shown goes.
    page.gui.post("/api/vault/lock", json!({})).expect(200);
    browser.wait_for_text(LOCKED, "the vault is locked");
    browser.wait_for("!document.querySelector('.tree, .found')");
    browser.wait_for_text(".snapshots", "shows when the vault is open");
    browser.assert_quiet();
}

#[test]
fn a_restore_from_the_locked_vault_asks_first_and_goes_on() {
    let page = with_a_locked_snapshot();
    let browser = &page.browser;
    browser.click_text("Restore all of it…");
    browser.wait_for_text("dialog", "The vault is locked");
    type_into(&page, "dialog", &[PASSPHRASE]);
    browser.press(ENTER);
    browser.wait_for("document.querySelector('dialog .crumb')");
    let target = page.workplace.join("restored");
    browser.script("document.getElementById('folder-path').value = ''");
    browser.enter("#folder-path", &format!("{}{ENTER}", target.display()));
    page.completed();
    let original = page.workplace.join("drop");
    tree::assert_same(&original, &target.join(original.strip_prefix("/").unwrap()));
    browser.assert_quiet();
}

#[test]
fn what_is_dropped_goes_into_the_vault_unless_the_switch_is_off() {
    let page = with_a_vault();
    let browser = &page.browser;
    page.view("backup");
    for (is_on, file) in [(true, "sealed.txt"), (false, "open.txt")] {
        page.choose(&[page.workplace.write(format!("drop/{file}"), file.repeat(1_000))]);
        browser.wait_for_text("#picked", file);
        if !is_on {
            browser.click("#into-vault");
            browser.wait_for_text("#into-vault-note", "the server can read it");
        }
        browser.click("#start");
        let listed = || page.gui.get("/api/snapshots").expect(200)["snapshots"].as_array().unwrap().clone();
        wait_until(|| listed().len() == 1 + usize::from(!is_on), "the snapshot");
        assert_eq!(listed()[0]["vault"].is_string(), is_on);
        page.completed();
    }
    browser.assert_quiet();
}
