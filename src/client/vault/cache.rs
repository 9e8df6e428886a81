//! What this host knows of its last backup into a vault: for each range, which lists and chunks it consists of. The
//! server is asked whether it still holds them, so nothing here has to be right; it may be lost at any time, and
//! then contents are only cut again.
//!
//! There are two files: `ranges`, a record for each range, and `streams-…`, the ranges' streams. A backup writes
//! a new file of records beside the old one, and appends the new streams to the old ones; so what did not change
//! costs a record. A backup that is cut off leaves its records too: they and those of the old file behind them are
//! the next one's cache. Where more than half of the streams belong to no record any more, the next
//! backup copies those that it needs into a new file.
//!
//! Nothing is flushed: records have checksums and streams have hashes, and what does not fit them is not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::{CHUNK_REFERENCE_BYTES, CONTENT_HEADER_BYTES, ContentHeader, IndexedRange};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::entry::Entry;
use crate::base::ids::{hex, random_array};
use crate::base::limits::RANGE_BYTES_MAX;
use crate::base::vault::ChunkName;
use crate::base::zeros::resize_zeroed;
use crate::crypto::{blake3_hash, checksum::crc32};

const FOLDER: &str = "vault-cache";
const RECORDS: &str = "ranges";
const NEW_RECORDS: &str = "ranges.new";
const JOINED_RECORDS: &str = "ranges.joined";
const MAGIC: &[u8; 8] = b"\xcbcbkVCA1";
/// Caches of different paths, vaults and servers that are kept.
const CACHES_MAX: usize = 16;
/// A record that is longer is not kept: the chunks of a file of some 20 TB.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// So many bytes of streams that nothing needs are left alone.
const WASTE_BYTES: u64 = 4 * 1024 * 1024;
/// How much of a stream is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// A range of an earlier backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRange {
    /// BLAKE3 of its entries, as the walk gives it.
    pub hash: [u8; 32],
    /// Something in it is to be read again.
    pub is_flagged: bool,
    pub indexed: IndexedRange,
    pub lists: Vec<ChunkName>,
    /// Where its stream lies, and the BLAKE3 of that.
    offset: u64,
    stream_hash: [u8; 32],
}

impl KnownRange {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.hash);
        out.put_flag(self.is_flagged);
        out.put_u64(self.offset);
        out.put_bytes(&self.stream_hash);
        out.put_u32(self.lists.len() as u32);
        self.lists.iter().for_each(|list| out.put_bytes(list.as_bytes()));
        self.indexed.encode(out);
    }

    fn decode(bytes: &[u8]) -> Result<KnownRange, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (hash, is_flagged) = (reader.array("hash")?, reader.flag("flag")?);
        let (offset, stream_hash) = (reader.u64("offset")?, reader.array("hash of a stream")?);
        let count = reader.count32(bytes.len() / ChunkName::BYTES, "lists")?;
        let lists = (0..count).map(|_| Ok(ChunkName::from_bytes(reader.array("list")?)));
        let lists = lists.collect::<Result<_, DecodeError>>()?;
        let indexed = IndexedRange::decode(&mut reader)?;
        reader.finish("record")?;
        Ok(KnownRange { hash, is_flagged, indexed, lists, offset, stream_hash })
    }
}

/// The cache of one set of paths.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache for `of`, which says everything that makes one: vault, server, paths.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn open(state: &Path, of: &[u8]) -> io::Result<Cache> {
        let all = state.join(FOLDER);
        let folder = all.join(hex(&blake3_hash(of)[..8]));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        drop_oldest(&all, &folder);
        let cache = Cache { folder };
        cache.join_records();
        Ok(cache)
    }

    /// Begins to read what is known, and to write what will be. With `fresh` nothing is known.
    ///
    /// # Errors
    /// The new files cannot be made.
    pub fn begin(&self, fresh: bool) -> io::Result<(Option<KnownRanges>, CacheWriter)> {
        let known = KnownRanges::open(&self.folder, RECORDS).filter(|_| !fresh);
        let writer = CacheWriter::create(&self.folder, known.as_ref())?;
        Ok((known, writer))
    }

    /// Puts what an unfinished backup wrote, and behind it what was known before, in the place of what was known.
    fn join_records(&self) {
        let Some(mut new) = KnownRanges::open(&self.folder, NEW_RECORDS) else { return };
        let old = KnownRanges::open(&self.folder, RECORDS).filter(|old| old.generation == new.generation);
        let joined = || -> io::Result<()> {
            let mut out = RecordFile::create(&self.folder.join(JOINED_RECORDS), new.generation)?;
            let mut last = None;
            while let Some(range) = new.next() {
                out.put(&range)?;
                last = Some(range.indexed.path);
            }
            let mut old = old;
            while let Some(range) = old.as_mut().and_then(KnownRanges::next) {
                if last.as_ref().is_none_or(|last| *last < range.indexed.path) {
                    out.put(&range)?;
                }
            }
            out.finish()?;
            fs::rename(self.folder.join(JOINED_RECORDS), self.folder.join(RECORDS))
        };
        if let Err(error) = joined() {
            log::debug!("the cache of an unfinished backup is given up: {error}");
        }
        let _ = fs::remove_file(self.folder.join(NEW_RECORDS));
    }
}

