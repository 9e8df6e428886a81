//! What can go wrong in the store, told apart by whose fault it is: what the peer sent, what lies on the
//! disk, the disk itself, or the request. Every variant names the thing; the message ends with the next
//! step where there is one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::at_rest::Unsealable;
use crate::base::amount::Size;
use crate::base::codec::DecodeError;
use crate::base::ids::{SnapshotId, UploadId};
use crate::crypto::KeyId;

#[derive(Debug)]
pub enum StoreError {
    /// The peer sent something that this place of the conversation does not allow.
    OutOfPlace { problem: String },
    /// The peer sent bytes that are not what they should be.
    Malformed { what: String, source: DecodeError },
    /// The peer sent entries that do not have the hash it named, or a content that never matched its sums.
    Mismatch { what: String },
    /// A newer session took the upload over.
    Superseded { upload: UploadId },
    /// An older session of the upload does not let go of it.
    StillOpen { upload: UploadId },
    /// The disk, or the quota of the account the server runs under, is full.
    DiskFull { path: PathBuf, source: io::Error },
    /// Something kept fails its checksum or its format.
    Damaged { path: PathBuf, problem: String },
    /// A snapshot whose head is damaged, gone, or written by a newer program.
    DamagedHead { snapshot: SnapshotId, problem: String },
    /// Written by a newer program.
    NewerFormat { path: PathBuf, version: u64 },
    /// What was asked for is not there; the text says what, and what to do.
    NotFound { what: String },
    /// A snapshot prefix that fits several.
    Ambiguous { selector: String, matches: Vec<String> },
    /// The snapshot was there a moment ago.
    Dropped { snapshot: SnapshotId },
    /// Another process holds the data folder.
    Locked { path: PathBuf, holder: String },
    /// Part of the data folder lies on another file system, where a rename cannot lead.
    SeveralFileSystems { path: PathBuf },
    /// The user name belongs to another key.
    NameTaken { name: String },
    /// The client has sessions, under which it cannot be removed.
    InUse { name: String, sessions: usize },
    /// The client's quota does not allow more.
    QuotaExceeded { quota: u64 },
    /// The store's contents are sealed, and the storage key was not given, or another one.
    StorageKeyWanted { path: PathBuf, wanted: KeyId, given: Option<KeyId> },
    /// The storage key is being exchanged.
    RekeyUnfinished { path: PathBuf, keys: Vec<KeyId> },
    /// A storage key was given for a store that is not sealed.
    NotSealed { path: PathBuf },
    /// The operating system refused.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl StoreError {
    pub(crate) fn out_of_place(problem: impl Into<String>) -> StoreError {
        StoreError::OutOfPlace { problem: problem.into() }
    }

    pub(crate) fn damaged(path: &Path, problem: impl fmt::Display) -> StoreError {
        StoreError::Damaged { path: path.to_path_buf(), problem: problem.to_string() }
    }

    /// Whether something kept is not what it should be, so that the rest of it may still be looked at.
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. } | StoreError::DamagedHead { .. } | StoreError::NewerFormat { .. })
    }

    /// What an error means for a file that something else in the store names: where the file is gone or its
    /// place on the disk cannot be read, it is damaged.
    pub(crate) fn of_named_file(self) -> StoreError {
        let is_lost = |source: &io::Error| {
            source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        };
        match self {
            StoreError::Io { path, source, .. } if is_lost(&source) => {
                StoreError::Damaged { path, problem: source.to_string() }
            }
            other => other,
        }
    }

    /// Whether the peer broke the rules of the conversation, so that its connection should end.
    pub fn is_peer_fault(&self) -> bool {
        matches!(self, StoreError::OutOfPlace { .. } | StoreError::Malformed { .. } | StoreError::Mismatch { .. })
    }

    fn from_io(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        let path = path.to_path_buf();
        if let Some(unsealable) = source.get_ref().and_then(|inner| inner.downcast_ref::<Unsealable>()) {
            return StoreError::Damaged { problem: unsealable.to_string(), path };
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path, source },
            _ => StoreError::Io { doing, path, source },
        }
    }
}

/// Turns an error of the operating system into one that says what was being done, and where.
pub(crate) trait At<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::from_io(doing, path, source))
    }
}

