//! What is measured: a corpus, and what is done with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::corpus;
use crate::measure::{self, Cost, Side};
use crate::options::Options;
use crate::peer::Rsync;

/// A file that changed so lately may be read again by the next backup, which is not what is to be measured.
const SETTLED_AFTER: Duration = Duration::from_millis(4_100);
const LARGE_BYTES: u64 = 1 << 30;
const LARGE_RUNS: u64 = 164;
const SMALL_FILES: u64 = 20_000;
const SMALL_CHANGED: u64 = 200;
const MANY_FILES: u64 = 1_000_000;
const CLIENTS: u64 = 8;

pub struct Scenario {
    pub name: &'static str,
    corpus: Corpus,
    act: Act,
}

#[derive(Clone, Copy, PartialEq)]
enum Corpus {
    /// One file.
    Large,
    Small,
    Many,
    /// The bytes of `Large`, in a file for each client.
    Shared,
}

#[derive(Clone, Copy, PartialEq)]
enum Act {
    First,
    Unchanged,
    Changed,
    Restore,
    List,
}

const fn scenario(name: &'static str, corpus: Corpus, act: Act) -> Scenario {
    Scenario { name, corpus, act }
}

pub const SCENARIOS: [Scenario; 11] = [
    scenario("large-first", Corpus::Large, Act::First),
    scenario("large-restore", Corpus::Large, Act::Restore),
    scenario("large-unchanged", Corpus::Large, Act::Unchanged),
    scenario("large-changed", Corpus::Large, Act::Changed),
    scenario("small-first", Corpus::Small, Act::First),
    scenario("small-unchanged", Corpus::Small, Act::Unchanged),
    scenario("small-changed", Corpus::Small, Act::Changed),
    scenario("small-restore", Corpus::Small, Act::Restore),
    scenario("list-snapshots", Corpus::Small, Act::List),
    scenario("million-unchanged", Corpus::Many, Act::Unchanged),
    scenario("eight-clients-first", Corpus::Shared, Act::First),
];

/// The best run of a scenario, and of the peer.
pub struct Row {
    pub name: &'static str,
    /// Bytes of the corpus, where they are what the time goes by.
    pub bulk: Option<u64>,
    pub cost: Cost,
    pub rsync: Option<f64>,
}

pub struct Bench<'a> {
    options: &'a Options,
}

/// The places of one scenario: sources and targets in memory, the store on its disk.
struct Stage<'a> {
    options: &'a Options,
    memory: TempDir,
    store: TempDir,
}

