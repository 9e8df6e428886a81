//! Sealed chunks from the server, opened in the order in which they were asked for.
//!
//! Up to two requests are under way, so that the server reads while the client opens and writes. A chunk whose data key
//! has not come yet waits, with all behind it, until the answers under way have come and the key has been asked for: so
//! what waits is bounded by what was asked for. Nothing that comes is believed: a chunk opens under the name that was
//! asked for, or it is damaged.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::error::ClientError;
use super::super::query::{check_rows, lost, malformed, unexpected};
use crate::base::ids::hex;
use crate::base::limits::{VAULT_DATA_KEYS_MAX, VAULT_FETCH_MAX};
use crate::base::vault::{ChunkName, DataKeyId};
use crate::channel::worker::{self, Intake, Outbox};
use crate::crypto::{ChunkKind, ChunkOpener, DataKey, FullKey};
use crate::protocol::message::{Names, StoredHead, ToClient, ToServer, VaultAnswer, VaultRequest};

/// Requests under way.
const REQUESTS_MAX: usize = 2;

/// The conversation with the server, message by message.
pub struct Line<'a> {
    intake: &'a Intake,
    outbox: &'a mut Outbox,
    batch: Vec<u8>,
    at: usize,
}

impl<'a> Line<'a> {
    pub fn new(intake: &'a Intake, outbox: &'a mut Outbox) -> Line<'a> {
        Line { intake, outbox, batch: Vec::new(), at: 0 }
    }

    pub fn send(&mut self, request: &ToServer<'_>) -> Result<(), ClientError> {
        self.outbox.send_to_server(request)?;
        Ok(self.outbox.flush()?)
    }

    /// The next message. A failure told by the server is an error.
    pub fn receive(&mut self) -> Result<ToClient<'_>, ClientError> {
        while self.at >= self.batch.len() {
            if !self.batch.is_empty() {
                self.intake.done(std::mem::take(&mut self.batch));
            }
            self.batch = self.intake.next().ok_or_else(lost)?;
            self.at = 0;
        }
        let (kind, body) = worker::messages(&self.batch[self.at..]).next().ok_or_else(unexpected)?;
        self.at += crate::protocol::message::MESSAGE_HEADER_BYTES + body.len();
        match ToClient::decode(kind, body).map_err(|error| malformed(error.into()))? {
            ToClient::Failure { code, text } => Err(ClientError::Failure { code, text }),
            message => Ok(message),
        }
    }
}

/// What came for a name, not opened yet.
struct Arrived {
    /// None where the server has none, for the reason in `text`.
    key: Option<DataKeyId>,
    sealed: Vec<u8>,
    text: String,
}

/// Fetches and opens what is in one vault.
pub struct Fetcher<'a> {
    line: Line<'a>,
    key: Arc<FullKey>,
    opener: ChunkOpener,
    /// The keys that were used last, the newest at the back; none for one that the server has not.
    keys: VecDeque<(DataKeyId, Option<DataKey>)>,
    /// What was asked for and not given out yet, in order.
    asked: VecDeque<ChunkName>,
    arrived: VecDeque<Arrived>,
    /// How many chunks each answer under way still brings, and brings in all.
    answers: VecDeque<(usize, usize)>,
    spare: Vec<Vec<u8>>,
    plain: Vec<u8>,
}

impl<'a> Fetcher<'a> {
    pub fn new(line: Line<'a>, key: Arc<FullKey>) -> Fetcher<'a> {
        Fetcher {
            line,
            key,
            opener: ChunkOpener::new(),
            keys: VecDeque::new(),
            asked: VecDeque::new(),
            arrived: VecDeque::new(),
            answers: VecDeque::new(),
            spare: Vec::new(),
            plain: Vec::new(),
        }
    }

    pub fn key(&self) -> &FullKey {
        &self.key
    }

    /// Whether another request may be sent before something has been given out.
    pub fn has_room(&self) -> bool {
        self.answers.len() < REQUESTS_MAX
    }

    /// Asks for chunks: at most [`VAULT_FETCH_MAX`], and some.
    pub fn ask(&mut self, names: &[ChunkName]) -> Result<(), ClientError> {
        debug_assert!((1..=VAULT_FETCH_MAX).contains(&names.len()));
        let bytes: Vec<u8> = names.iter().flat_map(|name| *name.as_bytes()).collect();
        let (vault, read_token) = (self.key.put().vault(), *self.key.read_token());
        self.line.send(&ToServer::Vault(VaultRequest::Fetch { vault, read_token, names: Names::of(&bytes) }))?;
        self.asked.extend(names);
        self.answers.push_back((names.len(), names.len()));
        Ok(())
    }

    /// The next chunk that was asked for; or, where it cannot be had, why.
    pub fn next(&mut self, kind: ChunkKind) -> Result<Result<&[u8], String>, ClientError> {
        let name = self.asked.pop_front().ok_or_else(unexpected)?;
        if self.arrived.is_empty() {
            self.take_chunk(name)?;
        }
        if self.arrived.front().is_some_and(|first| first.key.is_some_and(|key| !self.knows(key))) {
            self.learn_keys()?;
        }
        let Arrived { key, sealed, text } = self.arrived.pop_front().ok_or_else(unexpected)?;
        let opened = match key {
            None => Err(text),
            Some(id) => self.open(kind, name, id, &sealed),
        };
        self.spare.push(sealed);
        self.spare.truncate(REQUESTS_MAX);
        Ok(opened.map(|()| &self.plain[..]).map_err(|text| format!("the chunk {}: {text}", short(name))))
    }

    /// Takes the ends of the answers whose chunks have all been given out.
    pub fn finish(&mut self) -> Result<(), ClientError> {
        while !self.answers.is_empty() {
            self.take_end()?;
        }
        Ok(())
    }

    /// Takes the ends of those answers that have brought all, so that there is room for another request.
    pub fn take_ends(&mut self) -> Result<(), ClientError> {
        while self.answers.front().is_some_and(|(left, _)| *left == 0) {
            self.take_end()?;
        }
        Ok(())
    }

    /// Opens what came beside any request: a head.
    pub fn open_head(&mut self, head: &StoredHead<'_>) -> Result<Result<&[u8], String>, ClientError> {
        self.finish()?;
        let (name, id) = (head.head.name, head.head.key);
        if !self.knows(id) {
            self.request_keys(vec![id])?;
        }
        let opened = self.open(ChunkKind::Head, name, id, head.head.sealed);
        Ok(opened.map(|()| &self.plain[..]))
    }

    /// The conversation, for another kind of question while no answer is under way.
    pub fn line(&mut self) -> &mut Line<'a> {
        &mut self.line
    }

