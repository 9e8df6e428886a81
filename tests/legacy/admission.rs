//! Who may come in the legacy dialect, and how many at a time.

use std::time::{Duration, Instant};

use super::peer::{Encrypted, GENERAL_ERROR, Key, Peer, field, write_noise};
use crate::server::rogue::{Guest, small_key};
use crate::support::{TestServer, Workplace, wait_until};

fn start(workplace: &Workplace, flags: &[&str]) -> TestServer {
    TestServer::start_with(workplace, "data", &[&["--rsa-bits", "2048"], flags].concat())
}

fn open_name(workplace: &Workplace, server: &TestServer, name: &str) -> crate::support::Run {
    workplace.run(["enroll", "--legacy", name, "--data", server.data.to_str().unwrap()])
}

#[test]
fn the_policies_let_in_legacy_clients_as_they_say() {
    for (policy, without, with) in
        [("open", 1600, 1600), ("local", 1600, 1600), ("token", 1601, 1600), ("closed", 1601, 1601)]
    {
        let workplace = Workplace::new();
        let server = start(&workplace, &["--registration", policy]);
        let mut peer = Peer::connect(&server);
        assert_eq!(peer.ask(1025, &field(b"ada")).0, without, "{policy}");
        open_name(&workplace, &server, "bob").expect(0);
        assert_eq!(peer.ask(1025, &field(b"bob")).0, with, "{policy}");
    }
}

#[test]
fn a_name_is_opened_once_and_for_itself_alone() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--registration", "token"]);
    let run = open_name(&workplace, &server, "ada").expect(0);
    assert!(run.out().starts_with("a legacy client may register as ada once, until 2"), "{}", run.out());
    let key = Key::make(17);
    let mut peer = Peer::connect(&server);
    assert_eq!(peer.ask(1025, &field(b"bob")).0, 1601);
    // The opening lasts until the key has come: a client that was cut off may come again.
    peer.register("ada");
    peer.send_key("ada", &key);
    drop(peer);
    let run = open_name(&workplace, &server, "ada");
    assert!(run.code != 0 && run.err().contains("belongs to another key"), "{}", run.err());
    assert_eq!(Peer::connect(&server).ask(1025, &field(b"ada")).0, 1601);
    // A token is no opening, and an opening no token.
    workplace.run(["enroll", "carol", "--data", server.data.to_str().unwrap()]).expect(0);
    assert_eq!(Peer::connect(&server).ask(1025, &field(b"carol")).0, 1601);
    open_name(&workplace, &server, "dave").expect(0);
    assert!(Guest::try_enter(&server.address, "dave", &small_key()).is_err());
    workplace.run(["enroll", "--legacy", "eve", "--count", "2"]).expect(2);
}

#[test]
fn with_legacy_off_a_client_gets_1607_and_a_close() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--legacy", "off"]);
    for code in 1025..=1031 {
        let mut peer = Peer::connect(&server);
        let header = peer.header(code, 255);
        peer.send(&header);
        peer.expect_error_and_close();
    }
    assert!(server.log().contains("--legacy is off"), "{}", server.log());
}

#[test]
fn a_client_beyond_the_cap_is_held_until_a_session_ends() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--max-clients", "1"]);
    let key = Key::make(17);
    let (first, _) = Peer::enter(&server, "ada", &key);
    let held = |count: usize| {
        wait_until(|| server.log().matches("held until a session ends").count() == count, "clients that are held");
    };
    let mut waiting: Vec<Peer> = (0..64).map(|_| Peer::connect(&server)).collect();
    for (number, peer) in waiting.iter_mut().enumerate() {
        peer.say(1025, &field(format!("waits {number}").as_bytes()));
    }
    held(64);
    // One more than are held.
    let mut beyond = Peer::connect(&server);
    beyond.say(1025, &field(b"beyond"));
    beyond.expect_error_and_close();
    // A native client is told that the server is busy, as ever.
    assert!(Guest::try_enter(&server.address, "native", &small_key()).is_err());
    // Those that leave make room.
    waiting.truncate(1);
    wait_until(
        || {
            let mut next = Peer::connect(&server);
            next.say(1025, &field(b"next"));
            next.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            // Nothing to read: it is held and not refused.
            std::io::Read::read(&mut next.stream, &mut [0]).is_err()
        },
        "a place for the next",
    );
    drop(first);
    assert_eq!(waiting[0].hear().unwrap().0, 1600);
    assert!(server.log().contains("no session became free"));
}

#[test]
#[ignore = "takes a minute: that is how long a client is held"]
fn a_client_that_is_held_in_vain_gets_1607_after_a_minute() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--max-clients", "1"]);
    let (_first, _) = Peer::enter(&server, "ada", &Key::make(17));
    let mut peer = Peer::connect(&server);
    peer.stream.set_read_timeout(Some(Duration::from_secs(80))).unwrap();
    let began = Instant::now();
    peer.say(1025, &field(b"bob"));
    peer.expect_error_and_close();
    assert!((Duration::from_secs(58)..Duration::from_secs(70)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
#[ignore = "takes ten seconds: the time that is given to who has proved nothing"]
fn a_client_that_is_not_let_in_has_ten_seconds() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--registration", "closed"]);
    let mut peer = Peer::connect(&server);
    let began = Instant::now();
    assert_eq!(peer.ask(1025, &field(b"ada")).0, 1601);
    assert_eq!(peer.hear(), None);
    assert!((Duration::from_secs(8)..Duration::from_secs(15)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn a_message_that_stops_in_the_middle_ends_the_connection_in_its_time() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--timeout", "1"]);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 10_000), &file_key);
    peer.send_file("a", &file, 65_536);
    let header = peer.header(1029, 255);
    peer.send(&header);
    peer.send(&field(b"a")[..100]);
    assert_eq!(peer.hear(), None);
    server.wait_for_log("the other side was silent for 1 s");
    assert_eq!(GENERAL_ERROR, 1607);
}

#[test]
fn a_server_that_ends_waits_for_a_file_that_is_under_way() {
    let workplace = Workplace::new();
    let server = start(&workplace, &["--grace", "20"]);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let (mut idle, _) = Peer::reenter(&server, "ada", peer.id, &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 300_000), &file_key);
    peer.say_part("a", &file, 1, 65_536);
    let incoming = server.data.join("incoming");
    let is_under_way = |client: std::fs::DirEntry| std::fs::read_dir(client.path()).unwrap().count() > 0;
    let clients = || std::fs::read_dir(&incoming).unwrap().flatten();
    wait_until(|| clients().any(is_under_way), "the upload at the server");
    peer.say_part("a", &file, 2, 65_536);
    crate::support::kill(server.id(), "TERM");
    server.wait_for_log("stopping: no new connections");
    assert_eq!(idle.hear(), None, "one that does nothing is closed at once");
    (3..=file.packets(65_536)).for_each(|number| peer.say_part("a", &file, number, 65_536));
    peer.expect_received("a", &file);
    peer.conclude(1029, "a");
    server.wait_for_log("stopped");
}

#[test]
fn a_client_that_was_renamed_is_let_in_under_its_earlier_name() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut first, file_key) = Peer::enter(&server, "ada", &key);
    workplace.run(["clients", "rename", "ada", "lovelace", "--data", server.data.to_str().unwrap()]).expect(0);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100), &file_key);
    first.store("a", &file, 1_000);
    for name in ["ada", "lovelace"] {
        Peer::reenter(&server, name, first.id, &key);
        let mut peer = Peer { id: first.id, ..Peer::connect(&server) };
        peer.send_key(name, &key);
    }
}
