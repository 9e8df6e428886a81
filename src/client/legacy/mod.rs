//! A backup to a legacy server (`backup --legacy`): the same walk as a native backup, but each file goes by itself,
//! whole, under a flat name. What the dialect cannot carry is left out and named.
//!
//! Nobody proves anything to anybody here: the server is not authenticated, nor is what it gets. So the dialect is
//! spoken only when it was asked for.

mod error;
mod line;
mod names;
mod sending;
mod session;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::backup::BackupOptions;
use super::error::ClientError;
use super::ranges::{ScanTotals, ScannedRange};
use super::scan::{ScanOptions, ScanReport, ScanSink, scan};
use super::source::{SourceFile, SourceReader};
use crate::base::codec::Reader;
use crate::base::entry::{Entry, EntryKind};
use crate::base::path::EntryPath;
use crate::base::progress::{Event, ProgressSink, Totals};
use crate::crypto::{ContentSums, file_ciphertext_bytes};
use crate::protocol::legacy::FileName;

pub use error::LegacyError;
use names::FlatNames;
use sending::{FILE_BYTES_MAX, FileEnd};
pub use session::{LegacyClient, LegacySettings};

/// Known servers take no more ciphertext in one file.
const KNOWN_SERVERS_FILE_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// How often a file is tried that the server refuses, or, above the limit of known servers, breaks off.
const FILE_REFUSALS_MAX: u32 = 2;
/// So many refused files in a row end the run.
const REFUSED_FILES_MAX: u32 = 8;
/// How often progress is told while a file is sent.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

const WARNING: &str = "the legacy dialect carries the contents of files and nothing else: no times, modes, owners, \
                       links or empty folders. File names travel unencrypted, and nothing proves the server or \
                       protects what is sent from changes. Every run sends everything. docs/migration.md says how \
                       to move the server over";

/// How a legacy backup went.
#[derive(Debug, Clone, Copy, Default)]
pub struct LegacySummary {
    pub scanned: ScanTotals,
    /// Files that the server has confirmed (or would get), and their bytes.
    pub files_sent: u64,
    pub bytes_sent: u64,
    /// What the dialect or the server does not take.
    pub left_out: u64,
    /// What could not be read.
    pub unreadable: u64,
    pub dry_run: bool,
    /// On the wire in both directions, everything included.
    pub wire_bytes: u64,
    pub elapsed: Duration,
}

/// Sends every file below the roots to the server.
pub fn backup_legacy(client: &mut LegacyClient<'_>, options: &BackupOptions) -> Result<LegacySummary, ClientError> {
    let began = Instant::now();
    client.notice(WARNING);
    for missing in &options.missing {
        let path = std::os::unix::ffi::OsStrExt::as_bytes(missing.path.as_os_str());
        client.sink.event(Event::FileError { path, reason: &missing.reason });
    }
    if !options.dry_run {
        client.connect()?;
    }
    let state_folder = client.state.path().to_path_buf();
    let scan_options = ScanOptions::new(options.excluded.clone(), client.shutdown.clone(), state_folder);
    let mut run = Run {
        names: FlatNames::new(&options.roots),
        source: SourceReader::new(&options.roots),
        summary: LegacySummary { dry_run: options.dry_run, ..LegacySummary::default() },
        client,
        last_folder: None,
        progress: Progress::default(),
        refused_files: 0,
        failure: None,
    };
    let end = scan(&options.roots, &scan_options, &mut run);
    run.end_folder();
    run.progress.end(run.client.sink, end.complete);
    if let Some(error) = run.failure {
        return Err(error);
    }
    if !end.complete {
        return Err(ClientError::Interrupted);
    }
    let mut summary = run.summary;
    // What is left out by its kind is in the walk's counts as skipped; here it counts as left out too.
    summary.left_out += end.totals.skipped;
    summary.unreadable += end.totals.unreadable + options.missing.len() as u64;
    summary.scanned = end.totals;
    summary.wire_bytes = client.wire_bytes();
    summary.elapsed = began.elapsed();
    Ok(summary)
}

/// The walk's other end: sends what it finds.
struct Run<'a, 'c> {
    client: &'a mut LegacyClient<'c>,
    names: FlatNames,
    source: SourceReader,
    summary: LegacySummary,
    /// A folder in which nothing has been seen yet.
    last_folder: Option<EntryPath>,
    progress: Progress,
    /// Refused without one confirmed in between.
    refused_files: u32,
    /// Why the walk was ended.
    failure: Option<ClientError>,
}

