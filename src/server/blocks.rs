//! Parts of one stored content, for a client that has the rest: the bytes of some blocks, and the hashes of others.

use super::answers::{stored_file, stream_segments};
use super::session::{Ended, Failure};
use crate::base::ids::ClientId;
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::channel::worker::Outbox;
use crate::crypto::BLOCK_BYTES;
use crate::protocol::message::{BLOCK_HASH_BYTES, ReadBlocks, ToClient};
use crate::storage::{Store, StoreError, StoredEntry};

/// Streams the answer. A content that cannot be read is said so; the client may ask for it in another way.
pub fn stream(store: &Store, client: ClientId, read: &ReadBlocks, outbox: &mut Outbox) -> Result<u64, Ended> {
    let (stored, _entries) = stored_file(store, client, &read.selection)?;
    if let Err(error) = try_stream(store, client, &stored, read, outbox)? {
        log::error!("{error}");
        let text = Failure::from(error).text;
        outbox.send_to_client(&ToClient::ContentFailed { text })?;
    }
    Ok(1)
}

fn try_stream(
    store: &Store,
    client: ClientId,
    stored: &StoredEntry,
    read: &ReadBlocks,
    outbox: &mut Outbox,
) -> Result<Result<(), StoreError>, Ended> {
    let mut reader = match store.open_content(client, stored) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error)),
    };
    let (size, mut chunk) = (reader.sums().size, vec![0; CONTENT_CHUNK_BYTES]);
    for run in &read.runs {
        let [start, end] = [run.first, run.end()].map(|block| block.saturating_mul(BLOCK_BYTES as u64).min(size));
        if let Err(error) = reader.seek_to(start) {
            return Ok(Err(super::answers::unreadable(stored, error)));
        }
        if let Err(error) = stream_segments(stored, &mut reader, end, &mut chunk, outbox)? {
            return Ok(Err(error));
        }
    }
    if read.hashes.count > 0 {
        let sums = match reader.block_sums(read.hashes.first, read.hashes.count as usize) {
            Ok(sums) => sums,
            Err(error) => return Ok(Err(error)),
        };
        let hashes: Vec<u8> = sums.iter().flat_map(|sum| &sum.chaining[..BLOCK_HASH_BYTES]).copied().collect();
        outbox.send_to_client(&ToClient::BlockHashes { first: read.hashes.first, hashes: &hashes })?;
    }
    Ok(Ok(()))
}
