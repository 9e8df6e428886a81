//! Senders that stall, go away or send too much or too little: the job obeys at once, and nothing is lost or blamed.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Gui, named, read_response};
use crate::support::{TestServer, Workplace, tree, wait_until};

const BYTES: usize = 2_000_000;

/// Sends a part of the only file of a job, and keeps the connection.
fn stalled_put(gui: &Gui, job: &str, content: &[u8]) -> TcpStream {
    wait_until(|| gui.look(job)["upload"]["wanted"] == 0, "the upload to run");
    let mut stream = gui.connect();
    let (host, length) = (gui.address, content.len());
    let head = format!("PUT /api/jobs/{job}/files/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content[..length / 2]).unwrap();
    wait_until(|| gui.look(job)["upload"]["wanted"].is_null(), "the beginning of the file is taken");
    stream
}

/// Wishes something of a job; it is so within a second, and no file is blamed for it.
#[track_caller]
fn steer(gui: &Gui, job: &str, action: &str, state: &str) {
    let began = Instant::now();
    gui.post(&format!("/api/jobs/{job}/{action}"), json!({})).expect(200);
    let took = began.elapsed();
    let job = gui.look(job);
    assert_eq!((&job["state"], &job["error_count"]), (&json!(state), &json!(0)), "{job}");
    assert!(took < Duration::from_secs(1), "{action}: {took:?}");
}

/// Goes on with a paused job: it is stored whole, without errors, and its bytes are counted once.
#[track_caller]
fn resume_and_finish(gui: &Gui, job: &str, content: &[u8]) {
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    wait_until(|| gui.look(job)["upload"]["wanted"] == 0, "the file is wanted again");
    gui.send("PUT", &format!("/api/jobs/{job}/files/0"), "", content).expect(200);
    finished(gui, job, content);
}

#[track_caller]
fn finished(gui: &Gui, job: &str, content: &[u8]) {
    let job = gui.wait_for(job, "completed");
    assert_eq!((&job["error_count"], &job["errors"]), (&json!(0), &json!([])));
    assert_eq!(job["message"], format!("stored: 1 file, {} bytes", content.len()));
    assert_eq!(job["upload"]["bytes_received"], content.len());
    assert_eq!(gui.get("/api/snapshots/latest/file?path=uploads/a").body, content);
}

#[test]
fn a_job_whose_sender_has_stalled_is_paused_and_goes_on_without_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let (old, new) = (tree::bytes(1, BYTES), tree::bytes(2, BYTES));
    let job = gui.job(named(&[("a", BYTES)]));
    let mut stalled = stalled_put(&gui, &job, &old);
    steer(&gui, &job, "pause", "paused");
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 0, "the file is wanted again");
    // The old request goes on at last: it belongs to a run that is over, and changes nothing.
    let _ = stalled.write_all(&old[BYTES / 2..]);
    assert_eq!(read_response(stalled).status, 409);
    assert_eq!(gui.look(&job)["upload"]["wanted"], 0);
    gui.send("PUT", &format!("/api/jobs/{job}/files/0"), "", &new).expect(200);
    finished(&gui, &job, &new);
}

#[test]
fn a_job_whose_sender_has_stalled_is_cancelled_and_the_next_one_runs() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("a", BYTES)]));
    let next = gui.job(json!({ "paths": [workplace.write("file", "x")] }));
    let stalled = stalled_put(&gui, &job, &tree::bytes(1, BYTES));
    steer(&gui, &job, "cancel", "cancelled");
    gui.wait_for(&next, "completed");
    drop(stalled);
    gui.answers_within_a_second();
    assert_eq!(gui.look(&job)["state"], "cancelled");
}

#[test]
fn a_form_whose_sender_has_stalled_is_cancelled() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let mut stream = gui.connect();
    let head = format!("POST /api/start_backup HTTP/1.1\r\nHost: {}\r\nContent-Length: 9000000\r\n", gui.address);
    let part = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let text = format!("{head}Content-Type: multipart/form-data; boundary=XX\r\n\r\n{part}");
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(&tree::bytes(1, 4_000_000)).unwrap();
    let newest = || gui.get("/api/jobs").expect(200)["jobs"][0].clone();
    wait_until(|| newest()["phase"] == "BACKUP_IN_PROGRESS", "the backup to run");
    let job = newest()["job_id"].as_str().unwrap().to_string();
    steer(&gui, &job, "cancel", "cancelled");
}

#[test]
fn sigterm_ends_at_once_while_a_sender_has_stalled() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let content = tree::bytes(1, BYTES);
    let job = gui.job(named(&[("a", BYTES)]));
    let _stalled = stalled_put(&gui, &job, &content);
    let (code, took) = gui.stop("TERM");
    assert!(code == Some(0) && took < Duration::from_secs(2), "{code:?} {took:?}");
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("a", BYTES)]));
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 0, "the file");
    gui.send("PUT", &format!("/api/jobs/{job}/files/0"), "", &content).expect(200);
    finished(&gui, &job, &content);
}

#[test]
fn a_wish_just_after_the_sender_has_gone_acts_within_a_second() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let content = tree::bytes(1, BYTES);
    // As the page does: it ends its request first.
    let job = gui.job(named(&[("a", BYTES)]));
    drop(stalled_put(&gui, &job, &content));
    steer(&gui, &job, "pause", "paused");
    resume_and_finish(&gui, &job, &content);
    // Pausing what was cut off takes no wish to cancel back, whichever comes first.
    for number in 0..10 {
        let job = gui.job(named(&[(&format!("b{number}"), BYTES)]));
        let stalled = stalled_put(&gui, &job, &content);
        std::thread::scope(|scope| {
            scope.spawn(move || drop(stalled));
            steer(&gui, &job, "cancel", "cancelled");
        });
    }
}

#[test]
fn an_upload_that_was_cut_off_and_resumed_has_no_errors() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let content = tree::bytes(1, BYTES);
    let job = gui.job(named(&[("a", BYTES)]));
    drop(stalled_put(&gui, &job, &content));
    assert_eq!(gui.wait_for(&job, "paused")["error_count"], 0);
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    // Paused while it waits for the file, too.
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 0, "the file is wanted again");
    steer(&gui, &job, "pause", "paused");
    resume_and_finish(&gui, &job, &content);
}

#[test]
fn chunks_of_a_wrong_length_are_refused_and_the_job_pauses() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("a", 5)]));
    let chunked = |body: &str| -> Value {
        wait_until(|| gui.look(&job)["upload"]["wanted"] == 0, "the file is wanted");
        let mut stream = gui.connect();
        let head = format!("PUT /api/jobs/{job}/files/0 HTTP/1.1\r\nHost: {}\r\n", gui.address);
        stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}").as_bytes()).unwrap();
        let answer = read_response(stream);
        json!([answer.status, gui.look(&job)["state"]])
    };
    for wrong in ["4\r\n1234\r\n0\r\n\r\n", "3\r\n123\r\n3\r\n456\r\n0\r\n\r\n", "0\r\n\r\n"] {
        assert_eq!(chunked(wrong), json!([400, "paused"]), "{wrong:?}");
        gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    }
    assert_eq!(chunked("5\r\n12345\r\n0\r\n\r\n")[0], 200);
    finished(&gui, &job, b"12345");
}
