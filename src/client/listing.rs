//! The names of one folder in bytewise order, in memory that does not grow with the folder.
//!
//! A folder is read a run at a time. What fits one run stays in memory; a longer folder goes to
//! [`super::listing_spill`] in sorted runs, and is merged there. Several listings are open at once, one for
//! each folder on the way down, and the last one opened is the first one closed. All that are held in memory
//! together have a limit too: beyond it even a short one is spilled. So a walk holds
//! [`ListingLimits::held_bytes`] and one run at most, and two descriptors, however large and however deep
//! the tree is.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::RawDir;

use super::listing_spill::{Extent, Spill};
use super::name_run::NameRun;

/// How much of a folder one system call brings.
const READ_BYTES: usize = 64 * 1024;

/// How much is held in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListingLimits {
    /// Most names in one run.
    pub run_names: usize,
    /// Most bytes of names in one run.
    pub run_bytes: usize,
    /// Most bytes that all open listings hold together.
    pub held_bytes: usize,
    /// Most runs that are merged at once.
    pub merged_runs: usize,
    /// How much of a spilled run is read at once.
    pub window_bytes: usize,
}

impl Default for ListingLimits {
    fn default() -> ListingLimits {
        ListingLimits {
            run_names: 16_384,
            run_bytes: 2 * 1024 * 1024,
            held_bytes: 4 * 1024 * 1024,
            merged_runs: 64,
            window_bytes: 16 * 1024,
        }
    }
}

/// The names of a folder, given out in order, once, by the reader that made it.
#[derive(Debug)]
pub(super) struct Listing(Names);

#[derive(Debug)]
enum Names {
    Held { run: NameRun, next: usize },
    Spilled { all: Extent, left: Extent },
}

impl Listing {
    fn held(run: NameRun) -> Listing {
        Listing(Names::Held { run, next: 0 })
    }

    /// Whether every name has been given out.
    pub(super) fn is_empty(&self) -> bool {
        match &self.0 {
            Names::Held { run, next } => *next >= run.count(),
            Names::Spilled { left, .. } => left.is_empty(),
        }
    }
}

/// Reads folders one after the other.
#[derive(Debug)]
pub(super) struct FolderReader {
    /// What the system writes the next names to.
    buffer: Vec<u8>,
    limits: ListingLimits,
    /// What the open listings hold in memory.
    held_bytes: usize,
    spill: Spill,
}

impl FolderReader {
    /// A reader that sorts long folders in `state_folder`.
    pub(super) fn new(state_folder: PathBuf, limits: ListingLimits) -> FolderReader {
        FolderReader { buffer: Vec::new(), limits, held_bytes: 0, spill: Spill::new(state_folder, limits) }
    }

    /// The names in `folder`, without `.` and `..`. To be closed before any listing that was made earlier.
    ///
    /// Where the folder cannot be read to its end, what was read comes with the error. Where it cannot be
    /// sorted, nothing does: names in a wrong order are worse than none.
    pub(super) fn list(&mut self, folder: BorrowedFd<'_>) -> (Listing, io::Result<()>) {
        let mut run = NameRun::default();
        let listed = self.read(folder, &mut run).and_then(|outcome| Ok((self.keep(run)?, outcome)));
        listed.unwrap_or_else(|error| {
            self.spill.drop_runs();
            (Listing::held(NameRun::default()), Err(error))
        })
    }

    /// Appends the next name to `path`; false after the last one.
    pub(super) fn next_name(&mut self, listing: &mut Listing, path: &mut Vec<u8>) -> io::Result<bool> {
        let name = match &mut listing.0 {
            Names::Held { run, next } => {
                *next += 1;
                run.get(*next - 1)
            }
            Names::Spilled { left, .. } => self.spill.next_name(left)?,
        };
        // Without its NUL.
        path.extend_from_slice(name.and_then(|name| name.split_last()).map_or(&[], |(_, name)| name));
        Ok(name.is_some())
    }

