//! Large contents that were cut off inside: a small client goes on behind what lies there, and every snapshot must
//! read back exactly, wherever the disk, the process or the line stopped.

use super::delta::{Pieces, Random, all_held, back_up_deltas, large, open_again, reopen, send_pieces_from};
use super::*;
use crate::base::limits::LARGE_FILE_BYTES;
use crate::crypto::{BLOCK_BYTES, block_sum};
use crate::storage::PartialKind;

const MIB: usize = 1024 * 1024;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// All chaining values of the beginning that lies at the server.
fn all_there(upload: &mut Upload, range: u32, entry: u32) -> Result<Vec<[u8; 32]>, StoreError> {
    let mut there = Vec::new();
    loop {
        let found = upload.partial_blocks(range, entry, there.len() as u64, 64)?;
        let is_last = found.len() < 64;
        there.extend(found);
        if is_last {
            return Ok(there);
        }
    }
}

fn equal_blocks(bytes: &[u8], there: &[[u8; 32]]) -> usize {
    let blocks = (0u64..).zip(bytes.chunks_exact(BLOCK_BYTES));
    blocks.zip(there).take_while(|((number, block), there)| block_sum(*number, block).chaining == **there).count()
}

/// Sends what the store lacks; goes on with what lies there. Where it holds less than `until` bytes of a content
/// named large, stops there without an end.
pub(super) fn send_on(upload: &mut Upload, model: &Model, until: Option<usize>) -> Result<Pieces, StoreError> {
    let mut sent = Pieces::default();
    for (number, bytes) in model.ranges().iter().enumerate() {
        let number = number as u32;
        if upload.offer_range(hash(bytes))? == RangeAnswer::Held {
            continue;
        }
        let needed = upload.add_range(number, bytes)?;
        let entries = crate::base::entry::decode_entries(bytes).unwrap();
        for place in needed.entries() {
            let path = &entries[place as usize].path;
            let content = &model.files[path].0;
            let end = until.filter(|_| path.name() == b"large").unwrap_or(content.len());
            let held = needed.held.iter().find(|held| held.entry == place);
            send_one(upload, (number, place), held, content, end, &mut sent)?;
            if end < content.len() {
                return Ok(sent);
            }
            assert_eq!(upload.end_content(ContentSums::of(content), 0)?, ContentVerdict::Stored);
        }
    }
    Ok(sent)
}

fn send_one(
    upload: &mut Upload,
    (range, entry): (u32, u32),
    held: Option<&HeldContent>,
    content: &[u8],
    end: usize,
    sent: &mut Pieces,
) -> Result<(), StoreError> {
    let partial = held.and_then(|held| held.partial);
    let there = match partial {
        Some(_) => equal_blocks(content, &all_there(upload, range, entry)?),
        None => 0,
    };
    let has_blocks = held.is_some_and(|held| held.blocks);
    let base = if has_blocks { all_held(upload, range, entry, 50) } else { Vec::new() };
    let start = there * BLOCK_BYTES;
    let is_delta = match (there, partial) {
        (0, _) if has_blocks => upload.begin_delta(range, entry).map(|()| true)?,
        (0, _) => upload.begin_content(range, entry).map(|()| false)?,
        (_, kind) => {
            upload.begin_resumed(range, entry, start as u64)?;
            kind == Some(PartialKind::Delta)
        }
    };
    sent.deltas += usize::from(is_delta);
    sent.plain += usize::from(!is_delta);
    let base = if is_delta { &base[..] } else { &[] };
    send_pieces_from(upload, &content[..end.max(start)], start, base, sent)
}

/// A snapshot, and what follows it: a large file that changed, or a new one.
pub(super) struct Case {
    pub(super) folder: tempfile::TempDir,
    pub(super) client: ClientId,
    pub(super) after: Model,
}

const SIZE: usize = 3 * MIB + 70_000;

