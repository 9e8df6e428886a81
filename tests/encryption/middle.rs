//! Somebody in the middle with a key of their own: a client that knows whom to expect tells them nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cyberbackup::crypto::{Ephemeral, PrivateKey, random_bytes};
use cyberbackup::protocol::handshake::{RegistrationPolicy, ServerHello, feature};
use cyberbackup::protocol::header::{ResponseHeader, code};

use super::line::{Line, Way, read_frame};
use crate::support::{Run, TestClient, TestServer, Workplace, tree};

/// Message 2 of a server with this key.
pub fn server_hello(key: &PrivateKey) -> Vec<u8> {
    let hello = ServerHello {
        features: vec![feature::BASE],
        public_key: key.public().spki_der().to_vec(),
        random: random_bytes(),
        ephemeral: Ephemeral::random().public(),
        window: 512 * 1024,
        segments_per_epoch: 1 << 22,
        timeout_seconds: 60,
        policy: RegistrationPolicy::Open,
    };
    let payload = hello.encode();
    let mut bytes = Vec::new();
    ResponseHeader::native(code::SERVER_HELLO, payload.len()).encode(&mut bytes);
    bytes.extend_from_slice(&payload);
    bytes
}

/// Takes one connection, shows a key of its own, and keeps what comes after message 1.
struct Impostor {
    address: String,
    heard: JoinHandle<Vec<u8>>,
}

impl Impostor {
    fn start() -> Impostor {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            read_frame(Way::ToServer, &mut stream).expect("message 1");
            stream.write_all(&server_hello(&PrivateKey::generate(2048).unwrap())).unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).expect("the client ends the connection");
            heard
        });
        Impostor { address, heard }
    }

    fn heard(self) -> Vec<u8> {
        self.heard.join().unwrap()
    }
}

fn backup(client: &TestClient<'_>, extra: &[&str]) -> Run {
    let source = client.workplace.join("source");
    if !source.exists() {
        tree::many_files(&source, 3);
    }
    let mut words = vec!["backup".as_ref(), source.as_os_str()];
    words.extend(extra.iter().map(std::ffi::OsStr::new));
    client.run(words)
}

#[test]
fn a_pinned_client_tells_an_impostor_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    backup(&client, &[]).expect(0);
    let address = server.address.clone();
    drop(server);
    // At the recorded address another key is exit 5; at another address it is another server, exit 2.
    let pinned = std::fs::read_to_string(client.state().join("identity.json")).unwrap();
    for (moved, code) in [(true, 5), (false, 2)] {
        let impostor = Impostor::start();
        let client = TestClient::new(&workplace, &impostor.address, "ada");
        if moved {
            let recorded = pinned.replace(&address, &impostor.address);
            assert_ne!(recorded, pinned);
            std::fs::write(client.state().join("identity.json"), recorded).unwrap();
        } else {
            std::fs::write(client.state().join("identity.json"), &pinned).unwrap();
        }
        let run = backup(&client, &[]).expect(code);
        assert!(run.err().contains("another"), "{}", run.err());
        assert_eq!(impostor.heard(), b"", "nothing follows message 1");
    }
}

#[test]
fn a_demanded_fingerprint_tells_an_impostor_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let impostor = Impostor::start();
    let client = TestClient::new(&workplace, &impostor.address, "ada");
    let run = backup(&client, &["--server-fingerprint", &server.fingerprint]).expect(5);
    assert!(run.err().contains(&server.fingerprint), "{}", run.err());
    assert_eq!(impostor.heard(), b"");
    let client = TestClient::new(&workplace, &server.address, "ada");
    backup(&client, &["--server-fingerprint", &server.fingerprint]).expect(0);
}

#[test]
fn a_token_is_not_learned_by_an_impostor() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--registration", "token"]);
    let words = ["enroll".as_ref(), "ada".as_ref(), "--data".as_ref(), server.data.as_os_str()];
    let token = workplace.run(words).expect(0).out().trim().to_string();
    let impostor = Impostor::start();
    let client = TestClient::new(&workplace, &impostor.address, "ada");
    backup(&client, &["--enroll-token", &token]).expect(5);
    assert_eq!(impostor.heard(), b"", "no login message at all");
    // The token is as good as before at its own server.
    let client = TestClient::new(&workplace, &server.address, "ada");
    backup(&client, &["--enroll-token", &token]).expect(0);
}

#[test]
fn a_token_does_not_travel_even_to_its_own_server() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--registration", "token"]);
    let words = ["enroll".as_ref(), "ada".as_ref(), "--data".as_ref(), server.data.as_os_str()];
    let token = workplace.run(words).expect(0).out().trim().to_string();
    let secret = token.parse::<cyberbackup::crypto::EnrolToken>().unwrap().secret;
    let (line, recording) = Line::recording(&server.address);
    let client = TestClient::new(&workplace, &line.address, "ada");
    backup(&client, &["--enroll-token", &token]).expect(0);
    drop(line);
    for stream in recording.streams() {
        let holds = |part: &[u8]| stream.windows(part.len()).any(|window| window == part);
        assert!(!holds(secret.expose()) && !holds(token.as_bytes()));
    }
}

#[test]
fn a_byte_changed_in_any_message_of_the_handshake_ends_it_and_registers_nobody() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    // Where in each frame: messages 1 and 3, and 2, 4 and the server's proof.
    let places = [
        (Way::ToServer, 0, 40),
        (Way::ToServer, 1, 60),
        (Way::ToClient, 0, 400),
        (Way::ToClient, 1, 80),
        (Way::ToClient, 2, 60),
    ];
    for (direction, number, place) in places {
        let line = Line::start(&server.address, move |_, way| {
            let mut count = 0;
            Box::new(move |mut frame| {
                if way == direction && count == number {
                    let last = frame.len() - 1;
                    frame[place.min(last)] ^= 0x10;
                }
                count += 1;
                Some(frame)
            })
        });
        let client = TestClient::new(&workplace, &line.address, "ada");
        let run = backup(&client, &["--retries", "0"]);
        assert!(matches!(run.code, 1 | 4 | 5), "{direction:?} {number}: {}\n{}", run.code, run.err());
        drop(line);
        let words = ["clients".as_ref(), "--json".as_ref(), "--data".as_ref(), server.data.as_os_str()];
        assert_eq!(workplace.run(words).expect(0).out(), "", "{direction:?} {number}");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
