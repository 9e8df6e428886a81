//! Nonsense from clients with a true session: each session ends with a structured answer, leaves nothing
//! behind and disturbs nobody.

use cyberbackup::crypto::blake3_hash;
use cyberbackup::protocol::control::Control;
use cyberbackup::protocol::message::{ContentEnd, FailureCode, Selection, ToServer};

use super::malformed::assert_unharmed;
use super::rogue::{Guest, Peer, encoded, entries, file, folder, forged, raw_message, small_key, sums};
use crate::support::{TestServer, Workplace, wait_until};

/// What a case does before the failure: each gets a fresh session.
type Case = (&'static str, fn(&mut Guest));

fn selection() -> Selection {
    Selection { snapshot: "latest".into(), root: None, paths: Vec::new() }
}

/// Runs each case in a session of its own, beside another client whose session must go on.
fn each_is_out_of_place(cases: &[Case]) {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let mut witness = Guest::enter(&server.address, "witness", &small_key());
    for (name, case) in cases {
        let mut guest = Guest::enter(&server.address, "rogue", &key);
        case(&mut guest);
        let text = guest.expect_failure(FailureCode::OutOfPlace);
        assert!(!text.is_empty(), "{name}: the failure has no words");
        assert_eq!(witness.snapshots(), 0, "{name}: the session beside it goes on");
    }
    assert_eq!(Guest::enter(&server.address, "rogue", &key).snapshots(), 0, "something was stored");
    wait_until(|| left_in(&server, "incoming").is_empty(), "the uploads to be swept");
    assert!(left_in(&server, "received_files").is_empty());
    assert_unharmed(&server);
}

/// Everything below the clients' folders of one of the server's folders.
fn left_in(server: &TestServer, name: &str) -> Vec<std::path::PathBuf> {
    let clients = std::fs::read_dir(server.data.join(name)).unwrap();
    let inside = clients.flat_map(|client| std::fs::read_dir(client.unwrap().path()).unwrap());
    inside.map(|entry| entry.unwrap().path()).collect()
}

fn say_raw(guest: &mut Guest, bytes: &[u8]) {
    // The server may have ended the session before the last of it was written.
    let _ = guest.say_bytes(bytes);
}

#[test]
fn a_request_that_cannot_be_understood_is_told_so() {
    each_is_out_of_place(&[
        ("an unknown kind", |guest| say_raw(guest, &raw_message(99, b"x"))),
        ("the server's own kind", |guest| say_raw(guest, &raw_message(145, b"x"))),
        ("a length over its limit", |guest| say_raw(guest, &[36, 0xff, 0xff, 0xff, 0xff])),
        ("a body where none belongs", |guest| say_raw(guest, &raw_message(32, b"x"))),
        ("a selection that is cut", |guest| {
            let bytes = encoded(&ToServer::ListEntries(selection()));
            say_raw(guest, &raw_message(33, &bytes[5..bytes.len() - 1]));
        }),
        ("a selection with a byte too many", |guest| {
            let bytes = encoded(&ToServer::Restore(selection()));
            say_raw(guest, &raw_message(34, &[&bytes[5..], &[0]].concat()));
        }),
        ("a second proof", |guest| guest.say(&ToServer::Finished)),
        ("a root that climbs", |guest| {
            let bytes = encoded(&super::rogue::begin(&["a/up"]));
            say_raw(guest, &forged(bytes, b"a/up", b"a/.."));
        }),
        ("an absolute root", |guest| {
            let bytes = encoded(&super::rogue::begin(&["xabs"]));
            say_raw(guest, &forged(bytes, b"xabs", b"/abs"));
        }),
        ("a path that climbs", |guest| {
            let paths = vec![super::rogue::path("b/up")];
            let bytes = encoded(&ToServer::ListEntries(Selection { paths, ..selection() }));
            say_raw(guest, &forged(bytes, b"b/up", b"b/.."));
        }),
        ("reading no path at all", |guest| {
            guest.begin(&["a"]);
            let list = entries(&[file("a", 0)]);
            guest.range(0, &list);
            guest.say(&ToServer::ReadFile { selection: selection(), offset: 0, length: 1 });
        }),
    ]);
}

#[test]
fn parts_of_an_upload_outside_one_are_out_of_place() {
    each_is_out_of_place(&[
        ("a range offer", |guest| guest.say(&ToServer::RangeOffer { hash: [0; 32] })),
        ("entries", |guest| guest.say(&ToServer::RangeEntries { number: 0, entries: b"x" })),
        ("a content's start", |guest| guest.say(&ToServer::ContentStart { range: 0, entry: 0 })),
        ("content", |guest| guest.say(&ToServer::ContentData(b"x"))),
        ("a content's end", |guest| guest.say(&ToServer::ContentEnd(sums(b"")))),
        ("a skip", |guest| guest.say(&ToServer::ContentSkip { range: 0, entry: 0 })),
        ("a commit", |guest| guest.say(&ToServer::Commit { ranges: 0, entries: 0, unreadable: 0 })),
    ]);
}

#[test]
fn requests_inside_an_upload_are_out_of_place() {
    each_is_out_of_place(&[
        ("a list", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::ListSnapshots);
        }),
        ("a restore", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::Restore(selection()));
        }),
        ("statistics", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::Statistics);
        }),
        ("a second beginning", |guest| {
            guest.begin(&["a"]);
            guest.say(&super::rogue::begin(&["a"]));
        }),
        ("an unknown kind", |guest| {
            guest.begin(&["a"]);
            say_raw(guest, &raw_message(99, b"x"));
        }),
        ("a length over its limit", |guest| {
            guest.begin(&["a"]);
            say_raw(guest, &[20, 0xff, 0xff, 0xff, 0xff]);
        }),
    ]);
}

