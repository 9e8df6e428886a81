//! What a server lists of a vault: the snapshots that it shows, each with the hash of its sealed head, and those that it
//! says were dropped there. No key is needed for any of it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::error::ClientError;
use crate::base::ids::SnapshotId;
use crate::base::limits::{VAULT_DROPPED_MAX, VAULT_SNAPSHOTS_MAX};
use crate::base::time::Timestamp;
use crate::crypto::head_hash;
use crate::protocol::message::{DroppedSnapshots, StoredHead};

/// The list of one vault, or of those snapshots in it whose ids begin alike.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub heads: BTreeMap<SnapshotId, ListedHead>,
    pub dropped: Dropped,
}

/// A snapshot that is shown.
#[derive(Debug, Clone)]
pub struct ListedHead {
    pub committed: Timestamp,
    /// Of the sealed head; or why the server cannot give it.
    pub hash: Result<[u8; 32], String>,
}

/// What the server says that it dropped on purpose. It can say so of whatever it likes.
#[derive(Debug, Clone, Default)]
pub struct Dropped {
    /// Up to this id, itself included, the server does not remember all of them.
    pub before: Option<SnapshotId>,
    pub ids: BTreeSet<SnapshotId>,
}

impl Listed {
    pub fn add(&mut self, stored: &StoredHead<'_>) -> Result<(), ClientError> {
        let hash = head_hash(stored.head.name, stored.head.key, stored.head.sealed);
        self.put(stored.id, ListedHead { committed: stored.committed, hash: Ok(hash) })
    }

    pub fn add_damaged(&mut self, id: SnapshotId, problem: String) -> Result<(), ClientError> {
        self.put(id, ListedHead { committed: Timestamp::default(), hash: Err(problem) })
    }

    fn put(&mut self, id: SnapshotId, head: ListedHead) -> Result<(), ClientError> {
        if self.heads.insert(id, head).is_some() {
            return Err(ClientError::Integrity(format!("the server shows two snapshots under the id {id}")));
        }
        within(self.heads.len(), VAULT_SNAPSHOTS_MAX)
    }
}

impl Dropped {
    pub fn add(&mut self, part: DroppedSnapshots) -> Result<(), ClientError> {
        self.before = self.before.max(part.before);
        self.ids.extend(part.snapshots);
        within(self.ids.len(), VAULT_DROPPED_MAX)
    }

    /// Whether a snapshot that is not shown need not be.
    pub fn accounts_for(&self, id: SnapshotId) -> bool {
        self.ids.contains(&id) || self.before.is_some_and(|before| id <= before)
    }
}

fn within(count: usize, limit: usize) -> Result<(), ClientError> {
    match count <= limit {
        true => Ok(()),
        false => Err(ClientError::Integrity(format!("the server lists more than {limit} snapshots of one vault"))),
    }
}
