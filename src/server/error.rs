//! Why a server does not start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::crypto::CryptoError;
use crate::storage::StoreError;

#[derive(Debug)]
pub enum ServerError {
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    Store(StoreError),
    Key(CryptoError),
    /// The storage key cannot be had; the text says why.
    StorageKey(String),
    /// There are clients, and the key that they know is not there.
    KeyGone {
        path: PathBuf,
    },
    Io {
        doing: &'static str,
        source: io::Error,
    },
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => write!(
                formatter,
                "{address} is in use by another program: stop that one, or choose another port with --port"
            ),
            ServerError::Bind { address, source } if source.kind() == io::ErrorKind::PermissionDenied => write!(
                formatter,
                "no permission to listen on {address}: ports below 1024 need privileges; choose another with --port"
            ),
            ServerError::Bind { address, source } => {
                write!(formatter, "cannot listen on {address}: {source}; choose another address with --bind")
            }
            ServerError::Store(error) => write!(formatter, "{error}"),
            ServerError::Key(error) => write!(
                formatter,
                "the server's key in the data folder cannot be used: {error}; put the file back from a copy, or \
                 see what \"cyberbackup server --repair --dry-run\" says"
            ),
            ServerError::KeyGone { path } => write!(
                formatter,
                "{} is gone, and the clients know this server by it: put the file back from a copy, or have \
                 \"cyberbackup server --repair --new-key\" make a new pair, which each client has to accept",
                path.display()
            ),
            ServerError::StorageKey(text) => formatter.write_str(text),
            ServerError::Io { doing, source } => write!(formatter, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::Bind { source, .. } | ServerError::Io { source, .. } => Some(source),
            ServerError::Store(error) => Some(error),
            ServerError::Key(error) => Some(error),
            ServerError::StorageKey(_) => None,
            ServerError::KeyGone { .. } => None,
        }
    }
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> ServerError {
        ServerError::Store(error)
    }
}

impl From<CryptoError> for ServerError {
    fn from(error: CryptoError) -> ServerError {
        ServerError::Key(error)
    }
}
