//! The data folder, opened: the one way in for everything above. A [`Store`] is shared by many threads;
//! each upload belongs to one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::at_rest::{Opening, StorageKeys};
use super::blocks_reader::ClientFiles;
use super::catalog::{Catalog, ClientState, DamagedHead, OpenUpload, locked};
use super::client_removal;
use super::clients::{ClientRecord, Clients};
use super::comparison::{Base, read_index};
use super::content::{ContentProblem, ContentReader};
use super::entries::Entries;
use super::error::{At, StoreError, if_there};
use super::head::Head;
use super::journal::Begin;
use super::layout::{Layout, names_in, read_small_file};
use super::lock::StoreLock;
use super::range::StoredEntry;
use super::recovery::{self, RecoveryReport};
use super::resume;
use super::summary::{self, ClientSummary};
use super::tokens::{self, TOKEN_BYTES};
use super::upload::{Begun, Upload, UploadRequest};
use super::vault::Vaults;
use crate::base::durable::{Disk, FILE_MODE};
use crate::base::entry::merge_roots;
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId, UserName, random_array};
use crate::base::limits::{
    CLIENTS_PER_READER, LABEL_BYTES_MAX, PATHS_BYTES_MAX, ROOTS_MAX, SUMMARY_READERS_MAX, TAGS_MAX,
};
use crate::base::order::sort_by;
use crate::base::path::EntryPath;
use crate::base::time::{Clock, Timestamp};
use crate::crypto::KeyId;
use std::os::fd::AsFd;

const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// So many snapshots are looked at for one to compare an upload with.
const BASES_TRIED_MAX: usize = 16;

/// An open data folder.
#[derive(Debug)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) clients: Mutex<Clients>,
    states: Mutex<HashMap<ClientId, Arc<ClientState>>>,
    recovery: RecoveryReport,
}

/// What uploads need of the store as well. An upload that outlives the [`Store`] keeps the lock.
#[derive(Debug)]
pub(super) struct Shared {
    pub layout: Layout,
    pub disk: Disk,
    /// Whether one flush of the whole file system can be trusted.
    pub can_flush_all: bool,
    /// Random for each opening: tells this process's journals from others'.
    pub run: [u8; 16],
    pub clock: Clock,
    pub sweeps_stopped: AtomicBool,
    /// Those that somebody uses.
    pub vaults: Vaults,
    /// The storage key that is wanted and was not given.
    locked: Option<KeyId>,
    _lock: StoreLock,
}

/// Room on the file system of the data folder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What this process may still write.
    pub available: u64,
}

/// A stored content that is not what it was.
#[derive(Debug)]
pub struct Damage {
    pub path: EntryPath,
    pub problem: ContentProblem,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for Damage {}

impl Shared {
    /// How much room the file system of the data folder has.
    pub(super) fn space(&self) -> Result<Space, StoreError> {
        let data = self.layout.data();
        let found = rustix::fs::statvfs(data).map_err(std::io::Error::from).at("look at", data)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { total: bytes(found.f_blocks), available: bytes(found.f_bavail) })
    }
}

impl Store {
    /// Opens a data folder, made where missing; brings into order what the last run left behind.
    ///
    /// # Errors
    /// `Locked` where another process has it; `SeveralFileSystems`; whatever the disk says.
    pub fn open(data: &Path, disk: Disk) -> Result<Store, StoreError> {
        Store::open_sealed(data, disk, StorageKeys::usual())
    }

    /// As [`Store::open`], with a storage key. Without the one it is sealed with, a store is [locked](Store::unlocked):
    /// its contents, ranges and indexes cannot be read.
    ///
    /// # Errors
    /// Also `StorageKeyWanted` where it is sealed with another key, `NotSealed` where it is not.
    pub fn open_sealed(data: &Path, disk: Disk, keys: StorageKeys) -> Result<Store, StoreError> {
        let mut layout = Layout::create(data, &disk)?;
        let lock = StoreLock::acquire(&layout)?;
        let Opening { keyring, locked } = Opening::of(&layout, &disk, keys)?;
        layout.set_keyring(keyring);
        let removals = client_removal::complete_all(&disk, &layout)?;
        let mut recovery = recovery::recover(&disk, &layout)?;
        recovery.lines.extend(removals);
        let clients = Clients::load(&layout.clients(), &mut recovery.lines)?;
        let can_flush_all = reports_failed_writes(data);
        Ok(Store {
            shared: Arc::new(Shared {
                layout,
                disk,
                can_flush_all,
                run: random_array(),
                clock: Clock::default(),
                sweeps_stopped: AtomicBool::new(false),
                vaults: Vaults::default(),
                locked,
                _lock: lock,
            }),
            clients: Mutex::new(clients),
            states: Mutex::default(),
            recovery,
        })
    }

