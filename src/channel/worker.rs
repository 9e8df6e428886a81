//! One command of a conversation, worked on by a thread of its own while the channel's thread keeps the
//! channel alive: it seals and sends what the worker gives out, receives and opens what the worker takes
//! in, and pings while the worker is busy with its disk or its terminal.
//!
//! ## Why it cannot stop, grow or leak
//! Both queues are bounded. A worker that is slow stops the reading, so the peer's ring fills and the peer
//! waits; a peer that is slow stops the sending, so the worker waits. When the channel ends, both queues
//! are dropped: the worker's next send or receive fails and it returns. The scope joins it, and its panic
//! goes on in the channel's thread.
//!
//! ## Why nothing is lost at the end
//! The peer may have the last answer, and speak again, before the worker that gave it has returned. So what
//! came meanwhile goes back to the channel, for whatever is next, and a close is a close of the session, not
//! of the command.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use super::error::ChannelError;
use super::sealed::{Activity, Channel, Message};
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::waker::{WakeSource, Waker, waker};
use crate::protocol::message::{MESSAGE_HEADER_BYTES, ToClient, ToServer, message_kind};

/// Most batches of messages, each about [`BATCH_BYTES`], that wait for the worker or for the channel.
const QUEUE_BATCHES_MAX: usize = 3;
/// How much is gathered before it is handed over.
const BATCH_BYTES: usize = CONTENT_CHUNK_BYTES;
/// Room for a batch: the message that fills it may be a whole piece of a content.
const BATCH_CAPACITY: usize = BATCH_BYTES + CONTENT_CHUNK_BYTES + 2 * MESSAGE_HEADER_BYTES;
/// What waits for the worker is lost with this process, like what is on its way: it is at most this part of what the
/// peer may have on its way, and the message that passes it. It is memory, so it is as small a part of this side's ring.
const QUEUED_PART: usize = 4;

/// The connection is gone: the worker has nobody to work for.
#[derive(Debug)]
pub struct Gone;

/// What a worker speaks to the peer through.
pub struct Outbox {
    batches: Sender<Vec<u8>>,
    /// Batches that have been sent, to be filled again.
    used: Receiver<Vec<u8>>,
    waker: Waker,
    filling: Vec<u8>,
    damaged: u64,
    /// The connection's thread has nothing more to do with the worker.
    is_left: Arc<AtomicBool>,
}

impl Outbox {
    /// Whether the connection has ended, for a worker that is long busy without a word to the peer.
    pub fn is_gone(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
    }

    /// Adds a message; hands a batch over when one is full.
    pub fn send_to_client(&mut self, message: &ToClient<'_>) -> Result<(), Gone> {
        self.damaged += u64::from(matches!(message, ToClient::Damage { .. } | ToClient::ContentFailed { .. }));
        message.encode(&mut self.filling);
        if self.filling.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// The same, where the peer is a server.
    pub fn send_to_server(&mut self, message: &ToServer<'_>) -> Result<(), Gone> {
        message.encode(&mut self.filling);
        if self.filling.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// How many of the messages told of damage.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Hands over what was added.
    pub fn flush(&mut self) -> Result<(), Gone> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let next = self.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH_CAPACITY));
        let batch = std::mem::replace(&mut self.filling, next);
        self.batches.send(batch).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let _ = self.flush();
        // The queue is closed after this, and the connection's thread must see it.
        let (closed, _) = bounded(0);
        self.batches = closed;
        self.waker.wake();
    }
}

/// What a worker takes the peer's messages from.
pub struct Intake {
    batches: Receiver<Vec<u8>>,
    used: Sender<Vec<u8>>,
    waker: Waker,
}

impl Intake {
    /// The next batch of whole messages, or none when the connection is gone.
    pub fn next(&self) -> Option<Vec<u8>> {
        self.batches.recv().ok()
    }

    /// Gives a batch back: it has been worked through.
    pub fn done(&self, batch: Vec<u8>) {
        let _ = self.used.send(batch);
        self.waker.wake();
    }
}

/// The messages in a batch, one by one.
pub fn messages(batch: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let (header, after) = rest.split_at_checked(MESSAGE_HEADER_BYTES)?;
        let length = u32::from_le_bytes(header[1..].try_into().ok()?) as usize;
        let (body, next) = after.split_at_checked(length)?;
        rest = next;
        Some((header[0], body))
    })
}

/// How a command ended on both threads.
#[derive(Debug)]
pub struct Conversation<R> {
    /// What the worker made of it. It has seen every message that came whole.
    pub result: R,
    /// Whether the channel is still good.
    pub channel: Result<(), ChannelError>,
}

