//! Large files that change in places: what travels and what is stored follows the change, and every snapshot
//! restores exactly.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{TestClient, TestServer, Workplace};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// What 41 changed runs of 64 KiB may cost, on the wire and on the disk.
const COST_MAX: u64 = (7 * MIB / 2) as u64;

/// Bytes that do not repeat, the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// One large file, backed up again and again.
struct Case {
    workplace: Workplace,
    server: TestServer,
    file: PathBuf,
    /// Every snapshot's id, and what the file held.
    snapshots: Vec<(String, Vec<u8>)>,
}

/// What a backup cost.
struct Cost {
    wire: u64,
    disk: u64,
}

impl Case {
    fn new(content: &[u8]) -> Case {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let file = workplace.write("tree/large", content);
        Case { workplace, server, file, snapshots: Vec::new() }
    }

    fn client(&self) -> TestClient<'_> {
        TestClient::new(&self.workplace, &self.server.address, "ada")
    }

    fn back_up(&mut self) -> Cost {
        let before = room_below(&self.server.data);
        let summary = self.client().run(["backup", "--json", "--quiet", "tree"]).expect(0).event("summary");
        let id = summary["snapshot"].as_str().expect("a snapshot").to_string();
        self.snapshots.push((id, fs::read(&self.file).unwrap()));
        Cost { wire: number(&summary, "wire_bytes"), disk: room_below(&self.server.data).saturating_sub(before) }
    }

    /// Writes in place.
    fn write_at(&self, bytes: &[u8], offset: usize) {
        let file = OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(bytes, offset as u64).unwrap();
    }

    fn resize(&self, length: usize) {
        OpenOptions::new().write(true).open(&self.file).unwrap().set_len(length as u64).unwrap();
    }

    /// Restores every snapshot and verifies all.
    fn check(&self) {
        for (place, (id, content)) in self.snapshots.iter().enumerate() {
            let restored = self.restore(id, &format!("restored-{place}"));
            assert!(fs::read(restored).unwrap() == *content, "snapshot {place} is not what was backed up");
        }
        self.client().run(["verify"]).expect(0);
    }

    fn restore(&self, id: &str, to: &str) -> PathBuf {
        self.client().run(["restore", "--quiet", "--snapshot", id, "--to", to]).expect(0);
        self.workplace.join(to).join(self.file.strip_prefix("/").unwrap())
    }
}

fn number(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"))
}

/// How much room all files below a folder take.
fn room_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => room_below(&entry.path()),
            false => entry.metadata().unwrap().blocks() * 512,
        })
        .sum()
}

/// 41 runs of 64 KiB change in a file of so many mebibytes.
fn scattered_changes_cost_what_changed(mebibytes: usize) {
    let mut case = Case::new(&noise(mebibytes * MIB, 1));
    let first = case.back_up();
    assert!(first.wire > (mebibytes * MIB) as u64);
    for run in 0..41 {
        // Not at block borders.
        case.write_at(&noise(64 * KIB, 100 + run as u64), run * (mebibytes * 24_953) + 7);
    }
    let second = case.back_up();
    println!("41 runs of 64 KiB: {} bytes on the wire, {} on the disk", second.wire, second.disk);
    assert!(second.wire <= COST_MAX, "{} bytes on the wire", second.wire);
    assert!(second.disk <= COST_MAX, "{} bytes on the disk", second.disk);
    case.check();
}

#[test]
fn scattered_changes_in_a_large_file_cost_what_changed() {
    scattered_changes_cost_what_changed(64);
}

#[test]
#[ignore = "long: 256 MiB, again and again"]
fn scattered_changes_in_a_file_of_256_mebibytes_cost_what_changed() {
    scattered_changes_cost_what_changed(256);
}

