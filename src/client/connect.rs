//! From a state folder to a session: keys on the first run, the server's key compared with the pinned one,
//! login or registration, and patience with a line or a server that is not ready.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::ServerAddress;
use super::error::ClientError;
use super::keys::{self, Keys};
use super::retry::{self, BusyWait, RetryPolicy};
use super::state::{Identity, IdentityCheck, StateFolder};
use super::vault::chain::Holder;
use super::vault::{HeldFiles, VaultAccess};
use crate::base::ids::{ClientId, UserName};
use crate::base::progress::{Event, Phase, ProgressSink};
use crate::base::shutdown::Shutdown;
use crate::channel::{
    Channel, ChannelError, ClientHandshake, ClientLogin, LoggedIn, SegmentCounts, ServerIdentity, Transport,
};
use crate::crypto::{EnrolToken, Fingerprint};
use crate::protocol::handshake::Refusal;
use crate::protocol::message::{ToClient, ToServer};

/// How long one attempt to reach one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The client's resend ring in bytes, and what `--low-memory` makes of it.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;
pub const LOW_MEMORY_WINDOW_BYTES: u32 = 256 * 1024;
/// How far the ring grows where round trips are long.
const LONG_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// What is on its way is lost with either side: of an upload that was cut off before, only this part of it is.
const CAREFUL_PART: u32 = 8;

/// How much a client may have on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// So many bytes, whatever the line.
    Fixed(u32),
    /// What the line's round trips need, within bounds.
    Fitting,
}

impl Window {
    /// The resend ring in bytes where a round trip takes so long; zero before that is known.
    fn bytes(self, round_trip: Duration, careful: bool) -> u32 {
        let Window::Fixed(bytes) = self else {
            let whole = Channel::fitting_window(round_trip, WINDOW_BYTES..=LONG_WINDOW_BYTES);
            return if careful { whole / CAREFUL_PART } else { whole };
        };
        bytes
    }
}

/// Where the server is.
#[derive(Debug, Clone)]
pub enum Destination {
    Remote(ServerAddress),
    /// Inside this process: its address is of this run only and is not recorded.
    Local(ServerAddress),
}

impl Destination {
    pub fn address(&self) -> &ServerAddress {
        match self {
            Destination::Remote(address) | Destination::Local(address) => address,
        }
    }

    /// The address as the identity records it.
    fn recorded(&self) -> Option<String> {
        match self {
            Destination::Remote(address) => Some(address.to_string()),
            Destination::Local(_) => None,
        }
    }
}

/// How to reach the server, and as whom.
#[derive(Debug)]
pub struct ClientOptions {
    pub destination: Destination,
    pub user: UserName,
    /// The key that the server must have (`--server-fingerprint`).
    pub fingerprint: Option<Fingerprint>,
    pub token: Option<EnrolToken>,
    pub retry: RetryPolicy,
    /// How long a whole message may take.
    pub timeout: Duration,
    pub window: Window,
    /// Bits of a new RSA key.
    pub rsa_bits: usize,
}

/// A client with its state folder open and its keys at hand.
pub struct Client<'a> {
    pub options: ClientOptions,
    pub state: StateFolder,
    pub sink: &'a dyn ProgressSink,
    pub shutdown: Shutdown,
    /// Connections may well be cut off: what goes on with an upload that was puts less at risk.
    pub careful: bool,
    /// What vaults' snapshots are opened with.
    pub vault: Option<Arc<VaultAccess>>,
    pub(super) keys: Keys,
    identity: Option<Identity>,
    reached: bool,
    /// The key that was shown as a first contact's: once is enough.
    told_key: Option<Fingerprint>,
}

