//! What a start does about what the last run left behind, before anybody is served: an interrupted commit is
//! finished where its head is there and taken back where it is not; uploads that were never committed wait to
//! be resumed, for a day; older ones and temporary files are swept. Contents that nothing explains are reported and left alone.
//!
//! Every step may be cut short and done again: the intent is the last thing to go.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::blocks_writer::{BLOCKS, DELTA};
use super::catalog::ClientState;
use super::error::{At, StoreError};
use super::layout::{
    ClientFolder, Layout, blocks_name, dropped_name, head_name, index_name, names_in, read_small_file,
};
use super::staging::{FILES, INTENT, sweep};
use super::store::Shared;
use crate::base::durable::{Disk, TEMPORARY_PREFIX, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::order::sort;

const INTENT_VERSION: u64 = 1;
const INTENT_BYTES_MAX: u64 = 4 * 1024;

/// What was found and done at the start, one line each, for the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub lines: Vec<String>,
}

/// Which snapshot an upload is becoming: on the disk before anything of it is put into place.
#[derive(Debug, Serialize, Deserialize)]
pub struct Intent {
    version: u64,
    snapshot: SnapshotId,
    upload: UploadId,
}

impl Intent {
    pub fn new(snapshot: SnapshotId, upload: UploadId) -> Intent {
        Intent { version: INTENT_VERSION, snapshot, upload }
    }

