//! One file put into a client's newest snapshot: how files come from peers that know nothing of snapshots. The
//! content is taken in first; the commit then makes a snapshot of everything that the newest one holds, with this file
//! in its place.
//!
//! Which snapshot is the newest is looked up in the client's turn among its commits. So of two files that arrive at the
//! same time on two connections, the one that is committed later keeps the earlier one.
//!
//! Cost: the index is read and written once; of the ranges only the one in which the name falls is read. The others
//! are shared unread: a damaged one stays named by the snapshots that it is in, and `verify` finds it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::at_rest::{Ending, SealedKind, StoredFile};
use super::blocks_format::Source;
use super::blocks_writer::Mark;
use super::catalog::locked;
use super::comparison::{Base, ChangeRule};
use super::content_writer::{ContentWriter, WrittenContent};
use super::error::{At, StoreError};
use super::head::Head;
use super::index::IndexRecord;
use super::pending::{Fate, PendingRange};
use super::range::{Location, StoredContent, StoredEntry, UNREADABLE};
use super::spool::Spool;
use super::staging::{FILES, PlacedFile};
use super::store::Store;
use super::upload::{Begun, Slot, SlotState, Upload, UploadRequest, no_content_begun};
use crate::base::entry::{Entry, EntryKind, RangeCutter};
use crate::base::ids::{ClientId, UploadId};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::crypto::blake3_hash as hash;

/// The peer's bytes that wait, in the upload's folder.
const SPOOL: &str = "parts";
/// What a file has whose sender said nothing of it.
const FILE_MODE: u16 = 0o600;

/// A file on its way into the newest snapshot. Dropped uncommitted, it leaves nothing behind.
#[derive(Debug)]
pub struct PutFile {
    upload: Box<Upload>,
    path: EntryPath,
    content: Content,
    spool: Option<Spool>,
}

#[derive(Debug)]
enum Content {
    None,
    Arriving {
        writer: Box<ContentWriter>,
        renamed: Option<EntryPath>,
    },
    /// Here, and how long the files for large contents were before.
    Whole {
        content: StoredContent,
        mark: Mark,
    },
}

impl Store {
    /// Begins to put a file at `path` into the newest snapshot of `client`. The snapshot will be marked as
    /// unauthenticated.
    pub fn put_file(&self, client: ClientId, path: EntryPath) -> Result<PutFile, StoreError> {
        let request = UploadRequest {
            upload: UploadId::random(),
            roots: Vec::new(),
            label: String::new(),
            host: String::new(),
            tags: Vec::new(),
            // The base is chosen by the commit.
            full: true,
            changes: ChangeRule::default(),
            parent: None,
            dry_run: false,
            started: Timestamp::now(),
        };
        match self.begin_upload(client, request, || {})? {
            Begun::Open(mut upload) => {
                (upload.unauthenticated, upload.abandoned) = (true, true);
                Ok(PutFile { upload, path, content: Content::None, spool: None })
            }
            Begun::AlreadyStored(_) => Err(StoreError::out_of_place("a random upload id was used before")),
        }
    }
}

impl PutFile {
    /// A place in the upload's folder for bytes that have to wait.
    pub fn spool(&mut self) -> Result<&mut Spool, StoreError> {
        if self.spool.is_none() {
            let staging = self.upload.staging();
            let keyring = staging.keyring().files(SealedKind::Waiting);
            self.spool = Some(Spool::create(staging.disk(), keyring, staging.folder(), staging.path(), SPOOL)?);
        }
        Ok(self.spool.as_mut().expect("made just now"))
    }

    /// Forgets the bytes that waited.
    pub fn clear_spool(&mut self) -> Result<(), StoreError> {
        match &mut self.spool {
            Some(spool) if spool.bytes() > 0 => spool.cut_back(0),
            _ => Ok(()),
        }
    }

    /// Begins the content, in the place of what has come of it.
    pub fn begin_content(&mut self) -> Result<(), StoreError> {
        self.clear()?;
        let upload = &mut self.upload;
        let PlacedFile { file, renamed } = upload.staging().create_content(&self.path)?;
        let own = Source::Plain { snapshot: upload.snapshot, path: renamed.clone() };
        let writer = Box::new(ContentWriter::plain(file, own, &upload.large));
        self.content = Content::Arriving { writer, renamed };
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        let mark = match std::mem::replace(&mut self.content, Content::None) {
            Content::None => return Ok(()),
            Content::Arriving { writer, .. } => writer.mark(),
            Content::Whole { mark, .. } => mark,
        };
        self.upload.large.cut_back(mark)?;
        self.upload.staging().clear_files()
    }

