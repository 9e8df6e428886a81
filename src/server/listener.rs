//! The accept thread, the thread of each connection, and the end.
//!
//! ## The order of an end
//! The wish to stop wakes the accept thread, which accepts no more. Connections that work on nothing are
//! closed at once; the others have the grace, then their sockets are closed under them, which ends their
//! threads at the next read or write. The accept thread returns when every connection's thread is gone.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::admission::{self, Admitted};
use super::config::ServerConfig;
use super::connections::{Connection, Connections};
use super::error::ServerError;
use super::events::{self, EventKind, Events};
use super::failures::Failures;
use super::legacy::{self, HELD_MAX, Reservations};
use super::operator;
use super::overview::Overview;
use super::prune;
use super::semaphore::{Permit, Semaphore};
use super::server_keys::ServerKeys;
use super::session::{Failure, Session};
use super::sessions::{Guest, Live, Sessions};
use super::statistics::{Count, Report, Statistics};
use super::vault;
use super::waiting_room::WaitingRoom;
use crate::base::durable::Disk;
use crate::base::host::raise_descriptor_limit;
use crate::base::limits::HANDSHAKE_TIMEOUT;
use crate::base::shutdown::Shutdown;
use crate::base::waker::waker;
use crate::channel::{
    Channel, ChannelError, FirstRequest, LoginReceived, ServerHandshake, Terms, Transport, answer_general_error,
};
use crate::crypto::Fingerprint;
use crate::protocol::handshake::Refusal;
use crate::protocol::message::ToClient;
use crate::storage::{Outcome, Repaired, Store};

/// Connections that the system keeps for us before they are accepted.
const BACKLOG: i32 = 4_096;
/// How long a client that met a full server is asked to stay away.
pub const BUSY_SECONDS: u16 = 2;
/// How long accepting rests when the process is out of descriptors or memory.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);
/// What all connections share.
pub struct Shared {
    pub config: ServerConfig,
    pub store: Arc<Store>,
    pub statistics: Statistics,
    pub events: Arc<Events>,
    pub failures: Failures,
    pub(super) keys: Arc<ServerKeys>,
    pub(super) slots: Arc<Semaphore>,
    /// RSA work at a time: one permit for each core.
    pub(super) rsa_gate: Arc<Semaphore>,
    /// Legacy clients that are held until a session ends.
    pub(super) legacy_held: Arc<Semaphore>,
    /// Names given to legacy clients whose keys have not come yet.
    pub(super) legacy_names: Arc<Reservations>,
    room: Arc<WaitingRoom>,
    connections: Arc<Connections>,
    pub sessions: Arc<Sessions>,
    shutdown: Shutdown,
}

impl Shared {
    pub fn report(&self) -> Report {
        self.statistics.report(&self.slots, &self.room)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.keys.fingerprint()
    }

