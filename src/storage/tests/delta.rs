//! Large contents: a small client makes deltas from block sums, and every snapshot must read back exactly.

use super::crash::Crash;
use super::flushes::record;
use super::*;
use crate::base::limits::LARGE_FILE_BYTES;
use crate::crypto::{BLOCK_BYTES, block_sum};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What the contents of one upload consisted of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub(super) plain: usize,
    pub(super) deltas: usize,
    pub(super) kept: u64,
    pub(super) written: u64,
    pub(super) holes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Keep,
    Write,
    Hole,
}

/// Whatever looks random and is the same for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// All chaining values that are held, asked for in pages of `page`.
pub(super) fn all_held(upload: &mut Upload, range: u32, entry: u32, page: u32) -> Vec<[u8; 32]> {
    let mut held = Vec::new();
    loop {
        let found = upload.held_blocks(range, entry, held.len() as u64, page).unwrap();
        let is_last = found.len() < page as usize;
        held.extend(found);
        if is_last {
            return held;
        }
    }
}

/// What is to be said of each block: held ones are kept, blocks of zeros are holes.
fn pieces_of(bytes: &[u8], held: &[[u8; 32]]) -> Vec<(Piece, std::ops::Range<usize>)> {
    let mut pieces: Vec<(Piece, std::ops::Range<usize>)> = Vec::new();
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let start = number * BLOCK_BYTES;
        let end = start + block.len();
        let piece = match held.get(number) {
            Some(held) if *held == block_sum(number as u64, block).chaining => Piece::Keep,
            _ if is_zero(block) => Piece::Hole,
            _ => Piece::Write,
        };
        match pieces.last_mut() {
            Some((last, range)) if *last == piece => range.end = end,
            _ => pieces.push((piece, start..end)),
        }
    }
    pieces
}

pub(super) fn send_pieces(
    upload: &mut Upload,
    bytes: &[u8],
    held: &[[u8; 32]],
    sent: &mut Pieces,
) -> Result<ContentVerdict, StoreError> {
    send_pieces_from(upload, bytes, 0, held, sent)?;
    upload.end_content(ContentSums::of(bytes), 0)
}

/// Sends what follows the first `start` bytes, without the end.
pub(super) fn send_pieces_from(
    upload: &mut Upload,
    bytes: &[u8],
    start: usize,
    held: &[[u8; 32]],
    sent: &mut Pieces,
) -> Result<(), StoreError> {
    let behind = |(piece, range): (Piece, std::ops::Range<usize>)| (piece, range.start.max(start)..range.end);
    for (piece, range) in pieces_of(bytes, held).into_iter().map(behind).filter(|(_, range)| !range.is_empty()) {
        let length = range.len() as u64;
        match piece {
            Piece::Keep => assert!(upload.keep_content(length, &|| true)?),
            Piece::Hole => upload.hole_content(length)?,
            Piece::Write => bytes[range].chunks(50_000).try_for_each(|chunk| upload.write_content(chunk))?,
        }
        match piece {
            Piece::Keep => sent.kept += length,
            Piece::Hole => sent.holes += length,
            Piece::Write => sent.written += length,
        }
    }
    Ok(())
}

/// Sends what the store lacks, large contents as deltas where something large is held.
pub(super) fn send_deltas(upload: &mut Upload, model: &Model) -> Result<Pieces, StoreError> {
    let mut sent = Pieces::default();
    for (number, bytes) in model.ranges().iter().enumerate() {
        let number = number as u32;
        if upload.offer_range(hash(bytes))? == RangeAnswer::Held {
            continue;
        }
        let needed = upload.add_range(number, bytes)?;
        let entries = crate::base::entry::decode_entries(bytes).unwrap();
        for place in needed.entries() {
            let content = &model.files[&entries[place as usize].path].0;
            let can_have_blocks = needed.held.iter().any(|held| held.entry == place && held.blocks);
            let held = if can_have_blocks { all_held(upload, number, place, 50) } else { Vec::new() };
            let has_blocks = !held.is_empty();
            match has_blocks {
                true => upload.begin_delta(number, place)?,
                false => upload.begin_content(number, place)?,
            }
            sent.deltas += usize::from(has_blocks);
            sent.plain += usize::from(!has_blocks);
            assert_eq!(send_pieces(upload, content, &held, &mut sent)?, ContentVerdict::Stored);
        }
    }
    Ok(sent)
}

