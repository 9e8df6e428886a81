//! Large files, with figures: memory of the server, and the rate beside that of the native dialect.

use std::path::Path;
use std::time::{Duration, Instant};

use super::moving_over::moved;
use super::peer::{Encrypted, Key, Peer, write_large};
use crate::support::{TestClient, TestServer, Workplace};

struct Figures {
    rate: f64,
    peak_kib: u64,
}

fn mebibytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / (1024.0 * 1024.0) / time.as_secs_f64()
}

/// Sends a file to a server of its own, which is gone afterwards.
fn legacy(workplace: &Workplace, file: &Path, packet_bytes: u64) -> Figures {
    let data = format!("legacy {packet_bytes}");
    let server = TestServer::start_with(workplace, &data, &["--rsa-bits", "2048"]);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let encrypted = Encrypted::of(file, &file_key);
    peer.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let began = Instant::now();
    peer.store("large", &encrypted, packet_bytes);
    let time = began.elapsed();
    let figures = Figures {
        rate: mebibytes_per_second(u64::from(encrypted.original_bytes), time),
        peak_kib: server.peak_memory_kib(),
    };
    let client = moved(workplace, &server, "ada", &key);
    client.run(["verify"]).expect(0);
    std::fs::remove_dir_all(client.state()).unwrap();
    drop(server);
    std::fs::remove_dir_all(workplace.join(data)).unwrap();
    figures
}

fn native(workplace: &Workplace, file: &Path) -> Figures {
    let server = TestServer::start_with(workplace, "native", &["--rsa-bits", "2048"]);
    let client = TestClient::new(workplace, &server.address, "native");
    let began = Instant::now();
    client.backup(file);
    let time = began.elapsed();
    let rate = mebibytes_per_second(std::fs::metadata(file).unwrap().len(), time);
    let peak_kib = server.peak_memory_kib();
    drop(server);
    std::fs::remove_dir_all(workplace.join("native")).unwrap();
    Figures { rate, peak_kib }
}

fn compare(mebibytes: usize) {
    let workplace = Workplace::new();
    let file = write_large(&workplace, "file", mebibytes);
    let native = native(&workplace, &file);
    println!("{mebibytes} MiB native: {:.0} MiB/s, server {} KiB", native.rate, native.peak_kib);
    for packet_bytes in [1_000, 65_536, 1_048_576] {
        if (mebibytes as u64 * 1024 * 1024 + 16).div_ceil(packet_bytes) > 65_535 {
            continue;
        }
        let legacy = legacy(&workplace, &file, packet_bytes);
        println!(
            "{mebibytes} MiB in packets of {packet_bytes}: {:.0} MiB/s ({:.2} of native), server {} KiB",
            legacy.rate,
            legacy.rate / native.rate,
            legacy.peak_kib
        );
        assert!(legacy.peak_kib < 32 * 1024, "the server took {} KiB", legacy.peak_kib);
        assert!(legacy.rate >= 0.4 * native.rate, "{:.0} MiB/s, and {:.0} natively", legacy.rate, native.rate);
    }
}

#[test]
#[ignore = "a measurement: 100 MiB several times"]
fn a_file_of_100_mib_arrives_in_flat_memory_at_a_fair_rate() {
    compare(60);
    compare(100);
}

#[test]
#[ignore = "a measurement: 1 GiB several times"]
fn a_file_of_1_gib_arrives_in_flat_memory_at_a_fair_rate() {
    compare(1_024);
}
