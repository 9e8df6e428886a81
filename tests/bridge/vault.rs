//! The vault of the bridge's host: its key is made, opened and locked here, and told to nobody.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::viewers::Watcher;
use super::{Gui, named};
use crate::support::{Run, TestServer, Workplace, closed_address, tree};

pub const PASSPHRASE: &str = "seven green bicycles in the rain";

fn gui(workplace: &Workplace) -> Gui {
    Gui::start_with(workplace, &closed_address(), &["--low-memory"])
}

fn state(gui: &Gui) -> Value {
    gui.get("/api/vault").expect(200)["vault"]["state"].clone()
}

#[test]
fn a_vault_is_made_locked_and_opened_without_a_server() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let none = gui.get("/api/vault").expect(200)["vault"].clone();
    assert_eq!((&none["state"], &none["id"]), (&json!("none"), &Value::Null));
    let refused = gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).expect(409)["error"].to_string();
    assert!(refused.contains("there is no vault on this host: make one first"), "{refused}");
    assert_eq!(gui.get("/api/vault/key").status, 404);
    let made = gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200)["vault"].clone();
    assert_eq!((&made["state"], &made["idle_seconds"]), (&json!("open"), &json!(900)));
    for name in ["vault.key", "vault-put.key"] {
        let mode = workplace.join("state").join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(gui.post("/api/vault/create", json!({ "passphrase": "another" })).status, 409);
    assert_eq!(gui.post("/api/vault/lock", json!({})).expect(200)["vault"]["state"], "locked");
    assert_eq!(gui.post("/api/vault/lock", json!({})).expect(200)["vault"]["state"], "locked");
    let wrong = gui.post("/api/vault/open", json!({ "passphrase": "seven red bicycles" })).expect(403);
    assert!(wrong["error"].as_str().unwrap().contains("the passphrase is wrong"), "{wrong}");
    assert_eq!(state(&gui), "locked");
    let opened = gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).expect(200)["vault"].clone();
    assert_eq!(opened, made);
}

#[test]
fn the_passphrase_is_changed_by_who_knows_it_and_the_key_file_is_given_for_a_copy() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    let copy = || {
        let answer = gui.get("/api/vault/key");
        assert!(answer.head.contains("attachment; filename=\"vault.key\""), "{}", answer.head);
        assert!(answer.head.contains("Cache-Control: no-store"), "{}", answer.head);
        assert_eq!(answer.body, std::fs::read(workplace.join("state/vault.key")).unwrap());
        answer.body
    };
    let before = copy();
    let change =
        |old: &str, new: &str| gui.post("/api/vault/passphrase", json!({ "passphrase": old, "new": new })).status;
    assert_eq!(change("not it", "whatever"), 403, "though the vault is open");
    assert_eq!(copy(), before);
    assert_eq!(change(PASSPHRASE, "new words"), 200);
    assert_ne!(copy(), before);
    gui.post("/api/vault/lock", json!({})).expect(200);
    assert_eq!(gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).status, 403);
    gui.post("/api/vault/open", json!({ "passphrase": "new words" })).expect(200);
}

#[test]
fn what_is_no_passphrase_is_refused_and_not_repeated() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let long = "x".repeat(4_097);
    for wrong in [json!({}), json!({ "passphrase": "" }), json!({ "passphrase": 5 }), json!({ "passphrase": long })]
    {
        assert_eq!(gui.post("/api/vault/create", wrong.clone()).status, 400, "{wrong}");
    }
    assert_eq!(state(&gui), "none");
    assert_eq!(gui.post("/api/vault/create", json!({ "passphrase": "x".repeat(70_000) })).status, 413);
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    for new in [json!(null), json!(""), json!([PASSPHRASE]), json!(long)] {
        let answer = gui.post("/api/vault/passphrase", json!({ "passphrase": PASSPHRASE, "new": new }));
        assert_eq!(answer.status, 400, "{new}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(PASSPHRASE));
    }
    // Of other pages nothing is taken, as everywhere.
    let body = json!({ "passphrase": PASSPHRASE }).to_string();
    let answer = gui.send("POST", "/api/vault/open", "Origin: http://evil.example\r\n", body.as_bytes());
    assert_eq!(answer.status, 403);
}

