//! `backup --vault`: what is sent and stored, when nothing or little changed, and after what went wrong.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::tree::{assert_same, bytes, files_below, many_files};
use crate::support::{Run, Started, TestClient, TestServer, Workplace, kill, wait_until};

const PASSPHRASE: &str = "CYBERBACKUP_PASSPHRASE";

/// A host that backs up into a vault.
struct Host<'a> {
    client: TestClient<'a>,
}

impl<'a> Host<'a> {
    fn new(workplace: &'a Workplace, server: &TestServer, user: &str) -> Host<'a> {
        Host { client: TestClient::new(workplace, &server.address, user) }
    }

    /// The same, with a vault of its own.
    fn with_vault(workplace: &'a Workplace, server: &TestServer, user: &str) -> Host<'a> {
        let host = Host::new(workplace, server, user);
        let state = host.client.state();
        let words =
            [OsStr::new("vault"), "create".as_ref(), "--low-memory".as_ref(), "--state".as_ref(), state.as_ref()];
        let mut command = workplace.command(words);
        command.env(PASSPHRASE, "secret");
        Run::of(command).expect(0);
        host
    }

    fn told(run: &Run) -> String {
        format!("{}{}", run.out(), run.err())
    }

    fn backup_with(&self, source: &Path, flags: &[&str]) -> Run {
        let words = ["backup", "--vault", "--json", "--quiet"].map(OsStr::new).into_iter();
        self.client.run(words.chain(flags.iter().map(OsStr::new)).chain([source.as_os_str()]))
    }

    #[track_caller]
    fn backup(&self, source: &Path) -> Value {
        self.backup_with(source, &[]).expect(0).event("summary")
    }

    fn start(&self, source: &Path) -> Started {
        self.client.start(["backup", "--vault", "--quiet"].map(OsStr::new).into_iter().chain([source.as_os_str()]))
    }

    /// Restores what was backed up last, and compares it.
    #[track_caller]
    fn assert_restores(&self, source: &Path, to: &str) {
        let to = self.client.workplace.join(to);
        let mut command = self.client.command([OsStr::new("restore"), "--to".as_ref(), to.as_ref()]);
        command.env(PASSPHRASE, "secret");
        Run::of(command).expect(0);
        assert_same(source, &to.join(source.strip_prefix("/").unwrap()));
    }
}

/// 302 files, of which two are empty.
fn source(workplace: &Workplace) -> PathBuf {
    let source = workplace.join("source");
    many_files(&source, 300);
    fs::write(source.join("large"), bytes(7, 3 << 20)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    source
}

/// What is stored in vaults, without the index, which also shrinks.
fn stored(server: &TestServer) -> u64 {
    let packs = files_below(&server.data.join("vaults")).into_iter();
    let packs = packs.filter(|file| file.extension().is_some_and(|extension| extension == "pack"));
    packs.map(|pack| fs::metadata(pack).map_or(0, |metadata| metadata.len())).sum()
}

#[test]
fn a_first_backup_is_whole_and_an_unchanged_one_sends_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    let first = host.backup(&source);
    assert_eq!(
        (&first["files"], &first["files_sent"], &first["unreadable"]),
        (&302.into(), &300.into(), &0.into())
    );
    assert_eq!(first["bytes_sent"], first["bytes"]);
    host.assert_restores(&source, "first");
    let (before, wire) = (stored(&server), first["wire_bytes"].as_u64().unwrap());
    let second = host.backup(&source);
    assert_eq!((&second["files_sent"], &second["bytes_sent"]), (&0.into(), &0.into()));
    assert!(second["wire_bytes"].as_u64().unwrap() * 20 < wire, "{second}");
    assert!(stored(&server) - before < 64 * 1024, "{} bytes more", stored(&server) - before);
    host.assert_restores(&source, "second");
    // Nothing of what was backed up can be seen at the server.
    let files = files_below(&server.data).into_iter().filter(|file| file.is_file());
    let packs: Vec<u8> = files.flat_map(|file| fs::read(file).unwrap()).collect();
    assert!(packs.len() as u64 > stored(&server));
    let large = fs::read(source.join("large")).unwrap();
    for seen in [&large[1 << 20..][..64], b"source/large", source.as_os_str().as_encoded_bytes()] {
        assert!(!packs.windows(seen.len()).any(|window| window == seen));
    }
}

#[test]
fn of_what_changed_only_the_changed_chunks_are_sent() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    host.backup(&source);
    let mut large = fs::read(source.join("large")).unwrap();
    large.splice(1 << 20..1 << 20, *b"an insertion");
    fs::write(source.join("large"), &large).unwrap();
    fs::write(source.join("new"), bytes(8, 5_000)).unwrap();
    fs::remove_file(source.join("empty")).unwrap();
    let changed = host.backup(&source);
    assert_eq!(changed["files_sent"], 2, "{changed}");
    let sent = changed["bytes_sent"].as_u64().unwrap();
    assert!((5_000..5_000 + 3 * 256 * 1024).contains(&sent), "{sent}");
    host.assert_restores(&source, "restored");
}

#[test]
fn without_its_cache_a_host_reads_all_again_and_stores_nothing_twice() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    host.backup(&source);
    let before = stored(&server);
    let cache = host.client.state().join("vault-cache");
    for round in 0..3 {
        match round {
            0 => fs::remove_dir_all(&cache).unwrap(),
            // Damaged: cut off, and with other bytes in it.
            1 => files_below(&cache).iter().for_each(|file| {
                let bytes = fs::read(file).unwrap();
                fs::write(file, &bytes[..bytes.len() * 2 / 3]).unwrap();
            }),
            _ => files_below(&cache).iter().for_each(|file| {
                let mut bytes = fs::read(file).unwrap();
                bytes.iter_mut().skip(40).step_by(97).for_each(|byte| *byte ^= 0x40);
                fs::write(file, &bytes).unwrap();
            }),
        }
        let again = host.backup(&source);
        assert_eq!((&again["files_sent"], &again["bytes_sent"]), (&0.into(), &0.into()), "round {round}: {again}");
        assert!(stored(&server) - before < 64 * 1024 * (round + 1), "{}", stored(&server) - before);
    }
    host.assert_restores(&source, "restored");
}

