//! A snapshot's index: its ranges in path order. Each record names the first and last path of the range, so
//! that a look-up reads one range file, and a shared range is put in its place without being read. Behind the records
//! stands a copy of the head, so that a head that is lost is made again from the index, byte for byte.
//!
//! Bytes, little-endian: magic `cbkindex` · version u32 = 2 · reserved u32 = 0 · snapshot id [25] · range
//! count u32 · records · bytes that the snapshot added to the disk besides the index u64 · copy of the head (u32
//! length) · BLAKE3 [32] of all before. Version 1 has no copy. A record: flags u8 (bit 0: an entry in it must be looked
//! at again) · wire hash [32] · range file [32] · file bytes u32 · entries u32 · files u32 · unreadable u32 ·
//! content bytes u64 · first path (u16 length) · last path (u16 length).

use super::head::HEAD_BYTES_MAX;
use super::range::{
    HASH_BYTES, StoredEntry, UNREADABLE, checked_body, decode_range, decode_snapshot_id, wire_hash_of,
};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::entry::EntryKind;
use crate::base::ids::SnapshotId;
use crate::base::limits::PATH_BYTES_MAX;
use crate::base::path::EntryPath;
use crate::crypto::blake3_hash as hash;

const MAGIC: &[u8; 8] = b"cbkindex";
const VERSION: u32 = 2;
/// The version without a copy of the head.
const VERSION_WITHOUT_COPY: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + SnapshotId::LENGTH + 4;
/// Most bytes of an index: room for about a thousand million entries with paths of common length.
pub const INDEX_BYTES_MAX: u64 = 256 * 1024 * 1024;
const FLAG_UNSETTLED: u8 = 1;

/// What a snapshot knows of one of its ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRecord {
    pub first: EntryPath,
    pub last: EntryPath,
    /// The BLAKE3 of the entries as the client sends them.
    pub wire_hash: [u8; HASH_BYTES],
    /// The name of the range file.
    pub file: [u8; HASH_BYTES],
    pub file_bytes: u32,
    pub entries: u32,
    pub files: u32,
    pub unreadable: u32,
    pub content_bytes: u64,
    /// An entry in it must be looked at again: the range is never answered as held.
    pub unsettled: bool,
}

impl IndexRecord {
    /// What an index says of a range file with this name, and the range's entries.
    pub fn of_range(bytes: &[u8], name: &[u8; HASH_BYTES]) -> Result<(IndexRecord, Vec<StoredEntry>), DecodeError> {
        let entries = decode_range(bytes, name)?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(DecodeError::Short { what: "range" });
        };
        let count =
            |counts: fn(&StoredEntry) -> bool| entries.iter().filter(|stored| counts(stored)).count() as u32;
        let content_bytes = entries.iter().filter_map(|stored| stored.content.as_ref());
        let record = IndexRecord {
            first: first.entry.path.clone(),
            last: last.entry.path.clone(),
            wire_hash: wire_hash_of(bytes)?,
            file: *name,
            file_bytes: bytes.len() as u32,
            entries: entries.len() as u32,
            files: count(|stored| stored.entry.kind == EntryKind::File),
            unreadable: count(|stored| stored.flags & UNREADABLE != 0),
            content_bytes: content_bytes.fold(0, |sum: u64, content| sum.saturating_add(content.sums.size)),
            unsettled: entries.iter().any(StoredEntry::is_unsettled),
        };
        Ok((record, entries))
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(if self.unsettled { FLAG_UNSETTLED } else { 0 });
        out.put_bytes(&self.wire_hash);
        out.put_bytes(&self.file);
        out.put_u32(self.file_bytes);
        out.put_u32(self.entries);
        out.put_u32(self.files);
        out.put_u32(self.unreadable);
        out.put_u64(self.content_bytes);
        out.put_bytes16(self.first.as_bytes());
        out.put_bytes16(self.last.as_bytes());
    }

    /// How many bytes [`IndexRecord::encode`] appends.
    pub fn encoded_bytes(&self) -> u64 {
        (1 + 2 * HASH_BYTES + 4 * 4 + 8 + 4 + self.first.as_bytes().len() + self.last.as_bytes().len()) as u64
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<IndexRecord, DecodeError> {
        let flags = reader.u8("index flags")?;
        if flags & !FLAG_UNSETTLED != 0 {
            return Err(DecodeError::Invalid { what: "index flags" });
        }
        let (wire_hash, file) = (reader.array("wire hash")?, reader.array("range file")?);
        let [file_bytes, entries, files, unreadable] = [
            reader.u32("range file bytes")?,
            reader.u32("entry count")?,
            reader.u32("file count")?,
            reader.u32("unreadable count")?,
        ];
        let content_bytes = reader.u64("content bytes")?;
        let (first, last) = (decode_path(reader, "first path")?, decode_path(reader, "last path")?);
        if first > last {
            return Err(DecodeError::Invalid { what: "order of paths in the index" });
        }
        let unsettled = flags != 0;
        Ok(IndexRecord {
            first,
            last,
            wire_hash,
            file,
            file_bytes,
            entries,
            files,
            unreadable,
            content_bytes,
            unsettled,
        })
    }
}

