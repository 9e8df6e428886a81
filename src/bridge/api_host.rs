//! The folders of this host, to pick from what to back up and where to restore to.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs::{DirEntry, FileType};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::api_jobs::host_path;
use super::error::ApiError;
use super::routes::{Call, Reply};
use crate::base::time::Timestamp;
use crate::client::json::put_path;

/// Rows of one answer.
const ROWS_MAX: usize = 5_000;

pub fn browse(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let home = std::env::var_os("HOME").filter(|home| Path::new(home).is_absolute());
    let usual = home.as_deref().map_or(&b"/"[..], OsStrExt::as_bytes);
    let folder = host_path(call.query("path").filter(|path| !path.is_empty()).unwrap_or(usual))?;
    let shown = folder.display().to_string();
    let listed = std::fs::read_dir(&folder).map_err(|error| {
        let status = if error.kind() == std::io::ErrorKind::PermissionDenied { 403 } else { 404 };
        ApiError::new(status, format!("{shown}: {error}"))
    })?;
    let (first, truncated) = first_rows(listed.flatten());
    let entries: Vec<Value> = first.iter().map(row).collect();
    let mut data = json!({ "parent": null, "entries": entries, "truncated": truncated });
    put_path(&mut data, "path", folder.as_os_str().as_bytes());
    if let Some(parent) = folder.parent() {
        put_path(&mut data, "parent", parent.as_os_str().as_bytes());
    }
    Ok(Reply::from(data))
}

/// The entries that come first in the order of the answer, and whether there are more. However many there are, no
/// more are held than an answer takes.
fn first_rows(entries: impl Iterator<Item = DirEntry>) -> (Vec<DirEntry>, bool) {
    let mut first: BinaryHeap<Ranked> = BinaryHeap::new();
    let mut truncated = false;
    for entry in entries {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        first.push(Ranked { rank: (!is_folder, entry.file_name()), entry });
        if first.len() > ROWS_MAX {
            first.pop();
            truncated = true;
        }
    }
    (first.into_sorted_vec().into_iter().map(|ranked| ranked.entry).collect(), truncated)
}

/// An entry by its place in the answer: folders first, then by name.
struct Ranked {
    rank: (bool, OsString),
    entry: DirEntry,
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

fn row(entry: &DirEntry) -> Value {
    let kind = entry.file_type().map_or("other", kind_word);
    let facts = entry.metadata().ok();
    let size = facts.as_ref().filter(|_| kind == "file").map_or(0, std::fs::Metadata::len);
    let mtime = facts.and_then(|facts| facts.modified().ok()).map(|time| Timestamp::from(time).to_string());
    let mut data = json!({ "kind": kind, "size": size, "mtime": mtime });
    put_path(&mut data, "name", entry.file_name().as_bytes());
    put_path(&mut data, "path", entry.path().as_os_str().as_bytes());
    data
}

fn kind_word(kind: FileType) -> &'static str {
    match (kind.is_dir(), kind.is_file(), kind.is_symlink()) {
        (true, ..) => "folder",
        (_, true, _) => "file",
        (_, _, true) => "link",
        _ => "other",
    }
}
