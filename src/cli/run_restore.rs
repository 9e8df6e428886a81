//! `restore`.

use std::path::Path;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::look::tell_chain;
use super::output::{Output, bytes_text, count_text, errors_text};
use super::setup::{Access, CliError, Setup, selection};
use crate::base::progress::rate;
use crate::base::shutdown::Shutdown;
use crate::client::vault::VaultAccess;
use crate::client::{Client, ClientError, ExitCode, Restore, RestoreSummary};
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
    let wanted = selection.snapshot.clone();
    let result = give_back(&mut client, selection, &to, output);
    output.ended(&result);
    output.end_progress();
    let code = match &result {
        Ok(RestoreSummary { damaged: 1.., .. }) => ExitCode::Integrity,
        Ok(RestoreSummary { errors: 1.., .. }) => ExitCode::Partial,
        _ => ExitCode::Done,
    };
    let compared = client.vault.as_deref().map(VaultAccess::compared).unwrap_or_default();
    let code = tell_chain(&compared, &wanted, code, output);
    let summary = result?;
    let seconds = summary.elapsed.as_secs_f64();
    let errors = errors_text(summary.errors);
    let fetched = summary.bytes.saturating_sub(summary.bytes_kept);
    let kept = match summary.bytes_kept + summary.files_kept {
        0 => String::new(),
        _ => format!(
            "; {}, {} were there, {}",
            count_text(summary.files_kept, "file"),
            bytes_text(summary.bytes_kept),
            bytes_text(fetched)
        ),
    };
    let text = format!(
        "restored snapshot {} to {}: {}, {}{kept}{} in {seconds:.2} s ({}/s){errors}",
        summary.snapshot.id,
        to.display(),
        count_text(summary.files, "file"),
        bytes_text(summary.bytes),
        if kept.is_empty() { "" } else { " fetched" },
        bytes_text(rate(fetched, seconds) as u64),
    );
    let data = json!({
        "snapshot": summary.snapshot.id,
        "files": summary.files,
        "folders": summary.folders,
        "links": summary.links,
        "bytes": summary.bytes,
        "files_kept": summary.files_kept,
        "bytes_kept": summary.bytes_kept,
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
    // Where no server answers, no folder is made.
    let session = client.connect()?;
    Restore::create(selection, to, output)?.run_to_end(client, session)
}
