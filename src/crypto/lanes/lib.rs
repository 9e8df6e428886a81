//! The loops that every byte of a backup goes through: many texts at a time, since one alone leaves a processor idle.
//!
//! Beside them stand the two loops that look at each byte of a chunk of a vault: where it ends, and whether it may
//! compress. The bytes are those of the `cbc` and `sha2` crates; what is here is only faster. It has no keys, no formats
//! and no opinions: those are in `crypto` and above it.

pub mod cbc;
pub mod gear;
pub mod sample;
pub mod sha256;
