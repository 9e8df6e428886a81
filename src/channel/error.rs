//! What can end a channel.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::base::codec::DecodeError;
use crate::crypto::CryptoError;
use crate::protocol::handshake::Refusal;

/// Why a handshake or a channel ended other than by a close.
#[derive(Debug)]
pub enum ChannelError {
    /// The socket failed.
    Io(io::Error),
    /// The peer's end is gone without a close: nothing that was under way may be believed finished.
    Lost,
    /// The peer neither sent nor took anything whole for this long.
    TimedOut(Duration),
    /// One segment failed its check three times.
    Damaged {
        sequence: u64,
    },
    /// A header that no message can have.
    BadHeader,
    /// Bytes that are no message, or not one for here.
    Malformed(DecodeError),
    /// The peer broke a rule of the channel.
    Violation(&'static str),
    /// The peer did not prove its key.
    Unproven,
    /// A key or secret could not be used.
    Crypto(CryptoError),
    /// Come again in so many seconds.
    Busy {
        seconds: u16,
    },
    Refused(Refusal),
    /// The server used a key of this client that is not here.
    OtherKey,
    /// The server speaks the legacy dialect only.
    LegacyServer,
}

impl ChannelError {
    /// Whether trying again could end differently: the line failed, not the conversation.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            ChannelError::Io(_)
                | ChannelError::Lost
                | ChannelError::TimedOut(_)
                | ChannelError::Damaged { .. }
                | ChannelError::BadHeader
                | ChannelError::Busy { .. }
        )
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Io(error) => write!(formatter, "the connection failed: {error}"),
            ChannelError::Lost => write!(formatter, "the connection was lost"),
            ChannelError::TimedOut(after) => {
                write!(formatter, "the other side was silent for {} s", after.as_secs())
            }
            ChannelError::Damaged { sequence } => {
                write!(formatter, "segment {sequence} arrived damaged three times")
            }
            ChannelError::BadHeader => write!(formatter, "a message header arrived damaged"),
            ChannelError::Malformed(error) => write!(formatter, "a message makes no sense: {error}"),
            ChannelError::Violation(rule) => write!(formatter, "the other side broke the protocol: {rule}"),
            ChannelError::Unproven => write!(formatter, "the other side did not prove its key"),
            ChannelError::Crypto(error) => write!(formatter, "{error}"),
            ChannelError::Busy { seconds } => write!(formatter, "the server is busy, again in {seconds} s"),
            ChannelError::Refused(refusal) => write!(formatter, "the server refused: {}", refusal_text(*refusal)),
            ChannelError::OtherKey => write!(formatter, "the server used another key of this client"),
            ChannelError::LegacyServer => write!(formatter, "the server speaks only the legacy dialect"),
        }
    }
}

/// A refusal in words.
fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Authentication => "this name, id and key do not belong together there",
        Refusal::NameTaken => "the name belongs to another key",
        Refusal::Registration => "it registers new clients only with a token, or not at all",
        Refusal::Token => "the enrolment token is unknown, used, expired or made for another name",
        Refusal::Malformed => "it did not understand the request",
        Refusal::Ending => "it is shutting down",
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChannelError::Io(error) => Some(error),
            ChannelError::Malformed(error) => Some(error),
            ChannelError::Crypto(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> ChannelError {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                ChannelError::Lost
            }
            _ => ChannelError::Io(error),
        }
    }
}

impl From<DecodeError> for ChannelError {
    fn from(error: DecodeError) -> ChannelError {
        ChannelError::Malformed(error)
    }
}

impl From<CryptoError> for ChannelError {
    fn from(error: CryptoError) -> ChannelError {
        ChannelError::Crypto(error)
    }
}
