//! Verification with the full key: that heads, lists and, if wanted, all contents are what this client stored, and that the
//! heads of each host follow each other. What the server itself finds, by checksums, is told before.

use std::collections::HashMap;

use super::super::connect::Session;
use super::super::error::ClientError;
use super::super::query::{Damage, VerifySummary, matches_selector, sums};
use super::super::state::StateFolder;
use super::chain::{Chain, Shown};
use super::fetching::Line;
use super::reader::{Opened, VaultReader};
use super::walk::{Choice, Found, Wanted};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::vault::VaultId;
use crate::channel::worker;
use crate::crypto::ContentHasher;
use crate::protocol::message::{ContentEnd, Selection, ToClient};

/// What is told while a verification goes on.
pub struct Telling<'a> {
    /// Files and bytes so far.
    pub progress: &'a mut (dyn FnMut(u64, u64) + Send),
    pub damage: &'a mut (dyn FnMut(&Damage) + Send),
}

impl Session {
    /// Whether a full key, or its passphrase, was named for this run.
    pub fn has_vault_key(&self) -> bool {
        self.vault.as_ref().is_some_and(|vault| vault.is_given() && vault.is_possible())
    }

    /// Opens this client's snapshots in vaults as far as they are selected, walks their lists, and with `read_data` reads
    /// every content. Without any such snapshot it does nothing.
    ///
    /// # Errors
    /// Those of the key and of the line; damage is told and counted.
    pub fn verify_vaults(
        &mut self,
        selection: &Selection,
        read_data: bool,
        telling: Telling<'_>,
    ) -> Result<VerifySummary, ClientError> {
        let mut own: Vec<(SnapshotId, Option<VaultId>)> = Vec::new();
        self.snapshots(
            |row| {
                own.push((row.id, row.vault));
                Ok(())
            },
            |_| {},
        )?;
        let selected = selected(&own, &selection.snapshot);
        let (Some(access), Some((_, vault))) = (self.vault.clone(), selected.first().copied()) else {
            return Ok(VerifySummary::default());
        };
        let key = access.full_key(Some(vault))?;
        let newest = own.iter().rev().find(|(_, of)| *of == Some(vault)).map(|(id, _)| *id);
        let mut chain = Chain::open(&StateFolder::look(access.state()), vault, &self.server.to_string())?;
        let is_all = selection.snapshot.is_empty();
        let conversation = worker::converse(&mut self.channel, |intake, outbox| {
            let mut verifying =
                Verifying { summary: VerifySummary::default(), telling, read_data, heads: HashMap::new() };
            let mut reader = VaultReader::new(Line::new(intake, outbox), key);
            for (id, of) in selected.iter().copied() {
                match of == vault {
                    true => verifying.snapshot(&mut reader, id, &selection.paths)?,
                    false => verifying.damaged(id, None, format!("it is in the vault {of}, whose key is not here")),
                }
            }
            if is_all {
                verifying.chain(&mut chain, newest);
            }
            Ok(verifying.summary)
        });
        match conversation {
            Ok(worker::Conversation { result: Err(ClientError::Channel { .. }), channel: Err(error) }) => {
                Err(self.error(error))
            }
            Ok(conversation) => conversation.result,
            Err(error) => Err(self.error(error)),
        }
    }
}

/// The vaults' snapshots among this client's that a selector means.
fn selected(own: &[(SnapshotId, Option<VaultId>)], selector: &str) -> Vec<(SnapshotId, VaultId)> {
    let meant = match selector {
        "latest" => &own[own.len().saturating_sub(1)..],
        _ => own,
    };
    let meant = meant.iter().filter(|(id, _)| matches_selector(*id, selector));
    meant.filter_map(|(id, vault)| Some((*id, (*vault)?))).collect()
}

/// A head that was opened: its place in its writer's chain.
struct Place {
    id: SnapshotId,
    hash: [u8; 32],
    previous: [u8; 32],
}

struct Verifying<'a> {
    summary: VerifySummary,
    telling: Telling<'a>,
    read_data: bool,
    /// By writer and counter.
    heads: HashMap<([u8; 16], u64), Place>,
}

