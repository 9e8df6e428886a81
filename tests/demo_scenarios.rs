//! End to end: what somebody does on the first day, and what must hold however odd, many or large the files are.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Run, Started, TestClient, TestServer, Workplace, tree, wait_until};

/// What client and server may have resident at most, in KiB.
const MEMORY_KIB_MAX: u64 = 32 * 1024;

/// Where this package lies.
fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn words<'a>(words: &'a [&'a str], path: &'a Path) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).chain([path.as_os_str()]).collect()
}

fn summary(client: &TestClient<'_>, path: &Path) -> Value {
    client.run(words(&["backup", "--json", "--quiet"], path)).expect(0).event("summary")
}

/// Runs `diff -r`, and fails the test when it finds anything.
#[track_caller]
fn assert_diff_finds_nothing(left: &Path, right: &Path) {
    let output = Command::new("diff").arg("-r").arg(left).arg(right).output().expect("diff is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

fn copy_tree(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_readmes_story_on_a_fresh_checkout() {
    let workplace = Workplace::new();
    let info = fs::read_to_string(checkout().join("transfer.info")).unwrap();
    let named: Vec<&str> = info.lines().skip(2).filter(|line| !line.is_empty()).collect();
    assert!(!named.is_empty(), "the transfer.info of the checkout names nothing");
    for name in ["transfer.info", "port.info"].iter().chain(&named) {
        let from = checkout().join(name);
        assert!(from.exists(), "transfer.info names {name}, which is not in the checkout");
        copy_tree(&from, &workplace.join(name));
    }
    let run = workplace.run(["backup", "--local-server"]).expect(0);
    assert!(run.out().starts_with("snapshot ") && run.out().lines().count() == 1, "{}", run.out());
    let snapshot = run.out().split([' ', ':']).nth(1).unwrap().to_string();
    assert!(workplace.join("client/valid_private_key.der").exists() && workplace.join("server").is_dir());
    let rows = workplace.run(["snapshots", "--local-server"]).expect(0);
    assert!(rows.out().starts_with(&snapshot) && rows.out().lines().count() == 1, "{}", rows.out());
    workplace.run(["restore", "--local-server", "--to", "restored"]).expect(0);
    let top = workplace.path().canonicalize().unwrap();
    for name in named {
        let restored = workplace.join("restored").join(top.strip_prefix("/").unwrap()).join(name);
        assert_diff_finds_nothing(&top.join(name), &restored);
    }
    let verified = workplace.run(["verify", "--local-server"]).expect(0);
    assert!(verified.out().ends_with("all are whole\n"), "{}", verified.out());
    let again = workplace.run(["backup", "--local-server"]).expect(0);
    assert!(!again.out().contains(&snapshot), "{}", again.out());
}

#[test]
fn the_smallest_input_goes_there_and_comes_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let original = checkout().join("tests/testdata/test_transfer_file.txt");
    let file = workplace.write("test_transfer_file.txt", fs::read(&original).unwrap());
    client.backup(&file);
    let restored = client.restore(&file, "restored");
    assert_diff_finds_nothing(&original, &restored);
    tree::assert_same(&file, &restored);
}

#[test]
fn an_odd_tree_comes_back_to_the_last_property() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::odd(&source);
    there_and_back(&workplace, &server, &source);
}

/// Backs `source` up, restores it and compares; neither side may need much memory.
fn there_and_back(workplace: &Workplace, server: &TestServer, source: &Path) {
    let client = TestClient::new(workplace, &server.address, "ada");
    let to = workplace.join("restored");
    let measured = |name: &str, words: Vec<&OsStr>| {
        let began = Instant::now();
        // Nobody sees the memory of a run that ended before it was looked at: then once more.
        let measure = || {
            let (run, peak) = Started::of(client.command(&words)).finish_measured();
            run.expect(0);
            (peak > 0).then_some(peak)
        };
        let peak = (0..10).find_map(|_| measure()).expect("one of ten runs is seen");
        let (seconds, server_peak) = (began.elapsed().as_secs_f64(), server.peak_memory_kib());
        println!("{name}: {seconds:.2} s, peak {peak} KiB at the client, {server_peak} KiB at the server");
        assert!(peak < MEMORY_KIB_MAX, "{name} took {peak} KiB at the client");
        assert!(server_peak < MEMORY_KIB_MAX, "{name} took {server_peak} KiB at the server");
    };
    measured("backup", words(&["backup"], source));
    measured("restore", words(&["restore", "--to"], &to));
    measured("verify", vec![OsStr::new("verify")]);
    measured("ls", vec![OsStr::new("ls")]);
    tree::assert_same(source, &to.join(source.strip_prefix("/").unwrap()));
}

#[test]
fn twenty_thousand_files_come_back_in_little_memory() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 20_000);
    there_and_back(&workplace, &server, &source);
}

/// A file of bytes that differ from each other, made without holding it in memory.
fn large_file(path: &Path, mebibytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    for number in 0..mebibytes {
        file.write_all(&tree::bytes(number as u64, 1024 * 1024)).unwrap();
    }
}

fn a_large_file_comes_back(mebibytes: usize) {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    large_file(&source.join("large"), mebibytes);
    there_and_back(&workplace, &server, &source);
}

