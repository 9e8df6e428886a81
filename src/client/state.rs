//! The state folder: who this client is at its server, its keys, and how the last run went.
//!
//! One run at a time holds the folder, by a lock that ends with the process. What is written is replaced
//! whole or not at all. An identity belongs to one user name and one server, and a server is known by its
//! key, not by its address: the rules are in [`Identity::check`].

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::facts::cause;
use crate::base::durable;
use crate::base::ids::{ClientId, UserName};
use crate::base::path::display_bytes;
use crate::base::time::Timestamp;

/// The version of `identity.json` that is written, and the newest that is read.
const IDENTITY_VERSION: u32 = 1;
/// How much of a file in the state folder is read.
const STATE_FILE_BYTES_MAX: usize = 64 * 1024;

const IDENTITY_FILE: &str = "identity.json";
const STATUS_FILE: &str = "status.json";
const LOCK_FILE: &str = "lock";
const PRIVATE_KEY_FILE: &str = "valid_private_key.der";
/// The private key that takes the place of the other with the first login in which the server uses it.
const NEXT_PRIVATE_KEY_FILE: &str = "valid_private_key.der.next";
const PUBLIC_KEY_FILE: &str = "valid_public_key.der";

/// Why the state folder cannot be used, or does not fit this run.
#[derive(Debug)]
pub enum StateError {
    /// No flag, no `transfer.info` and no home folder say where it is (exit 2).
    NoPlace,
    /// Another run holds it (exit 1).
    Locked {
        folder: PathBuf,
        holder: String,
    },
    /// A file in it cannot be understood (exit 2).
    Damaged {
        file: PathBuf,
        problem: String,
    },
    /// The chain of heads in vaults cannot be understood (exit 2).
    DamagedChain {
        file: PathBuf,
        problem: String,
    },
    /// A file in it comes from a newer program (exit 2).
    NewerFile {
        file: PathBuf,
        version: u32,
    },
    /// The server at the recorded address has another key (exit 5).
    ChangedServerKey {
        address: String,
        recorded: String,
        found: String,
    },
    /// It belongs to another server (exit 2).
    WrongServer {
        recorded: String,
        found: String,
    },
    /// It belongs to another user (exit 2).
    WrongUser {
        recorded: UserName,
        wanted: UserName,
    },
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::NoPlace => {
                write!(formatter, "there is no place for the state folder: HOME is not set: name one with --state")
            }
            StateError::Locked { folder, holder } => write!(
                formatter,
                "the state folder {} is in use by {holder}: wait for that run, or use another folder with --state",
                shown(folder)
            ),
            StateError::Damaged { file, problem } => write!(
                formatter,
                "{} is damaged ({problem}): put a saved copy back, or move it away to register anew",
                shown(file)
            ),
            StateError::DamagedChain { file, problem } => write!(
                formatter,
                "{} is damaged ({problem}): put a saved copy back; without it, what the server has lost or exchanged of a \
                 vault before now is not found by this host",
                shown(file)
            ),
            StateError::NewerFile { file, version } => write!(
                formatter,
                "{} has version {version}, which a newer cyberbackup has written: use that one",
                shown(file)
            ),
            StateError::ChangedServerKey { address, recorded, found } => write!(
                formatter,
                "the server at {address} has another key than before ({found}, not {recorded}): somebody may be in \
                 between; if the server was set up anew, or its key was exchanged while this client was away, compare the new fingerprint with its operator, then move \
             identity.json out of the state folder"
            ),
            StateError::WrongServer { recorded, found } => write!(
                formatter,
                "this state folder belongs to another server (its key is {recorded}, this one's is {found}): use \
                 another folder with --state"
            ),
            StateError::WrongUser { recorded, wanted } => write!(
                formatter,
                "this state folder belongs to the user {recorded}, not {wanted}: use --user \"{recorded}\", or another \
                 folder with --state"
            ),
            StateError::Io { path, action, source } => {
                write!(formatter, "cannot {action} {}: {}", shown(path), cause(source))?;
                write!(formatter, ": make it accessible, or use another folder with --state")
            }
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StateError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What decides where the state folder is.
#[derive(Debug, Clone, Default)]
pub struct StatePlaces {
    /// `--state`.
    pub flag: Option<PathBuf>,
    /// The `transfer.info` in use.
    pub transfer_info: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

impl StatePlaces {
    /// The places of this process, with what its arguments said.
    pub fn from_environment(flag: Option<PathBuf>, transfer_info: Option<PathBuf>) -> StatePlaces {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        StatePlaces { flag, transfer_info, xdg_state_home: variable("XDG_STATE_HOME"), home: variable("HOME") }
    }

