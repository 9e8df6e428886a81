//! Requests that are meant to do harm: each is refused or harmless, and the page answers afterwards.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::Gui;
use crate::support::{Workplace, closed_address, wait_until};

fn gui(workplace: &Workplace) -> Gui {
    Gui::start_with(workplace, &closed_address(), &[])
}

#[test]
fn nothing_is_smuggled_behind_a_request() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let host = format!("Host: {}", gui.address);
    let second = format!("POST /api/disconnect HTTP/1.1\r\n{host}\r\nContent-Length: 0\r\n\r\n");
    for first in [
        format!("GET /health HTTP/1.1\r\n{host}\r\nConnection: keep-alive\r\n\r\n"),
        format!("POST /api/disconnect HTTP/1.1\r\n{host}\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("POST /api/disconnect HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let answer = gui.raw(format!("{first}{second}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    for wrong in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4x",
        "Content-Length : 4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "X: a\r\n b",
    ] {
        let answer = gui
            .raw(format!("POST /api/disconnect HTTP/1.1\r\n{host}\r\n{wrong}\r\n\r\n0\r\n\r\n{second}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{wrong:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let chunk = "POST /api/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    let answer = gui.raw(format!("{chunk}{host}\r\n\r\nzz\r\n{second}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn two_hundred_dribbling_connections_hold_nobody_up() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let mut dribbling: Vec<_> = (0..200).map(|_| gui.connect()).collect();
    for round in 0..3 {
        for stream in &mut dribbling {
            let _ = stream.write_all(if round == 0 { b"GET / HT" } else { b"T" });
        }
        gui.answers_within_a_second();
    }
    // Each is ended by its deadline, whatever it still sends.
    let began = Instant::now();
    for stream in &mut dribbling {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    gui.answers_within_a_second();
}

#[test]
fn a_header_line_of_100_mib_is_cut_short() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let mut stream = gui.connect();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\nX: ", gui.address).as_bytes()).unwrap();
    let piece = vec![b'x'; 1024 * 1024];
    let sent = (0..100).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(sent < 100, "all of it was taken");
    gui.answers_within_a_second();
    let peak = crate::support::peak_memory_kib(gui.id()).unwrap();
    assert!(peak < 48 * 1024, "{peak} KiB");
}

#[test]
fn running_out_of_descriptors_ends_nothing() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    gui.answers_within_a_second();
    let pid = Pid::from_raw(gui.id() as i32);
    let limit = |count| Rlimit { current: Some(count), maximum: Some(4_096) };
    let before = prlimit(pid, Resource::Nofile, limit(40)).expect("the limit of a child can be set");
    let host = gui.address;
    let busy: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = gui.connect();
            let _ = stream.write_all(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            stream
        })
        .collect();
    wait_until(
        || gui.log().contains("could not be accepted") || gui.log().contains("turned away"),
        "no descriptor left",
    );
    drop(busy);
    wait_until(
        || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gui.get("/").status == 200)).unwrap_or(false),
        "an answer with few descriptors",
    );
    let _ = prlimit(pid, Resource::Nofile, before);
    gui.answers_within_a_second();
    assert_eq!(gui.get("/api/status").expect(200)["phase"], "READY");
}

#[test]
fn a_signal_ends_it_promptly_with_code_0() {
    let workplace = Workplace::new();
    for signal in ["INT", "TERM"] {
        let gui = gui(&workplace);
        let _open = gui.connect();
        let (code, took) = gui.stop(signal);
        assert_eq!(code, Some(0));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}
