//! CBC of many segments: encryption in lock-step, decryption as it comes.
//!
//! Within one segment CBC is strictly serial: each block waits for the one before it, and a processor that could
//! work on dozens of blocks at once works on one. Segments are independent of each other though, so a batch of them
//! is encrypted side by side: in every step one block of each segment goes through the cipher. A segment that ends
//! gives its lane to the next one waiting, so lengths may differ. The bytes are those of plain CBC; a property test
//! holds them against the `cbc` crate.
//!
//! The whole loop runs inside the cipher's own backend closure. That way the round keys are loaded once for a
//! batch, and the loop is compiled for the instructions that the processor was found to have (AES-NI, VAES, or
//! plain code), without any `unsafe` here.

use std::ops::Range;

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::typenum::Unsigned;
use aes::cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure,
    BlockCipherEncrypt, BlockSizeUser,
};
use aes::{Aes256Dec, Aes256Enc, Block};

/// Bytes of a block, and of an IV.
pub const BLOCK_BYTES: usize = 16;

/// How many segments are encrypted side by side: as many blocks as the widest backend (AVX-512 VAES) takes in one
/// call.
const LANES_MAX: usize = 64;

/// Decrypts whole blocks in place. There is no serial chain in that, so one text fills the processor's lanes by itself.
pub fn decrypt_cbc(cipher: &Aes256Dec, vector: &[u8; BLOCK_BYTES], text: &mut [u8]) {
    let (blocks, _) = Block::slice_as_chunks_mut(text);
    cipher.decrypt_with_backend(Unchain { blocks, before: Array(*vector) });
}

struct Unchain<'a> {
    blocks: &'a mut [Block],
    /// The last block of ciphertext before them.
    before: Block,
}

impl BlockSizeUser for Unchain<'_> {
    type BlockSize = U16;
}

impl BlockCipherDecClosure for Unchain<'_> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, backend: &B) {
        let mut before = self.before;
        let (groups, rest) = Array::<Block, B::ParBlocksSize>::slice_as_chunks_mut(self.blocks);
        for group in groups {
            let ciphertext = group.clone();
            backend.decrypt_par_blocks_inplace(group);
            before = unchain(group, &ciphertext, before);
        }
        for block in rest {
            let ciphertext = *block;
            backend.decrypt_block_inplace(block);
            before = unchain(std::slice::from_mut(block), &[ciphertext], before);
        }
    }
}

/// Adds to each decrypted block the block of ciphertext before it; gives the last one.
#[inline(always)]
fn unchain(blocks: &mut [Block], ciphertext: &[Block], mut before: Block) -> Block {
    for (block, after) in blocks.iter_mut().zip(ciphertext) {
        xor_into(block, &before.0);
        before = *after;
    }
    before
}

/// Encrypts each of `texts`, a range of whole blocks in `buffer` with its IV in the 16 bytes before it, in place.
///
/// # Panics
/// Where a range does not lie in the buffer, or has no room for an IV before it.
pub fn encrypt_cbc(cipher: &Aes256Enc, buffer: &mut [u8], texts: &[Range<usize>]) {
    cipher.encrypt_with_backend(LockStep { buffer, texts });
}

struct LockStep<'a> {
    buffer: &'a mut [u8],
    texts: &'a [Range<usize>],
}

impl BlockSizeUser for LockStep<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for LockStep<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut lanes = Lanes::new();
        let mut waiting = self.texts.iter();
        loop {
            while lanes.active < LANES_MAX
                && let Some(text) = waiting.next()
            {
                lanes.begin(self.buffer, text);
            }
            if lanes.active == 0 {
                return;
            }
            // Until the shortest text in a lane ends, nothing needs to be decided.
            for _ in 0..lanes.steps_until_one_ends() {
                lanes.step(backend, self.buffer);
            }
            lanes.retire_finished();
        }
    }
}

/// The texts now being encrypted: where each one stands, and the last block of its ciphertext.
struct Lanes {
    active: usize,
    places: [Place; LANES_MAX],
    chained: [Block; LANES_MAX],
}

#[derive(Clone, Copy)]
struct Place {
    next: usize,
    end: usize,
}

impl Lanes {
    fn new() -> Self {
        Self {
            active: 0,
            places: [Place { next: 0, end: 0 }; LANES_MAX],
            chained: [Array([0; BLOCK_BYTES]); LANES_MAX],
        }
    }

    fn begin(&mut self, buffer: &[u8], text: &Range<usize>) {
        self.places[self.active] = Place { next: text.start, end: text.end };
        self.chained[self.active].copy_from_slice(&buffer[text.start - BLOCK_BYTES..text.start]);
        self.active += 1;
    }

