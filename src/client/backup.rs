//! A backup: the walk, the reading and the sending run side by side; the server is asked about ranges of
//! entries ahead of the contents it wants.
//!
//! ## What bounds what
//! The walk stops while [`RANGES_PENDING_MAX`] ranges are with the server (or their entries pass
//! [`RANGES_PENDING_BYTES_MAX`]); the reading stops while [`BATCHES_QUEUED_MAX`] batches wait to be sealed.
//! The server answers each range with a message of fixed bound, so all answers outstanding fit its ring and
//! our inbox: it never waits for us to read while we wait for it to read.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use super::connect::{Client, Session};
use super::error::ClientError;
use super::ranges::{ScanTotals, ScannedRange};
use super::roots::{ResolvedRoots, Root};
use super::scan::{FolderIdentity, ScanEnd, ScanOptions, ScanReport, ScanSink, scan};
use super::sender::{Batch, ContentSender, Order};
use super::source::SourceReader;
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::limits::{RANGES_PENDING_BYTES_MAX, RANGES_PENDING_MAX};
use crate::base::progress::{Event, Phase, ProgressSink, Totals};
use crate::base::time::Timestamp;
use crate::base::waker::{WakeSource, Waker, waker};
use crate::channel::{Activity, Channel, ChannelError};
use crate::protocol::message::{Begin, SnapshotRow, ToClient, ToServer};

/// Ranges that the walk may have ready before the server is asked about them.
const RANGES_READY_MAX: usize = 2;
/// Batches of contents that wait to be sealed.
const BATCHES_QUEUED_MAX: usize = 3;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What to back up, and how.
#[derive(Debug, Default)]
pub struct BackupOptions {
    pub roots: Vec<Root>,
    /// Roots that were named and do not exist: each counts as a file that could not be read.
    pub missing: Vec<super::roots::MissingRoot>,
    /// Folders that are left out: the program's own.
    pub excluded: Vec<FolderIdentity>,
    pub label: String,
    pub host: String,
    pub tags: Vec<String>,
    /// Compare with nothing.
    pub full: bool,
    pub parent: Option<SnapshotId>,
    pub dry_run: bool,
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
    /// Files whose contents were sent (or would be), and their bytes.
    pub files_sent: u64,
    pub bytes_sent: u64,
    /// Names that could not be read: the backup is partial.
    pub unreadable: u64,
    /// On the wire in both directions, everything included.
    pub wire_bytes: u64,
    pub elapsed: Duration,
}

