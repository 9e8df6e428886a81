//! A program that is told what happened: with variables and JSON on its standard input, without a shell, and for no
//! longer than a limit.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::limits::{HOOK_END_MAX, HOOK_TIME_MAX};

/// What stands before the name of every variable.
const PREFIX: &str = "CYBERBACKUP_HOOK_";
/// Variables of this program that a hook does not get: secrets, and those that would call hooks from the hook.
const WITHHELD: [&str; 8] = [
    "CYBERBACKUP_ENROLL_TOKEN",
    "CYBERBACKUP_ON_SUCCESS",
    "CYBERBACKUP_ON_FAILURE",
    "CYBERBACKUP_ON_EVENT",
    "CYBERBACKUP_STORAGE_KEY_FILE",
    "CYBERBACKUP_STORAGE_KEY_COMMAND",
    "CYBERBACKUP_PASSPHRASE",
    "CYBERBACKUP_NEW_PASSPHRASE",
];
/// How often a running hook is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A command line: a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    words: Vec<String>,
}

/// Why a hook was not told, or did not take it.
#[derive(Debug)]
pub enum HookError {
    Start { program: String, source: io::Error },
    Wait { program: String, source: io::Error },
    Slow { program: String },
    Ended { program: String, status: String },
}

impl fmt::Display for HookError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookError::Start { program, source } => write!(formatter, "cannot start {program}: {source}"),
            HookError::Wait { program, source } => write!(formatter, "cannot wait for {program}: {source}"),
            HookError::Slow { program } => {
                write!(formatter, "{program} was ended: it took longer than {} s", HOOK_TIME_MAX.as_secs())
            }
            HookError::Ended { program, status } => write!(formatter, "{program} ended with {status}"),
        }
    }
}

impl std::error::Error for HookError {}

impl FromStr for Hook {
    type Err = &'static str;

    /// Words are parted by spaces. Within quotes of either kind a space is part of the word; a backslash, but not within
    /// single quotes, takes the next character as it is. Nothing else means anything.
    fn from_str(text: &str) -> Result<Hook, &'static str> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                ('\\', None | Some('"')) => {
                    let next = characters.next().ok_or("a backslash stands at its end")?;
                    word.get_or_insert_default().push(next);
                }
                (c, None) if c.is_whitespace() => words.extend(word.take()),
                (c, _) => word.get_or_insert_default().push(c),
            }
        }
        if quote.is_some() {
            return Err("a quote is not closed");
        }
        words.extend(word);
        match words.first() {
            Some(program) if !program.is_empty() => Ok(Hook { words }),
            _ => Err("a command is wanted here: a program, and its arguments if there are any"),
        }
    }
}

impl Hook {
    /// Runs the program and gives what it prints, at most `limit` bytes of it.
    ///
    /// # Errors
    /// Where it does not start, fails, or takes too long.
    pub fn ask(&self, limit: u64) -> Result<Vec<u8>, HookError> {
        self.ask_within(limit, HOOK_TIME_MAX)
    }

