//! `docs/recovery.md`: each section's own commands, run against a store in the state that the section is about.

pub mod full_disk;
mod kinds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{PROGRAM, Run, TestServer, Workplace, tree};
use crate::verifying::settle;

const ADDRESS: &str = "backup.example.org:1256";
const FINGERPRINT: &str = "SHA256:DZ/oqqlW7pN6DNS3ygEWlW8ujdUFG3oL3aB4Umhoa2k";
const TOKEN: &str = "cb3-XsTrP2PPii3he3CCPiqK2w2f6KqpVu6TegzUt8oBFpVvLo3VBRt6C92geFJoaGtp";
const SNAPSHOT: &str = "20261124T082144Z-f4e1b13f";
const SERVER_FLAGS: [&str; 4] = ["--registration", "token", "--rsa-bits", "2048"];
const BACKUP: &str = "cyberbackup backup --server backup.example.org:1256 --user ada /home/ada";

/// The blocks of commands of a section of the page.
fn blocks(section: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recovery.md")).unwrap();
    let sections = page.split("\n## ").find(|text| text.lines().next() == Some(section));
    let text = sections.unwrap_or_else(|| panic!("the page has no section {section:?}"));
    let block = |block: &str| block.lines().filter_map(|line| Some(line.strip_prefix("$ ")?.to_string())).collect();
    text.split("```").skip(1).step_by(2).map(block).collect()
}

/// A server with its data, a client `ada` with her files, and shell commands as the page has them.
struct World {
    workplace: Workplace,
    server: Option<TestServer>,
    port: String,
    exported: Vec<(String, String)>,
    /// What the last commands printed that later ones name.
    token: String,
    fingerprint: String,
    /// The snapshot that is spoken of.
    snapshot: String,
}

impl World {
    /// Two snapshots of a few settled files, of which some changed in between.
    fn new() -> World {
        let workplace = Workplace::new();
        fs::create_dir(workplace.join("bin")).unwrap();
        std::os::unix::fs::symlink(PROGRAM, workplace.join("bin/cyberbackup")).unwrap();
        ["new", "copy"].iter().for_each(|name| fs::create_dir(workplace.join(name)).unwrap());
        let server = TestServer::start_with(&workplace, "data", &SERVER_FLAGS);
        let mut world = World::of(workplace, server);
        for n in 0..40 {
            world.workplace.write(format!("source/d{}/f{n}", n % 4), format!("{n}"));
        }
        world.workplace.write("source/large", vec![5; 3 << 20]);
        settle();
        world.sh("cyberbackup enroll ada --data /var/lib/cyberbackup").expect(0);
        world.sh(&format!("export CYBERBACKUP_ENROLL_TOKEN={TOKEN}")).expect(0);
        world.sh(BACKUP).expect(0);
        world.exported.clear();
        world.workplace.write("source/d1/f1", "other");
        world.workplace.write("source/new", "new");
        settle();
        world.sh(BACKUP).expect(0);
        world
    }

    fn of(workplace: Workplace, server: TestServer) -> World {
        let (token, fingerprint, snapshot) = Default::default();
        let port = server.address.rsplit(':').next().unwrap().to_string();
        World { workplace, server: Some(server), port, exported: Vec::new(), token, fingerprint, snapshot }
    }

    fn data(&self) -> PathBuf {
        self.workplace.join("data")
    }

    fn source(&self) -> PathBuf {
        self.workplace.join("source")
    }

    fn server(&self) -> &TestServer {
        self.server.as_ref().expect("a server runs")
    }

    fn stop(&mut self) {
        assert_eq!(self.server.take().expect("a server runs").stop(), 0);
    }

    fn start(&mut self) {
        self.start_on("data");
    }

    /// At the address that it had: a server with another key is refused there.
    fn start_on(&mut self, data: &str) {
        assert!(self.server.is_none());
        let flags = [&SERVER_FLAGS[..], &["--port", &self.port]].concat();
        self.server = Some(TestServer::start_with(&self.workplace, data, &flags));
    }

