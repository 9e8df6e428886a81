//! What is seen of a vault's snapshots: by whom, and with which key.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{PASSPHRASE, back_up, create_vault, opened, with_vault};
use crate::support::{Run, TestClient, TestServer, Workplace};

/// Another host that writes into the owner's vault.
fn other_host<'a>(workplace: &'a Workplace, server: &TestServer, owner: &TestClient<'_>) -> TestClient<'a> {
    let host = TestClient::new(workplace, &server.address, "host");
    fs::create_dir(host.state()).unwrap();
    fs::copy(owner.state().join("vault-put.key"), host.state().join("vault-put.key")).unwrap();
    host
}

fn stored(path: &Path) -> &OsStr {
    path.strip_prefix("/").unwrap().as_os_str()
}

fn rows(run: &Run) -> Vec<Value> {
    run.events().into_iter().filter(|event| event.name == "snapshot").map(|event| event.data).collect()
}

#[test]
fn snapshots_show_what_heads_say_to_whoever_gives_the_key() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let host = other_host(&workplace, &server, &client);
    let (a, b) = (workplace.write("a/file", "12345"), workplace.write("b/file", "1"));
    let plain = client.backup(&a);
    let sealed = back_up(&client, &a);
    let others = back_up(&host, &b);

    // No passphrase is asked for, and none is needed.
    let run = client.run(["snapshots"]).expect(0);
    let lines: Vec<String> = run.out().lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 2, "{}", run.out());
    assert!(
        lines[0].starts_with(&plain) && lines[0].contains("1 files") && lines[0].ends_with("/a/file"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&sealed) && lines[1].contains("- files") && lines[1].ends_with("  vault"),
        "{lines:?}"
    );
    assert!(
        run.err().contains("1 snapshot in a vault: \"cyberbackup snapshots --vault-key FILE\""),
        "{}",
        run.err()
    );
    let quiet = client.run(["snapshots", "--json", "--quiet"]).expect(0);
    assert_eq!(quiet.err(), "");
    let row = &rows(&quiet)[1];
    for name in ["entries", "files", "bytes", "new_bytes", "unreadable", "host", "label", "tags", "roots"] {
        assert!(row[name].is_null(), "{name}: {row}");
    }
    assert_eq!((&row["own"], row["vault"].is_string()), (&true.into(), true));

    let run = Run::of(opened(&client, ["snapshots"])).expect(0);
    let lines: Vec<String> = run.out().lines().map(str::to_string).collect();
    assert_eq!((lines.len(), run.err()), (3, String::new()), "{}", run.out());
    assert!(lines[1].contains("1 files") && lines[1].ends_with("/a/file  (vault)"), "{lines:?}");
    assert!(lines[2].starts_with(&others) && lines[2].contains("/b/file  (vault, of "), "{lines:?}");
    let rows = rows(&Run::of(opened(&client, ["snapshots", "--json"])).expect(0));
    let of = |row: &Value| {
        (row["own"].as_bool().unwrap(), row["bytes"].as_u64().unwrap(), row["roots"][0]["path"].is_string())
    };
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), [(true, 5, true), (true, 5, true), (false, 1, true)]);

    let mut wrong: Command = client.command(["snapshots"]);
    wrong.env(PASSPHRASE, "two");
    Run::of(wrong).expect(5);
    // A key of a vault that this server has not opens nothing, and shows what is there.
    let stranger = TestClient::new(&workplace, &server.address, "stranger");
    create_vault(&stranger);
    let key = stranger.state().join("vault.key");
    let run =
        Run::of(opened(&client, [OsStr::new("snapshots"), "--vault-key".as_ref(), key.as_os_str()])).expect(0);
    assert!(run.out().lines().count() == 2 && run.out().contains("- files"), "{}", run.out());
}

