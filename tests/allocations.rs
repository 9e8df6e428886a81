//! Allocations, counted: what is done again and again for each piece of a content has its buffers, so that a content four
//! times as long makes no more allocations.
//!
//! `valgrind --tool=dhat` counts the blocks that client and server allocate in a backup and a restore, of a content and of
//! one that is longer. What the second has more, for each MiB, stays below a figure that has its reason beside it. What
//! is done by the clock is left out: under valgrind, where all takes long, it is done often.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Run, TestClient, TestServer, Workplace, tree};
use crate::vault::create_vault;

const MIB: usize = 1 << 20;
/// The two lengths, in MiB.
const SHORT: usize = 4;
const LONG: usize = 16;

/// What is done by the clock: functions below which nothing is counted.
const BY_THE_CLOCK: [(&str, &str); 2] = [
    ("note_under_way", "notes of what has come, for a later session"),
    ("ProgressSink>::event", "progress, some times in a second"),
];

/// Blocks that one MiB more may take, of which process, and why there are any. One allocation more in
/// each batch that is sealed makes 1.6 more in the client of a backup, whose batches are long, and four or more in the
/// others; a vault's chunk has 44 KiB, so that one more for each makes 23. The server of a vault is not among them: its
/// index takes some for each row.
const MOST: [(&str, f64, &str); 5] = [
    ("backup", 3.0, "acknowledgements of what has come"),
    ("restore", 7.0, "acknowledgements, and answers that are given back when they are read"),
    ("server", 6.0, "acknowledgements, both ways"),
    ("backup into a vault", 60.0, "what the server lacks of each parcel, and names that go into a tree"),
    ("restore from a vault", 24.0, "questions for some MiB of chunks, and what answers them"),
];

#[test]
#[ignore = "long: runs under valgrind"]
fn what_is_done_for_each_piece_allocates_nothing() {
    let counts = [SHORT, LONG].map(|mib| [false, true].map(|is_vault| count(mib, is_vault)).concat());
    let [short, long] = counts;
    let mut faults = Vec::new();
    for ((name, most, _reason), (short, long)) in MOST.iter().zip(short.iter().zip(&long)) {
        let more = (*long as f64 - *short as f64) / (LONG - SHORT) as f64;
        println!("{name}: {short} and {long} blocks, {more:.1} for each MiB, {most} at most");
        if more > *most {
            faults.push(format!("{name}: {more:.1} blocks for each MiB instead of {most}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The blocks that a backup, its restore and their server allocate.
fn count(mib: usize, is_vault: bool) -> Vec<u64> {
    let workplace = Workplace::in_memory();
    // Whatever is made once is there before anything is counted.
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    create_vault(&client);
    let source = workplace.join("source");
    let vault: &[&str] = if is_vault { &["--vault"] } else { &[] };
    let backup = |client: &TestClient<'_>| {
        let words = ["backup"].iter().chain(vault).map(OsStr::new).chain([source.as_os_str()]);
        client.command(words)
    };
    workplace.write("source/small", "small");
    Run::of(backup(&client)).expect(0);
    assert_eq!(server.stop(), 0);

    fs::write(source.join("large"), tree::bytes(mib as u64, mib * MIB)).unwrap();
    let data = workplace.join("data");
    let words = ["server", "--bind", "127.0.0.1", "--port", "0", "--data"].map(OsStr::new);
    let server_out = workplace.join("server.dhat");
    let command = counted(&workplace.command(words.into_iter().chain([data.as_os_str()])), &server_out);
    let server = TestServer::of(command, data, workplace.join("counted.log"), false);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let client_out = workplace.join("client.dhat");
    let count = |command: &Command| {
        Run::of(counted(command, &client_out)).expect(0);
        blocks(&client_out)
    };
    let backed_up = count(&backup(&client));
    let to = workplace.join("to");
    let mut restore = client.command(["restore".as_ref(), "--to".as_ref(), to.as_os_str()]);
    restore.env("CYBERBACKUP_PASSPHRASE", "one");
    let restored = count(&restore);
    tree::assert_same(&source, &to.join(source.strip_prefix("/").unwrap()));
    assert_eq!(server.stop(), 0);
    let served = blocks(&server_out);
    if is_vault { vec![backed_up, restored] } else { vec![backed_up, restored, served] }
}

/// The same command under valgrind, which writes what it counted to `out`.
fn counted(command: &Command, out: &Path) -> Command {
    let mut counted = Command::new("valgrind");
    counted.arg("--tool=dhat").arg(format!("--dhat-out-file={}", out.display()));
    counted.arg(command.get_program()).args(command.get_args());
    counted.current_dir(command.get_current_dir().expect("it runs in the workplace"));
    counted.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    counted.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    counted
}

/// The blocks that valgrind counted, but for those that are made by the clock.
fn blocks(out: &Path) -> u64 {
    let profile: Value = serde_json::from_slice(&fs::read(out).expect("valgrind counted")).expect("it is JSON");
    let frames: Vec<&str> =
        profile["ftbl"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
    let is_by_the_clock = |point: &&Value| {
        let stack = point["fs"].as_array().unwrap().iter().map(|frame| frames[frame.as_u64().unwrap() as usize]);
        stack.into_iter().any(|frame| BY_THE_CLOCK.iter().any(|(name, _)| frame.contains(name)))
    };
    let points = profile["pps"].as_array().unwrap().iter().filter(|point| !is_by_the_clock(point));
    points.map(|point| point["tbk"].as_u64().unwrap()).sum()
}
