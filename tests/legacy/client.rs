//! `backup --legacy` against a legacy server of either generation.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::counterpart_server::{Counterpart, KnownClient, Manners};
use crate::support::{Run, Started, TestServer, Workplace, closed_address, kill, tree, wait_until};

fn words<'a>(server: &'a str, more: &'a [&'a str]) -> Vec<&'a str> {
    let usual = ["backup", "--legacy", "--server", server, "--user", "ada", "--state", "state"];
    [&usual[..], more].concat()
}

fn backup(workplace: &Workplace, server: &Counterpart, more: &[&str]) -> Run {
    workplace.run(words(&server.address, more))
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 37) as u8).collect()
}

fn me_info(workplace: &Workplace) -> Vec<String> {
    let text = std::fs::read_to_string(workplace.join("state/me.info")).expect("a me.info");
    text.lines().map(str::to_string).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn files_of_every_size_arrive_at_servers_of_both_generations() {
    for (oaep, greets, version) in [("sha256", false, 3), ("sha1", true, 3), ("sha256", true, 2)] {
        let (workplace, server) =
            (Workplace::new(), Counterpart::start(Manners { oaep, greets, version, ..Manners::default() }));
        let sizes = [0, 1, 15, 16, 17, 1024 * 1024 - 1, 1024 * 1024, 3 * 1024 * 1024 + 5];
        for size in sizes {
            workplace.write(format!("source/{size}"), content(size));
        }
        let run = backup(&workplace, &server, &["source"]).expect(0);
        assert!(run.out().starts_with("8 files, "), "{}", run.out());
        for size in sizes {
            server.assert_has(&format!("source%2F{size}"), &content(size));
        }
        assert_eq!(server.packets("source%2F0"), (1, 16));
        assert_eq!(server.packets("source%2F1048576"), (2, 1024 * 1024));
        assert_eq!(server.asked()[..2], ["register ada", "key ada"]);
        server.assert_no_faults();
    }
}

#[test]
fn the_second_run_reconnects_with_what_me_info_says() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("a.txt", "one");
    backup(&workplace, &server, &["a.txt"]).expect(0);
    let lines = me_info(&workplace);
    let id = hex(&server.client("ada").unwrap().id);
    assert_eq!((lines.len(), lines[0].as_str(), lines[1].as_str()), (3, "ada", id.as_str()));
    assert_eq!(std::fs::metadata(workplace.join("state/me.info")).unwrap().mode() & 0o777, 0o600);
    workplace.write("a.txt", "two");
    backup(&workplace, &server, &["a.txt"]).expect(0);
    let wanted = ["register ada", "key ada", "first packet of a.txt", "1029 a.txt", "reconnect ada"];
    assert_eq!(server.asked()[..5], wanted);
    server.assert_has("a.txt", b"two");
    assert_eq!(me_info(&workplace), lines);
    server.assert_no_faults();
}

#[test]
fn packets_have_the_size_that_was_asked_for_and_grow_where_they_must() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("a", content(300_000));
    for (flag, packets) in [("1000", (301, 1_000)), ("65536", (5, 65_536)), ("16777216", (1, 300_016))] {
        backup(&workplace, &server, &["--legacy-packet", flag, "a"]).expect(0);
        assert_eq!(server.packets("a"), packets);
        server.assert_has("a", &content(300_000));
    }
    // More than 65,535 packets cannot be counted.
    workplace.write("b", content(1_500_000));
    backup(&workplace, &server, &["--legacy-packet", "16", "b"]).expect(0);
    assert_eq!(server.packets("b"), (65_219, 23));
    server.assert_has("b", &content(1_500_000));
    server.assert_no_faults();
}

#[test]
fn both_exponents_make_keys_that_the_server_can_use() {
    for (exponent, key_bytes) in [("17", 160), ("65537", 162)] {
        let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
        workplace.write("a", "x");
        backup(&workplace, &server, &["--legacy-exponent", exponent, "a"]).expect(0);
        assert_eq!(server.client("ada").unwrap().public_key.unwrap().len(), key_bytes);
        server.assert_no_faults();
    }
}

