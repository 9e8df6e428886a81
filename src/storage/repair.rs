//! A store mended offline, as far as it can be proved what was there: heads from the copies in their indexes, indexes
//! and ranges from what lies beside them, where the checksum says that the result is the very file. What cannot be made
//! again is named, and left as it is. Records of clients have no second copy: they are made anew without a key, so
//! that the operator lets the client in again.
//!
//! **Nothing is guessed into a snapshot**: an index or a range is written only when its bytes have the hash that another
//! file names, a head only from a copy whose checksum fits. So every step may be cut short and done again, and a second run finds nothing to do.

mod clients;
mod indexes;
mod large;
mod pool;
mod ranges;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::at_rest::{ClientKeyring, FileKeyring, SealedKind, SealingState, read_stored_file};
use super::catalog::{locked, read_head_file};
use super::clients::ClientRecord;
use super::comparison::read_index;
use super::daily::is_daily_record;
use super::damage::DamageList;
use super::dropped::{TOTALS_NAME, placeholder, read_record};
use super::error::{At, StoreError};
use super::head::Head;
use super::index::{INDEX_BYTES_MAX, Index, IndexRecord, decode_headless_index};
use super::layout::{SEALING_NAME, dropped_name, head_name, index_name, names_in, read_small_file};
use super::store::{Shared, Store};
use super::tokens;
use super::vault::dropped as dropped_in_vaults;
use super::verify::is_checked_record;
use crate::base::durable::{FILE_MODE, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{SnapshotId, UserName};
use crate::base::order::{set_of, sort_by_key};
use pool::Pool;

/// Damaged ranges of one client that are looked after in one run.
const RANGES_MENDED_MAX: usize = 4_096;

/// What became of a damaged or missing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there again.
    Rebuilt,
    /// It was worth nothing as it was, and the store makes it anew when it is needed.
    Removed,
    /// Nothing proves what it was.
    Lost,
}

/// A file that was damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    pub file: PathBuf,
    pub outcome: Outcome,
    pub client: Option<UserName>,
    /// The snapshots that need it.
    pub snapshots: BTreeSet<SnapshotId>,
    /// What was done, or what is lost and what can be done about it.
    pub text: String,
}

/// Is told of each file.
pub type RepairTaker<'a> = &'a mut dyn FnMut(Repaired);

impl Store {
    /// Rebuilds what can be rebuilt of heads, indexes, ranges, the records of clients and who may use vaults, and removes damaged records
    /// that the store can do without. Contents are [`Store::verify_client`]'s. Without `is_real` nothing is written, and
    /// all that would be is told. Nobody else uses the store meanwhile.
    ///
    /// # Errors
    /// What keeps it from going on; damage is none.
    pub fn repair(&self, is_real: bool, taker: RepairTaker<'_>) -> Result<(), StoreError> {
        let mut repair = Repair { shared: &self.shared, is_real, taker };
        repair.sealing()?;
        repair.small_records()?;
        self.mend_vaults(is_real)?.into_iter().for_each(|repaired| repair.tell(repaired));
        let made = {
            let mut clients = locked(&self.clients);
            let made = repair.client_records(&clients)?;
            made.iter().for_each(|record| clients.insert(record.clone()));
            made
        };
        for client in self.clients() {
            ClientRepair::of(&mut repair, client.clone()).run()?;
        }
        if !is_real {
            made.iter().for_each(|record| locked(&self.clients).forget(record.id));
        }
        Ok(())
    }
}

struct Repair<'a> {
    shared: &'a Shared,
    is_real: bool,
    taker: RepairTaker<'a>,
}

