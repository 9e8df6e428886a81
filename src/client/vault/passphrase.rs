//! Where the passphrase of a vault's full key comes from: a file, a command, the environment, or a person.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::super::error::ClientError;
use crate::base::hook::Hook;
use crate::base::limits::PASSPHRASE_BYTES_MAX;
use crate::base::shutdown::Shutdown;

/// What holds a passphrase: wiped when dropped.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// The terminal of this process, wherever its input comes from.
const TERMINAL: &str = "/dev/tty";
/// How often it is looked whether the person gave up.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Where a passphrase comes from.
pub enum PassphraseSource {
    /// One line end is dropped, `\n` or `\r\n`.
    File(PathBuf),
    /// What a program prints; its line end is dropped alike.
    Command(Hook),
    /// As it is.
    Given(Passphrase),
    /// A person is asked.
    Terminal,
}

impl PassphraseSource {
    /// The passphrase of what is there already.
    ///
    /// # Errors
    /// [`ClientError::Impossible`] where there is none, or an empty one; [`ClientError::Interrupted`].
    pub fn read(&self, what: &str, shutdown: &Shutdown) -> Result<Passphrase, ClientError> {
        let passphrase = match self {
            PassphraseSource::File(path) => without_line_end(read_file(path)?),
            PassphraseSource::Command(command) => {
                let printed = command.ask(PASSPHRASE_BYTES_MAX as u64 + 2).map(Zeroizing::new);
                let failed =
                    |error| ClientError::Impossible(format!("the passphrase's command gives none: {error}"));
                without_line_end(printed.map_err(failed)?)
            }
            PassphraseSource::Given(passphrase) => passphrase.clone(),
            PassphraseSource::Terminal => ask(&format!("passphrase of {what}: "), shutdown)?,
        };
        match passphrase.len() {
            0 => Err(ClientError::Impossible(format!("the passphrase of {what} is empty: give another one"))),
            bytes if bytes > PASSPHRASE_BYTES_MAX => {
                let text = format!("the passphrase of {what} is too long: at most {PASSPHRASE_BYTES_MAX} bytes");
                Err(ClientError::Impossible(text))
            }
            _ => Ok(passphrase),
        }
    }

    /// A passphrase for what is to be made. A person is asked twice.
    ///
    /// # Errors
    /// As [`PassphraseSource::read`]; [`ClientError::Impossible`] where the two are not the same.
    pub fn read_new(&self, what: &str, shutdown: &Shutdown) -> Result<Passphrase, ClientError> {
        let first = self.read(&format!("{what} (new)"), shutdown)?;
        if !matches!(self, PassphraseSource::Terminal) || ask("the same again: ", shutdown)? == first {
            return Ok(first);
        }
        Err(ClientError::Impossible("the two passphrases differ: run this again".to_string()))
    }
}

fn without_line_end(mut passphrase: Passphrase) -> Passphrase {
    if passphrase.ends_with(b"\n") {
        passphrase.pop();
        if passphrase.ends_with(b"\r") {
            passphrase.pop();
        }
    }
    passphrase
}

fn read_file(path: &Path) -> Result<Passphrase, ClientError> {
    let failed = |source| ClientError::Io { doing: format!("read the passphrase in {}", path.display()), source };
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 3));
    let file = File::open(path).map_err(failed)?;
    // One more than the longest with its line end: what is too long is seen as such.
    file.take(PASSPHRASE_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Asks a person, without showing what is typed.
fn ask(question: &str, shutdown: &Shutdown) -> Result<Passphrase, ClientError> {
    let failed = |source| ClientError::Io { doing: "ask for the passphrase on the terminal".to_string(), source };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let Ok(terminal) = rustix::fs::open(TERMINAL, flags, Mode::empty()) else {
        let text = "there is no terminal to ask for the passphrase on: give --passphrase-file FILE, \
                    --passphrase-command CMD, or CYBERBACKUP_PASSPHRASE in the environment";
        return Err(ClientError::Impossible(text.to_string()));
    };
    let silence = Silence::begin(File::from(terminal)).map_err(failed)?;
    let passphrase = silence.ask(question, shutdown).map_err(failed)?;
    passphrase.ok_or(ClientError::Interrupted)
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn begin(terminal: File) -> io::Result<Silence> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }

    /// A line, without its end; none where the person gave up.
    fn ask(&self, question: &str, shutdown: &Shutdown) -> io::Result<Option<Passphrase>> {
        (&self.terminal).write_all(question.as_bytes())?;
        let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
        while line.len() <= PASSPHRASE_BYTES_MAX {
            if shutdown.is_requested() {
                return Ok(None);
            }
            if !self.is_ready()? {
                continue;
            }
            let mut byte = Zeroizing::new([0]);
            match (&self.terminal).read(&mut byte[..]) {
                Ok(0) => break,
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(line))
    }

    fn is_ready(&self) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.terminal, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_dropped_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        let read = |content: &[u8]| {
            std::fs::write(&file, content).unwrap();
            PassphraseSource::File(file.clone()).read("it", &Shutdown::new()).map(|passphrase| passphrase.to_vec())
        };
        assert_eq!(read(b"secret\n").unwrap(), b"secret");
        assert_eq!(read(b" secret \n\n").unwrap(), b" secret \n");
        assert_eq!(read(b"secret\r\n").unwrap(), b"secret");
        assert_eq!(read(b"secret\r\n\r\n").unwrap(), b"secret\r\n");
        assert_eq!(read(b"secret\r").unwrap(), b"secret\r");
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert_eq!(read(empty).unwrap_err().to_string(), "the passphrase of it is empty: give another one");
        }
        assert_eq!(read(&[b'x'; PASSPHRASE_BYTES_MAX]).unwrap().len(), PASSPHRASE_BYTES_MAX);
        let longest = [&[b'x'; PASSPHRASE_BYTES_MAX][..], b"\r\n"].concat();
        assert_eq!(read(&longest).unwrap().len(), PASSPHRASE_BYTES_MAX);
        assert!(read(&[b'x'; PASSPHRASE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_command_is_asked_and_its_failure_told() {
        let ask = |command: &str| {
            let source = PassphraseSource::Command(command.parse().unwrap());
            source.read("it", &Shutdown::new()).map(|passphrase| passphrase.to_vec())
        };
        assert_eq!(ask("echo 'two words'").unwrap(), b"two words");
        assert!(ask("false").unwrap_err().to_string().contains("the passphrase's command gives none"));
        assert!(ask("true").is_err());
    }
}
