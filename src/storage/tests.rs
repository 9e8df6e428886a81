//! The store as a whole: a small client drives uploads of a model tree, and the tests look at what is there
//! afterwards, on the disk and through the reading side.

mod at_rest;
mod clients;
mod crash;
mod delta;
mod flushes;
mod gathering;
mod healing;
mod partial;
mod prune;
mod put_file;
mod repair;
mod resume;
mod sealed;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use self::sealed::{is_sealed, keyring_for, plaintext};
use super::comparison::ChangeRule;
use super::*;
use crate::base::durable::{Disk, OperationKind};
use crate::base::entry::{Entry, EntryKind, RangeCutter};
use crate::base::ids::{ClientId, SnapshotId, UploadId};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::crypto::{ContentSums, blake3_hash as hash};

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

fn entry(path: EntryPath, kind: EntryKind, size: u64, inode: u64) -> Entry {
    Entry {
        path,
        kind,
        size,
        mtime: Timestamp { seconds: 1_000, nanoseconds: 0 },
        ctime: Timestamp { seconds: 1_000, nanoseconds: 0 },
        inode,
        mode: 0o644,
        owner: 0,
        group: 0,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        link_target: if kind == EntryKind::Link { b"target".to_vec() } else { Vec::new() },
        hard_link: None,
        fields: Vec::new(),
    }
}

/// What a client has: files with their bytes and a number that changes when the file does.
#[derive(Debug, Clone, Default)]
struct Model {
    files: BTreeMap<EntryPath, (Vec<u8>, u64)>,
    /// Sent with this flag instead of none.
    flags: BTreeMap<EntryPath, u8>,
}

impl Model {
    fn with(files: &[(&str, &str)]) -> Model {
        let mut model = Model::default();
        files.iter().for_each(|(name, text)| model.put(name, text.as_bytes(), 1));
        model
    }

    fn many(count: usize) -> Model {
        let mut model = Model::default();
        (0..count).for_each(|n| model.put(&format!("root/d{:02}/f{n:05}", n % 40), format!("{n}").as_bytes(), 1));
        model
    }

    fn remove(&mut self, name: &str) {
        self.files.remove(&path(name)).expect("a file of the model");
    }

    fn put(&mut self, name: &str, bytes: &[u8], change: u64) {
        self.files.insert(path(name), (bytes.to_vec(), change));
    }

    /// The entries in path order: the root folder and the files.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![entry(path("root"), EntryKind::Folder, 0, 1)];
        for (path, (bytes, change)) in &self.files {
            entries.push(entry(path.clone(), EntryKind::File, bytes.len() as u64, *change));
        }
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        entries
    }

    fn ranges(&self) -> Vec<Vec<u8>> {
        let mut cutter = RangeCutter::default();
        let mut ranges: Vec<Vec<u8>> = Vec::new();
        for entry in self.entries() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            if cutter.begins_new_range(entry.path.as_bytes(), bytes.len()) || ranges.is_empty() {
                ranges.push(Vec::new());
            }
            ranges.last_mut().unwrap().extend_from_slice(&bytes);
        }
        ranges
    }

    fn counts(&self) -> CommitCounts {
        CommitCounts { ranges: self.ranges().len() as u32, entries: self.entries().len() as u64, unreadable: 0 }
    }
}

fn request(upload: UploadId) -> UploadRequest {
    UploadRequest {
        upload,
        roots: vec![path("root")],
        label: "label".into(),
        host: "host".into(),
        tags: vec!["tag".into()],
        full: false,
        changes: ChangeRule::default(),
        parent: None,
        started: Timestamp { seconds: 5, nanoseconds: 6 },
        dry_run: false,
    }
}

fn begin(store: &Store, client: ClientId) -> Box<Upload> {
    match store.begin_upload(client, request(UploadId::random()), || {}).unwrap() {
        Begun::Open(upload) => upload,
        Begun::AlreadyStored(head) => panic!("{} is stored already", head.id),
    }
}

/// What one upload had to send.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    ranges: usize,
    contents: usize,
}

/// Sends what the store lacks, as a client does, without committing.
fn send(upload: &mut Upload, model: &Model) -> Result<Sent, StoreError> {
    let mut sent = Sent::default();
    for (number, bytes) in model.ranges().iter().enumerate() {
        if upload.offer_range(hash(bytes))? == RangeAnswer::Held {
            continue;
        }
        sent.ranges += 1;
        let needed = upload.add_range(number as u32, bytes)?;
        let entries = crate::base::entry::decode_entries(bytes).unwrap();
        for place in needed.entries() {
            sent.contents += 1;
            send_content(upload, number as u32, place, &entries[place as usize].path, model)?;
        }
    }
    Ok(sent)
}