    /// The state folder: the flag's, else `client/` beside the `transfer.info`, else the user's.
    pub fn resolve(&self) -> Result<PathBuf, StateError> {
        // The XDG base directory specification: a value that is not absolute is to be ignored.
        let absolute = |path: &&PathBuf| path.is_absolute();
        let beside = |file: &PathBuf| file.parent().unwrap_or(Path::new("")).join("client");
        self.flag
            .clone()
            .or_else(|| self.transfer_info.as_ref().map(beside))
            .or_else(|| self.xdg_state_home.as_ref().filter(absolute).map(|path| path.join("cyberbackup")))
            .or_else(|| self.home.as_ref().filter(absolute).map(|home| home.join(".local/state/cyberbackup")))
            .ok_or(StateError::NoPlace)
    }
}

/// An open state folder: ours until it is dropped, or only looked at.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    /// None while another run holds the lock and this one only reads.
    lock: Option<File>,
    /// Where a legacy client may be installed: the folder of the `transfer.info` in use.
    installed: Option<PathBuf>,
}

impl StateFolder {
    /// Opens the folder, makes it (0700) where there is none, and locks it. `purpose` tells another run
    /// who holds it, as in `backup`.
    pub fn open(folder: &Path, purpose: &str) -> Result<StateFolder, StateError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed(folder, "make the state folder"))?;
        let lock = take_lock(folder, purpose)?;
        Ok(StateFolder { folder: folder.to_path_buf(), lock: Some(lock), installed: None })
    }

    /// Opens the folder for a command that only asks the server something. Beside another run it reads what
    /// is there and writes nothing; a folder that was never used is locked, because it has to be filled.
    pub fn open_for_reading(folder: &Path, purpose: &str) -> Result<StateFolder, StateError> {
        match StateFolder::open(folder, purpose) {
            Err(StateError::Locked { .. }) if folder.join(IDENTITY_FILE).exists() => {
                Ok(StateFolder { folder: folder.to_path_buf(), lock: None, installed: None })
            }
            other => other,
        }
    }

    /// The same, beside a `transfer.info` with which a legacy client may have been run.
    pub fn beside(self, transfer_info: Option<&Path>) -> StateFolder {
        StateFolder { installed: transfer_info.and_then(Path::parent).map(Path::to_path_buf), ..self }
    }

    /// Where a legacy client would have left this file.
    pub(super) fn installed_file(&self, name: &str) -> Option<PathBuf> {
        self.installed.as_ref().map(|folder| folder.join(name))
    }

    /// Opens a folder that has been used before, and locks nothing: for questions beside any other run.
    pub fn look(folder: &Path) -> StateFolder {
        StateFolder { folder: folder.to_path_buf(), lock: None, installed: None }
    }

    /// Whether this run may write here.
    pub fn is_exclusive(&self) -> bool {
        self.lock.is_some()
    }

    /// Where the private key lies, for messages.
    pub fn private_key_path(&self) -> PathBuf {
        self.folder.join(PRIVATE_KEY_FILE)
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The identity; none before the first registration.
    pub fn read_identity(&self) -> Result<Option<Identity>, StateError> {
        let file = self.folder.join(IDENTITY_FILE);
        let Some(bytes) = read_bounded(&file)? else { return Ok(None) };
        let damaged = |problem| StateError::Damaged { file: file.clone(), problem };
        Identity::parse(&bytes).map(Some).map_err(damaged)
    }

    pub fn write_identity(&self, identity: &Identity) -> Result<(), StateError> {
        self.write_json(IDENTITY_FILE, &IdentityFile { version: IDENTITY_VERSION, identity: identity.clone() })
    }

    /// The private key as it lies on the disk (PKCS#8); none before the first run.
    pub fn read_private_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read_bounded(&self.folder.join(PRIVATE_KEY_FILE))
    }

    /// The private key that is to follow; none where no rotation is under way.
    pub fn read_next_private_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read_bounded(&self.folder.join(NEXT_PRIVATE_KEY_FILE))
    }

    /// Writes the private key that is to follow (0600); an earlier one that was to follow is lost.
    pub fn write_next_private_key(&self, private_der: &[u8]) -> Result<(), StateError> {
        self.write_file(NEXT_PRIVATE_KEY_FILE, private_der, 0o600)
    }

    /// Puts the next key in the place of the present one, which is gone then. As with a new pair, the public key comes
    /// last.
    pub fn promote_next_key(&self, public_der: &[u8]) -> Result<(), StateError> {
        let next = self.folder.join(NEXT_PRIVATE_KEY_FILE);
        durable::rename_file(&next, PRIVATE_KEY_FILE).map_err(failed(&next, "rename"))?;
        self.write_file(PUBLIC_KEY_FILE, public_der, 0o644)
    }

    /// Where the next private key lies, for messages.
    pub fn next_private_key_path(&self) -> PathBuf {
        self.folder.join(NEXT_PRIVATE_KEY_FILE)
    }

    /// What to tell a person whose private key others can read.
    pub fn open_key_warning(&self) -> Option<String> {
        open_key_warning(&self.folder.join(PRIVATE_KEY_FILE))
    }

    /// The public key as it lies on the disk (SubjectPublicKeyInfo).
    pub fn read_public_key(&self) -> Result<Option<Vec<u8>>, StateError> {
        Ok(read_bounded(&self.folder.join(PUBLIC_KEY_FILE))?.map(|bytes| bytes.to_vec()))
    }

    /// Writes the pair, the private key (0600) first: the public one can be derived from it, and is
    /// where a crash fell between the two.
    pub fn write_keys(&self, private_der: &[u8], public_der: &[u8]) -> Result<(), StateError> {
        self.write_file(PRIVATE_KEY_FILE, private_der, 0o600)?;
        self.write_file(PUBLIC_KEY_FILE, public_der, 0o644)
    }

    /// Writes the public key alone, derived again from the private one.
    pub fn write_public_key(&self, public_der: &[u8]) -> Result<(), StateError> {
        self.write_file(PUBLIC_KEY_FILE, public_der, 0o644)
    }

    /// Keeps how the last run went, for a person or a program that watches.
    pub fn write_status(&self, status: &serde_json::Value) -> Result<(), StateError> {
        self.write_json(STATUS_FILE, status)
    }

    /// Another small file of the folder; none where there is none.
    pub(super) fn read_file(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read_bounded(&self.folder.join(name))
    }

    /// A file that may be longer, and holds no secret.
    pub(super) fn read_long_file(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
        let file = self.folder.join(name);
        let opened = match File::open(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed(&file, "open"))?,
        };
        let mut bytes = Vec::new();
        opened.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed(&file, "read"))?;
        match bytes.len() as u64 <= bytes_max {
            true => Ok(Some(bytes)),
            false => {
                Err(StateError::Damaged { file, problem: format!("it is larger than {} KiB", bytes_max / 1024) })
            }
        }
    }

    /// Moves a file of it to another name, in the place of what was there.
    pub(super) fn set_aside(&self, name: &str, aside: &str) -> Result<(), StateError> {
        let file = self.folder.join(name);
        std::fs::rename(&file, self.folder.join(aside)).map_err(failed(&file, "move"))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), StateError> {
        let file = self.folder.join(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&file, "remove")(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let file = self.folder.join(name);
        let mut bytes =
            serde_json::to_vec_pretty(value).map_err(|error| failed(&file, "write")(io::Error::other(error)))?;
        bytes.push(b'\n');
        self.write_file(name, &bytes, 0o600)
    }

    pub(super) fn write_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        let file = self.folder.join(name);
        durable::replace_file(&file, bytes, mode).map_err(failed(&file, "write"))
    }
}

