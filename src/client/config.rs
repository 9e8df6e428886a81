//! The files a person edits: `transfer.info` and `port.info`. Their errors name the file and the line, and
//! say what is wanted there.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::facts::cause;
use crate::base::ids::UserName;
use crate::base::limits::{DEFAULT_PORT, PATH_BYTES_MAX, ROOTS_MAX};
use crate::base::path::display_bytes;

/// How much of a configuration file is read.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The line that has backups go into the vault, as the flag does.
pub const VAULT_LINE: &str = "--vault";
/// Longest host name, by RFC 1035 as text.
const HOST_CHARACTERS_MAX: usize = 253;

/// Where a server is: `host:port`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// The host's name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

/// Why text is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressError {
    NoPort,
    Port,
    Host,
    Brackets,
}

impl fmt::Display for AddressError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AddressError::NoPort => "the port is missing: write host:port, as in backup.example.org:1256",
            AddressError::Port => "the port must be a number from 1 to 65535: write host:port",
            AddressError::Host => "the host must be a name or an address: write host:port",
            AddressError::Brackets => "an IPv6 address stands in brackets: write [address]:port, as in [::1]:1256",
        })
    }
}

impl std::error::Error for AddressError {}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<ServerAddress, AddressError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(AddressError::Brackets)?;
                let zone_cut = host.split('%').next().unwrap_or(host);
                zone_cut.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Brackets)?;
                (host, port.strip_prefix(':').ok_or(AddressError::NoPort)?)
            }
            None => text.rsplit_once(':').ok_or(AddressError::NoPort)?,
        };
        let is_bare_name = !text.starts_with('[');
        if is_bare_name && host.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(AddressError::Brackets);
        }
        let odd = |character: char| {
            character.is_whitespace()
                || character.is_control()
                || "/@[]".contains(character)
                || (is_bare_name && character == ':')
        };
        if host.is_empty() || host.len() > HOST_CHARACTERS_MAX || host.contains(odd) {
            return Err(AddressError::Host);
        }
        Ok(ServerAddress { host: host.to_string(), port: parse_port(port).ok_or(AddressError::Port)? })
    }
}

/// Digits only: no sign and no spaces.
fn parse_port(text: &str) -> Option<u16> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits_only && *port != 0)
}

/// What `transfer.info` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferInfo {
    /// The file that said it.
    pub file: PathBuf,
    pub server: ServerAddress,
    pub user: UserName,
    /// Backups go into the vault.
    pub vault: bool,
    paths: Vec<PathBuf>,
}

/// What is wrong with a configuration file (exit 2).
#[derive(Debug)]
pub enum ConfigError {
    Unreadable { file: PathBuf, source: io::Error },
    TooLarge { file: PathBuf },
    Line { file: PathBuf, line: usize, problem: String },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { file, source } if source.kind() == io::ErrorKind::NotFound => {
                let next = "write one (server, user name, paths: a line each), or use --server and --user";
                write!(formatter, "{} does not exist: {next}", shown(file))
            }
            ConfigError::Unreadable { file, source } => {
                write!(formatter, "{} cannot be read: {}", shown(file), cause(source))
            }
            ConfigError::TooLarge { file } => {
                write!(formatter, "{} is larger than 4 MiB: name folders rather than single files", shown(file))
            }
            ConfigError::Line { file, line, problem } => {
                write!(formatter, "{} line {line}: {problem}", shown(file))
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl TransferInfo {
    /// Reads the file.
    pub fn open(file: &Path) -> Result<TransferInfo, ConfigError> {
        let bytes = read_bounded(file).map_err(|source| match source.kind() {
            io::ErrorKind::FileTooLarge => ConfigError::TooLarge { file: file.to_path_buf() },
            _ => ConfigError::Unreadable { file: file.to_path_buf(), source },
        })?;
        TransferInfo::parse(&bytes, file)
    }

    /// Takes the file's bytes. Relative paths count from the folder that `file` stands in.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<TransferInfo, ConfigError> {
        let all = lines(bytes);
        let problem = |line: usize, problem: String| ConfigError::Line { file: file.to_path_buf(), line, problem };
        let numbered = all.iter().enumerate().map(|(index, line)| (index + 1, *line));
        let lines: Vec<(usize, &[u8])> = numbered.filter(|(_, line)| !is_vault_line(line)).collect();
        let vault = lines.len() < all.len();
        let text = |index: usize, wanted: &str| {
            let (number, line) = lines.get(index).copied().unwrap_or((all.len() + 1, b""));
            let wrong = |text: String| Err(problem(number, text));
            match line.trim_ascii() {
                [] => wrong(format!("{wanted} is wanted here")),
                [b'-', b'-', ..] => {
                    wrong(format!("{wanted} is wanted here: of flags only --vault can stand in this file"))
                }
                line => match std::str::from_utf8(line) {
                    Ok(text) => Ok((number, text)),
                    Err(_) => wrong("the line is no UTF-8 text".into()),
                },
            }
        };
        let (number, server) = text(0, "the server's host:port")?;
        let server = server.parse().map_err(|error: AddressError| problem(number, error.to_string()))?;
        let (number, user) = text(1, "the user name")?;
        let user = user.parse().map_err(|error: crate::base::ids::IdError| problem(number, error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut paths = Vec::new();
        for (number, bytes) in lines.iter().copied().skip(2) {
            check_path(bytes, paths.len()).map_err(|wrong| problem(number, wrong.to_string()))?;
            paths.push(folder.join(PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))));
        }
        Ok(TransferInfo { file: file.to_path_buf(), server, user, vault, paths })
    }

    /// The paths to back up. An error where there are none: only a command that needs them asks.
    pub fn paths(&self) -> Result<&[PathBuf], ConfigError> {
        let problem = || "a path to back up is wanted here".to_string();
        match self.paths.as_slice() {
            [] => Err(ConfigError::Line {
                file: self.file.clone(),
                line: 3 + usize::from(self.vault),
                problem: problem(),
            }),
            paths => Ok(paths),
        }
    }
}

fn is_vault_line(line: &[u8]) -> bool {
    line.trim_ascii() == VAULT_LINE.as_bytes()
}

fn check_path(bytes: &[u8], before: usize) -> Result<(), &'static str> {
    if bytes.trim_ascii().is_empty() {
        return Err("a path to back up is wanted here: remove the empty line");
    }
    if bytes.starts_with(b"--") {
        return Err("of flags only --vault can stand here: write a path that begins with -- as ./--");
    }
    if bytes.contains(&0) || bytes.len() > PATH_BYTES_MAX {
        return Err("this is no path");
    }
    if before == ROOTS_MAX {
        return Err("more than 1024 paths: name a folder that holds several of them");
    }
    Ok(())
}

