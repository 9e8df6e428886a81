//! What the operator changes about clients: quota, key, name, and their being there at all.

use super::*;

const SIZE: usize = 100_000;

fn model_of(count: usize) -> Model {
    let mut model = Model::default();
    (0..count).for_each(|n| model.put(&format!("root/f{n}"), &vec![n as u8; SIZE], 1));
    model
}

fn open(store: &Store, client: ClientId, upload: UploadId) -> Box<Upload> {
    match store.begin_upload(client, request(upload), || {}).unwrap() {
        Begun::Open(upload) => upload,
        Begun::AlreadyStored(head) => panic!("{} is stored already", head.id),
    }
}

#[test]
fn a_quota_ends_an_upload_while_it_arrives_and_a_raised_one_lets_it_go_on() {
    let Fixture { store, client, folder } = fixture();
    let (model, upload) = (model_of(10), UploadId::random());
    store.set_quota(client, Some(5 * SIZE as u64 / 2)).unwrap();
    let mut first = open(&store, client, upload);
    let error = send(&mut first, &model).unwrap_err();
    assert!(matches!(error, StoreError::QuotaExceeded { quota: 250_000 }), "{error}");
    drop(first);
    // No more than the quota and one piece of a content ever lay there.
    let names = std::fs::read_dir(folder.path().join("incoming")).unwrap().next().unwrap().unwrap().path();
    assert!(files_below(&names) <= 6, "{}", files_below(&names));
    let mut second = open(&store, client, upload);
    assert!(matches!(send(&mut second, &model), Err(StoreError::QuotaExceeded { .. })));
    store.set_quota(client, None).unwrap();
    drop(second);
    let mut third = open(&store, client, upload);
    assert_eq!(send(&mut third, &model).unwrap(), Sent { ranges: 1, contents: 8 });
    let head = third.commit(model.counts()).unwrap();
    check_snapshot(&store, &head, &model);
    assert_eq!(store.summary(client).unwrap().stored_bytes, head.totals.stored_bytes);
}

#[test]
fn the_quota_counts_all_snapshots_and_what_another_upload_stored_meanwhile() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = model_of(3);
    let (mut late, mut early) = (begin(&store, client), begin(&store, client));
    store.set_quota(client, Some(5 * SIZE as u64)).unwrap();
    send(&mut late, &model).unwrap();
    send(&mut early, &model).unwrap();
    early.commit(model.counts()).unwrap();
    let error = late.commit(model.counts()).unwrap_err();
    assert!(matches!(error, StoreError::QuotaExceeded { .. }), "{error}");
    assert_eq!(store.snapshots(client).unwrap().len(), 1);
    // An unchanged tree still fits.
    back_up(&store, client, &model);
    store.set_quota(client, Some(3 * SIZE as u64)).unwrap();
    let mut full = begin(&store, client);
    send(&mut full, &model).unwrap();
    assert!(matches!(full.commit(model.counts()), Err(StoreError::QuotaExceeded { .. })));
}

#[test]
fn a_record_keeps_its_quota_and_its_former_names_over_a_start() {
    let Fixture { store, client, folder } = fixture();
    store.set_quota(client, Some(7)).unwrap();
    for number in 0..12 {
        store.rename_client(client, &format!("name {number}").parse().unwrap()).unwrap();
    }
    let other = store.register(ClientId::random(), &"bob".parse().unwrap(), b"other", false).unwrap();
    let taken = store.rename_client(client, &"bob".parse().unwrap()).unwrap_err();
    assert!(matches!(taken, StoreError::NameTaken { .. }), "{taken}");
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let record = store.client_named(&"name 11".parse().unwrap()).unwrap();
    assert_eq!((record.id, record.quota, store.clients().len()), (client, Some(7), 2));
    let known = |name: &str| record.is_called(&name.parse().unwrap());
    assert!(known("name 11") && known("name 10") && known("name 3") && !known("name 2") && !known("bob"));
    assert!(store.client_named(&"ada".parse().unwrap()).is_none());
    assert_eq!(store.client(other.id).unwrap().name, other.name);
}

