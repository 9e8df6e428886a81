//! The messages about a vault. What they carry is sealed already: the server stores it and gives it back, and
//! knows names, lengths and which snapshot needs what.

use super::begin::{BOOT_BYTES_MAX, HostFolder};
use super::fields::{put_cut_text, put_snapshot_option, put_text, read_snapshot, read_snapshot_option};
use super::message_kind::*;
use super::{MESSAGE_HEADER_BYTES, RSA_CIPHERTEXT_BYTES_MAX, TEXT_BYTES_MAX};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::limits::{
    VAULT_DROPPED_AT_ONCE, VAULT_FETCH_MAX, VAULT_NAMES_MAX, VAULT_SEALED_BYTES_MAX, VAULT_SEALED_HEAD_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::base::vault::{ChunkName, DataKeyId, RootSetId, VaultId};

/// 100 characters of UTF-8.
const NAME_BYTES_MAX: usize = 400;
const NAMES_BYTES_MAX: usize = VAULT_NAMES_MAX * ChunkName::BYTES;
/// Name, key id and what is sealed.
const SEALED_HEAD_BYTES_MAX: usize = ChunkName::BYTES + 16 + VAULT_SEALED_HEAD_BYTES_MAX;

/// What a [`VaultRequest::Chunk`] has before the sealed chunk.
pub const CHUNK_HEAD_BYTES: usize = MESSAGE_HEADER_BYTES + ChunkName::BYTES;

/// The head of the message that carries a sealed chunk of so many bytes: for who has sealed it where it is sent from.
pub fn chunk_head(name: ChunkName, sealed_bytes: usize) -> [u8; CHUNK_HEAD_BYTES] {
    let length = u32::try_from(ChunkName::BYTES + sealed_bytes).expect("a chunk is below 1 MiB");
    let mut head = [VAULT_CHUNK; CHUNK_HEAD_BYTES];
    head[1..MESSAGE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    head[MESSAGE_HEADER_BYTES..].copy_from_slice(name.as_bytes());
    head
}

/// Names, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    /// Takes whole names of [`ChunkName::BYTES`] each; a torn one at the end is left out.
    pub fn of(bytes: &'a [u8]) -> Names<'a> {
        Names(&bytes[..bytes.len() / ChunkName::BYTES * ChunkName::BYTES])
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn len(self) -> usize {
        self.0.len() / ChunkName::BYTES
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = ChunkName> + 'a {
        self.0
            .chunks_exact(ChunkName::BYTES)
            .map(|name| ChunkName::from_bytes(name.try_into().expect("chunks_exact() gives exactly as much")))
    }

    /// What is left of a message: whole names, one at least and `limit` at most.
    fn decode(reader: &mut Reader<'a>, limit: usize) -> Result<Names<'a>, DecodeError> {
        let bytes = reader.rest();
        let count = bytes.len() / ChunkName::BYTES;
        match bytes.len().is_multiple_of(ChunkName::BYTES) && (1..=limit).contains(&count) {
            true => Ok(Names(bytes)),
            false => Err(DecodeError::Invalid { what: "names" }),
        }
    }
}

/// Bits of [`VaultBegin::flags`].
pub mod vault_flag {
    /// Questions only: nothing is to be stored.
    pub const DRY_RUN: u8 = 1;
}

/// What an upload into a vault begins with.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultBegin<'a> {
    pub vault: VaultId,
    /// Who has it may write to the vault.
    pub write_token: [u8; 32],
    /// SHA-256 of what those have who may read it.
    pub read_verifier: [u8; 32],
    pub upload: UploadId,
    /// What stands for the snapshot's roots, which are sealed.
    pub set: RootSetId,
    pub started: Timestamp,
    /// Bits of [`vault_flag`].
    pub flags: u8,
    /// The key of this session's chunks, under the vault's public key.
    pub wrapped_key: &'a [u8],
}

impl std::fmt::Debug for VaultBegin<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "VaultBegin({}, upload {})", self.vault, self.upload)
    }
}

