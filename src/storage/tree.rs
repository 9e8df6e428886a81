//! A walk over a folder of the store with a bounded number of handles, however deep it is: to flush all of
//! it, or to remove it. Links are seen as files and never followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::base::durable::Disk;
use crate::base::folder::{FolderStack, Missing, open_below};

/// One step of the walk; contents come before the folder they are in.
enum Step<'a> {
    File {
        folder: BorrowedFd<'a>,
        name: &'a [u8],
        /// The path of the folder below the root, with a `/` behind it; empty for the root.
        prefix: &'a [u8],
    },
    /// All that is in this folder has been seen.
    End { folder: BorrowedFd<'a> },
    /// The walk has left the folder `name` and is back above it.
    Left { above: BorrowedFd<'a>, name: &'a [u8] },
}

/// Flushes every file and folder at and below `root`, the deepest first.
pub fn flush_tree(disk: &Disk, root: OwnedFd) -> io::Result<()> {
    walk(root, &mut |step| match step {
        Step::File { folder, name, .. } => flush_below(disk, folder, name),
        Step::End { folder } => disk.flush_folder(folder, b"received folder"),
        Step::Left { .. } => Ok(()),
    })
}

/// Flushes one file by its name.
pub fn flush_below(disk: &Disk, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    disk.flush_file(file.as_fd(), name)
}

/// Removes `name` from `parent`, with everything in it where it is a folder. What is not there is done.
pub fn remove_tree(disk: &Disk, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match open_below(parent, name, Missing::Fail) {
        Ok(folder) => {
            walk(folder, &mut |step| match step {
                Step::File { folder, name, .. } => disk.remove_file(folder, name),
                Step::End { .. } => Ok(()),
                Step::Left { above, name } => disk.remove_folder(above, name),
            })?;
            disk.remove_folder(parent, name)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR | Errno::LOOP) => disk.remove_file(parent, name),
            _ => Err(error),
        },
    }
}

/// Removes the files below `root` whose path `keeps` does not want.
pub fn sweep_files(disk: &Disk, root: OwnedFd, keeps: &dyn Fn(&[u8]) -> bool) -> io::Result<()> {
    let mut path = Vec::new();
    walk(root, &mut |step| match step {
        Step::File { folder, name, prefix } => {
            path.clear();
            path.extend_from_slice(prefix);
            path.extend_from_slice(name);
            if keeps(&path) { Ok(()) } else { disk.remove_file(folder, name) }
        }
        _ => Ok(()),
    })
}

/// Takes a file: its folder, its name, and the path of the folder below the root with a `/` behind it.
pub type EachFile<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &[u8], &[u8]) -> io::Result<()>;

/// Gives each file at and below `root` to `each`.
pub fn each_file(root: OwnedFd, each: EachFile<'_>) -> io::Result<()> {
    walk(root, &mut |step| match step {
        Step::File { folder, name, prefix } => each(folder, name, prefix),
        _ => Ok(()),
    })
}

/// A folder on the way down, and which of its subfolders are still to be entered.
struct Level {
    name: Vec<u8>,
    folders: Vec<Vec<u8>>,
}

fn walk(root: OwnedFd, visit: &mut dyn FnMut(Step<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut stack = FolderStack::below(root);
    let mut prefix = Vec::new();
    let mut levels = vec![Level { name: Vec::new(), folders: visit_files(stack.top(), &prefix, visit)? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.folders.pop() {
            prefix.extend_from_slice(&name);
            prefix.push(b'/');
            let folders = visit_files(stack.push(&name, Missing::Fail)?, &prefix, visit)?;
            levels.push(Level { name, folders });
            continue;
        }
        visit(Step::End { folder: stack.top() })?;
        let name = levels.pop().map(|level| level.name).unwrap_or_default();
        if !levels.is_empty() {
            prefix.truncate(prefix.len() - name.len() - 1);
            visit(Step::Left { above: stack.pop()?, name: &name })?;
        }
    }
    Ok(())
}

/// Visits the files directly in a folder; gives back the names of its subfolders.
fn visit_files(
    folder: BorrowedFd<'_>,
    prefix: &[u8],
    visit: &mut dyn FnMut(Step<'_>) -> io::Result<()>,
) -> io::Result<Vec<Vec<u8>>> {
    let mut folders = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match item.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            known => known,
        };
        match kind {
            FileType::Directory => folders.push(name.to_vec()),
            _ => visit(Step::File { folder, name, prefix })?,
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable::OperationKind;
    use crate::base::folder::open_folder;

    #[test]
    fn a_tree_deeper_than_the_handles_is_flushed_and_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let deep = temporary.path().join("t").join("d/".repeat(70));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), b"x").unwrap();
        std::os::unix::fs::symlink("/", temporary.path().join("t/link")).unwrap();
        std::fs::remove_file(temporary.path().join("t/link")).unwrap();
        let disk = Disk::real();
        flush_tree(&disk, open_folder(&temporary.path().join("t")).unwrap()).unwrap();
        assert_eq!((disk.count(OperationKind::FlushFile), disk.count(OperationKind::FlushFolder)), (1, 71));
        let parent = open_folder(temporary.path()).unwrap();
        remove_tree(&disk, parent.as_fd(), b"t").unwrap();
        remove_tree(&disk, parent.as_fd(), b"t").unwrap();
        assert!(!temporary.path().join("t").exists());
    }

    #[test]
    fn removal_takes_a_link_and_leaves_what_it_leads_to() {
        let temporary = tempfile::tempdir().unwrap();
        let kept = temporary.path().join("kept");
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(kept.join("f"), b"x").unwrap();
        std::fs::create_dir(temporary.path().join("t")).unwrap();
        std::os::unix::fs::symlink(&kept, temporary.path().join("t/link")).unwrap();
        let parent = open_folder(temporary.path()).unwrap();
        remove_tree(&Disk::real(), parent.as_fd(), b"t").unwrap();
        assert!(kept.join("f").exists());
    }
}
