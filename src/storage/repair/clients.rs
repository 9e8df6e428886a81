//! The records of clients. A record that is damaged or gone is made anew without a key, under the name that the client's
//! newest index has; the key is nowhere else, so the client has to be let in again.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::{Outcome, Repair, Repaired, head_copy, ids, read_headless_index};
use crate::base::ids::{ClientId, UserName};
use crate::base::order::set_of;
use crate::base::time::Timestamp;
use crate::storage::catalog::read_head;
use crate::storage::client_removal::{id_of_removed, remove_data};
use crate::storage::clients::{ClientRecord, Clients, encode_client, read_client};
use crate::storage::error::StoreError;
use crate::storage::layout::{ClientFolder, names_in};

/// What a client's folders tell of it.
struct Told {
    name: Option<UserName>,
    since: Timestamp,
}

impl Told {
    fn nothing() -> Told {
        Told { name: None, since: Timestamp::now() }
    }
}

impl Repair<'_> {
    /// Makes the records that are damaged or missing anew, and gives them.
    pub(super) fn client_records(&mut self, known: &Clients) -> Result<Vec<Arc<ClientRecord>>, StoreError> {
        self.removals(known)?;
        let clients = self.shared.layout.clients();
        let mut made: Vec<Arc<ClientRecord>> = Vec::new();
        let mut lost: BTreeSet<ClientId> = BTreeSet::new();
        for name in names_in(&clients)? {
            let Some(id) = name.strip_suffix(".json").and_then(|id| id.parse().ok()) else { continue };
            match read_client(&clients.join(&name)) {
                Err(StoreError::Damaged { .. }) => drop(lost.insert(id)),
                Err(error @ StoreError::NewerFormat { .. }) => {
                    let (file, text) = (clients.join(&name), error.to_string());
                    self.tell(Repaired {
                        file,
                        outcome: Outcome::Lost,
                        client: None,
                        snapshots: BTreeSet::new(),
                        text,
                    });
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let mut folders = Vec::new();
        for name in names_in(&self.shared.layout.snapshots_of_all())? {
            let Some(folder) = ClientFolder::parse(&name) else { continue };
            if known.all().iter().any(|record| record.folder == folder) {
                continue;
            }
            let unread = || lost.iter().find(|id| is_of(&folder, **id)).map(|id| (*id, Told::nothing()));
            if let Some((id, told)) = self.ask(&folder)?.or_else(unread) {
                folders.push((id, folder, told));
            }
        }
        for (id, folder, told) in folders {
            let is_newer = clients.join(format!("{id}.json")).exists() && !lost.remove(&id);
            if known.get(id).is_some() || is_newer {
                continue;
            }
            made.push(self.make_record(known, &made, id, folder, told)?);
        }
        for id in lost {
            let text = "the record of a client that has no snapshots: its name can register anew";
            self.drop_record(clients.join(format!("{id}.json")), None, text)?;
        }
        Ok(made)
    }

    /// Who a folder's snapshots belong to; none where nothing in it tells.
    fn ask(&self, folder: &ClientFolder) -> Result<Option<(ClientId, Told)>, StoreError> {
        let (path, keyring) = (self.shared.layout.snapshots(folder), self.shared.layout.keyring_of(folder));
        let names = names_in(&path)?;
        let all = set_of(ids(&names, ".json").chain(ids(&names, ".index")));
        let mut found: Option<(ClientId, Told)> = None;
        for id in all {
            let copy = read_headless_index(&path, id, &keyring)?.as_ref().and_then(head_copy);
            let told = match (copy, read_head(&path, id).ok()) {
                (Some((head, name)), _) => Some((head, name)),
                (None, head) => head.map(|head| (head, None)),
            };
            let Some((head, name)) = told.filter(|(head, _)| is_of(folder, head.client)) else { continue };
            let told = &mut found.get_or_insert((head.client, Told { name: None, since: head.committed })).1;
            // The newest one's counts: the client may have been renamed.
            told.name = name.or(told.name.take());
        }
        Ok(found)
    }

    fn make_record(
        &mut self,
        known: &Clients,
        made: &[Arc<ClientRecord>],
        id: ClientId,
        folder: ClientFolder,
        told: Told,
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let is_free =
            |name: &UserName| known.named(name).is_none() && !made.iter().any(|other| other.name == *name);
        let cleaned = folder.as_str().rsplit_once('-').and_then(|(name, _)| name.parse().ok());
        let unique = folder.as_str().parse().map_err(|_| StoreError::out_of_place("a folder's name"))?;
        let name = [told.name, cleaned].into_iter().flatten().find(is_free).unwrap_or(unique);
        let record = ClientRecord {
            id,
            name: name.clone(),
            public_key: Vec::new(),
            next_key: None,
            registered: told.since,
            pinned_server_key: None,
            quota: None,
            former_names: Vec::new(),
            legacy: false,
            folder,
        };
        let file = self.shared.layout.clients().join(format!("{id}.json"));
        self.write(&file, &encode_client(&record))?;
        let text = format!(
            "the record of {name}, without its key and its quota: make a token with \"enroll {name}\", and have the \
             client run once with it, its identity.json moved away; \"clients quota\" sets a quota again"
        );
        let (outcome, client) = (Outcome::Rebuilt, Some(name));
        self.tell(Repaired { file, outcome, client, snapshots: BTreeSet::new(), text });
        Ok(Arc::new(record))
    }

    /// Clients whose removal cannot be finished since their records are damaged: what lies in their folders goes.
    fn removals(&mut self, known: &Clients) -> Result<(), StoreError> {
        let (layout, disk) = (&self.shared.layout, &self.shared.disk);
        let clients = layout.clients();
        let mut removed = Vec::new();
        for name in names_in(&clients)? {
            let Some(id) = id_of_removed(&name) else { continue };
            let file = clients.join(&name);
            if !read_client(&file).is_err_and(|error| matches!(error, StoreError::Damaged { .. })) {
                continue;
            }
            let mut folders = HashSet::new();
            for parent in layout.client_parents() {
                folders.extend(names_in(&parent)?.iter().filter_map(|name| ClientFolder::parse(name)));
            }
            let is_nobodys = |folder: &ClientFolder| !known.all().iter().any(|record| record.folder == *folder);
            let own = folders.into_iter().filter(|folder| is_of(folder, id) && is_nobodys(folder));
            for folder in own {
                if self.is_real {
                    remove_data(disk, layout, id, &folder)?;
                }
            }
            removed.push(file);
        }
        for file in removed {
            self.drop_record(file, None, "a client that was being removed: that is finished")?;
        }
        Ok(())
    }
}

/// Whether a folder is called as one of this client is.
fn is_of(folder: &ClientFolder, id: ClientId) -> bool {
    folder.as_str().rsplit_once('-').is_some_and(|(_, end)| id.to_string().starts_with(end) && end.len() == 8)
}
