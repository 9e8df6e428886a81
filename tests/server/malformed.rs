//! Bytes that are no message, before anybody has proved anything: each connection gets its answer and ends,
//! the others notice nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use cyberbackup::crypto::random_bytes;
use cyberbackup::protocol::handshake::{ClientHello, feature};
use cyberbackup::protocol::header::{RequestHeader, code};

use super::crowds::stats;
use super::rogue::{Guest, connect, small_key};
use crate::support::{TestServer, Workplace, wait_until};

/// `RESP_GENERIC_SERVER_ERROR`, which both dialects know: version 3, code 1607, no payload.
const GENERAL_ERROR: [u8; 7] = [3, 0x47, 0x06, 0, 0, 0, 0];
/// A refusal in place of message 4: version 3, code 1645, two bytes: "malformed".
const REFUSED_MALFORMED: [u8; 9] = [3, 0x6d, 0x06, 2, 0, 0, 0, 5, 0];

fn header(version: u8, code: u16, size: u32) -> Vec<u8> {
    [&[0; 16][..], &[version], &code.to_le_bytes(), &size.to_le_bytes()].concat()
}

fn hello() -> Vec<u8> {
    let hello = ClientHello {
        features: vec![feature::BASE],
        random: random_bytes(),
        ephemeral: random_bytes(),
        window: 1 << 20,
    };
    framed(code::CLIENT_HELLO, &hello.encode())
}

fn framed(code: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHeader::native(code, payload.len()).encode(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends `bytes` and reads what comes until the server ends the connection.
fn answer_to(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(&server.address);
    // A server that has seen enough may close before the rest is written.
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream)
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return answer,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("the server does not end the connection: {error}"),
        }
    }
}

#[test]
fn what_is_no_request_gets_1607_and_a_close() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut witness = Guest::enter(&server.address, "witness", &small_key());
    let mut requests: Vec<(String, Vec<u8>)> = vec![
        ("23 bytes of noise".into(), vec![0xa5; 23]),
        ("noise beyond the header".into(), vec![0xa5; 100_000]),
        ("a request of the web".into(), b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()),
        ("an unknown code".into(), header(3, 1_099, 0)),
        ("a code of the sealed part".into(), header(3, code::REQUEST_DATA, 84)),
        ("a login before the hello".into(), header(3, code::LOGIN, 0)),
        ("an answer's code".into(), header(3, code::SERVER_HELLO, 0)),
        ("a hello of 4 GiB".into(), header(3, code::CLIENT_HELLO, u32::MAX)),
        ("a hello one byte over its limit".into(), header(3, code::CLIENT_HELLO, 257)),
        ("a hello of nothing".into(), header(3, code::CLIENT_HELLO, 0)),
        ("a hello that is cut".into(), framed(code::CLIENT_HELLO, &hello()[23..60])),
        ("a hello with a byte too many".into(), framed(code::CLIENT_HELLO, &[&hello()[23..], &[0]].concat())),
        ("a hello with a tiny window".into(), {
            let mut bytes = hello();
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&1u32.to_le_bytes());
            bytes
        }),
    ];
    for version in [0, 1, 2, 4, 255] {
        requests.push((
            format!("version {version}"),
            [&header(version, code::CLIENT_HELLO, 72)[..], &[0; 72]].concat(),
        ));
    }
    for code in 1_025..=1_031 {
        requests.push((format!("legacy {code}, version 9"), header(9, code, 255)));
    }
    for (name, bytes) in &requests {
        assert_eq!(answer_to(&server, bytes), GENERAL_ERROR, "{name}");
    }
    assert_eq!(witness.snapshots(), 0, "the session beside them goes on");
    witness.channel.close().expect("a close in due form");
    assert_eq!(stats(&workplace, &server)["failures"], requests.len());
    assert_unharmed(&server);
}

#[test]
fn a_login_that_makes_no_sense_is_refused_as_malformed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut name_of_4_gib = vec![0xff, 0xff];
    name_of_4_gib.extend_from_slice(&[b'n'; 100]);
    let logins = [
        ("noise", framed(code::LOGIN, &[0xa5; 300])),
        ("nothing", framed(code::LOGIN, &[])),
        ("a name longer than the message", framed(code::LOGIN, &name_of_4_gib)),
        ("4 GiB", header(3, code::LOGIN, u32::MAX)),
        ("another code", header(3, code::REQUEST_DATA, 84)),
        ("a second hello", hello()),
        ("another version", header(2, code::LOGIN, 10)),
    ];
    for (name, login) in logins {
        let answer = answer_to(&server, &[hello(), login].concat());
        assert!(answer.len() > 100, "{name}: message 2 came first");
        assert!(answer.ends_with(&REFUSED_MALFORMED), "{name}: {answer:?}");
    }
    assert_unharmed(&server);
}

#[test]
fn a_peer_that_leaves_in_the_middle_costs_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let hello = hello();
    for cut in [1, 11, 22, 23, 50, hello.len() - 1, hello.len()] {
        let mut stream = connect(&server.address);
        stream.write_all(&hello[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read_to_end(&mut stream);
        assert!(cut == hello.len() || answer.is_empty(), "{cut}: {answer:?}");
    }
    wait_until(|| stats(&workplace, &server)["waiting_connections"] == 0, "all of them to be gone");
    assert_unharmed(&server);
}

#[test]
fn a_flood_of_noise_costs_no_memory() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let noise = vec![0xa5; 8 * 1024 * 1024];
    for _ in 0..20 {
        let mut stream = connect(&server.address);
        // The server reads a bounded part of it and closes.
        let _ = stream.write_all(&noise);
        assert!(read_to_end(&mut stream).len() <= GENERAL_ERROR.len());
    }
    Guest::enter(&server.address, "ada", &small_key());
    assert_unharmed(&server);
}

/// No fault of the program in the log, and memory stayed where it belongs.
#[track_caller]
pub fn assert_unharmed(server: &TestServer) {
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("a fault in the program"), "{log}");
    let peak = server.peak_memory_kib();
    assert!(peak < 32 * 1024, "the server took {peak} KiB");
}
