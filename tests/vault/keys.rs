//! `vault`: the key files, and every way to say their passphrase.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{create_vault, with_vault};
use crate::support::{Run, TestClient, Workplace};

const PASSPHRASE: &str = "CYBERBACKUP_PASSPHRASE";
const NEW_PASSPHRASE: &str = "CYBERBACKUP_NEW_PASSPHRASE";

/// `vault` with these words, on the state folder `state`.
fn vault(workplace: &Workplace, words: &[&str]) -> Command {
    let words = ["vault", "--state", "state", "--low-memory"].into_iter().chain(words.iter().copied());
    workplace.command(words)
}

fn create(workplace: &Workplace) -> Run {
    Run::of({
        let mut command = vault(workplace, &["create", "--json"]);
        command.env(PASSPHRASE, "one");
        command
    })
    .expect(0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn create_makes_both_files_for_their_owner_alone_and_never_writes_over_one() {
    let workplace = Workplace::new();
    let made = create(&workplace).event("vault_created");
    let (full, put) = (workplace.join("state/vault.key"), workplace.join("state/vault-put.key"));
    assert_eq!((mode(&full), mode(&put), mode(&workplace.join("state"))), (0o600, 0o600, 0o700));
    assert_eq!(made["memory_kib"], 16 * 1024);
    assert!(made["passes"].as_u64().unwrap() >= 3);
    let vault_id = made["vault"].as_str().unwrap();
    let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&vault_id[2 * at..2 * at + 2], 16).unwrap()).collect();
    for file in [&full, &put] {
        assert_eq!(fs::read(file).unwrap()[12..28], bytes, "the vault's id stands in clear in {}", file.display());
    }
    let before = (fs::read(&full).unwrap(), fs::read(&put).unwrap());
    let run = Run::of({
        let mut command = vault(&workplace, &["create"]);
        command.env(PASSPHRASE, "two");
        command
    })
    .expect(2);
    assert!(run.err().contains("vault.key is there already, and a vault without its key is lost"), "{}", run.err());
    fs::remove_file(&full).unwrap();
    Run::of({
        let mut command = vault(&workplace, &["create"]);
        command.env(PASSPHRASE, "two");
        command
    })
    .expect(2);
    assert!(!full.exists());
    assert_eq!(fs::read(&put).unwrap(), before.1);
}

#[test]
fn a_new_passphrase_takes_the_place_of_the_old_one() {
    let workplace = Workplace::new();
    create(&workplace);
    let put = fs::read(workplace.join("state/vault-put.key")).unwrap();
    let full = workplace.join("state/vault.key");
    let change = |old: &str, new: &str| {
        let mut command = vault(&workplace, &["passphrase"]);
        command.env(PASSPHRASE, old).env(NEW_PASSPHRASE, new);
        Run::of(command)
    };
    let before = fs::read(&full).unwrap();
    let run = change("wrong", "two").expect(5);
    assert!(
        run.err().contains("vault.key does not open: the passphrase is wrong, or the file is damaged"),
        "{}",
        run.err()
    );
    let run = change("one", "").expect(2);
    assert!(run.err().contains("is empty"), "{}", run.err());
    assert_eq!(fs::read(&full).unwrap(), before);
    change("one", "two").expect(0);
    assert_eq!(mode(&full), 0o600);
    change("one", "three").expect(5);
    change("two", "three").expect(0);
    // The keys are the same: what the full key gives out is what was made first.
    fs::remove_file(workplace.join("state/vault-put.key")).unwrap();
    let mut command = vault(&workplace, &["export-put-key", "put"]);
    command.env(PASSPHRASE, "three");
    Run::of(command).expect(0);
    assert_eq!(fs::read(workplace.join("put")).unwrap(), put);
}

