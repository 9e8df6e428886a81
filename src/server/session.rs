//! A proven client's session: one command after the other until it closes.

use std::sync::Arc;

use super::connections::Connection;
use super::events::EventKind;
use super::key_rotation::OfferedKey;
use super::listener::Shared;
use super::sessions::{Doing, Live, Visit};
use super::vault::What;
use super::{answers, upload, vault};
use crate::base::codec::DecodeError;
use crate::channel::worker::{self, Gone, Outbox};
use crate::channel::{Channel, ChannelError, SegmentCounts};
use crate::crypto::Fingerprint;
use crate::protocol::message::{FailureCode, ToClient, ToServer, VaultRequest};
use crate::storage::{ClientRecord, StoreError};

/// A command that did not end well: told to the client, then the session is over.
#[derive(Debug)]
pub struct Failure {
    pub code: FailureCode,
    pub text: String,
}

impl Failure {
    pub fn out_of_place(text: impl Into<String>) -> Failure {
        Failure { code: FailureCode::OutOfPlace, text: text.into() }
    }

    pub fn to_message(&self) -> ToClient<'static> {
        ToClient::Failure { code: self.code, text: self.text.clone() }
    }
}

/// What a store's error is to the client. Paths of the server's disk stay in the server's log.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let code = failure_code(&error);
        let text = match (code, &error) {
            (FailureCode::DiskFull, _) => {
                "the server's disk is full: free some space there, then run this again".to_string()
            }
            (_, StoreError::DamagedHead { snapshot, .. }) => format!(
                "the head of snapshot {snapshot} cannot be read (the server's log says why): name another snapshot \
                 with --snapshot, or back up again"
            ),
            (FailureCode::Damaged, _) => {
                "a part of the server's store is damaged; the server's log names it".to_string()
            }
            (FailureCode::Internal, _) => "the server could not do it; its log says why".to_string(),
            _ => error.to_string(),
        };
        log::warn!("{error}");
        Failure { code, text }
    }
}

/// What an error of the store is to a client.
pub fn failure_code(error: &StoreError) -> FailureCode {
    match error {
        _ if error.is_peer_fault() => FailureCode::OutOfPlace,
        StoreError::NotFound { .. } | StoreError::Ambiguous { .. } | StoreError::Dropped { .. } => {
            FailureCode::NotFound
        }
        StoreError::NameTaken { .. } => FailureCode::Refused,
        StoreError::QuotaExceeded { .. } => FailureCode::Quota,
        StoreError::Superseded { .. } => FailureCode::TakenOver,
        StoreError::DiskFull { .. } => FailureCode::DiskFull,
        StoreError::DamagedHead { .. } | StoreError::Damaged { .. } | StoreError::NewerFormat { .. } => {
            FailureCode::Damaged
        }
        _ => FailureCode::Internal,
    }
}

/// Whether the operator must know: not of a path or a snapshot that a user named and that is not there, nor of what a
/// client's newer session ended.
fn is_for_operator(code: FailureCode) -> bool {
    !matches!(code, FailureCode::NotFound | FailureCode::TakenOver)
}

/// A worker's end that is not a failure of the command: the connection went away under it.
pub enum Ended {
    Failed(Failure),
    Gone,
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Ended {
        Ended::Gone
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failed(failure)
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Ended {
        Ended::Failed(error.into())
    }
}

/// One session.
pub struct Session<'a> {
    pub shared: &'a Arc<Shared>,
    pub client: Arc<ClientRecord>,
    pub channel: Channel,
    /// The key of the server that was proved.
    pub server_key: Fingerprint,
    pub connection: &'a Connection,
    pub live: Arc<Live>,
    /// The new key of the client that it has to prove.
    pub offered_key: Option<OfferedKey>,
    pub vault: vault::Open,
    /// Says that the client is being served.
    pub _visit: Visit,
}