/// From client to server.
#[derive(Clone, PartialEq, Eq)]
pub enum VaultRequest<'a> {
    Begin(VaultBegin<'a>),
    /// Which of these chunks and lists are lacking? Answered by [`VaultAnswer::Lacking`].
    Ask {
        number: u32,
        names: Names<'a>,
    },
    /// A chunk under the key of this session.
    Chunk {
        name: ChunkName,
        sealed: &'a [u8],
    },
    /// Chunks that are held, or came before, under one name that is made from theirs.
    List {
        names: Names<'a>,
    },
    /// The names of lists that the snapshot needs.
    Needs {
        lists: Names<'a>,
    },
    /// The snapshot's head, under the key of this session.
    Commit {
        name: ChunkName,
        sealed: &'a [u8],
    },
    Fetch {
        vault: VaultId,
        read_token: [u8; 32],
        names: Names<'a>,
    },
    Keys {
        vault: VaultId,
        read_token: [u8; 32],
        keys: Vec<DataKeyId>,
    },
    /// The vault's snapshots, whichever client stored them.
    Snapshots {
        vault: VaultId,
        read_token: [u8; 32],
        /// A beginning of an id; empty for all.
        selector: String,
    },
}

/// Tokens are shown to nobody: only what the message is.
impl std::fmt::Debug for VaultRequest<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            VaultRequest::Begin(_) => "Begin",
            VaultRequest::Ask { .. } => "Ask",
            VaultRequest::Chunk { .. } => "Chunk",
            VaultRequest::List { .. } => "List",
            VaultRequest::Needs { .. } => "Needs",
            VaultRequest::Commit { .. } => "Commit",
            VaultRequest::Fetch { .. } => "Fetch",
            VaultRequest::Keys { .. } => "Keys",
            VaultRequest::Snapshots { .. } => "Snapshots",
        })
    }
}

/// A snapshot's head as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHead<'a> {
    pub name: ChunkName,
    pub key: DataKeyId,
    pub sealed: &'a [u8],
}

/// A snapshot of a vault, and what the server knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHead<'a> {
    pub id: SnapshotId,
    pub sequence: u64,
    pub committed: Timestamp,
    /// Who stored it.
    pub client: String,
    /// What it brought, sealed.
    pub stored_bytes: u64,
    pub head: SealedHead<'a>,
}

/// From server to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultAnswer<'a> {
    /// The upload is open.
    Begun {
        data: HostFolder,
        /// The id that the snapshot will have.
        snapshot: SnapshotId,
        /// The newest snapshot of this client in this vault.
        newest: Option<(SnapshotId, SealedHead<'a>)>,
    },
    /// A bit for each name that was asked about, lowest first: it is lacking.
    Lacking {
        number: u32,
        bits: &'a [u8],
    },
    Object {
        name: ChunkName,
        key: DataKeyId,
        sealed: &'a [u8],
    },
    /// The object of this name cannot be given.
    Missing {
        name: ChunkName,
        text: String,
    },
    /// A wrapped key; nothing where there is none of this id.
    Key {
        id: DataKeyId,
        wrapped: &'a [u8],
    },
    Snapshot(StoredHead<'a>),
    Dropped(DroppedSnapshots),
}

/// A part of what the server has dropped of a vault on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DroppedSnapshots {
    /// Up to this id, itself included, more may have been dropped than is told.
    pub before: Option<SnapshotId>,
    /// Rising; [`VAULT_DROPPED_AT_ONCE`] at most.
    pub snapshots: Vec<SnapshotId>,
}

