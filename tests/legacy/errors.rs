//! Every error of the dialect gets the answer that its description names.

use super::moving_over::moved;
use super::peer::{Encrypted, GENERAL_ERROR, Key, Peer, field, heads, write_noise};
use crate::server::malformed::assert_unharmed;
use crate::support::{TestServer, Workplace};

/// Names that are no names of files, as they travel.
fn unsafe_names() -> Vec<[u8; 255]> {
    let (long, longest) = ("x".repeat(251), "x".repeat(254));
    let texts = ["", ".", "..", "../x", "..\\x", "a/b", "/", "/etc/passwd", "a\\b", "a\nb", "\u{7f}", "\u{85}"];
    let mut names: Vec<[u8; 255]> = texts.iter().map(|text| field(text.as_bytes())).collect();
    names.extend([field(long.as_bytes()), field(longest.as_bytes()), [b'x'; 255]]);
    let mut with_nul = field(b"a");
    with_nul[2] = b'b';
    names.push(with_nul);
    names
}

#[test]
fn another_version_byte_gets_1607_and_a_close() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    for version in [0, 1, 4, 255] {
        let mut peer = Peer { version, ..Peer::connect(&server) };
        peer.say(1025, &field(b"ada"));
        peer.expect_error_and_close();
        let key = Key::make(17);
        let (mut peer, _) = Peer::enter(&server, &format!("later {version}"), &key);
        peer.version = version;
        peer.say(1029, &field(b"a"));
        peer.expect_error_and_close();
    }
}

#[test]
fn a_code_or_a_size_that_cannot_be_gets_1607_and_a_close() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (first, _) = Peer::enter(&server, "ada", &key);
    let mut cases = vec![(1024, 0), (1032, 0), (1040, 72), (0, 0), (1600, 16)];
    cases.extend([1025, 1027, 1029, 1030, 1031].into_iter().flat_map(|code| [(code, 254), (code, 256), (code, 0)]));
    cases.extend([(1026, 414), (1026, 416), (1026, 418), (1026, u32::MAX), (1025, u32::MAX)]);
    cases.extend([(1028, 266), (1028, 16 * 1024 * 1024 + 1_025), (1028, u32::MAX)]);
    for (code, bytes) in cases {
        let (mut peer, _) = Peer::reenter(&server, "ada", first.id, &key);
        let header = peer.header(code, bytes);
        peer.send(&header);
        if bytes < 1_000 {
            peer.send(&vec![0; bytes as usize]);
        }
        peer.expect_error_and_close();
    }
    // The same as the first word of a connection, where it is a code of the dialect at all.
    for (code, bytes) in [(1025, 254), (1026, 416), (1028, 266), (1031, u32::MAX)] {
        let mut peer = Peer::connect(&server);
        let header = peer.header(code, bytes);
        peer.send(&header);
        if bytes < 1_000 {
            peer.send(&vec![0; bytes as usize]);
        }
        peer.expect_error_and_close();
    }
    assert_unharmed(&server);
}

#[test]
fn a_packet_whose_numbers_make_no_sense_gets_1607_and_a_close() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (first, _) = Peer::enter(&server, "ada", &key);
    for (number, total, content_bytes) in
        [(0, 1, 16), (2, 1, 16), (1, 0, 16), (1, 1, 15), (1, 1, 17), (1, 1, u32::MAX)]
    {
        let (mut peer, _) = Peer::reenter(&server, "ada", first.id, &key);
        let mut message = peer.header(1028, 267 + 16);
        message.extend(u32::to_le_bytes(content_bytes));
        message.extend(16u32.to_le_bytes());
        message.extend([u16::to_le_bytes(number), u16::to_le_bytes(total)].concat());
        message.extend(field(b"a"));
        message.extend([0; 16]);
        peer.send(&message);
        peer.expect_error_and_close();
    }
}

#[test]
fn an_unsafe_file_name_gets_1607_and_a_close_in_1028_to_1031_alike() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (first, _) = Peer::enter(&server, "ada", &key);
    for name in unsafe_names() {
        for code in 1028..=1031 {
            let (mut peer, _) = Peer::reenter(&server, "ada", first.id, &key);
            match code {
                1028 => {
                    peer.say(code, &[&16u32.to_le_bytes()[..], &[0, 0, 0, 0, 1, 0, 1, 0], &name, &[0; 16]].concat())
                }
                _ => peer.say(code, &name),
            }
            peer.expect_error_and_close();
        }
    }
    assert!(heads(&server).is_empty());
}

