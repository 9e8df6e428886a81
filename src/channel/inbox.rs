//! Received plaintext on its way to being messages: a byte queue that gives out whole messages as slices
//! and never holds more than the longest message and one batch beside it.

use super::error::ChannelError;
use crate::base::codec::DecodeError;
use crate::protocol::message::{MESSAGE_HEADER_BYTES, body_bytes_max};

/// What may wait here while this side is busy sending: answers of fixed bound, which the sender's own
/// limit on what it asks keeps far below this.
const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A queue of plaintext bytes.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Everything before this has been given out.
    read: usize,
}

/// Where a whole message lies in the inbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    pub kind: u8,
    start: usize,
    end: usize,
}

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.read == self.bytes.len()
    }

    /// Whether more waits than a well-behaved peer can cause.
    pub fn is_overfull(&self) -> bool {
        self.bytes.len() - self.read > WAITING_BYTES_MAX
    }

    pub fn append(&mut self, plaintext: &[u8]) {
        if self.read > 0 {
            // What is left is part of one message: less than is appended, most of the time.
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(plaintext);
    }

    /// Puts whole messages before everything that waits: they were given out and not taken.
    pub fn put_back(&mut self, messages: &[u8]) {
        self.bytes.splice(..self.read, messages.iter().copied());
        self.read = 0;
    }

    /// Finds the next message, if it is here whole.
    ///
    /// # Errors
    /// `Malformed` for an unknown kind or a length above the kind's limit, before any of the body is waited
    /// for.
    pub fn locate(&self) -> Result<Option<Located>, ChannelError> {
        let rest = &self.bytes[self.read..];
        let Some((header, body)) = rest.split_at_checked(MESSAGE_HEADER_BYTES) else { return Ok(None) };
        let kind = header[0];
        let length = u32::from_le_bytes(header[1..].try_into().expect("four bytes follow the kind")) as usize;
        let limit = body_bytes_max(kind).ok_or(DecodeError::Invalid { what: "message kind" })?;
        if length > limit {
            let (found, limit) = (length as u64, limit as u64);
            return Err(DecodeError::TooLarge { what: "message", found, limit }.into());
        }
        let start = self.read + MESSAGE_HEADER_BYTES;
        Ok((body.len() >= length).then_some(Located { kind, start, end: start + length }))
    }

    /// Gives out a message that was located; its bytes stay until the next append.
    pub fn take(&mut self, located: Located) -> &[u8] {
        self.read = located.end;
        &self.bytes[located.start..located.end]
    }
}