    /// # Errors
    /// `StorageKeyWanted` where the contents are sealed and the storage key was not given.
    pub fn unlocked(&self) -> Result<(), StoreError> {
        match self.shared.locked {
            None => Ok(()),
            Some(wanted) => {
                Err(StoreError::StorageKeyWanted { path: self.path().to_path_buf(), wanted, given: None })
            }
        }
    }

    /// What the start found and did, for the log.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }
    pub fn path(&self) -> &Path {
        self.shared.layout.data()
    }
    pub fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    /// Device and inode of the data folder.
    pub fn place(&self) -> Result<(u64, u64), StoreError> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(self.path()).at("look at", self.path())?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The server's clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Has sweeps end at the next good place, as they do when they are cut short: for the end of a server.
    pub fn stop_sweeps(&self) {
        self.shared.sweeps_stopped.store(true, Ordering::Relaxed);
    }

    pub fn space(&self) -> Result<Space, StoreError> {
        self.shared.space()
    }

    /// A file of the server's own keys; none where there is no such file.
    pub fn read_key(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.key_path(name)?;
        if_there(read_small_file(&path, KEY_FILE_BYTES_MAX))
    }

    /// Writes a file of the server's own keys; durable when this returns.
    pub fn write_key(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, keys) = (self.key_path(name)?, self.shared.layout.keys());
        let folder = open_folder(&keys).at("open", &keys)?;
        self.shared.disk.replace_file(folder.as_fd(), name.as_bytes(), bytes, FILE_MODE).at("write", &path)
    }

    /// Gives a file of the server's own keys another name, in the place of what has that; durable when this returns.
    pub fn rename_key(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (path, keys, disk) = (self.key_path(to)?, self.shared.layout.keys(), &self.shared.disk);
        let folder = open_folder(&keys).at("open", &keys)?;
        disk.rename(folder.as_fd(), from.as_bytes(), folder.as_fd(), to.as_bytes()).at("rename to", &path)?;
        disk.flush_folder(folder.as_fd(), to.as_bytes()).at("flush", &keys)
    }

    /// Removes a file of the server's own keys, where it is there; durable when this returns.
    pub fn remove_key(&self, name: &str) -> Result<(), StoreError> {
        let (path, keys, disk) = (self.key_path(name)?, self.shared.layout.keys(), &self.shared.disk);
        let folder = open_folder(&keys).at("open", &keys)?;
        match disk.remove_file(folder.as_fd(), name.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).at("remove", &path),
            Ok(()) => disk.flush_folder(folder.as_fd(), name.as_bytes()).at("flush", &keys),
        }
    }

    /// Notes which next key of the server a client has pinned.
    pub fn note_server_key(&self, id: ClientId, fingerprint: &str) -> Result<(), StoreError> {
        let (disk, folder) = (&self.shared.disk, self.shared.layout.clients());
        locked(&self.clients).note_server_key(disk, &folder, id, fingerprint)
    }

    fn key_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            let error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(error).at("use the key name", Path::new(name));
        }
        Ok(self.shared.layout.keys().join(name))
    }

    pub fn client(&self, id: ClientId) -> Option<Arc<ClientRecord>> {
        locked(&self.clients).get(id)
    }

    pub fn client_named(&self, name: &UserName) -> Option<Arc<ClientRecord>> {
        locked(&self.clients).named(name)
    }

    /// All clients, by name.
    pub fn clients(&self) -> Vec<Arc<ClientRecord>> {
        locked(&self.clients).all()
    }

    /// The clients that have a snapshot whose id begins so; no head is read for it.
    pub fn clients_with_snapshot(&self, beginning: &str) -> Result<Vec<Arc<ClientRecord>>, StoreError> {
        let mut found = Vec::new();
        for client in self.clients() {
            let names = names_in(&self.shared.layout.snapshots(&client.folder))?;
            let fits = |name: &String| name.starts_with(beginning) && name.ends_with(".json");
            if !beginning.is_empty() && names.iter().any(fits) {
                found.push(client);
            }
        }
        Ok(found)
    }

    /// An id for a client that is about to be registered under `name`.
    pub fn fresh_client_id(&self, name: &UserName) -> ClientId {
        locked(&self.clients).fresh_id(name)
    }

    /// Registers a name with a key under `id`, durable when this returns; the same pair again is the client
    /// that is there, under the id it has. With `consume_token`, the name's token is used up by it.
    ///
    /// # Errors
    /// `NameTaken` where the name belongs to another key.
    pub fn register(
        &self,
        id: ClientId,
        name: &UserName,
        public_key_der: &[u8],
        consume_token: bool,
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let Shared { layout, disk, .. } = &*self.shared;
        let mut clients = locked(&self.clients);
        let record = clients.register(disk, &layout.clients(), id, name, public_key_der, false)?;
        if consume_token {
            // After the name: a crash between leaves a token that is good for a name already taken.
            tokens::consume(disk, &layout.tokens(), name)?;
        }
        Ok(record)
    }

    /// Gives a client that was reset its new key, and uses up the token of its name; durable when this returns.
    ///
    /// # Errors
    /// `NameTaken` where it has a key already, `NotFound` where the operator has removed it meanwhile.
    pub fn renew_key(&self, id: ClientId, public_key_der: &[u8]) -> Result<Arc<ClientRecord>, StoreError> {
        let Shared { layout, disk, .. } = &*self.shared;
        let mut clients = locked(&self.clients);
        let record = clients.renew(disk, &layout.clients(), id, public_key_der)?;
        tokens::consume(disk, &layout.tokens(), &record.name)?;
        Ok(record)
    }

    /// Notes the key that is to follow a client's `current` one; both are good until the first login with it.
    /// Durable when this returns.
    ///
    /// # Errors
    /// `NameTaken` where the client has another key by now than `current`.
    pub fn begin_key_rotation(&self, id: ClientId, current: &[u8], next: &[u8]) -> Result<(), StoreError> {
        let (disk, folder) = (&self.shared.disk, self.shared.layout.clients());
        locked(&self.clients).begin_rotation(disk, &folder, id, current, next).map(drop)
    }

    /// Puts a client's next key in the place of its key, which is no longer good; durable when this returns.
    pub fn finish_key_rotation(&self, id: ClientId, next: &[u8]) -> Result<Arc<ClientRecord>, StoreError> {
        let (disk, folder) = (&self.shared.disk, self.shared.layout.clients());
        locked(&self.clients).finish_rotation(disk, &folder, id, next)
    }

    /// Forgets a client's key: with a token, its name can be registered again, and has all its snapshots.
    pub fn reset_client(&self, id: ClientId) -> Result<Arc<ClientRecord>, StoreError> {
        locked(&self.clients).reset(&self.shared.disk, &self.shared.layout.clients(), id)
    }

    /// Gives a client another name. It is let in under its old one too, as long as nobody else has that.
    ///
    /// # Errors
    /// `NameTaken` where another client is called so.
    pub fn rename_client(&self, id: ClientId, name: &UserName) -> Result<Arc<ClientRecord>, StoreError> {
        locked(&self.clients).rename(&self.shared.disk, &self.shared.layout.clients(), id, name)
    }

    /// Sets how many bytes a client's snapshots may take in all; uploads under way see it at once.
    pub fn set_quota(&self, id: ClientId, quota: Option<u64>) -> Result<Arc<ClientRecord>, StoreError> {
        let record =
            locked(&self.clients).set_quota(&self.shared.disk, &self.shared.layout.clients(), id, quota)?;
        self.state(id)?.quota.set(quota);
        Ok(record)
    }

    /// Removes a client from the list of clients, for good: nobody can begin anything with it any more. The
    /// caller sees to it that it has no session and that this is [between prunes](Store::between_prunes), and calls
    /// [`Store::remove_data`] next.
    pub fn remove_client(&self, id: ClientId) -> Result<Arc<ClientRecord>, StoreError> {
        let damaged: Vec<SnapshotId> = self.damaged_heads(id)?.iter().map(|damaged| damaged.id).collect();
        self.note_dropped(&*self.state(id)?, &self.snapshots(id)?, &damaged)?;
        let mut clients = locked(&self.clients);
        let what = || StoreError::NotFound { what: format!("client {id} is no longer here") };
        let record = clients.get(id).ok_or_else(what)?;
        client_removal::decide(&self.shared.disk, &self.shared.layout, &record)?;
        clients.forget(id);
        if let Some(state) = locked(&self.states).remove(&id) {
            state.removed.store(true, Ordering::SeqCst);
        }
        Ok(record)
    }

    /// Does `work` while nothing of a client is dropped or swept. A sweep that is under way ends at the next good
    /// place, as if it had been cut short.
    pub fn between_prunes<T>(&self, id: ClientId, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        let state = self.state(id)?;
        let _turn = state.interrupt_prune()?;
        Ok(work())
    }

    /// Removes everything that a client which is off the list had stored. After a stop in the midst of it the next
    /// start completes it.
    pub fn remove_data(&self, record: &ClientRecord) -> Result<(), StoreError> {
        client_removal::complete(&self.shared.disk, &self.shared.layout, record)
    }

    /// A client's snapshots in a few numbers; reads no heads where nothing changed since they were read last.
    pub fn summary(&self, client: ClientId) -> Result<ClientSummary, StoreError> {
        let state = self.state(client)?;
        match state.loaded_summary() {
            Some(summary) => Ok(summary),
            None => summary::read(&self.shared.disk, &self.shared.layout, client, &state.record.folder),
        }
    }

    /// The summaries of all clients, by name. Where heads have to be read, several clients' are at a time.
    pub fn summaries(&self) -> Vec<(Arc<ClientRecord>, Result<ClientSummary, StoreError>)> {
        let clients = self.clients();
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(clients.len())));
        let read = || {
            while let Some(client) = clients.get(next.fetch_add(1, Ordering::Relaxed)) {
                let summary = self.summary(client.id);
                locked(&found).push((client.clone(), summary));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(SUMMARY_READERS_MAX).min(clients.len() / CLIENTS_PER_READER) {
                // Without one more the others take its part.
                let _ = std::thread::Builder::new().name("summaries".to_string()).spawn_scoped(scope, read);
            }
            read();
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        sort_by(&mut found, |(left, _), (right, _)| left.name.cmp(&right.name));
        found
    }

    /// Keeps the sums of a client whose folder of snapshots has just been changed. The caller holds `commit`, or lets
    /// nobody else change the folder in another way.
    pub(super) fn keep_summary(&self, state: &ClientState) {
        let Shared { disk, layout, .. } = &*self.shared;
        // What cannot be kept is read again.
        if let Ok(summary) = state.with_catalog(layout, |catalog| ClientSummary::of(catalog)) {
            summary::keep_after_change(disk, layout, state.record.id, &state.record.folder, &summary);
        }
    }

    /// Registers a name with a key in the legacy dialect, which uses up the opening of the name, if there is one.
    ///
    /// # Errors
    /// `NameTaken` where the name belongs to anybody.
    pub fn register_legacy(
        &self,
        id: ClientId,
        name: &UserName,
        public_key_der: &[u8],
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let Shared { layout, disk, .. } = &*self.shared;
        let mut clients = locked(&self.clients);
        if clients.named(name).is_some() {
            return Err(StoreError::NameTaken { name: name.to_string() });
        }
        let record = clients.register(disk, &layout.clients(), id, name, public_key_der, true)?;
        tokens::consume_opening(disk, &layout.tokens(), name)?;
        Ok(record)
    }

    /// Closes a client's name to the legacy dialect for good, durably: it has proved its key natively.
    pub fn close_to_legacy(&self, id: ClientId) -> Result<(), StoreError> {
        let Shared { layout, disk, .. } = &*self.shared;
        locked(&self.clients).close_to_legacy(disk, &layout.clients(), id)
    }

    /// Opens `name` for one registration in the legacy dialect; gives until when.
    pub fn open_to_legacy(&self, name: &UserName, lifetime: Duration) -> Result<Timestamp, StoreError> {
        tokens::create_opening(&self.shared.disk, &self.shared.layout.tokens(), name, lifetime)
    }

    /// Whether the operator has opened `name` for a registration in the legacy dialect.
    pub fn is_open_to_legacy(&self, name: &UserName) -> Result<bool, StoreError> {
        tokens::has_opening(&self.shared.layout.tokens(), name)
    }

    /// Makes an enrolment token for `name`, in the place of an earlier one.
    pub fn create_token(&self, name: &UserName, lifetime: Duration) -> Result<[u8; TOKEN_BYTES], StoreError> {
        tokens::create(&self.shared.disk, &self.shared.layout.tokens(), name, lifetime)
    }

    /// The unexpired token of `name`.
    pub fn token(&self, name: &UserName) -> Result<Option<[u8; TOKEN_BYTES]>, StoreError> {
        tokens::find(&self.shared.layout.tokens(), name)
    }

    /// A client's snapshots, by sequence.
    pub fn snapshots(&self, client: ClientId) -> Result<Vec<Arc<Head>>, StoreError> {
        self.state(client)?.with_catalog(&self.shared.layout, |catalog| catalog.heads().to_vec())
    }

    /// A client's snapshots whose heads cannot be read, by id.
    pub fn damaged_heads(&self, client: ClientId) -> Result<Vec<DamagedHead>, StoreError> {
        self.state(client)?.with_catalog(&self.shared.layout, |catalog| catalog.damaged().to_vec())
    }

    /// The snapshot that `selector` means: `latest`, of `root` where one is given, or a unique id prefix.
    pub fn find_snapshot(
        &self,
        client: ClientId,
        selector: &str,
        root: Option<&EntryPath>,
    ) -> Result<Arc<Head>, StoreError> {
        let state = self.state(client)?;
        let name = self.client(client).map_or_else(String::new, |record| record.name.to_string());
        state.with_catalog(&self.shared.layout, |catalog| catalog.find(selector, root, &name))?
    }

    /// Begins an upload, or names the snapshot that it became earlier.
    /// `end` ends the session that has the upload: it is called, perhaps more than once, when a newer session
    /// of the same upload comes.
    pub fn begin_upload(
        &self,
        client: ClientId,
        mut request: UploadRequest,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Result<Begun, StoreError> {
        check_request(&request)?;
        request.roots = merge_roots(std::mem::take(&mut request.roots));
        let state = self.state(client)?;
        let (layout, upload) = (&self.shared.layout, request.upload);
        if let Some(head) = state.with_catalog(layout, |catalog| catalog.of_upload(request.upload))? {
            return Ok(Begun::AlreadyStored(head));
        }
        self.make_client_folders(&state)?;
        let ticket = state.open_upload(request.upload, Box::new(end))?;
        let begun = self.open_upload(&state, request, ticket.clone());
        if !matches!(begun, Ok(Begun::Open(_))) {
            state.close_upload(upload, &ticket);
        }
        begun
    }

    fn open_upload(
        &self,
        state: &Arc<ClientState>,
        request: UploadRequest,
        ticket: Arc<OpenUpload>,
    ) -> Result<Begun, StoreError> {
        let layout = &self.shared.layout;
        // The older session may have committed it while this one waited.
        if let Some(head) = state.with_catalog(layout, |catalog| catalog.of_upload(request.upload))? {
            return Ok(Begun::AlreadyStored(head));
        }
        recovery::sweep_left_behind(&self.shared, state, request.upload)?;
        let base = self.choose_base(state, &request)?;
        Ok(Begun::Open(Box::new(Upload::open(self.shared.clone(), state.clone(), request, base, ticket)?)))
    }

    /// An upload that was cut off goes on with the snapshot that it was compared with, if that is there. One whose index
    /// is damaged is passed over.
    fn choose_base(&self, state: &Arc<ClientState>, request: &UploadRequest) -> Result<Option<Base>, StoreError> {
        let layout = &self.shared.layout;
        let upload = layout.incoming(&state.record.folder).join(request.upload.to_string());
        let begun = resume::begin_of(&upload, &layout.keyring_of(&state.record.folder))?
            .filter(|begin| begin.roots == resume::roots_hash(&request.roots));
        let usual = || {
            let first = |catalog: &mut Catalog| catalog.bases_for(&request.roots).take(BASES_TRIED_MAX).collect();
            state.with_catalog::<Vec<SnapshotId>>(layout, first)
        };
        let candidates = match (request.parent, begun) {
            _ if request.full => Vec::new(),
            (None, Some(Begin { base: None, .. })) => Vec::new(),
            (None, Some(Begin { base: Some(id), .. })) => [vec![id], usual()?].concat(),
            (None, None) => usual()?,
            (Some(id), _) => vec![id],
        };
        for id in candidates {
            let Some((head, pin)) = state.pin(layout, |catalog| catalog.get(id))? else {
                if request.parent.is_some() {
                    let what = format!("there is no snapshot {id} to compare with: leave the parent out");
                    return Err(StoreError::NotFound { what });
                }
                continue;
            };
            match Base::open(layout, &state.record.folder, head, pin) {
                Ok(base) => return Ok(Some(base)),
                Err(error) => log::warn!("no base, more is sent again: {error}"),
            }
        }
        Ok(None)
    }

    /// Flushed once by each process, not only when made: the process that made them may have crashed before
    /// it had flushed them.
    fn make_client_folders(&self, state: &ClientState) -> Result<(), StoreError> {
        let mut ready = locked(&state.folders_ready);
        if *ready {
            return Ok(());
        }
        let Shared { layout, disk, .. } = &*self.shared;
        for parent in layout.client_parents() {
            let folder = open_folder(&parent).at("open", &parent)?;
            let name = state.record.folder.as_str();
            disk.make_folder_if_missing(folder.as_fd(), name.as_bytes()).at("create", &parent.join(name))?;
            disk.flush_folder(folder.as_fd(), b"client folder").at("flush", &parent)?;
        }
        *ready = true;
        Ok(())
    }

    /// A snapshot's entries at and below the paths of `filter`, or all of them, in path order. As long as they are
    /// there, the snapshot is not dropped.
    ///
    /// # Errors
    /// `Dropped` where that has happened already.
    pub fn entries(&self, head: &Head, filter: &[EntryPath]) -> Result<Entries, StoreError> {
        let state = self.state(head.client)?;
        let (layout, folder) = (&self.shared.layout, &state.record.folder);
        let pinned = state.pin(layout, |catalog| catalog.get(head.id))?;
        let (_, pin) = pinned.ok_or(StoreError::Dropped { snapshot: head.id })?;
        let records = read_index(layout, folder, head)?;
        Ok(Entries::new(layout.range_files(folder), records, filter, pin))
    }

    /// Opens the content of an entry.
    ///
    /// # Errors
    /// `NotFound` where the entry has none; `Damaged` where it is gone.
    pub fn open_content(&self, client: ClientId, stored: &StoredEntry) -> Result<ContentReader, StoreError> {
        let entry = &stored.entry;
        let Some(content) = &stored.content else {
            return Err(StoreError::NotFound { what: format!("{} has no stored content", entry.path.display()) });
        };
        let state = self.state(client)?;
        let files = ClientFiles::new(&self.shared.layout, &state.record.folder);
        ContentReader::open(files, &entry.path, content)
    }

    /// Chooses the way of flushing many files, whatever the file system: for tests.
    #[cfg(test)]
    pub(super) fn set_can_flush_all(&mut self, can_flush_all: bool) {
        Arc::get_mut(&mut self.shared).expect("no upload is open").can_flush_all = can_flush_all;
    }

    pub(super) fn state(&self, client: ClientId) -> Result<Arc<ClientState>, StoreError> {
        let what = || format!("no client {client} is registered here: register it with \"cyberbackup backup\"");
        let record = self.client(client).ok_or_else(|| StoreError::NotFound { what: what() })?;
        let mut states = locked(&self.states);
        Ok(states.entry(client).or_insert_with(|| Arc::new(ClientState::new(record))).clone())
    }
}

fn check_request(request: &UploadRequest) -> Result<(), StoreError> {
    let roots_bytes: usize = request.roots.iter().map(|root| root.as_bytes().len()).sum();
    let texts = request.tags.iter().chain([&request.label, &request.host]);
    let problem = match () {
        () if request.roots.len() > ROOTS_MAX || roots_bytes > PATHS_BYTES_MAX => "too many roots",
        () if request.tags.len() > TAGS_MAX => "too many tags",
        () if texts.into_iter().any(|text| text.len() > LABEL_BYTES_MAX) => "a label, host or tag is too long",
        () => return Ok(()),
    };
    Err(StoreError::out_of_place(problem))
}

/// Whether a flush of the whole file system reports writes that failed: Linux 5.8 or newer, on file systems
/// known to do so. Elsewhere every file is flushed by itself.
#[cfg(target_os = "linux")]
pub(super) fn reports_failed_writes(data: &Path) -> bool {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const F2FS: u64 = 0xf2f5_2010;
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(data).map_or(0, |found| found.f_type as u64);
    let uname = rustix::system::uname();
    [EXT4, XFS, BTRFS, F2FS, TMPFS].contains(&kind) && is_5_8_or_newer(&uname.release().to_string_lossy())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn reports_failed_writes(_data: &Path) -> bool {
    false
}

fn is_5_8_or_newer(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_from_new_ones() {
        for (release, new) in [("5.8.0-1", true), ("6.1", true), ("5.10.0", true), ("5.7.19", false), ("x", false)]
        {
            assert_eq!(is_5_8_or_newer(release), new, "{release}");
        }
    }
}
