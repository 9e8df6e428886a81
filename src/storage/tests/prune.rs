//! Snapshots dropped and swept: every kept one reads back exactly, and nothing lies in the store that none of them
//! needs.

use std::collections::BTreeSet;

use super::delta::{Random, back_up_deltas, edit};
use super::*;
use crate::base::ids::{SnapshotId, hex};
use crate::storage::blocks_format::Source;
use crate::storage::blocks_reader::{ClientFiles, ContentMap};
use crate::storage::comparison::read_index;

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

/// Copies a folder's content, holes as holes.
fn copy_tree(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
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
        for (stop, fails_once) in (0..all).flat_map(|stop| [(stop, false), (stop, true)]) {
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
    store.stored_bytes(client).unwrap() - kept
}
