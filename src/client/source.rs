//! Reading contents. A file is opened relative to the handle of its folder, never through a link, and is
//! checked to be a file still: what was swapped in since the walk, a FIFO included, is named and never
//! waited for. At the end the reader says whether what it read is one state of the file.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Advice, FileType, Mode, OFlags};

use super::facts::{FileFacts, cause, file_type, kind_word};
use super::given::{GivenContent, GivenFiles};
use super::page_cache::PageCache;
use super::roots::{Root, open_parent};
use crate::base::folder::{FolderStack, Missing};
use crate::base::limits::LARGE_FILE_BYTES;
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::protocol::message::content_flag;

/// How near a change must be to the reading for its time to prove nothing: file systems keep times in
/// steps of up to two seconds.
const RECHECK_SECONDS: i64 = 2;

/// Why a content cannot be read, as a reason for a person. Whoever asked knows the path.
#[derive(Debug)]
pub enum SourceError {
    PermissionDenied,
    Vanished,
    /// Something else has taken the file's place.
    NotAFile {
        what: &'static str,
    },
    /// The path lies below no root: a mistake of the caller.
    OutsideRoots,
    Io(io::Error),
}

impl fmt::Display for SourceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::PermissionDenied => write!(formatter, "permission denied"),
            SourceError::Vanished => write!(formatter, "vanished"),
            SourceError::NotAFile { what } => write!(formatter, "is now {what}"),
            SourceError::OutsideRoots => write!(formatter, "lies in none of the paths to back up"),
            SourceError::Io(error) => write!(formatter, "cannot be read: {}", cause(error)),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SourceError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> SourceError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => SourceError::PermissionDenied,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SourceError::Vanished,
            _ => SourceError::Io(error),
        }
    }
}

impl From<rustix::io::Errno> for SourceError {
    fn from(error: rustix::io::Errno) -> SourceError {
        SourceError::from(io::Error::from(error))
    }
}

/// Opens files below the roots of a backup. Cheapest in path order: the folders on the way stay open.
pub struct SourceReader {
    roots: Vec<Root>,
    /// The root that was read last, and the handles below the folder it stands in.
    current: Option<(usize, FolderStack)>,
    /// Files that are handed over instead.
    given: Option<Arc<dyn GivenFiles>>,
}

impl SourceReader {
    pub fn new(roots: &[Root]) -> SourceReader {
        SourceReader { roots: roots.to_vec(), current: None, given: None }
    }

    /// Reads what is handed over; where that is nothing, the file system below `roots`.
    pub fn of(roots: &[Root], given: Option<Arc<dyn GivenFiles>>) -> SourceReader {
        SourceReader { given, ..SourceReader::new(roots) }
    }

    /// Whether a file can be opened a second time.
    pub fn can_read_twice(&self) -> bool {
        self.given.is_none()
    }

    /// Opens the file at `path`.
    pub fn open(&mut self, path: &EntryPath) -> Result<SourceFile, SourceError> {
        if let Some(given) = &self.given {
            return given.open(path).map(SourceFile::of_given);
        }
        let index = self.root_of(path).ok_or(SourceError::OutsideRoots)?;
        let folder = below(path, &self.roots[index]).parent();
        let stack = self.stack(index)?;
        stack.enter(folder.as_ref(), Missing::Fail)?;
        SourceFile::open(stack, path.name())
    }

    /// The root that holds `path`; the one that was read last is tried first.
    fn root_of(&self, path: &EntryPath) -> Option<usize> {
        let last = self.current.as_ref().map(|(index, _)| *index);
        last.filter(|index| self.roots[*index].holds(path))
            .or_else(|| self.roots.iter().position(|root| root.holds(path)))
    }

    fn stack(&mut self, index: usize) -> io::Result<&mut FolderStack> {
        let current = match self.current.take() {
            Some((open, stack)) if open == index => (open, stack),
            _ => (index, FolderStack::below(open_parent(&self.roots[index], |_| Ok(()))?)),
        };
        Ok(&mut self.current.insert(current).1)
    }
}

