//! The command line: which flags there are, what they mean, and what a run was given. Parsing and help come
//! from the same tables, so that they cannot disagree.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    /// What its value is called in the help; none for a switch. In brackets, it may be left out.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// One command.
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub usage: &'static str,
    pub summary: &'static str,
    /// A paragraph or more for `help COMMAND`.
    pub about: &'static str,
    pub flags: &'static [&'static [Flag]],
}

/// A command line that cannot be understood (exit 2).
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What a run was given: flags, from the command line or the environment, and positional arguments.
#[derive(Debug, Default)]
pub struct Arguments {
    given: HashMap<&'static str, Vec<OsString>>,
    /// Whether the environment is asked for what the command line leaves out.
    environment: HashMap<String, OsString>,
    pub positional: Vec<OsString>,
}

impl Arguments {
    /// Parses what follows the command's name. Flags and paths come in any order; `--` ends the flags.
    pub fn parse(
        command: &Command,
        words: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Arguments, UsageError> {
        let mut arguments = Arguments::default();
        let mut parser = lexopt::Parser::from_args(words);
        while let Some(argument) = parser.next().map_err(|error| usage(command, error.to_string()))? {
            let flag = match &argument {
                lexopt::Arg::Value(value) => {
                    arguments.positional.push(value.clone());
                    continue;
                }
                lexopt::Arg::Long(name) => find(command, |flag| flag.name == *name),
                lexopt::Arg::Short(short) => find(command, |flag| flag.short == Some(*short)),
            };
            let Some(flag) = flag else {
                return Err(usage(command, argument.unexpected().to_string()));
            };
            let value = match flag.value {
                Some(value) if value.starts_with('[') => optional_value(&mut parser),
                Some(_) => parser.value().map_err(|error| usage(command, error.to_string()))?,
                None => OsString::from("1"),
            };
            arguments.given.entry(flag.name).or_default().push(value);
        }
        arguments.environment =
            environment.into_iter().filter_map(|(key, value)| Some((key.into_string().ok()?, value))).collect();
        let switches = command.flags.iter().flat_map(|group| group.iter()).filter(|flag| flag.value.is_none());
        for flag in switches {
            if let Some(value) = arguments.variable(flag.name)
                && switched(value).is_none()
            {
                let problem = format!("the environment has {value:?} for --{}: it is on or off", flag.name);
                return Err(usage(command, problem));
            }
        }
        Ok(arguments)
    }

    /// Whether a switch is on, by the command line or the environment.
    pub fn is_on(&self, name: &'static str) -> bool {
        self.given.contains_key(name) || self.variable(name).and_then(|value| switched(value)) == Some(true)
    }

    /// The value given last on the command line, else the environment's.
    pub fn value(&self, name: &'static str) -> Option<&OsStr> {
        let given = self.given.get(name).and_then(|values| values.last());
        given.or_else(|| self.variable(name)).map(OsString::as_os_str)
    }

    /// All values given on the command line, else the environment's one.
    pub fn values(&self, name: &'static str) -> Vec<&OsStr> {
        match self.given.get(name) {
            Some(values) => values.iter().map(OsString::as_os_str).collect(),
            None => self.variable(name).map(OsString::as_os_str).into_iter().collect(),
        }
    }

    /// All values given on the command line, for what no environment should say: what is to be removed.
    pub fn given(&self, name: &'static str) -> Vec<&OsStr> {
        self.given.get(name).into_iter().flatten().map(OsString::as_os_str).collect()
    }

    /// A path; an empty one counts as none, as the environment's do.
    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.value(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A value as text.
    pub fn text(&self, name: &'static str) -> Result<Option<String>, UsageError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.to_str() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(UsageError(format!("--{name}: the value is not valid UTF-8"))),
        }
    }

    /// A value parsed as `T`; an error names the flag, the value and what is wrong.
    pub fn parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, UsageError>
    where
        T::Err: fmt::Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(UsageError(format!("--{name} {text:?}: {error}"))),
        }
    }

    /// A number within bounds.
    pub fn number(&self, name: &'static str, least: u64, most: u64) -> Result<Option<u64>, UsageError> {
        match self.parsed::<u64>(name)? {
            Some(value) if !(least..=most).contains(&value) => {
                Err(UsageError(format!("--{name} {value}: the value must be between {least} and {most}")))
            }
            value => Ok(value),
        }
    }

    /// `CYBERBACKUP_` and the flag in capitals; two older names are honoured too.
    fn variable(&self, name: &str) -> Option<&OsString> {
        let capitals = name.to_uppercase().replace('-', "_");
        let older = match name {
            "max-clients" => Some("MAX_CONCURRENT_CLIENTS"),
            "timeout" => Some("CLIENT_SOCKET_TIMEOUT"),
            _ => None,
        };
        self.environment
            .get(&format!("CYBERBACKUP_{capitals}"))
            .or_else(|| self.environment.get(older?))
            .filter(|value| !value.is_empty())
    }
}

