//! A server that exchanges, drops or sets back what it shows of a vault is found out, and what it dropped by its rules is
//! no damage. The tests are the server: they change its files, with checksums that fit.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cyberbackup::base::ids::hex;
use cyberbackup::crypto::{blake3_hash, crc32};

use super::{back_up, opened, packs, with_vault};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

const CHUNK: u8 = 2;
const SNAPSHOT: u8 = 4;

/// A vault at a server that is stopped whenever its files are looked at or changed.
struct Fixture<'a> {
    workplace: &'a Workplace,
    server: Option<TestServer>,
    data: PathBuf,
    source: PathBuf,
}

impl<'a> Fixture<'a> {
    /// With so many snapshots of `source/file`, which holds each time its number.
    fn new(workplace: &'a Workplace, snapshots: usize) -> (Fixture<'a>, Vec<String>) {
        let (server, client) = with_vault(workplace);
        let ids = (0..snapshots).map(|number| {
            workplace.write("source/file", number.to_string().repeat(100));
            back_up(&client, &workplace.join("source"))
        });
        let ids = ids.collect();
        let (data, source) = (server.data.clone(), workplace.join("source"));
        (Fixture { workplace, server: Some(server), data, source }, ids)
    }

    fn client(&self, user: &str) -> TestClient<'a> {
        let server = self.server.as_ref().expect("it runs");
        TestClient::new(self.workplace, &server.address, user)
    }

    /// Lets `change` do something to the server's files.
    fn change(&mut self, is_index_kept: bool, change: impl FnOnce(&Path)) {
        assert_eq!(self.server.take().expect("it runs").stop(), 0);
        change(&self.data);
        if !is_index_kept {
            fs::remove_file(self.vault().join("index.redb")).unwrap();
        }
        self.server = Some(TestServer::start(self.workplace));
    }

    fn vault(&self) -> PathBuf {
        fs::read_dir(self.data.join("vaults")).unwrap().next().unwrap().unwrap().path()
    }

    fn run(&self, words: &[&str]) -> Run {
        self.run_as("ada", words)
    }

    /// A client's command that has the passphrase at hand.
    fn run_as(&self, user: &str, words: &[&str]) -> Run {
        let client = self.client(user);
        Run::of(opened(&client, words))
    }

    /// The path of `source/file` in a snapshot.
    fn file(&self) -> String {
        self.source.join("file").strip_prefix("/").unwrap().to_str().unwrap().to_string()
    }

    /// Restores, and gives what came of `source/file`.
    fn restore(&self, to: &str, words: &[&str]) -> (Run, Option<String>) {
        let to = self.workplace.join(to);
        let _ = fs::remove_dir_all(&to);
        let run = self.run(&[&["restore", "--to", to.to_str().unwrap()], words].concat());
        (run, fs::read_to_string(to.join(self.file())).ok())
    }

    fn operator(&self, words: &[&str]) -> Run {
        let words = words.iter().map(OsStr::new);
        self.workplace.run(words.chain(["--data".as_ref(), self.data.as_os_str()]))
    }

    /// Another host, with its own snapshot, and with the full key of the vault.
    fn add_host(&self, user: &str) -> String {
        let host = self.client(user);
        fs::create_dir_all(host.state()).unwrap();
        for key in ["vault.key", "vault-put.key"] {
            fs::copy(self.client("ada").state().join(key), host.state().join(key)).unwrap();
        }
        back_up(&host, &self.source)
    }
}

/// A file of a snapshot in the one client folder that has it.
fn file_of(data: &Path, id: &str, end: &str) -> PathBuf {
    let clients = fs::read_dir(data.join("snapshots")).unwrap().map(|folder| folder.unwrap().path());
    let mut found = clients.map(|folder| folder.join(format!("{id}.{end}"))).filter(|file| file.exists());
    found.next().expect("the snapshot is there")
}

/// The value of a field of a head.
pub fn field(head: &str, name: &str) -> String {
    let start = head.find(&format!("\"{name}\": \"")).unwrap() + name.len() + 5;
    head[start..].split('"').next().unwrap().to_string()
}

/// Gives a field of a head another value, and the head the checksum that fits.
fn set_field(data: &Path, id: &str, name: &str, value: &str) {
    change_head(data, id, |head| head.replace(&field(head, name), value));
}

