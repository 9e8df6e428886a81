//! What dropped snapshots alone needed is removed: contents, changed blocks, ranges, indexes. What others need
//! stays where it lies.
//!
//! The argument. Whatever a snapshot refers to is its own, or its parent (the snapshot it was compared with) refers
//! to it at the same path: an upload keeps its base through all its sessions. So
//! - contents that a kept snapshot brought are never looked at;
//! - contents that go are named by *dead* ranges: those that a dropped index names and no other one;
//! - whether another snapshot needs such a content is told by the ranges over the same paths of those snapshots whose
//!   parent has been dropped. One whose parent is kept needs nothing of a dropped snapshot that its parent does
//!   not need as well; one without a parent needs nothing of others at all.
//!
//! What is read thus follows what was dropped. Uploads meanwhile are compared with snapshots that are kept and
//! pinned, so a commit adds nobody who needs what is removed, except that it may bring a range again under the very
//! name of a dead one: ranges are removed between commits, after a look at the new indexes.
//!
//! Where the index of a dropped snapshot cannot be read, it may have named every range that no other index names, and no
//! other one that goes.
//!
//! Everything is found anew from the dropped indexes and the dead ranges, so that those go last, after a flush: a sweep
//! that was cut short is done again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::at_rest::{SealedKind, read_stored_file};
use super::blocks_reader::ClientFiles;
use super::catalog::{ClientState, locked};
use super::comparison::{read_index, read_range};
use super::dropped::{TOTALS_NAME, dropped_ids, encode_record, placeholder, read_dropped};
use super::error::{At, StoreError};
use super::head::Head;
use super::heal::forget_unneeded;
use super::index::{INDEX_BYTES_MAX, IndexRecord, decode_headless_index};
use super::layout::{ClientFolder, Layout, blocks_name, dropped_name, index_name, names_in};
use super::range::{HASH_BYTES, RANGE_FILE_BYTES_MAX, StoredEntry};
use super::recovery::{open_if_there, sweep_temporary};
use super::store::{Shared, Store};
use super::sweep_contents::{ContentSweep, Spans, contents_bytes};
use super::sweep_large::sweep_large;
use crate::base::durable::{FILE_MODE, exists};
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId, hex, unhex};
use crate::base::order::{sort_by, sort_by_key};

/// So many ranges of dropped snapshots are in memory; what comes on top of them waits for another round.
const RANGES_SWEPT_MAX: usize = 65_536;
/// How many ranges are removed while commits wait.
const RANGES_AT_ONCE_MAX: usize = 256;
/// About so many contents are remembered at a time.
const CONTENTS_SWEPT_MAX: u64 = 1_000_000;

/// What a sweep removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub snapshots: u64,
    pub contents: u64,
    pub ranges: u64,
    /// Bytes of all that.
    pub bytes: u64,
    /// What is damaged so that something stays that might go, and what stays.
    pub hindrances: Vec<String>,
}

impl Store {
    /// Removes what dropped snapshots of a client alone needed. Goes on with a sweep that was cut short.
    pub fn sweep(&self, client: ClientId) -> Result<Swept, StoreError> {
        let state = self.state(client)?;
        let _turn = state.prune_turn()?;
        let swept = Sweep::new(&self.shared, &state, &[])?.run();
        if let Err(error) = forget_unneeded(&self.shared, &state) {
            log::warn!("the list of damaged contents stays as it was: {error}");
        }
        let _step = locked(&state.commit);
        self.keep_summary(&state);
        swept
    }

    /// What a sweep would remove if these snapshots were dropped as well.
    pub fn would_free(&self, client: ClientId, ids: &[SnapshotId]) -> Result<Swept, StoreError> {
        let state = self.state(client)?;
        let _turn = state.prune_turn()?;
        let damaged = |id: &SnapshotId| Arc::new(placeholder(*id, client));
        let heads = state.with_catalog(&self.shared.layout, |catalog| {
            let there = ids.iter().filter(|id| catalog.has(**id));
            there.map(|id| catalog.get(*id).unwrap_or_else(|| damaged(id))).collect::<Vec<_>>()
        })?;
        let mut sweep = Sweep::new(&self.shared, &state, &heads)?;
        sweep.is_real = false;
        sweep.rounds()?;
        Ok(sweep.swept)
    }
}

