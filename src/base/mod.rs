//! What every layer stands on: identifiers, the codec, entries, disk writes that survive a crash,
//! progress, shutdown and the named limits. Imports nothing else of the program.

pub mod amount;
pub mod codec;
pub mod durable;
pub mod entry;
pub mod folder;
pub mod hook;
pub mod host;
pub mod ids;
pub mod limits;
pub mod order;
pub mod path;
pub mod pattern;
pub mod progress;
pub mod selection;
pub mod shutdown;
pub mod time;
pub mod vault;
pub mod waker;
pub mod zeros;