    /// Runs a line of the page, with this world's places in it.
    fn sh(&mut self, line: &str) -> Run {
        match line {
            "systemctl stop cyberbackup-server" => self.stop(),
            "systemctl start cyberbackup-server" => self.start(),
            _ => return self.shell(line),
        }
        Run { code: 0, stdout: Vec::new(), stderr: Vec::new() }
    }

    fn shell(&mut self, line: &str) -> Run {
        let text = |path: PathBuf| path.to_str().unwrap().to_string();
        let line = line
            .replace("/var/lib/cyberbackup", &text(self.data()))
            .replace("/mnt/new", &text(self.workplace.join("new")))
            .replace("/mnt/copy", &text(self.workplace.join("copy")))
            .replace("/home/ada", &text(self.source()))
            .replace(ADDRESS, self.server.as_ref().map_or("", |server| &server.address))
            .replace(TOKEN, &self.token)
            .replace(FINGERPRINT, &self.fingerprint)
            .replace(SNAPSHOT, &self.snapshot);
        if let Some((name, value)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.exported.push((name.to_string(), value.to_string()));
            return Run { code: 0, stdout: Vec::new(), stderr: Vec::new() };
        }
        let mut command = Command::new("sh");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.workplace.join("bin").display());
        command.args(["-c", &line]).current_dir(self.workplace.path()).env_clear();
        command.env("HOME", self.workplace.path()).env("USER", "tester").env("PATH", path);
        command.env("CYBERBACKUP_RSA_BITS", "2048").envs(self.exported.iter().cloned());
        self.workplace.give_storage_key(&mut command);
        let run = Run::of(command);
        let words = run.out();
        let word = |beginning: &str| words.split_whitespace().find(|word| word.starts_with(beginning));
        self.token = word("cb3-").map_or(std::mem::take(&mut self.token), str::to_string);
        self.fingerprint = word("SHA256:").map_or(std::mem::take(&mut self.fingerprint), str::to_string);
        run
    }

    /// Runs all commands of a section; each ends with 0.
    #[track_caller]
    fn run_section(&mut self, section: &str) -> Vec<Run> {
        self.run_lines(&blocks(section).concat())
    }

    #[track_caller]
    fn run_lines(&mut self, lines: &[String]) -> Vec<Run> {
        assert!(!lines.is_empty(), "a section without commands");
        let mut runs = Vec::new();
        for line in lines {
            let run = self.sh(line);
            assert_eq!(run.code, 0, "{line}\nstdout:\n{}\nstderr:\n{}", run.out(), run.err());
            runs.push(run);
        }
        self.exported.clear();
        runs
    }

    fn snapshots(&mut self) -> Vec<String> {
        let run = self.sh("cyberbackup snapshots --json --server backup.example.org:1256 --user ada").expect(0);
        run.events().iter().map(|event| event.data["snapshot"].as_str().unwrap().to_string()).collect()
    }

    /// A snapshot restores, and is what the source was then.
    #[track_caller]
    fn check_restored(&mut self, snapshot: &str, wanted: &[(PathBuf, Vec<u8>)]) {
        let to = self.workplace.join("restored");
        let _ = fs::remove_dir_all(&to);
        let line = format!(
            "cyberbackup restore --server {ADDRESS} --user ada --snapshot {snapshot} --to {}",
            to.display()
        );
        self.sh(&line).expect(0);
        let below = to.join(self.source().strip_prefix("/").unwrap());
        assert!(contents(&below) == wanted, "snapshot {snapshot} differs");
    }

    /// The files below a part of the data folder whose names end so.
    fn files(&self, part: &str, end: &str) -> Vec<PathBuf> {
        let mut files = tree::files_below(&self.data().join(part));
        files.retain(|file| file.to_str().unwrap().ends_with(end));
        files.sort();
        files
    }
}

/// Paths below a folder, and what is in them.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = tree::files_below(folder);
    files.sort();
    let content = |file: PathBuf| (file.strip_prefix(folder).unwrap().to_path_buf(), fs::read(file).unwrap());
    files.into_iter().map(content).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn looking_changes_nothing() {
    let mut world = World::new();
    let before = contents(&world.data().join("snapshots"));
    let runs = world.run_section("First of all");
    assert!(runs[0].out().contains("all is whole") && runs[2].out().contains("nothing to repair"));
    assert!(contents(&world.data().join("snapshots")) == before);
}

