//! The bytes on the wire: headers, handshake messages, the messages of a conversation, and control
//! messages. Knows how each looks and how long it may be; knows nothing of keys, sockets or disks.
//!
//! `docs/protocol.md` lists every number and field; the tests here and the vectors under
//! `tests/testdata/vectors/` pin them.

pub mod control;
pub mod handshake;
pub mod header;
pub mod legacy;
pub mod message;
