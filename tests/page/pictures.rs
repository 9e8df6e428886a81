//! The pictures of the README and `docs/`, taken of a real run. They are made anew by
//! `cargo test --profile quick rewrite_the_pictures -- --ignored`.

use std::path::Path;

use serde_json::json;

use super::Page;
use super::dashboard::Desk;
use crate::support::browser::Browser;
use crate::support::tree;

/// The most that a picture may take.
const PICTURE_BYTES_MAX: usize = 150 * 1024;

fn keep(browser: &Browser, name: &str) {
    let picture = browser.picture();
    assert!(picture.len() < PICTURE_BYTES_MAX, "{name} has {} bytes", picture.len());
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images").join(name), picture).unwrap();
}

/// Files that look like somebody's.
fn album(page: &Page) -> Vec<std::path::PathBuf> {
    for number in 0..9_u64 {
        let name = format!("album/2026-11/harbour-{number:02}.jpg");
        page.workplace.write(name, tree::bytes(30 + number, 700_000 + 90_000 * number as usize));
    }
    vec![
        page.workplace.write("accounts 2026.ods", tree::bytes(50, 180_000)),
        page.workplace.write("letter to Grace.odt", tree::bytes(51, 46_000)),
        page.workplace.write("walk along the quay.mp4", tree::bytes(52, 24_000_000)),
        page.workplace.join("album"),
    ]
}

#[test]
#[ignore = "writes docs/images"]
fn rewrite_the_pictures() {
    let page = Page::open_slow();
    let browser = &page.browser;
    browser.resize(1280, 900);
    for number in 0..40_u64 {
        page.workplace.write(format!("documents/{number:02}.odt"), tree::bytes(70 + number, 20_000));
    }
    let documents = json!({"paths": [page.workplace.join("documents")], "label": "documents"});
    page.gui.wait_for(&page.gui.job(documents), "completed");
    let files = album(&page);
    let paths: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
    browser.drop_on("#drop", &paths);
    browser.wait_for_text("#picked", "12 files");
    browser.enter("#label", "evening");
    browser.click("#start");
    // Where the pointer stood, the list of jobs moves to: no row is to look chosen.
    browser.hover("h1");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 55");
    keep(browser, "page-dark.png");
    for theme in ["auto", "light"] {
        browser.click("#theme-button");
        browser.wait_for(&format!("document.documentElement.dataset.theme === '{theme}'"));
    }
    browser.hover("h1");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 65");
    keep(browser, "page-light.png");
    browser.resize(390, 844);
    browser.script("document.getElementById('job-card').scrollIntoView(); scrollBy(0, -70)");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 72");
    keep(browser, "page-phone.png");
    page.completed();
    browser.resize(1280, 900);
    browser.reload();
    browser.click_text("Show it in the history");
    browser.wait_for_text(".tree", "letter to Grace");
    browser.click_text("album");
    browser.wait_for_text(".tree", "2026-11");
    browser.click_text("letter to Grace");
    browser.wait_for_text(".detail", "BLAKE3");
    keep(browser, "page-history.png");
}

#[test]
#[ignore = "writes docs/images"]
fn rewrite_the_picture_of_the_operators_page() {
    let desk = Desk::open("kim");
    desk.browser.resize(1280, 1010);
    desk.scheme("dark");
    desk.browser.wait_for_text("#sessions tbody", "receiving");
    // Once its rate is that of several seconds.
    desk.browser.wait_for("parseInt(document.querySelector('#sessions [data-label=For]').textContent) > 6");
    keep(&desk.browser, "operator-page.png");
}
