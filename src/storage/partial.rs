//! The beginning of a large content that was cut off: noted in the journal while the content arrives, so that a
//! later session of the same upload goes on behind it. The client is given the hashes of its blocks, compares them
//! with its file, and says how much of it holds still.
//!
//! Invariants:
//! - **What a note tells is undone only after the journal says so**, and that is flushed where what is undone may
//!   be believed without being read.
//! - **A note is believed unread only by the process that wrote it.** For any other the bytes are read, and as many
//!   blocks count as are what was recorded.

use std::io;
use std::sync::Arc;

use super::blocks_format::{RECORD_ITEMS_MAX, SOURCES_MAX, Source, Stretch};
use super::blocks_reader::{ClientFiles, ContentMap, MappedContent};
use super::content_writer::{ContentWriter, Held};
use super::error::{At, StoreError};
use super::gathering::Gathering;
use super::range::{HASH_BYTES, Location, StoredContent, StoredEntry};
use super::upload::{Upload, Writing};
use crate::base::ids::SnapshotId;
use crate::base::limits::LARGE_FILE_BYTES;
use crate::base::path::EntryPath;
use crate::crypto::{BLOCK_BYTES, block_sum};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// How much of a large content lies here from an earlier session of the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    content: StoredContent,
    /// Whole blocks that can be gone on with, in bytes.
    bytes: u64,
    /// It is put together from stretches.
    pub is_delta: bool,
}

impl Partial {
    /// What can be gone on with of a stored large content, or of the beginning of one; none where that is not large.
    /// Where it is in doubt it is read.
    pub fn find(
        files: &ClientFiles,
        snapshot: SnapshotId,
        stored: &StoredEntry,
        doubtful: bool,
    ) -> Option<Partial> {
        let content = stored.content.clone().filter(|content| content.snapshot() == snapshot)?;
        let path = &stored.entry.path;
        let intact = open_map(files, path, &content).and_then(|map| match doubtful {
            true => intact_bytes(map, files, snapshot, path),
            false => Ok(content.sums.size),
        });
        let bytes = match intact {
            Ok(bytes) => bytes.min(content.sums.size) / BLOCK * BLOCK,
            Err(error) => {
                log::warn!("{} is sent from its start: {error}", path.display());
                return None;
            }
        };
        let is_delta = matches!(content.location, Location::Mapped { .. });
        (bytes >= LARGE_FILE_BYTES).then_some(Partial { content, bytes, is_delta })
    }
}

/// Opens the map, and sees that every file is there and not shorter than was noted.
fn open_map(files: &ClientFiles, path: &EntryPath, content: &StoredContent) -> Result<ContentMap, StoreError> {
    let place = content.blocks.ok_or_else(|| StoreError::out_of_place("the blocks of a content were not noted"))?;
    let map = ContentMap::open(files, content.snapshot(), place)?;
    let folder = files.received(content.snapshot());
    if map.sources() >= SOURCES_MAX || !map.has_all_sources(files, path) {
        return Err(StoreError::damaged(&folder, "it lies in too many files, or one of them is gone"));
    }
    if let Some(own) = own_file(path, content) {
        let source = Source::Plain { snapshot: content.snapshot(), path: Some(own.clone()) };
        let found = files.open(&source, path).and_then(|file| file.length()).at("look at a file below", &folder)?;
        if found < content.sums.size {
            return Err(StoreError::damaged(&folder, "a file is shorter than was noted"));
        }
    }
    Ok(map)
}

/// Where the plain file of a content lies, if it is one.
fn own_file<'a>(path: &'a EntryPath, content: &'a StoredContent) -> Option<&'a EntryPath> {
    match &content.location {
        Location::OwnPath { .. } => Some(path),
        Location::StoredPath { path, .. } => Some(path),
        Location::Mapped { .. } => None,
    }
}

