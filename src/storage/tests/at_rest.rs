//! Stores that are sealed: nothing readable on the disk, nothing wrong read back whatever is done to it, and `rekey` cut
//! short at each operation.

use super::delta::{Random, back_up_deltas, large, open_again, send_deltas, stored_large};
use super::*;
use crate::base::folder::open_folder;
use crate::crypto::StorageKey;
use crate::storage::at_rest::{FileWriter, Keyring, SealedKind};
use crate::storage::layout::ClientFolder;
use crate::storage::vault::VaultRun;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;

const MIB: usize = 1024 * 1024;

/// A key that tests tell apart by a digit.
fn key(digit: u8) -> Option<Arc<StorageKey>> {
    Some(Arc::new(StorageKey::parse(&[digit; 64]).unwrap()))
}

fn open(data: &Path, key: Option<Arc<StorageKey>>) -> Result<Store, StoreError> {
    Store::open_sealed(data, Disk::real(), StorageKeys { begin: key.is_some(), key, mend: false })
}

/// A client with two snapshots, the second with a delta, and an upload of a third state that was cut off.
struct Tenant {
    client: ClientId,
    models: [Model; 2],
    third: Model,
    upload: UploadId,
}

impl Tenant {
    fn new(store: &Store, name: &str, seed: u64, large_bytes: usize) -> Tenant {
        let client = store.register(ClientId::random(), &name.parse().unwrap(), b"key", false).unwrap().id;
        let mut random = Random(seed);
        let mut first = large(random.bytes(large_bytes), 1);
        first.put("root/folder/other", &random.bytes(20_000), 1);
        first.put("root/empty", b"", 1);
        let mut second = first.clone();
        if large_bytes >= 6_000 {
            second.files.get_mut(&path("root/large")).unwrap().0[5_000..6_000].fill(3);
        }
        let bytes = second.files[&path("root/large")].0.clone();
        second.put("root/large", &bytes, 2);
        second.put("root/small", &random.bytes(100), 2);
        back_up_deltas(store, client, &first);
        back_up_deltas(store, client, &second);
        let upload = UploadId::random();
        let mut cut_off = open_again(store, client, upload);
        let mut third = second.clone();
        third.put("root/third", &random.bytes(30_000), 1);
        send_deltas(&mut cut_off, &third).unwrap();
        Tenant { client, models: [first, second], third, upload }
    }
}

/// A store with one client.
struct Case {
    folder: tempfile::TempDir,
    client: ClientId,
    models: [Model; 2],
}

