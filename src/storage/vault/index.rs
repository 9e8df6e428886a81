//! The index of a vault: one database beside its packs. All of it can be put together again from packs and heads, so
//! that whatever is wrong with it (an unreadable page, a row that was changed, a panic of the database over either)
//! is one answer: it is damaged, and whoever opens the vault next makes a new one.
//!
//! Everything the database writes goes through [`Disk`], so that tests can stop it at every step.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, WriteTransaction};

use super::panics::{self, Panicked};
use super::record::Kind;
use super::rows::*;
use super::tables::{ReadRows, Rows, WriteRows};
use crate::base::durable::Disk;
use crate::base::ids::SnapshotId;
use crate::base::limits::{VAULT_INDEX_CACHE_BYTES, VAULT_REBUILD_CACHE_BYTES};
use crate::base::vault::ChunkName;
use crate::crypto::data_key_id;
use crate::storage::error::{At, StoreError};

/// What goes wrong while the index is looked at or changed.
#[derive(Debug)]
pub enum IndexError {
    Database(Box<redb::Error>),
    /// What it says cannot be.
    Wrong(&'static str),
    Store(StoreError),
}

impl From<StoreError> for IndexError {
    fn from(error: StoreError) -> IndexError {
        IndexError::Store(error)
    }
}

macro_rules! from_database {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for IndexError {
            fn from(error: redb::$error) -> IndexError {
                IndexError::Database(Box::new(error.into()))
            }
        })*
    };
}

from_database!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

/// Whether a change of the index has to be on the disk when it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    Now,
    /// With the next one that is.
    Later,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    /// None only while it is being dropped.
    database: Option<Database>,
    is_wrong: AtomicBool,
}

impl Index {
    /// Opens an index.
    ///
    /// # Errors
    /// `Damaged` where it is to be made anew.
    pub fn open(disk: &Disk, path: &Path) -> Result<Index, StoreError> {
        let mut index = Index::open_database(disk, path, VAULT_INDEX_CACHE_BYTES)?;
        match index.format()? {
            Some(FORMAT_VERSION) => Ok(index),
            // Unless that is what was changed.
            Some(version) => index.check().and(Err(StoreError::NewerFormat { path: path.to_path_buf(), version })),
            None => Err(StoreError::damaged(path, "it is no index of a vault")),
        }
    }

    /// Makes the empty file at `path` an index without rows, with memory to fill it.
    pub fn create(disk: &Disk, path: &Path) -> Result<Index, StoreError> {
        let index = Index::open_database(disk, path, VAULT_REBUILD_CACHE_BYTES)?;
        index.write(Flush::Now, |tables| tables.meta.insert(&FORMAT, &FORMAT_VERSION))?;
        Ok(index)
    }

