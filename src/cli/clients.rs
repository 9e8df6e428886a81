//! `clients`: the operator's list of them, and what is changed about one.

use std::ffi::OsString;

use serde_json::Value;

use super::arguments::{Arguments, UsageError};
use super::operator::{data_folder, text_of};
use super::output::{Output, bytes_text};
use super::setup::CliError;
use crate::base::amount::{Size, Span};
use crate::base::ids::UserName;
use crate::base::path::display_bytes;
use crate::client::ExitCode;
use crate::server::{OperatorCommand, operate};

/// What the list's columns are called; the name's own column is as wide as the names are.
const COLUMNS: [&str; 8] =
    ["last success", "snapshots", "latest files", "latest bytes", "stored", "last 30 days", "quota", "key"];

pub fn run(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    let words: Vec<&OsString> = arguments.positional.iter().collect();
    let Some((verb, rest)) = words.split_first() else { return list(arguments, output) };
    let command = match (verb.to_str(), rest) {
        (Some("reset"), [name]) => OperatorCommand::ResetClient { name: user_name(name)? },
        (Some("remove"), [name]) if arguments.is_on("yes") => {
            OperatorCommand::RemoveClient { name: user_name(name)? }
        }
        (Some("remove"), [name]) => {
            let text = format!(
                "this removes {} and all its snapshots for good: say so with --yes",
                display_bytes(name.as_encoded_bytes())
            );
            return Err(UsageError(text).into());
        }
        (Some("quota"), [name, size]) => OperatorCommand::SetQuota { name: user_name(name)?, bytes: quota(size)? },
        (Some("rename"), [name, new]) => {
            OperatorCommand::RenameClient { name: user_name(name)?, new: user_name(new)? }
        }
        _ => {
            let text = "\"clients\" alone lists them; else: clients reset NAME, remove NAME --yes, \
                        quota NAME SIZE|none, or rename NAME NEW";
            return Err(UsageError(text.into()).into());
        }
    };
    for row in operate(&data_folder(arguments), &command)? {
        let text = change_text(&row);
        output.result("client", row, &text)?;
    }
    Ok(ExitCode::Done)
}

fn user_name(text: &OsString) -> Result<UserName, UsageError> {
    let text = text.to_str().ok_or_else(|| UsageError("the name is not valid UTF-8".into()))?;
    text.parse().map_err(|error| UsageError(format!("{error}")))
}

fn quota(text: &OsString) -> Result<Option<u64>, UsageError> {
    match text.to_str() {
        Some("none") => Ok(None),
        text => match text.unwrap_or_default().parse() {
            Ok(Size(bytes)) => Ok(Some(bytes)),
            Err(error) => Err(UsageError(format!("{:?}: {error}; or none", text.unwrap_or_default()))),
        },
    }
}

fn change_text(row: &Value) -> String {
    let name = display_bytes(text_of(row, "name").as_bytes());
    match row["done"].as_str() {
        Some("reset") => format!("{name} has no key now: \"cyberbackup enroll\" makes a token for its next one"),
        Some("removed") => format!("{name} is removed; {} are free", bytes_text(number(row, "stored_bytes"))),
        Some("renamed") => format!("{} is {name} now", display_bytes(text_of(row, "former_name").as_bytes())),
        _ => format!("{name} has stored {} of {}", bytes_text(number(row, "stored_bytes")), quota_text(row)),
    }
}

fn list(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    let stale: Option<Span> = arguments.parsed("stale")?;
    let command = OperatorCommand::Clients { stale_seconds: stale.map(|Span(stale)| stale.as_secs()) };
    let rows = operate(&data_folder(arguments), &command)?;
    match (rows.is_empty(), stale) {
        (true, None) => output.say("no client is registered yet"),
        (true, Some(stale)) => output.say(&format!("every client has stored something within {stale}")),
        (false, _) => {}
    }
    let name = |row: &Value| display_bytes(text_of(row, "name").as_bytes());
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max("name".len());
    if !rows.is_empty() && !output.is_json() {
        output.line(line("name", width, COLUMNS.map(str::to_string)).as_bytes())?;
    }
    let code = if stale.is_some() && !rows.is_empty() { ExitCode::Failed } else { ExitCode::Done };
    for row in rows {
        let text = line(&name(&row), width, columns(&row));
        output.result("client", row, &text)?;
    }
    Ok(code)
}

fn columns(row: &Value) -> [String; 8] {
    let snapshots = match number(row, "damaged_snapshots") {
        0 => number(row, "snapshots").to_string(),
        damaged => format!("{} (+{damaged} damaged)", number(row, "snapshots")),
    };
    [
        row["last_success"].as_str().unwrap_or("never").to_string(),
        snapshots,
        row["latest_files"].as_u64().map_or_else(|| "sealed".to_string(), |files| files.to_string()),
        row["latest_bytes"].as_u64().map_or_else(|| "sealed".to_string(), bytes_text),
        bytes_text(number(row, "stored_bytes")),
        format!("+{}", bytes_text(number(row, "growth_bytes"))),
        quota_text(row),
        key_text(row),
    ]
}

fn key_text(row: &Value) -> String {
    let key = row["fingerprint"].as_str().unwrap_or("reset, waits for a new key");
    let legacy = if row["legacy"] == true { "  legacy" } else { "" };
    format!("{key}{legacy}")
}

fn line(name: &str, width: usize, columns: [String; 8]) -> String {
    let [last, snapshots, files, bytes, stored, growth, quota, key] = columns;
    format!(
        "{name:<width$}  {last:<20}  {snapshots:>9}  {files:>12}  {bytes:>12}  {stored:>12}  {growth:>12}  {quota:>12}  {key}"
    )
}

fn quota_text(row: &Value) -> String {
    row["quota_bytes"].as_u64().map_or_else(|| "no quota".to_string(), bytes_text)
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or(0)
}
