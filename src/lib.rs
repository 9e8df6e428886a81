//! CyberBackup 3: encrypted backups over the network, and back.
//!
//! The ladder, from the bottom up; each rung imports only rungs below it:

pub mod base;
pub mod crypto;
pub mod protocol;

pub mod channel;