    /// Appends to the content.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Content::Arriving { writer, .. } = &mut self.content else { return Err(no_content_begun()) };
        writer.write(bytes, &mut self.upload.large)
    }

    /// The content as far as it has come, to be read again.
    pub fn written(&mut self) -> Result<WrittenSoFar, StoreError> {
        let Content::Arriving { renamed, writer } = &mut self.content else { return Err(no_content_begun()) };
        writer.make_readable(&self.upload.large)?;
        let mut path = self.upload.staging().path().join(OsStr::from_bytes(FILES));
        path.push(OsStr::from_bytes(renamed.as_ref().unwrap_or(&self.path).as_bytes()));
        let keyring = self.upload.staging().keyring().files(SealedKind::Content);
        let opened = File::open(&path).and_then(|file| StoredFile::open(file, &keyring, Ending::Growing));
        Ok(WrittenSoFar { file: opened.at("open", &path)?, path })
    }

    /// Ends the content; gives its size.
    pub fn end_content(&mut self) -> Result<u64, StoreError> {
        let Content::Arriving { mut writer, renamed } = std::mem::replace(&mut self.content, Content::None) else {
            return Err(no_content_begun());
        };
        let upload = &mut self.upload;
        let (snapshot, mark) = (upload.snapshot, writer.mark());
        let WrittenContent { sums, blocks, .. } = writer.finish(&mut upload.large)?;
        let location = match renamed {
            None => Location::OwnPath { snapshot },
            Some(path) => Location::StoredPath { snapshot, path },
        };
        self.content = Content::Whole { content: StoredContent { sums, location, blocks }, mark };
        Ok(sums.size)
    }

    /// Makes the snapshot: what the newest one holds, and this file. When this returns it is on the disk.
    ///
    /// # Errors
    /// `OutOfPlace` where the content is not whole, or where a folder has the file's name.
    pub fn commit(mut self) -> Result<Arc<Head>, StoreError> {
        let Content::Whole { content, mark } = self.content else {
            return Err(StoreError::out_of_place("commit before the content is complete"));
        };
        let state = self.upload.state.clone();
        let turn = locked(&state.commit);
        let base = newest_base(&self.upload)?;
        let place = base.as_ref().and_then(|base| base.ranges().place_for(&self.path));
        let mut run = read_run(base.as_ref(), place)?;
        let is_new = put_among(&mut run, self.path, content)?;
        if !is_new {
            self.upload.large.cut_back(mark)?;
            self.upload.staging().clear_files()?;
        }
        lay_out(&mut self.upload, base.as_ref(), place, run)?;
        self.upload.base = base;
        self.upload.commit_in_turn(0, turn)
    }
}

/// What has come of a content so far.
#[derive(Debug)]
pub struct WrittenSoFar {
    file: StoredFile,
    path: PathBuf,
}

impl WrittenSoFar {
    /// Fills `buffer` from `offset` on.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.file.read_exact_at(buffer, offset).at("read", &self.path)
    }
}

/// The newest snapshot whose index can be read. What lies in one that cannot is still named by that one.
fn newest_base(upload: &Upload) -> Result<Option<Base>, StoreError> {
    let (layout, client) = (&upload.shared.layout, &upload.state.record.folder);
    let newest_but = |passed_over: usize| {
        upload.state.pin(layout, |catalog| {
            let mut readable = catalog.heads().iter().rev().filter(|head| head.vault.is_none());
            readable.nth(passed_over).cloned()
        })
    };
    let mut passed_over = 0;
    while let Some((head, pin)) = newest_but(passed_over)? {
        match Base::open(layout, client, head, pin) {
            Ok(base) => return Ok(Some(base)),
            Err(error) if error.is_damage() => log::error!("an older snapshot is built on: {error}"),
            Err(error) => return Err(error),
        }
        passed_over += 1;
    }
    Ok(None)
}

/// The entries of the range at `place`. A damaged one is as good as none.
fn read_run(base: Option<&Base>, place: Option<usize>) -> Result<Vec<StoredEntry>, StoreError> {
    let (Some(base), Some(place)) = (base, place) else { return Ok(Vec::new()) };
    match base.ranges().read(place) {
        Err(error) if error.is_damage() => {
            log::error!("its files are missing from the new snapshot: {error}");
            Ok(Vec::new())
        }
        read => read,
    }
}

