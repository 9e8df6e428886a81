//! The snapshots of one client, in memory: read from the heads when first asked for, added to by commits.
//! A head that is damaged or gone hides no other, and is not forgotten: its snapshot is named wherever snapshots
//! are, and its sequence is not given out again.
//!
//! Locks: `pruning` orders what drops and sweeps; `commit` is held for a whole commit, and by a prune for each of
//! its short steps; `catalog`, `uploads` and `pins` are held for moments only, never across a flush, so that
//! listing does not wait for a commit. Taken in that order where more than one is.
//!
//! A snapshot is pinned while somebody reads it or is compared with it. Pinning and dropping look under the same
//! lock, so that what is pinned is there, and what is there and pinned stays.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::clients::ClientRecord;
use super::damage::KeptDamage;
use super::dropped::DroppedTotals;
use super::error::StoreError;
use super::head::{HEAD_BYTES_MAX, Head, HeadError};
use super::layout::{Layout, dropped_name, head_name, index_name, names_in, read_small_file};
use super::quota::Quota;
use super::summary::ClientSummary;
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::order::sort_by_key;
use crate::base::path::EntryPath;

/// How many ids an ambiguous prefix is answered with.
const MATCHES_SHOWN: usize = 5;

/// Takes a lock. What it guards is changed in single steps, so a panic elsewhere leaves nothing half done.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the running server keeps about one client.
#[derive(Debug)]
pub struct ClientState {
    pub record: Arc<ClientRecord>,
    pruning: Mutex<()>,
    /// Somebody waits until nothing is swept.
    pub sweep_interrupted: AtomicBool,
    /// Whoever still has this state finds nothing of the client any more.
    pub removed: AtomicBool,
    pub commit: Mutex<()>,
    catalog: Mutex<Option<Catalog>>,
    uploads: Mutex<HashMap<UploadId, Arc<OpenUpload>>>,
    closed: Condvar,
    /// How many read each snapshot.
    pins: Mutex<HashMap<SnapshotId, usize>>,
    /// Whether the client's folders have been made and flushed by this process.
    pub folders_ready: Mutex<bool>,
    pub quota: Quota,
    pub damage: Mutex<KeptDamage>,
}

/// What other sessions see of an upload under way.
pub struct OpenUpload {
    superseded: AtomicBool,
    /// Rises with everything that the upload takes in.
    steps: AtomicU64,
    /// Ends the session that has it.
    end: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for OpenUpload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenUpload").field("superseded", &self.superseded).finish_non_exhaustive()
    }
}

impl OpenUpload {
    /// Notes that the upload gets on. False once a newer session has taken it over.
    pub fn goes_on(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.superseded.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.superseded.store(true, Ordering::Relaxed);
        (self.end)();
    }
}

/// What an older session has received from a client that is gone is not to be lost: a newer one lets it get on so
/// long, and no longer than it does.
const WORK_OFF_MAX: Duration = Duration::from_secs(3);
/// An older session that took nothing in for so long has nothing more.
const WORK_OFF_QUIET: Duration = Duration::from_millis(400);
/// How long a newer session waits for the older one to let go.
const TAKE_OVER_WAIT_MAX: Duration = Duration::from_secs(30);

impl ClientState {
    pub fn new(record: Arc<ClientRecord>) -> ClientState {
        ClientState {
            quota: Quota::new(record.quota),
            damage: Mutex::default(),
            record,
            pruning: Mutex::default(),
            sweep_interrupted: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            commit: Mutex::default(),
            catalog: Mutex::default(),
            uploads: Mutex::default(),
            closed: Condvar::new(),
            pins: Mutex::default(),
            folders_ready: Mutex::default(),
        }
    }

    /// A turn at dropping and sweeping.
    ///
    /// # Errors
    /// `NotFound` where the client has been removed meanwhile.
    pub fn prune_turn(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let turn = locked(&self.pruning);
        let what = || StoreError::NotFound { what: format!("client {} is no longer here", self.record.id) };
        if self.removed.load(Ordering::SeqCst) { Err(what()) } else { Ok(turn) }
    }

