//! The contents that dead ranges name: which of them somebody still needs, and the removal of the others. They are
//! remembered as short hashes of their places. Two with the same hash are both spared when one of them is needed: a
//! file more stays, none too many goes.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::at_rest::Keyring;
use super::blocks_format::Source;
use super::blocks_reader::ContentMap;
use super::error::{At, StoreError};
use super::index::IndexRecord;
use super::layout::blocks_name;
use super::left_behind::path_hash;
use super::range::{Location, StoredContent, StoredEntry};
use super::recovery::open_if_there;
use super::sweep::{Referrer, Sweep};
use super::tree::each_file;
use crate::base::folder::{FolderStack, Missing, open_below};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::crypto::BLOCK_BYTES;

/// Of how many snapshots' folders handles are open at a time.
const FOLDERS_OPEN_MAX: usize = 8;

/// The contents named by some dead ranges.
#[derive(Debug, Default)]
pub struct ContentSweep {
    /// Plain files that may go, as hashes of their places.
    files: HashSet<u64>,
    /// Dropped snapshots whose blocks or delta may be needed less than before.
    pub large: HashSet<SnapshotId>,
    /// Where a damaged range or map keeps anybody from knowing what is needed: there, all is.
    unknown: Vec<(EntryPath, EntryPath)>,
}

impl ContentSweep {
    /// What the ranges name of dropped snapshots.
    pub fn of(sweep: &Sweep<'_>, ranges: &[IndexRecord]) -> Result<ContentSweep, StoreError> {
        let mut contents = ContentSweep::default();
        each_content(sweep, ranges, |stored, content| {
            contents.add(sweep, stored, content);
            Ok(())
        })?;
        Ok(contents)
    }

    fn add(&mut self, sweep: &Sweep<'_>, stored: &StoredEntry, content: &StoredContent) {
        if !sweep.origins.contains(&content.snapshot()) {
            return;
        }
        if content.blocks.is_some() {
            self.large.insert(content.snapshot());
        }
        for (snapshot, path) in plain_places(sweep, &stored.entry.path, content).unwrap_or_default() {
            if sweep.origins.contains(&snapshot) {
                self.files.insert(place_hash(snapshot, &path));
            }
        }
        if matches!(content.location, Location::Mapped { .. }) {
            let sources = sources(sweep, content).unwrap_or_default();
            self.large.extend(sources.iter().map(Source::snapshot).filter(|id| sweep.origins.contains(id)));
        }
    }

