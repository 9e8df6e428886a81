//! The sealed channel: a handshake that proves both keys, then a stream of messages cut into sealed
//! segments, repaired where the line damages them.
//!
//! One thread owns a [`Channel`] and does everything on it: it seals, sends, receives, opens,
//! acknowledges. Sockets are non-blocking below and every wait is one `poll` for both directions, so a side
//! that cannot write reads, and no pair of full buffers can stop both.

mod error;
mod framing;
mod handshake;
mod inbox;
mod plain;
mod ring;
mod sealed;
#[cfg(test)]
mod tests;
mod transport;
pub mod worker;

pub use error::ChannelError;
pub use handshake::{
    Agreed, ClientHandshake, ClientLogin, FirstRequest, LoggedIn, LoginReceived, ServerHandshake, ServerIdentity,
    Terms, answer_busy, answer_general_error, answer_refused,
};
pub use plain::PlainConnection;
pub use sealed::{Activity, Channel, Message, SegmentCounts};
pub use transport::{Closer, Meter, Transport};
