//! `restore`.

use std::path::Path;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::output::{Output, bytes_text};
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
        count => format!("; {count} errors, named above"),
    };
    let text = format!(
        "restored snapshot {} to {}: {} files, {} in {seconds:.2} s ({}/s){errors}",
        summary.snapshot.id,
        to.display(),
        summary.files,
        bytes_text(summary.bytes),
        bytes_text((summary.bytes as f64 / seconds.max(0.001)) as u64),
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
    output.result("summary", data, &text)?;
    Ok(code)
}

fn give_back(
    client: &mut Client<'_>,
    selection: Selection,
    to: &Path,
    output: &Output,
) -> Result<RestoreSummary, ClientError> {
    let mut session = client.connect()?;
    let summary = restore(&mut session, selection, to, output)?;
    // Everything is here and checked: a line that fails during the close changes nothing.
    let _ = session.close();
    Ok(summary)
}
