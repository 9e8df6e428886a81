//! The four messages that make a channel: each step consumes its state and gives the next, so that no step
//! can be left out or done twice.
//!
//! Client: [`ClientHandshake::begin`] (messages 1 and 2) → the caller compares the server's key with the
//! pinned one → [`ClientHandshake::login`] (messages 3 and 4, and the server's proof).
//! Server: [`FirstRequest::read`] (message 1) → [`ServerHandshake::answer`] (2 and 3) → the caller decides →
//! [`LoginReceived::agree`] → [`Agreed::confirm`] (4, and the client's proof).
//!
//! The server acts on nothing before `confirm` has returned: until then it has only computed.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::error::ChannelError;
use super::plain::PlainConnection;
use super::sealed::{Agreement, Channel, Role};
use super::transport::{Transport, WaitBudget};
use crate::base::ids::{ClientId, UserName};
use crate::crypto::{
    Ephemeral, Fingerprint, OaepLabel, PrivateKey, PublicKey, Secret, SessionKeys, Transcript, enrol_proof,
    random_bytes, verify_enrol_proof,
};
use crate::protocol::handshake::{
    Busy, CLIENT_HELLO_BYTES_MAX, Claim, ClientHello, LOGIN_ANSWER_BYTES_MAX, LOGIN_BYTES_MAX, Login, LoginAnswer,
    Refusal, RegistrationPolicy, SERVER_HELLO_BYTES_MAX, SHORT_ANSWER_BYTES, ServerHello, feature,
};
use crate::protocol::header::{
    REQUEST_HEADER_BYTES, RESPONSE_HEADER_BYTES, RequestHeader, ResponseHeader, VERSION, code,
};
use crate::protocol::legacy;
use crate::protocol::message::{ToClient, ToServer, message_kind};

/// How long a last answer may take to be written and read.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

// ---- the client's side ----

/// What the server showed of itself; nothing of it is proved yet.
#[derive(Debug)]
pub struct ServerIdentity {
    pub fingerprint: Fingerprint,
    pub key_bits: usize,
    pub policy: RegistrationPolicy,
    /// Whether it lets keys be exchanged for new ones.
    pub rotates_keys: bool,
    /// Whether it keeps vaults.
    pub keeps_vaults: bool,
}

/// A client between messages 2 and 3.
pub struct ClientHandshake {
    transport: Transport,
    transcript: Transcript,
    ephemeral: Ephemeral,
    server_key: PublicKey,
    hello: ServerHello,
    window: u32,
    timeout: Duration,
    budget: WaitBudget,
}

/// How a client logs in.
#[derive(Debug)]
pub struct ClientLogin<'a> {
    pub name: &'a UserName,
    /// The id the server gave it; none to register.
    pub known: Option<ClientId>,
    pub token: Option<&'a Secret<16>>,
    pub key: &'a PrivateKey,
    /// The key that is to follow it, which the server may have taken already.
    pub next_key: Option<&'a PrivateKey>,
    /// Says which key this client has: for a server that would have used another one.
    pub by_key: bool,
}

/// A client that the server has let in, as far as keys go.
pub struct LoggedIn {
    pub channel: Channel,
    pub client: ClientId,
    /// The server used the key that was to follow.
    pub with_next_key: bool,
}

impl ClientHandshake {
    /// Sends message 1 and reads message 2. `window` is this side's resend ring in bytes; `timeout` bounds
    /// the whole handshake's waiting and later each message.
    pub fn begin(
        transport: Transport,
        window: u32,
        timeout: Duration,
    ) -> Result<(ClientHandshake, ServerIdentity), ChannelError> {
        let mut budget = WaitBudget::new(timeout);
        let mut transcript = Transcript::new();
        let ephemeral = Ephemeral::random();
        let hello = ClientHello {
            features: feature::ALL.to_vec(),
            random: random_bytes(),
            ephemeral: ephemeral.public(),
            window,
        };
        send_request(&transport, &mut budget, &mut transcript, code::CLIENT_HELLO, &hello.encode())?;
        let payload =
            read_response(&transport, &mut budget, &mut transcript, code::SERVER_HELLO, SERVER_HELLO_BYTES_MAX)?;
        let hello = ServerHello::decode(&payload)?;
        let offered = |chosen: &u16| feature::ALL.contains(chosen);
        if !hello.features.contains(&feature::BASE) || !hello.features.iter().all(offered) {
            return Err(ChannelError::Violation("it chose features that were not offered"));
        }
        let server_key = PublicKey::from_spki_der(&hello.public_key)?;
        let identity = ServerIdentity {
            fingerprint: server_key.fingerprint(),
            key_bits: server_key.bits(),
            policy: hello.policy,
            rotates_keys: hello.features.contains(&feature::KEY_ROTATION),
            keeps_vaults: hello.features.contains(&feature::VAULTS),
        };
        let handshake =
            ClientHandshake { transport, transcript, ephemeral, server_key, hello, window, timeout, budget };
        Ok((handshake, identity))
    }