/// Ranges by the names of their files.
type NamedRanges = HashMap<[u8; HASH_BYTES], IndexRecord>;

/// A snapshot that may need what a dropped one has; or a dropped one that waits.
#[derive(Debug, Clone)]
pub(super) struct Referrer {
    id: SnapshotId,
    /// None for one whose head is damaged and whose index is there.
    head: Option<Arc<Head>>,
}

/// One sweep of one client.
#[derive(Debug)]
pub(super) struct Sweep<'a> {
    pub shared: &'a Shared,
    pub state: &'a ClientState,
    pub files: ClientFiles,
    /// Whether things are removed, and not only counted.
    pub is_real: bool,
    /// Every snapshot that is dropped, now or earlier.
    dropped: HashSet<SnapshotId>,
    /// Those of them of whose contents any may go.
    pub origins: HashSet<SnapshotId>,
    /// Those of them that are still to be swept, by sequence.
    waiting: VecDeque<Referrer>,
    pub swept: Swept,
    /// Bytes of contents, deltas and blocks: of the snapshots that are being swept, and of those that went.
    added_bytes: u64,
    pub freed_bytes: u64,
    /// Whether an earlier sweep was cut short.
    is_stale: bool,
    /// Whether the index of a snapshot that is being swept cannot be read.
    has_lost_index: bool,
}

