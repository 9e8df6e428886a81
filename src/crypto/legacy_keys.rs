//! The RSA keys of the legacy dialect and the file keys that travel under them.
//!
//! A client's key has 1,024 bits and the exponent 17 or 65537. The server makes a key of 32 bytes for each session and
//! wraps it by RSA-OAEP without a label (RFC 8017, section 7.1): the present generation of peers hashes with SHA-256,
//! the older one with SHA-1. SHA-1 stands here for nothing else.
//!
//! A key that opened a legacy session may also log in natively. The labels of [`OaepLabel`](super::OaepLabel) keep the
//! two apart: what was wrapped for one dialect does not open in the other.

use rsa::{BoxedUint, Oaep};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::error::CryptoError;
use super::rsa_keys::{PrivateKey, PublicKey, SystemRandom};
use super::secret::Secret;

/// The size of every key of the dialect, in bits.
pub const LEGACY_KEY_BITS: usize = 1024;
/// The length of every wrapped key, in bytes.
pub const LEGACY_WRAPPED_BYTES: usize = LEGACY_KEY_BITS / 8;

/// The exponent of a client's key. Each kind of client takes one, and servers accept both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyExponent {
    /// 17: the public key is 160 bytes long.
    Seventeen,
    /// 65537: the public key is 162 bytes long.
    F4,
}

impl LegacyExponent {
    fn value(self) -> u64 {
        match self {
            Self::Seventeen => 17,
            Self::F4 => 65537,
        }
    }
}

/// The hash inside OAEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyOaep {
    /// What the present generation of peers takes.
    Sha256,
    /// What the older generation takes.
    Sha1,
}

impl LegacyOaep {
    /// In the order in which a client tries them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha1];
}

impl PublicKey {
    /// Reads a public key as a legacy client sends it.
    ///
    /// # Errors
    /// As [`PublicKey::from_spki_der`], and [`CryptoError::KeyBits`] or [`CryptoError::KeyExponent`] for a key that is
    /// fine otherwise and none of the dialect.
    pub fn from_legacy_der(der: &[u8]) -> Result<Self, CryptoError> {
        let key = Self::from_spki_der(der)?;
        if key.bits() != LEGACY_KEY_BITS {
            return Err(CryptoError::KeyBits { bits: key.bits() });
        }
        if key.exponent_is(3) {
            return Err(CryptoError::KeyExponent);
        }
        Ok(key)
    }

    /// Wraps a file key for the owner of this key.
    ///
    /// # Errors
    /// [`CryptoError::SealSecret`] if this is no key of [`LEGACY_KEY_BITS`].
    pub fn wrap_file_key(
        &self,
        hash: LegacyOaep,
        file_key: &Secret<32>,
    ) -> Result<[u8; LEGACY_WRAPPED_BYTES], CryptoError> {
        let wrapped = match hash {
            LegacyOaep::Sha256 => self.encrypt(Oaep::<Sha256>::new(), file_key.expose()),
            LegacyOaep::Sha1 => self.encrypt(Oaep::<Sha1>::new(), file_key.expose()),
        };
        wrapped?.try_into().map_err(|_| CryptoError::SealSecret)
    }
}

impl PrivateKey {
    /// Makes a new pair for the legacy dialect.
    ///
    /// # Errors
    /// [`CryptoError::KeyGeneration`] if no key could be made.
    pub fn generate_legacy(exponent: LegacyExponent) -> Result<Self, CryptoError> {
        let exponent = BoxedUint::from(exponent.value());
        let key = rsa::PrivateKey::new_with_exp(&mut SystemRandom, LEGACY_KEY_BITS, exponent)
            .map_err(|_| CryptoError::KeyGeneration)?;
        Self::new(key)
    }

    /// Unwraps a file key, whichever hash it was wrapped with, and says which one that was. The RSA operation is
    /// blinded.
    ///
    /// # Errors
    /// [`CryptoError::FileKey`], one for all causes, where it opens with neither hash.
    pub fn unwrap_file_key(&self, wrapped: &[u8]) -> Result<(Secret<32>, LegacyOaep), CryptoError> {
        for hash in LegacyOaep::ALL {
            let opened = match hash {
                LegacyOaep::Sha256 => self.decrypt(Oaep::<Sha256>::new(), wrapped),
                LegacyOaep::Sha1 => self.decrypt(Oaep::<Sha1>::new(), wrapped),
            };
            if let Some(opened) = opened
                && let Ok(file_key) = <&[u8; 32]>::try_from(opened.as_slice())
            {
                return Ok((Secret::written_by(|secret| secret.copy_from_slice(file_key)), hash));
            }
        }
        Err(CryptoError::FileKey)
    }

