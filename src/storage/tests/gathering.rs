//! Contents that lie in many pieces are brought together again: nothing that the client did not change is sent for it,
//! every snapshot reads back exactly, and what is stored stays in proportion to what changed.

use super::delta::{
    Pieces, Random, all_held, back_up_deltas, begin_needed, bytes_below, large, reopen, send_pieces, stored_large,
};
use super::partial::{Case, send_on};
use super::*;
use crate::base::limits::{GATHERED_PIECES_MIN, GATHERED_SOURCES_MAX};
use crate::crypto::BLOCK_BYTES;
use crate::storage::blocks_format::Source;
use crate::storage::blocks_reader::{ClientFiles, ContentMap};
use crate::storage::range::Location;

const MIB: usize = 1024 * 1024;

fn map_of(store: &Store, head: &Head) -> ContentMap {
    let content = stored_large(store, head).content.unwrap();
    let files = ClientFiles::new(&store.shared.layout, &store.client(head.client).unwrap().folder);
    ContentMap::open(&files, content.snapshot(), content.blocks.unwrap()).unwrap()
}

fn is_plain(store: &Store, head: &Head) -> bool {
    !matches!(stored_large(store, head).content.unwrap().location, Location::Mapped { .. })
}

fn change(bytes: &mut [u8], at: usize, length: usize, random: &mut Random) {
    bytes[at..at + length].copy_from_slice(&random.bytes(length));
}

/// Each backup finds a part of the file changed; the parts wander through it.
#[test]
fn after_any_number_of_deltas_a_content_lies_in_few_files_and_takes_little_more_than_what_changed() {
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(21);
    let mut bytes = random.bytes(6 * MIB);
    let (first, _) = back_up_deltas(&store, client, &large(bytes.clone(), 1));
    let (mut stored, mut changed, mut most) = (vec![(first, ContentSums::of(&bytes))], 0, 0);
    let before = bytes_below(folder.path());
    for generation in 0..60usize {
        let length = if generation % 9 == 0 { 300_000 } else { 40_000 };
        change(&mut bytes, generation * 61_000 % (5 * MIB), length, &mut random);
        let (head, sent) = back_up_deltas(&store, client, &large(bytes.clone(), generation as u64 + 2));
        assert!(sent.written <= length as u64 + 2 * BLOCK_BYTES as u64, "nothing is sent for it: {sent:?}");
        changed += sent.written;
        most = most.max(map_of(&store, &head).sources());
        stored.push((head, ContentSums::of(&bytes)));
    }
    let added = bytes_below(folder.path()) - before;
    println!("{changed} bytes changed in 60 backups: {added} stored, in {most} files at most");
    assert!((GATHERED_SOURCES_MAX / 2..=GATHERED_SOURCES_MAX).contains(&most), "{most} files");
    // More than half of the first file was replaced: it is written out once.
    assert!(added < changed * 3 / 2 + bytes.len() as u64, "{added} bytes stored for {changed}");
    for (head, sums) in &stored {
        let large = stored_large(&store, head);
        assert_eq!(large.content.as_ref().unwrap().sums, *sums);
        store.verify_content(client, &large).unwrap();
    }
}

/// A first snapshot with a file, and a second one that made it lie in more pieces than it should.
fn in_many_pieces(after: impl FnOnce(&mut Vec<u8>)) -> (Case, Vec<Arc<Head>>) {
    let Fixture { store, client, folder } = fixture();
    let mut bytes = Random(5).bytes((GATHERED_PIECES_MIN as usize + 40) * BLOCK_BYTES + 100);
    let mut heads = vec![back_up_deltas(&store, client, &large(bytes.clone(), 1)).0];
    for block in (0..bytes.len()).step_by(2 * BLOCK_BYTES) {
        bytes[block] ^= 1;
    }
    heads.push(back_up_deltas(&store, client, &large(bytes.clone(), 2)).0);
    assert!(!is_plain(&store, &heads[1]));
    after(&mut bytes);
    (Case { folder, client, after: large(bytes, 3) }, heads)
}

