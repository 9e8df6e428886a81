//! Every write to the disk that must be there after a crash goes through here. [`Disk`] names the few
//! operations that durable code is made of (create, write, flush, rename, remove), counts them, and can
//! be told to record them or to stop at one of them, so that a test can cut the power at every point.
//!
//! **A name is visible only when what it names is whole.** Files are written under another name, flushed,
//! and then renamed; a rename is there after a crash once its folder has been flushed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::folder::open_folder;
use super::ids::{hex, random_array};
use super::limits::WRITEBACK_BYTES;

/// How names of unfinished files begin; what bears such a name may be removed whenever nobody writes.
pub const TEMPORARY_PREFIX: &str = ".tmp-";
/// Files hold other people's data: only the owner may read them.
pub const FILE_MODE: u32 = 0o600;
pub const FOLDER_MODE: u32 = 0o700;

/// What the disk is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    CreateFile,
    MakeFolder,
    Write,
    FlushFile,
    FlushFolder,
    /// Everything written to the file system so far (`syncfs`).
    FlushAll,
    Rename,
    RemoveFile,
    RemoveFolder,
    /// Giving back a part of a file.
    PunchHole,
}

const OPERATION_KINDS: usize = OperationKind::PunchHole as usize + 1;

/// One recorded operation; a rename is named by where it led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub kind: OperationKind,
    pub name: String,
}

/// The way to the disk. Cheap to clone; clones share counters, record and stop.
#[derive(Debug, Clone)]
pub struct Disk {
    state: Arc<DiskState>,
}

#[derive(Debug)]
struct DiskState {
    counts: [AtomicU64; OPERATION_KINDS],
    begun: AtomicU64,
    /// The operations (counted from 0) that fail; none on a real disk.
    failing: Range<u64>,
    record: Option<Mutex<Vec<Operation>>>,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk::real()
    }
}

impl Disk {
    pub fn real() -> Disk {
        Disk::with(0..0, None)
    }

    /// Records what it does, in order: for tests.
    pub fn recording() -> Disk {
        Disk::with(0..0, Some(Mutex::default()))
    }

    /// Does `operations` operations and fails at every one after them, as if the machine had stopped
    /// there: for tests.
    pub fn stopping_after(operations: u64) -> Disk {
        Disk::with(operations..u64::MAX, None)
    }

    /// Fails at the operation after the first `operations` and at no other: for tests.
    pub fn failing_once_after(operations: u64) -> Disk {
        Disk::with(operations..operations + 1, None)
    }

    /// Fails at these operations, counted from 0, and at no other: for tests.
    pub fn failing_at(operations: Range<u64>) -> Disk {
        Disk::with(operations, None)
    }

    fn with(failing: Range<u64>, record: Option<Mutex<Vec<Operation>>>) -> Disk {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Disk { state: Arc::new(DiskState { counts, begun: AtomicU64::new(0), failing, record }) }
    }

    /// How many operations of this kind were begun.
    pub fn count(&self, kind: OperationKind) -> u64 {
        self.state.counts[kind as usize].load(Ordering::Relaxed)
    }

    /// How many operations of every kind were begun.
    pub fn operations(&self) -> u64 {
        self.state.begun.load(Ordering::Relaxed)
    }

