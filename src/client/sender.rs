//! Reads the contents a server wants and makes the messages that carry them: a thread of its own beside the
//! one that seals and sends. Each content is hashed as it is read, in the buffer it is sent from.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::delta::{BlocksAnswer, BlocksWanted, HOLE_STEP_BYTES};
use super::ranges::{ScannedItem, ScannedRange};
use super::reach::{Place, WHOLE};
use super::source::{SourceError, SourceFile, SourceReader};
use crate::base::entry::Entry;
use crate::base::limits::{CONTENT_CHUNK_BYTES, LARGE_FILE_BYTES};
use crate::base::progress::{Event, ProgressSink};
use crate::base::waker::Waker;
use crate::base::zeros::resize_zeroed;
use crate::channel::worker::Gone;
use crate::crypto::{BLOCK_BYTES, ContentHasher, ContentSums};
use crate::protocol::message::{
    ContentEnd, HeldContent, MESSAGE_HEADER_BYTES, ToServer, content_flag, message_kind,
};

/// How much is gathered before it is handed to the sealing thread.
pub const BATCH_BYTES: usize = CONTENT_CHUNK_BYTES;

/// Room for a batch: the piece of a content that fills it may be a whole one.
const BATCH_CAPACITY: usize = BATCH_BYTES + CONTENT_CHUNK_BYTES + 1024;

/// The contents of one range that the server wants: a bit for each entry.
pub struct Order {
    pub number: u32,
    pub range: Arc<ScannedRange>,
    pub bits: Vec<u8>,
    /// What the server holds for some of them, by entry, rising.
    pub held: Vec<HeldContent>,
}

/// Messages on their way to the channel, and what they are about.
#[derive(Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// The number of a range whose last content ends in this batch.
    pub finished_range: Option<u32>,
    /// How far this batch gets.
    pub reached: Option<Place>,
    /// Contents that end in this batch, and all content bytes in it.
    pub files: u64,
    pub content_bytes: u64,
    /// Files whose content the server holds already, though their properties changed; and bytes that are not
    /// sent because they are held, or lie in holes.
    pub files_same: u64,
    pub bytes_same: u64,
    /// Requests in it for hashes of held blocks.
    pub blocks_wanted: Vec<BlocksWanted>,
    /// Files that could not be read.
    pub unreadable: u64,
    pub last_path: Vec<u8>,
    /// What is said of contents is counted, and goes nowhere.
    pub is_dry: bool,
}

impl Batch {
    /// Adds a message about a content.
    pub fn say(&mut self, message: &ToServer<'_>) {
        if !self.is_dry {
            message.encode(&mut self.bytes);
        }
    }
}

/// The reading thread's view of the world.
pub struct ContentSender<'a> {
    pub source: SourceReader,
    pub orders: Receiver<Order>,
    pub batches: Sender<Batch>,
    pub used: Receiver<Vec<u8>>,
    /// The answers to requests for hashes.
    pub blocks: Receiver<BlocksAnswer>,
    pub waker: Waker,
    pub sink: &'a dyn ProgressSink,
    /// For contents that are compared and not sent.
    pub scratch: Vec<u8>,
    /// Only say what would be sent. Files are read as far as that depends on what the server has of them.
    pub dry_run: bool,
}