#[test]
fn a_file_that_arrives_damaged_is_sent_again_and_given_up_after_three_times() {
    for (wrong_checksums, code) in [(2, 0), (3, 3)] {
        let (workplace, server) =
            (Workplace::new(), Counterpart::start(Manners { wrong_checksums, ..Manners::default() }));
        workplace.write("a", "first");
        workplace.write("b", "second");
        let run = backup(&workplace, &server, &["a", "b"]).expect(code);
        let again = ["first packet of a", "1030 a", "first packet of a", "1030 a", "first packet of a"];
        assert_eq!(server.asked()[2..7], again);
        if code == 0 {
            assert_eq!(server.asked()[7], "1029 a");
            server.assert_has("a", b"first");
        } else {
            assert_eq!(server.asked()[7], "1031 a");
            assert!(run.err().contains("arrived at the server damaged three times"), "{}", run.err());
            assert!(run.out().contains("1 left out"), "{}", run.out());
        }
        server.assert_has("b", b"second");
        server.assert_no_faults();
    }
}

#[test]
fn a_name_that_is_taken_ends_the_run_and_names_the_next_step() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    server.know("ada", KnownClient { id: [1; 16], public_key: None });
    workplace.write("a", "x");
    let run = backup(&workplace, &server, &["a"]).expect(5);
    assert!(run.err().contains("(1601)") && run.err().contains("--user"), "{}", run.err());
    assert!(!workplace.join("state/me.info").exists());
    let status = std::fs::read_to_string(workplace.join("state/status.json")).unwrap();
    assert!(status.contains("\"exit_code\": 5"), "{status}");
}

#[test]
fn a_server_that_was_set_up_anew_gets_a_new_registration() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("a", "x");
    backup(&workplace, &server, &["a"]).expect(0);
    let before = me_info(&workplace);
    server.forget("ada");
    let run = backup(&workplace, &server, &["a"]).expect(0);
    assert!(run.err().contains("registering the name again"), "{}", run.err());
    let after = me_info(&workplace);
    assert!(after[1] != before[1] && after[2] == before[2], "another id, the same key");
    server.know("ada", KnownClient { id: [1; 16], public_key: None });
    let run = backup(&workplace, &server, &["a"]).expect(5);
    assert!(run.err().contains("(1606)"), "{}", run.err());
    assert_eq!(me_info(&workplace), after, "what is known of the server is kept");
}

#[test]
fn what_the_dialect_cannot_carry_is_left_out_and_named() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("source/deep/er/a b.txt", "kept");
    workplace.write("source/100% sure?", "kept too");
    std::fs::create_dir(workplace.join("source/empty")).unwrap();
    symlink("nowhere", workplace.join("source/link")).unwrap();
    let fifo = Command::new("mkfifo").arg(workplace.join("source/fifo")).status().unwrap();
    assert!(fifo.success());
    let huge = std::fs::File::create(workplace.join("source/huge")).unwrap();
    huge.set_len(4 * 1024 * 1024 * 1024).unwrap();
    let run = backup(&workplace, &server, &["source"]).expect(3);
    assert_eq!(server.files(), ["source%2F100%25 sure%3F", "source%2Fdeep%2Fer%2Fa b.txt"]);
    for (path, reason) in [
        ("source/empty", "a folder without anything to send"),
        ("source/link", "it is a link"),
        ("source/fifo", "it is a FIFO"),
        ("source/huge", "no file of 4 GiB or more"),
    ] {
        let line = run.err().lines().find(|line| line.contains(path)).map(str::to_string);
        assert!(line.as_ref().is_some_and(|line| line.contains(reason)), "{path}: {line:?}");
    }
    assert!(run.err().contains("carries the contents of files and nothing else"), "{}", run.err());
    assert!(run.out().contains("2 files") && run.out().contains("4 left out"), "{}", run.out());
    server.assert_no_faults();
}

#[test]
fn a_file_above_the_servers_limit_is_left_out_and_the_limit_explained() {
    for refuses_silently in [false, true] {
        let manners = Manners { file_limit: Some(100 * 1024 * 1024), refuses_silently, ..Manners::default() };
        let (workplace, server) = (Workplace::in_memory(), Counterpart::start(manners));
        std::fs::create_dir(workplace.join("source")).unwrap();
        std::fs::File::create(workplace.join("source/large")).unwrap().set_len(101 * 1024 * 1024).unwrap();
        workplace.write("source/small", "x");
        let run = backup(&workplace, &server, &["source"]).expect(3);
        assert!(run.err().contains("no file above 100 MiB"), "{}", run.err());
        assert_eq!(server.files(), ["source%2Fsmall"]);
        server.assert_no_faults();
    }
}

