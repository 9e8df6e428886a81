//! Received plaintext on its way to being messages: a byte queue that gives out whole messages as slices.
//!
//! Opened segments stay in the receiving buffer until a message needs them, so that while messages are taken it holds
//! no more than the longest of them and one segment beside it.

use std::collections::VecDeque;
use std::ops::Range;

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
    /// What comes after `bytes`: where it lies in the receiving buffer.
    noted: VecDeque<Range<usize>>,
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
        self.read == self.bytes.len() && self.noted.is_empty()
    }

    /// Whether more waits than a well-behaved peer can cause.
    pub fn is_overfull(&self) -> bool {
        self.bytes.len() - self.read > WAITING_BYTES_MAX
    }

    /// A segment was opened in the receiving buffer, which keeps it there until [`Inbox::fetch`].
    pub fn note(&mut self, plaintext: Range<usize>) {
        self.noted.push_back(plaintext);
    }

    /// Takes in what still lies in the receiving buffer, which is about to be used again.
    pub fn fetch(&mut self, received: &[u8]) {
        while let Some(plaintext) = self.noted.pop_front() {
            self.append(&received[plaintext]);
        }
    }

    fn append(&mut self, plaintext: &[u8]) {
        if self.read > 0 {
            // What is left is the beginning of one message: less than a segment, most of the time.
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

    /// Finds the next message, if it is here whole, in the bytes or in what was noted of `received`.
    ///
    /// # Errors
    /// `Malformed` for an unknown kind or a length above the kind's limit, before any of the body is waited
    /// for.
    pub fn locate(&mut self, received: &[u8]) -> Result<Option<Located>, ChannelError> {
        loop {
            if let Some(located) = self.locate_in_bytes()? {
                return Ok(Some(located));
            }
            let Some(plaintext) = self.noted.pop_front() else { return Ok(None) };
            self.append(&received[plaintext]);
        }
    }

    fn locate_in_bytes(&self) -> Result<Option<Located>, ChannelError> {
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
