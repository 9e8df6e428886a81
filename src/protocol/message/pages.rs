//! The requests of a restore that goes on in a folder where something is already: a page of a snapshot's entries,
//! and parts of one large content. And how far a verification has come.

use super::fields::{put_path_option, read_path_option};
use super::{BLOCK_HASH_BYTES, Selection, ToClient, ToServer};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::limits::{PAGE_ENTRIES_MAX, READ_BLOCKS_MAX, READ_RUNS_MAX};
use crate::base::path::EntryPath;

/// Bytes of a run: first block and count.
const RUN_BYTES: usize = 8 + 4;

/// The entries of a selection behind a path, and the contents of some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<'a> {
    pub selection: Selection,
    /// Only what comes later in the order of paths.
    pub after: Option<EntryPath>,
    /// At most so many, from 1 to [`PAGE_ENTRIES_MAX`]. Fewer come only where the selection ends.
    pub entries: u32,
    /// A bit for each entry of the page, lowest first: its content is wanted. Where the bits end, none is. Without
    /// bits the page is only looked at: what the selection names and the snapshot has not is not told.
    pub wanted: Option<&'a [u8]>,
}

/// What a verification has read so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Contents of plain snapshots.
    pub files: u64,
    /// Of those, and of sealed objects.
    pub bytes: u64,
    /// Snapshots in vaults, of which the server can compare checksums only.
    pub sealed_snapshots: u64,
    /// What it read for that.
    pub sealed_objects: u64,
}

pub(super) fn put_verified(out: &mut Vec<u8>, verified: &Verified) {
    let Verified { files, bytes, sealed_snapshots, sealed_objects } = *verified;
    [files, bytes, sealed_snapshots, sealed_objects].into_iter().for_each(|number| out.put_u64(number));
}

pub(super) fn read_verified(reader: &mut Reader<'_>) -> Result<Verified, DecodeError> {
    Ok(Verified {
        files: reader.u64("verified files")?,
        bytes: reader.u64("verified bytes")?,
        sealed_snapshots: reader.u64("verified snapshots in vaults")?,
        sealed_objects: reader.u64("verified sealed objects")?,
    })
}

/// Neighbouring blocks of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRun {
    pub first: u64,
    pub count: u32,
}

impl BlockRun {
    /// The block behind the run.
    pub fn end(self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

/// The bytes of some blocks of one content, and behind them the hashes of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBlocks {
    /// With one path.
    pub selection: Selection,
    /// Of which blocks the hashes are wanted, [`READ_BLOCKS_MAX`] at most; none for a count of 0.
    pub hashes: BlockRun,
    /// Whose bytes are wanted: rising, not overlapping, not empty, [`READ_RUNS_MAX`] at most.
    pub runs: Vec<BlockRun>,
}

impl<'a> Page<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.selection.encode(out);
        put_path_option(out, self.after.as_ref());
        out.put_u32(self.entries);
        out.put_flag(self.wanted.is_some());
        out.put_bytes(self.wanted.unwrap_or_default());
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<ToServer<'a>, DecodeError> {
        let (selection, after) = (Selection::decode(reader)?, read_path_option(reader)?);
        let entries = reader.u32("entries of a page")?;
        let wanted = if reader.flag("wanted contents")? { Some(reader.rest()) } else { None };
        let is_fine = |bits: &[u8]| bits.len() <= (entries as usize).div_ceil(8);
        match (1..=PAGE_ENTRIES_MAX).contains(&entries) && wanted.is_none_or(is_fine) {
            true => Ok(ToServer::Page(Page { selection, after, entries, wanted })),
            false => Err(DecodeError::Invalid { what: "entries of a page" }),
        }
    }
}

impl ReadBlocks {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.selection.encode(out);
        for run in [&self.hashes].into_iter().chain(&self.runs) {
            out.put_u64(run.first);
            out.put_u32(run.count);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<ReadBlocks, DecodeError> {
        let (selection, hashes) = (Selection::decode(reader)?, read_run(reader)?);
        let mut runs: Vec<BlockRun> = Vec::with_capacity(reader.remaining() / RUN_BYTES);
        while !reader.is_empty() {
            let run = read_run(reader)?;
            let rises = runs.last().is_none_or(|last| last.end() <= run.first);
            if run.count == 0 || !rises || runs.len() == READ_RUNS_MAX {
                return Err(DecodeError::Invalid { what: "runs of blocks" });
            }
            runs.push(run);
        }
        match hashes.count <= READ_BLOCKS_MAX {
            true => Ok(ReadBlocks { selection, hashes, runs }),
            false => Err(DecodeError::Invalid { what: "count of blocks" }),
        }
    }
}

fn read_run(reader: &mut Reader<'_>) -> Result<BlockRun, DecodeError> {
    Ok(BlockRun { first: reader.u64("first block")?, count: reader.u32("count of blocks")? })
}

pub(super) fn put_hashes(out: &mut Vec<u8>, first: u64, hashes: &[u8]) {
    out.put_u64(first);
    out.put_bytes(hashes);
}

pub(super) fn read_hashes<'a>(reader: &mut Reader<'a>) -> Result<ToClient<'a>, DecodeError> {
    let (first, hashes) = (reader.u64("first block")?, reader.rest());
    match hashes.len().is_multiple_of(BLOCK_HASH_BYTES) {
        true => Ok(ToClient::BlockHashes { first, hashes }),
        false => Err(DecodeError::Invalid { what: "hashes of blocks" }),
    }
}

/// The longest body of a page: what the selection may have, a path, and the bits.
pub(super) const fn page_bytes_max(selection_bytes_max: usize) -> usize {
    selection_bytes_max + 2 + crate::base::limits::PATH_BYTES_MAX + 4 + 1 + PAGE_ENTRIES_MAX as usize / 8
}

/// The longest body that asks for blocks.
pub(super) const fn read_blocks_bytes_max(selection_bytes_max: usize) -> usize {
    selection_bytes_max + RUN_BYTES * (1 + READ_RUNS_MAX)
}