impl ScanSink for Run<'_, '_> {
    fn range(&mut self, range: ScannedRange) -> ControlFlow<()> {
        self.progress.totals.files_total = range.totals.files;
        self.progress.totals.bytes_total = range.totals.bytes;
        let mut reader = Reader::new(&range.bytes);
        while !reader.is_empty() {
            let entry = Entry::decode(&mut reader).expect("the walk has just encoded it");
            if let Err(error) = self.entry(&entry) {
                self.failure = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn report(&mut self, report: ScanReport<'_>) {
        self.client.sink.event(Event::FileError { path: report.path(), reason: &report.reason() });
    }
}

impl Run<'_, '_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), ClientError> {
        if self.last_folder.as_ref().is_some_and(|folder| entry.path.is_within(folder)) {
            self.last_folder = None;
        }
        self.end_folder();
        match entry.kind {
            EntryKind::Folder => self.last_folder = Some(entry.path.clone()),
            EntryKind::Link => self.leave_out(&entry.path, "left out: it is a link"),
            EntryKind::File => self.file(entry)?,
        }
        Ok(())
    }

    /// Names a folder in which nothing was found.
    fn end_folder(&mut self) {
        if let Some(folder) = self.last_folder.take() {
            self.leave_out(&folder, "left out: it is a folder without anything to send");
        }
    }

    fn leave_out(&mut self, path: &EntryPath, reason: &str) {
        self.summary.left_out += 1;
        self.client.sink.event(Event::FileError { path: path.as_bytes(), reason });
    }

    fn unreadable(&mut self, path: &EntryPath, reason: &str) {
        self.summary.unreadable += 1;
        self.client.sink.event(Event::FileError { path: path.as_bytes(), reason });
    }

    fn file(&mut self, entry: &Entry) -> Result<(), ClientError> {
        let (path, (name, is_whole)) = (&entry.path, self.names.name(&entry.path));
        log::info!("/{} goes to the server as {name}", path.display());
        if self.summary.dry_run {
            match entry.size > FILE_BYTES_MAX {
                true => self.leave_out(path, "left out: the legacy dialect carries no file of 4 GiB or more"),
                false => self.count_sent(entry.size),
            }
        } else {
            match self.send(path, &name)? {
                FileEnd::Confirmed { sums, changed } => self.confirmed(path, sums, changed),
                FileEnd::Unreadable(error) => self.unreadable(path, &error.to_string()),
                FileEnd::LeftOut(reason) => self.leave_out(path, &format!("left out: {reason}")),
            }
        }
        if !is_whole {
            let message = format!("/{}: its name at the server is shortened to {name}", path.display());
            self.client.notice(&message);
        }
        self.progress.end_file(self.client.sink, entry.size);
        Ok(())
    }

    fn count_sent(&mut self, bytes: u64) {
        self.summary.files_sent += 1;
        self.summary.bytes_sent += bytes;
    }

    fn confirmed(&mut self, path: &EntryPath, sums: ContentSums, changed: bool) {
        self.count_sent(sums.size);
        self.refused_files = 0;
        let ContentSums { size, crc32, blake3 } = sums;
        self.client.sink.event(Event::FileReceipt { path: path.as_bytes(), bytes: size, crc32, blake3 });
        if changed {
            self.client.notice(&format!("{} changed while it was read", path.display()));
        }
    }

    /// Sends a file over as many connections as it takes.
    fn send(&mut self, path: &EntryPath, name: &FileName) -> Result<FileEnd, ClientError> {
        let (mut refusals, mut breaks) = (0, 0);
        loop {
            let file = match self.source.open(path) {
                Ok(file) => file,
                Err(error) => return Ok(FileEnd::Unreadable(error)),
            };
            let is_beyond_limit = file_ciphertext_bytes(file.size()) > KNOWN_SERVERS_FILE_BYTES_MAX;
            match self.send_once(file, path, name)? {
                Ok(end) => {
                    self.client.has_worked();
                    return Ok(end);
                }
                Err(LegacyError::GeneralError) => {
                    refusals += 1;
                    if is_beyond_limit || refusals == FILE_REFUSALS_MAX {
                        return self.refused(is_beyond_limit);
                    }
                }
                Err(error) => {
                    breaks += 1;
                    if error.is_passing() && is_beyond_limit && breaks == FILE_REFUSALS_MAX {
                        return self.refused(is_beyond_limit);
                    }
                    let error = self.client.error(error);
                    self.client.wait_to_try_again(error)?;
                }
            }
        }
    }

    /// One try; the connection is given up where it fails.
    fn send_once(
        &mut self,
        file: SourceFile,
        path: &EntryPath,
        name: &FileName,
    ) -> Result<Result<FileEnd, LegacyError>, ClientError> {
        self.client.connect()?;
        self.progress.current_file.clear();
        self.progress.current_file.extend_from_slice(path.as_bytes());
        Ok(self.client.send(file, name, &mut self.progress))
    }

    fn refused(&mut self, is_beyond_limit: bool) -> Result<FileEnd, ClientError> {
        if is_beyond_limit {
            let reason = "the server does not take it; known legacy servers take no file above 100 MiB";
            return Ok(FileEnd::LeftOut(reason));
        }
        self.refused_files += 1;
        if self.refused_files == REFUSED_FILES_MAX {
            return Err(self.client.error(LegacyError::RefusesFiles { files: REFUSED_FILES_MAX }));
        }
        Ok(FileEnd::LeftOut("the server refuses it (1607); its log may say why"))
    }
}

/// How far a run has come.
#[derive(Default)]
struct Progress {
    totals: Totals,
    /// What was done before the file at hand.
    before: u64,
    current_file: Vec<u8>,
    told: Option<Instant>,
}

impl Progress {
    /// The file at hand is read from its start, once more perhaps.
    fn begin_file(&mut self) {
        self.totals.bytes_done = self.before;
    }

    /// So much of the file at hand is sent.
    fn file_bytes(&mut self, sink: &dyn ProgressSink, bytes: u64) {
        self.totals.bytes_done = (self.before + bytes).min(self.totals.bytes_total);
        if self.told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
            self.tell(sink);
        }
    }

    /// The file at hand is done with, one way or the other.
    fn end_file(&mut self, sink: &dyn ProgressSink, bytes: u64) {
        self.totals.files_done += 1;
        self.file_bytes(sink, bytes);
        self.before += bytes;
    }

    /// Nothing more comes.
    fn end(&mut self, sink: &dyn ProgressSink, is_counted: bool) {
        self.totals.counted = is_counted;
        self.current_file.clear();
        self.tell(sink);
    }

    fn tell(&mut self, sink: &dyn ProgressSink) {
        self.told = Some(Instant::now());
        sink.event(Event::Progress { totals: self.totals, current_file: &self.current_file });
    }
}
