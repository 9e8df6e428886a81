//! The two key files of a vault, to the byte (little-endian).
//!
//! `vault-put.key`, the put half in clear:
//! `magic "\xcbcbkVPUT" ‖ version u32 = 1 ‖ put half ‖ SHA-256 of all before [32]`.
//!
//! `vault.key`, the full key under a passphrase:
//! `magic "\xcbcbkVKEY" ‖ version u32 = 1 ‖ vault id [16] ‖ memory in KiB u32 ‖ passes u32 ‖ lanes u32 = 1 ‖ salt [16] ‖
//! IV [16] ‖ AES-256-CBC, PKCS#7 (put half ‖ private key: length u16, PKCS#8 ‖ read token [32]) ‖ HMAC-SHA256 of all
//! before [32]`. Encryption key and HMAC key are the first and the second half of Argon2id (RFC 9106, version 0x13) of
//! passphrase and salt, 64 bytes.
//!
//! The put half: `vault id [16] ‖ public key: length u16, SubjectPublicKeyInfo ‖ id key [32] ‖ MAC key [32] ‖ read
//! verifier [32]`.
//!
//! A wrong passphrase and a damaged file are one answer: nobody without the passphrase can tell them apart.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes256Dec, Aes256Enc};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::super::error::{CryptoError, Damaged};
use super::super::rsa_keys::{PrivateKey, PublicKey, SPKI_DER_MAX};
use super::super::secret::{Secret, constant_time_equal, random_bytes};
use super::{FullKey, PutKey, token_hash};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::limits::{PASSPHRASE_KIB, PASSPHRASE_PASSES};
use crate::base::vault::VaultId;

const PUT_MAGIC: [u8; 8] = *b"\xcbcbkVPUT";
const FULL_MAGIC: [u8; 8] = *b"\xcbcbkVKEY";
const VERSION: u32 = 1;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const IV_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
const DERIVED_BYTES: usize = 64;
/// Longest PKCS#8 of a key of 4,096 bits is some 2,400 bytes.
const PKCS8_BYTES_MAX: usize = 4 * 1024;

/// What a passphrase costs whoever tries it: Argon2id with one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory, in KiB.
    pub kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl PassphraseCost {
    /// The least that is accepted.
    pub const LEAST: PassphraseCost =
        PassphraseCost { kib: *PASSPHRASE_KIB.start(), passes: *PASSPHRASE_PASSES.start() };

    fn is_within_limits(self) -> bool {
        PASSPHRASE_KIB.contains(&self.kib) && PASSPHRASE_PASSES.contains(&self.passes)
    }

    /// Encryption key and HMAC key. It takes as long as it is meant to.
    fn derive(self, passphrase: &[u8], salt: &[u8; SALT_BYTES]) -> Result<Secret<DERIVED_BYTES>, CryptoError> {
        let params = Params::new(self.kib, self.passes, LANES, Some(DERIVED_BYTES));
        let params = params.map_err(|_| CryptoError::VaultKeyMalformed)?;
        let mut memory: Vec<Block> = Vec::new();
        let blocks = params.block_count();
        memory.try_reserve_exact(blocks).map_err(|_| CryptoError::PassphraseMemory { kib: self.kib })?;
        memory.resize(blocks, Block::new());
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut result = Ok(());
        let derived = Secret::written_by(|derived| {
            result = argon.hash_password_into_with_memory(passphrase, salt, derived, &mut memory);
        });
        memory.iter_mut().for_each(Zeroize::zeroize);
        result.map(|()| derived).map_err(|_| CryptoError::VaultKeyMalformed)
    }

    /// How long this cost takes here.
    ///
    /// # Errors
    /// [`CryptoError::PassphraseMemory`].
    pub fn measure(self) -> Result<std::time::Duration, CryptoError> {
        let start = std::time::Instant::now();
        self.derive(b"measured", &[0; SALT_BYTES])?;
        Ok(start.elapsed())
    }
}

/// Why a full key does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenKeyError {
    /// The passphrase is not the right one, or the file is damaged.
    Wrong,
    /// It is no such file at all, or there is no memory.
    Crypto(CryptoError),
}

