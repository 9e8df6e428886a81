//! Vaults: a client's messages about what only it can read become calls on the store, and the answers go back. The
//! tokens that let it write and read are looked at by the store and told to nobody.

use std::collections::VecDeque;
use std::sync::Arc;

use super::listener::Shared;
use super::session::{End, Ended, Failure};
use super::sessions::{Doing, Live};
use super::statistics::Count;
use crate::base::host::boot_name;
use crate::base::ids::{ClientId, SnapshotId};
use crate::base::limits::{VAULT_DROPPED_AT_ONCE, VAULT_PINS_MAX};
use crate::base::vault::{ChunkName, DataKeyId, VaultId};
use crate::channel::worker::{self, Gone, Intake, Outbox};
use crate::channel::{Channel, Closer};
use crate::protocol::message::{
    DroppedSnapshots, HostFolder, SealedHead, StoredHead, ToClient, ToServer, VaultAnswer, VaultBegin,
    VaultRequest, vault_flag,
};
use crate::storage::{
    ClientRecord, DroppedList, Head, Pin, SealedObject, Store, StoreError, VaultBegun, VaultReader, VaultUpload,
    VaultUploadRequest,
};

use super::answers::snapshot_row;
use super::upload::{self, Ending};

/// What an upload begins with, owned.
pub struct Begin(VaultUploadRequest);

impl From<VaultBegin<'_>> for Begin {
    fn from(begin: VaultBegin<'_>) -> Begin {
        Begin(VaultUploadRequest {
            vault: begin.vault,
            write_token: begin.write_token,
            read_verifier: begin.read_verifier,
            upload: begin.upload,
            set: begin.set,
            started: begin.started,
            dry_run: begin.flags & vault_flag::DRY_RUN != 0,
            wrapped_key: begin.wrapped_key.to_vec(),
        })
    }
}

/// A request to read a vault.
pub struct Reading {
    pub vault: VaultId,
    pub read_token: [u8; 32],
    pub what: What,
}

/// What is to be read of it.
pub enum What {
    Chunks(Vec<ChunkName>),
    Keys(Vec<DataKeyId>),
    /// Those whose ids begin so.
    Snapshots(String),
}

/// What a session has open of a vault.
#[derive(Default)]
pub struct Open {
    /// The vault that was read last. It stays open while the next request is there already, so that not every answer of
    /// a restore opens it; an idle session has none.
    pub reader: Option<VaultReader>,
    /// The snapshots that were asked for by their ids last, [`VAULT_PINS_MAX`] at most: which of its chunks belong to
    /// which snapshot a client does not say, and until the session ends it may ask for more.
    pins: VecDeque<Pin>,
}

impl Open {
    /// Keeps a snapshot that is asked for by its id from being dropped.
    fn pin(&mut self, store: &Store, beginning: &str) -> Result<(), StoreError> {
        let (Some(reader), Ok(id)) = (&self.reader, beginning.parse()) else { return Ok(()) };
        if let Some(pin) = store.pin_in_vault(reader, id)? {
            self.pins.retain(|pin| pin.snapshot() != id);
            self.pins.truncate(VAULT_PINS_MAX - 1);
            self.pins.push_front(pin);
        }
        Ok(())
    }
}

/// Serves one upload from its beginning to its commit.
pub fn run(
    shared: &Arc<Shared>,
    client: &ClientRecord,
    live: &Live,
    channel: &mut Channel,
    begin: Begin,
) -> Result<(), End> {
    live.set(Doing::Comparing);
    let (store, id) = (&shared.store, client.id);
    let closer = channel.closer();
    let result =
        worker::converse(channel, |intake, outbox| receive((store, id), live, begin.0, closer, intake, outbox))?;
    let worker::Conversation { result, channel: carried } = result;
    match result {
        Ok(Some(head)) => {
            shared.statistics.count(Count::Snapshot { files: head.totals.files });
            let stored = head.totals.stored_bytes;
            log::info!("{}: stored snapshot {} in a vault ({stored} new bytes, sealed)", client.name, head.id);
            Ok(())
        }
        Ok(None) | Err(Ended::Gone) => Ok(carried?),
        Err(Ended::Failed(failure)) => Err(failure.into()),
    }
}

