//! Files that are put into the newest snapshot one by one.

use super::*;

fn put(store: &Store, client: ClientId, name: &str, bytes: &[u8]) -> Result<Arc<Head>, StoreError> {
    let mut put = store.put_file(client, path(name))?;
    put.begin_content()?;
    bytes.chunks(100_000).try_for_each(|piece| put.write(piece))?;
    assert_eq!(put.end_content()?, bytes.len() as u64);
    put.commit()
}

/// Compares names and bytes of a snapshot with what was put into it.
#[track_caller]
fn check(store: &Store, head: &Head, files: &BTreeMap<String, Vec<u8>>) {
    let mut found = BTreeMap::new();
    for stored in store.entries(head, &[]).unwrap().map(Result::unwrap) {
        store.verify_content(head.client, &stored).unwrap();
        let mut bytes = Vec::new();
        store.open_content(head.client, &stored).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!((stored.entry.size, stored.entry.mode), (bytes.len() as u64, 0o600));
        found.insert(stored.entry.path.display(), bytes);
    }
    assert!(found == *files, "{:?}, and not {:?}", found.keys(), files.keys());
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!((head.totals.files, head.totals.bytes), (files.len() as u64, bytes as u64));
    assert!(head.unauthenticated && head.roots.is_empty());
}

#[test]
fn each_file_makes_a_snapshot_of_all_that_came_so_far() {
    let Fixture { store, client, folder } = fixture();
    let mut files = BTreeMap::new();
    let large = vec![7; 3_000_000];
    let contents: [(&str, &[u8]); 6] =
        [("m", b"one"), ("a", b""), ("z", &large), ("m", b"changed"), (".renamed", b"x"), ("z", b"small now")];
    for (number, (name, bytes)) in contents.into_iter().enumerate() {
        let before = store.snapshots(client).unwrap().last().map(|head| head.id);
        let head = put(&store, client, name, bytes).unwrap();
        files.insert(name.to_string(), bytes.to_vec());
        check(&store, &head, &files);
        assert_eq!((head.sequence, head.parent), (number as u64 + 1, before));
        assert_eq!(head.totals.new_bytes, bytes.len() as u64);
    }
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    assert!(store.recovery().lines.is_empty(), "{:?}", store.recovery());
    check(&store, store.snapshots(client).unwrap().last().unwrap(), &files);
}

#[test]
fn a_file_that_comes_again_unchanged_adds_a_head_and_an_index_and_nothing_else() {
    let Fixture { store, client, folder } = fixture();
    for bytes in [&b"small"[..], &vec![3; 2_000_000]] {
        put(&store, client, "name", bytes).unwrap();
        let before = files_below(folder.path());
        let head = put(&store, client, "name", bytes).unwrap();
        assert_eq!(files_below(folder.path()), before + 2);
        assert_eq!(head.totals.new_bytes, 0);
        check(&store, &head, &BTreeMap::from([("name".to_string(), bytes.to_vec())]));
    }
}

#[test]
fn of_many_ranges_one_is_read_and_written() {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::default();
    (0..20_000).for_each(|n| model.put(&format!("root/f{n:05}"), b"", 1));
    let (first, _) = back_up(&store, client, &model);
    let ranges = folder.path().join("ranges").join(store.client(client).unwrap().folder.as_str());
    let before = files_below(&ranges);
    assert!(before > 10);
    // In the first range, between, and behind the last.
    for name in ["a", "root/f10000x", "z"] {
        let written = files_below(&ranges);
        put(&store, client, name, b"new").unwrap();
        assert!(files_below(&ranges) <= written + 2);
    }
    let head = put(&store, client, "root/f00017", b"changed").unwrap();
    let stored: Vec<StoredEntry> = store.entries(&head, &[]).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored.len() as u64, first.totals.entries + 3);
    assert!(stored.is_sorted_by(|left, right| left.entry.path < right.entry.path));
    let changed: Vec<String> =
        stored.iter().filter(|stored| stored.entry.size > 0).map(|stored| stored.entry.path.display()).collect();
    assert_eq!(changed, ["a", "root/f00017", "root/f10000x", "z"]);
}

#[test]
fn ranges_are_cut_where_there_are_many_files() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::default();
    (0..1_500).for_each(|n| model.put(&format!("root/{n:05}"), b"", 1));
    back_up(&store, client, &model);
    // Into one and the same range, until it is cut.
    let mut head = put(&store, client, "root/x", b"").unwrap();
    for n in 0..40 {
        head = put(&store, client, &format!("root/x{}-{n}", "long".repeat(50)), b"").unwrap();
    }
    let stored: Vec<StoredEntry> = store.entries(&head, &[]).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored.len(), 1_501 + 41);
    assert!(stored.is_sorted_by(|left, right| left.entry.path < right.entry.path));
}

