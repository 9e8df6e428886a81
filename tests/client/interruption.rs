//! Ctrl-C, and servers that go away in the middle: quick, told, and nothing is lost by it.

use std::time::{Duration, Instant};

use crate::support::{Run, Started, TestClient, TestServer, Workplace, closed_address, kill, tree, wait_until};

/// Interrupts a run and gives how it ended, and how soon.
fn interrupt(started: Started, signal: &str) -> (Run, Duration) {
    let began = Instant::now();
    kill(started.id(), signal);
    // One that was stopped takes the signal when it goes on.
    kill(started.id(), "CONT");
    (started.finish(), began.elapsed())
}

#[test]
fn an_interrupted_backup_ends_at_once_and_the_next_one_works() {
    for signal in ["INT", "TERM"] {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let client = TestClient::new(&workplace, &server.address, "ada");
        let (run, elapsed) = interrupt(client.start_stalled_backup(&server), signal);
        let run = run.expect(130);
        assert!(elapsed < Duration::from_secs(5), "it took {elapsed:?}");
        assert!(run.err().contains("cyberbackup: interrupted"), "{}", run.err());
        let status = std::fs::read_to_string(client.state().join("status.json")).unwrap();
        assert!(status.contains("\"exit_code\": 130") && status.contains("\"failed\""), "{status}");
        assert_eq!(client.run(["snapshots"]).expect(0).out(), "", "an interrupted backup left a snapshot");
        let source = workplace.join("source");
        tree::many_files(&source, 50);
        client.backup(&source);
        tree::assert_same(&source, &client.restore(&source, "to"));
    }
}

#[test]
fn an_interrupted_wait_for_a_server_ends_at_once() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, &closed_address(), "ada");
    let started = client.start(["backup", "--retries", "1000", "/etc/hostname"]);
    started.wait_for("trying again in");
    let (run, elapsed) = interrupt(started, "INT");
    run.expect(130);
    assert!(elapsed < Duration::from_secs(2), "it took {elapsed:?}");
}

#[test]
fn an_interrupted_restore_leaves_no_half_file_under_its_name() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    crate::support::large_file(&source.join("large"), crate::support::LARGE_BYTES);
    client.backup(&source);
    let started = client.start(["restore", "--to", "to"]);
    let folder = workplace.join("to").join(source.strip_prefix("/").unwrap());
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    wait_until(|| !names().is_empty(), "the first bytes of the restored file");
    interrupt(started, "INT").0.expect(130);
    // What has come of a large file is kept for the next restore, under a name of its own.
    let left = names();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(".cb-") && left[0].ends_with(".part"), "{left:?}");
    client.run(["restore", "--to", "to"]).expect(0);
    assert_eq!(names(), ["large"], "something was left beside the file");
    assert_eq!(std::fs::metadata(folder.join("large")).unwrap().len(), crate::support::LARGE_BYTES);
}

#[test]
fn a_server_that_dies_and_comes_back_gets_the_whole_backup() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let port = server.address.rsplit(':').next().unwrap().to_string();
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("stalled");
    let started = client.start_stalled_backup(&server);
    server.kill();
    kill(started.id(), "CONT");
    started.wait_for("going on in");
    let _server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--port", &port]);
    let run = started.finish().expect(0);
    assert!(run.out().starts_with("snapshot "), "{}", run.out());
    assert_eq!(client.run(["snapshots"]).expect(0).out().lines().count(), 1);
    tree::assert_same(&source, &client.restore(&source, "to"));
}

#[test]
fn a_server_that_dies_for_good_is_no_connection() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    let address = server.address.clone();
    client.flags.splice(0..0, ["--retries".into(), "0".into()]);
    let started = client.start_stalled_backup(&server);
    server.kill();
    kill(started.id(), "CONT");
    let run = started.finish().expect(4);
    assert!(run.err().contains(&format!("cyberbackup: {address}: ")), "{}", run.err());
}
