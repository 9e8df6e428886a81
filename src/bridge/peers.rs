//! The servers this bridge talks to, each with the name it goes by there and a state folder of its own. A server
//! that was never met is pinned only when a person has confirmed its key.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::ApiError;
use crate::base::ids::{UserName, hex};
use crate::base::progress::Silent;
use crate::base::shutdown::Shutdown;
use crate::client::config::ServerAddress;
use crate::client::state::{Identity, StateError, StateFolder};
use crate::client::vault::VaultAccess;
use crate::client::{
    Client, ClientError, ClientOptions, Destination, RetryPolicy, Session, Window, server_fingerprint,
};
use crate::crypto::{Fingerprint, blake3_hash};

/// The folder, in the state folder, of all pairs but the first.
const PEERS: &str = "peers";
/// Pairs that are looked through for a known key.
const PEERS_MAX: usize = 1_000;
/// How long a state folder that another run holds is waited for, where a person waits too.
const SHORT_STATE_WAIT: Duration = Duration::from_secs(5);
const STATE_STEP: Duration = Duration::from_millis(100);

/// How the client goes about it, whatever the server: what the flags say.
pub struct ClientSettings {
    pub fingerprint: Option<Fingerprint>,
    /// The text of an enrolment token.
    pub token: Option<Zeroizing<String>>,
    pub retry: RetryPolicy,
    pub timeout: Duration,
    pub window: Window,
    pub rsa_bits: usize,
}

/// A server, and a name at it.
pub struct Peer {
    pub destination: Destination,
    pub user: UserName,
    pub folder: PathBuf,
    contact: Mutex<Contact>,
}

/// How the last contact went.
#[derive(Default, Clone)]
struct Contact {
    connected: bool,
    latency: Option<Duration>,
}

impl Peer {
    pub fn new(destination: Destination, user: UserName, folder: PathBuf) -> Peer {
        Peer { destination, user, folder, contact: Mutex::default() }
    }

    pub fn address(&self) -> &ServerAddress {
        self.destination.address()
    }

    pub fn is_local(&self) -> bool {
        matches!(self.destination, Destination::Local(_))
    }

    /// Whether the server's key is pinned.
    pub fn is_known(&self) -> bool {
        self.identity().is_some()
    }

    fn identity(&self) -> Option<Identity> {
        StateFolder::look(&self.folder).read_identity().ok().flatten()
    }

    pub fn is_connected(&self) -> bool {
        self.contact().connected
    }

    pub fn note(&self, connected: bool) {
        self.contact().connected = connected;
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, address: &ServerAddress, user: &UserName) -> bool {
        self.address() == address && self.user == *user
    }

    pub fn json(&self) -> Value {
        json!({ "host": self.address().host(), "port": self.address().port(), "username": self.user.as_str() })
    }

    /// With what is known from contacts.
    pub fn full_json(&self) -> Value {
        let mut data = self.json();
        data["fingerprint"] = json!(self.identity().map(|identity| identity.server_fingerprint));
        data["latency_ms"] = json!(self.contact().latency.map(|latency| latency.as_millis() as u64));
        data
    }

    pub fn options(&self, settings: &ClientSettings, retry: RetryPolicy) -> ClientOptions {
        ClientOptions {
            destination: self.destination.clone(),
            user: self.user.clone(),
            fingerprint: None,
            token: None,
            retry,
            timeout: settings.timeout,
            window: settings.window,
            rsa_bits: settings.rsa_bits,
        }
    }

    /// The locked state folder; waits for a run that holds it.
    pub fn lock_state(
        &self,
        purpose: &str,
        limit: Duration,
        shutdown: &Shutdown,
    ) -> Result<StateFolder, ClientError> {
        let began = Instant::now();
        loop {
            match StateFolder::open(&self.folder, purpose) {
                Err(StateError::Locked { .. }) if began.elapsed() < limit => {}
                other => return Ok(other?),
            }
            if shutdown.wait(STATE_STEP) {
                return Err(ClientError::Interrupted);
            }
        }
    }
}

/// What a page asks for when it connects.
pub struct Wish {
    pub address: ServerAddress,
    pub user: UserName,
    pub token: Option<Zeroizing<String>>,
    pub confirm: Option<String>,
}

/// All pairs of server and name, and the one that is used now.
pub struct Peers {
    settings: ClientSettings,
    first: Arc<Peer>,
    /// The key of a server inside this process: it needs no confirmation.
    own_key: Option<Fingerprint>,
    known: Mutex<Vec<Arc<Peer>>>,
    current: Mutex<Arc<Peer>>,
}

impl Peers {
    pub fn new(settings: ClientSettings, first: Peer, own_key: Option<Fingerprint>) -> Peers {
        let first = Arc::new(first);
        Peers {
            settings,
            own_key,
            known: Mutex::new(vec![first.clone()]),
            current: Mutex::new(first.clone()),
            first,
        }
    }

    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Whether the first server's key is known before it is met.
    pub fn expects_a_key(&self) -> bool {
        self.own_key.is_some() || self.settings.fingerprint.is_some()
    }

    pub fn current(&self) -> Arc<Peer> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder that holds all state.
    pub fn state_folder(&self) -> &Path {
        &self.first.folder
    }

    /// A session for a question, of the server that is used now.
    pub fn session(&self, shutdown: &Shutdown) -> Result<Session, ApiError> {
        self.session_with(None, shutdown)
    }

