//! What is damaged, cut off or lost is found, never given out, and healed by the next backup that has it.

use std::fs;

use super::pack::Scanned;
use super::record::{PACK_HEADER_BYTES, key_name};
use super::*;
use crate::storage::repair::Outcome;

#[test]
fn a_lost_or_unreadable_index_is_made_anew() {
    let mut fixture = fixture();
    let first = back_up(&fixture.store, fixture.client, &tree(0..5));
    let second = back_up(&fixture.store, fixture.client, &tree(3..8));
    let index = fixture.path().join(INDEX);
    let spoil: [&dyn Fn(); 5] = [
        &|| fs::remove_file(&index).unwrap(),
        &|| fs::write(&index, b"").unwrap(),
        &|| fs::write(&index, [7; 100_000]).unwrap(),
        &|| {
            let bytes = fs::read(&index).unwrap();
            fs::write(&index, &bytes[..bytes.len() / 2]).unwrap();
        },
        &|| {
            let mut bytes = fs::read(&index).unwrap();
            bytes[4096..].fill(0x5a);
            fs::write(&index, &bytes).unwrap();
        },
    ];
    for spoil in spoil {
        spoil();
        fixture = fixture.reopen();
        // Where the damage is met in the midst of something, that ends, and the next one finds a new index.
        let _ = fixture.store.tidy_vault(vault());
        check_snapshot(&fixture.store, &first, &tree(0..5));
        check_snapshot(&fixture.store, &second, &tree(3..8));
        let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
        assert_eq!(client.send(&tree(0..8)).unwrap(), (0, 0));
        client.upload.abandon();
        assert_eq!(fixture.store.tidy_vault(vault()).unwrap(), Tidied::default());
    }
}

#[test]
fn an_index_with_a_changed_byte_loses_nothing() {
    let mut fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..30));
    let index = fixture.path().join(INDEX);
    let length = fs::metadata(&index).unwrap().len() as usize;
    for place in (0..length.min(400_000)).step_by(2_999) {
        let mut bytes = fs::read(&index).unwrap();
        // One that was made anew is shorter.
        let Some(byte) = bytes.get_mut(place) else { break };
        *byte ^= 0x21;
        fs::write(&index, &bytes).unwrap();
        fixture = fixture.reopen();
        fixture.store.tidy_vault(vault()).unwrap();
        check_snapshot(&fixture.store, &head, &tree(0..30));
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_what_is_whole_of_it_is_kept() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..2));
    let pack = packs_of(&fixture.path())[0].clone();
    let whole = fs::read(&pack).unwrap();
    let key = data_key_id(&[5; 384]);
    let mut tail = Vec::new();
    record::NewRecord { kind: record::Kind::Key, name: key_name(key), key: None, payload: &[&[5; 384]] }
        .encode(&mut tail);
    let name = chunk_name(99);
    let payload = sealed(name, key, 4);
    record::NewRecord { kind: record::Kind::Chunk, name, key: Some(key), payload: &[&payload] }.encode(&mut tail);
    let chunk_end = tail.len();
    record::NewRecord { kind: record::Kind::Chunk, name: chunk_name(98), key: Some(key), payload: &[&payload] }
        .encode(&mut tail);
    let mut fixture = fixture;
    for cut in [1, 100, chunk_end - 1, chunk_end, chunk_end + 7, tail.len() - 1] {
        fs::write(&pack, [&whole[..], &tail[..cut]].concat()).unwrap();
        fs::remove_file(fixture.path().join(INDEX)).unwrap();
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &tree(0..2));
        fs::write(&pack, [&whole[..], &tail[..cut]].concat()).unwrap();
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &tree(0..2));
        let reader = fixture.store.read_vault(vault(), &READ_TOKEN).unwrap();
        assert_eq!(chunk_of(&reader, &name).is_some(), cut >= chunk_end, "cut at {cut}");
        drop(reader);
        fs::write(&pack, &whole).unwrap();
    }
    fs::remove_file(fixture.path().join(INDEX)).unwrap();
    let fixture = fixture.reopen();
    let next = back_up(&fixture.store, fixture.client, &tree(0..3));
    check_snapshot(&fixture.store, &next, &tree(0..3));
}

