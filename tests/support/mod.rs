//! What every test needs: a work folder, a server on a free port, runs of the client, and trees to compare.
//! Everything ends by itself: processes are killed by id when their owner is dropped.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod browser;
pub mod changes;
pub mod random;
pub mod relay;
pub mod slow_line;
pub mod tree;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cyberbackup");
/// How long any single run may take before it counts as hanging.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Whether every server of this run seals its store: any test can be run so.
pub fn is_sealed_at_rest() -> bool {
    std::env::var_os(SEALED_RUN).is_some()
}

/// The variable that says so.
pub const SEALED_RUN: &str = "CYBERBACKUP_TEST_AT_REST";

/// A folder of a test's own, with runs of the program in it.
pub struct Workplace {
    folder: tempfile::TempDir,
}

impl Workplace {
    pub fn new() -> Workplace {
        Workplace { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A folder in memory where there is a place for that: for many files that no disk has to see.
    pub fn in_memory() -> Workplace {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Workplace { folder: folder.expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the workplace")).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A command of the program, run in this folder, with no settings from outside.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let words: Vec<S> = words.into_iter().collect();
        let is_local = words.iter().any(|word| word.as_ref() == "--local-server");
        let mut command = Command::new(PROGRAM);
        command.args(words).current_dir(self.path()).env_clear().env("HOME", self.path()).env("USER", "tester");
        command.stdin(Stdio::null());
        self.give_storage_key(&mut command);
        if is_sealed_at_rest() && is_local {
            command.env("CYBERBACKUP_STORAGE_KEY_FILE", self.storage_key());
            command.env("CYBERBACKUP_ENCRYPT_AT_REST", "1");
        }
        command
    }

    /// For the operator's commands on a data folder that no server holds, where all stores are sealed.
    pub fn give_storage_key(&self, command: &mut Command) {
        if is_sealed_at_rest() && self.storage_key().exists() {
            command.env("CYBERBACKUP_STORAGE_KEY_FILE", self.storage_key());
        }
    }

    /// The key of the servers of a run with stores that are sealed.
    pub fn storage_key(&self) -> PathBuf {
        self.join("storage.key")
    }

    /// Runs the program and takes what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command(words))
    }
}

/// A run that still goes on; ended when it is dropped.
pub struct Started {
    child: Child,
    out: tempfile::NamedTempFile,
    err: tempfile::NamedTempFile,
}

impl Started {
    pub fn of(mut command: Command) -> Started {
        let file = || tempfile::NamedTempFile::new().expect("a temporary file");
        let (out, err) = (file(), file());
        command.stdout(out.reopen().expect("a temporary file opens")).stderr(err.reopen().expect("it opens"));
        Started { child: command.spawn().expect("the program starts"), out, err }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.out.path()).unwrap_or_default()).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.err.path()).unwrap_or_default()).into_owned()
    }

    /// Waits until `text` stands in what it printed.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let said = || format!("{}{}", self.out(), self.err());
        wait_until(|| said().contains(text), &format!("{text:?} in what the run prints"));
    }

    /// Waits for its end.
    pub fn finish(self) -> Run {
        self.finish_measured().0
    }

    /// Waits for the end of a run that may take long.
    pub fn finish_within(self, timeout: Duration) -> Run {
        self.wait_and_measure(timeout).0
    }

    /// Waits for its end, and gives the most memory it had resident, in KiB. The kernel keeps the peak, so
    /// that looking often only narrows what its last few milliseconds could add.
    pub fn finish_measured(self) -> (Run, u64) {
        self.wait_and_measure(RUN_TIMEOUT)
    }

    fn wait_and_measure(mut self, timeout: Duration) -> (Run, u64) {
        let (deadline, mut peak) = (Instant::now() + timeout, 0);
        let status = loop {
            peak = peak_memory_kib(self.id()).unwrap_or(peak);
            if let Some(status) = self.child.try_wait().expect("the program can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "a run did not end in {timeout:?}:\n{}", self.err());
            thread::sleep(Duration::from_millis(2));
        };
        let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).expect("its output");
        let run = Run { code: code_of(status), stdout: read(&self.out), stderr: read(&self.err) };
        (run, peak)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Reaped processes have no id any more that could be somebody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A finished run of the program.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Run {
    /// Runs the command to its end; a run that hangs is killed and fails the test.
    pub fn of(mut command: Command) -> Run {
        let shown = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let id = child.id();
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let watch = thread::spawn(move || {
            if finished.recv_timeout(RUN_TIMEOUT).is_err() {
                kill(id, "KILL");
                return true;
            }
            false
        });
        let Output { status, stdout, stderr } = child.wait_with_output().expect("the program can be waited for");
        drop(done);
        let code = code_of(status);
        let run = Run { code, stdout, stderr };
        let hung = watch.join().unwrap() && run.code == 128 + 9;
        assert!(!hung, "{shown} did not end in {RUN_TIMEOUT:?}:\n{}", run.err());
        run
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails the test unless the run ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out(), self.err());
        self
    }

    /// The JSON events it printed.
    pub fn events(&self) -> Vec<Event> {
        let line = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            Event {
                name: value["event"].as_str().expect("an event has a name").into(),
                data: value["data"].clone(),
            }
        };
        self.out().lines().map(line).collect()
    }

    /// The data of the last event with this name.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let found = self.events().into_iter().rev().find(|event| event.name == name);
        found.unwrap_or_else(|| panic!("no event {name} in:\n{}\n{}", self.out(), self.err())).data
    }
}

