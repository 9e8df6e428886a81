//! `multipart/form-data` (RFC 7578) as a stream: one part after the other, each read in pieces as it comes.

use crate::base::zeros::resize_zeroed;
use std::io::{self, Read};

/// What is read ahead at most, and so how long the headers of a part may be, beside a boundary.
const BUFFER_BYTES: usize = 64 * 1024;
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// RFC 2046.
const BOUNDARY_BYTES_MAX: usize = 70;

/// What a part says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartHead {
    pub name: String,
    pub file_name: Option<String>,
}

/// Reads a multipart body.
pub struct Multipart<R> {
    source: R,
    /// Line end, dashes and the boundary.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    start: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Beginning,
    InPart,
    /// Behind a delimiter.
    Between,
    Ended,
}

/// The boundary that a content type names.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && boundary.bytes().all(|byte| (32..127).contains(&byte));
    fits.then_some(boundary)
}

impl<R: Read> Multipart<R> {
    pub fn new(source: R, boundary: &str) -> Multipart<R> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter has no line end before it.
        Multipart { source, delimiter, buffer: b"\r\n".to_vec(), start: 0, state: State::Beginning }
    }

    /// The next part, whatever was left of the one before; none at the end.
    pub fn next_part(&mut self) -> io::Result<Option<PartHead>> {
        let mut rest = [0; 4096];
        while matches!(self.state, State::Beginning | State::InPart) {
            self.read_part(&mut rest)?;
        }
        if self.state == State::Ended {
            return Ok(None);
        }
        // Behind a delimiter: dashes end it all, a line end begins a part.
        match self.take(2)?.as_slice() {
            b"--" => {
                self.state = State::Ended;
                return Ok(None);
            }
            b"\r\n" => {}
            _ => return Err(malformed("a boundary is followed by neither a line end nor dashes")),
        }
        let mut head = PartHead::default();
        let mut bytes = 0;
        loop {
            let line = self.line()?;
            bytes += line.len();
            if bytes > PART_HEAD_BYTES_MAX {
                return Err(malformed("the headers of a part are too long"));
            }
            if line.is_empty() {
                break;
            }
            take_header(&line, &mut head);
        }
        // An empty part's delimiter follows directly; its line end has been read.
        self.start -= 2;
        self.state = State::InPart;
        self.skip_line_end()?;
        Ok(Some(head))
    }

    /// Bytes of the present part; 0 at its end.
    pub fn read_part(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !matches!(self.state, State::Beginning | State::InPart) {
            return Ok(0);
        }
        loop {
            let waiting = &self.buffer[self.start..];
            let (content, is_delimiter) = content_before(waiting, &self.delimiter);
            if content > 0 {
                let count = content.min(out.len());
                out[..count].copy_from_slice(&waiting[..count]);
                self.start += count;
                return Ok(count);
            }
            if is_delimiter {
                self.start += self.delimiter.len();
                self.state = State::Between;
                return Ok(0);
            }
            self.fill()?;
        }
    }

    /// The line end that belongs to the headers is no content.
    fn skip_line_end(&mut self) -> io::Result<()> {
        while self.buffer.len() - self.start < 2 + self.delimiter.len() {
            if self.fill().is_err() {
                break;
            }
        }
        if !self.buffer[self.start..].starts_with(&self.delimiter) {
            self.start += 2;
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.start < count {
            self.fill()?;
        }
        self.start += count;
        Ok(self.buffer[self.start - count..self.start].to_vec())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let waiting = &self.buffer[self.start..];
            if let Some(length) = waiting.windows(2).position(|pair| pair == b"\r\n") {
                let line = waiting[..length].to_vec();
                self.start += length + 2;
                return Ok(line);
            }
            if waiting.len() > PART_HEAD_BYTES_MAX {
                return Err(malformed("a header of a part is too long"));
            }
            self.fill()?;
        }
    }

    /// Reads more; an end here is an error.
    fn fill(&mut self) -> io::Result<()> {
        // What is behind `start` is kept, and two bytes before it, which may be looked at again.
        let keep_from = self.start.saturating_sub(2);
        self.buffer.drain(..keep_from);
        self.start -= keep_from;
        let length = self.buffer.len();
        resize_zeroed(&mut self.buffer, length + BUFFER_BYTES);
        let read = self.source.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends within a part")),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How many bytes lie before the next place where a delimiter begins, or may; and whether one begins at once.
fn content_before(bytes: &[u8], delimiter: &[u8]) -> (usize, bool) {
    let mut from = 0;
    while let Some(place) = bytes[from..].iter().position(|byte| *byte == b'\r').map(|place| from + place) {
        let rest = &bytes[place..];
        if rest.starts_with(delimiter) {
            return (place, place == 0);
        }
        if delimiter.starts_with(rest) {
            return (place, false);
        }
        from = place + 1;
    }
    (bytes.len(), false)
}

fn take_header(line: &[u8], head: &mut PartHead) {
    let line = String::from_utf8_lossy(line);
    let Some((name, value)) = line.split_once(':') else { return };
    if !name.trim().eq_ignore_ascii_case("content-disposition") {
        return;
    }
    head.name = parameter(value, "name").unwrap_or_default();
    head.file_name = parameter(value, "filename");
}

/// A parameter of a header: plain, or in quotes with what browsers escape.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.rsplit(';').next().unwrap_or(name).trim();
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_string(), &after[end..])
            }
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = next;
    }
}

fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => {
                return (value.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n"), &text[place + 1..]);
            }
            // curl escapes quotes and backslashes with one.
            '\\' if text[place + 1..].starts_with(['"', '\\']) => {
                value.extend(characters.next().map(|(_, next)| next))
            }
            other => value.push(other),
        }
    }
    (value, "")
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of a size.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(buffer.len()).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn parse(body: &[u8], drip: usize) -> io::Result<Vec<(PartHead, Vec<u8>)>> {
        let mut multipart = Multipart::new(Drip(body, drip), "XX");
        let mut parts = Vec::new();
        while let Some(head) = multipart.next_part()? {
            let (mut content, mut piece) = (Vec::new(), [0; 7]);
            loop {
                match multipart.read_part(&mut piece)? {
                    0 => break,
                    count => content.extend_from_slice(&piece[..count]),
                }
            }
            parts.push((head, content));
        }
        Ok(parts)
    }

    fn part(name: &str, content: &[u8]) -> Vec<u8> {
        let head =
            format!("--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nX: y\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    }

    proptest! {
        #[test]
        fn parts_come_back_however_they_arrive(
            contents in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X'), any::<u8>()], 0..40), 0..4),
            drip in 1usize..50,
        ) {
            prop_assume!(!contents.iter().any(|content| content.windows(6).any(|window| window == b"\r\n--XX")));
            prop_assume!(!contents.iter().any(|content| content.starts_with(b"--XX")));
            let mut body: Vec<u8> = contents.iter().flat_map(|content| part("a", content)).collect();
            body.extend_from_slice(b"--XX--\r\n");
            let parts = parse(&body, drip).unwrap();
            let found: Vec<Vec<u8>> = parts.into_iter().map(|(_, content)| content).collect();
            prop_assert_eq!(found, contents);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), drip in 1usize..50) {
            let _ = parse(&bytes, drip);
            let _ = parse(&[b"--XX\r\n".as_slice(), &bytes].concat(), drip);
        }
    }

    #[test]
    fn names_are_read_with_their_escapes() {
        let name = |text: &str| parameter(text, "filename");
        assert_eq!(name(r#" form-data; name="file"; filename="a;\"b\" =.txt""#), Some(r#"a;"b" =.txt"#.into()));
        assert_eq!(name("form-data; filename=plain; name=x"), Some("plain".into()));
        assert_eq!(name(r#"form-data; filename="a%22b""#), Some("a\"b".into()));
        assert_eq!(name("form-data; name=x"), None);
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b".into()));
        assert_eq!((boundary("text/plain; boundary=a"), boundary("multipart/form-data")), (None, None));
    }

    #[test]
    fn a_body_that_is_cut_off_is_an_error() {
        let whole = [part("a", b"content"), b"--XX--".to_vec()].concat();
        assert_eq!(parse(&whole, 9).unwrap().len(), 1);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], 9).is_err(), "{length}");
        }
    }
}
