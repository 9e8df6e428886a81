//! What an upload adds for large contents: its `.blocks` file and its delta file, in the upload's folder until
//! the commit, and the map of the content that is arriving. Both files only grow, except that a content which
//! arrived damaged, or is begun anew, is cut off their ends again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::at_rest::{ClientKeyring, Ending, FileKeyring, FileWriter, SealedKind};
use super::blocks_format::{
    BlocksPlace, HEADER_BYTES, MAP_BYTES_MAX, Map, RECORD_ITEMS_MAX, SOURCES_MAX, Source, Stretch, StretchData,
    StretchRecord, SumsPlace, encode_header, encode_stretches, encode_sums_record,
};
use super::blocks_reader::{ContentMap, open_blocks};
use super::error::{At, StoreError};
use crate::base::durable::{Disk, exists};
use crate::base::ids::SnapshotId;
use crate::crypto::BlockSum;

/// The names of the two files in an upload's folder.
pub const BLOCKS: &[u8] = b"blocks";
pub const DELTA: &[u8] = b"delta";
/// Stands for the record of sums that has not been written yet.
const OPEN_RECORD: u64 = u64::MAX;

/// An upload's `.blocks` file and delta file; each is there from its first byte on.
#[derive(Debug)]
pub struct LargeFiles {
    disk: Disk,
    path: PathBuf,
    folder: OwnedFd,
    snapshot: SnapshotId,
    blocks_keyring: FileKeyring,
    delta_keyring: FileKeyring,
    blocks: Option<FileWriter>,
    delta: Option<FileWriter>,
}

/// How long the two files were at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub blocks: u64,
    pub delta: u64,
}

/// What the two files hold behind their last whole segments, where they are sealed: what is lost of them with a process
/// that stops while it writes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rests {
    pub blocks: Vec<u8>,
    pub delta: Vec<u8>,
}

impl LargeFiles {
    /// Opens what an earlier session left in the upload's `folder`, at `path`, cut off behind `lengths`. A file
    /// may be shorter, where the machine stopped: what a journal tells of the rest is in doubt then. `rests` is what the
    /// journal has of their ends.
    ///
    /// # Errors
    /// `Damaged` where the `.blocks` file is not one of this snapshot.
    pub fn open(
        disk: &Disk,
        path: &Path,
        folder: OwnedFd,
        snapshot: SnapshotId,
        lengths: Mark,
        rests: &Rests,
        keyring: &ClientKeyring,
    ) -> Result<LargeFiles, StoreError> {
        let mut files = LargeFiles {
            disk: disk.clone(),
            path: path.to_path_buf(),
            folder,
            snapshot,
            blocks_keyring: keyring.files(SealedKind::Blocks),
            delta_keyring: keyring.files(SealedKind::Delta),
            blocks: None,
            delta: None,
        };
        let (blocks, delta) = (&files.blocks_keyring, &files.delta_keyring);
        let blocks = files.reopen(BLOCKS, lengths.blocks, HEADER_BYTES as u64, &rests.blocks, blocks)?;
        let delta = files.reopen(DELTA, lengths.delta, 1, &rests.delta, delta)?;
        (files.blocks, files.delta) = (blocks, delta);
        files.finish()?;
        if files.blocks.is_some() {
            let path = files.path.join(std::str::from_utf8(BLOCKS).expect("an ASCII literal"));
            open_blocks(&path, snapshot, &files.blocks_keyring, Ending::Growing)?;
        }
        Ok(files)
    }

