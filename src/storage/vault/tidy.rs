//! Winning back space, without any key: rows of snapshots whose heads are gone are released, what has no references
//! and no upload may count on is swept from the index, and packs that are empty or half dead go. All of it in short
//! steps, each of them one change of the index, beside uploads and readers; one that is cut short is simply done again.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::index::{Flush, IndexError, Writing};
use super::record::{Kind, names_in};
use super::rows::{NAME_BYTES, ObjectRow, UPLOAD_KEY_BYTES, of_unreferenced, unreferenced_key};
use super::upload::{first_turn, short};
use super::{KeptSnapshot, Opening, Vault, VaultHandle, access, folder_of};
use crate::base::ids::{ClientId, SnapshotId, UploadId};
use crate::base::limits::VAULT_OBJECTS_AT_ONCE;
use crate::base::vault::{ChunkName, VaultId};
use crate::storage::catalog::{ClientState, locked};
use crate::storage::error::StoreError;
use crate::storage::head::Head;
use crate::storage::layout::names_in as file_names_in;
use crate::storage::repair::{Repaired, head_copy, read_headless_index};
use crate::storage::store::Store;

/// So often an index is made anew before it is given up.
const OPENINGS_MAX: usize = 2;

/// What tidying a vault removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    pub snapshots: u64,
    /// Chunks and lists.
    pub objects: u64,
    /// What the packs take less than before.
    pub bytes: u64,
}

impl Store {
    /// All vaults that are here.
    pub fn vaults(&self) -> Result<Vec<VaultId>, StoreError> {
        let names = file_names_in(&self.shared.layout.vaults())?;
        let is_made = |id: &VaultId| access::is_there(&folder_of(&self.shared, *id), *id);
        Ok(names.iter().filter_map(|name| name.parse().ok()).filter(is_made).collect())
    }

    /// Sees to it that each vault has what says who may use it, or only looks for it. Gives what is wrong.
    pub fn mend_vaults(&self, is_real: bool) -> Result<Vec<Repaired>, StoreError> {
        let mut repaired = Vec::new();
        for id in self.vaults()? {
            let _making = locked(&self.shared.vaults.making);
            for found in access::mend(&self.shared.disk, &folder_of(&self.shared, id), id, is_real)? {
                let snapshots = self.kept_in_vault(id)?.into_iter().map(|kept| kept.snapshot).collect();
                repaired.push(Repaired { snapshots, ..found });
            }
        }
        Ok(repaired)
    }

    /// Wins back what dropped snapshots of a vault alone needed.
    pub fn tidy_vault(&self, id: VaultId) -> Result<Tidied, StoreError> {
        let vault = self.open_vault(id, None, Opening::Checked)?;
        let mut weighed = locked(&vault.tidying);
        let mut tidied = Tidied { snapshots: self.release_dropped(&vault)?, ..Tidied::default() };
        let is_stopped = || self.shared.sweeps_stopped.load(std::sync::atomic::Ordering::Relaxed);
        let are_needs_known = vault.are_needs_known()?;
        while are_needs_known && !is_stopped() {
            match vault.sweep_step()? {
                0 => break,
                swept => tidied.objects += swept,
            }
        }
        tidied.bytes = vault.compact(&mut weighed, &is_stopped)?;
        Ok(tidied)
    }

    /// Opens a vault that is there. Whoever is the first to use it sees to it that index and heads agree.
    pub(super) fn open_vault(
        &self,
        id: VaultId,
        client: Option<ClientId>,
        opening: Opening,
    ) -> Result<VaultHandle, StoreError> {
        let kept = || self.kept_in_vault(id);
        for tries in 1.. {
            let (vault, is_first) = self.shared.vaults.open(&self.shared, id, &kept, opening)?;
            if is_first {
                self.forget_stored_uploads(&vault)?;
            }
            if !is_first || self.agrees_with_heads(&vault, client)? || tries == OPENINGS_MAX {
                return Ok(vault);
            }
            log::error!("vault {id}: its index lacks a snapshot whose head is there: it is made anew");
            vault.index.mark_wrong();
        }
        unreachable!("the loop ends by itself")
    }

