//! A connection to a legacy server: whole messages, each within a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown as How, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::LegacyError;
use crate::base::codec::DecodeError;
use crate::base::limits::SLOWEST_BYTES_PER_SECOND;
use crate::base::shutdown::Shutdown;
use crate::protocol::header::{RESPONSE_HEADER_BYTES, ResponseHeader};
use crate::protocol::legacy::{self, Response};

/// How long an answer is looked for after the server has closed its end to what is sent.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct LegacyLine {
    stream: Arc<TcpStream>,
    timeout: Duration,
    /// Whether anything has been received: a greeting comes before anything else.
    has_heard: bool,
    /// In both directions.
    pub bytes: u64,
}

impl LegacyLine {
    /// Takes a connected stream over. `shutdown` ends whatever waits on it.
    pub fn new(stream: TcpStream, timeout: Duration, shutdown: &Shutdown) -> Result<LegacyLine, LegacyError> {
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let closed = Arc::downgrade(&stream);
        shutdown.close_on_request(move || {
            if let Some(stream) = closed.upgrade() {
                let _ = stream.shutdown(How::Both);
            }
        });
        Ok(LegacyLine { stream, timeout, has_heard: false, bytes: 0 })
    }

    /// Sends a message. Where the server has closed its end, what it said before is the reason.
    pub fn send(&mut self, message: &[u8]) -> Result<(), LegacyError> {
        let sent = self.write(message);
        self.bytes += message.len() as u64;
        match sent {
            Err(LegacyError::Lost) => Err(self.last_word()),
            other => other,
        }
    }

    fn write(&mut self, mut message: &[u8]) -> Result<(), LegacyError> {
        let transfer = Duration::from_secs(message.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let deadline = Deadline::new(self.timeout + transfer);
        while !message.is_empty() {
            self.stream.set_write_timeout(Some(deadline.left()?))?;
            match (&*self.stream).write(message) {
                Ok(0) => return Err(LegacyError::Lost),
                Ok(count) => message = &message[count..],
                Err(error) => deadline.may_go_on(error)?,
            }
        }
        Ok(())
    }

    fn last_word(&mut self) -> LegacyError {
        match self.receive_within(LAST_WORD_TIMEOUT) {
            Ok(Response::GeneralError) => LegacyError::GeneralError,
            _ => LegacyError::Lost,
        }
    }

    /// Receives the next answer. `work` is how long the server may take beside the usual time.
    pub fn receive(&mut self, work: Duration) -> Result<Response, LegacyError> {
        self.receive_within(self.timeout + work)
    }

    fn receive_within(&mut self, time: Duration) -> Result<Response, LegacyError> {
        let deadline = Deadline::new(time);
        let mut header = self.read_header(&deadline)?;
        let is_first = !std::mem::replace(&mut self.has_heard, true);
        if is_first && header.code == legacy::GREETING && header.payload_bytes == 0 {
            header = self.read_header(&deadline)?;
        }
        let what = "answer";
        if !legacy::VERSIONS.contains(&header.version) || !legacy::RESPONSE_CODES.contains(&header.code) {
            return Err(LegacyError::Malformed(DecodeError::Invalid { what }));
        }
        let (found, limit) = (header.payload_bytes, legacy::RESPONSE_PAYLOAD_BYTES_MAX);
        if found > limit {
            let (found, limit) = (found.into(), limit.into());
            return Err(LegacyError::Malformed(DecodeError::TooLarge { what, found, limit }));
        }
        let mut payload = vec![0; found as usize];
        self.read(&mut payload, &deadline)?;
        Response::decode(header.code, &payload).map_err(LegacyError::Malformed)
    }

    fn read_header(&mut self, deadline: &Deadline) -> Result<ResponseHeader, LegacyError> {
        let mut header = [0; RESPONSE_HEADER_BYTES];
        self.read(&mut header, deadline)?;
        Ok(ResponseHeader::decode(&header))
    }

    fn read(&mut self, mut buffer: &mut [u8], deadline: &Deadline) -> Result<(), LegacyError> {
        self.bytes += buffer.len() as u64;
        while !buffer.is_empty() {
            self.stream.set_read_timeout(Some(deadline.left()?))?;
            match (&*self.stream).read(buffer) {
                Ok(0) => return Err(LegacyError::Lost),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) => deadline.may_go_on(error)?,
            }
        }
        Ok(())
    }

    /// Whether the server has said something, or gone, where it is not its turn.
    pub fn has_answer(&self) -> bool {
        let mut watched = [PollFd::new(&*self.stream, PollFlags::IN)];
        poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

/// When a whole message has to be through.
struct Deadline {
    time: Duration,
    end: Instant,
}

impl Deadline {
    fn new(time: Duration) -> Deadline {
        Deadline { time, end: Instant::now() + time }
    }

    fn left(&self) -> Result<Duration, LegacyError> {
        match self.end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(LegacyError::TimedOut(self.time)),
            left => Ok(left),
        }
    }

    /// A wait that is over is looked at by [`Deadline::left`]; anything else ends it.
    fn may_go_on(&self, error: std::io::Error) -> Result<(), LegacyError> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
            _ => Err(error.into()),
        }
    }
}
