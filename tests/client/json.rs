//! `--json`: every command, one object a line and nothing else on standard output.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Event, Run, TestClient, TestServer, Workplace, closed_address, tree};

/// A server that holds one backup of a folder with two files, a link and a name that is no UTF-8.
struct Stored {
    workplace: Workplace,
    server: TestServer,
    source: PathBuf,
    snapshot: String,
}

impl Stored {
    fn new() -> Stored {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let source = workplace.join("source");
        workplace.write(source.join("file"), "content");
        let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd \xff");
        workplace.write(source.join::<&OsStr>(odd), "12345");
        std::os::unix::fs::symlink("file", source.join("link")).unwrap();
        let snapshot = TestClient::new(&workplace, &server.address, "ada").backup(&source);
        Stored { workplace, server, source, snapshot }
    }

    fn client(&self) -> TestClient<'_> {
        TestClient::new(&self.workplace, &self.server.address, "ada")
    }

    fn run<'a>(&self, words: impl IntoIterator<Item = &'a OsStr>) -> Run {
        self.client().run(words.into_iter().chain([OsStr::new("--json")]))
    }
}

/// Fails unless `data` has exactly these fields, each of its kind: `s`tring, `n`umber, `b`oolean, `l`ist.
#[track_caller]
fn assert_fields(data: &Value, wanted: &[(&str, char)]) {
    let kind = |value: &Value| match value {
        Value::String(_) => 's',
        Value::Number(_) => 'n',
        Value::Bool(_) => 'b',
        Value::Array(_) => 'l',
        Value::Object(_) => 'o',
        Value::Null => '0',
    };
    let object = data.as_object().unwrap_or_else(|| panic!("no object: {data}"));
    let mut found: Vec<(&str, char)> = object.iter().map(|(name, value)| (name.as_str(), kind(value))).collect();
    let mut wanted = wanted.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{data}");
}

const SNAPSHOT: &[(&str, char)] = &[
    ("snapshot", 's'),
    ("sequence", 'n'),
    ("started", 's'),
    ("committed", 's'),
    ("entries", 'n'),
    ("files", 'n'),
    ("bytes", 'n'),
    ("new_bytes", 'n'),
    ("unreadable", 'n'),
    ("host", 's'),
    ("label", 's'),
    ("tags", 'l'),
    ("roots", 'l'),
    ("own", 'b'),
    // Of a plain snapshot.
    ("vault", '0'),
];
const BACKUP_SUMMARY: &[(&str, char)] = &[
    ("snapshot", 's'),
    ("sequence", 'n'),
    ("roots", 'l'),
    ("files", 'n'),
    ("folders", 'n'),
    ("links", 'n'),
    ("bytes", 'n'),
    ("files_same", 'n'),
    ("files_sent", 'n'),
    ("bytes_sent", 'n'),
    ("wire_bytes", 'n'),
    ("unreadable", 'n'),
    ("skipped", 'n'),
    ("seconds", 'n'),
    ("bytes_per_second", 'n'),
    ("dry_run", 'b'),
    ("exit_code", 'n'),
];
const RESTORE_SUMMARY: &[(&str, char)] = &[
    ("snapshot", 's'),
    ("files", 'n'),
    ("folders", 'n'),
    ("links", 'n'),
    ("bytes", 'n'),
    ("files_kept", 'n'),
    ("bytes_kept", 'n'),
    ("errors", 'n'),
    ("damaged", 'n'),
    ("seconds", 'n'),
    ("exit_code", 'n'),
];

#[test]
fn a_backup_ends_with_its_summary() {
    let stored = Stored::new();
    let run = stored.run(["backup".as_ref(), "--tag".as_ref(), "t".as_ref(), stored.source.as_os_str()]).expect(0);
    assert!(run.err().is_empty(), "{}", run.err());
    let last = run.events().pop().unwrap();
    assert_eq!(last.name, "summary");
    assert_fields(&last.data, BACKUP_SUMMARY);
    let numbers =
        ["files", "folders", "links", "bytes", "sequence", "exit_code"].map(|name| last.data[name].as_u64());
    assert_eq!(numbers, [Some(2), Some(1), Some(1), Some(12), Some(2), Some(0)]);
}

#[test]
fn snapshots_give_a_row_each() {
    let stored = Stored::new();
    let run = stored.run(["snapshots".as_ref()]).expect(0);
    let events = run.events();
    assert!(events.iter().all(|event| event.name == "snapshot") && events.len() == 1, "{}", run.out());
    assert_fields(&events[0].data, SNAPSHOT);
    assert_eq!(events[0].data["snapshot"], stored.snapshot.as_str());
    let root = stored.source.canonicalize().unwrap();
    assert_eq!(events[0].data["roots"][0]["path"], root.strip_prefix("/").unwrap().to_str().unwrap());
}

