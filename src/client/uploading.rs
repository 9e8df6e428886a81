//! The thread of a backup that owns the channel: it asks about ranges, sends the contents that the server
//! wants, and in the end asks for the commit.
//!
//! ## What bounds what
//! The walk stops while [`RANGES_PENDING_MAX`] ranges are with the server, or their entries pass
//! [`RANGES_PENDING_BYTES_MAX`], or their answers could pass [`ANSWER_BYTES_MAX`]; the reading stops while a
//! few batches wait to be sealed, and while two answers about blocks are on their way. So all answers outstanding fit the server's ring: it never waits for us to
//! read while we wait for it to read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::delta::{BlocksAnswer, BlocksWanted};
use super::error::ClientError;
use super::ranges::{ScanTotals, ScannedRange};
use super::reach::{Place, Reach, WHOLE};
use super::sender::{Batch, Order};
use crate::base::limits::{RANGES_PENDING_BYTES_MAX, RANGES_PENDING_MAX};
use crate::base::progress::{Event, Phase, ProgressSink, Totals};
use crate::base::waker::WakeSource;
use crate::channel::{Activity, Channel, ChannelError};
use crate::protocol::message::{
    BLOCK_HASH_BYTES, HeldContent, SnapshotRow, ToClient, ToServer, blocks_bytes_max, needed_bytes_max,
};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Above this no further range is asked about before an answer has come. With the longest answer on top it
/// is still below the server's ring.
const ANSWER_BYTES_MAX: usize = 96 * 1024;

/// The thread that reads the files has ended, which only a fault of its own does.
pub(super) fn reader_gone() -> ClientError {
    let source = std::io::Error::other("the thread that reads them has ended");
    ClientError::Io { doing: "read the files to back up".into(), source }
}

/// Writes what is staged and sleeps until something happens on any side. `spoke` is when this side did so last.
pub(super) fn rest(channel: &mut Channel, wakes: &WakeSource, spoke: &mut Instant) -> Result<(), ChannelError> {
    channel.push()?;
    if spoke.elapsed() >= Channel::PING_INTERVAL {
        channel.ping()?;
        *spoke = Instant::now();
    }
    let limit = Channel::PING_INTERVAL.saturating_sub(spoke.elapsed());
    // The server answers every ping, so it is never silent for long, whoever is waited for.
    channel.wait_for(wakes, limit)
}

/// How the server may answer for ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holdings {
    /// It may hold anything of them.
    Unknown,
    /// The same, and the upload was cut off before.
    Interrupted,
    /// It has nothing to compare them with: every range is lacking, so its entries go with the question, and a
    /// round trip is saved.
    Nothing,
}

impl Holdings {
    /// How long the answer for a range may become.
    fn answer_bytes(self, range: &ScannedRange) -> usize {
        match self {
            Holdings::Unknown | Holdings::Interrupted => needed_bytes_max(range.entries as usize),
            Holdings::Nothing => needed_bytes_max(0) + (range.entries as usize).div_ceil(8),
        }
    }
}

/// What has been sent.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    pub files: u64,
    pub bytes: u64,
    /// Files whose content the server held already.
    pub files_same: u64,
    pub unreadable: u64,
}

/// How far a connection got, whichever way it ended.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The last content that arrived for sure.
    pub reached: Option<Place>,
    /// What was sent so far, over all connections.
    pub sent: Sent,
}

/// A range that the server has been asked about.
struct Pending {
    number: u32,
    range: Arc<ScannedRange>,
    entries: Entries,
}

/// What is with the entries of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entries {
    Unasked,
    Lacking,
    Sent,
}

#[derive(Debug, PartialEq, Eq)]
enum CommitState {
    NotYet,
    Asked,
}

