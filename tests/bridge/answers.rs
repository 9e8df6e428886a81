//! Answers of the API: as the OpenAPI document says, with nothing that gets out of its place.

use serde_json::{Value, json};

use super::Gui;
use crate::support::{TestServer, Workplace, closed_address};

/// What a value does not fit in of a schema: enough of JSON Schema for the document that there is.
pub fn misfits(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").expect("a schema of the document");
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "the document has no schema {name}");
        return misfits(document, schema, value, at);
    }
    let of_all = schema["allOf"].as_array().into_iter().flatten();
    let mut found: Vec<String> = of_all.flat_map(|part| misfits(document, part, value, at)).collect();
    if let Some(any) = schema["anyOf"].as_array()
        && !any.iter().any(|part| misfits(document, part, value, at).is_empty())
    {
        found.push(format!("{at}: {value} fits none"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return found,
    };
    let is = |kind: &&str| match *kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("no type {other} is known here"),
    };
    let is_listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    if !types.iter().any(is) || !is_listed {
        found.push(format!("{at}: {value} is no {schema}"));
    }
    if value.is_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(name).is_none() {
                found.push(format!("{at}.{name} is missing"));
            }
        }
        for (name, part) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = value.get(name) {
                found.extend(misfits(document, part, value, &format!("{at}.{name}")));
            }
        }
    }
    for (place, value) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(misfits(document, &schema["items"], value, &format!("{at}[{place}]")));
    }
    found
}

#[test]
fn real_answers_are_as_the_openapi_document_says() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let document = gui.get("/api/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let file = workplace.write("source/file", "content");
    let name = workplace.path().to_str().unwrap()[1..].to_string();
    let check = |method: &str, path: &str, target: &str, body: Value| {
        let answer = match method {
            "get" => gui.get(target),
            _ => gui.post(target, body),
        };
        let responses = &document["paths"][path][method]["responses"];
        let status = answer.status.to_string();
        let described = responses.get(&status).unwrap_or(&responses["default"]);
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} is not described");
        let wrong = misfits(&document, schema, &answer.json(), "");
        assert!(wrong.is_empty(), "{method} {target}: {wrong:#?} in {}", answer.json());
        assert!(answer.head.contains("Content-Security-Policy: default-src 'none'"), "{}", answer.head);
        answer.json()
    };
    let none = Value::Null;
    let made = check("post", "/api/jobs", "/api/jobs", json!({ "paths": [file], "label": "l" }));
    let id = made["job_id"].as_str().unwrap();
    gui.wait_for(id, "completed");
    let upload = check("post", "/api/jobs", "/api/jobs", super::named(&[("a", 1)]));
    let upload = upload["job_id"].as_str().unwrap();
    check("post", "/api/jobs/{id}/pause", &format!("/api/jobs/{upload}/pause"), json!({}));
    check("get", "/api/jobs/{id}", &format!("/api/jobs/{upload}"), none.clone());
    check("post", "/api/cancel/{id}", &format!("/api/cancel/{upload}"), json!({}));
    check("post", "/api/cancel/{id}", &format!("/api/cancel/{upload}"), json!({}));
    for path in [
        "/health",
        "/api/health",
        "/api/status",
        "/api/server_info",
        "/api/stats",
        "/api/jobs",
        "/api/snapshots",
        "/api/vault",
        "/api/settings",
        "/api/transfer_info",
        "/api/browse",
        "/api/received_files",
        "/api/logs",
        "/progress_config.json",
        "/server_gui_settings.json",
    ] {
        check("get", path, path, none.clone());
    }
    check("get", "/api/status", &format!("/api/status?job_id={id}"), none.clone());
    check("get", "/api/status", "/api/status?job_id=none", none.clone());
    check("get", "/api/check_receipt/{name}", "/api/check_receipt/file", none.clone());
    check("get", "/api/check_receipt/{name}", "/api/check_receipt/nothing", none.clone());
    for query in [String::new(), format!("?path={name}/source"), "?search=FIL".into(), "?path=../x".into()] {
        check("get", "/api/snapshots/{id}/entries", &format!("/api/snapshots/latest/entries{query}"), none.clone());
    }
    check("get", "/api/snapshots/{id}/entries", "/api/snapshots/nosuch/entries", none.clone());
    check("post", "/api/server_key", "/api/server_key", json!({}));
    check("post", "/api/server_key", "/api/server_key", json!({ "port": "none" }));
    check("post", "/api/connect", "/api/connect", json!({}));
    check("post", "/api/disconnect", "/api/disconnect", json!({}));
    check("post", "/api/settings", "/api/settings", json!({ "settings": { "theme": "auto" } }));
    let info = json!({ "server": "localhost:1", "user": "ada", "paths": ["docs"] });
    check("post", "/api/transfer_info", "/api/transfer_info", info);
    for (path, body) in [
        ("/api/vault/open", json!({ "passphrase": "x" })),
        ("/api/vault/create", json!({ "passphrase": "x" })),
        ("/api/vault/passphrase", json!({ "passphrase": "x", "new": "y" })),
        ("/api/vault/lock", json!({})),
    ] {
        check("post", path, path, body);
    }
    let to = workplace.join("restored");
    check("post", "/api/restore", "/api/restore", json!({ "to": to }));
}

