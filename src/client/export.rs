//! What the server's folder gives of a snapshot, laid out as a tree or written as a tar stream: the operator's way to
//! the data, without a client's key.
//!
//! Every content is compared with its recorded sums. In a tree a file takes its name only when they are right. A tar
//! stream can take nothing back, so whoever reads the store checks each content before it sends any of it, and a
//! damaged one is left out; one that is damaged all the same ends the stream without its end mark.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::ClientError;
use super::pax::PaxWriter;
use super::query::{Listed, check_rows, malformed, sums, unexpected};
use super::target::{RestoreTarget, TargetError};
use crate::base::entry::{Entry, EntryKind};
use crate::base::path::EntryPath;
use crate::base::progress::{Event, ProgressSink};
use crate::base::shutdown::Shutdown;
use crate::channel::worker::messages;
use crate::crypto::ContentHasher;
use crate::protocol::message::{ContentEnd, SnapshotRow, ToClient, content_flag};

/// Zeros are written so many at a time.
static ZEROS: [u8; 4 * 1024] = [0; 4 * 1024];

/// How an export went.
#[derive(Debug, Clone)]
pub struct ExportSummary {
    pub snapshot: SnapshotRow,
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    pub bytes: u64,
    /// Entries, or properties of entries, that could not be laid out; each was told.
    pub errors: u64,
    /// Contents and parts of the list that are damaged; among the errors.
    pub damaged: u64,
    pub elapsed: Duration,
}

/// Where a snapshot goes.
enum Place<'a> {
    Tree(Box<RestoreTarget>),
    Tar(Box<Tar<'a>>),
}

struct Tar<'a> {
    writer: PaxWriter<Box<dyn Write + 'a>>,
    /// Of the content that is being written; none before its first byte.
    summer: Option<ContentHasher>,
}

/// An export under way.
pub struct Exporting<'a> {
    place: Place<'a>,
    sink: &'a dyn ProgressSink,
    shutdown: &'a Shutdown,
    snapshot: Option<SnapshotRow>,
    /// The file whose content comes; `healthy` while nothing went wrong with it.
    current: Option<Listed>,
    healthy: bool,
    files: u64,
    folders: u64,
    links: u64,
    bytes: u64,
    rows: u64,
    errors: u64,
    damaged: u64,
    began: Instant,
}