/// Keeps the caches that were used last, `own` among them.
fn drop_oldest(all: &Path, own: &Path) {
    let Ok(folders) = fs::read_dir(all) else { return };
    let mut others: Vec<_> = folders
        .flatten()
        .filter(|folder| folder.path() != own)
        .filter_map(|folder| {
            Some((fs::metadata(folder.path().join(RECORDS)).ok()?.modified().ok()?, folder.path()))
        })
        .collect();
    others.sort();
    let spare = (others.len() + 1).saturating_sub(CACHES_MAX);
    for (_, folder) in &others[..spare] {
        let _ = fs::remove_dir_all(folder);
    }
}

fn streams_path(folder: &Path, generation: [u8; 8]) -> PathBuf {
    folder.join(format!("streams-{}", hex(&generation)))
}

/// The ranges of an earlier backup, in their order.
pub struct KnownRanges {
    records: BufReader<File>,
    streams: File,
    generation: [u8; 8],
    body: Vec<u8>,
}

impl KnownRanges {
    fn open(folder: &Path, name: &str) -> Option<KnownRanges> {
        let mut records = BufReader::new(File::open(folder.join(name)).ok()?);
        let mut start = [0; 16];
        records.read_exact(&mut start).ok()?;
        let generation = *start.last_chunk::<8>()?;
        let streams = File::open(streams_path(folder, generation)).ok()?;
        (start[..8] == MAGIC[..]).then_some(KnownRanges { records, streams, generation, body: Vec::new() })
    }

    /// The next range; none at the end, or where the rest is damaged.
    pub fn next(&mut self) -> Option<KnownRange> {
        let mut start = [0; 8];
        self.records.read_exact(&mut start).ok()?;
        let (length, sum) = (start.first_chunk::<4>()?, start.last_chunk::<4>()?);
        let length = u32::from_le_bytes(*length) as usize;
        if length > RECORD_BYTES_MAX {
            return None;
        }
        resize_zeroed(&mut self.body, length);
        self.records.read_exact(&mut self.body).ok()?;
        if crc32(&self.body) != u32::from_le_bytes(*sum) {
            return None;
        }
        KnownRange::decode(&self.body).ok()
    }

    /// The entries of a range; none where its stream is not what it was.
    pub fn entries(&self, range: &KnownRange) -> Option<KnownEntries> {
        let end = range.offset.checked_add(range.indexed.stream.bytes)?;
        let mut entries = KnownEntries {
            streams: self.streams.try_clone().ok()?,
            window: Vec::new(),
            start: range.offset,
            position: range.offset,
            end,
        };
        let mut hasher = blake3::Hasher::new();
        while entries.position < end {
            let piece = entries.bytes((end - entries.position).min(READ_BYTES as u64) as usize)?;
            hasher.update(piece);
        }
        entries.position = range.offset;
        (hasher.finalize() == range.stream_hash).then_some(entries)
    }
}

/// The entries of a range of an earlier backup, in their order.
pub struct KnownEntries {
    streams: File,
    /// A part of the file, from `start` on.
    window: Vec<u8>,
    start: u64,
    position: u64,
    end: u64,
}

/// An entry, and the content it had.
pub struct KnownEntry {
    pub entry: Entry,
    pub content: Option<KnownContent>,
}

/// A content: what is known of it, and where its chunks are named.
#[derive(Debug, Clone, Copy)]
pub struct KnownContent {
    pub header: ContentHeader,
    chunks_at: u64,
}

impl KnownEntries {
    /// The next one; none at the end.
    pub fn next(&mut self) -> Option<KnownEntry> {
        let length = u32::from_le_bytes(self.bytes(4)?.try_into().ok()?) as usize;
        if length > RANGE_BYTES_MAX {
            return None;
        }
        let entry = Entry::decode(&mut Reader::new(self.bytes(length)?)).ok()?;
        let content = match self.bytes(1)? {
            [1] => {
                let header = ContentHeader::decode(&mut Reader::new(self.bytes(CONTENT_HEADER_BYTES)?)).ok()?;
                let chunks_at = self.position;
                self.position += u64::from(header.chunks) * CHUNK_REFERENCE_BYTES as u64;
                Some(KnownContent { header, chunks_at })
            }
            _ => None,
        };
        Some(KnownEntry { entry, content })
    }

    /// A part of a content's chunks, from number `first` on, as they lie in the stream.
    pub fn chunks(&self, content: &KnownContent, first: u32, out: &mut Vec<u8>) -> io::Result<()> {
        let count = (content.header.chunks - first).min((READ_BYTES / CHUNK_REFERENCE_BYTES) as u32);
        resize_zeroed(out, count as usize * CHUNK_REFERENCE_BYTES);
        self.streams.read_exact_at(out, content.chunks_at + u64::from(first) * CHUNK_REFERENCE_BYTES as u64)
    }

