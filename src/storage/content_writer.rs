//! One content as it arrives: written whole to a plain file, or composed of what the store holds at the same
//! offset, changed blocks and holes. Either way its sums are put together from those of its blocks. What is kept
//! is only referred to and never read, but for the files of which [`Held`] says that they are copied.
//!
//! The peer is not trusted: a piece out of place is an error, and memory does not grow with the content.

use super::at_rest::FileWriter;
use super::blocks_format::{BlocksPlace, Source, Stretch, StretchData};
use super::blocks_reader::{ClientFiles, ContentMap, MappedContent};
use super::blocks_writer::{LargeFiles, MapWriter, Mark};
use super::content::ContentReader;
use super::error::{At, StoreError};
use super::gathering::Gathering;
use super::range::StoredContent;
use crate::base::limits::LARGE_FILE_BYTES;
use crate::base::path::EntryPath;
use crate::crypto::{
    BLOCK_BYTES, BlockHasher, BlockSum, ContentSums, SumsCombiner, blake3_hash, block_sum, blocks_in,
};

/// What is read back and summed at a time.
const PIECE_BYTES: usize = 64 * 1024;
const BLOCK: u64 = BLOCK_BYTES as u64;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// Largest content: what a file may have.
const CONTENT_BYTES_MAX: u64 = i64::MAX as u64;

/// What has come of a large content is noted each time so much more is stored of it, or, where that is more, the
/// `NOTE_PART`th part of it: a process that ends at any moment loses no more, and the maps of the notes stay small
/// beside the content.
const NOTE_BYTES: u64 = 256 * 1024;
const NOTE_PART: u64 = 128;

/// Takes a content in.
#[derive(Debug)]
pub struct ContentWriter {
    target: Target,
    /// What is held, where something can be kept of it.
    held: Option<Box<Held>>,
    /// Where the bytes that arrive lie.
    own: Source,
    own_number: Option<u16>,
    /// What to add to a block's offset to have its place in the delta, since the last border.
    shift: u64,
    position: u64,
    /// A kept piece ended with a short block, which is the last one of a content.
    ended: bool,
    /// Bytes that take room on the disk; and how many there were of them at the last note.
    stored_bytes: u64,
    noted_bytes: u64,
    hasher: BlockHasher,
    finished: Vec<(BlockSum, usize)>,
    combiner: SumsCombiner,
    map: MapWriter,
    mark: Mark,
}

#[derive(Debug)]
enum Target {
    Plain(FileWriter),
    Delta,
}

/// The content that a new one is composed with.
#[derive(Debug)]
pub struct Held {
    files: ClientFiles,
    path: EntryPath,
    content: StoredContent,
    bytes: MappedContent,
    /// What is copied where it is kept.
    gathering: Gathering,
    /// The numbers that its sources have in the new map.
    numbers: Vec<Option<u16>>,
}

impl Held {
    pub fn new(
        files: ClientFiles,
        path: EntryPath,
        content: StoredContent,
        map: ContentMap,
        gathering: Gathering,
    ) -> Held {
        let numbers = vec![None; map.sources()];
        let bytes = MappedContent::new(map, files.clone(), path.clone());
        Held { files, path, content, bytes, gathering, numbers }
    }

    fn map(&mut self) -> &mut ContentMap {
        self.bytes.map()
    }

    fn is_copied(&self, stretch: &Stretch) -> bool {
        let Some(data) = &stretch.data else { return false };
        match &self.gathering {
            Gathering::Nothing => false,
            Gathering::Deltas(copied) => copied.get(usize::from(data.source)).copied().unwrap_or(false),
            Gathering::Whole => true,
        }
    }
}

/// What is known of a content that has arrived.
#[derive(Debug)]
pub struct WrittenContent {
    pub sums: ContentSums,
    /// Where its blocks are recorded; none for a plain content that is not large.
    pub blocks: Option<BlocksPlace>,
    /// Bytes of it that take room on the disk.
    pub stored_bytes: u64,
}

impl ContentWriter {
    /// A content that is written whole to `file`, which will lie where `own` says.
    pub fn plain(file: FileWriter, own: Source, large: &LargeFiles) -> ContentWriter {
        ContentWriter::new(Target::Plain(file), own, large)
    }

    /// A content of which the changed blocks are written to the upload's delta.
    pub fn delta(own: Source, large: &LargeFiles) -> ContentWriter {
        ContentWriter::new(Target::Delta, own, large)
    }

    /// Composes it with what is held; with nothing held, nothing can be kept. All that is kept in a plain content has
    /// to be copied.
    pub fn with_held(self, held: Option<Held>) -> ContentWriter {
        ContentWriter { held: held.map(Box::new), ..self }
    }

