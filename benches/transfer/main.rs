//! Whole backups and restores by the built program, beside what the machine itself can do and beside rsync.
//!
//! `cargo bench --bench transfer` runs all scenarios, each several times, and prints the best run of each: wall time,
//! CPU seconds and peak memory of both sides, bytes on the loopback interface, bytes stored, and the ratios of its
//! wall time to two floors of the same run (one core of AES-256-CBC by `openssl speed`; a plain copy through a
//! loopback connection) and to an unencrypted rsync daemon, where rsync is installed. What these mean, and what is to
//! be compared with what, is in `docs/performance.md`.
//!
//! Nothing is switched off for a benchmark: each run is a new process with the full handshake, and ends when all is
//! on the disk.

mod corpus;
mod floors;
mod measure;
mod options;
mod peer;
mod scenarios;
mod table;

use options::Options;
use scenarios::{Bench, SCENARIOS};

fn main() {
    if std::env::args().any(|argument| argument == "--help") {
        return println!("{}", options::USAGE);
    }
    let options = match Options::from_arguments(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n\n{}", options::USAGE);
            std::process::exit(2);
        }
    };
    let floors = floors::measure(&options);
    eprintln!("floors: {floors}");
    let bench = Bench::new(&options);
    let mut rows = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| options.chooses(scenario.name)) {
        eprintln!("{}…", scenario.name);
        rows.push(bench.run(scenario));
    }
    print!("{}", if options.json { table::json(&rows, &floors) } else { table::text(&rows, &floors) });
}
