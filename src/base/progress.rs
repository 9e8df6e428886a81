//! What a job tells whoever watches it: phases, progress and the fate of single files. The layers below
//! report into a [`ProgressSink`] and never know who looks.

/// Below this a rate says nothing.
const SHORTEST_SECONDS: f64 = 0.001;

/// Bytes in a second; 0 where nothing was moved, or in no time that can be measured.
pub fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds < SHORTEST_SECONDS { 0.0 } else { bytes as f64 / seconds }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Ready,
    Connect,
    BackupInProgress,
    Cleanup,
    Completed,
    Failed,
}

impl Phase {
    /// The word on the page and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Ready => "READY",
            Phase::Connect => "CONNECT",
            Phase::BackupInProgress => "BACKUP_IN_PROGRESS",
            Phase::Cleanup => "CLEANUP",
            Phase::Completed => "COMPLETED",
            Phase::Failed => "FAILED",
        }
    }
}

/// How far a job has come. Totals grow while the walk is still finding files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Whether the totals are final.
    pub counted: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Phase {
        phase: Phase,
        message: &'a str,
    },
    Progress {
        totals: Totals,
        current_file: &'a [u8],
    },
    /// A file arrived whole at the other side, or was restored whole.
    FileReceipt {
        path: &'a [u8],
        bytes: u64,
        crc32: u32,
        blake3: [u8; 32],
    },
    /// A file was left out or could not be handled; the job goes on.
    FileError {
        path: &'a [u8],
        reason: &'a str,
    },
    /// Something that by its kind has nothing to back up: no error.
    FileSkipped {
        path: &'a [u8],
        reason: &'a str,
    },
    /// A server's key was met for the first time: shown whatever else is not.
    FirstContact {
        message: &'a str,
    },
    /// Something that a person must know: shown whatever else is not.
    Warning {
        message: &'a str,
    },
    /// Something a person may want to know; nothing was lost.
    Notice {
        message: &'a str,
    },
}

/// Takes events from any thread. Must not block for long: the job waits for it.
pub trait ProgressSink: Send + Sync {
    fn event(&self, event: Event<'_>);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl ProgressSink for Silent {
    fn event(&self, _event: Event<'_>) {}
}
