//! A backup that is cut off, by a kill on either side or by the line, and the same command again: it goes on
//! where it was, and what is stored in the end is whole.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::encryption::line::{Harm, Line, Way};
use crate::support::{TestClient, TestServer, Workplace, kill, tree, wait_until};

const MIB: usize = 1024 * 1024;

/// Large files and many small ones, `mebibytes` in all.
fn mixed(workplace: &Workplace, mebibytes: usize) -> PathBuf {
    let root = workplace.join("source");
    tree::many_files(&root.join("small"), 1_000);
    let large = root.join("large");
    fs::create_dir_all(&large).unwrap();
    for number in 0..mebibytes / 2 {
        fs::write(large.join(format!("{number:04}")), tree::bytes(number as u64, 2 * MIB)).unwrap();
    }
    wait_for_age(&large.join(format!("{:04}", mebibytes / 2 - 1)));
    root
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn start(client: &TestClient<'_>, source: &Path) -> Child {
    let mut command = client.command([OsStr::new("backup"), "--quiet".as_ref(), source.as_os_str()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Waits until the server has staged this many bytes more, or the run has ended.
fn wait_for_progress(run: &mut Child, data: &Path, more: u64) {
    let incoming = data.join("incoming");
    let before = bytes_below(&incoming);
    wait_until(
        || bytes_below(&incoming) >= before + more || run.try_wait().unwrap().is_some(),
        "the upload to get on",
    );
}

/// Kills both sides in turn, `times` in all, each time a little further on; then lets the backup end.
fn survives_kills(mebibytes: usize, times: u64) {
    let workplace = Workplace::new();
    let source = mixed(&workplace, mebibytes);
    let mut server = TestServer::start(&workplace);
    let step = (mebibytes * MIB) as u64 / (times + 2);
    for round in 0..times {
        let client = TestClient::new(&workplace, &server.address, "ada");
        let mut run = start(&client, &source);
        wait_for_progress(&mut run, &server.data, step + round * 7_919 % step);
        if round % 2 == 1 {
            server.kill();
            kill(run.id(), "KILL");
            run.wait().unwrap();
            server = TestServer::start(&workplace);
        } else {
            kill(run.id(), "KILL");
            run.wait().unwrap();
        }
    }
    let client = TestClient::new(&workplace, &server.address, "ada");
    assert_eq!(client.run(["snapshots", "--json"]).expect(0).out(), "", "nothing half is shown");
    let words = [OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
    let summary = client.run(words).expect(0).event("summary");
    let (sent, all) = (summary["bytes_sent"].as_u64().unwrap(), summary["bytes"].as_u64().unwrap());
    assert!(sent < all / 2, "{sent} of {all} bytes were sent in the last run");
    tree::assert_same(&source, &client.restore(&source, "restored"));
    client.run(["verify"]).expect(0);
    assert_eq!(bytes_below(&server.data.join("incoming")), 0, "nothing is left of the upload");
}

#[test]
fn a_backup_goes_on_after_kills_of_either_side() {
    survives_kills(80, 4);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_goes_on_after_fifty_kills() {
    survives_kills(300, 50);
}

/// One file, and a line to the server that counts what goes there.
struct OneFile {
    workplace: Workplace,
    server: TestServer,
    file: PathBuf,
    sent: Arc<AtomicU64>,
}

impl OneFile {
    fn new(mebibytes: usize) -> OneFile {
        let workplace = Workplace::new();
        let file = workplace.write("source/large", tree::bytes(9, mebibytes * MIB));
        wait_for_age(&file);
        let server = TestServer::start(&workplace);
        OneFile { workplace, server, file, sent: Arc::default() }
    }

    /// A line that ends each connection when so many bytes have gone to the server on it.
    fn line(&self, bytes_max: u64) -> Line {
        let (sent, pace) = (self.sent.clone(), Duration::from_micros(300));
        Line::start(&self.server.address, move |_, way| -> Harm {
            let (sent, mut on_this) = (sent.clone(), 0);
            Box::new(move |frame| {
                if way == Way::ToServer {
                    // No faster than some 50 MiB/s, so that a kill hits what it is meant for.
                    thread::sleep(pace);
                    on_this += frame.len() as u64;
                    sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                }
                (on_this <= bytes_max).then_some(frame)
            })
        })
    }

    fn client(&self, line: &Line) -> TestClient<'_> {
        TestClient::new(&self.workplace, &line.address, "ada")
    }

    /// Starts a backup, and kills it, or the server, when `bytes` more have come.
    fn cut_off(&mut self, bytes: u64, kill_server: bool) {
        let line = self.line(u64::MAX);
        let before = self.sent.load(Ordering::Relaxed);
        let mut run = start(&self.client(&line), &self.file);
        let come = || self.sent.load(Ordering::Relaxed) >= before + bytes;
        wait_until(|| come() || run.try_wait().unwrap().is_some(), "the upload to get on");
        kill(if kill_server { self.server.id() } else { run.id() }, "KILL");
        kill(run.id(), "KILL");
        run.wait().unwrap();
        if kill_server {
            self.server = TestServer::start(&self.workplace);
        }
    }

    /// The backup to its end; all that went to the server since the beginning must be little more than the file.
    fn finish(&self, line: &Line, flags: &[&str]) {
        let client = self.client(line);
        let words = ["backup", "--json", "--quiet"].iter().chain(flags).map(|word| OsStr::new(word));
        let summary = client.run(words.chain([self.file.as_os_str()])).expect(0).event("summary");
        let (sent, size) = (self.sent.load(Ordering::Relaxed), fs::metadata(&self.file).unwrap().len());
        println!("{sent} bytes to the server for a file of {size}; the last run sent {}", summary["bytes_sent"]);
        assert!(sent <= size * 11 / 10, "{sent} bytes to the server for a file of {size}");
        tree::assert_same(&self.file, &client.restore(&self.file, "restored"));
        client.run(["verify"]).expect(0);
        assert_eq!(bytes_below(&self.server.data.join("incoming")), 0, "nothing is left of the upload");
    }
}

/// What was written to within seconds of being read is read again, whatever is stored of it.
fn wait_for_age(file: &Path) {
    let age = || fs::metadata(file).unwrap().modified().unwrap().elapsed().unwrap_or_default();
    wait_until(|| age() > Duration::from_secs(5), "the file to be of some age");
}

/// Kills and a bad line, each in the middle of one file.
fn one_file_goes_on(mebibytes: usize) {
    let third = (mebibytes * MIB / 3) as u64;
    let mut killed = OneFile::new(mebibytes);
    killed.cut_off(third, false);
    killed.cut_off(third, true);
    killed.finish(&killed.line(u64::MAX), &[]);
    let dropped = OneFile::new(mebibytes);
    dropped.finish(&dropped.line(third / 2), &["--retries", "20", "--retry-max-wait", "1"]);
}

#[test]
fn one_file_goes_on_inside_after_kills_of_either_side_and_over_a_line_that_drops() {
    one_file_goes_on(60);
}

#[test]
#[ignore = "long: 300 MiB twice"]
fn one_file_of_300_mebibytes_goes_on_inside() {
    one_file_goes_on(300);
}

#[test]
fn a_large_delta_goes_on_inside_and_a_dry_run_tells_what_is_lacking() {
    let mut case = OneFile::new(60);
    let summary = |case: &OneFile, flags: &[&str]| {
        let line = case.line(u64::MAX);
        let words = ["backup", "--json", "--quiet"].iter().chain(flags).map(|word| OsStr::new(word));
        case.client(&line).run(words.chain([case.file.as_os_str()])).expect(0).event("summary")
    };
    summary(&case, &[]);
    let file = fs::OpenOptions::new().write(true).open(&case.file).unwrap();
    // Half of it changes, in stretches of 1 MiB.
    for place in (0..60).step_by(2) {
        file.write_all_at(&tree::bytes(100 + place, MIB), place * MIB as u64).unwrap();
    }
    wait_for_age(&case.file);
    let bytes = |summary: &serde_json::Value| summary["bytes_sent"].as_u64().unwrap();
    let whole = bytes(&summary(&case, &["--dry-run"]));
    assert_eq!(whole, 30 * MIB as u64, "of a changed large file only what differs counts");
    case.sent.store(0, Ordering::Relaxed);
    case.cut_off(15 * MIB as u64, true);
    let on_the_way = case.sent.load(Ordering::Relaxed);
    let lacking = bytes(&summary(&case, &["--dry-run"]));
    let last = bytes(&summary(&case, &[]));
    println!("{on_the_way} bytes sent, {lacking} lacking, {last} sent in the end");
    assert_eq!(lacking, last);
    let all = case.sent.load(Ordering::Relaxed);
    assert!(all <= 33 * MIB as u64, "{all} bytes to the server for 30 MiB that changed");
    let line = case.line(u64::MAX);
    tree::assert_same(&case.file, &case.client(&line).restore(&case.file, "restored"));
    case.client(&line).run(["verify"]).expect(0);
}

#[test]
fn an_answer_that_was_lost_with_its_run_does_not_stand_for_a_later_backup() {
    let workplace = Workplace::new();
    let source = mixed(&workplace, 2);
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let first = client.backup(&source);
    // As if the run had been killed between the commit and its note of it.
    let note = client.state().join("upload.json");
    assert!(!note.exists(), "a stored upload is no longer unfinished");
    let mut run = start(&client, &source);
    wait_until(|| note.exists() || run.try_wait().unwrap().is_some(), "the note of the upload");
    let kept = fs::read(&note);
    assert!(run.wait().unwrap().success());
    if let Ok(kept) = kept {
        fs::write(&note, kept).unwrap();
    }
    fs::write(source.join("new"), "new").unwrap();
    let last = client.backup(&source);
    assert_ne!(first, last);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}
