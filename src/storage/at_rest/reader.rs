//! A file of the store read at any offset. Of a sealed one a segment at a time is opened and kept.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::keyring::{FileKeyring, key_of};
use super::{HEADER, SEGMENT, SLOT, slot_start, unsealable};
use crate::base::limits::{SEALED_HOLE_EXPONENTS, SEALED_HOLE_SEGMENTS};
use crate::crypto::sealed_file::{
    HOLE_MARKER_BYTES, SEALED_END_BYTES_MIN, SEALED_SEGMENT_BYTES, SEALED_SLOT_BYTES, SEALED_TEXT_START,
};
use crate::crypto::{KeyId, SealedForm, SealedKeys};
use crate::storage::content::{Segment, plain_segment};
use crate::storage::error::{At, StoreError};

/// Whether a sealed file has to have its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Required,
    /// It may still grow: without an end, whole segments count.
    Growing,
}

/// A file of the store, open for reading.
#[derive(Debug)]
pub enum StoredFile {
    Plain(File),
    Sealed(Box<SealedReader>),
}

impl StoredFile {
    /// # Errors
    /// `InvalidData` where the file is not what was written, as far as its header and its end tell.
    pub fn open(file: File, keyring: &FileKeyring, ending: Ending) -> io::Result<StoredFile> {
        match keyring.open(&file, SealedForm::Segments)? {
            None => Ok(StoredFile::Plain(file)),
            Some((_, keys)) => Ok(StoredFile::Sealed(Box::new(SealedReader::open(file, keys, ending)?))),
        }
    }

    /// Whether it has the end that a sealed file gets when it is whole.
    pub(super) fn has_end(&self) -> bool {
        matches!(self, StoredFile::Sealed(reader) if reader.has_end)
    }

    pub fn is_sealed(&self) -> bool {
        matches!(self, StoredFile::Sealed(_))
    }

    /// Bytes of plaintext.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            StoredFile::Plain(file) => Ok(file.metadata()?.len()),
            StoredFile::Sealed(reader) => Ok(reader.length),
        }
    }

    /// About how many bytes of plaintext take room on the disk: holes take none.
    pub fn taken_bytes(&self) -> io::Result<u64> {
        let (file, is_sealed) = match self {
            StoredFile::Plain(file) => (file, false),
            StoredFile::Sealed(reader) => (&reader.file, true),
        };
        let metadata = file.metadata()?;
        let taken = metadata.len().min(metadata.blocks() * 512);
        Ok(if is_sealed { taken / SLOT * SEGMENT } else { taken })
    }

    /// Reads from `offset` on; 0 at the end.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            StoredFile::Plain(file) => file.read_at(buffer, offset),
            StoredFile::Sealed(reader) => reader.read_at(buffer, offset),
        }
    }

    /// Fills the buffer from `offset` on.
    pub fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            StoredFile::Plain(file) => file.read_exact_at(buffer, offset),
            StoredFile::Sealed(reader) => match reader.read_at(buffer, offset)? == buffer.len() {
                true => Ok(()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }

    /// Whether nothing is left on the disk of the whole segment that `position` lies in.
    pub fn is_emptied_at(&self, position: u64) -> io::Result<bool> {
        let StoredFile::Sealed(reader) = self else { return Ok(false) };
        let segment = position / SEGMENT;
        if segment >= reader.segments {
            return Ok(false);
        }
        let mut slot = vec![0; SEALED_SLOT_BYTES];
        reader.file.read_exact_at(&mut slot, slot_start(segment))?;
        Ok(slot.iter().all(|byte| *byte == 0))
    }

    /// How much from `position` on, which lies before `size`, is all data or all hole.
    pub fn segment(&mut self, position: u64, size: u64) -> io::Result<Segment> {
        match self {
            StoredFile::Plain(file) => plain_segment(file, position, size),
            StoredFile::Sealed(reader) => reader.segment(position, size),
        }
    }
}

/// Reads a file of the store whole, unless its plaintext is larger than `limit`.
pub fn read_stored_file(path: &Path, limit: u64, keyring: &FileKeyring) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).at("open", path)?;
    let mut file = StoredFile::open(file, keyring, Ending::Required).at("open", path)?;
    let length = file.length().at("look at", path)?;
    if length > limit {
        return Err(StoreError::damaged(path, format!("{length} bytes, where at most {limit} can be")));
    }
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64).at("read", path)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Whether a file has that key's id in its header; with none, whether it is plain.
pub fn is_sealed_with(file: &File, key: Option<KeyId>) -> io::Result<bool> {
    Ok(key_of(file)? == key)
}

/// The whole segments of a sealed file and the bytes of its end, as its length tells.
pub(super) fn shape(file_bytes: u64) -> Option<(u64, usize)> {
    let least = SEALED_END_BYTES_MIN as u64;
    let body = file_bytes.checked_sub(HEADER)?;
    let segments = body.checked_sub(least)? / SLOT;
    let end = body - segments * SLOT;
    (end - least <= SEGMENT).then_some((segments, end as usize))
}

/// A sealed file with segments.
#[derive(Debug)]
pub struct SealedReader {
    file: File,
    keys: SealedKeys,
    /// Whole ones.
    segments: u64,
    length: u64,
    has_end: bool,
    /// What the end holds.
    rest: Vec<u8>,
    /// The slot that was read last, open where `opened` names it.
    slot: Vec<u8>,
    opened: Option<u64>,
    /// Segments that are known to be a hole.
    hole: Range<u64>,
}

