//! SHA-256 of several texts side by side.
//!
//! One text is strictly serial: each round waits for the one before it. Texts are independent of each other though.
//! With AVX-512, sixteen of them go through the rounds in the sixteen lanes of a register; with the SHA extensions,
//! two are interleaved, so that one works while the other waits. Which of the two there is, is asked of the processor
//! at run time; everywhere else, and for a text that is left over, the `sha2` crate does it.
//!
//! Measured on a processor that has both (Zen 5): one text 2.2 GB/s, two interleaved 3.3 GB/s, sixteen in lanes 7.4.
//!
//! # Why the unchecked code is right
//!
//! Two things here are unchecked, and nothing else. **Calling a function that is compiled for an extension**: each
//! call stands behind the question whether the processor has exactly the extensions that the function names.
//! **Reading from a pointer**: each read goes through `words_at` and its like, which take a slice and read from an
//! array of the right size within it, so that the bounds are checked before the pointer is made; unaligned reads are
//! what the instructions used allow. No pointer is written through, and none is kept. Whether the numbers are right is
//! for the tests to say, which hold every path against the crate.

use sha2::block_api::compress256;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 64;
/// The most texts that are hashed side by side.
pub const LANES_MAX: usize = 16;
/// The running value of one text.
pub type State = [u32; 8];

/// From so many texts on, sixteen lanes are faster than pairs, though some of them are idle.
#[cfg(target_arch = "x86_64")]
const LANES_WORTH_IT: usize = 8;

/// Adds the whole blocks in `texts`, one text for each state. All texts are of one length.
pub fn compress(states: &mut [State], texts: &[&[u8]]) {
    debug_assert_eq!(states.len(), texts.len());
    debug_assert!(texts.iter().all(|text| text.len() == texts[0].len() && text.len().is_multiple_of(BLOCK_BYTES)));
    let done = compress_side_by_side(states, texts);
    for (state, text) in states.iter_mut().zip(texts).skip(done) {
        compress256(state, text.as_chunks().0);
    }
}

/// Hashes as many of the texts as there are instructions for, from the first on, and says how many that were.
#[cfg(target_arch = "x86_64")]
fn compress_side_by_side(states: &mut [State], texts: &[&[u8]]) -> usize {
    let mut done = 0;
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        while states.len() - done >= LANES_WORTH_IT {
            let count = (states.len() - done).min(LANES_MAX);
            let (states, texts) = (&mut states[done..done + count], &texts[done..done + count]);
            // SAFETY: the processor has the two extensions that the function is compiled for.
            unsafe { x86::compress_in_lanes(states, texts) };
            done += count;
        }
    }
    if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3") {
        while states.len() - done >= 2 {
            let (Some(pair), &[left, right, ..]) = (states[done..].first_chunk_mut(), &texts[done..]) else {
                break;
            };
            // SAFETY: the processor has the three extensions that the function is compiled for.
            unsafe { x86::compress_pair(pair, [left, right]) };
            done += 2;
        }
    }
    done
}

