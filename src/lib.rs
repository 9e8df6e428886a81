//! CyberBackup 3: encrypted backups over the network, and back.
//!
//! The ladder, from the bottom up. Each rung imports only rungs below it; those that share a rung (crypto and
//! protocol, server and client) do not import each other.

pub mod base;

pub mod crypto;
pub mod protocol;

pub mod channel;

pub mod storage;

pub mod client;
pub mod server;

pub mod bridge;

pub mod cli;
