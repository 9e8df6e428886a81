//! The rows of a vault's index, to the byte. Each row about an object carries a CRC32 of its name and itself: the
//! database does not look at its pages' sums when it reads, and a wrong count of references must not let anything go
//! that is needed.

use redb::TableDefinition;

use super::record::Kind;
use crate::base::ids::{ClientId, SnapshotId};
use crate::base::vault::ChunkName;
use crate::crypto::crc32;

pub const NAME_BYTES: usize = ChunkName::BYTES;
pub const OBJECT_BYTES: usize = 4 + 4 + 4 + 4 + 1 + 1 + 4 + 8 + 4;
pub const PACK_BYTES: usize = 8 + 8 + 4;
/// Since when, most significant byte first, and the name.
pub const UNREFERENCED_BYTES: usize = 8 + NAME_BYTES;
/// Client and upload.
pub const UPLOAD_KEY_BYTES: usize = 16 + 16;
pub const UPLOAD_BYTES: usize = 8 + 8 + 8;
/// Client and name of the snapshot's object.
pub const SNAPSHOT_BYTES: usize = 16 + NAME_BYTES;
/// Number and count before the wrapped key.
const KEY_FIXED_BYTES: usize = 4 + 4;

pub type Name = &'static [u8; NAME_BYTES];

pub const OBJECTS: TableDefinition<'static, Name, &'static [u8; OBJECT_BYTES]> = TableDefinition::new("objects");
pub const KEYS: TableDefinition<'static, &'static [u8; 16], &'static [u8]> = TableDefinition::new("keys");
pub const KEY_NUMBERS: TableDefinition<'static, u32, &'static [u8; 16]> = TableDefinition::new("key numbers");
pub const PACKS: TableDefinition<'static, u32, &'static [u8; PACK_BYTES]> = TableDefinition::new("packs");
pub const SNAPSHOTS: TableDefinition<'static, &'static [u8; SnapshotId::LENGTH], &'static [u8; SNAPSHOT_BYTES]> =
    TableDefinition::new("snapshots");
pub const UNREFERENCED: TableDefinition<'static, &'static [u8; UNREFERENCED_BYTES], ()> =
    TableDefinition::new("unreferenced");
pub const DAMAGED: TableDefinition<'static, Name, ()> = TableDefinition::new("damaged");
pub const UPLOADS: TableDefinition<'static, &'static [u8; UPLOAD_KEY_BYTES], &'static [u8; UPLOAD_BYTES]> =
    TableDefinition::new("uploads");
/// [`TURN`], [`NEXT_KEY`] and [`FORMAT`].
pub const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// Counts the uploads that began; orders them and what lost its last reference.
pub const TURN: &str = "turn";
pub const NEXT_KEY: &str = "next key";
pub const FORMAT: &str = "format";
pub const FORMAT_VERSION: u64 = 1;

/// Where a record lies. Pack 0 is none: the object is lost, and what refers to it is still counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    pub pack: u32,
    pub offset: u32,
    /// Of the payload.
    pub length: u32,
}

/// What is known of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRow {
    pub place: Place,
    /// The number of the key that it is sealed under; 0 for a list.
    pub key: u32,
    pub kind: Kind,
    pub is_damaged: bool,
    /// Lists that have the chunk, or snapshots that need the list.
    pub refs: u32,
    /// The turn in which it was without references last, or asked about.
    pub since: u64,
}

impl ObjectRow {
    pub fn record_bytes(&self) -> u64 {
        self.kind.record_bytes(self.place.length as usize)
    }

    pub fn is_lost(&self) -> bool {
        self.place.pack == 0
    }

    /// Whether it can be given out, as far as is known.
    pub fn is_whole(&self) -> bool {
        !self.is_damaged && !self.is_lost()
    }

