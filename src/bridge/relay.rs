//! One request and its answer between a browser's connection and the inner server. Bodies pass through in
//! pieces, both ways; each wait for the browser has a deadline. Exactly one request passes: what a client sends
//! behind it is never forwarded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::body::BodyReader;
use super::head::{BodyLength, RequestHead};
use super::inner::Inner;

/// The length of a body as it was announced, for the inner server, which gets every body in chunks.
pub const LENGTH_HEADER: &str = "X-Announced-Length";
/// How long a client may send or take nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much passes at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// What a client still sends after the answer is read and forgotten, so that the answer arrives: so much, so long.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// How sending the body ended.
enum Sent {
    Whole,
    /// The inner server wants no more of it; its answer tells why.
    Unwanted,
    /// The client went away, or its chunks are malformed.
    Broken(io::Error),
}

/// Relays a request; `rest` is what came behind its head.
pub fn relay(client: &TcpStream, head: &RequestHead, rest: &[u8], inner: &Inner) {
    let answered = match inner.connect() {
        Ok(upstream) => exchange(client, head, rest, &upstream),
        Err(error) => {
            log::warn!("a request was turned away: {error}");
            Err(Some(Answer::failure(503, "this program has too many connections open: try again")))
        }
    };
    if let Err(Some(answer)) = answered {
        let _ = answer.write(&mut &*client, head.method == "HEAD");
    }
    linger(client);
}

/// None as an error: there is nobody to answer.
fn exchange(
    client: &TcpStream,
    head: &RequestHead,
    rest: &[u8],
    upstream: &UnixStream,
) -> Result<(), Option<Answer>> {
    let _ = client.set_read_timeout(Some(IDLE_TIMEOUT));
    let _ = client.set_write_timeout(Some(IDLE_TIMEOUT));
    match send_request(client, head, rest, upstream) {
        Sent::Whole | Sent::Unwanted => {}
        Sent::Broken(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Some(Answer::failure(400, &error.to_string())));
        }
        Sent::Broken(_) => return Err(None),
    }
    let mut answered = false;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match (&mut &*upstream).read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                answered = true;
                (&mut &*client).write_all(&piece[..count]).map_err(|_| None)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It closed with a part of the body unread.
            Err(_) => break,
        }
    }
    let gave_up = || Some(Answer::failure(503, "this program could not answer: try again, or look at its log"));
    if answered { Ok(()) } else { Err(gave_up()) }
}

fn send_request(client: &TcpStream, head: &RequestHead, rest: &[u8], mut upstream: &UnixStream) -> Sent {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: gui\r\nConnection: close\r\n", head.method, head.target);
    if let Some(value) = head.header("content-type").filter(|value| value.is_ascii()) {
        text.push_str(&format!("Content-Type: {value}\r\n"));
    }
    if let BodyLength::Known(bytes) = head.body {
        text.push_str(&format!("{LENGTH_HEADER}: {bytes}\r\n"));
    }
    let has_body = head.body != BodyLength::Known(0);
    text.push_str(if has_body { "Transfer-Encoding: chunked\r\n\r\n" } else { "\r\n" });
    if upstream.write_all(text.as_bytes()).is_err() {
        return Sent::Unwanted;
    }
    if !has_body {
        return Sent::Whole;
    }
    let expects = head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects && rest.is_empty() {
        let _ = (&mut &*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    send_body(BodyReader::new(rest.chain(client), head.body), upstream)
}

fn send_body(mut body: impl Read, mut upstream: &UnixStream) -> Sent {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match body.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Without its last chunk the body counts as cut off.
            Err(error) => return Sent::Broken(error),
        };
        let sent = upstream
            .write_all(format!("{count:x}\r\n").as_bytes())
            .and_then(|()| upstream.write_all(&piece[..count]))
            .and_then(|()| upstream.write_all(b"\r\n"));
        match sent {
            Err(_) => return Sent::Unwanted,
            Ok(()) if count == 0 => return Sent::Whole,
            Ok(()) => {}
        }
    }
}

/// Ends a connection so that what was written arrives, whatever the client is still sending.
pub fn linger(mut client: &TcpStream) {
    let _ = client.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER_TIMEOUT;
    let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
    while bytes < LINGER_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || client.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match client.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes += count,
        }
    }
}
