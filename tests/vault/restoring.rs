//! What is in a vault comes back to whoever holds its full key, to nobody else, and never as other bytes.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;

use super::{PASSPHRASE, back_up, create_vault, opened, packs, restore, with_vault};
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

/// A path as snapshots hold it.
fn stored(path: &Path) -> &OsStr {
    path.strip_prefix("/").unwrap().as_os_str()
}

#[test]
fn an_odd_tree_comes_back_with_everything() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    tree::odd(&source);
    tree::many_files(&source.join("many"), 1_500);
    back_up(&client, &source);
    let came = restore(&client, &source, "to");
    tree::assert_same(&source, &came);
    // Into a folder where parts of it are: what is right stays, the rest is made so.
    fs::write(came.join("size 1048577"), "other").unwrap();
    fs::remove_file(came.join("case")).unwrap();
    restore(&client, &source, "to");
    tree::assert_same(&source, &came);
}

#[test]
fn listings_single_files_and_parts_are_those_of_a_plain_snapshot() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let plain = TestClient::new(&workplace, &server.address, "plain");
    let source = workplace.join("source");
    tree::odd(&source);
    let content = tree::bytes(3, 1_500_000);
    let large = workplace.write("source/large", &content);
    back_up(&client, &source);
    plain.backup(&source);
    let size = workplace.join("source/size 131072");
    for words in [
        vec![OsStr::new("ls"), "--long".as_ref()],
        vec!["ls".as_ref(), "--json".as_ref(), stored(&size), stored(&workplace.join("source/deep"))],
        vec!["cat".as_ref(), stored(&large)],
        vec![
            "cat".as_ref(),
            stored(&large),
            "--offset".as_ref(),
            "99999".as_ref(),
            "--length".as_ref(),
            "400001".as_ref(),
        ],
        vec!["cat".as_ref(), stored(&large), "--offset".as_ref(), "1500000".as_ref()],
        vec!["cat".as_ref(), stored(&workplace.join("source/empty"))],
    ] {
        let (left, right) = (plain.run(&words).expect(0), Run::of(opened(&client, &words)).expect(0));
        assert!(left.stdout == right.stdout, "{words:?}: {} and {}", left.out(), right.out());
    }
    let part = [OsStr::new("restore"), "--to".as_ref(), "part".as_ref(), stored(&size)];
    Run::of(opened(&client, part)).expect(0);
    let came = workplace.join("part").join(stored(&size));
    assert!(fs::read(came).unwrap() == fs::read(&size).unwrap());
    for words in [["ls", "nothing/there"], ["cat", "nothing/there"]] {
        let run = Run::of(opened(&client, words)).expect(1);
        assert!(run.err().contains("nothing/there is not in snapshot"), "{}", run.err());
    }
}

#[test]
fn the_half_that_writes_reads_nothing_and_the_full_key_reads_what_it_wrote() {
    let workplace = Workplace::new();
    let (server, owner) = with_vault(&workplace);
    let host = TestClient::new(&workplace, &server.address, "host");
    fs::create_dir(host.state()).unwrap();
    fs::copy(owner.state().join("vault-put.key"), host.state().join("vault-put.key")).unwrap();
    let source = workplace.join("source");
    tree::many_files(&source, 50);
    let id = back_up(&host, &source);
    for words in
        [&["ls"][..], &["restore", "--to", "to"], &["cat", "x"], &["ls", "--vault-key", "state-host/vault-put.key"]]
    {
        let run = host.run(words).expect(2);
        assert!(run.err().contains("opens with its full key only") && run.stdout.is_empty(), "{}", run.err());
    }
    assert!(!workplace.join("to").join(stored(&source)).exists());
    // Another host's snapshot is found by the key, by its id and as the newest.
    for selector in [&id[..], &id[..20], "latest"] {
        let to = workplace.join(format!("to-{selector}"));
        let words =
            [OsStr::new("restore"), "--to".as_ref(), to.as_os_str(), "--snapshot".as_ref(), selector.as_ref()];
        Run::of(opened(&owner, words)).expect(0);
        tree::assert_same(&source, &to.join(stored(&source)));
    }
    let run = Run::of(opened(&owner, ["ls", "--snapshot", "20000101T000000Z-00000000"])).expect(1);
    assert!(run.err().contains("no snapshot of this client, or in the vault"), "{}", run.err());
    let mut wrong = owner.command(["ls", "--snapshot", &id]);
    let run = Run::of({
        wrong.env(PASSPHRASE, "two");
        wrong
    })
    .expect(5);
    assert!(run.err().contains("the passphrase is wrong, or the file is damaged"), "{}", run.err());
}

#[test]
fn the_key_of_another_vault_opens_nothing() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let other = TestClient::new(&workplace, &server.address, "other");
    create_vault(&other);
    let source = workplace.write("source/file", "1");
    back_up(&client, &source);
    let key = other.state().join("vault.key");
    let run = Run::of(opened(&client, [OsStr::new("ls"), "--vault-key".as_ref(), key.as_os_str()])).expect(2);
    assert!(run.err().contains("is the key of the vault"), "{}", run.err());
}

