//! The files that are backed up: made from a seed, so that every machine measures the same.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const PIECE_BYTES: usize = 1 << 20;
/// What changes in places changes in pieces of this size.
pub const RUN_BYTES: usize = 64 << 10;
pub const FILES_IN_A_FOLDER: u64 = 200;

/// Bytes that no compressor makes smaller, different for each seed.
struct Noise(blake3::OutputReader);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill(&mut bytes);
        bytes
    }

    /// Words of a vocabulary as large as that of a book, the short ones more often than the long ones.
    fn words(&mut self, count: usize) -> Vec<u8> {
        const LETTERS: &[u8] = b"etaoinshrdlucmfwypvbgkqjxz";
        let mut text = Vec::with_capacity(count + 16);
        while text.len() < count {
            let word = self.below(4096).min(self.below(4096));
            let length = 2 + (word + 1).ilog2() as usize;
            let letter = |at: usize| LETTERS[(word as usize * (at + 7) + at * at * 5) % LETTERS.len()];
            text.extend((0..length).map(letter));
            text.push(if word.is_multiple_of(13) { b'\n' } else { b' ' });
        }
        text.truncate(count);
        text
    }

    fn below(&mut self, bound: u64) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().expect("eight bytes")) % bound
    }
}

/// One file of so many bytes of noise.
pub fn large_file(path: &Path, bytes: u64, seed: u64) {
    let mut noise = Noise::new(seed);
    let mut file = BufWriter::new(File::create(path).expect("a source can be made"));
    let mut left = bytes as usize;
    while left > 0 {
        let piece = noise.bytes(left.min(PIECE_BYTES));
        file.write_all(&piece).expect("there is room for the source");
        left -= piece.len();
    }
    file.flush().expect("there is room for the source");
}

/// Writes so many runs of new bytes at scattered places of a file.
pub fn change_in_places(path: &Path, runs: u64, seed: u64) {
    let mut noise = Noise::new(seed);
    let file = File::options().write(true).open(path).expect("the source is there");
    let bytes = file.metadata().expect("the source can be looked at").len();
    let apart = bytes / runs;
    for run in 0..runs {
        // One in each stretch of equal length, so that none meets another.
        let at = run * apart + noise.below(apart.saturating_sub(RUN_BYTES as u64).max(1));
        file.write_all_at(&noise.bytes(RUN_BYTES.min((bytes - at) as usize)), at)
            .expect("the source can be changed");
    }
}

/// Which of many files are made of words, and not of noise.
#[derive(Clone, Copy, PartialEq)]
pub enum Texts {
    None,
    EverySecond,
}

/// So many files of 8 KiB on average, in folders of [`FILES_IN_A_FOLDER`].
pub fn small_files(root: &Path, files: u64, seed: u64, texts: Texts) {
    let mut noise = Noise::new(seed);
    for number in 0..files {
        let bytes = 16 + noise.below(16 << 10) as usize;
        let path = small_file(root, number);
        if number % FILES_IN_A_FOLDER == 0 {
            fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
        }
        let is_text = texts == Texts::EverySecond && number % 2 == 1;
        let content = if is_text { noise.words(bytes) } else { noise.bytes(bytes) };
        fs::write(path, content).expect("there is room for the source");
    }
}

/// New contents for every `each`th of them.
pub fn change_small_files(root: &Path, files: u64, each: u64, seed: u64) {
    let mut noise = Noise::new(seed);
    for number in (0..files).step_by(each as usize) {
        let bytes = 16 + noise.below(16 << 10) as usize;
        fs::write(small_file(root, number), noise.bytes(bytes)).expect("there is room for the source");
    }
}

fn small_file(root: &Path, number: u64) -> std::path::PathBuf {
    root.join(format!("folder-{:05}", number / FILES_IN_A_FOLDER)).join(format!("file-{number:07}.dat"))
}

/// So many empty files, for what their number alone costs.
pub fn empty_files(root: &Path, files: u64) {
    for number in 0..files {
        let path = small_file(root, number);
        if number % FILES_IN_A_FOLDER == 0 {
            fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
        }
        File::create(path).expect("a file can be made");
    }
}

/// All bytes below a folder as they lie on its disk, in blocks.
pub fn stored_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { stored_bytes(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}