#[test]
fn every_changed_byte_of_a_pack_is_found_and_nothing_wrong_is_given_out() {
    let mut fixture = fixture();
    let small: Tree = vec![vec![1, 2], vec![3]];
    let head = back_up(&fixture.store, fixture.client, &small);
    let pack = packs_of(&fixture.path())[0].clone();
    let whole = fs::read(&pack).unwrap();
    for (round, place) in (0..whole.len()).step_by(13).enumerate() {
        let is_index_lost = round % 8 == 0;
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&pack, &bytes).unwrap();
        if is_index_lost {
            fs::remove_file(fixture.path().join(INDEX)).unwrap();
        }
        fixture = fixture.reopen();
        let reader = fixture.store.read_vault(vault(), &READ_TOKEN).unwrap();
        for number in small.iter().flatten() {
            if let Some(found) = chunk_of(&reader, &chunk_name(*number)) {
                assert!(found.sealed == sealed(found.name, found.key, BLOCKS), "byte {place}");
            }
        }
        drop(reader);
        assert!(!damage_of(&fixture.store, &head).is_empty(), "byte {place} passes");
        // The index has the key as well, as long as it is there; and nothing but the pack's name is in the header.
        let is_mended = place < PACK_HEADER_BYTES || (!is_index_lost && place < PACK_HEADER_BYTES + 384 + 41);
        if is_mended {
            fs::remove_file(fixture.path().join(INDEX)).unwrap();
            fixture = fixture.reopen();
            check_snapshot(&fixture.store, &head, &small);
        }
        packs_of(&fixture.path()).iter().for_each(|pack| fs::remove_file(pack).unwrap());
        fs::write(&pack, &whole).unwrap();
        fs::remove_file(fixture.path().join(INDEX)).unwrap();
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &small);
    }
}

/// Where the records of a key begin in a pack.
fn places_of(pack: &[u8], key: DataKeyId) -> Vec<usize> {
    let name = key_name(key);
    let found = pack.windows(32).enumerate().filter(|(_, window)| window == name.as_bytes());
    found.map(|(place, _)| place - 5).collect()
}

/// Stores a tree in one upload; gives the key of its chunks too.
fn back_up_under_key(fixture: &Fixture, tree: &Tree) -> (Arc<Head>, DataKeyId) {
    let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    let key = client.key;
    client.send(tree).unwrap();
    (client.commit().unwrap(), key)
}

#[test]
fn a_damaged_record_of_a_key_is_named_and_written_anew_from_the_index() {
    let mut fixture = fixture();
    let (first, first_key) = back_up_under_key(&fixture, &tree(0..3));
    let (second, second_key) = back_up_under_key(&fixture, &tree(2..6));
    for (round, key) in [first_key, second_key, second_key].into_iter().enumerate() {
        let [pack] = &packs_of(&fixture.path())[..] else { panic!("one pack each time") };
        let mut bytes = fs::read(pack).unwrap();
        let places = places_of(&bytes, key);
        assert!(!places.is_empty());
        // Its payload, its length, its kind: the last two lead the walk astray.
        places.iter().for_each(|place| bytes[place + [60, 2, 0][round]] ^= 0x41);
        fs::write(pack, &bytes).unwrap();
        let found = damage_of(&fixture.store, &second);
        let named = format!("the record of data key {key} is damaged or gone");
        assert!(found.iter().all(|text| text.contains(&named) && text.contains("written anew")), "{found:?}");
        assert_eq!((found.len(), pack.exists()), (1, false), "{found:?}");
        assert_eq!(damage_of(&fixture.store, &second), [""; 0]);
        fs::remove_file(fixture.path().join(INDEX)).unwrap();
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &first, &tree(0..3));
        check_snapshot(&fixture.store, &second, &tree(2..6));
    }
    // All of it goes with the snapshots.
    fixture.store.drop_snapshots(fixture.client, &[first.id, second.id]).unwrap();
    fixture.store.sweep(fixture.client).unwrap();
    fixture.store.tidy_vault(vault()).unwrap();
    assert_eq!(packs_of(&fixture.path()).len(), 0);
}