fn send_content(
    upload: &mut Upload,
    range: u32,
    place: u32,
    path: &EntryPath,
    model: &Model,
) -> Result<(), StoreError> {
    let flags = model.flags.get(path).copied().unwrap_or(0);
    if flags == UNREADABLE {
        return upload.skip_content(range, place);
    }
    let bytes = &model.files[path].0;
    upload.begin_content(range, place)?;
    bytes.chunks(100_000).try_for_each(|chunk| upload.write_content(chunk))?;
    assert_eq!(upload.end_content(ContentSums::of(bytes), flags)?, ContentVerdict::Stored);
    Ok(())
}

fn back_up(store: &Store, client: ClientId, model: &Model) -> (Arc<Head>, Sent) {
    let mut upload = begin(store, client);
    let sent = send(&mut upload, model).unwrap();
    (upload.commit(model.counts()).unwrap(), sent)
}

/// Reads a snapshot whole and compares it with the model it was made from.
fn check_snapshot(store: &Store, head: &Head, model: &Model) {
    let stored: Vec<StoredEntry> = store.entries(head, &[]).unwrap().map(Result::unwrap).collect();
    let entries: Vec<Entry> = stored.iter().map(|stored| stored.entry.clone()).collect();
    assert_eq!(entries, model.entries());
    for stored in stored.iter().filter(|stored| stored.content.is_some()) {
        store.verify_content(head.client, stored).unwrap();
        let mut bytes = Vec::new();
        store.open_content(head.client, stored).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == model.files[&stored.entry.path].0, "{} differs", stored.entry.path.display());
    }
    assert_eq!(head.totals.entries, entries.len() as u64);
}

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    client: ClientId,
}

fn fixture() -> Fixture {
    fixture_with(Disk::real())
}

fn fixture_with(disk: Disk) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), disk).unwrap();
    let client = store.register(ClientId::random(), &"ada".parse().unwrap(), b"key", false).unwrap().id;
    Fixture { folder, store, client }
}

/// How many files lie at and below a folder.
fn files_below(folder: &Path) -> usize {
    let Ok(listing) = std::fs::read_dir(folder) else { return 0 };
    let count = |path: &Path| if path.is_dir() { files_below(path) } else { 1 };
    listing.map(|item| count(&item.unwrap().path())).sum()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let Fixture { store, client, folder } = fixture();
    let mut model =
        Model::with(&[("root/a", "one"), ("root/b/c", "two"), ("root/empty", ""), ("root/.renamed", "3")]);
    model.put("root/large", &vec![7; 3_000_000], 1);
    model.put(&format!("root/{}", "n".repeat(300)), b"a name the file system refuses", 1);
    let (head, sent) = back_up(&store, client, &model);
    assert_eq!(sent, Sent { ranges: 1, contents: 6 });
    check_snapshot(&store, &head, &model);
    assert_eq!((head.sequence, head.totals.files, head.totals.unreadable), (1, 6, 0));
    assert_eq!(head.totals.new_bytes, head.totals.bytes);
    let plain = format!("received_files/{}/{}/root/b/c", store.client(client).unwrap().folder, head.id);
    assert_eq!(plaintext(&folder.path().join(plain)).unwrap(), b"two");
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

#[test]
fn an_unchanged_tree_adds_a_head_and_an_index_and_nothing_else() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::many(3_000);
    let (first, _) = back_up(&store, client, &model);
    let before = files_below(folder.path());
    let (second, sent) = back_up(&store, client, &model);
    assert_eq!(sent, Sent::default());
    assert_eq!(files_below(folder.path()), before + 2);
    assert_eq!(second.parent, Some(first.id));
    assert_eq!((second.totals.new_bytes, second.totals.files), (0, 3_000));
    check_snapshot(&store, &second, &model);
}

#[test]
fn only_the_changed_file_is_asked_for_and_the_others_are_references() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::many(200);
    let (first, _) = back_up(&store, client, &model);
    let before = model.clone();
    model.put("root/d03/f00003", b"changed", 2);
    model.put("root/new", b"new", 1);
    let (second, sent) = back_up(&store, client, &model);
    assert_eq!(sent.contents, 2);
    check_snapshot(&store, &first, &before);
    check_snapshot(&store, &second, &model);
}