#[test]
fn viewers_are_told_and_a_passphrase_is_written_nowhere() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let mut watcher = Watcher::open(&gui);
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    let is_state = |state: &'static str| {
        move |message: &Value| message["event"] == "vault" && message["data"]["state"] == state
    };
    let mut told = watcher.take_until(is_state("open"));
    gui.post("/api/vault/lock", json!({})).expect(200);
    told.extend(watcher.take_until(is_state("locked")));
    gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).expect(200);
    told.extend(watcher.take_until(is_state("open")));
    assert!(told.iter().all(|message| !message.to_string().contains(PASSPHRASE)), "{told:?}");
    let (code, _) = gui.stop("TERM");
    assert_eq!(code, Some(0));
    for file in std::fs::read_dir(workplace.join("state")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        let found = bytes.windows(PASSPHRASE.len()).any(|window| window == PASSPHRASE.as_bytes());
        assert!(!found, "the passphrase lies in the state folder");
    }
}

#[test]
fn one_passphrase_is_tried_at_a_time() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    let tries = std::thread::scope(|scope| {
        let one = || gui.post("/api/vault/open", json!({ "passphrase": "wrong" })).status;
        let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<u16>>()
    });
    assert!(tries.contains(&403) && tries.contains(&429), "{tries:?}");
    assert!(tries.iter().all(|status| [403, 429].contains(status)), "{tries:?}");
    assert_eq!(state(&gui), "open", "a wrong one takes nothing away");
}

/// A bridge that has met its server, and an open vault.
fn with_a_vault(workplace: &Workplace, server: &TestServer) -> Gui {
    let gui = Gui::start(workplace, server);
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    gui
}

/// Whether any file below a folder holds these bytes.
fn holds(folder: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds(&path, bytes),
            // A socket is read by nobody.
            false => std::fs::read(path).is_ok_and(|all| all.windows(bytes.len()).any(|window| window == bytes)),
        }
    })
}

#[test]
fn backups_and_uploads_go_into_the_vault_without_a_passphrase() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = with_a_vault(&workplace, &server);
    let id = gui.post("/api/vault/lock", json!({})).expect(200)["vault"]["id"].clone();
    let words = "a line that nobody but its owner reads\n".repeat(500);
    let folder = workplace.write("source/a_telling_name.txt", &words).parent().unwrap().to_path_buf();
    let job = gui.job(json!({ "paths": [folder], "label": "a telling label", "vault": true }));
    assert_eq!(gui.wait_for(&job, "completed")["vault"], true);
    let mut list = named(&[("b_telling_name.txt", words.len())]);
    list["vault"] = json!(true);
    let upload = gui.job(list);
    let sent = gui.send("PUT", &format!("/api/jobs/{upload}/files/0"), "", words.as_bytes());
    sent.expect(200);
    gui.wait_for(&upload, "completed");
    let plain = gui.job(json!({ "paths": [folder], "label": "in the open" }));
    assert_eq!(gui.wait_for(&plain, "completed")["vault"], false);
    let listed = gui.get("/api/snapshots").expect(200);
    let vaults: Vec<&Value> = listed["snapshots"].as_array().unwrap().iter().map(|row| &row["vault"]).collect();
    assert_eq!(vaults, [&Value::Null, &id, &id]);
    assert!(holds(&server.data, b"in the open"));
    for telling in ["b_telling_name", "a telling label"] {
        assert!(!holds(&server.data, telling.as_bytes()), "{telling} lies at the server");
    }
}

