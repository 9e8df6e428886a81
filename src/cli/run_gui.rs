//! `gui`.

use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::LevelFilter;
use serde_json::json;
use zeroize::Zeroizing;

use super::arguments::{Arguments, UsageError};
use super::logging;
use super::output::Output;
use super::setup::{CliError, GuiSetup, TRANSFER_INFO, host_name, state_path, transfer_info};
use crate::base::host::raise_descriptor_limit;
use crate::base::shutdown::Shutdown;
use crate::bridge::{Bridge, BridgeConfig, ClientSettings, DEFAULT_PORT, LogBook, Peer, Peers, listen};
use crate::client::{ClientError, ExitCode};

/// The log's name in the state folder.
const LOG_FILE: &str = "api_server_log.txt";

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: \"gui\" takes no paths; they are chosen on the page", extra.display());
        return Err(UsageError(text).into());
    }
    let folder = state_path(arguments, transfer_info(arguments)?.as_ref())?;
    let log_file = folder.join(LOG_FILE);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| ClientError::Io { doing: format!("make the folder {}", folder.display()), source })?;
    let log = Arc::new(LogBook::default());
    start_log(arguments, &log_file, log.clone())?;
    raise_descriptor_limit();
    let bind = arguments.parsed("bind")?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let port = arguments.number("port", 0, 65_535)?.map_or(DEFAULT_PORT, |port| port as u16);
    let listener = listen(SocketAddr::new(bind, port), "--port")?;
    let setup = GuiSetup::new(arguments, output)?;
    let local = setup.local_server().map(|(data, key)| (data.to_path_buf(), key));
    let config =
        config(arguments, (bind, port), &setup, log_file, local.as_ref().map(|(data, _)| data.clone()), log)?;
    let settings = ClientSettings {
        fingerprint: setup.options.fingerprint,
        token: arguments.text("enroll-token")?.map(Zeroizing::new),
        retry: setup.options.retry,
        timeout: setup.options.timeout,
        window: setup.options.window,
        rsa_bits: setup.options.rsa_bits,
    };
    let first = Peer::new(setup.options.destination.clone(), setup.options.user.clone(), setup.folder.clone());
    let peers = Peers::new(settings, first, local.map(|(_, key)| key));
    let bridge = Bridge::open(listener, config, peers, shutdown.clone())?;
    let url = bridge.url().to_string();
    output.result("listening", json!({ "url": url }), &format!("the page: {url}"))?;
    bridge.run()?;
    Ok(ExitCode::Done)
}

fn start_log(arguments: &Arguments, own: &Path, book: Arc<LogBook>) -> Result<(), UsageError> {
    let level = match (arguments.is_on("verbose"), arguments.is_on("quiet")) {
        (true, _) => LevelFilter::Debug,
        (_, true) => LevelFilter::Warn,
        _ => LevelFilter::Info,
    };
    let files: Vec<PathBuf> = std::iter::once(own.to_path_buf()).chain(arguments.path("log-file")).collect();
    logging::start(level, &files, Some(book))
}

/// A token for whoever opens a page.
pub fn page_token(arguments: &Arguments, flag: &'static str) -> Result<Option<String>, UsageError> {
    let token = arguments.text(flag)?;
    let is_plain = |token: &String| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    match token {
        Some(token) if !is_plain(&token) => {
            Err(UsageError(format!("--{flag}: letters, digits and -_.~ only: it becomes a part of an address")))
        }
        token => Ok(token),
    }
}

fn config(
    arguments: &Arguments,
    (bind, port): (IpAddr, u16),
    setup: &GuiSetup,
    log_file: PathBuf,
    local_data: Option<PathBuf>,
    log: Arc<LogBook>,
) -> Result<BridgeConfig, CliError> {
    let token = page_token(arguments, "token")?;
    let here = std::env::current_dir();
    let here = here.map_err(|source| ClientError::Io { doing: "find the current folder".into(), source })?;
    // A file named without a folder lies in the current one.
    let file = setup.info.as_ref().map_or_else(|| here.join(TRANSFER_INFO), |info| here.join(&info.file));
    Ok(BridgeConfig {
        bind,
        port,
        token,
        static_dir: arguments.path("static-dir"),
        open: arguments.is_on("open"),
        host_name: host_name(),
        settings_folder: file.parent().unwrap_or(&here).to_path_buf(),
        transfer_info: file,
        log_file,
        own_folders: std::iter::once(setup.folder.clone()).chain(local_data).collect(),
        log,
        low_memory: arguments.is_on("low-memory"),
    })
}
