//! A snapshot read in path order: all of it, or what lies at and below some paths. The index says which
//! ranges can matter; only those are read, one at a time.

use std::vec;

use super::catalog::Pin;
use super::comparison::read_range;
use super::error::StoreError;
use super::index::IndexRecord;
use super::layout::RangeFolder;
use super::range::StoredEntry;
use crate::base::entry::merge_roots;
use crate::base::path::EntryPath;

/// The entries of a snapshot, which is not dropped meanwhile. A damaged range is one error; the walk goes on behind it.
#[derive(Debug)]
pub struct Entries {
    ranges: RangeFolder,
    records: vec::IntoIter<IndexRecord>,
    current: vec::IntoIter<StoredEntry>,
    filter: Filter,
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
        let filter = Filter::new(filter);
        records.retain(|record| filter.may_select(record));
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
        &self.filter.unmatched
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
                    self.filter.pass(&record);
                    self.damaged = Some(record);
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Paths that select themselves and all below; none of them selects everything.
#[derive(Debug)]
struct Filter {
    everything: bool,
    /// Sorted, none within another.
    paths: Vec<EntryPath>,
    unmatched: Vec<EntryPath>,
}

impl Filter {
    fn new(paths: &[EntryPath]) -> Filter {
        Filter { everything: paths.is_empty(), paths: merge_roots(paths.to_vec()), unmatched: paths.to_vec() }
    }

    /// Whether something between the first and the last path of the range can be selected.
    fn may_select(&self, record: &IndexRecord) -> bool {
        self.everything || self.paths.iter().any(|path| touches(path, record))
    }

    /// Takes what the range may hold for found, since it cannot be read.
    fn pass(&mut self, record: &IndexRecord) {
        self.unmatched.retain(|path| !touches(path, record));
    }

    fn selects(&mut self, path: &EntryPath) -> bool {
        // Of disjoint sorted paths only the last one that is not greater can hold this path.
        let place = self.paths.partition_point(|selected| selected <= path);
        let within = place.checked_sub(1).is_some_and(|place| path.is_within(&self.paths[place]));
        if within {
            self.unmatched.retain(|selected| !path.is_within(selected));
        }
        within || self.everything
    }
}

/// Whether the range may hold the path, or something below it.
fn touches(path: &EntryPath, record: &IndexRecord) -> bool {
    *path <= record.last && (record.first <= *path || record.first.is_within(path))
}
