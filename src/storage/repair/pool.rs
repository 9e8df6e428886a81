//! All ranges of a client that are whole, by what an index would say of each.

use std::collections::{BTreeSet, HashMap};

use crate::base::ids::{SnapshotId, hex, unhex};
use crate::base::order::{set_of, sort_by};
use crate::base::path::EntryPath;
use crate::storage::at_rest::read_stored_file;
use crate::storage::error::StoreError;
use crate::storage::index::IndexRecord;
use crate::storage::layout::{RangeFolder, names_in};
use crate::storage::range::{HASH_BYTES, RANGE_FILE_BYTES_MAX, StoredContent, StoredEntry};

/// One range file.
#[derive(Debug)]
pub struct Pooled {
    pub record: IndexRecord,
    /// The snapshots that brought its contents.
    pub brought_by: BTreeSet<SnapshotId>,
    /// Whether an index that can be read names it.
    pub is_named: bool,
}

/// They take as much memory as an index that names them all.
#[derive(Debug)]
pub struct Pool {
    folder: RangeFolder,
    /// By first path.
    pub ranges: Vec<Pooled>,
    places: HashMap<[u8; HASH_BYTES], usize>,
}

impl Pool {
    /// Reads the folder; what is no range, or a damaged one, is passed over.
    pub fn read(folder: RangeFolder, named: &BTreeSet<[u8; HASH_BYTES]>) -> Result<Pool, StoreError> {
        let names = names_in(&folder.path)?;
        let mut pool = Pool { folder, ranges: Vec::new(), places: HashMap::new() };
        for file in names.iter().filter_map(|name| unhex::<HASH_BYTES>(name)) {
            let Some((record, entries)) = pool.open(&file)? else { continue };
            let contents = entries.iter().filter_map(|stored| stored.content.as_ref());
            let brought_by = set_of(contents.map(StoredContent::snapshot));
            pool.ranges.push(Pooled { record, brought_by, is_named: named.contains(&file) });
        }
        sort_by(&mut pool.ranges, |left, right| {
            (&left.record.first, &left.record.file).cmp(&(&right.record.first, &right.record.file))
        });
        pool.places = pool.ranges.iter().enumerate().map(|(place, pooled)| (pooled.record.file, place)).collect();
        Ok(pool)
    }

    /// A range; none where it is damaged.
    fn open(&self, file: &[u8; HASH_BYTES]) -> Result<Option<(IndexRecord, Vec<StoredEntry>)>, StoreError> {
        let path = self.folder.path.join(hex(file));
        let read = read_stored_file(&path, RANGE_FILE_BYTES_MAX, &self.folder.keyring);
        match read.map_err(StoreError::of_named_file) {
            Ok(bytes) => Ok(IndexRecord::of_range(&bytes, file).ok()),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn entries(&self, pooled: &Pooled) -> Result<Vec<StoredEntry>, StoreError> {
        Ok(self.open(&pooled.record.file)?.map(|(_, entries)| entries).unwrap_or_default())
    }

    /// What an index would say of the range in this file.
    pub fn get(&self, file: &[u8; HASH_BYTES]) -> Option<&Pooled> {
        self.places.get(file).map(|place| &self.ranges[*place])
    }

    /// Those that have paths from `first` to `last`.
    pub fn over<'a>(&'a self, first: &'a EntryPath, last: &'a EntryPath) -> impl Iterator<Item = &'a Pooled> {
        self.ranges.iter().filter(move |pooled| pooled.record.first <= *last && pooled.record.last >= *first)
    }
}
