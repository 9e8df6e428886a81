//! Dropped snapshots: what they alone needed goes, and nothing else.

use super::*;

#[test]
fn the_space_of_dropped_snapshots_comes_back_and_kept_ones_stay_whole() {
    let fixture = fixture();
    let (store, client) = (&fixture.store, fixture.client);
    let first = back_up(store, client, &tree(0..20));
    // One list in ten stays.
    let kept: Tree = tree(0..20).into_iter().step_by(10).chain(tree(30..31)).collect();
    let second = back_up(store, client, &kept);
    let before = fixture.pack_bytes();
    drop_snapshot(store, &first);
    let tidied = store.tidy_vault(vault()).unwrap();
    assert_eq!((tidied.snapshots, tidied.objects), (1, 18 * 7));
    let after = fixture.pack_bytes();
    assert_eq!(tidied.bytes, before - after);
    assert!(after < before / 4, "{after} of {before} bytes");
    check_snapshot(store, &second, &kept);
    assert_eq!(store.tidy_vault(vault()).unwrap(), Tidied::default());
    let fixture = fixture.reopen();
    check_snapshot(&fixture.store, &second, &kept);
    drop_snapshot(&fixture.store, &second);
    fixture.store.tidy_vault(vault()).unwrap();
    assert_eq!(packs_of(&fixture.path()).len(), 0);
    let third = back_up(&fixture.store, fixture.client, &tree(0..2));
    check_snapshot(&fixture.store, &third, &tree(0..2));
}

/// Backs up the chunk of this number, of so many blocks, under a key as large as any.
fn one_chunk(fixture: &Fixture, number: u64, blocks: usize) -> Arc<Head> {
    let wrapped_key = UploadId::random().as_bytes().repeat(32);
    let request = VaultUploadRequest { wrapped_key, ..request(UploadId::random()) };
    let mut client = Client::begin(&fixture.store, fixture.client, request).unwrap();
    let name = chunk_name(number);
    assert_eq!(client.lacking(&[name]).unwrap(), [0]);
    client.upload.chunk(name, &sealed(name, client.key, blocks)).unwrap();
    client.upload.list(name.as_bytes()).unwrap();
    client.upload.needs(list_id(&[name]).as_bytes()).unwrap();
    client.commit().unwrap()
}

#[test]
fn keys_of_what_was_dropped_hold_no_space() {
    let fixture = fixture();
    let (store, client) = (&fixture.store, fixture.client);
    // Of each 2,000 bytes, 550 are the key's.
    let heads: Vec<Arc<Head>> = (0..40).map(|number| one_chunk(&fixture, number, BLOCKS)).collect();
    let kept: Tree = (0..17).map(|number| vec![number]).collect();
    let last = back_up(store, client, &kept);
    let before = fixture.pack_bytes();
    heads.iter().for_each(|head| drop_snapshot(store, head));
    store.tidy_vault(vault()).unwrap();
    let needed = fixture.pack_bytes();
    assert!(needed * 2 < before, "{needed} of {before} bytes");
    check_snapshot(store, &last, &kept);
}

#[test]
fn a_pack_of_little_more_than_keys_that_are_needed_is_not_written_again_and_again() {
    let fixture = fixture();
    let heads: Vec<Arc<Head>> = (0..20).map(|number| one_chunk(&fixture, number, 4)).collect();
    let (packs, bytes) = (packs_of(&fixture.path()), fixture.pack_bytes());
    for _ in 0..2 {
        assert_eq!(fixture.store.tidy_vault(vault()).unwrap(), Tidied::default());
        assert_eq!((packs_of(&fixture.path()), fixture.pack_bytes()), (packs.clone(), bytes));
    }
    heads.iter().skip(1).for_each(|head| drop_snapshot(&fixture.store, head));
    fixture.store.tidy_vault(vault()).unwrap();
    assert!(fixture.pack_bytes() * 10 < bytes, "{} of {bytes} bytes", fixture.pack_bytes());
    assert_eq!(damage_of(&fixture.store, &heads[0]), Vec::<String>::new());
}

#[test]
fn two_packs_that_are_half_dead_are_both_written_anew_at_once() {
    let fixture = fixture();
    let (store, client) = (&fixture.store, fixture.client);
    // Two at once have a pack each.
    let begin = || Client::begin(store, client, request(UploadId::random())).unwrap();
    let trees = [tree(0..20), tree(20..40)];
    let mut uploads = [begin(), begin()];
    for (upload, tree) in uploads.iter_mut().zip(&trees) {
        upload.send(tree).unwrap();
    }
    let heads = uploads.map(|upload| upload.commit().unwrap());
    let kept: Tree = tree(0..40).into_iter().step_by(10).collect();
    let last = back_up(store, client, &kept);
    let before = fixture.pack_bytes();
    heads.iter().for_each(|head| drop_snapshot(store, head));
    assert!(packs_of(&fixture.path()).len() > 1);
    store.tidy_vault(vault()).unwrap();
    let needed = fixture.pack_bytes();
    assert!(needed < before / 6, "{needed} of {before} bytes");
    check_snapshot(store, &last, &kept);
}

