//! The bytes of a `.blocks` file: what a snapshot knows, beyond its ranges, of the large contents it brought:
//! the sums of their blocks, and of which stretches each is made.
//!
//! Bytes, little-endian: magic `cbkblock` · version u32 = 1 · reserved u32 = 0 · snapshot id [25] · records. A
//! record is a tag [4] · body · BLAKE3 [32] of both, so that each is read and believed by itself:
//! - `sums`: count u32 (1 to 4,096) · for each block its chaining value [32] and CRC32 u32;
//! - `strs`: count u32 (1 to 4,096) · stretches, each file offset u64 · length u64 · source u16 (0xffff for a hole)
//!   · stored offset u64 · offset of the `sums` record u64 · number of sums in it u16 · the first of them u16;
//! - `map `: size u64 · source count u16 · sources, each kind u8 (1 plain at the entry's own path, 2 plain at
//!   another path, 3 delta) · snapshot [25] · for kind 2 the path (u16 length); then record count u32 · for each
//!   `strs` record its first file offset u64 · its offset u64 · its number of stretches u32.
//!
//! A range names a content's `map ` record. A stretch's sums lie in the `.blocks` file of its source's snapshot.

use super::range::{HASH_BYTES, STORED_PATH_BYTES_MAX, check_header, checked_body, decode_snapshot_id};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::crypto::{BLOCK_BYTES, BlockSum, blake3_hash, blocks_in};

const MAGIC: &[u8; 8] = b"cbkblock";
const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 8 + 4 + 4 + SnapshotId::LENGTH;
const SUMS: &[u8; 4] = b"sums";
const STRETCHES: &[u8; 4] = b"strs";
const MAP: &[u8; 4] = b"map ";

/// Most sums, and most stretches, in one record.
pub const RECORD_ITEMS_MAX: usize = 4_096;
/// Most files that one content is put together from. A content at the limit is sent whole.
pub const SOURCES_MAX: usize = 4_096;
/// Most bytes of a `map ` record: room for a content of a few hundred TiB changed everywhere.
pub const MAP_BYTES_MAX: u32 = 64 * 1024 * 1024;
const HOLE: u16 = u16::MAX;
const SUM_BYTES: usize = HASH_BYTES + 4;
const STRETCH_BYTES: usize = 8 + 8 + 2 + 8 + 8 + 2 + 2;
/// First offset, place and count of one record of stretches in a map.
const MAP_RECORD_BYTES: usize = 8 + 8 + 4;
const FRAME_BYTES: usize = 4 + 4 + HASH_BYTES;

/// Where a content's `map ` record lies in the `.blocks` file of the snapshot that brought the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlocksPlace {
    pub offset: u64,
    pub bytes: u32,
}

impl BlocksPlace {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.bytes);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<BlocksPlace, DecodeError> {
        let place = BlocksPlace { offset: reader.u64("place of blocks")?, bytes: reader.u32("place of blocks")? };
        match place.bytes > MAP_BYTES_MAX {
            true => Err(DecodeError::Invalid { what: "place of blocks" }),
            false => Ok(place),
        }
    }
}

/// A file that holds bytes of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A whole content among a snapshot's received files: at the entry's own path for none.
    Plain { snapshot: SnapshotId, path: Option<EntryPath> },
    /// The changed blocks of a snapshot.
    Delta { snapshot: SnapshotId },
}

impl Source {
    pub fn snapshot(&self) -> SnapshotId {
        match self {
            Source::Plain { snapshot, .. } | Source::Delta { snapshot } => *snapshot,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self {
            Source::Plain { path: None, .. } => 1,
            Source::Plain { path: Some(_), .. } => 2,
            Source::Delta { .. } => 3,
        });
        out.put_bytes(self.snapshot().as_str().as_bytes());
        if let Source::Plain { path: Some(path), .. } = self {
            out.put_bytes16(path.as_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Source, DecodeError> {
        let kind = reader.u8("source kind")?;
        let snapshot = decode_snapshot_id(reader)?;
        match kind {
            1 => Ok(Source::Plain { snapshot, path: None }),
            2 => {
                let bytes = reader.bytes16(STORED_PATH_BYTES_MAX, "source path")?;
                let path = EntryPath::parse(bytes).map_err(|_| DecodeError::Invalid { what: "source path" })?;
                Ok(Source::Plain { snapshot, path: Some(path) })
            }
            3 => Ok(Source::Delta { snapshot }),
            _ => Err(DecodeError::Invalid { what: "source kind" }),
        }
    }
}

/// A part of a content that lies in one piece. It begins at a block border, and ends at one or with the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// In the content.
    pub offset: u64,
    pub bytes: u64,
    /// None for a hole.
    pub data: Option<StretchData>,
}

/// Where the bytes of a stretch lie, and their sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StretchData {
    /// Which of the map's sources.
    pub source: u16,
    /// In the source's file.
    pub stored: u64,
    pub sums: SumsPlace,
}

/// Where the sums of a stretch's blocks lie: from the `first` on in one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumsPlace {
    /// Offset of the record in the `.blocks` file of the source's snapshot.
    pub record: u64,
    /// How many sums the record has.
    pub count: u16,
    pub first: u16,
}

