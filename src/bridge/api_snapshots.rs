//! What is stored: snapshots, what lies in a folder of one, and single files.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{attachment, write_head};
use super::app::App;
use super::error::ApiError;
use super::routes::{Call, Reply};
use crate::base::entry::EntryKind;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::client::json::{entry_json, put_path, sealed_snapshot_json, size, snapshot_json};
use crate::client::vault::Finding;
use crate::client::{ClientError, Damage, Listed, Session, check_selection};
use crate::protocol::message::{Selection, SnapshotRow, content_flag};

/// Rows of one answer.
const ROWS_MAX: u64 = 5_000;
/// Snapshots and damages of one answer.
const SNAPSHOTS_MAX: usize = 20_000;
const DAMAGES_MAX: usize = 100;
/// How long a list of snapshots may take for heads that only a key opens: the others show another time.
const HEADS_TIME: Duration = Duration::from_secs(3);

/// A path of a snapshot as a person gives it.
pub fn entry_path(bytes: &[u8]) -> Result<EntryPath, ApiError> {
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    EntryPath::parse(bytes).map_err(|error| ApiError::bad(error.to_string()))
}

/// What a request to the server is about.
pub fn selection(snapshot: &str, paths: Vec<EntryPath>) -> Result<Selection, ApiError> {
    let selection = Selection { snapshot: snapshot.to_string(), root: None, paths };
    check_selection(&selection)?;
    Ok(selection)
}

fn damage_json(damage: &Damage) -> Value {
    let path = damage.path.as_ref().map(|path| path.display());
    json!({ "snapshot": damage.snapshot, "path": path, "reason": damage.text })
}

/// What does not fit the chain of this host.
fn finding_json(finding: &Finding) -> Value {
    json!({ "snapshot": finding.snapshot(), "reason": finding.reason() })
}

/// Keeps the first [`DAMAGES_MAX`].
fn note_damage(damaged: &mut Vec<Value>, damage: &Damage) {
    if damaged.len() < DAMAGES_MAX {
        damaged.push(damage_json(damage));
    }
}

pub fn list(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let question = call.app.question();
    let mut session = call.app.peers.session(&question.shutdown)?;
    let (mut rows, mut damaged) = (VecDeque::new(), Vec::new());
    session.snapshots(
        |row| {
            if rows.len() == SNAPSHOTS_MAX {
                rows.pop_back();
            }
            rows.push_front(row.clone());
            Ok(())
        },
        |damage| note_damage(&mut damaged, damage),
    )?;
    let opened = open_heads(call.app, &mut session, &mut rows, &mut damaged);
    let _ = session.close();
    let row_json = |row: &SnapshotRow| match row.vault.is_none() || opened.contains(&row.id) {
        true => snapshot_json(row),
        false => sealed_snapshot_json(row),
    };
    let rows: Vec<Value> = rows.iter().map(row_json).collect();
    Ok(Reply::from(json!({ "snapshots": rows, "damaged": damaged })))
}

/// Puts in what heads say that only the vault's key opens: each once, and as many as there is time for, newest first.
/// Gives those that are open.
fn open_heads(
    app: &App,
    session: &mut Session,
    rows: &mut VecDeque<SnapshotRow>,
    damaged: &mut Vec<Value>,
) -> HashSet<SnapshotId> {
    let mut opened = HashSet::new();
    let Some(key) = app.vault.key() else { return opened };
    let began = Instant::now();
    for row in rows.iter_mut().filter(|row| row.vault == Some(key.put().vault())) {
        if let Some(known) = app.vault.row(&row.id) {
            opened.insert(row.id);
            *row = known;
            continue;
        }
        if began.elapsed() > HEADS_TIME {
            continue;
        }
        match session.vault_row(row.id, key.clone()) {
            Ok(found) => {
                app.vault.keep_row(&found);
                opened.insert(row.id);
                *row = found;
            }
            Err(ClientError::Integrity(text)) => {
                note_damage(damaged, &Damage { snapshot: row.id, path: None, text });
            }
            Err(error) => {
                log::warn!("what is in the vault cannot be listed: {error}");
                break;
            }
        }
    }
    opened
}

pub fn entries(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let folder = call.query("path").filter(|path| !path.is_empty() && *path != b"/").map(entry_path).transpose()?;
    let search = call.query_text("search")?.filter(|text| !text.is_empty()).map(str::to_lowercase);
    let limit = call.query_number("limit")?.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX) as usize;
    let selection = selection(call.part(0)?, folder.iter().cloned().collect())?;
    let mut found = Found { folder, search, limit, rows: Vec::new(), last: None, truncated: false, is_file: false };
    let (mut snapshot, mut damaged) = (None, Vec::new());
    let question = call.app.question();
    let chain = call.app.peers.current().folder.clone();
    let mut session = call.app.peers.session_with(call.app.vault.access(Some(&chain)), &question.shutdown)?;
    session.entries(
        selection,
        |head| {
            snapshot = Some(head.id);
            Ok(())
        },
        |listed| {
            found.take(listed);
            Ok(())
        },
        |damage| note_damage(&mut damaged, damage),
    )?;
    let findings: Vec<Value> = session.compared_with_chain().findings.iter().map(finding_json).collect();
    let _ = session.close();
    if found.is_file {
        return Err(ApiError::bad("the path is no folder"));
    }
    let mut data = json!({
        "snapshot": snapshot,
        "entries": found.rows,
        "truncated": found.truncated,
        "damaged": damaged,
        "findings": findings,
    });
    put_path(&mut data, "path", found.folder.as_ref().map_or(&[][..], EntryPath::as_bytes));
    Ok(Reply::from(data))
}