/// None for what is not there.
pub(crate) fn if_there<T>(found: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::OutOfPlace { problem } => write!(f, "the peer broke the protocol: {problem}"),
            StoreError::Malformed { what, source } => write!(f, "the peer sent a malformed {what}: {source}"),
            StoreError::Mismatch { what } => write!(f, "{what} arrived other than announced"),
            StoreError::Superseded { upload } => write!(f, "a newer session took upload {upload} over"),
            StoreError::StillOpen { upload } => {
                write!(f, "an older session of upload {upload} is still ending: try again")
            }
            StoreError::DiskFull { path, .. } => {
                write!(f, "the disk is full at {}: free some space, then run the backup again", path.display())
            }
            StoreError::Damaged { path, problem } => write!(f, "{} is damaged: {problem}", path.display()),
            StoreError::DamagedHead { snapshot, problem } => {
                write!(f, "snapshot {snapshot} cannot be read: {problem}")
            }
            StoreError::NewerFormat { path, version } => write!(
                f,
                "{} has format version {version}, which a newer cyberbackup wrote: use that one",
                path.display()
            ),
            StoreError::NotFound { what } => f.write_str(what),
            StoreError::Ambiguous { selector, matches } => {
                write!(f, "\"{selector}\" fits several snapshots ({}): give more of the id", matches.join(", "))
            }
            StoreError::Dropped { snapshot } => {
                write!(
                    f,
                    "snapshot {snapshot} has been dropped by a prune: \"cyberbackup snapshots\" lists the others"
                )
            }
            StoreError::Locked { path, holder } => write!(
                f,
                "{} is in use by {holder}: stop it, or name another data folder with --data",
                path.display()
            ),
            StoreError::SeveralFileSystems { path } => write!(
                f,
                "{} lies on another file system than the data folder: put the whole folder on one",
                path.display()
            ),
            StoreError::NameTaken { name } => {
                write!(f, "the name {name} belongs to another key: use that key, or another name")
            }
            StoreError::InUse { name, sessions: 1 } => {
                write!(f, "{name} has a session: wait for its end, or reset the client first, which ends it")
            }
            StoreError::InUse { name, sessions } => write!(
                f,
                "{name} has {sessions} sessions: wait for their end, or reset the client first, which ends them"
            ),
            StoreError::QuotaExceeded { quota } => write!(
                f,
                "the quota of {} is used up: ask the server's operator to raise it or to prune (\"cyberbackup clients \
                 quota NAME SIZE\"), then run the same command again: it goes on where it was",
                Size(*quota)
            ),
            StoreError::StorageKeyWanted { path, wanted, given: None } => write!(
                f,
                "{} is sealed at rest: give the storage key with the id {wanted} (--storage-key-file, or \
                 --storage-key-command)",
                path.display()
            ),
            StoreError::StorageKeyWanted { path, wanted, given: Some(given) } => write!(
                f,
                "{} is sealed at rest with the storage key {wanted}, and the one given is {given}: give that key",
                path.display()
            ),
            StoreError::RekeyUnfinished { path, keys } => write!(
                f,
                "the storage key of {} is being exchanged (with {}): run the same \"cyberbackup rekey\" again, with the \
                 same keys, which finishes it, or with the two exchanged, which goes back",
                path.display(),
                keys.iter().map(KeyId::to_string).collect::<Vec<_>>().join(" and ")
            ),
            StoreError::NotSealed { path } => write!(
                f,
                "{} is not sealed, and a storage key was given: leave it out, or have what is new sealed with \
                 \"cyberbackup server --encrypt-at-rest\"",
                path.display()
            ),
            StoreError::Io { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Malformed { source, .. } => Some(source),
            StoreError::DiskFull { source, .. } | StoreError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_says_what_to_do() {
        let full: io::Result<()> = Err(rustix::io::Errno::NOSPC.into());
        let error = full.at("write", Path::new("server/incoming")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the disk is full at server/incoming: free some space, then run the backup again"
        );
        let quota: io::Result<()> = Err(rustix::io::Errno::DQUOT.into());
        assert!(matches!(quota.at("write", Path::new("x")), Err(StoreError::DiskFull { .. })));
    }

    #[test]
    fn messages_name_the_thing_the_cause_and_the_next_step() {
        let locked = StoreError::Locked { path: "server".into(), holder: "process 7".into() };
        assert_eq!(
            locked.to_string(),
            "server is in use by process 7: stop it, or name another data folder with --data"
        );
        let taken = StoreError::NameTaken { name: "ada".into() };
        assert_eq!(taken.to_string(), "the name ada belongs to another key: use that key, or another name");
    }
}