    pub(super) fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings and numbers always serialise")
    }

    /// None where there is no intent, or one that was never written to its end: nothing was put into place
    /// then, because it is flushed first.
    ///
    /// # Errors
    /// Whatever else keeps it from being read: nothing may be swept then.
    pub(super) fn read(staging: &Path) -> Result<Option<Intent>, StoreError> {
        let name = std::str::from_utf8(INTENT).expect("the name is a literal");
        match read_small_file(&staging.join(name), INTENT_BYTES_MAX) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(StoreError::Io { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Brings the store into order.
pub fn recover(disk: &Disk, layout: &Layout) -> Result<RecoveryReport, StoreError> {
    let mut report = RecoveryReport::default();
    for name in names_in(&layout.incoming_of_all())? {
        let Some(client) = ClientFolder::parse(&name) else { continue };
        settle_uploads(disk, layout, &client, &mut report)?;
    }
    for name in names_in(&layout.received_of_all())? {
        let Some(client) = ClientFolder::parse(&name) else { continue };
        report_unexplained(layout, &client, &mut report)?;
    }
    for folder in [layout.data(), &layout.clients(), &layout.tokens(), &layout.keys(), &layout.damage()] {
        sweep_temporary(disk, folder)?;
    }
    Ok(report)
}

fn settle_uploads(
    disk: &Disk,
    layout: &Layout,
    client: &ClientFolder,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let incoming = layout.incoming(client);
    let folder = open_folder(&incoming).at("open", &incoming)?;
    for upload in names_in(&incoming)? {
        let staging = incoming.join(&upload);
        let done = match Intent::read(&staging)? {
            None if is_resumable(&staging) => {
                report.lines.push(format!("{client}: an unfinished upload waits to be resumed"));
                continue;
            }
            None => "an unfinished upload was swept".to_string(),
            Some(intent) if is_still_whole(layout, client, &staging, intent.snapshot)? => {
                let upload = open_folder(&staging).at("open", &staging)?;
                disk.remove_file(upload.as_fd(), INTENT).at("empty", &staging)?;
                report.lines.push(format!("{client}: a commit was not begun; its upload waits to be resumed"));
                continue;
            }
            Some(intent) => settle_commit(disk, layout, client, &staging, intent.snapshot)?,
        };
        sweep(disk, folder.as_fd(), &upload).at("remove", &staging)?;
        report.lines.push(format!("{client}: {done}"));
    }
    Ok(())
}

/// How long an unfinished upload waits for a later session.
pub const PARTIAL_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// Unfinished uploads that one client may leave behind; the oldest goes for a newer one.
const LEFT_BEHIND_MAX: usize = 4;

/// Whether the upload has a journal that was written to not too long ago.
fn is_resumable(staging: &Path) -> bool {
    journal_age(staging).is_some_and(|age| age < PARTIAL_TIMEOUT)
}

/// None where there is no journal, or one that tells nothing. A clock that went back counts as no time at all.
fn journal_age(staging: &Path) -> Option<Duration> {
    let metadata = staging.join("journal").symlink_metadata().ok().filter(|metadata| metadata.len() > 0)?;
    let modified = metadata.modified().ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// Sweeps a client's unfinished uploads that nobody has open and that are too old or too many; never `keep`.
pub fn sweep_left_behind(shared: &Shared, state: &ClientState, keep: UploadId) -> Result<(), StoreError> {
    let incoming = shared.layout.incoming(&state.record.folder);
    let folder = open_folder(&incoming).at("open", &incoming)?;
    let mut left: Vec<(Duration, String)> = Vec::new();
    for name in names_in(&incoming)? {
        let open = name.parse().is_ok_and(|id: UploadId| id == keep || state.is_open(id));
        if !open {
            left.push((journal_age(&incoming.join(&name)).unwrap_or(PARTIAL_TIMEOUT), name));
        }
    }
    sort(&mut left);
    for (place, (age, name)) in left.iter().enumerate() {
        if *age >= PARTIAL_TIMEOUT || place >= LEFT_BEHIND_MAX {
            sweep(&shared.disk, folder.as_fd(), name).at("remove", &incoming.join(name))?;
        }
    }
    Ok(())
}

/// Whether a commit was cut short before its first rename, most often while it flushed, so that its upload can still
/// be gone on with.
fn is_still_whole(
    layout: &Layout,
    client: &ClientFolder,
    staging: &Path,
    snapshot: SnapshotId,
) -> Result<bool, StoreError> {
    let placed = [
        layout.received(client).join(snapshot.as_str()),
        layout.deltas(client).join(snapshot.as_str()),
        layout.ranges(client).join(blocks_name(snapshot)),
        layout.index(client, snapshot),
        layout.snapshots(client).join(head_name(snapshot)),
    ];
    for path in placed {
        match path.symlink_metadata() {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("look at", &path),
        }
    }
    Ok(is_resumable(staging))
}

fn settle_commit(
    disk: &Disk,
    layout: &Layout,
    client: &ClientFolder,
    staging: &Path,
    snapshot: SnapshotId,
) -> Result<String, StoreError> {
    let path = layout.snapshots(client);
    if let Some(snapshots) = open_if_there(&path)? {
        // A snapshot that has been dropped since was committed, too.
        for name in [head_name(snapshot), dropped_name(snapshot)] {
            if exists(snapshots.as_fd(), name.as_bytes()).at("look into", &path)? {
                disk.flush_folder(snapshots.as_fd(), b"snapshots").at("flush", &path)?;
                return Ok(format!("the commit of {snapshot} was finished"));
            }
        }
    }
    take_back(disk, layout, client, staging, snapshot)?;
    Ok(format!("the commit of {snapshot} was interrupted and taken back"))
}

/// Takes back what a commit has put into place: the head first, so that at no time it names what is gone;
/// contents, delta and blocks move back into the upload's folder. Without an intent nothing was put anywhere.
pub fn take_back(
    disk: &Disk,
    layout: &Layout,
    client: &ClientFolder,
    staging: &Path,
    snapshot: SnapshotId,
) -> Result<(), StoreError> {
    let upload = open_folder(staging).at("open", staging)?;
    if !exists(upload.as_fd(), INTENT).at("look into", staging)? {
        return Ok(());
    }
    remove_snapshot_file(disk, &layout.snapshots(client), &head_name(snapshot))?;
    let placed = [
        (layout.received(client), snapshot.to_string(), FILES),
        (layout.deltas(client), snapshot.to_string(), DELTA),
        (layout.ranges(client), blocks_name(snapshot), BLOCKS),
    ];
    for (path, name, staged) in placed {
        if let Some(folder) = open_if_there(&path)?
            && exists(folder.as_fd(), name.as_bytes()).at("look into", &path)?
        {
            disk.rename(folder.as_fd(), name.as_bytes(), upload.as_fd(), staged).at("empty", &path)?;
            disk.flush_folder(upload.as_fd(), b"upload").at("flush", staging)?;
            disk.flush_folder(folder.as_fd(), b"emptied").at("flush", &path)?;
        }
    }
    remove_snapshot_file(disk, &layout.snapshots(client), &index_name(snapshot))
}

fn remove_snapshot_file(disk: &Disk, path: &Path, name: &str) -> Result<(), StoreError> {
    if let Some(folder) = open_if_there(path)?
        && exists(folder.as_fd(), name.as_bytes()).at("look into", path)?
    {
        disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(name))?;
        disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", path)?;
    }
    Ok(())
}

/// None for a folder that somebody has removed: nothing is left in it to bring into order.
pub fn open_if_there(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    match open_folder(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

/// Contents without a head, where no intent tells what they were to become: somebody's copy, or what is left
/// of a lost head. Never deleted.
fn report_unexplained(
    layout: &Layout,
    client: &ClientFolder,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    // Listed once: looking for each head by itself would make the start of a large store slow.
    let heads = names_in(&layout.snapshots(client))?;
    for name in names_in(&layout.received(client))? {
        let explained =
            [".json", ".dropped"].iter().any(|end| heads.binary_search(&format!("{name}{end}")).is_ok());
        if !explained {
            let path = layout.received(client).join(&name);
            report.lines.push(format!("{} belongs to no snapshot; it is left alone", path.display()));
        }
    }
    Ok(())
}

pub fn sweep_temporary(disk: &Disk, path: &Path) -> Result<(), StoreError> {
    let folder = open_folder(path).at("open", path)?;
    for name in names_in(path)?.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
        disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_or_half_written_intent_is_none() {
        let staging = tempfile::tempdir().unwrap();
        assert!(Intent::read(staging.path()).unwrap().is_none());
        let file = staging.path().join("commit");
        std::fs::write(&file, b"{\"version\": 1, \"snap").unwrap();
        assert!(Intent::read(staging.path()).unwrap().is_none());
        let intent = Intent::new("20260101T000000Z-01234567".parse().unwrap(), UploadId::from_bytes([1; 16]));
        std::fs::write(&file, intent.encode()).unwrap();
        assert!(Intent::read(staging.path()).unwrap().is_some());
        std::fs::remove_file(&file).unwrap();
        // A folder cannot be read as a file: the system fails, and nobody knows what the intent says.
        std::fs::create_dir(&file).unwrap();
        assert!(matches!(Intent::read(staging.path()), Err(StoreError::Io { .. })));
    }
}
