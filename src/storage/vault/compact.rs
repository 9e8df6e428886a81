//! Packs that hold nothing any more are removed. What lives in one that is less than half alive is copied to another
//! pack; that is flushed, one change of the index leads to the new places, and then the old pack goes. Who reads from
//! it meanwhile has it open, or finds it gone and looks the place up again.
//!
//! The key of an object lies in the same pack, once. Which keys are needed is known from what is sealed under them, so
//! that a pack with few objects is weighed before it is emptied: its copy could be as large.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::TryLockError;

use super::index::{Flush, has_key};
use super::pack::{PackWriter, Scanned, Scanner, pack_name};
use super::record::{Kind, NewRecord, PACK_HEADER_BYTES, Record};
use super::rows::{ObjectRow, PackRow, Place};
use super::{Vault, pack_rows};
use crate::base::limits::{VAULT_OBJECTS_AT_ONCE, VAULT_PACK_BYTES};
use crate::base::vault::ChunkName;
use crate::storage::catalog::locked;
use crate::storage::error::{At, StoreError};

/// An object that was copied.
struct Move {
    name: ChunkName,
    from: Place,
    to: Place,
}

/// Copies under way: the pack that is added to, and what is not in the index yet.
#[derive(Default)]
struct Copies {
    pack: Option<PackWriter>,
    moves: Vec<Move>,
    bytes: u64,
}

fn place_of(pack: u32, offset: u64, record: &Record) -> Place {
    Place { pack, offset: offset as u32, length: record.payload().len() as u32 }
}

/// Whether less than half of it are objects that the index leads to.
fn has_few_objects(row: &PackRow) -> bool {
    row.objects == 0 || row.live_bytes * 2 < row.indexed_bytes
}

