//! The server's own key pair, and the one that is to follow it.
//!
//! A next pair is announced in every session that the present one is proved in, until the operator says that it is to
//! be used, or its time has come. Its file is what makes a rotation: it appears whole, and takes the place of the
//! present one by one rename. So a stop anywhere leaves the one state or the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ServerError;
use crate::base::time::Timestamp;
use crate::crypto::{CryptoError, Fingerprint, PrivateKey};
use crate::storage::{Store, StoreError};

/// Name of the server's key file in the store.
pub const KEY_NAME: &str = "server_private_key.der";
/// The same key for others to see.
pub const PUBLIC_KEY_NAME: &str = "server_public_key.der";
const NEXT_KEY_NAME: &str = "next_server_private_key.der";
/// From when on the next key is used by itself.
const NEXT_DUE_NAME: &str = "next_server_key.json";

/// The keys, in memory and in the store.
pub struct ServerKeys {
    store: Arc<Store>,
    state: Mutex<State>,
}

struct State {
    present: Arc<PrivateKey>,
    next: Option<NextKey>,
}

struct NextKey {
    key: Arc<PrivateKey>,
    /// None: when the operator says so.
    due_seconds: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct DueFile {
    version: u64,
    due_seconds: Option<i64>,
}

impl ServerKeys {
    /// Reads the keys; makes the first pair, of `bits` bits, where there is none.
    pub fn open(store: &Arc<Store>, bits: usize) -> Result<ServerKeys, ServerError> {
        if let Some(keys) = ServerKeys::read(store)? {
            return Ok(keys);
        }
        log::info!("making the server's RSA key of {bits} bits");
        let key = PrivateKey::generate(bits)?;
        store.write_key(KEY_NAME, &key.to_pkcs8_der()?)?;
        store.write_key(PUBLIC_KEY_NAME, key.public().spki_der())?;
        let state = Mutex::new(State { present: Arc::new(key), next: None });
        Ok(ServerKeys { store: store.clone(), state })
    }

    /// Reads the keys; none where no server has run yet.
    pub fn read(store: &Arc<Store>) -> Result<Option<ServerKeys>, ServerError> {
        let Some(der) = store.read_key(KEY_NAME)? else { return Ok(None) };
        let present = PrivateKey::from_pkcs8_der(&der)?;
        if store.read_key(PUBLIC_KEY_NAME)?.as_deref() != Some(present.public().spki_der()) {
            store.write_key(PUBLIC_KEY_NAME, present.public().spki_der())?;
        }
        let next = match store.read_key(NEXT_KEY_NAME)? {
            None => None,
            Some(der) => {
                let due = store.read_key(NEXT_DUE_NAME)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                let due_seconds = due.and_then(|due: DueFile| due.due_seconds);
                Some(NextKey { key: Arc::new(PrivateKey::from_pkcs8_der(&der)?), due_seconds })
            }
        };
        let state = Mutex::new(State { present: Arc::new(present), next });
        Ok(Some(ServerKeys { store: store.clone(), state }))
    }

    /// The key for a handshake that begins now.
    pub fn present(&self) -> Arc<PrivateKey> {
        let mut state = self.state();
        let is_due = |next: &NextKey| next.due_seconds.is_some_and(|due| due <= Timestamp::now().seconds);
        if state.next.as_ref().is_some_and(is_due)
            && let Err(error) = self.use_next(&mut state)
        {
            log::error!("the server's next key cannot be used yet: {error}");
        }
        state.present.clone()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.state().present.public().fingerprint()
    }

    /// The fingerprint of the key that follows `present`, for a session that this was proved in.
    pub fn announced(&self, present: Fingerprint) -> Option<Fingerprint> {
        let state = self.state();
        let next = state.next.as_ref().filter(|_| state.present.public().fingerprint() == present);
        next.map(|next| next.key.public().fingerprint())
    }