    /// The same, which opens what is in a vault.
    pub fn session_with(&self, vault: Option<Arc<VaultAccess>>, shutdown: &Shutdown) -> Result<Session, ApiError> {
        let peer = self.current();
        if !peer.is_known() {
            let text = format!("the server at {} has not been met yet: connect first", peer.address());
            return Err(ApiError::conflict(text));
        }
        let state = StateFolder::look(&peer.folder);
        let client = Client::open(self.patient(0)(&peer), state, &Silent, shutdown.clone());
        let opened = client.and_then(|mut client| {
            client.vault = vault;
            client.connect()
        });
        peer.note(opened.is_ok());
        Ok(opened?)
    }

    fn patient(&self, retries: u32) -> impl Fn(&Peer) -> ClientOptions {
        let retry = RetryPolicy { retries, ..self.settings.retry };
        move |peer| peer.options(&self.settings, retry)
    }

    /// The key of a server, and whether a person must confirm it before it is pinned. Nothing is kept.
    pub fn look_at_key(&self, wish: &Wish) -> Result<(Fingerprint, bool), ApiError> {
        let is_known = self.find(wish)?.is_known();
        let found = server_fingerprint(&wish.address, self.settings.timeout)?;
        Ok((found, !is_known && !self.is_expected(found)))
    }

    fn is_expected(&self, found: Fingerprint) -> bool {
        [self.settings.fingerprint, self.own_key].contains(&Some(found))
    }

    /// Shakes hands with a server; it is the one in use from then on.
    pub fn connect(&self, wish: Wish, shutdown: &Shutdown) -> Result<Arc<Peer>, ApiError> {
        let peer = self.find(&wish)?;
        let connected = match peer.is_known() {
            true => open_session(&peer, StateFolder::look(&peer.folder), self.patient(0), shutdown),
            false => self.first_contact(&peer, &wish, shutdown)?,
        };
        peer.note(connected.is_ok());
        let mut session = connected.map_err(|error| refusal(&error))?;
        // One question and its answer: the handshake's own time is mostly that of its keys.
        let began = Instant::now();
        session.statistics()?;
        peer.contact().latency = Some(began.elapsed());
        let _ = session.close();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|other| Arc::ptr_eq(other, &peer)) {
            known.push(peer.clone());
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = peer.clone();
        Ok(peer)
    }

    /// Registers at a server whose key was confirmed; nothing is kept of one whose key was not.
    fn first_contact(
        &self,
        peer: &Peer,
        wish: &Wish,
        shutdown: &Shutdown,
    ) -> Result<Result<Session, ClientError>, ApiError> {
        let found = server_fingerprint(peer.address(), self.settings.timeout)?;
        match &wish.confirm {
            Some(confirmed) if *confirmed == found.to_string() => {}
            None if self.is_expected(found) => {}
            other => {
                let found_text = format!("first contact with {}: its key is {found}", peer.address());
                let text = match other {
                    Some(_) => format!("{found_text}, which is not the one that was confirmed"),
                    None => format!("{found_text}: compare it with what the server prints, then confirm it"),
                };
                let data = json!({ "fingerprint": found.to_string(), "confirm_needed": true });
                return Err(ApiError::conflict(text).with(data));
            }
        }
        let state = peer.lock_state("gui", SHORT_STATE_WAIT, shutdown)?;
        let token = wish.token.as_ref().or(self.settings.token.as_ref());
        let token = token.map(|text| text.parse()).transpose();
        let mut token = Some(token.map_err(|error| ApiError::bad(format!("the token: {error}")))?);
        let patient = self.patient(0);
        let mut options = patient(peer);
        (options.fingerprint, options.token) = (Some(found), token.take().flatten());
        let mut client = Client::open(options, state, &Silent, shutdown.clone())?;
        Ok(client.connect())
    }

    /// The pair that is asked for: one that was met, or one with a folder of its own.
    fn find(&self, wish: &Wish) -> Result<Arc<Peer>, ApiError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(peer) = known.iter().find(|peer| peer.is(&wish.address, &wish.user)) {
            return Ok(peer.clone());
        }
        let name = hex(&blake3_hash(format!("{}\n{}", wish.address, wish.user.as_str()).as_bytes())[..16]);
        let own = self.state_folder().join(PEERS).join(name);
        let peer = |folder| Peer::new(Destination::Remote(wish.address.clone()), wish.user.clone(), folder);
        if StateFolder::look(&own).read_identity().ok().flatten().is_some() {
            return Ok(Arc::new(peer(own)));
        }
        // The same key at another address is the same server, and knows this client by its key.
        let found = server_fingerprint(&wish.address, self.settings.timeout)?.to_string();
        let same = self.folders().into_iter().find(|folder| {
            let identity = StateFolder::look(folder).read_identity().ok().flatten();
            identity.is_some_and(|identity| identity.user == wish.user && identity.server_fingerprint == found)
        });
        Ok(Arc::new(peer(same.unwrap_or(own))))
    }

    fn folders(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.state_folder().join(PEERS)).into_iter().flatten().flatten();
        let others = listed.take(PEERS_MAX).map(|entry| entry.path());
        std::iter::once(self.state_folder().to_path_buf()).chain(others).collect()
    }
}

fn open_session(
    peer: &Peer,
    state: StateFolder,
    options: impl Fn(&Peer) -> ClientOptions,
    shutdown: &Shutdown,
) -> Result<Session, ClientError> {
    Client::open(options(peer), state, &Silent, shutdown.clone())?.connect()
}

/// A changed key is told apart: no confirmation helps against it.
fn refusal(error: &ClientError) -> ApiError {
    match error {
        ClientError::State(StateError::ChangedServerKey { .. } | StateError::WrongServer { .. }) => {
            ApiError::conflict(error.to_string()).with(json!({ "changed": true }))
        }
        ClientError::WrongFingerprint { found, .. } => {
            ApiError::conflict(error.to_string()).with(json!({ "fingerprint": found.to_string() }))
        }
        other => ApiError::of(other),
    }
}
