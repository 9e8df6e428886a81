//! Who may back up: one file for each client, `clients/<id>.json`, which binds a user name to a public key.
//! A name belongs to its key for good; only the operator takes it away.
//!
//! Every change replaces the file first and what is in memory after it, so that a stop between leaves the old
//! record or the new one.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{At, StoreError};
use super::head::Moment;
use super::layout::{ClientFolder, names_in, read_small_file};
use super::sealed_json::{decode_sealed, encode_sealed};
use crate::base::durable::{Disk, FILE_MODE};
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, UserName};
use crate::base::order::sort_by;
use crate::base::time::Timestamp;

/// The newest record that is read. A record with a next key is of version 2, so that a program that knows of no such
/// key does not lose it; every other one is of version 1.
const CLIENT_VERSION: u64 = 2;
const PLAIN_CLIENT_VERSION: u64 = 1;
const CLIENT_FILE_BYTES_MAX: u64 = 64 * 1024;
/// How many of its earlier names a client is still known by.
const FORMER_NAMES_MAX: usize = 8;

/// A registered client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRecord {
    pub id: ClientId,
    pub name: UserName,
    /// SubjectPublicKeyInfo, DER; empty once the operator has reset the client.
    pub public_key: Vec<u8>,
    /// The key that takes the place of it with the first login in which it is proved.
    pub next_key: Option<Vec<u8>>,
    pub registered: Timestamp,
    /// The fingerprint of the server's next key that the client has pinned last.
    pub pinned_server_key: Option<String>,
    /// Most bytes that its snapshots may take; none for as many as there are.
    pub quota: Option<u64>,
    /// What it was called before, so that it is still let in until it knows; the latest last.
    pub(crate) former_names: Vec<UserName>,
    /// Registered in the legacy dialect and not moved over yet: the name may be used there, and nowhere else may it.
    pub legacy: bool,
    pub(crate) folder: ClientFolder,
}

impl ClientRecord {
    /// Whether the operator has reset it: whoever has a token of its name becomes it.
    pub fn is_reset(&self) -> bool {
        self.public_key.is_empty()
    }

    /// Whether it may log in with this key.
    pub fn has_key(&self, public_key: &[u8]) -> bool {
        self.public_key == public_key || self.next_key.as_deref() == Some(public_key)
    }

    /// What it is called, then what it was called before, the latest first.
    pub fn names(&self) -> impl Iterator<Item = &UserName> {
        std::iter::once(&self.name).chain(self.former_names.iter().rev())
    }

    /// Whether it is called so, or was before the operator renamed it.
    pub fn is_called(&self, name: &UserName) -> bool {
        self.name == *name || self.former_names.contains(name)
    }
}

#[derive(Serialize, Deserialize)]
struct ClientFile {
    version: u64,
    id: ClientId,
    name: UserName,
    folder: String,
    registered: Moment,
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_public_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned_server_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_names: Vec<UserName>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    legacy: bool,
}

/// All clients, in memory; the files say the same.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: HashMap<ClientId, Arc<ClientRecord>>,
    by_name: HashMap<UserName, ClientId>,
}