#[test]
fn the_newest_of_a_root_is_found_among_other_hosts_snapshots() {
    let workplace = Workplace::new();
    let (server, owner) = with_vault(&workplace);
    let host = TestClient::new(&workplace, &server.address, "host");
    fs::create_dir(host.state()).unwrap();
    fs::copy(owner.state().join("vault-put.key"), host.state().join("vault-put.key")).unwrap();
    let (a, b) = (workplace.join("a"), workplace.join("b"));
    workplace.write("a/file", "of a");
    workplace.write("b/file", "of b");
    back_up(&host, &a);
    back_up(&host, &b);
    let file = a.join("file");
    let words = [OsStr::new("cat"), "--root".as_ref(), a.as_os_str(), stored(&file)];
    assert_eq!(Run::of(opened(&owner, words)).expect(0).out(), "of a");
    let run = Run::of(opened(&owner, [OsStr::new("ls"), "--root".as_ref(), a.as_os_str()])).expect(0);
    assert!(run.out().contains("a/file") && !run.out().contains("b/file"), "{}", run.out());
}

/// Makes a file of holes, with so many bytes of data at each of these places.
fn sparse_file(path: &Path, length: u64, data: usize, places: impl IntoIterator<Item = u64>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    file.set_len(length).unwrap();
    for place in places {
        std::os::unix::fs::FileExt::write_all_at(&file, &tree::bytes(place, data), place).unwrap();
    }
}

fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn holes_stay_holes_and_are_not_sent() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    let (few, many) = (source.join("few"), source.join("many"));
    sparse_file(&few, (1 << 30) + 12_345, 300_000, [5_000_001, 700_000_000]);
    sparse_file(&many, 256 << 20, 4096, (0..64).map(|number| number << 22));
    back_up(&client, &source);
    assert!(tree::bytes_below(&server.data) < 4 << 20, "{}", tree::bytes_below(&server.data));
    let came = restore(&client, &source, "to");
    tree::assert_same(&source, &came);
    for (name, most) in [("few", 1 << 20), ("many", 1 << 20)] {
        let bytes = disk_bytes(&came.join(name));
        assert!(bytes < most, "{name} takes {bytes}");
    }
    // Whoever has it checked or printed gets the zeros too.
    Run::of(opened(&client, ["verify", "--read-data"])).expect(0);
    let printed = Run::of(opened(&client, [OsStr::new("cat"), stored(&many)])).expect(0).stdout;
    assert!(printed == fs::read(&many).unwrap());
}

#[test]
fn a_file_has_the_same_chunks_with_and_without_holes() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let sparse = workplace.join("sparse/file");
    sparse_file(&sparse, 40_000_003, 70_001, [0, 1_000_003, 1_200_000, 30_000_000, 39_930_002]);
    back_up(&client, &workplace.join("sparse"));
    workplace.write("dense/file", fs::read(&sparse).unwrap());
    assert!(disk_bytes(&workplace.join("dense/file")) >= 40_000_000);
    let dense = workplace.join("dense");
    let words = ["backup", "--vault", "--json", "--quiet"].map(OsStr::new);
    let summary = client.run(words.into_iter().chain([dense.as_os_str()])).expect(0).event("summary");
    assert_eq!((&summary["bytes"], &summary["bytes_sent"]), (&40_000_003.into(), &0.into()));
}

/// Flips one bit of each pack, at so many places evenly spread, one at a time.
#[test]
fn damage_is_named_and_no_other_bytes_are_restored() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 40);
    back_up(&client, &source);
    let pack = &packs(&server)[0];
    let whole = fs::read(pack).unwrap();
    let mut damaged_runs = 0;
    for number in 0..8 {
        let mut bytes = whole.clone();
        let at = 60 + (bytes.len() - 60) * number / 8;
        bytes[at] ^= 0x10;
        fs::write(pack, &bytes).unwrap();
        let to = workplace.join(format!("to-{number}"));
        let run = Run::of(opened(&client, [OsStr::new("restore"), "--to".as_ref(), to.as_os_str()]));
        let came = to.join(stored(&source));
        if run.code == 0 {
            tree::assert_same(&source, &came);
            continue;
        }
        damaged_runs += 1;
        assert!(run.code == 6 || run.code == 1, "{}: {}", run.code, run.err());
        for file in if came.exists() { tree::files_below(&came) } else { Vec::new() } {
            let original = source.join(file.strip_prefix(&came).unwrap());
            assert!(fs::read(&file).unwrap() == fs::read(original).unwrap(), "{}", file.display());
        }
    }
    assert!(damaged_runs >= 5, "{damaged_runs} of 8 flips were met by a restore");
}

