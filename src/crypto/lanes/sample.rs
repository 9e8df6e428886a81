//! Whether bytes may be worth compressing: most of what does not compress is known without trying, from how evenly a
//! sample's bytes are spread and from whether words come again. Trying costs more than everything else that is done with
//! a chunk.

/// The sample is so many pieces of so many bytes.
const PIECES: usize = 4;
const PIECE_BYTES: usize = 1024;
/// What is shorter is tried without asking.
const SHORT_BYTES: usize = 512;
/// Bytes that are passed over at once where none of them is the mark: as many words.
const BLOCK_BYTES: usize = BLOCK_WORDS * WORD_BYTES;
const BLOCK_WORDS: usize = 8;
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
    for (index, block) in bytes[..marked].as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
        let found = marks_in(block, MARK);
        if found == [0; BLOCK_WORDS] {
            continue;
        }
        for (place, mut marks) in found.into_iter().enumerate() {
            while marks != 0 {
                let at = index * BLOCK_BYTES + place * WORD_BYTES + marks.trailing_zeros() as usize / 8 + 1;
                marks &= marks - 1;
                let word = bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
                let slot = &mut seen[(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize];
                words += 1;
                again += u32::from(*slot == word);
                *slot = word;
            }
        }
    }
    again * 16 > words
}

/// For each eight bytes a word whose bytes are 1 where the mark is.
fn marks_in(block: &[u8; BLOCK_BYTES], mark: u8) -> [u64; BLOCK_WORDS] {
    let is_mark: [u8; BLOCK_BYTES] = std::array::from_fn(|at| u8::from(block[at] == mark));
    let words = is_mark.as_chunks::<WORD_BYTES>().0;
    std::array::from_fn(|place| u64::from_le_bytes(words[place]))
}
