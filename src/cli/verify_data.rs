//! `verify --data`: the operator's, of a whole store.

use serde_json::{Value, json};

use super::arguments::{Arguments, UsageError};
use super::operator::{data_folder, text_of};
use super::output::{Output, bytes_text, read_text, sealed_text};
use super::setup::CliError;
use super::storage_key;
use crate::base::progress::{Event, ProgressSink, Totals};
use crate::base::shutdown::Shutdown;
use crate::client::{ClientError, ExitCode};
use crate::server::{OperatorError, VerifyRequest, verify};

/// Snapshots that a line of text names.
const SNAPSHOTS_SHOWN: usize = 8;

/// Whether the words ask for a store instead of a client's own data.
pub fn is_asked_for(arguments: &Arguments) -> bool {
    arguments.value("data").is_some() && !arguments.is_on("local-server")
}

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: with --data everything is verified; name a client with --client", extra.display());
        return Err(UsageError(text).into());
    }
    if let Some(flag) =
        ["server", "user", "snapshot", "root"].into_iter().find(|flag| arguments.value(flag).is_some())
    {
        return Err(UsageError(format!("--{flag} does not go with --data, which verifies a server's store")).into());
    }
    let request =
        VerifyRequest { client: arguments.parsed("client")?, sample_percent: sample_percent(arguments, "sample")? };
    let mut last = None;
    let data = data_folder(arguments);
    verify(&data, storage_key::given(arguments, &data)?, &request, &mut |row| {
        match row["row"].as_str() {
            Some("progress") => progress(output, &row),
            Some("damage") => tell(output, &row),
            _ => last = Some(row),
        }
        !shutdown.is_requested()
    })?;
    output.end_progress();
    match last {
        Some(row) if row["row"] == "end" => conclude(output, &row),
        // A client that is not there, or a server that ends, says nothing about the store.
        Some(row) if row["is_damage"] == false => Err(OperatorError::Refused(text_of(&row, "text")).into()),
        Some(row) => Err(ClientError::Integrity(text_of(&row, "text")).into()),
        None if shutdown.is_requested() => Ok(ExitCode::Interrupted),
        None => {
            Err(ClientError::Integrity("the server ended before the verification did; run this again".into())
                .into())
        }
    }
}

/// The share of a hundred that a flag gives, as `10%`.
pub fn sample_percent(arguments: &Arguments, flag: &'static str) -> Result<Option<u32>, UsageError> {
    let Some(text) = arguments.text(flag)? else { return Ok(None) };
    parse_percent(&text)
        .map(Some)
        .ok_or_else(|| UsageError(format!("--{flag} {text:?}: a share is wanted, 1% to 100%, as in 10%")))
}

fn parse_percent(text: &str) -> Option<u32> {
    let percent = text.strip_suffix('%')?.parse().ok()?;
    (1..=100).contains(&percent).then_some(percent)
}

fn progress(output: &Output, row: &Value) {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let totals = Totals { files_done: number("files"), bytes_done: number("bytes"), ..Totals::default() };
    output.event(Event::Progress { totals, current_file: &[] });
}

fn tell(output: &Output, row: &Value) {
    let snapshots: Vec<&str> =
        row["snapshots"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = text_of(row, "file");
    for (key, before) in [("path", " holds "), ("client", " of ")] {
        if let Some(value) = row[key].as_str() {
            text.push_str(before);
            text.push_str(value);
        }
    }
    text.push_str(": ");
    text.push_str(&text_of(row, "reason"));
    match snapshots.len() {
        0 => {}
        count if count <= SNAPSHOTS_SHOWN => text.push_str(&format!(" (snapshots {})", snapshots.join(" "))),
        count => {
            let (first, last) = (snapshots[0], snapshots[count - 1]);
            text.push_str(&format!(" ({count} snapshots, {first} to {last}; --json names all)"));
        }
    }
    output.damaged_file(row, &text);
}

fn conclude(output: &Output, row: &Value) -> Result<ExitCode, CliError> {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let (files, bytes, damaged) = (number("files"), number("bytes"), number("damaged"));
    let code = if damaged > 0 { ExitCode::Integrity } else { ExitCode::Done };
    let verdict = match damaged {
        0 => "all is whole".to_string(),
        count => format!(
            "{count} damaged, named above: the clients' next backups heal contents that they still have; for heads, \
             lists, records and keys, stop the server and run \"server --repair\""
        ),
    };
    let (snapshots, objects) = (number("sealed_snapshots"), number("sealed_objects"));
    let inside = sealed_text(snapshots, "\"verify --vault-key\" of their owners opens them");
    let text = format!("{}, {} read back: {verdict}{inside}", read_text(files, objects), bytes_text(bytes));
    let data = json!({
        "files": files, "bytes": bytes, "sealed_snapshots": snapshots, "sealed_objects": objects, "damaged": damaged,
        "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_to_a_hundred_of_a_hundred() {
        assert_eq!(parse_percent("10%"), Some(10));
        for bad in ["10", "0%", "101%", "%", "-1%", "1.5%"] {
            assert_eq!(parse_percent(bad), None, "{bad}");
        }
    }
}
