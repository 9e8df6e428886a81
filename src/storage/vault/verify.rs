//! What a vault's snapshot needs, read back: the record of the snapshot, its lists, and their chunks; and, once for each
//! vault, headers and keys of its packs. The server cannot open any of it; it sees that every record is the one that was
//! stored.

use std::collections::HashSet;

use super::record::{Kind, names_in};
use super::upload::short;
use super::{Opening, Vault, VaultHandle};
use crate::base::ids::SnapshotId;
use crate::base::vault::{ChunkName, VaultId};
use crate::storage::error::StoreError;
use crate::storage::head::InVault;
use crate::storage::store::Store;

/// Lists that are remembered as read; one more is read again where another snapshot needs it.
const LISTS_SEEN_MAX: usize = 65_536;

/// A run over the snapshots of vaults.
#[derive(Debug, Default)]
pub struct VaultRun {
    lists_seen: HashSet<ChunkName>,
    packs_seen: HashSet<VaultId>,
    /// The vault of the last snapshot: it stays open for the next one.
    open: Option<(VaultId, VaultHandle)>,
}

impl VaultRun {
    /// The lists that the run has met are read again: what is damaged is told for each client.
    pub fn begin_client(&mut self) {
        self.lists_seen.clear();
    }

    fn open(&mut self, store: &Store, id: VaultId) -> Result<&Vault, StoreError> {
        // One whose index was found damaged is made anew when everybody has closed it.
        if self.open.as_ref().is_some_and(|(open, vault)| *open != id || vault.index.is_wrong()) {
            self.open = None;
        }
        let vault = match self.open.take() {
            Some((_, vault)) => vault,
            None => store.open_vault(id, None, Opening::Checked)?,
        };
        Ok(&self.open.insert((id, vault)).1)
    }

    /// Whether the list is met for the first time, as far as is remembered.
    fn is_new_list(&mut self, list: ChunkName) -> bool {
        if self.lists_seen.len() >= LISTS_SEEN_MAX {
            return !self.lists_seen.contains(&list);
        }
        self.lists_seen.insert(list)
    }
}

/// What is told of a run as it goes on.
pub trait VaultWatch {
    /// So many more objects and bytes were read. False ends the run.
    fn read(&mut self, objects: u64, bytes: u64) -> bool;
    /// Something of the snapshot is damaged. False ends the run.
    fn damaged(&mut self, text: String) -> bool;
}

impl Store {
    /// Reads back what a snapshot needs: all of it, or the lists that `is_due` takes, by their names, and their chunks.
    /// What is damaged is noted, so that the next backup that still has it is asked for it. With the first snapshot of a
    /// vault in this run its packs are looked at, and mended. False where the watch did not want to go on.
    pub fn verify_in_vault(
        &self,
        snapshot: SnapshotId,
        place: InVault,
        run: &mut VaultRun,
        is_due: &dyn Fn(&ChunkName) -> bool,
        watch: &mut dyn VaultWatch,
    ) -> Result<bool, StoreError> {
        let are_packs_new = run.packs_seen.insert(place.vault);
        let vault = match run.open(self, place.vault) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(watch.damaged(format!("vault {} is gone", place.vault)));
            }
            opened => opened?,
        };
        if are_packs_new && !vault.verify_packs(watch)? {
            return Ok(false);
        }
        let record = match vault.snapshot_record(snapshot, &place.object)? {
            Ok(record) => record,
            Err(problem) => return Ok(watch.damaged(problem)),
        };
        let lists = record.snapshot().map_or(&[][..], |snapshot| snapshot.lists);
        for list in names_in(lists).filter(is_due) {
            if run.is_new_list(list) && !run.open(self, place.vault)?.verify_list(&list, watch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Vault {
    fn verify_list(&self, list: &ChunkName, watch: &mut dyn VaultWatch) -> Result<bool, StoreError> {
        let Some(record) = self.record(list, Kind::List)? else {
            return Ok(watch.damaged(format!("list {} is damaged or gone", short(list))));
        };
        for name in record.names() {
            let goes_on = match self.record(&name, Kind::Chunk)? {
                Some(chunk) => watch.read(1, chunk.as_bytes().len() as u64),
                None => watch.damaged(format!("chunk {} is damaged or gone", short(&name))),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
