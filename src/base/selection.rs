//! Paths that somebody named, and what of a list in path order they select.

use super::entry::merge_roots;
use super::path::EntryPath;

/// Paths that select themselves and all below; none of them selects everything.
#[derive(Debug)]
pub struct PathSelection {
    everything: bool,
    /// Sorted, none within another.
    paths: Vec<EntryPath>,
    unmatched: Vec<EntryPath>,
}

impl PathSelection {
    pub fn new(paths: &[EntryPath]) -> PathSelection {
        PathSelection {
            everything: paths.is_empty(),
            paths: merge_roots(paths.to_vec()),
            unmatched: paths.to_vec(),
        }
    }

    /// Whether an entry is selected, which counts for the path that selects it.
    pub fn selects(&mut self, path: &EntryPath) -> bool {
        // Of disjoint sorted paths only the last one that is not greater can hold this path.
        let place = self.paths.partition_point(|selected| selected <= path);
        let within = place.checked_sub(1).is_some_and(|place| path.is_within(&self.paths[place]));
        if within {
            self.unmatched.retain(|selected| !path.is_within(selected));
        }
        within || self.everything
    }

    /// Whether entries can be selected of a range that may hold the paths that `touches` says, and what is below them.
    pub fn may_select(&self, touches: impl FnMut(&EntryPath) -> bool) -> bool {
        self.everything || self.paths.iter().any(touches)
    }

    /// Takes such paths for found: the range that may hold them cannot be read.
    pub fn pass(&mut self, mut touches: impl FnMut(&EntryPath) -> bool) {
        self.unmatched.retain(|path| !touches(path));
    }

    /// The paths that have selected nothing yet.
    pub fn unmatched(&self) -> &[EntryPath] {
        &self.unmatched
    }
}