/// Who this client is, and at which server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub user: UserName,
    /// The fingerprint of the server's key: what makes it that server.
    pub server_fingerprint: String,
    /// The fingerprint of the key that is to follow it, as the server has announced in a session of the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_server_fingerprint: Option<String>,
    /// Where the server was last; none for a server inside the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_address: Option<String>,
    /// What the server calls this client; none before the registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    version: u32,
    #[serde(flatten)]
    identity: Identity,
}

/// What to do about an identity that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityCheck {
    /// Nothing.
    Same,
    /// It is the same server at another address, or with the key that it has announced: write this record.
    Moved(Identity),
}

impl Identity {
    /// Takes the bytes of `identity.json`.
    fn parse(bytes: &[u8]) -> Result<Identity, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match version.version {
            0 => return Err("there is no version 0".to_string()),
            1..=IDENTITY_VERSION => {}
            newer => return Err(format!("version {newer} is from a newer cyberbackup")),
        }
        let file: IdentityFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        Ok(file.identity)
    }

    /// Whether this identity is for `user`, before any server is reached.
    pub fn check_user(&self, user: &UserName) -> Result<(), StateError> {
        if self.user != *user {
            return Err(StateError::WrongUser { recorded: self.user.clone(), wanted: user.clone() });
        }
        Ok(())
    }

    /// Whether this identity is for `user` at the server that shows the key `fingerprint` at `address`
    /// (none for a server inside the process).
    ///
    /// The same key is the same server, wherever it is. Another key at the recorded address is a changed
    /// key; another key anywhere else is another server.
    pub fn check(
        &self,
        user: &UserName,
        fingerprint: &str,
        address: Option<&str>,
    ) -> Result<IdentityCheck, StateError> {
        self.check_user(user)?;
        let recorded = self.server_address.as_deref();
        if self.server_fingerprint == fingerprint {
            return Ok(match address {
                Some(address) if recorded != Some(address) => {
                    IdentityCheck::Moved(Identity { server_address: Some(address.to_string()), ..self.clone() })
                }
                _ => IdentityCheck::Same,
            });
        }
        if self.next_server_fingerprint.as_deref() == Some(fingerprint) {
            let server_address = address.map(str::to_string).or_else(|| self.server_address.clone());
            let server_fingerprint = fingerprint.to_string();
            let renewed =
                Identity { server_fingerprint, next_server_fingerprint: None, server_address, ..self.clone() };
            return Ok(IdentityCheck::Moved(renewed));
        }
        let (was, found) = (self.server_fingerprint.clone(), fingerprint.to_string());
        match address.filter(|address| recorded == Some(*address)) {
            Some(address) => {
                Err(StateError::ChangedServerKey { address: address.to_string(), recorded: was, found })
            }
            None => Err(StateError::WrongServer { recorded: was, found }),
        }
    }
}

