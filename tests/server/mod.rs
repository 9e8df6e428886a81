//! The server as strangers, crowds, attackers and its operator meet it.

mod clients;
pub mod crowds;
mod ending;
mod export;
pub mod malformed;
pub mod operator;
mod paths;
pub mod rogue;
mod sealed_nonsense;