impl Case {
    fn new(key: Option<Arc<StorageKey>>, large_bytes: usize) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), key).unwrap();
        let Tenant { client, models, .. } = Tenant::new(&store, "ada", 7, large_bytes);
        Case { folder, client, models }
    }

    /// The same store in another folder.
    fn copy(&self) -> Case {
        let folder = tempfile::tempdir().unwrap();
        copy_tree(self.data(), folder.path());
        Case { folder, client: self.client, models: self.models.clone() }
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn check(&self, key: Option<Arc<StorageKey>>) {
        let store = open(self.data(), key).unwrap();
        let heads = store.snapshots(self.client).unwrap();
        assert_eq!(heads.len(), 2);
        heads.iter().zip(&self.models).for_each(|(head, model)| check_snapshot(&store, head, model));
    }

    /// Everything that can be read of the store is right; what cannot be read is an error.
    fn reads_nothing_wrong(&self, key: Option<Arc<StorageKey>>) -> bool {
        let Ok(store) = open(self.data(), key) else { return true };
        let Ok(heads) = store.snapshots(self.client) else { return true };
        let second = self.models[1].entries();
        for head in heads {
            let Ok(entries) = store.entries(&head, &[]) else { continue };
            for stored in entries.flatten().filter(|stored| stored.content.is_some()) {
                let path = &stored.entry.path;
                let is_second = second.contains(&stored.entry);
                let model = &self.models[usize::from(is_second)];
                let Ok(mut reader) = store.open_content(self.client, &stored) else { continue };
                let mut bytes = Vec::new();
                let _ = reader.read_to_end(&mut bytes);
                if !model.files[path].0.starts_with(&bytes) {
                    return false;
                }
            }
        }
        true
    }

    /// The first 16 bytes of any place on the disk at which a stretch of a content is found.
    fn finds_content(&self) -> Option<PathBuf> {
        let mut known: HashSet<[u8; 16]> = HashSet::new();
        for model in &self.models {
            for (bytes, _) in model.files.values() {
                known.extend(bytes.windows(16).step_by(7).map(|stretch| <[u8; 16]>::try_from(stretch).unwrap()));
            }
        }
        known.retain(|stretch| *stretch != [3; 16]);
        let mut files = Vec::new();
        all_files(self.data(), &mut files);
        let holds = |file: &PathBuf| {
            let bytes = std::fs::read(file).unwrap();
            bytes.windows(16).any(|stretch| known.contains(stretch))
        };
        files.into_iter().find(holds)
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let (from, to) = (item.path(), to.join(item.file_name()));
        match item.file_type().unwrap().is_dir() {
            true => {
                std::fs::create_dir_all(&to).unwrap();
                copy_tree(&from, &to);
            }
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

#[test]
fn a_sealed_store_reads_back_and_shows_nothing() {
    let case = Case::new(key(b'1'), MIB + MIB / 2);
    assert_eq!(case.finds_content(), None);
    case.check(key(b'1'));
    let plain = Case::new(None, MIB + MIB / 2);
    assert!(plain.finds_content().is_some(), "the search finds what is there");
}

#[test]
fn the_wrong_key_or_none_opens_nothing_but_what_is_not_sealed() {
    let case = Case::new(key(b'1'), 100);
    let error = open(case.data(), key(b'2')).unwrap_err();
    let ids = [key(b'1').unwrap().id(), key(b'2').unwrap().id()];
    let expected = format!(
        "is sealed at rest with the storage key {}, and the one given is {}: give that key",
        ids[0], ids[1]
    );
    assert!(error.to_string().ends_with(&expected), "{error}");
    let locked = open(case.data(), None).unwrap();
    assert!(matches!(locked.unlocked(), Err(StoreError::StorageKeyWanted { given: None, .. })));
    assert_eq!(locked.snapshots(case.client).unwrap().len(), 2);
    assert_eq!(locked.clients().len(), 1);
    let head = locked.snapshots(case.client).unwrap().remove(0);
    assert!(locked.entries(&head, &[]).is_err());
    let plain = tempfile::tempdir().unwrap();
    let keys = StorageKeys { key: key(b'1'), ..StorageKeys::default() };
    let refused = Store::open_sealed(plain.path(), Disk::real(), keys);
    assert!(matches!(refused, Err(StoreError::NotSealed { .. })));
}

#[test]
fn plain_and_sealed_contents_lie_side_by_side() {
    let mut case = Case::new(None, MIB + 3);
    let store = open(case.data(), key(b'1')).unwrap();
    let mut third = case.models[1].clone();
    let mut bytes = third.files[&path("root/large")].0.clone();
    bytes[700_000..800_000].fill(9);
    third.put("root/large", &bytes, 3);
    third.put("root/late", b"late and sealed", 1);
    let (head, pieces) = back_up_deltas(&store, case.client, &third);
    assert!(pieces.kept > 0 && pieces.deltas == 1, "{pieces:?}");
    check_snapshot(&store, &head, &third);
    store.sweep(case.client).unwrap();
    drop(store);
    case.models[0] = case.models[1].clone();
    let store = open(case.data(), key(b'1')).unwrap();
    check_snapshot(&store, &head, &third);
}

/// Does something to each place of each file in turn, and to nothing else.
fn harm_each(case: &Case, step: usize, harm: impl Fn(&[u8], usize) -> Option<Vec<u8>>) {
    let mut files = Vec::new();
    all_files(case.data(), &mut files);
    for file in files.iter().filter(|file| file.file_name().is_some_and(|name| name != "lock")) {
        let bytes = std::fs::read(file).unwrap();
        for at in (0..bytes.len()).step_by(step) {
            let Some(harmed) = harm(&bytes, at) else { continue };
            std::fs::write(file, harmed).unwrap();
            assert!(case.reads_nothing_wrong(key(b'1')), "{} at {at}", file.display());
        }
        // What opening it did away with is put back too.
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    case.check(key(b'1'));
}

fn flip(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << (at % 8);
    Some(flipped)
}

#[test]
fn a_flipped_byte_of_a_small_sealed_store_gives_nothing_wrong() {
    harm_each(&Case::new(key(b'1'), 100), 97, flip);
}

#[test]
#[ignore = "takes minutes"]
fn every_flipped_byte_of_a_small_sealed_store_gives_nothing_wrong() {
    harm_each(&Case::new(key(b'1'), 100), 1, flip);
}

/// Where the segments of a sealed file begin, and its last byte.
fn borders(length: usize) -> Vec<usize> {
    (0..).map(|segment| 64 + segment * 16_432).take_while(|at| *at < length).chain([length - 1]).collect()
}

#[test]
fn sealed_files_that_are_cut_at_a_border_or_have_segments_swapped_give_nothing_wrong() {
    let case = Case::new(key(b'1'), MIB + 5);
    harm_each(&case, 1, |bytes, at| {
        let is_border = borders(bytes.len()).contains(&at);
        (is_border && bytes.starts_with(b"\xcbcbkSEAL")).then(|| bytes[..at].to_vec())
    });
    harm_each(&case, 16_432, |bytes, at| {
        let (first, second) = (64 + at..64 + at + 16_432, 64 + at + 16_432..64 + at + 2 * 16_432);
        let is_sealed = bytes.starts_with(b"\xcbcbkSEAL") && bytes.len() >= second.end;
        is_sealed
            .then(|| [&bytes[..first.start], &bytes[second.clone()], &bytes[first], &bytes[second.end..]].concat())
    });
}

fn request(from: Option<Arc<StorageKey>>, to: Option<Arc<StorageKey>>) -> RekeyRequest {
    RekeyRequest { from, to }
}

/// Stops a `rekey` after each operation in turn, `step` of them at a time: the next run finishes it, or turns it round.
fn rekey_survives_stops(step: usize, turns: &[bool]) {
    for (from, to) in [(None, key(b'1')), (key(b'1'), None), (key(b'1'), key(b'2'))] {
        let unchanged = Case::new(from.clone(), MIB + 100);
        let mut stops = 0;
        for stop in (0..).step_by(step) {
            let mut was_stopped = false;
            for is_turned in turns {
                let case = unchanged.copy();
                let disk = Disk::stopping_after(stop);
                let stopped = rekey(case.data(), &disk, &request(from.clone(), to.clone()), &mut |_| true);
                was_stopped = stopped.is_err();
                let (from, to) = if *is_turned { (to.clone(), from.clone()) } else { (from.clone(), to.clone()) };
                let done = rekey(case.data(), &Disk::real(), &request(from, to.clone()), &mut |_| true);
                // With everything written and the old key forgotten there may be nothing left to do.
                let done = done.unwrap_or_else(|error| panic!("stopped after {stop}: {error}"));
                assert!(done.damaged.is_empty(), "stopped after {stop}: {:?}", done.damaged);
                case.check(to.clone());
                assert_eq!(case.finds_content().is_some(), to.is_none(), "stopped after {stop}");
                assert_eq!(case.data().join("sealing.json").exists(), to.is_some(), "stopped after {stop}");
            }
            if !was_stopped {
                break;
            }
            stops += 1;
        }
        assert!(stops > 30 / step, "only {stops} stops");
    }
}

#[test]
fn a_rekey_that_stops_at_an_operation_is_finished_or_turned_round_by_the_next() {
    rekey_survives_stops(5, &[false, true]);
}

#[test]
#[ignore = "takes a minute"]
fn a_rekey_that_stops_at_any_operation_is_finished_or_turned_round_by_the_next() {
    rekey_survives_stops(1, &[false, true]);
}

/// Two clients with the same kinds of files.
struct TwoTenants {
    folder: tempfile::TempDir,
    tenants: [Tenant; 2],
}

impl TwoTenants {
    fn new() -> TwoTenants {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), key(b'1')).unwrap();
        let tenants = [Tenant::new(&store, "ada", 7, MIB + 5), Tenant::new(&store, "eve", 8, MIB + 5)];
        TwoTenants { folder, tenants }
    }

    /// The sealed files.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        all_files(self.folder.path(), &mut files);
        files.retain(|file| std::fs::read(file).unwrap().starts_with(b"\xcbcbkSEAL"));
        files.iter().map(|file| file.strip_prefix(self.folder.path()).unwrap().to_path_buf()).collect()
    }

    /// Has two files of a copy of the store change places; then all that can be read is right, or does not have the sums
    /// that it should have, and no client gets a byte of the other.
    fn swap(&self, left: &Path, right: &Path) {
        let folder = tempfile::tempdir().unwrap();
        let (data, aside) = (folder.path(), folder.path().join("aside"));
        copy_tree(self.folder.path(), data);
        std::fs::rename(data.join(left), &aside).unwrap();
        std::fs::rename(data.join(right), data.join(left)).unwrap();
        std::fs::rename(&aside, data.join(right)).unwrap();
        let store = open(data, key(b'1')).unwrap();
        for (number, tenant) in self.tenants.iter().enumerate() {
            let what = format!("{} and {} swapped", left.display(), right.display());
            self.check(&store, number, &what);
            // Nor has an upload that goes on with what lies there.
            let went_on =
                store.begin_upload(tenant.client, super::request(tenant.upload), || {}).and_then(|begun| {
                    let Begun::Open(mut upload) = begun else { panic!("the upload is not committed") };
                    send_deltas(&mut upload, &tenant.third)?;
                    upload.commit(tenant.third.counts())
                });
            if went_on.is_ok() {
                self.check(&store, number, &what);
            }
        }
    }

    fn check(&self, store: &Store, number: usize, what: &str) {
        let (own, other) = (&self.tenants[number], &self.tenants[1 - number]);
        let models = [&own.models[0], &own.models[1], &own.third];
        let Ok(heads) = store.snapshots(own.client) else { return };
        for head in heads {
            let Ok(entries) = store.entries(&head, &[]) else { continue };
            for stored in entries.flatten() {
                let path = &stored.entry.path;
                let model = models.iter().find(|model| model.entries().contains(&stored.entry));
                let model = model.unwrap_or_else(|| panic!("{what}: {} is nobody's", path.display()));
                let Some(content) = &stored.content else { continue };
                let Ok(mut reader) = store.open_content(own.client, &stored) else { continue };
                let mut bytes = Vec::new();
                let is_read = reader.read_to_end(&mut bytes).is_ok();
                let is_right = bytes == model.files[path].0;
                assert!(!is_read || is_right || ContentSums::of(&bytes) != content.sums, "{what}");
                let mut known: HashSet<&[u8]> = bytes.windows(16).step_by(16).collect();
                // What both clients' files have in common.
                known.remove(&[3; 16][..]);
                let is_others = |text: &Vec<u8>| text.windows(16).any(|stretch| known.contains(stretch));
                assert!(is_right || !other.third.files.values().any(|(text, _)| is_others(text)), "{what}");
            }
        }
    }

    fn swap_each(&self, step: usize) {
        let files = self.files();
        assert!(files.len() > 24, "{files:?}");
        let pairs = (0..files.len()).flat_map(|left| (left + 1..files.len()).map(move |right| (left, right)));
        for (left, right) in pairs.step_by(step) {
            self.swap(&files[left], &files[right]);
        }
    }
}

#[test]
fn whole_files_that_change_places_give_nothing_wrong() {
    TwoTenants::new().swap_each(13);
}

#[test]
#[ignore = "takes a minute"]
fn any_two_files_that_change_places_give_nothing_wrong() {
    TwoTenants::new().swap_each(1);
}

#[test]
fn a_rekey_between_its_ends_lets_no_server_start() {
    let case = Case::new(key(b'1'), MIB + 100);
    let disk = Disk::stopping_after(14);
    rekey(case.data(), &disk, &request(key(b'1'), key(b'2')), &mut |_| true).unwrap_err();
    for given in [key(b'1'), key(b'2')] {
        assert!(matches!(open(case.data(), given), Err(StoreError::RekeyUnfinished { .. })));
    }
    for (from, to) in [(key(b'1'), key(b'3')), (key(b'2'), key(b'3')), (key(b'1'), None), (key(b'2'), None)] {
        let other = rekey(case.data(), &Disk::real(), &request(from, to), &mut |_| true);
        assert!(matches!(other, Err(StoreError::RekeyUnfinished { .. })));
    }
    rekey(case.data(), &Disk::real(), &request(key(b'1'), key(b'2')), &mut |_| true).unwrap();
    case.check(key(b'2'));
}

#[test]
fn a_rekey_keeps_damage_damaged() {
    for to in [key(b'2'), None] {
        let case = Case::new(key(b'1'), MIB + 100);
        let mut files = Vec::new();
        all_files(&case.data().join("received_files"), &mut files);
        let large = files.iter().find(|file| file.ends_with("root/large")).unwrap();
        let mut bytes = std::fs::read(large).unwrap();
        bytes[64 + 16_432 * 3 + 100] ^= 1;
        std::fs::write(large, bytes).unwrap();
        let done = rekey(case.data(), &Disk::real(), &request(key(b'1'), to.clone()), &mut |_| true).unwrap();
        assert_eq!(done.damaged, std::slice::from_ref(large));
        assert!(case.reads_nothing_wrong(to.clone()));
        let store = open(case.data(), to).unwrap();
        let verified = store.verify_client(case.client, None, &mut VaultRun::default(), &mut |_| true).unwrap();
        assert!(!verified.damaged.is_empty());
        // What is not damaged of it is still there, and the rest is an error and no zeros.
        let heads = store.snapshots(case.client).unwrap();
        let head = heads.iter().min_by_key(|head| head.sequence).unwrap();
        let stored = stored_large(&store, head);
        let (mut reader, expected) =
            (store.open_content(case.client, &stored).unwrap(), &case.models[0].files[&path("root/large")].0);
        let mut found = vec![0; 16_384];
        reader.read_exact(&mut found).unwrap();
        assert!(found == expected[..16_384]);
        reader.seek_to(16_384 * 3).unwrap();
        assert!(reader.read_exact(&mut found).is_err());
        reader.seek_to(16_384 * 4).unwrap();
        reader.read_exact(&mut found).unwrap();
        assert!(found == expected[16_384 * 4..16_384 * 5]);
    }
}

#[test]
fn a_store_that_becomes_plain_with_a_file_that_nobody_can_open_needs_no_key() {
    let case = Case::new(key(b'1'), MIB + 100);
    let mut files = Vec::new();
    all_files(&case.data().join("snapshots"), &mut files);
    let index = files.iter().find(|file| file.extension().is_some_and(|end| end == "index")).unwrap();
    let mut bytes = std::fs::read(index).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(index, bytes).unwrap();
    let done = rekey(case.data(), &Disk::real(), &request(key(b'1'), None), &mut |_| true).unwrap();
    assert_eq!(done.damaged, std::slice::from_ref(index));
    let store = open(case.data(), None).unwrap();
    store.unlocked().unwrap();
    assert!(
        !store
            .verify_client(case.client, None, &mut VaultRun::default(), &mut |_| true)
            .unwrap()
            .damaged
            .is_empty()
    );
    drop(store);
    assert!(case.reads_nothing_wrong(None));
    // It is sealed again like any other plain store.
    drop(open(case.data(), key(b'2')).unwrap());
    rekey(case.data(), &Disk::real(), &request(None, key(b'2')), &mut |_| true).unwrap();
    assert!(case.reads_nothing_wrong(key(b'2')));
}

#[test]
fn a_lost_sealing_json_does_not_turn_sealing_off() {
    let case = Case::new(key(b'1'), MIB + 100);
    let record = case.data().join("sealing.json");
    let wanted = key(b'1').unwrap().id();
    let before = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    assert_eq!(SealingState::wanted_key(case.data()).unwrap(), Some(wanted));
    let locked = open(case.data(), None).unwrap();
    assert!(matches!(locked.unlocked(), Err(StoreError::StorageKeyWanted { wanted: id, .. }) if id == wanted));
    drop(locked);
    let other = open(case.data(), key(b'2'));
    assert!(matches!(other, Err(StoreError::StorageKeyWanted { wanted: id, .. }) if id == wanted));
    let sealed_anew = rekey(case.data(), &Disk::real(), &request(None, key(b'2')), &mut |_| true);
    assert!(matches!(sealed_anew, Err(StoreError::StorageKeyWanted { wanted: id, .. }) if id == wanted));
    assert!(!record.exists());
    // Nor without an index.
    let mut files = Vec::new();
    all_files(&case.data().join("snapshots"), &mut files);
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "index")) {
        std::fs::rename(file, file.with_extension("away")).unwrap();
    }
    assert_eq!(SealingState::wanted_key(case.data()).unwrap(), Some(wanted));
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "index")) {
        std::fs::rename(file.with_extension("away"), file).unwrap();
    }
    let keys = StorageKeys { key: key(b'1'), ..StorageKeys::default() };
    drop(Store::open_sealed(case.data(), Disk::real(), keys).unwrap());
    assert_eq!(std::fs::read(&record).unwrap(), before);
    case.check(key(b'1'));
}