    /// Makes the pair that is to follow; it is used after so long, or when the operator says so.
    ///
    /// # Errors
    /// `NotFound` where one is announced already.
    pub fn announce(&self, bits: usize, after: Option<Duration>) -> Result<(), StoreError> {
        let refused = |what: &str| StoreError::NotFound { what: what.to_string() };
        if self.state().next.is_some() {
            return Err(refused(UNDER_WAY));
        }
        let failed = |error: CryptoError| refused(&format!("no key can be made: {error}"));
        // Without the lock: it can take long, and sessions begin meanwhile.
        let key = PrivateKey::generate(bits).map_err(failed)?;
        let der = key.to_pkcs8_der().map_err(failed)?;
        let mut state = self.state();
        if state.next.is_some() {
            return Err(refused(UNDER_WAY));
        }
        let due_seconds = after.map(|after| Timestamp::now().seconds.saturating_add_unsigned(after.as_secs()));
        let due = serde_json::to_vec(&DueFile { version: 1, due_seconds }).expect("numbers become JSON");
        self.store.write_key(NEXT_DUE_NAME, &due)?;
        self.store.write_key(NEXT_KEY_NAME, &der)?;
        state.next = Some(NextKey { key: Arc::new(key), due_seconds });
        Ok(())
    }

    /// Uses the next key from now on.
    ///
    /// # Errors
    /// `NotFound` where none is announced.
    pub fn finish(&self) -> Result<(), StoreError> {
        self.use_next(&mut self.state())
    }

    /// Takes the announcement back.
    ///
    /// # Errors
    /// `NotFound` where none is announced.
    pub fn withdraw(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.next.is_none() {
            return Err(none_under_way());
        }
        self.store.remove_key(NEXT_KEY_NAME)?;
        state.next = None;
        self.store.remove_key(NEXT_DUE_NAME)
    }

    /// The operator's row.
    pub fn row(&self) -> Value {
        let state = self.state();
        let next = state.next.as_ref();
        let due = next.and_then(|next| next.due_seconds);
        json!({
            "fingerprint": state.present.public().fingerprint().to_string(),
            "next_fingerprint": next.map(|next| next.key.public().fingerprint().to_string()),
            "used_from": due.map(|seconds| Timestamp { seconds, nanoseconds: 0 }.to_string()),
        })
    }

    fn use_next(&self, state: &mut State) -> Result<(), StoreError> {
        let next = state.next.as_ref().ok_or_else(none_under_way)?;
        self.store.rename_key(NEXT_KEY_NAME, KEY_NAME)?;
        log::info!("the server has the key {} from now on", next.key.public().fingerprint());
        state.present = next.key.clone();
        state.next = None;
        // What follows is made good at the next start where it fails.
        self.store.write_key(PUBLIC_KEY_NAME, state.present.public().spki_der())?;
        self.store.remove_key(NEXT_DUE_NAME)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const UNDER_WAY: &str =
    "a next key is announced already: \"server-key finish\" uses it, \"server-key withdraw\" drops it";

fn none_under_way() -> StoreError {
    StoreError::NotFound { what: "no next key is announced: \"server-key rotate\" makes one".to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable::Disk;

    fn keys(folder: &std::path::Path, disk: Disk) -> Result<ServerKeys, ServerError> {
        ServerKeys::open(&Arc::new(Store::open(folder, disk)?), 1_024)
    }

    #[test]
    fn a_rotation_that_stops_anywhere_leaves_the_present_key_or_the_next() {
        let folder = tempfile::tempdir().unwrap();
        drop(keys(folder.path(), Disk::real()).unwrap());
        let opening = Disk::real();
        drop(keys(folder.path(), opening.clone()).unwrap());
        for stop in 0.. {
            let keys_now = keys(folder.path(), Disk::stopping_after(opening.operations() + stop)).unwrap();
            let before = keys_now.fingerprint();
            let announced = keys_now.announce(1_024, None).is_ok();
            let next = keys_now.announced(before);
            let finished = keys_now.finish().is_ok();
            drop(keys_now);
            let reopened = keys(folder.path(), Disk::real()).unwrap();
            let now = reopened.fingerprint();
            assert!(now == before || Some(now) == next, "stopped after {stop}");
            assert!(!announced || now != before || reopened.announced(now) == next, "stopped after {stop}");
            let public = std::fs::read(folder.path().join("keys").join(PUBLIC_KEY_NAME)).unwrap();
            assert_eq!(Fingerprint::of_der(&public), now);
            if finished {
                assert!(Some(now) == next && stop >= 15, "stopped after {stop}");
                return;
            }
            let _ = reopened.withdraw();
        }
    }
}
