//! What the program encrypts, held against other people's implementations, against lines that damage,
//! cut, record and replay, and against servers that are not what they seem.

mod damage;
mod keys;
pub mod line;
mod middle;
mod observer;
mod odd_servers;
mod openssl;
mod replay;
