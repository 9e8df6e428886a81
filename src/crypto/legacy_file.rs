//! The one stream of ciphertext as which the legacy dialect carries a file: AES-256-CBC with an IV of zeros and PKCS#7
//! over the whole file, under a key that the server made for the session.
//!
//! Nothing in that dialect authenticates the ciphertext: whoever can change it on the way can change the file, and the
//! checksum that both sides compare finds accidents only. `docs/migration.md` says so to those who still use it.

use aes::cipher::array::Array;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes256Dec, Aes256Enc, Block};

use super::error::CryptoError;
use super::secret::Secret;
use super::segment::{BLOCK_BYTES, unpadded_len};

const IV: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// How long the ciphertext of a file of `plaintext_bytes` is: there is always padding.
pub fn file_ciphertext_bytes(plaintext_bytes: u64) -> u64 {
    (plaintext_bytes / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64
}

/// Encrypts a file that arrives in slices.
pub struct FileEncryptor {
    chain: cbc::Encryptor<Aes256Enc>,
    /// The beginning of a block that is not complete: fewer than [`BLOCK_BYTES`].
    begun: Vec<u8>,
}

impl FileEncryptor {
    /// An encryptor for one file.
    pub fn new(key: &Secret<32>) -> Self {
        Self {
            chain: cbc::Encryptor::new(&Array(*key.expose()), &Array(IV)),
            begun: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    /// Appends to `out` what the next slice of the file, of any length, completes.
    pub fn update(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.append(&mut self.begun);
        out.extend_from_slice(plaintext);
        let (blocks, rest) = Block::slice_as_chunks_mut(&mut out[start..]);
        self.chain.encrypt_blocks(blocks);
        self.begun.extend_from_slice(rest);
        out.truncate(out.len() - self.begun.len());
    }

    /// Appends the last block, which has the padding.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let padding = BLOCK_BYTES - self.begun.len();
        self.update(&[padding as u8; BLOCK_BYTES][..padding], out);
    }
}

/// Decrypts a file that arrives in slices.
pub struct FileDecryptor {
    chain: cbc::Decryptor<Aes256Dec>,
    /// The last bytes so far, at most [`BLOCK_BYTES`]: they may be the block with the padding.
    held: Vec<u8>,
}

impl FileDecryptor {
    /// A decryptor for one file.
    pub fn new(key: &Secret<32>) -> Self {
        Self {
            chain: cbc::Decryptor::new(&Array(*key.expose()), &Array(IV)),
            held: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    /// Appends to `out` what is certain to be plaintext after the next slice, of any length: all but the last block.
    pub fn update(&mut self, ciphertext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.append(&mut self.held);
        out.extend_from_slice(ciphertext);
        let bytes = out.len() - start;
        let certain = bytes.saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
        self.held.extend_from_slice(&out[start + certain..]);
        out.truncate(start + certain);
        let (blocks, _) = Block::slice_as_chunks_mut(&mut out[start..]);
        self.chain.decrypt_blocks(blocks);
    }

    /// The ciphertext that is held back: with that of all plaintext so far it makes up what was put in.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Appends the rest of the file, without the padding.
    ///
    /// # Errors
    /// [`CryptoError::FileCiphertext`] where the whole was no ciphertext of this key: not a number of whole blocks,
    /// none, or without the right padding. `out` is left as it was then.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), CryptoError> {
        let last: &mut [u8; BLOCK_BYTES] =
            self.held.as_mut_slice().try_into().map_err(|_| CryptoError::FileCiphertext)?;
        self.chain.decrypt_block(last.into());
        let bytes = unpadded_len(last).ok_or(CryptoError::FileCiphertext)?;
        out.extend_from_slice(&last[..bytes]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::test_support::hex;
    use super::*;

    fn key() -> Secret<32> {
        Secret::from_bytes(std::array::from_fn(|at| at as u8 * 5 + 1))
    }

    fn encrypt(slices: &[&[u8]]) -> Vec<u8> {
        let (mut encryptor, mut out) = (FileEncryptor::new(&key()), Vec::new());
        slices.iter().for_each(|slice| encryptor.update(slice, &mut out));
        encryptor.finish(&mut out);
        out
    }

    fn decrypt(slices: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        let (mut decryptor, mut out) = (FileDecryptor::new(&key()), Vec::new());
        slices.iter().for_each(|slice| decryptor.update(slice, &mut out));
        decryptor.finish(&mut out)?;
        Ok(out)
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
    }

    #[test]
    fn openssl_makes_the_same_ciphertext() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("plaintext");
        for bytes in [0, 1, 15, 16, 17, 4_096, 100_001] {
            let plaintext: Vec<u8> = (0..bytes).map(|at: u32| ((at * 31) >> 3) as u8).collect();
            std::fs::write(&file, &plaintext).expect("the plaintext can be written");
            let arguments = ["enc", "-e", "-aes-256-cbc", "-K", &hex(key().expose()), "-iv", &hex(&IV), "-in"];
            let output = Command::new("openssl").args(arguments).arg(&file).output().expect("openssl can be run");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(encrypt(&[&plaintext]), output.stdout, "{bytes} bytes");
            assert_eq!(output.stdout.len() as u64, file_ciphertext_bytes(u64::from(bytes)));
            assert_eq!(decrypt(&[&output.stdout]), Ok(plaintext));
        }
    }

    #[test]
    fn what_is_no_ciphertext_of_the_key_is_one_error() {
        let good = encrypt(&[b"0123456789abcdef"]);
        assert_eq!(good.len(), 32);
        let mut other_padding = good.clone();
        // The last byte of the padding is 16 and becomes 17.
        other_padding[15] ^= 16 ^ 17;
        for bad in [&[][..], &good[..1], &good[..31], &good[..16], &other_padding, &[&good[..], &[0]].concat()] {
            assert_eq!(decrypt(&[bad]), Err(CryptoError::FileCiphertext), "{}", hex(bad));
        }
    }

    proptest! {
        #[test]
        fn slices_make_no_difference(
            plaintext in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let ciphertext = encrypt(&[&plaintext]);
            prop_assert_eq!(&encrypt(&cut(&plaintext, &cuts)), &ciphertext);
            prop_assert_eq!(decrypt(&cut(&ciphertext, &cuts)), Ok(plaintext));
        }

        #[test]
        fn only_the_last_block_is_held_back(bytes in 0_usize..200) {
            let ciphertext = encrypt(&[&vec![7; bytes]]);
            let (mut decryptor, mut out) = (FileDecryptor::new(&key()), Vec::new());
            ciphertext.iter().for_each(|byte| decryptor.update(&[*byte], &mut out));
            prop_assert_eq!(out.len(), ciphertext.len() - BLOCK_BYTES);
        }
    }
}
