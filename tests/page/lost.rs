//! The page while something behind it is away.

use serde_json::json;

use super::Page;
use crate::bridge::Gui;
use crate::bridge::viewers::Watcher;
use crate::support::{kill, wait_until};

#[test]
fn a_lost_bridge_is_said_and_found_again() {
    let mut page = Page::open();
    let address = page.gui.address;
    let server = page.server.address.clone();
    page.browser.assert_quiet();
    kill(page.gui.id(), "KILL");
    page.browser.wait_for_text("#lost", "does not answer");
    page.browser.assert_accessible("while the bridge is away");
    page.gui = Gui::start_on(address.port(), &page.workplace, &server, &[]);
    page.browser.wait_for("document.getElementById('lost').hidden");
    // What was lost is in the console; from here on nothing is added.
    page.browser.console();
    page.choose(&page.files(1_000)[..3]);
    page.browser.click("#start");
    page.completed();
    page.browser.assert_quiet();
}

#[test]
fn a_page_without_its_live_line_asks_until_it_has_one() {
    let page = Page::open();
    let browser = &page.browser;
    browser.assert_quiet();
    // Every place of a viewer is taken: the page's own is lost with the reload.
    let mut viewers: Vec<Watcher> = Vec::new();
    browser.go("about:blank");
    wait_until(|| page.gui.get("/health").json()["viewers"] == 0, "the page to be gone");
    viewers.extend((0..128).map(|_| Watcher::open(&page.gui)));
    browser.go(&format!("http://{}/", page.gui.address));
    browser.wait_for_text("#lost", "The live line to this program was lost");
    let job = page.gui.job(json!({"paths": [page.workplace.write("a.txt", b"a")]}));
    page.gui.wait_for(&job, "completed");
    page.completed();
    browser.wait_for_text("#job-card", "Stored as snapshot");
    browser.assert_accessible("without the live line");
    drop(viewers);
    browser.wait_for("document.getElementById('lost').hidden");
    browser.console();
    page.choose(&page.files(1_000)[..3]);
    browser.click("#start");
    browser.wait_for_text("#jobs", "Browser upload");
    page.completed();
    browser.assert_quiet();
}

#[test]
fn a_lost_backup_server_is_said_with_a_way_to_try_again() {
    let page = Page::open();
    kill(page.server.id(), "KILL");
    page.view("history");
    page.browser.wait_for_text("#snapshots", "This did not work");
    page.browser.wait_for_text("#snapshots", "Try again");
    page.browser.assert_accessible("the history without a server");
    page.view("server");
    page.browser.wait_for_text("#statistics", "This did not work");
}
