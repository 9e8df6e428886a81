//! Enrolment tokens: 128 random bits bound to one user name, good once and for a while. The file's name is
//! made from a hash of the user name, which may hold anything. Beside them, openings: names that may register once
//! in the legacy dialect, which knows no tokens.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{At, StoreError, if_there};
use super::head::Moment;
use super::layout::{names_in, read_small_file};
use super::sealed_json::{decode_sealed, encode_sealed};
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

#[derive(Serialize, Deserialize)]
struct OpeningFile {
    version: u64,
    name: UserName,
    expires: Moment,
}

fn file_name(name: &UserName) -> String {
    format!("{}.json", name_hash(name))
}

fn opening_file_name(name: &UserName) -> String {
    format!("{}.legacy.json", name_hash(name))
}

fn name_hash(name: &UserName) -> String {
    hex(&hash(name.as_str().as_bytes())[..16])
}

fn after(lifetime: Duration) -> Timestamp {
    let mut time = Timestamp::now();
    time.seconds = time.seconds.saturating_add_unsigned(lifetime.as_secs());
    time
}

/// Makes a token for `name`, in the place of an earlier one.
pub fn create(
    disk: &Disk,
    folder: &Path,
    name: &UserName,
    lifetime: Duration,
) -> Result<[u8; TOKEN_BYTES], StoreError> {
    let token: [u8; TOKEN_BYTES] = random_array();
    let expires = after(lifetime).into();
    let file = TokenFile { version: 1, name: name.clone(), token: hex(&token), expires };
    write(disk, folder, &file_name(name), &file)?;
    Ok(token)
}

fn write(disk: &Disk, folder: &Path, file_name: &str, file: &impl Serialize) -> Result<(), StoreError> {
    let bytes = encode_sealed(file);
    let handle = open_folder(folder).at("open", folder)?;
    let path = folder.join(file_name);
    disk.replace_file(handle.as_fd(), file_name.as_bytes(), &bytes, FILE_MODE).at("write", &path)
}

/// Opens `name` for one legacy registration, in the place of an earlier opening; gives until when.
pub fn create_opening(
    disk: &Disk,
    folder: &Path,
    name: &UserName,
    lifetime: Duration,
) -> Result<Timestamp, StoreError> {
    let expires = after(lifetime);
    let file = OpeningFile { version: 1, name: name.clone(), expires: expires.into() };
    write(disk, folder, &opening_file_name(name), &file)?;
    Ok(expires)
}

/// Whether `name` is open for a legacy registration.
pub fn has_opening(folder: &Path, name: &UserName) -> Result<bool, StoreError> {
    let path = folder.join(opening_file_name(name));
    let Some(bytes) = read(&path)? else { return Ok(false) };
    let file: OpeningFile = decode_sealed(&bytes, &path)?;
    Ok(file.name == *name && Timestamp::from(file.expires) > Timestamp::now())
}

/// Removes the opening of `name`, if there is one.
pub fn consume_opening(disk: &Disk, folder: &Path, name: &UserName) -> Result<(), StoreError> {
    remove(disk, folder, &opening_file_name(name))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    if_there(read_small_file(path, TOKEN_FILE_BYTES_MAX))
}

/// The token of `name`, if there is one and its time is not over.
pub fn find(folder: &Path, name: &UserName) -> Result<Option<[u8; TOKEN_BYTES]>, StoreError> {
    let path = folder.join(file_name(name));
    let Some(bytes) = read(&path)? else { return Ok(None) };
    let file: TokenFile = decode_sealed(&bytes, &path)?;
    let token = unhex(&file.token).ok_or_else(|| StoreError::damaged(&path, "its token is not 32 hex digits"))?;
    let is_good = file.name == *name && Timestamp::from(file.expires) > Timestamp::now();
    Ok(is_good.then_some(token))
}

/// Reads every token and opening; gives what cannot be read.
pub fn check_all(folder: &Path) -> Result<Vec<StoreError>, StoreError> {
    let mut damaged = Vec::new();
    for name in names_in(folder)?.iter().filter(|name| name.ends_with(".json")) {
        let path = folder.join(name);
        let Some(bytes) = read(&path)? else { continue };
        let checked = match name.ends_with(".legacy.json") {
            true => decode_sealed::<OpeningFile>(&bytes, &path).map(drop),
            false => decode_sealed::<TokenFile>(&bytes, &path).map(drop),
        };
        damaged.extend(checked.err());
    }
    Ok(damaged)
}

/// Removes the token of `name`, if there is one.
pub fn consume(disk: &Disk, folder: &Path, name: &UserName) -> Result<(), StoreError> {
    remove(disk, folder, &file_name(name))
}

fn remove(disk: &Disk, folder: &Path, file_name: &str) -> Result<(), StoreError> {
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

    #[test]
    fn an_opening_is_no_token_and_a_token_no_opening() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::real();
        let [ada, bob] = ["ada", "bob"].map(|name| name.parse::<UserName>().unwrap());
        create_opening(&disk, folder.path(), &ada, Duration::from_secs(60)).unwrap();
        create(&disk, folder.path(), &bob, Duration::from_secs(60)).unwrap();
        assert!(has_opening(folder.path(), &ada).unwrap() && !has_opening(folder.path(), &bob).unwrap());
        assert_eq!(find(folder.path(), &ada).unwrap(), None);
        consume_opening(&disk, folder.path(), &ada).unwrap();
        assert!(!has_opening(folder.path(), &ada).unwrap());
        create_opening(&disk, folder.path(), &ada, Duration::ZERO).unwrap();
        assert!(!has_opening(folder.path(), &ada).unwrap());
    }
}
