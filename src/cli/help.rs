//! Help, made from the tables.

use super::arguments::{Command, Flag};
use super::commands::COMMANDS;

/// `cyberbackup help`.
pub fn overview() -> String {
    let mut text = String::from(
        "cyberbackup: encrypted backups over the network, and back\n\n\
         usage: cyberbackup COMMAND [FLAGS] [PATH…]\n\ncommands:\n",
    );
    for command in COMMANDS {
        text.push_str(&format!("  {:<10} {}\n", command.name, command.summary));
    }
    text.push_str(
        "  help       show this, or a command's flags: cyberbackup help COMMAND\n\n\
         first steps:\n\
         \x20 cyberbackup backup --local-server PATH      back up on this machine, one command\n\
         \x20 cyberbackup server                          run a server for others\n\
         \x20 cyberbackup backup --server HOST:1256 PATH  back up to it\n\
         \x20 cyberbackup restore --to DIR                give the newest snapshot back\n\n\
         Every flag can also stand in the environment: CYBERBACKUP_ and the flag in capitals.\n\
         exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done but some files could not be read,\n\
         4 no connection or still busy, 5 refused, 6 damaged data, 130 interrupted\n",
    );
    text
}

/// `cyberbackup help COMMAND`.
pub fn of_command(command: &Command) -> String {
    let mut text = format!(
        "cyberbackup {}: {}\n\nusage: cyberbackup {} {}\n\n{}\n\nflags:\n",
        command.name, command.summary, command.name, command.usage, command.about
    );
    for flag in command.flags.iter().flat_map(|group| group.iter()) {
        text.push_str(&format!("  {:<30} {}\n", spelled(flag), flag.help));
    }
    text
}

/// A flag as it is written: `-q, --quiet` or `--to DIR`.
fn spelled(flag: &Flag) -> String {
    let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("{short}--{}{value}", flag.name)
}

/// `cyberbackup --version`.
pub fn version() -> String {
    format!(
        "cyberbackup {} (protocol {}, store {}, vault {})\n",
        env!("CARGO_PKG_VERSION"),
        crate::protocol::header::VERSION,
        crate::storage::STORE_VERSION,
        crate::client::vault::format::HEAD_VERSION
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_is_explained() {
        for command in COMMANDS {
            assert!(overview().contains(command.summary));
            let text = of_command(command);
            for flag in command.flags.iter().flat_map(|group| group.iter()) {
                assert!(text.contains(&format!("--{}", flag.name)) && !flag.help.is_empty());
            }
            assert!(text.lines().all(|line| line.chars().count() <= 116), "{text}");
        }
    }

    #[test]
    fn no_command_has_a_flag_twice() {
        for command in COMMANDS {
            let mut names: Vec<_> =
                command.flags.iter().flat_map(|group| group.iter()).map(|flag| flag.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(
                names.len(),
                command.flags.iter().map(|group| group.len()).sum::<usize>(),
                "{}",
                command.name
            );
        }
    }
}
