//! The vault: what the server stores and cannot read.

mod backing_up;
mod keys;
