//! Everything that is kept of a client read back: heads, indexes, ranges, contents, and what uploads left. What is
//! found damaged is named with the snapshots that need it; damaged contents go on the client's list, to be asked for
//! again, and leave it when they are found whole.
//!
//! A sample takes the contents that were read longest ago: contents are told apart into [`BUCKETS`] by a hash of their
//! paths, and for each of these the record says when its contents were last read. So the record stays small, and a
//! sample of a tenth has read everything after ten times. Lists are always read whole: they say what there is.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::at_rest::{RecordReader, SealedKind, SealingState};
use super::blocks_format::Source;
use super::blocks_reader::ClientFiles;
use super::catalog::{ClientState, read_head, read_head_file};
use super::clients::read_client;
use super::comparison::{RangeSet, read_index, read_range};
use super::content::ContentProblem;
use super::daily::is_daily_record;
use super::damage::{DamageKind, DamageList, DamagedContent, RUNS_MAX};
use super::dropped::{TOTALS_NAME, read_record};
use super::error::{At, StoreError};
use super::head::{Head, InVault};
use super::heal::{each_bad_block, forget_unneeded};
use super::journal;
use super::layout::{dropped_name, head_name, names_in, read_small_file};
use super::left_behind::path_hash;
use super::range::{HASH_BYTES, Location, StoredContent, StoredEntry};
use super::repair::{Outcome, Repaired};
use super::sealed_json::{decode_sealed, encode_sealed};
use super::store::{Damage, Shared, Store};
use super::vault::dropped as dropped_in_vaults;
use super::vault::{VaultRun, VaultWatch};
use super::{tokens, unexplained};
use crate::base::durable::FILE_MODE;
use crate::base::folder::open_folder;
use crate::base::ids::{ClientId, SnapshotId};
use crate::base::order::{sort_by, sort_by_key};
use crate::base::path::EntryPath;
use crate::base::vault::ChunkName;

/// Parts of a client's contents that are sampled by themselves.
pub const BUCKETS: usize = 256;
/// Ranges that are remembered as read; one more is read again where another snapshot names it.
const RANGES_SEEN_MAX: usize = 65_536;
/// Damaged files of one client that are named.
const NAMED_MAX: usize = 4_096;
const CHECKED_VERSION: u64 = 1;
const CHECKED_BYTES_MAX: u64 = 64 * 1024;

/// Is told how many more bytes were read, and says whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> bool;

/// A file of the store that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    pub file: PathBuf,
    /// Of the entry whose content it holds.
    pub path: Option<EntryPath>,
    pub problem: String,
    /// The snapshots that need it.
    pub snapshots: BTreeSet<SnapshotId>,
}

/// What a verification of one client found.
#[derive(Debug, Default)]
pub struct ClientVerified {
    /// Contents that were read, and their bytes and those of sealed objects.
    pub files: u64,
    pub bytes: u64,
    /// Snapshots in vaults, of which checksums were compared, and the objects that were read for that.
    pub sealed_snapshots: u64,
    pub sealed_objects: u64,
    pub damaged: Vec<DamagedFile>,
    /// Damaged files beyond those that are named.
    pub more_damaged: u64,
    /// The watch did not want to go on.
    pub is_cut_short: bool,
}

/// When each part of a client's contents was last read, in Unix time.
#[derive(Serialize, Deserialize)]
struct CheckedFile {
    version: u64,
    checked: Vec<i64>,
}

impl Store {
    /// Reads the content of an entry back and compares it with what was recorded. An entry without content
    /// is whole. What is found is noted in the client's list of damaged contents.
    pub fn verify_content(&self, client: ClientId, stored: &StoredEntry) -> Result<(), Damage> {
        self.verify_watched(client, stored, &mut |_| true).map(drop)
    }

    /// As [`Store::verify_content`]; false where the watch did not want to go on.
    pub fn verify_watched(&self, client: ClientId, stored: &StoredEntry, watch: Watch<'_>) -> Result<bool, Damage> {
        let Some(content) = &stored.content else { return Ok(true) };
        let is_mapped = matches!(content.location, Location::Mapped { .. });
        let checked = match self.open_content(client, stored) {
            Ok(reader) => reader.verify_watched(watch),
            Err(StoreError::Io { source, .. }) => Err(ContentProblem::Unreadable(source)),
            Err(error) if is_mapped => Err(ContentProblem::of_blocks(error)),
            Err(_) => Err(ContentProblem::Missing),
        };
        match checked {
            Ok(is_whole) => {
                if is_whole {
                    self.note_whole(client, stored);
                }
                Ok(is_whole)
            }
            Err(problem) => {
                self.note_damage(client, stored, &problem);
                Err(Damage { path: stored.entry.path.clone(), problem })
            }
        }
    }