/// Runs `work` with the peer's further messages at hand.
///
/// # Errors
/// Only where the worker could not be started.
pub fn converse<R: Send>(
    channel: &mut Channel,
    work: impl FnOnce(&Intake, &mut Outbox) -> R + Send,
) -> Result<Conversation<R>, ChannelError> {
    let (waker, wakes) = waker().map_err(ChannelError::Io)?;
    let (batches, intake) = bounded(QUEUE_BATCHES_MAX);
    let (used, returned) = unbounded();
    let untaken = intake.clone();
    let intake = Intake { batches: intake, used, waker: waker.clone() };
    with_worker(
        channel,
        &waker,
        move |outbox| {
            let result = work(&intake, outbox);
            drop(intake);
            result
        },
        |channel, outgoing| {
            let batches = Some(batches);
            let queued_bytes_max = channel.peer_window().min(channel.window()) / QUEUED_PART;
            let (in_hand, spare) = (VecDeque::new(), Vec::new());
            Exchange { channel, wakes, batches, untaken, returned, in_hand, queued_bytes_max, spare }.run(outgoing)
        },
    )
}

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered<R> {
    /// What the worker made of it. None: the client cancelled it.
    pub result: Option<R>,
    /// The client's next request is here already.
    pub has_next: bool,
}

/// Runs `work`, which streams an answer.
pub fn answer<R: Send>(
    channel: &mut Channel,
    work: impl FnOnce(&mut Outbox) -> R + Send,
) -> Result<Answered<R>, ChannelError> {
    let (waker, wakes) = waker().map_err(ChannelError::Io)?;
    let mut ended = AnswerEnd::Whole { has_next: false };
    let Conversation { result, channel } = with_worker(channel, &waker, work, |channel, outgoing| {
        ended = stream(channel, &wakes, outgoing)?;
        Ok(())
    })?;
    channel.map(|()| match ended {
        AnswerEnd::Cancelled => Answered { result: None, has_next: false },
        AnswerEnd::Whole { has_next } => Answered { result: Some(result), has_next },
    })
}

fn with_worker<R: Send>(
    channel: &mut Channel,
    waker: &Waker,
    work: impl FnOnce(&mut Outbox) -> R + Send,
    carry: impl FnOnce(&mut Channel, Outgoing) -> Result<(), ChannelError>,
) -> Result<Conversation<R>, ChannelError> {
    let queue_batches = (channel.window() / BATCH_BYTES).clamp(1, QUEUE_BATCHES_MAX);
    let (batches, outgoing) = bounded(queue_batches);
    let (used, returned) = bounded(queue_batches);
    let outgoing = Outgoing { batches: outgoing, used };
    let is_left = Arc::new(AtomicBool::new(false));
    let mut outbox = Outbox {
        batches,
        used: returned,
        waker: waker.clone(),
        filling: Vec::with_capacity(BATCH_CAPACITY),
        damaged: 0,
        is_left: is_left.clone(),
    };
    let name = format!("{} worker", thread::current().name().unwrap_or("connection"));
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, move || {
                let result = work(&mut outbox);
                drop(outbox);
                result
            })
            .map_err(ChannelError::Io)?;
        // The queues go with `carry`: where it fails, the worker finds nobody at their other end.
        let carried = carry(channel, outgoing);
        is_left.store(true, Ordering::Relaxed);
        let result = worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(Conversation { result, channel: carried })
    })
}

/// The other end of an [`Outbox`].
struct Outgoing {
    batches: Receiver<Vec<u8>>,
    used: Sender<Vec<u8>>,
}

/// How the worker's queue stands after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Whatever comes into it wakes this thread.
    Empty,
    /// There may be more in it, or its end, whose wakes have been taken: nobody may sleep on it.
    Unknown,
    /// The worker has ended.
    Closed,
}

/// Sends what the worker has given out, one queue full at most, so that the peer is looked at in between.
fn send_out(channel: &mut Channel, outgoing: &Outgoing) -> Result<Queue, ChannelError> {
    for number in 0..QUEUE_BATCHES_MAX {
        match outgoing.batches.try_recv() {
            Ok(batch) => {
                channel.send_encoded(&batch)?;
                // Where the queue is full, there are enough of them.
                if let Some(batch) = emptied(batch) {
                    let _ = outgoing.used.try_send(batch);
                }
            }
            Err(error) => {
                if number > 0 {
                    channel.push()?;
                }
                return Ok(if error == TryRecvError::Empty { Queue::Empty } else { Queue::Closed });
            }
        }
    }
    channel.push()?;
    Ok(Queue::Unknown)
}

/// The connection's side of [`converse`].
struct Exchange<'a> {
    channel: &'a mut Channel,
    wakes: WakeSource,
    /// None once the peer has closed: nothing more will come.
    batches: Option<Sender<Vec<u8>>>,
    /// The other end of `batches`, for what the worker leaves in it.
    untaken: Receiver<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    /// Batches that the worker has and has not given back, by their bytes.
    in_hand: VecDeque<usize>,
    queued_bytes_max: usize,
    /// Empty batches; with those in hand, no more than the queue takes.
    spare: Vec<Vec<u8>>,
}

