//! A range whose entries have arrived and whose contents have not all: what becomes of each entry. The
//! entries stay in their encoded form, so that a range takes little more memory than it took on the wire.

use std::sync::Arc;

use super::error::StoreError;
use super::index::IndexRecord;
use super::partial::Partial;
use super::range::{HASH_BYTES, Location, RangeEncoder, StoredContent, UNREADABLE};
use crate::base::codec::Reader;
use crate::base::entry::{Entry, EntryKind};
use crate::base::ids::SnapshotId;

/// What is known of the content of one entry.
#[derive(Debug)]
pub enum Fate {
    /// There is none to store.
    NoContent,
    /// It has to be sent. `held` is what the base has at this path, `partial` what an earlier session of the upload
    /// stored of it; `tries` counts damaged arrivals.
    Awaited {
        held: Option<Box<StoredContent>>,
        partial: Option<Arc<Partial>>,
        tries: u32,
    },
    /// Stored, now or before.
    Stored {
        flags: u8,
        content: StoredContent,
    },
    Unreadable,
}

/// One such range.
#[derive(Debug)]
pub struct PendingRange {
    pub number: u32,
    pub wire_hash: [u8; HASH_BYTES],
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`.
    ends: Vec<u32>,
    fates: Vec<Fate>,
    awaited: usize,
    /// No entry before this one waits for its first arrival.
    next: usize,
    files: u32,
    /// Bytes of new contents for which nothing is stored.
    hole_bytes: u64,
}

/// A range whose every entry is accounted for.
#[derive(Debug)]
pub struct FinishedRange {
    pub bytes: Vec<u8>,
    pub record: IndexRecord,
    /// Content bytes in it that this upload's own snapshot brought.
    pub new_bytes: u64,
}

impl PendingRange {
    /// Takes the encoded entries of a range, and what is to become of each.
    pub fn new(
        number: u32,
        wire_hash: [u8; HASH_BYTES],
        bytes: &[u8],
        entries: &[Entry],
        fates: Vec<Fate>,
    ) -> Self {
        let mut ends = Vec::with_capacity(entries.len());
        let mut reader = Reader::new(bytes);
        for _ in entries {
            Entry::decode(&mut reader).expect("these bytes gave these entries just now");
            ends.push((bytes.len() - reader.remaining()) as u32);
        }
        let awaited = fates.iter().filter(|fate| matches!(fate, Fate::Awaited { .. })).count();
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File).count() as u32;
        let bytes = bytes.to_vec();
        let mut range =
            PendingRange { number, wire_hash, bytes, ends, fates, awaited, next: 0, files, hole_bytes: 0 };
        range.skip_settled();
        range
    }

    /// Encoded bytes held in memory.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_complete(&self) -> bool {
        self.awaited == 0
    }

    /// Which entries' contents are needed, one bit each, the lowest bit of the first byte first; and the
    /// BLAKE3 held for the path, where one is.
    pub fn needed(&self) -> Needed {
        let mut needed = Needed { bitmap: vec![0; self.fates.len().div_ceil(8)], held: Vec::new() };
        for (place, fate) in self.fates.iter().enumerate() {
            if let Fate::Awaited { held, partial, .. } = fate {
                needed.bitmap[place / 8] |= 1 << (place % 8);
                needed.held.extend(HeldContent::new(place as u32, held.as_deref(), partial.as_deref()));
            }
        }
        needed
    }

    /// The first entry whose content has never come, if any.
    pub fn next_awaited(&self) -> Option<u32> {
        (self.next < self.fates.len()).then_some(self.next as u32)
    }

    /// How often this entry's content arrived damaged; an error if it is not awaited.
    pub fn tries(&self, entry: u32) -> Result<u32, StoreError> {
        match self.fates.get(entry as usize) {
            Some(Fate::Awaited { tries, .. }) => Ok(*tries),
            _ => Err(StoreError::out_of_place(format!("content ({}, {entry}) is not needed", self.number))),
        }
    }

    /// Whether a content arrived damaged and has not come again yet.
    pub fn awaits_repeat(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Awaited { tries: 1.., .. }))
    }

    /// What the base holds for an awaited entry.
    pub fn held(&self, entry: u32) -> Option<&StoredContent> {
        match self.fates.get(entry as usize) {
            Some(Fate::Awaited { held, .. }) => held.as_deref(),
            _ => None,
        }
    }

    /// What an earlier session of the upload stored of an awaited entry's content.
    pub fn partial(&self, entry: u32) -> Option<&Arc<Partial>> {
        match self.fates.get(entry as usize) {
            Some(Fate::Awaited { partial, .. }) => partial.as_ref(),
            _ => None,
        }
    }

    /// From now on the content comes from its start, or has been gone on with.
    pub fn forget_partial(&mut self, entry: u32) {
        if let Some(Fate::Awaited { partial, .. }) = self.fates.get_mut(entry as usize) {
            *partial = None;
        }
    }

    pub fn entry(&self, entry: u32) -> Entry {
        self.decode_entry(entry as usize)
    }

    /// Settles an awaited entry.
    pub fn settle(&mut self, entry: u32, fate: Fate) {
        self.fates[entry as usize] = fate;
        self.awaited -= 1;
        self.skip_settled();
    }

    /// Notes a damaged arrival; from now on the content may come at any time.
    pub fn note_damaged(&mut self, entry: u32) -> u32 {
        let Fate::Awaited { tries, .. } = &mut self.fates[entry as usize] else { return 0 };
        *tries += 1;
        let tries = *tries;
        self.skip_settled();
        tries
    }

    /// Notes how much of a new plain content takes no room.
    pub fn note_holes(&mut self, bytes: u64) {
        self.hole_bytes += bytes;
    }

    fn skip_settled(&mut self) {
        let waits = |fate: &Fate| matches!(fate, Fate::Awaited { tries: 0, .. });
        while self.fates.get(self.next).is_some_and(|fate| !waits(fate)) {
            self.next += 1;
        }
    }

    /// The range file and its index record, in the snapshot that is being made.
    pub fn finish(&self, snapshot: SnapshotId) -> FinishedRange {
        let mut encoder = RangeEncoder::new(self.ends.len() as u32, &self.wire_hash);
        let (mut unreadable, mut content_bytes, mut new_bytes, mut unsettled) = (0, 0u64, 0u64, false);
        for (place, fate) in self.fates.iter().enumerate() {
            let (flags, content) = match fate {
                Fate::Stored { flags, content } => (*flags, Some(content)),
                Fate::Unreadable => (UNREADABLE, None),
                Fate::NoContent | Fate::Awaited { .. } => (0, None),
            };
            unreadable += u32::from(flags & UNREADABLE != 0);
            unsettled |= flags != 0;
            content_bytes = content_bytes.saturating_add(content.map_or(0, |content| content.sums.size));
            // What a delta brought is counted with the delta file.
            let is_mapped = |content: &StoredContent| matches!(content.location, Location::Mapped { .. });
            let new = content.filter(|content| content.snapshot() == snapshot && !is_mapped(content));
            new_bytes = new_bytes.saturating_add(new.map_or(0, |content| content.sums.size));
            encoder.add(self.wire_bytes(place), flags, content);
        }
        let (bytes, file) = encoder.finish();
        let record = IndexRecord {
            first: self.decode_entry(0).path,
            last: self.decode_entry(self.ends.len() - 1).path,
            wire_hash: self.wire_hash,
            file,
            file_bytes: bytes.len() as u32,
            entries: self.ends.len() as u32,
            files: self.files,
            unreadable,
            content_bytes,
            unsettled,
        };
        FinishedRange { bytes, record, new_bytes: new_bytes.saturating_sub(self.hole_bytes) }
    }

    fn wire_bytes(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[place] as usize]
    }

    fn decode_entry(&self, place: usize) -> Entry {
        Entry::decode(&mut Reader::new(self.wire_bytes(place))).expect("these bytes were decoded when they came")
    }
}

/// The answer to the entries of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// One bit for each entry, the lowest bit of the first byte first.
    pub bitmap: Vec<u8>,
    /// What there is for the paths of needed entries, in their order.
    pub held: Vec<HeldContent>,
}

/// What there is for the path of a needed entry: in the base, or from an earlier session of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldContent {
    pub entry: u32,
    /// Of what the base has; zeros where it has nothing.
    pub blake3: [u8; HASH_BYTES],
    /// Whether it is large: the sums of its blocks can be asked for, and a delta made against it.
    pub blocks: bool,
    /// Whether the beginning of the content itself lies here.
    pub partial: Option<PartialKind>,
}

/// What may follow the beginning of a content that lies here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialKind {
    /// Nothing but bytes and holes.
    Plain,
    /// Pieces of what is held, too.
    Delta,
}

impl HeldContent {
    fn new(entry: u32, held: Option<&StoredContent>, partial: Option<&Partial>) -> Option<HeldContent> {
        if held.is_none() && partial.is_none() {
            return None;
        }
        let has_blocks = held.is_some_and(|content| content.blocks.is_some());
        Some(HeldContent {
            entry,
            blake3: held.map_or([0; HASH_BYTES], |content| content.sums.blake3),
            blocks: has_blocks,
            partial: partial.map(|partial| match partial.is_delta || has_blocks {
                true => PartialKind::Delta,
                false => PartialKind::Plain,
            }),
        })
    }
}

impl Needed {
    pub fn is_needed(&self, entry: u32) -> bool {
        let byte = self.bitmap.get(entry as usize / 8).copied().unwrap_or(0);
        byte & (1 << (entry % 8)) != 0
    }

    /// The needed entries, rising.
    pub fn entries(&self) -> impl Iterator<Item = u32> {
        (0..self.bitmap.len() as u32 * 8).filter(|entry| self.is_needed(*entry))
    }
}
