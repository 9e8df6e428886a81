//! What a run tells while it goes on: phases in order, progress that never goes back, a receipt for each
//! file, and the line at the end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Event, Run, TestClient, TestServer, Workplace, closed_address, tree};

fn phases(run: &Run) -> Vec<String> {
    let events = run.events().into_iter().filter(|event| event.name == "status");
    events.map(|event| event.data["phase"].as_str().expect("a status names its phase").to_string()).collect()
}

fn updates(run: &Run) -> Vec<Value> {
    run.events().into_iter().filter(|event| event.name == "progress_update").map(|event| event.data).collect()
}

fn number(data: &Value, name: &str) -> u64 {
    data[name].as_u64().unwrap_or_else(|| panic!("{name} is no number in {data}"))
}

fn backup(client: &TestClient<'_>, source: &Path) -> Run {
    client.run([OsStr::new("backup"), "--json".as_ref(), source.as_os_str()]).expect(0)
}

/// A server, a client and a folder of some size.
fn with_a_tree(test: impl FnOnce(&TestClient<'_>, &Path)) {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 1_500);
    fs::write(source.join("large"), tree::bytes(7, 48 * 1024 * 1024)).unwrap();
    test(&TestClient::new(&workplace, &server.address, "ada"), &source);
}

#[test]
fn the_phases_of_a_backup_come_in_order_and_once() {
    with_a_tree(|client, source| {
        let run = backup(client, source);
        assert_eq!(phases(&run), ["CONNECT", "BACKUP_IN_PROGRESS", "CLEANUP", "COMPLETED"]);
        let names: Vec<String> = run.events().into_iter().map(|event| event.name).collect();
        assert_eq!(names[names.len() - 2..], ["status", "summary"]);
    });
}

#[test]
fn a_backup_that_fails_ends_in_the_phase_failed() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, &closed_address(), "ada");
    let run = client.run(["backup", "--json", "--retries", "0", "/etc/hostname"]).expect(4);
    assert_eq!(phases(&run), ["CONNECT", "FAILED"]);
    assert_eq!(run.events().last().unwrap().name, "error");
}

#[test]
fn progress_never_goes_back_and_ends_at_the_summarys_totals() {
    with_a_tree(|client, source| {
        let run = backup(client, source);
        let (updates, summary) = (updates(&run), run.event("summary"));
        for name in ["files_done", "bytes_transferred", "files_total", "total_bytes"] {
            let values: Vec<u64> = updates.iter().map(|update| number(update, name)).collect();
            assert!(values.is_sorted(), "{name} goes back: {values:?}");
        }
        for update in &updates {
            assert!(number(update, "files_done") <= number(&summary, "files"), "{update} {summary}");
            assert!(number(update, "bytes_transferred") <= number(&summary, "bytes"), "{update} {summary}");
        }
        let last = updates.last().expect("there is progress");
        let ends = [("files_done", "files"), ("files_total", "files"), ("bytes_transferred", "bytes")];
        for (told, counted) in ends.into_iter().chain([("total_bytes", "bytes")]) {
            assert_eq!(number(last, told), number(&summary, counted), "{told} in {last}, {summary}");
        }
        assert_eq!(last["counted"], true);
    });
}

#[test]
fn progress_of_a_backup_that_sends_nothing_ends_at_the_totals_too() {
    with_a_tree(|client, source| {
        backup(client, source);
        let run = backup(client, source);
        let (updates, summary) = (updates(&run), run.event("summary"));
        let last = updates.last().expect("there is progress");
        assert_eq!(number(last, "files_done"), number(&summary, "files"));
        assert_eq!(number(last, "bytes_transferred"), number(&summary, "bytes"));
    });
}

/// The receipts of a run by path: bytes, CRC32 and BLAKE3.
fn receipts(run: &Run) -> BTreeMap<String, (u64, String, String)> {
    let mut found = BTreeMap::new();
    for Event { name, data } in run.events() {
        if name != "file_receipt" {
            continue;
        }
        let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("no {name}: {data}")).to_string();
        let before = found.insert(text("path"), (number(&data, "bytes"), text("crc32"), text("blake3")));
        assert_eq!(before, None, "two receipts for {}", text("path"));
    }
    found
}

