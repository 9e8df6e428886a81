//! The client's side of a vault: its keys, and what reads a snapshot that the server itself cannot read.

pub mod key_file;
pub mod passphrase;

pub use key_file::{VaultKeys, calibrate, create_vault};
pub use passphrase::PassphraseSource;
