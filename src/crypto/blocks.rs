//! The sums of a large content block by block, and the content's own sums put together from them: so that a
//! change is found, and the changed content checked, without reading what did not change.
//!
//! A block's chaining value is the BLAKE3 subtree value of its 16 KiB at its offset, which other content that is
//! equal at the same offset shares. A block is a whole subtree wherever it lies (16 chunks of 1 KiB at a multiple of
//! 16), and only the last one of a content may be short, so that merging the values pairwise gives the very hash of
//! the content. **The one exception is a content of at most one block**, which is a root by itself: its hash cannot
//! be had from its chaining value.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::checksum::{ContentSums, blake3_hash, crc32};

/// Bytes of a block; the last one of a content may have fewer.
pub const BLOCK_BYTES: usize = 16 * 1024;

/// How many blocks a content of `bytes` has.
pub fn blocks_in(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}

/// What is known of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSum {
    /// The BLAKE3 subtree value of the block at its offset, as no root.
    pub chaining: [u8; 32],
    /// CRC32 (IEEE).
    pub crc32: u32,
}

/// The sum of the block of this number. `bytes` are at least one and at most [`BLOCK_BYTES`].
pub fn block_sum(block: u64, bytes: &[u8]) -> BlockSum {
    let mut blake3 = blake3::Hasher::new();
    blake3.set_input_offset(block * BLOCK_BYTES as u64);
    blake3.update(bytes);
    BlockSum { chaining: blake3.finalize_non_root(), crc32: crc32(bytes) }
}

/// Cuts a content that arrives in slices into blocks and sums each.
#[derive(Clone, Debug, Default)]
pub struct BlockHasher {
    /// The number of the block that comes next or is under way.
    block: u64,
    /// How much of it has come.
    filled: usize,
    blake3: blake3::Hasher,
    crc32: crc32fast::Hasher,
    /// The hash of the first block as a content of its own.
    first: Option<[u8; 32]>,
}

impl BlockHasher {
    /// Begins at block 0.
    pub fn new() -> BlockHasher {
        BlockHasher::default()
    }

    /// How much has come of the block under way; 0 at a block border.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Leaves out blocks whose sums come from elsewhere. Only at a block border.
    pub fn skip_blocks(&mut self, blocks: u64) {
        debug_assert_eq!(self.filled, 0, "blocks are skipped at a border");
        self.block += blocks;
    }

    /// Adds the next slice, of any length. Each block that it ends is given to `each`, with its length.
    pub fn update(&mut self, mut bytes: &[u8], mut each: impl FnMut(BlockSum, usize)) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            if self.filled == 0 {
                self.begin_block();
            }
            self.blake3.update(piece);
            self.crc32.update(piece);
            self.filled += piece.len();
            if self.filled == BLOCK_BYTES {
                self.end_block(&mut each);
            }
            bytes = rest;
        }
    }

    /// Gives the last block, if it is short. Answers the BLAKE3 of the content where it has at most one block, all
    /// of it hashed here: what [`SumsCombiner::finish`] cannot know.
    pub fn finish(mut self, mut each: impl FnMut(BlockSum, usize)) -> Option<[u8; 32]> {
        if self.filled > 0 {
            self.end_block(&mut each);
        }
        self.first.filter(|_| self.block == 1)
    }

    fn begin_block(&mut self) {
        // A new one, since resetting a hasher keeps the offset it was given.
        self.blake3 = blake3::Hasher::new();
        self.blake3.set_input_offset(self.block * BLOCK_BYTES as u64);
        self.crc32.reset();
    }

    fn end_block(&mut self, each: &mut impl FnMut(BlockSum, usize)) {
        if self.block == 0 {
            self.first = Some(*self.blake3.finalize().as_bytes());
        }
        let sum = BlockSum { chaining: self.blake3.finalize_non_root(), crc32: self.crc32.clone().finalize() };
        each(sum, self.filled);
        self.block += 1;
        self.filled = 0;
    }
}

/// Puts the sums of a content together from those of its blocks, in order. Its memory is one value for each level
/// of the tree.
#[derive(Clone, Debug, Default)]
pub struct SumsCombiner {
    size: u64,
    blocks: u64,
    crc32: crc32fast::Hasher,
    /// Values of whole subtrees, the largest first; the last one has not been merged, since it may be the last.
    stack: Vec<[u8; 32]>,
}

impl SumsCombiner {
    /// A combiner that has seen no block.
    pub fn new() -> SumsCombiner {
        SumsCombiner::default()
    }

