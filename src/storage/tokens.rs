//! Enrolment tokens: 128 random bits bound to one user name, good once and for a while. The file's name is
//! made from a hash of the user name, which may hold anything.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{At, StoreError};
use super::head::Moment;
use super::layout::read_small_file;
use crate::base::durable::{Disk, FILE_MODE, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{UserName, hex, random_array, unhex};
use crate::base::time::Timestamp;
use crate::crypto::blake3_hash as hash;

pub const TOKEN_BYTES: usize = 16;
const TOKEN_FILE_BYTES_MAX: u64 = 4 * 1024;

#[derive(Serialize, Deserialize)]
struct TokenFile {
    version: u64,
    name: UserName,
    token: String,
    expires: Moment,
}

fn file_name(name: &UserName) -> String {
    format!("{}.json", hex(&hash(name.as_str().as_bytes())[..16]))
}

/// Makes a token for `name`, in the place of an earlier one.
pub fn create(
    disk: &Disk,
    folder: &Path,
    name: &UserName,
    lifetime: Duration,
) -> Result<[u8; TOKEN_BYTES], StoreError> {
    let token: [u8; TOKEN_BYTES] = random_array();
    let mut expires = Timestamp::now();
    expires.seconds = expires.seconds.saturating_add_unsigned(lifetime.as_secs());
    let file = TokenFile { version: 1, name: name.clone(), token: hex(&token), expires: expires.into() };
    let bytes = serde_json::to_vec_pretty(&file).expect("strings and numbers always serialise");
    let handle = open_folder(folder).at("open", folder)?;
    let path = folder.join(file_name(name));
    disk.replace_file(handle.as_fd(), file_name(name).as_bytes(), &bytes, FILE_MODE).at("write", &path)?;
    Ok(token)
}

/// The token of `name`, if there is one and its time is not over.
pub fn find(folder: &Path, name: &UserName) -> Result<Option<[u8; TOKEN_BYTES]>, StoreError> {
    let path = folder.join(file_name(name));
    let bytes = match read_small_file(&path, TOKEN_FILE_BYTES_MAX) {
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let file: TokenFile = serde_json::from_slice(&bytes).map_err(|error| StoreError::damaged(&path, error))?;
    let token = unhex(&file.token).ok_or_else(|| StoreError::damaged(&path, "its token is not 32 hex digits"))?;
    let is_good = file.name == *name && Timestamp::from(file.expires) > Timestamp::now();
    Ok(is_good.then_some(token))
}

/// Removes the token of `name`, if there is one.
pub fn consume(disk: &Disk, folder: &Path, name: &UserName) -> Result<(), StoreError> {
    let file_name = file_name(name);
    let handle = open_folder(folder).at("open", folder)?;
    let removed = exists(handle.as_fd(), file_name.as_bytes()).and_then(|there| match there {
        false => Ok(()),
        true => {
            disk.remove_file(handle.as_fd(), file_name.as_bytes())?;
            disk.flush_folder(handle.as_fd(), b"tokens")
        }
    });
    removed.at("remove", &folder.join(file_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_name_until_it_is_used_or_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::real();
        let name: UserName = "../ada".parse().unwrap();
        let token = create(&disk, folder.path(), &name, Duration::from_secs(60)).unwrap();
        assert_eq!(find(folder.path(), &name).unwrap(), Some(token));
        assert_eq!(find(folder.path(), &"bob".parse().unwrap()).unwrap(), None);
        consume(&disk, folder.path(), &name).unwrap();
        consume(&disk, folder.path(), &name).unwrap();
        assert_eq!(find(folder.path(), &name).unwrap(), None);
        create(&disk, folder.path(), &name, Duration::ZERO).unwrap();
        assert_eq!(find(folder.path(), &name).unwrap(), None);
    }
}
