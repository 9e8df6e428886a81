//! Large contents read back through their maps: which stretch holds an offset, and the sums of the blocks,
//! gathered over the stretches from the `.blocks` files of all snapshots that brought some of them. However
//! large the content, a few files are open and a few records in memory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::at_rest::{ClientKeyring, Ending, FileKeyring, SealedKind, StoredFile};
use super::blocks_format::{
    BlocksPlace, HEADER_BYTES, Map, RECORD_ITEMS_MAX, Source, Stretch, SumsPlace, check_blocks_header,
    decode_stretches, decode_sums_record, sums_record_bytes,
};
use super::blocks_writer::DELTA;
use super::error::{At, StoreError};
use super::layout::{ClientFolder, Layout, blocks_name};
use super::received::open_stored;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::crypto::{BLOCK_BYTES, BlockSum, block_sum, blocks_in};

/// How many files one content's reader holds open, of each kind.
const FILES_MAX: usize = 8;
/// How many records of sums it remembers, of up to 144 KiB each.
const RECORDS_MAX: usize = 4;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The folders in which a client's stored bytes lie.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    received: PathBuf,
    deltas: PathBuf,
    ranges: PathBuf,
    /// A snapshot that is not committed, and its upload's folder.
    unfinished: Option<(SnapshotId, PathBuf)>,
    keyring: ClientKeyring,
}

impl ClientFiles {
    pub fn new(layout: &Layout, client: &ClientFolder) -> ClientFiles {
        ClientFiles {
            received: layout.received(client),
            deltas: layout.deltas(client),
            ranges: layout.ranges(client),
            unfinished: None,
            keyring: layout.keyring_of(client),
        }
    }

    /// What this snapshot has stored lies in its upload's folder.
    pub fn with_unfinished(self, snapshot: SnapshotId, upload: PathBuf) -> ClientFiles {
        ClientFiles { unfinished: Some((snapshot, upload)), ..self }
    }

    fn unfinished(&self, snapshot: SnapshotId) -> Option<&Path> {
        self.unfinished.as_ref().filter(|(id, _)| *id == snapshot).map(|(_, path)| path.as_path())
    }

    pub fn received(&self, snapshot: SnapshotId) -> PathBuf {
        match self.unfinished(snapshot) {
            Some(upload) => upload.join("files"),
            None => self.received.join(snapshot.as_str()),
        }
    }

    pub fn blocks(&self, snapshot: SnapshotId) -> PathBuf {
        match self.unfinished(snapshot) {
            Some(upload) => upload.join("blocks"),
            None => self.ranges.join(blocks_name(snapshot)),
        }
    }

    fn delta<'a>(&'a self, snapshot: &'a SnapshotId) -> (&'a Path, &'a [u8]) {
        match self.unfinished(*snapshot) {
            Some(upload) => (upload, DELTA),
            None => (&self.deltas, snapshot.as_str().as_bytes()),
        }
    }

    /// Where a source of the content at `path` lies: the folder, and the path below it.
    pub fn place(&self, source: &Source, path: &EntryPath) -> io::Result<(PathBuf, EntryPath)> {
        match source {
            Source::Plain { snapshot, path: stored } => {
                Ok((self.received(*snapshot), stored.as_ref().unwrap_or(path).clone()))
            }
            Source::Delta { snapshot } => {
                let (folder, name) = self.delta(snapshot);
                Ok((folder.to_path_buf(), EntryPath::parse(name).map_err(io::Error::other)?))
            }
        }
    }

    /// Opens a source of the content at `path`.
    pub fn open(&self, source: &Source, path: &EntryPath) -> io::Result<StoredFile> {
        let (folder, stored) = self.place(source, path)?;
        StoredFile::open(open_stored(&folder, &stored)?, &self.keyring_of(source), self.ending(source.snapshot()))
    }

    /// What an upload has stored may still grow.
    fn ending(&self, snapshot: SnapshotId) -> Ending {
        if self.unfinished(snapshot).is_some() { Ending::Growing } else { Ending::Required }
    }

    /// What opens a source.
    pub fn keyring_of(&self, source: &Source) -> FileKeyring {
        self.keyring.files(match source {
            Source::Plain { .. } => SealedKind::Content,
            Source::Delta { .. } => SealedKind::Delta,
        })
    }

    pub fn keyring(&self) -> &ClientKeyring {
        &self.keyring
    }
}

/// A few things by their key, the one used last in front.
#[derive(Debug)]
pub struct Kept<K, V> {
    items: Vec<(K, V)>,
    limit: usize,
}

impl<K: PartialEq, V> Kept<K, V> {
    pub fn new(limit: usize) -> Kept<K, V> {
        Kept { items: Vec::new(), limit }
    }