    /// The same where nobody has the turn.
    pub fn try_prune_turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = match self.pruning.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        turn.filter(|_| !self.removed.load(Ordering::SeqCst))
    }

    /// The same, before a sweep that is under way is through: it ends at the next good place.
    pub fn interrupt_prune(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        self.sweep_interrupted.store(true, Ordering::SeqCst);
        let turn = self.prune_turn();
        self.sweep_interrupted.store(false, Ordering::SeqCst);
        turn
    }

    /// Looks into the catalog, read first if it has not been.
    pub fn with_catalog<T>(&self, layout: &Layout, look: impl FnOnce(&mut Catalog) -> T) -> Result<T, StoreError> {
        let mut catalog = locked(&self.catalog);
        if catalog.is_none() {
            *catalog = Some(Catalog::load(&layout.snapshots(&self.record.folder))?);
        }
        Ok(look(catalog.as_mut().expect("loaded just now")))
    }

    /// The sums over the catalog, where it has been read.
    pub fn loaded_summary(&self) -> Option<ClientSummary> {
        locked(&self.catalog).as_ref().map(ClientSummary::of)
    }

    /// Has the catalog read again when it is asked for next. The caller holds `commit`: the catalog must not be
    /// read between the renames of a commit.
    pub fn forget_catalog(&self) {
        *locked(&self.catalog) = None;
    }

    /// Keeps the snapshot that `choose` takes from the catalog from being dropped for as long as the pin is there.
    pub fn pin(
        self: &Arc<ClientState>,
        layout: &Layout,
        choose: impl FnOnce(&Catalog) -> Option<Arc<Head>>,
    ) -> Result<Option<(Arc<Head>, Pin)>, StoreError> {
        self.with_catalog(layout, |catalog| {
            let head = choose(catalog)?;
            *locked(&self.pins).entry(head.id).or_default() += 1;
            let pin = Pin { state: self.clone(), snapshot: head.id };
            Some((head, pin))
        })
    }

    pub fn is_pinned(&self, snapshot: SnapshotId) -> bool {
        locked(&self.pins).contains_key(&snapshot)
    }

    /// Notes that an upload is under way, and `end` as the way to end its session. An older session of the
    /// same upload is given [`WORK_OFF_MAX`] to work off what has come, then ended and waited for.
    ///
    /// # Errors
    /// `StillOpen` where the older one does not let go in time.
    pub fn open_upload(
        &self,
        id: UploadId,
        end: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Arc<OpenUpload>, StoreError> {
        let mut uploads = self.let_work_off(id);
        let deadline = Instant::now() + TAKE_OVER_WAIT_MAX;
        while let Some(older) = uploads.get(&id) {
            older.end();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::StillOpen { upload: id });
            }
            uploads = self.closed.wait_timeout(uploads, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let ticket = Arc::new(OpenUpload { superseded: AtomicBool::new(false), steps: AtomicU64::new(0), end });
        uploads.insert(id, ticket.clone());
        Ok(ticket)
    }

    /// Waits while an older session of the upload gets on, within bounds. One whose client is gone ends by itself.
    fn let_work_off(&self, id: UploadId) -> MutexGuard<'_, HashMap<UploadId, Arc<OpenUpload>>> {
        let began = Instant::now();
        let (mut seen, mut moved) = (None, began);
        let mut uploads = locked(&self.uploads);
        while let Some(older) = uploads.get(&id) {
            let steps = Some(older.steps.load(Ordering::Relaxed));
            if seen != steps {
                (seen, moved) = (steps, Instant::now());
            }
            let left = WORK_OFF_QUIET.saturating_sub(moved.elapsed());
            if left.is_zero() || began.elapsed() >= WORK_OFF_MAX {
                break;
            }
            uploads = self.closed.wait_timeout(uploads, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        uploads
    }

    /// Whether a session has this upload open.
    pub fn is_open(&self, id: UploadId) -> bool {
        locked(&self.uploads).contains_key(&id)
    }

    pub fn close_upload(&self, id: UploadId, ticket: &Arc<OpenUpload>) {
        let mut uploads = locked(&self.uploads);
        if uploads.get(&id).is_some_and(|open| Arc::ptr_eq(open, ticket)) {
            uploads.remove(&id);
        }
        self.closed.notify_all();
    }
}

/// Keeps a snapshot from being dropped.
#[derive(Debug)]
pub struct Pin {
    state: Arc<ClientState>,
    snapshot: SnapshotId,
}

impl Pin {
    pub fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = locked(&self.state.pins);
        if let Some(count) = pins.get_mut(&self.snapshot) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.snapshot);
            }
        }
    }
}

/// A snapshot whose head cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedHead {
    pub id: SnapshotId,
    /// What is wrong, with the path.
    pub problem: String,
}

impl DamagedHead {
    fn error(&self) -> StoreError {
        StoreError::DamagedHead { snapshot: self.id, problem: self.problem.clone() }
    }
}

