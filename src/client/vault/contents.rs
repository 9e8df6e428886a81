//! The entries of an answer and the contents between them, in order, while their chunks come.

use std::collections::VecDeque;

use super::super::error::ClientError;
use super::fetching::Fetcher;
use super::format::ChunkReference;
use crate::base::limits::{CONTENT_CHUNK_BYTES, VAULT_CHUNK_BYTES_MAX, VAULT_FETCH_BYTES, VAULT_FETCH_MAX};
use crate::base::vault::ChunkName;
use crate::crypto::{ChunkKind, PutKey};
use crate::protocol::message::{ContentEnd, EntryRow, ToClient};

/// So many bytes are asked for first, and each time twice as many as before up to [`VAULT_FETCH_BYTES`]: before the first
/// can be opened, all that was asked for has to come, and on a bad line that may be all that comes.
const FETCH_BYTES_FIRST: usize = 256 * 1024;

/// Takes the messages of an answer, as if the server had sent them.
pub type Emit<'e> = dyn FnMut(&ToClient<'_>) -> Result<(), ClientError> + 'e;

/// What comes next in the answer.
enum Step {
    Entry {
        content: Option<ContentEnd>,
        entry: Vec<u8>,
    },
    /// A chunk; all of it but the first `skip` bytes and what is behind the next `take`.
    Chunk {
        length: u32,
        skip: u32,
        take: u32,
    },
    /// So many zeros, which are not fetched.
    Zeros {
        bytes: u32,
    },
    End(ContentEnd),
    /// The content cannot be given.
    Failed(String),
}

/// Steps that wait for chunks that are under way, and chunks that are still to be asked for.
pub struct Contents<'a, 'l, 'e> {
    pub fetcher: &'a mut Fetcher<'l>,
    pub emit: &'a mut Emit<'e>,
    steps: VecDeque<Step>,
    wanted: Vec<ChunkName>,
    wanted_bytes: usize,
    /// So many are asked for next.
    ask_bytes: usize,
    /// What the longest chunk of zeros is called: most of a file's holes.
    zeros: ChunkName,
    /// Whether that chunk has been asked for.
    has_zeros: bool,
    /// Zeros are told as holes.
    tells_holes: bool,
    /// The present content has failed: what still comes of it is not given.
    has_failed: bool,
}

