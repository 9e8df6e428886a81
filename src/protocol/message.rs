//! The messages of a conversation, which travel inside sealed data segments: `kind u8 · length u32 · body`.
//!
//! Each kind has its own limit, checked before a byte of the body is buffered. Bulk bodies (contents,
//! encoded ranges) are borrowed from the receiving buffer, never copied here.

mod begin;
mod fields;
pub(crate) mod message_kind;
mod pages;
mod vault;

pub use self::begin::{Begin, HostFolder, begin_flag};
pub use self::pages::{BlockRun, Page, ReadBlocks, Verified};
pub use self::vault::{
    CHUNK_HEAD_BYTES, DroppedSnapshots, Names, SealedHead, StoredHead, VaultAnswer, VaultBegin, VaultRequest,
    chunk_head, vault_flag,
};

use self::begin::BOOT_BYTES_MAX;
use self::fields::{
    put_pair, put_path_option, put_paths, put_snapshot_option, put_tags, put_text, read_pair, read_path_option,
    read_paths, read_snapshot, read_snapshot_option, read_tags,
};
use super::handshake::{PUBLIC_KEY_BYTES_MAX, RSA_CIPHERTEXT_BYTES_MAX};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::SnapshotId;
use crate::base::limits::{
    CONTENT_CHUNK_BYTES, LABEL_BYTES_MAX, PATH_BYTES_MAX, PATHS_BYTES_MAX, RANGE_BYTES_MAX, RANGE_ENTRIES_MAX,
    READ_BLOCKS_MAX, REQUEST_PATHS_MAX, ROOTS_MAX, TAGS_MAX,
};
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;

/// Kind and length before each body.
pub const MESSAGE_HEADER_BYTES: usize = 5;
/// Longest message that names paths or roots.
const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// Longest row of a snapshot: what a request began with, and what became of it.
const SNAPSHOT_ROW_BYTES_MAX: usize = REQUEST_BYTES_MAX + 4 * 1024;
/// Longest text in a message (selector, failure); labels, tags and hosts are shorter.
const TEXT_BYTES_MAX: usize = 4_096;
/// What fits the limits of its parts fits a message.
const _: () = {
    let paths = PATHS_BYTES_MAX + 2 * ROOTS_MAX + 4;
    let labels = (TAGS_MAX + 2) * (2 + LABEL_BYTES_MAX) + 4;
    let selection = 16 + 2 + TEXT_BYTES_MAX + 2 + PATH_BYTES_MAX + paths;
    assert!(paths + labels + 128 <= REQUEST_BYTES_MAX && selection <= REQUEST_BYTES_MAX);
    assert!(REQUEST_PATHS_MAX <= ROOTS_MAX);
};
/// Most blocks of which the hashes are asked for at once.
pub const BLOCKS_WANTED_MAX: u32 = 2_048;
/// How much of a block's chaining value travels. What is built on a wrong match does not pass the comparison of
/// the whole content's sums.
pub const BLOCK_HASH_BYTES: usize = 8;
/// A number of a range and the range.
const RANGE_MESSAGE_BYTES_MAX: usize = 4 + RANGE_BYTES_MAX;

/// What can go wrong while a conversation goes on, told by the server in words and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// The server could not do it for a reason of its own.
    Internal = 1,
    /// The client's message makes no sense here.
    OutOfPlace = 2,
    /// The named snapshot or path is not there.
    NotFound = 3,
    /// The server's disk is full.
    DiskFull = 4,
    /// A quota does not allow more.
    Quota = 5,
    /// Stored data did not pass its check.
    Damaged = 6,
    /// Not allowed; the text says why.
    Refused = 7,
    /// A newer session of the same client took this one's place.
    TakenOver = 8,
}

impl FailureCode {
    const ALL: [FailureCode; 8] = [
        FailureCode::Internal,
        FailureCode::OutOfPlace,
        FailureCode::NotFound,
        FailureCode::DiskFull,
        FailureCode::Quota,
        FailureCode::Damaged,
        FailureCode::Refused,
        FailureCode::TakenOver,
    ];

    /// A number from a newer server counts as internal: the text says what it means.
    fn from_number(number: u16) -> FailureCode {
        Self::ALL.into_iter().find(|code| *code as u16 == number).unwrap_or(FailureCode::Internal)
    }
}

/// An entry that is needed and for whose path the server holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldContent {
    pub entry: u32,
    /// Of the content that is held; zeros where only a beginning is.
    pub blake3: [u8; 32],
    /// It is large: the hashes of its blocks can be asked for, and what differs from it be sent.
    pub blocks: bool,
    /// The beginning of the content itself came before the upload was cut off, and can be gone on with.
    pub partial: Option<Partial>,
}