    fn open(&mut self, kind: ChunkKind, name: ChunkName, id: DataKeyId, sealed: &[u8]) -> Result<(), String> {
        let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            return Err("its data key did not come".to_string());
        };
        let Some(key) = key else { return Err(format!("its data key {id} is gone or damaged")) };
        let put = self.key.put();
        let opened = self.opener.open(put, key, kind, name, sealed, &mut self.plain);
        opened.map_err(|_| "it is not what was stored under this name".to_string())
    }

    fn knows(&self, id: DataKeyId) -> bool {
        self.keys.iter().any(|(known, _)| *known == id)
    }

    /// Receives the next chunk, which should be called `name`.
    fn take_chunk(&mut self, name: ChunkName) -> Result<(), ClientError> {
        self.take_ends()?;
        let mut sealed = self.spare.pop().unwrap_or_default();
        sealed.clear();
        let arrived = match self.line.receive()? {
            ToClient::Vault(VaultAnswer::Object { name: found, key, sealed: bytes }) if found == name => {
                sealed.extend_from_slice(bytes);
                Arrived { key: Some(key), sealed, text: String::new() }
            }
            ToClient::Vault(VaultAnswer::Object { .. }) => {
                Arrived { key: None, sealed, text: "the server gave another one in its place".to_string() }
            }
            ToClient::Vault(VaultAnswer::Missing { name: found, text }) if found == name => {
                Arrived { key: None, sealed, text }
            }
            _ => return Err(unexpected()),
        };
        self.answers.front_mut().ok_or_else(unexpected)?.0 -= 1;
        self.arrived.push_back(arrived);
        Ok(())
    }

    fn take_end(&mut self) -> Result<(), ClientError> {
        let (left, count) = self.answers.pop_front().ok_or_else(unexpected)?;
        match self.line.receive()? {
            ToClient::End { rows } if left == 0 => check_rows(count as u64, rows),
            _ => Err(unexpected()),
        }
    }

    /// Takes all that is under way, and then asks for the keys of it that are not known.
    fn learn_keys(&mut self) -> Result<(), ClientError> {
        let under_way: usize = self.answers.iter().map(|(left, _)| *left).sum();
        let names: Vec<ChunkName> = self.asked.iter().copied().skip(self.asked.len() - under_way).collect();
        for name in names {
            self.take_chunk(name)?;
        }
        self.finish()?;
        let mut unknown: Vec<DataKeyId> =
            self.arrived.iter().filter_map(|arrived| arrived.key).filter(|id| !self.knows(*id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        // More at once than are kept would push each other out: the others are asked for when their turn comes.
        unknown.truncate(VAULT_DATA_KEYS_MAX / 2);
        if let Some(wanted) = self.arrived.front().and_then(|arrived| arrived.key)
            && !unknown.contains(&wanted)
        {
            unknown.push(wanted);
        }
        self.request_keys(unknown)
    }

    fn request_keys(&mut self, ids: Vec<DataKeyId>) -> Result<(), ClientError> {
        let (vault, read_token, count) = (self.key.put().vault(), *self.key.read_token(), ids.len() as u64);
        self.line.send(&ToServer::Vault(VaultRequest::Keys { vault, read_token, keys: ids.clone() }))?;
        for id in ids {
            let key = match self.line.receive()? {
                ToClient::Vault(VaultAnswer::Key { id: found, wrapped }) if found == id => {
                    self.key.open_data_key(id, wrapped).ok()
                }
                _ => return Err(unexpected()),
            };
            if self.keys.len() == VAULT_DATA_KEYS_MAX {
                self.keys.pop_front();
            }
            self.keys.push_back((id, key));
        }
        match self.line.receive()? {
            ToClient::End { rows } => check_rows(count, rows),
            _ => Err(unexpected()),
        }
    }
}

/// A name as messages show it.
pub fn short(name: ChunkName) -> String {
    hex(&name.as_bytes()[..8])
}
