//! An upload's folder opened to go on with, and its journal kept while it does.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::at_rest::{ClientKeyring, RecordReader, RecordWriter, SealedKind};
use super::blocks_reader::ClientFiles;
use super::blocks_writer::{LargeFiles, Mark, Rests};
use super::error::{At, StoreError};
use super::index::IndexRecord;
use super::journal::{self, Begin, Journaled};
use super::left_behind::{LeftBehind, path_hash};
use super::range::{HASH_BYTES, StoredEntry};
use super::staging::{JOURNAL, Staging};
use crate::base::codec::Writer;
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
pub fn begin_of(upload: &Path, keyring: &ClientKeyring) -> Result<Option<Begin>, StoreError> {
    let path = upload.join(std::str::from_utf8(JOURNAL).expect("an ASCII literal"));
    match open_records(&path, keyring)? {
        Some(records) => journal::read_begin(records).at("read", &path),
        None => Ok(None),
    }
}

/// None where there is no journal, and where it is of no use: it is not sealed as new files are.
fn open_records(path: &Path, keyring: &ClientKeyring) -> Result<Option<RecordReader>, StoreError> {
    match File::open(path).and_then(|file| RecordReader::open(file, &keyring.files(SealedKind::Journal))) {
        Ok(records) => Ok(Some(records)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            log::warn!("an upload begins anew: {}: {error}", path.display());
            Ok(None)
        }
        Err(error) => Err(error).at("open", path),
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
        match open_large(staging, begin.snapshot, journaled.lengths, &journaled.rests) {
            Ok(large) => {
                let begin = Begin { run: *run, ..begin };
                let journal = JournalWriter::begin(staging, journaled.valid_bytes, &begin)?;
                let files = files.with_unfinished(begin.snapshot, staging.path().to_path_buf());
                let mut left = LeftBehind::new(begin.snapshot, files, staging.range_files(), journaled);
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
    let large = open_large(staging, begin.snapshot, Mark::default(), &Rests::default())?;
    Ok(Opened { snapshot: begin.snapshot, left: None, journal, large })
}

fn open_large(
    staging: &Staging,
    snapshot: SnapshotId,
    lengths: Mark,
    rests: &Rests,
) -> Result<LargeFiles, StoreError> {
    let folder = staging.folder().try_clone_to_owned().at("open", staging.path())?;
    LargeFiles::open(staging.disk(), staging.path(), folder, snapshot, lengths, rests, staging.keyring())
}

fn read(staging: &Staging, run: &[u8; 16]) -> Result<Journaled, StoreError> {
    let path = staging.path().join(std::str::from_utf8(JOURNAL).expect("an ASCII literal"));
    match open_records(&path, staging.keyring())? {
        Some(records) => journal::read(records, run).at("read", &path),
        None => Ok(Journaled::default()),
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
    file: RecordWriter,
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
    /// record tells of is never cut off. The files are ended, so that it can be read.
    pub fn lengths(&mut self, large: &mut LargeFiles) -> Result<(), StoreError> {
        large.finish()?;
        journal::put_lengths(&mut self.buffer, large.mark(), &large.rests());
        Ok(())
    }

    /// Notes what the files for large contents hold behind their whole segments; on the disk when it returns.
    pub fn rests(&mut self, large: &LargeFiles) -> io::Result<()> {
        journal::put_lengths(&mut self.buffer, large.mark(), &large.rests());
        self.write()?;
        self.flush()
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
        self.file.write(&self.buffer)?;
        self.has_told = self.tells;
        self.buffer.clear();
        self.told_bytes = 0;
        Ok(())
    }
}
