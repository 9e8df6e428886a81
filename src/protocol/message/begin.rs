//! How a backup begins: what the client says of it, and where the server's data lies.

use super::fields::{
    put_cut_text, put_paths, put_snapshot_option, put_tags, put_text, read_paths, read_snapshot_option, read_tags,
};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::limits::{LABEL_BYTES_MAX, ROOTS_MAX};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;

/// Longest name of a boot.
pub(super) const BOOT_BYTES_MAX: usize = 64;

/// What a backup begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// Chosen by the client; the same id again means the same upload.
    pub upload: UploadId,
    pub started: Timestamp,
    /// Bits of [`begin_flag`].
    pub flags: u8,
    /// Compare with this snapshot instead of the newest.
    pub parent: Option<SnapshotId>,
    pub host: String,
    pub label: String,
    pub tags: Vec<String>,
    pub roots: Vec<EntryPath>,
}

/// How a backup compares with what is stored.
pub mod begin_flag {
    /// With no earlier snapshot: everything is sent.
    pub const FULL: u8 = 1;
    /// Another inode alone is no change.
    pub const IGNORE_INODE: u8 = 2;
    /// Another ctime alone is no change.
    pub const IGNORE_CTIME: u8 = 4;
    /// Nothing is to be stored: what is left of the upload stays as it is.
    pub const DRY_RUN: u8 = 8;
    pub const ALL: u8 = FULL | IGNORE_INODE | IGNORE_CTIME | DRY_RUN;
}

/// A folder by its place in a running system: so that a client on the same host leaves it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFolder {
    /// Names one boot of one kernel; empty where the system has no such name.
    pub boot: String,
    pub device: u64,
    pub inode: u64,
}

impl Begin {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.upload.as_bytes());
        self.started.encode(out);
        out.put_u8(self.flags);
        put_snapshot_option(out, self.parent);
        put_text(out, &self.host);
        put_text(out, &self.label);
        put_tags(out, &self.tags);
        put_paths(out, &self.roots);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Begin, DecodeError> {
        Ok(Begin {
            upload: UploadId::from_bytes(reader.array("upload id")?),
            started: Timestamp::decode(reader)?,
            flags: match reader.u8("begin flags")? {
                flags if flags & !begin_flag::ALL == 0 => flags,
                _ => return Err(DecodeError::Invalid { what: "begin flags" }),
            },
            parent: read_snapshot_option(reader)?,
            host: reader.text16(LABEL_BYTES_MAX, "host")?,
            label: reader.text16(LABEL_BYTES_MAX, "label")?,
            tags: read_tags(reader)?,
            roots: read_paths(reader, ROOTS_MAX, "roots")?,
        })
    }
}

impl HostFolder {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_cut_text(out, &self.boot, BOOT_BYTES_MAX);
        out.put_u64(self.device);
        out.put_u64(self.inode);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<HostFolder, DecodeError> {
        Ok(HostFolder {
            boot: reader.text16(BOOT_BYTES_MAX, "boot")?,
            device: reader.u64("device")?,
            inode: reader.u64("inode")?,
        })
    }
}
