//! What is damaged, cut off or lost is found, never given out, and healed by the next backup that has it.

use std::fs;

use super::*;

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
    record::NewRecord { kind: record::Kind::Key, name: record::key_name(key), key: None, payload: &[&[5; 384]] }
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
    for (round, place) in (record::PACK_HEADER_BYTES..whole.len()).step_by(13).enumerate() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&pack, &bytes).unwrap();
        if round % 8 == 0 {
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
        let found = damage_of(&fixture.store, &head);
        // The index has the key as well, as long as it is there.
        let is_in_index = round % 8 != 0 && place < record::PACK_HEADER_BYTES + 384 + 41;
        assert!(!found.is_empty() || is_in_index, "byte {place} passes");
        fs::write(&pack, &whole).unwrap();
        if round % 8 == 0 {
            fs::remove_file(fixture.path().join(INDEX)).unwrap();
        }
        fixture = fixture.reopen();
        check_snapshot(&fixture.store, &head, &small);
    }
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
