//! Questions to the server whose answers are streamed: listings, single files, verification, statistics.
//!
//! A handler runs on a thread of its own, so that a slow terminal or disk never looks like a dead client.

use std::fmt;

use super::connect::Session;
use super::error::ClientError;
use super::vault::chain::Holder;
use super::vault::{Compared, LATEST, Line, Place, VaultAccess, VaultReader, selection_of};
use crate::base::codec::Reader;
use crate::base::entry::Entry;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::vault::VaultId;
use crate::channel::{ChannelError, worker};
use crate::crypto::{ContentHasher, ContentSums};
use crate::protocol::message::{ContentEnd, EntryRow, FailureCode, Selection, SnapshotRow, ToClient, ToServer};

/// An entry of a snapshot with what is known of its content.
#[derive(Debug, Clone)]
pub struct Listed {
    pub entry: Entry,
    pub content: Option<ContentEnd>,
}

impl Listed {
    pub(super) fn decode(row: &EntryRow<'_>) -> Result<Listed, ChannelError> {
        let mut reader = Reader::new(row.entry);
        let entry = Entry::decode(&mut reader)?;
        reader.finish("entry row")?;
        Ok(Listed { entry, content: row.content })
    }
}

/// A content or list that is not what was stored.
#[derive(Debug, Clone)]
pub struct Damage {
    pub snapshot: SnapshotId,
    /// None where it is about the whole snapshot.
    pub path: Option<EntryPath>,
    pub text: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(formatter, "{}: {} (snapshot {})", path.display(), self.text, self.snapshot),
            None => write!(formatter, "snapshot {}: {}", self.snapshot, self.text),
        }
    }
}

/// What a listing had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListSummary {
    pub rows: u64,
    /// What could not be listed; each was told.
    pub damaged: u64,
}

impl ListSummary {
    /// Takes what every listing has beside its rows: damage, and the end.
    fn take_rest(
        &mut self,
        message: &ToClient<'_>,
        damage: &mut impl FnMut(&Damage),
    ) -> Result<Option<ListSummary>, ClientError> {
        match message {
            ToClient::Damage { snapshot, path, text } => {
                self.damaged += 1;
                damage(&Damage { snapshot: *snapshot, path: path.clone(), text: text.clone() });
                Ok(None)
            }
            ToClient::End { rows } => self.check(*rows).map(Some),
            _ => Err(unexpected()),
        }
    }

