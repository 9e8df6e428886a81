//! One upload: ranges offered, entries taken, contents written, until a commit makes a snapshot of them.
//! It belongs to one session's thread; nothing of it is visible to anybody before the commit.
//!
//! The peer is not trusted: every call is checked against what this place of the conversation allows, and
//! what is kept in memory is bounded: the index, and the few ranges whose contents are still on their way.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::blocks_format::Source;
use super::blocks_reader::ClientFiles;
use super::blocks_writer::LargeFiles;
use super::catalog::{ClientState, OpenUpload};
use super::comparison::{Base, ChangeRule, RangeSet, read_range};
use super::content_writer::{ContentWriter, Held, WrittenContent};
use super::damage::DamageList;
use super::delta::OpenHeld;
use super::error::{At, StoreError};
use super::head::HEAD_BYTES_MAX;
use super::head::{Head, InVault};
use super::index::{INDEX_BYTES_MAX, IndexRecord};
use super::left_behind::{LeftBehind, path_hash, staged_path};
use super::partial::OpenPartial;
use super::pending::{Fate, Needed, PendingRange};
use super::range::{CHANGED_WHILE_READ, HASH_BYTES, Location, RECHECK, StoredContent, StoredEntry};
use super::recovery;
use super::resume::{self, JournalWriter, Opened};
use super::staging::{PlacedFile, Staging};
use super::store::Shared;
use crate::base::entry::{Entry, decode_entries};
use crate::base::folder::open_folder;
use crate::base::ids::{SnapshotId, UploadId};
use crate::base::limits::{CONTENT_TRIES_MAX, RANGE_BYTES_MAX, RANGES_PENDING_BYTES_MAX, RANGES_PENDING_MAX};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::crypto::{ContentSums, blake3_hash as hash};

/// What a client says when it begins.
#[derive(Debug, Clone)]
pub struct UploadRequest {
    pub upload: UploadId,
    pub roots: Vec<EntryPath>,
    pub label: String,
    pub host: String,
    pub tags: Vec<String>,
    /// Everything is sent, whatever the store holds.
    pub full: bool,
    /// What counts as a change.
    pub changes: ChangeRule,
    /// Compare with this snapshot instead of the newest fitting one.
    pub parent: Option<SnapshotId>,
    /// By the client's clock.
    pub started: Timestamp,
    /// Only to know what would be needed: nothing is taken in, and what is left of the upload stays as it is.
    pub dry_run: bool,
}

/// How an upload begins.
#[derive(Debug)]
pub enum Begun {
    /// The upload was committed earlier; this is its snapshot.
    AlreadyStored(Arc<Head>),
    Open(Box<Upload>),
}

/// Whether the store holds a range already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeAnswer {
    Held,
    Lacking,
}

/// Whether a content arrived as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentVerdict {
    Stored,
    /// It did not: it is to be sent again.
    Repeat,
}

/// How much the client counted, so that a lost part cannot pass unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitCounts {
    pub ranges: u32,
    pub entries: u64,
    /// What the client's walk could not read, beside the entries without content.
    pub unreadable: u64,
}

/// An upload under way. Dropped uncommitted, it leaves what it has stored for a later session of the same
/// upload, unless it was abandoned or a commit of it failed.
#[derive(Debug)]
pub struct Upload {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<ClientState>,
    ticket: Arc<OpenUpload>,
    pub(super) request: UploadRequest,
    pub(super) snapshot: SnapshotId,
    pub(super) base: Option<Base>,
    /// What is damaged of the client's contents: it counts as changed.
    damage: DamageList,
    /// None only while it is being dropped.
    pub(super) staging: Option<Staging>,
    /// Opened before the first write, for a flush of the whole file system; none where that is no good.
    pub(super) anchor: Option<OwnedFd>,
    pub(super) slots: Vec<Slot>,
    /// The first range that is neither held nor added; all before it are one or the other.
    next_to_add: usize,
    index_bytes: u64,
    pending: VecDeque<PendingRange>,
    pub(super) writing: Option<Writing>,
    pub(super) large: LargeFiles,
    /// The held content whose blocks were asked for last.
    pub(super) open_held: Option<OpenHeld>,
    /// The beginning of a content whose blocks were asked for last.
    pub(super) open_partial: Option<OpenPartial>,
    /// What an earlier session of this upload stored.
    left: Option<LeftBehind>,
    pub(super) journal: JournalWriter,
    pub(super) new_bytes: u64,
    pub(super) range_bytes: u64,
    /// What the client's snapshots took when this began; and what arrived since, beside the deltas.
    stored_before: u64,
    arrived_bytes: u64,
    pub(super) committed: bool,
    /// Whether a commit was begun: what is left then is taken back and not kept.
    pub(super) committing: bool,
    /// The client wants nothing of it kept.
    pub(super) abandoned: bool,
    /// Nobody has proved to be the client: the head says so.
    pub(super) unauthenticated: bool,
    /// What it stores lies in a vault.
    pub(super) in_vault: Option<VaultShare>,
}

