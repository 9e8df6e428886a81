//! The thread that seals: of each parcel what the server lacks, compressed and sealed under the upload's key, as the
//! messages that carry it.

use crossbeam_channel::{Receiver, Sender};

use super::super::reach::Place;
use super::super::uploading::Sent;
use super::parcel::{Item, PARCEL_CAPACITY, Parcel};
use crate::base::waker::Waker;
use crate::channel::worker::Gone;
use crate::crypto::vault::{ChunkSealer, DataKey, PlainChunk, PutKey};
use crate::protocol::message::{CHUNK_HEAD_BYTES, Names, ToServer, VaultRequest, chunk_head};

/// Batches that wait to be sent, or are.
pub const BATCHES: usize = 2;

/// A parcel, and a bit for each item that the server was asked about: it lacks it.
pub struct Answered {
    pub parcel: Parcel,
    pub lacking: Vec<u8>,
}

/// Messages on their way to the channel, and what they are about.
#[derive(Default)]
pub struct SealedBatch {
    pub bytes: Vec<u8>,
    /// The parcel that it came from, to be filled again.
    pub parcel: Parcel,
    /// What is in it.
    pub sent: Sent,
    pub reached: Option<Place>,
}

pub struct Sealing<'a> {
    pub key: &'a PutKey,
    pub data_key: &'a DataKey,
    pub answered: Receiver<Answered>,
    /// Buffers for what is sealed.
    pub free: Receiver<Vec<u8>>,
    pub sealed: Sender<SealedBatch>,
    pub waker: Waker,
    pub dry_run: bool,
}

impl Sealing<'_> {
    /// Works until no more parcels come or the other side is gone.
    pub fn run(self) {
        let (mut sealer, mut is_file_lacking) = (ChunkSealer::new(), false);
        while let Ok(answered) = self.answered.recv() {
            let Ok(bytes) = self.free.recv() else { return };
            let mut batch = SealedBatch { bytes, reached: answered.parcel.reached, ..SealedBatch::default() };
            batch.bytes.clear();
            let lacking = lacking_items(&answered);
            count(&answered.parcel, &lacking, &mut is_file_lacking, &mut batch.sent);
            if !self.dry_run {
                self.seal(&mut sealer, &answered.parcel, &lacking, &mut batch.bytes);
            }
            batch.parcel = answered.parcel;
            if self.hand_over(batch).is_err() {
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
fn lacking_items(answered: &Answered) -> Vec<bool> {
    let mut asked = 0usize;
    let lacking = |item: &Item| {
        let is_lacking = item.asked().is_some()
            && answered.lacking.get(asked / 8).is_some_and(|byte| byte >> (asked % 8) & 1 == 1);
        asked += usize::from(item.asked().is_some());
        is_lacking
    };
    answered.parcel.items.iter().map(lacking).collect()
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
