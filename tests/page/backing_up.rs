//! Backups made on the page: dropped, chosen, browsed; paused, cancelled, gone on with.

use serde_json::json;

use super::{ENTER, ESCAPE, HTML_NAME, Page};
use crate::support::{tree, wait_until};

/// Notes what the page shows of a job, from now on.
const WATCH: &str = "window.seen = []; \
    new MutationObserver(() => { \
        const word = document.querySelector('#job-card .badge').textContent; \
        const done = Number(document.querySelector('.bar').ariaValueNow); \
        const last = window.seen.at(-1); \
        if (!last || last[0] !== word || last[1] !== done) window.seen.push([word, done]); \
    }).observe(document.getElementById('job-card'), \
        {subtree: true, childList: true, characterData: true, attributes: true});";

#[test]
fn files_and_a_folder_that_are_dropped_are_stored_and_come_back() {
    let page = Page::open_slow();
    let browser = &page.browser;
    let files = page.files(6_000_000);
    browser.script(WATCH);
    let paths: Vec<_> = files.iter().map(|path| path.as_path()).collect();
    browser.drop_on("#drop", &paths);
    browser.wait_for_text("#picked", "5 files");
    browser.wait_for_text("#picked", "album/below/two.jpg");
    browser.wait_for_text("#picked", HTML_NAME);
    browser.click("#start");
    page.completed();
    let seen = browser.script("return window.seen");
    let seen: Vec<(&str, u64)> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_u64().unwrap()))
        .collect();
    let mut words: Vec<&str> = seen.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
    words.dedup();
    let order = ["queued", "connecting", "backing up", "finishing", "completed"];
    let places: Vec<_> = words.iter().map(|word| order.iter().position(|one| one == word)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{words:?}");
    assert!(["backing up", "finishing", "completed"].iter().all(|word| words.contains(word)), "{words:?}");
    assert!(seen.iter().map(|(_, done)| done).is_sorted(), "{seen:?}");
    assert!(seen.iter().filter(|(_, done)| (6..85).contains(done)).count() >= 3, "the bar moves: {seen:?}");
    assert_eq!(seen.last().unwrap().1, 100);

    browser.click_text("Show it in the history");
    browser.wait_for_text(".tree", HTML_NAME);
    assert_eq!(
        browser.script("return document.querySelectorAll('main img').length"),
        json!(0),
        "text, and no picture"
    );
    for name in ["large.raw", HTML_NAME] {
        browser.click_text(name);
        browser.wait_for_text(".detail h3", name);
        browser.click("#download");
        let original = std::fs::read(page.workplace.join(format!("drop/{name}"))).unwrap();
        // Chromium writes < and > of a name otherwise.
        let arrived = || {
            let found = std::fs::read_dir(browser.downloads()).unwrap().map(|entry| entry.unwrap().path());
            found.into_iter().any(|path| std::fs::read(path).is_ok_and(|content| content == original))
        };
        wait_until(arrived, name);
    }
    browser.assert_quiet();
}

