//! Snapshots that were dropped. **One rename drops a snapshot**: its head `<id>.json` becomes `<id>.dropped`, and
//! from then on the snapshot does not exist. What only it needed goes later, with a [sweep](super::sweep); its
//! index stays until then and says that the sweep is still to come, so that one which was cut short is simply done
//! again. What other snapshots need stays where it lies, explained by the dropped head, which is removed when
//! nothing is left.
//!
//! Of a snapshot in a vault it is written down there first, for those who read the vault.
//!
//! A snapshot that is held, pinned by a reader or an upload, or the base of an upload that waits to be gone on with
//! is not dropped.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, ClientState, locked, read_head_file};
use super::error::{At, StoreError, if_there};
use super::head::{Head, SnapshotTotals};
use super::layout::{dropped_name, head_name, held_name, index_name, names_in, read_small_file};
use super::range::HASH_BYTES;
use super::resume;
use super::sealed_json::{decode_sealed, encode_sealed};
use super::store::Store;
use crate::base::durable::{FILE_MODE, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId, UploadId};
use crate::base::time::Timestamp;

/// How many snapshots are dropped while commits wait.
const DROPPED_AT_ONCE_MAX: usize = 64;
const TOTALS_VERSION: u64 = 1;
const TOTALS_BYTES_MAX: u64 = 4 * 1024;
pub const TOTALS_NAME: &str = "dropped.json";

/// Why a snapshot that was to be dropped is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// The operator holds it.
    Held,
    /// It is being read, or an upload is compared with it.
    Busy,
    /// An upload that was cut off and waits to go on is compared with it.
    Awaited,
}

/// What was dropped, and what was not.
#[derive(Debug, Default)]
pub struct Drops {
    pub dropped: Vec<Arc<Head>>,
    /// Those whose heads could not be read.
    pub damaged: Vec<SnapshotId>,
    pub kept: Vec<(SnapshotId, InUse)>,
}

impl Store {
    /// Drops snapshots of a client; each is gone, on the disk too, when this returns. Ids that are not there are
    /// passed over. The space comes back with [`Store::sweep`].
    pub fn drop_snapshots(&self, client: ClientId, ids: &[SnapshotId]) -> Result<Drops, StoreError> {
        let state = self.state(client)?;
        let _turn = state.prune_turn()?;
        let mut drops = Drops::default();
        for some in ids.chunks(DROPPED_AT_ONCE_MAX) {
            self.drop_some(&state, some, &mut drops)?;
        }
        Ok(drops)
    }

    /// The catalog first: what is on its way out is no longer found, and nobody can pin it.
    fn drop_some(&self, state: &ClientState, ids: &[SnapshotId], drops: &mut Drops) -> Result<(), StoreError> {
        let layout = &self.shared.layout;
        let _step = locked(&state.commit);
        let awaited = self.awaited_bases(state)?;
        let before = (drops.dropped.len(), drops.damaged.len());
        state.with_catalog(layout, |catalog| {
            for id in ids {
                match in_use(state, catalog, &awaited, *id) {
                    Some(reason) => drops.kept.push((*id, reason)),
                    None if catalog.remove_damaged(*id) => drops.damaged.push(*id),
                    None => drops.dropped.extend(catalog.remove(*id)),
                }
            }
        })?;
        let (dropped, damaged) = (&drops.dropped[before.0..], &drops.damaged[before.1..]);
        let renamed = self
            .note_dropped(state, dropped, damaged)
            .and_then(|()| self.rename_heads(state, dropped))
            .and_then(|()| self.replace_damaged_heads(state, damaged));
        if renamed.is_err() {
            // Some may have got their new name: the disk knows.
            state.forget_catalog();
        }
        self.keep_summary(state);
        renamed
    }

    fn rename_heads(&self, state: &ClientState, heads: &[Arc<Head>]) -> Result<(), StoreError> {
        let path = self.shared.layout.snapshots(&state.record.folder);
        if heads.is_empty() {
            return Ok(());
        }
        let (disk, folder) = (&self.shared.disk, open_folder(&path).at("open", &path)?);
        for head in heads {
            self.mark_for_sweep(folder.as_fd(), head.id).at("write the index below", &path)?;
            let (name, new) = (head_name(head.id), dropped_name(head.id));
            disk.rename(folder.as_fd(), name.as_bytes(), folder.as_fd(), new.as_bytes())
                .at("drop", &path.join(name))?;
        }
        disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", &path)?;
        let bytes: u64 = heads.iter().map(|head| head.totals.stored_bytes).sum();
        state.with_catalog(&self.shared.layout, |catalog| catalog.dropped.waiting_bytes += bytes)
    }

