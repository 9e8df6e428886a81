//! The commit: an upload becomes a snapshot.
//!
//! The argument. Everything is written below the upload's folder first: contents, ranges, index, head, and
//! the intent, which names the snapshot. Then all of it is flushed. From here on only names change, in this
//! order: the contents' folder, the delta, the blocks and the ranges, the index, the head; and each step's
//! folders are flushed before the next begins. So
//! - a head that can be seen names an index, ranges and contents that are on the disk whole;
//! - a crash before the head's rename leaves an intent without a head, which the next start takes back;
//! - a crash after it leaves an intent with a head, which the next start merely tidies up;
//! - only after the head's folder has been flushed is the client told "stored".
//!
//! A renamed range that no index names is invisible and harmless; `prune` sweeps it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use super::blocks_writer::{BLOCKS, DELTA};
use super::catalog::locked;
use super::error::{At, StoreError};
use super::head::{Head, SnapshotTotals};
use super::heal::heal;
use super::index::{HeadCopy, IndexRecord, encode_index};
use super::layout::{blocks_name, head_name, index_name};
use super::range::HASH_BYTES;
use super::recovery::Intent;
use super::staging::{FILES, FLUSHED_SINGLY_MAX, HEAD, INDEX, INTENT};
use super::summary::{self, ClientSummary};
use super::upload::{CommitCounts, Slot, SlotState, Upload};
use crate::base::folder::open_folder;
use crate::base::ids::hex;
use crate::base::order::set_of;

impl Upload {
    /// Makes the snapshot. When this returns it is on the disk, whatever happens next.
    ///
    /// # Errors
    /// `OutOfPlace` where a range or a needed content is missing, or the counts differ. After any error
    /// nothing of the upload is visible.
    pub fn commit(mut self, counts: CommitCounts) -> Result<Arc<Head>, StoreError> {
        if let Err(error) = self.check_complete(counts) {
            // A client that counts otherwise has nothing to go on with.
            self.abandoned = true;
            return Err(error);
        }
        let state = self.state.clone();
        self.commit_in_turn(counts.unreadable, locked(&state.commit))
    }

    /// The commit of an upload that is complete, in its turn among the client's commits. The turn is over before
    /// what is left of the upload is swept.
    pub(super) fn commit_in_turn(
        mut self,
        unreadable: u64,
        _turn: MutexGuard<'_, ()>,
    ) -> Result<Arc<Head>, StoreError> {
        let (shared, state) = (self.shared.clone(), self.state.clone());
        self.check_live()?;
        let upload = self.request.upload;
        if let Some(head) = state.with_catalog(&shared.layout, |catalog| catalog.of_upload(upload))? {
            return Ok(head);
        }
        self.check_unused()?;
        self.check_commit_quota()?;
        self.sweep_unused()?;
        self.large.finish()?;
        let sequence = state.with_catalog(&shared.layout, |catalog| catalog.next_sequence())?;
        // Where there is no room for the plan, the upload stays for when there is: nothing was put anywhere yet.
        let head = Arc::new(self.write_plan(sequence, unreadable)?);
        self.committing = true;
        self.flush()?;
        self.put_in_place()?;
        self.committed = true;
        let summary = state.with_catalog(&shared.layout, |catalog| {
            catalog.add(head.clone());
            ClientSummary::of(catalog)
        })?;
        let record = &state.record;
        summary::keep_after_change(&shared.disk, &shared.layout, record.id, &record.folder, &summary);
        heal(&shared, &state, &head);
        Ok(head)
    }

    /// Whether the snapshot fits the client's quota beside those that are there now.
    pub(super) fn check_commit_quota(&self) -> Result<(), StoreError> {
        let stored = self.state.with_catalog(&self.shared.layout, |catalog| catalog.stored_bytes())?;
        let index_bytes: u64 = self.records().map(IndexRecord::encoded_bytes).sum();
        self.state.quota.check(stored.saturating_add(self.stored_bytes(index_bytes)))
    }

