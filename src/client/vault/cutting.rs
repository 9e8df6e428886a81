//! The thread that reads: it compares the walk with the last backup, reads what changed, cuts it into chunks
//! and names them, and writes the streams of ranges and index, which are cut alike. Whether a chunk is sent is the
//! server's to say, and nothing here waits for that.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use crossbeam_channel::Receiver;

use super::super::delta::HOLE_STEP_BYTES;
use super::super::error::ClientError;
use super::super::facts::cause;
use super::super::ranges::{ScanTotals, ScannedItem, ScannedRange};
use super::super::reach::WHOLE;
use super::super::source::{SourceError, SourceFile, SourceReader};
use super::super::uploading::Walked;
use super::cache::{CacheWriter, KnownContent, KnownRange};
use super::chunker::{Chunker, Search};
use super::format::{CHUNK_REFERENCE_BYTES, ChunkReference, ContentHeader, INDEX_CHUNKS_MAX, IndexedRange, Stream};
use super::known::Known;
use super::lists::ListBuilder;
use super::parcel::{Found, Handed, Item, PARCEL_CAPACITY, Packer};
use super::spool::Spool;
use crate::base::codec::{Reader, Writer};
use crate::base::entry::Entry;
use crate::base::limits::{
    CONTENT_CHUNK_BYTES, RANGES_PENDING_BYTES_MAX, RANGES_PENDING_MAX, VAULT_CHUNK_BYTES_MAX,
};
use crate::base::progress::{Event, ProgressSink};
use crate::base::vault::ChunkName;
use crate::base::zeros::resize_zeroed;
use crate::channel::worker::Gone;
use crate::crypto::vault::{ChunkKind, PutKey};
use crate::crypto::{ContentHasher, ContentSums};
use crate::protocol::message::{ContentEnd, content_flag};

/// Names that were met last: a chunk that comes again soon is not asked about again.
const RECENT_NAMES: usize = 4_096;

/// Why the thread ends before its time.
pub enum CutError {
    /// Nobody takes what it hands over.
    Gone,
    Client(ClientError),
}

impl From<Gone> for CutError {
    fn from(_: Gone) -> CutError {
        CutError::Gone
    }
}

/// A content that was read: its sums, its flags, and how many chunks it has.
type ReadContent = Result<(ContentSums, u8, u32), SourceError>;
/// The same, before it is known whether it changed meanwhile.
type ReadOnce = Result<(ContentSums, u32), SourceError>;

/// What the thread works with.
pub struct Cutting<'a> {
    pub walked: Receiver<Walked>,
    pub source: SourceReader,
    pub key: &'a PutKey,
    pub packer: Packer,
    pub known: Known,
    pub cache: CacheWriter,
    /// Where the names of a long file's chunks go.
    pub state_folder: PathBuf,
    pub sink: &'a dyn ProgressSink,
}

/// The thread's state.
struct Cutter<'a> {
    source: SourceReader,
    namer: Namer<'a>,
    packer: Packer,
    known: Known,
    cache: CacheWriter,
    sink: &'a dyn ProgressSink,
    /// The chunks of the content that is being read, as its range will name them.
    references: Spool,
    lists: ListBuilder,
    /// Of the present range.
    list_ids: Vec<ChunkName>,
    is_flagged: bool,
    stream: StreamCutter,
    index: StreamCutter,
    ranges: u32,
    entries: u64,
    unreadable: u64,
    /// What was read beyond what the walk has found: of what a browser gives the walk does not know how long it is.
    read_beyond: i64,
}

impl Cutting<'_> {
    /// Works until all has been walked, or nobody takes what it hands over. Gives the cache, to be finished when
    /// the snapshot is stored.
    pub fn run(self) -> Option<CacheWriter> {
        let mut cutter = Cutter {
            source: self.source,
            namer: Namer::new(self.key),
            packer: self.packer,
            known: self.known,
            cache: self.cache,
            sink: self.sink,
            references: Spool::new(self.state_folder),
            lists: ListBuilder::default(),
            list_ids: Vec::new(),
            is_flagged: false,
            stream: StreamCutter::default(),
            index: StreamCutter::default(),
            ranges: 0,
            entries: 0,
            unreadable: 0,
            read_beyond: 0,
        };
        match cutter.cut_all(&self.walked) {
            Ok(()) => Some(cutter.cache),
            Err(CutError::Gone) => None,
            Err(CutError::Client(error)) => {
                let _ = cutter.packer.hand(Handed::Failed(error));
                None
            }
        }
    }
}