    /// Compares what came with what the server says that it sent.
    fn check(self, rows: u64) -> Result<ListSummary, ClientError> {
        check_rows(self.rows + self.damaged, rows).map(|()| self)
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifySummary {
    pub files: u64,
    pub bytes: u64,
    /// Snapshots in vaults of which the server compared checksums, and the sealed objects that it read.
    pub sealed_snapshots: u64,
    pub sealed_objects: u64,
    pub damaged: Vec<Damage>,
    /// Damages beyond the list's limit.
    pub more_damaged: u64,
    /// Snapshots that this host stored in a vault and the server says it dropped.
    pub snapshots_dropped: u64,
    /// Snapshots in vaults whose key is not here; each was told.
    pub not_looked_into: u64,
    /// What this host has stored in vaults cannot be read in its state folder; that was told.
    pub is_chain_unread: bool,
}

impl VerifySummary {
    /// Adds the damage that was found in another way.
    pub fn add_damage(&mut self, other: VerifySummary) {
        self.more_damaged += other.more_damaged;
        other.damaged.into_iter().for_each(|damage| self.add(damage));
    }

    pub(super) fn add(&mut self, damage: Damage) {
        match self.damaged.len() < DAMAGES_NAMED_MAX {
            true => self.damaged.push(damage),
            false => self.more_damaged += 1,
        }
    }
}

/// Selectors of which is remembered whose snapshots they mean.
const SELECTORS_KNOWN_MAX: usize = 8;
/// Most damages that are kept by name; all are counted and told as they come.
const DAMAGES_NAMED_MAX: usize = 10_000;

impl Session {
    /// Sends a request and gives each message of its answer to `handle`, on a worker's thread, until that
    /// says that it has ended. A failure told by the server ends it too.
    pub(super) fn stream<R: Send>(
        &mut self,
        request: &ToServer<'_>,
        handler: impl FnMut(&ToClient<'_>) -> Result<Option<R>, ClientError> + Send,
    ) -> Result<R, ClientError> {
        if let Some(access) = self.vault.as_ref().filter(|_| selection_of(request).is_some()) {
            access.chains();
        }
        let place = self.place_of(request)?;
        if let Place::Servers = place {
            self.send(request)?;
        }
        let (vault, holder, held) = (self.vault.clone(), self.holder(), self.held.clone());
        self.converse(|mut line| {
            let mut handler = handler;
            let reader = |line, key| VaultReader::new(line, key).holding(held);
            let access = |id| vault.as_deref().ok_or(ClientError::NoVaultKey { vault: id });
            match place {
                Place::Servers => {}
                Place::Sealed(id) => {
                    let access = access(None)?;
                    let reader = reader(line, access.full_key(None)?);
                    return take_sealed(access, &holder, reader, request, Some(id), &mut handler);
                }
                Place::Anothers => match access(None).and_then(|access| Ok((access, access.full_key(None)?))) {
                    Ok((access, key)) => {
                        let reader = reader(line, key);
                        return take_sealed(access, &holder, reader, request, None, &mut handler);
                    }
                    Err(error @ ClientError::VaultKey { .. }) => return Err(error),
                    // Nobody is to hear of a missing passphrase instead of a mistyped id: the server says it.
                    Err(_) => line.send(request)?,
                },
            }
            let check = |row: &SnapshotRow, selection: &Selection| {
                is_meant(row.id, selection)?;
                match &vault {
                    Some(access) => access.check_plain(row.id, &selection.snapshot, &holder),
                    None => Ok(()),
                }
            };
            match take_all(&mut line, request, &check, &mut handler)? {
                Answer::Whole(result) => Ok(result),
                Answer::Sealed(id, snapshot) => {
                    let access = access(Some(id))?;
                    let reader = reader(line, access.full_key(Some(id))?);
                    take_sealed(access, &holder, reader, request, Some(snapshot), &mut handler)
                }
            }
        })
    }

    /// What the server's list of a vault lacks of what this host stored there, as far as one was opened.
    pub fn compared_with_chain(&self) -> Compared {
        self.vault.as_deref().map(VaultAccess::compared).unwrap_or_default()
    }

    /// Lets `work` talk to the server, on a worker's thread.
    pub(super) fn converse<R: Send>(
        &mut self,
        work: impl FnOnce(Line<'_>) -> Result<R, ClientError> + Send,
    ) -> Result<R, ClientError> {
        let conversation = worker::converse(&mut self.channel, |intake, outbox| work(Line::new(intake, outbox)));
        match conversation {
            // Whatever the worker was told is the better reason; a lost line is one only if nothing was told.
            Ok(worker::Conversation { result: Err(ClientError::Channel { .. }), channel: Err(error) }) => {
                Err(self.error(error))
            }
            Ok(conversation) => conversation.result,
            Err(error) => Err(self.error(error)),
        }
    }

    /// Where the snapshot is that a request is about: where this client may have the key of a vault, that may be one that
    /// another host has stored.
    fn place_of(&mut self, request: &ToServer<'_>) -> Result<Place, ClientError> {
        let Some(selection) = selection_of(request) else { return Ok(Place::Servers) };
        if let Some(root) = selection.root.as_ref().filter(|_| selection.snapshot == LATEST) {
            return self.newest_of_root(root);
        }
        Ok(if !self.may_have_vault_key() || self.is_own(&selection.snapshot)? {
            Place::Servers
        } else {
            Place::Anothers
        })
    }

    /// Whether a selector means one of this client's own snapshots; `latest` does where there is any.
    pub fn is_own(&mut self, selector: &str) -> Result<bool, ClientError> {
        let known = self.looked_for.iter().find(|(known, _)| *known == selector).map(|(_, is_own)| *is_own);
        if let Some(is_own) = known {
            return Ok(is_own);
        }
        let mut meant = None;
        let row = |row: &SnapshotRow| {
            if matches_selector(row.id, selector) {
                meant = Some((row.id, row.vault));
            }
            Ok(())
        };
        self.snapshots(row, |_| {})?;
        let is_own = meant.is_some();
        // Not every answer about a plain snapshot says which one it is.
        if let (Some((id, None)), Some(access)) = (meant, &self.vault) {
            access.check_plain(id, selector, &self.holder())?;
        }
        self.remember_selector(selector.to_string(), is_own);
        Ok(is_own)
    }

    /// The selection as it is verified, and whether a plain snapshot is meant: the newest of a root is named by its id where
    /// it is this client's in its vault.
    ///
    /// # Errors
    /// Those of the key, without which nobody knows which roots a sealed snapshot has.
    pub fn verified_as(&mut self, selection: Selection) -> Result<(Selection, bool), ClientError> {
        let Some(root) = selection.root.clone().filter(|_| selection.snapshot == LATEST) else {
            return Ok((selection, false));
        };
        Ok(match self.newest_of_root(&root)? {
            Place::Sealed(id) => (Selection { snapshot: id.to_string(), root: None, ..selection }, false),
            Place::Servers => (selection, true),
            Place::Anothers => (selection, false),
        })
    }

    /// Remembers whether a selector means one of this client's own snapshots.
    fn remember_selector(&mut self, selector: String, is_own: bool) {
        if self.looked_for.len() == SELECTORS_KNOWN_MAX {
            self.looked_for.remove(0);
        }
        self.looked_for.push((selector, is_own));
    }

    /// The entries of a snapshot of which it is known whether it is one of this client's own.
    pub fn entries_of(
        &mut self,
        (snapshot, is_own): (SnapshotId, bool),
        row: impl FnMut(&Listed) -> Result<(), ClientError> + Send,
        damage: impl FnMut(&Damage) + Send,
    ) -> Result<ListSummary, ClientError> {
        self.remember_selector(snapshot.to_string(), is_own);
        let selection = Selection { snapshot: snapshot.to_string(), root: None, paths: Vec::new() };
        self.entries(selection, |_| Ok(()), row, damage)
    }

    /// The snapshots by sequence; those that cannot be read are given to `damage`.
    pub fn snapshots(
        &mut self,
        mut row: impl FnMut(&SnapshotRow) -> Result<(), ClientError> + Send,
        mut damage: impl FnMut(&Damage) + Send,
    ) -> Result<ListSummary, ClientError> {
        let mut summary = ListSummary::default();
        self.stream(&ToServer::ListSnapshots, move |message| match message {
            ToClient::Snapshot(snapshot) => {
                summary.rows += 1;
                row(snapshot).map(|()| None)
            }
            other => summary.take_rest(other, &mut damage),
        })
    }

    /// The entries of a snapshot, in path order; what cannot be listed is given to `damage`.
    pub fn entries(
        &mut self,
        selection: Selection,
        mut snapshot: impl FnMut(&SnapshotRow) -> Result<(), ClientError> + Send,
        mut row: impl FnMut(&Listed) -> Result<(), ClientError> + Send,
        mut damage: impl FnMut(&Damage) + Send,
    ) -> Result<ListSummary, ClientError> {
        let mut summary = ListSummary::default();
        self.stream(&ToServer::ListEntries(selection), move |message| match message {
            ToClient::Snapshot(head) => snapshot(head).map(|()| None),
            ToClient::Entry(entry) => {
                summary.rows += 1;
                row(&Listed::decode(entry).map_err(malformed)?).map(|()| None)
            }
            other => summary.take_rest(other, &mut damage),
        })
    }

    /// The content of one file, checked against its sums at the end when it was read whole.
    pub fn read_file(
        &mut self,
        selection: Selection,
        (offset, length): (u64, u64),
        mut bytes: impl FnMut(&[u8]) -> Result<(), ClientError> + Send,
    ) -> Result<(), ClientError> {
        let whole = offset == 0 && length == u64::MAX;
        let path = selection.paths.first().map(EntryPath::display).unwrap_or_default();
        let mut hasher = ContentHasher::new();
        let mut ended = 0;
        self.stream(&ToServer::ReadFile { selection, offset, length }, move |message| match message {
            ToClient::Entry(_) => Ok(None),
            ToClient::ContentData(chunk) => {
                if whole {
                    hasher.update(chunk);
                }
                bytes(chunk).map(|()| None)
            }
            ToClient::ContentEnd(end) => {
                ended += 1;
                let found = std::mem::take(&mut hasher).finish();
                let damaged = whole && found != sums(end);
                if damaged { Err(damaged_content(&path)) } else { Ok(None) }
            }
            ToClient::ContentFailed { text } => Err(ClientError::Integrity(format!("{path}: {text}"))),
            ToClient::End { rows } => check_rows(ended, *rows).map(Some),
            _ => Err(unexpected()),
        })
    }

    /// Has the server read contents back against their sums. `progress` is told files and bytes.
    pub fn verify(
        &mut self,
        selection: Selection,
        mut progress: impl FnMut(u64, u64) + Send,
        mut damage: impl FnMut(&Damage) + Send,
    ) -> Result<VerifySummary, ClientError> {
        let mut summary = VerifySummary::default();
        self.stream(&ToServer::Verify(selection), move |message| match message {
            ToClient::Verified(verified) => {
                (summary.files, summary.bytes) = (verified.files, verified.bytes);
                (summary.sealed_snapshots, summary.sealed_objects) =
                    (verified.sealed_snapshots, verified.sealed_objects);
                progress(verified.files, verified.bytes);
                Ok(None)
            }
            ToClient::Damage { snapshot, path, text } => {
                let found = Damage { snapshot: *snapshot, path: path.clone(), text: text.clone() };
                damage(&found);
                summary.add(found);
                Ok(None)
            }
            ToClient::End { rows } => {
                check_rows(summary.damaged.len() as u64 + summary.more_damaged, *rows)?;
                Ok(Some(std::mem::take(&mut summary)))
            }
            _ => Err(unexpected()),
        })
    }

    /// The server's statistics as JSON.
    pub fn statistics(&mut self) -> Result<String, ClientError> {
        self.stream(&ToServer::Statistics, |message| match message {
            ToClient::Statistics(json) => Ok(Some(json.clone())),
            _ => Err(unexpected()),
        })
    }
}

/// What a request led to.
enum Answer<R> {
    Whole(R),
    /// The snapshot is a vault's: the answer is to be made here.
    Sealed(VaultId, SnapshotId),
}

/// Gives message after message to `handler` until it gives a result. `check` looks at the plain snapshot that is selected.
fn take_all<R>(
    line: &mut Line<'_>,
    request: &ToServer<'_>,
    check: &dyn Fn(&SnapshotRow, &Selection) -> Result<(), ClientError>,
    handler: &mut impl FnMut(&ToClient<'_>) -> Result<Option<R>, ClientError>,
) -> Result<Answer<R>, ClientError> {
    let mut sealed = None;
    loop {
        match (line.receive()?, sealed) {
            (ToClient::Busy { seconds }, _) => return Err(channel_error(ChannelError::Busy { seconds })),
            (ToClient::Snapshot(SnapshotRow { vault: Some(vault), id, .. }), None)
                if selection_of(request).is_some() =>
            {
                sealed = Some((vault, id));
            }
            (ToClient::End { .. }, Some((vault, id))) => return Ok(Answer::Sealed(vault, id)),
            (_, Some(_)) => return Err(unexpected()),
            (message, None) => {
                if let (ToClient::Snapshot(row), Some(selection)) = (&message, selection_of(request)) {
                    check(row, selection)?;
                }
                if let Some(result) = handler(&message)? {
                    return Ok(Answer::Whole(result));
                }
            }
        }
    }
}

/// Whether a selector may mean the snapshot: `latest` may mean any.
pub(super) fn matches_selector(id: SnapshotId, selector: &str) -> bool {
    selector == LATEST || id.as_str().starts_with(selector)
}

/// Sees that a snapshot is one that was asked for.
fn is_meant(id: SnapshotId, selection: &Selection) -> Result<(), ClientError> {
    match matches_selector(id, &selection.snapshot) {
        true => Ok(()),
        false => Err(ClientError::Integrity(format!(
            "the server gives snapshot {id}, where {} was asked for",
            selection.snapshot
        ))),
    }
}

/// Makes the answer from what is in the vault, once what the server lists of it was compared with what this host stored.
fn take_sealed<R>(
    access: &VaultAccess,
    holder: &Holder,
    mut reader: VaultReader<'_>,
    request: &ToServer<'_>,
    id: Option<SnapshotId>,
    handler: &mut impl FnMut(&ToClient<'_>) -> Result<Option<R>, ClientError>,
) -> Result<R, ClientError> {
    let selection = selection_of(request).ok_or_else(unexpected)?;
    let vault = reader.vault();
    let explain = |error| match (access.explain(error, &selection.snapshot), id) {
        // By its own list the server has the vault, and the key file says that it is this vault's.
        (ClientError::Failure { code: FailureCode::NotFound, text }, Some(id)) => {
            ClientError::Integrity(format!("snapshot {id} is in the vault {vault}, whose key this is: {text}"))
        }
        (error, _) => error,
    };
    access.compare_once(&mut reader, holder).map_err(explain)?;
    let opened = match id {
        Some(id) => Some(reader.open_by_id(id).map_err(explain)?),
        None => reader.open(selection)?,
    };
    let opened = opened.ok_or_else(|| explain(reader.nothing_meant(selection)))?;
    is_meant(opened.row.id, selection)?;
    if selection.snapshot == LATEST && selection.root.is_none() {
        access.note_latest(opened.row.id, opened.head.writer);
    }
    let mut result = None;
    reader.answer(&opened, request, &mut |message| {
        result = result.take().or(handler(message)?);
        Ok(())
    })?;
    result.ok_or_else(unexpected)
}

/// Compares the rows that came with the count at the answer's end.
pub(super) fn check_rows(came: u64, sent: u64) -> Result<(), ClientError> {
    match came == sent {
        true => Ok(()),
        false => Err(ClientError::Integrity(format!(
            "the answer is incomplete: {came} rows came, and the server says that it sent {sent}; run this again"
        ))),
    }
}

pub(super) fn sums(end: &ContentEnd) -> ContentSums {
    ContentSums { size: end.bytes, crc32: end.crc32, blake3: end.blake3 }
}

pub(super) fn damaged_content(path: &str) -> ClientError {
    let text = format!("{path}: what arrived does not match its recorded checksums; run \"cyberbackup verify\"");
    ClientError::Integrity(text)
}

pub(super) fn unexpected() -> ClientError {
    channel_error(ChannelError::Violation("that answer belongs to another question"))
}

pub(super) fn malformed(error: ChannelError) -> ClientError {
    channel_error(error)
}

pub(super) fn lost() -> ClientError {
    channel_error(ChannelError::Lost)
}

/// Without an address: [`Session::stream`] puts in its own.
fn channel_error(source: ChannelError) -> ClientError {
    ClientError::Channel { address: String::new(), source }
}
