//! Every message comes back as it was, and its bytes are pinned.

use super::*;
use crate::base::ids::UploadId;
use crate::base::limits::{
    PAGE_ENTRIES_MAX, READ_RUNS_MAX, VAULT_DROPPED_AT_ONCE, VAULT_FETCH_MAX, VAULT_NAMES_MAX,
};
use crate::base::vault::{ChunkName, DataKeyId, RootSetId};
use proptest::prelude::*;

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

fn id() -> SnapshotId {
    "20260131T235959Z-00c0ffee".parse().unwrap()
}

fn end() -> ContentEnd {
    ContentEnd { bytes: 5, crc32: 6, blake3: [7; 32], flags: content_flag::RECHECK }
}

fn row() -> SnapshotRow {
    SnapshotRow {
        id: id(),
        sequence: 1,
        started: Timestamp { seconds: -2, nanoseconds: 3 },
        committed: Timestamp { seconds: 4, nanoseconds: 5 },
        entries: 6,
        files: 7,
        bytes: 8,
        new_bytes: 9,
        unreadable: 10,
        host: "h".into(),
        label: "l".into(),
        tags: vec!["t".into()],
        roots: vec![path("a/b")],
        vault: None,
    }
}

fn vault() -> VaultId {
    VaultId::from_bytes([11; 16])
}

fn name(byte: u8) -> ChunkName {
    ChunkName::from_bytes([byte; 32])
}

fn head() -> SealedHead<'static> {
    SealedHead { name: name(12), key: DataKeyId::from_bytes([13; 16]), sealed: b"sealed head" }
}

fn selection() -> Selection {
    Selection { snapshot: "latest".into(), root: Some(path("r")), paths: vec![path("a"), path("b/c")] }
}

fn data() -> HostFolder {
    HostFolder { boot: "b".into(), device: 1, inode: 2 }
}

fn to_server() -> Vec<ToServer<'static>> {
    vec![
        ToServer::Finished,
        ToServer::Begin(Begin {
            upload: UploadId::from_bytes([1; 16]),
            started: Timestamp { seconds: 2, nanoseconds: 3 },
            flags: begin_flag::FULL | begin_flag::IGNORE_INODE,
            parent: Some(id()),
            host: "h".into(),
            label: String::new(),
            tags: vec!["t".into(), "u".into()],
            roots: vec![path("r")],
        }),
        ToServer::RangeOffer { hash: [4; 32] },
        ToServer::RangeEntries { number: 5, entries: b"entries" },
        ToServer::ContentStart { range: 1, entry: 2 },
        ToServer::ContentData(b"content"),
        ToServer::ContentEnd(end()),
        ToServer::ContentSkip { range: 1, entry: 2 },
        ToServer::ContentSame { range: 1, entry: 2, flags: content_flag::RECHECK },
        ToServer::BlocksWanted { range: 1, entry: 2, first: 3, count: 4 },
        ToServer::PartialWanted { range: 1, entry: 2, first: 3, count: 4 },
        ToServer::ContentResume { range: 1, entry: 2, bytes: 3 },
        ToServer::DeltaStart { range: 1, entry: 2 },
        ToServer::ContentKeep { bytes: 3 },
        ToServer::ContentHole { bytes: 4 },
        ToServer::Commit { ranges: 1, entries: 2, unreadable: 3 },
        ToServer::ListSnapshots,
        ToServer::ListEntries(selection()),
        ToServer::Restore(Selection { root: None, ..selection() }),
        ToServer::ReadFile { selection: selection(), offset: 1, length: u64::MAX },
        ToServer::Verify(selection()),
        ToServer::Statistics,
        ToServer::Cancel,
        ToServer::Page(Page {
            selection: selection(),
            after: Some(path("a/x")),
            entries: 9,
            wanted: Some(&[5, 1]),
        }),
        ToServer::Page(Page { selection: selection(), after: None, entries: PAGE_ENTRIES_MAX, wanted: None }),
        ToServer::ReadBlocks(ReadBlocks {
            selection: selection(),
            hashes: BlockRun { first: 1, count: 2 },
            runs: vec![BlockRun { first: 3, count: 4 }, BlockRun { first: 7, count: 1 }],
        }),
        ToServer::NewKey(b"key"),
        ToServer::NewKeyProof([3; 32]),
        ToServer::ServerKeyPinned([4; 32]),
    ]
    .into_iter()
    .chain(about_vaults().map(ToServer::Vault))
    .collect()
}

