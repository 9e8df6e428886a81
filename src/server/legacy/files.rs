//! The file that a connection is at: arriving, received and not confirmed, or to be sent again. There is one at a
//! time.

use std::sync::Arc;

use super::superseded::Superseded;
use super::transfer::{Received, Transfer};
use super::{Payload, Problem, refused};
use crate::base::ids::ClientId;
use crate::base::path::EntryPath;
use crate::crypto::Secret;
use crate::protocol::legacy::{FileName, FilePacket};
use crate::server::listener::Shared;
use crate::server::statistics::Count;
use crate::storage::{ClientRecord, PutFile, Store};

/// Where the connection's file stands.
pub struct Files {
    at: At,
    superseded: Superseded,
}

enum At {
    Nothing,
    Arriving(Box<Transfer>),
    /// All packets are in and 1603 is said.
    Received(FileName, PutFile),
    /// 1030 was said: packet 1 begins it again.
    Again(FileName, PutFile),
}

impl Files {
    pub fn new() -> Files {
        Files { at: At::Nothing, superseded: Superseded::default() }
    }

    /// Drops the file that is under way, and what has come of it.
    pub fn clear(&mut self) {
        self.at = At::Nothing;
    }

    /// Tidies up after a while.
    pub fn tidy_when_due(&mut self, store: &Store) {
        self.superseded.sweep_when_due(store);
    }

    /// The connection is over.
    pub fn finish(self, store: &Store) {
        drop(self.at);
        self.superseded.finish(store);
    }

    pub fn are_under_way(&self) -> bool {
        !matches!(self.at, At::Nothing)
    }

    /// Takes a packet in; gives what is to be said with 1603 when it was the last one missing. A packet that is
    /// refused ends the transfer.
    pub fn take(
        &mut self,
        store: &Store,
        client: ClientId,
        file_key: &Arc<Secret<32>>,
        packet: &FilePacket,
        name: &FileName,
        payload: &mut Payload<'_>,
    ) -> Result<Option<Received>, Problem> {
        let mut transfer = match (std::mem::replace(&mut self.at, At::Nothing), packet.number) {
            (at, 1) => Box::new(Transfer::begin(at.upload_for(name, store, client)?, file_key, packet, name)?),
            (At::Arriving(transfer), _) => transfer,
            _ => return Err(refused(format!("packet {} of {name} without a first one", packet.number))),
        };
        let received = transfer.take(packet, name, payload)?;
        self.at = match received {
            None => At::Arriving(transfer),
            Some(_) => At::Received(name.clone(), transfer.into_upload()),
        };
        Ok(received)
    }

    /// 1029: the file is put into the client's newest snapshot.
    pub fn confirm(&mut self, shared: &Shared, client: &ClientRecord, name: &FileName) -> Result<(), Problem> {
        let upload = match std::mem::replace(&mut self.at, At::Nothing) {
            At::Received(received, upload) if received == *name => upload,
            other => {
                self.at = other;
                return Err(not_received(name));
            }
        };
        if !shared.store.client(client.id).is_some_and(|record| record.legacy) {
            return Err(refused(format!("{} has moved over to the native protocol", client.name)));
        }
        let head = upload.commit()?;
        self.superseded.by(&shared.store, client.id, head.id);
        shared.statistics.count(Count::Snapshot { files: 1 });
        log::info!(
            "{}: stored {name} in snapshot {} ({} files, {} new bytes), unauthenticated",
            client.name,
            head.id,
            head.totals.files,
            head.totals.new_bytes
        );
        Ok(())
    }

    /// 1030: the client sends the file again.
    pub fn expect_again(&mut self, _: &Shared, client: &ClientRecord, name: &FileName) -> Result<(), Problem> {
        match std::mem::replace(&mut self.at, At::Nothing) {
            At::Received(received, upload) if received == *name => {
                log::warn!("{}: {name} arrived other than it was sent; it comes again", client.name);
                self.at = At::Again(received, upload);
                Ok(())
            }
            other => {
                self.at = other;
                Err(not_received(name))
            }
        }
    }

    /// 1031: the client gives the file up.
    pub fn give_up(&mut self, _: &Shared, client: &ClientRecord, name: &FileName) -> Result<(), Problem> {
        let is_at = match &self.at {
            At::Nothing => false,
            At::Arriving(transfer) => transfer.name() == name,
            At::Received(at, _) | At::Again(at, _) => at == name,
        };
        if !is_at {
            return Err(not_received(name));
        }
        log::warn!("{}: {name} is given up", client.name);
        self.clear();
        Ok(())
    }
}

fn not_received(name: &FileName) -> Problem {
    refused(format!("{name} has not just been received"))
}

impl At {
    /// The upload that a file which is begun (again) goes into.
    fn upload_for(self, name: &FileName, store: &Store, client: ClientId) -> Result<PutFile, Problem> {
        match self {
            At::Arriving(transfer) if transfer.name() == name => Ok(transfer.into_upload()),
            At::Received(at, upload) | At::Again(at, upload) if at == *name => Ok(upload),
            _ => {
                let path = EntryPath::parse(name.as_bytes()).map_err(|error| refused(error.to_string()))?;
                Ok(store.put_file(client, path)?)
            }
        }
    }
}
