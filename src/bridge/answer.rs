//! An answer as it goes out, with the headers that every one carries.

use std::io::{self, Write};

use serde_json::{Value, json};

/// On every answer. No inline script or style, no outside host, no frame, no guessing of types.
const SECURITY_HEADERS: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'none'\r\n\
     X-Content-Type-Options: nosniff\r\n\
     X-Frame-Options: DENY\r\n\
     Referrer-Policy: no-referrer\r\n\
     Cross-Origin-Opener-Policy: same-origin\r\n\
     Cross-Origin-Resource-Policy: same-origin\r\n";

pub const JSON: &str = "application/json";

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// Further headers, by name and value.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A JSON object; `success` is added by its status.
    pub fn json(status: u16, mut data: Value) -> Answer {
        if let Value::Object(map) = &mut data {
            map.insert("success".into(), Value::Bool(status < 400));
        }
        Answer { status, content_type: JSON, headers: Vec::new(), body: (data.to_string() + "\n").into_bytes() }
    }

    pub fn ok(data: Value) -> Answer {
        Answer::json(200, data)
    }

    /// A failure, in words for a person.
    pub fn failure(status: u16, text: &str) -> Answer {
        Answer::json(status, json!({ "error": text }))
    }

    /// Something of the page itself.
    pub fn content(content_type: &'static str, body: Vec<u8>) -> Answer {
        Answer { status: 200, content_type, headers: vec![("Cache-Control", "no-cache".into())], body }
    }

    pub fn with(mut self, name: &'static str, value: String) -> Answer {
        self.headers.push((name, value));
        self
    }

    /// Writes it; without its body for HEAD.
    pub fn write(&self, out: &mut dyn Write, is_head: bool) -> io::Result<()> {
        write_head(out, self.status, self.content_type, self.body.len() as u64, &self.headers)?;
        if !is_head {
            out.write_all(&self.body)?;
        }
        out.flush()
    }
}

/// Writes the head of an answer whose body of `length` bytes follows.
pub fn write_head(
    out: &mut dyn Write,
    status: u16,
    content_type: &str,
    length: u64,
    headers: &[(&'static str, String)],
) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    text.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n"));
    text.push_str(SECURITY_HEADERS);
    if !headers.iter().any(|(name, _)| *name == "Cache-Control") {
        text.push_str("Cache-Control: no-store\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    out.write_all(text.as_bytes())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        423 => "Locked",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

/// Reads as a file's name in every browser, whatever the name holds.
pub fn attachment(name: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_. ".contains(byte);
    let fallback: String = name.iter().map(|byte| if plain(byte) { char::from(*byte) } else { '_' }).collect();
    // Exactly, as RFC 8187 writes it; what is no UTF-8 is replaced.
    let exact: String = String::from_utf8_lossy(name).bytes().map(|byte| escape(byte, b"-_.")).collect();
    format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{exact}")
}

fn escape(byte: u8, plain: &[u8]) -> String {
    match byte.is_ascii_alphanumeric() || plain.contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        let shown = attachment(b"a\"\r\nSet-Cookie: x; \\<\xff\xc3\xa4");
        assert!(!shown.contains(['\r', '\n', '<', '\\']), "{shown}");
        assert_eq!(shown.matches('"').count(), 2, "{shown}");
        assert!(shown.ends_with("%EF%BF%BD%C3%A4"), "{shown}");
    }

    #[test]
    fn every_answer_says_how_it_went_and_carries_the_headers() {
        let mut out = Vec::new();
        Answer::failure(404, "no <b>").write(&mut out, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        for wanted in ["Content-Security-Policy: default-src 'none'", "nosniff", "Cache-Control: no-store"] {
            assert!(text.contains(wanted), "{text}");
        }
        assert!(text.ends_with("\r\n\r\n{\"error\":\"no <b>\",\"success\":false}\n"), "{text}");
    }
}