    /// What the snapshot adds to the disk.
    fn stored_bytes(&self, index_bytes: u64) -> u64 {
        let large = self.large.delta_bytes() + self.large.blocks_bytes();
        let in_vault = self.in_vault.map_or(0, |share| share.stored_bytes);
        self.new_bytes + large + self.range_bytes + index_bytes + in_vault
    }

    fn check_complete(&self, counts: CommitCounts) -> Result<(), StoreError> {
        if self.request.dry_run {
            return Err(StoreError::out_of_place("nothing is stored in a dry run"));
        }
        let mut found = CommitCounts { ranges: self.slots.len() as u32, entries: 0, ..counts };
        for (number, slot) in self.slots.iter().enumerate() {
            match &slot.state {
                SlotState::Held(record) | SlotState::Finished(record) => found.entries += u64::from(record.entries),
                SlotState::Offered | SlotState::Added { .. } => {
                    return Err(StoreError::out_of_place(format!("commit before range {number} is complete")));
                }
            }
        }
        match found == counts {
            true => Ok(()),
            false => Err(StoreError::out_of_place(format!(
                "the client counts {} ranges and {} entries, the server {} and {}",
                counts.ranges, counts.entries, found.ranges, found.entries
            ))),
        }
    }

    /// Taking a commit back removes what bears its id, so nothing may bear it before the intent is written.
    fn check_unused(&self) -> Result<(), StoreError> {
        let (layout, client) = (&self.shared.layout, &self.state.record.folder);
        let head = layout.snapshots(client).join(head_name(self.snapshot));
        let name = self.snapshot.as_str();
        let (received, delta) = (layout.received(client).join(name), layout.deltas(client).join(name));
        let blocks = layout.ranges(client).join(blocks_name(self.snapshot));
        let places = [received, delta, blocks, layout.index(client, self.snapshot), head];
        match places.into_iter().find(|place| place.symlink_metadata().is_ok()) {
            Some(place) => Err(StoreError::damaged(&place, "the new snapshot would have its name: back up again")),
            None => Ok(()),
        }
    }

