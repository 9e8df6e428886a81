//! An upload into a vault: questions what is lacking, chunks, lists of them, and the lists that the snapshot needs,
//! until a commit makes a snapshot of it. Sequence, idempotence, takeover, quota and the head are those of every
//! upload: a plain one of nothing goes along with it.
//!
//! What is kept in memory is bounded: so many objects at most wait for their flush, and the snapshot's lists.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::access::{self, WriteAccess};
use super::index::{Flush, IndexError, Reading, Writing};
use super::pack::PackWriter;
use super::read::SealedObject;
use super::record::{Kind, NewRecord, names_in, snapshot_object_name};
use super::rows::{self, NAME_BYTES, ObjectRow, Place, SnapshotRow, UploadKey, UploadRow};
use super::{Opening, Vault, VaultHandle, create, folder_of};
use crate::base::ids::{ClientId, SnapshotId, UploadId};
use crate::base::limits::{
    VAULT_LISTED_AT_ONCE, VAULT_LISTS_MAX, VAULT_NAMES_MAX, VAULT_OBJECTS_AT_ONCE, VAULT_PACK_BYTES,
    VAULT_PACKS_AT_ONCE, VAULT_TOLD_MAX, VAULT_WRAPPED_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::base::vault::{ChunkName, DataKeyId, RootSetId, VaultId};
use crate::crypto::{data_key_id, list_id, sealed_crc_is_right};
use crate::storage::catalog::locked;
use crate::storage::comparison::ChangeRule;
use crate::storage::error::{At, StoreError};
use crate::storage::head::{Head, InVault};
use crate::storage::recovery::PARTIAL_TIMEOUT;
use crate::storage::store::Store;
use crate::storage::upload::{Begun, CommitCounts, Upload, UploadRequest, VaultShare};

/// Uploads that one client may leave behind in a vault; the oldest goes for a newer one.
const LEFT_BEHIND_MAX: usize = 4;

/// What a client says when it begins.
#[derive(Clone)]
pub struct VaultUploadRequest {
    pub vault: VaultId,
    pub write_token: [u8; 32],
    /// SHA-256 of the read token.
    pub read_verifier: [u8; 32],
    pub upload: UploadId,
    /// What stands for the snapshot's roots.
    pub set: RootSetId,
    /// By the client's clock.
    pub started: Timestamp,
    /// Questions only: nothing is taken in.
    pub dry_run: bool,
    /// The key of this session's chunks, under the vault's public key.
    pub wrapped_key: Vec<u8>,
}

/// How an upload begins.
#[derive(Debug)]
pub enum VaultBegun {
    /// The upload was committed earlier; this is its snapshot.
    AlreadyStored(Arc<Head>),
    Open(Box<VaultUpload>),
}

/// An upload under way. Dropped uncommitted, it leaves what it has stored for a later session of the same upload.
#[derive(Debug)]
pub struct VaultUpload {
    /// None once it is committed.
    plain: Option<Box<Upload>>,
    /// None for a dry run into a vault that is not there.
    session: Option<VaultSession>,
    upload: UploadId,
    snapshot: SnapshotId,
    dry_run: bool,
    newest: Option<(SnapshotId, SealedObject)>,
}

/// What an upload has of its vault.
#[derive(Debug)]
struct VaultSession {
    vault: VaultHandle,
    row_key: UploadKey,
    row: UploadRow,
    set: RootSetId,
    key: DataKeyId,
    wrapped: Vec<u8>,
    pack: Option<PackWriter>,
    /// Full packs that are on the disk and not indexed yet: this upload's alone until they are.
    filled: Vec<PackEnd>,
    /// Written and not indexed yet.
    objects: BTreeMap<[u8; NAME_BYTES], (Kind, Place)>,
    /// Of the lists among them, the names in them: up to [`VAULT_LISTED_AT_ONCE`], and one list.
    new_lists: BTreeMap<[u8; NAME_BYTES], Vec<u8>>,
    listed: usize,
    /// Chunks that the client was told are lacking and that have not come: their coming is looked up no more.
    told_lacking: HashSet<[u8; NAME_BYTES]>,
    /// The lists that the snapshot needs.
    lists: Vec<[u8; NAME_BYTES]>,
    /// What counts for the quota besides what this session brings.
    taken_before: u64,
    arrived_bytes: u64,
    ending: Ending,
}

/// Up to where a pack was written.
#[derive(Debug, Clone, Copy)]
struct PackEnd {
    number: u32,
    length: u64,
}

/// What becomes of what was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    LeftBehind,
    Abandoned,
    Committed,
}

