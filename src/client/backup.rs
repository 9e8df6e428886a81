//! A backup: the walk, the reading and the sending run side by side; the server is asked about ranges of
//! entries ahead of the contents it wants.
//!
//! Here are the threads and the tries; [`super::uploading`] is the thread that owns the channel.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};

use super::connect::{Client, Session};
use super::delta::REQUESTS_MAX;
use super::error::ClientError;
use super::given::{self, GivenFiles};
use super::ranges::{ScanTotals, ScannedRange};
use super::retry::BusyWait;
use super::roots::{ResolvedRoots, Root};
use super::scan::{FolderIdentity, ScanEnd, ScanOptions, ScanReport, ScanSink, scan};
use super::sender::ContentSender;
use super::source::SourceReader;
use super::unfinished::{self, ChosenUpload};
use super::uploading::{Holdings, Progress, Queues, Sent, Stopped, Uploaded, Uploading, Walked};
use super::vault::backing_up::{self, VaultTarget, VaultUploaded};
use crate::base::host::boot_name;
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::progress::{Event, Phase, ProgressSink};
use crate::base::time::Timestamp;
use crate::base::waker::{Waker, waker};
use crate::channel::ChannelError;
use crate::crypto::vault::PutKey;
use crate::protocol::message::{Begin, HostFolder, SnapshotRow, ToClient, ToServer, begin_flag};

/// Ranges that the walk may have ready before the server is asked about them.
const RANGES_READY_MAX: usize = 2;
/// Batches of contents that wait to be sealed.
const BATCHES_QUEUED_MAX: usize = 3;

/// What to back up, and how.
#[derive(Default)]
pub struct BackupOptions {
    pub roots: Vec<Root>,
    /// Files that are handed over, in the place of those that lie at the roots.
    pub given: Option<Arc<dyn GivenFiles>>,
    /// Go on with this upload, which an earlier try of the same run began.
    pub upload: Option<UploadId>,
    /// Roots that were named and do not exist: each counts as a file that could not be read.
    pub missing: Vec<super::roots::MissingRoot>,
    /// Folders that are left out: the program's own.
    pub excluded: Vec<FolderIdentity>,
    pub label: String,
    pub host: String,
    pub tags: Vec<String>,
    /// Compare with nothing.
    pub full: bool,
    pub ignore_inode: bool,
    pub ignore_ctime: bool,
    pub parent: Option<SnapshotId>,
    pub dry_run: bool,
    /// Back up into the vault that this is the key of.
    pub vault: Option<Arc<PutKey>>,
}

impl BackupOptions {
    pub fn new(resolved: ResolvedRoots) -> BackupOptions {
        BackupOptions { roots: resolved.roots, missing: resolved.missing, ..BackupOptions::default() }
    }
}

/// How a backup went.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// None after a dry run.
    pub snapshot: Option<SnapshotRow>,
    pub scanned: ScanTotals,
    /// Files whose contents were sent (or would be), and their bytes: over all connections of the run, and what
    /// was sent twice counts twice.
    pub files_sent: u64,
    pub bytes_sent: u64,
    /// Files whose properties changed and whose content the server held already.
    pub files_same: u64,
    /// Names that could not be read: the backup is partial.
    pub unreadable: u64,
    /// The upload had been committed before, and its answer lost.
    pub was_stored_before: bool,
    /// On the wire in both directions, everything included, over all connections of the run.
    pub wire_bytes: u64,
    pub elapsed: Duration,
}