    /// Counts a failure on a connection, and keeps it for the operator.
    pub(super) fn fail(&self, connection: &Connection, text: &str) {
        self.statistics.count(Count::Failure);
        self.failures.note(connection.peer(), connection.client(), text);
    }
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
    operator: JoinHandle<()>,
    prune: Option<JoinHandle<()>>,
    /// Tells the operator; none where there is nothing to be told.
    teller: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens the store, reads or makes the key, listens, and begins to accept. The wish on `shutdown` ends
    /// it.
    pub fn start(config: ServerConfig, shutdown: Shutdown) -> Result<Server, ServerError> {
        raise_descriptor_limit();
        let store = Store::open_sealed(&config.data, Disk::real(), config.storage_keys.clone())?;
        store.unlocked()?;
        let store = Arc::new(store);
        for line in &store.recovery().lines {
            log::info!("{line}");
        }
        mend_vaults(&store);
        let keys = Arc::new(ServerKeys::open(&store, config.rsa_bits)?);
        let listener = listen(SocketAddr::new(config.bind, config.port))?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Io { doing: "read the listening address", source })?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            slots: Semaphore::new(config.max_clients.max(1)),
            rsa_gate: Semaphore::new(cores),
            legacy_held: Semaphore::new(HELD_MAX),
            legacy_names: Reservations::new(),
            room: WaitingRoom::new(),
            statistics: Statistics::new(),
            events: Events::new(&config.watch),
            failures: Failures::default(),
            connections: Connections::new(),
            sessions: Arc::default(),
            config,
            store,
            keys,
            shutdown,
        });
        let desk = operator::Desk {
            store: shared.store.clone(),
            keys: shared.keys.clone(),
            sessions: shared.sessions.clone(),
            shutdown: shared.shutdown.clone(),
        };
        let operator = operator::listen(desk.clone())?;
        let sweeping = shared.store.clone();
        shared.shutdown.close_on_request(move || sweeping.stop_sweeps());
        let daily = shared.config.daily_prune.clone();
        let start = |daily| prune::prune_daily(desk, shared.events.clone(), daily);
        let prune = daily.map(start).transpose()?;
        let (watch, shutdown) = (shared.config.watch.clone(), shared.shutdown.clone());
        let teller = events::start(watch, shared.events.clone(), shared.store.clone(), shutdown)?;
        let accepting = {
            let shared = shared.clone();
            spawn("accept", move || accept(&shared, &listener))?
        };
        Ok(Server { shared, address, accepting, operator, prune, teller })
    }

    /// Where it listens, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.fingerprint()
    }

    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// A look at it for its operator.
    pub fn overview(&self) -> Overview {
        Overview::new(self.shared.clone(), self.address)
    }

    /// Waits until the server has ended, in the order above.
    pub fn join(self) {
        for thread in [self.accepting, self.operator].into_iter().chain(self.prune).chain(self.teller) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Makes again what says who may use a vault, where one of its two files is lost.
fn mend_vaults(store: &Store) {
    match store.mend_vaults(true) {
        Ok(mended) => mended.iter().for_each(|Repaired { file, outcome, text, .. }| match outcome {
            Outcome::Lost => log::error!("damage: {}: lost: {text}", file.display()),
            _ => log::warn!("damage: {}: made again: {text}", file.display()),
        }),
        Err(error) => log::error!("who may use the vaults cannot be looked after: {error}"),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServerError> {
    let started = thread::Builder::new().name(name.to_string()).spawn(work);
    started.map_err(|source| ServerError::Io { doing: "start a thread", source })
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let bound = || -> io::Result<TcpListener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bound().map_err(|source| ServerError::Bind { address, source })
}

// ---- accepting ----

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let (waker, wakes) = match waker() {
        Ok(pair) => pair,
        Err(error) => return log::error!("cannot make the accept thread's waker: {error}"),
    };
    shared.shutdown.wake_on_request(waker.clone());
    shared.connections.wake_when_one_ends(waker);
    while !shared.shutdown.is_requested() {
        match listener.accept() {
            Ok((stream, peer)) => begin_connection(shared, stream, peer),
            Err(error) => match AcceptProblem::of(&error) {
                AcceptProblem::NothingThere => {
                    let _ =
                        poll(&mut [PollFd::new(listener, PollFlags::IN), PollFd::new(&wakes, PollFlags::IN)], None);
                    wakes.clear();
                }
                AcceptProblem::Aborted => {}
                AcceptProblem::Exhausted => {
                    log::warn!("cannot accept connections for now: {error}");
                    shared.shutdown.wait(EXHAUSTED_REST);
                }
            },
        }
        shared.connections.join_finished();
    }
    log::info!("stopping: no new connections");
    shared.connections.end(shared.config.grace);
    log::info!("stopped");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptProblem {
    NothingThere,
    /// The peer left before it was accepted, or a signal came: no failure at all.
    Aborted,
    /// No descriptors or memory: it passes when connections end.
    Exhausted,
}

impl AcceptProblem {
    fn of(error: &io::Error) -> AcceptProblem {
        match error.kind() {
            io::ErrorKind::WouldBlock => AcceptProblem::NothingThere,
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => AcceptProblem::Aborted,
            _ => AcceptProblem::Exhausted,
        }
    }
}

fn begin_connection(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let begun = || -> io::Result<()> {
        // A listener that does not block may hand its flag down; the transport sets it anyway.
        let transport = Transport::tcp(stream)?;
        let connection = shared.connections.add(peer, &transport);
        let number = connection.number();
        let owned = shared.clone();
        let handle = thread::Builder::new().name(format!("connection {peer}")).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| serve(&owned, transport, &connection)));
            conclude(&owned, &connection, result);
            drop(connection);
        })?;
        shared.connections.started(number, handle);
        Ok(())
    };
    if let Err(error) = begun() {
        log::warn!("{peer}: cannot serve this connection: {error}");
    }
}

fn conclude(shared: &Shared, connection: &Connection, result: thread::Result<Result<(), ChannelError>>) {
    let peer = connection.peer();
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) if shared.shutdown.is_requested() => log::info!("{peer}: ended: {error}"),
        Ok(Err(error)) => {
            shared.fail(connection, &error.to_string());
            log::warn!("{peer}: {error}");
        }
        // The panic's own message has been printed; its connection alone is over.
        Err(_) => {
            let text = "a fault in the program ended a connection";
            shared.fail(connection, text);
            log::error!("{peer}: {text}");
            shared.events.tell(EventKind::Failure, None, text);
        }
    }
}

// ---- one connection ----

fn serve(shared: &Arc<Shared>, transport: Transport, connection: &Connection) -> Result<(), ChannelError> {
    let peer = connection.peer();
    let seat = shared.room.enter(peer.ip(), transport.closer());
    let handshake = match FirstRequest::read(transport, HANDSHAKE_TIMEOUT)? {
        // Opened and closed without a byte: a port check, no failure.
        None => return Ok(()),
        Some(FirstRequest::Native(handshake)) => *handshake,
        Some(FirstRequest::Legacy { connection: line, header }) => {
            shared.statistics.count(Count::Connection);
            return legacy::serve(shared, line, header, seat, connection);
        }
        Some(FirstRequest::Unknown { transport }) => {
            let text = "not a message of this protocol";
            log::warn!("{peer}: {text}");
            shared.fail(connection, text);
            answer_general_error(&transport);
            return Ok(());
        }
    };
    shared.statistics.count(Count::Connection);
    let Some((channel, admitted, server_key)) = admit(shared, handshake, connection)? else { return Ok(()) };
    drop(seat);
    let Some((permit, channel)) = take_slot(shared, channel)? else { return Ok(()) };
    let session = begin_session(shared, &admitted, channel, server_key, connection)?;
    let result = session.map_or(Ok(()), Session::run);
    drop(permit);
    result
}

