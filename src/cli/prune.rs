//! `prune`, `hold` and `release`: what is kept of a server's snapshots.

use serde_json::Value;
use std::ffi::OsStr;

use super::arguments::{Arguments, UsageError};
use super::operator::{data_folder, text_of};
use super::output::{Output, bytes_text};
use super::setup::CliError;
use super::storage_key;
use crate::base::ids::UserName;
use crate::base::path::display_bytes;
use crate::client::ExitCode;
use crate::server::{OperatorCommand, OperatorError, Policy, PruneRequest, operate, operate_sealed};
use crate::storage::{Rules, Span};

/// Most snapshots that one rule counts.
const KEEP_MAX: u64 = 1_000_000;

pub fn prune(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: name a snapshot with --snapshot, a client with --client", extra.display());
        return Err(UsageError(text).into());
    }
    let (client, snapshots) = (client(arguments)?, given_snapshots(arguments)?);
    let (rules, policy) = (rules(arguments)?, policy(arguments)?);
    let is_ruled = rules != Rules::default();
    match (is_ruled, policy.is_some(), snapshots.is_empty()) {
        (true, false, true) => rules.check().map_err(UsageError)?,
        (false, true, true) | (false, false, false) => {}
        (false, false, true) => {
            return Err(UsageError(
                "\"prune\" needs rules, as --keep-daily 7, or a --policy, or a --snapshot to drop".into(),
            )
            .into());
        }
        _ => {
            return Err(UsageError("rules, --policy and --snapshot are each given alone".into()).into());
        }
    }
    let request = PruneRequest { client, rules: None, snapshots, dry_run: arguments.is_on("dry-run") };
    if !request.snapshots.is_empty() {
        return run(arguments, output, request);
    }
    // One client at a time: others' commands come in between, and no answer becomes too long.
    let mut code = ExitCode::Done;
    let clients = clients(arguments)?;
    if let Some(policy) = &policy {
        policy.warnings(clients.iter().flatten()).iter().for_each(|warning| output.warn(warning));
    }
    let is_meant = |names: &&Vec<UserName>| request.client.as_ref().is_none_or(|name| names[0] == *name);
    let meant: Vec<&Vec<UserName>> = clients.iter().filter(is_meant).collect();
    if let (Some(name), true) = (&request.client, meant.is_empty()) {
        let text = format!("there is no client {name}: \"cyberbackup clients\" lists them");
        return Err(OperatorError::Refused(text).into());
    }
    for names in meant {
        let of_policy = policy.as_ref().map(|policy| policy.rules_for(names).cloned());
        let Some(rules) = of_policy.unwrap_or(Some(rules.clone())) else { continue };
        let request = PruneRequest { client: Some(names[0].clone()), rules: Some(rules), ..request.clone() };
        if run(arguments, output, request)? == ExitCode::Integrity {
            code = ExitCode::Integrity;
        }
    }
    Ok(code)
}

/// The names of each client: what it is called, then what it was called before.
fn clients(arguments: &Arguments) -> Result<Vec<Vec<UserName>>, CliError> {
    let rows = operate(&data_folder(arguments), &OperatorCommand::Clients { stale_seconds: None })?;
    let names = |row: &Value| -> Vec<UserName> {
        let former = row["former_names"].as_array().into_iter().flatten();
        std::iter::once(&row["name"]).chain(former).filter_map(|name| name.as_str()?.parse().ok()).collect()
    };
    Ok(rows.iter().map(names).filter(|names| !names.is_empty()).collect())
}

fn run(arguments: &Arguments, output: &Output, request: PruneRequest) -> Result<ExitCode, CliError> {
    let mut code = ExitCode::Done;
    let data = data_folder(arguments);
    let keys = storage_key::given(arguments, &data)?;
    for row in operate_sealed(&data, keys, &OperatorCommand::Prune(request))? {
        if row["damage"].is_string() {
            code = ExitCode::Integrity;
        }
        match row["row"].as_str() {
            Some("client") => {
                let text = client_text(&row);
                output.result("pruned", row, &text)?;
            }
            _ => {
                let text = snapshot_text(&row);
                output.result("snapshot", row, &text)?;
            }
        }
    }
    Ok(code)
}

