//! The vault of this host: its key files in the state folder, and the full key while it is open.
//!
//! The key is in memory from the passphrase on until it is locked, was not used for a while, or the program ends; what
//! uses it holds it on, and counts as use. Nothing of a passphrase is kept. Passphrases are tried one at a time, and
//! each try costs what Argon2id costs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::ApiError;
use super::hub::Hub;
use crate::base::ids::SnapshotId;
use crate::base::shutdown::Shutdown;
use crate::base::vault::VaultId;
use crate::client::ClientError;
use crate::client::vault::key_file::{FULL_KEY_FILE, PUT_KEY_FILE, read_key_file};
use crate::client::vault::{PassphraseSource, VaultAccess, VaultKeys, calibrate, create_vault};
use crate::crypto::vault::key_file::OpenKeyError;
use crate::crypto::{CryptoError, FullKey, PutKey};
use crate::protocol::message::SnapshotRow;

/// An open vault that nobody uses locks itself after so long.
pub const IDLE: Duration = Duration::from_secs(15 * 60);

/// Snapshots whose heads are remembered while the vault is open.
const ROWS_MAX: usize = 1_000;

/// The vault of a state folder.
pub struct Vault {
    folder: PathBuf,
    low_memory: bool,
    idle: Duration,
    hub: Arc<Hub>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while a passphrase is tried.
    trying: Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// A thread watches for the end of the idle time.
    watched: bool,
}

struct Held {
    key: Arc<FullKey>,
    used: Instant,
    /// What heads said that were opened: they never change.
    rows: HashMap<SnapshotId, SnapshotRow>,
}

impl Vault {
    pub fn new(folder: &Path, low_memory: bool, idle: Duration, hub: Arc<Hub>) -> Arc<Vault> {
        Arc::new(Vault {
            folder: folder.to_path_buf(),
            low_memory,
            idle,
            hub,
            state: Mutex::default(),
            changed: Condvar::new(),
            trying: Mutex::default(),
        })
    }

    /// The vault as the page knows it.
    pub fn json(&self) -> Result<Value, ApiError> {
        let open = self.state().held.as_ref().map(|held| held.key.put().vault());
        let (word, id) = match open {
            Some(id) => ("open", Some(id)),
            None => self.look()?,
        };
        Ok(json!({
            "state": word,
            "id": id.map(|id: VaultId| id.to_string()),
            "key_file": self.key_file().display().to_string(),
            "idle_seconds": self.idle.as_secs(),
        }))
    }

    pub fn key_file(&self) -> PathBuf {
        self.folder.join(FULL_KEY_FILE)
    }

    /// What the key files say: which state the vault is in, unless it is open, and its id.
    fn look(&self) -> Result<(&'static str, Option<VaultId>), ApiError> {
        if self.key_file().exists() {
            let id = FullKey::vault_of_file(&read_key_file(&self.key_file())?);
            return id.map(|id| ("locked", Some(id))).ok_or_else(|| {
                ApiError::conflict(format!("{} is no key of a vault, or is damaged", self.key_file().display()))
            });
        }
        match self.folder.join(PUT_KEY_FILE).exists() {
            true => Ok(("put_only", Some(self.keys("").put_key().map_err(refusal)?.vault()))),
            false => Ok(("none", None)),
        }
    }

    fn keys(&self, passphrase: &str) -> VaultKeys {
        VaultKeys {
            file: None,
            state: self.folder.clone(),
            passphrase: given(passphrase),
            shutdown: Shutdown::new(),
        }
    }

    /// The key file as it is: sealed.
    pub fn key_file_bytes(&self) -> Result<Vec<u8>, ApiError> {
        match self.key_file().exists() {
            true => Ok(read_key_file(&self.key_file())?.to_vec()),
            false => Err(ApiError::missing("there is no vault.key on this host")),
        }
    }

    /// The key, if the vault is open; this is a use of it.
    pub fn key(&self) -> Option<Arc<FullKey>> {
        let mut state = self.state();
        let held = state.held.as_mut()?;
        held.used = Instant::now();
        Some(held.key.clone())
    }

    /// What the head of a snapshot said, if it was opened since the vault was.
    pub fn row(&self, snapshot: &SnapshotId) -> Option<SnapshotRow> {
        self.state().held.as_ref()?.rows.get(snapshot).cloned()
    }

    /// Remembers what a head says, until the vault is locked.
    pub fn keep_row(&self, row: &SnapshotRow) {
        let mut state = self.state();
        if let Some(held) = state.held.as_mut().filter(|held| held.rows.len() < ROWS_MAX) {
            held.rows.insert(row.id, row.clone());
        }
    }

    /// What a session reads the vault with, if it is open. With a state folder, what the server lists is compared with the
    /// chain in it.
    pub fn access(&self, chain: Option<&Path>) -> Option<Arc<VaultAccess>> {
        self.key().map(|key| Arc::new(VaultAccess::of_open_key(key, chain)))
    }

    /// What a backup into the vault needs. Where there is no file of it, as on a host that only restored so far, the
    /// open key has it.
    pub fn put_key(&self) -> Result<PutKey, ApiError> {
        if self.folder.join(PUT_KEY_FILE).exists() {
            return self.keys("").put_key().map_err(refusal);
        }
        match (self.key(), self.key_file().exists()) {
            (Some(key), _) => PutKey::from_file(&key.put().to_file()).map_err(|error| failed(&error)),
            (None, true) => Err(ApiError::new(423, "the vault is locked: open it to back up into it")),
            (None, false) => Err(self.no_key()),
        }
    }

