//! Takes the entries and contents of a restore as they come, and writes them to the target.

use std::time::Instant;

use super::error::ClientError;
use super::pages::{Coming, Page};
use super::progress::Progress;
use super::query::{Listed, check_rows, malformed, sums, unexpected};
use super::restore::RestoreSummary;
use super::target::{RestoreTarget, TargetError, is_large};
use crate::base::entry::EntryKind;
use crate::base::path::EntryPath;
use crate::base::progress::{Event, ProgressSink};
use crate::protocol::message::{ContentEnd, EntryRow, SnapshotRow, ToClient, content_flag};

/// What has been restored, and what is coming.
pub(super) struct Restoring<'a> {
    target: Option<RestoreTarget>,
    sink: &'a dyn ProgressSink,
    pub progress: Progress<'a>,
    pub snapshot: Option<SnapshotRow>,
    /// All of the snapshot is wanted, so that its totals are those of the restore.
    is_everything: bool,
    /// The last entry that was done with: what comes later in the order is still to come.
    pub after: Option<EntryPath>,
    /// Grows with everything that need not be fetched again after a lost line.
    pub lasting: u64,
    /// The page that is coming; none where all contents come.
    page: Option<Page>,
    /// The file whose content is being received; `healthy` while nothing went wrong with it.
    current: Option<Listed>,
    current_bytes: u64,
    healthy: bool,
    files_kept: u64,
    bytes_kept: u64,
    folders: u64,
    links: u64,
    /// Entries and damaged parts of the list in the present answer, as the server counts them.
    rows: u64,
    errors: u64,
    damaged: u64,
    /// Damaged parts of the list since `after`: in the present answer, and those that were told.
    damages_met: u64,
    damages_told: u64,
}

impl<'a> Restoring<'a> {
    pub fn new(target: RestoreTarget, is_everything: bool, sink: &'a dyn ProgressSink) -> Restoring<'a> {
        Restoring {
            target: Some(target),
            sink,
            progress: Progress::new(sink),
            snapshot: None,
            is_everything,
            after: None,
            lasting: 0,
            page: None,
            current: None,
            current_bytes: 0,
            healthy: false,
            files_kept: 0,
            bytes_kept: 0,
            folders: 0,
            links: 0,
            rows: 0,
            errors: 0,
            damaged: 0,
            damages_met: 0,
            damages_told: 0,
        }
    }

    /// The snapshot is known.
    pub fn begin(&mut self, row: SnapshotRow) {
        if self.snapshot.is_none() {
            if self.is_everything {
                let totals = &mut self.progress.totals;
                (totals.files_total, totals.bytes_total, totals.counted) = (row.files, row.bytes, true);
            }
            self.snapshot = Some(row);
        }
    }

    /// An answer is about to come: of a page that was looked at, or with all contents.
    pub fn begin_answer(&mut self, page: Option<Page>) {
        (self.page, self.rows, self.damages_met) = (page, 0, 0);
    }

    /// The line was lost. What has come of a large file stays in the target.
    pub fn cut_off(&mut self) {
        self.target().cut_off();
        self.current = None;
        self.take_back();
        self.progress.forget_found();
    }

    /// What has come of the present file does not count: it is not restored.
    fn take_back(&mut self) {
        let totals = &mut self.progress.totals;
        totals.bytes_done = totals.bytes_done.saturating_sub(std::mem::take(&mut self.current_bytes));
    }

    /// Takes one message of the answer; says when it has ended.
    pub fn take(&mut self, message: &ToClient<'_>) -> Result<Option<()>, ClientError> {
        match message {
            ToClient::Snapshot(row) => self.begin(row.clone()),
            ToClient::Entry(row) => self.entry(row)?,
            ToClient::ContentData(bytes) => self.data(bytes.len() as u64, |target| target.write(bytes))?,
            ToClient::ContentHole { bytes } => {
                self.check_hole(*bytes)?;
                self.data(*bytes, |target| target.write_hole(*bytes))?;
            }
            ToClient::ContentEnd(end) => self.end(end)?,
            ToClient::ContentFailed { text } => self.failed(text),
            ToClient::Damage { path, text, .. } => self.damaged_list(path.as_ref(), text)?,
            ToClient::End { rows } => return self.end_answer(*rows).map(Some),
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn entry(&mut self, row: &EntryRow<'_>) -> Result<(), ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        self.rows += 1;
        let listed = Listed::decode(row).map_err(malformed)?;
        let coming = self.page.as_mut().map_or(Ok(Coming::Content), |page| page.take(row))?;
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
                return match coming {
                    Coming::Content => self.begin_file(listed),
                    Coming::Right => self.keep_file(listed, None),
                    Coming::Refilled { kept } => self.keep_file(listed, Some(kept)),
                };
            }
            (EntryKind::File, _) => {
                self.tell_error(listed.entry.path.as_bytes(), "could not be read when the backup was made");
                Ok(())
            }
        };
        self.note(result)?;
        self.done_with(listed.entry.path);
        Ok(())
    }

    fn begin_file(&mut self, listed: Listed) -> Result<(), ClientError> {
        let begun = self.target().begin_file(&listed.entry);
        self.healthy = begun.is_ok();
        (self.current, self.current_bytes) = (Some(listed), 0);
        self.note(begun)
    }

    /// The file is right already; `refilled` is how much of it was there where it was made right.
    fn keep_file(&mut self, listed: Listed, refilled: Option<u64>) -> Result<(), ClientError> {
        let bytes = listed.content.map_or(0, |content| content.bytes);
        let kept = self.target().keep_file(&listed.entry, bytes);
        if kept.is_err() {
            self.progress.unfind(bytes);
        } else {
            self.progress.settle(bytes);
            self.files_kept += u64::from(refilled.is_none());
            self.bytes_kept += refilled.unwrap_or(bytes);
            self.tell_receipt(&listed);
        }
        self.progress.tell(listed.entry.path.as_bytes());
        self.note(kept)?;
        self.done_with(listed.entry.path);
        Ok(())
    }

    fn done_with(&mut self, path: EntryPath) {
        self.lasting += 1;
        self.after = Some(path);
        (self.damages_met, self.damages_told) = (0, 0);
    }

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
        let Some(current) = &self.current else { return Err(unexpected()) };
        if !self.healthy {
            return Ok(());
        }
        self.current_bytes = self.current_bytes.saturating_add(bytes);
        self.progress.totals.bytes_done = self.progress.totals.bytes_done.saturating_add(bytes);
        self.progress.tell(current.entry.path.as_bytes());
        let written = write(self.target());
        if written.is_err() {
            self.healthy = false;
            self.take_back();
        }
        // In a page it may be a file that cannot be gone on with.
        let is_kept = |listed: &Listed| self.page.is_none() && is_large(&listed.entry);
        if self.healthy && self.current.as_ref().is_some_and(is_kept) {
            self.lasting += bytes;
        }
        self.note(written)
    }

