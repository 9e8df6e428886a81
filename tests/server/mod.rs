//! The server as strangers, crowds, attackers and its operator meet it.

mod clients;
mod crowds;
mod ending;
mod export;
mod malformed;
pub mod operator;
mod paths;
pub mod rogue;
mod sealed_nonsense;