impl HeldContent {
    fn flags(&self) -> u8 {
        let large = if self.blocks { HELD_LARGE } else { 0 };
        large
            | match self.partial {
                None => 0,
                Some(Partial::Plain) => HELD_PARTIAL,
                Some(Partial::Delta) => HELD_PARTIAL_DELTA,
            }
    }
}

/// How the beginning of a content was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    Plain,
    /// As a delta: pieces of what is held may follow.
    Delta,
}

/// The size and the two checksums of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentEnd {
    pub bytes: u64,
    pub crc32: u32,
    pub blake3: [u8; 32],
    /// Bits of [`content_flag`].
    pub flags: u8,
}

/// What is known of a content beside its bytes.
pub mod content_flag {
    /// Its times are so recent that it must be read again next time.
    pub const RECHECK: u8 = 1;
    /// It changed while it was read.
    pub const CHANGED_WHILE_READ: u8 = 2;
    /// It could not be read: there is nothing to restore.
    pub const UNREADABLE: u8 = 4;
}

/// A snapshot and, within it, paths; no path means everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// `latest` or a unique prefix of an id.
    pub snapshot: String,
    /// With `latest`: the newest that has this root.
    pub root: Option<EntryPath>,
    pub paths: Vec<EntryPath>,
}

/// From client to server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToServer<'a> {
    /// The client's proof that it holds the session's keys.
    Finished,
    Begin(Begin),
    /// The BLAKE3 of the next range.
    RangeOffer {
        hash: [u8; 32],
    },
    /// The entries of a range that the server lacks.
    RangeEntries {
        number: u32,
        entries: &'a [u8],
    },
    ContentStart {
        range: u32,
        entry: u32,
    },
    ContentData(&'a [u8]),
    ContentEnd(ContentEnd),
    /// The client could not read this one.
    ContentSkip {
        range: u32,
        entry: u32,
    },
    /// The file has the content whose BLAKE3 came with "needed"; flags as in a content's end.
    ContentSame {
        range: u32,
        entry: u32,
        flags: u8,
    },
    /// Asks for the hashes of so many blocks, at most [`BLOCKS_WANTED_MAX`], of what is held for an entry.
    BlocksWanted {
        range: u32,
        entry: u32,
        first: u64,
        count: u32,
    },
    /// Asks, as [`ToServer::BlocksWanted`] does, for hashes of the beginning of an entry's content.
    PartialWanted {
        range: u32,
        entry: u32,
        first: u64,
        count: u32,
    },
    /// Goes on with a content behind the first `bytes` of that beginning, whole blocks.
    ContentResume {
        range: u32,
        entry: u32,
        bytes: u64,
    },
    /// Begins a content as [`ToServer::ContentStart`] does, but built on what is held for the entry.
    DeltaStart {
        range: u32,
        entry: u32,
    },
    /// The next bytes of the content are those that are held, at the same offset.
    ContentKeep {
        bytes: u64,
    },
    /// The next bytes of the content are zeros that its file does not store.
    ContentHole {
        bytes: u64,
    },
    /// What was sent, and how much the walk could not read beside it.
    Commit {
        ranges: u32,
        entries: u64,
        unreadable: u64,
    },
    ListSnapshots,
    ListEntries(Selection),
    Restore(Selection),
    /// `length` bytes of one file from `offset` on; `u64::MAX` for all.
    ReadFile {
        selection: Selection,
        offset: u64,
        length: u64,
    },
    /// The named snapshot, or all of the client's where the selector is empty.
    Verify(Selection),
    Statistics,
    /// Stop the answer that is being streamed.
    Cancel,
    Page(Page<'a>),
    ReadBlocks(ReadBlocks),
    /// The public key, SubjectPublicKeyInfo DER, that is to take the place of the client's.
    NewKey(&'a [u8]),
    /// What the client makes of the challenge under its new key.
    NewKeyProof([u8; 32]),
    /// The client has pinned the server's next key, which has this fingerprint.
    ServerKeyPinned([u8; 32]),
    /// About a vault, where the server has chosen that feature.
    Vault(VaultRequest<'a>),
}

/// One snapshot as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    pub id: SnapshotId,
    pub sequence: u64,
    pub started: Timestamp,
    pub committed: Timestamp,
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    /// Bytes of content that this snapshot itself brought.
    pub new_bytes: u64,
    pub unreadable: u64,
    pub host: String,
    pub label: String,
    pub tags: Vec<String>,
    pub roots: Vec<EntryPath>,
    /// Only its client can read it: host, label, tags, roots and what it counts stand in its sealed head.
    pub vault: Option<VaultId>,
}

/// One entry of a snapshot as a listing or restore shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow<'a> {
    /// Size and checksums of its content; only what has content has them.
    pub content: Option<ContentEnd>,
    /// The entry in the encoding of [`crate::base::entry`].
    pub entry: &'a [u8],
}

/// From server to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToClient<'a> {
    /// The server's proof that it holds the session's keys.
    Finished,
    /// The client is let in: it is registered and has a slot. Requests may come.
    Welcome,
    Failure {
        code: FailureCode,
        text: String,
    },
    Busy {
        seconds: u16,
    },
    /// The upload is open; it is compared with this snapshot. The server's data lies in this folder.
    Begun {
        base: Option<SnapshotId>,
        data: HostFolder,
    },
    /// This upload is committed and durable: now, or when it was begun before.
    Stored(SnapshotRow),
    RangeHeld {
        number: u32,
    },
    RangeLacking {
        number: u32,
    },
    /// A bit for each entry of the range, lowest first: its content is wanted. For some of them the server
    /// holds a content of the same path.
    Needed {
        number: u32,
        bits: &'a [u8],
        held: Vec<HeldContent>,
    },
    /// The content arrived with other sums than it was sent with: send it again.
    ContentRepeat {
        range: u32,
        entry: u32,
    },
    /// The hashes of blocks of what is held, [`BLOCK_HASH_BYTES`] each, from block `first` on: fewer than were
    /// asked for at the content's end, and none from the first block on where nothing can be built on it.
    Blocks {
        range: u32,
        entry: u32,
        first: u64,
        hashes: &'a [u8],
    },
    Snapshot(SnapshotRow),
    Entry(EntryRow<'a>),
    ContentData(&'a [u8]),
    /// The next bytes of the content are zeros for which nothing is stored.
    ContentHole {
        bytes: u64,
    },
    /// The content just streamed is whole, as far as the server can tell.
    ContentEnd(ContentEnd),
    /// The content just begun cannot be given.
    ContentFailed {
        text: String,
    },
    /// Something of the snapshot is not what was stored: what lies at this path, or the snapshot itself.
    Damage {
        snapshot: SnapshotId,
        path: Option<EntryPath>,
        text: String,
    },
    /// The hashes of blocks of a content, [`BLOCK_HASH_BYTES`] each: fewer than were asked for at its end, and none
    /// where none are recorded.
    BlockHashes {
        first: u64,
        hashes: &'a [u8],
    },
    /// How far a verification has come.
    Verified(Verified),
    /// A secret under the client's new key.
    KeyChallenge(&'a [u8]),
    /// The new key is written down: the next login may be with it.
    KeyTaken,
    /// The fingerprint of the key that is to follow the server's, if there is one.
    NextServerKey(Option<[u8; 32]>),
    /// JSON, as `stats` prints it.
    Statistics(String),
    /// The end of a streamed answer: how many rows it had.
    End {
        rows: u64,
    },
    Vault(VaultAnswer<'a>),
}

/// The longest answer about a range of so many entries: how much of the server's ring it can take.
pub const fn needed_bytes_max(entries: usize) -> usize {
    4 + 2 + entries.div_ceil(8) + entries * HELD_BYTES
}

/// The longest answer about so many blocks, header included.
pub const fn blocks_bytes_max(count: u32) -> usize {
    MESSAGE_HEADER_BYTES + 16 + count as usize * BLOCK_HASH_BYTES
}

/// The longest body that a message of this kind may have; none for an unknown kind.
pub fn body_bytes_max(kind: u8) -> Option<usize> {
    use message_kind::*;
    Some(match kind {
        FINISHED | LIST_SNAPSHOTS | STATISTICS | CANCEL | SERVER_FINISHED | WELCOME | KEY_TAKEN => 0,
        NEW_KEY => PUBLIC_KEY_BYTES_MAX,
        KEY_CHALLENGE => RSA_CIPHERTEXT_BYTES_MAX,
        BUSY => 2,
        RANGE_HELD | RANGE_LACKING => 4,
        CONTENT_START | CONTENT_SKIP | CONTENT_REPEAT | DELTA_START | END => 8,
        CONTENT_KEEP | CONTENT_HOLE | SERVER_CONTENT_HOLE => 8,
        BLOCKS_WANTED | PARTIAL_WANTED => 20,
        BLOCKS => 16 + BLOCKS_WANTED_MAX as usize * BLOCK_HASH_BYTES,
        CONTENT_RESUME => 16,
        VERIFIED => 32,
        COMMIT => 20,
        RANGE_OFFER | NEW_KEY_PROOF | SERVER_KEY_PINNED => 32,
        NEXT_SERVER_KEY => 33,
        CONTENT_END | SERVER_CONTENT_END => CONTENT_END_BYTES,
        CONTENT_SAME => 9,
        BEGUN => 1 + SnapshotId::LENGTH + 2 + BOOT_BYTES_MAX + 16,
        NEEDED => needed_bytes_max(RANGE_ENTRIES_MAX),
        CONTENT_DATA | SERVER_CONTENT_DATA => CONTENT_CHUNK_BYTES,
        RANGE_ENTRIES => RANGE_MESSAGE_BYTES_MAX,
        FAILURE | CONTENT_FAILED => 4 + TEXT_BYTES_MAX,
        STATISTICS_ANSWER => u16::MAX as usize,
        ENTRY => 1 + CONTENT_END_BYTES + RANGE_BYTES_MAX,
        DAMAGE => SnapshotId::LENGTH + 2 + PATH_BYTES_MAX + 2 + TEXT_BYTES_MAX,
        BEGIN | LIST_ENTRIES | RESTORE | READ_FILE | VERIFY => REQUEST_BYTES_MAX,
        STORED | SNAPSHOT => SNAPSHOT_ROW_BYTES_MAX,
        PAGE => pages::page_bytes_max(REQUEST_BYTES_MAX),
        READ_BLOCKS => pages::read_blocks_bytes_max(REQUEST_BYTES_MAX),
        BLOCK_HASHES => 8 + READ_BLOCKS_MAX as usize * BLOCK_HASH_BYTES,
        _ => return vault::body_bytes_max(kind),
    })
}

/// Writes `kind · length · body`, where `write` appends the body.
fn put_message(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind);
    let length_at = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - length_at - 4).expect("every body is far below 4 GiB");
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

impl ToServer<'_> {
    /// Appends the whole message, header included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToServer::Finished => put_message(out, message_kind::FINISHED, |_| {}),
            ToServer::Begin(begin) => put_message(out, message_kind::BEGIN, |out| begin.encode(out)),
            ToServer::RangeOffer { hash } => put_message(out, message_kind::RANGE_OFFER, |out| out.put_bytes(hash)),
            ToServer::RangeEntries { number, entries } => put_message(out, message_kind::RANGE_ENTRIES, |out| {
                out.put_u32(*number);
                out.put_bytes(entries);
            }),
            ToServer::ContentStart { range, entry } => {
                put_message(out, message_kind::CONTENT_START, |out| put_pair(out, *range, *entry));
            }
            ToServer::ContentData(bytes) => {
                put_message(out, message_kind::CONTENT_DATA, |out| out.put_bytes(bytes))
            }
            ToServer::ContentEnd(end) => put_message(out, message_kind::CONTENT_END, |out| end.encode(out)),
            ToServer::ContentSkip { range, entry } => {
                put_message(out, message_kind::CONTENT_SKIP, |out| put_pair(out, *range, *entry));
            }
            ToServer::ContentSame { range, entry, flags } => put_message(out, message_kind::CONTENT_SAME, |out| {
                put_pair(out, *range, *entry);
                out.put_u8(*flags);
            }),
            ToServer::BlocksWanted { range, entry, first, count } => {
                put_wanted(out, message_kind::BLOCKS_WANTED, (*range, *entry), *first, *count);
            }
            ToServer::PartialWanted { range, entry, first, count } => {
                put_wanted(out, message_kind::PARTIAL_WANTED, (*range, *entry), *first, *count);
            }
            ToServer::ContentResume { range, entry, bytes } => {
                put_message(out, message_kind::CONTENT_RESUME, |out| {
                    put_pair(out, *range, *entry);
                    out.put_u64(*bytes);
                });
            }
            ToServer::DeltaStart { range, entry } => {
                put_message(out, message_kind::DELTA_START, |out| put_pair(out, *range, *entry));
            }
            ToServer::ContentKeep { bytes } => {
                put_message(out, message_kind::CONTENT_KEEP, |out| out.put_u64(*bytes));
            }
            ToServer::ContentHole { bytes } => {
                put_message(out, message_kind::CONTENT_HOLE, |out| out.put_u64(*bytes));
            }
            ToServer::Commit { ranges, entries, unreadable } => put_message(out, message_kind::COMMIT, |out| {
                out.put_u32(*ranges);
                out.put_u64(*entries);
                out.put_u64(*unreadable);
            }),
            ToServer::ListSnapshots => put_message(out, message_kind::LIST_SNAPSHOTS, |_| {}),
            ToServer::ListEntries(selection) => {
                put_message(out, message_kind::LIST_ENTRIES, |out| selection.encode(out));
            }
            ToServer::Restore(selection) => put_message(out, message_kind::RESTORE, |out| selection.encode(out)),
            ToServer::ReadFile { selection, offset, length } => put_message(out, message_kind::READ_FILE, |out| {
                out.put_u64(*offset);
                out.put_u64(*length);
                selection.encode(out);
            }),
            ToServer::Verify(selection) => put_message(out, message_kind::VERIFY, |out| selection.encode(out)),
            ToServer::Statistics => put_message(out, message_kind::STATISTICS, |_| {}),
            ToServer::Cancel => put_message(out, message_kind::CANCEL, |_| {}),
            ToServer::Page(page) => put_message(out, message_kind::PAGE, |out| page.encode(out)),
            ToServer::ReadBlocks(read) => put_message(out, message_kind::READ_BLOCKS, |out| read.encode(out)),
            ToServer::NewKey(key) => put_message(out, message_kind::NEW_KEY, |out| out.put_bytes(key)),
            ToServer::NewKeyProof(proof) => {
                put_message(out, message_kind::NEW_KEY_PROOF, |out| out.put_bytes(proof));
            }
            ToServer::ServerKeyPinned(fingerprint) => {
                put_message(out, message_kind::SERVER_KEY_PINNED, |out| out.put_bytes(fingerprint));
            }
            ToServer::Vault(request) => put_message(out, request.kind(), |out| request.encode(out)),
        }
    }

    pub fn decode(kind: u8, body: &[u8]) -> Result<ToServer<'_>, DecodeError> {
        let mut reader = Reader::new(body);
        let message = match kind {
            message_kind::FINISHED => ToServer::Finished,
            message_kind::BEGIN => ToServer::Begin(Begin::decode(&mut reader)?),
            message_kind::RANGE_OFFER => ToServer::RangeOffer { hash: reader.array("range hash")? },
            message_kind::RANGE_ENTRIES => {
                ToServer::RangeEntries { number: reader.u32("range number")?, entries: reader.rest() }
            }
            message_kind::CONTENT_START => {
                let (range, entry) = read_pair(&mut reader)?;
                ToServer::ContentStart { range, entry }
            }
            message_kind::CONTENT_DATA => ToServer::ContentData(reader.rest()),
            message_kind::CONTENT_END => ToServer::ContentEnd(ContentEnd::decode(&mut reader)?),
            message_kind::CONTENT_SKIP => {
                let (range, entry) = read_pair(&mut reader)?;
                ToServer::ContentSkip { range, entry }
            }
            message_kind::CONTENT_SAME => {
                let (range, entry) = read_pair(&mut reader)?;
                ToServer::ContentSame { range, entry, flags: reader.u8("content flags")? }
            }
            message_kind::COMMIT => {
                let (ranges, entries) = (reader.u32("range count")?, reader.u64("entry count")?);
                ToServer::Commit { ranges, entries, unreadable: reader.u64("unreadable")? }
            }
            message_kind::BLOCKS_WANTED => {
                let (range, entry, first, count) = read_wanted(&mut reader)?;
                ToServer::BlocksWanted { range, entry, first, count }
            }
            message_kind::PARTIAL_WANTED => {
                let (range, entry, first, count) = read_wanted(&mut reader)?;
                ToServer::PartialWanted { range, entry, first, count }
            }
            message_kind::CONTENT_RESUME => {
                let (range, entry) = read_pair(&mut reader)?;
                ToServer::ContentResume { range, entry, bytes: reader.u64("bytes gone on with")? }
            }
            message_kind::DELTA_START => {
                let (range, entry) = read_pair(&mut reader)?;
                ToServer::DeltaStart { range, entry }
            }
            message_kind::CONTENT_KEEP => ToServer::ContentKeep { bytes: reader.u64("kept bytes")? },
            message_kind::CONTENT_HOLE => ToServer::ContentHole { bytes: reader.u64("bytes of a hole")? },
            message_kind::LIST_SNAPSHOTS => ToServer::ListSnapshots,
            message_kind::LIST_ENTRIES => ToServer::ListEntries(Selection::decode(&mut reader)?),
            message_kind::RESTORE => ToServer::Restore(Selection::decode(&mut reader)?),
            message_kind::READ_FILE => ToServer::ReadFile {
                offset: reader.u64("offset")?,
                length: reader.u64("length")?,
                selection: Selection::decode(&mut reader)?,
            },
            message_kind::VERIFY => ToServer::Verify(Selection::decode(&mut reader)?),
            message_kind::STATISTICS => ToServer::Statistics,
            message_kind::CANCEL => ToServer::Cancel,
            message_kind::PAGE => Page::decode(&mut reader)?,
            message_kind::READ_BLOCKS => ToServer::ReadBlocks(ReadBlocks::decode(&mut reader)?),
            message_kind::NEW_KEY => ToServer::NewKey(reader.rest()),
            message_kind::NEW_KEY_PROOF => ToServer::NewKeyProof(reader.array("proof of the new key")?),
            message_kind::SERVER_KEY_PINNED => ToServer::ServerKeyPinned(reader.array("server key fingerprint")?),
            _ => ToServer::Vault(VaultRequest::decode(kind, &mut reader)?),
        };
        reader.finish("message")?;
        Ok(message)
    }
}