#[test]
fn a_large_file_that_grows_shrinks_and_is_rewritten_restores_at_every_state() {
    let mut case = Case::new(&noise(5 * MIB + 123, 2));
    case.back_up();
    let length = fs::metadata(&case.file).unwrap().len() as usize;
    case.write_at(&noise(300 * KIB, 3), length);
    let grown = case.back_up();
    assert!(grown.wire < 500 * KIB as u64, "{} bytes for 300 KiB more", grown.wire);
    case.resize(3 * MIB + 17);
    let shrunk = case.back_up();
    assert!(shrunk.wire < 100 * KIB as u64, "{} bytes for less", shrunk.wire);
    case.write_at(&noise(MIB, 4), MIB + 5);
    case.back_up();
    case.write_at(&noise(3 * MIB + 17, 5), 0);
    case.back_up();
    case.resize(40 * KIB);
    case.back_up();
    case.write_at(&noise(2 * MIB, 6), 40 * KIB);
    case.back_up();
    case.check();
}

#[test]
fn a_large_file_of_a_whole_number_of_pages_is_compared_to_its_end() {
    let mut case = Case::new(&noise(32 * MIB, 7));
    case.back_up();
    case.write_at(b"changed", 32 * MIB - 7);
    let changed = case.back_up();
    assert!(changed.wire < 300 * KIB as u64, "{}", changed.wire);
    case.resize(48 * MIB);
    case.write_at(&noise(16 * KIB, 8), 47 * MIB);
    case.back_up();
    case.check();
}

#[test]
fn a_touched_large_file_costs_its_hashes_only() {
    let mut case = Case::new(&noise(8 * MIB, 9));
    case.back_up();
    let file = OpenOptions::new().write(true).open(&case.file).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let touched = case.back_up();
    assert!(touched.wire < 64 * KIB as u64, "{}", touched.wire);
    case.check();
}

#[test]
fn the_holes_of_a_sparse_file_are_neither_sent_nor_stored_and_restored_as_holes() {
    let mut case = Case::new(b"");
    case.resize(600 * MIB + 5);
    case.write_at(b"in the middle", 300 * MIB + 1);
    if fs::metadata(&case.file).unwrap().blocks() * 512 > MIB as u64 {
        println!("no holes here: nothing to test");
        return;
    }
    let first = case.back_up();
    println!("600 MiB with holes: {} bytes on the wire, {} on the disk", first.wire, first.disk);
    assert!(first.wire < MIB as u64, "{} bytes on the wire", first.wire);
    assert!(first.disk < 2 * MIB as u64, "{} bytes on the disk", first.disk);
    case.write_at(&noise(100 * KIB, 10), 599 * MIB);
    case.write_at(&[0; 13], 300 * MIB + 1);
    let second = case.back_up();
    assert!(second.wire < 2 * MIB as u64, "{} bytes on the wire", second.wire);
    case.check();
    let restored = case.restore(&case.snapshots[1].0, "sparse");
    let room = fs::metadata(restored).unwrap().blocks() * 512;
    assert!(room < 2 * MIB as u64, "the restored file takes {room} bytes");
}

#[test]
fn many_short_holes_stay_holes() {
    let mut case = Case::new(b"");
    case.resize(50 * MIB);
    for place in 0..400 {
        case.write_at(&noise(4 * KIB, place as u64), place * 128 * KIB);
    }
    if fs::metadata(&case.file).unwrap().blocks() * 512 > 4 * MIB as u64 {
        println!("no holes here: nothing to test");
        return;
    }
    // One block of 16 KiB for each run of data.
    let first = case.back_up();
    assert!(first.wire < 7 * MIB as u64, "{} bytes on the wire", first.wire);
    assert!(first.disk < 8 * MIB as u64, "{} bytes on the disk", first.disk);
    case.check();
    let restored = case.restore(&case.snapshots[0].0, "short");
    let room = fs::metadata(restored).unwrap().blocks() * 512;
    assert!(room < 8 * MIB as u64, "the restored file takes {room} bytes");
}