    fn open_database(disk: &Disk, path: &Path, cache_bytes: usize) -> Result<Index, StoreError> {
        let file = File::options().read(true).write(true).open(path).at("open", path)?;
        let backend = IndexFile { disk: disk.clone(), file };
        let open = || -> Result<Database, IndexError> {
            let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)?;
            Ok(database)
        };
        let database = settle(path, panics::caught(open))?;
        Ok(Index { path: path.to_path_buf(), database: Some(database), is_wrong: AtomicBool::new(false) })
    }

    /// Compares all pages with their sums.
    pub fn check(&mut self) -> Result<(), StoreError> {
        let database = self.database.as_mut().expect("there until it is dropped");
        match settle(&self.path, panics::caught(|| Ok(database.check_integrity()?)))? {
            true => Ok(()),
            false => Err(StoreError::damaged(&self.path, "its pages do not have their sums")),
        }
    }

    fn format(&self) -> Result<Option<u64>, StoreError> {
        self.guarded(|| match META.read(&self.database().begin_read()?) {
            Ok(meta) => meta.get(&FORMAT),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// Whether something was found wrong with it, so that it is to be made anew.
    pub fn is_wrong(&self) -> bool {
        self.is_wrong.load(Ordering::Relaxed)
    }

    /// Has it made anew when it is opened next.
    pub fn mark_wrong(&self) {
        self.is_wrong.store(true, Ordering::Relaxed);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at one state of the index, whatever is changed meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Reading) -> Result<T, IndexError>) -> Result<T, StoreError> {
        self.guarded(|| look(&Reading::begin(self.database())?))
    }

    /// Changes the index: all that `change` does, or nothing.
    pub fn write<T>(
        &self,
        flush: Flush,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, IndexError>,
    ) -> Result<T, StoreError> {
        self.guarded(|| {
            let mut transaction = self.database().begin_write()?;
            transaction.set_quick_repair(true);
            transaction.set_durability(match flush {
                Flush::Now => Durability::Immediate,
                Flush::Later => Durability::None,
            })?;
            let mut writing = Writing::begin(&transaction)?;
            let changed = change(&mut writing)?;
            writing.finish()?;
            drop(writing);
            transaction.commit()?;
            Ok(changed)
        })
    }

    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, StoreError> {
        let settled = settle(&self.path, panics::caught(work));
        if let Err(StoreError::Damaged { path, .. }) = &settled
            && *path == self.path
        {
            self.mark_wrong();
        }
        settled
    }

    /// Opens it again after the disk has not taken a change: until then the database refuses everything.
    pub fn reopen(&mut self, disk: &Disk) -> Result<(), StoreError> {
        self.close();
        let path = self.path.clone();
        *self = Index::open(disk, &path)?;
        Ok(())
    }

    /// What the database could not write is written when it is opened next; one that is damaged may panic.
    fn close(&mut self) {
        if let Err(Panicked(text)) = panics::caught(|| drop(self.database.take())) {
            log::error!("{}: the database could not be closed: {text}", self.path.display());
        }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

/// One answer for all that can be wrong.
fn settle<T>(path: &Path, done: Result<Result<T, IndexError>, Panicked>) -> Result<T, StoreError> {
    let error = match done {
        Err(Panicked(text)) => {
            return Err(StoreError::damaged(
                path,
                format!("the database cannot read it ({text}): it is made anew"),
            ));
        }
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
    };
    match error {
        IndexError::Store(error) => Err(error),
        IndexError::Wrong(problem) => Err(StoreError::damaged(path, format!("{problem}: it is made anew"))),
        IndexError::Database(error) => match *error {
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Err(StoreError::damaged(path, format!("{error}: it is made anew")))
            }
            redb::Error::Io(error) => Err(error).at("use", path),
            error @ redb::Error::PreviousIo => Err(io::Error::other(error.to_string())).at("use", path),
            error => Err(StoreError::damaged(path, format!("{error}: it is made anew"))),
        },
    }
}

/// The database's file, by way of the disk.
#[derive(Debug)]
struct IndexFile {
    disk: Disk,
    file: File,
}

const FILE_NAME: &[u8] = b"index.redb";

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.set_length(&self.file, FILE_NAME, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.flush_file(self.file.as_fd(), FILE_NAME)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.overwrite(&self.file, FILE_NAME, offset, bytes)
    }
}

/// One state of the index.
pub struct Reading {
    pub objects: ReadRows<Name, [u8; OBJECT_BYTES]>,
    pub keys: ReadRows<[u8; 16], KeyRow>,
    pub key_numbers: ReadRows<u32, [u8; 16]>,
    pub packs: ReadRows<u32, PackRow>,
    pub snapshots: ReadRows<SnapshotId, SnapshotRow>,
    pub damaged: ReadRows<Name, ()>,
    pub uploads: ReadRows<UploadKey, UploadRow>,
}

impl Reading {
    fn begin(database: &Database) -> Result<Reading, IndexError> {
        let transaction = database.begin_read()?;
        Ok(Reading {
            objects: OBJECTS.read(&transaction)?,
            keys: KEYS.read(&transaction)?,
            key_numbers: KEY_NUMBERS.read(&transaction)?,
            packs: PACKS.read(&transaction)?,
            snapshots: SNAPSHOTS.read(&transaction)?,
            damaged: DAMAGED.read(&transaction)?,
            uploads: UPLOADS.read(&transaction)?,
        })
    }

    pub fn object(&self, name: &ChunkName) -> Result<Option<ObjectRow>, IndexError> {
        find_object(&self.objects, name.as_bytes())
    }
}

/// A change of the index under way.
pub struct Writing<'a> {
    pub objects: WriteRows<'a, Name, [u8; OBJECT_BYTES]>,
    pub keys: WriteRows<'a, [u8; 16], KeyRow>,
    pub key_numbers: WriteRows<'a, u32, [u8; 16]>,
    pub packs: WriteRows<'a, u32, PackRow>,
    pub snapshots: WriteRows<'a, SnapshotId, SnapshotRow>,
    pub unreferenced: WriteRows<'a, [u8; UNREFERENCED_BYTES], ()>,
    pub damaged: WriteRows<'a, Name, ()>,
    pub uploads: WriteRows<'a, UploadKey, UploadRow>,
    pub meta: WriteRows<'a, u32, u64>,
    /// What becomes of packs and of keys' counts: written once, at the end.
    pack_changes: BTreeMap<u32, PackChange>,
    key_changes: BTreeMap<u32, i64>,
}

