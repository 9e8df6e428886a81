//! The rows of a vault's index, to the byte. Each row about an object carries a CRC32 of its name and itself: the
//! database does not look at its pages' sums when it reads, and a wrong count of references must not let anything go
//! that is needed.

use std::borrow::Cow;

use super::record::Kind;
use super::tables::{Definition, Stored};
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
/// Number and count before the wrapped key.
const KEY_FIXED_BYTES: usize = 4 + 4;

pub type Name = [u8; NAME_BYTES];
pub type UploadKey = [u8; UPLOAD_KEY_BYTES];

pub const OBJECTS: Definition<Name, [u8; OBJECT_BYTES]> = Definition::new("objects");
pub const KEYS: Definition<[u8; 16], KeyRow> = Definition::new("keys");
pub const KEY_NUMBERS: Definition<u32, [u8; 16]> = Definition::new("key numbers");
pub const PACKS: Definition<u32, PackRow> = Definition::new("packs");
pub const SNAPSHOTS: Definition<SnapshotId, SnapshotRow> = Definition::new("snapshots");
pub const UNREFERENCED: Definition<[u8; UNREFERENCED_BYTES], ()> = Definition::new("unreferenced");
pub const DAMAGED: Definition<Name, ()> = Definition::new("damaged");
pub const UPLOADS: Definition<UploadKey, UploadRow> = Definition::new("uploads");
/// [`FORMAT`], [`TURN`] and [`NEXT_KEY`].
pub const META: Definition<u32, u64> = Definition::new("meta");

pub const FORMAT: u32 = 1;
/// Counts the uploads that began; orders them and what lost its last reference.
pub const TURN: u32 = 2;
pub const NEXT_KEY: u32 = 3;
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
    /// Of the records that the index leads to: those of keys are not among them.
    pub live_bytes: u64,
    /// Objects that the index leads to.
    pub objects: u32,
}

impl Stored for PackRow {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(PACK_BYTES);
        bytes.extend_from_slice(&self.indexed_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.live_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.objects.to_le_bytes());
        bytes.into()
    }

    fn of_bytes(bytes: &[u8]) -> Option<PackRow> {
        let bytes: &[u8; PACK_BYTES] = bytes.try_into().ok()?;
        Some(PackRow { indexed_bytes: u64_at(bytes, 0), live_bytes: u64_at(bytes, 8), objects: u32_at(bytes, 16) })
    }
}

/// A wrapped data key, and how many objects are sealed under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub number: u32,
    pub objects: u32,
    pub wrapped: Vec<u8>,
}

impl Stored for KeyRow {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        [&self.number.to_le_bytes(), &self.objects.to_le_bytes(), &self.wrapped[..]].concat().into()
    }

    fn of_bytes(bytes: &[u8]) -> Option<KeyRow> {
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

impl Stored for UploadRow {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        [self.turn, self.touched, self.stored_bytes].map(u64::to_le_bytes).concat().into()
    }

    fn of_bytes(bytes: &[u8]) -> Option<UploadRow> {
        let bytes: &[u8; UPLOAD_BYTES] = bytes.try_into().ok()?;
        Some(UploadRow { turn: u64_at(bytes, 0), touched: u64_at(bytes, 8), stored_bytes: u64_at(bytes, 16) })
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

impl Stored for SnapshotId {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        self.as_bytes()[..].into()
    }

    fn of_bytes(bytes: &[u8]) -> Option<SnapshotId> {
        SnapshotId::from_bytes(bytes)
    }
}

/// What is known of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Who stored it.
    pub client: ClientId,
    /// What its record is called.
    pub object: ChunkName,
}

impl Stored for SnapshotRow {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        [&self.client.as_bytes()[..], self.object.as_bytes()].concat().into()
    }

    fn of_bytes(bytes: &[u8]) -> Option<SnapshotRow> {
        let (client, object) = bytes.split_first_chunk::<16>()?;
        let object = ChunkName::from_bytes(object.try_into().ok()?);
        Some(SnapshotRow { client: ClientId::from_bytes(*client), object })
    }
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
        assert_eq!(PackRow::of_bytes(&pack.to_bytes()), Some(pack));
        let upload = UploadRow { turn: 1, touched: 2, stored_bytes: 3 };
        assert_eq!(UploadRow::of_bytes(&upload.to_bytes()), Some(upload));
        let snapshot = SnapshotRow { client: ClientId::from_bytes([1; 16]), object: ChunkName::from_bytes(name) };
        assert_eq!(SnapshotRow::of_bytes(&snapshot.to_bytes()), Some(snapshot));
        assert_eq!(SnapshotRow::of_bytes(&snapshot.to_bytes()[1..]), None);
        let key = KeyRow { number: 1, objects: 2, wrapped: vec![3; 384] };
        assert_eq!(KeyRow::of_bytes(&key.to_bytes()).as_ref(), Some(&key));
        assert_eq!(of_unreferenced(&unreferenced_key(9, &name)), (9, name));
    }
}
