//! The upload that an earlier run left unfinished: the server keeps what it got of it for a day, so the same
//! command goes on where the last one was cut off.

use serde::{Deserialize, Serialize};

use super::backup::BackupOptions;
use super::state::{StateError, StateFolder};
use crate::base::codec::Writer;
use crate::base::ids::{UploadId, hex};
use crate::crypto::blake3_hash;

const UNFINISHED_FILE: &str = "upload.json";
const UNFINISHED_VERSION: u32 = 1;

/// What `upload.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Unfinished {
    version: u32,
    upload: UploadId,
    /// BLAKE3 of what the upload is of: with other roots or another label it is another one.
    of: String,
}

/// The upload a run works on.
#[derive(Debug, Clone, Copy)]
pub struct ChosenUpload {
    pub id: UploadId,
    /// Whether an earlier run began it.
    pub is_resumed: bool,
    /// Whether the server may have something of it already.
    pub is_begun: bool,
}

impl ChosenUpload {
    pub fn fresh() -> ChosenUpload {
        ChosenUpload { id: UploadId::random(), is_resumed: false, is_begun: false }
    }
}

/// The unfinished upload of the same things, or a new one.
pub fn choose(state: &StateFolder, options: &BackupOptions) -> Result<ChosenUpload, StateError> {
    if let Some(id) = options.upload {
        return Ok(ChosenUpload { id, is_resumed: false, is_begun: true });
    }
    let of = description(options);
    let noted = state.read_file(UNFINISHED_FILE)?;
    let noted = noted.and_then(|bytes| serde_json::from_slice::<Unfinished>(&bytes).ok());
    match noted.filter(|noted| noted.version == UNFINISHED_VERSION && noted.of == of) {
        Some(noted) => Ok(ChosenUpload { id: noted.upload, is_resumed: true, is_begun: true }),
        None => Ok(ChosenUpload::fresh()),
    }
}

/// The upload of the same things that was begun and has not become a snapshot.
///
/// # Errors
/// The state folder cannot be read.
pub fn unfinished_upload(state: &StateFolder, options: &BackupOptions) -> Result<Option<UploadId>, StateError> {
    let chosen = choose(state, options)?;
    Ok((chosen.is_resumed || options.upload.is_some()).then_some(chosen.id))
}

/// Notes an upload that the server has opened, or is about to, in the place of whatever was noted.
pub fn note(state: &StateFolder, options: &BackupOptions, id: UploadId) -> Result<(), StateError> {
    let noted = Unfinished { version: UNFINISHED_VERSION, upload: id, of: description(options) };
    state.write_json(UNFINISHED_FILE, &noted)
}

/// The upload is a snapshot now, or nothing that can be gone on with.
pub fn forget(state: &StateFolder) -> Result<(), StateError> {
    state.remove_file(UNFINISHED_FILE)
}

fn description(options: &BackupOptions) -> String {
    let mut bytes = Vec::new();
    for root in &options.roots {
        bytes.put_bytes16(root.path().map_or(&[][..], |path| path.as_bytes()));
    }
    for text in [&options.label, &options.host].into_iter().chain(&options.tags) {
        bytes.put_bytes32(text.as_bytes());
    }
    for flag in [options.full, options.ignore_inode, options.ignore_ctime] {
        bytes.put_flag(flag);
    }
    if let Some(vault) = &options.vault {
        bytes.put_bytes(vault.vault().as_bytes());
    }
    bytes.put_bytes8(options.parent.as_ref().map_or("", |parent| parent.as_str()).as_bytes());
    hex(&blake3_hash(&bytes))
}
