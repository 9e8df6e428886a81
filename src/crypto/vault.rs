//! The keys of a vault: what the server stores for it was sealed before it left the client.
//!
//! A vault has two halves. The *put half* names and seals: the public key, the id key and the MAC key. The *full key*
//! is the put half, the private key and the token that lets its holder fetch. Each upload makes a [`DataKey`], wraps it
//! for the public key and forgets it with its end, so that the put half alone opens nothing that was stored before.
//!
//! - **Names.** A chunk is called by the BLAKE3 of its plaintext under a key of the vault: equal chunks are stored once,
//!   and who does not hold the id key cannot test a guess. Contents, metadata and heads have keys of their own, so that
//!   none passes for another.
//! - **Bound.** The HMAC of a sealed chunk covers its name and the id of its data key ([`chunk`]); the name is computed
//!   again when it is opened. A chunk that the server swaps, or brings back from before, is good under its own name only.
//! - **Who plants.** The put half makes chunks that open, as every writing host must. What a snapshot consists of is what
//!   its own head says, by names, and a name fits one plaintext.

pub mod chunk;
mod deflate;
pub mod key_file;

use std::fmt;

use aes::cipher::KeyInit;
use aes::{Aes256Dec, Aes256Enc};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use super::authenticator::Authenticator;
use super::error::{CryptoError, Damaged};
use super::rsa_keys::{OaepLabel, PrivateKey, PublicKey};
use super::secret::{Secret, constant_time_equal};
use crate::base::codec::Writer;
use crate::base::limits::VAULT_RSA_BITS;
use crate::base::path::EntryPath;
use crate::base::vault::{ChunkName, DataKeyId, RootSetId, VaultId};

pub use chunk::{ChunkOpener, ChunkSealer, PlainChunk, SealedChunk, authenticate, sealed_crc_is_right};
pub use cyberbackup_lanes::gear::{GEAR_ENTRIES, find_cut};
pub use key_file::{OpenKeyError, PassphraseCost, is_put_key_file};

const CONTENT_NAMES_LABEL: &str = "cyberbackup vault 1 content names";
const METADATA_NAMES_LABEL: &str = "cyberbackup vault 1 list names";
const HEAD_NAMES_LABEL: &str = "cyberbackup vault 1 head names";
const ROOT_SETS_LABEL: &str = "cyberbackup vault 1 root sets";
const CUT_POINTS_LABEL: &str = "cyberbackup vault 1 cut points";
const AUTHENTICATION_LABEL: &str = "cyberbackup vault 1 authentication";
const WRITE_TOKEN_LABEL: &str = "cyberbackup vault 1 write token";
const ENCRYPTION_LABEL: &str = "cyberbackup vault 1 encryption";
const LIST_CONTEXT: &str = "cyberbackup vault 1 list";

/// What is in a chunk. Each kind is named under a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// A piece of a file.
    Content,
    /// A piece of a range or of an index.
    Metadata,
    /// The head of a snapshot.
    Head,
}

/// What a host that only writes needs of a vault.
pub struct PutKey {
    vault: VaultId,
    public: PublicKey,
    id_key: Secret<32>,
    mac_key: Secret<32>,
    read_verifier: [u8; 32],
    content_names: Secret<32>,
    metadata_names: Secret<32>,
    head_names: Secret<32>,
    write_token: Secret<32>,
    authenticator: Authenticator,
}

impl PutKey {
    fn new(
        vault: VaultId,
        public: PublicKey,
        id_key: Secret<32>,
        mac_key: Secret<32>,
        read_verifier: [u8; 32],
    ) -> PutKey {
        let names = |label| derive(vault, &id_key, label);
        let authentication = derive(vault, &mac_key, AUTHENTICATION_LABEL);
        PutKey {
            content_names: names(CONTENT_NAMES_LABEL),
            metadata_names: names(METADATA_NAMES_LABEL),
            head_names: names(HEAD_NAMES_LABEL),
            write_token: derive(vault, &mac_key, WRITE_TOKEN_LABEL),
            authenticator: Authenticator::without_prefix(authentication.expose()),
            vault,
            public,
            id_key,
            mac_key,
            read_verifier,
        }
    }

    /// The vault that this is the key of.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// What a chunk with this plaintext is called.
    pub fn name(&self, kind: ChunkKind, plaintext: &[u8]) -> ChunkName {
        let key = match kind {
            ChunkKind::Content => &self.content_names,
            ChunkKind::Metadata => &self.metadata_names,
            ChunkKind::Head => &self.head_names,
        };
        ChunkName::from_bytes(*blake3::keyed_hash(key.expose(), plaintext).as_bytes())
    }

    /// What the server is told of a snapshot's roots, which come sorted and none within another: equal for the same
    /// roots of the same vault, and nothing else.
    pub fn root_set(&self, roots: &[EntryPath]) -> RootSetId {
        let key = derive(self.vault, &self.id_key, ROOT_SETS_LABEL);
        let mut bytes = Vec::new();
        roots.iter().for_each(|root| bytes.put_bytes16(root.as_bytes()));
        let hash = blake3::keyed_hash(key.expose(), &bytes);
        RootSetId::from_bytes(*hash.as_bytes().first_chunk().expect("a hash is longer"))
    }

