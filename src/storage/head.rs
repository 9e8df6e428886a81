//! The head of a snapshot: when, of what, how much. Its appearing under its name is the commit; a snapshot
//! without a head does not exist.
//!
//! JSON that a person can read. Its last line is a checksum over the bytes before that line, so that
//! damage is found although unknown fields are welcome.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::range::HASH_BYTES;
use super::sealed_json::{encode_sealed, is_sealed};
use crate::base::ids::{ClientId, SnapshotId, UploadId, UserName, hex, unhex};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::base::vault::{ChunkName, RootSetId, VaultId};

pub const HEAD_VERSION: u64 = 1;
/// Most bytes of a head: its roots have 1 MiB at most, which JSON can make six times as long.
pub const HEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is known of a snapshot without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Rises by one with every commit of the client; orders its snapshots whatever the clock did.
    pub sequence: u64,
    pub id: SnapshotId,
    pub client: ClientId,
    pub upload: UploadId,
    /// The snapshot that this one was compared with.
    pub parent: Option<SnapshotId>,
    /// When the upload began, by the client's clock.
    pub started: Timestamp,
    /// When it was committed, by the server's clock.
    pub committed: Timestamp,
    /// Sorted, none within another.
    pub roots: Vec<EntryPath>,
    pub label: String,
    pub host: String,
    pub tags: Vec<String>,
    /// Nobody proved to be the client: it came in the legacy dialect.
    pub unauthenticated: bool,
    pub totals: SnapshotTotals,
    /// The hash at the end of the index.
    pub index_blake3: [u8; HASH_BYTES],
    /// Where what the snapshot holds lies sealed: nothing else is known of it, and its index names no ranges.
    pub vault: Option<InVault>,
}

/// Where a vault's snapshot lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InVault {
    pub vault: VaultId,
    /// The name of its record in the vault's index.
    pub object: ChunkName,
    /// What stands for its roots.
    pub set: RootSetId,
}

/// The same as JSON has it.
#[derive(Serialize, Deserialize)]
struct InVaultFile {
    id: VaultId,
    object: String,
    set: RootSetId,
}

/// How much a snapshot holds, and how much of it was new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTotals {
    pub entries: u64,
    /// Files, further names of one file included.
    pub files: u64,
    /// Bytes of content of all of them.
    pub bytes: u64,
    /// Bytes of content that this snapshot brought.
    pub new_bytes: u64,
    /// Bytes that this snapshot added to the disk: contents, ranges and index.
    pub stored_bytes: u64,
    /// Files without content and folders and roots without entries, because the client could not read them.
    pub unreadable: u64,
}

/// The head as JSON has it.
#[derive(Serialize, Deserialize)]
struct HeadFile {
    version: u64,
    sequence: u64,
    id: SnapshotId,
    client: ClientId,
    upload: UploadId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<SnapshotId>,
    started: Moment,
    committed: Moment,
    roots: Vec<RootFile>,
    #[serde(default)]
    label: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unauthenticated: bool,
    totals: SnapshotTotals,
    /// Not in the copy that the index has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    index_blake3: String,
    /// In that copy only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_name: Option<UserName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vault: Option<InVaultFile>,
}

/// A time twice: for people, and exactly. Only the exact one is read.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    #[serde(default)]
    utc: String,
    seconds: i64,
    nanoseconds: u32,
}

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Moment {
        Moment { utc: time.to_string(), seconds: time.seconds, nanoseconds: time.nanoseconds }
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Timestamp {
        Timestamp { seconds: moment.seconds, nanoseconds: moment.nanoseconds.min(999_999_999) }
    }
}

/// A path as text, or in base64 where it is none.
#[derive(Serialize, Deserialize)]
pub enum RootFile {
    #[serde(rename = "path")]
    Path(String),
    #[serde(rename = "path_base64")]
    PathBase64(String),
}

impl From<&EntryPath> for RootFile {
    fn from(path: &EntryPath) -> RootFile {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => RootFile::Path(text.to_string()),
            Err(_) => RootFile::PathBase64(STANDARD.encode(path.as_bytes())),
        }
    }
}

impl RootFile {
    pub fn parse(&self) -> Result<EntryPath, HeadError> {
        let bytes = match self {
            RootFile::Path(text) => text.as_bytes().to_vec(),
            RootFile::PathBase64(text) => STANDARD.decode(text).map_err(|error| invalid(error.to_string()))?,
        };
        EntryPath::parse(&bytes).map_err(|error| invalid(error.to_string()))
    }
}

/// Why bytes are no head.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadError {
    Checksum,
    Newer { version: u64 },
    Invalid { problem: String },
}

fn invalid(problem: String) -> HeadError {
    HeadError::Invalid { problem }
}