impl ContentSender<'_> {
    /// Works until no more orders come or the other side is gone.
    pub fn run(mut self) {
        let mut batch = Batch { is_dry: self.dry_run, ..Batch::default() };
        while let Ok(order) = self.orders.recv() {
            if self.fulfil(&order, &mut batch).is_err() {
                return;
            }
        }
    }

    fn fulfil(&mut self, order: &Order, batch: &mut Batch) -> Result<(), Gone> {
        for item in &order.range.items {
            let wanted =
                order.bits.get(item.index as usize / 8).is_some_and(|byte| byte >> (item.index % 8) & 1 == 1);
            if wanted {
                self.content(order, *item, batch)?;
            }
            if batch.bytes.len() >= BATCH_BYTES {
                self.hand_over(batch)?;
            }
        }
        batch.finished_range = Some(order.number);
        self.hand_over(batch)
    }

    pub(super) fn hand_over(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        let bytes = self.used.try_recv().map(|mut bytes| {
            bytes.clear();
            bytes
        });
        let next = Batch {
            bytes: bytes.unwrap_or_else(|_| Vec::with_capacity(BATCH_CAPACITY)),
            is_dry: self.dry_run,
            ..Batch::default()
        };
        self.batches.send(std::mem::replace(batch, next)).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }

    fn content(&mut self, order: &Order, item: ScannedItem, batch: &mut Batch) -> Result<(), Gone> {
        let Some(entry) = order.range.entry(item) else { return Ok(()) };
        // What is handed over may be waited for: what has been read goes out before that.
        if !self.source.can_read_twice() && !batch.bytes.is_empty() {
            self.hand_over(batch)?;
        }
        batch.last_path.clear();
        batch.last_path.extend_from_slice(entry.path.as_bytes());
        let place = (order.number, item.index);
        let held = order.held.binary_search_by_key(&item.index, |held| held.entry).ok();
        let held = held.map(|index| order.held[index]);
        if let (Some(held), true) = (held, item.size < LARGE_FILE_BYTES && self.source.can_read_twice())
            && let Some(flags) = self.read_same(&entry, &held.blake3)
        {
            ToServer::ContentSame { range: place.0, entry: place.1, flags }.encode(&mut batch.bytes);
            batch.files_same += 1;
            batch.bytes_same += item.size;
            batch.reached = Some((place.0, place.1, WHOLE));
            return Ok(());
        }
        // Going on within a content means reading some of it twice.
        let partial = |held: HeldContent| held.partial.filter(|_| self.source.can_read_twice());
        let held = held.map(|held| HeldContent { partial: partial(held), ..held });
        let held = held.filter(|held| held.blocks || held.partial.is_some());
        if self.dry_run && held.is_none_or(|_| item.size < LARGE_FILE_BYTES) {
            batch.files += 1;
            batch.content_bytes += self.data_bytes(&entry).unwrap_or(item.size);
            skip(batch, place);
            return Ok(());
        }
        match self.read(&entry, place, held, batch)? {
            Ok(_) if self.dry_run => {
                batch.files += 1;
                skip(batch, place);
            }
            Ok((sums, flags)) => {
                end(batch, sums, flags);
                batch.files += 1;
                batch.reached = Some((place.0, place.1, WHOLE));
                let (path, ContentSums { size, crc32, blake3 }) = (entry.path.as_bytes(), sums);
                self.sink.event(Event::FileReceipt { path, bytes: size, crc32, blake3 });
                if flags & content_flag::CHANGED_WHILE_READ != 0 {
                    let message =
                        format!("{} changed while it was read; read again next time", entry.path.display());
                    self.sink.event(Event::Notice { message: &message });
                }
            }
            Err(error) => {
                skip(batch, place);
                batch.unreadable += 1;
                self.sink.event(Event::FileError { path: entry.path.as_bytes(), reason: &error.to_string() });
            }
        }
        Ok(())
    }

    /// Reads a small file without sending it: flags for its end if it is whole, stable and has the content
    /// that the server holds. Anything else is left to the ordinary way.
    fn read_same(&mut self, entry: &Entry, held: &[u8; 32]) -> Option<u8> {
        let mut file = self.source.open(&entry.path).ok()?;
        let mut hasher = ContentHasher::new();
        loop {
            match file.read_into(&mut self.scratch).ok()? {
                0 => break,
                count => hasher.update(&self.scratch[..count]),
            }
        }
        let seen = file.check().ok()?;
        let same = !seen.changed && hasher.finish().blake3 == *held;
        same.then_some(if seen.recheck { content_flag::RECHECK } else { 0 })
    }

    /// How much of a file would be sent that the server knows nothing of.
    fn data_bytes(&mut self, entry: &Entry) -> Option<u64> {
        match entry.size < LARGE_FILE_BYTES {
            true => None,
            false => self.source.open(&entry.path).and_then(|mut file| file.data_bytes(BLOCK_BYTES as u64)).ok(),
        }
    }

    /// Sends a content; where the file changed meanwhile, once more from its start. A large one is compared with the
    /// blocks that are there.
    fn read(
        &mut self,
        entry: &Entry,
        place: (u32, u32),
        mut held: Option<HeldContent>,
        batch: &mut Batch,
    ) -> Result<Result<(ContentSums, u8), SourceError>, Gone> {
        let file = match self.source.open(&entry.path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        file.read_settled(true, |file| {
            let sums = self.send_content(file, place, held, batch);
            // The beginning that lay at the server has been gone on with.
            held = held.map(|held| HeldContent { partial: None, ..held });
            sums
        })
    }

    fn send_content(
        &mut self,
        file: &mut SourceFile,
        place: (u32, u32),
        held: Option<HeldContent>,
        batch: &mut Batch,
    ) -> Result<Result<ContentSums, SourceError>, Gone> {
        if let Some(held) = held.filter(|_| file.size() >= LARGE_FILE_BYTES) {
            if let Some(partial) = held.partial
                && let Some(sent) = self.send_rest(file, place, (held, partial), batch)?
            {
                return Ok(sent);
            }
            if held.blocks
                && let Some(sent) = self.send_difference(file, place, batch)?
            {
                return Ok(sent);
            }
        }
        if self.dry_run {
            return Ok(file.data_bytes(BLOCK_BYTES as u64).map(|bytes| {
                batch.content_bytes += bytes;
                ContentHasher::new().finish()
            }));
        }
        start(batch, place);
        self.send_bytes(file, place, batch)
    }

    fn send_bytes(
        &mut self,
        file: &mut SourceFile,
        (range, entry): (u32, u32),
        batch: &mut Batch,
    ) -> Result<Result<ContentSums, SourceError>, Gone> {
        let mut hasher = ContentHasher::new();
        let is_large = file.size() >= LARGE_FILE_BYTES;
        loop {
            let hole = if is_large { file.skip_hole(BLOCK_BYTES as u64, HOLE_STEP_BYTES) } else { Ok(0) };
            match hole {
                Ok(0) => {}
                Ok(bytes) => {
                    ToServer::ContentHole { bytes }.encode(&mut batch.bytes);
                    hasher.update_zeros(bytes);
                    batch.bytes_same += bytes;
                    self.hand_over(batch)?;
                    continue;
                }
                Err(error) => return Ok(Err(error)),
            }
            let chunk = match read_chunk(file, &mut batch.bytes) {
                Ok(0) => return Ok(Ok(hasher.finish())),
                Ok(chunk) => chunk,
                Err(error) => return Ok(Err(error)),
            };
            let content = &batch.bytes[batch.bytes.len() - chunk..];
            hasher.update(content);
            batch.content_bytes += chunk as u64;
            if batch.bytes.len() >= BATCH_BYTES {
                batch.reached = Some((range, entry, file.position()));
                self.hand_over(batch)?;
            }
        }
    }
}

