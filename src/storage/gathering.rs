//! When a large content that lies in many pieces is brought together again: as an upload makes a delta of it, which
//! reads its map anyway and may write what it likes, where a prune could only change what snapshots refer to. The
//! client sends what has changed and no more; what it says is kept is copied here, in place of being referred to.
//!
//! - **Too many files.** A content of which the bytes lie in 16 files has those of its smaller deltas copied to the new
//!   one. The eight largest stay where they are, so that each byte is copied a few times only, however long this goes on.
//! - **Too many pieces**, or **a plain file of which most is needed no more**: all is copied, to a plain file.
//!
//! Nothing is copied for which there is no room: in the client's quota, or on the disk.

use super::blocks_format::Source;
use super::blocks_reader::{ClientFiles, ContentMap};
use super::error::StoreError;
use super::upload::Upload;
use crate::base::limits::{GATHERED_PIECE_BYTES, GATHERED_PIECES_MIN, GATHERED_SOURCES_MAX};
use crate::base::order::sort_by_key;
use crate::base::path::EntryPath;

/// What of a held content is copied when it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathering {
    Nothing,
    /// By the number of a source, whether it is.
    Deltas(Vec<bool>),
    /// All, so that the new content is a plain one.
    Whole,
}

/// In how many pieces a content lies, and how much of it in which file.
#[derive(Debug)]
struct Shape {
    size: u64,
    pieces: u64,
    /// By the number of a source.
    bytes: Vec<u64>,
}

impl Shape {
    fn of(map: &mut ContentMap) -> Result<Shape, StoreError> {
        let mut shape = Shape { size: map.size(), pieces: 0, bytes: vec![0; map.sources()] };
        let (mut position, mut next) = (0, None);
        while position < map.size() {
            let stretch = map.stretch_at(position)?;
            position = stretch.end();
            let Some(data) = stretch.data else { continue };
            map.source(data.source)?;
            // What goes on in the same file is one piece, whatever record its sums lie in.
            let begins_at = (data.source, data.stored);
            shape.pieces += u64::from(next != Some(begins_at));
            next = Some((data.source, data.stored + stretch.bytes));
            shape.bytes[usize::from(data.source)] += stretch.bytes;
        }
        Ok(shape)
    }

    fn has_many_pieces(&self) -> bool {
        self.pieces > GATHERED_PIECES_MIN.max(self.size / GATHERED_PIECE_BYTES)
    }

    /// Whether most of a plain file is kept for nothing but a small part of this content.
    fn wastes_a_file(&self, sources: &[Source], files: &ClientFiles, path: &EntryPath) -> bool {
        sources.iter().zip(&self.bytes).any(|(source, used)| {
            let is_plain = matches!(source, Source::Plain { .. });
            let taken = is_plain.then(|| files.open(source, path).and_then(|file| file.taken_bytes()));
            taken.is_some_and(|taken| taken.is_ok_and(|taken| *used < taken / 2))
        })
    }

    /// The deltas that are to be copied: all but the largest.
    fn smaller_deltas(&self, sources: &[Source]) -> Vec<bool> {
        let mut deltas: Vec<usize> = (0..sources.len()).collect();
        deltas.retain(|number| matches!(sources[*number], Source::Delta { .. }));
        sort_by_key(&mut deltas, |number| std::cmp::Reverse(self.bytes[*number]));
        let mut copied = vec![false; sources.len()];
        deltas.iter().skip(GATHERED_SOURCES_MAX / 2).for_each(|number| copied[*number] = true);
        copied
    }

    fn bytes_of(&self, copied: &[bool]) -> u64 {
        self.bytes.iter().zip(copied).filter(|(_, copied)| **copied).map(|(bytes, _)| bytes).sum()
    }
}

impl Upload {
    /// What is copied of the held content at `path` where a new one is composed with it. Only a content that has not
    /// come in part may be written whole.
    pub(super) fn gathering(
        &self,
        map: &mut ContentMap,
        path: &EntryPath,
        may_be_whole: bool,
    ) -> Result<Gathering, StoreError> {
        let shape = Shape::of(map)?;
        let (sources, files) = (map.all_sources(), self.client_files());
        let whole = may_be_whole && (shape.has_many_pieces() || shape.wastes_a_file(sources, &files, path));
        if whole && self.has_room(shape.bytes.iter().sum()) {
            return Ok(Gathering::Whole);
        }
        let deltas = shape.smaller_deltas(sources);
        match sources.len() >= GATHERED_SOURCES_MAX && self.has_room(shape.bytes_of(&deltas)) {
            true => Ok(Gathering::Deltas(deltas)),
            false => Ok(Gathering::Nothing),
        }
    }

    /// Whether so many bytes can be copied, and as many again may still come.
    fn has_room(&self, bytes: u64) -> bool {
        let needed = bytes.saturating_mul(2);
        let space = self.shared.space();
        self.fits_quota(needed) && space.is_ok_and(|space| space.available > needed)
    }
}
