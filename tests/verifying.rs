//! Verification of a whole store by its operator, and healing by the clients' next backups: one byte flipped in each
//! file of a store with every kind of file in it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cyberbackup::base::time::Timestamp;

use crate::support::random::Random;
use crate::support::{
    LARGE_BYTES, Run, TestClient, TestServer, Workplace, is_sealed_at_rest, kill, large_file, tree, wait_until,
};

const MIB: usize = 1024 * 1024;

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes).map(|_| random.below(256) as u8).collect()
}

fn flip_middle(file: &Path) {
    flip_at(file, |length| length / 2);
}

fn flip_at(file: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(file).unwrap();
    let place = place(bytes.len());
    bytes[place] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// A store with every kind of file in it, whose server has ended, and the tree of its newest snapshot.
pub struct Store {
    pub workplace: Workplace,
    pub source: PathBuf,
    pub data: PathBuf,
}

impl Store {
    pub fn new() -> Store {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let data = server.data.clone();
        let source = workplace.join("source");
        let client = TestClient::new(&workplace, &server.address, "ada");
        (0..4).for_each(|n| drop(workplace.write(format!("source/f{n}"), format!("{n}"))));
        workplace.write("source/large", noise(3 * MIB, 1));
        let first = client.backup(&source);
        let large = fs::OpenOptions::new().write(true).open(source.join("large")).unwrap();
        large.write_all_at(b"changed", MIB as u64).unwrap();
        workplace.write("source/f0", "other");
        settle();
        let second = client.backup(&source);
        let store = Store { workplace, source, data };
        store.operator(&["hold", &second]).expect(0);
        store.operator(&["prune", "--snapshot", &first]).expect(0);
        store.operator(&["enroll", "bob"]).expect(0);
        store.operator(&["server-key", "rotate", "--rotate-after", "300d", "--rsa-bits", "1024"]).expect(0);
        fs::write(store.data.join("daily.json"), daily_record(1)).unwrap();
        let stalled = store.workplace.join("stalled");
        fs::create_dir(&stalled).unwrap();
        large_file(&stalled.join("large"), LARGE_BYTES);
        let client = TestClient::new(&store.workplace, &server.address, "ada");
        let cut_off = client.start(["backup", stalled.to_str().unwrap()]);
        let staged = || tree::files_below(&server.data.join("incoming"));
        let is_under_way =
            |file: PathBuf| file.ends_with("large") && fs::metadata(&file).is_ok_and(|it| it.len() > 1 << 21);
        wait_until(|| staged().into_iter().any(is_under_way), "two mebibytes of an upload");
        kill(cut_off.id(), "KILL");
        drop(cut_off);
        assert_eq!(server.stop(), 0);
        store
    }

    fn operator(&self, words: &[&str]) -> Run {
        let data = self.data.to_str().unwrap();
        self.workplace.run([words, &["--data", data]].concat())
    }

    fn serve(&self) -> TestServer {
        TestServer::start(&self.workplace)
    }

    /// What is restored of the newest snapshot is right, whether or not all of it is.
    fn check_restored(&self, to: &str) {
        let server = self.serve();
        let client = TestClient::new(&self.workplace, &server.address, "ada");
        let run = client.run(["restore", "--to", to]);
        let restored = self.workplace.join(to).join(self.source.strip_prefix("/").unwrap());
        let original = tree::files_below(&self.source);
        let came = tree::files_below(&restored);
        if run.code == 0 {
            assert_eq!(came.len(), original.len());
        }
        for file in &came {
            let name = file.strip_prefix(&restored).unwrap();
            assert!(fs::read(file).unwrap() == fs::read(self.source.join(name)).unwrap(), "{}", name.display());
        }
        assert_eq!(server.stop(), 0);
    }
}

/// The record of a daily prune that was begun then, in seconds since 1970.
pub fn daily_record(begun_seconds: u64) -> Vec<u8> {
    cyberbackup::storage::encode_sealed(&serde_json::json!({ "version": 1, "begun_seconds": begun_seconds }))
}

/// A file that was written to within three seconds is looked at again by the next backup, whatever else there is.
pub fn settle() {
    let until = Timestamp::now().seconds + 4;
    wait_until(|| Timestamp::now().seconds >= until, "four seconds");
}

#[test]
fn a_flipped_byte_in_any_file_of_a_store_is_named_and_nothing_wrong_is_restored() {
    let store = Store::new();
    store.operator(&["verify"]).expect(0);
    let mut kinds = std::collections::BTreeSet::new();
    for file in tree::files_below(&store.data) {
        let name = file.strip_prefix(&store.data).unwrap().to_str().unwrap().to_string();
        let is_staged = name.starts_with("incoming/") && !name.ends_with("/journal");
        if is_staged || name.ends_with(".summary") || name == "lock" || name.ends_with(".held") {
            continue;
        }
        let whole = fs::read(&file).unwrap();
        // Some records of blocks are dead: notes of a content that was still arriving. Their damage harms nothing.
        let mut run = None;
        for part in if name.ends_with(".blocks") { 1..16 } else { 8..9 } {
            flip_at(&file, |length| length * part / 16);
            let verified = store.operator(&["verify"]);
            if verified.code == 6 {
                run = Some(verified);
                break;
            }
            assert!(name.ends_with(".blocks"), "{name} is not found damaged: {}", verified.out());
            store.check_restored(&format!("dead{part}"));
            fs::write(&file, &whole).unwrap();
        }
        let run = run.unwrap_or_else(|| panic!("{name} is not found damaged, whatever part of it is"));
        let told = format!("\n{}", run.err());
        assert!(told.contains(&format!("\n{name}")), "{name} is not named in:\n{told}");
        let folder = name.split('/').next().unwrap().to_string();
        if ["received_files", "deltas", "ranges", "snapshots"].contains(&folder.as_str()) {
            store.check_restored(&format!("to{}", kinds.len()));
        }
        let end = Path::new(&name).extension().map_or("", |end| end.to_str().unwrap()).to_string();
        kinds.insert((folder, end));
        fs::write(&file, whole).unwrap();
    }
    store.operator(&["verify"]).expect(0);
    let kind = |folder: &str, end: &str| kinds.contains(&(folder.to_string(), end.to_string()));
    for (folder, end) in [
        ("received_files", ""),
        ("deltas", ""),
        ("ranges", ""),
        ("ranges", "blocks"),
        ("snapshots", "index"),
        ("snapshots", "json"),
        ("snapshots", "dropped"),
        ("clients", "json"),
        ("tokens", "json"),
        ("keys", "der"),
        ("keys", "json"),
        ("daily.json", "json"),
        ("damage", "checked"),
        ("incoming", ""),
    ] {
        assert!(kind(folder, end), "no {folder} file with the end {end:?} was there: {kinds:?}");
    }
}

#[test]
fn the_next_backup_heals_plain_files_and_deltas_for_all_snapshots() {
    let store = Store::new();
    let is_content = |file: &&PathBuf| {
        let name = file.strip_prefix(&store.data).unwrap().to_str().unwrap();
        name.starts_with("deltas/") || name.ends_with("/f0") || name.ends_with("/f3") || name.ends_with("/large")
    };
    let files = tree::files_below(&store.data);
    let harmed: Vec<&PathBuf> =
        files.iter().filter(is_content).filter(|file| !file.starts_with(store.data.join("incoming"))).collect();
    assert_eq!(harmed.len(), 4, "f0 and f3, the large file, and its delta: {harmed:?}");
    let whole: Vec<Vec<u8>> = harmed.iter().map(|file| fs::read(file).unwrap()).collect();
    harmed.iter().for_each(|file| flip_middle(file));
    // One that is gone is damaged too.
    fs::remove_file(harmed.iter().find(|file| file.ends_with("f3")).unwrap()).unwrap();
    let server = store.serve();
    let run = store.operator(&["verify", "--json"]).expect(6);
    assert_eq!(run.event("summary")["damaged"], 4, "{}", run.out());
    assert_eq!(tree::files_below(&store.data.join("damage")).len(), 2, "the list, and what was read when");
    let client = TestClient::new(&store.workplace, &server.address, "ada");
    client.backup(&store.source);
    store.operator(&["verify"]).expect(0);
    for (file, whole) in harmed.iter().zip(&whole) {
        // A sealed file gets fresh IVs, at least.
        assert!(is_sealed_at_rest() || fs::read(file).unwrap() == *whole, "{} is as it was", file.display());
    }
    client.run(["verify"]).expect(0);
    // What is whole is not asked for again.
    let again = client.run(["backup", "--json", "--quiet", store.source.to_str().unwrap()]).expect(0);
    let summary = again.event("summary");
    assert_eq!(summary["bytes_sent"], 0, "{}", again.out());
    // Nor is it read: no file was looked into.
    assert_eq!((&summary["files_sent"], &summary["files_same"]), (&0.into(), &0.into()), "{}", again.out());
    assert_eq!(tree::files_below(&store.data.join("damage")).len(), 1, "the list is gone");
}

#[test]
fn what_a_client_finds_damaged_is_healed_by_its_next_backup() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    (0..3).for_each(|n| drop(workplace.write(format!("source/f{n}"), format!("{n}"))));
    settle();
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup(&source);
    let stored = tree::files_below(&server.data.join("received_files"));
    flip_middle(&stored[0]);
    fs::remove_file(&stored[1]).unwrap();
    client.run(["verify"]).expect(6);
    client.backup(&source);
    client.run(["verify"]).expect(0);
    // A restore that cannot read a file is enough.
    fs::remove_file(&stored[2]).unwrap();
    client.run(["restore", "--to", "to"]).expect(6);
    client.backup(&source);
    client.run(["verify"]).expect(0);
    assert!(is_sealed_at_rest() || fs::read(&stored[2]).unwrap() == b"2");
}