    /// Goes on behind the first `bytes`, whole blocks, which are there as `map` tells. Only for a writer that has
    /// taken nothing in; a plain file is longer until [`ContentWriter::cut_file`].
    pub fn resume(&mut self, map: &mut ContentMap, bytes: u64) -> Result<(), StoreError> {
        let (combiner, blocks) = (&mut self.combiner, bytes / BLOCK);
        map.each_sum(0, blocks, |sum| combiner.add(sum, BLOCK_BYTES))?;
        self.map = MapWriter::resume(map, bytes)?;
        self.hasher.skip_blocks(blocks);
        self.position = bytes;
        self.stored_bytes = map.stored_bytes(bytes)?;
        self.noted_bytes = self.stored_bytes;
        Ok(())
    }

    /// Cuts a plain file off behind what has been taken in.
    pub fn cut_file(&mut self, large: &LargeFiles) -> Result<(), StoreError> {
        match &mut self.target {
            Target::Plain(file) if file.bytes() != self.position => {
                file.cut_back(self.position).at("cut a file below", large.path())
            }
            _ => Ok(()),
        }
    }

    fn new(target: Target, own: Source, large: &LargeFiles) -> ContentWriter {
        ContentWriter {
            target,
            held: None,
            own,
            own_number: None,
            shift: 0,
            position: 0,
            ended: false,
            stored_bytes: 0,
            noted_bytes: 0,
            hasher: BlockHasher::new(),
            finished: Vec::new(),
            combiner: SumsCombiner::new(),
            map: MapWriter::default(),
            mark: large.mark(),
        }
    }

    pub fn is_delta(&self) -> bool {
        matches!(self.target, Target::Delta)
    }

