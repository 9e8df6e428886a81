//! Streamed answers: what a client asks of its snapshots, row by row. Everything here runs on a worker's
//! thread and holds one range or one chunk of a content at a time.

use std::collections::HashSet;
use std::io::Read;
use std::slice;
use std::time::{Duration, Instant};

use super::blocks;
use super::session::{Ended, Failure};
use super::sessions::Doing;
use super::vault;
use crate::base::ids::{ClientId, SnapshotId};
use crate::base::limits::{CONTENT_CHUNK_BYTES, HOLE_BYTES_MAX, LARGE_FILE_BYTES};
use crate::base::path::EntryPath;
use crate::channel::worker::{Gone, Outbox};
use crate::protocol::message::{
    ContentEnd, EntryRow, FailureCode, ReadBlocks, Selection, SnapshotRow, ToClient, Verified,
};
use crate::storage::{
    ContentReader, Entries, Head, InVault, Segment, Store, StoreError, StoredEntry, VaultRun, VaultWatch,
};

/// How often a verification says how far it is.
const VERIFY_REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Stands among the tags of a snapshot whose sender nobody proved to be.
const UNAUTHENTICATED: &str = "unauthenticated";

/// A request whose answer is streamed.
pub enum Request {
    Snapshots,
    Entries { selection: Selection, contents: bool },
    Page { selection: Selection, page: Page },
    Blocks(ReadBlocks),
    File { selection: Selection, offset: u64, length: u64 },
    Verify(Selection),
    Vault(vault::Reading),
}

impl Request {
    /// What a session does that answers it.
    pub fn doing(&self) -> Doing {
        match self {
            Request::Snapshots | Request::Entries { contents: false, .. } => Doing::Listing,
            Request::Vault(_) => Doing::Sending,
            Request::Page { page: Page { wanted: None, .. }, .. } => Doing::Listing,
            Request::Entries { .. } | Request::Page { .. } => Doing::Sending,
            Request::Blocks(_) | Request::File { .. } => Doing::Sending,
            Request::Verify(_) => Doing::Verifying,
        }
    }
}

/// A part of a selection: the first entries behind a path, and which of their contents are wanted.
pub struct Page {
    pub after: Option<EntryPath>,
    pub entries: u64,
    /// A bit for each entry, lowest first; none where the client only looks.
    pub wanted: Option<Vec<u8>>,
}

impl Page {
    fn wants(&self, entry: u64) -> bool {
        let byte = usize::try_from(entry / 8).ok().and_then(|place| self.wanted.as_ref()?.get(place));
        byte.is_some_and(|byte| byte >> (entry % 8) & 1 == 1)
    }
}

/// Streams the answer; gives the number of its rows.
pub fn stream(
    store: &Store,
    client: ClientId,
    request: Request,
    vault: &mut vault::Open,
    outbox: &mut Outbox,
) -> Result<u64, Ended> {
    match request {
        Request::Snapshots => snapshots(store, client, outbox),
        Request::Blocks(ReadBlocks { selection, .. }) | Request::File { selection, .. }
            if is_in_vault(store, client, &selection, outbox)? =>
        {
            Ok(0)
        }
        Request::Entries { selection, contents } => entries(store, client, &selection, contents, outbox),
        Request::Page { selection, page } => self::page(store, client, &selection, page, outbox),
        Request::Blocks(read) => blocks::stream(store, client, &read, outbox),
        Request::File { selection, offset, length } => file(store, client, &selection, offset, length, outbox),
        Request::Verify(selection) => verify(store, client, &selection, outbox),
        Request::Vault(reading) => vault::stream(store, &reading, vault, outbox),
    }
}

