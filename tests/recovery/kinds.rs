//! One byte flipped in each kind of file of a store that has all of them: whatever it was, the next backup is stored
//! (unless it is what lets the client in), and a repair leaves nothing damaged that it does not name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::contents;
use crate::support::{Run, TestClient, TestServer, tree};
use crate::verifying::Store;

/// The kind of a file: its folder in the store, and how its name ends.
fn kind(name: &str) -> (String, String) {
    let folder = name.split('/').next().unwrap().to_string();
    let end = match name {
        _ if name.ends_with("/dropped.json") => "/dropped.json",
        _ if name.starts_with("keys/") => name,
        _ => Path::new(name).extension().map_or("", |end| end.to_str().unwrap()),
    };
    (folder, end.to_string())
}

/// What a repair ends with after the next backup, for each kind.
fn expected(kind: &(String, String)) -> i32 {
    match (kind.0.as_str(), kind.1.as_str()) {
        ("keys", "keys/server_private_key.der") => 6,
        _ => 0,
    }
}

fn operator(store: &Store, data: &Path, words: &[&str]) -> Run {
    store.workplace.run([words, &["--data", data.to_str().unwrap()]].concat())
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Flips a byte that counts: one that a verification finds. Some records of blocks are dead.
fn harm(store: &Store, data: &Path, name: &str) {
    let file = data.join(name);
    let whole = fs::read(&file).unwrap();
    for sixteenth in if name.ends_with(".blocks") { 1..16 } else { 8..9 } {
        let mut bytes = whole.clone();
        bytes[whole.len() * sixteenth / 16] ^= 1;
        fs::write(&file, bytes).unwrap();
        if operator(store, data, &["verify"]).code == 6 {
            return;
        }
    }
    panic!("{name} is not found damaged");
}

#[test]
fn whatever_kind_of_file_is_damaged_the_next_backup_is_stored_and_a_repair_mends_or_names_it() {
    let store = Store::new();
    // The record of what was verified when is one of them.
    store.workplace.run(["verify", "--data", store.data.to_str().unwrap()]).expect(0);
    let data = store.workplace.join("harmed");
    let mut kinds = BTreeSet::new();
    for file in tree::files_below(&store.data) {
        let name = file.strip_prefix(&store.data).unwrap().to_str().unwrap().to_string();
        let is_staged = name.starts_with("incoming/") && !name.ends_with("/journal");
        let is_unread = name.ends_with(".summary") || name == "lock" || name.ends_with(".held");
        let kind = kind(&name);
        if is_staged || is_unread || !kinds.insert(kind.clone()) {
            continue;
        }
        copy(&store.data, &data);
        harm(&store, &data, &name);
        let lets_nobody_in = kind.0 == "clients"
            || name == "sealing.json"
            || name == "keys/server_private_key.der"
            || name.contains("next_server_private");
        if !lets_nobody_in {
            let server = TestServer::start_with(&store.workplace, "harmed", &["--rsa-bits", "2048"]);
            let client = TestClient::new(&store.workplace, &server.address, "ada");
            let id = client.backup(&store.source);
            client.run(["restore", "--snapshot", &id, "--to", "again"]).expect(0);
            let again = store.workplace.join("again").join(store.source.strip_prefix("/").unwrap());
            assert!(contents(&again) == contents(&store.source), "{name}");
            fs::remove_dir_all(store.workplace.join("again")).unwrap();
            assert_eq!(server.stop(), 0, "{name}");
        }
        let repaired = operator(&store, &data, &["server", "--repair"]);
        assert_eq!(repaired.code, expected(&kind), "{name}:\n{}{}", repaired.out(), repaired.err());
        let again = operator(&store, &data, &["server", "--repair"]);
        assert_eq!(again.code, expected(&kind), "{name}:\n{}", again.out());
        assert!(again.code == 6 || again.out().contains("nothing to repair"), "{name}:\n{}", again.out());
        if again.code == 6 {
            continue;
        }
        let verified = operator(&store, &data, &["verify"]);
        // What no backup of the same tree brings again is named.
        let may_stay = ["blocks", ""].contains(&kind.1.as_str()) && kind.0 != "snapshots";
        assert!(verified.code == 0 || (may_stay && verified.code == 6), "{name}:\n{}", verified.err());
        assert!(
            verified.code == 0 || verified.err().lines().any(|line| line.starts_with(&name)),
            "{name}:\n{}",
            verified.err()
        );
    }
    for (folder, end) in [
        ("snapshots", "json"),
        ("snapshots", "index"),
        ("snapshots", "dropped"),
        ("snapshots", "/dropped.json"),
        ("ranges", ""),
        ("ranges", "blocks"),
        ("clients", "json"),
        ("tokens", "json"),
        ("keys", "keys/server_private_key.der"),
        ("keys", "keys/server_public_key.der"),
        ("keys", "keys/next_server_private_key.der"),
        ("keys", "keys/next_server_key.json"),
        ("damage", "checked"),
        ("daily.json", "json"),
        ("incoming", ""),
        ("received_files", ""),
        ("deltas", ""),
    ] {
        assert!(kinds.contains(&(folder.to_string(), end.to_string())), "no {folder} {end:?}: {kinds:?}");
    }
}
