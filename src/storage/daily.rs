//! When the last daily prune was begun that came to its end: so that one which was missed is made up for, even after
//! the server was off.

use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{At, StoreError};
use super::layout::read_small_file;
use super::sealed_json::{decode_sealed, encode_sealed};
use super::store::Store;
use crate::base::durable::FILE_MODE;
use crate::base::folder::open_folder;
use crate::base::time::Timestamp;

const DAILY_VERSION: u64 = 1;
const DAILY_BYTES_MAX: u64 = 4 * 1024;

/// The record, as it is kept on the disk.
#[derive(Serialize, Deserialize)]
struct DailyFile {
    version: u64,
    /// Since 1970, by the server's clock.
    begun_seconds: i64,
}

/// Whether these bytes are such a record.
pub fn is_daily_record(bytes: &[u8]) -> bool {
    decode_sealed::<DailyFile>(bytes, Path::new("daily.json")).is_ok()
}

impl Store {
    /// None where none has come to its end yet, or the record cannot be read.
    pub fn last_daily_prune(&self) -> Option<Timestamp> {
        let bytes = read_small_file(&self.shared.layout.daily(), DAILY_BYTES_MAX).ok()?;
        let file: DailyFile = decode_sealed(&bytes, &self.shared.layout.daily()).ok()?;
        (file.version == DAILY_VERSION).then_some(Timestamp { seconds: file.begun_seconds, nanoseconds: 0 })
    }

    /// Notes that the one which was begun then is done; durable when this returns.
    pub fn note_daily_prune(&self, begun: Timestamp) -> Result<(), StoreError> {
        let (path, data) = (self.shared.layout.daily(), self.shared.layout.data());
        let file = DailyFile { version: DAILY_VERSION, begun_seconds: begun.seconds };
        let bytes = encode_sealed(&file);
        let (folder, name) = (open_folder(data).at("open", data)?, path.file_name().expect("it is a file's path"));
        self.shared.disk.replace_file(folder.as_fd(), name.as_encoded_bytes(), &bytes, FILE_MODE).at("write", &path)
    }
}