    /// What cannot be read says nothing about a dropped snapshot: something that can be read takes its place.
    fn replace_damaged_heads(&self, state: &ClientState, ids: &[SnapshotId]) -> Result<(), StoreError> {
        let path = self.shared.layout.snapshots(&state.record.folder);
        let disk = &self.shared.disk;
        for id in ids {
            let folder = open_folder(&path).at("open", &path)?;
            self.mark_for_sweep(folder.as_fd(), *id).at("write the index below", &path)?;
            let head = placeholder(*id, state.record.id).encode();
            let name = dropped_name(*id);
            disk.replace_file(folder.as_fd(), name.as_bytes(), &head, FILE_MODE).at("write", &path.join(name))?;
            let name = head_name(*id);
            if exists(folder.as_fd(), name.as_bytes()).at("look into", &path)? {
                disk.remove_file(folder.as_fd(), name.as_bytes()).at("drop", &path.join(name))?;
            }
            disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", &path)?;
        }
        Ok(())
    }

    /// An index says that a sweep is to come, one that names nothing too.
    fn mark_for_sweep(&self, folder: BorrowedFd<'_>, id: SnapshotId) -> std::io::Result<()> {
        let name = index_name(id);
        match exists(folder, name.as_bytes())? {
            true => Ok(()),
            false => self.shared.disk.replace_file(folder, name.as_bytes(), b"", FILE_MODE),
        }
    }

    /// Why these snapshots could not be dropped now; those that could are left out.
    pub fn snapshots_in_use(
        &self,
        client: ClientId,
        ids: &[SnapshotId],
    ) -> Result<Vec<(SnapshotId, InUse)>, StoreError> {
        let state = self.state(client)?;
        let awaited = self.awaited_bases(&state)?;
        state.with_catalog(&self.shared.layout, |catalog| {
            ids.iter().filter_map(|id| Some((*id, in_use(&state, catalog, &awaited, *id)?))).collect()
        })
    }

    /// What the client's unfinished uploads are compared with.
    fn awaited_bases(&self, state: &ClientState) -> Result<BTreeSet<SnapshotId>, StoreError> {
        let incoming = self.shared.layout.incoming(&state.record.folder);
        let (mut bases, keyring) = (BTreeSet::new(), self.shared.layout.keyring_of(&state.record.folder));
        for name in names_in(&incoming)? {
            bases.extend(resume::begin_of(&incoming.join(name), &keyring)?.and_then(|begin| begin.base));
        }
        Ok(bases)
    }

    /// Holds a snapshot, so that nothing drops it, or releases it; on the disk when this returns. False where it
    /// was so before.
    pub fn hold(&self, client: ClientId, id: SnapshotId, hold: bool) -> Result<bool, StoreError> {
        let state = self.state(client)?;
        let layout = &self.shared.layout;
        let _step = locked(&state.commit);
        let (found, was) = state.with_catalog(layout, |catalog| (catalog.has(id), catalog.held.contains(&id)))?;
        if hold && !found {
            return Err(StoreError::NotFound { what: format!("there is no snapshot {id} to hold") });
        }
        if was == hold {
            return Ok(false);
        }
        let path = layout.snapshots(&state.record.folder);
        let (disk, folder, name) = (&self.shared.disk, open_folder(&path).at("open", &path)?, held_name(id));
        if hold {
            let held = disk.replace_file(folder.as_fd(), name.as_bytes(), b"", FILE_MODE);
            held.at("write", &path.join(&name))?;
            state.with_catalog(layout, |catalog| catalog.held.insert(id))?;
        } else {
            disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(&name))?;
            disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", &path)?;
            state.with_catalog(layout, |catalog| catalog.held.remove(&id))?;
        }
        self.keep_summary(&state);
        Ok(true)
    }

    /// The snapshots that are held.
    pub fn held_snapshots(&self, client: ClientId) -> Result<BTreeSet<SnapshotId>, StoreError> {
        self.state(client)?.with_catalog(&self.shared.layout, |catalog| catalog.held.clone())
    }
}