impl Cutter<'_> {
    fn cut_all(&mut self, walked: &Receiver<Walked>) -> Result<(), CutError> {
        let mut ahead: VecDeque<ScannedRange> = VecDeque::new();
        let mut totals = None;
        loop {
            while totals.is_none() && has_room(&ahead) {
                let next = match ahead.is_empty() {
                    // Nobody but the wish to stop cuts a walk short.
                    true => walked.recv().map_err(|_| CutError::Client(ClientError::Interrupted))?,
                    false => match walked.try_recv() {
                        Ok(next) => next,
                        Err(_) => break,
                    },
                };
                match next {
                    Walked::Range(range) => {
                        self.packer.hand(Handed::Totals(range.totals))?;
                        if let Some(first) = first_entry(&range) {
                            self.known.ask_up_to(&first.path, &self.packer)?;
                        }
                        ahead.push_back(range);
                    }
                    Walked::End(found) => totals = Some(found),
                }
            }
            match (ahead.pop_front(), totals) {
                (Some(range), _) => self.range(&range)?,
                (None, Some(totals)) => return self.finish(totals),
                (None, None) => {}
            }
        }
    }

    fn range(&mut self, range: &ScannedRange) -> Result<(), CutError> {
        let Some(first) = first_entry(range) else { return Ok(()) };
        self.entries += u64::from(range.entries);
        match self.known.same_range(&first.path, &range.hash)? {
            Some(known) => self.keep(range, known)?,
            None => self.cut_range(range, first)?,
        }
        self.packer.parcel.reached = Some((self.ranges, range.entries, WHOLE));
        self.ranges += 1;
        Ok(())
    }

    /// A range that is as it was.
    fn keep(&mut self, range: &ScannedRange, known: KnownRange) -> Result<(), CutError> {
        self.packer.parcel.files_done += range.items.len() as u64;
        self.packer.parcel.bytes_done += range.items.iter().map(|item| item.size).sum::<u64>();
        for id in &known.lists {
            self.packer.add(Item::Need { id: *id });
            self.packer.hand_full()?;
        }
        self.put_index(&known.indexed)?;
        self.cache.keep_range(known).map_err(cache_error)
    }

    fn cut_range(&mut self, range: &ScannedRange, first: Entry) -> Result<(), CutError> {
        self.is_flagged = false;
        let (mut reader, mut items) = (Reader::new(&range.bytes), range.items.iter().copied().peekable());
        let mut record = Vec::new();
        for number in 0..range.entries {
            let start = range.bytes.len() - reader.remaining();
            let entry = Entry::decode(&mut reader).map_err(|_| CutError::Gone)?;
            let encoded = &range.bytes[start..range.bytes.len() - reader.remaining()];
            record.clear();
            record.put_bytes32(encoded);
            let item = items.next_if(|item| item.index == number);
            record.put_u8(u8::from(item.is_some()));
            self.put_stream(&record)?;
            if let Some(item) = item {
                self.content(&entry, item)?;
            }
        }
        let stream = self.stream.finish(&mut self.namer, &mut self.packer)?;
        for name in &stream.chunks {
            self.list(*name)?;
        }
        self.end_list()?;
        let indexed = IndexedRange { path: first.path, stream };
        self.put_index(&indexed)?;
        let lists = std::mem::take(&mut self.list_ids);
        self.cache.put_range(range.hash, self.is_flagged, indexed, lists).map_err(cache_error)
    }

    /// Writes what the stream says of a content.
    fn content(&mut self, entry: &Entry, item: ScannedItem) -> Result<(), CutError> {
        self.packer.parcel.last_path.clear();
        self.packer.parcel.last_path.extend_from_slice(entry.path.as_bytes());
        if let Some(known) = self.known.same_content(entry, &self.packer)? {
            self.packer.parcel.files_done += 1;
            self.packer.parcel.bytes_done += item.size;
            return self.put_known(&known);
        }
        let read = self.read(entry, item)?;
        let (end, chunks) = match read {
            Ok((sums, flags, chunks)) => {
                let ContentSums { size, crc32, blake3 } = sums;
                self.told_read(entry, sums, flags);
                self.read_beyond += size as i64 - item.size as i64;
                self.packer.add(Item::FileEnd);
                (ContentEnd { bytes: size, crc32, blake3, flags }, chunks)
            }
            Err(error) => {
                self.references.clear();
                self.unreadable += 1;
                self.packer.parcel.unreadable += 1;
                self.sink.event(Event::FileError { path: entry.path.as_bytes(), reason: &error.to_string() });
                (ContentEnd { bytes: 0, crc32: 0, blake3: [0; 32], flags: content_flag::UNREADABLE }, 0)
            }
        };
        self.packer.parcel.files_done += 1;
        self.is_flagged |= end.flags != 0;
        self.put_header(ContentHeader { end, chunks })?;
        let mut piece = Vec::new();
        for index in 0..self.references.pieces() {
            self.references.piece(index, &mut piece).map_err(spool_error)?;
            self.put_references(&piece)?;
        }
        self.packer.hand_full()?;
        Ok(())
    }

    fn told_read(&self, entry: &Entry, sums: ContentSums, flags: u8) {
        let (path, ContentSums { size, crc32, blake3 }) = (entry.path.as_bytes(), sums);
        self.sink.event(Event::FileReceipt { path, bytes: size, crc32, blake3 });
        if flags & content_flag::CHANGED_WHILE_READ != 0 {
            let message = format!("{} changed while it was read; read again next time", entry.path.display());
            self.sink.event(Event::Notice { message: &message });
        }
    }

    fn put_known(&mut self, known: &KnownContent) -> Result<(), CutError> {
        self.put_header(known.header)?;
        let (mut piece, mut first) = (Vec::new(), 0);
        while first < known.header.chunks {
            self.known.chunks(known, first, &mut piece).map_err(cache_error)?;
            first += (piece.len() / CHUNK_REFERENCE_BYTES) as u32;
            self.put_references(&piece)?;
        }
        Ok(())
    }

    fn put_header(&mut self, header: ContentHeader) -> Result<(), CutError> {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        self.put_stream(&bytes)
    }

    /// Writes references to chunks into the stream, and their names into lists.
    fn put_references(&mut self, references: &[u8]) -> Result<(), CutError> {
        for reference in references.chunks_exact(CHUNK_REFERENCE_BYTES) {
            let name = reference.last_chunk().expect("a reference ends with a name");
            self.list(ChunkName::from_bytes(*name))?;
        }
        self.put_stream(references)
    }

    fn list(&mut self, name: ChunkName) -> Result<(), CutError> {
        if let Some(names) = self.lists.add(name) {
            self.list_ids.push(self.packer.add_list(&names)?);
        }
        Ok(())
    }

    fn end_list(&mut self) -> Result<(), CutError> {
        if let Some(names) = self.lists.finish() {
            self.list_ids.push(self.packer.add_list(&names)?);
        }
        Ok(())
    }

    fn put_stream(&mut self, bytes: &[u8]) -> Result<(), CutError> {
        self.cache.put_stream(bytes).map_err(cache_error)?;
        Ok(self.stream.put(bytes, &mut self.namer, &mut self.packer)?)
    }

    fn put_index(&mut self, range: &IndexedRange) -> Result<(), CutError> {
        let mut bytes = Vec::new();
        range.encode(&mut bytes);
        self.index.put(&bytes, &mut self.namer, &mut self.packer)?;
        match self.index.chunks.len() > INDEX_CHUNKS_MAX {
            true => Err(CutError::Client(ClientError::Impossible(
                "there are too many files for one snapshot of a vault: back up fewer paths at a time".into(),
            ))),
            false => Ok(()),
        }
    }

    fn finish(&mut self, mut totals: ScanTotals) -> Result<(), CutError> {
        totals.bytes = totals.bytes.saturating_add_signed(self.read_beyond);
        let index = self.index.finish(&mut self.namer, &mut self.packer)?;
        for name in &index.chunks {
            self.list(*name)?;
        }
        self.end_list()?;
        self.packer.hand_over(self.packer.parcel.bytes.len())?;
        self.packer.hand(Handed::Totals(totals))?;
        let (entries, unreadable) = (self.entries, self.unreadable);
        Ok(self.packer.hand(Handed::End(Box::new(Found { totals, entries, unreadable, index })))?)
    }

    /// Reads a content into parcels, once more where it changed meanwhile. Its chunks are in `references` then.
    fn read(&mut self, entry: &Entry, item: ScannedItem) -> Result<ReadContent, CutError> {
        // What is handed over may be waited for: what has been read goes out before that.
        let can_read_twice = self.source.can_read_twice();
        if !can_read_twice && !self.packer.parcel.items.is_empty() {
            self.packer.hand_over(self.packer.parcel.bytes.len())?;
        }
        let file = match self.source.open(&entry.path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let read = file.read_settled(can_read_twice, |file| self.read_once(file, item.index))?;
        Ok(read.map(|((sums, chunks), flags)| (sums, flags, chunks)))
    }

    fn read_once(&mut self, file: &mut SourceFile, entry: u32) -> Result<ReadOnce, CutError> {
        self.references.clear();
        let mut reading = Reading { open: self.packer.parcel.bytes.len(), ..Reading::default() };
        loop {
            if self.packer.is_full() {
                self.hand_over(file.position(), entry, &mut reading)?;
            }
            match self.skip_hole(file, &reading) {
                Ok(0) => {}
                Ok(hole) => {
                    self.cut_hole(hole, &mut reading)?;
                    // Hashing zeros takes its time too: between two steps it is seen whether anybody waits for it.
                    if hole == HOLE_STEP_BYTES {
                        self.hand_over(file.position(), entry, &mut reading)?;
                    }
                    continue;
                }
                Err(error) => return Ok(Err(self.give_up(&reading, error))),
            }
            let start = self.packer.parcel.bytes.len();
            let count = match read_piece(file, &mut self.packer.parcel.bytes) {
                Ok(count) => count,
                Err(error) => return Ok(Err(self.give_up(&reading, error))),
            };
            reading.hasher.update(&self.packer.parcel.bytes[start..]);
            self.packer.parcel.bytes_done += count as u64;
            while let Some(length) =
                self.namer.chunker.cut(&self.packer.parcel.bytes[reading.open..], &mut reading.search)
            {
                self.chunk(length, &mut reading)?;
            }
            if count == 0 {
                let left = self.packer.parcel.bytes.len() - reading.open;
                if left > 0 {
                    self.chunk(left, &mut reading)?;
                }
                return Ok(Ok((reading.hasher.finish(), reading.chunks)));
            }
        }
    }

    fn hand_over(&mut self, position: u64, entry: u32, reading: &mut Reading) -> Result<(), Gone> {
        self.packer.parcel.reached = Some((self.ranges, entry, position));
        self.packer.hand_over(std::mem::take(&mut reading.open))
    }

    /// What is open of a content that cannot be read on is of no use.
    fn give_up(&mut self, reading: &Reading, error: SourceError) -> SourceError {
        self.packer.parcel.bytes.truncate(reading.open);
        error
    }

    /// Leaves out the hole that begins at the next byte, and gives its length: none where a chunk is open that has
    /// more than zeros.
    fn skip_hole(&self, file: &mut SourceFile, reading: &Reading) -> Result<u64, SourceError> {
        match self.packer.parcel.bytes[reading.open..].iter().all(|byte| *byte == 0) {
            true => file.skip_hole(1, HOLE_STEP_BYTES),
            false => Ok(0),
        }
    }

    /// Cuts a hole, and the zeros that are open before it, as if all of it had been read: so a content has the same
    /// chunks whether or not it is sparse.
    fn cut_hole(&mut self, hole: u64, reading: &mut Reading) -> Result<(), CutError> {
        reading.hasher.update_zeros(hole);
        self.packer.parcel.bytes_done += hole;
        let zeros = self.namer.zeros;
        let open = (self.packer.parcel.bytes.len() - reading.open) as u64 + hole;
        let (whole, rest) = (open / u64::from(zeros.length), open % u64::from(zeros.length));
        if whole > 0 && !self.namer.is_recent(zeros.name) {
            let (start, end) = (reading.open, reading.open + zeros.length as usize);
            resize_zeroed(&mut self.packer.parcel.bytes, end);
            self.packer.add(Item::Chunk { name: zeros.name, start, end, is_content: true });
            reading.open = end;
        }
        for _ in 0..whole {
            self.refer(zeros, reading)?;
        }
        resize_zeroed(&mut self.packer.parcel.bytes, reading.open + rest as usize);
        reading.search = Search::default();
        Ok(())
    }

    /// A chunk of a content, which lies in the parcel: so many bytes of what is open.
    fn chunk(&mut self, length: usize, reading: &mut Reading) -> Result<(), CutError> {
        let (start, end) = (reading.open, reading.open + length);
        let (name, is_recent) = self.namer.name(ChunkKind::Content, &self.packer.parcel.bytes[start..end]);
        if !is_recent {
            self.packer.add(Item::Chunk { name, start, end, is_content: true });
        }
        reading.open = end;
        self.refer(ChunkReference { length: length as u32, name }, reading)
    }

    fn refer(&mut self, chunk: ChunkReference, reading: &mut Reading) -> Result<(), CutError> {
        let mut reference = Vec::with_capacity(CHUNK_REFERENCE_BYTES);
        chunk.encode(&mut reference);
        let reference = reference.first_chunk().expect("a reference has this length");
        reading.chunks += 1;
        self.references.push(reference).map_err(spool_error)
    }
}