#[test]
fn the_ring_the_bar_the_figures_the_chart_and_the_files_follow_the_job() {
    const COLORS: [&str; 3] = ["#aa1122", "#22aa33", "#3344bb"];
    let page = Page::open_slow();
    let browser = &page.browser;
    let phase = |color: &str, weight: u32| json!({"color": color, "weight": weight});
    let phases = json!({"CONNECT": phase(COLORS[0], 10), "BACKUP_IN_PROGRESS": phase(COLORS[1], 70), "CLEANUP": phase(COLORS[2], 20)});
    page.gui
        .post("/api/settings", json!({"progress": {"phases": phases}, "settings": {"progress_interval": 200}}))
        .expect(200);
    browser.reload();
    browser.wait_for_text("#connection-text", "Connected to");
    let mut files = page.files(9_000_000);
    // The file that is sent last, in the order of paths.
    files.push(page.workplace.write("drop/zebra.txt", b"stripes"));
    page.choose(&[files[0].clone(), files[4].clone()]);
    browser.enter("#folder-input", files[3].to_str().unwrap());
    browser.wait_for_text("#picked", "4 files");
    browser.click("#start");
    browser.wait_for("document.querySelector('.bar').ariaValueNow > 25");
    let arcs = browser.script(
        "return [...document.querySelectorAll('.arc:not(.track)')].map((arc) => arc.getAttribute('stroke'))",
    );
    assert_eq!(arcs, json!(COLORS));
    let bar = "[...document.querySelectorAll('.bar i')].map((fill) => [getComputedStyle(fill).backgroundColor, fill.style.width])";
    let bar = browser.script(&format!("return {bar}"));
    assert_eq!((&bar[0][0], &bar[0][1]), (&json!("rgb(170, 17, 34)"), &json!("100%")), "the first phase is over");
    assert_eq!(bar[1][0], "rgb(34, 170, 51)");
    assert_ne!(bar[1][1], "0%");
    assert_eq!(bar[2][1], "0%");
    let flex =
        browser.script("return [...document.querySelectorAll('.bar > span')].map((part) => part.style.flexGrow)");
    assert_eq!(flex, json!(["0.1", "0.7", "0.2"]), "each phase has the room of its weight");
    let figure = |name: &str| {
        format!(
            "[...document.querySelectorAll('#job-card .figures div')].find((row) => row.firstChild.textContent === '{name}').lastChild.textContent"
        )
    };
    browser.wait_for(&format!("/^[1-9][0-9.]* MiB of 9.1 MiB$/.test({})", figure("Data")));
    browser.wait_for(&format!("/^[1-3] of 4$/.test({})", figure("Files")));
    browser.wait_for(&format!("/^[0-9.]+ [KM]iB.s$/.test({})", figure("Rate")));
    browser.wait_for(&format!("/^[1-9][0-9]* s$/.test({})", figure("Elapsed")));
    browser.wait_for(&format!("/^[1-9][0-9]* s$/.test({})", figure("Left")));
    browser.wait_for("document.querySelector('.chart .line').getAttribute('d').split('L').length > 3");
    browser.wait_for_text(".chart", "peak");
    browser.wait_for_text("#job-card .now", "large.raw");
    let rows = "[...document.querySelectorAll('#job-card [role=listitem]')].map((row) => [row.firstChild.textContent, row.dataset.state].join())";
    browser.wait_for(&format!(
        "{rows}.join(' ') === 'album/below/two.jpg,sent album/one.jpg,sent large.raw,sending zebra.txt,waiting'"
    ));
    browser.wait_for_text("#job-card [data-state=sending]", " %");
    page.completed();
    browser.wait_for(&format!("{rows}.every((row) => row.endsWith(',sent'))"));
    browser.assert_quiet();
}

#[test]
fn a_folder_of_this_host_is_browsed_to_and_backed_up() {
    let page = Page::open();
    let browser = &page.browser;
    page.workplace.write("photos/ada.jpg", tree::bytes(1, 50_000));
    page.workplace.write("photos/notes/x.txt", b"x");
    browser.click("#tab-host");
    browser.wait_for("document.querySelector('.host-browser .crumb')");
    // From the root down, one click for each folder.
    browser.click(".host-browser .crumb");
    let folder = page.workplace.path().to_path_buf();
    for step in folder.iter().skip(1) {
        browser.click_text(step.to_str().unwrap());
        browser.wait_for_text(".host-browser .crumbs", step.to_str().unwrap());
    }
    browser.wait_for_text(".host-browser .entries", "photos");
    let photos = folder.join("photos").display().to_string();
    browser.click(&format!("[aria-label='Back up {photos}']"));
    browser.wait_for_text("#from-host", &photos);
    browser.enter("#label", "evening");
    browser.click("#start");
    page.completed();
    let stored = page.gui.get("/api/snapshots").expect(200)["snapshots"][0].clone();
    assert_eq!((&stored["label"], &stored["files"]), (&json!("evening"), &json!(2)));
    browser.assert_quiet();
}

#[test]
fn an_upload_is_paused_resumed_and_cancelled() {
    let page = Page::open_slow();
    let browser = &page.browser;
    let large = page.begin_large(8_000_000);
    browser.click_text("Pause");
    browser.wait_for_text("#job-card .badge", "paused");
    browser.click_text("Resume");
    browser.wait_for_text("#job-card .badge", "backing up");
    browser.click_text("Cancel…");
    browser.wait_for_text("dialog", "Cancel this job?");
    browser.press(ESCAPE);
    browser.wait_for("!document.querySelector('dialog')");
    assert_eq!(browser.script("return document.activeElement.textContent"), "Cancel…", "the focus comes back");
    browser.click_text("Cancel…");
    browser.click_text("Cancel the job");
    browser.wait_for_text("#job-card .badge", "cancelled");
    assert_eq!(page.gui.get("/api/snapshots").expect(200)["snapshots"], json!([]));
    // The same once more, to its end.
    page.choose(std::slice::from_ref(&large));
    browser.click("#start");
    page.completed();
    let answer = page.gui.get("/api/snapshots/latest/file?path=uploads/large.raw");
    assert!(answer.body == std::fs::read(large).unwrap(), "what was sent in pieces is whole");
    browser.assert_quiet();
}

