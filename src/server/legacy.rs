//! A client of the legacy dialect: one request after the other, on the port and under the caps of native ones.
//!
//! Nothing in that dialect proves who speaks: whoever knows a name and an id is taken for that client, and whoever
//! can change bytes on the way can change files. So what such a client stores is marked as unauthenticated, it can
//! read nothing back, and it can add snapshots of its own and touch nothing else. A client that has logged in
//! natively once is never served here again.
//!
//! The permit is taken before the first answer that lets a client in (1600, 1602, 1605); up to there its connection
//! waits among those that have proved nothing, with their allowance of time.

mod admission;
mod files;
mod superseded;
mod transfer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::Connection;
use super::events::EventKind;
use super::listener::Shared;
use super::semaphore::{Permit, Semaphore};
use super::session::failure_code;
use super::sessions::{Doing, Guest, Live, Visit};
use super::statistics::Count;
use super::waiting_room::Seat;
use crate::base::ids::ClientId;
use crate::base::limits::SLOWEST_BYTES_PER_SECOND;
use crate::base::zeros::resize_zeroed;
use crate::channel::{ChannelError, PlainConnection};
use crate::crypto::{PublicKey, Secret};
use crate::protocol::header::RequestHeader;
use crate::protocol::legacy::{
    FILE_PACKET_FIXED_BYTES, FileName, FilePacket, NameField, REQUEST_CODES, Request, Response, VERSIONS,
    request_code, request_payload_bytes,
};
use crate::protocol::message::FailureCode;
use crate::storage::{ClientRecord, StoreError};

pub use admission::Reservations;
use admission::Reserved;
use files::Files;

/// How long a client may be silent between two requests, at least: older ones encrypt a whole file first.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Clients that are held at a time until a session ends.
pub const HELD_MAX: usize = 64;
/// How long each of them is held.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How often it is looked whether a client that is held has left.
const HELD_LOOK: Duration = Duration::from_millis(250);
/// Refusals (1601, 1606, 1607) on one connection before it is closed: each is a line in the log.
const REFUSALS_MAX: u32 = 16;
/// What is read from the socket at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a request has no good answer.
#[derive(Debug)]
enum Problem {
    /// 1607; the connection goes on.
    Refused(String),
    /// 1607 and a close; for the operator, what that is.
    Ending(String, FailureCode),
    Lost(ChannelError),
}

fn refused(problem: impl Into<String>) -> Problem {
    Problem::Refused(problem.into())
}

fn ending(problem: impl Into<String>) -> Problem {
    Problem::Ending(problem.into(), FailureCode::OutOfPlace)
}

impl From<ChannelError> for Problem {
    fn from(error: ChannelError) -> Problem {
        Problem::Lost(error)
    }
}

/// What the client has done wrong is over with an answer; where the store fails, nothing more can be taken in.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match &error {
            StoreError::NameTaken { .. } => refused(error.to_string()),
            _ if error.is_peer_fault() => refused(error.to_string()),
            _ => Problem::Ending(error.to_string(), failure_code(&error)),
        }
    }
}

/// Serves a connection whose first request has this header.
pub fn serve(
    shared: &Arc<Shared>,
    line: PlainConnection,
    first: RequestHeader,
    seat: Seat,
    connection: &Connection,
) -> Result<(), ChannelError> {
    if !shared.config.legacy {
        let text = format!("a legacy client (code {}): --legacy is off", first.code);
        log::warn!("{}: {text}", connection.peer());
        shared.fail(connection, &text);
        line.end(&Response::GeneralError.encode());
        return Ok(());
    }
    let mut session = Session {
        shared,
        line,
        peer: connection.peer(),
        connection,
        standing: Standing::Waiting(seat),
        who: Who::Nobody,
        files: Files::new(),
        refusals: 0,
        counted: (0, 0),
    };
    let last_word = session.run(first);
    let Session { line, mut files, standing, .. } = session;
    // What was under way is dropped before the peer is waited for, and the permit before anything is swept.
    files.clear();
    connection.set_working(false);
    match last_word {
        Ok(LastWord::GeneralError) => line.end(&Response::GeneralError.encode()),
        _ => drop(line),
    }
    drop(standing);
    files.finish(&shared.store);
    last_word.map(|_| ())
}

/// What is said before a connection is closed.
enum LastWord {
    Nothing,
    GeneralError,
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    line: PlainConnection,
    peer: SocketAddr,
    connection: &'a Connection,
    standing: Standing,
    who: Who,
    files: Files,
    refusals: u32,
    /// Bytes received and sent that are in the statistics.
    counted: (u64, u64),
}

