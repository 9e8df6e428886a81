//! Sealed segments: what everything after the handshake travels in.
//!
//! A frame on the wire, all numbers little-endian:
//!
//! ```text
//! header [23 client → server, 7 server → client] · sequence u64 · acknowledged u64 · IV [16]
//!   · AES-256-CBC ciphertext, PKCS#7 (16 … 16,400 bytes) · HMAC-SHA256 [32] · CRC32 u32
//! ```
//!
//! - The HMAC covers `direction ‖ kind ‖ everything in the frame before it`. The first two bytes are not sent: both
//!   sides know them, and a frame that was reflected or moved to the other kind fails. (It would anyway: each
//!   direction and kind has its own keys. The two bytes cost nothing and hold even if the key schedule were wrong.)
//! - The CRC32 covers everything in the frame before it, HMAC included. It protects nothing against an attacker; it
//!   finds line damage before cryptography is spent.
//! - The order on arrival is: size, CRC32, sequence, HMAC in constant time, only then decryption. All failures are
//!   one [`Damaged`]. In a batch the HMACs of frames that go together are computed together; a frame that fails ends
//!   the batch, and nothing of it or behind it is decrypted.
//! - Data sequences have no gaps: exactly the next one opens. Control sequences rise and may have gaps, since a
//!   damaged control segment is never repeated. So nothing opens twice, in either kind.
//! - A sealer never uses a sequence number twice: it is spent before the first byte is written. Repeats are the
//!   sealed bytes, kept by the caller.
//! - A receiver follows its peer at most one epoch forward, and only after a segment of that epoch has verified; a
//!   forged sequence number moves nothing. (A control chain thus survives the loss of up to a whole epoch of
//!   segments in a row, no more.)

use std::ops::Range;

use aes::cipher::KeyInit;
use aes::{Aes256Dec, Aes256Enc};

use super::authenticator::{Authenticator, FRAMES_MAX, MAC_BYTES};
use super::checksum::crc32;
use super::error::{CryptoError, Damaged};
use super::key_exchange::Chain;
use super::lanes;
use super::secret::{constant_time_equal, fill_random};

/// The most plaintext in one segment.
pub const SEGMENT_PLAINTEXT_MAX: usize = 16 * 1024;
/// The most bytes of payload (a frame without its header) that a segment can have.
pub const SEGMENT_PAYLOAD_MAX: usize = sealed_payload_bytes(SEGMENT_PLAINTEXT_MAX);
/// What a payload has beside its ciphertext: sequence, acknowledged, IV, HMAC and CRC32.
pub const SEGMENT_OVERHEAD: usize = PREFIX_BYTES + MAC_BYTES + CRC_BYTES;

pub(super) const BLOCK_BYTES: usize = lanes::BLOCK_BYTES;
const SEQUENCE_BYTES: usize = 8;
const ACKNOWLEDGED_BYTES: usize = 8;
const IV_BYTES: usize = BLOCK_BYTES;
const PREFIX_BYTES: usize = SEQUENCE_BYTES + ACKNOWLEDGED_BYTES + IV_BYTES;
const CRC_BYTES: usize = 4;
const SUFFIX_BYTES: usize = MAC_BYTES + CRC_BYTES;

/// The payload size of a segment with so much plaintext: always a padding byte at least, up to a whole block.
pub const fn sealed_payload_bytes(plaintext_bytes: usize) -> usize {
    SEGMENT_OVERHEAD + ciphertext_bytes(plaintext_bytes)
}

/// Whether a segment can have a payload of this size: `68 + 16 k`, with `k` from 1 to 1,025.
pub const fn is_possible_payload(bytes: usize) -> bool {
    bytes > SEGMENT_OVERHEAD
        && bytes <= SEGMENT_PAYLOAD_MAX
        && (bytes - SEGMENT_OVERHEAD).is_multiple_of(BLOCK_BYTES)
}

const fn ciphertext_bytes(plaintext_bytes: usize) -> usize {
    (plaintext_bytes / BLOCK_BYTES + 1) * BLOCK_BYTES
}

/// Who sends a segment. The value is the byte that the HMAC covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Sealed by the client.
    ClientToServer = 1,
    /// Sealed by the server.
    ServerToClient = 2,
}

/// What a segment carries. The value is the byte that the HMAC covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A piece of the stream of messages.
    Data = 1,
    /// Acknowledge, repeat-from, resumed-at, ping, close.
    Control = 2,
}

/// Seals the segments of one direction and kind, with sequence numbers from 0 on.
pub struct Sealer {
    direction: Direction,
    kind: Kind,
    header_bytes: usize,
    chain: Chain,
    keys: SealingKeys,
    next_sequence: u64,
    initialization_vectors: Vec<[u8; IV_BYTES]>,
    ciphertexts: Vec<Range<usize>>,
}

