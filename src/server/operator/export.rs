//! `export`: a snapshot of any client, streamed to whoever lays it out. The same messages as a restore's, in
//! frames of a u32 length (little-endian) and so many bytes, until "end" or "failure".
//!
//! Beside a live server the server itself reads, and only hands the bytes over: so the data folder has one process
//! as always, the client counts as served and is not removed meanwhile, and what lies at rest sealed would be
//! opened by who has the key. The command writes what it gets with its own user's rights.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clients::find;
use super::{Desk, OperatorError, SOCKET_NAME, SOCKET_TIMEOUT, desk_of, with_socket_path};
use crate::base::ids::UserName;
use crate::base::limits::{CONTENT_CHUNK_BYTES, HOLE_BYTES_MAX, LARGE_FILE_BYTES};
use crate::base::zeros::resize_zeroed;
use crate::protocol::message::{ContentEnd, EntryRow, FailureCode, ToClient};
use crate::server::answers::snapshot_row;
use crate::storage::{ClientRecord, ContentReader, Head, Segment, StorageKeys, StoreError, StoredEntry};

/// Largest frame that is taken: a batch and the message that filled it.
const FRAME_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// How much is gathered to a frame.
const BATCH_BYTES: usize = CONTENT_CHUNK_BYTES;
/// How long the command may take nothing: it may write to a tape that is being changed.
const STALL_MAX: Duration = Duration::from_secs(600);
/// How often a stalled export looks whether the server ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Which snapshot is wanted, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportRequest {
    /// None where the snapshot's id alone says whose it is.
    pub client: Option<UserName>,
    /// An id, a unique beginning of one, or `latest`.
    pub snapshot: String,
    /// Each content is read and checked before any of it is sent: for a target that can take nothing back.
    pub checked_first: bool,
}

/// The line on the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExportLine {
    pub export: ExportRequest,
}

/// Takes a batch of messages; false when no more is wanted.
pub type Taker<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// Streams a snapshot, read here or by the server that holds the folder, until "end" or "failure" or until the taker
/// has enough.
pub fn export(
    data: &Path,
    keys: StorageKeys,
    request: &ExportRequest,
    taker: Taker<'_>,
) -> Result<(), OperatorError> {
    match desk_of(data, keys) {
        Ok(desk) => {
            desk.store.unlocked()?;
            let mut taker = |batch: &[u8]| match taker(batch) {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            };
            // Its only error is that the taker has enough.
            let _ = stream(&desk, request, &mut taker);
            Ok(())
        }
        Err(OperatorError::Store(StoreError::Locked { .. })) => fetch(data, request, taker)
            .map_err(|source| OperatorError::Unreachable { folder: data.to_path_buf(), source }),
        Err(error) => Err(error),
    }
}

fn fetch(data: &Path, request: &ExportRequest, taker: Taker<'_>) -> io::Result<()> {
    let mut stream = with_socket_path(data, SOCKET_NAME, |path| UnixStream::connect(path))?;
    stream.set_read_timeout(Some(STALL_MAX))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    serde_json::to_writer(&stream, &ExportLine { export: request.clone() })?;
    stream.write_all(b"\n")?;
    let mut frame = Vec::new();
    loop {
        let mut length = [0; 4];
        match stream.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let length = u32::from_le_bytes(length);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other("it is of another version and does not know \"export\""));
        }
        resize_zeroed(&mut frame, length as usize);
        stream.read_exact(&mut frame)?;
        if !taker(&frame) {
            return Ok(());
        }
    }
}

/// Answers the line on the socket.
pub(super) fn serve(desk: &Desk, request: &ExportRequest, mut socket: UnixStream) -> io::Result<()> {
    socket.set_write_timeout(Some(LOOK_INTERVAL))?;
    stream(desk, request, &mut |batch| {
        write_patiently(desk, &mut socket, &(batch.len() as u32).to_le_bytes())?;
        write_patiently(desk, &mut socket, batch)
    })
}