    fn decrypt(&self, padding: impl rsa::traits::PaddingScheme, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.key.decrypt_blinded(&mut SystemRandom, padding, wrapped).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Runs openssl's `pkeyutl` with OAEP, the hash and the key.
    fn pkeyutl(action: &[&str], key_file: &Path, hash: LegacyOaep, input: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("input");
        std::fs::write(&file, input).expect("the input can be written");
        let name = if hash == LegacyOaep::Sha256 { "sha256" } else { "sha1" };
        let mut command = Command::new("openssl");
        command.arg("pkeyutl").args(action).args(["-keyform", "DER", "-inkey"]).arg(key_file).arg("-in").arg(file);
        command.args(["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &format!("rsa_oaep_md:{name}")]);
        let output = command.output().expect("openssl can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn public_keys_have_the_lengths_of_the_dialect() {
        for (exponent, bytes) in [(LegacyExponent::Seventeen, 160), (LegacyExponent::F4, 162)] {
            let key = PrivateKey::generate_legacy(exponent).expect("a key can be made");
            assert_eq!(key.public().spki_der().len(), bytes);
            assert!(key.public().exponent_is(exponent.value()));
            let read = PublicKey::from_legacy_der(key.public().spki_der()).expect("what was written");
            assert_eq!(&read, key.public());
            let kept = key.to_pkcs8_der().expect("a good key");
            assert_eq!(PrivateKey::from_pkcs8_der(&kept).expect("what was written").public(), key.public());
        }
    }

    #[test]
    fn a_key_of_another_size_is_none_of_the_dialect() {
        let key = PrivateKey::generate(1032).expect("a key can be made");
        let refused = PublicKey::from_legacy_der(key.public().spki_der());
        assert_eq!(refused.err(), Some(CryptoError::KeyBits { bits: 1032 }));
        assert_eq!(PublicKey::from_legacy_der(&[0; 160]).err(), Some(CryptoError::PublicKeyMalformed));
    }

    #[test]
    fn file_keys_open_for_their_owner_under_either_hash() {
        let key = PrivateKey::generate_legacy(LegacyExponent::Seventeen).expect("a key can be made");
        let other = PrivateKey::generate_legacy(LegacyExponent::Seventeen).expect("a key can be made");
        for hash in LegacyOaep::ALL {
            let file_key = Secret::random();
            let wrapped = key.public().wrap_file_key(hash, &file_key).expect("a good key");
            let (opened, found) = key.unwrap_file_key(&wrapped).expect("wrapped for this key");
            assert_eq!((opened.expose(), found), (file_key.expose(), hash));
            assert_eq!(other.unwrap_file_key(&wrapped).err(), Some(CryptoError::FileKey));
        }
    }

    #[test]
    fn openssl_and_this_program_unwrap_each_others_file_keys() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (private_file, public_file) = (folder.path().join("private"), folder.path().join("public"));
        let key = PrivateKey::generate_legacy(LegacyExponent::Seventeen).expect("a key can be made");
        std::fs::write(&private_file, key.to_pkcs8_der().expect("a good key")).expect("the key can be written");
        std::fs::write(&public_file, key.public().spki_der()).expect("the key can be written");
        for hash in LegacyOaep::ALL {
            let file_key = Secret::random();
            let wrapped = key.public().wrap_file_key(hash, &file_key).expect("a good key");
            assert_eq!(pkeyutl(&["-decrypt"], &private_file, hash, &wrapped), file_key.expose());
            let wrapped = pkeyutl(&["-encrypt", "-pubin"], &public_file, hash, file_key.expose());
            let (opened, found) = key.unwrap_file_key(&wrapped).expect("wrapped for this key");
            assert_eq!((opened.expose(), found), (file_key.expose(), hash));
        }
    }

    #[test]
    fn what_is_no_wrapped_file_key_is_one_error() {
        let key = PrivateKey::generate_legacy(LegacyExponent::F4).expect("a key can be made");
        let short = key.public().encrypt(Oaep::<Sha256>::new(), &[7; 31]).expect("a good key");
        let native = key.public().seal_secret(crate::crypto::OaepLabel::ServerToClient, &Secret::random());
        for bad in [vec![], vec![0; 128], vec![0xFF; 128], vec![1; 127], short, native.expect("a good key")] {
            assert_eq!(key.unwrap_file_key(&bad).err(), Some(CryptoError::FileKey));
        }
    }
}
