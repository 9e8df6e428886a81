//! The journal of an upload under way: what has been stored of it, so that a later session can go on where an
//! earlier one was cut off.
//!
//! Bytes: magic `cbkjrnl1` · records. A record: length u32 · kind u8 · body · CRC32 u32 of length, kind and
//! body. Kinds: 1 begin (run [16], snapshot id [25], BLAKE3 [32] of the
//! roots, id [25] of the snapshot it is compared with, zeros for none), 2 content (a stored entry as in
//! a range file), 3 range (new bytes u64, index record), 4 checkpoint, 5 lengths (bytes u64 of the `blocks` file,
//! bytes u64 of the `delta` file), before the record of each content whose blocks are recorded, 6 partial (a stored
//! entry as in a range file, whose sums and blocks are those of the beginning of its content), 7 gone (a path, of
//! which nothing before counts), 8 lengths and rests (as 5, and what a sealed `blocks` and `delta` have behind their last
//! whole segments, u16 length each). The journal is
//! believed up to its first record that is cut short or does not match its CRC32; the rest is cut off before
//! anything is appended, and both files are cut off behind what the last lengths say.
//!
//! Invariant: **a record never runs ahead of what it tells.** A content's record is written after its last
//! byte, a range's after its file. That holds for a process that ends; a machine that stops may keep the record
//! and lose the bytes. So what follows the last checkpoint, which is written after a flush, is read back
//! before it is believed, unless it was written by this very process. A checkpoint vouches for what its own run
//! wrote: what an earlier one may have lost stays in doubt. For a partial none vouches: its file goes on changing.

use std::collections::HashMap;
use std::io::{self, Read};

use super::blocks_writer::{Mark, Rests};
use super::index::IndexRecord;
use super::range::{HASH_BYTES, StoredEntry, decode_snapshot_id};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::limits::PATH_BYTES_MAX;
use crate::base::path::EntryPath;
use crate::crypto::crc32;
use crate::crypto::sealed_file::SEALED_SEGMENT_BYTES;

const MAGIC: &[u8; 8] = b"cbkjrnl1";
/// Longest record: an entry may take a whole range.
const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Beginnings of large contents that are kept: one is made at a time, and more than one only where a session sends
/// other things than the one before it.
const PARTIALS_MAX: usize = 4;
/// Length and kind before the body, CRC32 after it.
const RECORD_OVERHEAD: usize = 4 + 1 + 4;

/// Stands for no base.
const NO_BASE: &[u8; SnapshotId::LENGTH] = &[0; SnapshotId::LENGTH];

const KIND_BEGIN: u8 = 1;
const KIND_CONTENT: u8 = 2;
const KIND_RANGE: u8 = 3;
const KIND_CHECKPOINT: u8 = 4;
const KIND_LENGTHS: u8 = 5;
const KIND_PARTIAL: u8 = 6;
const KIND_GONE: u8 = 7;
const KIND_LENGTHS_AND_RESTS: u8 = 8;

/// Which run of the server wrote what follows, for which snapshot, of which roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Random for each process: a record of this process needs no checkpoint to be believed.
    pub run: [u8; 16],
    pub snapshot: SnapshotId,
    pub roots: [u8; HASH_BYTES],
    /// The snapshot that the upload is compared with, in all its sessions.
    pub base: Option<SnapshotId>,
}

/// A finished range, and how many of its content bytes this upload brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournaledRange {
    pub record: IndexRecord,
    pub new_bytes: u64,
    /// Whether its contents are to be read back before they are believed.
    pub doubtful: bool,
}

/// What a journal tells.
#[derive(Debug, Default)]
pub struct Journaled {
    /// None for a journal that does not even begin.
    pub begin: Option<Begin>,
    /// Sorted by first path; none overlaps another, the later written one being kept.
    pub ranges: Vec<JournaledRange>,
    /// Contents outside those ranges, by path; with whether they are doubtful.
    pub contents: HashMap<EntryPath, (StoredEntry, bool)>,
    /// Large contents of which only the beginning was stored, at most [`PARTIALS_MAX`]; with whether they are doubtful.
    pub partials: Vec<(StoredEntry, bool)>,
    /// How long the files for large contents were.
    pub lengths: Mark,
    /// What they held behind their last whole segments, where they are sealed.
    pub rests: Rests,
    /// How much of the file is to be believed.
    pub valid_bytes: u64,
}

pub fn put_magic(out: &mut Vec<u8>) {
    out.put_bytes(MAGIC);
}

pub fn put_begin(out: &mut Vec<u8>, begin: &Begin) {
    put_record(out, KIND_BEGIN, |body| {
        body.put_bytes(&begin.run);
        body.put_bytes(begin.snapshot.as_str().as_bytes());
        body.put_bytes(&begin.roots);
        body.put_bytes(begin.base.as_ref().map_or(&NO_BASE[..], |base| base.as_str().as_bytes()));
    });
}

