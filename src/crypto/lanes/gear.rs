//! The rolling hash that cuts contents: `h = (h << 1) + gear[byte]` for one byte after the other.
//!
//! Each step waits for the one before, and a processor could do more meanwhile. But after 64 steps nothing is left in the
//! hash of what came before them: so several places are looked at in lock-step, each begun 64 bytes early.

/// Entries of the table, one for each value of a byte.
pub const GEAR_ENTRIES: usize = 256;

/// Steps after which what came before them has left the hash.
const MEMORY_BYTES: usize = u64::BITS as usize;
/// What is looked at in lock-step: so many runs of so many bytes that follow on each other.
const RUNS: usize = 3;
const RUN_BYTES: usize = 512;
const WINDOW_BYTES: usize = RUNS * RUN_BYTES;

/// How many bytes there are up to the first one with which the upper bits of the hash, as many as `bits` says, are all zero;
/// none where there is no such byte, and `hash` has taken in all of them then.
#[inline(never)]
pub fn find_cut(gear: &[u64; GEAR_ENTRIES], bytes: &[u8], bits: u32, hash: &mut u64) -> Option<usize> {
    let highest = u64::MAX >> bits;
    let (windows, rest) = bytes.as_chunks::<WINDOW_BYTES>();
    for (index, window) in windows.iter().enumerate() {
        match hash_without_cut(gear, window, highest, *hash) {
            Some(rolled) => *hash = rolled,
            None => return find_in_turn(gear, window, highest, hash).map(|at| index * WINDOW_BYTES + at),
        }
    }
    find_in_turn(gear, rest, highest, hash).map(|at| windows.as_flattened().len() + at)
}

/// The hash behind a window in which no cut is; none as soon as there is one in any of its runs.
fn hash_without_cut(
    gear: &[u64; GEAR_ENTRIES],
    window: &[u8; WINDOW_BYTES],
    highest: u64,
    mut first: u64,
) -> Option<u64> {
    let before = |run: usize| &window[run * RUN_BYTES - MEMORY_BYTES..run * RUN_BYTES];
    let mut second = before(1).iter().fold(0, |hash, byte| roll(gear, hash, *byte));
    let mut third = before(2).iter().fold(0, |hash, byte| roll(gear, hash, *byte));
    // One comparison and one branch for each: gathered, they are three times as slow.
    for at in 0..RUN_BYTES {
        first = roll(gear, first, window[at]);
        if first <= highest {
            return None;
        }
        second = roll(gear, second, window[RUN_BYTES + at]);
        if second <= highest {
            return None;
        }
        third = roll(gear, third, window[2 * RUN_BYTES + at]);
        if third <= highest {
            return None;
        }
    }
    Some(third)
}

fn find_in_turn(gear: &[u64; GEAR_ENTRIES], bytes: &[u8], highest: u64, hash: &mut u64) -> Option<usize> {
    let mut rolling = *hash;
    for (at, byte) in bytes.iter().enumerate() {
        rolling = roll(gear, rolling, *byte);
        if rolling <= highest {
            return Some(at + 1);
        }
    }
    *hash = rolling;
    None
}

#[inline(always)]
fn roll(gear: &[u64; GEAR_ENTRIES], hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(gear[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, as it stands on the page of the format.
    fn defined(gear: &[u64; GEAR_ENTRIES], bytes: &[u8], bits: u32, hash: &mut u64) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *hash = hash.wrapping_mul(2).wrapping_add(gear[usize::from(*byte)]);
            if *hash >> (64 - bits) == 0 {
                return Some(at + 1);
            }
        }
        None
    }

    fn noise(seed: u64, count: usize) -> impl Iterator<Item = u64> {
        let mut state = seed | 1;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
        .take(count)
    }

    proptest! {
        #[test]
        fn runs_in_lock_step_find_what_the_definition_finds(
            seed in any::<u64>(), length in 0_usize..20_000, bits in 1_u32..20, hash in any::<u64>(), repeats in any::<bool>(),
        ) {
            let mut words = noise(seed, GEAR_ENTRIES);
            let gear = std::array::from_fn(|_| words.next().unwrap());
            let bytes: Vec<u8> = match repeats {
                true => (0..length).map(|at| (at % 7) as u8).collect(),
                false => noise(!seed, length).map(|word| (word >> 32) as u8).collect(),
            };
            let (mut fast, mut plain) = (hash, hash);
            let found = find_cut(&gear, &bytes, bits, &mut fast);
            prop_assert_eq!(found, defined(&gear, &bytes, bits, &mut plain));
            if found.is_none() {
                prop_assert_eq!(fast, plain);
            }
        }
    }
}