    /// Gives back what the listing holds: it is the newest of those that are open.
    pub(super) fn close(&mut self, listing: Listing) {
        match listing.0 {
            Names::Held { run, .. } => self.held_bytes -= run.memory_bytes(),
            Names::Spilled { all, .. } => self.spill.give_back(all),
        }
    }

    /// Reads the folder; `run` holds what was not spilled. The inner result is that of the reading alone.
    fn read(&mut self, folder: BorrowedFd<'_>, run: &mut NameRun) -> io::Result<io::Result<()>> {
        self.buffer.reserve(READ_BYTES);
        let mut folder = RawDir::new(folder, self.buffer.spare_capacity_mut());
        while let Some(found) = folder.next() {
            let found = match found {
                Ok(found) => found,
                Err(error) => return Ok(Err(error.into())),
            };
            let name = found.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let name = name.to_bytes_with_nul();
            if run.count() >= self.limits.run_names || run.name_bytes() + name.len() > self.limits.run_bytes {
                run.sort();
                self.spill.add_run(run)?;
                run.clear();
            }
            run.add(name);
        }
        Ok(Ok(()))
    }

    /// Makes a listing of the last run and of those that were spilled before it.
    fn keep(&mut self, mut run: NameRun) -> io::Result<Listing> {
        run.sort();
        run.shrink();
        let has_room = self.held_bytes + run.memory_bytes() <= self.limits.held_bytes;
        if !self.spill.has_runs() && has_room {
            self.held_bytes += run.memory_bytes();
            return Ok(Listing::held(run));
        }
        self.spill.add_run(&run)?;
        drop(run);
        let all = self.spill.merge_runs()?;
        Ok(Listing(Names::Spilled { left: all.clone(), all }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// So small that a handful of names is spilled, and merged in several passes.
    const TINY: ListingLimits =
        ListingLimits { run_names: 3, run_bytes: 300, held_bytes: 0, merged_runs: 2, window_bytes: 2 };

    fn folder_of(names: impl IntoIterator<Item = impl AsRef<[u8]>>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(OsStr::from_bytes(name.as_ref())), "").unwrap();
        }
        folder
    }

    fn list(reader: &mut FolderReader, folder: &Path) -> (Listing, io::Result<()>) {
        reader.list(File::open(folder).unwrap().as_fd())
    }

    fn next(reader: &mut FolderReader, listing: &mut Listing) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        reader.next_name(listing, &mut name).unwrap().then_some(name)
    }

    fn names_in(reader: &mut FolderReader, folder: &Path) -> Vec<Vec<u8>> {
        let (mut listing, outcome) = list(reader, folder);
        outcome.unwrap();
        let names = std::iter::from_fn(|| next(reader, &mut listing)).collect();
        assert!(listing.is_empty());
        reader.close(listing);
        names
    }

    fn reader(limits: ListingLimits) -> (tempfile::TempDir, FolderReader) {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().to_path_buf();
        (state, FolderReader::new(path, limits))
    }

