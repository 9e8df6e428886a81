//! A tree that changes by chance: everything that people and programs do to files, from a seed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, fallocate};

use super::random::Random;
use super::tree;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Sizes at which something changes in the program, to be met exactly and nearly.
const BORDERS: [u64; 9] =
    [0, 4 * KIB, 16 * KIB, 32 * KIB, 128 * KIB, MIB - 16 * KIB, MIB, MIB + 16 * KIB, MIB + 128 * KIB];
/// No file grows beyond this.
const SIZE_MAX: u64 = 3 * MIB;
/// How many names there may be, and how deep; and how many files of a mebibyte and more.
const NAMES_MAX: usize = 60;
const DEPTH_MAX: usize = 4;
const LARGE_MAX: usize = 6;
/// Names that sort, print or look oddly. They are few, so that they come again as something else.
const NAMES: [&[u8]; 26] = [
    b"a",
    b"a-b",
    b"a.b",
    b"A",
    b"b",
    b"b ",
    b" b",
    b"b\n",
    b"b\\c",
    b"c",
    b"c\xff",
    b"c\xffd",
    b"con",
    b"d",
    b"-d",
    b"~",
    b".d",
    b".renamed",
    b"0",
    b"00",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"\"",
    b"*",
    b"\x01",
    &[b'n'; 255],
];

/// A tree and the chance that changes it.
pub struct ChangingTree {
    root: PathBuf,
    random: Random,
    /// What was done, in words.
    pub log: Vec<String>,
}

impl ChangingTree {
    /// Makes a tree of some files.
    pub fn new(root: PathBuf, seed: u64) -> ChangingTree {
        fs::create_dir_all(&root).unwrap();
        let mut tree = ChangingTree { root, random: Random::new(seed), log: Vec::new() };
        (0..25).for_each(|_| tree.add());
        tree
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Does something to it.
    pub fn change(&mut self) {
        match self.random.below(20) {
            0..=2 => self.add(),
            3..=5 => self.edit(),
            6 => self.edit_unseen(),
            7 => self.append(),
            8 => self.resize(),
            9 => self.punch(),
            10..=11 => self.rename(),
            12 => self.delete(),
            13 => self.exchange(),
            14 => self.replace_by_another_kind(),
            15 => self.touch(),
            16 => self.change_mode(),
            17 => self.insert_in_front(),
            18 => self.copy(),
            _ => self.change_all_modes(),
        }
    }

    fn note(&mut self, what: &str, path: &Path) {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        self.log.push(format!("{what} {below:?}"));
    }

    /// Every name below the root, the same ones in the same order for the same seed.
    fn names(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list(&self.root, &mut found);
        found
    }

    fn some(&mut self, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let mut names = self.names();
        names.retain(|path| wanted(&fs::symlink_metadata(path).unwrap()));
        (!names.is_empty()).then(|| self.random.pick(&names).clone())
    }

    /// A file, a large one as likely as all others together.
    fn some_file(&mut self) -> Option<PathBuf> {
        let large =
            self.random.one_in(2).then(|| self.some(|facts| facts.is_file() && facts.len() >= MIB)).flatten();
        large.or_else(|| self.some(fs::Metadata::is_file))
    }

    fn some_folder(&mut self) -> PathBuf {
        let depth = |path: &Path| path.components().count();
        let mut folders: Vec<_> =
            self.names().into_iter().filter(|path| path.is_dir() && !path.is_symlink()).collect();
        folders.retain(|path| depth(path) < depth(&self.root) + DEPTH_MAX);
        folders.push(self.root.clone());
        self.random.pick(&folders).clone()
    }

    /// A name that is not taken.
    fn free_name(&mut self) -> Option<PathBuf> {
        let folder = self.some_folder();
        let name: &[u8] = self.random.pick::<&[u8]>(&NAMES);
        let path = folder.join(OsStr::from_bytes(name));
        (!path.is_symlink() && !path.exists()).then_some(path)
    }

    fn size(&mut self) -> u64 {
        match self.random.below(4) {
            0 => (*self.random.pick(&BORDERS) + self.random.below(3)).saturating_sub(1),
            1 => self.random.below(SIZE_MAX),
            _ => self.random.below(20 * KIB),
        }
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        tree::bytes(self.random.next(), length as usize)
    }

    fn add(&mut self) {
        if self.names().len() >= NAMES_MAX {
            return self.delete();
        }
        let Some(path) = self.free_name() else { return };
        self.make(&path);
    }

    /// Makes a file, a folder or a link of a free name.
    fn make(&mut self, path: &Path) {
        match self.random.below(8) {
            0..=1 => {
                fs::create_dir(path).unwrap();
                self.note("add folder", path);
            }
            2 => {
                let target: &[u8] = self.random.pick::<&[u8]>(&NAMES);
                std::os::unix::fs::symlink(OsStr::from_bytes(target), path).unwrap();
                self.note("add link", path);
            }
            _ => {
                let large = self.names().iter().filter(|path| size_of(path) >= MIB).count();
                let size = self.size().min(if large < LARGE_MAX { SIZE_MAX } else { 40 * KIB });
                fs::write(path, self.bytes(size)).unwrap();
                self.note(&format!("add file of {size}"), path);
            }
        }
    }

    fn edit(&mut self) {
        let Some(path) = self.some_file() else { return };
        self.write_over(&path);
    }

    /// Writes in places that exist already.
    fn write_over(&mut self, path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let size = size_of(path);
        for _ in 0..=self.random.below(3) {
            let length = match self.random.below(3) {
                0 => self.random.below(20),
                1 => self.random.below(20 * KIB),
                _ => self.random.below(200 * KIB),
            };
            let at = self.random.below(size.max(1));
            let length = length.min(size - at.min(size));
            let bytes = if self.random.one_in(8) { vec![0; length as usize] } else { self.bytes(length) };
            file.write_all_at(&bytes, at).unwrap();
            self.note(&format!("write {length} at {at} of"), path);
        }
    }

    /// An edit of which neither size nor mtime tells.
    fn edit_unseen(&mut self) {
        let Some(path) = self.some_file() else { return };
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        self.write_over(&path);
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        self.note("put the time back of", &path);
    }

    fn append(&mut self) {
        let Some(path) = self.some_file() else { return };
        let size = size_of(&path);
        let more = self.size().min(SIZE_MAX.saturating_sub(size)).min(300 * KIB);
        let bytes = self.bytes(more);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, size).unwrap();
        self.note(&format!("append {more} to"), &path);
    }

