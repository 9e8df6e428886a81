//! What an earlier session of an upload has left: a second base, ahead of the snapshot that the upload is
//! compared with. Nothing of it is believed on the journal's word alone where the machine may have stopped
//! since: such contents are read back and compared first.

use std::collections::{BTreeSet, HashMap};

use super::blocks_reader::ClientFiles;
use super::comparison::RangeSet;
use super::content::ContentReader;
use super::index::IndexRecord;
use super::journal::{Journaled, JournaledRange};
use super::layout::RangeFolder;
use super::partial::Partial;
use super::range::{HASH_BYTES, Location, StoredEntry};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::crypto::blake3_hash;

/// The stored part of an unfinished upload.
#[derive(Debug)]
pub struct LeftBehind {
    snapshot: SnapshotId,
    /// Where contents lie, those of this upload among them.
    files: ClientFiles,
    ranges: RangeSet,
    /// Beside each range: its new bytes, and whether its contents are still to be read back.
    notes: Vec<(u64, bool)>,
    contents: HashMap<EntryPath, (StoredEntry, bool)>,
    /// Large contents of which only a beginning came, with whether that is to be read before it is believed.
    partials: Vec<(StoredEntry, bool)>,
    /// What was read back last, and was whole.
    read_back: Option<EntryPath>,
}

impl LeftBehind {
    pub fn new(snapshot: SnapshotId, files: ClientFiles, ranges: RangeFolder, journaled: Journaled) -> LeftBehind {
        let note = |range: &JournaledRange| (range.new_bytes, range.doubtful);
        let notes = journaled.ranges.iter().map(note).collect();
        let records = journaled.ranges.into_iter().map(|range| range.record).collect();
        let ranges = RangeSet::new(ranges, records);
        LeftBehind {
            snapshot,
            files,
            ranges,
            notes,
            contents: journaled.contents,
            partials: journaled.partials,
            read_back: None,
        }
    }

    /// The finished range with this hash, and how many bytes of contents the upload brought for it.
    pub fn range(&mut self, wire_hash: &[u8; HASH_BYTES]) -> Option<(IndexRecord, u64)> {
        let place = self.ranges.settled_range(wire_hash)?;
        if !self.is_whole(place) {
            return None;
        }
        Some((self.ranges.records()[place].clone(), self.notes[place].0))
    }

    /// Whether every content that the range has from this upload is there; read back only once.
    fn is_whole(&mut self, place: usize) -> bool {
        if !self.notes[place].1 {
            return true;
        }
        let (snapshot, files) = (self.snapshot, &self.files);
        let entries = self.ranges.load(place);
        let whole = !entries.is_empty() && entries.iter().all(|stored| is_intact(files, snapshot, stored));
        self.notes[place].1 = !whole;
        whole
    }

    /// What was stored at this path.
    pub fn find(&mut self, path: &EntryPath) -> Option<StoredEntry> {
        let (stored, doubtful) = match self.contents.get(path) {
            Some((stored, doubtful)) => (stored.clone(), *doubtful),
            None => (self.ranges.find(path)?.clone(), true),
        };
        if doubtful {
            self.read_back = is_intact(&self.files, self.snapshot, &stored).then(|| path.clone());
        }
        (!doubtful || self.read_back.is_some()).then_some(stored)
    }

    /// What can be gone on with of a large content of this path: one that was cut off, or one that was stored whole
    /// and whose file has changed since.
    pub fn partial(&mut self, path: &EntryPath) -> Option<Partial> {
        let cut_off = self.partials.iter().find(|(stored, _)| stored.entry.path == *path);
        let is_whole = cut_off.is_none() && self.read_back.as_ref() == Some(path);
        let (stored, doubtful) = match cut_off.or(self.contents.get(path)) {
            Some((stored, doubtful)) => (stored, *doubtful),
            None => (self.ranges.find(path)?, true),
        };
        match stored.is_large() {
            true => Partial::find(&self.files, self.snapshot, stored, doubtful && !is_whole),
            false => None,
        }
    }

    /// Where the staged content of this path lies, if one was stored, or a beginning of it.
    pub fn staged_path(&mut self, path: &EntryPath) -> Option<EntryPath> {
        let cut_off = self.partials.iter().find(|(stored, _)| stored.entry.path == *path);
        let known = cut_off.or(self.contents.get(path)).map(|(stored, _)| stored);
        let stored = match known {
            Some(stored) => stored,
            None => self.ranges.find(path)?,
        };
        staged_path(self.snapshot, stored)
    }

    /// Where everything that was stored lies, as short hashes of the paths.
    pub fn staged_paths(&mut self) -> BTreeSet<u64> {
        let mut paths = BTreeSet::new();
        let mut add = |stored: &StoredEntry| {
            paths.extend(staged_path(self.snapshot, stored).map(|path| path_hash(path.as_bytes())));
        };
        self.contents.values().chain(&self.partials).for_each(|(stored, _)| add(stored));
        for place in 0..self.notes.len() {
            self.ranges.load(place).iter().for_each(&mut add);
        }
        paths
    }
}

/// Where an entry's content lies among the files of `snapshot`, if it is one of them.
pub fn staged_path(snapshot: SnapshotId, stored: &StoredEntry) -> Option<EntryPath> {
    let content = stored.content.as_ref().filter(|content| content.snapshot() == snapshot)?;
    match &content.location {
        Location::OwnPath { .. } => Some(stored.entry.path.clone()),
        Location::StoredPath { path, .. } => Some(path.clone()),
        Location::Mapped { .. } => None,
    }
}

/// A short name for a path, to remember many of them in little room. Two paths with the same one only keep a
/// file that could have been swept.
pub fn path_hash(path: &[u8]) -> u64 {
    let hash = blake3_hash(path);
    u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

fn is_intact(files: &ClientFiles, snapshot: SnapshotId, stored: &StoredEntry) -> bool {
    let Some(content) = stored.content.as_ref().filter(|content| content.snapshot() == snapshot) else {
        return true;
    };
    let opened = ContentReader::open(files.clone(), &stored.entry.path, content);
    matches!(opened.map(ContentReader::verify), Ok(Ok(())))
}
