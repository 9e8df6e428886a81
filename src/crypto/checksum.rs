//! Checksums of content: CRC32 for line damage and for older peers, BLAKE3 for identity.
//!
//! The file's size, CRC32 and BLAKE3 are computed in one pass. Neither sum authenticates anything; what travels is
//! authenticated by the sealed segments around it.

/// How much is hashed at a time: small enough that the second sum finds its input in the cache where the first one
/// left it, large enough for BLAKE3 to fill its vector lanes (16 chunks of 1 KiB on the widest machines).
const PIECE_BYTES: usize = 32 * 1024;

/// The CRC32 (IEEE 802.3, as in zip and gzip) of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The BLAKE3 hash of `bytes`.
pub fn blake3_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What is known of a content after it has been read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentSums {
    /// Length in bytes.
    pub size: u64,
    /// CRC32 (IEEE).
    pub crc32: u32,
    /// BLAKE3, 256 bits.
    pub blake3: [u8; 32],
}

impl ContentSums {
    /// The sums of bytes that are all at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A running size, CRC32 and BLAKE3 of content that arrives in slices.
#[derive(Clone, Debug, Default)]
pub struct ContentHasher {
    size: u64,
    crc32: crc32fast::Hasher,
    blake3: blake3::Hasher,
}

impl ContentHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next slice of the content, of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.crc32.update(piece);
            self.blake3.update(piece);
        }
        self.size += bytes.len() as u64;
    }

    /// Adds so many zeros.
    pub fn update_zeros(&mut self, mut bytes: u64) {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while bytes > 0 {
            let piece = bytes.min(ZEROS.len() as u64);
            self.update(&ZEROS[..piece as usize]);
            bytes -= piece;
        }
    }

    /// How many bytes were added so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The sums of all that was added.
    pub fn finish(self) -> ContentSums {
        ContentSums { size: self.size, crc32: self.crc32.finalize(), blake3: *self.blake3.finalize().as_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_the_standard_ones() {
        let mut hasher = ContentHasher::new();
        hasher.update(b"1234");
        hasher.update(b"");
        hasher.update(b"56789");
        let sums = hasher.finish();
        assert_eq!((sums.size, sums.crc32), (9, 0xCBF4_3926));
        assert_eq!(sums.blake3, blake3_hash(b"123456789"));
    }

    #[test]
    fn the_sums_of_nothing_are_those_of_empty_input() {
        let sums = ContentHasher::new().finish();
        assert_eq!(sums, ContentSums { size: 0, crc32: 0, blake3: blake3_hash(b"") });
    }

    #[test]
    fn zeros_count_like_any_bytes() {
        let mut hasher = ContentHasher::new();
        hasher.update(b"1");
        hasher.update_zeros(40_000);
        let bytes: Vec<u8> = std::iter::once(b'1').chain(std::iter::repeat_n(0, 40_000)).collect();
        assert_eq!(hasher.finish(), ContentSums::of(&bytes));
    }

    #[test]
    fn slicing_does_not_change_the_sums() {
        let content: Vec<u8> = (0..200_000_u32).map(|value| ((value * 31) >> 3) as u8).collect();
        let mut whole = ContentHasher::new();
        whole.update(&content);
        let mut sliced = ContentHasher::new();
        content.chunks(7_777).for_each(|slice| sliced.update(slice));
        let sums = whole.finish();
        assert_eq!(sums, sliced.finish());
        assert_eq!((sums.crc32, sums.blake3), (crc32(&content), blake3_hash(&content)));
    }
}
