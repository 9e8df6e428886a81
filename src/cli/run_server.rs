//! `server`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::repair;
use super::run_gui::page_token;
use super::setup::{CliError, DATA_FOLDER, host_name, rsa_bits, seconds};
use super::{storage_key, verify_data};
use crate::base::amount::Span;
use crate::base::limits::DEFAULT_SOCKET_TIMEOUT;
use crate::base::shutdown::Shutdown;
use crate::bridge::{self, BridgeError, Dashboard, DashboardConfig};
use crate::client::ExitCode;
use crate::client::config::read_port;
use crate::crypto::{LegacyOaep, SEGMENT_PLAINTEXT_MAX};
use crate::protocol::handshake::{RegistrationPolicy, SEGMENTS_PER_EPOCH_RANGE};
use crate::server::{DEFAULT_GRACE, DailyPrune, Overview, Policy, Server, ServerConfig, Watch};

const PORT_INFO: &str = "port.info";
/// Where the operator's page is, unless said otherwise.
const DASHBOARD_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_091);
/// Most sessions that a server can be told to hold.
const MAX_CLIENTS_MAX: u64 = 100_000;

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: \"server\" takes no paths; its data folder is --data", extra.display());
        return Err(UsageError(text).into());
    }
    if repair::is_asked_for(arguments)? {
        return repair::run(arguments, output);
    }
    let config = config(arguments)?;
    // Its address is taken first: a server that runs has the page that was asked for.
    let dashboard = Wanted::read(arguments)?;
    let server = Server::start(config, shutdown.clone())?;
    let (address, fingerprint) = (server.address().to_string(), server.fingerprint().to_string());
    let mut data = json!({ "address": address, "fingerprint": fingerprint });
    let mut text = format!("listening on {address}\nkey {fingerprint}");
    let dashboard = match dashboard.map(|wanted| wanted.start(server.overview())).transpose() {
        Ok(dashboard) => dashboard,
        Err(error) => {
            shutdown.request();
            server.join();
            return Err(error.into());
        }
    };
    if let Some(dashboard) = &dashboard {
        data["dashboard"] = json!(dashboard.url);
        text.push_str(&format!("\ndashboard {}", dashboard.url));
    }
    output.result("listening", data, &text)?;
    server.join();
    // It is there until the last session has ended.
    dashboard.map_or(Ok(()), Running::end)?;
    Ok(ExitCode::Done)
}

/// A dashboard that is to be.
struct Wanted {
    listener: TcpListener,
    config: DashboardConfig,
}

/// A dashboard that serves.
struct Running {
    url: String,
    shutdown: Shutdown,
    thread: JoinHandle<Result<(), BridgeError>>,
}

impl Wanted {
    fn read(arguments: &Arguments) -> Result<Option<Wanted>, CliError> {
        let token = page_token(arguments, "dashboard-token")?;
        let Some(text) = arguments.text("dashboard")? else {
            return match token {
                None => Ok(None),
                Some(_) => Err(UsageError("--dashboard-token belongs to --dashboard: give both".into()).into()),
            };
        };
        let address = dashboard_address(&text).ok_or_else(|| {
            UsageError(format!("--dashboard {text:?}: an address with a port is wanted: {DASHBOARD_ADDRESS}"))
        })?;
        let listener = bridge::listen(address, "--dashboard")?;
        Ok(Some(Wanted { listener, config: DashboardConfig { token, host_name: host_name() } }))
    }

    fn start(self, server: Overview) -> Result<Running, BridgeError> {
        // Not the server's own: sessions that are given their grace can be watched.
        let shutdown = Shutdown::new();
        let dashboard = Dashboard::open(self.listener, self.config, server, shutdown.clone())?;
        let url = dashboard.url().to_string();
        let started = thread::Builder::new().name("dashboard".into()).spawn(move || dashboard.run());
        let started = started.map_err(|source| BridgeError::Io { doing: "start a thread".into(), source });
        Ok(Running { url, shutdown, thread: started? })
    }
}

