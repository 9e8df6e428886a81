//! Damage at the server, by place and by kind: whoever asks is told, with exit 6, and gets everything that is
//! not damaged.

use std::fs;
use std::path::{Path, PathBuf};

use cyberbackup::base::time::Timestamp;

use crate::support::{Run, TestClient, TestServer, Workplace, tree, wait_until};

/// How a file of the store is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flipped,
    Missing,
}

const HARMS: [Harm; 2] = [Harm::Flipped, Harm::Missing];

impl Harm {
    fn apply(self, file: &Path) {
        match self {
            Harm::Missing => fs::remove_file(file).unwrap(),
            Harm::Flipped => {
                let mut bytes = fs::read(file).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(file, bytes).unwrap();
            }
        }
    }
}

/// A stored tree of many files, whose server is then stopped, harmed and started again.
struct Harmed {
    workplace: Workplace,
    source: PathBuf,
    snapshot: String,
    server: TestServer,
}

/// More than a range can have: there are always two at least, wherever the paths say that ranges are cut.
const FILES: usize = 9_000;

impl Harmed {
    /// Harms the first file below `part` of the data folder whose name ends like this.
    fn new(part: &str, ending: &str, harm: Harm) -> Harmed {
        let workplace = Workplace::new();
        let source = workplace.join("source");
        fs::create_dir(&source).unwrap();
        (0..FILES).for_each(|n| fs::write(source.join(format!("f{n:04}")), format!("{n}")).unwrap());
        let server = TestServer::start(&workplace);
        let snapshot = TestClient::new(&workplace, &server.address, "ada").backup(&source);
        let files = tree::files_below(&server.data.join(part));
        let file = files.iter().find(|file| file.to_string_lossy().ends_with(ending)).expect("something to harm");
        server.stop();
        harm.apply(file);
        let server = TestServer::start(&workplace);
        Harmed { workplace, source, snapshot, server }
    }

    fn run(&self, words: &[&str]) -> Run {
        TestClient::new(&self.workplace, &self.server.address, "ada").run(words)
    }

    fn restored(&self) -> PathBuf {
        self.workplace.join("to").join(self.source.strip_prefix("/").unwrap())
    }
}

#[track_caller]
fn says(run: Run, text: &str) {
    let run = run.expect(6);
    assert!(run.err().contains(text), "no {text:?} in:\n{}", run.err());
}

#[test]
fn a_head_that_is_damaged_or_gone_is_told_by_every_command() {
    for harm in HARMS {
        let harmed = Harmed::new("snapshots", ".json", harm);
        let named = format!("snapshot {}: its head cannot be read", harmed.snapshot);
        says(harmed.run(&["snapshots"]), &named);
        says(harmed.run(&["verify"]), &named);
        let refused = format!("the head of snapshot {} cannot be read", harmed.snapshot);
        says(harmed.run(&["ls"]), &refused);
        says(harmed.run(&["ls", "--snapshot", &harmed.snapshot]), &refused);
        says(harmed.run(&["restore", "--to", "to"]), &refused);
        // A new backup is the newest, from the next second on; the damaged one stays named.
        let second = &harmed.snapshot[..16];
        wait_until(|| Timestamp::now().compact().as_str() > second, "the next second");
        TestClient::new(&harmed.workplace, &harmed.server.address, "ada").backup(&harmed.source);
        harmed.run(&["ls"]).expect(0);
        harmed.run(&["restore", "--to", "to"]).expect(0);
        let listing = harmed.run(&["snapshots", "--json"]);
        assert!(listing.events().iter().all(|event| event.name == "snapshot"), "rows only:\n{}", listing.out());
        says(listing, &named);
        says(harmed.run(&["verify"]), &named);
    }
}

#[test]
fn an_index_that_is_damaged_or_gone_is_told() {
    for harm in HARMS {
        let harmed = Harmed::new("snapshots", ".index", harm);
        harmed.run(&["snapshots"]).expect(0);
        says(harmed.run(&["verify"]), &format!("snapshot {}: its list of files is damaged", harmed.snapshot));
        says(harmed.run(&["ls"]), "a part of the server's store is damaged");
        says(harmed.run(&["restore", "--to", "to"]), "a part of the server's store is damaged");
    }
}

#[test]
fn a_range_that_is_damaged_or_gone_costs_its_own_entries_only() {
    for harm in HARMS {
        let harmed = Harmed::new("ranges", "", harm);
        let listing = harmed.run(&["ls"]).expect(6);
        assert!(listing.err().contains("the list from here to"), "{}", listing.err());
        let listed = listing.out().lines().count();
        assert!(listed > 0 && listed < FILES, "{listed}");
        says(harmed.run(&["restore", "--to", "to"]), "the list from here to");
        let restored = tree::files_below(&harmed.restored()).len();
        assert!((listed - 1..=listed).contains(&restored), "{restored} of {listed}");
        says(harmed.run(&["verify"]), "the list from here to");
        // The next backup does not share it.
        TestClient::new(&harmed.workplace, &harmed.server.address, "ada").backup(&harmed.source);
        harmed.run(&["restore", "--to", "again"]).expect(0);
    }
}

#[test]
fn a_content_that_is_damaged_or_gone_costs_its_own_file_only() {
    for harm in HARMS {
        let harmed = Harmed::new("received_files", "f0007", harm);
        harmed.run(&["ls"]).expect(0);
        says(harmed.run(&["verify"]), "f0007: ");
        let to = harmed.run(&["restore", "--to", "to"]);
        says(to, "f0007: ");
        assert_eq!(tree::files_below(&harmed.restored()).len(), FILES - 1);
    }
}

#[test]
fn a_verdict_is_the_same_when_nobody_reads_it() {
    let harmed = Harmed::new("received_files", "f0007", Harm::Flipped);
    let client = TestClient::new(&harmed.workplace, &harmed.server.address, "ada");
    for words in [&["verify"][..], &["restore", "--to", "to"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = client.command(words).stdout(writer).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(6), "{words:?}");
    }
}

#[test]
fn a_path_that_is_not_there_is_not_whole() {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "a").unwrap();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup(&source);
    let run = client.run(["verify", "no/such/path"]).expect(1);
    assert!(run.err().contains("no/such/path is not in snapshot"), "{}", run.err());
}