/// Reads what this upload stored, block after block, up to the first one that is not what was recorded. What
/// committed snapshots hold is not read.
fn intact_bytes(
    map: ContentMap,
    files: &ClientFiles,
    snapshot: SnapshotId,
    path: &EntryPath,
) -> Result<u64, StoreError> {
    let mut content = MappedContent::new(map, files.clone(), path.clone());
    let (mut block, mut sums) = (vec![0; BLOCK_BYTES], Vec::new());
    let (mut offset, size) = (0, content.map().size());
    while offset < size {
        let stretch = content.map().stretch_at(offset)?;
        if !is_of(content.map(), &stretch, snapshot)? {
            offset = stretch.end();
            continue;
        }
        let length = (size - offset).min(BLOCK) as usize;
        sums.clear();
        content.map().block_sums(offset / BLOCK, 1, &mut sums)?;
        let read = read_block(&mut content, &mut block[..length], offset)
            .at("read a file below", &files.received(snapshot));
        if !read? || sums.first() != Some(&block_sum(offset / BLOCK, &block[..length])) {
            break;
        }
        offset += length as u64;
    }
    Ok(offset)
}

fn is_of(map: &ContentMap, stretch: &Stretch, snapshot: SnapshotId) -> Result<bool, StoreError> {
    let source = stretch.data.map(|data| map.source(data.source)).transpose()?;
    Ok(source.is_some_and(|source| source.snapshot() == snapshot))
}

