//! Lines that damage, shuffle, lose, repeat, delay and cut: what arrives is what was sent, or nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::line::{Harm, Line, Way, header_bytes, is_data, scattered, unharmed};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

const MIB: usize = 1 << 20;

/// A source of one large file and some small ones.
fn source(workplace: &Workplace, bytes: usize) -> PathBuf {
    let source = workplace.join("source");
    tree::many_files(&source, 50);
    std::fs::write(source.join("large"), tree::bytes(7, bytes)).unwrap();
    source
}

fn stats(workplace: &Workplace, server: &TestServer) -> Value {
    let client = TestClient::new(workplace, &server.address, "observer");
    client.run(["stats", "--json", "--quiet"]).expect(0).event("stats")
}

fn backup(client: &TestClient<'_>, source: &Path, extra: &[&str]) -> Run {
    let mut words = vec!["backup".as_ref(), source.as_os_str()];
    words.extend(extra.iter().map(std::ffi::OsStr::new));
    client.run(words)
}

/// Flips one bit in the payload of each frame that `hits` names by its number, and counts how many.
fn flipping(way: Way, flips: Arc<AtomicUsize>, hits: impl Fn(usize) -> bool + Send + 'static) -> Harm {
    let mut number = 0;
    Box::new(move |mut frame| {
        if is_data(way, &frame) {
            number += 1;
            // The first segments prove both sides: damage there ends the handshake, and is another test's.
            if number > 2 && hits(number) {
                let bit = scattered(number) % (8 * (frame.len() - header_bytes(way)));
                frame[header_bytes(way) + bit / 8] ^= 1 << (bit % 8);
                flips.fetch_add(1, Ordering::SeqCst);
            }
        }
        Some(frame)
    })
}