    /// Takes out what the ranges over the same paths need, in the snapshots that can tell.
    pub fn spare_needed(
        &mut self,
        sweep: &Sweep<'_>,
        spans: &Spans,
        stubs: &[&Referrer],
    ) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for referrer in stubs {
            for record in sweep.records(referrer)? {
                if !self.files.is_empty() && spans.touch(&record) && seen.insert(record.file) {
                    self.spare_range(sweep, &record)?;
                }
            }
        }
        Ok(())
    }

    fn spare_range(&mut self, sweep: &Sweep<'_>, record: &IndexRecord) -> Result<(), StoreError> {
        let entries = match sweep.read_range(record) {
            Ok(entries) => entries,
            Err(error) if error.is_damage() => {
                log::warn!("contents of dropped snapshots stay because of damage: {error}");
                self.unknown.push((record.first.clone(), record.last.clone()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for stored in &entries {
            let Some(content) = &stored.content else { continue };
            let is_mapped = matches!(content.location, Location::Mapped { .. });
            if !is_mapped && !sweep.origins.contains(&content.snapshot()) {
                continue;
            }
            match plain_places(sweep, &stored.entry.path, content) {
                Ok(places) => {
                    for (snapshot, path) in places {
                        self.files.remove(&place_hash(snapshot, &path));
                    }
                }
                Err(error) if error.is_damage() => {
                    log::warn!("contents of dropped snapshots stay because of damage: {error}");
                    self.unknown.push((stored.entry.path.clone(), stored.entry.path.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what nobody needs, and the folders that become empty.
    pub fn remove(&mut self, sweep: &mut Sweep<'_>, ranges: &[IndexRecord]) -> Result<(), StoreError> {
        let received = sweep.shared.layout.received(&sweep.state.record.folder);
        let Some(folder) = open_if_there(&received)? else { return Ok(()) };
        let reading: &Sweep<'_> = sweep;
        let mut remover =
            Remover { sweep: reading, path: &received, folder, open: Vec::new(), contents: 0, bytes: 0 };
        each_content(reading, ranges, |stored, content| {
            let is_unknown = |(first, last): &(EntryPath, EntryPath)| (first..=last).contains(&&stored.entry.path);
            if self.unknown.iter().any(is_unknown) {
                return Ok(());
            }
            for (snapshot, path) in plain_places(reading, &stored.entry.path, content).unwrap_or_default() {
                if self.files.remove(&place_hash(snapshot, &path)) {
                    remover.remove(snapshot, &path)?;
                }
            }
            Ok(())
        })?;
        remover.close()?;
        let (contents, bytes) = (remover.contents, remover.bytes);
        sweep.swept.contents += contents;
        sweep.swept.bytes += bytes;
        sweep.freed_bytes += bytes;
        sweep.flush_removals()
    }
}

/// Gives each content that the ranges name. A range that is damaged tells of none, and one that is gone has been
/// swept before.
fn each_content(
    sweep: &Sweep<'_>,
    ranges: &[IndexRecord],
    mut each: impl FnMut(&StoredEntry, &StoredContent) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for record in ranges {
        let entries = match sweep.read_range(record) {
            Ok(entries) => entries,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        for stored in &entries {
            if let Some(content) = &stored.content {
                each(stored, content)?;
            }
        }
    }
    Ok(())
}

/// The plain files that hold bytes of a content.
fn plain_places(
    sweep: &Sweep<'_>,
    path: &EntryPath,
    content: &StoredContent,
) -> Result<Vec<(SnapshotId, EntryPath)>, StoreError> {
    match &content.location {
        Location::OwnPath { snapshot } => Ok(vec![(*snapshot, path.clone())]),
        Location::StoredPath { snapshot, path } => Ok(vec![(*snapshot, path.clone())]),
        Location::Mapped { .. } => {
            let plain = |source: Source| match source {
                Source::Plain { snapshot, path: other } => Some((snapshot, other.unwrap_or_else(|| path.clone()))),
                Source::Delta { .. } => None,
            };
            Ok(sources(sweep, content)?.into_iter().filter_map(plain).collect())
        }
    }
}

pub fn sources(sweep: &Sweep<'_>, content: &StoredContent) -> Result<Vec<Source>, StoreError> {
    let place = content.blocks.ok_or_else(|| StoreError::out_of_place("a mapped content without a map"))?;
    Ok(ContentMap::open(&sweep.files, content.snapshot(), place)?.all_sources().to_vec())
}

fn place_hash(snapshot: SnapshotId, path: &EntryPath) -> u64 {
    path_hash(&[snapshot.as_str().as_bytes(), path.as_bytes()].concat())
}

/// The parts of the tree that some ranges cover.
#[derive(Debug)]
pub struct Spans(Vec<(EntryPath, EntryPath)>);

impl Spans {
    /// `ranges` are sorted by first path.
    pub fn of(ranges: &[IndexRecord]) -> Spans {
        let mut spans: Vec<(EntryPath, EntryPath)> = Vec::new();
        for record in ranges {
            match spans.last_mut().filter(|(_, last)| record.first <= *last) {
                Some((_, last)) if *last < record.last => *last = record.last.clone(),
                Some(_) => {}
                None => spans.push((record.first.clone(), record.last.clone())),
            }
        }
        Spans(spans)
    }

    pub fn touch(&self, record: &IndexRecord) -> bool {
        let place = self.0.partition_point(|(_, last)| *last < record.first);
        self.0.get(place).is_some_and(|(first, _)| *first <= record.last)
    }
}

/// What a file takes on the disk: its length, less its holes where it can have large ones. Of a sealed one, about what
/// its plaintext would take.
pub fn stored_bytes(stat: &rustix::fs::Stat, keyring: &Keyring) -> u64 {
    let (length, allocated) = (stat.st_size as u64, (stat.st_blocks as u64).saturating_mul(512));
    keyring.plain_bytes(if length < BLOCK_BYTES as u64 { length } else { length.min(allocated) })
}

/// The bytes that a dropped snapshot's contents, delta and blocks take.
pub fn contents_bytes(sweep: &Sweep<'_>, id: SnapshotId) -> Result<u64, StoreError> {
    let (layout, client) = (&sweep.shared.layout, &sweep.state.record.folder);
    let mut bytes = 0;
    for path in [layout.deltas(client).join(id.as_str()), layout.ranges(client).join(blocks_name(id))] {
        match rustix::fs::lstat(&path) {
            Ok(stat) => bytes += stored_bytes(&stat, layout.keyring()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(io::Error::from(error)).at("look at", &path),
        }
    }
    let path = layout.received(client).join(id.as_str());
    if let Some(folder) = open_if_there(&path)? {
        each_file(folder, &mut |folder, name, _| {
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            bytes += stored_bytes(&stat, layout.keyring());
            Ok(())
        })
        .at("look through", &path)?;
    }
    Ok(bytes)
}

/// Removes contents with a few handles open, and folders when it leaves them empty.
struct Remover<'a, 'b> {
    sweep: &'a Sweep<'b>,
    path: &'a Path,
    /// The client's folder in `received_files/`.
    folder: OwnedFd,
    /// The one used last in front.
    open: Vec<OpenSnapshot>,
    contents: u64,
    bytes: u64,
}

/// The folder of what a dropped snapshot brought.
struct OpenSnapshot {
    id: SnapshotId,
    stack: FolderStack,
    /// Where the stack is.
    current: Option<EntryPath>,
}

impl Remover<'_, '_> {
    fn remove(&mut self, id: SnapshotId, path: &EntryPath) -> Result<(), StoreError> {
        self.try_remove(id, path).at("remove a content below", &self.path.join(id.as_str()))
    }

    fn try_remove(&mut self, id: SnapshotId, path: &EntryPath) -> io::Result<()> {
        if !self.open(id)? {
            return Ok(());
        }
        let parent = path.parent();
        if self.open[0].current != parent {
            self.tidy(0)?;
            if !self.enter(parent)? {
                return Ok(());
            }
        }
        let folder = self.open[0].stack.top();
        let stat = match rustix::fs::statat(folder, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        self.contents += 1;
        self.bytes += stored_bytes(&stat, self.sweep.shared.layout.keyring());
        if self.sweep.is_real {
            self.sweep.shared.disk.remove_file(folder, path.name())?;
        }
        Ok(())
    }

    /// Makes the snapshot's folder the first of the open ones; false where it is gone.
    fn open(&mut self, id: SnapshotId) -> io::Result<bool> {
        if let Some(place) = self.open.iter().position(|open| open.id == id) {
            self.open[..=place].rotate_right(1);
            return Ok(true);
        }
        let root = match open_below(self.folder.as_fd(), id.as_str().as_bytes(), Missing::Fail) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        if self.open.len() == FOLDERS_OPEN_MAX {
            self.leave(FOLDERS_OPEN_MAX - 1)?;
            self.open.pop();
        }
        self.open.insert(0, OpenSnapshot { id, stack: FolderStack::below(root), current: None });
        Ok(true)
    }

    /// Goes to a folder of the first open snapshot; where it is gone, to the nearest one above, which a sweep that was
    /// cut short may have left empty, and false.
    fn enter(&mut self, folder: Option<EntryPath>) -> io::Result<bool> {
        let open = &mut self.open[0];
        open.current = folder;
        let mut is_there = true;
        loop {
            match open.stack.enter(open.current.as_ref(), Missing::Fail) {
                Ok(_) => return Ok(is_there),
                Err(error) if error.kind() == ErrorKind::NotFound => is_there = false,
                Err(error) => return Err(error),
            }
            open.current = open.current.as_ref().and_then(EntryPath::parent);
        }
    }

    /// Removes the current folder of an open snapshot, and those above it, as far as they are empty.
    fn tidy(&mut self, place: usize) -> io::Result<()> {
        if !self.sweep.is_real {
            return Ok(());
        }
        let disk = &self.sweep.shared.disk;
        let open = &mut self.open[place];
        while let Some(path) = open.current.take() {
            let parent = path.parent();
            let above = open.stack.enter(parent.as_ref(), Missing::Fail)?;
            match disk.remove_folder(above, path.name()) {
                Ok(()) => open.current = parent,
                Err(error) if is_not_empty(&error) => {
                    open.stack.enter(Some(&path), Missing::Fail)?;
                    open.current = Some(path);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if self.sweep.shared.can_flush_all {
            return Ok(());
        }
        disk.flush_folder(open.stack.top(), b"swept folder")
    }

    /// Tidies up as far as the snapshot's own folder.
    fn leave(&mut self, place: usize) -> io::Result<()> {
        self.tidy(place)?;
        let OpenSnapshot { id, current, .. } = &self.open[place];
        if current.is_some() || !self.sweep.is_real {
            return Ok(());
        }
        match self.sweep.shared.disk.remove_folder(self.folder.as_fd(), id.as_str().as_bytes()) {
            Err(error) if !is_not_empty(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        (0..self.open.len()).try_for_each(|place| self.leave(place)).at("remove empty folders below", self.path)?;
        if !self.sweep.is_real || self.sweep.shared.can_flush_all || self.open.is_empty() {
            return Ok(());
        }
        self.sweep.shared.disk.flush_folder(self.folder.as_fd(), b"received").at("flush", self.path)
    }
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTEMPTY | Errno::EXIST))
}
