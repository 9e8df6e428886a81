//! `server-key`: the operator looks at the server's key, or exchanges it.

use serde_json::Value;

use super::arguments::{Arguments, UsageError};
use super::operator::{data_folder, text_of};
use super::output::Output;
use super::setup::{CliError, rsa_bits};
use crate::base::amount::Span;
use crate::base::path::display_bytes;
use crate::client::ExitCode;
use crate::server::{DEFAULT_RSA_BITS, OperatorCommand, operate};

pub fn run(arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    let words: Vec<_> = arguments.positional.iter().map(|word| word.to_str()).collect();
    let after: Option<Span> = arguments.parsed("rotate-after")?;
    let command = match words[..] {
        [] => OperatorCommand::ServerKey,
        [Some("rotate")] => OperatorCommand::RotateServerKey {
            bits: rsa_bits(arguments, DEFAULT_RSA_BITS)?,
            after_seconds: after.map(|Span(after)| after.as_secs()),
        },
        [Some("finish")] => OperatorCommand::FinishServerKey,
        [Some("withdraw")] => OperatorCommand::WithdrawServerKey,
        _ => {
            let text = "\"server-key\" alone shows the key; else: server-key rotate, finish or withdraw";
            return Err(UsageError(text.into()).into());
        }
    };
    for row in operate(&data_folder(arguments), &command)? {
        let text = text(&row);
        output.result("server_key", row, &text)?;
    }
    Ok(ExitCode::Done)
}

fn text(row: &Value) -> String {
    let mut text = format!("key {}", text_of(row, "fingerprint"));
    if let Some(next) = row["next_fingerprint"].as_str() {
        let from = row["used_from"].as_str().unwrap_or("\"cyberbackup server-key finish\"");
        text.push_str(&format!("\nnext {next}, used from {from} on"));
        for name in row["clients_to_tell"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("\n{} has not heard of it yet", display_bytes(name.as_bytes())));
        }
    }
    text
}
