//! A server's dashboard: the real server with clients of its own, looked at over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cyberbackup::base::durable::Disk;
use cyberbackup::base::ids::{UploadId, UserName};
use cyberbackup::base::path::EntryPath;
use cyberbackup::base::time::Timestamp;
use cyberbackup::crypto::PrivateKey;
use cyberbackup::storage::{Begun, ChangeRule, CommitCounts, Store, UploadRequest};
use serde_json::Value;

use super::answers::misfits;
use super::{Response, connect, send};
use crate::server::operator::operator;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{LARGE_BYTES, TestClient, TestServer, Workplace, kill, large_file, tree, wait_until};

const FLAGS: [&str; 4] = ["--rsa-bits", "2048", "--dashboard", "127.0.0.1:0"];

fn start(workplace: &Workplace) -> TestServer {
    TestServer::start_with(workplace, "data", &FLAGS)
}

pub fn address(server: &TestServer) -> SocketAddr {
    let url = server.dashboard.strip_prefix("http://").expect("an address of the web");
    url.split('/').next().unwrap().parse().unwrap_or_else(|error| panic!("{error}: {url}"))
}

fn get(server: &TestServer, target: &str) -> Response {
    send(address(server), "GET", target, "", b"")
}

#[track_caller]
fn overview(server: &TestServer) -> Value {
    get(server, "/api/overview").expect(200)
}

/// Waits until the overview is as wanted, and gives it.
#[track_caller]
fn overview_when(server: &TestServer, wanted: impl Fn(&Value) -> bool, what: &str) -> Value {
    let mut last = Value::Null;
    let mut is_wanted = || {
        last = overview(server);
        wanted(&last)
    };
    wait_until(&mut is_wanted, what);
    last
}

#[test]
fn a_backup_that_runs_is_seen_with_its_phase_and_rate_and_a_lost_one_among_the_failures() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let line = SlowLine::start(&server.address, Nature { delay: Duration::from_millis(100), cut_after: None });
    let client = TestClient::new(&workplace, &line.address, "<b>ada");
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    large_file(&source.join("large"), LARGE_BYTES);
    let backup = client.start(["backup", source.to_str().unwrap()]);
    let is_receiving = |data: &Value| {
        let session = &data["sessions"][0];
        session["phase"] == "receiving" && session["receive_rate"].as_u64() > Some(100_000)
    };
    let seen = overview_when(&server, is_receiving, "a session that receives");
    let session = &seen["sessions"][0];
    assert_eq!((&session["client"], &session["legacy"]), (&Value::from("<b>ada"), &Value::from(false)));
    assert!(session["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{session}");
    assert!(session["bytes_received"].as_u64() > Some(100_000), "{session}");
    assert_eq!((&seen["stats"]["active_connections"], &seen["stats"]["available_slots"]), (&1.into(), &49.into()));
    kill(backup.id(), "KILL");
    let has_failed = |data: &Value| data["sessions"] == Value::Array(Vec::new()) && !data["failures"][0].is_null();
    let gone = overview_when(&server, has_failed, "the end of the session");
    let failure = &gone["failures"][0];
    assert_eq!(failure["client"], "<b>ada");
    assert!(!failure["text"].as_str().unwrap().is_empty(), "{failure}");
    assert_eq!(gone["stats"]["failures"], 1);
}

#[test]
fn what_a_user_asked_for_in_vain_is_no_failure_of_the_server() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let ada = TestClient::new(&workplace, &server.address, "ada");
    let vain = ada.run(["ls", "latest"]);
    assert!(vain.err().contains("has no snapshot yet"), "{}", vain.err());
    let source = workplace.join("source");
    tree::many_files(&source, 1);
    ada.backup(&source);
    assert!(!ada.run(["ls", "19990101T000000Z-00000000"]).err().is_empty());
    assert!(!ada.run(["cat", "latest", "no/such/path"]).err().is_empty());
    let seen = overview_when(&server, |data| data["stats"]["active_connections"] == 0, "the end of every session");
    assert_eq!((&seen["failures"], &seen["stats"]["failures"]), (&Value::Array(Vec::new()), &0.into()));
}

