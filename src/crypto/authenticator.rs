//! HMAC-SHA256 (RFC 2104) of many frames side by side: what the sealing and the opening of a batch spend their time on.
//!
//! A code is the SHA-256 of a block made from the key and of the frame, and of another such block and that hash. The
//! two blocks are hashed once for each key; what comes after is hashed side by side for frames of one length, which in
//! a full batch all have. The codes are those of the `hmac` crate, which the tests hold them against.

use sha2::block_api::compress256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::segment::{Direction, Kind};
use super::sha256_lanes::{self, BLOCK_BYTES, LANES_MAX, State};

/// The most frames for which codes are computed at a time.
pub(super) const FRAMES_MAX: usize = LANES_MAX;
/// Bytes of a code.
pub(super) const MAC_BYTES: usize = 32;
pub(super) type Code = [u8; MAC_BYTES];

/// The initial value of SHA-256 (FIPS 180-4, section 5.3.3).
const INITIAL: State =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
/// What is covered in front of each frame and not sent: direction and kind.
const PREFIX_BYTES: usize = 2;
const LENGTH_BYTES: usize = 8;

/// The two blocks of a key, hashed, and what stands in front of each frame.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Authenticator {
    inner: State,
    outer: State,
    prefix: [u8; PREFIX_BYTES],
}