/// The worker: gives the head it committed, or none where the upload was stored before, or was one of questions only.
fn receive(
    (store, client): (&Store, ClientId),
    live: &Live,
    request: VaultUploadRequest,
    closer: Closer,
    intake: &Intake,
    outbox: &mut Outbox,
) -> Result<Option<Arc<Head>>, Ended> {
    let dry_run = request.dry_run;
    let mut upload = match store.begin_vault_upload(client, request, move || closer.close()) {
        Ok(VaultBegun::AlreadyStored(head)) => {
            outbox.send_to_client(&ToClient::Stored(snapshot_row(&head)))?;
            return Ok(None);
        }
        Ok(VaultBegun::Open(upload)) => upload,
        Err(error) => return upload::refuse(error, outbox),
    };
    send_begun(store, &upload, outbox)?;
    let taken = take_in(&mut upload, live, intake, outbox);
    upload::end(upload, taken, dry_run, live, outbox)
}

impl Ending for Box<VaultUpload> {
    /// The head's name, and the sealed head.
    type Last = (ChunkName, Vec<u8>);

    fn commit(self, (name, sealed): (ChunkName, Vec<u8>)) -> Result<Arc<Head>, StoreError> {
        VaultUpload::commit(*self, name, &sealed)
    }

    fn abandon(self) {
        VaultUpload::abandon(*self);
    }
}

fn send_begun(store: &Store, upload: &VaultUpload, outbox: &mut Outbox) -> Result<(), Ended> {
    let (device, inode) = store.place()?;
    let data = HostFolder { boot: boot_name(), device, inode };
    let newest = upload.newest().map(|(id, head)| (*id, sealed_head(head)));
    outbox.send_to_client(&ToClient::Vault(VaultAnswer::Begun { data, snapshot: upload.snapshot(), newest }))?;
    Ok(outbox.flush()?)
}

fn sealed_head(object: &SealedObject) -> SealedHead<'_> {
    SealedHead { name: object.name, key: object.key, sealed: &object.sealed }
}

/// Takes questions, chunks and lists in until the client sends the head, or (none) cancels.
fn take_in(
    upload: &mut VaultUpload,
    live: &Live,
    intake: &Intake,
    outbox: &mut Outbox,
) -> Result<Option<(ChunkName, Vec<u8>)>, Ended> {
    while let Some(batch) = intake.next() {
        let mut messages = worker::messages(&batch);
        while let Some((kind, body)) = messages.next() {
            let message = ToServer::decode(kind, body)
                .map_err(|error| Failure::out_of_place(format!("a malformed message: {error}")))?;
            match message {
                ToServer::Vault(VaultRequest::Commit { name, sealed }) => {
                    return match messages.next() {
                        None => Ok(Some((name, sealed.to_vec()))),
                        Some(_) => {
                            Err(Failure::out_of_place("nothing may follow a commit before its answer").into())
                        }
                    };
                }
                ToServer::Cancel => return Ok(None),
                ToServer::Vault(request) => {
                    if matches!(request, VaultRequest::Chunk { .. }) {
                        live.set(Doing::Receiving);
                    }
                    apply(upload, request, outbox)?;
                }
                _ => return Err(Failure::out_of_place("that message does not belong inside an upload").into()),
            }
        }
        outbox.flush()?;
        drop(messages);
        intake.done(batch);
    }
    Err(Ended::Gone)
}

fn apply(upload: &mut VaultUpload, request: VaultRequest<'_>, outbox: &mut Outbox) -> Result<(), Ended> {
    match request {
        VaultRequest::Ask { number, names } => {
            let bits = upload.ask(names.as_bytes())?;
            outbox.send_to_client(&ToClient::Vault(VaultAnswer::Lacking { number, bits: &bits }))?;
        }
        VaultRequest::Chunk { name, sealed } => upload.chunk(name, sealed)?,
        VaultRequest::List { names } => upload.list(names.as_bytes())?,
        VaultRequest::Needs { lists } => upload.needs(lists.as_bytes())?,
        _ => return Err(Failure::out_of_place("that message does not belong inside an upload").into()),
    }
    Ok(())
}

