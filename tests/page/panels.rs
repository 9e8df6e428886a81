//! The connection, the statistics, the log and the settings.

use serde_json::{Value, json};

use super::Page;
use crate::bridge::Gui;
use crate::support::browser::Browser;
use crate::support::{TestServer, Workplace, wait_until};

#[test]
fn a_first_contact_is_confirmed_by_the_fingerprint() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start_with(&workplace, &server.address, &[]);
    let browser = Browser::start();
    browser.go(&format!("http://{}/", gui.address));
    browser.wait_for_text("#connection-text", "has not been met yet");
    browser.click("#connection-pill");
    browser.click_text("Connect and see its key");
    browser.wait_for_text("dialog #fingerprint", &server.fingerprint);
    browser.assert_accessible("the question about the key");
    browser.click_text("It differs, or I cannot tell");
    browser.wait_for("!document.querySelector('dialog')");
    assert_eq!(gui.get("/api/server_info").expect(200)["known"], false, "nothing is kept");
    browser.click_text("Connect and see its key");
    browser.click_text("It is the same: trust it");
    browser.wait_for_text("#connection-text", "Connected to");
    browser.wait_for_text("#connection-text", "ms");
    assert_eq!(gui.get("/api/server_info").expect(200)["known"], true);
    browser.assert_quiet();
}

#[test]
fn the_statistics_of_the_server_are_shown() {
    let page = Page::open();
    page.view("server");
    page.browser.wait_for_text("#statistics", "Running for");
    page.browser.wait_for_text("#statistics", "1 of");
    page.browser.assert_quiet();
}

#[test]
fn the_log_is_filtered_searched_and_exported() {
    let page = Page::open();
    let browser = &page.browser;
    page.view("log");
    browser.wait_for("document.querySelectorAll('.log-line').length > 0");
    browser.enter("#log-search", "no line has this");
    browser.wait_for_text("#log-card", "No line of the log fits");
    browser.script("const field = document.getElementById('log-search'); field.value = ''; field.dispatchEvent(new Event('input'))");
    browser.wait_for("document.querySelectorAll('.log-line').length > 0");
    browser.click_text("Export…");
    let exported = browser.downloads().join("cyberbackup-log.txt");
    wait_until(|| std::fs::read_to_string(&exported).is_ok_and(|text| text.contains("INFO")), "the exported log");
    // A line that comes while it is shown is added by itself.
    let before = browser.script("return document.querySelectorAll('.log-line').length").as_u64().unwrap();
    let job = page.gui.job(json!({"paths": [page.workplace.write("a.txt", b"a")]}));
    page.gui.wait_for(&job, "completed");
    browser.wait_for(&format!("document.querySelectorAll('.log-line').length > {before}"));
    browser.script("const level = document.getElementById('log-level'); level.value = 'error'; level.dispatchEvent(new Event('change'))");
    browser.wait_for("![...document.querySelectorAll('.log-line')].some((line) => line.dataset.level !== 'error')");
    browser.assert_quiet();
}

/// A JSON file of the test's folder.
fn read_json(page: &Page, name: &str) -> Value {
    let text = std::fs::read(page.workplace.join(name)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[test]
fn settings_are_checked_and_saved() {
    let page = Page::open();
    let browser = &page.browser;
    page.view("settings");
    browser.wait_for("document.getElementById('set-interval')");
    // A wrong value does not leave the page.
    browser.script("document.getElementById('set-interval').value = '7'");
    browser.click(".stack form:first-child button");
    assert_eq!(browser.script("return document.getElementById('set-interval').validity.valid"), false);
    browser.script("document.getElementById('set-interval').value = '250'; document.getElementById('set-theme').value = 'light'");
    browser.click(".stack form:first-child button");
    browser.wait_for_text("#toasts", "saved");
    let kept = read_json(&page, "server_gui_settings.json");
    assert_eq!((&kept["theme"], &kept["progress_interval"]), (&json!("light"), &json!(250)));
    browser.wait_for("document.documentElement.dataset.theme === 'light'");

    browser.script("document.querySelector('.phases input[type=color]').value = '#112233'");
    browser.click(".stack form:last-child button");
    browser.wait_for_text("#toasts", "Phases: saved");
    assert_eq!(read_json(&page, "progress_config.json")["phases"]["CONNECT"]["color"], "#112233");

    browser.script("document.getElementById('set-paths').value = 'docs\\nsrc\\n'; document.getElementById('set-user').value = 'grace'");
    browser.click("#settings-cards > form button");
    browser.wait_for_text("#toasts", "Backups: saved");
    let text = std::fs::read_to_string(page.workplace.join("transfer.info")).unwrap();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["grace", "docs", "src"]);

    browser.click("#theme-button");
    browser.wait_for("document.documentElement.dataset.theme === 'dark'");
    wait_until(|| read_json(&page, "server_gui_settings.json")["theme"] == "dark", "the theme is kept");
    browser.assert_quiet();
}
