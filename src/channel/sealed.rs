//! The sealed stream: messages in, messages out, over segments that are repeated where the line damages
//! them.
//!
//! ## What holds, and why
//! - **Nothing unverified leaves this module.** Plaintext enters the inbox only from `Opener`, which gives
//!   out nothing before its HMAC has been checked, and data only in sequence.
//! - **No deadlock.** A thread sleeps in one place, [`Channel::wait`], and there it waits to read and to
//!   write at once. Whoever waits for room in the ring reads meanwhile; what arrives then is bounded,
//!   because only one side sends bulk at a time and the other's answers are bounded by what was asked.
//! - **One answer to damage.** A bad data segment is answered by one repeat-from; what follows is dropped,
//!   uncounted, until the sender says where it resumed or the wanted segment itself arrives whole. If the
//!   line then stays silent for two seconds, the request is made again. The third failure of one segment
//!   ends the channel. A bad control segment is dropped: whatever it said is said again, and whoever waits
//!   two seconds for an acknowledgement pings, which is answered by one.
//! - **An end is an end only if it was said.** Anything but a sealed close is a lost connection.

use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use super::error::ChannelError;
use super::framing::Framing;
use super::inbox::Inbox;
use super::ring::Ring;
use super::transport::{Closer, Interest, Transport, WaitBudget};
use crate::base::limits::{PING_INTERVAL, SLOWEST_BYTES_PER_SECOND};
use crate::base::waker::WakeSource;
use crate::crypto::{
    Direction, DirectionChains, Kind, Opened, Opener, SEGMENT_PLAINTEXT_MAX, Sealer, SessionKeys,
    sealed_payload_bytes,
};
use crate::protocol::control::{CONTROL_BYTES_MAX, Control};
use crate::protocol::header::REQUEST_HEADER_BYTES;
use crate::protocol::message::{ToClient, ToServer};

/// Most data segments that are sealed and written at a time, where the ring has room for two such batches: the widest
/// cipher takes 64 blocks at once, and half of them costs as much.
const BATCH_SEGMENTS_MAX: usize = 32;
/// Most data segments that are opened at a time: as many as are authenticated side by side. A small ring has fewer.
const OPENED_SEGMENTS_MAX: usize = 16;
/// Room for one segment, whichever side sent it.
const RECEIVED_SEGMENT_BYTES: usize = REQUEST_HEADER_BYTES + sealed_payload_bytes(SEGMENT_PLAINTEXT_MAX);
/// How often one segment may fail before the channel ends.
const FAILURES_MAX: u32 = 3;
/// How long a silent line is given before a repeat is asked for again, and a close sent again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// What a resend ring is to carry where round trips are long, in bytes a second.
const LONG_WINDOW_RATE: u32 = 80_000_000;
/// How long a last word may take to be written.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a close is sent.
const CLOSE_TRIES: u32 = 3;
/// Sealed control segments that wait for the socket; a peer that reads nothing gets no more of them.
const CONTROL_WAITING_BYTES_MAX: usize = 4 * 1024;
/// A peer may make us answer; a peer that makes us answer this much unread breaks the rules.
const CONTROL_WAITING_BYTES_LIMIT: usize = 64 * 1024;

/// Which end of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// What a channel is made of once a handshake has agreed on it.
pub(super) struct Agreement {
    pub role: Role,
    pub keys: SessionKeys,
    /// This side's resend ring in bytes, and the other side's.
    pub window: u32,
    pub peer_window: u32,
    pub timeout: Duration,
}

/// How many segments went, came, and had to be repeated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    pub sent: u64,
    pub received: u64,
    /// Data segments that arrived damaged, each answered by a repeat request.
    pub damaged: u64,
    /// Control segments that arrived damaged and were dropped.
    pub control_damaged: u64,
    /// Data segments that were sent again.
    pub repeated: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// One received message: its kind and body, to be decoded by [`crate::protocol::message`].
#[derive(Debug)]
pub struct Message<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

/// What a look at the channel found.
#[derive(Debug)]
pub enum Activity<'a> {
    Message(Message<'a>),
    /// The peer has closed, and every message before that was given out.
    Closed,
    Nothing,
}

