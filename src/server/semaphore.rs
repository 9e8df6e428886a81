//! A counting semaphore: so many permits, each given back when it is dropped, whatever ended its holder.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Hands out at most `capacity` permits at a time.
#[derive(Debug)]
pub struct Semaphore {
    capacity: usize,
    free: Mutex<usize>,
    returned: Condvar,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    semaphore: Arc<Semaphore>,
}

impl Semaphore {
    pub fn new(capacity: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore { capacity, free: Mutex::new(capacity), returned: Condvar::new() })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many permits could be had now.
    pub fn available(&self) -> usize {
        *self.free()
    }

    /// A permit, if one is free.
    pub fn try_acquire(self: &Arc<Semaphore>) -> Option<Permit> {
        let mut free = self.free();
        *free = free.checked_sub(1)?;
        Some(Permit { semaphore: self.clone() })
    }

    /// Waits for a permit.
    pub fn acquire(self: &Arc<Semaphore>) -> Permit {
        let mut free = self.free();
        while *free == 0 {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit { semaphore: self.clone() }
    }

    /// Waits for a permit, but not longer than `limit`.
    pub fn acquire_within(self: &Arc<Semaphore>, limit: Duration) -> Option<Permit> {
        let free = self.free();
        let waited = self.returned.wait_timeout_while(free, limit, |free| *free == 0);
        let (mut free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Permit { semaphore: self.clone() })
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        // A count is whole whatever its holder did: a panic elsewhere must not stop the server.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.semaphore.free() += 1;
        self.semaphore.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn never_more_than_the_capacity_are_out() {
        let semaphore = Semaphore::new(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _permit = semaphore.acquire();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert_eq!(semaphore.available(), 3);
    }

    #[test]
    fn a_permit_returns_even_through_a_panic() {
        let semaphore = Semaphore::new(1);
        let holder = semaphore.clone();
        let panicked = std::thread::spawn(move || {
            let _permit = holder.acquire();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn an_empty_semaphore_says_so() {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        assert!(semaphore.try_acquire().is_none());
        drop(permit);
        assert_eq!(semaphore.available(), 1);
    }
}
