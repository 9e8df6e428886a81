//! One job: what it does, where it stands, and what is told about it. Its state is behind one lock that is never
//! held while anybody is told.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::parts::PartFiles;
use super::peers::Peer;
use super::progress::Progress;
use super::upload::BrowserFiles;
use crate::base::ids::{UploadId, hex, random_array};
use crate::base::progress::Phase;
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;
use crate::client::json::put_path;
use crate::protocol::message::Selection;

/// Files that are named with the reason why they were left out; all are counted.
const ERRORS_MAX: usize = 100;

/// What a job does.
pub enum Work {
    /// Backs paths of this host up.
    Paths { paths: Vec<PathBuf>, tags: Vec<String>, full: bool },
    /// Stores what the browser sends.
    Files(Arc<BrowserFiles>),
    /// Stores the parts of one request.
    Parts(Arc<PartFiles>),
    /// Gives a snapshot back.
    Restore { selection: Selection, to: PathBuf },
}

impl Work {
    pub fn kind(&self) -> &'static str {
        match self {
            Work::Paths { .. } => "backup",
            Work::Files(_) | Work::Parts(_) => "upload",
            Work::Restore { .. } => "restore",
        }
    }

    pub fn can_pause(&self) -> bool {
        !matches!(self, Work::Parts(_))
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Queued,
    Running,
    Paused,
    Completed,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn word(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed | JobState::Cancelled)
    }
}

/// What a running job is to become when its run has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Pause,
    Cancel,
}

/// One job.
pub struct Job {
    pub id: String,
    pub peer: Arc<Peer>,
    pub work: Work,
    pub label: String,
    /// What is stored goes into the vault.
    pub vault: bool,
    created: Timestamp,
    live: Mutex<Live>,
    changed: Condvar,
}

/// What changes in a job.
pub struct Live {
    pub state: JobState,
    pub phase: Phase,
    pub message: String,
    pub progress: Progress,
    pub snapshots: Vec<String>,
    pub error: Option<String>,
    pub intent: Option<Intent>,
    /// Of the run that goes on.
    pub shutdown: Shutdown,
    /// What the next run goes on with.
    pub upload: Option<UploadId>,
    pub selection: Option<Selection>,
    error_count: u64,
    errors: Vec<Value>,
    updated: Timestamp,
    told: Option<Instant>,
}

impl Job {
    pub fn new(peer: Arc<Peer>, work: Work, label: String, vault: bool, weights: [f64; 3]) -> Job {
        let live = Live {
            state: JobState::Queued,
            phase: Phase::Ready,
            message: "waiting for its turn".into(),
            progress: Progress::new(weights),
            snapshots: Vec::new(),
            error: None,
            intent: None,
            shutdown: Shutdown::new(),
            upload: None,
            selection: None,
            error_count: 0,
            errors: Vec::new(),
            updated: Timestamp::now(),
            told: None,
        };
        Job {
            id: hex(&random_array::<8>()),
            peer,
            work,
            label,
            vault,
            created: Timestamp::now(),
            live: Mutex::new(live),
            changed: Condvar::new(),
        }
    }

    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> JobState {
        self.live().state
    }

    /// Changes what is in `live`, and lets those know who wait for it.
    pub fn change<R>(&self, change: impl FnOnce(&mut Live) -> R) -> R {
        let mut live = self.live();
        let result = change(&mut live);
        live.updated = Timestamp::now();
        self.changed.notify_all();
        result
    }

    /// Waits until the job fits, a while at most; says whether it does.
    pub fn wait_until(&self, limit: Duration, fits: impl Fn(JobState) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut live = self.live();
        while !fits(live.state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            live = self.changed.wait_timeout(live, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The status object, without what is about the whole bridge.
    pub fn status_json(&self) -> Value {
        let live = self.live();
        json!({
            "job_id": self.id,
            "kind": self.work.kind(),
            "state": live.state.word(),
            "phase": live.phase.word(),
            "message": live.message,
            "progress": live.progress.json(),
            "last_updated": live.updated.to_string(),
        })
    }

    /// The job object, without what is about the whole bridge.
    pub fn json(&self) -> Value {
        let mut data = self.status_json();
        let live = self.live();
        data["label"] = json!(self.label);
        data["vault"] = json!(self.vault);
        data["server"] = self.peer.json();
        data["created"] = json!(self.created.to_string());
        data["snapshot"] = json!(live.snapshots.last());
        data["error"] = json!(live.error);
        data["error_count"] = json!(live.error_count);
        data["errors"] = json!(live.errors);
        drop(live);
        data["paths"] = match &self.work {
            Work::Paths { paths, .. } => paths.iter().map(|path| path.to_string_lossy()).collect(),
            Work::Restore { to, .. } => json!([to.to_string_lossy()]),
            Work::Files(_) | Work::Parts(_) => json!([]),
        };
        data["upload"] = match &self.work {
            Work::Files(files) => upload_json(files),
            _ => Value::Null,
        };
        data
    }
}

fn upload_json(files: &BrowserFiles) -> Value {
    let state = files.state();
    let mut data = json!({
        "files": state.files,
        "wanted": state.wanted.as_ref().map(|(index, _)| index),
        "wanted_path": null,
        "sent": state.sent,
        "held": state.held,
        "bytes_received": state.bytes,
    });
    if let Some((_, path)) = &state.wanted {
        put_path(&mut data, "wanted_path", relative(path.as_bytes()));
    }
    data
}

/// A path as the page named it: without the root of uploads.
pub fn relative(path: &[u8]) -> &[u8] {
    path.splitn(2, |byte| *byte == b'/').nth(1).unwrap_or(path)
}

impl Live {
    pub fn note_error(&mut self, path: &[u8], reason: &str) {
        self.error_count += 1;
        if self.errors.len() < ERRORS_MAX {
            let mut data = json!({ "reason": reason });
            put_path(&mut data, "path", path);
            self.errors.push(data);
        }
    }

    /// A run tells anew what it cannot read.
    pub fn forget_errors(&mut self) {
        self.error_count = 0;
        self.errors.clear();
    }

    /// Whether progress may be told again: not more often than once in `interval`.
    pub fn may_tell(&mut self, interval: Duration) -> bool {
        let may = self.told.is_none_or(|told| told.elapsed() >= interval);
        if may {
            self.told = Some(Instant::now());
        }
        may
    }
}
