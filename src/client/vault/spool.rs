//! References to chunks, kept in memory while they are few and in a file without a name beyond that: the chunks of a
//! file of a terabyte are named in a gigabyte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::format::CHUNK_REFERENCE_BYTES;
use crate::base::durable::create_unnamed_file;
use crate::base::zeros::resize_zeroed;

/// How much is kept in memory, and read back at a time: whole references.
const MEMORY_BYTES: usize = 1_820 * CHUNK_REFERENCE_BYTES;

/// References that are written one behind the other, and read again from the first one on.
pub struct Spool {
    folder: PathBuf,
    /// What follows the bytes in the file.
    tail: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    spilled: u64,
}

impl Spool {
    /// An empty one, which makes its file in `folder`.
    pub fn new(folder: PathBuf) -> Spool {
        Spool { folder, tail: Vec::new(), file: None, spilled: 0 }
    }

    pub fn clear(&mut self) {
        self.tail.clear();
        self.spilled = 0;
    }

    pub fn push(&mut self, reference: &[u8; CHUNK_REFERENCE_BYTES]) -> io::Result<()> {
        if self.tail.len() == MEMORY_BYTES {
            let file = match self.file.take() {
                Some(file) => file,
                None => create_unnamed_file(&self.folder)?,
            };
            file.write_all_at(&self.tail, self.spilled)?;
            self.file = Some(file);
            self.spilled += self.tail.len() as u64;
            self.tail.clear();
        }
        self.tail.extend_from_slice(reference);
        Ok(())
    }

    /// How many pieces there are for [`Spool::piece`].
    pub fn pieces(&self) -> u64 {
        self.spilled.div_ceil(MEMORY_BYTES as u64) + 1
    }

    /// A piece of what was written, in order, in `out`.
    pub fn piece(&self, index: u64, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        let start = index * MEMORY_BYTES as u64;
        match &self.file {
            Some(file) if start < self.spilled => {
                resize_zeroed(out, (self.spilled - start).min(MEMORY_BYTES as u64) as usize);
                file.read_exact_at(out, start)
            }
            _ => {
                out.extend_from_slice(&self.tail);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_come_back_in_order_and_in_one_piece() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path().to_path_buf());
        for count in [0u32, 1, 1_820, 1_821, 20_000, 7] {
            spool.clear();
            let records = (0..count).map(|number| *[number.to_le_bytes(); 9].as_flattened().first_chunk().unwrap());
            let written: Vec<u8> = records
                .flat_map(|record| {
                    spool.push(&record).unwrap();
                    record
                })
                .collect();
            let (mut read, mut piece) = (Vec::new(), Vec::new());
            for index in 0..spool.pieces() {
                spool.piece(index, &mut piece).unwrap();
                assert!(piece.len().is_multiple_of(CHUNK_REFERENCE_BYTES));
                read.extend_from_slice(&piece);
            }
            assert!(read == written, "{count}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