pub(super) fn back_up_deltas(store: &Store, client: ClientId, model: &Model) -> (Arc<Head>, Pieces) {
    let mut upload = begin(store, client);
    let sent = send_deltas(&mut upload, model).unwrap();
    (upload.commit(model.counts()).unwrap(), sent)
}

pub(super) fn large(bytes: Vec<u8>, change: u64) -> Model {
    let mut model = Model::default();
    model.put("root/large", &bytes, change);
    model.put("root/small", b"small", 1);
    model
}

pub(super) fn stored_large(store: &Store, head: &Head) -> StoredEntry {
    store.entries(head, &[path("root/large")]).unwrap().next().unwrap().unwrap()
}

/// Bytes of all files below a part of the data folder.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let mut files = Vec::new();
    all_files(folder, &mut files);
    files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum()
}

/// Begins an upload of the model, in which the large file is the entry (0, 1) that waits for its content.
pub(super) fn begin_needed(store: &Store, client: ClientId, model: &Model) -> Box<Upload> {
    let mut upload = begin(store, client);
    let bytes = &model.ranges()[0];
    upload.offer_range(hash(bytes)).unwrap();
    let needed = upload.add_range(0, bytes).unwrap();
    assert!(needed.is_needed(1));
    upload
}

/// Changes a content in one of the ways in which files change.
pub(super) fn edit(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = bytes.len() as u64;
    match random.below(8) {
        0 => {
            let more = 1 + random.below(300_000) as usize;
            bytes.extend(random.bytes(more));
        }
        1 => bytes.truncate((length - random.below(length.min(400_000))) as usize),
        2 => bytes.truncate(random.below(50_000) as usize),
        3 => {
            let at = random.below(length) as usize;
            let end = (at + random.below(200_000) as usize).min(bytes.len());
            bytes[at..end].fill(0);
        }
        4 => bytes.extend(std::iter::repeat_n(0, random.below(200_000) as usize)),
        5 => bytes.resize(LARGE_FILE_BYTES as usize + random.below(900_000) as usize, 7),
        _ => {
            for _ in 0..1 + random.below(12) {
                let at = random.below(bytes.len() as u64) as usize;
                let end = (at + 1 + random.below(40_000) as usize).min(bytes.len());
                let fresh = random.bytes(end - at);
                bytes[at..end].copy_from_slice(&fresh);
            }
        }
    }
}

#[test]
fn every_generation_of_a_file_that_is_edited_at_random_reads_back_exactly() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let Fixture { store, client, folder } = fixture();
        let mut random = Random(seed);
        let mut bytes = random.bytes(1_500_000);
        let mut stored = Vec::new();
        for generation in 0..22 {
            let model = large(bytes.clone(), generation + 1);
            let before = bytes_below(folder.path());
            let (head, _) = back_up_deltas(&store, client, &model);
            let deltas = folder.path().join("deltas").join(store.client(client).unwrap().folder.as_str());
            let delta = deltas.join(head.id.as_str());
            let delta = if delta.exists() { plaintext(&delta).unwrap().len() as u64 } else { 0 };
            // A plain file may have holes that are not counted.
            let is_plain =
                stored_large(&store, &head).content.unwrap().location == Location::OwnPath { snapshot: head.id };
            assert!(is_plain || delta == head.totals.new_bytes, "generation {generation}");
            let more_bytes = if is_sealed() { 2_000 + head.totals.stored_bytes / 200 } else { 2_000 };
            let added = bytes_below(folder.path()) - before;
            assert!(is_plain || added < head.totals.stored_bytes + more_bytes, "generation {generation}");
            stored.push((head, model));
            edit(&mut bytes, &mut random);
        }
        stored.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
        read_at_offsets(&store, &stored, &mut random);
    }
}

fn read_at_offsets(store: &Store, stored: &[(Arc<Head>, Model)], random: &mut Random) {
    for (head, model) in stored {
        let bytes = &model.files[&path("root/large")].0;
        let mut reader = store.open_content(head.client, &stored_large(store, head)).unwrap();
        for _ in 0..5 {
            let offset = random.below(bytes.len() as u64 + 2) as usize;
            reader.seek_to(offset as u64).unwrap();
            let mut found = Vec::new();
            reader.by_ref().take(30_000).read_to_end(&mut found).unwrap();
            let offset = offset.min(bytes.len());
            assert!(found == bytes[offset..bytes.len().min(offset + 30_000)]);
        }
    }
}

