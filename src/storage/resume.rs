//! An upload's folder opened to go on with, and its journal kept while it does.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use super::blocks_reader::ClientFiles;
use super::blocks_writer::{LargeFiles, Mark};
use super::error::{At, StoreError};
use super::index::IndexRecord;
use super::journal::{self, Begin, Journaled};
use super::left_behind::{LeftBehind, path_hash};
use super::range::{HASH_BYTES, StoredEntry};
use super::staging::{JOURNAL, RANGES, Staging};
use crate::base::codec::Writer;
use crate::base::durable::NewFile;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::crypto::blake3_hash;

/// How much is stored between two checkpoints, and how long a lesser amount waits for one.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// Records are gathered to so many bytes before they are written, or until they tell of so many bytes of contents:
/// what is gathered is lost with the process.
const JOURNAL_BUFFER_BYTES: usize = 16 * 1024;
const TOLD_BYTES: u64 = 128 * 1024;

/// An upload's folder, ready to go on.
pub struct Opened {
    pub snapshot: SnapshotId,
    pub left: Option<LeftBehind>,
    pub journal: JournalWriter,
    pub large: LargeFiles,
}

/// How the journal of the upload in this folder begins; none where there is none.
pub fn begin_of(upload: &Path) -> Result<Option<Begin>, StoreError> {
    let path = upload.join(std::str::from_utf8(JOURNAL).expect("an ASCII literal"));
    match File::open(&path) {
        Ok(file) => journal::read_begin(BufReader::with_capacity(256, file)).at("read", &path),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).at("open", &path),
    }
}

/// Reads what an earlier session left, if it is of any use, and begins this session's part of the journal. It is
/// of use to an upload of the same roots that is compared with the same snapshot `base`: what it names is the
/// upload's own or the base's, always. `files` is where the client's stored bytes lie.
pub fn open(
    staging: &mut Staging,
    run: &[u8; 16],
    roots: &[EntryPath],
    base: Option<SnapshotId>,
    files: ClientFiles,
) -> Result<Opened, StoreError> {
    let roots = roots_hash(roots);
    let journaled = read(staging, run)?;
    if let Some(begin) = journaled.begin.filter(|begin| (begin.roots, begin.base) == (roots, base)) {
        match open_large(staging, begin.snapshot, journaled.lengths) {
            Ok(large) => {
                let begin = Begin { run: *run, ..begin };
                let journal = JournalWriter::begin(staging, journaled.valid_bytes, &begin)?;
                let files = files.with_unfinished(begin.snapshot, staging.path().to_path_buf());
                let mut left = LeftBehind::new(begin.snapshot, files, below(staging, RANGES), journaled);
                let known = left.staged_paths();
                staging.take_over(&|path| known.contains(&path_hash(path)))?;
                return Ok(Opened { snapshot: begin.snapshot, left: Some(left), journal, large });
            }
            Err(error @ StoreError::Damaged { .. }) => log::warn!("an upload begins anew: {error}"),
            Err(error) => return Err(error),
        }
    }
    open_anew(staging, Begin { run: *run, snapshot: SnapshotId::create(Timestamp::now()), roots, base })
}

fn open_anew(staging: &mut Staging, begin: Begin) -> Result<Opened, StoreError> {
    staging.clear()?;
    let journal = JournalWriter::begin(staging, 0, &begin)?;
    let large = open_large(staging, begin.snapshot, Mark::default())?;
    Ok(Opened { snapshot: begin.snapshot, left: None, journal, large })
}

fn open_large(staging: &Staging, snapshot: SnapshotId, lengths: Mark) -> Result<LargeFiles, StoreError> {
    let folder = staging.folder().try_clone_to_owned().at("open", staging.path())?;
    LargeFiles::open(staging.disk(), staging.path(), folder, snapshot, lengths)
}

fn below(staging: &Staging, name: &[u8]) -> std::path::PathBuf {
    staging.path().join(std::str::from_utf8(name).expect("the names of the parts are ASCII"))
}

fn read(staging: &Staging, run: &[u8; 16]) -> Result<Journaled, StoreError> {
    let path = below(staging, JOURNAL);
    match File::open(&path) {
        Ok(file) => journal::read(BufReader::with_capacity(64 * 1024, file), run).at("read", &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Journaled::default()),
        Err(error) => Err(error).at("open", &path),
    }
}

