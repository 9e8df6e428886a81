//! What this host has of a content that is to be restored: part of it from an earlier try, or the file that stands in its
//! place. Its chunks are looked for there under the names that the vault has for them; of the blocks that are made of such
//! chunks alone the hashes are told, as a server tells them of a plain content.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::ChunkReference;
use crate::crypto::{BLOCK_BYTES, ChunkKind, PutKey, block_sum};
use crate::protocol::message::{BLOCK_HASH_BYTES, BlockRun, ReadBlocks};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Files that may hold chunks of a content where it has them.
#[derive(Default)]
pub struct HeldFiles(pub Vec<File>);

impl HeldFiles {
    /// Reads a chunk into `bytes`; false where no file has it at this place.
    fn read(&self, at: u64, chunk: &ChunkReference, key: &PutKey, bytes: &mut Vec<u8>) -> bool {
        bytes.resize(chunk.length as usize, 0);
        let mut has_it = |file: &File| {
            file.read_exact_at(bytes, at).is_ok() && key.name(ChunkKind::Content, bytes) == chunk.name
        };
        self.0.iter().any(&mut has_it)
    }
}

/// What a request for blocks wants of a content, while its chunks are gone through in order.
pub struct BlocksWanted<'h> {
    /// Bytes that are to be given, from and to, rising.
    runs: Vec<(u64, u64)>,
    /// Where hashes are wanted, from and to.
    hashed: (u64, u64),
    /// Of the blocks there so far; one that is not held has the hash of nothing.
    hashes: Vec<u8>,
    held: &'h HeldFiles,
    /// The present block, as far as it is there, and whether all of it is held.
    block: Vec<u8>,
    is_held: bool,
    chunk: Vec<u8>,
}

impl<'h> BlocksWanted<'h> {
    pub fn new(request: &ReadBlocks, held: &'h HeldFiles) -> BlocksWanted<'h> {
        let bytes = |run: &BlockRun| (run.first.saturating_mul(BLOCK), run.end().saturating_mul(BLOCK));
        BlocksWanted {
            runs: request.runs.iter().map(bytes).collect(),
            hashed: bytes(&request.hashes),
            hashes: Vec::new(),
            held,
            block: Vec::with_capacity(BLOCK_BYTES),
            is_held: true,
            chunk: Vec::new(),
        }
    }

    /// The parts of the next `bytes` of the content that are to be given, from and to.
    pub fn given(&self, at: u64, bytes: u32) -> Vec<(u64, u64)> {
        let end = at + u64::from(bytes);
        let first = self.runs.partition_point(|(_, to)| *to <= at);
        let runs = self.runs[first..].iter().take_while(|(from, _)| *from < end);
        runs.map(|(from, to)| (*from.max(&at), *to.min(&end))).collect()
    }

    /// Looks for the next chunk, which begins at `at`.
    pub fn look(&mut self, at: u64, chunk: &ChunkReference, key: &PutKey) {
        let end = at + u64::from(chunk.length);
        let (first, last) = (self.hashed.0.clamp(at, end), self.hashed.1.clamp(at, end));
        if first == last {
            return;
        }
        let is_held = self.held.read(at, chunk, key, &mut self.chunk);
        let wanted = (first - at) as usize..(last - at) as usize;
        let mut rest = &std::mem::take(&mut self.chunk)[wanted];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            self.is_held &= is_held;
            if self.block.len() == BLOCK_BYTES {
                self.end_block();
            }
            rest = later;
        }
    }

    /// The content has ended: gives the hashes.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.block.is_empty() {
            self.end_block();
        }
        self.hashes
    }

    fn end_block(&mut self) {
        let number = self.hashed.0 / BLOCK + (self.hashes.len() / BLOCK_HASH_BYTES) as u64;
        match self.is_held {
            true => self.hashes.extend_from_slice(&block_sum(number, &self.block).chaining[..BLOCK_HASH_BYTES]),
            // By this no block is found; and what is found is compared with the content's sums in the end.
            false => self.hashes.extend_from_slice(&[0; BLOCK_HASH_BYTES]),
        }
        self.block.clear();
        self.is_held = true;
    }
}
