//! What lies in the store and nothing tells of any more: clients without a record, and snapshots of which neither head
//! nor index is left. Beside a live server a commit, a prune or a removal may be at work: what they leave is looked for
//! in the order in which they go, so that none of them is taken for a loss.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::client_removal::{id_of_removed, removed_name};
use super::clients::client_file_name;
use super::error::StoreError;
use super::layout::{ClientFolder, Layout, dropped_name, head_name, index_name, names_in};
use super::recovery::Intent;
use super::store::Store;
use super::verify::DamagedFile;
use crate::base::ids::SnapshotId;

/// Clients whose record is gone, and folders that belong to no record.
pub fn records(store: &Store) -> Result<Vec<DamagedFile>, StoreError> {
    let layout = &store.shared.layout;
    let parents = [layout.snapshots_of_all(), layout.received_of_all(), layout.deltas_of_all()];
    let mut folders: BTreeSet<String> = BTreeSet::new();
    for parent in &parents {
        folders.extend(names_in(parent)?.into_iter().filter(|name| ClientFolder::parse(name).is_some()));
    }
    // Listed after the folders: a client that came meanwhile has its record.
    let clients = store.clients();
    let removed: Vec<_> = names_in(&layout.clients())?.iter().filter_map(|name| id_of_removed(name)).collect();
    let mut found = Vec::new();
    for client in &clients {
        let file = layout.clients().join(client_file_name(client.id));
        let is_gone = !file.exists() && !layout.clients().join(removed_name(client.id)).exists();
        if is_gone && store.clients().iter().any(|other| other.id == client.id) {
            found.push(lost(file, "the record of this client is gone: \"server --repair\" makes one".into(), None));
        }
    }
    for name in folders {
        let is_being_removed = removed.iter().any(|id| ends_as(&name, &id.to_string()));
        if is_being_removed || clients.iter().any(|client| client.folder.as_str() == name) {
            continue;
        }
        // Looked at last: one that was removed meanwhile is gone.
        let left: Vec<&PathBuf> = parents.iter().filter(|parent| has_any(&parent.join(&name))).collect();
        let Some(first) = left.first() else { continue };
        let next = match **first == parents[0] {
            true => "\"server --repair\" makes the record again, then verify again",
            false => "put its record and its folder in snapshots back from a copy",
        };
        found.push(lost(
            first.join(&name),
            format!("no record tells whose this is, and nothing of it was read: {next}"),
            None,
        ));
    }
    Ok(found)
}

/// Snapshots of a client of which contents are there, and neither head nor index.
pub fn snapshots(layout: &Layout, client: &ClientFolder) -> Result<Vec<DamagedFile>, StoreError> {
    let mut contents: Vec<(SnapshotId, PathBuf)> = Vec::new();
    for parent in [layout.received(client), layout.deltas(client)] {
        for name in names_in(&parent)? {
            contents.extend(name.parse().ok().map(|id| (id, parent.join(&name))));
        }
    }
    let lists = layout.snapshots(client);
    let is_listed = |id: SnapshotId| {
        [head_name(id), index_name(id), dropped_name(id)]
            .iter()
            .any(|name| lists.join(name).symlink_metadata().is_ok())
    };
    contents.retain(|(id, _)| !is_listed(*id));
    if contents.is_empty() {
        return Ok(Vec::new());
    }
    let coming = coming(layout, client)?;
    // A commit puts its head into place before its intent goes; a prune removes contents before what stands for them.
    contents.retain(|(id, path)| !coming.contains(id) && !is_listed(*id) && path.symlink_metadata().is_ok());
    let mut told = BTreeSet::new();
    contents.retain(|(id, _)| told.insert(*id));
    let problem = "the head and the index of this snapshot are gone: put one of them back from a copy";
    Ok(contents.into_iter().map(|(id, path)| lost(path, problem.into(), Some(id))).collect())
}

/// The snapshots that uploads are becoming.
fn coming(layout: &Layout, client: &ClientFolder) -> Result<BTreeSet<SnapshotId>, StoreError> {
    let incoming = layout.incoming(client);
    let mut coming = BTreeSet::new();
    for upload in names_in(&incoming)? {
        coming.extend(Intent::read(&incoming.join(upload))?.map(|intent| intent.snapshot()));
    }
    Ok(coming)
}

fn has_any(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut items| items.next().is_some())
}

fn ends_as(folder: &str, id: &str) -> bool {
    folder.rsplit_once('-').is_some_and(|(_, end)| end.len() == 8 && id.starts_with(end))
}

fn lost(file: PathBuf, problem: String, snapshot: Option<SnapshotId>) -> DamagedFile {
    DamagedFile { file, path: None, problem, snapshots: snapshot.into_iter().collect() }
}
