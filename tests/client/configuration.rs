//! The files a person edits, the environment, and what comes before what.

use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

use crate::support::{Run, Started, TestServer, Workplace, closed_address, wait_until};

/// A backup in the workplace that goes by its `transfer.info` and tries only once.
fn backup(workplace: &Workplace) -> Run {
    workplace.run(["backup", "--retries", "0", "--rsa-bits", "2048"])
}

#[test]
fn a_malformed_transfer_info_is_named_with_its_line_and_nothing_is_made() {
    let long_name = format!("host:1\n{}\n/", "x".repeat(101));
    let too_many = format!("host:1\nada\n{}", "/etc\n".repeat(1_025));
    let cases: [(&[u8], usize, &str); 16] = [
        (b"", 1, "the server's host:port is wanted here"),
        (b"\n\n\n", 1, "the server's host:port is wanted here"),
        (b"host\nada\n/", 1, "the port is missing"),
        (b"host:0\nada\n/", 1, "the port must be a number from 1 to 65535"),
        (b"host:70000\nada\n/", 1, "the port must be a number from 1 to 65535"),
        (b":1256\nada\n/", 1, "the host must be a name or an address"),
        (b"::1:1256\nada\n/", 1, "an IPv6 address stands in brackets"),
        (b"host:1", 2, "the user name is wanted here"),
        (b"host:1\n\n/", 2, "the user name is wanted here"),
        (long_name.as_bytes(), 2, "at most 100 characters"),
        (b"host:1\n\xff\xfe\n/", 2, "no UTF-8 text"),
        (b"--valt\nhost:1\nada\n/", 1, "of flags only --vault can stand in this file"),
        (b"--vault\nhost:1\n--quiet\n/", 3, "of flags only --vault can stand in this file"),
        (b"host:1\nada\n/etc\n\n/usr", 4, "remove the empty line"),
        (b"host:1\nada\n/a\0b", 3, "this is no path"),
        (too_many.as_bytes(), 1_027, "more than 1024 paths"),
    ];
    for (content, line, problem) in cases {
        let workplace = Workplace::new();
        let file = workplace.write("transfer.info", content);
        let run = backup(&workplace).expect(2);
        let place = format!("{} line {line}: ", file.canonicalize().unwrap().display());
        let shown = String::from_utf8_lossy(content);
        assert!(run.err().contains(&place) && run.err().contains(problem), "{shown:?}: {}", run.err());
        assert!(!workplace.join("client").exists(), "{shown:?}: a state folder was made");
    }
}

#[test]
fn a_transfer_info_without_a_path_is_an_error_only_where_a_path_is_needed() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    workplace.write("transfer.info", format!("{}\nada\n", server.address));
    let run = backup(&workplace).expect(2);
    assert!(run.err().contains("transfer.info line 3: a path to back up is wanted here"), "{}", run.err());
    workplace.run(["snapshots"]).expect(0);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let workplace = Workplace::new();
    let run = workplace.run(["backup", "--config", "nowhere/transfer.info"]).expect(2);
    let wanted = "nowhere/transfer.info does not exist: write one (server, user name, paths: a line each), or use \
                  --server and --user";
    assert!(run.err().contains(wanted), "{}", run.err());
    std::fs::create_dir(workplace.join("folder")).unwrap();
    let run = workplace.run(["backup", "--config", "folder"]).expect(2);
    assert!(run.err().contains("folder cannot be read: "), "{}", run.err());
    workplace.write("large", vec![b'x'; 4 * 1024 * 1024 + 1]);
    let run = workplace.run(["backup", "--config", "large"]).expect(2);
    assert!(run.err().contains("large is larger than 4 MiB"), "{}", run.err());
}

#[test]
fn paths_of_a_configuration_count_from_its_folder_and_its_state_lies_beside_it() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let odd = std::ffi::OsStr::from_bytes(b"photos \xff");
    workplace.write(workplace.join("etc").join(odd).join("one"), "1");
    let mut info = format!("{}\r\nAda Lovelace\r\n", server.address).into_bytes();
    info.extend_from_slice(b"photos \xff\r\n\r\n");
    workplace.write("etc/transfer.info", info);
    workplace.run(["backup", "--config", "etc/transfer.info", "--rsa-bits", "2048"]).expect(0);
    assert!(workplace.join("etc/client/identity.json").exists());
    let listed = workplace.run(["ls", "--config", "etc/transfer.info"]).expect(0);
    assert!(listed.stdout.ends_with(b"/etc/photos \xff/one\n"), "{}", listed.out());
}

/// A loopback address that no other test uses, nor another run of the tests beside this one.
fn own_loopback() -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.77.{high}.{low}")
}

