//! `prune`, `hold` and `release` with the real program: reasons, space, and others' work beside it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{PROGRAM, Run, TestClient, TestServer, Workplace, tree};

fn operator(workplace: &Workplace, words: &[&str], data: &Path) -> Run {
    let mut all: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    all.extend(["--data".as_ref(), data.as_os_str()]);
    workplace.run(all)
}

/// The rows of one kind that a prune printed.
fn rows(run: &Run, event: &str) -> Vec<Value> {
    let rows = run.out();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["event"] == event).map(|row| row["data"].clone()).collect()
}

fn back_up(client: &TestClient<'_>, source: &Path, extra: &[&str]) {
    let mut words: Vec<&OsStr> = vec!["backup".as_ref(), source.as_os_str()];
    words.extend(extra.iter().map(OsStr::new));
    client.run(words).expect(0);
}

fn snapshot_ids(client: &TestClient<'_>) -> Vec<String> {
    let run = client.run(["snapshots", "--json"]).expect(0);
    rows(&run, "snapshot").iter().map(|row| row["snapshot"].as_str().unwrap().to_string()).collect()
}

/// Bytes on the disk of all below a folder.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for item in std::fs::read_dir(folder).unwrap().flatten() {
        let metadata = item.metadata().unwrap();
        bytes += if metadata.is_dir() { disk_bytes(&item.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}

fn source(workplace: &Workplace) -> PathBuf {
    let source = workplace.join("source");
    tree::many_files(&source, 20);
    source
}

#[test]
fn a_dry_run_tells_what_the_run_does_beside_a_live_server() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    for number in 0..6 {
        std::fs::write(source.join("changing"), vec![number; 900_000]).unwrap();
        back_up(&client, &source, &["--tag", if number == 1 { "release" } else { "common" }]);
    }
    let ids = snapshot_ids(&client);
    let held = operator(&workplace, &["hold", &ids[2]], &server.data).expect(0).out();
    assert!(held.contains("held"), "{held}");
    let rules = ["prune", "--keep-last", "2", "--keep-within", "0", "--keep-tag", "release", "--json"];
    let foreseen = operator(&workplace, &[&rules[..], &["--dry-run"]].concat(), &server.data).expect(0);
    let told = rows(&foreseen, "snapshot");
    let kept: Vec<bool> = told.iter().map(|row| row["keep"].as_bool().unwrap()).collect();
    assert_eq!(kept, [false, true, true, false, true, true], "{told:?}");
    assert_eq!(told[1]["reasons"][0], "tag release");
    assert_eq!(told[2]["reasons"][0], "held");
    assert_eq!(snapshot_ids(&client), ids, "a dry run drops nothing");
    let before = disk_bytes(&server.data);
    let done = operator(&workplace, &rules, &server.data).expect(0);
    let (foreseen, done) = (rows(&foreseen, "pruned"), rows(&done, "pruned"));
    for key in ["dropped", "kept", "freed_bytes", "contents", "ranges"] {
        assert_eq!(foreseen[0][key], done[0][key], "{key}");
    }
    assert_eq!((&done[0]["dropped"], &done[0]["kept"]), (&2.into(), &4.into()));
    let freed = before - disk_bytes(&server.data);
    assert!(freed >= 1_800_000, "{freed} bytes are free again");
    assert_eq!(snapshot_ids(&client).len(), 4);
    let target = workplace.join("restored");
    client.run(["restore", "--snapshot", &ids[1], "--to", target.to_str().unwrap()]).expect(0);
    operator(&workplace, &["release", &ids[2]], &server.data).expect(0);
    operator(&workplace, &["prune", "--snapshot", &ids[2]], &server.data).expect(0);
    assert!(!snapshot_ids(&client).contains(&ids[2]));
    client.run(["verify"]).expect(0);
}

#[test]
fn wrong_rules_are_refused_and_say_what_to_do() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    for (words, told) in [
        (&["prune", "--keep-last", "3"][..], "--keep-within 7d"),
        (&["prune"][..], "--keep-daily 7"),
        (&["prune", "--keep-daily", "7", "--snapshot", "2026"][..], "given alone"),
        (&["prune", "--keep-within", "7x"][..], "7d"),
        (&["hold"][..], "one snapshot"),
    ] {
        let run = operator(&workplace, words, &server.data).expect(2);
        assert!(run.err().contains(told), "{}", run.err());
    }
    let missing = operator(&workplace, &["prune", "--snapshot", "2026"], &server.data).expect(1);
    assert!(missing.err().contains("no client has a snapshot"), "{}", missing.err());
}

#[test]
fn rules_keep_what_a_client_floods_within_seven_days() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    (0..8).for_each(|_| back_up(&client, &source, &[]));
    let ids = snapshot_ids(&client);
    operator(&workplace, &["prune", "--keep-hourly", "1", "--keep-daily", "1"], &server.data).expect(0);
    assert_eq!(snapshot_ids(&client), ids);
}

