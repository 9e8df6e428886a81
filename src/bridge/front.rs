//! The front: the listening socket, a thread for each connection, and the checks that every request passes
//! before anything else sees it. An error of accepting never ends it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::admission::Admission;
use super::answer::Answer;
use super::head::{self, HeadError, RequestHead};
use super::inner::Inner;
use super::relay::{linger, relay};
use super::socket;
use crate::base::shutdown::Shutdown;
use crate::base::waker::waker;
use crate::bridge::hub::Hub;

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
/// Threads of connections: their work is shallow.
const CONNECTION_STACK_BYTES: usize = 256 * 1024;
/// A pause after an accept that failed: descriptors come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an answer to a refused request may take to be written.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What connections are served with.
pub struct Front {
    pub admission: Admission,
    pub inner: Inner,
    /// Of those who watch by WebSocket; none where there is nothing to be watched.
    pub hub: Option<Arc<Hub>>,
    pub shutdown: Shutdown,
    connections: AtomicUsize,
}

/// A connection's place among those that are open; returned when it is dropped.
struct Place(Arc<Front>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Front {
    pub fn new(admission: Admission, inner: Inner, hub: Option<Arc<Hub>>, shutdown: Shutdown) -> Arc<Front> {
        Arc::new(Front { admission, inner, hub, shutdown, connections: AtomicUsize::new(0) })
    }

    /// Accepts until the wish to stop is made.
    pub fn run(self: &Arc<Front>, listener: &TcpListener) -> io::Result<()> {
        let (waker, wakes) = waker()?;
        self.shutdown.wake_on_request(waker);
        listener.set_nonblocking(true)?;
        while !self.shutdown.is_requested() {
            let mut ready =
                [PollFd::new(listener, PollFlags::IN), PollFd::from_borrowed_fd(wakes.as_fd(), PollFlags::IN)];
            if poll(&mut ready, None).is_err() {
                continue;
            }
            match listener.accept() {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if is_nothing(&error) => {}
                Err(error) => {
                    log::warn!("a connection could not be accepted: {error}");
                    self.shutdown.wait(ACCEPT_PAUSE);
                }
            }
        }
        Ok(())
    }

    fn take(self: &Arc<Front>, stream: TcpStream, peer: SocketAddr) {
        let place = Place(self.clone());
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            // Closed with the place that is returned here.
            return;
        }
        let builder = thread::Builder::new().name("connection".into()).stack_size(CONNECTION_STACK_BYTES);
        let serve = move || {
            if let Ok(local) = prepare(&stream) {
                place.0.serve(stream, peer, local);
            }
        };
        if let Err(error) = builder.spawn(serve) {
            log::warn!("no thread could be started for a connection: {error}");
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
        let (head, rest) = match head::read(&stream) {
            Ok(found) => found,
            Err(HeadError::Gone) => return,
            Err(HeadError::Refused { status, text }) => {
                return refuse(&stream, &Answer::failure(status, text), false);
            }
        };
        if let Some(answer) = self.admission.check(&head, peer, local) {
            if answer.status >= 400 {
                log::warn!("{peer}: {} {} refused ({})", head.method, head.path(), answer.status);
            }
            return refuse(&stream, &answer, head.method == "HEAD");
        }
        match &self.hub {
            Some(hub) if head.path() == "/ws" => self.upgrade(stream, &head, rest, hub),
            _ => relay(&stream, &head, &rest, &self.inner),
        }
    }

    fn upgrade(&self, stream: TcpStream, head: &RequestHead, rest: Vec<u8>, hub: &Arc<Hub>) {
        match socket::accept_key(head) {
            Ok(accept) => socket::serve(stream, &accept, rest, hub, &self.shutdown),
            Err(answer) => refuse(&stream, &answer, false),
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
    // Some systems hand the listener's mode on.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.local_addr()
}

fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | Interrupted)
}

fn refuse(stream: &TcpStream, answer: &Answer, is_head: bool) {
    let _ = stream.set_write_timeout(Some(REFUSAL_TIMEOUT));
    let _ = answer.write(&mut &*stream, is_head);
    linger(stream);
}