/// False where the file ends before.
fn read_block(content: &mut MappedContent, mut buffer: &mut [u8], mut offset: u64) -> io::Result<bool> {
    while !buffer.is_empty() {
        match content.read_at(buffer, offset)? {
            0 => return Ok(false),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(true)
}

/// A partial whose map is open.
#[derive(Debug)]
pub struct OpenPartial {
    place: (u32, u32),
    map: ContentMap,
}

impl Upload {
    /// The chaining values of the blocks that lie here of an entry's content, as [`Upload::held_blocks`] gives those
    /// of what is held: none from the first block on where it cannot be gone on with.
    ///
    /// # Errors
    /// `OutOfPlace` where no beginning of it lies here.
    pub fn partial_blocks(
        &mut self,
        range: u32,
        entry: u32,
        first_block: u64,
        count: u32,
    ) -> Result<Vec<[u8; HASH_BYTES]>, StoreError> {
        self.check_live()?;
        let partial = self.partial(range, entry)?;
        let left = (partial.bytes / BLOCK).saturating_sub(first_block);
        let count = (count as usize).min(RECORD_ITEMS_MAX).min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut sums = Vec::new();
        let open = self.open_partial(range, entry, &partial);
        match open.and_then(|open| open.map.block_sums(first_block, count, &mut sums)) {
            Ok(()) => Ok(sums.into_iter().map(|sum| sum.chaining).collect()),
            Err(error @ StoreError::Damaged { .. }) => {
                log::warn!("a file is sent from its start: {error}");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn partial(&mut self, range: u32, entry: u32) -> Result<Arc<Partial>, StoreError> {
        let partial = self.pending_range(range)?.partial(entry).cloned();
        partial.ok_or_else(|| StoreError::out_of_place("no beginning of that content lies here"))
    }

    fn open_partial(&mut self, range: u32, entry: u32, partial: &Partial) -> Result<&mut OpenPartial, StoreError> {
        let place = (range, entry);
        if self.open_partial.as_ref().is_none_or(|open| open.place != place) {
            let path = self.pending_range(range)?.entry(entry).path;
            let map = open_map(&self.own_files(), &path, &partial.content)?;
            self.open_partial = Some(OpenPartial { place, map });
        }
        Ok(self.open_partial.as_mut().expect("opened just now"))
    }

    /// The client's files, those of this upload included.
    fn own_files(&self) -> ClientFiles {
        let upload = self.staging.as_ref().expect("there until the upload is dropped").path().to_path_buf();
        self.client_files().with_unfinished(self.snapshot, upload)
    }

    /// Begins the content of an entry as [`Upload::begin_content`] and [`Upload::begin_delta`] do, with the first
    /// `bytes` of what lies here of it, whole blocks; the rest is to follow.
    ///
    /// # Errors
    /// `OutOfPlace` where no beginning of it lies here, or not so much; `Damaged` where the record of it is unusable.
    pub fn begin_resumed(&mut self, range: u32, entry: u32, bytes: u64) -> Result<(), StoreError> {
        self.take_turn(range, entry)?;
        let partial = self.partial(range, entry)?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK) || bytes > partial.bytes {
            return Err(StoreError::out_of_place("so much of a content cannot be gone on with"));
        }
        let path = self.pending_range(range)?.entry(entry).path;
        self.open_partial(range, entry, &partial)?;
        let mut map = self.open_partial.take().expect("opened just now").map;
        let stored = own_file(&path, &partial.content).cloned();
        let mut writer = match &stored {
            Some(stored) => {
                let file = self.staging().reopen_content(stored, partial.content.sums.size)?;
                ContentWriter::plain(file, self.own_source(stored, &path), &self.large)
            }
            None => ContentWriter::delta(Source::Delta { snapshot: self.snapshot }, &self.large),
        };
        let held = self.open_base(range, entry, &path, writer.is_delta())?;
        writer = writer.with_held(held);
        writer.resume(&mut map, bytes)?;
        let renamed = stored.filter(|stored| *stored != path);
        self.pending_range(range)?.forget_partial(entry);
        self.writing = Some(Writing { range, entry, writer, path, renamed, is_spoiled: false, is_noted: true });
        self.cut_to_resumed()
    }

    fn own_source(&self, stored: &EntryPath, path: &EntryPath) -> Source {
        Source::Plain { snapshot: self.snapshot, path: (stored != path).then(|| stored.clone()) }
    }

    /// The content that is held for an entry, to keep pieces of; none where nothing can be built on it.
    fn open_base(
        &mut self,
        range: u32,
        entry: u32,
        path: &EntryPath,
        for_delta: bool,
    ) -> Result<Option<Held>, StoreError> {
        let held = self.pending_range(range)?.held(entry).filter(|content| content.blocks.is_some()).cloned();
        let Some(content) = held else { return Ok(None) };
        let opened = self.take_held_map(range, entry, &content).and_then(|mut map| match for_delta {
            true => self.gathering(&mut map, path, false).map(|gathering| (map, gathering)),
            false => Ok((map, Gathering::Whole)),
        });
        match opened {
            Ok((map, gathering)) => Ok(Some(Held::new(self.client_files(), path.clone(), content, map, gathering))),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cuts a plain file off where it is gone on with: not before the journal tells of no more than that.
    fn cut_to_resumed(&mut self) -> Result<(), StoreError> {
        if self.writing.as_ref().is_some_and(|writing| writing.writer.is_delta()) {
            return Ok(());
        }
        let data = self.shared.layout.data().to_path_buf();
        if self.note_under_way()? {
            self.journal.flush().at("flush a journal below", &data)?;
        } else if let Some(writing) = &self.writing {
            self.journal.gone(&writing.path).at("write a journal below", &data)?;
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        writing.writer.cut_file(&self.large)
    }

    /// Notes how much has come of the content under way, so that a later session can go on behind it; false where
    /// that is too little.
    pub(super) fn note_under_way(&mut self) -> Result<bool, StoreError> {
        let snapshot = self.snapshot;
        let under_way = self.writing.as_ref().filter(|writing| !writing.is_spoiled);
        let Some((range, entry)) = under_way.map(|writing| (writing.range, writing.entry)) else {
            return Ok(false);
        };
        let entry = self.pending_range(range)?.entry(entry);
        // More may come than was announced: nobody will go on with that.
        if entry.size < LARGE_FILE_BYTES {
            return Ok(false);
        }
        let Some(writing) = &mut self.writing else { return Ok(false) };
        let Some((sums, blocks)) = writing.writer.note(&mut self.large)? else { return Ok(false) };
        let location = writing.location(snapshot);
        writing.is_noted = true;
        let content = Some(StoredContent { sums, location, blocks: Some(blocks) });
        let stored = StoredEntry { entry, flags: 0, content };
        self.journal.lengths(&mut self.large)?;
        self.journal.partial(&stored).at("write a journal below", self.shared.layout.data())?;
        Ok(true)
    }
}