#[test]
fn a_path_with_dots_is_refused_wherever_one_is_taken() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    for target in [
        "/api/snapshots/latest/entries?path=a/../b",
        "/api/snapshots/latest/file?path=../../etc/passwd",
        "/api/snapshots/latest/file?path=%2e%2e/x",
        "/api/browse?path=/tmp/../etc",
        "/api/browse?path=etc",
    ] {
        assert_eq!(gui.get(target).status, 400, "{target}");
    }
    for target in
        ["/static/../Cargo.toml", "/static/%2e%2e%2fCargo.toml", "/static/.gitkeep", "/%2e%2e/x", "/static/"]
    {
        assert_eq!(gui.get(target).status, 404, "{target}");
    }
    for target in [
        "/api/jobs/..",
        "/api/jobs/..%2f..%2fstate",
        "/api/snapshots/%2e%2e/entries",
        "/api/snapshots/..%2f..%2fkeys/entries",
        "/api/snapshots/../file?path=x",
        "/api/status?job_id=../x",
    ] {
        let status = gui.get(target).status;
        assert!([400, 404].contains(&status), "{target}: {status}");
    }
    assert_eq!(gui.get("/api/check_receipt/..%2fx").expect(200)["received"], false);
    assert_eq!(gui.post("/api/jobs/..%2fx/cancel", json!({})).status, 404);
    assert_eq!(gui.send("PUT", "/api/jobs/..%2fx/files/0", "", b"").status, 404);
    assert_eq!(gui.send("PUT", "/api/jobs/x/files/..%2f0", "", b"").status, 404);
    assert_eq!(gui.post("/api/jobs", super::named(&[("a/../../b", 1)])).status, 400);
    // Names of snapshots are looked up in a list, and never made into a path.
    let to = workplace.join("restored");
    let made = gui.post("/api/restore", json!({ "snapshot": "../..", "to": to })).expect(202);
    gui.wait_for(made["job_id"].as_str().unwrap(), "failed");
    assert!(crate::support::tree::files_below(&to).is_empty());
    assert_eq!(gui.post("/api/connect", json!({ "host": "../x" })).status, 400);
    assert_eq!(gui.post("/api/jobs", json!({ "paths": ["/tmp/../etc"] })).status, 400);
    assert_eq!(gui.post("/api/jobs", json!({ "paths": ["relative"] })).status, 400);
    let info = json!({ "server": "localhost:1", "user": "ada", "paths": ["../x"] });
    assert_eq!(gui.post("/api/transfer_info", info).status, 400);
    assert_eq!(gui.send("DELETE", "/api/jobs", "", b"").status, 405);
}

