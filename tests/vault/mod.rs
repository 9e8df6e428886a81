//! The vault: what the server stores and cannot read.

mod keys;
