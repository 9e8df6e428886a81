//! How the last backup went, as `status.json` in the state folder tells whoever watches: the same from the command line
//! and from the page.

use serde_json::{Value, json};

use super::backup::BackupSummary;
use super::error::{ClientError, ExitCode};
use super::json::path_list;
use super::state::StateFolder;
use crate::base::path::EntryPath;
use crate::base::progress::{Event, ProgressSink, rate};
use crate::base::time::Timestamp;

/// The version of `status.json`.
const STATUS_VERSION: u32 = 1;

/// How a backup ended, in one number.
pub fn code_of(result: &Result<BackupSummary, ClientError>) -> ExitCode {
    match result {
        Ok(summary) if summary.unreadable > 0 => ExitCode::Partial,
        Ok(_) => ExitCode::Done,
        Err(error) => error.exit_code(),
    }
}

/// What is told of a backup that was made.
pub fn summary_json(summary: &BackupSummary, code: ExitCode) -> Value {
    let snapshot = summary.snapshot.as_ref();
    json!({
        "snapshot": snapshot.map(|row| row.id),
        "sequence": snapshot.map(|row| row.sequence),
        "roots": snapshot.map(|row| path_list(row.roots.iter().map(EntryPath::as_bytes))),
        "files": summary.scanned.files,
        "folders": summary.scanned.folders,
        "links": summary.scanned.links,
        "bytes": summary.scanned.bytes,
        "files_sent": summary.files_sent,
        "bytes_sent": summary.bytes_sent,
        "files_same": summary.files_same,
        "wire_bytes": summary.wire_bytes,
        "unreadable": summary.unreadable,
        "skipped": summary.scanned.skipped,
        "seconds": summary.elapsed.as_secs_f64(),
        "bytes_per_second": rate(summary.bytes_sent, summary.elapsed.as_secs_f64()) as u64,
        "dry_run": snapshot.is_none(),
        "exit_code": code as i32,
    })
}

/// Writes `status.json`, and gives what it holds. That it cannot be written is said; it does not undo the backup.
pub fn keep_status(
    state: &StateFolder,
    sink: &dyn ProgressSink,
    summary: Result<Value, &ClientError>,
    code: ExitCode,
) -> Value {
    let status = status_json(summary.map_err(ClientError::to_string), code);
    if let Err(error) = state.write_status(&status) {
        sink.event(Event::Notice { message: &error.to_string() });
    }
    status
}

/// What `status.json` holds and a hook reads.
pub fn status_json(result: Result<Value, String>, code: ExitCode) -> Value {
    let word = match code {
        ExitCode::Done => "done",
        ExitCode::Partial => "partial",
        _ => "failed",
    };
    let mut status = json!({
        "version": STATUS_VERSION,
        "command": "backup",
        "ended": Timestamp::now().to_string(),
        "result": word,
        "exit_code": code as i32,
    });
    match result {
        Ok(summary) => status["summary"] = summary,
        Err(error) => status["error"] = Value::String(error),
    }
    status
}