fn case(is_delta: bool) -> Case {
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(3);
    let mut bytes = random.bytes(SIZE);
    match is_delta {
        true => drop(back_up_deltas(&store, client, &large(bytes.clone(), 1))),
        false => drop(back_up(&store, client, &Model::with(&[("root/small", "small")]))),
    }
    if is_delta {
        let fresh = random.bytes(2 * MIB + 300_000);
        bytes[MIB / 2..][..fresh.len()].copy_from_slice(&fresh);
    }
    bytes[MIB..MIB + 100_000].fill(0);
    Case { folder, client, after: large(bytes, 2) }
}

impl Case {
    pub(super) fn open(&self, disk: Disk) -> Result<Store, StoreError> {
        Store::open(self.folder.path(), disk)
    }

    /// Begins or goes on, up to the commit.
    pub(super) fn run(
        &self,
        store: &Store,
        upload: UploadId,
        model: &Model,
    ) -> Result<(Arc<Head>, Pieces), StoreError> {
        match store.begin_upload(self.client, request(upload), || {})? {
            Begun::AlreadyStored(head) => Ok((head, Pieces::default())),
            Begun::Open(mut open) => {
                let sent = send_on(&mut open, model, None)?;
                Ok((open.commit(model.counts())?, sent))
            }
        }
    }

    /// A session that ends with the large file sent up to `until`.
    pub(super) fn cut_off(&self, store: &Store, upload: UploadId, until: usize) {
        let mut open = open_again(store, self.client, upload);
        send_on(&mut open, &self.after, Some(until)).unwrap();
    }

    fn bytes(&self) -> &[u8] {
        &self.after.files[&path("root/large")].0
    }

    fn staged(&self, name: &str) -> std::path::PathBuf {
        let mut files = Vec::new();
        all_files(&self.folder.path().join("incoming"), &mut files);
        files.into_iter().find(|file| file.ends_with(name)).expect("it is staged")
    }

    /// How many operations the whole upload takes, opening included.
    pub(super) fn operations(&self) -> u64 {
        let disk = Disk::real();
        self.run(&self.open(disk.clone()).unwrap(), UploadId::random(), &self.after).unwrap();
        disk.operations()
    }
}

#[test]
fn a_large_content_goes_on_inside_in_the_same_process_and_after_a_restart() {
    for (is_delta, restart) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = case(is_delta);
        let mut store = case.open(Disk::real()).unwrap();
        let upload = UploadId::random();
        for until in [2 * MIB + 5, 3 * MIB + 20_000] {
            case.cut_off(&store, upload, until);
            if restart {
                store = reopen(store, case.folder.path());
            }
        }
        let (head, sent) = case.run(&store, upload, &case.after).unwrap();
        let whole_blocks = (3 * MIB + 20_000) / BLOCK_BYTES * BLOCK_BYTES;
        assert!(sent.written <= (SIZE - whole_blocks) as u64, "{sent:?}, delta {is_delta}, restarted {restart}");
        assert_eq!(sent.deltas, usize::from(is_delta));
        check_snapshot(&store, &head, &case.after);
        assert_eq!(files_below(&case.folder.path().join("incoming")), 0);
        let holes = 100_000 / BLOCK_BYTES as u64 * BLOCK - BLOCK;
        assert!(is_delta || head.totals.new_bytes <= SIZE as u64 - holes, "{}", head.totals.new_bytes);
    }
}

#[test]
fn what_lies_there_is_built_on_as_far_as_the_file_is_still_the_same() {
    for is_delta in [false, true] {
        let case = case(is_delta);
        let store = case.open(Disk::real()).unwrap();
        let upload = UploadId::random();
        case.cut_off(&store, upload, 3 * MIB);
        let mut bytes = case.bytes().to_vec();
        bytes[2 * MIB + 77] ^= 1;
        bytes.extend_from_slice(b"and it grew");
        let changed = large(bytes, 3);
        let (head, sent) = case.run(&store, upload, &changed).unwrap();
        assert!(sent.written <= (SIZE - 2 * MIB + 20) as u64, "{sent:?}");
        check_snapshot(&store, &head, &changed);
    }
}

