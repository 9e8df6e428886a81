//! The operator and his clients: the list, quotas, new keys, new names, and removal.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use super::operator::{operator, token};
use crate::support::{Run, TestClient, TestServer, Workplace, kill, large_file, tree};

fn row(workplace: &Workplace, data: &Path, name: &str) -> Value {
    let run = operator(workplace, &["clients", "--json"], data).expect(0);
    let rows = run.events().into_iter().map(|event| event.data);
    rows.into_iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {}", run.out()))
}

fn backup(client: &TestClient<'_>, source: &Path) -> Run {
    client.run([OsStr::new("backup"), "--json".as_ref(), source.as_os_str()])
}

#[test]
fn a_quota_refuses_while_the_upload_runs_and_a_raised_one_lets_it_go_on() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let small = workplace.join("small");
    tree::many_files(&small, 3);
    client.backup(&small);
    operator(&workplace, &["clients", "quota", "ada", "6MiB"], &server.data).expect(0);
    assert_eq!(row(&workplace, &server.data, "ada")["quota_bytes"], 6 << 20);
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    (0..40).for_each(|n| large_file(&source.join(format!("file {n:02}")), 1 << 19));
    let run = backup(&client, &source).expect(5);
    let message = run.event("error")["message"].as_str().unwrap().to_string();
    assert!(message.contains("the quota of 6.0 MiB is used up: ask the server's operator"), "{message}");
    // What would pass the quota was not taken in first, and what fits is kept.
    let arrived = tree::look(&server.data.join("incoming")).values().map(|look| look.size).sum::<u64>();
    assert!((4 << 20..7 << 20).contains(&arrived), "{arrived}");
    let listed = row(&workplace, &server.data, "ada");
    assert_eq!(listed["snapshots"], 1, "{listed}");
    operator(&workplace, &["clients", "quota", "ada", "none"], &server.data).expect(0);
    let summary = backup(&client, &source).expect(0).event("summary");
    // Files that were made just now are looked at again, but what is held of them is not sent again.
    let sent = summary["files_sent"].as_u64().unwrap();
    assert!((28..=31).contains(&sent) && sent + summary["files_same"].as_u64().unwrap() == 40, "{summary}");
    let restored = client.restore(&source, "restored");
    assert_eq!(tree::look(&restored), tree::look(&source));
}

#[test]
fn the_list_tells_each_client_and_the_stale_ones_fail_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup(&source);
    let snapshot = client.backup(&source);
    let listed = row(&workplace, &server.data, "ada");
    assert_eq!((&listed["snapshots"], &listed["last_snapshot"]), (&Value::from(2), &Value::from(snapshot)));
    assert_eq!(listed["latest_files"], 3, "{listed}");
    let bytes: u64 = tree::look(&source).values().map(|look| look.size).sum();
    assert_eq!(listed["latest_bytes"], bytes, "{listed}");
    assert!(listed["stored_bytes"].as_u64().unwrap() > bytes);
    assert_eq!(listed["growth_bytes"], listed["stored_bytes"]);
    assert!(listed["fingerprint"].as_str().unwrap().starts_with("SHA256:"));
    let text = operator(&workplace, &["clients"], &server.data).expect(0).out();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("name") && lines.next().unwrap().starts_with("ada"), "{text}");
    let run = operator(&workplace, &["clients", "--stale", "3d"], &server.data).expect(0);
    assert_eq!(run.out(), "");
    let run = operator(&workplace, &["clients", "--stale", "0s", "--json"], &server.data);
    // Its last success lies in this very second or in an earlier one.
    assert_eq!(run.code, i32::from(!run.out().is_empty()));
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let run = operator(&workplace, &["clients", "--stale", "0s"], &server.data).expect(1);
    assert!(run.out().contains("ada"), "{}", run.out());
    let run = operator(&workplace, &["clients", "--stale", "soon"], &server.data).expect(2);
    assert!(run.err().contains("as in 90s"), "{}", run.err());
}

