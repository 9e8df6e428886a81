//! `restore`.

use std::path::Path;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::output::{Output, bytes_text, count_text, rate};
use super::setup::{Access, CliError, Setup, selection};
use crate::base::shutdown::Shutdown;
use crate::client::{Client, ClientError, ExitCode, RestoreSummary, restore};
use crate::protocol::message::Selection;

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let to = arguments.path("to").ok_or_else(|| {
        UsageError(
            "where to restore to is not said: give --to DIR (--to / puts everything back in its place)".into(),
        )
    })?;
    let selection = selection(arguments, "latest")?;
    let mut setup = Setup::new(arguments, "restore", Access::Reading, output)?;
    let mut client = setup.client(output, shutdown)?;
    let result = give_back(&mut client, selection, &to, output);
    output.ended(&result);
    let summary = result?;
    let code = match &summary {
        RestoreSummary { damaged: 1.., .. } => ExitCode::Integrity,
        RestoreSummary { errors: 1.., .. } => ExitCode::Partial,
        _ => ExitCode::Done,
    };
    output.end_progress();
    let seconds = summary.elapsed.as_secs_f64();
    let errors = match summary.errors {
        0 => String::new(),
        count => format!("; {}, named above", count_text(count, "error")),
    };
    let text = format!(
        "restored snapshot {} to {}: {}, {} in {seconds:.2} s ({}/s){errors}",
        summary.snapshot.id,
        to.display(),
        count_text(summary.files, "file"),
        bytes_text(summary.bytes),
        bytes_text(rate(summary.bytes, seconds) as u64),
    );
    let data = json!({
        "snapshot": summary.snapshot.id,
        "files": summary.files,
        "folders": summary.folders,
        "links": summary.links,
        "bytes": summary.bytes,
        "errors": summary.errors,
        "damaged": summary.damaged,
        "seconds": seconds,
        "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}

fn give_back(
    client: &mut Client<'_>,
    selection: Selection,
    to: &Path,
    output: &Output,
) -> Result<RestoreSummary, ClientError> {
    let mut tries = 0;
    loop {
        let mut session = client.connect()?;
        match restore(&mut session, selection.clone(), to, output) {
            Ok(summary) => {
                // Everything is here and checked: a line that fails during the close changes nothing.
                let _ = session.close();
                return Ok(summary);
            }
            // What was restored is written again: the same bytes under the same names.
            Err(error) if error.is_passing() && tries < client.options.retry.retries => {
                tries += 1;
                let wait = client.options.retry.wait(tries);
                client.notice(&format!("{error}; beginning again in {:.1} s", wait.as_secs_f64()));
                if client.shutdown.wait(wait) {
                    return Err(ClientError::Interrupted);
                }
            }
            Err(error) => return Err(error),
        }
    }
}