#[test]
fn what_an_open_upload_was_told_is_held_stays_for_it() {
    let fixture = fixture();
    let (store, client) = (&fixture.store, fixture.client);
    let first = back_up(store, client, &tree(0..5));
    let mut upload = Client::begin(store, client, request(UploadId::random())).unwrap();
    assert_eq!(upload.send(&tree(0..3)).unwrap(), (0, 0));
    drop_snapshot(store, &first);
    let tidied = store.tidy_vault(vault()).unwrap();
    assert_eq!((tidied.snapshots, tidied.objects), (1, 0), "it began before");
    // One that begins after: what was dropped before goes, but for what it asked about.
    let mut later = Client::begin(store, client, request(UploadId::random())).unwrap();
    let second = upload.commit().unwrap();
    assert_eq!(later.send_chunks(&[30]).unwrap(), 0);
    let tidied = store.tidy_vault(vault()).unwrap();
    // Two lists go, and what they alone had waits: it lost its last reference just now.
    assert_eq!(tidied.objects, 2);
    assert_eq!(later.send_chunks(&[30, 31]).unwrap(), 0);
    later.upload.abandon();
    assert_eq!(store.tidy_vault(vault()).unwrap().objects, 12);
    check_snapshot(store, &second, &tree(0..3));
}

#[test]
fn lists_that_two_uploads_bring_at_once_are_counted_once() {
    let fixture = fixture();
    let (store, client) = (&fixture.store, fixture.client);
    let begin = || Client::begin(store, client, request(UploadId::random())).unwrap();
    let mut uploads = [begin(), begin()];
    for upload in &mut uploads {
        // Neither has flushed what it brought when the other brings it.
        assert!(upload.send(&tree(0..5)).unwrap().0 > 0);
    }
    for upload in uploads {
        let head = upload.commit().unwrap();
        check_snapshot(store, &head, &tree(0..5));
        drop_snapshot(store, &head);
    }
    while store.tidy_vault(vault()).unwrap() != Tidied::default() {}
    assert_eq!(packs_of(&fixture.path()).len(), 0, "nothing needs them any more");
}

#[test]
fn an_upload_that_was_stored_just_before_a_stop_holds_no_space() {
    use crate::storage::vault::rows::UploadRow;
    let fixture = fixture();
    let upload = UploadId::random();
    let first = try_back_up(&fixture.store, fixture.client, upload, &tree(0..2)).unwrap();
    // As a stop between the head and the end of the upload leaves it.
    let open = fixture.store.open_vault(vault(), None, Opening::Quick).unwrap();
    let key = [&fixture.client.as_bytes()[..], upload.as_bytes()].concat();
    let key: &[u8; 32] = key[..].try_into().unwrap();
    let row = UploadRow { turn: 1, touched: Timestamp::now().seconds as u64, stored_bytes: 0 };
    let put = |index: &mut index::Writing<'_>| index.uploads.insert(key, &row);
    open.index.write(Flush::Now, put).unwrap();
    drop(open);
    let fixture = fixture.reopen();
    let second = back_up(&fixture.store, fixture.client, &tree(5..6));
    drop_snapshot(&fixture.store, &first);
    assert_eq!(fixture.store.tidy_vault(vault()).unwrap().objects, 14);
    check_snapshot(&fixture.store, &second, &tree(5..6));
}

#[test]
fn a_removed_client_leaves_nothing_that_others_do_not_need() {
    let fixture = fixture();
    let store = &fixture.store;
    let other = store.register(ClientId::random(), &"bob".parse().unwrap(), b"other", false).unwrap().id;
    let mine = back_up(store, fixture.client, &tree(0..10));
    back_up(store, other, &tree(0..30));
    let before = fixture.pack_bytes();
    let record = store.between_prunes(other, || store.remove_client(other)).unwrap().unwrap();
    store.remove_data(&record).unwrap();
    let tidied = store.tidy_vault(vault()).unwrap();
    assert_eq!((tidied.snapshots, tidied.objects), (1, 140));
    assert!(fixture.pack_bytes() < before * 4 / 10);
    check_snapshot(store, &mine, &tree(0..10));
}

#[test]
fn a_snapshot_without_its_head_is_released() {
    let fixture = fixture();
    let head = back_up(&fixture.store, fixture.client, &tree(0..2));
    let folder = fixture.store.client(fixture.client).unwrap().folder.clone();
    let snapshots = fixture.folder.path().join("snapshots").join(folder.as_str());
    std::fs::remove_file(snapshots.join(format!("{}.json", head.id))).unwrap();
    std::fs::remove_file(snapshots.join(format!("{}.index", head.id))).unwrap();
    let fixture = fixture.reopen();
    fixture.store.tidy_vault(vault()).unwrap();
    assert_eq!(packs_of(&fixture.path()).len(), 0);
}