/// Picks what belongs into an answer from everything below a folder, which comes in path order.
struct Found {
    folder: Option<EntryPath>,
    search: Option<String>,
    limit: usize,
    rows: Vec<Value>,
    /// The row that was made last, by its path: what is below it says nothing new.
    last: Option<EntryPath>,
    truncated: bool,
    /// What was asked about is no folder.
    is_file: bool,
}

impl Found {
    fn take(&mut self, listed: &Listed) {
        let path = &listed.entry.path;
        if self.folder.as_ref() == Some(path) {
            self.is_file = listed.entry.kind != EntryKind::Folder;
            return;
        }
        match &self.search {
            Some(text) if path.display().to_lowercase().contains(text) => {
                self.add(path.name().to_vec(), entry_json(listed))
            }
            Some(_) => {}
            None => self.take_child(listed),
        }
    }

    fn take_child(&mut self, listed: &Listed) {
        let path = &listed.entry.path;
        if self.last.as_ref().is_some_and(|last| path.is_within(last)) {
            return;
        }
        let start = self.folder.as_ref().map_or(0, |folder| folder.as_bytes().len() + 1);
        let below = path.as_bytes().get(start..).unwrap_or_default();
        let name = below.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        if name.len() == below.len() {
            self.last = Some(path.clone());
            return self.add(name, entry_json(listed));
        }
        // A root deeper down: the folders above it are no entries.
        let Ok(child) = EntryPath::parse(&path.as_bytes()[..start + name.len()]) else { return };
        let mut data = json!({ "kind": EntryKind::Folder.word(), "size": 0 });
        put_path(&mut data, "path", child.as_bytes());
        self.last = Some(child);
        self.add(name, data);
    }

    fn add(&mut self, name: Vec<u8>, mut data: Value) {
        if self.rows.len() >= self.limit {
            self.truncated = true;
            return;
        }
        put_path(&mut data, "name", &name);
        self.rows.push(data);
    }
}

/// One file, as an attachment. Its size is asked first, so that a browser sees an answer that ends too early.
pub fn file(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let path = call.query("path").ok_or_else(|| ApiError::bad("path is missing"))?;
    let path = entry_path(path)?;
    let snapshot = call.part(0)?.to_string();
    let app = call.app.clone();
    let (id, length) = {
        let question = app.question();
        let mut session = app.peers.session_with(app.vault.access(None), &question.shutdown)?;
        let found = find_file(&mut session, selection(&snapshot, vec![path.clone()])?, &path)?;
        let _ = session.close();
        found
    };
    let headers = vec![("Content-Disposition", attachment(path.name()))];
    let selection = selection(&id, vec![path])?;
    Ok(Reply::Stream(Box::new(move |out, is_head| {
        let question = app.question();
        let mut session = app
            .peers
            .session_with(app.vault.access(None), &question.shutdown)
            .map_err(|error| io::Error::other(error.text))?;
        write_head(out, 200, "application/octet-stream", length, &headers)?;
        if is_head {
            return Ok(());
        }
        let result = stream_file(&mut session, selection, out);
        if let Err(error) = &result {
            log::warn!("a download was broken off: {error}");
        }
        let _ = session.close();
        result.map_err(|error| io::Error::other(error.to_string()))
    })))
}

/// The snapshot's id and the file's size.
fn find_file(session: &mut Session, selection: Selection, path: &EntryPath) -> Result<(String, u64), ApiError> {
    let (mut snapshot, mut found) = (None, None);
    session.entries(
        selection,
        |head| {
            snapshot = Some(head.id.to_string());
            Ok(())
        },
        |listed| {
            if listed.entry.path == *path {
                found = Some((listed.entry.kind, size(listed), is_readable(listed)));
            }
            Ok(())
        },
        |_| (),
    )?;
    match (snapshot, found) {
        (Some(snapshot), Some((EntryKind::File, size, true))) => Ok((snapshot, size)),
        (_, Some((EntryKind::File, _, false))) => {
            Err(ApiError::missing("this file could not be read when it was backed up"))
        }
        (_, Some(_)) => Err(ApiError::bad("the path is no file: restore folders and links to a folder")),
        _ => Err(ApiError::missing("the snapshot has no such file")),
    }
}

fn is_readable(listed: &Listed) -> bool {
    listed.content.as_ref().is_some_and(|content| content.flags & content_flag::UNREADABLE == 0)
}

/// Writes a content as it comes, but for its last piece: that goes out when the checksums have fitted.
fn stream_file(session: &mut Session, selection: Selection, out: &mut dyn Write) -> Result<(), ClientError> {
    let failed = |source| ClientError::Io { doing: "send a file to the browser".into(), source };
    // The client's worker writes: what it borrows must be able to go there.
    let (sender, pieces) = crossbeam_channel::bounded::<Vec<u8>>(4);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            session.read_file(selection, (0, u64::MAX), |bytes| {
                sender.send(bytes.to_vec()).map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))
            })
        });
        let mut held: Option<Vec<u8>> = None;
        for piece in &pieces {
            if let Some(last) = held.replace(piece) {
                out.write_all(&last).map_err(failed)?;
            }
        }
        let result = reading.join().unwrap_or(Err(ClientError::Interrupted));
        result?;
        out.write_all(&held.unwrap_or_default()).map_err(failed)
    })
}
