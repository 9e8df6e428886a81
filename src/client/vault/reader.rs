//! Answers about a vault's snapshots, made on this side: the messages that the server would send if it could read what it
//! keeps. So listing, restoring and verifying are the same for both kinds of snapshots.

use std::sync::Arc;

use super::super::error::ClientError;
use super::super::query::unexpected;
use super::contents::{Contents, Emit};
use super::fetching::{Fetcher, Line};
use super::format::VaultHead;
use super::held::{BlocksWanted, HeldFiles};
use super::listed::{Listed, ListedHead};
use super::walk::{Choice, Found, Walk, Wanted};
use crate::base::entry::EntryKind;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::vault::VaultId;
use crate::crypto::FullKey;
use crate::protocol::message::{
    FailureCode, Page, ReadBlocks, Selection, SnapshotRow, StoredHead, ToClient, ToServer, VaultAnswer,
    VaultRequest, content_flag,
};

/// What a selector means that names no id.
pub const LATEST: &str = "latest";

/// A snapshot whose head is open.
pub struct Opened {
    pub row: SnapshotRow,
    pub head: VaultHead,
    /// Of the sealed head.
    pub hash: [u8; 32],
}

/// Reads one vault.
pub struct VaultReader<'l> {
    pub fetcher: Fetcher<'l>,
    vault: VaultId,
    /// What this host has of the content that blocks are asked of.
    held: Arc<HeldFiles>,
}

/// What a request selects, if it asks for entries or contents.
pub fn selection_of<'r>(request: &'r ToServer<'_>) -> Option<&'r Selection> {
    match request {
        ToServer::ListEntries(selection) | ToServer::Restore(selection) => Some(selection),
        ToServer::Page(Page { selection, .. }) => Some(selection),
        ToServer::ReadFile { selection, .. } | ToServer::ReadBlocks(ReadBlocks { selection, .. }) => {
            Some(selection)
        }
        _ => None,
    }
}

impl<'l> VaultReader<'l> {
    pub fn new(line: Line<'l>, key: Arc<FullKey>) -> VaultReader<'l> {
        let vault = key.put().vault();
        VaultReader { fetcher: Fetcher::new(line, key), vault, held: Arc::default() }
    }

    /// With what this host has of the content that blocks are asked of.
    pub fn holding(self, held: Arc<HeldFiles>) -> VaultReader<'l> {
        VaultReader { held, ..self }
    }

