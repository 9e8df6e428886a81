//! The threads that seal: of each parcel what the server lacks, compressed and sealed under the upload's key, as the
//! messages that carry it. They take turns: parcels go to one after the other, and batches are fetched likewise, so that
//! the order stays.

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};

use super::super::reach::Place;
use super::super::uploading::Sent;
use super::parcel::{Item, PARCEL_CAPACITY, Parcel};
use crate::base::waker::Waker;
use crate::channel::worker::Gone;
use crate::crypto::vault::{ChunkSealer, DataKey, PlainChunk, PutKey};
use crate::protocol::message::{CHUNK_HEAD_BYTES, Names, ToServer, VaultRequest, chunk_head};

/// Threads that seal. Compression takes longer than all else that a backup does, so there are two; each has one buffer,
/// which is sent while the other one is filled.
const SEALERS: usize = 2;

/// A parcel that the server was asked about.
pub struct Answered {
    parcel: Parcel,
    /// For each item whether the server lacks it.
    lacking: Vec<bool>,
    /// What is to be sent.
    sent: Sent,
}

impl Answered {
    /// `lacking` has a bit for each item that the server was asked about. `is_file_lacking` is of the file that goes on from
    /// one parcel to the next: something of it is sent.
    pub fn new(parcel: Parcel, lacking: &[u8], is_file_lacking: &mut bool) -> Answered {
        let (lacking, mut sent) = (lacking_items(&parcel, lacking), Sent::default());
        count(&parcel, &lacking, is_file_lacking, &mut sent);
        Answered { parcel, lacking, sent }
    }
}

/// Messages on their way to the channel, and what they are about.
pub struct SealedBatch {
    pub bytes: Vec<u8>,
    /// The parcel that it came from, to be filled again.
    pub parcel: Parcel,
    /// What is in it.
    pub sent: Sent,
    pub reached: Option<Place>,
}

/// Whoever gives the sealers their turns.
pub struct Turns {
    sealers: Vec<SealerEnds>,
    /// Parcels that were given to be sealed, and batches that were fetched.
    given: usize,
    fetched: usize,
}

/// What leads to a sealer and from it.
struct SealerEnds {
    answered: Sender<Answered>,
    sealed: Receiver<SealedBatch>,
    free: Sender<Vec<u8>>,
}

impl Turns {
    /// Gives a parcel to whose turn it is.
    ///
    /// # Errors
    /// [`Gone`] where it has ended.
    pub fn give(&mut self, answered: Answered) -> Result<(), Gone> {
        let turn = self.given % self.sealers.len();
        self.given += 1;
        self.sealers[turn].answered.send(answered).map_err(|_| Gone)
    }

    /// The next batch, where it is ready.
    ///
    /// # Errors
    /// [`Gone`] where whoever should seal it has ended.
    pub fn fetch(&mut self) -> Result<Option<SealedBatch>, Gone> {
        match self.sealers[self.fetched % self.sealers.len()].sealed.try_recv() {
            Ok(batch) => {
                self.fetched += 1;
                Ok(Some(batch))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Gone),
        }
    }

    /// Gives the buffer of the batch that was fetched last back to who filled it.
    pub fn give_back(&self, bytes: Vec<u8>) {
        let turn = (self.fetched + self.sealers.len() - 1) % self.sealers.len();
        // Nobody may want it any more.
        let _ = self.sealers[turn].free.send(bytes);
    }

    /// Whether something is being sealed.
    pub fn is_open(&self) -> bool {
        self.given > self.fetched
    }
}

/// One thread that seals.
pub struct Sealing<'a> {
    key: &'a PutKey,
    data_key: &'a DataKey,
    answered: Receiver<Answered>,
    free: Receiver<Vec<u8>>,
    sealed: Sender<SealedBatch>,
    waker: Waker,
    dry_run: bool,
}

