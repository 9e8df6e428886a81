//! Bytes of true sessions used again: played back, spliced into another session. Nothing is stored by them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::line::{Line, Way, is_data, unharmed};
use crate::server::rogue::connect;
use crate::support::{TestClient, TestServer, Workplace, tree, wait_until};

/// What lies in the parts of the data folder that hold clients' things, and the clients' list.
fn stored(workplace: &Workplace, server: &TestServer) -> (Vec<BTreeMap<OsString, tree::Look>>, String) {
    let parts = ["received_files", "ranges", "snapshots", "clients"];
    let looks = parts.iter().map(|part| tree::look(&server.data.join(part))).collect();
    let clients =
        workplace.run(["clients".as_ref(), "--json".as_ref(), "--data".as_ref(), server.data.as_os_str()]);
    (looks, clients.expect(0).out())
}

fn source(workplace: &Workplace, name: &str, seed: u64, bytes: usize) -> PathBuf {
    let source = workplace.join(name);
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), tree::bytes(seed, bytes)).unwrap();
    source
}

fn try_backup(client: &TestClient<'_>, source: &Path) -> crate::support::Run {
    let words = ["backup".as_ref(), "--retries".as_ref(), "0".as_ref(), source.as_os_str()];
    client.run(words)
}

/// Plays these bytes to the server as a client would, and waits until it ends the connection.
fn play(server: &TestServer, frames: &[Vec<u8>]) {
    let mut stream = connect(&server.address);
    let mut heard = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A reset is an end too; a server that stays fails by the socket's patience.
        match heard.read_to_end(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server stays"),
            _ => bytes,
        }
    });
    for frame in frames {
        if stream.write_all(frame).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    assert!(!reader.join().unwrap().is_empty(), "the server answered the handshake");
}

fn failures(workplace: &Workplace, server: &TestServer) -> u64 {
    let client = TestClient::new(workplace, &server.address, "observer");
    let stats: Value = client.run(["stats", "--json", "--quiet"]).expect(0).event("stats");
    stats["failures"].as_u64().unwrap()
}

#[test]
fn a_recorded_session_played_again_stores_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (line, recording) = Line::recording(&server.address);
    let client = TestClient::new(&workplace, &line.address, "ada");
    // The first session registers, the second logs in: both are played again.
    client.backup(&source(&workplace, "first", 1, 1 << 20));
    client.backup(&source(&workplace, "second", 2, 1 << 20));
    drop(line);
    // The observer registers at its first question: what is compared comes after that.
    let failed = failures(&workplace, &server);
    let before = stored(&workplace, &server);
    for connection in [0, 1] {
        let frames = recording.frames(connection, Way::ToServer);
        assert!(frames.iter().map(Vec::len).sum::<usize>() > 1 << 20, "the whole session was recorded");
        play(&server, &frames);
    }
    wait_until(|| failures(&workplace, &server) == failed + 2, "both to be counted as failures");
    assert_eq!(server.log().matches("did not prove its key").count(), 2, "{}", server.log());
    assert_eq!(stored(&workplace, &server), before);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_recorded_session_played_to_another_server_stores_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (line, recording) = Line::recording(&server.address);
    TestClient::new(&workplace, &line.address, "ada").backup(&source(&workplace, "first", 1, 1 << 16));
    drop(line);
    let other = TestServer::start_with(&workplace, "other", &["--rsa-bits", "2048"]);
    let before = stored(&workplace, &other);
    play(&other, &recording.frames(0, Way::ToServer));
    assert_eq!(stored(&workplace, &other), before);
    assert_eq!(before.1, "", "who only plays back is not registered");
}

#[test]
fn segments_of_another_session_spliced_in_store_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (line, recording) = Line::recording(&server.address);
    TestClient::new(&workplace, &line.address, "ada").backup(&source(&workplace, "first", 1, 4 << 20));
    drop(line);
    let mut recorded: Vec<Vec<u8>> = recording.frames(0, Way::ToServer);
    recorded.retain(|frame| is_data(Way::ToServer, frame));
    let before = stored(&workplace, &server);
    // From the 20th data segment on, the other session's, at the same places.
    let line = Line::start(&server.address, move |_, way| {
        if way == Way::ToClient {
            return unharmed();
        }
        let (recorded, mut number) = (recorded.clone(), 0);
        Box::new(move |frame| {
            if !is_data(way, &frame) {
                return Some(frame);
            }
            number += 1;
            Some(if number < 20 { frame } else { recorded.get(number).cloned().unwrap_or(frame) })
        })
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    let run = try_backup(&client, &source(&workplace, "second", 2, 4 << 20)).expect(4);
    assert!(run.err().contains(&line.address), "{}", run.err());
    drop(line);
    server.wait_for_log("arrived damaged three times");
    assert_eq!(stored(&workplace, &server), before);
}

#[test]
fn what_the_server_said_sent_back_to_it_stores_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (line, recording) = Line::recording(&server.address);
    let client = TestClient::new(&workplace, &line.address, "ada");
    let source = source(&workplace, "first", 1, 1 << 20);
    client.backup(&source);
    client.restore(&source, "restored");
    drop(line);
    let before = stored(&workplace, &server);
    for connection in [0, 1] {
        // As it was, where it is no request at all, and after a true beginning of a session.
        let said = recording.frames(connection, Way::ToClient);
        play(&server, &said);
        let spoken = recording.frames(connection, Way::ToServer);
        play(&server, &[&spoken[..2], &said[..]].concat());
    }
    assert_eq!(stored(&workplace, &server), before);
}
