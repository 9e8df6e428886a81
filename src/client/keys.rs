//! The client's key pair, and the one that is to follow it while a rotation is under way.
//!
//! Which of the two the server uses, message 4 tells. So a rotation that was cut off anywhere is finished by the next
//! login, or has not begun; no file is removed that the server may go by.

use super::connect::ClientOptions;
use super::error::ClientError;
use super::me_info::{self, FoundMeInfo};
use super::state::StateFolder;
use crate::base::progress::{Event, ProgressSink};
use crate::crypto::{CryptoError, PrivateKey};

/// The keys that a client can log in with.
#[derive(Debug)]
pub struct Keys {
    pub present: PrivateKey,
    /// Takes its place with the first login in which the server uses it.
    pub next: Option<PrivateKey>,
}

impl Keys {
    fn new(present: PrivateKey) -> Keys {
        Keys { present, next: None }
    }

    /// Puts the next key in the place of the present one, on the disk too.
    pub fn promote(&mut self, state: &StateFolder) -> Result<(), ClientError> {
        if let Some(next) = self.next.take() {
            state.promote_next_key(next.public().spki_der())?;
            self.present = next;
        }
        Ok(())
    }

    /// Writes down the key that is to follow, so that it is there whatever the server learns of it.
    pub fn set_next(&mut self, state: &StateFolder, next: PrivateKey) -> Result<(), ClientError> {
        let file = || me_info::shown(&state.next_private_key_path());
        let der = next.to_pkcs8_der().map_err(|source| ClientError::Key { file: file(), source })?;
        state.write_next_private_key(&der)?;
        self.next = Some(next);
        Ok(())
    }
}

/// Makes a pair of `bits` bits, with a word about one that is small.
pub fn generate(bits: usize, state: &StateFolder, sink: &dyn ProgressSink) -> Result<PrivateKey, ClientError> {
    if bits < 2_048 {
        let message = "an RSA key below 2,048 bits can be broken with effort: see docs/threat-model.md";
        sink.event(Event::Notice { message });
    }
    PrivateKey::generate(bits).map_err(|source| broken(state, source))
}

fn broken(state: &StateFolder, source: CryptoError) -> ClientError {
    ClientError::Key { file: state.private_key_path().display().to_string(), source }
}

/// The keys of the state folder; made where there are none yet.
pub fn open(
    state: &StateFolder,
    options: &ClientOptions,
    is_new: bool,
    sink: &dyn ProgressSink,
) -> Result<Keys, ClientError> {
    if let Some(keys) = read(state, sink)? {
        return Ok(keys);
    }
    let notice = |message: &str| sink.event(Event::Notice { message });
    if is_new && let Some(found) = me_info::to_take_over(state, &options.user, notice) {
        return take_over(state, found, sink).map(Keys::new);
    }
    let key = generate(options.rsa_bits, state, sink)?;
    let der = key.to_pkcs8_der().map_err(|source| broken(state, source))?;
    state.write_keys(&der, key.public().spki_der())?;
    Ok(Keys::new(key))
}

/// The keys of the state folder; none before the first run.
pub fn read(state: &StateFolder, sink: &dyn ProgressSink) -> Result<Option<Keys>, ClientError> {
    // The next key first: if another run puts it in the place of the present one meanwhile, it is found twice.
    let next = read_next(state, sink)?;
    let Some(der) = state.read_private_key()? else { return Ok(None) };
    if let Some(message) = state.open_key_warning() {
        sink.event(Event::Notice { message: &message });
    }
    let present = PrivateKey::from_pkcs8_der(&der).map_err(|source| broken(state, source))?;
    if state.is_exclusive() && state.read_public_key()?.as_deref() != Some(present.public().spki_der()) {
        state.write_public_key(present.public().spki_der())?;
    }
    Ok(Some(Keys { present, next }))
}

/// One that cannot be used keeps nobody from the present key.
fn read_next(state: &StateFolder, sink: &dyn ProgressSink) -> Result<Option<PrivateKey>, ClientError> {
    let Some(der) = state.read_next_private_key()? else { return Ok(None) };
    let key = PrivateKey::from_pkcs8_der(&der);
    if let Err(error) = &key {
        let file = me_info::shown(&state.next_private_key_path());
        let message = format!("{file} cannot be used ({error}): the next \"cyberbackup rotate-key\" replaces it");
        sink.event(Event::Notice { message: &message });
    }
    Ok(key.ok())
}

/// Takes the key of a legacy client over, which its name belongs to at the server.
fn take_over(state: &StateFolder, found: FoundMeInfo, sink: &dyn ProgressSink) -> Result<PrivateKey, ClientError> {
    let (key, file) = (found.info.key, me_info::shown(&found.file));
    let broken = |source| ClientError::Key { file: file.clone(), source };
    state.write_keys(&key.to_pkcs8_der().map_err(broken)?, key.public().spki_der())?;
    let message = format!(
        "the key of {} is taken over from {file}; it has only 1,024 bits: see docs/migration.md",
        found.info.name
    );
    sink.event(Event::Notice { message: &message });
    Ok(key)
}
