//! From `me.info` to a session with a legacy server: registration or reconnection, the session's file key, and
//! patience with a line or a server that is not ready.

use std::time::Instant;

use super::Progress;
use super::error::LegacyError;
use super::line::LegacyLine;
use super::sending::{FileEnd, Sending, unexpected};
use crate::base::ids::ClientId;
use crate::base::progress::{Event, Phase, ProgressSink};
use crate::base::shutdown::Shutdown;
use crate::client::connect::{ClientOptions, open_socket};
use crate::client::error::ClientError;
use crate::client::me_info::{self, ME_INFO, MeInfo};
use crate::client::retry;
use crate::client::source::SourceFile;
use crate::client::state::StateFolder;
use crate::crypto::{LegacyExponent, LegacyOaep, PrivateKey, Secret};
use crate::protocol::legacy::{FileName, NameField, Request, Response, WRAPPED_KEY_BYTES};

/// How the dialect is spoken.
#[derive(Debug, Clone, Copy)]
pub struct LegacySettings {
    /// Ciphertext in one packet.
    pub packet_bytes: u32,
    /// The public exponent of a new key.
    pub exponent: LegacyExponent,
}

/// A client of a legacy server, with its state folder open and its key at hand.
pub struct LegacyClient<'a> {
    pub options: ClientOptions,
    pub state: StateFolder,
    pub sink: &'a dyn ProgressSink,
    pub shutdown: Shutdown,
    settings: LegacySettings,
    name: NameField,
    key: PrivateKey,
    /// What the server calls this client; none before the registration.
    id: Option<ClientId>,
    /// Whether the server has said that it does not know this client's id.
    is_forgotten: bool,
    session: Option<LegacySession>,
    /// Of connections that are over.
    wire_bytes: u64,
    /// Since something worked.
    tries: u32,
    reached: bool,
    began: Instant,
}

/// What the server grants a client: the key for files, under the client's own.
type WrappedKey = [u8; WRAPPED_KEY_BYTES];

struct LegacySession {
    line: LegacyLine,
    client: ClientId,
    file_key: Secret<32>,
}