#[test]
fn a_client_whose_disk_is_gone_has_its_files_and_its_history_again() {
    let mut world = World::new();
    let (before, wanted) = (world.snapshots(), contents(&world.source()));
    fs::remove_dir_all(world.workplace.join(".local")).unwrap();
    fs::remove_dir_all(world.source()).unwrap();
    let runs = world.run_section("A client's disk is gone");
    assert!(contents(&world.source()) == wanted);
    assert!(runs.last().unwrap().out().contains(&before[0]), "the history is there");
    assert_eq!(world.snapshots().len(), before.len() + 1);
}

#[test]
fn a_server_whose_disk_is_gone_goes_on_from_a_copy() {
    let mut world = World::new();
    world.stop();
    world.sh("cp -a /var/lib/cyberbackup /mnt/copy/cyberbackup").expect(0);
    world.start();
    let wanted = contents(&world.source());
    world.workplace.write("source/later", "later");
    world.sh(BACKUP).expect(0);
    world.run_section("The server's disk is gone");
    let kept = world.snapshots();
    assert_eq!(kept.len(), 2, "what was stored after the copy is gone");
    world.check_restored(&kept[1], &wanted);
    world.sh(BACKUP).expect(0);
    let wanted = contents(&world.source());
    world.check_restored("latest", &wanted);
}

#[test]
fn a_store_that_was_copied_is_the_same_store() {
    let ways = blocks("The store moves to another machine");
    assert_eq!(ways.len(), 3);
    let mut world = World::new();
    let (wanted, snapshots) = (contents(&world.source()), world.snapshots());
    for way in ways {
        if way[0].starts_with("rsync") && !Path::new("/usr/bin/rsync").exists() {
            println!("no rsync here: that way is left out");
            continue;
        }
        let runs = world.run_lines(&way);
        assert!(runs.last().unwrap().out().contains("all is whole"));
        world.start_on("new/cyberbackup");
        assert_eq!(world.snapshots(), snapshots);
        world.check_restored("latest", &wanted);
        world.stop();
        fs::remove_dir_all(world.workplace.join("new/cyberbackup")).unwrap();
        world.start();
    }
}

#[test]
fn damaged_heads_indexes_and_contents_are_there_again() {
    let mut world = World::new();
    let (wanted, snapshots) = (contents(&world.source()), world.snapshots());
    let end = |number: usize, end: &str| format!("{}.{end}", snapshots[number]);
    let files = [
        world.files("snapshots", &end(0, "json")),
        world.files("snapshots", &end(1, "index")),
        world.files("received_files", "f20"),
    ]
    .concat();
    assert_eq!(files.len(), 3);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    files.iter().for_each(|file| flip(file));
    world.sh("cyberbackup verify --data /var/lib/cyberbackup").expect(6);
    let runs = world.run_section("Something in the store is damaged");
    assert!(runs[1].out().contains("2 files rebuilt, 0 removed, 0 lost"), "{}", runs[1].out());
    for (file, whole) in files.iter().zip(whole) {
        // What is sealed anew is another file with the same plaintext.
        let may_differ = crate::support::is_sealed_at_rest() && file.extension().is_none_or(|end| end != "json");
        assert!(may_differ || fs::read(file).unwrap() == whole, "{} is as it was", file.display());
    }
    world.check_restored(&snapshots[1], &wanted);
}