    /// Sends message 3, reads message 4 and the server's proof. The caller has accepted the server's key.
    /// The client's own proof goes out at once.
    ///
    /// # Errors
    /// `OtherKey` where the server used a key that is not here.
    pub fn login(mut self, login: &ClientLogin<'_>) -> Result<LoggedIn, ChannelError> {
        let client_secret = Secret::random();
        let message = self.login_message(login, &client_secret)?;
        send_request(&self.transport, &mut self.budget, &mut self.transcript, code::LOGIN, &message.encode())?;
        let payload = read_response(
            &self.transport,
            &mut self.budget,
            &mut self.transcript,
            code::LOGIN_ANSWER,
            LOGIN_ANSWER_BYTES_MAX,
        )?;
        let answer = LoginAnswer::decode(&payload)?;
        let is_used = |key: &PrivateKey| *key.public().fingerprint().as_bytes() == answer.client_fingerprint;
        let (key, with_next_key) = match (login.key, login.next_key) {
            (key, _) if is_used(key) => (key, false),
            (_, Some(next)) if is_used(next) => (next, true),
            _ => return Err(ChannelError::OtherKey),
        };
        let server_secret = key.open_secret(OaepLabel::ServerToClient, &answer.sealed_secret);
        let agreement = self.ephemeral.agree(&self.hello.ephemeral)?;
        let epoch = epoch_segments(self.hello.segments_per_epoch);
        let keys = SessionKeys::derive(&self.transcript.hash(), &client_secret, &server_secret, &agreement, epoch);
        let mut channel = Channel::new(
            self.transport,
            Agreement {
                role: Role::Client,
                keys,
                window: self.window,
                peer_window: self.hello.window,
                timeout: self.timeout,
            },
        );
        channel.prove_peer(self.timeout, message_kind::SERVER_FINISHED)?;
        channel.send_to_server(&ToServer::Finished)?;
        channel.push()?;
        Ok(LoggedIn { channel, client: answer.client, with_next_key })
    }

    fn login_message(&self, login: &ClientLogin<'_>, secret: &Secret<32>) -> Result<Login, ChannelError> {
        let public_key = login.key.public().spki_der();
        let token_proof = match login.token {
            None => None,
            Some(token) => {
                let name = login.name.as_str().as_bytes();
                Some(enrol_proof(token, &self.transcript.hash(), name, public_key)?)
            }
        };
        Ok(Login {
            name: login.name.clone(),
            claim: match login.known {
                Some(id) if login.by_key => Claim::KnownByKey(id, *login.key.public().fingerprint().as_bytes()),
                Some(id) => Claim::Known(id),
                None => Claim::Register(public_key.to_vec()),
            },
            token_proof,
            sealed_secret: self.server_key.seal_secret(OaepLabel::ClientToServer, secret)?,
        })
    }
}

fn send_request(
    transport: &Transport,
    budget: &mut WaitBudget,
    transcript: &mut Transcript,
    code: u16,
    payload: &[u8],
) -> Result<(), ChannelError> {
    let mut bytes = Vec::with_capacity(REQUEST_HEADER_BYTES + payload.len());
    RequestHeader::native(code, payload.len()).encode(&mut bytes);
    bytes.extend_from_slice(payload);
    transcript.add(&bytes);
    transport.write_all(&bytes, budget)
}

