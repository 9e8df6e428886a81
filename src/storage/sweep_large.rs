//! Large contents of dropped snapshots: which parts of their delta files, and which of their `.blocks` files, are
//! still needed. That is found by going through all ranges of the snapshots that can tell (see [`super::sweep`]), only
//! for dropped snapshots of which something large lost a reference.
//!
//! A delta file keeps its length; parts that nobody needs are given back as holes, where the file system has them.
//! When no part is needed any more, the file goes. A `.blocks` file stays whole until it is not needed at all: it is
//! a four-hundredth of what it describes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use super::at_rest::{Ending, SealedKind, StoredFile, slots_within};
use super::blocks_format::Source;
use super::blocks_reader::ContentMap;
use super::content::plain_segment;
use super::error::{At, StoreError};
use super::layout::blocks_name;
use super::range::{Location, StoredContent};
use super::recovery::open_if_there;
use super::sweep::{Referrer, Sweep};
use super::sweep_contents::stored_bytes;
use crate::base::ids::SnapshotId;
use crate::base::order::sort;

/// Of how many dropped snapshots the needed parts are remembered at a time: one bit for each unit.
const SNAPSHOTS_AT_ONCE_MAX: usize = 64;
/// Delta files are given back in units of so many bytes: a file system's usual block.
const UNIT_BYTES: u64 = 4_096;

/// What is still needed of one dropped snapshot.
#[derive(Debug, Default)]
struct Needed {
    /// One bit for each unit of the delta file.
    units: Vec<u64>,
    blocks: bool,
}

impl Needed {
    fn add(&mut self, part: Range<u64>) {
        for unit in part.start / UNIT_BYTES..part.end.div_ceil(UNIT_BYTES) {
            let word = (unit / 64) as usize;
            if word >= self.units.len() {
                self.units.resize(word + 1, 0);
            }
            self.units[word] |= 1 << (unit % 64);
        }
    }

    fn has_unit(&self, unit: u64) -> bool {
        self.units.get((unit / 64) as usize).is_some_and(|word| word & (1 << (unit % 64)) != 0)
    }

    /// The parts of a file of `length` bytes that nobody needs.
    fn gaps(&self, length: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        for unit in (0..length.div_ceil(UNIT_BYTES)).filter(|unit| !self.has_unit(*unit)) {
            let (start, end) = (unit * UNIT_BYTES, ((unit + 1) * UNIT_BYTES).min(length));
            match gaps.last_mut().filter(|gap| gap.end == start) {
                Some(gap) => gap.end = end,
                None => gaps.push(start..end),
            }
        }
        gaps
    }
}

/// Gives back what nobody needs any more of the large contents of these dropped snapshots.
pub fn sweep_large(
    sweep: &mut Sweep<'_>,
    snapshots: HashSet<SnapshotId>,
    stubs: &[&Referrer],
) -> Result<(), StoreError> {
    let mut snapshots: Vec<SnapshotId> = snapshots.into_iter().collect();
    sort(&mut snapshots);
    for some in snapshots.chunks(SNAPSHOTS_AT_ONCE_MAX) {
        let mut needed: HashMap<SnapshotId, Needed> = some.iter().map(|id| (*id, Needed::default())).collect();
        match find_needed(sweep, &mut needed, stubs) {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                log::warn!("large contents of dropped snapshots stay because of damage: {error}");
                continue;
            }
            Err(error) => return Err(error),
        }
        for id in some {
            give_back_delta(sweep, *id, &needed[id])?;
        }
        // Whoever does this again finds what the files were made of in the blocks: they go after the flush.
        sweep.flush_removals()?;
        for id in some.iter().filter(|id| !needed[*id].blocks) {
            remove_blocks(sweep, *id)?;
        }
    }
    Ok(())
}

fn find_needed(
    sweep: &Sweep<'_>,
    needed: &mut HashMap<SnapshotId, Needed>,
    stubs: &[&Referrer],
) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    for referrer in stubs {
        for record in sweep.records(referrer)? {
            if record.content_bytes == 0 || !seen.insert(record.file) {
                continue;
            }
            for stored in sweep.read_range(&record)? {
                if let Some(content) = stored.content.filter(|content| content.blocks.is_some()) {
                    add_content(sweep, needed, &content)?;
                }
            }
        }
    }
    Ok(())
}