#[test]
fn uploads_and_restores_go_on_while_snapshots_are_dropped() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    back_up(&client, &source, &[]);
    let data = server.data.clone();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut dropped = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let rules = ["prune", "--keep-last", "1", "--keep-within", "0", "--json"];
                let run = operator(&workplace, &rules, &data).expect(0);
                dropped += rows(&run, "pruned")[0]["dropped"].as_u64().unwrap();
            }
            dropped
        });
        for number in 0..8 {
            std::fs::write(source.join("changing"), vec![number; 1_500_000]).unwrap();
            back_up(&client, &source, &[]);
            let target = workplace.join(format!("restored{number}"));
            client.run(["restore", "--to", target.to_str().unwrap()]).expect(0);
            let restored = target.join(source.strip_prefix("/").unwrap()).join("changing");
            assert!(std::fs::read(restored).unwrap() == vec![number; 1_500_000]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(pruning.join().unwrap() > 0);
    });
    client.run(["verify"]).expect(0);
}

#[test]
fn the_policy_of_a_server_is_checked_at_its_start() {
    let workplace = Workplace::new();
    let policy = workplace.join("policy.json");
    std::fs::write(&policy, "{\"version\": 1,\n \"default\": {\"keep_dayly\": 7}}").unwrap();
    let data = workplace.join("data");
    let words = ["server", "--port", "0", "--prune-daily", "03:30", "--policy", policy.to_str().unwrap()];
    let run = operator(&workplace, &words, &data).expect(2);
    assert!(run.err().contains("line 2"), "{}", run.err());
    let run = operator(&workplace, &["server", "--prune-daily", "24:00"], &data).expect(2);
    assert!(run.err().contains("belong together"), "{}", run.err());
}

/// Ends the prune with SIGKILL at some moment; whatever moment that is, the next one finishes it.
#[test]
fn a_prune_that_is_killed_is_finished_by_the_next_one() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    for number in 0..6 {
        for name in 0..60 {
            std::fs::write(source.join(format!("changing{name}")), vec![number; 2_000]).unwrap();
        }
        back_up(&client, &source, &[]);
    }
    let ids = snapshot_ids(&client);
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    let mut killed = 0;
    for (round, id) in ids[..5].iter().enumerate() {
        let mut child = std::process::Command::new(PROGRAM)
            .args(["prune", "--snapshot", id, "--data"])
            .arg(&data)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // From the first file that is gone on, anything may have happened.
        let received = data.join("received_files");
        let before = tree::files_below(&received).len();
        while child.try_wait().unwrap().is_none() && tree::files_below(&received).len() + round > before {}
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
    }
    println!("{killed} were killed before they ended");
    let rules = ["prune", "--keep-last", "1", "--keep-within", "0"];
    operator(&workplace, &rules, &data).expect(0);
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    assert_eq!(snapshot_ids(&client), ids[5..]);
    client.run(["verify"]).expect(0);
    let folder = std::fs::read_dir(data.join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let waiting = std::fs::read_dir(folder).unwrap().flatten();
    let waiting = waiting.filter(|item| item.file_name().to_str().unwrap().ends_with(".index")).count();
    assert_eq!(waiting, 1, "every sweep has been finished");
    assert_eq!(
        tree::files_below(&data.join("received_files")).len(),
        80,
        "what the last snapshot needs, and no more"
    );
}

/// A source with three snapshots at a server that has been stopped, and a policy that keeps the last one.
fn three_snapshots<'a>(workplace: &'a Workplace, client: &TestClient<'a>, source: &Path) -> PathBuf {
    (0..3).for_each(|_| back_up(client, source, &[]));
    assert_eq!(snapshot_ids(client).len(), 3);
    workplace.write("policy.json", r#"{"version": 1, "default": {"keep_last": 1, "keep_within": "0"}}"#)
}

fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Leaves at a stopped server what a daily run two days ago has left. The flags of one whose daily prune comes half a
/// day from now, so that what it does at its start is to make up for what it missed.
fn missed_night(workplace: &Workplace, policy: &Path) -> Vec<String> {
    let now = seconds_now();
    workplace.write("data/daily.json", crate::verifying::daily_record(now - 2 * 86_400));
    let minute = (now / 60 + 720) % 1_440;
    let time = format!("{:02}:{:02}", minute / 60, minute % 60);
    ["--rsa-bits", "2048", "--prune-daily", &time, "--policy", policy.to_str().unwrap()].map(String::from).to_vec()
}