/// How the receiving side stands after damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    None,
    /// A repeat was asked for; `silent_since` moves on while the line still brings older segments.
    Asking {
        silent_since: Instant,
    },
    /// The sender resumed before what is wanted: what comes again is passed over.
    PassingOver,
}

/// Plaintext that is being laid out as frames.
#[derive(Debug, Default)]
struct Staging {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    plaintext_lens: Vec<usize>,
    /// Room for the header of one frame.
    header: Vec<u8>,
    /// Plaintext in the frame that is still open.
    open: Option<usize>,
}

/// One end of a sealed channel.
pub struct Channel {
    transport: Transport,
    pub(super) timeout: Duration,
    sending: Framing,
    receiving: Framing,
    data_sealer: Sealer,
    control_sealer: Sealer,
    data_opener: Opener,
    control_opener: Opener,
    staging: Staging,
    batch_segments: usize,
    ring: Ring,
    window: usize,
    control: Vec<u8>,
    control_written: usize,
    rewind_to: Option<u64>,
    received: Vec<u8>,
    unread: Range<usize>,
    frames: Vec<Range<usize>>,
    opened: Vec<Opened>,
    inbox: Inbox,
    repair: Repair,
    failures: u32,
    /// The peer has not proved itself yet: its first segment must verify.
    proving: bool,
    acknowledge_every: usize,
    unacknowledged_bytes: usize,
    acknowledged_sequence: u64,
    acknowledgement_wanted: bool,
    heard: Instant,
    peer_closed: bool,
    close_answered: bool,
    /// The socket brings nothing more, or takes nothing more. What came before is still given out.
    ended: bool,
    /// What comes is dropped: this side has said its last word.
    discarding: bool,
    counts: SegmentCounts,
}

impl Channel {
    pub(super) fn new(transport: Transport, agreement: Agreement) -> Channel {
        let SessionKeys { client_to_server, server_to_client } = agreement.keys;
        let (to_server, to_client) = (Direction::ClientToServer, Direction::ServerToClient);
        let (out, inward, out_chains, in_chains) = match agreement.role {
            Role::Client => (to_server, to_client, client_to_server, server_to_client),
            Role::Server => (to_client, to_server, server_to_client, client_to_server),
        };
        let (sending, receiving) = (Framing::of(out), Framing::of(inward));
        let DirectionChains { data: out_data, control: out_control } = out_chains;
        let DirectionChains { data: in_data, control: in_control } = in_chains;
        let window = agreement.window as usize;
        let full_frame = sending.header_bytes + sealed_payload_bytes(SEGMENT_PLAINTEXT_MAX);
        // Two batches fit the ring, so that one is acknowledged while the next goes out. No more is received at a time.
        let batch_segments = (window / 2 / full_frame).clamp(1, BATCH_SEGMENTS_MAX);
        Channel {
            transport,
            timeout: agreement.timeout,
            sending,
            receiving,
            data_sealer: Sealer::new(out, Kind::Data, out_data, sending.header_bytes),
            control_sealer: Sealer::new(out, Kind::Control, out_control, sending.header_bytes),
            data_opener: Opener::new(inward, Kind::Data, in_data, receiving.header_bytes),
            control_opener: Opener::new(inward, Kind::Control, in_control, receiving.header_bytes),
            staging: Staging::default(),
            batch_segments,
            ring: Ring::new(batch_segments * full_frame),
            window,
            control: Vec::new(),
            control_written: 0,
            rewind_to: None,
            received: vec![0; batch_segments.min(OPENED_SEGMENTS_MAX) * RECEIVED_SEGMENT_BYTES],
            unread: 0..0,
            frames: Vec::new(),
            opened: Vec::new(),
            inbox: Inbox::default(),
            repair: Repair::None,
            failures: 0,
            proving: true,
            acknowledge_every: agreement.peer_window as usize / 4,
            unacknowledged_bytes: 0,
            acknowledged_sequence: 0,
            acknowledgement_wanted: false,
            heard: Instant::now(),
            peer_closed: false,
            close_answered: false,
            ended: false,
            discarding: false,
            counts: SegmentCounts::default(),
        }
    }

    pub fn counts(&self) -> SegmentCounts {
        self.counts
    }