/// What a switch is set to by the environment; none where that cannot be told.
fn switched(value: &OsStr) -> Option<bool> {
    match value.to_str()?.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A value after `=`, or the next word unless it is a flag; empty where there is none.
fn optional_value(parser: &mut lexopt::Parser) -> OsString {
    if let Some(value) = parser.optional_value() {
        return value;
    }
    let words = parser.try_raw_args();
    let next = words.and_then(|mut words| words.next_if(|word| !word.as_encoded_bytes().starts_with(b"-")));
    next.unwrap_or_default()
}

fn find(command: &Command, matches: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    command.flags.iter().flat_map(|group| group.iter()).find(|flag| matches(flag))
}

fn usage(command: &Command, problem: String) -> UsageError {
    UsageError(format!("{problem}: \"cyberbackup help {}\" lists what there is", command.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "to", short: None, value: Some("DIR"), help: "" },
        Flag { name: "quiet", short: Some('q'), value: None, help: "" },
        Flag { name: "max-clients", short: None, value: Some("N"), help: "" },
        Flag { name: "dashboard", short: None, value: Some("[ADDR:PORT]"), help: "" },
    ];
    const COMMAND: Command = Command { name: "restore", usage: "", summary: "", about: "", flags: &[FLAGS] };

    fn parse(words: &[&str], environment: &[(&str, &str)]) -> Result<Arguments, UsageError> {
        let environment = environment.iter().map(|(key, value)| (OsString::from(key), OsString::from(value)));
        Arguments::parse(&COMMAND, words.iter().map(OsString::from), environment)
    }

    #[test]
    fn flags_and_paths_come_in_any_order_and_two_dashes_end_the_flags() {
        let arguments = parse(&["a", "--to", "d", "-q", "b", "--", "-rf"], &[]).unwrap();
        assert_eq!(arguments.positional, ["a", "b", "-rf"]);
        assert_eq!(arguments.path("to"), Some(PathBuf::from("d")));
        assert!(arguments.is_on("quiet"));
    }

    #[test]
    fn the_command_line_comes_before_the_environment() {
        let environment = [("CYBERBACKUP_TO", "e"), ("MAX_CONCURRENT_CLIENTS", "7"), ("CYBERBACKUP_QUIET", "yes")];
        let arguments = parse(&["--to", "d"], &environment).unwrap();
        assert_eq!(arguments.path("to"), Some(PathBuf::from("d")));
        assert_eq!(arguments.number("max-clients", 1, 10), Ok(Some(7)));
        assert!(arguments.is_on("quiet"));
        assert_eq!(parse(&[], &environment).unwrap().path("to"), Some(PathBuf::from("e")));
    }

    #[test]
    fn a_switch_in_the_environment_is_on_or_off_and_nothing_else() {
        for (value, is_on) in [("1", true), ("on", true), ("TRUE", true), ("0", false), ("No", false), ("", false)]
        {
            assert_eq!(parse(&[], &[("CYBERBACKUP_QUIET", value)]).unwrap().is_on("quiet"), is_on, "{value}");
        }
        let refused = parse(&[], &[("CYBERBACKUP_QUIET", "enabled")]).unwrap_err().to_string();
        assert!(refused.contains("\"enabled\" for --quiet"), "{refused}");
    }

    #[test]
    fn a_value_in_brackets_may_be_left_out() {
        for (words, value, positional) in [
            (&["--dashboard"][..], Some(""), &[][..]),
            (&["--dashboard", "-q", "a"], Some(""), &["a"]),
            (&["--dashboard", "1:2", "a"], Some("1:2"), &["a"]),
            (&["--dashboard=1:2", "a"], Some("1:2"), &["a"]),
            (&["--dashboard=", "a"], Some(""), &["a"]),
            (&["a"], None, &["a"]),
        ] {
            let arguments = parse(words, &[]).unwrap();
            assert_eq!(arguments.text("dashboard").unwrap().as_deref(), value, "{words:?}");
            assert_eq!(arguments.positional, positional, "{words:?}");
        }
    }

    #[test]
    fn an_error_names_the_flag_and_the_next_step() {
        let error = parse(&["--nonsense"], &[]).unwrap_err().0;
        assert_eq!(error, "invalid option '--nonsense': \"cyberbackup help restore\" lists what there is");
        let error = parse(&["--max-clients", "0"], &[]).unwrap().number("max-clients", 1, 9).unwrap_err().0;
        assert_eq!(error, "--max-clients 0: the value must be between 1 and 9");
        let error = parse(&["--max-clients", "x"], &[]).unwrap().number("max-clients", 1, 9).unwrap_err().0;
        assert_eq!(error, "--max-clients \"x\": invalid digit found in string");
    }
}
