//! A file of the store as it is written: from its start to its end, going on where an earlier session stopped, or cut
//! back. Of a sealed one, plaintext is gathered to whole segments, which are sealed several at a time; what does not
//! fill a segment stays in memory until the end is written.
//!
//! An end may be written at any time, so that what is there so far can be read; it is cut off before more is written.
//! Whole segments are never written twice, except behind a cut. What an end holds is thus lost with a process that stops
//! between the cut and the next end: whoever needs it keeps it elsewhere ([`FileWriter::rest`]).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

use super::keyring::FileKeyring;
use super::reader::{Ending, StoredFile, find_hole};
use super::{HEADER, SEGMENT, SLOT, slot_start, unsealable};
use crate::base::durable::{Disk, NewFile};
use crate::base::limits::{SEALED_BATCH_SEGMENTS, SEALED_HOLE_EXPONENTS, SEALED_HOLE_SEGMENTS};
use crate::base::zeros::resize_zeroed;
use crate::crypto::sealed_file::{
    HOLE_MARKER_BYTES, SEALED_MAGIC, SEALED_SEGMENT_BYTES, SEALED_SLOT_BYTES, SEALED_TEXT_START,
};
use crate::crypto::{SealedForm, SealedHeader, SealedKeys};

/// Plaintext that is sealed at a time.
const BATCH_BYTES: usize = SEALED_BATCH_SEGMENTS * SEALED_SEGMENT_BYTES;

/// A file of the store, open for writing.
#[derive(Debug)]
pub struct FileWriter {
    file: NewFile,
    /// None while nothing is sealed.
    sealing: Option<Box<Sealing>>,
    keyring: FileKeyring,
}

#[derive(Debug)]
struct Sealing {
    header: SealedHeader,
    keys: SealedKeys,
    /// Whole segments in the file.
    segments: u64,
    /// Plaintext behind them, laid out in slots; and how much it is.
    pending: Vec<u8>,
    filled: usize,
    /// The end that the file has, by the length it tells.
    ended_at: Option<u64>,
    /// A write has failed, and what was pending with it: nothing more is told of the file, nor written.
    is_broken: bool,
}

impl FileWriter {
    /// Makes a new file, sealed where the keyring has a key to write with.
    pub fn create(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        name: &[u8],
        keyring: &FileKeyring,
    ) -> io::Result<FileWriter> {
        let file = disk.create_file(folder, name)?;
        let sealing = keyring.create(SealedForm::Segments).map(Sealing::new).map(Box::new);
        Ok(FileWriter { file, sealing, keyring: keyring.clone() })
    }

    /// Makes a new file that can hold bytes that are lost: one that is sealed, under a key that is no secret where the
    /// store is plain.
    pub fn create_with_losses(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        name: &[u8],
        keyring: &FileKeyring,
    ) -> io::Result<FileWriter> {
        let mut file = FileWriter::create(disk, folder, name, keyring)?;
        file.sealing.get_or_insert_with(|| Box::new(Sealing::new(keyring.create_escaped(SealedForm::Segments))));
        Ok(file)
    }