fn add_content(
    sweep: &Sweep<'_>,
    needed: &mut HashMap<SnapshotId, Needed>,
    content: &StoredContent,
) -> Result<(), StoreError> {
    if let Some(own) = needed.get_mut(&content.snapshot()) {
        own.blocks = true;
    }
    let (Location::Mapped { .. }, Some(place)) = (&content.location, content.blocks) else { return Ok(()) };
    let mut map = ContentMap::open(&sweep.files, content.snapshot(), place)?;
    let sources = map.all_sources().to_vec();
    let mut has_delta = false;
    for source in &sources {
        if let Some(own) = needed.get_mut(&source.snapshot()) {
            own.blocks = true;
            has_delta |= matches!(source, Source::Delta { .. });
        }
    }
    let mut position = 0;
    while has_delta && position < map.size() {
        let stretch = map.stretch_at(position)?;
        position = stretch.end();
        let Some(data) = stretch.data else { continue };
        if let Some(Source::Delta { snapshot }) = sources.get(usize::from(data.source))
            && let Some(own) = needed.get_mut(snapshot)
        {
            own.add(data.stored..data.stored + stretch.bytes);
        }
    }
    Ok(())
}

fn give_back_delta(sweep: &mut Sweep<'_>, id: SnapshotId, needed: &Needed) -> Result<(), StoreError> {
    let path = sweep.shared.layout.deltas(&sweep.state.record.folder);
    let Some(folder) = open_if_there(&path)? else { return Ok(()) };
    let (file_path, name) = (path.join(id.as_str()), id.as_str().as_bytes());
    let file = match File::open(&file_path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at("open", &file_path)?,
    };
    let file_bytes = file.metadata().at("look at", &file_path)?.len();
    let keyring = sweep.shared.layout.keyring_of(&sweep.state.record.folder).files(SealedKind::Delta);
    let sealed = file
        .try_clone()
        .and_then(|file| StoredFile::open(file, &keyring, Ending::Required))
        .and_then(|file| Ok(if file.is_sealed() { Some(file.length()?) } else { None }));
    let sealed = match sealed {
        // Nobody can say which part of it is which.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData && !needed.units.is_empty() => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => None,
        sealed => sealed.at("read", &file_path)?,
    };
    let disk = &sweep.shared.disk;
    let mut freed = 0;
    if needed.units.is_empty() {
        freed = data_bytes(&file, 0..file_bytes).at("look at", &file_path)?;
        if sweep.is_real {
            disk.remove_file(folder.as_fd(), name).at("remove", &file_path)?;
            disk.flush_folder(folder.as_fd(), b"deltas").at("flush", &path)?;
        }
    } else {
        for gap in needed.gaps(sealed.unwrap_or(file_bytes)) {
            // Of a sealed file whole segments are given back.
            let gap = if sealed.is_some() { slots_within(gap) } else { gap };
            if gap.is_empty() {
                continue;
            }
            let bytes = data_bytes(&file, gap.clone()).at("look at", &file_path)?;
            let is_given = bytes > 0
                && (!sweep.is_real || disk.punch_hole(folder.as_fd(), name, gap).at("empty", &file_path)?);
            freed += if is_given { bytes } else { 0 };
        }
    }
    sweep.swept.bytes += freed;
    sweep.freed_bytes += freed;
    Ok(())
}

/// How much of a part of a file is no hole.
fn data_bytes(file: &File, part: Range<u64>) -> std::io::Result<u64> {
    let (mut position, mut bytes) = (part.start, 0);
    while position < part.end {
        let segment = plain_segment(file, position, part.end)?;
        bytes += if segment.is_hole { 0 } else { segment.bytes };
        position += segment.bytes.max(1);
    }
    Ok(bytes)
}

fn remove_blocks(sweep: &mut Sweep<'_>, id: SnapshotId) -> Result<(), StoreError> {
    let path = sweep.shared.layout.ranges(&sweep.state.record.folder);
    let Some(folder) = open_if_there(&path)? else { return Ok(()) };
    let name = blocks_name(id);
    let stat = match rustix::fs::lstat(path.join(&name)) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        found => found.map_err(std::io::Error::from).at("look at", &path.join(&name))?,
    };
    if sweep.is_real {
        sweep.shared.disk.remove_file(folder.as_fd(), name.as_bytes()).at("remove", &path.join(&name))?;
    }
    let bytes = stored_bytes(&stat, sweep.shared.layout.keyring());
    sweep.swept.bytes += bytes;
    sweep.freed_bytes += bytes;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_whole_units_between_what_is_needed() {
        let mut needed = Needed::default();
        assert_eq!(needed.gaps(10_000), vec![Range { start: 0, end: 10_000 }]);
        needed.add(5_000..9_000);
        assert_eq!(needed.gaps(20_000), [0..4_096, 12_288..20_000]);
        needed.add(0..20_000);
        assert!(needed.gaps(20_000).is_empty());
    }
}