impl ToClient<'_> {
    /// Appends the whole message, header included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToClient::Finished => put_message(out, message_kind::SERVER_FINISHED, |_| {}),
            ToClient::Welcome => put_message(out, message_kind::WELCOME, |_| {}),
            ToClient::Failure { code, text } => put_message(out, message_kind::FAILURE, |out| {
                out.put_u16(*code as u16);
                put_text(out, text);
            }),
            ToClient::Busy { seconds } => put_message(out, message_kind::BUSY, |out| out.put_u16(*seconds)),
            ToClient::Begun { base, data } => put_message(out, message_kind::BEGUN, |out| {
                put_snapshot_option(out, *base);
                data.encode(out);
            }),
            ToClient::Stored(row) => put_message(out, message_kind::STORED, |out| row.encode(out)),
            ToClient::RangeHeld { number } => {
                put_message(out, message_kind::RANGE_HELD, |out| out.put_u32(*number))
            }
            ToClient::RangeLacking { number } => {
                put_message(out, message_kind::RANGE_LACKING, |out| out.put_u32(*number));
            }
            ToClient::Needed { number, bits, held } => put_message(out, message_kind::NEEDED, |out| {
                out.put_u32(*number);
                out.put_bytes16(bits);
                for content in held {
                    out.put_u32(content.entry);
                    out.put_bytes(&content.blake3);
                    out.put_u8(content.flags());
                }
            }),
            ToClient::ContentRepeat { range, entry } => {
                put_message(out, message_kind::CONTENT_REPEAT, |out| put_pair(out, *range, *entry));
            }
            ToClient::Blocks { range, entry, first, hashes } => put_message(out, message_kind::BLOCKS, |out| {
                put_pair(out, *range, *entry);
                out.put_u64(*first);
                out.put_bytes(hashes);
            }),
            ToClient::Snapshot(row) => put_message(out, message_kind::SNAPSHOT, |out| row.encode(out)),
            ToClient::Entry(row) => put_message(out, message_kind::ENTRY, |out| row.encode(out)),
            ToClient::ContentData(bytes) => {
                put_message(out, message_kind::SERVER_CONTENT_DATA, |out| out.put_bytes(bytes));
            }
            ToClient::ContentHole { bytes } => {
                put_message(out, message_kind::SERVER_CONTENT_HOLE, |out| out.put_u64(*bytes));
            }
            ToClient::ContentEnd(end) => put_message(out, message_kind::SERVER_CONTENT_END, |out| end.encode(out)),
            ToClient::ContentFailed { text } => {
                put_message(out, message_kind::CONTENT_FAILED, |out| put_text(out, text))
            }
            ToClient::Damage { snapshot, path, text } => put_message(out, message_kind::DAMAGE, |out| {
                out.put_bytes(snapshot.as_str().as_bytes());
                put_path_option(out, path.as_ref());
                put_text(out, text);
            }),
            ToClient::BlockHashes { first, hashes } => {
                put_message(out, message_kind::BLOCK_HASHES, |out| pages::put_hashes(out, *first, hashes));
            }
            ToClient::Verified(verified) => {
                put_message(out, message_kind::VERIFIED, |out| pages::put_verified(out, verified));
            }
            ToClient::KeyChallenge(sealed) => {
                put_message(out, message_kind::KEY_CHALLENGE, |out| out.put_bytes(sealed));
            }
            ToClient::KeyTaken => put_message(out, message_kind::KEY_TAKEN, |_| {}),
            ToClient::NextServerKey(next) => put_message(out, message_kind::NEXT_SERVER_KEY, |out| {
                out.put_flag(next.is_some());
                out.put_bytes(next.as_ref().map_or(&[][..], |next| &next[..]));
            }),
            ToClient::Statistics(json) => {
                put_message(out, message_kind::STATISTICS_ANSWER, |out| out.put_bytes(json.as_bytes()));
            }
            ToClient::End { rows } => put_message(out, message_kind::END, |out| out.put_u64(*rows)),
            ToClient::Vault(answer) => put_message(out, answer.kind(), |out| answer.encode(out)),
        }
    }

    pub fn decode(kind: u8, body: &[u8]) -> Result<ToClient<'_>, DecodeError> {
        let mut reader = Reader::new(body);
        let message = match kind {
            message_kind::SERVER_FINISHED => ToClient::Finished,
            message_kind::WELCOME => ToClient::Welcome,
            message_kind::FAILURE => ToClient::Failure {
                code: FailureCode::from_number(reader.u16("failure code")?),
                text: reader.text16(TEXT_BYTES_MAX, "failure text")?,
            },
            message_kind::BUSY => ToClient::Busy { seconds: reader.u16("busy seconds")? },
            message_kind::BEGUN => {
                ToClient::Begun { base: read_snapshot_option(&mut reader)?, data: HostFolder::decode(&mut reader)? }
            }
            message_kind::STORED => ToClient::Stored(SnapshotRow::decode(&mut reader)?),
            message_kind::RANGE_HELD => ToClient::RangeHeld { number: reader.u32("range number")? },
            message_kind::RANGE_LACKING => ToClient::RangeLacking { number: reader.u32("range number")? },
            message_kind::NEEDED => ToClient::Needed {
                number: reader.u32("range number")?,
                bits: reader.bytes16(RANGE_ENTRIES_MAX / 8, "needed bits")?,
                held: read_held(&mut reader)?,
            },
            message_kind::CONTENT_REPEAT => {
                let (range, entry) = read_pair(&mut reader)?;
                ToClient::ContentRepeat { range, entry }
            }
            message_kind::BLOCKS => read_blocks(&mut reader)?,
            message_kind::SNAPSHOT => ToClient::Snapshot(SnapshotRow::decode(&mut reader)?),
            message_kind::ENTRY => ToClient::Entry(EntryRow::decode(&mut reader)?),
            message_kind::SERVER_CONTENT_DATA => ToClient::ContentData(reader.rest()),
            message_kind::SERVER_CONTENT_HOLE => ToClient::ContentHole { bytes: reader.u64("bytes of a hole")? },
            message_kind::SERVER_CONTENT_END => ToClient::ContentEnd(ContentEnd::decode(&mut reader)?),
            message_kind::CONTENT_FAILED => {
                ToClient::ContentFailed { text: reader.text16(TEXT_BYTES_MAX, "failure text")? }
            }
            message_kind::DAMAGE => ToClient::Damage {
                snapshot: read_snapshot(&mut reader)?,
                path: read_path_option(&mut reader)?,
                text: reader.text16(TEXT_BYTES_MAX, "damage text")?,
            },
            message_kind::BLOCK_HASHES => pages::read_hashes(&mut reader)?,
            message_kind::VERIFIED => ToClient::Verified(pages::read_verified(&mut reader)?),
            message_kind::KEY_CHALLENGE => ToClient::KeyChallenge(reader.rest()),
            message_kind::KEY_TAKEN => ToClient::KeyTaken,
            message_kind::NEXT_SERVER_KEY => ToClient::NextServerKey(match reader.flag("next server key")? {
                true => Some(reader.array("server key fingerprint")?),
                false => None,
            }),
            message_kind::STATISTICS_ANSWER => {
                let json = String::from_utf8(reader.rest().to_vec());
                ToClient::Statistics(json.map_err(|_| DecodeError::Invalid { what: "statistics" })?)
            }
            message_kind::END => ToClient::End { rows: reader.u64("row count")? },
            _ => ToClient::Vault(VaultAnswer::decode(kind, &mut reader)?),
        };
        reader.finish("message")?;
        Ok(message)
    }
}