impl Repair<'_> {
    fn tell(&mut self, repaired: Repaired) {
        (self.taker)(repaired);
    }

    /// Replaces a file by `bytes`, durably.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.is_real {
            return Ok(());
        }
        let (folder, name) = parts(path);
        let handle = open_folder(folder).at("open", folder)?;
        self.shared.disk.replace_file(handle.as_fd(), name, bytes, FILE_MODE).at("write", path)
    }

    /// The same for a file that is sealed where the store is.
    fn write_sealed(&self, path: &Path, bytes: Vec<u8>, keyring: &FileKeyring) -> Result<(), StoreError> {
        self.write(path, &keyring.sealed(bytes))
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let (folder, name) = parts(path);
        let handle = open_folder(folder).at("open", folder)?;
        if !self.is_real || !exists(handle.as_fd(), name).at("look into", folder)? {
            return Ok(());
        }
        let removed = self.shared.disk.remove_file(handle.as_fd(), name);
        removed.and_then(|()| self.shared.disk.flush_folder(handle.as_fd(), name)).at("remove", path)
    }

    /// Removes a damaged file that the store can do without.
    fn drop_record(&mut self, file: PathBuf, client: Option<&UserName>, text: &str) -> Result<(), StoreError> {
        self.remove(&file)?;
        let outcome = Outcome::Removed;
        let (client, snapshots, text) = (client.cloned(), BTreeSet::new(), text.to_string());
        self.tell(Repaired { file, outcome, client, snapshots, text });
        Ok(())
    }

    /// How the store is sealed, as its files say.
    fn sealing(&mut self) -> Result<(), StoreError> {
        let layout = &self.shared.layout;
        let file = layout.data().join(SEALING_NAME);
        if !SealingState::is_damaged(layout.data()) {
            return Ok(());
        }
        if layout.keyring().writing().is_none() {
            return self.drop_record(file, None, "how the store is sealed: it is not");
        }
        if let Some(state) = SealingState::read_or_find(layout)?
            && self.is_real
        {
            state.write(&self.shared.disk, layout.data())?;
        }
        let (outcome, text) = (Outcome::Rebuilt, "how the store is sealed, as its files say".to_string());
        self.tell(Repaired { file, outcome, client: None, snapshots: BTreeSet::new(), text });
        Ok(())
    }

    /// Tokens, what was dropped of vaults, and the record of the daily prune.
    fn small_records(&mut self) -> Result<(), StoreError> {
        for (path, _) in dropped_in_vaults::check_all(&self.shared.layout.vaults())? {
            let text = "which snapshots of a vault were dropped: its readers are told of those that are gone";
            self.drop_record(path, None, text)?;
        }
        for error in tokens::check_all(&self.shared.layout.tokens())? {
            let StoreError::Damaged { path, .. } = error else { return Err(error) };
            self.drop_record(path, None, "a token that nobody can use any more: \"enroll\" makes a new one")?;
        }
        let daily = self.shared.layout.daily();
        match read_small_file(&daily, u64::MAX) {
            Ok(bytes) if !is_daily_record(&bytes) => {
                self.drop_record(daily, None, "when the last daily prune was: the next one comes at its time")
            }
            _ => Ok(()),
        }
    }
}

fn parts(path: &Path) -> (&Path, &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    (folder, path.file_name().map_or(b"".as_slice(), |name| name.as_bytes()))
}

/// One client's snapshots.
struct ClientRepair<'a, 'b> {
    repair: &'a mut Repair<'b>,
    client: Arc<ClientRecord>,
    folder: PathBuf,
    /// Those that can be read, rebuilt ones included.
    heads: BTreeMap<SnapshotId, Arc<Head>>,
    /// Those of snapshots that were dropped.
    dropped: BTreeMap<SnapshotId, Arc<Head>>,
    /// What the indexes have that were rebuilt.
    rebuilt: BTreeMap<SnapshotId, Vec<IndexRecord>>,
    /// All ranges, read once they are needed.
    pool: Option<Pool>,
}

impl<'a, 'b> ClientRepair<'a, 'b> {
    fn of(repair: &'a mut Repair<'b>, client: Arc<ClientRecord>) -> ClientRepair<'a, 'b> {
        let folder = repair.shared.layout.snapshots(&client.folder);
        let (heads, dropped) = (BTreeMap::new(), BTreeMap::new());
        ClientRepair { repair, client, folder, heads, dropped, rebuilt: BTreeMap::new(), pool: None }
    }

    fn run(&mut self) -> Result<(), StoreError> {
        self.lists()?;
        let names = names_in(&self.folder)?;
        self.dropped_heads(&names)?;
        self.heads(&names)?;
        self.indexes()?;
        self.ranges()
    }