#[test]
fn ls_gives_a_row_for_each_entry() {
    let stored = Stored::new();
    let run = stored.run(["ls".as_ref()]).expect(0);
    let events = run.events();
    assert!(events.iter().all(|event| event.name == "entry"), "{}", run.out());
    let rows: Vec<&Value> = events.iter().map(|event| &event.data).collect();
    let kinds: Vec<&str> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["folder", "file", "link", "file"]);
    let facts = [
        ("path", 's'),
        ("kind", 's'),
        ("size", 'n'),
        ("mode", 's'),
        ("mtime", 's'),
        ("mtime_seconds", 'n'),
        ("mtime_nanoseconds", 'n'),
        ("owner", 'n'),
        ("group", 'n'),
    ];
    let sums = [("unreadable", 'b'), ("crc32", 's'), ("blake3", 's'), ("changed_while_read", 'b')];
    assert_fields(rows[0], &facts);
    assert_fields(rows[1], &[&facts[..], &sums].concat());
    assert_fields(rows[2], &[&facts[..], &[("link_target", 's')]].concat());
    assert_fields(rows[3], &[&facts[..], &sums, &[("path_base64", 's')]].concat());
    assert_eq!(rows[1]["crc32"], format!("{:08x}", crc32fast::hash(b"content")));
    assert_eq!(rows[1]["blake3"], blake3::hash(b"content").to_hex().as_str());
    assert_eq!((&rows[1]["size"], &rows[1]["mode"]), (&7.into(), &"0644".into()));
    let path = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        rows[3]["path_base64"].as_str().unwrap(),
    );
    assert!(path.unwrap().ends_with(b"/odd \xff"));
}

#[test]
fn cat_gives_the_bytes_with_their_place() {
    let stored = Stored::new();
    let file = stored.source.join("file");
    let words = ["cat".as_ref(), "--offset".as_ref(), "3".as_ref(), file.as_os_str()];
    let events = stored.run(words).expect(0).events();
    assert_eq!((events.len(), events[0].name.as_str()), (1, "content"));
    assert_fields(&events[0].data, &[("offset", 'n'), ("base64", 's')]);
    assert_eq!((&events[0].data["offset"], &events[0].data["base64"]), (&3.into(), &"dGVudA==".into()));
}

#[test]
fn a_restore_tells_each_file_and_ends_with_its_summary() {
    let stored = Stored::new();
    let to = stored.workplace.join("to");
    let run = stored.run(["restore".as_ref(), "--to".as_ref(), to.as_os_str()]).expect(0);
    let events = run.events();
    let receipts: Vec<&Event> = events.iter().filter(|event| event.name == "file_receipt").collect();
    assert_eq!(receipts.len(), 2, "{}", run.out());
    assert_fields(&receipts[0].data, &[("path", 's'), ("bytes", 'n'), ("crc32", 's'), ("blake3", 's')]);
    assert_eq!(receipts[0].data["blake3"], blake3::hash(b"content").to_hex().as_str());
    let last = events.last().unwrap();
    assert_eq!(last.name, "summary");
    assert_fields(&last.data, RESTORE_SUMMARY);
    let numbers = ["files", "folders", "links", "bytes", "errors"].map(|name| last.data[name].as_u64());
    assert_eq!(numbers, [Some(2), Some(1), Some(1), Some(12), Some(0)]);
    assert_eq!(last.data["snapshot"], stored.snapshot.as_str());
}

#[test]
fn verify_and_stats_give_their_figures() {
    let stored = Stored::new();
    let verified = stored.run(["verify".as_ref()]).expect(0).event("summary");
    // Only of a vault is anything opened.
    let opened =
        [("opened_files", '0'), ("opened_bytes", '0'), ("snapshots_dropped", '0'), ("not_looked_into", '0')];
    let fields = [
        ("files", 'n'),
        ("bytes", 'n'),
        ("sealed_snapshots", 'n'),
        ("sealed_objects", 'n'),
        ("damaged", 'n'),
        ("exit_code", 'n'),
    ];
    assert_fields(&verified, &[&fields[..], &opened].concat());
    assert_eq!((&verified["files"], &verified["bytes"], &verified["damaged"]), (&2.into(), &12.into(), &0.into()));
    let run = stored.run(["stats".as_ref()]).expect(0);
    assert_eq!(run.events().len(), 1, "{}", run.out());
    let stats = run.event("stats");
    for name in ["active_connections", "max_connections", "available_slots", "uptime_seconds", "bytes_received"] {
        assert!(stats[name].is_u64(), "{name} is missing: {stats}");
    }
    let figures = ["active_connections", "max_connections", "available_slots", "snapshots", "files_received"];
    assert_eq!(figures.map(|name| stats[name].as_u64().unwrap()), [1, 50, 49, 1, 2]);
}

