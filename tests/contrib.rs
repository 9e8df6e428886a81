//! The files for service managers: what they call exists, and they leave the services little to do harm with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Run, Workplace};

const PROGRAM_PATH: &str = "/usr/local/bin/cyberbackup";

fn files() -> Vec<PathBuf> {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let below = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    let mut files: Vec<PathBuf> = below(contrib).flat_map(below).collect();
    files.sort();
    files
}

/// The command lines of the program in a file: its name's or its variable's rest of the line.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut lines: Vec<String> = Vec::new();
    for line in code {
        if let Some((_, rest)) = line.split_once(&format!("{PROGRAM_PATH} ")) {
            lines.push(rest.to_string());
        } else if let Some(rest) = line.strip_prefix("command_args=") {
            // Of the script's own variables, only the flags hold more words.
            let flags = text.split(": \"${cyberbackup_flags:=").nth(1).and_then(|flags| flags.split('}').next());
            lines.push(rest.trim_matches('"').replace("${cyberbackup_flags}", flags.unwrap_or_default()));
        }
    }
    let words = |line: &String| line.split_whitespace().take_while(|word| *word != ">").map(String::from).collect();
    lines.iter().map(words).collect()
}

#[test]
fn service_files_call_commands_and_flags_that_exist() {
    let workplace = Workplace::new();
    let mut found = 0;
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for words in command_lines(&text) {
            found += 1;
            let help = workplace.run(["help", &words[0]]).expect(0).out();
            assert!(help.contains(&format!("cyberbackup {}: ", words[0])), "{}: {words:?}", file.display());
            for flag in words.iter().filter(|word| word.starts_with('-')) {
                let known = help.lines().filter_map(|line| line.trim_start().split_once("  "));
                let is_flag = |spelled: &str| spelled.split([' ', ',']).any(|word| word == flag);
                assert!(known.map(|(spelled, _)| spelled).any(is_flag), "{}: {flag}", file.display());
            }
        }
    }
    assert_eq!(found, 6, "every file calls the program");
}

#[test]
fn the_units_are_understood_and_exposed_little() {
    let units: Vec<PathBuf> =
        files().into_iter().filter(|file| file.parent().unwrap().ends_with("systemd")).collect();
    let services: Vec<&PathBuf> =
        units.iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "service")).collect();
    assert_eq!((units.len(), services.len()), (5, 3));
    for service in services {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--threshold=30", "--no-pager"]).arg(service);
        if command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: there is no systemd-analyze here");
            return;
        }
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--threshold=30", "--no-pager"]).arg(service);
        let run = Run::of(command);
        assert_eq!(run.code, 0, "{}: {}", service.display(), run.out());
    }
    // The program is looked for where the unit says: here, where it was built.
    let workplace = Workplace::new();
    for unit in &units {
        let text = std::fs::read_to_string(unit).unwrap().replace(PROGRAM_PATH, env!("CARGO_BIN_EXE_cyberbackup"));
        workplace.write(Path::new("units").join(unit.file_name().unwrap()), text);
    }
    for unit in &units {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(workplace.join("units").join(unit.file_name().unwrap()));
        let run = Run::of(command);
        let name = unit.file_name().unwrap().to_string_lossy();
        let own = run.err().lines().filter(|line| line.contains(&*name)).map(String::from).collect::<Vec<_>>();
        assert_eq!(own, [""; 0], "{name}");
    }
}

#[test]
fn the_init_script_is_a_shell_script() {
    let script = files().into_iter().find(|file| file.parent().unwrap().ends_with("openrc")).unwrap();
    let mut command = Command::new("sh");
    command.arg("-n").arg(script);
    Run::of(command).expect(0);
}
