//! What a run prints, and where: results to standard output, everything else to standard error. With
//! `--json` everything is one JSON object a line on standard output.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::base::ids::hex;
use crate::base::path::display_bytes;
use crate::base::progress::{Event, Phase, ProgressSink, Totals};
use crate::client::json::put_path;
use crate::client::{ClientError, Damage, ExitCode};

/// How often a progress line of JSON is printed.
const JSON_PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long something must have gone on before its rate is told.
const RATE_AFTER: Duration = Duration::from_millis(50);

/// Where a run's words go.
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// Standard output has rows and nothing else.
    listing: bool,
    bar: ProgressBar,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    json_told: Option<Instant>,
    /// The newest progress that the interval held back; told before the phase or the run ends.
    untold: Option<Value>,
    began: Option<Instant>,
}

impl Output {
    pub fn new(json: bool, quiet: bool, verbose: bool) -> Output {
        let draws = !json && !quiet && io::stderr().is_terminal();
        let target = if draws { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{msg}").expect("the template is a literal");
        bar.set_style(style);
        Output { json, quiet, verbose, listing: false, bar, state: Mutex::default() }
    }

    /// For a command whose standard output has rows: what else is said goes to standard error.
    pub fn for_listing(self) -> Output {
        Output { listing: true, ..self }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A result: a line of text, or an event.
    pub fn result(&self, event: &str, data: Value, text: &str) -> Result<(), ClientError> {
        self.tell_untold();
        match self.json {
            true => self.line(json!({ "event": event, "data": data }).to_string().as_bytes()),
            false if text.is_empty() => Ok(()),
            false => self.line(text.as_bytes()),
        }
    }

    /// The last line of a command that comes to a verdict, and its exit code. What was found counts, whether or
    /// not somebody reads it.
    pub fn verdict(&self, data: Value, text: &str, code: ExitCode) -> Result<ExitCode, ClientError> {
        match (self.result("summary", data, text), code) {
            (Err(error), ExitCode::Done) => Err(error),
            _ => Ok(code),
        }
    }

    /// A line on standard output.
    pub fn line(&self, text: &[u8]) -> Result<(), ClientError> {
        self.raw(&[text, b"\n"].concat())
    }

    /// Bytes on standard output, as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut out = io::stdout().lock();
        let written = self.bar.suspend(|| out.write_all(bytes).and_then(|()| out.flush()));
        written.map_err(|source| ClientError::Io { doing: "write to standard output".into(), source })
    }

    /// Something for the person, not for the script.
    pub fn say(&self, text: &str) {
        if !self.quiet && (!self.json || self.listing) {
            self.complain(text);
        }
    }

    /// Something that is most likely a mistake, and does not keep the command from its work.
    pub fn warn(&self, text: &str) {
        match self.json {
            true => self.event("log", json!({ "level": "warn", "message": text })),
            false => self.complain(&format!("warning: {text}")),
        }
    }

    /// A detail, shown with `-v`.
    pub fn detail(&self, text: &str) {
        match (self.verbose, self.has_events()) {
            (true, false) => self.complain(text),
            (true, true) => self.event("log", json!({ "level": "debug", "message": text })),
            _ => {}
        }
    }

    /// How the run ended, when it ended badly.
    pub fn error(&self, message: &str, code: ExitCode) {
        self.bar.finish_and_clear();
        if self.json {
            self.event("error", json!({ "message": message, "exit_code": code as i32 }));
        } else {
            self.complain(&format!("cyberbackup: {message}"));
        }
    }

    /// The phase that a job ends in.
    pub fn ended<T>(&self, result: &Result<T, ClientError>) {
        match result {
            Ok(_) => self.phase(Phase::Completed, "done"),
            Err(error) => self.phase(Phase::Failed, &error.to_string()),
        }
    }

    /// Names damage beside a listing: never among its rows.
    pub fn damage(&self, damage: &Damage) {
        self.damage_text(&damage.to_string());
    }

    pub fn damage_text(&self, text: &str) {
        self.complain(text);
    }

    /// Names damage as a result of its own.
    pub fn damage_event(&self, damage: &Damage) {
        if !self.json {
            return self.complain(&damage.to_string());
        }
        let mut data = json!({ "reason": damage.text, "snapshot": damage.snapshot });
        let path = damage.path.as_ref().map(|path| path.as_bytes()).unwrap_or_default();
        put_path(&mut data, "path", path);
        self.event("file_error", data);
    }

    /// Names a damaged file of a store as a result of its own; `text` says the same as `row`.
    pub fn damaged_file(&self, row: &Value, text: &str) {
        if !self.json {
            return self.complain(text);
        }
        let mut data = row.clone();
        if let Some(fields) = data.as_object_mut() {
            fields.remove("row");
        }
        self.event("file_error", data);
    }

    /// Takes the progress line away.
    pub fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    /// Whether standard output takes events beside results.
    fn has_events(&self) -> bool {
        self.json && !self.listing
    }

    fn complain(&self, text: &str) {
        // Nobody reads standard error: there is nowhere left to say so.
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr(), "{text}");
        });
    }

    fn event(&self, event: &str, data: Value) {
        // A reader that went away is found by the next result.
        let _ = self.line(json!({ "event": event, "data": data }).to_string().as_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn phase(&self, phase: Phase, message: &str) {
        self.tell_untold();
        if phase == Phase::BackupInProgress {
            self.state().began = Some(Instant::now());
        }
        if self.has_events() && !self.quiet {
            self.event("status", json!({ "phase": phase.word(), "message": message }));
        }
    }

    fn tell_untold(&self) {
        let untold = self.state().untold.take();
        if let Some(data) = untold {
            self.event("progress_update", data);
        }
    }

    fn path_event(&self, event: &str, path: &[u8], reason: &str) {
        let mut data = json!({ "reason": reason });
        put_path(&mut data, "path", path);
        self.event(event, data);
    }

    fn progress(&self, totals: Totals, current_file: &[u8]) {
        let mut state = self.state();
        let elapsed = state.began.get_or_insert_with(Instant::now).elapsed();
        // Over too short a time a rate means nothing.
        let rate = match elapsed > RATE_AFTER {
            true => totals.bytes_done as f64 / elapsed.as_secs_f64(),
            false => 0.0,
        };
        if !self.has_events() {
            drop(state);
            self.bar.set_message(progress_text(totals, rate, current_file));
            self.bar.tick();
            return;
        }
        let mut data = json!({
            "files_done": totals.files_done,
            "files_total": totals.files_total,
            "bytes_transferred": totals.bytes_done,
            "total_bytes": totals.bytes_total,
            "counted": totals.counted,
            "rate": rate as u64,
        });
        put_path(&mut data, "current_file", current_file);
        if state.json_told.is_some_and(|told| told.elapsed() < JSON_PROGRESS_INTERVAL) {
            state.untold = Some(data);
            return;
        }
        (state.json_told, state.untold) = (Some(Instant::now()), None);
        drop(state);
        self.event("progress_update", data);
    }
}

fn progress_text(totals: Totals, rate: f64, current_file: &[u8]) -> String {
    let open = if totals.counted { "" } else { "+" };
    let percent = match totals.bytes_total {
        0 => String::new(),
        total if totals.counted => format!("{:3.0} %  ", 100.0 * totals.bytes_done as f64 / total as f64),
        _ => String::new(),
    };
    let mut file = display_bytes(current_file);
    if let Some((cut, _)) = file.char_indices().rev().nth(38) {
        file.replace_range(..cut, "…");
    }
    format!(
        "{percent}{} of {}{open} files  {} of {}{open}  {}/s  {file}",
        totals.files_done,
        totals.files_total,
        HumanBytes(totals.bytes_done),
        HumanBytes(totals.bytes_total),
        HumanBytes(rate as u64),
    )
}

impl ProgressSink for Output {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Progress { totals, current_file } if !self.quiet => self.progress(totals, current_file),
            Event::FileError { path, reason } if self.has_events() => self.path_event("file_error", path, reason),
            Event::FileSkipped { path, reason } if self.has_events() => {
                self.path_event("file_skipped", path, reason);
            }
            Event::FileError { path: [], reason } => self.complain(reason),
            Event::FileError { path, reason } | Event::FileSkipped { path, reason } => {
                let reason = strip_path(reason, path);
                self.complain(&format!("{}: {reason}", display_bytes(path)));
            }
            Event::Notice { message } if self.has_events() && !self.quiet => {
                Output::event(self, "log", json!({ "level": "info", "message": message }));
            }
            Event::Notice { message } => self.say(message),
            Event::Phase { phase, message } => self.phase(phase, message),
            Event::FirstContact { message } if self.has_events() => {
                Output::event(self, "log", json!({ "level": "info", "message": message }));
            }
            Event::FirstContact { message } => self.complain(message),
            Event::Warning { message } if self.has_events() => {
                Output::event(self, "log", json!({ "level": "warning", "message": message }));
            }
            Event::Warning { message } => self.complain(&format!("warning: {message}")),
            Event::FileReceipt { path, bytes, crc32, blake3 } if self.has_events() && !self.quiet => {
                let sums = format!("{crc32:08x}");
                let mut data = json!({ "bytes": bytes, "crc32": sums, "blake3": hex(&blake3) });
                put_path(&mut data, "path", path);
                Output::event(self, "file_receipt", data);
            }
            _ => {}
        }
    }
}