#[test]
fn a_content_in_too_many_pieces_is_written_out_whole_without_being_sent() {
    let (case, heads) = in_many_pieces(|bytes| bytes[9 * MIB] ^= 1);
    let store = case.open(Disk::real()).unwrap();
    let (head, sent) = back_up_deltas(&store, case.client, &case.after);
    assert!(is_plain(&store, &head));
    let bytes = &case.after.files[&path("root/large")].0;
    assert_eq!((sent.written, head.totals.new_bytes), (BLOCK_BYTES as u64, bytes.len() as u64));
    check_snapshot(&store, &head, &case.after);
    for head in &heads {
        store.verify_content(case.client, &stored_large(&store, head)).unwrap();
    }
    // From here on it goes on in deltas.
    let mut bytes = bytes.clone();
    bytes[5] ^= 1;
    let (next, sent) = back_up_deltas(&store, case.client, &large(bytes, 4));
    assert_eq!((is_plain(&store, &next), next.totals.new_bytes), (false, sent.written));
}

#[test]
fn where_only_the_facts_changed_nothing_is_written_out() {
    let (case, heads) = in_many_pieces(|_| {});
    let store = case.open(Disk::real()).unwrap();
    let (head, sent) = back_up_deltas(&store, case.client, &case.after);
    assert_eq!((sent.written, head.totals.new_bytes), (0, 0));
    assert_eq!(stored_large(&store, &head).content, stored_large(&store, &heads[1]).content);
}

#[test]
fn what_finds_no_room_is_not_written_out() {
    let (case, heads) = in_many_pieces(|bytes| bytes[9 * MIB] ^= 1);
    let store = case.open(Disk::real()).unwrap();
    let taken: u64 = heads.iter().map(|head| head.totals.stored_bytes).sum();
    store.set_quota(case.client, Some(taken + 60 * MIB as u64)).unwrap();
    let (head, _) = back_up_deltas(&store, case.client, &case.after);
    assert_eq!((is_plain(&store, &head), head.totals.new_bytes), (false, BLOCK_BYTES as u64));
    check_snapshot(&store, &head, &case.after);
}

#[test]
fn a_plain_file_of_which_little_is_needed_is_left_behind() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut random = Random(6);
    let mut bytes = random.bytes(3 * MIB);
    back_up_deltas(&store, client, &large(bytes.clone(), 1));
    change(&mut bytes, 0, 2 * MIB, &mut random);
    let (second, _) = back_up_deltas(&store, client, &large(bytes.clone(), 2));
    bytes[7] ^= 1;
    let model = large(bytes.clone(), 3);
    let (third, sent) = back_up_deltas(&store, client, &model);
    assert_eq!((is_plain(&store, &second), is_plain(&store, &third)), (false, true));
    assert_eq!(sent.written, BLOCK_BYTES as u64);
    check_snapshot(&store, &third, &model);
    // A file that only grows leaves nothing behind, however much of it lies in deltas.
    for change in 4..9 {
        bytes.extend(random.bytes(2 * MIB));
        let (head, _) = back_up_deltas(&store, client, &large(bytes.clone(), change));
        assert_eq!(head.totals.new_bytes, 2 * MIB as u64);
        assert!(!is_plain(&store, &head));
    }
}

#[test]
fn damage_in_what_is_to_be_copied_has_the_client_send_everything_and_is_noted() {
    let (case, _) = in_many_pieces(|bytes| bytes[9 * MIB] ^= 1);
    let mut deltas = Vec::new();
    all_files(&case.folder.path().join("deltas"), &mut deltas);
    let mut delta = std::fs::read(&deltas[0]).unwrap();
    delta[700_000] ^= 1;
    std::fs::write(&deltas[0], delta).unwrap();
    let store = case.open(Disk::real()).unwrap();
    let bytes = case.after.files[&path("root/large")].0.clone();
    let mut upload = begin_needed(&store, case.client, &case.after);
    let held = all_held(&mut upload, 0, 1, 4_096);
    upload.begin_delta(0, 1).unwrap();
    let verdict = send_pieces(&mut upload, &bytes, &held, &mut Pieces::default()).unwrap();
    assert_eq!(verdict, ContentVerdict::Repeat);
    assert_eq!(upload.held_blocks(0, 1, 0, 9).unwrap(), Vec::<[u8; 32]>::new(), "nothing is built on it again");
    send_content(&mut upload, 0, 1, &path("root/large"), &case.after).unwrap();
    let head = upload.commit(case.after.counts()).unwrap();
    check_snapshot(&store, &head, &case.after);
    let list = store.state(case.client).unwrap().damage_list(&store.shared.layout);
    let noted: Vec<_> = list.items().map(|item| item.runs.len()).collect();
    assert_eq!(noted, [1], "the damaged block is known");
}