/// Changes a head, and gives it the checksum that fits.
fn change_head(data: &Path, id: &str, change: impl Fn(&str) -> String) {
    let file = file_of(data, id, "json");
    let changed = change(&fs::read_to_string(&file).unwrap());
    fs::write(file, with_checksum(&changed)).unwrap();
}

/// A file of the server's that ends with a checksum, with the one that fits.
pub fn with_checksum(changed: &str) -> String {
    let (body, _) = changed.split_once(",\n  \"checksum\": \"").unwrap();
    let checksum = hex(&blake3_hash(body.as_bytes()));
    format!("{body},\n  \"checksum\": \"{checksum}\"\n}}\n")
}

/// Has each of two heads lead to what the other one has.
fn exchange_heads(data: &Path, [one, two]: [&str; 2]) {
    let head = |id: &str| fs::read_to_string(file_of(data, id, "json")).unwrap();
    let (first, second) = (head(one), head(two));
    for name in ["object", "upload"] {
        set_field(data, one, name, &field(&second, name));
        set_field(data, two, name, &field(&first, name));
    }
}

/// A record of a pack: where it begins, and where its payload and its CRC32 do.
#[derive(Clone, Copy)]
struct Place {
    kind: u8,
    start: usize,
    payload: usize,
    end: usize,
}

fn records(pack: &[u8]) -> Vec<Place> {
    let (mut start, mut found) = (36, Vec::new());
    while start < pack.len() {
        let length = u32::from_le_bytes(pack[start + 1..start + 5].try_into().unwrap()) as usize;
        let payload = start + 37 + if [CHUNK, SNAPSHOT].contains(&pack[start]) { 16 } else { 0 };
        found.push(Place { kind: pack[start], start, payload, end: payload + length });
        start = payload + length + 4;
    }
    found
}

fn put_crc(bytes: &mut [u8], start: usize, end: usize) {
    let crc = crc32(&bytes[start..end]).to_le_bytes();
    bytes[end..end + 4].copy_from_slice(&crc);
}

/// Has the records of two snapshots themselves say that each is the other, and the heads lead there.
fn exchange_records(data: &Path, pack: &Path, [one, two]: [&str; 2]) {
    let mut bytes = fs::read(pack).unwrap();
    for Place { payload, start, end, .. } in records(&bytes).into_iter().filter(|record| record.kind == SNAPSHOT) {
        let id = std::str::from_utf8(&bytes[payload..payload + 25]).unwrap();
        let other = if id == one { two } else { one };
        bytes[payload..payload + 25].copy_from_slice(other.as_bytes());
        put_crc(&mut bytes, start, end);
        set_field(data, other, "object", &hex(&blake3_hash(&bytes[start..end])));
    }
    fs::write(pack, bytes).unwrap();
}

#[test]
fn exchanged_heads_are_named_whatever_is_asked_and_give_no_other_bytes() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 2);
    let (old, new) = (ids[0].as_str(), ids[1].as_str());
    let pack = packs(fixture.server.as_ref().unwrap())[0].clone();
    let exchange = |are_records: bool, data: &Path| match are_records {
        true => exchange_records(data, &pack, [old, new]),
        false => exchange_heads(data, [old, new]),
    };
    // In exchanged records the server sees nothing wrong: it is the sealed head that tells.
    let by_record = "which the server shows under this id";
    for (told, is_index_kept, are_records) in
        [("were exchanged", true, false), ("were exchanged", false, false), (by_record, false, true)]
    {
        fixture.change(is_index_kept, |data| exchange(are_records, data));
        for words in [&["--snapshot", old][..], &["--snapshot", new], &[]] {
            let (run, came) = fixture.restore("to", words);
            let run = run.expect(6);
            assert!(run.err().contains(told) && came.is_none(), "{words:?}: {}", run.err());
        }
        let file = fixture.file();
        for words in [vec!["ls"], vec!["ls", "--snapshot", old], vec!["cat", &file, "--snapshot", new]] {
            let run = fixture.run(&words).expect(6);
            assert!(run.err().contains(told) && run.stdout.is_empty(), "{words:?}: {}", run.err());
        }
        let run = fixture.run(&["verify"]).expect(6);
        for id in [old, new] {
            let line = |line: &str| line.contains(&format!("snapshot {id}:")) && line.contains(told);
            assert!(run.err().lines().any(line), "{id}: {}", run.err());
        }
        // Put right, everything is there: nothing was thrown away of what was exchanged.
        fixture.change(is_index_kept, |data| exchange(are_records, data));
        for (id, number) in [(old, "0"), (new, "1")] {
            let (run, came) = fixture.restore("to", &["--snapshot", id]);
            run.expect(0);
            assert_eq!(came.as_deref(), Some(&number.repeat(100)[..]));
        }
        fixture.run(&["verify"]).expect(0);
    }
}

