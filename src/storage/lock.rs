//! One process for each data folder: a lock on the file `lock`, which the system releases when the process
//! ends, however it ends. The file says who holds it, for the message to whoever comes second.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::{At, StoreError};
use super::layout::Layout;
use crate::base::path::display_bytes;
use crate::base::time::Timestamp;

const HOLDER_BYTES_MAX: u64 = 1_024;

/// Holds the data folder until dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
}

impl StoreLock {
    pub fn acquire(layout: &Layout) -> Result<StoreLock, StoreError> {
        let path = layout.lock();
        // Not truncated on opening: until it is ours, what it says is about the holder.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).at("open", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: layout.data().to_path_buf(), holder: read_holder(&file) });
            }
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
        }
        // On a full disk there is no room for it, and the lock holds without.
        let _ = describe(&mut file);
        Ok(StoreLock { file })
    }
}

impl Drop for StoreLock {
    /// A process that is being started has all descriptors of this one for a moment: closing ours alone would leave
    /// it with the lock until then.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Says who holds the lock: information for people, so nothing is flushed.
fn describe(file: &mut File) -> std::io::Result<()> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = arguments.next().unwrap_or_default();
    let holder =
        format!("process {} ({name} {}) since {}", std::process::id(), command.to_string_lossy(), Timestamp::now());
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(holder.as_bytes())
}

fn read_holder(file: &File) -> String {
    let mut bytes = Vec::new();
    match file.take(HOLDER_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(0) | Err(_) => "another process".to_string(),
        Ok(_) => display_bytes(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable::Disk;

    #[test]
    fn the_second_holder_is_told_who_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path(), &Disk::real()).unwrap();
        let first = StoreLock::acquire(&layout).unwrap();
        let Err(StoreError::Locked { holder, .. }) = StoreLock::acquire(&layout) else { panic!("locked twice") };
        assert!(holder.starts_with(&format!("process {} (", std::process::id())), "{holder}");
        drop(first);
        StoreLock::acquire(&layout).unwrap();
    }

    #[test]
    fn a_descriptor_that_another_process_got_does_not_hold_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path(), &Disk::real()).unwrap();
        let first = StoreLock::acquire(&layout).unwrap();
        // What a child has of its parent until it runs its own program.
        let _inherited = first.file.try_clone().unwrap();
        drop(first);
        StoreLock::acquire(&layout).unwrap();
    }
}
