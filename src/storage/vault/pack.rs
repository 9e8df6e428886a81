//! Pack files: appended to by one writer at a time, read by any number, never changed in place. What lies behind the
//! bytes that the index knows of was never told to anybody as stored.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::record::{Kind, NewRecord, PACK_HEADER_BYTES, Record, encode_pack_header, key_name, record_bytes};
use super::rows::Place;
use crate::base::durable::{Disk, NewFile};
use crate::base::vault::{DataKeyId, VaultId};
use crate::base::zeros::resize_zeroed;

/// What is gathered before it is written.
const BUFFER_BYTES: usize = 256 * 1024;
/// How much of a pack is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The file name of a pack.
pub fn pack_name(number: u32) -> String {
    format!("{number:08x}.pack")
}

/// The number of the pack with this file name.
pub fn pack_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().filter(|number| pack_name(*number) == name && *number > 0)
}

/// A pack that is being added to.
#[derive(Debug)]
pub struct PackWriter {
    pub number: u32,
    file: NewFile,
    buffer: Vec<u8>,
    /// Of it, what is gathered included.
    length: u64,
    /// The keys whose records this writer has put into it.
    keys: BTreeSet<DataKeyId>,
    /// So much of it was on the disk when it was opened, or flushed last.
    flushed_bytes: u64,
    /// A write did not succeed: what is on the disk behind the indexed bytes is nothing to go by.
    has_failed: bool,
}

impl PackWriter {
    pub fn create(disk: &Disk, folder: BorrowedFd<'_>, vault: VaultId, number: u32) -> io::Result<PackWriter> {
        let file = disk.create_file(folder, pack_name(number).as_bytes())?;
        let buffer = encode_pack_header(vault, number);
        Ok(PackWriter::new(number, file, buffer, PACK_HEADER_BYTES as u64))
    }

    /// Goes on behind the first `length` bytes; what lies behind them goes.
    pub fn reopen(disk: &Disk, folder: BorrowedFd<'_>, number: u32, length: u64) -> io::Result<PackWriter> {
        let file = disk.reopen_file(folder, pack_name(number).as_bytes(), length)?;
        Ok(PackWriter::new(number, file, Vec::new(), length))
    }

    fn new(number: u32, file: NewFile, buffer: Vec<u8>, length: u64) -> PackWriter {
        let flushed_bytes = if buffer.is_empty() { length } else { 0 };
        let keys = BTreeSet::new();
        PackWriter { number, file, buffer, length, keys, flushed_bytes, has_failed: false }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// 0 for a pack that was made and not flushed yet.
    pub fn flushed_bytes(&self) -> u64 {
        self.flushed_bytes
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Puts the record of a key before the first chunk that is sealed under it.
    pub fn put_key(&mut self, id: DataKeyId, wrapped: &[u8]) -> io::Result<()> {
        if self.keys.contains(&id) {
            return Ok(());
        }
        self.append(&NewRecord { kind: Kind::Key, name: key_name(id), key: None, payload: &[wrapped] })?;
        self.keys.insert(id);
        Ok(())
    }

    pub fn append(&mut self, record: &NewRecord<'_>) -> io::Result<Place> {
        let place = Place { pack: self.number, offset: self.length as u32, length: record.payload_bytes() as u32 };
        record.encode(&mut self.buffer);
        self.length += record.kind.record_bytes(record.payload_bytes());
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(place)
    }

    fn write_out(&mut self) -> io::Result<()> {
        let written = self.file.write(&self.buffer);
        self.buffer.clear();
        self.has_failed |= written.is_err();
        written
    }

    /// When this returns, all that was appended is on the disk; the pack's name is once its folder is flushed.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.write_out()?;
        }
        let flushed = self.file.flush();
        self.has_failed |= flushed.is_err();
        self.flushed_bytes = self.length;
        flushed
    }
}

/// Goes through the records of a pack in order.
#[derive(Debug)]
pub struct Scanner {
    file: File,
    /// Where `window` begins in the file.
    offset: u64,
    window: Vec<u8>,
    /// Whether what is no record is passed over, up to the next one.
    passes_damage: bool,
    /// How much was passed over.
    pub passed_bytes: u64,
}

/// A record and where it lies.
#[derive(Debug)]
pub struct Scanned {
    pub offset: u64,
    pub record: Record,
}

impl Scanner {
    /// Begins at `offset`. With `passes_damage`, what is no record is passed over; without, it ends there.
    pub fn open(path: &Path, offset: u64, passes_damage: bool) -> io::Result<Scanner> {
        let offset = offset.max(PACK_HEADER_BYTES as u64);
        Ok(Scanner { file: File::open(path)?, offset, window: Vec::new(), passes_damage, passed_bytes: 0 })
    }

    /// Where the next record is looked for: behind the last one that was found.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn next(&mut self) -> io::Result<Option<Scanned>> {
        let begin = self.offset;
        if let Some(found) = self.record_at(0)? {
            return Ok(Some(self.take(0, found)));
        }
        if !self.passes_damage {
            return Ok(None);
        }
        // Where its length is believable and leads to a record, that is the next one: what is within it is not
        // looked at.
        if self.fill(5)?
            && let Some(total) = record_bytes(&self.window)
            && let Some(found) = self.record_at(total as usize)?
        {
            self.passed_bytes += total;
            return Ok(Some(self.take(total as usize, found)));
        }
        let mut skipped = 1;
        while self.fill(skipped + 1)? {
            if let Some(found) = self.record_at(skipped)? {
                let scanned = self.take(skipped, found);
                self.passed_bytes += scanned.offset - begin;
                return Ok(Some(scanned));
            }
            skipped += 1;
            if skipped > READ_BYTES {
                self.window.drain(..skipped);
                self.offset += skipped as u64;
                skipped = 0;
            }
        }
        // Nothing but damage to the end: the last record was the one before it.
        self.offset = begin;
        self.window.clear();
        Ok(None)
    }

    fn take(&mut self, skipped: usize, record: Record) -> Scanned {
        let offset = self.offset + skipped as u64;
        let end = skipped + record.as_bytes().len();
        self.window.drain(..end);
        self.offset += end as u64;
        Scanned { offset, record }
    }

    /// The record so far behind the beginning of the window.
    fn record_at(&mut self, place: usize) -> io::Result<Option<Record>> {
        if !self.fill(place + 5)? {
            return Ok(None);
        }
        let Some(total) = record_bytes(&self.window[place..]) else { return Ok(None) };
        match self.fill(place + total as usize)? {
            true => Ok(Record::decode(&self.window[place..])),
            false => Ok(None),
        }
    }

    /// Whether there are so many bytes from the beginning of the window on.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.window.len() < bytes {
            let have = self.window.len();
            resize_zeroed(&mut self.window, have + READ_BYTES.max(bytes - have));
            let read = self.file.read_at(&mut self.window[have..], self.offset + have as u64);
            self.window.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => drop(read?),
            }
        }
        Ok(true)
    }
}

/// Whether the file begins as this pack does.
pub fn has_header(path: &Path, vault: VaultId, number: u32) -> io::Result<bool> {
    let mut bytes = [0; PACK_HEADER_BYTES];
    match File::open(path)?.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| bytes[..] == encode_pack_header(vault, number)[..]),
    }
}