impl Running {
    fn end(self) -> Result<(), BridgeError> {
        self.shutdown.request();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// An address and a port, or one of them; nothing is the usual one.
fn dashboard_address(text: &str) -> Option<SocketAddr> {
    let usual = DASHBOARD_ADDRESS;
    if text.is_empty() {
        return Some(usual);
    }
    let whole = || text.parse().ok();
    let port = || text.parse().ok().map(|port| SocketAddr::new(usual.ip(), port));
    let ip = || text.parse().ok().map(|ip| SocketAddr::new(ip, usual.port()));
    whole().or_else(port).or_else(ip)
}

fn config(arguments: &Arguments) -> Result<ServerConfig, CliError> {
    let bind = arguments.parsed("bind")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let data = arguments.path("data").unwrap_or_else(|| PathBuf::from(DATA_FOLDER));
    let storage_keys = storage_key::for_server(arguments, &data)?;
    let mut config = ServerConfig::new(bind, port(arguments)?, data);
    config.storage_keys = storage_keys;
    if let Some(most) = arguments.number("max-clients", 1, MAX_CLIENTS_MAX)? {
        config.max_clients = most as usize;
    }
    config.registration = registration(arguments)?;
    config.low_memory = arguments.is_on("low-memory");
    (config.legacy, config.legacy_oaep) = (legacy(arguments)?, legacy_oaep(arguments)?);
    config.timeout = arguments.number("timeout", 1, 65_535)?.map_or(DEFAULT_SOCKET_TIMEOUT, Duration::from_secs);
    config.grace = seconds(arguments, "grace", DEFAULT_GRACE)?;
    config.rsa_bits = rsa_bits(arguments, config.rsa_bits)?;
    let segment = SEGMENT_PLAINTEXT_MAX as u64;
    let (least, most) = (SEGMENTS_PER_EPOCH_RANGE.start() * segment, SEGMENTS_PER_EPOCH_RANGE.end() * segment);
    if let Some(bytes) = arguments.number("rekey-bytes", least, most)? {
        config.segments_per_epoch = bytes / segment;
    }
    config.daily_prune = daily_prune(arguments)?;
    config.watch = Watch {
        hook: arguments.parsed("on-event")?,
        low_space: arguments.parsed("low-space")?,
        stale_after: arguments.parsed("stale-after")?.map(|Span(stale)| stale),
    };
    Ok(config)
}

fn daily_prune(arguments: &Arguments) -> Result<Option<DailyPrune>, UsageError> {
    let verify_percent = verify_data::sample_percent(arguments, "verify-sample")?;
    match (arguments.text("prune-daily")?, arguments.path("policy")) {
        (None, _) if verify_percent.is_some() => {
            Err(UsageError("--verify-sample belongs to --prune-daily and --policy: give all three".into()))
        }
        (None, None) => Ok(None),
        (Some(time), Some(policy)) => {
            let minute_of_day = minute_of_day(&time).ok_or_else(|| {
                UsageError(format!("--prune-daily {time:?}: a time of day is hours and minutes, UTC: 03:30"))
            })?;
            Policy::read(&policy).map_err(UsageError)?;
            Ok(Some(DailyPrune { minute_of_day, policy, verify_percent }))
        }
        _ => Err(UsageError("--prune-daily and --policy belong together: give both".into())),
    }
}

fn minute_of_day(time: &str) -> Option<u32> {
    let (hour, minute) = time.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// The flag's port, else the one in `port.info`, else 1256.
fn port(arguments: &Arguments) -> Result<u16, UsageError> {
    if let Some(port) = arguments.number("port", 0, 65_535)? {
        return Ok(port as u16);
    }
    let (port, warning) = read_port(Path::new(PORT_INFO));
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
    Ok(port)
}

fn legacy(arguments: &Arguments) -> Result<bool, UsageError> {
    match arguments.text("legacy")?.as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(word) => Err(UsageError(format!("--legacy {word:?}: on or off is wanted"))),
    }
}

fn legacy_oaep(arguments: &Arguments) -> Result<LegacyOaep, UsageError> {
    match arguments.text("legacy-oaep")?.as_deref() {
        None | Some("sha256") => Ok(LegacyOaep::Sha256),
        Some("sha1") => Ok(LegacyOaep::Sha1),
        Some(word) => Err(UsageError(format!("--legacy-oaep {word:?}: the hashes are sha256 and sha1"))),
    }
}

fn registration(arguments: &Arguments) -> Result<RegistrationPolicy, UsageError> {
    let Some(word) = arguments.text("registration")? else { return Ok(RegistrationPolicy::Local) };
    let found = RegistrationPolicy::WORDS.iter().find(|(name, _)| *name == word);
    found.map(|(_, policy)| *policy).ok_or_else(|| {
        UsageError(format!("--registration {word:?}: the policies are local, open, token and closed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboards_address_may_be_given_in_parts() {
        let address = |text| dashboard_address(text).map(|address| address.to_string());
        for (text, wanted) in [
            ("", "127.0.0.1:9091"),
            ("8000", "127.0.0.1:8000"),
            ("0.0.0.0", "0.0.0.0:9091"),
            ("[::1]:8000", "[::1]:8000"),
            ("::1", "[::1]:9091"),
        ] {
            assert_eq!(address(text).as_deref(), Some(wanted));
        }
        assert_eq!((address("localhost:1"), address("70000")), (None, None));
    }
}
