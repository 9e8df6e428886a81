//! The names of one folder, sorted bytewise and held compactly: one arena, and eight bytes for each name.
//! A folder of a million names costs some 30 MB, and no allocation for each of them.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::RawDir;

/// How much of a folder one system call brings.
const READ_BYTES: usize = 64 * 1024;

/// The names of a folder, given out in order, once.
#[derive(Debug, Default)]
pub struct Listing {
    /// The names, each with its terminating NUL.
    arena: Vec<u8>,
    names: Vec<Name>,
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    /// The length with the NUL.
    length: u32,
}

/// Reads folders one after the other into a buffer that is made once.
#[derive(Debug, Default)]
pub struct FolderReader {
    buffer: Vec<u8>,
}

impl FolderReader {
    /// The names in `folder`, without `.` and `..`. What was read before an error comes with it.
    pub fn list(&mut self, folder: BorrowedFd<'_>) -> (Listing, io::Result<()>) {
        self.buffer.reserve(READ_BYTES);
        let mut listing = Listing::default();
        let mut folder = RawDir::new(folder, self.buffer.spare_capacity_mut());
        let mut read = || {
            while let Some(found) = folder.next() {
                listing.add(found?.file_name())?;
            }
            Ok(())
        };
        let outcome = read();
        listing.sort();
        (listing, outcome)
    }
}

impl Listing {
    /// The next name.
    pub fn next_name(&mut self) -> Option<&CStr> {
        let name = *self.names.get(self.next)?;
        self.next += 1;
        Some(CStr::from_bytes_with_nul(bytes_of(&self.arena, name)).expect("a name was added with its one NUL"))
    }

    /// How many names have not been given out.
    pub fn remaining(&self) -> usize {
        self.names.len() - self.next
    }

    fn add(&mut self, name: &CStr) -> io::Result<()> {
        if name == c"." || name == c".." {
            return Ok(());
        }
        let bytes = name.to_bytes_with_nul();
        let (Ok(start), Ok(length)) = (u32::try_from(self.arena.len()), u32::try_from(bytes.len())) else {
            return Err(io::Error::other("the folder has more than 4 GiB of names"));
        };
        self.arena.extend_from_slice(bytes);
        self.names.push(Name { start, length });
        Ok(())
    }

    fn sort(&mut self) {
        // The NUL sorts below every other byte, so a name stands before the names it begins.
        let arena = &self.arena;
        self.names.sort_unstable_by(|left, right| bytes_of(arena, *left).cmp(bytes_of(arena, *right)));
        self.arena.shrink_to_fit();
        self.names.shrink_to_fit();
    }
}

fn bytes_of(arena: &[u8], name: Name) -> &[u8] {
    &arena[name.start as usize..][..name.length as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_come_sorted_bytewise_and_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "a!", "B", "-rf", "\u{e9}"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let handle = std::fs::File::open(folder.path()).unwrap();
        let (mut listing, outcome) = FolderReader::default().list(handle.as_fd());
        outcome.unwrap();
        let mut names = Vec::new();
        while let Some(name) = listing.next_name() {
            names.push(String::from_utf8(name.to_bytes().to_vec()).unwrap());
        }
        assert_eq!(names, ["-rf", "B", "a", "a!", "b", "\u{e9}"]);
    }

    #[test]
    fn a_million_names_cost_less_than_40_megabytes() {
        let mut listing = Listing::default();
        for number in 0..1_000_000 {
            let name = std::ffi::CString::new(format!("photograph-{number:08}.jpeg")).unwrap();
            listing.add(&name).unwrap();
        }
        listing.sort();
        assert!(listing.arena.capacity() + listing.names.capacity() * size_of::<Name>() < 40_000_000);
    }
}
