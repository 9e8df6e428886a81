//! What can go wrong in cryptography, in words for whoever reads the log.
//!
//! A segment that does not verify is [`Damaged`], whatever the cause: whoever changed it must not learn from the
//! answer which check it failed. Everything else is a [`CryptoError`].

use std::fmt;

/// A key, name or buffer that this module cannot work with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CryptoError {
    /// A public key is not the one exact DER encoding of an RSA SubjectPublicKeyInfo, or its modulus is too small
    /// or too large to decode.
    PublicKeyMalformed,
    /// A private key is no PKCS#8 DER of a two-prime RSA key, or its parts contradict each other.
    PrivateKeyMalformed,
    /// An RSA modulus outside 1,024 to 4,096 bits, or (for a new key) no multiple of 8 bits.
    KeyBits {
        /// The size found or asked for.
        bits: usize,
    },
    /// An RSA public exponent other than 3, 17 or 65537.
    KeyExponent,
    /// A new RSA key could not be made or encoded.
    KeyGeneration,
    /// The secret could not be encrypted for this public key.
    SealSecret,
    /// A wrapped file key of the legacy dialect opens with neither hash. One error for all causes, on purpose.
    FileKey,
    /// The ciphertext of a file in the legacy dialect is not one of its key. One error for all causes, on purpose.
    FileCiphertext,
    /// The X25519 agreement was all zero: the peer sent a point of small order.
    AgreementAllZero,
    /// A name longer than the 65,535 bytes its length field can say.
    NameTooLong {
        /// The name's length in bytes.
        bytes: usize,
    },
    /// A text that is no enrolment token.
    TokenMalformed,
    /// A text that is no `SHA256:<43 base64 characters>`.
    FingerprintMalformed,
    /// A text that is no storage key, or no id of one.
    StorageKeyMalformed,
    /// Bytes that are no key file of a vault, or one of another version.
    VaultKeyMalformed,
    /// There is no memory to open a vault's key with the passphrase.
    PassphraseMemory {
        /// What it takes.
        kib: u32,
    },
    /// More plaintext than one segment carries.
    PlaintextTooLong {
        /// The plaintext's length in bytes.
        bytes: usize,
    },
    /// A buffer that does not hold exactly the frames it is said to hold.
    BatchLayout {
        /// The buffer's length in bytes.
        bytes: usize,
        /// The length that the frames take.
        expected: usize,
    },
    /// The 64-bit sequence numbers of this connection are used up.
    SequencesExhausted,
}

impl fmt::Display for CryptoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicKeyMalformed => formatter.write_str(
                "the RSA public key is not the exact SubjectPublicKeyInfo DER of a key of 1024 to 4096 bits",
            ),
            Self::PrivateKeyMalformed => formatter
                .write_str("the RSA private key is not valid PKCS#8 DER; convert it with openssl pkcs8 -topk8"),
            Self::KeyBits { bits } => {
                write!(formatter, "an RSA key of {bits} bits: use 1024 to 4096 bits, in steps of 8 for a new key")
            }
            Self::KeyExponent => formatter.write_str("the RSA public exponent is none of 3, 17 and 65537"),
            Self::KeyGeneration => formatter.write_str("no RSA key could be made; try again"),
            Self::SealSecret => formatter.write_str("the secret could not be encrypted for the peer's RSA key"),
            Self::FileKey => formatter.write_str("the file key does not open under this client's RSA key"),
            Self::FileCiphertext => formatter.write_str("the file's ciphertext does not decrypt under its key"),
            Self::AgreementAllZero => {
                formatter.write_str("the peer's X25519 key is of small order; the handshake ends here")
            }
            Self::NameTooLong { bytes } => write!(formatter, "a name of {bytes} bytes: at most 65535 can be sent"),
            Self::TokenMalformed => formatter.write_str(
                "not an enrolment token: expected cb3- and 64 characters, as \"cyberbackup enroll NAME\" prints them",
            ),
            Self::FingerprintMalformed => formatter.write_str(
                "not a key fingerprint: expected SHA256: and 43 base64 characters, as the server prints it",
            ),
            Self::StorageKeyMalformed => formatter.write_str(
                "not a storage key: expected 64 hex digits, as \"openssl rand -hex 32\" prints them",
            ),
            Self::VaultKeyMalformed => formatter.write_str(
                "not a key file of a vault, or damaged; take the copy that you keep of vault.key or vault-put.key",
            ),
            Self::PassphraseMemory { kib } => {
                write!(formatter, "{kib} KiB of memory are needed for the passphrase, and are not to be had")
            }
            Self::PlaintextTooLong { bytes } => {
                write!(formatter, "{bytes} bytes of plaintext: a segment carries at most 16384")
            }
            Self::BatchLayout { bytes, expected } => {
                write!(formatter, "a buffer of {bytes} bytes for frames of {expected} bytes in all")
            }
            Self::SequencesExhausted => {
                formatter.write_str("the connection's sequence numbers are used up; connect again")
            }
        }
    }
}

impl std::error::Error for CryptoError {}

/// A segment that did not verify. There is one such error for all causes, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sealed segment arrived damaged")
    }
}

impl std::error::Error for Damaged {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_problem_and_the_next_step() {
        assert_eq!(
            CryptoError::KeyBits { bits: 512 }.to_string(),
            "an RSA key of 512 bits: use 1024 to 4096 bits, in steps of 8 for a new key"
        );
        assert_eq!(
            CryptoError::FingerprintMalformed.to_string(),
            "not a key fingerprint: expected SHA256: and 43 base64 characters, as the server prints it"
        );
        assert_eq!(Damaged.to_string(), "a sealed segment arrived damaged");
    }
}
