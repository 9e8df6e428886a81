//! Ranges of entries as the walk hands them on. A range owns its encoded bytes, and finds an entry in them
//! again by its offset, so that no entry is kept twice.

use crate::base::codec::Reader;
use crate::base::entry::{Entry, RangeCutter};
use crate::crypto::blake3_hash;

/// A run of entries in path order, encoded, under its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedRange {
    pub bytes: Vec<u8>,
    /// BLAKE3 of `bytes`.
    pub hash: [u8; 32],
    /// How many entries there are.
    pub entries: u32,
    /// The entries that have contents, in order.
    pub items: Vec<ScannedItem>,
    /// What has been found so far, this range included.
    pub totals: ScanTotals,
}

/// An entry with contents, by its place in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedItem {
    /// Its number among the range's entries.
    pub index: u32,
    /// Where its encoding begins.
    pub offset: u32,
    pub size: u64,
}

impl ScannedRange {
    /// The entry behind an item of this range; none for an item of another one.
    pub fn entry(&self, item: ScannedItem) -> Option<Entry> {
        let bytes = self.bytes.get(item.offset as usize..)?;
        Entry::decode(&mut Reader::new(bytes)).ok()
    }
}

/// What a walk has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanTotals {
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Names of kinds that have no contents to back up.
    pub skipped: u64,
    /// Names that could not be read.
    pub unreadable: u64,
    /// Names that were gone before they could be looked at.
    pub vanished: u64,
}

/// Gathers entries until the cutter says that a new range begins.
#[derive(Debug, Default)]
pub(super) struct RangeBuilder {
    bytes: Vec<u8>,
    entries: u32,
    items: Vec<ScannedItem>,
    cutter: RangeCutter,
}

impl RangeBuilder {
    /// Adds an entry; gives the range before it where the entry begins a new one.
    pub(super) fn add(&mut self, entry: &Entry) -> Option<ScannedRange> {
        let start = self.bytes.len();
        entry.encode(&mut self.bytes);
        let encoded_bytes = self.bytes.len() - start;
        let full = match self.cutter.begins_new_range(entry.path.as_bytes(), encoded_bytes) {
            true => {
                let tail = self.bytes.split_off(start);
                let full = self.take();
                self.bytes = tail;
                full
            }
            false => None,
        };
        if entry.has_content() {
            let offset = (self.bytes.len() - encoded_bytes) as u32;
            self.items.push(ScannedItem { index: self.entries, offset, size: entry.size });
        }
        self.entries += 1;
        full
    }

    /// What has been gathered; none where that is nothing.
    pub(super) fn take(&mut self) -> Option<ScannedRange> {
        let bytes = std::mem::take(&mut self.bytes);
        let (entries, items) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.items));
        let totals = ScanTotals::default();
        (entries > 0).then(|| ScannedRange { hash: blake3_hash(&bytes), bytes, entries, items, totals })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::ScanOptions;
    use super::super::test_tree::*;
    use super::*;
    use crate::base::entry::decode_entries;

    #[test]
    fn a_range_says_what_is_in_it() {
        let folder = TestFolder::new();
        for number in 0..5_000 {
            std::fs::write(folder.path().join(format!("{number}")), "x").unwrap();
        }
        let (end, collected) = walk_with(&folder.path(), &ScanOptions::default(), |_| {});
        assert!(collected.ranges.len() > 1, "5,000 names make several ranges");
        for range in &collected.ranges {
            let entries = decode_entries(&range.bytes).unwrap();
            assert_eq!((range.hash, range.entries as usize), (blake3_hash(&range.bytes), entries.len()));
            let with_content: Vec<_> = entries.iter().filter(|entry| entry.has_content()).cloned().collect();
            let items: Vec<_> = range.items.iter().map(|item| range.entry(*item).unwrap()).collect();
            assert_eq!(items, with_content);
            assert!(range.items.iter().all(|item| range.entry(*item).as_ref() == entries.get(item.index as usize)));
        }
        let last = collected.ranges.last().unwrap();
        assert_eq!((last.totals, last.totals.files), (end.totals, 5_000));
        let (_, again) = walk_with(&folder.path(), &ScanOptions::default(), |_| {});
        assert_eq!(again.ranges, collected.ranges);
    }
}
