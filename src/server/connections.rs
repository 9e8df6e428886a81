//! The connections that have a thread: so that an end can wait for those that work, close the others, and
//! join every thread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::ids::UserName;
use crate::base::waker::Waker;
use crate::channel::{Closer, Meter, Transport};

/// All connections that have a thread.
#[derive(Debug, Default)]
pub struct Connections {
    table: Mutex<Table>,
    gone: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Wakes the thread that joins.
    waker: Option<Waker>,
    entries: HashMap<u64, Entry>,
    next_number: u64,
    finished: usize,
}

#[derive(Debug)]
struct Entry {
    closer: Closer,
    working: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    finished: bool,
}

/// A connection's place in the table. Dropping it says that its thread is about to end.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
    number: u64,
    working: Arc<AtomicBool>,
    peer: SocketAddr,
    meter: Arc<Meter>,
    /// Whom it was found to speak for last.
    client: Mutex<Option<UserName>>,
}

impl Connection {
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What it has carried.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Notes whom it speaks for, so that what fails on it can be said to be theirs.
    pub fn set_client(&self, name: &UserName) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.clone());
    }

    pub fn client(&self) -> Option<UserName> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a command is being worked on: only such a connection is waited for when the server ends.
    pub fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::SeqCst);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        if let Some(entry) = table.entries.get_mut(&self.number) {
            entry.finished = true;
            table.finished += 1;
        }
        if let Some(waker) = &table.waker {
            waker.wake();
        }
        self.connections.gone.notify_all();
    }
}

impl Connections {
    pub fn new() -> Arc<Connections> {
        Arc::new(Connections::default())
    }

    /// Wakes `waker` whenever a connection's thread is about to end, so that it is joined soon.
    pub fn wake_when_one_ends(&self, waker: Waker) {
        self.table().waker = Some(waker);
    }

    /// A place for a connection whose thread is about to be started.
    pub fn add(self: &Arc<Connections>, peer: SocketAddr, transport: &Transport) -> Connection {
        let mut table = self.table();
        let number = table.next_number;
        table.next_number += 1;
        let working = Arc::new(AtomicBool::new(false));
        let entry = Entry { closer: transport.closer(), working: working.clone(), thread: None, finished: false };
        table.entries.insert(number, entry);
        let (connections, meter) = (self.clone(), transport.meter());
        Connection { connections, number, working, peer, meter, client: Mutex::default() }
    }

    /// Notes the thread of a connection; it may have ended already.
    pub fn started(&self, number: u64, thread: JoinHandle<()>) {
        if let Some(entry) = self.table().entries.get_mut(&number) {
            entry.thread = Some(thread);
        }
    }

    /// Joins the threads that are done.
    pub fn join_finished(&self) {
        let mut table = self.table();
        if table.finished == 0 {
            return;
        }
        let done: Vec<Entry> =
            table.entries.extract_if(|_, entry| entry.finished).map(|(_, entry)| entry).collect();
        table.finished = 0;
        drop(table);
        for thread in done.into_iter().filter_map(|entry| entry.thread) {
            // Its panic, if there was one, was caught and reported inside.
            let _ = thread.join();
        }
    }

    /// Closes what does not work, gives the rest `grace`, closes that too, and joins all threads.
    pub fn end(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut table = self.table();
        while table.finished < table.entries.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            for entry in table.entries.values() {
                if left.is_zero() || !entry.working.load(Ordering::SeqCst) {
                    entry.closer.close();
                }
            }
            // A command that ends leaves its connection idle: look again soon, not only when one is gone.
            let pause = left.clamp(Duration::from_millis(10), Duration::from_millis(200));
            table = self.gone.wait_timeout(table, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(table);
        self.join_finished();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change to the table is whole: a panic elsewhere must not stop the server.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