impl<'a> Client<'a> {
    /// Reads identity and keys; makes the keys on the first run, before any connection.
    pub fn open(
        options: ClientOptions,
        state: StateFolder,
        sink: &'a dyn ProgressSink,
        shutdown: Shutdown,
    ) -> Result<Client<'a>, ClientError> {
        let identity = state.read_identity()?;
        if let Some(identity) = &identity {
            identity.check_user(&options.user)?;
        }
        let keys = keys::open(&state, &options, identity.is_none(), sink)?;
        let (careful, vault, reached, told_key) = (false, None, false, None);
        Ok(Client { options, state, sink, shutdown, careful, vault, keys, identity, reached, told_key })
    }

    /// Connects and logs in, with as many tries as the options allow.
    pub fn connect(&mut self) -> Result<Session, ClientError> {
        self.sink.event(Event::Phase { phase: Phase::Connect, message: "connecting" });
        let (mut tries, mut busy) = (0, BusyWait::default());
        let began = Instant::now();
        loop {
            let error = match self.try_keys() {
                Ok(session) => {
                    self.reached = true;
                    return Ok(session);
                }
                Err(_) if self.shutdown.is_requested() => return Err(ClientError::Interrupted),
                Err(error) => error,
            };
            let wait = match &error {
                ClientError::Channel { source: ChannelError::Busy { seconds }, address } => {
                    busy.next(*seconds).ok_or_else(|| ClientError::still_busy(address))?
                }
                error if self.may_try_again(error, tries, began) => {
                    tries += 1;
                    self.options.retry.wait(tries)
                }
                _ => return Err(error),
            };
            self.notice(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
            if self.shutdown.wait(wait) {
                return Err(ClientError::Interrupted);
            }
        }
    }

    fn may_try_again(&self, error: &ClientError, tries: u32, began: Instant) -> bool {
        let refused = matches!(error, ClientError::NoServer { .. });
        let hopeless = refused && !self.reached && began.elapsed() >= retry::FIRST_CONNECTION_WAIT_MAX;
        (refused || error.is_passing()) && tries < self.options.retry.retries && !hopeless
    }

    pub fn notice(&self, message: &str) {
        self.sink.event(Event::Notice { message });
    }

    fn address(&self) -> String {
        self.options.destination.address().to_string()
    }

    fn channel_error(&self, source: ChannelError) -> ClientError {
        ClientError::Channel { address: self.address(), source }
    }

    /// Connects; and once more where the server used a key that is not here. Another run of this client may have
    /// exchanged the key meanwhile. Else this folder is an older copy of what the client had, and the server takes
    /// the key that is here as long as it has not seen the next one.
    fn try_keys(&mut self) -> Result<Session, ClientError> {
        match self.try_connect(false) {
            Err(ClientError::Channel { source: ChannelError::OtherKey, .. }) => {
                if let Some(keys) = keys::read(&self.state, self.sink)? {
                    self.keys = keys;
                }
                self.try_connect(true)
            }
            other => other,
        }
    }

    fn try_connect(&mut self, by_key: bool) -> Result<Session, ClientError> {
        let transport = Transport::tcp(open_socket(self.options.destination.address())?)
            .map_err(|error| self.channel_error(error.into()))?;
        let closer = transport.closer();
        // Ctrl-C ends whatever waits on the connection, from the first byte on.
        self.shutdown.close_on_request(move || closer.close());
        let announced = self.options.window.bytes(Duration::ZERO, self.careful);
        let began = Instant::now();
        let (handshake, server) = ClientHandshake::begin(transport, announced, self.options.timeout)
            .map_err(|error| self.channel_error(error))?;
        let round_trip = began.elapsed();
        let moved = self.check_server(&server)?;
        let (name, known) = (&self.options.user, self.identity.as_ref().and_then(|identity| identity.client_id));
        // A token is shown only where it is needed, and never to a server other than its own.
        let token = self.options.token.as_ref().filter(|_| known.is_none()).map(|token| &token.secret);
        let (key, next_key) = (&self.keys.present, self.keys.next.as_ref());
        let login = ClientLogin { name, known, token, key, next_key, by_key };
        let LoggedIn { mut channel, client, with_next_key } =
            handshake.login(&login).map_err(|error| self.channel_error(without_rotation(&server, error)))?;
        let began = Instant::now();
        let announced = self.wait_for_welcome(&mut channel)?;
        // The server may have been busy during one of the two.
        let round_trip = round_trip.min(began.elapsed());
        channel.set_window(self.options.window.bytes(round_trip, self.careful));
        self.remember(&server, client, moved, announced)?;
        self.confirm_pin(&mut channel, announced)?;
        if with_next_key && self.state.is_exclusive() {
            self.keys.promote(&self.state)?;
            self.notice("the new key has taken the place of the old one, which opens nothing any more");
        }
        Ok(Session {
            channel,
            address: self.address(),
            shutdown: self.shutdown.clone(),
            server: server.fingerprint,
            client,
            rotates_keys: server.rotates_keys,
            vault: self.vault.clone(),
            looked_for: Vec::new(),
            held: Arc::default(),
            keeps_vaults: server.keeps_vaults,
        })
    }

    /// Tells the server that its next key is pinned, so that its operator knows.
    fn confirm_pin(&self, channel: &mut Channel, announced: Option<Fingerprint>) -> Result<(), ClientError> {
        let Some(next) = announced.filter(|_| self.state.is_exclusive()) else { return Ok(()) };
        let sent = channel.send_to_server(&ToServer::ServerKeyPinned(*next.as_bytes()));
        sent.and_then(|()| channel.push()).map_err(|error| self.channel_error(error))
    }

    /// The server has let us in, is full, or cannot register us. Gives the key that is to follow the server's.
    fn wait_for_welcome(&self, channel: &mut Channel) -> Result<Option<Fingerprint>, ClientError> {
        let (mut announced, mut told) = (None, false);
        let answer = loop {
            let received = channel.receive();
            if !told
                && let Ok(Some(message)) = &received
                && let Ok(ToClient::NextServerKey(next)) = ToClient::decode(message.kind, message.body)
            {
                (announced, told) = (next.map(Fingerprint::from_bytes), true);
                continue;
            }
            break received;
        };
        let answer = match answer {
            Ok(Some(message)) => match ToClient::decode(message.kind, message.body) {
                Ok(ToClient::Welcome) => return Ok(announced),
                Ok(ToClient::Busy { seconds }) => ChannelError::Busy { seconds },
                Ok(ToClient::Failure { code, text }) => return Err(ClientError::Failure { code, text }),
                Ok(_) => ChannelError::Violation("that answer is no welcome"),
                Err(error) => ChannelError::Malformed(error),
            },
            Ok(None) => ChannelError::Lost,
            Err(error) => error,
        };
        Err(self.channel_error(answer))
    }

    /// Compares the server's key with what is demanded, what the token names, and what is pinned. Nothing
    /// of the user has been sent yet.
    fn check_server(&mut self, server: &ServerIdentity) -> Result<Option<Identity>, ClientError> {
        let found = server.fingerprint;
        let from_token = self.options.token.as_ref().map(|token| token.server);
        for wanted in [self.options.fingerprint, from_token].into_iter().flatten() {
            if wanted != found {
                return Err(ClientError::WrongFingerprint { address: self.address(), wanted, found });
            }
        }
        if server.key_bits < 2_048 {
            self.notice(&format!("the server's key has only {} bits: see docs/threat-model.md", server.key_bits));
        }
        let recorded = self.options.destination.recorded();
        let Some(identity) = &self.identity else {
            // Shown before the login, so that it can be compared also where that is refused.
            if self.told_key.replace(found) != Some(found) {
                let message = format!("first contact with {}: its key is {found}", self.address());
                self.sink.event(Event::FirstContact { message: &message });
            }
            return Ok(None);
        };
        match identity.check(&self.options.user, &found.to_string(), recorded.as_deref())? {
            IdentityCheck::Same => Ok(None),
            IdentityCheck::Moved(identity) => Ok(Some(identity)),
        }
    }

    /// Writes the identity down where the login made or changed it.
    fn remember(
        &mut self,
        server: &ServerIdentity,
        client: ClientId,
        moved: Option<Identity>,
        announced: Option<Fingerprint>,
    ) -> Result<(), ClientError> {
        let before = moved.or_else(|| self.identity.clone()).unwrap_or_else(|| Identity {
            user: self.options.user.clone(),
            server_fingerprint: server.fingerprint.to_string(),
            next_server_fingerprint: None,
            server_address: self.options.destination.recorded(),
            client_id: None,
        });
        let next_server_fingerprint = announced.map(|next| next.to_string());
        let identity = Identity { client_id: Some(client), next_server_fingerprint, ..before };
        if self.identity.as_ref() != Some(&identity) && self.state.is_exclusive() {
            self.state.write_identity(&identity)?;
            if self.identity.is_none() {
                self.notice("the key is pinned from now on");
            }
        }
        self.identity = Some(identity);
        Ok(())
    }
}

