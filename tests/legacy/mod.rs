//! The legacy dialect, with counterparts made of bytes put together by hand, of `openssl` and of `cksum`, which share
//! no code with the program: older clients ([`peer`]) at our server, and our client at an older server
//! ([`counterpart_server`]).

mod admission;
mod client;
mod counterpart_server;
mod errors;
mod faults;
mod files;
mod large;
mod moving_over;
mod own_server;
pub mod peer;
