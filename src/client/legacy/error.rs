//! What can go wrong with a legacy server, in words for the user.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::base::codec::DecodeError;
use crate::channel::ChannelError;
use crate::client::ExitCode;

/// Why a legacy session failed.
#[derive(Debug)]
pub enum LegacyError {
    /// The connection ended.
    Lost,
    /// Nothing came, or nothing could be sent, for so long.
    TimedOut(Duration),
    Io(io::Error),
    /// 1607: the server does not say why.
    GeneralError,
    /// 1601: the name is taken or not acceptable.
    NameRefused,
    /// 1601 after 1606: the server knows the name, and not this client.
    ForgottenByServer,
    /// The session's key does not open under this client's key, with either hash.
    FileKey,
    /// One file after the other is refused.
    RefusesFiles {
        files: u32,
    },
    /// Not a message of the dialect.
    Malformed(DecodeError),
    /// A message of the dialect that does not belong here.
    OutOfPlace {
        code: u16,
    },
}

impl LegacyError {
    /// Whether a new connection could end differently.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Lost | Self::TimedOut(_) | Self::Io(_) | Self::GeneralError)
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            error if error.is_passing() => ExitCode::NoConnection,
            Self::NameRefused | Self::ForgottenByServer | Self::FileKey => ExitCode::Refused,
            _ => ExitCode::Failed,
        }
    }
}

impl fmt::Display for LegacyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => formatter.write_str("the connection was lost"),
            Self::TimedOut(time) => write!(formatter, "the server was silent for {} s", time.as_secs()),
            Self::Io(error) => write!(formatter, "the connection failed: {error}"),
            Self::GeneralError => formatter.write_str(
                "the server answers with a general error (1607): it is full, has a fault that its log names, or does \
                 not take legacy clients; a native server needs no --legacy",
            ),
            Self::NameRefused => formatter.write_str(
                "the server does not register this name (1601): it is taken or not acceptable; put the me.info of \
                 its owner into the state folder, or choose another name with --user",
            ),
            Self::ForgottenByServer => formatter.write_str(
                "the server does not know the id in me.info any more (1606) and does not register its name anew \
                 (1601): if the name has moved over to the native dialect, leave --legacy out; if its registration was \
                 cut off, try again in ten minutes; otherwise choose another name with --user and another folder with \
                 --state",
            ),
            Self::FileKey => formatter.write_str(
                "the session's key does not open under this client's key: the server holds another key for this \
                 name; ask its operator, or register another name with --user and --state",
            ),
            Self::RefusesFiles { files } => write!(
                formatter,
                "the server refused {files} files one after the other: its disk may be full; its log says why"
            ),
            Self::Malformed(error) => {
                write!(formatter, "the server's answer is none of the legacy dialect ({error}): check the address")
            }
            Self::OutOfPlace { code } => {
                write!(formatter, "the server's answer {code} does not belong here: its log may say why")
            }
        }
    }
}

impl std::error::Error for LegacyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Malformed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ChannelError> for LegacyError {
    fn from(error: ChannelError) -> LegacyError {
        match error {
            ChannelError::Lost => LegacyError::Lost,
            ChannelError::TimedOut(time) => LegacyError::TimedOut(time),
            ChannelError::Io(error) => LegacyError::Io(error),
            other => LegacyError::Io(io::Error::other(other)),
        }
    }
}