    #[test]
    fn names_come_sorted_bytewise_and_once() {
        let folder = folder_of(["b", "a", "a!", "B", "-rf", "\u{e9}"]);
        let wanted = ["-rf", "B", "a", "a!", "b", "\u{e9}"].map(|name| name.as_bytes().to_vec());
        for limits in [ListingLimits::default(), TINY] {
            let (_state, mut reader) = reader(limits);
            assert_eq!(names_in(&mut reader, folder.path()), wanted);
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(1u8), Just(0xff), Just(b'a'), any::<u8>()];
        let length = prop_oneof![20 => 1..6usize, 1 => 250..256usize];
        length.prop_flat_map(move |length| prop::collection::vec(byte.clone(), length)).prop_filter_map(
            "a name",
            |name| {
                let is_name = !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b"..";
                is_name.then_some(name)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn spilled_names_come_as_those_in_memory_do(
            names in prop::collection::btree_set(name(), 0..60),
            run_names in 1..20usize,
            run_bytes in prop_oneof![1..40usize, 200..900usize],
            held_bytes in prop_oneof![Just(0), 0..2_000usize],
            merged_runs in 2..5usize,
            window_bytes in 1..300usize,
        ) {
            let folder = folder_of(&names);
            let limits = ListingLimits { run_names, run_bytes, held_bytes, merged_runs, window_bytes };
            let (state, mut reader) = reader(limits);
            let wanted: Vec<_> = names.into_iter().collect();
            prop_assert_eq!(&names_in(&mut reader, folder.path()), &wanted);
            prop_assert_eq!(names_in(&mut reader, folder.path()), wanted);
            prop_assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn many_listings_are_open_at_once_on_two_descriptors() {
        let names: BTreeSet<Vec<u8>> = (0..50).map(|number| format!("name-{number}").into_bytes()).collect();
        let folder = folder_of(&names);
        let (state, mut reader) = reader(TINY);
        // In turns: one name of each on the way down, all the others on the way up.
        let mut open: Vec<(Listing, Vec<Vec<u8>>)> = Vec::new();
        for _ in 0..100 {
            let (mut listing, outcome) = list(&mut reader, folder.path());
            outcome.unwrap();
            let first = next(&mut reader, &mut listing).unwrap();
            open.push((listing, vec![first]));
        }
        assert_eq!(descriptors_in(state.path()), 2);
        while let Some((mut listing, mut found)) = open.pop() {
            found.extend(std::iter::from_fn(|| next(&mut reader, &mut listing)));
            assert!(found.iter().eq(&names));
            reader.close(listing);
        }
        assert_eq!(reader.held_bytes, 0);
    }

    fn descriptors_in(folder: &Path) -> usize {
        let targets = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = targets.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        targets.filter(|target| target.starts_with(folder)).count()
    }

    #[test]
    fn what_is_held_together_has_a_limit() {
        let folder = folder_of((0..200).map(|number| format!("{number}")));
        let limits = ListingLimits { held_bytes: 5_000, ..ListingLimits::default() };
        let (state, mut reader) = reader(limits);
        let open: Vec<Listing> = (0..20).map(|_| list(&mut reader, folder.path()).0).collect();
        assert!((2_500..=5_000).contains(&reader.held_bytes), "{}", reader.held_bytes);
        assert_eq!(descriptors_in(state.path()), 2);
        for mut listing in open.into_iter().rev() {
            assert_eq!(std::iter::from_fn(|| next(&mut reader, &mut listing)).count(), 200);
            reader.close(listing);
        }
        assert_eq!(reader.held_bytes, 0);
    }

    #[test]
    fn a_folder_that_cannot_be_sorted_gives_no_name_and_says_why() {
        let folder = folder_of((0..50).map(|number| format!("{number}")));
        let mut reader = FolderReader::new("/none/such".into(), TINY);
        let (mut listing, outcome) = list(&mut reader, folder.path());
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "its names are too many for memory and cannot be sorted in /none/such (it is gone): make room there, or \
             use another folder with --state"
        );
        assert_eq!(next(&mut reader, &mut listing), None);
    }

    #[test]
    fn a_name_that_was_read_twice_comes_once() {
        let (_state, mut reader) = reader(TINY);
        for names in [["a", "c", "c"], ["b", "c", "a"]] {
            let mut run = NameRun::default();
            names.iter().for_each(|name| run.add(format!("{name}\0").as_bytes()));
            run.sort();
            reader.spill.add_run(&run).unwrap();
        }
        let mut left = reader.spill.merge_runs().unwrap();
        let mut names = Vec::new();
        while let Some(name) = reader.spill.next_name(&mut left).unwrap() {
            names.push(name.to_vec());
        }
        assert_eq!(names, [b"a\0", b"b\0", b"c\0"]);
    }
}
