//! The contents of one client that were found damaged. The next backup that still has one of them is asked for it
//! again, and its commit makes the damaged one whole where that is possible (see [`super::heal`]).
//!
//! A content is known by the snapshot that brought it and the path of its entry: whoever refers to it does so at that
//! path. The list is short: what finds no room in it is found again by the next verification.
//!
//! Bytes of the file, little-endian: magic `cbkdamag` · version u32 = 1 · reserved u32 = 0 · count u32 · records ·
//! BLAKE3 [32] of all before. A record: path (u16 length) · flags u8 = 0 and the content, as in a range file · kind
//! u8 (1 its bytes, 2 the record of its blocks) · found, seconds i64 · count of runs u16 · runs of damaged blocks
//! (first u64, count u32) · what is wrong (u16 length). A list that cannot be read is an empty one.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use super::at_rest::{FileKeyring, SealedKind, read_stored_file};
use super::catalog::ClientState;
use super::error::{At, StoreError, if_there};
use super::index::IndexRecord;
use super::layout::Layout;
use super::range::{StoredContent, StoredEntry, check_header, checked_body, decode_content, encode_rest};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::durable::{Disk, FILE_MODE};
use crate::base::folder::open_folder;
use crate::base::ids::SnapshotId;
use crate::base::limits::{DAMAGED_CONTENTS_MAX, DAMAGED_PATHS_BYTES_MAX, PATH_BYTES_MAX};
use crate::base::path::EntryPath;
use crate::crypto::blake3_hash as hash;

const MAGIC: &[u8; 8] = b"cbkdamag";
const VERSION: u32 = 1;
/// Most bytes of the file: its texts, its runs and some.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Runs of damaged blocks that are named of one content.
pub const RUNS_MAX: usize = 256;
/// Most bytes of what is said of one content.
const PROBLEM_BYTES_MAX: usize = 1_024;

/// What is damaged of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    Bytes = 1,
    /// The record of its blocks, of which nobody has another copy.
    Blocks = 2,
}

/// One damaged content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedContent {
    pub path: EntryPath,
    pub content: StoredContent,
    pub kind: DamageKind,
    /// Unix time.
    pub found: i64,
    /// First block and count; of a large content, as far as they are known.
    pub runs: Vec<(u64, u32)>,
    pub problem: String,
}

impl DamagedContent {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes16(self.path.as_bytes());
        encode_rest(0, Some(&self.content), out);
        out.put_u8(self.kind as u8);
        out.put_u64(self.found as u64);
        let runs = &self.runs[..self.runs.len().min(RUNS_MAX)];
        out.put_u16(runs.len() as u16);
        for (first, count) in runs {
            out.put_u64(*first);
            out.put_u32(*count);
        }
        let mut end = self.problem.len().min(PROBLEM_BYTES_MAX);
        while !self.problem.is_char_boundary(end) {
            end -= 1;
        }
        out.put_bytes16(&self.problem.as_bytes()[..end]);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<DamagedContent, DecodeError> {
        const WHAT: &str = "damaged content";
        let invalid = DecodeError::Invalid { what: WHAT };
        let path = EntryPath::parse(reader.bytes16(PATH_BYTES_MAX, WHAT)?).map_err(|_| invalid.clone())?;
        let flags = reader.u8(WHAT)?;
        let content = decode_content(reader)?.filter(|_| flags == 0).ok_or(invalid.clone())?;
        let kind = match reader.u8(WHAT)? {
            1 => DamageKind::Bytes,
            2 => DamageKind::Blocks,
            _ => return Err(invalid),
        };
        let found = reader.u64(WHAT)? as i64;
        let mut runs = Vec::new();
        for _ in 0..reader.u16(WHAT)? {
            runs.push((reader.u64(WHAT)?, reader.u32(WHAT)?));
        }
        let problem = String::from_utf8_lossy(reader.bytes16(PROBLEM_BYTES_MAX, WHAT)?).into_owned();
        Ok(DamagedContent { path, content, kind, found, runs, problem })
    }
}

/// The damaged contents of one client, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamageList {
    items: BTreeMap<(EntryPath, SnapshotId), DamagedContent>,
    path_bytes: usize,
}

