//! What every line of the tests is made of: it accepts connections, carries each on threads of its own, and ends with
//! all of them when it is dropped.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A running relay.
pub struct Relay {
    pub address: String,
    under_way: Arc<UnderWay>,
    accepting: Option<JoinHandle<()>>,
}

/// The connections of a relay, and the threads that carry them.
#[derive(Default)]
pub struct UnderWay {
    over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    carriers: Mutex<Vec<JoinHandle<()>>>,
}

impl Relay {
    /// Gives each accepted connection to `carry`, which returns soon: what takes time is for [`UnderWay::spawn`].
    pub fn start(
        listener: TcpListener,
        mut carry: impl FnMut(TcpStream, &Arc<UnderWay>) + Send + 'static,
    ) -> Relay {
        let address = listener.local_addr().unwrap().to_string();
        let under_way = Arc::new(UnderWay::default());
        let accepting = {
            let under_way = under_way.clone();
            thread::spawn(move || {
                while let Ok((client, _)) = listener.accept() {
                    if under_way.over.load(Ordering::SeqCst) {
                        return;
                    }
                    carry(client, &under_way);
                }
            })
        };
        Relay { address, under_way, accepting: Some(accepting) }
    }
}

impl UnderWay {
    /// Carries on a thread that ends when its connection does.
    pub fn spawn(&self, carrier: impl FnOnce() + Send + 'static) {
        self.carriers.lock().unwrap().push(thread::spawn(carrier));
    }

    /// Both ends of a connection, to be cut.
    pub fn hold(&self, ends: [TcpStream; 2]) {
        self.streams.lock().unwrap().extend(ends);
    }

    /// Ends the connections that there are.
    pub fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.under_way.over.store(true, Ordering::SeqCst);
        self.under_way.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
        for carrier in self.under_way.carriers.lock().unwrap().drain(..) {
            let _ = carrier.join();
        }
    }
}
