//! A commit that heals, cut short at each operation: what was whole stays whole, what was damaged becomes no worse, and
//! the next backup heals it.

use super::delta::{Random, back_up_deltas, send_deltas};
use super::prune::copy_tree;
use super::*;
use crate::storage::vault::VaultRun;

const MIB: usize = 1024 * 1024;

/// Snapshots with every kind of content, some of which are damaged and listed.
struct Harmed {
    original: tempfile::TempDir,
    client: ClientId,
    stored: Vec<(Arc<Head>, Model)>,
    /// What the next backup has: all that is damaged, and something new.
    next: Model,
    damaged: BTreeSet<(SnapshotId, EntryPath)>,
}

/// What cannot be read back whole, by snapshot and path.
fn damaged(store: &Store, heads: &[Arc<Head>]) -> BTreeSet<(SnapshotId, EntryPath)> {
    let mut damaged = BTreeSet::new();
    for head in heads {
        for stored in store.entries(head, &[]).unwrap().map(Result::unwrap) {
            if store.verify_content(head.client, &stored).is_err() {
                damaged.insert((head.id, stored.entry.path));
            }
        }
    }
    damaged
}

fn listed(store: &Store, client: ClientId) -> usize {
    store.state(client).unwrap().damage_list(&store.shared.layout).items().count()
}

