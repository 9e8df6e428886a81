//! Vaults: what clients sealed and the server cannot read. A vault is a folder of packs, which say by themselves what
//! they hold, an index, and a file with the hashes of the tokens that let write and read. The format is in
//! `docs/store-format.md`.
//!
//! Who refers to whom: a head names the record of its snapshot, that names lists, and a list names chunks. The index
//! counts these references; what has none is swept. So
//! - a list that is held has all its chunks, and a snapshot all its lists;
//! - a pack is flushed before its objects are indexed, and all of a snapshot is indexed before its head is written;
//! - what an upload was told is held, or has stored, stays for it: whatever has been without references since the turn
//!   in which the upload began, or later, is not swept. A turn is a count of uploads; no clock has a part in it.
//! - a row of a snapshot without a head is of a commit that did not come to its end, or of a snapshot that was dropped:
//!   [`tidy`] takes it away, and with it the references.
//!
//! The index is one redb database for each vault, open while somebody uses the vault. Whatever is wrong with it, it is
//! made anew from packs and heads.

mod access;
mod compact;
pub mod dropped;
mod index;
mod pack;
mod pack_check;
mod panics;
mod read;
mod rebuild;
mod record;
mod rows;
mod tables;
mod tidy;
mod upload;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use self::access::WriteAccess;
use self::index::{Flush, Index};
use self::pack::{PackWriter, pack_name, pack_number};
use self::record::Record;
use self::rows::{ObjectRow, PackRow};
use super::catalog::locked;
use super::error::{At, StoreError};
use super::layout::names_in;
use super::recovery::sweep_temporary;
use super::store::Shared;
use crate::base::durable::{Disk, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId};
use crate::base::limits::VAULT_PACK_BYTES;
use crate::base::vault::{ChunkName, VaultId};

pub use self::read::{SealedObject, VaultReader, VaultSnapshot};
pub use self::tidy::Tidied;
pub use self::upload::{VaultBegun, VaultUpload, VaultUploadRequest};
pub use self::verify::{VaultRun, VaultWatch};

const PACKS: &str = "packs";
const INDEX: &str = "index.redb";
/// An index that is being made.
const NEW_INDEX: &str = "index.new";
/// Looked at for one that is not full.
const PACKS_TRIED_MAX: usize = 64;

/// A snapshot whose head is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptSnapshot {
    pub snapshot: SnapshotId,
    pub client: ClientId,
    pub object: ChunkName,
}

/// An open vault.
#[derive(Debug)]
pub struct Vault {
    id: VaultId,
    disk: Disk,
    path: PathBuf,
    /// The folder of packs.
    packs: OwnedFd,
    index: Index,
    /// Packs that somebody adds to or empties.
    claims: Mutex<BTreeSet<u32>>,
    /// Held by whoever tidies; packs that have few objects, and stay for the keys of these: as they were when that was
    /// found.
    tidying: Mutex<BTreeMap<u32, PackRow>>,
    /// Uploads that have a session, by client and id.
    live: Mutex<BTreeSet<[u8; rows::UPLOAD_KEY_BYTES]>>,
    /// Snapshots whose rows are there, or about to be, and whose heads are about to come.
    committing: Mutex<BTreeSet<SnapshotId>>,
}

impl Vault {
    /// Opens the vault in this folder, which is there. `kept` gives its snapshots where the index has to be made anew.
    fn open(
        disk: &Disk,
        path: PathBuf,
        id: VaultId,
        kept: &dyn Fn() -> Result<Vec<KeptSnapshot>, StoreError>,
        opening: Opening,
    ) -> Result<Vault, StoreError> {
        sweep_temporary(disk, &path)?;
        let found = open_index(disk, &path, id, opening)?;
        let packs_path = path.join(PACKS);
        let packs = open_folder(&packs_path).at("open", &packs_path)?;
        let index = match found {
            Some(index) => index,
            None => rebuild::rebuild(disk, &path, id, &kept()?)?,
        };
        let mut vault = Vault {
            id,
            disk: disk.clone(),
            path,
            packs,
            index,
            claims: Mutex::default(),
            tidying: Mutex::default(),
            live: Mutex::default(),
            committing: Mutex::default(),
        };
        match vault.index_tails() {
            // They would keep the disk full; what is stored can be read all the same.
            Err(error @ StoreError::DiskFull { .. }) => {
                log::warn!("vault {id}: what came last of an upload will be sent again: {error}");
                vault.index.reopen(disk)?;
                vault.cut_tails()?;
            }
            indexed => indexed?,
        }
        Ok(vault)
    }

