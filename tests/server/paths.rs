//! Nothing that a client can send reaches outside its own folders in the server's data.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::malformed::assert_unharmed;
use super::rogue::{Guest, entries, file, folder, link, small_key};
use crate::support::{TestClient, TestServer, Workplace};

/// Every path below `root` that does not lie in one of `except`.
fn everything(root: &Path, except: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if except.contains(&entry.path()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// The paths of the data folder that belong to no client: all but what lies below the clients' folders.
fn own_paths(data: &Path) -> BTreeSet<PathBuf> {
    let of_client = |path: &PathBuf| {
        let below = path.strip_prefix(data).unwrap();
        let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
        matches!(
            first,
            "received_files" | "deltas" | "ranges" | "snapshots" | "incoming" | "clients" | "tokens" | "lock"
        )
    };
    everything(data, &[]).into_iter().filter(|path| !of_client(path)).collect()
}

#[test]
fn no_user_name_leads_out_of_the_data_folder() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let outside = || everything(workplace.path(), std::slice::from_ref(&server.data));
    let (before, own_before) = (outside(), own_paths(&server.data));
    let long = "../".repeat(33);
    let names =
        ["a/../../x", "../../../x", "..", ".", "/etc/passwd", "-rf", "~root", "x/y", "c:\\x", &long, "💾/../💾"];
    for name in names {
        let mut guest = Guest::enter(&server.address, name, &small_key());
        guest.begin(&["f"]);
        guest.range(0, &entries(&[file("f", 1)]));
        guest.content(0, 0, b"x");
        guest.commit(1, 1);
    }
    assert_eq!(outside(), before);
    assert_eq!(own_paths(&server.data), own_before);
    for kind in ["received_files", "ranges", "snapshots", "incoming"] {
        let clients: Vec<PathBuf> =
            std::fs::read_dir(server.data.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(clients.len(), names.len(), "{kind}: one folder for each name");
        for client in clients {
            let name = client.file_name().unwrap().as_bytes();
            assert!(!name.starts_with(b"."), "{}", client.display());
        }
    }
    assert_unharmed(&server);
}

#[test]
fn odd_paths_are_stored_inside_and_come_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let key = small_key();
    let before = everything(workplace.path(), std::slice::from_ref(&server.data));
    let mut guest = Guest::enter(&server.address, "ada", &key);
    // A file where a folder was announced, names of the store itself, and names no file system takes.
    let mut list: Vec<_> = [
        ".renamed",
        ".renamed/0",
        "...",
        "a\\..\\b",
        "control.sock",
        "f",
        "f/below a file",
        "keys/server_private_key.der",
        "lock",
        &"n".repeat(5_000),
        &vec!["d"; 4_000].join("/"),
    ]
    .iter()
    .map(|path| file(path, 1))
    .collect();
    list.sort_by(|left, right| left.path.cmp(&right.path));
    let roots: Vec<String> =
        list.iter().map(|entry| String::from_utf8(entry.path.as_bytes().to_vec()).unwrap()).collect();
    let mut roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    roots.retain(|root| !matches!(*root, ".renamed/0" | "f/below a file"));
    guest.begin(&roots);
    guest.range(0, &entries(&list));
    for number in 0..list.len() as u32 {
        guest.content(0, number, &[number as u8]);
    }
    let row = guest.commit(1, list.len() as u64);
    assert_eq!(row.files, list.len() as u64);
    assert_eq!(everything(workplace.path(), std::slice::from_ref(&server.data)), before);
    assert!(std::fs::metadata(server.data.join("keys/server_private_key.der")).unwrap().len() > 100);
    drop(guest);
    let client = rogue_client(&workplace, &server, "ada", &key);
    client.run(["verify", "--quiet"]).expect(0);
    let content = client.run(["cat", "keys/server_private_key.der"]).expect(0).stdout;
    assert_eq!(content.len(), 1);
    assert_unharmed(&server);
}

/// The real client in the place of a guest: with the same name and key.
fn rogue_client<'a>(
    workplace: &'a Workplace,
    server: &TestServer,
    user: &str,
    key: &cyberbackup::crypto::PrivateKey,
) -> TestClient<'a> {
    let client = TestClient::new(workplace, &server.address, user);
    std::fs::create_dir_all(client.state()).unwrap();
    std::fs::write(client.state().join("valid_private_key.der"), &*key.to_pkcs8_der().unwrap()).unwrap();
    client
}

#[test]
fn a_link_is_never_a_way_out() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let outside = workplace.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), b"kept").unwrap();
    let key = small_key();
    let target = outside.as_os_str().as_bytes().to_vec();
    // The link and content through it in one snapshot; where the server takes it, it lies inside.
    let mut guest = Guest::enter(&server.address, "ada", &key);
    guest.begin(&["d"]);
    let list = entries(&[link("d", &target), file("d/kept", 5), file("d/x", 5)]);
    guest.range(0, &list);
    guest.content(0, 1, b"pwned");
    guest.content(0, 2, b"pwned");
    guest.commit(1, 3);
    // The link in one snapshot, content through it in the next.
    guest.begin(&["d"]);
    guest.range(0, &entries(&[link("d", &target)]));
    guest.commit(1, 1);
    guest.begin(&["d"]);
    guest.range(0, &entries(&[folder("d"), file("d/kept", 6), file("d/y", 6)]));
    guest.content(0, 1, b"pwned!");
    guest.content(0, 2, b"pwned!");
    guest.commit(1, 3);
    let snapshots = guest.snapshots();
    assert_eq!(snapshots, 3);
    drop(guest);
    let names =
        || -> Vec<_> { std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    assert_eq!(names(), ["kept"]);
    // A restore of each snapshot does not follow the link either, one after the other into one place.
    let client = rogue_client(&workplace, &server, "ada", &key);
    let listed = client.run(["snapshots", "--json", "--quiet"]).expect(0);
    for event in listed.events() {
        let id = event.data["snapshot"].as_str().or(event.data["id"].as_str()).unwrap_or_default().to_string();
        let words: [&OsStr; 5] =
            ["restore".as_ref(), "--to".as_ref(), "restored".as_ref(), "--snapshot".as_ref(), id.as_ref()];
        let run = client.run(words);
        assert!(matches!(run.code, 0 | 3), "{id}: {}\n{}", run.code, run.err());
    }
    assert_eq!(names(), ["kept"]);
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
    assert_unharmed(&server);
}