#[test]
fn a_file_that_the_server_refuses_is_named_and_the_others_go_on() {
    let (workplace, server) =
        (Workplace::new(), Counterpart::start(Manners { refused_file: "b", ..Manners::default() }));
    for name in ["a", "b", "c"] {
        workplace.write(name, name);
    }
    let run = backup(&workplace, &server, &["a", "b", "c"]).expect(3);
    assert!(run.err().contains("b: left out: the server refuses it (1607)"), "{}", run.err());
    assert_eq!(server.files(), ["a", "c"]);
    server.assert_no_faults();
}

#[test]
fn a_server_that_refuses_every_file_ends_the_run() {
    let manners = Manners { file_limit: Some(0), ..Manners::default() };
    let (workplace, server) = (Workplace::new(), Counterpart::start(manners));
    for number in 0..20 {
        workplace.write(format!("source/{number}"), "x");
    }
    let run = backup(&workplace, &server, &["source"]).expect(1);
    assert!(run.err().contains("refused 8 files one after the other"), "{}", run.err());
}

#[test]
fn a_lost_connection_is_made_again_and_the_file_sent_anew() {
    let (workplace, server) =
        (Workplace::new(), Counterpart::start(Manners { lost_connections: 2, ..Manners::default() }));
    workplace.write("a", content(3_000_000));
    let run = backup(&workplace, &server, &["a"]).expect(0);
    assert!(run.err().contains("the connection was lost; trying again"), "{}", run.err());
    server.assert_has("a", &content(3_000_000));
    server.assert_no_faults();
    let gone = workplace.run(words(&closed_address(), &["--retries", "1", "--user", "ada", "a"])).expect(4);
    assert!(gone.err().contains("no server answers"), "{}", gone.err());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    let (workplace, server) =
        (Workplace::in_memory(), Counterpart::start(Manners { waits_once: true, ..Manners::default() }));
    let source = workplace.write("a", content(32 * 1024 * 1024));
    let started = Started::of(workplace.command(words(&server.address, &["a"])));
    wait_until(|| server.first_packets() == 1, "the first packet");
    let changed = content(32 * 1024 * 1024 + 77);
    std::fs::write(&source, &changed).unwrap();
    server.go_on();
    started.finish().expect(0);
    assert_eq!(server.first_packets(), 2, "the second reading begins with a first packet");
    server.assert_has("a", &changed);
    server.assert_no_faults();
}

#[test]
fn an_interrupted_legacy_backup_ends_at_once() {
    let (workplace, server) =
        (Workplace::in_memory(), Counterpart::start(Manners { waits_once: true, ..Manners::default() }));
    workplace.write("a", content(32 * 1024 * 1024));
    let started = Started::of(workplace.command(words(&server.address, &["a"])));
    wait_until(|| server.first_packets() == 1, "the first packet");
    let began = Instant::now();
    kill(started.id(), "INT");
    let run = started.finish().expect(130);
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert!(run.err().contains("cyberbackup: interrupted"), "{}", run.err());
}

/// What an installed client has: a key made elsewhere, in a `me.info` of wrapped lines beside its `transfer.info`.
fn install_old_client(workplace: &Workplace, address: &str) -> Vec<u8> {
    let (pem, der) = (workplace.join("key.pem"), workplace.join("key.der"));
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    openssl.args(["-pkeyopt", "rsa_keygen_pubexp:17", "-out"]).arg(&pem);
    assert!(openssl.output().expect("openssl runs").status.success());
    let mut openssl = Command::new("openssl");
    openssl.args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"]).arg(&pem).arg("-out").arg(&der);
    assert!(openssl.output().expect("openssl runs").status.success());
    let base64 = Command::new("openssl").args(["base64", "-in"]).arg(&der).output().unwrap();
    let key = String::from_utf8(base64.stdout).unwrap();
    assert!(key.lines().count() > 5, "the key is wrapped");
    workplace.write("old/me.info", format!("ada\r\n{}\r\n{key}", "07".repeat(16)));
    workplace.write("old/transfer.info", format!("{address}\nada\nfile.txt\n"));
    workplace.write("old/file.txt", "from an old client");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-inform", "DER", "-pubout", "-outform", "DER", "-in"]).arg(&der);
    openssl.output().unwrap().stdout
}

