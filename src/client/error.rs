//! What can end a run of the client, in words for its user, and the exit code that goes with it.

use std::fmt;
use std::io;

use super::config::ConfigError;
use super::legacy::LegacyError;
use super::retry;
use super::roots::RootsError;
use super::state::StateError;
use super::target::TargetError;
use crate::base::vault::VaultId;
use crate::channel::ChannelError;
use crate::channel::worker::Gone;
use crate::crypto::vault::OpenKeyError;
use crate::crypto::{CryptoError, Fingerprint};
use crate::protocol::handshake::Refusal;
use crate::protocol::message::FailureCode;

/// How a run ended, for the caller's script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    Done = 0,
    Failed = 1,
    /// Wrong usage, configuration or key file, or no root exists.
    Usage = 2,
    /// Done, but some files could not be read or restored.
    Partial = 3,
    /// No connection, or still busy.
    NoConnection = 4,
    /// Authentication, registration, quota, changed server key.
    Refused = 5,
    Integrity = 6,
    Interrupted = 130,
}

/// Why a command of the client failed.
#[derive(Debug)]
pub enum ClientError {
    Config(ConfigError),
    Roots(RootsError),
    State(StateError),
    /// A key file that cannot be used.
    Key {
        file: String,
        source: CryptoError,
    },
    /// A key file of a vault that does not open.
    VaultKey {
        file: String,
        source: OpenKeyError,
    },
    /// A vault's snapshot, and no key to open it with.
    NoVaultKey {
        vault: Option<VaultId>,
    },
    /// The host has no address.
    UnknownHost {
        address: String,
        source: io::Error,
    },
    /// Nobody answers there.
    NoServer {
        address: String,
        source: io::Error,
    },
    /// Every try met a full server.
    StillBusy {
        address: String,
        minutes: u64,
    },
    /// The connection failed, and trying again did not help.
    Channel {
        address: String,
        source: ChannelError,
    },
    /// A legacy session failed, and trying again did not help.
    Legacy {
        address: String,
        source: LegacyError,
    },
    /// The server's key is not the one that was demanded.
    WrongFingerprint {
        address: String,
        wanted: Fingerprint,
        found: Fingerprint,
    },
    /// The server's answer to a command.
    Failure {
        code: FailureCode,
        text: String,
    },
    Target(TargetError),
    /// What came or lies there does not match its checksums.
    Integrity(String),
    Interrupted,
    Io {
        doing: String,
        source: io::Error,
    },
    /// The command asks for something that is not possible.
    Impossible(String),
}

impl ClientError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            ClientError::Config(_) | ClientError::Roots(_) | ClientError::Key { .. } => ExitCode::Usage,
            ClientError::VaultKey { source: OpenKeyError::Wrong, .. } => ExitCode::Refused,
            ClientError::VaultKey { .. } => ExitCode::Usage,
            ClientError::State(error) => state_exit_code(error),
            ClientError::UnknownHost { .. } | ClientError::NoServer { .. } | ClientError::StillBusy { .. } => {
                ExitCode::NoConnection
            }
            ClientError::Channel { source, .. } => channel_exit_code(source),
            ClientError::Legacy { source, .. } => source.exit_code(),
            ClientError::WrongFingerprint { .. } => ExitCode::Refused,
            ClientError::Failure { code, .. } => match code {
                FailureCode::Quota | FailureCode::Refused => ExitCode::Refused,
                FailureCode::Damaged => ExitCode::Integrity,
                _ => ExitCode::Failed,
            },
            ClientError::Integrity(_) => ExitCode::Integrity,
            ClientError::Interrupted => ExitCode::Interrupted,
            ClientError::Impossible(_) | ClientError::NoVaultKey { .. } => ExitCode::Usage,
            ClientError::Target(_) | ClientError::Io { .. } => ExitCode::Failed,
        }
    }

    pub fn still_busy(address: &str) -> ClientError {
        let minutes = retry::BUSY_WAIT_MAX.as_secs() / 60;
        ClientError::StillBusy { address: address.to_string(), minutes }
    }

    /// Whether, of the key of a vault, it says that it is not here.
    pub fn lacks_vault_key(&self) -> bool {
        matches!(self, ClientError::NoVaultKey { .. } | ClientError::Impossible(_))
    }

    /// Whether a new connection could end differently.
    pub fn is_passing(&self) -> bool {
        match self {
            ClientError::Channel { source, .. } => source.is_passing(),
            ClientError::Legacy { source, .. } => source.is_passing(),
            _ => false,
        }
    }
}

fn state_exit_code(error: &StateError) -> ExitCode {
    match error {
        StateError::Locked { .. } | StateError::Io { .. } => ExitCode::Failed,
        StateError::ChangedServerKey { .. } => ExitCode::Refused,
        _ => ExitCode::Usage,
    }
}