fn about_vaults() -> impl Iterator<Item = VaultRequest<'static>> {
    let (vault, read_token, names) = (vault(), [14; 32], Names::of(&[15; 64]));
    [
        VaultRequest::Begin(VaultBegin {
            vault,
            write_token: [16; 32],
            read_verifier: [17; 32],
            upload: UploadId::from_bytes([1; 16]),
            set: RootSetId::from_bytes([19; 16]),
            started: Timestamp { seconds: 2, nanoseconds: 3 },
            flags: vault_flag::DRY_RUN,
            wrapped_key: b"wrapped",
        }),
        VaultRequest::Ask { number: 5, names },
        VaultRequest::Chunk { name: name(18), sealed: b"sealed" },
        VaultRequest::List { names },
        VaultRequest::Needs { lists: names },
        VaultRequest::Commit { name: name(12), sealed: b"sealed head" },
        VaultRequest::Fetch { vault, read_token, names },
        VaultRequest::Keys { vault, read_token, keys: vec![DataKeyId::from_bytes([13; 16])] },
        VaultRequest::Snapshots { vault, read_token, selector: "2026".into() },
    ]
    .into_iter()
}

fn to_client() -> Vec<ToClient<'static>> {
    vec![
        ToClient::Finished,
        ToClient::Welcome,
        ToClient::Failure { code: FailureCode::DiskFull, text: "full".into() },
        ToClient::Busy { seconds: 3 },
        ToClient::Begun { base: None, data: data() },
        ToClient::Begun { base: Some(id()), data: data() },
        ToClient::Stored(row()),
        ToClient::RangeHeld { number: 1 },
        ToClient::RangeLacking { number: 1 },
        ToClient::Needed {
            number: 1,
            bits: &[5],
            held: vec![
                HeldContent { entry: 2, blake3: [8; 32], blocks: true, partial: None },
                HeldContent { entry: 3, blake3: [9; 32], blocks: false, partial: Some(Partial::Plain) },
                HeldContent { entry: 4, blake3: [0; 32], blocks: true, partial: Some(Partial::Delta) },
            ],
        },
        ToClient::Blocks { range: 1, entry: 2, first: 3, hashes: &[9; 2 * BLOCK_HASH_BYTES] },
        ToClient::ContentRepeat { range: 1, entry: 2 },
        ToClient::Snapshot(row()),
        ToClient::Entry(EntryRow { content: Some(end()), entry: b"entry" }),
        ToClient::Entry(EntryRow { content: None, entry: b"entry" }),
        ToClient::ContentData(b"content"),
        ToClient::ContentHole { bytes: 3 },
        ToClient::ContentEnd(end()),
        ToClient::ContentFailed { text: "gone".into() },
        ToClient::Damage { snapshot: id(), path: Some(path("a")), text: "CRC32 differs".into() },
        ToClient::Damage { snapshot: id(), path: None, text: "gone".into() },
        ToClient::BlockHashes { first: 3, hashes: &[9; 2 * BLOCK_HASH_BYTES] },
        ToClient::Verified(Verified { files: 1, bytes: 2, sealed_snapshots: 3, sealed_objects: 4 }),
        ToClient::KeyChallenge(b"sealed"),
        ToClient::KeyTaken,
        ToClient::NextServerKey(None),
        ToClient::NextServerKey(Some([5; 32])),
        ToClient::Statistics("{}".into()),
        ToClient::End { rows: 4 },
        ToClient::Snapshot(SnapshotRow { vault: Some(vault()), ..row() }),
    ]
    .into_iter()
    .chain(from_vaults().map(ToClient::Vault))
    .collect()
}

