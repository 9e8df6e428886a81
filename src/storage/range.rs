//! A range file: a run of entries as the store keeps them, each with where its content lies. Immutable,
//! named by its hash, shared by every snapshot in which the run is the same.
//!
//! Bytes, little-endian: magic `cbkrange` · version u32 = 1 · reserved u32 = 0 · entry count u32 ·
//! wire hash [32] (BLAKE3 of the entries as they travelled) · records · BLAKE3 [32] of all before, which is
//! also the file's name. A record is the entry's wire bytes · flags u8 · location kind u8 · for all kinds but 0
//! the sums (size u64, CRC32 u32, BLAKE3 [32]) and the snapshot id [25] · for kinds 2 and 5 the stored path (u16
//! length) · for kinds 3, 4 and 5 the place of the content's map in that snapshot's `.blocks` file (offset u64,
//! length u32). Kind 0 is no content, kind 1 the entry's own path in that snapshot, kind 2 another path in it,
//! kind 3 is put together from stretches, kinds 4 and 5 are 1 and 2 with block sums.

use super::blocks_format::BlocksPlace;
use super::content::{decode_sums, encode_sums};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::entry::Entry;
use crate::base::ids::SnapshotId;
use crate::base::limits::RANGE_ENTRIES_MAX;
use crate::base::path::EntryPath;
use crate::crypto::{ContentSums, blake3_hash as hash};

const MAGIC: &[u8; 8] = b"cbkrange";
const VERSION: u32 = 1;
/// Longest stored path of location kinds 2 and 5; ours are far shorter.
pub const STORED_PATH_BYTES_MAX: usize = 64;
/// Most bytes of a range file: twice the wire's 1 MiB, and what 8,192 records add to it.
pub const RANGE_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
pub const HASH_BYTES: usize = 32;

/// The content is to be read again next time: it was written to about when it was read.
pub const RECHECK: u8 = 1;
/// The file changed while it was read, twice; the content is a mixture.
pub const CHANGED_WHILE_READ: u8 = 2;
/// The client could not read the file: there is no content.
pub const UNREADABLE: u8 = 4;
const FLAGS_KNOWN: u8 = RECHECK | CHANGED_WHILE_READ | UNREADABLE;

/// Where a content lies: the snapshot that brought it, and the path among that snapshot's received files, or
/// that its map says more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    OwnPath {
        snapshot: SnapshotId,
    },
    StoredPath {
        snapshot: SnapshotId,
        path: EntryPath,
    },
    /// Put together from stretches, as the map in the snapshot's `.blocks` file says.
    Mapped {
        snapshot: SnapshotId,
    },
}

/// A stored content: its sums and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    pub sums: ContentSums,
    pub location: Location,
    /// Where the content's map lies in the snapshot's `.blocks` file: there for mapped contents and for plain
    /// ones that are large.
    pub blocks: Option<BlocksPlace>,
}

impl StoredContent {
    /// The snapshot whose folder holds it.
    pub fn snapshot(&self) -> SnapshotId {
        match self.location {
            Location::OwnPath { snapshot }
            | Location::StoredPath { snapshot, .. }
            | Location::Mapped { snapshot } => snapshot,
        }
    }
}

/// An entry as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    pub entry: Entry,
    /// [`RECHECK`], [`CHANGED_WHILE_READ`], [`UNREADABLE`].
    pub flags: u8,
    /// None for what has no content, and for what could not be read.
    pub content: Option<StoredContent>,
}

impl StoredEntry {
    /// Whether the next backup must look at the file again whatever its metadata.
    pub fn is_unsettled(&self) -> bool {
        self.flags != 0
    }

    /// Whether the sums of its content's blocks are recorded.
    pub fn is_large(&self) -> bool {
        self.content.as_ref().is_some_and(|content| content.blocks.is_some())
    }

