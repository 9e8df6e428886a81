//! How far a restore has come, as it is told: what was found right counts as done, and what has been told is never
//! taken back, though a lost line may take back what was done.

use std::time::{Duration, Instant};

use crate::base::progress::{Event, ProgressSink, Totals};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Progress<'a> {
    pub totals: Totals,
    /// Bytes that were found or made right, of files whose entries have not come for good.
    found: u64,
    told: Totals,
    told_at: Instant,
    sink: &'a dyn ProgressSink,
}

impl<'a> Progress<'a> {
    pub fn new(sink: &'a dyn ProgressSink) -> Progress<'a> {
        let (totals, told) = (Totals::default(), Totals::default());
        Progress { totals, found: 0, told, told_at: Instant::now(), sink }
    }

    /// So many bytes of a file turned out right, or were made right, before its entry comes for good.
    pub fn find(&mut self, bytes: u64, path: &[u8]) {
        self.found = self.found.saturating_add(bytes);
        self.tell(path);
    }

    /// So many bytes must be fetched after all.
    pub fn unfind(&mut self, bytes: u64) {
        self.found = self.found.saturating_sub(bytes);
    }

    /// The entry of a file that was found right has come.
    pub fn settle(&mut self, bytes: u64) {
        self.unfind(bytes);
        self.totals.bytes_done = self.totals.bytes_done.saturating_add(bytes);
    }

    /// Nothing is known of the next files.
    pub fn forget_found(&mut self) {
        self.found = 0;
    }

    pub fn tell(&mut self, path: &[u8]) {
        if self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.tell_now(path);
        }
    }

    pub fn tell_now(&mut self, path: &[u8]) {
        self.told_at = Instant::now();
        self.told = Totals {
            files_done: self.told.files_done.max(self.totals.files_done),
            bytes_done: self.told.bytes_done.max(self.totals.bytes_done.saturating_add(self.found)),
            ..self.totals
        };
        self.sink.event(Event::Progress { totals: self.told, current_file: path });
    }
}
