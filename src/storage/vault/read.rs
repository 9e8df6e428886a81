//! What is given back of a vault: sealed chunks by name, wrapped keys, heads of snapshots. Each record is looked at
//! whole before any of it is given out.

use super::access;
use super::index::has_key;
use super::record::{Kind, Record};
use super::rows::{ObjectRow, SnapshotRow};
use super::{KeptSnapshot, Opening, Vault, VaultHandle, folder_of};
use crate::base::ids::SnapshotId;
use crate::base::time::Timestamp;
use crate::base::vault::{ChunkName, DataKeyId, VaultId};
use crate::storage::catalog::Pin;
use crate::storage::error::StoreError;
use crate::storage::store::Store;

/// A pack may be emptied between the look into the index and the look into the pack, and the next one too.
const LOOKS_MAX: usize = 8;

/// Something sealed, and the key that it is sealed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedObject {
    pub name: ChunkName,
    pub key: DataKeyId,
    pub sealed: Vec<u8>,
}

/// A vault's snapshot, and what the server knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSnapshot {
    pub id: SnapshotId,
    pub sequence: u64,
    pub committed: Timestamp,
    /// What the client is called that stored it.
    pub client: String,
    pub stored_bytes: u64,
    /// What is wrong with it, where it cannot be given.
    pub head: Result<SealedObject, String>,
}

/// What the index says of an object.
#[derive(Debug, Clone, Copy)]
struct FoundRow {
    row: ObjectRow,
    /// Whether the wrapped key is there that it is sealed under.
    has_key: bool,
}

/// A vault for somebody who may read it.
#[derive(Debug)]
pub struct VaultReader {
    pub(super) vault: VaultHandle,
}

impl Store {
    /// # Errors
    /// `NotFound` where there is no such vault, or the token is not its.
    pub fn read_vault(&self, id: VaultId, read_token: &[u8; 32]) -> Result<VaultReader, StoreError> {
        access::check_read(&folder_of(&self.shared, id), id, read_token)?;
        Ok(VaultReader { vault: self.open_vault(id, None, Opening::Quick)? })
    }

    /// Keeps a snapshot of the vault from being dropped for as long as the pin is there; none where it is not there, or its
    /// head cannot be read.
    pub fn pin_in_vault(&self, reader: &VaultReader, id: SnapshotId) -> Result<Option<Pin>, StoreError> {
        let row = reader.vault.index.read(|index| index.snapshots.get(&id))?;
        let Some(row) = row.filter(|row| self.client(row.client).is_some()) else { return Ok(None) };
        let pinned = self.state(row.client)?.pin(&self.shared.layout, |catalog| catalog.get(id))?;
        Ok(pinned.map(|(_, pin)| pin))
    }

    /// The snapshots in a vault whose ids begin so, whichever client stored them, one by one; false from `take` ends it.
    /// Where one lies its own head says, and no row of the index.
    pub fn vault_snapshots(
        &self,
        reader: &VaultReader,
        beginning: &str,
        take: &mut dyn FnMut(VaultSnapshot) -> bool,
    ) -> Result<(), StoreError> {
        for kept in reader.vault.snapshot_rows()? {
            if !kept.snapshot.as_str().starts_with(beginning) {
                continue;
            }
            let Some(record) = self.client(kept.client) else { continue };
            let state = self.state(kept.client)?;
            let (id, vault) = (kept.snapshot, &reader.vault);
            let (head, is_there) =
                state.with_catalog(&self.shared.layout, |catalog| (catalog.get(id), catalog.has(id)))?;
            if !is_there {
                continue;
            }
            let sealed = match head.as_ref().map(|head| head.vault.filter(|place| place.vault == vault.id)) {
                None => Err("its head on the server cannot be read".to_string()),
                Some(None) => Err("its head on the server is not that of a snapshot of this vault".to_string()),
                Some(Some(place)) => vault.snapshot_head(id, &place.object)?,
            };
            let (sequence, committed, stored_bytes) = head.map_or((0, Timestamp::default(), 0), |head| {
                (head.sequence, head.committed, head.totals.stored_bytes)
            });
            let client = record.name.to_string();
            if !take(VaultSnapshot { id, sequence, committed, client, stored_bytes, head: sealed }) {
                break;
            }
        }
        Ok(())
    }
}

impl VaultReader {
    /// Gives out chunks in the order of their names, none for one that is not held or damaged; false from `take` ends it.
    /// Where they lie is looked up for all of them at once.
    pub fn chunks(
        &self,
        names: &[ChunkName],
        take: &mut dyn FnMut(&ChunkName, Option<SealedObject>) -> bool,
    ) -> Result<(), StoreError> {
        let found = self.vault.find(names)?;
        for (name, found) in names.iter().zip(found) {
            let record = self.vault.record_at(name, Kind::Chunk, found)?;
            let chunk = record.and_then(|record| {
                Some(SealedObject { name: record.name, key: record.key()?, sealed: record.into_payload() })
            });
            if !take(name, chunk) {
                break;
            }
        }
        Ok(())
    }

