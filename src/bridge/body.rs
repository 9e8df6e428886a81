//! The body of a request as its bytes: exactly as many as were announced, or chunks, decoded strictly. A body that
//! ends too early is an error, never an end.

use std::io::{self, Read};

use super::head::BodyLength;

/// Digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 15;
/// What follows the last chunk, in bytes.
const TRAILER_BYTES_MAX: usize = 4 * 1024;

/// Reads a body and nothing behind it.
pub struct BodyReader<R> {
    source: R,
    state: State,
}

enum State {
    /// So many bytes are left, in all.
    Known(u64),
    /// So many bytes are left of a chunk; 0: a size comes next.
    Chunk {
        left: u64,
        is_first: bool,
    },
    Ended,
}

impl<R: Read> BodyReader<R> {
    pub fn new(source: R, length: BodyLength) -> BodyReader<R> {
        let state = match length {
            BodyLength::Known(bytes) => State::Known(bytes),
            BodyLength::Chunked => State::Chunk { left: 0, is_first: true },
        };
        BodyReader { source, state }
    }

    fn read_some(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.source.read(&mut buffer[..room])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// The size of the next chunk: digits, and nothing else, in its line.
    fn read_size(&mut self, is_first: bool) -> io::Result<u64> {
        if !is_first {
            self.expect(b"\r\n")?;
        }
        let (mut size, mut digits) = (0u64, 0);
        loop {
            match self.byte()? {
                b'\r' if digits > 0 => {
                    self.expect(b"\n")?;
                    return Ok(size);
                }
                byte => {
                    let digit = char::from(byte).to_digit(16).ok_or_else(|| malformed("the size of a chunk"))?;
                    digits += 1;
                    if digits > SIZE_DIGITS_MAX {
                        return Err(malformed("the size of a chunk"));
                    }
                    size = size * 16 + u64::from(digit);
                }
            }
        }
    }

    /// The lines behind the last chunk, which nobody wants.
    fn skip_trailer(&mut self) -> io::Result<()> {
        let (mut line, mut bytes) = (0, 0);
        loop {
            match self.byte()? {
                b'\r' => {
                    self.expect(b"\n")?;
                    if line == 0 {
                        return Ok(());
                    }
                    line = 0;
                }
                b'\n' => return Err(malformed("the trailer")),
                _ => line += 1,
            }
            bytes += 1;
            if bytes > TRAILER_BYTES_MAX {
                return Err(malformed("the trailer"));
            }
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn expect(&mut self, wanted: &[u8]) -> io::Result<()> {
        for byte in wanted {
            if self.byte()? != *byte {
                return Err(malformed("the end of a chunk"));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for BodyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.state {
            State::Known(0) | State::Ended => Ok(0),
            State::Known(left) => {
                let count = self.read_some(buffer, left)?;
                self.state = State::Known(left - count as u64);
                Ok(count)
            }
            State::Chunk { left: 0, is_first } => match self.read_size(is_first)? {
                0 => {
                    self.skip_trailer()?;
                    self.state = State::Ended;
                    Ok(0)
                }
                left => {
                    self.state = State::Chunk { left, is_first: false };
                    self.read(buffer)
                }
            },
            State::Chunk { left, .. } => {
                let count = self.read_some(buffer, left)?;
                self.state = State::Chunk { left: left - count as u64, is_first: false };
                Ok(count)
            }
        }
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], length: BodyLength) -> (io::Result<Vec<u8>>, usize) {
        let mut source = bytes;
        let mut body = Vec::new();
        let result = BodyReader::new(&mut source, length).read_to_end(&mut body).map(|_| body);
        (result, source.len())
    }

    #[test]
    fn a_body_ends_where_it_says_and_leaves_what_is_behind() {
        let (body, left) = read(b"0123456789", BodyLength::Known(4));
        assert_eq!((body.unwrap().as_slice(), left), (&b"0123"[..], 6));
        let (body, left) = read(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET", BodyLength::Chunked);
        assert_eq!((body.unwrap().as_slice(), left), (&b"abc0123456789"[..], 3));
        let (body, left) = read(b"0\r\nX: y\r\n\r\n", BodyLength::Chunked);
        assert_eq!((body.unwrap().len(), left), (0, 0));
    }

    #[test]
    fn a_body_that_ends_early_or_is_malformed_is_an_error() {
        assert!(read(b"012", BodyLength::Known(4)).0.is_err());
        for wrong in [
            "3\r\nab",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "\r\n",
            "g\r\n",
            "-1\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1;x=y\r\na\r\n0\r\n\r\n",
            "1111111111111111\r\n",
            "3\r\nabc\r\n",
            "3\r\nabc\r\n0\r\n",
            "3\r\nabc0\r\n\r\n",
        ] {
            assert!(read(wrong.as_bytes(), BodyLength::Chunked).0.is_err(), "{wrong:?}");
        }
        let trailer = format!("0\r\n{}\r\n\r\n", "x".repeat(TRAILER_BYTES_MAX + 1));
        assert!(read(trailer.as_bytes(), BodyLength::Chunked).0.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, BodyLength::Chunked);
        }
    }
}