#[test]
fn a_snapshot_that_vanished_from_the_middle_is_named_on_its_host_and_on_others() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 3);
    let middle = ids[1].as_str();
    fixture.add_host("bob");
    let run = fixture.run_as("bob", &["verify"]).expect(0);
    assert!(!run.err().contains("gone"), "{}", run.err());

    // With its index the server knows that there was one.
    fixture.change(true, |data| fs::remove_file(file_of(data, middle, "json")).unwrap());
    for words in [&["verify"][..], &["ls", "--snapshot", middle]] {
        let run = fixture.run(words).expect(6);
        assert!(run.err().contains(middle), "{}", run.err());
    }
    for is_index_kept in [true, false] {
        fixture.change(is_index_kept, |data| {
            let index = file_of(data, &ids[0], "json").with_file_name(format!("{middle}.index"));
            let _ = fs::remove_file(index);
        });
        let gone = format!("snapshot {middle}: it is gone: this host stored it");
        let run = fixture.run(&["verify", "--json"]).expect(6);
        let errors = run.events().into_iter().filter(|event| event.name == "file_error");
        let told: Vec<_> = errors.filter(|error| error.data["snapshot"] == middle).collect();
        assert_eq!(told.len(), 1, "{}", run.out());
        assert!(run.out().contains("it is gone: this host stored it"), "{}", run.out());
        // What is there can be had, and the warning comes with it.
        let (run, came) = fixture.restore("to", &[]);
        let run = run.expect(0);
        assert!(run.err().contains(&gone) && came.as_deref() == Some(&"2".repeat(100)[..]), "{}", run.err());
        let run = fixture.run(&["ls", "--snapshot", middle]).expect(6);
        assert!(run.err().contains(&gone), "{}", run.err());
        // Another host opens the heads, and sees the gap.
        let run = fixture.run_as("bob", &["verify"]).expect(6);
        let gap = format!("between {} and {}, 1 snapshot of one host is gone", ids[0], ids[2]);
        assert!(run.err().contains(&gap), "{}", run.err());
    }
}

#[test]
fn the_newest_that_vanished_makes_the_latest_doubtful() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 2);
    fixture.change(true, |data| {
        for end in ["json", "index"] {
            fs::remove_file(file_of(data, &ids[1], end)).unwrap();
        }
    });
    let told = format!("the newest that the server shows is {}, older than {}", ids[0], ids[1]);
    let (run, came) = fixture.restore("to", &[]);
    assert!(run.expect(6).err().contains(&told) && came.as_deref() == Some(&"0".repeat(100)[..]));
    let (run, _) = fixture.restore("to", &["--json"]);
    let run = run.expect(6);
    let warned = |event: &crate::support::Event| {
        event.name == "log" && event.data["level"] == "warning" && event.data["message"].to_string().contains(&told)
    };
    assert!(run.events().iter().any(warned), "{}", run.out());
    assert_eq!(run.event("summary")["exit_code"], 6);
    let file = fixture.file();
    for words in [&["ls"][..], &["cat", &file], &["verify"]] {
        let run = fixture.run(words).expect(6);
        assert!(run.err().contains(&told), "{words:?}: {}", run.err());
    }
    // By its id the older one is what was asked for.
    let run = fixture.run(&["ls", "--snapshot", &ids[0]]).expect(0);
    assert!(run.err().contains(&told) && run.out().contains("source/file"), "{}", run.err());
    let run = fixture.run(&["ls", "--snapshot", &ids[1]]).expect(6);
    assert!(run.err().contains("it is gone: this host stored it"), "{}", run.err());
    // The next backup says so too, and then the one that is gone is one in the middle.
    let words = ["backup".as_ref(), "--vault".as_ref(), fixture.source.as_os_str()];
    let run = fixture.client("ada").run(words).expect(0);
    assert!(run.err().contains(&told) && run.err().contains("unless it was dropped on purpose"), "{}", run.err());
    let (run, _) = fixture.restore("to", &[]);
    assert!(run.expect(0).err().contains(&format!("snapshot {}: it is gone", ids[1])));
}