    /// The resend ring in bytes that carries [`LONG_WINDOW_RATE`] where a round trip takes so long, within bounds.
    pub fn fitting_window(round_trip: Duration, bounds: RangeInclusive<u32>) -> u32 {
        let on_its_way = round_trip.as_secs_f64() * f64::from(LONG_WINDOW_RATE);
        (on_its_way as u32).clamp(*bounds.start(), *bounds.end())
    }

    /// Lets this side keep so many bytes on their way, more or fewer than it announced.
    pub fn set_window(&mut self, bytes: u32) {
        self.window = bytes as usize;
    }

    /// This side's resend ring in bytes.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The resend ring that the peer announced, in bytes.
    pub(super) fn peer_window(&self) -> usize {
        self.acknowledge_every * 4
    }

    /// Ends this connection from another thread.
    pub fn closer(&self) -> Closer {
        self.transport.closer()
    }

    pub fn send_to_server(&mut self, message: &ToServer<'_>) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send_encoded(&bytes)
    }

    pub fn send_to_client(&mut self, message: &ToClient<'_>) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send_encoded(&bytes)
    }

    /// Adds encoded messages to the stream. Full batches are sealed and sent as they fill; the rest waits
    /// for [`Channel::push`] or [`Channel::flush`]. Waits for room in the ring, reading meanwhile.
    pub fn send_encoded(&mut self, mut bytes: &[u8]) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            let filled = match self.staging.open {
                Some(filled) => filled,
                None => self.open_frame()?,
            };
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT_PLAINTEXT_MAX - filled));
            self.staging.bytes.extend_from_slice(now);
            self.staging.open = Some(filled + now.len());
            bytes = later;
            if filled + now.len() == SEGMENT_PLAINTEXT_MAX {
                self.finish_frame();
            }
        }
        Ok(())
    }

    /// Seals what was added and writes as much as the socket takes now.
    pub fn push(&mut self) -> Result<(), ChannelError> {
        self.finish_frame();
        self.seal_staged()?;
        self.write_some()
    }

    /// Seals what was added and waits until all of it has been written.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        self.push()?;
        let began = Instant::now();
        while self.has_unsent() {
            self.read_while_writing()?;
            if self.has_unsent() {
                self.wait(None, self.send_deadline(began))?;
                self.write_some()?;
            }
        }
        Ok(())
    }

    /// Waits for the next message. None: the peer has closed.
    pub fn receive(&mut self) -> Result<Option<Message<'_>>, ChannelError> {
        let began = Instant::now();
        let located = loop {
            if let Some(located) = self.inbox.locate(&self.received)? {
                break located;
            }
            if self.peer_closed {
                return self.closed_cleanly().map(|()| None);
            }
            if !self.read_some()? {
                self.check_not_ended()?;
                self.wait(None, self.receive_deadline(began))?;
            }
        };
        Ok(Some(Message { kind: located.kind, body: self.inbox.take(located) }))
    }

    /// Looks for a message without waiting.
    pub fn poll(&mut self) -> Result<Activity<'_>, ChannelError> {
        self.write_some()?;
        let located = loop {
            if let Some(located) = self.inbox.locate(&self.received)? {
                break located;
            }
            if self.peer_closed {
                return self.closed_cleanly().map(|()| Activity::Closed);
            }
            if !self.read_some()? {
                return self.check_not_ended().map(|()| Activity::Nothing);
            }
        };
        Ok(Activity::Message(Message { kind: located.kind, body: self.inbox.take(located) }))
    }

    /// Takes encoded messages back that were given out: they are the next to be given out again.
    pub(super) fn put_back(&mut self, messages: &[u8]) {
        self.inbox.put_back(messages);
    }

    /// Sleeps until the socket or `waker` has something, at most `limit`; fails when the peer has said
    /// nothing for the time it has.
    pub fn wait_for(&mut self, waker: &WakeSource, limit: Duration) -> Result<(), ChannelError> {
        let now = Instant::now();
        if now >= self.receive_deadline(self.heard) {
            return Err(ChannelError::TimedOut(self.timeout));
        }
        self.wait(Some(waker), now + limit)
    }

    /// Sleeps like [`Channel::wait_for`], but with nothing expected of the peer: it may stay silent.
    pub fn idle(&mut self, waker: &WakeSource, limit: Duration) -> Result<(), ChannelError> {
        self.wait(Some(waker), Instant::now() + limit)
    }

    /// Sleeps until `waker` wakes, leaving what the peer sends where it is: this side has no room for it.
    /// Acknowledgements stop meanwhile, so a peer that sends bulk stops too.
    pub fn idle_without_reading(&mut self, waker: &WakeSource, limit: Duration) -> Result<(), ChannelError> {
        self.write_some()?;
        // A line that takes nothing more may still hold what came before: that is read when there is room.
        let interest = Interest { read: false, write: self.has_unsent() && !self.ended };
        self.transport.wait(interest, Some(waker), limit)
    }

    fn check_not_ended(&self) -> Result<(), ChannelError> {
        if self.ended { Err(ChannelError::Lost) } else { Ok(()) }
    }

    /// Tells the peer that this side is still there.
    pub fn ping(&mut self) -> Result<(), ChannelError> {
        if self.control.len() < CONTROL_WAITING_BYTES_MAX {
            self.put_control(Control::Ping)?;
        }
        self.write_some()
    }

    /// The interval at which a side that is busy with something else should [`Channel::ping`].
    pub const PING_INTERVAL: Duration = PING_INTERVAL;

    /// Whether everything that was sent has been verified by the peer.
    pub fn is_all_acknowledged(&self) -> bool {
        self.ring.acknowledged() == self.ring.next_sequence() && self.staging.bytes.is_empty()
    }

    /// How many data segments hold everything that was sent so far, one that is not yet full included.
    pub fn segments(&self) -> u64 {
        let open = u64::from(self.staging.open.is_some());
        self.ring.next_sequence() + self.staging.plaintext_lens.len() as u64 + open
    }

    /// How many of them the peer has verified.
    pub fn segments_acknowledged(&self) -> u64 {
        self.ring.acknowledged()
    }

    /// The sealed close: everything sent so far is repeated until the peer has it, then both sides know
    /// that the other knows.
    pub fn close(mut self) -> Result<SegmentCounts, ChannelError> {
        self.flush()?;
        while !self.is_all_acknowledged() {
            self.wait_for_acknowledgement()?;
        }
        for _ in 0..CLOSE_TRIES {
            self.put_control(Control::Close(self.ring.next_sequence()))?;
            let again = Instant::now() + ASK_AGAIN;
            while !self.close_answered && Instant::now() < again {
                self.read_while_writing()?;
                if !self.close_answered {
                    self.wait_quietly(None, again)?;
                }
            }
            if self.close_answered {
                return Ok(self.counts);
            }
        }
        Err(ChannelError::Lost)
    }

    /// The other half of a close: stays a little, so that the answer arrives, and answers again where the
    /// first answer was damaged. Call it after [`Channel::receive`] gave none.
    pub fn linger(mut self) -> SegmentCounts {
        let until = Instant::now() + ASK_AGAIN * (CLOSE_TRIES + 1);
        while Instant::now() < until {
            let gone = self.read_while_writing().is_err() || self.wait_quietly(None, until).is_err();
            if gone {
                break;
            }
        }
        self.counts
    }

    /// Ends the channel with whatever was sent still arriving: writes it out, then drops what comes until
    /// the peer has seen it and closes. A peer with a full ring on a slow line needs a while for that.
    pub fn end_after_failure(mut self) -> SegmentCounts {
        self.discarding = true;
        self.timeout = self.timeout.min(LAST_WORD_TIMEOUT);
        if self.flush().is_ok() {
            let in_flight = self.acknowledge_every as u64 * 4 / SLOWEST_BYTES_PER_SECOND;
            let budget = LAST_WORD_TIMEOUT + Duration::from_secs(in_flight);
            self.transport.finish_writing(&mut WaitBudget::new(budget));
        }
        self.counts
    }

    /// Sends the first message, which proves this side's keys, within what is left of the handshake's time.
    pub(super) fn send_proof(&mut self, message: &ToClient<'_>, left: Duration) -> Result<(), ChannelError> {
        let timeout = std::mem::replace(&mut self.timeout, left);
        self.send_to_client(message)?;
        self.flush()?;
        self.timeout = timeout;
        Ok(())
    }

    /// Waits for the peer's first message, which proves that it has the keys: it must verify at once.
    pub(super) fn prove_peer(&mut self, left: Duration, finished: u8) -> Result<(), ChannelError> {
        let timeout = std::mem::replace(&mut self.timeout, left);
        let first = self.receive();
        let kind = match first {
            Ok(Some(message)) => Some(message.kind),
            Ok(None) => None,
            Err(error) => return Err(error),
        };
        self.timeout = timeout;
        self.proving = false;
        if kind == Some(finished) { Ok(()) } else { Err(ChannelError::Unproven) }
    }

    // ---- sending ----

    fn open_frame(&mut self) -> Result<usize, ChannelError> {
        if self.staging.ends.len() == self.batch_segments {
            self.seal_staged()?;
            self.write_some()?;
        }
        if self.staging.bytes.capacity() == 0 {
            (self.staging.bytes, self.staging.ends) = self.ring.buffers();
        }
        // The length is not known yet: the header is written when the frame is finished.
        let fields = self.sending.header_bytes + 16 + 16;
        self.staging.bytes.resize(self.staging.bytes.len() + fields, 0);
        self.staging.open = Some(0);
        Ok(0)
    }

    /// Writes the header of the open frame and leaves room behind its plaintext for padding and sums.
    fn finish_frame(&mut self) {
        let Some(plaintext) = self.staging.open.take() else { return };
        let payload = sealed_payload_bytes(plaintext);
        let start = self.staging.ends.last().copied().unwrap_or(0);
        let end = start + self.sending.header_bytes + payload;
        self.staging.bytes.resize(end, 0);
        let header = &mut self.staging.header;
        header.clear();
        self.sending.put_header(header, self.sending.data_code, payload);
        self.staging.bytes[start..start + header.len()].copy_from_slice(header);
        self.staging.ends.push(end);
        self.staging.plaintext_lens.push(plaintext);
    }

    fn seal_staged(&mut self) -> Result<(), ChannelError> {
        if self.staging.plaintext_lens.is_empty() {
            return Ok(());
        }
        self.wait_for_room(self.staging.bytes.len())?;
        let acknowledged = self.data_opener.expected();
        let Staging { bytes, plaintext_lens, .. } = &mut self.staging;
        self.data_sealer.seal_batch(bytes, plaintext_lens, acknowledged)?;
        self.note_acknowledged(acknowledged);
        self.counts.sent += self.staging.plaintext_lens.len() as u64;
        self.staging.plaintext_lens.clear();
        self.ring.push(std::mem::take(&mut self.staging.bytes), std::mem::take(&mut self.staging.ends));
        Ok(())
    }

    fn wait_for_room(&mut self, bytes: usize) -> Result<(), ChannelError> {
        while self.ring.bytes() > 0 && self.ring.bytes() + bytes > self.window {
            self.wait_for_acknowledgement()?;
        }
        Ok(())
    }

    /// Waits until the peer has acknowledged more than now. The acknowledgement itself may have been lost
    /// to damage, so a silent line is pinged.
    fn wait_for_acknowledgement(&mut self) -> Result<(), ChannelError> {
        let before = self.ring.acknowledged();
        let began = Instant::now();
        let mut ping_at = began + ASK_AGAIN;
        loop {
            self.write_some()?;
            self.read_while_writing()?;
            if self.ring.acknowledged() > before {
                return Ok(());
            }
            if Instant::now() >= self.send_deadline(began) {
                return Err(ChannelError::TimedOut(self.timeout));
            }
            if Instant::now() >= ping_at {
                self.ping()?;
                ping_at = Instant::now() + ASK_AGAIN;
            }
            self.wait_quietly(None, ping_at)?;
        }
    }

    fn has_unsent(&self) -> bool {
        !self.control.is_empty() || self.rewind_to.is_some() || !self.ring.unsent(false).is_empty()
    }

    /// Writes until the socket takes no more. Control segments go between two frames.
    fn write_some(&mut self) -> Result<(), ChannelError> {
        loop {
            if self.ring.at_frame_border() {
                self.resume_where_asked()?;
            }
            let control = !self.control.is_empty() && self.ring.at_frame_border();
            let bytes = match control {
                true => &self.control[self.control_written..],
                false => self.ring.unsent(!self.control.is_empty()),
            };
            if bytes.is_empty() {
                return Ok(());
            }
            let count = match self.transport.try_write(bytes) {
                Ok(Some(count)) => count,
                Ok(None) => return Ok(()),
                // What the peer said before it left may still be here to be read: that comes first.
                Err(_) => {
                    self.ended = true;
                    return Ok(());
                }
            };
            self.counts.bytes_sent += count as u64;
            match control {
                true => self.control_was_written(count),
                false => self.ring.advance(count),
            }
        }
    }

    fn control_was_written(&mut self, count: usize) {
        self.control_written += count;
        if self.control_written == self.control.len() {
            self.control.clear();
            self.control_written = 0;
        }
    }

    fn resume_where_asked(&mut self) -> Result<(), ChannelError> {
        if let Some(sequence) = self.rewind_to.take() {
            // What was acknowledged since it asked is not wanted any more, and may be gone.
            let sequence = sequence.max(self.ring.acknowledged());
            self.put_control(Control::ResumedAt(sequence))?;
            self.counts.repeated += self.ring.rewind(sequence);
        }
        Ok(())
    }

    fn put_control(&mut self, control: Control) -> Result<(), ChannelError> {
        if self.control.len() > CONTROL_WAITING_BYTES_LIMIT {
            return Err(ChannelError::Violation("it asks and does not read the answers"));
        }
        let mut plaintext = Vec::with_capacity(CONTROL_BYTES_MAX);
        control.encode(&mut plaintext);
        let payload = sealed_payload_bytes(plaintext.len());
        let start = self.control.len();
        self.sending.put_header(&mut self.control, self.sending.control_code, payload);
        self.control.resize(start + self.sending.header_bytes + 16 + 16, 0);
        self.control.extend_from_slice(&plaintext);
        self.control.resize(start + self.sending.header_bytes + payload, 0);
        let acknowledged = self.data_opener.expected();
        self.control_sealer.seal_batch(&mut self.control[start..], &[plaintext.len()], acknowledged)?;
        self.note_acknowledged(acknowledged);
        Ok(())
    }

    fn note_acknowledged(&mut self, sequence: u64) {
        self.acknowledged_sequence = sequence;
        self.acknowledgement_wanted = false;
        self.unacknowledged_bytes = 0;
    }

    fn acknowledge_what_came(&mut self) -> Result<(), ChannelError> {
        let new = self.data_opener.expected() > self.acknowledged_sequence;
        if (new || self.acknowledgement_wanted) && self.control.len() < CONTROL_WAITING_BYTES_MAX {
            self.put_control(Control::Acknowledge)?;
        }
        Ok(())
    }

    /// By when the peer must have acknowledged something or shown a sign of life.
    fn send_deadline(&self, began: Instant) -> Instant {
        let quarter = self.window as u64 / 4 / SLOWEST_BYTES_PER_SECOND;
        began.max(self.heard) + self.timeout + Duration::from_secs(quarter)
    }

    // ---- receiving ----

    /// By when a whole segment must have come.
    fn receive_deadline(&self, began: Instant) -> Instant {
        let size = SEGMENT_PLAINTEXT_MAX as u64 / SLOWEST_BYTES_PER_SECOND;
        began.max(self.heard) + self.timeout + Duration::from_secs(size)
    }

    /// Sleeps until there is something to read or room to write; `TimedOut` once the deadline is past.
    fn wait(&mut self, waker: Option<&WakeSource>, deadline: Instant) -> Result<(), ChannelError> {
        if waker.is_none() && Instant::now() >= deadline {
            return Err(ChannelError::TimedOut(self.timeout));
        }
        self.wait_quietly(waker, deadline)
    }

    fn wait_quietly(&mut self, waker: Option<&WakeSource>, deadline: Instant) -> Result<(), ChannelError> {
        self.check_not_ended()?;
        self.acknowledge_what_came()?;
        let wake = match self.repair {
            Repair::Asking { silent_since } => deadline.min(self.ask_again(silent_since)?),
            _ => deadline,
        };
        self.write_some()?;
        let interest = Interest { read: true, write: self.has_unsent() };
        self.transport.wait(interest, waker, wake.saturating_duration_since(Instant::now()))
    }

    /// Repeats an unanswered request; gives the moment of the next look.
    fn ask_again(&mut self, silent_since: Instant) -> Result<Instant, ChannelError> {
        if silent_since.elapsed() < ASK_AGAIN {
            return Ok(silent_since + ASK_AGAIN);
        }
        self.put_control(Control::RepeatFrom(self.data_opener.expected()))?;
        let now = Instant::now();
        self.repair = Repair::Asking { silent_since: now };
        Ok(now + ASK_AGAIN)
    }

    /// Reads what is there while this side is the one that sends.
    fn read_while_writing(&mut self) -> Result<(), ChannelError> {
        while self.read_some()? {
            if self.inbox.is_overfull() {
                return Err(ChannelError::Violation("it sends more than was asked for"));
            }
        }
        Ok(())
    }

    /// Opens a batch of frames that are here, or else reads from the socket. False: neither had anything.
    fn read_some(&mut self) -> Result<bool, ChannelError> {
        self.inbox.fetch(&self.received);
        if self.open_frames()? {
            return Ok(true);
        }
        if self.unread.start > 0 {
            self.received.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        match self.transport.try_read(&mut self.received[self.unread.end..]) {
            Ok(None) => Ok(false),
            Ok(Some(count)) => {
                self.counts.bytes_received += count as u64;
                self.unread.end += count;
                Ok(true)
            }
            Err(_) => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    /// Opens the whole frames in the buffer: a run of data, or one control segment.
    fn open_frames(&mut self) -> Result<bool, ChannelError> {
        self.frames.clear();
        let mut position = self.unread.start;
        let mut control = None;
        while self.frames.len() < self.batch_segments.min(OPENED_SEGMENTS_MAX) {
            match self.frame_at(position)? {
                Some((Kind::Data, end)) => {
                    self.frames.push(position..end);
                    position = end;
                }
                Some((Kind::Control, end)) => {
                    control = Some(position..end);
                    position = end;
                    break;
                }
                None => break,
            }
        }
        self.unread.start = position;
        let found = !self.frames.is_empty() || control.is_some();
        self.open_data()?;
        if let Some(frame) = control {
            self.open_control(frame)?;
        }
        Ok(found)
    }

    /// The frame that begins at `position`, if it is here whole.
    fn frame_at(&self, position: usize) -> Result<Option<(Kind, usize)>, ChannelError> {
        let here = &self.received[position..self.unread.end];
        let Some(header) = here.get(..self.receiving.header_bytes) else { return Ok(None) };
        let (kind, payload) = self.receiving.read_header(header)?;
        let end = position + self.receiving.header_bytes + payload;
        Ok((end <= self.unread.end).then_some((kind, end)))
    }

    fn open_data(&mut self) -> Result<(), ChannelError> {
        let frames = std::mem::take(&mut self.frames);
        let mut next = 0;
        while next < frames.len() {
            if self.is_passed_over(&frames[next]) {
                next += 1;
                continue;
            }
            // While a repeat is awaited, a frame is tried by itself: its failure is not counted.
            let tried = if self.repair == Repair::None { &frames[next..] } else { &frames[next..=next] };
            self.opened.clear();
            let result = self.data_opener.open_batch(&mut self.received, tried, &mut self.opened);
            next += self.opened.len();
            self.deliver()?;
            if result.is_err() {
                next += 1;
                self.answer_damage()?;
            }
        }
        self.frames = frames;
        Ok(())
    }

    /// Whether a frame is dropped without a look: another one is awaited.
    fn is_passed_over(&mut self, frame: &Range<usize>) -> bool {
        let sequence = self.data_opener.peek_sequence(&self.received[frame.clone()]);
        let expected = self.data_opener.expected();
        match self.repair {
            Repair::None => false,
            Repair::Asking { .. } if sequence == Some(expected) => false,
            Repair::Asking { .. } => {
                self.repair = Repair::Asking { silent_since: Instant::now() };
                true
            }
            Repair::PassingOver if sequence.is_some_and(|sequence| sequence < expected) => true,
            Repair::PassingOver => {
                self.repair = Repair::None;
                false
            }
        }
    }

    /// Tells the inbox what was just opened.
    fn deliver(&mut self) -> Result<(), ChannelError> {
        let Some(last) = self.opened.last() else { return Ok(()) };
        let acknowledged = last.acknowledged;
        for opened in &self.opened {
            if !self.discarding {
                self.inbox.note(opened.plaintext.clone());
            }
            self.unacknowledged_bytes += opened.plaintext.len();
        }
        self.counts.received += self.opened.len() as u64;
        self.repair = Repair::None;
        self.failures = 0;
        self.heard = Instant::now();
        self.take_acknowledgement(acknowledged)?;
        if self.unacknowledged_bytes >= self.acknowledge_every {
            self.acknowledge_what_came()?;
            self.write_some()?;
        }
        Ok(())
    }

    fn answer_damage(&mut self) -> Result<(), ChannelError> {
        if self.proving {
            return Err(ChannelError::Unproven);
        }
        if let Repair::Asking { .. } = self.repair {
            return Ok(());
        }
        self.counts.damaged += 1;
        self.failures += 1;
        let sequence = self.data_opener.expected();
        if self.failures == FAILURES_MAX {
            return Err(ChannelError::Damaged { sequence });
        }
        self.repair = Repair::Asking { silent_since: Instant::now() };
        self.put_control(Control::RepeatFrom(sequence))?;
        self.write_some()
    }

    fn open_control(&mut self, frame: Range<usize>) -> Result<(), ChannelError> {
        // The proof comes first: whoever has not given it has nothing to say.
        if self.proving {
            return Err(ChannelError::Unproven);
        }
        self.opened.clear();
        let result = self.control_opener.open_batch(&mut self.received, &[frame], &mut self.opened);
        let (Ok(()), Some(opened)) = (result, self.opened.first()) else {
            self.counts.control_damaged += 1;
            return Ok(());
        };
        let acknowledged = opened.acknowledged;
        let control = Control::decode(&self.received[opened.plaintext.clone()])?;
        self.heard = Instant::now();
        self.take_acknowledgement(acknowledged)?;
        self.obey(control)
    }

    fn take_acknowledgement(&mut self, sequence: u64) -> Result<(), ChannelError> {
        if !self.ring.can_acknowledge(sequence) {
            return Err(ChannelError::Violation("it acknowledges what was never sent"));
        }
        self.ring.acknowledge(sequence);
        Ok(())
    }

    fn obey(&mut self, control: Control) -> Result<(), ChannelError> {
        match control {
            Control::Acknowledge => Ok(()),
            Control::Ping => {
                self.acknowledgement_wanted = true;
                Ok(())
            }
            Control::RepeatFrom(sequence) => {
                if !self.ring.can_acknowledge(sequence) || !self.ring.can_rewind_to(sequence) {
                    return Err(ChannelError::Violation("it wants again what is not there"));
                }
                self.rewind_to = Some(sequence);
                self.write_some()
            }
            Control::ResumedAt(sequence) => self.resumed_at(sequence),
            Control::Close(segments) => {
                // Before everything has come the close is left unanswered; it is sent again.
                if segments == self.data_opener.expected() {
                    self.peer_closed = true;
                    self.put_control(Control::Closed)?;
                    self.write_some()?;
                }
                Ok(())
            }
            Control::Closed => {
                self.close_answered = true;
                Ok(())
            }
        }
    }

    fn resumed_at(&mut self, sequence: u64) -> Result<(), ChannelError> {
        let expected = self.data_opener.expected();
        if sequence > expected {
            return Err(ChannelError::Violation("it resumed behind a gap"));
        }
        self.repair = if sequence == expected { Repair::None } else { Repair::PassingOver };
        Ok(())
    }

    fn closed_cleanly(&self) -> Result<(), ChannelError> {
        if self.inbox.is_empty() { Ok(()) } else { Err(ChannelError::Violation("it closed inside a message")) }
    }
}