/// The part of `path` below the folder that its root stands in.
fn below(path: &EntryPath, root: &Root) -> EntryPath {
    let above = root.parent().map_or(0, |parent| parent.as_bytes().len() + 1);
    EntryPath::parse(&path.as_bytes()[above..]).expect("the tail of a path, cut at a separator, is one")
}

/// A file that is being read.
#[derive(Debug)]
pub struct SourceFile {
    bytes: SourceBytes,
    bytes_read: u64,
}

#[derive(Debug)]
enum SourceBytes {
    Disk(DiskFile),
    Given(GivenContent),
}

#[derive(Debug)]
struct DiskFile {
    file: OwnedFd,
    opened: FileFacts,
    opened_at: Timestamp,
    /// Whether the file ended before its size at the opening.
    ended_early: bool,
    /// Up to where there is known to be no hole.
    data_until: u64,
    cache: PageCache,
}

/// What was read, and what that is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceEnd {
    pub bytes_read: u64,
    /// The file changed while it was read: what was read may be a state that it never had.
    pub changed: bool,
    /// Read it again next time, whatever its times say then.
    pub recheck: bool,
}

impl SourceFile {
    fn open(folder: &FolderStack, name: &[u8]) -> Result<SourceFile, SourceError> {
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder.top(), name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::LOOP) => return Err(not_a_file(FileType::Symlink)),
            // What a socket answers.
            Err(rustix::io::Errno::NXIO) => return Err(not_a_file(FileType::Socket)),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(not_a_file(file_type(&stat)));
        }
        // Only advice: a file system that takes none is read all the same.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(SourceFile::of_disk(DiskFile::new(file, FileFacts::of(&stat))))
    }

    fn of_disk(file: DiskFile) -> SourceFile {
        SourceFile { bytes: SourceBytes::Disk(file), bytes_read: 0 }
    }

    fn of_given(content: GivenContent) -> SourceFile {
        SourceFile { bytes: SourceBytes::Given(content), bytes_read: 0 }
    }

    /// The size at the opening, which is as much as will be read; 0 where it is not known.
    pub fn size(&self) -> u64 {
        match &self.bytes {
            SourceBytes::Disk(file) => file.opened.size,
            SourceBytes::Given(content) => content.size.unwrap_or(0),
        }
    }

    /// How much of it has been read or left out.
    pub fn position(&self) -> u64 {
        self.bytes_read
    }

    /// At most so much of it is still to be read.
    pub fn left(&self) -> u64 {
        match &self.bytes {
            // Read to where it says that it ends: only that tells a whole one from one that was cut off.
            SourceBytes::Given(_) => u64::MAX,
            SourceBytes::Disk(file) => file.opened.size - self.bytes_read,
        }
    }

    /// The times at the opening: modification and change.
    pub fn times(&self) -> (Timestamp, Timestamp) {
        match &self.bytes {
            SourceBytes::Disk(file) => (file.opened.mtime, file.opened.ctime),
            SourceBytes::Given(_) => (Timestamp::default(), Timestamp::default()),
        }
    }

    /// Fills `buffer` as far as the file goes; fewer bytes than it has room for mean the end. No more
    /// than the size at the opening is read: a file that grows for ever must end.
    pub fn read_into(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let room = buffer.len().min(usize::try_from(self.left()).unwrap_or(usize::MAX));
        let filled = match &mut self.bytes {
            SourceBytes::Disk(file) => file.read_into(&mut buffer[..room], self.bytes_read)?,
            SourceBytes::Given(content) => content.read_into(&mut buffer[..room])?,
        };
        self.bytes_read += filled as u64;
        Ok(filled)
    }

    /// Leaves out the hole that begins at the next byte, and gives its length: whole blocks of `block` bytes, at
    /// most `limit`, 0 where there is none or the file system does not tell.
    pub fn skip_hole(&mut self, block: u64, limit: u64) -> Result<u64, SourceError> {
        let SourceBytes::Disk(file) = &mut self.bytes else { return Ok(0) };
        let length = file.skip_hole(self.bytes_read, block, limit)?;
        self.bytes_read += length;
        Ok(length)
    }

    /// How much to read at once, at most `limit`, so that the hole behind the present data is not read: up to the
    /// border of the block of `block` bytes in which it begins. All of `limit` where no hole has been looked for.
    pub fn data_room(&self, block: u64, limit: usize) -> usize {
        let SourceBytes::Disk(file) = &self.bytes else { return limit };
        let end = file.data_until.checked_next_multiple_of(block).unwrap_or(u64::MAX);
        match end.saturating_sub(self.bytes_read) {
            0 => limit,
            data => usize::try_from(data).unwrap_or(usize::MAX).min(limit),
        }
    }

    /// Goes back to `offset`, which has been read: that and what follows is read once more.
    pub fn go_back(&mut self, offset: u64) -> Result<(), SourceError> {
        let SourceBytes::Disk(file) = &self.bytes else { return Err(SourceError::Vanished) };
        rustix::fs::seek(&file.file, rustix::fs::SeekFrom::Start(offset))?;
        self.bytes_read = offset;
        Ok(())
    }

    /// How many of its bytes are not in holes of whole blocks of `block` bytes. Reads none of them.
    pub fn data_bytes(&mut self, block: u64) -> Result<u64, SourceError> {
        let (mut data, size) = (0, self.size());
        while self.bytes_read < size {
            self.skip_hole(block, u64::MAX)?;
            let SourceBytes::Disk(file) = &self.bytes else { return Ok(size) };
            let end = file.data_until.clamp(self.bytes_read, size);
            if end == self.bytes_read {
                data += size - self.bytes_read;
                break;
            }
            data += end - self.bytes_read;
            self.bytes_read = end;
        }
        Ok(data)
    }

    /// Begins again from the start, at the size that the file has now: for a file that changed.
    pub fn restart(self) -> Result<SourceFile, SourceError> {
        let SourceBytes::Disk(DiskFile { file, .. }) = self.bytes else { return Err(SourceError::Vanished) };
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        let opened = FileFacts::of(&rustix::fs::fstat(&file)?);
        Ok(SourceFile::of_disk(DiskFile::new(file, opened)))
    }

    /// Has `read` take the file to its end; `again` from its start, where it changed meanwhile. Gives what the last reading
    /// gave, and the bits of [`content_flag`] that are to be kept with it.
    pub fn read_settled<T, E>(
        mut self,
        mut again: bool,
        mut read: impl FnMut(&mut SourceFile) -> Result<Result<T, SourceError>, E>,
    ) -> Result<Result<(T, u8), SourceError>, E> {
        loop {
            let taken = match read(&mut self)? {
                Ok(taken) => taken,
                Err(error) => return Ok(Err(error)),
            };
            let seen = match self.check() {
                Ok(seen) => seen,
                Err(error) => return Ok(Err(error)),
            };
            if !seen.changed || !again {
                let mut flags = 0;
                flags |= if seen.recheck { content_flag::RECHECK } else { 0 };
                flags |= if seen.changed { content_flag::CHANGED_WHILE_READ } else { 0 };
                return Ok(Ok((taken, flags)));
            }
            again = false;
            self = match self.restart() {
                Ok(file) => file,
                Err(error) => return Ok(Err(error)),
            };
        }
    }

    /// Looks at the file once more, after its last byte was read.
    pub fn check(&self) -> Result<SourceEnd, SourceError> {
        let bytes_read = self.bytes_read;
        let file = match &self.bytes {
            SourceBytes::Disk(file) => file,
            // Whoever hands it over has fixed it; of what has no size nothing tells whether it changes.
            SourceBytes::Given(content) => {
                let changed = content.size.is_some_and(|size| size != bytes_read);
                return Ok(SourceEnd { bytes_read, changed, recheck: changed || content.size.is_none() });
            }
        };
        file.cache.give_up(file.file.as_fd());
        let now = FileFacts::of(&rustix::fs::fstat(&file.file)?);
        let as_opened = |facts: FileFacts| (facts.size, facts.mtime, facts.ctime);
        let changed = as_opened(now) != as_opened(file.opened) || bytes_read != file.opened.size;
        let read_at = (file.opened_at, Timestamp::now());
        let recheck = changed || is_near(now.mtime, read_at) || is_near(now.ctime, read_at);
        Ok(SourceEnd { bytes_read, changed, recheck })
    }
}

