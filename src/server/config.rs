//! How a server is set up. The command line and the environment are read elsewhere; here stand the values
//! and what they mean.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::prune::DailyPrune;
use crate::base::limits::DEFAULT_SOCKET_TIMEOUT;
use crate::crypto::LegacyOaep;
use crate::protocol::handshake::RegistrationPolicy;

/// The server's resend ring: what one session may keep of sealed segments, in bytes.
pub const WINDOW_BYTES: u32 = 512 * 1024;

/// Everything a server needs to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub bind: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
    pub data: PathBuf,
    /// Authenticated sessions at a time, at least 1.
    pub max_clients: usize,
    pub registration: RegistrationPolicy,
    /// How long a whole message may take.
    pub timeout: Duration,
    /// How long running work may go on after the wish to stop.
    pub grace: Duration,
    /// Bits of a new RSA key: 1,024 to 4,096.
    pub rsa_bits: usize,
    /// After how many data segments the keys of a direction advance.
    pub segments_per_epoch: u64,
    /// Whether clients of the legacy dialect are served.
    pub legacy: bool,
    /// The hash inside OAEP for their keys.
    pub legacy_oaep: LegacyOaep,
    /// Prunes by itself, where given.
    pub daily_prune: Option<DailyPrune>,
}

/// How long running work may go on after the wish to stop, unless said otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Bits of a new RSA key unless said otherwise.
pub const DEFAULT_RSA_BITS: usize = 3_072;
/// Segments of one direction under the same keys: 64 GiB.
pub const DEFAULT_SEGMENTS_PER_EPOCH: u64 = 1 << 22;

impl ServerConfig {
    /// The defaults, for this data folder.
    pub fn new(bind: IpAddr, port: u16, data: PathBuf) -> ServerConfig {
        ServerConfig {
            bind,
            port,
            data,
            max_clients: crate::base::limits::DEFAULT_MAX_CLIENTS,
            registration: RegistrationPolicy::Local,
            timeout: DEFAULT_SOCKET_TIMEOUT,
            grace: DEFAULT_GRACE,
            rsa_bits: DEFAULT_RSA_BITS,
            segments_per_epoch: DEFAULT_SEGMENTS_PER_EPOCH,
            legacy: true,
            legacy_oaep: LegacyOaep::Sha256,
            daily_prune: None,
        }
    }
}