pub fn put_content(out: &mut Vec<u8>, stored: &StoredEntry) {
    put_record(out, KIND_CONTENT, |body| stored.encode(body));
}

pub fn put_range(out: &mut Vec<u8>, record: &IndexRecord, new_bytes: u64) {
    put_record(out, KIND_RANGE, |body| {
        body.put_u64(new_bytes);
        record.encode(body);
    });
}

pub fn put_checkpoint(out: &mut Vec<u8>) {
    put_record(out, KIND_CHECKPOINT, |_| {});
}

pub fn put_lengths(out: &mut Vec<u8>, lengths: Mark, rests: &Rests) {
    let has_rests = *rests != Rests::default();
    put_record(out, if has_rests { KIND_LENGTHS_AND_RESTS } else { KIND_LENGTHS }, |body| {
        body.put_u64(lengths.blocks);
        body.put_u64(lengths.delta);
        if has_rests {
            body.put_bytes16(&rests.blocks);
            body.put_bytes16(&rests.delta);
        }
    });
}

pub fn put_partial(out: &mut Vec<u8>, stored: &StoredEntry) {
    put_record(out, KIND_PARTIAL, |body| stored.encode(body));
}

pub fn put_gone(out: &mut Vec<u8>, path: &EntryPath) {
    put_record(out, KIND_GONE, |body| body.put_bytes16(path.as_bytes()));
}

fn put_record(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    write(out);
    let body = u32::try_from(out.len() - start - 5).expect("a record is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&body.to_le_bytes());
    let sum = crc32(&out[start..]);
    out.put_u32(sum);
}

enum Record {
    Begin(Begin),
    Content(Box<StoredEntry>),
    Range(Box<IndexRecord>, u64),
    Checkpoint,
    Lengths(Mark, Rests),
    Partial(Box<StoredEntry>),
    Gone(EntryPath),
}

/// How a journal begins; none where it does not even do that.
pub fn read_begin(mut source: impl Read) -> io::Result<Option<Begin>> {
    let mut record = vec![0; MAGIC.len()];
    if !fill(&mut source, &mut record)? || record != MAGIC || !read_record(&mut source, &mut record)? {
        return Ok(None);
    }
    match decode(record[4], &record[5..record.len() - 4]) {
        Ok(Record::Begin(begin)) => Ok(Some(begin)),
        _ => Ok(None),
    }
}

/// Reads a journal as far as it is to be believed, record by record. `run` is the present process's.
///
/// # Errors
/// Only of the reading itself: a journal that is torn or damaged is believed up to there.
pub fn read(mut source: impl Read, run: &[u8; 16]) -> io::Result<Journaled> {
    let mut reading = Reading::default();
    let mut record = vec![0; MAGIC.len()];
    if !fill(&mut source, &mut record)? || record != MAGIC {
        return Ok(Journaled::default());
    }
    let mut valid_bytes = MAGIC.len() as u64;
    while read_record(&mut source, &mut record)? {
        let body = record.len() - 4;
        let Ok(decoded) = decode(record[4], &record[5..body]) else { break };
        reading.take(decoded, run);
        valid_bytes += record.len() as u64;
    }
    Ok(reading.finish(valid_bytes))
}

/// Reads the next record whole; false where there is none that is whole and right.
fn read_record(source: &mut impl Read, record: &mut Vec<u8>) -> io::Result<bool> {
    record.resize(4, 0);
    if !fill(source, record)? {
        return Ok(false);
    }
    let length = u32::from_le_bytes(record[..4].try_into().expect("four bytes")) as usize;
    if length > RECORD_BYTES_MAX {
        return Ok(false);
    }
    record.resize(length + RECORD_OVERHEAD, 0);
    if !fill(source, &mut record[4..])? {
        return Ok(false);
    }
    let (summed, sum) = record.split_at(record.len() - 4);
    Ok(crc32(summed).to_le_bytes() == sum)
}

/// Fills the buffer; false where the source ends before.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match source.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Record, DecodeError> {
    let mut reader = Reader::new(body);
    let record = match kind {
        KIND_BEGIN => Record::Begin(Begin {
            run: reader.array("run")?,
            snapshot: decode_snapshot_id(&mut reader)?,
            roots: reader.array("roots")?,
            base: decode_base(&mut reader)?,
        }),
        KIND_CONTENT => Record::Content(Box::new(StoredEntry::decode(&mut reader)?)),
        KIND_RANGE => {
            let new_bytes = reader.u64("new bytes")?;
            Record::Range(Box::new(IndexRecord::decode(&mut reader)?), new_bytes)
        }
        KIND_CHECKPOINT => Record::Checkpoint,
        KIND_LENGTHS => {
            let lengths = decode_lengths(&mut reader)?;
            Record::Lengths(lengths, Rests::default())
        }
        KIND_LENGTHS_AND_RESTS => {
            let lengths = decode_lengths(&mut reader)?;
            let blocks = reader.bytes16(SEALED_SEGMENT_BYTES, "rest of the blocks")?.to_vec();
            let delta = reader.bytes16(SEALED_SEGMENT_BYTES, "rest of the delta")?.to_vec();
            Record::Lengths(lengths, Rests { blocks, delta })
        }
        KIND_PARTIAL => Record::Partial(Box::new(StoredEntry::decode(&mut reader)?)),
        KIND_GONE => {
            let path = reader.bytes16(PATH_BYTES_MAX, "path")?;
            Record::Gone(EntryPath::parse(path).map_err(|_| DecodeError::Invalid { what: "path" })?)
        }
        _ => return Err(DecodeError::Invalid { what: "journal record" }),
    };
    reader.finish("journal record")?;
    Ok(record)
}