impl Verifying<'_> {
    fn snapshot(
        &mut self,
        reader: &mut VaultReader<'_>,
        id: SnapshotId,
        paths: &[EntryPath],
    ) -> Result<(), ClientError> {
        let opened = match reader.open_by_id(id) {
            Ok(opened) => opened,
            Err(ClientError::Integrity(text)) => {
                self.damaged(id, None, text);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.head(&opened);
        let read_data = self.read_data;
        let mut files = 0;
        let mut choose = |found: &Found| {
            let is_readable = super::reader::wanted(found) == Wanted::Content;
            files += u64::from(is_readable);
            Ok(Choice::Take(if read_data && is_readable { Wanted::Content } else { Wanted::Nothing }))
        };
        let mut current = Current::default();
        reader.check(&opened, paths, &mut choose, &mut |message| {
            self.take(id, &mut current, message);
            Ok(())
        })?;
        if !read_data {
            self.summary.files += files;
        }
        (self.telling.progress)(self.summary.files, self.summary.bytes);
        Ok(())
    }

    fn take(&mut self, id: SnapshotId, current: &mut Current, message: &ToClient<'_>) {
        match message {
            ToClient::Entry(row) => *current = Current::of(row.entry),
            ToClient::ContentData(bytes) => {
                current.hasher.update(bytes);
                self.summary.bytes += bytes.len() as u64;
            }
            ToClient::ContentHole { bytes } => {
                current.hasher.update_zeros(*bytes);
                self.summary.bytes += bytes;
            }
            ToClient::ContentEnd(end) => self.end(id, current, end),
            ToClient::ContentFailed { text } => self.damaged(id, current.path.take(), text.clone()),
            ToClient::Damage { path, text, .. } => self.damaged(id, path.clone(), text.clone()),
            _ => {}
        }
    }

    fn end(&mut self, id: SnapshotId, current: &mut Current, end: &ContentEnd) {
        self.summary.files += 1;
        if std::mem::take(&mut current.hasher).finish() != sums(end) {
            let text = "its chunks are good, and the content is not the one that was recorded".to_string();
            self.damaged(id, current.path.take(), text);
        }
        (self.telling.progress)(self.summary.files, self.summary.bytes);
    }

    /// Two heads of one writer with one number, or one that does not follow the one before it, were not stored so.
    fn head(&mut self, opened: &Opened) {
        let (writer, counter, id) = (opened.head.writer, opened.head.counter, opened.row.id);
        let place = Place { id, hash: opened.hash, previous: opened.head.previous };
        let before = counter.checked_sub(1).and_then(|before| self.heads.get(&(writer, before)));
        let after = self.heads.get(&(writer, counter.saturating_add(1)));
        let does_not_follow = before.is_some_and(|before| before.hash != place.previous)
            || after.is_some_and(|after| after.previous != place.hash);
        let other = self.heads.insert((writer, counter), place).map(|other| other.id);
        if let Some(other) = other {
            self.damaged(id, None, format!("its head has the number {counter}, as that of {other} has"));
        } else if does_not_follow {
            self.damaged(id, None, "its head does not follow the one before it".to_string());
        }
    }

    /// Compares the newest head with what this host keeps of its own chain.
    fn chain(&mut self, chain: &mut Chain, newest: Option<SnapshotId>) {
        let shown = newest.and_then(|id| {
            let place = self.heads.values().find(|place| place.id == id)?;
            Some(Shown { snapshot: id, head: place.hash })
        });
        // A head that is damaged was told as such.
        let is_known = newest.is_none() || shown.is_some();
        if let Some(text) = chain.compare(shown).filter(|_| is_known)
            && let Some(id) = newest.or_else(|| chain.stored().and_then(|stored| stored.snapshot))
        {
            self.damaged(id, None, text);
        }
    }

    fn damaged(&mut self, snapshot: SnapshotId, path: Option<EntryPath>, text: String) {
        let damage = Damage { snapshot, path, text };
        (self.telling.damage)(&damage);
        self.summary.add(damage);
    }
}

/// The content that is being read.
#[derive(Default)]
struct Current {
    path: Option<EntryPath>,
    hasher: ContentHasher,
}

impl Current {
    fn of(entry: &[u8]) -> Current {
        let entry = crate::base::entry::Entry::decode(&mut crate::base::codec::Reader::new(entry));
        Current { path: entry.ok().map(|entry| entry.path), hasher: ContentHasher::new() }
    }
}
