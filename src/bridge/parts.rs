//! Files from the parts of one request: their names and sizes are not known before they come. Each is offered to
//! the backup server by itself; where the next name does not come after the last, the snapshot ends and the next
//! one begins.
//!
//! Two threads meet here: the request's, which begins parts and gives their contents, and the job's, which walks
//! and opens. Each waits for the other with a limit, and `stop` ends both.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::handover::{Giver, Stopper, Taker, handover};
use super::upload::{entry, next_folder};
use crate::base::entry::{Entry, EntryKind};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::client::given::{GivenContent, GivenFiles};
use crate::client::source::SourceError;

/// How long the request waits for the job, and the job for the request.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);

/// The parts of one request, while they come.
#[derive(Default)]
pub struct PartFiles {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Entries that the walk has not taken.
    entries: VecDeque<Entry>,
    folder: Option<EntryPath>,
    last: Option<EntryPath>,
    wanted: Option<EntryPath>,
    offered: Option<Taker>,
    /// Of the content that was offered last.
    stopper: Option<Stopper>,
    /// No more comes into this snapshot.
    ended: bool,
    /// No more comes at all.
    closed: bool,
    stopped: bool,
    /// Of a content that was cut off: its end must not be seen before the job is stopped.
    broken: Option<Giver>,
    files: u64,
    bytes: u64,
}

impl PartFiles {
    /// Begins a part; waits until its content is wanted, and before that, where its name does not come after the
    /// last, until the snapshot is stored.
    ///
    /// # Errors
    /// The job has ended, or nothing happened for a while.
    pub fn begin(&self, path: &EntryPath) -> Result<Giver, &'static str> {
        let deadline = Instant::now() + TURN_TIMEOUT;
        let mut state = self.lock();
        if state.last.as_ref().is_some_and(|last| last >= path || path.is_within(last)) {
            state.ended = true;
            self.changed.notify_all();
            // Storing takes as long as it takes: the job's own limits bound it.
            while state.ended && !state.stopped {
                state = self.wait(state, TURN_TIMEOUT);
            }
        }
        self.name(&mut state, path);
        self.changed.notify_all();
        while state.wanted.as_ref() != Some(path) {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.stopped {
                return Err("the job has ended");
            }
            if left.is_zero() {
                return Err("another job's turn is not over: try again");
            }
            state = self.wait(state, left);
        }
        let (giver, taker, stopper) = handover();
        (state.wanted, state.offered, state.stopper) = (None, Some(taker), Some(stopper));
        self.changed.notify_all();
        Ok(giver)
    }

    /// Puts a file and the folders above it on the list of what the walk takes.
    fn name(&self, state: &mut State, path: &EntryPath) {
        let now = Timestamp::now();
        while let Some(folder) = next_folder(state.folder.as_ref(), path) {
            state.folder = Some(folder.clone());
            state.entries.push_back(entry(folder, EntryKind::Folder, 0, now));
        }
        state.entries.push_back(entry(path.clone(), EntryKind::File, 0, now));
        state.last = Some(path.clone());
    }

    /// A content was given whole.
    pub fn given(&self, bytes: u64) {
        let mut state = self.lock();
        state.files += 1;
        state.bytes += bytes;
    }

    /// A content was cut off: nobody hears so until `stop`.
    pub fn hold(&self, giver: Giver) {
        self.lock().broken = Some(giver);
    }

    /// All parts have come.
    pub fn close(&self) {
        let mut state = self.lock();
        (state.ended, state.closed) = (true, true);
        self.changed.notify_all();
    }

    /// The job stops: nobody waits any more.
    pub fn stop(&self) {
        let mut state = self.lock();
        (state.stopped, state.broken, state.stopper) = (true, None, None);
        self.changed.notify_all();
    }

    /// Files and bytes that were given.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.files, state.bytes)
    }

    /// Waits for the first part of a snapshot; says whether there is one.
    pub fn wait_for_part(&self) -> io::Result<bool> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if !state.entries.is_empty() || state.closed {
                return Ok(!state.entries.is_empty());
            }
            state = self.wait(state, TURN_TIMEOUT);
        }
    }

    /// A snapshot was stored: the next part begins another.
    pub fn stored(&self) {
        let mut state = self.lock();
        (state.folder, state.last, state.ended) = (None, None, state.closed);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl GivenFiles for PartFiles {
    /// What has been given once is gone: a job of this kind makes no second try.
    fn rewind(&self) {}

    fn next(&self) -> io::Result<Option<Entry>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match state.entries.pop_front() {
                Some(entry) => return Ok(Some(entry)),
                None if state.ended => return Ok(None),
                None => state = self.wait(state, TURN_TIMEOUT),
            }
        }
    }

    fn next_may_wait(&self) -> bool {
        self.lock().entries.is_empty()
    }

    fn open(&self, path: &EntryPath) -> Result<GivenContent, SourceError> {
        let mut state = self.lock();
        state.wanted = Some(path.clone());
        self.changed.notify_all();
        loop {
            if let Some(taker) = state.offered.take() {
                return Ok(GivenContent { reader: Box::new(taker), size: None });
            }
            if state.stopped {
                return Err(SourceError::Io(io::ErrorKind::Interrupted.into()));
            }
            state = self.wait(state, TURN_TIMEOUT);
        }
    }
}
