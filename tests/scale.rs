//! Many entries: memory stays flat on both sides, and a run costs what changed, not what there is.
//!
//! The million lies behind `--ignored`; it needs two million inodes in `/dev/shm`, or where temporary files go.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Run, TestClient, TestServer, Workplace, kill, tree, wait_until};

/// What either side may ever have resident.
const MEMORY_KIB_MAX: u64 = 24 * 1024;
/// How long one run over a million entries may take.
const LONG_RUN: Duration = Duration::from_secs(900);
/// A file that was changed so lately may be read again by the next backup: two seconds, and what rounding adds.
const SETTLED_AFTER: Duration = Duration::from_millis(4_100);

#[test]
fn fifty_thousand_names_in_one_folder_take_flat_memory() {
    let workplace = Workplace::in_memory();
    let tree = workplace.join("tree");
    fill(&tree, 50_000);
    Scale { files: 50_000, unchanged_bytes_max: 64 * 1024 }.check(&workplace, &tree);
}

#[test]
fn twenty_thousand_unchanged_files_cost_less_than_64_kib() {
    let workplace = Workplace::in_memory();
    let tree = workplace.join("tree");
    (0..100).for_each(|folder| fill(&tree.join(format!("folder-{folder:03}")), 200));
    Scale { files: 20_000, unchanged_bytes_max: 64 * 1024 }.check(&workplace, &tree);
}

#[test]
#[ignore = "long: a million files"]
fn a_million_names_in_one_folder_take_flat_memory() {
    let workplace = Workplace::in_memory();
    let tree = workplace.join("tree");
    fill(&tree, 1_000_000);
    Scale { files: 1_000_000, unchanged_bytes_max: 1024 * 1024 }.check(&workplace, &tree);
}

#[test]
#[ignore = "long: a million files"]
fn a_million_entries_in_twenty_thousand_folders_take_flat_memory() {
    let workplace = Workplace::in_memory();
    let tree = workplace.join("tree");
    (0..20_000).for_each(|folder| fill(&tree.join(format!("folder-{folder:05}")), 50));
    Scale { files: 1_000_000, unchanged_bytes_max: 1024 * 1024 }.check(&workplace, &tree);
}

/// Makes a folder of so many empty files, not in the order of their names.
fn fill(folder: &Path, files: u64) {
    fs::create_dir_all(folder).unwrap();
    for number in 0..files {
        // A prime that divides no number of files here: each name comes once.
        File::create(folder.join(format!("photograph-{:08}.jpeg", number * 7_919 % files))).unwrap();
    }
}

/// What is expected of a tree.
struct Scale {
    files: u64,
    /// On the wire, and on the disk, of a run in which nothing changed.
    unchanged_bytes_max: u64,
}

impl Scale {
    fn check(&self, workplace: &Workplace, tree: &Path) {
        let made = Instant::now();
        let server = TestServer::start(workplace);
        let client = TestClient::new(workplace, &server.address, "ada");
        wait_until(|| made.elapsed() > SETTLED_AFTER, "the files to be old enough to count as unchanged");
        self.backup(&client, tree, self.files);
        let before = index_bytes(&server.data);
        let unchanged = self.backup(&client, tree, 0);
        let stored = index_bytes(&server.data) - before;
        println!("unchanged: {unchanged} bytes on the wire, {stored} on the disk");
        assert!(unchanged.max(stored) < self.unchanged_bytes_max);

        let changed = first_file(tree);
        fs::write(&changed, "changed").unwrap();
        let before = index_bytes(&server.data);
        let one = self.backup(&client, tree, 1);
        let stored = index_bytes(&server.data) - before;
        println!("one changed: {one} bytes on the wire, {stored} on the disk");
        assert!(one.max(stored) < 1024 * 1024);

        let began = Instant::now();
        let words = ["restore".as_ref(), "--to".as_ref(), OsStr::new("restored"), changed.as_os_str()];
        measure("restore of one", client.command(words));
        assert!(began.elapsed() < Duration::from_secs(1), "restoring one file took {:?}", began.elapsed());
        let restored = workplace.join("restored").join(changed.strip_prefix("/").unwrap());
        assert_eq!(fs::read(restored).unwrap(), b"changed");
        println!("the server's memory: {} KiB", server.peak_memory_kib());
        assert!(server.peak_memory_kib() < MEMORY_KIB_MAX);
    }

    /// Backs up and gives the bytes on the wire.
    fn backup(&self, client: &TestClient<'_>, tree: &Path, files_sent: u64) -> u64 {
        let words = ["backup".as_ref(), "--json".as_ref(), OsStr::new("--quiet"), tree.as_os_str()];
        let summary = measure("backup", client.command(words)).event("summary");
        let counts = (summary["files"].as_u64().unwrap(), summary["files_sent"].as_u64().unwrap());
        assert_eq!(counts, (self.files, files_sent));
        summary["wire_bytes"].as_u64().unwrap()
    }
}

/// Runs the client to a good end within its memory.
fn measure(what: &str, mut command: Command) -> Run {
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let id = child.id();
    let peak = thread::spawn(move || watch_memory(id, began + LONG_RUN));
    let output = child.wait_with_output().expect("the program can be waited for");
    let peak = peak.join().unwrap();
    println!("{what}: {:.2} s, {peak} KiB", began.elapsed().as_secs_f64());
    assert!(peak < MEMORY_KIB_MAX, "{what}: {peak} KiB");
    let code = output.status.code().unwrap_or(-1);
    Run { code, stdout: output.stdout, stderr: output.stderr }.expect(0)
}

/// The most memory that a process has resident until it ends, in KiB; ends it at the deadline.
fn watch_memory(id: u32, deadline: Instant) -> u64 {
    let mut peak = 0;
    while let Some(now) = memory_kib(id) {
        peak = now;
        if Instant::now() > deadline {
            kill(id, "KILL");
        }
        thread::sleep(Duration::from_millis(5));
    }
    peak
}

/// The peak so far; none once the process has ended.
fn memory_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Some file in the tree.
fn first_file(tree: &Path) -> PathBuf {
    let first = fs::read_dir(tree).unwrap().next().expect("the tree is not empty").unwrap().path();
    if first.is_dir() { first_file(&first) } else { first }
}

/// What the server keeps to say what there is: heads, indexes and ranges.
fn index_bytes(data: &Path) -> u64 {
    ["snapshots", "ranges"].iter().map(|name| tree::bytes_below(&data.join(name))).sum()
}
