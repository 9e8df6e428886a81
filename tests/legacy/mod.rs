//! Clients of the legacy dialect at our server. The counterpart here ([`peer`]) is made of bytes put together by
//! hand, of `openssl` and of `cksum`: it shares no code with the program.

mod admission;
mod errors;
mod faults;
mod files;
mod large;
mod moving_over;
pub mod peer;