#[test]
fn find_looks_into_vaults_whose_key_is_here_and_names_the_others() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let file = workplace.write("source/file", "in the vault");
    let sealed = back_up(&client, &file);
    let plain = client.backup(&file);
    let run = Run::of(opened(&client, ["find", "file"])).expect(0);
    let found: Vec<String> = run.out().lines().map(|line| line.split(' ').next().unwrap().to_string()).collect();
    assert_eq!((found, run.err()), (vec![plain.clone(), sealed.clone()], String::new()));
    Run::of(opened(&client, ["find", "nothing"])).expect(1);
    fs::rename(client.state().join("vault.key"), workplace.join("vault.key")).unwrap();
    let run = client.run(["find", "file"]).expect(3);
    assert!(run.out().lines().count() == 1 && run.out().starts_with(&plain), "{}", run.out());
    assert!(run.err().contains(&format!("snapshot {sealed}: not looked into: ")), "{}", run.err());
    assert!(run.err().contains("give --vault-key FILE"), "{}", run.err());
    let run = client.run(["find", "nothing"]).expect(3);
    assert!(run.out().is_empty());
}

#[test]
fn a_vaults_snapshots_are_compared_with_each_other_and_with_plain_ones() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    crate::support::tree::odd(&source);
    let (plain, sealed) = (client.backup(&source), back_up(&client, &source));
    let run = Run::of(opened(&client, ["diff", &plain, &sealed])).expect(0);
    assert_eq!(run.out(), "no difference\n");
    fs::write(source.join("case"), "other").unwrap();
    let later = back_up(&client, &source);
    for before in [&plain, &sealed] {
        let run = Run::of(opened(&client, ["diff", before, &later])).expect(1);
        let lines: Vec<String> = run.out().lines().map(str::to_string).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("M ") && lines[0].ends_with("/case"), "{lines:?}");
    }
    let run = client.run(["diff", &plain, &sealed]).expect(2);
    assert!(run.err().contains("passphrase"), "{}", run.err());
}

#[test]
fn the_newest_of_a_root_is_this_hosts_own_whether_or_not_it_is_sealed() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let host = other_host(&workplace, &server, &client);
    let (file, other) = (workplace.write("a/file", "first"), workplace.write("b/file", "other"));
    let a = file.parent().unwrap().to_path_buf();
    let newest = || {
        let words = [OsStr::new("cat"), "--root".as_ref(), a.as_os_str(), stored(&file)];
        Run::of(opened(&client, words)).expect(0).out()
    };
    client.backup(&a);
    assert_eq!(newest(), "first");
    fs::write(&file, "sealed").unwrap();
    back_up(&client, &a);
    assert_eq!(newest(), "sealed");
    // What is verified is the same one, by who has the key.
    let words = [OsStr::new("verify"), "--json".as_ref(), "--root".as_ref(), a.as_os_str()];
    let opened_files = || Run::of(opened(&client, words)).expect(0).event("summary")["opened_files"].clone();
    assert_eq!(opened_files(), 1);
    let run = client.run(words).expect(2);
    assert!(run.out().contains("passphrase"), "{}{}", run.out(), run.err());
    back_up(&client, other.parent().unwrap());
    assert_eq!(opened_files(), 1);
    fs::write(&file, "another host's").unwrap();
    back_up(&host, &a);
    assert_eq!(newest(), "sealed");
    fs::write(&file, "plain again").unwrap();
    client.backup(&a);
    assert_eq!(newest(), "plain again");
    assert_eq!(opened_files(), Value::Null);
    let to = workplace.join("to");
    let words =
        [OsStr::new("restore"), "--to".as_ref(), to.as_ref(), "--root".as_ref(), other.parent().unwrap().as_ref()];
    Run::of(opened(&client, words)).expect(0);
    assert_eq!(fs::read(to.join(stored(&other))).unwrap(), b"other");
}