fn flip(file: &Path, place: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[place] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn harmed() -> Harmed {
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(12);
    let mut model = Model::with(&[("root/a", "one"), ("root/b", "two"), ("root/c", "three"), ("root/z/d", "four")]);
    let mut bytes = random.bytes(MIB + 300_000);
    let mut stored = Vec::new();
    for change in 1..4u64 {
        model.put("root/large", &bytes, change);
        model.put("root/c", format!("version {change}").as_bytes(), change);
        stored.push((back_up_deltas(&store, client, &model).0, model.clone()));
        let at = change as usize * 200_000;
        bytes[at..at + 40_000].copy_from_slice(&random.bytes(40_000));
    }
    let (received, deltas) = (folder.path().join("received_files"), folder.path().join("deltas"));
    let client_folder = store.client(client).unwrap().folder.to_string();
    let first = received.join(&client_folder).join(stored[0].0.id.as_str()).join("root");
    flip(&first.join("a"), 1);
    std::fs::remove_file(first.join("b")).unwrap();
    flip(&first.join("large"), 900_000);
    flip(&deltas.join(&client_folder).join(stored[1].0.id.as_str()), 9_000);
    // One that the next backup does not have, so that it stays as it is.
    flip(&first.join("z/d"), 0);
    let mut next = model.clone();
    next.remove("root/z/d");
    next.put("root/new", b"new", 9);
    let heads: Vec<Arc<Head>> = stored.iter().map(|(head, _)| head.clone()).collect();
    store.verify_client(client, None, &mut VaultRun::default(), &mut |_| true).unwrap();
    let damaged = damaged(&store, &heads);
    // Four contents in each snapshot; the large one was brought three times.
    assert_eq!((damaged.len(), listed(&store, client)), (3 * 4, 3 + 3));
    drop(store);
    Harmed { original: folder, client, stored, next, damaged }
}

impl Harmed {
    fn back_up(&self, data: &Path, upload: UploadId, disk: Disk) -> Result<Arc<Head>, StoreError> {
        let store = Store::open(data, disk)?;
        match store.begin_upload(self.client, request(upload), || {})? {
            Begun::AlreadyStored(head) => Ok(head),
            Begun::Open(mut open) => {
                send_deltas(&mut open, &self.next)?;
                open.commit(self.next.counts())
            }
        }
    }

    fn fresh(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy_tree(self.original.path(), folder.path());
        folder
    }

    fn heads(&self) -> Vec<Arc<Head>> {
        self.stored.iter().map(|(head, _)| head.clone()).collect()
    }
}

/// Stops, or fails once, at every `step`th operation of the whole upload, and at more of those of the healing.
fn survives_crashes(step: u64, healing_step: u64) {
    let harmed = harmed();
    let (heads, data) = (harmed.heads(), harmed.fresh());
    let disk = Disk::recording();
    harmed.back_up(data.path(), UploadId::random(), disk.clone()).unwrap();
    let all = disk.operations();
    let healed_from = disk.take_record().iter().position(|one| one.name.ends_with(".json")).unwrap() as u64;
    println!("{all} operations, of which the healing has those from {healed_from} on");
    let mut partly = 0;
    let of_upload = (0..healed_from).step_by(step as usize);
    let stops = of_upload.chain((healed_from..=all).step_by(healing_step as usize));
    for (stop, fails_once) in stops.flat_map(|stop| [(stop, false), (stop, true)]) {
        let data = harmed.fresh();
        let failing = if fails_once { Disk::failing_once_after(stop) } else { Disk::stopping_after(stop) };
        let upload = UploadId::random();
        let _ = harmed.back_up(data.path(), upload, failing);
        let store = Store::open(data.path(), Disk::real()).unwrap();
        let left = damaged(&store, &heads);
        assert!(left.is_subset(&harmed.damaged), "operation {stop}: {left:?}");
        partly += u32::from(!left.is_empty() && left.len() < harmed.damaged.len());
        drop(store);
        // The client asks again under the same upload, and backs up once more.
        harmed.back_up(data.path(), upload, Disk::real()).unwrap();
        let head = harmed.back_up(data.path(), UploadId::random(), Disk::real()).unwrap();
        let store = Store::open(data.path(), Disk::real()).unwrap();
        check_snapshot(&store, &head, &harmed.next);
        let left = damaged(&store, &heads);
        assert!(left.iter().all(|(_, path)| path.name() == b"d"), "operation {stop}: {left:?}");
        assert_eq!(listed(&store, harmed.client), 1, "operation {stop}");
        assert_eq!(files_below(&data.path().join("incoming")), 0, "operation {stop}");
        let temporary = names_of(&data.path().join("damage"));
        assert!(temporary.iter().all(|name| !name.starts_with(".tmp-")), "operation {stop}: {temporary:?}");
    }
    assert!(partly > 0, "some stopped in the middle of healing");
}

#[test]
fn a_healing_commit_that_stops_or_fails_makes_nothing_worse_and_is_made_up_for() {
    survives_crashes(17, 3);
}

#[test]
#[ignore = "long: every operation of an upload"]
fn a_healing_commit_that_stops_or_fails_at_any_operation_makes_nothing_worse_and_is_made_up_for() {
    survives_crashes(1, 1);
}

fn names_of(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}

/// After a heal the ranges are shared again: nothing is asked for, and no file is looked at.
#[test]
fn after_a_heal_an_unchanged_backup_asks_for_nothing() {
    let harmed = harmed();
    let data = harmed.fresh();
    harmed.back_up(data.path(), UploadId::random(), Disk::real()).unwrap();
    let store = Store::open(data.path(), Disk::real()).unwrap();
    let mut upload = begin(&store, harmed.client);
    for bytes in harmed.next.ranges() {
        assert_eq!(upload.offer_range(hash(&bytes)).unwrap(), RangeAnswer::Held);
    }
}

/// What a list tells of, by path and snapshot.
fn names(store: &Store, client: ClientId) -> Vec<(String, SnapshotId)> {
    let list = store.state(client).unwrap().damage_list(&store.shared.layout);
    list.items().map(|item| (item.path.display().to_string(), item.content.snapshot())).collect()
}

#[test]
fn what_no_snapshot_needs_any_more_or_is_whole_again_leaves_the_list() {
    let harmed = harmed();
    let data = harmed.fresh();
    let ids: Vec<SnapshotId> = harmed.stored.iter().map(|(head, _)| head.id).collect();
    let store = Store::open(data.path(), Disk::real()).unwrap();
    store.drop_snapshots(harmed.client, &ids[..2]).unwrap();
    store.sweep(harmed.client).unwrap();
    let expected = [("root/a", ids[0]), ("root/b", ids[0]), ("root/large", ids[2]), ("root/z/d", ids[0])];
    let expected = expected.map(|(path, id)| (path.to_string(), id));
    assert_eq!(names(&store, harmed.client), expected);
    // Put right by hand: even a small sample looks at what was damaged.
    let client_folder = store.client(harmed.client).unwrap().folder.to_string();
    let first = data.path().join("received_files").join(&client_folder).join(ids[0].as_str()).join("root");
    for (name, text) in [("a", b"one"), ("b", b"two")] {
        let file = first.join(name);
        std::fs::write(&file, keyring_for(&file).unwrap().sealed(text.to_vec())).unwrap();
    }
    store.verify_client(harmed.client, Some(1), &mut VaultRun::default(), &mut |_| true).unwrap();
    assert_eq!(names(&store, harmed.client), expected[2..]);
    // A snapshot that cannot be read may need it.
    back_up_deltas(&store, harmed.client, &harmed.next);
    let index = store.shared.layout.index(&store.client(harmed.client).unwrap().folder, ids[2]);
    let whole = std::fs::read(&index).unwrap();
    flip(&index, 70);
    store.verify_client(harmed.client, Some(1), &mut VaultRun::default(), &mut |_| true).unwrap();
    assert!(names(&store, harmed.client).contains(&expected[3]));
    std::fs::write(&index, whole).unwrap();
    store.drop_snapshots(harmed.client, &ids[2..]).unwrap();
    store.verify_client(harmed.client, None, &mut VaultRun::default(), &mut |_| true).unwrap();
    assert_eq!(names(&store, harmed.client), []);
    let list = names_of(&data.path().join("damage")).into_iter().find(|name| name.ends_with(".list"));
    assert_eq!(list, None, "an empty list is no file");
}
