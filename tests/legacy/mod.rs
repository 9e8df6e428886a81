//! The legacy dialect, with counterparts written from its description: our client against an older server, and older
//! clients against ours.

mod client;
mod counterpart_server;