    /// What is kept under `key`, made first where it is not there.
    pub fn get<E>(&mut self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<&mut V, E> {
        match self.items.iter().position(|(kept, _)| *kept == key) {
            Some(place) => self.items[..=place].rotate_right(1),
            None => {
                let value = make()?;
                self.items.truncate(self.limit - 1);
                self.items.insert(0, (key, value));
            }
        }
        Ok(&mut self.items[0].1)
    }
}

/// The `.blocks` files of a client.
#[derive(Debug)]
struct BlocksFiles {
    client: ClientFiles,
    files: Kept<SnapshotId, StoredFile>,
    sums: Kept<(SnapshotId, u64), Vec<BlockSum>>,
}

impl BlocksFiles {
    fn read(&mut self, snapshot: SnapshotId, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        read_record(&self.client, &mut self.files, snapshot, offset, length)
    }

    fn sums(&mut self, snapshot: SnapshotId, place: &SumsPlace) -> Result<&[BlockSum], StoreError> {
        let BlocksFiles { client, files, sums } = self;
        let found = sums.get((snapshot, place.record), || {
            let bytes = read_record(client, files, snapshot, place.record, sums_record_bytes(place.count))?;
            decode_sums_record(&bytes).map_err(|error| StoreError::damaged(&client.blocks(snapshot), error))
        })?;
        Ok(found)
    }

    fn damaged(&self, snapshot: SnapshotId, problem: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(&self.client.blocks(snapshot), problem)
    }
}

fn read_record(
    client: &ClientFiles,
    files: &mut Kept<SnapshotId, StoredFile>,
    snapshot: SnapshotId,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, StoreError> {
    let path = client.blocks(snapshot);
    let open = || open_blocks(&path, snapshot, &client.keyring.files(SealedKind::Blocks), client.ending(snapshot));
    let file = files.get(snapshot, open)?;
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(StoreError::damaged(&path, "it ends too early"))
        }
        Err(error) => Err(error).at("read", &path),
    }
}

/// Opens a `.blocks` file and checks its header.
pub fn open_blocks(
    path: &Path,
    snapshot: SnapshotId,
    keyring: &FileKeyring,
    ending: Ending,
) -> Result<StoredFile, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(path, "it is gone"));
        }
        opened => opened.at("open", path)?,
    };
    let mut file = StoredFile::open(file, keyring, ending).at("open", path)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(|error| StoreError::damaged(path, error))?;
    check_blocks_header(&header, snapshot).map_err(|error| StoreError::damaged(path, error))?;
    Ok(file)
}

/// The map of one content, open.
#[derive(Debug)]
pub struct ContentMap {
    blocks: BlocksFiles,
    /// Whose `.blocks` file the map lies in.
    snapshot: SnapshotId,
    map: Map,
    /// One record of stretches, by its number.
    loaded: Option<(usize, Vec<Stretch>)>,
}

impl ContentMap {
    /// # Errors
    /// `Damaged` where the file is gone or not what was written; so for all that reads through the map.
    pub fn open(files: &ClientFiles, snapshot: SnapshotId, place: BlocksPlace) -> Result<ContentMap, StoreError> {
        let mut blocks =
            BlocksFiles { client: files.clone(), files: Kept::new(FILES_MAX), sums: Kept::new(RECORDS_MAX) };
        let bytes = blocks.read(snapshot, place.offset, place.bytes as usize)?;
        let map = Map::decode(&bytes).map_err(|error| blocks.damaged(snapshot, error))?;
        Ok(ContentMap { blocks, snapshot, map, loaded: None })
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.map.size
    }

    /// How many files it is put together from.
    pub fn sources(&self) -> usize {
        self.map.sources.len()
    }

    /// The files that hold bytes of it.
    pub fn all_sources(&self) -> &[Source] {
        &self.map.sources
    }

    /// Whether every file that holds bytes of it is there.
    pub fn has_all_sources(&self, files: &ClientFiles, path: &EntryPath) -> bool {
        self.map.sources.iter().all(|source| files.open(source, path).is_ok())
    }

    pub fn source(&self, number: u16) -> Result<&Source, StoreError> {
        let source = self.map.sources.get(usize::from(number));
        source.ok_or_else(|| self.blocks.damaged(self.snapshot, "a stretch names a source that is not there"))
    }

    /// The stretch that holds `offset`, which lies before the content's end.
    pub fn stretch_at(&mut self, offset: u64) -> Result<Stretch, StoreError> {
        let number = self.map.records.partition_point(|record| record.first <= offset).saturating_sub(1);
        self.load(number)?;
        let stretches = self.loaded.as_ref().map_or(&[][..], |(_, stretches)| stretches);
        let place = stretches.partition_point(|stretch| stretch.end() <= offset);
        let found = stretches.get(place).copied();
        found.ok_or_else(|| self.blocks.damaged(self.snapshot, "no stretch holds an offset"))
    }

    fn load(&mut self, number: usize) -> Result<(), StoreError> {
        if self.loaded.as_ref().is_some_and(|(loaded, _)| *loaded == number) {
            return Ok(());
        }
        let Some(record) = self.map.records.get(number).copied() else { return Ok(()) };
        let end = self.map.records.get(number + 1).map_or(self.map.size, |next| next.first);
        let bytes = self.blocks.read(self.snapshot, record.offset, record.bytes())?;
        let stretches = decode_stretches(&bytes, record.first, end)
            .map_err(|error| self.blocks.damaged(self.snapshot, error))?;
        self.loaded = Some((number, stretches));
        Ok(())
    }

