//! What the server counts, and how it tells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::semaphore::Semaphore;
use super::waiting_room::WaitingRoom;
use crate::channel::SegmentCounts;

/// Counters of a running server. Each is exact; together they are a moment's glance.
#[derive(Debug)]
pub struct Statistics {
    started: Instant,
    connections: AtomicU64,
    sessions: AtomicU64,
    failures: AtomicU64,
    busy_answers: AtomicU64,
    snapshots: AtomicU64,
    files_received: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    segments_damaged: AtomicU64,
    segments_repeated: AtomicU64,
}

/// One thing that is counted.
#[derive(Debug, Clone, Copy)]
pub enum Count {
    Connection,
    Session,
    Failure,
    BusyAnswer,
    Snapshot { files: u64 },
}

/// The figures as `stats` prints them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Authenticated sessions now.
    pub active_connections: usize,
    pub max_connections: usize,
    pub available_slots: usize,
    /// Connections that have not proved themselves yet.
    pub waiting_connections: usize,
    /// Of those, how many were ended for a newcomer so far.
    pub dropped_connections: u64,
    pub uptime_seconds: u64,
    pub connections: u64,
    pub sessions: u64,
    pub failures: u64,
    pub busy_answers: u64,
    pub snapshots: u64,
    pub files_received: u64,
    /// On the wire, everything included; of commands that have ended.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Segments that arrived damaged and were asked for again.
    pub segments_damaged: u64,
    /// Segments that the server sent again.
    pub segments_repeated: u64,
}

impl Statistics {
    pub fn new() -> Statistics {
        Statistics {
            started: Instant::now(),
            connections: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            busy_answers: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            files_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            segments_damaged: AtomicU64::new(0),
            segments_repeated: AtomicU64::new(0),
        }
    }

    pub fn count(&self, count: Count) {
        let (counter, amount) = match count {
            Count::Connection => (&self.connections, 1),
            Count::Session => (&self.sessions, 1),
            Count::Failure => (&self.failures, 1),
            Count::BusyAnswer => (&self.busy_answers, 1),
            Count::Snapshot { files } => {
                self.files_received.fetch_add(files, Ordering::Relaxed);
                (&self.snapshots, 1)
            }
        };
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds what a session's channel has counted since `before`.
    pub fn add_segments(&self, before: SegmentCounts, now: SegmentCounts) {
        let add = |counter: &AtomicU64, before: u64, now: u64| {
            counter.fetch_add(now - before, Ordering::Relaxed);
        };
        add(&self.bytes_received, before.bytes_received, now.bytes_received);
        add(&self.bytes_sent, before.bytes_sent, now.bytes_sent);
        add(&self.segments_damaged, before.damaged + before.control_damaged, now.damaged + now.control_damaged);
        add(&self.segments_repeated, before.repeated, now.repeated);
    }

    /// Adds bytes that were received and sent without segments.
    pub fn add_bytes(&self, received: u64, sent: u64) {
        self.bytes_received.fetch_add(received, Ordering::Relaxed);
        self.bytes_sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub fn report(&self, slots: &Semaphore, room: &WaitingRoom) -> Report {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            active_connections: slots.capacity() - slots.available(),
            max_connections: slots.capacity(),
            available_slots: slots.available(),
            waiting_connections: room.len(),
            dropped_connections: room.dropped(),
            uptime_seconds: self.started.elapsed().as_secs(),
            connections: read(&self.connections),
            sessions: read(&self.sessions),
            failures: read(&self.failures),
            busy_answers: read(&self.busy_answers),
            snapshots: read(&self.snapshots),
            files_received: read(&self.files_received),
            bytes_received: read(&self.bytes_received),
            bytes_sent: read(&self.bytes_sent),
            segments_damaged: read(&self.segments_damaged),
            segments_repeated: read(&self.segments_repeated),
        }
    }
}

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics::new()
    }
}
