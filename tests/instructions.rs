//! Instructions, counted: what a machine does for each byte, whatever else it has to do meanwhile.
//!
//! `valgrind --tool=callgrind` counts what one piece of work takes, and the count is held against the figures in
//! `tests/testdata/instructions.json`. A rise of more than a twentieth fails; whoever changes a figure writes the
//! reason beside it. Valgrind shows programs a processor of few talents, so it is the portable paths that are counted.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::Workplace;
use crate::workload::{Batch, encoded, entries, offer_range, take_range};

const FIGURES: &str = include_str!("testdata/instructions.json");
/// How much more than its figure a piece of work may take.
const RISE_MAX: f64 = 1.05;
/// As many as the channel seals at once.
const SEGMENTS: usize = 16;

#[derive(serde::Deserialize)]
struct Figure {
    instructions: u64,
    reason: String,
}

/// A piece of work: the test that does it, and the function that is counted.
const WORK: [(&str, &str); 4] = [
    ("seal", "*workload::Batch::seal*"),
    ("open", "*workload::Batch::open*"),
    ("offer_range", "*workload::offer_range*"),
    ("take_range", "*workload::take_range*"),
];

#[test]
#[ignore = "long: runs under valgrind"]
fn no_piece_of_work_takes_more_instructions_than_it_did() {
    let figures: BTreeMap<String, Figure> = serde_json::from_str(FIGURES).expect("the figures can be read");
    let mut faults = Vec::new();
    for (name, function) in WORK {
        let counted = count(name, function);
        let Some(Figure { instructions, reason }) = figures.get(name) else {
            faults.push(format!("{name}: {counted} instructions, and no figure on record"));
            continue;
        };
        assert!(!reason.is_empty(), "{name}: every figure has its reason");
        println!("{name}: {counted} instructions, {instructions} on record");
        if counted as f64 > *instructions as f64 * RISE_MAX {
            faults.push(format!("{name}: {counted} instructions instead of {instructions}"));
        }
    }
    assert!(
        faults.is_empty(),
        "more than a twentieth above the figures of tests/testdata/instructions.json:\n{}",
        faults.join("\n")
    );
}

/// Runs the test of that name in this very program under callgrind, and takes the sum of what the function did.
fn count(name: &str, function: &str) -> u64 {
    let workplace = Workplace::new();
    let out = workplace.join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--toggle-collect={function}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this program has a file"))
        .args(["--ignored", "--exact", "--test-threads=1", &format!("instructions::work::{name}")])
        .output()
        .expect("valgrind is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let profile = std::fs::read_to_string(out).expect("callgrind wrote what it counted");
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: ")).expect("it has a sum");
    let counted = totals.trim().parse().expect("the sum is a number");
    assert!(counted > 0, "nothing was counted: {function} is no function of this program");
    counted
}

mod work {
    use super::*;

    #[test]
    #[ignore = "counted by the test above"]
    fn seal() {
        Batch::new(SEGMENTS).seal();
    }

    #[test]
    #[ignore = "counted by the test above"]
    fn open() {
        let mut batch = Batch::new(SEGMENTS);
        batch.seal();
        batch.open();
    }

    #[test]
    #[ignore = "counted by the test above"]
    fn offer_range() {
        super::offer_range(&entries());
    }

    #[test]
    #[ignore = "counted by the test above"]
    fn take_range() {
        assert!(super::take_range(&encoded(&entries())) > 0);
    }
}
