//! A connection to a legacy server: whole messages, each within a deadline.

use std::net::TcpStream;
use std::time::Duration;

use super::error::LegacyError;
use crate::base::codec::DecodeError;
use crate::base::limits::SLOWEST_BYTES_PER_SECOND;
use crate::base::shutdown::Shutdown;
use crate::channel::{ChannelError, PlainConnection, Transport};
use crate::protocol::header::{RESPONSE_HEADER_BYTES, ResponseHeader};
use crate::protocol::legacy::{self, Response};

/// How long an answer is looked for after the server has closed its end to what is sent.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct LegacyLine {
    connection: PlainConnection,
    timeout: Duration,
    /// Whether anything has been received: a greeting comes before anything else.
    has_heard: bool,
}

impl LegacyLine {
    /// Takes a connected stream over. `shutdown` ends whatever waits on it.
    pub fn new(stream: TcpStream, timeout: Duration, shutdown: &Shutdown) -> Result<LegacyLine, LegacyError> {
        let transport = Transport::tcp(stream).map_err(ChannelError::from)?;
        let closer = transport.closer();
        shutdown.close_on_request(move || closer.close());
        Ok(LegacyLine { connection: PlainConnection::new(transport, timeout), timeout, has_heard: false })
    }

    /// Sends a message. Where the server has closed its end, what it said before is the reason.
    pub fn send(&mut self, message: &[u8]) -> Result<(), LegacyError> {
        let for_size = Duration::from_secs(message.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        self.connection.allow(self.timeout + for_size);
        match self.connection.write_all(message).map_err(LegacyError::from) {
            Err(LegacyError::Lost) => Err(self.last_word()),
            other => other,
        }
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
        self.connection.allow(time);
        let mut header = self.read_header()?;
        let is_first = !std::mem::replace(&mut self.has_heard, true);
        if is_first && header.code == legacy::GREETING && header.payload_bytes == 0 {
            header = self.read_header()?;
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
        self.connection.read_exact(&mut payload)?;
        Response::decode(header.code, &payload).map_err(LegacyError::Malformed)
    }

    fn read_header(&mut self) -> Result<ResponseHeader, LegacyError> {
        let mut header = [0; RESPONSE_HEADER_BYTES];
        self.connection.read_exact(&mut header)?;
        Ok(ResponseHeader::decode(&header))
    }

    /// Whether the server has said something, or gone, where it is not its turn.
    pub fn has_answer(&self) -> bool {
        self.connection.has_input()
    }

    /// On the wire in both directions.
    pub fn wire_bytes(&self) -> u64 {
        let (received, sent) = self.connection.counts();
        received + sent
    }
}