    /// A file shorter than `least` is of no use, and makes room for a new one.
    fn reopen(
        &self,
        name: &[u8],
        length: u64,
        least: u64,
        rest: &[u8],
        keyring: &FileKeyring,
    ) -> Result<Option<FileWriter>, StoreError> {
        let folder = self.folder.as_fd();
        let opened = match exists(folder, name).at("look at a file below", &self.path)? {
            false => return Ok(None),
            true if length < least => Ok(None),
            true => FileWriter::reopen(&self.disk, folder, name, length, rest, keyring),
        };
        match opened.at("go on with a file below", &self.path)? {
            Some(file) if file.bytes() >= least => Ok(Some(file)),
            _ => {
                self.disk.remove_file(folder, name).at("go on with a file below", &self.path)?;
                Ok(None)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn blocks_bytes(&self) -> u64 {
        self.blocks.as_ref().map_or(0, FileWriter::bytes)
    }

    pub fn delta_bytes(&self) -> u64 {
        self.delta.as_ref().map_or(0, FileWriter::bytes)
    }

    pub fn mark(&self) -> Mark {
        Mark { blocks: self.blocks_bytes(), delta: self.delta_bytes() }
    }

    /// Ends both files, so that all of them can be read.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        let mut files = self.blocks.iter_mut().chain(&mut self.delta);
        files.try_for_each(FileWriter::finish).at("write a file below", &self.path)
    }

    /// What the journal is to keep of the files' ends.
    pub fn rests(&self) -> Rests {
        let rest = |file: &Option<FileWriter>| file.as_ref().map_or(Vec::new(), |file| file.rest().to_vec());
        Rests { blocks: rest(&self.blocks), delta: rest(&self.delta) }
    }

    /// Takes back what was written since the mark. True where the journal has to have the files' [rests](LargeFiles::rests)
    /// before anything more is written: what is kept of a sealed segment is in memory alone then.
    pub fn cut_back(&mut self, mark: Mark) -> Result<bool, StoreError> {
        let mut has_rest = false;
        for (file, length) in [(&mut self.blocks, mark.blocks), (&mut self.delta, mark.delta)] {
            if let Some(file) = file
                && file.bytes() > length
            {
                file.cut_back(length).at("cut a file below", &self.path)?;
                has_rest |= !file.rest().is_empty();
            }
        }
        Ok(has_rest)
    }

    /// Appends changed bytes of a content.
    pub fn append_delta(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let LargeFiles { disk, folder, path, delta, delta_keyring: keyring, .. } = self;
        let file = open_or_create(disk, folder, DELTA, delta, keyring).at("create a file below", path)?;
        file.write(bytes).at("write a file below", path)
    }

    /// Appends a record; gives its offset.
    fn append_record(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        let LargeFiles { disk, folder, path, blocks, snapshot, blocks_keyring: keyring, .. } = self;
        let file = open_or_create(disk, folder, BLOCKS, blocks, keyring).at("create a file below", path)?;
        if file.bytes() == 0 {
            file.write(&encode_header(*snapshot)).at("write a file below", path)?;
        }
        let offset = file.bytes();
        file.write(bytes).at("write a file below", path)?;
        Ok(offset)
    }
}

fn open_or_create<'a>(
    disk: &Disk,
    folder: &OwnedFd,
    name: &[u8],
    file: &'a mut Option<FileWriter>,
    keyring: &FileKeyring,
) -> io::Result<&'a mut FileWriter> {
    if file.is_none() {
        *file = Some(FileWriter::create(disk, folder.as_fd(), name, keyring)?);
    }
    Ok(file.as_mut().expect("created just now"))
}

/// The map of a content that is arriving. What it holds in memory is bounded: full records go to the disk.
#[derive(Debug, Default)]
pub struct MapWriter {
    size: u64,
    sources: Vec<Source>,
    /// Of the record of sums that is not full yet.
    sums: Vec<BlockSum>,
    /// Of the record of stretches that is not full yet.
    stretches: Vec<Stretch>,
    records: Vec<StretchRecord>,
}

impl MapWriter {
    /// Goes on with a map behind the first `bytes` of its content: whole blocks, and at least one.
    pub fn resume(map: &mut ContentMap, bytes: u64) -> Result<MapWriter, StoreError> {
        let (Map { size, sources, records }, stretches) = map.beginning(bytes)?;
        Ok(MapWriter { size, sources, sums: Vec::new(), stretches, records })
    }