/// Reads the answer with this code, or what takes its place.
fn read_response(
    transport: &Transport,
    budget: &mut WaitBudget,
    transcript: &mut Transcript,
    wanted: u16,
    payload_bytes_max: usize,
) -> Result<Vec<u8>, ChannelError> {
    let mut bytes = vec![0; RESPONSE_HEADER_BYTES];
    transport.read_exact(&mut bytes, budget)?;
    let header = ResponseHeader::decode(bytes[..].try_into().expect("seven bytes were read"));
    if header.code == legacy::GREETING || legacy::RESPONSE_CODES.contains(&header.code) {
        return Err(ChannelError::LegacyServer);
    }
    let payload_bytes = header.payload_bytes as usize;
    let limit = match header.code {
        _ if header.version != VERSION => return Err(ChannelError::BadHeader),
        found if found == wanted => payload_bytes_max,
        code::BUSY | code::REFUSED => SHORT_ANSWER_BYTES,
        _ => return Err(ChannelError::BadHeader),
    };
    if payload_bytes > limit {
        return Err(ChannelError::BadHeader);
    }
    bytes.resize(RESPONSE_HEADER_BYTES + payload_bytes, 0);
    transport.read_exact(&mut bytes[RESPONSE_HEADER_BYTES..], budget)?;
    transcript.add(&bytes);
    let payload = bytes.split_off(RESPONSE_HEADER_BYTES);
    match header.code {
        code::BUSY => Err(ChannelError::Busy { seconds: Busy::decode(&payload)?.seconds }),
        code::REFUSED => Err(ChannelError::Refused(Refusal::decode(&payload)?)),
        _ => Ok(payload),
    }
}

fn epoch_segments(segments: u64) -> NonZeroU64 {
    NonZeroU64::new(segments).unwrap_or(NonZeroU64::MIN)
}

// ---- the server's side ----

/// What a new connection turned out to be.
pub enum FirstRequest {
    Native(Box<ServerHandshake>),
    /// A legacy client, and the header it began with. The connection has what is left of the allowance.
    Legacy {
        connection: PlainConnection,
        header: RequestHeader,
    },
    /// Nothing that this port speaks.
    Unknown {
        transport: Transport,
    },
}

/// A server that has read message 1.
pub struct ServerHandshake {
    transport: Transport,
    transcript: Transcript,
    hello: ClientHello,
    budget: WaitBudget,
}

/// What a server offers everyone.
#[derive(Debug)]
pub struct Terms<'a> {
    pub key: &'a PrivateKey,
    /// The server's resend ring in bytes.
    pub window: u32,
    pub segments_per_epoch: u64,
    /// How long a whole message may take once the peer has proved itself.
    pub timeout: Duration,
    pub policy: RegistrationPolicy,
}

impl FirstRequest {
    /// Reads the first request of a connection. None: it was closed without a byte. `allowance` is all the
    /// waiting that this peer may cause before it has proved itself.
    pub fn read(transport: Transport, allowance: Duration) -> Result<Option<FirstRequest>, ChannelError> {
        let mut budget = WaitBudget::new(allowance);
        let mut bytes = vec![0; REQUEST_HEADER_BYTES];
        match transport.read_exact(&mut bytes[..1], &mut budget) {
            Err(ChannelError::Lost) => return Ok(None),
            other => other?,
        }
        transport.read_exact(&mut bytes[1..], &mut budget)?;
        let header = RequestHeader::decode(bytes[..].try_into().expect("23 bytes were read"));
        if legacy::REQUEST_CODES.contains(&header.code) && legacy::VERSIONS.contains(&header.version) {
            let connection = PlainConnection::begun(transport, budget, REQUEST_HEADER_BYTES as u64);
            return Ok(Some(FirstRequest::Legacy { connection, header }));
        }
        if header.version != VERSION
            || header.code != code::CLIENT_HELLO
            || header.payload_bytes as usize > CLIENT_HELLO_BYTES_MAX
        {
            return Ok(Some(FirstRequest::Unknown { transport }));
        }
        bytes.resize(REQUEST_HEADER_BYTES + header.payload_bytes as usize, 0);
        transport.read_exact(&mut bytes[REQUEST_HEADER_BYTES..], &mut budget)?;
        let hello = match ClientHello::decode(&bytes[REQUEST_HEADER_BYTES..]) {
            Ok(hello) if hello.features.contains(&feature::BASE) => hello,
            _ => return Ok(Some(FirstRequest::Unknown { transport })),
        };
        let mut transcript = Transcript::new();
        transcript.add(&bytes);
        let handshake = ServerHandshake { transport, transcript, hello, budget };
        Ok(Some(FirstRequest::Native(Box::new(handshake))))
    }
}