#[test]
fn a_transfer_info_can_say_that_backups_go_into_the_vault() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    workplace.write("source/file", "1");
    workplace.write("transfer.info", format!("{}\nada\n--vault\nsource\n", server.address));
    let backup = ["backup", "--rsa-bits", "2048", "--json"];
    let run = workplace.run(backup).expect(2);
    assert!(run.out().contains("make one with \\\"cyberbackup vault create\\\""), "{}", run.out());
    let mut create = workplace.command(["vault", "create", "--low-memory"]);
    create.env(PASSPHRASE, "one");
    Run::of(create).expect(0);
    workplace.run(backup).expect(0);
    for place in 0..5 {
        let mut lines = vec![server.address.as_str(), "ada", "source", "other"];
        lines.insert(place, "--vault");
        workplace.write("other/file", place.to_string());
        workplace.write("transfer.info", lines.join("\n"));
        workplace.run(backup).expect(0);
    }
    let rows = rows(&workplace.run(["snapshots", "--json"]).expect(0));
    assert!(rows.len() == 6 && rows.iter().all(|row| row["vault"].is_string()), "{rows:?}");
    // The key of what goes into the vault anyway may be named.
    let named = backup.into_iter().chain(["--vault-key", "client/vault-put.key"]);
    workplace.run(named).expect(0);
    let run = workplace.run(["backup", "--legacy"]).expect(2);
    assert!(
        run.err().contains("transfer.info says --vault, and the legacy dialect has nothing like it"),
        "{}",
        run.err()
    );
    workplace.write("transfer.info", format!("{}\nada\n--valt\nsource\n", server.address));
    let run = workplace.run(backup).expect(2);
    assert!(run.out().contains("line 3: of flags only --vault can stand here"), "{}", run.out());
}

#[test]
fn who_names_a_key_and_no_vault_is_told_and_nothing_is_stored_in_clear() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let source = workplace.write("source/file", "not for the server");
    let put = client.state().join("vault-put.key");
    for (flag, value) in [
        ("vault-key", put.as_os_str()),
        ("passphrase-file", OsStr::new("passphrase")),
        ("passphrase-command", OsStr::new("echo one")),
    ] {
        let words = [OsStr::new("backup"), source.as_os_str()];
        let mut by_flag = client.command(words);
        by_flag.arg(format!("--{flag}")).arg(value);
        let mut by_variable = client.command(words);
        by_variable.env(format!("CYBERBACKUP_{}", flag.to_uppercase().replace('-', "_")), value);
        for command in [by_flag, by_variable] {
            let run = Run::of(command).expect(2);
            let wanted = format!("--{flag} is of a vault, and this backup would be plain: add --vault");
            assert!(run.err().contains(&wanted), "{}", run.err());
        }
    }
    assert_eq!(client.run(["snapshots"]).expect(0).out(), "");
    let words =
        [OsStr::new("backup"), "--vault".as_ref(), "--vault-key".as_ref(), put.as_os_str(), source.as_os_str()];
    client.run(words).expect(0);
    // The passphrase itself may stand in the environment for what reads.
    Run::of(opened(&client, [OsStr::new("backup"), source.as_os_str()])).expect(0);
    assert_eq!(client.run(["snapshots"]).expect(0).out().lines().count(), 2);
}

#[test]
fn a_root_whose_newest_may_be_sealed_wants_the_full_key() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let host = other_host(&workplace, &server, &client);
    let file = workplace.write("a/file", "first");
    let (a, to) = (file.parent().unwrap(), workplace.join("to"));
    let root = [OsStr::new("--root"), a.as_os_str()];
    let missing = host.run([OsStr::new("ls")].into_iter().chain(root)).expect(1);
    assert!(missing.err().contains("run \"cyberbackup backup\" first"), "{}", missing.err());
    let ask = |code| {
        for words in [
            &[OsStr::new("ls")][..],
            &[OsStr::new("cat"), stored(&file)],
            &[OsStr::new("find"), "--snapshot".as_ref(), "latest".as_ref(), "file".as_ref()],
            &[OsStr::new("restore"), "--to".as_ref(), to.as_os_str()],
        ] {
            let run = host.run(words.iter().copied().chain(root)).expect(code);
            if code == 2 {
                let wanted = "the full key of the vault is needed";
                assert!(run.err().contains(wanted) && run.err().contains("give --vault-key FILE"), "{}", run.err());
            }
        }
    };
    back_up(&host, a);
    ask(2);
    host.backup(a);
    ask(0);
    back_up(&host, a);
    ask(2);
}

