//! What is backed up: roots as people write them, what cannot be read, what there is nothing to read in, and
//! the program's own folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::support::{PROGRAM, Run, TestClient, TestServer, Workplace, tree};

/// The paths in the newest snapshot, without what leads to the workplace.
fn listed(client: &TestClient<'_>) -> Vec<String> {
    let top = client.workplace.path().canonicalize().unwrap();
    let prefix = format!("{}/", top.display()).trim_start_matches('/').to_string();
    let run = client.run(["ls"]).expect(0);
    let mut paths: Vec<String> = run.out().lines().map(|line| line.replacen(&prefix, "", 1)).collect();
    paths.sort();
    paths
}

/// Someone who may not read everything; none where this test runs as such a one already.
fn nobody() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65_534)
}

/// A command of `client` that runs without root's rights, with a copy of the program that it can reach.
fn as_nobody(client: &TestClient<'_>, words: &[&OsStr]) -> Command {
    let workplace = client.workplace;
    fs::set_permissions(workplace.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(client.state()).unwrap();
    let mut command = client.command(words);
    if let Some(id) = nobody() {
        let program = workplace.join("program");
        // Not by this process: what it starts meanwhile would have the copy open for writing, and nobody could run it.
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
        chown(client.state(), Some(id), Some(id)).unwrap();
        let settings: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
        command = Command::new(program);
        command.args(settings).current_dir(workplace.path()).env_clear().env("HOME", workplace.path());
        command.uid(id).gid(id);
    }
    command
}

#[test]
fn what_may_not_be_read_is_named_and_the_rest_is_stored() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for name in ["a", "secret", "z"] {
        workplace.write(source.join(name), name);
    }
    workplace.write(source.join("shut/inside"), "inside");
    for name in ["secret", "shut"] {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let run = Run::of(as_nobody(&client, &["backup".as_ref(), source.as_os_str()])).expect(3);
    fs::set_permissions(source.join("shut"), fs::Permissions::from_mode(0o755)).unwrap();
    let shown = source.display().to_string();
    for name in ["secret", "shut"] {
        let wanted = format!("{}/{name}: permission denied", &shown[1..]);
        assert!(run.err().contains(&wanted), "{wanted:?} is not in:\n{}", run.err());
    }
    assert!(run.out().contains("; 2 could not be read"), "{}", run.out());
    // The others are there, and the restore says once more what is not.
    let to = workplace.join("to");
    let run = client.run([OsStr::new("restore"), "--to".as_ref(), to.as_os_str()]).expect(3);
    assert!(run.err().contains("secret: could not be read when the backup was made"), "{}", run.err());
    let restored = to.join(&shown[1..]);
    assert_eq!(fs::read_to_string(restored.join("a")).unwrap(), "a");
    assert_eq!(fs::read_to_string(restored.join("z")).unwrap(), "z");
    assert!(!restored.join("secret").exists() && restored.join("shut").is_dir());
    client.run(["verify"]).expect(0);
}

#[test]
fn a_root_that_does_not_exist_is_named_and_the_others_are_stored() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("here/file", "1");
    let run = client.run(["backup", "here", "gone"]).expect(3);
    assert!(run.err().contains("gone: does not exist"), "{}", run.err());
    assert_eq!(listed(&client), ["here", "here/file"]);
}

#[test]
fn roots_of_which_none_exists_are_wrong_usage_and_nothing_is_stored() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let run = client.run(["backup", "gone", "too"]).expect(2);
    let wanted = "nothing to back up: gone: does not exist; too: does not exist: name a path that exists";
    assert!(run.err().contains(wanted), "{}", run.err());
    assert_eq!(client.run(["snapshots"]).expect(0).out(), "");
}

#[test]
fn sockets_pipes_and_devices_are_skipped_and_named() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/file", "1");
    let _socket = UnixListener::bind(workplace.join("source/socket")).unwrap();
    let (here, fifo) = (rustix::fs::CWD, workplace.join("source/pipe"));
    rustix::fs::mknodat(here, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let run = client.run(["backup", "--json", "source", "/dev/null"]).expect(0);
    let mut named: Vec<(String, String)> = run
        .events()
        .iter()
        .filter(|event| event.name == "file_skipped")
        .map(|event| (event.data["path"].as_str().unwrap().into(), event.data["reason"].as_str().unwrap().into()))
        .map(|(path, reason): (String, String)| (path.rsplit('/').next().unwrap().to_string(), reason))
        .collect();
    named.sort();
    let wanted = [("null", "a device"), ("pipe", "a FIFO"), ("socket", "a socket")];
    let wanted = wanted.map(|(name, what)| (name.to_string(), format!("skipped: it is {what}")));
    assert_eq!(named, wanted);
    assert_eq!(run.event("summary")["skipped"], 3);
    assert_eq!(listed(&client), ["source", "source/file"]);
}

