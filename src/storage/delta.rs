//! The part of an upload that composes a large content with the one held for its path: what the client may ask
//! about the held content, and the pieces it may send instead of the whole.
//!
//! A delta refers to the files that hold the bytes, whoever brought them, never to another delta's map, and a content
//! that lies in many pieces is brought together again ([`super::gathering`]): so reading costs the same after any
//! number of generations.

use super::blocks_format::{RECORD_ITEMS_MAX, SOURCES_MAX, Source};
use super::blocks_reader::{ClientFiles, ContentMap};
use super::content::ContentProblem;
use super::content_writer::{ContentWriter, Held};
use super::error::StoreError;
use super::gathering::Gathering;
use super::range::{HASH_BYTES, StoredContent};
use super::upload::{Upload, Writing, no_content_begun};
use super::verify::note_damage;
use crate::base::limits::KEPT_AT_ONCE_BYTES;

/// A held content whose map is open.
#[derive(Debug)]
pub struct OpenHeld {
    range: u32,
    entry: u32,
    map: ContentMap,
    /// A delta can be built on it.
    is_sound: bool,
}

impl OpenHeld {
    fn is_of(&self, range: u32, entry: u32) -> bool {
        (self.range, self.entry) == (range, entry)
    }
}

impl Upload {
    /// The chaining values of the blocks of what is held for an entry that is needed, from `first_block` on: at
    /// most `count` and 4,096, fewer at the content's end. None where nothing can be built on what is held, so
    /// that all has to be sent: the record of it is damaged, a file is gone, or it lies in too many files.
    ///
    /// # Errors
    /// `OutOfPlace` where nothing large is held for the entry.
    pub fn held_blocks(
        &mut self,
        range: u32,
        entry: u32,
        first_block: u64,
        count: u32,
    ) -> Result<Vec<[u8; HASH_BYTES]>, StoreError> {
        self.check_live()?;
        let content = self.held_large(range, entry)?;
        // What arrived damaged may have been built on something damaged.
        if self.pending_range(range)?.tries(entry)? > 0 {
            return Ok(Vec::new());
        }
        let mut sums = Vec::new();
        let count = RECORD_ITEMS_MAX.min(count as usize);
        let read = self.open_held(range, entry, &content).and_then(|held| match held.is_sound {
            true => held.map.block_sums(first_block, count, &mut sums),
            false => Ok(()),
        });
        match read {
            Ok(()) => {}
            Err(error @ StoreError::Damaged { .. }) => log::warn!("a file is sent again: {error}"),
            Err(error) => return Err(error),
        }
        Ok(sums.into_iter().map(|sum| sum.chaining).collect())
    }

    fn open_held(&mut self, range: u32, entry: u32, content: &StoredContent) -> Result<&mut OpenHeld, StoreError> {
        if !self.open_held.as_ref().is_some_and(|open| open.is_of(range, entry)) {
            let map = self.open_map(content)?;
            let path = self.pending_range(range)?.entry(entry).path;
            let is_sound = map.sources() < SOURCES_MAX && map.has_all_sources(&self.client_files(), &path);
            if !is_sound {
                log::warn!("{} is sent whole: it lies in too many files, or one of them is gone", path.display());
            }
            self.open_held = Some(OpenHeld { range, entry, map, is_sound });
        }
        Ok(self.open_held.as_mut().expect("opened just now"))
    }

    fn open_map(&self, content: &StoredContent) -> Result<ContentMap, StoreError> {
        let place = content.blocks.ok_or_else(nothing_large_held)?;
        ContentMap::open(&self.client_files(), content.snapshot(), place)
    }

    pub(super) fn client_files(&self) -> ClientFiles {
        ClientFiles::new(&self.shared.layout, &self.state.record.folder)
    }

