//! The two key files of a vault in the state folder, as the bridge needs them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::ApiError;
use crate::base::durable::replace_file;
use crate::base::limits::VAULT_KEY_FILE_BYTES_MAX;
use crate::base::vault::VaultId;
use crate::crypto::vault::key_file::OpenKeyError;
use crate::crypto::vault::{FullKey, PassphraseCost, PutKey};

const FULL_KEY: &str = "vault.key";
const PUT_KEY: &str = "vault-put.key";
const MODE: u32 = 0o600;

/// Which keys a state folder has.
pub enum KeyFiles {
    None,
    PutHalf(VaultId),
    Full(VaultId),
}

pub fn full_key_path(folder: &Path) -> PathBuf {
    folder.join(FULL_KEY)
}

pub fn look(folder: &Path) -> Result<KeyFiles, ApiError> {
    if let Some(bytes) = read(&full_key_path(folder))? {
        return match FullKey::vault_of_file(&bytes) {
            Some(id) => Ok(KeyFiles::Full(id)),
            None => Err(no_key(&full_key_path(folder))),
        };
    }
    match read(&folder.join(PUT_KEY))? {
        Some(bytes) => {
            let key = PutKey::from_file(&bytes).map_err(|_| no_key(&folder.join(PUT_KEY)))?;
            Ok(KeyFiles::PutHalf(key.vault()))
        }
        None => Ok(KeyFiles::None),
    }
}

pub fn read_put_key(folder: &Path) -> Result<PutKey, ApiError> {
    let path = folder.join(PUT_KEY);
    let bytes = read(&path)?.ok_or_else(|| ApiError::conflict("there is no vault on this host: make one first"))?;
    PutKey::from_file(&bytes).map_err(|_| no_key(&path))
}

pub fn create(folder: &Path, passphrase: &[u8], _: bool) -> Result<FullKey, ApiError> {
    if !matches!(look(folder)?, KeyFiles::None) {
        return Err(ApiError::conflict("there is a vault on this host already"));
    }
    let key = FullKey::generate().map_err(failed)?;
    replace(folder, &key, passphrase, true)?;
    replace_file(&folder.join(PUT_KEY), &key.put().to_file(), MODE)?;
    Ok(key)
}

pub fn open(folder: &Path, passphrase: &[u8]) -> Result<FullKey, ApiError> {
    let path = full_key_path(folder);
    let bytes = read(&path)?.ok_or_else(|| ApiError::conflict(format!("{} is not there", path.display())))?;
    FullKey::from_file(&bytes, passphrase).map_err(|error| match error {
        OpenKeyError::Wrong => ApiError::new(403, error.to_string()),
        OpenKeyError::Crypto(error) => failed(error),
    })
}

pub fn replace(folder: &Path, key: &FullKey, passphrase: &[u8], _: bool) -> Result<(), ApiError> {
    let bytes = key.to_file(passphrase, PassphraseCost::LEAST).map_err(failed)?;
    Ok(replace_file(&full_key_path(folder), &bytes, MODE)?)
}

pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(VAULT_KEY_FILE_BYTES_MAX as usize));
    match File::open(path) {
        Ok(file) => file.take(VAULT_KEY_FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(bytes))
}

fn no_key(path: &Path) -> ApiError {
    ApiError::conflict(format!("{} is no key of a vault, or is damaged", path.display()))
}

fn failed(error: crate::crypto::CryptoError) -> ApiError {
    ApiError::new(500, error.to_string())
}