/// The longest body of a message about a vault; none for an unknown kind.
pub(super) fn body_bytes_max(kind: u8) -> Option<usize> {
    Some(match kind {
        VAULT_BEGIN => 16 + 32 + 32 + 16 + 16 + 12 + 1 + RSA_CIPHERTEXT_BYTES_MAX,
        VAULT_ASK => 4 + NAMES_BYTES_MAX,
        VAULT_LIST | VAULT_NEEDS => NAMES_BYTES_MAX,
        VAULT_CHUNK => ChunkName::BYTES + VAULT_SEALED_BYTES_MAX,
        VAULT_COMMIT => ChunkName::BYTES + VAULT_SEALED_HEAD_BYTES_MAX,
        VAULT_FETCH => 16 + 32 + VAULT_FETCH_MAX * ChunkName::BYTES,
        VAULT_KEYS => 16 + 32 + VAULT_FETCH_MAX * 16,
        VAULT_SNAPSHOTS => 16 + 32 + 2 + TEXT_BYTES_MAX,
        VAULT_BEGUN => {
            2 + BOOT_BYTES_MAX + 16 + SnapshotId::LENGTH + 1 + SnapshotId::LENGTH + SEALED_HEAD_BYTES_MAX
        }
        VAULT_LACKING => 4 + VAULT_NAMES_MAX / 8,
        VAULT_OBJECT => SEALED_HEAD_BYTES_MAX,
        VAULT_MISSING => ChunkName::BYTES + 2 + TEXT_BYTES_MAX,
        VAULT_KEY => 16 + RSA_CIPHERTEXT_BYTES_MAX,
        VAULT_SNAPSHOT => SnapshotId::LENGTH + 8 + 12 + 2 + NAME_BYTES_MAX + 8 + SEALED_HEAD_BYTES_MAX,
        VAULT_DROPPED => 1 + SnapshotId::LENGTH + VAULT_DROPPED_AT_ONCE * SnapshotId::LENGTH,
        _ => return None,
    })
}

impl<'a> VaultRequest<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            VaultRequest::Begin(_) => VAULT_BEGIN,
            VaultRequest::Ask { .. } => VAULT_ASK,
            VaultRequest::Chunk { .. } => VAULT_CHUNK,
            VaultRequest::List { .. } => VAULT_LIST,
            VaultRequest::Needs { .. } => VAULT_NEEDS,
            VaultRequest::Commit { .. } => VAULT_COMMIT,
            VaultRequest::Fetch { .. } => VAULT_FETCH,
            VaultRequest::Keys { .. } => VAULT_KEYS,
            VaultRequest::Snapshots { .. } => VAULT_SNAPSHOTS,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            VaultRequest::Begin(begin) => begin.encode(out),
            VaultRequest::Ask { number, names } => {
                out.put_u32(*number);
                out.put_bytes(names.0);
            }
            VaultRequest::Chunk { name, sealed } | VaultRequest::Commit { name, sealed } => {
                out.put_bytes(name.as_bytes());
                out.put_bytes(sealed);
            }
            VaultRequest::List { names } => out.put_bytes(names.0),
            VaultRequest::Needs { lists } => out.put_bytes(lists.0),
            VaultRequest::Fetch { vault, read_token, names } => {
                put_access(out, *vault, read_token);
                out.put_bytes(names.0);
            }
            VaultRequest::Keys { vault, read_token, keys } => {
                put_access(out, *vault, read_token);
                keys.iter().for_each(|key| out.put_bytes(key.as_bytes()));
            }
            VaultRequest::Snapshots { vault, read_token, selector } => {
                put_access(out, *vault, read_token);
                put_text(out, selector);
            }
        }
    }

    pub(super) fn decode(kind: u8, reader: &mut Reader<'a>) -> Result<VaultRequest<'a>, DecodeError> {
        Ok(match kind {
            VAULT_BEGIN => VaultRequest::Begin(VaultBegin::decode(reader)?),
            VAULT_ASK => VaultRequest::Ask {
                number: reader.u32("number of a question")?,
                names: Names::decode(reader, VAULT_NAMES_MAX)?,
            },
            VAULT_CHUNK => VaultRequest::Chunk { name: read_name(reader)?, sealed: reader.rest() },
            VAULT_LIST => VaultRequest::List { names: Names::decode(reader, VAULT_NAMES_MAX)? },
            VAULT_NEEDS => VaultRequest::Needs { lists: Names::decode(reader, VAULT_NAMES_MAX)? },
            VAULT_COMMIT => VaultRequest::Commit { name: read_name(reader)?, sealed: reader.rest() },
            VAULT_FETCH => {
                let (vault, read_token) = read_access(reader)?;
                VaultRequest::Fetch { vault, read_token, names: Names::decode(reader, VAULT_FETCH_MAX)? }
            }
            VAULT_KEYS => {
                let (vault, read_token) = read_access(reader)?;
                VaultRequest::Keys { vault, read_token, keys: read_key_ids(reader)? }
            }
            VAULT_SNAPSHOTS => {
                let (vault, read_token) = read_access(reader)?;
                let selector = reader.text16(TEXT_BYTES_MAX, "snapshot selector")?;
                VaultRequest::Snapshots { vault, read_token, selector }
            }
            _ => return Err(DecodeError::Invalid { what: "message kind" }),
        })
    }
}