/// Takes the lock, and writes down who has it.
fn take_lock(folder: &Path, purpose: &str) -> Result<File, StateError> {
    let path = folder.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut lock = opened.map_err(failed(&path, "open"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StateError::Locked { folder: folder.to_path_buf(), holder: read_holder(&mut lock) });
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path, "lock")(error)),
    }
    let holder = format!("\"cyberbackup {purpose}\" (process {}, since {})", std::process::id(), Timestamp::now());
    // Only for the message of another run: the lock holds without it, on a full disk too.
    let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(holder.as_bytes()));
    Ok(lock)
}

fn read_holder(lock: &mut File) -> String {
    const HOLDER_BYTES_MAX: u64 = 256;
    let mut holder = Vec::new();
    match lock.take(HOLDER_BYTES_MAX).read_to_end(&mut holder) {
        Ok(count) if count > 0 => display_bytes(&holder),
        _ => "another run".to_string(),
    }
}

/// The file's bytes, in one allocation that is wiped; none where there is no file.
pub(super) fn read_bounded(file: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(file, "read")(error)),
    };
    // Room for one byte more than is allowed, so that reading never moves the bytes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(STATE_FILE_BYTES_MAX + 1));
    let read = opened.take(STATE_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(failed(file, "read"))?;
    if bytes.len() > STATE_FILE_BYTES_MAX {
        let problem = format!("it is larger than {} KiB", STATE_FILE_BYTES_MAX / 1024);
        return Err(StateError::Damaged { file: file.to_path_buf(), problem });
    }
    Ok(Some(bytes))
}