    fn note_whole(&self, client: ClientId, stored: &StoredEntry) {
        let Ok(state) = self.state(client) else { return };
        state.with_damage(&self.shared.layout, |list| {
            let was_listed = list.has(stored);
            let snapshot = stored.content.as_ref().map(StoredContent::snapshot).filter(|_| was_listed);
            ((), snapshot.is_some_and(|snapshot| list.remove(&stored.entry.path, snapshot)))
        });
    }

    /// Puts a content on the client's list, in memory; [`Store::save_damage`] writes it.
    pub fn note_damage(&self, client: ClientId, stored: &StoredEntry, problem: &ContentProblem) {
        let (Ok(state), Some(content)) = (self.state(client), &stored.content) else { return };
        note_damage(&self.shared, &state, &stored.entry.path, content, problem);
    }

    /// Writes the client's list of damaged contents where it has changed.
    pub fn save_damage(&self, client: ClientId) -> Result<(), StoreError> {
        self.state(client)?.save_damage(&self.shared.disk, &self.shared.layout)
    }

    /// Verifies one client: all of its contents, or of the `percent` of them that were read longest ago. `in_vaults` is
    /// what was read of vaults by a run over several clients.
    ///
    /// # Errors
    /// What keeps it from going on; damage is none.
    pub fn verify_client(
        &self,
        client: ClientId,
        percent: Option<u32>,
        in_vaults: &mut VaultRun,
        watch: Watch<'_>,
    ) -> Result<ClientVerified, StoreError> {
        in_vaults.begin_client();
        let state = self.state(client)?;
        let checked = read_checked(&self.shared.layout.checked(&state.record.folder));
        let due = due_buckets(&checked, percent);
        let began = self.shared.clock.now().seconds;
        let mut run = Run {
            store: self,
            state: &state,
            due,
            listed: state.damage_list(&self.shared.layout),
            ranges_seen: HashSet::new(),
            gone_through: HashSet::new(),
            contents: DamageList::default(),
            contents_met: Vec::new(),
            ranges: Vec::new(),
            found: ClientVerified::default(),
            in_vaults: std::mem::take(in_vaults),
        };
        let gone_through = run.all(watch);
        let Run { due, found, in_vaults: of_vaults, .. } = run;
        *in_vaults = of_vaults;
        gone_through?;
        let mut noted = self.save_damage(client).and_then(|()| forget_unneeded(&self.shared, &state));
        if !found.is_cut_short && noted.is_ok() {
            let update = |(old, is_due): (i64, bool)| if is_due { began } else { old };
            let checked = checked.into_iter().zip(due).map(update).collect();
            noted = self.write_checked(&state, checked);
        }
        match noted {
            // What was found is told all the same, and found again by the next one.
            Err(error @ StoreError::DiskFull { .. }) => log::warn!("not noted: {error}"),
            noted => noted?,
        }
        Ok(found)
    }

    fn write_checked(&self, state: &ClientState, checked: Vec<i64>) -> Result<(), StoreError> {
        let layout = &self.shared.layout;
        let (path, folder) = (layout.checked(&state.record.folder), layout.damage());
        let handle = open_folder(&folder).at("open", &folder)?;
        let name = format!("{}.checked", state.record.folder);
        let bytes = encode_sealed(&CheckedFile { version: CHECKED_VERSION, checked });
        self.shared.disk.replace_file(handle.as_fd(), name.as_bytes(), &bytes, FILE_MODE).at("write", &path)
    }

    /// Reads the records of clients, the tokens, the record of the daily prune, who may use which vault, and what was
    /// dropped of vaults. Who may use one is made again where it can be.
    pub fn verify_records(&self) -> Result<Vec<DamagedFile>, StoreError> {
        let layout = &self.shared.layout;
        let mut errors = tokens::check_all(&layout.tokens())?;
        for name in names_in(&layout.clients())?.iter().filter(|name| name.ends_with(".json")) {
            errors.extend(read_client(&layout.clients().join(name)).err());
        }
        let daily = layout.daily();
        if read_small_file(&daily, CHECKED_BYTES_MAX).is_ok_and(|bytes| !is_daily_record(&bytes)) {
            errors.push(StoreError::damaged(&daily, "its checksum does not fit"));
        }
        errors.extend(SealingState::read(layout.data()).err());
        errors.extend(dropped_in_vaults::check_all(&layout.vaults())?.into_iter().map(|(_, error)| error));
        let mut damaged = Vec::new();
        for error in errors {
            damaged.extend(damaged_file(error, None)?);
        }
        damaged.extend(unexplained::records(self)?);
        damaged.extend(self.mend_vaults(true)?.into_iter().map(of_vault));
        Ok(damaged)
    }
}

