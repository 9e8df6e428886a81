//! Files in packets, as installed clients send them and as they might.

use super::moving_over::{assert_restores, moved};
use super::peer::{Encrypted, Key, Peer, field, heads, write_noise};
use crate::support::{TestClient, TestServer, Workplace, tree};

const PACKETS: [u64; 3] = [1_000, 65_536, 1_048_576];

#[test]
fn register_key_file_crc_ack_reconnect_file_with_both_key_lengths() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    for (exponent, public_bytes) in [(17, 160), (65_537, 162)] {
        let key = Key::make(exponent);
        assert_eq!(key.public.len(), public_bytes);
        let name = format!("client {exponent}");
        let (mut peer, first_key) = Peer::enter(&server, &name, &key);
        let file = write_noise(&workplace, &format!("{exponent}"), 200_000);
        peer.store("first.txt", &Encrypted::of(&file, &first_key), 65_536);
        let id = peer.id;
        drop(peer);
        let (mut peer, second_key) = Peer::reenter(&server, &name, id, &key);
        assert_ne!(first_key, second_key, "each session has its own key");
        peer.store("second.txt", &Encrypted::of(&file, &second_key), 65_536);
        // The registered key may be sent again, on any connection.
        let third_key = peer.send_key(&name, &key);
        peer.store("third.txt", &Encrypted::of(&file, &third_key), 65_536);
        let client = moved(&workplace, &server, &name, &key);
        assert_eq!(client.run(["ls"]).expect(0).out(), "first.txt\nsecond.txt\nthird.txt\n");
        for stored in ["first.txt", "second.txt", "third.txt"] {
            assert_restores(&client, stored, &file);
            std::fs::remove_dir_all(workplace.join(format!("restored {stored}"))).unwrap();
        }
    }
}

#[test]
fn files_of_every_length_in_packets_of_every_length() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let mut names = Vec::new();
    for bytes in [0, 1, 15, 16, 17, 999, 1_000, 65_535, 65_536, 5_000_003] {
        let file = Encrypted::of(&write_noise(&workplace, &format!("{bytes}"), bytes), &file_key);
        for packet_bytes in PACKETS {
            let name = format!("{bytes} in {packet_bytes}");
            peer.store(&name, &file, packet_bytes);
            names.push((name, file.file.clone()));
        }
    }
    let client = moved(&workplace, &server, "ada", &key);
    let to = workplace.join("restored");
    client.run(["restore", "--to", to.to_str().unwrap()]).expect(0);
    for (name, original) in names {
        assert!(std::fs::read(to.join(&name)).unwrap() == std::fs::read(original).unwrap(), "{name}");
    }
}

#[test]
fn an_empty_file_is_one_packet_of_16_bytes() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&workplace.write("empty", ""), &file_key);
    assert_eq!((file.ciphertext_bytes, file.checksum), (16, 4_294_967_295));
    peer.store("empty", &file, 1_000);
    assert_eq!(heads(&server)[0]["totals"]["files"], 1);
}

#[test]
fn both_version_bytes_are_spoken() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    for version in [2, 3] {
        let (key, name) = (Key::make(17), format!("version {version}"));
        let mut peer = Peer { version, ..Peer::connect(&server) };
        peer.register(&name);
        let file_key = peer.send_key(&name, &key);
        let file = Encrypted::of(&write_noise(&workplace, "noise", 100_000), &file_key);
        peer.store("a", &file, 65_536);
    }
}

#[test]
fn oaep_with_sha1_is_for_older_clients() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--legacy-oaep", "sha1"]);
    let key = Key::make(17);
    let mut peer = Peer::connect(&server);
    peer.register("ada");
    let (_, payload) = peer.ask(1026, &[&field(b"ada")[..], &key.public].concat());
    assert!(key.unwrap("sha256", &payload[16..]).is_none());
    let file_key = key.unwrap("sha1", &payload[16..]).unwrap();
    peer.store("a", &Encrypted::of(&write_noise(&workplace, "noise", 100), &file_key), 1_000);
    workplace.run(["server", "--legacy-oaep", "md5"]).expect(2);
    workplace.run(["server", "--legacy", "perhaps"]).expect(2);
}

