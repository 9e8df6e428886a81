//! Who may use a vault. The server keeps hashes of the two tokens, never a token: one lets write, the other read.
//! That there is no such vault and that a token is another one are one answer.

use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::durable::{Disk, FILE_MODE};
use crate::base::folder::open_folder;
use crate::base::ids::{hex, unhex};
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;
use crate::crypto::{constant_time_equal, is_token, token_hash};
use crate::storage::error::{At, StoreError, if_there};
use crate::storage::head::Moment;
use crate::storage::layout::read_small_file;
use crate::storage::sealed_json::{decode_sealed, encode_sealed};

const VERSION: u64 = 1;
const FILE_BYTES_MAX: u64 = 4 * 1024;
pub const VAULT_FILE: &str = "vault.json";

/// What lets a client write, and what it says lets one read.
#[derive(Clone, Copy)]
pub struct WriteAccess {
    pub write_token: [u8; 32],
    /// SHA-256 of the read token.
    pub read_verifier: [u8; 32],
}

/// `vault.json`.
#[derive(Serialize, Deserialize)]
struct VaultFile {
    version: u64,
    vault: VaultId,
    write_token_sha256: String,
    read_verifier: String,
    created: Moment,
}

/// One answer for both, so that nobody learns which vaults there are.
pub fn refused() -> StoreError {
    StoreError::NotFound {
        what: "the server has no such vault, or this key is not one of its keys: look at --vault-key".to_string(),
    }
}

/// Whether the vault in this folder is there and is written to by who has these. None where there is none.
pub fn check_write(folder: &Path, vault: VaultId, access: &WriteAccess) -> Result<Option<()>, StoreError> {
    let Some(file) = read(folder, vault)? else { return Ok(None) };
    let is_right = lets_in(&file.write_token_sha256, &access.write_token)
        & unhex::<32>(&file.read_verifier).is_some_and(|kept| constant_time_equal(&kept, &access.read_verifier));
    if is_right { Ok(Some(())) } else { Err(refused()) }
}

/// Whether who has this token may read the vault in this folder.
pub fn check_read(folder: &Path, vault: VaultId, read_token: &[u8; 32]) -> Result<(), StoreError> {
    let file = read(folder, vault)?.ok_or_else(refused)?;
    if lets_in(&file.read_verifier, read_token) { Ok(()) } else { Err(refused()) }
}

fn lets_in(hash: &str, token: &[u8; 32]) -> bool {
    unhex(hash).is_some_and(|hash| is_token(token, &hash))
}

fn read(folder: &Path, vault: VaultId) -> Result<Option<VaultFile>, StoreError> {
    let path = folder.join(VAULT_FILE);
    let Some(bytes) = if_there(read_small_file(&path, FILE_BYTES_MAX))? else { return Ok(None) };
    let file: VaultFile = decode_sealed(&bytes, &path)?;
    match file.version {
        VERSION if file.vault == vault => Ok(Some(file)),
        VERSION => Err(StoreError::damaged(&path, "it is another vault's")),
        version => Err(StoreError::NewerFormat { path, version }),
    }
}

/// Writes down who may use a new vault; durable when this returns.
pub fn write(
    disk: &Disk,
    folder: &Path,
    vault: VaultId,
    access: &WriteAccess,
    now: Timestamp,
) -> Result<(), StoreError> {
    let file = VaultFile {
        version: VERSION,
        vault,
        write_token_sha256: hex(&token_hash(&access.write_token)),
        read_verifier: hex(&access.read_verifier),
        created: now.into(),
    };
    let handle = open_folder(folder).at("open", folder)?;
    let written = disk.replace_file(handle.as_fd(), VAULT_FILE.as_bytes(), &encode_sealed(&file), FILE_MODE);
    written.at("write", &folder.join(VAULT_FILE))
}
