//! A connection without sealing, for the legacy dialect: pieces of messages read and written whole, within the time
//! that the caller allows. Nothing that arrives here is proved to come from anybody.

use std::time::Duration;

use super::error::ChannelError;
use super::handshake::answer_last;
use super::transport::{Transport, WaitBudget};
use crate::protocol::header::{REQUEST_HEADER_BYTES, RequestHeader};

/// One end of such a connection.
#[derive(Debug)]
pub struct PlainConnection {
    transport: Transport,
    budget: WaitBudget,
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
        PlainConnection { transport, budget, received, sent: 0 }
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
        self.transport.read_exact(buffer, &mut self.budget)?;
        self.received += buffer.len() as u64;
        Ok(())
    }

    /// Writes all of `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.transport.write_all(bytes, &mut self.budget)?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// Whether the peer has left: nothing is to be read any more, nor will be.
    pub fn is_gone(&self) -> bool {
        self.transport.is_at_end()
    }

    /// Whether the peer has said something that was not read, or left.
    pub fn has_input(&self) -> bool {
        self.transport.has_input()
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