/// Puts the file among the entries around it. Where they have this very content at its path already, they stay as
/// they are, and the content is not new.
fn put_among(run: &mut Vec<StoredEntry>, path: EntryPath, content: StoredContent) -> Result<bool, StoreError> {
    let found = run.binary_search_by(|stored| stored.entry.path.cmp(&path));
    if let Ok(at) = found {
        let held = &run[at];
        if held.entry.kind == EntryKind::Folder {
            let problem = format!("{} is a folder in the newest snapshot", path.display());
            return Err(StoreError::out_of_place(problem));
        }
        if held.flags == 0 && held.content.as_ref().is_some_and(|held| held.sums == content.sums) {
            return Ok(false);
        }
    }
    let stored = StoredEntry { entry: plain_file(path, content.sums.size), flags: 0, content: Some(content) };
    match found {
        Ok(at) => run[at] = stored,
        Err(at) => run.insert(at, stored),
    }
    Ok(true)
}

/// The entry of a file of which only name and size are known, as of now.
fn plain_file(path: EntryPath, size: u64) -> Entry {
    let now = Timestamp::now();
    Entry {
        path,
        kind: EntryKind::File,
        size,
        mtime: now,
        ctime: now,
        inode: 0,
        mode: FILE_MODE,
        owner: 0,
        group: 0,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        link_target: Vec::new(),
        hard_link: None,
        fields: Vec::new(),
    }
}

/// Fills the upload with the base's ranges, the one at `place` made anew of `run`.
fn lay_out(
    upload: &mut Upload,
    base: Option<&Base>,
    place: Option<usize>,
    run: Vec<StoredEntry>,
) -> Result<(), StoreError> {
    let records = base.map_or(&[][..], |base| base.ranges().records());
    let (before, from) = records.split_at(place.unwrap_or(0));
    before.iter().try_for_each(|record| share(upload, record))?;
    add_anew(upload, run, from.first())?;
    from.iter().skip(1).try_for_each(|record| share(upload, record))
}

fn share(upload: &mut Upload, record: &IndexRecord) -> Result<(), StoreError> {
    upload.count_index_bytes(record.encoded_bytes())?;
    upload.slots.push(Slot::new(record.wire_hash, SlotState::Held(record.clone())));
    Ok(())
}

/// Cuts a run of entries into ranges and writes those that are not `old`.
fn add_anew(upload: &mut Upload, run: Vec<StoredEntry>, old: Option<&IndexRecord>) -> Result<(), StoreError> {
    let mut cutter = RangeCutter::default();
    let (mut bytes, mut range) = (Vec::new(), Vec::new());
    for stored in run {
        let mut encoded = Vec::new();
        stored.entry.encode(&mut encoded);
        if cutter.begins_new_range(stored.entry.path.as_bytes(), encoded.len()) {
            write_range(upload, &std::mem::take(&mut bytes), std::mem::take(&mut range), old)?;
        }
        bytes.append(&mut encoded);
        range.push(stored);
    }
    write_range(upload, &bytes, range, old)
}

fn write_range(
    upload: &mut Upload,
    bytes: &[u8],
    range: Vec<StoredEntry>,
    old: Option<&IndexRecord>,
) -> Result<(), StoreError> {
    let fate = |stored: &StoredEntry| match &stored.content {
        Some(content) => Fate::Stored { flags: stored.flags, content: content.clone() },
        None if stored.flags & UNREADABLE != 0 => Fate::Unreadable,
        None => Fate::NoContent,
    };
    let fates = range.iter().map(fate).collect();
    let entries: Vec<Entry> = range.into_iter().map(|stored| stored.entry).collect();
    let wire_hash = hash(bytes);
    let number = upload.slots.len() as u32;
    let finished = PendingRange::new(number, wire_hash, bytes, &entries, fates).finish(upload.snapshot);
    if let Some(old) = old.filter(|old| old.file == finished.record.file) {
        return share(upload, old);
    }
    upload.count_index_bytes(finished.record.encoded_bytes())?;
    upload.staging().write_range(&finished.record.file, &finished.bytes)?;
    upload.new_bytes += finished.new_bytes;
    upload.range_bytes += finished.bytes.len() as u64;
    upload.slots.push(Slot::new(wire_hash, SlotState::Finished(finished.record)));
    Ok(())
}
