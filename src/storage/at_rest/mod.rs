//! Between the store and the disk: every file that holds content, or tells of it, is written and read through here, and
//! is sealed where the store has a storage key. Above, offsets and lengths are those of the plaintext, sealed or not.
//!
//! Invariants: **no plaintext reaches the disk where there is a key to write with**, in no file and at no moment; and
//! what does not verify is an error, never bytes.

mod keyring;
mod mender;
mod reader;
mod records;
mod search;
mod state;
mod writer;

#[cfg(test)]
mod tests;

pub use crate::crypto::SealedKind;
pub use keyring::{ClientKeyring, FileKeyring, Keyring};
pub use mender::Mender;
pub use reader::{Ending, StoredFile, is_sealed_with, read_stored_file};
pub use records::{RecordReader, RecordWriter};
pub use state::{Opening, SealingState, StorageKeys, unfinished};
pub use writer::FileWriter;

use std::fmt;
use std::io;
use std::ops::Range;

use crate::crypto::sealed_file::{SEALED_HEADER_BYTES, SEALED_SEGMENT_BYTES, SEALED_SLOT_BYTES};

const HEADER: u64 = SEALED_HEADER_BYTES as u64;
const SEGMENT: u64 = SEALED_SEGMENT_BYTES as u64;
const SLOT: u64 = SEALED_SLOT_BYTES as u64;

/// A file that does not verify, or that there is no key for. It counts as damaged.
#[derive(Debug)]
pub struct Unsealable(String);

impl fmt::Display for Unsealable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unsealable {}

fn unsealable(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Unsealable(problem.into()))
}

/// Where in a sealed file the segments lie that are all within a part of its plaintext.
pub fn slots_within(part: Range<u64>) -> Range<u64> {
    let (first, end) = (part.start.div_ceil(SEGMENT), part.end / SEGMENT);
    slot_start(first)..slot_start(end.max(first))
}

/// Where the slot of a segment begins in the file.
fn slot_start(segment: u64) -> u64 {
    HEADER + segment * SLOT
}
