//! The resend ring: sealed bytes that the peer has not acknowledged, in order, with a cursor at the next
//! byte to write. A repeat is those very bytes; nothing is sealed twice.
//!
//! The cursor may be moved back only between two frames, because a frame that was begun has to be finished
//! or the peer would lose its place in the stream.

use std::collections::VecDeque;

/// Sealed frames of one batch, as they go on the wire.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    first_sequence: u64,
    /// Where each frame ends in `bytes`.
    ends: Vec<usize>,
}

impl Batch {
    fn end_sequence(&self) -> u64 {
        self.first_sequence + self.ends.len() as u64
    }

    /// Where frame `sequence` begins.
    fn start_of(&self, sequence: u64) -> usize {
        match sequence.checked_sub(self.first_sequence) {
            None | Some(0) => 0,
            Some(index) => self.ends[index as usize - 1],
        }
    }
}

/// Unacknowledged frames and how far they have been written.
#[derive(Debug)]
pub(super) struct Ring {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Sequence of the frame at the cursor, and how much of it has been written.
    cursor: u64,
    cursor_bytes: usize,
    /// Frames before this one have been written whole at least once.
    written: u64,
    acknowledged: u64,
    next: u64,
    /// What a full batch has.
    batch_bytes: usize,
    /// Emptied buffers, for the next batches. There are never more than a full ring has needed.
    spare: Vec<(Vec<u8>, Vec<usize>)>,
}

impl Ring {
    /// An empty ring for batches of at most `batch_bytes`.
    pub fn new(batch_bytes: usize) -> Ring {
        Ring {
            batches: VecDeque::new(),
            bytes: 0,
            cursor: 0,
            cursor_bytes: 0,
            written: 0,
            acknowledged: 0,
            next: 0,
            batch_bytes,
            spare: Vec::new(),
        }
    }

    /// Sealed bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sequence of the next frame to be sealed.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Empty buffers for the next batch, used ones where there are any.
    pub fn buffers(&mut self) -> (Vec<u8>, Vec<usize>) {
        self.spare.pop().unwrap_or_else(|| (Vec::with_capacity(self.batch_bytes), Vec::new()))
    }

    /// Adds sealed frames; `ends` tells where each ends in `bytes`.
    pub fn push(&mut self, mut bytes: Vec<u8>, mut ends: Vec<usize>) {
        // Many small batches must not hold as many large buffers.
        if bytes.len() < self.batch_bytes / 2 {
            let small = (bytes.clone(), ends.clone());
            self.keep_spare(bytes, ends);
            (bytes, ends) = small;
        }
        self.bytes += bytes.len();
        let batch = Batch { bytes, first_sequence: self.next, ends };
        self.next = batch.end_sequence();
        self.batches.push_back(batch);
    }

    /// Whether the cursor stands between two frames.
    pub fn at_frame_border(&self) -> bool {
        self.cursor_bytes == 0
    }

    /// The bytes to write next: up to the end of a batch, or of the current frame.
    pub fn unsent(&self, only_this_frame: bool) -> &[u8] {
        let Some(batch) = self.batch_of(self.cursor) else { return &[] };
        let start = batch.start_of(self.cursor) + self.cursor_bytes;
        let index = (self.cursor - batch.first_sequence) as usize;
        let end = if only_this_frame { batch.ends[index] } else { batch.bytes.len() };
        &batch.bytes[start..end]
    }

    /// `count` bytes of what `unsent` gave have been written.
    pub fn advance(&mut self, count: usize) {
        let Some(batch) = self.batch_of(self.cursor) else { return };
        let position = batch.start_of(self.cursor) + self.cursor_bytes + count;
        let whole = batch.ends.partition_point(|end| *end <= position);
        let cursor = batch.first_sequence + whole as u64;
        let cursor_bytes = position - if whole == 0 { 0 } else { batch.ends[whole - 1] };
        (self.cursor, self.cursor_bytes) = (cursor, cursor_bytes);
        self.written = self.written.max(cursor);
        self.release();
    }

    /// Whether the peer may acknowledge up to here: only what has been written whole.
    pub fn can_acknowledge(&self, sequence: u64) -> bool {
        sequence <= self.written
    }

