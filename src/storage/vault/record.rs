//! The records that packs are made of. Each says by itself what it is, so that a lost index can be put together from
//! packs alone, and carries the CRC32 of all of itself, so that nothing damaged is ever given out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::base::codec::Writer;
use crate::base::ids::SnapshotId;
use crate::base::limits::{
    VAULT_LISTS_MAX, VAULT_NAMES_MAX, VAULT_SEALED_BYTES_MAX, VAULT_SEALED_HEAD_BYTES_MAX, VAULT_WRAPPED_BYTES_MAX,
};
use crate::base::vault::{ChunkName, DataKeyId, VaultId};
use crate::crypto::{blake3_hash, crc32, list_id};

const MAGIC: &[u8; 8] = b"\xcbcbkPACK";
pub const PACK_VERSION: u32 = 1;
/// Magic, version, vault, number, CRC32.
pub const PACK_HEADER_BYTES: usize = 8 + 4 + 16 + 4 + 4;
/// Kind, payload length, name.
const RECORD_HEADER_BYTES: usize = 1 + 4 + 32;
const KEY_ID_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// Snapshot id, upload id and number of lists, before the lists of a snapshot.
const SNAPSHOT_FIXED_BYTES: usize = SnapshotId::LENGTH + 16 + 4;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A wrapped data key.
    Key = 1,
    /// A sealed chunk.
    Chunk = 2,
    /// Names of chunks.
    List = 3,
    /// What a snapshot needs, and its sealed head.
    Snapshot = 4,
}

impl Kind {
    pub fn of(byte: u8) -> Option<Kind> {
        [Kind::Key, Kind::Chunk, Kind::List, Kind::Snapshot].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the record says under which key its payload is sealed.
    fn has_key(self) -> bool {
        matches!(self, Kind::Chunk | Kind::Snapshot)
    }

    fn payload_bytes_max(self) -> usize {
        match self {
            Kind::Key => VAULT_WRAPPED_BYTES_MAX,
            Kind::Chunk => VAULT_SEALED_BYTES_MAX,
            Kind::List => VAULT_NAMES_MAX * ChunkName::BYTES,
            Kind::Snapshot => {
                SNAPSHOT_FIXED_BYTES + VAULT_LISTS_MAX * ChunkName::BYTES + VAULT_SEALED_HEAD_BYTES_MAX
            }
        }
    }

    fn header_bytes(self) -> usize {
        RECORD_HEADER_BYTES + if self.has_key() { KEY_ID_BYTES } else { 0 }
    }

    /// Bytes of a record with so long a payload.
    pub fn record_bytes(self, payload: usize) -> u64 {
        (self.header_bytes() + payload + CRC_BYTES) as u64
    }
}

/// What a pack begins with.
pub fn encode_pack_header(vault: VaultId, number: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACK_HEADER_BYTES);
    bytes.put_bytes(MAGIC);
    bytes.put_u32(PACK_VERSION);
    bytes.put_bytes(vault.as_bytes());
    bytes.put_u32(number);
    let crc = crc32(&bytes);
    bytes.put_u32(crc);
    bytes
}

/// A record before it is written.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    pub kind: Kind,
    pub name: ChunkName,
    /// Of chunks and snapshots.
    pub key: Option<DataKeyId>,
    /// Its parts, one behind the other.
    pub payload: &'a [&'a [u8]],
}

impl NewRecord<'_> {
    pub fn payload_bytes(&self) -> usize {
        self.payload.iter().map(|part| part.len()).sum()
    }

    /// Whether what is to be stored is within the limits of its kind.
    pub fn fits(&self) -> bool {
        (1..=self.kind.payload_bytes_max()).contains(&self.payload_bytes())
            && self.key.is_some() == self.kind.has_key()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.put_u8(self.kind as u8);
        out.put_u32(self.payload_bytes() as u32);
        out.put_bytes(self.name.as_bytes());
        if let Some(key) = &self.key {
            out.put_bytes(key.as_bytes());
        }
        self.payload.iter().for_each(|part| out.put_bytes(part));
        let crc = crc32(&out[begin..]);
        out.put_u32(crc);
    }
}