#[test]
fn the_programs_own_folders_are_never_part_of_a_backup() {
    let workplace = Workplace::new();
    workplace.write("file", "1");
    workplace.write("transfer.info", "127.0.0.1:1\nada\n.\n");
    for _ in 0..2 {
        workplace.run(["backup", "--local-server", "--rsa-bits", "2048"]).expect(0);
    }
    assert!(workplace.join("server/keys").exists() && workplace.join("client/identity.json").exists());
    let run = workplace.run(["ls", "--local-server"]).expect(0);
    let mut names: Vec<_> = run.out().lines().map(|line| line.rsplit('/').next().unwrap().to_string()).collect();
    // The key of a run with sealed stores lies there as well.
    names.retain(|name| name != "storage.key");
    assert_eq!(names[1..], ["file", "transfer.info"], "{}", run.out());
    // Not when they are named either.
    let run = workplace.run(["backup", "--local-server", "server/keys", "client", "file"]);
    assert!(run.code == 3 || run.code == 0, "{}", run.err());
    let run = workplace.run(["ls", "--local-server"]).expect(0);
    assert!(run.out().trim_end().ends_with("/file") && run.out().lines().count() == 1, "{}", run.out());
}

#[test]
fn a_state_folder_elsewhere_is_left_out_too() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("home/file", "1");
    *client.flags.last_mut().unwrap() = workplace.join("home/hidden/state").into();
    client.backup(&workplace.join("home"));
    client.backup(&workplace.join("home"));
    assert_eq!(listed(&client), ["home", "home/file", "home/hidden"]);
}

#[test]
fn roots_are_taken_as_people_write_them() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("top/inner/file", "1");
    symlink("inner", workplace.join("top/link")).unwrap();
    let within = |folder: &str, root: &str| {
        let mut command = client.command(["backup", "--json", "--quiet", root]);
        command.current_dir(workplace.join(folder));
        Run::of(command).expect(0);
        listed(&client).first().cloned().unwrap()
    };
    assert_eq!(within("top/inner", "."), "top/inner");
    assert_eq!(within("top/inner", ".."), "top");
    assert_eq!(within("top", "inner"), "top/inner");
    assert_eq!(within("top", "inner/"), "top/inner");
    assert_eq!(within("top", "./inner/../inner/file"), "top/inner/file");
    assert_eq!(within("top/inner", "../../top"), "top");
    // A root that is a link is the link; with a slash it is what the link leads to.
    assert_eq!(within("top", "link"), "top/link");
    assert_eq!(listed(&client).len(), 1);
    assert_eq!(within("top", "link/"), "top/inner");
    assert_eq!(within("top", "link/file"), "top/inner/file");
}

#[test]
fn a_root_that_is_a_link_comes_back_as_the_link() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let link = workplace.join("link");
    symlink("some/where else", &link).unwrap();
    client.backup(&link);
    let restored = client.restore(&link, "to");
    assert_eq!(fs::read_link(restored).unwrap(), Path::new("some/where else"));
}

#[test]
fn overlapping_roots_are_stored_once() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    tree::many_files(&workplace.join("one"), 20);
    tree::many_files(&workplace.join("two"), 10);
    let words = ["backup", "--json", "two", "one/0000", "one", "one/", "./two"];
    let summary = client.run(words).expect(0).event("summary");
    assert_eq!((&summary["files"], &summary["files_sent"]), (&30.into(), &30.into()));
    assert_eq!(summary["roots"].as_array().unwrap().len(), 2);
    assert_eq!(listed(&client).len(), 34);
    let to = workplace.join("to");
    client.run([OsStr::new("restore"), "--to".as_ref(), to.as_os_str()]).expect(0);
    let top = workplace.path().canonicalize().unwrap();
    for name in ["one", "two"] {
        tree::assert_same(&top.join(name), &to.join(top.strip_prefix("/").unwrap()).join(name));
    }
}
