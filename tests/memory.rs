//! What a server has in memory: doing nothing, and for each client that it serves.

use std::fs;
use std::path::Path;

use crate::support::{Started, TestClient, TestServer, Workplace, is_sealed_at_rest, kill, wait_until};

const MIB: u64 = 1024 * 1024;
/// Clients that are served at a time.
const CLIENTS: u64 = 8;
/// A file that takes a client so long that it can be stopped in the midst of it.
const FILE_BYTES: u64 = 192 * MIB;
/// So much of a file has come, at least, when its client is stopped.
const COME_BYTES: u64 = 8 * MIB;
/// What a sealed store takes for each file that is being written: sixteen segments side by side, and the text that waits
/// for them.
const SEALING_KIB: u64 = 384;

#[test]
fn an_idle_server_uses_little_memory() {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let (started, idle_threads) = (own_kib(server.id()), threads(server.id()));
    let client = TestClient::new(&workplace, &server.address, "ada");
    fs::write(workplace.join("large"), vec![7; 16 * MIB as usize]).unwrap();
    client.run(["backup", "--quiet", "large"]).expect(0);
    wait_until(|| threads(server.id()) == idle_threads, "the end of the session's threads");
    let rested = own_kib(server.id());
    println!("own memory: {started} KiB at first, {rested} KiB after a session");
    assert!(started < 1024, "{started} KiB before the first client");
    assert!(rested < 2048, "{rested} KiB after a client has left");
}

#[test]
fn one_more_client_costs_a_server_less_than_a_mebibyte() {
    let each = kib_for_each_client(&[]);
    println!("{each} KiB for each further client");
    assert!((100..1024 + SEALING_KIB * sealed()).contains(&each), "{each} KiB");
}

#[test]
fn a_server_with_little_memory_uses_less_for_each_client() {
    let each = kib_for_each_client(&["--low-memory"]);
    println!("{each} KiB for each further client");
    assert!((50..640 + SEALING_KIB * sealed()).contains(&each), "{each} KiB");
}

/// 1 in a run of the tests on sealed stores.
fn sealed() -> u64 {
    u64::from(is_sealed_at_rest())
}

/// What each of several clients adds to the first one, while all of them are in the midst of a large file.
fn kib_for_each_client(flags: &[&str]) -> u64 {
    let workplace = Workplace::in_memory();
    let flags = [&["--rsa-bits", "2048", "--registration", "open"], flags].concat();
    let server = TestServer::start_with(&workplace, "data", &flags);
    let file = workplace.join("large");
    fs::write(&file, vec![7; FILE_BYTES as usize]).unwrap();
    let mut served: Vec<Started> = Vec::new();
    let mut first_kib = 0;
    for number in 1..=CLIENTS {
        let client = TestClient::new(&workplace, &server.address, &format!("client-{number}"));
        let run = client.start(["backup", "--quiet", "large"]);
        wait_until(|| files_that_come(&server.data) == number, "most of a file's beginning");
        kill(run.id(), "STOP");
        assert!(
            status_line(run.id(), "State:").starts_with(['T', 'R', 'S', 'D']),
            "it ended before it was stopped"
        );
        served.push(run);
        if number == 1 {
            first_kib = own_kib(server.id());
        }
    }
    let all_kib = own_kib(server.id());
    println!("own memory: {first_kib} KiB with one client, {all_kib} KiB with {CLIENTS}");
    all_kib.saturating_sub(first_kib) / (CLIENTS - 1)
}

/// How many files have come so far that it is a good part of a large one.
fn files_that_come(folder: &Path) -> u64 {
    let Ok(names) = fs::read_dir(folder) else { return 0 };
    let count = |path: &Path| match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => files_that_come(path),
        Ok(facts) if facts.len() > COME_BYTES => 1,
        _ => 0,
    };
    names.flatten().map(|entry| count(&entry.path())).sum()
}

/// What a process has resident beside the pages of its files, in KiB: its program's own pages are shared, and as many as
/// the build has.
fn own_kib(id: u32) -> u64 {
    number(&status_line(id, "RssAnon:"))
}

fn threads(id: u32) -> u64 {
    number(&status_line(id, "Threads:"))
}

fn number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// What the kernel says of a process under this name.
fn status_line(id: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the kernel tells it").trim().to_string()
}