#[test]
fn verify_leaves_out_what_is_in_a_vault_whose_key_is_not_here() {
    let workplace = Workplace::new();
    let (_server, client) = with_vault(&workplace);
    let file = workplace.write("source/file", "in the first");
    let first = back_up(&client, &file);
    for name in ["vault.key", "vault-put.key"] {
        fs::rename(client.state().join(name), workplace.join(name)).unwrap();
    }
    create_vault(&client);
    back_up(&client, &file);
    let key = workplace.join("vault.key");
    for (words, closed) in [
        (&[OsStr::new("verify"), "--json".as_ref()][..], true),
        (&[OsStr::new("verify"), "--json".as_ref(), "--vault-key".as_ref(), key.as_os_str()], false),
    ] {
        let run = Run::of(opened(&client, words)).expect(3);
        let summary = run.event("summary");
        let figures = ["damaged", "not_looked_into", "opened_files"].map(|name| summary[name].as_u64().unwrap());
        assert_eq!(figures, [0, 1, 1], "{summary}");
        let told = run.event("file_error");
        assert!(told["reason"].as_str().unwrap().starts_with("not looked into: it is in the vault"), "{told}");
        assert_eq!(told["snapshot"] == first.as_str(), closed, "{told}");
    }
    let run = Run::of(opened(&client, ["verify"])).expect(3);
    assert!(run.out().contains("all are whole; 1 snapshot of other vaults not looked into"), "{}", run.out());
}

#[test]
fn a_new_host_with_the_key_finds_and_verifies_what_others_have_stored() {
    let workplace = Workplace::new();
    let (server, client) = with_vault(&workplace);
    let file = workplace.write("source/file", "of the lost host");
    let first = back_up(&client, &file);
    fs::write(&file, "of the lost host, later").unwrap();
    let second = back_up(&client, &file);
    let host = TestClient::new(&workplace, &server.address, "new host");
    fs::create_dir(host.state()).unwrap();
    fs::copy(client.state().join("vault.key"), host.state().join("vault.key")).unwrap();

    let run = host.run(["find", "file"]).expect(1);
    assert!(run.err().contains("with --vault-key FILE others' in the vault are looked into"), "{}", run.err());
    let found = Run::of(opened(&host, ["find", "file"])).expect(0);
    let ids: Vec<String> = found.out().lines().map(|line| line.split(' ').next().unwrap().to_string()).collect();
    assert_eq!((ids, found.err()), (vec![second.clone(), first.clone()], String::new()));

    let verified =
        |words: &[&str], code| Run::of(opened(&host, [&["verify", "--json"], words].concat())).expect(code);
    let figures = |run: &Run| {
        let summary = run.event("summary");
        ["opened_files", "opened_bytes", "damaged"].map(|name| summary[name].as_u64().unwrap())
    };
    assert_eq!(figures(&verified(&[], 0)), [2, 0, 0]);
    assert_eq!(figures(&verified(&["--read-data"], 0)), [2, 39, 0]);
    assert_eq!(figures(&verified(&["--snapshot", &first, "--read-data"], 0)), [1, 16, 0]);
    assert_eq!(figures(&verified(&["--snapshot", "latest", "--read-data"], 0)), [1, 23, 0]);
    let run = verified(&["--snapshot", "19990101"], 1);
    assert!(run.out().contains("begins with \\\"19990101\\\""), "{}", run.out());

    // Its own first, once there are such.
    let own = workplace.write("own/file", "of the new host");
    let (state, put) = (host.state(), host.state().join("vault-put.key"));
    let words =
        [OsStr::new("vault"), "export-put-key".as_ref(), put.as_os_str(), "--state".as_ref(), state.as_os_str()];
    let mut export = workplace.command(words);
    export.env(PASSPHRASE, "one");
    Run::of(export).expect(0);
    back_up(&host, &own);
    assert_eq!(figures(&verified(&["--read-data"], 0)), [1, 15, 0]);
    assert_eq!(Run::of(opened(&host, ["find", "file"])).expect(0).out().lines().count(), 3);

    // What is damaged of others' is found.
    for pack in super::packs(&server) {
        let mut bytes = fs::read(&pack).unwrap();
        let from = bytes.len() / 3;
        bytes[from..].iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(&pack, bytes).unwrap();
    }
    verified(&["--snapshot", &first, "--read-data"], 6);
}