impl DamageList {
    /// Reads the list at `path`; an empty one where there is none.
    pub fn read(path: &Path, keyring: &FileKeyring) -> Result<DamageList, StoreError> {
        match if_there(read_stored_file(path, LIST_BYTES_MAX, keyring))? {
            Some(bytes) => DamageList::decode(&bytes).map_err(|error| StoreError::damaged(path, error)),
            None => Ok(DamageList::default()),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u32(VERSION);
        out.put_u32(0);
        out.put_u32(self.items.len() as u32);
        self.items.values().for_each(|item| item.encode(&mut out));
        let trailer = hash(&out);
        out.put_bytes(&trailer);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<DamageList, DecodeError> {
        const WHAT: &str = "list of damaged contents";
        let mut reader = Reader::new(checked_body(bytes, WHAT)?);
        check_header(&mut reader, MAGIC, VERSION, WHAT)?;
        let mut list = DamageList::default();
        for _ in 0..reader.u32(WHAT)? {
            list.add(DamagedContent::decode(&mut reader)?);
        }
        reader.finish(WHAT)?;
        Ok(list)
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// By path.
    pub fn items(&self) -> impl Iterator<Item = &DamagedContent> {
        self.items.values()
    }

    /// Notes a content; false where there is no room, or nothing new in it.
    pub fn add(&mut self, item: DamagedContent) -> bool {
        let key = (item.path.clone(), item.content.snapshot());
        let bytes = key.0.as_bytes().len();
        let is_known = self.items.contains_key(&key);
        let is_full = self.items.len() >= DAMAGED_CONTENTS_MAX || self.path_bytes + bytes > DAMAGED_PATHS_BYTES_MAX;
        if is_known || is_full {
            return false;
        }
        self.path_bytes += bytes;
        self.items.insert(key, item).is_none()
    }

    /// Takes a content off the list; false where it is not on it.
    pub fn remove(&mut self, path: &EntryPath, snapshot: SnapshotId) -> bool {
        let removed = self.items.remove(&(path.clone(), snapshot));
        self.path_bytes -= removed.as_ref().map_or(0, |item| item.path.as_bytes().len());
        removed.is_some()
    }

    /// Whether the content of this entry is damaged.
    pub fn has(&self, stored: &StoredEntry) -> bool {
        let Some(content) = stored.content.as_ref().filter(|_| !self.is_empty()) else { return false };
        self.items.contains_key(&(stored.entry.path.clone(), content.snapshot()))
    }

    /// Whether a damaged content may be named by the range.
    pub fn touches(&self, record: &IndexRecord) -> bool {
        let mut items = self.items.keys();
        !self.is_empty() && items.any(|(path, _)| record.first <= *path && *path <= record.last)
    }
}

/// A client's list in memory: read when it is first asked for.
#[derive(Debug, Default)]
pub struct KeptDamage {
    list: Option<DamageList>,
    is_unsaved: bool,
}

impl ClientState {
    /// Looks at the list of damaged contents, or changes it: `look` says whether it did.
    pub fn with_damage<T>(&self, layout: &Layout, look: impl FnOnce(&mut DamageList) -> (T, bool)) -> T {
        let mut kept = super::catalog::locked(&self.damage);
        let path = layout.damage_list(&self.record.folder);
        let list = kept.list.get_or_insert_with(|| {
            DamageList::read(&path, &self.list_keyring(layout)).unwrap_or_else(|error| {
                log::error!("the list of damaged contents begins anew, \"cyberbackup verify\" fills it: {error}");
                DamageList::default()
            })
        });
        let (result, is_changed) = look(list);
        kept.is_unsaved |= is_changed;
        result
    }

    fn list_keyring(&self, layout: &Layout) -> FileKeyring {
        layout.keyring_of(&self.record.folder).files(SealedKind::DamageList)
    }

    /// A copy of the list.
    pub fn damage_list(&self, layout: &Layout) -> DamageList {
        self.with_damage(layout, |list| (list.clone(), false))
    }

    /// Writes the list where it has changed; durable when this returns.
    pub fn save_damage(&self, disk: &Disk, layout: &Layout) -> Result<(), StoreError> {
        let mut kept = super::catalog::locked(&self.damage);
        let Some(list) = kept.list.as_ref().filter(|_| kept.is_unsaved) else { return Ok(()) };
        let path = layout.damage_list(&self.record.folder);
        let folder = open_folder(&layout.damage()).at("open", &path)?;
        let name = format!("{}.list", self.record.folder);
        let written = match list.is_empty() {
            true => remove(disk, &folder, &name),
            false => {
                let bytes = self.list_keyring(layout).sealed(list.encode());
                disk.replace_file(folder.as_fd(), name.as_bytes(), &bytes, FILE_MODE)
            }
        };
        written.at("write", &path)?;
        kept.is_unsaved = false;
        Ok(())
    }
}

fn remove(disk: &Disk, folder: &std::os::fd::OwnedFd, name: &str) -> std::io::Result<()> {
    if crate::base::durable::exists(folder.as_fd(), name.as_bytes())? {
        disk.remove_file(folder.as_fd(), name.as_bytes())?;
        disk.flush_folder(folder.as_fd(), b"damage")?;
    }
    Ok(())
}
