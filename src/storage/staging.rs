//! The folder of one upload under way: contents under their paths in `files/`, finished ranges in `ranges/`,
//! and the files a commit needs. Nothing here is part of the store until a commit renames it into place.
//!
//! Contents are created one path component at a time, never through a link, never over something that is
//! there. Where the file system refuses or folds a name, the content goes to `.renamed/<n>`, which no
//! client path can reach: paths that begin so are always stored there under a number themselves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::at_rest::{ClientKeyring, FileWriter, RecordWriter, SealedKind};
use super::blocks_writer::{BLOCKS, DELTA};
use super::error::{At, StoreError};
use super::layout::RangeFolder;
use super::range::HASH_BYTES;
use super::tree::{flush_below, flush_tree, remove_tree, sweep_files};
use crate::base::durable::{Disk, exists};
use crate::base::folder::{FolderStack, Missing, open_below, open_folder};
use crate::base::ids::{UploadId, hex};
use crate::base::path::EntryPath;

pub const FILES: &[u8] = b"files";
pub const RANGES: &[u8] = b"ranges";
pub const INDEX: &[u8] = b"index";
pub const HEAD: &[u8] = b"head";
pub const INTENT: &[u8] = b"commit";
pub const JOURNAL: &[u8] = b"journal";
const RENAMED: &[u8] = b".renamed";

/// Up to so many new contents, and so many new ranges, are flushed one by one.
pub const FLUSHED_SINGLY_MAX: usize = 32;

/// One upload's folder, held open.
#[derive(Debug)]
pub struct Staging {
    disk: Disk,
    keyring: ClientKeyring,
    path: PathBuf,
    name: String,
    folder: OwnedFd,
    /// The client's folder in `incoming/`.
    parent: OwnedFd,
    files: Option<FolderStack>,
    ranges: Option<OwnedFd>,
    next_renamed: u64,
    /// The stored paths of new contents, as long as there are few of them.
    few_contents: Vec<EntryPath>,
    many_contents: bool,
}

/// A new content's file, and the path it lies at when that is not its own.
#[derive(Debug)]
pub struct PlacedFile {
    pub file: FileWriter,
    pub renamed: Option<EntryPath>,
}

impl Staging {
    /// Opens the folder `<upload>` below `incoming`, made where missing. No other session may have it open.
    pub fn open(
        disk: &Disk,
        keyring: ClientKeyring,
        incoming: &Path,
        upload: UploadId,
    ) -> Result<Staging, StoreError> {
        let parent = open_folder(incoming).at("open", incoming)?;
        let name = upload.to_string();
        let path = incoming.join(&name);
        disk.make_folder_if_missing(parent.as_fd(), name.as_bytes()).at("create", &path)?;
        let folder = open_below(parent.as_fd(), name.as_bytes(), Missing::Fail).at("open", &path)?;
        Ok(Staging {
            disk: disk.clone(),
            keyring,
            path,
            name,
            folder,
            parent,
            files: None,
            ranges: None,
            next_renamed: 0,
            few_contents: Vec::new(),
            many_contents: false,
        })
    }

    /// Goes on with what an earlier session has staged: everything that `keeps` does not want is removed.
    /// From now on all of it is flushed, not only what this session adds.
    pub fn take_over(&mut self, keeps: &dyn Fn(&[u8]) -> bool) -> Result<(), StoreError> {
        self.many_contents = true;
        let path = self.path.clone();
        self.try_take_over(keeps).at("go on with", &path)
    }

    fn try_take_over(&mut self, keeps: &dyn Fn(&[u8]) -> bool) -> io::Result<()> {
        if exists(self.folder.as_fd(), RANGES)? {
            self.ranges = Some(open_below(self.folder.as_fd(), RANGES, Missing::Fail)?);
        }
        if !exists(self.folder.as_fd(), FILES)? {
            return Ok(());
        }
        self.sweep_files(keeps)?;
        let files = open_below(self.folder.as_fd(), FILES, Missing::Fail)?;
        if let Ok(renamed) = open_below(files.as_fd(), RENAMED, Missing::Fail) {
            for item in rustix::fs::Dir::read_from(&renamed)? {
                let number = item?.file_name().to_str().ok().and_then(|name| name.parse::<u64>().ok());
                self.next_renamed = self.next_renamed.max(number.map_or(0, |number| number + 1));
            }
        }
        self.files = Some(FolderStack::below(files));
        Ok(())
    }