/// What an upload has in a vault.
#[derive(Debug, Clone, Copy)]
pub(super) struct VaultShare {
    pub place: InVault,
    /// What it brought.
    pub stored_bytes: u64,
}

/// One range by its number.
#[derive(Debug)]
pub(super) struct Slot {
    wire_hash: [u8; HASH_BYTES],
    pub(super) state: SlotState,
}

#[derive(Debug)]
pub(super) enum SlotState {
    Offered,
    /// The entries are here, contents are not; what the range covers is known.
    Added {
        first: EntryPath,
        last: EntryPath,
    },
    Held(IndexRecord),
    Finished(IndexRecord),
}

impl Slot {
    pub(super) fn new(wire_hash: [u8; HASH_BYTES], state: SlotState) -> Slot {
        Slot { wire_hash, state }
    }

    fn bounds(&self) -> Option<(&EntryPath, &EntryPath)> {
        match &self.state {
            SlotState::Offered => None,
            SlotState::Added { first, last } => Some((first, last)),
            SlotState::Held(record) | SlotState::Finished(record) => Some((&record.first, &record.last)),
        }
    }
}

/// The content that is arriving.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) range: u32,
    pub(super) entry: u32,
    pub(super) writer: ContentWriter,
    pub(super) path: EntryPath,
    pub(super) renamed: Option<EntryPath>,
    /// What it is built on turned out to be damaged: the rest of it is passed over, and all is sent again.
    pub(super) is_spoiled: bool,
    /// The journal tells how much has come of it.
    pub(super) is_noted: bool,
}

impl Writing {
    /// Where the content will lie.
    pub(super) fn location(&self, snapshot: SnapshotId) -> Location {
        match &self.renamed {
            _ if self.writer.is_delta() => Location::Mapped { snapshot },
            None => Location::OwnPath { snapshot },
            Some(path) => Location::StoredPath { snapshot, path: path.clone() },
        }
    }
}

impl Upload {
    pub(super) fn open(
        shared: Arc<Shared>,
        state: Arc<ClientState>,
        request: UploadRequest,
        base: Option<Base>,
        ticket: Arc<OpenUpload>,
    ) -> Result<Upload, StoreError> {
        let data = shared.layout.data();
        let anchor = shared.can_flush_all.then(|| open_folder(data)).transpose().at("open", data)?;
        let (layout, client) = (&shared.layout, &state.record.folder);
        let keyring = layout.keyring_of(client);
        let mut staging = Staging::open(&shared.disk, keyring, &layout.incoming(client), request.upload)?;
        let files = ClientFiles::new(layout, client);
        let Opened { snapshot, left, journal, large } = resume::open(
            &mut staging,
            &shared.run,
            &request.roots,
            base.as_ref().map(|base| base.head().id),
            files,
        )?;
        let stored_before = state.with_catalog(&shared.layout, |catalog| catalog.stored_bytes())?;
        let damage = state.damage_list(&shared.layout);
        Ok(Upload {
            damage,
            stored_before,
            arrived_bytes: 0,
            large,
            open_held: None,
            open_partial: None,
            snapshot,
            shared,
            state,
            ticket,
            request,
            base,
            staging: Some(staging),
            anchor,
            slots: Vec::new(),
            next_to_add: 0,
            index_bytes: 0,
            pending: VecDeque::new(),
            writing: None,
            left,
            journal,
            new_bytes: 0,
            range_bytes: 0,
            committed: false,
            committing: false,
            abandoned: false,
            unauthenticated: false,
            in_vault: None,
        })
    }