impl<'a> VaultBegin<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.vault.as_bytes());
        out.put_bytes(&self.write_token);
        out.put_bytes(&self.read_verifier);
        out.put_bytes(self.upload.as_bytes());
        out.put_bytes(self.set.as_bytes());
        self.started.encode(out);
        out.put_u8(self.flags);
        out.put_bytes(self.wrapped_key);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<VaultBegin<'a>, DecodeError> {
        Ok(VaultBegin {
            vault: VaultId::from_bytes(reader.array("vault id")?),
            write_token: reader.array("write token")?,
            read_verifier: reader.array("read verifier")?,
            upload: UploadId::from_bytes(reader.array("upload id")?),
            set: RootSetId::from_bytes(reader.array("root set id")?),
            started: Timestamp::decode(reader)?,
            flags: match reader.u8("vault flags")? {
                flags if flags & !vault_flag::DRY_RUN == 0 => flags,
                _ => return Err(DecodeError::Invalid { what: "vault flags" }),
            },
            wrapped_key: match reader.rest() {
                [] => return Err(DecodeError::Short { what: "wrapped key" }),
                wrapped => wrapped,
            },
        })
    }
}

impl<'a> SealedHead<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.name.as_bytes());
        out.put_bytes(self.key.as_bytes());
        out.put_bytes(self.sealed);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<SealedHead<'a>, DecodeError> {
        let (name, key) = (read_name(reader)?, read_key_id(reader)?);
        Ok(SealedHead { name, key, sealed: reader.rest() })
    }
}

impl<'a> StoredHead<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.id.as_bytes());
        out.put_u64(self.sequence);
        self.committed.encode(out);
        put_cut_text(out, &self.client, NAME_BYTES_MAX);
        out.put_u64(self.stored_bytes);
        self.head.encode(out);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<StoredHead<'a>, DecodeError> {
        Ok(StoredHead {
            id: read_snapshot(reader)?,
            sequence: reader.u64("sequence")?,
            committed: Timestamp::decode(reader)?,
            client: reader.text16(NAME_BYTES_MAX, "client name")?,
            stored_bytes: reader.u64("stored bytes")?,
            head: SealedHead::decode(reader)?,
        })
    }
}

