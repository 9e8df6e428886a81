//! Compression of one chunk by itself: raw deflate (RFC 1951), where it saves enough.
//!
//! Most of what does not compress is known without trying (`lanes/sample.rs`).

use cyberbackup_lanes::sample::may_compress;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::super::error::Damaged;
use crate::base::zeros::resize_zeroed;

/// The least that compression has to save: a sixteenth.
const SAVED_SHARE: usize = 16;
/// Fast: level 1 stores a tenth more of text, level 4 takes a third longer for 3 % less.
const LEVEL: u32 = 2;

/// Compresses chunk after chunk: some 300 KiB of memory.
pub(super) struct Compressor(Compress);

impl Compressor {
    pub fn new() -> Compressor {
        Compressor(Compress::new(Compression::new(LEVEL), false))
    }

    /// Appends `plaintext` compressed, and says whether it did: where that saves less than a sixteenth, `out` stays as
    /// it was.
    pub fn append(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> bool {
        if !may_compress(plaintext) {
            return false;
        }
        let start = out.len();
        let room = plaintext.len() - plaintext.len().div_ceil(SAVED_SHARE);
        resize_zeroed(out, start + room);
        self.0.reset();
        let ended =
            matches!(self.0.compress(plaintext, &mut out[start..], FlushCompress::Finish), Ok(Status::StreamEnd));
        let written = if ended { self.0.total_out() as usize } else { 0 };
        out.truncate(start + written);
        ended
    }
}

/// Expands chunk after chunk.
pub(super) struct Expander(Decompress);

impl Expander {
    pub fn new() -> Expander {
        Expander(Decompress::new(false))
    }

    /// Replaces `out` by what `payload` expands to.
    ///
    /// # Errors
    /// [`Damaged`] where it is no whole stream, has bytes behind its end, or expands to more than `limit` bytes.
    pub fn expand(&mut self, payload: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Damaged> {
        self.0.reset(false);
        out.clear();
        let mut room = (payload.len() * 4).clamp(4 * 1024, limit);
        loop {
            resize_zeroed(out, room);
            let (taken, given) = (self.0.total_in() as usize, self.0.total_out() as usize);
            let status = self.0.decompress(&payload[taken..], &mut out[given..], FlushDecompress::Finish);
            match status.map_err(|_| Damaged)? {
                Status::StreamEnd if self.0.total_in() as usize == payload.len() => break,
                Status::Ok | Status::BufError if self.0.total_out() as usize == room && room < limit => {
                    room = (room * 2).min(limit);
                }
                _ => return Err(Damaged),
            }
        }
        out.truncate(self.0.total_out() as usize);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::secret::fill_random;
    use super::*;

    const LIMIT: usize = 256 * 1024;

    fn compressed(plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        match Compressor::new().append(plaintext, &mut out) {
            true => Some(out.split_off(6)),
            false => {
                assert_eq!(out, b"before");
                None
            }
        }
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0_u32..)
            .flat_map(|number| format!("line {} of it\n", number.wrapping_mul(77) % 5_000).into_bytes())
            .take(bytes)
            .collect()
    }

    fn random(bytes: usize) -> Vec<u8> {
        let mut random = vec![0; bytes];
        fill_random(&mut random);
        random
    }

    #[test]
    fn what_compresses_comes_back() {
        let mut expander = Expander::new();
        for bytes in [17, 511, 512, 1_000, 16 * 1024, 100_000, LIMIT] {
            let (plaintext, mut out) = (text(bytes), b"rest".to_vec());
            let Some(payload) = compressed(&plaintext) else {
                assert!(bytes < 100, "{bytes} bytes of text compress");
                continue;
            };
            assert!(payload.len() <= bytes - bytes / 16);
            expander.expand(&payload, LIMIT, &mut out).unwrap();
            assert_eq!(out, plaintext);
        }
        let payload = compressed(&vec![0; LIMIT]).unwrap();
        assert!(payload.len() < 1_000);
    }

    #[test]
    fn random_bytes_stay_as_they_are_and_repeated_ones_do_not() {
        for bytes in [1, 16, 1_000, 4_096, 44_000, LIMIT] {
            assert_eq!(compressed(&random(bytes)), None, "{bytes}");
        }
        let skipped = (0..100).filter(|_| !may_compress(&random(44_000))).count();
        assert!(skipped >= 99, "{skipped} of 100 are known as random by the sample");
        let repeated = random(4_096).repeat(11);
        assert!(compressed(&repeated).unwrap().len() < 8_192);
        let half: Vec<u8> = random(22_000).into_iter().chain(text(22_000)).collect();
        assert!(compressed(&half).unwrap().len() < 30_000);
    }

    #[test]
    fn what_is_no_stream_or_too_long_is_damaged() {
        let (mut expander, mut out) = (Expander::new(), Vec::new());
        let payload = compressed(&vec![7; 100_000]).unwrap();
        assert_eq!(expander.expand(&payload, 99_999, &mut out), Err(Damaged));
        assert_eq!(expander.expand(&payload, 100_000, &mut out), Ok(()));
        assert_eq!(expander.expand(&payload[..payload.len() - 1], LIMIT, &mut out), Err(Damaged));
        assert_eq!(expander.expand(&[&payload[..], b"x"].concat(), LIMIT, &mut out), Err(Damaged));
        assert_eq!(expander.expand(&[], LIMIT, &mut out), Err(Damaged));
        for _ in 0..200 {
            let _ = expander.expand(&random(300), LIMIT, &mut out);
            assert!(out.len() <= LIMIT);
        }
    }
}
