//! How long to wait before trying again. Waits double and are spread by chance, so that many clients that
//! lost one server do not come back in step.

use std::time::{Duration, Instant};

use crate::base::ids::random_array;

/// How patiently a client tries again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub retries: u32,
    /// No single wait is longer.
    pub wait_max: Duration,
}

/// The first wait, before it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that any setting allows.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// How long a full server is waited for in all.
pub const BUSY_WAIT_MAX: Duration = Duration::from_secs(600);
/// All waits for a server that refuses the first connection stay below this.
pub const FIRST_CONNECTION_WAIT_MAX: Duration = Duration::from_secs(30);

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { retries: 5, wait_max: Duration::from_secs(60) }
    }
}

impl RetryPolicy {
    /// The wait before try number `number` (from 1), between half and the whole of what doubling gives.
    pub fn wait(&self, number: u32) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1 << number.saturating_sub(1).min(16));
        spread(doubled.min(self.wait_max).min(WAIT_MAX))
    }
}

/// The waits for a busy server.
#[derive(Debug, Default)]
pub struct BusyWait {
    began: Option<Instant>,
    times: u32,
}

impl BusyWait {
    /// The wait for a server that asked to be left alone for `seconds`, longer with every time it did. None when it
    /// has been waited for as long as it will be: [`BUSY_WAIT_MAX`] from the first time on.
    pub fn next(&mut self, seconds: u16) -> Option<Duration> {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.times += 1;
        let wait = busy_wait(seconds, self.times);
        (began.elapsed() + wait <= BUSY_WAIT_MAX).then_some(wait)
    }
}

fn busy_wait(seconds: u16, times: u32) -> Duration {
    let asked = Duration::from_secs(u64::from(seconds.max(1)));
    spread(asked.saturating_mul(1 + times.min(8)).min(WAIT_MAX))
}

/// A random time between half of `whole` and all of it.
fn spread(whole: Duration) -> Duration {
    let chance = f64::from(u32::from_le_bytes(random_array())) / f64::from(u32::MAX);
    whole.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_are_spread_and_bounded() {
        let policy = RetryPolicy { retries: 40, wait_max: Duration::from_secs(4) };
        for _ in 0..100 {
            assert!((Duration::from_millis(250)..=Duration::from_millis(500)).contains(&policy.wait(1)));
            assert!((Duration::from_secs(2)..=Duration::from_secs(4)).contains(&policy.wait(40)));
            assert!(busy_wait(u16::MAX, 100) <= WAIT_MAX);
        }
    }

    #[test]
    fn the_default_gives_up_a_refused_first_connection_within_30_seconds() {
        let policy = RetryPolicy::default();
        let longest: Duration = (1..=policy.retries).map(|_| FIRST_WAIT).sum::<Duration>() * (1 << 4);
        let doubled: Duration = (0..policy.retries).map(|number| FIRST_WAIT * (1 << number)).sum();
        assert!(doubled < FIRST_CONNECTION_WAIT_MAX && doubled < longest);
    }
}