/// The heads of one client, by sequence.
#[derive(Debug, Default)]
pub struct Catalog {
    heads: Vec<Arc<Head>>,
    by_upload: HashMap<UploadId, Arc<Head>>,
    /// By id.
    damaged: Vec<DamagedHead>,
    /// Those that must not be dropped.
    pub held: BTreeSet<SnapshotId>,
    /// What dropped snapshots take.
    pub dropped: DroppedTotals,
}

impl Catalog {
    pub fn load(folder: &Path) -> Result<Catalog, StoreError> {
        let names = names_in(folder)?;
        let mut catalog = Catalog { dropped: DroppedTotals::load(folder, &names)?, ..Catalog::default() };
        catalog.held = names.iter().filter_map(|name| name.strip_suffix(".held")?.parse().ok()).collect();
        for id in names.iter().filter_map(|name| snapshot_of_head(name)) {
            match read_head(folder, id) {
                Ok(head) => catalog.add(Arc::new(head)),
                // The disk or the system refused, perhaps for the moment: that says nothing about the head.
                Err(error @ (StoreError::Io { .. } | StoreError::DiskFull { .. })) => return Err(error),
                Err(error) => catalog.add_damaged(id, error.to_string()),
            }
        }
        // No commit of this client is under way: each reads the catalog before it puts an index into place.
        for id in names.iter().filter_map(|name| name.strip_suffix(".index")?.parse().ok()) {
            let is_there = |name: String| names.binary_search(&name).is_ok();
            if !is_there(head_name(id)) && !is_there(dropped_name(id)) {
                let index = folder.join(index_name(id));
                catalog.add_damaged(id, format!("{} is there, and its head is gone", index.display()));
            }
        }
        sort_by_key(&mut catalog.heads, |head| (head.sequence, head.id));
        sort_by_key(&mut catalog.damaged, |damaged| damaged.id);
        Ok(catalog)
    }

    fn add_damaged(&mut self, id: SnapshotId, problem: String) {
        log::error!("snapshot {id} cannot be read: {problem}");
        self.damaged.push(DamagedHead { id, problem });
    }

    /// Adds the head of a commit, which is newer than all before.
    pub fn add(&mut self, head: Arc<Head>) {
        self.by_upload.insert(head.upload, head.clone());
        self.heads.push(head);
    }

    pub fn heads(&self) -> &[Arc<Head>] {
        &self.heads
    }

    /// What the snapshots take on the disk: the sum of the stored lengths in the heads, and what is left of dropped
    /// ones.
    pub fn stored_bytes(&self) -> u64 {
        let dropped = self.dropped.left_bytes.saturating_add(self.dropped.waiting_bytes);
        self.heads.iter().fold(dropped, |sum, head| sum.saturating_add(head.totals.stored_bytes))
    }

    /// Takes the snapshot out: it is being dropped.
    pub fn remove(&mut self, id: SnapshotId) -> Option<Arc<Head>> {
        let place = self.heads.iter().position(|head| head.id == id)?;
        let head = self.heads.remove(place);
        self.by_upload.remove(&head.upload);
        self.dropped.newest_sequence = self.dropped.newest_sequence.max(head.sequence);
        Some(head)
    }

    pub fn of_upload(&self, upload: UploadId) -> Option<Arc<Head>> {
        self.by_upload.get(&upload).cloned()
    }

    pub fn get(&self, id: SnapshotId) -> Option<Arc<Head>> {
        self.heads.iter().find(|head| head.id == id).cloned()
    }

    /// Whether there is such a snapshot, its head readable or not.
    pub fn has(&self, id: SnapshotId) -> bool {
        self.get(id).is_some() || self.damaged.iter().any(|damaged| damaged.id == id)
    }

    /// The snapshots whose heads cannot be read, by id.
    pub fn damaged(&self) -> &[DamagedHead] {
        &self.damaged
    }

    /// A sequence that no snapshot has or had. Each damaged head may have taken one after the newest that can be read.
    pub fn next_sequence(&self) -> u64 {
        let newest = self.heads.last().map_or(0, |head| head.sequence).max(self.dropped.newest_sequence);
        newest.saturating_add(self.damaged.len() as u64).saturating_add(1)
    }