/// One line of `--json`.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

/// The exit code; 128 and the signal where one ended it.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends a signal to a process that this test started.
pub fn kill(id: u32, signal: &str) {
    let pid = rustix::process::Pid::from_raw(id as i32).expect("a child has a process id");
    let signal = match signal {
        "KILL" => rustix::process::Signal::KILL,
        "INT" => rustix::process::Signal::INT,
        "TERM" => rustix::process::Signal::TERM,
        "STOP" => rustix::process::Signal::STOP,
        "CONT" => rustix::process::Signal::CONT,
        other => panic!("no signal {other} here"),
    };
    let _ = rustix::process::kill_process(pid, signal);
}

/// A running server on a port of its own.
pub struct TestServer {
    child: Child,
    pub address: String,
    pub fingerprint: String,
    /// Where its dashboard is; empty without one.
    pub dashboard: String,
    pub data: PathBuf,
    log: PathBuf,
}

impl TestServer {
    /// Starts a server with its data in `data/` of the workplace, and small keys unless told otherwise.
    pub fn start(workplace: &Workplace) -> TestServer {
        TestServer::start_with(workplace, "data", &["--rsa-bits", "2048"])
    }

    pub fn start_with(workplace: &Workplace, data: &str, flags: &[&str]) -> TestServer {
        let data = workplace.join(data);
        let log = data.with_extension("log");
        let mut words: Vec<OsString> =
            ["server", "--bind", "127.0.0.1", "--port", "0", "--data"].map(Into::into).into();
        words.push(data.clone().into());
        words.extend(flags.iter().map(OsString::from));
        if is_sealed_at_rest() && !flags.contains(&"--encrypt-at-rest") {
            words.extend(["--encrypt-at-rest", "--storage-key-file"].map(Into::into));
            words.push(workplace.storage_key().into());
        }
        let has_dashboard = flags.iter().any(|flag| flag.starts_with("--dashboard"));
        TestServer::of(workplace.command(&words), data, log, has_dashboard)
    }