fn in_use(state: &ClientState, catalog: &Catalog, awaited: &BTreeSet<SnapshotId>, id: SnapshotId) -> Option<InUse> {
    match id {
        _ if catalog.held.contains(&id) => Some(InUse::Held),
        _ if state.is_pinned(id) => Some(InUse::Busy),
        _ if awaited.contains(&id) => Some(InUse::Awaited),
        _ => None,
    }
}

/// What stands for the head of a dropped snapshot that nobody can read: its name is all that is known of it. No real
/// head has the sequence 0.
pub fn placeholder(id: SnapshotId, client: ClientId) -> Head {
    let never = Timestamp { seconds: 0, nanoseconds: 0 };
    Head {
        sequence: 0,
        id,
        client,
        upload: UploadId::NONE,
        parent: None,
        started: never,
        committed: never,
        roots: Vec::new(),
        label: String::new(),
        host: String::new(),
        tags: Vec::new(),
        unauthenticated: false,
        totals: SnapshotTotals::default(),
        index_blake3: [0; HASH_BYTES],
        vault: None,
    }
}

/// What dropped snapshots take, all together.
#[derive(Debug, Default)]
pub struct DroppedTotals {
    /// What the last sweep has left of their contents, for other snapshots.
    pub left_bytes: u64,
    /// What those took that wait for a sweep.
    pub waiting_bytes: u64,
    /// No sequence is given out twice.
    pub newest_sequence: u64,
    /// A sweep was cut short, so that nobody knows what is left: it is to be counted.
    pub is_stale: bool,
}

impl DroppedTotals {
    /// Puts them together from the record of the last sweep and the heads that wait for one. What was swept earlier is
    /// not looked at, however many they are.
    pub fn load(folder: &Path, names: &[String]) -> Result<DroppedTotals, StoreError> {
        let record = read_record(folder)?;
        let mut totals = DroppedTotals::default();
        for id in dropped_ids(names) {
            let is_waiting = names.binary_search(&index_name(id)).is_ok();
            if record.is_some() && !is_waiting {
                continue;
            }
            totals.is_stale = true;
            let Some(head) = read_dropped(folder, id)? else { continue };
            totals.newest_sequence = totals.newest_sequence.max(head.sequence);
            if is_waiting {
                totals.waiting_bytes = totals.waiting_bytes.saturating_add(head.totals.stored_bytes);
            }
        }
        if let Some(record) = record {
            totals.left_bytes = record.left_bytes;
            totals.newest_sequence = totals.newest_sequence.max(record.newest_sequence);
        }
        Ok(totals)
    }
}

/// The dropped snapshots of which something is left, by the names in a client's folder of snapshots.
pub fn dropped_ids(names: &[String]) -> impl Iterator<Item = SnapshotId> {
    names.iter().filter_map(|name| name.strip_suffix(".dropped")?.parse().ok())
}

/// Reads a dropped head. None for a damaged one: what is left of its snapshot is explained by its name all the same.
pub fn read_dropped(folder: &Path, id: SnapshotId) -> Result<Option<Arc<Head>>, StoreError> {
    match read_head_file(folder.join(dropped_name(id)), id) {
        Ok(head) => Ok(Some(Arc::new(head))),
        Err(error @ (StoreError::Io { .. } | StoreError::DiskFull { .. })) => Err(error),
        Err(error) => {
            log::error!("the head of a dropped snapshot cannot be read: {error}");
            Ok(None)
        }
    }
}

/// What the last sweep left of dropped snapshots, as it is kept on the disk.
#[derive(Serialize, Deserialize)]
pub struct TotalsFile {
    version: u64,
    left_bytes: u64,
    newest_sequence: u64,
}

/// The record of a sweep; every dropped snapshot that does not wait for one has at most this sequence.
pub fn encode_record(left_bytes: u64, newest_sequence: u64) -> Vec<u8> {
    let file = TotalsFile { version: TOTALS_VERSION, left_bytes, newest_sequence };
    encode_sealed(&file)
}

/// None where there is no record, or none that can be read: it can be counted anew.
pub fn read_record(folder: &Path) -> Result<Option<TotalsFile>, StoreError> {
    match if_there(read_small_file(&folder.join(TOTALS_NAME), TOTALS_BYTES_MAX)) {
        Ok(Some(bytes)) => {
            let file = decode_sealed::<TotalsFile>(&bytes, &folder.join(TOTALS_NAME)).ok();
            Ok(file.filter(|file| file.version == TOTALS_VERSION))
        }
        Ok(None) | Err(StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