#[test]
fn a_pack_that_is_added_to_is_written_anew_when_it_is_not() {
    let fixture = fixture();
    let (head, key) = back_up_under_key(&fixture, &tree(0..2));
    let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    client.send_chunks(&[70]).unwrap();
    let [pack] = &packs_of(&fixture.path())[..] else { panic!("one pack") };
    let mut bytes = fs::read(pack).unwrap();
    let place = places_of(&bytes, key)[0];
    bytes[place + 50] ^= 1;
    fs::write(pack, &bytes).unwrap();
    let found = damage_of(&fixture.store, &head);
    assert!(found.len() == 1 && found[0].contains("it is in use"), "{found:?}");
    drop(client);
    assert_eq!(damage_of(&fixture.store, &head).len(), 1);
    assert_eq!(damage_of(&fixture.store, &head), [""; 0]);
    check_snapshot(&fixture.store, &head, &tree(0..2));
}

#[test]
fn chunks_whose_key_is_nowhere_are_damaged_and_asked_for_again() {
    let fixture = fixture();
    let (head, key) = back_up_under_key(&fixture, &tree(0..2));
    let [pack] = &packs_of(&fixture.path())[..] else { panic!("one pack") };
    let mut bytes = fs::read(pack).unwrap();
    let place = places_of(&bytes, key)[0];
    bytes[place + 50] ^= 1;
    fs::write(pack, &bytes).unwrap();
    fs::remove_file(fixture.path().join(INDEX)).unwrap();
    let fixture = fixture.reopen();
    let found = damage_of(&fixture.store, &head);
    assert!(found.iter().all(|text| !text.contains("data key")), "told of its chunks: {found:?}");
    // The sealed head is lost for good; the chunks come again.
    assert!(!found.is_empty());
    let next = back_up(&fixture.store, fixture.client, &tree(0..2));
    check_snapshot(&fixture.store, &next, &tree(0..2));
}

#[test]
fn an_index_that_is_cut_off_anywhere_is_made_anew() {
    let mut fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..30));
    let index = fixture.path().join(INDEX);
    fixture.store.tidy_vault(vault()).unwrap();
    let whole = fs::read(&index).unwrap();
    for cut in (0..whole.len()).step_by(4_096).chain([1, 63, 4_097, whole.len() - 1]) {
        fs::write(&index, &whole[..cut]).unwrap();
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &tree(0..30));
        let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
        assert_eq!(client.send(&tree(0..30)).unwrap(), (0, 0), "cut off at {cut}");
        client.upload.abandon();
    }
}

const ACCESS_FILES: [&str; 2] = ["vault.json", "vault-copy.json"];

#[test]
fn either_file_that_says_who_may_use_a_vault_is_enough_and_the_other_is_made_again() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..2));
    let whole = fs::read(fixture.path().join(ACCESS_FILES[0])).unwrap();
    for (name, damaged) in
        ACCESS_FILES.into_iter().flat_map(|name| [(name, None), (name, Some(40)), (name, Some(0))])
    {
        let file = fixture.path().join(name);
        match damaged {
            None => fs::remove_file(&file).unwrap(),
            Some(0) => fs::write(&file, b"").unwrap(),
            Some(place) => {
                let mut bytes = whole.clone();
                bytes[place] ^= 4;
                fs::write(&file, bytes).unwrap();
            }
        }
        let told = fixture.store.mend_vaults(false).unwrap();
        check_snapshot(&fixture.store, &head, &tree(0..2));
        let refused = fixture.store.read_vault(vault(), &[3; 32]).unwrap_err();
        assert!(matches!(refused, StoreError::NotFound { .. }), "{refused}");
        back_up(&fixture.store, fixture.client, &tree(0..2));
        let mended = fixture.store.mend_vaults(true).unwrap();
        assert!(told.len() == 1 && told[0].file == file, "{told:?}");
        assert!(
            mended.len() == 1 && mended[0].file == file && mended[0].snapshots.contains(&head.id),
            "{mended:?}"
        );
        assert_eq!(fixture.store.mend_vaults(true).unwrap(), []);
        assert!(ACCESS_FILES.iter().all(|name| fs::read(fixture.path().join(name)).unwrap() == whole));
    }
}

