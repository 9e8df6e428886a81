//! Right bytes written over damaged ones, in the place where they lie. Of a sealed file a whole segment is written, so
//! that what is damaged of it has to be covered whole before anything is: bytes that nobody knows are never made up.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::keyring::FileKeyring;
use super::reader::{read_end, shape};
use super::{SEGMENT, slot_start, unsealable};
use crate::base::durable::Disk;
use crate::crypto::sealed_file::{SEALED_SEGMENT_BYTES, SEALED_SLOT_BYTES, SEALED_TEXT_START};
use crate::crypto::{SealedForm, SealedKeys};

/// A file that is being mended; the parts come in rising order.
#[derive(Debug)]
pub struct Mender {
    disk: Disk,
    file: File,
    name: Box<[u8]>,
    sealed: Option<Sealed>,
}

#[derive(Debug)]
struct Sealed {
    keys: SealedKeys,
    segments: u64,
    length: u64,
    /// What the end holds; none where it is damaged.
    rest: Option<Vec<u8>>,
    patch: Option<Patch>,
}

/// A segment, or the end, that is about to be written.
#[derive(Debug)]
struct Patch {
    segment: u64,
    text: Vec<u8>,
    /// What of it is known.
    known: Range<usize>,
    /// What lies there, where it verifies.
    before: Option<Vec<u8>>,
}

impl Mender {
    /// `file` is open for reading and writing.
    pub fn open(disk: &Disk, file: File, name: &[u8], keyring: &FileKeyring) -> io::Result<Mender> {
        let sealed = match keyring.open(&file, SealedForm::Segments)? {
            None => None,
            Some((_, keys)) => Some(Sealed::open(&file, keys)?),
        };
        Ok(Mender { disk: disk.clone(), file, name: name.into(), sealed })
    }

    /// Bytes of plaintext; as far as a damaged end lets it be told.
    pub fn length(&self) -> io::Result<u64> {
        match &self.sealed {
            None => Ok(self.file.metadata()?.len()),
            Some(sealed) => Ok(sealed.length),
        }
    }

    /// Writes over what lies at `offset`.
    pub fn mend(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(sealed) = &mut self.sealed else {
            return self.disk.overwrite(&self.file, &self.name, offset, bytes);
        };
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let (segment, within) = (offset / SEGMENT, (offset % SEGMENT) as usize);
            let (part, left) = bytes.split_at(bytes.len().min(SEALED_SEGMENT_BYTES - within));
            if sealed.patch.as_ref().is_none_or(|patch| patch.segment != segment) {
                sealed.write_patch(&self.disk, &self.file, &self.name)?;
                sealed.patch = Some(sealed.begin_patch(&self.file, segment)?);
            }
            let patch = sealed.patch.as_mut().expect("begun just now");
            patch.put(within, part)?;
            offset += part.len() as u64;
            bytes = left;
        }
        Ok(())
    }

    /// Writes what is still to be written, and waits until all is on the disk.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(sealed) = &mut self.sealed {
            sealed.write_patch(&self.disk, &self.file, &self.name)?;
            // An end that holds nothing can be made anew.
            if sealed.rest.is_none() && sealed.length == sealed.segments * SEGMENT {
                sealed.write_end(&self.disk, &self.file, &self.name, &[])?;
            }
        }
        self.disk.flush_file(self.file.as_fd(), &self.name)
    }
}

impl Sealed {
    fn open(file: &File, keys: SealedKeys) -> io::Result<Sealed> {
        let file_bytes = file.metadata()?.len();
        match read_end(file, &keys, file_bytes) {
            Ok((segments, rest)) => {
                let length = segments * SEGMENT + rest.len() as u64;
                Ok(Sealed { keys, segments, length, rest: Some(rest), patch: None })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let (segments, end) = shape(file_bytes).ok_or(error)?;
                let mut total = [0; 8];
                file.read_exact_at(&mut total, slot_start(segments) + end as u64 - 40)?;
                let (total, whole) = (u64::from_le_bytes(total), segments * SEGMENT);
                let fits = total >= whole && (total - whole).next_multiple_of(16) == end as u64 - 56;
                // Where it contradicts the length of the file, only an end without anything in it can be made anew.
                let length = if fits { total } else { whole };
                let sealed = Sealed { keys, segments, length, rest: None, patch: None };
                if fits || end == 56 { Ok(sealed) } else { Err(unsealable("the end of the sealed file is lost")) }
            }
            Err(error) => Err(error),
        }
    }

    fn begin_patch(&self, file: &File, segment: u64) -> io::Result<Patch> {
        if segment == self.segments {
            let bytes = (self.length - segment * SEGMENT) as usize;
            let text = self.rest.clone().unwrap_or_else(|| vec![0; bytes]);
            return Ok(Patch::new(segment, text, self.rest.is_some()));
        }
        let mut slot = vec![0; SEALED_SLOT_BYTES];
        file.read_exact_at(&mut slot, slot_start(segment))?;
        let is_known = self.keys.open_segment(&mut slot, segment).is_ok();
        let text = slot[SEALED_TEXT_START..SEALED_TEXT_START + SEALED_SEGMENT_BYTES].to_vec();
        Ok(Patch::new(segment, text, is_known))
    }

    fn write_patch(&mut self, disk: &Disk, file: &File, name: &[u8]) -> io::Result<()> {
        let Some(Patch { segment, text, known, before }) = self.patch.take() else { return Ok(()) };
        // What is right already is not put at risk.
        if before.as_ref() == Some(&text) {
            return Ok(());
        }
        if known != (0..text.len()) {
            return Err(unsealable("a damaged segment of it holds other bytes as well, which are lost"));
        }
        if segment == self.segments {
            return self.write_end(disk, file, name, &text);
        }
        let mut slot = vec![0; SEALED_SLOT_BYTES];
        slot[SEALED_TEXT_START..SEALED_TEXT_START + SEALED_SEGMENT_BYTES].copy_from_slice(&text);
        self.keys.seal_segments(&mut slot, segment);
        disk.overwrite(file, name, slot_start(segment), &slot)
    }

    fn write_end(&mut self, disk: &Disk, file: &File, name: &[u8], rest: &[u8]) -> io::Result<()> {
        let mut end = Vec::new();
        self.keys.seal_end(self.segments, rest, &mut end);
        self.rest = Some(rest.to_vec());
        disk.overwrite(file, name, slot_start(self.segments), &end)
    }
}

impl Patch {
    fn new(segment: u64, text: Vec<u8>, is_known: bool) -> Patch {
        let known = if is_known { 0..text.len() } else { 0..0 };
        Patch { segment, known, before: is_known.then(|| text.clone()), text }
    }

    fn put(&mut self, start: usize, bytes: &[u8]) -> io::Result<()> {
        let end = start + bytes.len();
        let Some(room) = self.text.get_mut(start..end) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        room.copy_from_slice(bytes);
        if self.known.is_empty() {
            self.known = start..end;
        } else if start <= self.known.end && end >= self.known.start {
            self.known = self.known.start.min(start)..self.known.end.max(end);
        }
        Ok(())
    }
}
