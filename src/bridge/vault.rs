//! The vault of this host: its key files in the state folder, and the full key while it is open.
//!
//! The key is in memory from the passphrase on until it is locked, was not used for a while, or the program ends; what
//! uses it holds it on, and counts as use. Nothing of a passphrase is kept. Passphrases are tried one at a time, and
//! each try costs what Argon2id costs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::ApiError;
use super::hub::Hub;
use super::vault_files::{self as files, KeyFiles};
use crate::base::vault::VaultId;
use crate::crypto::vault::{FullKey, PutKey};

/// An open vault that nobody uses locks itself after so long.
pub const IDLE: Duration = Duration::from_secs(15 * 60);

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
        let (word, id) = match (open, files::look(&self.folder)?) {
            (Some(id), _) => ("open", Some(id)),
            (None, KeyFiles::None) => ("none", None),
            (None, KeyFiles::PutHalf(id)) => ("put_only", Some(id)),
            (None, KeyFiles::Full(id)) => ("locked", Some(id)),
        };
        Ok(json!({
            "state": word,
            "id": id.map(|id: VaultId| id.to_string()),
            "key_file": self.key_file().display().to_string(),
            "idle_seconds": self.idle.as_secs(),
        }))
    }

    pub fn key_file(&self) -> PathBuf {
        files::full_key_path(&self.folder)
    }

    /// The key file as it is: sealed.
    pub fn key_file_bytes(&self) -> Result<Vec<u8>, ApiError> {
        let found = files::read(&self.key_file())?;
        Ok(found.ok_or_else(|| ApiError::missing("there is no vault.key on this host"))?.to_vec())
    }

    /// The key, if the vault is open; this is a use of it.
    pub fn key(&self) -> Option<Arc<FullKey>> {
        let mut state = self.state();
        let held = state.held.as_mut()?;
        held.used = Instant::now();
        Some(held.key.clone())
    }

    /// What a backup into the vault needs: no passphrase.
    pub fn put_key(&self) -> Result<PutKey, ApiError> {
        files::read_put_key(&self.folder)
    }

    /// Makes the vault, and leaves it open.
    pub fn create(self: &Arc<Vault>, passphrase: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        let key = files::create(&self.folder, passphrase.as_bytes(), self.low_memory)?;
        log::info!("a vault was made: {}", key.put().vault());
        self.hold(key)
    }

    pub fn open(self: &Arc<Vault>, passphrase: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        self.hold(files::open(&self.folder, passphrase.as_bytes())?)
    }

    /// Seals the key file under another passphrase. The one so far is wanted of an open vault too: who finds the page
    /// open is not its owner yet.
    pub fn change_passphrase(&self, old: &str, new: &str) -> Result<(), ApiError> {
        let _turn = self.turn()?;
        let key = files::open(&self.folder, old.as_bytes())?;
        files::replace(&self.folder, &key, new.as_bytes(), self.low_memory)?;
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
        state.held = Some(Held { key: Arc::new(key), used: Instant::now() });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shutdown::Shutdown;

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