    /// Removes every staged content whose stored path `keeps` does not want.
    pub fn sweep_files(&self, keeps: &dyn Fn(&[u8]) -> bool) -> io::Result<()> {
        match exists(self.folder.as_fd(), FILES)? {
            true => sweep_files(&self.disk, open_below(self.folder.as_fd(), FILES, Missing::Fail)?, keeps),
            false => Ok(()),
        }
    }

    /// Empties the folder: what an earlier session left in it is of no use.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        for item in [FILES, RANGES, BLOCKS, DELTA, JOURNAL, INDEX, HEAD, INTENT] {
            remove_tree(&self.disk, self.folder.as_fd(), item).at("empty", &self.path)?;
        }
        Ok(())
    }

    /// The journal, new or cut off behind its first `length` bytes.
    pub fn open_journal(&self, length: u64) -> Result<RecordWriter, StoreError> {
        let keyring = self.keyring.files(SealedKind::Journal);
        let opened = match length {
            0 => remove_tree(&self.disk, self.folder.as_fd(), JOURNAL)
                .and_then(|()| RecordWriter::create(&self.disk, self.folder.as_fd(), JOURNAL, &keyring)),
            length => RecordWriter::reopen(&self.disk, self.folder.as_fd(), JOURNAL, length, &keyring),
        };
        opened.at("open the journal below", &self.path)
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }
    pub fn keyring(&self) -> &ClientKeyring {
        &self.keyring
    }
    /// The finished ranges.
    pub fn range_files(&self) -> RangeFolder {
        let name = std::str::from_utf8(RANGES).expect("an ASCII literal");
        RangeFolder { path: self.path.join(name), keyring: self.keyring.files(SealedKind::Range) }
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
    /// Whether a content has been staged.
    pub fn has_files(&self) -> bool {
        self.files.is_some()
    }
    pub fn has_many_contents(&self) -> bool {
        self.many_contents
    }
    /// The folder of finished ranges, once there is one.
    pub fn ranges(&self) -> Option<BorrowedFd<'_>> {
        self.ranges.as_ref().map(|ranges| ranges.as_fd())
    }

    /// Creates the file for the content of `path`.
    pub fn create_content(&mut self, path: &EntryPath) -> Result<PlacedFile, StoreError> {
        let placed = self.place(path).at("create a file below", &self.path)?;
        if self.few_contents.len() < FLUSHED_SINGLY_MAX {
            self.few_contents.push(placed.renamed.clone().unwrap_or_else(|| path.clone()));
        } else {
            self.many_contents = true;
        }
        Ok(placed)
    }

    fn place(&mut self, path: &EntryPath) -> io::Result<PlacedFile> {
        if !is_reserved(path) {
            match self.create_at(path) {
                Ok(file) => return Ok(PlacedFile { file, renamed: None }),
                Err(error) if refuses_name(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let renamed = self.next_renamed_path();
        Ok(PlacedFile { file: self.create_at(&renamed)?, renamed: Some(renamed) })
    }

    fn next_renamed_path(&mut self) -> EntryPath {
        let number = self.next_renamed.to_string();
        self.next_renamed += 1;
        let folder = EntryPath::parse(RENAMED).expect("a literal of the right form");
        folder.join(number.as_bytes()).expect("digits are a component")
    }

    fn create_at(&mut self, path: &EntryPath) -> io::Result<FileWriter> {
        let parent = path.parent();
        let (disk, keyring) = (self.disk.clone(), self.keyring.files(SealedKind::Content));
        let stack = self.open_files()?;
        enter_or_make(&disk, stack, parent.as_ref())?;
        FileWriter::create(&disk, stack.top(), path.name(), &keyring)
    }

    fn open_files(&mut self) -> io::Result<&mut FolderStack> {
        if self.files.is_none() {
            self.disk.make_folder(self.folder.as_fd(), FILES)?;
            let folder = open_below(self.folder.as_fd(), FILES, Missing::Fail)?;
            self.files = Some(FolderStack::below(folder));
        }
        Ok(self.files.as_mut().expect("opened just now"))
    }

    /// Opens a content again to append to it, cut off behind its first `length` bytes.
    pub fn reopen_content(&mut self, stored: &EntryPath, length: u64) -> Result<FileWriter, StoreError> {
        self.many_contents = true;
        let (disk, keyring) = (self.disk.clone(), self.keyring.files(SealedKind::Content));
        let opened = self.open_files().and_then(|stack| {
            let folder = stack.enter(stored.parent().as_ref(), Missing::Fail)?;
            let reopened = FileWriter::reopen(&disk, folder, stored.name(), length, &[], &keyring)?;
            reopened.filter(|file| file.bytes() == length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        opened.at("go on with a file below", &self.path)
    }

    /// Removes a content that is to be sent again.
    pub fn remove_content(&mut self, stored: &EntryPath) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        let removed = self.open_files().and_then(|stack| {
            let folder = stack.enter(stored.parent().as_ref(), Missing::Fail)?;
            disk.remove_file(folder, stored.name())
        });
        self.few_contents.retain(|path| path != stored);
        removed.at("remove a file below", &self.path)
    }

    /// Removes all contents, as if none had been staged.
    pub fn clear_files(&mut self) -> Result<(), StoreError> {
        (self.files, self.many_contents) = (None, false);
        self.few_contents.clear();
        remove_tree(&self.disk, self.folder.as_fd(), FILES).at("empty", &self.path)
    }

    /// Writes a finished range under its name.
    pub fn write_range(&mut self, name: &[u8; HASH_BYTES], bytes: &[u8]) -> Result<(), StoreError> {
        self.write_range_file(hex(name).as_bytes(), bytes).at("write a range below", &self.path)
    }

    fn write_range_file(&mut self, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        if self.ranges.is_none() {
            self.disk.make_folder(self.folder.as_fd(), RANGES)?;
            self.ranges = Some(open_below(self.folder.as_fd(), RANGES, Missing::Fail)?);
        }
        let folder = self.ranges.as_ref().expect("opened just now").as_fd();
        write_anew(&self.disk, folder, name, &self.keyring.files(SealedKind::Range).sealed(bytes.to_vec()))
    }

    /// Writes the index, as it will lie in the store.
    pub fn write_index(&self, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.write_file(INDEX, &self.keyring.files(SealedKind::Index).sealed(bytes))
    }

    /// Writes one of the other files a commit needs: they are not sealed.
    pub fn write_file(&self, name: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        write_anew(&self.disk, self.folder(), name, bytes).at("write a file below", &self.path)
    }

    /// Flushes everything staged, one by one: contents and their folders, the named ranges, what the commit
    /// needs, and the names that lead to it.
    pub fn flush_each(&mut self, ranges: &[[u8; HASH_BYTES]]) -> Result<(), StoreError> {
        self.try_flush_each(ranges).at("flush", &self.path)
    }

    fn try_flush_each(&mut self, ranges: &[[u8; HASH_BYTES]]) -> io::Result<()> {
        if self.many_contents {
            flush_tree(&self.disk, open_below(self.folder.as_fd(), FILES, Missing::Fail)?)?;
        } else {
            self.flush_few_contents()?;
        }
        if let Some(folder) = &self.ranges {
            ranges.iter().try_for_each(|name| flush_below(&self.disk, folder.as_fd(), hex(name).as_bytes()))?;
        }
        for name in [DELTA, BLOCKS] {
            if exists(self.folder.as_fd(), name)? {
                flush_below(&self.disk, self.folder.as_fd(), name)?;
            }
        }
        for name in [INDEX, HEAD, INTENT] {
            flush_below(&self.disk, self.folder.as_fd(), name)?;
        }
        self.disk.flush_folder(self.folder.as_fd(), b"upload")?;
        self.disk.flush_folder(self.parent.as_fd(), b"incoming")
    }

    fn flush_few_contents(&mut self) -> io::Result<()> {
        let Some(stack) = &mut self.files else { return Ok(()) };
        let mut folders = std::collections::BTreeSet::new();
        for path in &self.few_contents {
            let folder = stack.enter(path.parent().as_ref(), Missing::Fail)?;
            flush_below(&self.disk, folder, path.name())?;
            let mut above = path.parent();
            while let Some(folder) = above {
                above = folder.parent();
                folders.insert(folder);
            }
        }
        // Backwards, a folder comes after everything in it.
        for path in folders.iter().rev() {
            let folder = stack.enter(Some(path), Missing::Fail)?;
            self.disk.flush_folder(folder, path.as_bytes())?;
        }
        self.disk.flush_folder(stack.root(), FILES)
    }

    /// Removes the folder and what is left in it.
    pub fn remove(self) -> Result<(), StoreError> {
        sweep(&self.disk, self.parent.as_fd(), &self.name).at("remove", &self.path)
    }
}

/// Writes a file in place of what an earlier session left, perhaps not whole.
fn write_anew(disk: &Disk, folder: BorrowedFd<'_>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    match disk.create_file(folder, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(folder, name)?;
            disk.create_file(folder, name)?.write(bytes)
        }
        created => created?.write(bytes),
    }
}

/// Removes an upload's folder: the intent last, so that a sweep which is cut short goes on at the next start
/// with the same knowledge.
pub fn sweep(disk: &Disk, incoming: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let folder = match open_below(incoming, name.as_bytes(), Missing::Fail) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return disk.remove_file(incoming, name.as_bytes());
        }
        Err(error) => return Err(error),
    };
    for item in rustix::fs::Dir::read_from(&folder)? {
        let item = item?;
        let inside = item.file_name().to_bytes();
        if inside != b"." && inside != b".." && inside != INTENT {
            remove_tree(disk, folder.as_fd(), inside)?;
        }
    }
    remove_tree(disk, folder.as_fd(), INTENT)?;
    disk.remove_folder(incoming, name.as_bytes())
}

