//! `backup --on-success` and `--on-failure`: a program is told how the run ended. Whatever becomes of that, the run
//! ended as it did.

use serde_json::Value;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use crate::base::hook::Hook;
use crate::base::progress::{Event, ProgressSink};
use crate::client::ExitCode;

/// The programs to tell.
pub struct ResultHooks {
    success: Option<Hook>,
    failure: Option<Hook>,
}

impl ResultHooks {
    pub fn of(arguments: &Arguments) -> Result<ResultHooks, UsageError> {
        Ok(ResultHooks { success: arguments.parsed("on-success")?, failure: arguments.parsed("on-failure")? })
    }

    /// Tells the one that fits, and waits for its end; `status` is what `status.json` holds.
    pub fn tell(&self, status: &Value, code: ExitCode, output: &Output) {
        let (flag, hook) = match code {
            ExitCode::Done => ("--on-success", &self.success),
            _ => ("--on-failure", &self.failure),
        };
        let Some(hook) = hook else { return };
        // A wish to stop has been heard already, and a failure is to be told all the same.
        if let Err(error) = hook.tell(&variables(status), format!("{status}\n").as_bytes(), &|| false) {
            let message = format!("{flag}: {error}");
            ProgressSink::event(output, Event::Notice { message: &message });
        }
    }
}

/// The status as variables; what a run does not have is empty.
fn variables(status: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let summary = &status["summary"];
    vec![
        ("EVENT", "backup".to_string()),
        ("RESULT", text(&status["result"])),
        ("EXIT_CODE", text(&status["exit_code"])),
        ("TIME", text(&status["ended"])),
        ("TEXT", text(&status["error"])),
        ("SNAPSHOT", text(&summary["snapshot"])),
        ("FILES", text(&summary["files"])),
        ("BYTES", text(&summary["bytes"])),
        ("FILES_SENT", text(&summary["files_sent"])),
        ("BYTES_SENT", text(&summary["bytes_sent"])),
        ("UNREADABLE", text(&summary["unreadable"])),
        ("SECONDS", text(&summary["seconds"])),
    ]
}
