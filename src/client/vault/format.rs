//! What a vault's snapshot consists of, before it is sealed: the head, the stream of its index, and the streams
//! of its ranges. Here is how each piece is written and read; who cuts, seals or fetches them does not care.
//!
//! `docs/vault-format.md` has the bytes.

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::limits::{LABEL_BYTES_MAX, ROOTS_MAX, TAGS_MAX, VAULT_CHUNK_BYTES_MAX, VAULT_HEAD_BYTES_MAX};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::base::vault::ChunkName;
use crate::protocol::message::ContentEnd;

/// The version of the head, and so of all that it leads to.
pub const HEAD_VERSION: u8 = 1;
/// What stands before the names of a content's chunks: size, CRC32, BLAKE3, flags and how many there are.
pub const CONTENT_HEADER_BYTES: usize = 8 + 4 + 32 + 1 + 4;
/// A chunk of a content: its length and name.
pub const CHUNK_REFERENCE_BYTES: usize = 4 + ChunkName::BYTES;

/// The head of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultHead {
    /// Whose chain of heads this one is in.
    pub writer: [u8; 16],
    /// Its place in the chain: 1 for the first.
    pub counter: u64,
    /// The hash of the sealed head before it; zeros for the first.
    pub previous: [u8; 32],
    /// What the server calls the snapshot: it can be shown under no other id.
    pub snapshot: SnapshotId,
    pub started: Timestamp,
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub unreadable: u64,
    pub host: String,
    pub label: String,
    pub tags: Vec<String>,
    pub roots: Vec<EntryPath>,
    pub index: Stream,
}

/// Bytes that were cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    pub bytes: u64,
    pub chunks: Vec<ChunkName>,
}

/// A range as the index tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedRange {
    /// Its first entry's.
    pub path: EntryPath,
    pub stream: Stream,
}

/// A content in a range's stream, without its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader {
    pub end: ContentEnd,
    pub chunks: u32,
}

/// A chunk of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkReference {
    pub length: u32,
    pub name: ChunkName,
}

impl VaultHead {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(HEAD_VERSION);
        out.put_bytes(&self.writer);
        out.put_u64(self.counter);
        out.put_bytes(&self.previous);
        out.put_bytes(self.snapshot.as_bytes());
        self.started.encode(out);
        for count in [self.entries, self.files, self.bytes, self.unreadable] {
            out.put_u64(count);
        }
        out.put_bytes16(self.host.as_bytes());
        out.put_bytes16(self.label.as_bytes());
        out.put_u32(u32::try_from(self.tags.len()).expect("at most 64 tags"));
        self.tags.iter().for_each(|tag| out.put_bytes16(tag.as_bytes()));
        out.put_u32(u32::try_from(self.roots.len()).expect("at most 1,024 roots"));
        self.roots.iter().for_each(|root| out.put_bytes16(root.as_bytes()));
        self.index.encode(out);
    }

    pub fn decode(bytes: &[u8]) -> Result<VaultHead, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8("head version")? != HEAD_VERSION {
            return Err(DecodeError::Invalid { what: "head version" });
        }
        let head = VaultHead {
            writer: reader.array("writer id")?,
            counter: reader.u64("counter")?,
            previous: reader.array("previous head")?,
            snapshot: read_snapshot(&mut reader)?,
            started: Timestamp::decode(&mut reader)?,
            entries: reader.u64("entries")?,
            files: reader.u64("files")?,
            bytes: reader.u64("bytes")?,
            unreadable: reader.u64("unreadable")?,
            host: reader.text16(LABEL_BYTES_MAX, "host")?,
            label: reader.text16(LABEL_BYTES_MAX, "label")?,
            tags: (0..reader.count32(TAGS_MAX, "tags")?)
                .map(|_| reader.text16(LABEL_BYTES_MAX, "tag"))
                .collect::<Result<_, _>>()?,
            roots: (0..reader.count32(ROOTS_MAX, "roots")?)
                .map(|_| read_path(&mut reader))
                .collect::<Result<_, _>>()?,
            index: Stream::decode(&mut reader)?,
        };
        reader.finish("head")?;
        Ok(head)
    }
}

impl Stream {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.bytes);
        out.put_u32(u32::try_from(self.chunks.len()).expect("a stream's chunks are counted in 32 bits"));
        self.chunks.iter().for_each(|name| out.put_bytes(name.as_bytes()));
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Stream, DecodeError> {
        let bytes = reader.u64("bytes of a stream")?;
        let count = reader.u32("chunks of a stream")? as usize;
        if count > reader.remaining() / ChunkName::BYTES {
            return Err(DecodeError::Short { what: "chunks of a stream" });
        }
        let chunks = (0..count).map(|_| read_name(reader)).collect::<Result<_, _>>()?;
        Ok(Stream { bytes, chunks })
    }
}

