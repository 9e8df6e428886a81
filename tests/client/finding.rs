//! `find`: what the snapshots have under a name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use crate::support::{Run, TestClient, TestServer, Workplace, tree};

/// The rows of a search as snapshot, size and the last name of the path.
fn rows(run: &Run) -> Vec<(String, u64, String)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_default().to_string();
        let (snapshot, time, size, path) = (next(), next(), next(), next());
        assert!(time.ends_with('Z'), "{line}");
        (snapshot, size.parse().unwrap(), path.rsplit('/').next().unwrap().to_string())
    };
    run.out().lines().map(row).collect()
}

fn names(run: &Run) -> Vec<String> {
    rows(run).into_iter().map(|(_, _, name)| name).collect()
}

#[test]
fn all_snapshots_are_looked_through_the_newest_first() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let run = client.run(["find", "*"]).expect(1);
    assert!(run.out().is_empty() && run.err().contains("there is no snapshot yet"), "{}", run.err());
    let source = workplace.join("source");
    workplace.write("source/docs/old.txt", "old");
    workplace.write("source/docs/both.txt", "both");
    let first = client.backup(&source);
    fs::remove_file(source.join("docs/old.txt")).unwrap();
    let second = client.backup(&source);
    let row = |snapshot: &String, size, name: &str| (snapshot.clone(), size, name.to_string());
    let run = client.run(["find", "*.txt"]).expect(0);
    assert_eq!(rows(&run), [row(&second, 4, "both.txt"), row(&first, 4, "both.txt"), row(&first, 3, "old.txt")]);
    for (flags, found) in [
        (&["--snapshot", "latest"][..], vec![row(&second, 4, "both.txt")]),
        (&["--snapshot", &first], vec![row(&first, 4, "both.txt"), row(&first, 3, "old.txt")]),
    ] {
        assert_eq!(rows(&client.run([&["find", "*.txt"], flags].concat()).expect(0)), found, "{flags:?}");
    }
    let run = client.run(["find", "nothing", "*.text"]).expect(1);
    assert!(run.out().is_empty() && run.err().is_empty(), "{}", run.err());
    let run = client.run(["find", "old.*", "--json"]).expect(0);
    let entry = run.event("entry");
    assert_eq!((&entry["snapshot"], &entry["kind"], &entry["size"]), (&first.into(), &"file".into(), &3.into()));
    assert_eq!(entry["blake3"], blake3::hash(b"old").to_hex().as_str());
}

#[test]
fn patterns_times_sizes_and_types_choose() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    workplace.write("source/a/small.jpg", tree::bytes(1, 1_000));
    workplace.write("source/b/LARGE.JPG", tree::bytes(2, 20_480));
    symlink("small.jpg", source.join("a/link.jpg")).unwrap();
    fs::create_dir(source.join("a/folder.jpg")).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let small = fs::File::options().write(true).open(source.join("a/small.jpg")).unwrap();
    small.set_modified(long_ago).unwrap();
    client.backup(&source);
    let whole = format!("{}/a/small.jpg", source.canonicalize().unwrap().display());
    for (words, found) in [
        (&["*.jpg"][..], &["folder.jpg", "link.jpg", "small.jpg"][..]),
        (&["*.jpg", "-i"], &["folder.jpg", "link.jpg", "small.jpg", "LARGE.JPG"]),
        (&["*.jpg", "-i", "--type", "f"], &["small.jpg", "LARGE.JPG"]),
        (&["*.jpg", "--type", "d"], &["folder.jpg"]),
        (&["*.jpg", "--type", "l"], &["link.jpg"]),
        (&["*", "--larger", "1000"], &["LARGE.JPG"]),
        (&["*", "--smaller", "20K"], &["small.jpg"]),
        (&["*", "--type", "f", "--older", "2001-09-09T01:46:41Z"], &["small.jpg"]),
        (&["*", "--type", "f", "--newer", "1d"], &["LARGE.JPG"]),
        (&["source/*/*.jpg"], &["folder.jpg", "link.jpg", "small.jpg"]),
        (&["b/*"], &["LARGE.JPG"]),
        (&["/**/[a-c]/[!x]*.JPG"], &["LARGE.JPG"]),
        (&[&whole], &["small.jpg"]),
    ] {
        assert_eq!(names(&client.run([&["find"], words].concat()).expect(0)), found, "{words:?}");
    }
    client.run(["find", "/a/*"]).expect(1);
    let run = client.run(["find", "-0", "link.*"]).expect(0);
    assert!(run.stdout.ends_with(b"/a/link.jpg\0") && !run.stdout.contains(&b'\n'), "{}", run.out());
}

#[test]
fn what_makes_no_sense_says_why() {
    let workplace = Workplace::new();
    let client = TestClient::new(&workplace, "127.0.0.1:1", "ada");
    for (words, problem) in [
        (&["find"][..], "what to find is not said: give a pattern, quoted"),
        (&["find", "[a"], "a [ has no ]: write \\[ for the character itself"),
        (&["find", ""], "the pattern is empty"),
        (&["find", "x", "--type", "socket"], "--type \"socket\": the types are f, d and l"),
        (&["find", "x", "--newer", "yesterday"], "or how long ago, as in 36h or 3d"),
        (&["find", "x", "--larger", "much"], "a size is a whole number and a unit"),
    ] {
        let run = client.run(words).expect(2);
        assert!(run.err().contains(problem), "{words:?}: {}", run.err());
    }
}

#[test]
fn a_damaged_list_is_named_and_the_others_are_looked_through() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("one/file", "1");
    workplace.write("two/file", "2");
    let damaged = client.backup(&workplace.join("one"));
    let ranges = tree::files_below(&server.data.join("ranges"));
    let whole = client.backup(&workplace.join("two"));
    for range in ranges {
        let mut bytes = fs::read(&range).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&range, bytes).unwrap();
    }
    let run = client.run([OsStr::new("find"), "file".as_ref()]).expect(6);
    assert_eq!(rows(&run), [(whole.clone(), 1, "file".to_string())]);
    assert!(run.err().contains("damaged"), "{}", run.err());
    let run = client.run(["diff", &damaged, &whole]).expect(6);
    assert!(run.err().contains("damaged") && run.out().contains("\n+ "), "{}{}", run.out(), run.err());
}