#[test]
fn an_older_one_that_is_shown_as_the_latest_is_named() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 3);
    fixture.change(true, |data| {
        for (id, number) in [(&ids[1], 3), (&ids[2], 2)] {
            let other = format!("\"sequence\": {}", 5 - number);
            change_head(data, id, |head| head.replace(&other, &format!("\"sequence\": {number}")));
        }
    });
    let told = format!("the newest that this host stored is {}", ids[2]);
    let (run, _) = fixture.restore("to", &[]);
    assert!(run.expect(6).err().contains(&told), "restore");
    let file = fixture.file();
    for words in [&["ls"][..], &["cat", &file], &["diff", &ids[0]]] {
        let run = fixture.run(words).expect(6);
        assert!(run.err().contains(&told), "{words:?}: {}", run.err());
    }
    let (run, came) = fixture.restore("to", &["--snapshot", &ids[2]]);
    run.expect(0);
    assert_eq!(came.as_deref(), Some(&"2".repeat(100)[..]));
}

#[test]
fn a_plain_snapshot_in_the_place_of_a_sealed_one_is_refused() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 2);
    let source = fixture.source.to_str().unwrap().to_string();
    let root = source.trim_start_matches('/');
    fixture.change(true, |data| {
        change_head(data, &ids[1], |head| {
            let (before, rest) = head.split_once("  \"vault\": {").unwrap();
            let (_, after) = rest.split_once('}').unwrap();
            let plain = format!("{}{after}", before.trim_end().trim_end_matches(','));
            let roots = format!("\"roots\": [{{\"path\": \"{root}\"}}]");
            assert!(plain.contains("\"roots\": []"));
            plain.replace("\"roots\": []", &roots)
        });
    });
    let told = format!("snapshot {}: this host stored it in a vault", ids[1]);
    let file = fixture.file();
    for words in [
        &["ls"][..],
        &["cat", &file],
        &["cat", "--root", &source, &file],
        &["ls", "--snapshot", &ids[1]],
        &["find", "file"],
        &["diff", &ids[0]],
    ] {
        let run = fixture.run(words).expect(6);
        assert!(run.err().contains(&told), "{words:?}: {}", run.err());
    }
    for words in [&[][..], &["--snapshot", &ids[1]], &["--root", &source]] {
        let (run, came) = fixture.restore("to", words);
        assert!(run.expect(6).err().contains(&told) && came.is_none(), "{words:?}");
    }
}

#[test]
fn a_server_that_shows_nothing_any_more_has_lost_all_that_this_host_stored() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 2);
    for round in 0..2 {
        fixture.change(true, |data| match round {
            0 => ids.iter().for_each(|id| {
                ["json", "index"].iter().for_each(|end| fs::remove_file(file_of(data, id, end)).unwrap());
            }),
            _ => fs::remove_dir_all(data.join("vaults")).unwrap(),
        });
        let told = "the server shows no snapshot of this host in the vault any more";
        for words in [&["verify", "--vault-key", "state-ada/vault.key"][..], &["ls"], &["restore", "--to", "to"]] {
            let run = fixture.run(words).expect(6);
            assert!(run.err().contains(told), "{words:?}: {}", run.err());
        }
        let run = fixture.run(&["ls", "--snapshot", &ids[0]]).expect(6);
        assert!(run.err().contains(&format!("snapshot {}: it is gone", ids[0])), "{}", run.err());
    }
}