/// Why an upload ended before its time.
pub enum Stopped {
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

/// What the walk hands over.
pub enum Walked {
    Range(ScannedRange),
    /// Everything was walked; this is what was found in all.
    End(ScanTotals),
}

/// How the threads of a backup are joined.
pub struct Queues {
    pub wakes: WakeSource,
    pub walked: Receiver<Walked>,
    pub orders: Sender<Order>,
    pub batches: Receiver<Batch>,
    pub used: Sender<Vec<u8>>,
    /// As long as there are requests for hashes at once.
    pub blocks: Sender<BlocksAnswer>,
}

/// How an upload ended well.
pub struct Uploaded {
    /// None after a dry run.
    pub snapshot: Option<SnapshotRow>,
    pub scanned: ScanTotals,
    pub sent: Sent,
}

/// The thread that owns the channel.
pub struct Uploading<'a> {
    channel: &'a mut Channel,
    sink: &'a dyn ProgressSink,
    queues: Queues,
    holdings: Holdings,
    /// Ranges whose contents have not all been sent, oldest first.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// Of so many pending ranges the entries may be sent. An upload that was cut off begins with one and rises
    /// with each that is done: where it is cut off again and again, they would all be sent each time.
    ranges_sent_max: usize,
    /// Ranges that are done, kept a little in case a content has to come again.
    recent: VecDeque<Pending>,
    /// Contents that are to be sent again and have not been.
    repeats: u32,
    /// What the answers still to come can take of the server's ring, in bytes.
    answer_bytes: usize,
    /// Requests for hashes of blocks that have not been answered, oldest first.
    blocks_wanted: VecDeque<BlocksWanted>,
    offered: u32,
    entries: u64,
    /// What the walk found in all, once it has ended.
    walked: Option<ScanTotals>,
    commit: CommitState,
    dry_run: bool,
    totals: Totals,
    sent: Sent,
    reach: Reach,
    told: Instant,
    /// The file whose content went out last.
    current_file: Vec<u8>,
    spoke: Instant,
}