/// Backs up; connects anew and goes on under the same upload id where the line fails, and where an earlier run
/// was cut off.
pub fn backup(client: &mut Client<'_>, options: &BackupOptions) -> Result<BackupSummary, ClientError> {
    let began = Instant::now();
    let target = options.vault.as_deref().map(vault_target).transpose()?;
    let mut upload = unfinished::choose(&client.state, options)?;
    if upload.is_resumed {
        client.notice(match options.dry_run {
            true => "counting what the upload still lacks that an earlier run left unfinished",
            false => "going on with the upload that an earlier run left unfinished",
        });
    }
    for missing in &options.missing {
        let path = std::os::unix::ffi::OsStrExt::as_bytes(missing.path.as_os_str());
        client.sink.event(Event::FileError { path, reason: &missing.reason });
    }
    let (mut tries, mut furthest, mut wire_bytes, mut sent) = (0, None, 0, Sent::default());
    let mut busy = BusyWait::default();
    loop {
        client.careful = upload.is_begun;
        let mut session = client.connect()?;
        let mut progress = Progress { reached: None, sent };
        let result = match &target {
            None => attempt(client, &mut session, options, upload, &mut progress),
            Some(target) => backing_up::attempt(client, &mut session, options, target, upload, &mut progress)
                .map(BackupSummary::of_vault),
        };
        upload.is_begun = true;
        sent = progress.sent;
        // Tries are counted while nothing gets on: a line that drops again and again is one to be patient with.
        if progress.reached > furthest {
            (tries, furthest) = (0, progress.reached);
        }
        match result {
            // That snapshot was stored by an earlier run whose answer was lost: this run makes its own.
            Ok(summary) if upload.is_resumed && summary.was_stored_before => {
                upload = ChosenUpload::fresh();
                let _ = session.close();
            }
            Ok(mut summary) => {
                if !options.dry_run {
                    unfinished::forget(&client.state)?;
                }
                let counts = session.close();
                let counts = counts.unwrap_or_default();
                summary.wire_bytes = wire_bytes + counts.bytes_sent + counts.bytes_received;
                summary.elapsed = began.elapsed();
                return Ok(summary);
            }
            // An older session of the upload is ending still.
            Err(ClientError::Channel { source: ChannelError::Busy { seconds }, address }) => {
                let wait = busy.next(seconds).ok_or_else(|| ClientError::still_busy(&address))?;
                client.notice(&format!("the server is busy; going on in {:.1} s", wait.as_secs_f64()));
                if client.shutdown.wait(wait) {
                    return Err(ClientError::Interrupted);
                }
            }
            Err(error) if error.is_passing() && tries < client.options.retry.retries => {
                tries += 1;
                let counts = session.counts();
                wire_bytes += counts.bytes_sent + counts.bytes_received;
                let wait = client.options.retry.wait(tries);
                client.notice(&format!("{error}; going on in {:.1} s", wait.as_secs_f64()));
                if client.shutdown.wait(wait) {
                    return Err(ClientError::Interrupted);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The vault to back up into, with a fresh key for the upload.
fn vault_target(key: &PutKey) -> Result<VaultTarget<'_>, ClientError> {
    let data_key = key.create_data_key();
    let data_key =
        data_key.map_err(|error| ClientError::Impossible(format!("the vault's key is of no use: {error}")))?;
    Ok(VaultTarget { key, data_key })
}

fn attempt(
    client: &Client<'_>,
    session: &mut Session,
    options: &BackupOptions,
    upload: ChosenUpload,
    progress: &mut Progress,
) -> Result<BackupSummary, ClientError> {
    client.sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "backing up" });
    let (base, data) = match begin(session, options, upload.id)? {
        Answer::Open { base, data } => (base, data),
        Answer::Stored(row) => return Ok(BackupSummary::of_stored(row, progress.sent)),
    };
    if !options.dry_run {
        unfinished::note(&client.state, options, upload.id)?;
    }
    let mut excluded = options.excluded.clone();
    // A server on this very host: its data is no part of any backup.
    if !data.boot.is_empty() && data.boot == boot_name() {
        excluded.push(FolderIdentity { device: data.device, inode: data.inode });
    }
    let (waker, wakes) = waker().map_err(|error| session.error(ChannelError::Io(error)))?;
    let (walk_sender, walked) = bounded(RANGES_READY_MAX);
    let (orders, order_receiver) = unbounded();
    let (batch_sender, batches) = bounded(BATCHES_QUEUED_MAX);
    let (used, used_receiver) = unbounded();
    let (blocks, block_receiver) = bounded(REQUESTS_MAX);
    let state_folder = client.state.path().to_path_buf();
    let scan_options = ScanOptions::new(excluded, client.shutdown.clone(), state_folder);
    let content_sender = ContentSender {
        source: SourceReader::of(&options.roots, options.given.clone()),
        orders: order_receiver,
        batches: batch_sender,
        used: used_receiver,
        blocks: block_receiver,
        waker: waker.clone(),
        sink: client.sink,
        scratch: vec![0; CONTENT_CHUNK_BYTES],
        dry_run: options.dry_run,
    };
    if let Some(given) = &options.given {
        given.rewind();
    }
    let queues = Queues { wakes, walked, orders, batches, used, blocks };
    let holdings = match base {
        _ if upload.is_begun => Holdings::Interrupted,
        Some(_) => Holdings::Unknown,
        None => Holdings::Nothing,
    };
    let upload = Uploading::new(&mut session.channel, client.sink, queues, holdings, options.dry_run);
    let result = thread::scope(|scope| {
        let missing = options.missing.len() as u64;
        let walk = WalkSink { waker: Some(waker), ..WalkSink::new(walk_sender, client.sink, missing) };
        let walker = move || walk_to(options, &scan_options, walk);
        let started = thread::Builder::new()
            .name("walk".into())
            .spawn_scoped(scope, walker)
            .and_then(|_| thread::Builder::new().name("read".into()).spawn_scoped(scope, || content_sender.run()));
        // Where one did not start, leaving drops the queues, which ends the other.
        started.map_err(|source| Stopped::Client(ClientError::Io { doing: "start a thread".into(), source }))?;
        // `run` owns the queues: when it returns, the other threads find nobody at their ends and return too.
        upload.run(progress)
    });
    match result {
        Ok(uploaded) => Ok(BackupSummary::of(uploaded)),
        Err(Stopped::Channel(error)) => Err(session.error(error)),
        Err(Stopped::Client(error)) => Err(error),
    }
}

enum Answer {
    Open {
        base: Option<SnapshotId>,
        data: HostFolder,
    },
    /// This upload was committed before: its answer was lost.
    Stored(SnapshotRow),
}

/// Asks for the upload to be opened, and waits for the answer.
fn begin(session: &mut Session, options: &BackupOptions, upload: UploadId) -> Result<Answer, ClientError> {
    session.send(&ToServer::Begin(Begin {
        upload,
        started: Timestamp::now(),
        flags: begin_flags(options),
        parent: options.parent,
        host: options.host.clone(),
        label: options.label.clone(),
        tags: options.tags.clone(),
        roots: options.roots.iter().filter_map(|root| root.path().cloned()).collect(),
    }))?;
    opening(session, |answer| match answer {
        ToClient::Begun { base, data } => Some(Answer::Open { base, data }),
        ToClient::Stored(row) => Some(Answer::Stored(row)),
        _ => None,
    })
}

/// Waits for what opens an upload, or says that it is stored: `take` gives what it makes of such an answer.
pub(super) fn opening<T>(
    session: &mut Session,
    take: impl FnOnce(ToClient<'_>) -> Option<T>,
) -> Result<T, ClientError> {
    let answer = match session.channel.receive() {
        Ok(Some(message)) => match ToClient::decode(message.kind, message.body) {
            Ok(ToClient::Busy { seconds }) => Err(ChannelError::Busy { seconds }),
            Ok(ToClient::Failure { code, text }) => return Err(ClientError::Failure { code, text }),
            Ok(answer) => take(answer).ok_or(ChannelError::Violation("that answer does not open an upload")),
            Err(error) => Err(ChannelError::Malformed(error)),
        },
        Ok(None) => Err(ChannelError::Lost),
        Err(error) => Err(error),
    };
    answer.map_err(|error| session.error(error))
}

fn begin_flags(options: &BackupOptions) -> u8 {
    let bit = |on: bool, flag: u8| if on { flag } else { 0 };
    bit(options.full, begin_flag::FULL)
        | bit(options.ignore_inode, begin_flag::IGNORE_INODE)
        | bit(options.ignore_ctime, begin_flag::IGNORE_CTIME)
        | bit(options.dry_run, begin_flag::DRY_RUN)
}

impl BackupSummary {
    fn of(uploaded: Uploaded) -> BackupSummary {
        let Uploaded { snapshot, scanned, sent } = uploaded;
        // What an earlier connection could not read is known to the server.
        let unreadable = snapshot.as_ref().map_or(scanned.unreadable + sent.unreadable, |row| row.unreadable);
        BackupSummary {
            snapshot,
            scanned,
            files_sent: sent.files,
            bytes_sent: sent.bytes,
            files_same: sent.files_same,
            unreadable,
            was_stored_before: false,
            wire_bytes: 0,
            elapsed: Duration::ZERO,
        }
    }

    fn of_vault(uploaded: VaultUploaded) -> BackupSummary {
        let VaultUploaded { uploaded, was_stored_before } = uploaded;
        BackupSummary { was_stored_before, ..BackupSummary::of(uploaded) }
    }

    /// What is left to say about an upload whose answer came late: the snapshot itself.
    fn of_stored(row: SnapshotRow, sent: Sent) -> BackupSummary {
        let scanned = ScanTotals { files: row.files, bytes: row.bytes, ..ScanTotals::default() };
        let uploaded = Uploaded { snapshot: Some(row), scanned, sent };
        BackupSummary { was_stored_before: true, ..BackupSummary::of(uploaded) }
    }
}

/// Walks what is to be backed up.
pub(super) fn walk_to(options: &BackupOptions, scan_options: &ScanOptions, mut walk: WalkSink<'_>) {
    let end = match &options.given {
        Some(given) => given::walk(given.as_ref(), &mut walk),
        None => scan(&options.roots, scan_options, &mut walk),
    };
    walk.finish(end);
}

/// What the walk gives its ranges to.
pub(super) struct WalkSink<'a> {
    walked: Sender<Walked>,
    /// Wakes whoever waits for more than the ranges.
    waker: Option<Waker>,
    sink: &'a dyn ProgressSink,
    /// Roots that are not there: nothing walks them, and they count as unreadable all the same.
    missing: u64,
}

impl<'a> WalkSink<'a> {
    pub(super) fn new(walked: Sender<Walked>, sink: &'a dyn ProgressSink, missing: u64) -> WalkSink<'a> {
        WalkSink { walked, waker: None, sink, missing }
    }

    fn wake(waker: Option<&Waker>) {
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Says that no more ranges come. A walk that was cut short says nothing: its queue just closes, and
    /// nobody takes what it found for everything.
    fn finish(self, end: ScanEnd) {
        let WalkSink { walked, waker, missing, .. } = self;
        if end.complete {
            let unreadable = end.totals.unreadable + missing;
            let _ = walked.send(Walked::End(ScanTotals { unreadable, ..end.totals }));
        }
        drop(walked);
        WalkSink::wake(waker.as_ref());
    }
}

impl ScanSink for WalkSink<'_> {
    fn range(&mut self, range: ScannedRange) -> ControlFlow<()> {
        if self.walked.send(Walked::Range(range)).is_err() {
            return ControlFlow::Break(());
        }
        WalkSink::wake(self.waker.as_ref());
        ControlFlow::Continue(())
    }

    fn report(&mut self, report: ScanReport<'_>) {
        let (path, reason) = (report.path(), &report.reason());
        self.sink.event(match report {
            ScanReport::Skipped { .. } => Event::FileSkipped { path, reason },
            ScanReport::Unreadable { .. } => Event::FileError { path, reason },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Words(Mutex<Vec<String>>);

    impl ProgressSink for Words {
        fn event(&self, event: Event<'_>) {
            let word = match event {
                Event::FileSkipped { reason, .. } => format!("skipped: {reason}"),
                Event::FileError { reason, .. } => format!("error: {reason}"),
                _ => "other".to_string(),
            };
            self.0.lock().unwrap().push(word);
        }
    }

    #[test]
    fn a_skipped_kind_is_no_error_and_missing_roots_count_as_unreadable() {
        let (words, (sender, walked)) = (Words::default(), bounded(1));
        let (waker, _wakes) = waker().unwrap();
        let mut walk = WalkSink { waker: Some(waker), ..WalkSink::new(sender, &words, 2) };
        walk.report(ScanReport::Skipped { path: b"fifo", what: "a FIFO" });
        walk.report(ScanReport::Unreadable { path: b"x", reason: "permission denied".into() });
        assert_eq!(*words.0.lock().unwrap(), ["skipped: skipped: it is a FIFO", "error: permission denied"]);
        walk.finish(ScanEnd { totals: ScanTotals { unreadable: 1, ..ScanTotals::default() }, complete: true });
        assert!(matches!(walked.recv(), Ok(Walked::End(totals)) if totals.unreadable == 3));
    }
}
