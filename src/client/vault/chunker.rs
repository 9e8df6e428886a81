//! Where contents are cut into chunks: at places that the bytes just before them decide, so that an insertion
//! moves the cuts with it and all chunks but the changed ones keep their names.
//!
//! FastCDC: a rolling hash takes in one byte after the other, `h = (h << 1) + gear[byte]`, from byte 16,384 of a
//! chunk on. A chunk ends behind the byte with which the upper bits of the hash are all zero: 16 of them before
//! byte 32,768, 13 from there on; so most chunks have between 32 and 48 KiB, the mean of random bytes is
//! about 39 KiB, and none has more than 256 KiB. The table comes from the vault's key: where a content is cut tells
//! nobody what it is.

use crate::base::limits::{VAULT_CHUNK_BYTES_MAX, VAULT_CHUNK_BYTES_MIN};
use crate::crypto::vault::{GEAR_ENTRIES, find_cut};

/// From here on a cut is likelier.
const NORMAL_BYTES: usize = 32 * 1024;
/// How many of the upper bits of the hash are zero at a cut, before the normal length and after it.
const BITS_SHORT: u32 = 16;
const BITS_LONG: u32 = 13;

/// How far into a chunk the search for its end has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Search {
    hash: u64,
    /// Bytes of the chunk that have been looked at.
    seen: usize,
}

/// Cuts contents, for one vault.
pub struct Chunker {
    gear: [u64; GEAR_ENTRIES],
}

impl Chunker {
    pub fn new(gear: [u64; GEAR_ENTRIES]) -> Chunker {
        Chunker { gear }
    }

    /// Looks for the end of the chunk that begins with `bytes`, of which those that `search` has seen were looked at before:
    /// its length, or none where it goes on behind them. The search begins anew after a cut.
    pub fn cut(&self, bytes: &[u8], search: &mut Search) -> Option<usize> {
        let end = bytes.len().min(VAULT_CHUNK_BYTES_MAX);
        let start = search.seen.max(VAULT_CHUNK_BYTES_MIN.min(end));
        let normal = NORMAL_BYTES.clamp(start, end);
        let mut hash = search.hash;
        let found = find_cut(&self.gear, &bytes[start..normal], BITS_SHORT, &mut hash)
            .map(|at| start + at)
            .or_else(|| find_cut(&self.gear, &bytes[normal..end], BITS_LONG, &mut hash).map(|at| normal + at))
            .or_else(|| (end == VAULT_CHUNK_BYTES_MAX).then_some(end));
        *search = match found {
            Some(_) => Search::default(),
            None => Search { hash, seen: end },
        };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::blake3_hash;

    /// Bytes without any pattern, the same in each run.
    fn noise(seed: u8, bytes: usize) -> Vec<u8> {
        let pieces = (0..bytes.div_ceil(32) as u64).map(|n| blake3_hash(&[&[seed][..], &n.to_le_bytes()].concat()));
        pieces.flatten().take(bytes).collect()
    }

    fn chunker() -> Chunker {
        let bytes = noise(0, GEAR_ENTRIES * 8);
        let mut words = bytes.as_chunks::<8>().0.iter();
        Chunker::new(std::array::from_fn(|_| u64::from_le_bytes(*words.next().unwrap())))
    }

    fn lengths(chunker: &Chunker, mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let length = chunker.cut(bytes, &mut Search::default()).unwrap_or(bytes.len());
            lengths.push(length);
            bytes = &bytes[length..];
        }
        lengths
    }

    #[test]
    fn chunks_keep_their_bounds_and_their_mean() {
        let bytes = noise(1, 16 << 20);
        let lengths = lengths(&chunker(), &bytes);
        let (last, whole) = lengths.split_last().unwrap();
        assert!(*last > 0);
        assert!(whole.iter().all(|length| (VAULT_CHUNK_BYTES_MIN..=VAULT_CHUNK_BYTES_MAX).contains(length)));
        let mean = bytes.len() / lengths.len();
        assert!((30 * 1024..48 * 1024).contains(&mean), "{mean}");
        let zeros = vec![0; 1 << 20];
        assert!(self::lengths(&chunker(), &zeros).iter().all(|length| *length >= VAULT_CHUNK_BYTES_MIN));
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let (chunker, bytes) = (chunker(), noise(2, 4 << 20));
        let changed = [&bytes[..1 << 20], b"something new", &bytes[1 << 20..]].concat();
        let names = |bytes: &[u8]| {
            let mut at = 0;
            let cut = lengths(&chunker, bytes).into_iter().map(|length| {
                at += length;
                blake3_hash(&bytes[at - length..at])
            });
            cut.collect::<std::collections::BTreeSet<_>>()
        };
        assert!(names(&changed).difference(&names(&bytes)).count() <= 3);
    }

    #[test]
    fn a_search_in_pieces_finds_the_same_cuts() {
        let (chunker, bytes) = (chunker(), noise(3, 1 << 20));
        let whole = chunker.cut(&bytes, &mut Search::default()).unwrap();
        for step in [1_000, 16 * 1024, 20_001] {
            let mut search = Search::default();
            let ends = (0..).map(|piece| ((piece + 1) * step).min(bytes.len()));
            let found = ends.into_iter().find_map(|end| chunker.cut(&bytes[..end], &mut search));
            assert_eq!((found, search), (Some(whole), Search::default()));
        }
    }
}
