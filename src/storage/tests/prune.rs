//! Snapshots dropped and swept: every kept one reads back exactly, and nothing lies in the store that none of them
//! needs.

use std::collections::BTreeSet;

use super::delta::{Random, back_up_deltas, edit};
use super::*;
use crate::base::ids::{SnapshotId, hex};
use crate::storage::blocks_format::Source;
use crate::storage::blocks_reader::{ClientFiles, ContentMap};
use crate::storage::comparison::read_index;
use crate::storage::content::plain_segment;

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
    let mut found = names_below(&layout.snapshots(&record.folder));
    found.retain(|name| name != "dropped.json" && !name.ends_with(".dropped"));
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
fn copy_tree(from: &Path, to: &Path) {
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
            assert!(!done || fails_once, "operation {stop}");
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
fn damage_keeps_what_it_hides_and_blocks_no_more_than_it_must() {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
    let (first, _) = back_up(&store, client, &model);
    model.put("root/a", b"changed", 2);
    let (second, _) = back_up(&store, client, &model);
    let record = store.client(client).unwrap();
    store.drop_snapshots(client, &[first.id]).unwrap();
    let index = store.shared.layout.index(&record.folder, second.id);
    let bytes = std::fs::read(&index).unwrap();
    std::fs::write(&index, b"damaged").unwrap();
    let before = state_of(folder.path());
    assert!(matches!(store.sweep(client), Err(StoreError::Damaged { .. })));
    assert_eq!(state_of(folder.path()), before);
    std::fs::write(&index, bytes).unwrap();
    let range = read_index(&store.shared.layout, &record.folder, &second).unwrap().remove(0);
    let range = store.shared.layout.ranges(&record.folder).join(hex(&range.file));
    let bytes = std::fs::read(&range).unwrap();
    std::fs::write(&range, b"damaged").unwrap();
    let swept = store.sweep(client).unwrap();
    assert_eq!((swept.snapshots, swept.contents), (1, 0), "nobody knows what the range names");
    std::fs::write(&range, bytes).unwrap();
    check_snapshot(&store, &second, &model);
}

/// A year of hourly backups of a changing tree, pruned every night: what is kept reads back, and the store holds what
/// that needs.
#[test]
#[ignore = "takes minutes: run by tests/run --full"]
fn a_year_of_hourly_backups_pruned_nightly() {
    let Fixture { store, client, folder } = fixture();
    let mut random = Random(7);
    let mut model = Model::many(3_000);
    model.put("root/large", &random.bytes(1_300_000), 1);
    let rules = Rules { keep_hourly: 24, keep_daily: 14, keep_weekly: 8, keep_monthly: 12, ..Rules::default() };
    let mut kept: Vec<(Arc<Head>, Model)> = Vec::new();
    let (mut dropped, mut pruning) = (0, std::time::Duration::ZERO);
    for hour in 0..365 * 24 {
        store.clock().set(Timestamp { seconds: 1_767_225_600 + hour * 3_600, nanoseconds: 0 });
        for _ in 0..3 {
            let number = random.below(3_000);
            let bytes = format!("{}", random.next());
            model.put(&format!("root/d{:02}/f{number:05}", number % 40), bytes.as_bytes(), 10 + hour as u64);
        }
        if hour % 6 == 0 {
            let (bytes, change) = model.files.get_mut(&path("root/large")).unwrap();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1;
            *change = 10 + hour as u64;
        }
        kept.push((back_up_deltas(&store, client, &model).0, model.clone()));
        if hour % 24 == 3 {
            let heads = store.snapshots(client).unwrap();
            let decisions = decide(&heads, &BTreeSet::new(), store.clock().now(), &rules).0;
            let going: Vec<SnapshotId> = decisions
                .iter()
                .filter(|decision| decision.reasons.is_empty())
                .map(|decision| decision.head.id)
                .collect();
            let begun = std::time::Instant::now();
            assert_eq!(store.drop_snapshots(client, &going).unwrap().dropped.len(), going.len());
            store.sweep(client).unwrap();
            pruning += begun.elapsed();
            dropped += going.len();
            kept.retain(|(head, _)| !going.contains(&head.id));
        }
    }
    let last = std::time::Instant::now();
    store.sweep(client).unwrap();
    let idle = last.elapsed();
    kept.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    check_nothing_superfluous(&store, client, folder.path());
    println!("{dropped} snapshots dropped in {pruning:?}, {} kept; a sweep of nothing takes {idle:?}", kept.len());
    assert!((190..=220).contains(&kept.len()), "{} snapshots are kept", kept.len());
}