impl<'a> VaultAnswer<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            VaultAnswer::Begun { .. } => VAULT_BEGUN,
            VaultAnswer::Lacking { .. } => VAULT_LACKING,
            VaultAnswer::Object { .. } => VAULT_OBJECT,
            VaultAnswer::Missing { .. } => VAULT_MISSING,
            VaultAnswer::Key { .. } => VAULT_KEY,
            VaultAnswer::Snapshot(_) => VAULT_SNAPSHOT,
            VaultAnswer::Dropped(_) => VAULT_DROPPED,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            VaultAnswer::Begun { data, snapshot, newest } => {
                data.encode(out);
                out.put_bytes(snapshot.as_bytes());
                out.put_flag(newest.is_some());
                if let Some((id, head)) = newest {
                    out.put_bytes(id.as_bytes());
                    head.encode(out);
                }
            }
            VaultAnswer::Lacking { number, bits } => {
                out.put_u32(*number);
                out.put_bytes(bits);
            }
            VaultAnswer::Object { name, key, sealed } => {
                SealedHead { name: *name, key: *key, sealed }.encode(out);
            }
            VaultAnswer::Missing { name, text } => {
                out.put_bytes(name.as_bytes());
                put_text(out, text);
            }
            VaultAnswer::Key { id, wrapped } => {
                out.put_bytes(id.as_bytes());
                out.put_bytes(wrapped);
            }
            VaultAnswer::Snapshot(stored) => stored.encode(out),
            VaultAnswer::Dropped(dropped) => {
                put_snapshot_option(out, dropped.before);
                dropped.snapshots.iter().for_each(|id| out.put_bytes(id.as_bytes()));
            }
        }
    }

    pub(super) fn decode(kind: u8, reader: &mut Reader<'a>) -> Result<VaultAnswer<'a>, DecodeError> {
        Ok(match kind {
            VAULT_BEGUN => VaultAnswer::Begun {
                data: HostFolder::decode(reader)?,
                snapshot: read_snapshot(reader)?,
                newest: match reader.flag("newest snapshot")? {
                    true => Some((read_snapshot(reader)?, SealedHead::decode(reader)?)),
                    false => None,
                },
            },
            VAULT_LACKING => {
                VaultAnswer::Lacking { number: reader.u32("number of a question")?, bits: reader.rest() }
            }
            VAULT_OBJECT => {
                let SealedHead { name, key, sealed } = SealedHead::decode(reader)?;
                VaultAnswer::Object { name, key, sealed }
            }
            VAULT_MISSING => VaultAnswer::Missing {
                name: read_name(reader)?,
                text: reader.text16(TEXT_BYTES_MAX, "failure text")?,
            },
            VAULT_KEY => VaultAnswer::Key { id: read_key_id(reader)?, wrapped: reader.rest() },
            VAULT_SNAPSHOT => VaultAnswer::Snapshot(StoredHead::decode(reader)?),
            VAULT_DROPPED => VaultAnswer::Dropped(DroppedSnapshots {
                before: read_snapshot_option(reader)?,
                snapshots: read_snapshots(reader)?,
            }),
            _ => return Err(DecodeError::Invalid { what: "message kind" }),
        })
    }
}

fn put_access(out: &mut Vec<u8>, vault: VaultId, read_token: &[u8; 32]) {
    out.put_bytes(vault.as_bytes());
    out.put_bytes(read_token);
}

fn read_access(reader: &mut Reader<'_>) -> Result<(VaultId, [u8; 32]), DecodeError> {
    Ok((VaultId::from_bytes(reader.array("vault id")?), reader.array("read token")?))
}

fn read_name(reader: &mut Reader<'_>) -> Result<ChunkName, DecodeError> {
    Ok(ChunkName::from_bytes(reader.array("chunk name")?))
}

fn read_key_id(reader: &mut Reader<'_>) -> Result<DataKeyId, DecodeError> {
    Ok(DataKeyId::from_bytes(reader.array("data key id")?))
}

/// To the end of the message: one at least, [`VAULT_FETCH_MAX`] at most.
fn read_key_ids(reader: &mut Reader<'_>) -> Result<Vec<DataKeyId>, DecodeError> {
    let mut keys = Vec::with_capacity((reader.remaining() / 16).min(VAULT_FETCH_MAX));
    while !reader.is_empty() && keys.len() < VAULT_FETCH_MAX {
        keys.push(read_key_id(reader)?);
    }
    match keys.is_empty() {
        true => Err(DecodeError::Short { what: "data key ids" }),
        false => Ok(keys),
    }
}

/// To the end of the message, [`VAULT_DROPPED_AT_ONCE`] at most.
fn read_snapshots(reader: &mut Reader<'_>) -> Result<Vec<SnapshotId>, DecodeError> {
    let count = reader.remaining() / SnapshotId::LENGTH;
    (0..count.min(VAULT_DROPPED_AT_ONCE)).map(|_| read_snapshot(reader)).collect()
}