#[test]
fn what_transfer_info_says_of_the_vault_counts_for_every_job_that_says_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let info = workplace.write("transfer.info", format!("--vault\n{}\nada\nsource\n", server.address));
    let gui = Gui::start(&workplace, &server);
    let shown = gui.get("/api/transfer_info").expect(200);
    assert_eq!((&shown["vault"], &shown["paths"]), (&json!(true), &json!(["source"])));
    let file = workplace.write("source/file", "content");
    let paths = |vault: Value| json!({ "paths": [file], "vault": vault });
    let parts = |vault: &str| {
        let vault = match vault {
            "" => String::new(),
            vault => format!("--XX\r\nContent-Disposition: form-data; name=\"vault\"\r\n\r\n{vault}\r\n"),
        };
        let head = "Content-Disposition: form-data; name=\"file\"; filename=\"a\"";
        let body = format!("{vault}--XX\r\n{head}\r\n\r\nfirst\r\n--XX--\r\n");
        let header = "Content-Type: multipart/form-data; boundary=XX\r\n";
        gui.send("POST", "/api/start_backup", header, body.as_bytes())
    };
    // Without a key nothing is stored.
    for refused in [gui.post("/api/jobs", paths(Value::Null)), gui.post("/api/jobs", named(&[("a", 1)])), parts("")]
    {
        assert_eq!(refused.status, 409, "{}", String::from_utf8_lossy(&refused.body));
    }
    assert_eq!(gui.get("/api/snapshots").expect(200)["snapshots"], json!([]));
    gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    let is_sealed = || gui.get("/api/snapshots").expect(200)["snapshots"][0]["vault"].is_string();
    for (vault, sealed) in [(Value::Null, true), (json!(false), false), (json!(true), true)] {
        let job = gui.job(paths(vault));
        assert_eq!(gui.wait_for(&job, "completed")["vault"], sealed);
        assert_eq!(is_sealed(), sealed);
    }
    let begun = gui.post("/api/start_backup", json!({ "paths": [file] })).expect(202);
    assert_eq!(gui.wait_for(begun["job_id"].as_str().unwrap(), "completed")["vault"], true);
    let dropped = gui.job(named(&[("dropped", 3)]));
    gui.send("PUT", &format!("/api/jobs/{dropped}/files/0"), "", b"abc").expect(200);
    assert_eq!(gui.wait_for(&dropped, "completed")["vault"], true);
    for (vault, sealed) in [("", true), ("false", false), ("true", true)] {
        parts(vault).expect(200);
        assert_eq!(is_sealed(), sealed, "{vault}");
    }
    let words = ["snapshots", "--json", "--server", &server.address, "--user", "ada", "--state", "state"];
    let mut listed = workplace.command(words);
    let rows = Run::of({
        listed.env("CYBERBACKUP_PASSPHRASE", PASSPHRASE);
        listed
    })
    .expect(0)
    .events();
    let newest = rows.iter().rfind(|event| event.name == "snapshot").unwrap();
    assert_eq!(newest.data["bytes"], 5, "how long a part is is known when it has come: {}", newest.data);
    for wrong in ["maybe", "1"] {
        assert_eq!(parts(wrong).status, 400, "{wrong}");
    }
    // What the file says now counts, and a file that nobody can read does not say that the server may read.
    std::fs::write(&info, format!("{}\nada\nsource\n", server.address)).unwrap();
    assert_eq!(gui.wait_for(&gui.job(paths(Value::Null)), "completed")["vault"], false);
    std::fs::write(&info, "--valt\n").unwrap();
    let refused = gui.post("/api/jobs", paths(Value::Null)).expect(409);
    assert!(refused["error"].as_str().unwrap().contains("transfer.info line 1"), "{refused}");
    assert_eq!(parts("").status, 409);
}

#[test]
fn a_vault_is_read_while_it_is_open_and_restores_the_same() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = with_a_vault(&workplace, &server);
    let source = workplace.join("source");
    workplace.write("source/below/large.raw", tree::bytes(3, 700_000));
    let text = workplace.write("source/text.txt", "some words\n".repeat(3_000));
    let job = gui.job(json!({ "paths": [source], "label": "evening", "vault": true }));
    gui.wait_for(&job, "completed");
    let row = || gui.get("/api/snapshots").expect(200)["snapshots"][0].clone();
    let open = row();
    assert_eq!((&open["label"], &open["files"]), (&json!("evening"), &json!(2)));
    let name = source.to_str().unwrap()[1..].to_string();
    let ask = |what: &str| gui.get(&format!("/api/snapshots/latest/{what}path={name}"));
    let listed = ask("entries?").expect(200);
    let names: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["below", "text.txt"]);
    let downloaded = gui.get(&format!("/api/snapshots/latest/file?path={name}/text.txt"));
    assert!(downloaded.status == 200 && downloaded.body == std::fs::read(&text).unwrap());
    let to = workplace.join("restored");
    let restored =
        gui.post("/api/restore", json!({ "to": to })).expect(202)["job_id"].as_str().unwrap().to_string();
    gui.wait_for(&restored, "completed");
    tree::assert_same(&source, &to.join(&name));
    gui.post("/api/vault/lock", json!({})).expect(200);
    for what in ["entries?", "file?"] {
        let refused = ask(what).expect(423);
        assert_eq!(refused["vault"], open["vault"], "{refused}");
    }
    let locked = row();
    for sealed in ["entries", "files", "bytes", "new_bytes", "unreadable", "host", "label", "tags", "roots"] {
        assert!(locked[sealed].is_null() && !open[sealed].is_null(), "{sealed}: {locked}");
    }
    assert_eq!((&locked["snapshot"], &locked["vault"]), (&open["snapshot"], &open["vault"]));
    let refused = gui.post("/api/restore", json!({ "to": to })).expect(202)["job_id"].as_str().unwrap().to_string();
    let failed = gui.wait_for(&refused, "failed");
    assert!(failed["error"].as_str().unwrap().contains("open it first"), "{failed}");
    gui.post("/api/vault/open", json!({ "passphrase": PASSPHRASE })).expect(200);
    assert_eq!(row(), open);
    assert_eq!(row(), open, "from what is remembered");
}

