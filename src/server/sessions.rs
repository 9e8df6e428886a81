//! Which clients have a session: so that the operator removes none that is being served, and that a client whose
//! key was reset is served no longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::ids::ClientId;
use crate::channel::Closer;

/// The sessions of all clients.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    by_client: HashMap<ClientId, Vec<(u64, Option<Closer>)>>,
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
    /// last time: then either this comes first, or a removal does and no record is found. Without a closer it is
    /// the operator who reads the client's snapshots.
    pub fn enter(self: &Arc<Sessions>, client: ClientId, closer: Option<Closer>) -> Visit {
        let mut table = self.table();
        let number = table.next_number;
        table.next_number += 1;
        table.by_client.entry(client).or_default().push((number, closer));
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
        for (_, closer) in self.table().by_client.get(&client).into_iter().flatten() {
            if let Some(closer) = closer {
                closer.close();
            }
        }
    }

    /// Closes the sessions of a client but this one.
    pub fn end_others(&self, visit: &Visit) {
        let table = self.table();
        let visits = table.by_client.get(&visit.client).into_iter().flatten();
        for (_, closer) in visits.filter(|(number, _)| *number != visit.number) {
            if let Some(closer) = closer {
                closer.close();
            }
        }
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
