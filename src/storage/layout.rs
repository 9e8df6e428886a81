//! Where everything lies below the data folder, and the folder itself made ready. The invariant: all of it
//! is on one file system, since a commit is made of renames.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::at_rest::{ClientKeyring, FileKeyring, Keyring, SealedKind};
use super::error::{At, StoreError};
use crate::base::durable::Disk;
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId, UserName};
use crate::base::order::sort;

/// The folders that are made at the first start.
const FOLDERS: [&str; 10] = [
    "received_files",
    "deltas",
    "ranges",
    "snapshots",
    "incoming",
    "clients",
    "tokens",
    "keys",
    "damage",
    "vaults",
];
/// Those with secrets in them: made private again where they are not.
const PRIVATE_FOLDERS: [&str; 3] = ["keys", "clients", "tokens"];
/// Most bytes of a user name in the name of a client's folders.
const CLIENT_FOLDER_NAME_BYTES: usize = 48;

/// Says how the store is sealed.
pub const SEALING_NAME: &str = "sealing.json";

/// A folder of range files, and what opens them.
#[derive(Debug, Clone)]
pub struct RangeFolder {
    pub path: PathBuf,
    pub keyring: FileKeyring,
}

/// Paths below the data folder, and how what lies there is sealed.
#[derive(Debug)]
pub struct Layout {
    data: PathBuf,
    keyring: Keyring,
}

impl Layout {
    /// Makes the folder (0700) and what belongs in it, where missing.
    pub fn create(data: &Path, disk: &Disk) -> Result<Layout, StoreError> {
        make_data_folder(data).at("create", data)?;
        let folder = open_folder(data).at("open", data)?;
        for name in FOLDERS {
            disk.make_folder_if_missing(folder.as_fd(), name.as_bytes()).at("create", &data.join(name))?;
        }
        for path in PRIVATE_FOLDERS.map(|name| data.join(name)) {
            tighten(&path).at("take others' rights away from", &path)?;
        }
        disk.flush_folder(folder.as_fd(), b"data folder").at("flush", data)?;
        let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A parent that may be entered but not read cannot be flushed; the folder was there before, then.
        if let Ok(parent_folder) = open_folder(parent) {
            disk.flush_folder(parent_folder.as_fd(), b"parent of the data folder").at("flush", parent)?;
        }
        let layout = Layout { data: data.to_path_buf(), keyring: Keyring::plain() };
        layout.check_one_file_system()?;
        Ok(layout)
    }

    fn check_one_file_system(&self) -> Result<(), StoreError> {
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).at("look at", path);
        let expected = device(&self.data)?;
        for name in FOLDERS {
            let path = self.data.join(name);
            if device(&path)? != expected {
                return Err(StoreError::SeveralFileSystems { path });
            }
        }
        Ok(())
    }

    pub fn data(&self) -> &Path {
        &self.data
    }
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }
    /// What opens the files of a client.
    pub fn keyring_of(&self, client: &ClientFolder) -> ClientKeyring {
        self.keyring.of(client)
    }
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.keyring = keyring;
    }
    /// The range files of a client.
    pub fn range_files(&self, client: &ClientFolder) -> RangeFolder {
        RangeFolder { path: self.ranges(client), keyring: self.keyring_of(client).files(SealedKind::Range) }
    }
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }
    pub fn daily(&self) -> PathBuf {
        self.data.join("daily.json")
    }
    pub fn keys(&self) -> PathBuf {
        self.data.join("keys")
    }
    pub fn clients(&self) -> PathBuf {
        self.data.join("clients")
    }
    pub fn tokens(&self) -> PathBuf {
        self.data.join("tokens")
    }
    pub fn damage(&self) -> PathBuf {
        self.data.join("damage")
    }
    /// The folder that has one for each vault.
    pub fn vaults(&self) -> PathBuf {
        self.data.join("vaults")
    }
    /// The list of a client's damaged contents.
    pub fn damage_list(&self, client: &ClientFolder) -> PathBuf {
        self.damage().join(format!("{client}.list"))
    }
    /// What was verified when.
    pub fn checked(&self, client: &ClientFolder) -> PathBuf {
        self.damage().join(format!("{client}.checked"))
    }
    pub fn incoming_of_all(&self) -> PathBuf {
        self.data.join("incoming")
    }
    pub fn received_of_all(&self) -> PathBuf {
        self.data.join("received_files")
    }
    pub fn deltas_of_all(&self) -> PathBuf {
        self.data.join("deltas")
    }
    pub fn ranges_of_all(&self) -> PathBuf {
        self.data.join("ranges")
    }
    pub fn snapshots_of_all(&self) -> PathBuf {
        self.data.join("snapshots")
    }
    /// The folders that have one for each client.
    pub fn client_parents(&self) -> [PathBuf; 5] {
        [
            self.received_of_all(),
            self.deltas_of_all(),
            self.ranges_of_all(),
            self.snapshots_of_all(),
            self.incoming_of_all(),
        ]
    }
    pub fn incoming(&self, client: &ClientFolder) -> PathBuf {
        self.incoming_of_all().join(client.as_str())
    }
    pub fn received(&self, client: &ClientFolder) -> PathBuf {
        self.received_of_all().join(client.as_str())
    }
    pub fn deltas(&self, client: &ClientFolder) -> PathBuf {
        self.deltas_of_all().join(client.as_str())
    }
    pub fn ranges(&self, client: &ClientFolder) -> PathBuf {
        self.ranges_of_all().join(client.as_str())
    }
    pub fn snapshots(&self, client: &ClientFolder) -> PathBuf {
        self.snapshots_of_all().join(client.as_str())
    }
    pub fn index(&self, client: &ClientFolder, snapshot: SnapshotId) -> PathBuf {
        self.snapshots(client).join(index_name(snapshot))
    }
}