#[test]
fn a_damaged_sealing_json_is_made_anew_by_a_repair_with_the_key() {
    let case = Case::new(key(b'1'), MIB + 100);
    let record = case.data().join("sealing.json");
    let before = std::fs::read(&record).unwrap();
    std::fs::write(&record, &before[..30]).unwrap();
    assert!(open(case.data(), key(b'1')).unwrap_err().is_damage());
    let to_mend =
        |key| Store::open_sealed(case.data(), Disk::real(), StorageKeys { key, begin: false, mend: true });
    assert!(matches!(to_mend(key(b'2')), Err(StoreError::StorageKeyWanted { .. })));
    assert!(to_mend(None).unwrap().unlocked().is_err());
    for is_real in [false, true] {
        let mut told = Vec::new();
        to_mend(key(b'1')).unwrap().repair(is_real, &mut |repaired| told.push(repaired)).unwrap();
        assert_eq!((told.len(), told[0].outcome, &told[0].file), (1, Outcome::Rebuilt, &record), "{told:?}");
        assert_eq!(std::fs::read(&record).unwrap() == before, is_real);
    }
    case.check(key(b'1'));
    // A `rekey` needs no repair before it.
    std::fs::write(&record, b"{").unwrap();
    rekey(case.data(), &Disk::real(), &request(key(b'1'), key(b'2')), &mut |_| true).unwrap();
    case.check(key(b'2'));
    // Where nothing is sealed, nothing was said.
    let plain = Case::new(None, 100);
    std::fs::write(plain.data().join("sealing.json"), b"{").unwrap();
    let store =
        Store::open_sealed(plain.data(), Disk::real(), StorageKeys { mend: true, ..StorageKeys::default() })
            .unwrap();
    store.repair(true, &mut |repaired| assert_eq!(repaired.outcome, Outcome::Removed)).unwrap();
    drop(store);
    plain.check(None);
}

