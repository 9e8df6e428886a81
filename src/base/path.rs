//! The path of an entry: its components, joined by `/`, without a leading one. A value of this type
//! has been checked, so nothing that holds one needs to fear `..`, an empty component or a NUL.
//!
//! The order is component by component, bytewise: a folder stands directly before what is in it.

use std::cmp::Ordering;
use std::fmt;

use super::limits::{PATH_BYTES_MAX, PATH_COMPONENTS_MAX};

/// A checked, relative path of one or more components, as bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(Vec<u8>);

/// Why bytes are no path of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    Empty,
    TooLong,
    TooDeep,
    /// An empty component, `.`, `..`, or a NUL byte.
    Component,
}

impl fmt::Display for PathError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Empty => write!(formatter, "the path is empty"),
            PathError::TooLong => write!(formatter, "the path is longer than {PATH_BYTES_MAX} bytes"),
            PathError::TooDeep => write!(formatter, "the path is deeper than {PATH_COMPONENTS_MAX} levels"),
            PathError::Component => write!(formatter, "the path has an empty component, `.`, `..` or a NUL"),
        }
    }
}

impl std::error::Error for PathError {}

impl EntryPath {
    /// Takes `bytes` if they are a path: 1 to 65,535 bytes, at most 4,096 components, none of them
    /// empty, `.` or `..`, no NUL.
    pub fn parse(bytes: &[u8]) -> Result<EntryPath, PathError> {
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let mut components = 0;
        for component in bytes.split(|byte| *byte == b'/') {
            check_component(component)?;
            components += 1;
        }
        if components > PATH_COMPONENTS_MAX {
            return Err(PathError::TooDeep);
        }
        Ok(EntryPath(bytes.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().expect("a path has a component")
    }

    /// Everything before the last component; none for a path of one component.
    pub fn parent(&self) -> Option<EntryPath> {
        let cut = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(EntryPath(self.0[..cut].to_vec()))
    }

    /// This path with one more component.
    pub fn join(&self, name: &[u8]) -> Result<EntryPath, PathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        EntryPath::parse(&bytes)
    }

    /// Whether this is `folder` or lies below it.
    pub fn is_within(&self, folder: &EntryPath) -> bool {
        match self.0.strip_prefix(folder.0.as_slice()) {
            Some(rest) => rest.is_empty() || rest[0] == b'/',
            None => false,
        }
    }

    /// The path for a person: invalid UTF-8 and control characters escaped, so that a name can neither
    /// break a line nor steer a terminal.
    pub fn display(&self) -> String {
        display_bytes(&self.0)
    }
}

/// Bytes for a person: text as it is, with what is no UTF-8 or steers a terminal as `\xNN` or `\n`.
pub fn display_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => shown.push_str("\\n"),
                c if c.is_control() || is_bidirectional_control(c) => shown.extend(c.escape_unicode()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Characters that reorder what is shown, and so could disguise a name.
fn is_bidirectional_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    let forbidden = component.is_empty() || component == b"." || component == b".." || component.contains(&0);
    if forbidden { Err(PathError::Component) } else { Ok(()) }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &EntryPath) -> Ordering {
        compare_paths(&self.0, &other.0)
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &EntryPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of entries, on raw path bytes. A separator counts as less than every other byte, which
/// gives the order by components because no component holds a NUL or a separator.
pub fn compare_paths(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let rank = |bytes: &[u8]| match bytes.get(common) {
        None => 0u16,
        Some(b'/') => 1,
        Some(byte) => 2 + u16::from(*byte),
    };
    rank(left).cmp(&rank(right))
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EntryPath({})", self.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_could_leave_a_folder_is_no_path() {
        for bad in [&b""[..], b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"a/.", b"a\0b"] {
            assert!(EntryPath::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(EntryPath::parse(&vec![b'a'; 65_536]), Err(PathError::TooLong));
        assert_eq!(EntryPath::parse("a/".repeat(5_000).as_bytes()[..9_999].as_ref()), Err(PathError::TooDeep));
    }

    #[test]
    fn a_folder_stands_before_what_is_in_it() {
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        assert!(path("a") < path("a/b"));
        assert!(path("a/b") < path("a!b"));
        assert!(path("a/z/z") < path("a!"));
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
    }

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(display_bytes(b"a\nb\x1b[31m\xff"), "a\\nb\\u{1b}[31m\\xff");
    }

    proptest! {
        #[test]
        fn the_order_is_the_order_of_components(
            left in prop::collection::vec("[!-.0-9a-c]{1,3}", 1..5),
            right in prop::collection::vec("[!-.0-9a-c]{1,3}", 1..5),
        ) {
            let (one, two) = (left.join("/"), right.join("/"));
            prop_assert_eq!(compare_paths(one.as_bytes(), two.as_bytes()), left.cmp(&right));
        }
    }
}
