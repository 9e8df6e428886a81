//! Whatever may answer at a port: the client says what it is, and does not hang.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use cyberbackup::crypto::PrivateKey;

use super::line::{Way, read_frame};
use super::middle::server_hello;
use crate::support::{Run, TestClient, Workplace};

/// Runs a client against a server that does `serve` with each connection; at most `connections` of them.
fn client_of(connections: usize, serve: impl Fn(TcpStream) + Send + 'static) -> Run {
    let workplace = Workplace::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        for _ in 0..connections {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            serve(stream);
        }
    });
    let client = TestClient::new(&workplace, &address, "ada");
    let retries = (connections - 1).to_string();
    let words = ["stats", "--retries", &retries, "--retry-max-wait", "1", "--timeout", "3"];
    let began = Instant::now();
    let run = client.run(words);
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    server.join().unwrap();
    assert!(run.err().contains(&address), "the server is named: {}", run.err());
    run
}

/// Reads message 1, answers with these bytes, and waits for the client's end.
fn answering(answer: Vec<u8>) -> impl Fn(TcpStream) + Send + 'static {
    move |mut stream| {
        read_frame(Way::ToServer, &mut stream).expect("message 1");
        stream.write_all(&answer).unwrap();
        drain(&mut stream);
    }
}

fn drain(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_silent_server_is_given_up() {
    let run = client_of(1, |mut stream| drain(&mut stream)).expect(4);
    assert!(run.err().contains("silent for 3 s"), "{}", run.err());
}

#[test]
fn a_server_that_closes_is_tried_again_and_given_up() {
    let run = client_of(2, |mut stream| drop(read_frame(Way::ToServer, &mut stream))).expect(4);
    assert!(run.err().contains("trying again"), "{}", run.err());
    assert!(run.err().contains("the connection was lost"), "{}", run.err());
}

#[test]
fn a_server_that_closes_after_its_key_is_given_up() {
    let hello = server_hello(&PrivateKey::generate(2048).unwrap());
    let serve = move |mut stream: TcpStream| {
        read_frame(Way::ToServer, &mut stream).expect("message 1");
        stream.write_all(&hello).unwrap();
        read_frame(Way::ToServer, &mut stream).expect("message 3");
    };
    let run = client_of(1, serve).expect(4);
    assert!(run.err().contains("the connection was lost"), "{}", run.err());
}

#[test]
fn a_server_that_falls_silent_after_its_key_is_given_up() {
    let run = client_of(1, answering(server_hello(&PrivateKey::generate(2048).unwrap()))).expect(4);
    assert!(run.err().contains("silent for 3 s"), "{}", run.err());
}

#[test]
fn a_legacy_server_is_recognised() {
    // `RESP_GENERIC_SERVER_ERROR` of 3.0 and of the older line, and the greeting of some.
    for answer in [[3, 0x47, 0x06, 0, 0, 0, 0], [2, 0x47, 0x06, 0, 0, 0, 0], [0; 7]] {
        let run = client_of(1, answering(answer.to_vec())).expect(4);
        assert!(run.err().contains("legacy dialect"), "{}", run.err());
    }
}

#[test]
fn a_legacy_server_that_speaks_first_is_recognised() {
    let run = client_of(1, |mut stream| {
        stream.write_all(&[0; 7]).unwrap();
        drain(&mut stream);
    });
    assert!(run.expect(4).err().contains("legacy dialect"));
}

#[test]
fn what_is_no_backup_server_is_an_error_and_no_crash() {
    let long = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec();
    for answer in [b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), long, vec![0xff; 100_000]] {
        let run = client_of(1, answering(answer)).expect(4);
        assert!(!run.err().contains("panicked"), "{}", run.err());
    }
}

#[test]
fn a_message_2_that_makes_no_sense_is_refused() {
    let good = server_hello(&PrivateKey::generate(2048).unwrap());
    let changed = |at: usize, bytes: &[u8]| {
        let mut hello = good.clone();
        hello[at..at + bytes.len()].copy_from_slice(bytes);
        hello
    };
    let end = good.len();
    // Other features, a broken key, an epoch of nothing, an unknown policy, and half of it.
    let hellos = [
        changed(7, &[2, 0, 1, 0, 9, 0]),
        changed(40, &[0; 60]),
        changed(end - 11, &[0; 8]),
        changed(end - 1, &[77]),
    ];
    for (number, hello) in hellos.into_iter().enumerate() {
        let run = client_of(1, answering(hello));
        assert!(matches!(run.code, 1 | 4), "{number}: {}\n{}", run.code, run.err());
        assert!(!run.err().contains("panicked"), "{}", run.err());
    }
}