impl Store {
    /// Begins an upload into a vault, which is made where it is not there; or names the snapshot that it became.
    /// `end` ends the session that has the upload, as for [`Store::begin_upload`].
    ///
    /// # Errors
    /// `NotFound` where the tokens are others than the vault's.
    pub fn begin_vault_upload(
        &self,
        client: ClientId,
        request: VaultUploadRequest,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Result<VaultBegun, StoreError> {
        if request.wrapped_key.is_empty() || request.wrapped_key.len() > VAULT_WRAPPED_BYTES_MAX {
            return Err(StoreError::out_of_place("the wrapped key is too long"));
        }
        let vault = self.open_vault_to_write(client, &request)?;
        let plain = match self.begin_upload(client, plain_request(&request), end)? {
            Begun::AlreadyStored(head) => {
                vault.map_or(Ok(()), |vault| vault.forget_upload(&row_key(client, request.upload)))?;
                return Ok(VaultBegun::AlreadyStored(head));
            }
            Begun::Open(plain) => plain,
        };
        let newest = vault.as_deref().map(|vault| self.newest_in_vault(client, vault)).transpose()?.flatten();
        let session = vault.map(|vault| VaultSession::begin(vault, client, &plain, &request)).transpose()?;
        let (upload, snapshot, dry_run, plain) = (request.upload, plain.snapshot(), request.dry_run, Some(plain));
        Ok(VaultBegun::Open(Box::new(VaultUpload { plain, session, upload, snapshot, dry_run, newest })))
    }

    fn open_vault_to_write(
        &self,
        client: ClientId,
        request: &VaultUploadRequest,
    ) -> Result<Option<VaultHandle>, StoreError> {
        let shared = &self.shared;
        let access = WriteAccess { write_token: request.write_token, read_verifier: request.read_verifier };
        let folder = folder_of(shared, request.vault);
        {
            let _making = locked(&shared.vaults.making);
            match access::check_write(&folder, request.vault, &access)? {
                Some(()) => {}
                None if request.dry_run => return Ok(None),
                None => create(shared, request.vault, &access)?,
            }
        }
        self.open_vault(request.vault, Some(client), Opening::Quick).map(Some)
    }

    /// The client's newest snapshot in a vault, and its sealed head; none where there is none, or it is damaged.
    fn newest_in_vault(
        &self,
        client: ClientId,
        vault: &Vault,
    ) -> Result<Option<(SnapshotId, SealedObject)>, StoreError> {
        let newest = self.state(client)?.with_catalog(&self.shared.layout, |catalog| {
            let mut heads = catalog.heads().iter().rev();
            heads.find_map(|head| Some((head.id, head.vault.filter(|place| place.vault == vault.id)?)))
        })?;
        let Some((snapshot, place)) = newest else { return Ok(None) };
        let sealed = vault.snapshot_head(snapshot, &place.object)?;
        if let Err(problem) = &sealed {
            log::error!("vault {}, snapshot {snapshot}: {problem}", vault.id);
        }
        Ok(sealed.ok().map(|sealed| (snapshot, sealed)))
    }
}

/// Of no roots, and compared with nothing: what there is to know of the snapshot is sealed.
fn plain_request(request: &VaultUploadRequest) -> UploadRequest {
    UploadRequest {
        upload: request.upload,
        roots: Vec::new(),
        label: String::new(),
        host: String::new(),
        tags: Vec::new(),
        full: true,
        changes: ChangeRule::default(),
        parent: None,
        started: request.started,
        dry_run: request.dry_run,
    }
}

impl VaultUpload {
    /// The id that the snapshot will have.
    pub fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    /// The newest snapshot of this client in this vault, as it is stored.
    pub fn newest(&self) -> Option<&(SnapshotId, SealedObject)> {
        self.newest.as_ref()
    }