/// Whether only the client can read the snapshot that a selection means: it is told which one that is.
fn is_in_vault(store: &Store, client: ClientId, selection: &Selection, outbox: &mut Outbox) -> Result<bool, Ended> {
    let head = store.find_snapshot(client, &selection.snapshot, selection.root.as_ref())?;
    if head.vault.is_some() {
        outbox.send_to_client(&ToClient::Snapshot(snapshot_row(&head)))?;
    }
    Ok(head.vault.is_some())
}

/// A head as the client sees it.
pub fn snapshot_row(head: &Head) -> SnapshotRow {
    let mut tags = head.tags.clone();
    if head.unauthenticated {
        tags.push(UNAUTHENTICATED.to_string());
    }
    SnapshotRow {
        id: head.id,
        sequence: head.sequence,
        started: head.started,
        committed: head.committed,
        entries: head.totals.entries,
        files: head.totals.files,
        bytes: head.totals.bytes,
        new_bytes: head.totals.new_bytes,
        unreadable: head.totals.unreadable,
        host: head.host.clone(),
        label: head.label.clone(),
        tags,
        roots: head.roots.clone(),
        vault: head.vault.map(|place| place.vault),
    }
}

fn snapshots(store: &Store, client: ClientId, outbox: &mut Outbox) -> Result<u64, Ended> {
    let heads = store.snapshots(client)?;
    for head in &heads {
        outbox.send_to_client(&ToClient::Snapshot(snapshot_row(head)))?;
    }
    Ok(heads.len() as u64 + damaged_heads(store, client, outbox)?)
}

/// Names the snapshots whose heads cannot be read, and counts them.
fn damaged_heads(store: &Store, client: ClientId, outbox: &mut Outbox) -> Result<u64, Ended> {
    let damaged = store.damaged_heads(client)?;
    for head in &damaged {
        log::error!("damage: snapshot {}: {}", head.id, head.problem);
        let text = "its head cannot be read; the server's log says why".to_string();
        outbox.send_to_client(&ToClient::Damage { snapshot: head.id, path: None, text })?;
    }
    Ok(damaged.len() as u64)
}

/// Names a range of entries that cannot be read; the walk goes on behind it.
///
/// # Errors
/// The error itself where it is no damage.
fn damaged_range(
    entries: &Entries,
    snapshot: SnapshotId,
    error: StoreError,
    outbox: &mut Outbox,
) -> Result<(), Ended> {
    if !error.is_damage() {
        return Err(error.into());
    }
    log::error!("damage: snapshot {snapshot}: {error}");
    let (path, text) = match entries.damaged_range() {
        Some((first, last)) => {
            (Some(first.clone()), format!("the list from here to {} is damaged", last.display()))
        }
        None => (None, "a part of its list is damaged".to_string()),
    };
    Ok(outbox.send_to_client(&ToClient::Damage { snapshot, path, text })?)
}

fn entries(
    store: &Store,
    client: ClientId,
    selection: &Selection,
    contents: bool,
    outbox: &mut Outbox,
) -> Result<u64, Ended> {
    let head = store.find_snapshot(client, &selection.snapshot, selection.root.as_ref())?;
    outbox.send_to_client(&ToClient::Snapshot(snapshot_row(&head)))?;
    if head.vault.is_some() {
        return Ok(0);
    }
    let mut walk = Walk { store, entries: store.entries(&head, &selection.paths)?, head: &head, outbox, rows: 0 };
    while let Some(stored) = walk.next()? {
        walk.send(&stored, contents)?;
    }
    match walk.entries.unmatched() {
        [] => Ok(walk.rows),
        [path, ..] => Err(not_found(path.display(), &head).into()),
    }
}

