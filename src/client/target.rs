//! Writing a snapshot back. Entries come in path order and are recreated under one folder.
//!
//! Nothing is written outside that folder: every name is taken relative to the handle of the folder it
//! stands in and never through a link. A link that stands where the snapshot has a folder is removed; a
//! folder or file that stands in the way of something else is left alone and named.
//!
//! A file appears under its name only when it is whole and its sums are right: it is written under a short
//! name beside it, which a later restore finds again ([`part`]), checked, given its properties, and renamed.
//! Properties of a folder are set when the walk has left it, so that a read-only folder can be filled, and
//! that filling it does not change its time. Until then it is opened to its owner, and whatever ends the
//! restore sets it right again.

mod part;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

pub(super) use self::part::{Part, is_large, may_stay, open_file, part_name};
use super::facts::{FileFacts, file_type, kind_word};
use super::properties::{Problems, Properties, raw_mode, set_link_properties, set_properties};
pub use super::target_error::TargetError;
use crate::base::entry::Entry;
use crate::base::folder::{FolderStack, Missing};
use crate::base::ids::{hex, random_array};
use crate::base::path::EntryPath;
use crate::crypto::{ContentHasher, ContentSums};

/// How many random names are tried before the folder is said to be impossible.
const TEMPORARY_NAME_TRIES_MAX: u32 = 16;
/// What the owner needs to fill a folder: read, write and pass.
const OWNER_ALL: u16 = 0o700;

/// A folder that a snapshot is being restored to.
#[derive(Debug)]
pub struct RestoreTarget {
    stack: FolderStack,
    /// The folders from the target down to the current one, as the stack holds them open.
    open: Vec<OpenFolder>,
    file: Option<OpenFile>,
    /// The inode of the current folder, once it is known.
    inode: Option<u64>,
    /// Only root may give files away.
    as_root: bool,
    problems: Problems,
}

#[derive(Debug)]
struct OpenFolder {
    path: EntryPath,
    /// What to set when it is left; none for a folder that is no entry of the snapshot.
    properties: Option<Properties>,
    /// Its mode before it was opened to its owner.
    mode_before: Option<u16>,
}

#[derive(Debug)]
struct OpenFile {
    path: EntryPath,
    temporary: String,
    /// Whether what has come stays when the restore is cut off.
    is_part: bool,
    file: File,
    summer: ContentHasher,
}

impl RestoreTarget {
    /// Opens the folder `to`, which may be a link to one, and makes it where there is none.
    pub fn create(to: &Path) -> Result<RestoreTarget, TargetError> {
        let stack = std::fs::create_dir_all(to)
            .and_then(|()| FolderStack::open(to))
            .map_err(|source| TargetError::Target { to: to.to_path_buf(), source })?;
        let as_root = rustix::process::geteuid().is_root();
        Ok(RestoreTarget {
            stack,
            open: Vec::new(),
            file: None,
            inode: None,
            as_root,
            problems: Problems::default(),
        })
    }

    /// Makes the folder; its properties are set once the entries in it have come.
    pub fn folder(&mut self, entry: &Entry) -> Result<(), TargetError> {
        self.go_to(entry.path.parent().as_ref())?;
        // Shut to everybody else until its own mode is set: what comes into it may be open in itself.
        self.descend(&entry.path, u32::from(OWNER_ALL))?;
        if let Some(folder) = self.open.last_mut() {
            folder.properties = Some(Properties::of(entry));
        }
        Ok(())
    }

    /// Makes the link, in the place of a file or link that stands there.
    pub fn link(&mut self, entry: &Entry) -> Result<(), TargetError> {
        self.go_to(entry.path.parent().as_ref())?;
        self.check_free(&entry.path, "a link")?;
        let made = self.under_temporary_name(|folder, name| {
            Ok(rustix::fs::symlinkat(entry.link_target.as_slice(), folder, name)?)
        });
        let (name, ()) = made.map_err(failed(&entry.path, "make the link"))?;
        let properties = Properties::of(entry);
        set_link_properties(self.stack.top(), &name, &entry.path, properties, self.as_root, &mut self.problems);
        self.take_place(&entry.path, &name)
    }