impl Authenticator {
    pub fn new(key: &[u8; 32], direction: Direction, kind: Kind) -> Authenticator {
        let keyed = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL;
            compress256(&mut state, std::slice::from_ref(&block));
            block.zeroize();
            state
        };
        Authenticator { inner: keyed(0x36), outer: keyed(0x5c), prefix: [direction as u8, kind as u8] }
    }

    /// One whose frames have each a prefix of its own.
    pub fn without_prefix(key: &[u8; 32]) -> Authenticator {
        let mut authenticator = Authenticator::new(key, Direction::ClientToServer, Kind::Data);
        authenticator.prefix = [0; PREFIX_BYTES];
        authenticator
    }

    /// The codes of at most [`FRAMES_MAX`] frames, of any lengths; those of one length should stand together.
    pub fn codes(&self, frames: &[&[u8]]) -> [Code; FRAMES_MAX] {
        self.prefixed_codes(&[self.prefix; FRAMES_MAX][..frames.len()], frames)
    }

    /// The same, of frames in front of which `prefixes` are covered: shorter than a block.
    pub fn prefixed_codes<const PREFIX: usize>(
        &self,
        prefixes: &[[u8; PREFIX]],
        frames: &[&[u8]],
    ) -> [Code; FRAMES_MAX] {
        let mut codes = [[0; MAC_BYTES]; FRAMES_MAX];
        let (mut rest, mut prefixes) = (&mut codes[..frames.len()], prefixes);
        for equally_long in frames.chunk_by(|left, right| left.len() == right.len()) {
            let (now, later) = rest.split_at_mut(equally_long.len());
            let (own, others) = prefixes.split_at(equally_long.len());
            self.codes_of_equally_long(own, equally_long, now);
            (rest, prefixes) = (later, others);
        }
        codes
    }

    /// The same, of frames of rising lengths, none of which is so short that it leaves the first block unfilled. They go
    /// side by side as far as the shortest of them reaches, then those that are longer, and so on.
    pub fn codes_of_rising<const PREFIX: usize>(
        &self,
        prefixes: &[[u8; PREFIX]],
        frames: &[&[u8]],
    ) -> [Code; FRAMES_MAX] {
        let head_bytes = BLOCK_BYTES - PREFIX;
        debug_assert!(
            frames.is_sorted_by_key(|frame| frame.len()) && frames.iter().all(|frame| frame.len() >= head_bytes)
        );
        let mut states = [self.inner; FRAMES_MAX];
        let states = &mut states[..frames.len()];
        let mut heads = [[0; BLOCK_BYTES]; FRAMES_MAX];
        for ((head, frame), prefix) in heads.iter_mut().zip(frames).zip(prefixes) {
            head[..PREFIX].copy_from_slice(prefix);
            head[PREFIX..].copy_from_slice(&frame[..head_bytes]);
        }
        compress_each(states, |index| &heads[index]);
        let mut done = head_bytes;
        for (shortest, frame) in frames.iter().enumerate() {
            let end = head_bytes + (frame.len() - head_bytes) / BLOCK_BYTES * BLOCK_BYTES;
            if end > done {
                compress_each(&mut states[shortest..], |index| &frames[shortest + index][done..end]);
                done = end;
            }
            let covered_bytes = BLOCK_BYTES + PREFIX + frame.len();
            finish(&mut states[shortest..=shortest], |_| &[], covered_bytes, |_| &frame[done..]);
        }
        self.outer_codes(states)
    }

    fn codes_of_equally_long<const PREFIX: usize>(
        &self,
        prefixes: &[[u8; PREFIX]],
        frames: &[&[u8]],
        codes: &mut [Code],
    ) {
        // How much of a frame fills the first block, behind the prefix.
        let head_bytes = BLOCK_BYTES - PREFIX;
        let mut states = [self.inner; FRAMES_MAX];
        let states = &mut states[..frames.len()];
        // The tails begin at a border of blocks; a frame that does not fill the first block is a tail, prefix and all.
        let tail_start = match frames[0].len().checked_sub(head_bytes) {
            Some(behind_head) => head_bytes + behind_head / BLOCK_BYTES * BLOCK_BYTES,
            None => 0,
        };
        if tail_start > 0 {
            let mut heads = [[0; BLOCK_BYTES]; FRAMES_MAX];
            for ((head, frame), prefix) in heads.iter_mut().zip(frames).zip(prefixes) {
                head[..PREFIX].copy_from_slice(prefix);
                head[PREFIX..].copy_from_slice(&frame[..head_bytes]);
            }
            compress_each(states, |index| &heads[index]);
            compress_each(states, |index| &frames[index][head_bytes..tail_start]);
        }
        let prefix = |index: usize| if tail_start == 0 { &prefixes[index][..] } else { &[] };
        let covered_bytes = BLOCK_BYTES + PREFIX + frames[0].len();
        finish(states, prefix, covered_bytes, |index| &frames[index][tail_start..]);
        codes.iter_mut().zip(self.outer_codes(states)).for_each(|(code, found)| *code = found);
    }

    /// The second hash, over each of the first ones.
    fn outer_codes(&self, states: &mut [State]) -> [Code; FRAMES_MAX] {
        let mut hashes = [[0; MAC_BYTES]; FRAMES_MAX];
        for (hash, state) in hashes.iter_mut().zip(states.iter_mut()) {
            *hash = to_bytes(state);
            *state = self.outer;
        }
        finish(states, |_| &[], BLOCK_BYTES + MAC_BYTES, |index| &hashes[index]);
        let mut codes = [[0; MAC_BYTES]; FRAMES_MAX];
        codes.iter_mut().zip(states).for_each(|(code, state)| *code = to_bytes(state));
        codes
    }
}

/// Adds the whole blocks that `part` gives for each state: of one length for all.
fn compress_each<'a>(states: &mut [State], part: impl Fn(usize) -> &'a [u8]) {
    let mut parts: [&[u8]; FRAMES_MAX] = [&[]; FRAMES_MAX];
    let parts = &mut parts[..states.len()];
    parts.iter_mut().enumerate().for_each(|(index, room)| *room = part(index));
    sha256_lanes::compress(states, parts);
}