/// A content while it is read and cut.
#[derive(Default)]
struct Reading {
    hasher: ContentHasher,
    search: Search,
    chunks: u32,
    /// Where in the parcel begins what follows the last cut.
    open: usize,
}

/// Names chunks, and remembers those that came last.
struct Namer<'a> {
    key: &'a PutKey,
    chunker: Chunker,
    recent: Vec<ChunkName>,
    /// The chunk that is cut from zeros and more zeros.
    zeros: ChunkReference,
}

impl Namer<'_> {
    fn new(key: &PutKey) -> Namer<'_> {
        let (chunker, zeros) = (Chunker::new(key.gear()), vec![0; VAULT_CHUNK_BYTES_MAX]);
        let length = chunker.cut(&zeros, &mut Search::default()).expect("no chunk is longer");
        let name = key.name(ChunkKind::Content, &zeros[..length]);
        let zeros = ChunkReference { length: length as u32, name };
        Namer { key, chunker, recent: vec![ChunkName::from_bytes([0; 32]); RECENT_NAMES], zeros }
    }

    /// The name, and whether a chunk of that name has come lately.
    fn name(&mut self, kind: ChunkKind, bytes: &[u8]) -> (ChunkName, bool) {
        let name = self.key.name(kind, bytes);
        (name, self.is_recent(name))
    }

    /// Whether a chunk of that name has come lately; from now on it has.
    fn is_recent(&mut self, name: ChunkName) -> bool {
        let head: [u8; 4] = *name.as_bytes().last_chunk().expect("a name has 32 bytes");
        let slot = &mut self.recent[u32::from_le_bytes(head) as usize % RECENT_NAMES];
        std::mem::replace(slot, name) == name
    }
}

