//! One content on its way from the thread that reads it off a request to the thread that sends it on: a bounded
//! queue of pieces. A giver that stops early is told apart from one that has given everything.

use std::io::{self, Read};

use crossbeam_channel::{Receiver, Sender, bounded};

/// How much is read off a request at a time.
pub const PIECE_BYTES: usize = 64 * 1024;
/// Pieces on their way.
const PIECES_MAX: usize = 8;

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// The end that gives.
pub struct Giver {
    pieces: Sender<Piece>,
}

/// The end that is read.
pub struct Taker {
    pieces: Receiver<Piece>,
    current: Vec<u8>,
    taken: usize,
    ended: bool,
}

pub fn handover() -> (Giver, Taker) {
    let (sender, receiver) = bounded(PIECES_MAX);
    (Giver { pieces: sender }, Taker { pieces: receiver, current: Vec::new(), taken: 0, ended: false })
}

/// Nobody takes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotWanted;

impl Giver {
    pub fn give(&self, bytes: &[u8]) -> Result<(), NotWanted> {
        self.pieces.send(Piece::Bytes(bytes.to_vec())).map_err(|_| NotWanted)
    }

    /// All has been given.
    pub fn finish(self) -> Result<(), NotWanted> {
        self.pieces.send(Piece::End).map_err(|_| NotWanted)
    }
}

impl Read for Taker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => (self.current, self.taken) = (bytes, 0),
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload was cut off")),
            }
        }
        let count = buffer.len().min(self.current.len() - self.taken);
        buffer[..count].copy_from_slice(&self.current[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_no_end() {
        let (giver, mut taker) = handover();
        giver.give(b"abc").unwrap();
        giver.finish().unwrap();
        let mut all = Vec::new();
        taker.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
        let (giver, mut taker) = handover();
        giver.give(b"abc").unwrap();
        drop(giver);
        assert!(taker.read_to_end(&mut all).is_err());
        let (giver, taker) = handover();
        drop(taker);
        assert_eq!(giver.give(b"x"), Err(NotWanted));
    }
}