impl<'a> LegacyClient<'a> {
    /// Reads who this client is: from `me.info` in the state folder, else from the one that an installed client left
    /// beside the `transfer.info`. Makes a key where there is neither.
    pub fn open(
        options: ClientOptions,
        settings: LegacySettings,
        state: StateFolder,
        sink: &'a dyn ProgressSink,
        shutdown: Shutdown,
    ) -> Result<LegacyClient<'a>, ClientError> {
        let Some(name) = NameField::new(options.user.as_str().as_bytes()) else {
            let text = "the user name is longer than the 254 bytes that the legacy dialect carries: use --user";
            return Err(ClientError::Impossible(text.into()));
        };
        let (key, id) = match find_identity(&options, &state, sink)? {
            Some(info) => (info.key, Some(info.client)),
            None => {
                let broken = |source| ClientError::Key { file: ME_INFO.into(), source };
                (PrivateKey::generate_legacy(settings.exponent).map_err(broken)?, None)
            }
        };
        Ok(LegacyClient {
            options,
            state,
            sink,
            shutdown,
            settings,
            name,
            key,
            id,
            is_forgotten: false,
            session: None,
            wire_bytes: 0,
            tries: 0,
            reached: false,
            began: Instant::now(),
        })
    }

    pub fn notice(&self, message: &str) {
        self.sink.event(Event::Notice { message });
    }

    /// On the wire in both directions, so far.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes + self.session.as_ref().map_or(0, |session| session.line.wire_bytes())
    }

    /// Has a session, with as many tries as the options allow.
    pub fn connect(&mut self) -> Result<(), ClientError> {
        while self.session.is_none() {
            if self.shutdown.is_requested() {
                return Err(ClientError::Interrupted);
            }
            self.sink.event(Event::Phase { phase: Phase::Connect, message: "connecting" });
            match self.try_connect() {
                Ok(session) => {
                    (self.session, self.reached) = (Some(session), true);
                    self.sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "sending files" });
                }
                Err(error) => self.wait_to_try_again(error)?,
            }
        }
        Ok(())
    }

    /// Tries count anew.
    pub(super) fn has_worked(&mut self) {
        self.tries = 0;
    }

    /// Waits before another try; gives the error back where there is none.
    pub(super) fn wait_to_try_again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if self.shutdown.is_requested() {
            return Err(ClientError::Interrupted);
        }
        let refused = matches!(error, ClientError::NoServer { .. });
        let hopeless = refused && !self.reached && self.began.elapsed() >= retry::FIRST_CONNECTION_WAIT_MAX;
        if !(refused || error.is_passing()) || hopeless || self.tries >= self.options.retry.retries {
            return Err(error);
        }
        self.tries += 1;
        let wait = self.options.retry.wait(self.tries);
        self.notice(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
        if self.shutdown.wait(wait) {
            return Err(ClientError::Interrupted);
        }
        Ok(())
    }

    /// Sends a file over the session; one that fails is over.
    pub(super) fn send(
        &mut self,
        file: SourceFile,
        name: &FileName,
        progress: &mut Progress,
    ) -> Result<FileEnd, LegacyError> {
        let session = self.session.as_mut().ok_or(LegacyError::Lost)?;
        let mut sending = Sending {
            line: &mut session.line,
            client: session.client,
            key: &session.file_key,
            packet_bytes: self.settings.packet_bytes,
            sink: self.sink,
            progress,
        };
        let sent = sending.send(file, name);
        if sent.is_err() {
            self.wire_bytes = self.wire_bytes();
            self.session = None;
        }
        sent
    }

    pub(super) fn error(&self, source: LegacyError) -> ClientError {
        if self.shutdown.is_requested() {
            return ClientError::Interrupted;
        }
        ClientError::Legacy { address: self.options.destination.address().to_string(), source }
    }

    fn try_connect(&mut self) -> Result<LegacySession, ClientError> {
        let mut line = self.open_line()?;
        let known = match self.id {
            Some(id) => self.reconnect(&mut line, id).map_err(|error| self.error(error))?,
            None => None,
        };
        let (client, wrapped_key) = match (self.id, known) {
            (Some(id), Some(wrapped_key)) => (id, wrapped_key),
            (Some(_), None) => {
                self.notice("the server does not know the id in me.info: registering the name again");
                (self.id, self.is_forgotten) = (None, true);
                self.wire_bytes += line.wire_bytes();
                line = self.open_line()?;
                self.register(&mut line)?
            }
            (None, _) => self.register(&mut line)?,
        };
        let opened = self.key.unwrap_file_key(&wrapped_key);
        let (file_key, hash) = opened.map_err(|_| self.error(LegacyError::FileKey))?;
        if hash == LegacyOaep::Sha1 {
            log::info!("the server is of the older generation: it wraps keys with SHA-1");
        }
        Ok(LegacySession { line, client, file_key })
    }

    fn open_line(&self) -> Result<LegacyLine, ClientError> {
        let stream = open_socket(self.options.destination.address())?;
        LegacyLine::new(stream, self.options.timeout, &self.shutdown).map_err(|error| self.error(error))
    }

    /// Asks for a session as `id`; none where the server does not know it.
    fn reconnect(&self, line: &mut LegacyLine, id: ClientId) -> Result<Option<WrappedKey>, LegacyError> {
        line.send(&Request::Reconnect { name: self.name.clone() }.encode(id))?;
        match line.receive(Default::default())? {
            Response::Reconnected { wrapped_key, .. } => Ok(Some(wrapped_key)),
            Response::ReconnectRefused { .. } => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    /// Registers, writes down who this client is, and sends its key.
    fn register(&mut self, line: &mut LegacyLine) -> Result<(ClientId, WrappedKey), ClientError> {
        let id = self.ask_for_id(line).map_err(|error| self.error(error))?;
        let broken = |source| ClientError::Key { file: ME_INFO.into(), source };
        let me_info = MeInfo::encode(&self.options.user, id, &self.key).map_err(broken)?;
        self.state.write_file(ME_INFO, &me_info, 0o600)?;
        self.id = Some(id);
        let wrapped_key = self.send_key(line, id).map_err(|error| self.error(error))?;
        Ok((id, wrapped_key))
    }

    fn ask_for_id(&self, line: &mut LegacyLine) -> Result<ClientId, LegacyError> {
        line.send(&Request::Register { name: self.name.clone() }.encode(ClientId::NONE))?;
        match line.receive(Default::default())? {
            Response::Registered { client } => Ok(client),
            Response::RegistrationRefused if self.is_forgotten => Err(LegacyError::ForgottenByServer),
            Response::RegistrationRefused => Err(LegacyError::NameRefused),
            other => Err(unexpected(other)),
        }
    }

    fn send_key(&self, line: &mut LegacyLine, id: ClientId) -> Result<WrappedKey, LegacyError> {
        let public_key = self.key.public().spki_der().to_vec();
        line.send(&Request::SendKey { name: self.name.clone(), public_key }.encode(id))?;
        match line.receive(Default::default())? {
            Response::KeyTaken { wrapped_key, .. } => Ok(wrapped_key),
            other => Err(unexpected(other)),
        }
    }
}

/// Who this client is; what was found beside the `transfer.info` is written into the state folder.
fn find_identity(
    options: &ClientOptions,
    state: &StateFolder,
    sink: &dyn ProgressSink,
) -> Result<Option<MeInfo>, ClientError> {
    if let Some(found) = me_info::in_state(state)? {
        if found.info.name != options.user {
            let (recorded, wanted) = (found.info.name, options.user.clone());
            return Err(crate::client::state::StateError::WrongUser { recorded, wanted }.into());
        }
        return Ok(Some(found.info));
    }
    let notice = |message: &str| sink.event(Event::Notice { message });
    let Some(found) = me_info::beside(state, &options.user, notice) else { return Ok(None) };
    let file = me_info::shown(&found.file);
    let broken = |source| ClientError::Key { file: file.clone(), source };
    let MeInfo { name, client, key } = &found.info;
    state.write_file(ME_INFO, &MeInfo::encode(name, *client, key).map_err(broken)?, 0o600)?;
    notice(&format!("this client is {name} as {file} says; it is kept in the state folder from now on"));
    Ok(Some(found.info))
}
