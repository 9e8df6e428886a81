//! Buffers that grow by zeros.
//!
//! Where a compiler is asked for small code, [`Vec::resize`] writes one byte after the other: for what is read next into a
//! buffer that costs more than all its hashes.

/// Zeros to copy from.
static ZEROS: [u8; 4096] = [0; 4096];

/// Gives `bytes` this length: cuts it off, or adds zeros.
pub fn resize_zeroed(bytes: &mut Vec<u8>, length: usize) {
    bytes.truncate(length);
    bytes.reserve(length - bytes.len());
    while bytes.len() < length {
        let step = (length - bytes.len()).min(ZEROS.len());
        bytes.extend_from_slice(&ZEROS[..step]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_cut_off_or_filled_up_with_zeros() {
        for (before, after) in [(0, 0), (0, 1), (3, 2), (3, 3), (5, 4096), (4095, 4097), (7, 100_000), (100_000, 7)]
        {
            let mut bytes = vec![1; before];
            resize_zeroed(&mut bytes, after);
            let kept = before.min(after);
            assert_eq!(bytes.len(), after);
            assert!(bytes[..kept].iter().all(|byte| *byte == 1) && bytes[kept..].iter().all(|byte| *byte == 0));
        }
    }
}
