//! Sealed files against a model, and against damage: whatever is done to one, reading it gives the right bytes or an
//! error.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::durable::Disk;
use crate::base::folder::open_folder;
use crate::base::limits::SEALED_BATCH_SEGMENTS;
use crate::crypto::StorageKey;
use crate::crypto::sealed_file::{SEALED_END_BYTES_MIN, SEALED_MAGIC};
use crate::storage::layout::ClientFolder;
use crate::storage::received::open_to_mend;

const NAME: &[u8] = b"file";

fn contents(keyring: &Keyring) -> FileKeyring {
    keyring.of(&ClientFolder::parse("ada-00112233").unwrap()).files(SealedKind::Content)
}

fn sealing() -> FileKeyring {
    contents(&Keyring::new(Some(Arc::new(StorageKey::random())), Vec::new(), false))
}

fn plain() -> FileKeyring {
    contents(&Keyring::plain())
}

struct Place {
    folder: tempfile::TempDir,
    keyring: FileKeyring,
}

impl Place {
    fn new(keyring: FileKeyring) -> Place {
        Place { folder: tempfile::tempdir().unwrap(), keyring }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    fn create(&self) -> FileWriter {
        let folder = open_folder(self.folder.path()).unwrap();
        FileWriter::create(&Disk::real(), folder.as_fd(), NAME, &self.keyring).unwrap()
    }

    /// None where nothing has come to the disk yet, not even a header: whoever goes on begins anew.
    fn reopen(&self, length: u64, rest: &[u8]) -> Option<FileWriter> {
        let folder = open_folder(self.folder.path()).unwrap();
        let reopened =
            FileWriter::reopen(&Disk::real(), folder.as_fd(), NAME, length, rest, &self.keyring).unwrap();
        assert_eq!(reopened.is_none(), self.keyring.writing().is_some() && self.stored_bytes() < HEADER);
        reopened
    }

    fn stored_bytes(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }

    fn store(&self, bytes: &[u8]) -> Vec<u8> {
        let mut file = self.create();
        file.write(bytes).unwrap();
        file.finish().unwrap();
        std::fs::read(self.path()).unwrap()
    }

    fn read(&self, ending: Ending) -> io::Result<Vec<u8>> {
        let mut file = StoredFile::open(File::open(self.path())?, &self.keyring, ending)?;
        let mut bytes = vec![0; file.length()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
    }
}

fn bytes_of(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Skip(u64),
    Cut(prop::sample::Index),
    Finish,
    Settle,
    /// The process ends, and another goes on: with what it kept of the rest, or without.
    Reopen(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let segment = SEGMENT as usize;
    let length = prop_oneof![
        0..3 * segment,
        Just(segment),
        Just(SEALED_BATCH_SEGMENTS * segment),
        (0_usize..20).prop_map(move |segments| segments * segment)
    ];
    prop_oneof![
        4 => length.clone().prop_map(Step::Write),
        2 => (length, 0_u64..40).prop_map(|(some, segments)| Step::Skip(some as u64 + segments * SEGMENT)),
        1 => any::<prop::sample::Index>().prop_map(Step::Cut),
        2 => Just(Step::Finish),
        1 => Just(Step::Settle),
        2 => any::<bool>().prop_map(Step::Reopen),
    ]
}

fn run_story(place: &Place, steps: &[Step]) -> Vec<u8> {
    let (mut file, mut model) = (place.create(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write(length) => {
                let bytes = bytes_of(*length, number as u8);
                file.write(&bytes).unwrap();
                model.extend_from_slice(&bytes);
            }
            Step::Skip(length) => {
                file.skip(*length).unwrap();
                model.resize(model.len() + *length as usize, 0);
            }
            Step::Cut(at) => {
                let kept = at.index(model.len() + 1);
                if kept < model.len() {
                    file.cut_back(kept as u64).unwrap();
                    model.truncate(kept);
                }
            }
            Step::Finish => file.finish().unwrap(),
            Step::Settle => file.settle().unwrap(),
            Step::Reopen(with_rest) => {
                let rest = file.rest().to_vec();
                if !with_rest || model.is_empty() {
                    file.finish().unwrap();
                } else {
                    file.settle().unwrap();
                }
                let reopened = place.reopen(model.len() as u64, if *with_rest { &rest } else { &[] });
                file = reopened.unwrap_or_else(|| {
                    model.clear();
                    std::fs::remove_file(place.path()).unwrap();
                    place.create()
                });
            }
        }
        assert_eq!(file.bytes(), model.len() as u64, "after {step:?}");
    }
    file.finish().unwrap();
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_file_reads_as_it_was_written_cut_and_gone_on_with(
        steps in prop::collection::vec(step(), 1..14),
        is_sealed in prop::bool::weighted(0.8),
        places in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..70_000), 8),
    ) {
        let place = Place::new(if is_sealed { sealing() } else { plain() });
        let model = run_story(&place, &steps);
        prop_assert!(place.read(Ending::Required).unwrap() == model);
        let file = File::open(place.path()).unwrap();
        let mut file = StoredFile::open(file, &place.keyring, Ending::Required).unwrap();
        for (at, length) in places {
            let at = at.index(model.len() + 1);
            let end = (at + length).min(model.len());
            let mut found = vec![1; end - at];
            file.read_exact_at(&mut found, at as u64).unwrap();
            prop_assert!(found == model[at..end]);
        }
        let (mut position, size) = (0, model.len() as u64);
        while position < size {
            let segment = file.segment(position, size).unwrap();
            prop_assert!(segment.bytes > 0 && position + segment.bytes <= size);
            let part = &model[position as usize..(position + segment.bytes) as usize];
            prop_assert!(!segment.is_hole || part.iter().all(|byte| *byte == 0));
            position += segment.bytes;
        }
    }
}

#[test]
fn nothing_of_the_plaintext_is_in_the_file_and_it_is_as_long_as_the_page_says() {
    let place = Place::new(sealing());
    let bytes = bytes_of(40_000, 1);
    let stored = place.store(&bytes);
    assert_eq!(stored.len(), 64 + 2 * 16_432 + 16 + (40_000_usize - 32_768).next_multiple_of(16) + 8 + 32);
    let stretches: std::collections::HashSet<&[u8]> = stored.windows(16).collect();
    assert!(bytes.windows(16).all(|stretch| !stretches.contains(stretch)));
    assert_eq!(Place::new(sealing()).store(b"").len(), 64 + SEALED_END_BYTES_MIN);
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let place = Place::new(sealing());
    let bytes = bytes_of(SEGMENT as usize + 21, 2);
    let stored = place.store(&bytes);
    for at in 0..stored.len() {
        let mut flipped = stored.clone();
        flipped[at] ^= 1 << (at % 8);
        place.put(&flipped);
        assert!(place.read(Ending::Required).is_err(), "byte {at}");
        let growing = place.read(Ending::Growing);
        assert!(growing.is_err() || bytes.starts_with(&growing.unwrap()), "byte {at}");
    }
}

#[test]
fn a_flipped_byte_is_found_in_a_store_that_may_hold_plain_files() {
    let key = Arc::new(StorageKey::random());
    let place = Place::new(contents(&Keyring::new(Some(key), Vec::new(), true)));
    let stored = place.store(&bytes_of(100, 3));
    for at in 0..stored.len() {
        let mut flipped = stored.clone();
        flipped[at] ^= 1;
        place.put(&flipped);
        assert!(place.read(Ending::Required).is_err(), "byte {at}");
    }
}

#[test]
fn segments_cannot_be_swapped_repeated_dropped_or_taken_from_another_file() {
    let place = Place::new(sealing());
    let bytes = bytes_of(4 * SEGMENT as usize + 5, 4);
    let stored = place.store(&bytes);
    let other = Place::new(place.keyring.clone()).store(&bytes);
    let slot = |number: u64| slot_start(number) as usize..slot_start(number + 1) as usize;
    let refused = |what: &str, forged: &[u8]| {
        place.put(forged);
        assert!(place.read(Ending::Required).is_err(), "{what}");
    };
    for left in 0..4 {
        for right in 0..4 {
            let mut forged = stored.clone();
            forged[slot(left)].copy_from_slice(&stored[slot(right)]);
            forged[slot(right)].copy_from_slice(&stored[slot(left)]);
            if left != right {
                refused("swapped", &forged);
            }
        }
        let mut forged = stored.clone();
        forged[slot(left)].copy_from_slice(&other[slot(left)]);
        refused("another file's", &forged);
        refused("dropped", &[&stored[..slot(left).start], &stored[slot(left).end..]].concat());
        refused("repeated", &[&stored[..slot(left).end], &stored[slot(left).start..]].concat());
        let mut emptied = stored.clone();
        emptied[slot(left)].fill(0);
        refused("emptied", &emptied);
        for end in [slot(left).start, slot(left).end] {
            refused("cut", &stored[..end]);
            if end < slot(3).end {
                refused("cut, with the end", &[&stored[..end], &stored[slot(3).end..]].concat());
            }
        }
    }
    refused("another file's header", &[&other[..64], &stored[64..]].concat());
}

#[test]
fn what_is_written_behind_a_cut_counts_and_not_what_had_the_same_length_before() {
    let place = Place::new(sealing());
    for kept in [50, 2 * SEGMENT as usize + 50, 2 * SEGMENT as usize] {
        let (first, second) = (bytes_of(kept + 70, 6), bytes_of(70, 7));
        let mut file = place.create();
        file.write(&first).and_then(|()| file.finish()).unwrap();
        file.cut_back(kept as u64).unwrap();
        file.write(&second).and_then(|()| file.finish()).unwrap();
        assert!(place.read(Ending::Required).unwrap() == [&first[..kept], &second].concat(), "{kept}");
        std::fs::remove_file(place.path()).unwrap();
    }
}

#[test]
fn a_plain_file_never_begins_like_a_sealed_one() {
    let place = Place::new(plain());
    let looks = [&SEALED_MAGIC[..], b" and more"].concat();
    for (number, first) in [1, 4, 8, 12].into_iter().enumerate() {
        let place = Place::new(place.keyring.clone());
        let mut file = place.create();
        file.write(&looks[..first]).unwrap();
        file.write(&looks[first..]).unwrap();
        file.finish().unwrap();
        assert_eq!(place.read(Ending::Required).unwrap(), looks, "{number}");
        assert!(std::fs::read(place.path()).unwrap() != looks);
        let file = place.reopen(3, &[]).unwrap();
        assert_eq!(file.bytes(), 3);
    }
    assert_eq!(place.store(b"\xca and more"), b"\xca and more");
}

#[test]
fn a_hole_takes_no_room() {
    let place = Place::new(sealing());
    let mut file = place.create();
    file.write(b"x").unwrap();
    file.skip(1 << 33).unwrap();
    file.write(b"y").unwrap();
    file.finish().unwrap();
    let stat = rustix::fs::stat(place.path()).unwrap();
    assert!(stat.st_blocks * 512 < 2 << 20, "{} blocks", stat.st_blocks);
    let mut file = StoredFile::open(File::open(place.path()).unwrap(), &place.keyring, Ending::Required).unwrap();
    let size = file.length().unwrap();
    assert_eq!(size, (1 << 33) + 2);
    let (mut position, mut holes) = (0, 0);
    while position < size {
        let segment = file.segment(position, size).unwrap();
        holes += if segment.is_hole { segment.bytes } else { 0 };
        position += segment.bytes;
    }
    assert!(holes > (1 << 33) - (1 << 18), "{holes} bytes of holes");
}

#[test]
fn without_the_key_or_with_another_nothing_is_read() {
    let place = Place::new(sealing());
    place.store(b"content");
    let file = || File::open(place.path()).unwrap();
    for keyring in [sealing(), plain(), contents(&Keyring::new(None, Vec::new(), false))] {
        let error = StoredFile::open(file(), &keyring, Ending::Required).unwrap_err();
        let id = place.keyring.writing().unwrap();
        assert_eq!(error.to_string(), format!("it is sealed with the storage key {id}"));
    }
    place.put(b"plain content, where none may be, and longer than a header would be: 64 bytes");
    assert_eq!(place.read(Ending::Required).unwrap_err().to_string(), "it is not sealed");
}

#[test]
fn a_file_opens_as_what_it_is_and_as_its_clients_and_in_no_other_place() {
    let key = Arc::new(StorageKey::random());
    for keyring in [Keyring::new(Some(key), Vec::new(), false), Keyring::plain()] {
        let client = |name| keyring.of(&ClientFolder::parse(name).unwrap());
        let place = Place::new(client("ada-00112233").files(SealedKind::Content));
        // In a plain store the escape is bound as well.
        place.store(&[&SEALED_MAGIC[..], b"content"].concat());
        assert!(place.read(Ending::Required).is_ok());
        let elsewhere = [
            client("ada-00112234").files(SealedKind::Content),
            client("ada-00112233").files(SealedKind::Delta),
            client("ada-00112233").files(SealedKind::Waiting),
        ];
        for other in elsewhere {
            let opened = StoredFile::open(File::open(place.path()).unwrap(), &other, Ending::Required);
            assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::InvalidData, "{other:?}");
            let growing = StoredFile::open(File::open(place.path()).unwrap(), &other, Ending::Growing);
            assert_eq!(growing.unwrap().length().unwrap(), 0, "{other:?}");
        }
    }
}

