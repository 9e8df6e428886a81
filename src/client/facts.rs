//! What a file system says about one name, in the program's own types, and its errors in words.

use std::io;

use rustix::fs::{FileType, Stat};

use crate::base::time::Timestamp;

/// The facts of one name at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// The 12 permission bits.
    pub mode: u16,
    pub owner: u32,
    pub group: u32,
}

impl FileFacts {
    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn of(stat: &Stat) -> FileFacts {
        FileFacts {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: timestamp(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            ctime: timestamp(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
            mode: (stat.st_mode & 0o7777) as u16,
            owner: stat.st_uid,
            group: stat.st_gid,
        }
    }
}

/// A file system on a damaged disk may hold any number; an entry may not.
fn timestamp(seconds: i64, nanoseconds: u64) -> Timestamp {
    Timestamp { seconds, nanoseconds: nanoseconds.min(999_999_999) as u32 }
}

pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The kind with its article, as it stands in a sentence.
pub fn kind_word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    }
}

/// The cause for a person: short for what is common, the system's words for the rest.
pub fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        io::ErrorKind::NotFound => "vanished".to_string(),
        io::ErrorKind::StorageFull => "the disk is full".to_string(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".to_string(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_string(),
        _ => error.to_string(),
    }
}
