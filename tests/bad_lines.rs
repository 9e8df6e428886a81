//! Lines that are bad: they drop every few mebibytes, or every byte is long on its way. A backup ends well over
//! them, and costs little more.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

const MIB: u64 = 1024 * 1024;
/// How long a byte is on its way in one direction where a round trip takes 100 ms.
const ONE_WAY: Duration = Duration::from_millis(50);
/// What round trips of 100 ms may make of the time that a backup takes.
const SLOWDOWN_MAX: u32 = 3;
/// What a drop may cost: the entries of the ranges that were under way, and what was on the line.
const DROP_COST_MAX: u64 = 2 * MIB;

/// Files of `bytes` and up to twice as many, 200 in each folder.
fn small_files(root: &Path, count: u64, bytes: u64) {
    for folder in 0..count.div_ceil(200) {
        let path = root.join(format!("folder {folder:05}"));
        fs::create_dir_all(&path).unwrap();
        for number in folder * 200..count.min((folder + 1) * 200) {
            let content = tree::bytes(number, (bytes + number * 7_919 % bytes) as usize);
            fs::write(path.join(format!("file {number:07}")), content).unwrap();
        }
    }
}

fn back_up(client: &TestClient<'_>, source: &Path, timeout: Duration) -> Run {
    let words = ["backup".as_ref(), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
    client.start(words).finish_within(timeout)
}

/// Backs `files` small files up over a line that is cut every `cut_after` bytes.
fn survives_drops(files: u64, bytes: u64, cut_after: u64, timeout: Duration) {
    let workplace = Workplace::in_memory();
    let source = workplace.join("source");
    small_files(&source, files, bytes);
    let server = TestServer::start(&workplace);
    let line = SlowLine::start(&server.address, Nature { cut_after: Some(cut_after), ..Nature::default() });
    let client = TestClient::new(&workplace, &line.address, "ada");
    let began = Instant::now();
    let summary = back_up(&client, &source, timeout).expect(0).event("summary");
    let (carried, drops) = (line.carried(), line.connections() - 1);
    println!("{files} files: {drops} drops, {carried} bytes in all, {:.1} s", began.elapsed().as_secs_f64());
    assert!(drops >= 6, "only {drops} drops: the default tries would have done");
    let told = summary["wire_bytes"].as_u64().unwrap();
    assert!(told >= carried / 10 * 9, "{told} of {carried} bytes are owned up to");
    drop(line);
    let other = TestClient::new(&workplace, &server.address, "bob");
    let once = back_up(&other, &source, timeout).expect(0).event("summary")["wire_bytes"].as_u64().unwrap();
    println!("in one go: {once} bytes");
    assert!(carried < once + drops * DROP_COST_MAX, "{carried} bytes instead of {once}");
    let client = TestClient::new(&workplace, &server.address, "ada");
    tree::assert_same(&source, &client.restore(&source, "restored"));
    client.run(["verify"]).expect(0);
    assert_eq!(client.run(["snapshots"]).expect(0).out().lines().count(), 1);
}

#[test]
fn a_line_that_drops_again_and_again_is_no_reason_to_give_up_while_it_gets_on() {
    survives_drops(3_000, 3_500, 2 * MIB, Duration::from_secs(60));
}

#[test]
fn a_line_that_drops_every_half_mebibyte_still_carries_a_backup() {
    survives_drops(1_000, 3_500, MIB / 2, Duration::from_secs(120));
}

#[test]
#[ignore = "long: 200,000 files"]
fn two_hundred_thousand_files_go_over_a_line_that_drops_every_five_mebibytes() {
    survives_drops(200_000, 200, 5 * MIB, Duration::from_secs(900));
}

/// How long the first backup of a tree takes over a line of this kind.
fn time_over(workplace: &Workplace, source: &Path, server: &TestServer, user: &str, delay: Duration) -> Duration {
    let line = SlowLine::start(&server.address, Nature { delay, ..Nature::default() });
    let client = TestClient::new(workplace, &line.address, user);
    // The keys are made, and the first contact is made, before the clock runs.
    client.run(["snapshots"]).expect(0);
    let began = Instant::now();
    back_up(&client, source, Duration::from_secs(300)).expect(0);
    began.elapsed()
}

/// Compares backups over round trips of 100 ms with some without them; of each the best of three.
fn bears_round_trips(make: impl FnOnce(&Path)) {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    make(&source);
    let server = TestServer::start(&workplace);
    let best = |users: [&str; 3], delay| {
        let times = users.map(|user| time_over(&workplace, &source, &server, user, delay));
        println!("round trips of {:?}: {times:.2?}", delay * 2);
        times.into_iter().min().unwrap()
    };
    let near = best(["ada", "bob", "cleo"], Duration::ZERO);
    let far = best(["dan", "eve", "fay"], ONE_WAY);
    assert!(far < near * SLOWDOWN_MAX, "{near:.2?} became {far:.2?}");
}

/// A run in which one file of twenty changed, and a restore of everything, over round trips of 100 ms and without.
#[test]
#[ignore = "measures time: 20,000 files"]
fn changes_and_restores_over_round_trips_of_100_ms() {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    tree::many_files(&source, 20_000);
    let server = TestServer::start(&workplace);
    let mut times = Vec::new();
    for (user, delay, size) in [("ada", Duration::ZERO, 5_000), ("bob", ONE_WAY, 6_000)] {
        let line = SlowLine::start(&server.address, Nature { delay, ..Nature::default() });
        let client = TestClient::new(&workplace, &line.address, user);
        back_up(&TestClient::new(&workplace, &server.address, user), &source, Duration::from_secs(60)).expect(0);
        for number in (0..20_000).step_by(20) {
            let file = source.join(format!("{:04}/file {number}", number / 100));
            fs::write(file, tree::bytes(number as u64 + 7, size)).unwrap();
        }
        let began = Instant::now();
        let summary = back_up(&client, &source, Duration::from_secs(300)).expect(0).event("summary");
        let changed = began.elapsed();
        assert!(summary["files_sent"].as_u64().unwrap() >= 1_000, "{summary}");
        let began = Instant::now();
        tree::assert_same(&source, &client.restore(&source, &format!("restored-{user}")));
        times.push((changed, began.elapsed()));
    }
    println!("1,000 changed, and a restore: {:.2?} without, {:.2?} with round trips of 100 ms", times[0], times[1]);
}

#[test]
fn no_file_costs_a_round_trip() {
    let workplace = Workplace::in_memory();
    let source = workplace.join("source");
    small_files(&source, 2_000, 100);
    let server = TestServer::start(&workplace);
    let first = time_over(&workplace, &source, &server, "ada", ONE_WAY);
    println!("2,000 files over round trips of 100 ms: {first:.2?}");
    assert!(first < Duration::from_secs(20), "{first:.2?}, which is more than 200 round trips");
}

#[test]
#[ignore = "measures time: 20,000 files"]
fn twenty_thousand_files_over_round_trips_of_100_ms_take_at_most_three_times_as_long() {
    bears_round_trips(|source| small_files(source, 20_000, 100));
    bears_round_trips(|source| tree::many_files(source, 20_000));
}
