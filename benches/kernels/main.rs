//! The work behind every byte, piece by piece: sealing, opening, hashing, framing, and what is done for each range.
//!
//! `cargo bench --bench kernels`. What the figures mean is in `docs/performance.md`.

mod workload;

use std::hint::black_box;

use cyberbackup::base::limits::CONTENT_CHUNK_BYTES;
use cyberbackup::crypto::blocks::BlockHasher;
use cyberbackup::crypto::checksum::{ContentHasher, crc32};
use cyberbackup::crypto::segment::SEGMENT_PLAINTEXT_MAX;
use cyberbackup::protocol::message::ToServer;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use workload::{Batch, RANGE_ENTRIES, encoded, entries, offer_range, take_range};

fn main() {
    divan::main();
}

/// Segments in a batch: alone, as many as the channel takes in one go, and as the widest lanes take.
const BATCHES: [usize; 3] = [1, 16, 64];

#[divan::bench(args = BATCHES)]
fn seal(bencher: Bencher, segments: usize) {
    let mut batch = Batch::new(segments);
    bencher.counter(BytesCount::new(segments * SEGMENT_PLAINTEXT_MAX)).bench_local(|| batch.seal());
}

#[divan::bench(args = BATCHES)]
fn seal_and_open(bencher: Bencher, segments: usize) {
    let mut batch = Batch::new(segments);
    bencher.counter(BytesCount::new(segments * SEGMENT_PLAINTEXT_MAX)).bench_local(|| {
        batch.seal();
        batch.open();
    });
}

/// HMAC-SHA256 by its crate, one segment after the other: what limits a channel that does nothing cleverer.
#[divan::bench]
fn hmac_sha256_of_one_segment(bencher: Bencher) {
    use hmac::{Hmac, KeyInit, Mac};
    let key = Hmac::<sha2::Sha256>::new_from_slice(&[7; 32]).expect("any key will do");
    let bytes = vec![0x5a; SEGMENT_PLAINTEXT_MAX];
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut mac = key.clone();
        mac.update(black_box(&bytes));
        mac.finalize().into_bytes()
    });
}

#[divan::bench]
fn crc32_of_one_segment(bencher: Bencher) {
    let bytes = vec![0x5a; SEGMENT_PLAINTEXT_MAX];
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| crc32(black_box(&bytes)));
}

/// Size, CRC32 and BLAKE3 of a content that is not large.
#[divan::bench]
fn content_sums(bencher: Bencher) {
    let bytes = vec![0x5a; 1 << 20];
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut hasher = ContentHasher::new();
        hasher.update(black_box(&bytes));
        hasher.finish()
    });
}

/// The sums of each block of a large content.
#[divan::bench]
fn block_sums(bencher: Bencher) {
    let bytes = vec![0x5a; 1 << 20];
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut hasher = BlockHasher::new();
        hasher.update(black_box(&bytes), |sum, length| {
            black_box((sum, length));
        });
    });
}

/// A piece of a content as a message.
#[divan::bench]
fn frame_a_piece(bencher: Bencher) {
    let bytes = vec![0x5a; CONTENT_CHUNK_BYTES];
    let mut out = Vec::with_capacity(2 * bytes.len());
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        out.clear();
        ToServer::ContentData(black_box(&bytes)).encode(&mut out);
    });
}

#[divan::bench]
fn offer_a_range(bencher: Bencher) {
    let entries = entries();
    bencher.counter(ItemsCount::new(RANGE_ENTRIES)).bench_local(|| offer_range(black_box(&entries)));
}

#[divan::bench]
fn take_a_range(bencher: Bencher) {
    let bytes = encoded(&entries());
    bencher.counter(ItemsCount::new(RANGE_ENTRIES)).bench_local(|| take_range(black_box(&bytes)));
}