#[test]
fn scattered_changes_store_little_more_than_what_changed() {
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(9);
    let before = large(random.bytes(32 * 1024 * 1024), 1);
    let (first, _) = back_up_deltas(&store, client, &before);
    let mut bytes = before.files[&path("root/large")].0.clone();
    for run in 0..41usize {
        // Aligned as a file system writes, not as blocks lie.
        let at = run * 800_000 / 4_096 * 4_096;
        let fresh = random.bytes(64 * 1024);
        bytes[at..at + fresh.len()].copy_from_slice(&fresh);
    }
    let after = large(bytes, 2);
    let stored_before = bytes_below(folder.path());
    let (second, sent) = back_up_deltas(&store, client, &after);
    let added = bytes_below(folder.path()) - stored_before;
    let changed = 41 * 64 * 1024;
    println!("{changed} bytes changed: {added} stored, {} written", sent.written);
    assert!(added < changed * 135 / 100 + 8_192, "{added}");
    assert_eq!((sent.deltas, second.totals.new_bytes), (1, sent.written));
    check_snapshot(&store, &first, &before);
    check_snapshot(&store, &second, &after);
}

#[test]
fn a_flipped_byte_is_found_in_the_plain_file_in_the_delta_and_in_the_blocks() {
    for (part, in_second) in [("received_files", true), ("deltas", true), ("ranges", true), ("ranges", false)] {
        let Fixture { store, client, folder } = fixture();
        let mut random = Random(5);
        let mut bytes = random.bytes(1_300_000);
        let (first, _) = back_up_deltas(&store, client, &large(bytes.clone(), 1));
        bytes[400_000] ^= 1;
        let (second, _) = back_up_deltas(&store, client, &large(bytes, 2));
        let head = if in_second { &second } else { &first };
        let mut files = Vec::new();
        all_files(&folder.path().join(part), &mut files);
        let damaged = |file: &&std::path::PathBuf| match part {
            "received_files" => file.ends_with("root/large"),
            "ranges" => file.file_name().unwrap().to_string_lossy() == format!("{}.blocks", head.id),
            _ => true,
        };
        let file = files.iter().find(damaged).unwrap();
        let mut content = std::fs::read(file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(file, content).unwrap();
        let problem = store.verify_content(client, &stored_large(&store, head)).unwrap_err().problem;
        match part {
            "ranges" => assert!(matches!(problem, ContentProblem::Blocks { .. }), "{problem}"),
            _ if is_sealed() => assert!(problem.to_string().contains("of the sealed file is damaged"), "{problem}"),
            _ => assert!(matches!(problem, ContentProblem::Sums), "{problem}"),
        }
    }
}

#[test]
fn what_is_gone_is_told() {
    for (part, missing) in [("deltas", true), ("ranges", false)] {
        let Fixture { store, client, folder } = fixture();
        let mut bytes = Random(5).bytes(1_300_000);
        back_up_deltas(&store, client, &large(bytes.clone(), 1));
        bytes[400_000] ^= 1;
        let (second, _) = back_up_deltas(&store, client, &large(bytes, 2));
        let stored = stored_large(&store, &second);
        std::fs::remove_dir_all(folder.path().join(part)).unwrap();
        let problem = store.verify_content(client, &stored).unwrap_err().problem;
        assert_eq!(matches!(problem, ContentProblem::Missing), missing, "{problem}");
        assert_eq!(matches!(problem, ContentProblem::Blocks { .. }), !missing, "{problem}");
    }
}

#[test]
fn held_blocks_are_given_in_pages_and_end_with_the_content() {
    let Fixture { store, client, folder: _folder } = fixture();
    let bytes = Random(3).bytes(70 * BLOCK_BYTES + 5);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let mut upload = begin_needed(&store, client, &large(bytes.clone(), 2));
    let expected: Vec<[u8; 32]> =
        (0u64..).zip(bytes.chunks(BLOCK_BYTES)).map(|(n, b)| block_sum(n, b).chaining).collect();
    for page in [1, 7, 71, 72, u32::MAX] {
        assert_eq!(all_held(&mut upload, 0, 1, page), expected);
    }
    assert_eq!(upload.held_blocks(0, 1, 69, 10).unwrap(), expected[69..]);
    for beyond in [71, 72, u64::MAX] {
        assert_eq!(upload.held_blocks(0, 1, beyond, 10).unwrap(), Vec::<[u8; 32]>::new());
    }
    out_of_place(upload.held_blocks(0, 0, 0, 1));
    out_of_place(upload.held_blocks(0, 2, 0, 1));
    out_of_place(upload.held_blocks(0, 99, 0, 1));
    out_of_place(upload.held_blocks(3, 1, 0, 1));
}

#[test]
fn pieces_out_of_place_are_refused() {
    let Fixture { store, client, folder: _folder } = fixture();
    let size = 70 * BLOCK + 5;
    let bytes = Random(3).bytes(size as usize);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let model = large(bytes.clone(), 2);
    let mut upload = begin_needed(&store, client, &model);
    out_of_place(upload.keep_content(BLOCK, &|| true));
    out_of_place(upload.hole_content(BLOCK));
    out_of_place(upload.begin_delta(0, 2));
    upload.begin_content(0, 1).unwrap();
    out_of_place(upload.keep_content(BLOCK, &|| true));
    upload.hole_content(10).unwrap();
    out_of_place(upload.hole_content(u64::MAX));
    out_of_place(upload.hole_content(i64::MAX as u64));
    upload.begin_delta(0, 1).unwrap();
    for bad in [0, 1, BLOCK + 1, size - 1, size + 1, 71 * BLOCK, u64::MAX] {
        out_of_place(upload.keep_content(bad, &|| true));
    }
    upload.keep_content(BLOCK, &|| true).unwrap();
    out_of_place(upload.keep_content(u64::MAX, &|| true));
    out_of_place(upload.keep_content(size, &|| true));
    upload.write_content(b"x").unwrap();
    out_of_place(upload.keep_content(BLOCK, &|| true));
    out_of_place(upload.hole_content(u64::MAX - 3));
    upload.hole_content(BLOCK - 1).unwrap();
    upload.keep_content(size - 2 * BLOCK, &|| true).unwrap();
    out_of_place(upload.write_content(b"behind the end"));
    out_of_place(upload.hole_content(1));
    out_of_place(upload.keep_content(BLOCK, &|| true));
    let mut expected = bytes;
    expected[BLOCK_BYTES..2 * BLOCK_BYTES].fill(0);
    expected[BLOCK_BYTES] = b'x';
    assert_eq!(upload.end_content(ContentSums::of(&expected), 0).unwrap(), ContentVerdict::Stored);
    out_of_place(upload.held_blocks(0, 1, 0, 1));
    let model = large(expected, 2);
    check_snapshot(&store, &upload.commit(model.counts()).unwrap(), &model);
}

#[test]
fn a_delta_that_arrives_damaged_leaves_nothing_and_the_content_can_be_sent_whole() {
    let Fixture { store, client, folder } = fixture();
    let mut bytes = Random(3).bytes(1_200_000);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    bytes[7] ^= 1;
    let model = large(bytes.clone(), 2);
    let mut upload = begin_needed(&store, client, &model);
    for _ in 0..2 {
        upload.begin_delta(0, 1).unwrap();
        upload.write_content(&vec![1; BLOCK_BYTES]).unwrap();
        upload.keep_content(bytes.len() as u64 - BLOCK, &|| true).unwrap();
        assert_eq!(upload.end_content(ContentSums::of(&bytes), 0).unwrap(), ContentVerdict::Repeat);
    }
    send_content(&mut upload, 0, 1, &path("root/large"), &model).unwrap();
    let head = upload.commit(model.counts()).unwrap();
    check_snapshot(&store, &head, &model);
    assert_eq!(head.totals.new_bytes, bytes.len() as u64);
    assert_eq!(files_below(&folder.path().join("deltas")), 0);
}

#[test]
fn a_damaged_record_of_blocks_makes_the_client_send_everything() {
    let Fixture { store, client, folder } = fixture();
    let bytes = Random(3).bytes(1_200_000);
    let (first, _) = back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let client_folder = store.client(client).unwrap().folder.to_string();
    let file = folder.path().join("ranges").join(client_folder).join(format!("{}.blocks", first.id));
    let mut content = std::fs::read(&file).unwrap();
    content[60] ^= 1;
    std::fs::write(&file, content).unwrap();
    let model = large(bytes.clone(), 2);
    let (second, sent) = back_up_deltas(&store, client, &model);
    assert_eq!((sent.kept, sent.written), (0, bytes.len() as u64));
    check_snapshot(&store, &second, &model);
}

#[test]
fn a_held_content_of_which_a_file_is_gone_is_not_built_on() {
    let Fixture { store, client, folder } = fixture();
    let bytes = Random(3).bytes(1_200_000);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let mut files = Vec::new();
    all_files(&folder.path().join("received_files"), &mut files);
    std::fs::remove_file(files.iter().find(|file| file.ends_with("root/large")).unwrap()).unwrap();
    let model = large(bytes.clone(), 2);
    let (second, sent) = back_up_deltas(&store, client, &model);
    assert_eq!((sent.kept, sent.written), (0, bytes.len() as u64));
    check_snapshot(&store, &second, &model);
}

#[test]
fn a_record_of_blocks_that_turns_out_damaged_inside_a_delta_asks_for_the_whole() {
    let Fixture { store, client, folder } = fixture();
    let bytes = Random(3).bytes(1_200_000);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let model = large(bytes.clone(), 2);
    let mut upload = begin_needed(&store, client, &model);
    upload.begin_delta(0, 1).unwrap();
    let mut files = Vec::new();
    all_files(&folder.path().join("ranges"), &mut files);
    let blocks = files.iter().find(|file| file.extension().is_some_and(|extension| extension == "blocks")).unwrap();
    std::fs::write(blocks, vec![0; std::fs::metadata(blocks).unwrap().len() as usize]).unwrap();
    upload.keep_content(BLOCK, &|| true).unwrap();
    upload.write_content(&bytes[BLOCK_BYTES..2 * BLOCK_BYTES]).unwrap();
    upload.hole_content(BLOCK).unwrap();
    assert_eq!(upload.end_content(ContentSums::of(&bytes), 0).unwrap(), ContentVerdict::Repeat);
    upload.begin_content(0, 1).unwrap();
    upload.write_content(&bytes).unwrap();
    assert_eq!(upload.end_content(ContentSums::of(&bytes), 0).unwrap(), ContentVerdict::Stored);
    let head = upload.commit(model.counts()).unwrap();
    check_snapshot(&store, &head, &model);
}

#[test]
fn holes_take_no_room_and_are_found_again() {
    use std::os::unix::fs::MetadataExt;
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(4);
    let mut bytes = vec![0; 6 * 1024 * 1024];
    bytes[1_048_576..1_048_676].copy_from_slice(&random.bytes(100));
    let before = large(bytes.clone(), 1);
    let (first, sent) = back_up_deltas(&store, client, &before);
    assert_eq!((sent.plain, first.totals.new_bytes), (2, BLOCK + 5));
    let mut files = Vec::new();
    all_files(&folder.path().join("received_files"), &mut files);
    let file = files.iter().find(|file| file.ends_with("root/large")).unwrap();
    let metadata = std::fs::metadata(file).unwrap();
    assert_eq!(plaintext(file).unwrap().len(), bytes.len());
    let mut reader = store.open_content(client, &stored_large(&store, &first)).unwrap();
    // Not every file system has holes.
    if metadata.blocks() * 512 < 1_000_000 {
        assert_eq!(reader.hole_at_position().unwrap(), Some(1_048_576));
        reader.seek_to(1_048_576).unwrap();
        assert_eq!(reader.hole_at_position().unwrap(), None);
    }
    bytes[3_000_000..3_000_010].fill(1);
    let after = large(bytes, 2);
    let (second, sent) = back_up_deltas(&store, client, &after);
    assert_eq!((sent.deltas, second.totals.new_bytes), (1, BLOCK));
    let mut reader = store.open_content(client, &stored_large(&store, &second)).unwrap();
    let segment = |reader: &mut ContentReader, offset| {
        reader.seek_to(offset).unwrap();
        reader.segment_at_position().unwrap().map(|segment| (segment.bytes, segment.is_hole))
    };
    assert_eq!(segment(&mut reader, 0), Some((1_048_576, true)));
    assert_eq!(segment(&mut reader, 1_048_577), Some((BLOCK - 1, false)));
    let border = 3_000_000 / BLOCK * BLOCK;
    assert_eq!(segment(&mut reader, border), Some((BLOCK, false)));
    assert_eq!(segment(&mut reader, border + BLOCK), Some((6 * 1024 * 1024 - border - BLOCK, true)));
    assert_eq!(segment(&mut reader, 6 * 1024 * 1024), None);
    check_snapshot(&store, &first, &before);
    check_snapshot(&store, &second, &after);
}

#[test]
fn a_file_may_shrink_to_one_block_or_nothing_and_grow_again() {
    let Fixture { store, client, folder: _folder } = fixture();
    let bytes = Random(8).bytes(1_100_000);
    let mut stored = Vec::new();
    let lengths = [1_100_000, BLOCK_BYTES, 0, 100, 1_100_000, 5_000, BLOCK_BYTES + 1, 900_000];
    for (generation, length) in (1..).zip(lengths) {
        let model = large(bytes[..length].to_vec(), generation);
        let (head, _) = back_up_deltas(&store, client, &model);
        stored.push((head, model));
    }
    stored.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
}

/// Data and holes in turn, so that neither the stretches nor the sums fit one record.
#[test]
fn more_stretches_than_one_record_holds_are_stored_and_read() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut bytes = vec![0; 8_800 * BLOCK_BYTES];
    for block in (0..8_800).step_by(2) {
        bytes[block * BLOCK_BYTES..][..8].copy_from_slice(&(block as u64 + 1).to_le_bytes());
    }
    let (first, sent) = back_up_deltas(&store, client, &large(bytes.clone(), 1));
    assert_eq!(sent.holes, 4_400 * BLOCK);
    let before = ContentSums::of(&bytes);
    for block in (0..8_800).step_by(4) {
        bytes[block * BLOCK_BYTES + 9] = 1;
    }
    bytes.extend(vec![3; 5_000 * BLOCK_BYTES + 1]);
    let (second, sent) = back_up_deltas(&store, client, &large(bytes.clone(), 2));
    assert_eq!(sent.written, 7_200 * BLOCK + 1);
    for (head, sums) in [(&first, before), (&second, ContentSums::of(&bytes))] {
        let stored = stored_large(&store, head);
        assert_eq!(stored.content.as_ref().unwrap().sums, sums);
        store.verify_content(client, &stored).unwrap();
    }
    let mut reader = store.open_content(client, &stored_large(&store, &second)).unwrap();
    let mut found = vec![0; 3 * BLOCK_BYTES];
    for block in [8_799, 5_000, 8_000, 13_700, 1] {
        reader.seek_to(block as u64 * BLOCK).unwrap();
        reader.read_exact(&mut found).unwrap();
        assert!(found == bytes[block * BLOCK_BYTES..][..3 * BLOCK_BYTES]);
    }
}