/// Backs up; connects anew and begins again under the same upload id where the line fails.
pub fn backup(client: &mut Client<'_>, options: &BackupOptions) -> Result<BackupSummary, ClientError> {
    let began = Instant::now();
    let upload = UploadId::random();
    for missing in &options.missing {
        let path = std::os::unix::ffi::OsStrExt::as_bytes(missing.path.as_os_str());
        client.sink.event(Event::FileError { path, reason: &missing.reason });
    }
    let mut tries = 0;
    loop {
        let mut session = client.connect()?;
        match attempt(client, &mut session, options, upload) {
            Ok(mut summary) => {
                let counts = session.close();
                let counts = counts.unwrap_or_default();
                summary.wire_bytes = counts.bytes_sent + counts.bytes_received;
                summary.unreadable += options.missing.len() as u64;
                summary.elapsed = began.elapsed();
                return Ok(summary);
            }
            Err(error) if error.is_passing() && tries < client.options.retry.retries => {
                tries += 1;
                let wait = client.options.retry.wait(tries);
                client.notice(&format!("{error}; beginning again in {:.1} s", wait.as_secs_f64()));
                if client.shutdown.wait(wait) {
                    return Err(ClientError::Interrupted);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn attempt(
    client: &Client<'_>,
    session: &mut Session,
    options: &BackupOptions,
    upload: UploadId,
) -> Result<BackupSummary, ClientError> {
    let sink = client.sink;
    let begin = ToServer::Begin(Begin {
        upload,
        started: Timestamp::now(),
        full: options.full,
        parent: options.parent,
        host: options.host.clone(),
        label: options.label.clone(),
        tags: options.tags.clone(),
        roots: options.roots.iter().filter_map(|root| root.path().cloned()).collect(),
    });
    session.send(&begin)?;
    sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "backing up" });
    let (waker, wakes) = waker().map_err(|error| session.error(ChannelError::Io(error)))?;
    let (range_sender, ranges) = bounded(RANGES_READY_MAX);
    let (orders, order_receiver) = unbounded();
    let (batch_sender, batches) = bounded(BATCHES_QUEUED_MAX);
    let (used, used_receiver) = unbounded();
    let scan_options = ScanOptions { excluded: options.excluded.clone(), shutdown: client.shutdown.clone() };
    let content_sender = ContentSender {
        source: SourceReader::new(&options.roots),
        orders: order_receiver,
        batches: batch_sender,
        used: used_receiver,
        waker: waker.clone(),
        sink,
        dry_run: options.dry_run,
    };
    thread::scope(|scope| {
        let mut walk = WalkSink { ranges: Some(range_sender), waker, sink };
        let walker = thread::Builder::new().name("walk".into()).spawn_scoped(scope, move || {
            let end = scan(&options.roots, &scan_options, &mut walk);
            walk.finish();
            end
        });
        let reader = thread::Builder::new().name("read".into()).spawn_scoped(scope, move || content_sender.run());
        let (walker, _reader) = match (walker, reader) {
            (Ok(walker), Ok(reader)) => (walker, reader),
            (Err(error), _) | (_, Err(error)) => {
                return Err(ClientError::Io { doing: "start a thread".into(), source: error });
            }
        };
        let mut upload = Uploading {
            channel: &mut session.channel,
            sink,
            wakes,
            ranges: Some(ranges),
            orders: Some(orders),
            batches,
            used,
            pending: VecDeque::new(),
            pending_bytes: 0,
            offered: 0,
            entries: 0,
            begun: false,
            commit: CommitState::NotYet,
            dry_run: options.dry_run,
            totals: Totals::default(),
            sent: Sent::default(),
            told: Instant::now(),
            spoke: Instant::now(),
        };
        let result = upload.run();
        let sent = std::mem::take(&mut upload.sent);
        // Dropping the queues ends the other threads, whatever happened.
        drop(upload);
        let scanned = walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let snapshot = result.map_err(|error| match error {
            Stopped::Channel(error) => session.error(error),
            Stopped::Client(error) => error,
        })?;
        summary(client, snapshot, scanned, sent)
    })
}

fn summary(
    client: &Client<'_>,
    snapshot: Option<SnapshotRow>,
    scanned: ScanEnd,
    sent: Sent,
) -> Result<BackupSummary, ClientError> {
    if client.shutdown.is_requested() && !scanned.complete {
        return Err(ClientError::Interrupted);
    }
    Ok(BackupSummary {
        snapshot,
        scanned: scanned.totals,
        files_sent: sent.files,
        bytes_sent: sent.bytes,
        unreadable: scanned.totals.unreadable + sent.unreadable,
        wire_bytes: 0,
        elapsed: Duration::ZERO,
    })
}

/// What the walk gives its ranges to.
struct WalkSink<'a> {
    ranges: Option<Sender<ScannedRange>>,
    waker: Waker,
    sink: &'a dyn ProgressSink,
}

impl WalkSink<'_> {
    /// Says that no more ranges come.
    fn finish(&mut self) {
        self.ranges = None;
        self.waker.wake();
    }
}

impl ScanSink for WalkSink<'_> {
    fn range(&mut self, range: ScannedRange) -> ControlFlow<()> {
        let Some(ranges) = &self.ranges else { return ControlFlow::Break(()) };
        if ranges.send(range).is_err() {
            return ControlFlow::Break(());
        }
        self.waker.wake();
        ControlFlow::Continue(())
    }

    fn report(&mut self, report: ScanReport<'_>) {
        self.sink.event(Event::FileError { path: report.path(), reason: &report.reason() });
    }
}

/// What has been sent.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    files: u64,
    bytes: u64,
    unreadable: u64,
}

/// A range that the server has been asked about.
struct Pending {
    number: u32,
    range: Arc<ScannedRange>,
}

#[derive(Debug, PartialEq, Eq)]
enum CommitState {
    NotYet,
    Asked,
}

enum Stopped {
    Channel(ChannelError),
    Client(ClientError),
}