#[test]
fn ranges_that_break_a_rule_are_out_of_place() {
    each_is_out_of_place(&[
        ("entries that nobody offered", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::RangeEntries { number: 0, entries: &entries(&[file("a", 0)]) });
        }),
        ("entries of another number", |guest| {
            guest.begin(&["a"]);
            let list = entries(&[file("a", 0)]);
            guest.say(&ToServer::RangeOffer { hash: blake3_hash(&list) });
            guest.say(&ToServer::RangeEntries { number: 7, entries: &list });
        }),
        ("entries with another hash", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::RangeOffer { hash: [7; 32] });
            guest.say(&ToServer::RangeEntries { number: 0, entries: &entries(&[file("a", 0)]) });
        }),
        ("entries out of order", |guest| offer(guest, &entries(&[folder("a"), file("a/b", 0), file("a/a", 0)]))),
        ("an entry twice", |guest| offer(guest, &entries(&[folder("a"), file("a/b", 0), file("a/b", 0)]))),
        ("an entry outside the roots", |guest| offer(guest, &entries(&[file("b", 0)]))),
        ("no entries", |guest| offer(guest, &[])),
        ("half an entry", |guest| {
            let list = entries(&[file("a", 0)]);
            offer(guest, &list[..list.len() - 3]);
        }),
        ("a path that climbs", |guest| offer(guest, &forged(entries(&[file("a/up/x", 0)]), b"/up/", b"/../"))),
        ("an absolute path", |guest| offer(guest, &forged(entries(&[file("a/etc", 0)]), b"a/etc", b"//etc"))),
        ("a path of one dot", |guest| offer(guest, &forged(entries(&[file("a/o/x", 0)]), b"/o/", b"/./"))),
        ("a path with a NUL", |guest| offer(guest, &forged(entries(&[file("a/nul", 0)]), b"nul", b"n\0l"))),
        ("an unknown kind of entry", |guest| {
            let mut list = entries(&[file("a", 0)]);
            list[0] = 9;
            offer(guest, &list);
        }),
        ("a range that goes back", |guest| {
            guest.begin(&["a"]);
            guest.range(0, &entries(&[folder("a"), folder("a/m")]));
            let list = entries(&[folder("a/b")]);
            guest.say(&ToServer::RangeOffer { hash: blake3_hash(&list) });
            guest.say(&ToServer::RangeEntries { number: 1, entries: &list });
        }),
        ("offers without end", |guest| {
            guest.begin(&["a"]);
            (0..9).for_each(|number| guest.say(&ToServer::RangeOffer { hash: [number; 32] }));
        }),
    ]);
}