    /// Begins a file under a temporary name; a file that was begun before and not ended is given up.
    pub fn begin_file(&mut self, entry: &Entry) -> Result<(), TargetError> {
        self.go_to(entry.path.parent().as_ref())?;
        self.check_free(&entry.path, "a file")?;
        let (path, summer) = (entry.path.clone(), ContentHasher::default());
        if let Some((temporary, file)) = self.open_empty_part(entry) {
            self.file = Some(OpenFile { path, temporary, is_part: is_large(entry), file, summer });
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let made = self.under_temporary_name(|folder, name| Ok(rustix::fs::openat(folder, name, flags, private)?));
        let (temporary, file) = made.map_err(failed(&entry.path, "make the file"))?;
        self.file = Some(OpenFile { path, temporary, is_part: false, file: file.into(), summer });
        Ok(())
    }

    /// Adds to the file that was begun last. After an error the file is given up.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let file = self.file.as_mut().ok_or(TargetError::NoFile)?;
        file.summer.update(bytes);
        let written = file.file.write_all(bytes).map_err(failed(&file.path, "write the file"));
        if written.is_err() {
            self.abandon_file();
        }
        written
    }

    /// Adds zeros to the file that was begun last, as a hole where the file system has holes. After an error the
    /// file is given up.
    pub fn write_hole(&mut self, bytes: u64) -> Result<(), TargetError> {
        let file = self.file.as_mut().ok_or(TargetError::NoFile)?;
        file.summer.update_zeros(bytes);
        let end = file.summer.size();
        let made = file.file.set_len(end).and_then(|()| file.file.seek(SeekFrom::Start(end)).map(|_| ()));
        let made = made.map_err(failed(&file.path, "write the file"));
        if made.is_err() {
            self.abandon_file();
        }
        made
    }

    /// Checks what was written against what was stored, and gives the file its properties and its name.
    /// After an error nothing is left of it, and what stood under the name before still does.
    pub fn end_file(&mut self, entry: &Entry, expected: &ContentSums) -> Result<(), TargetError> {
        let OpenFile { path, temporary, file, summer, .. } = self.file.take().ok_or(TargetError::NoFile)?;
        if summer.finish() != *expected {
            self.remove(&temporary);
            return Err(TargetError::Damaged { path: path.as_bytes().to_vec() });
        }
        set_properties(file.as_fd(), &path, Properties::of(entry), self.as_root, &mut self.problems);
        // A part is locked until it has its name.
        let placed = self.take_place(&path, &temporary);
        drop(file);
        placed
    }

    /// Gives up the file that was begun last, if there is one.
    pub fn abandon_file(&mut self) {
        if let Some(file) = self.file.take() {
            self.remove(&file.temporary);
        }
    }

    /// The problems that came up beside the calls that returned: properties that could not be set.
    pub fn take_problems(&mut self) -> Vec<TargetError> {
        std::mem::take(&mut self.problems.0)
    }

    /// Sets the properties of the folders that are still open; with `flush`, returns only when all is on
    /// the disk (of the target's own file system). Gives the problems that were not taken.
    pub fn finish(mut self, flush: bool) -> Vec<TargetError> {
        self.abandon_file();
        self.leave_to(0);
        if flush && let Err(error) = rustix::fs::syncfs(self.stack.root()) {
            self.problems.0.push(TargetError::Io {
                path: b".".to_vec(),
                action: "flush the disk",
                source: error.into(),
            });
        }
        self.take_problems()
    }

    // Folders.

    /// Makes `path` (the target itself for none) the current folder: leaves those that it does not lie in,
    /// and enters, or makes, those on the way.
    fn go_to(&mut self, path: Option<&EntryPath>) -> Result<(), TargetError> {
        self.abandon_file();
        let shared =
            self.open.iter().take_while(|open| path.is_some_and(|path| path.is_within(&open.path))).count();
        self.leave_to(shared);
        let Some(path) = path else { return Ok(()) };
        let mut reached = self.open.last().map(|open| open.path.clone());
        for name in path.components().skip(self.open.len()) {
            let next = match &reached {
                None => EntryPath::parse(name),
                Some(above) => above.join(name),
            };
            let next = next.expect("the first components of a path are a path");
            self.descend(&next, 0o777)?;
            reached = Some(next);
        }
        Ok(())
    }