/// A data key's name among the records.
pub fn key_name(id: DataKeyId) -> ChunkName {
    let mut name = [0; ChunkName::BYTES];
    name[..KEY_ID_BYTES].copy_from_slice(id.as_bytes());
    ChunkName::from_bytes(name)
}

/// A whole record that was read; its CRC32 fits.
#[derive(Debug)]
pub struct Record {
    pub kind: Kind,
    pub name: ChunkName,
    bytes: Vec<u8>,
}

impl Record {
    /// Takes bytes that begin with a record. None where they do not, or it is not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let total = usize::try_from(record_bytes(bytes)?).ok()?;
        Record::of(bytes.get(..total)?.to_vec())
    }

    /// Takes the bytes of a whole record.
    fn of(bytes: Vec<u8>) -> Option<Record> {
        if record_bytes(&bytes)? != bytes.len() as u64 {
            return None;
        }
        let (body, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        if crc32(body).to_le_bytes() != crc {
            return None;
        }
        let name = body[5..RECORD_HEADER_BYTES].try_into().ok()?;
        Some(Record { kind: Kind::of(body[0])?, name: ChunkName::from_bytes(name), bytes })
    }

    /// Reads the record of so long a payload; none where what lies there is another one, or damaged.
    pub fn read(file: &File, offset: u64, kind: Kind, payload: u32) -> io::Result<Option<Record>> {
        let mut bytes = vec![0; kind.record_bytes(payload as usize) as usize];
        match file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Record::of(bytes).filter(|record| record.kind == kind))
    }

    pub fn key(&self) -> Option<DataKeyId> {
        let id = self.bytes[RECORD_HEADER_BYTES..].first_chunk::<KEY_ID_BYTES>()?;
        self.kind.has_key().then(|| DataKeyId::from_bytes(*id))
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.kind.header_bytes()..self.bytes.len() - CRC_BYTES]
    }

    /// The payload, in the buffer that the record was read into.
    pub fn into_payload(mut self) -> Vec<u8> {
        self.bytes.truncate(self.bytes.len() - CRC_BYTES);
        self.bytes.drain(..self.kind.header_bytes());
        self.bytes
    }

    /// All of it, as it lies in the pack.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the index calls it. A head's name is the client's choice and may come again with other bytes, so that a
    /// snapshot is called by what it is.
    pub fn indexed_name(&self) -> ChunkName {
        match self.kind {
            Kind::Snapshot => snapshot_object_name(&self.bytes[..self.bytes.len() - CRC_BYTES]),
            // Its id is made of the names in it: another list under it must not decide what is needed.
            Kind::List => list_id(&self.names().collect::<Vec<_>>()),
            _ => self.name,
        }
    }

    /// The lists that a snapshot needs, and its sealed head; none for other records.
    pub fn snapshot(&self) -> Option<SnapshotPayload<'_>> {
        let payload = (self.kind == Kind::Snapshot).then(|| self.payload())?;
        let (id, rest) = payload.split_at_checked(SnapshotId::LENGTH)?;
        let (_upload, rest) = rest.split_at_checked(16)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let lists = (u32::from_le_bytes(*count) as usize).checked_mul(ChunkName::BYTES)?;
        let (lists, sealed) = rest.split_at_checked(lists)?;
        Some(SnapshotPayload { id: SnapshotId::from_bytes(id)?, lists, sealed })
    }

    /// The names in a list.
    pub fn names(&self) -> impl Iterator<Item = ChunkName> + '_ {
        let payload = if self.kind == Kind::List { self.payload() } else { &[] };
        names_in(payload)
    }
}

/// What the record of a snapshot says.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotPayload<'a> {
    /// Which snapshot it is of.
    pub id: SnapshotId,
    pub lists: &'a [u8],
    pub sealed: &'a [u8],
}

/// The names that lie one behind the other.
pub fn names_in(bytes: &[u8]) -> impl Iterator<Item = ChunkName> + '_ {
    bytes.as_chunks::<{ ChunkName::BYTES }>().0.iter().map(|name| ChunkName::from_bytes(*name))
}

