//! Ends: asked for, forced, and as by a power cut.

use std::thread;
use std::time::{Duration, Instant};

use cyberbackup::protocol::message::ToServer;

use super::rogue::{Guest, entries, file, small_key, sums};
use crate::support::{TestClient, TestServer, Workplace, tree, wait_until};

/// Two batches of a store that is sealed.
const HALF: usize = 512 * 1024;

/// An upload of the file `f`, of which the first bytes have been written down at the server.
fn half_an_upload(server: &TestServer, key: &cyberbackup::crypto::PrivateKey) -> Guest {
    let mut guest = Guest::enter(&server.address, "halfway", key);
    guest.begin(&["f"]);
    guest.range(0, &entries(&[file("f", 1 << 20)]));
    guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
    let part = vec![7; HALF / 4];
    (0..4).for_each(|_| guest.say(&ToServer::ContentData(&part)));
    let incoming = server.data.join("incoming");
    wait_until(|| tree::bytes_below(&incoming) >= HALF as u64, "the half to be written");
    guest
}

#[test]
fn a_wish_to_stop_lets_an_upload_finish_and_waits_for_nobody_else() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let mut idle = Guest::enter(&server.address, "idle", &small_key());
    let mut guest = half_an_upload(&server, &key);
    let log = workplace.join("data.log");
    let stopping = thread::spawn(move || server.stop());
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(|| said().contains("no new connections"), "the server to stop accepting");
    assert!(idle.hear().is_err(), "a session without work is closed");
    guest.say(&ToServer::ContentEnd(sums(&vec![7; HALF])));
    let row = guest.commit(1, 1);
    let stored = Instant::now();
    assert_eq!(stopping.join().unwrap(), 0);
    assert!(stored.elapsed() < Duration::from_secs(10), "the finished session delayed the end");
    let server = TestServer::start(&workplace);
    let mut guest = Guest::enter(&server.address, "halfway", &key);
    assert_eq!(guest.snapshots(), 1, "{} is there after the restart", row.id);
}

#[test]
fn work_beyond_the_grace_is_ended() {
    for grace in ["0", "1"] {
        let workplace = Workplace::new();
        let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--grace", grace]);
        let key = small_key();
        let mut guest = half_an_upload(&server, &key);
        let began = Instant::now();
        assert_eq!(server.stop(), 0);
        assert!(began.elapsed() < Duration::from_secs(10), "--grace {grace} took {:?}", began.elapsed());
        assert!(guest.hear().is_err());
        let server = TestServer::start(&workplace);
        assert_eq!(Guest::enter(&server.address, "halfway", &key).snapshots(), 0);
    }
}

#[test]
fn idle_sessions_and_strangers_delay_no_end() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let sessions: Vec<Guest> = (0..10).map(|_| Guest::enter(&server.address, "idle", &key)).collect();
    let strangers: Vec<_> = (0..10).map(|_| super::rogue::connect(&server.address)).collect();
    let began = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(5), "the end took {:?}", began.elapsed());
    drop((sessions, strangers));
}

#[test]
fn what_was_said_to_be_stored_survives_kill_9() {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    tree::odd(&source);
    let server = TestServer::start(&workplace);
    let snapshot = TestClient::new(&workplace, &server.address, "ada").backup(&source);
    server.kill();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let listed = client.run(["snapshots"]).expect(0).out();
    assert!(listed.contains(&snapshot), "{listed}");
    client.run(["verify"]).expect(0);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}

#[test]
fn kill_9_in_the_middle_of_an_upload_shows_nothing_half() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let guest = half_an_upload(&server, &key);
    server.kill();
    assert!(tree::bytes_below(&workplace.join("data/incoming")) > 0, "the kill came in the middle");
    drop(guest);
    let server = TestServer::start(&workplace);
    assert_eq!(tree::bytes_below(&server.data.join("incoming")), 0, "the restart swept it");
    assert_eq!(tree::bytes_below(&server.data.join("received_files")), 0);
    let mut guest = Guest::enter(&server.address, "halfway", &key);
    assert_eq!(guest.snapshots(), 0);
    guest.begin(&["f"]);
    guest.range(0, &entries(&[file("f", 1)]));
    guest.content(0, 0, b"x");
    guest.commit(1, 1);
    assert_eq!(guest.snapshots(), 1);
}

#[test]
fn a_client_carries_on_when_the_server_is_killed_and_comes_back() {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    // Large enough that the kill comes before its end: the client waits on a full line meanwhile.
    std::fs::write(source.join("large"), tree::bytes(1, 192 << 20)).unwrap();
    let server = TestServer::start(&workplace);
    let address = server.address.clone();
    let client = TestClient::new(&workplace, &address, "ada");
    let words = ["backup".as_ref(), "--retries".as_ref(), "20".as_ref(), source.as_os_str()];
    let command = client.command(words);
    let run = thread::spawn(move || crate::support::Run::of(command));
    wait_until(|| tree::bytes_below(&server.data.join("incoming")) > 1 << 20, "the upload to be under way");
    server.kill();
    let port = address.rsplit(':').next().unwrap();
    let server = TestServer::start_with(&workplace, "data", &["--port", port]);
    run.join().unwrap().expect(0);
    assert_eq!(server.address, address);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}