fn channel_exit_code(error: &ChannelError) -> ExitCode {
    match error {
        ChannelError::Refused(_) | ChannelError::Unproven | ChannelError::OtherKey => ExitCode::Refused,
        ChannelError::LegacyServer => ExitCode::NoConnection,
        error if error.is_passing() => ExitCode::NoConnection,
        _ => ExitCode::Failed,
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Config(error) => write!(formatter, "{error}"),
            ClientError::Roots(error) => write!(formatter, "{error}"),
            ClientError::State(error) => write!(formatter, "{error}"),
            ClientError::Key { file, source } => write!(
                formatter,
                "{file} cannot be used: {source}; put a saved copy back, or use another folder with --state and \
                 another name to register anew"
            ),
            ClientError::VaultKey { file, source } => write!(formatter, "{file} does not open: {source}"),
            ClientError::NoVaultKey { vault } => {
                let vault = vault.map(|vault| format!(" {vault}")).unwrap_or_default();
                write!(formatter, "what is in the vault{vault} opens with its full key only: give --vault-key FILE")
            }
            ClientError::UnknownHost { address, source } => {
                write!(
                    formatter,
                    "{address} is no known host ({source}): check the name in --server or transfer.info"
                )
            }
            ClientError::NoServer { address, source } if source.kind() == io::ErrorKind::ConnectionRefused => {
                write!(
                    formatter,
                    "no server answers at {address}: start one with \"cyberbackup server\", or add --local-server"
                )
            }
            ClientError::NoServer { address, source } => {
                write!(
                    formatter,
                    "no server answers at {address} ({source}): check the address, the network and the firewall"
                )
            }
            ClientError::StillBusy { address, minutes } => write!(
                formatter,
                "the server at {address} was busy for {minutes} minutes: try later, or raise its --max-clients"
            ),
            ClientError::Channel { address, source } => channel_text(formatter, address, source),
            ClientError::Legacy { address, source } => write!(formatter, "{address}: {source}"),
            ClientError::WrongFingerprint { address, wanted, found } => write!(
                formatter,
                "the server at {address} has the key {found}, not {wanted}: it is another server, or somebody is in \
                 between; nothing was sent to it"
            ),
            ClientError::Failure { code: FailureCode::NotFound, text } => write!(formatter, "{text}"),
            ClientError::Failure { text, .. } => write!(formatter, "the server says: {text}"),
            ClientError::Target(error) => write!(formatter, "{error}"),
            ClientError::Integrity(text) => write!(formatter, "{text}"),
            ClientError::Interrupted => write!(formatter, "interrupted"),
            ClientError::Io { doing, source } => write!(formatter, "cannot {doing}: {source}"),
            ClientError::Impossible(text) => write!(formatter, "{text}"),
        }
    }
}

fn channel_text(formatter: &mut fmt::Formatter<'_>, address: &str, source: &ChannelError) -> fmt::Result {
    match source {
        ChannelError::LegacyServer => write!(
            formatter,
            "the server at {address} speaks only the legacy dialect: update it (docs/migration.md), or send to it with \
             \"backup --legacy\", which protects less"
        ),
        ChannelError::Refused(Refusal::Authentication) | ChannelError::OtherKey => write!(
            formatter,
            "the server at {address} does not know this name with this id and key: if it was set up anew, move \
             identity.json out of the state folder to register again; otherwise ask its operator"
        ),
        ChannelError::Refused(Refusal::NameTaken) => write!(
            formatter,
            "the name belongs to another key at {address}: use the state folder or a copy of the key that it was \
             registered with, or choose another name with --user"
        ),
        ChannelError::Refused(Refusal::Registration) => write!(
            formatter,
            "the server at {address} registers this host only with a token: ask its operator for one \
             (\"cyberbackup enroll NAME\") and pass it with --enroll-token"
        ),
        ChannelError::Refused(Refusal::Token) => write!(
            formatter,
            "the server at {address} does not take this token: it is used, expired or made for another name; ask for \
             a new one"
        ),
        ChannelError::Unproven => write!(
            formatter,
            "the server at {address} did not prove its key, or does not hold the key of this client: ask its operator"
        ),
        source => write!(formatter, "{address}: {source}"),
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Config(error) => Some(error),
            ClientError::State(error) => Some(error),
            ClientError::Key { source, .. } => Some(source),
            ClientError::VaultKey { source, .. } => Some(source),
            ClientError::Channel { source, .. } => Some(source),
            ClientError::Legacy { source, .. } => Some(source),
            ClientError::UnknownHost { source, .. }
            | ClientError::NoServer { source, .. }
            | ClientError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<ConfigError> for ClientError {
    fn from(error: ConfigError) -> ClientError {
        ClientError::Config(error)
    }
}

impl From<RootsError> for ClientError {
    fn from(error: RootsError) -> ClientError {
        ClientError::Roots(error)
    }
}

impl From<StateError> for ClientError {
    fn from(error: StateError) -> ClientError {
        ClientError::State(error)
    }
}

impl From<TargetError> for ClientError {
    fn from(error: TargetError) -> ClientError {
        ClientError::Target(error)
    }
}

/// A worker that lost its channel: the channel's own error is what is reported.
impl From<Gone> for ClientError {
    fn from(_: Gone) -> ClientError {
        ClientError::Channel { address: String::new(), source: ChannelError::Lost }
    }
}