impl SealedReader {
    fn open(file: File, keys: SealedKeys, ending: Ending) -> io::Result<SealedReader> {
        let file_bytes = file.metadata()?.len();
        let ended = read_end(&file, &keys, file_bytes);
        let has_end = ended.is_ok();
        let (segments, rest) = match (ended, ending) {
            (Ok(found), _) => found,
            (Err(error), _) if error.kind() != io::ErrorKind::InvalidData => return Err(error),
            (Err(error), Ending::Required) => return Err(error),
            (Err(_), Ending::Growing) => (file_bytes.saturating_sub(HEADER) / SLOT, Vec::new()),
        };
        let length = segments * SEGMENT + rest.len() as u64;
        Ok(SealedReader { file, keys, segments, length, has_end, rest, slot: Vec::new(), opened: None, hole: 0..0 })
    }

    fn read_at(&mut self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() && offset < self.length {
            let (segment, within) = (offset / SEGMENT, (offset % SEGMENT) as usize);
            let count = if segment == self.segments {
                copy(&self.rest[within..], buffer)
            } else if self.is_hole(segment)? {
                let left = (self.hole.end * SEGMENT).min(self.length) - offset;
                let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                buffer[..count].fill(0);
                count
            } else {
                copy(&self.slot[SEALED_TEXT_START + within..SEALED_TEXT_START + SEALED_SEGMENT_BYTES], buffer)
            };
            buffer = &mut buffer[count..];
            offset += count as u64;
        }
        Ok(wanted - buffer.len())
    }

    /// Whether a whole segment is a hole; if not, it is open in the slot afterwards.
    fn is_hole(&mut self, segment: u64) -> io::Result<bool> {
        if self.hole.contains(&segment) {
            return Ok(true);
        }
        if self.opened == Some(segment) {
            return Ok(false);
        }
        self.opened = None;
        self.slot.resize(SEALED_SLOT_BYTES, 0);
        let read = self.file.read_exact_at(&mut self.slot, slot_start(segment));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => unsealable("the sealed file was cut short"),
            _ => error,
        })?;
        if self.keys.open_segment(&mut self.slot, segment).is_ok() {
            self.opened = Some(segment);
            return Ok(false);
        }
        match self.find_hole(segment)? {
            Some(hole) => {
                self.hole = hole;
                Ok(true)
            }
            None => Err(unsealable(format!("segment {segment} of the sealed file is damaged"))),
        }
    }

    /// The hole that a segment lies in; only where its own place is empty, so that a damaged one costs no search.
    fn find_hole(&self, segment: u64) -> io::Result<Option<Range<u64>>> {
        if self.slot[HOLE_MARKER_BYTES..].iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        let hole = find_hole(&self.keys, segment, |marker, offset| self.file.read_exact_at(marker, offset))?;
        Ok(hole.map(|hole| hole.start..hole.end.min(self.segments)))
    }

    fn segment(&mut self, position: u64, size: u64) -> io::Result<Segment> {
        let (segment, end) = (position / SEGMENT, size.min(self.length));
        let part = |end: u64, is_hole| Ok(Segment { bytes: end.max(position + 1) - position, is_hole });
        if end <= position {
            return part(size, false);
        }
        if segment < self.segments && self.has_room_at(segment)? && self.is_hole(segment)? {
            return part((self.hole.end * SEGMENT).min(end), true);
        }
        // The next place that the file system keeps no bytes for may be a hole of ours.
        let room = plain_segment(&self.file, slot_start(segment), slot_start(self.segments).max(HEADER + 1))?;
        let next = match room.is_hole {
            true => segment + 1,
            false => (slot_start(segment) + room.bytes - HEADER) / SLOT,
        };
        part((next.max(segment + 1) * SEGMENT).min(end), false)
    }

    /// Whether the file system keeps less than all of a segment's slot.
    fn has_room_at(&self, segment: u64) -> io::Result<bool> {
        let end = slot_start(segment) + SLOT;
        let found = plain_segment(&self.file, slot_start(segment), end)?;
        Ok(found.is_hole || found.bytes < SLOT)
    }
}

/// The hole that a segment lies in, as the marker at its beginning tells: that is near, or at a round number.
pub(super) fn find_hole(
    keys: &SealedKeys,
    segment: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Option<Range<u64>>> {
    let mut marker = [0; HOLE_MARKER_BYTES];
    for first in (segment.saturating_sub(SEALED_HOLE_SEGMENTS - 1)..=segment).rev() {
        read(&mut marker, slot_start(first))?;
        if marker.iter().any(|byte| *byte != 0) {
            let count = keys.open_hole(&marker, first).ok();
            let near = count.filter(|count| segment - first < *count);
            match near {
                Some(count) => return Ok(Some(first..first + count)),
                // Something else lies between.
                None => return Ok(None),
            }
        }
    }
    for first in SEALED_HOLE_EXPONENTS.map(|exponent| segment >> exponent << exponent) {
        read(&mut marker, slot_start(first))?;
        if let Some(count) = keys.open_hole(&marker, first).ok().filter(|count| segment - first < *count) {
            return Ok(Some(first..first + count));
        }
    }
    Ok(None)
}

/// The number of whole segments, and what the end holds.
pub(super) fn read_end(file: &File, keys: &SealedKeys, file_bytes: u64) -> io::Result<(u64, Vec<u8>)> {
    let lost = || unsealable("the end of the sealed file is damaged, or was cut off");
    let (segments, bytes) = shape(file_bytes).ok_or_else(lost)?;
    let mut end = vec![0; bytes];
    file.read_exact_at(&mut end, slot_start(segments))?;
    let rest = keys.open_end(&mut end, segments).map_err(|_| lost())?;
    Ok((segments, end[rest].to_vec()))
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}
