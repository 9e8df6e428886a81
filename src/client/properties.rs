//! Owner, mode and time of what was restored. What cannot be set is noted and does not undo the rest: the
//! content is worth more than its properties.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid};

use super::facts::FileFacts;
use super::target_error::TargetError;
use crate::base::entry::Entry;
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;

/// What an entry says about itself, beside its content.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(Default))]
pub(super) struct Properties {
    mode: u16,
    mtime: Timestamp,
    owner: u32,
    group: u32,
}

impl Properties {
    pub(super) fn of(entry: &Entry) -> Properties {
        Properties { mode: entry.mode & 0o7777, mtime: entry.mtime, owner: entry.owner, group: entry.group }
    }

    /// Whether setting them would change nothing. Only root sets owners.
    pub(super) fn are_those_of(&self, facts: &FileFacts, as_root: bool) -> bool {
        let owned = (self.owner, self.group) == (facts.owner, facts.group);
        (self.mode, self.mtime) == (facts.mode, facts.mtime) && (owned || !as_root && self.mode & !0o777 == 0)
    }
}

/// What went wrong beside the calls that returned, until the caller takes it.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<TargetError>);

impl Problems {
    pub(super) fn note(&mut self, path: &EntryPath, property: &'static str, set: io::Result<()>) {
        if let Err(source) = set {
            self.0.push(TargetError::Property { path: path.as_bytes().to_vec(), property, source });
        }
    }
}

/// Sets the properties of a file or folder: the owner before the mode, because giving a file away clears
/// setuid and setgid; the time last.
pub(super) fn set_properties(
    handle: BorrowedFd<'_>,
    path: &EntryPath,
    properties: Properties,
    as_root: bool,
    problems: &mut Problems,
) {
    let Properties { mode, mtime, owner, group } = properties;
    if as_root {
        let set = rustix::fs::fchown(handle, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)));
        problems.note(path, "owner", set.map_err(io::Error::from));
    }
    let allowed = allowed_mode(handle, mode, owner, group);
    let set = allowed.and_then(|mode| Ok(rustix::fs::fchmod(handle, raw_mode(mode))?));
    problems.note(path, "mode", set);
    problems.note(path, "time", rustix::fs::futimens(handle, &times(mtime)).map_err(io::Error::from));
}

/// Sets the properties of the link `name` in `folder`; a link has no mode of its own.
pub(super) fn set_link_properties(
    folder: BorrowedFd<'_>,
    name: &str,
    path: &EntryPath,
    properties: Properties,
    as_root: bool,
    problems: &mut Problems,
) {
    let Properties { mtime, owner, group, .. } = properties;
    if as_root {
        let (owner, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)));
        let set = rustix::fs::chownat(folder, name, owner, group, AtFlags::SYMLINK_NOFOLLOW);
        problems.note(path, "owner", set.map_err(io::Error::from));
    }
    let set = rustix::fs::utimensat(folder, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW);
    problems.note(path, "time", set.map_err(io::Error::from));
}

/// The mode that the file may have: setuid and setgid only where it belongs to whom it belonged, so that
/// nobody is lent rights that were another's.
fn allowed_mode(handle: BorrowedFd<'_>, mode: u16, owner: u32, group: u32) -> io::Result<u16> {
    let now = FileFacts::of(&rustix::fs::fstat(handle)?);
    let mut allowed = mode;
    if now.owner != owner {
        allowed &= !SETUID;
    }
    if now.group != group {
        allowed &= !SETGID;
    }
    Ok(allowed)
}

pub(super) fn raw_mode(mode: u16) -> Mode {
    Mode::from_raw_mode(u32::from(mode))
}

/// The time of modification; that of the last access is left alone.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}
