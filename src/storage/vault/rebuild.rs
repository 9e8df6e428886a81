//! The index put together again, from what packs say by themselves and from the heads; and what lies behind the
//! indexed bytes of a pack after a stop.
//!
//! A new index is made under another name, so that one which is there is whole. What was damaged is passed over: what
//! a snapshot needs and no pack has is in the index as lost, so that the next backup that has it is asked for it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::path::Path;

use super::index::{Flush, Index, IndexError, Writing, has_key};
use super::pack::{Scanned, Scanner, has_header, pack_name, pack_number};
use super::record::{Kind, Record, names_in};
use super::rows::{KeyRow, NAME_BYTES, ObjectRow, PackRow, Place, SnapshotRow};
use super::{INDEX, KeptSnapshot, NEW_INDEX, PACKS, Vault, read_at};
use crate::base::durable::{Disk, exists};
use crate::base::folder::open_folder;
use crate::base::limits::{VAULT_LISTED_AT_ONCE, VAULT_OBJECTS_AT_ONCE};
use crate::base::vault::{ChunkName, VaultId};
use crate::storage::error::{At, StoreError};
use crate::storage::layout::names_in as file_names_in;

/// Makes the index of the vault in this folder anew.
pub fn rebuild(disk: &Disk, path: &Path, id: VaultId, kept: &[KeptSnapshot]) -> Result<Index, StoreError> {
    let folder = open_folder(path).at("open", path)?;
    let place = path.join(NEW_INDEX);
    if exists(folder.as_fd(), NEW_INDEX.as_bytes()).at("look into", path)? {
        disk.remove_file(folder.as_fd(), NEW_INDEX.as_bytes()).at("remove", &place)?;
    }
    drop(disk.create_file(folder.as_fd(), NEW_INDEX.as_bytes()).at("create", &place)?);
    let index = Index::create(disk, &place)?;
    let rebuilding = Rebuilding { index: &index, packs: &path.join(PACKS), id };
    rebuilding.run(kept)?;
    // Closed, and opened again with as little memory as others have.
    drop(index);
    disk.rename(folder.as_fd(), NEW_INDEX.as_bytes(), folder.as_fd(), INDEX.as_bytes()).at("rename", &place)?;
    disk.flush_folder(folder.as_fd(), b"vault").at("flush", path)?;
    Index::open(disk, &path.join(INDEX))
}

struct Rebuilding<'a> {
    index: &'a Index,
    packs: &'a Path,
    id: VaultId,
}

