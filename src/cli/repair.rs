//! `server --repair`: a store mended offline.

use serde_json::{Value, json};

use super::arguments::{Arguments, UsageError};
use super::operator::{data_folder, text_of};
use super::output::{Output, count_text};
use super::setup::{CliError, rsa_bits};
use super::storage_key;
use crate::client::{ClientError, ExitCode};
use crate::server::{DEFAULT_RSA_BITS, RepairRequest, repair};

/// Snapshots that a line of text names.
const SNAPSHOTS_SHOWN: usize = 8;
/// Flags that say how, and mean nothing without `--repair`.
const HOW: [&str; 2] = ["dry-run", "new-key"];

/// Whether the words ask for it.
///
/// # Errors
/// Where they say how and not that.
pub fn is_asked_for(arguments: &Arguments) -> Result<bool, UsageError> {
    match (arguments.is_on("repair"), HOW.into_iter().find(|flag| arguments.is_on(flag))) {
        (false, Some(flag)) => Err(UsageError(format!("--{flag} belongs to --repair: give both"))),
        (is_on, _) => Ok(is_on),
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    let bits = rsa_bits(arguments, DEFAULT_RSA_BITS)?;
    let new_key = arguments.is_on("new-key").then_some(bits);
    let request = RepairRequest { dry_run: arguments.is_on("dry-run"), new_key };
    let (mut end, mut printed) = (None, Ok(()));
    let data = data_folder(arguments);
    let keys = storage_key::given(arguments, &data)?;
    repair(&data, keys, &request, &mut |row| match row["row"].as_str() {
        Some("file") => printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| tell(output, row)),
        _ => end = Some(row),
    })?;
    printed?;
    conclude(output, &end.unwrap_or_default())
}

fn tell(output: &Output, mut row: Value) -> Result<(), ClientError> {
    let snapshots: Vec<&str> =
        row["snapshots"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let needed = match snapshots.len() {
        0 => String::new(),
        count if count <= SNAPSHOTS_SHOWN => format!(" (snapshots {})", snapshots.join(" ")),
        count => format!(" ({count} snapshots, {} to {})", snapshots[0], snapshots[count - 1]),
    };
    let text = format!("{} {}: {}{needed}", text_of(&row, "outcome"), text_of(&row, "file"), text_of(&row, "text"));
    row.as_object_mut().map(|fields| fields.remove("row"));
    output.result("repaired", row, &text)
}

fn conclude(output: &Output, row: &Value) -> Result<ExitCode, CliError> {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let (rebuilt, removed, lost) = (number("rebuilt"), number("removed"), number("lost"));
    let is_dry = row["dry_run"] == true;
    let code = if lost > 0 { ExitCode::Integrity } else { ExitCode::Done };
    let text = match (rebuilt + removed + lost, is_dry) {
        (0, _) => "nothing to repair; \"verify --data\" looks at the contents too".to_string(),
        (_, true) => format!("{} would be rebuilt, {removed} removed, {lost} lost", count_text(rebuilt, "file")),
        (_, false) => format!("{} rebuilt, {removed} removed, {lost} lost", count_text(rebuilt, "file")),
    };
    let data = json!({
        "rebuilt": rebuilt, "removed": removed, "lost": lost, "dry_run": is_dry, "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}
