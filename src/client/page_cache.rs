//! Leaves the host's page cache as it was found: a backup reads every changed file once, and what it reads must not push
//! out what the host's programs use.
//!
//! The kernel can be told to forget a part of a file, but not whether others want it. So each window of a large file is
//! probed before this process reads near it: where nothing of it is in memory, it is there only for the backup, and is
//! given up when the reading has left it. What was there stays. The probes lie beyond what the kernel reads ahead.
//!
//! All of this is advice. Where the kernel or the file system does not answer, everything counts as there before.

use std::os::fd::BorrowedFd;

use rustix::fs::{Advice, fadvise};

/// How much is probed and given up at a time: several times what kernels read ahead.
const WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// Places of a window that are probed.
const PROBES: u64 = 4;

/// What one file, read from its beginning to its end, leaves in memory.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    /// The window that is being read begins here; none before the first byte.
    window: Option<u64>,
    /// Nothing of this window, and of the next one, was in memory before.
    is_new: bool,
    next_is_new: bool,
}

impl PageCache {
    /// The reader is about to read at `position` of a file of `size` bytes.
    pub fn before_reading(&mut self, file: BorrowedFd<'_>, position: u64, size: u64) {
        let start = position / WINDOW_BYTES * WINDOW_BYTES;
        match self.window {
            Some(window) if start <= window => return,
            Some(window) => {
                self.give_up(file);
                let follows = start == window + WINDOW_BYTES;
                self.is_new = if follows { self.next_is_new } else { is_new(file, start, size) };
            }
            None => self.is_new = is_new(file, start, size),
        }
        self.window = Some(start);
        self.next_is_new = is_new(file, start + WINDOW_BYTES, size);
    }

    /// Gives up the window that was read last, if nobody else has it.
    pub fn give_up(&self, file: BorrowedFd<'_>) {
        if let (Some(window), true) = (self.window, self.is_new) {
            let _ = fadvise(file, window, std::num::NonZeroU64::new(WINDOW_BYTES), Advice::DontNeed);
        }
    }
}

/// Whether none of the probed places of the window at `start` is in memory.
fn is_new(file: BorrowedFd<'_>, start: u64, size: u64) -> bool {
    let length = size.saturating_sub(start).min(WINDOW_BYTES);
    length > 0 && (1..=PROBES).all(|probe| !may_be_in_memory(file, start + length * probe / PROBES - 1))
}

/// Reads a byte if that takes no disk. The kernel may begin to read it all the same: each place is probed once.
#[cfg(target_os = "linux")]
fn may_be_in_memory(file: BorrowedFd<'_>, position: u64) -> bool {
    use std::io::IoSliceMut;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], position, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::AGAIN))
}

#[cfg(not(target_os = "linux"))]
fn may_be_in_memory(_file: BorrowedFd<'_>, _position: u64) -> bool {
    true
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    const SIZE: u64 = 2 * WINDOW_BYTES + 1_000_000;

    /// A file on the disk, of which nothing is in memory; none where the file system is memory.
    fn cold_file() -> Option<File> {
        const TMPFS: u64 = 0x0102_1994;
        let mut file = tempfile::tempfile().unwrap();
        if u64::try_from(rustix::fs::fstatfs(&file).unwrap().f_type) == Ok(TMPFS) {
            return None;
        }
        (0..SIZE / 1_000_000 + 1).for_each(|_| file.write_all(&[7; 1_000_000]).unwrap());
        file.set_len(SIZE).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        Some(file)
    }

    fn read_all(file: &File) {
        let (mut cache, mut chunk) = (PageCache::default(), vec![0; 128 * 1024]);
        for position in (0..SIZE).step_by(chunk.len()) {
            cache.before_reading(file.as_fd(), position, SIZE);
            file.read_at(&mut chunk, position).unwrap();
        }
        cache.give_up(file.as_fd());
    }

    #[test]
    fn what_was_not_in_memory_is_given_up() {
        let Some(file) = cold_file() else { return };
        read_all(&file);
        assert!((0..3).all(|window| is_new(file.as_fd(), window * WINDOW_BYTES, SIZE)));
    }

    #[test]
    fn what_was_in_memory_stays_there() {
        let Some(file) = cold_file() else { return };
        let used = WINDOW_BYTES + WINDOW_BYTES / 2 - 1;
        file.read_at(&mut [0], used).unwrap();
        read_all(&file);
        assert!(may_be_in_memory(file.as_fd(), used), "somebody else uses this window");
        assert!(is_new(file.as_fd(), 0, SIZE) && is_new(file.as_fd(), 2 * WINDOW_BYTES, SIZE));
    }
}
