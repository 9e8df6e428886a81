//! Who may use a vault. The server keeps hashes of the two tokens, never a token: one lets write, the other read.
//! That there is no such vault and that a token is another one are one answer.
//!
//! Nothing else tells whose a vault is, so the file is there twice: where one is lost the other counts, and it is made
//! again from it. Where both are, nobody gets in, with any key: whoever came first would have the vault otherwise.
//!
//! A checksum is no proof of who wrote a file. Where both are whole and say different things, the server cannot know which
//! is right, so it changes neither and names them; whoever has the tokens of either gets in. Nothing that says something
//! else, be it about another vault, is ever written over.

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

/// What is told where both files are whole and differ.
const CONTRADICTION: &str = "which of vault.json and vault-copy.json is right: they say different things about who may use \
                             the vault, and one may be forged. Both are left, and the keys of both are let in: put the \
                             right one, as a copy of the data folder has it, in the place of the other";

/// What lets a client write, and what it says lets one read.
#[derive(Clone, Copy)]
pub struct WriteAccess {
    pub write_token: [u8; 32],
    /// SHA-256 of the read token.
    pub read_verifier: [u8; 32],
}

/// `vault.json`.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct VaultFile {
    version: u64,
    vault: VaultId,
    write_token_sha256: String,
    read_verifier: String,
    created: Moment,
}

/// One answer for both, so that nobody learns which vaults there are.
pub fn refused() -> StoreError {
    let what = "the server has no such vault, or does not take this key for one of its keys: look at --vault-key. Where it is \
                the right one, what the server keeps about who may use the vault (vault.json) is damaged or forged: its \
                operator compares it with a copy of the data folder";
    StoreError::NotFound { what: what.to_string() }
}

/// Whether the vault in this folder is there and is written to by who has these. None where there is none.
pub fn check_write(folder: &Path, vault: VaultId, access: &WriteAccess) -> Result<Option<()>, StoreError> {
    let files = read(folder, vault)?;
    let is_right = |file: &VaultFile| {
        lets_in(&file.write_token_sha256, &access.write_token)
            & unhex::<32>(&file.read_verifier).is_some_and(|kept| constant_time_equal(&kept, &access.read_verifier))
    };
    match files.iter().any(is_right) {
        true => Ok(Some(())),
        false if files.is_empty() => Ok(None),
        false => Err(refused()),
    }
}

/// Whether who has this token may read the vault in this folder.
pub fn check_read(folder: &Path, vault: VaultId, read_token: &[u8; 32]) -> Result<(), StoreError> {
    let is_right = |file: &VaultFile| lets_in(&file.read_verifier, read_token);
    if read(folder, vault)?.iter().any(is_right) { Ok(()) } else { Err(refused()) }
}

fn lets_in(hash: &str, token: &[u8; 32]) -> bool {
    unhex(hash).is_some_and(|hash| is_token(token, &hash))
}

/// What says who may use the vault in this folder: those of its two files that are whole and this vault's. None of them where
/// there is no such vault.
///
/// # Errors
/// `Damaged` where there is none of a vault that holds something, or none that is whole: nothing else tells whose it is.
fn read(folder: &Path, vault: VaultId) -> Result<Vec<VaultFile>, StoreError> {
    let (mut own, mut problem) = (Vec::new(), None);
    for path in FILES.map(|name| folder.join(name)) {
        match read_file(&path) {
            Ok(Some(file)) if file.vault == vault => own.push(file),
            Ok(Some(file)) => {
                problem.get_or_insert_with(|| StoreError::damaged(&path, another(&file)));
            }
            Ok(None) => {}
            Err(error) => {
                problem.get_or_insert(error);
            }
        }
    }
    match problem {
        Some(error) if own.is_empty() => Err(error),
        None if own.is_empty() && has_packs(folder)? => {
            Err(StoreError::damaged(&folder.join(VAULT_FILE), "it is gone, and so is its copy"))
        }
        _ => Ok(own),
    }
}

fn another(file: &VaultFile) -> String {
    format!("it is that of vault {}", file.vault)
}

fn read_file(path: &Path) -> Result<Option<VaultFile>, StoreError> {
    let read = if_there(read_small_file(path, FILE_BYTES_MAX)).map_err(StoreError::of_named_file);
    let Some(bytes) = read? else { return Ok(None) };
    let file: VaultFile = decode_sealed(&bytes, path)?;
    match file.version {
        VERSION => Ok(Some(file)),
        version => Err(StoreError::NewerFormat { path: path.to_path_buf(), version }),
    }
}

fn has_packs(folder: &Path) -> Result<bool, StoreError> {
    Ok(names_in(&folder.join(PACKS))?.iter().any(|name| pack_number(name).is_some()))
}

/// Whether there is a vault in this folder, whoever may use it.
pub fn is_there(folder: &Path, vault: VaultId) -> bool {
    !read(folder, vault).is_ok_and(|own| own.is_empty())
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

/// Makes the one of the two files anew that is lost, from the other; without `is_real` it is only told. What is whole and says
/// something else is told and left. Gives what was wrong.
pub fn mend(disk: &Disk, folder: &Path, vault: VaultId, is_real: bool) -> Result<Vec<Repaired>, StoreError> {
    let told = |name: &str, outcome, text| {
        let (file, snapshots) = (folder.join(name), BTreeSet::new());
        Ok(vec![Repaired { file, outcome, client: None, snapshots, text }])
    };
    match read(folder, vault) {
        Ok(own) if own.is_empty() => return Ok(Vec::new()),
        Ok(_) => {}
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
    let [first, second] = FILES.map(|name| (name, read_file(&folder.join(name))));
    let is_own =
        |read: &Result<Option<VaultFile>, StoreError>| matches!(read, Ok(Some(file)) if file.vault == vault);
    let ((good, kept), (other, found)) = if is_own(&first.1) { (first, second) } else { (second, first) };
    match (kept, found) {
        (Ok(Some(kept)), Ok(Some(found))) if kept == found => Ok(Vec::new()),
        (_, Ok(Some(found))) if found.vault == vault => told(VAULT_FILE, Outcome::Lost, CONTRADICTION.to_string()),
        (_, Ok(Some(found))) => {
            let text =
                format!("what it said: {}, and is left; {good} counts, which belongs here too", another(&found));
            told(other, Outcome::Lost, text)
        }
        (_, Ok(None) | Err(StoreError::Damaged { .. })) => {
            if is_real {
                let bytes = read_small_file(&folder.join(good), FILE_BYTES_MAX)?;
                replace(disk, folder, other, &bytes)?;
            }
            told(other, Outcome::Rebuilt, format!("who may use the vault, from {good}"))
        }
        (_, Err(error)) => told(other, Outcome::Lost, format!("what it said: {error}; {good} counts")),
    }
}