impl Stretch {
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// The part of it between two offsets of the content, `from` being at a block border within it.
    pub fn part(&self, from: u64, end: u64) -> Stretch {
        let skipped = from - self.offset;
        let data = self.data.map(|data| StretchData {
            stored: data.stored + skipped,
            sums: SumsPlace { first: data.sums.first + (skipped / BLOCK_BYTES as u64) as u16, ..data.sums },
            ..data
        });
        Stretch { offset: from, bytes: self.end().min(end) - from, data }
    }

    /// Takes the next stretch in, where the two are one piece.
    pub fn merge(&mut self, next: &Stretch) -> bool {
        let fits = self.end() == next.offset
            && match (&self.data, &next.data) {
                (None, None) => true,
                (Some(data), Some(next)) => {
                    let sums = data.sums;
                    let follows = u64::from(sums.first) + blocks_in(self.bytes) == u64::from(next.sums.first);
                    data.source == next.source
                        && data.stored + self.bytes == next.stored
                        && (sums.record, sums.count) == (next.sums.record, next.sums.count)
                        && follows
                }
                _ => false,
            };
        if fits {
            self.bytes += next.bytes;
        }
        fits
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u64(self.bytes);
        let hole = StretchData { source: HOLE, stored: 0, sums: SumsPlace { record: 0, count: 0, first: 0 } };
        let data = self.data.unwrap_or(hole);
        out.put_u16(data.source);
        out.put_u64(data.stored);
        out.put_u64(data.sums.record);
        out.put_u16(data.sums.count);
        out.put_u16(data.sums.first);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Stretch, DecodeError> {
        const WHAT: &str = "stretch";
        let (offset, bytes, source) = (reader.u64(WHAT)?, reader.u64(WHAT)?, reader.u16(WHAT)?);
        let stored = reader.u64(WHAT)?;
        let sums = SumsPlace { record: reader.u64(WHAT)?, count: reader.u16(WHAT)?, first: reader.u16(WHAT)? };
        let ends = bytes > 0 && offset.checked_add(bytes).is_some() && stored.checked_add(bytes).is_some();
        let within = u64::from(sums.first) + blocks_in(bytes) <= u64::from(sums.count)
            && usize::from(sums.count) <= RECORD_ITEMS_MAX;
        if !ends || !offset.is_multiple_of(BLOCK_BYTES as u64) || (source != HOLE && !within) {
            return Err(DecodeError::Invalid { what: WHAT });
        }
        let data = (source != HOLE).then_some(StretchData { source, stored, sums });
        Ok(Stretch { offset, bytes, data })
    }
}

/// Where a record of stretches lies, and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StretchRecord {
    /// Of its first stretch, in the content.
    pub first: u64,
    /// In the `.blocks` file.
    pub offset: u64,
    pub count: u32,
}

impl StretchRecord {
    pub fn bytes(&self) -> usize {
        FRAME_BYTES + self.count as usize * STRETCH_BYTES
    }
}

/// Of what a content is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub size: u64,
    pub sources: Vec<Source>,
    pub records: Vec<StretchRecord>,
}

