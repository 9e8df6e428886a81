//! A store mended: every file that comes back is the very file that was there, and what cannot come back is named.

use std::path::PathBuf;

use super::*;

/// A client's history: snapshots, and what each held.
struct History {
    folder: tempfile::TempDir,
    client: ClientId,
    stored: Vec<(Arc<Head>, Model)>,
}

/// Four snapshots of many files, in each of which some files changed and some went.
fn history() -> History {
    let Fixture { store, client, folder } = fixture();
    let mut model = Model::many(2_000);
    let mut stored = Vec::new();
    for round in 0..4u64 {
        if round > 0 {
            (0..3).for_each(|n| {
                let number = round as usize * 400 + n;
                model.put(&format!("root/d{:02}/f{number:05}", number % 40), b"changed", round + 1);
            });
            let gone = round as usize * 5 + 1;
            model.files.retain(|path, _| !path.as_bytes().starts_with(format!("root/d{gone:02}").as_bytes()));
            model.put("root/large", &vec![round as u8; 2 << 20], round);
        }
        let (head, _) = back_up(&store, client, &model);
        stored.push((head, model.clone()));
    }
    History { folder, client, stored }
}

impl History {
    fn open(&self) -> Store {
        Store::open(self.folder.path(), Disk::real()).unwrap()
    }

    fn below(&self, part: &str) -> PathBuf {
        let folder = std::fs::read_dir(self.folder.path().join(part)).unwrap().next().unwrap().unwrap();
        folder.path()
    }

    fn repair(&self) -> Vec<Repaired> {
        let mut found = Vec::new();
        self.open().repair(true, &mut |repaired| found.push(repaired)).unwrap();
        found
    }

    fn check(&self) {
        let store = self.open();
        assert_eq!(store.snapshots(self.client).unwrap().len(), self.stored.len());
        self.stored.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    }

    /// Damages the file, or removes it, and gives what it was.
    fn harm(&self, file: &PathBuf, removed: bool) -> Vec<u8> {
        let (whole, stored) = (plaintext(file).unwrap(), std::fs::read(file).unwrap());
        match removed {
            true => std::fs::remove_file(file).unwrap(),
            false => std::fs::write(file, &stored[..stored.len() / 2]).unwrap(),
        }
        whole
    }
}

#[test]
fn every_head_and_every_index_comes_back_byte_for_byte() {
    let history = history();
    let snapshots = history.below("snapshots");
    for (number, (head, _)) in history.stored.iter().enumerate() {
        for end in ["json", "index"] {
            let file = snapshots.join(format!("{}.{end}", head.id));
            let whole = history.harm(&file, number % 2 == 0);
            let mut foreseen = Vec::new();
            history.open().repair(false, &mut |repaired| foreseen.push(repaired)).unwrap();
            assert!(
                !file.exists() || plaintext(&file).is_none_or(|bytes| bytes != whole),
                "a dry run writes nothing"
            );
            let found = history.repair();
            assert_eq!(found, foreseen);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].outcome, &found[0].file), (Outcome::Rebuilt, &file), "{found:?}");
            assert!(plaintext(&file).unwrap() == whole, "{number} {end}");
            assert!(history.repair().is_empty());
        }
    }
    history.check();
}

#[test]
fn an_index_of_each_of_two_snapshots_comes_back() {
    let history = history();
    let snapshots = history.below("snapshots");
    let files: Vec<PathBuf> =
        history.stored[1..3].iter().map(|(head, _)| snapshots.join(format!("{}.index", head.id))).collect();
    let whole: Vec<Vec<u8>> = files.iter().map(|file| history.harm(file, true)).collect();
    let found = history.repair();
    assert!(found.iter().all(|repaired| repaired.outcome == Outcome::Rebuilt), "{found:?}");
    for (file, whole) in files.iter().zip(&whole) {
        assert!(plaintext(file).unwrap() == *whole, "{}", file.display());
    }
    history.check();
}

#[test]
fn a_range_comes_back_once_a_backup_has_brought_its_entries_again() {
    let history = history();
    let ranges = history.below("ranges");
    let newest = history.stored.last().unwrap();
    let named = {
        let store = history.open();
        let state = store.state(history.client).unwrap();
        comparison::read_index(&store.shared.layout, &state.record.folder, &newest.0).unwrap()
    };
    for record in &named {
        let file = ranges.join(crate::base::ids::hex(&record.file));
        let whole = history.harm(&file, true);
        let found = history.repair();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].outcome, Outcome::Lost);
        let paths = format!("from {} to {}", record.first.display(), record.last.display());
        assert!(found[0].text.contains(&paths) && found[0].snapshots.contains(&newest.0.id), "{found:?}");
        let store = history.open();
        back_up(&store, history.client, &newest.1);
        drop(store);
        let found = history.repair();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].outcome, Outcome::Rebuilt, "{found:?}");
        assert!(plaintext(&file).unwrap() == whole);
        let store = history.open();
        history.stored.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    }
}

