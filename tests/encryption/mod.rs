//! What the program encrypts, held against other people's implementations.

mod openssl;