    fn records(&self) -> impl Iterator<Item = &IndexRecord> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Held(record) | SlotState::Finished(record) => Some(record),
            SlotState::Offered | SlotState::Added { .. } => None,
        })
    }

    /// The ranges that this upload wrote.
    pub(super) fn new_records(&self) -> Vec<IndexRecord> {
        let finished = |slot: &Slot| match &slot.state {
            SlotState::Finished(record) => Some(record.clone()),
            _ => None,
        };
        self.slots.iter().filter_map(finished).collect()
    }

    /// The range files that this upload wrote.
    fn new_ranges(&self) -> Vec<[u8; HASH_BYTES]> {
        set_of(self.new_records().iter().map(|record| record.file)).into_iter().collect()
    }

    /// Writes index, head and intent into the upload's folder.
    fn write_plan(&mut self, sequence: u64, unreadable: u64) -> Result<Head, StoreError> {
        let mut head = self.head(sequence);
        head.totals.unreadable = head.totals.unreadable.saturating_add(unreadable);
        let stored_bytes = self.stored_bytes(0);
        let copy = HeadCopy { stored_bytes, json: head.encode_copy(&self.state.record.name) };
        let (index, index_blake3) = encode_index(self.snapshot, self.slots.len() as u32, self.records(), &copy);
        head.totals.stored_bytes = stored_bytes + index.len() as u64;
        head.index_blake3 = index_blake3;
        let intent = Intent::new(self.snapshot, self.request.upload).encode();
        let staging = self.staging();
        staging.write_index(index)?;
        staging.write_file(HEAD, &head.encode())?;
        staging.write_file(INTENT, &intent)?;
        Ok(head)
    }

    /// The head but for what is known only once there is an index.
    fn head(&self, sequence: u64) -> Head {
        let new_bytes = self.new_bytes + self.large.delta_bytes();
        let mut totals = SnapshotTotals { new_bytes, ..SnapshotTotals::default() };
        for record in self.records() {
            totals.entries += u64::from(record.entries);
            totals.files += u64::from(record.files);
            totals.bytes = totals.bytes.saturating_add(record.content_bytes);
            totals.unreadable += u64::from(record.unreadable);
        }
        Head {
            sequence,
            id: self.snapshot,
            client: self.state.record.id,
            upload: self.request.upload,
            parent: self.base().map(|base| base.id),
            started: self.request.started,
            committed: self.shared.clock.now(),
            roots: self.request.roots.clone(),
            label: self.request.label.clone(),
            host: self.request.host.clone(),
            tags: self.request.tags.clone(),
            unauthenticated: self.unauthenticated,
            totals,
            index_blake3: [0; HASH_BYTES],
            vault: self.in_vault.map(|share| share.place),
        }
    }

    /// Few new files are flushed one by one: waiting for everything else that is being written on the same
    /// file system would take longer. Many are flushed at once, where the system reports its failures.
    fn flush(&mut self) -> Result<(), StoreError> {
        let ranges = self.new_ranges();
        let few = ranges.len() <= FLUSHED_SINGLY_MAX && !self.staging().has_many_contents();
        match &self.anchor {
            Some(anchor) if !few => {
                self.shared.disk.flush_all(anchor.as_fd()).at("flush", self.shared.layout.data())
            }
            _ => self.staging().flush_each(&ranges),
        }
    }

    fn put_in_place(&mut self) -> Result<(), StoreError> {
        let (shared, state) = (self.shared.clone(), self.state.clone());
        let (disk, layout, client) = (&shared.disk, &shared.layout, &state.record.folder);
        let (snapshot, ranges) = (self.snapshot, self.new_ranges());
        let (has_delta, has_blocks) = (self.large.delta_bytes() > 0, self.large.blocks_bytes() > 0);
        let staging = self.staging();
        if staging.has_files() {
            let (received, path) = open(layout.received(client))?;
            disk.rename(staging.folder(), FILES, received.as_fd(), snapshot.as_str().as_bytes())
                .at("fill", &path)?;
            disk.flush_folder(received.as_fd(), b"received").at("flush", &path)?;
            disk.flush_folder(staging.folder(), b"upload").at("flush", staging.path())?;
        }
        if has_delta {
            let (deltas, path) = open(layout.deltas(client))?;
            disk.rename(staging.folder(), DELTA, deltas.as_fd(), snapshot.as_str().as_bytes()).at("fill", &path)?;
            disk.flush_folder(deltas.as_fd(), b"deltas").at("flush", &path)?;
        }
        if let Some(staged) = staging.ranges() {
            let (folder, path) = open(layout.ranges(client))?;
            if has_blocks {
                let name = blocks_name(snapshot);
                disk.rename(staging.folder(), BLOCKS, folder.as_fd(), name.as_bytes()).at("fill", &path)?;
            }
            for name in ranges.iter().map(|name| hex(name)) {
                disk.rename(staged, name.as_bytes(), folder.as_fd(), name.as_bytes()).at("fill", &path)?;
            }
            disk.flush_folder(folder.as_fd(), b"ranges").at("flush", &path)?;
        }
        let (snapshots, path) = open(layout.snapshots(client))?;
        for (staged, name) in [(INDEX, index_name(snapshot)), (HEAD, head_name(snapshot))] {
            disk.rename(staging.folder(), staged, snapshots.as_fd(), name.as_bytes()).at("fill", &path)?;
            disk.flush_folder(snapshots.as_fd(), b"snapshots").at("flush", &path)?;
        }
        Ok(())
    }
}

fn open(path: impl AsRef<Path> + Into<std::path::PathBuf>) -> Result<(OwnedFd, std::path::PathBuf), StoreError> {
    let path = path.into();
    Ok((open_folder(&path).at("open", &path)?, path))
}
