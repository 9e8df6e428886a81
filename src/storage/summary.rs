//! What is known of all snapshots of a client together, for the operator's list. A thousand clients with a year
//! of hourly snapshots are millions of heads: so the sums are kept beside each client's record, and the heads are
//! read again only when the folder that they lie in has changed since.
//!
//! The file is a cache: it is believed where it names the folder's own time of change, never flushed, and made
//! anew whenever it is not there. A folder that changed only just now may change again without showing it, the
//! clock of a file system being coarse; its sums are kept only by a commit, which lets nobody else change it.
//!
//! In a store that was copied, every folder is another one. There the names in it decide: heads never change, so that
//! the same names are the same heads.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, snapshot_of_head};
use super::dropped::DroppedTotals;
use super::error::{At, StoreError};
use super::head::Head;
use super::layout::{ClientFolder, Layout, names_in, read_small_file};
use crate::base::durable::{Disk, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId, hex};
use crate::base::order::sort;
use crate::base::time::Timestamp;
use crate::crypto::blake3_hash;

const SUMMARY_VERSION: u32 = 1;
const SUMMARY_BYTES_MAX: u64 = 16 * 1024;
/// How long a folder must have rested for its time of change to tell it apart from later ones.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
const SECONDS_PER_DAY: i64 = 86_400;
/// Over how many days growth is counted.
pub const GROWTH_DAYS: i64 = 30;

/// A client's snapshots in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientSummary {
    pub snapshots: u64,
    /// Snapshots whose heads could not be read when the heads were read last.
    pub damaged_snapshots: u64,
    /// What they take on the disk, with what is left of dropped ones: what a quota counts.
    pub stored_bytes: u64,
    /// Of the newest snapshot.
    pub last: Option<LastSnapshot>,
    /// Bytes stored on each of the newest days that have any: day since 1970, bytes; rising.
    days: Vec<(i64, u64)>,
    /// Which heads these are the sums of, and of what is left of dropped ones; empty where some are damaged.
    #[serde(default)]
    heads: String,
}

/// The newest snapshot of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSnapshot {
    pub id: SnapshotId,
    committed_seconds: i64,
    /// What it holds; none where that is sealed in a vault.
    pub files: Option<u64>,
    pub bytes: Option<u64>,
}

impl LastSnapshot {
    /// When it was committed, to the second.
    pub fn committed(&self) -> Timestamp {
        Timestamp { seconds: self.committed_seconds, nanoseconds: 0 }
    }
}

impl ClientSummary {
    pub fn of(catalog: &Catalog) -> ClientSummary {
        let mut summary = ClientSummary {
            snapshots: catalog.heads().len() as u64,
            damaged_snapshots: catalog.damaged().len() as u64,
            stored_bytes: catalog.stored_bytes(),
            last: catalog.heads().last().map(|head| last(head)),
            ..ClientSummary::default()
        };
        let newest = catalog.heads().iter().map(|head| day(head.committed)).max().unwrap_or(0);
        let mut days = std::collections::BTreeMap::new();
        for head in catalog.heads() {
            let stored = head.totals.stored_bytes;
            if day(head.committed) > newest - GROWTH_DAYS {
                *days.entry(day(head.committed)).or_insert(0u64) += stored;
            }
        }
        summary.days = days.into_iter().collect();
        if catalog.damaged().is_empty() {
            let ids = catalog.heads().iter().map(|head| head.id).collect();
            summary.heads = name_heads(ids, &catalog.dropped);
        }
        summary
    }

    /// Bytes stored in the [`GROWTH_DAYS`] days up to `now`.
    pub fn growth(&self, now: Timestamp) -> u64 {
        let first = day(now) - GROWTH_DAYS;
        self.days.iter().filter(|(day, _)| *day > first).map(|(_, bytes)| bytes).sum()
    }
}

/// Names a set of heads, and what is left beside them.
fn name_heads(mut ids: Vec<SnapshotId>, dropped: &DroppedTotals) -> String {
    sort(&mut ids);
    let mut bytes: Vec<u8> = ids.iter().flat_map(|id| id.as_str().bytes()).collect();
    bytes.extend([dropped.left_bytes, dropped.waiting_bytes].iter().flat_map(|number| number.to_le_bytes()));
    hex(&blake3_hash(&bytes))
}

fn day(time: Timestamp) -> i64 {
    time.seconds.div_euclid(SECONDS_PER_DAY)
}