/// Streams one page. What the selection names and the snapshot has not is told where the selection ends.
fn page(
    store: &Store,
    client: ClientId,
    selection: &Selection,
    page: Page,
    outbox: &mut Outbox,
) -> Result<u64, Ended> {
    let head = store.find_snapshot(client, &selection.snapshot, selection.root.as_ref())?;
    outbox.send_to_client(&ToClient::Snapshot(snapshot_row(&head)))?;
    if head.vault.is_some() {
        return Ok(0);
    }
    let mut entries = store.entries(&head, &selection.paths)?;
    if let Some(after) = &page.after {
        entries = entries.after(after.clone());
    }
    let mut walk = Walk { store, entries, head: &head, outbox, rows: 0 };
    for number in 0..page.entries {
        match walk.next()? {
            Some(stored) => walk.send(&stored, page.wants(number))?,
            None if page.wanted.is_none() => break,
            None => {
                walk.check_matched(page.after.as_ref())?;
                break;
            }
        }
    }
    Ok(walk.rows)
}

/// A snapshot's entries on their way to the client.
struct Walk<'a> {
    store: &'a Store,
    head: &'a Head,
    entries: Entries,
    outbox: &'a mut Outbox,
    /// Entries and damaged ranges so far.
    rows: u64,
}

impl Walk<'_> {
    /// The next entry; damaged ranges before it are told.
    fn next(&mut self) -> Result<Option<StoredEntry>, Ended> {
        while let Some(stored) = self.entries.next() {
            self.rows += 1;
            match stored {
                Ok(stored) => return Ok(Some(stored)),
                Err(error) => damaged_range(&self.entries, self.head.id, error, self.outbox)?,
            }
        }
        Ok(None)
    }

    fn send(&mut self, stored: &StoredEntry, with_content: bool) -> Result<(), Ended> {
        let mut encoded = Vec::new();
        stored.entry.encode(&mut encoded);
        let row = EntryRow { content: content_end(stored), entry: &encoded };
        self.outbox.send_to_client(&ToClient::Entry(row))?;
        match with_content && stored.content.is_some() {
            true => content(self.store, self.head.client, stored, self.outbox),
            false => Ok(()),
        }
    }

    /// At the end of a walk that began behind `after`: every path of the selection must be in the snapshot.
    fn check_matched(&self, after: Option<&EntryPath>) -> Result<(), Ended> {
        for path in self.entries.unmatched() {
            // What comes no later than the beginning has been walked past before, or is looked for now.
            let is_before = after.is_some_and(|after| path <= after);
            if !is_before || self.store.entries(self.head, slice::from_ref(path))?.next().is_none() {
                return Err(not_found(path.display(), self.head).into());
            }
        }
        Ok(())
    }
}

/// Size, sums and flags of an entry's content; flags alone for one that could not be read.
fn content_end(stored: &StoredEntry) -> Option<ContentEnd> {
    if !stored.entry.has_content() {
        return None;
    }
    let end = match &stored.content {
        Some(content) => ContentEnd {
            bytes: content.sums.size,
            crc32: content.sums.crc32,
            blake3: content.sums.blake3,
            flags: stored.flags,
        },
        None => ContentEnd { bytes: 0, crc32: 0, blake3: [0; 32], flags: stored.flags },
    };
    Some(end)
}

/// Streams one content and its end. A content that cannot be given is said so; the answer goes on.
fn content(store: &Store, client: ClientId, stored: &StoredEntry, outbox: &mut Outbox) -> Result<(), Ended> {
    match stream_whole(store, client, stored, outbox)? {
        Ok(()) => {
            let end = content_end(stored).expect("only entries with content come here");
            Ok(outbox.send_to_client(&ToClient::ContentEnd(end))?)
        }
        Err(error) => {
            log::error!("{error}");
            note_damage(store, client, stored, &error);
            let text = Failure::from(error).text;
            Ok(outbox.send_to_client(&ToClient::ContentFailed { text })?)
        }
    }
}