fn decode_lengths(reader: &mut Reader<'_>) -> Result<Mark, DecodeError> {
    Ok(Mark { blocks: reader.u64("blocks length")?, delta: reader.u64("delta length")? })
}

fn decode_base(reader: &mut Reader<'_>) -> Result<Option<SnapshotId>, DecodeError> {
    let bytes: [u8; SnapshotId::LENGTH] = reader.array("base")?;
    match bytes == *NO_BASE {
        true => Ok(None),
        false => decode_snapshot_id(&mut Reader::new(&bytes)).map(Some),
    }
}

/// Whether the bytes may be lost that a record tells of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    UntilCheckpoint,
    /// Its run ended without a checkpoint behind it.
    Lasting,
}

impl Doubt {
    fn at_begin(&mut self) {
        if *self == Doubt::UntilCheckpoint {
            *self = Doubt::Lasting;
        }
    }

    fn at_checkpoint(&mut self) {
        if *self == Doubt::UntilCheckpoint {
            *self = Doubt::None;
        }
    }
}

#[derive(Default)]
struct Reading {
    begin: Option<Begin>,
    ours: bool,
    /// In the order of writing.
    ranges: Vec<(JournaledRange, Doubt)>,
    contents: HashMap<EntryPath, (StoredEntry, Doubt)>,
    /// In the order of writing; with whether another run wrote them.
    partials: Vec<(StoredEntry, bool)>,
    lengths: Mark,
    rests: Rests,
}

impl Reading {
    fn take(&mut self, record: Record, run: &[u8; 16]) {
        match record {
            Record::Begin(begin) => {
                self.ours = begin.run == *run;
                self.each_doubt(Doubt::at_begin);
                // The first one names the snapshot; later ones are later runs of the same upload.
                self.begin.get_or_insert(begin);
            }
            Record::Content(stored) => {
                self.partials.retain(|(partial, _)| partial.entry.path != stored.entry.path);
                self.contents.insert(stored.entry.path.clone(), (*stored, self.doubt()));
            }
            Record::Range(record, new_bytes) => {
                let covered = |path: &EntryPath| record.first <= *path && *path <= record.last;
                self.contents.retain(|path, _| !covered(path));
                self.partials.retain(|(partial, _)| !covered(&partial.entry.path));
                self.ranges.push((JournaledRange { record: *record, new_bytes, doubtful: false }, self.doubt()));
            }
            Record::Checkpoint => self.each_doubt(Doubt::at_checkpoint),
            Record::Lengths(lengths, rests) => (self.lengths, self.rests) = (lengths, rests),
            Record::Partial(stored) => {
                self.forget(&stored.entry.path);
                self.partials.push((*stored, !self.ours));
                if self.partials.len() > PARTIALS_MAX {
                    self.partials.remove(0);
                }
            }
            Record::Gone(path) => self.forget(&path),
        }
    }

    /// What was stored of this path has made room, or is about to change.
    fn forget(&mut self, path: &EntryPath) {
        self.contents.remove(path);
        self.partials.retain(|(partial, _)| partial.entry.path != *path);
        let covers = |record: &IndexRecord| record.first <= *path && *path <= record.last;
        let covering = self.ranges.iter_mut().filter(|(range, _)| covers(&range.record));
        covering.for_each(|(_, doubt)| *doubt = Doubt::Lasting);
    }

    fn doubt(&self) -> Doubt {
        if self.ours { Doubt::None } else { Doubt::UntilCheckpoint }
    }

    fn each_doubt(&mut self, change: fn(&mut Doubt)) {
        self.ranges.iter_mut().for_each(|(_, doubt)| change(doubt));
        self.contents.values_mut().for_each(|(_, doubt)| change(doubt));
    }

