//! Hands what happens to everybody who watches. A job never waits for a viewer: each has a bounded queue, and one
//! whose queue is full loses what is in it and gets the present state instead, as a late viewer does.
//!
//! Viewers must not cost a backup its time, so each message is made once for all, and a viewer's thread is woken once
//! for whatever waits: at once for what a person waits for, and a few times a second for single files and lines of the
//! log. The marks that say so are taken back before the queue is emptied, so that nothing can be put in unseen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};
use tungstenite::Utf8Bytes;

use crate::base::waker::Waker;

/// Viewers at once.
const VIEWERS_MAX: usize = 128;
/// Messages that wait for one viewer.
const QUEUE_MESSAGES_MAX: usize = 64;
/// Messages about single files or lines of the log in a second; counts and the log itself miss none.
const SINGLE_MESSAGES_PER_SECOND: u32 = 50;

/// How long messages about single files or lines may wait for others.
const GATHER: Duration = Duration::from_millis(250);

/// A message as it goes out, one for all.
pub type Message = Utf8Bytes;

type Present = Box<dyn Fn() -> Vec<Message> + Send + Sync>;

/// Everybody who watches.
#[derive(Default)]
pub struct Hub {
    viewers: Mutex<Vec<Arc<Mailbox>>>,
    present: OnceLock<Present>,
    singles: Mutex<Bound>,
}

/// What waits for one viewer.
pub struct Mailbox {
    queue: Sender<Message>,
    waiting: Receiver<Message>,
    /// Messages were lost: the present state goes out in their place.
    missed: AtomicBool,
    /// Something waits, and the viewer was woken for it; something that may not wait, and it was woken for that.
    noted: AtomicBool,
    urgent: AtomicBool,
    waker: Waker,
}

/// Whether a message may wait for others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    Now,
    Soon,
}

/// A viewer's place; given back when it is dropped.
pub struct Viewer {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    /// When what waited was last taken.
    taken: Option<Instant>,
}

#[derive(Default)]
struct Bound {
    second: Option<Instant>,
    count: u32,
}

impl Bound {
    fn has_room(&mut self) -> bool {
        if self.second.is_none_or(|second| second.elapsed() >= Duration::from_secs(1)) {
            *self = Bound { second: Some(Instant::now()), count: 0 };
        }
        self.count += 1;
        self.count <= SINGLE_MESSAGES_PER_SECOND
    }
}

pub fn message(event: &str, data: Value) -> Message {
    json!({ "event": event, "data": data }).to_string().into()
}

impl Hub {
    /// Says how the present state is told; once.
    pub fn tell_present_with(&self, present: impl Fn() -> Vec<Message> + Send + Sync + 'static) {
        let _ = self.present.set(Box::new(present));
    }

    pub fn viewers(&self) -> usize {
        self.list().len()
    }

    /// A place for a viewer, who is given the present state first; none where there are too many.
    pub fn watch(self: &Arc<Hub>, waker: Waker) -> Option<Viewer> {
        let (queue, waiting) = bounded(QUEUE_MESSAGES_MAX);
        let mark = AtomicBool::new;
        let mailbox =
            Mailbox { queue, waiting, missed: mark(true), noted: mark(false), urgent: mark(false), waker };
        let mailbox = Arc::new(mailbox);
        let mut viewers = self.list();
        if viewers.len() >= VIEWERS_MAX {
            return None;
        }
        viewers.push(mailbox.clone());
        Some(Viewer { hub: self.clone(), mailbox, taken: None })
    }

    /// Tells everybody; the data is made only where somebody watches.
    pub fn tell(&self, event: &str, data: impl FnOnce() -> Value) {
        self.put(Haste::Now, event, data);
    }

    fn put(&self, haste: Haste, event: &str, data: impl FnOnce() -> Value) {
        if self.viewers() == 0 {
            return;
        }
        // Made without the list's lock: it may take locks of its own.
        let message = message(event, data());
        for mailbox in self.list().iter() {
            mailbox.put(message.clone(), haste);
        }
    }

    /// Everybody looks up: the program is about to end.
    pub fn wake_all(&self) {
        self.list().iter().for_each(|mailbox| mailbox.waker.wake());
    }