impl<'a> Exporting<'a> {
    /// Lays a snapshot out below `to`. Problems with single paths are told to `sink` and counted.
    pub fn to_tree(
        to: &Path,
        sink: &'a dyn ProgressSink,
        shutdown: &'a Shutdown,
    ) -> Result<Exporting<'a>, ClientError> {
        Ok(Exporting::new(Place::Tree(Box::new(RestoreTarget::create(to)?)), sink, shutdown))
    }

    /// Writes a snapshot as a tar stream to `out`.
    pub fn to_tar(out: impl Write + 'a, sink: &'a dyn ProgressSink, shutdown: &'a Shutdown) -> Exporting<'a> {
        let writer = PaxWriter::new(Box::new(out) as Box<dyn Write + 'a>);
        Exporting::new(Place::Tar(Box::new(Tar { writer, summer: None })), sink, shutdown)
    }

    fn new(place: Place<'a>, sink: &'a dyn ProgressSink, shutdown: &'a Shutdown) -> Exporting<'a> {
        Exporting {
            place,
            sink,
            shutdown,
            snapshot: None,
            current: None,
            healthy: false,
            files: 0,
            folders: 0,
            links: 0,
            bytes: 0,
            rows: 0,
            errors: 0,
            damaged: 0,
            began: Instant::now(),
        }
    }

    /// Takes a batch of messages; gives the summary once the end was among them.
    pub fn take(mut self: Box<Self>, batch: &[u8]) -> Result<Taken<'a>, ClientError> {
        if self.shutdown.is_requested() {
            return Err(ClientError::Interrupted);
        }
        for (kind, body) in messages(batch) {
            let message = ToClient::decode(kind, body).map_err(|error| malformed(error.into()))?;
            if let ToClient::End { rows } = message {
                return self.finish(rows).map(|summary| Taken::All(Box::new(summary)));
            }
            self.message(&message)?;
        }
        Ok(Taken::More(self))
    }

    fn message(&mut self, message: &ToClient<'_>) -> Result<(), ClientError> {
        match message {
            ToClient::Snapshot(row) => self.snapshot = Some(row.clone()),
            ToClient::Entry(row) => self.entry(Listed::decode(row).map_err(malformed)?)?,
            ToClient::ContentData(bytes) => self.data(bytes.len() as u64, Some(bytes))?,
            ToClient::ContentHole { bytes } => self.data(*bytes, None)?,
            ToClient::ContentEnd(end) => self.end(end)?,
            ToClient::ContentFailed { text } => self.failed(text)?,
            ToClient::Damage { path, text, .. } => {
                self.rows += 1;
                self.damaged += 1;
                self.tell_error(path.as_ref().map(EntryPath::as_bytes).unwrap_or_default(), text);
            }
            ToClient::Failure { code, text } => {
                return Err(ClientError::Failure { code: *code, text: text.clone() });
            }
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    fn entry(&mut self, listed: Listed) -> Result<(), ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        self.rows += 1;
        match (listed.entry.kind, &listed.content) {
            (EntryKind::Folder, _) => self.folders += 1,
            (EntryKind::Link, _) => self.links += 1,
            (EntryKind::File, Some(content)) if content.flags & content_flag::UNREADABLE == 0 => {
                let begun = match &mut self.place {
                    Place::Tree(target) => target.begin_file(&listed.entry),
                    Place::Tar(tar) => {
                        tar.summer = None;
                        Ok(())
                    }
                };
                self.healthy = begun.is_ok();
                self.current = Some(listed);
                return self.note(begun);
            }
            (EntryKind::File, _) => {
                self.tell_error(listed.entry.path.as_bytes(), "could not be read when the backup was made");
                return Ok(());
            }
        }
        let made = match (&mut self.place, listed.entry.kind) {
            (Place::Tree(target), EntryKind::Folder) => target.folder(&listed.entry),
            (Place::Tree(target), _) => target.link(&listed.entry),
            (Place::Tar(tar), _) => {
                tar.writer.begin(&listed.entry, 0).map_err(writing)?;
                Ok(())
            }
        };
        self.note(made)
    }

    /// Takes bytes of the content that comes, or zeros where there are none.
    fn data(&mut self, length: u64, bytes: Option<&[u8]>) -> Result<(), ClientError> {
        let listed = self.current.as_ref().ok_or_else(unexpected)?;
        let size = listed.content.as_ref().map_or(0, |content| content.bytes);
        if length > size {
            return Err(unexpected());
        }
        self.bytes = self.bytes.saturating_add(length);
        if !self.healthy {
            return Ok(());
        }
        let written = match (&mut self.place, bytes) {
            (Place::Tree(target), Some(bytes)) => target.write(bytes),
            (Place::Tree(target), None) => target.write_hole(length),
            (Place::Tar(tar), bytes) => {
                tar.data(&listed.entry, size, length, bytes).map_err(writing)?;
                Ok(())
            }
        };
        self.healthy = written.is_ok();
        self.note(written)
    }

    fn end(&mut self, end: &ContentEnd) -> Result<(), ClientError> {
        let listed = self.current.take().ok_or_else(unexpected)?;
        if !self.healthy {
            return Ok(());
        }
        let ended = match &mut self.place {
            Place::Tree(target) => target.end_file(&listed.entry, &sums(end)),
            Place::Tar(tar) => {
                tar.end(&listed.entry, end)?;
                Ok(())
            }
        };
        match &ended {
            Ok(()) => self.files += 1,
            Err(TargetError::Damaged { .. }) => {
                self.damaged += 1;
                self.tell_error(
                    listed.entry.path.as_bytes(),
                    "its stored content does not have its recorded checksums",
                );
                return Ok(());
            }
            Err(_) => {}
        }
        self.note(ended)
    }

    /// The content cannot be given.
    fn failed(&mut self, text: &str) -> Result<(), ClientError> {
        let listed = self.current.take().ok_or_else(unexpected)?;
        let path = listed.entry.path.as_bytes();
        self.damaged += 1;
        self.tell_error(path, text);
        match &mut self.place {
            Place::Tree(target) => target.abandon_file(),
            Place::Tar(tar) if tar.summer.is_some() => return Err(cut_short(&listed.entry)),
            Place::Tar(_) => {}
        }
        Ok(())
    }

    fn finish(mut self, rows: u64) -> Result<ExportSummary, ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        check_rows(self.rows, rows)?;
        let snapshot = self.snapshot.take().ok_or_else(unexpected)?;
        let problems = match self.place {
            Place::Tree(target) => target.finish(true),
            Place::Tar(tar) => {
                tar.writer.finish().map_err(writing)?;
                Vec::new()
            }
        };
        for problem in problems {
            self.errors += 1;
            let path = problem.path().unwrap_or_default();
            self.sink.event(Event::FileError { path, reason: &problem.to_string() });
        }
        Ok(ExportSummary {
            snapshot,
            files: self.files,
            folders: self.folders,
            links: self.links,
            bytes: self.bytes,
            errors: self.errors,
            damaged: self.damaged,
            elapsed: self.began.elapsed(),
        })
    }

    /// Tells an error about one path and goes on; a full disk, or one about the whole target, ends it.
    fn note(&mut self, result: Result<(), TargetError>) -> Result<(), ClientError> {
        let beside = match &mut self.place {
            Place::Tree(target) => target.take_problems(),
            Place::Tar(_) => Vec::new(),
        };
        for problem in beside {
            self.tell_error(problem.path().unwrap_or_default(), &problem.to_string());
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.ends_all() => Err(error.into()),
            Err(error) => {
                self.tell_error(error.path().unwrap_or_default(), &error.to_string());
                Ok(())
            }
        }
    }

    fn tell_error(&mut self, path: &[u8], reason: &str) {
        self.errors += 1;
        self.sink.event(Event::FileError { path, reason });
    }
}

/// What a batch led to.
pub enum Taken<'a> {
    More(Box<Exporting<'a>>),
    All(Box<ExportSummary>),
}

impl Tar<'_> {
    fn data(&mut self, entry: &Entry, size: u64, length: u64, bytes: Option<&[u8]>) -> io::Result<()> {
        self.begin_content(entry, size)?;
        let Some(summer) = &mut self.summer else { return Ok(()) };
        if let Some(bytes) = bytes {
            summer.update(bytes);
            return self.writer.write(bytes);
        }
        summer.update_zeros(length);
        let mut left = length;
        while left > 0 {
            let piece = left.min(ZEROS.len() as u64);
            self.writer.write(&ZEROS[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    /// The header comes with the first byte: until then a content can still be left out.
    fn begin_content(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        if self.summer.is_none() {
            self.writer.begin(entry, size)?;
            self.summer = Some(ContentHasher::default());
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry, end: &ContentEnd) -> Result<(), ClientError> {
        self.begin_content(entry, end.bytes).map_err(writing)?;
        let found = self.summer.take().map(ContentHasher::finish);
        if found != Some(sums(end)) {
            return Err(cut_short(entry));
        }
        self.writer.end().map_err(writing)
    }
}

fn writing(source: io::Error) -> ClientError {
    ClientError::Io { doing: "write the tar stream".into(), source }
}

fn cut_short(entry: &Entry) -> ClientError {
    let path = entry.path.display();
    ClientError::Integrity(format!("{path}: its content changed while it was read; the tar stream ends inside it"))
}
