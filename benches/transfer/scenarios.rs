//! What is measured: a corpus, and what is done with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::corpus::{self, Texts};
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
const PIECES: u64 = 64;
/// The passphrase of a vault's key, and the variable that says it.
const PASSPHRASE: (&str, &str) = ("CYBERBACKUP_PASSPHRASE", "of a benchmark");

pub struct Scenario {
    pub name: &'static str,
    corpus: Corpus,
    act: Act,
    store: Kept,
}

/// How the server keeps what it is sent.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Plain,
    InVault,
}

#[derive(Clone, Copy, PartialEq)]
enum Corpus {
    /// One file.
    Large,
    /// As many bytes, in 64 files.
    Pieces,
    Small,
    /// As many small files, every second one a text.
    Mixed,
    Many,
    /// The bytes of `Large`, in a file for each client.
    Shared,
}

#[derive(Clone, Copy, PartialEq)]
enum Act {
    First,
    Unchanged,
    Changed,
    /// The same files under another path.
    Elsewhere,
    Restore,
    List,
}

const fn scenario(name: &'static str, corpus: Corpus, act: Act) -> Scenario {
    Scenario { name, corpus, act, store: Kept::Plain }
}

const fn in_vault(name: &'static str, corpus: Corpus, act: Act) -> Scenario {
    Scenario { name, corpus, act, store: Kept::InVault }
}

pub const SCENARIOS: [Scenario; 20] = [
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
    in_vault("vault-large-first", Corpus::Large, Act::First),
    in_vault("vault-pieces-first", Corpus::Pieces, Act::First),
    in_vault("vault-large-restore", Corpus::Large, Act::Restore),
    in_vault("vault-large-unchanged", Corpus::Large, Act::Unchanged),
    in_vault("vault-large-changed", Corpus::Large, Act::Changed),
    in_vault("vault-mixed-first", Corpus::Mixed, Act::First),
    in_vault("vault-mixed-unchanged", Corpus::Mixed, Act::Unchanged),
    in_vault("vault-mixed-elsewhere", Corpus::Mixed, Act::Elsewhere),
    in_vault("vault-mixed-restore", Corpus::Mixed, Act::Restore),
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
    kept: Kept,
    memory: TempDir,
    store: TempDir,
}

impl<'a> Bench<'a> {
    pub fn new(options: &'a Options) -> Bench<'a> {
        Bench { options }
    }

    pub fn run(&self, scenario: &Scenario) -> Row {
        let stage = Stage::new(self.options, scenario.store);
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
                Act::Elsewhere => rename(&stage.source(0), &stage.elsewhere(run)),
                _ => {}
            }
            ours.push(measure::run(stage.commands(scenario.act, &server, clients, run), &server.side()));
            if scenario.act == Act::Elsewhere {
                rename(&stage.elsewhere(run), &stage.source(0));
            }
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
    fn new(options: &'a Options, kept: Kept) -> Stage<'a> {
        let folder =
            |place: &Path| TempDir::new_in(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        Stage { options, kept, memory: folder(&options.memory), store: folder(&options.store) }
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
            Corpus::Pieces => (0..PIECES).for_each(|number| {
                let piece = source.join(format!("piece-{number:02}.bin"));
                corpus::large_file(&piece, LARGE_BYTES / PIECES / scale, 100 + number);
            }),
            Corpus::Small => corpus::small_files(&source, SMALL_FILES / scale, 2, Texts::None),
            Corpus::Mixed => corpus::small_files(&source, SMALL_FILES / scale, 2, Texts::EverySecond),
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

    fn elsewhere(&self, run: u64) -> PathBuf {
        self.memory.path().join(format!("elsewhere-{run}"))
    }

    fn commands(&self, act: Act, server: &Server, clients: u64, run: u64) -> Vec<Command> {
        match act {
            Act::First | Act::Unchanged | Act::Changed => self.backups(server, clients),
            Act::Elsewhere => vec![self.backup(server, 0, &self.elsewhere(run))],
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
        (0..clients).map(|client| self.backup(server, client, &self.source(client))).collect()
    }

    fn backup(&self, server: &Server, client: u64, path: &Path) -> Command {
        let mut command = self.client(server, client, "backup");
        command.arg(path);
        if self.kept == Kept::InVault {
            command.arg("--vault");
        }
        command
    }

    fn client(&self, server: &Server, client: u64, command: &str) -> Command {
        let mut line = Command::new(&self.options.program);
        line.args([command, "--quiet", "--server", &server.address, "--user", &format!("client-{client}")]);
        line.arg("--state").arg(self.state(client));
        line.env(PASSPHRASE.0, PASSPHRASE.1);
        line
    }

    fn state(&self, client: u64) -> PathBuf {
        self.store.path().join(format!("state-{client}"))
    }

    fn create_vault(&self, client: u64) {
        let mut command = Command::new(&self.options.program);
        command.args(["vault", "create", "--low-memory", "--state"]).arg(self.state(client));
        let status = command.env(PASSPHRASE.0, PASSPHRASE.1).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "a vault cannot be made");
    }

    /// A server with an empty store, where each client is known already.
    fn start_server(&self, clients: u64) -> Server {
        let server = Server::start(&self.options.program, self.store.path().join("data"));
        let empty = self.memory.path().join("empty");
        fs::create_dir_all(&empty).expect("a folder can be made");
        for client in 0..clients {
            let status = self.client(&server, client, "backup").arg(&empty).stdout(Stdio::null()).status();
            assert!(status.is_ok_and(|status| status.success()), "a client cannot register");
            if self.kept == Kept::InVault {
                self.create_vault(client);
            }
        }
        server
    }

    fn forget(&self) {
        let _ = fs::remove_dir_all(self.store.path().join("data"));
        (0..CLIENTS).for_each(|client| {
            let _ = fs::remove_dir_all(self.state(client));
        });
    }

    /// The same by rsync, where it has such a thing and one client.
    fn run_peer(&self, rsync: &Rsync, scenario: &Scenario, clients: u64) -> Option<f64> {
        if clients > 1 || matches!(scenario.act, Act::List | Act::Elsewhere) {
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

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).expect("a source can be renamed");
}

/// A benchmark of wrong files would be worth nothing.
fn assert_same(original: &Path, restored: &Path) {
    let status = Command::new("diff").args(["-r", "-q"]).arg(original).arg(restored).status();
    assert!(status.is_ok_and(|status| status.success()), "what was restored differs");
}