/// Backs a file up into the open vault twice; then the server, which comes back where it was, has lost the second snapshot.
/// Gives both ids.
pub fn lose_the_newest(workplace: &Workplace, server: TestServer, gui: &Gui) -> (TestServer, [String; 2]) {
    let file = workplace.write("source/file", "content");
    let ids = [1, 2].map(|number| {
        std::fs::write(&file, number.to_string()).unwrap();
        let job = gui.job(json!({ "paths": [file], "vault": true }));
        gui.wait_for(&job, "completed")["snapshot"].as_str().unwrap().to_string()
    });
    let (data, address) = (server.data.clone(), server.address.clone());
    assert_eq!(gui.get("/api/snapshots/latest/entries").expect(200)["findings"], json!([]));
    assert_eq!(server.stop(), 0);
    for folder in std::fs::read_dir(data.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()) {
        for end in ["json", "index"] {
            std::fs::remove_file(folder.join(format!("{}.{end}", ids[1]))).unwrap();
        }
    }
    let port = address.rsplit(':').next().unwrap();
    (TestServer::start_with(workplace, "data", &["--port", port]), ids)
}

#[test]
fn what_a_server_lost_of_a_vault_is_named_once_where_it_is_browsed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = with_a_vault(&workplace, &server);
    let (_server, [older, lost]) = lose_the_newest(&workplace, server, &gui);
    let entries = |what: &str| gui.get(&format!("/api/snapshots/{what}")).expect(200);
    for what in ["latest/entries", &format!("{older}/entries"), "latest/entries?search=file"] {
        let found = entries(what);
        assert_eq!(found["snapshot"], *older);
        let [finding] = &found["findings"].as_array().unwrap()[..] else { panic!("one: {found}") };
        assert_eq!(finding["snapshot"], *lost);
        let reason = finding["reason"].as_str().unwrap();
        assert!(reason.contains("it was stored last by this host, and is gone"), "{reason}");
    }
}

#[test]
fn where_there_is_no_vault_nothing_goes_into_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let file = workplace.write("source/file", "content");
    assert_eq!(gui.post("/api/jobs", json!({ "paths": [file], "vault": true })).status, 409);
    let mut list = named(&[("a", 1)]);
    list["vault"] = json!(true);
    assert_eq!(gui.post("/api/jobs", list).status, 409);
    assert_eq!(gui.get("/api/jobs").expect(200)["jobs"], json!([]));
}

#[test]
fn a_host_with_the_put_half_alone_opens_nothing() {
    let workplace = Workplace::new();
    let gui = gui(&workplace);
    let made = gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).expect(200);
    gui.post("/api/vault/lock", json!({})).expect(200);
    std::fs::remove_file(workplace.join("state/vault.key")).unwrap();
    let shown = gui.get("/api/vault").expect(200)["vault"].clone();
    assert_eq!((&shown["state"], &shown["id"]), (&json!("put_only"), &made["vault"]["id"]));
    for (what, body) in [
        ("open", json!({ "passphrase": PASSPHRASE })),
        ("passphrase", json!({ "passphrase": PASSPHRASE, "new": "another" })),
    ] {
        let refused = gui.post(&format!("/api/vault/{what}"), body).expect(409)["error"].to_string();
        assert!(refused.contains("there is vault-put.key alone") && !refused.contains("--vault-key"), "{refused}");
    }
    assert_eq!(gui.post("/api/vault/create", json!({ "passphrase": PASSPHRASE })).status, 409);
    assert_eq!(gui.get("/api/vault/key").status, 404);
}