fn from_vaults() -> impl Iterator<Item = VaultAnswer<'static>> {
    [
        VaultAnswer::Begun { data: data(), snapshot: id(), newest: None },
        VaultAnswer::Begun { data: data(), snapshot: id(), newest: Some((id(), head())) },
        VaultAnswer::Lacking { number: 5, bits: &[3] },
        VaultAnswer::Object { name: name(18), key: DataKeyId::from_bytes([13; 16]), sealed: b"sealed" },
        VaultAnswer::Missing { name: name(18), text: "gone".into() },
        VaultAnswer::Key { id: DataKeyId::from_bytes([13; 16]), wrapped: b"wrapped" },
        VaultAnswer::Snapshot(StoredHead {
            id: id(),
            sequence: 1,
            committed: Timestamp { seconds: 4, nanoseconds: 5 },
            client: "c".into(),
            stored_bytes: 6,
            head: head(),
        }),
        VaultAnswer::Dropped(DroppedSnapshots { before: None, snapshots: Vec::new() }),
        VaultAnswer::Dropped(DroppedSnapshots { before: Some(id()), snapshots: vec![id(), id()] }),
    ]
    .into_iter()
}

#[test]
fn names_come_whole_and_no_more_than_may() {
    let is_fine = |kind, body: &[u8]| ToServer::decode(kind, body).is_ok();
    assert!(is_fine(message_kind::VAULT_LIST, &[1; VAULT_NAMES_MAX * 32]));
    for bad in [&[][..], &[1; 33], &[1; (VAULT_NAMES_MAX + 1) * 32]] {
        assert!(!is_fine(message_kind::VAULT_LIST, bad) && !is_fine(message_kind::VAULT_NEEDS, bad));
    }
    let fetch = |bytes: usize| is_fine(message_kind::VAULT_FETCH, &vec![1; 48 + bytes]);
    assert!(fetch(VAULT_FETCH_MAX * 32) && !fetch((VAULT_FETCH_MAX + 1) * 32) && !fetch(0) && !fetch(31));
    let keys = |bytes: usize| is_fine(message_kind::VAULT_KEYS, &vec![1; 48 + bytes]);
    assert!(keys(VAULT_FETCH_MAX * 16) && !keys((VAULT_FETCH_MAX + 1) * 16) && !keys(0) && !keys(17));
    assert!(Names::of(&[1; 70]).iter().eq([name(1), name(1)]));
    let dropped = |count: usize| [&[0], id().as_str().as_bytes().repeat(count).as_slice()].concat();
    let is_fine = |body: &[u8]| ToClient::decode(message_kind::VAULT_DROPPED, body).is_ok();
    assert!(is_fine(&dropped(VAULT_DROPPED_AT_ONCE)) && !is_fine(&dropped(VAULT_DROPPED_AT_ONCE + 1)));
    assert!(is_fine(&dropped(0)) && !is_fine(&dropped(1)[..25]));
}

#[test]
fn a_message_about_a_vault_shows_no_token() {
    for request in about_vaults() {
        assert!(!format!("{request:?}").contains("14, 14"), "{request:?}");
    }
}

#[test]
fn the_largest_request_is_accepted_and_its_row_comes_back() {
    let text = "x".repeat(LABEL_BYTES_MAX);
    let mut largest = row();
    (largest.host, largest.label) = (text.clone(), text.clone());
    largest.tags = vec![text; TAGS_MAX];
    let bytes = PATHS_BYTES_MAX / ROOTS_MAX;
    largest.roots = (0..ROOTS_MAX).map(|n| path(&format!("{n:0bytes$}"))).collect();
    let begin = Begin {
        upload: UploadId::from_bytes([1; 16]),
        started: largest.started,
        flags: 0,
        parent: Some(id()),
        host: largest.host.clone(),
        label: largest.label.clone(),
        tags: largest.tags.clone(),
        roots: largest.roots.clone(),
    };
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    ToServer::Begin(begin.clone()).encode(&mut request);
    ToClient::Stored(largest.clone()).encode(&mut answer);
    let (kind, body) = split(&request);
    assert_eq!(ToServer::decode(kind, body), Ok(ToServer::Begin(begin)));
    let (kind, body) = split(&answer);
    assert_eq!(ToClient::decode(kind, body), Ok(ToClient::Stored(largest)));
}

/// Kind and body of an encoded message whose length field has been checked.
fn split(bytes: &[u8]) -> (u8, &[u8]) {
    let length = u32::from_le_bytes(bytes[1..5].try_into().unwrap()) as usize;
    assert_eq!(bytes.len(), MESSAGE_HEADER_BYTES + length);
    assert!(length <= body_bytes_max(bytes[0]).unwrap());
    (bytes[0], &bytes[5..])
}