#[test]
fn a_file_of_256_mebibytes_comes_back_in_little_memory() {
    a_large_file_comes_back(256);
}

#[test]
#[ignore = "long: run by tests/run --full"]
fn a_file_of_one_gibibyte_comes_back_in_little_memory() {
    a_large_file_comes_back(1_024);
}

#[test]
fn a_backup_of_what_has_not_changed_sends_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    tree::many_files(&source, 200);
    let first = summary(&client, &source);
    assert_eq!((&first["files"], &first["files_sent"]), (&200.into(), &200.into()));
    // Files changed within the last seconds are read again, because their times prove nothing yet.
    let mut last = Value::Null;
    wait_until(
        || {
            last = summary(&client, &source);
            last["files_sent"] == 0
        },
        "a backup that sends nothing",
    );
    assert_eq!((&last["files"], &last["bytes"], &last["bytes_sent"]), (&200.into(), &first["bytes"], &0.into()));
    assert!(last["wire_bytes"].as_u64().unwrap() < 100_000, "{last}");
    tree::assert_same(&source, &client.restore(&source, "restored"));

    // And then only what changed.
    let changed = source.join("0001/file 123");
    fs::OpenOptions::new().append(true).open(&changed).unwrap().write_all(b"more").unwrap();
    let length = fs::metadata(&changed).unwrap().len();
    let third = summary(&client, &source);
    assert_eq!((&third["files_sent"], &third["bytes_sent"]), (&1.into(), &length.into()));
    tree::assert_same(&source, &client.restore(&source, "restored again"));
}

#[test]
fn a_change_that_keeps_size_and_mtime_is_seen() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("source/file", "before");
    wait_until(|| summary(&client, &file)["files_sent"] == 0, "a backup that finds the file at rest");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    let mut open = fs::OpenOptions::new().write(true).open(&file).unwrap();
    open.rewind().unwrap();
    open.write_all(b"AFTER!").unwrap();
    open.set_modified(mtime).unwrap();
    drop(open);
    client.backup(&file);
    assert_eq!(fs::read(client.restore(&file, "restored")).unwrap(), b"AFTER!");
}

#[test]
fn each_snapshot_keeps_what_was_there_at_its_time() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    let mut snapshots = Vec::new();
    for round in 0..4 {
        workplace.write(source.join("always"), format!("round {round}"));
        workplace.write(source.join(format!("from {round}")), tree::bytes(round, 40_000));
        if round > 1 {
            fs::remove_file(source.join(format!("from {}", round - 2))).unwrap();
        }
        let kept = workplace.join(format!("kept {round}"));
        copy_tree(&source, &kept);
        snapshots.push((client.backup(&source), kept));
    }
    for (snapshot, kept) in snapshots {
        let to = workplace.join(&snapshot);
        client.run(words(&["restore", "--snapshot", &snapshot, "--to"], &to)).expect(0);
        assert_diff_finds_nothing(&kept, &to.join(source.strip_prefix("/").unwrap()));
    }
}

#[test]
fn two_clients_of_one_server_see_only_their_own() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (ada, bob) = ("ada", "bob");
    let client = |user: &str| TestClient::new(&workplace, &server.address, user);
    let file = |user: &str| -> PathBuf { workplace.write(format!("{user}/secret of {user}"), user) };
    let ids = [ada, bob].map(|user| client(user).backup(&file(user)));
    for (user, own, other) in [(ada, &ids[0], &ids[1]), (bob, &ids[1], &ids[0])] {
        let rows = client(user).run(["snapshots"]).expect(0);
        assert!(rows.out().starts_with(own.as_str()) && rows.out().lines().count() == 1, "{}", rows.out());
        let listed = client(user).run(["ls"]).expect(0);
        assert!(listed.out().trim_end().ends_with(&format!("secret of {user}")), "{}", listed.out());
        assert_eq!(listed.out().lines().count(), 1);
        for command in ["ls", "verify"] {
            let run = client(user).run([command, "--snapshot", other.as_str()]).expect(1);
            assert!(run.err().contains(&format!("no snapshot of {user} begins with")), "{}", run.err());
        }
        let run = client(user).run(["restore", "--to", "stolen", "--snapshot", other.as_str()]).expect(1);
        assert!(run.err().contains("no snapshot of"), "{}", run.err());
    }
}

#[test]
fn names_that_differ_only_in_case_are_two_files() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for name in ["readme", "README", "ReadMe", "folder/x", "Folder/x"] {
        workplace.write(source.join(name), name);
    }
    client.backup(&source);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}

#[test]
fn a_backup_is_in_the_store_as_plain_files_of_the_operator() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("file", "1");
    client.backup(&file);
    let rows: Run = workplace.run(words(&["clients", "--data"], &server.data)).expect(0);
    let line: Vec<String> = rows.out().lines().last().unwrap().split_whitespace().map(Into::into).collect();
    assert_eq!((line[0].as_str(), line[2].as_str(), line[3].as_str()), ("ada", "1", "1"), "{}", rows.out());
    assert_eq!(server.stop(), 0);
    let rows = workplace.run(["clients", "--data", "data"]).expect(0);
    assert!(rows.out().lines().last().unwrap().starts_with("ada "), "{}", rows.out());
}