fn run_in(workplace: &Workplace, folder: &str, words: &[&str]) -> Run {
    let mut command = workplace.command(words);
    command.current_dir(workplace.join(folder));
    Run::of(command)
}

#[test]
fn an_installed_clients_me_info_is_taken_over_in_the_legacy_dialect() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    let public_key = install_old_client(&workplace, &server.address);
    server.know("ada", KnownClient { id: [7; 16], public_key: Some(public_key) });
    let run = run_in(&workplace, "old", &["backup", "--legacy"]).expect(0);
    assert!(run.err().contains("this client is ada"), "{}", run.err());
    assert_eq!(server.asked(), ["reconnect ada", "first packet of file.txt", "1029 file.txt"]);
    server.assert_has("file.txt", b"from an old client");
    let kept = std::fs::read_to_string(workplace.join("old/client/me.info")).unwrap();
    assert_eq!(kept.lines().count(), 3, "written on one line, which every client can read");
    run_in(&workplace, "old", &["backup", "--legacy"]).expect(0);
    server.assert_no_faults();
}

#[test]
fn a_native_client_takes_an_installed_clients_key_over() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let public_key = install_old_client(&workplace, &server.address);
    let run = run_in(&workplace, "old", &["backup"]).expect(0);
    assert!(run.err().contains("the key of ada is taken over from"), "{}", run.err());
    assert_eq!(std::fs::read(workplace.join("old/client/valid_public_key.der")).unwrap(), public_key);
    let mode = std::fs::metadata(workplace.join("old/client/valid_private_key.der")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    run_in(&workplace, "old", &["restore", "--to", "back"]).expect(0);
    let original = workplace.join("old/file.txt");
    let restored = workplace.join("old/back").join(original.strip_prefix("/").unwrap());
    tree::assert_same(&original, &restored);
    assert!(!run_in(&workplace, "old", &["backup"]).expect(0).err().contains("taken over"));
}

#[test]
fn a_me_info_of_another_user_or_without_sense_is_not_taken_over() {
    for (from, to, reason) in [("ada\r\n", "bob\r\n", "belongs to bob"), ("\n", "!\n", "is not used")] {
        let workplace = Workplace::new();
        let server = TestServer::start(&workplace);
        let public_key = install_old_client(&workplace, &server.address);
        let text = std::fs::read_to_string(workplace.join("old/me.info")).unwrap();
        workplace.write("old/me.info", text.replace(from, to));
        let run = run_in(&workplace, "old", &["backup", "--rsa-bits", "2048"]).expect(0);
        assert!(run.err().contains(reason), "{}", run.err());
        assert_ne!(std::fs::read(workplace.join("old/client/valid_public_key.der")).unwrap(), public_key);
    }
}

#[test]
fn a_state_folder_of_another_user_is_refused() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("a", "x");
    backup(&workplace, &server, &["a"]).expect(0);
    let run = backup(&workplace, &server, &["--user", "bob", "a"]).expect(2);
    assert!(run.err().contains("belongs to the user ada"), "{}", run.err());
    workplace.write("state/me.info", "ada\nnonsense\n");
    let run = backup(&workplace, &server, &["a"]).expect(2);
    assert!(run.err().contains("me.info is damaged (line 2"), "{}", run.err());
}

#[test]
fn a_native_client_that_meets_a_legacy_server_names_the_flag() {
    for greets in [false, true] {
        let (workplace, server) = (Workplace::new(), Counterpart::start(Manners { greets, ..Manners::default() }));
        workplace.write("a", "x");
        let words = ["backup", "--server", &server.address, "--user", "ada", "--rsa-bits", "2048", "a"];
        let run = workplace.run(words).expect(4);
        assert!(run.err().contains("\"backup --legacy\""), "{}", run.err());
        assert_eq!(server.asked(), Vec::<String>::new(), "the dialect is never changed by itself");
    }
}