impl<'a, 'l, 'e> Contents<'a, 'l, 'e> {
    pub fn new(fetcher: &'a mut Fetcher<'l>, emit: &'a mut Emit<'e>, tells_holes: bool) -> Contents<'a, 'l, 'e> {
        let zeros = zeros_name(fetcher.key().put());
        Contents {
            fetcher,
            emit,
            steps: VecDeque::new(),
            wanted: Vec::new(),
            wanted_bytes: 0,
            ask_bytes: FETCH_BYTES_FIRST,
            zeros,
            has_zeros: false,
            tells_holes,
            has_failed: false,
        }
    }

    pub fn entry(&mut self, content: Option<ContentEnd>, entry: &[u8]) -> Result<(), ClientError> {
        self.add(Step::Entry { content, entry: entry.to_vec() })
    }

    /// Part of the content's next chunk: `take` bytes behind the first `skip`.
    pub fn chunk(&mut self, chunk: ChunkReference, skip: u32, take: u32) -> Result<(), ClientError> {
        if chunk.name == self.zeros && chunk.length as usize == VAULT_CHUNK_BYTES_MAX {
            // Who reads contents to see whether they are whole gets it once.
            if self.tells_holes || std::mem::replace(&mut self.has_zeros, true) {
                return self.add(Step::Zeros { bytes: take });
            }
        }
        self.wanted.push(chunk.name);
        self.wanted_bytes += chunk.length as usize;
        self.steps.push_back(Step::Chunk { length: chunk.length, skip, take });
        match self.wanted_bytes >= self.ask_bytes || self.wanted.len() == VAULT_FETCH_MAX {
            true => self.ask(),
            false => Ok(()),
        }
    }

    pub fn end(&mut self, end: ContentEnd) -> Result<(), ClientError> {
        self.add(Step::End(end))
    }

    /// The present content cannot be given.
    pub fn fail(&mut self, text: String) -> Result<(), ClientError> {
        self.add(Step::Failed(text))
    }

    /// Waits for all that is under way, and gives it out.
    pub fn drain(&mut self) -> Result<(), ClientError> {
        if !self.wanted.is_empty() {
            self.ask()?;
        }
        while let Some(step) = self.steps.pop_front() {
            self.take(step)?;
        }
        self.fetcher.finish()
    }

    fn add(&mut self, step: Step) -> Result<(), ClientError> {
        match self.steps.is_empty() {
            true => self.take(step),
            false => {
                self.steps.push_back(step);
                Ok(())
            }
        }
    }

    /// Asks for what is wanted; where enough is under way, takes of that first.
    fn ask(&mut self) -> Result<(), ClientError> {
        while !self.fetcher.has_room() {
            let Some(step) = self.steps.pop_front() else { break };
            self.take(step)?;
            self.fetcher.take_ends()?;
        }
        self.wanted_bytes = 0;
        self.ask_bytes = VAULT_FETCH_BYTES.min(self.ask_bytes * 2);
        let wanted = std::mem::take(&mut self.wanted);
        self.fetcher.ask(&wanted)?;
        self.wanted = wanted;
        self.wanted.clear();
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), ClientError> {
        match step {
            Step::Entry { content, entry } => {
                self.has_failed = false;
                (self.emit)(&ToClient::Entry(EntryRow { content, entry: &entry }))
            }
            Step::Chunk { length, skip, take } => self.take_chunk(length, skip, take),
            Step::Zeros { bytes } if !self.has_failed => self.give_zeros(bytes),
            Step::End(end) if !self.has_failed => (self.emit)(&ToClient::ContentEnd(end)),
            Step::Failed(text) => self.take_failure(text),
            Step::Zeros { .. } | Step::End(_) => Ok(()),
        }
    }

    fn take_chunk(&mut self, length: u32, skip: u32, take: u32) -> Result<(), ClientError> {
        let bytes = match self.fetcher.next(ChunkKind::Content)? {
            Ok(bytes) if bytes.len() == length as usize => bytes,
            Ok(_) => return self.take_failure("a chunk has another length than its list says".to_string()),
            Err(text) => return self.take_failure(text),
        };
        if self.has_failed {
            return Ok(());
        }
        let mut bytes = &bytes[skip as usize..][..take as usize];
        while !bytes.is_empty() {
            let (is_hole, length) = if self.tells_holes { first_run(bytes) } else { (false, bytes.len()) };
            let (run, rest) = bytes.split_at(length);
            match is_hole {
                true => (self.emit)(&ToClient::ContentHole { bytes: length as u64 })?,
                false => run
                    .chunks(CONTENT_CHUNK_BYTES)
                    .try_for_each(|piece| (self.emit)(&ToClient::ContentData(piece)))?,
            }
            bytes = rest;
        }
        Ok(())
    }

    fn give_zeros(&mut self, bytes: u32) -> Result<(), ClientError> {
        static ZEROS: [u8; CONTENT_CHUNK_BYTES] = [0; CONTENT_CHUNK_BYTES];
        if self.tells_holes {
            return (self.emit)(&ToClient::ContentHole { bytes: bytes.into() });
        }
        let mut left = bytes as usize;
        while left > 0 {
            let piece = &ZEROS[..left.min(ZEROS.len())];
            (self.emit)(&ToClient::ContentData(piece))?;
            left -= piece.len();
        }
        Ok(())
    }

    /// Once for a content.
    fn take_failure(&mut self, text: String) -> Result<(), ClientError> {
        match std::mem::replace(&mut self.has_failed, true) {
            true => Ok(()),
            false => (self.emit)(&ToClient::ContentFailed { text }),
        }
    }
}

fn zeros_name(key: &PutKey) -> ChunkName {
    key.name(ChunkKind::Content, &vec![0; VAULT_CHUNK_BYTES_MAX])
}

/// Whether the bytes begin with zeros that are worth a hole, whole blocks of a file system, and how far that goes on.
fn first_run(bytes: &[u8]) -> (bool, usize) {
    const BLOCK_BYTES: usize = 4096;
    let is_hole = |block: &[u8]| block.len() == BLOCK_BYTES && block.iter().all(|byte| *byte == 0);
    let mut blocks = bytes.chunks(BLOCK_BYTES).map(is_hole);
    let first = blocks.next().unwrap_or(false);
    let count = 1 + blocks.take_while(|next| *next == first).count();
    (first, (count * BLOCK_BYTES).min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_of_zeros_are_holes_and_all_else_is_data() {
        let bytes = [&[0; 8192][..], &[1], &[0; 8191], &[0; 4095]].concat();
        assert_eq!(first_run(&bytes), (true, 8192));
        assert_eq!(first_run(&bytes[8192..]), (false, 4096));
        assert_eq!(first_run(&bytes[12288..]), (true, 4096));
        assert_eq!(first_run(&bytes[16384..]), (false, 4095));
    }
}