    fn steps_until_one_ends(&self) -> usize {
        self.places[..self.active].iter().map(|place| (place.end - place.next) / BLOCK_BYTES).min().unwrap_or(0)
    }

    /// One block in each lane: `ciphertext = encrypt(plaintext xor the ciphertext before)`.
    #[inline(always)]
    fn step<B: BlockCipherEncBackend<BlockSize = U16>>(&mut self, backend: &B, buffer: &mut [u8]) {
        let places = &mut self.places[..self.active];
        for (place, chained) in places.iter().zip(&mut self.chained) {
            let plaintext = &buffer[place.next..place.next + BLOCK_BYTES];
            xor_into(chained, plaintext.try_into().expect("the slice is one block"));
        }
        encrypt_blocks(backend, &mut self.chained, self.active);
        for (place, chained) in places.iter_mut().zip(&self.chained) {
            buffer[place.next..place.next + BLOCK_BYTES].copy_from_slice(chained);
            place.next += BLOCK_BYTES;
        }
    }

    fn retire_finished(&mut self) {
        let mut lane = 0;
        while lane < self.active {
            if self.places[lane].next < self.places[lane].end {
                lane += 1;
                continue;
            }
            self.active -= 1;
            self.places.swap(lane, self.active);
            self.chained.swap(lane, self.active);
        }
    }
}

/// As one 128-bit number: a loop over the bytes was measured to cost as much as the cipher.
#[inline(always)]
fn xor_into(block: &mut Block, other: &[u8; BLOCK_BYTES]) {
    block.0 = (u128::from_ne_bytes(block.0) ^ u128::from_ne_bytes(*other)).to_ne_bytes();
}

/// Encrypts at least the first `active` blocks; what lies in lanes that are not active is never read again.
#[inline(always)]
fn encrypt_blocks<B: BlockCipherEncBackend<BlockSize = U16>>(
    backend: &B,
    blocks: &mut [Block; LANES_MAX],
    active: usize,
) {
    let width = B::ParBlocksSize::USIZE;
    // A vector call costs the same whatever part of it is used: from a quarter on it is faster than so many single
    // blocks.
    let rounded = if active % width * 4 >= width { active.next_multiple_of(width).min(LANES_MAX) } else { active };
    let (groups, rest) = Array::<Block, B::ParBlocksSize>::slice_as_chunks_mut(&mut blocks[..rounded]);
    groups.iter_mut().for_each(|group| backend.encrypt_par_blocks_inplace(group));
    rest.iter_mut().for_each(|block| backend.encrypt_block_inplace(block));
}

#[cfg(test)]
mod tests {
    use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
    use proptest::prelude::*;

    use super::*;

    fn plain_cbc(cipher: &Aes256Enc, buffer: &mut [u8], texts: &[Range<usize>]) {
        for text in texts {
            let iv: Block =
                Array::try_from(&buffer[text.start - BLOCK_BYTES..text.start]).expect("an IV is one block");
            let (blocks, _) = Array::slice_as_chunks_mut(&mut buffer[text.clone()]);
            ::cbc::Encryptor::inner_iv_init(cipher, &iv).encrypt_blocks(blocks);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lanes_give_the_bytes_of_plain_cbc(
            key in any::<[u8; 32]>(),
            block_counts in proptest::collection::vec(0_usize..40, 0..150),
            gap in 0_usize..40,
            seed in any::<u8>(),
        ) {
            let mut texts = Vec::new();
            let mut end = 0;
            for blocks in block_counts {
                let start = end + gap + BLOCK_BYTES;
                end = start + blocks * BLOCK_BYTES;
                texts.push(start..end);
            }
            let mut in_lanes: Vec<u8> = (0..end).map(|at| (at as u8).wrapping_mul(seed) ^ (at >> 8) as u8).collect();
            let mut one_by_one = in_lanes.clone();
            let cipher = Aes256Enc::new(&Array(key));
            encrypt_cbc(&cipher, &mut in_lanes, &texts);
            plain_cbc(&cipher, &mut one_by_one, &texts);
            prop_assert!(in_lanes == one_by_one);
        }

        #[test]
        fn decryption_gives_the_bytes_of_plain_cbc(
            key in any::<[u8; 32]>(),
            vector in any::<[u8; 16]>(),
            mut text in proptest::collection::vec(any::<u8>(), 0..5_000),
        ) {
            text.truncate(text.len() / BLOCK_BYTES * BLOCK_BYTES);
            let mut expected = text.clone();
            let cipher = Aes256Dec::new(&Array(key));
            let (blocks, _) = Block::slice_as_chunks_mut(&mut expected);
            ::cbc::Decryptor::inner_iv_init(&cipher, &Array(vector)).decrypt_blocks(blocks);
            decrypt_cbc(&cipher, &vector, &mut text);
            prop_assert!(text == expected);
        }
    }
}