    /// The table that decides where contents are cut: the server sees lengths, and must not know what they come from.
    pub fn gear(&self) -> [u64; GEAR_ENTRIES] {
        let key = derive(self.vault, &self.id_key, CUT_POINTS_LABEL);
        let mut bytes = [0; GEAR_ENTRIES * 8];
        blake3::Hasher::new_keyed(key.expose()).finalize_xof().fill(&mut bytes);
        let mut numbers = bytes.as_chunks::<8>().0.iter();
        std::array::from_fn(|_| numbers.next().map_or(0, |number| u64::from_le_bytes(*number)))
    }

    /// What the server wants to see before it takes anything in.
    pub fn write_token(&self) -> &[u8; 32] {
        self.write_token.expose()
    }

    /// The SHA-256 of the read token: what the server checks that token against.
    pub fn read_verifier(&self) -> &[u8; 32] {
        &self.read_verifier
    }

    /// A fresh key for an upload.
    ///
    /// # Errors
    /// [`CryptoError::SealSecret`], which no key within the limits causes.
    pub fn create_data_key(&self) -> Result<DataKey, CryptoError> {
        let secret = Secret::random();
        let wrapped = self.public.seal_secret(OaepLabel::VaultDataKey, &secret)?;
        Ok(DataKey::new(self.vault, &secret, wrapped))
    }
}

impl fmt::Debug for PutKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PutKey({})", self.vault)
    }
}

/// All of a vault: whoever holds it reads what any host ever wrote to it.
pub struct FullKey {
    put: PutKey,
    private: PrivateKey,
    read_token: Secret<32>,
}

impl FullKey {
    /// A new vault. It takes the time of an RSA key of 3,072 bits.
    ///
    /// # Errors
    /// [`CryptoError::KeyGeneration`].
    pub fn generate() -> Result<FullKey, CryptoError> {
        let private = PrivateKey::generate(VAULT_RSA_BITS)?;
        let read_token = Secret::random();
        let verifier = token_hash(read_token.expose());
        let public = private.public().clone();
        let put = PutKey::new(VaultId::random(), public, Secret::random(), Secret::random(), verifier);
        Ok(FullKey { put, private, read_token })
    }

    /// The half that writes.
    pub fn put(&self) -> &PutKey {
        &self.put
    }

    /// The half that writes, alone.
    pub fn into_put(self) -> PutKey {
        self.put
    }

    /// What the server wants to see before it gives anything out.
    pub fn read_token(&self) -> &[u8; 32] {
        self.read_token.expose()
    }

    /// The key of an upload, from what is stored of it.
    ///
    /// # Errors
    /// [`Damaged`] where `wrapped` is not what has this id. A key that was wrapped for another vault is only found by
    /// the chunks, which do not open.
    pub fn open_data_key(&self, id: DataKeyId, wrapped: &[u8]) -> Result<DataKey, Damaged> {
        if data_key_id(wrapped) != id {
            return Err(Damaged);
        }
        let secret = self.private.open_secret(OaepLabel::VaultDataKey, wrapped);
        Ok(DataKey::new(self.put.vault, &secret, wrapped.to_vec()))
    }
}

impl fmt::Debug for FullKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FullKey({})", self.put.vault)
    }
}

/// The key of one upload: wiped when dropped.
pub struct DataKey {
    id: DataKeyId,
    wrapped: Vec<u8>,
    encryption: Aes256Enc,
    decryption: Aes256Dec,
}

impl DataKey {
    fn new(vault: VaultId, secret: &Secret<32>, wrapped: Vec<u8>) -> DataKey {
        let key = derive(vault, secret, ENCRYPTION_LABEL);
        DataKey {
            id: data_key_id(&wrapped),
            wrapped,
            encryption: Aes256Enc::new(key.expose().into()),
            decryption: Aes256Dec::new(key.expose().into()),
        }
    }

    pub fn id(&self) -> DataKeyId {
        self.id
    }

    /// The key as the server keeps it: only the full key opens it.
    pub fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DataKey({})", self.id)
    }
}

fn derive(vault: VaultId, key: &Secret<32>, label: &str) -> Secret<32> {
    let root = Hkdf::<Sha256>::new(Some(vault.as_bytes()), key.expose());
    Secret::written_by(|bytes| root.expand(label.as_bytes(), bytes).expect("32 bytes are one block of HKDF-SHA256"))
}

/// What a data key is called, from what is stored of it.
pub fn data_key_id(wrapped: &[u8]) -> DataKeyId {
    let hash: [u8; 32] = Sha256::digest(wrapped).into();
    DataKeyId::from_bytes(*hash.first_chunk().expect("a hash is longer"))
}

/// What a server keeps of a token: whoever reads the server's disk learns no token.
pub fn token_hash(token: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Whether `token` is the one with this hash, in a time that tells nothing.
pub fn is_token(token: &[u8; 32], hash: &[u8; 32]) -> bool {
    constant_time_equal(&token_hash(token), hash)
}

/// What a list of these names is called. No secret goes into it: the server computes it too.
pub fn list_id(names: &[ChunkName]) -> ChunkName {
    let mut hasher = blake3::Hasher::new_derive_key(LIST_CONTEXT);
    for name in names {
        hasher.update(name.as_bytes());
    }
    ChunkName::from_bytes(*hasher.finalize().as_bytes())
}

/// What the next head of the same writer names as the one before it.
pub fn head_hash(name: ChunkName, key: DataKeyId, sealed: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(key.as_bytes()).update(sealed);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