impl<'a> Sweep<'a> {
    fn new(shared: &'a Shared, state: &'a ClientState, more: &[Arc<Head>]) -> Result<Sweep<'a>, StoreError> {
        let (folder, names) = snapshot_names(shared, state)?;
        let dropped: HashSet<SnapshotId> = dropped_ids(&names).chain(more.iter().map(|head| head.id)).collect();
        let mut waiting: Vec<Referrer> =
            more.iter().map(|head| Referrer { id: head.id, head: read_well(head.clone()) }).collect();
        // Of the others, however many they are, only the names are needed.
        for id in dropped_ids(&names).filter(|id| names.binary_search(&index_name(*id)).is_ok()) {
            waiting.push(Referrer { id, head: read_dropped(&folder, id)?.and_then(read_well) });
        }
        sort_by_key(&mut waiting, |waiting| (waiting.sequence(), waiting.id));
        let files = ClientFiles::new(&shared.layout, &state.record.folder);
        let waiting = waiting.into();
        Ok(Sweep {
            shared,
            state,
            files,
            is_real: true,
            origins: dropped.clone(),
            dropped,
            waiting,
            swept: Swept::default(),
            added_bytes: 0,
            freed_bytes: 0,
            is_stale: false,
            has_lost_index: false,
        })
    }

    fn run(mut self) -> Result<Swept, StoreError> {
        let layout = &self.shared.layout;
        let folder = layout.snapshots(&self.state.record.folder);
        if open_if_there(&folder)?.is_none() {
            return Ok(self.swept);
        }
        sweep_temporary(&self.shared.disk, &folder)?;
        if !self.waiting.is_empty() {
            // Until all is done and written down, what is left is unknown to whoever comes after a failure.
            self.is_stale = self
                .state
                .with_catalog(layout, |catalog| std::mem::replace(&mut catalog.dropped.is_stale, true))?;
        }
        self.rounds()?;
        self.remove_empty_heads()?;
        Ok(self.swept)
    }

    /// Sweeps the waiting snapshots, as many at a time as have room; the others count as kept until it is their turn.
    fn rounds(&mut self) -> Result<(), StoreError> {
        while !self.waiting.is_empty() {
            let (batch, named) = self.next_batch()?;
            // Before the snapshots are looked at: what a commit brings meanwhile is not among them.
            let unnamed = if self.has_lost_index { self.range_files()? } else { HashSet::new() };
            let referrers = self.referrers()?;
            let (dead, unreadable) = self.dead_ranges(named, unnamed, &referrers)?;
            let kept: HashSet<SnapshotId> = referrers.iter().map(|referrer| referrer.id).collect();
            let is_told = |referrer: &&Referrer| referrer.is_stub(&kept) && !unreadable.contains(&referrer.id);
            let stubs: Vec<&Referrer> = referrers.iter().filter(is_told).collect();
            if !unreadable.is_empty() {
                self.spare_what_came_before(&referrers, &unreadable)?;
            }
            self.sweep_contents(&dead, &stubs)?;
            if self.origins.len() == self.dropped.len() {
                self.remove_ranges(&dead, &kept)?;
                self.finish(&batch)?;
            }
        }
        Ok(())
    }

    /// What snapshots need whose indexes cannot be read is not known; but it is nothing that came after them. So what
    /// later snapshots brought may go. The rest waits until they are dropped too: the dead ranges and the indexes that
    /// name them stay, as if this sweep had been cut short.
    fn spare_what_came_before(
        &mut self,
        referrers: &[Referrer],
        unreadable: &HashSet<SnapshotId>,
    ) -> Result<(), StoreError> {
        let hidden = referrers.iter().filter(|referrer| unreadable.contains(&referrer.id));
        // Nobody knows how old one is whose head is damaged as well.
        let newest = hidden.map(|hidden| hidden.sequence().unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX);
        let layout = &self.shared.layout;
        let folder = layout.snapshots(&self.state.record.folder);
        let mut later = HashSet::new();
        for id in std::mem::take(&mut self.origins).into_iter().filter(|_| newest < u64::MAX) {
            // It is in the catalog where this only counts.
            let head = match self.state.with_catalog(layout, |catalog| catalog.get(id))? {
                None => read_dropped(&folder, id)?,
                head => head,
            };
            if head.is_some_and(|head| head.sequence > newest) {
                later.insert(id);
            }
        }
        self.origins = later;
        Ok(())
    }

    /// The next snapshots to sweep, and the ranges that they name.
    fn next_batch(&mut self) -> Result<(Vec<Referrer>, NamedRanges), StoreError> {
        let (mut batch, mut named) = (Vec::new(), HashMap::new());
        while batch.is_empty() || named.len() < RANGES_SWEPT_MAX {
            let Some(waiting) = self.waiting.pop_front() else { break };
            match self.records(&waiting) {
                Ok(records) => named.extend(records.into_iter().map(|record| (record.file, record))),
                Err(error) if error.is_damage() => self.has_lost_index = true,
                Err(error) => return Err(error),
            }
            let blocks = self.shared.layout.ranges(&self.state.record.folder).join(blocks_name(waiting.id));
            self.added_bytes += blocks.metadata().map_or(0, |metadata| metadata.len());
            match &waiting.head {
                Some(head) => self.added_bytes += head.totals.new_bytes,
                None => self.is_stale = true,
            }
            batch.push(waiting);
        }
        Ok((batch, named))
    }

    /// Everybody who may need something: the snapshots that are kept, those of a later round, and damaged ones
    /// whose index is there.
    fn referrers(&self) -> Result<Vec<Referrer>, StoreError> {
        let layout = &self.shared.layout;
        let (heads, damaged) = self.state.with_catalog(layout, |catalog| {
            (catalog.heads().to_vec(), catalog.damaged().iter().map(|damaged| damaged.id).collect::<Vec<_>>())
        })?;
        let kept = heads.into_iter().filter(|head| !self.dropped.contains(&head.id));
        let mut referrers: Vec<Referrer> = kept
            .map(|head| Referrer { id: head.id, head: Some(head) })
            .chain(self.waiting.iter().cloned())
            .collect();
        for id in damaged.into_iter().filter(|id| !self.dropped.contains(id)) {
            if layout.index(&self.state.record.folder, id).exists() {
                referrers.push(Referrer { id, head: None });
            }
        }
        Ok(referrers)
    }

    pub fn records(&self, referrer: &Referrer) -> Result<Vec<IndexRecord>, StoreError> {
        let (layout, client) = (&self.shared.layout, &self.state.record.folder);
        if let Some(head) = &referrer.head {
            return read_index(layout, client, head);
        }
        let path = layout.index(client, referrer.id);
        let keyring = layout.keyring_of(client).files(SealedKind::Index);
        let read = read_stored_file(&path, INDEX_BYTES_MAX, &keyring);
        let bytes = read.map_err(StoreError::of_named_file)?;
        let index = decode_headless_index(&bytes, referrer.id);
        index.map(|index| index.records).map_err(|error| StoreError::damaged(&path, error))
    }

    /// Every range that is there, between two commits.
    fn range_files(&self) -> Result<HashSet<[u8; HASH_BYTES]>, StoreError> {
        let _step = locked(&self.state.commit);
        let names = names_in(&self.shared.layout.ranges(&self.state.record.folder))?;
        Ok(names.iter().filter_map(|name| unhex(name)).collect())
    }

    /// The named ranges that no other index names, and the `unnamed` that none does, by first path; and the snapshots whose indexes cannot be read, for
    /// which some of them may have to stay.
    fn dead_ranges(
        &mut self,
        mut named: NamedRanges,
        mut unnamed: HashSet<[u8; HASH_BYTES]>,
        referrers: &[Referrer],
    ) -> Result<(Vec<IndexRecord>, HashSet<SnapshotId>), StoreError> {
        let mut unreadable = HashSet::new();
        for referrer in referrers {
            match self.records(referrer) {
                Ok(records) => records.iter().for_each(|record| {
                    named.remove(&record.file);
                    unnamed.remove(&record.file);
                }),
                // It is dropped itself and waits for its turn: it needs nothing.
                Err(error) if error.is_damage() && self.dropped.contains(&referrer.id) => {}
                Err(error) if error.is_damage() => {
                    let text = format!(
                        "what came before snapshot {} stays until that is dropped, since nobody knows what it needs: \
                         {error}",
                        referrer.id
                    );
                    if !self.swept.hindrances.contains(&text) {
                        self.swept.hindrances.push(text);
                    }
                    unreadable.insert(referrer.id);
                }
                Err(error) => return Err(error),
            }
        }
        if unreadable.is_empty() && !self.hides_ranges()? {
            for file in unnamed.into_iter().filter(|file| !named.contains_key(file)).collect::<Vec<_>>() {
                named.extend(self.record_of(&file)?.map(|record| (file, record)));
            }
        }
        let mut dead: Vec<IndexRecord> = named.into_values().collect();
        sort_by(&mut dead, |left, right| (&left.first, &left.file).cmp(&(&right.first, &right.file)));
        Ok((dead, unreadable))
    }

    /// Whether there is a snapshot that is not dropped and of which nothing can be read.
    fn hides_ranges(&self) -> Result<bool, StoreError> {
        let (layout, client) = (&self.shared.layout, &self.state.record.folder);
        self.state.with_catalog(layout, |catalog| {
            let is_going = |id: SnapshotId| self.dropped.contains(&id);
            catalog
                .damaged()
                .iter()
                .any(|damaged| !is_going(damaged.id) && !layout.index(client, damaged.id).exists())
        })
    }

    /// What an index would say of a range; none where that is damaged.
    fn record_of(&self, file: &[u8; HASH_BYTES]) -> Result<Option<IndexRecord>, StoreError> {
        let ranges = self.shared.layout.range_files(&self.state.record.folder);
        let read = read_stored_file(&ranges.path.join(hex(file)), RANGE_FILE_BYTES_MAX, &ranges.keyring);
        match read.map_err(StoreError::of_named_file) {
            Ok(bytes) => Ok(IndexRecord::of_range(&bytes, file).ok().map(|(record, _)| record)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sweep_contents(&mut self, dead: &[IndexRecord], stubs: &[&Referrer]) -> Result<(), StoreError> {
        let mut large = HashSet::new();
        let mut rest = dead;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(part_of(rest));
            rest = behind;
            let mut contents = ContentSweep::of(self, part)?;
            contents.spare_needed(self, &Spans::of(part), stubs)?;
            contents.remove(self, part)?;
            large.extend(contents.large);
        }
        sweep_large(self, large, stubs)
    }

    /// Removes the dead ranges, some at a time between two commits, but for those that a commit has brought again.
    fn remove_ranges(&mut self, dead: &[IndexRecord], known: &HashSet<SnapshotId>) -> Result<(), StoreError> {
        let (layout, disk, client) = (&self.shared.layout, &self.shared.disk, &self.state.record.folder);
        let path = layout.ranges(client);
        let Some(folder) = open_if_there(&path)? else { return Ok(()) };
        for some in dead.chunks(RANGES_AT_ONCE_MAX) {
            let _step = locked(&self.state.commit);
            let mut going: HashMap<_, _> = some.iter().map(|record| (record.file, record.file_bytes)).collect();
            let is_new = |head: &&Arc<Head>| !known.contains(&head.id) && !self.dropped.contains(&head.id);
            let heads: Vec<Arc<Head>> = self
                .state
                .with_catalog(layout, |catalog| catalog.heads().iter().filter(is_new).cloned().collect())?;
            for head in heads {
                for record in read_index(layout, client, &head)? {
                    going.remove(&record.file);
                }
            }
            for (file, bytes) in going {
                let name = hex(&file);
                if !exists(folder.as_fd(), name.as_bytes()).at("look into", &path)? {
                    continue;
                }
                self.swept.ranges += 1;
                self.swept.bytes += u64::from(bytes);
                if self.is_real {
                    disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(name))?;
                }
            }
        }
        if self.is_real && !dead.is_empty() {
            disk.flush_folder(folder.as_fd(), b"ranges").at("flush", &path)?;
        }
        Ok(())
    }

    /// Writes down what is left, then removes the indexes: from then on nothing is to be done again.
    fn finish(&mut self, batch: &[Referrer]) -> Result<(), StoreError> {
        let (layout, disk) = (&self.shared.layout, &self.shared.disk);
        let path = layout.snapshots(&self.state.record.folder);
        let Some(folder) = open_if_there(&path)? else { return Ok(()) };
        self.swept.snapshots += batch.len() as u64;
        let indexes: Vec<String> = batch.iter().map(|swept| index_name(swept.id)).collect();
        for name in &indexes {
            self.swept.bytes += path.join(name).metadata().map_or(0, |metadata| metadata.len());
        }
        if !self.is_real {
            return Ok(());
        }
        let is_last = self.waiting.is_empty();
        let left = match self.is_stale {
            true if is_last => Some(self.count_left()?),
            true => None,
            false => {
                let before = self.state.with_catalog(layout, |catalog| catalog.dropped.left_bytes)?;
                let (added, freed) = (std::mem::take(&mut self.added_bytes), std::mem::take(&mut self.freed_bytes));
                Some(before.saturating_add(added).saturating_sub(freed))
            }
        };
        if let Some(left) = left {
            let newest = self.state.with_catalog(layout, |catalog| {
                catalog.dropped.left_bytes = left;
                catalog.dropped.newest_sequence
            })?;
            let record = encode_record(left, newest);
            disk.replace_file(folder.as_fd(), TOTALS_NAME.as_bytes(), &record, FILE_MODE)
                .at("write", &path.join(TOTALS_NAME))?;
        }
        for name in &indexes {
            disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(name))?;
        }
        disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", &path)?;
        let heads = batch.iter().filter_map(|swept| swept.head.as_ref());
        let stored: u64 = heads.map(|head| head.totals.stored_bytes).sum();
        self.state.with_catalog(layout, |catalog| {
            let dropped = &mut catalog.dropped;
            dropped.waiting_bytes = dropped.waiting_bytes.saturating_sub(stored);
            dropped.is_stale &= !is_last;
        })
    }

    fn count_left(&self) -> Result<u64, StoreError> {
        let mut left = 0;
        for id in &self.dropped {
            left += contents_bytes(self, *id)?;
        }
        Ok(left)
    }

    /// Removes the heads of dropped snapshots of which nothing is left; but the newest says which sequences were
    /// given out.
    fn remove_empty_heads(&mut self) -> Result<(), StoreError> {
        let (layout, disk, client) = (&self.shared.layout, &self.shared.disk, &self.state.record.folder);
        let (path, names) = snapshot_names(self.shared, self.state)?;
        let Some(folder) = open_if_there(&path)? else { return Ok(()) };
        let newest =
            self.state.with_catalog(layout, |catalog| catalog.heads().last().map_or(0, |head| head.sequence))?;
        let remains = Remains::of(&self.shared.layout, client)?;
        let mut removed = false;
        for id in dropped_ids(&names) {
            let is_swept = names.binary_search(&index_name(id)).is_err();
            if !is_swept || remains.has(id) {
                continue;
            }
            if read_dropped(&path, id)?.is_none_or(|head| head.sequence > newest) {
                continue;
            }
            let name = dropped_name(id);
            disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(&name))?;
            removed = true;
        }
        if removed {
            disk.flush_folder(folder.as_fd(), b"snapshots").at("flush", &layout.snapshots(client))?;
        }
        Ok(())
    }

    /// Reads a range, unless sweeps are to stop.
    pub fn read_range(&self, record: &IndexRecord) -> Result<Vec<StoredEntry>, StoreError> {
        let folder = self.shared.layout.range_files(&self.state.record.folder);
        if self.shared.sweeps_stopped.load(Ordering::Relaxed)
            || self.state.sweep_interrupted.load(Ordering::Relaxed)
        {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted)).at("go on sweeping", &folder.path);
        }
        read_range(&folder, record)
    }

    /// Waits until all that was removed so far has reached the disk, where one flush serves for all.
    pub fn flush_removals(&self) -> Result<(), StoreError> {
        let data = self.shared.layout.data();
        if !self.is_real || !self.shared.can_flush_all {
            return Ok(());
        }
        let anchor = open_folder(data).at("open", data)?;
        self.shared.disk.flush_all(anchor.as_fd()).at("flush", data)
    }
}

