//! `snapshots`, `ls` and `cat`: what is there, which snapshot is meant, and readers that stop early.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::support::{TestClient, TestServer, Workplace, tree};

/// A path as snapshots hold it.
fn stored(path: &std::path::Path) -> &OsStr {
    path.strip_prefix("/").unwrap().as_os_str()
}

#[test]
fn cat_prints_a_file_or_a_part_of_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let content = tree::bytes(1, 3_000_000);
    let file = workplace.write("source/file", &content);
    workplace.write("source/empty", "");
    client.backup(&workplace.join("source"));
    let cat = |flags: &[&str]| {
        let words = [OsStr::new("cat"), stored(&file)].into_iter().chain(flags.iter().map(OsStr::new));
        client.run(words).expect(0).stdout
    };
    assert!(cat(&[]) == content);
    assert!(cat(&["--offset", "1000000"]) == content[1_000_000..]);
    assert!(cat(&["--length", "131073"]) == content[..131_073]);
    assert!(cat(&["--offset", "131071", "--length", "2"]) == content[131_071..131_073]);
    assert!(cat(&["--offset", "2999999", "--length", "100"]) == content[2_999_999..]);
    assert_eq!(cat(&["--offset", "3000000"]), b"");
    assert_eq!(cat(&["--offset", "18446744073709551615"]), b"");
    assert_eq!(cat(&["--length", "0"]), b"");
    // A slash before the path does not matter.
    assert!(client.run([OsStr::new("cat"), file.as_os_str()]).expect(0).stdout == content);
    assert_eq!(client.run([OsStr::new("cat"), stored(&workplace.join("source/empty"))]).expect(0).stdout, b"");
}

#[test]
fn cat_of_what_is_no_file_says_so() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/file", "1");
    symlink("file", workplace.join("source/link")).unwrap();
    client.backup(&workplace.join("source"));
    for name in ["source", "source/link", "source/nothing"] {
        let path = workplace.join(name);
        let run = client.run([OsStr::new("cat"), stored(&path)]).expect(1);
        assert!(run.stdout.is_empty() && run.err().contains(&stored(&path).display().to_string()), "{}", run.err());
    }
    let run = client.run(["cat"]).expect(2);
    assert!(run.err().contains("\"cat\" prints one file: give exactly one path"), "{}", run.err());
    client.run(["cat", "a", "b"]).expect(2);
    let run = client.run(["cat", "a/../b"]).expect(2);
    assert!(run.err().contains("give paths as \"cyberbackup ls\" prints them"), "{}", run.err());
}

#[test]
fn ls_lists_names_as_they_are() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    tree::odd(&source);
    client.backup(&source);
    let mut wanted: Vec<Vec<u8>> =
        tree::look(&source).keys().map(|below| [stored(&source).as_bytes(), below.as_bytes()].concat()).collect();
    wanted.sort();
    let mut paths: Vec<Vec<u8>> =
        client.run(["ls", "-0"]).expect(0).stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    assert_eq!(paths.pop(), Some(Vec::new()), "the last path is not ended by a NUL");
    paths.sort();
    assert!(paths == wanted);
    let plain: Vec<u8> = client.run(["ls"]).expect(0).stdout;
    assert_eq!(plain.len(), wanted.iter().map(|path| path.len() + 1).sum::<usize>());
}

#[test]
fn ls_shows_a_part_and_details() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/part/file", "12345");
    workplace.write("source/part-time", "");
    symlink("file", workplace.join("source/part/link")).unwrap();
    client.backup(&workplace.join("source"));
    let part = workplace.join("source/part");
    let run = client.run([OsStr::new("ls"), "-l".as_ref(), part.as_os_str()]).expect(0);
    let text = run.out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let shown = stored(&part).display().to_string();
    assert!(lines[0].starts_with("d 0755 ") && lines[0].ends_with(&format!("Z {shown}")), "{text}");
    assert!(lines[1].starts_with("- 0644 ") && lines[1].contains("            5 20"), "{text}");
    assert!(lines[2].starts_with("l ") && lines[2].ends_with("/link -> file"), "{text}");
    let run = client.run(["ls", "nowhere"]).expect(1);
    assert!(run.err().contains("nowhere"), "{}", run.err());
}

#[test]
fn a_snapshot_is_meant_by_a_unique_beginning_of_its_id() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let file = workplace.write("file", "one");
    let first = client.backup(&file);
    workplace.write("file", "another");
    let second = client.backup(&file);
    let cat =
        |snapshot: &str| client.run([OsStr::new("cat"), "--snapshot".as_ref(), snapshot.as_ref(), stored(&file)]);
    assert_eq!(cat(&first).expect(0).out(), "one");
    assert_eq!(cat(&second).expect(0).out(), "another");
    assert_eq!(cat("latest").expect(0).out(), "another");
    let differ = first.bytes().zip(second.bytes()).position(|(left, right)| left != right).unwrap();
    assert_eq!(cat(&first[..=differ]).expect(0).out(), "one");
    let common = &first[..differ];
    let run = cat(common).expect(1);
    let wanted = format!("\"{common}\" fits several snapshots (");
    assert!(run.err().contains(&wanted) && run.err().contains("give more of the id"), "{}", run.err());
    assert!(run.err().contains(&first) && run.err().contains(&second), "{}", run.err());
    let run = cat("19700101").expect(1);
    let wanted = "no snapshot of ada begins with \"19700101\": \"cyberbackup snapshots\" lists them";
    assert!(run.err().contains(wanted), "{}", run.err());
}

#[test]
fn the_newest_snapshot_of_a_root_is_found_by_the_root() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let run = client.run(["ls"]).expect(1);
    assert!(run.err().contains("ada has no snapshot yet: run \"cyberbackup backup\" first"), "{}", run.err());
    let (one, two) = (workplace.write("one/file", "1"), workplace.write("two/file", "2"));
    client.backup(one.parent().unwrap());
    client.backup(two.parent().unwrap());
    let ls = |root: &OsStr| client.run([OsStr::new("ls"), "--root".as_ref(), root]);
    assert!(ls(one.parent().unwrap().as_os_str()).expect(0).out().contains("/one/file"));
    assert!(ls(stored(two.parent().unwrap())).expect(0).out().contains("/two/file"));
    let run = ls("three".as_ref()).expect(1);
    assert!(run.err().contains("ada has no snapshot of three yet"), "{}", run.err());
    let rows = client.run(["snapshots"]).expect(0);
    let text = rows.out();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.lines().next().unwrap().contains("/one") && text.lines().nth(1).unwrap().contains("/two"),
        "{text}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for number in 0..2_000 {
        workplace.write(source.join(format!("{number:0>200}")), "");
    }
    let large = workplace.write("source/large", tree::bytes(1, 4_000_000));
    client.backup(&source);
    let (ls, json): (&[&OsStr], &[&OsStr]) = (&["ls".as_ref()], &["ls".as_ref(), "--json".as_ref()]);
    for words in [ls, json, &["cat".as_ref(), stored(&large)]] {
        let mut command = client.command(words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::with_capacity(512, child.stdout.take().unwrap());
        let mut line = Vec::new();
        reader.by_ref().take(1_000).read_until(b'\n', &mut line).unwrap();
        assert!(!line.is_empty());
        drop(reader);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(0) && said.is_empty(), "{words:?}: {:?} {said}", output.status);
    }
}
