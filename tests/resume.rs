//! A backup that is cut off, by a kill on either side or by the line, and the same command again: it goes on
//! where it was, and what is stored in the end is whole.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{TestClient, TestServer, Workplace, kill, tree, wait_until};

const MIB: usize = 1024 * 1024;

/// Large files and many small ones, `mebibytes` in all.
fn mixed(workplace: &Workplace, mebibytes: usize) -> PathBuf {
    let root = workplace.join("source");
    tree::many_files(&root.join("small"), 1_000);
    let large = root.join("large");
    fs::create_dir_all(&large).unwrap();
    for number in 0..mebibytes / 2 {
        fs::write(large.join(format!("{number:04}")), tree::bytes(number as u64, 2 * MIB)).unwrap();
    }
    // What was written to within seconds of being read is read again, whatever is stored of it.
    let last = large.join(format!("{:04}", mebibytes / 2 - 1));
    let age = || fs::metadata(&last).unwrap().modified().unwrap().elapsed().unwrap_or_default();
    wait_until(|| age() > Duration::from_secs(5), "the files to be of some age");
    root
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn start(client: &TestClient<'_>, source: &Path) -> Child {
    let mut command = client.command([OsStr::new("backup"), "--quiet".as_ref(), source.as_os_str()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Waits until the server has staged this many bytes more, or the run has ended.
fn wait_for_progress(run: &mut Child, data: &Path, more: u64) {
    let incoming = data.join("incoming");
    let before = bytes_below(&incoming);
    wait_until(
        || bytes_below(&incoming) >= before + more || run.try_wait().unwrap().is_some(),
        "the upload to get on",
    );
}

/// Kills both sides in turn, `times` in all, each time a little further on; then lets the backup end.
fn survives_kills(mebibytes: usize, times: u64) {
    let workplace = Workplace::new();
    let source = mixed(&workplace, mebibytes);
    let mut server = TestServer::start(&workplace);
    let step = (mebibytes * MIB) as u64 / (times + 2);
    for round in 0..times {
        let client = TestClient::new(&workplace, &server.address, "ada");
        let mut run = start(&client, &source);
        wait_for_progress(&mut run, &server.data, step + round * 7_919 % step);
        if round % 2 == 1 {
            server.kill();
            kill(run.id(), "KILL");
            run.wait().unwrap();
            server = TestServer::start(&workplace);
        } else {
            kill(run.id(), "KILL");
            run.wait().unwrap();
        }
    }
    let client = TestClient::new(&workplace, &server.address, "ada");
    assert_eq!(client.run(["snapshots", "--json"]).expect(0).out(), "", "nothing half is shown");
    let words = [OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
    let summary = client.run(words).expect(0).event("summary");
    let (sent, all) = (summary["bytes_sent"].as_u64().unwrap(), summary["bytes"].as_u64().unwrap());
    assert!(sent < all / 2, "{sent} of {all} bytes were sent in the last run");
    tree::assert_same(&source, &client.restore(&source, "restored"));
    client.run(["verify"]).expect(0);
    assert_eq!(bytes_below(&server.data.join("incoming")), 0, "nothing is left of the upload");
}

#[test]
fn a_backup_goes_on_after_kills_of_either_side() {
    survives_kills(80, 4);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_goes_on_after_fifty_kills() {
    survives_kills(300, 50);
}

#[test]
fn an_answer_that_was_lost_with_its_run_does_not_stand_for_a_later_backup() {
    let workplace = Workplace::new();
    let source = mixed(&workplace, 2);
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let first = client.backup(&source);
    // As if the run had been killed between the commit and its note of it.
    let note = client.state().join("upload.json");
    assert!(!note.exists(), "a stored upload is no longer unfinished");
    let mut run = start(&client, &source);
    wait_until(|| note.exists() || run.try_wait().unwrap().is_some(), "the note of the upload");
    let kept = fs::read(&note);
    assert!(run.wait().unwrap().success());
    if let Ok(kept) = kept {
        fs::write(&note, kept).unwrap();
    }
    fs::write(source.join("new"), "new").unwrap();
    let last = client.backup(&source);
    assert_ne!(first, last);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}