#[test]
fn the_operators_commands_give_rows_beside_a_running_server_and_without_one() {
    let stored = Stored::new();
    let data = stored.server.data.clone();
    let operate = |words: &[&str]| {
        let words = words.iter().map(OsStr::new).chain(["--json".as_ref(), "--data".as_ref(), data.as_os_str()]);
        stored.workplace.run(words).expect(0)
    };
    let check = || {
        let rows = operate(&["clients"]).events();
        assert_eq!((rows.len(), rows[0].name.as_str()), (1, "client"));
        assert_eq!((&rows[0].data["name"], &rows[0].data["snapshots"]), (&"ada".into(), &1.into()));
        assert!(rows[0].data["last_success"].is_string() && rows[0].data["stored_bytes"].is_u64());
        let rows = operate(&["enroll", "bob", "--count", "3"]).events();
        let names: Vec<&str> = rows.iter().map(|row| row.data["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["bob-1", "bob-2", "bob-3"]);
        assert!(rows.iter().all(|row| row.name == "token" && row.data["token"].as_str().unwrap().len() > 40));
    };
    check();
    let Stored { server, .. } = &stored;
    crate::support::kill(server.id(), "TERM");
    server.wait_for_log("stopped");
    // The lock goes with the process, a moment after its last line.
    let key = data.join("keys");
    assert!(key.exists());
    check();
}

#[test]
fn quiet_json_prints_the_result_alone() {
    let stored = Stored::new();
    let (source, to) = (stored.source.clone(), stored.workplace.join("quiet"));
    let file = source.join("file");
    let runs: [(&str, &[&OsStr]); 7] = [
        ("summary", &["backup".as_ref(), source.as_os_str()]),
        ("summary", &["restore".as_ref(), "--to".as_ref(), to.as_os_str()]),
        ("snapshot", &["snapshots".as_ref(), "--snapshot".as_ref()][..1]),
        ("entry", &["ls".as_ref(), file.as_os_str()]),
        ("content", &["cat".as_ref(), file.as_os_str()]),
        ("summary", &["verify".as_ref()]),
        ("stats", &["stats".as_ref()]),
    ];
    for (event, words) in runs {
        let run = stored.run(words.iter().copied().chain([OsStr::new("--quiet")])).expect(0);
        let names: Vec<String> = run.events().into_iter().map(|event| event.name).collect();
        let rows = if event == "snapshot" { 2 } else { 1 };
        assert_eq!(names, vec![event; rows], "{words:?}");
        assert_eq!(run.err(), "", "{words:?}");
    }
}

#[test]
fn a_failure_is_an_event_with_its_exit_code() {
    let workplace = Workplace::new();
    let address = closed_address();
    let client = TestClient::new(&workplace, &address, "ada");
    for flags in [&["--json"][..], &["--json", "--quiet"]] {
        let run = client.run([&["backup", "--retries", "0", "/etc/hostname"], flags].concat()).expect(4);
        assert_eq!(run.err(), "");
        let error = run.event("error");
        assert_fields(&error, &[("message", 's'), ("exit_code", 'n')]);
        assert_eq!(error["exit_code"], 4);
        assert!(error["message"].as_str().unwrap().contains(&format!("no server answers at {address}")));
    }
}

#[test]
fn a_file_that_is_left_out_is_an_event_even_when_quiet() {
    let stored = Stored::new();
    let path = Path::new("gone");
    let words = ["backup".as_ref(), "-q".as_ref(), path.as_os_str(), stored.source.as_os_str()];
    let run = stored.run(words).expect(3);
    let names: Vec<String> = run.events().into_iter().map(|event| event.name).collect();
    assert_eq!(names, ["file_error", "summary"]);
    let error = run.event("file_error");
    assert_fields(&error, &[("path", 's'), ("reason", 's')]);
    assert_eq!((&error["path"], &error["reason"]), (&"gone".into(), &"does not exist".into()));
    assert_eq!(run.event("summary")["exit_code"], 3);
}

#[test]
fn damage_is_named_and_ends_with_its_own_exit_code() {
    let stored = Stored::new();
    let mut contents: Vec<PathBuf> = tree::files_below(&stored.server.data.join("received_files"));
    contents.retain(|file| file.ends_with("source/file"));
    let [content] = &contents[..] else { panic!("one file of the store holds the content: {contents:?}") };
    let mut bytes = std::fs::read(content).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(content, bytes).unwrap();
    let run = stored.run(["verify".as_ref()]).expect(6);
    assert!(run.event("file_error")["path"].as_str().unwrap().ends_with("/source/file"), "{}", run.out());
    assert_eq!((&run.event("summary")["damaged"], &run.event("summary")["exit_code"]), (&1.into(), &6.into()));
    let to = stored.workplace.join("to");
    let run = stored.run(["restore".as_ref(), "--to".as_ref(), to.as_os_str()]).expect(6);
    assert_eq!(run.event("summary")["damaged"], 1);
    let restored = to.join(stored.source.strip_prefix("/").unwrap());
    assert!(!restored.join("file").exists() && restored.join("link").is_symlink());
    let file = stored.source.join("file");
    stored.run(["cat".as_ref(), file.as_os_str()]).expect(6);
    // Another backup stores it again.
    let words = ["backup".as_ref(), "--full".as_ref(), stored.source.as_os_str()];
    stored.run(words).expect(0);
    tree::assert_same(&stored.source, &stored.client().restore(&stored.source, "healed"));
}