    /// The entry and what is known of its content, as in a range file.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.entry.encode(out);
        encode_rest(self.flags, self.content.as_ref(), out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<StoredEntry, DecodeError> {
        let entry = Entry::decode(reader)?;
        let flags = reader.u8("entry flags")?;
        let content = decode_content(reader)?;
        let has_content = entry.has_content() && flags & UNREADABLE == 0;
        let stray_flags = !entry.has_content() && flags != 0;
        if flags & !FLAGS_KNOWN != 0 || stray_flags || has_content != content.is_some() {
            return Err(DecodeError::Invalid { what: "stored entry" });
        }
        Ok(StoredEntry { entry, flags, content })
    }
}

/// Appends what follows an entry's wire bytes in a record.
pub(crate) fn encode_rest(flags: u8, content: Option<&StoredContent>, out: &mut Vec<u8>) {
    out.put_u8(flags);
    let Some(content) = content else { return out.put_u8(0) };
    out.put_u8(match (&content.location, content.blocks) {
        (Location::OwnPath { .. }, None) => 1,
        (Location::StoredPath { .. }, None) => 2,
        (Location::Mapped { .. }, _) => 3,
        (Location::OwnPath { .. }, Some(_)) => 4,
        (Location::StoredPath { .. }, Some(_)) => 5,
    });
    encode_sums(&content.sums, out);
    out.put_bytes(content.snapshot().as_str().as_bytes());
    if let Location::StoredPath { path, .. } = &content.location {
        out.put_bytes16(path.as_bytes());
    }
    if let Some(blocks) = &content.blocks {
        blocks.encode(out);
    }
}

pub(crate) fn decode_content(reader: &mut Reader<'_>) -> Result<Option<StoredContent>, DecodeError> {
    let kind = reader.u8("location kind")?;
    if kind == 0 {
        return Ok(None);
    }
    let sums = decode_sums(reader)?;
    let snapshot = decode_snapshot_id(reader)?;
    let location = match kind {
        1 | 4 => Location::OwnPath { snapshot },
        3 => Location::Mapped { snapshot },
        2 | 5 => {
            let bytes = reader.bytes16(STORED_PATH_BYTES_MAX, "stored path")?;
            let path = EntryPath::parse(bytes).map_err(|_| DecodeError::Invalid { what: "stored path" })?;
            Location::StoredPath { snapshot, path }
        }
        _ => return Err(DecodeError::Invalid { what: "location kind" }),
    };
    let blocks = (kind >= 3).then(|| BlocksPlace::decode(reader)).transpose()?;
    Ok(Some(StoredContent { sums, location, blocks }))
}

pub(crate) fn decode_snapshot_id(reader: &mut Reader<'_>) -> Result<SnapshotId, DecodeError> {
    let invalid = DecodeError::Invalid { what: "snapshot id" };
    let text =
        std::str::from_utf8(reader.bytes(SnapshotId::LENGTH, "snapshot id")?).map_err(|_| invalid.clone())?;
    text.parse().map_err(|_| invalid)
}

/// Puts the bytes of a range file together.
#[derive(Debug)]
pub struct RangeEncoder {
    bytes: Vec<u8>,
}

impl RangeEncoder {
    pub fn new(entries: u32, wire_hash: &[u8; HASH_BYTES]) -> RangeEncoder {
        let mut bytes = Vec::new();
        bytes.put_bytes(MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u32(0);
        bytes.put_u32(entries);
        bytes.put_bytes(wire_hash);
        RangeEncoder { bytes }
    }

    pub fn add(&mut self, wire_bytes: &[u8], flags: u8, content: Option<&StoredContent>) {
        self.bytes.put_bytes(wire_bytes);
        encode_rest(flags, content, &mut self.bytes);
    }

    /// The bytes, and the hash that is their name.
    pub fn finish(mut self) -> (Vec<u8>, [u8; HASH_BYTES]) {
        let name = hash(&self.bytes);
        self.bytes.put_bytes(&name);
        (self.bytes, name)
    }
}

/// The entries of a range file whose name is `name`. Nothing is believed before the hash has been checked.
pub fn decode_range(bytes: &[u8], name: &[u8; HASH_BYTES]) -> Result<Vec<StoredEntry>, DecodeError> {
    let body = named_body(bytes, name)?;
    let mut reader = Reader::new(body);
    check_header(&mut reader, MAGIC, VERSION, "range")?;
    let count = reader.count32(RANGE_ENTRIES_MAX, "entries in a range")?;
    reader.array::<HASH_BYTES>("wire hash")?;
    let mut entries: Vec<StoredEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = StoredEntry::decode(&mut reader)?;
        if entries.last().is_some_and(|last| last.entry.path >= entry.entry.path) {
            return Err(DecodeError::Invalid { what: "order of entries" });
        }
        entries.push(entry);
    }
    reader.finish("range")?;
    Ok(entries)
}

/// The wire hash that a range file names.
pub fn wire_hash_of(bytes: &[u8]) -> Result<[u8; HASH_BYTES], DecodeError> {
    let mut reader = Reader::new(bytes);
    check_header(&mut reader, MAGIC, VERSION, "range")?;
    reader.u32("entries in a range")?;
    reader.array("wire hash")
}

/// Whether a range file is the one with this name, byte for byte.
pub fn check_range(bytes: &[u8], name: &[u8; HASH_BYTES]) -> Result<(), DecodeError> {
    named_body(bytes, name).map(|_| ())
}

fn named_body<'a>(bytes: &'a [u8], name: &[u8; HASH_BYTES]) -> Result<&'a [u8], DecodeError> {
    let body = checked_body(bytes, "range")?;
    match bytes[body.len()..] == *name {
        true => Ok(body),
        false => Err(DecodeError::Invalid { what: "name of the range" }),
    }
}

/// What comes before the BLAKE3 at the end, if that fits it.
pub(crate) fn checked_body<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], DecodeError> {
    let length = bytes.len().checked_sub(HASH_BYTES).ok_or(DecodeError::Short { what })?;
    let (body, trailer) = bytes.split_at(length);
    if hash(body) != trailer { Err(DecodeError::Invalid { what: "checksum" }) } else { Ok(body) }
}