    /// Opens the snapshot with this id, or, of any client, what the selector means; none where it means none.
    pub fn open(&mut self, selection: &Selection) -> Result<Option<Opened>, ClientError> {
        let (selector, is_latest) = match selection.snapshot.as_str() {
            LATEST => ("", true),
            id => (id, false),
        };
        let listed = self.listed(selector)?;
        if !is_latest && let Some((other, _)) = listed.heads.iter().nth(1) {
            let text =
                format!("several snapshots begin with {selector:?}, {other} among them: give more of the id");
            return Err(ClientError::Failure { code: FailureCode::NotFound, text });
        }
        // By the second in their ids, which the heads have sealed; only within it, by when the server says they were committed.
        let mut found: Vec<(&SnapshotId, &ListedHead)> = listed.heads.iter().collect();
        found.sort_unstable_by_key(|(id, head)| (id.begun(), head.committed, *id));
        for id in found.into_iter().rev().map(|(id, _)| *id) {
            let opened = self.open_by_id(id)?;
            if selection.root.as_ref().is_none_or(|root| !is_latest || opened.head.roots.contains(root)) {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    /// What is said where a selector means no snapshot.
    pub fn nothing_meant(&self, Selection { snapshot, root, .. }: &Selection) -> ClientError {
        let what = match root {
            Some(root) if snapshot == LATEST => format!("has the root {}", root.display()),
            None if snapshot == LATEST => "is there yet".to_string(),
            _ => format!("begins with {snapshot:?}"),
        };
        let text = format!(
            "no snapshot of this client, or in the vault {}, {what}: \"cyberbackup snapshots\" lists this client's",
            self.vault
        );
        ClientError::Failure { code: FailureCode::NotFound, text }
    }

    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// All of the vault's snapshots; or, beside an empty list, the server's word that it has no such vault. After that it
    /// ends the connection.
    pub fn listed_or_nothing(&mut self) -> Result<(Listed, Result<(), ClientError>), ClientError> {
        match self.listed("") {
            Err(error @ ClientError::Failure { code: FailureCode::NotFound, .. }) => {
                Ok((Listed::default(), Err(error)))
            }
            listed => Ok((listed?, Ok(()))),
        }
    }

    /// The vault's snapshots whose ids begin so.
    pub fn listed(&mut self, selector: &str) -> Result<Listed, ClientError> {
        self.list(selector, |_| {})
    }

    /// Opens the head of a snapshot. One that was sealed for another snapshot is not this one's.
    pub fn open_by_id(&mut self, id: SnapshotId) -> Result<Opened, ClientError> {
        let mut found = None;
        let mut listed = self.list(id.as_str(), |stored| {
            found = Some((stored.head.name, stored.head.key, stored.head.sealed.to_vec(), as_stored(stored)));
        })?;
        let hash = match listed.heads.remove(&id).map(|head| head.hash) {
            Some(Ok(hash)) => hash,
            Some(Err(problem)) => return Err(damaged_head(id, &problem)),
            None if listed.dropped.ids.contains(&id) => return Err(dropped(id)),
            None => return Err(damaged_head(id, "the server does not give it")),
        };
        let (name, key, sealed, stored) = found.filter(|(.., stored)| stored.id == id).ok_or_else(unexpected)?;
        let stored = StoredHead {
            head: crate::protocol::message::SealedHead { name, key, sealed: &sealed },
            client: String::new(),
            ..stored
        };
        let head = match self.fetcher.open_head(&stored)? {
            Ok(plain) => VaultHead::decode(plain).map_err(|error| damaged_head(id, &error.to_string()))?,
            Err(text) => return Err(damaged_head(id, &text)),
        };
        if head.snapshot != id {
            let text = format!("it is that of snapshot {}, which the server shows under this id", head.snapshot);
            return Err(damaged_head(id, &text));
        }
        Ok(Opened { row: self.row(&stored, &head), head, hash })
    }

    fn row(&self, stored: &StoredHead<'_>, head: &VaultHead) -> SnapshotRow {
        SnapshotRow {
            id: stored.id,
            sequence: stored.sequence,
            started: head.started,
            committed: stored.committed,
            entries: head.entries,
            files: head.files,
            bytes: head.bytes,
            new_bytes: stored.stored_bytes,
            unreadable: head.unreadable,
            host: head.host.clone(),
            label: head.label.clone(),
            tags: head.tags.clone(),
            roots: head.roots.clone(),
            vault: Some(self.vault),
        }
    }

    /// Asks for the snapshots whose ids begin with `selector`, and gives `take` each head that the server gives.
    fn list(&mut self, selector: &str, mut take: impl FnMut(&StoredHead<'_>)) -> Result<Listed, ClientError> {
        let (vault, read_token) = (self.vault, *self.fetcher.key().read_token());
        let request = VaultRequest::Snapshots { vault, read_token, selector: selector.to_string() };
        let (line, mut listed) = (self.fetcher.line(), Listed::default());
        line.send(&ToServer::Vault(request))?;
        loop {
            match line.receive()? {
                ToClient::Vault(VaultAnswer::Snapshot(stored)) => {
                    listed.add(&stored)?;
                    take(&stored);
                }
                ToClient::Vault(VaultAnswer::Dropped(part)) => listed.dropped.add(part)?,
                ToClient::Damage { snapshot, text, .. } => listed.add_damaged(snapshot, text)?,
                ToClient::End { .. } => return Ok(listed),
                _ => return Err(unexpected()),
            }
        }
    }

    /// Answers a request about a snapshot's entries.
    pub fn answer(
        &mut self,
        opened: &Opened,
        request: &ToServer<'_>,
        emit: &mut Emit<'_>,
    ) -> Result<(), ClientError> {
        match request {
            ToServer::ListEntries(selection) => self.entries(opened, &selection.paths, false, emit),
            ToServer::Restore(selection) => self.entries(opened, &selection.paths, true, emit),
            ToServer::Page(page) => self.page(opened, page, emit),
            ToServer::ReadFile { selection, offset, length } => {
                let part = Wanted::Part { offset: *offset, length: *length };
                self.file(opened, &selection.paths, part, emit)
            }
            ToServer::ReadBlocks(read) => self.blocks(opened, read, emit),
            _ => Err(unexpected()),
        }
    }

    fn entries(
        &mut self,
        opened: &Opened,
        paths: &[EntryPath],
        with_contents: bool,
        emit: &mut Emit<'_>,
    ) -> Result<(), ClientError> {
        emit(&ToClient::Snapshot(opened.row.clone()))?;
        let mut walk = Walk::new(paths, None);
        let mut choose =
            |found: &Found| Ok(Choice::Take(if with_contents { wanted(found) } else { Wanted::Nothing }));
        self.walk(opened, &mut walk, &mut choose, emit)?;
        match walk.unmatched() {
            [] => emit(&ToClient::End { rows: walk.rows }),
            [path, ..] => Err(not_found(path, opened)),
        }
    }

    fn page(&mut self, opened: &Opened, page: &Page<'_>, emit: &mut Emit<'_>) -> Result<(), ClientError> {
        emit(&ToClient::Snapshot(opened.row.clone()))?;
        let mut walk = Walk::new(&page.selection.paths, page.after.clone());
        let (mut number, mut is_full) = (0, false);
        let mut choose = |found: &Found| {
            if number == page.entries {
                is_full = true;
                return Ok(Choice::Stop);
            }
            let byte = page.wanted.and_then(|bits| bits.get(number as usize / 8));
            let is_wanted = byte.is_some_and(|byte| byte >> (number % 8) & 1 == 1);
            number += 1;
            Ok(Choice::Take(if is_wanted { wanted(found) } else { Wanted::Nothing }))
        };
        self.walk(opened, &mut walk, &mut choose, emit)?;
        if page.wanted.is_some() && !is_full {
            for path in walk.unmatched() {
                // What comes no later than the beginning has been walked past before, or is looked for now.
                let is_before = page.after.as_ref().is_some_and(|after| path <= after);
                if !is_before || !self.has(opened, path)? {
                    return Err(not_found(path, opened));
                }
            }
        }
        emit(&ToClient::End { rows: walk.rows })
    }

    /// Whether something of the snapshot is at or below the path, or may be.
    fn has(&mut self, opened: &Opened, path: &EntryPath) -> Result<bool, ClientError> {
        let mut walk = Walk::new(std::slice::from_ref(path), None);
        let mut is_there = false;
        let mut choose = |_: &Found| {
            is_there = true;
            Ok(Choice::Stop)
        };
        self.walk(opened, &mut walk, &mut choose, &mut |_| Ok(()))?;
        Ok(is_there || walk.rows > 0)
    }

    /// Blocks of a file, and the hashes of those that this host holds.
    fn blocks(&mut self, opened: &Opened, read: &ReadBlocks, emit: &mut Emit<'_>) -> Result<(), ClientError> {
        let held = self.held.clone();
        let mut walk = Walk::new(&read.selection.paths, None);
        walk.blocks = Some(BlocksWanted::new(read, &held));
        let mut choose = |found: &Found| {
            Ok(Choice::Take(if wanted(found) == Wanted::Content { Wanted::Blocks } else { Wanted::Nothing }))
        };
        let mut emit_blocks = |message: &ToClient<'_>| match message {
            ToClient::ContentData(_) | ToClient::ContentHole { .. } | ToClient::ContentFailed { .. } => {
                emit(message)
            }
            ToClient::Damage { text, .. } => emit(&ToClient::ContentFailed { text: text.clone() }),
            _ => Ok(()),
        };
        self.walk(opened, &mut walk, &mut choose, &mut emit_blocks)?;
        let hashes = walk.blocks.take().map(BlocksWanted::finish).unwrap_or_default();
        if read.hashes.count > 0 {
            emit(&ToClient::BlockHashes { first: read.hashes.first, hashes: &hashes })?;
        }
        emit(&ToClient::End { rows: 0 })
    }

    fn file(
        &mut self,
        opened: &Opened,
        paths: &[EntryPath],
        part: Wanted,
        emit: &mut Emit<'_>,
    ) -> Result<(), ClientError> {
        let [path] = paths else { return Err(unexpected()) };
        let mut walk = Walk::new(paths, None);
        let mut problem = Some(not_found(path, opened));
        let mut choose = |found: &Found| {
            if found.entry.path != *path {
                return Ok(Choice::Stop);
            }
            if wanted(found) == Wanted::Nothing {
                let what = if found.entry.has_content() {
                    "file that could not be read then"
                } else {
                    found.entry.kind.word()
                };
                let text =
                    format!("{} has no content in snapshot {}: it is a {what}", path.display(), opened.row.id);
                problem = Some(ClientError::Failure { code: FailureCode::NotFound, text });
                return Ok(Choice::Stop);
            }
            problem = None;
            Ok(Choice::Take(part))
        };
        let mut damaged = None;
        let mut emit_file = |message: &ToClient<'_>| match message {
            ToClient::Damage { text, .. } => {
                damaged = Some(text.clone());
                Ok(())
            }
            message => emit(message),
        };
        let mut contents = Contents::new(&mut self.fetcher, &mut emit_file, false);
        walk_with(&mut contents, opened, &mut walk, &mut choose)?;
        match (problem, damaged) {
            (None, _) => emit(&ToClient::End { rows: 1 }),
            (Some(_), Some(text)) => Err(ClientError::Integrity(format!("{}: {text}", path.display()))),
            (Some(problem), None) => Err(problem),
        }
    }

    /// Walks what is below the paths, for who wants to know whether it is whole.
    ///
    /// # Errors
    /// [`FailureCode::NotFound`] where one of the paths selects nothing.
    pub fn check(
        &mut self,
        opened: &Opened,
        paths: &[EntryPath],
        choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
        emit: &mut Emit<'_>,
    ) -> Result<(), ClientError> {
        let mut contents = Contents::new(&mut self.fetcher, emit, false);
        let mut walk = Walk::new(paths, None);
        walk_with(&mut contents, opened, &mut walk, choose)?;
        match walk.unmatched() {
            [] => Ok(()),
            [path, ..] => Err(not_found(path, opened)),
        }
    }

    fn walk(
        &mut self,
        opened: &Opened,
        walk: &mut Walk<'_>,
        choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
        emit: &mut Emit<'_>,
    ) -> Result<(), ClientError> {
        let mut contents = Contents::new(&mut self.fetcher, emit, true);
        walk_with(&mut contents, opened, walk, choose)
    }
}

fn walk_with(
    contents: &mut Contents<'_, '_, '_>,
    opened: &Opened,
    walk: &mut Walk<'_>,
    choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
) -> Result<(), ClientError> {
    let snapshot = opened.row.id;
    walk.run(&opened.head, contents, choose, &mut |contents, path, text| {
        (contents.emit)(&ToClient::Damage { snapshot, path: path.cloned(), text })
    })
}

/// All of the content, where there is one.
pub fn wanted(found: &Found) -> Wanted {
    let is_readable = found.content.is_some_and(|content| content.flags & content_flag::UNREADABLE == 0);
    if found.entry.kind == EntryKind::File && is_readable { Wanted::Content } else { Wanted::Nothing }
}

fn as_stored(stored: &StoredHead<'_>) -> StoredHead<'static> {
    StoredHead {
        id: stored.id,
        sequence: stored.sequence,
        committed: stored.committed,
        client: stored.client.clone(),
        stored_bytes: stored.stored_bytes,
        head: crate::protocol::message::SealedHead { name: stored.head.name, key: stored.head.key, sealed: &[] },
    }
}

/// By its id, or since it was listed.
pub fn dropped(id: SnapshotId) -> ClientError {
    let text = format!("snapshot {id} is not there any more: the server says that it was dropped");
    ClientError::Failure { code: FailureCode::NotFound, text }
}

fn damaged_head(id: SnapshotId, text: &str) -> ClientError {
    ClientError::Integrity(format!("snapshot {id}: its head cannot be read: {text}"))
}

fn not_found(path: &EntryPath, opened: &Opened) -> ClientError {
    let text = format!("{} is not in snapshot {}: \"cyberbackup ls\" shows what is", path.display(), opened.row.id);
    ClientError::Failure { code: FailureCode::NotFound, text }
}