/// Writes all of it, however slow the reader is, unless the server is to end.
fn write_patiently(desk: &Desk, socket: &mut UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    let mut moved = Instant::now();
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => {
                bytes = &bytes[count..];
                moved = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if desk.shutdown.is_requested() || moved.elapsed() > STALL_MAX {
                    return Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Streams all of it, a failure included.
fn stream(desk: &Desk, request: &ExportRequest, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut exporter = Exporter { desk, out, batch: Vec::new(), rows: 0 };
    let last = match exporter.run(request) {
        Ok(()) => ToClient::End { rows: exporter.rows },
        Err(Stopped::Store(error)) => ToClient::Failure { code: failure_code(&error), text: error.to_string() },
        Err(Stopped::Taker(error)) => return Err(error),
    };
    exporter.tell(&last).map_err(Stopped::into_io)?;
    exporter.flush().map_err(Stopped::into_io)
}

fn failure_code(error: &StoreError) -> FailureCode {
    match error {
        StoreError::NotFound { .. } | StoreError::Ambiguous { .. } => FailureCode::NotFound,
        error if error.is_damage() => FailureCode::Damaged,
        _ => FailureCode::Internal,
    }
}

/// Why an export ends before its end.
enum Stopped {
    Store(StoreError),
    /// Nobody takes what comes.
    Taker(io::Error),
}

impl Stopped {
    fn into_io(self) -> io::Error {
        match self {
            Stopped::Store(error) => io::Error::other(error.to_string()),
            Stopped::Taker(error) => error,
        }
    }
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Stopped {
        Stopped::Store(error)
    }
}

struct Exporter<'a> {
    desk: &'a Desk,
    out: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    batch: Vec<u8>,
    rows: u64,
}

impl Exporter<'_> {
    fn tell(&mut self, message: &ToClient<'_>) -> Result<(), Stopped> {
        message.encode(&mut self.batch);
        if self.batch.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let batch = std::mem::take(&mut self.batch);
        (self.out)(&batch).map_err(Stopped::Taker)
    }

    fn run(&mut self, request: &ExportRequest) -> Result<(), Stopped> {
        let store = &self.desk.store;
        let client = whose(self.desk, request)?;
        let _visit = self.desk.sessions.enter(client.id, None);
        let head = store.find_snapshot(client.id, &request.snapshot, None)?;
        if let Some(place) = head.vault {
            let what = format!(
                "snapshot {} lies sealed in vault {}, which the server cannot read: \"cyberbackup restore\" with the \
                 vault's key does, on a client",
                head.id, place.vault
            );
            return Err(StoreError::NotFound { what }.into());
        }
        log::info!("operator: exporting snapshot {} of {}", head.id, client.name);
        self.tell(&ToClient::Snapshot(snapshot_row(&head)))?;
        let mut entries = store.entries(&head, &[])?;
        while let Some(stored) = entries.next() {
            self.rows += 1;
            match stored {
                Ok(stored) => self.entry(&head, &stored, request.checked_first)?,
                Err(error) if error.is_damage() => {
                    let path = entries.damaged_range().map(|(first, _)| first.clone());
                    let text = format!("a part of the snapshot's list is damaged: {error}");
                    self.tell(&ToClient::Damage { snapshot: head.id, path, text })?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, head: &Head, stored: &StoredEntry, checked_first: bool) -> Result<(), Stopped> {
        let mut encoded = Vec::new();
        stored.entry.encode(&mut encoded);
        let content = content_end(stored);
        self.tell(&ToClient::Entry(EntryRow { content, entry: &encoded }))?;
        let (Some(end), true) = (content, stored.content.is_some()) else { return Ok(()) };
        if checked_first && let Err(damage) = self.desk.store.verify_content(head.client, stored) {
            return self.tell(&ToClient::ContentFailed { text: damage.problem.to_string() });
        }
        let opened = self.desk.store.open_content(head.client, stored);
        let streamed = match opened {
            Ok(reader) => self.content(reader)?,
            Err(error) => Err(error.to_string()),
        };
        match streamed {
            Ok(()) => self.tell(&ToClient::ContentEnd(end)),
            Err(text) => self.tell(&ToClient::ContentFailed { text }),
        }
    }

    /// Sends a content, its holes as such; a problem with it is given back as text.
    fn content(&mut self, mut reader: ContentReader) -> Result<Result<(), String>, Stopped> {
        let mut chunk = vec![0; CONTENT_CHUNK_BYTES];
        // Nobody asks a small content for its holes: the question costs more than the bytes.
        let seeks_holes = reader.sums().size >= LARGE_FILE_BYTES;
        loop {
            let left = reader.sums().size - reader.position();
            let segment = match seeks_holes {
                true => reader.segment_at_position(),
                false => Ok((left > 0).then_some(Segment { bytes: left, is_hole: false })),
            };
            match segment {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Segment { bytes, is_hole: true })) => {
                    let bytes = bytes.min(HOLE_BYTES_MAX);
                    self.tell(&ToClient::ContentHole { bytes })?;
                    let end = reader.position() + bytes;
                    if let Err(error) = reader.seek_to(end) {
                        return Ok(Err(error.to_string()));
                    }
                }
                Ok(Some(Segment { bytes, is_hole: false })) => {
                    let wanted = chunk.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
                    match reader.read(&mut chunk[..wanted]) {
                        Ok(count) => self.tell(&ToClient::ContentData(&chunk[..count]))?,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Ok(Err(format!("its content cannot be read: {error}"))),
                    }
                }
                Err(error) => return Ok(Err(format!("its content cannot be read: {error}"))),
            }
        }
    }
}

/// Size, sums and flags of an entry's content; flags alone for one that could not be read.
fn content_end(stored: &StoredEntry) -> Option<ContentEnd> {
    let sums = stored.content.as_ref().map(|content| content.sums);
    stored.entry.has_content().then(|| ContentEnd {
        bytes: sums.map_or(0, |sums| sums.size),
        crc32: sums.map_or(0, |sums| sums.crc32),
        blake3: sums.map_or([0; 32], |sums| sums.blake3),
        flags: stored.flags,
    })
}

/// The client that the request means. Snapshot ids are each client's own, but hardly two begin alike.
fn whose(desk: &Desk, request: &ExportRequest) -> Result<std::sync::Arc<ClientRecord>, StoreError> {
    if let Some(name) = &request.client {
        return find(&desk.store, name);
    }
    let selector = request.snapshot.as_str();
    let mut found = match selector {
        "latest" => desk.store.clients(),
        selector => desk.store.clients_with_snapshot(selector)?,
    };
    match (found.pop(), found.len()) {
        (Some(client), 0) => Ok(client),
        (Some(_), _) => Err(StoreError::NotFound {
            what: format!("\"{}\" fits several clients: name one with --client", selector.escape_debug()),
        }),
        (None, _) => Err(StoreError::NotFound {
            what: format!("no client has a snapshot that begins with \"{}\"", selector.escape_debug()),
        }),
    }
}
