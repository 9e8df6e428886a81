//! The thread of a backup into a vault that owns the channel: it asks the server which chunks it lacks, sends those that
//! have been sealed, and in the end the head.
//!
//! ## What bounds what
//! Parcels are as many as their buffers, so are sealed batches; and nothing is asked while the answers that are
//! outstanding could pass [`ANSWER_BYTES_MAX`]: they fit the server's ring, which so never waits for us to read while we
//! wait for it to read. This thread waits for no other one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::super::error::ClientError;
use super::super::ranges::ScanTotals;
use super::super::reach::Reach;
use super::super::uploading::{Progress, Sent, Stopped, reader_gone, rest};
use super::parcel::{Found, Handed, Parcel};
use super::sealing::{Answered, Turns};
use crate::base::progress::{Event, ProgressSink, Totals};
use crate::base::vault::ChunkName;
use crate::base::waker::WakeSource;
use crate::channel::{Activity, Channel, ChannelError};
use crate::protocol::message::{
    MESSAGE_HEADER_BYTES, Names, SnapshotRow, ToClient, ToServer, VaultAnswer, VaultRequest,
};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Above this nothing is asked before an answer has come.
const ANSWER_BYTES_MAX: usize = 96 * 1024;

/// How the threads are joined.
pub struct Queues {
    pub wakes: WakeSource,
    pub handed: Receiver<Handed>,
    /// Whether all lists of a question are held.
    pub answers: Sender<bool>,
    pub free_parcels: Sender<Parcel>,
    pub sealers: Turns,
}

/// What was asked, in order.
struct Asked {
    what: AskedFor,
    names: usize,
    /// The answer: a bit for each name.
    lacking: Option<Vec<u8>>,
}

enum AskedFor {
    Parcel(Parcel),
    Question,
}

/// The thread that owns the channel.
pub struct VaultUploading<'a> {
    channel: &'a mut Channel,
    sink: &'a dyn ProgressSink,
    queues: Queues,
    /// What has not been passed on.
    asked: VecDeque<Asked>,
    /// The number of the next question, and of the next answer.
    next_question: u32,
    next_answer: u32,
    answer_bytes: usize,
    /// Of the file that goes on from one parcel to the next, something is sent.
    is_file_lacking: bool,
    names: Vec<u8>,
    totals: Totals,
    sent: Sent,
    reach: Reach,
    current_file: Vec<u8>,
    told: Instant,
    spoke: Instant,
}

fn answer_bytes(names: usize) -> usize {
    MESSAGE_HEADER_BYTES + 4 + names.div_ceil(8)
}

