//! Wakes a thread that sleeps in `poll`: a pipe whose reading end stands in the poll set.
//!
//! Any number of wakes before the sleeper looks count as one: the pipe never blocks a waker, because it
//! is non-blocking and a full pipe already means "awake".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};

/// The end that wakes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waker {
    writer: Arc<OwnedFd>,
}

/// The end that is polled.
#[derive(Debug)]
pub struct WakeSource {
    reader: OwnedFd,
}

/// A fresh pair.
pub fn waker() -> io::Result<(Waker, WakeSource)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Waker { writer: Arc::new(writer) }, WakeSource { reader }))
}

impl Waker {
    pub fn wake(&self) {
        // Full: the sleeper will wake anyway. Closed: there is no sleeper any more.
        let _ = rustix::io::write(&*self.writer, &[1]);
    }
}

impl WakeSource {
    /// Takes all wakes that have come so far.
    pub fn clear(&self) {
        let mut sink = [0u8; 64];
        while matches!(rustix::io::read(&self.reader, &mut sink), Ok(count) if count == sink.len()) {}
    }
}

impl AsFd for WakeSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
