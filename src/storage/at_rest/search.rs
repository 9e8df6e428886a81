//! How a store is sealed as its files say, for one whose `sealing.json` is gone: that must not turn its sealing off.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::keyring::key_of;
use super::state::SealingState;
use crate::base::folder::open_folder;
use crate::base::limits::{SEALING_SEARCH_CLIENTS_MAX, SEALING_SEARCH_FILES_MAX};
use crate::base::order::sort_by;
use crate::crypto::{KeyId, StorageKey};
use crate::storage::error::{At, StoreError};
use crate::storage::layout::{Layout, names_in};
use crate::storage::recovery::open_if_there;
use crate::storage::tree::each_file;

/// What the first bytes of a file say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It is empty, or no file.
    Nothing,
    Plain,
    Sealed(KeyId),
}

fn look(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Seen> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // What cannot be opened says nothing here; whoever needs it will say so.
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from) else {
        return Ok(Seen::Nothing);
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(Seen::Nothing);
    }
    Ok(match key_of(&file)? {
        Some(key) if key != StorageKey::null().id() => Seen::Sealed(key),
        _ => Seen::Plain,
    })
}

/// The key of the first sealed file that is met among the newest indexes of each client and some of its ranges.
pub(super) fn find_key(data: &Path) -> Result<Option<KeyId>, StoreError> {
    let snapshots = data.join("snapshots");
    for client in names_in(&snapshots)?.iter().take(SEALING_SEARCH_CLIENTS_MAX) {
        let found = match key_of_indexes(&snapshots.join(client))? {
            None => key_of_some(&data.join("ranges").join(client))?,
            found => found,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn key_of_indexes(path: &Path) -> Result<Option<KeyId>, StoreError> {
    let Some(folder) = open_if_there(path)? else { return Ok(None) };
    let mut names = names_in(path)?;
    names.retain(|name| name.ends_with(".index"));
    // Their names begin with the time.
    sort_by(&mut names, |left, right| right.cmp(left));
    for name in names.iter().take(SEALING_SEARCH_FILES_MAX) {
        if let Seen::Sealed(key) = look(folder.as_fd(), name.as_bytes()).at("read", &path.join(name))? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn key_of_some(path: &Path) -> Result<Option<KeyId>, StoreError> {
    let Some(root) = open_if_there(path)? else { return Ok(None) };
    let (mut looked, mut found) = (0, None);
    let walked = each_file(root, &mut |folder, name, _| {
        if let Seen::Sealed(key) = look(folder, name)? {
            found = Some(key);
        }
        looked += 1;
        match found.is_some() || looked >= SEALING_SEARCH_FILES_MAX {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    });
    match walked {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error).at("look through", path),
        _ => Ok(found),
    }
}

/// What `sealing.json` would have to say, `key` being one that is known to be met: found by a look at every file.
pub(super) fn find_state(layout: &Layout, key: KeyId) -> Result<SealingState, StoreError> {
    let (mut also, mut also_plain) = (None, false);
    let folders: [(PathBuf, &[u8]); 4] = [
        (layout.snapshots_of_all(), b".index"),
        (layout.ranges_of_all(), b""),
        (layout.deltas_of_all(), b""),
        (layout.received_of_all(), b""),
    ];
    for (path, ending) in folders {
        let root = open_folder(&path).at("open", &path)?;
        let walked = each_file(root, &mut |folder, name, _| {
            if !name.ends_with(ending) {
                return Ok(());
            }
            match look(folder, name)? {
                Seen::Nothing => {}
                Seen::Plain => also_plain = true,
                // A `rekey` that was cut short leaves one more.
                Seen::Sealed(other) if other != key => also = Some(other),
                Seen::Sealed(_) => {}
            }
            Ok(())
        });
        walked.at("look through", &path)?;
    }
    Ok(SealingState { key: Some(key), also: also.into_iter().collect(), also_plain, rekeying: also.is_some() })
}