const CONTENT_END_BYTES: usize = 8 + 4 + 32 + 1;
const HELD_LARGE: u8 = 1;
const HELD_PARTIAL: u8 = 2;
const HELD_PARTIAL_DELTA: u8 = 2 | 4;
/// Entry number, BLAKE3, and flags: whether its blocks can be asked for, and whether there is a beginning.
const HELD_BYTES: usize = 4 + 32 + 1;

impl ContentEnd {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.bytes);
        out.put_u32(self.crc32);
        out.put_bytes(&self.blake3);
        out.put_u8(self.flags);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<ContentEnd, DecodeError> {
        Ok(ContentEnd {
            bytes: reader.u64("content size")?,
            crc32: reader.u32("content CRC32")?,
            blake3: reader.array("content BLAKE3")?,
            flags: reader.u8("content flags")?,
        })
    }
}

/// What is held, to the end of the message.
fn read_held(reader: &mut Reader<'_>) -> Result<Vec<HeldContent>, DecodeError> {
    let mut held = Vec::with_capacity(reader.remaining() / HELD_BYTES);
    while !reader.is_empty() {
        let (entry, blake3) = (reader.u32("held entry")?, reader.array("held BLAKE3")?);
        let flags = reader.u8("held flags")?;
        let partial = match flags & !HELD_LARGE {
            0 => None,
            HELD_PARTIAL => Some(Partial::Plain),
            HELD_PARTIAL_DELTA => Some(Partial::Delta),
            _ => return Err(DecodeError::Invalid { what: "held flags" }),
        };
        held.push(HeldContent { entry, blake3, blocks: flags & HELD_LARGE != 0, partial });
    }
    Ok(held)
}