    /// Removes the index where it is to be made anew.
    fn close(self) {
        let (is_wrong, path) = (self.index.is_wrong(), self.index.path().to_path_buf());
        drop(self.index);
        if is_wrong
            && let Err(error) =
                open_folder(&self.path).and_then(|folder| self.disk.remove_file(folder.as_fd(), INDEX.as_bytes()))
        {
            log::error!("a vault's index that is damaged cannot be removed: {}: {error}", path.display());
        }
    }

    fn packs_path(&self) -> PathBuf {
        self.path.join(PACKS)
    }

    fn pack_path(&self, number: u32) -> PathBuf {
        self.packs_path().join(pack_name(number))
    }

    /// A pack to add to, which nobody else does until it is [released](Vault::release_pack).
    fn claim_pack(&self, suits: impl Fn(&PackRow) -> bool) -> Result<PackWriter, StoreError> {
        let mut claims = locked(&self.claims);
        let (open, last) = self.index.read(|index| {
            let mut open = None;
            let mut last = 0;
            for row in index.packs.iter()?.rev().take(PACKS_TRIED_MAX) {
                let (number, row) = row?;
                last = last.max(number);
                if row.indexed_bytes < VAULT_PACK_BYTES && suits(&row) && !claims.contains(&number) {
                    open = Some((number, row.indexed_bytes));
                }
            }
            Ok((open, last))
        })?;
        let writer = match open {
            Some((number, length)) => {
                let opened = PackWriter::reopen(&self.disk, self.packs.as_fd(), number, length);
                opened.at("open", &self.pack_path(number))?
            }
            None => {
                let used = claims.last().map_or(last, |claimed| last.max(*claimed));
                let number =
                    used.checked_add(1).ok_or_else(|| StoreError::out_of_place("the vault has no room"))?;
                self.make_pack(number)?
            }
        };
        claims.insert(writer.number);
        Ok(writer)
    }

    /// What bears the name and is not in the index was never told to anybody as stored.
    fn make_pack(&self, number: u32) -> Result<PackWriter, StoreError> {
        let name = pack_name(number);
        if exists(self.packs.as_fd(), name.as_bytes()).at("look into", &self.packs_path())? {
            self.disk.remove_file(self.packs.as_fd(), name.as_bytes()).at("remove", &self.pack_path(number))?;
        }
        let made = PackWriter::create(&self.disk, self.packs.as_fd(), self.id, number);
        made.at("create", &self.pack_path(number))
    }

    fn release_pack(&self, number: u32) {
        locked(&self.claims).remove(&number);
    }

    /// When this returns, all of the pack is on the disk under its name.
    fn flush_pack(&self, pack: &mut PackWriter) -> Result<(), StoreError> {
        let is_new = pack.flushed_bytes() == 0;
        pack.flush().at("write", &self.pack_path(pack.number))?;
        match is_new {
            true => self.disk.flush_folder(self.packs.as_fd(), b"packs").at("flush", &self.packs_path()),
            false => Ok(()),
        }
    }

