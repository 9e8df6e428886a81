//! A disk that stops at each operation in turn.

use std::fs;

use super::*;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Runs `work` on copies of the folder, with a disk that stops after each number of operations in turn (of `step`),
/// until it gets through; then `check` sees whether it did, and the folder.
fn stop_everywhere(
    step: usize,
    folder: &Path,
    work: &dyn Fn(&Path, Disk) -> Result<(), StoreError>,
    check: &dyn Fn(&Path, bool, u64),
) {
    for stop in (0..).step_by(step) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder, copy.path());
        let disk = Disk::stopping_after(stop);
        let result = work(copy.path(), disk.clone());
        check(copy.path(), result.is_ok(), stop);
        if disk.operations() <= stop {
            assert!(result.is_ok() && stop > 10);
            return;
        }
    }
}

fn open(data: &Path) -> Store {
    Store::open(data, Disk::real()).unwrap()
}

const QUICK_STEP: usize = 7;

#[test]
fn an_upload_that_stops_anywhere_loses_nothing_acknowledged() {
    upload_that_stops(QUICK_STEP);
}

#[test]
fn what_stops_while_it_tidies_keeps_what_is_needed_and_is_done_again() {
    tidying_that_stops(QUICK_STEP);
}

#[test]
fn an_index_that_stops_while_it_is_made_is_made_again() {
    making_that_stops(QUICK_STEP);
}

#[test]
#[ignore = "takes a minute"]
fn everything_that_stops_at_any_operation() {
    upload_that_stops(1);
    tidying_that_stops(1);
    making_that_stops(1);
}

fn upload_that_stops(step: usize) {
    let Fixture { folder, store, client } = fixture();
    let first = back_up(&store, client, &tree(0..3));
    drop(store);
    let upload = UploadId::random();
    let after = tree(2..5);
    stop_everywhere(
        step,
        folder.path(),
        &|data, disk| try_back_up(&Store::open(data, disk)?, client, upload, &after).map(drop),
        &|data, is_acknowledged, stop| {
            let store = open(data);
            let heads = store.snapshots(client).unwrap();
            assert!(!is_acknowledged || heads.len() == 2, "stopped after {stop}");
            check_snapshot(&store, &first, &tree(0..3));
            heads[1..].iter().for_each(|head| check_snapshot(&store, head, &after));
            // The client asks again, under the same upload.
            let head = try_back_up(&store, client, upload, &after).unwrap();
            store.tidy_vault(vault()).unwrap();
            assert_eq!(store.snapshots(client).unwrap().len(), 2, "stopped after {stop}");
            check_snapshot(&store, &head, &after);
            check_snapshot(&store, &first, &tree(0..3));
            all_space_comes_back(&store, client, data, stop);
        },
    );
}

/// With the last snapshot, everything goes.
fn all_space_comes_back(store: &Store, client: ClientId, data: &Path, stop: u64) {
    let ids: Vec<SnapshotId> = store.snapshots(client).unwrap().iter().map(|head| head.id).collect();
    store.drop_snapshots(client, &ids).unwrap();
    store.sweep(client).unwrap();
    let tidied = store.tidy_vault(vault()).unwrap();
    assert_eq!(packs_of(&vault_path(data)).len(), 0, "stopped after {stop}: {tidied:?}");
}

fn tidying_that_stops(step: usize) {
    let Fixture { folder, store, client } = fixture();
    let first = back_up(&store, client, &tree(0..12));
    let kept: Tree = tree(0..12).into_iter().step_by(5).collect();
    let second = back_up(&store, client, &kept);
    store.drop_snapshots(client, &[first.id]).unwrap();
    drop(store);
    let before = pack_bytes(&vault_path(folder.path()));
    stop_everywhere(
        step,
        folder.path(),
        &|data, disk| Store::open(data, disk)?.tidy_vault(vault()).map(drop),
        &|data, _, stop| {
            let store = open(data);
            check_snapshot(&store, &second, &kept);
            store.tidy_vault(vault()).unwrap();
            check_snapshot(&store, &second, &kept);
            let after = pack_bytes(&vault_path(data));
            assert!(after < before / 2, "stopped after {stop}: {after} of {before}");
            all_space_comes_back(&store, client, data, stop);
        },
    );
}

fn making_that_stops(step: usize) {
    let Fixture { folder, store, client } = fixture();
    let first = back_up(&store, client, &tree(0..4));
    let second = back_up(&store, client, &tree(2..6));
    drop(store);
    fs::remove_file(vault_path(folder.path()).join(INDEX)).unwrap();
    stop_everywhere(
        step,
        folder.path(),
        &|data, disk| Store::open(data, disk)?.read_vault(vault(), &READ_TOKEN).map(drop),
        &|data, _, stop| {
            let store = open(data);
            check_snapshot(&store, &first, &tree(0..4));
            check_snapshot(&store, &second, &tree(2..6));
            all_space_comes_back(&store, client, data, stop);
        },
    );
}

#[test]
fn after_one_failed_operation_the_same_process_can_store_the_upload() {
    let Fixture { folder, store, client } = fixture();
    back_up(&store, client, &tree(0..3));
    drop(store);
    for failing in (0..).step_by(3) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let disk = Disk::failing_once_after(failing);
        let Ok(store) = Store::open(copy.path(), disk.clone()) else { continue };
        let upload = UploadId::random();
        let store_it = || try_back_up(&store, client, upload, &tree(2..5));
        let head = store_it().or_else(|_| store_it()).or_else(|_| store_it()).unwrap();
        let is_through = disk.operations() <= failing;
        drop(store);
        check_snapshot(&open(copy.path()), &head, &tree(2..5));
        if is_through {
            break;
        }
    }
}
