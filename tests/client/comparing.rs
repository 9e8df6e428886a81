//! `diff`: what differs between two snapshots.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::{Run, TestClient, TestServer, Workplace};

/// The lines of a comparison, with paths below `source`, and its last line.
fn lines(run: &Run, source: &Path) -> (Vec<String>, String) {
    let above = format!("{}/", source.canonicalize().unwrap().strip_prefix("/").unwrap().display());
    let mut lines: Vec<String> = run.out().lines().map(|line| line.replace(&above, "")).collect();
    let last = lines.pop().unwrap_or_default();
    (lines, last)
}

/// Sets a time that no write of the test makes.
fn set_time(path: &Path) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn each_kind_of_difference_has_its_sign() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for name in ["content", "facts", "gone", "kind", "same"] {
        workplace.write(format!("source/{name}"), "before");
    }
    symlink("before", source.join("link")).unwrap();
    set_time(&source);
    let first = client.backup(&source);
    fs::write(source.join("content"), "behind").unwrap();
    fs::set_permissions(source.join("facts"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    fs::remove_file(source.join("kind")).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    workplace.write("source/kind/new", "12345678");
    symlink("behind", source.join("link")).unwrap();
    set_time(&source);
    let second = client.backup(&source);
    let all = ["M content", "U facts", "- gone", "T kind", "+ kind/new", "U link"];
    let run = client.run(["diff", &first, &second]).expect(1);
    assert_eq!(lines(&run, &source).0, all);
    let wanted = "1 path added (8 B), 1 path removed (6 B), 1 path with other content (6 B), 2 with other facts, 1 of \
                  another kind";
    assert_eq!(lines(&run, &source).1, wanted);
    // The newest is the other one where none is named, and a beginning of an id will do.
    assert_eq!(client.run(["diff", &first]).expect(1).out(), run.out());
    let rows = client.run(["diff", "-0", &first]).expect(1);
    assert!(rows.out().ends_with('\0') && !rows.out().contains('\n'), "{}", rows.out());
    assert!(rows.err().contains("with other content"), "{}", rows.err());
    assert_eq!(client.run(["diff", &first[..24], "latest"]).expect(1).out(), run.out());
    let back = client.run(["diff", "latest", &first]).expect(1);
    assert_eq!(lines(&back, &source).0, ["M content", "U facts", "+ gone", "T kind", "- kind/new", "U link"]);
    let run = client.run(["diff", &second]).expect(0);
    assert_eq!(run.out(), "no difference\n");

    let part = |words: &[&OsStr]| client.run([&["diff".as_ref(), first.as_ref()], words].concat());
    let (kind, same) = (source.join("kind"), source.join("same"));
    assert_eq!(lines(&part(&[kind.as_ref()]).expect(1), &source).0, ["T kind", "+ kind/new"]);
    part(&[same.as_ref()]).expect(0);
    let run = part(&[same.as_ref(), "no/such".as_ref()]).expect(1);
    assert!(run.err().contains("no/such is in neither snapshot"), "{}", run.err());
    let run = client.run(["diff", "20000101T000000Z-00000000"]).expect(1);
    assert!(run.err().contains("no snapshot"), "{}", run.err());
    let run = client.run(["diff"]).expect(2);
    assert!(run.err().contains("what to compare is not said"), "{}", run.err());
}

#[test]
fn json_has_a_row_for_each_path_and_a_summary() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("source/file", "1");
    let first = client.backup(&file);
    fs::write(&file, "22").unwrap();
    client.backup(&file);
    let events = client.run(["diff", &first, "--json"]).expect(1).events();
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["difference", "summary"]);
    let row = &events[0].data;
    assert_eq!((&row["change"], &row["fields"][0]), (&"content".into(), &"content".into()));
    assert_eq!((&row["before"]["size"], &row["after"]["size"]), (&1.into(), &2.into()));
    assert!(row["path"].as_str().unwrap().ends_with("source/file"));
    let summary = &events[1].data;
    let counts = ["added", "removed", "content", "facts", "kind", "content_bytes", "exit_code"];
    assert_eq!(counts.map(|name| summary[name].as_u64().unwrap()), [0, 0, 1, 0, 0, 2, 1]);
}

#[test]
fn lists_of_more_than_a_page_are_compared_to_their_ends() {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for number in 0..17_000 {
        workplace.write(source.join(format!("{:03}/{number:05}", number / 100)), "");
    }
    let first = client.backup(&source);
    for number in (0..170).step_by(2) {
        fs::remove_dir_all(source.join(format!("{number:03}"))).unwrap();
    }
    workplace.write(source.join("999/last"), "x");
    client.backup(&source);
    let run = client.run(["diff", &first]).expect(1);
    let (lines, _) = lines(&run, &source);
    let count = |sign: &str| lines.iter().filter(|line| line.starts_with(sign)).count();
    assert_eq!((count("- "), count("+ "), count("M ")), (85 * 101, 2, 0), "{}", lines.len());
    assert_eq!(lines.last().unwrap(), "+ 999/last");
}
