//! One command of a conversation, worked on by a thread of its own while the channel's thread keeps the
//! channel alive: it seals and sends what the worker gives out, receives and opens what the worker takes
//! in, and pings while the worker is busy with its disk or its terminal.
//!
//! ## Why it cannot stop, grow or leak
//! Both queues are bounded. A worker that is slow stops the reading, so the peer's ring fills and the peer
//! waits; a peer that is slow stops the sending, so the worker waits. When the channel ends, both queues
//! are dropped: the worker's next send or receive fails and it returns. The scope joins it, and its panic
//! goes on in the channel's thread.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use super::error::ChannelError;
use super::sealed::{Activity, Channel};
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::waker::{WakeSource, Waker, waker};
use crate::protocol::message::{MESSAGE_HEADER_BYTES, ToClient, ToServer};

/// Batches of messages, each about [`BATCH_BYTES`], that wait for the worker or for the channel.
const QUEUE_BATCHES: usize = 3;
/// How much is gathered before it is handed over.
const BATCH_BYTES: usize = CONTENT_CHUNK_BYTES;

/// The connection is gone: the worker has nobody to work for.
#[derive(Debug)]
pub struct Gone;

/// What a worker speaks to the peer through.
pub struct Outbox {
    batches: Sender<Vec<u8>>,
    waker: Waker,
    filling: Vec<u8>,
}

impl Outbox {
    /// Adds a message; hands a batch over when one is full.
    pub fn send_to_client(&mut self, message: &ToClient<'_>) -> Result<(), Gone> {
        message.encode(&mut self.filling);
        if self.filling.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Hands over what was added.
    pub fn flush(&mut self) -> Result<(), Gone> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.filling);
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
    /// Whether the worker was told that no more comes.
    ended: Arc<AtomicBool>,
}

impl Intake {
    /// The next batch of whole messages, or none when the connection is gone.
    pub fn next(&self) -> Option<Vec<u8>> {
        let batch = self.batches.recv().ok();
        if batch.is_none() {
            self.ended.store(true, Ordering::Relaxed);
        }
        batch
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

/// Runs `work` with the peer's further messages at hand.
pub fn converse<R: Send>(
    channel: &mut Channel,
    work: impl FnOnce(&Intake, &mut Outbox) -> R + Send,
) -> Result<R, ChannelError> {
    let (result, carried) = exchange(channel, &Arc::default(), work)?;
    carried.map(|()| result)
}

/// Runs `work` on the peer's answer. What the worker made of the messages that came counts, even where the
/// line ended right after them: a peer that fails says why, and then ends.
pub fn listen<R: Send>(channel: &mut Channel, work: impl FnOnce(&Intake) -> R + Send) -> Result<R, ChannelError> {
    let ended = Arc::default();
    match exchange(channel, &ended, |intake, _| work(intake))? {
        (_, Err(error)) if ended.load(Ordering::Relaxed) => Err(error),
        (result, _) => Ok(result),
    }
}

/// A worker's result, and how the carrying of its messages ended.
type Worked<R> = (R, Result<(), ChannelError>);

fn exchange<R: Send>(
    channel: &mut Channel,
    ended: &Arc<AtomicBool>,
    work: impl FnOnce(&Intake, &mut Outbox) -> R + Send,
) -> Result<Worked<R>, ChannelError> {
    let (waker, wakes) = waker().map_err(ChannelError::Io)?;
    let (batches, intake) = bounded(QUEUE_BATCHES);
    let (used, returned) = unbounded();
    let intake = Intake { batches: intake, used, waker: waker.clone(), ended: ended.clone() };
    with_worker(
        channel,
        &waker,
        move |outbox| {
            let result = work(&intake, outbox);
            drop(intake);
            result
        },
        |channel, outgoing| {
            Exchange { channel, wakes, batches, returned, in_hand: 0, gathering: Vec::new() }.run(outgoing)
        },
    )
}

/// Runs `work`, which streams an answer. None: the client cancelled it.
pub fn answer<R: Send>(
    channel: &mut Channel,
    work: impl FnOnce(&mut Outbox) -> R + Send,
) -> Result<Option<R>, ChannelError> {
    let (waker, wakes) = waker().map_err(ChannelError::Io)?;
    let mut cancelled = false;
    let (result, carried) = with_worker(channel, &waker, work, |channel, outgoing| {
        cancelled = stream(channel, &wakes, outgoing)?;
        Ok(())
    })?;
    carried.map(|()| (!cancelled).then_some(result))
}

fn with_worker<R: Send>(
    channel: &mut Channel,
    waker: &Waker,
    work: impl FnOnce(&mut Outbox) -> R + Send,
    carry: impl FnOnce(&mut Channel, Receiver<Vec<u8>>) -> Result<(), ChannelError>,
) -> Result<Worked<R>, ChannelError> {
    let (batches, outgoing) = bounded(QUEUE_BATCHES);
    let mut outbox = Outbox { batches, waker: waker.clone(), filling: Vec::new() };
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
        let result = worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((result, carried))
    })
}

