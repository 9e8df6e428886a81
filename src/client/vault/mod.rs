//! Backups into a vault, which the server keeps and cannot read.
//!
//! [`backing_up`] is one try of a backup: the walk's ranges are compared with the last one ([`known`], [`cache`]), what
//! changed is read and cut ([`cutting`], [`chunker`]), the server is asked ([`uploading`]), and what it lacks is sealed
//! ([`sealing`]). What a snapshot consists of is in [`format`]; [`chain`] finds a server that was set back.

pub mod backing_up;
pub mod cache;
pub mod chain;
pub mod chunker;
pub mod cutting;
pub mod format;
pub mod known;
pub mod lists;
pub mod parcel;
pub mod sealing;
pub mod spool;
pub mod uploading;