impl Sealer {
    /// A sealer at sequence 0. `header_bytes` is the length of the header in front of each payload.
    pub fn new(direction: Direction, kind: Kind, chain: Chain, header_bytes: usize) -> Self {
        let keys = SealingKeys::new(&chain, direction, kind);
        let (initialization_vectors, ciphertexts) = (Vec::new(), Vec::new());
        Self { direction, kind, header_bytes, chain, keys, next_sequence: 0, initialization_vectors, ciphertexts }
    }

    /// The sequence number of the next segment to be sealed.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Seals a batch of frames in place.
    ///
    /// `buffer` holds them one after the other exactly as they go on the wire, each `header_bytes +`
    /// [`sealed_payload_bytes`] long, with header and plaintext in place (the plaintext begins where the ciphertext
    /// will); everything else is filled in. All of them carry `acknowledged`. A batch of 16 or more full segments
    /// is several times as fast as as many single calls; there is no upper limit.
    ///
    /// # Errors
    /// [`CryptoError::PlaintextTooLong`], [`CryptoError::BatchLayout`] or [`CryptoError::SequencesExhausted`], in
    /// each case before anything was changed.
    pub fn seal_batch(
        &mut self,
        buffer: &mut [u8],
        plaintext_lens: &[usize],
        acknowledged: u64,
    ) -> Result<(), CryptoError> {
        let mut vectors = std::mem::take(&mut self.initialization_vectors);
        vectors.resize(plaintext_lens.len(), [0; IV_BYTES]);
        fill_random(vectors.as_flattened_mut());
        let result = self.seal_with(&vectors, buffer, plaintext_lens, acknowledged);
        self.initialization_vectors = vectors;
        result
    }

    /// As [`Sealer::seal_batch`], with given IVs: apart from it, only the pinned vectors have a use for this.
    fn seal_with(
        &mut self,
        vectors: &[[u8; IV_BYTES]],
        buffer: &mut [u8],
        plaintext_lens: &[usize],
        acknowledged: u64,
    ) -> Result<(), CryptoError> {
        self.find_ciphertexts(buffer.len(), plaintext_lens)?;
        let mut sequence = self.next_sequence;
        self.next_sequence =
            sequence.checked_add(plaintext_lens.len() as u64).ok_or(CryptoError::SequencesExhausted)?;
        let contents = plaintext_lens.iter().zip(vectors);
        for ((ciphertext, (plaintext_len, vector)), sequence) in
            self.ciphertexts.iter().zip(contents).zip(sequence..)
        {
            write_prefix(&mut buffer[..ciphertext.start], sequence, acknowledged, vector);
            pad(&mut buffer[ciphertext.clone()], *plaintext_len);
        }
        let mut sealed = 0;
        while sealed < self.ciphertexts.len() {
            self.enter_epoch_of(sequence);
            let left_in_epoch = usize::try_from(self.chain.left_in_epoch(sequence)).unwrap_or(usize::MAX);
            let run = left_in_epoch.min(self.ciphertexts.len() - sealed);
            self.keys.seal(buffer, &self.ciphertexts[sealed..sealed + run], self.header_bytes);
            sealed += run;
            sequence += run as u64;
        }
        Ok(())
    }

    /// Notes where each frame's ciphertext lies, and checks that the frames fill the buffer exactly.
    fn find_ciphertexts(&mut self, buffer_bytes: usize, plaintext_lens: &[usize]) -> Result<(), CryptoError> {
        self.ciphertexts.clear();
        let mut expected = 0;
        for &bytes in plaintext_lens {
            if bytes > SEGMENT_PLAINTEXT_MAX {
                return Err(CryptoError::PlaintextTooLong { bytes });
            }
            let start = expected + self.header_bytes + PREFIX_BYTES;
            self.ciphertexts.push(start..start + ciphertext_bytes(bytes));
            expected += self.header_bytes + sealed_payload_bytes(bytes);
        }
        if buffer_bytes != expected {
            return Err(CryptoError::BatchLayout { bytes: buffer_bytes, expected });
        }
        Ok(())
    }

    fn enter_epoch_of(&mut self, sequence: u64) {
        while self.chain.epoch() < self.chain.epoch_of(sequence) {
            self.chain = self.chain.next();
            self.keys = SealingKeys::new(&self.chain, self.direction, self.kind);
        }
    }
}

/// Writes sequence, acknowledged and IV to the end of `before_ciphertext`.
fn write_prefix(before_ciphertext: &mut [u8], sequence: u64, acknowledged: u64, vector: &[u8; IV_BYTES]) {
    let start = before_ciphertext.len() - PREFIX_BYTES;
    let (numbers, room) = before_ciphertext[start..].split_at_mut(SEQUENCE_BYTES + ACKNOWLEDGED_BYTES);
    numbers[..SEQUENCE_BYTES].copy_from_slice(&sequence.to_le_bytes());
    numbers[SEQUENCE_BYTES..].copy_from_slice(&acknowledged.to_le_bytes());
    room.copy_from_slice(vector);
}

/// PKCS#7 (RFC 5652, section 6.3): as many bytes of padding as their value says.
fn pad(text: &mut [u8], plaintext_len: usize) {
    let padding = &mut text[plaintext_len..];
    padding.fill(padding.len() as u8);
}