    pub fn encode(&self, name: &[u8; NAME_BYTES]) -> [u8; OBJECT_BYTES] {
        let mut bytes = [0; OBJECT_BYTES];
        for (place, value) in [self.place.pack, self.place.offset, self.place.length, self.key].iter().enumerate() {
            bytes[4 * place..4 * place + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[16] = self.kind as u8;
        bytes[17] = u8::from(self.is_damaged);
        bytes[18..22].copy_from_slice(&self.refs.to_le_bytes());
        bytes[22..30].copy_from_slice(&self.since.to_le_bytes());
        let crc = row_crc(name, &bytes);
        bytes[30..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// None for a row that was changed.
    pub fn decode(name: &[u8; NAME_BYTES], bytes: &[u8; OBJECT_BYTES]) -> Option<ObjectRow> {
        if row_crc(name, bytes).to_le_bytes() != bytes[30..] {
            return None;
        }
        let number = |place: usize| u32_at(bytes, place);
        Some(ObjectRow {
            place: Place { pack: number(0), offset: number(4), length: number(8) },
            key: number(12),
            kind: Kind::of(bytes[16])?,
            is_damaged: bytes[17] != 0,
            refs: number(18),
            since: u64_at(bytes, 22),
        })
    }
}

fn row_crc(name: &[u8; NAME_BYTES], bytes: &[u8; OBJECT_BYTES]) -> u32 {
    let mut covered = [0; NAME_BYTES + OBJECT_BYTES - 4];
    covered[..NAME_BYTES].copy_from_slice(name);
    covered[NAME_BYTES..].copy_from_slice(&bytes[..OBJECT_BYTES - 4]);
    crc32(&covered)
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes of a longer array"))
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(bytes[place..place + 8].try_into().expect("eight bytes of a longer array"))
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackRow {
    /// So much of it is flushed, and its objects are in the index.
    pub indexed_bytes: u64,
    /// Of the records that the index leads to, and of keys.
    pub live_bytes: u64,
    /// Objects that the index leads to.
    pub objects: u32,
}

impl PackRow {
    pub fn encode(&self) -> [u8; PACK_BYTES] {
        let mut bytes = [0; PACK_BYTES];
        bytes[..8].copy_from_slice(&self.indexed_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.live_bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.objects.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; PACK_BYTES]) -> PackRow {
        PackRow { indexed_bytes: u64_at(bytes, 0), live_bytes: u64_at(bytes, 8), objects: u32_at(bytes, 16) }
    }
}

/// A wrapped data key, and how many objects are sealed under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub number: u32,
    pub objects: u32,
    pub wrapped: Vec<u8>,
}

impl KeyRow {
    pub fn encode(&self) -> Vec<u8> {
        [&self.number.to_le_bytes(), &self.objects.to_le_bytes(), &self.wrapped[..]].concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<KeyRow> {
        let wrapped = bytes.get(KEY_FIXED_BYTES..)?.to_vec();
        Some(KeyRow { number: u32_at(bytes, 0), objects: u32_at(bytes, 4), wrapped })
    }
}

/// An upload that is open or was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadRow {
    /// What lost its last reference in this turn or later stays for it.
    pub turn: u64,
    /// When it was heard of last, in Unix time.
    pub touched: u64,
    /// What it has stored so far, in all its sessions.
    pub stored_bytes: u64,
}

impl UploadRow {
    pub fn encode(&self) -> [u8; UPLOAD_BYTES] {
        let mut bytes = [0; UPLOAD_BYTES];
        for (place, value) in [self.turn, self.touched, self.stored_bytes].iter().enumerate() {
            bytes[8 * place..8 * place + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8; UPLOAD_BYTES]) -> UploadRow {
        UploadRow { turn: u64_at(bytes, 0), touched: u64_at(bytes, 8), stored_bytes: u64_at(bytes, 16) }
    }
}

/// The name of an object without references, in the order in which they lost them.
pub fn unreferenced_key(since: u64, name: &[u8; NAME_BYTES]) -> [u8; UNREFERENCED_BYTES] {
    let mut key = [0; UNREFERENCED_BYTES];
    key[..8].copy_from_slice(&since.to_be_bytes());
    key[8..].copy_from_slice(name);
    key
}

/// Turn and name of such a key.
pub fn of_unreferenced(key: &[u8; UNREFERENCED_BYTES]) -> (u64, [u8; NAME_BYTES]) {
    let since = u64::from_be_bytes(key[..8].try_into().expect("eight bytes of a longer array"));
    (since, key[8..].try_into().expect("the rest of it"))
}

/// The row of a snapshot: who stored it, and what its object is called.
pub fn snapshot_row(client: ClientId, object: ChunkName) -> [u8; SNAPSHOT_BYTES] {
    let mut bytes = [0; SNAPSHOT_BYTES];
    bytes[..16].copy_from_slice(client.as_bytes());
    bytes[16..].copy_from_slice(object.as_bytes());
    bytes
}

pub fn of_snapshot_row(bytes: &[u8; SNAPSHOT_BYTES]) -> (ClientId, ChunkName) {
    let client = bytes[..16].try_into().expect("sixteen bytes of a longer array");
    let object = bytes[16..].try_into().expect("the rest of it");
    (ClientId::from_bytes(client), ChunkName::from_bytes(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_a_changed_byte_of_an_object_is_found() {
        let row = ObjectRow {
            place: Place { pack: 1, offset: 2, length: 3 },
            key: 4,
            kind: Kind::List,
            is_damaged: true,
            refs: 5,
            since: 6,
        };
        let name = [7; 32];
        let mut bytes = row.encode(&name);
        assert_eq!(ObjectRow::decode(&name, &bytes), Some(row));
        assert_eq!(ObjectRow::decode(&[8; 32], &bytes), None);
        for place in 0..bytes.len() {
            bytes[place] ^= 0x10;
            assert_eq!(ObjectRow::decode(&name, &bytes), None, "byte {place}");
            bytes[place] ^= 0x10;
        }
        let pack = PackRow { indexed_bytes: 1, live_bytes: 2, objects: 3 };
        assert_eq!(PackRow::decode(&pack.encode()), pack);
        let key = KeyRow { number: 1, objects: 2, wrapped: vec![3; 384] };
        assert_eq!(KeyRow::decode(&key.encode()), Some(key));
        assert_eq!(of_unreferenced(&unreferenced_key(9, &name)), (9, name));
    }
}
