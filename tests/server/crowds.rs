//! Many at once: more clients than slots, peers that only take up room, and a process out of descriptors.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use super::rogue::{Guest, connect, small_key};
use crate::support::{TestClient, TestServer, Workplace, tree, wait_until};

/// A client's flags with a small key, as a crowd has to be cheap.
fn client<'a>(workplace: &'a Workplace, server: &TestServer, user: &str) -> TestClient<'a> {
    let mut client = TestClient::new(workplace, &server.address, user);
    let bits = client.flags.iter().position(|flag| flag == "2048").expect("the size of the key is set");
    client.flags[bits] = "1024".into();
    client
}

/// What `stats --json` says, asked by a client of its own.
pub fn stats(workplace: &Workplace, server: &TestServer) -> Value {
    let client = client(workplace, server, "observer");
    client.run(["stats", "--json", "--quiet"]).expect(0).event("stats")
}

/// A backup that runs in the background, its words in a file.
struct Running {
    child: Child,
    words: PathBuf,
}

impl Running {
    fn words(&self) -> String {
        std::fs::read_to_string(&self.words).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds every slot of the server until all of `crowd` clients have been told that it is busy, then lets
/// them have it; all must come through, and no slot may be lost.
fn a_crowd_comes_through(slots: usize, crowd: usize) {
    let workplace = Workplace::new();
    let most = slots.to_string();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "1024", "--max-clients", &most]);
    let key = small_key();
    // One after the other: the first one registers the key for all.
    let holder = || {
        let mut holder = Guest::enter(&server.address, "holder", &key);
        assert_eq!(holder.snapshots(), 0);
        holder
    };
    let holders: Vec<Guest> = (0..slots).map(|_| holder()).collect();
    let source = workplace.join("source");
    tree::many_files(&source, 5);
    let running: Vec<Running> = (0..crowd)
        .map(|number| {
            let words = workplace.join(format!("words-{number}"));
            let client = client(&workplace, &server, &format!("client {number}"));
            let mut command = client.command(["backup".as_ref(), source.as_os_str()]);
            let child = command.stderr(std::fs::File::create(&words).unwrap()).spawn().unwrap();
            Running { child, words }
        })
        .collect();
    wait_until(|| running.iter().all(|client| client.words().contains("busy")), "every client to hear \"busy\"");
    drop(holders);
    for mut client in running {
        wait_until(|| client.child.try_wait().unwrap().is_some(), "a client to come through");
        let status = client.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{}", client.words());
    }
    let settled = || stats(&workplace, &server)["active_connections"] == 1;
    wait_until(settled, "all slots to be given back but the one that asks");
    let report = stats(&workplace, &server);
    assert_eq!(report["max_connections"], slots);
    assert_eq!(report["available_slots"], slots - 1);
    assert_eq!(report["snapshots"], crowd);
    assert_eq!(report["files_received"], crowd * 5);
    assert!(report["busy_answers"].as_u64().unwrap() >= crowd as u64, "{report}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn sixty_four_new_clients_at_once_come_through_a_cap_of_fifty() {
    a_crowd_comes_through(50, 64);
}

#[test]
fn twelve_new_clients_at_once_come_through_a_cap_of_two() {
    a_crowd_comes_through(2, 12);
}

#[test]
fn peers_that_say_nothing_do_not_keep_a_client_out() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(&server.address)).collect();
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    client(&workplace, &server, "ada").backup(&source);
    // Those that waited longest made room; the first of them has been told by a close.
    assert_eq!(read_one(&silent[0]).unwrap_or(0), 0);
    let waiting = stats(&workplace, &server)["waiting_connections"].as_u64().unwrap();
    assert!(waiting <= 64, "{waiting} wait");
}

fn read_one(mut stream: &TcpStream) -> std::io::Result<usize> {
    stream.read(&mut [0])
}

#[test]
fn peers_that_dribble_are_dropped_after_ten_seconds() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (began, mut sent) = (Instant::now(), 0);
    let mut stream = connect(&server.address);
    // Each read waits a moment for the server's close; in between one byte goes out. At 300 ms a byte the
    // first header takes less than 10 s, and what follows it is counted with it.
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let hello = [&[0u8; 16][..], &[3, 0x10, 0x04, 0xf0, 0, 0, 0], &[0; 240]].concat();
    loop {
        assert!(began.elapsed() < Duration::from_secs(20), "still there after {sent} bytes");
        let gone = stream.write_all(&hello[sent..=sent]).is_err()
            || match read_one(&stream) {
                Ok(0) => true,
                Ok(_) => panic!("an answer to {sent} bytes of a header"),
                Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            };
        if gone {
            break;
        }
        sent += 1;
    }
    assert!(began.elapsed() > Duration::from_secs(8), "dropped after {:?}", began.elapsed());
    assert!(sent > 23, "the deadline is for all bytes together, not for each: {sent}");
    server.wait_for_log("silent for 10 s");
}

#[test]
fn connections_without_a_byte_are_no_failures() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    for _ in 0..50 {
        drop(connect(&server.address));
    }
    let settled = || stats(&workplace, &server)["waiting_connections"] == 0;
    wait_until(settled, "the closed connections to be noticed");
    assert_eq!(stats(&workplace, &server)["failures"], 0);
}

#[test]
fn a_server_out_of_descriptors_serves_again_when_they_are_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let limit = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Pid::from_raw(server.id() as i32), Resource::Nofile, limit).expect("a child's limit can be lowered");
    let silent: Vec<TcpStream> = (0..60).map(|_| connect(&server.address)).collect();
    server.wait_for_log("cannot accept connections for now");
    drop(silent);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    client(&workplace, &server, "ada").backup(&source);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
