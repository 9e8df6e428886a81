//! Keys, sealed segments and checksums: all cryptography of the program, and nothing else of it.
//!
//! This module knows no sockets, files or messages. It turns byte slices into other byte slices, and it owns one
//! invariant: **no byte that a peer sent is decrypted, or believed, before the HMAC over it and over everything
//! around it has verified.**
//!
//! # The argument
//!
//! - **Who is there.** Each side sends 32 random bytes under RSA-OAEP for the other's key ([`rsa_keys`]); only the
//!   owner of that key can derive the session's keys, so a first segment that verifies proves it. The OAEP label
//!   names role and direction: a ciphertext that was made for one message is noise in any other.
//! - **Silent OAEP.** A receiver that tells a good OAEP block from a bad one is a decryption oracle (Manger, CRYPTO
//!   2001). So [`PrivateKey::open_secret`] cannot fail: a random secret takes the place of one that does not open,
//!   the handshake goes on, and what fails in the end is the HMAC of the first segment, which says nothing about
//!   RSA.
//! - **Forward secrecy.** An ephemeral X25519 agreement goes into the same derivation ([`key_exchange`]). Whoever
//!   steals both RSA keys later cannot read what was recorded today.
//! - **Nothing can be mixed.** The derivation is salted with the hash of the exact bytes of the whole handshake.
//!   Two sides that saw different bytes (another feature list, another key, another name) hold different keys.
//! - **Keys apart.** Each direction and each kind of segment has its own chain, and each chain one key for AES and
//!   another for HMAC. A segment that is reflected to its sender, or moved between data and control, fails its
//!   HMAC; no assumption about AES and SHA-256 under one common key is needed.
//! - **Encrypt, then authenticate.** The HMAC covers direction, kind, header, sequence, acknowledgement, IV and
//!   ciphertext ([`segment`]). CBC's known weakness, the padding oracle, needs a receiver that decrypts what was
//!   not authenticated; this one never does.
//! - **Random IVs.** CBC is safe only if nobody can foresee the IV when the plaintext is chosen, so each segment
//!   has 128 fresh random bits of the operating system; a counter, or the last block of the segment before, will
//!   not do.
//! - **Epochs.** Each chain moves on by HKDF after a fixed number of segments and wipes what it leaves behind; a
//!   key sees a bounded amount of data, and a memory image opens nothing that lies before the present epoch.
//!
//! # The exception
//!
//! The legacy dialect has none of this. [`legacy_keys`] and [`legacy_file`] do what its peers do, for its sessions
//! only: a file's ciphertext is decrypted as it comes, and nothing authenticates it.

use cyberbackup_lanes::{cbc as lanes, sha256 as sha256_lanes};

mod authenticator;
pub mod blocks;
pub mod checksum;
pub mod error;
pub mod key_exchange;
pub mod legacy_file;
pub mod legacy_keys;
pub mod posix_cksum;
pub mod rsa_keys;
pub mod sealed_file;
pub mod secret;
pub mod segment;
#[cfg(test)]
mod test_support;
pub mod token;
pub mod vault;

pub use blocks::{BLOCK_BYTES, BlockHasher, BlockSum, SumsCombiner, block_sum, blocks_in};
pub use checksum::{ContentHasher, ContentSums, blake3_hash, crc32};
pub use error::{CryptoError, Damaged};
pub use key_exchange::{
    Chain, DirectionChains, Ephemeral, SEGMENTS_PER_EPOCH, SessionKeys, Transcript, enrol_proof, rotation_proof,
    verify_enrol_proof,
};
pub use legacy_file::{FileDecryptor, FileEncryptor, file_ciphertext_bytes};
pub use legacy_keys::{LEGACY_WRAPPED_BYTES, LegacyExponent, LegacyOaep};
pub use posix_cksum::PosixCksum;
pub use rsa_keys::{Fingerprint, OaepLabel, PrivateKey, PublicKey};
pub use sealed_file::{KeyId, SealedForm, SealedHeader, SealedKeys, SealedKind, SealedPlace, StorageKey};
pub use secret::{Secret, constant_time_equal, random_bytes};
pub use segment::{
    Direction, Kind, Opened, Opener, SEGMENT_OVERHEAD, SEGMENT_PAYLOAD_MAX, SEGMENT_PLAINTEXT_MAX, Sealer,
    is_possible_payload, sealed_payload_bytes,
};
pub use token::EnrolToken;
pub use vault::{
    ChunkKind, ChunkOpener, ChunkSealer, DataKey, FullKey, PassphraseCost, PlainChunk, PutKey, SealedChunk,
    authenticate, data_key_id, head_hash, is_token, list_id, sealed_crc_is_right, token_hash,
};