fn put_wanted(out: &mut Vec<u8>, kind: u8, (range, entry): (u32, u32), first: u64, count: u32) {
    put_message(out, kind, |out| {
        put_pair(out, range, entry);
        out.put_u64(first);
        out.put_u32(count);
    });
}

fn read_wanted(reader: &mut Reader<'_>) -> Result<(u32, u32, u64, u32), DecodeError> {
    let (range, entry) = read_pair(reader)?;
    let (first, count) = (reader.u64("first block")?, reader.u32("count of blocks")?);
    match (1..=BLOCKS_WANTED_MAX).contains(&count) {
        true => Ok((range, entry, first, count)),
        false => Err(DecodeError::Invalid { what: "count of blocks" }),
    }
}

fn read_blocks<'a>(reader: &mut Reader<'a>) -> Result<ToClient<'a>, DecodeError> {
    let (range, entry) = read_pair(reader)?;
    let (first, hashes) = (reader.u64("first block")?, reader.rest());
    match hashes.len().is_multiple_of(BLOCK_HASH_BYTES) {
        true => Ok(ToClient::Blocks { range, entry, first, hashes }),
        false => Err(DecodeError::Invalid { what: "hashes of blocks" }),
    }
}

impl Selection {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, &self.snapshot);
        put_path_option(out, self.root.as_ref());
        put_paths(out, &self.paths);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Selection, DecodeError> {
        Ok(Selection {
            snapshot: reader.text16(TEXT_BYTES_MAX, "snapshot selector")?,
            root: read_path_option(reader)?,
            paths: read_paths(reader, REQUEST_PATHS_MAX, "paths")?,
        })
    }
}

