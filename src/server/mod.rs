//! The backup server: accepts connections, lets proven clients in up to a cap, and serves their sessions
//! from the store. One named thread for each connection; a command of a session runs on a worker beside it.
//!
//! Owned invariant: whatever one connection does, the others and the store go on. A panic, a lost peer or a
//! broken message ends its own connection and returns everything it held.

mod admission;
mod answers;
mod blocks;
mod config;
mod connections;
mod error;
mod events;
mod failures;
mod key_rotation;
mod legacy;
mod listener;
mod operator;
mod overview;
mod prune;
mod semaphore;
mod server_keys;
mod session;
mod sessions;
mod statistics;
mod upload;
mod vault;
mod waiting_room;

pub use config::{DEFAULT_GRACE, DEFAULT_RSA_BITS, DEFAULT_SEGMENTS_PER_EPOCH, LowSpace, ServerConfig, Watch};
pub use error::ServerError;
pub use failures::FailureNote;
pub use listener::Server;
pub use operator::{
    ExportRequest, OperatorCommand, OperatorError, RepairRequest, VerifyRequest, export, operate, operate_sealed,
    repair, verify,
};
pub use overview::{Overview, SessionView};
pub use prune::{DailyPrune, Policy, PruneRequest};
pub use semaphore::{Permit, Semaphore};
pub use sessions::Doing;
pub use statistics::Report;