/// The length of the plaintext in a decrypted text, if its padding is right in every byte.
pub(super) fn unpadded_len(text: &[u8]) -> Option<usize> {
    let &last = text.last()?;
    let plaintext_len = text.len().checked_sub(usize::from(last))?;
    let right =
        (1..=BLOCK_BYTES).contains(&usize::from(last)) && text[plaintext_len..].iter().all(|&byte| byte == last);
    right.then_some(plaintext_len)
}

struct SealingKeys {
    cipher: Aes256Enc,
    authenticator: Authenticator,
}

impl SealingKeys {
    fn new(chain: &Chain, direction: Direction, kind: Kind) -> Self {
        let keys = chain.keys();
        let cipher = Aes256Enc::new(keys.encryption.expose().into());
        Self { cipher, authenticator: Authenticator::new(keys.authentication.expose(), direction, kind) }
    }

    /// Encrypts a run of frames side by side, then authenticates as many at a time as go together, and sums each one
    /// while it lies in the cache.
    fn seal(&self, buffer: &mut [u8], ciphertexts: &[Range<usize>], header_bytes: usize) {
        lanes::encrypt_cbc(&self.cipher, buffer, ciphertexts);
        for ciphertexts in ciphertexts.chunks(FRAMES_MAX) {
            let start_of = |ciphertext: &Range<usize>| ciphertext.start - PREFIX_BYTES - header_bytes;
            let mut frames: [&[u8]; FRAMES_MAX] = [&[]; FRAMES_MAX];
            for (frame, ciphertext) in frames.iter_mut().zip(ciphertexts) {
                *frame = &buffer[start_of(ciphertext)..ciphertext.end];
            }
            let codes = self.authenticator.codes(&frames[..ciphertexts.len()]);
            for (ciphertext, code) in ciphertexts.iter().zip(codes) {
                let frame = &mut buffer[start_of(ciphertext)..ciphertext.end + SUFFIX_BYTES];
                let (before_crc, crc) = split_at_end(frame, CRC_BYTES);
                split_at_end(before_crc, MAC_BYTES).1.copy_from_slice(&code);
                crc.copy_from_slice(&crc32(before_crc).to_le_bytes());
            }
        }
    }
}

fn split_at_end(bytes: &mut [u8], end_bytes: usize) -> (&mut [u8], &mut [u8]) {
    let start = bytes.len() - end_bytes;
    bytes.split_at_mut(start)
}

/// A segment that has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where in the buffer its plaintext lies now.
    pub plaintext: Range<usize>,
    /// Its sequence number.
    pub sequence: u64,
    /// What its sender acknowledges; what the number means is the channel's affair.
    pub acknowledged: u64,
}

/// Opens the segments of one direction and kind.
pub struct Opener {
    direction: Direction,
    kind: Kind,
    header_bytes: usize,
    chain: Chain,
    keys: OpeningKeys,
    expected: u64,
}

impl Opener {
    /// An opener that expects sequence 0. `direction` is the sender's; `header_bytes` as in [`Sealer::new`].
    pub fn new(direction: Direction, kind: Kind, chain: Chain, header_bytes: usize) -> Self {
        let keys = OpeningKeys::new(&chain, direction, kind);
        Self { direction, kind, header_bytes, chain, keys, expected: 0 }
    }

    /// The sequence number that must come next (data), or the least that may (control).
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The sequence number that a frame claims. Nothing of it is verified: good for a decision to drop, never for
    /// one to accept.
    pub fn peek_sequence(&self, frame: &[u8]) -> Option<u64> {
        read_u64(frame, self.header_bytes)
    }

