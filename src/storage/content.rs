//! The bytes of one content read back, whether it is a plain file or put together from stretches. (It is
//! written by `content_writer`.)

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::at_rest::StoredFile;
use super::blocks_format::{BlocksPlace, Source};
use super::blocks_reader::{ClientFiles, ContentMap, MappedContent};
use super::error::{At, StoreError};
use super::range::{Location, StoredContent};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::path::EntryPath;
use crate::crypto::{BLOCK_BYTES, BlockSum, ContentHasher, ContentSums, SumsCombiner, blocks_in};

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

/// Reads a content back: exactly as many bytes as were recorded, or an error.
#[derive(Debug)]
pub struct ContentReader {
    body: Body,
    sums: ContentSums,
    position: u64,
    /// Where the sums of its blocks lie, for a plain content that has them.
    record: Option<(ClientFiles, SnapshotId, BlocksPlace)>,
}

#[derive(Debug)]
enum Body {
    Plain(StoredFile),
    Mapped(Box<MappedContent>),
}

/// A part of a content that is all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub bytes: u64,
    /// Reads as zeros, and nothing is stored for it.
    pub is_hole: bool,
}

impl ContentReader {
    /// Opens the content of the entry at `path`.
    ///
    /// # Errors
    /// `Damaged` where the content, or what says of which stretches it is made, is gone.
    pub(crate) fn open(
        files: ClientFiles,
        path: &EntryPath,
        content: &StoredContent,
    ) -> Result<ContentReader, StoreError> {
        let (snapshot, sums) = (content.snapshot(), content.sums);
        let stored = match (&content.location, content.blocks) {
            (Location::Mapped { .. }, place) => {
                let place = place.ok_or_else(|| StoreError::out_of_place("a mapped content without a map"))?;
                let map = ContentMap::open(&files, snapshot, place)?;
                let body = Body::Mapped(Box::new(MappedContent::new(map, files, path.clone())));
                return Ok(ContentReader { body, sums, position: 0, record: None });
            }
            (Location::OwnPath { .. }, _) => None,
            (Location::StoredPath { path, .. }, _) => Some(path.clone()),
        };
        let folder = files.received(snapshot);
        match files.open(&Source::Plain { snapshot, path: stored }, path) {
            Ok(file) => {
                let length = file.length().at("look at a file below", &folder)?;
                // In a store that is sealed in part, a file that lost its header looks plain.
                if !file.is_sealed() && files.keyring().writing().is_some() && length != sums.size {
                    return Err(StoreError::damaged(
                        &folder,
                        format!("{} is neither sealed nor whole", path.display()),
                    ));
                }
                let record = content.blocks.map(|place| (files, snapshot, place));
                Ok(ContentReader { body: Body::Plain(file), sums, position: 0, record })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::damaged(&folder, format!("the stored content of {} is gone", path.display())))
            }
            Err(error) => Err(error).at("open the content of a file below", &folder),
        }
    }

    /// What was recorded when the content was stored; not yet compared with what is read.
    pub fn sums(&self) -> ContentSums {
        self.sums
    }

    /// Goes on reading at `offset`; past the end there is nothing to read.
    pub fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        self.position = offset.min(self.sums.size);
        Ok(())
    }

    /// Where the next byte is read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How much from the present position on is all data or all hole; none at the end. Holes shorter than
    /// the file system's blocks count as data.
    pub fn segment_at_position(&mut self) -> io::Result<Option<Segment>> {
        self.segment_before(self.sums.size)
    }

    /// As [`ContentReader::segment_at_position`], but looking no further than `end`.
    pub fn segment_before(&mut self, end: u64) -> io::Result<Option<Segment>> {
        let (position, size) = (self.position, self.sums.size.min(end));
        if position >= size {
            return Ok(None);
        }
        match &mut self.body {
            Body::Plain(file) => file.segment(position, size).map(Some),
            Body::Mapped(mapped) => {
                let map = mapped.map();
                let is_hole = map.stretch_at(position).map_err(io::Error::other)?.data.is_none();
                let mut end = position;
                while end < size {
                    let stretch = map.stretch_at(end).map_err(io::Error::other)?;
                    if stretch.data.is_none() != is_hole {
                        break;
                    }
                    end = stretch.end();
                }
                Ok(Some(Segment { bytes: end.min(size) - position, is_hole }))
            }
        }
    }

    /// How long the hole is that begins at the present position; none where there is data, or the end.
    pub fn hole_at_position(&mut self) -> io::Result<Option<u64>> {
        Ok(self.segment_at_position()?.filter(|segment| segment.is_hole).map(|segment| segment.bytes))
    }

    /// Reads all of it and compares it with what was recorded, and the recorded sums of its blocks too.
    pub fn verify(self) -> Result<(), ContentProblem> {
        self.verify_watched(&mut |_| true).map(drop)
    }

    /// As [`ContentReader::verify`]; `watch` is told how many bytes were read, and says whether to go on. False where
    /// it did not.
    pub fn verify_watched(mut self, watch: &mut dyn FnMut(u64) -> bool) -> Result<bool, ContentProblem> {
        self.position = 0;
        self.check_size()?;
        let mut summer = ContentHasher::new();
        let mut buffer = vec![0; CONTENT_CHUNK_BYTES];
        loop {
            match self.read(&mut buffer).map_err(ContentProblem::of_reading)? {
                0 => break,
                count if watch(count as u64) => summer.update(&buffer[..count]),
                _ => return Ok(false),
            }
        }
        if summer.finish() != self.sums {
            return Err(ContentProblem::Sums);
        }
        self.verify_blocks().map(|()| true)
    }

    fn check_size(&self) -> Result<(), ContentProblem> {
        let Body::Plain(file) = &self.body else { return Ok(()) };
        let found = file.length().map_err(ContentProblem::Unreadable)?;
        match found == self.sums.size {
            true => Ok(()),
            false => Err(ContentProblem::Size { recorded: self.sums.size, found }),
        }
    }

    /// The recorded sums of up to `count` blocks from block `first` on; fewer at the content's end, and none where none
    /// are recorded.
    pub fn block_sums(&mut self, first: u64, count: usize) -> Result<Vec<BlockSum>, StoreError> {
        let mut sums = Vec::new();
        self.with_map(|map| map.block_sums(first, count, &mut sums))?;
        Ok(sums)
    }

    /// Uses the record of the content's blocks; none where there is no such record.
    fn with_map<T>(
        &mut self,
        use_map: impl FnOnce(&mut ContentMap) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match (&mut self.body, &self.record) {
            (Body::Mapped(mapped), _) => use_map(mapped.map()).map(Some),
            (Body::Plain(_), Some((files, snapshot, place))) => {
                use_map(&mut ContentMap::open(files, *snapshot, *place)?).map(Some)
            }
            (Body::Plain(_), None) => Ok(None),
        }
    }

    /// The recorded sums are right exactly when the content's are put together from them.
    fn verify_blocks(&mut self) -> Result<(), ContentProblem> {
        let problem = ContentProblem::of_blocks;
        let summed = self.with_map(|map| {
            let mut combiner = SumsCombiner::new();
            let mapped = map.size();
            map.each_sum(0, blocks_in(mapped), |sum| {
                let left = mapped - combiner.size();
                combiner.add(sum, left.min(BLOCK_BYTES as u64) as usize);
            })?;
            Ok(combiner)
        });
        let Some(combiner) = summed.map_err(problem)? else { return Ok(()) };
        // A single block's own hash is the content's, which has been checked.
        match combiner.finish(Some(self.sums.blake3)) == Some(self.sums) {
            true => Ok(()),
            false => {
                Err(ContentProblem::Blocks { file: None, problem: "they are those of another content".to_string() })
            }
        }
    }
}