impl DiskFile {
    fn new(file: OwnedFd, opened: FileFacts) -> DiskFile {
        let (opened_at, cache) = (Timestamp::now(), PageCache::default());
        DiskFile { file, opened, opened_at, ended_early: false, data_until: 0, cache }
    }

    /// Fills `buffer` with what begins at `position`, where the file stands.
    fn read_into(&mut self, buffer: &mut [u8], position: u64) -> Result<usize, SourceError> {
        if self.opened.size >= LARGE_FILE_BYTES {
            self.cache.before_reading(self.file.as_fd(), position, self.opened.size);
        }
        let mut filled = 0;
        while filled < buffer.len() && !self.ended_early {
            match rustix::io::read(self.file.as_fd(), &mut buffer[filled..]) {
                Ok(0) => self.ended_early = true,
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SourceError::Io(error.into())),
            }
        }
        Ok(filled)
    }

    /// The length of the hole at `start`; the next byte is read behind it.
    fn skip_hole(&mut self, start: u64, block: u64, limit: u64) -> Result<u64, SourceError> {
        let size = self.opened.size;
        if self.ended_early || start < self.data_until || start >= size {
            return Ok(0);
        }
        let (data, hole) = data_after(&self.file, start, size);
        let length = (data.clamp(start, size) - start).min(limit) / block * block;
        if start + length + block > data {
            self.data_until = hole;
        }
        // Asking has moved the place where the next byte is read.
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(start + length))?;
        Ok(length)
    }
}