    /// Forgets uploads that became snapshots just before a stop, which came before their rows went.
    fn forget_stored_uploads(&self, vault: &Vault) -> Result<(), StoreError> {
        for (key, client, upload) in vault.left_behind()? {
            if self.client(client).is_some()
                && self
                    .state(client)?
                    .with_catalog(&self.shared.layout, |catalog| catalog.of_upload(upload))?
                    .is_some()
            {
                vault.forget_upload(&key)?;
            }
        }
        Ok(())
    }

    /// False where a head is there and its row is not.
    fn agrees_with_heads(&self, vault: &Vault, client: Option<ClientId>) -> Result<bool, StoreError> {
        let rows = vault.snapshot_rows()?;
        let clients: BTreeSet<ClientId> = rows.iter().map(|row| row.client).chain(client).collect();
        let known: BTreeSet<SnapshotId> = rows.iter().map(|row| row.snapshot).collect();
        for client in clients {
            if self.kept_of_client(client, vault.id)?.iter().any(|kept| !known.contains(&kept.snapshot)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Releases the rows of snapshots whose heads are gone and are not about to come. Whether one is about to come is
    /// looked at first: a commit puts its head into the catalog before it says that it is over.
    fn release_dropped(&self, vault: &Vault) -> Result<u64, StoreError> {
        let mut released = 0;
        for row in vault.snapshot_rows()? {
            let is_coming = locked(&vault.committing).contains(&row.snapshot);
            if !is_coming && !self.has_head(&row)? {
                vault.release(&row)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn has_head(&self, row: &KeptSnapshot) -> Result<bool, StoreError> {
        if self.client(row.client).is_none() {
            return Ok(false);
        }
        self.state(row.client)?.with_catalog(&self.shared.layout, |catalog| catalog.has(row.snapshot))
    }

    /// A vault's snapshots, of all clients.
    fn kept_in_vault(&self, id: VaultId) -> Result<Vec<KeptSnapshot>, StoreError> {
        let mut kept = Vec::new();
        for client in self.clients() {
            kept.extend(self.kept_of_client(client.id, id)?);
        }
        Ok(kept)
    }

    fn kept_of_client(&self, client: ClientId, id: VaultId) -> Result<Vec<KeptSnapshot>, StoreError> {
        if self.client(client).is_none() {
            return Ok(Vec::new());
        }
        let (state, layout) = (self.state(client)?, &self.shared.layout);
        let kept_by = |head: &Head| {
            let place = head.vault.filter(|place| place.vault == id)?;
            Some(KeptSnapshot { snapshot: head.id, client, object: place.object })
        };
        let (mut kept, damaged) = state.with_catalog(layout, |catalog| {
            let kept: Vec<KeptSnapshot> = catalog.heads().iter().filter_map(|head| kept_by(head)).collect();
            (kept, catalog.damaged().to_vec())
        })?;
        // Of a head that is damaged the index has a copy: what it needs stays, until a repair makes it whole.
        for damaged in damaged {
            kept.extend(self.copy_of_head(&state, damaged.id)?.and_then(|head| kept_by(&head)));
        }
        Ok(kept)
    }

    /// The copy that the snapshot's index has of its head.
    pub(super) fn copy_of_head(&self, state: &ClientState, id: SnapshotId) -> Result<Option<Head>, StoreError> {
        let (layout, folder) = (&self.shared.layout, &state.record.folder);
        let index = read_headless_index(&layout.snapshots(folder), id, &layout.keyring_of(folder))?;
        Ok(index.as_ref().and_then(head_copy).map(|(head, _)| head))
    }
}

impl Vault {
    /// Uploads that have a row and no session: by key, client and id.
    fn left_behind(&self) -> Result<Vec<([u8; UPLOAD_KEY_BYTES], ClientId, UploadId)>, StoreError> {
        let live = locked(&self.live).clone();
        self.index.read(|index| {
            let mut found = Vec::new();
            for row in index.uploads.iter()? {
                let key = row?.0;
                if !live.contains(&key) {
                    let (client, upload) = key.split_first_chunk().expect("it begins with 16 bytes");
                    let upload = upload.try_into().expect("and ends with 16");
                    found.push((key, ClientId::from_bytes(*client), UploadId::from_bytes(upload)));
                }
            }
            Ok(found)
        })
    }

    /// Takes a snapshot out of the index, and with it its references to lists.
    fn release(&self, row: &KeptSnapshot) -> Result<(), StoreError> {
        let record = self.record(&row.object, Kind::Snapshot)?;
        let lists = record.as_ref().and_then(|record| record.snapshot()).map_or(&[][..], |snapshot| snapshot.lists);
        self.index.write(Flush::Now, |index| {
            index.snapshots.remove(&row.snapshot)?;
            let Some(old) = index.object(row.object.as_bytes())? else { return Ok(()) };
            let refs = old.refs.saturating_sub(1);
            let new = (refs > 0).then_some(ObjectRow { refs, ..old });
            index.put_object(row.object.as_bytes(), Some(old), new)?;
            for list in names_in(lists) {
                drop_reference(index, list.as_bytes())?;
            }
            Ok(())
        })?;
        if record.is_none() {
            // What it needed is not known: all references are counted anew, without it.
            self.index.mark_wrong();
        }
        Ok(())
    }

    /// Whether all lists, and records of snapshots, that are needed can be read: an index that was made anew without one
    /// of them has not counted what it refers to.
    fn are_needs_known(&self) -> Result<bool, StoreError> {
        let unreadable = self.index.read(|index| {
            for item in index.damaged.iter()? {
                let name = ChunkName::from_bytes(item?.0);
                if index.object(&name)?.is_some_and(|row| row.kind != Kind::Chunk && row.refs > 0) {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        })?;
        if let Some(name) = unreadable {
            log::error!(
                "vault {}: no space is given back: what snapshots need is not known while {} is damaged or gone; a backup \
                 that still has it mends it, and so does dropping those snapshots",
                self.id,
                short(&name)
            );
        }
        Ok(unreadable.is_none())
    }

    /// Removes some objects that nobody needs from the index; gives how many.
    fn sweep_step(&self) -> Result<u64, StoreError> {
        let live = locked(&self.live);
        let mut has_unreadable = false;
        let swept = self.index.write(Flush::Now, |index| {
            let first = first_turn(index, &live)?;
            let going = unreferenced_before(index, first)?;
            let (mut swept, mut touched) = (0, 0);
            for name in going {
                if touched >= VAULT_OBJECTS_AT_ONCE {
                    break;
                }
                touched += 1;
                let Some(row) = index.object(&name)? else {
                    return Err(IndexError::Wrong("a swept object is gone"));
                };
                if row.kind == Kind::List && !row.is_lost() {
                    match self.read_record(&ChunkName::from_bytes(name), &row) {
                        Ok(Some(record)) => {
                            for name in record.names() {
                                drop_reference(index, name.as_bytes())?;
                                touched += 1;
                            }
                        }
                        _ => has_unreadable = true,
                    }
                }
                index.put_object(&name, Some(row), None)?;
                swept += 1;
            }
            Ok(swept)
        })?;
        if has_unreadable {
            // What it referred to is not known: all references are counted anew, without it.
            self.index.mark_wrong();
        }
        Ok(swept)
    }
}

/// What lost its last reference before this turn, the first of it first.
fn unreferenced_before(index: &Writing<'_>, turn: u64) -> Result<Vec<[u8; NAME_BYTES]>, IndexError> {
    let end = unreferenced_key(turn, &[0; NAME_BYTES]);
    let mut names = Vec::new();
    for item in index.unreferenced.range(Bound::Unbounded, Bound::Excluded(&end))? {
        names.push(of_unreferenced(&item?.0).1);
        if names.len() == VAULT_OBJECTS_AT_ONCE {
            break;
        }
    }
    Ok(names)
}

fn drop_reference(index: &mut Writing<'_>, name: &[u8; NAME_BYTES]) -> Result<(), IndexError> {
    let wrong = || IndexError::Wrong("references are counted wrongly");
    let old = index.object(name)?.ok_or_else(wrong)?;
    let refs = old.refs.checked_sub(1).ok_or_else(wrong)?;
    let since = if refs == 0 { index.turn()? } else { old.since };
    index.put_object(name, Some(old), Some(ObjectRow { refs, since, ..old }))
}