    /// Cuts short, or grows with a hole.
    fn resize(&mut self) {
        let Some(path) = self.some_file() else { return };
        let size = match self.random.one_in(2) {
            true => self.random.below(size_of(&path) + 1),
            false => self.size(),
        };
        OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
        self.note(&format!("set the size {size} of"), &path);
    }

    fn punch(&mut self) {
        let Some(path) = self.some_file() else { return };
        let size = size_of(&path);
        let at = self.random.below(size.max(1));
        let length = (self.random.below(size.max(1)) + 1).min(size.saturating_sub(at));
        if length == 0 {
            return;
        }
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // Where there are no holes there is nothing to change.
        let _ = fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length);
        self.note(&format!("punch {length} at {at} into"), &path);
    }

    fn rename(&mut self) {
        let (Some(from), Some(to)) = (self.some(|_| true), self.free_name()) else { return };
        if !to.starts_with(&from) {
            fs::rename(&from, &to).unwrap();
            self.note(&format!("rename {:?} to", from.strip_prefix(&self.root).unwrap()), &to);
        }
    }

    fn delete(&mut self) {
        let Some(path) = self.some(|_| true) else { return };
        remove(&path);
        self.note("delete", &path);
    }

    /// Two names take each other's place.
    fn exchange(&mut self) {
        let (Some(one), Some(other)) = (self.some(|_| true), self.some(|_| true)) else { return };
        if one.starts_with(&other) || other.starts_with(&one) {
            return;
        }
        let aside = self.root.join("aside");
        fs::rename(&one, &aside).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&aside, &other).unwrap();
        self.note(&format!("exchange {:?} and", one.strip_prefix(&self.root).unwrap()), &other);
    }

    fn replace_by_another_kind(&mut self) {
        let Some(path) = self.some(|_| true) else { return };
        let before = fs::symlink_metadata(&path).unwrap().file_type();
        remove(&path);
        self.note("replace", &path);
        while fs::symlink_metadata(&path).is_err() {
            self.make(&path);
            if fs::symlink_metadata(&path).unwrap().file_type() == before {
                remove(&path);
            }
        }
    }

    fn touch(&mut self) {
        let Some(path) = self.some(|facts| !facts.is_symlink()) else { return };
        let (seconds, nanoseconds) = (self.random.below(4_000_000_000), self.random.below(1_000_000_000) as u32);
        let time = match self.random.one_in(4) {
            true => SystemTime::UNIX_EPOCH - Duration::new(seconds / 10, nanoseconds),
            false => SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds),
        };
        File::open(&path).unwrap().set_modified(time).unwrap();
        self.note("touch", &path);
    }

    fn change_mode(&mut self) {
        let Some(path) = self.some(|facts| !facts.is_symlink()) else { return };
        let mode = *self.random.pick(match path.is_dir() {
            true => &[0o700, 0o755, 0o2775, 0o1777],
            false => &[0o600, 0o644, 0o755, 0o4755, 0o666],
        });
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        self.note(&format!("set the mode {mode:o} of"), &path);
    }

    fn change_all_modes(&mut self) {
        let bit = 0o040 << self.random.below(2);
        for path in self.names().iter().filter(|path| !path.is_symlink()) {
            let mode = fs::metadata(path).unwrap().mode() & 0o7777;
            fs::set_permissions(path, Permissions::from_mode(mode ^ bit)).unwrap();
        }
        self.note("flip a mode bit of all of", &self.root.clone());
    }

    /// What moves all that follows.
    fn insert_in_front(&mut self) {
        let Some(path) = self.some_file() else { return };
        let more = 1 + self.random.below(100);
        let mut content = self.bytes(more);
        content.extend(fs::read(&path).unwrap());
        fs::write(&path, content).unwrap();
        self.note(&format!("put {more} in front of"), &path);
    }

    fn copy(&mut self) {
        let (Some(from), Some(to)) = (self.some_file(), self.free_name()) else { return };
        fs::copy(&from, &to).unwrap();
        self.note(&format!("copy {:?} to", from.strip_prefix(&self.root).unwrap()), &to);
    }
}

fn size_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |facts| if facts.is_file() { facts.len() } else { 0 })
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path).unwrap().is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let is_folder = !path.is_symlink() && path.is_dir();
        found.push(path.clone());
        if is_folder {
            list(&path, found);
        }
    }
}
