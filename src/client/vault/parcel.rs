//! What the threads of a backup into a vault hand to each other: parcels of chunks in the clear, and batches of
//! messages with those that the server lacks, sealed.
//!
//! Parcels are as many as there are buffers: whoever fills one waits until another has been sealed. So what is in
//! memory has a bound, and no queue needs one.

use crossbeam_channel::{Receiver, Sender};

use super::super::error::ClientError;
use super::super::ranges::ScanTotals;
use super::super::reach::Place;
use super::format::Stream;
use crate::base::limits::VAULT_NAMES_MAX;
use crate::base::vault::ChunkName;
use crate::base::waker::Waker;
use crate::channel::worker::Gone;
use crate::crypto::vault::list_id;

/// Buffers for parcels: one is filled, one sealed, and the others wait for the server's answer.
pub const PARCELS: usize = 6;
/// From so many bytes on a parcel is handed over: enough for chunks to be sealed side by side.
pub const PARCEL_BYTES: usize = 1024 * 1024;
/// And from so many items on: what the server is asked about fits one question, whatever the last file adds.
const PARCEL_ITEMS: usize = VAULT_NAMES_MAX / 2;
/// What is in it when the last piece of a content has been read into it: an open chunk goes on in the next one.
pub const PARCEL_CAPACITY: usize = PARCEL_BYTES + 256 * 1024;

/// Something in a parcel, in the order in which the server is to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A chunk in the parcel's bytes.
    Chunk { name: ChunkName, start: usize, end: usize, is_content: bool },
    /// A list: its names are in the parcel's bytes. The snapshot needs it.
    List { id: ChunkName, start: usize, end: usize },
    /// A list that the server holds, and that the snapshot needs.
    Need { id: ChunkName },
    /// The chunks of a file end here.
    FileEnd,
}

impl Item {
    /// The name that the server is asked about.
    pub fn asked(&self) -> Option<ChunkName> {
        match self {
            Item::Chunk { name, .. } => Some(*name),
            Item::List { id, .. } => Some(*id),
            Item::Need { .. } | Item::FileEnd => None,
        }
    }
}

/// Chunks in the clear, and what is to be done with them.
#[derive(Debug, Default)]
pub struct Parcel {
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
    /// Items that the server is asked about.
    pub asked: usize,
    /// How far this parcel gets.
    pub reached: Option<Place>,
    /// Files and bytes that are done with it, sent or not.
    pub files_done: u64,
    pub bytes_done: u64,
    pub unreadable: u64,
    pub last_path: Vec<u8>,
}

impl Parcel {
    pub fn clear(&mut self) {
        let (mut bytes, mut items) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.items));
        let mut last_path = std::mem::take(&mut self.last_path);
        bytes.clear();
        items.clear();
        last_path.clear();
        *self = Parcel { bytes, items, last_path, ..Parcel::default() };
    }
}

/// What was found, when all of it has been handed over.
#[derive(Debug)]
pub struct Found {
    pub totals: ScanTotals,
    pub entries: u64,
    /// Contents that could not be read.
    pub unreadable: u64,
    pub index: Stream,
}

/// What the cutting thread hands over.
pub enum Handed {
    Parcel(Parcel),
    /// Are these lists all held? Answered beside the parcels.
    Question(Vec<u8>),
    /// Of the walk so far.
    Totals(ScanTotals),
    End(Box<Found>),
    Failed(ClientError),
}

/// Fills parcels.
pub struct Packer {
    pub parcel: Parcel,
    free: Receiver<Parcel>,
    handed: Sender<Handed>,
    waker: Waker,
}

impl Packer {
    /// Takes its first buffer, of which there are some as long as nothing has been handed over.
    pub fn new(free: Receiver<Parcel>, handed: Sender<Handed>, waker: Waker) -> Packer {
        Packer { parcel: free.try_recv().unwrap_or_default(), free, handed, waker }
    }

    pub fn hand(&self, handed: Handed) -> Result<(), Gone> {
        self.handed.send(handed).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }

    /// Hands the parcel over; the bytes from `open` on go on at the start of the next one.
    pub fn hand_over(&mut self, open: usize) -> Result<(), Gone> {
        let mut next = self.free.recv().map_err(|_| Gone)?;
        next.clear();
        next.bytes.extend_from_slice(&self.parcel.bytes[open..]);
        next.last_path.extend_from_slice(&self.parcel.last_path);
        self.parcel.bytes.truncate(open);
        let full = std::mem::replace(&mut self.parcel, next);
        self.hand(Handed::Parcel(full))
    }

    /// Hands over what is full.
    pub fn hand_full(&mut self) -> Result<(), Gone> {
        match self.is_full() {
            true => self.hand_over(self.parcel.bytes.len()),
            false => Ok(()),
        }
    }

    pub fn is_full(&self) -> bool {
        self.parcel.bytes.len() >= PARCEL_BYTES || self.parcel.items.len() >= PARCEL_ITEMS
    }

    /// Adds an item of which the bytes are in the parcel already.
    pub fn add(&mut self, item: Item) {
        self.parcel.asked += usize::from(item.asked().is_some());
        self.parcel.items.push(item);
    }

    /// Adds a chunk of metadata.
    pub fn add_metadata(&mut self, name: ChunkName, bytes: &[u8]) -> Result<(), Gone> {
        let (start, end) = self.append(bytes);
        self.add(Item::Chunk { name, start, end, is_content: false });
        self.hand_full()
    }

    /// Adds a list behind all that is in it; gives its id.
    pub fn add_list(&mut self, names: &[ChunkName]) -> Result<ChunkName, Gone> {
        let id = list_id(names);
        let start = self.parcel.bytes.len();
        names.iter().for_each(|name| self.parcel.bytes.extend_from_slice(name.as_bytes()));
        self.add(Item::List { id, start, end: self.parcel.bytes.len() });
        self.hand_full()?;
        Ok(id)
    }

    fn append(&mut self, bytes: &[u8]) -> (usize, usize) {
        let start = self.parcel.bytes.len();
        self.parcel.bytes.extend_from_slice(bytes);
        (start, self.parcel.bytes.len())
    }
}
