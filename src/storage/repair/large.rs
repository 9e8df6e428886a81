//! Where the maps of large contents may lie in the `.blocks` files of their snapshots, when no range says it: contents
//! came in path order, and so did their maps.

use std::collections::HashMap;

use crate::base::ids::SnapshotId;
use crate::storage::at_rest::{Ending, SealedKind};
use crate::storage::blocks_format::{BlocksPlace, HEADER_BYTES, Map, Source, record_bytes};
use crate::storage::blocks_reader::{ClientFiles, open_blocks};

/// So much of a record is read to learn how long it is: a map of few sources begins with less.
const BEGINNING_BYTES: usize = 4 * 1024;

/// The map of a content.
#[derive(Debug, Clone, Copy)]
pub struct LargePlace {
    size: u64,
    pub place: BlocksPlace,
    /// The content is one plain file, under the entry's own path.
    pub is_plain: bool,
}

/// The maps by snapshot, in the order in which they were written.
#[derive(Debug, Default)]
pub struct LargePlaces {
    snapshots: HashMap<SnapshotId, Vec<LargePlace>>,
}

impl LargePlaces {
    /// The next map of a content of so many bytes that the snapshot brought, plain or not.
    pub fn next(
        &mut self,
        files: &ClientFiles,
        snapshot: SnapshotId,
        size: u64,
        may_be_plain: bool,
    ) -> Option<LargePlace> {
        let places = self.snapshots.entry(snapshot).or_insert_with(|| read(files, snapshot).unwrap_or_default());
        let fits = |place: &LargePlace| place.size == size && (may_be_plain || !place.is_plain);
        let place = places.iter().position(fits)?;
        Some(places.remove(place))
    }
}

fn read(files: &ClientFiles, snapshot: SnapshotId) -> Option<Vec<LargePlace>> {
    let keyring = files.keyring().files(SealedKind::Blocks);
    let mut file = open_blocks(&files.blocks(snapshot), snapshot, &keyring, Ending::Required).ok()?;
    let length = file.length().ok()?;
    let (mut found, mut offset): (Vec<(Map, BlocksPlace)>, u64) = (Vec::new(), HEADER_BYTES as u64);
    while offset < length {
        let mut beginning = vec![0; BEGINNING_BYTES.min((length - offset) as usize)];
        file.read_exact_at(&mut beginning, offset).ok()?;
        let Some((bytes, is_map)) = record_bytes(&beginning) else { break };
        if is_map {
            let mut record = vec![0; bytes.min((length - offset) as usize)];
            file.read_exact_at(&mut record, offset).ok()?;
            if let Ok(map) = Map::decode(&record) {
                // A note of what had come may say the same as what follows it: that counts.
                found.pop_if(|(last, _)| *last == map);
                found.push((map, BlocksPlace { offset, bytes: bytes as u32 }));
            }
        }
        offset += bytes as u64;
    }
    let place = |(map, place): (Map, BlocksPlace)| {
        let is_plain = map.sources == [Source::Plain { snapshot, path: None }];
        LargePlace { size: map.size, place, is_plain }
    };
    Some(found.into_iter().map(place).collect())
}
