//! The server's own key pair, and the one that is to follow it.
//!
//! A next pair is announced in every session that the present one is proved in, until the operator says that it is to
//! be used, or its time has come. Its file is what makes a rotation: it appears whole, and takes the place of the
//! present one by one rename. So a stop anywhere leaves the one state or the other.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ServerError;
use crate::base::time::Timestamp;
use crate::crypto::{CryptoError, Fingerprint, PrivateKey};
use crate::storage::{Outcome, Repaired, Store, StoreError, decode_sealed, encode_sealed};

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
    /// Reads the keys; makes the first pair, of `bits` bits, where there is none yet.
    ///
    /// # Errors
    /// `KeyGone` where there are clients, which know the server by a key that is not there.
    pub fn open(store: &Arc<Store>, bits: usize) -> Result<ServerKeys, ServerError> {
        if let Some(keys) = ServerKeys::read(store)? {
            return Ok(keys);
        }
        if !store.clients().is_empty() {
            return Err(ServerError::KeyGone { path: store.path().join("keys").join(KEY_NAME) });
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
        let due_seconds = read_due(store)?.and_then(|due| due.due_seconds);
        let next = read_exact_key(store, NEXT_KEY_NAME)?.map(|key| NextKey { key: Arc::new(key), due_seconds });
        if next.is_none() && store.read_key(NEXT_KEY_NAME)?.is_some() {
            log::error!("the next key that was announced is damaged and not used: \"server --repair\" removes it");
        }
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
        self.store.write_key(NEXT_DUE_NAME, &encode_sealed(&DueFile { version: 1, due_seconds }))?;
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

/// None where there is no such file, or one that cannot be read: then the operator says when.
fn read_due(store: &Store) -> Result<Option<DueFile>, StoreError> {
    let bytes = store.read_key(NEXT_DUE_NAME)?;
    Ok(bytes.and_then(|bytes| decode_sealed(&bytes, Path::new(NEXT_DUE_NAME)).ok()))
}

/// Whether a key file is exactly what the key is written as.
fn read_exact_key(store: &Store, name: &str) -> Result<Option<PrivateKey>, StoreError> {
    let bytes = store.read_key(name)?.unwrap_or_default();
    let key = PrivateKey::from_pkcs8_der(&bytes).ok();
    Ok(key.filter(|key| key.to_pkcs8_der().is_ok_and(|der| der.as_slice() == bytes)))
}

/// The files of the keys that are not what was written there.
pub fn damaged_keys(store: &Store) -> Result<Vec<&'static str>, StoreError> {
    let mut damaged = Vec::new();
    let key = read_exact_key(store, KEY_NAME)?;
    if key.is_none() {
        damaged.push(KEY_NAME);
    }
    let public = store.read_key(PUBLIC_KEY_NAME)?;
    if key.is_some_and(|key| public.as_deref() != Some(key.public().spki_der())) {
        damaged.push(PUBLIC_KEY_NAME);
    }
    if store.read_key(NEXT_KEY_NAME)?.is_some() && read_exact_key(store, NEXT_KEY_NAME)?.is_none() {
        damaged.push(NEXT_KEY_NAME);
    }
    if store.read_key(NEXT_DUE_NAME)?.is_some() && read_due(store)?.is_none() {
        damaged.push(NEXT_DUE_NAME);
    }
    Ok(damaged)
}

/// How the keys of a store that nobody serves are to be mended.
pub struct KeyRepair<'a> {
    pub store: &'a Store,
    pub is_real: bool,
    /// Bits of a new pair in the place of one that is lost; none to make none.
    pub new_key: Option<usize>,
}

/// Mends what is damaged, and tells of each file.
pub fn repair(keys: &KeyRepair<'_>, tell: &mut dyn FnMut(Repaired)) -> Result<(), StoreError> {
    let KeyRepair { store, is_real, new_key } = *keys;
    let mut told = |name: &str, outcome: Outcome, text: String| {
        let file = store.path().join("keys").join(name);
        tell(Repaired { file, outcome, client: None, snapshots: Default::default(), text });
    };
    for name in damaged_keys(store)? {
        let (outcome, text) = match (name, new_key) {
            (KEY_NAME, None) => (Outcome::Lost, LOST_KEY.to_string()),
            (KEY_NAME, Some(bits)) => {
                let (fingerprint, was_announced) = replace_lost_key(store, is_real, bits)?;
                let who = if was_announced { "each client that has not heard of it" } else { "each client" };
                let key = fingerprint.map_or("a new key".to_string(), |key| format!("the key {key}"));
                (Outcome::Rebuilt, format!("{key} in the place of the lost one: on {who}, {NEW_PIN}"))
            }
            (PUBLIC_KEY_NAME, _) => {
                let key = read_exact_key(store, KEY_NAME)?.filter(|_| is_real);
                key.map_or(Ok(()), |key| store.write_key(PUBLIC_KEY_NAME, key.public().spki_der()))?;
                (Outcome::Rebuilt, "the public key, from the private one".to_string())
            }
            (NEXT_KEY_NAME, _) => {
                if is_real {
                    store.remove_key(NEXT_KEY_NAME)?;
                    store.remove_key(NEXT_DUE_NAME)?;
                }
                (
                    Outcome::Removed,
                    "the key that was to follow: \"server-key rotate\" announces another".to_string(),
                )
            }
            _ => {
                if is_real {
                    store.remove_key(name)?;
                }
                (Outcome::Removed, "when the next key is to be used: \"server-key finish\" does it".to_string())
            }
        };
        told(name, outcome, text);
    }
    Ok(())
}

const LOST_KEY: &str = "the server's key, by which the clients know it: put it back from a copy, then repair again. \
                        Without a copy, \"server --repair --new-key\" makes a new pair";
const NEW_PIN: &str = "compare this fingerprint, move identity.json out of its state folder, and run it once with \
                       --server-fingerprint. Make tokens anew that were not used yet";

/// Puts the announced key, or a new one, in the place of the lost one. Gives its fingerprint, none where nothing is
/// written and none is announced, and whether it was announced.
fn replace_lost_key(store: &Store, is_real: bool, bits: usize) -> Result<(Option<Fingerprint>, bool), StoreError> {
    if let Some(next) = read_exact_key(store, NEXT_KEY_NAME)? {
        if is_real {
            store.rename_key(NEXT_KEY_NAME, KEY_NAME)?;
            store.write_key(PUBLIC_KEY_NAME, next.public().spki_der())?;
            store.remove_key(NEXT_DUE_NAME)?;
        }
        return Ok((Some(next.public().fingerprint()), true));
    }
    if !is_real {
        return Ok((None, false));
    }
    let failed = |error: CryptoError| StoreError::NotFound { what: format!("no key can be made: {error}") };
    let key = PrivateKey::generate(bits).map_err(failed)?;
    store.write_key(KEY_NAME, &key.to_pkcs8_der().map_err(failed)?)?;
    store.write_key(PUBLIC_KEY_NAME, key.public().spki_der())?;
    Ok((Some(key.public().fingerprint()), false))
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