fn offer(guest: &mut Guest, list: &[u8]) {
    guest.begin(&["a"]);
    guest.say(&ToServer::RangeOffer { hash: blake3_hash(list) });
    guest.say(&ToServer::RangeEntries { number: 0, entries: list });
}

/// An upload with the file `a` of one byte and `b` of one, both awaited.
fn two_files(guest: &mut Guest) {
    guest.begin(&["a", "b"]);
    assert_eq!(guest.range(0, &entries(&[file("a", 1), file("b", 1)])), [0b11]);
}

#[test]
fn contents_that_break_a_rule_are_out_of_place() {
    each_is_out_of_place(&[
        ("data outside a content", |guest| {
            two_files(guest);
            guest.say(&ToServer::ContentData(b"x"));
        }),
        ("an end without a start", |guest| {
            two_files(guest);
            guest.say(&ToServer::ContentEnd(sums(b"x")));
        }),
        ("a content of no range", |guest| {
            two_files(guest);
            guest.say(&ToServer::ContentStart { range: 3, entry: 0 });
        }),
        ("a content of no entry", |guest| {
            two_files(guest);
            guest.say(&ToServer::ContentStart { range: 0, entry: u32::MAX });
        }),
        ("a content that is not wanted", |guest| {
            guest.begin(&["a"]);
            guest.range(0, &entries(&[folder("a"), file("a/b", 1)]));
            guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
        }),
        ("a content twice", |guest| {
            two_files(guest);
            guest.content(0, 0, b"x");
            guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
        }),
        ("contents out of order", |guest| {
            two_files(guest);
            guest.content(0, 1, b"x");
            guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
        }),
        ("unknown flags", |guest| {
            two_files(guest);
            guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
            guest.say(&ToServer::ContentData(b"x"));
            guest.say(&ToServer::ContentEnd(ContentEnd { flags: 0x80, ..sums(b"x") }));
        }),
        ("a commit inside a content", |guest| {
            two_files(guest);
            guest.content(0, 0, b"x");
            guest.say(&ToServer::ContentStart { range: 0, entry: 1 });
            guest.say(&ToServer::Commit { ranges: 1, entries: 2, unreadable: 0 });
        }),
        ("a commit before the contents", |guest| {
            two_files(guest);
            guest.say(&ToServer::Commit { ranges: 1, entries: 2, unreadable: 0 });
        }),
        ("a commit with another count of entries", |guest| {
            two_files(guest);
            guest.content(0, 0, b"x");
            guest.content(0, 1, b"y");
            guest.say(&ToServer::Commit { ranges: 1, entries: 3, unreadable: 0 });
        }),
        ("a commit with another count of ranges", |guest| {
            two_files(guest);
            guest.content(0, 0, b"x");
            guest.content(0, 1, b"y");
            guest.say(&ToServer::Commit { ranges: 2, entries: 2, unreadable: 0 });
        }),
        ("a commit of an offer", |guest| {
            guest.begin(&["a"]);
            guest.say(&ToServer::RangeOffer { hash: [1; 32] });
            guest.say(&ToServer::Commit { ranges: 1, entries: 1, unreadable: 0 });
        }),
        ("a content that never has its sums", |guest| {
            two_files(guest);
            for _ in 0..3 {
                guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
                guest.say(&ToServer::ContentData(b"x"));
                guest.say(&ToServer::ContentEnd(ContentEnd { crc32: 1, ..sums(b"x") }));
            }
        }),
    ]);
}

#[test]
fn a_content_larger_than_its_entry_costs_disk_for_a_while_and_no_memory() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let mut guest = Guest::enter(&server.address, "rogue", &key);
    two_files(&mut guest);
    guest.say(&ToServer::ContentStart { range: 0, entry: 0 });
    let chunk = vec![7; 128 * 1024];
    for _ in 0..512 {
        guest.say(&ToServer::ContentData(&chunk));
    }
    // A file may grow while it is read, so its size is no limit; what was begun goes with the session.
    drop(guest);
    wait_until(|| left_in(&server, "incoming").is_empty(), "the upload to be swept");
    assert_eq!(Guest::enter(&server.address, "rogue", &key).snapshots(), 0);
    assert_unharmed(&server);
}

