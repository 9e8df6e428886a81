//! The operator's side: the lock on the data folder, enrolment, what is printed, counted and logged.

use std::ffi::OsStr;
use std::path::Path;

use super::crowds::stats;
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

pub fn operator(workplace: &Workplace, words: &[&str], data: &Path) -> Run {
    let mut all: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    all.extend(["--data".as_ref(), data.as_os_str()]);
    workplace.run(all)
}

pub fn token(workplace: &Workplace, name: &str, data: &Path) -> String {
    operator(workplace, &["enroll", name], data).expect(0).out().trim().to_string()
}

fn backup(client: &TestClient<'_>, source: &Path, extra: &[&str]) -> Run {
    let mut words: Vec<&OsStr> = vec!["backup".as_ref(), source.as_os_str()];
    words.extend(extra.iter().map(OsStr::new));
    client.run(words)
}

fn source(workplace: &Workplace) -> std::path::PathBuf {
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    source
}

#[test]
fn a_second_server_on_the_same_data_is_told_who_holds_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let words = ["server", "--bind", "127.0.0.1", "--port", "0", "--data", server.data.to_str().unwrap()];
    let run = workplace.run(words).expect(1);
    assert!(run.err().contains(&format!("process {}", server.id())), "{}", run.err());
    assert!(run.out().is_empty(), "it does not listen: {}", run.out());
}

#[test]
fn operator_commands_work_beside_a_server_and_without_one() {
    // A folder whose path is longer than a socket's address may be.
    let deep = "a folder with quite a long name/".repeat(6);
    for folder in ["data", &format!("{deep}data")] {
        let workplace = Workplace::new();
        let source = source(&workplace);
        std::fs::create_dir_all(workplace.join(folder).parent().unwrap()).unwrap();
        let server = TestServer::start_with(&workplace, folder, &["--rsa-bits", "2048", "--registration", "token"]);
        let first = token(&workplace, "ada", &server.data);
        let client = TestClient::new(&workplace, &server.address, "ada");
        backup(&client, &source, &["--enroll-token", &first]).expect(0);
        let beside = operator(&workplace, &["clients"], &server.data).expect(0).out();
        assert!(beside.contains("ada"), "{beside}");
        let data = server.data.clone();
        assert_eq!(server.stop(), 0);
        let alone = operator(&workplace, &["clients"], &data).expect(0).out();
        assert_eq!(alone, beside);
        let second = token(&workplace, "bob", &data);
        let server = TestServer::start_with(&workplace, folder, &["--registration", "token"]);
        let client = TestClient::new(&workplace, &server.address, "bob");
        backup(&client, &source, &["--enroll-token", &second]).expect(0);
    }
}

#[test]
fn operator_commands_on_no_servers_data_say_so() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.join("empty")).unwrap();
    for words in [&["clients"][..], &["enroll", "ada"]] {
        let run = operator(&workplace, words, &workplace.join("empty"));
        assert_ne!(run.code, 0);
        assert!(run.err().contains("holds no server's data"), "{}", run.err());
    }
    assert_eq!(std::fs::read_dir(workplace.join("empty")).unwrap().count(), 0, "a question makes no folders");
}

#[test]
fn a_token_works_once_and_for_its_name_alone() {
    let workplace = Workplace::new();
    let source = source(&workplace);
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--registration", "token"]);
    let text = token(&workplace, "ada", &server.data);
    let bob = TestClient::new(&workplace, &server.address, "bob");
    let run = backup(&bob, &source, &[]).expect(5);
    assert!(run.err().contains("--enroll-token"), "{}", run.err());
    let run = backup(&bob, &source, &["--enroll-token", &text]).expect(5);
    assert!(run.err().contains("does not take this token"), "{}", run.err());
    let ada = TestClient::new(&workplace, &server.address, "ada");
    backup(&ada, &source, &["--enroll-token", &text]).expect(0);
    backup(&ada, &source, &["--enroll-token", &text]).expect(0);
    backup(&ada, &source, &[]).expect(0);
    // The same name and token with another key.
    std::fs::rename(ada.state(), workplace.join("put aside")).unwrap();
    backup(&ada, &source, &["--enroll-token", &text]).expect(5);
    let clients = operator(&workplace, &["clients", "--json"], &server.data).expect(0);
    assert_eq!(clients.events().len(), 1, "{}", clients.out());
    // No run and no log shows the token.
    assert!(!server.log().contains(&text), "{}", server.log());
    let run = operator(&workplace, &["enroll", "ada"], &server.data);
    assert_ne!(run.code, 0, "a name that is taken gets no token");
}

