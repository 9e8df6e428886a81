//! A file of records, sealed one by one as they are written: the journal. Read from its start, it is believed up to
//! the first record that does not verify, as a plain one is up to the first that has not its checksum.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

use super::keyring::FileKeyring;
use super::{HEADER, unsealable};
use crate::base::durable::{Disk, NewFile};
use crate::base::zeros::resize_zeroed;
use crate::crypto::sealed_file::{RECORD_LENGTH_BYTES, SEALED_RECORD_BYTES_MAX};
use crate::crypto::{SealedForm, SealedHeader, SealedKeys};

const BUFFER_BYTES: usize = 64 * 1024;

/// Appends to a file of records.
#[derive(Debug)]
pub struct RecordWriter {
    file: NewFile,
    sealing: Option<Sealing>,
}

#[derive(Debug)]
struct Sealing {
    header: SealedHeader,
    keys: SealedKeys,
    /// Of the next record.
    number: u64,
}

impl RecordWriter {
    /// Makes a new file.
    pub fn create(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        name: &[u8],
        keyring: &FileKeyring,
    ) -> io::Result<RecordWriter> {
        let file = disk.create_file(folder, name)?;
        let created = keyring.create(SealedForm::Records);
        let sealing = created.map(|(header, keys)| Sealing { header, keys, number: 0 });
        Ok(RecordWriter { file, sealing })
    }

    /// Opens a file again to go on behind its first `length` bytes of plaintext.
    pub fn reopen(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        name: &[u8],
        length: u64,
        keyring: &FileKeyring,
    ) -> io::Result<RecordWriter> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reading = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
        let mut reader = RecordReader::open(reading, keyring)?;
        let Some((header, _)) = &reader.sealing else {
            let file = disk.reopen_file(folder, name, length)?;
            return Ok(RecordWriter { file, sealing: None });
        };
        let header = *header;
        let cut = reader.find(length)?;
        let file = disk.reopen_file(folder, name, cut.file_bytes)?;
        let Some((_, keys)) = reader.sealing else { return Err(unsealable("the journal is not sealed")) };
        let mut writer = RecordWriter { file, sealing: Some(Sealing { header, keys, number: cut.number }) };
        if !cut.beginning.is_empty() {
            writer.write(&cut.beginning)?;
        }
        Ok(writer)
    }

    /// Appends bytes, as a record of their own: all of them or nothing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (sealed, number) = match &self.sealing {
            None => (None, 0),
            Some(sealing) => {
                let (sealed, number) = sealing.seal(bytes, self.file.bytes() == 0);
                (Some(sealed), number)
            }
        };
        if let Err(error) = self.file.write(sealed.as_deref().unwrap_or(bytes)) {
            // Half a record would be taken for damage.
            let _ = self.file.cut_back(self.file.bytes());
            return Err(error);
        }
        if let Some(sealing) = &mut self.sealing {
            sealing.number = number;
        }
        Ok(())
    }

    pub fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sealing {
    /// The bytes of the next records, behind the header in a new file; and the number of those that follow.
    fn seal(&self, plaintext: &[u8], is_new: bool) -> (Vec<u8>, u64) {
        let (mut sealed, mut number) = (Vec::new(), self.number);
        if is_new {
            sealed.extend_from_slice(self.header.as_bytes());
        }
        for part in plaintext.chunks(SEALED_RECORD_BYTES_MAX) {
            self.keys.seal_record(number, part, &mut sealed);
            number += 1;
        }
        (sealed, number)
    }
}

/// Where a file of records is cut.
struct Cut {
    file_bytes: u64,
    /// Records before the cut.
    number: u64,
    /// Of the record that is cut through.
    beginning: Vec<u8>,
}

/// Reads the plaintext of a file of records, as far as it is to be believed.
#[derive(Debug)]
pub struct RecordReader {
    source: BufReader<File>,
    sealing: Option<(SealedHeader, SealedKeys)>,
    number: u64,
    /// Bytes of the file that have been read and verified.
    file_bytes: u64,
    record: Vec<u8>,
    /// What of the record is still to be given.
    left: Range<usize>,
    given: u64,
}

impl RecordReader {
    /// # Errors
    /// `InvalidData` where the file is not sealed as new files are.
    pub fn open(file: File, keyring: &FileKeyring) -> io::Result<RecordReader> {
        let sealing = match file.metadata()?.len() {
            0 => None,
            _ => keyring.open(&file, SealedForm::Records)?,
        };
        if sealing.as_ref().map(|(header, _)| header.key) != keyring.writing() {
            return Err(unsealable("the journal is not sealed as new files are"));
        }
        let mut source = BufReader::with_capacity(BUFFER_BYTES, file);
        let start = if sealing.is_some() { HEADER } else { 0 };
        source.seek(SeekFrom::Start(start))?;
        let (record, left) = (Vec::new(), 0..0);
        Ok(RecordReader { source, sealing, number: 0, file_bytes: start, record, left, given: 0 })
    }

    /// Whether all of the file was read and is right, and there were so many bytes of plaintext.
    pub fn ended_at(&mut self, length: u64) -> io::Result<bool> {
        let whole = io::copy(self, &mut io::sink())? == 0 && self.given == length;
        let file_bytes = self.source.get_ref().metadata()?.len();
        Ok(whole && (self.sealing.is_none() || file_bytes == self.file_bytes))
    }

    /// Opens the next record; false where there is none that is whole and right.
    fn next_record(&mut self) -> io::Result<bool> {
        let Some((_, keys)) = &self.sealing else { return Ok(false) };
        self.left = 0..0;
        self.record.resize(RECORD_LENGTH_BYTES, 0);
        if !fill(&mut self.source, &mut self.record)? {
            return Ok(false);
        }
        let length = *self.record.first_chunk().expect("just made so long");
        let Some(bytes) = SealedKeys::record_bytes(length) else { return Ok(false) };
        resize_zeroed(&mut self.record, bytes);
        if !fill(&mut self.source, &mut self.record[RECORD_LENGTH_BYTES..])? {
            return Ok(false);
        }
        let Ok(plaintext) = keys.open_record(&mut self.record, self.number) else { return Ok(false) };
        self.number += 1;
        self.file_bytes += bytes as u64;
        self.left = plaintext;
        Ok(true)
    }

    /// Reads up to `length` bytes of plaintext, and says where the file is to be cut for that.
    fn find(&mut self, length: u64) -> io::Result<Cut> {
        let mut position = 0;
        loop {
            let (number, file_bytes) = (self.number, self.file_bytes);
            if position == length || !self.next_record()? {
                return Ok(Cut { file_bytes, number, beginning: Vec::new() });
            }
            let end = position + self.left.len() as u64;
            if end > length {
                let kept = self.left.start..self.left.start + (length - position) as usize;
                return Ok(Cut { file_bytes, number, beginning: self.record[kept].to_vec() });
            }
            position = end;
        }
    }
}

impl Read for RecordReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.sealing {
            None => self.source.read(buffer)?,
            Some(_) => {
                if self.left.is_empty() && !self.next_record()? {
                    return Ok(0);
                }
                let count = buffer.len().min(self.left.len());
                buffer[..count].copy_from_slice(&self.record[self.left.start..self.left.start + count]);
                self.left.start += count;
                count
            }
        };
        self.given += count as u64;
        Ok(count)
    }
}

/// Fills the buffer; false where the source ends before.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match source.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
