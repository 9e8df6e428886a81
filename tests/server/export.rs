//! The operator lays snapshots out: as trees and as tar streams, beside a live server and without one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::operator::operator;
use crate::support::{Run, TestClient, TestServer, Workplace, large_file, tree};

/// The exit code of a run of `tar`, and what it complained about.
fn untar(archive: &Path, to: &Path) -> (i32, String) {
    std::fs::create_dir_all(to).unwrap();
    let mut command = Command::new("tar");
    command
        .args(["--warning=no-timestamp", "--warning=no-unknown-keyword"])
        .arg("-xpf")
        .arg(archive)
        .arg("-C")
        .arg(to)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    let run = Run::of(command);
    (run.code, run.err())
}

fn in_tree(root: &Path, original: &Path) -> PathBuf {
    root.join(original.strip_prefix("/").unwrap())
}

#[test]
fn an_odd_tree_comes_out_as_a_tree_and_as_a_tar_stream_that_gnu_tar_takes() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::odd(&source);
    // Long, binary and with holes, each beyond what a plain header holds.
    let long = source.join("l".repeat(200)).join("m".repeat(200));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("file"), "long").unwrap();
    let name: Vec<u8> = b"\xff\xfe".iter().copied().cycle().take(150).collect();
    std::fs::write(source.join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name)), "binary").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), source.join("long link")).unwrap();
    let holes = std::fs::File::create(source.join("holes")).unwrap();
    holes.set_len(5 << 20).unwrap();
    let client = TestClient::new(&workplace, &server.address, "ada");
    let snapshot = client.backup(&source);
    let data = server.data.clone();
    let whole = tree::look(&source);
    let mut server = Some(server);
    for round in ["beside", "alone"] {
        let to = workplace.join(format!("tree {round}"));
        let words = ["export", &snapshot[..20], to.to_str().unwrap()];
        let run = operator(&workplace, &words, &data).expect(0);
        assert!(run.out().starts_with(&format!("exported snapshot {snapshot}")), "{}", run.out());
        tree::assert_same(&source, &in_tree(&to, &source));
        let archive = workplace.join(format!("{round}.tar"));
        let words = ["export", "--client", "ada", "latest", "--tar", archive.to_str().unwrap()];
        operator(&workplace, &words, &data).expect(0);
        let run = operator(&workplace, &["export", &snapshot, "--tar", "-", "--quiet"], &data).expect(0);
        assert!(run.stdout == std::fs::read(&archive).unwrap(), "both streams are the same");
        assert_eq!(run.err(), "");
        let to = workplace.join(format!("untarred {round}"));
        let (code, complaints) = untar(&archive, &to);
        assert_eq!((code, complaints.as_str()), (0, ""));
        let found = tree::look(&in_tree(&to, &source));
        assert_eq!(found.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        tree::assert_same(&source, &in_tree(&to, &source));
        server.take().map(TestServer::stop);
    }
}

#[test]
fn a_damaged_content_is_named_and_left_out() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    for name in ["a", "bad", "gone", "z"] {
        std::fs::write(source.join(name), format!("the content of {name}")).unwrap();
    }
    large_file(&source.join("bad large"), 2 << 20);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let snapshot = client.backup(&source);
    let client_folder = std::fs::read_dir(server.data.join("received_files")).unwrap().next().unwrap().unwrap();
    let stored = in_tree(&client_folder.path().join(&snapshot), &source);
    std::fs::write(stored.join("bad"), "the content of bbd").unwrap();
    std::fs::remove_file(stored.join("gone")).unwrap();
    let mut bytes = std::fs::read(stored.join("bad large")).unwrap();
    bytes[1 << 20] ^= 1;
    std::fs::write(stored.join("bad large"), bytes).unwrap();
    let to = workplace.join("tree");
    let run = operator(&workplace, &["export", &snapshot, to.to_str().unwrap()], &server.data).expect(6);
    let archive = workplace.join("export.tar");
    let words = ["export", &snapshot, "--tar", archive.to_str().unwrap()];
    let of_tar = operator(&workplace, &words, &server.data).expect(6);
    assert_eq!(untar(&archive, &workplace.join("untarred")), (0, String::new()));
    for run in [run, of_tar] {
        for name in ["bad", "bad large", "gone"] {
            let path = in_tree(Path::new(""), &source.join(name));
            assert!(run.err().contains(&format!("{}: ", path.display())), "{name} in {}", run.err());
        }
        assert!(run.out().contains("3 errors, named above"), "{}", run.out());
    }
    for root in [to, workplace.join("untarred")] {
        let names: Vec<_> = tree::look(&in_tree(&root, &source)).into_keys().collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }
}

#[test]
fn a_snapshot_that_could_be_of_several_clients_needs_a_name() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    let ids = ["ada", "bob"].map(|name| TestClient::new(&workplace, &server.address, name).backup(&source));
    let to = workplace.join("to");
    let export = |words: &[&str]| {
        let mut all = vec!["export", to.to_str().unwrap()];
        all.splice(1..1, words.iter().copied());
        operator(&workplace, &all, &server.data)
    };
    for selector in ["latest", "20"] {
        let run = export(&[selector]).expect(1);
        assert!(run.err().contains("fits several clients: name one with --client"), "{}", run.err());
    }
    let run = export(&["1999"]).expect(1);
    assert!(run.err().contains("no client has a snapshot that begins with \"1999\""), "{}", run.err());
    let run = export(&["--client", "carol", "latest"]).expect(1);
    assert!(run.err().contains("no client is named carol"), "{}", run.err());
    let run = operator(&workplace, &["export", &ids[0]], &server.data).expect(2);
    assert!(run.err().contains("give a folder, or --tar FILE"), "{}", run.err());
    assert!(!to.exists() || tree::look(&to).len() <= 1, "nothing was laid out");
    export(&["--client", "bob", "latest"]).expect(0);
    let run = export(&[&ids[0], "--json"]).expect(0);
    assert_eq!(run.event("summary")["files"], 3);
}
