//! Keys that are exchanged for new ones: by the client, cut off at every frame of it, at either side.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use cyberbackup::crypto::Fingerprint;
use serde_json::Value;

use crate::encryption::line::{Harm, Line};
use crate::support::{Run, Started, TestClient, TestServer, Workplace, kill, tree};

/// Small keys: dozens of them are made here.
const ROTATE: [&str; 3] = ["rotate-key", "--rsa-bits", "1024"];

fn client<'a>(workplace: &'a Workplace, address: &str) -> TestClient<'a> {
    let mut client = TestClient::new(workplace, address, "ada");
    let bits = client.flags.iter().position(|flag| flag == "--rsa-bits").unwrap();
    client.flags.drain(bits..bits + 2);
    client
}

fn backup(client: &TestClient<'_>, source: &Path) -> Run {
    client.run([OsStr::new("backup"), "--rsa-bits".as_ref(), "1024".as_ref(), source.as_os_str()])
}

/// The server's row of the client.
fn row(workplace: &Workplace, data: &Path) -> Value {
    let run = workplace.run(["clients".as_ref(), "--json".as_ref(), "--data".as_ref(), data.as_os_str()]).expect(0);
    run.event("client")
}

fn public_key(client: &TestClient<'_>) -> String {
    Fingerprint::of_der(&std::fs::read(client.state().join("valid_public_key.der")).unwrap()).to_string()
}

