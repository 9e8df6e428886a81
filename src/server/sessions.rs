//! Which clients have a session: so that the operator removes none that is being served, that a client whose key
//! was reset is served no longer, and that it can be seen who is here and what they do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::base::ids::{ClientId, UserName};
use crate::base::order::sort_by_key;
use crate::base::time::Timestamp;
use crate::channel::{Closer, Meter};

use super::connections::Connection;

/// The sessions of all clients.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    by_client: HashMap<ClientId, Vec<(u64, Option<Guest>)>>,
}

/// A client's session, for others: how to end it, and what can be seen of it.
#[derive(Debug, Clone)]
pub struct Guest {
    pub closer: Closer,
    pub live: Arc<Live>,
}

/// What can be seen of a session while it goes on.
#[derive(Debug)]
pub struct Live {
    pub name: UserName,
    pub peer: SocketAddr,
    pub legacy: bool,
    pub began: Timestamp,
    pub since: Instant,
    doing: AtomicU8,
    meter: Arc<Meter>,
}

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nothing: it waits for the client's next request.
    Idle,
    /// Of a backup: finding out what the client has that is not stored.
    Comparing,
    /// Of a backup: contents come in.
    Receiving,
    /// Of a backup: the snapshot is being made durable.
    Committing,
    /// Rows of snapshots or of their entries go out.
    Listing,
    /// Contents go out.
    Sending,
    /// Stored contents are read and checked.
    Verifying,
}

impl Doing {
    const ALL: [Doing; 7] = [
        Doing::Idle,
        Doing::Comparing,
        Doing::Receiving,
        Doing::Committing,
        Doing::Listing,
        Doing::Sending,
        Doing::Verifying,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Doing::Idle => "idle",
            Doing::Comparing => "comparing",
            Doing::Receiving => "receiving",
            Doing::Committing => "committing",
            Doing::Listing => "listing",
            Doing::Sending => "sending",
            Doing::Verifying => "verifying",
        }
    }
}

impl Live {
    /// A session that begins now, idle.
    pub fn new(name: &UserName, connection: &Connection, legacy: bool) -> Arc<Live> {
        Arc::new(Live {
            name: name.clone(),
            peer: connection.peer(),
            legacy,
            began: Timestamp::now(),
            since: Instant::now(),
            doing: AtomicU8::new(Doing::Idle as u8),
            meter: connection.meter(),
        })
    }

    pub fn set(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    pub fn doing(&self) -> Doing {
        let number = usize::from(self.doing.load(Ordering::Relaxed));
        Doing::ALL.get(number).copied().unwrap_or(Doing::Idle)
    }

    /// Bytes received and sent by its connection so far.
    pub fn counts(&self) -> (u64, u64) {
        self.meter.counts()
    }
}

/// A client's being served; it ends with this.
#[derive(Debug)]
pub struct Visit {
    sessions: Arc<Sessions>,
    client: ClientId,
    number: u64,
}

impl Sessions {
    /// Notes a session that is about to begin. To be called before the client's record is looked up for the
    /// last time: then either this comes first, or a removal does and no record is found. Without a guest it is
    /// the operator who reads the client's snapshots.
    pub fn enter(self: &Arc<Sessions>, client: ClientId, guest: Option<Guest>) -> Visit {
        let mut table = self.table();
        let number = table.next_number;
        table.next_number += 1;
        table.by_client.entry(client).or_default().push((number, guest));
        Visit { sessions: self.clone(), client, number }
    }

    /// Does `work` while the client has no session, and none begins; or gives the number of those it has.
    pub fn while_absent<T>(&self, client: ClientId, work: impl FnOnce() -> T) -> Result<T, usize> {
        let table = self.table();
        match table.by_client.get(&client) {
            None => Ok(work()),
            Some(visits) => Err(visits.len()),
        }
    }

    /// Closes the sessions of a client under it.
    pub fn end(&self, client: ClientId) {
        for (_, guest) in self.table().by_client.get(&client).into_iter().flatten() {
            if let Some(guest) = guest {
                guest.closer.close();
            }
        }
    }

    /// Closes the sessions of a client but this one.
    pub fn end_others(&self, visit: &Visit) {
        let table = self.table();
        let visits = table.by_client.get(&visit.client).into_iter().flatten();
        for (_, guest) in visits.filter(|(number, _)| *number != visit.number) {
            if let Some(guest) = guest {
                guest.closer.close();
            }
        }
    }

    /// All that there are, the oldest first, with their numbers.
    pub fn live(&self) -> Vec<(u64, Arc<Live>)> {
        let table = self.table();
        let guests = table.by_client.values().flatten();
        let mut live: Vec<_> =
            guests.filter_map(|(number, guest)| Some((*number, guest.as_ref()?.live.clone()))).collect();
        sort_by_key(&mut live, |(number, _)| *number);
        live
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        if let Some(visits) = table.by_client.get_mut(&self.client) {
            visits.retain(|(number, _)| *number != self.number);
            if visits.is_empty() {
                table.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_does_survives_its_number() {
        for doing in Doing::ALL {
            assert_eq!(Doing::ALL[doing as usize], doing);
        }
    }
}
