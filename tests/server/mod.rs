//! The server as strangers, crowds, attackers and its operator meet it.

pub mod crowds;
mod ending;
pub mod malformed;
mod operator;
mod paths;
pub mod rogue;
mod sealed_nonsense;