/// Whether the worker goes on after what it gave out was sent.
fn send_out(channel: &mut Channel, outgoing: &Receiver<Vec<u8>>) -> Result<bool, ChannelError> {
    let mut sent = false;
    loop {
        match outgoing.try_recv() {
            Ok(batch) => channel.send_encoded(&batch)?,
            Err(error) => {
                if sent {
                    channel.push()?;
                }
                return Ok(error == TryRecvError::Empty);
            }
        }
        sent = true;
    }
}

/// The connection's side of [`converse`].
struct Exchange<'a> {
    channel: &'a mut Channel,
    wakes: WakeSource,
    batches: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    /// Batches that the worker has and has not given back.
    in_hand: usize,
    gathering: Vec<u8>,
}

impl Exchange<'_> {
    fn run(mut self, outgoing: Receiver<Vec<u8>>) -> Result<(), ChannelError> {
        let mut pinged = Instant::now();
        while send_out(self.channel, &outgoing)? {
            self.take_back();
            if self.in_hand > 0 && pinged.elapsed() >= Channel::PING_INTERVAL {
                self.channel.ping()?;
                pinged = Instant::now();
            }
            if self.in_hand >= QUEUE_BATCHES {
                self.channel.idle_without_reading(&self.wakes, Channel::PING_INTERVAL)?;
            } else if !self.gather()? {
                match self.in_hand {
                    0 => self.channel.wait_for(&self.wakes, Channel::PING_INTERVAL)?,
                    _ => self.channel.idle(&self.wakes, Channel::PING_INTERVAL)?,
                }
            }
        }
        Ok(())
    }

    fn take_back(&mut self) {
        while let Ok(mut batch) = self.returned.try_recv() {
            self.in_hand -= 1;
            batch.clear();
            self.gathering = batch;
        }
    }

    /// Hands a batch of what has come to the worker; false if nothing has. What came before an error is
    /// handed over with it.
    fn gather(&mut self) -> Result<bool, ChannelError> {
        let filled = self.fill();
        if self.gathering.is_empty() {
            return filled.map(|()| false);
        }
        let batch = std::mem::take(&mut self.gathering);
        // A worker that has ended takes nothing more; the loop will see that it has.
        if self.batches.send(batch).is_ok() {
            self.in_hand += 1;
        }
        filled.map(|()| true)
    }

    fn fill(&mut self) -> Result<(), ChannelError> {
        while self.gathering.len() < BATCH_BYTES {
            match self.channel.poll()? {
                Activity::Message(message) => {
                    self.gathering.push(message.kind);
                    let length = u32::try_from(message.body.len()).expect("bodies are below 2 MiB");
                    self.gathering.extend_from_slice(&length.to_le_bytes());
                    self.gathering.extend_from_slice(message.body);
                }
                Activity::Closed => return Err(ChannelError::Violation("it closed in the middle of a command")),
                Activity::Nothing => break,
            }
        }
        Ok(())
    }
}

/// The connection's side of [`answer`]; says whether the client cancelled.
fn stream(channel: &mut Channel, wakes: &WakeSource, outgoing: Receiver<Vec<u8>>) -> Result<bool, ChannelError> {
    let mut pinged = Instant::now();
    while send_out(channel, &outgoing)? {
        if pinged.elapsed() >= Channel::PING_INTERVAL {
            channel.ping()?;
            pinged = Instant::now();
        }
        match channel.poll()? {
            Activity::Nothing => channel.idle(wakes, Channel::PING_INTERVAL)?,
            Activity::Closed => return Err(ChannelError::Violation("it closed in the middle of an answer")),
            Activity::Message(message) => match ToServer::decode(message.kind, message.body) {
                // Leaving drops the queue, which stops the worker.
                Ok(ToServer::Cancel) => return Ok(true),
                _ => return Err(ChannelError::Violation("it asks in the middle of an answer")),
            },
        }
    }
    Ok(false)
}