    /// The later of two overlapping ranges is the true one: the tree changed between two sessions.
    fn finish(self, valid_bytes: u64) -> Journaled {
        let mut kept: Vec<JournaledRange> = Vec::with_capacity(self.ranges.len());
        for (range, doubt) in self.ranges {
            let range = JournaledRange { doubtful: doubt != Doubt::None, ..range };
            let from = kept.partition_point(|other| other.record.last < range.record.first);
            let to = kept.partition_point(|other| other.record.first <= range.record.last);
            kept.splice(from..to.max(from), [range]);
        }
        let contents = self.contents.into_iter();
        let contents = contents.map(|(path, (stored, doubt))| (path, (stored, doubt != Doubt::None))).collect();
        let Reading { begin, partials, lengths, rests, .. } = self;
        Journaled { begin, ranges: kept, contents, partials, lengths, rests, valid_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::strategies::stored_entry;
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn range(first: &str, last: &str) -> IndexRecord {
        IndexRecord {
            first: path(first),
            last: path(last),
            wire_hash: [1; 32],
            file: [2; 32],
            file_bytes: 3,
            entries: 4,
            files: 4,
            unreadable: 0,
            content_bytes: 5,
            unsettled: false,
        }
    }

    fn begin(run: u8) -> Begin {
        Begin { run: [run; 16], snapshot: "20260131T235959Z-00c0ffee".parse().unwrap(), roots: [9; 32], base: None }
    }

    #[test]
    fn what_follows_the_last_checkpoint_of_another_run_is_doubtful() {
        let mut bytes = Vec::new();
        put_magic(&mut bytes);
        put_begin(&mut bytes, &begin(1));
        put_range(&mut bytes, &range("a", "b"), 7);
        put_checkpoint(&mut bytes);
        put_range(&mut bytes, &range("c", "d"), 8);
        let doubts = |run: u8| {
            read(&bytes[..], &[run; 16]).unwrap().ranges.iter().map(|range| range.doubtful).collect::<Vec<_>>()
        };
        assert_eq!(doubts(2), [false, true]);
        assert_eq!(doubts(1), [false, false]);
    }

    #[test]
    fn a_checkpoint_does_not_vouch_for_what_an_earlier_run_may_have_lost() {
        let mut bytes = Vec::new();
        put_magic(&mut bytes);
        put_begin(&mut bytes, &begin(1));
        put_range(&mut bytes, &range("a", "b"), 7);
        put_begin(&mut bytes, &begin(2));
        put_range(&mut bytes, &range("c", "d"), 8);
        put_checkpoint(&mut bytes);
        let found = read(&bytes[..], &[3; 16]).unwrap();
        assert_eq!(found.ranges.iter().map(|range| range.doubtful).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn the_last_lengths_that_are_whole_count() {
        let mut bytes = Vec::new();
        put_magic(&mut bytes);
        put_begin(&mut bytes, &begin(1));
        assert_eq!(read(&bytes[..], &[1; 16]).unwrap().lengths, Mark::default());
        for blocks in 1..4 {
            put_lengths(&mut bytes, Mark { blocks, delta: 2 * blocks }, &Rests::default());
        }
        bytes.pop();
        assert_eq!(read(&bytes[..], &[1; 16]).unwrap().lengths, Mark { blocks: 2, delta: 4 });
    }

    #[test]
    fn the_later_of_overlapping_ranges_is_kept() {
        let mut bytes = Vec::new();
        put_magic(&mut bytes);
        put_begin(&mut bytes, &begin(1));
        for (first, last) in [("a", "c"), ("d", "f"), ("h", "i"), ("b", "e")] {
            put_range(&mut bytes, &range(first, last), 0);
        }
        let kept: Vec<_> =
            read(&bytes[..], &[1; 16]).unwrap().ranges.into_iter().map(|range| range.record.first).collect();
        assert_eq!(kept, [path("b"), path("h")]);
    }

    proptest! {
        #[test]
        fn a_torn_or_flipped_journal_is_believed_up_to_there(
            stored in prop::collection::vec(stored_entry(), 1..5),
            at in any::<prop::sample::Index>(),
            flip in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            put_magic(&mut bytes);
            put_begin(&mut bytes, &begin(1));
            let mut ends = vec![bytes.len()];
            for entry in &stored {
                put_content(&mut bytes, entry);
                ends.push(bytes.len());
            }
            let at = at.index(bytes.len());
            if flip { bytes[at] ^= 1 } else { bytes.truncate(at) }
            let found = read(&bytes[..], &[1; 16]).unwrap();
            let whole = ends.iter().filter(|end| **end <= at).max().copied().unwrap_or(0);
            prop_assert!(found.valid_bytes <= whole.max(8) as u64);
            prop_assert!(found.contents.len() <= stored.len());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&[MAGIC.as_slice(), &bytes].concat()[..], &[0; 16]).unwrap();
        }
    }
}
