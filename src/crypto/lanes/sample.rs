//! Whether bytes may be worth compressing: most of what does not compress is known without trying, from how evenly a
//! sample's bytes are spread and from whether words come again. Trying costs more than everything else that is done with
//! a chunk.

/// The sample is so many pieces of so many bytes.
const PIECES: usize = 4;
const PIECE_BYTES: usize = 1024;
/// What is shorter is tried without asking.
const SHORT_BYTES: usize = 512;
const WORD_BYTES: usize = 8;

/// Whether a sample leaves hope that compression saves a sixteenth. Not inlined: what is inlined into a function that is
/// compiled for size is compiled for size.
#[inline(never)]
pub fn may_compress(bytes: &[u8]) -> bool {
    bytes.len() < SHORT_BYTES || is_spread_unevenly(bytes) || words_come_again(bytes)
}

/// Whether some bytes are more frequent than others by so much that codes of differing lengths save a sixteenth. Of
/// random bytes the sum of the squares of the counts is n + n² / 256, give or take a hundredth.
fn is_spread_unevenly(bytes: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    let mut sampled = 0_u64;
    let step = (bytes.len() / PIECES).max(PIECE_BYTES);
    for piece in bytes.chunks(step).take(PIECES) {
        let piece = &piece[..piece.len().min(PIECE_BYTES)];
        piece.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        sampled += piece.len() as u64;
    }
    let squares: u64 = counts.iter().map(|&count| u64::from(count) * u64::from(count)).sum();
    squares - sampled > sampled * sampled / 256 * 11 / 10
}

/// Whether, of the words that follow a certain byte, one in sixteen has been seen before: so contents of random bytes
/// that repeat are found.
fn words_come_again(bytes: &[u8]) -> bool {
    const MARK: u8 = 0xA7;
    const SLOTS: usize = 512;
    let mut seen = [0_u64; SLOTS];
    let (mut words, mut again) = (0_u32, 0_u32);
    let marked = bytes.len().saturating_sub(WORD_BYTES);
    for (index, block) in bytes[..marked].as_chunks::<WORD_BYTES>().0.iter().enumerate() {
        let mut marks = bytes_equal(u64::from_le_bytes(*block), MARK);
        while marks != 0 {
            let at = index * WORD_BYTES + marks.trailing_zeros() as usize / 8 + 1;
            marks &= marks - 1;
            let word = bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            let slot = &mut seen[(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize];
            words += 1;
            again += u32::from(*slot == word);
            *slot = word;
        }
    }
    again * 16 > words
}

/// Sets the upper bit of each byte of `block` that is `byte`. Written so that it needs no vectors: a compiler that is asked
/// for small code makes none.
fn bytes_equal(block: u64, byte: u8) -> u64 {
    const LOW_BITS: u64 = u64::from_le_bytes([0x7F; 8]);
    let differing = block ^ u64::from_le_bytes([byte; 8]);
    !(((differing & LOW_BITS) + LOW_BITS) | differing | LOW_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_is_equal_is_found_and_no_other() {
        for (byte, place) in (0..=255_u8).flat_map(|byte| (0..8).map(move |place| (byte, place))) {
            for around in [0x00, 0x01, 0x7F, 0x80, 0xA6, 0xA7, 0xFF] {
                let mut block = [around; 8];
                block[place] = byte;
                let expected: [u8; 8] = block.map(|byte| if byte == 0xA7 { 0x80 } else { 0 });
                assert_eq!(bytes_equal(u64::from_le_bytes(block), 0xA7).to_le_bytes(), expected);
            }
        }
    }
}