    fn check_key_file(&self) -> Result<(), ApiError> {
        if self.key_file().exists() { Ok(()) } else { Err(self.no_key()) }
    }

    /// What is said where there is no `vault.key`.
    fn no_key(&self) -> ApiError {
        let there = match self.folder.join(PUT_KEY_FILE).exists() {
            true => "there is vault-put.key alone on this host, which opens nothing:",
            false => "there is no vault on this host: make one first, or",
        };
        ApiError::conflict(format!("{there} put the copy of vault.key into {}", self.folder.display()))
    }

    /// Makes the vault, and leaves it open.
    pub fn create(self: &Arc<Vault>, passphrase: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        let keys = self.keys(passphrase);
        let made = create_vault(&keys, self.low_memory).map_err(refusal)?;
        log::info!("a vault was made: {}", made.vault);
        self.hold(keys.full_key(None).map_err(refusal)?)
    }

    pub fn open(self: &Arc<Vault>, passphrase: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        self.check_key_file()?;
        self.hold(self.keys(passphrase).full_key(None).map_err(refusal)?)
    }

    /// Seals the key file under another passphrase. The one so far is wanted of an open vault too: who finds the page
    /// open is not its owner yet.
    pub fn change_passphrase(&self, old: &str, new: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        self.check_key_file()?;
        let cost = calibrate(self.low_memory).map_err(|error| failed(&error))?;
        self.keys(old).change_passphrase(&given(new), cost).map_err(refusal)?;
        log::info!("the vault has another passphrase");
        Ok(())
    }

    /// Forgets the key; what reads with it at this moment goes on to its end.
    pub fn lock(&self) {
        let was_open = self.state().held.take().is_some();
        self.changed.notify_all();
        if was_open {
            self.told("locked");
        }
    }

    fn turn(&self) -> Result<MutexGuard<'_, ()>, ApiError> {
        self.trying.try_lock().map_err(|_| ApiError::new(429, "another passphrase is being tried: wait for that"))
    }

    fn hold(self: &Arc<Vault>, key: FullKey) -> Result<(), ApiError> {
        let mut state = self.state();
        state.held = Some(Held { key: Arc::new(key), used: Instant::now(), rows: HashMap::new() });
        if !state.watched {
            let vault = self.clone();
            // A key that nobody would lock is not held.
            if let Err(error) = thread::Builder::new().name("vault".into()).spawn(move || vault.watch()) {
                state.held = None;
                return Err(error.into());
            }
            state.watched = true;
        }
        drop(state);
        self.told("open");
        Ok(())
    }

    fn told(&self, word: &str) {
        log::info!("the vault is {word}");
        if let Ok(data) = self.json() {
            self.hub.tell("vault", || data);
        }
    }

    /// Waits for the end of the idle time, as long as there is a key.
    fn watch(&self) {
        let mut state = self.state();
        while let Some(held) = &mut state.held {
            if Arc::strong_count(&held.key) > 1 {
                held.used = Instant::now();
            }
            let left = self.idle.saturating_sub(held.used.elapsed());
            if left.is_zero() {
                state.held = None;
                state.watched = false;
                drop(state);
                return self.told("locked: it was not used");
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.watched = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn given(passphrase: &str) -> PassphraseSource {
    PassphraseSource::Given(Zeroizing::new(passphrase.as_bytes().to_vec()))
}

/// A wrong passphrase is told apart from keys that are not there, or there already.
fn refusal(error: ClientError) -> ApiError {
    match &error {
        ClientError::VaultKey { source: OpenKeyError::Wrong, .. } => ApiError::new(403, error.to_string()),
        ClientError::VaultKey { .. } | ClientError::Impossible(_) => ApiError::conflict(error.to_string()),
        _ => ApiError::of(&error),
    }
}

fn failed(error: &CryptoError) -> ApiError {
    ApiError::new(500, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "correct horse";

    fn state(vault: &Vault) -> Value {
        vault.json().unwrap()["state"].clone()
    }

    /// Waits, ten seconds at most.
    fn wait_for(vault: &Vault, wanted: &str) {
        let (deadline, never) = (Instant::now() + Duration::from_secs(10), Shutdown::new());
        while state(vault) != wanted {
            assert!(Instant::now() < deadline, "{wanted}: {}", state(vault));
            never.wait(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_vault_that_is_not_used_locks_itself_and_one_that_is_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let idle = Duration::from_millis(200);
        let vault = Vault::new(folder.path(), true, idle, Arc::default());
        assert_eq!(state(&vault), "none");
        vault.create(PASSPHRASE).unwrap();
        let used = vault.key().expect("it is open");
        Shutdown::new().wait(3 * idle);
        assert_eq!(state(&vault), "open", "somebody reads with it");
        let weak = Arc::downgrade(&used);
        drop(used);
        wait_for(&vault, "locked");
        assert!(weak.upgrade().is_none(), "the key is gone");
        assert!(vault.key().is_none());
        vault.open(PASSPHRASE).unwrap();
        wait_for(&vault, "locked");
    }

    #[test]
    fn a_lock_takes_the_key_away_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::new(folder.path(), true, IDLE, Arc::default());
        vault.create(PASSPHRASE).unwrap();
        let weak = Arc::downgrade(&vault.key().unwrap());
        vault.lock();
        assert!(weak.upgrade().is_none());
        assert_eq!(state(&vault), "locked");
        assert_eq!(vault.open("wrong").unwrap_err().status, 403);
        assert_eq!(vault.create(PASSPHRASE).unwrap_err().status, 409);
        vault.open(PASSPHRASE).unwrap();
        assert_eq!(state(&vault), "open");
        vault.lock();
    }
}
