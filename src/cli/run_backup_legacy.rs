//! `backup --legacy`: the same command, to an installed server of the older kind.

use serde_json::{Value, json};

use super::arguments::{Arguments, UsageError};
use super::output::{Output, bytes_text, count_text};
use super::run_backup::{own_folders, paths};
use super::setup::{Access, CliError, Setup};
use crate::base::progress::rate;
use crate::base::shutdown::Shutdown;
use crate::client::last_result::keep_status;
use crate::client::roots::resolve_roots;
use crate::client::{
    BackupOptions, ClientError, ExitCode, LegacySettings, LegacySummary, backup_legacy, check_backup,
};
use crate::crypto::LegacyExponent;

/// What a packet holds unless `--legacy-packet` says otherwise: known clients use 64 KiB and 1 MiB.
const PACKET_BYTES: u64 = 1024 * 1024;
const PACKET_BYTES_LEAST: u64 = 16;
/// The most that known servers take.
const PACKET_BYTES_MOST: u64 = 16 * 1024 * 1024;

/// Flags of a native backup that the dialect has nothing for. A demand that cannot be met must not be passed over.
const NATIVE_ONLY: &[&str] = &[
    "local-server",
    "data",
    "encrypt-at-rest",
    "server-fingerprint",
    "enroll-token",
    "vault",
    "vault-key",
    "passphrase-file",
    "passphrase-command",
    "parent",
    "full",
    "ignore-inode",
    "ignore-ctime",
    "label",
    "tag",
    "rsa-bits",
    "window",
    "low-memory",
];
/// Flags that mean nothing without `--legacy`.
const LEGACY_ONLY: &[&str] = &["legacy-packet", "legacy-exponent"];

/// A native backup takes none of the legacy flags.
pub fn check_unused(arguments: &Arguments) -> Result<(), UsageError> {
    match LEGACY_ONLY.iter().find(|name| is_given(arguments, name)) {
        Some(name) => {
            Err(UsageError(format!("--{name} has a meaning only with --legacy: add that, or leave it out")))
        }
        None => Ok(()),
    }
}

/// Whether a flag was given, and not only to say no.
fn is_given(arguments: &Arguments, name: &'static str) -> bool {
    arguments.value(name).is_some_and(|value| !matches!(value.to_str(), Some("0" | "false" | "no")))
}

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let settings = settings(arguments)?;
    let mut setup = Setup::new(arguments, "backup --legacy", Access::Exclusive, output)?;
    if let Some(info) = setup.info.as_ref().filter(|info| info.vault) {
        let text = format!(
            "{} says --vault, and the legacy dialect has nothing like it: use another file with --config",
            info.file.display()
        );
        return Err(UsageError(text).into());
    }
    let (paths, base) = paths(arguments, &setup)?;
    let resolved = resolve_roots(&paths, &base).map_err(ClientError::from)?;
    let mut options = BackupOptions::new(resolved);
    options.excluded = own_folders(&setup);
    options.dry_run = arguments.is_on("dry-run");
    check_backup(&options)?;
    let mut client = setup.legacy_client(settings, output, shutdown)?;
    let result = backup_legacy(&mut client, &options);
    let code = match &result {
        Ok(summary) if summary.unreadable + summary.left_out > 0 => ExitCode::Partial,
        Ok(_) => ExitCode::Done,
        Err(error) => error.exit_code(),
    };
    if !options.dry_run {
        keep_status(&client.state, output, result.as_ref().map(|summary| summary_json(summary, code)), code);
    }
    output.ended(&result);
    let summary = result?;
    output.end_progress();
    Ok(output.verdict(summary_json(&summary, code), &summary_text(&summary), code)?)
}

fn settings(arguments: &Arguments) -> Result<LegacySettings, UsageError> {
    for name in NATIVE_ONLY {
        if is_given(arguments, name) {
            let text = format!("--{name} and --legacy exclude each other: the legacy dialect has nothing like it");
            return Err(UsageError(text));
        }
    }
    let packet_bytes = arguments.number("legacy-packet", PACKET_BYTES_LEAST, PACKET_BYTES_MOST)?;
    let exponent = match arguments.text("legacy-exponent")?.as_deref() {
        None | Some("17") => LegacyExponent::Seventeen,
        Some("65537") => LegacyExponent::F4,
        Some(other) => {
            return Err(UsageError(format!("--legacy-exponent {other:?}: the value must be 17 or 65537")));
        }
    };
    Ok(LegacySettings { packet_bytes: packet_bytes.unwrap_or(PACKET_BYTES) as u32, exponent })
}

fn summary_text(summary: &LegacySummary) -> String {
    let seconds = summary.elapsed.as_secs_f64();
    let sent = format!("{}, {}", count_text(summary.files_sent, "file"), bytes_text(summary.bytes_sent));
    let mut text = match summary.dry_run {
        true => format!("dry run, nothing sent: {sent} would be sent in the legacy dialect"),
        false => format!(
            "{sent} sent in the legacy dialect in {seconds:.2} s ({}/s)",
            bytes_text(rate(summary.bytes_sent, seconds) as u64)
        ),
    };
    for (count, what) in [(summary.left_out, "left out"), (summary.unreadable, "could not be read")] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    text
}

fn summary_json(summary: &LegacySummary, code: ExitCode) -> Value {
    json!({
        "dialect": "legacy",
        "snapshot": null,
        "files": summary.scanned.files,
        "folders": summary.scanned.folders,
        "links": summary.scanned.links,
        "bytes": summary.scanned.bytes,
        "files_sent": summary.files_sent,
        "bytes_sent": summary.bytes_sent,
        "wire_bytes": summary.wire_bytes,
        "left_out": summary.left_out,
        "unreadable": summary.unreadable,
        "seconds": summary.elapsed.as_secs_f64(),
        "bytes_per_second": rate(summary.bytes_sent, summary.elapsed.as_secs_f64()) as u64,
        "dry_run": summary.dry_run,
        "exit_code": code as i32,
    })
}
