//! The state folder: whose it is, what damage in it does, who holds it, and how the last run went.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{TestClient, TestServer, Workplace, closed_address, kill};

#[test]
fn keys_are_made_on_the_first_run_before_connecting() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, &closed_address(), "ada");
    client.run(["backup", "--retries", "0", "/etc/hostname"]).expect(4);
    let private = client.state().join("valid_private_key.der");
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(client.state().join("valid_public_key.der").exists());
    assert_eq!(fs::metadata(client.state()).unwrap().permissions().mode() & 0o7777, 0o700);
    let before = fs::read(&private).unwrap();
    client.run(["backup", "--retries", "0", "/etc/hostname"]).expect(4);
    assert_eq!(fs::read(&private).unwrap(), before, "the key was made anew");
}

#[test]
fn a_damaged_key_file_is_named_and_kept() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup("/etc/hostname".as_ref());
    let file = client.state().join("valid_private_key.der");
    let good = fs::read(&file).unwrap();
    let mut bent = good.clone();
    bent[good.len() / 2] ^= 1;
    for damaged in [&b""[..], b"junk", &good[..good.len() - 1], &bent] {
        fs::write(&file, damaged).unwrap();
        let run = client.run(["backup", "/etc/hostname"]).expect(2);
        let wanted = format!("{} cannot be used: ", file.display());
        assert!(run.err().contains(&wanted) && run.err().contains("put a saved copy back"), "{}", run.err());
        assert_eq!(fs::read(&file).unwrap(), damaged, "the damaged file was replaced");
    }
    fs::write(&file, good).unwrap();
    client.backup("/etc/hostname".as_ref());
}

#[test]
fn a_damaged_public_key_is_derived_again() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup("/etc/hostname".as_ref());
    let file = client.state().join("valid_public_key.der");
    let good = fs::read(&file).unwrap();
    fs::write(&file, "junk").unwrap();
    client.backup("/etc/hostname".as_ref());
    assert_eq!(fs::read(&file).unwrap(), good);
}

#[test]
fn another_users_state_folder_is_refused_before_anything_is_sent() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    client.backup("/etc/hostname".as_ref());
    client.flags[3] = "bob".into();
    let run = client.run(["backup", "/etc/hostname"]).expect(2);
    let wanted =
        "this state folder belongs to the user ada, not bob: use --user \"ada\", or another folder with --state";
    assert!(run.err().contains(wanted), "{}", run.err());
}

#[test]
fn a_broken_identity_is_named_and_kept() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup("/etc/hostname".as_ref());
    let file = client.state().join("identity.json");
    let good = fs::read_to_string(&file).unwrap();
    let newer = good.replace("\"version\": 1", "\"version\": 99");
    assert_ne!(newer, good);
    for broken in ["", "{", "[]", "null", newer.as_str(), &good[..good.len() / 2]] {
        fs::write(&file, broken).unwrap();
        for command in ["backup", "snapshots"] {
            let paths: &[&str] = if command == "backup" { &["/etc/hostname"] } else { &[] };
            let run = client.run([&[command], paths].concat()).expect(2);
            let wanted = format!("{} is damaged (", file.display());
            assert!(run.err().contains(&wanted) && run.err().contains("put a saved copy back"), "{}", run.err());
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
    fs::write(&file, good).unwrap();
    client.backup("/etc/hostname".as_ref());
}

#[test]
fn a_second_backup_finds_the_folder_locked_while_a_reading_command_works() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let snapshot = client.backup("/etc/hostname".as_ref());
    let first = client.start_stalled_backup(&server);
    let run = client.run(["backup", "/etc/hostname"]).expect(1);
    let wanted = format!(
        "the state folder {} is in use by \"cyberbackup backup\" (process {}, since ",
        client.state().display(),
        first.id()
    );
    assert!(run.err().contains(&wanted) && run.err().contains("wait for that run"), "{}", run.err());
    assert!(client.run(["snapshots"]).expect(0).out().starts_with(&snapshot));
    client.run(["ls"]).expect(0);
    kill(first.id(), "CONT");
    assert!(first.finish().expect(0).out().starts_with("snapshot "));
    client.backup("/etc/hostname".as_ref());
}

fn status(client: &TestClient<'_>) -> Value {
    serde_json::from_slice(&fs::read(client.state().join("status.json")).unwrap()).unwrap()
}

#[test]
fn the_status_file_tells_how_the_last_backup_went() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("source/file", "content");
    let snapshot = client.backup(&file);
    let done = status(&client);
    assert_eq!((&done["version"], &done["command"]), (&1.into(), &"backup".into()));
    assert_eq!((&done["result"], &done["exit_code"]), (&"done".into(), &0.into()));
    assert_eq!(done["summary"]["snapshot"], snapshot.as_str());
    assert_eq!((&done["summary"]["files"], &done["summary"]["bytes"]), (&1.into(), &7.into()));
    assert!(done["ended"].as_str().unwrap().ends_with('Z') && done.get("error").is_none());

    let words = [OsStr::new("backup"), file.as_os_str(), "missing".as_ref()];
    client.run(words).expect(3);
    let partial = status(&client);
    assert_eq!((&partial["result"], &partial["exit_code"]), (&"partial".into(), &3.into()));
    assert_eq!(partial["summary"]["unreadable"], 1);

    // What only looks leaves it alone, and so does a run that stores nothing.
    client.run(["snapshots"]).expect(0);
    client.run([OsStr::new("backup"), "--dry-run".as_ref(), file.as_os_str()]).expect(0);
    assert_eq!(status(&client), partial);

    let address = server.address.clone();
    assert_eq!(server.stop(), 0);
    client.run([OsStr::new("backup"), "--retries".as_ref(), "0".as_ref(), file.as_os_str()]).expect(4);
    let failed = status(&client);
    assert_eq!((&failed["result"], &failed["exit_code"]), (&"failed".into(), &4.into()));
    assert!(failed["error"].as_str().unwrap().contains(&address) && failed.get("summary").is_none());
}
