//! A snapshot read in path order: all of it, or what lies at and below some paths. The index says which
//! ranges can matter; only those are read, one at a time.

use std::vec;

use super::catalog::Pin;
use super::comparison::read_range;
use super::error::StoreError;
use super::index::IndexRecord;
use super::layout::RangeFolder;
use super::range::StoredEntry;
use crate::base::path::EntryPath;
use crate::base::selection::PathSelection;

/// The entries of a snapshot, which is not dropped meanwhile. A damaged range is one error; the walk goes on behind it.
#[derive(Debug)]
pub struct Entries {
    ranges: RangeFolder,
    records: vec::IntoIter<IndexRecord>,
    current: vec::IntoIter<StoredEntry>,
    filter: PathSelection,
    /// Only what comes later is given.
    after: Option<EntryPath>,
    damaged: Option<IndexRecord>,
    _pin: Pin,
}

impl Entries {
    pub(super) fn new(
        ranges: RangeFolder,
        mut records: Vec<IndexRecord>,
        filter: &[EntryPath],
        pin: Pin,
    ) -> Entries {
        let filter = PathSelection::new(filter);
        records.retain(|record| filter.may_select(|path| touches(path, record)));
        let (records, current) = (records.into_iter(), Vec::new().into_iter());
        Entries { ranges, records, current, filter, after: None, damaged: None, _pin: pin }
    }

    /// Leaves out what does not come later than `path`; nothing has been given yet.
    pub fn after(mut self, path: EntryPath) -> Entries {
        let records: Vec<IndexRecord> = self.records.filter(|record| record.last > path).collect();
        self.records = records.into_iter();
        self.after = Some(path);
        self
    }

    /// The first and the last path of the damaged range that was met last.
    pub fn damaged_range(&self) -> Option<(&EntryPath, &EntryPath)> {
        self.damaged.as_ref().map(|record| (&record.first, &record.last))
    }

    /// The paths of the filter that selected nothing, and that no damaged range can have held; final once the
    /// walk has ended. Those that do not come later than where it began may have selected something before.
    pub fn unmatched(&self) -> &[EntryPath] {
        self.filter.unmatched()
    }
}

impl Iterator for Entries {
    type Item = Result<StoredEntry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for stored in self.current.by_ref() {
                let path = &stored.entry.path;
                if self.after.as_ref().is_none_or(|after| path > after) && self.filter.selects(path) {
                    return Some(Ok(stored));
                }
            }
            let record = self.records.next()?;
            match read_range(&self.ranges, &record) {
                Ok(entries) => self.current = entries.into_iter(),
                Err(error) => {
                    self.filter.pass(|path| touches(path, &record));
                    self.damaged = Some(record);
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Whether the range may hold the path, or something below it.
fn touches(path: &EntryPath, record: &IndexRecord) -> bool {
    *path <= record.last && (record.first <= *path || record.first.is_within(path))
}
