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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cyberbackup::crypto::vault::{FullKey, PassphraseCost};

use crate::support::{Run, TestClient, TestServer, Workplace};

const PASSPHRASE: &str = "CYBERBACKUP_PASSPHRASE";

/// The files of a vault's keys, under the passphrase "one": the full key's, and the half that writes.
struct KeyFiles {
    full: Vec<u8>,
    put: Vec<u8>,
}

impl KeyFiles {
    /// At the least cost that is accepted: what `vault create` chooses is meant to take most of a second at each opening.
    fn new() -> KeyFiles {
        let key = FullKey::generate().unwrap();
        let full = key.to_file(b"one", PassphraseCost::LEAST).unwrap();
        KeyFiles { full, put: key.put().to_file().to_vec() }
    }

    fn write(&self, state: &Path) {
        fs::create_dir_all(state).unwrap();
        fs::write(state.join("vault.key"), &self.full).unwrap();
        fs::write(state.join("vault-put.key"), &self.put).unwrap();
    }
}

/// A vault's keys in a client's state folder: always those of the same vault.
fn create_vault(client: &TestClient<'_>) {
    static FILES: LazyLock<KeyFiles> = LazyLock::new(KeyFiles::new);
    FILES.write(&client.state());
}

/// The keys of a vault that is no other test's and no other client's.
fn create_another_vault(client: &TestClient<'_>) {
    KeyFiles::new().write(&client.state());
}

/// A client's command with the passphrase at hand.
fn opened<S: AsRef<OsStr>>(client: &TestClient<'_>, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = client.command(words);
    command.env(PASSPHRASE, "one");
    command
}

/// Backs `path` up into the vault and gives the snapshot's id. No passphrase is at hand.
#[track_caller]
fn back_up(client: &TestClient<'_>, path: &Path) -> String {
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
