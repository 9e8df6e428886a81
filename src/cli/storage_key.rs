//! The storage key: read where the operator keeps it, or made for a store that has none.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::arguments::{Arguments, UsageError};
use super::setup::CliError;
use crate::base::durable;
use crate::base::hook::Hook;
use crate::base::limits::STORAGE_KEY_TEXT_BYTES_MAX;
use crate::crypto::{KeyId, StorageKey};
use crate::server::ServerError;
use crate::storage::{SealingState, StorageKeys};

/// Mode of a key that is made.
const KEY_MODE: u32 = 0o600;

/// The flags that say where a key is.
#[derive(Clone, Copy)]
pub struct KeyFlags {
    pub file: &'static str,
    pub command: &'static str,
}

pub const CURRENT: KeyFlags = KeyFlags { file: "storage-key-file", command: "storage-key-command" };
pub const NEW: KeyFlags = KeyFlags { file: "new-storage-key-file", command: "new-storage-key-command" };

/// Where a key is kept.
pub enum KeyPlace {
    File(PathBuf),
    Command(Hook),
}

impl KeyPlace {
    /// None where it is not said. A file within the data folder, or that lies there by another name as well, is refused:
    /// whoever has that would have the key.
    pub fn of(arguments: &Arguments, flags: KeyFlags, data: &Path) -> Result<Option<KeyPlace>, UsageError> {
        let command: Option<Hook> = arguments.parsed(flags.command)?;
        match (arguments.path(flags.file), command) {
            (None, None) => Ok(None),
            (None, Some(command)) => Ok(Some(KeyPlace::Command(command))),
            (Some(file), None) if is_within(&file, data) || is_linked_into(&file, data) => {
                Err(UsageError(format!(
                    "--{} {}: the key must not lie in the data folder {}, which it protects: keep it elsewhere",
                    flags.file,
                    file.display(),
                    data.display()
                )))
            }
            (Some(file), None) => Ok(Some(KeyPlace::File(file))),
            (Some(_), Some(_)) => Err(UsageError(format!(
                "--{} and --{} exclude each other: leave one out",
                flags.file, flags.command
            ))),
        }
    }

    /// Reads the key.
    pub fn read(&self) -> Result<Arc<StorageKey>, CliError> {
        let text = match self {
            KeyPlace::File(path) => read_file(path)?,
            KeyPlace::Command(command) => command
                .ask(STORAGE_KEY_TEXT_BYTES_MAX)
                .map_err(|error| failed(format!("the storage key's command gives none: {error}")))?,
        };
        let text = zeroize::Zeroizing::new(text);
        let key = StorageKey::parse(&text).map_err(|error| failed(format!("{}: {error}", self.show())))?;
        Ok(Arc::new(key))
    }

    /// Whether it is a file that is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, KeyPlace::File(path) if path.symlink_metadata().is_err())
    }

    /// Reads the key; where its file is not there, makes it first, and says so.
    pub fn read_or_make(&self) -> Result<Arc<StorageKey>, CliError> {
        let KeyPlace::File(path) = self else { return self.read() };
        if !self.is_missing() {
            return self.read();
        }
        let key = StorageKey::random();
        durable::replace_file(path, key.text().as_bytes(), KEY_MODE)
            .map_err(|source| failed(format!("cannot write the storage key {}: {source}", path.display())))?;
        log::warn!(
            "made the storage key {} in {}: keep a copy of that file in another place. Whoever loses it loses all that \
             is sealed with it: nobody can bring that back",
            key.id(),
            path.display()
        );
        Ok(Arc::new(key))
    }

    fn show(&self) -> String {
        match self {
            KeyPlace::File(path) => path.display().to_string(),
            KeyPlace::Command(_) => "what the storage key's command printed".to_string(),
        }
    }
}

/// The key that an operator's command was given, if any.
pub fn given(arguments: &Arguments, data: &Path) -> Result<StorageKeys, CliError> {
    let place = KeyPlace::of(arguments, CURRENT, data)?;
    let key = place.map(|place| place.read()).transpose()?;
    Ok(StorageKeys { key, ..StorageKeys::default() })
}

