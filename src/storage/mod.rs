//! What the server keeps, and how: plain files below one data folder, append-only. A snapshot is a head, an
//! index, ranges of entries shared with other snapshots, and the folder of what it brought. The format is in
//! `docs/store-format.md`.
//!
//! Invariants: nothing that a head names is ever changed in place; a head appears only when all it names is
//! on the disk; whatever a peer sends or a damaged file holds is an error, never a panic and never a write
//! outside the data folder.

mod at_rest;
mod blocks_format;
mod blocks_reader;
mod blocks_writer;
mod catalog;
mod client_removal;
mod clients;
mod commit;
mod comparison;
mod content;
mod content_writer;
mod daily;
mod damage;
mod delta;
mod dropped;
mod entries;
mod error;
mod gathering;
mod head;
mod heal;
mod index;
mod journal;
mod layout;
mod left_behind;
mod lock;
mod partial;
mod pending;
mod put_file;
mod quota;
mod range;
mod received;
mod recovery;
mod rekey;
mod repair;
mod resume;
mod retention;
mod sealed_json;
mod spool;
mod staging;
mod store;
mod summary;
mod sweep;
mod sweep_contents;
mod sweep_large;
mod tokens;
mod tree;
mod unexplained;
mod upload;
mod vault;
mod verify;

#[cfg(test)]
mod tests;

/// The version of the data folder as a whole; each kind of file has its own beside it.
pub const STORE_VERSION: u32 = 1;

pub use at_rest::{SealingState, StorageKeys};
pub use blocks_format::{BlocksPlace, RECORD_ITEMS_MAX as HELD_BLOCKS_MAX};
pub use catalog::{DamagedHead, Pin};
pub use clients::ClientRecord;
pub use comparison::ChangeRule;
pub use content::{ContentProblem, ContentReader, Segment};
pub use dropped::{Drops, InUse};
pub use entries::Entries;
pub use error::StoreError;
pub use head::{Head, InVault, SnapshotTotals};
pub use pending::{HeldContent, Needed, PartialKind};
pub use put_file::PutFile;
pub use range::{CHANGED_WHILE_READ, Location, RECHECK, StoredContent, StoredEntry, UNREADABLE};
pub use recovery::RecoveryReport;
pub use rekey::{RekeyRequest, Rekeyed, Rekeying, rekey};
pub use repair::{Outcome, RepairTaker, Repaired};
pub use retention::{DEFAULT_WITHIN, Decision, Reason, Rules, Span, decide};
pub use sealed_json::{decode_sealed, encode_sealed};
pub use spool::Spool;
pub use store::{Damage, Space, Store};
pub use summary::{ClientSummary, GROWTH_DAYS};
pub use sweep::Swept;
pub use tokens::TOKEN_BYTES;
pub use upload::{Begun, CommitCounts, ContentVerdict, RangeAnswer, Upload, UploadRequest};
pub use vault::dropped::DroppedList;
pub use vault::{
    SealedObject, Tidied, VaultBegun, VaultReader, VaultRun, VaultSnapshot, VaultUpload, VaultUploadRequest,
    VaultWatch,
};
pub use verify::{ClientVerified, DamagedFile};