    /// The id the snapshot will have.
    pub fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    /// The snapshot this upload is compared with.
    pub fn base(&self) -> Option<&Arc<Head>> {
        self.base.as_ref().map(Base::head)
    }

    /// How many ranges have been offered: the number of the next one.
    pub fn ranges_offered(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("count_index_bytes keeps it below 2^32")
    }

    /// Whether a content arrived damaged and has not come again yet.
    pub fn awaits_repeat(&self) -> bool {
        self.pending.iter().any(PendingRange::awaits_repeat)
    }

    /// Range and entry of the content that is arriving.
    pub fn current_content(&self) -> Option<(u32, u32)> {
        self.writing.as_ref().map(|writing| (writing.range, writing.entry))
    }

    /// Names the next range, in path order. A lacking one is to be followed by its entries.
    pub fn offer_range(&mut self, wire_hash: [u8; HASH_BYTES]) -> Result<RangeAnswer, StoreError> {
        self.check_live()?;
        if let Some((record, new_bytes)) = self.left.as_mut().and_then(|left| left.range(&wire_hash)) {
            self.check_order(self.slots.len(), &record.first, &record.last)?;
            self.count_index_bytes(record.encoded_bytes())?;
            self.new_bytes += new_bytes;
            self.range_bytes += u64::from(record.file_bytes);
            self.arrived_bytes += new_bytes + u64::from(record.file_bytes);
            self.slots.push(Slot { wire_hash, state: SlotState::Finished(record) });
            self.pass_known_slots();
            return Ok(RangeAnswer::Held);
        }
        let roots = &self.request.roots;
        let shareable = self.base.as_ref().and_then(|base| base.shareable_range(&wire_hash, roots));
        if let Some(record) = shareable.filter(|record| !self.names_damage(record)) {
            let record = record.clone();
            self.check_order(self.slots.len(), &record.first, &record.last)?;
            self.count_index_bytes(record.encoded_bytes())?;
            self.slots.push(Slot { wire_hash, state: SlotState::Held(record) });
            self.pass_known_slots();
            return Ok(RangeAnswer::Held);
        }
        let offered = |slot: &&Slot| matches!(slot.state, SlotState::Offered);
        let waiting = self.slots[self.next_to_add..].iter().filter(offered).count();
        if waiting + self.pending.len() >= RANGES_PENDING_MAX {
            return Err(StoreError::out_of_place(format!("more than {RANGES_PENDING_MAX} ranges are pending")));
        }
        self.slots.push(Slot { wire_hash, state: SlotState::Offered });
        Ok(RangeAnswer::Lacking)
    }

    /// Whether a content that the range names is damaged: its entries have to come then.
    fn names_damage(&self, record: &IndexRecord) -> bool {
        if !self.damage.touches(record) {
            return false;
        }
        let entries = read_range(&self.shared.layout.range_files(&self.state.record.folder), record);
        entries.map_or(true, |entries| entries.iter().any(|stored| self.damage.has(stored)))
    }

    /// Takes the entries of a lacking range; they come in the order of the ranges. Answers which contents
    /// are needed.
    pub fn add_range(&mut self, number: u32, bytes: &[u8]) -> Result<Needed, StoreError> {
        self.check_live()?;
        let place = number as usize;
        if place != self.next_to_add || place >= self.slots.len() {
            return Err(StoreError::out_of_place(format!("range {number} is not the next to come")));
        }
        self.check_pending_bytes()?;
        let wire_hash = self.slots[place].wire_hash;
        let entries = decode_wire_range(number, &wire_hash, bytes)?;
        let (first, last) = (&entries[0].path, &entries[entries.len() - 1].path);
        self.check_order(place, first, last)?;
        self.check_roots(&entries)?;
        self.slots[place].state = SlotState::Added { first: first.clone(), last: last.clone() };
        self.pass_known_slots();
        let fates = entries.iter().map(|entry| self.fate_of(entry)).collect();
        let range = PendingRange::new(number, wire_hash, bytes, &entries, fates);
        let needed = range.needed();
        self.pending.push_back(range);
        self.finish_if_complete(number)?;
        Ok(needed)
    }

