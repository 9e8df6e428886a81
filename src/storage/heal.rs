//! Damaged contents made whole again from a newer snapshot that has the same ones.
//!
//! The argument. A damaged content counts as changed, so that the next backup that has its file brings it anew. Where
//! the new content has the sums that were recorded for the damaged one, it is the same:
//! - a plain file is copied beside, read back, flushed, and renamed over the damaged one;
//! - of a content that is put together from stretches, each block that does not have its recorded sum is written over
//!   in the file that holds it. Such a block is worth nothing as it is, so that a crash in the midst of it loses nothing.
//!
//! A content leaves the list only after it has been read back whole. All of it is done again by the next commit where
//! it was cut short: what is compared is the newest snapshot, not what an upload happened to bring.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::at_rest::{Ending, FileKeyring, FileWriter, Mender, SealedKind, StoredFile};
use super::blocks_format::Source;
use super::blocks_reader::{ClientFiles, ContentMap, Kept};
use super::catalog::ClientState;
use super::comparison::{RangeSet, read_index};
use super::content::ContentReader;
use super::damage::{DamageKind, DamagedContent};
use super::error::{At, StoreError};
use super::head::Head;
use super::index::IndexRecord;
use super::range::{Location, StoredContent};
use super::received::open_to_mend;
use super::store::Shared;
use crate::base::durable::{FOLDER_MODE, temporary_name};
use crate::base::folder::{FolderStack, Missing, open_folder};
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::path::EntryPath;
use crate::crypto::{BLOCK_BYTES, BlockSum, ContentHasher, block_sum, blocks_in};

/// How many files are open while the blocks of a content are looked at.
const FILES_MAX: usize = 8;

/// A block of a large content that is not what was recorded.
#[derive(Debug)]
pub struct BadBlock<'a> {
    pub block: u64,
    pub bytes: usize,
    /// The file that holds it, and where in it.
    pub source: &'a Source,
    pub stored: u64,
    pub sum: BlockSum,
}

