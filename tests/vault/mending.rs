//! What the server of a vault finds damaged and puts right by itself, without any key.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::chain::{field, with_checksum};
use super::{PASSPHRASE, back_up, create_vault, opened, packs, restore, with_vault};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

const FILES: usize = 40;
/// The header of a pack, before its first record.
const PACK_HEADER_BYTES: usize = 36;

/// A vault with one snapshot of a few files.
fn with_snapshot(workplace: &Workplace) -> (TestServer, PathBuf) {
    let (server, client) = with_vault(workplace);
    let source = workplace.join("source");
    tree::many_files(&source, FILES);
    back_up(&client, &source);
    (server, source)
}

fn ada<'a>(workplace: &'a Workplace, server: &TestServer) -> TestClient<'a> {
    TestClient::new(workplace, &server.address, "ada")
}

fn operator(workplace: &Workplace, words: &[&str], data: &Path) -> Run {
    workplace.run(words.iter().map(OsStr::new).chain(["--data".as_ref(), data.as_os_str()]))
}

/// The folder of the only vault.
fn vault_folder(data: &Path) -> PathBuf {
    fs::read_dir(data.join("vaults")).unwrap().next().unwrap().unwrap().path()
}

fn flip(file: &Path, place: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[place] ^= 0x20;
    fs::write(file, bytes).unwrap();
}

fn told(run: &Run) -> String {
    format!("{}{}", run.out(), run.err())
}

#[test]
fn a_changed_byte_in_a_wrapped_key_or_a_header_is_named_once_and_lost_with_no_index() {
    let workplace = Workplace::new();
    let (mut server, source) = with_snapshot(&workplace);
    for (round, (place, what)) in
        [(PACK_HEADER_BYTES + 90, "the record of data key"), (20, "its header")].iter().enumerate()
    {
        let [pack] = &packs(&server)[..] else { panic!("one pack") };
        flip(pack, *place);
        let verify = || match round {
            0 => ada(&workplace, &server).run(["verify"]),
            _ => operator(&workplace, &["verify"], &server.data),
        };
        let found = verify().expect(6);
        for said in [what, "pack 0000000", "written anew, with the keys from the index"] {
            assert!(told(&found).contains(said), "{said:?} in {}", told(&found));
        }
        verify().expect(0);
        let data = server.data.clone();
        assert_eq!(server.stop(), 0);
        fs::remove_file(vault_folder(&data).join("index.redb")).unwrap();
        server = TestServer::start(&workplace);
        let restored = restore(&ada(&workplace, &server), &source, &format!("to-{round}"));
        tree::assert_same(&source, &restored);
    }
}

#[test]
fn what_says_who_may_use_a_vault_is_made_again_and_where_it_is_lost_no_key_is_blamed() {
    let workplace = Workplace::new();
    let (server, source) = with_snapshot(&workplace);
    let data = server.data.clone();
    let files = ["vault.json", "vault-copy.json"].map(|name| vault_folder(&data).join(name));
    let whole = fs::read(&files[0]).unwrap();
    assert_eq!(fs::read(&files[1]).unwrap(), whole);
    // One of them: at a start, by a verification, by a repair.
    assert_eq!(server.stop(), 0);
    fs::remove_file(&files[0]).unwrap();
    let server = TestServer::start(&workplace);
    server.wait_for_log("vault.json: made again: who may use the vault, from vault-copy.json");
    flip(&files[1], 30);
    let found = operator(&workplace, &["verify"], &data).expect(6);
    assert!(
        told(&found).contains("vault-copy.json: it was damaged or gone, and is made again"),
        "{}",
        told(&found)
    );
    operator(&workplace, &["verify"], &data).expect(0);
    // Both, under a running server: damage at the server, whichever the key, and nothing takes the vault over.
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    let (client, other) = (ada(&workplace, &server), TestClient::new(&workplace, &server.address, "other"));
    create_vault(&other);
    for words in
        [vec!["backup", "--vault", source.to_str().unwrap()], vec!["restore", "--to", "nothing"], vec!["ls"]]
    {
        let run = Run::of(opened(&client, &words)).expect(6);
        assert!(run.err().contains("a part of the server's store is damaged"), "{words:?}: {}", run.err());
    }
    back_up(&other, &source);
    let found = operator(&workplace, &["verify"], &data).expect(6);
    assert!(told(&found).contains("vault.json: lost: who may use the vault"), "{}", told(&found));
    assert_eq!(server.stop(), 0);
    assert!(files.iter().all(|file| !file.exists()));
    let found = operator(&workplace, &["server", "--repair"], &data).expect(6);
    assert!(told(&found).contains("lost") && told(&found).contains("back from a copy"), "{}", told(&found));
    fs::write(&files[1], &whole).unwrap();
    let repaired = operator(&workplace, &["server", "--repair", "--dry-run"], &data).expect(0);
    assert!(repaired.out().contains("rebuilt") && !files[0].exists(), "{}", repaired.out());
    operator(&workplace, &["server", "--repair"], &data).expect(0);
    assert_eq!(fs::read(&files[0]).unwrap(), whole);
    let server = TestServer::start(&workplace);
    tree::assert_same(&source, &restore(&ada(&workplace, &server), &source, "to"));
}