    /// `time` is how long the output may stay open.
    fn ask_within(&self, limit: u64, time: Duration) -> Result<Vec<u8>, HookError> {
        let program = self.words[0].clone();
        let mut command = Command::new(&program);
        command.args(&self.words[1..]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|source| HookError::Start { program: program.clone(), source })?;
        let pipe = child.stdout.take();
        let began = Instant::now();
        let (sender, receiver) = mpsc::channel();
        // Left alone where somebody who went his own way keeps the pipe open: it holds no more than the limit.
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.map(|pipe| pipe.take(limit).read_to_end(&mut bytes)).transpose();
            let _ = sender.send(read.map(|_| bytes));
        });
        let ended = wait(&mut child, &|| false);
        end_group(&child);
        match ended {
            Ok(Some(status)) if status.success() => {
                match receiver.recv_timeout(time.saturating_sub(began.elapsed())) {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(source)) => Err(HookError::Wait { program, source }),
                    Err(_) => Err(HookError::Slow { program }),
                }
            }
            Ok(Some(status)) => Err(HookError::Ended { program, status: status.to_string() }),
            Ok(None) => {
                let _ = child.wait();
                Err(HookError::Slow { program })
            }
            Err(source) => Err(HookError::Wait { program, source }),
        }
    }

    /// Runs the program and waits for its end; `variables` get their prefix here. What it prints goes to standard
    /// error. Once `stops` says so, or its time is over, it is ended with all its children of the same group.
    pub fn tell(
        &self,
        variables: &[(&str, String)],
        input: &[u8],
        stops: &dyn Fn() -> bool,
    ) -> Result<(), HookError> {
        let program = self.words[0].clone();
        let mut command = Command::new(&program);
        command.args(&self.words[1..]).process_group(0);
        command.stdin(Stdio::piped()).stdout(io::stderr()).stderr(Stdio::inherit());
        for name in WITHHELD {
            command.env_remove(name);
        }
        for (name, value) in variables {
            // The system takes no NUL there.
            command.env(format!("{PREFIX}{name}"), OsString::from(value.replace('\0', "")));
        }
        let mut child = command.spawn().map_err(|source| HookError::Start { program: program.clone(), source })?;
        let pipe = child.stdin.take();
        thread::scope(|scope| {
            // A hook need not read: the pipe breaks at its end, which ends this.
            scope.spawn(move || pipe.map(|mut pipe| pipe.write_all(input)));
            let ended = wait(&mut child, stops);
            // Whatever it left behind in the background goes too, and with it the last reader of the pipe.
            end_group(&child);
            match ended {
                Ok(Some(status)) if status.success() => Ok(()),
                Ok(Some(status)) => Err(HookError::Ended { program, status: status.to_string() }),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    Err(HookError::Slow { program })
                }
                Err(source) => Err(HookError::Wait { program, source }),
            }
        })
    }
}

/// None where its time was over.
fn wait(child: &mut Child, stops: &dyn Fn() -> bool) -> io::Result<Option<std::process::ExitStatus>> {
    let mut deadline = Instant::now() + HOOK_TIME_MAX;
    let mut stopping = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if !stopping && stops() {
            stopping = true;
            deadline = deadline.min(Instant::now() + HOOK_END_MAX);
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn end_group(child: &Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        // Nobody may be left in it.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.parse::<Hook>().unwrap().words
    }

    #[test]
    fn a_command_is_parted_by_spaces_and_quotes_and_by_nothing_else() {
        assert_eq!(words("/bin/mail -s  done"), ["/bin/mail", "-s", "done"]);
        assert_eq!(words(r#"'/a b/c' "x \" y" it\'s ''"#), ["/a b/c", "x \" y", "it's", ""]);
        assert_eq!(words("echo $HOME;rm > x"), ["echo", "$HOME;rm", ">", "x"]);
        for bad in ["", "  ", "''", "a 'b", "a \\"] {
            assert!(bad.parse::<Hook>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hook_gets_variables_and_input_and_its_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("hook");
        let out = folder.path().join("out");
        let text = format!("#!/bin/sh\ncat > {0}\necho \"$CYBERBACKUP_HOOK_TEXT\" >> {0}\nexit 3\n", out.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let hook: Hook = script.to_str().unwrap().parse().unwrap();
        let error = hook.tell(&[("TEXT", "a\0b $x".into())], b"input\n", &|| false).unwrap_err();
        assert!(error.to_string().ends_with("ended with exit status: 3"), "{error}");
        assert_eq!(std::fs::read_to_string(out).unwrap(), "input\nab $x\n");
        let none: Hook = "/nowhere/at/all".parse().unwrap();
        assert!(
            none.tell(&[], b"", &|| false).unwrap_err().to_string().starts_with("cannot start /nowhere/at/all")
        );
    }

    #[test]
    fn a_hook_that_hangs_is_ended_with_its_children_and_much_input_holds_nothing_up() {
        let hook: Hook = "sh -c 'sleep 300 & sleep 300'".parse().unwrap();
        let began = Instant::now();
        let error = hook.tell(&[], &vec![b'x'; 1 << 20], &|| true).unwrap_err();
        assert!(matches!(error, HookError::Slow { .. }), "{error}");
        assert!(began.elapsed() < HOOK_END_MAX + Duration::from_secs(20));
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_does_not_hold_up_an_answer_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let script = r#"sh -c 'setsid sh -c "touch GONE; exec sleep 30" & until [ -e GONE ]; do sleep 0.01; done; echo key'"#;
        let hook: Hook = script.replace("GONE", gone.to_str().unwrap()).parse().unwrap();
        let began = Instant::now();
        let error = hook.ask_within(100, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, HookError::Slow { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
        let hook: Hook = "echo key".parse().unwrap();
        assert_eq!(hook.ask(100).unwrap(), b"key\n");
    }
}