/// Puts the content of the entry at `path` on the client's list, in memory.
pub(super) fn note_damage(
    shared: &Shared,
    state: &ClientState,
    path: &EntryPath,
    content: &StoredContent,
    problem: &ContentProblem,
) {
    let kind = match problem {
        ContentProblem::Blocks { .. } => DamageKind::Blocks,
        _ => DamageKind::Bytes,
    };
    let files = ClientFiles::new(&shared.layout, &state.record.folder);
    let item = DamagedContent {
        path: path.clone(),
        content: content.clone(),
        kind,
        found: shared.clock.now().seconds,
        runs: if kind == DamageKind::Bytes { damaged_runs(&files, path, content) } else { Vec::new() },
        problem: problem.to_string(),
    };
    state.with_damage(&shared.layout, |list| ((), list.add(item)));
}

/// The damaged blocks of a large content, put together to runs.
fn damaged_runs(files: &ClientFiles, path: &EntryPath, content: &StoredContent) -> Vec<(u64, u32)> {
    let mut runs: Vec<(u64, u32)> = Vec::new();
    let looked = each_bad_block(files, path, content, |bad| {
        let follows = runs.last().is_some_and(|(first, count)| first + u64::from(*count) == bad.block);
        if let Some((_, count)) = runs.last_mut().filter(|_| follows) {
            *count = count.saturating_add(1);
        } else if runs.len() < RUNS_MAX {
            runs.push((bad.block, 1));
        }
        Ok(())
    });
    if let Err(error) = looked {
        log::warn!("which blocks are damaged cannot be said: {error}");
    }
    runs
}

/// What is said of a file that an error names.
///
/// # Errors
/// The error itself where it is no damage.
fn damaged_file(error: StoreError, snapshot: Option<SnapshotId>) -> Result<Option<DamagedFile>, StoreError> {
    match error.of_named_file() {
        StoreError::Damaged { path, problem } => {
            Ok(Some(DamagedFile { file: path, path: None, problem, snapshots: snapshot.into_iter().collect() }))
        }
        StoreError::NewerFormat { path, version } => Ok(Some(DamagedFile {
            file: path,
            path: None,
            problem: format!("it has format version {version}"),
            snapshots: snapshot.into_iter().collect(),
        })),
        error => Err(error),
    }
}

fn of_vault(repaired: Repaired) -> DamagedFile {
    let Repaired { file, outcome, snapshots, text, .. } = repaired;
    let problem = match outcome {
        Outcome::Lost => format!("lost: {text}"),
        Outcome::Rebuilt | Outcome::Removed => format!("it was damaged or gone, and is made again: {text}"),
    };
    DamagedFile { file, path: None, problem, snapshots }
}

/// A record that cannot be read is none: everything was read longest ago.
fn read_checked(path: &Path) -> Vec<i64> {
    let file =
        read_small_file(path, CHECKED_BYTES_MAX).and_then(|bytes| decode_sealed::<CheckedFile>(&bytes, path));
    match file {
        Ok(file) if file.checked.len() == BUCKETS => file.checked,
        _ => vec![0; BUCKETS],
    }
}

/// Whether the record of what was verified when can be read.
pub fn is_checked_record(path: &Path) -> bool {
    let bytes = read_small_file(path, CHECKED_BYTES_MAX);
    bytes.and_then(|bytes| decode_sealed::<CheckedFile>(&bytes, path)).is_ok()
}

fn due_buckets(checked: &[i64], percent: Option<u32>) -> Vec<bool> {
    let count = percent.map_or(BUCKETS, |percent| (BUCKETS * percent as usize).div_ceil(100));
    let mut oldest: Vec<usize> = (0..BUCKETS).collect();
    sort_by_key(&mut oldest, |bucket| checked[*bucket]);
    let mut due = vec![false; BUCKETS];
    oldest.iter().take(count).for_each(|bucket| due[*bucket] = true);
    due
}

