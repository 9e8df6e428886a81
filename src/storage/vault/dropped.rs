//! Which snapshots of a vault were dropped on purpose: written down before the first of them goes, so that whoever reads
//! the vault can tell what the operator's rules took away from what was lost. Nothing but words of the server; a file that
//! is damaged says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Opening, VaultReader, folder_of};
use crate::base::durable::FILE_MODE;
use crate::base::folder::open_folder;
use crate::base::ids::SnapshotId;
use crate::base::limits::VAULT_DROPPED_MAX;
use crate::base::vault::VaultId;
use crate::storage::catalog::{ClientState, locked};
use crate::storage::error::{At, StoreError, if_there};
use crate::storage::head::Head;
use crate::storage::layout::{names_in, read_small_file};
use crate::storage::sealed_json::{decode_sealed, encode_sealed};
use crate::storage::store::Store;

const DROPPED_FILE: &str = "dropped.json";
const VERSION: u64 = 1;
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is known of the snapshots that were dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DroppedList {
    /// Up to this id, itself included, more may have been dropped than is known.
    pub before: Option<SnapshotId>,
    pub snapshots: BTreeSet<SnapshotId>,
}

/// `dropped.json`.
#[derive(Serialize, Deserialize)]
struct DroppedFile {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<SnapshotId>,
    snapshots: BTreeSet<SnapshotId>,
}

impl DroppedList {
    /// Adds what is dropped; the first ids go where they are too many.
    fn add(&mut self, ids: &[SnapshotId]) {
        self.snapshots.extend(ids);
        while self.snapshots.len() > VAULT_DROPPED_MAX {
            self.before = self.before.max(self.snapshots.pop_first());
        }
    }
}

/// What the vault in this folder says.
///
/// # Errors
/// `Damaged` where the file is.
pub fn read(folder: &Path) -> Result<DroppedList, StoreError> {
    let path = folder.join(DROPPED_FILE);
    let Some(bytes) = if_there(read_small_file(&path, FILE_BYTES_MAX))? else { return Ok(DroppedList::default()) };
    let file: DroppedFile = decode_sealed(&bytes, &path)?;
    match file.version {
        VERSION => Ok(DroppedList { before: file.before, snapshots: file.snapshots }),
        version => Err(StoreError::NewerFormat { path, version }),
    }
}

/// A file that cannot be read is as good as none: the vault works without.
fn read_or_none(folder: &Path) -> Result<DroppedList, StoreError> {
    match read(folder).map_err(StoreError::of_named_file) {
        Err(error @ StoreError::Damaged { .. }) => {
            log::error!("what was dropped of a vault is no longer known: {error}");
            Ok(DroppedList::default())
        }
        read => read,
    }
}

/// What is wrong with the files of all vaults in this folder.
pub fn check_all(vaults: &Path) -> Result<Vec<(PathBuf, StoreError)>, StoreError> {
    let mut damaged = Vec::new();
    for name in names_in(vaults)?.iter().filter(|name| name.parse::<VaultId>().is_ok()) {
        let folder = vaults.join(name);
        match read(&folder).map_err(StoreError::of_named_file) {
            Err(error @ StoreError::Damaged { .. }) => damaged.push((folder.join(DROPPED_FILE), error)),
            read => drop(read?),
        }
    }
    Ok(damaged)
}

impl VaultReader {
    /// The snapshots that were dropped on purpose.
    pub fn dropped(&self) -> Result<DroppedList, StoreError> {
        read_or_none(&self.vault.path)
    }
}

impl Store {
    /// Writes down which snapshots of vaults are about to be dropped; on the disk when this returns. Where the disk is
    /// full they are dropped all the same: nothing else gives room.
    pub(in crate::storage) fn note_dropped(
        &self,
        state: &ClientState,
        heads: &[Arc<Head>],
        damaged: &[SnapshotId],
    ) -> Result<(), StoreError> {
        let mut by_vault: BTreeMap<VaultId, Vec<SnapshotId>> = BTreeMap::new();
        for head in heads {
            if let Some(place) = head.vault {
                by_vault.entry(place.vault).or_default().push(head.id);
            }
        }
        for id in damaged {
            if let Some(vault) = self.vault_of_damaged(state, *id)? {
                by_vault.entry(vault).or_default().push(*id);
            }
        }
        for (vault, ids) in by_vault {
            match self.note_in_vault(vault, &ids) {
                Err(error @ StoreError::DiskFull { .. }) => {
                    log::warn!("vault {vault}: that {} snapshots are dropped is not noted: {error}", ids.len());
                }
                noted => noted?,
            }
        }
        Ok(())
    }

    fn note_in_vault(&self, vault: VaultId, ids: &[SnapshotId]) -> Result<(), StoreError> {
        let (path, _one) = (folder_of(&self.shared, vault), locked(&self.shared.vaults.dropping));
        let folder = match open_folder(&path) {
            // Without the vault nobody can ask.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.at("open", &path)?,
        };
        let mut list = read_or_none(&path)?;
        list.add(ids);
        let file = DroppedFile { version: VERSION, before: list.before, snapshots: list.snapshots };
        let written = self.shared.disk.replace_file(
            folder.as_fd(),
            DROPPED_FILE.as_bytes(),
            &encode_sealed(&file),
            FILE_MODE,
        );
        written.at("write", &path.join(DROPPED_FILE))
    }

    /// Which vault a snapshot is in whose head cannot be read: its index has a copy of the head, and the vault's index a
    /// row of the snapshot.
    fn vault_of_damaged(&self, state: &ClientState, id: SnapshotId) -> Result<Option<VaultId>, StoreError> {
        if let Some(head) = self.copy_of_head(state, id)? {
            return Ok(head.vault.map(|place| place.vault));
        }
        for vault in self.vaults()? {
            let rows = self.open_vault(vault, None, Opening::Quick).and_then(|vault| vault.snapshot_rows());
            match rows {
                Ok(rows) if rows.iter().any(|row| row.snapshot == id) => return Ok(Some(vault)),
                Ok(_) => {}
                Err(error) => log::error!("vault {vault} cannot be asked for snapshot {id}: {error}"),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ids_go_where_they_are_too_many_and_the_list_says_so() {
        let id = |number: usize| format!("20260131T{:06}Z-00c0ffee", number).parse().unwrap();
        let mut list = DroppedList::default();
        list.add(&(1..=VAULT_DROPPED_MAX).rev().map(id).collect::<Vec<_>>());
        assert_eq!((list.before, list.snapshots.len()), (None, VAULT_DROPPED_MAX));
        list.add(&[id(VAULT_DROPPED_MAX + 1), id(VAULT_DROPPED_MAX + 2), id(5)]);
        assert_eq!((list.before, list.snapshots.first()), (Some(id(2)), Some(&id(3))));
        list.add(&[id(1)]);
        assert_eq!((list.before, list.snapshots.len()), (Some(id(2)), VAULT_DROPPED_MAX));
    }

    #[test]
    fn the_largest_list_can_be_read_again() {
        let snapshots = (0..VAULT_DROPPED_MAX).map(|_| SnapshotId::create(crate::base::time::Timestamp::now()));
        let file = DroppedFile { version: VERSION, before: None, snapshots: snapshots.collect() };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(DROPPED_FILE), encode_sealed(&file)).unwrap();
        assert_eq!(read(folder.path()).unwrap().snapshots, file.snapshots);
        std::fs::write(folder.path().join(DROPPED_FILE), b"{}").unwrap();
        assert!(read(folder.path()).unwrap_err().is_damage());
        assert_eq!(read_or_none(folder.path()).unwrap(), DroppedList::default());
    }
}