fn decode_path(reader: &mut Reader<'_>, what: &'static str) -> Result<EntryPath, DecodeError> {
    EntryPath::parse(reader.bytes16(PATH_BYTES_MAX, what)?).map_err(|_| DecodeError::Invalid { what })
}

/// What an index has of its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadCopy {
    /// Bytes that the snapshot added to the disk besides the index.
    pub stored_bytes: u64,
    /// All that the head says but that and the hash of the index, as [`super::head::Head::encode_copy`] has it.
    pub json: Vec<u8>,
}

/// The bytes of an index file that has these records and a copy of so many bytes.
pub fn index_bytes<'a>(records: impl Iterator<Item = &'a IndexRecord>, copy_bytes: usize) -> u64 {
    let records: u64 = records.map(IndexRecord::encoded_bytes).sum();
    (HEADER_BYTES + 8 + 4 + copy_bytes + HASH_BYTES) as u64 + records
}

/// The bytes of an index file, and the hash at their end, which the head repeats.
pub fn encode_index<'a>(
    snapshot: SnapshotId,
    count: u32,
    records: impl Iterator<Item = &'a IndexRecord>,
    copy: &HeadCopy,
) -> (Vec<u8>, [u8; HASH_BYTES]) {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.put_bytes(MAGIC);
    bytes.put_u32(VERSION);
    bytes.put_u32(0);
    bytes.put_bytes(snapshot.as_str().as_bytes());
    bytes.put_u32(count);
    records.for_each(|record| record.encode(&mut bytes));
    bytes.put_u64(copy.stored_bytes);
    bytes.put_bytes32(&copy.json);
    let trailer = hash(&bytes);
    bytes.put_bytes(&trailer);
    (bytes, trailer)
}

/// An index that says by itself whether it is whole.
#[derive(Debug)]
pub struct Index {
    pub records: Vec<IndexRecord>,
    /// None in version 1.
    pub copy: Option<HeadCopy>,
    /// The hash at its end.
    pub hash: [u8; HASH_BYTES],
    /// Of the whole file.
    pub bytes: u64,
}

/// The index of `snapshot`, whose head cannot say what its hash is.
pub fn decode_headless_index(bytes: &[u8], snapshot: SnapshotId) -> Result<Index, DecodeError> {
    let body = checked_body(bytes, "index")?;
    let mut reader = Reader::new(body);
    let version = match (reader.array::<8>("index")?, reader.u32("index")?, reader.u32("index")?) {
        (magic, version @ (VERSION | VERSION_WITHOUT_COPY), 0) if magic == *MAGIC => version,
        _ => return Err(DecodeError::Invalid { what: "magic or version" }),
    };
    if decode_snapshot_id(&mut reader)? != snapshot {
        return Err(DecodeError::Invalid { what: "snapshot of the index" });
    }
    // No capacity is taken from the count: the records themselves say how many there are.
    let count = reader.u32("range count")?;
    let mut records: Vec<IndexRecord> = Vec::new();
    for _ in 0..count {
        let record = IndexRecord::decode(&mut reader)?;
        if records.last().is_some_and(|last| last.last >= record.first) {
            return Err(DecodeError::Invalid { what: "order of ranges" });
        }
        records.push(record);
    }
    let copy = match version {
        VERSION_WITHOUT_COPY => None,
        _ => Some(HeadCopy {
            stored_bytes: reader.u64("stored bytes")?,
            json: reader.bytes32(HEAD_BYTES_MAX as usize, "copy of the head")?.to_vec(),
        }),
    };
    reader.finish("index")?;
    let hash = *bytes.last_chunk().ok_or(DecodeError::Short { what: "index" })?;
    Ok(Index { records, copy, hash, bytes: bytes.len() as u64 })
}