    /// Which of these chunks and lists are lacking: a bit for each, lowest first.
    pub fn ask(&mut self, names: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.check_live()?;
        let count = count_names(names)?;
        let mut bits = vec![0; count.div_ceil(8)];
        let lacking = match &mut self.session {
            Some(session) => session.tell_lacking(names)?,
            None => (0..count).collect(),
        };
        lacking.into_iter().for_each(|place| bits[place / 8] |= 1 << (place % 8));
        Ok(bits)
    }

    /// Takes a chunk that is sealed under this session's key. One that is held already is passed over.
    pub fn chunk(&mut self, name: ChunkName, sealed: &[u8]) -> Result<(), StoreError> {
        let session = self.storing()?;
        check_sealed(name, session.key, sealed)?;
        session.store(Kind::Chunk, name, &[sealed])
    }

    /// Takes a list of chunks that are held.
    ///
    /// # Errors
    /// `NotFound` where one of them is not.
    pub fn list(&mut self, names: &[u8]) -> Result<(), StoreError> {
        count_names(names)?;
        let session = self.storing()?;
        if !session.lacking(names, Some(Kind::Chunk))?.is_empty() {
            return Err(gone("a chunk"));
        }
        session.store_list(names)
    }

    /// Takes the names of lists that the snapshot needs.
    ///
    /// # Errors
    /// `NotFound` where one of them is not held.
    pub fn needs(&mut self, lists: &[u8]) -> Result<(), StoreError> {
        let count = count_names(lists)?;
        let session = self.storing()?;
        if session.lists.len() + count > VAULT_LISTS_MAX {
            return Err(StoreError::out_of_place(format!("a snapshot may need {VAULT_LISTS_MAX} lists")));
        }
        if !session.lacking(lists, Some(Kind::List))?.is_empty() {
            return Err(gone("a list"));
        }
        session.lists.extend(names_in(lists).map(|name| *name.as_bytes()));
        Ok(())
    }

    /// Makes the snapshot. When this returns it is on the disk, whatever happens next.
    pub fn commit(mut self, name: ChunkName, sealed: &[u8]) -> Result<Arc<Head>, StoreError> {
        let upload = self.upload;
        let session = self.storing()?;
        check_sealed(name, session.key, sealed)?;
        let mut plain = self.plain.take().ok_or_else(|| StoreError::out_of_place("the upload is over"))?;
        let session = self.session.as_mut().expect("storing() found it");
        let snapshot = plain.snapshot();
        session.index_snapshot(&mut plain, upload, name, sealed)?;
        let committed = plain.commit(CommitCounts { ranges: 0, entries: 0, unreadable: 0 });
        locked(&session.vault.committing).remove(&snapshot);
        if committed.is_ok() {
            session.ending = Ending::Committed;
        }
        committed
    }

    /// Gives the upload up for good.
    pub fn abandon(mut self) {
        if let Some(session) = &mut self.session {
            session.ending = Ending::Abandoned;
        }
        if let Some(plain) = self.plain.take() {
            plain.abandon();
        }
    }

    fn check_live(&self) -> Result<(), StoreError> {
        self.plain.as_ref().map_or(Ok(()), |plain| plain.check_live())
    }