#[test]
fn what_the_operator_dropped_is_no_damage() {
    let workplace = Workplace::new();
    let (mut fixture, ids) = Fixture::new(&workplace, 3);
    let others = fixture.add_host("bob");
    fixture.operator(&["prune", "--snapshot", &ids[1]]).expect(0);
    let list = fixture.vault().join("dropped.json");
    assert!(fs::read_to_string(&list).unwrap().contains(&ids[1]));

    let run = fixture.run(&["verify"]).expect(0);
    assert!(run.err().contains("the server says that it dropped 1 snapshot of this host"), "{}", run.err());
    let run = fixture.run(&["verify", "--json"]).expect(0);
    assert_eq!(run.event("summary")["snapshots_dropped"], 1);
    fixture.run_as("bob", &["verify"]).expect(0);
    let (run, _) = fixture.restore("to", &[]);
    assert!(!run.expect(0).err().contains("warning"));
    let run = fixture.run(&["ls", "--snapshot", &ids[1]]).expect(1);
    assert!(run.err().contains("the server says that it was dropped"), "{}", run.err());
    // Rules drop as well, and with a client go all that it stored.
    fixture.operator(&["prune", "--keep-last", "1", "--keep-within", "0"]).expect(0);
    fixture.operator(&["clients", "remove", "bob", "--yes"]).expect(0);
    let told = fs::read_to_string(&list).unwrap();
    assert!([&ids[0], &ids[1], &others].iter().all(|id| told.contains(*id)) && !told.contains(&ids[2]), "{told}");
    fixture.run(&["verify"]).expect(0);

    // A list that is damaged says nothing, and is named.
    fixture.change(true, |_| fs::write(&list, told.replace(&ids[0], &ids[2])).unwrap());
    let run = fixture.run(&["verify"]).expect(6);
    assert!(run.err().contains(&format!("it and 1 before it, from {} on, are gone", ids[0])), "{}", run.err());
    let names_list = |run: &Run| format!("{}{}", run.out(), run.err()).contains("dropped.json");
    assert!(names_list(&fixture.operator(&["verify"]).expect(6)));
    assert_eq!(fixture.server.take().unwrap().stop(), 0);
    let data = fixture.data.as_os_str();
    let words = ["server".as_ref(), "--repair".as_ref(), "--data".as_ref(), data];
    assert!(names_list(&workplace.run(words)));
    assert!(!list.exists());
}

#[test]
fn a_chunk_in_the_place_of_another_is_named_and_no_other_bytes_are_restored() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    for number in 0..4 {
        workplace.write(format!("source/{number}"), tree::bytes(number, 9_000));
    }
    back_up(&client, &source);
    let (data, pack) = (server.data.clone(), packs(&server)[0].clone());
    let mut fixture = Fixture { workplace: &workplace, server: Some(server), data, source };
    let whole = fs::read(&pack).unwrap();
    let chunks: Vec<Place> = records(&whole).into_iter().filter(|record| record.kind == CHUNK).collect();
    let alike = |chunk: &&Place| (9_000..9_600).contains(&(chunk.end - chunk.payload));
    let alike: Vec<&Place> = chunks.iter().filter(alike).collect();
    let [one, two, ..] = alike[..] else { panic!("{} chunks of the files", alike.len()) };
    for is_index_kept in [true, false] {
        let mut bytes = whole.clone();
        // The other one's sealed bytes, with both checksums made for this one's name.
        bytes.copy_within(two.payload..two.end, one.payload);
        let named = [&bytes[one.start + 5..one.payload], &bytes[one.payload..one.end - 4]].concat();
        bytes[one.end - 4..one.end].copy_from_slice(&crc32(&named).to_le_bytes());
        put_crc(&mut bytes, one.start, one.end);
        fixture.change(is_index_kept, |_| fs::write(&pack, &bytes).unwrap());
        let to = workplace.join("to");
        let _ = fs::remove_dir_all(&to);
        let run = fixture.run(&["restore", "--to", "to"]).expect(6);
        assert!(run.err().contains("it is not what was stored under this name"), "{}", run.err());
        let came = to.join(fixture.source.strip_prefix("/").unwrap());
        let restored = tree::files_below(&came);
        assert_eq!(restored.len(), 3);
        for file in restored {
            let original = fixture.source.join(file.file_name().unwrap());
            assert!(fs::read(came.join(file)).unwrap() == fs::read(original).unwrap());
        }
        let run = fixture.run(&["verify", "--read-data"]).expect(6);
        assert!(run.err().contains("it is not what was stored under this name"), "{}", run.err());
    }
    fixture.change(false, |_| fs::write(&pack, &whole).unwrap());
    fixture.run(&["verify", "--read-data"]).expect(0);
}

