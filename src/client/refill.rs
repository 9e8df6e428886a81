//! Makes a large file right from what is there: its part of an earlier restore, and the file that stands under its
//! name. The server tells the hashes of the content's blocks; equal blocks stay in the part or are copied to it, and
//! only what differs is fetched, with the hashes of the next stretch behind it. Holes are not written.
//!
//! Nothing of this is believed: the whole part is read and its sums are compared before it becomes the file. Where
//! they differ, or the server cannot say enough, the file is fetched whole by the page that it belongs to.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::connect::Session;
use super::error::ClientError;
use super::properties::Properties;
use super::query::unexpected;
use super::standing::has_sums;
use super::target::{Part, RestoreTarget, TargetError};
use super::vault::HeldFiles;
use crate::base::limits::{CONTENT_CHUNK_BYTES, READ_BLOCKS_MAX};
use crate::base::path::EntryPath;
use crate::base::shutdown::Shutdown;
use crate::crypto::{BLOCK_BYTES, ContentSums, block_sum, blocks_in};
use crate::protocol::message::{BLOCK_HASH_BYTES, BlockRun, ReadBlocks, Selection, ToClient, ToServer};

const BLOCK: u64 = BLOCK_BYTES as u64;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A large file of which something is there.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Its place in its page.
    pub number: u32,
    pub path: EntryPath,
    pub sums: ContentSums,
    pub properties: Properties,
}

/// How far a file was made right.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refilled {
    /// Whether the file stands under its name, with the right content.
    pub is_right: bool,
    /// Bytes that were there.
    pub kept: u64,
    /// Bytes that were fetched, or are holes.
    pub fetched: u64,
}