impl ServerHandshake {
    /// Says "busy" in place of message 2.
    pub fn busy(self, seconds: u16) {
        answer_busy(&self.transport, seconds);
    }

    /// Sends message 2 and reads message 3. None: the client has seen the server's key and closed, as one does that
    /// asks a person about it.
    pub fn answer(mut self, terms: &Terms<'_>) -> Result<Option<LoginReceived>, ChannelError> {
        let ephemeral = Ephemeral::random();
        let hello = ServerHello {
            features: feature::ALL.into_iter().filter(|known| self.hello.features.contains(known)).collect(),
            public_key: terms.key.public().spki_der().to_vec(),
            random: random_bytes(),
            ephemeral: ephemeral.public(),
            window: terms.window,
            segments_per_epoch: terms.segments_per_epoch,
            timeout_seconds: u16::try_from(terms.timeout.as_secs()).unwrap_or(u16::MAX),
            policy: terms.policy,
        };
        send_response(
            &self.transport,
            &mut self.budget,
            &mut self.transcript,
            code::SERVER_HELLO,
            &hello.encode(),
        )?;
        let before_login = self.transcript.hash();
        let payload = match self.read_login() {
            Err(ChannelError::BadHeader) => {
                answer_refused(&self.transport, Refusal::Malformed);
                return Err(ChannelError::BadHeader);
            }
            other => match other? {
                Some(payload) => payload,
                None => return Ok(None),
            },
        };
        let login = match Login::decode(&payload) {
            Ok(login) => login,
            Err(error) => {
                answer_refused(&self.transport, Refusal::Malformed);
                return Err(error.into());
            }
        };
        Ok(Some(LoginReceived {
            transport: self.transport,
            transcript: self.transcript,
            before_login,
            ephemeral,
            client_hello: self.hello,
            server_hello: hello,
            login,
            budget: self.budget,
            timeout: terms.timeout,
        }))
    }

    /// None: it was closed without a byte of it.
    fn read_login(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let mut bytes = vec![0; REQUEST_HEADER_BYTES];
        match self.transport.read_exact(&mut bytes[..1], &mut self.budget) {
            Err(ChannelError::Lost) => return Ok(None),
            other => other?,
        }
        self.transport.read_exact(&mut bytes[1..], &mut self.budget)?;
        let header = RequestHeader::decode(bytes[..].try_into().expect("23 bytes were read"));
        let fits = header.payload_bytes as usize <= LOGIN_BYTES_MAX;
        if header.version != VERSION || header.code != code::LOGIN || !fits {
            return Err(ChannelError::BadHeader);
        }
        bytes.resize(REQUEST_HEADER_BYTES + header.payload_bytes as usize, 0);
        self.transport.read_exact(&mut bytes[REQUEST_HEADER_BYTES..], &mut self.budget)?;
        self.transcript.add(&bytes);
        Ok(Some(bytes.split_off(REQUEST_HEADER_BYTES)))
    }
}

/// A server that has read message 3 and has to decide.
pub struct LoginReceived {
    transport: Transport,
    transcript: Transcript,
    before_login: [u8; 32],
    ephemeral: Ephemeral,
    client_hello: ClientHello,
    server_hello: ServerHello,
    login: Login,
    budget: WaitBudget,
    timeout: Duration,
}

impl LoginReceived {
    pub fn name(&self) -> &UserName {
        &self.login.name
    }

    pub fn claim(&self) -> &Claim {
        &self.login.claim
    }

    /// Whether both sides let keys be exchanged for new ones.
    pub fn rotates_keys(&self) -> bool {
        self.server_hello.features.contains(&feature::KEY_ROTATION)
    }

    /// Whether the client showed any token.
    pub fn has_token_proof(&self) -> bool {
        self.login.token_proof.is_some()
    }