#[test]
fn packets_come_in_any_order_after_the_first() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 700_001), &file_key);
    for packet_bytes in [1_000, 33_333] {
        let total = file.packets(packet_bytes);
        let orders: [Vec<u16>; 4] = [
            (2..=total).rev().collect(),
            (2..=total).filter(|n| n % 2 == 0).chain((2..=total).filter(|n| n % 2 == 1)).collect(),
            (3..=total).chain([2]).collect(),
            (1..total).map(|n| 2 + (n * 11 % (total - 1))).collect(),
        ];
        for (place, order) in orders.into_iter().enumerate() {
            let name = format!("{packet_bytes} {place}");
            peer.say_part(&name, &file, 1, packet_bytes);
            order.into_iter().for_each(|number| peer.say_part(&name, &file, number, packet_bytes));
            peer.expect_received(&name, &file);
            peer.conclude(1029, &name);
        }
    }
    let client = moved(&workplace, &server, "ada", &key);
    client.run(["verify"]).expect(0);
    assert_restores(&client, "33333 0", &file.file);
}

#[test]
fn a_repeated_packet_replaces_the_earlier_one() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 500_001), &file_key);
    let (packet_bytes, total) = (50_000, file.packets(50_000));
    let wrong = |peer: &mut Peer, number: u16, bytes: usize| {
        peer.say_packet(b"a", file.original_bytes, number, total, &vec![0xa5; bytes]);
    };
    // Each before the last packet: equal; other bytes that were joined; other lengths; and one that waits.
    peer.say_part("a", &file, 1, packet_bytes);
    wrong(&mut peer, 2, 50_000);
    peer.say_part("a", &file, 3, packet_bytes);
    peer.say_part("a", &file, 3, packet_bytes);
    wrong(&mut peer, 4, 77);
    wrong(&mut peer, 6, 123);
    peer.say_part("a", &file, 2, packet_bytes);
    peer.say_part("a", &file, 5, packet_bytes);
    peer.say_part("a", &file, 6, packet_bytes);
    peer.say_part("a", &file, 4, packet_bytes);
    (7..=total).for_each(|number| peer.say_part("a", &file, number, packet_bytes));
    peer.expect_received("a", &file);
    peer.conclude(1029, "a");
    let client = moved(&workplace, &server, "ada", &key);
    client.run(["verify"]).expect(0);
    assert_restores(&client, "a", &file.file);
}

#[test]
fn every_packet_of_a_file_may_be_replaced() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 50_000), &file_key);
    let (packet_bytes, total) = (1_000, file.packets(1_000));
    peer.say_part("a", &file, 1, packet_bytes);
    for number in 2..=total {
        if number < total {
            peer.say_packet(b"a", file.original_bytes, number, total, &[0xa5; 1_000]);
        }
        peer.say_part("a", &file, number, packet_bytes);
    }
    peer.expect_received("a", &file);
    peer.conclude(1029, "a");
}

#[test]
fn packet_1_again_begins_the_file_anew() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let [first, second] = [100_000, 150_000]
        .map(|bytes| write_noise(&workplace, &format!("{bytes}"), bytes))
        .map(|file| Encrypted::of(&file, &file_key));
    // Of the same file, of another version of it, and of another file.
    peer.say_part("a", &first, 1, 20_000);
    peer.say_part("a", &first, 3, 20_000);
    peer.send_file("a", &first, 20_000);
    peer.send_file("a", &second, 30_000);
    peer.say_part("a", &second, 1, 30_000);
    peer.store("b", &first, 65_536);
    peer.say(1029, &field(b"a"));
    peer.expect_error();
    assert_eq!(heads(&server).len(), 1);
}

#[test]
fn a_file_that_differs_is_sent_again_and_given_up_in_the_end() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100_000), &file_key);
    for _ in 0..2 {
        peer.send_file("a", &file, 65_536);
        // Acknowledged before anything of the next try.
        peer.conclude(1030, "a");
    }
    peer.send_file("a", &file, 65_536);
    peer.conclude(1031, "a");
    assert!(heads(&server).is_empty(), "nothing of it is kept");
    peer.send_file("a", &file, 65_536);
    peer.conclude(1030, "a");
    peer.store("a", &file, 65_536);
    // Given up in the middle, and between two tries.
    peer.say_part("b", &file, 1, 65_536);
    peer.conclude(1031, "b");
    peer.send_file("b", &file, 65_536);
    peer.conclude(1030, "b");
    peer.conclude(1031, "b");
    assert_eq!(heads(&server).len(), 1);
}

