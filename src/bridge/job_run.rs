//! One run of a job: the client library at work, and what it tells on the way.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::app::App;
use super::error::ApiError;
use super::job::{Intent, Job, Work};
use super::parts::PartFiles;
use super::upload::UPLOADS;
use crate::base::path::{EntryPath, display_bytes};
use crate::base::progress::{Event, Phase, ProgressSink};
use crate::base::shutdown::Shutdown;
use crate::client::given::GivenFiles;
use crate::client::json::put_path;
use crate::client::last_result::{code_of, keep_status, summary_json};
use crate::client::roots::{ResolvedRoots, Root, resolve_roots};
use crate::client::scan::{ScanOptions, ScanReport, ScanSink, ScannedRange, scan};
use crate::client::vault::{LATEST, VaultAccess};
use crate::client::{
    BackupOptions, BackupSummary, Client, ClientError, Restore, RetryPolicy, backup, check_backup,
    unfinished_upload,
};

/// How long a state folder that another run holds is waited for.
const STATE_WAIT_MAX: Duration = Duration::from_secs(600);

/// How a run ended.
pub enum RunEnd {
    Done(String),
    /// It was to stop: what has arrived can be gone on with.
    Stopped,
    Failed(String),
}

/// Runs a job once.
pub fn run(app: &Arc<App>, job: &Arc<Job>) -> RunEnd {
    let shutdown = job.live().shutdown.clone();
    let result = match &job.work {
        Work::Paths { .. } => paths(app, job, &shutdown).map(RunEnd::Done),
        Work::Files(files) => {
            uploaded(app, job, &shutdown, files.clone()).map(|summary| RunEnd::Done(text_of(&summary)))
        }
        Work::Parts(parts) => all_parts(app, job, &shutdown, parts).map(RunEnd::Done),
        Work::Restore { .. } => restored(app, job, &shutdown),
    };
    if !shutdown.is_requested() {
        job.peer.note(!matches!(&result, Err(error) if error.exit_code() == crate::client::ExitCode::NoConnection));
    }
    match result {
        Ok(end) => end,
        Err(ClientError::Interrupted) => RunEnd::Stopped,
        Err(_) if shutdown.is_requested() => RunEnd::Stopped,
        Err(error) => RunEnd::Failed(ApiError::of(&error).text),
    }
}

fn text_of(summary: &BackupSummary) -> String {
    let stored = stored_text(summary.scanned.files, summary.scanned.bytes);
    match summary.unreadable {
        0 => stored,
        count => format!("{stored}; {count} could not be read"),
    }
}

fn stored_text(files: u64, bytes: u64) -> String {
    format!("stored: {}, {}", count_text(files, "file"), count_text(bytes, "byte"))
}