/// What lies in a client's folders, listed once: looking for what is left of each dropped snapshot by itself would make
/// a sweep slow where there are thousands.
struct Remains {
    received: Vec<String>,
    deltas: Vec<String>,
    ranges: Vec<String>,
}

impl Remains {
    fn of(layout: &Layout, client: &ClientFolder) -> Result<Remains, StoreError> {
        let mut ranges = names_in(&layout.ranges(client))?;
        ranges.retain(|name| name.ends_with(".blocks"));
        Ok(Remains {
            received: names_in(&layout.received(client))?,
            deltas: names_in(&layout.deltas(client))?,
            ranges,
        })
    }

    /// Whether contents, a delta or blocks of the snapshot are there.
    fn has(&self, id: SnapshotId) -> bool {
        let lies_in = |names: &[String], name: &str| names.binary_search_by(|one| one.as_str().cmp(name)).is_ok();
        lies_in(&self.received, id.as_str())
            || lies_in(&self.deltas, id.as_str())
            || lies_in(&self.ranges, &blocks_name(id))
    }
}

impl Referrer {
    fn sequence(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.sequence)
    }

    /// Whether it may need something of a dropped snapshot that no other kept one needs.
    fn is_stub(&self, kept: &HashSet<SnapshotId>) -> bool {
        match &self.head {
            Some(head) => head.parent.is_some_and(|parent| !kept.contains(&parent)),
            None => true,
        }
    }
}

/// How many of the ranges, sorted by first path, are swept together: no path is in this part and in a later one.
fn part_of(dead: &[IndexRecord]) -> usize {
    let (mut entries, mut end) = (0, &dead[0].last);
    for (place, record) in dead.iter().enumerate() {
        if entries >= CONTENTS_SWEPT_MAX && *end < record.first {
            return place;
        }
        entries += u64::from(record.entries);
        end = end.max(&record.last);
    }
    dead.len()
}

/// None for what only stands for a head that could not be read.
fn read_well(head: Arc<Head>) -> Option<Arc<Head>> {
    (head.sequence > 0).then_some(head)
}

fn snapshot_names(shared: &Shared, state: &ClientState) -> Result<(PathBuf, Vec<String>), StoreError> {
    let folder = shared.layout.snapshots(&state.record.folder);
    let names = names_in(&folder)?;
    Ok((folder, names))
}
