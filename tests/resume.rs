//! A backup that is cut off, by a kill on either side or by the line, and the same command again: it goes on
//! where it was, and what is stored in the end is whole.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::random::Random;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{TestClient, TestServer, Workplace, kill, tree, wait_until};

const MIB: usize = 1024 * 1024;

/// What one kill may cost on the average: the window that was on its way, what waited for the disk, the entries of
/// a range.
const KILL_COST_MAX: u64 = (7 * MIB / 2) as u64;
/// The same where files of 2 MiB are among it, of which one begins anew.
const KILL_COST_MAX_WITH_LARGE: u64 = (11 * MIB / 2) as u64;
/// Files of 32 MiB in the mixed tree: none, as long as a large file that was under way begins anew.
const HUGE_FILES: usize = 0;

/// What a tree is made of.
#[derive(Clone, Copy)]
struct Mix {
    /// Files of up to 16 KiB.
    small: usize,
    /// Files of 120 KiB, of 2 MiB and of 32 MiB.
    medium: usize,
    large: usize,
    huge: usize,
}

fn mixed(workplace: &Workplace, mix: Mix) -> PathBuf {
    let root = workplace.join("source");
    tree::many_files(&root.join("small"), mix.small);
    let sizes = [("medium", mix.medium, 120 * 1024), ("large", mix.large, 2 * MIB), ("huge", mix.huge, 32 * MIB)];
    let mut last = root.clone();
    for (name, count, size) in sizes {
        fs::create_dir_all(root.join(name)).unwrap();
        for number in 0..count {
            last = root.join(name).join(format!("{number:04}"));
            fs::write(&last, tree::bytes(number as u64, size)).unwrap();
        }
    }
    // What was written to within seconds of being read is read again, whatever is stored of it.
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

/// Kills one side or both, `times` in all, each time at a random moment a little further on; then lets the backup
/// end. All that was sent is what is sent in one go, and at most `cost_max` bytes for each kill.
fn survives_kills(mix: Mix, times: u64, cost_max: u64) {
    let workplace = Workplace::new();
    let source = mixed(&workplace, mix);
    let bytes = bytes_below(&source);
    let mut server = TestServer::start(&workplace);
    let port = server.address.rsplit(':').next().unwrap().to_string();
    let line = SlowLine::start(&server.address, Nature::default());
    let client = TestClient::new(&workplace, &line.address, "ada");
    let mut random = Random::new(times);
    for round in 0..times {
        // Three quarters of an equal share on the average.
        let moment = line.carried() + random.below(bytes * 3 / 2 / times);
        let mut run = start(&client, &source);
        wait_until(|| line.carried() >= moment || run.try_wait().unwrap().is_some(), "the upload to get on");
        if round % 2 == 1 {
            server.kill();
            kill(run.id(), "KILL");
            run.wait().unwrap();
            server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--port", &port]);
        } else {
            kill(run.id(), "KILL");
            run.wait().unwrap();
        }
    }
    assert_eq!(client.run(["snapshots", "--json"]).expect(0).out(), "", "nothing half is shown");
    let words = [OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
    client.run(words).expect(0);
    let carried = line.carried();
    tree::assert_same(&source, &client.restore(&source, "restored"));
    client.run(["verify"]).expect(0);
    assert_eq!(bytes_below(&server.data.join("incoming")), 0, "nothing is left of the upload");

    let other = TestClient::new(&workplace, &server.address, "bob");
    let once = other.run(words).expect(0).event("summary")["wire_bytes"].as_u64().unwrap();
    println!("{times} kills: {carried} bytes, {once} in one go: {} %", carried * 100 / once);
    assert!(carried <= once + times * cost_max, "{carried} bytes instead of {once}");
}

#[test]
fn a_backup_goes_on_after_kills_of_either_side() {
    let mix = Mix { small: 1_000, medium: 300, large: 20, huge: 0 };
    survives_kills(mix, 4, KILL_COST_MAX_WITH_LARGE);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_of_small_files_goes_on_after_fifty_kills() {
    survives_kills(Mix { small: 8_000, medium: 2_000, large: 0, huge: 0 }, 50, KILL_COST_MAX);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_backup_goes_on_after_fifty_kills() {
    let mix = Mix { small: 4_000, medium: 400, large: 100, huge: HUGE_FILES };
    survives_kills(mix, 50, KILL_COST_MAX_WITH_LARGE);
}

#[test]
fn an_answer_that_was_lost_with_its_run_does_not_stand_for_a_later_backup() {
    let workplace = Workplace::new();
    let source = mixed(&workplace, Mix { small: 1_000, medium: 0, large: 1, huge: 0 });
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
