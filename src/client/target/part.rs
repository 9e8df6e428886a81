//! What a restore builds on: files of the target that are right already, and the unfinished contents ("parts") that
//! an earlier restore left: of large files those that were cut off, of small ones only where it was killed.
//!
//! A part has a name that is found again, made from its folder's inode and the file's name, so that there is at most
//! one for each file: whatever snapshot is restored next, its blocks are compared with what the part holds, and the
//! part becomes the file. The inode keeps a part that was itself backed up, and restored elsewhere, from being taken
//! for one there.
//!
//! **Two restores never write to one part**: whoever has it holds a lock on it until it has its name, and has looked
//! that the name still leads to what is locked. Who does not get it uses a random name.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};

use super::{RestoreTarget, TargetError, failed, set_properties};
use crate::base::entry::Entry;
use crate::base::ids::hex;
use crate::base::limits::LARGE_FILE_BYTES;
use crate::base::path::EntryPath;
use crate::client::facts::{FileFacts, file_type};
use crate::client::properties::Properties;
use crate::crypto::blake3_hash;

/// How often a part that vanishes while it is being opened is tried again.
const PART_TRIES_MAX: u32 = 4;

/// The open part of a large file, locked, with what it holds.
#[derive(Debug)]
pub(in crate::client) struct Part {
    pub name: String,
    pub file: File,
    /// What stands under the file's own name, if it can be read: blocks of it may be right.
    pub standing: Option<File>,
}

/// Whether a part of the entry is kept when its restore is cut off.
pub(in crate::client) fn is_large(entry: &Entry) -> bool {
    entry.size >= LARGE_FILE_BYTES
}

/// The name of the part of the file `name` in `folder`.
pub(in crate::client) fn part_name(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<String> {
    Ok(name_in(inode_of(folder)?, name))
}

fn inode_of(folder: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(FileFacts::of(&rustix::fs::fstat(folder)?).inode)
}

fn name_in(inode: u64, name: &[u8]) -> String {
    let hash = blake3_hash(&[&inode.to_le_bytes(), name].concat());
    format!(".cb-{}.part", hex(&hash[..8]))
}

/// Opens a file for reading, if it is one; never through a link, never waiting for a pipe.
pub(in crate::client) fn open_file(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<(File, Stat)>> {
    let looked = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    if !looked.is_ok_and(|stat| file_type(&stat) == FileType::RegularFile) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(folder, name, flags, Mode::empty())?.into();
    let stat = rustix::fs::fstat(&file)?;
    Ok((file_type(&stat) == FileType::RegularFile).then_some((file, stat)))
}

/// Whether a file's owner and other names allow that it stays and gets an entry's properties: what is done to it must
/// neither fail for want of rights nor show under another name.
pub(in crate::client) fn may_stay(stat: &Stat, as_root: bool) -> bool {
    stat.st_nlink == 1 && (as_root || stat.st_uid == rustix::process::geteuid().as_raw())
}

/// Opens, or makes, a part and locks it; none where it cannot be had.
fn open_locked(folder: BorrowedFd<'_>, name: &str) -> Option<(File, Stat)> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for _ in 0..PART_TRIES_MAX {
        let made = rustix::fs::openat(folder, name, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR);
        let is_new = made.is_ok();
        let opened = made.or_else(|_| rustix::fs::openat(folder, name, flags, Mode::empty()));
        let file: File = match opened {
            Ok(file) => file.into(),
            // It had its file's name given to it meanwhile.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(_) => return None,
        };
        let stat = rustix::fs::fstat(&file).ok()?;
        if file_type(&stat) != FileType::RegularFile || !may_stay(&stat, false) {
            return None;
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Another restore has it.
            Err(rustix::io::Errno::WOULDBLOCK) => return None,
            Err(_) => {
                // Nothing can be locked on this file system: it is nobody's.
                if is_new {
                    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
                }
                return None;
            }
        }
        // Whoever had it before may have given it its file's name meanwhile.
        let named = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        if named.is_ok_and(|named| (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Some((file, stat));
        }
    }
    None
}

impl RestoreTarget {
    /// Opens the part of a file in the current folder for a content that is written from its start.
    pub(super) fn open_empty_part(&mut self, entry: &Entry) -> Option<(String, File)> {
        let folder = self.stack.top();
        // Asked once for all the files of a folder.
        let inode = self.inode.map_or_else(|| inode_of(folder).ok(), Some)?;
        self.inode = Some(inode);
        let name = name_in(inode, entry.path.name());
        let (file, stat) = open_locked(folder, &name)?;
        let is_empty = stat.st_size == 0 || file.set_len(0).is_ok();
        is_empty.then_some((name, file))
    }

    /// Opens the part of the file at `path` with what it holds; none where another restore has it.
    pub(in crate::client) fn open_part(&mut self, path: &EntryPath) -> Result<Option<Part>, TargetError> {
        self.go_to(path.parent().as_ref())?;
        self.check_free(path, "a file")?;
        let folder = self.stack.top();
        let name = part_name(folder, path.name()).map_err(failed(path, "look at its folder"))?;
        let Some((file, _)) = open_locked(folder, &name) else { return Ok(None) };
        let standing = open_file(folder, path.name()).ok().flatten().map(|(file, _)| file);
        Ok(Some(Part { name, file, standing }))
    }

    /// Gives a part, whose content has been found right, its properties and its file's name.
    pub(in crate::client) fn finish_part(
        &mut self,
        path: &EntryPath,
        properties: Properties,
        part: &Part,
    ) -> Result<(), TargetError> {
        set_properties(part.file.as_fd(), path, properties, self.as_root, &mut self.problems);
        self.take_place(path, &part.name)
    }

    /// Leaves a file, whose content has been found right, where it is, and gives it its properties.
    pub(in crate::client) fn keep_file(&mut self, entry: &Entry, bytes: u64) -> Result<(), TargetError> {
        let path = &entry.path;
        self.go_to(path.parent().as_ref())?;
        let opened = open_file(self.stack.top(), path.name()).map_err(failed(path, "look at the file"))?;
        let found = opened.map(|(file, stat)| (file, FileFacts::of(&stat), may_stay(&stat, self.as_root)));
        let Some((file, facts, true)) = found.filter(|(_, facts, _)| facts.size == bytes) else {
            return Err(TargetError::Changed { path: path.as_bytes().to_vec() });
        };
        if is_large(entry) {
            self.remove_part(path);
        }
        let properties = Properties::of(entry);
        if !properties.are_those_of(&facts, self.as_root) {
            set_properties(file.as_fd(), path, properties, self.as_root, &mut self.problems);
        }
        Ok(())
    }

    /// Removes the part of a file that needs it no longer; nothing where another restore has it.
    fn remove_part(&self, path: &EntryPath) {
        let folder = self.stack.top();
        let Ok(name) = part_name(folder, path.name()) else { return };
        let is_there = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if is_there && open_locked(folder, &name).is_some() {
            self.remove(&name);
        }
    }

    /// The restore is cut off: what has come of a large file stays for the next one.
    pub(in crate::client) fn cut_off(&mut self) {
        if let Some(file) = self.file.take_if(|file| !file.is_part) {
            self.remove(&file.temporary);
        }
        self.file = None;
    }
}