#[test]
fn verify_finds_what_is_damaged_and_a_server_that_was_set_back() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 60);
    back_up(&client, &source);
    // The server's own check needs no key, the client's is asked for by giving one.
    let run = client.run(["verify", "--json"]).expect(0);
    assert_eq!(run.event("summary")["damaged"], 0);
    let verify =
        |client: &TestClient<'_>, words: &[&str]| Run::of(opened(client, [&["verify"][..], words].concat()));
    verify(&client, &[]).expect(0);
    let run = verify(&client, &["no such path"]).expect(1);
    assert!(run.err().contains("no such path is not in snapshot"), "{}", run.err());
    let run = verify(&client, &["--read-data", "--json"]).expect(0);
    assert_eq!(run.event("summary")["opened_files"], 60);
    assert_eq!(run.event("summary")["opened_bytes"], tree::bytes_below(&source));
    let saved = workplace.join("saved");
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    copy(&data, &saved);
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/more", "and more");
    back_up(&client, &source);
    verify(&client, &[]).expect(0);
    assert_eq!(server.stop(), 0);
    fs::remove_dir_all(&data).unwrap();
    copy(&saved, &data);
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let told = "it has lost it, or was set back";
    let run = verify(&client, &[]).expect(6);
    assert!(run.err().contains(told), "{}", run.err());
    // What is shown as the latest is given, and is not taken for it.
    let to = workplace.join("to");
    let more = workplace.join("source/more");
    for (words, code) in
        [(vec![OsStr::new("ls")], 6), (vec!["restore".as_ref(), "--to".as_ref(), to.as_os_str()], 6)]
    {
        let run = Run::of(opened(&client, words)).expect(code);
        assert!(run.err().contains(told), "{}", run.err());
    }
    assert!(to.join(stored(&source)).exists() && !to.join(stored(&more)).exists());
}

#[test]
fn what_is_being_read_is_not_pruned() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    fs::create_dir(&source).unwrap();
    let large = tree::bytes(7, 24 << 20);
    fs::write(source.join("large"), &large).unwrap();
    let read = back_up(&client, &source);
    fs::remove_file(source.join("large")).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let kept = back_up(&client, &source);
    let path = source.join("large");
    let words = ["cat", "--snapshot", &read]
        .map(OsStr::new)
        .into_iter()
        .chain([path.strip_prefix("/").unwrap().as_os_str()]);
    let mut cat = opened(&client, words).stdout(Stdio::piped()).spawn().unwrap();
    // It waits until somebody takes more of it.
    let (mut came, mut out) = (vec![0; 1_000], cat.stdout.take().unwrap());
    out.read_exact(&mut came).unwrap();
    let data = server.data.as_os_str();
    let prune = || {
        let words = ["prune", "--keep-last", "1", "--keep-within", "0", "--data"].map(OsStr::new);
        workplace.run(words.into_iter().chain([data])).expect(0).out()
    };
    let told = prune();
    assert!(told.contains(&read) && told.contains("being read"), "{told}");
    out.read_to_end(&mut came).unwrap();
    assert!(cat.wait().unwrap().success() && came == large);
    let told = prune();
    assert!(!told.contains("being read"), "{told}");
    let ids = client.run(["snapshots"]).expect(0).out();
    assert!(ids.contains(&kept) && !ids.contains(&read), "{ids}");
}

#[test]
fn a_line_that_is_cut_every_two_mebibytes_brings_everything() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    fs::create_dir(&source).unwrap();
    for (name, bytes) in [("a", 9 << 20), ("b", 100_000), ("c", 3 << 20)] {
        fs::write(source.join(name), tree::bytes(bytes as u64, bytes)).unwrap();
    }
    back_up(&client, &source);
    let line = SlowLine::start(&server.address, Nature { cut_after: Some(2 << 20), ..Nature::default() });
    let far = TestClient::new(&workplace, &line.address, "ada");
    let to = workplace.join("to");
    let words = ["restore", "--retries", "2", "--retry-max-wait", "1", "--to"].map(OsStr::new);
    Run::of(opened(&far, words.into_iter().chain([to.as_os_str()]))).expect(0);
    assert!(line.connections() > 5, "{} connections", line.connections());
    let came = to.join(source.strip_prefix("/").unwrap());
    tree::assert_same(&source, &came);
    // Of a file that stands there, what is not the snapshot's is fetched.
    drop(line);
    let file = fs::OpenOptions::new().write(true).open(came.join("a")).unwrap();
    file.write_all_at(b"another", 5 << 20).unwrap();
    drop(file);
    let line = SlowLine::start(&server.address, Nature::default());
    let far = TestClient::new(&workplace, &line.address, "ada");
    let words = ["restore", "--to"].map(OsStr::new);
    Run::of(opened(&far, words.into_iter().chain([to.as_os_str()]))).expect(0);
    tree::assert_same(&source, &came);
    assert!(line.carried() < 600_000, "{} bytes for a chunk of 256 KiB at most", line.carried());
}
