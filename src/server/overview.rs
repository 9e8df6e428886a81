//! A server as its operator sees it, read only: what the dashboard shows. Nothing here waits for a session.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::failures::FailureNote;
use super::listener::Shared;
use super::operator;
use super::sessions::Doing;
use super::statistics::Report;
use crate::base::ids::UserName;
use crate::base::time::Timestamp;
use crate::crypto::Fingerprint;
use crate::storage::{ClientRecord, ClientSummary, Space, StoreError};

/// A look at a running server, for as long as it is wanted.
#[derive(Clone)]
pub struct Overview {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// A session that goes on.
#[derive(Debug)]
pub struct SessionView {
    /// No other session of this run has it.
    pub number: u64,
    pub client: UserName,
    pub peer: SocketAddr,
    pub legacy: bool,
    pub doing: Doing,
    pub began: Timestamp,
    pub age: Duration,
    /// Bytes on the wire so far.
    pub received: u64,
    pub sent: u64,
}

impl Overview {
    pub(super) fn new(shared: Arc<Shared>, address: SocketAddr) -> Overview {
        Overview { shared, address }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.fingerprint()
    }

    pub fn data(&self) -> &Path {
        self.shared.store.path()
    }

    /// The figures of `stats`.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// The sessions that go on, the oldest first.
    pub fn sessions(&self) -> Vec<SessionView> {
        let view = |(number, live): (u64, Arc<super::sessions::Live>)| {
            let (received, sent) = live.counts();
            SessionView {
                number,
                client: live.name.clone(),
                peer: live.peer,
                legacy: live.legacy,
                doing: live.doing(),
                began: live.began,
                age: live.since.elapsed(),
                received,
                sent,
            }
        };
        self.shared.sessions.live().into_iter().map(view).collect()
    }

    /// The newest failures, the newest first.
    pub fn failures(&self) -> Vec<FailureNote> {
        self.shared.failures.newest()
    }

    /// The rows of `clients`, with the last success in seconds since 1970 beside it. A client whose figures cannot be
    /// read has its name and an `error`. The figures are kept in memory and are read anew when they change.
    pub fn clients(&self) -> Vec<Value> {
        let (store, now) = (&self.shared.store, Timestamp::now());
        let row = |(client, summary): (Arc<ClientRecord>, Result<ClientSummary, StoreError>)| match summary {
            Ok(summary) => {
                let mut row = operator::client_row(&client, &summary, now);
                let last = summary.last.as_ref().map(|last| last.committed().seconds);
                row["last_success_seconds"] = json!(last);
                row
            }
            Err(error) => json!({ "name": client.name, "id": client.id, "error": error.to_string() }),
        };
        store.summaries().into_iter().map(row).collect()
    }

    /// The room on the disk of the data folder.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.shared.store.space()
    }

    /// Whether less is left than `--low-space` wants.
    pub fn is_low(&self, space: Space) -> bool {
        self.shared.config.watch.low_space.is_some_and(|limit| space.available < limit.bytes_of(space.total))
    }
}
