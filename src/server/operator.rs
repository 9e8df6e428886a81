//! The operator's commands on a data folder. They take the folder's lock; where a server holds it, they hand
//! the command to that server over a private socket in the folder and print its answers, so that both ways
//! do the same.
//!
//! One line of JSON each way: a command, then an answer. The socket has mode 0700, as has a data folder that the store
//! made: whoever reaches it could read the store anyway.

use std::fmt;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ServerError;
use super::prune::{self, PruneRequest};
use crate::base::durable::Disk;
use crate::base::folder::open_folder;
use crate::base::ids::UserName;
use crate::base::shutdown::Shutdown;
use crate::base::waker::waker;
use crate::crypto::{EnrolToken, Fingerprint, Secret};
use crate::storage::{StorageKeys, Store, StoreError};

use super::server_keys::{KEY_NAME, ServerKeys};
use super::sessions::Sessions;

mod clients;
mod export;
mod repair;
pub(super) mod verify;

pub(super) use clients::row as client_row;
pub use export::{ExportRequest, export};
pub use repair::{RepairRequest, repair};
pub use verify::{VerifyRequest, verify};

/// Longest line on the socket, in bytes.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a command may take to be sent, and its answer to be read by the other side.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the server says that it still works on a command: with a space before its answer, which means nothing.
const SIGN_INTERVAL: Duration = Duration::from_secs(10);
/// How long no such sign may come. A server that ends is noticed at once.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Mode of the socket: whoever may write to it may use it.
const SOCKET_MODE: u32 = 0o700;
/// Commands that are worked on at a time; one more is sent away.
const COMMANDS_MAX: usize = 8;
/// How long a name stays open for a registration in the legacy dialect.
const LEGACY_OPENING: Duration = Duration::from_secs(3_600);
/// Most tokens that one command makes.
const TOKENS_MAX: u32 = 10_000;

/// What an operator can ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum OperatorCommand {
    /// One row for each client, or for each that has stored nothing for so many seconds.
    Clients {
        stale_seconds: Option<u64>,
    },
    /// Forgets a client's key.
    ResetClient {
        name: UserName,
    },
    /// Removes a client and all it stored.
    RemoveClient {
        name: UserName,
    },
    /// Sets how many bytes a client may store, or that it may store any number.
    SetQuota {
        name: UserName,
        bytes: Option<u64>,
    },
    RenameClient {
        name: UserName,
        new: UserName,
    },
    /// A token for `name`, or for `name-1` to `name-<count>`.
    Enroll {
        name: UserName,
        count: Option<u32>,
        valid_hours: u32,
    },
    /// Opens `name` for one registration in the legacy dialect.
    /// The server's key and the next one, and which clients have pinned that.
    ServerKey,
    /// Makes the server's next key; it is used by itself after so long.
    RotateServerKey {
        bits: usize,
        after_seconds: Option<u64>,
    },
    /// Uses the server's next key from now on.
    FinishServerKey,
    /// Drops the server's next key.
    WithdrawServerKey,
    EnrollLegacy {
        name: UserName,
    },
    /// A row for each snapshot that was dropped (or looked at, in a dry run), and for each client.
    Prune(PruneRequest),
    /// Has a snapshot kept whatever the rules say, or no longer so.
    Hold {
        client: Option<UserName>,
        snapshot: String,
        hold: bool,
    },
}

/// Why a command was not carried out.
#[derive(Debug)]
pub enum OperatorError {
    Store(StoreError),
    /// The server that holds the folder did not answer.
    Unreachable {
        folder: PathBuf,
        source: std::io::Error,
    },
    /// The answer of the server that holds the folder.
    Refused(String),
    /// No server has ever run on this folder.
    NoServer {
        folder: PathBuf,
    },
    /// The server has clients, and its key is gone or damaged.
    KeyGone {
        path: PathBuf,
    },
}