#[test]
fn a_lost_sealing_json_of_a_store_that_was_plain_before_allows_plain_files_again() {
    let case = Case::new(None, MIB + 3);
    assert_eq!(SealingState::wanted_key(case.data()).unwrap(), None);
    let store = open(case.data(), key(b'1')).unwrap();
    let mut third = case.models[1].clone();
    third.put("root/late", b"late and sealed", 1);
    let (head, _) = back_up_deltas(&store, case.client, &third);
    drop(store);
    std::fs::remove_file(case.data().join("sealing.json")).unwrap();
    let store = open(case.data(), key(b'1')).unwrap();
    check_snapshot(&store, &head, &third);
    assert!(SealingState::read(case.data()).unwrap().unwrap().also_plain);
}

#[test]
fn a_lost_sealing_json_of_an_unfinished_rekey_is_told_from_the_files() {
    let mut was_unfinished = false;
    for stop in 14..120 {
        let case = Case::new(key(b'1'), MIB + 100);
        let disk = Disk::stopping_after(stop);
        if rekey(case.data(), &disk, &request(key(b'1'), key(b'2')), &mut |_| true).is_ok() {
            break;
        }
        std::fs::remove_file(case.data().join("sealing.json")).unwrap();
        let given = [key(b'1'), key(b'2')];
        if given.into_iter().any(|key| matches!(open(case.data(), key), Err(StoreError::RekeyUnfinished { .. }))) {
            was_unfinished = true;
            let done = rekey(case.data(), &Disk::real(), &request(key(b'1'), key(b'2')), &mut |_| true).unwrap();
            assert!(done.damaged.is_empty());
            case.check(key(b'2'));
            break;
        }
    }
    assert!(was_unfinished);
}

