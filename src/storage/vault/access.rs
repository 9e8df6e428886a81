//! Who may use a vault. The server keeps hashes of the two tokens, never a token: one lets write, the other read.
//! That there is no such vault and that a token is another one are one answer.
//!
//! Nothing else tells whose a vault is, so the file is there twice: where one is lost the other counts, and it is made
//! again from it. Where both are, nobody gets in, with any key: whoever came first would have the vault otherwise.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PACKS;
use super::pack::pack_number;
use crate::base::durable::{Disk, FILE_MODE};
use crate::base::folder::open_folder;
use crate::base::ids::{hex, unhex};
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;
use crate::crypto::{constant_time_equal, is_token, token_hash};
use crate::storage::error::{At, StoreError, if_there};
use crate::storage::head::Moment;
use crate::storage::layout::{names_in, read_small_file};
use crate::storage::repair::{Outcome, Repaired};
use crate::storage::sealed_json::{decode_sealed, encode_sealed};

const VERSION: u64 = 1;
const FILE_BYTES_MAX: u64 = 4 * 1024;
const VAULT_FILE: &str = "vault.json";
const VAULT_COPY: &str = "vault-copy.json";
/// The one that counts first. It is written last, so that there is no vault before both are there.
const FILES: [&str; 2] = [VAULT_FILE, VAULT_COPY];

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

/// What says who may use the vault in this folder: either of its two files. None where there is no such vault.
///
/// # Errors
/// `Damaged` where both are lost of a vault that holds something: nothing else tells whose it is.
fn read(folder: &Path, vault: VaultId) -> Result<Option<VaultFile>, StoreError> {
    match FILES.map(|name| read_file(&folder.join(name), vault)) {
        [Ok(Some(file)), _] | [Ok(None) | Err(StoreError::Damaged { .. }), Ok(Some(file))] => Ok(Some(file)),
        [Ok(None), Ok(None)] if !has_packs(folder)? => Ok(None),
        [Ok(None), Ok(None)] => {
            Err(StoreError::damaged(&folder.join(VAULT_FILE), "it is gone, and so is its copy"))
        }
        [Err(error), _] | [_, Err(error)] => Err(error),
    }
}

fn read_file(path: &Path, vault: VaultId) -> Result<Option<VaultFile>, StoreError> {
    let read = if_there(read_small_file(path, FILE_BYTES_MAX)).map_err(StoreError::of_named_file);
    let Some(bytes) = read? else { return Ok(None) };
    let file: VaultFile = decode_sealed(&bytes, path)?;
    match file.version {
        VERSION if file.vault == vault => Ok(Some(file)),
        VERSION => Err(StoreError::damaged(path, "it is another vault's")),
        version => Err(StoreError::NewerFormat { path: path.to_path_buf(), version }),
    }
}

fn has_packs(folder: &Path) -> Result<bool, StoreError> {
    Ok(names_in(&folder.join(PACKS))?.iter().any(|name| pack_number(name).is_some()))
}

/// Whether there is a vault in this folder, whoever may use it.
pub fn is_there(folder: &Path, vault: VaultId) -> bool {
    !matches!(read(folder, vault), Ok(None))
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
    let bytes = encode_sealed(&file);
    FILES.iter().rev().try_for_each(|name| replace(disk, folder, name, &bytes))
}

fn replace(disk: &Disk, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let handle = open_folder(folder).at("open", folder)?;
    disk.replace_file(handle.as_fd(), name.as_bytes(), bytes, FILE_MODE).at("write", &folder.join(name))
}

/// Makes the one of the two files anew that is lost, from the other; without `is_real` it is only told. Gives what was
/// wrong.
pub fn mend(disk: &Disk, folder: &Path, vault: VaultId, is_real: bool) -> Result<Vec<Repaired>, StoreError> {
    let told = |name: &str, outcome, text| {
        let (file, snapshots) = (folder.join(name), BTreeSet::new());
        Ok(vec![Repaired { file, outcome, client: None, snapshots, text }])
    };
    match read(folder, vault) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(Vec::new()),
        Err(StoreError::Damaged { problem, .. }) => {
            let text = format!(
                "who may use the vault ({problem}): put {VAULT_FILE} or {VAULT_COPY} back from a copy of the data \
                 folder; until then nobody reads it or adds to it"
            );
            return told(VAULT_FILE, Outcome::Lost, text);
        }
        Err(error @ StoreError::NewerFormat { .. }) => return told(VAULT_FILE, Outcome::Lost, error.to_string()),
        Err(error) => return Err(error),
    }
    let is_first_good = matches!(read_file(&folder.join(VAULT_FILE), vault), Ok(Some(_)));
    let (good, other) = if is_first_good { (VAULT_FILE, VAULT_COPY) } else { (VAULT_COPY, VAULT_FILE) };
    let bytes = read_small_file(&folder.join(good), FILE_BYTES_MAX)?;
    if read_small_file(&folder.join(other), FILE_BYTES_MAX).is_ok_and(|found| found == bytes) {
        return Ok(Vec::new());
    }
    if is_real {
        replace(disk, folder, other, &bytes)?;
    }
    told(other, Outcome::Rebuilt, format!("who may use the vault, from {good}"))
}