/// Where the first byte of data at or behind `start` lies, and where the hole behind it begins. A file that has
/// become shorter has no hole to speak of.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn data_after(file: &OwnedFd, start: u64, size: u64) -> (u64, u64) {
    use rustix::fs::{SeekFrom, fstat, seek};
    match seek(file, SeekFrom::Data(start)) {
        Ok(data) => (data, seek(file, SeekFrom::Hole(data)).unwrap_or(size)),
        Err(rustix::io::Errno::NXIO) if fstat(file).is_ok_and(|stat| stat.st_size as u64 >= size) => (size, size),
        Err(_) => (start, size),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn data_after(_file: &OwnedFd, start: u64, size: u64) -> (u64, u64) {
    (start, size)
}

fn not_a_file(file_type: FileType) -> SourceError {
    SourceError::NotAFile { what: kind_word(file_type) }
}

/// Whether a time lies so near the span of reading that a later change could carry the same time.
fn is_near(time: Timestamp, (from, to): (Timestamp, Timestamp)) -> bool {
    let earliest = from.seconds.saturating_sub(RECHECK_SECONDS + 1);
    let latest = to.seconds.saturating_add(RECHECK_SECONDS + 1);
    (earliest..=latest).contains(&time.seconds)
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::*;
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    struct Fixture {
        _folder: TestFolder,
        path: PathBuf,
        reader: SourceReader,
    }

    fn fixture() -> Fixture {
        let folder = TestFolder::new();
        let path = folder.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        let reader = SourceReader::new(&roots_of(&[&folder.path()]));
        Fixture { _folder: folder, path, reader }
    }

    fn open(reader: &mut SourceReader, path: &Path) -> Result<SourceFile, SourceError> {
        reader.open(&EntryPath::parse(&path.to_str().unwrap().as_bytes()[1..]).unwrap())
    }

    fn append(path: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_file_at_rest_is_read_whole_and_a_fresh_one_again_next_time() {
        let mut fixture = fixture();
        let mut file = open(&mut fixture.reader, &fixture.path).unwrap();
        let mut buffer = [0; 7];
        assert_eq!(file.read_into(&mut buffer).unwrap(), 7);
        assert_eq!(file.read_into(&mut buffer).unwrap(), 3);
        assert_eq!(file.read_into(&mut buffer).unwrap(), 0);
        let wanted = SourceEnd { bytes_read: 10, changed: false, recheck: true };
        assert_eq!(file.check().unwrap(), wanted);
    }

    #[test]
    fn times_near_the_reading_prove_nothing() {
        let at = |seconds| Timestamp { seconds, nanoseconds: 0 };
        for (time, near) in
            [(0, false), (96, false), (98, true), (100, true), (200, true), (202, true), (204, false)]
        {
            assert_eq!(is_near(at(time), (at(100), at(200))), near, "{time}");
        }
        assert!(!is_near(at(i64::MIN), (at(100), at(i64::MAX))));
    }

    #[test]
    fn a_file_that_grows_ends_at_its_first_size_and_is_noted() {
        let mut fixture = fixture();
        let mut file = open(&mut fixture.reader, &fixture.path).unwrap();
        let mut buffer = [0; 100];
        file.read_into(&mut buffer[..4]).unwrap();
        append(&fixture.path, b"more");
        assert_eq!(file.read_into(&mut buffer).unwrap(), 6);
        let wanted = SourceEnd { bytes_read: 10, changed: true, recheck: true };
        assert_eq!(file.check().unwrap(), wanted);
        let mut file = file.restart().unwrap();
        assert_eq!(file.read_into(&mut buffer).unwrap(), 14);
        assert!(!file.check().unwrap().changed);
    }

    #[test]
    fn a_hole_is_left_out_in_whole_blocks_and_the_rest_is_read() {
        let mut fixture = fixture();
        let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
        file.set_len(3 * 65_536 + 7).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 2 * 65_536).unwrap();
        let mut file = open(&mut fixture.reader, &fixture.path).unwrap();
        let mut buffer = vec![1; 65_536];
        let (mut read, mut skipped) = (Vec::new(), 0);
        loop {
            let hole = file.skip_hole(65_536, u64::MAX).unwrap();
            read.resize(read.len() + hole as usize, 0);
            skipped += hole;
            match file.read_into(&mut buffer).unwrap() {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(read, std::fs::read(&fixture.path).unwrap());
        assert!(skipped == 0 || skipped == 65_536, "{skipped}");
        assert!(!file.check().unwrap().changed);
    }

    #[test]
    fn a_file_that_shrinks_ends_early_and_is_noted() {
        let mut fixture = fixture();
        let mut file = open(&mut fixture.reader, &fixture.path).unwrap();
        OpenOptions::new().write(true).open(&fixture.path).unwrap().set_len(4).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(file.read_into(&mut buffer).unwrap(), 4);
        assert_eq!(file.read_into(&mut buffer).unwrap(), 0);
        let wanted = SourceEnd { bytes_read: 4, changed: true, recheck: true };
        assert_eq!(file.check().unwrap(), wanted);
    }

    #[test]
    fn what_took_the_files_place_is_named() {
        let mut fixture = fixture();
        let path = fixture.path.clone();
        let message = |reader: &mut SourceReader| open(reader, &path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(message(&mut fixture.reader), "vanished");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(message(&mut fixture.reader), "is now a folder");
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(message(&mut fixture.reader), "is now a link");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        assert_eq!(message(&mut fixture.reader), "is now a FIFO");
        std::fs::remove_file(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(message(&mut fixture.reader), "is now a socket");
    }

    #[test]
    fn a_folder_swapped_for_a_link_leads_nowhere() {
        let folder = TestFolder::new();
        let path = folder.path();
        std::fs::create_dir_all(path.join("root/inner")).unwrap();
        std::fs::create_dir(path.join("secret")).unwrap();
        std::fs::write(path.join("secret/x"), "").unwrap();
        let mut reader = SourceReader::new(&roots_of(&[&path.join("root")]));
        std::fs::remove_dir(path.join("root/inner")).unwrap();
        std::os::unix::fs::symlink("../secret", path.join("root/inner")).unwrap();
        assert_eq!(open(&mut reader, &path.join("root/inner/x")).unwrap_err().to_string(), "vanished");
        let outside = open(&mut reader, &path.join("secret/x")).unwrap_err().to_string();
        assert_eq!(outside, "lies in none of the paths to back up");
    }

    #[test]
    fn a_file_that_may_not_be_read_is_named() {
        without_root(|| {
            let mut fixture = fixture();
            set_mode(&fixture.path, 0o200);
            let error = open(&mut fixture.reader, &fixture.path).unwrap_err();
            assert_eq!(error.to_string(), "permission denied");
        });
    }
}
