//! Uploads from the browser: streamed, in flat memory, resumable.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Gui, Response, named, read_response};
use crate::support::{TestServer, Workplace, kill, peak_memory_kib, tree, wait_until};

/// The bridge's memory while it streams, in KiB.
const MEMORY_MAX_KIB: u64 = 48 * 1024;

fn put(gui: &Gui, job: &str, index: usize, content: &[u8]) -> Response {
    gui.send("PUT", &format!("/api/jobs/{job}/files/{index}"), "", content)
}

/// The content of a file of the newest snapshot.
fn stored(gui: &Gui, path: &str) -> Vec<u8> {
    let answer = gui.get(&format!("/api/snapshots/latest/file?path={path}"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.body
}

#[test]
fn files_of_the_browser_become_a_snapshot_and_come_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let (large, small) = (tree::bytes(1, 3 * 1024 * 1024 + 7), b"small".to_vec());
    let files = named(&[("photos/large", large.len()), ("a <b>.txt", small.len()), ("empty", 0)]);
    let made = gui.post("/api/jobs", files.clone()).expect(202);
    let job = made["job_id"].as_str().unwrap();
    assert_eq!(made["order"], json!([1, 2, 0]));
    for (index, content) in [(1, &small[..]), (2, b""), (0, &large[..])] {
        assert_eq!(put(&gui, job, index, content).expect(200)["held"], false);
    }
    let job = gui.wait_for(job, "completed");
    assert_eq!((job["phase"].as_str(), job["progress"]["percentage"].as_f64()), (Some("COMPLETED"), Some(100.0)));
    assert_eq!(job["label"], "web");
    assert_eq!(stored(&gui, "uploads/photos/large"), large);
    assert_eq!(stored(&gui, "uploads/a%20%3Cb%3E.txt"), small);
    assert_eq!(gui.get("/api/status").expect(200)["phase"], "READY");
    // The same once more: the server holds it all, and no content is wanted.
    let again = gui.job(files);
    gui.wait_for(&again, "completed");
    assert_eq!(stored(&gui, "uploads/photos/large"), large);
}

#[test]
fn parts_of_a_form_are_stored_as_they_come() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let part = |name: &str, content: &str| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let label = "--XX\r\nContent-Disposition: form-data; name=\"label\"\r\n\r\nnightly\r\n";
    let body = format!("{label}{}{}{}--XX--\r\n", part("a", "first"), part("b", "second"), part("a!", "third"));
    let header = "Content-Type: multipart/form-data; boundary=XX\r\n";
    let answer = gui.send("POST", "/api/start_backup", header, body.as_bytes()).expect(200);
    assert_eq!((&answer["files"], answer["snapshots"].as_array().unwrap().len()), (&json!(3), 2), "{answer}");
    let first = answer["snapshots"][0].as_str().unwrap();
    let file = |snapshot: &str, name: &str| gui.get(&format!("/api/snapshots/{snapshot}/file?path=uploads/{name}"));
    assert_eq!(file(first, "a").body, b"first");
    assert_eq!(file(first, "b").body, b"second");
    assert_eq!(file("latest", "a!").body, b"third");
    assert_eq!(file("latest", "b").status, 404);
    assert_eq!(gui.get("/api/snapshots").expect(200)["snapshots"][0]["label"], "nightly");
    for wrong in ["../a", "/a", "a/../b", ""] {
        let body = format!("{}--XX--\r\n", part(wrong, "x"));
        assert_eq!(gui.send("POST", "/api/start_backup", header, body.as_bytes()).status, 400, "{wrong:?}");
    }
    let cut = format!("{}--XX\r\n", part("c", "never"));
    assert_eq!(gui.send("POST", "/api/start_backup", header, cut.as_bytes()).status, 400);
    assert_eq!(file("latest", "c").status, 404, "what was cut off is not stored");
}

#[test]
fn several_files_come_in_one_request_and_those_that_are_held_are_passed_over() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let put_from = |job: &str, index: usize, count: usize, content: &[u8]| {
        gui.send("PUT", &format!("/api/jobs/{job}/files/{index}?count={count}"), "", content)
    };
    let wanted = |job: &str, index: usize| {
        wait_until(|| gui.look(job)["upload"]["wanted"] == index, "the upload to run");
    };
    // In the order of paths: a (1), b (0), c (3), d (2).
    let job = gui.job(named(&[("b", 3), ("a", 2), ("d", 4), ("c", 0)]));
    wanted(&job, 1);
    assert_eq!(put_from(&job, 1, 4, b"aabbbddd").status, 400, "a byte is lacking");
    assert_eq!(put_from(&job, 1, 5, b"aabbbdddd").status, 404);
    assert_eq!(put_from(&job, 1, 0, b"").status, 400);
    assert_eq!(put_from(&job, 1, 1_001, b"").status, 400);
    let sent = put_from(&job, 1, 2, b"aabbb").expect(200);
    assert_eq!((&sent["bytes"], &sent["held_files"], &sent["wanted"]), (&json!(5), &json!([]), &json!(3)));
    let sent = put_from(&job, 3, 2, b"dddd").expect(200);
    assert_eq!(sent["bytes"], 4);
    gui.wait_for(&job, "completed");
    for (name, content) in [("a", "aa"), ("b", "bbb"), ("c", ""), ("d", "dddd")] {
        assert_eq!(stored(&gui, &format!("uploads/{name}")), content.as_bytes(), "{name}");
    }
    // One more, in the midst of what the server holds.
    let job = gui.job(named(&[("b", 3), ("a", 2), ("d", 4), ("c", 0), ("bb", 5)]));
    wanted(&job, 4);
    let sent = put_from(&job, 1, 5, b"AABBBcccccDDDD").expect(200);
    assert_eq!((&sent["bytes"], &sent["held"]), (&json!(5), &json!(false)));
    assert_eq!(sent["held_files"], json!([1, 0, 3, 2]));
    gui.wait_for(&job, "completed");
    assert_eq!((stored(&gui, "uploads/bb"), stored(&gui, "uploads/d")), (b"ccccc".to_vec(), b"dddd".to_vec()));
}