#[test]
fn a_reset_client_takes_one_new_key_and_keeps_its_snapshots() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let (head, _) = back_up(&store, client, &model);
    store.create_token(&"ada".parse().unwrap(), std::time::Duration::from_secs(60)).unwrap();
    assert!(store.renew_key(client, b"other").is_err(), "it has a key");
    store.reset_client(client).unwrap();
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    assert!(store.client(client).unwrap().is_reset());
    store.renew_key(client, b"new").unwrap();
    assert!(store.renew_key(client, b"other").is_err(), "it has a key again");
    assert_eq!(store.token(&"ada".parse().unwrap()).unwrap(), None);
    assert_eq!(store.client(client).unwrap().public_key, b"new");
    check_snapshot(&store, &head, &model);
}

#[test]
fn a_removal_that_stops_anywhere_is_finished_by_the_next_start_or_has_not_begun() {
    let mut stop = 0;
    loop {
        let Fixture { store, client, folder } = fixture();
        let model = Model::many(5);
        back_up(&store, client, &model);
        let mut left = begin(&store, client);
        send(&mut left, &model_of(2)).unwrap();
        drop(left);
        let bob = store.register(ClientId::random(), &"bob".parse().unwrap(), b"other", false).unwrap();
        let (kept, _) = back_up(&store, bob.id, &model);
        drop(store);
        let disk = Disk::real();
        drop(Store::open(folder.path(), disk.clone()).unwrap());
        let store = Store::open(folder.path(), Disk::stopping_after(disk.operations() + stop)).unwrap();
        let removed = store.remove_client(client).and_then(|record| store.remove_data(&record));
        drop(store);
        let store = Store::open(folder.path(), Disk::real()).unwrap();
        let ada = store.client(client).map(|client| client.name.to_string());
        let below = |name: &str| files_below(&folder.path().join(name));
        match &ada {
            Some(_) => assert_eq!(store.snapshots(client).unwrap().len(), 1, "stopped after {stop}"),
            None => assert_eq!(
                (below("snapshots"), below("incoming"), below("received_files"), below("ranges")),
                (2, 0, 5, 1),
                "stopped after {stop}"
            ),
        }
        assert!(removed.is_err() || ada.is_none());
        check_snapshot(&store, &kept, &model);
        assert_eq!(std::fs::read_dir(folder.path().join("clients")).unwrap().count(), 2 * store.clients().len());
        if removed.is_ok() {
            assert!(stop > 20, "every file is an operation");
            return;
        }
        stop += 1;
    }
}

/// The heads of a client, made as they would be after so many backups.
fn put_heads(store: &Store, client: ClientId, count: u64, model_head: &Head) {
    let folder = store.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    std::fs::create_dir_all(&folder).unwrap();
    let received = store.path().join("received_files").join(store.client(client).unwrap().folder.as_str());
    for sequence in 2..count + 2 {
        let id = SnapshotId::create(Timestamp { seconds: 1_700_000_000 + sequence as i64, nanoseconds: 0 });
        let head = Head { client, id, sequence, upload: UploadId::random(), ..model_head.clone() };
        std::fs::write(folder.join(format!("{id}.json")), head.encode()).unwrap();
        std::fs::create_dir_all(received.join(id.as_str())).unwrap();
    }
}

/// Sets a folder's time of change to when it can be believed.
fn settle(store: &Store, client: ClientId) {
    let folder = store.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    let time = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::open(folder).unwrap().set_modified(time).unwrap();
}