#[test]
fn its_numbers_are_those_of_stats_and_clients() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 5);
    let ada = TestClient::new(&workplace, &server.address, "ada");
    ada.backup(&source);
    ada.backup(&source);
    let stats = ada.run(["stats", "--json"]).expect(0).event("stats");
    let seen = overview_when(&server, |data| data["stats"]["active_connections"] == 0, "the end of every session");
    let settled = ["snapshots", "files_received", "failures", "sessions", "connections", "max_connections"];
    for field in settled {
        assert_eq!(seen["stats"][field], stats[field], "{field}");
    }
    assert_eq!((&seen["stats"]["snapshots"], &seen["stats"]["files_received"]), (&2.into(), &10.into()));
    let mut shown = seen["clients"].as_array().unwrap().clone();
    for row in &mut shown {
        let seconds = row.as_object_mut().unwrap().remove("last_success_seconds").unwrap();
        assert!(seconds.as_i64() > Some(1_700_000_000), "{seconds}");
    }
    let listed = operator(&workplace, &["clients", "--json"], &server.data).expect(0).events();
    assert_eq!(shown, listed.into_iter().map(|event| event.data).collect::<Vec<_>>());
    assert_eq!(
        (&seen["address"], &seen["fingerprint"]),
        (&(*server.address).into(), &(*server.fingerprint).into())
    );
    assert!(seen["disk"]["available_bytes"].as_u64() <= seen["disk"]["total_bytes"].as_u64());
}

#[test]
fn its_answers_are_as_its_openapi_document_says() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let document = get(&server, "/api/openapi.json").expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    let ada = TestClient::new(&workplace, &server.address, "ada");
    ada.backup(&source);
    // A peer that stops in its first message is among the failures.
    connect(address_of(&server.address)).write_all(b"\x00").unwrap();
    overview_when(&server, |data| !data["failures"][0].is_null(), "a failure");
    let line = SlowLine::start(&server.address, Nature { delay: Duration::from_millis(100), cut_after: None });
    let grace = TestClient::new(&workplace, &line.address, "grace");
    large_file(&source.join("large"), LARGE_BYTES);
    let backup = grace.start(["backup", source.to_str().unwrap()]);
    let both = |data: &Value| data["sessions"][0]["phase"] == "receiving" && !data["clients"][0]["id"].is_null();
    overview_when(&server, both, "a session and a client");
    for path in ["/health", "/api/health", "/api/overview", "/nothing"] {
        let answer = get(&server, path);
        let responses = &document["paths"][path]["get"]["responses"];
        let described = if answer.status == 200 {
            &responses["200"]
        } else {
            &document["paths"]["/"]["get"]["responses"]["default"]
        };
        let wrong = misfits(&document, &described["content"]["application/json"]["schema"], &answer.json(), "");
        assert!(wrong.is_empty(), "{path}: {wrong:#?} in {}", answer.json());
    }
    kill(backup.id(), "KILL");
}

fn address_of(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn foreign_hosts_are_refused_and_nothing_can_be_changed() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let raw = |target: &str, host: &str| {
        let mut stream = connect(address(&server));
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        super::read_response(stream).status
    };
    let port = address(&server).port();
    for target in ["/", "/api/overview", "/metrics", "/health"] {
        assert_eq!(raw(target, &format!("evil.example:{port}")), 403, "{target}");
        assert_eq!(raw(target, &format!("localhost:{port}")), 200, "{target}");
    }
    let page = get(&server, "/");
    assert!(page.head.contains("Content-Security-Policy: default-src 'none'"), "{}", page.head);
    let text = String::from_utf8(page.body).unwrap();
    for name in ["dashboard.js", "dashboard.css"] {
        assert!(text.contains(&format!("/static/{name}")));
        assert_eq!(get(&server, &format!("/static/{name}")).status, 200);
    }
    for (method, target, status) in [
        ("POST", "/api/overview", 405),
        ("PUT", "/", 405),
        ("GET", "/api/status", 404),
        ("GET", "/ws", 404),
        ("GET", "/static/..%2fCargo.toml", 404),
    ] {
        assert_eq!(send(address(&server), method, target, "", b"").status, status, "{method} {target}");
    }
    let origin = "Origin: http://evil.example\r\n";
    assert_eq!(send(address(&server), "POST", "/api/overview", origin, b"").status, 403);
}

