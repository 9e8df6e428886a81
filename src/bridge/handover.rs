//! One content on its way from the thread that reads it off a request to the thread that sends it on: a bounded
//! queue of pieces. A giver that stops early is told apart from one that has given everything, and whoever stops the
//! backup wakes a taker whose giver has stalled.

use std::convert::Infallible;
use std::io::{self, Read};

use crossbeam_channel::{Receiver, Sender, bounded, select};

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

/// Dropped, it ends the reading, whatever the giver does. Kept until all has been taken.
pub struct Stopper {
    _alive: Sender<Infallible>,
}

/// The end that is read.
pub struct Taker {
    pieces: Receiver<Piece>,
    stopped: Receiver<Infallible>,
    current: Vec<u8>,
    taken: usize,
    ended: bool,
}

pub fn handover() -> (Giver, Taker, Stopper) {
    let (sender, pieces) = bounded(PIECES_MAX);
    let (alive, stopped) = bounded(0);
    let taker = Taker { pieces, stopped, current: Vec::new(), taken: 0, ended: false };
    (Giver { pieces: sender }, taker, Stopper { _alive: alive })
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
            let piece = select! {
                recv(self.pieces) -> piece => piece,
                recv(self.stopped) -> _ => return Err(cut_off("the backup was stopped")),
            };
            match piece {
                Ok(Piece::Bytes(bytes)) => (self.current, self.taken) = (bytes, 0),
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(cut_off("the upload was cut off")),
            }
        }
        let count = buffer.len().min(self.current.len() - self.taken);
        buffer[..count].copy_from_slice(&self.current[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

fn cut_off(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_no_end() {
        let (giver, mut taker, _stopper) = handover();
        giver.give(b"abc").unwrap();
        giver.finish().unwrap();
        let mut all = Vec::new();
        taker.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
        let (giver, mut taker, _stopper) = handover();
        giver.give(b"abc").unwrap();
        drop(giver);
        assert!(taker.read_to_end(&mut all).is_err());
        let (giver, taker, _stopper) = handover();
        drop(taker);
        assert_eq!(giver.give(b"x"), Err(NotWanted));
    }

    #[test]
    fn a_taker_whose_giver_has_stalled_is_woken() {
        let (_giver, mut taker, stopper) = handover();
        let reading = std::thread::spawn(move || taker.read(&mut [0]).map_err(|error| error.to_string()));
        drop(stopper);
        assert_eq!(reading.join().unwrap(), Err("the backup was stopped".into()));
    }
}
