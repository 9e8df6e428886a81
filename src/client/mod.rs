//! The client: reads a person's files and writes them back, talks to a server, and remembers what it must
//! between runs. Imports nothing of the server.

mod backup;
pub mod config;
mod connect;
mod delta;
pub mod diff;
mod error;
mod export;
mod facts;
pub mod given;
pub mod json;
mod keys;
pub mod last_result;
mod legacy;
mod listing;
mod listing_spill;
mod me_info;
mod name_run;
mod owners;
mod page_cache;
mod pages;
mod pax;
mod progress;
mod properties;
mod query;
mod ranges;
mod reach;
mod refill;
mod request_limits;
mod restore;
mod restoring;
mod retry;
pub mod roots;
mod rotate_key;
pub mod scan;
mod sender;
pub mod source;
mod standing;
pub mod state;
pub mod target;
mod target_error;
mod unfinished;
mod uploading;
pub mod vault;

#[cfg(test)]
mod test_tree;

pub use backup::{BackupOptions, BackupSummary, backup};
pub use connect::{
    Client, ClientOptions, Destination, LOW_MEMORY_WINDOW_BYTES, Session, Window, server_fingerprint,
};
pub use error::{ClientError, ExitCode};
pub use export::{ExportSummary, Exporting, Taken};
pub use legacy::{LegacyClient, LegacyError, LegacySettings, LegacySummary, backup_legacy};
pub use me_info::legacy_user;
pub use query::{Damage, ListSummary, Listed, VerifySummary};
pub use request_limits::{check_backup, check_selection};
pub use restore::{Restore, RestoreSummary};
pub use retry::RetryPolicy;
pub use rotate_key::{KeyRotation, rotate_key};
pub use unfinished::unfinished_upload;