impl IndexedRange {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes16(self.path.as_bytes());
        self.stream.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<IndexedRange, DecodeError> {
        Ok(IndexedRange { path: read_path(reader)?, stream: Stream::decode(reader)? })
    }
}

impl ContentHeader {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.end.bytes);
        out.put_u32(self.end.crc32);
        out.put_bytes(&self.end.blake3);
        out.put_u8(self.end.flags);
        out.put_u32(self.chunks);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<ContentHeader, DecodeError> {
        let end = ContentEnd {
            bytes: reader.u64("content size")?,
            crc32: reader.u32("content CRC32")?,
            blake3: reader.array("content BLAKE3")?,
            flags: reader.u8("content flags")?,
        };
        Ok(ContentHeader { end, chunks: reader.u32("chunks of a content")? })
    }
}

impl ChunkReference {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.length);
        out.put_bytes(self.name.as_bytes());
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<ChunkReference, DecodeError> {
        let length = reader.u32("length of a chunk")?;
        if !(1..=VAULT_CHUNK_BYTES_MAX).contains(&(length as usize)) {
            return Err(DecodeError::Invalid { what: "length of a chunk" });
        }
        Ok(ChunkReference { length, name: read_name(reader)? })
    }
}

fn read_name(reader: &mut Reader<'_>) -> Result<ChunkName, DecodeError> {
    Ok(ChunkName::from_bytes(reader.array("chunk name")?))
}

fn read_snapshot(reader: &mut Reader<'_>) -> Result<SnapshotId, DecodeError> {
    let id = SnapshotId::from_bytes(reader.bytes(SnapshotId::LENGTH, "snapshot id")?);
    id.ok_or(DecodeError::Invalid { what: "snapshot id" })
}

fn read_path(reader: &mut Reader<'_>) -> Result<EntryPath, DecodeError> {
    let bytes = reader.bytes16(usize::from(u16::MAX), "path")?;
    EntryPath::parse(bytes).map_err(|_| DecodeError::Invalid { what: "path" })
}

/// Most chunks of an index that its head has room for, whatever else is in it.
pub const INDEX_CHUNKS_MAX: usize = (VAULT_HEAD_BYTES_MAX - 512 * 1024) / ChunkName::BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn stream() -> Stream {
        Stream { bytes: 9, chunks: vec![ChunkName::from_bytes([1; 32]), ChunkName::from_bytes([2; 32])] }
    }

    #[test]
    fn every_piece_comes_back_and_a_cut_one_is_refused() {
        let head = VaultHead {
            writer: [3; 16],
            counter: 4,
            previous: [5; 32],
            snapshot: "20260131T235959Z-00c0ffee".parse().unwrap(),
            started: Timestamp { seconds: 6, nanoseconds: 7 },
            entries: 8,
            files: 9,
            bytes: 10,
            unreadable: 11,
            host: "h".into(),
            label: "l".into(),
            tags: vec!["t".into()],
            roots: vec![path("a/b")],
            index: stream(),
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        assert_eq!(VaultHead::decode(&bytes), Ok(head));
        (0..bytes.len()).for_each(|end| assert!(VaultHead::decode(&bytes[..end]).is_err()));

        let range = IndexedRange { path: path("a"), stream: stream() };
        let end = ContentEnd { bytes: 1, crc32: 2, blake3: [3; 32], flags: 1 };
        let content = ContentHeader { end, chunks: 1 };
        let chunk = ChunkReference { length: 1, name: ChunkName::from_bytes([4; 32]) };
        let mut bytes = Vec::new();
        range.encode(&mut bytes);
        content.encode(&mut bytes);
        chunk.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(IndexedRange::decode(&mut reader), Ok(range));
        assert_eq!(reader.remaining(), CONTENT_HEADER_BYTES + CHUNK_REFERENCE_BYTES);
        assert_eq!(ContentHeader::decode(&mut reader), Ok(content));
        assert_eq!(ChunkReference::decode(&mut reader), Ok(chunk));
        assert!(ChunkReference::decode(&mut Reader::new(&[0; 36])).is_err(), "an empty chunk is none");
        let torn = [&9u64.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat();
        assert!(Stream::decode(&mut Reader::new(&torn)).is_err(), "nothing is allocated for what is not there");
    }
}
