//! The walk: every file, folder and link below the roots as an entry, in path order, cut into ranges.
//!
//! Names are looked up relative to the handle of their folder and never through a link, so the walk stays
//! below its roots whatever is swapped meanwhile. A folder's names are sorted, and a folder is entered
//! directly after its own entry: that is the order of paths, without sorting more than one folder; a long
//! one is sorted on the disk, so that memory does not grow with it. What
//! cannot be read is named and the walk goes on; what vanishes under it is only counted, because a tree
//! that is in use always loses names.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};

use super::facts::{FileFacts, cause, file_type, kind_word};
use super::listing::{FolderReader, Listing, ListingLimits};
use super::owners::OwnerNames;
use super::ranges::RangeBuilder;
pub use super::ranges::{ScanTotals, ScannedItem, ScannedRange};
use super::roots::{Root, open_parent};
use crate::base::entry::{Entry, EntryKind};
use crate::base::folder::{FolderStack, Missing};
use crate::base::limits::LINK_TARGET_BYTES_MAX;
use crate::base::path::{EntryPath, display_bytes};
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;

/// Takes what the walk finds.
pub trait ScanSink {
    /// The next range. May block, which holds the walk back, or break, which ends it.
    fn range(&mut self, range: ScannedRange) -> ControlFlow<()>;

    /// Something that is not backed up, or not whole.
    fn report(&mut self, report: ScanReport<'_>);
}

/// What the walk leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanReport<'a> {
    /// By its kind there is nothing in it to back up.
    Skipped { path: &'a [u8], what: &'static str },
    /// The names in a folder, or the facts of a name. A folder's own entry is still there.
    Unreadable { path: &'a [u8], reason: String },
}

impl ScanReport<'_> {
    pub fn path(&self) -> &[u8] {
        match self {
            ScanReport::Skipped { path, .. } | ScanReport::Unreadable { path, .. } => path,
        }
    }

    /// The reason for a person.
    pub fn reason(&self) -> String {
        match self {
            ScanReport::Skipped { what, .. } => format!("skipped: it is {what}"),
            ScanReport::Unreadable { reason, .. } => reason.clone(),
        }
    }
}

/// A folder by what it is, not by what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderIdentity {
    pub device: u64,
    pub inode: u64,
}

impl FolderIdentity {
    /// The folder at `path`, links followed.
    pub fn of(path: &Path) -> io::Result<FolderIdentity> {
        Ok(FolderIdentity::from_stat(&rustix::fs::stat(path)?))
    }

    fn from_stat(stat: &Stat) -> FolderIdentity {
        let facts = FileFacts::of(stat);
        FolderIdentity { device: facts.device, inode: facts.inode }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Folders that are left out with all that is in them: the program's own.
    pub excluded: Vec<FolderIdentity>,
    /// Ends the walk at the next folder or range.
    pub shutdown: Shutdown,
    /// Where the names of long folders are sorted.
    pub state_folder: PathBuf,
    pub(super) limits: ListingLimits,
}

impl ScanOptions {
    pub fn new(excluded: Vec<FolderIdentity>, shutdown: Shutdown, state_folder: PathBuf) -> ScanOptions {
        ScanOptions { excluded, shutdown, state_folder, limits: ListingLimits::default() }
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanEnd {
    pub totals: ScanTotals,
    /// Whether everything was walked: neither the sink nor a shutdown ended it.
    pub complete: bool,
}

/// Walks `roots`, which are sorted and merged as [`super::roots::resolve_roots`] gives them.
pub fn scan(roots: &[Root], options: &ScanOptions, sink: &mut impl ScanSink) -> ScanEnd {
    let mut walk = Walk {
        sink,
        options,
        owners: OwnerNames::open(),
        reader: FolderReader::new(options.state_folder.clone(), options.limits),
        ranges: RangeBuilder::default(),
        scratch: blank_entry(),
        path: Vec::new(),
        totals: ScanTotals::default(),
    };
    let walked = roots.iter().try_for_each(|root| walk.root(root));
    let ended = walked.is_continue() && walk.finish().is_continue();
    ScanEnd { totals: walk.totals, complete: ended }
}

struct Walk<'a, S: ScanSink> {
    sink: &'a mut S,
    options: &'a ScanOptions,
    owners: OwnerNames,
    reader: FolderReader,
    ranges: RangeBuilder,
    /// Filled anew for each entry, so that names of owners are copied only where they change.
    scratch: Entry,
    /// The path of what is being looked at.
    path: Vec<u8>,
    totals: ScanTotals,
}

/// The way down from one root: handles, and the names still to visit at each level.
struct Descent {
    stack: FolderStack,
    levels: Vec<Level>,
    /// How much of the path lies above the stack's root.
    above: usize,
}

struct Level {
    listing: Listing,
    /// The length of this folder's path.
    path_length: usize,
    device: u64,
}

impl<S: ScanSink> Walk<'_, S> {
    fn root(&mut self, root: &Root) -> ControlFlow<()> {
        self.path.clear();
        self.path.extend_from_slice(root.path().map_or(&[], EntryPath::as_bytes));
        let above = root.parent().map_or(0, |parent| parent.as_bytes().len() + 1);
        let options = self.options;
        let opened = open_parent(root, |folder| match is_excluded(options, &rustix::fs::fstat(folder)?) {
            true => Err(io::Error::other("it lies in the program's own folder, which is never backed up")),
            false => Ok(()),
        });
        let mut descent = match opened {
            Ok(parent) => Descent { stack: FolderStack::below(parent), levels: Vec::new(), above },
            Err(error) => return self.unreadable(&error),
        };
        match root {
            Root::Everything => self.list_top(&mut descent)?,
            Root::Path(_) => match self.stat(&descent, above) {
                Ok(stat) => self.visit(&mut descent, above, &stat)?,
                Err(error) => self.unreadable(&error)?,
            },
        }
        self.descend(&mut descent)
    }

