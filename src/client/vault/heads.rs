//! Questions that only a vault's heads answer: which snapshots there are and of whom, and which is the newest of a root.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::connect::Session;
use super::super::error::ClientError;
use super::super::query::{Damage, ListSummary};
use super::reader::VaultReader;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;
use crate::crypto::FullKey;
use crate::protocol::message::{FailureCode, SnapshotRow};

/// Which snapshot a request is about.
pub enum Place {
    /// The server says which: one that this client has stored, if there is any.
    Servers,
    /// One of this client's vault that this client has not stored.
    Anothers,
    /// One that this client has stored into its vault.
    Sealed(SnapshotId),
}

/// A snapshot that a server lists: one of this client's, or another host's in the vault.
pub struct Known {
    pub id: SnapshotId,
    pub vault: Option<VaultId>,
    committed: Timestamp,
    /// What the server says of it; none where another host has stored it.
    pub own: Option<SnapshotRow>,
}

impl Session {
    /// The full key of `vault`, or of whichever vault there is a key of.
    ///
    /// # Errors
    /// [`ClientError::Impossible`] or [`ClientError::NoVaultKey`] where it is not here, others where it does not open.
    pub fn vault_key(&self, vault: Option<VaultId>) -> Result<Arc<FullKey>, ClientError> {
        let access = self.vault.as_ref().ok_or(ClientError::NoVaultKey { vault })?;
        access.full_key(vault)
    }

    /// This client's snapshots and, with the key of a vault, others' in it, the newest last. Those that cannot be listed are
    /// given to `damage`; the summary counts all.
    pub fn known_snapshots(
        &mut self,
        key: Option<Arc<FullKey>>,
        damage: impl FnMut(&Damage) + Send,
    ) -> Result<(ListSummary, Vec<Known>), ClientError> {
        let mut known = Vec::new();
        let row = |row: &SnapshotRow| {
            known.push(Known { id: row.id, vault: row.vault, committed: row.committed, own: Some(row.clone()) });
            Ok(())
        };
        let mut summary = self.snapshots(row, damage)?;
        if let Some(key) = key {
            let (vault, count) = (Some(key.put().vault()), known.len());
            let own: HashSet<SnapshotId> = known.iter().map(|known| known.id).collect();
            let others = self.vault_snapshots(key)?.into_iter().filter(|(_, id)| !own.contains(id));
            known.extend(others.map(|(committed, id)| Known { id, vault, committed, own: None }));
            summary.rows += (known.len() - count) as u64;
            known.sort_by_key(|known| (known.committed, known.id));
        }
        Ok((summary, known))
    }

    /// When each snapshot of the key's vault was committed, whichever host stored it, and its id. None where the server
    /// does not have the vault.
    fn vault_snapshots(&mut self, key: Arc<FullKey>) -> Result<Vec<(Timestamp, SnapshotId)>, ClientError> {
        if !self.keeps_vaults {
            return Ok(Vec::new());
        }
        match self.converse(|line| VaultReader::new(line, key).listed("")) {
            Err(ClientError::Failure { code: FailureCode::NotFound, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(listed) => Ok(listed.heads.into_iter().map(|(id, head)| (head.committed, id)).collect()),
        }
    }

    /// What the server lists of a vault's snapshot, with what the snapshot's head says.
    pub fn vault_row(&mut self, snapshot: SnapshotId, key: Arc<FullKey>) -> Result<SnapshotRow, ClientError> {
        self.converse(|line| VaultReader::new(line, key).open_by_id(snapshot).map(|opened| opened.row))
    }

    /// Where the newest snapshot of a root is: of this client's own first, whether or not they are in its vault.
    pub(in crate::client) fn newest_of_root(&mut self, root: &EntryPath) -> Result<Place, ClientError> {
        let (mut plain, mut sealed) = (None, Vec::new());
        let row = |row: &SnapshotRow| {
            match row.vault {
                Some(vault) => sealed.push((row.id, vault)),
                None if row.roots.contains(root) => {
                    plain = Some(row.id);
                    // What came before it is not the newest.
                    sealed.clear();
                }
                None => {}
            }
            Ok(())
        };
        self.snapshots(row, |_| {})?;
        if let (Some(plain), []) = (plain, &sealed[..]) {
            return self.plain_of_root(plain);
        }
        let key = match self.vault_key(None) {
            Ok(key) => key,
            // Nothing of this client's can have the root: the server says so.
            Err(error) if error.lacks_vault_key() && sealed.is_empty() => return Ok(Place::Anothers),
            Err(error) => return Err(error),
        };
        // By the ids, which the heads have sealed: in which order the server lists them is its word.
        sealed.sort_by(|(one, _), (other, _)| one.begun().cmp(other.begun()));
        for (id, _) in sealed.into_iter().rev().filter(|(_, vault)| *vault == key.put().vault()) {
            if self.vault_row(id, key.clone())?.roots.contains(root) {
                return Ok(Place::Sealed(id));
            }
        }
        plain.map_or(Ok(Place::Anothers), |plain| self.plain_of_root(plain))
    }

    /// Where a plain one is the newest of a root: not every answer about it says which one it is. That it is plain is no
    /// wonder: a host may store one root so and another into a vault.
    fn plain_of_root(&self, newest: SnapshotId) -> Result<Place, ClientError> {
        if let Some(access) = &self.vault {
            access.check_plain(newest, newest.as_str(), &self.holder())?;
        }
        Ok(Place::Servers)
    }
}