    fn check_pending_bytes(&self) -> Result<(), StoreError> {
        let pending: usize = self.pending.iter().map(PendingRange::encoded_bytes).sum();
        match pending > RANGES_PENDING_BYTES_MAX {
            true => Err(StoreError::out_of_place("the pending ranges are too large together")),
            false => Ok(()),
        }
    }

    /// Everything in the range at `place` comes after the range before it and before the one after it, as
    /// far as those are known; each pair is checked when its second one becomes known.
    fn check_order(&self, place: usize, first: &EntryPath, last: &EntryPath) -> Result<(), StoreError> {
        let before = place.checked_sub(1).and_then(|before| self.slots[before].bounds());
        let after = self.slots.get(place + 1).and_then(Slot::bounds);
        let in_order = before.is_none_or(|(_, end)| end < first) && after.is_none_or(|(start, _)| last < start);
        match in_order {
            true => Ok(()),
            false => Err(StoreError::out_of_place(format!(
                "range {place} ({} to {}) is out of order",
                first.display(),
                last.display()
            ))),
        }
    }

    /// The entries are sorted and the roots are too, so both are gone through once.
    fn check_roots(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let roots = &self.request.roots;
        // No root means the whole file system.
        if roots.is_empty() {
            return Ok(());
        }
        let mut root = 0;
        for entry in entries {
            while root < roots.len() && !entry.path.is_within(&roots[root]) {
                root += 1;
            }
            if root == roots.len() {
                let path = entry.path.display();
                return Err(StoreError::out_of_place(format!("{path} lies in none of the announced roots")));
            }
        }
        Ok(())
    }

    fn pass_known_slots(&mut self) {
        let known = |slot: &Slot| !matches!(slot.state, SlotState::Offered);
        while self.slots.get(self.next_to_add).is_some_and(known) {
            self.next_to_add += 1;
        }
    }

    fn fate_of(&mut self, entry: &Entry) -> Fate {
        if !entry.has_content() {
            return Fate::NoContent;
        }
        let rule = self.request.changes;
        let left = self.left.as_mut().and_then(|left| left.find(&entry.path));
        // No delta is built on a large one that changed since, for its file goes with the commit: it is gone on with.
        let left = left.filter(|stored| rule.is_unchanged(stored, entry) || !stored.is_large());
        let left = left.filter(|stored| !self.damage.has(stored));
        if let Some(stored) = left {
            return match (rule.is_unchanged(&stored, entry), stored.content) {
                (true, Some(content)) => {
                    self.count_left(&content);
                    Fate::Stored { flags: 0, content }
                }
                (_, held) => Fate::Awaited { held: held.map(Box::new), partial: None, tries: 0 },
            };
        }
        let stored = self.base.as_mut().and_then(|base| base.find(&entry.path));
        // Neither is it built upon what is damaged.
        let stored = stored.filter(|stored| !self.damage.has(stored));
        let held = match stored.map(|stored| (rule.is_unchanged(stored, entry), stored.content.clone())) {
            Some((true, Some(content))) => return Fate::Stored { flags: 0, content },
            Some((_, held)) => held.map(Box::new),
            None => None,
        };
        let partial = self.left.as_mut().and_then(|left| left.partial(&entry.path));
        Fate::Awaited { held, partial: partial.map(Arc::new), tries: 0 }
    }

    /// An earlier session's content takes its room too; what lies in the delta is counted with that.
    fn count_left(&mut self, content: &StoredContent) {
        let is_mapped = matches!(content.location, Location::Mapped { .. });
        if content.snapshot() == self.snapshot && !is_mapped {
            self.arrived_bytes = self.arrived_bytes.saturating_add(content.sums.size);
        }
    }

    /// Begins the content of an entry. Contents come in the order of (range, entry), except those that are
    /// sent again.
    /// A content that was begun and is begun again (its file changed meanwhile) starts anew.
    pub fn begin_content(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        self.take_turn(range, entry)?;
        self.begin_plain(range, entry, None)
    }