/// The key that a server was given. For a store that is not sealed yet it is made where its file is not there.
pub fn for_server(arguments: &Arguments, data: &Path) -> Result<StorageKeys, CliError> {
    let place = KeyPlace::of(arguments, CURRENT, data)?;
    let begin = arguments.is_on("encrypt-at-rest");
    let key = match (place, begin) {
        (None, true) => {
            let text = "--encrypt-at-rest needs a storage key: give --storage-key-file FILE, outside the data folder \
                        (made if missing), or --storage-key-command CMD";
            return Err(UsageError(text.into()).into());
        }
        (Some(place), true) => match wanted_key(data)? {
            None => Some(place.read_or_make()?),
            // Nobody gets a new key for what is sealed.
            Some(wanted) => Some(place.read().map_err(|error| match error {
                CliError::Server(ServerError::StorageKey(text)) => {
                    failed(format!("{text}. The store is sealed with the storage key {wanted}"))
                }
                error => error,
            })?),
        },
        (Some(place), false) => Some(place.read()?),
        (None, false) => None,
    };
    Ok(StorageKeys { key, begin, mend: false })
}

/// The key that a store is sealed with, if it is.
fn wanted_key(data: &Path) -> Result<Option<KeyId>, CliError> {
    SealingState::wanted_key(data).map_err(|error| CliError::from(ServerError::Store(error)))
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let cannot =
        |source: std::io::Error| failed(format!("cannot read the storage key {}: {source}", path.display()));
    // What is no file could keep the opening waiting, or never end.
    let mut options = std::fs::File::options();
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(failed(format!("cannot read the storage key {}: it is no regular file", path.display())));
    }
    if metadata.mode() & 0o077 != 0 {
        log::warn!("others can read the storage key {}: take that away (chmod 600)", path.display());
    }
    let mut bytes = Vec::new();
    file.take(STORAGE_KEY_TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > STORAGE_KEY_TEXT_BYTES_MAX {
        return Err(failed(format!("{} is too large for a storage key, which has 64 hex digits", path.display())));
    }
    Ok(bytes)
}

fn failed(text: String) -> CliError {
    CliError::Server(ServerError::StorageKey(text))
}

/// Whether a file lies below the folder, by its name or behind links.
fn is_within(file: &Path, folder: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (file, folder) = (absolute(file), absolute(folder));
    let real_folder = real_path(&folder);
    file.starts_with(&folder) || real_path(&file).starts_with(real_folder)
}

/// Whether the file has another name in the folder itself, or the folder another path that leads to it: hard links and
/// mounts, which no comparison of paths shows.
fn is_linked_into(file: &Path, folder: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    let real = real_path(&std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()));
    let (own, held) = (place(&real), place(folder));
    let is_below = held.is_some() && real.ancestors().skip(1).any(|above| place(above) == held);
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    is_below || own.is_some() && names.map(|item| item.path()).any(|path| place(&path) == own)
}

/// The path with all links followed, as far as it is there.
fn real_path(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real_path(parent).join(name),
        (Err(_), _, _) => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_within_the_data_folder_is_seen_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("server");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(data.join("key"), folder.path().join("key")).unwrap();
        std::fs::write(data.join("key"), b"").unwrap();
        for within in ["server/key", "server/keys/other", "link/new", "key", "link/../server/x"] {
            assert!(is_within(&folder.path().join(within), &data), "{within}");
        }
        assert!(!is_within(&folder.path().join("server-key"), &data));
    }

    #[test]
    fn a_key_that_is_linked_into_the_data_folder_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (data, key, other) =
            (folder.path().join("server"), folder.path().join("key"), folder.path().join("other"));
        assert!(!is_linked_into(&key, &data));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("lock"), b"").unwrap();
        for file in [&key, &other] {
            std::fs::write(file, b"").unwrap();
        }
        std::fs::hard_link(&key, data.join("name")).unwrap();
        assert!(is_linked_into(&key, &data));
        assert!(!is_linked_into(&other, &data));
        assert!(!is_linked_into(&folder.path().join("new"), &data));
        // As behind a mount: the folder is met above the file.
        assert!(is_linked_into(&data.join("new"), &data));
    }

    #[test]
    fn a_key_is_read_from_a_regular_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let Err(CliError::Server(error)) = read_file(path) else { panic!("{} was read", path.display()) };
            let error = error.to_string();
            assert!(error.ends_with("it is no regular file"), "{error}");
        }
    }
}