impl Session<'_> {
    /// Serves the client until it closes, fails, or the connection is lost.
    pub fn run(mut self) -> Result<(), ChannelError> {
        let mut counted = self.channel.counts();
        loop {
            let command = match self.channel.receive() {
                Ok(Some(message)) => ToServer::decode(message.kind, message.body).map(Command::of),
                Ok(None) => {
                    let counts = self.channel.linger();
                    self.shared.statistics.add_segments(counted, counts);
                    return Ok(());
                }
                Err(error) => return self.give_up(counted, error),
            };
            self.connection.set_working(true);
            let result = self.obey(command);
            self.connection.set_working(false);
            self.live.set(Doing::Idle);
            self.report_damage(counted);
            self.shared.statistics.add_segments(counted, self.channel.counts());
            counted = self.channel.counts();
            match result {
                Ok(()) => {}
                Err(End::Failed(failure)) => return self.fail(counted, &failure),
                Err(End::Lost(error)) => return self.give_up(counted, error),
            }
        }
    }

    /// Ends after an error of the channel. Whose line failed hears nothing; whoever broke the protocol is
    /// told how.
    fn give_up(self, counted: SegmentCounts, error: ChannelError) -> Result<(), ChannelError> {
        match error {
            ChannelError::Malformed(_) | ChannelError::Violation(_) => {
                self.fail(counted, &Failure::out_of_place(error.to_string()))
            }
            error => {
                self.shared.statistics.add_segments(counted, self.channel.counts());
                Err(error)
            }
        }
    }

    /// Tells the client why its session is over. `counted` are the segments that are in the statistics.
    fn fail(mut self, counted: SegmentCounts, failure: &Failure) -> Result<(), ChannelError> {
        if is_for_operator(failure.code) {
            self.shared.fail(self.connection, &failure.text);
        }
        log::warn!("{}: {}", self.client.name, failure.text);
        if let Some(kind) = EventKind::of_failure(failure.code) {
            self.shared.events.tell(kind, Some(self.client.name.as_str()), &failure.text);
        }
        self.channel.send_to_client(&failure.to_message())?;
        let counts = self.channel.end_after_failure();
        self.shared.statistics.add_segments(counted, counts);
        Ok(())
    }

    fn report_damage(&self, before: SegmentCounts) {
        let now = self.channel.counts();
        let damaged = now.damaged + now.control_damaged - before.damaged - before.control_damaged;
        let repeated = now.repeated - before.repeated;
        if damaged + repeated > 0 {
            log::warn!(
                "{}: the line is damaging data: {damaged} segments arrived damaged, {repeated} were repeated",
                self.client.name
            );
        }
    }

    fn obey(&mut self, command: Result<Command, DecodeError>) -> Result<(), End> {
        let command = command.map_err(|error| Failure::out_of_place(format!("a malformed request: {error}")))?;
        match command {
            Command::Begin(begin) => upload::run(self.shared, &self.client, &self.live, &mut self.channel, *begin),
            Command::BeginInVault(begin) => {
                vault::run(self.shared, &self.client, &self.live, &mut self.channel, *begin)
            }
            Command::Stream(request) => self.stream(request),
            Command::Statistics => {
                let report = self.shared.report();
                let json = serde_json::to_string(&report).expect("numbers become JSON");
                self.channel.send_to_client(&ToClient::Statistics(json))?;
                Ok(self.channel.push()?)
            }
            Command::NewKey(key) => {
                let (offered, sealed) = OfferedKey::challenge(&key)?;
                self.offered_key = Some(offered);
                self.channel.send_to_client(&ToClient::KeyChallenge(&sealed))?;
                Ok(self.channel.push()?)
            }
            Command::NewKeyProof(proof) => {
                let offered = self.offered_key.take();
                let offered = offered.ok_or_else(|| Failure::out_of_place("no new key was offered"))?;
                offered.take(&self.shared.store, self.server_key, &self.client, &proof)?;
                self.channel.send_to_client(&ToClient::KeyTaken)?;
                Ok(self.channel.push()?)
            }
            Command::ServerKeyPinned(fingerprint) => {
                if self.shared.keys.announced(self.server_key) == Some(fingerprint) {
                    let noted = self.shared.store.note_server_key(self.client.id, &fingerprint.to_string());
                    noted.map_err(Failure::from)?;
                }
                Ok(())
            }
            Command::Cancel => Ok(()),
            Command::OutOfPlace => Err(Failure::out_of_place("that message belongs inside an upload").into()),
        }
    }

    fn stream(&mut self, request: answers::Request) -> Result<(), End> {
        let (store, client, vault) = (&self.shared.store, self.client.id, &mut self.vault);
        self.live.set(request.doing());
        let answered = worker::answer(&mut self.channel, |outbox: &mut Outbox| {
            let rows = answers::stream(store, client, request, vault, outbox);
            let damaged = outbox.damaged();
            if damaged > 0 {
                let text = format!("{damaged} damaged parts were met; the server's log names them");
                self.shared.events.tell(EventKind::Damage, Some(self.client.name.as_str()), &text);
            }
            outbox.send_to_client(&ToClient::End { rows: rows? })?;
            Ok::<(), Ended>(())
        })?;
        if !answered.has_next {
            self.vault.reader = None;
        }
        match answered.result {
            Some(Ok(())) | Some(Err(Ended::Gone)) => Ok(()),
            Some(Err(Ended::Failed(failure))) => Err(failure.into()),
            None => {
                self.channel.send_to_client(&ToClient::End { rows: 0 })?;
                Ok(self.channel.push()?)
            }
        }
    }
}