/// A reason that names the path itself need not say it twice.
fn strip_path<'a>(reason: &'a str, path: &[u8]) -> &'a str {
    let shown = display_bytes(path);
    reason.strip_prefix(&shown).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason)
}

/// The end of a sentence about what was restored: how many errors there were, if any.
pub fn errors_text(errors: u64) -> String {
    match errors {
        0 => String::new(),
        count => format!("; {}, named above", count_text(count, "error")),
    }
}

/// `1 file`, `2 files`
pub fn count_text(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `3 files`, `2 sealed objects`, or both, of what was read back.
pub fn read_text(files: u64, sealed_objects: u64) -> String {
    match (count_text(files, "file"), count_text(sealed_objects, "sealed object")) {
        (files, _) if sealed_objects == 0 => files,
        (_, objects) if files == 0 => objects,
        (files, objects) => format!("{files} and {objects}"),
    }
}

/// One more line where snapshots in vaults were among what was verified; `next` says who can look inside, and how.
pub fn sealed_text(snapshots: u64, next: &str) -> String {
    match snapshots {
        0 => String::new(),
        count => format!("\n{} in vaults: only checksums were compared; {next}", count_text(count, "snapshot")),
    }
}

/// `3.2 MiB`
pub fn bytes_text(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_plural_and_nothing_has_no_rate() {
        assert_eq!((count_text(1, "file"), count_text(0, "error")), ("1 file".into(), "0 errors".into()));
    }
}
