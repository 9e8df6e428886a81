//! Jobs over paths of this host: phases in order, a percentage that never goes back, and steering that acts.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Gui;
use super::viewers::Watcher;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::{LARGE_BYTES, TestServer, Workplace, large_file, tree, wait_until};

#[test]
fn the_percentage_rises_through_the_phases_to_100() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    gui.post("/api/settings", json!({ "settings": { "progress_interval": 100 } })).expect(200);
    let source = workplace.join("source");
    tree::many_files(&source, 500);
    large_file(&source.join("large"), 64 * 1024 * 1024);
    let mut watcher = Watcher::open(&gui);
    let job = gui.job(json!({ "paths": [source] }));
    let messages =
        watcher.take_until(|message| message["event"] == "status" && message["data"]["job_id"].is_null());
    // The first message is the state at the connection.
    let of_job = messages.iter().filter(|message| message["data"]["job_id"] == job.as_str());
    let (mut phases, mut percentages) = (Vec::new(), Vec::new());
    for message in
        of_job.filter(|message| ["status", "progress_update"].contains(&message["event"].as_str().unwrap()))
    {
        let phase = message["data"]["phase"].as_str().unwrap();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
        percentages.push(message["data"]["progress"]["percentage"].as_f64().unwrap());
    }
    assert_eq!(phases, ["READY", "CONNECT", "BACKUP_IN_PROGRESS", "CLEANUP", "COMPLETED"]);
    assert!(percentages.is_sorted(), "{percentages:?}");
    assert_eq!((percentages[0], *percentages.last().unwrap()), (0.0, 100.0));
    assert_eq!(messages.last().unwrap()["data"]["phase"], "READY");
    assert!(messages.iter().any(|message| message["event"] == "file_receipt"));
}

#[test]
fn pause_resume_and_cancel_act_within_a_second() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let source = workplace.join("source");
    std::fs::create_dir_all(&source).unwrap();
    large_file(&source.join("large"), 4 * LARGE_BYTES);
    let job = gui.job(json!({ "paths": [source] }));
    let steer = |action: &str, state: &str| {
        wait_until(|| gui.look(&job)["progress"]["bytes_transferred"].as_u64() > Some(0), "bytes on their way");
        let began = Instant::now();
        gui.post(&format!("/api/jobs/{job}/{action}"), json!({})).expect(200);
        assert_eq!(gui.look(&job)["state"], state);
        assert!(began.elapsed() < Duration::from_secs(1), "{action}: {:?}", began.elapsed());
    };
    steer("pause", "paused");
    // A page whose upload was cut off may wish it after the fact.
    assert_eq!(gui.post(&format!("/api/jobs/{job}/pause"), json!({})).expect(200)["job"]["state"], "paused");
    gui.post(&format!("/api/resume/{job}"), json!({})).expect(200);
    gui.wait_for(&job, "running");
    steer("cancel", "cancelled");
    assert_eq!(gui.post(&format!("/api/cancel/{job}"), json!({})).status, 409);
    assert_eq!(gui.get("/api/status").expect(200)["phase"], "READY");
    assert_eq!(gui.get("/api/snapshots").expect(200)["snapshots"], json!([]));
}

#[test]
fn jobs_wait_for_their_turn_and_there_is_a_bound() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    // An upload that nobody gives its content holds the server.
    let first = gui.job(super::named(&[("a", 1)]));
    gui.wait_for(&first, "running");
    let file = workplace.write("file", "x");
    let waiting: Vec<String> = (0..31).map(|_| gui.job(json!({ "paths": [file] }))).collect();
    assert_eq!(gui.look(&waiting[0])["state"], "queued");
    assert_eq!(gui.post("/api/jobs", json!({ "paths": [file] })).status, 429);
    gui.post(&format!("/api/cancel/{}", waiting[0]), json!({})).expect(200);
    gui.post(&format!("/api/cancel/{first}"), json!({})).expect(200);
    gui.wait_for(&waiting[1], "completed");
    assert_eq!(gui.look(&waiting[0])["state"], "cancelled");
}

#[test]
fn a_restore_writes_whole_paths_below_its_folder() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let file = workplace.write("source/file", "content");
    let job = gui.job(json!({ "paths": [file] }));
    gui.wait_for(&job, "completed");
    let to = workplace.join("restored");
    let path = file.to_str().unwrap();
    let made = gui.post("/api/restore", json!({ "to": to, "paths": [path] })).expect(202);
    gui.wait_for(made["job_id"].as_str().unwrap(), "completed");
    assert_eq!(std::fs::read(to.join(&path[1..])).unwrap(), b"content");
    for wrong in [
        json!({}),
        json!({ "to": "relative" }),
        json!({ "to": "/tmp/../etc" }),
        json!({ "to": "/tmp", "paths": ["../x"] }),
    ] {
        assert_eq!(gui.post("/api/restore", wrong.clone()).status, 400, "{wrong}");
    }
}