/// Whether the connection counts among the sessions.
enum Standing {
    Waiting(#[allow(dead_code, reason = "held until it is dropped")] Seat),
    /// Between the waiting room and a session, for a moment.
    Held,
    Session(#[allow(dead_code, reason = "held until it is dropped")] Permit),
}

/// Whom the connection speaks for.
enum Who {
    Nobody,
    /// It got 1600; nothing is written before the key comes.
    Registered(Reserved),
    /// It has a key for files.
    Client {
        record: Arc<ClientRecord>,
        file_key: Arc<Secret<32>>,
        /// For the operator: it is being served.
        #[allow(dead_code, reason = "held until it is dropped")]
        visit: Visit,
        live: Arc<Live>,
    },
}

impl Session<'_> {
    fn run(&mut self, first: RequestHeader) -> Result<LastWord, ChannelError> {
        let mut header = first;
        loop {
            self.allow_message(header.payload_bytes);
            let answered = self.answer(&header);
            self.connection.set_working(self.files.are_under_way());
            self.show_whether_idle();
            self.count_bytes();
            match answered {
                Ok(None) => {}
                Ok(Some(Response::RegistrationRefused | Response::ReconnectRefused { .. })) if self.is_tiring() => {
                    return Ok(LastWord::GeneralError);
                }
                Ok(Some(response)) => self.line.write_all(&response.encode())?,
                Err(Problem::Lost(error)) => return Err(error),
                Err(Problem::Ending(problem, code)) => {
                    self.note(&problem);
                    self.tell(&problem, code);
                    return Ok(LastWord::GeneralError);
                }
                Err(Problem::Refused(problem)) => {
                    self.note(&problem);
                    if self.is_tiring() {
                        return Ok(LastWord::GeneralError);
                    }
                    self.line.write_all(&Response::GeneralError.encode())?;
                }
            }
            self.files.tidy_when_due(&self.shared.store);
            if self.is_session() {
                self.line.allow(SILENCE_MAX.max(self.shared.config.timeout));
            }
            header = match self.line.read_header()? {
                Some(header) => header,
                None if self.files.are_under_way() => return Err(ChannelError::Lost),
                None => return Ok(LastWord::Nothing),
            };
        }
    }

    /// Counts a refusal; says whether it was one too many.
    fn is_tiring(&mut self) -> bool {
        self.refusals += 1;
        self.refusals > REFUSALS_MAX
    }

    fn is_session(&self) -> bool {
        matches!(self.standing, Standing::Session(_))
    }

    /// A message has its own time once the client is let in; before, all share the allowance of the beginning.
    fn allow_message(&mut self, payload_bytes: u32) {
        if self.is_session() {
            let for_size = Duration::from_secs(u64::from(payload_bytes) / SLOWEST_BYTES_PER_SECOND);
            self.line.allow(self.shared.config.timeout + for_size);
        }
    }

    fn note(&self, problem: &str) {
        self.shared.fail(self.connection, problem);
        log::warn!("{} (legacy): {problem}", self.peer);
    }

    /// Tells the operator of what ended the session of a client.
    fn tell(&self, problem: &str, code: FailureCode) {
        if let (Who::Client { record, .. }, Some(kind)) = (&self.who, EventKind::of_failure(code)) {
            self.shared.events.tell(kind, Some(record.name.as_str()), problem);
        }
    }

    /// Between two files of a run it is idle.
    fn show_whether_idle(&self) {
        if let Who::Client { live, .. } = &self.who
            && !self.files.are_under_way()
        {
            live.set(Doing::Idle);
        }
    }

    fn count_bytes(&mut self) {
        let (received, sent) = self.line.counts();
        self.shared.statistics.add_bytes(received - self.counted.0, sent - self.counted.1);
        self.counted = (received, sent);
    }

    fn answer(&mut self, header: &RequestHeader) -> Result<Option<Response>, Problem> {
        let sizes = request_payload_bytes(header.code).filter(|_| REQUEST_CODES.contains(&header.code));
        if !VERSIONS.contains(&header.version) {
            return Err(ending(format!("version {}", header.version)));
        }
        if !sizes.is_some_and(|sizes| sizes.contains(&header.payload_bytes)) {
            let (code, bytes) = (header.code, header.payload_bytes);
            return Err(ending(format!("a request with code {code} and {bytes} bytes")));
        }
        if header.code == request_code::FILE_PACKET {
            return self.packet(header);
        }
        let mut payload = vec![0; header.payload_bytes as usize];
        self.line.read_exact(&mut payload)?;
        let request = Request::decode(header.code, &payload).map_err(|error| ending(error.to_string()))?;
        let answer = match request {
            Request::Register { name } => self.register(&name),
            Request::SendKey { name, public_key } => self.take_key(header.client, &name, &public_key),
            Request::Reconnect { name } => self.reconnect(header.client, &name),
            Request::CrcMatched { file } => self.conclude(header.client, &file, Files::confirm),
            Request::CrcDiffers { file } => self.conclude(header.client, &file, Files::expect_again),
            Request::CrcGivingUp { file } => self.conclude(header.client, &file, Files::give_up),
        };
        answer.map(Some)
    }

    // ---- who it is ----

    fn register(&mut self, name: &NameField) -> Result<Response, Problem> {
        let (store, policy) = (&self.shared.store, self.shared.config.registration);
        let allowed = admission::may_register(store, policy, self.peer.ip(), name);
        let name = match allowed {
            Ok(name) => name,
            Err(reason) => return Ok(self.refuse_registration(reason)),
        };
        self.enter()?;
        let id = admission::version_4(self.shared.store.fresh_client_id(&name));
        let Some(reserved) = self.shared.legacy_names.reserve(&name, id) else {
            return Ok(self.refuse_registration(format!("{name} is being registered by another connection")));
        };
        self.forget();
        self.who = Who::Registered(reserved);
        Ok(Response::Registered { client: id })
    }

    fn refuse_registration(&self, reason: String) -> Response {
        self.note(&format!("registration refused: {reason}"));
        Response::RegistrationRefused
    }

    fn take_key(&mut self, id: ClientId, name: &NameField, key: &[u8]) -> Result<Response, Problem> {
        let name = name.user_name().map_err(|error| refused(error.to_string()))?;
        let known = self.shared.store.client(id).filter(|record| record.legacy && record.is_called(&name));
        let record = match (known, &self.who) {
            (Some(record), _) if record.public_key == key => record,
            (None, Who::Registered(reserved)) if reserved.is_of(id, &name) => {
                let key = PublicKey::from_legacy_der(key).map_err(|error| refused(error.to_string()))?;
                self.shared.store.register_legacy(id, &name, key.spki_der())?
            }
            _ => return Err(refused(format!("a key for {name} that is not the registered one"))),
        };
        let wrapped_key = self.let_in(record)?;
        Ok(Response::KeyTaken { client: id, wrapped_key })
    }

    fn reconnect(&mut self, id: ClientId, name: &NameField) -> Result<Response, Problem> {
        let name = name.user_name().ok();
        let is_called = |record: &ClientRecord| name.as_ref().is_some_and(|name| record.is_called(name));
        let record = self.shared.store.client(id).filter(|record| is_called(record));
        let reason = match &record {
            None => Some("reconnect refused: no client has this id and name".to_string()),
            Some(record) if !record.legacy => {
                Some(format!("reconnect refused: {} has moved over to the native protocol", record.name))
            }
            Some(_) => None,
        };
        match (record, reason) {
            (Some(record), None) => {
                let wrapped_key = self.let_in(record)?;
                Ok(Response::Reconnected { client: id, wrapped_key })
            }
            (_, reason) => {
                self.note(&reason.unwrap_or_default());
                Ok(Response::ReconnectRefused { client: id })
            }
        }
    }

    /// Takes the client for who it says it is, with a fresh key for its files, wrapped.
    fn let_in(&mut self, record: Arc<ClientRecord>) -> Result<[u8; 128], Problem> {
        self.enter()?;
        let live = Live::new(&record.name, self.connection, true);
        let guest = Guest { closer: self.line.closer(), live: live.clone() };
        let visit = self.shared.sessions.enter(record.id, Some(guest));
        // Removed or reset in the same moment?
        if self.shared.store.client(record.id).is_none_or(|now| now.public_key != record.public_key) {
            return Err(ending(format!("{} is no client any more", record.name)));
        }
        let public_key = PublicKey::from_spki_der(&record.public_key);
        let public_key = public_key.map_err(|error| ending(format!("the recorded key: {error}")))?;
        let file_key = Arc::new(Secret::random());
        let wrapped = {
            let _permit = self.shared.rsa_gate.acquire();
            public_key.wrap_file_key(self.shared.config.legacy_oaep, &file_key)
        };
        let wrapped = wrapped.map_err(|error| ending(error.to_string()))?;
        self.forget();
        log::info!("{}: {} is here, in the legacy dialect", self.peer, record.name);
        self.shared.statistics.count(Count::Session);
        self.connection.set_client(&record.name);
        self.who = Who::Client { record, file_key, visit, live };
        Ok(wrapped)
    }

    /// What went before on this connection is over.
    fn forget(&mut self) {
        self.files.clear();
        if let Who::Registered(reserved) = std::mem::replace(&mut self.who, Who::Nobody)
            && self.shared.store.client(reserved.id()).is_some()
        {
            reserved.fulfil();
        }
    }

    /// Becomes a session, unless it is one: leaves the waiting room, and is held until a permit is free.
    fn enter(&mut self) -> Result<(), Problem> {
        if self.is_session() {
            return Ok(());
        }
        if let Some(permit) = self.shared.slots.try_acquire() {
            self.standing = Standing::Session(permit);
            return Ok(());
        }
        let Some(_place) = self.shared.legacy_held.try_acquire() else { return Err(self.busy()) };
        self.standing = Standing::Held;
        log::info!("{} (legacy): held until a session ends", self.peer);
        let until = Instant::now() + HELD_FOR;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(permit) = Semaphore::acquire_within(&self.shared.slots, left.min(HELD_LOOK)) {
                self.standing = Standing::Session(permit);
                return Ok(());
            }
            if self.line.is_gone() {
                return Err(ChannelError::Lost.into());
            }
            if left.is_zero() {
                return Err(self.busy());
            }
        }
    }