#[test]
fn flags_that_the_dialect_has_nothing_for_are_refused() {
    let workplace = Workplace::new();
    workplace.write("a", "x");
    let native = [
        &["--local-server"][..],
        &["--server-fingerprint", "SHA256:x"],
        &["--parent", "x"],
        &["--tag", "x"],
        &["--full"],
    ];
    for flags in native {
        let run = workplace.run(words("localhost:1", &[flags, &["a"]].concat())).expect(2);
        assert!(run.err().contains(&format!("{} and --legacy exclude each other", flags[0])), "{}", run.err());
    }
    for flags in [["--legacy-exponent", "3"], ["--legacy-packet", "15"], ["--legacy-packet", "16777217"]] {
        workplace.run(words("localhost:1", &[&flags[..], &["a"]].concat())).expect(2);
    }
    let run = workplace.run(["backup", "--server", "localhost:1", "--legacy-packet", "1000", "a"]).expect(2);
    assert!(run.err().contains("only with --legacy"), "{}", run.err());
}

#[test]
fn a_dry_run_connects_nowhere_and_names_what_would_be_left_out() {
    let workplace = Workplace::new();
    workplace.write("source/a", "12345");
    std::fs::create_dir(workplace.join("source/empty")).unwrap();
    let run = workplace.run(words(&closed_address(), &["--dry-run", "source"])).expect(3);
    assert!(run.out().starts_with("dry run, nothing sent: 1 file, 5 B would be sent"), "{}", run.out());
    assert!(run.err().contains("source/empty: left out"), "{}", run.err());
    assert!(!workplace.join("state/me.info").exists() && !workplace.join("state/status.json").exists());
}

#[test]
fn json_tells_receipts_and_a_summary() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("source/a", "123456789");
    symlink("nowhere", workplace.join("source/link")).unwrap();
    let run = backup(&workplace, &server, &["--json", "source"]).expect(3);
    let receipt = run.event("file_receipt");
    assert_eq!((receipt["bytes"].as_u64(), receipt["crc32"].as_str()), (Some(9), Some("cbf43926")));
    let summary = run.event("summary");
    assert_eq!((summary["dialect"].as_str(), summary["files_sent"].as_u64()), (Some("legacy"), Some(1)));
    assert_eq!((summary["left_out"].as_u64(), summary["exit_code"].as_u64()), (Some(1), Some(3)));
    let progress = run.event("progress_update");
    assert_eq!((progress["files_done"].as_u64(), progress["bytes_transferred"].as_u64()), (Some(1), Some(9)));
    assert_eq!(progress["counted"].as_bool(), Some(true));
    let status = std::fs::read_to_string(workplace.join("state/status.json")).unwrap();
    assert!(status.contains("\"partial\"") && status.contains("\"legacy\""), "{status}");
    server.assert_no_faults();
}

#[test]
fn the_programs_own_state_is_never_sent() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    workplace.write("a", "x");
    let folder = workplace.path().to_str().unwrap();
    backup(&workplace, &server, &[folder]).expect(0);
    let last = Path::new(folder).file_name().and_then(OsStr::to_str).unwrap();
    assert_eq!(server.files(), [format!("{last}%2Fa")]);
}

#[test]
#[ignore = "a gibibyte: some seconds and 3 GiB of disk"]
fn a_gibibyte_takes_little_memory() {
    let (workplace, server) = (Workplace::new(), Counterpart::start(Manners::default()));
    let source = workplace.join("large");
    crate::support::large_file(&source, 1 << 30);
    let began = Instant::now();
    let started = Started::of(workplace.command(words(&server.address, &["large"])));
    let (run, peak_kib) = started.finish_measured();
    run.expect(0);
    println!("1 GiB in {:.1} s with decryption by openssl; peak {peak_kib} KiB", began.elapsed().as_secs_f64());
    assert!(peak_kib < 32 * 1024, "{peak_kib} KiB");
    assert_eq!(std::fs::metadata(server.file("large")).unwrap().len(), 1 << 30);
    server.assert_no_faults();
}