#[test]
fn a_content_marked_for_another_look_is_asked_for_again() {
    let Fixture { store, client, folder: _folder } = fixture();
    for flag in [RECHECK, CHANGED_WHILE_READ] {
        let mut model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
        model.put("root/seed", &[flag], u64::from(flag));
        back_up(&store, client, &model);
        model.put("root/a", b"One", u64::from(flag) + 10);
        model.flags.insert(path("root/a"), flag);
        let (head, _) = back_up(&store, client, &model);
        let flags = store.entries(&head, &[path("root/a")]).unwrap().next().unwrap().unwrap().flags;
        assert_eq!(flags, flag);
        model.flags.clear();
        assert_eq!(back_up(&store, client, &model).1, Sent { ranges: 1, contents: 1 });
        assert_eq!(back_up(&store, client, &model).1, Sent::default());
    }
}

#[test]
fn an_unreadable_file_is_kept_without_content_and_asked_for_again() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::with(&[("root/a", "one"), ("root/secret", "hidden")]);
    model.flags.insert(path("root/secret"), UNREADABLE);
    let (head, _) = back_up(&store, client, &model);
    assert_eq!(head.totals.unreadable, 1);
    let stored = store.entries(&head, &[path("root/secret")]).unwrap().next().unwrap().unwrap();
    assert_eq!((stored.flags, &stored.content), (UNREADABLE, &None));
    assert!(matches!(store.open_content(client, &stored), Err(StoreError::NotFound { .. })));
    model.flags.clear();
    let (second, sent) = back_up(&store, client, &model);
    assert_eq!((sent.contents, second.totals.unreadable), (1, 0));
    check_snapshot(&store, &second, &model);
}

#[test]
fn what_the_walk_could_not_read_counts_beside_the_skipped_contents() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
    model.flags.insert(path("root/a"), UNREADABLE);
    let mut upload = begin(&store, client);
    send(&mut upload, &model).unwrap();
    let head = upload.commit(CommitCounts { unreadable: 2, ..model.counts() }).unwrap();
    assert_eq!(head.totals.unreadable, 3);
}

#[test]
fn a_touched_file_with_the_same_content_becomes_a_reference() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut model = Model::with(&[("root/a", "one")]);
    let (first, _) = back_up(&store, client, &model);
    model.put("root/a", b"one", 2);
    let mut upload = begin(&store, client);
    let bytes = &model.ranges()[0];
    upload.offer_range(hash(bytes)).unwrap();
    let needed = upload.add_range(0, bytes).unwrap();
    assert_eq!(
        needed.held,
        [HeldContent { entry: 1, blake3: ContentSums::of(b"one").blake3, blocks: false, partial: None }]
    );
    upload.same_content(0, 1, 0).unwrap();
    let head = upload.commit(model.counts()).unwrap();
    let stored = store.entries(&head, &[path("root/a")]).unwrap().next().unwrap().unwrap();
    assert_eq!(stored.content.unwrap().snapshot(), first.id);
}

#[test]
fn two_clients_do_not_see_each_other() {
    let Fixture { store, client, folder: _folder } = fixture();
    let bob = store.register(ClientId::random(), &"bob".parse().unwrap(), b"other key", false).unwrap().id;
    let model = Model::with(&[("root/a", "one")]);
    let (head, _) = back_up(&store, client, &model);
    assert!(store.snapshots(bob).unwrap().is_empty());
    assert!(matches!(store.find_snapshot(bob, head.id.as_str(), None), Err(StoreError::NotFound { .. })));
    assert_eq!(back_up(&store, bob, &model).1.contents, 1);
    assert_eq!(store.snapshots(client).unwrap().len(), 1);
}

#[test]
fn an_upload_asked_for_again_names_its_snapshot_also_after_a_restart() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let upload = UploadId::random();
    let Begun::Open(mut open) = store.begin_upload(client, request(upload), || {}).unwrap() else { panic!() };
    send(&mut open, &model).unwrap();
    let head = open.commit(model.counts()).unwrap();
    let stored_as = |store: &Store| match store.begin_upload(client, request(upload), || {}).unwrap() {
        Begun::AlreadyStored(head) => head.id,
        Begun::Open(_) => panic!("forgotten"),
    };
    assert_eq!(stored_as(&store), head.id);
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    assert_eq!(stored_as(&store), head.id);
    assert_eq!(*store.find_snapshot(client, "latest", None).unwrap(), *head);
}