/// A stream of metadata on its way into chunks.
#[derive(Default)]
struct StreamCutter {
    /// What follows the last cut.
    open: Vec<u8>,
    search: Search,
    bytes: u64,
    chunks: Vec<ChunkName>,
}

impl StreamCutter {
    fn put(&mut self, bytes: &[u8], namer: &mut Namer<'_>, packer: &mut Packer) -> Result<(), Gone> {
        self.open.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        while let Some(length) = namer.chunker.cut(&self.open, &mut self.search) {
            self.chunk(length, namer, packer)?;
        }
        Ok(())
    }

    fn chunk(&mut self, length: usize, namer: &mut Namer<'_>, packer: &mut Packer) -> Result<(), Gone> {
        let (name, is_recent) = namer.name(ChunkKind::Metadata, &self.open[..length]);
        if !is_recent {
            packer.add_metadata(name, &self.open[..length])?;
        }
        self.chunks.push(name);
        self.open.drain(..length);
        Ok(())
    }

    /// Ends the stream, and begins the next one.
    fn finish(&mut self, namer: &mut Namer<'_>, packer: &mut Packer) -> Result<Stream, Gone> {
        if !self.open.is_empty() {
            self.chunk(self.open.len(), namer, packer)?;
        }
        self.search = Search::default();
        Ok(Stream { bytes: std::mem::take(&mut self.bytes), chunks: std::mem::take(&mut self.chunks) })
    }
}

