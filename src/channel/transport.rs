//! A byte stream in both directions: a TCP socket, or a connected pair within the process for tests.
//! Always non-blocking; [`Transport::wait`] is the only place where a thread sleeps.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown as ShutdownHow, sockopt};

use super::error::ChannelError;
use crate::base::waker::WakeSource;

/// What a sleeper waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Interest {
    pub read: bool,
    pub write: bool,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Transport {
    socket: Arc<OwnedFd>,
    meter: Arc<Meter>,
}

/// What a connection has carried so far, for others to read while it goes on.
#[derive(Debug, Default)]
pub struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    /// Bytes received and sent, the handshake included.
    pub fn counts(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// Ends a connection from another thread: whoever waits on it finds it lost.
///
/// Holds no part of the connection: one that is over is closed, whoever still has a closer for it.
#[derive(Debug, Clone)]
pub struct Closer {
    socket: Weak<OwnedFd>,
}

impl Closer {
    pub fn close(&self) {
        // A socket that is already gone is what was wanted.
        if let Some(socket) = self.socket.upgrade() {
            let _ = rustix::net::shutdown(&*socket, ShutdownHow::Both);
        }
    }
}

impl Transport {
    /// Takes a connected TCP stream over: small writes go at once, a dead peer is noticed.
    pub fn tcp(stream: TcpStream) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        stream.set_nonblocking(true)?;
        Ok(Transport { socket: Arc::new(OwnedFd::from(stream)), meter: Arc::default() })
    }

    /// Two connected ends within this process.
    pub fn pair() -> io::Result<(Transport, Transport)> {
        let (left, right) = UnixStream::pair()?;
        Ok((Transport::unix(left)?, Transport::unix(right)?))
    }

    fn unix(stream: UnixStream) -> io::Result<Transport> {
        stream.set_nonblocking(true)?;
        Ok(Transport { socket: Arc::new(OwnedFd::from(stream)), meter: Arc::default() })
    }

    #[cfg(test)]
    pub(super) fn from_unix(stream: UnixStream) -> Transport {
        Transport::unix(stream).expect("a connected stream can be made non-blocking")
    }

    pub fn closer(&self) -> Closer {
        Closer { socket: Arc::downgrade(&self.socket) }
    }

    /// What it carries, from now on and so far.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Asks the system for buffers of about this size: for tests of back pressure.
    pub fn set_buffer_bytes(&self, bytes: usize) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size(&*self.socket, bytes)?;
        sockopt::set_socket_recv_buffer_size(&*self.socket, bytes)?;
        Ok(())
    }

    /// Reads what is there: none if nothing is, `Lost` at the end of the stream.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> Result<Option<usize>, ChannelError> {
        match rustix::net::recv(&*self.socket, buffer, RecvFlags::empty()) {
            Ok((_, 0)) => Err(ChannelError::Lost),
            Ok((count, _)) => {
                self.meter.received.fetch_add(count as u64, Ordering::Relaxed);
                Ok(Some(count))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Whether the stream has ended and nothing is left to be read.
    pub(super) fn is_at_end(&self) -> bool {
        let mut byte = [0];
        match rustix::net::recv(&*self.socket, &mut byte, RecvFlags::PEEK) {
            Ok((_, count)) => count == 0,
            Err(error) => !matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }

    /// Whether something can be read now, the end of the stream included.
    pub(super) fn has_input(&self) -> bool {
        let mut watched = [PollFd::new(&*self.socket, PollFlags::IN)];
        poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Writes what fits: none if nothing does.
    pub(super) fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>, ChannelError> {
        match rustix::net::send(&*self.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.meter.sent.fetch_add(count as u64, Ordering::Relaxed);
                Ok(Some(count))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Sleeps until the interest is met, the waker wakes or the time is up.
    pub(super) fn wait(
        &self,
        interest: Interest,
        waker: Option<&WakeSource>,
        timeout: Duration,
    ) -> Result<(), ChannelError> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        // A socket without interest stays out: its end would be reported all the same, again and again.
        let socket = PollFd::from_borrowed_fd(self.socket.as_fd(), flags);
        let wake = waker.map(|waker| PollFd::new(waker, PollFlags::IN));
        let mut both = [wake.clone().unwrap_or_else(|| socket.clone()), socket];
        let from = usize::from(wake.is_none());
        let until = if flags.is_empty() { 1 } else { 2 };
        let watched = &mut both[from..until];
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        let polled = poll(watched, Some(&timeout));
        if let Some(waker) = waker {
            waker.clear();
        }
        match polled {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(ChannelError::Io(error.into())),
        }
    }

    /// Fills `buffer` within what is left of `budget`; only waiting counts against it.
    pub(super) fn read_exact(&self, buffer: &mut [u8], budget: &mut WaitBudget) -> Result<(), ChannelError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.try_read(&mut buffer[filled..])? {
                Some(count) => filled += count,
                None => budget.wait(self, Interest { read: true, write: false })?,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` within what is left of `budget`.
    pub(super) fn write_all(&self, mut bytes: &[u8], budget: &mut WaitBudget) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            match self.try_write(bytes)? {
                Some(count) => bytes = &bytes[count..],
                None => budget.wait(self, Interest { read: false, write: true })?,
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written, then reads what still comes, so that the last answer is not
    /// lost to a reset. Bounded by `budget` and by [`DRAIN_BYTES_MAX`]: the largest window, and control beside it.
    pub(super) fn finish_writing(&self, budget: &mut WaitBudget) {
        const DRAIN_BYTES_MAX: usize = 17 * 1024 * 1024;
        let _ = rustix::net::shutdown(&*self.socket, ShutdownHow::Write);
        let mut sink = [0; 16 * 1024];
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            match self.try_read(&mut sink) {
                Ok(Some(count)) => drained += count,
                Ok(None) if budget.wait(self, Interest { read: true, write: false }).is_ok() => {}
                _ => return,
            }
        }
    }
}

/// How much waiting for a peer is left, over any number of reads and writes.
#[derive(Debug)]
pub(super) struct WaitBudget {
    whole: Duration,
    left: Duration,
}

impl WaitBudget {
    pub fn new(whole: Duration) -> WaitBudget {
        WaitBudget { whole, left: whole }
    }

    /// What has not been waited yet.
    pub fn left(&self) -> Duration {
        self.left
    }

    pub(super) fn wait(&mut self, transport: &Transport, interest: Interest) -> Result<(), ChannelError> {
        if self.left.is_zero() {
            return Err(ChannelError::TimedOut(self.whole));
        }
        let began = Instant::now();
        transport.wait(interest, None, self.left)?;
        self.left = self.left.saturating_sub(began.elapsed());
        Ok(())
    }
}