/// Backs up and restores through a line that flips bits both ways; gives how many.
fn a_backup_survives_flips(bytes: usize, hits: fn(usize) -> bool) -> usize {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, bytes);
    let (up, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (up.clone(), down.clone());
    let line = Line::start(&server.address, move |_, way| match way {
        Way::ToServer => flipping(way, counters.0.clone(), hits),
        Way::ToClient => flipping(way, counters.1.clone(), hits),
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    client.backup(&source);
    tree::assert_same(&source, &client.restore(&source, "restored"));
    drop(line);
    let (up, down) = (up.load(Ordering::SeqCst), down.load(Ordering::SeqCst));
    assert!(up > 0 && down > 0, "{up} flips up, {down} down");
    let report = stats(&workplace, &server);
    let (damaged, repeated) = (&report["segments_damaged"], &report["segments_repeated"]);
    let (damaged, repeated) = (damaged.as_u64().unwrap() as usize, repeated.as_u64().unwrap() as usize);
    // A flip in what is dropped anyway, on the way to a repeat, is not counted.
    assert!((1..=up).contains(&damaged), "{up} flips up and {damaged} damaged");
    assert!(repeated >= 1, "{down} flips down and {repeated} repeated");
    let log = server.log();
    assert!(log.contains("segments arrived damaged"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    up + down
}

#[test]
fn a_bit_flipped_in_every_thousandth_segment_is_repaired() {
    let flips = a_backup_survives_flips(100 * MIB, |number| number.is_multiple_of(1_000));
    assert!(flips >= 12, "{flips}");
}

#[test]
fn a_bit_flipped_in_one_segment_of_a_hundred_is_repaired() {
    let flips = a_backup_survives_flips(40 * MIB, |number| scattered(number).is_multiple_of(100));
    assert!(flips >= 20, "{flips}");
}

#[test]
fn socket_buffers_of_4_kib_stop_neither_direction() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 4 * MIB);
    let line = Line::with_buffers(&server.address, Some(4_096), |_, _| unharmed());
    let client = TestClient::new(&workplace, &line.address, "ada");
    client.backup(&source);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}

/// Backs up and restores through a line that does `harm` to the data on its way to the server, and does not
/// connect anew.
fn a_backup_survives(harm: impl Fn() -> Harm + Send + 'static) {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 8 * MIB);
    let line = Line::start(&server.address, move |_, way| match way {
        Way::ToServer => harm(),
        Way::ToClient => unharmed(),
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    backup(&client, &source, &["--retries", "0"]).expect(0);
    assert!(stats(&workplace, &server)["segments_damaged"].as_u64().unwrap() > 0, "the line did no harm");
    let client = TestClient::new(&workplace, &server.address, "ada");
    tree::assert_same(&source, &client.restore(&source, "restored"));
}

/// Does `harm` to one data segment of 60, after the first two.
fn sometimes(mut harm: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) -> Harm {
    let mut number = 0;
    Box::new(move |frame| {
        if !is_data(Way::ToServer, &frame) {
            return Some(frame);
        }
        number += 1;
        Some(if number > 2 && scattered(number).is_multiple_of(60) { harm(frame) } else { frame })
    })
}

#[test]
fn a_line_that_loses_segments_loses_nothing_of_a_backup() {
    a_backup_survives(|| sometimes(|_| Vec::new()));
}

#[test]
fn a_line_that_repeats_segments_stores_nothing_twice() {
    a_backup_survives(|| sometimes(|frame| [&frame[..], &frame[..]].concat()));
}

#[test]
fn a_line_that_swaps_segments_changes_no_order() {
    a_backup_survives(|| {
        let (mut held, mut number) = (None::<Vec<u8>>, 0);
        Box::new(move |frame| {
            if let Some(mut held) = held.take() {
                let mut both = frame;
                both.append(&mut held);
                return Some(both);
            }
            let data = is_data(Way::ToServer, &frame);
            number += usize::from(data);
            // Only inside the bulk, where another one surely follows.
            let full = frame.len() > 16_000;
            if data && full && number > 2 && scattered(number).is_multiple_of(60) {
                held = Some(frame);
                return Some(Vec::new());
            }
            Some(frame)
        })
    });
}

#[test]
fn a_header_that_arrives_damaged_ends_the_try_and_not_the_backup() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 8 * MIB);
    let line = Line::start(&server.address, |connection, way| {
        let mut number = 0;
        Box::new(move |mut frame| {
            number += 1;
            if connection == 0 && way == Way::ToServer && number == 100 {
                frame[20] ^= 0x40;
            }
            Some(frame)
        })
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    backup(&client, &source, &["--retries", "2", "--retry-max-wait", "1"]).expect(0);
    tree::assert_same(&source, &client.restore(&source, "restored"));
    assert_eq!(client.run(["snapshots", "--json", "--quiet"]).expect(0).events().len(), 1);
}

#[test]
fn a_line_that_is_cut_twice_delays_a_backup_and_no_more() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 8 * MIB);
    let line = Line::start(&server.address, |connection, way| {
        let mut left = match (connection, way) {
            (0, Way::ToServer) => 3 * MIB,
            (1, Way::ToServer) => 5 * MIB,
            _ => usize::MAX,
        };
        Box::new(move |frame| {
            left = left.checked_sub(frame.len())?;
            Some(frame)
        })
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    let run = backup(&client, &source, &["--retries", "5", "--retry-max-wait", "1"]).expect(0);
    assert_eq!(run.err().matches("going on in").count(), 2, "{}", run.err());
    tree::assert_same(&source, &client.restore(&source, "restored"));
    assert_eq!(client.run(["snapshots", "--json", "--quiet"]).expect(0).events().len(), 1);
}

#[test]
fn a_first_session_that_is_lost_before_it_began_is_no_registration() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 1);
    // The client has its id from message 4, and its own proof does not arrive any more.
    let line = Line::start(&server.address, |connection, way| {
        let mut left = if connection == 0 && way == Way::ToServer { 2 } else { usize::MAX };
        Box::new(move |frame| {
            left = usize::checked_sub(left, 1)?;
            Some(frame)
        })
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    backup(&client, &source, &["--retries", "2", "--retry-max-wait", "1"]).expect(0);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}

#[test]
fn a_line_that_is_always_cut_is_given_up_and_leaves_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = source(&workplace, 8 * MIB);
    let line = Line::start(&server.address, |_, way| {
        let mut left = if way == Way::ToServer { MIB } else { usize::MAX };
        Box::new(move |frame| {
            left = left.checked_sub(frame.len())?;
            Some(frame)
        })
    });
    let client = TestClient::new(&workplace, &line.address, "ada");
    let run = backup(&client, &source, &["--retries", "2", "--retry-max-wait", "1"]).expect(4);
    assert!(run.err().contains(&line.address), "{}", run.err());
    let direct = TestClient::new(&workplace, &server.address, "ada");
    assert_eq!(direct.run(["snapshots", "--json", "--quiet"]).expect(0).out(), "");
}