#[test]
fn a_large_content_that_was_stored_whole_is_gone_on_with_when_its_file_grows_or_must_be_read_again() {
    for (is_delta, restart, finish_range) in
        [(false, false, false), (true, false, false), (false, true, true), (true, true, true), (false, false, true)]
    {
        let case = case(is_delta);
        let mut store = case.open(Disk::real()).unwrap();
        let upload = UploadId::random();
        let mut model = case.after.clone();
        let mut open = open_again(&store, case.client, upload);
        if !finish_range {
            // The range is never finished: the last file does not come.
            model.put("root/zz", &vec![7; 2 * MIB], 1);
            let ranges = model.ranges();
            open.offer_range(hash(&ranges[0])).unwrap();
            let needed = open.add_range(0, &ranges[0]).unwrap();
            let held = needed.held.iter().find(|held| held.entry == 1);
            send_one(&mut open, (0, 1), held, case.bytes(), SIZE, &mut Pieces::default()).unwrap();
            open.end_content(ContentSums::of(case.bytes()), 0).unwrap();
        } else {
            send_on(&mut open, &model, None).unwrap();
        }
        drop(open);
        if restart {
            store = reopen(store, case.folder.path());
        }
        let mut bytes = case.bytes().to_vec();
        bytes.extend(Random(8).bytes(100_000));
        let mut grown = model.clone();
        grown.put("root/large", &bytes, 3);
        let (head, sent) = case.run(&store, upload, &grown).unwrap();
        let others = if finish_range { 0 } else { 2 * MIB as u64 };
        assert!(sent.written <= 120_000 + others, "{sent:?}");
        check_snapshot(&store, &head, &grown);
    }
}

#[test]
fn damaged_and_torn_bytes_of_a_beginning_are_found_and_sent_again() {
    for (is_delta, name) in [(false, "files/root/large"), (false, "blocks"), (true, "delta"), (true, "blocks")] {
        for damage in ["flip", "cut", "garbage", "gone"] {
            let case = case(is_delta);
            let store = case.open(Disk::real()).unwrap();
            let upload = UploadId::random();
            case.cut_off(&store, upload, 3 * MIB);
            drop(store);
            let file = case.staged(name);
            let mut bytes = std::fs::read(&file).unwrap();
            let length = bytes.len();
            match damage {
                "flip" => bytes[length * 2 / 3] ^= 8,
                "cut" => bytes.truncate(length * 2 / 3),
                "garbage" => {
                    bytes.truncate(length * 2 / 3);
                    bytes.extend(Random(77).bytes(length));
                }
                _ => bytes.clear(),
            }
            std::fs::write(&file, bytes).unwrap();
            let store = case.open(Disk::real()).unwrap();
            let (head, sent) = case.run(&store, upload, &case.after).unwrap();
            println!("{name} {damage}: {} written", sent.written);
            // What the end of a sealed file held lies in the journal as well.
            assert!(sent.written > 100_000 || is_sealed() && name == "blocks", "{name} {damage}: {sent:?}");
            check_snapshot(&store, &head, &case.after);
        }
    }
}

/// Cuts an upload off at every `step`th operation.
fn survives_crashes(step: usize) {
    for is_delta in [false, true] {
        let all = case(is_delta).operations();
        let (mut least, mut random) = (u64::MAX, Random(4));
        for stop in (0..=all).step_by(step) {
            let case = case(is_delta);
            let upload = UploadId::random();
            let stopped = |disk| case.run(&case.open(disk)?, upload, &case.after);
            let first = stopped(Disk::stopping_after(stop));
            // Half the time the next run is cut off as well.
            if random.below(2) == 0 {
                let _ = stopped(Disk::stopping_after(random.below(all)));
            }
            let store = case.open(Disk::real()).unwrap();
            let (head, sent) = case.run(&store, upload, &case.after).unwrap();
            if first.is_err() {
                least = least.min(sent.written);
            }
            check_snapshot(&store, &head, &case.after);
            assert_eq!(files_below(&case.folder.path().join("incoming")), 0, "stopped after {stop}");
        }
        assert!(least < MIB as u64 + 300_000, "at most {least} bytes had to be sent again");
    }
}