impl<'a> VaultUploading<'a> {
    pub fn new(channel: &'a mut Channel, sink: &'a dyn ProgressSink, queues: Queues) -> VaultUploading<'a> {
        VaultUploading {
            channel,
            sink,
            queues,
            asked: VecDeque::new(),
            next_question: 0,
            next_answer: 0,
            answer_bytes: 0,
            is_file_lacking: false,
            names: Vec::new(),
            totals: Totals::default(),
            sent: Sent::default(),
            reach: Reach::default(),
            current_file: Vec::new(),
            told: Instant::now(),
            spoke: Instant::now(),
        }
    }

    /// Runs until all that is lacking has been sent. Where the line ends, what the server said before that is the reason.
    /// `progress` goes on from what earlier connections sent.
    pub fn run(mut self, progress: &mut Progress) -> Result<Found, Stopped> {
        self.sent = progress.sent;
        let result = match self.upload() {
            Err(Stopped::Channel(error)) => Err(last_word(self.channel).unwrap_or(Stopped::Channel(error))),
            other => other,
        };
        let reached = self.reach.verified(self.channel.segments_acknowledged());
        *progress = Progress { reached, sent: self.sent };
        result
    }

    fn upload(&mut self) -> Result<Found, Stopped> {
        let mut found = None;
        loop {
            self.take_answers()?;
            let mut busy = self.pass_on()?;
            busy |= self.send_sealed()?;
            busy |= self.take_handed(&mut found)?;
            self.tell_progress(false);
            if self.asked.is_empty()
                && !self.queues.sealers.is_open()
                && let Some(found) = found.take()
            {
                self.tell_progress(true);
                return Ok(found);
            }
            if !busy {
                rest(self.channel, &self.queues.wakes, &mut self.spoke)?;
            }
        }
    }

    fn take_answers(&mut self) -> Result<(), Stopped> {
        loop {
            let message = match self.channel.poll()? {
                Activity::Nothing => return Ok(()),
                Activity::Closed => return Err(ChannelError::Lost.into()),
                Activity::Message(message) => ToClient::decode(message.kind, message.body),
            };
            match message.map_err(ChannelError::Malformed)? {
                ToClient::Vault(VaultAnswer::Lacking { number, bits }) => {
                    let bits = bits.to_vec();
                    self.lacking(number, bits)?;
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    fn lacking(&mut self, number: u32, bits: Vec<u8>) -> Result<(), Stopped> {
        let open = self.asked.iter_mut().find(|asked| asked.lacking.is_none());
        let Some(asked) = open.filter(|asked| number == self.next_answer && bits.len() == asked.names.div_ceil(8))
        else {
            return Err(ChannelError::Violation("it answers a question that was not asked").into());
        };
        self.answer_bytes = self.answer_bytes.saturating_sub(answer_bytes(asked.names));
        self.next_answer = self.next_answer.wrapping_add(1);
        asked.lacking = Some(bits);
        Ok(())
    }

    /// Hands what has been answered to whoever waits for it.
    fn pass_on(&mut self) -> Result<bool, Stopped> {
        let mut busy = false;
        while self.asked.front().is_some_and(|asked| asked.lacking.is_some()) {
            let Some(asked) = self.asked.pop_front() else { break };
            let lacking = asked.lacking.unwrap_or_default();
            busy = true;
            match asked.what {
                AskedFor::Question => {
                    let is_held = lacking.iter().all(|byte| *byte == 0);
                    self.queues.answers.send(is_held).map_err(|_| reader_gone())?;
                }
                AskedFor::Parcel(parcel) => {
                    let answered = Answered::new(parcel, &lacking, &mut self.is_file_lacking);
                    self.queues.sealers.give(answered).map_err(|_| reader_gone())?;
                }
            }
        }
        Ok(busy)
    }

    /// Sends a sealed batch. Answers are looked at after each one.
    fn send_sealed(&mut self) -> Result<bool, Stopped> {
        let Some(batch) = self.queues.sealers.fetch().map_err(|_| reader_gone())? else { return Ok(false) };
        self.channel.send_encoded(&batch.bytes)?;
        self.spoke = Instant::now();
        if let Some(place) = batch.reached {
            self.reach.sent(place, self.channel.segments(), self.channel.segments_acknowledged());
        }
        self.sent.files += batch.sent.files;
        self.sent.bytes += batch.sent.bytes;
        self.sent.files_same += batch.sent.files_same;
        self.sent.unreadable += batch.sent.unreadable;
        let parcel = batch.parcel;
        self.totals.files_done += parcel.files_done;
        // What changed under the reader is read twice; progress counts it once.
        self.totals.bytes_done = (self.totals.bytes_done + parcel.bytes_done).min(self.totals.bytes_total);
        if !parcel.last_path.is_empty() {
            self.current_file.clone_from(&parcel.last_path);
        }
        // Nobody may want them any more.
        let _ = self.queues.free_parcels.send(parcel);
        self.queues.sealers.give_back(batch.bytes);
        Ok(true)
    }

    /// Takes what has been cut, while there is room for the answer about it.
    fn take_handed(&mut self, found: &mut Option<Found>) -> Result<bool, Stopped> {
        if self.answer_bytes >= ANSWER_BYTES_MAX || found.is_some() {
            return Ok(false);
        }
        match self.queues.handed.try_recv() {
            Ok(Handed::Parcel(parcel)) => {
                self.names.clear();
                for name in parcel.items.iter().filter_map(super::parcel::Item::asked) {
                    self.names.extend_from_slice(name.as_bytes());
                }
                self.ask(AskedFor::Parcel(parcel))?;
            }
            Ok(Handed::Question(names)) => {
                self.names = names;
                self.ask(AskedFor::Question)?;
            }
            Ok(Handed::Totals(totals)) => self.count(totals),
            Ok(Handed::End(all)) => {
                self.totals.counted = true;
                *found = Some(*all);
            }
            Ok(Handed::Failed(error)) => return Err(error.into()),
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => return Err(reader_gone().into()),
        }
        Ok(true)
    }

    fn count(&mut self, totals: ScanTotals) {
        self.totals.files_total = totals.files;
        self.totals.bytes_total = totals.bytes;
    }

    fn ask(&mut self, what: AskedFor) -> Result<(), Stopped> {
        let names = self.names.len() / ChunkName::BYTES;
        if names == 0 {
            self.asked.push_back(Asked { what, names, lacking: Some(Vec::new()) });
            return Ok(());
        }
        let request = VaultRequest::Ask { number: self.next_question, names: Names::of(&self.names) };
        self.channel.send_to_server(&ToServer::Vault(request))?;
        self.next_question = self.next_question.wrapping_add(1);
        self.answer_bytes += answer_bytes(names);
        self.spoke = Instant::now();
        self.asked.push_back(Asked { what, names, lacking: None });
        Ok(())
    }

    fn tell_progress(&mut self, now: bool) {
        if now || self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.sink.event(Event::Progress { totals: self.totals, current_file: &self.current_file });
        }
    }
}

/// What an answer means that is no answer to a question.
fn unexpected(answer: ToClient<'_>) -> Stopped {
    match answer {
        ToClient::Busy { seconds } => ChannelError::Busy { seconds }.into(),
        ToClient::Failure { code, text } => ClientError::Failure { code, text }.into(),
        _ => ChannelError::Violation("that answer does not belong to an upload").into(),
    }
}

/// A failure that the server told and that was not looked at before the line ended.
fn last_word(channel: &mut Channel) -> Option<Stopped> {
    loop {
        let answer = match channel.poll() {
            Ok(Activity::Message(message)) => ToClient::decode(message.kind, message.body).ok()?,
            _ => return None,
        };
        if let ToClient::Failure { .. } | ToClient::Busy { .. } = answer {
            return Some(unexpected(answer));
        }
    }
}

/// Sends the head, and waits until the snapshot is stored.
pub fn commit(channel: &mut Channel, name: ChunkName, sealed: &[u8]) -> Result<SnapshotRow, Stopped> {
    let sent = channel.send_to_server(&ToServer::Vault(VaultRequest::Commit { name, sealed }));
    let answer = sent.and_then(|()| channel.push()).and_then(|()| {
        let message = channel.receive()?.ok_or(ChannelError::Lost)?;
        Ok(match ToClient::decode(message.kind, message.body).map_err(ChannelError::Malformed)? {
            ToClient::Stored(row) => Ok(row),
            other => Err(unexpected(other)),
        })
    });
    match answer {
        Ok(answer) => answer,
        Err(error) => Err(last_word(channel).unwrap_or(Stopped::Channel(error))),
    }
}