/// Writes a delta anew.
fn write_delta(path: &Path, key: Option<Arc<StorageKey>>, bytes: &[u8]) {
    let parent = path.parent().unwrap();
    let client = ClientFolder::parse(parent.file_name().unwrap().to_str().unwrap()).unwrap();
    let keyring = Keyring::new(key, Vec::new(), false).of(&client).files(SealedKind::Delta);
    std::fs::remove_file(path).unwrap();
    let folder = open_folder(parent).unwrap();
    let name = path.file_name().unwrap().as_encoded_bytes();
    let mut file = FileWriter::create(&Disk::real(), folder.as_fd(), name, &keyring).unwrap();
    file.write(bytes).and_then(|()| file.finish()).unwrap();
}

#[test]
fn a_rekey_carries_over_what_a_prune_emptied_of_a_delta_and_calls_no_store_damaged_for_it() {
    for to in [key(b'2'), None] {
        let case = Case::new(key(b'1'), MIB + 100);
        let mut deltas = Vec::new();
        all_files(&case.data().join("deltas"), &mut deltas);
        let [delta] = &deltas[..] else { panic!("{deltas:?}") };
        // The store's own delta is too small to have anything to give back.
        write_delta(delta, key(b'1'), &Random(9).bytes(6 * 16_384 + 10));
        let mut bytes = std::fs::read(delta).unwrap();
        bytes[64 + 16_432 * 3..64 + 16_432 * 4].fill(0);
        std::fs::write(delta, &bytes).unwrap();
        let done = rekey(case.data(), &Disk::real(), &request(key(b'1'), to.clone()), &mut |_| true).unwrap();
        assert_eq!(done.damaged, Vec::<PathBuf>::new());
        if to.is_some() {
            let again = rekey(case.data(), &Disk::real(), &request(to.clone(), key(b'3')), &mut |_| true).unwrap();
            assert_eq!(again.damaged, Vec::<PathBuf>::new());
            // What is not empty and does not verify is damage in a delta too.
            let mut bytes = std::fs::read(delta).unwrap();
            bytes[64 + 16_432 * 5 + 100] ^= 1;
            std::fs::write(delta, bytes).unwrap();
            let last = rekey(case.data(), &Disk::real(), &request(key(b'3'), key(b'4')), &mut |_| true).unwrap();
            assert_eq!(last.damaged, std::slice::from_ref(delta));
        }
    }
}

#[test]
fn a_rekey_tells_of_a_wrong_key_before_a_new_one_is_made() {
    let case = Case::new(key(b'1'), 100);
    let held = Rekeying::begin(case.data(), &Disk::real()).unwrap();
    assert!(matches!(Rekeying::begin(case.data(), &Disk::real()), Err(StoreError::Locked { .. })));
    held.check_for_new_key(&key(b'1')).unwrap();
    let wrong = held.check_for_new_key(&key(b'2'));
    assert!(matches!(wrong, Err(StoreError::StorageKeyWanted { .. })));
    drop(held);
    let disk = Disk::stopping_after(14);
    rekey(case.data(), &disk, &request(key(b'1'), key(b'2')), &mut |_| true).unwrap_err();
    let held = Rekeying::begin(case.data(), &Disk::real()).unwrap();
    let text = held.check_for_new_key(&key(b'1')).unwrap_err().to_string();
    for key in [key(b'1'), key(b'2')] {
        assert!(text.contains(&key.unwrap().id().to_string()), "{text}");
    }
}
