//! A client removed with everything it stored. Renaming its record decides: from then on there is no such
//! client, and whoever comes first, this run or the next start, removes the rest. The renamed record goes last,
//! so that whatever is still there has a name for the folders it lies in.
//!
//! Nobody reads or writes the folders meanwhile: a client is removed only while it has no session, and none
//! begins without a record.

use std::os::fd::AsFd;
use std::path::Path;

use super::clients::{ClientRecord, client_file_name, read_client};
use super::error::{At, StoreError};
use super::layout::{ClientFolder, Layout, names_in};
use super::summary;
use super::tree::remove_tree;
use crate::base::durable::Disk;
use crate::base::folder::open_folder;
use crate::base::ids::ClientId;

/// What ends the name of the record of a client that is being removed.
const REMOVED: &str = ".removed";

/// The record of a client that is being removed.
pub fn removed_name(id: ClientId) -> String {
    format!("{id}{REMOVED}")
}

/// Whose record of a removal has this file name.
pub fn id_of_removed(name: &str) -> Option<ClientId> {
    name.strip_suffix(REMOVED)?.parse().ok()
}

/// The first step, which decides; durable when this returns.
pub fn decide(disk: &Disk, layout: &Layout, record: &ClientRecord) -> Result<(), StoreError> {
    let clients = layout.clients();
    let folder = open_folder(&clients).at("open", &clients)?;
    let (from, to) = (client_file_name(record.id), removed_name(record.id));
    disk.rename(folder.as_fd(), from.as_bytes(), folder.as_fd(), to.as_bytes())
        .and_then(|()| disk.flush_folder(folder.as_fd(), b"clients"))
        .at("rename", &clients.join(from))
}

/// The rest: the folders, then the record. What is gone already is no error.
pub fn complete(disk: &Disk, layout: &Layout, record: &ClientRecord) -> Result<(), StoreError> {
    remove_data(disk, layout, record.id, &record.folder)?;
    let clients = layout.clients();
    let folder = open_folder(&clients).at("open", &clients)?;
    let name = removed_name(record.id);
    disk.remove_file(folder.as_fd(), name.as_bytes())
        .and_then(|()| disk.flush_folder(folder.as_fd(), b"clients"))
        .at("remove", &clients.join(name))
}

/// Removes everything that a client has stored in this folder.
pub fn remove_data(disk: &Disk, layout: &Layout, id: ClientId, folder: &ClientFolder) -> Result<(), StoreError> {
    for parent in layout.client_parents() {
        remove_below(disk, &parent, folder)?;
    }
    summary::remove(disk, layout, id)?;
    remove_damage(disk, layout, folder)
}

fn remove_damage(disk: &Disk, layout: &Layout, client: &ClientFolder) -> Result<(), StoreError> {
    let path = layout.damage();
    let folder = open_folder(&path).at("open", &path)?;
    for path in [layout.damage_list(client), layout.checked(client)] {
        match path.file_name().map(|name| disk.remove_file(folder.as_fd(), name.as_encoded_bytes())) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("remove", &path);
            }
            _ => {}
        }
    }
    disk.flush_folder(folder.as_fd(), b"damage").at("flush", &path)
}

fn remove_below(disk: &Disk, parent: &Path, client: &ClientFolder) -> Result<(), StoreError> {
    let folder = match open_folder(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at("open", parent)?,
    };
    let removed = remove_tree(disk, folder.as_fd(), client.as_str().as_bytes());
    removed.and_then(|()| disk.flush_folder(folder.as_fd(), b"parent")).at("empty", &parent.join(client.as_str()))
}

/// At a start: completes the removals that a stop cut short, one line each.
pub fn complete_all(disk: &Disk, layout: &Layout) -> Result<Vec<String>, StoreError> {
    let clients = layout.clients();
    let mut lines = Vec::new();
    for name in names_in(&clients)?.iter().filter(|name| name.ends_with(REMOVED)) {
        match read_client(&clients.join(name)) {
            Ok(record) => {
                complete(disk, layout, &record)?;
                lines.push(format!("{}: the removal of this client was finished", record.folder));
            }
            // Which folders were its own is not known: they are left alone, and a person can look.
            Err(error) => lines.push(format!("a client cannot be removed to its end: {error}")),
        }
    }
    Ok(lines)
}
