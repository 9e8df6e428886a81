//! Viewers on the WebSocket.

use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{ANSWER_TIMEOUT, Gui, named};
use crate::support::{TestServer, Workplace, closed_address, large_file, tree, wait_until};

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

/// A viewer that reads in a thread of its own, until it is stopped.
struct Reading {
    stream: TcpStream,
    thread: JoinHandle<Value>,
}

impl Reading {
    fn start(gui: &Gui) -> Reading {
        let mut watcher = Watcher::open(gui);
        let stream = watcher.0.get_ref().try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let mut last = Value::Null;
            while let Ok(message) = watcher.0.read() {
                // Looked at as text first: a hundred of these share the machine with what is measured.
                if let Message::Text(text) = message
                    && text.contains("COMPLETED")
                {
                    last = serde_json::from_str(&text).expect("messages are JSON");
                }
            }
            last
        });
        Reading { stream, thread }
    }

    /// Ends it; gives the last message about a job that is completed.
    fn stop(self) -> Value {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.thread.join().unwrap()
    }
}

/// CPU time of a process so far, its threads that have ended included.
fn cpu_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name may hold anything. Behind it come the state and numbers; the 12th and 13th are user and system time,
    // in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = [11, 12].iter().map(|place| fields[*place].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Backs the same up `rounds` times with so many viewers, one of them not reading, and as often with none, in turns.
/// Gives the bridge's CPU time with viewers as a part of that without: the least of each, since what else runs meanwhile
/// only adds to it.
fn cost_of_viewers(viewers: usize, rounds: u32, large_bytes: u64) -> f64 {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let source = workplace.join("source");
    tree::many_files(&source, 2_000);
    large_file(&source.join("large"), large_bytes);
    let back_up = || {
        let before = cpu_time(gui.id());
        let job = gui.job(json!({ "paths": [source], "full": true }));
        // Asked seldom: each question costs what is measured.
        while gui.look(&job)["state"] != "completed" {
            std::thread::sleep(Duration::from_millis(200));
        }
        (job, cpu_time(gui.id()) - before)
    };
    back_up();
    let (mut alone, mut watched) = (Duration::MAX, Duration::MAX);
    for _ in 0..rounds {
        alone = alone.min(back_up().1);
        let deaf = Watcher::open(&gui);
        let reading: Vec<Reading> = (1..viewers).map(|_| Reading::start(&gui)).collect();
        wait_until(|| gui.get("/health").json()["viewers"] == viewers, "all viewers");
        let (job, cost) = back_up();
        watched = watched.min(cost);
        let ends: Vec<Value> = reading.into_iter().map(Reading::stop).collect();
        assert!(ends.iter().all(|end| end["data"]["job_id"] == job.as_str()), "each viewer sees the end");
        drop(deaf);
        wait_until(|| gui.get("/health").json()["viewers"] == 0, "the viewers to be gone");
    }
    let part = watched.as_secs_f64() / alone.as_secs_f64();
    eprintln!("{viewers} viewers: {watched:?} of CPU time with them, {alone:?} without: {part:.3}");
    part
}

#[test]
#[ignore = "long: ten backups of half a GiB"]
fn a_hundred_viewers_cost_little() {
    let part = cost_of_viewers(100, 5, 512 * 1024 * 1024);
    assert!(part <= 1.15, "{part:.3}");
}

#[test]
fn twenty_viewers_cost_next_to_nothing() {
    let part = cost_of_viewers(20, 4, 128 * 1024 * 1024);
    assert!(part <= 1.15, "{part:.3}");
}
