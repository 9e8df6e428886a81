//! The page in a real Chromium, with the real bridge behind it and a real backup server behind that.

mod accessible;
mod backing_up;
mod dashboard;
mod history;
mod lost;
mod panels;
mod pictures;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use crate::bridge::Gui;
use crate::support::browser::Browser;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{TestServer, Workplace, tree, wait_until};

/// Keys as WebDriver names them.
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const TAB: &str = "\u{e004}";
const DOWN: &str = "\u{e015}";
const RIGHT: &str = "\u{e014}";
const LEFT: &str = "\u{e012}";

/// A file name that would be a picture and a script, were it not shown as text.
const HTML_NAME: &str = "<img src=x onerror=alert(1)>.txt";

/// The page, open and connected. Fields are dropped in this order: the browser first.
struct Page {
    browser: Browser,
    gui: Gui,
    _line: Option<SlowLine>,
    server: TestServer,
    workplace: Workplace,
}

impl Page {
    fn open() -> Page {
        Page::open_over(None)
    }

    /// Over a line and with a window that let some 2 MiB a second pass: there is time to look.
    fn open_slow() -> Page {
        Page::open_over(Some(Nature { delay: Duration::from_millis(50), cut_after: None }))
    }

    fn open_over(nature: Option<Nature>) -> Page {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let line = nature.map(|nature| SlowLine::start(&server.address, nature));
        let address = line.as_ref().map_or(&server.address, |line| &line.address);
        let gui =
            Gui::start_with(&workplace, address, &["--server-fingerprint", &server.fingerprint, "--low-memory"]);
        wait_until(|| gui.get("/api/server_info").json()["known"] == true, "the first contact");
        let browser = Browser::start();
        browser.go(&format!("http://{}/", gui.address));
        browser.wait_for_text("#connection-text", "Connected to");
        Page { browser, gui, _line: line, server, workplace }
    }

    /// Shows one of the page's views.
    #[track_caller]
    fn view(&self, name: &str) {
        self.browser.click(&format!("nav a[href='#{name}']"));
        self.browser.wait_for(&format!("document.getElementById('{name}').checkVisibility()"));
    }

    /// Three files and a folder with two more and a folder in it; the largest has so many bytes.
    fn files(&self, large_bytes: usize) -> Vec<PathBuf> {
        self.workplace.write("drop/album/one.jpg", tree::bytes(11, 300_000));
        self.workplace.write("drop/album/below/two.jpg", tree::bytes(12, 200_000));
        vec![
            self.workplace.write("drop/large.raw", tree::bytes(13, large_bytes)),
            self.workplace.write("drop/empty.txt", b""),
            self.workplace.write(format!("drop/{HTML_NAME}"), b"only text"),
            self.workplace.join("drop/album"),
        ]
    }

    /// Gives files to the field for files, as the dialog does.
    fn choose(&self, files: &[PathBuf]) {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        self.browser.enter("#file-input", &names.join("\n"));
    }

    /// Begins an upload of one file that takes some seconds over the slow line, and waits until it moves.
    fn begin_large(&self, bytes: usize) -> PathBuf {
        let large = self.workplace.write("large.raw", tree::bytes(21, bytes));
        self.choose(std::slice::from_ref(&large));
        self.browser.click("#start");
        self.browser.wait_for("document.querySelector('.bar').ariaValueNow > 8");
        large
    }

    #[track_caller]
    fn completed(&self) {
        self.browser.wait_for_text("#job-card .badge", "completed");
    }
}
