//! What the store remembers of how it is sealed: `sealing.json`. Written and flushed before the first file is sealed,
//! so that a store with sealed files is never taken for a plain one.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::keyring::Keyring;
use super::search;
use crate::base::durable::{Disk, FILE_MODE};
use crate::base::folder::open_folder;
use crate::crypto::{KeyId, StorageKey};
use crate::storage::error::{At, StoreError, if_there};
use crate::storage::layout::{Layout, SEALING_NAME, names_in, read_small_file};
use crate::storage::sealed_json::{decode_sealed, encode_sealed};

const VERSION: u64 = 1;
const BYTES_MAX: u64 = 64 * 1024;
/// Stands among the keys for files that are not sealed.
const PLAIN: &str = "plain";

/// The storage key that was given to a process.
#[derive(Debug, Clone, Default)]
pub struct StorageKeys {
    pub key: Option<Arc<StorageKey>>,
    /// A store that is not sealed is from now on: what is new in it.
    pub begin: bool,
    /// A `sealing.json` that is damaged counts as one that is gone, but is not written before a
    /// [repair](crate::storage::Store::repair) is asked for.
    pub mend: bool,
}

impl StorageKeys {
    /// No key.
    #[cfg(not(test))]
    pub fn usual() -> StorageKeys {
        StorageKeys::default()
    }

    /// The tests of the store can be run on sealed stores: with `CYBERBACKUP_TEST_AT_REST` set.
    #[cfg(test)]
    pub fn usual() -> StorageKeys {
        match std::env::var_os("CYBERBACKUP_TEST_AT_REST") {
            None => StorageKeys::default(),
            Some(_) => {
                let key = StorageKey::parse(&[b'7'; 64]).expect("64 hex digits");
                StorageKeys { key: Some(Arc::new(key)), begin: true, mend: false }
            }
        }
    }
}

/// How a store is sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealingState {
    /// What new files are sealed with; none where they are plain.
    pub key: Option<KeyId>,
    /// What else the files may be sealed with: while a `rekey` is under way, and what one left as it was since it could
    /// not be read.
    pub also: Vec<KeyId>,
    /// Some may not be sealed.
    pub also_plain: bool,
    /// A `rekey` has not come to its end.
    pub rekeying: bool,
}

#[derive(Serialize, Deserialize)]
struct SealingFile {
    version: u64,
    key: Option<String>,
    also: Vec<String>,
    rekeying: bool,
}

impl SealingState {
    /// None for a store that is plain.
    pub fn read(data: &Path) -> Result<Option<SealingState>, StoreError> {
        let path = data.join(SEALING_NAME);
        let Some(bytes) = if_there(read_small_file(&path, BYTES_MAX))? else { return Ok(None) };
        let file: SealingFile = decode_sealed(&bytes, &path)?;
        if file.version > VERSION {
            return Err(StoreError::NewerFormat { path, version: file.version });
        }
        let id = |text: &String| text.parse::<KeyId>().map_err(|error| StoreError::damaged(&path, error));
        let also = file.also.iter().filter(|text| *text != PLAIN).map(id).collect::<Result<_, _>>()?;
        Ok(Some(SealingState {
            key: file.key.as_ref().map(id).transpose()?,
            also,
            also_plain: file.also.iter().any(|text| text == PLAIN),
            rekeying: file.rekeying,
        }))
    }

    /// The key that a store is sealed with; where `sealing.json` is not there, as some of its files say. None for a
    /// store that is plain.
    pub fn wanted_key(data: &Path) -> Result<Option<KeyId>, StoreError> {
        match SealingState::read(data)? {
            Some(state) => Ok(state.wanted()),
            None => search::find_key(data),
        }
    }

