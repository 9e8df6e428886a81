//! A vault's snapshot, walked in path order: index and ranges are fetched as streams, a few chunks at a time, and what is
//! not selected is not fetched.

use super::super::error::ClientError;
use super::contents::Contents;
use super::fetching::Fetcher;
use super::format::{
    CHUNK_REFERENCE_BYTES, CONTENT_HEADER_BYTES, ChunkReference, ContentHeader, IndexedRange, Stream, VaultHead,
};
use super::held::BlocksWanted;
use crate::base::codec::{DecodeError, Reader};
use crate::base::entry::Entry;
use crate::base::limits::{PATH_BYTES_MAX, RANGE_BYTES_MAX, VAULT_LIST_CHUNKS};
use crate::base::path::EntryPath;
use crate::base::selection::PathSelection;
use crate::base::vault::ChunkName;
use crate::crypto::ChunkKind;
use crate::protocol::message::ContentEnd;

/// Metadata that arrives chunk by chunk, and is read from the front.
struct Metadata {
    chunks: std::vec::IntoIter<ChunkName>,
    buffer: Vec<u8>,
    at: usize,
    /// What the stream has in all, and how much has come.
    total: u64,
    came: u64,
}

/// Why a stream cannot be read on.
enum Trouble {
    Damaged(String),
    Client(ClientError),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Trouble {
        Trouble::Client(error)
    }
}

impl From<DecodeError> for Trouble {
    fn from(error: DecodeError) -> Trouble {
        Trouble::Damaged(error.to_string())
    }
}