    fn storing(&mut self) -> Result<&mut VaultSession, StoreError> {
        self.check_live()?;
        match &mut self.session {
            Some(session) if !self.dry_run => {
                // Another session's quota may have been changed, and the client's other uploads count.
                let plain = self.plain.as_ref().ok_or_else(|| StoreError::out_of_place("the upload is over"))?;
                plain.state.quota.check(session.taken_before.saturating_add(session.arrived_bytes))?;
                Ok(session)
            }
            _ => Err(StoreError::out_of_place("nothing is stored in a dry run")),
        }
    }
}

/// Whole names, at least one and not too many.
fn count_names(names: &[u8]) -> Result<usize, StoreError> {
    let count = names.len() / NAME_BYTES;
    match names.len().is_multiple_of(NAME_BYTES) && (1..=VAULT_NAMES_MAX).contains(&count) {
        true => Ok(count),
        false => Err(StoreError::out_of_place("a message names nothing, or too much")),
    }
}

fn gone(what: &str) -> StoreError {
    StoreError::NotFound { what: format!("{what} that the backup counted on is not held any more: run it again") }
}

/// What can be seen of a sealed chunk from outside.
fn check_sealed(name: ChunkName, key: DataKeyId, sealed: &[u8]) -> Result<(), StoreError> {
    match sealed_crc_is_right(name, key, sealed) {
        true => Ok(()),
        false => Err(StoreError::out_of_place(format!("chunk {} is not sealed as it should be", short(&name)))),
    }
}

/// As much of a name as a person is shown.
pub fn short(name: &ChunkName) -> String {
    name.to_string()[..16].to_string()
}

impl VaultSession {
    fn begin(
        vault: VaultHandle,
        client: ClientId,
        plain: &Upload,
        request: &VaultUploadRequest,
    ) -> Result<VaultSession, StoreError> {
        let row_key = row_key(client, request.upload);
        let now = Timestamp::now().seconds.max(0) as u64;
        // Under the lock: nobody counts this upload as left behind from now on.
        let mut live = locked(&vault.live);
        let row = vault.index.write(Flush::Later, |index| begin_row(index, &row_key, now, &live))?;
        live.insert(row_key);
        drop(live);
        let stored = plain.state.with_catalog(&plain.shared.layout, |catalog| catalog.stored_bytes())?;
        let in_vault = vault.bytes_of_only(client)?.unwrap_or(0);
        Ok(VaultSession {
            row_key,
            row,
            set: request.set,
            key: data_key_id(&request.wrapped_key),
            wrapped: request.wrapped_key.clone(),
            pack: None,
            filled: Vec::new(),
            objects: BTreeMap::new(),
            new_lists: BTreeMap::new(),
            listed: 0,
            told_lacking: HashSet::new(),
            lists: Vec::new(),
            taken_before: in_vault.max(stored.saturating_add(row.stored_bytes)),
            arrived_bytes: 0,
            ending: Ending::LeftBehind,
            vault,
        })
    }

    /// The places of those names that are not held, or not as `kind`. What is held and has no references is kept for
    /// this upload from now on.
    fn lacking(&mut self, names: &[u8], kind: Option<Kind>) -> Result<Vec<usize>, StoreError> {
        let (mut lacking, mut fading) = (Vec::new(), Vec::new());
        let (vault, objects, turn) = (&*self.vault, &self.objects, self.row.turn);
        vault.index.read(|index| {
            let any_damage = index.damaged.count()? > 0;
            for (place, name) in names_in(names).enumerate() {
                if objects.get(name.as_bytes()).is_some_and(|(is, _)| kind.is_none_or(|kind| kind == *is)) {
                    continue;
                }
                match index.object(&name)?.filter(|row| kind.is_none_or(|kind| kind == row.kind)) {
                    Some(row) if !vault.is_held(index, &name, &row, any_damage)? => lacking.push(place),
                    Some(row) if row.refs == 0 && row.since < turn => fading.push((place, name)),
                    Some(_) => {}
                    None => lacking.push(place),
                }
            }
            Ok(())
        })?;
        if !fading.is_empty() {
            vault.index.write(Flush::Later, |index| keep_for_now(index, &fading, &mut lacking))?;
            lacking.sort_unstable();
        }
        Ok(lacking)
    }