/// `cargo test --release --lib delta -- --ignored --nocapture` prints the figures.
#[test]
#[ignore = "a measurement"]
fn speed_of_a_delta_of_a_large_file() {
    let Fixture { store, client, folder } = fixture();
    let mut bytes = Random(1).bytes(256 * 1024 * 1024);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    for run in 0..41 {
        let at = run * 6_500_000 / 4_096 * 4_096;
        bytes[at..at + 65_536].copy_from_slice(&Random(run as u64 + 50).bytes(65_536));
    }
    let stored_before = bytes_below(folder.path());
    let mut upload = begin_needed(&store, client, &large(bytes.clone(), 2));
    let start = std::time::Instant::now();
    let held = all_held(&mut upload, 0, 1, 4_096);
    println!("{} block hashes asked for in {:?}", held.len(), start.elapsed());
    let pieces = pieces_of(&bytes, &held);
    let sums = ContentSums::of(&bytes);
    let start = std::time::Instant::now();
    upload.begin_delta(0, 1).unwrap();
    for (piece, range) in pieces {
        match piece {
            Piece::Keep => assert!(upload.keep_content(range.len() as u64, &|| true).unwrap()),
            _ => upload.write_content(&bytes[range]).unwrap(),
        }
    }
    assert_eq!(upload.end_content(sums, 0).unwrap(), ContentVerdict::Stored);
    println!("the delta took {:?}", start.elapsed());
    upload.commit(large(bytes, 2).counts()).unwrap();
    println!("41 runs of 64 KiB added {} bytes", bytes_below(folder.path()) - stored_before);
}