    /// Opens a file again to go on behind its first `length` bytes, or fewer where it is shorter. `rest` is what lies behind the
    /// last whole segment of them, where that is known; else it is read. None for a sealed file without a whole header.
    ///
    /// # Errors
    /// `InvalidData` where it is not sealed as new files are.
    pub fn reopen(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        name: &[u8],
        length: u64,
        rest: &[u8],
        keyring: &FileKeyring,
    ) -> io::Result<Option<FileWriter>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reading = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
        let file_bytes = reading.metadata()?.len();
        let is_sealed = keyring.writing().is_some();
        if is_sealed && file_bytes < HEADER {
            return Ok(None);
        }
        let Some((header, keys)) = keyring.open(&reading, SealedForm::Segments)? else {
            if is_sealed {
                return Err(unsealable("it is not sealed"));
            }
            let file = disk.reopen_file(folder, name, length.min(file_bytes))?;
            return Ok(Some(FileWriter { file, sealing: None, keyring: keyring.clone() }));
        };
        if keyring.writing().is_some_and(|key| key != header.key) {
            return Err(unsealable("it is sealed with another key than new files"));
        }
        let mut stored = StoredFile::open(reading, keyring, Ending::Growing)?;
        let mut sealing = Sealing::new((header, keys));
        sealing.take_up(&mut stored, length, rest)?;
        let (end, length) = (slot_start(sealing.segments), sealing.length());
        let has_end = stored.has_end() && stored.length()? == length;
        sealing.ended_at = has_end.then_some(length);
        let file = disk.reopen_file(folder, name, if has_end { file_bytes } else { end })?;
        Ok(Some(FileWriter { file, sealing: Some(Box::new(sealing)), keyring: keyring.clone() }))
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.sealing.is_none() && self.file.bytes() == 0 && looks_sealed(bytes) {
            let escaped = self.keyring.create_escaped(SealedForm::Segments);
            self.sealing = Some(Box::new(Sealing::new(escaped)));
        }
        match &mut self.sealing {
            None => self.file.write(bytes),
            Some(sealing) => sealing.write(&mut self.file, bytes),
        }
    }

    /// Appends a hole: bytes that read as zeros.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.sealing {
            None => self.file.skip(bytes),
            Some(sealing) => sealing.skip(&mut self.file, bytes),
        }
    }

    /// Appends bytes that are lost: at a segment's border, and no more than one segment. In a sealed file a whole
    /// segment of them stays unreadable, in a plain one they are a hole.
    pub fn lose(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.sealing {
            Some(sealing) if bytes == SEGMENT => sealing.lose(&mut self.file),
            _ => self.skip(bytes),
        }
    }

    /// How long the file is: bytes of plaintext.
    pub fn bytes(&self) -> u64 {
        self.sealing.as_ref().map_or(self.file.bytes(), |sealing| sealing.length())
    }

    /// Takes back what was appended behind the first `bytes`. Of a sealed file nothing changes on the disk yet.
    pub fn cut_back(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.sealing {
            None => self.file.cut_back(bytes),
            Some(sealing) => sealing.cut_back(&mut self.file, bytes),
        }
    }

    /// Writes the whole segments that are there.
    pub fn settle(&mut self) -> io::Result<()> {
        match &mut self.sealing {
            None => Ok(()),
            Some(sealing) => sealing.write_whole(&mut self.file),
        }
    }

    /// Ends the file, so that all that was appended can be read. More may follow.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.sealing {
            None => Ok(()),
            Some(sealing) => sealing.finish(&mut self.file),
        }
    }

    /// What lies behind the last whole segment: what an end holds. Nothing of a plain file.
    pub fn rest(&self) -> &[u8] {
        self.sealing.as_ref().map_or(&[], |sealing| sealing.rest())
    }

    pub fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The bytes of a sealed file with this plaintext.
pub(super) fn seal_whole(sealing: (SealedHeader, SealedKeys), plaintext: &[u8]) -> Vec<u8> {
    let mut sealing = Sealing::new(sealing);
    let mut bytes = sealing.header.as_bytes().to_vec();
    for batch in plaintext.chunks(BATCH_BYTES) {
        sealing.gather(batch);
        bytes.append(&mut sealing.seal_whole());
    }
    sealing.keys.seal_end(sealing.segments, sealing.rest(), &mut bytes);
    bytes
}

/// Whether a file that begins so would be taken for a sealed one, or may go on like one.
fn looks_sealed(bytes: &[u8]) -> bool {
    let known = bytes.len().min(SEALED_MAGIC.len());
    known > 0 && bytes[..known] == SEALED_MAGIC[..known]
}

impl Sealing {
    fn new((header, keys): (SealedHeader, SealedKeys)) -> Sealing {
        Sealing { header, keys, segments: 0, pending: Vec::new(), filled: 0, ended_at: None, is_broken: false }
    }

    /// Goes on behind the first `length` bytes of what is stored.
    fn take_up(&mut self, stored: &mut StoredFile, length: u64, rest: &[u8]) -> io::Result<()> {
        let rest_bytes = (length % SEGMENT) as usize;
        self.segments = length / SEGMENT;
        if stored.length()? < self.segments * SEGMENT {
            self.segments = stored.length()? / SEGMENT;
            return Ok(());
        }
        if rest.len() == rest_bytes {
            self.gather(rest);
            return Ok(());
        }
        let mut read = vec![0; rest_bytes];
        let count = stored.read_at(&mut read, self.segments * SEGMENT)?;
        self.gather(&read[..count]);
        Ok(())
    }

