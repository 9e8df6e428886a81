//! `backup --legacy` at our own server: both halves of the dialect together, and the way over to the native one.

use std::path::Path;

use crate::support::{Run, Started, TestServer, Workplace, large_file, tree};

/// Runs a command as ada, whose state folder is `state`.
fn run(workplace: &Workplace, server: &TestServer, words: &[&str]) -> Run {
    let usual = ["--server", &server.address, "--user", "ada", "--state", "state"];
    workplace.run([&words[..1], &usual[..], &words[1..]].concat())
}

fn restored(workplace: &Workplace, name: &str) -> std::path::PathBuf {
    workplace.join("to").join(name)
}

#[test]
fn a_legacy_backup_at_our_server_is_restored_natively_with_the_key_of_me_info() {
    for oaep in ["sha256", "sha1"] {
        let workplace = Workplace::new();
        let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--legacy-oaep", oaep]);
        let sizes = [0, 1, 16, 65_536, 3_000_001];
        for size in sizes {
            workplace.write(format!("source/sub/{size}"), vec![size as u8; size]);
        }
        run(&workplace, &server, &["backup", "--legacy", "--legacy-packet", "65536", "source"]).expect(0);
        workplace.write("source/sub/1", "another");
        run(&workplace, &server, &["backup", "--legacy", "source"]).expect(0);

        let listing = run(&workplace, &server, &["ls"]).expect(0);
        assert!(listing.err().contains("the key of ada is taken over"), "{}", listing.err());
        assert_eq!(listing.out().lines().count(), sizes.len(), "{}", listing.out());
        run(&workplace, &server, &["verify"]).expect(0);
        run(&workplace, &server, &["restore", "--to", "to"]).expect(0);
        for size in sizes {
            let original = workplace.join(format!("source/sub/{size}"));
            assert_same_content(&original, &restored(&workplace, &format!("source%2Fsub%2F{size}")));
        }
        // The name has moved over: the old way is closed to it, the new one is open.
        let refused = run(&workplace, &server, &["backup", "--legacy", "source"]).expect(5);
        assert!(refused.err().contains("--legacy"), "{}", refused.err());
        let source = workplace.join("source");
        run(&workplace, &server, &["backup", "source"]).expect(0);
        run(&workplace, &server, &["restore", "--to", "native"]).expect(0);
        tree::assert_same(&source, &workplace.join("native").join(source.strip_prefix("/").unwrap()));
    }
}

#[track_caller]
fn assert_same_content(left: &Path, right: &Path) {
    assert!(std::fs::read(left).unwrap() == std::fs::read(right).unwrap(), "{}", right.display());
}

#[test]
fn a_server_that_serves_no_legacy_clients_is_named() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--legacy", "off"]);
    workplace.write("a", "x");
    let run = run(&workplace, &server, &["backup", "--legacy", "--retries", "1", "a"]).expect(4);
    assert!(run.err().contains("a native server needs no --legacy"), "{}", run.err());
}

#[test]
#[ignore = "a gibibyte: some seconds and 2 GiB of disk"]
fn a_gibibyte_takes_little_memory_on_both_sides() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    large_file(&workplace.join("large"), 1 << 30);
    let words = ["backup", "--legacy", "--server", &server.address, "--user", "ada", "--state", "state", "large"];
    let (ended, client_kib) = Started::of(workplace.command(words)).finish_measured();
    println!("{} peak {client_kib} KiB, the server's {} KiB", ended.out(), server.peak_memory_kib());
    ended.expect(0);
    assert!(client_kib < 32 * 1024, "{client_kib} KiB");
    assert!(server.peak_memory_kib() < 32 * 1024, "{} KiB", server.peak_memory_kib());
    run(&workplace, &server, &["verify"]).expect(0);
}