#[test]
fn a_reset_client_registers_again_with_a_token_and_has_its_history() {
    let workplace = Workplace::new();
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    for policy in ["open", "token"] {
        let flags = ["--rsa-bits", "2048", "--registration", policy];
        let server = TestServer::start_with(&workplace, policy, &flags);
        let name = format!("ada-{policy}");
        let first = token(&workplace, &name, &server.data);
        let client = TestClient::new(&workplace, &server.address, &name);
        let mut command = client.command(["backup", source.to_str().unwrap()]);
        command.env("CYBERBACKUP_ENROLL_TOKEN", &first);
        Run::of(command).expect(0);
        // The disk is gone, and with it the key.
        std::fs::rename(client.state(), workplace.join(format!("lost-{policy}"))).unwrap();
        backup(&client, &source).expect(5);
        operator(&workplace, &["clients", "reset", &name], &server.data).expect(0);
        assert_eq!(row(&workplace, &server.data, &name)["fingerprint"], Value::Null);
        let run = backup(&client, &source).expect(5);
        assert!(run.out().contains("only with a token"), "whoever comes has no right to it: {}", run.out());
        let second = token(&workplace, &name, &server.data);
        let restore = |text: &str| {
            let to = workplace.join(format!("restored-{policy}"));
            let mut command = client.command(["restore", "--to", to.to_str().unwrap()]);
            command.env("CYBERBACKUP_ENROLL_TOKEN", text);
            Run::of(command)
        };
        restore(&second).expect(0);
        let restored = workplace.join(format!("restored-{policy}")).join(source.strip_prefix("/").unwrap());
        assert_eq!(tree::look(&restored), tree::look(&source));
        client.backup(&source);
        assert_eq!(row(&workplace, &server.data, &name)["snapshots"], 2);
        // The old key opens nothing any more.
        std::fs::remove_dir_all(client.state()).unwrap();
        std::fs::rename(workplace.join(format!("lost-{policy}")), client.state()).unwrap();
        backup(&client, &source).expect(5);
    }
}

#[test]
fn a_renamed_client_is_let_in_under_both_names() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    let ada = TestClient::new(&workplace, &server.address, "ada");
    ada.backup(&source);
    TestClient::new(&workplace, &server.address, "bob").backup(&source);
    let run = operator(&workplace, &["clients", "rename", "ada", "bob"], &server.data).expect(1);
    assert!(run.err().contains("the name bob belongs to another key"), "{}", run.err());
    operator(&workplace, &["clients", "rename", "ada", "lovelace"], &server.data).expect(0);
    ada.backup(&source);
    let data = server.data.clone();
    assert_eq!(server.stop(), 0);
    assert_eq!(row(&workplace, &data, "lovelace")["snapshots"], 2);
    let run = operator(&workplace, &["clients", "rename", "ada", "x"], &data).expect(1);
    assert!(run.err().contains("no client is named ada: \"cyberbackup clients\" lists them"), "{}", run.err());
}

#[test]
fn a_client_is_removed_with_all_it_stored_but_not_while_it_is_served() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    let ada = TestClient::new(&workplace, &server.address, "ada");
    ada.backup(&source);
    TestClient::new(&workplace, &server.address, "bob").backup(&source);
    let run = operator(&workplace, &["clients", "remove", "ada"], &server.data).expect(2);
    assert!(run.err().contains("--yes"), "{}", run.err());
    let stalled = ada.start_stalled_backup(&server);
    let run = operator(&workplace, &["clients", "remove", "ada", "--yes"], &server.data).expect(1);
    assert!(run.err().contains("ada has a session: wait for its end, or reset"), "{}", run.err());
    kill(stalled.id(), "KILL");
    drop(stalled);
    crate::support::wait_until(
        || operator(&workplace, &["clients", "remove", "ada", "--yes"], &server.data).code == 0,
        "the removal, once the session is over",
    );
    for folder in ["received_files", "ranges", "snapshots", "incoming", "deltas"] {
        let names: Vec<_> =
            std::fs::read_dir(server.data.join(folder)).unwrap().map(|item| item.unwrap()).collect();
        assert!(names.iter().all(|item| item.file_name().to_string_lossy().starts_with("bob")), "{names:?}");
    }
    backup(&ada, &source).expect(5);
    std::fs::remove_dir_all(ada.state()).unwrap();
    ada.backup(&source);
    assert_eq!(row(&workplace, &server.data, "ada")["snapshots"], 1);
}

#[test]
fn a_reset_ends_the_sessions_of_the_old_key() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let stalled = client.start_stalled_backup(&server);
    operator(&workplace, &["clients", "reset", "ada"], &server.data).expect(0);
    kill(stalled.id(), "CONT");
    let run = stalled.finish();
    assert_eq!(run.code, 5, "{}", run.err());
}