#[test]
fn an_unknown_server_is_pinned_only_when_its_key_is_confirmed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start_with(&workplace, &server.address, &[]);
    assert_eq!(gui.get("/api/snapshots").status, 409);
    assert_eq!(gui.post("/api/jobs", json!({ "paths": ["/etc/hostname"] })).status, 409);
    let key = gui.post("/api/server_key", json!({})).expect(200);
    assert_eq!((&key["fingerprint"], &key["confirm_needed"]), (&json!(server.fingerprint), &json!(true)));
    let asked = gui.post("/api/connect", json!({})).expect(409);
    assert_eq!(asked["fingerprint"], server.fingerprint.as_str());
    assert!(!workplace.join("state/identity.json").exists(), "nothing is kept");
    assert_eq!(gui.post("/api/connect", json!({ "confirm": "SHA256:other" })).status, 409);
    let met = gui.post("/api/connect", json!({ "confirm": server.fingerprint })).expect(200);
    assert_eq!(met["server"]["fingerprint"], server.fingerprint.as_str());
    assert!(workplace.join("state/identity.json").exists());
    assert_eq!(gui.post("/api/server_key", json!({})).expect(200)["confirm_needed"], false);
    // To look at a key is no failure of the server's.
    assert_eq!(gui.get("/api/stats").expect(200)["stats"]["failures"], 0);
    assert_eq!(gui.get("/api/status").expect(200)["connected"], true);
    // Another name at the same server has a folder of its own.
    let other = json!({ "username": "grace", "confirm": server.fingerprint });
    gui.post("/api/connect", other).expect(200);
    assert_eq!(std::fs::read_dir(workplace.join("state/peers")).unwrap().count(), 1);
    assert_eq!(gui.get("/api/server_info").expect(200)["server"]["username"], "grace");
    assert_eq!(gui.post("/api/connect", json!({ "username": "ada" })).expect(200)["server"]["username"], "ada");
}

#[test]
fn it_begins_when_the_server_is_away_and_says_so() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let health = gui.get("/health").expect(200);
    assert_eq!(
        (health["status"].as_str(), health["backup_server"].as_str()),
        (Some("degraded"), Some("unreachable"))
    );
    assert_eq!(gui.post("/api/connect", json!({})).status, 503);
    assert_eq!(gui.send("GET", "/", "", b"").status, 200);
    let head = gui.send("HEAD", "/", "", b"");
    assert!(head.status == 200 && head.body.is_empty());
    assert!(gui.log().contains("INFO") || gui.log.exists(), "the log lies in the state folder");
}

#[test]
fn a_folder_of_many_files_shows_all_of_its_folders() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let many = workplace.join("many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..5_010 {
        std::fs::write(many.join(format!("a{number:04}")), "").unwrap();
    }
    for number in 0..20 {
        std::fs::create_dir(many.join(format!("z{number:02}"))).unwrap();
    }
    let shown = gui.get(&format!("/api/browse?path={}", many.display())).expect(200);
    let names: Vec<&str> =
        shown["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), &shown["truncated"]), (5_000, &json!(true)));
    assert_eq!((names[0], names[19], names[20], names[4_999]), ("z00", "z19", "a0000", "a4979"));
}

#[test]
fn a_transfer_info_that_is_none_is_a_conflict_and_says_what_is_wrong() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let file = gui.get("/api/transfer_info").expect(200)["file"].as_str().unwrap().to_string();
    assert!(file.starts_with(workplace.path().to_str().unwrap()), "{file}");
    std::fs::write(&file, "no address here\n").unwrap();
    let answer = gui.get("/api/transfer_info").expect(409);
    assert!(answer["error"].as_str().unwrap().contains("transfer.info"), "{answer}");
}

#[test]
fn that_backups_go_into_the_vault_stays_until_it_is_said_otherwise() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let info = |vault: Value| {
        let mut info = json!({ "server": "localhost:1", "user": "ada", "paths": ["docs"] });
        info["vault"] = vault;
        info
    };
    let mut unsaid = info(json!(true));
    let answer = gui.post("/api/transfer_info", unsaid.clone()).expect(200);
    assert_eq!((&answer["vault"], &answer["paths"]), (&json!(true), &json!(["docs"])));
    let file = answer["file"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "localhost:1\nada\n--vault\ndocs\n");
    unsaid.as_object_mut().unwrap().remove("vault");
    assert_eq!(gui.post("/api/transfer_info", unsaid).expect(200)["vault"], true);
    assert_eq!(gui.post("/api/transfer_info", info(json!("yes"))).status, 400);
    assert_eq!(gui.post("/api/transfer_info", info(json!(false))).expect(200)["vault"], false);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "localhost:1\nada\ndocs\n");
}

#[test]
fn to_connect_wants_an_object() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    for wrong in [json!([]), json!("x"), json!(1), Value::Null] {
        assert_eq!(gui.post("/api/connect", wrong.clone()).status, 400, "{wrong}");
        assert_eq!(gui.post("/api/server_key", wrong.clone()).status, 400, "{wrong}");
    }
}