impl fmt::Display for OperatorError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperatorError::Store(error) => write!(formatter, "{error}"),
            OperatorError::Unreachable { folder, source } => write!(
                formatter,
                "the process that holds {} does not take commands ({source}): end it, or wait until it is done",
                folder.display()
            ),
            OperatorError::Refused(text) => write!(formatter, "{text}"),
            OperatorError::KeyGone { path } => write!(
                formatter,
                "{} is gone or damaged: put the file back from a copy, or see what \"cyberbackup server --repair --dry-run\" says",
                path.display()
            ),
            OperatorError::NoServer { folder } => write!(
                formatter,
                "{} holds no server's data: name the server's data folder with --data, or start \
                 \"cyberbackup server\" once",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for OperatorError {}

impl From<StoreError> for OperatorError {
    fn from(error: StoreError) -> OperatorError {
        OperatorError::Store(error)
    }
}

/// Carries a command out on the data folder, by itself or through the server that holds it. Gives the rows
/// of the answer.
pub fn operate(data: &Path, command: &OperatorCommand) -> Result<Vec<Value>, OperatorError> {
    operate_sealed(data, StorageKeys::default(), command)
}

/// As [`operate`], with the storage key, for commands that read what is sealed. A server that holds the folder has it.
pub fn operate_sealed(
    data: &Path,
    keys: StorageKeys,
    command: &OperatorCommand,
) -> Result<Vec<Value>, OperatorError> {
    match desk_of(data, keys) {
        Ok(desk) => Ok(execute(&desk, command)?),
        Err(OperatorError::Store(StoreError::Locked { .. })) => hand_over(data, command)
            .map_err(|source| OperatorError::Unreachable { folder: data.to_path_buf(), source })?,
        Err(error) => Err(error),
    }
}

/// A desk on a data folder that no server holds.
fn desk_of(data: &Path, keys: StorageKeys) -> Result<Desk, OperatorError> {
    let key = data.join("keys").join(KEY_NAME);
    if !key.exists() {
        let has_clients = std::fs::read_dir(data.join("clients")).is_ok_and(|mut clients| clients.next().is_some());
        let folder = data.to_path_buf();
        return Err(if has_clients {
            OperatorError::KeyGone { path: key }
        } else {
            OperatorError::NoServer { folder }
        });
    }
    let store = Arc::new(Store::open_sealed(data, Disk::real(), keys)?);
    let keys = ServerKeys::read(&store).ok().flatten().ok_or(OperatorError::KeyGone { path: key })?;
    Ok(Desk { store, keys: Arc::new(keys), sessions: Arc::default(), shutdown: Shutdown::new() })
}

/// One that needs no key, on a data folder that no server holds: the key may be what is damaged.
fn desk_to_read(data: &Path, keys: StorageKeys) -> Result<ReadingDesk, OperatorError> {
    if !data.join("keys").is_dir() {
        return Err(OperatorError::NoServer { folder: data.to_path_buf() });
    }
    let keys = StorageKeys { mend: true, ..keys };
    let store = Arc::new(Store::open_sealed(data, Disk::real(), keys)?);
    store.unlocked()?;
    Ok(ReadingDesk { store, sessions: Arc::default(), shutdown: Shutdown::new() })
}

/// What commands are carried out on.
#[derive(Clone)]
pub(super) struct Desk {
    pub store: Arc<Store>,
    pub keys: Arc<ServerKeys>,
    pub sessions: Arc<Sessions>,
    /// The wish that the server ends.
    pub shutdown: Shutdown,
}

impl Desk {
    /// What reading alone needs.
    pub(super) fn to_read(&self) -> ReadingDesk {
        let Desk { store, sessions, shutdown, .. } = self.clone();
        ReadingDesk { store, sessions, shutdown }
    }
}

/// What verifying needs: all but the keys, which may be what is damaged.
pub(super) struct ReadingDesk {
    pub store: Arc<Store>,
    pub sessions: Arc<Sessions>,
    /// The wish that it ends.
    pub shutdown: Shutdown,
}

fn execute(desk: &Desk, command: &OperatorCommand) -> Result<Vec<Value>, StoreError> {
    match command {
        OperatorCommand::Clients { stale_seconds } => {
            clients::rows(&desk.store, stale_seconds.map(Duration::from_secs))
        }
        OperatorCommand::ResetClient { name } => clients::reset(desk, name),
        OperatorCommand::RemoveClient { name } => clients::remove(desk, name),
        OperatorCommand::SetQuota { name, bytes } => clients::set_quota(desk, name, *bytes),
        OperatorCommand::RenameClient { name, new } => clients::rename(desk, name, new),
        OperatorCommand::Prune(request) => {
            desk.store.unlocked()?;
            prune::prune(&desk.store, request)
        }
        OperatorCommand::Hold { client, snapshot, hold } => {
            prune::hold(&desk.store, client.as_ref(), snapshot, *hold)
        }
        OperatorCommand::Enroll { name, count, valid_hours } => {
            let lifetime = Duration::from_secs(u64::from(*valid_hours) * 3_600);
            let names = names(name, *count)?;
            // All names first: a token that was made and is shown to nobody is worth nothing.
            let taken = |name: &&UserName| desk.store.client_named(name).is_some_and(|client| !client.is_reset());
            if let Some(taken) = names.iter().find(taken) {
                return Err(StoreError::NameTaken { name: taken.to_string() });
            }
            names.iter().map(|name| enroll(&desk.store, desk.keys.fingerprint(), name, lifetime)).collect()
        }
        OperatorCommand::ServerKey => Ok(server_key_rows(desk)),
        OperatorCommand::RotateServerKey { bits, after_seconds } => {
            desk.keys.announce(*bits, after_seconds.map(Duration::from_secs)).map(|()| server_key_rows(desk))
        }
        OperatorCommand::FinishServerKey => desk.keys.finish().map(|()| server_key_rows(desk)),
        OperatorCommand::WithdrawServerKey => desk.keys.withdraw().map(|()| server_key_rows(desk)),
        OperatorCommand::EnrollLegacy { name } => enroll_legacy(&desk.store, name),
    }
}

/// The keys in one row, with the names of the clients that have not pinned the next one.
fn server_key_rows(desk: &Desk) -> Vec<Value> {
    let mut row = desk.keys.row();
    let next = row["next_fingerprint"].as_str().map(str::to_string);
    if next.is_some() {
        let clients = desk.store.clients().into_iter();
        let untold = clients.filter(|client| client.pinned_server_key != next && !client.legacy);
        row["clients_to_tell"] = untold.map(|client| client.name.to_string()).collect();
    }
    vec![row]
}

fn enroll_legacy(store: &Store, name: &UserName) -> Result<Vec<Value>, StoreError> {
    if store.client_named(name).is_some() {
        return Err(StoreError::NameTaken { name: name.to_string() });
    }
    let expires = store.open_to_legacy(name, LEGACY_OPENING)?;
    Ok(vec![json!({ "name": name, "legacy": true, "expires": expires.to_string() })])
}

fn names(name: &UserName, count: Option<u32>) -> Result<Vec<UserName>, StoreError> {
    let not_found = |what: String| StoreError::NotFound { what };
    match count {
        None => Ok(vec![name.clone()]),
        Some(count) if count > TOKENS_MAX => Err(not_found(format!("at most {TOKENS_MAX} tokens at a time"))),
        Some(count) => (1..=count)
            .map(|number| format!("{name}-{number}").parse().map_err(|error| not_found(format!("{error}"))))
            .collect(),
    }
}

fn enroll(
    store: &Store,
    fingerprint: Fingerprint,
    name: &UserName,
    lifetime: Duration,
) -> Result<Value, StoreError> {
    let secret = Secret::from_bytes(store.create_token(name, lifetime)?);
    let token = EnrolToken { secret, server: fingerprint };
    Ok(json!({ "name": name, "token": token.to_text().as_str(), "valid_hours": lifetime.as_secs() / 3_600 }))
}

// ---- the socket ----

/// What the server answers: rows, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Rows(Vec<Value>),
    Error(String),
}

