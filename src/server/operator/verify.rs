//! `verify` by the operator: everything that the store keeps, or a sample of it, read back. Lines of JSON, one row
//! each, as they come: damage, progress at least every half second, and the end or why there is none.
//!
//! Beside a live server the server itself reads, at the lowest priority that the system gives a thread.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clients::find;
use super::{OperatorError, ReadingDesk, SOCKET_NAME, SOCKET_TIMEOUT, desk_to_read, with_socket_path};
use crate::base::ids::UserName;
use crate::base::path::display_bytes;
use crate::server::server_keys::damaged_keys;
use crate::storage::{ClientVerified, DamagedFile, StorageKeys, StoreError, VaultRun};

/// How often it is said how far it is.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How long no row may come.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest row, in bytes: one path, and the snapshots that need it.
const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What to verify.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// All clients for none.
    pub client: Option<UserName>,
    /// Only so many of a hundred contents: those that were read longest ago.
    pub sample_percent: Option<u32>,
}

/// The line on the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VerifyLine {
    pub verify: VerifyRequest,
}

/// Takes a row; false when no more is wanted.
pub type RowTaker<'a> = &'a mut dyn FnMut(Value) -> bool;

/// Verifies, here or by the server that holds the folder; the last row is `end`, or `error` with its text.
pub fn verify(
    data: &Path,
    keys: StorageKeys,
    request: &VerifyRequest,
    taker: RowTaker<'_>,
) -> Result<(), OperatorError> {
    match desk_to_read(data, keys) {
        Ok(desk) => {
            lower_priority();
            run(&desk, request, taker);
            Ok(())
        }
        Err(OperatorError::Store(StoreError::Locked { .. })) => fetch(data, request, taker)
            .map_err(|source| OperatorError::Unreachable { folder: data.to_path_buf(), source }),
        Err(error) => Err(error),
    }
}

fn fetch(data: &Path, request: &VerifyRequest, taker: RowTaker<'_>) -> io::Result<()> {
    let mut stream = with_socket_path(data, SOCKET_NAME, |path| UnixStream::connect(path))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    serde_json::to_writer(&stream, &VerifyLine { verify: request.clone() })?;
    stream.write_all(b"\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut reader).take(ROW_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let row: Value = serde_json::from_slice(&line)?;
        let is_last = row["row"] != "damage" && row["row"] != "progress";
        if !taker(row) || is_last {
            return Ok(());
        }
    }
}

/// Answers the line on the socket.
pub(super) fn serve(desk: &ReadingDesk, request: &VerifyRequest, mut socket: UnixStream) -> io::Result<()> {
    lower_priority();
    log::info!("operator: verifying");
    let mut failed = None;
    run(desk, request, &mut |row| {
        if row["row"] == "damage" {
            log::error!("damage: {}: {}", row["file"], row["reason"]);
        }
        let mut line = row.to_string();
        line.push('\n');
        failed = socket.write_all(line.as_bytes()).err();
        failed.is_none()
    });
    failed.map_or(Ok(()), Err)
}

/// For this thread alone, which does nothing else. Where the system refuses, it reads at the usual priority.
#[cfg(target_os = "linux")]
pub(in crate::server) fn lower_priority() {
    const LOWEST: i32 = 19;
    // The disk scheduler goes by the same number, where it goes by any.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOWEST);
}

#[cfg(not(target_os = "linux"))]
pub(in crate::server) fn lower_priority() {}

/// Gives rows to `taker` until the end.
pub(in crate::server) fn run(desk: &ReadingDesk, request: &VerifyRequest, taker: RowTaker<'_>) {
    let mut run = Run {
        desk,
        taker,
        files: 0,
        bytes: 0,
        sealed_snapshots: 0,
        sealed_objects: 0,
        damaged: 0,
        in_vaults: VaultRun::default(),
        told: Instant::now(),
        wants_more: true,
    };
    let last = match run.all(request) {
        Ok(()) if !run.wants_more => return,
        Ok(()) => json!({
            "row": "end", "files": run.files, "bytes": run.bytes, "sealed_snapshots": run.sealed_snapshots,
            "sealed_objects": run.sealed_objects, "damaged": run.damaged,
        }),
        Err(error) => json!({ "row": "error", "text": error.to_string(), "is_damage": error.is_damage() }),
    };
    (run.taker)(last);
}

struct Run<'a> {
    desk: &'a ReadingDesk,
    taker: RowTaker<'a>,
    files: u64,
    bytes: u64,
    sealed_snapshots: u64,
    sealed_objects: u64,
    damaged: u64,
    in_vaults: VaultRun,
    told: Instant,
    wants_more: bool,
}

impl Run<'_> {
    fn all(&mut self, request: &VerifyRequest) -> Result<(), StoreError> {
        let clients = match &request.client {
            Some(name) => vec![find(&self.desk.store, name)?],
            None => {
                self.keys()?;
                let damaged = self.desk.store.verify_records()?;
                damaged.iter().for_each(|damaged| self.tell(None, damaged));
                self.desk.store.clients()
            }
        };
        for client in clients {
            let _visit = self.desk.sessions.enter(client.id, None);
            let found = self.client(client.id, request.sample_percent)?;
            for damaged in &found.damaged {
                self.tell(Some(&client.name), damaged);
            }
            self.damaged += found.more_damaged;
            self.files += found.files;
            self.sealed_snapshots += found.sealed_snapshots;
            self.sealed_objects += found.sealed_objects;
            if self.desk.shutdown.is_requested() {
                let what = "the server ends: run \"verify\" again".to_string();
                return Err(StoreError::NotFound { what });
            }
            if !self.wants_more {
                return Ok(());
            }
        }
        Ok(())
    }

    fn client(
        &mut self,
        client: crate::base::ids::ClientId,
        percent: Option<u32>,
    ) -> Result<ClientVerified, StoreError> {
        let Run { desk, taker, files, bytes, in_vaults, told, wants_more, .. } = self;
        desk.store.verify_client(client, percent, in_vaults, &mut |count| {
            *bytes += count;
            if told.elapsed() >= REPORT_INTERVAL {
                *told = Instant::now();
                *wants_more = taker(json!({ "row": "progress", "files": files, "bytes": bytes }));
            }
            *wants_more && !desk.shutdown.is_requested()
        })
    }

    fn tell(&mut self, client: Option<&UserName>, damaged: &DamagedFile) {
        self.damaged += 1;
        let file = damaged.file.strip_prefix(self.desk.store.path()).unwrap_or(&damaged.file);
        let row = json!({
            "row": "damage",
            "client": client,
            "file": display_bytes(file.as_os_str().as_bytes()),
            "path": damaged.path.as_ref().map(|path| path.display()),
            "reason": damaged.problem,
            "snapshots": damaged.snapshots,
        });
        self.wants_more &= (self.taker)(row);
    }

    /// The server's pair, and the next one.
    fn keys(&mut self) -> Result<(), StoreError> {
        let keys = self.desk.store.path().join("keys");
        for name in damaged_keys(&self.desk.store)? {
            self.tell(None, &damaged_key(keys.join(name)));
        }
        Ok(())
    }
}

fn damaged_key(file: std::path::PathBuf) -> DamagedFile {
    let problem = "it is not the key that was written there".to_string();
    DamagedFile { file, path: None, problem, snapshots: Default::default() }
}
