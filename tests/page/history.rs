//! What was stored, looked at on the page.

use serde_json::json;

use super::{DOWN, ENTER, HTML_NAME, LEFT, Page, RIGHT};
use crate::support::{tree, wait_until};

/// A page with a snapshot, in the history.
fn with_a_snapshot() -> Page {
    let page = Page::open();
    page.files(100_000);
    let job = page.gui.job(json!({"paths": [page.workplace.join("drop")]}));
    page.gui.wait_for(&job, "completed");
    page.view("history");
    page.browser.wait_for_text(".snapshots", "5 files");
    page
}

/// The text of the row that has the focus.
fn focused(page: &Page) -> String {
    let text = page.browser.script("return document.activeElement.querySelector('.entry-name')?.textContent");
    text.as_str().unwrap_or_default().to_string()
}

/// Which row has the focus, and whether it is open.
fn place(page: &Page) -> String {
    let script = "const row = document.activeElement; return row.getAttribute('aria-expanded') + row.textContent";
    page.browser.script(script).as_str().unwrap_or_default().to_string()
}

#[test]
fn the_tree_is_walked_with_the_keyboard() {
    let page = with_a_snapshot();
    let browser = &page.browser;
    browser.wait_for("document.querySelector('[role=treeitem] [role=treeitem]:not(.tree-note)')");
    browser.script("document.querySelector('[role=treeitem]').focus()");
    // Down the folders to where the files lie.
    for _ in 0..12 {
        if focused(&page) == "drop" {
            break;
        }
        // Opens the folder, or goes to the first in it.
        let before = place(&page);
        browser.press(RIGHT);
        wait_until(|| place(&page) != before, "the key to do something");
        browser.wait_for("!document.querySelector('.tree-note')");
    }
    assert_eq!(focused(&page), "drop");
    browser.press(RIGHT);
    browser.wait_for_text(".tree", "album");
    browser.press("al");
    wait_until(|| focused(&page) == "album", "the row that begins so to have the focus");
    browser.press(RIGHT);
    browser.wait_for_text(".tree", "one.jpg");
    browser.press(&format!("{DOWN}{DOWN}{ENTER}"));
    browser.wait_for_text(".detail", "one.jpg");
    browser.press(&format!("{LEFT}{LEFT}"));
    wait_until(|| focused(&page) == "album", "the focus to be back");
    browser.assert_quiet();
}

#[test]
fn a_search_finds_what_lies_deep() {
    let page = with_a_snapshot();
    let browser = &page.browser;
    browser.enter("#snapshot-card input[type=search]", "TWO.j");
    browser.wait_for_text(".found", "album/below/two.jpg");
    browser.click(".found-row");
    browser.wait_for_text(".detail", "BLAKE3");
    browser.enter("#snapshot-card input[type=search]", "nowhere");
    browser.wait_for_text("#snapshot-card", "Nothing found");
    browser.assert_quiet();
}

#[test]
fn a_folder_is_restored_to_a_folder() {
    let page = with_a_snapshot();
    let browser = &page.browser;
    browser.click_text("Restore all of it…");
    browser.wait_for("document.querySelector('dialog .crumb')");
    let target = page.workplace.join("restored");
    browser.script("document.getElementById('folder-path').value = ''");
    browser.enter("#folder-path", &format!("{}{ENTER}", target.display()));
    page.completed();
    let original = page.workplace.join("drop");
    let restored = target.join(original.strip_prefix("/").unwrap());
    tree::assert_same(&original, &restored);
    browser.assert_quiet();
}

#[test]
fn a_restore_is_paused_resumed_and_cancelled() {
    let page = Page::open_slow();
    let browser = &page.browser;
    page.workplace.write("drop/large.raw", tree::bytes(5, 60_000_000));
    let job = page.gui.job(json!({"paths": [page.workplace.join("drop")]}));
    page.gui.wait_for(&job, "completed");
    let restore = |to: &str| {
        let made = page.gui.post("/api/restore", json!({"to": page.workplace.join(to)})).expect(202);
        browser.wait_for_text("#job-card h2", "Restore");
        browser.wait_for("document.querySelector('#job-card .bar').ariaValueNow > 8");
        made["job_id"].as_str().unwrap().to_string()
    };
    restore("first");
    browser.click_text("Pause");
    browser.wait_for_text("#job-card .badge", "paused");
    browser.click_text("Resume");
    page.completed();
    let large = page.workplace.join("drop/large.raw");
    let restored = page.workplace.join("first").join(large.strip_prefix("/").unwrap());
    assert!(std::fs::read(restored).unwrap() == std::fs::read(large).unwrap());
    restore("second");
    browser.click_text("Cancel…");
    browser.wait_for_text("dialog", "What was restored so far stays");
    browser.click_text("Cancel the job");
    browser.wait_for_text("#job-card .badge", "cancelled");
    browser.assert_quiet();
}

#[test]
fn a_history_without_snapshots_says_so_and_where_to_begin() {
    let page = Page::open();
    page.view("history");
    page.browser.wait_for_text("#snapshots", "No snapshots yet");
    page.browser.click_text("Back something up");
    page.browser.wait_for("document.getElementById('backup').checkVisibility()");
    page.browser.assert_quiet();
}

#[test]
fn a_new_backup_is_in_the_history_when_that_is_shown_again() {
    let page = with_a_snapshot();
    page.view("backup");
    page.choose(&page.files(10)[2..3]);
    page.browser.wait_for_text("#picked", HTML_NAME);
    page.browser.click("#start");
    page.completed();
    wait_until(|| page.gui.get("/api/status").expect(200)["phase"] == "READY", "the end");
    page.view("history");
    page.browser.wait_for("document.querySelectorAll('.snapshots li').length === 2");
    page.browser.assert_quiet();
}
