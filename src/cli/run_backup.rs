//! `backup`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::arguments::{Arguments, UsageError};
use super::output::{Output, bytes_text, count_text};
use super::result_hooks::ResultHooks;
use super::run_backup_legacy;
use super::setup::{Access, CliError, Setup, host_name};
use super::vault::vault_keys;
use crate::base::progress::rate;
use crate::base::shutdown::Shutdown;
use crate::client::last_result::{code_of, keep_status, status_json, summary_json};
use crate::client::roots::resolve_roots;
use crate::client::scan::FolderIdentity;
use crate::client::state::StateError;
use crate::client::{BackupOptions, BackupSummary, ClientError, ExitCode, backup, check_backup};
use crate::crypto::PutKey;

/// Flags of the key of a vault.
const VAULT_KEY_FLAGS: &[&str] = &["vault-key", "passphrase-file", "passphrase-command"];

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let hooks = ResultHooks::of(arguments)?;
    let mut status = None;
    let result = back_up(arguments, output, shutdown, &mut status);
    let code = result.as_ref().map_or_else(CliError::exit_code, |code| *code);
    if !arguments.is_on("dry-run") {
        let ended = result.as_ref().map(|_| Value::Null).map_err(|error| error.message().unwrap_or_default());
        let failed = || status_json(ended, code);
        hooks.tell(&status.unwrap_or_else(failed), code, output);
    }
    result
}

fn back_up(
    arguments: &Arguments,
    output: &Output,
    shutdown: &Shutdown,
    status: &mut Option<Value>,
) -> Result<ExitCode, CliError> {
    if arguments.is_on("legacy") {
        return run_backup_legacy::run(arguments, output, shutdown);
    }
    run_backup_legacy::check_unused(arguments)?;
    let mut setup = Setup::new(arguments, "backup", Access::Exclusive, output)?;
    let mut options = options(arguments, &setup)?;
    options.vault = vault_key(arguments, &setup, &options, shutdown)?;
    let mut client = setup.client(output, shutdown)?;
    let result = backup(&mut client, &options);
    let code = code_of(&result);
    if !options.dry_run {
        let found = result.as_ref().map(|summary| summary_json(summary, code));
        *status = Some(keep_status(&client.state, client.sink, found, code));
    }
    output.ended(&result);
    let summary = result?;
    output.end_progress();
    Ok(output.verdict(summary_json(&summary, code), &summary_text(&summary), code)?)
}

fn options(arguments: &Arguments, setup: &Setup) -> Result<BackupOptions, CliError> {
    let (paths, base) = paths(arguments, setup)?;
    let resolved = resolve_roots(&paths, &base).map_err(ClientError::from)?;
    let mut options = BackupOptions::new(resolved);
    options.excluded = own_folders(setup);
    options.host = host_name();
    options.label = arguments.text("label")?.unwrap_or_default();
    options.tags = tags(arguments)?;
    options.full = arguments.is_on("full");
    options.ignore_inode = arguments.is_on("ignore-inode");
    options.ignore_ctime = arguments.is_on("ignore-ctime");
    options.parent = arguments.parsed("parent")?;
    options.dry_run = arguments.is_on("dry-run");
    if options.full && options.parent.is_some() {
        return Err(UsageError("--full and --parent exclude each other: leave one out".into()).into());
    }
    check_backup(&options)?;
    Ok(options)
}

/// The key of the vault to back up into.
fn vault_key(
    arguments: &Arguments,
    setup: &Setup,
    options: &BackupOptions,
    shutdown: &Shutdown,
) -> Result<Option<Arc<PutKey>>, CliError> {
    if !arguments.is_on("vault") && !setup.info.as_ref().is_some_and(|info| info.vault) {
        check_no_vault_key(arguments)?;
        return Ok(None);
    }
    if options.parent.is_some() {
        let text = "--parent is of no use with --vault, where nothing is compared at the server: leave it out";
        return Err(UsageError(text.into()).into());
    }
    let folder = setup.state_path().ok_or(ClientError::State(StateError::NoPlace))?;
    Ok(Some(Arc::new(vault_keys(arguments, &folder, shutdown)?.put_key()?)))
}

/// Who names a key wants what is stored to be sealed: that is not passed over.
fn check_no_vault_key(arguments: &Arguments) -> Result<(), UsageError> {
    match VAULT_KEY_FLAGS.iter().find(|name| arguments.value(name).is_some()) {
        Some(name) => {
            let text = format!(
                "--{name} is of a vault, and this backup would be plain: add --vault, or leave --{name} out (it may stand \
                 in the environment)"
            );
            Err(UsageError(text))
        }
        None => Ok(()),
    }
}

/// What to back up, and the folder that relative paths count from.
pub fn paths(arguments: &Arguments, setup: &Setup) -> Result<(Vec<PathBuf>, PathBuf), CliError> {
    let here = std::env::current_dir();
    let here = here.map_err(|source| ClientError::Io { doing: "find the current folder".into(), source })?;
    if arguments.positional.iter().any(|path| path.is_empty()) {
        let text = "one of the paths is empty: name a file or folder (. is the current one)";
        return Err(UsageError(text.into()).into());
    }
    if !arguments.positional.is_empty() {
        return Ok((arguments.positional.iter().map(PathBuf::from).collect(), here));
    }
    let Some(info) = &setup.info else {
        let text = "nothing to back up is named: give paths, or write a transfer.info with them from line 3 on";
        return Err(UsageError(text.into()).into());
    };
    // They count from the file's folder already, which may itself be relative to here.
    Ok((info.paths().map_err(ClientError::from)?.to_vec(), here))
}

/// The state folder and the local server's data, which no backup may hold.
pub fn own_folders(setup: &Setup) -> Vec<FolderIdentity> {
    let folders = [setup.state_path(), setup.local_data().map(Path::to_path_buf)];
    folders.iter().flatten().filter_map(|folder| FolderIdentity::of(folder).ok()).collect()
}

fn tags(arguments: &Arguments) -> Result<Vec<String>, UsageError> {
    let mut tags = Vec::new();
    for tag in arguments.values("tag") {
        match tag.to_str() {
            Some(tag) if !tag.is_empty() => tags.push(tag.to_string()),
            _ => return Err(UsageError("--tag: a tag is valid UTF-8 and not empty".into())),
        }
    }
    Ok(tags)
}

fn summary_text(summary: &BackupSummary) -> String {
    let seconds = summary.elapsed.as_secs_f64();
    let sent = format!(
        "{}, {}; {}, {} sent in {seconds:.2} s ({}/s)",
        count_text(summary.scanned.files, "file"),
        bytes_text(summary.scanned.bytes),
        count_text(summary.files_sent, "file"),
        bytes_text(summary.bytes_sent),
        bytes_text(rate(summary.bytes_sent, seconds) as u64),
    );
    let unreadable = match summary.unreadable {
        0 => String::new(),
        count => format!("; {count} could not be read"),
    };
    match &summary.snapshot {
        Some(snapshot) => format!("snapshot {}: {sent}{unreadable}", snapshot.id),
        None => {
            format!("dry run, nothing stored: {sent}{unreadable}").replace(" sent in", " would be sent; found in")
        }
    }
}
