//! A server that seals its store: nothing readable on its disk at any moment, the key's rules, and the same program
//! otherwise.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::random::Random;
use crate::support::{Run, SEALED_RUN, Started, TestClient, TestServer, Workplace, kill, tree, wait_until};

const MIB: usize = 1024 * 1024;
const SEALING: [&str; 5] = ["--rsa-bits", "2048", "--encrypt-at-rest", "--storage-key-file", "storage.key"];

fn start(workplace: &Workplace) -> TestServer {
    TestServer::start_with(workplace, "data", &SEALING)
}

fn client<'a>(workplace: &'a Workplace, server: &TestServer) -> TestClient<'a> {
    TestClient::new(workplace, &server.address, "ada")
}

/// Everything that was ever in a file that was backed up, to be looked for.
#[derive(Default)]
struct Contents {
    stretches: HashSet<u128>,
}

impl Contents {
    fn add(&mut self, path: &Path) {
        let bytes = fs::read(path).unwrap();
        self.stretches.extend(bytes.windows(16).map(|stretch| u128::from_le_bytes(stretch.try_into().unwrap())));
    }

    /// Looks for any 16 bytes of them in every file below the folder, and in the log.
    #[track_caller]
    fn assert_not_in(&self, server: &TestServer, workplace: &Workplace) {
        let mut files: Vec<PathBuf> =
            tree::files_below(&server.data).into_iter().map(|name| server.data.join(name)).collect();
        files.push(workplace.join("data.log"));
        assert!(files.len() > 5, "there is something to look into");
        for file in files {
            // A socket, or what has gone meanwhile.
            let Ok(bytes) = fs::read(&file) else { continue };
            assert!(!self.has_any_of(&bytes), "a stretch of a content lies in {}", file.display());
        }
    }

    fn has_any_of(&self, bytes: &[u8]) -> bool {
        let is_known = |stretch: &[u8]| self.stretches.contains(&u128::from_le_bytes(stretch.try_into().unwrap()));
        bytes.windows(16).any(is_known)
    }
}

#[test]
fn no_stretch_of_a_content_is_found_on_the_disk_after_whatever_happens() {
    let workplace = Workplace::new();
    let (mut server, mut contents) = (start(&workplace), Contents::default());
    let source = workplace.join("source");
    for number in 0..12 {
        let name = format!("source/folder/f{number}");
        contents.add(&workplace.write(&name, tree::bytes(number, 40 + 1_000 * number as usize)));
    }
    let large = workplace.write("source/large", tree::bytes(99, MIB + MIB / 2));
    contents.add(&large);
    client(&workplace, &server).backup(&source);
    contents.assert_not_in(&server, &workplace);
    // A delta.
    let file = fs::File::options().write(true).open(&large).unwrap();
    file.write_all_at(&tree::bytes(98, 70_000), 300_000).unwrap();
    contents.add(&large);
    client(&workplace, &server).backup(&source);
    contents.assert_not_in(&server, &workplace);
    // Both sides are killed inside a large file, and it is gone on with.
    let more = workplace.write("source/more", tree::bytes(97, 24 * MIB));
    let mut noted = fs::read(&more).unwrap();
    noted.truncate(2 * MIB);
    contents.add(&workplace.write("beginning", noted));
    let backup = client(&workplace, &server).start([OsStr::new("backup"), "-q".as_ref(), source.as_os_str()]);
    let incoming = server.data.join("incoming");
    wait_until(|| tree::bytes_below(&incoming) > MIB as u64, "the first mebibyte at the server");
    kill(backup.id(), "KILL");
    server.kill();
    server = start(&workplace);
    contents.assert_not_in(&server, &workplace);
    let snapshot = client(&workplace, &server).backup(&source);
    contents.assert_not_in(&server, &workplace);
    // All but the newest go.
    fs::remove_file(&large).unwrap();
    client(&workplace, &server).backup(&source);
    let prune = ["prune", "--data", "data", "--keep-last", "1", "--keep-within", "0"];
    workplace.run(prune).expect(0);
    contents.assert_not_in(&server, &workplace);
    let run = client(&workplace, &server).run(["restore", "--snapshot", "latest", "--to", "restored"]).expect(0);
    assert!(!run.out().contains(&snapshot));
    tree::assert_same(&source, &workplace.join("restored").join(source.strip_prefix("/").unwrap()));
}