    /// Begins a plain content, with what is held where something of that will be copied to it.
    pub(super) fn begin_plain(&mut self, range: u32, entry: u32, held: Option<Held>) -> Result<(), StoreError> {
        let path = self.pending_range(range)?.entry(entry).path;
        self.pending_range(range)?.forget_partial(entry);
        // An earlier session's content of this path makes room; whatever else has the name is another's.
        if let Some(staged) = self.left.as_mut().and_then(|left| left.staged_path(&path)) {
            self.journal.gone(&path).at("write a journal below", self.shared.layout.data())?;
            let _ = self.staging().remove_content(&staged);
        }
        let PlacedFile { file, renamed } = self.staging().create_content(&path)?;
        let own = Source::Plain { snapshot: self.snapshot, path: renamed.clone() };
        let writer = ContentWriter::plain(file, own, &self.large).with_held(held);
        self.writing = Some(Writing { range, entry, writer, path, renamed, is_spoiled: false, is_noted: false });
        Ok(())
    }

    /// Appends to the content that was begun.
    pub fn write_content(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(writing) = &mut self.writing else { return Err(no_content_begun()) };
        self.ticket.goes_on();
        if writing.is_spoiled {
            return Ok(());
        }
        writing.writer.write(bytes, &mut self.large)?;
        self.note_arrival()
    }

    /// After more of a content has come.
    pub(super) fn note_arrival(&mut self) -> Result<(), StoreError> {
        if self.writing.as_ref().is_some_and(|writing| writing.writer.is_note_due()) {
            self.note_under_way()?;
        }
        self.state.quota.check(self.taken_bytes())
    }

    /// Whether so much more fits the client's quota.
    pub(super) fn fits_quota(&self, bytes: u64) -> bool {
        self.state.quota.check(self.taken_bytes().saturating_add(bytes)).is_ok()
    }

    /// What counts for the client's quota: what was here, what has come and what is arriving.
    fn taken_bytes(&self) -> u64 {
        let plain = self.writing.as_ref().filter(|writing| !writing.writer.is_delta());
        let under_way = plain.map_or(0, |writing| writing.writer.stored_bytes());
        let large = self.large.delta_bytes() + self.large.blocks_bytes();
        self.stored_before.saturating_add(self.arrived_bytes + large + under_way)
    }

    /// Ends the content with what the client knows of it; `flags` are [`RECHECK`] and [`CHANGED_WHILE_READ`].
    pub fn end_content(&mut self, claimed: ContentSums, flags: u8) -> Result<ContentVerdict, StoreError> {
        self.check_live()?;
        check_client_flags(flags)?;
        let mut writing = self.writing.take().ok_or_else(no_content_begun)?;
        if writing.is_spoiled {
            return self.take_back(writing);
        }
        let WrittenContent { sums, blocks, stored_bytes } = writing.writer.finish(&mut self.large)?;
        if sums != claimed {
            return self.take_back(writing);
        }
        let (range, entry, is_delta) = (writing.range, writing.entry, writing.writer.is_delta());
        let may_be_held = writing.writer.may_be_held();
        let content = match self.pending_range(range)?.held(entry).filter(|held| may_be_held && held.sums == sums) {
            // Its facts changed and nothing else: it is what is held.
            Some(held) => {
                let held = held.clone();
                self.discard(writing)?;
                held
            }
            None => StoredContent { sums, location: writing.location(self.snapshot), blocks },
        };
        let stored =
            StoredEntry { entry: self.pending_range(range)?.entry(entry), flags, content: Some(content.clone()) };
        if blocks.is_some() {
            self.journal.lengths(&mut self.large)?;
        }
        self.journal.content(&stored).at("write the journal below", self.staging.as_ref().expect("open").path())?;
        if content.snapshot() == self.snapshot && !is_delta {
            self.arrived_bytes += stored_bytes;
            self.pending_range(range)?.note_holes(sums.size - stored_bytes);
        }
        self.settle(range, entry, Fate::Stored { flags, content })?;
        self.checkpoint_when_due()?;
        Ok(ContentVerdict::Stored)
    }

    /// Removes a content that arrived damaged, and says whether it may come again.
    fn take_back(&mut self, writing: Writing) -> Result<ContentVerdict, StoreError> {
        let (range, entry, path) = (writing.range, writing.entry, writing.path.clone());
        self.discard(writing)?;
        let tries = self.pending_range(range)?.note_damaged(entry);
        match tries < CONTENT_TRIES_MAX {
            true => Ok(ContentVerdict::Repeat),
            false => Err(StoreError::Mismatch { what: format!("{} in {tries} tries", path.display()) }),
        }
    }