#[test]
fn a_registration_that_is_refused_gets_1601_and_the_connection_stays_open() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    Peer::enter(&server, "ada", &key);
    let mut peer = Peer::connect(&server);
    let mut with_nul = field(b"a");
    with_nul[2] = b'b';
    let long = "x".repeat(101);
    let names = [b"ada".as_slice(), b"", b" a", b"a\n", b"\xe4", long.as_bytes()].map(field);
    for name in names.into_iter().chain([with_nul, [b'x'; 255]]) {
        assert_eq!(peer.ask(1025, &name), (1601, Vec::new()), "{:?}", String::from_utf8_lossy(&name));
    }
    peer.register("bob");
    peer.send_key("bob", &key);
    // Registered once is taken, on this connection too.
    assert_eq!(peer.ask(1025, &field(b"bob")), (1601, Vec::new()));
}

#[test]
fn a_reconnect_of_an_unknown_id_or_another_name_gets_1606() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (ada, _) = Peer::enter(&server, "ada", &key);
    let (bob, _) = Peer::enter(&server, "bob", &key);
    let mut peer = Peer::connect(&server);
    for (id, name) in [([7; 16], "ada"), (bob.id, "ada"), ([0; 16], "ada"), (ada.id, "nobody"), (ada.id, "")] {
        peer.id = id;
        assert_eq!(peer.ask(1027, &field(name.as_bytes())), (1606, id.to_vec()), "{name}");
    }
    // As an installed client does then.
    peer.register("new");
    peer.send_key("new", &key);
}

#[test]
fn files_before_the_exchange_of_keys_get_1607() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let mut peer = Peer::connect(&server);
    let all = |peer: &mut Peer| {
        peer.say_packet(b"a", 16, 1, 1, &[0; 100_000]);
        peer.expect_error();
        for code in 1029..=1031 {
            peer.say(code, &field(b"a"));
            peer.expect_error();
        }
    };
    all(&mut peer);
    peer.register("ada");
    all(&mut peer);
    let file_key = peer.send_key("ada", &key);
    peer.store("a", &Encrypted::of(&write_noise(&workplace, "noise", 100), &file_key), 1_000);
}

#[test]
fn a_key_is_taken_only_where_1600_was_said_or_where_it_is_registered() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (key, other) = (Key::make(17), Key::make(65_537));
    let key_of = |name: &str, key: &[u8]| [&field(name.as_bytes())[..], key].concat();
    let mut peer = Peer::connect(&server);
    peer.register("ada");
    let mut stranger = Peer::connect(&server);
    stranger.id = peer.id;
    stranger.say(1026, &key_of("ada", &other.public));
    stranger.expect_error();
    // Here too it must be the name that got 1600, and a key.
    for bad in [key_of("bob", &key.public), key_of("ada", &[0x30; 160]), key_of("ada", &[0; 162])] {
        peer.say(1026, &bad);
        peer.expect_error();
    }
    let id = std::mem::replace(&mut peer.id, [1; 16]);
    peer.say(1026, &key_of("ada", &key.public));
    peer.expect_error();
    peer.id = id;
    peer.send_key("ada", &key);
    for connection in [&mut peer, &mut stranger] {
        connection.say(1026, &key_of("ada", &other.public));
        connection.expect_error();
        connection.send_key("ada", &key);
    }
    // Exponent 3 has 160 bytes too, and is none of the dialect.
    let three = Key::make(3);
    assert_eq!(three.public.len(), 160);
    peer.register("three");
    peer.say(1026, &key_of("three", &three.public));
    peer.expect_error();
}

#[test]
fn a_confirmation_of_a_file_not_just_received_gets_1607() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100_000), &file_key);
    for code in 1029..=1031 {
        peer.say(code, &field(b"a"));
        peer.expect_error();
    }
    peer.send_file("a", &file, 65_536);
    peer.say(1029, &field(b"b"));
    peer.expect_error();
    peer.conclude(1029, "a");
    peer.say(1029, &field(b"a"));
    peer.expect_error();
    // In the middle, and after "sending again".
    peer.say_part("a", &file, 1, 65_536);
    peer.say(1029, &field(b"a"));
    peer.expect_error();
    peer.send_file("a", &file, 65_536);
    peer.conclude(1030, "a");
    peer.say(1029, &field(b"a"));
    peer.expect_error();
    assert_eq!(heads(&server).len(), 1);
}