#[test]
fn samples_of_a_tenth_have_read_everything_after_ten_runs() {
    const FILES: u64 = 200;
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    (0..FILES).for_each(|n| drop(workplace.write(format!("source/f{n}"), format!("{n}"))));
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup(&workplace.join("source"));
    let data = server.data.to_str().unwrap();
    let mut read = 0;
    for _ in 0..10 {
        // Runs within one second are told apart by the number of the part.
        let second = Timestamp::now().seconds;
        let run =
            workplace.run(["verify", "--data", data, "--client", "ada", "--sample", "10%", "--json"]).expect(0);
        let files = run.event("summary")["files"].as_u64().unwrap();
        assert!(files < FILES / 3, "{files}");
        read += files;
        wait_until(|| Timestamp::now().seconds > second, "the next second");
    }
    assert!(read >= FILES, "{read}");
}

#[test]
fn flags_that_do_not_belong_together_are_refused() {
    let workplace = Workplace::new();
    for (words, told) in [
        (&["verify", "--sample", "10%"][..], "--data"),
        (&["verify", "--data", "d", "--sample", "10"], "as in 10%"),
        (&["server", "--data", "d", "--verify-sample", "10%"], "--prune-daily"),
        (&["verify", "--data", "d", "a/path"], "--client"),
        (&["verify", "--data", "d", "--snapshot", "latest"], "does not go with"),
    ] {
        let run = workplace.run(words).expect(2);
        assert!(run.err().contains(told), "{words:?}: {}", run.err());
    }
}

