//! Every limit that more than one module shares, by name. A limit that one module owns stands there.

use std::time::Duration;

/// The port a server listens on when neither a flag nor `port.info` says otherwise.
pub const DEFAULT_PORT: u16 = 1256;
/// Authenticated sessions at once, unless `--max-clients` or `MAX_CONCURRENT_CLIENTS` says otherwise.
pub const DEFAULT_MAX_CLIENTS: usize = 50;
/// How long a whole message may take, beside its size at [`SLOWEST_BYTES_PER_SECOND`].
pub const DEFAULT_SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest line that is still served: what a message's size adds to its deadline.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 16 * 1024;
/// All the waiting a peer may cause before it has proved itself.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a side that is busy with its own disk says that it is still there.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Longest path in an entry, in bytes: the length travels as a u16.
pub const PATH_BYTES_MAX: usize = u16::MAX as usize;
/// Most components in a path.
pub const PATH_COMPONENTS_MAX: usize = 4_096;
/// Longest link target, in bytes: the length travels as a u16.
pub const LINK_TARGET_BYTES_MAX: usize = u16::MAX as usize;
/// Longest owner or group name, in bytes: the length travels as a u8.
pub const OWNER_NAME_BYTES_MAX: usize = u8::MAX as usize;
/// Most tagged optional fields on one entry.
pub const ENTRY_FIELDS_MAX: usize = 32;
/// All tagged optional fields of one entry together, in bytes.
pub const ENTRY_FIELDS_BYTES_MAX: usize = 256 * 1024;

/// Most entries in one range.
pub const RANGE_ENTRIES_MAX: usize = 8_192;
/// Most encoded bytes in one range; an entry that would pass it begins the next range.
pub const RANGE_BYTES_MAX: usize = 1024 * 1024;
/// One path in so many begins a new range, by its hash.
pub const RANGE_MEAN_ENTRIES: u32 = 1_024;
/// From so many encoded bytes on, [`RANGE_LONG_MEAN_ENTRIES`] counts instead: a change sends a whole range.
pub const RANGE_LONG_BYTES: usize = 256 * 1024;
/// One path in so many begins a new range after a long one.
pub const RANGE_LONG_MEAN_ENTRIES: u32 = 128;
/// Most ranges that a client may have named without all their contents sent.
pub const RANGES_PENDING_MAX: usize = 8;
/// Most encoded bytes of such ranges, beside the newest of them.
pub const RANGES_PENDING_BYTES_MAX: usize = 1024 * 1024;

/// Longest user name, in characters.
pub const USER_NAME_CHARACTERS_MAX: usize = 100;
/// Most roots in one backup.
pub const ROOTS_MAX: usize = 1_024;
/// All roots of one backup, or all paths of one request, together, in bytes.
pub const PATHS_BYTES_MAX: usize = 384 * 1024;
/// Longest label, tag and host name of a snapshot, in bytes.
pub const LABEL_BYTES_MAX: usize = 1_024;
/// Most tags on a snapshot.
pub const TAGS_MAX: usize = 64;
/// Most paths in one request to restore, list or verify.
pub const REQUEST_PATHS_MAX: usize = 1_024;

/// Most entries in one page of a restore into a folder where something is already.
pub const PAGE_ENTRIES_MAX: u32 = 65_536;
/// Most large files of one page that are compared block by block.
pub const PAGE_LARGE_FILES_MAX: usize = 1_024;
/// The paths of those files together, in bytes.
pub const PAGE_LARGE_PATHS_BYTES_MAX: usize = 1024 * 1024;
/// Most blocks of a stored content of which the hashes are read at once.
pub const READ_BLOCKS_MAX: u32 = 8_192;
/// Most runs of blocks that are read at once: every second block differs.
pub const READ_RUNS_MAX: usize = READ_BLOCKS_MAX as usize / 2;

/// Damaged contents of one client that are listed, to be asked for again; their paths together, in bytes.
pub const DAMAGED_CONTENTS_MAX: usize = 1_024;
pub const DAMAGED_PATHS_BYTES_MAX: usize = 1024 * 1024;

/// How much of a file is read, hashed and sent at a time.
pub const CONTENT_CHUNK_BYTES: usize = 128 * 1024;
/// A file of at least this size is handled in blocks.
pub const LARGE_FILE_BYTES: u64 = 1024 * 1024;
/// Longest hole in one message: hashing it holds the session up.
pub const HOLE_BYTES_MAX: u64 = 1024 * 1024 * 1024 * 1024;
/// How much of a content is written before its early writeback is started.
pub const WRITEBACK_BYTES: u64 = 16 * 1024 * 1024;
/// How often a content that arrives damaged is sent, in all.
pub const CONTENT_TRIES_MAX: u32 = 3;
/// So many threads at most read the sums over all clients' snapshots, and no more than one for so many clients.
pub const SUMMARY_READERS_MAX: usize = 8;
pub const CLIENTS_PER_READER: usize = 16;
/// A content that lies in so many files has its smaller deltas put together with the next one.
pub const GATHERED_SOURCES_MAX: usize = 16;
/// A content in more pieces than this, and than one for each so many bytes of it, is written out whole.
pub const GATHERED_PIECES_MIN: u64 = 4_096;
pub const GATHERED_PIECE_BYTES: u64 = 1024 * 1024;
/// How much of a held content is kept before it is looked whether anybody still waits: a multiple of a block.
pub const KEPT_AT_ONCE_BYTES: u64 = 16 * 1024 * 1024;
/// Descriptors that one stack of folder handles holds open.
pub const FOLDER_HANDLES_MAX: usize = 32;
/// How long a program that is told of an event or a result may take.
pub const HOOK_TIME_MAX: Duration = Duration::from_secs(60);
/// How long it may go on once the server is to end.
pub const HOOK_END_MAX: Duration = Duration::from_secs(2);