/// What the index calls a snapshot whose record has these bytes before its CRC32.
pub fn snapshot_object_name(bytes: &[u8]) -> ChunkName {
    ChunkName::from_bytes(blake3_hash(bytes))
}

/// How long the record is that begins here, if one can.
pub fn record_bytes(bytes: &[u8]) -> Option<u64> {
    let kind = Kind::of(*bytes.first()?)?;
    let length = u32::from_le_bytes(*bytes.get(1..5)?.first_chunk::<4>()?) as usize;
    (1..=kind.payload_bytes_max()).contains(&length).then(|| kind.record_bytes(length))
}

/// What a record says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    pub kind: Kind,
    pub payload_bytes: u32,
    /// Of chunks and snapshots.
    pub key: Option<DataKeyId>,
}

impl RecordHeader {
    pub const BYTES_MAX: usize = RECORD_HEADER_BYTES + KEY_ID_BYTES;

    /// Takes bytes that begin with a record, of which this looks at the header alone. None where they cannot.
    pub fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        record_bytes(bytes)?;
        let kind = Kind::of(bytes[0])?;
        let payload_bytes = u32::from_le_bytes(*bytes[1..].first_chunk()?);
        let key = match kind.has_key() {
            true => Some(DataKeyId::from_bytes(*bytes.get(RECORD_HEADER_BYTES..)?.first_chunk()?)),
            false => None,
        };
        Some(RecordHeader { kind, payload_bytes, key })
    }

    /// Of the whole record.
    pub fn record_bytes(&self) -> u64 {
        self.kind.record_bytes(self.payload_bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let key = kind.has_key().then(|| DataKeyId::from_bytes([3; 16]));
        let mut bytes = Vec::new();
        NewRecord { kind, name: ChunkName::from_bytes([2; 32]), key, payload: &[payload] }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn every_kind_comes_back_and_no_changed_byte_passes() {
        for kind in [Kind::Key, Kind::Chunk, Kind::List, Kind::Snapshot] {
            let mut bytes = record(kind, &[7; 64]);
            let found = Record::decode(&bytes).unwrap();
            assert_eq!(
                (found.kind, found.name, found.payload()),
                (kind, ChunkName::from_bytes([2; 32]), &[7; 64][..])
            );
            assert_eq!(found.key(), kind.has_key().then(|| DataKeyId::from_bytes([3; 16])));
            assert_eq!(kind.record_bytes(64), bytes.len() as u64);
            let header = RecordHeader { kind, payload_bytes: 64, key: found.key() };
            assert_eq!(RecordHeader::decode(&bytes[..kind.header_bytes()]), Some(header));
            assert_eq!(header.record_bytes(), bytes.len() as u64);
            for place in 0..bytes.len() {
                bytes[place] ^= 1;
                assert!(Record::decode(&bytes).is_none(), "{kind:?}: byte {place}");
                bytes[place] ^= 1;
            }
            assert!(Record::decode(&bytes[..bytes.len() - 1]).is_none());
        }
    }

    #[test]
    fn a_record_has_these_bytes() {
        let bytes = record(Kind::Chunk, b"abc");
        let mut expected = vec![2, 3, 0, 0, 0];
        expected.extend_from_slice(&[2; 32]);
        expected.extend_from_slice(&[3; 16]);
        expected.extend_from_slice(b"abc");
        expected.extend_from_slice(&crc32(&expected).to_le_bytes());
        assert_eq!(bytes, expected);
        assert_eq!(encode_pack_header(VaultId::from_bytes([1; 16]), 9).len(), PACK_HEADER_BYTES);
    }

    #[test]
    fn what_a_record_may_hold_is_limited() {
        let long = vec![0; VAULT_SEALED_BYTES_MAX + 1];
        for (payload, fits) in [(&long[..], false), (&long[1..], true), (&[][..], false)] {
            let key = Some(DataKeyId::from_bytes([0; 16]));
            let record =
                NewRecord { kind: Kind::Chunk, name: ChunkName::from_bytes([0; 32]), key, payload: &[payload] };
            assert_eq!(record.fits(), fits);
        }
    }
}