/// Where a plain file has data and where holes, as the file system tells it; one that does not know holes says
/// that all is data.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub fn plain_segment(file: &File, position: u64, size: u64) -> io::Result<Segment> {
    use rustix::fs::{SeekFrom, seek};
    let segment = |end: u64, is_hole| Segment { bytes: end.min(size) - position, is_hole };
    match seek(file, SeekFrom::Data(position)) {
        Ok(data) if data > position => Ok(segment(data, true)),
        Ok(_) => match seek(file, SeekFrom::Hole(position)) {
            Ok(hole) if hole > position => Ok(segment(hole, false)),
            _ => Ok(segment(size, false)),
        },
        // Nothing but a hole follows, unless the file is shorter than recorded: then reading says so.
        Err(rustix::io::Errno::NXIO) if file.metadata()?.len() >= size => Ok(segment(size, true)),
        Err(_) => Ok(segment(size, false)),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub fn plain_segment(_file: &File, position: u64, size: u64) -> io::Result<Segment> {
    Ok(Segment { bytes: size - position, is_hole: false })
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.sums.size - self.position;
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..wanted];
        let count = match &mut self.body {
            Body::Plain(file) => file.read_at(buffer, self.position)?,
            Body::Mapped(mapped) => mapped.read_at(buffer, self.position)?,
        };
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
    Size {
        recorded: u64,
        found: u64,
    },
    Sums,
    /// The record of its blocks: the sums, or of which stretches it is made.
    Blocks {
        /// The file with the record, where that is known.
        file: Option<PathBuf>,
        problem: String,
    },
}

impl ContentProblem {
    pub(crate) fn of_blocks(error: StoreError) -> ContentProblem {
        let file = match &error {
            StoreError::Damaged { path, .. } => Some(path.clone()),
            _ => None,
        };
        ContentProblem::Blocks { file, problem: error.to_string() }
    }

    /// Reading through a map also fails where the map is damaged, whatever the bytes are.
    fn of_reading(error: io::Error) -> ContentProblem {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
        if let Some(damaged @ StoreError::Damaged { path, .. }) = inner {
            return ContentProblem::Blocks { file: Some(path.clone()), problem: damaged.to_string() };
        }
        match error.kind() {
            io::ErrorKind::NotFound => ContentProblem::Missing,
            _ => ContentProblem::Unreadable(error),
        }
    }
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
            ContentProblem::Blocks { problem, .. } => write!(f, "the record of its blocks is unusable: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8], sums: ContentSums) -> ContentReader {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        ContentReader { body: Body::Plain(StoredFile::Plain(file)), sums, position: 0, record: None }
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