impl SnapshotRow {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.id.as_str().as_bytes());
        out.put_u64(self.sequence);
        self.started.encode(out);
        self.committed.encode(out);
        for count in [self.entries, self.files, self.bytes, self.new_bytes, self.unreadable] {
            out.put_u64(count);
        }
        put_text(out, &self.host);
        put_text(out, &self.label);
        put_tags(out, &self.tags);
        put_paths(out, &self.roots);
        // Of other snapshots nothing follows: clients that know no vaults read those as ever.
        out.put_bytes(self.vault.as_ref().map_or(&[][..], |vault| vault.as_bytes()));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<SnapshotRow, DecodeError> {
        Ok(SnapshotRow {
            id: read_snapshot(reader)?,
            sequence: reader.u64("sequence")?,
            started: Timestamp::decode(reader)?,
            committed: Timestamp::decode(reader)?,
            entries: reader.u64("entries")?,
            files: reader.u64("files")?,
            bytes: reader.u64("bytes")?,
            new_bytes: reader.u64("new bytes")?,
            unreadable: reader.u64("unreadable")?,
            host: reader.text16(LABEL_BYTES_MAX, "host")?,
            label: reader.text16(LABEL_BYTES_MAX, "label")?,
            tags: read_tags(reader)?,
            roots: read_paths(reader, ROOTS_MAX, "roots")?,
            vault: match reader.is_empty() {
                true => None,
                false => Some(VaultId::from_bytes(reader.array("vault id")?)),
            },
        })
    }
}

impl<'a> EntryRow<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_flag(self.content.is_some());
        if let Some(content) = &self.content {
            content.encode(out);
        }
        out.put_bytes(self.entry);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<EntryRow<'a>, DecodeError> {
        let content = match reader.flag("content")? {
            true => Some(ContentEnd::decode(reader)?),
            false => None,
        };
        Ok(EntryRow { content, entry: reader.rest() })
    }
}

#[cfg(test)]
mod tests;
