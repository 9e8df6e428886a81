//! Secret bytes that wipe themselves, print nothing and open only by an explicit call.
//!
//! Randomness comes from the operating system alone. A system that cannot give any is no place to make keys on, and
//! no peer can bring that about, so its failure is a panic (which ends one connection) and not an error to be
//! handled wrongly in twenty places.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes: wiped when dropped, never printed, never copied by accident.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// `N` fresh bytes from the operating system.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// Takes bytes that are already secret. The caller's own copy remains the caller's to wipe.
    pub fn from_bytes(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves, for the one call that needs them.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Room for a secret that a derivation writes in place, so that no other copy of it ever lies on the stack.
    pub(super) fn written_by(write: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self([0; N]);
        write(&mut secret.0);
        secret
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret<{N}>")
    }
}

/// `N` random bytes that need no hiding, such as an id or a nonce.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `bytes` from the operating system in one call.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub fn constant_time_equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_nothing_of_a_secret() {
        assert_eq!(format!("{:?}", Secret::from_bytes([0xAB; 4])), "Secret<4>");
    }

    #[test]
    fn two_random_secrets_differ() {
        assert_ne!(Secret::<32>::random().expose(), Secret::<32>::random().expose());
    }

    #[test]
    fn equality_sees_content_and_length() {
        assert!(constant_time_equal(b"abc", b"abc"));
        assert!(!constant_time_equal(b"abc", b"abd"));
        assert!(!constant_time_equal(b"abc", b"ab"));
        assert!(constant_time_equal(b"", b""));
    }
}