#[test]
fn what_was_never_confirmed_is_swept() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 300_000), &file_key);
    peer.send_file("a", &file, 65_536);
    peer.say_part("b", &file, 1, 65_536);
    peer.say_part("b", &file, 3, 65_536);
    let incoming = || {
        let clients = std::fs::read_dir(server.data.join("incoming")).unwrap().flatten();
        clients.map(|client| std::fs::read_dir(client.path()).unwrap().count()).sum::<usize>()
    };
    crate::support::wait_until(|| incoming() == 1, "the upload of b");
    drop(peer);
    crate::support::wait_until(|| incoming() == 0, "the sweep of what was cut off");
    assert!(heads(&server).is_empty());
    assert_eq!(tree::files_below(&server.data.join("received_files")).len(), 0);
}

#[test]
fn each_snapshot_holds_every_file_that_was_confirmed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut first, first_key) = Peer::enter(&server, "ada", &key);
    // Two connections of one client at the same time.
    let (mut second, second_key) = Peer::reenter(&server, "ada", first.id, &key);
    let noise = write_noise(&workplace, "noise", 100_000);
    let (one, two) = (Encrypted::of(&noise, &first_key), Encrypted::of(&noise, &second_key));
    second.send_file("b", &two, 65_536);
    first.store("a", &one, 65_536);
    second.conclude(1029, "b");
    first.store("c", &one, 65_536);
    let newest = heads(&server).pop().unwrap();
    assert_eq!(newest["totals"]["files"], 3);
    assert_eq!(newest["unauthenticated"], true);
}

#[test]
fn names_of_files_are_bytes() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 10), &file_key);
    let longest = "x".repeat(250);
    for name in [".renamed", "...", "ünïcode", "a b", longest.as_str()] {
        peer.store(name, &file, 1_000);
    }
    let latin: &[u8] = b"\xe4nderung";
    peer.say_packet(latin, file.original_bytes, 1, 1, &file.part(1, 1_000));
    assert_eq!(peer.hear().unwrap().0, 1603);
    assert_eq!(peer.ask(1029, &field(latin)).0, 1604);
    let client = moved(&workplace, &server, "ada", &key);
    client.run(["verify"]).expect(0);
    assert_eq!(client.run(["ls"]).expect(0).out().lines().count(), 6);
}

#[test]
fn a_backup_beside_and_the_statistics_see_legacy_clients_too() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100_000), &file_key);
    peer.send_file("a", &file, 65_536);
    let client = TestClient::new(&workplace, &server.address, "native");
    client.backup(&file.file);
    peer.conclude(1029, "a");
    let report = crate::server::crowds::stats(&workplace, &server);
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((number("snapshots"), number("files_received"), number("failures")), (2, 2, 0));
    // The legacy session, and the one that asks.
    assert_eq!((number("active_connections"), number("sessions")), (2, 3));
    assert!(number("bytes_received") > 200_000, "{report}");
}

#[test]
fn within_a_connection_the_later_snapshot_supersedes_the_earlier() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let small = Encrypted::of(&write_noise(&workplace, "small", 1_000), &file_key);
    let large = Encrypted::of(&write_noise(&workplace, "large", 2_000_000), &file_key);
    // So many that some are swept while the connection lasts.
    peer.store("changes", &large, 65_536);
    for number in 0..70 {
        peer.store(&format!("f{number}"), &small, 65_536);
    }
    peer.store("changes", &small, 65_536);
    assert_eq!(heads(&server).len(), 1, "a day's files are one snapshot");
    assert!(files_named(&server.data, ".index") < 20, "some were swept meanwhile");
    let id = peer.id;
    drop(peer);
    crate::support::wait_until(|| files_named(&server.data, ".index") == 1, "the sweep at the end");
    let received = server.data.join("received_files");
    // Of a sealed one, header, IV, padding, length and HMAC come on top.
    let each = if crate::support::is_sealed_at_rest() { 64 + 16 + 1_008 + 8 + 32 } else { 1_000 };
    crate::support::wait_until(|| tree::bytes_below(&received) == 71 * each, "the replaced content to be swept");
    // The next connection is another day.
    let (mut peer, file_key) = Peer::reenter(&server, "ada", id, &key);
    let next = Encrypted::of(&small.file, &file_key);
    peer.store("next day", &next, 65_536);
    peer.store("next day too", &next, 65_536);
    let heads = heads(&server);
    let files: Vec<_> = heads.iter().map(|head| head["totals"]["files"].as_u64().unwrap()).collect();
    assert_eq!(files, [71, 73]);
    let client = moved(&workplace, &server, "ada", &key);
    client.run(["verify"]).expect(0);
    assert_restores(&client, "changes", &small.file);
}

fn files_named(folder: &std::path::Path, end: &str) -> usize {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|item| item.path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => files_named(&path, end),
        false => usize::from(path.to_string_lossy().ends_with(end)),
    };
    found.map(count).sum()
}