#[test]
fn a_damaged_segment_is_mended_when_all_of_it_is_known() {
    let place = Place::new(sealing());
    let bytes = bytes_of(2 * SEGMENT as usize + 100, 5);
    let stored = place.store(&bytes);
    let mend = |parts: &[std::ops::Range<usize>]| {
        let name = crate::base::path::EntryPath::parse(NAME).unwrap();
        let file = open_to_mend(place.folder.path(), &name).unwrap();
        let mut mender = Mender::open(&Disk::real(), file, NAME, &place.keyring)?;
        parts.iter().try_for_each(|part| mender.mend(part.start as u64, &bytes[part.clone()]))?;
        mender.finish()
    };
    let damage = |at: usize| {
        let mut damaged = stored.clone();
        damaged[at] ^= 1;
        place.put(&damaged);
    };
    let segment = SEGMENT as usize;
    damage(slot_start(1) as usize + 99);
    let first = segment..segment + 5_000;
    assert!(mend(std::slice::from_ref(&first)).is_err());
    assert!(place.read(Ending::Required).is_err());
    mend(&[first, segment + 5_000..2 * segment]).unwrap();
    assert_eq!(place.read(Ending::Required).unwrap(), bytes);
    damage(stored.len() - 1);
    mend(std::slice::from_ref(&(2 * segment..bytes.len()))).unwrap();
    assert_eq!(place.read(Ending::Required).unwrap(), bytes);
}

