//! `export`: the operator's way to a client's data.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::operator::data_folder;
use super::output::{Output, bytes_text, count_text, errors_text};
use super::setup::CliError;
use super::storage_key;
use crate::base::ids::UserName;
use crate::base::shutdown::Shutdown;
use crate::client::{ClientError, ExitCode, ExportSummary, Exporting, Taken};
use crate::server::{ExportRequest, export};
use crate::storage::StorageKeys;

const TAR_BUFFER_BYTES: usize = 256 * 1024;

/// Whether the command's standard output is the tar stream and nothing else.
pub fn is_to_stdout(command: &str, arguments: &Arguments) -> bool {
    command == "export" && arguments.value("tar") == Some(OsStr::new("-"))
}

/// Where the snapshot goes.
enum Place {
    Tree(PathBuf),
    TarFile(PathBuf),
    TarStdout,
}

impl Place {
    fn of(arguments: &Arguments, dir: Option<&OsStr>) -> Result<Place, UsageError> {
        match (arguments.path("tar"), dir) {
            (Some(_), Some(_)) => Err(UsageError("a folder and --tar exclude each other: leave one out".into())),
            (Some(file), None) if file.as_os_str() == "-" => Ok(Place::TarStdout),
            (Some(file), None) => Ok(Place::TarFile(file)),
            (None, Some(dir)) => Ok(Place::Tree(dir.into())),
            (None, None) => Err(UsageError("where to export to is not said: give a folder, or --tar FILE".into())),
        }
    }

    fn is_tar(&self) -> bool {
        !matches!(self, Place::Tree(_))
    }

    fn show(&self) -> String {
        match self {
            Place::Tree(path) | Place::TarFile(path) => path.display().to_string(),
            Place::TarStdout => "standard output".to_string(),
        }
    }
}

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let (snapshot, dir) = match &arguments.positional[..] {
        [snapshot] => (snapshot, None),
        [snapshot, dir] => (snapshot, Some(dir.as_os_str())),
        _ => return Err(UsageError("\"export\" takes a snapshot and a folder: export SNAPSHOT DIR".into()).into()),
    };
    let snapshot = snapshot.to_str().ok_or_else(|| UsageError("the snapshot's id is not valid UTF-8".into()))?;
    let client: Option<UserName> = arguments.parsed("client")?;
    let place = Place::of(arguments, dir)?;
    let request = ExportRequest { client, snapshot: snapshot.to_string(), checked_first: place.is_tar() };
    let data = data_folder(arguments);
    let keys = storage_key::given(arguments, &data)?;
    let exporting = begin(&place, output, shutdown)?;
    let summary = receive(&data, keys, &request, exporting)?;
    output.end_progress();
    conclude(&summary, &place, output)
}

fn begin<'a>(place: &Place, output: &'a Output, shutdown: &'a Shutdown) -> Result<Exporting<'a>, CliError> {
    let file = match place {
        Place::Tree(to) => return Ok(Exporting::to_tree(to, output, shutdown)?),
        Place::TarFile(path) => File::create(path),
        // Not the library's handle, which looks for line ends in everything.
        Place::TarStdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
    };
    let failed = |source| ClientError::Io { doing: format!("write {}", place.show()), source };
    let tar = TarFile { buffer: BufWriter::with_capacity(TAR_BUFFER_BYTES, file.map_err(failed)?) };
    Ok(Exporting::to_tar(tar, output, shutdown))
}

/// A tar stream's file: whole on the disk once it was flushed.
struct TarFile {
    buffer: BufWriter<File>,
}

impl Write for TarFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()?;
        match self.buffer.get_ref().metadata()?.is_file() {
            true => self.buffer.get_ref().sync_all(),
            false => Ok(()),
        }
    }
}

fn receive(
    data: &Path,
    keys: StorageKeys,
    request: &ExportRequest,
    exporting: Exporting<'_>,
) -> Result<ExportSummary, CliError> {
    let mut state = Some(Ok(Taken::More(Box::new(exporting))));
    export(data, keys, request, &mut |batch| {
        let next = match state.take() {
            Some(Ok(Taken::More(exporting))) => exporting.take(batch),
            Some(ended) => ended,
            None => return false,
        };
        let goes_on = matches!(next, Ok(Taken::More(_)));
        state = Some(next);
        goes_on
    })?;
    match state {
        Some(Ok(Taken::All(summary))) => Ok(*summary),
        Some(Err(error)) => Err(error.into()),
        _ => {
            let text = "the server ended before the snapshot did; run this again";
            Err(ClientError::Integrity(text.into()).into())
        }
    }
}

fn conclude(summary: &ExportSummary, place: &Place, output: &Output) -> Result<ExitCode, CliError> {
    let code = match summary {
        ExportSummary { damaged: 1.., .. } => ExitCode::Integrity,
        ExportSummary { errors: 1.., .. } => ExitCode::Partial,
        _ => ExitCode::Done,
    };
    let errors = errors_text(summary.errors);
    let text = format!(
        "exported snapshot {} to {}: {}, {} in {:.2} s{errors}",
        summary.snapshot.id,
        place.show(),
        count_text(summary.files, "file"),
        bytes_text(summary.bytes),
        summary.elapsed.as_secs_f64(),
    );
    if let Place::TarStdout = place {
        output.say(&text);
        return Ok(code);
    }
    let data = json!({
        "snapshot": summary.snapshot.id,
        "files": summary.files,
        "folders": summary.folders,
        "links": summary.links,
        "bytes": summary.bytes,
        "errors": summary.errors,
        "damaged": summary.damaged,
        "seconds": summary.elapsed.as_secs_f64(),
        "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}