/// A first snapshot with a large file, and what a second one with a delta would hold.
fn delta_crash_case() -> Crash {
    let Fixture { store, client, folder } = fixture();
    let mut bytes = Random(2).bytes(1_100_000);
    let before = large(bytes.clone(), 1);
    let (first, _) = back_up_deltas(&store, client, &before);
    bytes[500_000] ^= 1;
    bytes.truncate(1_090_000);
    let mut after = large(bytes, 2);
    after.put("root/new", b"new", 1);
    after.put("root/plain", &Random(6).bytes(1_050_000), 1);
    Crash { folder, client, first, before, after }
}

fn run_deltas_until(crash: &Crash, upload: UploadId, disk: Disk) -> Result<Arc<Head>, StoreError> {
    let store = Store::open(crash.folder.path(), disk)?;
    match store.begin_upload(crash.client, request(upload), || {})? {
        Begun::AlreadyStored(head) => Ok(head),
        Begun::Open(mut open) => {
            send_deltas(&mut open, &crash.after)?;
            open.commit(crash.after.counts())
        }
    }
}

/// After a start: nothing of an upload without a head is in place, and what is there reads back.
fn check_deltas_after_crash(crash: &Crash, acknowledged: bool, stop: u64) {
    let store = Store::open(crash.folder.path(), Disk::real()).unwrap();
    let heads = store.snapshots(crash.client).unwrap();
    assert_eq!(heads[0], crash.first, "stopped after {stop}");
    assert!(!acknowledged || heads.len() == 2, "an acknowledged snapshot is gone, stopped after {stop}");
    check_snapshot(&store, &heads[0], &crash.before);
    heads[1..].iter().for_each(|head| check_snapshot(&store, head, &crash.after));
    assert_eq!(files_below(&crash.folder.path().join("deltas")), heads.len() - 1, "stopped after {stop}");
    let mut ranges = Vec::new();
    all_files(&crash.folder.path().join("ranges"), &mut ranges);
    ranges.retain(|file| file.extension().is_some_and(|extension| extension == "blocks"));
    assert_eq!(ranges.len(), heads.len(), "stopped after {stop}");
}