#[test]
fn a_request_of_several_files_that_is_cut_off_pauses_the_job() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("a", 10), ("b", 1_000_000), ("c", 10)]));
    let mut stream = gui.connect();
    let head = format!("PUT /api/jobs/{job}/files/0?count=3 HTTP/1.1\r\nHost: {}\r\n", gui.address);
    stream.write_all(format!("{head}Content-Length: 1000020\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; 500_000]).unwrap();
    wait_until(|| gui.look(&job)["upload"]["sent"] == 1, "the first of them");
    drop(stream);
    gui.wait_for(&job, "paused");
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 1, "the second of them");
    let rest = vec![b'y'; 1_000_010];
    gui.send("PUT", &format!("/api/jobs/{job}/files/1?count=2"), "", &rest).expect(200);
    gui.wait_for(&job, "completed");
    assert_eq!(stored(&gui, "uploads/a"), vec![b'x'; 10]);
    assert_eq!(stored(&gui, "uploads/b"), &rest[..1_000_000]);
}

/// Streams a file of so many bytes, and gives the answer.
fn put_large(gui: &Gui, job: &str, bytes: usize) -> Response {
    let mut stream = gui.connect();
    let head =
        format!("PUT /api/jobs/{job}/files/0 HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n\r\n", gui.address);
    stream.write_all(head.as_bytes()).unwrap();
    let piece = tree::bytes(9, 1024 * 1024);
    for _ in 0..bytes / piece.len() {
        stream.write_all(&piece).unwrap();
    }
    read_response(stream)
}

fn upload_in_flat_memory(bytes: usize) {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("large", bytes)]));
    assert_eq!(put_large(&gui, &job, bytes).expect(200)["bytes"], bytes);
    gui.wait_for(&job, "completed");
    let peak = peak_memory_kib(gui.id()).unwrap();
    eprintln!("{bytes} bytes uploaded, the bridge had {peak} KiB at most");
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
}

#[test]
fn a_large_upload_takes_little_memory() {
    upload_in_flat_memory(200 * 1024 * 1024);
}

#[test]
#[ignore = "takes a minute and 2 GiB of space"]
fn an_upload_of_2_gib_takes_little_memory() {
    upload_in_flat_memory(2 * 1024 * 1024 * 1024);
}

#[test]
fn an_upload_that_is_cut_off_pauses_and_goes_on_with_what_is_lacking() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let (first, second) = (tree::bytes(1, 100_000), tree::bytes(2, 2_000_000));
    let job = gui.job(named(&[("a", first.len()), ("b", second.len())]));
    put(&gui, &job, 0, &first).expect(200);
    let mut stream = gui.connect();
    let host = gui.address;
    let head =
        format!("PUT /api/jobs/{job}/files/1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", second.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&second[..1_000_000]).unwrap();
    // Who has gone before it is looked at proves nothing of itself, and is not let in.
    wait_until(|| gui.look(&job)["upload"]["wanted"].is_null(), "the beginning of the file is taken");
    drop(stream);
    gui.wait_for(&job, "paused");
    assert_eq!(put(&gui, &job, 1, &second).status, 409, "a paused job takes nothing");
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 1, "the second file alone");
    put(&gui, &job, 1, &second).expect(200);
    gui.wait_for(&job, "completed");
    assert_eq!(stored(&gui, "uploads/b"), second);
    assert_eq!(gui.get("/api/snapshots").expect(200)["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn a_new_run_of_the_bridge_goes_on_with_the_same_upload() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let content = tree::bytes(1, 100_000);
    let files = named(&[("a", content.len()), ("b", 5)]);
    let job = gui.job(files.clone());
    put(&gui, &job, 0, &content).expect(200);
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 1, "the second file");
    let (code, took) = gui.stop("TERM");
    assert!(code == Some(0) && took < Duration::from_secs(3), "{code:?} {took:?}");
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(files);
    wait_until(|| gui.look(&job)["upload"]["wanted"] == 1, "the second file alone");
    put(&gui, &job, 1, b"12345").expect(200);
    gui.wait_for(&job, "completed");
    assert_eq!(stored(&gui, "uploads/a"), content);
}

#[test]
fn a_wrong_length_or_number_is_refused() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let job = gui.job(named(&[("a", 5)]));
    assert_eq!(put(&gui, &job, 0, b"1234").status, 400);
    assert_eq!(put(&gui, &job, 1, b"12345").status, 404);
    assert_eq!(put(&gui, "nosuchjob", 0, b"12345").status, 404);
    for wrong in
        [json!({"files": []}), named(&[("../a", 1)]), named(&[("a", 1), ("a/b", 1)]), Value::Null, json!({})]
    {
        assert_eq!(gui.post("/api/jobs", wrong.clone()).status, 400, "{wrong}");
    }
    assert_eq!(put(&gui, &job, 0, b"12345").expect(200)["bytes"], 5);
    gui.wait_for(&job, "completed");
}

#[test]
fn a_server_that_goes_away_fails_the_job_and_not_the_bridge() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    kill(server.id(), "KILL");
    wait_until(|| gui.get("/health").expect(200)["status"] == "degraded", "degraded health");
    assert_eq!(gui.get("/api/snapshots").status, 503);
    gui.answers_within_a_second();
}
