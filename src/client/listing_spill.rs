//! Names that are too many for memory, sorted in files without a name in the state folder.
//!
//! There are two. Runs of the folder that is being read are appended to one of them; merged, they are
//! appended to the other, where the listings of all folders on the way down lie one behind the other. As the
//! newest is always the first to be given back, its file shrinks again from its end. A name ends with a NUL.
//! The files are gone with the process, whatever becomes of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::facts::cause;
use super::listing::ListingLimits;
use super::name_run::NameRun;
use crate::base::durable::create_unnamed_file;
use crate::base::path::display_bytes;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 64 * 1024;
/// The longest name that any system gives: the length of a directory record is 16 bits.
const NAME_BYTES_MAX: usize = 64 * 1024;

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    start: u64,
    end: u64,
}

impl Extent {
    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// The names that are not in memory.
#[derive(Debug)]
pub(super) struct Spill {
    state_folder: PathBuf,
    limits: ListingLimits,
    /// The sorted runs of the folder that is being read.
    runs: Vec<Extent>,
    run_file: SpillFile,
    /// The listings that are open, one behind the other.
    listing_file: SpillFile,
    /// A part of `listing_file`, of whichever listing was last asked.
    window: Window,
}

impl Spill {
    pub(super) fn new(state_folder: PathBuf, limits: ListingLimits) -> Spill {
        Spill {
            state_folder,
            limits,
            runs: Vec::new(),
            run_file: SpillFile::default(),
            listing_file: SpillFile::default(),
            window: Window::default(),
        }
    }

    pub(super) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Writes a run, which is sorted.
    pub(super) fn add_run(&mut self, run: &NameRun) -> io::Result<()> {
        let written = self.run_file.append(&self.state_folder, |out| run.iter().try_for_each(|name| out.put(name)));
        let extent = written.map_err(|error| self.explained(&error))?;
        self.runs.push(extent);
        Ok(())
    }

    /// Merges all runs into a listing, and forgets them.
    pub(super) fn merge_runs(&mut self) -> io::Result<Extent> {
        let merged = self.try_merge_runs().map_err(|error| self.explained(&error));
        self.drop_runs();
        merged
    }

    fn try_merge_runs(&mut self) -> io::Result<Extent> {
        let folder = &self.state_folder;
        while self.runs.len() > self.limits.merged_runs {
            let source = self.run_file.handle()?.try_clone()?;
            let mut merged = Vec::new();
            for group in self.runs.chunks(self.limits.merged_runs) {
                merged.push(self.run_file.append(folder, |out| merge(&source, group, self.limits, out))?);
            }
            self.runs = merged;
        }
        let source = self.run_file.handle()?;
        self.listing_file.append(folder, |out| merge(source, &self.runs, self.limits, out))
    }

    /// Forgets what has been read of a folder.
    pub(super) fn drop_runs(&mut self) {
        self.runs.clear();
        self.run_file.truncate(0);
    }

    /// Takes the next name, with its NUL, from what is left of a listing.
    pub(super) fn next_name(&mut self, left: &mut Extent) -> io::Result<Option<&[u8]>> {
        let Spill { state_folder, limits, listing_file, window, .. } = self;
        let next = listing_file.handle().and_then(|file| window.next_name(file, left, limits.window_bytes));
        next.map_err(|error| explained(state_folder, &error))
    }

    /// Frees the space of the newest listing.
    pub(super) fn give_back(&mut self, listing: Extent) {
        self.window.forget();
        self.listing_file.truncate(listing.start);
    }