#[test]
fn a_crash_at_any_operation_of_an_upload_with_a_delta_shows_nothing_half() {
    let counted = delta_crash_case();
    let disk = Disk::real();
    run_deltas_until(&counted, UploadId::random(), disk.clone()).unwrap();
    let mut acknowledged = 0;
    for stop in 0..=disk.operations() {
        let crash = delta_crash_case();
        let upload = UploadId::random();
        let result = run_deltas_until(&crash, upload, Disk::stopping_after(stop));
        acknowledged += u32::from(result.is_ok());
        check_deltas_after_crash(&crash, result.is_ok(), stop);
        let head = run_deltas_until(&crash, upload, Disk::real()).unwrap();
        let store = Store::open(crash.folder.path(), Disk::real()).unwrap();
        check_snapshot(&store, &head, &crash.after);
        assert_eq!(files_below(&crash.folder.path().join("incoming")), 0, "stopped after {stop}");
    }
    assert!(acknowledged > 0);
}

#[test]
fn after_one_failed_operation_the_same_process_can_store_the_delta() {
    let counted = delta_crash_case();
    let disk = Disk::real();
    run_deltas_until(&counted, UploadId::random(), disk.clone()).unwrap();
    for failing in 0..disk.operations() {
        let crash = delta_crash_case();
        let upload = UploadId::random();
        let Ok(store) = Store::open(crash.folder.path(), Disk::failing_once_after(failing)) else { continue };
        let store_it = || match store.begin_upload(crash.client, request(upload), || {})? {
            Begun::AlreadyStored(head) => Ok(head),
            Begun::Open(mut open) => {
                send_deltas(&mut open, &crash.after)?;
                open.commit(crash.after.counts())
            }
        };
        store_it().or_else(|_| store_it()).unwrap();
        drop(store);
        check_deltas_after_crash(&crash, true, failing);
    }
}

