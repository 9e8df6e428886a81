//! Questions to the server whose answers are streamed: listings, single files, verification, statistics.
//!
//! A handler runs on a thread of its own, so that a slow terminal or disk never looks like a dead client.

use super::connect::Session;
use super::error::ClientError;
use crate::base::codec::Reader;
use crate::base::entry::Entry;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::channel::{ChannelError, worker};
use crate::crypto::{ContentHasher, ContentSums};
use crate::protocol::message::{ContentEnd, EntryRow, Selection, SnapshotRow, ToClient, ToServer};

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
    pub path: EntryPath,
    pub text: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifySummary {
    pub files: u64,
    pub bytes: u64,
    pub damaged: Vec<Damage>,
    /// Damages beyond the list's limit.
    pub more_damaged: u64,
}

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
        self.send(request)?;
        let result = worker::listen(&mut self.channel, |intake| take_all(intake, handler));
        match result {
            Ok(result) => result,
            Err(error) => Err(self.error(error)),
        }
    }

    pub fn snapshots(
        &mut self,
        mut row: impl FnMut(&SnapshotRow) -> Result<(), ClientError> + Send,
    ) -> Result<u64, ClientError> {
        self.stream(&ToServer::ListSnapshots, move |message| match message {
            ToClient::Snapshot(snapshot) => row(snapshot).map(|()| None),
            ToClient::End { rows } => Ok(Some(*rows)),
            _ => Err(unexpected()),
        })
    }

    /// The entries of a snapshot, in path order.
    pub fn entries(
        &mut self,
        selection: Selection,
        mut snapshot: impl FnMut(&SnapshotRow) -> Result<(), ClientError> + Send,
        mut row: impl FnMut(&Listed) -> Result<(), ClientError> + Send,
    ) -> Result<u64, ClientError> {
        self.stream(&ToServer::ListEntries(selection), move |message| match message {
            ToClient::Snapshot(head) => snapshot(head).map(|()| None),
            ToClient::Entry(entry) => row(&Listed::decode(entry).map_err(malformed)?).map(|()| None),
            ToClient::End { rows } => Ok(Some(*rows)),
            _ => Err(unexpected()),
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
        self.stream(&ToServer::ReadFile { selection, offset, length }, move |message| match message {
            ToClient::Entry(_) => Ok(None),
            ToClient::ContentData(chunk) => {
                if whole {
                    hasher.update(chunk);
                }
                bytes(chunk).map(|()| None)
            }
            ToClient::ContentEnd(end) => {
                let found = std::mem::take(&mut hasher).finish();
                let damaged = whole && found != sums(end);
                if damaged { Err(damaged_content(&path)) } else { Ok(None) }
            }
            ToClient::ContentFailed { text } => Err(ClientError::Integrity(format!("{path}: {text}"))),
            ToClient::End { .. } => Ok(Some(())),
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
            ToClient::Verified { files, bytes } => {
                (summary.files, summary.bytes) = (*files, *bytes);
                progress(*files, *bytes);
                Ok(None)
            }
            ToClient::Damage { snapshot, path, text } => {
                let found = Damage { snapshot: *snapshot, path: path.clone(), text: text.clone() };
                damage(&found);
                match summary.damaged.len() < DAMAGES_NAMED_MAX {
                    true => summary.damaged.push(found),
                    false => summary.more_damaged += 1,
                }
                Ok(None)
            }
            ToClient::End { .. } => Ok(Some(std::mem::take(&mut summary))),
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

/// Decodes batch after batch for `handler` until it gives a result.
fn take_all<R>(
    intake: &worker::Intake,
    mut handler: impl FnMut(&ToClient<'_>) -> Result<Option<R>, ClientError>,
) -> Result<R, ClientError> {
    while let Some(batch) = intake.next() {
        for (kind, body) in worker::messages(&batch) {
            match ToClient::decode(kind, body).map_err(|error| malformed(error.into()))? {
                ToClient::Failure { code, text } => return Err(ClientError::Failure { code, text }),
                ToClient::Busy { seconds } => return Err(channel_error(ChannelError::Busy { seconds })),
                message => {
                    if let Some(result) = handler(&message)? {
                        return Ok(result);
                    }
                }
            }
        }
        intake.done(batch);
    }
    Err(channel_error(ChannelError::Lost))
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

fn channel_error(source: ChannelError) -> ClientError {
    ClientError::Channel { address: "the server".to_string(), source }
}