#[test]
fn the_key_is_made_once_outside_the_data_folder_and_asked_for_by_its_id() {
    // It gives the keys itself.
    if crate::support::is_sealed_at_rest() {
        return;
    }
    let workplace = Workplace::new();
    let refused = |flags: &[&str], code: i32| {
        let words = ["server", "--bind", "127.0.0.1", "--port", "0", "--data", "data", "--rsa-bits", "2048"];
        workplace.run(words.iter().chain(flags)).expect(code).err()
    };
    let within = refused(&["--encrypt-at-rest", "--storage-key-file", "data/key"], 2);
    assert!(within.contains("the key must not lie in the data folder data"), "{within}");
    assert!(refused(&["--encrypt-at-rest"], 2).contains("--encrypt-at-rest needs a storage key"));
    assert!(!workplace.join("storage.key").exists());

    let server = start(&workplace);
    let key = workplace.join("storage.key");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.len() == 65 && text.trim().bytes().all(|digit| digit.is_ascii_hexdigit()), "{text}");
    server.wait_for_log("keep a copy of that file in another place");
    assert!(!server.log().contains(text.trim()), "the key itself is nobody's to read");
    let source = workplace.write("source/file", "content");
    let source = source.parent().unwrap();
    client(&workplace, &server).backup(source);
    assert_eq!(server.stop(), 0);

    let id = refused(&[], 1);
    assert!(id.contains("is sealed at rest: give the storage key with the id "), "{id}");
    let id = id.split("with the id ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    fs::write(workplace.join("other.key"), format!("{}\n", "5".repeat(64))).unwrap();
    let other = refused(&["--storage-key-file", "other.key"], 1);
    assert!(other.contains(&format!("is sealed at rest with the storage key {id}")), "{other}");
    fs::remove_file(&key).unwrap();
    let lost = refused(&SEALING[2..], 1);
    assert!(lost.contains("cannot read the storage key storage.key"), "{lost}");
    assert!(!key.exists(), "no key is made where there was one");
    // Nor where the record of sealing is lost too.
    let (record, away) = (workplace.join("data/sealing.json"), workplace.join("sealing.json"));
    fs::rename(&record, &away).unwrap();
    for flags in [&[][..], &SEALING[2..], &["--repair"]] {
        let run = without_key(
            workplace
                .command(["server", "--bind", "127.0.0.1", "--port", "0", "--data", "data"].iter().chain(flags)),
        );
        assert!(run.code == 1 && run.err().contains(&id), "{flags:?}: {}", run.err());
    }
    for words in [&["verify", "--data", "data"][..], &["prune", "--data", "data", "--keep-daily", "1"]] {
        assert!(without_key(workplace.command(words)).expect(1).err().contains(&id));
    }
    assert!(!key.exists() && !record.exists());
    fs::rename(&away, &record).unwrap();

    // What is not sealed can be looked at; what is wants the key.
    let clients = workplace.command(["clients", "--data", "data"]);
    assert!(without_key(clients).expect(0).out().contains("ada"));
    for words in [&["verify", "--data", "data"][..], &["prune", "--data", "data", "--keep-daily", "1"]] {
        let run = without_key(workplace.command(words)).expect(1);
        assert!(run.err().contains(&id), "{}", run.err());
    }
    fs::write(&key, &text).unwrap();
    let command = format!("cat {}", key.display());
    workplace.run(["verify", "--data", "data", "--storage-key-command", &command]).expect(0);
    let export = ["export", "--data", "data", "--storage-key-file", "storage.key", "latest", "out"];
    workplace.run(export).expect(0);
    let exported = workplace.join("out").join(source.strip_prefix("/").unwrap());
    assert_eq!(fs::read(exported.join("file")).unwrap(), b"content");
    // With the key in place the server is as before, and needs no word of sealing.
    let server = TestServer::start_with(&workplace, "data", &["--storage-key-file", "storage.key"]);
    workplace.run(["verify", "--data", "data"]).expect(0);
    drop(server);
}

#[test]
fn a_server_inside_the_client_seals_its_store_too() {
    let workplace = Workplace::new();
    let source = workplace.write("source/file", tree::bytes(1, 5_000));
    let mut contents = Contents::default();
    contents.add(&source);
    let run = |words: &[&str]| {
        let common =
            ["--local-server", "--data", "data", "--rsa-bits", "2048", "--user", "ada", "--state", "state"];
        without_key(workplace.command(words.iter().chain(&common)))
    };
    let sealing = ["--encrypt-at-rest", "--storage-key-file", "storage.key"];
    let remote = workplace.run(["backup", "--server", "localhost:1", "--encrypt-at-rest", "source"]).expect(2);
    assert!(remote.err().contains("--encrypt-at-rest is the server's affair"), "{}", remote.err());
    run(&[&["backup", "source"][..], &sealing].concat()).expect(0);
    for name in tree::files_below(&workplace.join("data")) {
        let bytes = fs::read(workplace.join("data").join(&name)).unwrap();
        assert!(!contents.has_any_of(&bytes), "{name:?}");
    }
    let locked = run(&["snapshots"]);
    assert!(locked.code != 0 && locked.err().contains("give the storage key with the id"), "{}", locked.err());
    run(&["restore", "--to", "restored", "--storage-key-file", "storage.key"]).expect(0);
    let restored = workplace.join("restored").join(source.strip_prefix("/").unwrap());
    assert_eq!(fs::read(restored).unwrap(), fs::read(&source).unwrap());
}

#[test]
fn a_key_that_also_lies_in_the_data_folder_is_refused() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    assert_eq!(server.stop(), 0);
    fs::hard_link(workplace.join("storage.key"), workplace.join("data/also")).unwrap();
    let run = workplace.run(["server", "--port", "0", "--data", "data", "--storage-key-file", "storage.key"]);
    assert!(run.code == 2 && run.err().contains("the key must not lie in the data folder"), "{}", run.err());
}

