//! A restore: the server streams entries and contents in path order; a thread of its own writes them.

use std::path::Path;
use std::time::{Duration, Instant};

use super::connect::Session;
use super::error::ClientError;
use super::query::{Listed, check_rows, malformed, sums, unexpected};
use super::target::{RestoreTarget, TargetError};
use crate::base::entry::EntryKind;
use crate::base::path::EntryPath;
use crate::base::progress::{Event, Phase, ProgressSink, Totals};
use crate::protocol::message::{ContentEnd, Selection, SnapshotRow, ToClient, ToServer, content_flag};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How a restore went.
#[derive(Debug, Clone)]
pub struct RestoreSummary {
    pub snapshot: SnapshotRow,
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    pub bytes: u64,
    /// Entries, or properties of entries, that could not be restored; each was told.
    pub errors: u64,
    /// Contents that arrived or lay there damaged; among the errors.
    pub damaged: u64,
    pub elapsed: Duration,
}

/// Restores what is selected under `to`. Errors of single paths are told to `sink` and counted.
pub fn restore(
    session: &mut Session,
    selection: Selection,
    to: &Path,
    sink: &dyn ProgressSink,
) -> Result<RestoreSummary, ClientError> {
    sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "restoring" });
    let mut restoring = Restoring::create(selection.paths.clone(), to, sink)?;
    session.stream(&ToServer::Restore(selection), move |message| restoring.take(message))
}

struct Restoring<'a> {
    target: Option<RestoreTarget>,
    sink: &'a dyn ProgressSink,
    snapshot: Option<SnapshotRow>,
    wanted: Vec<EntryPath>,
    /// The file whose content is being received; `healthy` while nothing went wrong with it.
    current: Option<Listed>,
    healthy: bool,
    totals: Totals,
    folders: u64,
    links: u64,
    /// Entries and damaged parts of the list, as the server counts them.
    rows: u64,
    errors: u64,
    damaged: u64,
    began: Instant,
    told: Instant,
}