    fn busy(&self) -> Problem {
        self.shared.statistics.count(Count::BusyAnswer);
        ending("no session became free")
    }

    // ---- files ----

    fn packet(&mut self, header: &RequestHeader) -> Result<Option<Response>, Problem> {
        let mut fixed = [0; FILE_PACKET_FIXED_BYTES];
        self.line.read_exact(&mut fixed)?;
        let packet = FilePacket::decode(header.payload_bytes, &fixed).map_err(|error| ending(error.to_string()))?;
        let name = packet.file.file_name().map_err(|error| ending(error.to_string()))?;
        let mut payload = Payload { line: &mut self.line, left: packet.content_bytes as usize, piece: Vec::new() };
        let taken = match &self.who {
            Who::Client { record, file_key, live, .. } if record.id == header.client => {
                live.set(Doing::Receiving);
                self.connection.set_working(true);
                self.files.take(&self.shared.store, record.id, file_key, &packet, &name, &mut payload)
            }
            _ => Err(refused("a file before the exchange of keys")),
        };
        // A refusal goes out when the packet has been read: what follows it is the next request.
        if let Err(Problem::Refused(_)) = &taken {
            payload.skip()?;
        }
        let received = taken?;
        Ok(received.map(|received| Response::FileReceived {
            client: header.client,
            ciphertext_bytes: received.ciphertext_bytes,
            file: packet.file,
            checksum: received.checksum,
        }))
    }