// ---- breaking the channel's own rules ----

#[test]
fn an_acknowledgement_of_the_unsent_ends_the_session() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    for kind in ["data", "control"] {
        let mut peer = Peer::enter(&server.address, "rogue", &key);
        let frame = match kind {
            "data" => peer.data_frame(&encoded(&ToServer::ListSnapshots), 1_000),
            _ => peer.control_frame(Control::Acknowledge, 1_000),
        };
        peer.write(&frame).unwrap();
        let said = peer.read_to_end();
        assert!(said.iter().any(|line| line.contains("OutOfPlace")), "{kind}: {said:?}");
    }
    server.wait_for_log("acknowledges what was never sent");
    assert_unharmed(&server);
}

#[test]
fn control_that_breaks_a_rule_ends_the_session() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    for control in [Control::RepeatFrom(1_000), Control::ResumedAt(1_000)] {
        let mut peer = Peer::enter(&server.address, "rogue", &key);
        let frame = peer.control_frame(control, 0);
        peer.write(&frame).unwrap();
        let said = peer.read_to_end();
        assert!(said.iter().any(|line| line.contains("OutOfPlace")), "{control:?}: {said:?}");
    }
    assert_unharmed(&server);
}

#[test]
fn a_flood_of_control_that_reads_no_answers_costs_no_memory() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut witness = Guest::enter(&server.address, "witness", &small_key());
    for control in [Control::Ping, Control::RepeatFrom(0), Control::Close(77)] {
        let mut peer = Peer::enter(&server.address, "rogue", &small_key_of_rogue());
        let mut frames = Vec::new();
        for _ in 0..1_000 {
            frames.extend_from_slice(&peer.control_frame(control, 0));
        }
        for _ in 0..20 {
            // The server may end it; what counts is that it neither grows nor stops.
            if peer.write(&frames).is_err() {
                break;
            }
            frames.clear();
            for _ in 0..1_000 {
                frames.extend_from_slice(&peer.control_frame(control, 0));
            }
        }
        assert_eq!(witness.snapshots(), 0, "{control:?}: the session beside it goes on");
    }
    assert_unharmed(&server);
}

/// One key for all peers of one test: the name belongs to it.
fn small_key_of_rogue() -> cyberbackup::crypto::PrivateKey {
    use std::sync::OnceLock;
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let der = KEY.get_or_init(|| small_key().to_pkcs8_der().unwrap().to_vec());
    cyberbackup::crypto::PrivateKey::from_pkcs8_der(der).unwrap()
}

#[test]
fn a_server_frame_sent_back_is_no_message() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    // As the proof itself: the server's own first segment under a client's header.
    let mut peer = Peer::before_proof(&server.address, "mirror", &key);
    let reflected = reflected(&peer.heard[0]);
    peer.write(&reflected).unwrap();
    assert_eq!(peer.read_to_end(), ["Finished"]);
    server.wait_for_log("did not prove its key");
    let run = workplace.run(["clients".as_ref(), "--json".as_ref(), "--data".as_ref(), server.data.as_os_str()]);
    assert_eq!(run.expect(0).out(), "", "who proved nothing is not registered");
    // Later in a session it is damage, asked for again and given up.
    let mut peer = Peer::enter(&server.address, "mirror", &key);
    for _ in 0..3 {
        peer.write(&reflected).unwrap();
        let resumed = peer.control_frame(Control::ResumedAt(1), 0);
        peer.write(&resumed).unwrap();
    }
    assert_eq!(peer.read_to_end(), ["Finished", "Welcome"]);
    server.wait_for_log("arrived damaged three times");
    assert_unharmed(&server);
}

/// The payload of a server's data segment under the header of a client's.
fn reflected(frame: &[u8]) -> Vec<u8> {
    use cyberbackup::protocol::header::{RequestHeader, code};
    let mut bytes = Vec::new();
    RequestHeader::native(code::REQUEST_DATA, frame.len() - 7).encode(&mut bytes);
    bytes.extend_from_slice(&frame[7..]);
    bytes
}
