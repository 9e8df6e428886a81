//! An index put together again. Whatever it named is still there: ranges that its snapshot wrote and nobody shares are
//! named by no other index; the rest is in the index of the snapshot it was compared with, or of one that was compared
//! with it. Which of them it were is tried out: **the head knows the hash of the right index**, and nothing else is
//! taken for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ClientRepair;
use super::pool::Pooled;
use crate::base::ids::{SnapshotId, UserName};
use crate::base::order::sort_by_key;
use crate::base::path::EntryPath;
use crate::storage::error::StoreError;
use crate::storage::head::Head;
use crate::storage::index::{HeadCopy, IndexRecord, encode_index, index_bytes};

/// So many later snapshots are tried.
const FOLLOWERS_TRIED_MAX: usize = 8;
/// So many ways to leave out what is too much are tried.
const RUNS_TRIED_MAX: usize = 64;

/// The records of an index, and its bytes.
type Found = (Vec<IndexRecord>, Vec<u8>);

impl ClientRepair<'_, '_> {
    /// The index that a head names: its records and its bytes. None where it cannot be found.
    pub(super) fn rebuilt_index(&mut self, head: &Arc<Head>) -> Result<Option<Found>, StoreError> {
        let parent = self.records_of(head.parent)?;
        let mut later: Vec<Vec<IndexRecord>> = Vec::new();
        for child in self.followers(head) {
            let records = self.records_of(Some(child))?;
            if !records.is_empty() {
                later.push(records);
            }
            if later.len() >= FOLLOWERS_TRIED_MAX {
                break;
            }
        }
        later.push(Vec::new());
        self.pool()?;
        let pool = self.pool.as_ref().expect("read just now");
        let is_possible = |pooled: &&Pooled| pooled.brought_by.iter().all(|id| !self.is_later(*id, head));
        let mut own: Vec<&Pooled> =
            pool.ranges.iter().filter(|pooled| !pooled.is_named).filter(is_possible).collect();
        // What it brought something of is its own before anything else.
        sort_by_key(&mut own, |pooled| !pooled.brought_by.contains(&head.id));
        let own: Vec<IndexRecord> = own.into_iter().map(|pooled| pooled.record.clone()).collect();
        for later in &later {
            let later: Vec<IndexRecord> = later
                .iter()
                .filter(|record| pool.get(&record.file).as_ref().is_none_or(is_possible))
                .cloned()
                .collect();
            let orders: [&[&[IndexRecord]]; 6] = [
                &[&own, &later, &parent],
                &[&own, &parent, &later],
                &[&own, &parent],
                &[&own, &later],
                &[&later, &own, &parent],
                &[&parent, &own],
            ];
            for sources in orders {
                if let Some(found) = self.proved(head, assemble(sources)) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn records_of(&self, snapshot: Option<SnapshotId>) -> Result<Vec<IndexRecord>, StoreError> {
        let head = snapshot.and_then(|id| self.heads.get(&id).or_else(|| self.dropped.get(&id)));
        let Some(head) = head else { return Ok(Vec::new()) };
        match self.records(head) {
            Err(error) if error.is_damage() => Ok(Vec::new()),
            read => read,
        }
    }

    /// The snapshots that came after this one: those that were compared with it, then the others, by sequence.
    fn followers(&self, head: &Head) -> Vec<SnapshotId> {
        let mut later: Vec<&Arc<Head>> =
            self.heads.values().filter(|other| other.sequence > head.sequence).collect();
        sort_by_key(&mut later, |other| (other.parent != Some(head.id), other.sequence));
        later.into_iter().map(|other| other.id).collect()
    }

    /// Whether a snapshot came after this one, so that this one can need nothing of it.
    pub(super) fn is_later(&self, id: SnapshotId, than: &Head) -> bool {
        match self.heads.get(&id).or_else(|| self.dropped.get(&id)) {
            Some(head) if head.sequence > 0 => head.sequence > than.sequence,
            _ => id > than.id,
        }
    }

    /// The bytes of an index with these records, or with some of them left out, if it is the one that the head names.
    fn proved(&self, head: &Head, records: Vec<IndexRecord>) -> Option<Found> {
        let names = std::iter::once(&self.client.name).chain(&self.client.former_names);
        let prove = |records: &[&IndexRecord]| names.clone().find_map(|name| prove(head, name, records));
        let counts =
            |record: &IndexRecord| [u64::from(record.entries), u64::from(record.files), record.content_bytes];
        let sums = records.iter().map(counts).fold([0; 3], add);
        let wanted = [head.totals.entries, head.totals.files, head.totals.bytes];
        let surplus: [u64; 3] = std::array::from_fn(|n| sums[n].wrapping_sub(wanted[n]));
        if surplus == [0; 3] {
            return prove(&records.iter().collect::<Vec<_>>());
        }
        if (0..3).any(|n| sums[n] < wanted[n]) {
            return None;
        }
        // A subtree that was gone by then is a run of ranges that are too many.
        let (mut begin, mut run, mut tried) = (0, [0; 3], 0);
        for end in 0..records.len() {
            run = add(run, counts(&records[end]));
            while run[0] > surplus[0] && begin <= end {
                run = std::array::from_fn(|n| run[n].wrapping_sub(counts(&records[begin])[n]));
                begin += 1;
            }
            if run == surplus && tried < RUNS_TRIED_MAX {
                tried += 1;
                let left: Vec<&IndexRecord> = records[..begin].iter().chain(&records[end + 1..]).collect();
                if let Some(found) = prove(&left) {
                    return Some(found);
                }
            }
        }
        None
    }
}

fn add(left: [u64; 3], right: [u64; 3]) -> [u64; 3] {
    std::array::from_fn(|n| left[n].wrapping_add(right[n]))
}

/// The ranges of all sources that do not overlap one of a source before, in path order.
fn assemble(sources: &[&[IndexRecord]]) -> Vec<IndexRecord> {
    let mut chosen: BTreeMap<&EntryPath, &IndexRecord> = BTreeMap::new();
    for record in sources.iter().copied().flatten() {
        let before = chosen.range::<EntryPath, _>(..=&record.last).next_back();
        if before.is_none_or(|(_, before)| before.last < record.first) {
            chosen.insert(&record.first, record);
        }
    }
    chosen.into_values().cloned().collect()
}

fn prove(head: &Head, name: &UserName, records: &[&IndexRecord]) -> Option<Found> {
    let json = head.encode_copy(name);
    let bytes = index_bytes(records.iter().copied(), json.len());
    let copy = HeadCopy { stored_bytes: head.totals.stored_bytes.checked_sub(bytes)?, json };
    let (bytes, hash) = encode_index(head.id, records.len() as u32, records.iter().copied(), &copy);
    (hash == head.index_blake3).then(|| (records.iter().copied().cloned().collect(), bytes))
}