impl Clients {
    /// Reads the files; one that cannot be read is named in `problems` and keeps nobody else out.
    pub fn load(folder: &Path, problems: &mut Vec<String>) -> Result<Clients, StoreError> {
        let mut clients = Clients::default();
        for name in names_in(folder)?.iter().filter(|name| name.ends_with(".json")) {
            match read_client(&folder.join(name)) {
                Ok(record) => clients.insert(Arc::new(record)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        Ok(clients)
    }

    /// Takes a record in whose file is there.
    pub fn insert(&mut self, record: Arc<ClientRecord>) {
        self.by_name.insert(record.name.clone(), record.id);
        self.by_id.insert(record.id, record);
    }

    pub fn get(&self, id: ClientId) -> Option<Arc<ClientRecord>> {
        self.by_id.get(&id).cloned()
    }

    pub fn named(&self, name: &UserName) -> Option<Arc<ClientRecord>> {
        self.get(*self.by_name.get(name)?)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<ClientRecord>> {
        let mut all: Vec<Arc<ClientRecord>> = self.by_id.values().cloned().collect();
        sort_by(&mut all, |left, right| left.name.cmp(&right.name));
        all
    }

    /// Registers a name with a key; durable when this returns. The same name with the same key is the client
    /// that is there already.
    pub fn register(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        name: &UserName,
        public_key: &[u8],
        legacy: bool,
    ) -> Result<Arc<ClientRecord>, StoreError> {
        if let Some(record) = self.named(name) {
            return match record.has_key(public_key) {
                true => Ok(record),
                false => Err(StoreError::NameTaken { name: name.to_string() }),
            };
        }
        let record = Arc::new(ClientRecord {
            id,
            name: name.clone(),
            public_key: public_key.to_vec(),
            next_key: None,
            registered: Timestamp::now(),
            pinned_server_key: None,
            quota: None,
            former_names: Vec::new(),
            legacy,
            folder: ClientFolder::create(name, id),
        });
        write_client(disk, folder, &record)?;
        self.insert(record.clone());
        Ok(record)
    }

    /// Replaces the record of a client by what `change` makes of it; durable when this returns.
    fn change(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        change: impl FnOnce(&mut ClientRecord),
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let record = self.get(id).ok_or_else(|| no_client(id))?;
        let mut changed = (*record).clone();
        change(&mut changed);
        write_client(disk, folder, &changed)?;
        let changed = Arc::new(changed);
        self.by_name.remove(&record.name);
        self.insert(changed.clone());
        Ok(changed)
    }

    /// Forgets the key of a client: its name waits for another one.
    pub fn reset(&mut self, disk: &Disk, folder: &Path, id: ClientId) -> Result<Arc<ClientRecord>, StoreError> {
        self.change(disk, folder, id, |record| {
            record.public_key.clear();
            record.next_key = None;
            record.legacy = false;
        })
    }

    /// Gives a client that was reset its new key.
    ///
    /// # Errors
    /// `NameTaken` where it has one.
    pub fn renew(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        public_key: &[u8],
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let record = self.get(id).ok_or_else(|| no_client(id))?;
        if !record.is_reset() {
            return match record.public_key == public_key {
                true => Ok(record),
                false => Err(StoreError::NameTaken { name: record.name.to_string() }),
            };
        }
        self.change(disk, folder, id, |record| record.public_key = public_key.to_vec())
    }

    /// Notes the key that is to follow `current`; an earlier one that was to follow is forgotten.
    ///
    /// # Errors
    /// `NameTaken` where the client has another key by now than `current`.
    pub fn begin_rotation(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        current: &[u8],
        next: &[u8],
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let record = self.get(id).ok_or_else(|| no_client(id))?;
        if record.is_reset() || record.public_key != current {
            return Err(StoreError::NameTaken { name: record.name.to_string() });
        }
        if record.next_key.as_deref() == Some(next) {
            return Ok(record);
        }
        self.change(disk, folder, id, |record| record.next_key = Some(next.to_vec()))
    }

    /// Puts the next key, which has been proved, in the place of the present one.
    ///
    /// # Errors
    /// `NameTaken` where the client has neither as its key nor as its next.
    pub fn finish_rotation(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        next: &[u8],
    ) -> Result<Arc<ClientRecord>, StoreError> {
        let record = self.get(id).ok_or_else(|| no_client(id))?;
        if record.public_key == next {
            return Ok(record);
        }
        if record.next_key.as_deref() != Some(next) {
            return Err(StoreError::NameTaken { name: record.name.to_string() });
        }
        self.change(disk, folder, id, |record| record.public_key = record.next_key.take().unwrap_or_default())
    }

    /// Notes which next key of the server a client has pinned.
    pub fn note_server_key(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        fingerprint: &str,
    ) -> Result<(), StoreError> {
        let known = self.get(id).is_some_and(|record| record.pinned_server_key.as_deref() == Some(fingerprint));
        match known {
            true => Ok(()),
            false => self
                .change(disk, folder, id, |record| record.pinned_server_key = Some(fingerprint.into()))
                .map(drop),
        }
    }

    pub fn set_quota(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        quota: Option<u64>,
    ) -> Result<Arc<ClientRecord>, StoreError> {
        self.change(disk, folder, id, |record| record.quota = quota)
    }

    /// Gives a client another name; its folders keep theirs.
    ///
    /// # Errors
    /// `NameTaken` where another client has it.
    pub fn rename(
        &mut self,
        disk: &Disk,
        folder: &Path,
        id: ClientId,
        name: &UserName,
    ) -> Result<Arc<ClientRecord>, StoreError> {
        if self.named(name).is_some_and(|record| record.id != id) {
            return Err(StoreError::NameTaken { name: name.to_string() });
        }
        self.change(disk, folder, id, |record| {
            let former = std::mem::replace(&mut record.name, name.clone());
            record.former_names.retain(|earlier| *earlier != former && earlier != name);
            if former != *name {
                record.former_names.push(former);
            }
            let surplus = record.former_names.len().saturating_sub(FORMER_NAMES_MAX);
            record.former_names.drain(..surplus);
        })
    }

    /// Takes a client out of the list in memory.
    pub fn forget(&mut self, id: ClientId) {
        if let Some(record) = self.by_id.remove(&id) {
            self.by_name.remove(&record.name);
        }
    }

    /// Closes a name to the legacy dialect for good; durable when this returns.
    pub fn close_to_legacy(&mut self, disk: &Disk, folder: &Path, id: ClientId) -> Result<(), StoreError> {
        let Some(record) = self.get(id).filter(|record| record.legacy) else { return Ok(()) };
        let record = Arc::new(ClientRecord { legacy: false, ..(*record).clone() });
        write_client(disk, folder, &record)?;
        self.insert(record);
        Ok(())
    }

    /// A random id whose folder name, which holds only half a word of it, is nobody else's.
    pub fn fresh_id(&self, name: &UserName) -> ClientId {
        loop {
            let id = ClientId::random();
            let folder = ClientFolder::create(name, id);
            if !self.by_id.values().any(|record| record.folder == folder) {
                return id;
            }
        }
    }
}

fn no_client(id: ClientId) -> StoreError {
    StoreError::NotFound { what: format!("client {id} is no longer here") }
}

fn write_client(disk: &Disk, folder: &Path, record: &ClientRecord) -> Result<(), StoreError> {
    let (bytes, name) = (encode_client(record), client_file_name(record.id));
    let handle = open_folder(folder).at("open", folder)?;
    disk.replace_file(handle.as_fd(), name.as_bytes(), &bytes, FILE_MODE).at("write", &folder.join(name))
}

/// The bytes of a client's file.
pub fn encode_client(record: &ClientRecord) -> Vec<u8> {
    let file = ClientFile {
        version: if record.next_key.is_some() { CLIENT_VERSION } else { PLAIN_CLIENT_VERSION },
        id: record.id,
        name: record.name.clone(),
        folder: record.folder.to_string(),
        registered: record.registered.into(),
        public_key: STANDARD.encode(&record.public_key),
        next_public_key: record.next_key.as_ref().map(|key| STANDARD.encode(key)),
        pinned_server_key: record.pinned_server_key.clone(),
        quota: record.quota,
        former_names: record.former_names.clone(),
        legacy: record.legacy,
    };
    encode_sealed(&file)
}

pub fn client_file_name(id: ClientId) -> String {
    format!("{id}.json")
}

/// Reads the record of a client; its file is named by the id, whatever the ending.
pub fn read_client(path: &Path) -> Result<ClientRecord, StoreError> {
    let bytes = read_small_file(path, CLIENT_FILE_BYTES_MAX)?;
    let file: ClientFile = decode_sealed(&bytes, path)?;
    if file.version > CLIENT_VERSION {
        return Err(StoreError::NewerFormat { path: path.to_path_buf(), version: file.version });
    }
    let own_name = path.file_stem().and_then(|stem| stem.to_str()) == Some(file.id.to_string().as_str());
    let folder = ClientFolder::parse(&file.folder).filter(|_| own_name);
    let folder = folder.ok_or_else(|| StoreError::damaged(path, "its id or folder is not what it should be"))?;
    let key = |text: &String| STANDARD.decode(text).map_err(|error| StoreError::damaged(path, error));
    let (public_key, next_key) = (key(&file.public_key)?, file.next_public_key.as_ref().map(key).transpose()?);
    Ok(ClientRecord {
        id: file.id,
        name: file.name,
        public_key,
        next_key,
        registered: file.registered.into(),
        pinned_server_key: file.pinned_server_key,
        quota: file.quota,
        former_names: file.former_names,
        legacy: file.legacy,
        folder,
    })
}