    /// The next bytes of the stream; none where it has not so many.
    fn bytes(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.position.checked_add(count as u64).filter(|end| *end <= self.end)?;
        if self.position < self.start || end > self.start + self.window.len() as u64 {
            let length = (self.end - self.position).min(READ_BYTES.max(count) as u64) as usize;
            resize_zeroed(&mut self.window, length);
            self.start = self.position;
            if self.streams.read_exact_at(&mut self.window, self.position).is_err() {
                self.window.clear();
                return None;
            }
        }
        let at = (self.position - self.start) as usize;
        self.position = end;
        Some(&self.window[at..at + count])
    }
}

/// A file of records that is being written.
struct RecordFile {
    file: BufWriter<File>,
    body: Vec<u8>,
}

impl RecordFile {
    fn create(path: &Path, generation: [u8; 8]) -> io::Result<RecordFile> {
        let _ = fs::remove_file(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut file = BufWriter::new(file);
        file.write_all(MAGIC)?;
        file.write_all(&generation)?;
        Ok(RecordFile { file, body: Vec::new() })
    }

    fn put(&mut self, range: &KnownRange) -> io::Result<()> {
        self.body.clear();
        range.encode(&mut self.body);
        if self.body.len() > RECORD_BYTES_MAX {
            return Ok(());
        }
        self.file.write_all(&(self.body.len() as u32).to_le_bytes())?;
        self.file.write_all(&crc32(&self.body).to_le_bytes())?;
        self.file.write_all(&self.body)
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes what this backup finds.
pub struct CacheWriter {
    folder: PathBuf,
    records: RecordFile,
    streams: BufWriter<File>,
    generation: [u8; 8],
    /// Where streams are copied from, because most of that file is waste.
    copied_from: Option<File>,
    /// Where the next stream begins, and how much of the present one has been written.
    offset: u64,
    written: u64,
    hasher: blake3::Hasher,
}

impl CacheWriter {
    fn create(folder: &Path, known: Option<&KnownRanges>) -> io::Result<CacheWriter> {
        let wasteful = known.map(|known| is_wasteful(folder, known)).transpose()?.unwrap_or(false);
        let generation = match known {
            Some(known) if !wasteful => known.generation,
            _ => random_array(),
        };
        let path = streams_path(folder, generation);
        let streams = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(CacheWriter {
            folder: folder.to_path_buf(),
            records: RecordFile::create(&folder.join(NEW_RECORDS), generation)?,
            offset: streams.metadata()?.len(),
            streams: BufWriter::with_capacity(READ_BYTES, streams),
            generation,
            copied_from: known.filter(|_| wasteful).map(|known| known.streams.try_clone()).transpose()?,
            written: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Adds to the stream of the present range.
    pub fn put_stream(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.streams.write_all(bytes)
    }

    /// Ends the present range.
    pub fn put_range(
        &mut self,
        hash: [u8; 32],
        is_flagged: bool,
        indexed: IndexedRange,
        lists: Vec<ChunkName>,
    ) -> io::Result<()> {
        let stream_hash = *self.hasher.finalize().as_bytes();
        self.records.put(&KnownRange { hash, is_flagged, indexed, lists, offset: self.offset, stream_hash })?;
        self.offset += std::mem::take(&mut self.written);
        self.hasher.reset();
        Ok(())
    }

    /// Keeps a range that is as it was.
    pub fn keep_range(&mut self, mut range: KnownRange) -> io::Result<()> {
        if let Some(source) = &self.copied_from {
            let (mut at, end) = (range.offset, range.offset + range.indexed.stream.bytes);
            let mut piece = vec![0; READ_BYTES];
            while at < end {
                let count = (end - at).min(READ_BYTES as u64) as usize;
                source.read_exact_at(&mut piece[..count], at)?;
                self.streams.write_all(&piece[..count])?;
                at += count as u64;
            }
            range.offset = self.offset;
            self.offset += range.indexed.stream.bytes;
        }
        self.records.put(&range)
    }

    /// All ranges have been written, and are what is known from now on.
    pub fn finish(mut self) -> io::Result<()> {
        self.streams.flush()?;
        self.records.finish()?;
        fs::rename(self.folder.join(NEW_RECORDS), self.folder.join(RECORDS))?;
        let own = streams_path(&self.folder, self.generation);
        for file in fs::read_dir(&self.folder)?.flatten() {
            let is_stream = file.file_name().as_encoded_bytes().starts_with(b"streams-");
            if is_stream && file.path() != own {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// Whether most of the streams' file belongs to no range.
fn is_wasteful(folder: &Path, known: &KnownRanges) -> io::Result<bool> {
    let bytes = known.streams.metadata()?.len();
    if bytes <= WASTE_BYTES {
        return Ok(false);
    }
    let mut ranges = KnownRanges::open(folder, RECORDS);
    let next = std::iter::from_fn(|| ranges.as_mut()?.next());
    let live: u64 = next.map(|range| range.indexed.stream.bytes).sum();
    Ok(bytes > WASTE_BYTES + 2 * live)
}
