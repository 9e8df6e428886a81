//! Sends a large file as what differs from the content that the server holds for its path: the hashes of the
//! held blocks are asked for a page at a time, ahead of the reading; the file is read once, and each of its
//! blocks is kept, sent, or left out as a hole. Where the beginning of the content itself lies at the server, from
//! an upload that was cut off, its hashes come first: what is still the same is not sent again.
//!
//! ## Why nobody waits for ever
//! A request travels in the batch stream, and its batch is handed over at once. The reading thread then waits for
//! the answer; the thread that owns the channel never waits for the reading thread: an answer finds room in its
//! queue, which is as long as there are requests at once. All answers outstanding fit the server's ring together
//! with those about ranges ([`super::uploading`]).

use super::sender::{BATCH_BYTES, Batch, ContentSender};
use super::source::{SourceError, SourceFile};
use crate::base::limits::{CONTENT_CHUNK_BYTES, HOLE_BYTES_MAX};
use crate::channel::worker::Gone;
use crate::crypto::{BLOCK_BYTES, BlockSum, ContentSums, SumsCombiner, blake3_hash, block_sum, blocks_in};
use crate::protocol::message::{BLOCK_HASH_BYTES, HeldContent, Partial, ToServer};

/// Blocks of which the hashes are asked for at once: a second page is on its way while one is compared.
const PAGE_BLOCKS: u32 = 1_024;
/// Requests that are on their way at once.
pub const REQUESTS_MAX: usize = 2;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// A hole is hashed in steps of so many bytes, and between two of them it is seen whether anybody waits for it.
pub const HOLE_STEP_BYTES: u64 = 256 * 1024 * 1024;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A request for hashes, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlocksWanted {
    pub range: u32,
    pub entry: u32,
    pub first: u64,
    pub count: u32,
}

/// The hashes that came for a request.
#[derive(Debug)]
pub struct BlocksAnswer {
    pub first: u64,
    pub hashes: Vec<u8>,
}

/// The hashes of what is held, as far as they are here.
struct HeldBlocks {
    place: (u32, u32),
    /// Blocks of the file that is read: more are of no use.
    blocks: u64,
    /// From here on nothing has been asked for.
    next: u64,
    asked: usize,
    page: BlocksAnswer,
    /// What is held has no blocks behind the present page.
    is_over: bool,
    /// They are of the beginning of the content, not of what is held for its path.
    is_partial: bool,
}

impl HeldBlocks {
    fn new(place: (u32, u32), blocks: u64) -> HeldBlocks {
        let page = BlocksAnswer { first: 0, hashes: Vec::new() };
        HeldBlocks { place, blocks, next: 0, asked: 0, page, is_over: false, is_partial: false }
    }

    fn nothing(place: (u32, u32)) -> HeldBlocks {
        HeldBlocks { is_over: true, ..HeldBlocks::new(place, 0) }
    }

    /// The first block behind the present page.
    fn end(&self) -> u64 {
        self.page.first + (self.page.hashes.len() / BLOCK_HASH_BYTES) as u64
    }

    /// None where nothing is held at this block.
    fn hash(&self, block: u64) -> Option<&[u8]> {
        let place = usize::try_from(block.checked_sub(self.page.first)?).ok()?;
        self.page.hashes.chunks_exact(BLOCK_HASH_BYTES).nth(place)
    }

    fn can_ask(&self) -> bool {
        !self.is_over && self.asked < REQUESTS_MAX && self.next < self.blocks
    }
}

/// What is said of the file so far.
#[derive(Default)]
struct Difference {
    sums: SumsCombiner,
    /// The BLAKE3 of the first block, in case it is the only one.
    first: Option<[u8; 32]>,
    blocks: u64,
    /// Bytes at the end of what was read that are kept, or a hole, and have not been told yet.
    kept: u64,
    hole: u64,
}

impl Difference {
    fn add_sum(&mut self, sum: &BlockSum, bytes: &[u8]) {
        if self.blocks == 0 {
            self.first = Some(blake3_hash(bytes));
        }
        self.sums.add(sum, bytes.len());
        self.blocks += 1;
    }

    fn keep(&mut self, bytes: u64, batch: &mut Batch) {
        if self.hole > 0 {
            self.tell(batch);
        }
        self.kept += bytes;
    }

    /// Adds a hole of whole blocks.
    fn skip(&mut self, bytes: u64, batch: &mut Batch) {
        if self.kept > 0 || self.hole + bytes > HOLE_BYTES_MAX {
            self.tell(batch);
        }
        for _ in 0..bytes / BLOCK {
            self.add_sum(&block_sum(self.blocks, &ZEROS), &ZEROS);
        }
        self.hole += bytes;
    }

