//! An installed client moves over: the key of its `me.info` logs it in natively, and its files are there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::peer::{Encrypted, Key, Peer, field, write_noise};
use crate::support::{TestClient, TestServer, Workplace};

/// A native client with this key in its state folder.
pub fn moved<'a>(workplace: &'a Workplace, server: &TestServer, name: &str, key: &Key) -> TestClient<'a> {
    let client = TestClient::new(workplace, &server.address, name);
    std::fs::create_dir_all(client.state()).unwrap();
    let place = client.state().join("valid_private_key.der");
    std::fs::copy(key.private(), &place).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600)).unwrap();
    client
}

/// Restores everything of the newest snapshot and compares one file.
#[track_caller]
pub fn assert_restores(client: &TestClient<'_>, name: &str, original: &Path) {
    let to = client.workplace.join(format!("restored {name}"));
    client.run(["restore", "--to", to.to_str().unwrap()]).expect(0);
    assert!(std::fs::read(to.join(name)).unwrap() == std::fs::read(original).unwrap(), "{name}");
}

#[test]
fn a_client_that_moves_over_has_its_files_and_its_name_is_closed_to_the_legacy_dialect() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = Key::make(17);
    let (mut peer, file_key) = Peer::enter(&server, "ada", &key);
    let file = Encrypted::of(&write_noise(&workplace, "noise", 3_000_000), &file_key);
    peer.store("noise.bin", &file, 65_536);
    peer.send_file("late.bin", &file, 65_536);
    // A stranger with another key under the name is refused, before and after.
    TestClient::new(&workplace, &server.address, "ada").run(["snapshots"]).expect(5);
    std::fs::remove_dir_all(workplace.join("state-ada")).unwrap();
    let client = moved(&workplace, &server, "ada", &key);
    let snapshots = client.run(["snapshots", "--json"]).expect(0);
    assert_eq!(snapshots.events().len(), 1, "{}", snapshots.out());
    assert!(snapshots.out().contains("unauthenticated"), "{}", snapshots.out());
    let listed = client.run(["ls"]).expect(0).out();
    assert_eq!(listed, "noise.bin\n");
    client.run(["verify"]).expect(0);
    assert_restores(&client, "noise.bin", &file.file);
    // The session that was open, a reconnect, a key and a registration: nothing is left of the old way.
    peer.say(1029, &field(b"late.bin"));
    peer.expect_error();
    let mut again = Peer::connect(&server);
    again.id = peer.id;
    assert_eq!(again.ask(1027, &field(b"ada")), (1606, peer.id.to_vec()));
    again.say(1026, &[&field(b"ada")[..], &key.public].concat());
    again.expect_error();
    assert_eq!(again.ask(1025, &field(b"ada")).0, 1601);
    assert!(server.log().contains("ada has moved over"), "{}", server.log());
    // From now on it backs up natively, under the same name.
    client.backup(&file.file);
    let rows = client.run(["snapshots", "--json"]).expect(0).events();
    assert_eq!(rows.len(), 2);
    assert!(!rows[1].data.to_string().contains("unauthenticated"), "{:?}", rows[1]);
    // Also after a restart.
    assert_eq!(server.stop(), 0);
    let server = TestServer::start(&workplace);
    let mut again = Peer::connect(&server);
    again.id = peer.id;
    assert_eq!(again.ask(1027, &field(b"ada")).0, 1606);
}

#[test]
fn the_id_stays_the_same_and_the_operator_sees_who_has_moved() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let keys = [Key::make(17), Key::make(65_537)];
    for (name, key) in ["ada", "bob"].into_iter().zip(&keys) {
        Peer::enter(&server, name, key);
    }
    moved(&workplace, &server, "bob", &keys[1]).run(["snapshots"]).expect(0);
    let data = server.data.to_str().unwrap();
    let rows = workplace.run(["clients", "--json", "--data", data]).expect(0).events();
    let legacy: Vec<_> = rows.iter().map(|row| (row.data["name"].clone(), row.data["legacy"].clone())).collect();
    assert_eq!(legacy, [("ada".into(), true.into()), ("bob".into(), false.into())]);
    let text = workplace.run(["clients", "--data", data]).expect(0).out();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].ends_with("legacy") && !lines[2].contains("legacy"), "{text}");
}