    /// As [`VaultSession::lacking`], of any kind; the names are remembered, within bounds.
    fn tell_lacking(&mut self, names: &[u8]) -> Result<Vec<usize>, StoreError> {
        let lacking = self.lacking(names, None)?;
        let room = VAULT_TOLD_MAX.saturating_sub(self.told_lacking.len());
        let names = names.as_chunks::<NAME_BYTES>().0;
        self.told_lacking.extend(lacking.iter().take(room).map(|place| names[*place]));
        Ok(lacking)
    }

    fn store_list(&mut self, names: &[u8]) -> Result<(), StoreError> {
        let name = list_id(&names_in(names).collect::<Vec<_>>());
        let was_there = self.objects.contains_key(name.as_bytes())
            || self.vault.index.read(|index| Ok(index.object(&name)?.is_some_and(|row| !row.is_lost())))?;
        self.store(Kind::List, name, &[names])?;
        if !was_there {
            self.new_lists.insert(*name.as_bytes(), names.to_vec());
            self.listed += names.len() / NAME_BYTES;
        }
        self.flush_when_due()
    }

    fn store(&mut self, kind: Kind, name: ChunkName, payload: &[&[u8]]) -> Result<(), StoreError> {
        if let Some((held, _)) = self.objects.get(name.as_bytes()) {
            return check_kind(*held, kind);
        }
        let vault = &*self.vault;
        let is_new = kind == Kind::Chunk && self.told_lacking.remove(name.as_bytes());
        let held = !is_new
            && vault.index.read(|index| {
                let any_damage = index.damaged.count()? > 0;
                let Some(row) = index.object(&name)? else { return Ok(false) };
                check_kind(row.kind, kind)?;
                vault.is_held(index, &name, &row, any_damage)
            })?;
        // Held, and perhaps about to go: it is asked for first where it matters.
        if held && self.lacking(name.as_bytes(), Some(kind))?.is_empty() {
            return Ok(());
        }
        let place = self.append(kind, name, payload)?;
        self.objects.insert(*name.as_bytes(), (kind, place));
        if kind == Kind::Chunk { self.flush_when_due() } else { Ok(()) }
    }

    fn append(&mut self, kind: Kind, name: ChunkName, payload: &[&[u8]]) -> Result<Place, StoreError> {
        let key = (kind != Kind::List).then_some(self.key);
        let record = NewRecord { kind, name, key, payload };
        if !record.fits() {
            return Err(StoreError::out_of_place("what is to be stored is too long, or nothing"));
        }
        if self.pack.is_none() {
            self.pack = Some(self.vault.claim_pack(|_| true)?);
        }
        let pack = self.pack.as_mut().expect("claimed just now");
        let (before, path) = (pack.length(), self.vault.pack_path(pack.number));
        if key.is_some() {
            pack.put_key(self.key, &self.wrapped).at("write", &path)?;
        }
        let place = pack.append(&record).at("write", &path)?;
        self.arrived_bytes += pack.length() - before;
        self.row.stored_bytes += pack.length() - before;
        Ok(place)
    }

    fn flush_when_due(&mut self) -> Result<(), StoreError> {
        let is_full = self.pack.as_ref().is_some_and(|pack| pack.length() >= VAULT_PACK_BYTES);
        let is_due = self.objects.len() >= VAULT_OBJECTS_AT_ONCE || self.listed >= VAULT_LISTED_AT_ONCE;
        if is_due || (is_full && self.filled.len() + 1 >= VAULT_PACKS_AT_ONCE) {
            return self.flush(None);
        }
        if is_full { self.put_pack_aside() } else { Ok(()) }
    }