fn without_key(mut command: Command) -> Run {
    command.env_remove("CYBERBACKUP_STORAGE_KEY_FILE").env_remove("CYBERBACKUP_ENCRYPT_AT_REST");
    Run::of(command)
}

/// A store of two snapshots, not sealed, with no server.
fn plain_store(workplace: &Workplace, files: usize) -> PathBuf {
    let server = TestServer::start_with(workplace, "data", &["--rsa-bits", "2048", "--legacy", "on"]);
    let source = workplace.join("source");
    tree::many_files(&source, files);
    let large = workplace.write("source/large", tree::bytes(5, 3 * MIB));
    client(workplace, &server).backup(&source);
    fs::File::options().write(true).open(&large).unwrap().write_all_at(b"changed", 1_000_000).unwrap();
    client(workplace, &server).backup(&source);
    assert_eq!(server.stop(), 0);
    source
}

fn rekey(workplace: &Workplace, flags: &[&str]) -> Command {
    let mut command = workplace.command(["rekey", "--data", "data"].iter().chain(flags));
    command.env_remove("CYBERBACKUP_STORAGE_KEY_FILE");
    command
}

/// The keys that lead from one state of the store to the next, and back to the first.
const JOURNEY: [&[&str]; 3] = [
    &["--new-storage-key-file", "one.key"],
    &["--storage-key-file", "one.key", "--new-storage-key-file", "two.key"],
    &["--storage-key-file", "two.key", "--plain"],
];

#[test]
fn a_store_is_sealed_gets_another_key_and_is_plain_again() {
    // Its server would be sealed from the start.
    if crate::support::is_sealed_at_rest() {
        return;
    }
    let workplace = Workplace::new();
    let source = plain_store(&workplace, 30);
    for (number, flags) in JOURNEY.into_iter().enumerate() {
        let run = Run::of(rekey(&workplace, flags)).expect(0);
        assert!(run.out().contains("written anew"), "{}", run.out());
        let key = ["one.key", "two.key"].get(number);
        let words: Vec<&str> = key.map_or(vec![], |key| vec!["--storage-key-file", key]);
        let server = TestServer::start_with(&workplace, "data", &words);
        let to = format!("restored-{number}");
        tree::assert_same(&source, &client(&workplace, &server).restore(&source, &to));
        workplace.run(["verify", "--data", "data"]).expect(0);
        server.stop();
        let name = tree::bytes(5, 3 * MIB)[..16].to_vec();
        let is_plain = tree::files_below(&workplace.join("data/received_files"))
            .iter()
            .any(|file| fs::read(workplace.join("data/received_files").join(file)).unwrap().starts_with(&name));
        assert_eq!(is_plain, key.is_none());
    }
    assert!(!workplace.join("data/sealing.json").exists());
}

#[test]
#[ignore = "takes a minute"]
fn a_rekey_that_is_killed_at_any_moment_is_finished_by_the_same_command() {
    if crate::support::is_sealed_at_rest() {
        return;
    }
    let workplace = Workplace::new();
    let source = plain_store(&workplace, 3_000);
    let (mut random, mut kills) = (Random::new(11), 0);
    for round in 0..3 {
        for flags in JOURNEY {
            // Killed some times, then left to its end.
            for _ in 0..6 {
                let run = Started::of(rekey(&workplace, flags));
                thread::sleep(Duration::from_millis(random.below(120)));
                kill(run.id(), "KILL");
                kills += usize::from(run.finish().code == 128 + 9);
            }
            Run::of(rekey(&workplace, flags)).expect(0);
        }
        let server = TestServer::start_with(&workplace, "data", &[]);
        workplace.run(["verify", "--data", "data"]).expect(0);
        let restored = client(&workplace, &server).restore(&source, &format!("restored-{round}"));
        tree::assert_same(&source, &restored);
        server.stop();
    }
    assert!(kills > 20, "only {kills} runs were killed");
}

/// Runs tests of this binary once more, with every server sealing its store.
fn run_sealed(filters: &[&str], long: bool) {
    if crate::support::is_sealed_at_rest() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(filters);
    command.env(SEALED_RUN, "1").stdin(Stdio::null());
    if long {
        command.args(["--include-ignored", "--test-threads", "2"]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("running 0 tests"), "{said}");
}

#[test]
fn deltas_and_an_odd_tree_are_the_same_on_a_sealed_store() {
    let some = [
        "deltas::a_large_file_that_grows_shrinks_and_is_rewritten_restores_at_every_state",
        "deltas::many_short_holes_stay_holes",
        "damage::a_content_that_is_damaged_or_gone",
        "demo_scenarios::an_odd_tree_comes_back",
    ];
    run_sealed(&some, false);
}

#[test]
#[ignore = "takes many minutes: whole suites once more"]
fn the_suites_are_the_same_on_sealed_stores() {
    run_sealed(
        &["deltas::", "resume::", "demo_scenarios::", "restore_resume::", "random_changes::", "client::"],
        true,
    );
}
