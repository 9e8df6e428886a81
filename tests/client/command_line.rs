//! The command line itself: help, versions, and words that make no sense.

use crate::support::{Run, TestClient, TestServer, Workplace};

const COMMANDS: [&str; 13] = [
    "server",
    "backup",
    "restore",
    "snapshots",
    "ls",
    "cat",
    "find",
    "diff",
    "verify",
    "stats",
    "enroll",
    "clients",
    "export",
];

#[test]
fn every_command_has_help_in_three_ways() {
    let workplace = Workplace::new();
    let overview = workplace.run(["help"]).expect(0).out();
    assert_eq!(workplace.run(["--help"]).expect(0).out(), overview);
    assert_eq!(workplace.run(["-h"]).expect(0).out(), overview);
    for command in COMMANDS {
        assert!(overview.contains(&format!("\n  {command:<10} ")), "{command} is not in:\n{overview}");
        let help = workplace.run(["help", command]).expect(0).out();
        assert!(help.starts_with(&format!("cyberbackup {command}: ")), "{help}");
        assert!(help.contains(&format!("\nusage: cyberbackup {command} ")), "{help}");
        assert_eq!(workplace.run([command, "--help"]).expect(0).out(), help);
        assert_eq!(workplace.run([command, "some", "path", "-h"]).expect(0).out(), help);
    }
    assert!(std::fs::read_dir(workplace.path()).unwrap().next().is_none(), "help made something");
}

#[test]
fn no_words_at_all_are_wrong_usage_and_show_the_help() {
    let workplace = Workplace::new();
    let run = workplace.run([""; 0]).expect(2);
    assert!(run.out().is_empty() && run.err().contains("usage: cyberbackup COMMAND"), "{}", run.err());
}

#[test]
fn the_version_names_those_of_protocol_store_and_vault_too() {
    let workplace = Workplace::new();
    let program = format!("cyberbackup {} (", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        let text = workplace.run([flag]).expect(0).out();
        let rest = text.strip_prefix(&program).and_then(|rest| rest.strip_suffix(")\n"));
        let parts = rest.unwrap_or_else(|| panic!("{text}")).split(", ");
        let names: Vec<&str> = parts
            .map(|part| {
                let (name, number) = part.split_once(' ').unwrap();
                assert!(number.parse::<u32>().is_ok(), "{text}");
                name
            })
            .collect();
        assert_eq!(names, ["protocol", "store", "vault"], "{text}");
    }
}

#[test]
fn an_unknown_command_says_where_the_commands_are() {
    let workplace = Workplace::new();
    for words in [&["bakcup"][..], &["help", "bakcup"], &["bakcup", "--json"]] {
        let run = workplace.run(words).expect(2);
        let wanted = "cyberbackup: there is no command \"bakcup\": \"cyberbackup help\" lists the commands\n";
        assert_eq!(run.err(), wanted);
    }
}

#[test]
fn wrong_usage_says_what_to_do() {
    let workplace = Workplace::new();
    let local = ["--local-server", "--rsa-bits", "2048"];
    let cases: &[(&[&str], &str)] = &[
        (&["backup", "--nonsense"], "invalid option '--nonsense': \"cyberbackup help backup\" lists what there is"),
        (&["ls", "-x"], "invalid option '-x': \"cyberbackup help ls\" lists what there is"),
        (&["backup", "--user"], "\"cyberbackup help backup\" lists what there is"),
        (&["backup", "--json=yes"], "\"cyberbackup help backup\" lists what there is"),
        (
            &["backup", "/etc"],
            "no server is named: give one with --server HOST:PORT, write a transfer.info, or add",
        ),
        (&["backup", "--server", "here", "/etc"], "--server \"here\": the port is missing: write host:port"),
        (&["backup", "--retries", "many", "/etc"], "--retries \"many\": "),
        (&["backup", "--window", "1"], "--window 1: the value must be between 65536 and 16777216"),
        (&["backup", "--rsa-bits", "512"], "--rsa-bits 512: the value must be between 1024 and 4096"),
        (&["backup", "--rsa-bits", "2047"], "--rsa-bits 2047: the size must be a multiple of 8"),
        (&["backup", "--user", "", "/etc"], "--user \"\": "),
        (
            &["backup", "--full", "--parent", "20260101T000000Z-00000000", "/etc"],
            "--full and --parent exclude each",
        ),
        (&["backup"], "nothing to back up is named: give paths, or write a transfer.info with them from line 3 on"),
        (&["backup", "--tag", "", "/etc"], "--tag: a tag is valid UTF-8 and not empty"),
        (&["restore"], "where to restore to is not said: give --to DIR"),
        (&["snapshots", "path"], "path: \"snapshots\" takes no paths"),
        (&["stats", "path"], "path: \"stats\" takes no paths"),
        (&["enroll"], "\"enroll\" takes one name: cyberbackup enroll NAME"),
        (&["enroll", "ada", "--count", "0"], "--count 0: the value must be between 1 and 10000"),
        (&["enroll", "ada", "--data", "nowhere"], "nowhere holds no server's data: name the server's data folder"),
        (&["clients", "ada"], "\"clients\" alone lists them"),
        (&["clients", "remove", "ada"], "this removes ada and all its snapshots for good: say so with --yes"),
        (&["clients", "quota", "ada", "much"], "a size is a whole number and a unit"),
        (&["export", "latest"], "where to export to is not said"),
        (&["clients", "--data", "nowhere"], "nowhere holds no server's data"),
        (&["server", "path"], "path: \"server\" takes no paths; its data folder is --data"),
        (&["server", "--port", "70000"], "--port 70000: the value must be between 0 and 65535"),
        (
            &["server", "--registration", "all"],
            "--registration \"all\": the policies are local, open, token and closed",
        ),
        (&["server", "--log-file", "no/such/log"], "--log-file no/such/log: "),
    ];
    for (words, problem) in cases {
        let takes_server = !matches!(words[0], "enroll" | "clients" | "export" | "server");
        let names_one = words.contains(&"--server") || problem.starts_with("no server");
        let given = if takes_server && !names_one { &local[..] } else { &[] };
        // The case's own words come last, so that its values count.
        let words = [&words[..1], given, &words[1..]].concat();
        let run = workplace.run(&words).expect(2);
        assert!(run.err().contains(problem) && run.out().is_empty(), "{words:?}: {}", run.err());
        let last = run.err().lines().last().unwrap_or_default().to_string();
        assert!(last.starts_with("cyberbackup: "), "{words:?}: {}", run.err());
        let json = [&words[..1], &["--json"], &words[1..]].concat();
        let run = workplace.run(&json).expect(2);
        let error = run.event("error");
        assert!(error["message"].as_str().unwrap().contains(problem), "{json:?}: {}", run.out());
        assert_eq!((&error["exit_code"], run.events().len()), (&2.into(), 1), "{json:?}: {}", run.out());
    }
}

