//! `rekey`: a store sealed, unsealed, or sealed with another key.

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::operator::data_folder;
use super::output::{Output, bytes_text, count_text};
use super::setup::CliError;
use super::storage_key::{CURRENT, KeyPlace, NEW};
use crate::base::durable::Disk;
use crate::base::progress::{Event, ProgressSink, Totals};
use crate::base::shutdown::Shutdown;
use crate::client::ExitCode;
use crate::server::{OperatorError, ServerError};
use crate::storage::{RekeyRequest, Rekeyed, Rekeying, StoreError};

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        let text = format!("{}: \"rekey\" takes no paths; the data folder is --data", extra.display());
        return Err(UsageError(text).into());
    }
    let data = data_folder(arguments);
    if !data.join("clients").is_dir() {
        return Err(OperatorError::NoServer { folder: data }.into());
    }
    let from = KeyPlace::of(arguments, CURRENT, &data)?;
    let to = match (KeyPlace::of(arguments, NEW, &data)?, arguments.is_on("plain")) {
        (Some(place), false) => Some(place),
        (None, true) => None,
        _ => {
            let text = "\"rekey\" needs --new-storage-key-file FILE (or --new-storage-key-command CMD), or --plain";
            return Err(UsageError(text.into()).into());
        }
    };
    let from = from.map(|place| place.read()).transpose()?;
    let held = Rekeying::begin(&data, &Disk::real()).map_err(refused)?;
    let to = match to {
        // No key is made that nothing would be sealed with.
        Some(place) if place.is_missing() => {
            held.check_for_new_key(&from).map_err(refused)?;
            Some(place.read_or_make()?)
        }
        Some(place) => Some(place.read()?),
        None => None,
    };
    let request = RekeyRequest { from, to };
    let done = held.run(&Disk::real(), &request, &mut |done| {
        let totals = Totals { files_done: done.files, bytes_done: done.bytes, ..Totals::default() };
        output.event(Event::Progress { totals, current_file: &[] });
        !shutdown.is_requested()
    });
    output.end_progress();
    conclude(&done.map_err(refused)?, &request, output)
}

fn refused(error: StoreError) -> CliError {
    CliError::Server(ServerError::Store(error))
}

fn conclude(done: &Rekeyed, request: &RekeyRequest, output: &Output) -> Result<ExitCode, CliError> {
    let code = match (done.is_cut_short, done.damaged.is_empty()) {
        (true, _) => ExitCode::Interrupted,
        (false, false) => ExitCode::Integrity,
        (false, true) => ExitCode::Done,
    };
    for path in &done.damaged {
        let row = json!({ "file": path.display().to_string(), "reason": "it is damaged" });
        output.damaged_file(&row, &format!("{}: it is damaged, and stays so", path.display()));
    }
    let key = request.to.as_ref().map(|key| key.id().to_string());
    let end = match (done.is_cut_short, &key) {
        (true, _) => "interrupted: run the same command again".to_string(),
        (false, Some(key)) => format!("the store is sealed with the storage key {key}"),
        (false, None) => "nothing is sealed any more".to_string(),
    };
    let uploads = match done.uploads {
        0 => String::new(),
        count => format!(", {} removed", count_text(count, "unfinished upload")),
    };
    let text =
        format!("{}, {} written anew{uploads}: {end}", count_text(done.files, "file"), bytes_text(done.bytes));
    let data = json!({
        "files": done.files, "bytes": done.bytes, "uploads_removed": done.uploads, "damaged": done.damaged.len(),
        "key": key, "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}