fn has_room(ahead: &VecDeque<ScannedRange>) -> bool {
    ahead.len() < RANGES_PENDING_MAX
        && ahead.iter().map(|range| range.bytes.len()).sum::<usize>() < RANGES_PENDING_BYTES_MAX
}

fn first_entry(range: &ScannedRange) -> Option<Entry> {
    Entry::decode(&mut Reader::new(&range.bytes)).ok()
}

/// Reads the next piece of a content behind what is in the parcel; 0 at its end.
fn read_piece(file: &mut SourceFile, out: &mut Vec<u8>) -> Result<usize, SourceError> {
    let start = out.len();
    let left = usize::try_from(file.left()).unwrap_or(usize::MAX);
    let room = left.min(CONTENT_CHUNK_BYTES).min(PARCEL_CAPACITY.saturating_sub(start));
    resize_zeroed(out, start + room);
    let read = file.read_into(&mut out[start..]);
    out.truncate(start + *read.as_ref().unwrap_or(&0));
    read
}

fn spool_error(error: io::Error) -> CutError {
    let doing = format!("keep the names of a file's chunks in the state folder ({})", cause(&error));
    CutError::Client(ClientError::Io { doing, source: error })
}

fn cache_error(error: io::Error) -> CutError {
    let doing = "write vault-cache in the state folder (free some space, or remove that folder)".into();
    CutError::Client(ClientError::Io { doing, source: error })
}
