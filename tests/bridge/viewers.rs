//! Viewers on the WebSocket.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{ANSWER_TIMEOUT, Gui, named};
use crate::support::{TestServer, Workplace, closed_address, large_file};

/// A viewer that reads.
pub struct Watcher(WebSocket<TcpStream>);

impl Watcher {
    pub fn open(gui: &Gui) -> Watcher {
        let stream = gui.connect();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let (socket, answer) = tungstenite::client(format!("ws://{}/ws", gui.address), stream).expect("an upgrade");
        assert_eq!(answer.status(), 101);
        Watcher(socket)
    }

    pub fn next(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.0.read().expect("a message") {
                return serde_json::from_str(&text).expect("messages are JSON");
            }
        }
    }

    /// All messages up to one that fits; the first one, which tells the present state, does not count.
    pub fn take_until(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut messages = vec![self.next()];
        loop {
            let message = self.next();
            let is_last = fits(&message);
            messages.push(message);
            if is_last {
                return messages;
            }
        }
    }

    fn say(&mut self, data: Value) {
        self.0.send(Message::text(data.to_string())).unwrap();
    }
}

#[test]
fn a_viewer_gets_the_present_state_at_once() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let mut early = Watcher::open(&gui);
    assert_eq!(early.next()["data"]["phase"], "READY");
    let job = gui.job(named(&[("a", 5)]));
    let wanted = early.take_until(|message| message["event"] == "file_wanted");
    let wanted = &wanted.last().unwrap()["data"];
    assert_eq!(*wanted, json!({ "job_id": job, "index": 0, "path": "a" }));
    let mut late = Watcher::open(&gui);
    assert_eq!(late.next()["data"]["job_id"], job.as_str());
    late.say(json!({ "event": "ping" }));
    let answer = late.take_until(|message| message["event"] == "pong");
    assert_eq!(answer.last().unwrap()["data"], json!({}));
    gui.post(&format!("/api/cancel/{job}"), json!({})).expect(200);
    early.take_until(|message| message["event"] == "job_cancelled" && message["data"]["job_id"] == job.as_str());
}

#[test]
fn a_viewer_that_does_not_read_holds_nobody_up() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    gui.post("/api/settings", json!({ "settings": { "progress_interval": 100 } })).expect(200);
    let deaf: Vec<Watcher> = (0..20).map(|_| Watcher::open(&gui)).collect();
    let mut watcher = Watcher::open(&gui);
    let source = workplace.join("large");
    large_file(&source, 64 * 1024 * 1024);
    for _ in 0..3 {
        let job = gui.job(json!({ "paths": [source] }));
        watcher.take_until(|message| {
            message["data"]["phase"] == "COMPLETED" && message["data"]["job_id"] == job.as_str()
        });
    }
    drop(deaf);
    gui.answers_within_a_second();
}

#[test]
fn what_is_no_websocket_is_refused() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    assert_eq!(gui.get("/ws").status, 400);
    let mut watcher = Watcher::open(&gui);
    watcher.next();
    let began = Instant::now();
    let _ = watcher.0.send(Message::text("x".repeat(100_000)));
    while watcher.0.read().is_ok() {}
    assert!(began.elapsed() < Duration::from_secs(5), "a message that is too long ends the connection");
    gui.answers_within_a_second();
}
