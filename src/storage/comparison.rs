//! The snapshot that an upload is compared with: its ranges, by hash, and its entries, by path. A damaged
//! index or range is no base: what it would have told counts as unknown, and is sent again.

use std::collections::HashMap;
use std::sync::Arc;

use super::at_rest::{SealedKind, read_stored_file};
use super::catalog::Pin;
use super::error::StoreError;
use super::head::Head;
use super::index::{INDEX_BYTES_MAX, IndexRecord, decode_index};
use super::layout::{ClientFolder, Layout, RangeFolder};
use super::range::{HASH_BYTES, RANGE_FILE_BYTES_MAX, StoredEntry, check_range, decode_range};
use crate::base::entry::Entry;
use crate::base::ids::hex;
use crate::base::path::EntryPath;

/// Reads the index that a head names.
pub fn read_index(layout: &Layout, client: &ClientFolder, head: &Head) -> Result<Vec<IndexRecord>, StoreError> {
    let path = layout.index(client, head.id);
    let keyring = layout.keyring_of(client).files(SealedKind::Index);
    let bytes = read_stored_file(&path, INDEX_BYTES_MAX, &keyring).map_err(StoreError::of_named_file)?;
    decode_index(&bytes, head.id, &head.index_blake3).map_err(|error| StoreError::damaged(&path, error))
}

/// Reads the range file that an index record names.
pub fn read_range(ranges: &RangeFolder, record: &IndexRecord) -> Result<Vec<StoredEntry>, StoreError> {
    let path = ranges.path.join(hex(&record.file));
    let read = read_stored_file(&path, RANGE_FILE_BYTES_MAX, &ranges.keyring);
    let bytes = read.map_err(StoreError::of_named_file)?;
    decode_range(&bytes, &record.file).map_err(|error| StoreError::damaged(&path, error))
}

/// Range files in one folder, found by hash or by path. Holds their records and one range at a time.
#[derive(Debug)]
pub struct RangeSet {
    folder: RangeFolder,
    records: Vec<IndexRecord>,
    by_wire_hash: HashMap<[u8; HASH_BYTES], usize>,
    loaded: Option<(usize, Vec<StoredEntry>)>,
}

impl RangeSet {
    /// `records` are sorted and do not overlap.
    pub fn new(folder: RangeFolder, records: Vec<IndexRecord>) -> RangeSet {
        let by_wire_hash = records.iter().enumerate().map(|(place, record)| (record.wire_hash, place)).collect();
        RangeSet { folder, records, by_wire_hash, loaded: None }
    }

    pub fn records(&self) -> &[IndexRecord] {
        &self.records
    }

    /// The place of the range with this hash, if nothing in it must be looked at again and its file is there
    /// and whole: it is read for that, since whoever shares a damaged range loses what it names.
    pub fn settled_range(&self, wire_hash: &[u8; HASH_BYTES]) -> Option<usize> {
        let place = *self.by_wire_hash.get(wire_hash)?;
        let record = &self.records[place];
        (!record.unsettled && self.is_whole(record)).then_some(place)
    }

    fn is_whole(&self, record: &IndexRecord) -> bool {
        let path = self.folder.path.join(hex(&record.file));
        let checked = read_stored_file(&path, RANGE_FILE_BYTES_MAX, &self.folder.keyring)
            .and_then(|bytes| check_range(&bytes, &record.file).map_err(|error| StoreError::damaged(&path, error)));
        match checked {
            Ok(()) => true,
            Err(error) => {
                log::warn!("a range is sent again: {error}");
                false
            }
        }
    }

    /// What is held at this path.
    pub fn find(&mut self, path: &EntryPath) -> Option<&StoredEntry> {
        let place = self.records.partition_point(|record| record.first <= *path).checked_sub(1)?;
        if self.records[place].last < *path {
            return None;
        }
        let entries = self.load(place);
        let found = entries.binary_search_by(|stored| stored.entry.path.cmp(path)).ok()?;
        Some(&entries[found])
    }

    /// The place of the range that an entry with this path belongs to: the last that begins before it, else the first;
    /// none where there is no range.
    pub fn place_for(&self, path: &EntryPath) -> Option<usize> {
        let after = self.records.partition_point(|record| record.first <= *path);
        (!self.records.is_empty()).then(|| after.saturating_sub(1))
    }

    /// Reads the entries of one range.
    pub fn read(&self, place: usize) -> Result<Vec<StoredEntry>, StoreError> {
        read_range(&self.folder, &self.records[place])
    }

    /// The entries of one range; none where it is damaged.
    pub fn load(&mut self, place: usize) -> &[StoredEntry] {
        if self.loaded.as_ref().is_none_or(|(loaded, _)| *loaded != place) {
            let entries = self.read(place).unwrap_or_else(|error| {
                log::warn!("files are sent again: {error}");
                Vec::new()
            });
            self.loaded = Some((place, entries));
        }
        self.loaded.as_ref().map_or(&[], |(_, entries)| entries)
    }
}

/// One snapshot, made ready to be compared with. It is not dropped meanwhile.
#[derive(Debug)]
pub struct Base {
    head: Arc<Head>,
    ranges: RangeSet,
    _pin: Pin,
}

impl Base {
    pub fn open(layout: &Layout, client: &ClientFolder, head: Arc<Head>, pin: Pin) -> Result<Base, StoreError> {
        let records = read_index(layout, client, &head)?;
        Ok(Base { head, ranges: RangeSet::new(layout.range_files(client), records), _pin: pin })
    }

    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    pub fn ranges(&self) -> &RangeSet {
        &self.ranges
    }

    /// The range with this hash, if it may be shared: it is settled, and it lies within one of `roots` (or
    /// the base has the same ones).
    pub fn shareable_range(&self, wire_hash: &[u8; HASH_BYTES], roots: &[EntryPath]) -> Option<&IndexRecord> {
        let record = &self.ranges.records()[self.ranges.settled_range(wire_hash)?];
        let within = |root: &EntryPath| record.first.is_within(root) && record.last.is_within(root);
        (self.head.roots == roots || roots.iter().any(within)).then_some(record)
    }

    /// What the base holds at this path.
    pub fn find(&mut self, path: &EntryPath) -> Option<&StoredEntry> {
        self.ranges.find(path)
    }
}

/// What counts as a change of a file beside its size and mtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeRule {
    /// Another inode alone is none: for file systems that number anew at each mount.
    pub ignore_inode: bool,
    /// Another ctime alone is none: for trees that are linked or re-permitted without being changed.
    pub ignore_ctime: bool,
}

impl ChangeRule {
    /// Whether a file is the one that was stored, by everything that changes when its content does.
    pub fn is_unchanged(&self, stored: &StoredEntry, entry: &Entry) -> bool {
        let old = &stored.entry;
        !stored.is_unsettled()
            && stored.content.is_some()
            && (old.size, old.mtime) == (entry.size, entry.mtime)
            && (self.ignore_ctime || old.ctime == entry.ctime)
            && (self.ignore_inode || old.inode == entry.inode)
    }
}