impl Vault {
    /// Empties packs; gives the bytes that the disk has back. What was weighed and stays is not weighed again until it
    /// changes.
    pub fn compact(
        &self,
        weighed: &mut BTreeMap<u32, PackRow>,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        let rows = pack_rows(&self.index)?;
        weighed.retain(|number, _| rows.contains_key(number));
        let mut numbers: Vec<(bool, u32)> =
            rows.into_iter().map(|(number, row)| (row.objects > 0, number)).collect();
        // Empty ones first: nothing is to be copied into them.
        numbers.sort_unstable();
        let mut freed = 0u64;
        let mut copies = Copies::default();
        let mut result = Ok(());
        for (_, number) in numbers {
            let row = self.index.read(|index| index.packs.get(&number))?;
            let Some(row) = row.filter(has_few_objects).filter(|row| weighed.get(&number) != Some(row)) else {
                continue;
            };
            if is_stopped() || !locked(&self.claims).insert(number) {
                continue;
            }
            let needed = self.weigh(number, row);
            let emptied = needed.and_then(|needed| match needed * 2 < row.indexed_bytes {
                true => self.empty(number, row, &mut copies),
                false => {
                    weighed.insert(number, row);
                    Ok(0)
                }
            });
            self.release_pack(number);
            match emptied {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let Some(pack) = copies.pack.take() {
            self.release_pack(pack.number);
        }
        result.map(|()| freed.saturating_sub(copies.bytes))
    }

    /// Copies what lives in a pack to others, with keys from the index, and removes it. False where it stays.
    pub fn write_anew(&self, number: u32) -> Result<bool, StoreError> {
        // Whoever tidies holds it for long, and empties packs too.
        let turn = self.tidying.try_lock();
        if matches!(turn, Err(TryLockError::WouldBlock)) || !locked(&self.claims).insert(number) {
            return Ok(false);
        }
        let mut copies = Copies::default();
        let row = || self.index.read(|index| index.packs.get(&number));
        let emptied = row().and_then(|found| found.map(|row| self.empty(number, row, &mut copies)).transpose());
        self.release_pack(number);
        if let Some(pack) = copies.pack {
            self.release_pack(pack.number);
        }
        emptied?;
        Ok(row()?.is_none())
    }

    /// What a copy of the pack would take: what lives in it, and each key of that once.
    fn weigh(&self, number: u32, row: PackRow) -> Result<u64, StoreError> {
        if row.objects == 0 {
            return Ok(0);
        }
        let path = self.pack_path(number);
        let mut scanner = Scanner::open(&path, 0, true).at("open", &path)?;
        self.index.read(|index| {
            let (mut needed, mut keys) = (PACK_HEADER_BYTES as u64 + row.live_bytes, BTreeSet::new());
            while scanner.offset() < row.indexed_bytes
                && let Some(Scanned { offset, record }) = scanner.next().at("read", &path)?
            {
                let Some(id) = record.key() else { continue };
                let here = place_of(number, offset, &record);
                if index.object(&record.indexed_name())?.is_some_and(|row| row.place == here) && keys.insert(id) {
                    let wrapped = index.keys.get(id.as_bytes())?.map_or(0, |key| key.wrapped.len());
                    needed += Kind::Key.record_bytes(wrapped);
                }
            }
            Ok(needed)
        })
    }

    /// Copies what lives in the pack, then removes it.
    fn empty(&self, number: u32, row: PackRow, copies: &mut Copies) -> Result<u64, StoreError> {
        let path = self.pack_path(number);
        if row.objects > 0 {
            let mut scanner = Scanner::open(&path, 0, true).at("open", &path)?;
            while scanner.offset() < row.indexed_bytes
                && let Some(Scanned { offset, record }) = scanner.next().at("read", &path)?
            {
                let from = place_of(number, offset, &record);
                self.copy(record, from, copies)?;
            }
            self.settle_copies(copies)?;
        }
        let left = self.index.read(|index| index.packs.get(&number))?;
        if left.is_some_and(|left| left.objects > 0) {
            log::error!("vault {}: pack {number:08x} stays: something in it is damaged", self.id);
            return Ok(0);
        }
        self.remove_pack(number)
    }

    fn copy(&self, record: Record, from: Place, copies: &mut Copies) -> Result<(), StoreError> {
        let name = record.indexed_name();
        if record.kind == Kind::Key {
            return Ok(());
        }
        let wrapped = self.index.read(|index| {
            // Dead, or it has another place by now; or its key is gone, and it is as good as damaged.
            let row = index.object(&name)?.filter(|row| row.place == from);
            match row.map(|row| has_key(&index.key_numbers, &index.keys, &row)).transpose()? {
                Some(true) => {}
                _ => return Ok(None),
            }
            let key = record.key().map(|key| index.keys.get(key.as_bytes())).transpose()?.flatten();
            Ok(Some(key.map(|row| row.wrapped)))
        })?;
        let Some(wrapped) = wrapped else { return Ok(()) };
        if copies.pack.is_none() {
            // Not into one that is about to be emptied itself.
            let pack = self.claim_pack(|row| !has_few_objects(row))?;
            copies.bytes += pack.length() - pack.flushed_bytes();
            copies.pack = Some(pack);
        }
        let pack = copies.pack.as_mut().expect("claimed just now");
        let (before, path) = (pack.length(), self.pack_path(pack.number));
        if let (Some(key), Some(wrapped)) = (record.key(), wrapped) {
            pack.put_key(key, &wrapped).at("write", &path)?;
        }
        let copy =
            NewRecord { kind: record.kind, name: record.name, key: record.key(), payload: &[record.payload()] };
        let to = pack.append(&copy).at("write", &path)?;
        copies.bytes += pack.length() - before;
        let is_full = pack.length() >= VAULT_PACK_BYTES;
        copies.moves.push(Move { name, from, to });
        if is_full || copies.moves.len() >= VAULT_OBJECTS_AT_ONCE { self.settle_copies(copies) } else { Ok(()) }
    }

    /// Has the index lead to the copies, once they are on the disk.
    fn settle_copies(&self, copies: &mut Copies) -> Result<(), StoreError> {
        let Some(pack) = &mut copies.pack else { return Ok(()) };
        if copies.moves.is_empty() {
            return Ok(());
        }
        self.flush_pack(pack)?;
        let (number, length) = (pack.number, pack.length());
        let moves = std::mem::take(&mut copies.moves);
        self.index.write(Flush::Now, |index| {
            for Move { name, from, to } in &moves {
                // What was swept, or healed, meanwhile stays as it is.
                if let Some(old) = index.object(name.as_bytes())?.filter(|old| old.place == *from) {
                    let new = ObjectRow { place: *to, is_damaged: false, ..old };
                    index.put_object(name.as_bytes(), Some(old), Some(new))?;
                }
            }
            index.note_pack(number, length);
            Ok(())
        })?;
        if length >= VAULT_PACK_BYTES {
            self.release_pack(number);
            copies.pack = None;
        }
        Ok(())
    }

    /// Removes a pack that nothing leads to, then its row: a row without a pack is removed by the next run.
    fn remove_pack(&self, number: u32) -> Result<u64, StoreError> {
        let path = self.pack_path(number);
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        match self.disk.remove_file(self.packs.as_fd(), pack_name(number).as_bytes()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.at("remove", &path)?,
        }
        self.disk.flush_folder(self.packs.as_fd(), b"packs").at("flush", &self.packs_path())?;
        self.index.write(Flush::Now, |index| index.packs.remove(&number))?;
        Ok(bytes)
    }
}