fn copy_state(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

/// A line that ends a process as soon as so many frames have passed, of all its connections and both ways.
fn deadly_line(server: &str, frames: usize, victim: &Arc<AtomicU32>) -> Line {
    let (passed, victim) = (Arc::new(AtomicUsize::new(0)), victim.clone());
    Line::start(server, move |_, _| -> Harm {
        let (passed, victim) = (passed.clone(), victim.clone());
        Box::new(move |frame| {
            if passed.fetch_add(1, Ordering::SeqCst) < frames {
                return Some(frame);
            }
            match victim.load(Ordering::SeqCst) {
                // Not started yet, as far as the test knows: the frame waits no longer than that.
                0 => None,
                id => {
                    kill(id, "KILL");
                    None
                }
            }
        })
    })
}

struct Place {
    workplace: Workplace,
    source: std::path::PathBuf,
}

impl Place {
    fn new() -> Place {
        let workplace = Workplace::new();
        let source = workplace.join("source");
        tree::many_files(&source, 3);
        Place { workplace, source }
    }
}

#[test]
fn a_rotated_key_is_the_only_one_that_is_let_in() {
    let Place { workplace, source } = Place::new();
    let server = TestServer::start(&workplace);
    let client = client(&workplace, &server.address);
    backup(&client, &source).expect(0);
    let (before, old) = (row(&workplace, &server.data), workplace.join("old"));
    copy_state(&client.state(), &old);
    let run = client.run(["rotate-key", "--json"]).expect(0);
    let rotated = run.event("key_rotated");
    assert_eq!(rotated["old_fingerprint"], before["fingerprint"], "{rotated}");
    assert_eq!(rotated["bits"], 3072, "{rotated}");
    let after = row(&workplace, &server.data);
    assert_eq!((&after["fingerprint"], &after["next_fingerprint"]), (&rotated["fingerprint"], &Value::Null));
    assert_eq!((&after["id"], &after["snapshots"]), (&before["id"], &Value::from(1)));
    assert_eq!(rotated["fingerprint"], public_key(&client));
    assert!(!client.state().join("valid_private_key.der.next").exists());
    backup(&client, &source).expect(0);
    // The copy that somebody took of the old key opens nothing, and cannot put another key in its place.
    let mut thief = client;
    *thief.flags.last_mut().unwrap() = old.into_os_string();
    for words in [&ROTATE[..], &["snapshots"]] {
        let run = thief.run(words).expect(5);
        assert!(run.err().contains("does not know this name with this id and key"), "{}", run.err());
    }
    assert_eq!(row(&workplace, &server.data)["fingerprint"], rotated["fingerprint"]);
}

#[test]
fn a_client_that_is_killed_at_any_frame_of_a_rotation_logs_in_again() {
    let Place { workplace, source } = Place::new();
    let server = TestServer::start(&workplace);
    let direct = client(&workplace, &server.address);
    backup(&direct, &source).expect(0);
    let (mut kept, mut renewed) = (0, 0);
    for frames in 0.. {
        let before = public_key(&direct);
        let victim = Arc::new(AtomicU32::new(0));
        let line = deadly_line(&server.address, frames, &victim);
        let started = Started::of(client(&workplace, &line.address).command(ROTATE));
        victim.store(started.id(), Ordering::SeqCst);
        let code = started.finish().code;
        drop(line);
        backup(&direct, &source).expect(0);
        let row = row(&workplace, &server.data);
        assert_eq!(row["fingerprint"], public_key(&direct), "after {frames} frames");
        assert_eq!(row["next_fingerprint"], Value::Null, "after {frames} frames");
        match public_key(&direct) == before {
            true => kept += 1,
            false => renewed += 1,
        }
        if code == 0 {
            break;
        }
        assert!(frames < 100, "it never came to its end");
    }
    assert!(kept >= 8 && renewed >= 5, "{kept} kept the old key, {renewed} had the new one");
}

#[test]
fn a_server_that_is_killed_at_any_frame_of_a_rotation_lets_the_client_in_again() {
    let Place { workplace, source } = Place::new();
    let mut server = TestServer::start(&workplace);
    backup(&client(&workplace, &server.address), &source).expect(0);
    let (mut kept, mut renewed) = (0, 0);
    for frames in 0.. {
        let before = public_key(&client(&workplace, &server.address));
        let victim = Arc::new(AtomicU32::new(server.id()));
        let line = deadly_line(&server.address, frames, &victim);
        let words = ROTATE.iter().copied().chain(["--retries", "0"]);
        let code = client(&workplace, &line.address).run(words).code;
        drop((line, server));
        server = TestServer::start(&workplace);
        let direct = client(&workplace, &server.address);
        backup(&direct, &source).expect(0);
        let row = row(&workplace, &server.data);
        assert_eq!(row["fingerprint"], public_key(&direct), "after {frames} frames");
        match public_key(&direct) == before {
            true => kept += 1,
            false => renewed += 1,
        }
        if code == 0 {
            break;
        }
        assert!(frames < 100, "it never came to its end");
    }
    assert!(kept >= 8 && renewed >= 3, "{kept} kept the old key, {renewed} had the new one");
}

/// Cuts rotations off until the server has a next key that it has not seen in a login.
fn leave_pending(workplace: &Workplace, server: &TestServer) {
    for frames in 8.. {
        let victim = Arc::new(AtomicU32::new(0));
        let line = deadly_line(&server.address, frames, &victim);
        let started = Started::of(client(workplace, &line.address).command(ROTATE));
        victim.store(started.id(), Ordering::SeqCst);
        let code = started.finish().code;
        if !row(workplace, &server.data)["next_fingerprint"].is_null() {
            return;
        }
        assert!(code != 0, "the rotation ended before the server knew of it");
    }
}

#[test]
fn until_the_next_key_is_used_a_copy_with_the_old_one_is_let_in() {
    let Place { workplace, source } = Place::new();
    let server = TestServer::start(&workplace);
    let direct = client(&workplace, &server.address);
    backup(&direct, &source).expect(0);
    let old = workplace.join("old");
    copy_state(&direct.state(), &old);
    leave_pending(&workplace, &server);
    let mut copy = client(&workplace, &server.address);
    *copy.flags.last_mut().unwrap() = old.clone().into_os_string();
    backup(&copy, &source).expect(0);
    assert!(!row(&workplace, &server.data)["next_fingerprint"].is_null(), "the next key still waits");
    // Where the next key is, the server's choice is that one; then the old one is over.
    direct.run(["snapshots"]).expect(0);
    assert_eq!(row(&workplace, &server.data)["fingerprint"], public_key(&direct));
    backup(&copy, &source).expect(5);
}

#[test]
fn a_client_that_has_lost_its_next_key_makes_another_one() {
    let Place { workplace, source } = Place::new();
    let server = TestServer::start(&workplace);
    let direct = client(&workplace, &server.address);
    backup(&direct, &source).expect(0);
    leave_pending(&workplace, &server);
    let next = direct.state().join("valid_private_key.der.next");
    std::fs::write(&next, b"damaged").unwrap();
    let run = backup(&direct, &source).expect(0);
    assert!(run.err().contains("valid_private_key.der.next cannot be used"), "{}", run.err());
    direct.run(ROTATE).expect(0);
    let row = row(&workplace, &server.data);
    assert_eq!((&row["fingerprint"], &row["next_fingerprint"]), (&public_key(&direct).into(), &Value::Null));
    assert!(!next.exists());
    backup(&direct, &source).expect(0);
}