#[test]
fn a_crash_inside_a_large_content_is_gone_on_with() {
    survives_crashes(13);
}

#[test]
#[ignore = "long: every operation of an upload"]
fn a_crash_at_any_operation_inside_a_large_content_is_gone_on_with() {
    survives_crashes(1);
}

/// A few operations fail, so that the end of a session cannot note anything either, one that goes on with a beginning
/// whose file has changed since among them. What the same process goes on with then, it believes unread.
fn survives_failures(step: usize) {
    for is_delta in [false, true] {
        let (counted, disk, upload) = (case(is_delta), Disk::real(), UploadId::random());
        two_sessions(&counted, &counted.open(disk.clone()).unwrap(), upload);
        for failing in (0..disk.operations()).step_by(step) {
            let case = case(is_delta);
            let Ok(store) = case.open(Disk::failing_at(failing..failing + 6)) else { continue };
            two_sessions(&case, &store, upload);
            let store_it = || case.run(&store, upload, &case.after);
            // The last of the failing operations may be left for it.
            let stored = (0..6).find_map(|_| store_it().ok());
            let (head, _) = stored.map_or_else(store_it, Ok).unwrap();
            check_snapshot(&store, &head, &case.after);
        }
    }
}

/// One session is cut off in the middle of the file; another one finds the file changed before that, and is cut off a little
/// behind it.
fn two_sessions(case: &Case, store: &Store, upload: UploadId) {
    let mut bytes = case.bytes().to_vec();
    bytes[MIB + 200_000..].rotate_left(9);
    let mut changed = case.after.clone();
    changed.put("root/large", &bytes, 3);
    for (model, until) in [(&case.after, 2 * MIB + 100_000), (&changed, 2 * MIB + 400_000)] {
        // Where the disk fails a session just ends.
        if let Ok(Begun::Open(mut open)) = store.begin_upload(case.client, request(upload), || {}) {
            let _ = send_on(&mut open, model, Some(until));
        }
    }
}

#[test]
fn after_a_failed_operation_the_same_process_goes_on_with_nothing_but_what_is_there() {
    survives_failures(13);
}

#[test]
#[ignore = "long: every operation of an upload"]
fn after_any_failed_operation_the_same_process_goes_on_with_nothing_but_what_is_there() {
    survives_failures(1);
}

#[test]
fn only_what_lies_there_can_be_gone_on_with() {
    let case = case(false);
    let store = case.open(Disk::real()).unwrap();
    let upload = UploadId::random();
    case.cut_off(&store, upload, 2 * MIB + 5);
    let mut open = open_again(&store, case.client, upload);
    let ranges = case.after.ranges();
    open.offer_range(hash(&ranges[0])).unwrap();
    let needed = open.add_range(0, &ranges[0]).unwrap();
    let told = HeldContent { entry: 1, blake3: [0; 32], blocks: false, partial: Some(PartialKind::Plain) };
    assert_eq!(needed.held.iter().find(|held| held.entry == 1), Some(&told));
    out_of_place(open.partial_blocks(0, 0, 0, 1));
    out_of_place(open.partial_blocks(0, 9, 0, 1));
    out_of_place(open.partial_blocks(9, 1, 0, 1));
    out_of_place(open.held_blocks(0, 1, 0, 1));
    assert_eq!(open.partial_blocks(0, 1, u64::MAX, u32::MAX).unwrap(), Vec::<[u8; 32]>::new());
    for bytes in [0, 1, BLOCK + 1, 2 * MIB as u64 + BLOCK, u64::MAX] {
        out_of_place(open.begin_resumed(0, 1, bytes));
    }
    out_of_place(open.begin_resumed(0, 0, BLOCK));
    out_of_place(open.begin_resumed(0, 2, BLOCK));
    open.begin_resumed(0, 1, 2 * BLOCK).unwrap();
    out_of_place(open.keep_content(BLOCK, &|| true));
    out_of_place(open.begin_resumed(0, 1, 2 * BLOCK));
}