#[test]
fn a_snapshot_of_which_nothing_can_be_read_is_named_and_can_be_dropped_with_all_that_it_alone_needed() {
    for removed in [false, true] {
        let history = history();
        let snapshots = history.below("snapshots");
        let lost = &history.stored[1].0;
        for end in ["json", "index"] {
            history.harm(&snapshots.join(format!("{}.{end}", lost.id)), removed && end == "json");
        }
        let found = history.repair();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].outcome, Outcome::Lost);
        assert!(found[0].text.contains(&format!("prune --snapshot {}", lost.id)), "{found:?}");
        let store = history.open();
        let next = back_up(&store, history.client, &history.stored[3].1).0;
        let foreseen = store.would_free(history.client, &[lost.id]).unwrap();
        let drops = store.drop_snapshots(history.client, &[lost.id]).unwrap();
        assert_eq!(drops.damaged, [lost.id]);
        let swept = store.sweep(history.client).unwrap();
        assert_eq!(swept, foreseen);
        assert!(swept.hindrances.is_empty() && swept.contents >= 1, "{swept:?}");
        drop(store);
        assert!(history.repair().is_empty());
        let store = history.open();
        assert!(store.damaged_heads(history.client).unwrap().is_empty());
        for (head, model) in history.stored.iter().filter(|(head, _)| head.id != lost.id) {
            check_snapshot(&store, head, model);
        }
        // Of all others nothing has gone: dropping them too leaves only what the newest needs.
        let ids: Vec<SnapshotId> = history.stored.iter().map(|(head, _)| head.id).collect();
        store.drop_snapshots(history.client, &ids).unwrap();
        store.sweep(history.client).unwrap();
        check_snapshot(&store, &next, &history.stored[3].1);
        let mut files = Vec::new();
        all_files(&history.folder.path().join("received_files"), &mut files);
        assert_eq!(files.len(), history.stored[3].1.files.len());
        let next = back_up(&store, history.client, &history.stored[3].1).0;
        assert!(next.sequence > 5, "no sequence is given out twice");
    }
}

#[test]
fn a_backup_passes_over_a_snapshot_whose_index_is_damaged() {
    let history = history();
    let (last, model) = history.stored.last().unwrap();
    history.harm(&history.below("snapshots").join(format!("{}.index", last.id)), false);
    let store = history.open();
    let (head, sent) = back_up(&store, history.client, model);
    assert_eq!(head.parent, Some(history.stored[2].0.id));
    assert!(sent.contents < 20, "{sent:?}");
    check_snapshot(&store, &head, model);
}

#[test]
fn the_record_of_a_client_comes_back_without_its_key() {
    for removed in [true, false] {
        let history = history();
        let id = history.client;
        let name = history.open().client(id).unwrap().name.clone();
        let file = history.folder.path().join(format!("clients/{id}.json"));
        history.harm(&file, removed);
        let found = history.repair();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].text.contains(&format!("enroll {name}")), "{found:?}");
        assert!(history.repair().is_empty());
        let store = history.open();
        let record = store.client(id).unwrap();
        assert!(record.is_reset() && record.name == name);
        store.create_token(&name, std::time::Duration::from_secs(60)).unwrap();
        store.renew_key(id, b"another key").unwrap();
        history.stored.iter().for_each(|(head, model)| check_snapshot(&store, head, model));
    }
}

#[test]
fn a_repair_that_stops_anywhere_is_finished_by_the_next() {
    let history = history();
    let snapshots = history.below("snapshots");
    let files = [
        snapshots.join(format!("{}.json", history.stored[0].0.id)),
        snapshots.join(format!("{}.index", history.stored[2].0.id)),
        history.folder.path().join(format!("clients/{}.json", history.client)),
    ];
    let opening = Disk::real();
    drop(Store::open(history.folder.path(), opening.clone()).unwrap());
    for stop in 0.. {
        let whole: Vec<Vec<u8>> = files.iter().map(|file| history.harm(file, false)).collect();
        let store = Store::open(history.folder.path(), Disk::stopping_after(opening.operations() + stop)).unwrap();
        let done = store.repair(true, &mut |_| {}).is_ok();
        drop(store);
        history.repair();
        assert!(history.repair().is_empty(), "stopped after {stop}");
        for (file, whole) in files.iter().zip(&whole).take(2) {
            assert!(plaintext(file).unwrap() == *whole, "stopped after {stop}");
        }
        if done {
            assert!(stop >= 12, "{stop}");
            break;
        }
    }
    history.check();
}