    /// A key as the client that made it has wrapped it.
    pub fn wrapped_key(&self, id: &DataKeyId) -> Result<Option<Vec<u8>>, StoreError> {
        self.vault.index.read(|index| {
            let row = index.keys.get(id.as_bytes())?;
            Ok(row.map(|row| row.wrapped))
        })
    }
}

impl Vault {
    /// The sealed head of a snapshot; or, where it cannot be given, what is wrong with it.
    pub fn snapshot_head(
        &self,
        snapshot: SnapshotId,
        object: &ChunkName,
    ) -> Result<Result<SealedObject, String>, StoreError> {
        let record = match self.snapshot_record(snapshot, object)? {
            Ok(record) => record,
            Err(problem) => return Ok(Err(problem)),
        };
        let parts = record.key().zip(record.snapshot());
        let (key, payload) = parts.expect("snapshot_record() has looked into it");
        Ok(Ok(SealedObject { name: record.name, key, sealed: payload.sealed.to_vec() }))
    }

    /// The record that a snapshot's head leads to; or what is wrong with it. A whole record of another snapshot is not
    /// this one's, whatever the head says.
    pub fn snapshot_record(
        &self,
        snapshot: SnapshotId,
        object: &ChunkName,
    ) -> Result<Result<Record, String>, StoreError> {
        let Some(record) = self.record(object, Kind::Snapshot)? else {
            return Ok(Err("its sealed head is damaged or gone".to_string()));
        };
        match record.snapshot().map(|payload| payload.id) {
            Some(id) if id == snapshot => Ok(Ok(record)),
            Some(other) => {
                log::error!("damage: vault {}: the head of snapshot {snapshot} leads to that of {other}", self.id);
                Ok(Err(format!(
                    "its head on the server leads to what snapshot {other} has: the two were exchanged"
                )))
            }
            None => Ok(Err("its sealed head is damaged or gone".to_string())),
        }
    }

    /// What the index says of objects: none for one that it does not know.
    fn find(&self, names: &[ChunkName]) -> Result<Vec<Option<FoundRow>>, StoreError> {
        self.index.read(|index| {
            // Chunks that lie together are sealed under one key, as a rule.
            let mut last = None;
            let mut look = |name: &ChunkName| {
                let Some(row) = index.object(name)? else { return Ok(None) };
                let has_key = match last {
                    Some((key, has_key)) if key == row.key => has_key,
                    _ => has_key(&index.key_numbers, &index.keys, &row)?,
                };
                last = Some((row.key, has_key));
                Ok(Some(FoundRow { row, has_key }))
            };
            names.iter().map(&mut look).collect()
        })
    }

    /// Reads an object; none where there is none of this name and kind, or it is damaged, which is noted.
    pub fn record(&self, name: &ChunkName, kind: Kind) -> Result<Option<Record>, StoreError> {
        let found = self.find(std::slice::from_ref(name))?.pop().flatten();
        self.record_at(name, kind, found)
    }

    /// The same, where the index has been looked at.
    fn record_at(
        &self,
        name: &ChunkName,
        kind: Kind,
        mut found: Option<FoundRow>,
    ) -> Result<Option<Record>, StoreError> {
        for look in 1.. {
            let Some(FoundRow { row, has_key }) =
                found.filter(|found| found.row.kind == kind && !found.row.is_lost())
            else {
                return Ok(None);
            };
            let read = self.read_record(name, &row).map_err(StoreError::of_named_file);
            match read {
                Ok(Some(_)) if !has_key => {
                    log::error!("damage: vault {}: the data key of {name} is gone", self.id);
                    self.mark(name, &row, true)?;
                    return Ok(None);
                }
                Ok(Some(record)) => {
                    if row.is_damaged {
                        self.mark(name, &row, false)?;
                    }
                    return Ok(Some(record));
                }
                Ok(None) | Err(StoreError::Damaged { .. }) => {
                    // It may have got another place.
                    let now = self.find(std::slice::from_ref(name))?.pop().flatten();
                    if now.is_some_and(|now| now.row.place != row.place) && look < LOOKS_MAX {
                        found = now;
                        continue;
                    }
                    log::error!("damage: vault {}, pack {:08x}: {name} cannot be read", self.id, row.place.pack);
                    self.mark(name, &row, true)?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// All snapshots that the index knows of, by id.
    pub fn snapshot_rows(&self) -> Result<Vec<KeptSnapshot>, StoreError> {
        self.index.read(|index| {
            let mut found = Vec::new();
            for row in index.snapshots.iter()? {
                let (snapshot, SnapshotRow { client, object }) = row?;
                found.push(KeptSnapshot { snapshot, client, object });
            }
            Ok(found)
        })
    }
}