/// The lines without their ends, without blank ones after the last, and without the mark that some
/// editors put before the first.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let without_return = |line: &'_ [u8]| line.len() - usize::from(line.ends_with(b"\r"));
    let mut lines: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').map(|line| &line[..without_return(line)]).collect();
    while lines.last().is_some_and(|line| line.trim_ascii().is_empty()) {
        lines.pop();
    }
    lines
}

/// The port in `port.info`; where there is none, or it is wrong, a warning and the default.
pub fn read_port(file: &Path) -> (u16, Option<String>) {
    let problem = match read_bounded(file) {
        Ok(bytes) => match std::str::from_utf8(bytes.trim_ascii()).ok().and_then(parse_port) {
            Some(port) => return (port, None),
            None => "line 1: a port number from 1 to 65535 is wanted here".to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_string(),
        Err(error) => format!("cannot be read: {}", cause(&error)),
    };
    (DEFAULT_PORT, Some(format!("{} {problem}: using port {DEFAULT_PORT}", shown(file))))
}

fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn shown(file: &Path) -> String {
    display_bytes(file.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(bytes: &[u8]) -> Result<TransferInfo, String> {
        TransferInfo::parse(bytes, Path::new("etc/transfer.info")).map_err(|error| error.to_string())
    }

    #[test]
    fn line_ends_and_blank_lines_at_the_end_do_not_matter() {
        let info = parsed(b"\xef\xbb\xbfhost:1256\r\nAda Lovelace\r\n/home\r\nphotos \xff\r\n\r\n \r\n").unwrap();
        assert_eq!(info.server, "host:1256".parse().unwrap());
        assert_eq!(info.user.as_str(), "Ada Lovelace");
        let relative = Path::new("etc").join(std::ffi::OsStr::from_bytes(b"photos \xff"));
        assert_eq!(info.paths().unwrap(), [PathBuf::from("/home"), relative]);
    }

    #[test]
    fn an_error_names_file_and_line_and_what_is_wanted() {
        let message = |bytes: &[u8]| parsed(bytes).unwrap_err();
        assert_eq!(message(b""), "etc/transfer.info line 1: the server's host:port is wanted here");
        assert_eq!(
            message(b"host\nada\n/"),
            "etc/transfer.info line 1: the port is missing: write host:port, as in backup.example.org:1256"
        );
        assert_eq!(
            message(b"::1:1256\nada\n/"),
            "etc/transfer.info line 1: an IPv6 address stands in brackets: write [address]:port, as in [::1]:1256"
        );
        assert_eq!(message(b"host:1\n\n/"), "etc/transfer.info line 2: the user name is wanted here");
        let long = [b"host:1\n".as_slice(), &[b'x'; 101], b"\n/"].concat();
        assert_eq!(message(&long), "etc/transfer.info line 2: user name: at most 100 characters are allowed");
        assert_eq!(message(b"host:1\n\xff\n/"), "etc/transfer.info line 2: the line is no UTF-8 text");
        assert_eq!(
            message(b"host:1\nada\n/a\n\n/b"),
            "etc/transfer.info line 4: a path to back up is wanted here: remove the empty line"
        );
    }

    #[test]
    fn one_line_says_that_backups_go_into_the_vault() {
        let info = parsed(b"host:1\nada\n/a\n--vault \n./--vault\n").unwrap();
        assert!(info.vault && !parsed(b"host:1\nada\n/a\n./--vault").unwrap().vault);
        assert_eq!(info.paths().unwrap(), [PathBuf::from("/a"), Path::new("etc").join("./--vault")]);
        assert_eq!(
            parsed(b"host:1\nada\n--valt").unwrap_err(),
            "etc/transfer.info line 3: of flags only --vault can stand here: write a path that begins with -- as ./--"
        );
    }

    #[test]
    fn the_vault_line_stands_anywhere_and_is_no_other_line() {
        let wanted = parsed(b"host:1\nada\n/a\n/b\n--vault").unwrap();
        for text in
            ["--vault\nhost:1\nada\n/a\n/b", "host:1\n --vault\nada\n/a\n/b", "host:1\nada\n/a\n--vault\r\n/b"]
        {
            assert_eq!(parsed(text.as_bytes()).unwrap(), wanted, "{text}");
        }
        let message = |text: &str| parsed(text.as_bytes()).unwrap_err();
        assert_eq!(
            message("--valt\nhost:1\nada\n/a"),
            "etc/transfer.info line 1: the server's host:port is wanted here: of flags only --vault can stand in this file"
        );
        assert_eq!(
            message("--vault\nhost:1\n--quiet\n/a"),
            "etc/transfer.info line 3: the user name is wanted here: of flags only --vault can stand in this file"
        );
        assert_eq!(message("--vault\nhost:1\n"), "etc/transfer.info line 3: the user name is wanted here");
        assert_eq!(
            message("--vault\nhost:1\nada\n/a\n\n/b"),
            "etc/transfer.info line 5: a path to back up is wanted here: remove the empty line"
        );
        let missing = parsed(b"--vault\nhost:1\nada").unwrap().paths().unwrap_err().to_string();
        assert_eq!(missing, "etc/transfer.info line 4: a path to back up is wanted here");
    }

    #[test]
    fn a_missing_path_is_an_error_only_for_whoever_asks() {
        let info = parsed(b"host:1\nada\n").unwrap();
        let wanted = "etc/transfer.info line 3: a path to back up is wanted here";
        assert_eq!(info.paths().unwrap_err().to_string(), wanted);
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let error = TransferInfo::open(Path::new("/nowhere/transfer.info")).unwrap_err();
        let wanted = "/nowhere/transfer.info does not exist: write one (server, user name, paths: a line each), \
                      or use --server and --user";
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for good in ["localhost:1256", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0]:80"] {
            assert_eq!(good.parse::<ServerAddress>().unwrap().to_string(), good);
        }
        let wrong = |text: &str| text.parse::<ServerAddress>().unwrap_err();
        for (text, error) in [
            ("", AddressError::NoPort),
            ("[::1]", AddressError::NoPort),
            ("host:", AddressError::Port),
            ("host:0", AddressError::Port),
            ("host:65536", AddressError::Port),
            ("host:+1", AddressError::Port),
            (":1", AddressError::Host),
            ("a b:1", AddressError::Host),
            ("http://host:1", AddressError::Host),
            ("[host]:1", AddressError::Brackets),
        ] {
            assert_eq!(wrong(text), error, "{text}");
        }
    }

    #[test]
    fn a_wrong_port_file_gives_a_warning_and_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("port.info");
        let (port, warning) = read_port(&file);
        assert_eq!((port, warning), (1256, Some(format!("{} does not exist: using port 1256", file.display()))));
        for (text, wanted) in [("4000\r\n\n", 4000), ("0", 1256), ("12 34", 1256), ("", 1256), ("x", 1256)] {
            std::fs::write(&file, text).unwrap();
            let (port, warning) = read_port(&file);
            assert_eq!((port, warning.is_none()), (wanted, wanted == 4000), "{text:?}");
        }
        let problem = "line 1: a port number from 1 to 65535 is wanted here: using port 1256";
        assert_eq!(read_port(&file).1, Some(format!("{} {problem}", file.display())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parsed(&bytes);
        }

        #[test]
        fn no_text_makes_the_address_parser_panic(text in "[\\[\\]:%0-9a-z.\u{e9} ]{0,20}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                prop_assert_eq!(address.to_string().parse::<ServerAddress>().unwrap(), address);
            }
        }
    }
}
