//! Folder handles for a walk in path order: one component at a time, relative to the folder above, never
//! through a link. That is what keeps every name below the root, whatever the names say and whoever swaps
//! a folder for a link meanwhile.
//!
//! At most [`FOLDER_HANDLES_MAX`] descriptors are open, however deep the tree: on the way back up, a
//! handle that was given up is opened again from the nearest one that is left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::limits::FOLDER_HANDLES_MAX;
use super::path::EntryPath;

/// What to do about a folder that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Fail,
    /// Make it, with these permission bits (less the process's umask).
    Create(u32),
}

/// Open handles from a root down to the current folder.
#[derive(Debug)]
pub struct FolderStack {
    root: OwnedFd,
    levels: Vec<Level>,
    open_handles: usize,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    handle: Option<OwnedFd>,
}

impl FolderStack {
    /// Opens the root itself, which may be reached through links: whoever named it meant it.
    pub fn open(root: &Path) -> io::Result<FolderStack> {
        Ok(FolderStack::below(open_folder(root)?))
    }

    /// A stack below a handle that is already open.
    pub fn below(root: OwnedFd) -> FolderStack {
        FolderStack { root, levels: Vec::new(), open_handles: 0 }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The handle of the folder at `path` (the root for none); what it shares with the current folder is
    /// reused.
    ///
    /// # Errors
    /// `NotFound` where a folder is missing and may not be made; `NotADirectory` or `FilesystemLoop` where
    /// something else stands in its place, a link included.
    pub fn enter(&mut self, path: Option<&EntryPath>, missing: Missing) -> io::Result<BorrowedFd<'_>> {
        let components: Vec<&[u8]> = path.map(|path| path.components().collect()).unwrap_or_default();
        let shared = self.levels.iter().zip(&components).take_while(|(level, name)| level.name == **name).count();
        self.truncate(shared);
        self.reopen_top()?;
        for name in &components[shared..] {
            self.push(name, missing)?;
        }
        Ok(self.top())
    }

    /// Goes one folder down from the current one.
    pub fn push(&mut self, name: &[u8], missing: Missing) -> io::Result<BorrowedFd<'_>> {
        let handle = open_below(self.top(), name, missing)?;
        self.levels.push(Level { name: name.to_vec(), handle: Some(handle) });
        self.open_handles += 1;
        self.give_up_oldest();
        Ok(self.top())
    }

    /// Goes back up to the folder above the current one.
    pub fn pop(&mut self) -> io::Result<BorrowedFd<'_>> {
        self.truncate(self.levels.len().saturating_sub(1));
        self.reopen_top()?;
        Ok(self.top())
    }

    /// The current folder.
    pub fn top(&self) -> BorrowedFd<'_> {
        match self.levels.last() {
            None => self.root.as_fd(),
            Some(level) => level.handle.as_ref().expect("the top level is always open").as_fd(),
        }
    }

    fn truncate(&mut self, depth: usize) {
        for level in self.levels.drain(depth..) {
            self.open_handles -= usize::from(level.handle.is_some());
        }
    }

    /// Opens the top level again if its handle was given up, from the nearest open one above.
    fn reopen_top(&mut self) -> io::Result<()> {
        let closed = self.levels.iter().rev().take_while(|level| level.handle.is_none()).count();
        for depth in self.levels.len() - closed..self.levels.len() {
            let above = match depth.checked_sub(1) {
                None => self.root.as_fd(),
                Some(above) => self.levels[above].handle.as_ref().expect("opened in this loop").as_fd(),
            };
            let handle = open_below(above, &self.levels[depth].name, Missing::Fail);
            match handle {
                Ok(handle) => self.levels[depth].handle = Some(handle),
                Err(error) => {
                    // The levels that could not be reached are no longer the current folder.
                    self.truncate(depth);
                    return Err(error);
                }
            }
            self.open_handles += 1;
            self.give_up_oldest();
        }
        Ok(())
    }

    fn give_up_oldest(&mut self) {
        if self.open_handles < FOLDER_HANDLES_MAX {
            return;
        }
        if let Some(level) = self.levels.iter_mut().find(|level| level.handle.is_some()) {
            level.handle = None;
            self.open_handles -= 1;
        }
    }
}

/// Opens a folder by its whole path, links followed.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the folder `name` directly below `folder`, never through a link.
pub fn open_below(folder: BorrowedFd<'_>, name: &[u8], missing: Missing) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty());
    let (Err(rustix::io::Errno::NOENT), Missing::Create(mode)) = (&opened, missing) else {
        return Ok(opened?);
    };
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_handles_is_walked_down_and_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut stack = FolderStack::open(folder.path()).unwrap();
        let deep = EntryPath::parse("d/".repeat(100).trim_end_matches('/').as_bytes()).unwrap();
        stack.enter(Some(&deep), Missing::Create(0o700)).unwrap();
        assert!(stack.open_handles <= FOLDER_HANDLES_MAX);
        for _ in 0..100 {
            stack.pop().unwrap();
        }
        let sibling = EntryPath::parse(b"d/d/e").unwrap();
        stack.enter(Some(&sibling), Missing::Create(0o700)).unwrap();
        assert!(folder.path().join("d/d/e").is_dir());
    }

    #[test]
    fn a_link_is_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("out")).unwrap();
        let mut stack = FolderStack::open(folder.path()).unwrap();
        let path = EntryPath::parse(b"out/tmp").unwrap();
        assert!(stack.enter(Some(&path), Missing::Create(0o700)).is_err());
    }
}