impl fmt::Display for OpenKeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenKeyError::Wrong => formatter.write_str("the passphrase is wrong, or the file is damaged"),
            OpenKeyError::Crypto(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for OpenKeyError {}

impl From<CryptoError> for OpenKeyError {
    fn from(error: CryptoError) -> OpenKeyError {
        OpenKeyError::Crypto(error)
    }
}

impl From<Damaged> for OpenKeyError {
    fn from(_: Damaged) -> OpenKeyError {
        OpenKeyError::Wrong
    }
}

/// Whether this is the file of a put half, and no full key.
pub fn is_put_key_file(bytes: &[u8]) -> bool {
    bytes.starts_with(&PUT_MAGIC)
}

impl PutKey {
    /// The put half as its file holds it.
    pub fn to_file(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        bytes.put_bytes(&PUT_MAGIC);
        bytes.put_u32(VERSION);
        self.encode(&mut bytes);
        let hash: [u8; HASH_BYTES] = Sha256::digest(&bytes[..]).into();
        bytes.put_bytes(&hash);
        bytes
    }

    /// Reads the file of a put half.
    ///
    /// # Errors
    /// [`CryptoError::VaultKeyMalformed`] for anything else.
    pub fn from_file(bytes: &[u8]) -> Result<PutKey, CryptoError> {
        let (covered, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(CryptoError::VaultKeyMalformed)?;
        let found: [u8; HASH_BYTES] = Sha256::digest(covered).into();
        let mut reader = Reader::new(covered);
        let is_right = found == *hash && takes_beginning(&mut reader, PUT_MAGIC);
        let key = if is_right { PutKey::decode(&mut reader).ok() } else { None };
        key.filter(|_| reader.is_empty()).ok_or(CryptoError::VaultKeyMalformed)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.vault.as_bytes());
        out.put_bytes16(self.public.spki_der());
        out.put_bytes(self.id_key.expose());
        out.put_bytes(self.mac_key.expose());
        out.put_bytes(&self.read_verifier);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<PutKey, DecodeError> {
        let vault = VaultId::from_bytes(reader.array("vault id")?);
        let public = PublicKey::from_spki_der(reader.bytes16(SPKI_DER_MAX, "public key")?);
        let public = public.map_err(|_| DecodeError::Invalid { what: "public key" })?;
        let id_key = Secret::from_bytes(reader.array("id key")?);
        let mac_key = Secret::from_bytes(reader.array("MAC key")?);
        Ok(PutKey::new(vault, public, id_key, mac_key, reader.array("read verifier")?))
    }
}

impl FullKey {
    /// The full key as its file holds it, under `passphrase`.
    ///
    /// # Errors
    /// [`CryptoError::PassphraseMemory`] where the cost asks for more than there is, and
    /// [`CryptoError::VaultKeyMalformed`] where it is outside the limits.
    pub fn to_file(&self, passphrase: &[u8], cost: PassphraseCost) -> Result<Vec<u8>, CryptoError> {
        self.to_file_with(random_bytes(), random_bytes(), passphrase, cost)
    }

    pub(super) fn to_file_with(
        &self,
        salt: [u8; SALT_BYTES],
        vector: [u8; IV_BYTES],
        passphrase: &[u8],
        cost: PassphraseCost,
    ) -> Result<Vec<u8>, CryptoError> {
        if !cost.is_within_limits() {
            return Err(CryptoError::VaultKeyMalformed);
        }
        let mut plain = Zeroizing::new(Vec::with_capacity(2 * PKCS8_BYTES_MAX));
        self.put.encode(&mut plain);
        plain.put_bytes16(&self.private.to_pkcs8_der()?);
        plain.put_bytes(self.read_token.expose());
        let mut bytes = Vec::new();
        bytes.put_bytes(&FULL_MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_bytes(self.put.vault.as_bytes());
        [cost.kib, cost.passes, LANES].into_iter().for_each(|number| bytes.put_u32(number));
        bytes.put_bytes(&salt);
        bytes.put_bytes(&vector);
        let keys = FileKeys::of(&cost.derive(passphrase, &salt)?);
        let cipher = cbc::Encryptor::<Aes256Enc>::new(&Array(*keys.encryption.expose()), &Array(vector));
        let start = bytes.len();
        bytes.resize(start + (plain.len() / IV_BYTES + 1) * IV_BYTES, 0);
        // The text goes straight to where it is encrypted, so that no other copy of it is left behind.
        bytes[start..start + plain.len()].copy_from_slice(&plain);
        cipher.encrypt_padded::<Pkcs7>(&mut bytes[start..], plain.len()).expect("there is room for the padding");
        let code = keys.code(&bytes);
        bytes.put_bytes(&code);
        Ok(bytes)
    }

    /// The vault that a full key's file is of, without its passphrase; none where it is no such file.
    pub fn vault_of_file(bytes: &[u8]) -> Option<VaultId> {
        FileHeader::decode(&mut Reader::new(bytes)).ok().map(|header| header.vault)
    }

    /// Opens the file of a full key.
    ///
    /// # Errors
    /// [`OpenKeyError::Wrong`] for a wrong passphrase as for damage; [`OpenKeyError::Crypto`] where it is no such file or
    /// there is no memory.
    pub fn from_file(bytes: &[u8], passphrase: &[u8]) -> Result<FullKey, OpenKeyError> {
        let (covered, code) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(CryptoError::VaultKeyMalformed)?;
        let mut reader = Reader::new(covered);
        let header = FileHeader::decode(&mut reader).map_err(|_| CryptoError::VaultKeyMalformed)?;
        let keys = FileKeys::of(&header.cost.derive(passphrase, &header.salt)?);
        if !constant_time_equal(&keys.code(covered), code) {
            return Err(OpenKeyError::Wrong);
        }
        let cipher = cbc::Decryptor::<Aes256Dec>::new(&Array(*keys.encryption.expose()), &Array(header.vector));
        let mut plain = Zeroizing::new(reader.rest().to_vec());
        let plain = cipher.decrypt_padded::<Pkcs7>(&mut plain).map_err(|_| OpenKeyError::Wrong)?;
        let key = FullKey::decode(plain).map_err(|_| OpenKeyError::Wrong)?;
        match key.put.vault == header.vault {
            true => Ok(key),
            false => Err(OpenKeyError::Wrong),
        }
    }

    fn decode(plain: &[u8]) -> Result<FullKey, DecodeError> {
        let mut reader = Reader::new(plain);
        let put = PutKey::decode(&mut reader)?;
        let private = PrivateKey::from_pkcs8_der(reader.bytes16(PKCS8_BYTES_MAX, "private key")?);
        let private = private.map_err(|_| DecodeError::Invalid { what: "private key" })?;
        let read_token = Secret::from_bytes(reader.array("read token")?);
        reader.finish("key of a vault")?;
        match *private.public() == put.public && token_hash(read_token.expose()) == put.read_verifier {
            true => Ok(FullKey { put, private, read_token }),
            false => Err(DecodeError::Invalid { what: "key of a vault" }),
        }
    }
}

/// What stands in clear in the file of a full key.
struct FileHeader {
    vault: VaultId,
    cost: PassphraseCost,
    salt: [u8; SALT_BYTES],
    vector: [u8; IV_BYTES],
}

impl FileHeader {
    fn decode(reader: &mut Reader<'_>) -> Result<FileHeader, DecodeError> {
        let what = "key of a vault";
        if !takes_beginning(reader, FULL_MAGIC) {
            return Err(DecodeError::Invalid { what });
        }
        let vault = VaultId::from_bytes(reader.array(what)?);
        let cost = PassphraseCost { kib: reader.u32(what)?, passes: reader.u32(what)? };
        let lanes = reader.u32(what)?;
        if lanes != LANES || !cost.is_within_limits() {
            return Err(DecodeError::Invalid { what });
        }
        Ok(FileHeader { vault, cost, salt: reader.array(what)?, vector: reader.array(what)? })
    }
}

fn takes_beginning(reader: &mut Reader<'_>, magic: [u8; 8]) -> bool {
    reader.array("magic") == Ok(magic) && reader.u32("version") == Ok(VERSION)
}

struct FileKeys {
    encryption: Secret<32>,
    authentication: Secret<32>,
}

impl FileKeys {
    fn of(derived: &Secret<DERIVED_BYTES>) -> FileKeys {
        let half = |at: usize| Secret::written_by(|bytes| bytes.copy_from_slice(&derived.expose()[at..at + 32]));
        FileKeys { encryption: half(0), authentication: half(32) }
    }

    fn code(&self, covered: &[u8]) -> [u8; HASH_BYTES] {
        let mac =
            Hmac::<Sha256>::new_from_slice(self.authentication.expose()).expect("HMAC takes a key of any length");
        mac.chain_update(covered).finalize().into_bytes().into()
    }
}
