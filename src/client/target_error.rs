//! What can go wrong while a snapshot is written back. Each error is about one path and leaves the others
//! alone, so that the restore names it and goes on.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::facts::cause;
use crate::base::path::display_bytes;

/// Why something was not restored, or not with all its properties. The restore can go on after each of
/// them, with the next entry.
#[derive(Debug)]
pub enum TargetError {
    /// The folder to restore to cannot be used.
    Target {
        to: PathBuf,
        source: io::Error,
    },
    /// Something stands where the entry should go.
    InTheWay {
        path: Vec<u8>,
        found: &'static str,
        wanted: &'static str,
    },
    /// What arrived is not what was stored.
    Damaged {
        path: Vec<u8>,
    },
    /// The file was right when it was looked at, and then somebody changed it.
    Changed {
        path: Vec<u8>,
    },
    /// The entry stands, but a property could not be set.
    Property {
        path: Vec<u8>,
        property: &'static str,
        source: io::Error,
    },
    Io {
        path: Vec<u8>,
        action: &'static str,
        source: io::Error,
    },
    /// `write` or `end_file` without a file begun: a mistake of the caller.
    NoFile,
}

impl TargetError {
    /// The path that it is about, as in the snapshot; none where it is about the whole restore.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            TargetError::Target { .. } | TargetError::NoFile => None,
            TargetError::InTheWay { path, .. }
            | TargetError::Damaged { path }
            | TargetError::Changed { path }
            | TargetError::Property { path, .. }
            | TargetError::Io { path, .. } => Some(path),
        }
    }

    /// Whether it is no use to go on with other paths.
    pub fn ends_all(&self) -> bool {
        self.is_disk_full() || self.is_read_only() || self.path().is_none()
    }

    /// Whether nothing can be written there at all.
    pub fn is_read_only(&self) -> bool {
        let kind = |error: &io::Error| error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        matches!(self, TargetError::Io { source, .. } if kind(source))
    }

    /// Whether no further file will fit either.
    pub fn is_disk_full(&self) -> bool {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, TargetError::Io { source, .. } | TargetError::Target { source, .. } if full(source))
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Target { to, source } => write!(
                formatter,
                "cannot restore to {}: {}: name a folder that can be written with --to",
                display_bytes(to.as_os_str().as_bytes()),
                cause(source)
            ),
            TargetError::InTheWay { path, found, wanted } => write!(
                formatter,
                "{}: {found} stands where the snapshot has {wanted}: move it away, or restore to another folder",
                display_bytes(path)
            ),
            TargetError::Damaged { path } => write!(
                formatter,
                "{}: what arrived does not match its checksum and was not kept: run \"cyberbackup verify\"",
                display_bytes(path)
            ),
            TargetError::Changed { path } => {
                write!(formatter, "{}: it changed while the restore ran: restore again", display_bytes(path))
            }
            TargetError::Property { path, property, source } => write!(
                formatter,
                "{}: restored, but its {property} could not be set: {}",
                display_bytes(path),
                cause(source)
            ),
            TargetError::Io { path, action, source } => {
                write!(formatter, "{}: cannot {action}: {}", display_bytes(path), cause(source))?;
                let next = if self.is_disk_full() { ": free some space and restore again" } else { "" };
                formatter.write_str(next)
            }
            TargetError::NoFile => write!(formatter, "no file was begun: this is a mistake in the program"),
        }
    }
}

impl std::error::Error for TargetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TargetError::Target { source, .. }
            | TargetError::Property { source, .. }
            | TargetError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