    /// Tells of a single file or line, unless there are very many of them.
    pub fn tell_single(&self, event: &str, data: impl FnOnce() -> Value) {
        if self.viewers() > 0 && self.singles.lock().unwrap_or_else(PoisonError::into_inner).has_room() {
            self.put(Haste::Soon, event, data);
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn put(&self, message: Message, haste: Haste) {
        if self.queue.try_send(message).is_err() {
            self.missed.store(true, Ordering::Release);
            while self.waiting.try_recv().is_ok() {}
        }
        let was_noted = self.noted.swap(true, Ordering::AcqRel);
        let is_woken = match haste {
            Haste::Now => self.urgent.swap(true, Ordering::AcqRel),
            Haste::Soon => was_noted,
        };
        if !is_woken {
            self.waker.wake();
        }
    }
}

impl Viewer {
    /// How long what waits may still wait; none where nothing does.
    pub fn due_in(&self) -> Option<Duration> {
        let mailbox = &self.mailbox;
        let is_now = mailbox.urgent.load(Ordering::Acquire) || mailbox.missed.load(Ordering::Acquire);
        match self.taken {
            _ if is_now => Some(Duration::ZERO),
            _ if !mailbox.noted.load(Ordering::Acquire) => None,
            Some(taken) => Some(GATHER.saturating_sub(taken.elapsed())),
            None => Some(Duration::ZERO),
        }
    }

    /// Takes all that waits, oldest first, and hands it to `write`, which says whether it takes more.
    pub fn take(&mut self, mut write: impl FnMut(Message) -> bool) {
        self.taken = Some(Instant::now());
        self.mailbox.noted.store(false, Ordering::Release);
        self.mailbox.urgent.store(false, Ordering::Release);
        if self.mailbox.missed.swap(false, Ordering::AcqRel) {
            let present = self.hub.present.get().map(|present| present()).unwrap_or_default();
            // The present state is taken whole: it is short.
            present.into_iter().for_each(|message| {
                write(message);
            });
        }
        while let Ok(message) = self.mailbox.waiting.try_recv() {
            if !write(message) {
                // The rest waits until there is room, whoever wakes the viewer then.
                self.mailbox.urgent.store(true, Ordering::Release);
                return;
            }
        }
    }

    /// The present state goes out next.
    pub fn ask_for_present(&self) {
        self.mailbox.missed.store(true, Ordering::Release);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.list().retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::waker::waker;

    fn taken(viewer: &mut Viewer) -> Vec<Message> {
        let mut messages = Vec::new();
        viewer.take(|message| {
            messages.push(message);
            true
        });
        messages
    }

    #[test]
    fn a_slow_viewer_gets_the_newest_state_and_holds_nobody_up() {
        let hub = Arc::new(Hub::default());
        hub.tell_present_with(|| vec!["present".into()]);
        let (mut slow, mut fast) = (hub.watch(waker().unwrap().0).unwrap(), hub.watch(waker().unwrap().0).unwrap());
        assert_eq!((taken(&mut slow), taken(&mut fast)), (vec!["present".into()], vec!["present".into()]));
        for number in 0..1_000 {
            hub.tell("progress_update", || json!(number));
            assert_eq!(taken(&mut fast), [message("progress_update", json!(number))]);
        }
        assert!(slow.mailbox.waiting.len() <= QUEUE_MESSAGES_MAX);
        assert_eq!(taken(&mut slow)[0], "present");
        drop(slow);
        assert_eq!(hub.viewers(), 1);
    }

    #[test]
    fn single_files_wait_for_others_and_a_phase_does_not() {
        let hub = Arc::new(Hub::default());
        let (waker, wakes) = waker().unwrap();
        let woken = || {
            let count = rustix::io::read(&wakes, &mut [0; 64]).unwrap_or(0);
            count > 0
        };
        let mut viewer = hub.watch(waker).unwrap();
        assert_eq!(viewer.due_in(), Some(Duration::ZERO), "the present state goes out at once");
        taken(&mut viewer);
        assert_eq!(viewer.due_in(), None);
        hub.tell_single("file_receipt", || json!(1));
        assert!(woken() && viewer.due_in() > Some(GATHER / 2), "{:?}", viewer.due_in());
        hub.tell_single("file_receipt", || json!(2));
        assert!(!woken(), "it was woken for what waits");
        hub.tell("status", || json!(3));
        assert!(woken());
        hub.tell("status", || json!(4));
        assert!(!woken());
        assert_eq!(viewer.due_in(), Some(Duration::ZERO));
        let mut first = Vec::new();
        viewer.take(|message| {
            first.push(message);
            first.len() < 2
        });
        assert_eq!(viewer.due_in(), Some(Duration::ZERO), "there was no room for the rest");
        let rest = taken(&mut viewer);
        let wanted = [("file_receipt", 1), ("file_receipt", 2), ("status", 3), ("status", 4)];
        let wanted = wanted.map(|(event, number)| message(event, json!(number)));
        assert_eq!([first, rest].concat(), wanted);
        assert_eq!(viewer.due_in(), None);
    }

    #[test]
    fn there_is_a_bound_of_viewers_and_of_single_messages() {
        let hub = Arc::new(Hub::default());
        let viewers: Vec<_> = (0..VIEWERS_MAX).map(|_| hub.watch(waker().unwrap().0).unwrap()).collect();
        assert!(hub.watch(waker().unwrap().0).is_none());
        drop(viewers);
        let mut bound = Bound::default();
        let count = (0..1_000).filter(|_| bound.has_room()).count();
        assert!((50..=100).contains(&count), "{count}");
    }
}