/// Why a command ends the session.
pub enum End {
    Failed(Failure),
    Lost(ChannelError),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

impl From<ChannelError> for End {
    fn from(error: ChannelError) -> End {
        End::Lost(error)
    }
}

/// A request that may begin, owned.
enum Command {
    Begin(Box<crate::protocol::message::Begin>),
    BeginInVault(Box<vault::Begin>),
    Stream(answers::Request),
    Statistics,
    NewKey(Vec<u8>),
    NewKeyProof([u8; 32]),
    ServerKeyPinned(Fingerprint),
    /// Of an answer that has ended meanwhile.
    Cancel,
    OutOfPlace,
}

impl Command {
    fn of(message: ToServer<'_>) -> Command {
        match message {
            ToServer::Begin(begin) => Command::Begin(Box::new(begin)),
            ToServer::ListSnapshots => Command::Stream(answers::Request::Snapshots),
            ToServer::ListEntries(selection) => {
                Command::Stream(answers::Request::Entries { selection, contents: false })
            }
            ToServer::Restore(selection) => {
                Command::Stream(answers::Request::Entries { selection, contents: true })
            }
            ToServer::ReadFile { selection, offset, length } => {
                Command::Stream(answers::Request::File { selection, offset, length })
            }
            ToServer::Page(page) => {
                let (entries, wanted) = (u64::from(page.entries), page.wanted.map(<[u8]>::to_vec));
                let part = answers::Page { after: page.after, entries, wanted };
                Command::Stream(answers::Request::Page { selection: page.selection, page: part })
            }
            ToServer::ReadBlocks(read) => Command::Stream(answers::Request::Blocks(read)),
            ToServer::Verify(selection) => Command::Stream(answers::Request::Verify(selection)),
            ToServer::Statistics => Command::Statistics,
            ToServer::NewKey(key) => Command::NewKey(key.to_vec()),
            ToServer::NewKeyProof(proof) => Command::NewKeyProof(proof),
            ToServer::ServerKeyPinned(bytes) => Command::ServerKeyPinned(Fingerprint::from_bytes(bytes)),
            ToServer::Vault(VaultRequest::Begin(begin)) => Command::BeginInVault(Box::new(begin.into())),
            ToServer::Vault(VaultRequest::Fetch { vault, read_token, names }) => {
                let names = names.iter().collect();
                Command::Stream(answers::Request::Vault(vault::Reading {
                    vault,
                    read_token,
                    what: What::Chunks(names),
                }))
            }
            ToServer::Vault(VaultRequest::Keys { vault, read_token, keys }) => {
                Command::Stream(answers::Request::Vault(vault::Reading {
                    vault,
                    read_token,
                    what: What::Keys(keys),
                }))
            }
            ToServer::Vault(VaultRequest::Snapshots { vault, read_token, selector }) => {
                let what = What::Snapshots(selector);
                Command::Stream(answers::Request::Vault(vault::Reading { vault, read_token, what }))
            }
            ToServer::Cancel => Command::Cancel,
            _ => Command::OutOfPlace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_store_gets_the_code_that_says_whose_fault_it_is() {
        let path = std::path::PathBuf::from("secret/place");
        let code_and_text = |error: StoreError| {
            let Failure { code, text } = error.into();
            assert!(!text.contains("secret"), "paths of the server's disk stay there: {text}");
            (code, text)
        };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let (code, _) = code_and_text(StoreError::DiskFull { path: path.clone(), source: full });
        assert_eq!(code, FailureCode::DiskFull);
        let broken = std::io::Error::other("broken");
        let (code, _) = code_and_text(StoreError::Io { doing: "write", path, source: broken });
        assert_eq!(code, FailureCode::Internal);
        let (code, _) = code_and_text(StoreError::NameTaken { name: "ada".into() });
        assert_eq!(code, FailureCode::Refused);
        let snapshot = "20260101T000000Z-01234567".parse().unwrap();
        let (code, text) = code_and_text(StoreError::DamagedHead { snapshot, problem: "secret".into() });
        assert_eq!(code, FailureCode::Damaged);
        assert!(text.contains("20260101T000000Z-01234567"));
    }
}
