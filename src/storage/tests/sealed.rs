//! The tests of the store can be run with all stores sealed: what they look at on the disk is read as the store reads it.

use super::*;
use crate::storage::at_rest::{FileKeyring, Keyring, SealedKind, read_stored_file};
use crate::storage::layout::ClientFolder;

/// Whether this run of the tests has all stores sealed: every one of them can be run so.
pub fn is_sealed() -> bool {
    StorageKeys::usual().key.is_some()
}

/// What opens a file with content, by where it lies.
pub fn keyring_for(file: &Path) -> Option<FileKeyring> {
    let mut parts = file.components().map(|part| part.as_os_str().to_str().unwrap());
    let of_all = ["received_files", "deltas", "ranges", "snapshots"];
    let kind = match parts.find(|part| of_all.contains(part)) {
        Some("received_files") => SealedKind::Content,
        Some("deltas") => SealedKind::Delta,
        Some("ranges") if file.extension().is_some() => SealedKind::Blocks,
        Some("ranges") => SealedKind::Range,
        _ => SealedKind::Index,
    };
    let client = ClientFolder::parse(parts.next()?)?;
    Some(Keyring::new(StorageKeys::usual().key, Vec::new(), true).of(&client).files(kind))
}

/// What a file of a store holds, sealed or not; none where it is damaged.
pub fn plaintext(file: &Path) -> Option<Vec<u8>> {
    match keyring_for(file) {
        Some(keyring) => read_stored_file(file, u64::MAX, &keyring).ok(),
        None => std::fs::read(file).ok(),
    }
}
