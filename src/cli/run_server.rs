//! `server`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::setup::{CliError, DATA_FOLDER, rsa_bits, seconds};
use super::verify_data;
use crate::base::amount::Span;
use crate::base::limits::DEFAULT_SOCKET_TIMEOUT;
use crate::base::shutdown::Shutdown;
use crate::client::ExitCode;
use crate::client::config::read_port;
use crate::crypto::{LegacyOaep, SEGMENT_PLAINTEXT_MAX};
use crate::protocol::handshake::{RegistrationPolicy, SEGMENTS_PER_EPOCH_RANGE};
use crate::server::{DEFAULT_GRACE, DailyPrune, Policy, Server, ServerConfig, Watch};

const PORT_INFO: &str = "port.info";
/// Most sessions that a server can be told to hold.
const MAX_CLIENTS_MAX: u64 = 100_000;

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: \"server\" takes no paths; its data folder is --data", extra.display());
        return Err(UsageError(text).into());
    }
    let config = config(arguments)?;
    let server = Server::start(config, shutdown.clone())?;
    let (address, fingerprint) = (server.address().to_string(), server.fingerprint().to_string());
    output.result(
        "listening",
        json!({ "address": address, "fingerprint": fingerprint }),
        &format!("listening on {address}\nkey {fingerprint}"),
    )?;
    server.join();
    Ok(ExitCode::Done)
}

fn config(arguments: &Arguments) -> Result<ServerConfig, UsageError> {
    let bind = arguments.parsed("bind")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let data = arguments.path("data").unwrap_or_else(|| PathBuf::from(DATA_FOLDER));
    let mut config = ServerConfig::new(bind, port(arguments)?, data);
    if let Some(most) = arguments.number("max-clients", 1, MAX_CLIENTS_MAX)? {
        config.max_clients = most as usize;
    }
    config.registration = registration(arguments)?;
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