    /// Whether all that came of it may be what is held.
    pub fn may_be_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| self.stored_bytes == 0 || held.gathering != Gathering::Nothing)
    }

    /// Bytes of it that take room on the disk, so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// How long the upload's files were when the content was begun.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Appends bytes; in a delta, behind a kept piece that ended at a block border.
    pub fn write(&mut self, bytes: &[u8], large: &mut LargeFiles) -> Result<(), StoreError> {
        self.check_room(bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.note_shift(large);
        match &mut self.target {
            Target::Plain(file) => file.write(bytes).at("write a file below", large.path())?,
            Target::Delta => large.append_delta(bytes)?,
        }
        self.stored_bytes += bytes.len() as u64;
        self.hash(bytes, large)
    }

    /// Appends zeros for which nothing is stored. What of them does not fill a block is stored in a delta.
    pub fn write_hole(&mut self, length: u64, large: &mut LargeFiles) -> Result<(), StoreError> {
        self.check_room(length)?;
        let to_border = (BLOCK - self.hasher.filled() as u64) % BLOCK;
        let head = length.min(to_border);
        self.write_zeros(head as usize, large)?;
        let blocks = (length - head) / BLOCK;
        self.write_hole_blocks(blocks, large)?;
        self.write_zeros(((length - head) % BLOCK) as usize, large)
    }

    /// Fewer zeros than a block.
    fn write_zeros(&mut self, length: usize, large: &mut LargeFiles) -> Result<(), StoreError> {
        let zeros = &ZEROS[..length];
        match &mut self.target {
            _ if length == 0 => Ok(()),
            Target::Delta => self.write(zeros, large),
            Target::Plain(file) => {
                file.skip(length as u64).at("write a file below", large.path())?;
                self.hash(zeros, large)
            }
        }
    }

    fn write_hole_blocks(&mut self, blocks: u64, large: &mut LargeFiles) -> Result<(), StoreError> {
        if blocks == 0 {
            return Ok(());
        }
        if let Target::Plain(file) = &mut self.target {
            file.skip(blocks * BLOCK).at("write a file below", large.path())?;
        }
        let first = self.position / BLOCK;
        (first..first + blocks).for_each(|block| self.combiner.add(&block_sum(block, &ZEROS), BLOCK_BYTES));
        self.map.add(large, Stretch { offset: self.position, bytes: blocks * BLOCK, data: None })?;
        self.hasher.skip_blocks(blocks);
        self.position += blocks * BLOCK;
        Ok(())
    }

    /// Takes the next `length` bytes from the held content, at the same offset.
    ///
    /// # Errors
    /// `Damaged` where the record of what is held is; `Mismatch` where what is to be copied is not as recorded.
    pub fn keep(&mut self, length: u64, large: &mut LargeFiles) -> Result<(), StoreError> {
        self.check_room(length)?;
        let Some(mut held) = self.held.take() else {
            return Err(StoreError::out_of_place("nothing can be kept in a content that is sent whole"));
        };
        let kept = self.keep_of(&mut held, length, large);
        self.held = Some(held);
        kept
    }

    fn keep_of(&mut self, held: &mut Held, length: u64, large: &mut LargeFiles) -> Result<(), StoreError> {
        let (end, size) = (self.position + length, held.map().size());
        let at_borders = self.hasher.filled() == 0 && (end.is_multiple_of(BLOCK) || end == size);
        if length == 0 || end > size || !at_borders {
            return Err(StoreError::out_of_place("a kept piece does not fit what is held"));
        }
        while self.position < end {
            let stretch = held.map().stretch_at(self.position)?.part(self.position, end);
            match (&self.target, stretch.data) {
                (Target::Plain(_), None) => self.write_hole(stretch.bytes, large)?,
                _ if held.is_copied(&stretch) => self.copy(held, stretch, large)?,
                (Target::Plain(_), Some(_)) => {
                    return Err(StoreError::out_of_place("what is kept in a plain content must be copied"));
                }
                (Target::Delta, _) => self.refer_to(held, stretch, large)?,
            }
        }
        self.ended = !end.is_multiple_of(BLOCK);
        Ok(())
    }

    /// Adds a stretch of the held content without reading it.
    fn refer_to(&mut self, held: &mut Held, stretch: Stretch, large: &mut LargeFiles) -> Result<(), StoreError> {
        let ContentWriter { combiner, map, .. } = self;
        let (first, end) = (stretch.offset / BLOCK, blocks_in(stretch.end()));
        held.map().each_sum(first, end, |sum| {
            let left = stretch.end() - combiner.size();
            combiner.add(sum, left.min(BLOCK) as usize);
        })?;
        let stretch = renumbered(held, map, stretch)?;
        map.add(large, stretch)?;
        self.hasher.skip_blocks(end - first);
        self.position = stretch.end();
        Ok(())
    }

    /// Copies a stretch of the held content, each block of which must be as recorded.
    fn copy(&mut self, held: &mut Held, stretch: Stretch, large: &mut LargeFiles) -> Result<(), StoreError> {
        let (mut buffer, mut sums) = (vec![0; PIECE_BYTES.min(stretch.bytes as usize)], Vec::new());
        let name = held.path.display().to_string();
        let damaged = |problem: &dyn std::fmt::Display| StoreError::Mismatch {
            what: format!("the stored content of {name} ({problem})"),
        };
        while self.position < stretch.end() {
            let (start, left) = (self.position, stretch.end() - self.position);
            let piece = &mut buffer[..left.min(PIECE_BYTES as u64) as usize];
            held.bytes.read_exact_at(piece, start).map_err(|error| damaged(&error))?;
            sums.clear();
            held.bytes.map().block_sums(start / BLOCK, piece.len().div_ceil(BLOCK_BYTES), &mut sums)?;
            let blocks = piece.chunks(BLOCK_BYTES).zip(start / BLOCK..);
            if !blocks.map(|(block, number)| block_sum(number, block)).eq(sums.iter().copied()) {
                return Err(damaged(&"a block is not what was recorded"));
            }
            self.write_blocks(piece, &sums, large)?;
        }
        Ok(())
    }

    /// Writes whole blocks, or some and the content's last one, whose sums are known.
    fn write_blocks(&mut self, bytes: &[u8], sums: &[BlockSum], large: &mut LargeFiles) -> Result<(), StoreError> {
        self.note_shift(large);
        match &mut self.target {
            Target::Plain(file) => file.write(bytes).at("write a file below", large.path())?,
            Target::Delta => large.append_delta(bytes)?,
        }
        self.finished.extend(sums.iter().copied().zip(bytes.chunks(BLOCK_BYTES).map(<[u8]>::len)));
        self.hasher.skip_blocks(sums.len() as u64);
        self.position += bytes.len() as u64;
        self.stored_bytes += bytes.len() as u64;
        self.take_finished(large)
    }

    fn check_room(&self, length: u64) -> Result<(), StoreError> {
        let fits = self.position.checked_add(length).is_some_and(|end| end <= CONTENT_BYTES_MAX);
        match (fits, self.ended) {
            (true, false) => Ok(()),
            (false, _) => Err(StoreError::out_of_place("a content is longer than a file can be")),
            (true, true) => Err(StoreError::out_of_place("a content goes on behind its last block")),
        }
    }

    /// At a block border, what comes next in the delta may lie anywhere.
    fn note_shift(&mut self, large: &LargeFiles) {
        if self.is_delta() && self.hasher.filled() == 0 {
            self.shift = large.delta_bytes().wrapping_sub(self.position);
        }
    }

    fn hash(&mut self, bytes: &[u8], large: &mut LargeFiles) -> Result<(), StoreError> {
        let finished = &mut self.finished;
        self.hasher.update(bytes, |sum, length| finished.push((sum, length)));
        self.position += bytes.len() as u64;
        self.take_finished(large)
    }

    fn take_finished(&mut self, large: &mut LargeFiles) -> Result<(), StoreError> {
        let mut finished = std::mem::take(&mut self.finished);
        for (sum, bytes) in finished.drain(..) {
            let number = match self.own_number {
                Some(number) => number,
                None => *self.own_number.insert(self.map.add_source(&self.own)?),
            };
            let stored = self.combiner.size().wrapping_add(self.shift);
            self.map.add_block(large, number, stored, bytes, sum)?;
            self.combiner.add(&sum, bytes);
        }
        self.finished = finished;
        Ok(())
    }

    /// Has what has come so far lie in the file, to be read.
    pub fn make_readable(&mut self, large: &LargeFiles) -> Result<(), StoreError> {
        match &mut self.target {
            Target::Plain(file) => file.finish().at("write a file below", large.path()),
            Target::Delta => Ok(()),
        }
    }

    /// Whether so much has come since the last note that it should not be lost with the process.
    pub fn is_note_due(&self) -> bool {
        self.stored_bytes - self.noted_bytes >= NOTE_BYTES.max(self.position / NOTE_PART)
    }

    /// Records what has come so far, as far as it fills blocks: its sums, and where its map lies. None for what is
    /// not large, of which nothing is kept.
    pub fn note(&mut self, large: &mut LargeFiles) -> Result<Option<(ContentSums, BlocksPlace)>, StoreError> {
        self.noted_bytes = self.stored_bytes;
        if self.combiner.size() < LARGE_FILE_BYTES {
            return Ok(None);
        }
        if let Target::Plain(file) = &mut self.target {
            file.settle().at("write a file below", large.path())?;
        }
        let sums = self.combiner.clone().finish(None).expect("it has more blocks than one");
        Ok(Some((sums, self.map.write_map(large)?)))
    }

    /// The sums of what arrived, and what was recorded of it. Durable only once the commit has flushed it.
    pub fn finish(&mut self, large: &mut LargeFiles) -> Result<WrittenContent, StoreError> {
        let hasher = std::mem::take(&mut self.hasher);
        let finished = &mut self.finished;
        let single = hasher.finish(|sum, length| finished.push((sum, length)));
        self.take_finished(large)?;
        let single = match single {
            None if (1..=BLOCK).contains(&self.position) => Some(self.only_block()?),
            single => single,
        };
        let sums = std::mem::take(&mut self.combiner).finish(single).expect("a single block's hash is given");
        let is_mapped = self.is_delta() || sums.size >= LARGE_FILE_BYTES;
        if let Target::Plain(file) = &mut self.target {
            file.finish().at("write a file below", large.path())?;
        }
        let blocks = is_mapped.then(|| self.map.write_map(large)).transpose()?;
        Ok(WrittenContent { sums, blocks, stored_bytes: self.stored_bytes })
    }

    /// The BLAKE3 of a content of one block, which was kept or is a hole: a kept block has to be read, since its
    /// recorded value is that of a block among others.
    fn only_block(&self) -> Result<[u8; 32], StoreError> {
        let mut block = vec![0; self.position as usize];
        if let (Some(held), false) = (&self.held, self.map.is_hole()) {
            let mut reader = ContentReader::open(held.files.clone(), &held.path, &held.content)?;
            let read = std::io::Read::read_exact(&mut reader, &mut block);
            read.at("read the held content of a file below", &held.files.received(held.content.snapshot()))?;
        }
        Ok(blake3_hash(&block))
    }
}

/// A stretch of the held content with the number that its source has in the new map.
fn renumbered(held: &mut Held, map: &mut MapWriter, stretch: Stretch) -> Result<Stretch, StoreError> {
    let Some(data) = stretch.data else { return Ok(stretch) };
    let source = held.bytes.map().source(data.source)?;
    let number = &mut held.numbers[usize::from(data.source)];
    let source = match *number {
        Some(number) => number,
        None => *number.insert(map.add_source(source)?),
    };
    Ok(Stretch { data: Some(StretchData { source, ..data }), ..stretch })
}