    fn tell(&mut self, file: PathBuf, outcome: Outcome, snapshots: BTreeSet<SnapshotId>, text: String) {
        let client = Some(self.client.name.clone());
        self.repair.tell(Repaired { file, outcome, client, snapshots, text });
    }

    /// The list of damaged contents, what was verified when, and what is left of dropped snapshots.
    fn lists(&mut self) -> Result<(), StoreError> {
        let (layout, folder) = (&self.repair.shared.layout, &self.client.folder);
        let (list, checked) = (layout.damage_list(folder), layout.checked(folder));
        let keyring = layout.keyring_of(folder).files(SealedKind::DamageList);
        let name = self.client.name.clone();
        if list.exists() && DamageList::read(&list, &keyring).is_err_and(|error| error.is_damage()) {
            self.repair.drop_record(
                list,
                Some(&name),
                "what was found damaged: \"verify --data\" finds it again",
            )?;
        }
        if checked.exists() && !is_checked_record(&checked) {
            self.repair.drop_record(checked, Some(&name), "what was verified when: \"verify\" begins anew")?;
        }
        let totals = self.folder.join(TOTALS_NAME);
        if totals.exists() && read_record(&self.folder)?.is_none() {
            let text = "what is left of dropped snapshots: the next prune counts it anew";
            self.repair.drop_record(totals, Some(&name), text)?;
        }
        Ok(())
    }

    /// The heads of dropped snapshots say what is left of them, and no more: what cannot be read is made anew.
    fn dropped_heads(&mut self, names: &[String]) -> Result<(), StoreError> {
        for id in ids(names, ".dropped") {
            let file = self.folder.join(dropped_name(id));
            match read_head_file(file.clone(), id) {
                Ok(head) => drop(self.dropped.insert(id, Arc::new(head))),
                Err(StoreError::Damaged { .. }) => {
                    let copy = self.head_of_index(id)?;
                    let (head, text) = match copy {
                        Some(head) => (head, "the head of a dropped snapshot, from the copy in its index"),
                        None => (placeholder(id, self.client.id), "what stands for a dropped snapshot, made anew"),
                    };
                    self.repair.write(&file, &head.encode())?;
                    self.dropped.insert(id, Arc::new(head));
                    self.tell(file, Outcome::Rebuilt, BTreeSet::new(), text.into());
                }
                Err(error) => self.tell_newer(file, error, None)?,
            }
        }
        Ok(())
    }

    fn heads(&mut self, names: &[String]) -> Result<(), StoreError> {
        let with_index = ids(names, ".index").filter(|id| !self.dropped.contains_key(id));
        let all = set_of(ids(names, ".json").chain(with_index));
        for id in all {
            let file = self.folder.join(head_name(id));
            match read_head_file(file.clone(), id).map_err(StoreError::of_named_file) {
                Ok(head) => drop(self.heads.insert(id, Arc::new(head))),
                Err(StoreError::Damaged { problem, .. }) => match self.head_of_index(id)? {
                    Some(head) => {
                        self.repair.write(&file, &head.encode())?;
                        self.heads.insert(id, Arc::new(head));
                        let text = format!("the head, from the copy in its index ({problem})");
                        self.tell(file, Outcome::Rebuilt, set_of([id]), text);
                    }
                    None => {
                        let text = format!(
                            "the head ({problem}) and its index: put one of them back from a copy, else drop the \
                             snapshot with \"prune --snapshot {id}\", which gives back what it alone needed"
                        );
                        self.tell(file, Outcome::Lost, set_of([id]), text);
                    }
                },
                Err(error) => self.tell_newer(file, error, Some(id))?,
            }
        }
        Ok(())
    }

    /// The head that a snapshot's index has a copy of; none where the index is damaged too, or has none.
    fn head_of_index(&self, id: SnapshotId) -> Result<Option<Head>, StoreError> {
        let is_own = |head: &Head| head.id == id && head.client == self.client.id;
        let keyring = self.repair.shared.layout.keyring_of(&self.client.folder);
        let found = read_headless_index(&self.folder, id, &keyring)?.and_then(|index| head_copy(&index));
        Ok(found.map(|(head, _)| head).filter(is_own))
    }