pub fn head_name(snapshot: SnapshotId) -> String {
    format!("{snapshot}.json")
}

/// What the blocks of a snapshot's large contents are called, beside the ranges.
pub fn blocks_name(snapshot: SnapshotId) -> String {
    format!("{snapshot}.blocks")
}

pub fn index_name(snapshot: SnapshotId) -> String {
    format!("{snapshot}.index")
}

/// What a head is called once its snapshot has been dropped.
pub fn dropped_name(snapshot: SnapshotId) -> String {
    format!("{snapshot}.dropped")
}

/// What says that a snapshot must not be dropped.
pub fn held_name(snapshot: SnapshotId) -> String {
    format!("{snapshot}.held")
}

/// A folder that is there keeps its mode: somebody chose it. The folders above are made as the umask says.
fn make_data_folder(data: &Path) -> io::Result<()> {
    if data.is_dir() {
        return Ok(());
    }
    if let Some(parent) = data.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)
}

fn tighten(folder: &Path) -> io::Result<()> {
    match std::fs::metadata(folder)?.mode() & 0o077 {
        0 => Ok(()),
        _ => std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)),
    }
}

/// What a client's folders are called, in each of the folders that have one for every client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientFolder(String);

impl ClientFolder {
    /// The user name with everything but ASCII letters, digits, `.`, `_` and `-` replaced by `_`, cut to
    /// 48 bytes, and 8 hex digits of the id, so that two names that clean up alike stay apart.
    pub fn create(name: &UserName, id: ClientId) -> ClientFolder {
        let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
        let mut cleaned: String = name.as_str().chars().map(clean).take(CLIENT_FOLDER_NAME_BYTES).collect();
        if cleaned.starts_with('.') {
            cleaned.replace_range(..1, "_");
        }
        ClientFolder(format!("{cleaned}-{}", &id.to_string()[..8]))
    }

    /// Takes a name read from a file, if it is one that [`ClientFolder::create`] could have made.
    pub fn parse(text: &str) -> Option<ClientFolder> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = !text.is_empty() && text.len() <= CLIENT_FOLDER_NAME_BYTES + 9 && !text.starts_with('.');
        (fits && text.chars().all(allowed)).then(|| ClientFolder(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The names in a folder that are text, sorted; none for a folder that is not there. Everything the store
/// names itself is ASCII, so that other names are not its own.
pub fn names_in(folder: &Path) -> Result<Vec<String>, StoreError> {
    let listing = match std::fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list", folder),
    };
    let mut names = Vec::new();
    for item in listing {
        names.extend(item.at("list", folder)?.file_name().into_string());
    }
    sort(&mut names);
    Ok(names)
}

/// Reads a file whole unless it is larger than `limit`.
pub fn read_small_file(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    use std::io::Read;
    let file = std::fs::File::open(path).at("open", path)?;
    let length = file.metadata().at("look at", path)?.len();
    if length > limit {
        return Err(StoreError::damaged(path, format!("{length} bytes, where at most {limit} can be")));
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    file.take(limit).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_folder_is_a_plain_name_whatever_the_user_is_called() {
        let id = ClientId::from_bytes([0xab; 16]);
        let folder = |name: &str| ClientFolder::create(&name.parse().unwrap(), id).0;
        assert_eq!(folder("ada"), "ada-abababab");
        assert_eq!(folder("../Ada Lovelace"), "_._Ada_Lovelace-abababab");
        assert_eq!(folder(&"é".repeat(100)), format!("{}-abababab", "_".repeat(48)));
        assert_eq!(ClientFolder::parse("ada-abababab").unwrap().as_str(), "ada-abababab");
        for bad in ["", ".", "..", "a/b", ".tmp-1", "a\0"] {
            assert_eq!(ClientFolder::parse(bad), None);
        }
    }

    #[test]
    fn opening_makes_private_folders() {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().join("deep/server");
        Layout::create(&data, &Disk::real()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&data), 0o700);
        for name in FOLDERS {
            assert_eq!(mode(&data.join(name)), 0o700);
        }
        for name in ["", "keys"] {
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(data.join(name), open).unwrap();
        }
        Layout::create(&data, &Disk::real()).unwrap();
        assert_eq!((mode(&data), mode(&data.join("keys"))), (0o755, 0o700));
    }
}
