//! How far a job has come, as one percentage of weighted phases. It follows what was done and never a clock, and
//! it never goes back: not where the walk finds more, and not where a lost line makes the job begin anew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::progress::{Phase, Totals};
use crate::client::json::put_path;

/// The span over which the rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// Over a shorter time a rate says nothing.
const RATE_AFTER: Duration = Duration::from_millis(200);
const SAMPLES_MAX: usize = 64;
/// What dealing with a file costs beside its bytes, so that many empty ones count.
const FILE_COST_BYTES: f64 = 4_096.0;

/// The progress of one job.
#[derive(Debug)]
pub struct Progress {
    /// Of CONNECT, BACKUP_IN_PROGRESS and CLEANUP.
    weights: [f64; 3],
    percentage: f64,
    phase: Phase,
    done: Totals,
    /// All there is, once it was counted beside the job.
    all: Option<Totals>,
    current_file: Vec<u8>,
    samples: VecDeque<(Instant, u64)>,
    began: Option<Instant>,
    ran: Duration,
}

impl Progress {
    pub fn new(weights: [f64; 3]) -> Progress {
        Progress {
            weights,
            percentage: 0.0,
            phase: Phase::Ready,
            done: Totals::default(),
            all: None,
            current_file: Vec::new(),
            samples: VecDeque::new(),
            began: None,
            ran: Duration::ZERO,
        }
    }

    /// The job runs from now on.
    pub fn begin(&mut self) {
        (self.began, self.phase) = (Some(Instant::now()), Phase::Ready);
        self.samples.clear();
    }

    /// The job rests or has ended.
    pub fn end(&mut self) {
        self.ran = self.elapsed();
        self.began = None;
    }

    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.look();
    }

    /// What there is in all.
    pub fn counted(&mut self, files: u64, bytes: u64) {
        self.all = Some(Totals { files_total: files, bytes_total: bytes, ..Totals::default() });
        self.look();
    }

    pub fn update(&mut self, totals: Totals, current_file: &[u8]) {
        self.done.files_done = self.done.files_done.max(totals.files_done);
        self.done.bytes_done = self.done.bytes_done.max(totals.bytes_done);
        self.done.files_total = self.done.files_total.max(totals.files_total);
        self.done.bytes_total = self.done.bytes_total.max(totals.bytes_total);
        self.done.counted |= totals.counted;
        if !current_file.is_empty() {
            self.current_file.clear();
            self.current_file.extend_from_slice(current_file);
        }
        self.sample();
        self.look();
    }

    fn sample(&mut self) {
        let now = Instant::now();
        if self.samples.back().is_none_or(|(then, _)| now - *then >= RATE_SPAN / SAMPLES_MAX as u32) {
            self.samples.push_back((now, self.done.bytes_done));
        }
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(then, _)| now - *then > RATE_SPAN) {
            self.samples.pop_front();
        }
    }

    /// What there is, and whether that is final.
    fn totals(&self) -> (u64, u64, bool) {
        let all = self.all.unwrap_or_default();
        let files = self.done.files_total.max(all.files_total).max(self.done.files_done);
        let bytes = self.done.bytes_total.max(all.bytes_total).max(self.done.bytes_done);
        (files, bytes, self.done.counted || self.all.is_some())
    }

    fn look(&mut self) {
        let [connect, backup, cleanup] = self.weights;
        let (files, bytes, counted) = self.totals();
        let cost = |files: u64, bytes: u64| files as f64 * FILE_COST_BYTES + bytes as f64;
        let (done, all) = (cost(self.done.files_done, self.done.bytes_done), cost(files, bytes));
        let part = if counted && all > 0.0 { done / all } else { 0.0 };
        let reached = match self.phase {
            Phase::Ready | Phase::Connect | Phase::Failed => 0.0,
            Phase::BackupInProgress => connect + backup * part,
            Phase::Cleanup => connect + backup,
            Phase::Completed => connect + backup + cleanup,
        };
        let percentage = 100.0 * reached / (connect + backup + cleanup);
        self.percentage = self.percentage.max(percentage.clamp(0.0, 100.0));
    }

    fn elapsed(&self) -> Duration {
        self.ran + self.began.map(|began| began.elapsed()).unwrap_or_default()
    }

    fn rate(&self) -> f64 {
        let (Some((from, first)), true) = (self.samples.front(), self.began.is_some()) else { return 0.0 };
        let span = from.elapsed();
        match span < RATE_AFTER {
            true => 0.0,
            false => (self.done.bytes_done - first) as f64 / span.as_secs_f64(),
        }
    }

    pub fn json(&self) -> Value {
        let (files, bytes, counted) = self.totals();
        let rate = self.rate();
        let left = bytes.saturating_sub(self.done.bytes_done) as f64;
        let eta =
            (counted && rate > 0.0 && self.phase == Phase::BackupInProgress).then(|| (left / rate).ceil() as u64);
        let mut data = json!({
            "percentage": (self.percentage * 100.0).floor() / 100.0,
            "bytes_transferred": self.done.bytes_done,
            "total_bytes": bytes,
            "files_done": self.done.files_done,
            "files_total": files,
            "counted": counted,
            "rate": rate as u64,
            "elapsed_seconds": (self.elapsed().as_secs_f64() * 10.0).floor() / 10.0,
            "eta_seconds": eta,
        });
        put_path(&mut data, "current_file", &self.current_file);
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn totals(files: u64, bytes: u64) -> Totals {
        Totals { files_done: files, bytes_done: bytes, files_total: files, bytes_total: bytes, counted: false }
    }

    #[test]
    fn phases_count_with_their_weights() {
        let mut progress = Progress::new([5.0, 80.0, 15.0]);
        let mut seen = Vec::new();
        progress.begin();
        progress.enter(Phase::Connect);
        seen.push(progress.percentage);
        progress.enter(Phase::BackupInProgress);
        progress.update(totals(10, 1_000_000), b"x");
        seen.push(progress.percentage);
        progress.counted(20, 2_000_000);
        seen.push(progress.percentage);
        progress.enter(Phase::Cleanup);
        seen.push(progress.percentage);
        progress.enter(Phase::Completed);
        seen.push(progress.percentage);
        assert_eq!(seen, [0.0, 5.0, 45.0, 85.0, 100.0]);
    }

    proptest! {
        #[test]
        fn the_percentage_never_goes_back(steps in prop::collection::vec((0u8..9, any::<u32>(), any::<u32>()), 0..60)) {
            let mut progress = Progress::new([5.0, 80.0, 15.0]);
            let mut last = 0.0;
            for (step, files, bytes) in steps {
                match step {
                    0 => progress.enter(Phase::Connect),
                    1 => progress.enter(Phase::BackupInProgress),
                    2 => progress.enter(Phase::Cleanup),
                    3 => progress.counted(files.into(), bytes.into()),
                    4 => progress.begin(),
                    5 => progress.end(),
                    _ => progress.update(totals(files.into(), bytes.into()), b"x"),
                }
                prop_assert!(progress.percentage >= last && progress.percentage <= 100.0);
                last = progress.percentage;
            }
        }
    }
}
