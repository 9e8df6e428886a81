//! Being told: programs that a backup and a server call.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{TestClient, TestServer, Workplace, wait_until};

/// A script that appends what it is told to a file, and the command that calls it.
pub fn script(workplace: &Workplace, name: &str, end: &str) -> (String, PathBuf) {
    let out = workplace.join(format!("{name} told"));
    let text = format!(
        "#!/bin/sh\ncat >> '{0}'\nenv | grep ^CYBERBACKUP_ | sort > '{0}.env'\necho \"$1\"\n{end}\n",
        out.display()
    );
    let path = workplace.write(format!("{name} script"), text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (format!("'{}' \"an argument; $HOME\"", path.display()), out)
}

pub fn told(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_backup_tells_how_it_ended_and_its_hook_changes_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("source/file", "content");
    let (success, of_success) = script(&workplace, "success", "exit 7");
    let (failure, of_failure) = script(&workplace, "failure", "");
    let backup = |path: &str, extra: &[&str]| {
        let mut words = vec!["backup", path, "--on-success", &success, "--on-failure", &failure, "--json"];
        words.extend(extra);
        client.run(words)
    };
    let source = file.parent().unwrap().to_str().unwrap();
    let run = backup(source, &[]).expect(0);
    assert!(run.err().contains("an argument; $HOME"), "no shell reads it: {}", run.err());
    let notices: Vec<_> = run.events().into_iter().filter(|event| event.name == "log").collect();
    assert!(
        notices.iter().any(|log| log.data["message"].as_str().unwrap().contains("exit status: 7")),
        "{notices:?}"
    );
    let status = &told(&of_success)[0];
    assert_eq!((&status["result"], &status["summary"]), (&Value::from("done"), &run.event("summary")));
    let variables = std::fs::read_to_string(workplace.join("success told.env")).unwrap();
    let snapshot = run.event("summary")["snapshot"].as_str().unwrap().to_string();
    for line in ["RESULT=done", "EXIT_CODE=0", "FILES=1", "BYTES=7", &format!("SNAPSHOT={snapshot}")] {
        assert!(variables.contains(&format!("CYBERBACKUP_HOOK_{line}\n")), "{line} in {variables}");
    }
    // Not all of it is stored: a missing root beside one that is there.
    let run = client.run([
        "backup",
        source,
        "/nowhere/at/all",
        "--on-success",
        &success,
        "--on-failure",
        &failure,
        "--quiet",
    ]);
    run.expect(3);
    backup("/nowhere/at/all", &[]).expect(2);
    backup(source, &["--server", "127.0.0.1:1", "--retries", "0"]).expect(4);
    backup(source, &["--dry-run"]).expect(0);
    let results: Vec<_> = told(&of_failure).iter().map(|status| status["exit_code"].clone()).collect();
    assert_eq!((told(&of_success).len(), results), (1, vec![Value::from(3), 2.into(), 4.into()]));
    assert!(told(&of_failure)[2]["error"].as_str().unwrap().contains("no server answers"));
    let run = client.run(["backup", source, "--on-success", "/nowhere/at/all"]).expect(0);
    assert!(run.err().contains("--on-success: cannot start /nowhere/at/all"), "{}", run.err());
    client.run(["backup", source, "--on-success", "a 'b"]).expect(2);
}

#[test]
fn a_hook_gets_no_token_and_calls_no_hook() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.write("source/file", "content");
    let (success, _) = script(&workplace, "success", "");
    let token = crate::server::operator::token(&workplace, "ada", &server.data);
    let mut command = client.command(["backup", source.to_str().unwrap()]);
    command.env("CYBERBACKUP_ON_SUCCESS", &success).env("CYBERBACKUP_ENROLL_TOKEN", &token);
    crate::support::Run::of(command).expect(0);
    let variables = std::fs::read_to_string(workplace.join("success told.env")).unwrap();
    assert!(variables.lines().all(|line| line.starts_with("CYBERBACKUP_HOOK_")), "{variables}");
}

#[test]
fn a_server_tells_of_quotas_silence_and_low_space() {
    let workplace = Workplace::new();
    let source = workplace.write("source/file", vec![b'x'; 100_000]);
    let (hook, out) = script(&workplace, "event", "");
    let server = TestServer::start(&workplace);
    TestClient::new(&workplace, &server.address, "silent").backup(&source);
    assert_eq!(server.stop(), 0);
    // The next second, so that the silence is one.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let flags = ["--on-event", &hook, "--low-space", "100%", "--stale-after", "0s"];
    let server = TestServer::start_with(&workplace, "data", &flags);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.run(["snapshots"]).expect(0);
    workplace.run(["clients", "quota", "ada", "10K", "--data", "data"]).expect(0);
    for _ in 0..3 {
        client.run(["backup", source.to_str().unwrap()]).expect(5);
    }
    let find = |kind: &str| told(&out).into_iter().find(|event| event["event"] == kind);
    let all = ["quota", "stale", "low_space"];
    wait_until(|| all.iter().all(|kind| find(kind).is_some()), "an event of each kind");
    assert_eq!(find("quota").unwrap()["client"], "ada");
    assert_eq!(find("stale").unwrap()["clients"], Value::from(vec!["silent"]));
    assert!(find("low_space").unwrap()["text"].as_str().unwrap().contains("are left on the disk of"));
    assert!(told(&out).len() <= 4, "the same is not told again and again");
    assert_eq!(server.stop(), 0);
}

/// The legacy dialect has no words for it: the operator is told all the same.
#[test]
fn a_server_tells_of_what_ends_a_legacy_session() {
    use crate::legacy::peer::{Encrypted, Key, Peer, field, write_noise};
    let workplace = Workplace::new();
    let (hook, out) = script(&workplace, "event", "");
    let server = TestServer::start_with(&workplace, "data", &["--on-event", &hook]);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    workplace.run(["clients", "quota", "ada", "10K", "--data", "data"]).expect(0);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 200_000), &file_key);
    peer.send_file("noise", &file, 1_000_000);
    peer.say(1029, &field(b"noise"));
    peer.expect_error_and_close();
    wait_until(|| !told(&out).is_empty(), "the event");
    let event = &told(&out)[0];
    assert_eq!((&event["event"], &event["client"]), (&Value::from("quota"), &Value::from("ada")), "{event}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_server_whose_hook_hangs_serves_and_ends() {
    let workplace = Workplace::new();
    let source = workplace.write("source/file", "content");
    let (hook, out) = script(&workplace, "event", "sleep 300");
    let flags = ["--rsa-bits", "2048", "--on-event", &hook, "--low-space", "100%"];
    let server = TestServer::start_with(&workplace, "data", &flags);
    wait_until(|| !told(&out).is_empty(), "the first event");
    TestClient::new(&workplace, &server.address, "ada").backup(&source);
    let began = std::time::Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}