#[test]
fn a_commit_with_a_delta_puts_the_delta_and_the_blocks_in_place_before_the_index() {
    let Fixture { store, client, folder: _folder } = fixture_with(Disk::recording());
    let mut bytes = Random(2).bytes(1_100_000);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    bytes[0] ^= 1;
    let model = large(bytes, 2);
    let mut upload = begin(&store, client);
    send_deltas(&mut upload, &model).unwrap();
    store.disk().take_record();
    let head = upload.commit(model.counts()).unwrap();
    let record: Vec<String> =
        record(store.disk()).iter().map(|line| line.replace(head.id.as_str(), "<snapshot>")).collect();
    let expected = [
        "FlushFile <range>",
        "FlushFile delta",
        "FlushFile blocks",
        "FlushFile index",
        "FlushFile head",
        "FlushFile commit",
        "FlushFolder upload",
        "FlushFolder incoming",
        "Rename <snapshot>",
        "FlushFolder deltas",
        "Rename <snapshot>.blocks",
        "Rename <range>",
        "FlushFolder ranges",
        "Rename <snapshot>.index",
        "FlushFolder snapshots",
        "Rename <snapshot>.json",
        "FlushFolder snapshots",
    ];
    assert_eq!(record, expected);
}

/// A model with a large file that is new, one that changes in places, and small ones around them.
fn large_models() -> (Model, Model) {
    let mut random = Random(11);
    let mut before = Model::many(30);
    before.put("root/d00/large", &random.bytes(3 * LARGE_FILE_BYTES as usize + 77), 1);
    let mut after = before.clone();
    let mut changed = before.files[&path("root/d00/large")].0.clone();
    for place in [0, 1_000_000, 2_222_222] {
        changed[place..place + 20_000].copy_from_slice(&random.bytes(20_000));
    }
    after.put("root/d00/large", &changed, 2);
    after.put("root/d01/new", &random.bytes(2 * LARGE_FILE_BYTES as usize + 5), 2);
    after.put("root/d02/late", &random.bytes(LARGE_FILE_BYTES as usize), 2);
    (before, after)
}