#[test]
fn a_secret_on_a_wrong_command_line_is_not_repeated() {
    let workplace = Workplace::new();
    let run = workplace.run(["backup", "--local-server", "--enroll-token", "my-secret-token", "/etc"]).expect(2);
    assert!(run.err().contains("--enroll-token: ") && !run.err().contains("my-secret"), "{}", run.err());
}

#[test]
fn a_server_and_one_inside_the_process_exclude_each_other() {
    let workplace = Workplace::new();
    let run = workplace.run(["backup", "--local-server", "--server", "localhost:1", "/etc/hostname"]).expect(2);
    assert!(run.err().contains("--server and --local-server exclude each other: leave one out"), "{}", run.err());
    let mut command = workplace.command(["backup", "--local-server", "/etc/hostname"]);
    command.env("CYBERBACKUP_SERVER", "localhost:1");
    Run::of(command).expect(2);
}

#[test]
fn two_dashes_end_the_flags() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("--json", "named like a flag");
    client.run(["backup", "--quiet", "--", "--json"]).expect(0);
    let run = client.run(["ls"]).expect(0);
    assert!(run.out().ends_with("/--json\n") && run.out().lines().count() == 1, "{}", run.out());
}

#[test]
fn flags_and_paths_come_in_any_order() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    for name in ["a", "b"] {
        workplace.write(name, name);
    }
    let summary = client.run(["backup", "a", "--json", "b", "-q"]).expect(0).event("summary");
    assert_eq!(summary["files"], 2);
}

#[test]
fn a_dry_run_says_what_would_be_sent_and_stores_nothing() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/file", "12345");
    let run = client.run(["backup", "--dry-run", "source"]).expect(0);
    assert!(
        run.out().starts_with("dry run, nothing stored: 1 file, 5 B; 1 file, 5 B would be sent"),
        "{}",
        run.out()
    );
    let summary = client.run(["backup", "--dry-run", "--json", "source"]).expect(0).event("summary");
    assert_eq!((&summary["dry_run"], &summary["snapshot"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(client.run(["snapshots"]).expect(0).out(), "");
}

#[test]
fn verbose_names_the_state_folder_and_quiet_says_nothing_but_the_result() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("file", "1");
    let run = client.run(["backup", "-v", "file"]).expect(0);
    assert!(run.err().contains(&format!("state folder: {}\n", client.state().display())), "{}", run.err());
    let run = client.run(["backup", "--quiet", "file"]).expect(0);
    assert_eq!((run.err().as_str(), run.out().lines().count()), ("", 1), "{}", run.err());
}

#[test]
fn the_log_file_gets_what_the_log_says() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--log-file", "server.txt"]);
    TestClient::new(&workplace, &server.address, "ada").run(["stats"]).expect(0);
    server.wait_for_log("ada is here");
    assert_eq!(server.stop(), 0);
    let log = std::fs::read_to_string(workplace.join("server.txt")).unwrap();
    assert!(log.contains("ada is here") && log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn the_name_of_the_state_folder_is_the_usual_one() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/file", "12345");
    client.run(["backup", "source"]).expect(0);
    let user = client.flags.iter().position(|flag| flag == "--user").expect("the flag is there");
    client.flags.drain(user..user + 2);
    assert_eq!(client.run(["ls"]).expect(0).out().lines().count(), 2);
}

#[test]
fn an_empty_path_is_no_path() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    workplace.write("source/file", "12345");
    let run = client.run(["backup", "source", ""]).expect(2);
    assert!(run.err().contains("one of the paths is empty"), "{}", run.err());
    assert!(client.run(["restore", "--to", ""]).expect(2).err().contains("give --to DIR"));
}
