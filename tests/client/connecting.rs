//! From a name and an address to a session: hosts and ports that do not answer, servers that are full, keys
//! that are not the expected ones, names that are taken.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::support::{Run, TestClient, TestServer, Workplace, closed_address, kill};

fn backup_once(client: &TestClient<'_>, path: &str) -> Run {
    client.run(["backup", "--retries", "0", path])
}

/// The clients that a server knows.
fn known_clients(workplace: &Workplace, server: &TestServer) -> Vec<String> {
    let words = [OsStr::new("clients"), "--json".as_ref(), "--data".as_ref(), server.data.as_os_str()];
    let rows = workplace.run(words).expect(0).events();
    rows.iter().map(|row| row.data["name"].as_str().expect("a client has a name").to_string()).collect()
}

#[test]
fn an_unknown_host_is_named() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, "nowhere.invalid:1256", "ada");
    let run = backup_once(&client, "/etc/hostname").expect(4);
    let text = run.err();
    assert!(text.contains("nowhere.invalid:1256 is no known host ("), "{text}");
    assert!(text.contains("check the name in --server or transfer.info"), "{text}");
}

#[test]
fn a_closed_port_says_how_to_get_a_server() {
    let workplace = Workplace::new();
    let address = closed_address();
    let run = backup_once(&TestClient::new(&workplace, &address, "ada"), "/etc/hostname").expect(4);
    let wanted =
        format!("no server answers at {address}: start one with \"cyberbackup server\", or add --local-server");
    assert!(run.err().contains(&wanted), "{}", run.err());
}

#[test]
fn a_closed_port_is_given_up_within_30_seconds() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, &closed_address(), "ada");
    let began = Instant::now();
    let run = client.run(["snapshots"]).expect(4);
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    assert_eq!(run.err().matches("trying again in").count(), 5, "{}", run.err());
}

#[test]
fn a_peer_that_is_no_backup_server_is_no_connection() {
    let workplace = Workplace::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let run = backup_once(&TestClient::new(&workplace, &address, "ada"), "/etc/hostname").expect(4);
    assert!(run.err().contains(&format!("cyberbackup: {address}: ")), "{}", run.err());
    peer.join().unwrap();
}

#[test]
fn a_busy_server_is_waited_for() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--max-clients", "1"]);
    let first = TestClient::new(&workplace, &server.address, "ada").start_stalled_backup(&server);
    let second = TestClient::new(&workplace, &server.address, "bob");
    // Being busy is no failed try: it is waited out however few tries there are.
    let run = second.start(["backup", "--retries", "0", "/etc/hostname"]);
    run.wait_for("busy");
    kill(first.id(), "KILL");
    drop(first);
    let run = run.finish().expect(0);
    assert!(run.out().starts_with("snapshot "), "{}", run.out());
}

#[test]
fn a_changed_server_key_is_refused_and_nothing_is_sent() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (address, old_key) = (server.address.clone(), server.fingerprint.clone());
    let client = TestClient::new(&workplace, &address, "ada");
    backup_once(&client, "/etc/hostname").expect(0);
    assert_eq!(server.stop(), 0);
    let port = address.rsplit(':').next().unwrap();
    let other = TestServer::start_with(&workplace, "other", &["--rsa-bits", "2048", "--port", port]);
    assert_eq!(other.address, address);
    let identity = std::fs::read(client.state().join("identity.json")).unwrap();
    let run = backup_once(&client, "/etc/hostname").expect(5);
    let wanted =
        format!("the server at {address} has another key than before ({}, not {old_key})", other.fingerprint);
    assert!(run.err().contains(&wanted), "{}", run.err());
    assert_eq!(known_clients(&workplace, &other), Vec::<String>::new());
    assert_eq!(std::fs::read(client.state().join("identity.json")).unwrap(), identity);
}

#[test]
fn another_server_elsewhere_does_not_fit_the_state_folder() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    backup_once(&client, "/etc/hostname").expect(0);
    let other = TestServer::start_with(&workplace, "other", &["--rsa-bits", "2048"]);
    client.flags[1] = (&other.address).into();
    let run = backup_once(&client, "/etc/hostname").expect(2);
    assert!(run.err().contains("this state folder belongs to another server"), "{}", run.err());
    assert!(run.err().contains("use another folder with --state"), "{}", run.err());
    assert_eq!(known_clients(&workplace, &other), Vec::<String>::new());
    // A server inside the process has a key of its own too.
    let state = client.state();
    let words = ["snapshots", "--local-server", "--user", "ada", "--rsa-bits", "2048", "--state"];
    let run = workplace.run(words.iter().map(OsStr::new).chain([state.as_os_str()])).expect(2);
    assert!(run.err().contains("this state folder belongs to another server"), "{}", run.err());
}

#[test]
fn the_same_server_at_another_address_is_still_the_same() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    let snapshot = client.backup("/etc/hostname".as_ref());
    assert_eq!(server.stop(), 0);
    let moved = TestServer::start(&workplace);
    client.flags[1] = (&moved.address).into();
    assert!(client.run(["snapshots"]).expect(0).out().starts_with(&snapshot));
    let identity = std::fs::read_to_string(client.state().join("identity.json")).unwrap();
    assert!(identity.contains(&moved.address), "{identity}");
}

#[test]
fn a_demanded_key_is_compared_before_anything_is_sent() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let wrong = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let run = client.run(["backup", "--retries", "0", "--server-fingerprint", wrong, "/etc/hostname"]).expect(5);
    let wanted = format!("the server at {} has the key {}, not {wrong}", server.address, server.fingerprint);
    assert!(run.err().contains(&wanted) && run.err().contains("nothing was sent to it"), "{}", run.err());
    assert_eq!(known_clients(&workplace, &server), Vec::<String>::new());
    let run = client.run(["backup", "--server-fingerprint", &server.fingerprint, "/etc/hostname"]).expect(0);
    assert!(run.out().starts_with("snapshot "), "{}", run.out());
}

#[test]
fn a_taken_name_is_refused() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    backup_once(&TestClient::new(&workplace, &server.address, "ada"), "/etc/hostname").expect(0);
    let mut thief = TestClient::new(&workplace, &server.address, "thief");
    thief.flags[3] = "ada".into();
    let run = backup_once(&thief, "/etc/hostname").expect(5);
    let wanted = format!(
        "the name belongs to another key at {}: use the state folder or a copy of the key that it was registered with",
        server.address
    );
    assert!(run.err().contains(&wanted), "{}", run.err());
    assert_eq!(known_clients(&workplace, &server), ["ada"]);
}

#[test]
fn a_token_lets_its_name_register_and_works_once() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--registration", "token"]);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let run = backup_once(&client, "/etc/hostname").expect(5);
    assert!(run.err().contains("registers this host only with a token"), "{}", run.err());
    let data = server.data.as_os_str();
    let run = workplace.run([OsStr::new("enroll"), "ada".as_ref(), "--data".as_ref(), data]).expect(0);
    let token = run.out().trim().to_string();
    client.run(["backup", "--enroll-token", &token, "/etc/hostname"]).expect(0);
    let mut other = TestClient::new(&workplace, &server.address, "other");
    other.flags[3] = "bob".into();
    let run = other.run(["backup", "--retries", "0", "--enroll-token", &token, "/etc/hostname"]).expect(5);
    assert!(run.err().contains("does not take this token"), "{}", run.err());
    assert!(!run.err().contains(&token), "the token was printed");
}