    /// How many bytes the blocks so far have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next block; every one but the last has [`BLOCK_BYTES`].
    pub fn add(&mut self, sum: &BlockSum, bytes: usize) {
        // A left neighbour of the same height is merged only now: before, this block might not have come, and the
        // merge would have been the root's.
        while self.stack.len() > self.blocks.count_ones() as usize {
            self.merge_top();
        }
        self.stack.push(sum.chaining);
        self.crc32.combine(&crc32fast::Hasher::new_with_initial_len(sum.crc32, bytes as u64));
        self.blocks += 1;
        self.size += bytes as u64;
    }

    fn merge_top(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The sums of the content. For one of a single block, `single` must be its BLAKE3; otherwise none is answered.
    pub fn finish(mut self, single: Option<[u8; 32]>) -> Option<ContentSums> {
        while self.stack.len() > 2 {
            self.merge_top();
        }
        let blake3 = match self.stack.as_slice() {
            [] => blake3_hash(b""),
            [left, right] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            _ => single?,
        };
        Some(ContentSums { size: self.size, crc32: self.crc32.finalize(), blake3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
    }

    /// The sums by way of the blocks, and the blocks.
    fn combined(bytes: &[u8], slice: usize) -> (ContentSums, Vec<(BlockSum, usize)>) {
        let (mut hasher, mut combiner, mut blocks) = (BlockHasher::new(), SumsCombiner::new(), Vec::new());
        bytes.chunks(slice).for_each(|slice| hasher.update(slice, |sum, length| blocks.push((sum, length))));
        let single = hasher.finish(|sum, length| blocks.push((sum, length)));
        blocks.iter().for_each(|(sum, length)| combiner.add(sum, *length));
        (combiner.finish(single).unwrap(), blocks)
    }

    fn check(length: usize, slice: usize, seed: u32) {
        let bytes = content(length, seed);
        let (sums, blocks) = combined(&bytes, slice);
        assert_eq!(sums, ContentSums::of(&bytes), "{length} bytes in slices of {slice}");
        let at_once = bytes.chunks(BLOCK_BYTES).enumerate();
        let at_once = at_once.map(|(block, bytes)| (block_sum(block as u64, bytes), bytes.len()));
        assert_eq!(blocks, at_once.collect::<Vec<_>>());
    }

    #[test]
    fn the_sums_put_together_are_those_of_the_content_at_every_kind_of_length() {
        let border = [0, 1, 1_024, 1_025, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_535, 65_537];
        let multiples = (1..40).map(|blocks| blocks * BLOCK_BYTES);
        let primes = [104_729, 611_953, 1_299_709, 2_750_159, 3_999_971];
        for length in border.into_iter().chain(multiples).chain(primes) {
            check(length, 100_000, 7);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_sums_put_together_are_those_of_the_content(
            length in 0usize..700_000, slice in 1usize..50_000, seed in any::<u32>(),
        ) {
            check(length, slice, seed);
        }
    }

    #[test]
    fn blocks_may_be_left_out_and_come_from_elsewhere() {
        let bytes = content(100_000, 3);
        let mut hasher = BlockHasher::new();
        let mut found = Vec::new();
        hasher.skip_blocks(2);
        hasher.update(&bytes[2 * BLOCK_BYTES..], |sum, _| found.push(sum));
        assert_eq!(hasher.filled(), 100_000 % BLOCK_BYTES);
        assert_eq!(hasher.finish(|sum, _| found.push(sum)), None);
        assert_eq!(found, combined(&bytes, 999).1[2..].iter().map(|(sum, _)| *sum).collect::<Vec<_>>());
    }

    #[test]
    fn a_single_block_needs_its_own_hash() {
        let mut combiner = SumsCombiner::new();
        combiner.add(&block_sum(0, b"x"), 1);
        assert_eq!(combiner.clone().finish(None), None);
        assert_eq!(combiner.finish(Some(blake3_hash(b"x"))), Some(ContentSums::of(b"x")));
    }

    /// `cargo test --release --lib blocks -- --ignored --nocapture` prints the figures.
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_combining_and_of_hashing_in_blocks() {
        let sums: Vec<BlockSum> = (0..65_536u64).map(|n| block_sum(n, &n.to_le_bytes())).collect();
        let start = std::time::Instant::now();
        let mut combiner = SumsCombiner::new();
        sums.iter().for_each(|sum| combiner.add(sum, BLOCK_BYTES));
        println!("{:?} for 65,536 blocks: {:?}", start.elapsed(), combiner.finish(None).map(|sums| sums.crc32));
        let bytes = content(64 * 1024 * 1024, 1);
        let start = std::time::Instant::now();
        combined(&bytes, 128 * 1024);
        println!("in blocks {:.2} GB/s", bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
        let start = std::time::Instant::now();
        ContentSums::of(&bytes);
        println!("as one {:.2} GB/s", bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
}
