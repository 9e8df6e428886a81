//! The pictures of the README and `docs/`, taken of a real run. They are made anew by
//! `cargo test --profile quick rewrite_the_pictures -- --ignored`.

use std::path::Path;

use serde_json::json;

use super::Page;
use crate::support::tree;

/// The most that a picture may take.
const PICTURE_BYTES_MAX: usize = 150 * 1024;

fn keep(page: &Page, name: &str) {
    let picture = page.browser.picture();
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
    let files = album(&page);
    let paths: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
    browser.drop_on("#drop", &paths);
    browser.wait_for_text("#picked", "12 files");
    browser.enter("#label", "evening");
    browser.click("#start");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 55");
    keep(&page, "page-dark.png");
    page.gui.post("/api/settings", json!({"settings": {"theme": "light"}})).expect(200);
    browser.script("document.documentElement.dataset.theme = 'light'");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 65");
    keep(&page, "page-light.png");
    browser.resize(390, 844);
    browser.script("document.getElementById('job-card').scrollIntoView(); scrollBy(0, -70)");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 72");
    keep(&page, "page-phone.png");
    page.completed();
    browser.resize(1280, 900);
    browser.reload();
    browser.click_text("Show it in the history");
    browser.wait_for_text(".tree", "letter to Grace");
    browser.click_text("album");
    browser.click_text("letter to Grace");
    browser.wait_for_text(".detail", "BLAKE3");
    keep(&page, "page-history.png");
}
