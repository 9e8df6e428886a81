//! The order and the number of flushes of a commit: speed cannot be bought by leaving them out.

use super::*;

/// The recorded operations since the last look, without writes, caches and what the names do not tell.
pub(super) fn record(disk: &Disk) -> Vec<String> {
    let told = |name: &str| match name.len() {
        64 => "<range>".to_string(),
        25 => "<snapshot>".to_string(),
        length if name.ends_with(".json") && length == 30 => "<snapshot>.json".to_string(),
        length if name.ends_with(".index") && length == 31 => "<snapshot>.index".to_string(),
        _ => name.to_string(),
    };
    let mut record = disk.take_record();
    record.retain(|operation| !operation.name.ends_with(".summary"));
    record.retain(|operation| {
        matches!(
            operation.kind,
            OperationKind::FlushFile | OperationKind::FlushFolder | OperationKind::FlushAll | OperationKind::Rename
        )
    });
    record.iter().map(|operation| format!("{:?} {}", operation.kind, told(&operation.name))).collect()
}

const PUT_IN_PLACE: [&str; 9] = [
    "Rename <snapshot>",
    "FlushFolder received",
    "FlushFolder upload",
    "Rename <range>",
    "FlushFolder ranges",
    "Rename <snapshot>.index",
    "FlushFolder snapshots",
    "Rename <snapshot>.json",
    "FlushFolder snapshots",
];

#[test]
fn a_small_commit_flushes_each_new_file_and_then_renames() {
    let Fixture { store, client, folder: _folder } = fixture_with(Disk::recording());
    let model = Model::with(&[("root/a", "one"), ("root/d/b", "two")]);
    let mut upload = begin(&store, client);
    send(&mut upload, &model).unwrap();
    store.disk().take_record();
    upload.commit(model.counts()).unwrap();
    let flushes = [
        "FlushFile a",
        "FlushFile b",
        "FlushFolder root/d",
        "FlushFolder root",
        "FlushFolder files",
        "FlushFile <range>",
        "FlushFile index",
        "FlushFile head",
        "FlushFile commit",
        "FlushFolder upload",
        "FlushFolder incoming",
    ];
    let expected: Vec<&str> = flushes.into_iter().chain(PUT_IN_PLACE).collect();
    assert_eq!(record(store.disk()), expected);
}

#[test]
fn a_commit_of_many_files_flushes_the_file_system_once_where_that_can_be_trusted() {
    let Fixture { mut store, client, folder: _folder } = fixture_with(Disk::recording());
    for can_flush_all in [true, false] {
        store.set_can_flush_all(can_flush_all);
        let mut model = Model::default();
        (0..40).for_each(|n| model.put(&format!("root/f{n:02}"), b"x", 1 + u64::from(can_flush_all)));
        let mut upload = begin(&store, client);
        send(&mut upload, &model).unwrap();
        store.disk().take_record();
        upload.commit(model.counts()).unwrap();
        let record = record(store.disk());
        match can_flush_all {
            true => {
                let expected: Vec<&str> = ["FlushAll "].into_iter().chain(PUT_IN_PLACE).collect();
                assert_eq!(record, expected);
            }
            // 40 contents, the folder `root` and the folder above it; range, index, head, intent; two names.
            false => assert_eq!(record.len(), 40 + 2 + 4 + 2 + PUT_IN_PLACE.len()),
        }
    }
}