/// Sends a whole content, its holes as such.
fn stream_whole(
    store: &Store,
    client: ClientId,
    stored: &StoredEntry,
    outbox: &mut Outbox,
) -> Result<Result<(), StoreError>, Gone> {
    let mut reader = match store.open_content(client, stored) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error)),
    };
    let size = reader.sums().size;
    let mut chunk = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(CONTENT_CHUNK_BYTES)];
    // Nobody asks a small content for its holes: the question costs more than the bytes.
    match size < LARGE_FILE_BYTES {
        true => stream_bytes(stored, &mut reader, &mut chunk, outbox),
        false => stream_segments(stored, &mut reader, size, &mut chunk, outbox),
    }
}

/// Sends a content from where its reader is up to `end`, its holes as such.
pub fn stream_segments(
    stored: &StoredEntry,
    reader: &mut ContentReader,
    end: u64,
    chunk: &mut [u8],
    outbox: &mut Outbox,
) -> Result<Result<(), StoreError>, Gone> {
    while reader.position() < end {
        match reader.segment_before(end) {
            Ok(None) => return Ok(Ok(())),
            Ok(Some(Segment { bytes, is_hole: true })) => {
                let bytes = bytes.min(HOLE_BYTES_MAX);
                outbox.send_to_client(&ToClient::ContentHole { bytes })?;
                let behind = reader.position() + bytes;
                if let Err(error) = reader.seek_to(behind) {
                    return Ok(Err(unreadable(stored, error)));
                }
            }
            Ok(Some(Segment { bytes, is_hole: false })) => {
                let mut data = (&mut *reader).take(bytes);
                if let Err(error) = stream_bytes(stored, &mut data, chunk, outbox)? {
                    return Ok(Err(error));
                }
            }
            Err(error) => return Ok(Err(unreadable(stored, error))),
        }
    }
    Ok(Ok(()))
}

/// Sends up to `length` bytes of a content from `offset` on.
fn stream_content(
    store: &Store,
    client: ClientId,
    stored: &StoredEntry,
    offset: u64,
    length: u64,
    outbox: &mut Outbox,
) -> Result<Result<(), StoreError>, Gone> {
    let opened = store.open_content(client, stored).and_then(|mut reader| {
        if offset > 0 {
            reader.seek_to(offset).map_err(|error| unreadable(stored, error))?;
        }
        Ok(reader.take(length))
    });
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error)),
    };
    stream_bytes(stored, &mut reader, &mut vec![0; CONTENT_CHUNK_BYTES], outbox)
}

/// Sends all that a reader of the content gives.
fn stream_bytes(
    stored: &StoredEntry,
    reader: &mut impl Read,
    chunk: &mut [u8],
    outbox: &mut Outbox,
) -> Result<Result<(), StoreError>, Gone> {
    loop {
        match reader.read(chunk) {
            Ok(0) => return Ok(Ok(())),
            Ok(count) => outbox.send_to_client(&ToClient::ContentData(&chunk[..count]))?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(unreadable(stored, error))),
        }
    }
}

pub fn unreadable(stored: &StoredEntry, error: std::io::Error) -> StoreError {
    let path = std::path::PathBuf::from(stored.entry.path.display());
    StoreError::Damaged { path, problem: format!("its stored content cannot be read: {error}") }
}

fn file(
    store: &Store,
    client: ClientId,
    selection: &Selection,
    offset: u64,
    length: u64,
    outbox: &mut Outbox,
) -> Result<u64, Ended> {
    let (stored, _entries) = stored_file(store, client, selection)?;
    let mut encoded = Vec::new();
    stored.entry.encode(&mut encoded);
    outbox.send_to_client(&ToClient::Entry(EntryRow { content: content_end(&stored), entry: &encoded }))?;
    match stream_content(store, client, &stored, offset, length, outbox)? {
        Ok(()) => outbox.send_to_client(&ToClient::ContentEnd(content_end(&stored).expect("it has content")))?,
        Err(error) => {
            note_damage(store, client, &stored, &error);
            return Err(error.into());
        }
    }
    Ok(1)
}

