//! Every message comes back as it was, and its bytes are pinned.

use super::*;
use crate::base::ids::UploadId;
use crate::base::limits::{PAGE_ENTRIES_MAX, READ_RUNS_MAX};
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
    }
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
    ]
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
        ToClient::Verified { files: 1, bytes: 2 },
        ToClient::KeyChallenge(b"sealed"),
        ToClient::KeyTaken,
        ToClient::Statistics("{}".into()),
        ToClient::End { rows: 4 },
    ]
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
        let name = name.split([' ', '(', '{']).next().unwrap_or_default();
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
