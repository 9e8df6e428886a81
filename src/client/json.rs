//! What a server lists, as JSON: the same fields on the command line and in the page's API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::query::Listed;
use crate::base::ids::hex;
use crate::base::path::EntryPath;
use crate::protocol::message::{SnapshotRow, content_flag};

/// Puts a path into a JSON object: as text, and where it is not valid UTF-8 exactly as `<key>_base64` too.
pub fn put_path(data: &mut Value, key: &str, path: &[u8]) {
    let Value::Object(map) = data else { return };
    map.insert(key.to_string(), Value::String(String::from_utf8_lossy(path).into_owned()));
    if std::str::from_utf8(path).is_err() {
        let exact = STANDARD.encode(path);
        map.insert(format!("{key}_base64"), Value::String(exact));
    }
}

/// A list of paths for JSON: text, or an object with the exact bytes.
pub fn path_list<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Value {
    let item = |path: &[u8]| {
        let mut data = Value::Object(Map::new());
        put_path(&mut data, "path", path);
        data
    };
    Value::Array(paths.map(item).collect())
}

/// A row of a list of snapshots.
pub fn snapshot_json(row: &SnapshotRow) -> Value {
    json!({
        "snapshot": row.id,
        "sequence": row.sequence,
        "started": row.started.to_string(),
        "committed": row.committed.to_string(),
        "entries": row.entries,
        "files": row.files,
        "bytes": row.bytes,
        "new_bytes": row.new_bytes,
        "unreadable": row.unreadable,
        "host": row.host,
        "label": row.label,
        "tags": row.tags,
        "vault": row.vault,
        "roots": path_list(row.roots.iter().map(EntryPath::as_bytes)),
    })
}

/// A row of a list of snapshots whose head is sealed here: what only the head says is null.
pub fn sealed_snapshot_json(row: &SnapshotRow) -> Value {
    let mut data = snapshot_json(row);
    for name in ["entries", "files", "bytes", "new_bytes", "unreadable", "host", "label", "tags", "roots"] {
        data[name] = Value::Null;
    }
    data
}

/// A row of a list of entries.
pub fn entry_json(listed: &Listed) -> Value {
    let entry = &listed.entry;
    let mut data = json!({
        "kind": entry.kind.word(),
        "size": size(listed),
        "mode": format!("{:04o}", entry.mode),
        "mtime": entry.mtime.to_string(),
        "mtime_seconds": entry.mtime.seconds,
        "mtime_nanoseconds": entry.mtime.nanoseconds,
        "owner": entry.owner,
        "group": entry.group,
    });
    put_path(&mut data, "path", entry.path.as_bytes());
    if !entry.link_target.is_empty() {
        put_path(&mut data, "link_target", &entry.link_target);
    }
    if let Some(content) = &listed.content {
        let unreadable = content.flags & content_flag::UNREADABLE != 0;
        data["unreadable"] = json!(unreadable);
        if !unreadable {
            data["crc32"] = json!(format!("{:08x}", content.crc32));
            data["blake3"] = json!(hex(&content.blake3));
            data["changed_while_read"] = json!(content.flags & content_flag::CHANGED_WHILE_READ != 0);
        }
    }
    data
}

/// The size of a file as it was stored.
pub fn size(listed: &Listed) -> u64 {
    listed.content.map_or(listed.entry.size, |content| content.bytes)
}