/// A content that could not be read is looked at as a whole, so that the list of damaged contents says what it has.
fn note_damage(store: &Store, client: ClientId, stored: &StoredEntry, error: &StoreError) {
    if error.is_damage() {
        let _ = store.verify_content(client, stored);
        if let Err(error) = store.save_damage(client) {
            log::warn!("{error}");
        }
    }
}

/// The one file that a selection names, and the walk that found it: as long as that is there, the snapshot is too.
pub fn stored_file(
    store: &Store,
    client: ClientId,
    selection: &Selection,
) -> Result<(StoredEntry, Entries), Ended> {
    let head = store.find_snapshot(client, &selection.snapshot, selection.root.as_ref())?;
    let [path] = &selection.paths[..] else {
        return Err(Failure::out_of_place("exactly one path is read at a time").into());
    };
    let mut entries = store.entries(&head, std::slice::from_ref(path))?;
    let found = entries.next().transpose()?;
    let stored =
        found.filter(|stored| stored.entry.path == *path).ok_or_else(|| not_found(path.display(), &head))?;
    if stored.content.is_none() {
        let text = format!("{} has no content in snapshot {}: it is a {}", path.display(), head.id, what(&stored));
        return Err(Failure { code: FailureCode::NotFound, text }.into());
    }
    Ok((stored, entries))
}

fn what(stored: &StoredEntry) -> &'static str {
    if stored.entry.has_content() { "file that could not be read then" } else { stored.entry.kind.word() }
}

fn not_found(path: String, head: &Head) -> Failure {
    let text = format!("{path} is not in snapshot {}: \"cyberbackup ls\" shows what is", head.id);
    Failure { code: FailureCode::NotFound, text }
}

/// Reads contents back against their recorded sums. An empty selector means all of the client's snapshots,
/// where each content is read once, with the snapshot that brought it.
fn verify(store: &Store, client: ClientId, selection: &Selection, outbox: &mut Outbox) -> Result<u64, Ended> {
    let all = selection.snapshot.is_empty();
    let heads = match all {
        true => store.snapshots(client)?,
        false => vec![store.find_snapshot(client, &selection.snapshot, selection.root.as_ref())?],
    };
    let damaged = if all { damaged_heads(store, client, outbox)? } else { 0 };
    let mut verification = Verification {
        store,
        client,
        outbox,
        read_once: all.then(|| heads.iter().map(|head| head.id).collect()),
        unmatched: selection.paths.clone(),
        verified: Verified::default(),
        damaged,
        reported: Instant::now(),
        in_vaults: VaultRun::default(),
    };
    for head in &heads {
        verification.snapshot(head, selection)?;
    }
    let Verification { verified, damaged, unmatched, .. } = verification;
    match (unmatched.first(), heads.last()) {
        (Some(path), Some(head)) => Err(not_found(path.display(), head).into()),
        _ => {
            store.save_damage(client)?;
            outbox.send_to_client(&ToClient::Verified(verified))?;
            Ok(damaged)
        }
    }
}

struct Verification<'a> {
    store: &'a Store,
    client: ClientId,
    outbox: &'a mut Outbox,
    /// With all snapshots: those that are gone through, whose contents are read where they are gone through.
    read_once: Option<HashSet<SnapshotId>>,
    /// The paths that no snapshot had so far.
    unmatched: Vec<EntryPath>,
    verified: Verified,
    damaged: u64,
    reported: Instant,
    /// What was read of vaults.
    in_vaults: VaultRun,
}

/// Tells the client how a verification of what is sealed goes on.
struct SealedWatch<'a, 'b> {
    verification: &'a mut Verification<'b>,
    snapshot: SnapshotId,
    is_gone: bool,
}

impl VaultWatch for SealedWatch<'_, '_> {
    fn read(&mut self, objects: u64, bytes: u64) -> bool {
        self.verification.verified.sealed_objects += objects;
        self.verification.verified.bytes += bytes;
        self.is_gone = self.verification.report().is_err();
        !self.is_gone
    }