/// A server that exchanges no keys has used a wrong one, where it used another.
fn without_rotation(server: &ServerIdentity, error: ChannelError) -> ChannelError {
    match error {
        ChannelError::OtherKey if !server.rotates_keys => ChannelError::Refused(Refusal::Authentication),
        error => error,
    }
}

/// Connects to one of the addresses that the host has.
pub(super) fn open_socket(address: &ServerAddress) -> Result<TcpStream, ClientError> {
    let resolved = (address.host(), address.port())
        .to_socket_addrs()
        .map_err(|source| ClientError::UnknownHost { address: address.to_string(), source })?;
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address");
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ClientError::NoServer { address: address.to_string(), source: last })
}

/// The key that a server shows, before anything of the user is sent and without keeping it: for a person to
/// compare. The connection ends with that.
pub fn server_fingerprint(address: &ServerAddress, timeout: Duration) -> Result<Fingerprint, ClientError> {
    let failed = |source| ClientError::Channel { address: address.to_string(), source };
    let transport = Transport::tcp(open_socket(address)?).map_err(|error| failed(error.into()))?;
    let (_, server) = ClientHandshake::begin(transport, LOW_MEMORY_WINDOW_BYTES, timeout).map_err(failed)?;
    Ok(server.fingerprint)
}

/// A proven connection to the server.
pub struct Session {
    pub(super) channel: Channel,
    pub(super) address: String,
    pub(super) shutdown: Shutdown,
    /// The key that the server has proved.
    pub(super) server: Fingerprint,
    pub(super) client: ClientId,
    /// Whether the server lets keys be exchanged.
    pub(super) rotates_keys: bool,
    pub(super) vault: Option<Arc<VaultAccess>>,
    /// Selectors that were looked for among this client's snapshots, and whether they mean one of them.
    pub(super) looked_for: Vec<(String, bool)>,
    /// What this host has of the content that blocks are asked of.
    pub(super) held: Arc<HeldFiles>,
    /// Whether the server keeps vaults.
    pub(super) keeps_vaults: bool,
}