/// Makes `path` the current folder of the stack, with folders made where they are missing.
fn enter_or_make(disk: &Disk, stack: &mut FolderStack, path: Option<&EntryPath>) -> io::Result<()> {
    let error = match stack.enter(path, Missing::Fail) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let (io::ErrorKind::NotFound, Some(path)) = (error.kind(), path) else { return Err(error) };
    // Entering stopped at the first missing folder, so the handles above it are still open.
    let mut end = 0;
    for component in path.components() {
        end += component.len() + usize::from(end > 0);
        let folder = EntryPath::parse(&path.as_bytes()[..end]).expect("a part of a path, cut at a separator");
        match stack.enter(Some(&folder), Missing::Fail) {
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        disk.make_folder(stack.top(), component)?;
        stack.push(component, Missing::Fail)?;
    }
    Ok(())
}

/// Whether a path begins with the folder that holds renamed contents, in any case: the file system may fold.
fn is_reserved(path: &EntryPath) -> bool {
    path.components().next().is_some_and(|first| first.eq_ignore_ascii_case(RENAMED))
}

/// Whether the file system refuses the name itself, or takes it for one that is there already.
fn refuses_name(error: &io::Error) -> bool {
    const REFUSALS: [Errno; 8] = [
        Errno::NAMETOOLONG,
        Errno::INVAL,
        Errno::ILSEQ,
        Errno::EXIST,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::ISDIR,
        Errno::MLINK,
    ];
    Errno::from_io_error(error).is_some_and(|errno| REFUSALS.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::super::at_rest::Keyring;
    use super::super::layout::ClientFolder;
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn plain() -> ClientKeyring {
        Keyring::plain().of(&ClientFolder::parse("ada-00112233").unwrap())
    }

    #[test]
    fn a_hundred_levels_of_the_longest_names_are_stored_under_their_path() {
        let temporary = tempfile::tempdir().unwrap();
        let mut staging = Staging::open(&Disk::real(), plain(), temporary.path(), UploadId::random()).unwrap();
        let deep = path(&vec!["x".repeat(255); 100].join("/"));
        assert_eq!(staging.create_content(&deep).unwrap().renamed, None);
        let sibling = deep.parent().unwrap().join(b"y").unwrap();
        assert_eq!(staging.create_content(&sibling).unwrap().renamed, None);
        staging.flush_each(&[]).unwrap_err();
        staging.remove().unwrap();
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_the_file_system_refuses_is_stored_under_a_number() {
        let temporary = tempfile::tempdir().unwrap();
        let mut staging = Staging::open(&Disk::real(), plain(), temporary.path(), UploadId::random()).unwrap();
        assert_eq!(staging.create_content(&path("a")).unwrap().renamed, None);
        for (number, refused) in ["a", "a/below", &"n".repeat(256), ".renamed/0", ".RENAMED"].iter().enumerate() {
            let placed = staging.create_content(&path(refused)).unwrap();
            assert_eq!(placed.renamed, Some(path(&format!(".renamed/{number}"))), "{refused}");
        }
    }
}