impl From<ChannelError> for Stopped {
    fn from(error: ChannelError) -> Stopped {
        Stopped::Channel(error)
    }
}

impl From<ClientError> for Stopped {
    fn from(error: ClientError) -> Stopped {
        Stopped::Client(error)
    }
}

/// The thread that owns the channel.
struct Uploading<'a> {
    channel: &'a mut Channel,
    sink: &'a dyn ProgressSink,
    wakes: WakeSource,
    /// None once the walk has ended.
    ranges: Option<Receiver<ScannedRange>>,
    orders: Option<Sender<Order>>,
    batches: Receiver<Batch>,
    used: Sender<Vec<u8>>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    offered: u32,
    entries: u64,
    begun: bool,
    commit: CommitState,
    dry_run: bool,
    totals: Totals,
    sent: Sent,
    told: Instant,
    spoke: Instant,
}

impl Uploading<'_> {
    /// Runs until the snapshot is stored; none for a dry run.
    fn run(&mut self) -> Result<Option<SnapshotRow>, Stopped> {
        loop {
            if let Some(row) = self.take_answers()? {
                return Ok(Some(row));
            }
            let mut busy = self.send_contents()?;
            busy |= self.offer_next()?;
            self.tell_progress(false);
            if self.is_all_sent() {
                if self.dry_run {
                    self.channel.send_to_server(&ToServer::Cancel)?;
                    return Ok(None);
                }
                self.ask_for_commit()?;
            }
            if !busy {
                self.rest()?;
            }
        }
    }

    /// Writes what is staged and sleeps until something happens on any side.
    fn rest(&mut self) -> Result<(), Stopped> {
        self.channel.push()?;
        if self.spoke.elapsed() >= Channel::PING_INTERVAL {
            self.channel.ping()?;
            self.spoke = Instant::now();
        }
        let limit = PROGRESS_INTERVAL.max(Duration::from_millis(1));
        let limit = if self.commit == CommitState::Asked { Channel::PING_INTERVAL } else { limit * 10 };
        if self.is_waiting_for_server() {
            self.channel.wait_for(&self.wakes, limit)?;
        } else {
            self.channel.idle(&self.wakes, limit)?;
        }
        Ok(())
    }

    fn is_waiting_for_server(&self) -> bool {
        !self.begun || self.commit == CommitState::Asked
    }

    /// Works through the answers that are here; gives the stored snapshot when it is among them.
    fn take_answers(&mut self) -> Result<Option<SnapshotRow>, Stopped> {
        loop {
            let message = match self.channel.poll()? {
                Activity::Nothing => return Ok(None),
                Activity::Closed => return Err(ChannelError::Lost.into()),
                Activity::Message(message) => ToClient::decode(message.kind, message.body),
            };
            match message.map_err(ChannelError::Malformed)? {
                ToClient::Begun { .. } => self.begun = true,
                ToClient::Stored(row) => return Ok(Some(row)),
                ToClient::RangeHeld { number } => self.held(number)?,
                ToClient::RangeLacking { number } => self.lacking(number)?,
                ToClient::Needed { number, bits } => {
                    let bits = bits.to_vec();
                    self.needed(number, bits)?;
                }
                // The content is read again from its file; the server waits for it before the commit.
                ToClient::ContentRepeat { range, entry } => {
                    let text =
                        format!("content {entry} of range {range} arrived with other sums than it was read with");
                    return Err(ClientError::Integrity(text).into());
                }
                ToClient::Busy { seconds } => return Err(ChannelError::Busy { seconds }.into()),
                ToClient::Failure { code, text } => return Err(ClientError::Failure { code, text }.into()),
                _ => return Err(ChannelError::Violation("that answer does not belong to an upload").into()),
            }
        }
    }

    fn find(&self, number: u32) -> Result<Arc<ScannedRange>, Stopped> {
        let found = self.pending.iter().find(|pending| pending.number == number);
        found
            .map(|pending| pending.range.clone())
            .ok_or(ChannelError::Violation("it answers for a range that was not offered").into())
    }

    fn held(&mut self, number: u32) -> Result<(), Stopped> {
        let range = self.find(number)?;
        self.totals.files_done += range.items.len() as u64;
        self.totals.bytes_done += range.items.iter().map(|item| item.size).sum::<u64>();
        self.finish_range(number);
        Ok(())
    }

    fn lacking(&mut self, number: u32) -> Result<(), Stopped> {
        let range = self.find(number)?;
        self.channel.send_to_server(&ToServer::RangeEntries { number, entries: &range.bytes })?;
        self.spoke = Instant::now();
        Ok(())
    }

    fn needed(&mut self, number: u32, bits: Vec<u8>) -> Result<(), Stopped> {
        let range = self.find(number)?;
        if bits.len() != (range.entries as usize).div_ceil(8) {
            return Err(ChannelError::Violation("its answer does not fit the range").into());
        }
        for item in &range.items {
            let wanted = bits[item.index as usize / 8] >> (item.index % 8) & 1 == 1;
            if !wanted {
                self.totals.files_done += 1;
                self.totals.bytes_done += item.size;
            }
        }
        if let Some(orders) = &self.orders {
            // The reader is there as long as the order queue is; it ends only with it.
            let _ = orders.send(Order { number, range, bits });
        }
        Ok(())
    }

    fn finish_range(&mut self, number: u32) {
        if let Some(index) = self.pending.iter().position(|pending| pending.number == number)
            && let Some(pending) = self.pending.remove(index)
        {
            self.pending_bytes -= pending.range.bytes.len();
        }
    }

    /// Seals and sends the contents that are ready. Answers are looked at after each batch.
    fn send_contents(&mut self) -> Result<bool, Stopped> {
        let Ok(batch) = self.batches.try_recv() else { return Ok(false) };
        self.channel.send_encoded(&batch.bytes)?;
        self.spoke = Instant::now();
        self.sent.files += batch.files;
        self.sent.bytes += batch.content_bytes;
        self.sent.unreadable += batch.unreadable;
        self.totals.files_done += batch.files + batch.unreadable;
        // What changed under the reader is sent twice; progress counts it once.
        self.totals.bytes_done = (self.totals.bytes_done + batch.content_bytes).min(self.totals.bytes_total);
        if !batch.last_path.is_empty() {
            self.told_path(&batch.last_path);
        }
        if let Some(number) = batch.finished_range {
            self.finish_range(number);
        }
        let _ = self.used.send(batch.bytes);
        Ok(true)
    }

    fn told_path(&mut self, path: &[u8]) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.sink.event(Event::Progress { totals: self.totals, current_file: path });
        }
    }

    /// Asks about the next range, while there is room for its answer.
    fn offer_next(&mut self) -> Result<bool, Stopped> {
        let room = self.pending.is_empty()
            || (self.pending.len() < RANGES_PENDING_MAX && self.pending_bytes < RANGES_PENDING_BYTES_MAX);
        let Some(ranges) = self.ranges.as_ref().filter(|_| room && self.begun) else { return Ok(false) };
        let range = match ranges.try_recv() {
            Ok(range) => range,
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => {
                self.ranges = None;
                self.totals.counted = true;
                return Ok(true);
            }
        };
        self.channel.send_to_server(&ToServer::RangeOffer { hash: range.hash })?;
        self.spoke = Instant::now();
        self.totals.files_total = range.totals.files;
        self.totals.bytes_total = range.totals.bytes;
        self.entries += u64::from(range.entries);
        self.pending_bytes += range.bytes.len();
        self.pending.push_back(Pending { number: self.offered, range: Arc::new(range) });
        self.offered += 1;
        Ok(true)
    }

    fn is_all_sent(&self) -> bool {
        self.begun && self.ranges.is_none() && self.pending.is_empty() && self.commit == CommitState::NotYet
    }

    fn ask_for_commit(&mut self) -> Result<(), Stopped> {
        self.tell_progress(true);
        self.sink.event(Event::Phase { phase: Phase::Cleanup, message: "the server is making it durable" });
        self.channel.send_to_server(&ToServer::Commit { ranges: self.offered, entries: self.entries })?;
        self.commit = CommitState::Asked;
        self.orders = None;
        Ok(())
    }

    fn tell_progress(&mut self, now: bool) {
        if now || self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.sink.event(Event::Progress { totals: self.totals, current_file: &[] });
        }
    }
}