/// A verification of one client under way.
struct Run<'a> {
    store: &'a Store,
    state: &'a Arc<ClientState>,
    due: Vec<bool>,
    /// What was damaged before: it is always looked at.
    listed: DamageList,
    ranges_seen: HashSet<[u8; HASH_BYTES]>,
    /// Snapshots whose own contents have been read.
    gone_through: HashSet<SnapshotId>,
    /// Damaged contents that were met, in the form of a list; and what is said of them.
    contents: DamageList,
    contents_met: Vec<(EntryPath, SnapshotId, Vec<PathBuf>, String)>,
    ranges: Vec<([u8; HASH_BYTES], DamagedFile)>,
    found: ClientVerified,
    in_vaults: VaultRun,
}

/// Takes what a run over a vault finds.
struct Watching<'a, 'b, 'c> {
    run: &'a mut Run<'b>,
    head: SnapshotId,
    file: PathBuf,
    watch: Watch<'c>,
}

impl VaultWatch for Watching<'_, '_, '_> {
    fn read(&mut self, objects: u64, bytes: u64) -> bool {
        self.run.found.sealed_objects += objects;
        self.run.found.bytes += bytes;
        (self.watch)(bytes)
    }

    fn damaged(&mut self, problem: String) -> bool {
        if self.run.has_room() {
            let (file, snapshots) = (self.file.clone(), BTreeSet::from([self.head]));
            self.run.found.damaged.push(DamagedFile { file, path: None, problem, snapshots });
        }
        true
    }
}