/// The part about another user runs as root only: nobody else can become one.
#[test]
fn off_loopback_and_for_other_users_there_is_a_token() {
    use std::os::unix::process::CommandExt;
    let workplace = Workplace::new();
    let open = TestServer::start_with(&workplace, "open", &["--rsa-bits", "2048", "--dashboard", "0.0.0.0:0"]);
    assert!(open.dashboard.contains("/?token="), "{}", open.dashboard);
    let flags = ["--dashboard-token", "let-me-in"];
    let server = TestServer::start_with(&workplace, "data", &[&FLAGS[..], &flags].concat());
    assert!(server.dashboard.ends_with("/?token=let-me-in"), "{}", server.dashboard);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = address(&server);
    let as_other = |target: &str, header: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET {target} HTTP/1.1\\r\\nHost: {host}\\r\\n{header}\\r\\n' >&3; \
             cat <&3",
            host.port()
        );
        let mut command = std::process::Command::new("bash");
        let output = command.args(["-c", &script]).uid(65_534).gid(65_534).current_dir("/").output().unwrap();
        String::from_utf8_lossy(&output.stdout).split(' ').nth(1).unwrap_or("none").to_string()
    };
    for target in ["/", "/api/overview", "/metrics"] {
        assert_eq!(as_other(target, ""), "401", "{target}");
        assert_eq!(as_other(target, "Authorization: Bearer let-me-in\\r\\n"), "200", "{target}");
    }
    assert_eq!(as_other("/health", ""), "200");
}

/// What the text format 0.0.4 of Prometheus allows, and nothing else; gives the samples by name and labels.
///
/// Every family has its HELP and TYPE directly before its samples, once; lines end with a newline, the last one too.
fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut heads, mut current) = (BTreeMap::new(), BTreeSet::new(), (String::new(), ""));
    assert!(text.ends_with('\n') && !text.contains('\r'), "{text:?}");
    let mut lines = text.strip_suffix('\n').unwrap().split('\n');
    while let Some(line) = lines.next() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(is_name(name) && !help.is_empty() && unescaped(help, false).is_some(), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect(line);
            assert!(["gauge", "counter"].contains(&kind), "{line}: {kind}");
            assert!((kind == "counter") == name.ends_with("_total"), "{line}: {kind}");
            assert!(heads.insert(name.to_string()), "{name} comes twice");
            current = (name.to_string(), kind);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
        assert_eq!(name, current.0, "{line}");
        if !labels.is_empty() {
            let labels = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix("\"}")).expect(line);
            let (label, value) = labels.split_once("=\"").expect(line);
            assert!(["client", "version"].contains(&label) && unescaped(value, true).is_some(), "{line}");
        }
        let number: f64 = value.parse().expect(line);
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        assert!(is_plain && number.is_finite() && (current.1 == "gauge" || number >= 0.0), "{line}");
        assert!(samples.insert(series.to_string(), number).is_none(), "{line} comes twice");
    }
    samples
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    let is_part = |byte: u8| is_letter(byte) || byte.is_ascii_digit();
    name.bytes().next().is_some_and(is_letter) && name.bytes().all(is_part)
}

/// A text without its escapes; none where one is wrong, or where a quote stands bare in a label's value.
fn unescaped(text: &str, is_label: bool) -> Option<String> {
    let (mut plain, mut letters) = (String::new(), text.chars());
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if is_label => '"',
                _ => return None,
            },
            '"' if is_label => return None,
            other => other,
        });
    }
    Some(plain)
}

#[test]
fn the_metrics_are_what_prometheus_reads() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 4);
    let ada = TestClient::new(&workplace, &server.address, "a\"d\\a} 1");
    ada.backup(&source);
    let answer = get(&server, "/metrics");
    assert!(answer.head.contains("Content-Type: text/plain; version=0.0.4"), "{}", answer.head);
    let samples = parse_metrics(&String::from_utf8(answer.body).unwrap());
    let of_client = |name: &str| samples[&format!("cyberbackup_client_{name}{{client=\"a\\\"d\\\\a}} 1\"}}")];
    assert_eq!((of_client("snapshots"), of_client("latest_files")), (1.0, 4.0));
    assert!(of_client("last_success_timestamp_seconds") > 1.7e9);
    assert_eq!((samples["cyberbackup_clients"], samples["cyberbackup_snapshots_total"]), (1.0, 1.0));
    assert_eq!(samples["cyberbackup_clients_without_metrics"], 0.0);
    assert!(samples["cyberbackup_disk_available_bytes"] <= samples["cyberbackup_disk_size_bytes"]);
    let health = get(&server, "/health").expect(200);
    assert_eq!((&health["status"], &health["dashboard"]), (&"healthy".into(), &"running".into()));
}

