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
use crate::support::random::Random;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{TestClient, TestServer, Workplace, kill, tree, wait_until};

const MIB: usize = 1024 * 1024;

/// Files of 32 MiB in the mixed tree.
const HUGE_FILES: usize = 5;

/// What a tree is made of.
#[derive(Clone, Copy)]
struct Mix {
    /// Files of up to 16 KiB.
    small: usize,
    /// Files of 120 KiB, of 2 MiB and of 32 MiB.
    medium: usize,
    large: usize,
    huge: usize,
}

fn mixed(workplace: &Workplace, mix: Mix) -> PathBuf {
    let root = workplace.join("source");
    tree::many_files(&root.join("small"), mix.small);
    let sizes = [("medium", mix.medium, 120 * 1024), ("large", mix.large, 2 * MIB), ("huge", mix.huge, 32 * MIB)];
    let mut last = root.clone();
    for (name, count, size) in sizes {
        fs::create_dir_all(root.join(name)).unwrap();
        for number in 0..count {
            last = root.join(name).join(format!("{number:04}"));
            fs::write(&last, tree::bytes(number as u64, size)).unwrap();
        }
    }
    wait_for_age(&last);
    root
}

fn start(client: &TestClient<'_>, source: &Path) -> Child {
    let mut command = client.command([OsStr::new("backup"), "--quiet".as_ref(), source.as_os_str()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// A server that is killed and started again, behind a line that counts what goes over it.
struct Place<'a> {
    workplace: &'a Workplace,
    data: String,
    server: Option<TestServer>,
    line: SlowLine,
    port: String,
}

impl<'a> Place<'a> {
    fn new(workplace: &'a Workplace, data: &str) -> Place<'a> {
        let server = TestServer::start_with(workplace, data, &["--rsa-bits", "2048"]);
        let port = server.address.rsplit(':').next().unwrap().to_string();
        let line = SlowLine::start(&server.address, Nature::default());
        Place { workplace, data: data.to_string(), server: Some(server), line, port }
    }

    fn client(&self, user: &str) -> TestClient<'_> {
        TestClient::new(self.workplace, &self.line.address, user)
    }

    /// Starts a backup, and ends it, or the server beneath it, when so many bytes more have gone over the line.
    fn cut_off(&mut self, user: &str, source: &Path, bytes: u64, kill_server: bool) {
        let moment = self.line.carried() + bytes;
        let mut run = start(&self.client(user), source);
        wait_until(|| self.line.carried() >= moment || run.try_wait().unwrap().is_some(), "the upload to get on");
        if kill_server {
            self.server.take().unwrap().kill();
        }
        kill(run.id(), "KILL");
        run.wait().unwrap();
        if kill_server {
            let flags = ["--rsa-bits", "2048", "--port", &self.port];
            self.server = Some(TestServer::start_with(self.workplace, &self.data, &flags));
        }
    }

    /// The same command to its end: it completes, what it stored restores identically, and in all it sent at most a
    /// tenth more than one that nobody disturbed.
    fn finish(&self, user: &str, source: &Path) {
        let (client, server) = (self.client(user), self.server.as_ref().unwrap());
        assert_eq!(client.run(["snapshots", "--json"]).expect(0).out(), "", "nothing half is shown");
        let words = [OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
        client.run(words).expect(0);
        let carried = self.line.carried();
        let restored = format!("restored-{}", self.data);
        tree::assert_same(source, &client.restore(source, &restored));
        fs::remove_dir_all(self.workplace.join(&restored)).unwrap();
        client.run(["verify"]).expect(0);
        assert_eq!(tree::bytes_below(&server.data.join("incoming")), 0, "nothing is left of the upload");

        let other = TestClient::new(self.workplace, &server.address, "undisturbed");
        let once = other.run(words).expect(0).event("summary")["wire_bytes"].as_u64().unwrap();
        println!("{carried} bytes, {once} in one go: {:.1} %", carried as f64 * 100.0 / once as f64);
        assert!(carried * 10 <= once * 11, "{carried} bytes instead of {once}");
    }
}

/// Kills one side or both, `times` in all, each time at a random moment a little further on; then lets the backup
/// end.
fn survives_kills(mix: Mix, times: u64) {
    let workplace = Workplace::new();
    let source = mixed(&workplace, mix);
    let bytes = tree::bytes_below(&source);
    let mut place = Place::new(&workplace, "data");
    let mut random = Random::new(times);
    for round in 0..times {
        // Three fifths of an equal share on the average: it is not to end before the last of them.
        place.cut_off("ada", &source, random.below(bytes * 6 / 5 / times), round % 2 == 1);
    }
    place.finish("ada", &source);
}

/// Kills one side or both once, at a random moment, `times` over, each time in a backup of its own.
fn survives_single_kills(mix: Mix, times: u64) {
    let workplace = Workplace::new();
    let source = mixed(&workplace, mix);
    let bytes = tree::bytes_below(&source);
    let mut random = Random::new(times + 1);
    for round in 0..times {
        let mut place = Place::new(&workplace, &format!("data-{round}"));
        place.cut_off("ada", &source, random.below(bytes), round % 2 == 1);
        place.finish("ada", &source);
        let data = workplace.join(&place.data);
        fs::remove_dir_all(place.client("ada").state()).unwrap();
        fs::remove_dir_all(place.client("undisturbed").state()).unwrap();
        drop(place);
        fs::remove_dir_all(data).unwrap();
    }
}

/// Some 300 MiB.
const LARGE_MIX: Mix = Mix { small: 4_000, medium: 300, large: 40, huge: HUGE_FILES };

#[test]
fn a_backup_goes_on_after_kills_of_either_side() {
    survives_kills(Mix { small: 1_000, medium: 300, large: 20, huge: 0 }, 4);
}

#[test]
fn a_backup_goes_on_after_a_kill_at_any_moment() {
    survives_single_kills(Mix { small: 500, medium: 100, large: 16, huge: 0 }, 4);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_of_small_files_goes_on_after_fifty_kills() {
    survives_kills(Mix { small: 8_000, medium: 2_000, large: 0, huge: 0 }, 50);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_goes_on_after_fifty_kills() {
    survives_kills(LARGE_MIX, 50);
}

#[test]
#[ignore = "long: fifty backups of 300 MiB"]
fn a_backup_goes_on_after_a_kill_at_any_of_fifty_moments() {
    survives_single_kills(LARGE_MIX, 50);
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
        let words = ["backup", "--json", "--quiet"].iter().chain(flags).map(OsStr::new);
        let summary = client.run(words.chain([self.file.as_os_str()])).expect(0).event("summary");
        let (sent, size) = (self.sent.load(Ordering::Relaxed), fs::metadata(&self.file).unwrap().len());
        println!("{sent} bytes to the server for a file of {size}; the last run sent {}", summary["bytes_sent"]);
        assert!(sent <= size * 11 / 10, "{sent} bytes to the server for a file of {size}");
        tree::assert_same(&self.file, &client.restore(&self.file, "restored"));
        client.run(["verify"]).expect(0);
        assert_eq!(tree::bytes_below(&self.server.data.join("incoming")), 0, "nothing is left of the upload");
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
    dropped.finish(&dropped.line(third / 2), &["--retries", "2", "--retry-max-wait", "1"]);
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
        let words = ["backup", "--json", "--quiet"].iter().chain(flags).map(OsStr::new);
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
    let source = mixed(&workplace, Mix { small: 1_000, medium: 0, large: 1, huge: 0 });
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
