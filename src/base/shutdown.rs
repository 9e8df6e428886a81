//! One concept: the wish to stop, made once, seen by everyone who holds a copy.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::waker::Waker;

/// A wish to stop that any copy can make and every copy sees.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requested: bool,
    wakers: Vec<Waker>,
    /// What to end when the wish is made; each belongs to one connection of a run.
    closers: Vec<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").field("requested", &self.requested).finish_non_exhaustive()
    }
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Makes the wish; wakes every waiter and every registered poller.
    pub fn request(&self) {
        let mut state = self.state();
        state.requested = true;
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
        for close in state.closers.drain(..) {
            close();
        }
        self.shared.changed.notify_all();
    }

    pub fn is_requested(&self) -> bool {
        self.state().requested
    }

    /// Wakes `waker` when the wish is made; at once if it has been.
    pub fn wake_on_request(&self, waker: Waker) {
        let mut state = self.state();
        if state.requested {
            waker.wake();
        } else {
            state.wakers.push(waker);
        }
    }

    /// Calls `close` when the wish is made; at once if it has been. It must not block.
    pub fn close_on_request(&self, close: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.requested {
            close();
        } else {
            state.closers.push(Box::new(close));
        }
    }

    /// Sleeps for `duration`, or less if the wish is made; says whether it was.
    pub fn wait(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut state = self.state();
        while !state.requested {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A flag and a list are whole after a panic elsewhere.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