#[test]
fn a_newer_session_of_an_upload_ends_the_older() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let upload = UploadId::random();
    let (ended, end) = std::sync::mpsc::channel();
    let end_older = move || {
        let _ = ended.send(());
    };
    let Begun::Open(mut older) = store.begin_upload(client, request(upload), end_older).unwrap() else { panic!() };
    let mut newer = std::thread::scope(|scope| {
        let newer = scope.spawn(|| store.begin_upload(client, request(upload), || {}).unwrap());
        end.recv().unwrap();
        assert!(matches!(send(&mut older, &model), Err(StoreError::Superseded { .. })));
        drop(older);
        let Begun::Open(newer) = newer.join().unwrap() else { panic!() };
        newer
    });
    send(&mut newer, &model).unwrap();
    let head = newer.commit(model.counts()).unwrap();
    check_snapshot(&store, &head, &model);
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

#[test]
fn an_older_session_that_gets_on_is_not_ended_before_it_has_worked_off_what_came() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let upload = UploadId::random();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let ended = std::sync::Arc::new(ended);
    let end_older = {
        let ended = ended.clone();
        move || ended.store(true, std::sync::atomic::Ordering::SeqCst)
    };
    let Begun::Open(mut older) = store.begin_upload(client, request(upload), end_older).unwrap() else { panic!() };
    let mut newer = std::thread::scope(|scope| {
        let newer = scope.spawn(|| store.begin_upload(client, request(upload), || {}).unwrap());
        send(&mut older, &model).unwrap();
        drop(older);
        let Begun::Open(newer) = newer.join().unwrap() else { panic!() };
        newer
    });
    assert!(!ended.load(std::sync::atomic::Ordering::SeqCst), "it let go by itself");
    assert_eq!(send(&mut newer, &model).unwrap().contents, 0, "what it took in is there");
}

fn out_of_place<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::OutOfPlace { .. })), "{result:?}");
}

#[test]
fn what_comes_out_of_order_is_refused() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
    let bytes = &model.ranges()[0];
    let mut upload = begin(&store, client);
    out_of_place(upload.add_range(0, bytes));
    out_of_place(upload.begin_content(0, 0));
    out_of_place(upload.write_content(b"x"));
    upload.offer_range(hash(bytes)).unwrap();
    out_of_place(upload.add_range(1, bytes));
    upload.add_range(0, bytes).unwrap();
    out_of_place(upload.begin_content(0, 0));
    out_of_place(upload.begin_content(0, 2));
    out_of_place(upload.begin_content(0, 99));
    out_of_place(upload.begin_content(7, 1));
    upload.begin_content(0, 1).unwrap();
    out_of_place(upload.begin_content(0, 2));
    out_of_place(upload.skip_content(0, 2));
    out_of_place(upload.end_content(ContentSums::of(b""), 4));
    upload.end_content(ContentSums::of(b""), 0).unwrap();
    out_of_place(upload.same_content(0, 2, 0));
    out_of_place(upload.commit(model.counts()));
}

#[test]
fn counts_that_differ_are_refused() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let mut upload = begin(&store, client);
    send(&mut upload, &model).unwrap();
    out_of_place(upload.commit(CommitCounts { ranges: 1, entries: 3, unreadable: 0 }));
    assert!(store.snapshots(client).unwrap().is_empty());
}

fn encoded(paths: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    paths.iter().for_each(|text| entry(path(text), EntryKind::Folder, 0, 1).encode(&mut bytes));
    bytes
}

#[test]
fn ranges_that_overlap_the_ones_before_are_refused() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut upload = begin(&store, client);
    for (number, paths) in [(0, ["root/a", "root/c"]), (1, ["root/b", "root/d"])] {
        let bytes = encoded(&paths);
        upload.offer_range(hash(&bytes)).unwrap();
        match number {
            0 => assert!(upload.add_range(0, &bytes).is_ok()),
            _ => out_of_place(upload.add_range(number, &bytes)),
        }
    }
}

