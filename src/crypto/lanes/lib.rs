//! The loops that every byte of a backup goes through: many texts at a time, since one alone leaves a processor idle.
//!
//! The bytes are those of the `cbc` and `sha2` crates; what is here is only faster. It has no keys, no formats and no
//! opinions: those are in `crypto`, which alone uses it.

pub mod cbc;
pub mod sha256;
