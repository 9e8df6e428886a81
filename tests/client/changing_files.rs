//! Files that change while they are backed up. Whatever happens to them, the backup ends, names what it
//! could not read, and what it stored can be restored.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{LARGE_BYTES, Run, TestClient, TestServer, Workplace, kill, large_file, tree};

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
}

fn restore(client: &TestClient<'_>, to: &Path) -> Run {
    client.run([OsStr::new("restore"), "--to".as_ref(), to.as_os_str()])
}

#[test]
fn files_that_change_between_the_walk_and_the_reading_are_named_or_read_as_they_are() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    let names = ["grows", "shrinks", "becomes a folder", "becomes a link", "becomes a pipe", "stays", "vanishes"];
    for name in names {
        workplace.write(source.join(name), "0123456789");
    }
    fs::write(workplace.join("outside"), "not to be read").unwrap();
    // The walk is past all of them while the first one, which is large, is being sent.
    large_file(&source.join("a large file"), LARGE_BYTES);
    let started = client.start_stalled(&server, &source);
    fs::write(source.join("grows"), "0123456789 and more").unwrap();
    fs::write(source.join("shrinks"), "0").unwrap();
    for name in ["becomes a folder", "becomes a link", "becomes a pipe", "vanishes"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::create_dir(source.join("becomes a folder")).unwrap();
    symlink("../outside", source.join("becomes a link")).unwrap();
    fifo(&source.join("becomes a pipe"));
    fs::OpenOptions::new().write(true).open(source.join("a large file")).unwrap().set_len(1_000).unwrap();
    kill(started.id(), "CONT");
    let run = started.finish().expect(3);
    for (name, reason) in [
        ("becomes a folder", "is now a folder"),
        ("becomes a link", "is now a link"),
        ("becomes a pipe", "is now a FIFO"),
        ("vanishes", "vanished"),
    ] {
        assert!(run.err().contains(&format!("/{name}: {reason}")), "{name}:\n{}", run.err());
    }
    assert!(run.out().contains("; 4 could not be read"), "{}", run.out());

    let to = workplace.join("to");
    restore(&client, &to).expect(3);
    let restored = to.join(source.strip_prefix("/").unwrap());
    let content = |name: &str| fs::read_to_string(restored.join(name)).unwrap();
    assert_eq!(content("grows"), "0123456789 and more");
    assert_eq!(content("shrinks"), "0");
    assert_eq!(content("stays"), "0123456789");
    assert_eq!(fs::metadata(restored.join("a large file")).unwrap().len(), 1_000);
    assert!(!restored.join("vanishes").exists() && !restored.join("becomes a link").exists());
    client.run(["verify"]).expect(0);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_read_again() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    client.flags.insert(0, "--json".into());
    let source = workplace.join("source");
    fs::create_dir(&source).unwrap();
    large_file(&source.join("log"), LARGE_BYTES / 4);
    let file = fs::OpenOptions::new().write(true).open(source.join("log")).unwrap();
    let started = client.start_stalled(&server, &source);
    file.set_len(LARGE_BYTES / 4 + 4_321).unwrap();
    kill(started.id(), "CONT");
    let run = started.finish().expect(0);
    // What is sent twice is not counted twice.
    for event in run.events().iter().filter(|event| event.name == "progress_update") {
        let [done, total] = ["bytes_transferred", "total_bytes"].map(|name| event.data[name].as_u64().unwrap());
        assert!(done <= total, "{}", event.data);
    }
    assert!(run.event("summary")["bytes_sent"].as_u64().unwrap() > LARGE_BYTES / 4 + 4_321, "it was read once");
    let restored = client.restore(&source, "to");
    assert_eq!(fs::metadata(restored.join("log")).unwrap().len(), LARGE_BYTES / 4 + 4_321);
    client.run(["verify"]).expect(0);
}

/// One change after the other to files of `folder`, until told to stop.
fn churn(folder: &Path, stop: &AtomicBool) {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("0{:03}/file {}", number * 7 % 4, number * 7 % 4 * 100 + number * 13 % 100);
        let path = folder.join(name);
        // Each of these may meet what an earlier one left behind: that is the point.
        let _ = match number % 6 {
            0 => fs::write(&path, tree::bytes(number, (number * 31 % 40_000) as usize)),
            1 => fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(number % 100)),
            2 => fs::remove_file(&path),
            3 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            4 => fs::remove_dir(&path),
            _ => fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, &tree::bytes(number, 5_000))),
        };
    }
}

#[test]
fn a_tree_in_full_use_is_backed_up_and_restored() {
    const ROUNDS: usize = 12;
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    let stop = AtomicBool::new(false);
    let mut unreadable = 0;
    std::thread::scope(|scope| {
        tree::many_files(&source, 400);
        let writer = scope.spawn(|| churn(&source, &stop));
        for round in 0..ROUNDS {
            let words = [OsStr::new("backup"), "--json".as_ref(), "--quiet".as_ref(), source.as_os_str()];
            let run = client.run(words);
            let summary = run.event("summary");
            let counted = summary["unreadable"].as_u64().unwrap();
            assert_eq!(run.code, if counted > 0 { 3 } else { 0 }, "{}{}", run.out(), run.err());
            let named = run.events().iter().filter(|event| event.name == "file_error").count() as u64;
            assert_eq!(named, counted, "{}", run.out());
            unreadable += counted;
            let to = workplace.join(format!("to {round}"));
            let restored = restore(&client, &to);
            assert_eq!(restored.code, run.code, "{}", restored.err());
            fs::remove_dir_all(to).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    client.run(["verify"]).expect(0);
    println!("{unreadable} files met in the middle of a change");
}