    fn write(&mut self, bytes: &[u8], batch: &mut Batch) {
        if bytes.is_empty() {
            return;
        }
        self.tell(batch);
        batch.say(&ToServer::ContentData(bytes));
        batch.content_bytes += bytes.len() as u64;
    }

    fn tell(&mut self, batch: &mut Batch) {
        if self.kept > 0 {
            batch.say(&ToServer::ContentKeep { bytes: self.kept });
        }
        if self.hole > 0 {
            batch.say(&ToServer::ContentHole { bytes: self.hole });
        }
        batch.bytes_same += self.kept + self.hole;
        (self.kept, self.hole) = (0, 0);
    }

    fn finish(mut self, batch: &mut Batch) -> ContentSums {
        self.tell(batch);
        self.sums.finish(self.first).expect("the hash of a single block was kept")
    }
}

impl ContentSender<'_> {
    /// Sends a content from its start, built on what is held for its place; none where the server says that
    /// nothing can be built on it.
    pub(super) fn send_difference(
        &mut self,
        file: &mut SourceFile,
        place: (u32, u32),
        batch: &mut Batch,
    ) -> Result<Option<Result<ContentSums, SourceError>>, Gone> {
        let mut held = HeldBlocks::new(place, blocks_in(file.size()));
        self.fetch(&mut held, 0, batch)?;
        let result = match held.page.hashes.is_empty() {
            true => None,
            false => {
                batch.say(&ToServer::DeltaStart { range: place.0, entry: place.1 });
                Some(self.compare(file, &mut held, Difference::default(), batch)?)
            }
        };
        self.let_pass(&mut held)?;
        Ok(result)
    }

    /// Goes on with a content behind its beginning, of which the server has what `partial` says; none, and the file
    /// at its start again, where nothing of that is the same now.
    pub(super) fn send_rest(
        &mut self,
        file: &mut SourceFile,
        place: (u32, u32),
        (held, partial): (HeldContent, Partial),
        batch: &mut Batch,
    ) -> Result<Option<Result<ContentSums, SourceError>>, Gone> {
        // A last block that is not whole is sent.
        let mut there = HeldBlocks { is_partial: true, ..HeldBlocks::new(place, file.size() / BLOCK) };
        let mut difference = Difference::default();
        let matched = self.match_beginning(file, &mut there, &mut difference, batch);
        self.let_pass(&mut there)?;
        let bytes = difference.blocks * BLOCK;
        if let Err(error) = matched?.and_then(|()| file.go_back(bytes)) {
            return Ok(Some(Err(error)));
        }
        if bytes == 0 {
            return Ok(None);
        }
        batch.say(&ToServer::ContentResume { range: place.0, entry: place.1, bytes });
        let mut held = match held.blocks && partial == Partial::Delta {
            true => HeldBlocks::new(place, blocks_in(file.size())),
            false => HeldBlocks::nothing(place),
        };
        let compared = self.compare(file, &mut held, difference, batch)?;
        self.let_pass(&mut held)?;
        Ok(Some(compared))
    }

    /// Reads the file as far as its blocks are those that lie at the server.
    fn match_beginning(
        &mut self,
        file: &mut SourceFile,
        there: &mut HeldBlocks,
        difference: &mut Difference,
        batch: &mut Batch,
    ) -> Result<Result<(), SourceError>, Gone> {
        let mut chunk = std::mem::take(&mut self.scratch);
        let matched = loop {
            let count = match file.read_into(&mut chunk) {
                Ok(count) => count,
                Err(error) => break Ok(Err(error)),
            };
            match self.match_chunk(&chunk[..count], there, difference, batch) {
                Ok(true) => {}
                Ok(false) => break Ok(Ok(())),
                Err(gone) => break Err(gone),
            }
        };
        self.scratch = chunk;
        matched
    }

    /// Whether all of the chunk is there.
    fn match_chunk(
        &mut self,
        chunk: &[u8],
        there: &mut HeldBlocks,
        difference: &mut Difference,
        batch: &mut Batch,
    ) -> Result<bool, Gone> {
        for block in chunk.chunks_exact(BLOCK_BYTES) {
            let number = difference.blocks;
            self.fetch(there, number, batch)?;
            let sum = block_sum(number, block);
            if there.hash(number) != Some(&sum.chaining[..BLOCK_HASH_BYTES]) {
                return Ok(false);
            }
            difference.add_sum(&sum, block);
            batch.bytes_same += BLOCK;
        }
        Ok(chunk.len() == CONTENT_CHUNK_BYTES)
    }

    /// The next file's answers must not find these before them.
    fn let_pass(&mut self, held: &mut HeldBlocks) -> Result<(), Gone> {
        while held.asked > 0 {
            self.receive(held)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        file: &mut SourceFile,
        held: &mut HeldBlocks,
        difference: Difference,
        batch: &mut Batch,
    ) -> Result<Result<ContentSums, SourceError>, Gone> {
        let mut chunk = std::mem::take(&mut self.scratch);
        let compared = self.compare_in(&mut chunk, file, held, difference, batch);
        self.scratch = chunk;
        compared
    }

    fn compare_in(
        &mut self,
        chunk: &mut [u8],
        file: &mut SourceFile,
        held: &mut HeldBlocks,
        mut difference: Difference,
        batch: &mut Batch,
    ) -> Result<Result<ContentSums, SourceError>, Gone> {
        debug_assert_eq!(chunk.len(), CONTENT_CHUNK_BYTES);
        loop {
            match file.skip_hole(BLOCK, HOLE_STEP_BYTES) {
                Ok(0) => {}
                Ok(hole) => {
                    difference.skip(hole, batch);
                    self.hand_over(batch)?;
                    continue;
                }
                Err(error) => return Ok(Err(error)),
            }
            let room = file.data_room(BLOCK, chunk.len());
            match file.read_into(&mut chunk[..room]) {
                Ok(0) => return Ok(Ok(difference.finish(batch))),
                Ok(count) => self.compare_chunk(&chunk[..count], held, &mut difference, batch)?,
                Err(error) => return Ok(Err(error)),
            }
            if batch.bytes.len() >= BATCH_BYTES {
                let (range, entry) = held.place;
                batch.reached = Some((range, entry, file.position()));
                self.hand_over(batch)?;
            }
        }
    }

    fn compare_chunk(
        &mut self,
        chunk: &[u8],
        held: &mut HeldBlocks,
        difference: &mut Difference,
        batch: &mut Batch,
    ) -> Result<(), Gone> {
        // The bytes before the present block that differ and have not been sent yet.
        let mut changed = 0..0;
        for (place, block) in chunk.chunks(BLOCK_BYTES).enumerate() {
            let (start, number) = (place * BLOCK_BYTES, difference.blocks);
            self.fetch(held, number, batch)?;
            let sum = block_sum(number, block);
            difference.add_sum(&sum, block);
            if held.hash(number) == Some(&sum.chaining[..BLOCK_HASH_BYTES]) {
                difference.write(&chunk[std::mem::take(&mut changed)], batch);
                difference.keep(block.len() as u64, batch);
            } else {
                let from = if changed.is_empty() { start } else { changed.start };
                changed = from..start + block.len();
            }
        }
        difference.write(&chunk[changed], batch);
        Ok(())
    }

    /// Waits until the hash of `block` is here, if it is held; and asks ahead.
    fn fetch(&mut self, held: &mut HeldBlocks, block: u64, batch: &mut Batch) -> Result<(), Gone> {
        while block >= held.end() && !held.is_over {
            if held.asked == 0 {
                // What was passed over as a hole needs no hashes.
                held.next = held.next.max(block);
                self.ask(held, batch)?;
            }
            self.receive(held)?;
            while held.can_ask() {
                self.ask(held, batch)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, held: &mut HeldBlocks, batch: &mut Batch) -> Result<(), Gone> {
        let left = held.blocks.saturating_sub(held.next).max(1);
        let count = u32::try_from(left).unwrap_or(PAGE_BLOCKS).min(PAGE_BLOCKS);
        let wanted = BlocksWanted { range: held.place.0, entry: held.place.1, first: held.next, count };
        let BlocksWanted { range, entry, first, count } = wanted;
        match held.is_partial {
            true => ToServer::PartialWanted { range, entry, first, count }.encode(&mut batch.bytes),
            false => ToServer::BlocksWanted { range, entry, first, count }.encode(&mut batch.bytes),
        }
        batch.blocks_wanted.push(wanted);
        held.next += u64::from(count);
        held.asked += 1;
        self.hand_over(batch)
    }

    fn receive(&mut self, held: &mut HeldBlocks) -> Result<(), Gone> {
        held.page = self.blocks.recv().map_err(|_| Gone)?;
        held.asked -= 1;
        let wanted = held.next - held.page.first;
        let full = wanted.min(u64::from(PAGE_BLOCKS));
        held.is_over |= held.end() < held.page.first + full || held.end() >= held.blocks;
        Ok(())
    }
}
