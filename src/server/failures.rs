//! The newest failures, for the operator to look at. Bounded: a stranger who fails on purpose, again and again, pushes
//! out no more than other strangers' failures, and the same failure again is counted, not kept twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::ids::UserName;
use crate::base::limits::FAILURES_KEPT_MAX;
use crate::base::time::Timestamp;

/// How much of a text is kept, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Something that failed on a connection.
#[derive(Debug, Clone)]
pub struct FailureNote {
    /// Of the newest, where it happened several times.
    pub time: Timestamp,
    pub peer: SocketAddr,
    /// None where the peer had not proved who it is.
    pub client: Option<UserName>,
    pub text: String,
    /// How often it happened in a row.
    pub count: u64,
}

/// The newest of them.
#[derive(Debug, Default)]
pub struct Failures {
    notes: Mutex<VecDeque<FailureNote>>,
}

impl Failures {
    pub fn note(&self, peer: SocketAddr, client: Option<UserName>, text: &str) {
        let cut = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|place| text.is_char_boundary(*place));
        let text = text[..cut.unwrap_or(0)].to_string();
        let mut notes = self.notes();
        let is_same =
            |note: &&mut FailureNote| note.peer.ip() == peer.ip() && note.client == client && note.text == text;
        if let Some(note) = notes.back_mut().filter(is_same) {
            (note.time, note.peer, note.count) = (Timestamp::now(), peer, note.count + 1);
            return;
        }
        if notes.len() >= FAILURES_KEPT_MAX {
            let of_strangers = notes.iter().filter(|note| note.client.is_none()).count();
            let strangers_go = of_strangers > FAILURES_KEPT_MAX / 2;
            let oldest = notes.iter().position(|note| note.client.is_none() == strangers_go);
            notes.remove(oldest.unwrap_or(0));
        }
        notes.push_back(FailureNote { time: Timestamp::now(), peer, client, text, count: 1 });
    }

    /// What is kept, the newest first.
    pub fn newest(&self) -> Vec<FailureNote> {
        self.notes().iter().rev().cloned().collect()
    }

    fn notes(&self) -> MutexGuard<'_, VecDeque<FailureNote>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 5))
    }

    #[test]
    fn strangers_push_out_no_clients_failures_and_the_list_is_bounded() {
        let failures = Failures::default();
        failures.note(peer(1), Some("ada".parse().unwrap()), "her disk is full");
        for number in 0..1_000 {
            failures.note(peer(2), None, &format!("nonsense {number}"));
        }
        let newest = failures.newest();
        assert_eq!(newest.len(), FAILURES_KEPT_MAX);
        assert_eq!(newest[0].text, "nonsense 999");
        assert_eq!(newest.last().unwrap().text, "her disk is full");
        for number in 0..1_000 {
            failures.note(peer(1), Some("ada".parse().unwrap()), &format!("fault {number}"));
        }
        let strangers = failures.newest().iter().filter(|note| note.client.is_none()).count();
        assert_eq!((failures.newest().len(), strangers), (FAILURES_KEPT_MAX, FAILURES_KEPT_MAX / 2));
    }

    #[test]
    fn the_same_again_is_counted() {
        let failures = Failures::default();
        let long = "ä".repeat(TEXT_BYTES_MAX);
        for _ in 0..3 {
            failures.note(peer(1), None, &long);
        }
        failures.note(peer(2), None, &long);
        let newest = failures.newest();
        assert_eq!(newest.iter().map(|note| note.count).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(newest[0].text, "ä".repeat(TEXT_BYTES_MAX / 2));
    }
}