/// An upload is of certain roots; with others it is another one.
pub fn roots_hash(roots: &[EntryPath]) -> [u8; HASH_BYTES] {
    let mut bytes = Vec::new();
    roots.iter().for_each(|root| bytes.put_bytes16(root.as_bytes()));
    blake3_hash(&bytes)
}

/// Appends to the journal.
#[derive(Debug)]
pub struct JournalWriter {
    file: NewFile,
    buffer: Vec<u8>,
    /// The bytes of the contents that the buffer tells of.
    told_bytes: u64,
    /// Whether the journal tells of anything that is worth keeping, and whether such a thing has been written.
    tells: bool,
    has_told: bool,
    bytes_since_checkpoint: u64,
    checkpointed: Instant,
}

impl JournalWriter {
    fn begin(staging: &Staging, valid_bytes: u64, begin: &Begin) -> Result<JournalWriter, StoreError> {
        let file = staging.open_journal(valid_bytes)?;
        let mut buffer = Vec::new();
        if valid_bytes == 0 {
            journal::put_magic(&mut buffer);
        }
        journal::put_begin(&mut buffer, begin);
        let tells = valid_bytes > 0;
        let checkpointed = Instant::now();
        Ok(JournalWriter {
            file,
            buffer,
            told_bytes: 0,
            tells,
            has_told: tells,
            bytes_since_checkpoint: 0,
            checkpointed,
        })
    }

    pub fn content(&mut self, stored: &StoredEntry) -> io::Result<()> {
        let size = stored.content.as_ref().map_or(0, |content| content.sums.size);
        self.bytes_since_checkpoint += size;
        self.told_bytes += size;
        journal::put_content(&mut self.buffer, stored);
        self.write_when_full()
    }

    /// Notes how long the files for large contents are, ahead of the content's record: so that what a believed
    /// record tells of is never cut off.
    pub fn lengths(&mut self, lengths: Mark) {
        journal::put_lengths(&mut self.buffer, lengths);
    }

    /// Notes how much has come of a large content. It stands for much: it is written at once.
    pub fn partial(&mut self, stored: &StoredEntry) -> io::Result<()> {
        journal::put_partial(&mut self.buffer, stored);
        self.tells = true;
        self.write()
    }

    /// Notes that nothing counts any more that was told of this path; on the disk when it returns.
    pub fn gone(&mut self, path: &EntryPath) -> io::Result<()> {
        journal::put_gone(&mut self.buffer, path);
        self.write()?;
        self.flush()
    }

    /// Waits until what was written has reached the disk.
    pub fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    pub fn range(&mut self, record: &IndexRecord, new_bytes: u64) -> io::Result<()> {
        journal::put_range(&mut self.buffer, record, new_bytes);
        self.write_when_full()
    }

    pub fn is_checkpoint_due(&self) -> bool {
        self.bytes_since_checkpoint >= CHECKPOINT_BYTES
            || (self.bytes_since_checkpoint > 0 && self.checkpointed.elapsed() >= CHECKPOINT_INTERVAL)
    }

    /// Notes that everything before has been flushed.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        journal::put_checkpoint(&mut self.buffer);
        self.write()?;
        self.file.flush()?;
        self.bytes_since_checkpoint = 0;
        self.checkpointed = Instant::now();
        Ok(())
    }

    /// At the end of a session: whether there is something to go on with in the journal. On a disk that is full, what
    /// was written before counts.
    pub fn keep(&mut self) -> bool {
        if !self.tells && self.buffer.is_empty() {
            return false;
        }
        match self.write() {
            Ok(()) => self.tells,
            Err(error) => {
                log::warn!("what came last of an upload will be sent again: {error}");
                self.has_told
            }
        }
    }

    fn write_when_full(&mut self) -> io::Result<()> {
        self.tells = true;
        let is_full = self.buffer.len() >= JOURNAL_BUFFER_BYTES || self.told_bytes >= TOLD_BYTES;
        if is_full { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write(&self.buffer) {
            // Half a record would be taken for damage.
            let _ = self.file.cut_back(self.file.bytes());
            return Err(error);
        }
        self.has_told = self.tells;
        self.buffer.clear();
        self.told_bytes = 0;
        Ok(())
    }
}