    fn held_large(&mut self, range: u32, entry: u32) -> Result<StoredContent, StoreError> {
        let held = self.pending_range(range)?.held(entry).filter(|content| content.blocks.is_some());
        held.cloned().ok_or_else(nothing_large_held)
    }

    /// Begins the content of an entry as [`Upload::begin_content`] does, but composed of pieces of the held
    /// content, of changed bytes and of holes, in order. Kept and written pieces begin at block borders.
    ///
    /// # Errors
    /// `OutOfPlace` where nothing large is held for the entry; `Damaged` where the record of it is unusable.
    pub fn begin_delta(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        self.take_turn(range, entry)?;
        let content = self.held_large(range, entry)?;
        let path = self.pending_range(range)?.entry(entry).path;
        let mut map = self.take_held_map(range, entry, &content)?;
        let gathering = self.gathering(&mut map, &path, true)?;
        let is_whole = gathering == Gathering::Whole;
        let held = Held::new(self.client_files(), path.clone(), content, map, gathering);
        if is_whole {
            return self.begin_plain(range, entry, Some(held));
        }
        let own = Source::Delta { snapshot: self.snapshot };
        let writer = ContentWriter::delta(own, &self.large).with_held(Some(held));
        self.writing =
            Some(Writing { range, entry, writer, path, renamed: None, is_spoiled: false, is_noted: false });
        Ok(())
    }

    pub(super) fn take_held_map(
        &mut self,
        range: u32,
        entry: u32,
        content: &StoredContent,
    ) -> Result<ContentMap, StoreError> {
        match self.open_held.take_if(|open| open.is_of(range, entry)) {
            Some(open) => Ok(open.map),
            None => self.open_map(content),
        }
    }

    /// Takes the next `length` bytes of a delta from the held content, at the same offset. The piece begins at a
    /// block border, and ends at one or where both contents end. Where the record of what is held turns out to be
    /// damaged, or what is copied of it, the content is asked for again at its end.
    ///
    /// Copying takes its time: false where `goes_on` said meanwhile that nobody waits for it.
    pub fn keep_content(&mut self, length: u64, goes_on: &dyn Fn() -> bool) -> Result<bool, StoreError> {
        let mut left = length;
        loop {
            self.check_live()?;
            let piece = left.min(KEPT_AT_ONCE_BYTES);
            self.keep_piece(piece)?;
            left -= piece;
            match left {
                0 => return Ok(true),
                _ if goes_on() => {}
                _ => return Ok(false),
            }
        }
    }

    fn keep_piece(&mut self, length: u64) -> Result<(), StoreError> {
        let Some(writing) = &mut self.writing else { return Err(no_content_begun()) };
        if writing.is_spoiled {
            return Ok(());
        }
        match writing.writer.keep(length, &mut self.large) {
            Ok(()) => self.note_arrival(),
            Err(error @ (StoreError::Damaged { .. } | StoreError::Mismatch { .. })) => {
                log::warn!("{} is sent again: {error}", writing.path.display());
                writing.is_spoiled = true;
                if let StoreError::Mismatch { .. } = error {
                    self.note_held_damage()?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Puts what is held for the content under way on the list of what is damaged.
    fn note_held_damage(&mut self) -> Result<(), StoreError> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let (range, entry, path) = (writing.range, writing.entry, writing.path.clone());
        if let Some(content) = self.pending_range(range)?.held(entry).cloned() {
            note_damage(&self.shared, &self.state, &path, &content, &ContentProblem::Sums);
        }
        Ok(())
    }

    /// Appends `length` zeros to the content that was begun, plain or delta, without storing them.
    pub fn hole_content(&mut self, length: u64) -> Result<(), StoreError> {
        let Some(writing) = &mut self.writing else { return Err(no_content_begun()) };
        if writing.is_spoiled { Ok(()) } else { writing.writer.write_hole(length, &mut self.large) }
    }
}

fn nothing_large_held() -> StoreError {
    StoreError::out_of_place("no large content is held for this path")
}
