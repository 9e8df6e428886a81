//! Verification with the full key: that heads, lists and, if wanted, all contents are what this client stored, and that the
//! heads of each host follow each other. What the server itself finds, by checksums, is told before.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::connect::Session;
use super::super::error::ClientError;
use super::super::query::{Damage, VerifySummary, matches_selector, sums};
use super::access::VaultAccess;
use super::chain::{Chain, Chains, Compared, Finding};
use super::listed::Listed;
use super::reader::{LATEST, Opened, VaultReader};
use super::walk::{Choice, Found, Wanted};
use super::writers::{Place, Writers};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::vault::VaultId;
use crate::crypto::{ContentHasher, FullKey};
use crate::protocol::message::{ContentEnd, FailureCode, Selection, SnapshotRow, ToClient};

/// What is told while a verification goes on.
pub struct Telling<'a> {
    /// Files and bytes so far.
    pub progress: &'a mut (dyn FnMut(u64, u64) + Send),
    pub damage: &'a mut (dyn FnMut(&Damage) + Send),
    /// What is no damage, and worth a look.
    pub warning: &'a mut (dyn FnMut(&str) + Send),
}

impl Session {
    /// Whether a full key, or its passphrase, was named for this run.
    pub fn has_vault_key(&self) -> bool {
        self.vault.as_ref().is_some_and(|vault| vault.is_given() && vault.is_possible())
    }

    /// Whether a full key may be here at all.
    pub fn may_have_vault_key(&self) -> bool {
        self.vault.as_ref().is_some_and(|vault| vault.is_possible())
    }

    /// Without any key: what is wrong where the server does not show the newest snapshot that this host has stored in a
    /// vault, or the state folder does not say which that is.
    pub fn newest_in_vault_is_shown(&mut self) -> Result<Option<Finding>, ClientError> {
        let Some(access) = self.vault.clone() else { return Ok(None) };
        // Before the list, so that what it has is in the list.
        let Some(chains) = access.chains() else { return Ok(None) };
        let chains = match chains {
            Ok(chains) => chains,
            Err(problem) => return Ok(Some(Finding::Unreadable { problem: problem.clone() })),
        };
        let mut damaged = Vec::new();
        let shown = self.own_snapshots(|damage| damaged.push(damage.snapshot))?;
        let finding = chains.newest_is_shown(&self.holder(), &shown);
        // One whose head cannot be read is there; what is wrong with it the server tells.
        Ok(finding.filter(|finding| finding.snapshot().is_none_or(|newest| !damaged.contains(&newest))))
    }

    /// This client's snapshots, and which vaults they are in.
    fn own_snapshots(
        &mut self,
        damage: impl FnMut(&Damage) + Send,
    ) -> Result<Vec<(SnapshotId, Option<VaultId>)>, ClientError> {
        let mut own = Vec::new();
        let row = |row: &SnapshotRow| {
            own.push((row.id, row.vault));
            Ok(())
        };
        self.snapshots(row, damage)?;
        Ok(own)
    }