    /// Takes the record kept so far; empty unless made by [`Disk::recording`].
    pub fn take_record(&self) -> Vec<Operation> {
        let record = self.state.record.as_ref();
        record
            .map(|list| std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }

    fn begin(&self, kind: OperationKind, name: &[u8]) -> io::Result<()> {
        let number = self.state.begun.fetch_add(1, Ordering::Relaxed);
        self.state.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        if self.state.failing.contains(&number) {
            return Err(io::Error::other("a test asked for this failure"));
        }
        if let Some(record) = &self.state.record {
            let name = String::from_utf8_lossy(name).into_owned();
            record.lock().unwrap_or_else(PoisonError::into_inner).push(Operation { kind, name });
        }
        Ok(())
    }

    /// Makes a new file, 0600. What already has the name, a link included, is an error.
    pub fn create_file(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<NewFile> {
        self.begin(OperationKind::CreateFile, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        Ok(NewFile { disk: self.clone(), file: File::from(file), name: name.into(), written: 0, in_writeback: 0 })
    }

    /// Opens a file of ours again to append to it, cut off behind its first `length` bytes.
    pub fn reopen_file(&self, folder: BorrowedFd<'_>, name: &[u8], length: u64) -> io::Result<NewFile> {
        self.begin(OperationKind::CreateFile, name)?;
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
        file.set_len(length)?;
        Ok(NewFile { disk: self.clone(), file, name: name.into(), written: length, in_writeback: length })
    }

    /// Makes a folder, 0700.
    pub fn make_folder(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::MakeFolder, name)?;
        Ok(rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(FOLDER_MODE))?)
    }

    /// Makes a folder unless something has the name already.
    pub fn make_folder_if_missing(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        if exists(folder, name)? {
            return Ok(());
        }
        match self.make_folder(folder, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// Waits until a file's content has reached the disk. Its name has only when its folder is flushed.
    pub fn flush_file(&self, file: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::FlushFile, name)?;
        Ok(rustix::fs::fsync(file)?)
    }

    /// Waits until the names in a folder have reached the disk. `name` is for the record only.
    pub fn flush_folder(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::FlushFolder, name)?;
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Waits until everything on the file system of `anchor` has reached the disk. Failed writes are
    /// reported only if `anchor` was opened before them, and only by Linux 5.8 or newer.
    #[cfg(target_os = "linux")]
    pub fn flush_all(&self, anchor: BorrowedFd<'_>) -> io::Result<()> {
        self.begin(OperationKind::FlushAll, b"")?;
        Ok(rustix::fs::syncfs(anchor)?)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn flush_all(&self, _anchor: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Gives a file or folder another name; what had that name is replaced.
    pub fn rename(&self, from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::Rename, new)?;
        Ok(rustix::fs::renameat(from, name, to, new)?)
    }

    pub fn remove_file(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::RemoveFile, name)?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.begin(OperationKind::RemoveFolder, name)?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    /// Gives back the room that a part of the file `name` takes: it reads as zeros from now on. False where the
    /// file system cannot.
    pub fn punch_hole(&self, folder: BorrowedFd<'_>, name: &[u8], part: Range<u64>) -> io::Result<bool> {
        self.begin(OperationKind::PunchHole, name)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        punch(file.as_fd(), part)
    }

    /// Writes over a part of the file `name`, which is there: only for bytes that are worth nothing as they are.
    pub fn overwrite(&self, file: &File, name: &[u8], offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.begin(OperationKind::Write, name)?;
        file.write_all_at(bytes, offset)
    }

    /// Cuts the file `name` off, or has it end in zeros, so that it has `bytes` bytes.
    pub fn set_length(&self, file: &File, name: &[u8], bytes: u64) -> io::Result<()> {
        self.begin(OperationKind::Write, name)?;
        file.set_len(bytes)
    }

    /// Replaces a small file whole. After a crash at any point the name holds either the old bytes or the
    /// new ones, never a mixture and never nothing that was there; when this returns, it holds the new
    /// ones. A leftover bears [`TEMPORARY_PREFIX`]. The content is flushed before the rename because a
    /// file system may otherwise write the name first; the folder after it, because until then the name
    /// may still lead to the old bytes.
    pub fn replace_file(&self, folder: BorrowedFd<'_>, name: &[u8], bytes: &[u8], mode: u32) -> io::Result<()> {
        let temporary = temporary_name();
        let written = self.write_temporary(folder, &temporary, bytes, mode).and_then(|()| {
            self.rename(folder, &temporary, folder, name)?;
            self.flush_folder(folder, name)
        });
        if written.is_err() {
            // Nothing more can be done about a leftover; whoever sweeps the folder next removes it.
            let _ = self.remove_file(folder, &temporary);
        }
        written
    }

    /// Replaces a small file that may be lost or old after a stop of the machine: a cache. It is whole or not
    /// there all the same.
    pub fn replace_cache(&self, folder: BorrowedFd<'_>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        let temporary = temporary_name();
        let mut file = self.create_file(folder, &temporary)?;
        let written = file.write(bytes).and_then(|()| self.rename(folder, &temporary, folder, name));
        if written.is_err() {
            let _ = self.remove_file(folder, &temporary);
        }
        written
    }

    fn write_temporary(&self, folder: BorrowedFd<'_>, name: &[u8], bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create_file(folder, name)?;
        // The mode is set on the open file, since the process's umask would cut the one given to open.
        rustix::fs::fchmod(&file.file, Mode::from_raw_mode(mode))?;
        file.write(bytes)?;
        file.flush()
    }
}

/// Replaces a small file whole, as [`Disk::replace_file`] does, for callers outside the store.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open_folder(parent)?;
    Disk::real().replace_file(folder.as_fd(), name.as_bytes(), bytes, mode)
}

/// Gives a file another name in its folder, in the place of what has that name; durable when this returns.
pub fn rename_file(path: &Path, new_name: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.as_bytes();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (folder, disk) = (open_folder(parent)?, Disk::real());
    disk.rename(folder.as_fd(), name, folder.as_fd(), new_name.as_bytes())?;
    disk.flush_folder(folder.as_fd(), new_name.as_bytes())
}

/// Makes a file without a name in `folder`, 0600, for reading and writing. It is gone when it is closed, and
/// with the process; where the system knows no such file, one is made and its name removed at once.
pub fn create_unnamed_file(folder: &Path) -> io::Result<File> {
    let folder = open_folder(folder)?;
    if let Some(file) = open_unnamed(folder.as_fd()) {
        return Ok(file);
    }
    let name = temporary_name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, &name, flags, Mode::from_raw_mode(FILE_MODE))?;
    rustix::fs::unlinkat(&folder, &name, AtFlags::empty())?;
    Ok(File::from(file))
}

/// None where the file system refuses; a disk that is full says so again when a name is tried.
#[cfg(target_os = "linux")]
fn open_unnamed(folder: BorrowedFd<'_>) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::from_raw_mode(FILE_MODE)).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_unnamed(_folder: BorrowedFd<'_>) -> Option<File> {
    None
}

/// A short random name, never built from the target's, which may be too long for an addition.
pub fn temporary_name() -> Vec<u8> {
    format!("{TEMPORARY_PREFIX}{}", hex(&random_array::<6>())).into_bytes()
}

/// Whether anything has this name, a link that leads nowhere included.
pub fn exists(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file being written for the first time.
#[derive(Debug)]
pub struct NewFile {
    disk: Disk,
    file: File,
    name: Box<[u8]>,
    written: u64,
    /// Up to where the kernel has been asked to write back.
    in_writeback: u64,
}

impl NewFile {
    /// Appends. Every 16 MiB the kernel is asked to begin writing back, so that the flush at the end
    /// finds little left to do.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.begin(OperationKind::Write, &self.name)?;
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.in_writeback >= WRITEBACK_BYTES {
            start_writeback(&self.file, self.in_writeback, self.written - self.in_writeback);
            self.in_writeback = self.written;
        }
        Ok(())
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.read_exact_at(buffer, offset)
    }

    /// How long the file is.
    pub fn bytes(&self) -> u64 {
        self.written
    }

    /// Appends a hole: bytes that read as zeros and take no room where the file system has holes.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.begin(OperationKind::Write, &self.name)?;
        let end = self.written.checked_add(bytes).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        self.written = end;
        Ok(())
    }