/// Compares every stored block of a content with its recorded sum; none of one that is not large.
pub fn each_bad_block(
    files: &ClientFiles,
    path: &EntryPath,
    content: &StoredContent,
    mut each: impl FnMut(&BadBlock<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some(place) = content.blocks else { return Ok(()) };
    let mut map = ContentMap::open(files, content.snapshot(), place)?;
    let mut open: Kept<u16, Option<StoredFile>> = Kept::new(FILES_MAX);
    let (mut position, mut sums, mut buffer) = (0, Vec::new(), vec![0; BLOCK_BYTES]);
    while position < map.size() {
        let stretch = map.stretch_at(position)?;
        position = stretch.end();
        let Some(data) = stretch.data else { continue };
        let source = map.source(data.source)?.clone();
        let first = stretch.offset / BLOCK_BYTES as u64;
        sums.clear();
        map.block_sums(first, blocks_in(stretch.bytes) as usize, &mut sums)?;
        let file = open.get(data.source, || Ok::<_, StoreError>(files.open(&source, path).ok()))?;
        for (number, sum) in sums.iter().enumerate() {
            let at = (number * BLOCK_BYTES) as u64;
            let bytes = (stretch.bytes - at).min(BLOCK_BYTES as u64) as usize;
            let (block, stored) = (first + number as u64, data.stored + at);
            let found = &mut buffer[..bytes];
            let is_read = file.as_mut().is_some_and(|file| file.read_exact_at(found, stored).is_ok());
            if !is_read || block_sum(block, found) != *sum {
                each(&BadBlock { block, bytes, source: &source, stored, sum: *sum })?;
            }
        }
    }
    Ok(())
}

/// After a commit: makes whole what the new snapshot has the same content of. What fails is left for the next commit.
pub fn heal(shared: &Shared, state: &Arc<ClientState>, head: &Head) {
    let list = state.damage_list(&shared.layout);
    // What a prune removes meanwhile must not come back; the next commit looks again.
    let Some(_turn) = state.try_prune_turn() else { return };
    if list.is_empty() {
        return;
    }
    let records = match read_index(&shared.layout, &state.record.folder, head) {
        Ok(records) => records,
        Err(error) => return log::warn!("nothing is healed: {error}"),
    };
    let mut ranges = RangeSet::new(shared.layout.range_files(&state.record.folder), records);
    for item in list.items().filter(|item| item.kind == DamageKind::Bytes) {
        let newer = ranges.find(&item.path).and_then(|stored| stored.content.clone());
        let same =
            newer.filter(|newer| newer.sums == item.content.sums && newer.snapshot() != item.content.snapshot());
        if let Some(newer) = same
            && let Err(error) = heal_content(shared, state, item, &newer)
        {
            log::warn!("{} stays damaged in older snapshots: {error}", item.path.display());
        }
    }
    // The blocks of one content may have been those of another.
    for item in list.items() {
        let files = ClientFiles::new(&shared.layout, &state.record.folder);
        let was_met = ranges.find(&item.path).is_some_and(|stored| stored.content.is_some());
        if was_met && is_whole(files, item) {
            log::info!("healed: {} of snapshot {}", item.path.display(), item.content.snapshot());
            state.with_damage(&shared.layout, |list| ((), list.remove(&item.path, item.content.snapshot())));
        }
    }
    if let Err(error) = state.save_damage(&shared.disk, &shared.layout) {
        log::warn!("{error}");
    }
}

/// Takes off the list what no snapshot refers to any more: nobody will be asked for it, and nothing makes it whole.
/// Where it cannot be seen what snapshots refer to, the list stays as it is.
///
/// # Errors
/// Where the list cannot be written, or the snapshots not be read.
pub fn forget_unneeded(shared: &Shared, state: &Arc<ClientState>) -> Result<(), StoreError> {
    let (layout, client) = (&shared.layout, &state.record.folder);
    let mut unneeded: Vec<DamagedContent> = state.damage_list(layout).items().cloned().collect();
    if unneeded.is_empty() {
        return Ok(());
    }
    let (heads, hidden) =
        state.with_catalog(layout, |catalog| (catalog.heads().to_vec(), catalog.damaged().len()))?;
    for head in heads {
        let Some(_pin) = state.pin(layout, |catalog| catalog.get(head.id))? else { continue };
        let Ok(records) = read_index(layout, client, &head) else { return Ok(()) };
        let mut ranges = RangeSet::new(layout.range_files(client), records);
        unneeded.retain(|item| !may_refer_to(&mut ranges, item));
    }
    if hidden > 0 {
        return Ok(());
    }
    state.with_damage(layout, |list| {
        let removed = unneeded.iter().filter(|item| list.remove(&item.path, item.content.snapshot())).count();
        ((), removed > 0)
    });
    state.save_damage(&shared.disk, layout)
}

/// Whether a snapshot with these ranges refers to the content; a damaged range may.
fn may_refer_to(ranges: &mut RangeSet, item: &DamagedContent) -> bool {
    let covers = |record: &IndexRecord| record.first <= item.path && item.path <= record.last;
    let Some(place) = ranges.place_for(&item.path).filter(|place| covers(&ranges.records()[*place])) else {
        return false;
    };
    if ranges.load(place).is_empty() {
        return true;
    }
    let content = ranges.find(&item.path).and_then(|stored| stored.content.as_ref());
    content.is_some_and(|content| content.snapshot() == item.content.snapshot())
}

fn is_whole(files: ClientFiles, item: &DamagedContent) -> bool {
    let reader = ContentReader::open(files, &item.path, &item.content);
    reader.is_ok_and(|reader| reader.verify_watched(&mut |_| true).is_ok())
}

fn heal_content(
    shared: &Shared,
    state: &ClientState,
    item: &DamagedContent,
    newer: &StoredContent,
) -> Result<(), StoreError> {
    let files = ClientFiles::new(&shared.layout, &state.record.folder);
    let reader = ContentReader::open(files.clone(), &item.path, newer)?;
    let stored = match &item.content.location {
        Location::Mapped { .. } => return mend_blocks(shared, &files, item, reader),
        Location::OwnPath { .. } => &item.path,
        Location::StoredPath { path, .. } => path,
    };
    let keyring = files.keyring().files(SealedKind::Content);
    replace_file(shared, &keyring, &files.received(item.content.snapshot()), stored, reader)
}

/// Copies the content into `damage/`, reads the copy back, and gives it the name of the damaged file.
fn replace_file(
    shared: &Shared,
    keyring: &FileKeyring,
    received: &Path,
    stored: &EntryPath,
    mut reader: ContentReader,
) -> Result<(), StoreError> {
    let (disk, path, name) = (&shared.disk, shared.layout.damage(), temporary_name());
    let folder = open_folder(&path).at("open", &path)?;
    let sums = reader.sums();
    let replaced = copy(shared, keyring, &folder, &name, &mut reader).and_then(|()| {
        let opened = File::open(path.join(String::from_utf8_lossy(&name).as_ref()))
            .and_then(|file| StoredFile::open(file, keyring, Ending::Required));
        let mut copy = opened.at("open", &path)?;
        let (mut hasher, mut chunk, mut position) = (ContentHasher::new(), vec![0; CONTENT_CHUNK_BYTES], 0);
        loop {
            let count = copy.read_at(&mut chunk, position).at("read", &path)?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            position += count as u64;
        }
        if hasher.finish() != sums {
            return Err(StoreError::damaged(received, "the newer content is damaged too"));
        }
        let mut folders = FolderStack::open(received).at("open", received)?;
        let parent = folders.enter(stored.parent().as_ref(), Missing::Create(FOLDER_MODE)).at("enter", received)?;
        disk.rename(folder.as_fd(), &name, parent, stored.name()).at("replace a file below", received)?;
        disk.flush_folder(parent, b"healed").at("flush", received)
    });
    if replaced.is_err() {
        // A leftover is swept at the next start.
        let _ = disk.remove_file(folder.as_fd(), &name);
    }
    replaced
}

fn copy(
    shared: &Shared,
    keyring: &FileKeyring,
    folder: &std::os::fd::OwnedFd,
    name: &[u8],
    reader: &mut ContentReader,
) -> Result<(), StoreError> {
    let path = shared.layout.damage();
    let created = FileWriter::create(&shared.disk, folder.as_fd(), name, keyring);
    let mut file = created.at("create a file below", &path)?;
    let mut chunk = vec![0; CONTENT_CHUNK_BYTES];
    while let Some(segment) = reader.segment_at_position().at("read for", &path)? {
        let end = reader.position() + segment.bytes;
        if segment.is_hole {
            file.skip(segment.bytes).at("write below", &path)?;
            reader.seek_to(end).at("read for", &path)?;
        }
        while reader.position() < end {
            let wanted = chunk.len().min(usize::try_from(end - reader.position()).unwrap_or(usize::MAX));
            match reader.read(&mut chunk[..wanted]).at("read for", &path)? {
                0 => break,
                count => file.write(&chunk[..count]).at("write below", &path)?,
            }
        }
    }
    file.finish().and_then(|()| file.flush()).at("flush a file below", &path)
}

/// Writes the right bytes over each block that is not as recorded.
fn mend_blocks(
    shared: &Shared,
    files: &ClientFiles,
    item: &DamagedContent,
    mut reader: ContentReader,
) -> Result<(), StoreError> {
    let mut mended: Option<(Source, Mender)> = None;
    let name = item.path.name();
    let finish = |mended: Option<(Source, Mender)>| match mended {
        Some((_, mender)) => mender.finish().at("mend", shared.layout.data()),
        None => Ok(()),
    };
    each_bad_block(files, &item.path, &item.content, |bad| {
        let mut right = vec![0; bad.bytes];
        reader
            .seek_to(bad.block * BLOCK_BYTES as u64)
            .and_then(|()| reader.read_exact(&mut right))
            .at("read for", shared.layout.data())?;
        let (folder, stored) = files.place(bad.source, &item.path).at("find a file below", shared.layout.data())?;
        if block_sum(bad.block, &right) != bad.sum {
            return Err(StoreError::damaged(&folder, "the newer content has another block there"));
        }
        if mended.as_ref().is_none_or(|(source, _)| source != bad.source) {
            finish(mended.take())?;
            let opened = open_to_mend(&folder, &stored)
                .and_then(|file| Mender::open(&shared.disk, file, name, &files.keyring_of(bad.source)));
            mended = Some((bad.source.clone(), opened.at("open a file below", &folder)?));
        }
        let (_, mender) = mended.as_mut().expect("opened just now");
        // A file that was cut short lacks more than this content can give.
        if mender.length().at("look at a file below", &folder)? < bad.stored + bad.bytes as u64 {
            return Err(StoreError::damaged(&folder, "it was cut short"));
        }
        mender.mend(bad.stored, &right).at("mend a file below", &folder)
    })?;
    finish(mended)
}
