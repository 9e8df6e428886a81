//! Files that somebody hands over, in the place of those of a file system: what a browser uploads. Their entries
//! come in path order, and their contents when they are asked for, in the same order; nothing of them touches
//! this host's disk.
//!
//! ## Why nobody waits for ever
//! The walk waits in [`GivenFiles::next`], the reading in [`GivenFiles::open`] and in a content's reader. Whoever
//! hands over ends all three with an error when the run is to stop. Before that it makes the run's wish to stop,
//! which closes the connection: what is said to be unreadable then is told to nobody, and cannot be committed.

use std::io::{self, Read};
use std::ops::ControlFlow;

use super::ranges::{RangeBuilder, ScanTotals, ScannedRange};
use super::scan::{ScanEnd, ScanSink};
use super::source::SourceError;
use crate::base::entry::{Entry, EntryKind};
use crate::base::path::EntryPath;

/// Whoever hands files over. Called from two threads: one takes entries, one opens contents.
pub trait GivenFiles: Send + Sync {
    /// A new try begins: entries from the first one again.
    fn rewind(&self);

    /// The next entry, greater than the last; waits for it. None at the end.
    ///
    /// # Errors
    /// The run is to stop.
    fn next(&self) -> io::Result<Option<Entry>>;

    /// Whether the next entry may keep the walk waiting: then the server is told first what there is.
    fn next_may_wait(&self) -> bool;

    /// The content of the file at `path`; waits until it is there. Files that are passed over are not wanted.
    fn open(&self, path: &EntryPath) -> Result<GivenContent, SourceError>;
}

/// A content that is handed over. A reader that fails ends the run.
pub struct GivenContent {
    pub reader: Box<dyn Read + Send>,
    /// None where it is only known at the end.
    pub size: Option<u64>,
}

impl std::fmt::Debug for GivenContent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GivenContent").field("size", &self.size).finish_non_exhaustive()
    }
}

impl GivenContent {
    pub(super) fn read_into(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::Io(error)),
            }
        }
        Ok(filled)
    }
}

/// Makes ranges of what is handed over, as [`super::scan::scan`] does of a tree.
pub(super) fn walk(given: &dyn GivenFiles, sink: &mut impl ScanSink) -> ScanEnd {
    let (mut ranges, mut totals) = (RangeBuilder::default(), ScanTotals::default());
    let complete = walk_all(given, &mut ranges, &mut totals, sink).is_continue();
    ScanEnd { totals, complete }
}

fn walk_all(
    given: &dyn GivenFiles,
    ranges: &mut RangeBuilder,
    totals: &mut ScanTotals,
    sink: &mut impl ScanSink,
) -> ControlFlow<()> {
    let emit = |range: Option<ScannedRange>, totals: ScanTotals, sink: &mut dyn ScanSink| match range {
        Some(range) => sink.range(ScannedRange { totals, ..range }),
        None => ControlFlow::Continue(()),
    };
    loop {
        if given.next_may_wait() {
            emit(ranges.take(), *totals, sink)?;
        }
        let entry = match given.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return emit(ranges.take(), *totals, sink),
            Err(_) => return ControlFlow::Break(()),
        };
        // The range before it has gone when it is counted: a range's totals are its own.
        emit(ranges.add(&entry), *totals, sink)?;
        match entry.kind {
            EntryKind::File => totals.files += 1,
            EntryKind::Folder => totals.folders += 1,
            EntryKind::Link => totals.links += 1,
        }
        totals.bytes += entry.size;
    }
}
