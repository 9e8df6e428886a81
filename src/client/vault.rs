//! Backups into a vault, which the server keeps and cannot read. What a snapshot consists of is in
//! [`format`]; contents are cut by [`chunker`].

pub mod chunker;
pub mod format;
