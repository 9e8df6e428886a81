//! What the tests of walking, reading and restoring share: an odd tree, a look at a tree that uses none of
//! the code under test, and a thread that is not root even where the tests are.

use std::ffi::{CString, OsStr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::roots::{Root, resolve_roots};
use super::scan::{ScanEnd, ScanOptions, ScanReport, ScanSink, ScannedRange, scan};
use crate::base::entry::{Entry, decode_entries};

/// A temporary folder that goes away even where folders in it are read-only.
pub struct TestFolder(tempfile::TempDir);

impl TestFolder {
    pub fn new() -> TestFolder {
        TestFolder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = Command::new("chmod").arg("-R").arg("u+rwX").arg(self.0.path()).output();
    }
}

/// Runs `test` without the rights of root: where the tests run as root, in a thread of another user.
pub fn without_root(test: impl FnOnce() + Send) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return test();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(NOBODY)).unwrap();
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(NOBODY)).unwrap();
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with what file systems allow and programs forget.
pub fn make_odd_tree(tree: &Path) {
    std::fs::create_dir(tree).unwrap();
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        long.as_bytes(),
        b"a\nb",
        b"\xff\xfe",
        b"-rf",
        b"Case",
        b"case",
        b" ",
        b"a",
        b"a!",
        b"a.b",
        b"*",
        b"back\\slash",
    ];
    for (number, name) in names.iter().enumerate() {
        let file = tree.join(OsStr::from_bytes(name));
        std::fs::write(&file, vec![number as u8; number * 30_000]).unwrap();
        set_mode(&file, [0o600, 0o444, 0o755, 0o1644][number % 4]);
        set_mtime(&file, number as i64 * 100_000_000 - 500_000_000, 123_456_789);
    }
    for (target, name) in [("nowhere", "dangling"), ("/", "out"), ("a", "to-a"), ("folder", "to-folder")] {
        std::os::unix::fs::symlink(target, tree.join(name)).unwrap();
        set_mtime(&tree.join(name), -77, 5);
    }
    for folder in ["empty", "folder", "folder/inner", "read-only", "read-only/inner", "folder!"] {
        std::fs::create_dir(tree.join(folder)).unwrap();
    }
    for file in ["folder/x", "folder/inner/x", "read-only/x", "read-only/inner/x", "folder!/x"] {
        std::fs::write(tree.join(file), file).unwrap();
    }
    make_deep(tree, 100);
    for folder in ["read-only/inner", "read-only"] {
        set_mode(&tree.join(folder), 0o555);
    }
    for folder in ["folder/inner", "folder", "read-only/inner", "read-only", "empty", ""] {
        set_mtime(&tree.join(folder), 1_000_000_007, 8);
    }
}

/// Folders within folders, each with a name of 255 bytes: a path too long for any one system call.
pub fn make_deep(tree: &Path, levels: usize) {
    let name = "d".repeat(255);
    let mut folder = rustix::fs::open(tree, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&folder, &name, Mode::RWXU).unwrap();
        folder = open_folder_at(&folder, name.as_bytes());
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, "bottom", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep down").unwrap();
}

fn open_folder_at(folder: impl AsFd, name: &[u8]) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty()).unwrap()
}

/// All that a restore has to bring back of one name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub path: Vec<u8>,
    pub mode: u32,
    pub mtime: (i64, i64),
    /// The bytes of a file, the target of a link.
    pub content: Vec<u8>,
}

/// Everything in a tree, itself included under the empty path, sorted by raw path bytes.
pub fn look(tree: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    let root = rustix::fs::open(tree, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    seen.push(seen_at(&root, b".", b""));
    look_in(&root, b"", &mut seen);
    seen.sort();
    seen
}

fn look_in(folder: &OwnedFd, path: &[u8], seen: &mut Vec<Seen>) {
    for found in rustix::fs::Dir::read_from(folder).unwrap() {
        let found = found.unwrap();
        let name = found.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = [path, b"/", name].concat();
        let one = seen_at(folder, name, &path);
        let is_folder = FileType::from_raw_mode(one.mode) == FileType::Directory;
        seen.push(one);
        if is_folder {
            look_in(&open_folder_at(folder, name), &path, seen);
        }
    }
}

fn seen_at(folder: &OwnedFd, name: &[u8], path: &[u8]) -> Seen {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let content = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let file = rustix::fs::openat(folder, name, OFlags::RDONLY, Mode::empty()).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).unwrap();
            bytes
        }
        FileType::Symlink => rustix::fs::readlinkat(folder, name, Vec::new()).map(CString::into_bytes).unwrap(),
        _ => Vec::new(),
    };
    let mtime = (stat.st_mtime, stat.st_mtime_nsec as i64);
    Seen { path: path.to_vec(), mode: stat.st_mode, mtime, content }
}

/// Keeps what a walk finds; `on_report` may change the tree under it.
pub struct Collected<F: FnMut(&ScanReport<'_>)> {
    pub ranges: Vec<ScannedRange>,
    pub reports: Vec<(String, String)>,
    on_report: F,
}

impl<F: FnMut(&ScanReport<'_>)> ScanSink for Collected<F> {
    fn range(&mut self, range: ScannedRange) -> ControlFlow<()> {
        self.ranges.push(range);
        ControlFlow::Continue(())
    }

    fn report(&mut self, report: ScanReport<'_>) {
        self.reports.push((String::from_utf8_lossy(report.path()).into_owned(), report.reason()));
        (self.on_report)(&report);
    }
}

impl<F: FnMut(&ScanReport<'_>)> Collected<F> {
    pub fn entries(&self) -> Vec<Entry> {
        self.ranges.iter().flat_map(|range| decode_entries(&range.bytes).unwrap()).collect()
    }

    /// The paths below `tree`, and `.` for itself.
    pub fn paths(&self, tree: &Path) -> Vec<String> {
        let entries = self.entries();
        entries.iter().map(|entry| below(&entry.path.display(), tree)).collect()
    }
}

/// A path as a person reads it, without the part above and with `tree` itself as `.`.
pub fn below(path: &str, tree: &Path) -> String {
    let prefix = tree.display().to_string();
    let rest = path.strip_prefix(&prefix[1..]).unwrap_or(path);
    if rest.is_empty() { ".".to_string() } else { rest.trim_start_matches('/').to_string() }
}

pub fn roots_of(paths: &[&Path]) -> Vec<Root> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    resolve_roots(&paths, Path::new("/")).unwrap().roots
}

pub fn walk_with<F: FnMut(&ScanReport<'_>)>(
    tree: &Path,
    options: &ScanOptions,
    on_report: F,
) -> (ScanEnd, Collected<F>) {
    let mut collected = Collected { ranges: Vec::new(), reports: Vec::new(), on_report };
    let end = scan(&roots_of(&[tree]), options, &mut collected);
    (end, collected)
}