impl Map {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAP.to_vec();
        out.put_u64(self.size);
        out.put_u16(u16::try_from(self.sources.len()).expect("kept below SOURCES_MAX"));
        self.sources.iter().for_each(|source| source.encode(&mut out));
        out.put_u32(u32::try_from(self.records.len()).expect("a count of things in memory"));
        for record in &self.records {
            out.put_u64(record.first);
            out.put_u64(record.offset);
            out.put_u32(record.count);
        }
        seal(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Map, DecodeError> {
        const WHAT: &str = "map of a content";
        let mut reader = open(bytes, MAP, WHAT)?;
        let size = reader.u64(WHAT)?;
        let sources = usize::from(reader.u16(WHAT)?);
        let sources = (0..sources).map(|_| Source::decode(&mut reader)).collect::<Result<_, _>>()?;
        let count = reader.count32(MAP_BYTES_MAX as usize / MAP_RECORD_BYTES, WHAT)?;
        let mut records: Vec<StretchRecord> = Vec::new();
        for _ in 0..count {
            let record =
                StretchRecord { first: reader.u64(WHAT)?, offset: reader.u64(WHAT)?, count: reader.u32(WHAT)? };
            let follows = records.last().map_or(record.first == 0, |last| last.first < record.first);
            if !follows || record.first >= size || !(1..=RECORD_ITEMS_MAX as u32).contains(&record.count) {
                return Err(DecodeError::Invalid { what: WHAT });
            }
            records.push(record);
        }
        reader.finish(WHAT)?;
        match records.is_empty() == (size == 0) {
            true => Ok(Map { size, sources, records }),
            false => Err(DecodeError::Invalid { what: WHAT }),
        }
    }
}

/// What a `.blocks` file begins with.
pub fn encode_header(snapshot: SnapshotId) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u32(VERSION);
    out.put_u32(0);
    out.put_bytes(snapshot.as_str().as_bytes());
    out
}

/// Checks that a `.blocks` file is the one of this snapshot.
pub fn check_blocks_header(bytes: &[u8], snapshot: SnapshotId) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    check_header(&mut reader, MAGIC, VERSION, "file of blocks")?;
    match decode_snapshot_id(&mut reader)? == snapshot {
        true => Ok(()),
        false => Err(DecodeError::Invalid { what: "snapshot of the blocks" }),
    }
}

/// How long the record is that begins so, and whether it is a map; none where the beginning does not tell.
pub fn record_bytes(beginning: &[u8]) -> Option<(usize, bool)> {
    const WHAT: &str = "record of blocks";
    let mut reader = Reader::new(beginning);
    let tag = reader.array::<4>(WHAT).ok()?;
    let items = |count: u32, bytes: usize| FRAME_BYTES + count as usize * bytes;
    match &tag {
        SUMS => Some((items(reader.u32(WHAT).ok()?, SUM_BYTES), false)),
        STRETCHES => Some((items(reader.u32(WHAT).ok()?, STRETCH_BYTES), false)),
        MAP => {
            reader.u64(WHAT).ok()?;
            let sources = reader.u16(WHAT).ok()?;
            let mut bytes = 4 + 8 + 2;
            for _ in 0..sources {
                let mut encoded = Vec::new();
                Source::decode(&mut reader).ok()?.encode(&mut encoded);
                bytes += encoded.len();
            }
            let records = reader.u32(WHAT).ok()?;
            Some((bytes + 4 + records as usize * MAP_RECORD_BYTES + HASH_BYTES, true))
        }
        _ => None,
    }
}

pub fn sums_record_bytes(count: u16) -> usize {
    FRAME_BYTES + usize::from(count) * SUM_BYTES
}

pub fn encode_sums_record(sums: &[BlockSum]) -> Vec<u8> {
    let mut out = SUMS.to_vec();
    out.put_u32(sums.len() as u32);
    for sum in sums {
        out.put_bytes(&sum.chaining);
        out.put_u32(sum.crc32);
    }
    seal(out)
}

pub fn decode_sums_record(bytes: &[u8]) -> Result<Vec<BlockSum>, DecodeError> {
    const WHAT: &str = "block sums";
    let mut reader = open(bytes, SUMS, WHAT)?;
    let count = reader.count32(RECORD_ITEMS_MAX, WHAT)?;
    let mut sums = Vec::with_capacity(count);
    for _ in 0..count {
        sums.push(BlockSum { chaining: reader.array(WHAT)?, crc32: reader.u32(WHAT)? });
    }
    reader.finish(WHAT)?;
    Ok(sums)
}

pub fn encode_stretches(stretches: &[Stretch]) -> Vec<u8> {
    let mut out = STRETCHES.to_vec();
    out.put_u32(stretches.len() as u32);
    stretches.iter().for_each(|stretch| stretch.encode(&mut out));
    seal(out)
}

/// The stretches of a record that covers the content from `first` up to `end`.
pub fn decode_stretches(bytes: &[u8], first: u64, end: u64) -> Result<Vec<Stretch>, DecodeError> {
    const WHAT: &str = "stretches";
    let mut reader = open(bytes, STRETCHES, WHAT)?;
    let count = reader.count32(RECORD_ITEMS_MAX, WHAT)?;
    let mut stretches = Vec::with_capacity(count);
    let mut position = first;
    for _ in 0..count {
        let stretch = Stretch::decode(&mut reader)?;
        if stretch.offset != position {
            return Err(DecodeError::Invalid { what: WHAT });
        }
        position = stretch.end();
        stretches.push(stretch);
    }
    reader.finish(WHAT)?;
    match position == end && count > 0 {
        true => Ok(stretches),
        false => Err(DecodeError::Invalid { what: WHAT }),
    }
}