    /// Opens frames in their order, in place, and adds what it opened to `opened` (which it does not clear).
    ///
    /// Each of `frames` is the range of one whole frame in `buffer`, header included. A frame that fails does not
    /// count: the opener goes on expecting what it expected, and the caller may offer a repeat, or (control) the
    /// frames after it.
    ///
    /// # Errors
    /// [`Damaged`] at the first frame that does not verify, for whatever reason. Those before it are in `opened`.
    pub fn open_batch(
        &mut self,
        buffer: &mut [u8],
        frames: &[Range<usize>],
        opened: &mut Vec<Opened>,
    ) -> Result<(), Damaged> {
        let mut rest = frames;
        while !rest.is_empty() {
            let count = self.open_together(buffer, rest, opened)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Opens as many of the frames, from the first on, as are authenticated together: those of one epoch, up to the
    /// first that cannot be right. All their codes are computed before the first of them is decrypted.
    fn open_together(
        &mut self,
        buffer: &mut [u8],
        frames: &[Range<usize>],
        opened: &mut Vec<Opened>,
    ) -> Result<usize, Damaged> {
        let (claims, count) = self.plausible(buffer, frames);
        let first = claims[..count].first().ok_or(Damaged)?;
        let entered = match self.chain.epoch_of(first.sequence).checked_sub(self.chain.epoch()) {
            Some(0) => None,
            Some(1) => {
                let chain = self.chain.next();
                let keys = OpeningKeys::new(&chain, self.direction, self.kind);
                Some((chain, keys))
            }
            _ => return Err(Damaged),
        };
        let keys = entered.as_ref().map_or(&self.keys, |(_, keys)| keys);
        let verified = keys.count_verified(buffer, &frames[..count]);
        // A new epoch is entered only once a frame of it has verified.
        if let (Some((chain, keys)), 1..) = (entered, verified) {
            (self.chain, self.keys) = (chain, keys);
        }
        for (range, &Claim { sequence, acknowledged }) in frames.iter().zip(&claims[..verified]) {
            let start = range.start + self.header_bytes + PREFIX_BYTES;
            let plaintext_len = self.keys.decrypt(&mut buffer[start - IV_BYTES..range.end])?;
            opened.push(Opened { plaintext: start..start + plaintext_len, sequence, acknowledged });
            self.expected = sequence + 1;
        }
        if verified == count { Ok(count) } else { Err(Damaged) }
    }

    /// What the frames up to the first implausible one claim, at most those of one epoch and [`FRAMES_MAX`].
    fn plausible(&self, buffer: &[u8], frames: &[Range<usize>]) -> ([Claim; FRAMES_MAX], usize) {
        let (mut claims, mut count) = ([Claim::default(); FRAMES_MAX], 0);
        let mut expected = self.expected;
        for range in frames.iter().take(FRAMES_MAX) {
            let claim = buffer.get(range.clone()).and_then(|frame| self.claim(frame, expected));
            let Some(claim) = claim else { break };
            if count > 0 && self.chain.epoch_of(claim.sequence) != self.chain.epoch_of(claims[0].sequence) {
                break;
            }
            claims[count] = claim;
            count += 1;
            expected = claim.sequence + 1;
        }
        (claims, count)
    }

    /// Everything that must hold before a frame is authenticated, in the order that spends the least on damage.
    fn claim(&self, frame: &[u8], expected: u64) -> Option<Claim> {
        let payload_bytes = frame.len().checked_sub(self.header_bytes)?;
        let (before_crc, crc) = frame.split_last_chunk::<CRC_BYTES>()?;
        if !is_possible_payload(payload_bytes) || crc32(before_crc) != u32::from_le_bytes(*crc) {
            return None;
        }
        let sequence = read_u64(frame, self.header_bytes)?;
        let acknowledged = read_u64(frame, self.header_bytes + SEQUENCE_BYTES)?;
        let in_order = match self.kind {
            Kind::Data => sequence == expected,
            Kind::Control => sequence >= expected,
        };
        // The very last number is never sealed: there would be no next one to expect.
        (in_order && sequence != u64::MAX).then_some(Claim { sequence, acknowledged })
    }
}

/// What a frame says of itself, before it is authenticated.
#[derive(Clone, Copy, Default)]
struct Claim {
    sequence: u64,
    acknowledged: u64,
}

struct OpeningKeys {
    cipher: Aes256Dec,
    authenticator: Authenticator,
}

impl OpeningKeys {
    fn new(chain: &Chain, direction: Direction, kind: Kind) -> Self {
        let keys = chain.keys();
        let cipher = Aes256Dec::new(keys.encryption.expose().into());
        Self { cipher, authenticator: Authenticator::new(keys.authentication.expose(), direction, kind) }
    }

    /// How many of the frames, from the first on, have the right code. Each is as long as a segment is.
    fn count_verified(&self, buffer: &[u8], frames: &[Range<usize>]) -> usize {
        let mut authenticated: [&[u8]; FRAMES_MAX] = [&[]; FRAMES_MAX];
        for (room, frame) in authenticated.iter_mut().zip(frames) {
            *room = &buffer[frame.start..frame.end - SUFFIX_BYTES];
        }
        let codes = self.authenticator.codes(&authenticated[..frames.len()]);
        let right = frames.iter().zip(&codes).take_while(|(frame, code)| {
            constant_time_equal(&buffer[frame.end - SUFFIX_BYTES..frame.end - CRC_BYTES], &code[..])
        });
        right.count()
    }

    /// Decrypts in place what has been authenticated, `IV ‖ ciphertext ‖ HMAC ‖ CRC32`, and gives the length of the
    /// plaintext.
    ///
    /// Decryption has no serial chain, so a single segment fills the processor's lanes by itself.
    fn decrypt(&self, from_vector: &mut [u8]) -> Result<usize, Damaged> {
        let (vector, rest) = from_vector.split_first_chunk_mut::<IV_BYTES>().ok_or(Damaged)?;
        let (ciphertext, _) = split_at_end(rest, SUFFIX_BYTES);
        lanes::decrypt_cbc(&self.cipher, vector, ciphertext);
        unpadded_len(ciphertext).ok_or(Damaged)
    }
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::test_support::{field, field_array, hex, read_vector, text, write_vector};
    use super::*;

    const VECTOR: &str = "segment.json";
    const HEADER_BYTES: usize = 23;
    const UP: Direction = Direction::ClientToServer;
    const DOWN: Direction = Direction::ServerToClient;

    fn chain(segments_per_epoch: u64) -> Chain {
        Chain::from_secret([0x5A; 32], segments_per_epoch)
    }

    fn pair(kind: Kind, segments_per_epoch: u64) -> (Sealer, Opener) {
        let sealer = Sealer::new(UP, kind, chain(segments_per_epoch), HEADER_BYTES);
        (sealer, Opener::new(UP, kind, chain(segments_per_epoch), HEADER_BYTES))
    }

    fn frame_ranges(plaintext_lens: &[usize]) -> Vec<Range<usize>> {
        let ends = plaintext_lens.iter().scan(0, |end, &bytes| {
            let start = *end;
            *end += HEADER_BYTES + sealed_payload_bytes(bytes);
            Some(start..*end)
        });
        ends.collect()
    }

    /// Headers and plaintexts in place, each byte told by its position.
    fn unsealed(plaintext_lens: &[usize]) -> Vec<u8> {
        let end = frame_ranges(plaintext_lens).last().map_or(0, |range| range.end);
        (0..end).map(|at| ((at * 31) >> 2) as u8).collect()
    }

    fn seal_one(sealer: &mut Sealer, plaintext_len: usize) -> Vec<u8> {
        let mut frame = unsealed(&[plaintext_len]);
        sealer.seal_batch(&mut frame, &[plaintext_len], 7).expect("one frame fits");
        frame
    }

    fn open_one(opener: &mut Opener, frame: &[u8]) -> Result<Opened, Damaged> {
        let (mut buffer, mut opened) = (frame.to_vec(), Vec::new());
        opener.open_batch(&mut buffer, from_ref(&(0..frame.len())), &mut opened)?;
        Ok(opened.remove(0))
    }

    /// Makes the CRC right again, so that a change is left to the HMAC to find.
    fn repair_crc(frame: &mut [u8]) {
        let (before_crc, crc) = split_at_end(frame, CRC_BYTES);
        crc.copy_from_slice(&crc32(before_crc).to_le_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_was_sealed_opens(
            batches in proptest::collection::vec(proptest::collection::vec(0_usize..=SEGMENT_PLAINTEXT_MAX, 0..12), 1..4),
            segments_per_epoch in 1_u64..9,
            acknowledged in any::<u64>(),
        ) {
            let (mut sealer, mut opener) = pair(Kind::Data, segments_per_epoch);
            let mut sequence = 0;
            for lens in batches {
                let plain = unsealed(&lens);
                let mut buffer = plain.clone();
                sealer.seal_batch(&mut buffer, &lens, acknowledged).expect("the layout is right");
                let (frames, mut opened) = (frame_ranges(&lens), Vec::new());
                opener.open_batch(&mut buffer, &frames, &mut opened).expect("nothing was changed");
                prop_assert_eq!(opened.len(), lens.len());
                for ((opened, frame), len) in opened.iter().zip(frames).zip(lens) {
                    let start = frame.start + HEADER_BYTES + PREFIX_BYTES;
                    prop_assert_eq!(opened, &Opened { plaintext: start..start + len, sequence, acknowledged });
                    prop_assert!(buffer[opened.plaintext.clone()] == plain[opened.plaintext.clone()]);
                    sequence += 1;
                }
            }
            prop_assert_eq!((sealer.next_sequence(), opener.expected()), (sequence, sequence));
        }

        #[test]
        fn noise_never_opens(mut noise in proptest::collection::vec(any::<u8>(), 0..400), repaired in any::<bool>()) {
            if repaired && noise.len() > CRC_BYTES {
                repair_crc(&mut noise);
            }
            for kind in [Kind::Data, Kind::Control] {
                prop_assert_eq!(open_one(&mut pair(kind, 2).1, &noise), Err(Damaged));
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_protocol_page() {
        assert_eq!((SEGMENT_OVERHEAD, SEGMENT_PAYLOAD_MAX), (68, 68 + 16 * 1025));
        assert_eq!([0, 15, 16, 16_384].map(sealed_payload_bytes), [84, 84, 100, 16_468]);
        let possible: Vec<usize> = (0..20_000).filter(|&bytes| is_possible_payload(bytes)).collect();
        assert_eq!(possible, (1..=1025).map(|blocks| 68 + 16 * blocks).collect::<Vec<_>>());
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let frame = seal_one(&mut pair(Kind::Data, 4).0, 20);
        for bit in 0..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_one(&mut pair(Kind::Data, 4).1, &changed), Err(Damaged), "bit {bit}");
            repair_crc(&mut changed);
            let crc_alone = bit / 8 >= frame.len() - CRC_BYTES;
            assert_eq!(
                open_one(&mut pair(Kind::Data, 4).1, &changed).is_ok(),
                crc_alone,
                "bit {bit}, CRC repaired"
            );
        }
    }

    #[test]
    fn every_other_length_is_damage() {
        let frame = seal_one(&mut pair(Kind::Data, 4).0, 100);
        for end in 0..frame.len() {
            assert_eq!(open_one(&mut pair(Kind::Data, 4).1, &frame[..end]), Err(Damaged));
        }
        let longer = [&frame[..], &[0; BLOCK_BYTES]].concat();
        assert_eq!(open_one(&mut pair(Kind::Data, 4).1, &longer), Err(Damaged));
    }

    #[test]
    fn a_range_beyond_the_buffer_is_damage() {
        let mut opener = pair(Kind::Data, 4).1;
        assert_eq!(opener.open_batch(&mut [0; 10], from_ref(&(5..200)), &mut Vec::new()), Err(Damaged));
    }

    #[test]
    fn frames_open_in_their_own_direction_and_kind_only() {
        // Even under one and the same chain, which the key schedule never gives to two.
        let frame = seal_one(&mut pair(Kind::Data, 4).0, 20);
        for (direction, kind) in [(UP, Kind::Control), (DOWN, Kind::Data), (DOWN, Kind::Control)] {
            let mut opener = Opener::new(direction, kind, chain(4), HEADER_BYTES);
            assert_eq!(open_one(&mut opener, &frame), Err(Damaged));
        }
        assert!(open_one(&mut pair(Kind::Data, 4).1, &frame).is_ok());
    }

    #[test]
    fn data_opens_in_exact_order() {
        let (mut sealer, mut opener) = pair(Kind::Data, 2);
        let frames: Vec<_> = (0..4).map(|_| seal_one(&mut sealer, 5)).collect();
        assert_eq!(open_one(&mut opener, &frames[1]), Err(Damaged), "a skip");
        for frame in &frames {
            assert!(open_one(&mut opener, frame).is_ok());
            assert_eq!(open_one(&mut opener, frame), Err(Damaged), "a replay");
        }
        assert_eq!(opener.expected(), 4);
    }

    #[test]
    fn control_may_have_gaps_but_only_rises() {
        let (mut sealer, mut opener) = pair(Kind::Control, 4);
        let frames: Vec<_> = (0..8).map(|_| seal_one(&mut sealer, 5)).collect();
        for (sequence, opens) in
            [(1, true), (1, false), (0, false), (3, true), (2, false), (6, true), (5, false), (7, true)]
        {
            assert_eq!(open_one(&mut opener, &frames[sequence]).is_ok(), opens, "sequence {sequence}");
        }
    }

    #[test]
    fn a_receiver_goes_one_epoch_forward_and_no_more() {
        let (mut sealer, mut opener) = pair(Kind::Control, 2);
        let frames: Vec<_> = (0..6).map(|_| seal_one(&mut sealer, 5)).collect();
        assert_eq!(open_one(&mut opener, &frames[4]), Err(Damaged), "two epochs ahead");
        assert!(open_one(&mut opener, &frames[3]).is_ok());
        assert!(open_one(&mut opener, &frames[4]).is_ok());
    }

    #[test]
    fn a_forged_sequence_moves_no_epoch() {
        let (mut sealer, mut opener) = pair(Kind::Control, 2);
        let frame = seal_one(&mut sealer, 5);
        for sequence in [1_u64, 2, 3, 4, u64::MAX] {
            let mut forged = frame.clone();
            forged[HEADER_BYTES..HEADER_BYTES + SEQUENCE_BYTES].copy_from_slice(&sequence.to_le_bytes());
            repair_crc(&mut forged);
            assert_eq!(opener.peek_sequence(&forged), Some(sequence));
            assert_eq!(open_one(&mut opener, &forged), Err(Damaged));
            assert_eq!((opener.chain.epoch(), opener.expected()), (0, 0));
        }
        assert!(open_one(&mut opener, &frame).is_ok());
    }

    /// Wherever the damage is in the batch, found by the CRC or by the HMAC, with and without a change of keys.
    #[test]
    fn a_batch_stops_at_the_first_damage_and_keeps_what_came_before() {
        let lens = [300; 20];
        for (damaged, seen_by_crc, segments_per_epoch) in
            (0..20).flat_map(|at| [(at, true, 100), (at, false, 100), (at, true, 7), (at, false, 7)])
        {
            let (mut sealer, mut opener) = pair(Kind::Data, segments_per_epoch);
            let mut buffer = unsealed(&lens);
            sealer.seal_batch(&mut buffer, &lens, 0).expect("the layout is right");
            let (frames, sealed) = (frame_ranges(&lens), buffer.clone());
            let frame = &mut buffer[frames[damaged].clone()];
            frame[HEADER_BYTES + PREFIX_BYTES] ^= 1;
            if !seen_by_crc {
                repair_crc(frame);
            }
            let (changed, mut opened) = (buffer.clone(), Vec::new());
            assert_eq!(opener.open_batch(&mut buffer, &frames, &mut opened), Err(Damaged));
            assert!(opened.iter().map(|opened| opened.sequence).eq(0..damaged as u64));
            let from = frames[damaged].start;
            assert!(buffer[from..] == changed[from..], "nothing from the damage on was decrypted");
            buffer[from..].copy_from_slice(&sealed[from..]);
            opener.open_batch(&mut buffer, &frames[damaged..], &mut opened).expect("the repeat is whole");
            assert_eq!(opener.expected(), 20);
        }
    }

    #[test]
    fn misuse_is_refused_and_spends_no_sequence() {
        let (mut sealer, _) = pair(Kind::Data, 4);
        let too_long = SEGMENT_PLAINTEXT_MAX + 1;
        assert_eq!(
            sealer.seal_batch(&mut [], &[too_long], 0),
            Err(CryptoError::PlaintextTooLong { bytes: too_long })
        );
        let expected = HEADER_BYTES + 84;
        assert_eq!(sealer.seal_batch(&mut [0; 9], &[3], 0), Err(CryptoError::BatchLayout { bytes: 9, expected }));
        sealer.next_sequence = u64::MAX;
        assert_eq!(sealer.seal_batch(&mut unsealed(&[3]), &[3], 0), Err(CryptoError::SequencesExhausted));
        assert_eq!(sealer.next_sequence(), u64::MAX);
    }

    #[test]
    fn the_same_plaintext_never_looks_the_same() {
        let (mut sealer, _) = pair(Kind::Data, 4);
        let vector = HEADER_BYTES + PREFIX_BYTES - IV_BYTES..HEADER_BYTES + PREFIX_BYTES;
        let (first, second) = (seal_one(&mut sealer, 5), seal_one(&mut sealer, 5));
        assert_ne!(first[vector.clone()], second[vector]);
    }

    #[test]
    fn padding_is_checked_in_every_byte() {
        let mut text = [0x11; 32];
        pad(&mut text, 20);
        assert_eq!(unpadded_len(&text), Some(20));
        for at in 20..32 {
            let mut wrong = text;
            wrong[at] ^= 1;
            assert_eq!(unpadded_len(&wrong), None);
        }
        for last in [0, 17, 33, 255] {
            assert_eq!(unpadded_len(&[last; 32]), None);
        }
        assert_eq!((unpadded_len(&[16; 16]), unpadded_len(&[])), (Some(0), None));
    }

    #[test]
    fn good_vectors_are_pinned() {
        let vectors = read_vector(VECTOR);
        for good in vectors["good"].as_array().expect("a list of vectors") {
            let name = text(good, "name");
            assert_eq!(
                hex(&seal_vector(good)),
                text(good, "frame"),
                "{name}: a change of these bytes is a change of the protocol"
            );
            let frame = field(good, "frame");
            let mut buffer = frame.clone();
            let mut opened = Vec::new();
            let mut opener = opener_for(good);
            opener.open_batch(&mut buffer, from_ref(&(0..frame.len())), &mut opened).expect(name);
            assert_eq!(hex(&buffer[opened[0].plaintext.clone()]), text(good, "plaintext"), "{name}");
            assert_eq!(opened[0].sequence, number(good, "sequence"), "{name}");
            assert_eq!(opened[0].acknowledged, number(good, "acknowledged"), "{name}");
        }
    }

    #[test]
    fn bad_vectors_are_damaged() {
        let vectors = read_vector(VECTOR);
        for bad in vectors["bad"].as_array().expect("a list of vectors") {
            let mut opener = opener_for(&vectors["good"][0]);
            assert_eq!(open_one(&mut opener, &field(bad, "frame")), Err(Damaged), "{}", text(bad, "name"));
        }
    }

    fn number(vector: &Value, name: &str) -> u64 {
        vector[name].as_u64().expect("the vector has a number")
    }

    fn parties(vector: &Value) -> (Direction, Kind, Chain, usize) {
        let direction = if text(vector, "direction") == "client to server" { UP } else { DOWN };
        let kind = if text(vector, "kind") == "data" { Kind::Data } else { Kind::Control };
        let chain = Chain::from_secret(field_array(vector, "first_chain"), number(vector, "segments_per_epoch"));
        (direction, kind, chain, field(vector, "header").len())
    }

    fn seal_vector(vector: &Value) -> Vec<u8> {
        let (direction, kind, chain, header_bytes) = parties(vector);
        let mut sealer = Sealer::new(direction, kind, chain, header_bytes);
        sealer.next_sequence = number(vector, "sequence");
        let plaintext = field(vector, "plaintext");
        let mut frame = [field(vector, "header"), vec![0; sealed_payload_bytes(plaintext.len())]].concat();
        frame[header_bytes + PREFIX_BYTES..][..plaintext.len()].copy_from_slice(&plaintext);
        let vectors = [field_array(vector, "iv")];
        sealer
            .seal_with(&vectors, &mut frame, &[plaintext.len()], number(vector, "acknowledged"))
            .expect("one frame fits");
        frame
    }

    fn opener_for(vector: &Value) -> Opener {
        let (direction, kind, chain, header_bytes) = parties(vector);
        let mut opener = Opener::new(direction, kind, chain, header_bytes);
        opener.expected = number(vector, "sequence");
        opener
    }

    #[test]
    #[ignore = "rewrites a vector; only for a change of the protocol"]
    fn rewrite_segment_vector() {
        let header = |client_id: &[u8], code: u16, plaintext_len: usize| {
            let size = sealed_payload_bytes(plaintext_len) as u32;
            [client_id, &[3], &code.to_le_bytes(), &size.to_le_bytes()].concat()
        };
        let id: Vec<u8> = (0..16).collect();
        let cases = [
            ("data of the client, one block and a part", "client to server", "data", header(&id, 1042, 20), 0, 20),
            ("data of the client, second epoch", "client to server", "data", header(&id, 1042, 32), 5, 32),
            ("control of the client, empty", "client to server", "control", header(&id, 1043, 0), 1, 0),
            ("data of the server, whole blocks", "server to client", "data", header(&[], 1642, 48), 3, 48),
            ("control of the server", "server to client", "control", header(&[], 1643, 9), 2, 9),
        ];
        let good: Vec<Value> = cases
            .iter()
            .map(|(name, direction, kind, header, sequence, plaintext_len)| {
                describe_good(name, direction, kind, header, *sequence, *plaintext_len)
            })
            .collect();
        let bad = describe_bad(&good[0]);
        write_vector(VECTOR, &json!({ "good": good, "bad": bad }));
    }

    fn describe_good(
        name: &str,
        direction: &str,
        kind: &str,
        header: &[u8],
        sequence: u64,
        plaintext_len: usize,
    ) -> Value {
        let (first_chain, segments_per_epoch) = ([0x5A; 32], 4);
        let first = Chain::from_secret(first_chain, segments_per_epoch);
        let keys = if first.epoch_of(sequence) == 0 { first.keys() } else { first.next().keys() };
        let mut vector = json!({
            "name": name, "direction": direction, "kind": kind,
            "first_chain": hex(&first_chain), "segments_per_epoch": segments_per_epoch,
            "encryption_key": hex(keys.encryption.expose()), "authentication_key": hex(keys.authentication.expose()),
            "header": hex(header), "sequence": sequence, "acknowledged": 0x0102_0304_0506_u64,
            "iv": hex(&[0xA0 + sequence as u8; 16]),
            "plaintext": hex(&(0..plaintext_len).map(|at| b'a' + (at % 26) as u8).collect::<Vec<_>>()),
        });
        vector["frame"] = hex(&seal_vector(&vector)).into();
        vector
    }

    fn describe_bad(good: &Value) -> Vec<Value> {
        let (frame, header_bytes) = (field(good, "frame"), HEADER_BYTES);
        let text_start = header_bytes + PREFIX_BYTES;
        let mut bad = Vec::new();
        let mut add = |name: &str, frame: Vec<u8>| bad.push(json!({ "name": name, "frame": hex(&frame) }));
        let mut changed = frame.clone();
        changed[text_start] ^= 1;
        add("ciphertext changed, CRC32 not", changed);
        let places = [
            ("header", 17),
            ("sequence", header_bytes),
            ("acknowledged", header_bytes + 8),
            ("IV", header_bytes + 16),
            ("ciphertext", text_start),
            ("HMAC", frame.len() - SUFFIX_BYTES),
        ];
        for (name, at) in places {
            let mut changed = frame.clone();
            changed[at] ^= 1;
            repair_crc(&mut changed);
            add(&format!("{name} changed, CRC32 right"), changed);
        }
        for (name, field, value) in
            [("sealed by the server", "direction", "server to client"), ("sealed as control", "kind", "control")]
        {
            let mut other = good.clone();
            other[field] = value.into();
            add(name, seal_vector(&other));
        }
        let mut shorter = frame.clone();
        shorter.drain(text_start + 16..text_start + 32);
        repair_crc(&mut shorter);
        add("one block cut out, CRC32 right", shorter);
        add("no ciphertext at all", [&frame[..text_start], &frame[frame.len() - SUFFIX_BYTES..]].concat());
        add("half a block more", [&frame[..], &[0; 8]].concat());
        for (name, padding) in
            [("padding of zero", 0), ("padding beyond a block", 17), ("padding not uniform", 0xFF)]
        {
            add(&format!("{name}, rightly authenticated"), seal_with_padding(good, padding));
        }
        bad
    }

    /// A frame whose HMAC and CRC32 are right and whose padding is not: what only an erring peer can send.
    fn seal_with_padding(good: &Value, padding: u8) -> Vec<u8> {
        let (direction, kind, chain, header_bytes) = parties(good);
        let mut frame = seal_vector(good);
        let ciphertext = header_bytes + PREFIX_BYTES..frame.len() - SUFFIX_BYTES;
        let plaintext = field(good, "plaintext");
        let text = &mut frame[ciphertext.clone()];
        text[..plaintext.len()].copy_from_slice(&plaintext);
        pad(text, plaintext.len());
        if padding == 0xFF {
            text[plaintext.len()] ^= 1;
        } else {
            text[plaintext.len()..].fill(padding);
        }
        SealingKeys::new(&chain, direction, kind).seal(&mut frame, &[ciphertext], header_bytes);
        frame
    }
}
