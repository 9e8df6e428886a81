//! The queue: jobs in the order in which they came, one running for each server. Whatever changes a job's state
//! stands here, so that each change is told once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::job::{Intent, Job, JobState, Work};
use super::job_run::{self, RunEnd};
use crate::base::progress::Phase;

/// Jobs that wait, run or rest.
const OPEN_JOBS_MAX: usize = 32;
/// Ended jobs that are remembered.
const ENDED_JOBS_MAX: usize = 100;
/// How long a run may take to stop before the answer goes out without that.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// All jobs of this run of the bridge.
#[derive(Default)]
pub struct Jobs {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Oldest first.
    jobs: VecDeque<Arc<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// No job is started any more.
    closed: bool,
}

impl Jobs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.table().jobs.iter().cloned().collect()
    }

    pub fn find(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let found = self.table().jobs.iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| ApiError::missing("there is no such job, or it is forgotten"))
    }

    /// The oldest job that runs.
    pub fn running(&self) -> Option<Arc<Job>> {
        self.list().into_iter().find(|job| job.state() == JobState::Running)
    }

    pub fn counts(&self) -> Value {
        let mut counts = BTreeMap::from([("queued", 0), ("running", 0), ("paused", 0)]);
        for job in self.list() {
            if let Some(count) = counts.get_mut(job.state().word()) {
                *count += 1;
            }
        }
        json!(counts)
    }
}

/// Puts a job into the queue.
pub fn submit(app: &Arc<App>, job: Job) -> Result<Arc<Job>, ApiError> {
    let job = Arc::new(job);
    // Before anybody can find it and start it.
    if let Work::Files(files) = &job.work {
        files.start();
    }
    {
        let mut table = app.jobs.table();
        let (open, ended): (Vec<_>, Vec<_>) = table.jobs.drain(..).partition(|job| !job.state().has_ended());
        let forgotten = ended.len().saturating_sub(ENDED_JOBS_MAX);
        let is_full = open.len() >= OPEN_JOBS_MAX;
        table.jobs = ended.into_iter().skip(forgotten).chain(open).collect();
        if is_full || table.closed {
            return Err(ApiError::new(
                429,
                format!(
                    "{OPEN_JOBS_MAX} jobs wait, run or are paused already: wait for one to end, or cancel some"
                ),
            ));
        }
        table.jobs.push_back(job.clone());
    }
    log::info!("job {}: {} for {} as {}", job.id, job.work.kind(), job.peer.address(), job.peer.user.as_str());
    app.tell_state(&job);
    start_next(app);
    Ok(job)
}

/// Starts every queued job whose server no other job is busy with.
fn start_next(app: &Arc<App>) {
    let mut started = Vec::new();
    {
        let mut table = app.jobs.table();
        table.threads.retain(|thread| !thread.is_finished());
        if table.closed {
            return;
        }
        let jobs: Vec<Arc<Job>> = table.jobs.iter().cloned().collect();
        for job in &jobs {
            let is_busy =
                jobs.iter().any(|other| other.state() == JobState::Running && other.peer.folder == job.peer.folder);
            if is_busy || !job.change(begin) {
                continue;
            }
            let (app, running) = (app.clone(), job.clone());
            let thread = thread::Builder::new().name(format!("job {}", job.id));
            match thread.spawn(move || run(&app, &running)) {
                Ok(thread) => table.threads.push(thread),
                Err(error) => job.change(|live| {
                    (live.state, live.phase) = (JobState::Failed, Phase::Failed);
                    live.message = format!("no thread could be started: {error}");
                    live.error = Some(live.message.clone());
                }),
            }
            started.push(job.clone());
        }
    }
    for job in started {
        app.tell_state(&job);
    }
}

/// Takes a queued job; says whether it was one.
fn begin(live: &mut super::job::Live) -> bool {
    if live.state != JobState::Queued {
        return false;
    }
    live.state = JobState::Running;
    live.shutdown = crate::base::shutdown::Shutdown::new();
    live.intent = None;
    live.forget_errors();
    live.progress.begin();
    true
}

/// The thread of a running job.
fn run(app: &Arc<App>, job: &Arc<Job>) {
    // A panic in a job is that job's failure.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job_run::run(app, job)));
    let end = ended.unwrap_or_else(|_| RunEnd::Failed("this program failed: its log says more".into()));
    stop_giving(&job.work);
    job.change(|live| finish(live, end));
    let (state, message) = {
        let live = job.live();
        (live.state, live.message.clone())
    };
    log::info!("job {}: {} ({message})", job.id, state.word());
    told_end(app, job, state);
    start_next(app);
    app.tell_ready();
}