fn last(head: &Head) -> LastSnapshot {
    let is_open = head.vault.is_none();
    LastSnapshot {
        id: head.id,
        committed_seconds: head.committed.seconds,
        files: is_open.then_some(head.totals.files),
        bytes: is_open.then_some(head.totals.bytes),
    }
}

/// The file: the sums, and which state of the folder they are of.
#[derive(Serialize, Deserialize)]
struct SummaryFile {
    version: u32,
    folder: FolderState,
    summary: ClientSummary,
}

/// The folder of a client's heads as it was when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderState {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl FolderState {
    /// None for a folder that is not there: the client has never stored anything.
    pub fn of(path: &Path) -> Option<FolderState> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(FolderState {
            device: metadata.dev(),
            inode: metadata.ino(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        })
    }

    /// Whether a change from now on would show.
    fn is_settled(&self) -> bool {
        let now = Timestamp::from(SystemTime::now()).seconds;
        now.checked_sub(self.seconds).is_some_and(|age| age > SETTLED_AFTER.as_secs() as i64)
    }
}

fn file_name(id: ClientId) -> String {
    format!("{id}.summary")
}

fn path_of(layout: &Layout, id: ClientId) -> PathBuf {
    layout.clients().join(file_name(id))
}

/// The sums of a client whose heads are not in memory: kept ones that are still right, else read and kept.
pub fn read(
    disk: &Disk,
    layout: &Layout,
    id: ClientId,
    client: &ClientFolder,
) -> Result<ClientSummary, StoreError> {
    let snapshots = layout.snapshots(client);
    let Some(state) = FolderState::of(&snapshots) else { return Ok(ClientSummary::default()) };
    let kept = read_small_file(&path_of(layout, id), SUMMARY_BYTES_MAX).ok();
    let kept = kept.and_then(|bytes| serde_json::from_slice::<SummaryFile>(&bytes).ok());
    let kept = kept.filter(|kept| kept.version == SUMMARY_VERSION);
    if let Some(kept) = kept.as_ref().filter(|kept| kept.folder == state) {
        return Ok(kept.summary.clone());
    }
    let summary = match kept {
        Some(kept) if is_of_these_heads(&kept.summary, &snapshots)? => kept.summary,
        _ => ClientSummary::of(&Catalog::load(&snapshots)?),
    };
    if state.is_settled() {
        keep(disk, layout, id, state, &summary);
    }
    Ok(summary)
}

/// Whether they are the sums of the heads that lie in the folder, by their names.
fn is_of_these_heads(summary: &ClientSummary, folder: &Path) -> Result<bool, StoreError> {
    let names = names_in(folder)?;
    let ids: Vec<SnapshotId> = names.iter().filter_map(|name| snapshot_of_head(name)).collect();
    Ok(summary.heads == name_heads(ids, &DroppedTotals::load(folder, &names)?))
}

/// Keeps the sums of a client whose folder nobody else changes meanwhile.
pub fn keep_after_change(
    disk: &Disk,
    layout: &Layout,
    id: ClientId,
    client: &ClientFolder,
    summary: &ClientSummary,
) {
    if let Some(state) = FolderState::of(&layout.snapshots(client)) {
        keep(disk, layout, id, state, summary);
    }
}

/// What cannot be kept is read again.
fn keep(disk: &Disk, layout: &Layout, id: ClientId, folder: FolderState, summary: &ClientSummary) {
    let file = SummaryFile { version: SUMMARY_VERSION, folder, summary: summary.clone() };
    let bytes = serde_json::to_vec(&file).expect("strings and numbers always serialise");
    let clients = layout.clients();
    let kept = open_folder(&clients)
        .and_then(|folder| disk.replace_cache(folder.as_fd(), file_name(id).as_bytes(), &bytes));
    if let Err(error) = kept {
        log::debug!("cannot keep {}: {error}", path_of(layout, id).display());
    }
}

/// Removes what is kept of a client.
pub fn remove(disk: &Disk, layout: &Layout, id: ClientId) -> Result<(), StoreError> {
    let clients = layout.clients();
    let folder = open_folder(&clients).at("open", &clients)?;
    let name = file_name(id);
    let removed = exists(folder.as_fd(), name.as_bytes()).and_then(|there| match there {
        true => disk.remove_file(folder.as_fd(), name.as_bytes()),
        false => Ok(()),
    });
    removed.at("remove", &path_of(layout, id))
}