    /// Flushes the pack that is written to, if there is one; it is indexed together with others.
    fn put_pack_aside(&mut self) -> Result<(), StoreError> {
        if let Some(pack) = &mut self.pack {
            self.vault.flush_pack(pack)?;
            let (number, length) = (pack.number, pack.length());
            self.filled.push(PackEnd { number, length });
            self.pack = None;
        }
        Ok(())
    }

    /// Flushes what was written, then indexes it; with `snapshot`, that one is among it.
    fn flush(&mut self, snapshot: Option<NewSnapshot<'_>>) -> Result<(), StoreError> {
        if self.objects.is_empty() {
            return Ok(());
        }
        if let Some(pack) = &mut self.pack {
            self.vault.flush_pack(pack)?;
        }
        let mut packs = std::mem::take(&mut self.filled);
        if let Some(pack) = &mut self.pack {
            packs.push(PackEnd { number: pack.number, length: pack.length() });
        }
        let (objects, lists) = (std::mem::take(&mut self.objects), std::mem::take(&mut self.new_lists));
        self.listed = 0;
        self.row.touched = Timestamp::now().seconds.max(0) as u64;
        let indexed = self.vault.index.write(Flush::Now, |index| {
            let is_sealed = objects.values().any(|(kind, _)| *kind != Kind::List);
            let key = if is_sealed { index.number_of_key(self.key.as_bytes(), &self.wrapped)? } else { 0 };
            add_objects(index, &objects, &references(index, &lists)?, key)?;
            if let Some(snapshot) = &snapshot {
                snapshot.add(index)?;
            }
            packs.iter().for_each(|pack| index.note_pack(pack.number, pack.length));
            index.uploads.insert(&self.row_key, &self.row)
        });
        // What is not in the index now is as good as not stored.
        for pack in packs.iter().filter(|pack| indexed.is_err() || pack.length >= VAULT_PACK_BYTES) {
            self.vault.release_pack(pack.number);
            self.pack.take_if(|open| open.number == pack.number);
        }
        indexed
    }

    fn release_packs(&mut self) {
        let open = self.pack.take().map(|pack| pack.number);
        let filled = std::mem::take(&mut self.filled);
        filled.iter().map(|pack| pack.number).chain(open).for_each(|number| self.vault.release_pack(number));
    }

