//! The bytes of one file: written once while their sums are taken, and read back. Nothing else of the
//! store touches contents, so that sealing at rest can stand here, between the bytes and the disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::durable::NewFile;
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::crypto::{ContentHasher, ContentSums};

/// What is hashed, summed and written at a time: small enough to stay in the processor's cache meanwhile.
const PIECE_BYTES: usize = 64 * 1024;

/// The encoding of a content's sums on the disk: size u64, CRC32 u32, BLAKE3.
pub fn encode_sums(sums: &ContentSums, out: &mut Vec<u8>) {
    out.put_u64(sums.size);
    out.put_u32(sums.crc32);
    out.put_bytes(&sums.blake3);
}

pub fn decode_sums(reader: &mut Reader<'_>) -> Result<ContentSums, DecodeError> {
    let size = reader.u64("content size")?;
    let crc32 = reader.u32("content CRC32")?;
    Ok(ContentSums { size, crc32, blake3: reader.array("content BLAKE3")? })
}

/// Writes a content for the first time.
#[derive(Debug)]
pub struct ContentWriter {
    file: NewFile,
    summer: ContentHasher,
}

impl ContentWriter {
    pub fn new(file: NewFile) -> ContentWriter {
        ContentWriter { file, summer: ContentHasher::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.summer.update(piece);
            self.file.write(piece)?;
        }
        Ok(())
    }

    /// The sums of what was written. Durable only once the commit has flushed it.
    pub fn finish(self) -> ContentSums {
        self.summer.finish()
    }
}

/// Reads a content back: exactly as many bytes as were recorded, or an error.
#[derive(Debug)]
pub struct ContentReader {
    file: File,
    sums: ContentSums,
    position: u64,
}

impl ContentReader {
    pub(crate) fn new(file: File, sums: ContentSums) -> ContentReader {
        ContentReader { file, sums, position: 0 }
    }

    /// What was recorded when the content was stored; not yet compared with what is read.
    pub fn sums(&self) -> ContentSums {
        self.sums
    }

    /// Goes on reading at `offset`; past the end there is nothing to read.
    pub fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        self.position = offset.min(self.sums.size);
        self.file.seek(SeekFrom::Start(self.position))?;
        Ok(())
    }

    /// Reads all of it and compares it with what was recorded.
    pub fn verify(mut self) -> Result<(), ContentProblem> {
        self.seek_to(0).map_err(ContentProblem::Unreadable)?;
        let length = self.file.metadata().map_err(ContentProblem::Unreadable)?.len();
        if length != self.sums.size {
            return Err(ContentProblem::Size { recorded: self.sums.size, found: length });
        }
        let mut summer = ContentHasher::new();
        let mut buffer = vec![0; CONTENT_CHUNK_BYTES];
        loop {
            match self.read(&mut buffer).map_err(ContentProblem::Unreadable)? {
                0 => break,
                count => summer.update(&buffer[..count]),
            }
        }
        if summer.finish() == self.sums { Ok(()) } else { Err(ContentProblem::Sums) }
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.sums.size - self.position;
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buffer[..wanted])?;
        if count == 0 {
            let problem = format!("the stored content ends {left} bytes before its recorded end");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// What is wrong with a stored content.
#[derive(Debug)]
pub enum ContentProblem {
    Missing,
    Unreadable(io::Error),
    Size { recorded: u64, found: u64 },
    Sums,
}

impl std::fmt::Display for ContentProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContentProblem::Missing => f.write_str("the stored content is gone"),
            ContentProblem::Unreadable(error) => write!(f, "the stored content cannot be read: {error}"),
            ContentProblem::Size { recorded, found } => {
                write!(f, "{recorded} bytes were stored and {found} are there")
            }
            ContentProblem::Sums => f.write_str("the stored content does not have its recorded checksums"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8], sums: ContentSums) -> ContentReader {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        ContentReader::new(file, sums)
    }

    #[test]
    fn a_content_is_read_from_any_offset_and_never_past_its_recorded_end() {
        let mut reader = reader(b"0123456789 and more", ContentSums::of(b"0123456789"));
        reader.seek_to(7).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "789");
        reader.seek_to(99).unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn damage_is_told_by_size_and_by_sums() {
        let sums = ContentSums::of(b"0123456789");
        reader(b"0123456789", sums).verify().unwrap();
        assert!(matches!(reader(b"0123456780", sums).verify(), Err(ContentProblem::Sums)));
        let short = reader(b"012", sums).verify();
        assert!(matches!(short, Err(ContentProblem::Size { recorded: 10, found: 3 })));
        let mut cut = reader(b"012", sums);
        assert_eq!(cut.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
