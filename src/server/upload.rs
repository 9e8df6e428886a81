//! An upload: the client's messages, in order, become calls on the store's [`Upload`]; its answers go back.

use std::sync::Arc;

use super::listener::{BUSY_SECONDS, Shared};
use super::session::{End, Ended, Failure};
use super::sessions::{Doing, Live};
use super::statistics::Count;
use crate::base::host::boot_name;
use crate::base::ids::ClientId;
use crate::base::limits::HOLE_BYTES_MAX;
use crate::channel::worker::{self, Intake, Outbox};
use crate::channel::{Channel, Closer};
use crate::crypto::ContentSums;
use crate::protocol::message::{
    BLOCK_HASH_BYTES, Begin, FailureCode, HeldContent, HostFolder, Partial, ToClient, ToServer, begin_flag,
};
use crate::storage::{
    Begun, ChangeRule, ClientRecord, CommitCounts, ContentVerdict, Head, PartialKind, RangeAnswer, Store,
    StoreError, Upload, UploadRequest,
};

use super::answers::snapshot_row;

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
        worker::converse(channel, |intake, outbox| receive((store, id), live, begin, closer, intake, outbox))?;
    let worker::Conversation { result, channel: carried } = result;
    match result {
        Ok(Some(head)) => {
            let files = head.totals.files;
            shared.statistics.count(Count::Snapshot { files });
            log::info!(
                "{}: stored snapshot {} ({files} files, {} new bytes)",
                client.name,
                head.id,
                head.totals.new_bytes
            );
            Ok(())
        }
        Ok(None) | Err(Ended::Gone) => Ok(carried?),
        Err(Ended::Failed(failure)) => Err(failure.into()),
    }
}

/// The worker: gives the head it committed, or none where the upload was stored before.
fn receive(
    (store, client): (&Store, ClientId),
    live: &Live,
    begin: Begin,
    closer: Closer,
    intake: &Intake,
    outbox: &mut Outbox,
) -> Result<Option<Arc<Head>>, Ended> {
    let dry_run = begin.flags & begin_flag::DRY_RUN != 0;
    let request = UploadRequest {
        upload: begin.upload,
        roots: begin.roots,
        label: begin.label,
        host: begin.host,
        tags: begin.tags,
        full: begin.flags & begin_flag::FULL != 0,
        changes: ChangeRule {
            ignore_inode: begin.flags & begin_flag::IGNORE_INODE != 0,
            ignore_ctime: begin.flags & begin_flag::IGNORE_CTIME != 0,
        },
        parent: begin.parent,
        started: begin.started,
        dry_run,
    };
    let mut upload = match store.begin_upload(client, request, move || closer.close()) {
        Ok(Begun::AlreadyStored(head)) => {
            outbox.send_to_client(&ToClient::Stored(snapshot_row(&head)))?;
            return Ok(None);
        }
        Ok(Begun::Open(upload)) => upload,
        Err(error) => return refuse(error, outbox),
    };
    let (device, inode) = store.place()?;
    let data = HostFolder { boot: boot_name(), device, inode };
    outbox.send_to_client(&ToClient::Begun { base: upload.base().map(|head| head.id), data })?;
    outbox.flush()?;
    let taken = take_in(&mut upload, live, intake, outbox);
    end(upload, taken, dry_run, live, outbox)
}

/// An upload that can be committed with what the client said last, or given up.
pub trait Ending {
    type Last;

    fn commit(self, last: Self::Last) -> Result<Arc<Head>, StoreError>;
    fn abandon(self);
}

impl Ending for Box<Upload> {
    type Last = CommitCounts;

    fn commit(self, counts: CommitCounts) -> Result<Arc<Head>, StoreError> {
        Upload::commit(*self, counts)
    }

    fn abandon(self) {
        Upload::abandon(*self);
    }
}

/// Ends an upload of which all has been taken in that comes: gives the head it committed, if it did.
pub fn end<U: Ending>(
    upload: U,
    taken: Result<Option<U::Last>, Ended>,
    dry_run: bool,
    live: &Live,
    outbox: &mut Outbox,
) -> Result<Option<Arc<Head>>, Ended> {
    match taken {
        Ok(Some(last)) => {
            live.set(Doing::Committing);
            let head = upload.commit(last)?;
            outbox.send_to_client(&ToClient::Stored(snapshot_row(&head)))?;
            Ok(Some(head))
        }
        // The client wanted to know, not to store: what is left of an earlier session stays.
        Ok(None) if dry_run => Ok(None),
        Ok(None) => {
            upload.abandon();
            Ok(None)
        }
        // What a peer sent that breaks the rules is nothing to go on with.
        Err(Ended::Failed(failure)) if failure.code == FailureCode::OutOfPlace => {
            upload.abandon();
            Err(failure.into())
        }
        Err(ended) => Err(ended),
    }
}

/// Answers where an upload could not be opened.
pub fn refuse(error: StoreError, outbox: &mut Outbox) -> Result<Option<Arc<Head>>, Ended> {
    match error {
        // The older session is ending, on a slow disk: the client is to come again.
        StoreError::StillOpen { .. } => {
            log::warn!("{error}");
            outbox.send_to_client(&ToClient::Busy { seconds: BUSY_SECONDS })?;
            Ok(None)
        }
        error => Err(error.into()),
    }
}

