//! The pieces of work that are timed here, and whose instructions `tests/instructions.rs` counts.

use std::ops::Range;

use cyberbackup::base::entry::{Entry, EntryKind, RangeCutter, decode_entries};
use cyberbackup::base::path::EntryPath;
use cyberbackup::base::time::Timestamp;
use cyberbackup::crypto::checksum::blake3_hash;
use cyberbackup::crypto::key_exchange::{Chain, SEGMENTS_PER_EPOCH, SessionKeys};
use cyberbackup::crypto::secret::Secret;
use cyberbackup::crypto::segment::{
    Direction, Kind, Opened, Opener, SEGMENT_PLAINTEXT_MAX, Sealer, sealed_payload_bytes,
};

const HEADER_BYTES: usize = 23;
/// Entries in a range, on average.
pub const RANGE_ENTRIES: usize = 1_024;

/// A batch of full segments, and both ends of the channel that it goes through.
pub struct Batch {
    sealer: Sealer,
    opener: Opener,
    lens: Vec<usize>,
    frames: Vec<Range<usize>>,
    opened: Vec<Opened>,
    /// The frames, sealed or not.
    pub buffer: Vec<u8>,
}

impl Batch {
    pub fn new(segments: usize) -> Batch {
        let frame = HEADER_BYTES + sealed_payload_bytes(SEGMENT_PLAINTEXT_MAX);
        Batch {
            sealer: Sealer::new(Direction::ClientToServer, Kind::Data, chain(), HEADER_BYTES),
            opener: Opener::new(Direction::ClientToServer, Kind::Data, chain(), HEADER_BYTES),
            lens: vec![SEGMENT_PLAINTEXT_MAX; segments],
            frames: (0..segments).map(|segment| segment * frame..(segment + 1) * frame).collect(),
            opened: Vec::with_capacity(segments),
            buffer: vec![0x5a; segments * frame],
        }
    }

    #[inline(never)]
    pub fn seal(&mut self) {
        self.sealer.seal_batch(&mut self.buffer, &self.lens, 0).expect("the batch is laid out right");
    }

    #[inline(never)]
    pub fn open(&mut self) {
        self.opened.clear();
        self.opener
            .open_batch(&mut self.buffer, &self.frames, &mut self.opened)
            .expect("it was sealed for this end");
    }
}

fn chain() -> Chain {
    let secret = |byte| Secret::from_bytes([byte; 32]);
    SessionKeys::derive(&[1; 32], &secret(2), &secret(3), &secret(4), SEGMENTS_PER_EPOCH).client_to_server.data
}

/// The entries of a range, as a walk of one folder gives them.
pub fn entries() -> Vec<Entry> {
    let entry = |number: usize| Entry {
        path: EntryPath::parse(format!("home/ada/photographs/2026/picture-{number:06}.jpeg").as_bytes())
            .expect("a path"),
        kind: EntryKind::File,
        size: 3_000_000 + number as u64,
        mtime: Timestamp { seconds: 1_790_000_000 + number as i64, nanoseconds: 5 },
        ctime: Timestamp { seconds: 1_790_000_000 + number as i64, nanoseconds: 7 },
        inode: 1_000_000 + number as u64,
        mode: 0o644,
        owner: 1_000,
        group: 1_000,
        owner_name: b"ada".to_vec(),
        group_name: b"ada".to_vec(),
        link_target: Vec::new(),
        hard_link: None,
        fields: Vec::new(),
    };
    (0..RANGE_ENTRIES).map(entry).collect()
}

/// What the client does for a range that turns out to be held: it cuts, encodes and hashes.
#[inline(never)]
pub fn offer_range(entries: &[Entry]) -> [u8; 32] {
    let (mut cutter, mut bytes) = (RangeCutter::default(), Vec::new());
    let mut cuts = 0_u8;
    for entry in entries {
        let start = bytes.len();
        entry.encode(&mut bytes);
        cuts = cuts.wrapping_add(u8::from(cutter.begins_new_range(entry.path.as_bytes(), bytes.len() - start)));
    }
    bytes.push(cuts);
    blake3_hash(&bytes)
}

/// Entries as they go over the wire.
pub fn encoded(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut bytes));
    bytes
}

/// What the server does for a range that it does not hold.
#[inline(never)]
pub fn take_range(bytes: &[u8]) -> usize {
    decode_entries(bytes).expect("they were encoded in order").len()
}