#[test]
fn every_message_to_the_server_comes_back_as_it_was() {
    for message in to_server() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let (kind, body) = split(&bytes);
        assert_eq!(ToServer::decode(kind, body), Ok(message));
        assert!(ToClient::decode(kind, body).is_err(), "kinds of the two directions are apart");
    }
}

#[test]
fn every_message_to_the_client_comes_back_as_it_was() {
    for message in to_client() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let (kind, body) = split(&bytes);
        assert_eq!(ToClient::decode(kind, body), Ok(message));
        assert!(ToServer::decode(kind, body).is_err(), "kinds of the two directions are apart");
    }
}

#[test]
fn too_many_blocks_at_once_and_a_torn_hash_are_refused() {
    for (count, fine) in [(0, false), (1, true), (BLOCKS_WANTED_MAX, true), (BLOCKS_WANTED_MAX + 1, false)] {
        let mut bytes = Vec::new();
        ToServer::BlocksWanted { range: 1, entry: 2, first: 3, count }.encode(&mut bytes);
        let (kind, body) = split(&bytes);
        assert_eq!(ToServer::decode(kind, body).is_ok(), fine, "{count}");
    }
    let body = [0; 16 + BLOCK_HASH_BYTES - 1];
    assert!(ToClient::decode(message_kind::BLOCKS, &body).is_err());
}

#[test]
fn a_page_and_runs_beyond_their_limits_are_refused() {
    let is_fine = |message: ToServer<'_>| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        ToServer::decode(bytes[0], &bytes[MESSAGE_HEADER_BYTES..]).is_ok()
    };
    let page = |entries, wanted: &'static [u8]| {
        ToServer::Page(Page { selection: selection(), after: None, entries, wanted: Some(wanted) })
    };
    assert!(is_fine(page(8, &[1])) && !is_fine(page(8, &[1, 1])));
    assert!(!is_fine(page(0, &[])) && !is_fine(page(PAGE_ENTRIES_MAX + 1, &[])));
    let read = |count, runs: &[(u64, u32)]| {
        let runs = runs.iter().map(|(first, count)| BlockRun { first: *first, count: *count }).collect();
        ToServer::ReadBlocks(ReadBlocks { selection: selection(), hashes: BlockRun { first: 0, count }, runs })
    };
    assert!(is_fine(read(READ_BLOCKS_MAX, &[(0, 1), (1, 2), (u64::MAX, 1)])));
    assert!(!is_fine(read(READ_BLOCKS_MAX + 1, &[])));
    for bad in [&[(0, 0)][..], &[(0, 2), (1, 1)], &[(5, 1), (0, 1)], &[(u64::MAX, 1), (u64::MAX - 1, 1)]] {
        assert!(!is_fine(read(0, bad)), "{bad:?}");
    }
    let runs: Vec<(u64, u32)> = (0..=READ_RUNS_MAX as u64).map(|first| (first, 1)).collect();
    assert!(is_fine(read(0, &runs[1..])) && !is_fine(read(0, &runs)));
}

/// The bytes of every message, as `tests/testdata/vectors/messages.txt` pins them.
#[test]
fn the_bytes_of_every_message_are_pinned() {
    let mut found = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        let name = name.replace("Vault(", "Vault");
        let name = name.split([' ', '(', '{', ')']).next().unwrap_or_default();
        found.push_str(&format!("{name} {}\n", crate::base::ids::hex(bytes)));
    };
    for message in to_server() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        line(&format!("to-server.{message:?}"), &bytes);
    }
    for message in to_client() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        line(&format!("to-client.{message:?}"), &bytes);
    }
    let pinned = include_str!("../../../tests/testdata/vectors/messages.txt");
    assert!(found == pinned, "the bytes of a message changed; they are now:\n{found}");
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = ToServer::decode(kind, &body);
        let _ = ToClient::decode(kind, &body);
    }

    #[test]
    fn every_shortened_message_is_refused_or_is_bulk(index in 0usize..23, cut in any::<prop::sample::Index>()) {
        let message = &to_server()[index];
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let (kind, body) = split(&bytes);
        let bulk = matches!(message, ToServer::RangeEntries { .. } | ToServer::ContentData(_));
        if !body.is_empty() && !bulk {
            prop_assert!(ToServer::decode(kind, &body[..cut.index(body.len())]).is_err());
        }
    }
}