/// `1 file`, `2 files`
fn count_text(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Backs paths of this host up, and counts them beside that: a percentage needs to know how much there is.
fn paths(app: &Arc<App>, job: &Arc<Job>, shutdown: &Shutdown) -> Result<String, ClientError> {
    let Work::Paths { paths, tags, full } = &job.work else { unreachable!("the caller has looked") };
    let resolved = resolve_roots(paths, std::path::Path::new("/"))?;
    let mut options = BackupOptions::new(resolved);
    (options.tags, options.full) = (tags.clone(), *full);
    options.excluded = app.own_folders();
    let counting = Shutdown::new();
    let result = thread::scope(|scope| {
        let scan_options = ScanOptions::new(options.excluded.clone(), counting.clone(), job.peer.folder.clone());
        let roots = options.roots.clone();
        let (app_of_count, job_of_count, stop) = (app.clone(), job.clone(), counting.clone());
        let count = move || {
            let end = scan(&roots, &scan_options, &mut CountSink(stop));
            if end.complete {
                job_of_count.change(|live| live.progress.counted(end.totals.files, end.totals.bytes));
                app_of_count.tell_progress(&job_of_count);
            }
        };
        // Without it the percentage waits for the walk of the backup itself.
        let counter = thread::Builder::new().name("count".into()).spawn_scoped(scope, count);
        let result = store(app, job, shutdown, &mut options, app.peers.settings().retry);
        counting.request();
        drop(counter);
        result
    });
    result.map(|summary| text_of(&summary))
}

/// A walk that only counts.
struct CountSink(Shutdown);

impl ScanSink for CountSink {
    fn range(&mut self, _: ScannedRange) -> ControlFlow<()> {
        match self.0.is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn report(&mut self, _: ScanReport<'_>) {}
}

/// The options of a backup of what is handed over.
fn given_options(files: Arc<dyn GivenFiles>) -> BackupOptions {
    let root = EntryPath::parse(UPLOADS.as_bytes()).map(Root::Path);
    let resolved = ResolvedRoots { roots: root.into_iter().collect(), missing: Vec::new() };
    BackupOptions { given: Some(files), ..BackupOptions::new(resolved) }
}

fn uploaded(
    app: &Arc<App>,
    job: &Arc<Job>,
    shutdown: &Shutdown,
    files: Arc<super::upload::BrowserFiles>,
) -> Result<BackupSummary, ClientError> {
    job.change(|live| live.progress.counted(files.len() as u64, files.bytes()));
    let mut options = given_options(files);
    store(app, job, shutdown, &mut options, app.peers.settings().retry)
}

/// One snapshot after the other, as the names of parts demand.
fn all_parts(
    app: &Arc<App>,
    job: &Arc<Job>,
    shutdown: &Shutdown,
    parts: &Arc<PartFiles>,
) -> Result<String, ClientError> {
    let once = RetryPolicy { retries: 0, ..app.peers.settings().retry };
    while parts.wait_for_part().map_err(|_| ClientError::Interrupted)? {
        store(app, job, shutdown, &mut given_options(parts.clone()), once)?;
        parts.stored();
    }
    let (files, bytes) = parts.counts();
    Ok(stored_text(files, bytes))
}

/// Opens the client and makes a snapshot. Where that is cut short, the job keeps what the next run goes on with.
fn store(
    app: &Arc<App>,
    job: &Arc<Job>,
    shutdown: &Shutdown,
    options: &mut BackupOptions,
    retry: RetryPolicy,
) -> Result<BackupSummary, ClientError> {
    options.host = app.config.host_name.clone();
    options.label = job.label.clone();
    options.upload = job.live().upload;
    if job.vault {
        let key = app.vault.put_key().map_err(|error| ClientError::Impossible(error.text))?;
        options.vault = Some(Arc::new(key));
    }
    check_backup(options)?;
    let sink = JobSink { app, job };
    sink.event(Event::Phase { phase: Phase::Connect, message: "connecting" });
    let state = job.peer.lock_state("gui", STATE_WAIT_MAX, shutdown)?;
    let client_options = job.peer.options(app.peers.settings(), retry);
    let mut client = Client::open(client_options, state, &sink, shutdown.clone())?;
    let result = backup(&mut client, options);
    note_result(job, &client, &result);
    match &result {
        Ok(summary) => job.change(|live| {
            live.upload = None;
            live.snapshots.extend(summary.snapshot.as_ref().map(|row| row.id.to_string()));
        }),
        Err(_) => {
            let upload = unfinished_upload(&client.state, options)?;
            job.change(|live| live.upload = upload);
        }
    }
    result
}

/// Leaves in `status.json` how a backup ended. One that is paused has not.
fn note_result(job: &Job, client: &Client<'_>, result: &Result<BackupSummary, ClientError>) {
    if result.is_err() && job.live().intent == Some(Intent::Pause) {
        return;
    }
    let code = code_of(result);
    keep_status(&client.state, client.sink, result.as_ref().map(|summary| summary_json(summary, code)), code);
}

fn restored(app: &Arc<App>, job: &Arc<Job>, shutdown: &Shutdown) -> Result<RunEnd, ClientError> {
    let Work::Restore { selection, to } = &job.work else { unreachable!("the caller has looked") };
    let sink = JobSink { app, job };
    let settings = app.peers.settings();
    let state = crate::client::state::StateFolder::look(&job.peer.folder);
    let options = job.peer.options(settings, settings.retry);
    let mut client = Client::open(options, state, &sink, shutdown.clone())?;
    client.vault = app.vault.access(Some(&job.peer.folder));
    // A job that was paused goes on with the snapshot that it began with, whatever is the latest now.
    let selection = job.live().selection.clone().unwrap_or_else(|| selection.clone());
    let is_latest = selection.snapshot == LATEST;
    let mut restore = Restore::create(selection, to, &sink)?;
    let result = client.connect().and_then(|session| restore.run_to_end(&mut client, session));
    job.change(|live| live.selection = Some(restore.selection().clone()));
    let compared = client.vault.as_deref().map(VaultAccess::compared).unwrap_or_default();
    let is_doubtful = is_latest && compared.is_newest_doubtful;
    for text in compared.findings.iter().map(ToString::to_string) {
        sink.event(match is_doubtful {
            true => Event::FileError { path: &[], reason: &text },
            false => Event::Warning { message: &text },
        });
    }
    let summary = result?;
    let errors = summary.errors + u64::from(is_doubtful);
    let text = format!("restored: {}, {}", count_text(summary.files, "file"), count_text(summary.bytes, "byte"));
    match errors {
        0 => Ok(RunEnd::Done(text)),
        // As from the command line, it has not done what was asked for.
        count => Ok(RunEnd::Failed(format!("{text}; {}", count_text(count, "error")))),
    }
}

/// Takes what a run tells into its job, and passes it on to whoever watches.
struct JobSink<'a> {
    app: &'a Arc<App>,
    job: &'a Arc<Job>,
}

impl ProgressSink for JobSink<'_> {
    fn event(&self, event: Event<'_>) {
        let (app, job) = (self.app, self.job);
        match event {
            Event::Phase { phase, message } => {
                let is_new = job.change(|live| {
                    let is_new = live.phase != phase;
                    (live.phase, live.message) = (phase, message.to_string());
                    live.progress.enter(phase);
                    is_new
                });
                if let (Phase::Cleanup, Work::Files(files)) = (phase, &job.work) {
                    files.finish();
                }
                if is_new {
                    app.tell_state(job);
                }
            }
            Event::Progress { totals, current_file } => {
                let interval = Duration::from_millis(app.settings.page().progress_interval);
                let may_tell = job.change(|live| {
                    live.progress.update(totals, current_file);
                    live.may_tell(interval)
                });
                if may_tell {
                    app.tell_progress(job);
                }
            }
            Event::FileReceipt { path, bytes, crc32, blake3 } => app.note_receipt(job, path, bytes, crc32, &blake3),
            // A content that was cut short by the wish to stop: the next run sends it.
            Event::FileError { path, .. } if job.live().shutdown.is_requested() => {
                log::info!("job {}: {}: not read to its end", job.id, display_bytes(path));
            }
            Event::FileError { path, reason } => {
                job.change(|live| live.note_error(path, reason));
                log::warn!("job {}: {}: {reason}", job.id, display_bytes(path));
                app.hub.tell_single("file_error", || {
                    let mut data = json!({ "job_id": job.id, "reason": reason });
                    put_path(&mut data, "path", path);
                    data
                });
            }
            Event::FileSkipped { path, reason } => log::info!("job {}: {}: {reason}", job.id, display_bytes(path)),
            Event::Warning { message } => log::warn!("job {}: {message}", job.id),
            Event::FirstContact { message } | Event::Notice { message } => log::info!("job {}: {message}", job.id),
        }
    }
}