    /// A server that this command starts.
    pub fn of(mut command: Command, data: PathBuf, log: PathBuf, has_dashboard: bool) -> TestServer {
        let errors = std::fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let mut line = |prefix: &str| {
            let text = lines.next().and_then(Result::ok).unwrap_or_default();
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            text.strip_prefix(prefix).unwrap_or_else(|| panic!("not {prefix:?}: {text:?}\n{log}")).to_string()
        };
        let (address, fingerprint) = (line("listening on "), line("key "));
        let dashboard = if has_dashboard { line("dashboard ") } else { String::new() };
        TestServer { child, address, fingerprint, dashboard, data, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(|| self.log().contains(text), &format!("{text:?} in the server's log:\n{}", self.log()));
    }

    /// The most memory it ever had resident, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        peak_memory_kib(self.id()).expect("a running server has memory")
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(mut self) {
        kill(self.id(), "KILL");
        let _ = self.child.wait();
    }

    /// Asks it to end, and gives its exit code.
    pub fn stop(mut self) -> i32 {
        kill(self.id(), "TERM");
        code_of(self.child.wait().expect("the server can be waited for"))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        kill(self.id(), "KILL");
        let _ = self.child.wait();
    }
}

/// The most memory a process ever had resident, in KiB; none once it has ended.
pub fn peak_memory_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Waits for a condition that another process brings about.
#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A client of a test: its state folder and its server.
pub struct TestClient<'a> {
    pub workplace: &'a Workplace,
    pub flags: Vec<OsString>,
}

impl<'a> TestClient<'a> {
    /// A client named `user` with a state folder of its own.
    pub fn new(workplace: &'a Workplace, address: &str, user: &str) -> TestClient<'a> {
        let state = workplace.join(format!("state-{user}"));
        let mut flags: Vec<OsString> =
            ["--server", address, "--user", user, "--rsa-bits", "2048"].map(Into::into).into();
        flags.extend(["--state".into(), state.into_os_string()]);
        TestClient { workplace, flags }
    }

    pub fn state(&self) -> PathBuf {
        PathBuf::from(self.flags.last().expect("the state folder comes last"))
    }

    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let flags = self.flags.iter().cloned();
        words.splice(1..1, flags);
        self.workplace.command(words)
    }

    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command(words))
    }

    pub fn start<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Started {
        Started::of(self.command(words))
    }

    /// Starts a backup of a file so large that it is still being sent when this returns, and stops it there.
    /// The file is `large` in a folder `stalled` of the workplace.
    pub fn start_stalled_backup(&self, server: &TestServer) -> Started {
        let source = self.workplace.join("stalled");
        std::fs::create_dir_all(&source).unwrap();
        large_file(&source.join("large"), LARGE_BYTES);
        self.start_stalled(server, &source)
    }

    /// Starts a backup of a folder, and stops it as soon as more than a mebibyte of a file has been stored.
    pub fn start_stalled(&self, server: &TestServer, source: &Path) -> Started {
        let started = self.start([OsStr::new("backup"), source.as_os_str()]);
        wait_until(|| largest_file(&server.data) > 1024 * 1024, "the first mebibyte at the server");
        kill(started.id(), "STOP");
        started
    }

    /// Backs `path` up and gives the snapshot's id.
    #[track_caller]
    pub fn backup(&self, path: &Path) -> String {
        let run =
            self.run([OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), path.as_os_str()]).expect(0);
        run.event("summary")["snapshot"].as_str().expect("a stored snapshot").to_string()
    }

    /// Restores everything of the newest snapshot and gives where `original` lies in it.
    #[track_caller]
    pub fn restore(&self, original: &Path, to: &str) -> PathBuf {
        let to = self.workplace.join(to);
        self.run([OsStr::new("restore"), "--to".as_ref(), to.as_os_str()]).expect(0);
        to.join(original.strip_prefix("/").expect("an absolute path"))
    }
}

/// A size that takes a good while to send.
pub const LARGE_BYTES: u64 = 256 * 1024 * 1024;

/// Makes a file that has no holes: those would not be sent.
pub fn large_file(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(7), bytes), &mut file).unwrap();
}

/// The size of the largest file below a folder.
fn largest_file(folder: &Path) -> u64 {
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(size).max().unwrap_or(0)
}

/// An address where nobody listens, nor will: the port is taken, until this process ends, by a socket that
/// does not listen.
pub fn closed_address() -> String {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = SocketAddr::try_from(getsockname(&socket).expect("it is bound")).expect("an IPv4 address");
    std::mem::forget(socket);
    address.to_string()
}
