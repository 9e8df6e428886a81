//! The checksum of the `cksum` program (POSIX), by which peers of the legacy dialect compare files.
//!
//! It is a CRC with the polynomial of CRC32, but with bits taken from the other end: the most significant bit of each
//! byte first, where CRC32 begins with the least significant one. Turn the bits of every byte around, and the one
//! becomes the other with its own bits turned around. So the processor's carry-less multiplication, which `crc32fast`
//! uses, serves here too; turning the bits around costs less than any table would.

/// How much is turned around at a time: it stays in the first-level cache.
const PIECE_BYTES: usize = 4 * 1024;

/// A running POSIX checksum of content that arrives in slices.
///
/// Polynomial 0x04C11DB7, most significant bit first, initial value 0; at the end the significant bytes of the length,
/// least significant first, and the complement.
#[derive(Clone, Debug)]
pub struct PosixCksum {
    mirrored: crc32fast::Hasher,
    bytes: u64,
}

impl Default for PosixCksum {
    fn default() -> Self {
        Self::new()
    }
}

impl PosixCksum {
    /// A checksum that has seen nothing.
    pub fn new() -> Self {
        // The register begins at 0; the hasher is told the complement of it.
        Self { mirrored: crc32fast::Hasher::new_with_initial(u32::MAX), bytes: 0 }
    }

    /// The checksum of bytes that are all at hand.
    pub fn of(bytes: &[u8]) -> u32 {
        let mut sum = Self::new();
        sum.update(bytes);
        sum.finish()
    }

    /// Adds the next slice of the content, of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        self.add(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut turned = [0; PIECE_BYTES];
        for piece in bytes.chunks(PIECE_BYTES) {
            let turned = &mut turned[..piece.len()];
            turned.iter_mut().zip(piece).for_each(|(turned, byte)| *turned = byte.reverse_bits());
            self.mirrored.update(turned);
        }
    }

    /// The checksum of all that was added, as `cksum` prints it.
    pub fn finish(mut self) -> u32 {
        let significant = (64 - self.bytes.leading_zeros()).div_ceil(8) as usize;
        self.add(&self.bytes.to_le_bytes()[..significant]);
        self.mirrored.finalize().reverse_bits()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, bit by bit.
    fn by_definition(content: &[u8]) -> u32 {
        let mut length = content.len();
        let mut register = 0_u32;
        let mut take = |byte: u8| {
            register ^= u32::from(byte) << 24;
            for _ in 0..8 {
                let is_carried = register >> 31 == 1;
                register = (register << 1) ^ if is_carried { 0x04C1_1DB7 } else { 0 };
            }
        };
        content.iter().for_each(|byte| take(*byte));
        while length > 0 {
            take(length as u8);
            length >>= 8;
        }
        !register
    }

    #[test]
    fn the_sums_are_those_of_the_dialect() {
        assert_eq!(PosixCksum::of(b"123456789"), 930_766_865);
        assert_eq!(PosixCksum::of(b""), 4_294_967_295);
    }

    #[test]
    fn the_cksum_program_agrees() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for bytes in [0, 1, 16, 255, 256, 4_095, 4_096, 4_097, 65_535, 65_536, 300_000, 16_777_217] {
            let content: Vec<u8> = (0..bytes).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let file = folder.path().join("content");
            std::fs::write(&file, &content).expect("the content can be written");
            let output = std::process::Command::new("cksum").arg(&file).output().expect("cksum can be run");
            let printed = String::from_utf8(output.stdout).expect("cksum prints text");
            let expected = printed.split(' ').next().and_then(|sum| sum.parse().ok());
            assert_eq!(Some(PosixCksum::of(&content)), expected, "{bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_content_in_any_slices_has_the_sum_of_the_definition(
            content in prop::collection::vec(any::<u8>(), 0..20_000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
            places.extend([0, content.len()]);
            places.sort_unstable();
            let mut sum = PosixCksum::new();
            places.windows(2).for_each(|ends| sum.update(&content[ends[0]..ends[1]]));
            prop_assert_eq!(sum.finish(), by_definition(&content));
        }
    }

    /// `cargo test --release --lib posix_cksum -- --ignored --nocapture`
    #[test]
    #[ignore = "measures for some seconds"]
    fn a_gigabyte_takes_less_than_a_second() {
        let content = vec![0x5A; 1024 * 1024];
        let mut sum = PosixCksum::new();
        let start = std::time::Instant::now();
        (0..4_096).for_each(|_| sum.update(&content));
        let rate = 4.0 * f64::from(1 << 30) / start.elapsed().as_secs_f64();
        println!("{:.2} GB/s, sum {}", rate / 1e9, sum.finish());
        if !cfg!(debug_assertions) {
            assert!(rate > 1e9, "{rate} bytes a second");
        }
    }
}