#[test]
fn what_no_record_and_no_list_tells_of_is_named_as_damage() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    crate::support::tree::many_files(&source, 3);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.run(["backup".as_ref(), source.as_os_str()]).expect(0);
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    let verify = |extra: &[&str], code| {
        let words = [&["verify", "--data", data.to_str().unwrap()][..], extra].concat();
        workplace.run(words).expect(code).err()
    };
    verify(&[], 0);
    assert!(verify(&["--client", "nobody"], 1).contains("no client is named nobody"));
    let only = |folder: &str| std::fs::read_dir(data.join(folder)).unwrap().next().unwrap().unwrap().path();
    let is_record = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let record = crate::support::tree::files_below(&data.join("clients")).into_iter().find(is_record).unwrap();
    let away = workplace.join("away");
    std::fs::rename(&record, &away).unwrap();
    let told = verify(&[], 6);
    assert!(told.contains("snapshots/ada-") && told.contains("server --repair"), "{told}");
    std::fs::rename(&away, &record).unwrap();
    let snapshots = only("snapshots");
    std::fs::rename(&snapshots, &away).unwrap();
    std::fs::create_dir(&snapshots).unwrap();
    let told = verify(&[], 6);
    assert!(told.contains("received_files/ada-") && told.contains("head and the index"), "{told}");
    std::fs::remove_dir(&snapshots).unwrap();
    std::fs::rename(&away, &snapshots).unwrap();
    verify(&[], 0);
}