    /// Removes what has arrived of a content: its file, or what it added to those of the large contents.
    fn discard(&mut self, writing: Writing) -> Result<(), StoreError> {
        let Writing { path, renamed, writer, is_noted, .. } = writing;
        if is_noted {
            self.journal.gone(&path).at("write a journal below", self.shared.layout.data())?;
        }
        if self.large.cut_back(writer.mark())? {
            self.journal.rests(&self.large).at("write a journal below", self.shared.layout.data())?;
        }
        match writer.is_delta() {
            true => Ok(()),
            false => self.staging().remove_content(renamed.as_ref().unwrap_or(&path)),
        }
    }

    /// The client could not read the file, or not to its end: the entry is kept, without content.
    pub fn skip_content(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        self.drop_unfinished(range, entry)?;
        self.check_turn(range, entry)?;
        self.settle(range, entry, Fate::Unreadable)
    }

    /// The file has the content that the base holds for its path, whose BLAKE3 came with "needed".
    pub fn same_content(&mut self, range: u32, entry: u32, flags: u8) -> Result<(), StoreError> {
        check_client_flags(flags)?;
        self.check_turn(range, entry)?;
        let held = self.pending_range(range)?.held(entry).cloned();
        let content = held.ok_or_else(|| StoreError::out_of_place("no content is held for this path"))?;
        self.count_left(&content);
        self.settle(range, entry, Fate::Stored { flags, content })
    }

    /// Removes what has arrived of this very content, if it is the one under way.
    fn drop_unfinished(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        let same = |writing: &mut Writing| (writing.range, writing.entry) == (range, entry);
        match self.writing.take_if(same) {
            Some(writing) => self.discard(writing),
            None => Ok(()),
        }
    }

    /// Makes ready for the content of an entry.
    pub(super) fn take_turn(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        if self.request.dry_run {
            return Err(StoreError::out_of_place("nothing is stored in a dry run"));
        }
        self.drop_unfinished(range, entry)?;
        self.check_turn(range, entry)
    }

    /// The entry must be the next in order, or one whose content arrived damaged.
    fn check_turn(&mut self, range: u32, entry: u32) -> Result<(), StoreError> {
        self.check_live()?;
        if self.writing.is_some() {
            return Err(StoreError::out_of_place("a content is begun inside another"));
        }
        let next = self.pending.iter().find_map(|range| Some((range.number, range.next_awaited()?)));
        let tries = self.pending_range(range)?.tries(entry)?;
        match tries > 0 || next == Some((range, entry)) {
            true => Ok(()),
            false => Err(StoreError::out_of_place(format!("content ({range}, {entry}) is out of order"))),
        }
    }

    fn settle(&mut self, range: u32, entry: u32, fate: Fate) -> Result<(), StoreError> {
        self.pending_range(range)?.settle(entry, fate);
        self.finish_if_complete(range)
    }

    fn finish_if_complete(&mut self, number: u32) -> Result<(), StoreError> {
        let Some(place) = self.pending.iter().position(|range| range.number == number) else { return Ok(()) };
        if !self.pending[place].is_complete() {
            return Ok(());
        }
        let finished = self.pending[place].finish(self.snapshot);
        self.count_index_bytes(finished.record.encoded_bytes())?;
        if self.request.dry_run {
            self.slots[number as usize].state = SlotState::Finished(finished.record);
            self.pending.remove(place);
            return Ok(());
        }
        self.staging().write_range(&finished.record.file, &finished.bytes)?;
        let journaled = self.journal.range(&finished.record, finished.new_bytes);
        journaled.at("write the journal below", self.staging.as_ref().expect("open").path())?;
        self.new_bytes += finished.new_bytes;
        self.range_bytes += finished.bytes.len() as u64;
        self.arrived_bytes += finished.bytes.len() as u64;
        self.slots[number as usize].state = SlotState::Finished(finished.record);
        self.pending.remove(place);
        Ok(())
    }

    pub(super) fn count_index_bytes(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.index_bytes += bytes;
        match self.index_bytes > INDEX_BYTES_MAX - HEAD_BYTES_MAX - 1_024 || self.slots.len() >= u32::MAX as usize {
            true => Err(StoreError::out_of_place("the index of the snapshot would become too large")),
            false => Ok(()),
        }
    }