impl Rebuilding<'_> {
    fn run(&self, kept: &[KeptSnapshot]) -> Result<(), StoreError> {
        let mut numbers: Vec<u32> =
            file_names_in(self.packs)?.iter().filter_map(|name| pack_number(name)).collect();
        numbers.sort_unstable();
        for number in &numbers {
            self.take_pack(*number)?;
        }
        let mut is_any_lost = false;
        for kept in kept {
            is_any_lost |= !self.take_snapshot(kept)?;
        }
        self.finish(is_any_lost)?;
        if !numbers.is_empty() {
            log::info!("vault {}: its index was made anew from {} packs", self.id, numbers.len());
        }
        Ok(())
    }

    /// Takes all records of a pack, and refers to nothing yet.
    fn take_pack(&self, number: u32) -> Result<(), StoreError> {
        let path = self.packs.join(pack_name(number));
        let mut scanner = Scanner::open(&path, 0, true).at("open", &path)?;
        take_records(self.index, number, &mut scanner, &path, take_record)?;
        if scanner.passed_bytes > 0 {
            log::error!("damage: {}: {} bytes are no records", path.display(), scanner.passed_bytes);
        }
        Ok(())
    }

    /// Takes a snapshot, with its references to lists; and what those refer to, the first time that one is met. False
    /// where its record is lost: nobody knows what it needs.
    fn take_snapshot(&self, kept: &KeptSnapshot) -> Result<bool, StoreError> {
        let record = self.read(&kept.object)?;
        // What it needs is kept, so that nothing is lost of snapshots that were exchanged; it is named whenever it is read.
        if let Some(other) = record.as_ref().and_then(|record| record.snapshot()).map(|payload| payload.id)
            && other != kept.snapshot
        {
            log::error!(
                "damage: vault {}: the head of snapshot {} leads to that of {other}",
                self.id,
                kept.snapshot
            );
        }
        let lists = record.as_ref().and_then(|record| record.snapshot()).map_or(&[][..], |snapshot| snapshot.lists);
        let mut lists = names_in(lists);
        self.index.write(Flush::Now, |index| {
            refer_to(index, kept.object.as_bytes(), Kind::Snapshot)?;
            let row = SnapshotRow { client: kept.client, object: kept.object };
            index.snapshots.insert(&kept.snapshot, &row)
        })?;
        let mut is_over = false;
        while !is_over {
            self.index.write(Flush::Now, |index| {
                let mut referred = 0;
                while referred < VAULT_LISTED_AT_ONCE {
                    let Some(list) = lists.next() else {
                        is_over = true;
                        break;
                    };
                    referred += 1;
                    if refer_to(index, list.as_bytes(), Kind::List)? > 1 {
                        continue;
                    }
                    referred += self.refer_to_chunks(index, &list)?;
                }
                Ok(())
            })?;
        }
        Ok(record.is_some())
    }

    /// Refers to what a list names; gives how many that are.
    fn refer_to_chunks(&self, index: &mut Writing<'_>, list: &ChunkName) -> Result<usize, IndexError> {
        let Some(record) = self.read_row(list, index.object(list.as_bytes())?)? else { return Ok(0) };
        let mut referred = 0;
        for name in record.names() {
            refer_to(index, name.as_bytes(), Kind::Chunk)?;
            referred += 1;
        }
        Ok(referred)
    }

    /// Lists and snapshots that nothing refers to are of uploads that never came to their end, or were swept: they go.
    /// The lists stay where a snapshot is kept of which nobody knows what it needs. Without its key a chunk is as good
    /// as damaged.
    fn finish(&self, are_lists_kept: bool) -> Result<(), StoreError> {
        let mut after: Option<[u8; NAME_BYTES]> = None;
        loop {
            let some = self.index.read(|index| {
                let from = after.unwrap_or([0; NAME_BYTES]);
                let mut some = Vec::new();
                for item in index.objects.range(Bound::Included(&from), Bound::Unbounded)? {
                    let (name, _) = item?;
                    if Some(name) != after {
                        some.push(name);
                    }
                    if some.len() == VAULT_OBJECTS_AT_ONCE {
                        break;
                    }
                }
                Ok(some)
            })?;
            let Some(last) = some.last() else { break };
            after = Some(*last);
            self.index.write(Flush::Now, |index| self.settle(index, &some, are_lists_kept))?;
        }
        self.index.write(Flush::Now, drop_unused_keys)
    }

    fn settle(
        &self,
        index: &mut Writing<'_>,
        names: &[[u8; NAME_BYTES]],
        are_lists_kept: bool,
    ) -> Result<(), IndexError> {
        for name in names {
            let Some(row) = index.object(name)? else { continue };
            match row.kind {
                Kind::List if row.refs == 0 && are_lists_kept => {
                    self.refer_to_chunks(index, &ChunkName::from_bytes(*name))?;
                }
                Kind::List | Kind::Snapshot if row.refs == 0 => index.put_object(name, Some(row), None)?,
                _ if !has_key(&index.key_numbers, &index.keys, &row)? => {
                    index.put_object(name, Some(row), Some(ObjectRow { is_damaged: true, ..row }))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read(&self, name: &ChunkName) -> Result<Option<Record>, StoreError> {
        let row = self.index.read(|index| index.object(name))?;
        self.read_row(name, row)
    }

    fn read_row(&self, name: &ChunkName, row: Option<ObjectRow>) -> Result<Option<Record>, StoreError> {
        let Some(row) = row.filter(|row| !row.is_lost()) else { return Ok(None) };
        let read = read_at(&self.packs.join(pack_name(row.place.pack)), &row)?;
        Ok(read.filter(|record| record.indexed_name() == *name))
    }
}

/// Puts a record into the index, where it is the first of its name.
fn take_record(index: &mut Writing<'_>, number: u32, scanned: &Scanned) -> Result<(), IndexError> {
    let Scanned { offset, record } = scanned;
    if record.kind == Kind::Key {
        let id = record.name.as_bytes().first_chunk::<16>().expect("32 bytes have 16");
        let known = index.number_of_key(id, record.payload())?;
        if let Some(row) = index.keys.get(id)?.filter(|row| row.wrapped.is_empty()) {
            let row = KeyRow { number: known, wrapped: record.payload().to_vec(), ..row };
            index.keys.insert(id, &row)?;
        }
        return Ok(());
    }
    let name = record.indexed_name();
    if index.object(name.as_bytes())?.is_some() {
        return Ok(());
    }
    // The key may come from another pack.
    let key = record.key().map_or(Ok(0), |key| index.number_of_key(key.as_bytes(), b""))?;
    let place = Place { pack: number, offset: *offset as u32, length: record.payload().len() as u32 };
    let row = ObjectRow { place, key, kind: record.kind, is_damaged: false, refs: 0, since: index.turn()? };
    index.put_object(name.as_bytes(), None, Some(row))
}

/// Adds a reference; gives how many there are now. What is not there is lost.
fn refer_to(index: &mut Writing<'_>, name: &[u8; NAME_BYTES], kind: Kind) -> Result<u32, IndexError> {
    let old = index.object(name)?;
    if old.is_some_and(|row| row.kind != kind) {
        return Ok(u32::MAX);
    }
    let lost = ObjectRow { place: Place::default(), key: 0, kind, is_damaged: false, refs: 0, since: 0 };
    let row = old.unwrap_or(lost);
    let refs = row.refs.saturating_add(1);
    index.put_object(name, old, Some(ObjectRow { refs, ..row }))?;
    Ok(refs)
}

fn drop_unused_keys(index: &mut Writing<'_>) -> Result<(), IndexError> {
    let mut unused = Vec::new();
    for item in index.keys.iter()? {
        let (id, row) = item?;
        if row.objects == 0 {
            unused.push((id, row.number));
        }
    }
    for (id, number) in unused {
        index.keys.remove(&id)?;
        index.key_numbers.remove(&number)?;
    }
    Ok(())
}

/// Indexes what lies behind the indexed bytes of a pack, up to the first byte that is no record; the rest is cut off.
pub fn index_tail(vault: &Vault, number: u32, row: PackRow) -> Result<(), StoreError> {
    let path = vault.pack_path(number);
    let name = pack_name(number);
    let is_new = row == PackRow::default();
    if is_new && !has_header(&path, vault.id, number).at("read", &path)? {
        vault.disk.remove_file(vault.packs.as_fd(), name.as_bytes()).at("remove", &path)?;
        return Ok(());
    }
    let mut scanner = Scanner::open(&path, row.indexed_bytes, false).at("open", &path)?;
    // What was written, and not flushed before a stop, may be in the page cache only.
    let file = std::fs::File::open(&path).at("open", &path)?;
    vault.disk.flush_file(file.as_fd(), name.as_bytes()).at("flush", &path)?;
    let found = take_records(&vault.index, number, &mut scanner, &path, take_tail_record)?;
    drop(vault.disk.reopen_file(vault.packs.as_fd(), name.as_bytes(), scanner.offset()).at("cut off", &path)?);
    log::info!("vault {}, pack {number:08x}: {found} records were found behind the indexed ones", vault.id);
    Ok(())
}

/// Has `take` put the records into the index that are still to come, some thousands at a time; gives how many there were.
fn take_records(
    index: &Index,
    number: u32,
    scanner: &mut Scanner,
    path: &Path,
    take: impl Fn(&mut Writing<'_>, u32, &Scanned) -> Result<(), IndexError>,
) -> Result<u64, StoreError> {
    let (mut found, mut is_over) = (0, false);
    while !is_over {
        index.write(Flush::Now, |index| {
            for _ in 0..VAULT_OBJECTS_AT_ONCE {
                let Some(scanned) = scanner.next().at("read", path)? else {
                    is_over = true;
                    break;
                };
                found += 1;
                take(index, number, &scanned)?;
            }
            index.note_pack(number, scanner.offset());
            Ok(())
        })?;
    }
    Ok(found)
}

/// Of a snapshot that comes here no head was written. A list is taken where its chunks are there.
fn take_tail_record(index: &mut Writing<'_>, number: u32, scanned: &Scanned) -> Result<(), IndexError> {
    match scanned.record.kind {
        Kind::Snapshot => return Ok(()),
        Kind::List => {
            let names: Vec<ChunkName> = scanned.record.names().collect();
            if index.object(scanned.record.name.as_bytes())?.is_some() {
                return Ok(());
            }
            let mut rows = BTreeSet::new();
            for name in &names {
                match index.object(name.as_bytes())? {
                    Some(row) if row.is_whole() && row.kind == Kind::Chunk => rows.insert(name),
                    _ => return Ok(()),
                };
            }
            for name in &names {
                refer_to(index, name.as_bytes(), Kind::Chunk)?;
            }
        }
        // A chunk comes behind its key.
        Kind::Chunk => match scanned.record.key() {
            Some(key) if index.keys.get(key.as_bytes())?.is_some() => {}
            _ => return Ok(()),
        },
        Kind::Key => {}
    }
    take_record(index, number, scanned)
}