#[test]
fn a_content_that_is_cut_off_while_it_is_written_out_is_gone_on_with() {
    for restart in [false, true] {
        let (case, _) = in_many_pieces(|bytes| {
            bytes[9 * MIB] ^= 1;
            bytes[60 * MIB] ^= 1;
        });
        let mut store = case.open(Disk::real()).unwrap();
        let upload = UploadId::random();
        case.cut_off(&store, upload, 30 * MIB);
        if restart {
            store = reopen(store, case.folder.path());
        }
        let Begun::Open(mut open) = store.begin_upload(case.client, request(upload), || {}).unwrap() else {
            panic!()
        };
        let sent = send_on(&mut open, &case.after, None).unwrap();
        assert_eq!((sent.written, sent.deltas), (BLOCK_BYTES as u64, 1), "restarted {restart}");
        let head = open.commit(case.after.counts()).unwrap();
        assert!(is_plain(&store, &head));
        check_snapshot(&store, &head, &case.after);
    }
}

#[test]
fn a_copy_ends_when_nobody_waits_for_it_any_more() {
    let (case, _) = in_many_pieces(|bytes| bytes[60 * MIB] ^= 1);
    let store = case.open(Disk::real()).unwrap();
    let mut upload = begin_needed(&store, case.client, &case.after);
    upload.begin_delta(0, 1).unwrap();
    assert!(!upload.keep_content(40 * MIB as u64, &|| false).unwrap());
}

/// A small content in more files than it should, so that the next upload gathers deltas, and a plain one that is
/// written out: cut off at every `step`th operation, and gone on with.
#[test]
fn a_crash_at_any_operation_of_an_upload_that_gathers_loses_nothing() {
    let case = || {
        let Fixture { store, client, folder } = fixture();
        let mut random = Random(8);
        let mut model = Model::default();
        let (mut many, mut wasted) = (random.bytes(2 * MIB), random.bytes(MIB + 70_000));
        let mut heads = Vec::new();
        for generation in 0..GATHERED_SOURCES_MAX {
            change(&mut many, generation * 100_000, 20_000, &mut random);
            if generation == 3 {
                change(&mut wasted, 0, MIB - 100_000, &mut random);
            }
            model.put("root/large", &many, generation as u64 + 1);
            model.put("root/wasted", &wasted, 1 + u64::from(generation >= 3));
            heads.push((back_up_deltas(&store, client, &model).0, model.clone()));
        }
        change(&mut many, MIB, 20_000, &mut random);
        wasted[MIB + 60_000] ^= 1;
        model.put("root/large", &many, 99);
        model.put("root/wasted", &wasted, 99);
        (Case { folder, client, after: model }, heads)
    };
    let all = case().0.operations();
    for stop in (0..=all).step_by(3) {
        let (case, heads) = case();
        let upload = UploadId::random();
        let _ = case.open(Disk::stopping_after(stop)).and_then(|store| case.run(&store, upload, &case.after));
        let store = case.open(Disk::real()).unwrap();
        let (head, sent) = case.run(&store, upload, &case.after).unwrap();
        check_snapshot(&store, &head, &case.after);
        assert!(sent.written <= 4 * BLOCK_BYTES as u64, "stopped after {stop}: {sent:?}");
        assert!(map_of(&store, &head).sources() <= GATHERED_SOURCES_MAX / 2 + 2, "stopped after {stop}");
        heads.iter().step_by(5).for_each(|(head, model)| check_snapshot(&store, head, model));
        assert_eq!(files_below(&case.folder.path().join("incoming")), 0, "stopped after {stop}");
    }
}

#[test]
fn what_is_gathered_is_the_snapshots_own() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut random = Random(3);
    let mut bytes = random.bytes(2 * MIB);
    let mut head = back_up_deltas(&store, client, &large(bytes.clone(), 1)).0;
    for generation in 0..GATHERED_SOURCES_MAX {
        change(&mut bytes, generation * 100_000, 20_000, &mut random);
        head = back_up_deltas(&store, client, &large(bytes.clone(), generation as u64 + 2)).0;
    }
    let map = map_of(&store, &head);
    let (own, others): (Vec<&Source>, Vec<&Source>) =
        map.all_sources().iter().partition(|source| source.snapshot() == head.id);
    assert_eq!((own.len(), others.len()), (1, 1 + GATHERED_SOURCES_MAX / 2));
}
