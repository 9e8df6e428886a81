//! Sealed chunks from the server, opened in the order in which they were asked for.
//!
//! Up to two requests are under way, so that the server reads while the client opens and writes; and what has come is
//! authenticated some chunks at a time, side by side, and opened where it lies. A chunk whose data key
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
use crate::crypto::{ChunkKind, ChunkOpener, DataKey, FullKey, SealedChunk, authenticate};
use crate::protocol::message::{Names, StoredHead, ToClient, ToServer, VaultAnswer, VaultRequest};

/// Requests under way.
const REQUESTS_MAX: usize = 2;
/// So many chunks, or so many bytes of them, are taken from the line before they are authenticated side by side.
const TOGETHER_MAX: usize = 16;
const TOGETHER_BYTES: usize = 384 * 1024;

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

/// What came for a name, not opened yet; or why the server has none.
type Arrived = Result<SealedChunk, String>;

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
    /// The chunk that was given out last.
    current: Option<SealedChunk>,
    /// Buffers for others.
    spare: Vec<Vec<u8>>,
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
            current: None,
            spare: Vec::new(),
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
            self.take_some(name)?;
        }
        if matches!(self.arrived.front(), Some(Ok(first)) if !self.knows(first.key)) {
            self.learn_keys()?;
        }
        self.authenticate_first();
        let opened = match self.arrived.pop_front().ok_or_else(unexpected)? {
            Ok(chunk) => self.open(kind, chunk),
            Err(text) => Err(text),
        };
        Ok(opened.map_err(|text| format!("the chunk {}: {text}", short(name))))
    }

    /// Receives the chunk of this name, and those behind it that come with the same answer, as many as are authenticated
    /// together.
    fn take_some(&mut self, name: ChunkName) -> Result<(), ClientError> {
        let mut bytes = self.take_chunk(name)?;
        for next in 0..TOGETHER_MAX - 1 {
            let is_last = self.answers.front().is_none_or(|(left, _)| *left == 0);
            let Some(name) = self.asked.get(next).copied().filter(|_| !is_last && bytes < TOGETHER_BYTES) else {
                break;
            };
            bytes += self.take_chunk(name)?;
        }
        Ok(())
    }

    /// Authenticates the first of what has arrived, and what is behind it.
    fn authenticate_first(&mut self) {
        if matches!(self.arrived.front(), Some(Ok(first)) if !first.is_checked()) {
            let first = self.arrived.iter_mut().take(TOGETHER_MAX).filter_map(|arrived| arrived.as_mut().ok());
            authenticate(self.key.put(), &mut first.collect::<Vec<_>>());
        }
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
        let mut chunk = SealedChunk::new(name, id, head.head.sealed.to_vec());
        authenticate(self.key.put(), &mut [&mut chunk]);
        Ok(self.open(ChunkKind::Head, chunk))
    }

    /// The conversation, for another kind of question while no answer is under way.
    pub fn line(&mut self) -> &mut Line<'a> {
        &mut self.line
    }

    fn open(&mut self, kind: ChunkKind, chunk: SealedChunk) -> Result<&[u8], String> {
        if let Some(before) = self.current.take() {
            self.spare.push(before.into_buffer());
            self.spare.truncate(TOGETHER_MAX);
        }
        let chunk = self.current.insert(chunk);
        let id = chunk.key;
        let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            return Err("its data key did not come".to_string());
        };
        let Some(key) = key else { return Err(format!("its data key {id} is gone or damaged")) };
        let opened = self.opener.open(self.key.put(), key, kind, chunk);
        opened.map_err(|_| "it is not what was stored under this name".to_string())
    }

    fn knows(&self, id: DataKeyId) -> bool {
        self.keys.iter().any(|(known, _)| *known == id)
    }

    /// Receives the next chunk, which should be called `name`; gives how many bytes it has.
    fn take_chunk(&mut self, name: ChunkName) -> Result<usize, ClientError> {
        self.take_ends()?;
        let mut sealed = self.spare.pop().unwrap_or_default();
        sealed.clear();
        let arrived = match self.line.receive()? {
            ToClient::Vault(VaultAnswer::Object { name: found, key, sealed: bytes }) if found == name => {
                sealed.extend_from_slice(bytes);
                Ok(SealedChunk::new(name, key, sealed))
            }
            ToClient::Vault(VaultAnswer::Object { .. }) => {
                Err("the server gave another one in its place".to_string())
            }
            ToClient::Vault(VaultAnswer::Missing { name: found, text }) if found == name => Err(text),
            _ => return Err(unexpected()),
        };
        self.answers.front_mut().ok_or_else(unexpected)?.0 -= 1;
        let bytes = arrived.as_ref().map_or(0, SealedChunk::sealed_bytes);
        self.arrived.push_back(arrived);
        Ok(bytes)
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
            self.arrived.iter().flatten().map(|chunk| chunk.key).filter(|id| !self.knows(*id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        // More at once than are kept would push each other out: the others are asked for when their turn comes.
        unknown.truncate(VAULT_DATA_KEYS_MAX / 2);
        if let Some(Ok(SealedChunk { key: wanted, .. })) = self.arrived.front()
            && !unknown.contains(wanted)
        {
            unknown.push(*wanted);
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
