//! One try of a backup into a vault: the upload is begun, the chain of heads compared, and then walk, reading,
//! sealing and sending run side by side until the head is stored.

use std::thread;

use crossbeam_channel::{bounded, unbounded};

use super::super::backup::{BackupOptions, WalkSink, opening, walk_to};
use super::super::connect::{Client, Session};
use super::super::error::ClientError;
use super::super::scan::{FolderIdentity, ScanOptions};
use super::super::source::SourceReader;
use super::super::unfinished::{self, ChosenUpload};
use super::super::uploading::{Progress, Stopped, Uploaded};
use super::cache::{Cache, CacheWriter};
use super::chain::{Chain, Finding, Link, Shown};
use super::cutting::Cutting;
use super::format::VaultHead;
use super::known::{Comparison, Known};
use super::parcel::{Found, PARCEL_CAPACITY, PARCELS, Packer, Parcel};
use super::sealing::Sealing;
use super::uploading::{Queues, VaultUploading, commit};
use crate::base::codec::Writer;
use crate::base::host::boot_name;
use crate::base::ids::{SnapshotId, hex};
use crate::base::limits::VAULT_HEAD_BYTES_MAX;
use crate::base::path::EntryPath;
use crate::base::progress::{Event, Phase};
use crate::base::time::Timestamp;
use crate::base::waker::waker;
use crate::channel::ChannelError;
use crate::crypto::vault::{ChunkKind, ChunkSealer, DataKey, PlainChunk, PutKey, head_hash};
use crate::protocol::message::{
    HostFolder, SnapshotRow, ToClient, ToServer, VaultAnswer, VaultBegin, VaultRequest, vault_flag,
};

/// Ranges that the walk may have ready.
const RANGES_READY_MAX: usize = 2;

/// The vault that a run backs up into, and the key of its upload.
pub struct VaultTarget<'a> {
    pub key: &'a PutKey,
    pub data_key: DataKey,
}

/// How a try ended well.
pub struct VaultUploaded {
    pub uploaded: Uploaded,
    /// The upload had been committed before, and its answer lost.
    pub was_stored_before: bool,
}

/// What one try has open.
struct Try<'a> {
    client: &'a Client<'a>,
    target: &'a VaultTarget<'a>,
    options: &'a BackupOptions,
    upload: ChosenUpload,
    started: Timestamp,
    chain: Chain,
}

enum Begun {
    Open(HostFolder, SnapshotId),
    /// This upload was committed before: its answer was lost.
    Stored(SnapshotRow),
}

/// Backs up over one connection.
///
/// # Errors
/// The line failed, the server refused, or this host's files or state folder did. Chunks that arrived need not be sent
/// again.
pub fn attempt(
    client: &Client<'_>,
    session: &mut Session,
    options: &BackupOptions,
    target: &VaultTarget<'_>,
    upload: ChosenUpload,
    progress: &mut Progress,
) -> Result<VaultUploaded, ClientError> {
    client.sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "backing up into the vault" });
    if !session.keeps_vaults {
        let text = "this server keeps no vaults: it needs a newer cyberbackup; without --vault, it can read what it is sent";
        return Err(ClientError::Impossible(text.into()));
    }
    let (vault, is_real) = (target.key.vault(), !options.dry_run);
    let (chain, damaged) = Chain::open_or_begin(&client.state, vault, session.holder(), is_real)?;
    if let Some(message) = damaged {
        client.sink.event(Event::Warning { message: &message });
    }
    let mut attempt = Try { client, target, options, upload, started: Timestamp::now(), chain };
    // Before the server knows of it: it keeps for a day whatever an upload that is not gone on with may count on.
    if !options.dry_run {
        unfinished::note(&client.state, options, upload.id)?;
    }
    let (data, snapshot) = match attempt.begin(session)? {
        Begun::Open(data, snapshot) => (data, snapshot),
        Begun::Stored(row) => return attempt.stored_before(row, progress),
    };
    let cache = Cache::open(client.state.path(), &attempt.cache_key(session));
    let cache =
        cache.map_err(|source| ClientError::Io { doing: "open vault-cache in the state folder".into(), source })?;
    let (found, writer) = attempt.send_all(session, &cache, data, progress)?;
    let unreadable = found.totals.unreadable + found.unreadable;
    progress.sent.unreadable = unreadable;
    let scanned = found.totals;
    if options.dry_run {
        session.send(&ToServer::Cancel)?;
        let uploaded = Uploaded { snapshot: None, scanned, sent: progress.sent };
        return Ok(VaultUploaded { uploaded, was_stored_before: false });
    }
    client.sink.event(Event::Phase { phase: Phase::Cleanup, message: "the server is making it durable" });
    let row = attempt.commit(session, snapshot, found, unreadable)?;
    if let Err(error) = writer.map_or(Ok(()), CacheWriter::finish) {
        client.notice(&format!(
            "vault-cache in the state folder cannot be kept ({error}): the next backup reads all files"
        ));
    }
    let uploaded = Uploaded { snapshot: Some(row), scanned, sent: progress.sent };
    Ok(VaultUploaded { uploaded, was_stored_before: false })
}