fn open_key_warning(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.mode() & 0o7777;
    let next = format!("take that right away with \"chmod 600 {}\"", shown(file));
    (mode & 0o077 != 0).then(|| format!("the private key {} can be read by others: {next}", shown(file)))
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io { path: path.to_path_buf(), action, source }
}

fn shown(path: &Path) -> String {
    display_bytes(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn identity(address: Option<&str>) -> Identity {
        Identity {
            user: user("ada"),
            server_fingerprint: "SHA256:one".to_string(),
            next_server_fingerprint: None,
            server_address: address.map(str::to_string),
            client_id: Some(ClientId::from_bytes([7; 16])),
        }
    }

    #[test]
    fn the_place_is_the_flag_then_beside_the_configuration_then_the_users() {
        let mut places = StatePlaces {
            flag: Some("s".into()),
            transfer_info: Some("etc/transfer.info".into()),
            xdg_state_home: Some("/x".into()),
            home: Some("/home/ada".into()),
        };
        assert_eq!(places.resolve().unwrap(), Path::new("s"));
        places.flag = None;
        assert_eq!(places.resolve().unwrap(), Path::new("etc/client"));
        places.transfer_info = Some("transfer.info".into());
        assert_eq!(places.resolve().unwrap(), Path::new("client"));
        places.transfer_info = None;
        assert_eq!(places.resolve().unwrap(), Path::new("/x/cyberbackup"));
        places.xdg_state_home = Some("not/absolute".into());
        assert_eq!(places.resolve().unwrap(), Path::new("/home/ada/.local/state/cyberbackup"));
        places.home = None;
        let wanted = "there is no place for the state folder: HOME is not set: name one with --state";
        assert_eq!(places.resolve().unwrap_err().to_string(), wanted);
    }

    #[test]
    fn the_same_key_is_the_same_server_wherever_it_is() {
        let at_home = identity(Some("home:1256"));
        let check = |identity: &Identity, address| identity.check(&user("ada"), "SHA256:one", address).unwrap();
        assert_eq!(check(&at_home, Some("home:1256")), IdentityCheck::Same);
        assert_eq!(check(&at_home, None), IdentityCheck::Same);
        assert_eq!(check(&at_home, Some("away:1")), IdentityCheck::Moved(identity(Some("away:1"))));
        assert_eq!(check(&identity(None), Some("away:1")), IdentityCheck::Moved(identity(Some("away:1"))));
        assert_eq!(check(&identity(None), None), IdentityCheck::Same);
    }

    #[test]
    fn another_key_is_a_changed_key_or_another_server() {
        let message = |identity: Identity, address| {
            identity.check(&user("ada"), "SHA256:two", address).unwrap_err().to_string()
        };
        assert_eq!(
            message(identity(Some("home:1256")), Some("home:1256")),
            "the server at home:1256 has another key than before (SHA256:two, not SHA256:one): somebody may be in \
             between; if the server was set up anew, or its key was exchanged while this client was away, compare \
             the new fingerprint with its operator, then move identity.json out of the state folder"
        );
        let other = "this state folder belongs to another server (its key is SHA256:one, this one's is SHA256:two): \
                     use another folder with --state";
        assert_eq!(message(identity(Some("home:1256")), Some("away:1")), other);
        assert_eq!(message(identity(Some("home:1256")), None), other);
        assert_eq!(message(identity(None), None), other);
        assert_eq!(message(identity(None), Some("home:1256")), other);
    }

    #[test]
    fn another_user_is_refused_whatever_the_server() {
        let error = identity(None).check(&user("bob"), "SHA256:one", None).unwrap_err();
        let wanted = "this state folder belongs to the user ada, not bob: use --user \"ada\", or another folder with \
                      --state";
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn an_identity_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        assert_eq!(state.read_identity().unwrap(), None);
        for address in [None, Some("[::1]:1256")] {
            state.write_identity(&identity(address)).unwrap();
            assert_eq!(state.read_identity().unwrap(), Some(identity(address)));
        }
        let text = std::fs::read_to_string(folder.path().join("identity.json")).unwrap();
        assert!(text.starts_with("{\n  \"version\": 1,\n  \"user\": \"ada\""), "{text}");
    }

    #[test]
    fn a_damaged_identity_is_named_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        let file = folder.path().join("identity.json");
        let message = |text: &str| {
            std::fs::write(&file, text).unwrap();
            state.read_identity().unwrap_err().to_string().replace(&file.display().to_string(), "FILE")
        };
        assert_eq!(
            message("{\"version\": 2}"),
            "FILE is damaged (version 2 is from a newer cyberbackup): put a saved copy back, or move it away to \
             register anew"
        );
        assert!(message("").starts_with("FILE is damaged (EOF while parsing"));
        assert!(message("{\"version\":1,\"user\":\"\",\"server_fingerprint\":\"\"}").contains("the name is empty"));
        assert!(message(&" ".repeat(70_000)).starts_with("FILE is damaged (it is larger than 64 KiB)"));
    }

    #[test]
    fn one_run_at_a_time_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/state");
        let first = StateFolder::open(&path, "backup").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let message = StateFolder::open(&path, "restore").unwrap_err().to_string();
        let start = format!(
            "the state folder {} is in use by \"cyberbackup backup\" (process {}, since 2",
            path.display(),
            std::process::id()
        );
        assert!(message.starts_with(&start), "{message}");
        assert!(message.ends_with("Z): wait for that run, or use another folder with --state"), "{message}");
        drop(first);
        StateFolder::open(&path, "restore").unwrap();
    }

    #[test]
    fn keys_are_private_and_an_open_one_is_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        assert!(state.read_private_key().unwrap().is_none());
        state.write_keys(b"private", b"public").unwrap();
        assert_eq!(state.read_private_key().unwrap().unwrap().as_slice(), b"private");
        assert_eq!(state.read_public_key().unwrap().unwrap(), b"public");
        let file = folder.path().join(PRIVATE_KEY_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(open_key_warning(&file), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let (shown, next) = (file.display(), "take that right away with \"chmod 600");
        let wanted = format!("the private key {shown} can be read by others: {next} {shown}\"");
        assert_eq!(open_key_warning(&file), Some(wanted));
    }

    #[test]
    fn the_last_result_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        state.write_status(&serde_json::json!({"exit": 3})).unwrap();
        let text = std::fs::read_to_string(folder.path().join("status.json")).unwrap();
        assert_eq!(text, "{\n  \"exit\": 3\n}\n");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_identity_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Identity::parse(&bytes);
        }
    }
}
