//! `server --repair`: what can be rebuilt of a store is rebuilt, what cannot is named. Offline: it takes the data
//! folder's lock, and a server that holds it has to be stopped first. Rows of JSON, one for each file, and the end.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::OperatorError;
use crate::base::durable::Disk;
use crate::base::path::display_bytes;
use crate::server::server_keys::{self, KeyRepair};
use crate::storage::{Outcome, Repaired, StorageKeys, Store};

/// What to repair, and how.
#[derive(Debug, Clone)]
pub struct RepairRequest {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Make the server a new pair where its own is lost, of so many bits.
    pub new_key: Option<usize>,
}

/// Repairs the store in a data folder; the last row is `end`, with the counts.
///
/// # Errors
/// `NoServer`, `Locked`, and what keeps it from going on; damage is none.
pub fn repair(
    data: &Path,
    keys: StorageKeys,
    request: &RepairRequest,
    taker: &mut dyn FnMut(Value),
) -> Result<(), OperatorError> {
    // Any of its parts may be what is lost.
    if !["keys", "clients", "snapshots", "received_files"].iter().any(|name| data.join(name).is_dir()) {
        return Err(OperatorError::NoServer { folder: data.to_path_buf() });
    }
    let keys = StorageKeys { mend: true, ..keys };
    let store = Arc::new(Store::open_sealed(data, Disk::real(), keys)?);
    store.unlocked()?;
    let (mut rebuilt, mut removed, mut lost) = (0u64, 0u64, 0u64);
    let mut tell = |repaired: Repaired| {
        let (count, word) = match repaired.outcome {
            Outcome::Rebuilt => (&mut rebuilt, "rebuilt"),
            Outcome::Removed => (&mut removed, "removed"),
            Outcome::Lost => (&mut lost, "lost"),
        };
        *count += 1;
        let file = repaired.file.strip_prefix(data).unwrap_or(&repaired.file);
        taker(json!({
            "row": "file",
            "file": display_bytes(file.as_os_str().as_bytes()),
            "outcome": word,
            "client": repaired.client,
            "snapshots": repaired.snapshots,
            "text": repaired.text,
        }));
    };
    let keys = KeyRepair { store: &store, is_real: !request.dry_run, new_key: request.new_key };
    server_keys::repair(&keys, &mut tell)?;
    store.repair(!request.dry_run, &mut tell)?;
    taker(json!({
        "row": "end", "rebuilt": rebuilt, "removed": removed, "lost": lost, "dry_run": request.dry_run,
    }));
    Ok(())
}
