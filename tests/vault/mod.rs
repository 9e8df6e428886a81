//! The vault: what the server stores and cannot read.

mod backing_up;
mod chain;
mod independent;
mod keeping;
mod keys;
mod looking;
mod mending;
mod restoring;
mod secrecy;
mod under_load;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cyberbackup::crypto::vault::{FullKey, PassphraseCost};

use crate::support::{Run, TestClient, TestServer, Workplace};

const PASSPHRASE: &str = "CYBERBACKUP_PASSPHRASE";

/// A vault's keys in a client's state folder, under the passphrase "one": as `vault create` makes them, but under the least
/// that a passphrase may cost, which every command that opens the vault pays.
pub fn create_vault(client: &TestClient<'_>) {
    let key = FullKey::generate().unwrap();
    let state = client.state();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(state.join(name));
        file.and_then(|mut file| file.write_all(bytes)).unwrap();
    };
    write("vault.key", &key.to_file(b"one", PassphraseCost::LEAST).unwrap());
    write("vault-put.key", &key.put().to_file());
}

/// A client's command with the passphrase at hand.
fn opened<S: AsRef<OsStr>>(client: &TestClient<'_>, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = client.command(words);
    command.env(PASSPHRASE, "one");
    command
}

/// Backs `path` up into the vault and gives the snapshot's id. No passphrase is at hand.
#[track_caller]
pub fn back_up(client: &TestClient<'_>, path: &Path) -> String {
    let words = ["backup", "--vault", "--json", "--quiet"].map(OsStr::new);
    let run = client.run(words.into_iter().chain([path.as_os_str()])).expect(0);
    run.event("summary")["snapshot"].as_str().expect("a stored snapshot").to_string()
}

/// Restores from the vault and gives where `original` lies in it.
#[track_caller]
fn restore(client: &TestClient<'_>, original: &Path, to: &str) -> PathBuf {
    let to = client.workplace.join(to);
    let words = [OsStr::new("restore"), "--to".as_ref(), to.as_os_str()];
    Run::of(opened(client, words)).expect(0);
    to.join(original.strip_prefix("/").expect("an absolute path"))
}

/// A server, and a client that has a vault.
fn with_vault(workplace: &Workplace) -> (TestServer, TestClient<'_>) {
    let server = TestServer::start(workplace);
    let client = TestClient::new(workplace, &server.address, "ada");
    create_vault(&client);
    (server, client)
}

/// The pack files of the one vault of a server.
fn packs(server: &TestServer) -> Vec<PathBuf> {
    let vaults = fs::read_dir(server.data.join("vaults")).unwrap().map(|entry| entry.unwrap().path());
    let mut packs: Vec<PathBuf> = vaults
        .flat_map(|vault| fs::read_dir(vault.join("packs")).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    packs.sort();
    packs
}
