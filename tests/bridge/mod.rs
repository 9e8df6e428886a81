//! The page's bridge: the real program, spoken to over real sockets.

mod answers;
pub mod dashboard;
mod front;
mod jobs;
mod stalled;
mod uploads;
pub mod vault;
pub mod viewers;
mod who_may;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{TestServer, Workplace, kill, wait_until};

/// How long any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A running `gui`.
pub struct Gui {
    child: Child,
    pub address: SocketAddr,
    pub log: PathBuf,
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {} {text:?}", self.head))
    }

    /// The JSON, if the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Gui {
    /// A bridge for a server whose key it is told, and has met.
    pub fn start(workplace: &Workplace, server: &TestServer) -> Gui {
        let gui = Gui::start_with(workplace, &server.address, &["--server-fingerprint", &server.fingerprint]);
        wait_until(|| gui.get("/api/server_info").json()["known"] == true, "the first contact");
        gui
    }

    pub fn start_with(workplace: &Workplace, server: &str, flags: &[&str]) -> Gui {
        Gui::start_on(0, workplace, server, flags)
    }

    /// On this port, as where a page expects it again.
    pub fn start_on(port: u16, workplace: &Workplace, server: &str, flags: &[&str]) -> Gui {
        let port = port.to_string();
        let words =
            ["gui", "--port", &port, "--server", server, "--user", "ada", "--state", "state", "--rsa-bits", "2048"];
        let mut command = workplace.command(words.iter().chain(flags));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("gui starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("the page: http://").unwrap_or_else(|| panic!("not a page: {line:?}"));
        let port: u16 = url.split(['/', '?']).next().unwrap().rsplit(':').next().unwrap().parse().expect("a port");
        let log = workplace.join("state/api_server_log.txt");
        Gui { child, address: SocketAddr::from(([127, 0, 0, 1], port)), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends bytes as they are and takes everything that comes back.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The other side may have had enough before the end.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn send(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Response {
        send(self.address, method, target, headers, body)
    }

    pub fn get(&self, target: &str) -> Response {
        self.send("GET", target, "", b"")
    }

    pub fn post(&self, target: &str, data: Value) -> Response {
        self.send("POST", target, "Content-Type: application/json\r\n", data.to_string().as_bytes())
    }

    /// Makes a job and gives its id.
    #[track_caller]
    pub fn job(&self, data: Value) -> String {
        self.post("/api/jobs", data).expect(202)["job_id"].as_str().unwrap().to_string()
    }

    #[track_caller]
    pub fn look(&self, id: &str) -> Value {
        self.get(&format!("/api/jobs/{id}")).expect(200)["job"].clone()
    }

    /// Waits until a job is in this state.
    #[track_caller]
    pub fn wait_for(&self, id: &str, state: &str) -> Value {
        wait_until(|| self.look(id)["state"] == state, &format!("{state}: {}", self.look(id)));
        self.look(id)
    }

    /// A page of the bridge answers at once.
    #[track_caller]
    pub fn answers_within_a_second(&self) {
        let began = Instant::now();
        assert_eq!(self.get("/").status, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// Asks it to end; gives its exit code and how long that took.
    pub fn stop(mut self, signal: &str) -> (Option<i32>, Duration) {
        let began = Instant::now();
        kill(self.id(), signal);
        (self.child.wait().unwrap().code(), began.elapsed())
    }
}

impl Drop for Gui {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the page accepts");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
    stream
}

/// Sends a request to a page at this address.
pub fn send(address: SocketAddr, method: &str, target: &str, headers: &str, body: &[u8]) -> Response {
    let mut stream = connect(address);
    let length = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(body);
    read_response(stream)
}

pub fn read_response(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {read:?} {:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Response { status, head, body: bytes.split_off(end + 4) }
}

/// A list of files for an upload, all of the same age.
pub fn named(files: &[(&str, usize)]) -> Value {
    let file = |(path, size): &(&str, usize)| json!({ "path": path, "size": size, "mtime": 1_764_000_000_000_u64 });
    json!({ "files": files.iter().map(file).collect::<Vec<_>>(), "label": "web" })
}
