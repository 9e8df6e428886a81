//! Bytes of a peer that have to wait in an upload's folder until it is known what becomes of them. Nothing of it
//! outlives the upload.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::at_rest::{Ending, FileKeyring, FileWriter, StoredFile};
use super::error::{At, StoreError};
use crate::base::durable::Disk;

/// A file that only grows, and is read anywhere.
#[derive(Debug)]
pub struct Spool {
    file: PathBuf,
    written: FileWriter,
    keyring: FileKeyring,
    /// What was written when it was opened can be read with it.
    reading: Option<(u64, StoredFile)>,
}

impl Spool {
    /// Makes the file `name` in `folder`, which lies at `path`.
    pub(super) fn create(
        disk: &Disk,
        keyring: FileKeyring,
        folder: BorrowedFd<'_>,
        path: &Path,
        name: &str,
    ) -> Result<Spool, StoreError> {
        let file = path.join(name);
        let written = FileWriter::create(disk, folder, name.as_bytes(), &keyring).at("create", &file)?;
        Ok(Spool { file, written, keyring, reading: None })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.written.bytes()
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.written.write(bytes).at("write", &self.file)
    }

    /// Forgets what lies behind the first `bytes`.
    pub fn cut_back(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.reading = None;
        self.written.cut_back(bytes).at("cut", &self.file)
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let end = offset + buffer.len() as u64;
        if self.reading.as_ref().is_none_or(|(known, _)| *known < end) {
            self.written.finish().at("write", &self.file)?;
            let opened =
                File::open(&self.file).and_then(|file| StoredFile::open(file, &self.keyring, Ending::Growing));
            self.reading = Some((self.written.bytes(), opened.at("open", &self.file)?));
        }
        let (_, file) = self.reading.as_mut().expect("opened just now");
        file.read_exact_at(buffer, offset).at("read", &self.file)
    }
}