/// Reads the next chunk straight into the message that carries it; 0 at the end of the file, with no message.
fn read_chunk(file: &mut SourceFile, out: &mut Vec<u8>) -> Result<usize, SourceError> {
    let start = out.len();
    let room = usize::try_from(file.left()).unwrap_or(usize::MAX).min(CONTENT_CHUNK_BYTES);
    let room = file.data_room(BLOCK_BYTES as u64, room);
    out.push(message_kind::CONTENT_DATA);
    resize_zeroed(out, start + MESSAGE_HEADER_BYTES + room);
    let read = file.read_into(&mut out[start + MESSAGE_HEADER_BYTES..]);
    let count = *read.as_ref().unwrap_or(&0);
    if count == 0 {
        out.truncate(start);
        return read;
    }
    out.truncate(start + MESSAGE_HEADER_BYTES + count);
    let length = u32::try_from(count).expect("a chunk is far below 4 GiB");
    out[start + 1..start + MESSAGE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(count)
}

fn start(batch: &mut Batch, (range, entry): (u32, u32)) {
    ToServer::ContentStart { range, entry }.encode(&mut batch.bytes);
}

fn skip(batch: &mut Batch, (range, entry): (u32, u32)) {
    ToServer::ContentSkip { range, entry }.encode(&mut batch.bytes);
}

fn end(batch: &mut Batch, sums: ContentSums, flags: u8) {
    let ContentSums { size, crc32, blake3 } = sums;
    ToServer::ContentEnd(ContentEnd { bytes: size, crc32, blake3, flags }).encode(&mut batch.bytes);
}
