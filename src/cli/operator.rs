//! `enroll`: the operator's command that lets a client register; and what his commands share.

use std::path::PathBuf;

use serde_json::Value;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::setup::{CliError, DATA_FOLDER};
use crate::base::ids::UserName;
use crate::client::ExitCode;
use crate::server::{OperatorCommand, operate};

/// How long a token is valid unless said otherwise.
const TOKEN_HOURS: u64 = 72;
/// The longest that a token can be valid: a year.
const TOKEN_HOURS_MAX: u64 = 24 * 366;
/// Most tokens that one command makes.
const TOKENS_MAX: u64 = 10_000;

/// The data folder that a command is about.
pub fn data_folder(arguments: &Arguments) -> PathBuf {
    arguments.path("data").unwrap_or_else(|| PathBuf::from(DATA_FOLDER))
}

pub fn enroll(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    let [name] = &arguments.positional[..] else {
        return Err(UsageError("\"enroll\" takes one name: cyberbackup enroll NAME".into()).into());
    };
    let name = name.to_str().ok_or_else(|| UsageError("the name is not valid UTF-8".into()))?;
    let name: UserName = name.parse().map_err(|error| UsageError(format!("{error}")))?;
    if arguments.is_on("legacy") {
        return enroll_legacy(arguments, output, name);
    }
    let count = arguments.number("count", 1, TOKENS_MAX)?.map(|count| count as u32);
    let valid_hours = arguments.number("valid-hours", 1, TOKEN_HOURS_MAX)?.unwrap_or(TOKEN_HOURS) as u32;
    let rows = operate(&data_folder(arguments), &OperatorCommand::Enroll { name, count, valid_hours })?;
    for row in rows {
        // One token alone is printed bare, ready to be put into a variable.
        let text = match count {
            None => text_of(&row, "token"),
            Some(_) => format!("{}  {}", text_of(&row, "name"), text_of(&row, "token")),
        };
        output.result("token", row, &text)?;
    }
    Ok(ExitCode::Done)
}

/// No token: the dialect has no place for one. The name itself is open, once and for a while.
fn enroll_legacy(arguments: &Arguments, output: &Output, name: UserName) -> Result<ExitCode, CliError> {
    if let Some(flag) = ["count", "valid-hours"].into_iter().find(|flag| arguments.value(flag).is_some()) {
        let text = format!("--{flag} does not go with --legacy, which opens one name for one hour");
        return Err(UsageError(text).into());
    }
    for row in operate(&data_folder(arguments), &OperatorCommand::EnrollLegacy { name })? {
        let (name, expires) = (text_of(&row, "name"), text_of(&row, "expires"));
        let text = format!("a legacy client may register as {name} once, until {expires}");
        output.result("legacy_opening", row, &text)?;
    }
    Ok(ExitCode::Done)
}

pub fn text_of(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_string()
}