#[test]
fn the_sums_of_a_client_are_read_from_its_heads_only_when_they_changed() {
    let Fixture { store, client, folder } = fixture();
    let (head, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
    put_heads(&store, client, 3, &head);
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    settle(&store, client);
    let summary = store.summary(client).unwrap();
    assert_eq!((summary.snapshots, summary.stored_bytes), (4, 4 * head.totals.stored_bytes));
    assert_eq!(summary.last.as_ref().unwrap().files, Some(1));
    assert_eq!(summary.growth(head.committed), 4 * head.totals.stored_bytes);
    assert_eq!(summary.growth(Timestamp { seconds: head.committed.seconds + 31 * 86_400, nanoseconds: 0 }), 0);
    // Emptied in place: whoever read them again would see it.
    let snapshots = store.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    for item in std::fs::read_dir(&snapshots).unwrap() {
        std::fs::write(item.unwrap().path(), b"").unwrap();
    }
    assert_eq!(store.summary(client).unwrap(), summary);
    std::fs::write(snapshots.join("20260101T000000Z-0badc0de.json"), b"").unwrap();
    assert_eq!(store.summary(client).unwrap().damaged_snapshots, 5);
}

#[test]
fn a_commit_keeps_the_sums_so_that_no_list_reads_the_heads() {
    let Fixture { store, client, folder } = fixture();
    let (head, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let path = store.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    std::fs::write(path.join(format!("{}.json", head.id)), b"").unwrap();
    let summary = store.summary(client).unwrap();
    assert_eq!((summary.snapshots, summary.damaged_snapshots), (1, 0));
}

/// A copy of a store has other folders, and the same heads: the sums stay good. What was added or dropped shows.
#[test]
fn the_sums_of_a_copied_store_are_believed_by_the_names_of_its_heads() {
    let Fixture { store, client, folder } = fixture();
    let (head, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
    put_heads(&store, client, 3, &head);
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    settle(&store, client);
    let summary = store.summary(client).unwrap();
    let snapshots = |data: &Path| data.join("snapshots").join(store.client(client).unwrap().folder.as_str());
    let copied = |change: &dyn Fn(&Path)| {
        let copy = tempfile::tempdir().unwrap();
        super::prune::copy_tree(folder.path(), copy.path());
        // Emptied in place: whoever read them would see it.
        for item in std::fs::read_dir(snapshots(copy.path())).unwrap() {
            let path = item.unwrap().path();
            if path.extension().is_some_and(|end| end == "json") {
                std::fs::write(path, b"").unwrap();
            }
        }
        change(&snapshots(copy.path()));
        let store = Store::open(copy.path(), Disk::real()).unwrap();
        let [(record, found)] = &store.summaries()[..] else { panic!("one client") };
        assert_eq!(record.id, client);
        found.as_ref().unwrap().clone()
    };
    assert_eq!(copied(&|_| {}), summary);
    let id = "20260101T000000Z-0badc0de";
    let more = copied(&|folder| std::fs::write(folder.join(format!("{id}.json")), b"").unwrap());
    assert_eq!(more.damaged_snapshots, 5);
    let fewer = copied(&|folder| std::fs::remove_file(folder.join(format!("{}.json", head.id))).unwrap());
    assert_eq!(fewer.damaged_snapshots, 4, "three emptied ones, and an index without a head");
    let other = copied(&|folder| {
        std::fs::write(folder.join("dropped.json"), crate::storage::dropped::encode_record(77, 1)).unwrap();
    });
    assert_eq!((other.damaged_snapshots, other.stored_bytes), (4, 77));
}

#[test]
fn the_summaries_of_all_clients_come_by_name_however_many_read_them() {
    let Fixture { store, client, folder: _folder } = fixture();
    back_up(&store, client, &Model::with(&[("root/a", "one")]));
    for number in 0..60 {
        let name = format!("client {number}").parse().unwrap();
        store.register(store.fresh_client_id(&name), &name, b"key", false).unwrap();
    }
    let names: Vec<String> = store.summaries().iter().map(|(client, _)| client.name.to_string()).collect();
    let expected: Vec<String> = store.clients().iter().map(|client| client.name.to_string()).collect();
    assert_eq!((names.len(), &names), (61, &expected));
}

/// 1,000 clients with a snapshot for each day of a year. Run it alone: it measures time.
#[test]
#[ignore = "makes 365,000 snapshots"]
fn a_thousand_clients_are_listed_and_a_start_made_within_a_second() {
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let client = store.register(ClientId::random(), &"ada".parse().unwrap(), b"key", false).unwrap().id;
    let (head, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
    for number in 0..1_000 {
        let name = format!("client {number}").parse().unwrap();
        let client = store.register(store.fresh_client_id(&name), &name, b"key", false).unwrap().id;
        put_heads(&store, client, 365, &head);
        settle(&store, client);
    }
    drop(store);
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        eprintln!("{what}: {:?}", began.elapsed());
        began.elapsed()
    };
    let mut opened = None;
    let start = timed("a start", &mut || opened = Some(Store::open(folder.path(), Disk::real()).unwrap()));
    let store = opened.unwrap();
    let list = || store.summaries().into_iter().map(|(_, summary)| summary.unwrap().snapshots).sum::<u64>();
    timed("the first list", &mut || assert_eq!(list(), 365_001));
    let second = timed("a later list", &mut || assert_eq!(list(), 365_001));
    assert!(start < Duration::from_secs(1) && second < Duration::from_secs(1));
    drop(store);
    let copy = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    super::prune::copy_tree(folder.path(), copy.path());
    let store = Store::open(copy.path(), Disk::real()).unwrap();
    let list = || store.summaries().into_iter().map(|(_, summary)| summary.unwrap().snapshots).sum::<u64>();
    let copied = timed("the first list of a copy", &mut || assert_eq!(list(), 365_001));
    assert!(copied < Duration::from_secs(2));
}

fn keys(store: &Store, client: ClientId) -> (Vec<u8>, Option<Vec<u8>>) {
    let record = store.client(client).unwrap();
    (record.public_key.clone(), record.next_key.clone())
}

#[test]
fn a_next_key_waits_beside_the_present_one_until_it_is_used() {
    let Fixture { store, client, folder } = fixture();
    let (old, reopened) = (keys(&store, client).0, |store: Store| {
        drop(store);
        Store::open(folder.path(), Disk::real()).unwrap()
    });
    let file = folder.path().join("clients").join(format!("{client}.json"));
    let version =
        || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file).unwrap()).unwrap()["version"].clone();
    assert_eq!(version(), 1);
    store.begin_key_rotation(client, &old, b"lost").unwrap();
    store.begin_key_rotation(client, &old, b"new").unwrap();
    let store = reopened(store);
    assert_eq!((keys(&store, client), version()), ((old.clone(), Some(b"new".to_vec())), 2.into()));
    assert!(store.finish_key_rotation(client, b"lost").is_err());
    assert_eq!(store.finish_key_rotation(client, b"new").unwrap().public_key, b"new");
    let store = reopened(store);
    assert_eq!((keys(&store, client), version()), ((b"new".to_vec(), None), 1.into()));
    // A session of the old key is of no use any more.
    let error = store.begin_key_rotation(client, &old, b"thief's").unwrap_err();
    assert!(matches!(error, StoreError::NameTaken { .. }), "{error}");
    // A reset takes both.
    store.begin_key_rotation(client, b"new", b"newer").unwrap();
    store.reset_client(client).unwrap();
    assert_eq!(keys(&reopened(store), client), (Vec::new(), None));
}

#[test]
fn a_rotation_that_stops_anywhere_leaves_a_record_of_before_or_after_each_step() {
    let Fixture { store, client, folder } = fixture();
    let old = keys(&store, client).0;
    drop(store);
    let opening = {
        let disk = Disk::real();
        Store::open(folder.path(), disk.clone()).unwrap();
        disk.operations()
    };
    for stop in 0.. {
        let present = keys(&Store::open(folder.path(), Disk::real()).unwrap(), client).0;
        let next = format!("key {stop}").into_bytes();
        let store = Store::open(folder.path(), Disk::stopping_after(opening + stop)).unwrap();
        let begun = store.begin_key_rotation(client, &present, &next).is_ok();
        let finished = store.finish_key_rotation(client, &next).is_ok();
        drop(store);
        let (now, waiting) = keys(&Store::open(folder.path(), Disk::real()).unwrap(), client);
        match (begun, finished) {
            // What was not answered may have happened all the same.
            (false, _) => assert_eq!(now, present, "stopped after {stop}"),
            (true, false) => assert!(now == next || (now == present && waiting.as_ref() == Some(&next)), "{stop}"),
            (true, true) => assert_eq!((now, waiting), (next, None), "stopped after {stop}"),
        }
        if finished {
            assert!(stop >= 10 && present != old, "both steps were cut off at every operation: {stop}");
            return;
        }
    }
}