/// The path of the socket, short enough for the system's limit of about 100 bytes: through the handle of its
/// folder where the folder's own path is too long. The handle must stay open while the path is used.
fn with_socket_path<T>(
    data: &Path,
    name: &str,
    use_path: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    const SOCKET_PATH_BYTES_MAX: usize = 100;
    let path = data.join(name);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return use_path(&path);
    }
    let folder = open_folder(data)?;
    use_path(&PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

const SOCKET_NAME: &str = "control.sock";

/// Takes commands for a running server until `shutdown`.
pub(super) fn listen(desk: Desk) -> Result<JoinHandle<()>, ServerError> {
    let failed = |source| ServerError::Io { doing: "open the operator's socket in the data folder", source };
    let data = desk.store.path().to_path_buf();
    // This process holds the folder's lock, so a socket that is there is left over.
    let _ = std::fs::remove_file(data.join(SOCKET_NAME));
    let bind = |path: &Path| {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        Ok(listener)
    };
    let listener = with_socket_path(&data, SOCKET_NAME, bind).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let (waker, wakes) = waker().map_err(failed)?;
    desk.shutdown.wake_on_request(waker);
    let shutdown = desk.shutdown.clone();
    let serve = move || {
        let working = AtomicUsize::new(0);
        thread::scope(|scope| {
            while !shutdown.is_requested() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let serve = || serve_counted(&desk, &working, stream);
                        if let Err(error) = thread::Builder::new().name("command".into()).spawn_scoped(scope, serve)
                        {
                            log::warn!("cannot take an operator's command: {error}");
                        }
                    }
                    Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                        log::warn!("cannot take operator's commands for now: {error}");
                        shutdown.wait(Duration::from_millis(100));
                    }
                    Err(_) => {
                        let _ = poll(
                            &mut [PollFd::new(&listener, PollFlags::IN), PollFd::new(&wakes, PollFlags::IN)],
                            None,
                        );
                    }
                }
            }
        });
        let _ = std::fs::remove_file(data.join(SOCKET_NAME));
    };
    thread::Builder::new().name("operator".to_string()).spawn(serve).map_err(failed)
}