    /// As [`read`](SealingState::read); where `sealing.json` is not there, or damaged, and sealed files are, what they say.
    pub fn read_or_find(layout: &Layout) -> Result<Option<SealingState>, StoreError> {
        let damage = match SealingState::read(layout.data()) {
            Ok(Some(state)) => return Ok(Some(state)),
            Ok(None) => None,
            Err(error @ StoreError::Damaged { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        match (search::find_key(layout.data())?, damage) {
            (Some(key), _) => search::find_state(layout, key).map(Some),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Whether there is one that is damaged.
    pub fn is_damaged(data: &Path) -> bool {
        matches!(SealingState::read(data), Err(StoreError::Damaged { .. }))
    }

    /// Whether new files are not sealed, and a server needs no key.
    fn is_plain(&self) -> bool {
        self.key.is_none() && !self.rekeying
    }

    /// The key without which contents cannot be read.
    fn wanted(&self) -> Option<KeyId> {
        self.key.or_else(|| self.also.first().copied().filter(|_| self.rekeying))
    }

    /// On the disk when this returns.
    pub fn write(&self, disk: &Disk, data: &Path) -> Result<(), StoreError> {
        let plain = self.also_plain.then(|| PLAIN.to_string());
        let bytes = encode_sealed(&SealingFile {
            version: VERSION,
            key: self.key.map(|key| key.to_string()),
            also: self.also.iter().map(KeyId::to_string).chain(plain).collect(),
            rekeying: self.rekeying,
        });
        let folder = open_folder(data).at("open", data)?;
        let written = disk.replace_file(folder.as_fd(), SEALING_NAME.as_bytes(), &bytes, FILE_MODE);
        written.at("write", &data.join(SEALING_NAME))
    }

    /// The store is plain again; on the disk when this returns.
    pub fn remove(disk: &Disk, data: &Path) -> Result<(), StoreError> {
        let folder = open_folder(data).at("open", data)?;
        match disk.remove_file(folder.as_fd(), SEALING_NAME.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.at("remove", &data.join(SEALING_NAME))?,
        }
        disk.flush_folder(folder.as_fd(), SEALING_NAME.as_bytes()).at("flush", data)
    }
}

/// What a store is opened with.
#[derive(Debug)]
pub struct Opening {
    pub keyring: Keyring,
    /// The key that is wanted for the contents and was not given.
    pub locked: Option<KeyId>,
}

impl Opening {
    /// Fits the key that was given to what the store remembers. Without one a sealed store can still be opened, for
    /// what is not sealed in it.
    pub fn of(layout: &Layout, disk: &Disk, keys: StorageKeys) -> Result<Opening, StoreError> {
        let data = layout.data();
        let known = match SealingState::read(data) {
            Err(StoreError::Damaged { .. }) if keys.mend => None,
            read => read?,
        };
        let wanted = match &known {
            Some(state) => state.wanted(),
            None => search::find_key(data)?,
        };
        let known = match (known, wanted, &keys.key) {
            (None, Some(wanted), Some(key)) => Some(regain(layout, disk, wanted, key.id(), !keys.mend)?),
            (known, ..) => known,
        };
        let state = match (known, &keys.key) {
            (state, Some(key)) if keys.begin && state.as_ref().is_none_or(SealingState::is_plain) => {
                // A store that has no client has no contents.
                let also_plain = !names_in(&layout.clients())?.is_empty();
                let also = state.map_or(Vec::new(), |state| state.also);
                let state = SealingState { key: Some(key.id()), also, also_plain, rekeying: false };
                state.write(disk, data)?;
                Some(state)
            }
            (state, _) => state,
        };
        let path = || data.to_path_buf();
        match (state, keys.key) {
            (None, None) if wanted.is_some() => {
                Ok(Opening { keyring: Keyring::new(None, Vec::new(), false), locked: wanted })
            }
            (None, None) => Ok(Opening { keyring: Keyring::plain(), locked: None }),
            (None, Some(_)) => Err(StoreError::NotSealed { path: path() }),
            (Some(state), Some(_)) if state.rekeying => Err(unfinished(path(), &state)),
            (Some(state), None) if state.is_plain() => Ok(Opening { keyring: Keyring::plain(), locked: None }),
            (Some(state), None) => {
                Ok(Opening { keyring: Keyring::new(None, Vec::new(), false), locked: state.wanted() })
            }
            (Some(state), Some(key)) if state.key == Some(key.id()) => {
                Ok(Opening { keyring: Keyring::new(Some(key), Vec::new(), state.also_plain), locked: None })
            }
            (Some(SealingState { key: wanted, .. }), Some(key)) => match wanted {
                Some(wanted) => Err(StoreError::StorageKeyWanted { path: path(), wanted, given: Some(key.id()) }),
                None => Err(StoreError::NotSealed { path: path() }),
            },
        }
    }
}

/// What a `sealing.json` that is gone said, written anew unless the repair does it; where the key that was given is the
/// one that is `wanted`.
fn regain(
    layout: &Layout,
    disk: &Disk,
    wanted: KeyId,
    given: KeyId,
    is_written: bool,
) -> Result<SealingState, StoreError> {
    let path = layout.data().to_path_buf();
    if given != wanted {
        return Err(StoreError::StorageKeyWanted { path, wanted, given: Some(given) });
    }
    let state = search::find_state(layout, wanted)?;
    if !state.also.is_empty() {
        return Err(unfinished(path, &state));
    }
    if !is_written {
        return Ok(state);
    }
    log::warn!(
        "{SEALING_NAME} was gone and is written anew, as the files say: the store is sealed with the storage key \
         {wanted}{}",
        if state.also_plain { ", and has files that are not sealed" } else { "" }
    );
    state.write(disk, layout.data())?;
    Ok(state)
}

/// The error that names the keys a `rekey` that is not finished wants.
pub fn unfinished(path: PathBuf, state: &SealingState) -> StoreError {
    StoreError::RekeyUnfinished { path, keys: state.also.iter().copied().chain(state.key).collect() }
}