#[test]
fn a_lacking_range_must_fit_between_held_ones() {
    let Fixture { store, client, folder: _folder } = fixture();
    let held = encoded(&["root/h", "root/j"]);
    let mut first = begin(&store, client);
    first.offer_range(hash(&held)).unwrap();
    first.add_range(0, &held).unwrap();
    first.commit(CommitCounts { ranges: 1, entries: 2, unreadable: 0 }).unwrap();
    for (paths, fits) in
        [(["root/a", "root/b"], true), (["root/a", "root/i"], false), (["root/x", "root/y"], false)]
    {
        let mut upload = begin(&store, client);
        let bytes = encoded(&paths);
        assert_eq!(upload.offer_range(hash(&bytes)).unwrap(), RangeAnswer::Lacking);
        assert_eq!(upload.offer_range(hash(&held)).unwrap(), RangeAnswer::Held);
        assert_eq!(upload.add_range(0, &bytes).is_ok(), fits, "{paths:?}");
    }
    let mut upload = begin(&store, client);
    upload.offer_range(hash(&held)).unwrap();
    out_of_place(upload.offer_range(hash(&held)));
}

#[test]
fn hostile_ranges_are_refused() {
    let Fixture { store, client, folder } = fixture();
    let refused = |bytes: &[u8], announced: [u8; 32]| {
        let mut upload = begin(&store, client);
        upload.offer_range(announced).unwrap();
        upload.add_range(0, bytes).unwrap_err()
    };
    let good = encoded(&["root/a"]);
    assert!(matches!(refused(&good, [0; 32]), StoreError::Mismatch { .. }));
    let outside = encoded(&["root", "rooted"]);
    assert!(matches!(refused(&outside, hash(&outside)), StoreError::OutOfPlace { .. }));
    let unsorted = [encoded(&["root/b"]), encoded(&["root/a"])].concat();
    assert!(matches!(refused(&unsorted, hash(&unsorted)), StoreError::Malformed { .. }));
    for bad in ["../up", "root/..", "/root"] {
        let mut bytes = encoded(&[&"x".repeat(bad.len())]);
        let place = bytes.windows(bad.len()).position(|window| window == "x".repeat(bad.len()).as_bytes()).unwrap();
        bytes[place..place + bad.len()].copy_from_slice(bad.as_bytes());
        assert!(matches!(refused(&bytes, hash(&bytes)), StoreError::Malformed { .. }), "{bad}");
    }
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

#[test]
fn a_file_named_like_a_folder_before_it_is_stored_all_the_same() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::with(&[("root/a", "file"), ("root/a/b", "below it"), ("root/.renamed/0", "x")]);
    let (head, _) = back_up(&store, client, &model);
    check_snapshot(&store, &head, &model);
}

#[test]
fn no_more_ranges_may_be_pending_than_the_limit() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut upload = begin(&store, client);
    for number in 0..8u8 {
        upload.offer_range([number; 32]).unwrap();
    }
    out_of_place(upload.offer_range([8; 32]));
}

#[test]
fn large_pending_ranges_are_bounded_together() {
    let Fixture { store, client, folder: _folder } = fixture();
    let mut upload = begin(&store, client);
    let range = |prefix: &str| {
        let mut bytes = Vec::new();
        for n in 0..9 {
            let long = path(&format!("root/{prefix}{n}/{}", "x".repeat(60_000)));
            entry(long, EntryKind::File, 1, 1).encode(&mut bytes);
        }
        bytes
    };
    // Two of these are above the limit together; a third is taken beside them only as the newest.
    for (number, prefix) in ["a", "b", "c"].iter().enumerate() {
        let bytes = range(prefix);
        upload.offer_range(hash(&bytes)).unwrap();
        let added = upload.add_range(number as u32, &bytes);
        assert_eq!(added.is_ok(), number < 2, "{prefix}");
    }
}

#[test]
fn a_content_that_arrives_damaged_is_sent_again_at_any_time_but_three_times_at_most() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::with(&[("root/a", "one"), ("root/b", "two")]);
    let bytes = &model.ranges()[0];
    let damaged = |upload: &mut Upload| {
        upload.begin_content(0, 1)?;
        upload.write_content(b"onX")?;
        upload.end_content(ContentSums::of(b"one"), 0)
    };
    let mut upload = begin(&store, client);
    upload.offer_range(hash(bytes)).unwrap();
    upload.add_range(0, bytes).unwrap();
    assert_eq!(damaged(&mut upload).unwrap(), ContentVerdict::Repeat);
    send_content(&mut upload, 0, 2, &path("root/b"), &model).unwrap();
    send_content(&mut upload, 0, 1, &path("root/a"), &model).unwrap();
    check_snapshot(&store, &upload.commit(model.counts()).unwrap(), &model);

    let mut changed = model.clone();
    changed.put("root/a", b"one", 3);
    let bytes = &changed.ranges()[0];
    let mut upload = begin(&store, client);
    upload.offer_range(hash(bytes)).unwrap();
    upload.add_range(0, bytes).unwrap();
    assert_eq!(damaged(&mut upload).unwrap(), ContentVerdict::Repeat);
    assert_eq!(damaged(&mut upload).unwrap(), ContentVerdict::Repeat);
    assert!(matches!(damaged(&mut upload), Err(StoreError::Mismatch { .. })));
}

