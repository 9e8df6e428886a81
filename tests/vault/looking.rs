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
    back_up(&client, other.parent().unwrap());
    fs::write(&file, "another host's").unwrap();
    back_up(&host, &a);
    assert_eq!(newest(), "sealed");
    fs::write(&file, "plain again").unwrap();
    client.backup(&a);
    assert_eq!(newest(), "plain again");
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
    let rows = rows(&workplace.run(["snapshots", "--json"]).expect(0));
    assert!(rows.len() == 1 && rows[0]["vault"].is_string(), "{rows:?}");
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
