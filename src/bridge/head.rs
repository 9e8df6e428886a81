//! The head of a request: read within a deadline and a size, and parsed so strictly that no two readers can take
//! it for different requests. What comes behind the one request of a connection is never looked at.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Request line and headers in all, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long the whole head may take, from the first byte waited for to the last.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Most header lines.
const HEADERS_MAX: usize = 100;

/// What a request begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    /// Path and query, beginning with `/`.
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: BodyLength,
}

/// How the end of a request's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Known(u64),
    Chunked,
}

/// Why there is no request: what to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Nothing came, or the line broke: there is nobody to answer.
    Gone,
    Refused {
        status: u16,
        text: &'static str,
    },
}

const fn bad(text: &'static str) -> HeadError {
    HeadError::Refused { status: 400, text }
}

impl RequestHead {
    /// The value of a header, by its name in lower case; the first where several are allowed.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether the request asks for nothing but to be told something.
    pub fn is_reading(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }

    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Parses a head without its last, empty line.
    pub fn parse(bytes: &[u8]) -> Result<RequestHead, HeadError> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("the head is no text"))?;
        let mut lines = text.split("\r\n");
        let (method, target) = parse_request_line(lines.next().unwrap_or_default())?;
        let mut headers = Vec::new();
        for line in lines {
            if headers.len() == HEADERS_MAX {
                return Err(HeadError::Refused { status: 431, text: "there are too many headers" });
            }
            headers.push(parse_header(line)?);
        }
        let mut head = RequestHead { method, target, headers, body: BodyLength::Known(0) };
        if head.values("host").len() != 1 {
            return Err(bad("exactly one Host is wanted"));
        }
        if head.values("origin").len() > 1 {
            return Err(bad("Origin is given twice"));
        }
        head.body = head.parse_body_length()?;
        Ok(head)
    }

    /// Both lengths, two of one, or one that is no plain number could be read in two ways.
    fn parse_body_length(&self) -> Result<BodyLength, HeadError> {
        match (self.values("content-length").as_slice(), self.values("transfer-encoding").as_slice()) {
            ([], []) => Ok(BodyLength::Known(0)),
            ([length], []) => {
                let is_plain =
                    !length.is_empty() && length.len() <= 18 && length.bytes().all(|b| b.is_ascii_digit());
                let length = is_plain.then(|| length.parse().ok()).flatten();
                length.map(BodyLength::Known).ok_or(bad("Content-Length is no plain number"))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyLength::Chunked),
            ([], [_]) => Err(HeadError::Refused { status: 501, text: "the only transfer coding is chunked" }),
            _ => Err(bad("the length of the body is given twice")),
        }
    }
}

fn parse_request_line(line: &str) -> Result<(String, String), HeadError> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts.as_slice() else { return Err(bad("the request line is wrong")) };
    if method.is_empty() || method.len() > 16 || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(bad("the method is wrong"));
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad("the target must begin with / and be percent-encoded"));
    }
    match *version {
        "HTTP/1.1" => Ok((method.to_string(), target.to_string())),
        _ => Err(HeadError::Refused { status: 505, text: "only HTTP/1.1 is spoken here" }),
    }
}

fn parse_header(line: &str) -> Result<(String, String), HeadError> {
    let (name, value) = line.split_once(':').ok_or(bad("a header has no colon"))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    // Neither folded lines nor spaces before the colon: both have been read in two ways.
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(bad("the name of a header is wrong"));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.chars().any(|character| character.is_control() && character != '\t') {
        return Err(bad("the value of a header is wrong"));
    }
    Ok((name.to_ascii_lowercase(), value.to_string()))
}

/// Reads a head; gives it with what came behind it, the beginning of the body.
pub fn read(mut stream: &TcpStream) -> Result<(RequestHead, Vec<u8>), HeadError> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    // Up to here no end can begin.
    let mut searched = 0;
    loop {
        let from = searched;
        if let Some(place) = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            let end = from + place;
            // One read may have brought more than a head may have.
            if end > HEAD_BYTES_MAX {
                return Err(too_long());
            }
            return Ok((RequestHead::parse(&bytes[..end])?, bytes.split_off(end + 4)));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(too_long());
        }
        searched = bytes.len().saturating_sub(3);
        let left = deadline.saturating_duration_since(Instant::now());
        let late = HeadError::Refused { status: 408, text: "the head of the request took too long" };
        let late = if bytes.is_empty() { HeadError::Gone } else { late };
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err(late);
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Err(HeadError::Gone),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(late);
            }
            Err(_) => return Err(HeadError::Gone),
        }
    }
}

fn too_long() -> HeadError {
    HeadError::Refused { status: 431, text: "the head of the request is longer than 16 KiB" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(text: &str) -> u16 {
        match RequestHead::parse(text.as_bytes()) {
            Ok(_) => 200,
            Err(HeadError::Refused { status, .. }) => status,
            Err(HeadError::Gone) => 0,
        }
    }

    #[test]
    fn a_plain_request_is_taken_apart() {
        let head = RequestHead::parse(b"POST /api/x?y=1 HTTP/1.1\r\nHost: a:1\r\nContent-Length:  12 ").unwrap();
        assert_eq!((head.method.as_str(), head.path(), head.target.as_str()), ("POST", "/api/x", "/api/x?y=1"));
        assert_eq!((head.header("host"), head.body), (Some("a:1"), BodyLength::Known(12)));
        assert!(!head.is_reading());
        let head = RequestHead::parse(b"PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked").unwrap();
        assert_eq!(head.body, BodyLength::Chunked);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (line, wanted) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
            ("Content-Length: 1\r\nContent-Length: 1", 400),
            ("Content-Length: 1, 1", 400),
            ("Content-Length: +1", 400),
            ("Content-Length: 0x1", 400),
            ("Content-Length: -1", 400),
            ("Content-Length:", 400),
            ("Content-Length: 99999999999999999999", 400),
            ("Content-Length : 1", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Host: b", 400),
            ("Origin: http://a\r\nOrigin: http://b", 400),
            ("A: b\r\n folded", 400),
            ("A: b\rC: d", 400),
            ("A: b\nC: d", 400),
            ("A: \0", 400),
            (": b", 400),
            ("no colon", 400),
        ] {
            assert_eq!(status(&format!("POST / HTTP/1.1\r\nHost: a\r\n{line}")), wanted, "{line:?}");
        }
    }

    #[test]
    fn request_lines_are_strict() {
        for (line, wanted) in [
            ("GET / HTTP/1.1", 200),
            ("GET / HTTP/1.0", 505),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("get / HTTP/1.1", 400),
            ("GET http://a/ HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
            ("GET /\u{e9} HTTP/1.1", 400),
            ("GET /a#b HTTP/1.1", 400),
            ("GET /", 400),
            ("", 400),
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: a")), wanted, "{line:?}");
        }
        assert_eq!(status("GET / HTTP/1.1"), 400, "without a Host");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RequestHead::parse(&bytes);
        }
    }
}