    fn end(&mut self, end: &ContentEnd) -> Result<(), ClientError> {
        let listed = self.current.take().ok_or_else(unexpected)?;
        if self.healthy {
            let ended = self.target().end_file(&listed.entry, &sums(end));
            if let Err(TargetError::Damaged { .. }) = &ended {
                self.damaged += 1;
            }
            if ended.is_err() {
                self.take_back();
            } else {
                self.current_bytes = 0;
                self.tell_receipt(&Listed { content: Some(*end), ..listed.clone() });
            }
            self.note(ended)?;
        }
        self.done_with(listed.entry.path);
        Ok(())
    }

    fn tell_receipt(&mut self, listed: &Listed) {
        self.progress.totals.files_done += 1;
        let (path, Some(content)) = (listed.entry.path.as_bytes(), &listed.content) else { return };
        let (bytes, crc32, blake3) = (content.bytes, content.crc32, content.blake3);
        self.sink.event(Event::FileReceipt { path, bytes, crc32, blake3 });
    }

    /// The server could not give the content; what was there before stays.
    fn failed(&mut self, text: &str) {
        self.target().abandon_file();
        self.take_back();
        if let Some(listed) = self.current.take() {
            self.damaged += 1;
            self.tell_error(listed.entry.path.as_bytes(), text);
            self.done_with(listed.entry.path);
        }
    }

    /// A part of the snapshot's list cannot be read: what it names is not restored.
    fn damaged_list(&mut self, path: Option<&EntryPath>, text: &str) -> Result<(), ClientError> {
        if self.current.is_some() {
            return Err(unexpected());
        }
        self.rows += 1;
        self.damages_met += 1;
        // After a lost line it is met again.
        if self.damages_met > self.damages_told {
            self.damages_told = self.damages_met;
            self.damaged += 1;
            self.tell_error(path.map(EntryPath::as_bytes).unwrap_or_default(), text);
        }
        Ok(())
    }

    fn end_answer(&mut self, rows: u64) -> Result<(), ClientError> {
        if let Some(listed) = &self.current {
            let text =
                format!("{}: the answer ended inside its content; run this again", listed.entry.path.display());
            return Err(ClientError::Integrity(text));
        }
        check_rows(self.rows, rows)
    }

    /// Everything has come: sets what is still to be set, and flushes.
    pub fn finish(&mut self, began: Instant) -> Result<RestoreSummary, ClientError> {
        let target = self.target.take().expect("the end comes once");
        for problem in target.finish(true) {
            self.note(Err(problem))?;
        }
        self.progress.tell_now(&[]);
        Ok(RestoreSummary {
            snapshot: self.snapshot.take().ok_or_else(unexpected)?,
            files: self.progress.totals.files_done,
            folders: self.folders,
            links: self.links,
            bytes: self.progress.totals.bytes_done,
            files_kept: self.files_kept,
            bytes_kept: self.bytes_kept,
            errors: self.errors,
            damaged: self.damaged,
            elapsed: began.elapsed(),
        })
    }

    fn note(&mut self, result: Result<(), TargetError>) -> Result<(), ClientError> {
        for problem in self.target.as_mut().map(RestoreTarget::take_problems).unwrap_or_default() {
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

    fn target(&mut self) -> &mut RestoreTarget {
        self.target.as_mut().expect("there is a target until the end")
    }
}