/// The records of the index of `snapshot`, whose hash the head gave as `expected`.
pub fn decode_index(
    bytes: &[u8],
    snapshot: SnapshotId,
    expected: &[u8; HASH_BYTES],
) -> Result<Vec<IndexRecord>, DecodeError> {
    let index = decode_headless_index(bytes, snapshot)?;
    match index.hash == *expected {
        true => Ok(index.records),
        false => Err(DecodeError::Invalid { what: "the index the head names" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot() -> SnapshotId {
        "20260101T000000Z-01234567".parse().unwrap()
    }

    fn record(first: &str, last: &str, numbers: [u32; 4], unsettled: bool) -> IndexRecord {
        IndexRecord {
            first: EntryPath::parse(first.as_bytes()).unwrap(),
            last: EntryPath::parse(last.as_bytes()).unwrap(),
            wire_hash: [1; 32],
            file: [2; 32],
            file_bytes: numbers[0],
            entries: numbers[1],
            files: numbers[2],
            unreadable: numbers[3],
            content_bytes: u64::from(numbers[0]) << 20,
            unsettled,
        }
    }

    fn encoded(records: &[IndexRecord]) -> (Vec<u8>, [u8; 32]) {
        encode_index(snapshot(), records.len() as u32, records.iter(), &copy())
    }

    fn copy() -> HeadCopy {
        HeadCopy { stored_bytes: 5, json: b"{}".to_vec() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_index_comes_back_as_it_was(numbers in any::<[u32; 4]>(), unsettled in any::<bool>()) {
            let records = vec![record("a", "a/b", numbers, unsettled), record("b", "b", numbers, false)];
            let (bytes, trailer) = encoded(&records);
            let length: u64 = records.iter().map(IndexRecord::encoded_bytes).sum();
            prop_assert_eq!(bytes.len() as u64, HEADER_BYTES as u64 + length + 8 + 4 + 2 + 32);
            prop_assert_eq!(bytes.len() as u64, index_bytes(records.iter(), copy().json.len()));
            prop_assert_eq!(decode_index(&bytes, snapshot(), &trailer).unwrap(), records);
            prop_assert_eq!(decode_headless_index(&bytes, snapshot()).unwrap().copy, Some(copy()));
        }

        #[test]
        fn every_flipped_byte_of_an_index_is_found(numbers in any::<[u32; 4]>(), flip in 1u8..) {
            let (mut bytes, trailer) = encoded(&[record("a", "a/b", numbers, true)]);
            for position in 0..bytes.len() {
                bytes[position] ^= flip;
                prop_assert!(decode_index(&bytes, snapshot(), &trailer).is_err());
                bytes[position] ^= flip;
            }
        }

        #[test]
        fn no_bytes_under_a_right_checksum_make_the_decoder_panic(rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = encode_index(snapshot(), u32::MAX, [].into_iter(), &copy()).0;
            bytes.truncate(HEADER_BYTES);
            bytes.extend_from_slice(&rest);
            let trailer = hash(&bytes);
            bytes.extend_from_slice(&trailer);
            let _ = decode_index(&bytes, snapshot(), &trailer);
        }
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let (bytes, trailer) = encoded(&[record("a", "c", [1; 4], false), record("b", "d", [1; 4], false)]);
        let refused = Err(DecodeError::Invalid { what: "order of ranges" });
        assert_eq!(decode_index(&bytes, snapshot(), &trailer), refused);
    }

    #[test]
    fn an_index_without_a_copy_of_the_head_is_read_and_a_newer_one_is_not() {
        let records = [record("a", "a/b", [1, 2, 3, 4], false)];
        let (bytes, _) = encoded(&records);
        let sealed = |version: u8, length: usize| {
            let mut bytes = bytes[..length].to_vec();
            bytes[8] = version;
            let trailer = hash(&bytes);
            bytes.put_bytes(&trailer);
            bytes
        };
        let (body, copy_bytes) = (bytes.len() - 32, 8 + 4 + 2);
        let old = decode_headless_index(&sealed(1, body - copy_bytes), snapshot()).unwrap();
        assert_eq!((old.records, old.copy), (records.to_vec(), None));
        let newer = decode_headless_index(&sealed(3, body), snapshot()).unwrap_err();
        assert_eq!(newer, DecodeError::Invalid { what: "magic or version" });
    }

    #[test]
    fn what_follows_the_records_is_pinned() {
        let (bytes, _) = encoded(&[]);
        let expected = [&[0u8; 4][..], &[5, 0, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 0], b"{}"].concat();
        assert_eq!(bytes[HEADER_BYTES - 4..bytes.len() - 32], expected);
    }

    #[test]
    fn the_bytes_of_a_record_are_pinned() {
        let mut bytes = Vec::new();
        record("a", "bc", [1, 2, 3, 4], true).encode(&mut bytes);
        let numbers = [1u8, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0];
        let expected = [&[1u8][..], &[1; 32], &[2; 32], &numbers, &[1, 0], b"a", &[2, 0], b"bc"].concat();
        assert_eq!(bytes, expected);
    }
}