    /// Enters a folder of the current one; makes it with the mode `new_mode` where there is none.
    fn descend(&mut self, path: &EntryPath, new_mode: u32) -> Result<(), TargetError> {
        self.inode = None;
        let missing = Missing::Create(new_mode);
        let entered = self.stack.push(path.name(), missing).map(drop);
        let mode_shut = match entered.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::NotADirectory) => self.clear_link(path).map(|()| None)?,
            Err(io::ErrorKind::PermissionDenied) => {
                open_to_owner(self.stack.top(), path.name()).map_err(failed(path, "enter the folder"))?
            }
            _ => None,
        };
        let entered = match entered {
            Err(error) if is_worth_another_try(&error) => self.stack.push(path.name(), missing).map(drop),
            entered => entered,
        };
        entered.map_err(failed(path, "make the folder"))?;
        let mode_before = mode_shut.or_else(|| self.open_current_to_owner());
        self.open.push(OpenFolder { path: path.clone(), properties: None, mode_before });
        Ok(())
    }

    /// Removes a link that stands where a folder is wanted; anything else there is left alone.
    fn clear_link(&self, path: &EntryPath) -> Result<(), TargetError> {
        match self.standing(path.name()).map_err(failed(path, "look at the folder"))? {
            Some(stat) if file_type(&stat) == FileType::Symlink => {
                let removed = rustix::fs::unlinkat(self.stack.top(), path.name(), AtFlags::empty());
                removed.map_err(|error| failed(path, "remove the link in its place")(error.into()))
            }
            Some(stat) => Err(in_the_way(path, &stat, "a folder")),
            None => Ok(()),
        }
    }

    /// Makes sure that the current folder can be filled; gives its mode before, where that was changed. A
    /// folder of somebody else stays as it is: what cannot be written in it will say so.
    fn open_current_to_owner(&self) -> Option<u16> {
        let folder = self.stack.top();
        let mode = FileFacts::of(&rustix::fs::fstat(folder).ok()?).mode;
        if self.as_root || mode & OWNER_ALL == OWNER_ALL {
            return None;
        }
        rustix::fs::fchmod(folder, raw_mode(mode | OWNER_ALL)).ok().map(|()| mode)
    }

    /// Leaves folders, innermost first, until `depth` are open.
    fn leave_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(folder) = self.open.pop() else { return };
            self.inode = None;
            self.settle(&folder);
            if let Err(error) = self.stack.pop() {
                self.lose_folders(error);
            }
        }
    }

    /// Gives the current folder the properties that it should have from now on.
    fn settle(&mut self, folder: &OpenFolder) {
        let handle = self.stack.top();
        match (folder.properties, folder.mode_before) {
            (Some(properties), _) => {
                set_properties(handle, &folder.path, properties, self.as_root, &mut self.problems);
            }
            (None, Some(mode)) => {
                let set = rustix::fs::fchmod(handle, raw_mode(mode)).map_err(io::Error::from);
                self.problems.note(&folder.path, "mode", set);
            }
            (None, None) => {}
        }
    }

    /// Somebody moved a folder away while it was being filled. What is open now can no longer be told, so
    /// the way down is begun again from the target.
    fn lose_folders(&mut self, error: io::Error) {
        for folder in std::mem::take(&mut self.open) {
            let path = folder.path.as_bytes().to_vec();
            let source = io::Error::new(error.kind(), error.to_string());
            self.problems.0.push(TargetError::Io { path, action: "go back to the folder", source });
        }
        // The target's own handle is never given up, so this cannot fail.
        let _ = self.stack.enter(None, Missing::Fail);
    }

    // Names in the current folder.

    /// What stands under `name` in the current folder.
    fn standing(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(self.stack.top(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A folder is never removed to make room for something else.
    fn check_free(&self, path: &EntryPath, wanted: &'static str) -> Result<(), TargetError> {
        match self.standing(path.name()).map_err(failed(path, "look at its place"))? {
            Some(stat) if file_type(&stat) == FileType::Directory => Err(in_the_way(path, &stat, wanted)),
            _ => Ok(()),
        }
    }

    /// Makes something under a random name that nothing has, in the current folder.
    fn under_temporary_name<T>(
        &self,
        make: impl Fn(BorrowedFd<'_>, &str) -> io::Result<T>,
    ) -> io::Result<(String, T)> {
        let mut tries_left = TEMPORARY_NAME_TRIES_MAX;
        loop {
            let name = format!(".cb-{}", hex(&random_array::<4>()));
            tries_left -= 1;
            match make(self.stack.top(), &name) {
                Ok(made) => return Ok((name, made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries_left > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Renames what is finished over its name.
    fn take_place(&self, path: &EntryPath, temporary: &str) -> Result<(), TargetError> {
        let folder = self.stack.top();
        let renamed = rustix::fs::renameat(folder, temporary, folder, path.name());
        renamed.map_err(|error| {
            self.remove(temporary);
            failed(path, "put it in its place")(error.into())
        })
    }

    fn remove(&self, temporary: &str) {
        // Where even this fails, a later restore or a person finds a name that tells what it is.
        let _ = rustix::fs::unlinkat(self.stack.top(), temporary, AtFlags::empty());
    }
}

/// However the restore ends, no temporary file is left but the part of a large one, and no folder more open than it
/// should be.
impl Drop for RestoreTarget {
    fn drop(&mut self) {
        self.cut_off();
        self.leave_to(0);
    }
}

/// Whether a folder can be entered once a link was removed, or the folder was opened to its owner.
fn is_worth_another_try(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
}

/// Opens a folder that its owner shut even to himself. Its handle is one that needs no right to it; the
/// mode is set through that handle's name in `/proc`, so that no link can take the folder's place.
fn open_to_owner(above: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<u16>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle: OwnedFd = match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(handle) => handle,
        // It was not there, and could not be made.
        Err(rustix::io::Errno::NOENT) => return Err(io::ErrorKind::PermissionDenied.into()),
        Err(error) => return Err(error.into()),
    };
    let mode = FileFacts::of(&rustix::fs::fstat(&handle)?).mode;
    let by_handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::chmodat(CWD, by_handle, raw_mode(mode | OWNER_ALL), AtFlags::empty())?;
    Ok(Some(mode))
}

fn in_the_way(path: &EntryPath, stat: &Stat, wanted: &'static str) -> TargetError {
    TargetError::InTheWay { path: path.as_bytes().to_vec(), found: kind_word(file_type(stat)), wanted }
}

fn failed(path: &EntryPath, action: &'static str) -> impl Fn(io::Error) -> TargetError {
    move |source| TargetError::Io { path: path.as_bytes().to_vec(), action, source }
}

#[cfg(test)]
mod tests {
    use super::super::scan::ScanOptions;
    use super::super::source::SourceReader;
    use super::super::test_tree::*;
    use super::*;
    use crate::base::entry::EntryKind;
    use crate::base::time::Timestamp;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Walks, reads and writes back; gives what went wrong.
    fn copy(tree: &Path, to: &Path) -> Vec<String> {
        let (_, collected) = walk_with(tree, &ScanOptions::default(), |_| {});
        let mut reader = SourceReader::new(&roots_of(&[tree]));
        let mut target = RestoreTarget::create(to).unwrap();
        let mut problems = Vec::new();
        for entry in collected.entries() {
            let restored = match entry.kind {
                EntryKind::Folder => target.folder(&entry),
                EntryKind::Link => target.link(&entry),
                EntryKind::File => copy_file(&mut reader, &mut target, &entry),
            };
            problems.extend(restored.err());
            problems.extend(target.take_problems());
        }
        problems.extend(target.finish(true));
        problems.iter().map(TargetError::to_string).collect()
    }

    fn copy_file(reader: &mut SourceReader, target: &mut RestoreTarget, entry: &Entry) -> Result<(), TargetError> {
        let mut file = reader.open(&entry.path).unwrap();
        let mut summer = ContentHasher::default();
        target.begin_file(entry)?;
        let mut buffer = [0; 8_192];
        loop {
            let count = file.read_into(&mut buffer).unwrap();
            summer.update(&buffer[..count]);
            target.write(&buffer[..count])?;
            if count < buffer.len() {
                return target.end_file(entry, &summer.finish());
            }
        }
    }

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: EntryPath::parse(path.as_bytes()).unwrap(),
            kind,
            size: 0,
            mtime: Timestamp { seconds: 1_000, nanoseconds: 1 },
            ctime: Timestamp::default(),
            inode: 0,
            mode: 0o755,
            owner: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            owner_name: Vec::new(),
            group_name: Vec::new(),
            link_target: if kind == EntryKind::Link { b"t".to_vec() } else { Vec::new() },
            hard_link: None,
            fields: Vec::new(),
        }
    }

    fn put(target: &mut RestoreTarget, entry: &Entry, bytes: &[u8]) -> Result<(), TargetError> {
        target.begin_file(entry)?;
        target.write(bytes)?;
        target.end_file(entry, &ContentSums::of(bytes))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|found| found.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn an_odd_tree_comes_back() {
        let (folder, to) = (TestFolder::new(), TestFolder::new());
        let tree = folder.path().join("tree");
        make_odd_tree(&tree);
        let restored = to.path().join(tree.strip_prefix("/").unwrap());
        assert_eq!(copy(&tree, &to.path()), Vec::<String>::new());
        assert!(look(&restored) == look(&tree), "the copy differs");
        // A second time over the first, read-only folders and all.
        assert_eq!(copy(&tree, &to.path()), Vec::<String>::new());
        assert!(look(&restored) == look(&tree), "the second copy differs");
    }

    #[test]
    fn an_odd_tree_comes_back_as_it_was() {
        an_odd_tree_comes_back();
    }

    #[test]
    fn an_odd_tree_comes_back_for_others_than_root() {
        without_root(an_odd_tree_comes_back);
    }

    #[test]
    fn a_link_in_a_folders_place_is_removed_and_nothing_is_written_behind_it() {
        let (to, outside) = (TestFolder::new(), TestFolder::new());
        for name in ["a", "b"] {
            symlink(outside.path(), to.path().join(name)).unwrap();
        }
        symlink(outside.path().join("file"), to.path().join("c")).unwrap();
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        target.folder(&entry("a", EntryKind::Folder)).unwrap();
        put(&mut target, &entry("a/x", EntryKind::File), b"1").unwrap();
        put(&mut target, &entry("b/inner/x", EntryKind::File), b"2").unwrap();
        put(&mut target, &entry("c", EntryKind::File), b"3").unwrap();
        assert!(target.finish(false).is_empty());
        assert_eq!(names(&outside.path()), Vec::<String>::new());
        assert_eq!(std::fs::read(to.path().join("a/x")).unwrap(), b"1");
        assert_eq!(std::fs::read(to.path().join("b/inner/x")).unwrap(), b"2");
        assert!(std::fs::symlink_metadata(to.path().join("c")).unwrap().is_file());
    }

    #[test]
    fn what_stands_in_the_way_is_left_alone_and_named() {
        let to = TestFolder::new();
        std::fs::create_dir_all(to.path().join("file/kept")).unwrap();
        std::fs::create_dir_all(to.path().join("link/kept")).unwrap();
        std::fs::write(to.path().join("folder"), "kept").unwrap();
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        let message = |result: Result<(), TargetError>| result.unwrap_err().to_string();
        assert_eq!(
            message(put(&mut target, &entry("file", EntryKind::File), b"")),
            "file: a folder stands where the snapshot has a file: move it away, or restore to another folder"
        );
        let in_folder = "folder: a file stands where the snapshot has a folder: move it away, or restore to another \
                         folder";
        assert_eq!(message(target.folder(&entry("folder", EntryKind::Folder))), in_folder);
        assert_eq!(message(put(&mut target, &entry("folder/x", EntryKind::File), b"")), in_folder);
        assert_eq!(
            message(target.link(&entry("link", EntryKind::Link))),
            "link: a folder stands where the snapshot has a link: move it away, or restore to another folder"
        );
        put(&mut target, &entry("other", EntryKind::File), b"on").unwrap();
        assert!(target.finish(false).is_empty());
        assert_eq!(names(&to.path()), ["file", "folder", "link", "other"]);
        assert!(to.path().join("file/kept").is_dir() && to.path().join("link/kept").is_dir());
    }

    #[test]
    fn a_damaged_content_leaves_what_was_there() {
        let to = TestFolder::new();
        std::fs::write(to.path().join("file"), "old").unwrap();
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        let file = entry("file", EntryKind::File);
        target.begin_file(&file).unwrap();
        target.write(b"new").unwrap();
        let error = target.end_file(&file, &ContentSums::of(b"neW")).unwrap_err();
        let wanted = "file: what arrived does not match its checksum and was not kept: run \"cyberbackup verify\"";
        assert_eq!(error.to_string(), wanted);
        assert!(target.finish(false).is_empty());
        assert_eq!(names(&to.path()), ["file"]);
        assert_eq!(std::fs::read(to.path().join("file")).unwrap(), b"old");
    }

    #[test]
    fn nothing_temporary_is_left_however_it_ends() {
        let to = TestFolder::new();
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        target.begin_file(&entry("a/given-up", EntryKind::File)).unwrap();
        assert!(names(&to.path().join("a"))[0].starts_with(".cb-"));
        target.abandon_file();
        target.begin_file(&entry("a/replaced", EntryKind::File)).unwrap();
        target.begin_file(&entry("b/dropped", EntryKind::File)).unwrap();
        drop(target);
        assert_eq!([names(&to.path().join("a")), names(&to.path().join("b"))], [vec![], Vec::<String>::new()]);
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        assert!(matches!(target.write(b""), Err(TargetError::NoFile)));
    }

    #[test]
    fn the_target_may_be_a_link_and_need_not_exist() {
        let folder = TestFolder::new();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        for to in ["link", "new/er"] {
            let mut target = RestoreTarget::create(&folder.path().join(to)).unwrap();
            put(&mut target, &entry("x", EntryKind::File), b"1").unwrap();
        }
        assert_eq!([names(&folder.path().join("real")), names(&folder.path().join("new/er"))], [["x"], ["x"]]);
        let error = RestoreTarget::create(Path::new("/dev/null/x")).unwrap_err().to_string();
        assert!(error.starts_with("cannot restore to /dev/null/x: Not a directory"), "{error}");
    }

    #[test]
    fn rights_are_lent_only_where_the_owner_came_back() {
        without_root(|| {
            let to = TestFolder::new();
            let mut target = RestoreTarget::create(&to.path()).unwrap();
            let mut of_others = entry("others", EntryKind::File);
            (of_others.mode, of_others.owner, of_others.group) = (0o7755, 0, 0);
            let mut own = entry("own", EntryKind::File);
            own.mode = 0o6755;
            put(&mut target, &of_others, b"").unwrap();
            put(&mut target, &own, b"").unwrap();
            assert!(target.finish(false).is_empty());
            let mode = |name| std::fs::metadata(to.path().join(name)).unwrap().mode() & 0o7777;
            assert_eq!((mode("others"), mode("own")), (0o1755, 0o6755));
        });
    }

    #[test]
    fn root_gives_files_folders_and_links_to_their_owners() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let to = TestFolder::new();
        let mut target = RestoreTarget::create(&to.path()).unwrap();
        let owned = |path, kind| Entry { owner: 12_345, group: 23_456, mode: 0o4755, ..entry(path, kind) };
        target.folder(&owned("a", EntryKind::Folder)).unwrap();
        put(&mut target, &owned("a/f", EntryKind::File), b"").unwrap();
        target.link(&owned("a/l", EntryKind::Link)).unwrap();
        assert!(target.finish(false).is_empty());
        for path in ["a", "a/f", "a/l"] {
            let facts = std::fs::symlink_metadata(to.path().join(path)).unwrap();
            assert_eq!((facts.uid(), facts.gid()), (12_345, 23_456), "{path}");
            assert!(path == "a/l" || facts.mode() & 0o7777 == 0o4755, "{path}");
        }
    }

    #[test]
    fn a_shut_folder_that_is_no_entry_is_filled_and_shut_again() {
        without_root(|| {
            let to = TestFolder::new();
            for (name, mode) in [("a", 0o555), ("b", 0o000)] {
                std::fs::create_dir(to.path().join(name)).unwrap();
                set_mode(&to.path().join(name), mode);
            }
            let mut target = RestoreTarget::create(&to.path()).unwrap();
            put(&mut target, &entry("a/x", EntryKind::File), b"").unwrap();
            put(&mut target, &entry("b/x", EntryKind::File), b"").unwrap();
            drop(target);
            for (name, mode) in [("a", 0o555), ("b", 0o000)] {
                let folder = to.path().join(name);
                assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, mode);
                set_mode(&folder, 0o755);
                assert_eq!(names(&folder), ["x"]);
            }
        });
    }

    #[test]
    fn a_full_disk_is_told_with_the_next_step() {
        let path = EntryPath::parse(b"a/x").unwrap();
        let error = failed(&path, "write the file")(io::ErrorKind::StorageFull.into());
        assert!(error.is_disk_full());
        let wanted = "a/x: cannot write the file: the disk is full: free some space and restore again";
        assert_eq!(error.to_string(), wanted);
    }
}