    /// What a new upload may be compared with, the best first: the newest snapshots of the same roots, then the newest.
    pub fn bases_for<'a>(&'a self, roots: &'a [EntryPath]) -> impl Iterator<Item = SnapshotId> + 'a {
        let (same, others) = (true, false);
        let newest = move |of_same| {
            let readable = self.heads.iter().rev().filter(|head| head.vault.is_none());
            readable.filter(move |head| (head.roots == roots) == of_same).map(|head| head.id)
        };
        newest(same).chain(newest(others))
    }

    /// Takes a snapshot out whose head cannot be read: it is being dropped. Its sequence is not given out again. False
    /// where there is none with this id.
    pub fn remove_damaged(&mut self, id: SnapshotId) -> bool {
        let Some(place) = self.damaged.iter().position(|damaged| damaged.id == id) else { return false };
        self.dropped.newest_sequence = self.next_sequence() - 1;
        self.damaged.remove(place);
        true
    }

    /// The snapshot that `selector` means: `latest` (of `root`, where one is given), or a prefix of one id.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`; `DamagedHead` where it is, or for `latest` may be, one that cannot be read.
    pub fn find(&self, selector: &str, root: Option<&EntryPath>, client: &str) -> Result<Arc<Head>, StoreError> {
        let of_root = |head: &&Arc<Head>| root.is_none_or(|root| head.roots.contains(root));
        let root_shown = root.map(|root| format!(" of {}", root.display())).unwrap_or_default();
        if selector == "latest" {
            let newest = self.heads.iter().rev().find(of_root);
            self.check_newest(newest)?;
            return newest.cloned().ok_or_else(|| StoreError::NotFound {
                what: format!("{client} has no snapshot{root_shown} yet: run \"cyberbackup backup\" first"),
            });
        }
        let fits = |id: &SnapshotId| !selector.is_empty() && id.as_str().starts_with(selector);
        let readable = self.heads.iter().filter(of_root).filter(|head| fits(&head.id)).map(|head| Ok(head.clone()));
        let damaged = self.damaged.iter().filter(|damaged| fits(&damaged.id)).map(Err);
        let matches: Vec<Result<Arc<Head>, &DamagedHead>> = readable.chain(damaged).collect();
        match matches.as_slice() {
            [] => Err(StoreError::NotFound {
                what: format!(
                    "no snapshot{root_shown} of {client} begins with \"{}\": \"cyberbackup snapshots\" lists them",
                    selector.escape_debug()
                ),
            }),
            [one] => one.clone().map_err(DamagedHead::error),
            several => Err(StoreError::Ambiguous {
                selector: selector.to_string(),
                matches: several.iter().take(MATCHES_SHOWN).map(id_text).collect(),
            }),
        }
    }

    /// A damaged head may be the newest itself, and of any root: where it was begun in the second of the newest
    /// readable one or later, or where too few sequences are missing below for all that are damaged.
    fn check_newest(&self, newest: Option<&Arc<Head>>) -> Result<(), StoreError> {
        let Some(damaged) = self.damaged.last() else { return Ok(()) };
        let readable = self.heads.last().map_or(0, |head| head.sequence);
        let missing = readable.saturating_sub(self.heads.len() as u64);
        let is_later = newest.is_none_or(|head| head.id.begun() <= damaged.id.begun());
        match is_later || self.damaged.len() as u64 > missing {
            true => Err(damaged.error()),
            false => Ok(()),
        }
    }
}

fn id_text(snapshot: &Result<Arc<Head>, &DamagedHead>) -> String {
    match snapshot {
        Ok(head) => head.id.to_string(),
        Err(damaged) => damaged.id.to_string(),
    }
}

/// The snapshot whose head has this file name.
pub fn snapshot_of_head(name: &str) -> Option<SnapshotId> {
    name.strip_suffix(".json")?.parse().ok()
}

/// Reads the head of `id` from a client's folder of snapshots.
pub fn read_head(folder: &Path, id: SnapshotId) -> Result<Head, StoreError> {
    read_head_file(folder.join(head_name(id)), id)
}

pub fn read_head_file(path: std::path::PathBuf, id: SnapshotId) -> Result<Head, StoreError> {
    match Head::decode(&read_small_file(&path, HEAD_BYTES_MAX)?) {
        Ok(head) if head.id == id => Ok(head),
        Ok(_) => Err(StoreError::damaged(&path, "it is the head of another snapshot")),
        Err(HeadError::Checksum) => Err(StoreError::damaged(&path, "its checksum does not fit")),
        Err(HeadError::Invalid { problem }) => Err(StoreError::damaged(&path, problem)),
        Err(HeadError::Newer { version }) => Err(StoreError::NewerFormat { path, version }),
    }
}