#[test]
fn a_restore_is_paused_goes_on_with_its_snapshot_and_is_cancelled_within_a_second() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let line = SlowLine::start(&server.address, Nature { delay: Duration::from_millis(50), cut_after: None });
    let flags = ["--server-fingerprint", &server.fingerprint, "--low-memory"];
    let gui = Gui::start_with(&workplace, &line.address, &flags);
    wait_until(|| gui.get("/api/server_info").json()["known"] == true, "the first contact");
    let source = workplace.join("source");
    tree::many_files(&source, 30);
    workplace.write("source/large", tree::bytes(1, 24_000_000));
    let back_up = || {
        let job = gui.job(json!({ "paths": [source] }));
        gui.wait_for(&job, "completed");
    };
    back_up();
    let to = workplace.join("restored");
    let restore = |to: &std::path::Path| {
        let made = gui.post("/api/restore", json!({ "to": to })).expect(202);
        made["job_id"].as_str().unwrap().to_string()
    };
    let steer = |job: &str, action: &str, state: &str| {
        wait_until(|| gui.look(job)["progress"]["bytes_transferred"].as_u64() > Some(500_000), "bytes to come");
        let began = Instant::now();
        gui.post(&format!("/api/jobs/{job}/{action}"), json!({})).expect(200);
        assert_eq!(gui.look(job)["state"], state);
        assert!(began.elapsed() < Duration::from_secs(1), "{action}: {:?}", began.elapsed());
    };
    let job = restore(&to);
    steer(&job, "pause", "paused");
    let reached = gui.look(&job)["progress"]["percentage"].as_f64();
    // What is the newest now is not what was begun with.
    std::fs::rename(source.join("large"), workplace.join("large")).unwrap();
    workplace.write("source/other", b"later");
    back_up();
    gui.post(&format!("/api/jobs/{job}/resume"), json!({})).expect(200);
    assert!(gui.look(&job)["progress"]["percentage"].as_f64() >= reached, "it never goes back");
    gui.wait_for(&job, "completed");
    std::fs::remove_file(source.join("other")).unwrap();
    std::fs::rename(workplace.join("large"), source.join("large")).unwrap();
    let restored = to.join(source.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(restored.join("large")).unwrap(), std::fs::read(source.join("large")).unwrap());
    assert!(!restored.join("other").exists(), "it went on with the snapshot of its beginning");
    back_up();
    let job = restore(&workplace.join("again"));
    steer(&job, "cancel", "cancelled");
}

#[test]
fn status_json_tells_how_the_last_backup_of_the_page_ended() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let status = || {
        let text = std::fs::read(workplace.join("state/status.json")).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_default()
    };
    let file = workplace.write("file", "x");
    let job = gui.job(json!({ "paths": [file] }));
    let done = gui.wait_for(&job, "completed");
    let told = status();
    assert_eq!((&told["result"], &told["exit_code"]), (&json!("done"), &json!(0)));
    assert_eq!((&told["summary"]["snapshot"], &told["summary"]["files"]), (&done["snapshot"], &json!(1)));
    // A job that rests has not ended; one that is cancelled has.
    let waiting = gui.job(super::named(&[("a", 1)]));
    wait_until(|| gui.look(&waiting)["upload"]["wanted"] == 0, "the upload to run");
    gui.post(&format!("/api/jobs/{waiting}/pause"), json!({})).expect(200);
    assert_eq!(status(), told);
    gui.post(&format!("/api/jobs/{waiting}/resume"), json!({})).expect(200);
    wait_until(|| gui.look(&waiting)["upload"]["wanted"] == 0, "the upload to run");
    gui.post(&format!("/api/jobs/{waiting}/cancel"), json!({})).expect(200);
    assert_eq!((&status()["result"], &status()["exit_code"]), (&json!("failed"), &json!(130)));
}

#[test]
fn sigterm_leaves_a_running_job_resumable() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let source = workplace.join("source");
    tree::many_files(&source, 300);
    large_file(&source.join("zlarge"), 4 * LARGE_BYTES);
    let job = gui.job(json!({ "paths": [source] }));
    wait_until(|| gui.look(&job)["progress"]["bytes_transferred"].as_u64() > Some(5_000_000), "bytes on their way");
    let (code, took) = gui.stop("TERM");
    assert!(code == Some(0) && took < Duration::from_secs(3), "{code:?} {took:?}");
    assert!(workplace.join("state/upload.json").exists(), "the upload is noted");
}

#[test]
fn a_restore_with_errors_fails_and_counts_no_bytes_of_what_it_did_not_restore() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let bytes = vec![7; 1 << 20];
    let file = workplace.write("source/stands", "content");
    std::fs::write(file.with_file_name("large"), &bytes).unwrap();
    let job = gui.job(json!({ "paths": [file.parent().unwrap()] }));
    gui.wait_for(&job, "completed");
    // A folder stands where the large file is to come.
    let to = workplace.join("restored");
    let place = to.join(&file.with_file_name("large").to_str().unwrap()[1..]);
    std::fs::create_dir_all(place.join("inside")).unwrap();
    let made = gui.post("/api/restore", json!({ "to": to })).expect(202);
    let job = gui.wait_for(made["job_id"].as_str().unwrap(), "failed");
    assert_eq!(job["error"], "restored: 1 file, 7 bytes; 1 error", "{job}");
    assert_eq!((&job["error_count"], &job["phase"]), (&json!(1), &json!("FAILED")), "{job}");
    assert!(job["progress"]["percentage"].as_f64().unwrap() < 100.0, "{job}");
    let words = ["restore", "--to", to.to_str().unwrap(), "--json", "--server", &server.address];
    let run = workplace.run(words.into_iter().chain(["--user", "ada", "--state", "state"])).expect(3);
    assert!(run.out().contains("\"bytes\":7,"), "{}", run.out());
}

#[test]
fn the_parts_of_a_request_count_as_they_come() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let gui = Gui::start(&workplace, &server);
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{}\r\n--b--\r\n",
        "x".repeat(300_000)
    );
    let type_line = "Content-Type: multipart/form-data; boundary=b\r\n";
    let made = gui.send("POST", "/api/start_backup", type_line, body.as_bytes()).expect(200);
    let progress = gui.look(made["job_id"].as_str().unwrap())["progress"].clone();
    let numbers =
        ["files_done", "files_total", "bytes_transferred", "total_bytes"].map(|name| progress[name].as_u64());
    assert_eq!(numbers, [Some(1), Some(1), Some(300_000), Some(300_000)], "{progress}");
}