impl<'a> Uploading<'a> {
    pub fn new(
        channel: &'a mut Channel,
        sink: &'a dyn ProgressSink,
        queues: Queues,
        holdings: Holdings,
        dry_run: bool,
    ) -> Uploading<'a> {
        Uploading {
            holdings,
            channel,
            sink,
            queues,
            pending: VecDeque::new(),
            pending_bytes: 0,
            ranges_sent_max: if holdings == Holdings::Interrupted { 1 } else { RANGES_PENDING_MAX },
            recent: VecDeque::new(),
            repeats: 0,
            answer_bytes: 0,
            blocks_wanted: VecDeque::new(),
            offered: 0,
            entries: 0,
            walked: None,
            commit: CommitState::NotYet,
            dry_run,
            totals: Totals::default(),
            sent: Sent::default(),
            reach: Reach::default(),
            current_file: Vec::new(),
            told: Instant::now(),
            spoke: Instant::now(),
        }
    }

    /// Runs until the snapshot is stored, or a dry run has seen everything. Where the line ends, what the
    /// server said before that is the reason. `progress` goes on from what earlier connections sent.
    pub fn run(mut self, progress: &mut Progress) -> Result<Uploaded, Stopped> {
        self.sent = progress.sent;
        let result = match self.upload() {
            Err(Stopped::Channel(error)) => Err(self.last_word().unwrap_or(Stopped::Channel(error))),
            other => other,
        };
        let reached = self.reach.verified(self.channel.segments_acknowledged());
        *progress = Progress { reached, sent: self.sent };
        result
    }

    /// A failure that the server told and that was not looked at before the line ended.
    fn last_word(&mut self) -> Option<Stopped> {
        loop {
            match self.take_answers() {
                Err(Stopped::Client(error)) => return Some(Stopped::Client(error)),
                Err(Stopped::Channel(error @ ChannelError::Busy { .. })) => return Some(Stopped::Channel(error)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn upload(&mut self) -> Result<Uploaded, Stopped> {
        loop {
            if let Some(row) = self.take_answers()? {
                return Ok(self.uploaded(Some(row)));
            }
            let mut busy = self.send_contents()?;
            busy |= self.offer_next()?;
            self.tell_progress(false);
            if self.is_all_sent() {
                if self.dry_run {
                    self.channel.send_to_server(&ToServer::Cancel)?;
                    return Ok(self.uploaded(None));
                }
                self.ask_for_commit()?;
            }
            if !busy {
                self.rest()?;
            }
        }
    }

    fn uploaded(&self, snapshot: Option<SnapshotRow>) -> Uploaded {
        Uploaded { snapshot, scanned: self.walked.unwrap_or_default(), sent: self.sent }
    }

    fn rest(&mut self) -> Result<(), Stopped> {
        Ok(rest(self.channel, &self.queues.wakes, &mut self.spoke)?)
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
                ToClient::Stored(row) => return Ok(Some(row)),
                ToClient::RangeHeld { number } => self.held(number)?,
                ToClient::RangeLacking { number } => self.lacking(number)?,
                ToClient::Needed { number, bits, held } => {
                    let bits = bits.to_vec();
                    self.needed(number, bits, held)?;
                }
                ToClient::Blocks { range, entry, first, hashes } => {
                    let hashes = hashes.to_vec();
                    self.blocks((range, entry), BlocksAnswer { first, hashes })?;
                }
                ToClient::ContentRepeat { range, entry } => self.repeat(range, entry)?,
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
        self.answer_bytes = self.answer_bytes.saturating_sub(self.holdings.answer_bytes(&range));
        self.finish_range(number);
        Ok(())
    }

    fn lacking(&mut self, number: u32) -> Result<(), Stopped> {
        self.find(number)?;
        for pending in &mut self.pending {
            if pending.number == number && pending.entries == Entries::Unasked {
                pending.entries = Entries::Lacking;
            }
        }
        self.send_entries()
    }

    /// Sends the entries of the lacking ranges, in order, as far as they may be ahead of the contents.
    fn send_entries(&mut self) -> Result<(), Stopped> {
        let sent = self.pending.iter().filter(|pending| pending.entries == Entries::Sent).count();
        let lacking = self.pending.iter_mut().filter(|pending| pending.entries == Entries::Lacking);
        for pending in lacking.take(self.ranges_sent_max.saturating_sub(sent)) {
            let (number, entries) = (pending.number, &pending.range.bytes);
            self.channel.send_to_server(&ToServer::RangeEntries { number, entries })?;
            pending.entries = Entries::Sent;
            self.spoke = Instant::now();
        }
        Ok(())
    }

    fn needed(&mut self, number: u32, bits: Vec<u8>, held: Vec<HeldContent>) -> Result<(), Stopped> {
        let range = self.find(number)?;
        self.answer_bytes = self.answer_bytes.saturating_sub(self.holdings.answer_bytes(&range));
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
        if bits.iter().all(|byte| *byte == 0) {
            self.reach.told((number, range.entries, WHOLE));
        }
        self.order(Order { number, range, bits, held })
    }

    /// Hands hashes to the reading thread, which waits for them. Never waits itself.
    fn blocks(&mut self, place: (u32, u32), answer: BlocksAnswer) -> Result<(), Stopped> {
        let wanted = self.blocks_wanted.pop_front().filter(|wanted| {
            let fits = answer.hashes.len() <= wanted.count as usize * BLOCK_HASH_BYTES;
            (wanted.range, wanted.entry) == place && wanted.first == answer.first && fits
        });
        let Some(wanted) = wanted else {
            return Err(ChannelError::Violation("it gives hashes of blocks that were not asked for").into());
        };
        self.answer_bytes = self.answer_bytes.saturating_sub(blocks_bytes_max(wanted.count));
        Ok(self.queues.blocks.try_send(answer).map_err(|_| reader_gone())?)
    }

    /// The server got a content with other sums than it was read with: it is read and sent again.
    fn repeat(&mut self, number: u32, entry: u32) -> Result<(), Stopped> {
        let known = self.pending.iter().chain(&self.recent).find(|pending| pending.number == number);
        let Some(range) = known.map(|pending| pending.range.clone()).filter(|range| entry < range.entries) else {
            let text = "a file arrived at the server other than it was read, and can no longer be sent again: run \
                        this again";
            return Err(ClientError::Integrity(text.into()).into());
        };
        let mut bits = vec![0; (range.entries as usize).div_ceil(8)];
        bits[entry as usize / 8] |= 1 << (entry % 8);
        self.repeats += 1;
        self.commit = CommitState::NotYet;
        self.order(Order { number, range, bits, held: Vec::new() })
    }

    fn order(&self, order: Order) -> Result<(), Stopped> {
        Ok(self.queues.orders.send(order).map_err(|_| reader_gone())?)
    }

    fn finish_range(&mut self, number: u32) {
        if let Some(index) = self.pending.iter().position(|pending| pending.number == number)
            && let Some(pending) = self.pending.remove(index)
        {
            self.pending_bytes -= pending.range.bytes.len();
            self.recent.push_back(pending);
            if self.recent.len() > RANGES_PENDING_MAX {
                self.recent.pop_front();
            }
        } else if self.recent.iter().any(|pending| pending.number == number) {
            self.repeats = self.repeats.saturating_sub(1);
        }
    }

    /// Seals and sends the contents that are ready. Answers are looked at after each batch.
    fn send_contents(&mut self) -> Result<bool, Stopped> {
        let batch = match self.queues.batches.try_recv() {
            Ok(batch) => batch,
            Err(TryRecvError::Empty) => return Ok(false),
            // It works as long as there is an order queue: only a fault of its own ends it sooner.
            Err(TryRecvError::Disconnected) => return Err(reader_gone().into()),
        };
        // Counted before they are sent, so that nothing else is asked for in their place.
        self.answer_bytes += batch.blocks_wanted.iter().map(|wanted| blocks_bytes_max(wanted.count)).sum::<usize>();
        self.blocks_wanted.extend(&batch.blocks_wanted);
        self.channel.send_encoded(&batch.bytes)?;
        self.spoke = Instant::now();
        if let Some(place) = batch.reached {
            self.reach.sent(place, self.channel.segments(), self.channel.segments_acknowledged());
        }
        self.sent.files += batch.files;
        self.sent.bytes += batch.content_bytes;
        self.sent.files_same += batch.files_same;
        self.sent.unreadable += batch.unreadable;
        self.totals.files_done += batch.files + batch.files_same + batch.unreadable;
        // What changed under the reader is sent twice; progress counts it once.
        let done = self.totals.bytes_done + batch.content_bytes + batch.bytes_same;
        self.totals.bytes_done = done.min(self.totals.bytes_total);
        if !batch.last_path.is_empty() {
            self.current_file.clear();
            self.current_file.extend_from_slice(&batch.last_path);
            self.tell_progress(false);
        }
        if let Some(number) = batch.finished_range {
            self.finish_range(number);
            self.ranges_sent_max = (self.ranges_sent_max + 1).min(RANGES_PENDING_MAX);
            self.send_entries()?;
        }
        let _ = self.queues.used.send(batch.bytes);
        Ok(true)
    }

    /// Asks about the next range, while there is room for its answer.
    fn offer_next(&mut self) -> Result<bool, Stopped> {
        let room = self.pending.is_empty()
            || (self.pending.len() < RANGES_PENDING_MAX
                && self.pending_bytes < RANGES_PENDING_BYTES_MAX
                && self.answer_bytes < ANSWER_BYTES_MAX);
        if !room || self.walked.is_some() {
            return Ok(false);
        }
        let range = match self.queues.walked.try_recv() {
            Ok(Walked::Range(range)) => range,
            Ok(Walked::End(totals)) => {
                self.walked = Some(totals);
                self.totals.counted = true;
                return Ok(true);
            }
            Err(TryRecvError::Empty) => return Ok(false),
            // Nobody but the wish to stop cuts a walk short.
            Err(TryRecvError::Disconnected) => return Err(ClientError::Interrupted.into()),
        };
        self.channel.send_to_server(&ToServer::RangeOffer { hash: range.hash })?;
        let entries = if self.holdings == Holdings::Nothing { Entries::Lacking } else { Entries::Unasked };
        self.spoke = Instant::now();
        self.totals.files_total = range.totals.files;
        self.totals.bytes_total = range.totals.bytes;
        self.entries += u64::from(range.entries);
        self.pending_bytes += range.bytes.len();
        self.answer_bytes += self.holdings.answer_bytes(&range);
        self.pending.push_back(Pending { number: self.offered, range: Arc::new(range), entries });
        self.offered += 1;
        self.send_entries()?;
        Ok(true)
    }

    fn is_all_sent(&self) -> bool {
        let nothing_pending = self.pending.is_empty() && self.repeats == 0;
        self.walked.is_some() && nothing_pending && self.commit == CommitState::NotYet
    }

    fn ask_for_commit(&mut self) -> Result<(), Stopped> {
        self.tell_progress(true);
        self.sink.event(Event::Phase { phase: Phase::Cleanup, message: "the server is making it durable" });
        let unreadable = self.walked.unwrap_or_default().unreadable;
        self.channel.send_to_server(&ToServer::Commit {
            ranges: self.offered,
            entries: self.entries,
            unreadable,
        })?;
        self.commit = CommitState::Asked;
        Ok(())
    }

    fn tell_progress(&mut self, now: bool) {
        if now || self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.sink.event(Event::Progress { totals: self.totals, current_file: &self.current_file });
        }
    }
}
