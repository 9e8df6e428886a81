//! The folders of this host, to pick from what to back up and where to restore to.

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
    let mut rows: Vec<(bool, Vec<u8>, Value)> =
        listed.flatten().take(ROWS_MAX + 1).map(|entry| row(&entry)).collect();
    let truncated = rows.len() > ROWS_MAX;
    rows.truncate(ROWS_MAX);
    rows.sort_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
    let entries: Vec<Value> = rows.into_iter().map(|(_, _, data)| data).collect();
    let mut data = json!({ "parent": null, "entries": entries, "truncated": truncated });
    put_path(&mut data, "path", folder.as_os_str().as_bytes());
    if let Some(parent) = folder.parent() {
        put_path(&mut data, "parent", parent.as_os_str().as_bytes());
    }
    Ok(Reply::from(data))
}

/// Whether it is something other than a folder, its name, and what is told of it.
fn row(entry: &DirEntry) -> (bool, Vec<u8>, Value) {
    let kind = entry.file_type().map_or("other", kind_word);
    let facts = entry.metadata().ok();
    let size = facts.as_ref().filter(|_| kind == "file").map_or(0, std::fs::Metadata::len);
    let mtime = facts.and_then(|facts| facts.modified().ok()).map(|time| Timestamp::from(time).to_string());
    let mut data = json!({ "kind": kind, "size": size, "mtime": mtime });
    put_path(&mut data, "name", entry.file_name().as_bytes());
    put_path(&mut data, "path", entry.path().as_os_str().as_bytes());
    (kind != "folder", entry.file_name().as_bytes().to_vec(), data)
}

fn kind_word(kind: FileType) -> &'static str {
    match (kind.is_dir(), kind.is_file(), kind.is_symlink()) {
        (true, ..) => "folder",
        (_, true, _) => "file",
        (_, _, true) => "link",
        _ => "other",
    }
}