    /// Opens the key's vault's snapshots that are selected, walks their lists, and with `read_data` reads every content:
    /// this client's; where it has none in that vault, those of others too. Where there is nothing to open it does nothing.
    ///
    /// # Errors
    /// Those of the key and of the line; [`FailureCode::NotFound`] where the selector means nothing. Damage is told and
    /// counted.
    pub fn verify_vaults(
        &mut self,
        selection: &Selection,
        read_data: bool,
        telling: Telling<'_>,
    ) -> Result<VerifySummary, ClientError> {
        let own = self.own_snapshots(|_| {})?;
        let selected = selected(&own, &selection.snapshot);
        let is_all = selection.snapshot.is_empty();
        let Some(access) = self.vault.clone() else { return Ok(VerifySummary::default()) };
        let (state, holder) = (access.state(), self.holder());
        let Some(key) = self.key_to_verify(&access, &selected, is_all)? else {
            return Ok(VerifySummary::default());
        };
        let vault = key.put().vault();
        let is_any_meant = own.iter().any(|(id, _)| matches_selector(*id, &selection.snapshot));
        let whose = match (is_all, is_any_meant) {
            (true, _) if !own.iter().any(|(_, of)| *of == Some(vault)) => Whose::All,
            (false, false) => Whose::Others,
            _ => Whose::Own,
        };
        let open_chain = || state.as_ref().map(|state| Chain::open(state, vault, holder.clone())).transpose();
        // Before the list, so that what it has is in the list.
        let chain = open_chain();
        self.converse(|line| {
            let mut reader = VaultReader::new(line, key);
            let (listed, is_there) = reader.listed_or_nothing()?;
            let mut verifying = Verifying::new(telling, read_data, listed);
            for (id, of) in selected.iter().filter(|(_, of)| *of != vault) {
                verifying.not_looked_into(*id, *of);
            }
            let wanted: Vec<SnapshotId> = match (is_there, whose) {
                (Err(error), Whose::Others) => return Err(error),
                (Err(error), _) => {
                    // Nothing can be opened: what the server itself has compared says little.
                    if let Some((id, _)) = selected.iter().rev().find(|(_, of)| *of == vault) {
                        verifying.damaged(*id, None, format!("it cannot be opened: {error}"));
                    }
                    Vec::new()
                }
                (Ok(()), Whose::Own) => selected.iter().filter(|(_, of)| *of == vault).map(|(id, _)| *id).collect(),
                (Ok(()), Whose::All) => verifying.listed.heads.keys().copied().collect(),
                (Ok(()), Whose::Others) => {
                    let opened = reader.open(selection)?;
                    vec![opened.ok_or_else(|| reader.nothing_meant(selection))?.row.id]
                }
            };
            for id in wanted {
                verifying.snapshot(&mut reader, id, &selection.paths)?;
            }
            if is_all {
                verifying.others(&mut reader)?;
            }
            match chain.and_then(|chain| Ok(chain.zip(open_chain()?))) {
                Ok(Some((mut chain, now))) => verifying.chain(&mut chain, &now, is_all),
                Ok(None) => {}
                Err(error) => verifying.no_chain(&error.to_string()),
            }
            Ok(verifying.summary)
        })
    }

    /// The key that is here; none where nothing asks for one.
    fn key_to_verify(
        &self,
        access: &VaultAccess,
        selected: &[(SnapshotId, VaultId)],
        is_all: bool,
    ) -> Result<Option<Arc<FullKey>>, ClientError> {
        // Without a key here the error names the vault. One that is here opens its own, whatever else is selected.
        if let Some((_, vault)) = selected.first() {
            return access.full_key(Some(*vault).filter(|_| !access.is_possible())).map(Some);
        }
        // A server that shows nothing any more is asked about what this host knows that it stored.
        let used_last = match access.state().filter(|_| is_all) {
            // That it cannot be read is told where it is compared.
            Some(state) => Chains::read(&state).ok().and_then(|chains| chains.vault_used_last(&self.holder())),
            None => None,
        };
        match used_last {
            Some(vault) => access.full_key(Some(vault)).map(Some),
            None if access.is_possible() && self.keeps_vaults => access.full_key(None).map(Some),
            None => Ok(None),
        }
    }
}

/// Whose snapshots of the key's vault are opened.
#[derive(Clone, Copy)]
enum Whose {
    /// This client's that are selected.
    Own,
    /// All, where none is this client's.
    All,
    /// The one that the selector means, which is none of this client's.
    Others,
}

/// The vaults' snapshots among this client's that a selector means.
fn selected(own: &[(SnapshotId, Option<VaultId>)], selector: &str) -> Vec<(SnapshotId, VaultId)> {
    let meant = match selector {
        LATEST => &own[own.len().saturating_sub(1)..],
        _ => own,
    };
    let meant = meant.iter().filter(|(id, _)| matches_selector(*id, selector));
    meant.filter_map(|(id, vault)| Some((*id, (*vault)?))).collect()
}

struct Verifying<'a> {
    summary: VerifySummary,
    telling: Telling<'a>,
    read_data: bool,
    /// What the server shows of the vault, and says it dropped.
    listed: Listed,
    writers: Writers,
    opened: BTreeSet<SnapshotId>,
}