/// What says who may use a vault, as somebody else would have it: with other tokens, and the checksum that fits.
fn forged(whole: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8(whole.to_vec()).unwrap();
    for name in ["write_token_sha256", "read_verifier"] {
        text = text.replace(&field(&text, name), &"5a".repeat(32));
    }
    with_checksum(&text).into_bytes()
}

#[test]
fn a_forged_file_beside_the_right_one_is_named_and_left_and_the_owner_gets_in() {
    let workplace = Workplace::new();
    let (mut server, source) = with_snapshot(&workplace);
    let data = server.data.clone();
    let files = ["vault.json", "vault-copy.json"].map(|name| vault_folder(&data).join(name));
    let whole = fs::read(&files[0]).unwrap();
    let forgery = forged(&whole);
    let named = "lost: which of vault.json and vault-copy.json is right";
    for (round, file) in files.iter().enumerate() {
        assert_eq!(server.stop(), 0);
        fs::write(file, &forgery).unwrap();
        server = TestServer::start(&workplace);
        server.wait_for_log(named);
        let found = operator(&workplace, &["verify"], &data).expect(6);
        assert!(told(&found).contains(named), "{}", told(&found));
        tree::assert_same(&source, &restore(&ada(&workplace, &server), &source, &format!("to-{round}")));
        back_up(&ada(&workplace, &server), &source);
        assert_eq!(server.stop(), 0);
        let repaired = operator(&workplace, &["server", "--repair"], &data).expect(6);
        assert!(told(&repaired).contains("the keys of both are let in"), "{}", told(&repaired));
        assert_eq!(fs::read(file).unwrap(), forgery, "both are as they were");
        assert_eq!(fs::read(&files[1 - round]).unwrap(), whole, "both are as they were");
        fs::write(file, &whole).unwrap();
        operator(&workplace, &["server", "--repair"], &data).expect(0);
        server = TestServer::start(&workplace);
    }
    // Nobody but a copy of the data folder knows better; the key is not what is named.
    files.iter().for_each(|file| fs::write(file, &forgery).unwrap());
    let client = ada(&workplace, &server);
    for chain_is_kept in [true, false] {
        if !chain_is_kept {
            fs::remove_file(client.state().join("vault-chain.json")).unwrap();
        }
        for words in [vec!["ls"], vec!["restore", "--to", "nothing"]] {
            let run = Run::of(opened(&client, &words)).expect(6);
            assert!(run.err().contains("(vault.json) is damaged or forged"), "{words:?}: {}", run.err());
            assert!(run.err().contains("whose key this is") || chain_is_kept, "{words:?}: {}", run.err());
        }
    }
    let refused = client.run(["backup", "--vault", source.to_str().unwrap()]).expect(1);
    assert!(refused.err().contains("(vault.json) is damaged or forged"), "{}", refused.err());
    fs::write(&files[1], &whole).unwrap();
    tree::assert_same(&source, &restore(&client, &source, "to"));
}

#[test]
fn files_of_two_vaults_that_were_exchanged_are_named_and_left_and_both_restore() {
    let workplace = Workplace::new();
    let (server, source) = with_snapshot(&workplace);
    let data = server.data.clone();
    let other = TestClient::new(&workplace, &server.address, "other");
    let own = vault_folder(&data);
    create_vault(&other);
    back_up(&other, &source);
    assert_eq!(server.stop(), 0);
    let folders = fs::read_dir(data.join("vaults")).unwrap().map(|entry| entry.unwrap().path());
    let others = folders.into_iter().find(|folder| *folder != own).expect("two vaults");
    let files = [own.join("vault.json"), others.join("vault.json")];
    let wholes = files.each_ref().map(|file| fs::read(file).unwrap());
    fs::write(&files[0], &wholes[1]).unwrap();
    fs::write(&files[1], &wholes[0]).unwrap();
    let server = TestServer::start(&workplace);
    for folder in [&own, &others] {
        let id = folder.file_name().unwrap().to_str().unwrap();
        server.wait_for_log(&format!("lost: what it said: it is that of vault {id}, and is left"));
    }
    for (name, to) in [("ada", "to-own"), ("other", "to-others")] {
        let client = TestClient::new(&workplace, &server.address, name);
        tree::assert_same(&source, &restore(&client, &source, to));
    }
    let found = operator(&workplace, &["verify"], &data).expect(6);
    assert!(told(&found).contains("vault-copy.json counts"), "{}", told(&found));
    assert!(fs::read(&files[0]).unwrap() == wholes[1] && fs::read(&files[1]).unwrap() == wholes[0]);
    // Without the copies each is at the other's place only, and from there it is put back.
    assert_eq!(server.stop(), 0);
    [&own, &others].iter().for_each(|folder| fs::remove_file(folder.join("vault-copy.json")).unwrap());
    let server = TestServer::start(&workplace);
    let client = ada(&workplace, &server);
    let run = Run::of(opened(&client, ["ls"])).expect(6);
    assert!(run.err().contains("a part of the server's store is damaged"), "{}", run.err());
    files.iter().zip(&wholes).for_each(|(file, whole)| fs::write(file, whole).unwrap());
    tree::assert_same(&source, &restore(&client, &source, "to"));
}

