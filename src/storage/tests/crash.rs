//! A disk that stops, or fails, at each operation in turn: nothing acknowledged is lost, nothing half is shown.

use super::*;

/// Two snapshots are made on a sound disk; the third is cut short after `operations` operations.
pub(super) struct Crash {
    pub(super) folder: tempfile::TempDir,
    pub(super) client: ClientId,
    pub(super) first: Arc<Head>,
    pub(super) before: Model,
    pub(super) after: Model,
}

fn crash_case(files: usize) -> Crash {
    let Fixture { store, client, folder } = fixture();
    let before = Model::many(files);
    let (first, _) = back_up(&store, client, &before);
    let mut after = before.clone();
    for n in 0..files {
        after.put(&format!("root/d{:02}/f{n:05}", n % 40), b"changed", 2);
    }
    Crash { folder, client, first, before, after }
}

/// The upload that is cut short.
fn run_until(crash: &Crash, upload: UploadId, disk: Disk) -> Result<Arc<Head>, StoreError> {
    let store = Store::open(crash.folder.path(), disk)?;
    match store.begin_upload(crash.client, request(upload), || {})? {
        Begun::AlreadyStored(head) => Ok(head),
        Begun::Open(mut open) => {
            send(&mut open, &crash.after)?;
            open.commit(crash.after.counts())
        }
    }
}

fn check_after_crash(crash: &Crash, upload: UploadId, acknowledged: bool, stop: u64) {
    let store = Store::open(crash.folder.path(), Disk::real()).unwrap();
    let heads = store.snapshots(crash.client).unwrap();
    assert_eq!(heads[0], crash.first, "stopped after {stop}");
    assert!(!acknowledged || heads.len() == 2, "an acknowledged snapshot is gone, stopped after {stop}");
    check_snapshot(&store, &heads[0], &crash.before);
    heads[1..].iter().for_each(|head| check_snapshot(&store, head, &crash.after));
    let folder =
        crash.folder.path().join("received_files").join(store.client(crash.client).unwrap().folder.as_str());
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), heads.len(), "stopped after {stop}");
    drop(store);
    // The client asks again, under the same upload.
    let head = run_until(crash, upload, Disk::real()).unwrap();
    let store = Store::open(crash.folder.path(), Disk::real()).unwrap();
    assert_eq!(store.snapshots(crash.client).unwrap().len(), 2, "stopped after {stop}");
    assert!(store.recovery().lines.is_empty(), "{:?}", store.recovery());
    check_snapshot(&store, &head, &crash.after);
    assert_eq!(files_below(&crash.folder.path().join("incoming")), 0, "stopped after {stop}");
}

/// How many operations come before the commit of the upload, and how many there are in all.
fn count_operations(crash: &Crash) -> (u64, u64) {
    let disk = Disk::real();
    let store = Store::open(crash.folder.path(), disk.clone()).unwrap();
    let mut upload = begin(&store, crash.client);
    send(&mut upload, &crash.after).unwrap();
    let before_commit = disk.operations();
    upload.commit(crash.after.counts()).unwrap();
    (before_commit, disk.operations())
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_shows_nothing_half() {
    let (_, all) = count_operations(&crash_case(3));
    let (before_commit, of_many) = count_operations(&crash_case(45));
    let small = (0..all).map(|stop| (3, stop));
    let many = (before_commit..of_many).map(|stop| (45, stop));
    let mut acknowledged = 0;
    for (files, stop) in small.chain(many) {
        let crash = crash_case(files);
        let upload = UploadId::random();
        let result = run_until(&crash, upload, Disk::stopping_after(stop));
        acknowledged += u32::from(result.is_ok());
        check_after_crash(&crash, upload, result.is_ok(), stop);
    }
    // The last operations only tidy up after the acknowledgement.
    assert!(acknowledged > 0);
}

#[test]
fn after_one_failed_operation_the_same_process_can_store_the_upload() {
    let (_, all) = count_operations(&crash_case(3));
    for failing in 0..all {
        let crash = crash_case(3);
        let upload = UploadId::random();
        let Ok(store) = Store::open(crash.folder.path(), Disk::failing_once_after(failing)) else { continue };
        let store_it = || match store.begin_upload(crash.client, request(upload), || {})? {
            Begun::AlreadyStored(head) => Ok(head),
            Begun::Open(mut open) => {
                send(&mut open, &crash.after)?;
                open.commit(crash.after.counts())
            }
        };
        let head = store_it().or_else(|_| store_it()).unwrap();
        check_snapshot(&store, &head, &crash.after);
        drop(store);
        let store = Store::open(crash.folder.path(), Disk::real()).unwrap();
        assert_eq!(store.snapshots(crash.client).unwrap().len(), 2, "operation {failing} failed");
        check_snapshot(&store, &head, &crash.after);
        assert_eq!(files_below(&crash.folder.path().join("incoming")), 0, "operation {failing} failed");
    }
}