    /// The map of the first `bytes` of the content: its records that end there or before, and the stretches of one
    /// that the border cuts through.
    pub fn beginning(&mut self, bytes: u64) -> Result<(Map, Vec<Stretch>), StoreError> {
        let records = &self.map.records;
        let end_of = |number: usize| records.get(number + 1).map_or(self.map.size, |next| next.first);
        let whole = (0..records.len()).take_while(|number| end_of(*number) <= bytes).count();
        let is_cut = records.get(whole).is_some_and(|record| record.first < bytes);
        let (sources, records) = (self.map.sources.clone(), records[..whole].to_vec());
        let mut stretches = Vec::new();
        if is_cut {
            self.load(whole)?;
            let loaded = self.loaded.iter().flat_map(|(_, stretches)| stretches);
            let before = loaded.take_while(|stretch| stretch.offset < bytes);
            stretches.extend(before.map(|stretch| stretch.part(stretch.offset, bytes)));
        }
        Ok((Map { size: bytes, sources, records }, stretches))
    }

    /// How many of the first `bytes` are no hole.
    pub fn stored_bytes(&mut self, bytes: u64) -> Result<u64, StoreError> {
        let (mut position, mut stored) = (0, 0);
        while position < bytes {
            let stretch = self.stretch_at(position)?.part(position, bytes);
            stored += if stretch.data.is_some() { stretch.bytes } else { 0 };
            position = stretch.end();
        }
        Ok(stored)
    }

    /// Appends the sums of up to `count` blocks from block `first` on; fewer at the content's end.
    pub fn block_sums(&mut self, first: u64, count: usize, out: &mut Vec<BlockSum>) -> Result<(), StoreError> {
        let end = first.saturating_add(count as u64).min(blocks_in(self.map.size));
        let mut block = first;
        while block < end {
            let stretch = self.stretch_at(block * BLOCK_BYTES as u64)?;
            let skipped = block - stretch.offset / BLOCK_BYTES as u64;
            let taken = (blocks_in(stretch.bytes) - skipped).min(end - block);
            match &stretch.data {
                None => (block..block + taken).for_each(|block| out.push(self.sum_of_hole(block))),
                Some(data) => {
                    let snapshot = self.source(data.source)?.snapshot();
                    let sums = self.blocks.sums(snapshot, &data.sums)?;
                    let from = usize::from(data.sums.first) + skipped as usize;
                    let Some(sums) = sums.get(from..from + taken as usize) else {
                        return Err(self.blocks.damaged(snapshot, "a stretch has sums that are not there"));
                    };
                    out.extend_from_slice(sums);
                }
            }
            block += taken;
        }
        Ok(())
    }

    fn sum_of_hole(&self, block: u64) -> BlockSum {
        let left = self.map.size - block * BLOCK_BYTES as u64;
        block_sum(block, &ZEROS[..left.min(BLOCK_BYTES as u64) as usize])
    }

    /// Gives the sums of the blocks from `first` up to `end` to `each`, a record's worth at a time.
    pub fn each_sum(&mut self, first: u64, end: u64, mut each: impl FnMut(&BlockSum)) -> Result<(), StoreError> {
        let (mut block, mut sums) = (first, Vec::new());
        while block < end {
            sums.clear();
            self.block_sums(block, RECORD_ITEMS_MAX.min((end - block) as usize), &mut sums)?;
            if sums.is_empty() {
                return Err(self.blocks.damaged(self.snapshot, "it ends before the content"));
            }
            sums.iter().for_each(&mut each);
            block += sums.len() as u64;
        }
        Ok(())
    }
}

/// The bytes of a content that is put together from stretches.
#[derive(Debug)]
pub struct MappedContent {
    map: ContentMap,
    files: ClientFiles,
    path: EntryPath,
    open: Kept<u16, StoredFile>,
}

impl MappedContent {
    pub fn new(map: ContentMap, files: ClientFiles, path: EntryPath) -> MappedContent {
        MappedContent { map, files, path, open: Kept::new(FILES_MAX) }
    }

    pub fn map(&mut self) -> &mut ContentMap {
        &mut self.map
    }

    /// Reads from `offset`, which lies before the end, up to the end of its stretch at most.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let stretch = self.map.stretch_at(offset).map_err(io::Error::other)?;
        let left = usize::try_from(stretch.end() - offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let buffer = &mut buffer[..length];
        let Some(data) = &stretch.data else {
            buffer.fill(0);
            return Ok(buffer.len());
        };
        let MappedContent { map, files, path, open } = self;
        let source = map.source(data.source).map_err(io::Error::other)?;
        let file = open.get(data.source, || files.open(source, path))?;
        file.read_at(buffer, data.stored + (offset - stretch.offset))
    }

    /// Fills the buffer from `offset` on.
    pub fn read_exact_at(&mut self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a stored file ends too early")),
                count => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }
}