pub(super) fn reopen(store: Store, folder: &Path) -> Store {
    drop(store);
    Store::open(folder, Disk::real()).unwrap()
}

#[test]
fn a_dropped_upload_of_large_contents_goes_on_in_the_same_process_and_after_a_restart() {
    for restart in [false, true] {
        let Fixture { mut store, client, folder } = fixture();
        let (before, after) = large_models();
        let (first, _) = back_up_deltas(&store, client, &before);
        let upload = UploadId::random();
        let mut partial = after.clone();
        partial.remove("root/d02/late");
        let mut open = open_again(&store, client, upload);
        let sent = send_deltas(&mut open, &partial).unwrap();
        assert_eq!((sent.plain, sent.deltas), (1, 1));
        drop(open);
        if restart {
            store = reopen(store, folder.path());
        }
        let mut open = open_again(&store, client, upload);
        let sent = send_deltas(&mut open, &after).unwrap();
        assert_eq!((sent.plain, sent.deltas), (1, 0), "only what is new, restarted: {restart}");
        let head = open.commit(after.counts()).unwrap();
        check_snapshot(&store, &head, &after);
        check_snapshot(&store, &first, &before);
        assert!(head.totals.new_bytes < 4 * LARGE_FILE_BYTES, "{}", head.totals.new_bytes);
        assert_eq!(files_below(&folder.path().join("incoming")), 0);
    }
}

pub(super) fn open_again(store: &Store, client: ClientId, upload: UploadId) -> Box<Upload> {
    let Begun::Open(open) = store.begin_upload(client, request(upload), || {}).unwrap() else { panic!() };
    open
}

#[test]
fn large_contents_whose_files_the_machine_lost_are_sent_again() {
    for lost in ["blocks", "delta"] {
        for kept_bytes in [0, 10, 5_000] {
            let Fixture { mut store, client, folder } = fixture();
            let (before, after) = large_models();
            let (first, _) = back_up_deltas(&store, client, &before);
            let upload = UploadId::random();
            let mut open = open_again(&store, client, upload);
            send_deltas(&mut open, &after).unwrap();
            let staged = open.staging().path().join(lost);
            drop(open);
            let file = std::fs::OpenOptions::new().write(true).open(staged).unwrap();
            file.set_len(kept_bytes).unwrap();
            store = reopen(store, folder.path());
            let mut open = open_again(&store, client, upload);
            let sent = send_deltas(&mut open, &after).unwrap();
            // What the end of a sealed file held lies in the journal as well.
            let has_rest = is_sealed() && kept_bytes > 64;
            assert!(sent.deltas == 1 || kept_bytes > 10, "{lost} cut at {kept_bytes}: {sent:?}");
            assert!(has_rest || sent.deltas + sent.plain > 0, "{lost} cut at {kept_bytes}: {sent:?}");
            let head = open.commit(after.counts()).unwrap();
            check_snapshot(&store, &head, &after);
            check_snapshot(&store, &first, &before);
        }
    }
}

#[test]
fn a_large_file_that_changes_between_two_sessions_is_built_on_the_snapshot() {
    let Fixture { store, client, folder: _folder } = fixture();
    let (before, mut after) = large_models();
    let (first, _) = back_up_deltas(&store, client, &before);
    let upload = UploadId::random();
    let mut open = open_again(&store, client, upload);
    send_deltas(&mut open, &after).unwrap();
    drop(open);
    for name in ["root/d00/large", "root/d01/new"] {
        let mut bytes = after.files[&path(name)].0.clone();
        bytes[50_000..50_100].fill(3);
        after.put(name, &bytes, 3);
    }
    let mut open = open_again(&store, client, upload);
    let sent = send_deltas(&mut open, &after).unwrap();
    assert_eq!((sent.plain, sent.deltas), (1, 1), "nothing is built on what goes with the commit");
    let head = open.commit(after.counts()).unwrap();
    check_snapshot(&store, &head, &after);
    check_snapshot(&store, &first, &before);
}
