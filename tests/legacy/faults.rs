//! The faults of deployed servers. Each test is named after one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::moving_over::{assert_restores, moved};
use super::peer::{Encrypted, Key, Peer, field, heads, write_noise};
use crate::support::{TestServer, Workplace};

#[test]
fn fault_1031_or_1029_with_dots_as_the_file_name_reached_outside_the_storage_folder() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (first, _) = Peer::enter(&server, "ada", &key);
    let bait = workplace.write("data/x", "still here");
    workplace.write("x", "still here too");
    for name in ["../x", "../../x", "../../../x", "../../../../x", bait.to_str().unwrap()] {
        for code in [1029, 1030, 1031] {
            // With a file received, and without.
            for with_file in [false, true] {
                let (mut peer, file_key) = Peer::reenter(&server, "ada", first.id, &key);
                if with_file {
                    peer.send_file("x", &Encrypted::of(&write_noise(&workplace, "n", 9), &file_key), 1_000);
                }
                peer.say(code, &field(name.as_bytes()));
                peer.expect_error_and_close();
            }
        }
    }
    assert_eq!(std::fs::read(bait).unwrap(), b"still here");
    assert_eq!(std::fs::read(workplace.join("x")).unwrap(), b"still here too");
    assert!(heads(&server).is_empty());
}

#[test]
fn fault_one_clients_file_replaced_another_clients_file_of_the_same_name() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let keys = [Key::make(17), Key::make(65_537)];
    let mut originals = Vec::new();
    for (name, key) in ["ada", "bob"].into_iter().zip(&keys) {
        let (mut peer, file_key) = Peer::enter(&server, name, key);
        let file = write_noise(&workplace, name, 100_000 + name.len() + usize::from(name == "bob"));
        peer.store("same name", &Encrypted::of(&file, &file_key), 65_536);
        originals.push(file);
    }
    for ((name, key), original) in ["ada", "bob"].into_iter().zip(&keys).zip(originals) {
        assert_restores(&moved(&workplace, &server, name, key), "same name", &original);
        std::fs::remove_dir_all(workplace.join("restored same name")).unwrap();
    }
}

#[test]
fn fault_a_name_could_be_registered_again_after_its_session_had_expired() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let refused = |server: &TestServer, name: &str| {
        assert_eq!(Peer::connect(server).ask(1025, &field(name.as_bytes())), (1601, Vec::new()), "{name}");
    };
    let (peer, _) = Peer::enter(&server, "ada", &key);
    refused(&server, "ada");
    let id = peer.id;
    drop(peer);
    refused(&server, "ada");
    // A name whose key has not come yet is nobody else's either, while its client is there and just after.
    let mut without_key = Peer::connect(&server);
    without_key.register("bob");
    refused(&server, "bob");
    drop(without_key);
    refused(&server, "bob");
    assert_eq!(server.stop(), 0);
    let server = TestServer::start(&workplace);
    refused(&server, "ada");
    Peer::reenter(&server, "ada", id, &key);
}

#[test]
fn fault_a_whole_file_was_held_in_memory() {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &Key::make(17));
    let before = server.peak_memory_kib();
    let file = Encrypted::of(&write_noise(&workplace, "noise", 64 * 1024 * 1024), &file_key);
    let packet_bytes = 16 * 1024 * 1024;
    peer.store("in order", &file, packet_bytes);
    peer.say_part("backwards", &file, 1, packet_bytes);
    (2..=file.packets(packet_bytes))
        .rev()
        .for_each(|number| peer.say_part("backwards", &file, number, packet_bytes));
    peer.expect_received("backwards", &file);
    peer.conclude(1029, "backwards");
    let after = server.peak_memory_kib();
    assert!(after < 32 * 1024 && after - before < 8 * 1024, "{before} KiB, then {after} KiB");
}

#[test]
fn fault_the_accept_loop_died_after_idle_time() {
    let workplace = Workplace::new();
    let flags = ["--rsa-bits", "2048", "--timeout", "1"];
    let server = TestServer::start_with(&workplace, "data", &flags);
    let key = Key::make(17);
    let (mut peer, _) = Peer::enter(&server, "ada", &key);
    // Twice the time that anything at all has here: the idling itself is what is tested.
    std::thread::sleep(Duration::from_secs(2));
    let file_key = peer.send_key("ada", &key);
    peer.store("a", &Encrypted::of(&write_noise(&workplace, "noise", 100), &file_key), 1_000);
    Peer::reenter(&server, "ada", peer.id, &key);
}

#[test]
fn fault_other_clients_stood_still_while_one_files_checksum_was_computed() {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let (other, _) = Peer::enter(&server, "bob", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 64 * 1024 * 1024), &file_key);
    let packet_bytes = 1024 * 1024;
    // All but packet 2: with it, everything that waits is decrypted and summed.
    peer.say_part("a", &file, 1, packet_bytes);
    (3..=file.packets(packet_bytes)).for_each(|number| peer.say_part("a", &file, number, packet_bytes));
    let done = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let (mut longest, mut rounds) = (Duration::ZERO, 0);
            while !done.load(Ordering::SeqCst) || rounds == 0 {
                let began = Instant::now();
                let mut again = Peer::connect(&server);
                again.id = other.id;
                assert_eq!(again.ask(1027, &field(b"bob")).0, 1605);
                longest = longest.max(began.elapsed());
                rounds += 1;
            }
            longest
        });
        peer.say_part("a", &file, 2, packet_bytes);
        peer.expect_received("a", &file);
        done.store(true, Ordering::SeqCst);
        others.join().unwrap()
    });
    assert!(longest < Duration::from_secs(2), "another client waited {longest:?}");
}