impl Head {
    /// The bytes of the head file.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = self.to_file();
        file.index_blake3 = hex(&self.index_blake3);
        encode_sealed(&file)
    }

    /// What the index keeps of the head: all but what depends on the index itself, and what the client is called.
    pub fn encode_copy(&self, client_name: &UserName) -> Vec<u8> {
        let mut file = self.to_file();
        file.totals.stored_bytes = 0;
        file.client_name = Some(client_name.clone());
        serde_json::to_vec(&file).expect("strings and numbers always serialise")
    }

    fn to_file(&self) -> HeadFile {
        HeadFile {
            version: HEAD_VERSION,
            sequence: self.sequence,
            id: self.id,
            client: self.client,
            upload: self.upload,
            parent: self.parent,
            started: self.started.into(),
            committed: self.committed.into(),
            roots: self.roots.iter().map(RootFile::from).collect(),
            label: self.label.clone(),
            host: self.host.clone(),
            tags: self.tags.clone(),
            unauthenticated: self.unauthenticated,
            totals: self.totals,
            index_blake3: String::new(),
            client_name: None,
            vault: self.vault.map(InVaultFile::from),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Head, HeadError> {
        if !is_sealed(bytes) {
            return Err(HeadError::Checksum);
        }
        let file: HeadFile = read_versioned(bytes)?;
        let index_blake3 = unhex(&file.index_blake3).ok_or_else(|| invalid("index_blake3 is no hash".into()))?;
        Head::of_file(file, index_blake3)
    }

    /// The head that an index has a copy of, with the hash of that index and what the snapshot takes in all; and what
    /// its client was called.
    pub fn decode_copy(
        json: &[u8],
        index_blake3: [u8; HASH_BYTES],
        stored_bytes: u64,
    ) -> Result<(Head, Option<UserName>), HeadError> {
        let mut file: HeadFile = read_versioned(json)?;
        file.totals.stored_bytes = stored_bytes;
        let client_name = file.client_name.take();
        Ok((Head::of_file(file, index_blake3)?, client_name))
    }

    fn of_file(file: HeadFile, index_blake3: [u8; HASH_BYTES]) -> Result<Head, HeadError> {
        Ok(Head {
            sequence: file.sequence,
            id: file.id,
            client: file.client,
            upload: file.upload,
            parent: file.parent,
            started: file.started.into(),
            committed: file.committed.into(),
            roots: file.roots.iter().map(RootFile::parse).collect::<Result<_, _>>()?,
            label: file.label,
            host: file.host,
            tags: file.tags,
            unauthenticated: file.unauthenticated,
            totals: file.totals,
            index_blake3,
            vault: file.vault.map(InVaultFile::parse).transpose()?,
        })
    }
}

impl From<InVault> for InVaultFile {
    fn from(place: InVault) -> InVaultFile {
        InVaultFile { id: place.vault, object: place.object.to_string(), set: place.set }
    }
}

impl InVaultFile {
    fn parse(self) -> Result<InVault, HeadError> {
        let object = unhex(&self.object).ok_or_else(|| invalid("the object in the vault is no name".into()))?;
        Ok(InVault { vault: self.id, object: ChunkName::from_bytes(object), set: self.set })
    }
}

/// The version first: a newer file need not have the fields that this program expects.
fn read_versioned(bytes: &[u8]) -> Result<HeadFile, HeadError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if version > HEAD_VERSION {
        return Err(HeadError::Newer { version });
    }
    serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::sealed_json::{SEAL_BYTES, seal};
    use super::*;
    use proptest::prelude::*;

    fn head(root: &[u8], label: &str) -> Head {
        Head {
            sequence: 7,
            id: "20260101T000000Z-01234567".parse().unwrap(),
            client: ClientId::from_bytes([1; 16]),
            upload: UploadId::from_bytes([2; 16]),
            parent: None,
            started: Timestamp { seconds: -1, nanoseconds: 5 },
            committed: Timestamp { seconds: 1_700_000_000, nanoseconds: 999_999_999 },
            roots: vec![EntryPath::parse(root).unwrap()],
            label: label.to_string(),
            host: "h".to_string(),
            tags: vec!["t".to_string()],
            unauthenticated: label.len() % 2 == 1,
            totals: SnapshotTotals { entries: 1, bytes: u64::MAX, ..SnapshotTotals::default() },
            index_blake3: [3; 32],
            vault: (label.len() % 3 == 1).then(|| InVault {
                vault: VaultId::from_bytes([4; 16]),
                object: ChunkName::from_bytes([5; 32]),
                set: RootSetId::from_bytes([6; 16]),
            }),
        }
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_was(root in crate::base::entry::strategies::path(), label in any::<String>()) {
            let head = head(root.as_bytes(), &label);
            prop_assert_eq!(Head::decode(&head.encode()).unwrap(), head.clone());
            let name: UserName = "ada".parse().unwrap();
            let copy = Head::decode_copy(&head.encode_copy(&name), [3; 32], head.totals.stored_bytes).unwrap();
            prop_assert_eq!(copy, (head, Some(name)));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::decode(&bytes);
            let _ = Head::decode(&seal(format!("{text}\n}}")));
        }
    }

    #[test]
    fn every_flipped_byte_of_a_head_is_found() {
        let mut bytes = head(b"home/a", "daily").encode();
        for position in 0..bytes.len() {
            bytes[position] ^= 1;
            assert_eq!(Head::decode(&bytes), Err(HeadError::Checksum));
            bytes[position] ^= 1;
        }
    }

    #[test]
    fn a_root_that_is_no_text_survives() {
        let head = head(b"home/\xff", "");
        assert!(String::from_utf8(head.encode()).unwrap().contains("\"path_base64\": \"aG9tZS//\""));
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
    }

    #[test]
    fn unknown_fields_are_welcome_and_a_newer_version_is_named() {
        let text = String::from_utf8(head(b"a", "").encode()).unwrap();
        let body = &text[..text.len() - SEAL_BYTES];
        let grown = seal(format!("{body},\n  \"later\": 1\n}}"));
        assert_eq!(Head::decode(&grown).unwrap(), head(b"a", ""));
        let newer = seal(format!("{}\n}}", body.replace("\"version\": 1", "\"version\": 2")));
        assert_eq!(Head::decode(&newer), Err(HeadError::Newer { version: 2 }));
    }
}