    /// Visits all that is left to visit at every level.
    fn descend(&mut self, descent: &mut Descent) -> ControlFlow<()> {
        while let Some(level) = descent.levels.last_mut() {
            self.path.truncate(level.path_length);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            let name_start = self.path.len();
            match self.reader.next_name(&mut level.listing, &mut self.path) {
                Ok(true) => {}
                Ok(false) => {
                    self.leave(descent);
                    continue;
                }
                // The names that are left are lost, those before them are not.
                Err(error) => {
                    self.path.truncate(level.path_length);
                    self.unreadable(&error)?;
                    self.leave(descent);
                    continue;
                }
            }
            match self.stat(descent, name_start) {
                Ok(stat) => self.visit(descent, name_start, &stat)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.totals.vanished += 1,
                Err(error) => self.unreadable(&error)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn stat(&self, descent: &Descent, name_start: usize) -> io::Result<Stat> {
        let name = &self.path[name_start..];
        Ok(rustix::fs::statat(descent.stack.top(), name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn visit(&mut self, descent: &mut Descent, name_start: usize, stat: &Stat) -> ControlFlow<()> {
        match file_type(stat) {
            FileType::RegularFile => self.send(EntryKind::File, stat, Vec::new()),
            FileType::Symlink => self.link(descent, name_start, stat),
            FileType::Directory => self.folder(descent, name_start, stat),
            other => self.skipped(kind_word(other)),
        }
    }

    fn link(&mut self, descent: &Descent, name_start: usize, stat: &Stat) -> ControlFlow<()> {
        let read = rustix::fs::readlinkat(descent.stack.top(), &self.path[name_start..], Vec::new());
        match read.map(std::ffi::CString::into_bytes) {
            Ok(target) if (1..=LINK_TARGET_BYTES_MAX).contains(&target.len()) => {
                self.send(EntryKind::Link, stat, target)
            }
            Ok(_) => self.unreadable(&io::Error::other("the link points nowhere that could be written down")),
            // Something else took the link's place.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => self.vanished(),
            Err(error) => self.unreadable(&error.into()),
        }
    }

    fn folder(&mut self, descent: &mut Descent, name_start: usize, stat: &Stat) -> ControlFlow<()> {
        if is_excluded(self.options, stat) {
            log::debug!("/{} is the program's own folder and is left out", display_bytes(&self.path));
            return ControlFlow::Continue(());
        }
        if let Err(error) = EntryPath::parse(&self.path) {
            return self.unreadable(&io::Error::other(error));
        }
        self.send(EntryKind::Folder, stat, Vec::new())?;
        self.enter(descent, name_start, stat)
    }

    /// Reads a folder's names, which are then what is visited next.
    fn enter(&mut self, descent: &mut Descent, name_start: usize, stat: &Stat) -> ControlFlow<()> {
        let device = FileFacts::of(stat).device;
        let is_mount = descent.levels.last().is_some_and(|above| above.device != device);
        match descent.stack.push(&self.path[name_start..], Missing::Fail) {
            Ok(folder) if is_mount && is_kernel_file_system(folder) => {
                self.leave_stack(descent);
                self.skipped("a file system of the kernel, with no files on any disk")
            }
            Ok(_) => self.list(descent, device),
            // Gone, or something else took the folder's place.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.vanished()
            }
            Err(error) => self.unreadable(&error),
        }
    }

    fn list_top(&mut self, descent: &mut Descent) -> ControlFlow<()> {
        match rustix::fs::fstat(descent.stack.top()) {
            Ok(stat) => self.list(descent, FileFacts::of(&stat).device),
            Err(error) => self.unreadable(&error.into()),
        }
    }

    fn list(&mut self, descent: &mut Descent, device: u64) -> ControlFlow<()> {
        if self.options.shutdown.is_requested() {
            return ControlFlow::Break(());
        }
        let (listing, outcome) = self.reader.list(descent.stack.top());
        descent.levels.push(Level { listing, path_length: self.path.len(), device });
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.unreadable(&error),
        }
    }

    fn leave(&mut self, descent: &mut Descent) {
        self.drop_level(descent);
        self.leave_stack(descent);
    }

    fn drop_level(&mut self, descent: &mut Descent) {
        if let Some(level) = descent.levels.pop() {
            self.reader.close(level.listing);
        }
    }

    /// Goes back up to the folder of the last level. Its handle may have been given up, and the folder
    /// moved away since: then the names that cannot be reached any more are given up, and said to be.
    fn leave_stack(&mut self, descent: &mut Descent) {
        if descent.stack.pop().is_ok() {
            return;
        }
        while let Some(level) = descent.levels.last() {
            let folder = &self.path[..level.path_length];
            let below = folder.get(descent.above..).and_then(|below| EntryPath::parse(below).ok());
            if descent.stack.enter(below.as_ref(), Missing::Fail).is_ok() {
                return;
            }
            if !level.listing.is_empty() {
                self.totals.unreadable += 1;
                let reason = "moved away while it was being read".to_string();
                self.sink.report(ScanReport::Unreadable { path: folder, reason });
            }
            self.drop_level(descent);
        }
    }

    fn send(&mut self, kind: EntryKind, stat: &Stat, link_target: Vec<u8>) -> ControlFlow<()> {
        let path = match EntryPath::parse(&self.path) {
            Ok(path) => path,
            Err(error) => return self.unreadable(&io::Error::other(error)),
        };
        self.fill_scratch(path, kind, stat, link_target);
        let full = self.ranges.add(&self.scratch);
        let emitted = full.map_or(ControlFlow::Continue(()), |range| self.emit(range));
        // Counted after the range before it has gone: its totals are its own.
        match kind {
            EntryKind::File => self.totals.files += 1,
            EntryKind::Folder => self.totals.folders += 1,
            EntryKind::Link => self.totals.links += 1,
        }
        self.totals.bytes += self.scratch.size;
        emitted
    }

    fn fill_scratch(&mut self, path: EntryPath, kind: EntryKind, stat: &Stat, link_target: Vec<u8>) {
        let facts = FileFacts::of(stat);
        let entry = &mut self.scratch;
        if entry.owner != facts.owner {
            entry.owner_name = self.owners.owner(facts.owner).to_vec();
        }
        if entry.group != facts.group {
            entry.group_name = self.owners.group(facts.group).to_vec();
        }
        (entry.path, entry.kind, entry.link_target) = (path, kind, link_target);
        entry.size = if kind == EntryKind::File { facts.size } else { 0 };
        (entry.mtime, entry.ctime) = (facts.mtime, facts.ctime);
        (entry.inode, entry.mode) = (facts.inode, facts.mode);
        (entry.owner, entry.group) = (facts.owner, facts.group);
    }

    fn emit(&mut self, range: ScannedRange) -> ControlFlow<()> {
        if self.options.shutdown.is_requested() {
            return ControlFlow::Break(());
        }
        self.sink.range(ScannedRange { totals: self.totals, ..range })
    }

    fn finish(&mut self) -> ControlFlow<()> {
        match self.ranges.take() {
            Some(range) => self.emit(range),
            None => ControlFlow::Continue(()),
        }
    }

    fn vanished(&mut self) -> ControlFlow<()> {
        self.totals.vanished += 1;
        ControlFlow::Continue(())
    }

    fn skipped(&mut self, what: &'static str) -> ControlFlow<()> {
        self.totals.skipped += 1;
        self.sink.report(ScanReport::Skipped { path: &self.path, what });
        ControlFlow::Continue(())
    }

    fn unreadable(&mut self, error: &io::Error) -> ControlFlow<()> {
        self.totals.unreadable += 1;
        self.sink.report(ScanReport::Unreadable { path: &self.path, reason: cause(error) });
        ControlFlow::Continue(())
    }
}

fn is_excluded(options: &ScanOptions, stat: &Stat) -> bool {
    options.excluded.contains(&FolderIdentity::from_stat(stat))
}

/// Whether a folder belongs to a file system that only shows the kernel's state. Its files have sizes that
/// mean nothing, and reading some of them does things.
fn is_kernel_file_system(folder: BorrowedFd<'_>) -> bool {
    // The numbers of linux/magic.h: proc, sysfs, devpts, cgroup, cgroup2, debugfs, tracefs, securityfs,
    // bpf, pstore, mqueue, hugetlbfs, configfs, selinux, efivarfs, binfmt_misc, rpc_pipefs, nsfs.
    const MAGIC_NUMBERS: [u32; 18] = [
        0x9fa0,
        0x6265_6572,
        0x1cd1,
        0x27_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6165_676c,
        0x1980_0202,
        0x9584_58f6,
        0x6265_6570,
        0xf97c_ff8c,
        0xde5e_81e4,
        0x4249_4e4d,
        0x6759_6969,
        0x6e73_6673,
    ];
    rustix::fs::fstatfs(folder.as_fd()).is_ok_and(|facts| MAGIC_NUMBERS.contains(&(facts.f_type as u32)))
}

/// An entry to be filled. The numbers of its owner and group are those without a name.
fn blank_entry() -> Entry {
    Entry {
        path: EntryPath::parse(b"-").expect("one component"),
        kind: EntryKind::Folder,
        size: 0,
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        inode: 0,
        mode: 0,
        owner: u32::MAX,
        group: u32::MAX,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        link_target: Vec::new(),
        hard_link: None,
        fields: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::*;
    use super::*;
    use crate::base::entry::decode_entries;

    #[test]
    fn an_odd_tree_comes_in_path_order_and_whole() {
        let folder = TestFolder::new();
        let tree = folder.path().join("tree");
        make_odd_tree(&tree);
        let (end, collected) = walk_with(&tree, &ScanOptions::default(), |_| {});
        let entries = collected.entries();
        assert!(entries.windows(2).all(|pair| pair[0].path < pair[1].path));
        assert_eq!((entries.len(), collected.reports), (look(&tree).len(), vec![]));
        let totals = end.totals;
        assert!(end.complete);
        assert_eq!(totals.files + totals.folders + totals.links, entries.len() as u64);
        assert_eq!(totals.bytes, entries.iter().map(|entry| entry.size).sum::<u64>());
        let early = entries.iter().find(|entry| entry.path.name() == b"a\nb").unwrap();
        assert_eq!(early.mtime, Timestamp { seconds: -400_000_000, nanoseconds: 123_456_789 });
    }

    #[test]
    fn an_odd_tree_is_walked_alike_with_all_names_spilled() {
        let folder = TestFolder::new();
        let tree = folder.path().join("tree");
        make_odd_tree(&tree);
        let (_, in_memory) = walk_with(&tree, &ScanOptions::default(), |_| {});
        let state = TestFolder::new();
        let limits =
            ListingLimits { run_names: 4, run_bytes: 300, held_bytes: 0, merged_runs: 2, window_bytes: 64 };
        let options = ScanOptions { state_folder: state.path(), limits, ..ScanOptions::default() };
        let (end, spilled) = walk_with(&tree, &options, |_| {});
        assert!(end.complete);
        assert_eq!((spilled.reports, spilled.ranges), (in_memory.reports, in_memory.ranges));
    }

    #[test]
    fn a_folder_that_cannot_be_sorted_is_named_and_the_walk_goes_on() {
        let folder = TestFolder::new();
        let path = folder.path();
        for name in ["a", "b", "b/c"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        for number in 0..40 {
            std::fs::write(path.join(format!("b/c/{number}")), "").unwrap();
        }
        std::fs::write(path.join("d"), "").unwrap();
        let limits = ListingLimits { run_names: 30, ..ListingLimits::default() };
        let options = ScanOptions { state_folder: path.join("d"), limits, ..ScanOptions::default() };
        let (end, collected) = walk_with(&path, &options, |_| {});
        assert_eq!(collected.paths(&path), [".", "a", "b", "b/c", "d"]);
        assert_eq!((end.complete, end.totals.unreadable, collected.reports.len()), (true, 1, 1));
        let (named, reason) = &collected.reports[0];
        assert_eq!(below(named, &path), "b/c");
        assert!(reason.starts_with("its names are too many for memory and cannot be sorted in "), "{reason}");
    }

    #[test]
    fn sockets_and_fifos_are_skipped_and_named() {
        let folder = TestFolder::new();
        let path = folder.path();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        make_fifo(&path.join("fifo"));
        std::fs::write(path.join("file"), "").unwrap();
        let (end, collected) = walk_with(&path, &ScanOptions::default(), |_| {});
        assert_eq!(collected.paths(&path), [".", "file"]);
        let named: Vec<_> =
            collected.reports.iter().map(|(name, why)| (below(name, &path), why.as_str())).collect();
        let wanted = [("fifo", "skipped: it is a FIFO"), ("socket", "skipped: it is a socket")];
        assert_eq!(named, wanted.map(|(name, why)| (name.to_string(), why)));
        assert_eq!(end.totals.skipped, 2);
    }

    #[test]
    fn an_unreadable_folder_is_named_and_the_walk_goes_on() {
        without_root(|| {
            let folder = TestFolder::new();
            let path = folder.path();
            for name in ["a", "b", "c"] {
                std::fs::create_dir(path.join(name)).unwrap();
                std::fs::write(path.join(name).join("x"), "").unwrap();
            }
            set_mode(&path.join("a"), 0o000);
            set_mode(&path.join("b"), 0o400);
            let (end, collected) = walk_with(&path, &ScanOptions::default(), |_| {});
            assert_eq!(collected.paths(&path), [".", "a", "b", "c", "c/x"]);
            let named: Vec<_> =
                collected.reports.iter().map(|(name, why)| (below(name, &path), why.as_str())).collect();
            let wanted = [("a", "permission denied"), ("b/x", "permission denied")];
            assert_eq!(named, wanted.map(|(name, why)| (name.to_string(), why)));
            assert_eq!((end.totals.unreadable, end.complete), (2, true));
        });
    }

    #[test]
    fn a_folder_that_can_only_be_passed_through_may_stand_above_a_root() {
        without_root(|| {
            let folder = TestFolder::new();
            let path = folder.path();
            std::fs::create_dir_all(path.join("home/ada")).unwrap();
            set_mode(&path.join("home"), 0o111);
            let (_, collected) = walk_with(&path.join("home/ada"), &ScanOptions::default(), |_| {});
            assert_eq!(collected.paths(&path), ["home/ada"]);
        });
    }

    #[test]
    fn names_that_vanish_under_the_walk_are_only_counted() {
        let folder = TestFolder::new();
        let path = folder.path();
        make_fifo(&path.join("a"));
        for name in ["b", "c"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        let vanishing = path.join("b");
        let on_report = |_: &ScanReport<'_>| std::fs::remove_file(&vanishing).unwrap();
        let (end, collected) = walk_with(&path, &ScanOptions::default(), on_report);
        assert_eq!(collected.paths(&path), [".", "c"]);
        assert_eq!((end.totals.vanished, collected.reports.len()), (1, 1));
    }

    #[test]
    fn a_folder_moved_away_under_the_walk_loses_only_what_is_in_it() {
        let folder = TestFolder::new();
        let path = folder.path();
        let moved = path.join("d");
        let deepest = (0..60).fold(path.clone(), |above, _| above.join("d"));
        std::fs::create_dir_all(&deepest).unwrap();
        for above in deepest.ancestors().take(61) {
            std::fs::write(above.join("z"), "").unwrap();
        }
        make_fifo(&deepest.join("a"));
        let elsewhere = TestFolder::new();
        let away = elsewhere.path().join("away");
        let mut moves = 1;
        let on_report = |_: &ScanReport<'_>| {
            if moves == 1 {
                std::fs::rename(&moved, &away).unwrap();
            }
            moves -= 1;
        };
        let (end, collected) = walk_with(&path, &ScanOptions::default(), on_report);
        assert_eq!(collected.paths(&path).last().unwrap(), "z");
        assert!(collected.reports.iter().any(|(_, why)| why == "moved away while it was being read"));
        assert!(end.complete);
    }

    #[test]
    fn a_path_too_long_for_an_entry_is_named_and_not_entered() {
        let folder = TestFolder::new();
        make_deep(&folder.path(), 260);
        std::fs::write(folder.path().join("z"), "").unwrap();
        let (end, collected) = walk_with(&folder.path(), &ScanOptions::default(), |_| {});
        assert_eq!(collected.paths(&folder.path()).last().unwrap(), "z");
        assert_eq!((end.totals.unreadable, end.totals.files), (1, 1));
        assert_eq!(collected.reports[0].1, "the path is longer than 65535 bytes");
    }

    #[test]
    fn the_programs_own_folders_are_left_out() {
        let folder = TestFolder::new();
        let path = folder.path();
        std::fs::create_dir_all(path.join("server/inner")).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        let excluded = vec![FolderIdentity::of(&path.join("server")).unwrap()];
        let options = ScanOptions { excluded, ..ScanOptions::default() };
        let (_, collected) = walk_with(&path, &options, |_| {});
        assert_eq!((collected.paths(&path), collected.reports.len()), (vec![".".into(), "file".into()], 0));
        let (_, collected) = walk_with(&path.join("server/inner"), &options, |_| {});
        assert!(collected.ranges.is_empty());
        let wanted = "it lies in the program's own folder, which is never backed up";
        assert_eq!(collected.reports[0].1, wanted);
    }

    #[test]
    fn a_root_may_be_a_file_or_a_link_and_a_lost_one_is_named() {
        let folder = TestFolder::new();
        let path = folder.path();
        std::fs::write(path.join("file"), "123").unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        std::fs::write(path.join("lost"), "").unwrap();
        let roots = roots_of(&[&path.join("link"), &path.join("file"), &path.join("lost")]);
        std::fs::remove_file(path.join("lost")).unwrap();
        let mut collected = walk_with(&path.join("link"), &ScanOptions::default(), |_| {}).1;
        collected.ranges.clear();
        scan(&roots, &ScanOptions::default(), &mut collected);
        assert_eq!(collected.paths(&path), ["file", "link"]);
        assert_eq!(collected.reports.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>(), ["vanished"]);
    }

    #[test]
    fn the_sink_or_a_shutdown_ends_the_walk() {
        struct First(Vec<ScannedRange>);
        impl ScanSink for First {
            fn range(&mut self, range: ScannedRange) -> ControlFlow<()> {
                self.0.push(range);
                ControlFlow::Break(())
            }
            fn report(&mut self, _: ScanReport<'_>) {}
        }
        // The whole machine, but no more of it than one range.
        let mut first = First(Vec::new());
        let end = scan(&[Root::Everything], &ScanOptions::default(), &mut first);
        assert!(!end.complete);
        let entries = decode_entries(&first.0[0].bytes).unwrap();
        assert!(entries.iter().all(|entry| !entry.path.as_bytes().starts_with(b"/")));

        let options = ScanOptions::default();
        options.shutdown.request();
        let (end, collected) = walk_with(Path::new("/usr"), &options, |_| {});
        assert!(!end.complete && collected.ranges.is_empty());
    }

    #[test]
    fn file_systems_of_the_kernel_are_told_from_others() {
        let is_kernel = |path| is_kernel_file_system(std::fs::File::open(path).unwrap().as_fd());
        assert!(is_kernel("/proc"));
        assert!(!is_kernel("/"));
    }

    /// `cargo test --lib -- --ignored --nocapture speed_of_the_walk`
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_the_walk() {
        let folder = TestFolder::new();
        for outer in 0..100 {
            let inner = folder.path().join(format!("folder-{outer:03}"));
            std::fs::create_dir(&inner).unwrap();
            for number in 0..1_000 {
                std::fs::write(inner.join(format!("photograph-{number:06}.jpeg")), "").unwrap();
            }
        }
        for _ in 0..4 {
            let start = std::time::Instant::now();
            let (end, collected) = walk_with(&folder.path(), &ScanOptions::default(), |_| {});
            let entries = end.totals.files + end.totals.folders;
            let each = start.elapsed().as_nanos() as u64 / entries;
            println!("{entries} entries, {} ranges: {each} ns each", collected.ranges.len());
        }
    }

    fn make_fifo(path: &Path) {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    }
}