#[test]
fn after_a_reload_the_job_is_shown_and_its_files_are_picked_again() {
    let page = Page::open_slow();
    let browser = &page.browser;
    // More than all that the browser and the bridge have under way.
    let large = page.begin_large(20_000_000);
    let other = page.workplace.write("other.raw", b"not the same");
    browser.reload();
    browser.wait_for_text("#job-card", "pick the same 1 file again");
    browser.click_text("Pick the files again…");
    browser.enter("dialog input[type=file]", other.to_str().unwrap());
    browser.wait_for_text("dialog", "not the same");
    assert_eq!(browser.script("return document.querySelector('dialog .primary').disabled"), true);
    browser.press(ESCAPE);
    browser.wait_for("!document.querySelector('dialog')");
    browser.click_text("Pick the files again…");
    browser.enter("dialog input[type=file]", large.to_str().unwrap());
    browser.click_text("Go on with the upload");
    page.completed();
    let answer = page.gui.get("/api/snapshots/latest/file?path=uploads/large.raw");
    assert!(answer.body == std::fs::read(large).unwrap());
    browser.assert_quiet();
}

#[test]
fn a_list_of_many_files_stays_quick() {
    const FILES: usize = 12_000;
    let page = Page::open();
    let browser = &page.browser;
    let folder = page.workplace.join("many");
    for number in 0..FILES {
        page.workplace.write(format!("many/{:03}/{number}.txt", number / 100), b"x");
    }
    browser.enter("#folder-input", folder.to_str().unwrap());
    browser.wait_for_text("#picked", "12,000 files");
    let took = browser.script(
        "const rows = document.querySelector('#picked .rows'); const began = performance.now(); \
         for (let at = 0; at <= 20; at += 1) { \
             rows.scrollTop = rows.scrollHeight * at / 20; rows.dispatchEvent(new Event('scroll')); rows.offsetHeight; } \
         return performance.now() - began",
    );
    assert!(took.as_f64().unwrap() < 1_000.0, "scrolling through took {took} ms");
    let rows = browser.script("return document.querySelectorAll('#picked [role=listitem]').length");
    assert!(rows.as_u64().unwrap() < 60, "{rows} rows exist");
    browser.assert_quiet();
}

#[test]
fn small_files_go_together_and_are_stored_as_they_were() {
    const FILES: usize = 2_000;
    let page = Page::open();
    let browser = &page.browser;
    let folder = page.workplace.join("many");
    tree::many_files(&folder, FILES);
    browser.enter("#folder-input", folder.to_str().unwrap());
    browser.wait_for_text("#picked", "2,000 files");
    browser.script("performance.setResourceTimingBufferSize(5000)");
    let began = std::time::Instant::now();
    browser.click("#start");
    page.completed();
    let took = began.elapsed();
    let requests = browser.script(
        "return performance.getEntriesByType('resource').filter(({name}) => /files.[0-9]/.test(name)).length",
    );
    eprintln!("{FILES} small files in {requests} requests: {took:?}");
    assert!(requests.as_u64().unwrap() < 50, "{requests} requests");
    let to = page.workplace.join("restored");
    let made = page.gui.post("/api/restore", json!({"to": to})).expect(202);
    page.gui.wait_for(made["job_id"].as_str().unwrap(), "completed");
    let files = tree::files_below(&folder);
    assert_eq!(files.len(), FILES);
    for file in files {
        let restored = to.join("uploads").join(file.strip_prefix(page.workplace.path()).unwrap());
        assert!(std::fs::read(restored).unwrap() == std::fs::read(&file).unwrap(), "{}", file.display());
    }
    browser.assert_quiet();
}

#[test]
fn a_backup_is_made_with_the_keyboard_alone() {
    let page = Page::open();
    let browser = &page.browser;
    page.choose(&page.files(100_000)[..3]);
    browser.wait_for_text("#picked", "3 files");
    browser.script("document.getElementById('label').focus()");
    browser.press("keys");
    browser.press(ENTER);
    page.completed();
    browser.wait_for(
        "[...document.querySelectorAll('[role=status]')].some((one) => one.textContent.includes('completed'))",
    );
    assert_eq!(page.gui.get("/api/snapshots").expect(200)["snapshots"][0]["label"], "keys");
    browser.assert_quiet();
}