/// Verifies the store of a server that is not running, over an index that was spoilt in so many ways.
fn spoil_the_index(cuts: usize, flips: usize) {
    let workplace = Workplace::in_memory();
    let (server, source) = with_snapshot(&workplace);
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    let index = vault_folder(&data).join("index.redb");
    let whole = fs::read(&index).unwrap();
    let pages = whole.len() / 4_096;
    let cut = |number: usize| whole[..number * pages / cuts * 4_096].to_vec();
    let flipped = |number: usize| {
        let mut bytes = whole.clone();
        // The first pages say how to read the others.
        let place = if number.is_multiple_of(3) { number * 37 % 4_096 } else { number * whole.len() / flips };
        bytes[place] ^= 0x11;
        bytes
    };
    for spoilt in (0..cuts).map(cut).chain((0..flips).map(flipped)) {
        fs::write(&index, &spoilt).unwrap();
        let said = told(&operator(&workplace, &["verify"], &data).expect(0));
        assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
    }
    // What a server says of it.
    for (number, spoilt) in [cut(cuts / 3), cut(cuts - 1), vec![7; whole.len()]].into_iter().enumerate() {
        fs::write(&index, &spoilt).unwrap();
        let server = TestServer::start(&workplace);
        tree::assert_same(&source, &restore(&ada(&workplace, &server), &source, &format!("to-{number}")));
        let log = server.log();
        assert_eq!(log.matches("its index cannot be used: ").count(), number + 1, "{log}");
        assert_eq!(log.matches("its index was made anew from 1 packs").count(), number + 1, "{log}");
        assert!(log.lines().all(|line| line.starts_with("20")), "each line begins with its time: {log}");
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_spoilt_index_is_told_in_one_line_and_made_anew() {
    spoil_the_index(24, 24);
}

#[test]
#[ignore = "long: each page of an index, and a thousand of its bytes"]
fn an_index_cut_off_at_any_page_or_changed_anywhere_is_told_in_one_line_and_made_anew() {
    spoil_the_index(2_000, 1_000);
}

#[test]
fn verify_says_what_was_only_compared_and_counts_no_object_as_a_file() {
    let workplace = Workplace::new();
    let (server, source) = with_snapshot(&workplace);
    let client = ada(&workplace, &server);
    let run = client.run(["verify"]).expect(0);
    let line =
        "1 snapshot in vaults: only checksums were compared; with --vault-key or --read-data they are opened here";
    assert!(run.out().contains(line) && run.out().contains("sealed objects, "), "{}", run.out());
    let run = client.run(["verify", "--json"]).expect(0);
    let summary = run.event("summary");
    assert_eq!((&summary["files"], &summary["sealed_snapshots"]), (&0.into(), &1.into()), "{summary}");
    assert!(summary["sealed_objects"].as_u64().unwrap() >= FILES as u64, "{summary}");
    let run = Run::of(opened(&client, ["verify"])).expect(0);
    assert!(!run.out().contains("only checksums"), "{}", run.out());
    client.backup(&source);
    let run = client.run(["verify", "--json"]).expect(0);
    assert_eq!(run.event("summary")["files"], FILES as u64);
    let run = operator(&workplace, &["verify"], &server.data).expect(0);
    assert!(run.out().contains("1 snapshot in vaults: only checksums were compared"), "{}", run.out());
    let run = operator(&workplace, &["verify", "--json"], &server.data).expect(0);
    let of_operator = run.event("summary");
    assert_eq!((&of_operator["files"], &of_operator["sealed_snapshots"]), (&(FILES as u64).into(), &1.into()));
    assert_eq!(of_operator["sealed_objects"], summary["sealed_objects"]);
    assert!(std::env::var_os(PASSPHRASE).is_none());
}