/// Streams what is to be read; gives the number of its rows. The vault is left open.
pub fn stream(store: &Store, reading: &Reading, open: &mut Open, outbox: &mut Outbox) -> Result<u64, Ended> {
    // The token is looked at each time.
    open.reader = Some(store.read_vault(reading.vault, &reading.read_token)?);
    if let What::Snapshots(beginning) = &reading.what {
        open.pin(store, beginning)?;
    }
    let reader = open.reader.as_ref().expect("opened just now");
    match &reading.what {
        What::Chunks(names) => {
            let mut sent = Ok::<(), Gone>(());
            reader.chunks(names, &mut |name, chunk| {
                sent = send_chunk(name, chunk.as_ref(), outbox);
                sent.is_ok()
            })?;
            sent?;
            Ok(names.len() as u64)
        }
        What::Keys(keys) => {
            for id in keys {
                let wrapped = reader.wrapped_key(id)?.unwrap_or_default();
                outbox.send_to_client(&ToClient::Vault(VaultAnswer::Key { id: *id, wrapped: &wrapped }))?;
            }
            Ok(keys.len() as u64)
        }
        What::Snapshots(beginning) => snapshots(store, reader, beginning, outbox),
    }
}

fn send_chunk(name: &ChunkName, chunk: Option<&SealedObject>, outbox: &mut Outbox) -> Result<(), Gone> {
    let answer = match chunk {
        Some(chunk) => VaultAnswer::Object { name: *name, key: chunk.key, sealed: &chunk.sealed },
        None => VaultAnswer::Missing { name: *name, text: "it is damaged, or not held".to_string() },
    };
    outbox.send_to_client(&ToClient::Vault(answer))
}

fn snapshots(store: &Store, reader: &VaultReader, beginning: &str, outbox: &mut Outbox) -> Result<u64, Ended> {
    let (mut rows, mut sent) = (0, Ok::<(), Gone>(()));
    store.vault_snapshots(reader, beginning, &mut |snapshot| {
        let head = match &snapshot.head {
            Ok(head) => head,
            Err(problem) => {
                let text = problem.clone();
                sent = outbox.send_to_client(&ToClient::Damage { snapshot: snapshot.id, path: None, text });
                return sent.is_ok();
            }
        };
        let stored = StoredHead {
            id: snapshot.id,
            sequence: snapshot.sequence,
            committed: snapshot.committed,
            client: snapshot.client.clone(),
            stored_bytes: snapshot.stored_bytes,
            head: sealed_head(head),
        };
        rows += 1;
        sent = outbox.send_to_client(&ToClient::Vault(VaultAnswer::Snapshot(stored)));
        sent.is_ok()
    })?;
    sent?;
    send_dropped(&reader.dropped()?, beginning, outbox)?;
    Ok(rows)
}

/// Tells what was dropped on purpose of the snapshots whose ids begin so.
fn send_dropped(dropped: &DroppedList, beginning: &str, outbox: &mut Outbox) -> Result<(), Gone> {
    let fits = |id: &SnapshotId| id.as_str().starts_with(beginning);
    let ids: Vec<SnapshotId> = dropped.snapshots.iter().copied().filter(fits).collect();
    let parts = ids.chunks(VAULT_DROPPED_AT_ONCE).map(<[SnapshotId]>::to_vec);
    let lone = (ids.is_empty() && dropped.before.is_some()).then(Vec::new);
    for snapshots in parts.chain(lone) {
        let part = DroppedSnapshots { before: dropped.before, snapshots };
        outbox.send_to_client(&ToClient::Vault(VaultAnswer::Dropped(part)))?;
    }
    Ok(())
}