#[test]
fn a_beginning_that_arrives_damaged_is_forgotten_and_sent_whole() {
    let case = case(false);
    let store = case.open(Disk::real()).unwrap();
    let upload = UploadId::random();
    case.cut_off(&store, upload, 3 * MIB);
    let mut open = open_again(&store, case.client, upload);
    let ranges = case.after.ranges();
    open.offer_range(hash(&ranges[0])).unwrap();
    open.add_range(0, &ranges[0]).unwrap();
    open.begin_resumed(0, 1, MIB as u64).unwrap();
    open.write_content(&vec![1; SIZE - MIB]).unwrap();
    assert_eq!(open.end_content(ContentSums::of(case.bytes()), 0).unwrap(), ContentVerdict::Repeat);
    drop(open);
    let mut open = open_again(&store, case.client, upload);
    let sent = send_on(&mut open, &case.after, None).unwrap();
    assert!(sent.written > 2 * MIB as u64, "{sent:?}");
    check_snapshot(&store, &open.commit(case.after.counts()).unwrap(), &case.after);
}

#[test]
fn no_more_than_a_few_beginnings_are_kept() {
    let Fixture { store, client, folder } = fixture();
    let upload = UploadId::random();
    for number in 0..7 {
        let mut model = Model::default();
        // Each time the one before is no longer wanted before the new one.
        model.put(&format!("root/{}/large", 9 - number), &Random(number).bytes(2 * MIB), 1);
        let mut open = open_again(&store, client, upload);
        send_on(&mut open, &model, Some(MIB + MIB / 2)).unwrap();
    }
    drop(open_again(&store, client, upload));
    let mut files = Vec::new();
    all_files(&folder.path().join("incoming"), &mut files);
    assert_eq!(files.iter().filter(|file| file.ends_with("large")).count(), 4);
    let mut open = open_again(&store, client, upload);
    let model = Model::with(&[("root/small", "small")]);
    send_on(&mut open, &model, None).unwrap();
    open.commit(model.counts()).unwrap();
    assert_eq!(files_below(&folder.path().join("received_files")), 1, "they are swept with the upload");
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

#[test]
fn a_dry_run_leaves_an_unfinished_upload_as_it_is() {
    let case = case(false);
    let store = case.open(Disk::real()).unwrap();
    let upload = UploadId::random();
    case.cut_off(&store, upload, 3 * MIB);
    let dry = UploadRequest { dry_run: true, ..request(upload) };
    let Begun::Open(mut open) = store.begin_upload(case.client, dry, || {}).unwrap() else { panic!() };
    let ranges = case.after.ranges();
    open.offer_range(hash(&ranges[0])).unwrap();
    let needed = open.add_range(0, &ranges[0]).unwrap();
    assert!(all_there(&mut open, 0, 1).unwrap().len() as u64 * BLOCK >= LARGE_FILE_BYTES);
    out_of_place(open.begin_content(0, 1));
    out_of_place(open.begin_resumed(0, 1, BLOCK));
    needed.entries().for_each(|place| open.skip_content(0, place).unwrap());
    drop(open);
    let (head, sent) = case.run(&store, upload, &case.after).unwrap();
    assert!(sent.written < 200_000, "{sent:?}");
    check_snapshot(&store, &head, &case.after);
}

#[test]
fn a_large_file_whose_facts_alone_changed_is_a_reference() {
    let Fixture { store, client, folder } = fixture();
    let bytes = Random(5).bytes(2 * MIB);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let (head, sent) = back_up_deltas(&store, client, &large(bytes.clone(), 2));
    assert_eq!((sent.deltas, sent.written, head.totals.new_bytes), (1, 0, 0));
    let mut files = Vec::new();
    all_files(&folder.path().join("ranges"), &mut files);
    let blocks = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "blocks"));
    assert_eq!(blocks.count(), 1, "the second one brought no blocks");
    check_snapshot(&store, &head, &large(bytes, 2));
}
