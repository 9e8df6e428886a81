//! The accessibility checker finds nothing: in every view, in light and dark, on a phone.

use serde_json::json;

use super::{Page, TAB};

/// A page with a job that has ended and a file that is chosen in the history.
fn with_contents() -> Page {
    let page = Page::open();
    let job = page.gui.job(json!({"paths": [page.files(10_000)[3]]}));
    page.gui.wait_for(&job, "completed");
    page
}

fn check_all(page: &Page, theme: &str) {
    let browser = &page.browser;
    page.gui.post("/api/settings", json!({"settings": {"theme": theme}})).expect(200);
    browser.reload();
    browser.wait_for(&format!("document.documentElement.dataset.theme === '{theme}'"));
    browser.wait_for_text("#connection-text", "Connected to");
    page.choose(&page.files(10_000)[..3]);
    browser.wait_for_text("#picked", "3 files");
    browser.assert_accessible(&format!("a backup to be made, {theme}"));
    browser.click("#tab-host");
    browser.wait_for("document.querySelector('.host-browser li, .host-browser .empty')");
    browser.assert_accessible(&format!("browsing the host, {theme}"));
    page.view("history");
    browser.wait_for("document.querySelector('[role=treeitem] [role=treeitem] .tree-row')");
    browser.script("document.querySelector('.tree-row').click()");
    browser.assert_accessible(&format!("the history, {theme}"));
    page.view("vault");
    browser.wait_for("document.querySelector('#vault-cards form')");
    browser.assert_accessible(&format!("no vault yet, {theme}"));
    page.view("server");
    browser.wait_for_text("#statistics", "Running for");
    browser.assert_accessible(&format!("the server, {theme}"));
    page.view("log");
    browser.wait_for("document.querySelector('.log-line')");
    browser.assert_accessible(&format!("the log, {theme}"));
    page.view("settings");
    browser.wait_for("document.querySelector('.phases')");
    browser.assert_accessible(&format!("the settings, {theme}"));
}

#[test]
fn every_view_is_accessible_in_light() {
    let page = with_contents();
    check_all(&page, "light");
    page.browser.assert_quiet();
}

#[test]
fn every_view_is_accessible_in_dark() {
    let page = with_contents();
    check_all(&page, "dark");
    page.browser.assert_quiet();
}

#[test]
fn nothing_is_wider_than_a_phone() {
    let page = with_contents();
    let browser = &page.browser;
    browser.resize(375, 740);
    for view in ["backup", "history", "vault", "server", "log", "settings"] {
        page.view(view);
        browser.wait_for("!document.querySelector('main .loading')?.checkVisibility()");
        let width = browser.script("return document.documentElement.scrollWidth");
        assert!(width.as_u64().unwrap() <= 375, "{view} is {width} wide");
        browser.assert_accessible(&format!("{view} on a phone"));
    }
    browser.assert_quiet();
}

#[test]
fn a_job_under_way_is_accessible_and_the_skip_link_leads_to_it() {
    let page = Page::open_slow();
    let browser = &page.browser;
    // Far from done when it is cancelled.
    page.begin_large(60_000_000);
    browser.assert_accessible("a job under way");
    browser.click_text("Cancel…");
    browser.assert_accessible("a question");
    browser.click_text("Cancel the job");
    browser.wait_for_text("#job-card .badge", "cancelled");
    browser.assert_accessible("a job that was cancelled");
    browser.reload();
    browser.wait_for_text("#connection-text", "Connected to");
    browser.press(TAB);
    assert_eq!(browser.script("return document.activeElement.className"), "skip");
    browser.assert_quiet();
}