    pub(super) fn pending_range(&mut self, number: u32) -> Result<&mut PendingRange, StoreError> {
        let found = self.pending.iter_mut().find(|range| range.number == number);
        found.ok_or_else(|| StoreError::out_of_place(format!("range {number} waits for no content")))
    }

    /// Gives the upload up for good: nothing of it is kept for a later session.
    pub fn abandon(mut self) {
        self.abandoned = true;
    }

    /// Removes staged contents that an earlier session stored and this one did not want again.
    pub(super) fn sweep_unused(&mut self) -> Result<(), StoreError> {
        if self.left.take().is_none() {
            return Ok(());
        }
        let snapshot = self.snapshot;
        let records = self.new_records();
        let staging = self.staging();
        let mut ranges = RangeSet::new(staging.range_files(), records);
        let mut used = BTreeSet::new();
        for place in 0..ranges.records().len() {
            let paths = ranges.load(place).iter().filter_map(|stored| staged_path(snapshot, stored));
            used.extend(paths.map(|path| path_hash(path.as_bytes())));
        }
        let path = staging.path().to_path_buf();
        staging.sweep_files(&|path| used.contains(&path_hash(path))).at("sweep", &path)
    }

    /// Flushes what is staged and notes it, every so often: after a stop of the machine only what follows is
    /// read back. Only where one flush serves for all; elsewhere everything is read back.
    fn checkpoint_when_due(&mut self) -> Result<(), StoreError> {
        let Some(anchor) = self.anchor.as_ref().filter(|_| self.journal.is_checkpoint_due()) else { return Ok(()) };
        let data = self.shared.layout.data();
        self.shared.disk.flush_all(anchor.as_fd()).at("flush", data)?;
        self.journal.checkpoint().at("write a journal below", data)
    }

    pub(super) fn staging(&mut self) -> &mut Staging {
        self.staging.as_mut().expect("there until the upload is dropped")
    }

    pub(super) fn check_live(&self) -> Result<(), StoreError> {
        match self.ticket.goes_on() {
            true => Ok(()),
            false => Err(StoreError::Superseded { upload: self.request.upload }),
        }
    }
}

impl Drop for Upload {
    /// Leaves the staging folder for a later session; or takes back whatever a commit that failed midway has
    /// put into place, then removes the folder. What cannot be removed now is recovered at the next start.
    fn drop(&mut self) {
        let _closed =
            Closing { state: self.state.clone(), upload: self.request.upload, ticket: self.ticket.clone() };
        if !self.committing
            && !self.abandoned
            && let Err(error) = self.note_under_way()
        {
            log::warn!("what came last of a file will be sent again: {error}");
        }
        let Some(staging) = self.staging.take() else { return };
        let (shared, folder) = (&self.shared, &self.state.record.folder);
        if !self.committing && !self.abandoned && self.journal.keep() {
            return;
        }
        let removed = match self.committed {
            true => Ok(()),
            false => recovery::take_back(&shared.disk, &shared.layout, folder, staging.path(), self.snapshot),
        };
        if let Err(error) = removed.and_then(|()| staging.remove()) {
            log::warn!("an upload's folder is left for the next start: {error}");
        }
    }
}

/// Lets go of an upload when everything else about it has been settled.
struct Closing {
    state: Arc<ClientState>,
    upload: UploadId,
    ticket: Arc<OpenUpload>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.state.close_upload(self.upload, &self.ticket);
    }
}

fn decode_wire_range(number: u32, wire_hash: &[u8; HASH_BYTES], bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
    if bytes.len() > RANGE_BYTES_MAX {
        return Err(StoreError::out_of_place(format!("range {number} is larger than {RANGE_BYTES_MAX} bytes")));
    }
    if hash(bytes) != *wire_hash {
        return Err(StoreError::Mismatch { what: format!("range {number}") });
    }
    decode_entries(bytes).map_err(|source| StoreError::Malformed { what: format!("range {number}"), source })
}

fn check_client_flags(flags: u8) -> Result<(), StoreError> {
    match flags & !(RECHECK | CHANGED_WHILE_READ) {
        0 => Ok(()),
        _ => Err(StoreError::out_of_place(format!("content flags {flags:#04x} are unknown"))),
    }
}

pub(super) fn no_content_begun() -> StoreError {
    StoreError::out_of_place("no content was begun")
}