    /// Stores the record of the snapshot, and has the index count what it needs.
    fn index_snapshot(
        &mut self,
        plain: &mut Upload,
        upload: UploadId,
        name: ChunkName,
        sealed: &[u8],
    ) -> Result<(), StoreError> {
        let mut lists = std::mem::take(&mut self.lists);
        lists.sort_unstable();
        lists.dedup();
        let count = (lists.len() as u32).to_le_bytes();
        let snapshot = plain.snapshot();
        let parts = [&snapshot.as_bytes()[..], upload.as_bytes(), &count, lists.as_flattened(), sealed];
        let mut bytes = Vec::new();
        NewRecord { kind: Kind::Snapshot, name, key: Some(self.key), payload: &parts }.encode(&mut bytes);
        let object = snapshot_object_name(&bytes[..bytes.len() - 4]);
        drop(bytes);
        let place = self.append(Kind::Snapshot, name, &parts)?;
        self.objects.insert(*object.as_bytes(), (Kind::Snapshot, place));
        let place = InVault { vault: self.vault.id, object, set: self.set };
        plain.in_vault = Some(VaultShare { place, stored_bytes: self.row.stored_bytes });
        plain.check_commit_quota()?;
        locked(&self.vault.committing).insert(snapshot);
        let client = plain.state.record.id;
        let indexed = self.flush(Some(NewSnapshot { snapshot, client, object, lists: &lists }));
        if indexed.is_err() {
            locked(&self.vault.committing).remove(&snapshot);
        }
        indexed
    }
}

impl Drop for VaultSession {
    /// What was stored is indexed, for a later session to go on with, unless nobody will.
    fn drop(&mut self) {
        let has_failed = self.pack.as_ref().is_some_and(PackWriter::has_failed);
        if self.ending == Ending::LeftBehind
            && !has_failed
            && let Err(error) = self.flush(None)
        {
            log::warn!("what came last of an upload will be sent again: {error}");
        }
        self.release_packs();
        if self.ending != Ending::LeftBehind
            && let Err(error) = self.vault.forget_upload(&self.row_key)
        {
            log::warn!("an upload that is over counts as left behind for a day: {error}");
        }
        locked(&self.vault.live).remove(&self.row_key);
    }
}

/// The row of an upload that begins, or goes on: those that were left behind too long ago, or are too many, go.
fn begin_row(
    index: &mut Writing<'_>,
    row_key: &UploadKey,
    now: u64,
    live: &BTreeSet<UploadKey>,
) -> Result<UploadRow, IndexError> {
    let turn = index.turn()? + 1;
    index.meta.insert(&rows::TURN, &turn)?;
    let found = index.uploads.get(row_key)?;
    let row = UploadRow { touched: now, ..found.unwrap_or(UploadRow { turn, touched: now, stored_bytes: 0 }) };
    let (mut first, mut last) = (*row_key, *row_key);
    first[16..].fill(0);
    last[16..].fill(0xff);
    let mut left = Vec::new();
    for item in index.uploads.range(Bound::Included(&first), Bound::Included(&last))? {
        let (key, row) = item?;
        if key != *row_key && !live.contains(&key) {
            left.push((row.turn, key));
        }
    }
    left.sort_unstable();
    while left.len() >= LEFT_BEHIND_MAX {
        let (_, oldest) = left.remove(0);
        index.uploads.remove(&oldest)?;
    }
    index.uploads.insert(row_key, &row)?;
    Ok(row)
}

/// The first turn of all uploads that are open or were left behind not too long ago; the others are forgotten.
pub fn first_turn(index: &mut Writing<'_>, live: &BTreeSet<UploadKey>) -> Result<u64, IndexError> {
    let now = Timestamp::now().seconds.max(0) as u64;
    let (mut first, mut expired) = (u64::MAX, Vec::new());
    for item in index.uploads.iter()? {
        let (key, row) = item?;
        match live.contains(&key) || now.saturating_sub(row.touched) < PARTIAL_TIMEOUT.as_secs() {
            true => first = first.min(row.turn),
            false => expired.push(key),
        }
    }
    for key in expired {
        index.uploads.remove(&key)?;
    }
    Ok(first)
}

/// Has what was asked about and is without references count as asked about now; what has gone meanwhile is lacking.
fn keep_for_now(
    index: &mut Writing<'_>,
    fading: &[(usize, ChunkName)],
    lacking: &mut Vec<usize>,
) -> Result<(), IndexError> {
    let since = index.turn()?;
    for (place, name) in fading {
        match index.object(name.as_bytes())? {
            Some(row) => index.put_object(name.as_bytes(), Some(row), Some(ObjectRow { since, ..row }))?,
            None => lacking.push(*place),
        }
    }
    Ok(())
}

fn check_kind(held: Kind, kind: Kind) -> Result<(), StoreError> {
    match held == kind {
        true => Ok(()),
        false => Err(StoreError::out_of_place("a chunk and a list cannot have one name")),
    }
}

/// The references that lists add. A list that is damaged is replaced, and its references are counted already, as are those
/// of one that another upload brought meanwhile; of one that is lost they are not known.
fn references(
    index: &Writing<'_>,
    lists: &BTreeMap<[u8; NAME_BYTES], Vec<u8>>,
) -> Result<BTreeMap<[u8; NAME_BYTES], u32>, IndexError> {
    let mut refs = BTreeMap::new();
    for (list, names) in lists {
        if index.object(list)?.is_none_or(|row| row.is_lost()) {
            names_in(names).for_each(|name| *refs.entry(*name.as_bytes()).or_default() += 1);
        }
    }
    Ok(refs)
}

/// Puts new objects into the index, and references that lists among them add.
fn add_objects(
    index: &mut Writing<'_>,
    objects: &BTreeMap<[u8; NAME_BYTES], (Kind, Place)>,
    refs: &BTreeMap<[u8; NAME_BYTES], u32>,
    key: u32,
) -> Result<(), IndexError> {
    let since = index.turn()?;
    for (name, (kind, place)) in objects {
        let old = index.object(name)?;
        let key = if *kind == Kind::List { 0 } else { key };
        let more = refs.get(name).copied().unwrap_or(0);
        let new = match old {
            // Another upload brought it meanwhile.
            Some(row) if row.is_whole() => row,
            Some(row) if row.kind != *kind => check_kind(row.kind, *kind).map(|()| row)?,
            Some(row) => ObjectRow { place: *place, key, is_damaged: false, ..row },
            None => ObjectRow { place: *place, key, kind: *kind, is_damaged: false, refs: 0, since },
        };
        let since = if new.refs + more == 0 { since } else { new.since };
        index.put_object(name, old, Some(ObjectRow { refs: new.refs.saturating_add(more), since, ..new }))?;
    }
    for (name, more) in refs.iter().filter(|(name, _)| !objects.contains_key(*name)) {
        add_references(index, name, *more)?;
    }
    Ok(())
}

fn add_references(index: &mut Writing<'_>, name: &[u8; NAME_BYTES], more: u32) -> Result<(), IndexError> {
    let row = index.object(name)?.ok_or_else(|| IndexError::Store(gone("a chunk")))?;
    index.put_object(name, Some(row), Some(ObjectRow { refs: row.refs.saturating_add(more), ..row }))
}

/// A snapshot that is about to be committed.
struct NewSnapshot<'a> {
    snapshot: SnapshotId,
    client: ClientId,
    object: ChunkName,
    lists: &'a [[u8; NAME_BYTES]],
}

