//! Bytes of a peer that have to wait in an upload's folder until it is known what becomes of them. Nothing of it
//! outlives the upload.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::{At, StoreError};
use crate::base::durable::{Disk, NewFile};

/// A file that only grows, and is read anywhere.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    written: NewFile,
    reading: File,
}

impl Spool {
    /// Makes the file `name` in `folder`, which lies at `path`.
    pub(super) fn create(
        disk: &Disk,
        folder: BorrowedFd<'_>,
        path: &Path,
        name: &[u8],
    ) -> Result<Spool, StoreError> {
        let written = disk.create_file(folder, name).at("create a file below", path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reading = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(std::io::Error::from);
        Ok(Spool { path: path.to_path_buf(), written, reading: File::from(reading.at("open a file below", path)?) })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.written.bytes()
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.written.write(bytes).at("write a file below", &self.path)
    }

    /// Forgets what lies behind the first `bytes`.
    pub fn cut_back(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.written.cut_back(bytes).at("cut a file below", &self.path)
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.reading.read_exact_at(buffer, offset).at("read a file below", &self.path)
    }
}
