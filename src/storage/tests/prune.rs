//! Snapshots dropped and swept: every kept one reads back exactly, and nothing lies in the store that none of them
//! needs.

use std::time::Duration;

use super::delta::{Random, back_up_deltas, edit};
use super::*;
use crate::base::ids::{SnapshotId, hex};
use crate::storage::blocks_format::Source;
use crate::storage::blocks_reader::{ClientFiles, ContentMap};
use crate::storage::comparison::read_index;
use crate::storage::content::plain_segment;
use crate::storage::dropped::read_dropped;
use crate::storage::layout::{dropped_name, index_name};

/// The files below a folder, as paths from there.
fn names_below(folder: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    all_files(folder, &mut files);
    files.iter().map(|file| file.strip_prefix(folder).unwrap().to_str().unwrap().to_string()).collect()
}

/// Everything that is to lie in the store for a client's snapshots, and nothing else; folders of swept things are gone.
fn check_nothing_superfluous(store: &Store, client: ClientId, data: &Path) {
    let record = store.client(client).unwrap();
    let layout = &store.shared.layout;
    let files = ClientFiles::new(layout, &record.folder);
    let (mut received, mut deltas, mut ranges, mut snapshots) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut origins = BTreeSet::new();
    for head in store.snapshots(client).unwrap() {
        snapshots.extend([format!("{}.json", head.id), format!("{}.index", head.id)]);
        ranges.extend(read_index(layout, &record.folder, &head).unwrap().iter().map(|record| hex(&record.file)));
        for stored in store.entries(&head, &[]).unwrap().map(Result::unwrap) {
            let Some(content) = &stored.content else { continue };
            let own = &stored.entry.path;
            origins.insert(content.snapshot());
            if content.blocks.is_some() {
                ranges.insert(format!("{}.blocks", content.snapshot()));
            }
            match &content.location {
                Location::OwnPath { snapshot } => drop(received.insert(format!("{snapshot}/{}", own.display()))),
                Location::StoredPath { snapshot, path } => {
                    received.insert(format!("{snapshot}/{}", path.display()));
                }
                Location::Mapped { snapshot } => {
                    let map = ContentMap::open(&files, *snapshot, content.blocks.unwrap()).unwrap();
                    for source in map.all_sources() {
                        origins.insert(source.snapshot());
                        ranges.insert(format!("{}.blocks", source.snapshot()));
                        match source {
                            Source::Delta { snapshot } => drop(deltas.insert(snapshot.to_string())),
                            Source::Plain { snapshot, path } => {
                                let path = path.as_ref().unwrap_or(own);
                                received.insert(format!("{snapshot}/{}", path.display()));
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(names_below(&layout.received(&record.folder)), received);
    assert_eq!(names_below(&layout.deltas(&record.folder)), deltas);
    assert_eq!(names_below(&layout.ranges(&record.folder)), ranges);
    let kept: BTreeSet<SnapshotId> = store.snapshots(client).unwrap().iter().map(|head| head.id).collect();
    // A dropped head is there where something of its snapshot is left, and the newest until a newer snapshot is.
    snapshots.extend(origins.difference(&kept).map(|id| format!("{id}.dropped")));
    let mut found = names_below(&layout.snapshots(&record.folder));
    found.retain(|name| name != "dropped.json");
    let more: Vec<String> = found.difference(&snapshots).cloned().collect();
    let newest = store.snapshots(client).unwrap().last().map_or(0, |head| head.sequence);
    for name in more {
        let id: SnapshotId = name.strip_suffix(".dropped").expect("nothing else is left").parse().unwrap();
        let head = read_dropped(&layout.snapshots(&record.folder), id).unwrap().unwrap();
        assert!(head.sequence > newest, "{name} explains nothing");
        found.remove(&name);
    }
    assert_eq!(found, snapshots);
    for item in std::fs::read_dir(layout.received(&record.folder)).unwrap() {
        let id: SnapshotId = item.unwrap().file_name().to_str().unwrap().parse().unwrap();
        assert!(kept.contains(&id) || origins.contains(&id), "a folder of {id} is left");
    }
    check_no_empty_folders(&data.join("received_files"), 2);
}

fn check_no_empty_folders(folder: &Path, spared: usize) {
    let mut items = 0;
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        items += 1;
        if path.is_dir() {
            check_no_empty_folders(&path, spared.saturating_sub(1));
        }
    }
    assert!(items > 0 || spared > 0, "{} is empty", folder.display());
}

/// A tree that changes in every way, small files and large ones, and all its states.
struct History {
    random: Random,
    model: Model,
    steps: u64,
    stored: Vec<(Arc<Head>, Model)>,
}

impl History {
    fn new(seed: u64, files: usize) -> History {
        let mut random = Random(seed);
        let mut model = Model::many(files);
        model.put("root/large", &random.bytes(1_300_000), 1);
        model.put(&format!("root/{}", "n".repeat(300)), &random.bytes(1_100_000), 1);
        History { random, model, steps: 0, stored: Vec::new() }
    }

    fn step(&mut self) {
        self.steps += 1;
        let change = 10 + self.steps;
        let names: Vec<EntryPath> = self.model.files.keys().cloned().collect();
        for _ in 0..self.random.below(5) {
            let name = &names[self.random.below(names.len() as u64) as usize];
            let Some((mut bytes, _)) = self.model.files.remove(name) else { continue };
            match self.random.below(6) {
                0 => continue,
                _ if bytes.len() > 30_000 => edit(&mut bytes, &mut self.random),
                _ => bytes = format!("{}", self.random.next()).into_bytes(),
            }
            self.model.files.insert(name.clone(), (bytes, change));
        }
        if self.random.below(3) == 0 {
            let fresh = format!("root/new{}/f", self.random.below(20));
            self.model.put(&fresh, fresh.as_bytes(), change);
        }
        if let Some((bytes, number)) = self.model.files.get_mut(&path("root/large"))
            && !bytes.is_empty()
        {
            edit(bytes, &mut self.random);
            *number = change;
        }
    }

    fn back_up(&mut self, store: &Store, client: ClientId) {
        self.step();
        let (head, _) = back_up_deltas(store, client, &self.model);
        self.stored.push((head, self.model.clone()));
    }

    fn choose(&mut self, count: usize) -> Vec<SnapshotId> {
        let mut ids = Vec::new();
        for _ in 0..count.min(self.stored.len() - 1) {
            let place = self.random.below(self.stored.len() as u64) as usize;
            ids.push(self.stored.remove(place).0.id);
        }
        ids
    }

    /// Drops some, and gives what the sweep was foreseen to free.
    fn drop_some(&mut self, store: &Store, client: ClientId, count: usize) -> Swept {
        let ids = self.choose(count);
        let foreseen = store.would_free(client, &ids).unwrap();
        let drops = store.drop_snapshots(client, &ids).unwrap();
        assert_eq!((drops.dropped.len(), drops.kept.len()), (ids.len(), 0));
        foreseen
    }

    fn check(&self, store: &Store, client: ClientId) {
        let heads = store.snapshots(client).unwrap();
        let stored: Vec<_> = self.stored.iter().map(|(head, _)| head.clone()).collect();
        assert_eq!(heads, stored);
        self.stored.iter().for_each(|(head, model)| check_snapshot(store, head, model));
    }
}

#[test]
fn after_any_drops_the_others_read_back_and_nothing_superfluous_is_left() {
    for seed in 1..=8 {
        println!("seed {seed}");
        let Fixture { mut store, client, folder } = fixture();
        store.set_can_flush_all(seed % 2 == 0);
        let mut history = History::new(seed, 60);
        for round in 0..5 {
            for _ in 0..1 + history.random.below(5) {
                history.back_up(&store, client);
            }
            let count = history.random.below(4) as usize;
            let foreseen = history.drop_some(&store, client, count);
            history.check(&store, client);
            assert_eq!(store.sweep(client).unwrap(), foreseen);
            history.check(&store, client);
            check_nothing_superfluous(&store, client, folder.path());
            assert_eq!(store.sweep(client).unwrap(), Swept::default());
            if round == 2 {
                drop(store);
                store = Store::open(folder.path(), Disk::real()).unwrap();
                assert!(store.recovery().lines.is_empty(), "{:?}", store.recovery());
                history.check(&store, client);
            }
        }
    }
}

#[test]
fn a_range_that_a_kept_snapshot_shares_stays() {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::many(3_000);
    let (first, _) = back_up(&store, client, &model);
    model.put("root/d01/f00001", b"changed", 2);
    let (second, _) = back_up(&store, client, &model);
    let ranges =
        |head| read_index(&store.shared.layout, &store.client(client).unwrap().folder, head).unwrap().len();
    assert!(ranges(&first) > 2, "some are shared");
    store.drop_snapshots(client, &[first.id]).unwrap();
    assert_eq!(store.sweep(client).unwrap().ranges, 1);
    check_snapshot(&store, &second, &model);
    check_nothing_superfluous(&store, client, folder.path());
}

/// What is on the disk of a data folder, but for what differs between two runs.
fn state_of(data: &Path) -> BTreeSet<String> {
    let mut names = names_below(data);
    names.retain(|name| name != "lock");
    names
}

/// Some snapshots, three of which are to go; what should be left afterwards.
struct Case {
    folder: tempfile::TempDir,
    client: ClientId,
    history: History,
    going: Vec<SnapshotId>,
}

fn case(can_flush_all: bool) -> Case {
    let Fixture { mut store, client, folder } = fixture();
    store.set_can_flush_all(can_flush_all);
    let mut history = History::new(3, 8);
    (0..5).for_each(|_| history.back_up(&store, client));
    let going = history.choose(3);
    Case { folder, client, history, going }
}

fn prune(case: &Case, disk: Disk, can_flush_all: bool) -> Result<Swept, StoreError> {
    let mut store = Store::open(case.folder.path(), disk)?;
    store.set_can_flush_all(can_flush_all);
    store.drop_snapshots(case.client, &case.going)?;
    store.sweep(case.client)
}

/// Copies a folder's content, holes as holes. (No other program does it: its fork would hold other tests' locks.)
pub(super) fn copy_tree(from: &Path, to: &Path) {
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        match item.path().is_dir() {
            true => {
                std::fs::create_dir(&target).unwrap();
                copy_tree(&item.path(), &target);
            }
            false => copy_file(&item.path(), &target),
        }
    }
}

fn copy_file(from: &Path, to: &Path) {
    use std::os::unix::fs::FileExt;
    let (source, target) = (std::fs::File::open(from).unwrap(), std::fs::File::create(to).unwrap());
    let length = source.metadata().unwrap().len();
    target.set_len(length).unwrap();
    let mut position = 0;
    while position < length {
        let segment = plain_segment(&source, position, length).unwrap();
        if !segment.is_hole {
            let mut bytes = vec![0; segment.bytes as usize];
            source.read_exact_at(&mut bytes, position).unwrap();
            target.write_all_at(&bytes, position).unwrap();
        }
        position += segment.bytes;
    }
}

#[test]
fn a_prune_that_stops_or_fails_at_any_operation_is_finished_by_the_next_one() {
    for can_flush_all in [false, true] {
        let mut case = case(can_flush_all);
        let original = std::mem::replace(&mut case.folder, tempfile::tempdir().unwrap());
        let fresh = |case: &mut Case| {
            case.folder = tempfile::tempdir().unwrap();
            copy_tree(original.path(), case.folder.path());
        };
        fresh(&mut case);
        let disk = Disk::real();
        let swept = prune(&case, disk.clone(), can_flush_all).unwrap();
        assert!(swept.contents > 0 && swept.ranges > 0 && swept.snapshots == 3, "{swept:?}");
        println!("{} operations, {swept:?}", disk.operations());
        let (all, expected) = (disk.operations(), state_of(case.folder.path()));
        let left = left_bytes(case.folder.path(), case.client);
        for (stop, fails_once) in (0..all).map(|stop| (stop, can_flush_all)) {
            fresh(&mut case);
            let failing = if fails_once { Disk::failing_once_after(stop) } else { Disk::stopping_after(stop) };
            let done = prune(&case, failing, can_flush_all).is_ok();
            if done && !fails_once {
                // Only the sums that are kept beside were still to be written.
                let mut names = state_of(case.folder.path());
                names.retain(|name| !name.starts_with("clients/.tmp-"));
                names.insert(format!("clients/{}.summary", case.client));
                assert_eq!(names, expected, "operation {stop}");
            }
            let store = Store::open(case.folder.path(), Disk::real()).unwrap();
            let heads = store.snapshots(case.client).unwrap();
            assert!(store.damaged_heads(case.client).unwrap().is_empty(), "operation {stop}");
            assert!(store.recovery().lines.is_empty(), "operation {stop}: {:?}", store.recovery());
            for (head, model) in &case.history.stored {
                assert!(heads.contains(head), "operation {stop}");
                check_snapshot(&store, head, model);
            }
            for head in heads.iter().filter(|head| case.going.contains(&head.id)) {
                assert!(store.entries(head, &[]).unwrap().all(|entry| entry.is_ok()), "operation {stop}");
            }
            drop(store);
            prune(&case, Disk::real(), can_flush_all).unwrap();
            assert_eq!(state_of(case.folder.path()), expected, "operation {stop}");
            let counted = left_bytes(case.folder.path(), case.client);
            assert!(counted.abs_diff(left) < 100_000, "operation {stop}: {counted} bytes, {left} expected");
        }
        let store = Store::open(case.folder.path(), Disk::real()).unwrap();
        check_nothing_superfluous(&store, case.client, case.folder.path());
    }
}

/// What the record says is left of dropped snapshots.
fn left_bytes(data: &Path, client: ClientId) -> u64 {
    let store = Store::open(data, Disk::real()).unwrap();
    let kept: u64 = store.snapshots(client).unwrap().iter().map(|head| head.totals.stored_bytes).sum();
    store.summary(client).unwrap().stored_bytes - kept
}

fn ids(drops: &Drops) -> Vec<SnapshotId> {
    drops.dropped.iter().map(|head| head.id).collect()
}

#[test]
fn what_is_read_or_compared_with_is_not_dropped() {
    let Fixture { mut store, client, folder } = fixture();
    let mut model = Model::many(200);
    let (first, _) = back_up(&store, client, &model);
    let before = model.clone();
    let entries = store.entries(&first, &[]).unwrap();
    let kept = |store: &Store| store.drop_snapshots(client, &[first.id]).unwrap().kept;
    assert_eq!(kept(&store), [(first.id, InUse::Busy)]);
    drop(entries);
    model.put("root/d01/f00001", b"changed", 2);
    let upload = UploadId::random();
    let Begun::Open(mut open) = store.begin_upload(client, request(upload), || {}).unwrap() else { panic!() };
    send(&mut open, &model).unwrap();
    assert_eq!(kept(&store), [(first.id, InUse::Busy)]);
    drop(open);
    assert_eq!(kept(&store), [(first.id, InUse::Awaited)]);
    drop(store);
    store = Store::open(folder.path(), Disk::real()).unwrap();
    assert_eq!(kept(&store), [(first.id, InUse::Awaited)]);
    assert!(store.hold(client, first.id, true).unwrap());
    // Another backup meanwhile is newer, and yet the upload goes on with the snapshot it began with.
    let (other, _) = back_up(&store, client, &before);
    let Begun::Open(mut open) = store.begin_upload(client, request(upload), || {}).unwrap() else { panic!() };
    assert_eq!(open.base().unwrap().id, first.id);
    assert_eq!(send(&mut open, &model).unwrap().contents, 0);
    let head = open.commit(model.counts()).unwrap();
    assert_eq!(head.parent, Some(first.id));
    assert_eq!(kept(&store), [(first.id, InUse::Held)]);
    drop(store);
    store = Store::open(folder.path(), Disk::real()).unwrap();
    assert_eq!(store.held_snapshots(client).unwrap(), BTreeSet::from([first.id]));
    assert!(store.hold(client, first.id, false).unwrap());
    assert_eq!(ids(&store.drop_snapshots(client, &[first.id, other.id]).unwrap()), [first.id, other.id]);
    assert!(matches!(store.entries(&first, &[]), Err(StoreError::Dropped { .. })));
    store.sweep(client).unwrap();
    check_snapshot(&store, &head, &model);
    check_nothing_superfluous(&store, client, folder.path());
}

#[test]
fn no_sequence_is_given_out_twice_and_the_last_snapshot_leaves_little() {
    let Fixture { mut store, client, folder } = fixture();
    let model = Model::many(50);
    let (first, _) = back_up(&store, client, &model);
    let (second, _) = back_up(&store, client, &model);
    store.drop_snapshots(client, &[first.id, second.id]).unwrap();
    store.sweep(client).unwrap();
    assert_eq!(store.summary(client).unwrap().stored_bytes, 0);
    drop(store);
    store = Store::open(folder.path(), Disk::real()).unwrap();
    assert!(store.recovery().lines.is_empty());
    let (third, sent) = back_up(&store, client, &model);
    assert_eq!((third.sequence, third.parent, sent.contents), (3, None, 50));
    store.sweep(client).unwrap();
    let snapshots = store.shared.layout.snapshots(&store.client(client).unwrap().folder);
    assert_eq!(names_below(&snapshots).len(), 3, "a head, an index, and how much is left");
}

#[test]
fn an_idle_sweep_and_a_start_do_not_read_what_was_dropped_and_swept() {
    let Fixture { mut store, client, folder } = fixture();
    let mut model = Model::many(50);
    let mut ids = Vec::new();
    for number in 0..20u64 {
        model.put(&format!("root/new{number}"), &[7; 100], number);
        ids.push(back_up(&store, client, &model).0.id);
    }
    store.drop_snapshots(client, &ids[..19]).unwrap();
    store.sweep(client).unwrap();
    let snapshots = store.shared.layout.snapshots(&store.client(client).unwrap().folder);
    for id in &ids[..19] {
        let head = snapshots.join(dropped_name(*id));
        assert!(head.exists(), "each has brought something that is needed");
        std::fs::write(head, b"damaged").unwrap();
    }
    let stored = store.summary(client).unwrap().stored_bytes;
    drop(store);
    store = Store::open(folder.path(), Disk::real()).unwrap();
    store.snapshots(client).unwrap();
    assert_eq!(store.summary(client).unwrap().stored_bytes, stored);
    assert_eq!(store.sweep(client).unwrap(), Swept::default());
    // Dropping the last one gives back all that the others had left, and no sequence comes again.
    store.drop_snapshots(client, &ids[19..]).unwrap();
    assert_eq!(store.sweep(client).unwrap().contents, 70);
    assert_eq!(names_below(&store.shared.layout.received(&store.client(client).unwrap().folder)), BTreeSet::new());
    drop(store);
    store = Store::open(folder.path(), Disk::real()).unwrap();
    assert_eq!(back_up(&store, client, &model).0.sequence, 21);
}

#[test]
fn the_sums_that_a_prune_keeps_are_right_and_save_reading_the_heads() {
    let Fixture { store, client, folder } = fixture();
    let mut history = History::new(5, 40);
    (0..6).for_each(|_| history.back_up(&store, client));
    let going = history.choose(4);
    store.drop_snapshots(client, &going).unwrap();
    store.sweep(client).unwrap();
    store.hold(client, history.stored[0].0.id, true).unwrap();
    let summary = store.summary(client).unwrap();
    assert_eq!(summary.snapshots, 2);
    let snapshots = store.shared.layout.snapshots(&store.client(client).unwrap().folder);
    drop(store);
    // Overwritten in place, which does not change the folder.
    std::fs::write(snapshots.join(format!("{}.json", history.stored[0].0.id)), b"damaged").unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    assert_eq!(store.summary(client).unwrap(), summary);
}

#[test]
fn a_client_is_removed_between_prunes_and_none_comes_after() {
    use std::sync::atomic::Ordering;
    let Fixture { store, client, folder: _folder } = fixture();
    back_up(&store, client, &Model::many(10));
    let state = store.state(client).unwrap();
    std::thread::scope(|scope| {
        let turn = state.prune_turn().unwrap();
        let removing =
            scope.spawn(|| store.between_prunes(client, || store.remove_client(client)).unwrap().unwrap());
        while !state.sweep_interrupted.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(store.client(client).is_some() && !removing.is_finished());
        drop(turn);
        store.remove_data(&removing.join().unwrap()).unwrap();
    });
    assert!(matches!(state.prune_turn(), Err(StoreError::NotFound { .. })));
    assert!(matches!(store.sweep(client), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_damaged_range_keeps_what_it_hides() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
    let (first, _) = back_up(&store, client, &model);
    model.put("root/a", b"changed", 2);
    let (second, _) = back_up(&store, client, &model);
    let record = store.client(client).unwrap();
    store.drop_snapshots(client, &[first.id]).unwrap();
    let range = read_index(&store.shared.layout, &record.folder, &second).unwrap().remove(0);
    let range = store.shared.layout.ranges(&record.folder).join(hex(&range.file));
    let bytes = std::fs::read(&range).unwrap();
    std::fs::write(&range, b"damaged").unwrap();
    let swept = store.sweep(client).unwrap();
    assert_eq!((swept.snapshots, swept.contents), (1, 0), "nobody knows what the range names");
    std::fs::write(&range, bytes).unwrap();
    check_snapshot(&store, &second, &model);
}

/// Writes over a file, and gives what it was.
fn damage(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, b"damaged").unwrap();
    bytes
}

#[test]
fn a_damaged_index_keeps_what_came_before_it_and_nothing_that_came_later() {
    let Fixture { store, client, folder } = fixture();
    let mut history = History::new(11, 60);
    for number in 0..9u64 {
        history.model.put("root/each", &[7; 50], 100 + number);
        history.back_up(&store, client);
    }
    let ids: Vec<SnapshotId> = history.stored.iter().map(|(head, _)| head.id).collect();
    let index = store.shared.layout.index(&store.client(client).unwrap().folder, ids[4]);
    let received = store.shared.layout.received(&store.client(client).unwrap().folder);
    let bytes = damage(&index);
    let gone: Vec<SnapshotId> = [0, 1, 2, 3, 5, 6, 7].map(|place| ids[place]).to_vec();
    history.stored.retain(|(head, _)| !gone.contains(&head.id));
    let foreseen = {
        let before = names_below(folder.path());
        let foreseen = store.would_free(client, &gone).unwrap();
        assert_eq!(names_below(folder.path()), before);
        foreseen
    };
    store.drop_snapshots(client, &gone).unwrap();
    let of_before = || {
        let mut names = names_below(&received);
        names.retain(|name| ids[..5].iter().any(|id| name.starts_with(id.as_str())));
        names
    };
    let before = of_before();
    let swept = store.sweep(client).unwrap();
    assert_eq!(swept, foreseen);
    assert!(swept.contents > 0 && swept.snapshots == 0 && swept.ranges == 0, "{swept:?}");
    assert!(swept.hindrances[0].contains(ids[4].as_str()), "{swept:?}");
    assert_eq!(of_before(), before, "what came before it may be needed");
    check_snapshot(&store, &history.stored[1].0, &history.stored[1].1);
    // Once it is whole again, or dropped, the rest goes too.
    std::fs::write(&index, bytes).unwrap();
    history.check(&store, client);
    let swept = store.sweep(client).unwrap();
    assert!(swept.snapshots == 7 && swept.hindrances.is_empty(), "{swept:?}");
    history.check(&store, client);
    check_nothing_superfluous(&store, client, folder.path());
}

#[test]
fn a_snapshot_without_a_readable_head_is_spared_by_its_index() {
    let Fixture { mut store, client, folder } = fixture();
    let mut history = History::new(12, 60);
    (0..6).for_each(|_| history.back_up(&store, client));
    let ids: Vec<SnapshotId> = history.stored.iter().map(|(head, _)| head.id).collect();
    let snapshots = store.shared.layout.snapshots(&store.client(client).unwrap().folder);
    store.drop_snapshots(client, &ids[..2]).unwrap();
    drop(store);
    let head = snapshots.join(format!("{}.json", ids[3]));
    let bytes = damage(&head);
    // The head of one that waits for a sweep is damaged as well.
    damage(&snapshots.join(dropped_name(ids[0])));
    store = Store::open(folder.path(), Disk::real()).unwrap();
    store.drop_snapshots(client, &[ids[2], ids[4]]).unwrap();
    let swept = store.sweep(client).unwrap();
    assert!(swept.snapshots == 4 && swept.hindrances.is_empty(), "{swept:?}");
    drop(store);
    std::fs::write(&head, bytes).unwrap();
    store = Store::open(folder.path(), Disk::real()).unwrap();
    history.stored.retain(|(head, _)| [ids[3], ids[5]].contains(&head.id));
    history.check(&store, client);
    // Without an index nobody knows what a damaged one needs, nor how old it is: everything stays, and it is said.
    drop(store);
    damage(&head);
    damage(&snapshots.join(index_name(ids[3])));
    store = Store::open(folder.path(), Disk::real()).unwrap();
    history.back_up(&store, client);
    store.drop_snapshots(client, &[ids[5]]).unwrap();
    let before = names_below(folder.path());
    let swept = store.sweep(client).unwrap();
    assert_eq!((swept.contents, swept.snapshots, swept.hindrances.len()), (0, 0, 1));
    assert_eq!(names_below(folder.path()), before);
}

/// The rules with the seven days that they imply: whatever one client commits in a day, what was there in the days
/// before stays, and the flood goes when it is a week old.
#[test]
fn a_thousand_snapshots_in_a_day_push_nothing_out_of_the_last_seven() {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::with(&[("root/a", "one")]);
    let start = 1_782_907_200;
    let at = |seconds: i64| store.clock().set(Timestamp { seconds: start + seconds, nanoseconds: 0 });
    let mut before = Vec::new();
    for day in 0..10u64 {
        at(day as i64 * 86_400);
        model.put("root/a", format!("day {day}").as_bytes(), day + 2);
        before.push((back_up(&store, client, &model).0, model.clone()));
    }
    for number in 0..FLOOD {
        at(9 * 86_400 + 3_600 + number * 80_000 / FLOOD);
        model.put("root/a", format!("flood {number}").as_bytes(), 100 + number as u64);
        back_up(&store, client, &model);
    }
    let rules = Rules { keep_hourly: 24, keep_daily: 7, ..Rules::default() };
    at(10 * 86_400);
    assert!(prune_by(&store, client, &rules) <= 3, "all of the last seven days is kept");
    before.retain(|(head, _)| head.committed.seconds >= start + 3 * 86_400);
    before.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    assert_eq!(store.snapshots(client).unwrap().len(), 7 + FLOOD as usize);
    at(18 * 86_400);
    prune_by(&store, client, &rules);
    let kept = store.snapshots(client).unwrap().len();
    assert!((24..=24 + 7).contains(&kept), "{kept} are kept of the flood, by the hour, and of the days before");
    check_nothing_superfluous(&store, client, folder.path());
}

/// How many snapshots the flood has.
const FLOOD: i64 = 1_000;

/// Drops and sweeps what the rules do not keep; gives how many snapshots that are.
fn prune_by(store: &Store, client: ClientId, rules: &Rules) -> usize {
    let heads = store.snapshots(client).unwrap();
    let decisions = decide(&heads, &BTreeSet::new(), store.clock().now(), rules).0;
    let going = decisions.iter().filter(|decision| decision.reasons.is_empty());
    let going: Vec<SnapshotId> = going.map(|decision| decision.head.id).collect();
    let dropped = store.drop_snapshots(client, &going).unwrap().dropped.len();
    store.sweep(client).unwrap();
    dropped
}

/// Backups of a changing tree for some days, pruned every night, while a snapshot is read back and another backup
/// comes: what is kept reads back, and the store holds what that needs. Gives what each night did: snapshots dropped,
/// operations of the disk, time; and how many snapshots are kept in the end.
fn live_through(days: u64, hours: usize, files: u64, rules: &Rules) -> (Vec<(usize, u64, Duration)>, usize) {
    let Fixture { store, client, folder } = fixture();
    let mut year = Year::new(files);
    let mut kept: Vec<(Arc<Head>, Model)> = Vec::new();
    let mut nights = Vec::new();
    for hour in (0..days * 24).step_by(hours) {
        store.clock().set(Timestamp { seconds: 1_767_225_600 + hour as i64 * 3_600, nanoseconds: 0 });
        year.change(hour);
        kept.push((back_up_deltas(&store, client, &year.model).0, year.model.clone()));
        if !hour.is_multiple_of(24) {
            continue;
        }
        // Read back meanwhile: the oldest that is there, which may be about to go, and one of the others.
        let place = year.random.below(kept.len() as u64) as usize;
        let read = [store.entries(&kept[0].0, &[]).unwrap(), store.entries(&kept[place].0, &[]).unwrap()];
        year.change(hour);
        let before = store.disk().operations();
        let (count, time, more) = std::thread::scope(|scope| {
            let pruning = scope.spawn(|| {
                let begun = std::time::Instant::now();
                let count = prune_by(&store, client, rules);
                (count, begun.elapsed())
            });
            let reading = scope.spawn(|| {
                for stored in read.into_iter().flatten().map(Result::unwrap) {
                    if stored.content.is_some() {
                        store.verify_content(client, &stored).unwrap();
                    }
                }
            });
            let more = (back_up_deltas(&store, client, &year.model).0, year.model.clone());
            reading.join().unwrap();
            let (count, time) = pruning.join().unwrap();
            (count, time, more)
        });
        kept.push(more);
        nights.push((count, store.disk().operations() - before, time));
        if hour / 24 % 60 == 59 {
            prune_by(&store, client, rules);
            check_nothing_superfluous(&store, client, folder.path());
        }
        let heads: BTreeSet<SnapshotId> = store.snapshots(client).unwrap().iter().map(|head| head.id).collect();
        kept.retain(|(head, _)| heads.contains(&head.id));
        assert_eq!(kept.len(), heads.len(), "night {}", hour / 24);
    }
    prune_by(&store, client, rules);
    let heads: BTreeSet<SnapshotId> = store.snapshots(client).unwrap().iter().map(|head| head.id).collect();
    kept.retain(|(head, _)| heads.contains(&head.id));
    kept.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    check_nothing_superfluous(&store, client, folder.path());
    (nights, kept.len())
}

/// How many operations of the disk a night had for each snapshot that it dropped, over some nights.
fn operations_each(nights: &[(usize, u64, Duration)]) -> f64 {
    let dropped: usize = nights.iter().map(|night| night.0).sum();
    let operations: u64 = nights.iter().map(|night| night.1).sum();
    operations as f64 / dropped as f64
}

#[test]
fn forty_days_of_backups_pruned_nightly_while_others_are_made_and_read() {
    let rules = Rules { keep_daily: 14, keep_weekly: 4, ..Rules::default() };
    let (nights, kept) = live_through(40, 6, 200, &rules);
    // 5 a day for the last seven days, one a day for a week more, and some weeks.
    assert!((40..=50).contains(&kept), "{kept} snapshots are kept");
    let (early, late) = (operations_each(&nights[8..20]), operations_each(&nights[28..]));
    println!("{early:.1} operations for each dropped snapshot in the beginning, {late:.1} later");
    assert!(late < early * 2.0, "{early} before, {late} later");
}

#[test]
#[ignore = "takes minutes: run by tests/run --full"]
fn a_year_of_hourly_backups_pruned_nightly() {
    let rules = Rules { keep_hourly: 24, keep_daily: 14, keep_weekly: 8, keep_monthly: 12, ..Rules::default() };
    let (nights, kept) = live_through(365, 1, 3_000, &rules);
    for night in [10, 20, 30, 100, 200, 300, 360] {
        let some = &nights[night - 3..night + 3];
        let time: Duration = some.iter().map(|night| night.2).sum();
        println!("nights {}..{}: {:.1} operations each, {time:?}", night - 3, night + 3, operations_each(some));
    }
    assert!((190..=230).contains(&kept), "{kept} snapshots are kept");
    let (early, late) = (operations_each(&nights[10..40]), operations_each(&nights[320..]));
    assert!(late < early * 2.0, "{early} before, {late} later");
}

/// A tree that changes by the hour: three small files, and every sixth hour a block of a large one.
struct Year {
    random: Random,
    model: Model,
    files: u64,
    /// No two changes look the same.
    changes: u64,
}

impl Year {
    fn new(files: u64) -> Year {
        let mut random = Random(7);
        let mut model = Model::many(files as usize);
        model.put("root/large", &random.bytes(1_300_000), 1);
        Year { random, model, files, changes: 10 }
    }

    fn change(&mut self, hour: u64) {
        self.changes += 1;
        for _ in 0..3 {
            let number = self.random.below(self.files);
            let bytes = format!("{}", self.random.next());
            self.model.put(&format!("root/d{:02}/f{number:05}", number % 40), bytes.as_bytes(), self.changes);
        }
        if hour.is_multiple_of(6) {
            let (bytes, change) = self.model.files.get_mut(&path("root/large")).unwrap();
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1;
            *change = self.changes;
        }
    }
}