fn serve_counted(desk: &Desk, working: &AtomicUsize, stream: UnixStream) {
    let is_free = working.fetch_add(1, Ordering::SeqCst) < COMMANDS_MAX;
    if let Err(error) = serve_command(desk, is_free, stream) {
        log::warn!("an operator's command failed: {error}");
    }
    working.fetch_sub(1, Ordering::SeqCst);
}

fn serve_command(desk: &Desk, is_free: bool, mut stream: UnixStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    let line = read_line(&stream)?;
    if let (true, Ok(export::ExportLine { export })) = (is_free, serde_json::from_str(&line)) {
        return export::serve(desk, &export, stream);
    }
    if let (true, Ok(verify::VerifyLine { verify })) = (is_free, serde_json::from_str(&line)) {
        return verify::serve(&desk.to_read(), &verify, stream);
    }
    let answer = match serde_json::from_str::<OperatorCommand>(&line) {
        Ok(_) if !is_free => {
            Answer::Error("the server works on other commands: try again when they are done".into())
        }
        Ok(command) => {
            log::info!("operator: {line}");
            match with_signs(&stream, SIGN_INTERVAL, || execute(desk, &command)) {
                Ok(rows) => Answer::Rows(rows),
                Err(error) => Answer::Error(error.to_string()),
            }
        }
        Err(error) => Answer::Error(format!("this server does not know the command: {error}")),
    };
    serde_json::to_writer(&stream, &answer)?;
    stream.write_all(b"\n")
}

/// Works, and lets the peer know meanwhile that it goes on.
fn with_signs<T>(stream: &UnixStream, interval: Duration, work: impl FnOnce() -> T) -> T {
    let (working, ended) = bounded::<()>(0);
    let tell = move || {
        let mut stream = stream;
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            // Whoever is gone gets no answer either; the work is done all the same.
            if stream.write_all(b" ").is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        // Where the system refuses a thread, the answer comes without signs.
        let _ = thread::Builder::new().name("operator sign".to_string()).spawn_scoped(scope, tell);
        let result = work();
        drop(working);
        result
    })
}

fn read_line(stream: &UnixStream) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_string())
}

fn hand_over(data: &Path, command: &OperatorCommand) -> std::io::Result<Result<Vec<Value>, OperatorError>> {
    let mut stream = with_socket_path(data, SOCKET_NAME, |path| UnixStream::connect(path))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    serde_json::to_writer(&stream, command)?;
    stream.write_all(b"\n")?;
    let answer = serde_json::from_str(&read_line(&stream)?)?;
    Ok(match answer {
        Answer::Rows(rows) => Ok(rows),
        Answer::Error(text) => Err(OperatorError::Refused(text)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ClientId;

    #[test]
    fn a_command_that_takes_its_time_gives_signs_of_life_before_its_answer() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let (heard, wait) = std::sync::mpsc::channel();
        let serving = thread::spawn(move || {
            // As long as it takes until three signs have come.
            with_signs(&server, Duration::from_millis(5), || wait.recv().unwrap());
            serde_json::to_writer(&server, &Answer::Rows(vec![Value::from(7)])).unwrap();
            (&server).write_all(b"\n").unwrap();
        });
        let mut signs = [0; 3];
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.read_exact(&mut signs).unwrap();
        heard.send(()).unwrap();
        assert_eq!(signs, *b"   ");
        let Ok(Answer::Rows(rows)) = serde_json::from_str(&read_line(&client).unwrap()) else { panic!("no rows") };
        assert_eq!(rows, [Value::from(7)]);
        serving.join().unwrap();
    }

    #[test]
    fn a_name_that_is_taken_makes_no_token_for_any() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), Disk::real()).unwrap());
        // The key first: a store with clients and without it is a damaged one.
        let keys = Arc::new(ServerKeys::open(&store, 1_024).unwrap());
        store.register(ClientId::random(), &"ada-2".parse().unwrap(), b"key", false).unwrap();
        let desk = Desk { keys, store, sessions: Arc::default(), shutdown: Shutdown::new() };
        let command =
            |count| OperatorCommand::Enroll { name: "ada".parse().unwrap(), count: Some(count), valid_hours: 1 };
        let error = execute(&desk, &command(3)).unwrap_err().to_string();
        assert!(error.starts_with("the name ada-2 belongs to another key"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("tokens")).unwrap().count(), 0);
        assert_eq!(execute(&desk, &command(1)).unwrap().len(), 1);
    }
}