impl Try<'_> {
    /// Asks for the upload to be opened, and compares the newest head that the server shows.
    fn begin(&mut self, session: &mut Session) -> Result<Begun, ClientError> {
        let key = self.target.key;
        session.send(&ToServer::Vault(VaultRequest::Begin(VaultBegin {
            vault: key.vault(),
            write_token: *key.write_token(),
            read_verifier: *key.read_verifier(),
            upload: self.upload.id,
            set: key.root_set(&self.roots()),
            started: self.started,
            flags: if self.options.dry_run { vault_flag::DRY_RUN } else { 0 },
            wrapped_key: self.target.data_key.wrapped(),
        })))?;
        let mut shown = None;
        let begun = opening(session, |answer| match answer {
            ToClient::Vault(VaultAnswer::Begun { data, snapshot, newest }) => {
                shown = newest
                    .map(|(snapshot, head)| Shown { snapshot, head: head_hash(head.name, head.key, head.sealed) });
                Some(Begun::Open(data, snapshot))
            }
            ToClient::Stored(row) => Some(Begun::Stored(row)),
            _ => None,
        })?;
        if let Begun::Open(..) = begun
            && let Some(finding) = self.chain.compare_newest(shown)
        {
            self.client.sink.event(Event::Warning { message: &finding.to_string() });
            if matches!(finding, Finding::Unknown { .. }) {
                self.chain.begin_anew();
            }
        }
        Ok(begun)
    }

    fn stored_before(&mut self, row: SnapshotRow, progress: &Progress) -> Result<VaultUploaded, ClientError> {
        self.chain.note_stored(&self.client.state, row.id)?;
        let scanned = super::super::ranges::ScanTotals { files: row.files, bytes: row.bytes, ..Default::default() };
        let uploaded = Uploaded { snapshot: Some(row), scanned, sent: progress.sent };
        Ok(VaultUploaded { uploaded, was_stored_before: true })
    }

    /// The roots as they are sealed into the head: none for the whole file system.
    fn roots(&self) -> Vec<EntryPath> {
        self.options.roots.iter().filter_map(|root| root.path().cloned()).collect()
    }

    /// What makes a cache: the vault, the server, and the paths.
    fn cache_key(&self, session: &Session) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_bytes(self.target.key.vault().as_bytes());
        bytes.put_bytes(session.server.as_bytes());
        for root in &self.options.roots {
            bytes.put_bytes16(root.path().map_or(&[][..], |path| path.as_bytes()));
        }
        bytes
    }

    /// Walks, reads, seals and sends. Gives what was found, and the cache that is to be kept.
    fn send_all(
        &self,
        session: &mut Session,
        cache: &Cache,
        data: HostFolder,
        progress: &mut Progress,
    ) -> Result<(Found, Option<CacheWriter>), ClientError> {
        let (client, options, key) = (self.client, self.options, self.target.key);
        let failed =
            |source| ClientError::Io { doing: "read and write vault-cache in the state folder".into(), source };
        let (ranges, writer) = cache.begin(options.full).map_err(failed)?;
        let (waker, wakes) = waker().map_err(|error| session.error(ChannelError::Io(error)))?;
        let (walk_sender, walked) = bounded(RANGES_READY_MAX);
        let (hand_sender, handed) = unbounded();
        let (answers, answer_receiver) = unbounded();
        let (free_parcels, parcels) = unbounded();
        for _ in 0..PARCELS {
            let parcel = Parcel { bytes: Vec::with_capacity(PARCEL_CAPACITY), ..Parcel::default() };
            let _ = free_parcels.send(parcel);
        }
        let comparison = Comparison { ignore_inode: options.ignore_inode, ignore_ctime: options.ignore_ctime };
        let cutting = Cutting {
            walked,
            source: SourceReader::of(&options.roots, options.given.clone()),
            key,
            packer: Packer::new(parcels, hand_sender, waker.clone()),
            known: Known::new(ranges, answer_receiver, comparison),
            cache: writer,
            state_folder: client.state.path().to_path_buf(),
            sink: client.sink,
        };
        let (sealings, sealers) = Sealing::all(key, &self.target.data_key, waker, options.dry_run);
        let scan =
            ScanOptions::new(self.excluded(&data), client.shutdown.clone(), client.state.path().to_path_buf());
        let queues = Queues { wakes, handed, answers, free_parcels, sealers };
        if let Some(given) = &options.given {
            given.rewind();
        }
        let uploading = VaultUploading::new(&mut session.channel, client.sink, queues);
        let result = thread::scope(|scope| {
            let walk = WalkSink::new(walk_sender, client.sink, options.missing.len() as u64);
            let spawn = |name: &str| thread::Builder::new().name(name.into());
            let started = spawn("walk")
                .spawn_scoped(scope, move || walk_to(options, &scan, walk))
                .and_then(|_| {
                    let mut sealings = sealings.into_iter();
                    sealings
                        .try_for_each(|sealing| spawn("seal").spawn_scoped(scope, move || sealing.run()).map(drop))
                })
                .and_then(|_| spawn("cut").spawn_scoped(scope, move || cutting.run()));
            // Where one did not start, leaving drops the queues, which ends the others.
            let cutter = started.map_err(|source| ClientError::Io { doing: "start a thread".into(), source })?;
            // `run` owns the queues: when it returns, the other threads find nobody at their ends and return too.
            let found = uploading.run(progress)?;
            let writer = cutter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((found, writer))
        });
        result.map_err(|stopped| error_of(session, stopped))
    }

    fn excluded(&self, data: &HostFolder) -> Vec<FolderIdentity> {
        let mut excluded = self.options.excluded.clone();
        // A server on this very host: its data is no part of any backup.
        if !data.boot.is_empty() && data.boot == boot_name() {
            excluded.push(FolderIdentity { device: data.device, inode: data.inode });
        }
        excluded
    }

    /// Seals and sends the head; gives the snapshot's row, with what only this side knows.
    fn commit(
        &mut self,
        session: &mut Session,
        snapshot: SnapshotId,
        found: Found,
        unreadable: u64,
    ) -> Result<SnapshotRow, ClientError> {
        let head = self.head(snapshot, found, unreadable);
        let (key, mut plain, mut sealed) = (self.target.key, Vec::new(), Vec::new());
        head.encode(&mut plain);
        if plain.len() > VAULT_HEAD_BYTES_MAX {
            let text = "there is too much in the head of this snapshot: give fewer paths and shorter labels";
            return Err(ClientError::Impossible(text.into()));
        }
        let name = key.name(ChunkKind::Head, &plain);
        let chunk = PlainChunk { name, bytes: &plain };
        ChunkSealer::new().seal(key, &self.target.data_key, &[chunk], 0, &mut sealed);
        let hash = head_hash(name, self.target.data_key.id(), &sealed);
        self.chain.note_sent(&self.client.state, Link { counter: head.counter, snapshot, head: hex(&hash) })?;
        let stored = commit(&mut session.channel, name, &sealed);
        let row = stored.map_err(|stopped| error_of(session, stopped))?;
        if row.id != snapshot {
            let text = format!("the server calls the snapshot {}, and said that it would be {snapshot}", row.id);
            return Err(ClientError::Integrity(text));
        }
        self.chain.note_stored(&self.client.state, row.id)?;
        let VaultHead { started, entries, files, bytes, unreadable, host, label, tags, roots, .. } = head;
        Ok(SnapshotRow { started, entries, files, bytes, unreadable, host, label, tags, roots, ..row })
    }

    fn head(&self, snapshot: SnapshotId, found: Found, unreadable: u64) -> VaultHead {
        let (options, (counter, previous)) = (self.options, self.chain.next());
        VaultHead {
            writer: self.chain.writer(),
            counter,
            previous,
            snapshot,
            started: self.started,
            entries: found.entries,
            files: found.totals.files,
            bytes: found.totals.bytes,
            unreadable,
            host: options.host.clone(),
            label: options.label.clone(),
            tags: options.tags.clone(),
            roots: self.roots(),
            index: found.index,
        }
    }
}

fn error_of(session: &Session, stopped: Stopped) -> ClientError {
    match stopped {
        Stopped::Channel(error) => session.error(error),
        Stopped::Client(error) => error,
    }
}
