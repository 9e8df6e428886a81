//! Hands what happens to everybody who watches. A job never waits for a viewer: each has a bounded queue, and one
//! whose queue is full loses what is in it and gets the present state instead, as a late viewer does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

use crate::base::waker::Waker;

/// Viewers at once.
const VIEWERS_MAX: usize = 128;
/// Messages that wait for one viewer.
const QUEUE_MESSAGES_MAX: usize = 64;
/// Messages about single files or lines of the log in a second; counts and the log itself miss none.
const SINGLE_MESSAGES_PER_SECOND: u32 = 50;

/// A message as it goes out, one for all.
pub type Message = Arc<str>;

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
    waker: Waker,
}

/// A viewer's place; given back when it is dropped.
pub struct Viewer {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
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
        let mailbox = Arc::new(Mailbox { queue, waiting, missed: AtomicBool::new(true), waker });
        let mut viewers = self.list();
        if viewers.len() >= VIEWERS_MAX {
            return None;
        }
        viewers.push(mailbox.clone());
        Some(Viewer { hub: self.clone(), mailbox })
    }

    /// Tells everybody; the data is made only where somebody watches.
    pub fn tell(&self, event: &str, data: impl FnOnce() -> Value) {
        if self.viewers() == 0 {
            return;
        }
        // Made without the list's lock: it may take locks of its own.
        let message = message(event, data());
        for mailbox in self.list().iter() {
            mailbox.put(message.clone());
        }
    }

    /// Everybody looks up: the program is about to end.
    pub fn wake_all(&self) {
        self.list().iter().for_each(|mailbox| mailbox.waker.wake());
    }

    /// Tells of a single file or line, unless there are very many of them.
    pub fn tell_single(&self, event: &str, data: impl FnOnce() -> Value) {
        if self.viewers() > 0 && self.singles.lock().unwrap_or_else(PoisonError::into_inner).has_room() {
            self.tell(event, data);
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn put(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            self.missed.store(true, Ordering::Release);
            while self.waiting.try_recv().is_ok() {}
        }
        self.waker.wake();
    }
}

impl Viewer {
    /// What to send next, oldest first; empty where nothing waits.
    pub fn take(&self) -> Vec<Message> {
        if self.mailbox.missed.swap(false, Ordering::AcqRel) {
            return self.hub.present.get().map(|present| present()).unwrap_or_default();
        }
        self.mailbox.waiting.try_recv().into_iter().collect()
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

    #[test]
    fn a_slow_viewer_gets_the_newest_state_and_holds_nobody_up() {
        let hub = Arc::new(Hub::default());
        hub.tell_present_with(|| vec!["present".into()]);
        let (slow, fast) = (hub.watch(waker().unwrap().0).unwrap(), hub.watch(waker().unwrap().0).unwrap());
        assert_eq!(
            (slow.take().as_slice(), fast.take().as_slice()),
            (&["present".into()][..], &["present".into()][..])
        );
        for number in 0..1_000 {
            hub.tell("progress_update", || json!(number));
            assert_eq!(fast.take(), [message("progress_update", json!(number))]);
        }
        assert!(slow.mailbox.waiting.len() <= QUEUE_MESSAGES_MAX);
        assert_eq!(slow.take(), ["present".into()]);
        drop(slow);
        assert_eq!(hub.viewers(), 1);
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