    /// Everything before `sequence` has been verified by the peer.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.acknowledged = self.acknowledged.max(sequence);
        if self.at_frame_border() {
            self.cursor = self.cursor.max(self.acknowledged);
        }
        self.release();
    }

    /// Whether frames from `sequence` on are still kept (or are the next to come).
    pub fn can_rewind_to(&self, sequence: u64) -> bool {
        let first_kept = self.batches.front().map_or(self.next, |batch| batch.first_sequence);
        (first_kept..=self.next).contains(&sequence)
    }

    /// Moves the cursor to the start of frame `sequence`; only between two frames. Says how many frames
    /// will be sent again.
    pub fn rewind(&mut self, sequence: u64) -> u64 {
        debug_assert!(self.at_frame_border() && self.can_rewind_to(sequence));
        let again = self.cursor.saturating_sub(sequence);
        self.cursor = sequence;
        again
    }

    fn batch_of(&self, sequence: u64) -> Option<&Batch> {
        let index = self.batches.partition_point(|batch| batch.end_sequence() <= sequence);
        self.batches.get(index)
    }

    /// Gives up batches that are both acknowledged and behind the cursor.
    fn release(&mut self) {
        let done = self.acknowledged.min(self.cursor);
        while self.batches.front().is_some_and(|batch| batch.end_sequence() <= done) {
            let batch = self.batches.pop_front().expect("there is a front");
            self.bytes -= batch.bytes.len();
            if batch.bytes.capacity() >= self.batch_bytes {
                self.keep_spare(batch.bytes, batch.ends);
            }
        }
    }

    fn keep_spare(&mut self, mut bytes: Vec<u8>, mut ends: Vec<usize>) {
        bytes.clear();
        ends.clear();
        self.spare.push((bytes, ends));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring with two batches of two frames: a (3 bytes), b (2), c (2), d (1).
    fn ring() -> Ring {
        let mut ring = Ring::new(5);
        ring.push(b"aaabb".to_vec(), vec![3, 5]);
        ring.push(b"ccd".to_vec(), vec![2, 3]);
        ring
    }

    #[test]
    fn bytes_are_written_in_order_and_released_when_acknowledged() {
        let mut ring = ring();
        assert_eq!(ring.unsent(false), b"aaabb");
        ring.advance(4);
        assert_eq!(ring.unsent(false), b"b");
        assert!(!ring.at_frame_border());
        ring.advance(1);
        assert_eq!(ring.unsent(false), b"ccd");
        ring.acknowledge(1);
        assert_eq!(ring.bytes(), 8, "a batch goes as a whole");
        ring.acknowledge(2);
        assert_eq!(ring.bytes(), 3);
        ring.advance(3);
        assert_eq!(ring.unsent(false), b"");
        ring.acknowledge(4);
        assert_eq!(ring.bytes(), 0);
    }

    #[test]
    fn a_repeat_is_the_same_bytes() {
        let mut ring = ring();
        ring.advance(5);
        ring.advance(2);
        assert!(ring.can_rewind_to(1));
        assert_eq!(ring.rewind(1), 2);
        assert_eq!(ring.unsent(true), b"bb");
        assert_eq!(ring.unsent(false), b"bb");
        ring.advance(2);
        assert_eq!(ring.unsent(false), b"ccd");
    }

    #[test]
    fn buffers_are_used_again_and_small_batches_hold_small_ones() {
        let mut ring = Ring::new(100);
        let mut used = std::collections::BTreeSet::new();
        for batch in 0..50 {
            let (mut bytes, mut ends) = ring.buffers();
            assert_eq!((bytes.len(), ends.len(), bytes.capacity()), (0, 0, 100));
            used.insert(bytes.as_ptr());
            let length = if batch % 3 == 0 { 10 } else { 90 };
            bytes.resize(length, batch);
            ends.push(length);
            ring.push(bytes, ends);
            assert_eq!(ring.unsent(false), vec![batch; length]);
            ring.advance(length);
            // Two batches are on their way at a time.
            ring.acknowledge(u64::from(batch));
        }
        assert!(used.len() <= 3, "{} buffers", used.len());
        assert!(ring.batches.iter().all(|batch| batch.bytes.capacity() <= 2 * batch.bytes.len()));
    }

    #[test]
    fn what_was_released_or_never_sealed_cannot_be_repeated() {
        let mut ring = ring();
        ring.advance(5);
        ring.acknowledge(2);
        assert!(!ring.can_rewind_to(1));
        assert!(ring.can_rewind_to(2));
        assert!(ring.can_rewind_to(4));
        assert!(!ring.can_rewind_to(5));
        assert!(ring.can_acknowledge(2));
        assert!(!ring.can_acknowledge(3), "what was not written cannot have been verified");
    }

    #[test]
    fn an_acknowledgement_never_cuts_a_frame_that_is_being_written() {
        let mut ring = ring();
        ring.advance(5);
        ring.rewind(0);
        ring.advance(1);
        ring.acknowledge(2);
        assert_eq!(ring.unsent(true), b"aa", "the frame that was begun is finished");
        ring.advance(2);
        ring.acknowledge(2);
        assert_eq!(ring.unsent(false), b"ccd");
    }
}