fn seal(mut record: Vec<u8>) -> Vec<u8> {
    let hash = blake3_hash(&record);
    record.put_bytes(&hash);
    record
}

fn open<'a>(bytes: &'a [u8], tag: &[u8; 4], what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(checked_body(bytes, what)?);
    match reader.array::<4>(what)? == *tag {
        true => Ok(reader),
        false => Err(DecodeError::Invalid { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_bytes_under_a_right_checksum_make_a_decoder_panic(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..300),
        ) {
            for tag in [MAP, SUMS, STRETCHES] {
                let record = seal([&tag[..], &bytes].concat());
                let _ = (Map::decode(&record), decode_sums_record(&record), decode_stretches(&record, 0, 16_384));
            }
        }
    }

    fn snapshot() -> SnapshotId {
        "20260101T000000Z-01234567".parse().unwrap()
    }

    fn stretch(offset: u64, bytes: u64, stored: u64, first: u16) -> Stretch {
        let sums = SumsPlace { record: 0x51, count: 9, first };
        Stretch { offset, bytes, data: Some(StretchData { source: 3, stored, sums }) }
    }

    #[test]
    fn maps_sums_and_stretches_come_back_and_every_flipped_byte_is_found() {
        let path = Some(EntryPath::parse(b".renamed/7").unwrap());
        let sources = vec![
            Source::Plain { snapshot: snapshot(), path: None },
            Source::Plain { snapshot: snapshot(), path },
            Source::Delta { snapshot: snapshot() },
        ];
        let records = vec![StretchRecord { first: 0, offset: 41, count: 2 }];
        let map = Map { size: 40_000, sources, records };
        assert_eq!(Map::decode(&map.encode()).unwrap(), map);
        let sums = vec![BlockSum { chaining: [3; 32], crc32: 7 }; 5];
        assert_eq!(decode_sums_record(&encode_sums_record(&sums)).unwrap(), sums);
        assert_eq!(encode_sums_record(&sums).len(), sums_record_bytes(5));
        let stretches = vec![stretch(0, 32_768, 7, 1), Stretch { offset: 32_768, bytes: 7_232, data: None }];
        let bytes = encode_stretches(&stretches);
        assert_eq!(
            (decode_stretches(&bytes, 0, 40_000).unwrap(), bytes.len()),
            (stretches, map.records[0].bytes())
        );
        assert!(decode_stretches(&bytes, 0, 40_001).is_err());
        for record in [map.encode(), encode_sums_record(&sums), bytes] {
            for place in 0..record.len() {
                let mut damaged = record.clone();
                damaged[place] ^= 4;
                let opened = [MAP, SUMS, STRETCHES].map(|tag| open(&damaged, tag, "x").is_ok());
                assert_eq!(opened, [false; 3]);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_stretch_and_of_the_header_are_pinned() {
        let mut out = Vec::new();
        stretch(16_384, 2, 0x0102, 4).encode(&mut out);
        let expected = [
            &[0, 0x40, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0][..],
            &[2, 1, 0, 0, 0, 0, 0, 0, 0x51, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4, 0],
        ];
        assert_eq!(out, expected.concat());
        let header = encode_header(snapshot());
        assert_eq!(header, [&b"cbkblock\x01\0\0\0\0\0\0\0"[..], b"20260101T000000Z-01234567"].concat());
        assert_eq!(header.len(), HEADER_BYTES);
        check_blocks_header(&header, snapshot()).unwrap();
    }

    #[test]
    fn stretches_that_follow_each_other_are_one_and_parts_keep_their_sums() {
        let block = BLOCK_BYTES as u64;
        let mut whole = stretch(0, 2 * block, 7, 1);
        assert!(whole.merge(&stretch(2 * block, 100, 7 + 2 * block, 3)));
        assert_eq!(whole, stretch(0, 2 * block + 100, 7, 1));
        assert!(!whole.clone().merge(&stretch(whole.end(), 5, 9, 4)));
        assert_eq!(whole.part(block, u64::MAX), stretch(block, block + 100, 7 + block, 2));
        assert_eq!(whole.part(0, block), stretch(0, block, 7, 1));
    }
}