impl<'a> Bench<'a> {
    pub fn new(options: &'a Options) -> Bench<'a> {
        Bench { options }
    }

    pub fn run(&self, scenario: &Scenario) -> Row {
        let stage = Stage::new(self.options);
        let clients = if scenario.corpus == Corpus::Shared { CLIENTS } else { 1 };
        (0..clients).for_each(|client| stage.make_source(scenario.corpus, client));
        let rsync = if self.options.with_peer { Rsync::start(stage.store.path()) } else { None };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut server = stage.start_server(clients);
        if scenario.act != Act::First {
            thread::sleep(SETTLED_AFTER);
            measure::run(stage.backups(&server, clients), &server.side());
            if let Some(rsync) = &rsync {
                measure::run(vec![rsync.send(&stage.source(0), "")], &Side { id: rsync.id(), data: &rsync.data });
            }
        }
        for run in 0..self.options.runs as u64 {
            match scenario.act {
                Act::First if run > 0 => {
                    drop(server);
                    stage.forget();
                    server = stage.start_server(clients);
                }
                Act::Changed => stage.change(scenario.corpus, run),
                _ => {}
            }
            ours.push(measure::run(stage.commands(scenario.act, &server, clients), &server.side()));
            let checked = scenario.act == Act::Restore;
            if checked {
                assert_same(&stage.source(0), &stage.restored());
            }
            theirs.extend(rsync.as_ref().and_then(|rsync| stage.run_peer(rsync, scenario, clients)));
        }
        let cost = ours.into_iter().min_by(|one, other| one.wall.total_cmp(&other.wall)).unwrap_or_default();
        let bulk =
            matches!(scenario.act, Act::First | Act::Restore).then(|| corpus::stored_bytes(stage.memory.path()));
        let bulk = bulk.map(|bytes| if scenario.act == Act::Restore { bytes / 2 } else { bytes });
        Row { name: scenario.name, bulk, cost, rsync: theirs.into_iter().reduce(f64::min) }
    }
}

impl<'a> Stage<'a> {
    fn new(options: &'a Options) -> Stage<'a> {
        let folder =
            |place: &Path| TempDir::new_in(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        Stage { options, memory: folder(&options.memory), store: folder(&options.store) }
    }

    fn source(&self, client: u64) -> PathBuf {
        self.memory.path().join(format!("source-{client}"))
    }

    fn target(&self) -> PathBuf {
        self.memory.path().join("target")
    }

    /// Where a restore puts the first source: whole paths below the target.
    fn restored(&self) -> PathBuf {
        self.target().join(self.source(0).strip_prefix("/").expect("it is absolute"))
    }

    fn make_source(&self, corpus: Corpus, client: u64) {
        let source = self.source(client);
        fs::create_dir(&source).expect("a folder can be made");
        let scale = self.options.scale;
        match corpus {
            Corpus::Large => corpus::large_file(&source.join("large.bin"), LARGE_BYTES / scale, 1),
            Corpus::Shared => {
                corpus::large_file(&source.join("part.bin"), LARGE_BYTES / CLIENTS / scale, 10 + client)
            }
            Corpus::Small => corpus::small_files(&source, SMALL_FILES / scale, 2),
            Corpus::Many => corpus::empty_files(&source, MANY_FILES / scale),
        }
    }

    fn change(&self, corpus: Corpus, run: u64) {
        let scale = self.options.scale;
        match corpus {
            Corpus::Small => corpus::change_small_files(
                &self.source(0),
                SMALL_FILES / scale,
                SMALL_FILES / SMALL_CHANGED,
                100 + run,
            ),
            _ => {
                corpus::change_in_places(&self.source(0).join("large.bin"), (LARGE_RUNS / scale).max(1), 100 + run)
            }
        }
        // The server's look at what changed a moment ago is no different, the next run's would be.
        thread::sleep(SETTLED_AFTER);
    }

    fn commands(&self, act: Act, server: &Server, clients: u64) -> Vec<Command> {
        match act {
            Act::First | Act::Unchanged | Act::Changed => self.backups(server, clients),
            Act::Restore => {
                let _ = fs::remove_dir_all(self.target());
                let mut command = self.client(server, 0, "restore");
                command.arg("--to").arg(self.target());
                vec![command]
            }
            Act::List => vec![self.client(server, 0, "snapshots")],
        }
    }

    fn backups(&self, server: &Server, clients: u64) -> Vec<Command> {
        let backup = |client| {
            let mut command = self.client(server, client, "backup");
            command.arg(self.source(client));
            command
        };
        (0..clients).map(backup).collect()
    }

    fn client(&self, server: &Server, client: u64, command: &str) -> Command {
        let mut line = Command::new(&self.options.program);
        line.args([command, "--quiet", "--server", &server.address, "--user", &format!("client-{client}")]);
        line.arg("--state").arg(self.store.path().join(format!("state-{client}")));
        line
    }

    /// A server with an empty store, where each client is known already.
    fn start_server(&self, clients: u64) -> Server {
        let server = Server::start(&self.options.program, self.store.path().join("data"));
        let empty = self.memory.path().join("empty");
        fs::create_dir_all(&empty).expect("a folder can be made");
        for client in 0..clients {
            let status = self.client(&server, client, "backup").arg(&empty).stdout(Stdio::null()).status();
            assert!(status.is_ok_and(|status| status.success()), "a client cannot register");
        }
        server
    }

    fn forget(&self) {
        let _ = fs::remove_dir_all(self.store.path().join("data"));
        (0..CLIENTS).for_each(|client| {
            let _ = fs::remove_dir_all(self.store.path().join(format!("state-{client}")));
        });
    }

    /// The same by rsync, where it has such a thing and one client.
    fn run_peer(&self, rsync: &Rsync, scenario: &Scenario, clients: u64) -> Option<f64> {
        if clients > 1 || scenario.act == Act::List {
            return None;
        }
        let command = match scenario.act {
            Act::Restore => {
                let target = self.memory.path().join("target-rsync");
                let _ = fs::remove_dir_all(&target);
                rsync.fetch("", &target)
            }
            Act::First => {
                rsync.forget();
                rsync.send(&self.source(0), "")
            }
            _ => rsync.send(&self.source(0), ""),
        };
        let wall = measure::run(vec![command], &Side { id: rsync.id(), data: &rsync.data }).wall;
        let _ = fs::remove_dir_all(self.memory.path().join("target-rsync"));
        Some(wall)
    }
}

struct Server {
    child: Child,
    address: String,
    data: PathBuf,
    /// Held open: the server may go on writing to it.
    _output: BufReader<ChildStdout>,
}

impl Server {
    fn start(program: &Path, data: PathBuf) -> Server {
        let mut command = Command::new(program);
        command.args([
            "server",
            "--quiet",
            "--port",
            "0",
            "--bind",
            "127.0.0.1",
            "--registration",
            "open",
            "--data",
        ]);
        let log = File::create(data.with_extension("log")).expect("a file can be made");
        let mut child = command.arg(&data).stdout(Stdio::piped()).stderr(log).spawn().expect("the server starts");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the server says where it listens");
        let address = line.trim().strip_prefix("listening on ").expect("it listens").to_string();
        Server { child, address, data, _output: output }
    }

    fn side(&self) -> Side<'_> {
        Side { id: self.child.id(), data: &self.data }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A benchmark of wrong files would be worth nothing.
fn assert_same(original: &Path, restored: &Path) {
    let status = Command::new("diff").args(["-r", "-q"]).arg(original).arg(restored).status();
    assert!(status.is_ok_and(|status| status.success()), "what was restored differs");
}