    /// 1029 to 1031.
    fn conclude(
        &mut self,
        id: ClientId,
        file: &NameField,
        conclude: impl FnOnce(&mut Files, &Shared, &ClientRecord, &FileName) -> Result<(), Problem>,
    ) -> Result<Response, Problem> {
        let name = file.file_name().map_err(|error| ending(error.to_string()))?;
        match &self.who {
            Who::Client { record, .. } if record.id == id => {
                conclude(&mut self.files, self.shared, record, &name)?;
                Ok(Response::Acknowledged { client: id })
            }
            _ => Err(refused("the end of a file before the exchange of keys")),
        }
    }
}

/// The ciphertext of a packet, on its way from the socket.
struct Payload<'a> {
    line: &'a mut PlainConnection,
    left: usize,
    piece: Vec<u8>,
}

impl Payload<'_> {
    /// The next piece; none at the end.
    fn next(&mut self) -> Result<Option<&[u8]>, ChannelError> {
        if self.left == 0 {
            return Ok(None);
        }
        resize_zeroed(&mut self.piece, self.left.min(PIECE_BYTES));
        self.line.read_exact(&mut self.piece)?;
        self.left -= self.piece.len();
        Ok(Some(&self.piece))
    }

    /// Reads what is left of it and drops it.
    fn skip(&mut self) -> Result<(), ChannelError> {
        while self.next()?.is_some() {}
        Ok(())
    }
}