#[test]
fn a_packet_that_says_other_than_packet_1_gets_1607_and_ends_the_transfer() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100_000), &file_key);
    let (bytes, part) = (file.original_bytes, file.part(2, 65_536));
    for (name, original_bytes, total) in [("a", bytes, 3), ("a", bytes + 1, 2), ("b", bytes, 2)] {
        peer.say_part("a", &file, 1, 65_536);
        peer.say_packet(name.as_bytes(), original_bytes, 2, total, &part);
        peer.expect_error();
        // What was under way is over; a packet without a first one is as wrong.
        peer.say_part("a", &file, 2, 65_536);
        peer.expect_error();
    }
    peer.store("a", &file, 65_536);
}

#[test]
fn what_is_no_ciphertext_of_the_file_gets_1607() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let file = Encrypted::of(&write_noise(&workplace, "noise", 160), &file_key);
    let good = file.part(1, 1_000);
    let mut bad_padding = good.clone();
    // The padding of 16 times 16 becomes 17 in its last byte.
    bad_padding[good.len() - 17] ^= 16 ^ 17;
    for bad in [&good[..175], &good[..100], &[], &bad_padding] {
        peer.say_packet(b"a", 160, 1, 1, bad);
        peer.expect_error();
    }
    // More than the size allows, in one packet and in several; and a file too large for an answer to tell.
    peer.say_packet(b"a", 150, 1, 1, &good);
    peer.expect_error();
    peer.say_packet(b"a", 160, 1, 3, &good);
    peer.say_packet(b"a", 160, 3, 3, &[0]);
    peer.expect_error();
    peer.say_packet(b"a", u32::MAX, 1, 2, &[0; 100]);
    peer.expect_error();
    peer.store("a", &file, 1_000);
    assert_eq!(heads(&server).len(), 1);
}

#[test]
fn packets_that_only_fill_the_disk_are_refused() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, _) = Peer::enter(&server, "ada", &Key::make(17));
    peer.say_packet(b"a", 1_000_000, 1, 3, &[0; 16]);
    // Each differs from the one before, waits, and leaves that one behind as waste.
    for said in 0..9 {
        peer.say_packet(b"a", 1_000_000, 3, 3, &vec![said; 900_000]);
    }
    peer.expect_error();
}

#[test]
fn another_clients_id_gets_1607() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (ada, _) = Peer::enter(&server, "ada", &key);
    let (mut bob, file_key) = Peer::enter(&server, "bob", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 100), &file_key);
    let id = std::mem::replace(&mut bob.id, ada.id);
    bob.say_part("a", &file, 1, 1_000);
    bob.expect_error();
    bob.id = id;
    bob.send_file("a", &file, 1_000);
    bob.id = ada.id;
    bob.say(1029, &field(b"a"));
    bob.expect_error();
    assert!(heads(&server).is_empty());
}

#[test]
fn a_connection_of_nothing_but_errors_is_closed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut peer, _) = Peer::enter(&server, "ada", &Key::make(17));
    for _ in 0..16 {
        peer.say(1029, &field(b"a"));
        peer.expect_error();
    }
    peer.say(1029, &field(b"a"));
    peer.expect_error_and_close();
}

#[test]
fn a_connection_of_nothing_but_refusals_is_closed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let _ada = Peer::enter(&server, "ada", &Key::make(17));
    for (code, refusal) in [(1025, 1601), (1027, 1606)] {
        let mut peer = Peer::connect(&server);
        for _ in 0..16 {
            assert_eq!(peer.ask(code, &field(b"ada")).0, refusal);
        }
        peer.say(code, &field(b"ada"));
        peer.expect_error_and_close();
    }
}

#[test]
fn a_payload_of_16_mib_and_1024_bytes_is_taken() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 20_000_000), &file_key);
    peer.store("a", &file, 16 * 1024 * 1024 + 1_024 - 267);
    moved(&workplace, &server, "ada", &key).run(["verify"]).expect(0);
    assert_unharmed(&server);
}

#[test]
fn a_native_client_is_closed_to_the_dialect_from_the_start() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    moved(&workplace, &server, "ada", &key).run(["snapshots"]).expect(0);
    let rows = workplace.run(["clients", "--json", "--data", server.data.to_str().unwrap()]).expect(0);
    let id = rows.event("client")["id"].as_str().unwrap().to_string();
    let mut peer = Peer::connect(&server);
    peer.id = std::array::from_fn(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap());
    assert_eq!(peer.ask(1027, &field(b"ada")), (1606, peer.id.to_vec()));
    peer.say(1026, &[&field(b"ada")[..], &key.public].concat());
    peer.expect_error();
    assert_eq!(peer.ask(1025, &field(b"ada")).0, 1601);
    assert_eq!(GENERAL_ERROR, 1607);
}