impl Metadata {
    fn new(stream: Stream) -> Metadata {
        let (total, chunks) = (stream.bytes, stream.chunks.into_iter());
        Metadata { chunks, buffer: Vec::new(), at: 0, total, came: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Fetches on; false at the stream's end.
    fn fill(&mut self, fetcher: &mut Fetcher<'_>) -> Result<bool, Trouble> {
        let names: Vec<ChunkName> = self.chunks.by_ref().take(VAULT_LIST_CHUNKS).collect();
        if names.is_empty() {
            return Ok(false);
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        fetcher.ask(&names)?;
        let mut damaged = None;
        for _ in &names {
            match fetcher.next(ChunkKind::Metadata)? {
                Ok(bytes) => {
                    self.buffer.extend_from_slice(bytes);
                    self.came += bytes.len() as u64;
                }
                Err(text) => damaged = damaged.or(Some(text)),
            }
        }
        fetcher.finish()?;
        match damaged {
            Some(text) => Err(Trouble::Damaged(text)),
            None if self.chunks.len() == 0 && self.came != self.total => {
                Err(Trouble::Damaged("the list is not as long as it should be".to_string()))
            }
            None => Ok(true),
        }
    }

    /// So many bytes more, which must be there.
    fn need(&mut self, bytes: usize, contents: &mut Contents<'_, '_, '_>) -> Result<(), Trouble> {
        while self.rest().len() < bytes {
            // What is under way comes before what is asked for now.
            contents.drain()?;
            if !self.fill(contents.fetcher)? {
                return Err(Trouble::Damaged("the list ends too early".to_string()));
            }
        }
        Ok(())
    }

    fn reader(&mut self, bytes: usize) -> Reader<'_> {
        let from = self.at;
        self.at += bytes;
        Reader::new(&self.buffer[from..from + bytes])
    }

    fn is_at_end(&self) -> bool {
        self.rest().is_empty() && self.chunks.len() == 0
    }
}

/// The ranges of a snapshot, in order.
struct Index(Metadata);

impl Index {
    fn next(&mut self, fetcher: &mut Fetcher<'_>) -> Result<Option<IndexedRange>, Trouble> {
        loop {
            if self.0.is_at_end() {
                return Ok(None);
            }
            let mut reader = Reader::new(self.0.rest());
            match IndexedRange::decode(&mut reader) {
                Ok(range) => {
                    self.0.at = self.0.buffer.len() - reader.remaining();
                    return Ok(Some(range));
                }
                Err(error @ DecodeError::Short { .. }) => {
                    if !self.0.fill(fetcher)? {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the range may hold the path, or something below it: it ends before `next` begins.
fn touches(path: &EntryPath, range: &IndexedRange, next: Option<&EntryPath>) -> bool {
    next.is_none_or(|next| path < next) && (range.path <= *path || range.path.is_within(path))
}

/// What of an entry's content is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    Content,
    /// So many bytes from there on.
    Part {
        offset: u64,
        length: u64,
    },
    /// What the walk's [`BlocksWanted`] say.
    Blocks,
}

/// What a walk is told about each entry that is selected.
pub struct Found {
    pub entry: Entry,
    pub content: Option<ContentEnd>,
}

/// Tells of what cannot be read: from which path on, if that is known, and why.
pub type TellDamage<'t> =
    dyn FnMut(&mut Contents<'_, '_, '_>, Option<&EntryPath>, String) -> Result<(), ClientError> + 't;

/// What to do with an entry.
pub enum Choice {
    Take(Wanted),
    /// The walk ends before it.
    Stop,
}

/// A walk over what is selected of a snapshot, and comes later than `after`.
pub struct Walk<'h> {
    pub filter: PathSelection,
    pub after: Option<EntryPath>,
    /// Entries, and ranges that could not be read, so far.
    pub rows: u64,
    last: Option<EntryPath>,
    /// Of the one content of which blocks are wanted.
    pub blocks: Option<BlocksWanted<'h>>,
}

impl<'h> Walk<'h> {
    pub fn new(paths: &[EntryPath], after: Option<EntryPath>) -> Walk<'h> {
        Walk { filter: PathSelection::new(paths), after, rows: 0, last: None, blocks: None }
    }

    /// The paths that selected nothing, and that no damaged range can have held.
    pub fn unmatched(&self) -> &[EntryPath] {
        self.filter.unmatched()
    }

    /// Gives entries and contents to `contents`, as `choose` wants them; damaged ranges to `damage`.
    pub fn run(
        &mut self,
        head: &VaultHead,
        contents: &mut Contents<'_, '_, '_>,
        choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
        damage: &mut TellDamage<'_>,
    ) -> Result<(), ClientError> {
        let mut index = Index(Metadata::new(head.index.clone()));
        let mut next = self.next_range(&mut index, contents, damage)?;
        while let Some(range) = next {
            contents.drain()?;
            next = self.next_range(&mut index, contents, damage)?;
            if !self.may_select(&range, next.as_ref()) {
                continue;
            }
            let first = range.path.clone();
            let mut metadata = Metadata::new(range.stream.clone());
            match self.range(&mut metadata, contents, choose) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Client(error)) => return Err(error),
                Err(Trouble::Damaged(text)) => {
                    self.rows += 1;
                    let next = next.as_ref().map(|next| &next.path);
                    self.filter.pass(|path| touches(path, &range, next));
                    contents.drain()?;
                    damage(contents, Some(&first), format!("the list from here on is damaged: {text}"))?;
                }
            }
        }
        contents.drain()
    }

    fn next_range(
        &mut self,
        index: &mut Index,
        contents: &mut Contents<'_, '_, '_>,
        damage: &mut TellDamage<'_>,
    ) -> Result<Option<IndexedRange>, ClientError> {
        match index.next(contents.fetcher) {
            Ok(range) => Ok(range),
            Err(Trouble::Client(error)) => Err(error),
            Err(Trouble::Damaged(text)) => {
                self.rows += 1;
                // Whatever was looked for may be in what cannot be read.
                self.filter.pass(|_| true);
                damage(contents, None, format!("its index is damaged: {text}"))?;
                Ok(None)
            }
        }
    }

    fn may_select(&self, range: &IndexedRange, next: Option<&IndexedRange>) -> bool {
        let next = next.map(|next| &next.path);
        let is_behind = self.after.as_ref().is_none_or(|after| next.is_none_or(|next| after < next));
        let filter = &self.filter;
        is_behind && filter.may_select(|path| touches(path, range, next))
    }

    /// Walks one range; false where the walk is to stop.
    fn range(
        &mut self,
        list: &mut Metadata,
        contents: &mut Contents<'_, '_, '_>,
        choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
    ) -> Result<bool, Trouble> {
        loop {
            if list.is_at_end() {
                return Ok(true);
            }
            list.need(4, contents)?;
            let length = list.reader(4).u32("length of an entry")? as usize;
            // Within the longest paths, names and fields that an entry may have.
            if length > RANGE_BYTES_MAX + 4 * PATH_BYTES_MAX {
                return Err(Trouble::Damaged("an entry is too long".to_string()));
            }
            list.need(length + 1, contents)?;
            let encoded = list.reader(length).rest().to_vec();
            let mut reader = Reader::new(&encoded);
            let entry = Entry::decode(&mut reader)?;
            reader.finish("entry")?;
            if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
                return Err(DecodeError::Invalid { what: "order of entries" }.into());
            }
            self.last = Some(entry.path.clone());
            let header = match list.reader(1).flag("content")? {
                true => {
                    list.need(CONTENT_HEADER_BYTES, contents)?;
                    Some(ContentHeader::decode(&mut list.reader(CONTENT_HEADER_BYTES))?)
                }
                false => None,
            };
            if !self.entry(list, entry, &encoded, header, contents, choose)? {
                return Ok(false);
            }
        }
    }

    fn entry(
        &mut self,
        list: &mut Metadata,
        entry: Entry,
        encoded: &[u8],
        header: Option<ContentHeader>,
        contents: &mut Contents<'_, '_, '_>,
        choose: &mut dyn FnMut(&Found) -> Result<Choice, ClientError>,
    ) -> Result<bool, Trouble> {
        let is_later = self.after.as_ref().is_none_or(|after| entry.path > *after);
        let is_selected = is_later && self.filter.selects(&entry.path);
        let content = header.map(|header| header.end);
        let mut wanted = Wanted::Nothing;
        if is_selected {
            match choose(&Found { entry, content })? {
                Choice::Stop => return Ok(false),
                Choice::Take(choice) => wanted = choice,
            }
            self.rows += 1;
            contents.entry(content, encoded)?;
        }
        let Some(header) = header else { return Ok(true) };
        let taken = self.content(list, header, wanted, contents);
        if let Err(Trouble::Damaged(text)) = &taken
            && wanted != Wanted::Nothing
        {
            contents.fail(format!("the list of its chunks is damaged: {text}"))?;
        }
        taken.map(|()| true)
    }

    /// Passes over the chunks of a content, and asks for those that are wanted.
    fn content(
        &mut self,
        list: &mut Metadata,
        header: ContentHeader,
        wanted: Wanted,
        contents: &mut Contents<'_, '_, '_>,
    ) -> Result<(), Trouble> {
        let (from, to) = match wanted {
            Wanted::Nothing | Wanted::Blocks => (0, 0),
            Wanted::Content => (0, u64::MAX),
            Wanted::Part { offset, length } => (offset, offset.saturating_add(length)),
        };
        let mut at: u64 = 0;
        for _ in 0..header.chunks {
            list.need(CHUNK_REFERENCE_BYTES, contents)?;
            let chunk = ChunkReference::decode(&mut list.reader(CHUNK_REFERENCE_BYTES))?;
            let end = at + u64::from(chunk.length);
            let (first, last) = (from.clamp(at, end), to.clamp(at, end));
            if first < last {
                contents.chunk(chunk, (first - at) as u32, (last - first) as u32)?;
            }
            if let (Wanted::Blocks, Some(blocks)) = (wanted, &mut self.blocks) {
                blocks.look(at, &chunk, contents.fetcher.key().put());
                for (from, to) in blocks.given(at, chunk.length) {
                    contents.chunk(chunk, (from - at) as u32, (to - from) as u32)?;
                }
            }
            at = end;
        }
        if at != header.end.bytes {
            return Err(Trouble::Damaged("its chunks are not as long as the content".to_string()));
        }
        if wanted != Wanted::Nothing {
            contents.end(header.end)?;
        }
        Ok(())
    }
}