#[test]
fn the_policies_let_in_whom_they_say() {
    let workplace = Workplace::new();
    let source = source(&workplace);
    for (policy, without, with) in [("open", 0, 0), ("local", 0, 0), ("token", 5, 0), ("closed", 5, 5)] {
        let flags = ["--rsa-bits", "2048", "--registration", policy];
        let server = TestServer::start_with(&workplace, policy, &flags);
        let client = TestClient::new(&workplace, &server.address, &format!("ada {policy}"));
        backup(&client, &source, &[]).expect(without);
        let name = format!("bob {policy}");
        let text = token(&workplace, &name, &server.data);
        let client = TestClient::new(&workplace, &server.address, &name);
        let run = backup(&client, &source, &["--enroll-token", &text]).expect(with);
        if with != 0 {
            assert!(run.err().contains("ask its operator"), "{}", run.err());
        }
    }
}

#[test]
fn a_token_of_another_server_is_not_shown_to_this_one() {
    let workplace = Workplace::new();
    let source = source(&workplace);
    let theirs = TestServer::start_with(&workplace, "theirs", &["--rsa-bits", "2048"]);
    let server = TestServer::start(&workplace);
    let text = token(&workplace, "ada", &theirs.data);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let run = backup(&client, &source, &["--enroll-token", &text]).expect(5);
    assert!(run.err().contains("nothing was sent"), "{}", run.err());
    assert!(run.err().contains(&server.fingerprint), "{}", run.err());
    let clients = operator(&workplace, &["clients", "--json"], &server.data).expect(0);
    assert_eq!(clients.out(), "");
    assert!(!server.log().contains("ada"), "{}", server.log());
}

#[test]
fn a_server_says_where_it_listens_and_keeps_its_key() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let port: u16 = server.address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    assert_ne!(port, 0);
    assert!(server.fingerprint.starts_with("SHA256:"), "{}", server.fingerprint);
    let fingerprint = server.fingerprint.clone();
    assert_eq!(server.stop(), 0);
    assert_eq!(TestServer::start(&workplace).fingerprint, fingerprint);
}

#[test]
fn statistics_count_what_happened() {
    let workplace = Workplace::new();
    let source = source(&workplace);
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--max-clients", "7"]);
    TestClient::new(&workplace, &server.address, "ada").backup(&source);
    let report = stats(&workplace, &server);
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert_eq!(number("max_connections"), 7);
    assert_eq!(number("active_connections") + number("available_slots"), 7);
    assert_eq!((number("snapshots"), number("files_received")), (1, 3));
    assert_eq!(number("failures"), 0);
    assert_eq!(number("segments_damaged") + number("segments_repeated"), 0);
    let stored: u64 = tree::look(&source).values().map(|look| look.size).sum();
    assert!(number("bytes_received") > stored, "{report}");
    assert!(number("bytes_sent") > 0 && number("uptime_seconds") < 60);
}

#[test]
fn the_log_has_times_and_goes_to_a_file_too() {
    let workplace = Workplace::new();
    let source = source(&workplace);
    let file = workplace.join("server.log");
    let flags = ["--rsa-bits", "2048", "--log-file", file.to_str().unwrap()];
    let server = TestServer::start_with(&workplace, "data", &flags);
    let snapshot = TestClient::new(&workplace, &server.address, "ada").backup(&source);
    server.wait_for_log(&format!("stored snapshot {snapshot}"));
    let log = server.log();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), log);
    for line in log.lines() {
        // 2026-01-31T23:59:59Z
        let shape: String = line.chars().take(20).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert!(shape.starts_with("0000-00-00T00:00:00"), "no time: {line}");
    }
}