/// Adds what `prefix` and `tail` give, less than a block together, and the padding that tells how much there was in
/// all (FIPS 180-4, section 5.1.1).
fn finish<'a>(
    states: &mut [State],
    prefix: impl Fn(usize) -> &'a [u8],
    covered_bytes: usize,
    tail: impl Fn(usize) -> &'a [u8],
) {
    let mut padded = [[0; 2 * BLOCK_BYTES]; FRAMES_MAX];
    let tail_bytes = prefix(0).len() + tail(0).len();
    let blocks = if tail_bytes + 1 + LENGTH_BYTES <= BLOCK_BYTES { 1 } else { 2 };
    for (index, room) in padded[..states.len()].iter_mut().enumerate() {
        let room = &mut room[..blocks * BLOCK_BYTES];
        let prefix = prefix(index);
        room[..prefix.len()].copy_from_slice(prefix);
        room[prefix.len()..tail_bytes].copy_from_slice(tail(index));
        room[tail_bytes] = 0x80;
        let length = room.len() - LENGTH_BYTES;
        room[length..].copy_from_slice(&(covered_bytes as u64 * 8).to_be_bytes());
    }
    compress_each(states, |index| &padded[index][..blocks * BLOCK_BYTES]);
}

fn to_bytes(state: &State) -> Code {
    let mut bytes = [0; MAC_BYTES];
    bytes.as_chunks_mut::<4>().0.iter_mut().zip(state).for_each(|(four, word)| *four = word.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    const KEY: [u8; 32] = [0x3C; 32];

    fn by_the_crate(key: &[u8; 32], frame: &[u8]) -> Code {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(&[Direction::ServerToClient as u8, Kind::Data as u8]);
        mac.chain_update(frame).finalize().into_bytes().into()
    }

    fn check(key: &[u8; 32], frames: &[&[u8]]) {
        let codes = Authenticator::new(key, Direction::ServerToClient, Kind::Data).codes(frames);
        for (number, (frame, code)) in frames.iter().zip(codes).enumerate() {
            assert_eq!(code, by_the_crate(key, frame), "frame {number} of {}, {} bytes", frames.len(), frame.len());
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn every_length_around_the_borders_of_blocks_and_every_number_of_frames() {
        let room = bytes(FRAMES_MAX * 400);
        for length in 0..=330 {
            // Each number of frames takes another way through lanes, pairs and single ones.
            for count in [1, 2, 3, 7, 8, 9, 15, 16] {
                let frames: Vec<&[u8]> =
                    (0..count).map(|number| &room[number * (length + 1) + length % 64..][..length]).collect();
                check(&KEY, &frames);
            }
        }
    }

    #[test]
    fn full_frames_at_every_alignment() {
        let full = 23 + super::super::segment::SEGMENT_PAYLOAD_MAX - MAC_BYTES - 4;
        let room = bytes(FRAMES_MAX * (full + 3) + 64);
        for alignment in 0..64 {
            let frames: Vec<&[u8]> =
                (0..FRAMES_MAX).map(|number| &room[alignment + number * (full + 3)..][..full]).collect();
            check(&KEY, &frames);
        }
    }

    #[test]
    fn rising_lengths_give_the_codes_of_each_alone() {
        let room = bytes(80_000);
        let prefixes: [[u8; 48]; FRAMES_MAX] = std::array::from_fn(|index| [index as u8; 48]);
        let authenticator = Authenticator::without_prefix(&KEY);
        for (least, step) in [(16, 0), (16, 1), (33, 16), (79, 64), (200, 999), (5_000, 4_321)] {
            for count in [1, 2, 7, 9, 16] {
                let lengths = (0..count).map(|index| least + index / 2 * step);
                let frames: Vec<&[u8]> = lengths.map(|length| &room[length % 61..][..length]).collect();
                let codes = authenticator.codes_of_rising(&prefixes[..count], &frames);
                for (index, frame) in frames.iter().enumerate() {
                    assert_eq!(codes[index], authenticator.prefixed_codes(&[prefixes[index]], &[frame])[0]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_of_mixed_lengths(
            key in any::<[u8; 32]>(),
            lengths in proptest::collection::vec(prop_oneof![Just(16_471), Just(55), 0_usize..3_000], 0..=FRAMES_MAX),
        ) {
            let room = bytes(17_000);
            let frames: Vec<&[u8]> =
                lengths.iter().enumerate().map(|(number, length)| &room[number..number + length]).collect();
            check(&key, &frames);
        }
    }
}