fn snapshot_text(row: &Value) -> String {
    let texts =
        |key: &str| -> Vec<&str> { row[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    format!(
        "{}  {:<16}  {}  {}  {}: {}",
        text_of(row, "snapshot"),
        shown(row, "client"),
        text_of(row, "committed"),
        texts("roots").join(" "),
        if row["keep"] == true { "keep" } else { "drop" },
        texts("reasons").join(", "),
    )
}

fn client_text(row: &Value) -> String {
    let would = if row["dry_run"] == true { "would be " } else { "" };
    let freed = bytes_text(row["freed_bytes"].as_u64().unwrap_or(0));
    let damage =
        row["damage"].as_str().map(|damage| format!("; not all that might be, because of damage: {damage}"));
    let damage = damage.unwrap_or_default();
    let clock =
        if row["clock_is_behind"] == true { "; the clock is behind the newest snapshot: set it right" } else { "" };
    format!(
        "{}: {} {would}dropped, {} kept, {freed} {would}free again{damage}{clock}",
        shown(row, "client"),
        row["dropped"],
        row["kept"]
    )
}

fn shown(row: &Value, key: &str) -> String {
    display_bytes(text_of(row, key).as_bytes())
}

pub fn hold(arguments: &Arguments, output: &Output, hold: bool) -> Result<ExitCode, CliError> {
    let [snapshot] = &arguments.positional[..] else {
        return Err(UsageError("one snapshot is named: \"cyberbackup prune --dry-run\" lists them".into()).into());
    };
    let snapshot = snapshot.to_str().ok_or_else(|| UsageError("the snapshot is not valid UTF-8".into()))?;
    let command = OperatorCommand::Hold { client: client(arguments)?, snapshot: snapshot.to_string(), hold };
    for row in operate(&data_folder(arguments), &command)? {
        let state = match (hold, row["changed"] == true) {
            (true, true) => "held",
            (true, false) => "held before",
            (false, true) => "released",
            (false, false) => "not held",
        };
        let text = format!("{}  {}  {state}", text_of(&row, "snapshot"), shown(&row, "client"));
        output.result("snapshot", row, &text)?;
    }
    Ok(ExitCode::Done)
}

fn client(arguments: &Arguments) -> Result<Option<UserName>, UsageError> {
    arguments.parsed("client")
}

/// What is to be dropped is said on the command line: the environment's snapshot is the one that others look into.
fn given_snapshots(arguments: &Arguments) -> Result<Vec<String>, UsageError> {
    texts("snapshot", arguments.given("snapshot"))
}

fn texts(name: &'static str, values: Vec<&OsStr>) -> Result<Vec<String>, UsageError> {
    let texts: Option<Vec<String>> = values.into_iter().map(|value| value.to_str().map(str::to_string)).collect();
    texts.ok_or_else(|| UsageError(format!("--{name}: the value is not valid UTF-8")))
}

fn rules(arguments: &Arguments) -> Result<Rules, UsageError> {
    let count = |name| arguments.number(name, 0, KEEP_MAX).map(|count| count.unwrap_or(0) as u32);
    Ok(Rules {
        keep_last: count("keep-last")?,
        keep_hourly: count("keep-hourly")?,
        keep_daily: count("keep-daily")?,
        keep_weekly: count("keep-weekly")?,
        keep_monthly: count("keep-monthly")?,
        keep_yearly: count("keep-yearly")?,
        keep_within: arguments.parsed::<Span>("keep-within")?,
        keep_tag: texts("keep-tag", arguments.values("keep-tag"))?,
    })
}

fn policy(arguments: &Arguments) -> Result<Option<Policy>, UsageError> {
    arguments.path("policy").map(|path| Policy::read(&path).map_err(UsageError)).transpose()
}
