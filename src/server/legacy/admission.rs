//! Which legacy clients may register, and the names that were given away and have no key yet.
//!
//! A name is written down when its key comes, so that a client that was cut off between 1600 and 1026 does not lose
//! its name for good. Until then the name is reserved: for the connection that got 1600, and some minutes beyond its
//! end. Nobody else gets it meanwhile.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::ids::{ClientId, UserName};
use crate::protocol::handshake::RegistrationPolicy;
use crate::protocol::legacy::NameField;
use crate::storage::Store;

/// How long a name stays reserved when its connection has ended without a key.
const RESERVED_FOR: Duration = Duration::from_secs(600);
/// Names that are reserved at a time, beyond those of open connections.
const RESERVED_MAX: usize = 1_024;

/// The name, if this peer may register it now; else why not. Reads only.
pub fn may_register(
    store: &Store,
    policy: RegistrationPolicy,
    peer: IpAddr,
    name: &NameField,
) -> Result<UserName, String> {
    let name = name.user_name().map_err(|error| error.to_string())?;
    let is_open = store.is_open_to_legacy(&name).unwrap_or_else(|error| {
        log::error!("{error}");
        false
    });
    let is_allowed = match policy {
        RegistrationPolicy::Closed => false,
        RegistrationPolicy::Open => true,
        RegistrationPolicy::Local => is_open || peer.to_canonical().is_loopback(),
        RegistrationPolicy::Token => is_open,
    };
    match (is_allowed, store.client_named(&name)) {
        (true, None) => Ok(name),
        (true, Some(_)) => Err(format!("{name} is registered already")),
        (false, _) => Err(format!("the policy keeps {name} out: \"cyberbackup enroll --legacy\" opens a name")),
    }
}

/// An id as legacy clients know them: a random UUID, version 4.
pub fn version_4(id: ClientId) -> ClientId {
    let mut bytes = *id.as_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    ClientId::from_bytes(bytes)
}

/// The names that are reserved; until when, where the connection has ended.
#[derive(Debug, Default)]
pub struct Reservations {
    names: Mutex<HashMap<UserName, Option<Instant>>>,
}

/// A name that a connection has reserved.
#[derive(Debug)]
pub struct Reserved {
    all: Arc<Reservations>,
    name: UserName,
    id: ClientId,
    is_fulfilled: bool,
}

impl Reservations {
    pub fn new() -> Arc<Reservations> {
        Arc::new(Reservations::default())
    }

    /// Reserves a name for the client that is to have this id; none where it is reserved.
    pub fn reserve(self: &Arc<Reservations>, name: &UserName, id: ClientId) -> Option<Reserved> {
        let mut names = self.names();
        let now = Instant::now();
        names.retain(|_, until| until.is_none_or(|until| until > now));
        if names.contains_key(name) {
            return None;
        }
        let ended = names.iter().filter_map(|(name, until)| Some(((*until)?, name)));
        if ended.clone().count() >= RESERVED_MAX
            && let Some(oldest) = ended.min().map(|(_, name)| name.clone())
        {
            names.remove(&oldest);
        }
        names.insert(name.clone(), None);
        Some(Reserved { all: self.clone(), name: name.clone(), id, is_fulfilled: false })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<UserName, Option<Instant>>> {
        // The table is whole between any two statements: a panic elsewhere must not stop registrations.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    pub fn id(&self) -> ClientId {
        self.id
    }

    pub fn is_of(&self, id: ClientId, name: &UserName) -> bool {
        (self.id, &self.name) == (id, name)
    }

    /// The name is registered: it needs no reservation any more.
    pub fn fulfil(mut self) {
        self.is_fulfilled = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut names = self.all.names();
        match self.is_fulfilled {
            true => names.remove(&self.name),
            false => names.insert(self.name.clone(), Some(Instant::now() + RESERVED_FOR)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_is_nobody_elses_until_its_time_is_over() {
        let (all, ada) = (Reservations::new(), "ada".parse().unwrap());
        let id = ClientId::random();
        let first = all.reserve(&ada, id).unwrap();
        assert!(first.is_of(id, &ada) && all.reserve(&ada, id).is_none());
        drop(first);
        assert!(all.reserve(&ada, id).is_none(), "its connection has just ended");
        all.names().insert(ada.clone(), Some(Instant::now()));
        all.reserve(&ada, id).unwrap().fulfil();
        assert!(all.names().is_empty());
    }

    #[test]
    fn reservations_are_bounded() {
        let all = Reservations::new();
        for number in 0..RESERVED_MAX + 10 {
            drop(all.reserve(&format!("n{number}").parse().unwrap(), ClientId::random()).unwrap());
        }
        assert!(all.names().len() <= RESERVED_MAX + 1);
    }

    #[test]
    fn only_loopback_registers_without_an_opening_under_the_local_policy() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), crate::base::durable::Disk::real()).unwrap();
        store.open_to_legacy(&"opened".parse().unwrap(), Duration::from_secs(60)).unwrap();
        let may = |policy, peer: &str, name: &str| {
            let name = NameField::new(name.as_bytes()).unwrap();
            may_register(&store, policy, peer.parse().unwrap(), &name).is_ok()
        };
        for (peer, is_local) in [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("192.0.2.1", false)] {
            assert_eq!(may(RegistrationPolicy::Local, peer, "ada"), is_local, "{peer}");
            assert!(may(RegistrationPolicy::Local, peer, "opened"));
            assert!(may(RegistrationPolicy::Open, peer, "ada"));
            assert!(!may(RegistrationPolicy::Token, peer, "ada") && may(RegistrationPolicy::Token, peer, "opened"));
            assert!(!may(RegistrationPolicy::Closed, peer, "opened"));
        }
    }

    #[test]
    fn ids_are_version_4() {
        let text = version_4(ClientId::random()).to_string();
        assert_eq!(&text[12..13], "4");
        assert!(matches!(&text[16..17], "8" | "9" | "a" | "b"), "{text}");
    }
}