    /// A file of a newer program is left to that program.
    fn tell_newer(
        &mut self,
        file: PathBuf,
        error: StoreError,
        snapshot: Option<SnapshotId>,
    ) -> Result<(), StoreError> {
        match error {
            StoreError::NewerFormat { .. } => {
                self.tell(file, Outcome::Lost, snapshot.into_iter().collect(), error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }

    fn indexes(&mut self) -> Result<(), StoreError> {
        let mut damaged = Vec::new();
        for head in self.heads.values() {
            match self.records(head) {
                Ok(_) => {}
                Err(error) if error.is_damage() => damaged.push((head.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        sort_by_key(&mut damaged, |(head, _)| head.sequence);
        // One that was found may tell what another one needs.
        while !damaged.is_empty() {
            let before = damaged.len();
            for (head, error) in std::mem::take(&mut damaged) {
                let Some((records, bytes)) = self.rebuilt_index(&head)? else {
                    damaged.push((head, error));
                    continue;
                };
                let file = self.folder.join(index_name(head.id));
                let keyring = self.repair.shared.layout.keyring_of(&self.client.folder);
                self.repair.write_sealed(&file, bytes, &keyring.files(SealedKind::Index))?;
                self.rebuilt.insert(head.id, records);
                // What it names is now named.
                self.pool = None;
                let text = "the index, from the ranges that it named".to_string();
                self.tell(file, Outcome::Rebuilt, set_of([head.id]), text);
            }
            if damaged.len() == before {
                break;
            }
        }
        for (head, error) in damaged {
            let text = format!(
                "the list of what is in the snapshot ({}): put the file back from a copy, else drop the snapshot with \
                 \"prune --snapshot {}\"; what it brought lies as plain files in received_files/{}/{}",
                problem_of(&error),
                head.id,
                self.client.folder,
                head.id
            );
            self.tell(self.folder.join(index_name(head.id)), Outcome::Lost, set_of([head.id]), text);
        }
        Ok(())
    }

    /// What the index of a snapshot has, one that was rebuilt and perhaps not written included.
    fn records(&self, head: &Head) -> Result<Vec<IndexRecord>, StoreError> {
        match self.rebuilt.get(&head.id) {
            Some(records) => Ok(records.clone()),
            None => read_index(&self.repair.shared.layout, &self.client.folder, head),
        }
    }

    fn pool(&mut self) -> Result<&Pool, StoreError> {
        if self.pool.is_none() {
            let mut named = BTreeSet::new();
            for head in self.heads.values().chain(self.dropped.values()) {
                match self.records(head) {
                    Ok(records) => named.extend(records.iter().map(|record| record.file)),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            let folder = self.repair.shared.layout.range_files(&self.client.folder);
            self.pool = Some(Pool::read(folder, &named)?);
        }
        Ok(self.pool.as_ref().expect("read just now"))
    }
}

/// What is wrong with a file, without its path.
fn problem_of(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { problem, .. } => problem.clone(),
        error => error.to_string(),
    }
}

fn ids<'a>(names: &'a [String], end: &'static str) -> impl Iterator<Item = SnapshotId> + 'a {
    names.iter().filter_map(move |name| name.strip_suffix(end)?.parse().ok())
}

/// The index of a snapshot by its own checksum; none where it is damaged or gone.
pub(super) fn read_headless_index(
    folder: &Path,
    id: SnapshotId,
    keyring: &ClientKeyring,
) -> Result<Option<Index>, StoreError> {
    let keyring = keyring.files(SealedKind::Index);
    let read = read_stored_file(&folder.join(index_name(id)), INDEX_BYTES_MAX, &keyring);
    match read.map_err(StoreError::of_named_file) {
        Ok(bytes) => Ok(decode_headless_index(&bytes, id).ok()),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The head that an index has a copy of, and what its client was called.
pub(super) fn head_copy(index: &Index) -> Option<(Head, Option<UserName>)> {
    let copy = index.copy.as_ref()?;
    let stored_bytes = copy.stored_bytes.saturating_add(index.bytes);
    Head::decode_copy(&copy.json, index.hash, stored_bytes).ok()
}