/// Takes magic, version and the reserved word, which all binary files of the store begin with.
pub(crate) fn check_header(
    reader: &mut Reader<'_>,
    magic: &[u8; 8],
    version: u32,
    what: &'static str,
) -> Result<(), DecodeError> {
    let fits = reader.array::<8>(what)? == *magic && reader.u32(what)? == version && reader.u32(what)? == 0;
    if fits { Ok(()) } else { Err(DecodeError::Invalid { what: "magic or version" }) }
}

#[cfg(test)]
pub(crate) mod strategies {
    use super::*;
    use crate::base::entry::strategies::entry;
    use proptest::prelude::*;

    pub fn stored_entry() -> impl Strategy<Value = StoredEntry> {
        (entry(), 0u8..8, any::<[u8; 32]>(), any::<(u64, u32)>(), 1u8..6).prop_map(
            |(entry, flags, blake3, (size, crc32), kind)| {
                let flags = if entry.has_content() { flags } else { 0 };
                let snapshot: SnapshotId = "20260101T000000Z-01234567".parse().unwrap();
                let path = EntryPath::parse(b".renamed/7").unwrap();
                let location = match kind {
                    1 | 4 => Location::OwnPath { snapshot },
                    2 | 5 => Location::StoredPath { snapshot, path },
                    _ => Location::Mapped { snapshot },
                };
                let blocks = (kind >= 3).then_some(BlocksPlace { offset: size, bytes: crc32 % 1_000 });
                let content = StoredContent { sums: ContentSums { size, crc32, blake3 }, location, blocks };
                let content = (entry.has_content() && flags & UNREADABLE == 0).then_some(content);
                StoredEntry { entry, flags, content }
            },
        )
    }

    pub fn encode(entries: &[StoredEntry]) -> (Vec<u8>, [u8; HASH_BYTES]) {
        let mut encoder = RangeEncoder::new(entries.len() as u32, &[7; 32]);
        for stored in entries {
            let mut wire = Vec::new();
            stored.entry.encode(&mut wire);
            encoder.add(&wire, stored.flags, stored.content.as_ref());
        }
        encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted_entries() -> impl Strategy<Value = Vec<StoredEntry>> {
        prop::collection::vec(strategies::stored_entry(), 1..6).prop_map(|mut entries| {
            entries.sort_by(|left, right| left.entry.path.cmp(&right.entry.path));
            entries.dedup_by(|left, right| left.entry.path == right.entry.path);
            entries
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_range_comes_back_as_it_was(entries in sorted_entries()) {
            let (bytes, name) = strategies::encode(&entries);
            prop_assert_eq!(decode_range(&bytes, &name).unwrap(), entries);
        }

        #[test]
        fn every_flipped_byte_of_a_range_is_found(entries in sorted_entries(), flip in 1u8..) {
            let (mut bytes, name) = strategies::encode(&entries);
            for position in 0..bytes.len() {
                bytes[position] ^= flip;
                prop_assert!(decode_range(&bytes, &name).is_err());
                bytes[position] ^= flip;
            }
        }

        #[test]
        fn no_bytes_under_a_right_checksum_make_the_decoder_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            with_header in any::<bool>(),
        ) {
            if with_header {
                let mut encoder = RangeEncoder::new(3, &[0; 32]);
                encoder.bytes.extend_from_slice(&bytes);
                bytes = encoder.bytes;
            }
            let name = hash(&bytes);
            bytes.extend_from_slice(&name);
            let _ = decode_range(&bytes, &name);
        }
    }

    #[test]
    fn a_range_under_another_name_is_refused() {
        let (bytes, _) = strategies::encode(&[]);
        assert_eq!(decode_range(&bytes, &[0; 32]), Err(DecodeError::Invalid { what: "name of the range" }));
        assert_eq!(decode_range(&[], &[0; 32]), Err(DecodeError::Short { what: "range" }));
    }

    #[test]
    fn the_bytes_after_an_entry_are_pinned() {
        let snapshot: SnapshotId = "20260101T000000Z-01234567".parse().unwrap();
        let path = EntryPath::parse(b".renamed/7").unwrap();
        let sums = ContentSums { size: 5, crc32: 0x0403_0201, blake3: [9; 32] };
        let location = Location::StoredPath { snapshot, path };
        let mut content = StoredContent { sums, location, blocks: None };
        let mut bytes = Vec::new();
        encode_rest(RECHECK, Some(&content), &mut bytes);
        let expected = [
            &[1u8, 2][..],
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[1, 2, 3, 4],
            &[9; 32],
            b"20260101T000000Z-01234567",
            &[10, 0],
            b".renamed/7",
        ]
        .concat();
        assert_eq!(bytes, expected);
        content.blocks = Some(BlocksPlace { offset: 0x0807, bytes: 9 });
        let mut with_blocks = Vec::new();
        encode_rest(RECHECK, Some(&content), &mut with_blocks);
        let place = [7, 8, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(with_blocks, [&[1u8, 5][..], &expected[2..], &place].concat());
    }
}
