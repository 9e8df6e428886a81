//! A connection without sealing, for the legacy dialect: pieces of messages read and written whole, within the time
//! that the caller allows. Nothing that arrives here is proved to come from anybody.

use std::time::Duration;

use super::error::ChannelError;
use super::handshake::answer_last;
use super::transport::{Closer, Interest, Transport, WaitBudget};
use crate::protocol::header::{REQUEST_HEADER_BYTES, RequestHeader};

/// What is read ahead at a time, so that small messages do not take a call to the system each.
const READ_AHEAD_BYTES: usize = 32 * 1024;

/// One end of such a connection.
#[derive(Debug)]
pub struct PlainConnection {
    transport: Transport,
    budget: WaitBudget,
    /// What has been read and not been asked for yet: the part behind `taken`.
    ahead: Vec<u8>,
    taken: usize,
    received: u64,
    sent: u64,
}

impl PlainConnection {
    /// A connection that may wait for `allowance` in all until it is allowed more.
    pub fn new(transport: Transport, allowance: Duration) -> PlainConnection {
        PlainConnection::begun(transport, WaitBudget::new(allowance), 0)
    }

    /// A connection of which the first bytes were read elsewhere.
    pub(super) fn begun(transport: Transport, budget: WaitBudget, received: u64) -> PlainConnection {
        PlainConnection { transport, budget, ahead: Vec::new(), taken: 0, received, sent: 0 }
    }

    /// Ends the connection from elsewhere.
    pub fn closer(&self) -> Closer {
        self.transport.closer()
    }

    /// From now on, all reads and writes together may wait for so long.
    pub fn allow(&mut self, waiting: Duration) {
        self.budget = WaitBudget::new(waiting);
    }

    /// Reads the next request's header. None: the peer has closed the connection between two requests.
    pub fn read_header(&mut self) -> Result<Option<RequestHeader>, ChannelError> {
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        match self.read_exact(&mut bytes[..1]) {
            Err(ChannelError::Lost) => return Ok(None),
            other => other?,
        }
        self.read_exact(&mut bytes[1..])?;
        Ok(Some(RequestHeader::decode(&bytes)))
    }

    /// Fills `buffer`.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ChannelError> {
        self.received += buffer.len() as u64;
        let filled = self.take_ahead(buffer);
        let rest = &mut buffer[filled..];
        if rest.len() >= READ_AHEAD_BYTES {
            return self.transport.read_exact(rest, &mut self.budget);
        }
        let mut filled = 0;
        while filled < rest.len() {
            self.read_ahead()?;
            filled += self.take_ahead(&mut rest[filled..]);
        }
        Ok(())
    }

    fn take_ahead(&mut self, buffer: &mut [u8]) -> usize {
        let ahead = &self.ahead[self.taken..];
        let bytes = ahead.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&ahead[..bytes]);
        self.taken += bytes;
        bytes
    }

    /// Reads what there is; everything read before has been taken.
    fn read_ahead(&mut self) -> Result<(), ChannelError> {
        self.taken = 0;
        self.ahead.resize(READ_AHEAD_BYTES, 0);
        let read = self.transport.try_read(&mut self.ahead);
        self.ahead.truncate(match &read {
            Ok(Some(bytes)) => *bytes,
            _ => 0,
        });
        match read? {
            Some(_) => Ok(()),
            None => self.budget.wait(&self.transport, Interest { read: true, write: false }),
        }
    }

    /// Writes all of `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.transport.write_all(bytes, &mut self.budget)?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// Whether the peer has left: nothing is to be read any more, nor will be.
    pub fn is_gone(&self) -> bool {
        self.taken == self.ahead.len() && self.transport.is_at_end()
    }

    /// Whether the peer has said something that was not read, or left.
    pub fn has_input(&self) -> bool {
        self.taken < self.ahead.len() || self.transport.has_input()
    }

    /// Bytes received and sent so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// Ends the connection with a last answer, which is written to its end; what still comes is drained, within
    /// limits, so that the answer is not lost.
    pub fn end(self, answer: &[u8]) {
        answer_last(&self.transport, answer);
    }
}