    /// Packs that are not full and in which something lies behind the indexed bytes: it was flushed, or not, before a
    /// stop.
    fn tails(&self) -> Result<Vec<(u32, Option<PackRow>)>, StoreError> {
        let rows: HashMap<u32, PackRow> = pack_rows(&self.index)?;
        let mut tails = Vec::new();
        for number in names_in(&self.packs_path())?.iter().filter_map(|name| pack_number(name)) {
            let row = rows.get(&number);
            if row.is_some_and(|row| row.indexed_bytes >= VAULT_PACK_BYTES) {
                continue;
            }
            let path = self.pack_path(number);
            let length = path.metadata().at("look at", &path)?.len();
            if row.is_none_or(|row| row.indexed_bytes < length) {
                tails.push((number, row.copied()));
            }
        }
        Ok(tails)
    }

    fn index_tails(&self) -> Result<(), StoreError> {
        self.tails()?
            .into_iter()
            .try_for_each(|(number, row)| rebuild::index_tail(self, number, row.unwrap_or_default()))
    }

    /// Gives the room of tails back, which nobody was told are stored.
    fn cut_tails(&self) -> Result<(), StoreError> {
        for (number, row) in self.tails()? {
            let (name, path) = (pack_name(number), self.pack_path(number));
            match row {
                Some(row) => {
                    let cut = self.disk.reopen_file(self.packs.as_fd(), name.as_bytes(), row.indexed_bytes);
                    drop(cut.at("cut off", &path)?);
                }
                None => self.disk.remove_file(self.packs.as_fd(), name.as_bytes()).at("remove", &path)?,
            }
        }
        Ok(())
    }

    /// Reads the record that a row leads to; none where what lies there is not what the row says, or nothing.
    fn read_record(&self, name: &ChunkName, row: &ObjectRow) -> Result<Option<Record>, StoreError> {
        if row.is_lost() {
            return Ok(None);
        }
        match read_at(&self.pack_path(row.place.pack), row).map_err(StoreError::of_named_file) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            read => Ok(read?.filter(|record| record.indexed_name() == *name)),
        }
    }

    /// Notes that an object is damaged, or whole again.
    fn mark(&self, name: &ChunkName, row: &ObjectRow, is_damaged: bool) -> Result<(), StoreError> {
        self.index.write(Flush::Now, |index| {
            match index.object(name.as_bytes())?.filter(|found| found.place == row.place) {
                Some(old) if old.is_damaged != is_damaged => {
                    index.put_object(name.as_bytes(), Some(old), Some(ObjectRow { is_damaged, ..old }))
                }
                _ => Ok(()),
            }
        })
    }
}

/// How much is looked at when a vault is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Quick,
    /// All pages of the index: before anything is removed that it says nobody needs, and where all is verified.
    Checked,
}