/// A server that goes by its `port.info`.
fn server_by_port_info(workplace: &Workplace, bind: &str) -> Started {
    let words = ["server", "--bind", bind, "--data", "data", "--rsa-bits", "2048"];
    Started::of(workplace.command(words))
}

#[test]
fn a_missing_or_wrong_port_info_is_a_warning_and_the_usual_port_is_taken() {
    for (content, problem) in [
        (None, "port.info does not exist: using port 1256"),
        (Some("0"), "port.info line 1: a port number from 1 to 65535 is wanted here: using port 1256"),
        (Some("12 56\n"), "port.info line 1: a port number from 1 to 65535 is wanted here: using port 1256"),
        (Some("many"), "port.info line 1: a port number from 1 to 65535 is wanted here: using port 1256"),
    ] {
        let workplace = Workplace::new();
        if let Some(content) = content {
            workplace.write("port.info", content);
        }
        let server = server_by_port_info(&workplace, &own_loopback());
        server.wait_for(&format!("listening on {}:1256", own_loopback()));
        assert!(server.err().contains(problem), "{content:?}: {}", server.err());
    }
}

#[test]
fn a_good_port_info_is_followed_without_a_word() {
    let workplace = Workplace::new();
    let free = TcpListener::bind("127.77.0.0:0").unwrap().local_addr().unwrap();
    workplace.write("port.info", format!("{}\r\n", free.port()));
    let server = server_by_port_info(&workplace, "127.77.0.0");
    wait_until(|| server.out().contains("key "), "the server's greeting");
    assert!(server.out().contains(&format!("listening on {free}\n")), "{}", server.out());
    assert!(!server.err().contains("port.info"), "{}", server.err());
}

#[test]
fn a_flag_comes_before_the_environment_before_the_file() {
    let (flag, variable, file) = (closed_address(), closed_address(), closed_address());
    let workplace = Workplace::new();
    workplace.write("transfer.info", format!("{file}\nada\n/etc/hostname"));
    let reached = |words: &[&str], environment: &[(&str, &str)]| {
        let mut command = workplace.command(["backup", "--retries", "0", "--rsa-bits", "2048"]);
        command.args(words).envs(environment.iter().copied());
        let run = Run::of(command).expect(4);
        let text = run.err();
        let after = text.split("no server answers at ").nth(1).unwrap_or_else(|| panic!("{text}")).to_string();
        after.split(": ").next().unwrap().to_string()
    };
    let environment = [("CYBERBACKUP_SERVER", variable.as_str())];
    assert_eq!(reached(&[], &[]), file);
    assert_eq!(reached(&[], &environment), variable);
    assert_eq!(reached(&["--server", &flag], &environment), flag);
    assert_eq!(reached(&[], &[("CYBERBACKUP_SERVER", "")]), file);
}

#[test]
fn the_environment_can_say_what_flags_can() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.write("source/file", "1");
    let mut command = workplace.command(["backup"]);
    command.arg(source).envs([
        ("CYBERBACKUP_SERVER", server.address.as_str()),
        ("CYBERBACKUP_USER", "from the environment"),
        ("CYBERBACKUP_STATE", "state"),
        ("CYBERBACKUP_RSA_BITS", "2048"),
        ("CYBERBACKUP_LABEL", "labelled"),
        ("CYBERBACKUP_JSON", "1"),
    ]);
    let run = Run::of(command).expect(0);
    assert!(run.event("summary")["snapshot"].is_string());
    let rows = workplace.run(["clients", "--data", "data", "--json"]).expect(0);
    assert_eq!(rows.event("client")["name"], "from the environment");
    let mut command = workplace.command(["snapshots", "--json", "--user", "from the environment"]);
    command.args(["--state", "state", "--server", &server.address]);
    assert_eq!(Run::of(command).expect(0).event("snapshot")["label"], "labelled");
}

#[test]
fn the_older_names_of_two_settings_are_honoured() {
    let workplace = Workplace::new();
    let stats = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = workplace.command(["stats", "--local-server", "--json", "--rsa-bits", "2048"]);
        command.args(flags).envs(variables.iter().copied());
        Run::of(command)
    };
    stats(&[], &[]).expect(0);
    let run = stats(&[("CLIENT_SOCKET_TIMEOUT", "soon")], &[]).expect(2);
    let error = run.event("error");
    assert_eq!(error["message"], "--timeout \"soon\": invalid digit found in string");
    let run = workplace.run(["server", "--port", "0", "--max-clients", "none"]).expect(2);
    assert!(run.err().contains("--max-clients \"none\""), "{}", run.err());
    let mut command = workplace.command(["server", "--port", "0"]);
    command.env("MAX_CONCURRENT_CLIENTS", "0");
    let run = Run::of(command).expect(2);
    assert!(run.err().contains("--max-clients 0: the value must be between 1 and"), "{}", run.err());
}
