//! What a vault's snapshot needs, read back: the record of the snapshot, its lists, and their chunks. The server cannot
//! open any of it; it sees that every record is the one that was stored.

use std::collections::HashSet;

use super::record::{Kind, names_in};
use super::upload::short;
use super::{Opening, Vault};
use crate::base::ids::SnapshotId;
use crate::base::vault::ChunkName;
use crate::storage::error::StoreError;
use crate::storage::head::InVault;
use crate::storage::store::Store;

/// Lists that are remembered as read; one more is read again where another snapshot needs it.
const LISTS_SEEN_MAX: usize = 65_536;

/// A run over the snapshots of vaults.
#[derive(Debug, Default)]
pub struct VaultRun {
    seen: HashSet<ChunkName>,
}

/// What is told of a run as it goes on.
pub trait VaultWatch {
    /// So many more bytes were read. False ends the run.
    fn read(&mut self, bytes: u64) -> bool;
    /// Something of the snapshot is damaged. False ends the run.
    fn damaged(&mut self, text: String) -> bool;
}

impl Store {
    /// Reads back what a snapshot needs: all of it, or the lists that `is_due` takes, by their names, and their chunks.
    /// What is damaged is noted, so that the next backup that still has it is asked for it. False where the watch did
    /// not want to go on.
    pub fn verify_in_vault(
        &self,
        snapshot: SnapshotId,
        place: InVault,
        run: &mut VaultRun,
        is_due: &dyn Fn(&ChunkName) -> bool,
        watch: &mut dyn VaultWatch,
    ) -> Result<bool, StoreError> {
        let vault = match self.open_vault(place.vault, None, Opening::Checked) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(watch.damaged(format!("vault {} is gone", place.vault)));
            }
            opened => opened?,
        };
        let record = match vault.snapshot_record(snapshot, &place.object)? {
            Ok(record) => record,
            Err(problem) => return Ok(watch.damaged(problem)),
        };
        let lists = record.snapshot().map_or(&[][..], |snapshot| snapshot.lists);
        for list in names_in(lists).filter(is_due) {
            if run.seen.contains(&list) {
                continue;
            }
            if run.seen.len() < LISTS_SEEN_MAX {
                run.seen.insert(list);
            }
            if !vault.verify_list(&list, watch)? {
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
                Some(chunk) => watch.read(chunk.as_bytes().len() as u64),
                None => watch.damaged(format!("chunk {} is damaged or gone", short(&name))),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