    fn length(&self) -> u64 {
        self.segments * SEGMENT + self.filled as u64
    }

    fn write(&mut self, file: &mut NewFile, mut bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        while !bytes.is_empty() {
            let (taken, left) = bytes.split_at(bytes.len().min(BATCH_BYTES.saturating_sub(self.filled)));
            self.gather(taken);
            bytes = left;
            if self.filled >= BATCH_BYTES {
                self.write_whole(file)?;
            }
        }
        Ok(())
    }

    /// Puts plaintext where it will be sealed.
    fn gather(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (slot, within) = (self.filled / SEALED_SEGMENT_BYTES, self.filled % SEALED_SEGMENT_BYTES);
            let start = slot * SEALED_SLOT_BYTES + SEALED_TEXT_START + within;
            let (taken, left) = bytes.split_at(bytes.len().min(SEALED_SEGMENT_BYTES - within));
            if self.pending.len() < start + taken.len() {
                resize_zeroed(&mut self.pending, start + taken.len());
            }
            self.pending[start..start + taken.len()].copy_from_slice(taken);
            self.filled += taken.len();
            bytes = left;
        }
    }

    /// Of what is pending, what does not fill a segment.
    fn rest(&self) -> &[u8] {
        let (slot, rest) = (self.filled / SEALED_SEGMENT_BYTES, self.filled % SEALED_SEGMENT_BYTES);
        let start = slot * SEALED_SLOT_BYTES + SEALED_TEXT_START;
        if rest == 0 { &[] } else { &self.pending[start..start + rest] }
    }

    /// Seals the whole segments that are pending, in place; gives their bytes in the file. What does not fill one
    /// becomes the beginning of what is pending next.
    fn seal_whole(&mut self) -> Vec<u8> {
        let whole = self.filled / SEALED_SEGMENT_BYTES;
        let rest = self.rest().to_vec();
        let mut sealed = std::mem::take(&mut self.pending);
        resize_zeroed(&mut sealed, whole * SEALED_SLOT_BYTES);
        self.keys.seal_segments(&mut sealed, self.segments);
        self.segments += whole as u64;
        self.filled = 0;
        self.gather(&rest);
        sealed
    }

    fn write_whole(&mut self, file: &mut NewFile) -> io::Result<()> {
        self.check()?;
        if self.filled < SEALED_SEGMENT_BYTES {
            return Ok(());
        }
        self.cut_off(file)?;
        let sealed = self.seal_whole();
        file.write(&sealed)?;
        self.is_broken = false;
        self.reuse(sealed);
        Ok(())
    }

    /// Keeps the room of a batch for the next one.
    fn reuse(&mut self, mut room: Vec<u8>) {
        room.clear();
        room.extend_from_slice(&self.pending);
        self.pending = room;
    }

    /// Makes the file end behind its last whole segment. It counts as broken until what is to follow is written.
    fn cut_off(&mut self, file: &mut NewFile) -> io::Result<()> {
        self.check()?;
        (self.ended_at, self.is_broken) = (None, true);
        if file.bytes() == 0 {
            return file.write(self.header.as_bytes());
        }
        match file.bytes() == slot_start(self.segments) {
            true => Ok(()),
            false => file.cut_back(slot_start(self.segments)),
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.is_broken {
            true => Err(io::Error::other("an earlier write to the file failed")),
            false => Ok(()),
        }
    }

    fn finish(&mut self, file: &mut NewFile) -> io::Result<()> {
        self.check()?;
        if self.ended_at == Some(self.length()) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        if file.bytes() == 0 {
            bytes.extend_from_slice(self.header.as_bytes());
            self.is_broken = true;
        } else {
            self.cut_off(file)?;
        }
        if self.filled >= SEALED_SEGMENT_BYTES {
            bytes.append(&mut self.seal_whole());
        }
        self.keys.seal_end(self.segments, self.rest(), &mut bytes);
        file.write(&bytes)?;
        (self.ended_at, self.is_broken) = (Some(self.length()), false);
        Ok(())
    }

    fn skip(&mut self, file: &mut NewFile, mut bytes: u64) -> io::Result<()> {
        let to_border = (SEGMENT - self.length() % SEGMENT) % SEGMENT;
        let head = bytes.min(to_border);
        self.write_zeros(file, head)?;
        bytes -= head;
        if bytes >= SEGMENT {
            self.write_whole(file)?;
        }
        while bytes >= SEGMENT {
            let count = self.hole_segments(bytes / SEGMENT);
            self.write_hole(file, count)?;
            bytes -= count * SEGMENT;
        }
        self.write_zeros(file, bytes)
    }

    /// How many segments the next hole has where there are to be `left`, so that its beginning can be found from within.
    fn hole_segments(&self, left: u64) -> u64 {
        let fits = |exponent: &u8| self.segments.is_multiple_of(1 << *exponent) && 1 << *exponent <= left;
        match SEALED_HOLE_EXPONENTS.rev().find(fits) {
            Some(exponent) => 1 << exponent,
            None => left.min(SEALED_HOLE_SEGMENTS - self.segments % SEALED_HOLE_SEGMENTS),
        }
    }

    fn write_hole(&mut self, file: &mut NewFile, count: u64) -> io::Result<()> {
        self.cut_off(file)?;
        file.write(&self.keys.hole_marker(self.segments, count))?;
        file.skip(SLOT * count - HOLE_MARKER_BYTES as u64)?;
        self.segments += count;
        self.is_broken = false;
        Ok(())
    }

    /// A segment that nothing is known of: its place is empty and has no marker.
    fn lose(&mut self, file: &mut NewFile) -> io::Result<()> {
        self.write_whole(file)?;
        self.cut_off(file)?;
        file.skip(SLOT)?;
        self.segments += 1;
        self.is_broken = false;
        Ok(())
    }

    fn write_zeros(&mut self, file: &mut NewFile, mut bytes: u64) -> io::Result<()> {
        const ZEROS: [u8; 4_096] = [0; 4_096];
        while bytes > 0 {
            let some = bytes.min(ZEROS.len() as u64);
            self.write(file, &ZEROS[..some as usize])?;
            bytes -= some;
        }
        Ok(())
    }

    fn cut_back(&mut self, file: &mut NewFile, length: u64) -> io::Result<()> {
        // Another text of the same length has another end.
        self.ended_at = self.ended_at.filter(|end| *end <= length);
        if length >= self.segments * SEGMENT {
            self.filled = self.filled.min((length - self.segments * SEGMENT) as usize);
            return Ok(());
        }
        let (segment, rest) = (length / SEGMENT, (length % SEGMENT) as usize);
        let kept = if rest > 0 { self.read_segment(file, segment)? } else { Vec::new() };
        let hole = match segment.checked_sub(1) {
            Some(before) => self.find_hole(file, before)?.filter(|hole| hole.end > segment),
            None => None,
        };
        (self.segments, self.filled) = (segment, 0);
        if let Some(hole) = hole {
            // Its marker tells of more than is left of it.
            self.segments = hole.start;
            self.skip(file, (segment - hole.start) * SEGMENT)?;
        }
        self.gather(&kept[..rest.min(kept.len())]);
        Ok(())
    }

    fn read_segment(&self, file: &NewFile, segment: u64) -> io::Result<Vec<u8>> {
        let mut slot = vec![0; SEALED_SLOT_BYTES];
        file.read_exact_at(&mut slot, slot_start(segment))?;
        if self.keys.open_segment(&mut slot, segment).is_ok() {
            return Ok(slot[SEALED_TEXT_START..SEALED_TEXT_START + SEALED_SEGMENT_BYTES].to_vec());
        }
        match self.find_hole(file, segment)? {
            Some(_) => Ok(vec![0; SEALED_SEGMENT_BYTES]),
            None => Err(unsealable(format!("segment {segment} of the sealed file is damaged"))),
        }
    }

    fn find_hole(&self, file: &NewFile, segment: u64) -> io::Result<Option<Range<u64>>> {
        find_hole(&self.keys, segment, |marker, offset| file.read_exact_at(marker, offset))
    }
}