    /// Whether the client holds this token, for this name and this public key.
    pub fn proves_token(&self, token: &Secret<16>, public_key: &[u8]) -> bool {
        let name = self.login.name.as_str().as_bytes();
        let proof = self.login.token_proof.as_ref();
        proof.is_some_and(|proof| verify_enrol_proof(proof, token, &self.before_login, name, public_key))
    }

    /// Says no in place of message 4.
    pub fn refuse(self, refusal: Refusal) {
        answer_refused(&self.transport, refusal);
    }

    /// Says "busy" in place of message 4.
    pub fn busy(self, seconds: u16) {
        answer_busy(&self.transport, seconds);
    }

    /// Computes the session's keys; nothing is sent or awaited. This is the part that costs RSA.
    pub fn agree(
        mut self,
        server_key: &PrivateKey,
        client: ClientId,
        client_key: &PublicKey,
    ) -> Result<Agreed, ChannelError> {
        let client_secret = server_key.open_secret(OaepLabel::ClientToServer, &self.login.sealed_secret);
        let server_secret = Secret::random();
        let answer = LoginAnswer {
            client,
            client_fingerprint: *client_key.fingerprint().as_bytes(),
            sealed_secret: client_key.seal_secret(OaepLabel::ServerToClient, &server_secret)?,
        };
        let message = response_bytes(code::LOGIN_ANSWER, &answer.encode());
        self.transcript.add(&message);
        let agreement = self.ephemeral.agree(&self.client_hello.ephemeral)?;
        let epoch = epoch_segments(self.server_hello.segments_per_epoch);
        let keys = SessionKeys::derive(&self.transcript.hash(), &client_secret, &server_secret, &agreement, epoch);
        let agreement = Agreement {
            role: Role::Server,
            keys,
            window: self.server_hello.window,
            peer_window: self.client_hello.window,
            timeout: self.timeout,
        };
        Ok(Agreed { transport: self.transport, message, agreement, budget: self.budget })
    }
}

/// A server that can send message 4.
pub struct Agreed {
    transport: Transport,
    message: Vec<u8>,
    agreement: Agreement,
    budget: WaitBudget,
}

impl Agreed {
    /// Sends message 4 and the server's proof, and waits for the client's. When this returns, the client
    /// has proved that it holds its key.
    pub fn confirm(mut self) -> Result<Channel, ChannelError> {
        self.transport.write_all(&self.message, &mut self.budget)?;
        let mut channel = Channel::new(self.transport, self.agreement);
        let began = Instant::now();
        channel.send_proof(&ToClient::Finished, self.budget.left())?;
        channel.prove_peer(self.budget.left().saturating_sub(began.elapsed()), message_kind::FINISHED)?;
        Ok(channel)
    }
}

fn response_bytes(code: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RESPONSE_HEADER_BYTES + payload.len());
    ResponseHeader::native(code, payload.len()).encode(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn send_response(
    transport: &Transport,
    budget: &mut WaitBudget,
    transcript: &mut Transcript,
    code: u16,
    payload: &[u8],
) -> Result<(), ChannelError> {
    let bytes = response_bytes(code, payload);
    transcript.add(&bytes);
    transport.write_all(&bytes, budget)
}

/// A last answer: written to the end, then what the peer still sends is drained, so that it arrives.
pub(super) fn answer_last(transport: &Transport, bytes: &[u8]) {
    let mut budget = WaitBudget::new(LAST_ANSWER_TIMEOUT);
    if transport.write_all(bytes, &mut budget).is_ok() {
        transport.finish_writing(&mut budget);
    }
}

/// "Busy, again in so many seconds", as the last answer on a connection.
pub fn answer_busy(transport: &Transport, seconds: u16) {
    answer_last(transport, &response_bytes(code::BUSY, &Busy { seconds }.encode()));
}

/// A refusal as the last answer on a connection.
pub fn answer_refused(transport: &Transport, refusal: Refusal) {
    answer_last(transport, &response_bytes(code::REFUSED, &refusal.encode()));
}

/// The one answer that both dialects know for "not understood", as the last on a connection.
pub fn answer_general_error(transport: &Transport) {
    answer_last(transport, &response_bytes(legacy::GENERAL_ERROR, &[]));
}