impl<'a> Sealing<'a> {
    /// The threads, and who gives them their turns. `waker` is told of each batch.
    pub fn all(key: &'a PutKey, data_key: &'a DataKey, waker: Waker, dry_run: bool) -> (Vec<Sealing<'a>>, Turns) {
        let one = |_| {
            let (answer_sender, answered) = unbounded();
            let (seal_sender, sealed) = unbounded();
            let (free_sender, free) = unbounded();
            let _ = free_sender.send(Vec::new());
            let waker = waker.clone();
            let sealing = Sealing { key, data_key, answered, free, sealed: seal_sender, waker, dry_run };
            (sealing, SealerEnds { answered: answer_sender, sealed, free: free_sender })
        };
        let (sealings, sealers) = (0..SEALERS).map(one).unzip();
        (sealings, Turns { sealers, given: 0, fetched: 0 })
    }

    /// Works until no more parcels come or the other side is gone.
    pub fn run(self) {
        let mut sealer = ChunkSealer::new();
        while let Ok(Answered { parcel, lacking, sent }) = self.answered.recv() {
            let Ok(mut bytes) = self.free.recv() else { return };
            bytes.clear();
            if !self.dry_run {
                self.seal(&mut sealer, &parcel, &lacking, &mut bytes);
            }
            let reached = parcel.reached;
            if self.hand_over(SealedBatch { bytes, parcel, sent, reached }).is_err() {
                return;
            }
        }
    }

    fn hand_over(&self, batch: SealedBatch) -> Result<(), Gone> {
        self.sealed.send(batch).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }

    /// Chunks first: a list comes behind all that is in it.
    fn seal(&self, sealer: &mut ChunkSealer, parcel: &Parcel, lacking: &[bool], out: &mut Vec<u8>) {
        let mut chunks = Vec::new();
        for (item, lacking) in parcel.items.iter().zip(lacking) {
            if let (Item::Chunk { name, start, end, .. }, true) = (item, lacking) {
                chunks.push(PlainChunk { name: *name, bytes: &parcel.bytes[*start..*end] });
            }
        }
        if !chunks.is_empty() {
            out.reserve(PARCEL_CAPACITY);
        }
        let places = sealer.seal(self.key, self.data_key, &chunks, CHUNK_HEAD_BYTES, out);
        for (chunk, place) in chunks.iter().zip(places) {
            let head = chunk_head(chunk.name, place.len());
            out[place.start - CHUNK_HEAD_BYTES..place.start].copy_from_slice(&head);
        }
        let mut needs = Vec::new();
        for (item, lacking) in parcel.items.iter().zip(lacking) {
            match item {
                Item::List { id, start, end } => {
                    if *lacking {
                        let names = Names::of(&parcel.bytes[*start..*end]);
                        ToServer::Vault(VaultRequest::List { names }).encode(out);
                    }
                    needs.extend_from_slice(id.as_bytes());
                }
                Item::Need { id } => needs.extend_from_slice(id.as_bytes()),
                Item::Chunk { .. } | Item::FileEnd => {}
            }
        }
        if !needs.is_empty() {
            ToServer::Vault(VaultRequest::Needs { lists: Names::of(&needs) }).encode(out);
        }
    }
}

/// For each item whether the server lacks it.
fn lacking_items(parcel: &Parcel, bits: &[u8]) -> Vec<bool> {
    let mut asked = 0usize;
    let lacking = |item: &Item| {
        let is_lacking =
            item.asked().is_some() && bits.get(asked / 8).is_some_and(|byte| byte >> (asked % 8) & 1 == 1);
        asked += usize::from(item.asked().is_some());
        is_lacking
    };
    parcel.items.iter().map(lacking).collect()
}

/// Counts files of which something is sent, and those of which the server holds all: empty ones among them.
fn count(parcel: &Parcel, lacking: &[bool], is_file_lacking: &mut bool, sent: &mut Sent) {
    for (item, lacking) in parcel.items.iter().zip(lacking) {
        match item {
            Item::Chunk { start, end, is_content: true, .. } if *lacking => {
                sent.bytes += (end - start) as u64;
                *is_file_lacking = true;
            }
            Item::FileEnd => {
                let is_sent = std::mem::take(is_file_lacking);
                sent.files += u64::from(is_sent);
                sent.files_same += u64::from(!is_sent);
            }
            _ => {}
        }
    }
    sent.unreadable += parcel.unreadable;
}
