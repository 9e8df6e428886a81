//! The client's side of a vault, which the server keeps and cannot read: its keys, what goes into it, and what reads it
//! back ([`reader`]). What a snapshot consists of is in [`format`]; contents are cut by [`chunker`].
//!
//! [`backing_up`] is one try of a backup: the walk's ranges are compared with the last one ([`known`], [`cache`]), what
//! changed is read and cut ([`cutting`]), the server is asked ([`uploading`]), and what it lacks is sealed
//! ([`sealing`]). [`chain`] finds what a server lost, exchanged or was set back by in what it lists ([`listed`]), [`writers`] what
//! is missing between the heads of any host. What a restore has of a large file already, [`held`] knows.

mod access;
pub(super) mod backing_up;
pub(super) mod cache;
pub mod chain;
pub mod chunker;
mod contents;
pub(super) mod cutting;
mod fetching;
pub mod format;
mod heads;
mod held;
pub mod key_file;
pub(super) mod known;
pub mod listed;
pub(super) mod lists;
pub(super) mod parcel;
pub mod passphrase;
mod reader;
pub(super) mod sealing;
pub(super) mod spool;
pub(super) mod uploading;
mod verifying;
mod walk;
mod writers;

pub use access::VaultAccess;
pub use chain::{Compared, Finding};
pub(super) use fetching::Line;
pub use heads::Known;
pub(super) use heads::Place;
pub(super) use held::HeldFiles;
pub use key_file::{VaultKeys, calibrate, create_vault};
pub use passphrase::PassphraseSource;
pub use reader::LATEST;
pub(super) use reader::{VaultReader, selection_of};
pub use verifying::Telling;