    fn damaged(&mut self, text: String) -> bool {
        self.verification.damaged += 1;
        log::error!("damage: snapshot {}: {text}", self.snapshot);
        let damage = ToClient::Damage { snapshot: self.snapshot, path: None, text };
        self.is_gone = self.verification.outbox.send_to_client(&damage).is_err();
        !self.is_gone
    }
}

impl Verification<'_> {
    fn snapshot(&mut self, head: &Head, selection: &Selection) -> Result<(), Ended> {
        let mut entries = match self.store.entries(head, &selection.paths) {
            Ok(entries) => entries,
            // Dropped since the list of snapshots was made: there is nothing to verify.
            Err(StoreError::Dropped { .. }) if self.read_once.is_some() => return Ok(()),
            Err(error) => return self.damaged_index(head, error),
        };
        if let Some(place) = head.vault {
            self.unmatched.clear();
            return self.in_vault(head, place);
        }
        while let Some(stored) = entries.next() {
            match stored {
                Ok(stored) if self.is_due(head, &stored) => self.content(head, &stored)?,
                Ok(_) => {}
                Err(error) => {
                    damaged_range(&entries, head.id, error, self.outbox)?;
                    self.damaged += 1;
                }
            }
            self.report()?;
        }
        let unmatched = entries.unmatched();
        self.unmatched.retain(|path| unmatched.contains(path));
        Ok(())
    }

    /// Whether this is the place where the content is read: in its own snapshot, unless that is not gone through.
    fn is_due(&self, head: &Head, stored: &StoredEntry) -> bool {
        let Some(content) = &stored.content else { return false };
        let owner = content.snapshot();
        self.read_once.as_ref().is_none_or(|heads| owner == head.id || !heads.contains(&owner))
    }

    fn content(&mut self, head: &Head, stored: &StoredEntry) -> Result<(), Ended> {
        self.verified.files += 1;
        self.verified.bytes += stored.content.as_ref().map_or(0, |content| content.sums.size);
        if let Err(damage) = self.store.verify_content(self.client, stored) {
            self.damaged += 1;
            log::error!("damage: snapshot {}: {damage}", head.id);
            let path = Some(stored.entry.path.clone());
            self.outbox.send_to_client(&ToClient::Damage {
                snapshot: head.id,
                path,
                text: damage.problem.to_string(),
            })?;
        }
        Ok(())
    }

    /// What the server can see of a snapshot that is sealed: that its chunks are what was stored.
    fn in_vault(&mut self, head: &Head, place: InVault) -> Result<(), Ended> {
        self.verified.sealed_snapshots += 1;
        let mut run = std::mem::take(&mut self.in_vaults);
        let mut watch = SealedWatch { verification: self, snapshot: head.id, is_gone: false };
        let verified = watch.verification.store.verify_in_vault(head.id, place, &mut run, &|_| true, &mut watch);
        let is_gone = watch.is_gone;
        self.in_vaults = run;
        verified?;
        if is_gone { Err(Ended::Gone) } else { Ok(()) }
    }

    /// The snapshot's index cannot be read: what it names is unknown, whether it has the paths too.
    fn damaged_index(&mut self, head: &Head, error: StoreError) -> Result<(), Ended> {
        if !error.is_damage() {
            return Err(error.into());
        }
        log::error!("damage: snapshot {}: {error}", head.id);
        self.damaged += 1;
        self.unmatched.clear();
        let text = "its list of files is damaged; the server's log says how".to_string();
        Ok(self.outbox.send_to_client(&ToClient::Damage { snapshot: head.id, path: None, text })?)
    }

    fn report(&mut self) -> Result<(), Gone> {
        if self.reported.elapsed() >= VERIFY_REPORT_INTERVAL {
            self.reported = Instant::now();
            self.outbox.send_to_client(&ToClient::Verified(self.verified))?;
            self.outbox.flush()?;
        }
        Ok(())
    }
}