/// Makes one file right. `progress` is told bytes as they turn out right, and as they come.
pub(super) fn refill(
    session: &mut Session,
    snapshot: &Selection,
    candidate: &Candidate,
    target: &mut RestoreTarget,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<Refilled, ClientError> {
    let part = match target.open_part(&candidate.path) {
        Ok(Some(part)) => part,
        // Whatever is in the way there is told when the file is fetched whole.
        Ok(None) | Err(_) => return Ok(Refilled::default()),
    };
    let selection = Selection { paths: vec![candidate.path.clone()], ..snapshot.clone() };
    let shutdown = session.shutdown.clone();
    let mut filling = Filling::new(&part, candidate, &shutdown, &mut progress)?;
    // Of a vault's content nobody but this side can say what is there.
    let files = [Some(&part.file), part.standing.as_ref()].into_iter().flatten();
    session.held = Arc::new(HeldFiles(files.filter_map(|file| file.try_clone().ok()).collect()));
    let filled = filling.fill(session, &selection);
    // They hold the lock of the part.
    session.held = Arc::default();
    filled?;
    let mut refilled = filling.refilled;
    refilled.is_right = filling.state == State::Right
        && match target.finish_part(&candidate.path, candidate.properties, &part) {
            Ok(()) => true,
            Err(error) => give_up_unless_hopeless(error).map(|()| false)?,
        };
    Ok(refilled)
}

/// A disk that is full, or cannot be written, ends the restore; with anything else the file is fetched whole.
fn give_up_unless_hopeless(error: TargetError) -> Result<(), ClientError> {
    match error.is_disk_full() || error.is_read_only() {
        true => Err(error.into()),
        false => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Filling,
    Right,
    /// It cannot be made right in this way.
    Hopeless,
}

/// A part that is being filled.
struct Filling<'a> {
    part: &'a Part,
    candidate: &'a Candidate,
    /// How long the part was: behind that nothing of it is stored.
    part_bytes: u64,
    /// From here on no hashes have been asked for.
    next: u64,
    hashes: BlockRun,
    /// What the present answer brings, and how much of it has come.
    runs: Vec<BlockRun>,
    run: usize,
    run_bytes: u64,
    /// What the next answer is to bring.
    lacking: Vec<BlockRun>,
    state: State,
    refilled: Refilled,
    block: Vec<u8>,
    shutdown: &'a Shutdown,
    progress: &'a mut (dyn FnMut(u64, u64) + Send),
}

impl<'a> Filling<'a> {
    fn new(
        part: &'a Part,
        candidate: &'a Candidate,
        shutdown: &'a Shutdown,
        progress: &'a mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Filling<'a>, ClientError> {
        let length = part.file.metadata().map(|metadata| metadata.len());
        let part_bytes =
            length.map_err(|source| ClientError::Io { doing: "look at a part".to_string(), source })?;
        Ok(Filling {
            part,
            candidate,
            part_bytes,
            next: 0,
            hashes: BlockRun { first: 0, count: 0 },
            runs: Vec::new(),
            run: 0,
            run_bytes: 0,
            lacking: Vec::new(),
            state: State::Filling,
            refilled: Refilled::default(),
            block: vec![0; BLOCK_BYTES],
            shutdown,
            progress,
        })
    }

    /// Asks until the part is right, or cannot be made so.
    fn fill(&mut self, session: &mut Session, selection: &Selection) -> Result<(), ClientError> {
        while let State::Filling = self.state {
            let request = self.request(selection);
            session.stream(&ToServer::ReadBlocks(request), |message| self.take(message))?;
        }
        Ok(())
    }

    /// What is lacking of the blocks so far, and the hashes of the next ones.
    fn request(&mut self, selection: &Selection) -> ReadBlocks {
        let left = blocks_in(self.candidate.sums.size) - self.next;
        let count = u32::try_from(left).unwrap_or(READ_BLOCKS_MAX).min(READ_BLOCKS_MAX);
        self.hashes = BlockRun { first: self.next, count };
        self.next = self.hashes.end();
        self.runs = std::mem::take(&mut self.lacking);
        (self.run, self.run_bytes) = (0, 0);
        ReadBlocks { selection: selection.clone(), hashes: self.hashes, runs: self.runs.clone() }
    }

    fn take(&mut self, message: &ToClient<'_>) -> Result<Option<()>, ClientError> {
        if self.shutdown.is_requested() {
            return Err(ClientError::Interrupted);
        }
        match message {
            ToClient::End { .. } => return self.end().map(Some),
            ToClient::ContentFailed { .. } => self.state = State::Hopeless,
            // What still comes of an answer that is of no use any more.
            _ if self.state == State::Hopeless => {}
            ToClient::ContentData(bytes) => self.place(bytes.len() as u64, Some(bytes))?,
            ToClient::ContentHole { bytes } => self.place(*bytes, None)?,
            ToClient::BlockHashes { first, hashes } => self.compare(*first, hashes)?,
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<(), ClientError> {
        if self.state != State::Filling {
            return Ok(());
        }
        if self.run < self.runs.len() || self.hashes.count > 0 {
            return Err(unexpected());
        }
        if self.lacking.is_empty() && self.next >= blocks_in(self.candidate.sums.size) {
            self.state = self.check()?;
        }
        Ok(())
    }

    /// Puts what came where its run says; without bytes it is a hole.
    fn place(&mut self, mut bytes: u64, mut data: Option<&[u8]>) -> Result<(), ClientError> {
        while bytes > 0 {
            let run = self.runs.get(self.run).ok_or_else(unexpected)?;
            let end = run.end().saturating_mul(BLOCK).min(self.candidate.sums.size);
            let at = run.first * BLOCK + self.run_bytes;
            let count = bytes.min(end - at);
            let written = match &mut data {
                Some(data) => {
                    let (now, later) = data.split_at(count as usize);
                    *data = later;
                    self.part.file.write_all_at(now, at)
                }
                None => self.clear(at, count),
            };
            self.note(written)?;
            bytes -= count;
            self.run_bytes += count;
            if at + count == end {
                (self.run, self.run_bytes) = (self.run + 1, 0);
            }
            self.refilled.fetched += count;
            (self.progress)(0, count);
        }
        Ok(())
    }

    /// Makes sure that nothing is left there of what the part was before.
    fn clear(&self, at: u64, bytes: u64) -> io::Result<()> {
        let stored = self.part_bytes.min(at + bytes).saturating_sub(at);
        if stored == 0 || punch_hole(&self.part.file, at, stored) {
            return Ok(());
        }
        (0..stored.div_ceil(BLOCK)).try_for_each(|block| {
            let count = (stored - block * BLOCK).min(BLOCK);
            self.part.file.write_all_at(&ZEROS[..count as usize], at + block * BLOCK)
        })
    }

    /// Looks for the blocks with these hashes; what is not there is lacking.
    fn compare(&mut self, first: u64, hashes: &[u8]) -> Result<(), ClientError> {
        if first != self.hashes.first || self.hashes.count == 0 || self.run < self.runs.len() {
            return Err(unexpected());
        }
        if hashes.len() != self.hashes.count as usize * BLOCK_HASH_BYTES {
            self.state = State::Hopeless;
            return Ok(());
        }
        self.hashes.count = 0;
        for (block, hash) in (first..).zip(hashes.chunks_exact(BLOCK_HASH_BYTES)) {
            let (at, size) = (block * BLOCK, self.candidate.sums.size);
            let bytes = (size - at).min(BLOCK);
            if self.is_there(block, bytes as usize, hash)? {
                self.refilled.kept += bytes;
                (self.progress)(bytes, 0);
                continue;
            }
            match self.lacking.last_mut() {
                Some(last) if last.end() == block => last.count += 1,
                _ => self.lacking.push(BlockRun { first: block, count: 1 }),
            }
        }
        Ok(())
    }

    /// Whether the part has the block, or has it now, copied from the file that stands there.
    fn is_there(&mut self, block: u64, bytes: usize, hash: &[u8]) -> Result<bool, ClientError> {
        let at = block * BLOCK;
        let buffer = &mut self.block[..bytes];
        let mut is_in = |file: &File| {
            file.read_exact_at(buffer, at).is_ok() && block_sum(block, buffer).chaining[..BLOCK_HASH_BYTES] == *hash
        };
        if at < self.part_bytes && is_in(&self.part.file) {
            return Ok(true);
        }
        if !self.part.standing.as_ref().is_some_and(is_in) {
            return Ok(false);
        }
        // Behind what the part stores, zeros are there by themselves.
        let is_hole = at >= self.part_bytes && self.block[..bytes] == ZEROS[..bytes];
        if !is_hole {
            let written = self.part.file.write_all_at(&self.block[..bytes], at);
            self.note(written)?;
        }
        Ok(true)
    }

    /// Reads the whole part. What does not have the content's sums is of no use to anybody.
    fn check(&self) -> Result<State, ClientError> {
        let (sums, mut chunk) = (&self.candidate.sums, vec![0; CONTENT_CHUNK_BYTES]);
        let is_cut = self.part.file.set_len(sums.size).is_ok() && (&self.part.file).rewind().is_ok();
        match is_cut && has_sums(&self.part.file, sums, &mut chunk, self.shutdown)? {
            true => Ok(State::Right),
            false => Ok(State::Hopeless),
        }
    }

    fn note(&mut self, written: io::Result<()>) -> Result<(), ClientError> {
        let Err(source) = written else { return Ok(()) };
        self.state = State::Hopeless;
        let path = self.candidate.path.as_bytes().to_vec();
        give_up_unless_hopeless(TargetError::Io { path, action: "write the file", source })
    }
}

#[cfg(target_os = "linux")]
fn punch_hole(file: &File, at: u64, bytes: u64) -> bool {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, bytes).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_file: &File, _at: u64, _bytes: u64) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 3 * BLOCK_BYTES + 5;

    fn candidate(content: &[u8]) -> Candidate {
        let path = EntryPath::parse(b"large").unwrap();
        Candidate { number: 0, path, sums: ContentSums::of(content), properties: Properties::default() }
    }

    fn content() -> Vec<u8> {
        (0..SIZE).map(|place| (place / 7) as u8).collect()
    }

    fn hashes(content: &[u8]) -> Vec<u8> {
        let blocks = content.chunks(BLOCK_BYTES).zip(0..);
        blocks.flat_map(|(bytes, block)| block_sum(block, bytes).chaining[..BLOCK_HASH_BYTES].to_vec()).collect()
    }

    /// Fills a part that holds `held` by these messages, for two requests at most; gives how it ended.
    fn fill(held: &[u8], answers: &[&[ToClient<'_>]]) -> Result<(State, Refilled), ClientError> {
        let (file, content) = (tempfile::tempfile().unwrap(), content());
        file.write_all_at(held, 0).unwrap();
        let part = Part { name: String::new(), file, standing: None };
        let (candidate, shutdown) = (candidate(&content), Shutdown::new());
        let mut progress = |_, _| {};
        let mut filling = Filling::new(&part, &candidate, &shutdown, &mut progress)?;
        let selection = Selection { snapshot: String::new(), root: None, paths: Vec::new() };
        for answer in answers {
            filling.request(&selection);
            for message in *answer {
                filling.take(message)?;
            }
        }
        Ok((filling.state, filling.refilled))
    }

    #[test]
    fn what_differs_is_fetched_and_the_whole_is_compared() {
        let (content, end) = (content(), ToClient::End { rows: 1 });
        let hashes = hashes(&content);
        let first = [ToClient::BlockHashes { first: 0, hashes: &hashes }, end.clone()];
        let mut held = content.clone();
        held[BLOCK_BYTES] ^= 1;
        let fetched = [ToClient::ContentData(&content[BLOCK_BYTES..2 * BLOCK_BYTES]), end.clone()];
        let (state, refilled) = fill(&held, &[&first, &fetched]).unwrap();
        assert_eq!((state, refilled.kept, refilled.fetched), (State::Right, SIZE as u64 - BLOCK, BLOCK));
        let (state, _) = fill(&content, &[&first]).unwrap();
        assert_eq!(state, State::Right);
        let wrong = [ToClient::ContentData(&held[BLOCK_BYTES..2 * BLOCK_BYTES]), end];
        assert_eq!(fill(&held, &[&first, &wrong]).unwrap().0, State::Hopeless);
    }

    #[test]
    fn what_nobody_asked_for_is_refused() {
        let (content, end) = (content(), ToClient::End { rows: 1 });
        let hashes = hashes(&content);
        let first = [ToClient::BlockHashes { first: 0, hashes: &hashes }, end.clone()];
        for bad in [
            &[ToClient::ContentData(b"x")][..],
            &[ToClient::ContentHole { bytes: 1 }],
            &[ToClient::BlockHashes { first: 1, hashes: &hashes }],
            &[first[0].clone(), first[0].clone()],
            std::slice::from_ref(&end),
            &[ToClient::Verified(Default::default())],
        ] {
            assert!(fill(&content, &[bad]).is_err(), "{bad:?}");
        }
        // Nothing of the part is right: everything is asked for, and no more is taken.
        for bad in [&[ToClient::ContentHole { bytes: u64::MAX }][..], std::slice::from_ref(&end)] {
            assert!(fill(b"", &[&first, bad]).is_err(), "{bad:?}");
        }
        let few = [ToClient::BlockHashes { first: 0, hashes: &hashes[..8] }, end];
        assert_eq!(fill(&content, &[&few]).unwrap().0, State::Hopeless);
    }
}