#[test]
fn a_vault_of_which_nothing_says_who_may_use_it_is_damaged_and_no_key_takes_it() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..2));
    let whole = fs::read(fixture.path().join(ACCESS_FILES[0])).unwrap();
    for is_gone in [true, false] {
        for name in ACCESS_FILES {
            match is_gone {
                true => drop(fs::remove_file(fixture.path().join(name))),
                false => fs::write(fixture.path().join(name), b"{}").unwrap(),
            }
        }
        let of_right_key = fixture.store.read_vault(vault(), &READ_TOKEN).unwrap_err();
        let of_wrong_key = fixture.store.read_vault(vault(), &[3; 32]).unwrap_err();
        assert!(of_right_key.is_damage() && of_right_key.to_string() == of_wrong_key.to_string(), "{of_right_key}");
        for write_token in [WRITE_TOKEN, [4; 32]] {
            let asking = VaultUploadRequest { write_token, ..request(UploadId::random()) };
            let refused = fixture.store.begin_vault_upload(fixture.client, asking, || {}).unwrap_err();
            assert!(refused.is_damage(), "{refused}");
        }
        let told = fixture.store.mend_vaults(true).unwrap();
        assert!(told.len() == 1 && told[0].outcome == Outcome::Lost && told[0].snapshots.len() == 1, "{told:?}");
        assert_eq!(fixture.store.vaults().unwrap(), [vault()]);
    }
    fs::write(fixture.path().join(ACCESS_FILES[1]), whole).unwrap();
    check_snapshot(&fixture.store, &head, &tree(0..2));
}

#[test]
fn a_damaged_chunk_is_asked_for_again_and_heals_older_snapshots() {
    for is_index_lost in [false, true] {
        let fixture = fixture();
        let head = back_up(&fixture.store, fixture.client, &tree(0..4));
        let pack = packs_of(&fixture.path())[0].clone();
        let mut bytes = fs::read(&pack).unwrap();
        let name = chunk_name(21);
        // The first place that has the name is the chunk's own record.
        let place = bytes.windows(32).position(|window| window == name.as_bytes()).unwrap();
        bytes[place + 100] ^= 4;
        let list = list_id(&names_of(&tree(0..4)[1]));
        let place = bytes.windows(32).position(|window| window == list.as_bytes()).unwrap();
        bytes[place + 40] ^= 4;
        fs::write(&pack, &bytes).unwrap();
        if is_index_lost {
            fs::remove_file(fixture.path().join(INDEX)).unwrap();
        }
        let fixture = fixture.reopen();
        assert_eq!(damage_of(&fixture.store, &head).len(), 2);
        assert!(damage_of(&fixture.store, &head).iter().any(|text| text.contains(&name.to_string()[..16])));
        // Tidying does not lose what a list that is damaged had.
        let _ = fixture.store.tidy_vault(vault()).unwrap();
        let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
        let (chunks, lists) = client.send(&tree(0..4)).unwrap();
        assert!(chunks == 1 || is_index_lost, "{chunks} chunks");
        assert_eq!(lists, 2);
        let next = client.commit().unwrap();
        check_snapshot(&fixture.store, &head, &tree(0..4));
        check_snapshot(&fixture.store, &next, &tree(0..4));
        fixture.store.tidy_vault(vault()).unwrap();
        let fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &tree(0..4));
        // References are counted as before: all goes with the last snapshot.
        fixture.store.drop_snapshots(fixture.client, &[head.id, next.id]).unwrap();
        fixture.store.sweep(fixture.client).unwrap();
        fixture.store.tidy_vault(vault()).unwrap();
        assert_eq!(packs_of(&fixture.path()).len(), 0);
    }
}

#[test]
fn a_lost_pack_is_named_and_the_next_backup_makes_all_whole() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..4));
    for pack in packs_of(&fixture.path()) {
        fs::remove_file(pack).unwrap();
    }
    let fixture = fixture.reopen();
    assert!(!damage_of(&fixture.store, &head).is_empty());
    let next = back_up(&fixture.store, fixture.client, &tree(0..4));
    check_snapshot(&fixture.store, &next, &tree(0..4));
}

/// Changes a byte of the payload of the first record of this kind in a pack.
fn spoil_first(pack: &Path, kind: record::Kind) {
    let mut scanner = pack::Scanner::open(pack, 0, true).unwrap();
    let found = std::iter::from_fn(|| scanner.next().unwrap()).find(|scanned| scanned.record.kind == kind);
    let place = found.unwrap().offset as usize + 60;
    let mut bytes = fs::read(pack).unwrap();
    bytes[place] ^= 4;
    fs::write(pack, bytes).unwrap();
}

