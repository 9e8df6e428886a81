//! How a server is set up. The command line and the environment are read elsewhere; here stand the values
//! and what they mean.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::prune::DailyPrune;
use crate::base::amount::Size;
use crate::base::hook::Hook;
use crate::base::limits::DEFAULT_SOCKET_TIMEOUT;
use crate::crypto::LegacyOaep;
use crate::protocol::handshake::RegistrationPolicy;
use crate::storage::StorageKeys;

/// The server's resend ring: what one session may keep of sealed segments, in bytes. Two
/// batches of sixteen full segments, so that one goes out while the other is acknowledged.
pub const WINDOW_BYTES: u32 = 528 * 1024;
/// How far it grows where round trips are long.
pub const LONG_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What it is with `--low-memory`, wherever the client is. What is received and opened at a time, and what waits for the
/// disk, becomes smaller with it.
pub const LOW_MEMORY_WINDOW_BYTES: u32 = 128 * 1024;

/// Everything a server needs to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub bind: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
    pub data: PathBuf,
    /// What seals the store.
    pub storage_keys: StorageKeys,
    /// Authenticated sessions at a time, at least 1.
    pub max_clients: usize,
    pub registration: RegistrationPolicy,
    /// Whether a session keeps little in memory, and is slower for it.
    pub low_memory: bool,
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
    /// What the operator wants to hear of.
    pub watch: Watch,
}

/// What the operator wants to hear of, and how.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The program that is told.
    pub hook: Option<Hook>,
    /// From when on the disk of the data folder counts as nearly full.
    pub low_space: Option<LowSpace>,
    /// After how long without a success a client counts as silent.
    pub stale_after: Option<Duration>,
}

/// The room that must be left on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowSpace {
    Bytes(u64),
    /// Of the whole disk.
    Percent(u8),
}

impl LowSpace {
    /// In bytes, on a disk of `total`.
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            LowSpace::Bytes(bytes) => bytes,
            LowSpace::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
        }
    }
}

impl FromStr for LowSpace {
    type Err = String;

    fn from_str(text: &str) -> Result<LowSpace, String> {
        match text.strip_suffix('%') {
            Some(number) => match number.trim().parse() {
                Ok(percent) if percent <= 100 => Ok(LowSpace::Percent(percent)),
                _ => Err("a share of the disk is a whole number from 0% to 100%".to_string()),
            },
            None => {
                text.parse().map(|Size(bytes)| LowSpace::Bytes(bytes)).map_err(|error| format!("{error}, or 5%"))
            }
        }
    }
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
            storage_keys: StorageKeys::default(),
            max_clients: crate::base::limits::DEFAULT_MAX_CLIENTS,
            registration: RegistrationPolicy::Local,
            low_memory: false,
            timeout: DEFAULT_SOCKET_TIMEOUT,
            grace: DEFAULT_GRACE,
            rsa_bits: DEFAULT_RSA_BITS,
            segments_per_epoch: DEFAULT_SEGMENTS_PER_EPOCH,
            watch: Watch::default(),
            legacy: true,
            legacy_oaep: LegacyOaep::Sha256,
            daily_prune: None,
        }
    }

    /// A session's resend ring in bytes: what it is at first, and at most.
    pub(super) fn window_bytes(&self) -> RangeInclusive<u32> {
        match self.low_memory {
            true => LOW_MEMORY_WINDOW_BYTES..=LOW_MEMORY_WINDOW_BYTES,
            false => WINDOW_BYTES..=LONG_WINDOW_BYTES,
        }
    }
}