/// The server's key in a session.
struct ServerKey {
    fingerprint: Fingerprint,
    /// Whether the client is told of the next one.
    told: bool,
}

/// Messages 2 to 4 and the client's proof. None: it was told why not.
fn admit(
    shared: &Shared,
    handshake: ServerHandshake,
    connection: &Connection,
) -> Result<Option<(Channel, Admitted, ServerKey)>, ChannelError> {
    // A hint that costs neither side any RSA; who gets a slot is decided after the proof.
    if shared.slots.available() == 0 {
        shared.statistics.count(Count::BusyAnswer);
        handshake.busy(BUSY_SECONDS);
        return Ok(None);
    }
    let key = shared.keys.present();
    let terms = Terms {
        key: &key,
        window: *shared.config.window_bytes().start(),
        segments_per_epoch: shared.config.segments_per_epoch,
        timeout: shared.config.timeout,
        policy: shared.config.registration,
    };
    let (login, peer) = (handshake.answer(&terms)?, connection.peer());
    let Some(login) = login else {
        log::info!("{peer}: looked at the server's key and left");
        return Ok(None);
    };
    let admitted = match admission::decide(&shared.store, shared.config.registration, peer.ip(), &login) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refuse(shared, login, refusal, connection);
            return Ok(None);
        }
    };
    let server_key = ServerKey { fingerprint: key.public().fingerprint(), told: login.rotates_keys() };
    let agreed = {
        let _permit = shared.rsa_gate.acquire();
        login.agree(&key, admitted.client, &admitted.key)?
    };
    // The client's answer takes a round trip, and its work with its key.
    let began = Instant::now();
    let mut channel = agreed.confirm()?;
    channel.set_window(Channel::fitting_window(began.elapsed(), shared.config.window_bytes()));
    Ok(Some((channel, admitted, server_key)))
}

fn refuse(shared: &Shared, login: LoginReceived, refusal: Refusal, connection: &Connection) {
    let text = format!("refused {} ({refusal:?})", login.name());
    log::warn!("{}: {text}", connection.peer());
    shared.fail(connection, &text);
    login.refuse(refusal);
}

fn take_slot(shared: &Shared, mut channel: Channel) -> Result<Option<(Permit, Channel)>, ChannelError> {
    if let Some(permit) = Semaphore::try_acquire(&shared.slots) {
        return Ok(Some((permit, channel)));
    }
    shared.statistics.count(Count::BusyAnswer);
    channel.send_to_client(&ToClient::Busy { seconds: BUSY_SECONDS })?;
    channel.end_after_failure();
    Ok(None)
}

/// Registers a new client, now that it has proved its key, and makes the session. None: it was told why not.
fn begin_session<'a>(
    shared: &'a Arc<Shared>,
    admitted: &Admitted,
    mut channel: Channel,
    server_key: ServerKey,
    connection: &'a Connection,
) -> Result<Option<Session<'a>>, ChannelError> {
    let peer = connection.peer();
    let live = Live::new(&admitted.name, connection, false);
    let guest = Guest { closer: channel.closer(), live: live.clone() };
    let visit = shared.sessions.enter(admitted.client, Some(guest));
    connection.set_client(&admitted.name);
    match admitted.register(&shared.store, || shared.sessions.end_others(&visit)) {
        Ok(client) if client.id == admitted.client => {
            shared.statistics.count(Count::Session);
            let server_key = match server_key {
                ServerKey { fingerprint, told: true } => {
                    let next = shared.keys.announced(fingerprint).map(|next| *next.as_bytes());
                    channel.send_to_client(&ToClient::NextServerKey(next))?;
                    fingerprint
                }
                ServerKey { fingerprint, .. } => fingerprint,
            };
            channel.send_to_client(&ToClient::Welcome)?;
            channel.push()?;
            log::info!("{peer}: {} is here", client.name);
            Ok(Some(Session {
                shared,
                client,
                channel,
                server_key,
                connection,
                live,
                offered_key: None,
                vault: vault::Open::default(),
                _visit: visit,
            }))
        }
        other => {
            let (answer, text) = match other {
                // Registered by another connection in the same moment, under another id: known when it comes again.
                Ok(_) => {
                    (ToClient::Busy { seconds: BUSY_SECONDS }, "registered by two connections at once".to_string())
                }
                Err(error) => {
                    let text = format!("cannot register {}: {error}", admitted.name);
                    log::error!("{peer}: {text}");
                    (Failure::from(error).to_message(), text)
                }
            };
            shared.fail(connection, &text);
            channel.send_to_client(&answer)?;
            channel.end_after_failure();
            Ok(None)
        }
    }
}