#[test]
fn a_name_belongs_to_its_key_and_survives_a_restart() {
    let Fixture { store, client, folder } = fixture();
    let name = "ada".parse().unwrap();
    assert_eq!(store.register(ClientId::random(), &name, b"key", false).unwrap().id, client);
    assert!(matches!(
        store.register(ClientId::random(), &name, b"another", false),
        Err(StoreError::NameTaken { .. })
    ));
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let record = store.client_named(&name).unwrap();
    assert_eq!((record.id, record.public_key.as_slice()), (client, &b"key"[..]));
    assert!(matches!(
        store.register(ClientId::random(), &name, b"another", false),
        Err(StoreError::NameTaken { .. })
    ));
}

#[test]
fn a_registration_consumes_its_token() {
    let Fixture { store, folder: _folder, .. } = fixture();
    let name = "bob".parse().unwrap();
    let token = store.create_token(&name, std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(store.token(&name).unwrap(), Some(token));
    store.register(ClientId::random(), &name, b"key", true).unwrap();
    assert_eq!(store.token(&name).unwrap(), None);
}

#[test]
fn a_data_folder_has_one_holder() {
    let Fixture { store, folder, .. } = fixture();
    assert!(matches!(Store::open(folder.path(), Disk::real()), Err(StoreError::Locked { .. })));
    drop(store);
    Store::open(folder.path(), Disk::real()).unwrap();
}

#[test]
fn key_files_are_private_and_stay_in_their_folder() {
    use std::os::unix::fs::MetadataExt;
    let Fixture { store, folder, .. } = fixture();
    assert_eq!(store.read_key("server.der").unwrap(), None);
    store.write_key("server.der", b"secret").unwrap();
    assert_eq!(store.read_key("server.der").unwrap().unwrap(), b"secret");
    let metadata = std::fs::metadata(folder.path().join("keys/server.der")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(store.write_key("../out", b"x").is_err());
}

#[test]
fn a_filter_reads_what_it_selects_and_names_what_it_does_not_find() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::many(5_000);
    let (head, _) = back_up(&store, client, &model);
    let filter = [path("root/d07"), path("root/d07/f00007"), path("root/d39/f04999"), path("root/none")];
    let mut entries = store.entries(&head, &filter).unwrap();
    let found = entries.by_ref().map(|stored| stored.unwrap().entry.path).collect::<Vec<_>>();
    let expected: Vec<EntryPath> =
        model.files.keys().filter(|file| file.is_within(&filter[0]) || **file == filter[2]).cloned().collect();
    assert_eq!(found, expected);
    assert_eq!(entries.unmatched(), [path("root/none")]);
}

#[test]
fn a_snapshot_is_found_by_prefix_and_the_answer_names_the_next_step() {
    let Fixture { store, client, folder: _folder } = fixture();
    let none = store.find_snapshot(client, "latest", None).unwrap_err().to_string();
    assert_eq!(none, "ada has no snapshot yet: run \"cyberbackup backup\" first");
    let model = Model::with(&[("root/a", "one")]);
    let (first, _) = back_up(&store, client, &model);
    let (second, _) = back_up(&store, client, &model);
    assert_eq!(store.find_snapshot(client, first.id.as_str(), None).unwrap().id, first.id);
    assert_eq!(store.find_snapshot(client, "latest", Some(&path("root"))).unwrap().id, second.id);
    assert!(store.find_snapshot(client, "latest", Some(&path("other"))).is_err());
    assert!(matches!(store.find_snapshot(client, "2", None), Err(StoreError::Ambiguous { .. })));
    let missing = store.find_snapshot(client, "x", None).unwrap_err().to_string();
    assert_eq!(missing, "no snapshot of ada begins with \"x\": \"cyberbackup snapshots\" lists them");
}

/// The paths of all files below a folder.
fn all_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for item in std::fs::read_dir(folder).into_iter().flatten() {
        let path = item.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn damage_to_any_stored_file_is_found_and_named() {
    for part in ["snapshots", "ranges", "received_files"] {
        let Fixture { store, client, folder } = fixture();
        let model = Model::with(&[("root/a", "one")]);
        let (head, _) = back_up(&store, client, &model);
        let mut files = Vec::new();
        all_files(&folder.path().join(part), &mut files);
        for file in files.iter().filter(|file| file.extension().is_none_or(|extension| extension != "json")) {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }
        match part {
            "snapshots" => assert!(matches!(store.entries(&head, &[]), Err(StoreError::Damaged { .. }))),
            "ranges" => {
                let first = store.entries(&head, &[]).unwrap().next().unwrap();
                assert!(matches!(first, Err(StoreError::Damaged { .. })));
            }
            _ => {
                let stored = store.entries(&head, &[path("root/a")]).unwrap().next().unwrap().unwrap();
                let damage = store.verify_content(client, &stored).unwrap_err();
                let problem = match is_sealed() {
                    true => "root/a: the stored content is gone",
                    false => "root/a: the stored content does not have its recorded checksums",
                };
                assert_eq!(damage.to_string(), problem);
            }
        }
        // A damaged base is no base: the next upload still works, and what it brings is whole.
        let mut changed = model.clone();
        changed.put("root/a", b"two", 2);
        let (next, _) = back_up(&store, client, &changed);
        check_snapshot(&store, &next, &changed);
    }
}

#[test]
fn a_damaged_head_hides_no_other_snapshot() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let (first, _) = back_up(&store, client, &model);
    let (second, _) = back_up(&store, client, &model);
    let head = folder.path().join(format!("snapshots/{}/{}.json", store.client(client).unwrap().folder, first.id));
    drop(store);
    std::fs::write(head, b"{}").unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let ids: Vec<_> = store.snapshots(client).unwrap().iter().map(|head| head.id).collect();
    assert_eq!(ids, [second.id]);
    let damaged: Vec<_> = store.damaged_heads(client).unwrap().iter().map(|head| head.id).collect();
    assert_eq!(damaged, [first.id]);
    check_snapshot(&store, &second, &model);
}

/// Three snapshots, of which the heads of some are then damaged.
fn with_damaged_heads(places: &[usize], damage: impl Fn(&Path)) -> (Fixture, Vec<Arc<Head>>) {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let mut heads: Vec<Arc<Head>> = (0..3).map(|_| back_up(&store, client, &model).0).collect();
    let of_client = folder.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    // Within one second ids come in any order; `latest` goes by sequence, so sequences are looked at here.
    heads.sort_by_key(|head| head.sequence);
    places.iter().for_each(|place| damage(&of_client.join(format!("{}.json", heads[*place].id))));
    drop(store);
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    (Fixture { store, client, folder }, heads)
}

fn truncate(head: &Path) {
    std::fs::write(head, b"{}").unwrap();
}

#[test]
fn a_snapshot_whose_head_is_damaged_or_gone_is_named_and_not_chosen() {
    for damage in [truncate, |head: &Path| std::fs::remove_file(head).unwrap()] {
        let (Fixture { store, client, folder: _folder }, heads) = with_damaged_heads(&[0, 1, 2], damage);
        let latest = store.find_snapshot(client, "latest", None);
        assert!(matches!(latest, Err(StoreError::DamagedHead { .. })), "{latest:?}");
        let one = store.find_snapshot(client, heads[0].id.as_str(), None);
        assert!(matches!(one, Err(StoreError::DamagedHead { snapshot, .. }) if snapshot == heads[0].id));
        assert!(matches!(store.find_snapshot(client, "2", None), Err(StoreError::Ambiguous { .. })));
        assert_eq!(store.damaged_heads(client).unwrap().len(), 3);
    }
}

#[test]
fn the_sequence_of_a_damaged_head_is_not_given_out_again() {
    for places in [&[2][..], &[0, 2], &[0, 1, 2]] {
        let (Fixture { store, client, folder: _folder }, _) = with_damaged_heads(places, truncate);
        let (next, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
        assert!(next.sequence > 3, "{}", next.sequence);
    }
}

#[test]
fn a_head_that_the_system_does_not_give_is_an_error_and_not_a_missing_snapshot() {
    let (Fixture { store, client, folder }, heads) = with_damaged_heads(&[1], |head| {
        std::fs::rename(head, head.with_extension("aside")).unwrap();
        // Reading a folder as a file fails in the system, whoever asks.
        std::fs::create_dir(head).unwrap();
    });
    assert!(matches!(store.snapshots(client), Err(StoreError::Io { .. })));
    let folder = folder.path().join("snapshots").join(store.client(client).unwrap().folder.as_str());
    let head = folder.join(format!("{}.json", heads[1].id));
    std::fs::remove_dir(&head).unwrap();
    std::fs::rename(head.with_extension("aside"), &head).unwrap();
    assert_eq!(store.snapshots(client).unwrap().len(), 3, "the failure was not kept");
}

#[test]
fn a_range_or_an_index_that_is_gone_is_damage() {
    let Fixture { store, client, folder } = fixture();
    let (head, _) = back_up(&store, client, &Model::with(&[("root/a", "one")]));
    let mut files = Vec::new();
    all_files(&folder.path().join("ranges"), &mut files);
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let mut entries = store.entries(&head, &[path("root/a"), path("zzz")]).unwrap();
    assert!(matches!(entries.next(), Some(Err(StoreError::Damaged { .. }))));
    assert_eq!(entries.damaged_range(), Some((&path("root"), &path("root/a"))));
    assert_eq!(entries.unmatched(), [path("zzz")], "what a damaged range may hold is not missing");
    std::fs::remove_file(folder.path().join(format!(
        "snapshots/{}/{}.index",
        store.client(client).unwrap().folder,
        head.id
    )))
    .unwrap();
    assert!(matches!(store.entries(&head, &[]), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_range_damaged_at_its_full_length_is_not_shared() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::many(2_000);
    back_up(&store, client, &model);
    let mut files = Vec::new();
    all_files(&folder.path().join("ranges"), &mut files);
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    let (second, sent) = back_up(&store, client, &model);
    assert_eq!(sent.ranges, 1);
    check_snapshot(&store, &second, &model);
}

#[test]
fn a_commit_never_touches_what_bears_its_id_already() {
    let Fixture { store, client, folder } = fixture();
    let model = Model::with(&[("root/a", "one")]);
    let mut upload = begin(&store, client);
    send(&mut upload, &model).unwrap();
    let client_folder = store.client(client).unwrap().folder.to_string();
    let theirs = folder.path().join("snapshots").join(client_folder).join(format!("{}.json", upload.snapshot()));
    std::fs::write(&theirs, b"theirs").unwrap();
    assert!(matches!(upload.commit(model.counts()), Err(StoreError::Damaged { .. })));
    assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
    back_up(&store, client, &model);
}

#[test]
fn contents_without_a_head_are_reported_and_left_alone() {
    let Fixture { store, client, folder } = fixture();
    let stray = folder
        .path()
        .join("received_files")
        .join(ClientRecord::clone(&store.client(client).unwrap()).folder.as_str())
        .join("20200101T000000Z-00000000");
    drop(store);
    std::fs::create_dir_all(&stray).unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let [line] = store.recovery().lines.as_slice() else { panic!("{:?}", store.recovery()) };
    assert!(line.ends_with("20200101T000000Z-00000000 belongs to no snapshot; it is left alone"), "{line}");
    assert!(stray.exists());
}

#[test]
fn a_store_can_be_shared_and_an_upload_sent_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Store>();
    sent::<Upload>();
}

/// `cargo test --release --lib storage -- --ignored --nocapture` prints the figures.
#[test]
#[ignore = "a measurement"]
fn speed_of_many_small_files_and_of_one_large() {
    let Fixture { store, client, folder: _folder } = fixture();
    let model = Model::many(20_000);
    let mut upload = begin(&store, client);
    let start = std::time::Instant::now();
    send(&mut upload, &model).unwrap();
    println!("staged {:.0} small files/s", 20_000.0 / start.elapsed().as_secs_f64());
    let start = std::time::Instant::now();
    upload.commit(model.counts()).unwrap();
    println!("committed them in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    back_up(&store, client, &model);
    println!("an unchanged backup of them took {:?}", start.elapsed());

    let mut large = Model::default();
    large.put("root/large", b"", 1);
    let range = &large.ranges()[0];
    let mut upload = begin(&store, client);
    upload.offer_range(hash(range)).unwrap();
    upload.add_range(0, range).unwrap();
    let chunk: Vec<u8> = (0..128 * 1024).map(|n| (n * 31 % 251) as u8).collect();
    upload.begin_content(0, 1).unwrap();
    let start = std::time::Instant::now();
    (0..8_192).for_each(|_| upload.write_content(&chunk).unwrap());
    println!("wrote and hashed {:.2} GB/s", 1.0737 / start.elapsed().as_secs_f64());
}
