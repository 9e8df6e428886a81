//! Stored contents found again: below the folder of the snapshot that brought them, never through a link,
//! never outside that folder, whatever a damaged range says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::base::folder::{FolderStack, Missing, open_folder};
use crate::base::path::EntryPath;

/// Opens the plain file at `path` below `folder` for reading.
pub fn open_stored(folder: &Path, path: &EntryPath) -> io::Result<File> {
    open_with(folder, path, OFlags::RDONLY)
}

/// Opens it for writing over what is damaged in it.
pub fn open_to_mend(folder: &Path, path: &EntryPath) -> io::Result<File> {
    open_with(folder, path, OFlags::RDWR)
}

fn open_with(folder: &Path, path: &EntryPath, access: OFlags) -> io::Result<File> {
    let (root, flags) = (open_folder(folder)?, access | open_flags());
    let file = match open_at_once(root.as_fd(), path, flags) {
        Some(opened) => opened?,
        None => {
            let mut stack = FolderStack::below(root);
            let parent = stack.enter(path.parent().as_ref(), Missing::Fail)?;
            File::from(rustix::fs::openat(parent, path.name(), flags, Mode::empty())?)
        }
    };
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("something that is no file stands in its place")),
    }
}

/// Not waiting: a FIFO in the place of a file must not hold the session up.
fn open_flags() -> OFlags {
    OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// One call instead of one for each component; none where the system does not have it, or the path is too
/// long for it.
#[cfg(target_os = "linux")]
fn open_at_once(root: BorrowedFd<'_>, path: &EntryPath, flags: OFlags) -> Option<io::Result<File>> {
    use rustix::fs::ResolveFlags;
    use rustix::io::Errno;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path.as_bytes(), flags, Mode::empty(), resolve) {
        Ok(file) => Some(Ok(File::from(file))),
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG | Errno::AGAIN) => None,
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_at_once(_root: BorrowedFd<'_>, _path: &EntryPath, _flags: OFlags) -> Option<io::Result<File>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_link_nor_a_folder_is_opened_as_a_content() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/file"), b"x").unwrap();
        std::os::unix::fs::symlink("sub", folder.path().join("link")).unwrap();
        let open = |text: &str| open_stored(folder.path(), &EntryPath::parse(text.as_bytes()).unwrap());
        assert!(open("sub/file").is_ok());
        for bad in ["link", "link/file", "sub", "none"] {
            assert!(open(bad).is_err(), "{bad}");
        }
    }
}