#[test]
fn a_damaged_list_is_there_again_after_the_next_backup() {
    // It looks into an index for the names of ranges, which only the server can read then.
    if crate::support::is_sealed_at_rest() {
        return;
    }
    let mut world = World::new();
    let snapshots = world.snapshots();
    let index = fs::read(&world.files("snapshots", &format!("{}.index", snapshots[0]))[0]).unwrap();
    let wanted = contents(&world.source());
    // One that the newest snapshot names.
    let newest = fs::read(&world.files("snapshots", &format!("{}.index", snapshots[1]))[0]).unwrap();
    let is_named = |file: &PathBuf, index: &[u8]| {
        let name = file.file_name().unwrap().to_str().unwrap();
        let bytes: Option<Vec<u8>> =
            (0..name.len() / 2).map(|n| u8::from_str_radix(name.get(2 * n..2 * n + 2)?, 16).ok()).collect();
        bytes.is_some_and(|bytes| bytes.len() == 32 && index.windows(32).any(|window| window == bytes))
    };
    let ranges = world.files("ranges", "");
    let range = ranges.iter().find(|file| is_named(file, &newest)).expect("a range").clone();
    let shared = is_named(&range, &index);
    let whole = fs::read(&range).unwrap();
    fs::remove_file(&range).unwrap();
    world.stop();
    let lost = world.sh("cyberbackup server --repair --data /var/lib/cyberbackup").expect(6);
    assert!(lost.out().contains("lost ranges/") && lost.out().contains(&snapshots[1]), "{}", lost.out());
    assert_eq!(lost.out().contains(&snapshots[0]), shared);
    world.start();
    world.run_section("A list is damaged");
    assert!(fs::read(&range).unwrap() == whole);
    world.check_restored(&snapshots[1], &wanted);
}

#[test]
fn a_lost_snapshot_is_dropped_and_the_others_are_whole() {
    let mut world = World::new();
    let (wanted, snapshots) = (contents(&world.source()), world.snapshots());
    for end in ["json", "index"] {
        world.files("snapshots", &format!("{}.{end}", snapshots[0])).iter().for_each(|file| flip(file));
    }
    world.snapshot = snapshots[0].clone();
    world.stop();
    let run = world.sh("cyberbackup server --repair --json --data /var/lib/cyberbackup").expect(6);
    assert_eq!(run.event("summary")["lost"], 1, "{}", run.out());
    world.start();
    world.sh(BACKUP).expect(0);
    world.run_section("A snapshot is lost");
    assert_eq!(world.snapshots().len(), 2);
    world.check_restored(&snapshots[1], &wanted);
    assert!(world.files("snapshots", &format!("{}.json", snapshots[0])).is_empty());
}

#[test]
fn a_client_whose_record_is_lost_is_let_in_again() {
    let mut world = World::new();
    let (wanted, snapshots) = (contents(&world.source()), world.snapshots());
    flip(&world.files("clients", ".json")[0]);
    let run = world.run_section("The record of a client is lost").remove(1);
    assert!(run.out().contains("rebuilt clients/") && run.out().contains("enroll ada"), "{}", run.out());
    assert_eq!(world.snapshots()[..2], snapshots);
    world.check_restored(&snapshots[1], &wanted);
}

#[test]
fn a_server_whose_key_is_lost_gets_another_when_it_is_wished() {
    let mut world = World::new();
    let (wanted, snapshots) = (contents(&world.source()), world.snapshots());
    let (old, key) = (world.server().fingerprint.clone(), world.data().join("keys/server_private_key.der"));
    world.stop();
    fs::remove_file(&key).unwrap();
    let refused = world.sh("cyberbackup server --bind 127.0.0.1 --port 0 --data /var/lib/cyberbackup").expect(1);
    assert!(refused.err().contains("--new-key"), "{}", refused.err());
    let lost = world.sh("cyberbackup server --repair --data /var/lib/cyberbackup").expect(6);
    assert!(lost.out().contains("lost keys/server_private_key.der") && !key.exists(), "{}", lost.out());
    // The section begins with a server that can be stopped.
    let lines = blocks("The server's key is lost").concat();
    let (first, rest) = lines.split_first().unwrap();
    assert_eq!(first, "systemctl stop cyberbackup-server");
    let (at_server, at_client) = rest.split_at(rest.iter().position(|line| line.starts_with("mv ")).unwrap());
    world.run_lines(at_server);
    assert!(world.server().fingerprint != old && world.fingerprint == world.server().fingerprint);
    let refused = world.sh(BACKUP).expect(5);
    assert!(refused.err().contains(&world.fingerprint), "{}", refused.err());
    world.run_lines(at_client);
    assert_eq!(world.snapshots()[..2], snapshots);
    world.check_restored(&snapshots[1], &wanted);
}