impl<'a> Restoring<'a> {
    fn create(wanted: Vec<EntryPath>, to: &Path, sink: &'a dyn ProgressSink) -> Result<Restoring<'a>, ClientError> {
        Ok(Restoring {
            target: Some(RestoreTarget::create(to)?),
            sink,
            snapshot: None,
            wanted,
            current: None,
            healthy: false,
            totals: Totals::default(),
            folders: 0,
            links: 0,
            rows: 0,
            errors: 0,
            damaged: 0,
            began: Instant::now(),
            told: Instant::now(),
        })
    }

    /// Takes one message of the answer; gives the summary at the end.
    fn take(&mut self, message: &ToClient<'_>) -> Result<Option<RestoreSummary>, ClientError> {
        match message {
            ToClient::Snapshot(row) => {
                if self.wanted.is_empty() {
                    (self.totals.files_total, self.totals.bytes_total) = (row.files, row.bytes);
                    self.totals.counted = true;
                }
                self.snapshot = Some(row.clone());
            }
            ToClient::Entry(row) => self.entry(Listed::decode(row).map_err(malformed)?)?,
            ToClient::ContentData(bytes) => self.data(bytes.len() as u64, |target| target.write(bytes))?,
            ToClient::ContentHole { bytes } => {
                self.check_hole(*bytes)?;
                self.data(*bytes, |target| target.write_hole(*bytes))?;
            }
            ToClient::ContentEnd(end) => self.end(end)?,
            ToClient::ContentFailed { text } => self.failed(text),
            ToClient::Damage { path, text, .. } => self.damaged_list(path.as_ref(), text)?,
            ToClient::End { rows } => return self.finish(*rows).map(Some),
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn entry(&mut self, listed: Listed) -> Result<(), ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        self.rows += 1;
        let result = match (listed.entry.kind, &listed.content) {
            (EntryKind::Folder, _) => {
                self.folders += 1;
                self.target().folder(&listed.entry)
            }
            (EntryKind::Link, _) => {
                self.links += 1;
                self.target().link(&listed.entry)
            }
            (EntryKind::File, Some(content)) if content.flags & content_flag::UNREADABLE == 0 => {
                let begun = self.target().begin_file(&listed.entry);
                self.healthy = begun.is_ok();
                self.current = Some(listed);
                begun
            }
            (EntryKind::File, _) => {
                self.tell_error(listed.entry.path.as_bytes(), "could not be read when the backup was made");
                return Ok(());
            }
        };
        self.note(result)
    }

    /// Hashing a hole takes its time, so that no more is believed than the content has.
    fn check_hole(&mut self, bytes: u64) -> Result<(), ClientError> {
        let content = self.current.as_ref().and_then(|listed| listed.content.as_ref());
        match content.is_some_and(|content| bytes <= content.bytes) {
            true => Ok(()),
            false => Err(unexpected()),
        }
    }

    fn data(
        &mut self,
        bytes: u64,
        write: impl FnOnce(&mut RestoreTarget) -> Result<(), TargetError>,
    ) -> Result<(), ClientError> {
        self.totals.bytes_done = self.totals.bytes_done.saturating_add(bytes);
        if self.current.is_none() {
            return Err(unexpected());
        }
        self.tell_progress();
        if !self.healthy {
            return Ok(());
        }
        let written = write(self.target());
        self.healthy = written.is_ok();
        self.note(written)
    }

    fn end(&mut self, end: &ContentEnd) -> Result<(), ClientError> {
        let listed = self.current.take().ok_or_else(unexpected)?;
        if !self.healthy {
            return Ok(());
        }
        let ended = self.target().end_file(&listed.entry, &sums(end));
        if let Err(TargetError::Damaged { .. }) = &ended {
            self.damaged += 1;
        }
        if ended.is_ok() {
            self.totals.files_done += 1;
            let path = listed.entry.path.as_bytes();
            self.sink.event(Event::FileReceipt { path, bytes: end.bytes, crc32: end.crc32, blake3: end.blake3 });
        }
        self.note(ended)
    }

    /// The server could not give the content; what was there before stays.
    fn failed(&mut self, text: &str) {
        self.target().abandon_file();
        if let Some(listed) = self.current.take() {
            self.damaged += 1;
            self.tell_error(listed.entry.path.as_bytes(), text);
        }
    }

    /// A part of the snapshot's list cannot be read: what it names is not restored.
    fn damaged_list(&mut self, path: Option<&EntryPath>, text: &str) -> Result<(), ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        self.rows += 1;
        self.damaged += 1;
        self.tell_error(path.map(EntryPath::as_bytes).unwrap_or_default(), text);
        Ok(())
    }

    fn finish(&mut self, rows: u64) -> Result<RestoreSummary, ClientError> {
        if let Some(listed) = &self.current {
            let text =
                format!("{}: the answer ended inside its content; run this again", listed.entry.path.display());
            return Err(ClientError::Integrity(text));
        }
        check_rows(self.rows, rows)?;
        let target = self.target.take().expect("the end comes once");
        for problem in target.finish(true) {
            self.note(Err(problem))?;
        }
        self.sink.event(Event::Progress { totals: self.totals, current_file: &[] });
        Ok(RestoreSummary {
            snapshot: self.snapshot.take().ok_or_else(unexpected)?,
            files: self.totals.files_done,
            folders: self.folders,
            links: self.links,
            bytes: self.totals.bytes_done,
            errors: self.errors,
            damaged: self.damaged,
            elapsed: self.began.elapsed(),
        })
    }

    /// Tells an error about one path and goes on; a full disk, or one about the whole target, ends it.
    fn note(&mut self, result: Result<(), TargetError>) -> Result<(), ClientError> {
        for problem in self.target.as_mut().map(RestoreTarget::take_problems).unwrap_or_default() {
            self.tell_error(problem.path().unwrap_or_default(), &problem.to_string());
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.is_disk_full() || error.is_read_only() || error.path().is_none() => {
                Err(error.into())
            }
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

    fn tell_progress(&mut self) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let path = self.current.as_ref().map(|listed| listed.entry.path.as_bytes()).unwrap_or_default();
            self.sink.event(Event::Progress { totals: self.totals, current_file: path });
        }
    }

    fn target(&mut self) -> &mut RestoreTarget {
        self.target.as_mut().expect("there is a target until the end")
    }
}
