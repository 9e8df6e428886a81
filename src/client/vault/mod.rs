//! The client's side of a vault, which the server keeps and cannot read: its keys, what goes into it, and what reads it
//! back. What a snapshot consists of is in [`format`]; contents are cut by [`chunker`].

mod access;
pub mod chunker;
mod contents;
mod fetching;
pub mod format;
pub mod key_file;
pub mod passphrase;
mod reader;
mod walk;

pub use access::VaultAccess;
pub(super) use fetching::Line;
pub use key_file::{VaultKeys, calibrate, create_vault};
pub use passphrase::PassphraseSource;
pub(super) use reader::{VaultReader, is_about_entries, selection_of};