/// Failures that a server keeps for its operator to look at.
pub const FAILURES_KEPT_MAX: usize = 100;
/// Clients that have figures of their own among a server's metrics.
pub const METRIC_CLIENTS_MAX: usize = 1_000;

/// Segments of 16 KiB of a file sealed at rest that are sealed at a time.
pub const SEALED_BATCH_SEGMENTS: usize = 16;
/// A hole of a sealed file has up to so many segments, or 2^n of them from a multiple of that on: so its beginning is
/// found from within.
pub const SEALED_HOLE_SEGMENTS: u64 = 64;
pub const SEALED_HOLE_EXPONENTS: std::ops::RangeInclusive<u8> = 6..=40;
/// Most bytes of a storage key's file, or of what a command prints for one.
pub const STORAGE_KEY_TEXT_BYTES_MAX: u64 = 4 * 1024;
/// Where `sealing.json` is not there, so many clients are looked at for sealed files, and so many files of a kind of each.
pub const SEALING_SEARCH_CLIENTS_MAX: usize = 10_000;
pub const SEALING_SEARCH_FILES_MAX: usize = 8;
/// A `rekey` flushes after so many files, or so many bytes of them.
pub const REKEY_FILES_AT_ONCE: usize = 256;
pub const REKEY_BYTES_AT_ONCE: u64 = 64 * 1024 * 1024;

/// Shortest and longest chunk that a vault's contents are cut into; the last one of a content may be shorter.
pub const VAULT_CHUNK_BYTES_MIN: usize = 16 * 1024;
pub const VAULT_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Longest head of a vault's snapshot, before it is sealed.
pub const VAULT_HEAD_BYTES_MAX: usize = 1024 * 1024;
/// A chunk or a head is sealed in so much more at most: padding to a step of 1/32, and what stands around it.
pub const VAULT_SEALED_BYTES_MAX: usize = VAULT_CHUNK_BYTES_MAX + 24 * 1024;
pub const VAULT_SEALED_HEAD_BYTES_MAX: usize = VAULT_HEAD_BYTES_MAX + 64 * 1024;
/// Most names in one list, in one question, and of lists in one message of what a snapshot needs.
pub const VAULT_NAMES_MAX: usize = 4_096;
/// Most chunks, or keys, that are fetched at once.
pub const VAULT_FETCH_MAX: usize = 1_024;
/// So many lists a vault's snapshot may need.
pub const VAULT_LISTS_MAX: usize = 256 * 1024;
/// A pack of this length is not added to any more.
pub const VAULT_PACK_BYTES: u64 = 64 * 1024 * 1024;
/// So many packs that an upload has filled are indexed at once: each time, most pages of the index are written.
pub const VAULT_PACKS_AT_ONCE: usize = 4;
/// What came into a vault is flushed and indexed after so many objects, or names in lists of them, at the latest.
pub const VAULT_OBJECTS_AT_ONCE: usize = 8_192;
pub const VAULT_LISTED_AT_ONCE: usize = 64 * 1024;
/// So many chunks that a client was told are lacking are remembered until they come.
pub const VAULT_TOLD_MAX: usize = 16 * 1024;
/// Snapshots of a vault that were dropped on purpose and are remembered by the server, and how many one message names.
pub const VAULT_DROPPED_MAX: usize = 16_384;
pub const VAULT_DROPPED_AT_ONCE: usize = 1_024;
/// Most snapshots of one vault that a client takes from a server's list.
pub const VAULT_SNAPSHOTS_MAX: usize = 256 * 1024;
/// So many of a vault's snapshots, those that a session opened last, are kept from being dropped while it lasts: a
/// comparison reads two.
pub const VAULT_PINS_MAX: usize = 2;
/// Heads that a host remembers of its own chain in a vault.
pub const VAULT_CHAIN_MAX: usize = 1_024;
/// Memory for the pages of one vault's index.
pub const VAULT_INDEX_CACHE_BYTES: usize = 2 * 1024 * 1024;
/// The same while it is made anew.
pub const VAULT_REBUILD_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Bits of a vault's RSA modulus.
pub const VAULT_RSA_BITS: usize = 3_072;
/// Longest data key as it is wrapped.
pub const VAULT_WRAPPED_BYTES_MAX: usize = 512;
/// Memory in KiB and passes that a passphrase may cost: what a key file may ask of the host that opens it.
pub const PASSPHRASE_KIB: std::ops::RangeInclusive<u32> = 8 * 1024..=1024 * 1024;
pub const PASSPHRASE_PASSES: std::ops::RangeInclusive<u32> = 3..=64;
/// Most bytes of a vault's key file.
pub const VAULT_KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// Longest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 4 * 1024;
/// Unwrapped data keys that a reader of a vault keeps.
pub const VAULT_DATA_KEYS_MAX: usize = 256;
/// How much of a vault's contents is asked for at once, before it is sealed: each request is a conversation of its own.
pub const VAULT_FETCH_BYTES: usize = 4 * 1024 * 1024;
/// Chunks of a list that are asked for at once.
pub const VAULT_LIST_CHUNKS: usize = 8;