#[test]
fn a_daily_prune_that_was_missed_while_no_server_ran_is_made_up_for_once() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let policy = three_snapshots(&workplace, &client, &source);
    assert_eq!(server.stop(), 0);
    let (now, record) = (seconds_now(), workplace.join("data/daily.json"));
    let flags = missed_night(&workplace, &policy);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = TestServer::start_with(&workplace, "data", &flags);
    server.wait_for_log("2 snapshots dropped, 1 kept");
    let begun = || {
        let record: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        record["begun_seconds"].as_u64().unwrap()
    };
    crate::support::wait_until(|| begun() >= now, "the record of the run");
    let client = TestClient::new(&workplace, &server.address, "ada");
    back_up(&client, &source, &[]);
    assert_eq!(server.stop(), 0);
    let written = begun();
    let server = TestServer::start_with(&workplace, "data", &flags);
    // The thread that prunes looks at the clock before it waits; an operator's command comes after the start.
    let client = TestClient::new(&workplace, &server.address, "ada");
    assert_eq!(snapshot_ids(&client).len(), 2);
    assert_eq!(server.stop(), 0);
    assert_eq!(begun(), written, "what was done is not done again");
}

/// The whole night of a server, made up for at its start: the prune, then the sample; what is damaged is told, and the
/// next backup heals it.
#[test]
fn a_night_prunes_verifies_tells_of_damage_and_the_next_backup_heals_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let policy = three_snapshots(&workplace, &client, &source);
    assert_eq!(server.stop(), 0);
    let stored = tree::files_below(&workplace.join("data/received_files"));
    let harmed = stored.into_iter().find(|file| std::fs::metadata(file).unwrap().len() > 0).unwrap();
    let whole = std::fs::read(&harmed).unwrap();
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    std::fs::write(&harmed, flipped).unwrap();
    let (hook, out) = crate::hooks::script(&workplace, "event", "");
    let flags = missed_night(&workplace, &policy);
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--verify-sample", "100%", "--on-event", &hook]);
    let server = TestServer::start_with(&workplace, "data", &flags);
    server.wait_for_log("2 snapshots dropped, 1 kept");
    server.wait_for_log("1 damaged");
    let told = || crate::hooks::told(&out);
    crate::support::wait_until(|| !told().is_empty(), "the event");
    let name = harmed.file_name().unwrap().to_str().unwrap();
    assert_eq!((&told()[0]["event"], &told()[0]["client"]), (&Value::from("damage"), &Value::from("ada")));
    assert!(told()[0]["text"].as_str().unwrap().contains(name), "{}", told()[0]);
    let client = TestClient::new(&workplace, &server.address, "ada");
    back_up(&client, &source, &[]);
    // A sealed one is another file with the same content.
    assert!(crate::support::is_sealed_at_rest() || std::fs::read(&harmed).unwrap() == whole);
    client.run(["verify"]).expect(0);
    assert_eq!(server.stop(), 0);
}

#[test]
#[ignore = "waits for a minute of the clock: run by tests/run --full"]
fn a_daily_prune_comes_at_its_time() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let policy = three_snapshots(&workplace, &client, &source);
    assert_eq!(server.stop(), 0);
    // The next minute, unless that begins while the server starts.
    let due = (seconds_now() + 20).next_multiple_of(60);
    let time = format!("{:02}:{:02}", due / 3_600 % 24, due / 60 % 60);
    let flags = ["--rsa-bits", "2048", "--prune-daily", &time, "--policy", policy.to_str().unwrap()];
    let server = TestServer::start_with(&workplace, "data", &flags);
    let deadline = due + 90;
    while !server.log().contains("2 snapshots dropped, 1 kept") {
        assert!(seconds_now() < deadline, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(seconds_now() >= due, "it came too early");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_client_keeps_its_rules_when_it_is_renamed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace);
    let client = TestClient::new(&workplace, &server.address, "cy");
    (0..3).for_each(|_| back_up(&client, &source, &[]));
    let text = r#"{"version": 1, "default": {"keep_last": 1, "keep_within": "0"},
                   "clients": {"cy": {"keep_last": 9, "keep_within": "0"}, "nobody": {"keep_daily": 1}}}"#;
    let policy = workplace.write("policy.json", text);
    operator(&workplace, &["clients", "rename", "cy", "cyril"], &server.data).expect(0);
    let words = ["prune", "--policy", policy.to_str().unwrap(), "--json"];
    let run = operator(&workplace, &words, &server.data).expect(0);
    assert_eq!(rows(&run, "pruned")[0]["kept"], 3);
    let warnings = rows(&run, "log");
    assert_eq!((warnings.len(), &warnings[0]["level"]), (1, &Value::from("warn")));
    assert!(warnings[0]["message"].as_str().unwrap().contains("rules for nobody"), "{}", warnings[0]);
    let words = [&words[..], &["--client", "cyril"]].concat();
    assert_eq!(rows(&operator(&workplace, &words, &server.data).expect(0), "pruned")[0]["kept"], 3);
    let words = ["prune", "--policy", policy.to_str().unwrap(), "--client", "cy"];
    operator(&workplace, &words, &server.data).expect(1);
    assert_eq!(server.stop(), 0);
}