    /// The number of a source, which is added where it is new.
    pub fn add_source(&mut self, source: &Source) -> Result<u16, StoreError> {
        let known = self.sources.iter().position(|known| known == source);
        let number = known.unwrap_or_else(|| {
            self.sources.push(source.clone());
            self.sources.len() - 1
        });
        match self.sources.len() > SOURCES_MAX {
            true => Err(StoreError::out_of_place("a content is kept from too many snapshots: send it whole")),
            false => Ok(number as u16),
        }
    }

    /// Whether all of it, as far as it is in memory, is a hole.
    pub fn is_hole(&self) -> bool {
        self.stretches.iter().all(|stretch| stretch.data.is_none())
    }

    /// Adds a block that this snapshot brings.
    pub fn add_block(
        &mut self,
        large: &mut LargeFiles,
        source: u16,
        stored: u64,
        bytes: usize,
        sum: BlockSum,
    ) -> Result<(), StoreError> {
        let sums = SumsPlace { record: OPEN_RECORD, count: 0, first: self.sums.len() as u16 };
        let data = Some(StretchData { source, stored, sums });
        self.add(large, Stretch { offset: self.size, bytes: bytes as u64, data })?;
        self.sums.push(sum);
        match self.sums.len() < RECORD_ITEMS_MAX {
            true => Ok(()),
            false => self.write_sums(large),
        }
    }

    /// Adds a hole, or a stretch of an earlier snapshot whose source has been given this map's number.
    pub fn add(&mut self, large: &mut LargeFiles, stretch: Stretch) -> Result<(), StoreError> {
        self.size = stretch.end();
        if self.stretches.last_mut().is_some_and(|last| last.merge(&stretch)) {
            return Ok(());
        }
        // With a block of the open record about to come, that record's number must stay what it was told.
        if self.stretches.len() >= RECORD_ITEMS_MAX {
            self.write_stretches(large, stretch)
        } else {
            self.stretches.push(stretch);
            Ok(())
        }
    }

    fn write_stretches(&mut self, large: &mut LargeFiles, mut next: Stretch) -> Result<(), StoreError> {
        self.write_sums(large)?;
        self.write_full_record(large)?;
        if let Some(data) = next.data.as_mut().filter(|data| data.sums.record == OPEN_RECORD) {
            data.sums.first = 0;
        }
        self.stretches.push(next);
        Ok(())
    }

    /// Writes the open record of sums, and tells the stretches where it lies.
    fn write_sums(&mut self, large: &mut LargeFiles) -> Result<(), StoreError> {
        if self.sums.is_empty() {
            return Ok(());
        }
        let record = large.append_record(&encode_sums_record(&self.sums))?;
        let open = |data: &&mut StretchData| data.sums.record == OPEN_RECORD;
        for data in self.stretches.iter_mut().filter_map(|stretch| stretch.data.as_mut()).filter(open) {
            data.sums.record = record;
            data.sums.count = self.sums.len() as u16;
        }
        self.sums.clear();
        Ok(())
    }

    fn write_full_record(&mut self, large: &mut LargeFiles) -> Result<(), StoreError> {
        let Some(first) = self.stretches.first().map(|stretch| stretch.offset) else { return Ok(()) };
        let offset = large.append_record(&encode_stretches(&self.stretches))?;
        self.records.push(StretchRecord { first, offset, count: self.stretches.len() as u32 });
        self.stretches.clear();
        Ok(())
    }

    /// Writes what is not yet on the disk, and a map of all so far; gives the map's place. More may follow.
    pub fn write_map(&mut self, large: &mut LargeFiles) -> Result<BlocksPlace, StoreError> {
        self.write_sums(large)?;
        self.write_full_record(large)?;
        let (sources, records) = (self.sources.clone(), self.records.clone());
        let bytes = Map { size: self.size, sources, records }.encode();
        if bytes.len() > MAP_BYTES_MAX as usize {
            return Err(StoreError::out_of_place("a content has more stretches than can be stored"));
        }
        let offset = large.append_record(&bytes)?;
        Ok(BlocksPlace { offset, bytes: bytes.len() as u32 })
    }
}
