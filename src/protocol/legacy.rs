//! The numbers of the legacy dialect that the native one has to know: enough to recognise an older peer
//! and to end its connection with the answer it understands.

use std::ops::RangeInclusive;

/// Codes an older client begins a connection with.
pub const REQUEST_CODES: RangeInclusive<u16> = 1025..=1031;
/// Codes an older server answers with.
pub const RESPONSE_CODES: RangeInclusive<u16> = 1600..=1607;
/// `RESP_GENERIC_SERVER_ERROR`: the one answer to whatever is not understood, in either dialect.
pub const GENERAL_ERROR: u16 = 1607;
/// A greeting that some older servers send before anything is asked.
pub const GREETING: u16 = 0;
