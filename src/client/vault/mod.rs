//! The client's side of a vault, which the server keeps and cannot read: its keys, what goes into it, and what reads it
//! back. What a snapshot consists of is in [`format`]; contents are cut by [`chunker`].

pub mod chunker;
pub mod format;
pub mod key_file;
pub mod passphrase;

pub use key_file::{VaultKeys, calibrate, create_vault};
pub use passphrase::PassphraseSource;
