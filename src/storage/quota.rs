//! What an upload may still bring. A client's usage is the sum of the stored lengths in its heads; an upload
//! counts what arrives on top of it, content by content and range by range, so that a quota ends it while it
//! brings too much and not when all is here. What it brought by then stays, for a later session to go on with.
//!
//! Two uploads of one client at a time each count themselves alone; each commit counts what the other made.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;

/// No quota.
const UNLIMITED: u64 = u64::MAX;

/// The quota of a client as uploads under way see it: a change by the operator counts at once.
#[derive(Debug)]
pub struct Quota(AtomicU64);

impl Quota {
    pub fn new(quota: Option<u64>) -> Quota {
        Quota(AtomicU64::new(quota.unwrap_or(UNLIMITED)))
    }

    pub fn set(&self, quota: Option<u64>) {
        self.0.store(quota.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// # Errors
    /// `QuotaExceeded` where so many bytes are more than it allows.
    pub fn check(&self, bytes: u64) -> Result<(), StoreError> {
        match self.0.load(Ordering::Relaxed) {
            quota if bytes > quota => Err(StoreError::QuotaExceeded { quota }),
            _ => Ok(()),
        }
    }
}
