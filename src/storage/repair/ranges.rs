//! A range put together again. Its entries, as the client sent them, are in every range with the same wire hash: the
//! next backup brings one where the files are unchanged. Where their contents lie is told by ranges over the same paths,
//! and by the folders in which snapshots keep what they brought. **The name of a range is its hash**: only bytes that
//! have it are written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::large::LargePlaces;
use super::pool::{Pool, Pooled};
use super::{ClientRepair, Outcome, RANGES_MENDED_MAX};
use crate::base::ids::{SnapshotId, hex};
use crate::base::limits::LARGE_FILE_BYTES;
use crate::base::order::sort_by_key;
use crate::base::path::EntryPath;
use crate::storage::blocks_format::Source;
use crate::storage::blocks_reader::ClientFiles;
use crate::storage::comparison::read_range;
use crate::storage::error::StoreError;
use crate::storage::head::Head;
use crate::storage::index::IndexRecord;
use crate::storage::layout::{RangeFolder, names_in};
use crate::storage::range::{HASH_BYTES, Location, RECHECK, RangeEncoder, StoredContent, StoredEntry};

/// Ranges that are remembered as read; one more is read again where another snapshot names it.
const RANGES_SEEN_MAX: usize = 65_536;

/// So many files are tried as those that were to be looked at again.
const MARKED_TRIED_MAX: usize = 64;

/// A range that cannot be read.
struct DamagedRange {
    record: IndexRecord,
    problem: String,
    /// The earliest snapshot that names it.
    earliest: Arc<Head>,
    snapshots: std::collections::BTreeSet<SnapshotId>,
}

/// Where the content of an entry may lie.
#[derive(Default)]
struct Candidates {
    /// As a range over the same path has it.
    told: Option<StoredContent>,
    /// As a file is there.
    found: Option<StoredContent>,
}

impl ClientRepair<'_, '_> {
    /// Goes through the ranges of all snapshots.
    pub(super) fn ranges(&mut self) -> Result<(), StoreError> {
        let (damaged, more) = self.damaged_ranges()?;
        for (file, range) in damaged {
            let RangeFolder { path, keyring } = self.repair.shared.layout.range_files(&self.client.folder);
            let path = path.join(hex(&file));
            match self.rebuilt_range(&range.record, &range.earliest)? {
                Some(bytes) => {
                    self.repair.write_sealed(&path, bytes, &keyring)?;
                    let text = "the range, from another one of the same entries".to_string();
                    self.tell(path, Outcome::Rebuilt, range.snapshots, text);
                }
                None => {
                    let record = &range.record;
                    let text = format!(
                        "the list of {} entries, {} of them files, from {} to {} ({}): everything else of these snapshots \
                         is there. Back up again, then repair again: where the files are unchanged the list can be \
                         made anew; what snapshots brought lies as plain files in {}",
                        record.entries,
                        record.files,
                        record.first.display(),
                        record.last.display(),
                        range.problem,
                        format_args!("received_files/{}", self.client.folder)
                    );
                    self.tell(path, Outcome::Lost, range.snapshots, text);
                }
            }
        }
        if more > 0 {
            let path = self.repair.shared.layout.ranges(&self.client.folder);
            self.tell(path, Outcome::Lost, Default::default(), format!("{more} more ranges: repair again"));
        }
        Ok(())
    }

