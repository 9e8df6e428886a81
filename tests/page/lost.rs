//! The page while something behind it is away.

use super::Page;
use crate::bridge::Gui;
use crate::support::kill;

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