impl Session {
    /// The sealed close.
    pub fn close(self) -> Result<SegmentCounts, ClientError> {
        let Session { channel, address, .. } = self;
        channel.close().map_err(|source| ClientError::Channel { address, source })
    }

    /// Who keeps what this host stores: the server, and this host as it knows it.
    pub(super) fn holder(&self) -> Holder {
        Holder { server: self.server.to_string(), client: self.client }
    }

    pub fn counts(&self) -> SegmentCounts {
        self.channel.counts()
    }

    pub(super) fn send(&mut self, request: &ToServer<'_>) -> Result<(), ClientError> {
        let sent = self.channel.send_to_server(request).and_then(|()| self.channel.push());
        sent.map_err(|error| self.error(error))
    }

    /// A channel's error as this session's: an interruption where the user wished one.
    pub(super) fn error(&self, source: ChannelError) -> ClientError {
        if self.shutdown.is_requested() {
            return ClientError::Interrupted;
        }
        ClientError::Channel { address: self.address.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fits_its_line_within_bounds_unless_it_is_given() {
        let bytes =
            |window: Window, milliseconds, careful| window.bytes(Duration::from_millis(milliseconds), careful);
        assert_eq!(bytes(Window::Fitting, 0, false), 2 << 20);
        assert_eq!(bytes(Window::Fitting, 20, false), 2 << 20);
        assert_eq!(bytes(Window::Fitting, 50, false), 4_000_000);
        assert_eq!(bytes(Window::Fitting, 60_000, false), 8 << 20);
        assert_eq!(bytes(Window::Fitting, 0, true), 256 << 10);
        assert_eq!(bytes(Window::Fitting, 200, true), 1 << 20);
        assert_eq!(bytes(Window::Fixed(70_000), 200, true), 70_000);
    }
}