/// Opens the index in the vault's folder; none where it has to be made anew.
fn open_index(disk: &Disk, path: &Path, id: VaultId, opening: Opening) -> Result<Option<Index>, StoreError> {
    let place = path.join(INDEX);
    if !place.try_exists().at("look at", &place)? {
        return Ok(None);
    }
    let opened = Index::open(disk, &place).and_then(|mut index| {
        if opening == Opening::Checked {
            index.check()?;
        }
        check_packs(&index, &path.join(PACKS))?;
        Ok(index)
    });
    match opened {
        Err(StoreError::Damaged { problem, .. }) => {
            log::error!("vault {id}: its index cannot be used: {problem}");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// Sees that each pack that the index knows of is there, and those that are still added to have all that is indexed; and,
/// where it lacks something, that no pack is there that it does not know: that one may have been put back.
fn check_packs(index: &Index, packs: &Path) -> Result<(), StoreError> {
    let names = names_in(packs)?;
    let rows = pack_rows(index)?;
    let unknown = || names.iter().find(|name| pack_number(name).is_some_and(|number| !rows.contains_key(&number)));
    if let Some(name) = unknown()
        && index.read(|index| index.damaged.count())? > 0
    {
        return Err(StoreError::damaged(
            &packs.join(name),
            "it has come back, and may have what is damaged or gone",
        ));
    }
    for (number, row) in rows.iter().map(|(number, row)| (*number, *row)) {
        let name = pack_name(number);
        let is_there = names.binary_search(&name).is_ok();
        let path = packs.join(name);
        let is_whole = match is_there {
            true if row.indexed_bytes < VAULT_PACK_BYTES => {
                path.metadata().at("look at", &path)?.len() >= row.indexed_bytes
            }
            is_there => is_there || row.objects == 0,
        };
        if !is_whole {
            return Err(StoreError::damaged(&path, format!("pack {number:08x} is gone, or a part of it")));
        }
    }
    Ok(())
}

fn pack_rows(index: &Index) -> Result<HashMap<u32, PackRow>, StoreError> {
    index.read(|index| index.packs.iter()?.collect())
}

fn read_at(path: &Path, row: &ObjectRow) -> Result<Option<Record>, StoreError> {
    let file = std::fs::File::open(path).at("open", path)?;
    Record::read(&file, u64::from(row.place.offset), row.kind, row.place.length).at("read", path)
}

/// The vaults that somebody uses.
#[derive(Debug, Default)]
pub struct Vaults {
    slots: Mutex<HashMap<VaultId, Arc<Slot>>>,
    /// Held while it is looked whether a vault is there, and made.
    making: Mutex<()>,
    /// Held while it is written down what is dropped.
    dropping: Mutex<()>,
}

/// The place of one vault: its lock is held while it is opened and closed, so that no two have its index open.
#[derive(Debug, Default)]
struct Slot {
    open: Mutex<Option<Arc<Vault>>>,
}

/// A vault in use: it is closed when the last of these goes.
#[derive(Debug)]
pub struct VaultHandle {
    slot: Arc<Slot>,
    /// None only while it is being dropped.
    vault: Option<Arc<Vault>>,
}

impl Deref for VaultHandle {
    type Target = Vault;
    fn deref(&self) -> &Vault {
        self.vault.as_ref().expect("there until it is dropped")
    }
}

impl Drop for VaultHandle {
    fn drop(&mut self) {
        let mut open = locked(&self.slot.open);
        drop(self.vault.take());
        // The slot's own is the last one: nobody else can take one meanwhile.
        if open.as_ref().is_some_and(|vault| Arc::strong_count(vault) == 1)
            && let Some(vault) = open.take().and_then(Arc::into_inner)
        {
            vault.close();
        }
    }
}

impl Vaults {
    /// Opens a vault that is there. True beside it where nobody had it open.
    fn open(
        &self,
        shared: &Shared,
        id: VaultId,
        kept: &dyn Fn() -> Result<Vec<KeptSnapshot>, StoreError>,
        opening: Opening,
    ) -> Result<(VaultHandle, bool), StoreError> {
        let slot = locked(&self.slots).entry(id).or_default().clone();
        let mut open = locked(&slot.open);
        let is_first = open.is_none();
        let vault = match &*open {
            Some(vault) => vault.clone(),
            None => Arc::new(Vault::open(&shared.disk, folder_of(shared, id), id, kept, opening)?),
        };
        *open = Some(vault.clone());
        drop(open);
        Ok((VaultHandle { slot, vault: Some(vault) }, is_first))
    }
}

fn folder_of(shared: &Shared, id: VaultId) -> PathBuf {
    shared.layout.vaults().join(id.to_string())
}

/// Makes a vault's folder; what lets use it is written last, so that there is no vault before.
fn create(shared: &Shared, id: VaultId, access: &WriteAccess) -> Result<(), StoreError> {
    let (disk, vaults, path) = (&shared.disk, shared.layout.vaults(), folder_of(shared, id));
    make_folder(disk, &vaults, &id.to_string())?;
    make_folder(disk, &path, PACKS)?;
    access::write(disk, &path, id, access, shared.clock.now())
}

fn make_folder(disk: &Disk, parent: &Path, name: &str) -> Result<(), StoreError> {
    let folder = open_folder(parent).at("open", parent)?;
    disk.make_folder_if_missing(folder.as_fd(), name.as_bytes()).at("create", &parent.join(name))?;
    disk.flush_folder(folder.as_fd(), b"vaults").at("flush", parent)
}