impl NewSnapshot<'_> {
    fn add(&self, index: &mut Writing<'_>) -> Result<(), IndexError> {
        for list in self.lists {
            match index.object(list)? {
                Some(row) if row.kind == Kind::List => add_references(index, list, 1)?,
                _ => return Err(gone("a list").into()),
            }
        }
        add_references(index, self.object.as_bytes(), 1)?;
        let row = SnapshotRow { client: self.client, object: self.object };
        index.snapshots.insert(&self.snapshot, &row)
    }
}

fn row_key(client: ClientId, upload: UploadId) -> UploadKey {
    let mut key = UploadKey::default();
    key[..16].copy_from_slice(client.as_bytes());
    key[16..].copy_from_slice(upload.as_bytes());
    key
}

impl Vault {
    /// Nothing is kept any longer for an upload that is over. At once: what a kill leaves of it would hold space for a day.
    pub fn forget_upload(&self, row_key: &UploadKey) -> Result<(), StoreError> {
        let forget = |index: &mut Writing<'_>| index.uploads.remove(row_key);
        self.index.write(Flush::Now, forget)
    }

    /// Whether an object can be given out, as far as is known; a list only where all its chunks can.
    pub fn is_held(
        &self,
        index: &Reading,
        name: &ChunkName,
        row: &ObjectRow,
        any_damage: bool,
    ) -> Result<bool, IndexError> {
        if !row.is_whole() || row.kind != Kind::List || !any_damage {
            return Ok(row.is_whole());
        }
        let Some(record) = self.read_record(name, row)? else { return Ok(false) };
        for name in record.names() {
            if index.damaged.get(name.as_bytes())?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the vault's packs take, where no other client has stored anything in it.
    fn bytes_of_only(&self, client: ClientId) -> Result<Option<u64>, StoreError> {
        self.index.read(|index| {
            for row in index.snapshots.iter()? {
                if row?.1.client != client {
                    return Ok(None);
                }
            }
            let mut sum = 0u64;
            for row in index.packs.iter()? {
                sum = sum.saturating_add(row?.1.indexed_bytes);
            }
            Ok(Some(sum))
        })
    }
}
