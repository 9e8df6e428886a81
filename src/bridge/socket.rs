//! A viewer's WebSocket: one thread, which sleeps until the socket or the hub has something. What waits goes out
//! together; while that has not left nothing more is taken, so that nothing piles up for a viewer that does not read.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::answer::Answer;
use super::head::RequestHead;
use super::hub::{self, Hub, Viewer};
use crate::base::shutdown::Shutdown;
use crate::base::waker::{WakeSource, waker};

/// Longest message that a page may send.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// So much is gathered before it is written, and so much may wait to be written to one viewer.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// How long a viewer sleeps where nothing happens.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// How long a viewer may take nothing of what waits for it.
const STALLED_TIMEOUT: Duration = Duration::from_secs(30);
/// A viewer is pinged after so much silence, and given up after twice as much.
const PING_AFTER: Duration = Duration::from_secs(20);

/// The key that accepts an upgrade; else what to answer.
pub fn accept_key(head: &RequestHead) -> Result<String, Answer> {
    let has = |name: &str, word: &str| {
        let values = head.header(name).unwrap_or_default();
        values.split(',').any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let is_upgrade = head.method == "GET" && has("upgrade", "websocket") && has("connection", "upgrade");
    if !is_upgrade || !has("sec-websocket-version", "13") {
        return Err(
            Answer::failure(400, "/ws is a WebSocket, version 13").with("Sec-WebSocket-Version", "13".into())
        );
    }
    match head.header("sec-websocket-key") {
        Some(key) if key.len() == 24 => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Answer::failure(400, "Sec-WebSocket-Key is wrong")),
    }
}

/// Serves a viewer until either side ends it.
pub fn serve(stream: TcpStream, accept: &str, rest: Vec<u8>, hub: &Arc<Hub>, shutdown: &Shutdown) {
    let Ok((waker, wakes)) = waker() else { return };
    let Some(mut viewer) = hub.watch(waker) else {
        let _ = Answer::failure(503, "there are too many viewers").write(&mut &stream, false);
        return;
    };
    if let Err(error) = watch(stream, accept, rest, &mut viewer, &wakes, shutdown) {
        log::debug!("a viewer is gone: {error}");
    }
}

fn watch(
    stream: TcpStream,
    accept: &str,
    rest: Vec<u8>,
    viewer: &mut Viewer,
    wakes: &WakeSource,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.set_write_timeout(Some(STALLED_TIMEOUT))?;
    io::Write::write_all(&mut &stream, head.as_bytes())?;
    stream.set_nonblocking(true)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .read_buffer_size(MESSAGE_BYTES_MAX);
    let socket = WebSocket::from_partially_read(stream, rest, Role::Server, Some(config));
    let now = Instant::now();
    Watching { socket, viewer, stalled: None, heard: now, pinged: now }.run(wakes, shutdown)
}

struct Watching<'a> {
    socket: WebSocket<TcpStream>,
    viewer: &'a mut Viewer,
    /// Since when something waits to be taken.
    stalled: Option<Instant>,
    heard: Instant,
    pinged: Instant,
}

impl Watching<'_> {
    fn run(mut self, wakes: &WakeSource, shutdown: &Shutdown) -> Result<(), Error> {
        // What came with the head of the request may hold a message.
        self.hear()?;
        loop {
            if shutdown.is_requested() {
                let closed = self.socket.close(None);
                return self.written(closed);
            }
            self.tell()?;
            self.keep_alive()?;
            if self.sleep(wakes)? {
                self.hear()?;
            }
        }
    }

    /// Writes what waits, if it is time for that, until the viewer's side is full.
    fn tell(&mut self) -> Result<(), Error> {
        if self.stalled.is_none() && self.viewer.due_in() == Some(Duration::ZERO) {
            let (socket, stalled, mut result) = (&mut self.socket, &mut self.stalled, Ok(()));
            self.viewer.take(|message| match socket.write(Message::Text(message)) {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    *stalled = Some(Instant::now());
                    false
                }
                other => {
                    result = other;
                    result.is_ok()
                }
            });
            result?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.socket.flush();
        let was_full = matches!(&flushed, Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock);
        self.stalled = was_full.then(|| self.stalled.unwrap_or_else(Instant::now));
        match self.stalled {
            Some(since) if since.elapsed() >= STALLED_TIMEOUT => {
                Err(io::Error::from(io::ErrorKind::TimedOut).into())
            }
            _ => self.written(flushed),
        }
    }

    /// A full socket is no failure: what was written waits.
    fn written(&self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// Takes what the page has sent.
    fn hear(&mut self) -> Result<(), Error> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    self.heard = Instant::now();
                    self.answer(&text)?;
                }
                Ok(_) => self.heard = Instant::now(),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, text: &str) -> Result<(), Error> {
        let request: Value = serde_json::from_str(text).unwrap_or_default();
        match request["event"].as_str() {
            // One that does not read needs no answer either.
            Some("ping") if self.stalled.is_none() => {
                let pong = self.socket.write(Message::Text(hub::message("pong", json!({}))));
                self.written(pong)?;
                self.flush()
            }
            Some("get_status") => {
                self.viewer.ask_for_present();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keep_alive(&mut self) -> Result<(), Error> {
        if self.heard.elapsed() >= PING_AFTER * 2 {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        if self.heard.elapsed() >= PING_AFTER && self.pinged.elapsed() >= PING_AFTER && self.stalled.is_none() {
            self.pinged = Instant::now();
            let ping = self.socket.write(Message::Ping(Default::default()));
            self.written(ping)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Until something is to be done; says whether the page has sent something.
    fn sleep(&self, wakes: &WakeSource) -> io::Result<bool> {
        let (full, due) = match self.stalled {
            // What the hub has must wait: a viewer that does not read costs nothing.
            Some(_) => (PollFlags::OUT, None),
            None => (PollFlags::empty(), self.viewer.due_in()),
        };
        let limit = due.unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let stream = PollFd::new(self.socket.get_ref(), PollFlags::IN | full);
        let mut ready = [stream, PollFd::from_borrowed_fd(wakes.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !ready[1].revents().is_empty() {
            wakes.clear();
        }
        Ok(ready[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
    }
}