/// What a change of the index does to the row of a pack.
#[derive(Debug, Clone, Copy, Default)]
struct PackChange {
    indexed_bytes: Option<u64>,
    live_bytes: i64,
    objects: i64,
}

impl<'a> Writing<'a> {
    fn begin(transaction: &'a WriteTransaction) -> Result<Writing<'a>, IndexError> {
        Ok(Writing {
            objects: OBJECTS.write(transaction)?,
            keys: KEYS.write(transaction)?,
            key_numbers: KEY_NUMBERS.write(transaction)?,
            packs: PACKS.write(transaction)?,
            snapshots: SNAPSHOTS.write(transaction)?,
            unreferenced: UNREFERENCED.write(transaction)?,
            damaged: DAMAGED.write(transaction)?,
            uploads: UPLOADS.write(transaction)?,
            meta: META.write(transaction)?,
            pack_changes: BTreeMap::new(),
            key_changes: BTreeMap::new(),
        })
    }

    pub fn object(&self, name: &[u8; NAME_BYTES]) -> Result<Option<ObjectRow>, IndexError> {
        find_object(&self.objects, name)
    }

    /// The turn that is now.
    pub fn turn(&self) -> Result<u64, IndexError> {
        Ok(self.meta.get(&TURN)?.unwrap_or(0))
    }

    /// Notes up to where a pack is indexed.
    pub fn note_pack(&mut self, number: u32, indexed_bytes: u64) {
        self.pack_changes.entry(number).or_default().indexed_bytes = Some(indexed_bytes);
    }

    /// Puts the new state of an object in the place of the `old` one, and keeps in step with it what else the index
    /// says: who is without references, what is damaged, what is live in each pack and under each key.
    pub fn put_object(
        &mut self,
        name: &[u8; NAME_BYTES],
        old: Option<ObjectRow>,
        new: Option<ObjectRow>,
    ) -> Result<(), IndexError> {
        let waits = |row: &Option<ObjectRow>| row.filter(|row| row.refs == 0 && row.kind != Kind::Snapshot);
        let (old_wait, new_wait) = (waits(&old).map(|row| row.since), waits(&new).map(|row| row.since));
        if old_wait != new_wait {
            if let Some(since) = old_wait {
                self.unreferenced.remove(&unreferenced_key(since, name))?;
            }
            if let Some(since) = new_wait {
                self.unreferenced.insert(&unreferenced_key(since, name), &())?;
            }
        }
        match (old.is_some_and(|row| !row.is_whole()), new.is_some_and(|row| !row.is_whole())) {
            (true, false) => self.damaged.remove(name)?,
            (false, true) => self.damaged.insert(name, &())?,
            _ => {}
        }
        let states = [(old, -1), (new, 1)];
        if old.map(|row| row.place) != new.map(|row| row.place) {
            for (row, count) in states.iter().filter_map(|(row, count)| Some((row.as_ref()?, count))) {
                self.count_in_pack(row, *count);
            }
        }
        if old.map(|row| row.key) != new.map(|row| row.key) {
            for (row, count) in states.iter().filter_map(|(row, count)| Some((row.as_ref()?, count))) {
                *self.key_changes.entry(row.key).or_default() += count;
            }
        }
        match new {
            Some(row) => self.objects.insert(name, &row.encode(name)),
            None => self.objects.remove(name),
        }
    }

    fn count_in_pack(&mut self, row: &ObjectRow, count: i64) {
        if !row.is_lost() {
            let change = self.pack_changes.entry(row.place.pack).or_default();
            change.objects += count;
            change.live_bytes += count * row.record_bytes() as i64;
        }
    }

    /// Writes what was noted of packs and keys. A key that nothing is sealed under any more goes.
    fn finish(&mut self) -> Result<(), IndexError> {
        for (number, change) in std::mem::take(&mut self.pack_changes) {
            let mut row = self.packs.get(&number)?.unwrap_or_default();
            let objects = i64::from(row.objects) + change.objects;
            let wrong = |_| IndexError::Wrong("a pack holds less than nothing");
            row.objects = u32::try_from(objects).map_err(wrong)?;
            row.live_bytes = u64::try_from(row.live_bytes as i64 + change.live_bytes).map_err(wrong)?;
            row.indexed_bytes = change.indexed_bytes.unwrap_or(row.indexed_bytes);
            self.packs.insert(&number, &row)?;
        }
        for (number, change) in std::mem::take(&mut self.key_changes) {
            if number == 0 || change == 0 {
                continue;
            }
            let wrong = || IndexError::Wrong("an object is sealed under a key that is not there");
            let id = self.key_numbers.get(&number)?.ok_or_else(wrong)?;
            let mut row = self.keys.get(&id)?.ok_or_else(wrong)?;
            row.objects = u32::try_from(i64::from(row.objects) + change).map_err(|_| wrong())?;
            if row.objects == 0 {
                self.keys.remove(&id)?;
                self.key_numbers.remove(&number)?;
            } else {
                self.keys.insert(&id, &row)?;
            }
        }
        Ok(())
    }

    /// The number of a key, which gets one where it has none.
    pub fn number_of_key(&mut self, id: &[u8; 16], wrapped: &[u8]) -> Result<u32, IndexError> {
        if let Some(row) = self.keys.get(id)? {
            return Ok(row.number);
        }
        let number = self.meta.get(&NEXT_KEY)?.unwrap_or(1);
        self.meta.insert(&NEXT_KEY, &(number + 1))?;
        let number = u32::try_from(number).map_err(|_| IndexError::Wrong("the numbers of keys are used up"))?;
        let row = KeyRow { number, objects: 0, wrapped: wrapped.to_vec() };
        self.keys.insert(id, &row)?;
        self.key_numbers.insert(&number, id)?;
        Ok(number)
    }
}

fn find_object<T: ReadableTable<&'static [u8], &'static [u8]>>(
    objects: &Rows<T, Name, [u8; OBJECT_BYTES]>,
    name: &Name,
) -> Result<Option<ObjectRow>, IndexError> {
    let Some(bytes) = objects.get(name)? else { return Ok(None) };
    ObjectRow::decode(name, &bytes).map(Some).ok_or(IndexError::Wrong("the row of an object was changed"))
}

/// Whether the wrapped key is there that an object is sealed under, if it is: without it nobody opens the object.
pub fn has_key<T: ReadableTable<&'static [u8], &'static [u8]>>(
    key_numbers: &Rows<T, u32, [u8; 16]>,
    keys: &Rows<T, [u8; 16], KeyRow>,
    row: &ObjectRow,
) -> Result<bool, IndexError> {
    if row.key == 0 {
        return Ok(true);
    }
    let Some(id) = key_numbers.get(&row.key)? else { return Ok(false) };
    Ok(keys.get(&id)?.is_some_and(|key| *data_key_id(&key.wrapped).as_bytes() == id))
}