fn finish(live: &mut super::job::Live, end: RunEnd) {
    live.progress.end();
    match end {
        RunEnd::Done(message) => {
            (live.state, live.phase, live.message) = (JobState::Completed, Phase::Completed, message);
            live.progress.enter(Phase::Completed);
        }
        // A program that ends leaves its jobs to be gone on with.
        RunEnd::Stopped if live.intent != Some(Intent::Cancel) => {
            live.state = JobState::Paused;
            if live.intent.is_some() {
                live.message = "paused".into();
            }
        }
        RunEnd::Stopped => {
            (live.state, live.phase, live.message) = (JobState::Cancelled, Phase::Failed, "cancelled".into());
        }
        RunEnd::Failed(text) => {
            (live.state, live.phase, live.message) = (JobState::Failed, Phase::Failed, text.clone());
            live.error = Some(text);
        }
    }
}

fn told_end(app: &App, job: &Job, state: JobState) {
    app.tell_state(job);
    if state == JobState::Cancelled {
        app.hub.tell("job_cancelled", || json!({ "job_id": job.id, "message": "cancelled" }));
    }
}

/// Nobody waits for contents of a job that stops. Where it stops by a wish, with its state locked: a run that begins
/// after that is not meant.
fn stop_giving(work: &Work) {
    match work {
        Work::Files(files) => files.stop(),
        Work::Parts(parts) => parts.stop(),
        _ => {}
    }
}

/// Cancels a job, or pauses it; what has arrived stays at the server for a day.
pub fn stop(app: &App, job: &Arc<Job>, intent: Intent) -> Result<(), ApiError> {
    if intent == Intent::Pause && !job.work.can_pause() {
        return Err(ApiError::conflict("this kind of job cannot be paused: cancel it"));
    }
    let was = job.change(|live| {
        let was = live.state;
        match (was, intent) {
            // To pause takes no wish to cancel back.
            (JobState::Running, Intent::Pause) if live.intent == Some(Intent::Cancel) => {
                return JobState::Cancelled;
            }
            (JobState::Running, _) => {
                live.intent = Some(intent);
                // The connection is closed before anybody who waits is let go: see `upload`.
                live.shutdown.request();
            }
            (JobState::Queued | JobState::Paused, Intent::Cancel) => {
                (live.state, live.phase, live.message) = (JobState::Cancelled, Phase::Failed, "cancelled".into());
            }
            (JobState::Queued, Intent::Pause) => (live.state, live.message) = (JobState::Paused, "paused".into()),
            _ => return was,
        }
        stop_giving(&job.work);
        was
    });
    match (was, intent) {
        (JobState::Running, _) => {
            job.wait_until(STOP_WAIT, |state| state != JobState::Running);
            Ok(())
        }
        (JobState::Queued | JobState::Paused, Intent::Cancel) | (JobState::Queued, Intent::Pause) => {
            told_end(app, job, job.state());
            Ok(())
        }
        // As where an upload that was cut off was quicker than the wish.
        (JobState::Paused, Intent::Pause) => Ok(()),
        (was, _) => Err(ApiError::conflict(format!("the job is {}", was.word()))),
    }
}

/// Puts a paused job back into the queue.
pub fn resume(app: &Arc<App>, job: &Arc<Job>) -> Result<(), ApiError> {
    let was = job.change(|live| {
        let was = live.state;
        if was == JobState::Paused {
            // Before anybody can start it.
            if let Work::Files(files) = &job.work {
                files.start();
            }
            (live.state, live.message) = (JobState::Queued, "waiting for its turn".into());
        }
        was
    });
    if was != JobState::Paused {
        return Err(ApiError::conflict(format!("the job is {}, not paused", was.word())));
    }
    app.tell_state(job);
    start_next(app);
    Ok(())
}

/// Stops what runs, so that it can be gone on with, and waits for it.
pub fn close(app: &App) {
    let (jobs, threads) = {
        let mut table = app.jobs.table();
        table.closed = true;
        (table.jobs.clone(), std::mem::take(&mut table.threads))
    };
    for job in jobs {
        job.change(|live| {
            live.shutdown.request();
            stop_giving(&job.work);
        });
    }
    for thread in threads {
        let _ = thread.join();
    }
}