fn read_records(path: &Path, keyring: &FileKeyring) -> Vec<u8> {
    let mut bytes = Vec::new();
    RecordReader::open(File::open(path).unwrap(), keyring).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn records_are_believed_up_to_the_first_that_is_not_whole() {
    let place = Place::new(sealing());
    let folder = open_folder(place.folder.path()).unwrap();
    let (mut file, mut ends) =
        (RecordWriter::create(&Disk::real(), folder.as_fd(), NAME, &place.keyring).unwrap(), Vec::new());
    for text in ["first", "", "the second", "third"] {
        file.write(text.as_bytes()).unwrap();
        ends.push(std::fs::metadata(place.path()).unwrap().len() as usize);
    }
    let stored = std::fs::read(place.path()).unwrap();
    assert_eq!(read_records(&place.path(), &place.keyring), b"firstthe secondthird");
    for at in HEADER as usize..stored.len() {
        let mut flipped = stored.clone();
        flipped[at] ^= 1;
        place.put(&flipped);
        let whole = ends.iter().filter(|end| **end <= at).count();
        let expected: String = ["first", "", "the second", "third"][..whole].concat();
        assert_eq!(read_records(&place.path(), &place.keyring), expected.as_bytes(), "byte {at}");
    }
    place.put(&stored);
    // Cut within a record and between two.
    for length in [8, 5] {
        let mut file = RecordWriter::reopen(&Disk::real(), folder.as_fd(), NAME, length, &place.keyring).unwrap();
        file.write(b" and on").unwrap();
        let expected = [&b"firstthe second"[..length as usize], b" and on"].concat();
        assert_eq!(read_records(&place.path(), &place.keyring), expected);
    }
}