#[cfg(not(target_arch = "x86_64"))]
fn compress_side_by_side(_states: &mut [State], _texts: &[&[u8]]) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{BLOCK_BYTES, LANES_MAX, State};

    /// The round constants (FIPS 180-4, section 4.2.2).
    const ROUND_CONSTANTS: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
        0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
        0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
        0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
        0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
        0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
        0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2,
    ];

    /// The body for each of the numbers: a loop that the compiler does not unroll keeps its arrays in memory, and takes
    /// twice as long.
    macro_rules! unrolled {
        ($number:ident in [$($value:literal)*] $body:block) => {
            $({
                const $number: usize = $value;
                $body
            })*
        };
    }

    /// The values for each of the numbers: an array that is never in memory.
    macro_rules! array {
        ($number:ident in [$($value:literal)*] $body:expr) => {
            [$({
                const $number: usize = $value;
                $body
            }),*]
        };
    }

    /// Up to sixteen texts, each in a lane of its own; what idle lanes compute goes nowhere.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn compress_in_lanes(states: &mut [State], texts: &[&[u8]]) {
        let blocks = texts[0].len() / BLOCK_BYTES;
        // Idle lanes read the first text.
        let texts: [&[u8]; LANES_MAX] = std::array::from_fn(|lane| *texts.get(lane).unwrap_or(&texts[0]));
        let mut lanes = [[0; LANES_MAX]; 8];
        for (lane, state) in states.iter().enumerate() {
            (0..8).for_each(|word| lanes[word][lane] = state[word]);
        }
        let mut vectors = array!(WORD in [0 1 2 3 4 5 6 7] lanes_of(&lanes[WORD]));
        for block in 0..blocks {
            let rows = array!(LANE in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] block_at(texts[LANE], block));
            let after = rounds(vectors, transposed(rows));
            vectors = array!(WORD in [0 1 2 3 4 5 6 7] _mm512_add_epi32(vectors[WORD], after[WORD]));
        }
        for (word, vector) in vectors.into_iter().enumerate() {
            let words = to_words(vector);
            states.iter_mut().enumerate().for_each(|(lane, state)| state[word] = words[lane]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn lanes_of(words: &[u32; LANES_MAX]) -> __m512i {
        // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn to_words(vector: __m512i) -> [u32; LANES_MAX] {
        // SAFETY: both are 64 bytes, and every pattern of bits is sixteen numbers.
        unsafe { std::mem::transmute(vector) }
    }

    /// The block of this number in a text, its words as numbers: they are big-endian in the text.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn block_at(text: &[u8], block: usize) -> __m512i {
        let bytes: &[u8; BLOCK_BYTES] = text[block * BLOCK_BYTES..].first_chunk().expect("texts are whole blocks");
        // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
        let words = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let swap = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
        _mm512_shuffle_epi8(words, swap)
    }

    /// Turns sixteen words of each of sixteen lanes into sixteen lanes of each of sixteen words.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
        // Four rows at a time: the words 0, 4, 8 and 12 of each of them, the words 1, 5, 9 and 13, and so on.
        let fours = array!(GROUP in [0 1 2 3] {
            let [a, b, c, d] = array!(ROW in [0 1 2 3] rows[GROUP * 4 + ROW]);
            let low = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
            let high = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
            [
                _mm512_unpacklo_epi64(low[0], low[1]),
                _mm512_unpackhi_epi64(low[0], low[1]),
                _mm512_unpacklo_epi64(high[0], high[1]),
                _mm512_unpackhi_epi64(high[0], high[1]),
            ]
        });
        // Then each of the four words comes together from all rows.
        let words = array!(WORD in [0 1 2 3] {
            let [a, b, c, d] = array!(GROUP in [0 1 2 3] fours[GROUP][WORD]);
            let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
            let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
            [
                _mm512_shuffle_i32x4::<0x88>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]),
                _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]),
            ]
        });
        array!(WORD in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] words[WORD % 4][WORD / 4])
    }

    /// Keeps the compiler from adding in another order: it does not see which number comes last, and a round of its
    /// order waits twice as long.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn in_this_order(mut sum: __m512i) -> __m512i {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(zmm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
        sum
    }

    /// The 64 rounds (FIPS 180-4, section 6.2.2, steps 1 to 3) in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rounds(state: [__m512i; 8], mut words: [__m512i; 16]) -> [__m512i; 8] {
        const XOR: i32 = 0x96;
        const CHOOSE: i32 = 0xca;
        const MAJORITY: i32 = 0xe8;
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for sixteen in ROUND_CONSTANTS.as_chunks::<16>().0 {
            unrolled!(AT in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] {
                let constant = _mm512_set1_epi32(sixteen[AT].cast_signed());
                let sum1 = _mm512_ternarylogic_epi32::<XOR>(
                    _mm512_ror_epi32::<6>(e),
                    _mm512_ror_epi32::<11>(e),
                    _mm512_ror_epi32::<25>(e),
                );
                let sum0 = _mm512_ternarylogic_epi32::<XOR>(
                    _mm512_ror_epi32::<2>(a),
                    _mm512_ror_epi32::<13>(a),
                    _mm512_ror_epi32::<22>(a),
                );
                let chosen = _mm512_ternarylogic_epi32::<CHOOSE>(e, f, g);
                let majority = _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c);
                // What the round before gave last comes last here, too.
                let given = in_this_order(_mm512_add_epi32(_mm512_add_epi32(words[AT], constant), h));
                let given = in_this_order(_mm512_add_epi32(given, chosen));
                let first = _mm512_add_epi32(given, sum1);
                (h, g, f, e) = (g, f, e, _mm512_add_epi32(in_this_order(_mm512_add_epi32(given, d)), sum1));
                let second = in_this_order(_mm512_add_epi32(first, majority));
                (d, c, b, a) = (c, b, a, _mm512_add_epi32(second, sum0));
                // The word that is needed sixteen rounds from now takes this one's place.
                let (near, far) = (words[(AT + 14) % 16], words[(AT + 1) % 16]);
                let from_near = _mm512_ternarylogic_epi32::<XOR>(
                    _mm512_ror_epi32::<17>(near),
                    _mm512_ror_epi32::<19>(near),
                    _mm512_srli_epi32::<10>(near),
                );
                let from_far = _mm512_ternarylogic_epi32::<XOR>(
                    _mm512_ror_epi32::<7>(far),
                    _mm512_ror_epi32::<18>(far),
                    _mm512_srli_epi32::<3>(far),
                );
                let kept = _mm512_add_epi32(words[AT], words[(AT + 9) % 16]);
                words[AT] = _mm512_add_epi32(_mm512_add_epi32(kept, from_near), from_far);
            });
        }
        [a, b, c, d, e, f, g, h]
    }

    /// Two texts, a round of one beside a round of the other.
    ///
    /// The instructions keep a state as `ABEF` and `CDGH` (Intel, "SHA extensions", 2013).
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub fn compress_pair(states: &mut [State; 2], texts: [&[u8]; 2]) {
        let blocks = texts[0].len() / BLOCK_BYTES;
        let mut pair = [Halves::of(&states[0]), Halves::of(&states[1])];
        for block in 0..blocks {
            let before = pair;
            let mut words = [words_at(texts[0], block), words_at(texts[1], block)];
            for sixteen in ROUND_CONSTANTS.as_chunks::<16>().0 {
                unrolled!(STEP in [0 1 2 3] {
                    let constants = four_of(&sixteen[STEP * 4..]);
                    unrolled!(TEXT in [0 1] {
                        pair[TEXT].four_rounds(_mm_add_epi32(words[TEXT][STEP], constants));
                        words[TEXT][STEP] = next_words(&words[TEXT], STEP);
                    });
                });
            }
            for text in 0..2 {
                pair[text].add(&before[text]);
            }
        }
        for text in 0..2 {
            states[text] = pair[text].to_state();
        }
    }

    /// The running value as the instructions keep it.
    #[derive(Clone, Copy)]
    struct Halves {
        abef: __m128i,
        cdgh: __m128i,
    }

    impl Halves {
        #[inline]
        #[target_feature(enable = "sse4.1")]
        fn of(state: &State) -> Halves {
            let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
            Halves { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
        }

        #[inline]
        #[target_feature(enable = "sse4.1")]
        fn to_state(self) -> State {
            let [f, e, b, a] = to_four(self.abef);
            let [h, g, d, c] = to_four(self.cdgh);
            [a, b, c, d, e, f, g, h]
        }

        #[inline]
        #[target_feature(enable = "sha,sse4.1")]
        fn four_rounds(&mut self, sums: __m128i) {
            let two_later = _mm_sha256rnds2_epu32(self.cdgh, self.abef, sums);
            let four_later = _mm_sha256rnds2_epu32(self.abef, two_later, _mm_shuffle_epi32::<0x0e>(sums));
            *self = Halves { abef: four_later, cdgh: two_later };
        }

        #[inline]
        #[target_feature(enable = "sse4.1")]
        fn add(&mut self, other: &Halves) {
            self.abef = _mm_add_epi32(self.abef, other.abef);
            self.cdgh = _mm_add_epi32(self.cdgh, other.cdgh);
        }
    }

    /// The four words that are needed sixteen rounds after those of this step.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn next_words(words: &[__m128i; 4], step: usize) -> __m128i {
        let [second, third, last] = [words[(step + 1) % 4], words[(step + 2) % 4], words[(step + 3) % 4]];
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(words[step], second), _mm_alignr_epi8::<4>(last, third));
        _mm_sha256msg2_epu32(sum, last)
    }

    #[inline]
    #[target_feature(enable = "sse4.1,ssse3")]
    fn words_at(text: &[u8], block: usize) -> [__m128i; 4] {
        let bytes: &[u8; BLOCK_BYTES] = text[block * BLOCK_BYTES..].first_chunk().expect("texts are whole blocks");
        let swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
        array!(AT in [0 1 2 3] {
            let four: &[u8; 16] = bytes[AT * 16..].first_chunk().expect("a block is four of them");
            // SAFETY: the array has the 16 bytes that are read; the instruction takes any alignment.
            _mm_shuffle_epi8(unsafe { _mm_loadu_si128(four.as_ptr().cast()) }, swap)
        })
    }

    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn four_of(numbers: &[u32]) -> __m128i {
        let numbers: &[u32; 4] = numbers.first_chunk().expect("there are four");
        // SAFETY: the array has the 16 bytes that are read; the instruction takes any alignment.
        unsafe { _mm_loadu_si128(numbers.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn to_four(vector: __m128i) -> [u32; 4] {
        // SAFETY: both are 16 bytes, and every pattern of bits is four numbers.
        unsafe { std::mem::transmute(vector) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize, seed: usize) -> Vec<u8> {
        (0..count).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 11) as u8).collect()
    }

    /// Every number of texts, with many lengths, at every alignment, from different states.
    #[test]
    fn texts_side_by_side_give_what_the_crate_gives_one_by_one() {
        let room = bytes(40 * BLOCK_BYTES * 9 + 64, 1);
        for count in 0..=40 {
            for blocks in [0, 1, 2, 3, 8] {
                let alignment = (count * 7 + blocks) % 64;
                let texts: Vec<&[u8]> = (0..count)
                    .map(|text| &room[alignment + text * (blocks * BLOCK_BYTES + 5)..][..blocks * BLOCK_BYTES])
                    .collect();
                let mut states: Vec<State> =
                    (0..count as u32).map(|text| std::array::from_fn(|at| text * 8 + at as u32)).collect();
                let mut expected = states.clone();
                compress(&mut states, &texts);
                for (state, text) in expected.iter_mut().zip(&texts) {
                    compress256(state, text.as_chunks().0);
                }
                assert_eq!(states, expected, "{count} texts of {blocks} blocks");
            }
        }
    }
}