#[test]
fn a_copy_of_a_state_folder_is_told_apart_from_a_server_that_lost_something() {
    let workplace = Workplace::new();
    let (fixture, ids) = Fixture::new(&workplace, 1);
    let (state, kept) = (fixture.client("ada").state(), workplace.join("kept"));
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&state, &kept);
    workplace.write("source/file", "of the original");
    let newer = back_up(&fixture.client("ada"), &fixture.source);
    fs::remove_dir_all(&state).unwrap();
    copy(&kept, &state);
    // Heads that this folder's writer has sealed, and that follow on what it knows: no server has made them.
    let run = fixture.run(&["verify"]).expect(0);
    let told = "this state folder does not know of it: a copy of the folder is in use elsewhere";
    assert!(run.err().contains(&newer) && run.err().contains(told) && !run.err().contains("gone"), "{}", run.err());
    let (run, came) = fixture.restore("to", &[]);
    assert!(!run.expect(0).err().contains("warning") && came.as_deref() == Some("of the original"));
    // The next backup tells of it too, and begins a chain of its own: no two heads have one number.
    let words = [OsStr::new("backup"), "--vault".as_ref(), fixture.source.as_os_str()];
    let run = fixture.client("ada").run(words).expect(0);
    assert!(run.err().contains(told), "{}", run.err());
    let again = fixture.client("ada").run(words).expect(0);
    assert!(!again.err().contains("warning"), "{}", again.err());
    let run = fixture.run(&["verify"]).expect(0);
    assert!(!run.err().contains("warning"), "{}", run.err());
    // What it knew before is compared still.
    let mut fixture = fixture;
    fixture.change(true, |data| {
        ["json", "index"].iter().for_each(|end| fs::remove_file(file_of(data, &ids[0], end)).unwrap());
    });
    let run = fixture.run(&["verify"]).expect(6);
    assert!(run.err().contains(&format!("snapshot {}: it is gone", ids[0])), "{}", run.err());
}

#[test]
fn a_damaged_file_of_the_chain_stops_no_backup_and_is_named_by_verify() {
    let workplace = Workplace::new();
    let (fixture, ids) = Fixture::new(&workplace, 2);
    let file = fixture.client("ada").state().join("vault-chain.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let run = fixture.run(&["verify"]).expect(3);
    let told = "vault-chain.json is damaged";
    assert!(run.err().contains(told) && run.err().contains("put a saved copy back"), "{}", run.err());
    assert!(!run.err().contains("register"), "{}", run.err());
    for (flags, is_told, is_set_aside) in [(&["--dry-run"][..], true, false), (&[], true, true), (&[], false, true)]
    {
        let words = ["backup", "--vault"].iter().chain(flags).map(OsStr::new).chain([fixture.source.as_os_str()]);
        let run = fixture.client("ada").run(words).expect(0);
        assert_eq!(run.err().contains(told), is_told, "{}", run.err());
        assert_eq!(file.with_extension("json.damaged").exists(), is_set_aside);
    }
    assert!(fs::read(file.with_extension("json.damaged")).unwrap() == whole[..whole.len() / 2]);
    let run = fixture.run(&["verify"]).expect(0);
    assert!(!run.err().contains("warning"), "{}", run.err());
    assert!(ids.iter().all(|id| fixture.run(&["ls", "--snapshot", id]).expect(0).err().is_empty()));
    // A newer program's is left alone.
    fs::write(&file, r#"{"version": 2, "chains": "other"}"#).unwrap();
    let words = [OsStr::new("backup"), "--vault".as_ref(), fixture.source.as_os_str()];
    let run = fixture.client("ada").run(words).expect(2);
    assert!(run.err().contains("which a newer cyberbackup has written"), "{}", run.err());
    assert_eq!(fs::read_to_string(&file).unwrap(), r#"{"version": 2, "chains": "other"}"#);
}