#[test]
fn an_interrupted_backup_goes_on_with_what_the_server_has() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), workplace.join("source"));
    fs::create_dir(&source).unwrap();
    for number in 0..12 {
        fs::write(source.join(format!("{number:02}")), bytes(number, 12 << 20)).unwrap();
    }
    let started = host.start(&source);
    wait_until(|| stored(&server) > 8 << 20, "some of it at the server");
    kill(started.id(), "INT");
    started.finish().expect(130);
    server.wait_for_log("ada");
    let before = stored(&server);
    let rest = host.backup(&source);
    let (sent, all) = (rest["bytes_sent"].as_u64().unwrap(), rest["bytes"].as_u64().unwrap());
    assert!(sent < all - (6 << 20), "{sent} of {all}, {before} before");
    host.assert_restores(&source, "restored");
}

#[test]
fn a_dry_run_says_what_would_be_sent_and_stores_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    let dry = host.backup_with(&source, &["--dry-run"]).expect(0).event("summary");
    assert_eq!((&dry["files_sent"], &dry["bytes_sent"]), (&300.into(), &dry["bytes"]));
    assert_eq!((&dry["snapshot"], stored(&server)), (&Value::Null, 0));
    host.backup(&source);
    let before = stored(&server);
    let dry = host.backup_with(&source, &["--dry-run"]).expect(0).event("summary");
    assert_eq!((&dry["bytes_sent"], stored(&server)), (&0.into(), before));
}

#[test]
fn a_host_with_the_half_that_writes_backs_up_without_a_passphrase_and_shares_chunks() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (owner, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    owner.backup(&source);
    let writer = Host::new(&workplace, &server, "bob");
    let run = writer.backup_with(&source, &[]).expect(2);
    assert!(Host::told(&run).contains("no key of a vault"), "{}", run.err());
    let put = owner.client.state().join("vault-put.key");
    let flags = ["--vault-key", put.to_str().unwrap()];
    let summary = writer.backup_with(&source, &flags).expect(0).event("summary");
    assert_eq!((&summary["bytes_sent"], &summary["files"]), (&0.into(), &302.into()));
    let to = workplace.join("nothing");
    let run = writer.client.run([OsStr::new("restore"), "--to".as_ref(), to.as_ref()]);
    assert_ne!(run.code, 0);
    assert!(!to.exists() || files_below(&to).is_empty());
}

#[test]
fn a_server_that_was_set_back_is_warned_of_and_the_backup_goes_on() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    host.backup(&source);
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    copy(&data, &workplace.join("kept"));

    let server = TestServer::start(&workplace);
    let host = Host::new(&workplace, &server, "ada");
    fs::write(source.join("new"), bytes(9, 9_000)).unwrap();
    let newer = host.backup_with(&source, &[]).expect(0);
    assert!(!Host::told(&newer).contains("set back"), "{}", Host::told(&newer));
    assert_eq!(server.stop(), 0);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(workplace.join("kept"), &data).unwrap();

    let server = TestServer::start(&workplace);
    let host = Host::new(&workplace, &server, "ada");
    // No key is needed to see it.
    let run = host.client.run(["verify"]).expect(3);
    assert!(run.err().contains("set back"), "{}", run.err());
    let run = host.backup_with(&source, &[]).expect(0);
    let lost = newer.event("summary")["snapshot"].as_str().unwrap().to_string();
    let told = Host::told(&run);
    assert!(told.contains(&format!("older than {lost}")) && told.contains("set back"), "{told}");
    // What the server has lost is sent again, whatever the cache says.
    assert_eq!(run.event("summary")["bytes_sent"], 9_000);
    host.assert_restores(&source, "restored");
    let run = host.backup_with(&source, &[]).expect(0);
    assert!(!Host::told(&run).contains("set back"), "{}", Host::told(&run));
    let run = host.client.run(["verify"]).expect(0);
    assert!(!run.err().contains("set back"), "{}", run.err());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for item in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(item.file_name());
        match item.file_type().unwrap() {
            kind if kind.is_dir() => copy(&item.path(), &target),
            kind if kind.is_file() => drop(fs::copy(item.path(), target).unwrap()),
            _ => {}
        }
    }
}

#[test]
fn what_makes_no_sense_with_a_vault_is_refused() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (host, source) = (Host::with_vault(&workplace, &server, "ada"), source(&workplace));
    let run = host.backup_with(&source, &["--parent", "20260131T235959Z-00c0ffee"]).expect(2);
    assert!(Host::told(&run).contains("--parent is of no use with --vault"), "{}", run.err());
    let run = host.backup_with(&source, &["--legacy"]).expect(2);
    assert!(Host::told(&run).contains("--vault"), "{}", run.err());
}
