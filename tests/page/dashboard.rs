//! The operator's page of a backup server, in a real Chromium: what is shown of real clients at work.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::{ENTER, TAB};
use crate::bridge::dashboard::address;
use crate::support::browser::Browser;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{Started, TestClient, TestServer, Workplace, kill, tree};

/// A client's name that would be a picture and a script, were it not shown as text.
pub const HTML_CLIENT: &str = "<img src=x onerror=alert(1)>";

/// A server with its page open, two clients that have backed up, and a third that does over a slow line. Fields are
/// dropped in this order.
pub struct Desk {
    pub browser: Browser,
    backup: Started,
    _line: SlowLine,
    server: TestServer,
    pub workplace: Workplace,
}

impl Drop for Desk {
    fn drop(&mut self) {
        kill(self.backup.id(), "KILL");
    }
}

impl Desk {
    /// The third client has this name.
    pub fn open(busy: &str) -> Desk {
        let workplace = Workplace::new();
        let server = start(&workplace, "127.0.0.1:0");
        let source = workplace.join("source");
        tree::many_files(&source, 40);
        for (name, times) in [("ada", 2), ("grace", 1)] {
            let client = TestClient::new(&workplace, &server.address, name);
            (0..times).for_each(|_| drop(client.backup(&source)));
        }
        // A peer that speaks another language is a failure of nobody that is known.
        TcpStream::connect(&server.address).unwrap().write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let line = SlowLine::start(&server.address, Nature { delay: Duration::from_millis(60), cut_after: None });
        workplace.write("large/large", tree::bytes(3, 40_000_000));
        let client = TestClient::new(&workplace, &line.address, busy);
        let backup = client.start(["backup", "--low-memory", workplace.join("large").to_str().unwrap()]);
        let browser = Browser::start();
        browser.go(&format!("http://{}/", address(&server)));
        browser.wait_for_text("#state-text", "Running");
        Desk { browser, backup, _line: line, server, workplace }
    }

    pub fn scheme(&self, name: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": name}]);
        self.browser.cdp("Emulation.setEmulatedMedia", json!({ "features": features }));
    }
}

fn start(workplace: &Workplace, dashboard: &str) -> TestServer {
    TestServer::start_with(workplace, "data", &["--rsa-bits", "2048", "--dashboard", dashboard])
}

#[test]
fn a_backup_under_way_the_clients_the_disk_and_failures_are_shown() {
    let desk = Desk::open(HTML_CLIENT);
    let browser = &desk.browser;
    browser.wait_for_text("#sessions tbody", "receiving");
    browser.wait_for_text("#sessions tbody", HTML_CLIENT);
    browser.wait_for_text("#sessions tbody [data-label=Peer]", "127.0.0.1:");
    browser.wait_for("/[0-9] [KM]iB.s/.test(document.querySelector('#sessions [data-label=In]').textContent)");
    browser.wait_for_text("#slots", "1 of 50");
    browser.wait_for("document.getElementById('slots-bar').value === 1 / 50");
    browser.wait_for("/[0-9] [KMGT]iB$/.test(document.getElementById('disk').textContent)");
    browser.wait_for("/^left of [0-9.]+ [KMGT]iB/.test(document.getElementById('disk-more').textContent)");
    browser.wait_for("document.getElementById('disk-bar').value > 0");
    browser.wait_for("document.getElementById('stored').textContent === '3'");
    browser.wait_for_text("#stored-more", "120 files");
    browser.wait_for_text("#failures tbody", "not a message of this protocol");
    browser.wait_for_text("#failures tbody", "not proved");
    // What is shown follows what happens, by itself.
    let received = browser.script("return document.querySelector('#sessions [data-label=Received]').textContent");
    browser
        .wait_for(&format!("document.querySelector('#sessions [data-label=Received]').textContent !== {received}"));
    kill(desk.backup.id(), "KILL");
    browser.wait_for_text("#sessions-empty", "Nobody is connected");
    browser.wait_for_text("#failures tbody", HTML_CLIENT);
    assert_eq!(browser.script("return document.querySelectorAll('main img').length"), 0, "text, and no picture");
    browser.assert_quiet();
}

#[test]
fn clients_are_searched_and_sorted_with_the_keyboard() {
    let desk = Desk::open("kim");
    let browser = &desk.browser;
    browser.wait_for_text("#clients tbody", "kim");
    let names = "[...document.querySelectorAll('#clients tbody th')].map((cell) => cell.textContent).join()";
    browser.wait_for(&format!("{names} === 'ada,grace,kim'"));
    browser.press(TAB);
    assert_eq!(browser.script("return document.activeElement.className"), "skip");
    browser.press(&format!("{ENTER}{TAB}"));
    assert_eq!(browser.script("return document.activeElement.id"), "search");
    browser.press("GRA");
    browser.wait_for(&format!("{names} === 'grace'"));
    browser.wait_for_text("#clients-more", "1 client of 3");
    browser.press("x");
    browser.wait_for_text("#clients-empty", "No client has such a name");
    browser.script("const field = document.getElementById('search'); field.value = ''; field.dispatchEvent(new Event('input'))");
    // From the search on through the heads of the columns, to that of the snapshots.
    browser.press(&format!("{TAB}{TAB}{TAB}{ENTER}"));
    browser.wait_for(&format!("{names} === 'ada,grace,kim'"));
    let sorted = "return document.querySelector('[data-sort=snapshots]').closest('th').ariaSort";
    assert_eq!(browser.script(sorted), "descending");
    browser.press(ENTER);
    browser.wait_for(&format!("{names} === 'kim,grace,ada'"));
    assert_eq!(browser.script(sorted), "ascending");
    browser.assert_quiet();
}

#[test]
fn a_server_that_is_away_is_said_and_found_again() {
    let mut desk = Desk::open("kim");
    let page = address(&desk.server).to_string();
    desk.browser.wait_for_text("#clients tbody", "grace");
    desk.browser.assert_quiet();
    kill(desk.server.id(), "KILL");
    desk.browser.wait_for_text("#state-text", "The server does not answer; what is shown is from");
    desk.browser.wait_for("document.getElementById('state').dataset.state === 'bad'");
    desk.browser.wait_for_text("#clients tbody", "grace");
    desk.browser.assert_accessible("without a server");
    desk.server = start(&desk.workplace, &page);
    desk.browser.wait_for_text("#state-text", "Running");
    desk.browser.wait_for("document.getElementById('stored').textContent === '0'");
    desk.browser.wait_for_text("#clients tbody", "grace");
    // What was lost is in the console; from here on nothing is added.
    desk.browser.console();
    let shown = desk.browser.script("return document.getElementById('uptime').textContent");
    desk.browser.wait_for(&format!("document.getElementById('uptime').textContent !== {shown}"));
    desk.browser.assert_quiet();
}

#[test]
fn it_is_accessible_in_light_in_dark_and_on_a_phone() {
    let desk = Desk::open("kim");
    let browser = &desk.browser;
    browser.wait_for_text("#sessions tbody", "receiving");
    browser.wait_for_text("#failures tbody", "not proved");
    for scheme in ["light", "dark"] {
        desk.scheme(scheme);
        let ground = if scheme == "light" { "rgb(244, 246, 249)" } else { "rgb(14, 19, 26)" };
        browser.wait_for(&format!("getComputedStyle(document.body).backgroundColor === '{ground}'"));
        browser.assert_accessible(scheme);
    }
    browser.resize(375, 740);
    let width = browser.script("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 375, "it is {width} wide");
    browser.assert_accessible("on a phone");
    browser.assert_quiet();
}
