//! The rolling hash that cuts contents: `h = (h << 1) + gear[byte]` for one byte after the other.

/// Entries of the table, one for each value of a byte.
pub const GEAR_ENTRIES: usize = 256;

/// How many bytes there are up to the first one with which the masked hash is zero; none where there is no such byte, and
/// `hash` has taken in all of them then.
pub fn find_cut(gear: &[u64; GEAR_ENTRIES], bytes: &[u8], mask: u64, hash: &mut u64) -> Option<usize> {
    let mut rolling = *hash;
    for (at, byte) in bytes.iter().enumerate() {
        rolling = (rolling << 1).wrapping_add(gear[usize::from(*byte)]);
        if rolling & mask == 0 {
            return Some(at + 1);
        }
    }
    *hash = rolling;
    None
}