/// Takes ranges and contents in until the client asks for the commit, or (none) cancels.
fn take_in(
    upload: &mut Upload,
    live: &Live,
    intake: &Intake,
    outbox: &mut Outbox,
) -> Result<Option<CommitCounts>, Ended> {
    while let Some(batch) = intake.next() {
        let mut messages = worker::messages(&batch);
        while let Some((kind, body)) = messages.next() {
            let message = ToServer::decode(kind, body)
                .map_err(|error| Failure::out_of_place(format!("a malformed message: {error}")))?;
            match message {
                // With a repeat outstanding the client asks again once it has sent it.
                ToServer::Commit { .. } if upload.awaits_repeat() => {}
                ToServer::Commit { ranges, entries, unreadable } => {
                    return match messages.next() {
                        None => Ok(Some(CommitCounts { ranges, entries, unreadable })),
                        Some(_) => {
                            Err(Failure::out_of_place("nothing may follow a commit before its answer").into())
                        }
                    };
                }
                ToServer::Cancel => return Ok(None),
                message => {
                    if is_content(&message) {
                        live.set(Doing::Receiving);
                    }
                    apply(upload, message, outbox)?;
                }
            }
        }
        outbox.flush()?;
        drop(messages);
        intake.done(batch);
    }
    Err(Ended::Gone)
}

/// Whether a content begins to come, whole or in part.
fn is_content(message: &ToServer<'_>) -> bool {
    use ToServer::{ContentResume, ContentStart, DeltaStart};
    matches!(message, ContentStart { .. } | ContentResume { .. } | DeltaStart { .. })
}

fn apply(upload: &mut Upload, message: ToServer<'_>, outbox: &mut Outbox) -> Result<(), Ended> {
    match message {
        ToServer::RangeOffer { hash } => {
            let number = upload.ranges_offered();
            match upload.offer_range(hash)? {
                RangeAnswer::Held => outbox.send_to_client(&ToClient::RangeHeld { number })?,
                RangeAnswer::Lacking => outbox.send_to_client(&ToClient::RangeLacking { number })?,
            }
        }
        ToServer::RangeEntries { number, entries } => {
            let needed = upload.add_range(number, entries)?;
            let held = needed.held.iter().map(|held| HeldContent {
                entry: held.entry,
                blake3: held.blake3,
                blocks: held.blocks,
                partial: held.partial.map(|kind| match kind {
                    PartialKind::Plain => Partial::Plain,
                    PartialKind::Delta => Partial::Delta,
                }),
            });
            let held = held.collect();
            outbox.send_to_client(&ToClient::Needed { number, bits: &needed.bitmap, held })?;
        }
        ToServer::ContentStart { range, entry } => upload.begin_content(range, entry)?,
        ToServer::ContentData(bytes) => upload.write_content(bytes)?,
        ToServer::ContentEnd(end) => {
            let sums = ContentSums { size: end.bytes, crc32: end.crc32, blake3: end.blake3 };
            let current = upload.current_content();
            if let (ContentVerdict::Repeat, Some((range, entry))) = (upload.end_content(sums, end.flags)?, current)
            {
                outbox.send_to_client(&ToClient::ContentRepeat { range, entry })?;
            }
        }
        ToServer::ContentSkip { range, entry } => upload.skip_content(range, entry)?,
        ToServer::ContentSame { range, entry, flags } => upload.same_content(range, entry, flags)?,
        ToServer::BlocksWanted { range, entry, first, count } => {
            let held = upload.held_blocks(range, entry, first, count)?;
            send_hashes((range, entry), first, &held, outbox)?;
        }
        ToServer::PartialWanted { range, entry, first, count } => {
            let there = upload.partial_blocks(range, entry, first, count)?;
            send_hashes((range, entry), first, &there, outbox)?;
        }
        ToServer::ContentResume { range, entry, bytes } => upload.begin_resumed(range, entry, bytes)?,
        ToServer::DeltaStart { range, entry } => upload.begin_delta(range, entry)?,
        ToServer::ContentKeep { bytes } => {
            if !upload.keep_content(bytes, &|| !outbox.is_gone())? {
                return Err(Ended::Gone);
            }
        }
        ToServer::ContentHole { bytes } if bytes > HOLE_BYTES_MAX => {
            return Err(Failure::out_of_place("a hole is longer than one message may tell").into());
        }
        ToServer::ContentHole { bytes } => upload.hole_content(bytes)?,
        _ => return Err(Failure::out_of_place("that message does not belong inside an upload").into()),
    }
    Ok(())
}

fn send_hashes(
    (range, entry): (u32, u32),
    first: u64,
    blocks: &[[u8; 32]],
    outbox: &mut Outbox,
) -> Result<(), Ended> {
    let hashes: Vec<u8> = blocks.iter().flat_map(|hash| &hash[..BLOCK_HASH_BYTES]).copied().collect();
    Ok(outbox.send_to_client(&ToClient::Blocks { range, entry, first, hashes: &hashes })?)
}
