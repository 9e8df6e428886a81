//! The fields that several messages share: pairs, texts, tags, paths and snapshot ids.

use super::TEXT_BYTES_MAX;
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::limits::{LABEL_BYTES_MAX, PATH_BYTES_MAX, TAGS_MAX};
use crate::base::path::EntryPath;

pub(super) fn put_pair(out: &mut Vec<u8>, range: u32, entry: u32) {
    out.put_u32(range);
    out.put_u32(entry);
}

pub(super) fn read_pair(reader: &mut Reader<'_>) -> Result<(u32, u32), DecodeError> {
    Ok((reader.u32("range number")?, reader.u32("entry number")?))
}

/// Text longer than a message may hold is cut at a character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_cut_text(out, text, TEXT_BYTES_MAX);
}

pub(super) fn put_cut_text(out: &mut Vec<u8>, text: &str, bytes_max: usize) {
    let most = text.len().min(bytes_max);
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    out.put_bytes16(&text.as_bytes()[..end]);
}

pub(super) fn put_tags(out: &mut Vec<u8>, tags: &[String]) {
    out.put_u32(u32::try_from(tags.len()).expect("at most 64 tags"));
    for tag in tags {
        put_text(out, tag);
    }
}

pub(super) fn read_tags(reader: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    let count = reader.count32(TAGS_MAX, "tags")?;
    (0..count).map(|_| reader.text16(LABEL_BYTES_MAX, "tag")).collect()
}

pub(super) fn put_paths(out: &mut Vec<u8>, paths: &[EntryPath]) {
    out.put_u32(u32::try_from(paths.len()).expect("at most 1,024 paths"));
    for path in paths {
        out.put_bytes16(path.as_bytes());
    }
}

pub(super) fn read_paths(
    reader: &mut Reader<'_>,
    limit: usize,
    what: &'static str,
) -> Result<Vec<EntryPath>, DecodeError> {
    let count = reader.count32(limit, what)?;
    (0..count).map(|_| read_path(reader)).collect()
}

fn read_path(reader: &mut Reader<'_>) -> Result<EntryPath, DecodeError> {
    EntryPath::parse(reader.bytes16(PATH_BYTES_MAX, "path")?).map_err(|_| DecodeError::Invalid { what: "path" })
}

/// A path of length 0 for none.
pub(super) fn put_path_option(out: &mut Vec<u8>, path: Option<&EntryPath>) {
    out.put_bytes16(path.map_or(&[][..], EntryPath::as_bytes));
}

pub(super) fn read_path_option(reader: &mut Reader<'_>) -> Result<Option<EntryPath>, DecodeError> {
    match reader.bytes16(PATH_BYTES_MAX, "path")? {
        [] => Ok(None),
        bytes => Ok(Some(EntryPath::parse(bytes).map_err(|_| DecodeError::Invalid { what: "path" })?)),
    }
}

pub(super) fn put_snapshot_option(out: &mut Vec<u8>, snapshot: Option<SnapshotId>) {
    out.put_flag(snapshot.is_some());
    if let Some(snapshot) = snapshot {
        out.put_bytes(snapshot.as_str().as_bytes());
    }
}

pub(super) fn read_snapshot_option(reader: &mut Reader<'_>) -> Result<Option<SnapshotId>, DecodeError> {
    if reader.flag("snapshot")? { read_snapshot(reader).map(Some) } else { Ok(None) }
}

pub(super) fn read_snapshot(reader: &mut Reader<'_>) -> Result<SnapshotId, DecodeError> {
    let id = SnapshotId::from_bytes(reader.bytes(SnapshotId::LENGTH, "snapshot id")?);
    id.ok_or(DecodeError::Invalid { what: "snapshot id" })
}