impl<'a> Verifying<'a> {
    fn new(telling: Telling<'a>, read_data: bool, listed: Listed) -> Verifying<'a> {
        let (summary, writers, opened) = (VerifySummary::default(), Writers::default(), BTreeSet::new());
        Verifying { summary, telling, read_data, listed, writers, opened }
    }

    fn snapshot(
        &mut self,
        reader: &mut VaultReader<'_>,
        id: SnapshotId,
        paths: &[EntryPath],
    ) -> Result<(), ClientError> {
        let Some(opened) = self.open(reader, id)? else { return Ok(()) };
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

    /// Opens the head of a snapshot, and takes its place in its writer's chain; none where it is damaged, which
    /// is told, or is not there any more.
    fn open(&mut self, reader: &mut VaultReader<'_>, id: SnapshotId) -> Result<Option<Opened>, ClientError> {
        let opened = match reader.open_by_id(id) {
            Ok(opened) => opened,
            Err(ClientError::Integrity(text)) => {
                // A damage is told with its snapshot.
                let named = format!("snapshot {id}: ");
                self.damaged(id, None, text.strip_prefix(&named).unwrap_or(&text).to_string());
                return Ok(None);
            }
            // Dropped since it was listed: there is nothing to verify.
            Err(ClientError::Failure { code: FailureCode::NotFound, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.opened.insert(id);
        let place = Place { snapshot: id, hash: opened.hash, previous: opened.head.previous };
        if let Some(problem) = self.writers.add(opened.head.writer, opened.head.counter, place) {
            self.damaged(id, None, problem);
        }
        Ok(Some(opened))
    }

    /// Opens the heads that are none of this client's selected ones: of them nothing else is verified.
    fn others(&mut self, reader: &mut VaultReader<'_>) -> Result<(), ClientError> {
        let others: Vec<SnapshotId> = self.listed.heads.keys().copied().collect();
        for id in others {
            if !self.opened.contains(&id) && !self.is_told(id) {
                self.open(reader, id)?;
            }
        }
        Ok(())
    }

    /// Whether the whole snapshot was told to be damaged.
    fn is_told(&self, id: SnapshotId) -> bool {
        self.summary.damaged.iter().any(|damage| damage.snapshot == id && damage.path.is_none())
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

    /// Compares what the server shows with what this host keeps of its own chain, and, where all heads were opened, what
    /// is missing between those of every writer. `now` is the chain as it is since: a backup may run beside.
    fn chain(&mut self, chain: &mut Chain, now: &Chain, is_all: bool) {
        let Compared { findings, dropped, .. } = chain.compare(&self.listed);
        self.summary.snapshots_dropped = dropped.len() as u64;
        let newest = self.writers.newest(chain.writer()).filter(|_| is_all && !chain.stored().is_empty());
        let unknown = newest.filter(|(number, _)| *number > now.newest_number());
        // It was sealed with the vault's key, and follows on what is known, or that is told below: no server made it.
        if let Some((_, snapshot)) = unknown {
            (self.telling.warning)(&Finding::Unknown { snapshot }.to_string());
        }
        for finding in findings {
            if let Some(snapshot) = finding.snapshot() {
                self.damaged(snapshot, None, finding.reason());
            }
        }
        if is_all {
            let unopened = self.listed.heads.keys().copied().filter(|id| !self.opened.contains(id)).collect();
            let own = chain.stored().first().map(|first| (chain.writer(), first.counter));
            for gap in self.writers.gaps(&self.listed.dropped, &unopened, own) {
                self.damaged(gap.before, None, gap.to_string());
            }
        }
    }

    /// The chain cannot be read: what only it shows is not found.
    fn no_chain(&mut self, problem: &str) {
        self.summary.is_chain_unread = true;
        (self.telling.warning)(&Finding::Unreadable { problem: problem.to_string() }.to_string());
    }

    fn not_looked_into(&mut self, snapshot: SnapshotId, vault: VaultId) {
        self.summary.not_looked_into += 1;
        let text = format!("not looked into: it is in the vault {vault}, whose key is not here");
        (self.telling.damage)(&Damage { snapshot, path: None, text });
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