    fn explained(&self, error: &io::Error) -> io::Error {
        explained(&self.state_folder, error)
    }
}

/// The error for a person, with the place and the next step.
fn explained(state_folder: &Path, error: &io::Error) -> io::Error {
    let folder = display_bytes(state_folder.as_os_str().as_bytes());
    let cause = match error.kind() {
        io::ErrorKind::NotFound => "it is gone".to_string(),
        _ => cause(error),
    };
    io::Error::other(format!(
        "its names are too many for memory and cannot be sorted in {folder} ({cause}): make room there, or use \
         another folder with --state"
    ))
}

/// A file without a name, made when it is first written to.
#[derive(Debug, Default)]
struct SpillFile {
    file: Option<File>,
    length: u64,
}

impl SpillFile {
    fn handle(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Appends what `write` puts out, and gives the place of it. After an error nothing of it counts.
    fn append(
        &mut self,
        folder: &Path,
        write: impl FnOnce(&mut Appender<'_>) -> io::Result<()>,
    ) -> io::Result<Extent> {
        if self.file.is_none() {
            self.file = Some(create_unnamed_file(folder)?);
        }
        let start = self.length;
        let mut out = Appender { file: self.handle()?, end: start, gathered: Vec::with_capacity(WRITE_BYTES) };
        write(&mut out)?;
        out.write()?;
        self.length = out.end;
        Ok(Extent { start, end: self.length })
    }

    /// Cuts the file. That the space stays taken does no harm: it is written over.
    fn truncate(&mut self, length: u64) {
        self.length = length;
        if let Some(file) = &self.file
            && let Err(error) = file.set_len(length)
        {
            log::debug!("a file of spilled names cannot be cut: {error}");
        }
    }
}

/// Writes names behind each other.
struct Appender<'a> {
    file: &'a File,
    end: u64,
    gathered: Vec<u8>,
}

impl Appender<'_> {
    fn put(&mut self, name: &[u8]) -> io::Result<()> {
        if self.gathered.len() + name.len() > WRITE_BYTES {
            self.write()?;
        }
        self.gathered.extend_from_slice(name);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.gathered, self.end)?;
        self.end += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

/// A part of a file in memory.
#[derive(Debug, Default)]
struct Window {
    /// Where in the file it lies.
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn forget(&mut self) {
        self.bytes.clear();
    }

    /// Takes the first name, with its NUL, from `left`; none from nothing.
    fn next_name(&mut self, file: &File, left: &mut Extent, window_bytes: usize) -> io::Result<Option<&[u8]>> {
        let mut wanted = window_bytes;
        while !left.is_empty() {
            let place = self.place_of(left.start);
            if let Some(length) = place.and_then(|place| name_length(&self.bytes[place..])) {
                let place = place.expect("it holds a name");
                left.start += length as u64;
                return Ok(Some(&self.bytes[place..place + length]));
            }
            // A name that does not end within the window needs a larger one.
            if place == Some(0) {
                wanted = self.bytes.len() * 2;
            }
            if wanted > 2 * NAME_BYTES_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            self.fill(file, left, wanted)?;
        }
        Ok(None)
    }

    fn place_of(&self, position: u64) -> Option<usize> {
        let place = usize::try_from(position.checked_sub(self.start)?).ok()?;
        (place < self.bytes.len()).then_some(place)
    }

    fn fill(&mut self, file: &File, left: &Extent, wanted: usize) -> io::Result<()> {
        let length = (left.end - left.start).min(wanted as u64) as usize;
        self.start = left.start;
        self.bytes.resize(length, 0);
        let read = file.read_exact_at(&mut self.bytes, left.start);
        if read.is_err() {
            self.forget();
        }
        read
    }
}

/// The length of the first name with its NUL; none where it does not end here.
fn name_length(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0).map(|end| end + 1)
}

/// Merges sorted runs. A name that is in two of them, because the folder changed while it was read, is put
/// out once.
fn merge(file: &File, runs: &[Extent], limits: ListingLimits, out: &mut Appender<'_>) -> io::Result<()> {
    let mut sources: Vec<(Window, Extent)> = runs.iter().map(|run| (Window::default(), run.clone())).collect();
    let mut next = |source: usize, name: &mut Vec<u8>| -> io::Result<bool> {
        let (window, left) = &mut sources[source];
        let found = window.next_name(file, left, limits.window_bytes)?;
        name.clear();
        name.extend_from_slice(found.unwrap_or_default());
        Ok(found.is_some())
    };
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for source in 0..runs.len() {
        let mut name = Vec::new();
        if next(source, &mut name)? {
            heads.push(Reverse((name, source)));
        }
    }
    let mut last = Vec::new();
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((name, source)) = &mut *head;
        if *name != last {
            out.put(name)?;
            last.clone_from(name);
        }
        if !next(*source, name)? {
            PeekMut::pop(head);
        }
    }
    Ok(())
}
