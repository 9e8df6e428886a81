//! The vault on the page: made, locked, opened, and what is in it browsed and restored.

use serde_json::json;

use super::{ENTER, Page};
use crate::bridge::vault::PASSPHRASE;

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
    crate::support::wait_until(|| copy.exists(), "the download");
    let original = std::fs::read(page.workplace.join("state/vault.key")).unwrap();
    crate::support::wait_until(|| std::fs::read(&copy).is_ok_and(|bytes| bytes == original), "all of the download");
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
