//! A line that carries bytes as a bad one does: late, and not for long. It knows nothing of what it carries.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::relay::{Relay, UnderWay};

/// What is read at a time, and how many such pieces may be on their way in one direction: far more than any
/// window, so that only the delay is felt.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 1_024;

/// What a line does to what it carries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nature {
    /// How long each byte is on its way, in each direction.
    pub delay: Duration,
    /// So many bytes, both directions together, and the connection is cut.
    pub cut_after: Option<u64>,
}

/// A running line. It ends when it is dropped.
pub struct SlowLine {
    pub address: String,
    shared: Arc<Shared>,
    _relay: Relay,
}

struct Shared {
    server: String,
    nature: Nature,
    connections: AtomicU64,
    carried: AtomicU64,
}

impl SlowLine {
    pub fn start(server: &str, nature: Nature) -> SlowLine {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let shared = Arc::new(Shared {
            server: server.to_string(),
            nature,
            connections: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        });
        let relay = {
            let shared = shared.clone();
            Relay::start(listener, move |client, under_way| shared.carry(under_way, client))
        };
        SlowLine { address: relay.address.clone(), shared, _relay: relay }
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// All bytes that went on, in both directions.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn carry(self: &Arc<Shared>, under_way: &Arc<UnderWay>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.server) else { return };
        self.connections.fetch_add(1, Ordering::SeqCst);
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let left = Arc::new(AtomicU64::new(self.nature.cut_after.unwrap_or(u64::MAX)));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (sender, receiver) = sync_channel(PIECES_MAX);
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let (shared, left) = (self.clone(), left.clone());
            under_way.spawn(move || shared.hear(from, sender));
            let (shared, all) = (self.clone(), under_way.clone());
            under_way.spawn(move || shared.say(receiver, to, &left, &all));
        }
        under_way.hold([client, server]);
    }

    /// Notes of each piece when it is due at the other end.
    fn hear(&self, mut from: TcpStream, pieces: SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if pieces.send((Instant::now() + self.nature.delay, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }

    /// Where too much has been said, all connections are cut: a client has one at a time.
    fn say(&self, pieces: Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, left: &AtomicU64, all: &UnderWay) {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let size = piece.len() as u64;
            let take = |left: u64| left.checked_sub(size);
            let fits = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            if !fits {
                all.cut();
                return;
            }
            // What goes the other way still arrives.
            if to.write_all(&piece).is_err() {
                return;
            }
            self.carried.fetch_add(size, Ordering::SeqCst);
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