impl Exchange<'_> {
    fn run(mut self, outgoing: Outgoing) -> Result<(), ChannelError> {
        let mut pinged = Instant::now();
        loop {
            let queue = send_out(self.channel, &outgoing)?;
            if queue == Queue::Closed {
                break;
            }
            self.take_back();
            if !self.in_hand.is_empty() && pinged.elapsed() >= Channel::PING_INTERVAL {
                self.channel.ping()?;
                pinged = Instant::now();
            }
            let takes_more = !self.is_queue_full() && self.batches.is_some();
            if takes_more && self.gather()? || queue == Queue::Unknown {
                continue;
            }
            match (takes_more, self.in_hand.is_empty()) {
                (false, _) => self.channel.idle_without_reading(&self.wakes, Channel::PING_INTERVAL)?,
                (true, true) => self.channel.wait_for(&self.wakes, Channel::PING_INTERVAL)?,
                (true, false) => self.channel.idle(&self.wakes, Channel::PING_INTERVAL)?,
            }
        }
        let left: Vec<u8> = self.untaken.try_iter().flatten().collect();
        self.channel.put_back(&left);
        Ok(())
    }

    fn is_queue_full(&self) -> bool {
        self.in_hand.len() >= QUEUE_BATCHES_MAX || self.in_hand.iter().sum::<usize>() > self.queued_bytes_max
    }

    fn take_back(&mut self) {
        while let Ok(batch) = self.returned.try_recv() {
            self.in_hand.pop_front();
            self.spare.extend(emptied(batch));
        }
    }

    /// Hands a batch of what has come to the worker; false if nothing has.
    fn gather(&mut self) -> Result<bool, ChannelError> {
        let mut batch = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_CAPACITY));
        let batch_bytes = BATCH_BYTES.min(self.queued_bytes_max);
        while batch.len() < batch_bytes {
            match self.channel.poll() {
                // What came whole before the end is still worked on; the end is met at the next look.
                Err(_) if !batch.is_empty() => break,
                Err(error) => return Err(error),
                Ok(Activity::Message(message)) => put_message(&mut batch, &message),
                // A worker that still waits for more finds its queue at an end.
                Ok(Activity::Closed) if batch.is_empty() => {
                    self.batches = None;
                    return Ok(true);
                }
                Ok(Activity::Closed | Activity::Nothing) => break,
            }
        }
        if batch.is_empty() {
            self.spare.push(batch);
            return Ok(false);
        }
        let bytes = batch.len();
        // A worker that has ended takes nothing more; the loop will see that it has.
        if self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok()) {
            self.in_hand.push_back(bytes);
        }
        Ok(true)
    }
}

/// A batch to be filled again; none where a long message has made it larger than others need.
fn emptied(mut batch: Vec<u8>) -> Option<Vec<u8>> {
    batch.clear();
    (batch.capacity() <= BATCH_CAPACITY).then_some(batch)
}

/// Appends a message as it came.
fn put_message(out: &mut Vec<u8>, message: &Message<'_>) {
    out.push(message.kind);
    let length = u32::try_from(message.body.len()).expect("bodies are below 2 MiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(message.body);
}

/// Whether the client heard an answer to its end.
enum AnswerEnd {
    Whole { has_next: bool },
    Cancelled,
}

/// The connection's side of [`answer`].
fn stream(channel: &mut Channel, wakes: &WakeSource, outgoing: Outgoing) -> Result<AnswerEnd, ChannelError> {
    let mut pinged = Instant::now();
    let mut next = Vec::new();
    loop {
        let queue = send_out(channel, &outgoing)?;
        if queue == Queue::Closed {
            break;
        }
        if pinged.elapsed() >= Channel::PING_INTERVAL {
            channel.ping()?;
            pinged = Instant::now();
        }
        if !next.is_empty() {
            if queue == Queue::Empty {
                channel.idle_without_reading(wakes, Channel::PING_INTERVAL)?;
            }
            continue;
        }
        match channel.poll()? {
            Activity::Nothing if queue == Queue::Unknown => {}
            Activity::Nothing => channel.idle(wakes, Channel::PING_INTERVAL)?,
            // Nobody hears what the worker still has to say.
            Activity::Closed => {
                outgoing.batches.iter().for_each(drop);
                return Ok(AnswerEnd::Whole { has_next: false });
            }
            // Leaving drops the queue, which stops the worker.
            Activity::Message(message) if message.kind == message_kind::CANCEL => return Ok(AnswerEnd::Cancelled),
            Activity::Message(message) => put_message(&mut next, &message),
        }
    }
    channel.put_back(&next);
    Ok(AnswerEnd::Whole { has_next: !next.is_empty() })
}