#[test]
fn of_two_files_at_the_same_time_neither_is_lost() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut open: Vec<PutFile> = ["a", "b"].map(|name| store.put_file(client, path(name)).unwrap()).into();
    for put in &mut open {
        put.begin_content().unwrap();
        put.write(b"x").unwrap();
        put.end_content().unwrap();
    }
    let heads: Vec<Arc<Head>> = open.into_iter().map(|put| put.commit().unwrap()).collect();
    let files = ["a", "b"].map(|name| (name.to_string(), b"x".to_vec()));
    check(&store, &heads[1], &BTreeMap::from(files));
}

#[test]
fn a_content_can_be_begun_again_and_what_is_dropped_leaves_nothing() {
    let Fixture { store, client, folder } = fixture();
    let mut put = store.put_file(client, path("a")).unwrap();
    put.begin_content().unwrap();
    put.write(&vec![1; 2_000_000]).unwrap();
    put.begin_content().unwrap();
    put.write(b"right").unwrap();
    put.end_content().unwrap();
    put.begin_content().unwrap();
    put.spool().unwrap().append(b"waits").unwrap();
    put.write(b"right again").unwrap();
    put.end_content().unwrap();
    let head = put.commit().unwrap();
    check(&store, &head, &BTreeMap::from([("a".to_string(), b"right again".to_vec())]));
    assert_eq!(head.totals.new_bytes, 11);
    let mut put = store.put_file(client, path("b")).unwrap();
    out_of_place(put.write(b"before it is begun"));
    put.begin_content().unwrap();
    put.write(b"never confirmed").unwrap();
    drop(put);
    out_of_place(store.put_file(client, path("b")).unwrap().commit());
    assert_eq!(
        std::fs::read_dir(folder.path().join("incoming/").join(store.client(client).unwrap().folder.as_str()))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(store.snapshots(client).unwrap().len(), 1);
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let Fixture { store, client, folder: _folder } = fixture();
    back_up(&store, client, &Model::with(&[("root/a", "one")]));
    out_of_place(put(&store, client, "root", b"x"));
    assert_eq!(store.snapshots(client).unwrap().len(), 1);
}

#[test]
fn a_damaged_index_is_passed_over_and_a_damaged_range_costs_its_own_files() {
    let Fixture { store, client, folder } = fixture();
    put(&store, client, "a", b"one").unwrap();
    let second = put(&store, client, "b", b"two").unwrap();
    let name = store.client(client).unwrap().folder.as_str().to_string();
    let index = folder.path().join(format!("snapshots/{name}/{}.index", second.id));
    std::fs::write(&index, b"damaged").unwrap();
    let third = put(&store, client, "c", b"three").unwrap();
    let files = |names: &[(&str, &str)]| {
        names.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect()
    };
    check(&store, &third, &files(&[("a", "one"), ("c", "three")]));
    for item in std::fs::read_dir(folder.path().join(format!("ranges/{name}"))).unwrap() {
        std::fs::write(item.unwrap().path(), b"damaged").unwrap();
    }
    let fourth = put(&store, client, "d", b"four").unwrap();
    check(&store, &fourth, &files(&[("d", "four")]));
}

#[test]
fn a_crash_at_any_operation_keeps_the_old_snapshot_or_makes_the_new_one() {
    let mut acknowledged = 0;
    for stop in 0.. {
        let Fixture { store, client, folder } = fixture();
        put(&store, client, "a", b"one").unwrap();
        drop(store);
        let disk = Disk::stopping_after(stop);
        let result = Store::open(folder.path(), disk.clone())
            .and_then(|store| put(&store, client, "b", &vec![2; 1_100_000]));
        let is_over = disk.operations() < stop;
        let store = Store::open(folder.path(), Disk::real()).unwrap();
        let heads = store.snapshots(client).unwrap();
        assert!(result.is_err() || heads.len() == 2, "acknowledged and gone, stopped after {stop}");
        acknowledged += u32::from(result.is_ok());
        let mut files = BTreeMap::from([("a".to_string(), b"one".to_vec())]);
        check(&store, &heads[0], &files);
        files.insert("b".to_string(), vec![2; 1_100_000]);
        heads[1..].iter().for_each(|head| check(&store, head, &files));
        assert_eq!(files_below(&folder.path().join("incoming")), 0, "stopped after {stop}");
        if is_over {
            break;
        }
    }
    assert!(acknowledged > 0);
}

#[test]
fn a_client_that_registers_natively_is_closed_to_the_legacy_dialect_for_good() {
    let Fixture { store, folder, .. } = fixture();
    let (id, name) = (ClientId::random(), "bob".parse().unwrap());
    store.open_to_legacy(&name, std::time::Duration::from_secs(60)).unwrap();
    assert!(store.register_legacy(id, &name, b"key").unwrap().legacy);
    assert!(!store.is_open_to_legacy(&name).unwrap(), "an opening is good once");
    assert!(matches!(store.register_legacy(id, &name, b"key"), Err(StoreError::NameTaken { .. })));
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    assert!(store.client(id).unwrap().legacy);
    store.close_to_legacy(id).unwrap();
    assert!(!store.client(id).unwrap().legacy);
    drop(store);
    assert!(!Store::open(folder.path(), Disk::real()).unwrap().client(id).unwrap().legacy);
}
