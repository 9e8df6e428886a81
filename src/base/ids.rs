//! The identifiers of the system, each a type that is checked where it is made: client, upload, snapshot,
//! user name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::USER_NAME_CHARACTERS_MAX;
use super::time::Timestamp;

/// Why text is no identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    pub what: &'static str,
    pub problem: &'static str,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.problem)
    }
}

impl std::error::Error for IdError {}

/// Defines a newtype over 16 bytes that shows, parses and serialises as 32 lower-case hex digits.
macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// All zeros: "none yet" on the wire.
            pub const NONE: $name = $name([0; 16]);

            pub fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }

            /// A fresh random one.
            pub fn random() -> $name {
                $name(random_array())
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<$name, IdError> {
                unhex(text).map($name).ok_or(IdError { what: $what, problem: "32 lower-case hex digits are wanted" })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<$name, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

pub(super) use id16;

id16!(
    /// The identity that a server gave a client.
    ClientId,
    "client id"
);
id16!(
    /// One upload, chosen by the client: the same id asked again means the same upload.
    UploadId,
    "upload id"
);

/// `YYYYMMDDTHHMMSSZ-xxxxxxxx`: when the server began to take a snapshot in, and eight random hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId([u8; SnapshotId::LENGTH]);

impl SnapshotId {
    /// Characters in an id, all of them ASCII.
    pub const LENGTH: usize = 25;

    /// A fresh id for the moment `now`. A clock outside the years 0 to 9999 counts as the year 0.
    pub fn create(now: Timestamp) -> SnapshotId {
        let random: [u8; 4] = random_array();
        let text = format!("{}-{}", now.compact(), hex(&random));
        text.parse().unwrap_or_else(|_| {
            format!("00000101T000000Z-{}", hex(&random)).parse().expect("a literal of the right form")
        })
    }

    /// An id as it stands in files and messages; none where the form is another one.
    pub fn from_bytes(bytes: &[u8]) -> Option<SnapshotId> {
        let bytes: [u8; SnapshotId::LENGTH] = bytes.try_into().ok()?;
        is_beginning(&bytes).then_some(SnapshotId(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; SnapshotId::LENGTH] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be ASCII")
    }

    /// Whether ids can begin with this text.
    pub fn is_beginning(text: &str) -> bool {
        text.len() <= SnapshotId::LENGTH && is_beginning(text.as_bytes())
    }

    /// The second in which it was begun: these compare as times do.
    pub fn begun(&self) -> &str {
        &self.as_str()[..16]
    }
}

fn is_beginning(bytes: &[u8]) -> bool {
    let fits = |(byte, form): (&u8, u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        literal => *byte == literal,
    };
    bytes.iter().zip(*b"00000000T000000Z-xxxxxxxx").all(fits)
}

impl FromStr for SnapshotId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<SnapshotId, IdError> {
        SnapshotId::from_bytes(text.as_bytes())
            .ok_or(IdError { what: "snapshot id", problem: "the form is YYYYMMDDTHHMMSSZ-xxxxxxxx" })
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SnapshotId({self})")
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = IdError;
    fn try_from(text: String) -> Result<SnapshotId, IdError> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> String {
        id.to_string()
    }
}

/// The name a client goes by: 1 to 100 characters, no control characters, no space at either end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<UserName, IdError> {
        let problem = match text {
            "" => Some("the name is empty"),
            _ if text.chars().count() > USER_NAME_CHARACTERS_MAX => Some("at most 100 characters are allowed"),
            _ if text.chars().any(char::is_control) => Some("control characters are not allowed"),
            _ if text.trim() != text => Some("it must not begin or end with a space"),
            _ => None,
        };
        match problem {
            Some(problem) => Err(IdError { what: "user name", problem }),
            None => Ok(UserName(text.to_string())),
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UserName({:?})", self.0)
    }
}

impl TryFrom<String> for UserName {
    type Error = IdError;
    fn try_from(text: String) -> Result<UserName, IdError> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> String {
        name.0
    }
}

/// Random bytes from the operating system.
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("a system without randomness can run no encrypted backup");
    bytes
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes behind exactly `2 N` lower-case hex digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
    Some(std::array::from_fn(|index| value(digits[2 * index]) << 4 | value(digits[2 * index + 1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_show_and_parse_as_hex() {
        let id = ClientId::from_bytes(std::array::from_fn(|index| index as u8 * 17));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse::<ClientId>(), Ok(id));
        assert!("00112233445566778899AABBCCDDEEFF".parse::<ClientId>().is_err());
    }

    #[test]
    fn a_snapshot_id_has_one_form() {
        let id = SnapshotId::create(Timestamp { seconds: 1_700_000_000, nanoseconds: 0 });
        assert!(id.as_str().starts_with("20231114T221320Z-"));
        for bad in ["", "20231114T221320Z-0000000G", "20231114T221320Z-0000000", "../../../../../../../../../"] {
            assert!(bad.parse::<SnapshotId>().is_err());
        }
        for seconds in [i64::MIN, i64::MAX] {
            SnapshotId::create(Timestamp { seconds, nanoseconds: 0 });
        }
    }

    #[test]
    fn a_user_name_is_checked() {
        assert!("Ada Lovelace".parse::<UserName>().is_ok());
        for bad in ["", " a", "a\n", &"x".repeat(101)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
        assert!("\u{e9}".repeat(100).parse::<UserName>().is_ok());
    }
}