#[test]
fn while_it_is_not_known_what_is_needed_nothing_is_swept() {
    for kind in [record::Kind::List, record::Kind::Snapshot] {
        let fixture = fixture();
        let first = back_up(&fixture.store, fixture.client, &tree(0..3));
        let second = back_up(&fixture.store, fixture.client, &tree(5..7));
        spoil_first(&packs_of(&fixture.path())[0], kind);
        fs::remove_file(fixture.path().join(INDEX)).unwrap();
        let fixture = fixture.reopen();
        drop_snapshot(&fixture.store, &second);
        let tidied = fixture.store.tidy_vault(vault()).unwrap();
        assert_eq!((tidied.objects, tidied.bytes), (0, 0), "{kind:?}");
        let reader = fixture.store.read_vault(vault(), &READ_TOKEN).unwrap();
        assert!(tree(0..3).iter().flatten().all(|number| chunk_of(&reader, &chunk_name(*number)).is_some()));
        drop(reader);
        if kind == record::Kind::List {
            let next = back_up(&fixture.store, fixture.client, &tree(0..3));
            assert!(fixture.store.tidy_vault(vault()).unwrap().objects > 0);
            check_snapshot(&fixture.store, &next, &tree(0..3));
            assert!(damage_of(&fixture.store, &first).is_empty());
        } else {
            drop_snapshot(&fixture.store, &first);
            // What the dropped one needed is not known: the index is made anew first.
            fixture.store.tidy_vault(vault()).unwrap();
            fixture.store.tidy_vault(vault()).unwrap();
            assert!(packs_of(&fixture.path()).is_empty());
        }
    }
}

#[test]
fn a_pack_that_was_away_is_known_again() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..4));
    let pack = packs_of(&fixture.path())[0].clone();
    let away = fixture.path().join("away");
    fs::rename(&pack, &away).unwrap();
    let fixture = fixture.reopen();
    assert!(!damage_of(&fixture.store, &head).is_empty());
    fixture.store.tidy_vault(vault()).unwrap();
    fs::rename(&away, &pack).unwrap();
    let fixture = fixture.reopen();
    check_snapshot(&fixture.store, &head, &tree(0..4));
    assert!(damage_of(&fixture.store, &head).is_empty());
}

#[test]
fn another_list_under_the_id_of_one_is_none() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..1));
    let pack = packs_of(&fixture.path())[0].clone();
    let mut bytes = fs::read(&pack).unwrap();
    let mut scanner = pack::Scanner::open(&pack, 0, false).unwrap();
    let scanned =
        std::iter::from_fn(|| scanner.next().unwrap()).find(|found| found.record.kind == record::Kind::List);
    let Scanned { offset, record } = scanned.unwrap();
    let (start, end) = (offset as usize, offset as usize + record.as_bytes().len());
    bytes[end - 40] ^= 1;
    let crc = crate::crypto::crc32(&bytes[start..end - 4]);
    bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    fs::write(&pack, bytes).unwrap();
    for _ in 0..2 {
        let told = damage_of(&fixture.store, &head);
        assert!(told.iter().any(|text| text.starts_with("list ")), "{told:?}");
        fs::remove_file(fixture.path().join(INDEX)).unwrap();
    }
}

#[test]
fn what_is_dropped_is_written_down_also_where_its_head_cannot_be_read() {
    let fixture = fixture();
    let heads: Vec<_> =
        (0..4).map(|number| back_up(&fixture.store, fixture.client, &tree(number..number + 1))).collect();
    let folder = fixture.store.shared.layout.snapshots(&fixture.store.client(fixture.client).unwrap().folder);
    let file = |number: usize, end: &str| folder.join(format!("{}.{end}", heads[number].id));
    // Of the second the index has a copy of the head; of the third the vault's index has a row.
    fs::write(file(1, "json"), b"damaged").unwrap();
    fs::write(file(2, "json"), b"damaged").unwrap();
    fs::remove_file(file(2, "index")).unwrap();
    let fixture = fixture.reopen();
    let ids: Vec<SnapshotId> = heads[..3].iter().map(|head| head.id).collect();
    let drops = fixture.store.drop_snapshots(fixture.client, &ids).unwrap();
    assert_eq!((drops.dropped.len(), drops.damaged.len()), (1, 2));
    let dropped = || fixture.store.read_vault(vault(), &READ_TOKEN).unwrap().dropped().unwrap();
    assert_eq!(dropped().snapshots, ids.iter().copied().collect());
    check_snapshot(&fixture.store, &heads[3], &tree(3..4));
    fixture.store.remove_client(fixture.client).unwrap();
    assert_eq!(dropped().snapshots, heads.iter().map(|head| head.id).collect());
}