    /// Those that snapshots name and that are damaged, and how many more there are.
    fn damaged_ranges(&self) -> Result<(BTreeMap<[u8; HASH_BYTES], DamagedRange>, u64), StoreError> {
        let layout = &self.repair.shared.layout;
        let folder = layout.range_files(&self.client.folder);
        let (mut seen, mut more) = (HashSet::new(), 0);
        let mut damaged: BTreeMap<[u8; HASH_BYTES], DamagedRange> = BTreeMap::new();
        let mut heads: Vec<&Arc<Head>> = self.heads.values().collect();
        sort_by_key(&mut heads, |head| (head.sequence, head.id));
        for head in heads {
            let records = match self.records(head) {
                Ok(records) => records,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            for record in records {
                if let Some(known) = damaged.get_mut(&record.file) {
                    known.snapshots.insert(head.id);
                    continue;
                }
                if seen.contains(&record.file) {
                    continue;
                }
                match read_range(&folder, &record) {
                    Ok(_) if seen.len() < RANGES_SEEN_MAX => drop(seen.insert(record.file)),
                    Ok(_) => {}
                    Err(error) if error.is_damage() && damaged.len() >= RANGES_MENDED_MAX => {
                        seen.insert(record.file);
                        more += 1;
                    }
                    Err(StoreError::Damaged { problem, .. }) => {
                        let (earliest, snapshots) = (head.clone(), [head.id].into());
                        damaged.insert(record.file, DamagedRange { record, problem, earliest, snapshots });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((damaged, more))
    }

    /// The bytes of a range that the snapshot `earliest` names; none where they cannot be found.
    fn rebuilt_range(&mut self, record: &IndexRecord, earliest: &Head) -> Result<Option<Vec<u8>>, StoreError> {
        self.pool()?;
        let pool = self.pool.as_ref().expect("read just now");
        let Some(twin) = pool.ranges.iter().find(|pooled| pooled.record.wire_hash == record.wire_hash) else {
            return Ok(None);
        };
        let twin = pool.entries(twin)?;
        let told = self.told_contents(pool, record, earliest, &twin)?;
        let found = self.found_contents(earliest, &twin)?;
        let candidates: Vec<Candidates> =
            told.into_iter().zip(found).map(|(told, found)| Candidates { told, found }).collect();
        for flags in flag_sets(record, &twin) {
            for told_first in [true, false] {
                let (bytes, name) = encode(record, &twin, &candidates, &flags, told_first);
                if name == record.file {
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    /// What ranges over the same paths say of the contents of these entries.
    fn told_contents(
        &self,
        pool: &Pool,
        record: &IndexRecord,
        earliest: &Head,
        entries: &[StoredEntry],
    ) -> Result<Vec<Option<StoredContent>>, StoreError> {
        let mut told: Vec<Option<StoredContent>> = vec![None; entries.len()];
        let over: Vec<&Pooled> = pool.over(&record.first, &record.last).collect();
        for pooled in over {
            for other in pool.entries(pooled)? {
                let Ok(place) = entries.binary_search_by(|stored| stored.entry.path.cmp(&other.entry.path)) else {
                    continue;
                };
                let (Some(content), Some(own)) = (other.content, &entries[place].content) else { continue };
                if content.sums == own.sums && !self.is_later(content.snapshot(), earliest) {
                    told[place] = Some(content);
                }
            }
        }
        Ok(told)
    }

    /// Which of the files in the snapshots' folders may be the contents of these entries: the newest that was there.
    fn found_contents(
        &self,
        earliest: &Head,
        entries: &[StoredEntry],
    ) -> Result<Vec<Option<StoredContent>>, StoreError> {
        let layout = &self.repair.shared.layout;
        let files = ClientFiles::new(layout, &self.client.folder);
        let mut names = names_in(&layout.received(&self.client.folder))?;
        names.extend(names_in(&layout.ranges(&self.client.folder))?);
        let brought = names.iter().filter_map(|name| name.strip_suffix(".blocks").unwrap_or(name).parse().ok());
        let mut snapshots: Vec<SnapshotId> = brought.filter(|id| !self.is_later(*id, earliest)).collect();
        let sequence =
            |id: &SnapshotId| self.heads.get(id).or_else(|| self.dropped.get(id)).map(|head| head.sequence);
        sort_by_key(&mut snapshots, |id| (sequence(id), *id));
        snapshots.dedup();
        let mut large = LargePlaces::default();
        let mut find = |path: &EntryPath, content: &StoredContent| {
            let (sums, size) = (content.sums, content.sums.size);
            snapshots
                .iter()
                .rev()
                .find_map(|id| {
                    let snapshot = *id;
                    let source = Source::Plain { snapshot, path: None };
                    let opened = files.open(&source, path).and_then(|file| file.length());
                    let is_there = opened.is_ok_and(|length| length == size);
                    if size < LARGE_FILE_BYTES {
                        return is_there.then_some((Location::OwnPath { snapshot }, None));
                    }
                    let found = large.next(&files, snapshot, size, is_there)?;
                    let location =
                        if found.is_plain { Location::OwnPath { snapshot } } else { Location::Mapped { snapshot } };
                    Some((location, Some(found.place)))
                })
                .map(|(location, blocks)| StoredContent { sums, location, blocks })
        };
        Ok(entries.iter().map(|stored| find(&stored.entry.path, stored.content.as_ref()?)).collect())
    }
}

/// The flags that the entries may have had. Those that were looked at again had changed last.
fn flag_sets(record: &IndexRecord, entries: &[StoredEntry]) -> Vec<Vec<u8>> {
    let own: Vec<u8> = entries.iter().map(|stored| stored.flags).collect();
    let without: Vec<u8> =
        entries.iter().map(|stored| if stored.content.is_some() { 0 } else { stored.flags }).collect();
    if !record.unsettled {
        return vec![without];
    }
    let mut newest: Vec<usize> = (0..entries.len()).filter(|place| entries[*place].content.is_some()).collect();
    sort_by_key(&mut newest, |place| {
        let entry = &entries[*place].entry;
        std::cmp::Reverse(entry.mtime.max(entry.ctime))
    });
    let marked = |count: usize| {
        let mut flags = without.clone();
        newest.iter().take(count).for_each(|place| flags[*place] = RECHECK);
        flags
    };
    let counts = (0..=newest.len().min(MARKED_TRIED_MAX)).chain([newest.len()]);
    [own].into_iter().chain(counts.map(marked)).collect()
}

/// A range of these entries, with their contents where they may lie.
fn encode(
    record: &IndexRecord,
    entries: &[StoredEntry],
    candidates: &[Candidates],
    flags: &[u8],
    told_first: bool,
) -> (Vec<u8>, [u8; HASH_BYTES]) {
    let mut encoder = RangeEncoder::new(entries.len() as u32, &record.wire_hash);
    for ((stored, Candidates { told, found }), flags) in entries.iter().zip(candidates).zip(flags) {
        let mut wire_bytes = Vec::new();
        stored.entry.encode(&mut wire_bytes);
        let (first, second) = if told_first { (told, found) } else { (found, told) };
        let content = stored.content.as_ref().map(|own| first.as_ref().or(second.as_ref()).unwrap_or(own));
        encoder.add(&wire_bytes, *flags, content);
    }
    encoder.finish()
}