#[test]
fn what_a_sealed_snapshot_holds_is_unknown_and_not_nothing() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let source = workplace.write("source/file", "content");
    let ada = TestClient::new(&workplace, &server.address, "ada");
    ada.backup(&source);
    let client = || get(&server, "/api/overview").expect(200)["clients"][0].clone();
    assert_eq!((&client()["latest_files"], &client()["latest_bytes"]), (&1.into(), &7.into()));
    crate::vault::create_vault(&ada);
    crate::vault::back_up(&ada, &source);
    // The overview is made once a second at most.
    wait_until(|| client()["snapshots"] == 2, "the second snapshot");
    assert!(client()["latest_files"].is_null() && client()["latest_bytes"].is_null(), "{}", client());
    let metrics = String::from_utf8(get(&server, "/metrics").body).unwrap();
    assert!(metrics.contains("client_snapshots{client=\"ada\"} 2") && !metrics.contains("client_latest_files{"));
    let data = server.data.to_str().unwrap();
    let listed = workplace.run(["clients", "--json", "--data", data]).expect(0).event("client");
    assert!(listed["latest_files"].is_null() && listed["latest_bytes"].is_null(), "{listed}");
    let listed = workplace.run(["clients", "--data", data]).expect(0);
    assert_eq!(listed.out().matches(" sealed").count(), 2, "{}", listed.out());
}

#[test]
fn it_ends_with_the_server_at_once_whoever_is_connected() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let address = address(&server);
    let mut half = connect(address);
    half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    assert_eq!(get(&server, "/health").status, 200);
    let began = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(TcpStream::connect(address).is_err(), "nobody listens there any more");
}

#[test]
fn a_port_that_is_taken_ends_the_command_and_names_the_holder() {
    let workplace = Workplace::new();
    let server = start(&workplace);
    let run = |flags: &[&str]| {
        let words = ["server", "--bind", "127.0.0.1", "--port", "0", "--data", "other", "--rsa-bits", "2048"];
        workplace.run(words.iter().chain(flags))
    };
    let taken = address(&server).to_string();
    let refused = run(&["--dashboard", &taken]).expect(1);
    let text =
        format!("{taken} is in use by another \"cyberbackup server --dashboard\" (process {}, for", server.id());
    assert!(refused.err().contains(&text), "{}", refused.err());
    assert!(refused.err().contains("choose another port with --dashboard"), "{}", refused.err());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = run(&["--dashboard", &other.local_addr().unwrap().to_string()]).expect(1);
    assert!(refused.err().contains("is in use by another program"), "{}", refused.err());
    assert!(!workplace.join("other").exists(), "the server was not begun");
    let refused = run(&["--dashboard", "nonsense"]).expect(2);
    assert!(refused.err().contains("an address with a port is wanted: 127.0.0.1:9091"), "{}", refused.err());
    run(&["--dashboard-token", "x"]).expect(2);
}

/// A store with so many clients that have one snapshot each.
fn store_with_clients(workplace: &Workplace, count: usize) {
    let store = Store::open(&workplace.join("data"), Disk::real()).unwrap();
    let key = PrivateKey::generate(1_024).unwrap();
    for number in 0..count {
        let name: UserName = format!("client-{number:04}").parse().unwrap();
        let id = store.fresh_client_id(&name);
        store.register(id, &name, key.public().spki_der(), false).unwrap();
        let request = UploadRequest {
            upload: UploadId::random(),
            roots: vec![EntryPath::parse(b"home").unwrap()],
            label: String::new(),
            host: "host".into(),
            tags: Vec::new(),
            full: false,
            changes: ChangeRule::default(),
            parent: None,
            started: Timestamp::now(),
            dry_run: false,
        };
        let Begun::Open(upload) = store.begin_upload(id, request, || {}).unwrap() else { panic!("it is new") };
        upload.commit(CommitCounts { ranges: 0, entries: 0, unreadable: 0 }).unwrap();
    }
}

#[test]
#[ignore = "long: a thousand clients"]
fn a_thousand_clients_are_told_within_a_second() {
    let workplace = Workplace::in_memory();
    store_with_clients(&workplace, 1_000);
    let server = start(&workplace);
    for target in ["/api/overview", "/metrics", "/api/overview", "/metrics"] {
        let began = Instant::now();
        let answer = get(&server, target);
        let took = began.elapsed();
        assert_eq!(answer.status, 200);
        println!("{target}: {} bytes in {took:?}", answer.body.len());
        assert!(took < Duration::from_secs(1), "{target}: {took:?}");
    }
    let seen = overview(&server);
    assert_eq!(seen["clients"].as_array().unwrap().len(), 1_000);
    assert!(seen["clients"].as_array().unwrap().iter().all(|row| row["snapshots"] == 1));
    let metrics = parse_metrics(&String::from_utf8(get(&server, "/metrics").body).unwrap());
    assert_eq!(metrics["cyberbackup_clients"], 1_000.0);
}
