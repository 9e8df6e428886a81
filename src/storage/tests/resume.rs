//! An upload that goes on where an earlier session was cut off, whatever happened in between.

use super::*;

#[test]
fn an_abandoned_upload_leaves_nothing() {
    let Fixture { store, client, folder } = fixture();
    let mut upload = begin(&store, client);
    send(&mut upload, &Model::many(100)).unwrap();
    assert!(files_below(&folder.path().join("incoming")) > 100);
    upload.abandon();
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
    assert!(store.snapshots(client).unwrap().is_empty());
}

/// Opens an upload that is to go on, and sends what is lacking.
fn go_on(store: &Store, client: ClientId, upload: UploadId, model: &Model) -> (Box<Upload>, Sent) {
    let Begun::Open(mut open) = store.begin_upload(client, request(upload), || {}).unwrap() else { panic!() };
    let sent = send(&mut open, model).unwrap();
    (open, sent)
}

#[test]
fn a_dropped_upload_goes_on_where_it_was_in_the_same_process_and_after_a_restart() {
    for restart in [false, true] {
        let Fixture { mut store, client, folder } = fixture();
        let model = Model::many(3_000);
        let upload = UploadId::random();
        drop(go_on(&store, client, upload, &model));
        assert!(store.snapshots(client).unwrap().is_empty(), "nothing half is shown");
        if restart {
            drop(store);
            store = Store::open(folder.path(), Disk::real()).unwrap();
        }
        let (open, sent) = go_on(&store, client, upload, &model);
        assert_eq!(sent, Sent::default(), "restarted: {restart}");
        let head = open.commit(model.counts()).unwrap();
        check_snapshot(&store, &head, &model);
        assert_eq!(head.totals.new_bytes, head.totals.bytes);
        assert_eq!(files_below(&folder.path().join("incoming")), 0);
    }
}

#[test]
fn a_content_that_the_machine_lost_after_its_record_is_sent_again() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::many(50);
    let upload = UploadId::random();
    drop(go_on(&store, client, upload, &model));
    drop(store);
    let files = folder.path().join(format!("incoming/{}", upload_folder(folder.path()))).join("files");
    let (torn, gone) = (files.join("root/d01/f00001"), files.join("root/d02/f00002"));
    std::fs::write(torn, b"not what was recorded").unwrap();
    std::fs::remove_file(gone).unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let (open, sent) = go_on(&store, client, upload, &model);
    assert_eq!(sent.contents, 2);
    check_snapshot(&store, &open.commit(model.counts()).unwrap(), &model);
}

/// The one unfinished upload below `incoming/`: `<client>/<upload>`.
fn upload_folder(data: &Path) -> String {
    let only = |path: &Path| std::fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    let upload = only(&only(&data.join("incoming")));
    upload.strip_prefix(data.join("incoming")).unwrap().to_str().unwrap().to_string()
}

#[test]
fn what_changed_between_two_sessions_is_stored_as_it_is_now_and_nothing_else_is_kept() {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::many(200);
    let upload = UploadId::random();
    drop(go_on(&store, client, upload, &model));
    model.put("root/d01/f00001", b"changed", 9);
    model.remove("root/d02/f00002");
    model.put("root/new", b"new", 9);
    let (open, sent) = go_on(&store, client, upload, &model);
    assert_eq!(sent.contents, 2);
    let head = open.commit(model.counts()).unwrap();
    check_snapshot(&store, &head, &model);
    let received = folder.path().join("received_files");
    assert_eq!(files_below(&received), model.files.len(), "a removed file is no part of what was received");
}

#[test]
fn other_roots_make_another_upload_of_it() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::many(20);
    let upload = UploadId::random();
    drop(go_on(&store, client, upload, &model));
    let roots = vec![EntryPath::parse(b"root").unwrap(), EntryPath::parse(b"zoo").unwrap()];
    let other = UploadRequest { roots, ..request(upload) };
    let Begun::Open(mut open) = store.begin_upload(client, other, || {}).unwrap() else { panic!() };
    assert_eq!(send(&mut open, &model).unwrap().contents, 20);
}

#[test]
fn only_the_newest_few_unfinished_uploads_are_kept() {
    let Fixture { store, client, folder } = fixture();
    for _ in 0..8 {
        drop(go_on(&store, client, UploadId::random(), &Model::many(3)));
    }
    let incoming = folder.path().join("incoming");
    let clients = std::fs::read_dir(&incoming).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_dir(clients).unwrap().count() <= 5);
}
