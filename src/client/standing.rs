//! What stands in the target of a restore before it begins: which files have their snapshot's content already. A
//! time or a size proves nothing here, so every file of the right size is read and hashed. Nothing is changed, and no
//! link is followed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{AtFlags, FileType};

use super::error::ClientError;
use super::facts::{FileFacts, file_type};
use super::target::{is_large, may_stay, open_file, part_name};
use crate::base::entry::Entry;
use crate::base::folder::{FolderStack, Missing};
use crate::base::limits::{CONTENT_CHUNK_BYTES, LARGE_FILE_BYTES};
use crate::base::shutdown::Shutdown;
use crate::crypto::{ContentHasher, ContentSums};

/// What was found in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The very content.
    Right,
    /// Something that may have blocks of it.
    Parts,
    /// Nothing of use.
    Nothing,
}

/// The target, looked at.
pub(super) struct Standing {
    stack: FolderStack,
    as_root: bool,
    chunk: Vec<u8>,
    shutdown: Shutdown,
}

impl Standing {
    pub fn open(to: &Path, shutdown: Shutdown) -> io::Result<Standing> {
        let as_root = rustix::process::geteuid().is_root();
        Ok(Standing { stack: FolderStack::open(to)?, as_root, chunk: vec![0; CONTENT_CHUNK_BYTES], shutdown })
    }

    /// Looks at the place of a file with this content.
    ///
    /// # Errors
    /// `Interrupted`; what cannot be read counts as nothing.
    pub fn find(&mut self, entry: &Entry, sums: &ContentSums) -> Result<Found, ClientError> {
        let Standing { stack, as_root, chunk, shutdown } = self;
        let Ok(folder) = stack.enter(entry.path.parent().as_ref(), Missing::Fail) else {
            return Ok(Found::Nothing);
        };
        let opened = open_file(folder, entry.path.name()).ok().flatten();
        let mut has_bytes = false;
        if let Some((file, stat)) = opened {
            let size = FileFacts::of(&stat).size;
            has_bytes = size > 0;
            if size == sums.size && may_stay(&stat, *as_root) && has_sums(&file, sums, chunk, shutdown)? {
                return Ok(Found::Right);
            }
        }
        if !is_large(entry) || sums.size < LARGE_FILE_BYTES {
            return Ok(Found::Nothing);
        }
        let part = part_name(folder, entry.path.name())
            .and_then(|name| Ok(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?));
        let has_part = part.is_ok_and(|stat| file_type(&stat) == FileType::RegularFile);
        Ok(if has_bytes || has_part { Found::Parts } else { Found::Nothing })
    }
}

/// Whether a file has this content. No more of it is read than the content has.
///
/// # Errors
/// `Interrupted`.
pub(super) fn has_sums(
    file: &File,
    sums: &ContentSums,
    chunk: &mut [u8],
    shutdown: &Shutdown,
) -> Result<bool, ClientError> {
    let mut hasher = ContentHasher::new();
    // One byte more shows a file that is longer.
    let mut reader = file.take(sums.size.saturating_add(1));
    loop {
        if shutdown.is_requested() {
            return Err(ClientError::Interrupted);
        }
        match reader.read(chunk) {
            Ok(0) => return Ok(hasher.finish() == *sums),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(false),
        }
    }
}