#[test]
fn each_file_gets_a_receipt_with_its_checksums_there_and_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    tree::many_files(&source, 300);
    fs::write(source.join("large"), tree::bytes(7, 3_000_000)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    let mut wanted = BTreeMap::new();
    for (name, look) in tree::look(&source).into_iter().filter(|(_, look)| look.kind == 'f') {
        let path = format!("{}{}", source.display(), name.display())[1..].to_string();
        let content = fs::read(Path::new("/").join(&path)).unwrap();
        let sums = (format!("{:08x}", crc32fast::hash(&content)), blake3::hash(&content).to_hex().to_string());
        wanted.insert(path, (look.size, sums.0, sums.1));
    }
    assert_eq!(wanted.len(), 302);
    assert!(receipts(&backup(&client, &source)) == wanted, "the receipts of the backup differ");
    let run = client.run(["restore", "--json", "--to", "to"]).expect(0);
    assert!(receipts(&run) == wanted, "the receipts of the restore differ");
}

#[test]
fn a_restore_tells_its_phases_and_progress() {
    with_a_tree(|client, source| {
        backup(client, source);
        let run = client.run(["restore", "--json", "--to", "to"]).expect(0);
        assert_eq!(phases(&run), ["CONNECT", "BACKUP_IN_PROGRESS", "COMPLETED"]);
        let (updates, summary) = (updates(&run), run.event("summary"));
        for name in ["files_done", "bytes_transferred"] {
            let values: Vec<u64> = updates.iter().map(|update| number(update, name)).collect();
            assert!(values.is_sorted(), "{name} goes back: {values:?}");
        }
        let last = updates.last().expect("there is progress");
        assert_eq!(number(last, "files_done"), number(&summary, "files"));
        assert_eq!(number(last, "bytes_transferred"), number(&summary, "bytes"));
        assert_eq!(number(last, "files_total"), number(&summary, "files"));
    });
}

/// Whether `text` is made like `pattern`: `#` stands for a number, whole or decimal, everything else for itself.
fn is_like(text: &str, pattern: &str) -> bool {
    let digits = |rest: &str| rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let mut rest = text;
    for (index, literal) in pattern.split('#').enumerate() {
        if index > 0 {
            let count = digits(rest);
            if count == 0 {
                return false;
            }
            rest = &rest[count..];
        }
        let Some(after) = rest.strip_prefix(literal) else { return false };
        rest = after;
    }
    rest.is_empty()
}

#[test]
fn the_last_line_says_files_bytes_seconds_rate_and_snapshot() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("source/file", vec![7; 20 * 1024 * 1024]);
    let run = client.run([OsStr::new("backup"), file.as_os_str()]).expect(0);
    let text = run.out();
    let (start, rest) = text.split_once(": ").expect("the snapshot is named first");
    let id = start.strip_prefix("snapshot ").expect("the snapshot is named first");
    assert!(client.run(["snapshots"]).expect(0).out().starts_with(id));
    let wanted = ["MiB/s", "KiB/s", "GiB/s"]
        .map(|unit| format!("1 file, 20.00 MiB; 1 file, 20.00 MiB sent in # s (# {unit})\n"));
    assert!(wanted.iter().any(|pattern| is_like(rest, pattern)), "{rest:?}");
    let run = client.run(["restore", "--to", "to"]).expect(0);
    let wanted = ["MiB/s", "KiB/s", "GiB/s"]
        .map(|unit| format!("restored snapshot {id} to to: 1 file, 20.00 MiB in 0.# s (# {unit})\n"));
    // The id has digits of its own: only what follows it is compared by pattern.
    let tail = run.out().replace(id, "");
    assert!(
        wanted.iter().any(|pattern| is_like(&tail, &pattern.replace(id, "").replace("0.#", "#"))),
        "{}",
        run.out()
    );
}

#[test]
fn nothing_is_drawn_where_nobody_watches() {
    with_a_tree(|client, source| {
        let run = client.run([OsStr::new("backup"), source.as_os_str()]).expect(0);
        assert!(!run.err().contains('\r') && !run.err().contains('\u{1b}'), "{:?}", run.err());
        assert_eq!(run.out().lines().count(), 1);
    });
}