impl Run<'_> {
    fn all(&mut self, watch: Watch<'_>) -> Result<(), StoreError> {
        let (layout, folder) = (&self.store.shared.layout, &self.state.record.folder);
        self.heads()?;
        self.uploads()?;
        for lost in unexplained::snapshots(layout, folder)? {
            self.found.damaged.push(lost);
        }
        let lists = layout.keyring_of(folder).files(SealedKind::DamageList);
        for path in [layout.damage_list(folder), layout.checked(folder)] {
            let is_list = path.extension().is_some_and(|end| end == "list");
            let checked = match read_small_file(&path, u64::MAX) {
                Err(StoreError::Io { .. }) => continue,
                Err(error) => Err(error),
                Ok(_) if is_list => DamageList::read(&path, &lists).map(drop),
                Ok(bytes) => decode_sealed::<CheckedFile>(&bytes, &path).map(drop),
            };
            self.note(checked.err(), None)?;
        }
        let heads = self.store.snapshots(self.state.record.id)?;
        for head in &heads {
            let before = (self.found.damaged.len(), self.ranges.len(), self.found.more_damaged);
            self.snapshot(head, watch)?;
            if self.found.is_cut_short {
                break;
            }
            // Where its lists are damaged, what it brought is read wherever else it is met.
            if before == (self.found.damaged.len(), self.ranges.len(), self.found.more_damaged) {
                self.gone_through.insert(head.id);
            }
        }
        self.find_needers(&heads)
    }

    /// Counts one more damaged file; false where it is not to be named.
    fn has_room(&mut self) -> bool {
        let is_named = self.found.damaged.len() + self.contents_met.len() + self.ranges.len() < NAMED_MAX;
        self.found.more_damaged += u64::from(!is_named);
        is_named
    }

    fn note(&mut self, error: Option<StoreError>, snapshot: Option<SnapshotId>) -> Result<(), StoreError> {
        let Some(error) = error else { return Ok(()) };
        if let Some(damaged) = damaged_file(error, snapshot)?
            && self.has_room()
        {
            self.found.damaged.push(damaged);
        }
        Ok(())
    }

    /// The heads as they lie on the disk, those of dropped snapshots too, and the record of what was dropped.
    fn heads(&mut self) -> Result<(), StoreError> {
        let folder = self.store.shared.layout.snapshots(&self.state.record.folder);
        let names = names_in(&folder)?;
        for name in &names {
            if let Some(id) = name.strip_suffix(".json").and_then(|id| id.parse::<SnapshotId>().ok()) {
                self.note(read_head(&folder, id).err(), Some(id))?;
            } else if let Some(id) = name.strip_suffix(".dropped").and_then(|id| id.parse::<SnapshotId>().ok()) {
                self.note(read_head_file(folder.join(name), id).err(), None)?;
            } else if let Some(id) = name.strip_suffix(".index").and_then(|id| id.parse::<SnapshotId>().ok()) {
                let is_there = |name: String| names.binary_search(&name).is_ok();
                if !is_there(head_name(id)) && !is_there(dropped_name(id)) {
                    // Unless a commit is between its renames.
                    let damaged = self.store.damaged_heads(self.state.record.id)?;
                    let gone = damaged.iter().find(|damaged| damaged.id == id);
                    let error = gone.map(|_| StoreError::damaged(&folder.join(head_name(id)), "it is gone"));
                    self.note(error, Some(id))?;
                }
            }
        }
        if names.iter().any(|name| name == TOTALS_NAME) && read_record(&folder)?.is_none() {
            let path = folder.join(TOTALS_NAME);
            self.note(Some(StoreError::damaged(&path, "it cannot be read; the next sweep counts anew")), None)?;
        }
        Ok(())
    }

    /// The journals of uploads that nobody has open.
    fn uploads(&mut self) -> Result<(), StoreError> {
        let (layout, folder) = (&self.store.shared.layout, &self.state.record.folder);
        let (incoming, keyring) = (layout.incoming(folder), layout.keyring_of(folder).files(SealedKind::Journal));
        for name in names_in(&incoming)? {
            let path = incoming.join(&name).join("journal");
            if name.parse().is_ok_and(|id| self.state.is_open(id)) {
                continue;
            }
            let Ok(file) = std::fs::File::open(&path) else { continue };
            let mut records = match RecordReader::open(file, &keyring) {
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    self.note(Some(StoreError::damaged(&path, error)), None)?;
                    continue;
                }
                opened => opened.at("open", &path)?,
            };
            let journaled = journal::read(&mut records, &[0; 16]).at("read", &path)?;
            let is_whole = records.ended_at(journaled.valid_bytes).at("read", &path)?;
            let is_open = name.parse().is_ok_and(|id| self.state.is_open(id));
            if !is_whole && !is_open {
                let valid_bytes = journaled.valid_bytes;
                let problem =
                    format!("only its first {valid_bytes} bytes count; what follows of the upload is sent again");
                self.note(Some(StoreError::damaged(&path, problem)), None)?;
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, head: &Arc<Head>, watch: Watch<'_>) -> Result<(), StoreError> {
        let (layout, folder) = (&self.store.shared.layout, &self.state.record.folder);
        // Dropped since the list of snapshots was made: there is nothing to verify.
        let Some(_pin) = self.state.pin(layout, |catalog| catalog.get(head.id))? else { return Ok(()) };
        let records = match read_index(layout, folder, head) {
            Ok(records) => records,
            Err(error) => return self.note(Some(error), Some(head.id)),
        };
        if let Some(place) = head.vault {
            return self.in_vault(head, place, watch);
        }
        for record in records {
            if self.ranges_seen.contains(&record.file) {
                continue;
            }
            if self.ranges_seen.len() < RANGES_SEEN_MAX {
                self.ranges_seen.insert(record.file);
            }
            let entries = match read_range(&layout.range_files(folder), &record) {
                Ok(entries) => entries,
                Err(error) => {
                    let is_known = self.ranges.iter().any(|(file, _)| *file == record.file);
                    if let Some(damaged) = damaged_file(error, Some(head.id))?
                        && !is_known
                        && self.has_room()
                    {
                        self.ranges.push((record.file, damaged));
                    }
                    continue;
                }
            };
            for stored in &entries {
                if !self.content(head, stored, watch) {
                    self.found.is_cut_short = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Of a snapshot that is sealed, the lists of chunks that are due.
    fn in_vault(&mut self, head: &Head, place: InVault, watch: Watch<'_>) -> Result<(), StoreError> {
        self.found.sealed_snapshots += 1;
        let due = self.due.clone();
        let is_due = |list: &ChunkName| due[usize::from(list.as_bytes()[0])];
        let mut run = std::mem::take(&mut self.in_vaults);
        let file = self.store.shared.layout.vaults().join(place.vault.to_string());
        let mut watching = Watching { run: self, head: head.id, file, watch };
        let goes_on = watching.run.store.verify_in_vault(head.id, place, &mut run, &is_due, &mut watching)?;
        self.in_vaults = run;
        self.found.is_cut_short |= !goes_on;
        Ok(())
    }

    /// Reads a content where it is its turn: in its own snapshot, unless that is not gone through.
    fn content(&mut self, head: &Head, stored: &StoredEntry, watch: Watch<'_>) -> bool {
        let Some(content) = &stored.content else { return true };
        let owner = content.snapshot();
        let path = &stored.entry.path;
        let is_due = self.due[(path_hash(path.as_bytes()) % BUCKETS as u64) as usize] || self.listed.has(stored);
        if !is_due || (owner != head.id && self.gone_through.contains(&owner)) || self.contents.has(stored) {
            return true;
        }
        match self.store.verify_watched(self.state.record.id, stored, watch) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(damage) => {
                let files = self.damaged_files(stored, content, &damage.problem);
                if self.has_room() {
                    self.contents.add(DamagedContent {
                        path: path.clone(),
                        content: content.clone(),
                        kind: DamageKind::Bytes,
                        found: 0,
                        runs: Vec::new(),
                        problem: String::new(),
                    });
                    self.contents_met.push((path.clone(), owner, files, damage.problem.to_string()));
                }
            }
        }
        self.found.files += 1;
        self.found.bytes = self.found.bytes.saturating_add(content.sums.size);
        true
    }

    /// The files in which the damage of a content lies.
    fn damaged_files(
        &self,
        stored: &StoredEntry,
        content: &StoredContent,
        problem: &ContentProblem,
    ) -> Vec<PathBuf> {
        let files = ClientFiles::new(&self.store.shared.layout, &self.state.record.folder);
        let path = &stored.entry.path;
        let show = |source: &Source| match files.place(source, path) {
            Ok((folder, stored)) => folder.join(OsStr::from_bytes(stored.as_bytes())),
            Err(_) => files.received(source.snapshot()),
        };
        let snapshot = content.snapshot();
        match (problem, &content.location) {
            (ContentProblem::Blocks { file, .. }, _) => {
                return vec![file.clone().unwrap_or_else(|| files.blocks(snapshot))];
            }
            (_, Location::OwnPath { .. }) => return vec![show(&Source::Plain { snapshot, path: None })],
            (_, Location::StoredPath { path, .. }) => {
                return vec![show(&Source::Plain { snapshot, path: Some(path.clone()) })];
            }
            (_, Location::Mapped { .. }) => {}
        }
        let mut sources: Vec<Source> = Vec::new();
        let looked = each_bad_block(&files, path, content, |bad| {
            if !sources.contains(bad.source) {
                sources.push(bad.source.clone());
            }
            Ok(())
        });
        match looked {
            Err(StoreError::Damaged { path, .. }) => vec![path],
            _ => sources.iter().map(show).collect(),
        }
    }

    /// Goes through the indexes once more for the snapshots that need what is damaged.
    fn find_needers(&mut self, heads: &[Arc<Head>]) -> Result<(), StoreError> {
        let mut needed: Vec<BTreeSet<SnapshotId>> = vec![BTreeSet::new(); self.contents_met.len()];
        sort_by(&mut self.contents_met, |left, right| (&left.0, left.1).cmp(&(&right.0, right.1)));
        let (layout, folder) = (&self.store.shared.layout, &self.state.record.folder);
        let heads = if self.contents_met.is_empty() && self.ranges.is_empty() { &[] } else { heads };
        for head in heads {
            let Some(_pin) = self.state.pin(layout, |catalog| catalog.get(head.id))? else { continue };
            let Ok(records) = read_index(layout, folder, head) else { continue };
            for (file, damaged) in &mut self.ranges {
                if records.iter().any(|record| record.file == *file) {
                    damaged.snapshots.insert(head.id);
                }
            }
            let mut ranges = RangeSet::new(layout.range_files(folder), records);
            for ((path, owner, ..), needed) in self.contents_met.iter().zip(&mut needed) {
                let content = ranges.find(path).and_then(|stored| stored.content.as_ref());
                if content.is_some_and(|content| content.snapshot() == *owner) {
                    needed.insert(head.id);
                }
            }
        }
        self.found.damaged.extend(self.ranges.drain(..).map(|(_, damaged)| damaged));
        for ((path, _, files, problem), snapshots) in self.contents_met.drain(..).zip(needed) {
            for file in files {
                let known = self.found.damaged.iter_mut().find(|damaged| damaged.file == file);
                match known.filter(|damaged| damaged.path.as_ref() == Some(&path)) {
                    Some(damaged) => damaged.snapshots.extend(&snapshots),
                    None => self.found.damaged.push(DamagedFile {
                        file,
                        path: Some(path.clone()),
                        problem: problem.clone(),
                        snapshots: snapshots.clone(),
                    }),
                }
            }
        }
        Ok(())
    }
}