    /// Takes back what was appended behind the first `bytes`.
    pub fn cut_back(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.begin(OperationKind::Write, &self.name)?;
        self.file.set_len(bytes)?;
        self.file.seek(SeekFrom::Start(bytes))?;
        self.written = bytes;
        self.in_writeback = self.in_writeback.min(bytes);
        Ok(())
    }

    pub fn flush(&self) -> io::Result<()> {
        self.disk.flush_file(self.file.as_fd(), &self.name)
    }
}

#[cfg(target_os = "linux")]
fn punch(file: BorrowedFd<'_>, part: Range<u64>) -> io::Result<bool> {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, part.start, part.end - part.start) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: BorrowedFd<'_>, _part: Range<u64>) -> io::Result<bool> {
    Ok(false)
}

/// Asks the kernel to begin writing part of a file back. A hint: nothing depends on it, so its failure is
/// not looked at.
#[cfg(target_os = "linux")]
fn start_writeback(file: &File, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return };
    // SAFETY: the call takes three numbers and a descriptor that `file` keeps open throughout; it touches
    // no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_writeback(_file: &File, _offset: u64, _bytes: u64) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_holds_the_new_bytes_and_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        replace_file(&path, b"old", 0o644).unwrap();
        replace_file(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replacement_that_stops_anywhere_leaves_the_old_bytes_or_the_new() {
        for stop in 0..6 {
            let folder = tempfile::tempdir().unwrap();
            let handle = open_folder(folder.path()).unwrap();
            Disk::real().replace_file(handle.as_fd(), b"key", b"old", 0o600).unwrap();
            let result = Disk::stopping_after(stop).replace_file(handle.as_fd(), b"key", b"new", 0o600);
            let bytes = std::fs::read(folder.path().join("key")).unwrap();
            assert_eq!(bytes, if stop >= 4 { b"new" } else { b"old" });
            assert_eq!(result.is_ok(), stop >= 5, "stopped after {stop}");
        }
    }

    #[test]
    fn a_replacement_flushes_the_content_before_the_name_and_the_name_after() {
        use OperationKind::*;
        let folder = tempfile::tempdir().unwrap();
        let handle = open_folder(folder.path()).unwrap();
        let disk = Disk::recording();
        disk.replace_file(handle.as_fd(), b"key", b"new", 0o600).unwrap();
        let kinds: Vec<OperationKind> = disk.take_record().into_iter().map(|operation| operation.kind).collect();
        assert_eq!(kinds, [CreateFile, Write, FlushFile, Rename, FlushFolder]);
        assert_eq!(disk.operations(), 5);
        assert_eq!(disk.count(Rename), 1);
    }

    #[test]
    fn a_file_without_a_name_is_private_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = create_unnamed_file(folder.path()).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(create_unnamed_file(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_new_file_has_holes_and_can_be_cut_back() {
        let folder = tempfile::tempdir().unwrap();
        let handle = open_folder(folder.path()).unwrap();
        let mut file = Disk::real().create_file(handle.as_fd(), b"name").unwrap();
        file.write(b"ab").unwrap();
        file.skip(3).unwrap();
        file.write(b"cd").unwrap();
        file.cut_back(6).unwrap();
        file.write(b"e").unwrap();
        file.skip(1).unwrap();
        assert_eq!(std::fs::read(folder.path().join("name")).unwrap(), b"ab\0\0\0ce\0");
        assert_eq!(file.bytes(), 8);
    }

    #[test]
    fn a_link_in_the_place_of_a_new_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.path().join("name")).unwrap();
        let handle = open_folder(folder.path()).unwrap();
        assert!(Disk::real().create_file(handle.as_fd(), b"name").is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }
}
