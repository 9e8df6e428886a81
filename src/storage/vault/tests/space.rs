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
