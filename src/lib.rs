pub mod base;
pub mod protocol;