#[test]
fn the_half_that_writes_is_given_out_without_the_passphrase_and_never_over_a_file() {
    let workplace = Workplace::new();
    create(&workplace);
    Run::of(vault(&workplace, &["export-put-key", "put"])).expect(0);
    let put = workplace.join("put");
    assert_eq!(mode(&put), 0o600);
    assert_eq!(fs::read(&put).unwrap(), fs::read(workplace.join("state/vault-put.key")).unwrap());
    let run = Run::of(vault(&workplace, &["export-put-key", "put"])).expect(2);
    assert!(run.err().contains("put is there already"), "{}", run.err());
    let run = Run::of(vault(&workplace, &["export-put-key", "other", "--vault-key", "nothing"])).expect(1);
    assert!(run.err().contains("read nothing"), "{}", run.err());
    let damaged = workplace.write("damaged", &fs::read(&put).unwrap()[1..]);
    for file in [damaged.to_str().unwrap(), "state"] {
        let run = Run::of(vault(&workplace, &["export-put-key", "other", "--vault-key", file])).expect(2);
        assert!(run.err().contains("not a key file of a vault, or damaged"), "{}", run.err());
    }
    // The half that writes has no passphrase.
    let run = Run::of(vault(&workplace, &["passphrase", "--vault-key", "put"])).expect(2);
    assert!(run.err().contains("put is the half that writes"), "{}", run.err());
}

#[test]
fn a_passphrase_comes_from_a_file_a_command_or_the_environment_in_that_order() {
    let workplace = Workplace::new();
    workplace.write("passphrase", "one\n");
    workplace.write("wrong", "one\n\n");
    let run = Run::of(vault(&workplace, &["create", "--passphrase-file", "passphrase"])).expect(0);
    assert!(run.out().contains("Keep a copy of the full key in another place"), "{}", run.out());
    let opens = |flags: &[&str], variable: &str| {
        let number = fs::read_dir(workplace.path()).unwrap().count();
        let out = format!("out-{number}");
        let mut command =
            vault(&workplace, &[&["export-put-key", &out, "--vault-key", "state/vault.key"], flags].concat());
        command.env(PASSPHRASE, variable);
        Run::of(command)
    };
    opens(&[], "one").expect(0);
    opens(&[], "two").expect(5);
    opens(&["--passphrase-file", "passphrase"], "two").expect(0);
    workplace.write("from windows", "one\r\n");
    opens(&["--passphrase-file", "from windows"], "two").expect(0);
    workplace.write("two lines", "one\r\n\r\n");
    opens(&["--passphrase-file", "two lines"], "one").expect(5);
    opens(&["--passphrase-file", "wrong"], "one").expect(5);
    opens(&["--passphrase-command", "cat passphrase"], "two").expect(0);
    opens(&["--passphrase-command", "false"], "one").expect(2);
    let run = opens(&["--passphrase-command", "echo", "--passphrase-file", "passphrase"], "one").expect(2);
    assert!(run.err().contains("exclude each other"), "{}", run.err());
}

#[test]
fn words_that_mean_nothing_are_wrong_usage() {
    let workplace = Workplace::new();
    for words in [&[][..], &["make"], &["create", "more"], &["export-put-key"], &["passphrase", "new"]] {
        let run = Run::of(vault(&workplace, words)).expect(2);
        assert!(
            run.err().contains("vault create, vault passphrase, or vault export-put-key FILE"),
            "{}",
            run.err()
        );
    }
    assert!(!workplace.join("state").exists());
}

#[test]
fn halves_of_two_vaults_in_one_folder_are_refused() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let other = TestClient::new(&workplace, &server.address, "bob");
    create_vault(&other);
    fs::copy(other.state().join("vault-put.key"), client.state().join("vault-put.key")).unwrap();
    let file = workplace.write("file", "content");
    let run = client.run(["backup".as_ref(), "--vault".as_ref(), file.as_os_str()]).expect(2);
    assert!(run.err().contains("say which is meant with --vault-key"), "{}", run.err());
    let put = client.state().join("vault-put.key");
    let words = ["backup".as_ref(), "--vault".as_ref(), "--vault-key".as_ref(), put.as_os_str(), file.as_os_str()];
    client.run(words).expect(0);
}
