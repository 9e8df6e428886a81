//! Shell patterns over paths. `*` is any run of characters of a name, `?` one character, `[a-z]` one of these,
//! `[!a-z]` another one, and a backslash takes the next character as it is. A name of `**` is any number of folders.
//!
//! A pattern matches the last names of a path, as many as it has itself: so one without a slash matches a name.
//! With a slash before it, it matches the whole path.

use std::fmt;

use super::path::EntryPath;

/// A pattern, taken apart once for many paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
    ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Any number of names.
    Folders,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Character(u32),
    Any,
    Run,
    Set { is_negated: bool, ranges: Vec<(u32, u32)> },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    Empty,
    OpenSet,
    Class,
    Backslash,
}

impl fmt::Display for PatternError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PatternError::Empty => "the pattern is empty",
            PatternError::OpenSet => "a [ has no ]: write \\[ for the character itself",
            PatternError::Class => "classes such as [:alpha:] are not known: write the characters, as in [a-zA-Z]",
            PatternError::Backslash => "a backslash is followed by nothing: write \\\\ for the character itself",
        })
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    /// Takes a pattern apart.
    ///
    /// # Errors
    /// Where a set or an escape does not end, or nothing is there.
    pub fn parse(text: &[u8], ignore_case: bool) -> Result<Pattern, PatternError> {
        let names = text.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut parts = if text.starts_with(b"/") { Vec::new() } else { vec![Part::Folders] };
        let before = parts.len();
        for name in names {
            parts.push(if name == b"**" { Part::Folders } else { Part::Name(tokens(name, ignore_case)?) });
        }
        if parts.len() == before { Err(PatternError::Empty) } else { Ok(Pattern { parts, ignore_case }) }
    }

    /// Whether the pattern matches the path.
    pub fn matches(&self, path: &EntryPath) -> bool {
        // Most paths are told by their last name.
        if let Some(Part::Name(tokens)) = self.parts.last()
            && !self.matches_name(tokens, path.name())
        {
            return false;
        }
        let names: Vec<&[u8]> = path.components().collect();
        let one = |part: &Part, name: &&[u8]| match part {
            Part::Folders => true,
            Part::Name(tokens) => self.matches_name(tokens, name),
        };
        matches(&self.parts, &names, |part| *part == Part::Folders, one)
    }

    fn matches_name(&self, tokens: &[Token], name: &[u8]) -> bool {
        let characters: Vec<u32> = characters(name).collect();
        let one = |token: &Token, character: &u32| match token {
            Token::Any | Token::Run => true,
            Token::Character(wanted) => *wanted == folded(*character, self.ignore_case),
            Token::Set { is_negated, ranges } => {
                let has = |wanted: u32| ranges.iter().any(|(first, last)| (*first..=*last).contains(&wanted));
                let other = |change: fn(u32) -> u32| self.ignore_case && has(change(*character));
                (has(*character) || other(lower) || other(upper)) != *is_negated
            }
        };
        matches(tokens, &characters, |token| *token == Token::Run, one)
    }
}

/// Whether a row of parts, of which some stand for any number of items, matches a row of items. Where it goes wrong, the
/// last of those parts takes one item more: no earlier one needs to.
fn matches<P, T>(parts: &[P], items: &[T], is_any: impl Fn(&P) -> bool, one: impl Fn(&P, &T) -> bool) -> bool {
    let (mut part, mut item, mut again) = (0, 0, None);
    while item < items.len() {
        match parts.get(part) {
            Some(any) if is_any(any) => {
                part += 1;
                again = Some((part, item));
            }
            Some(single) if one(single, &items[item]) => (part, item) = (part + 1, item + 1),
            _ => match &mut again {
                Some((from, taken)) => {
                    *taken += 1;
                    (part, item) = (*from, *taken);
                }
                None => return false,
            },
        }
    }
    parts[part..].iter().all(is_any)
}

fn tokens(name: &[u8], ignore_case: bool) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::new();
    let mut left = characters(name);
    while let Some(character) = left.next() {
        match char::from_u32(character) {
            Some('*') if tokens.last() == Some(&Token::Run) => {}
            Some('*') => tokens.push(Token::Run),
            Some('?') => tokens.push(Token::Any),
            Some('[') => tokens.push(set(&mut left)?),
            Some('\\') => {
                let next = left.next().ok_or(PatternError::Backslash)?;
                tokens.push(Token::Character(folded(next, ignore_case)));
            }
            _ => tokens.push(Token::Character(folded(character, ignore_case))),
        }
    }
    Ok(tokens)
}

/// What follows a `[`.
fn set(left: &mut impl Iterator<Item = u32>) -> Result<Token, PatternError> {
    const CLOSE: u32 = ']' as u32;
    const DASH: u32 = '-' as u32;
    let mut next = || left.next().ok_or(PatternError::OpenSet);
    let mut character = next()?;
    let is_negated = character == u32::from('!') || character == u32::from('^');
    if is_negated {
        character = next()?;
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    loop {
        // At the beginning it is one of the characters.
        if character == CLOSE && !ranges.is_empty() {
            return Ok(Token::Set { is_negated, ranges });
        }
        let is_open = character == u32::from('[');
        if character == u32::from('\\') {
            character = next()?;
        }
        let first = character;
        character = next()?;
        if is_open && [':', '.', '='].map(u32::from).contains(&character) {
            return Err(PatternError::Class);
        }
        if character != DASH {
            ranges.push((first, first));
            continue;
        }
        character = next()?;
        if character == CLOSE {
            ranges.extend([(first, first), (DASH, DASH)]);
            continue;
        }
        if character == u32::from('\\') {
            character = next()?;
        }
        ranges.push((first, character));
        character = next()?;
    }
}

/// The characters of a name; bytes that are none count as one each, and are none of the others.
fn characters(name: &[u8]) -> impl Iterator<Item = u32> {
    const BYTES: u32 = char::MAX as u32 + 1;
    name.utf8_chunks().flat_map(|chunk| {
        let bytes = chunk.invalid().iter().map(|byte| BYTES + u32::from(*byte));
        chunk.valid().chars().map(u32::from).chain(bytes)
    })
}

fn folded(character: u32, ignore_case: bool) -> u32 {
    if ignore_case { lower(character) } else { character }
}

fn lower(character: u32) -> u32 {
    changed(character, |character| single(character.to_lowercase()))
}

fn upper(character: u32) -> u32 {
    changed(character, |character| single(character.to_uppercase()))
}

fn changed(character: u32, change: impl Fn(char) -> Option<char>) -> u32 {
    char::from_u32(character).and_then(change).map_or(character, u32::from)
}

/// Of those that become several nothing is changed.
fn single(mut characters: impl Iterator<Item = char>) -> Option<char> {
    characters.next().filter(|_| characters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_match(pattern: &str, path: &[u8]) -> bool {
        Pattern::parse(pattern.as_bytes(), false).unwrap().matches(&EntryPath::parse(path).unwrap())
    }

    #[test]
    fn a_pattern_without_a_slash_matches_names() {
        for (pattern, path, wanted) in [
            ("x", &b"home/x"[..], true),
            ("x", b"x/home", false),
            ("*.txt", b"home/ada/a.txt", true),
            ("*.txt", b"home/a.txt/b", false),
            ("*", b"a/b", true),
            ("a*b*c", b"aXbYbZc", true),
            ("a*b*c", b"aXbYbZ", false),
            ("?", "a/\u{e9}".as_bytes(), true),
            ("?", b"a/\xff", true),
            ("?", b"a/ab", false),
            ("[a-c]x", b"bx", true),
            ("[!a-c]x", b"bx", false),
            ("[^a-c]x", b"dx", true),
            ("[]x]", b"]", true),
            ("[a-]", b"-", true),
            ("[\u{e0}-\u{e9}]", "\u{e5}".as_bytes(), true),
            ("\\*", b"*", true),
            ("\\*", b"a", false),
            ("[\\]]", b"]", true),
        ] {
            assert_eq!(is_match(pattern, path), wanted, "{pattern} {}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn one_with_slashes_matches_the_last_names_and_one_that_begins_with_a_slash_all() {
        for (pattern, path, wanted) in [
            ("src/*.rs", "home/ada/src/a.rs", true),
            ("home/ada/*.rs", "home/ada/a.rs", true),
            ("ada/*.rs", "home/ada/src/a.rs", false),
            ("/home/*/a.rs", "home/ada/a.rs", true),
            ("/ada/a.rs", "home/ada/a.rs", false),
            ("/home/**/a.rs", "home/a.rs", true),
            ("/home/**/a.rs", "home/ada/src/a.rs", true),
            ("/home/**/x/**/a", "home/x/y/x/b/a", true),
            ("/home/**", "home/ada/src/a.rs", true),
            ("/home/*", "home/ada/src", false),
            ("ada/", "home/ada", true),
        ] {
            assert_eq!(is_match(pattern, path.as_bytes()), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn case_is_ignored_when_asked() {
        let path = EntryPath::parse("Bilder/\u{c9}T\u{c9}.JPG".as_bytes()).unwrap();
        for pattern in ["*.jpg", "\u{e9}t\u{e9}.*", "[a-\u{e9}]*.[J]p[g]", "bilder/*"] {
            assert!(Pattern::parse(pattern.as_bytes(), true).unwrap().matches(&path), "{pattern}");
            assert!(!Pattern::parse(pattern.as_bytes(), false).unwrap().matches(&path), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let error = |text: &str| Pattern::parse(text.as_bytes(), false).unwrap_err();
        assert_eq!((error(""), error("/")), (PatternError::Empty, PatternError::Empty));
        assert_eq!((error("[a"), error("a/[]")), (PatternError::OpenSet, PatternError::OpenSet));
        assert_eq!((error("[[:alpha:]]"), error("a\\")), (PatternError::Class, PatternError::Backslash));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_a_path_matches_itself(text in "[a-c*?\\[\\]!\\\\/.\u{e9}-]{0,12}", name in "[a-c\u{e9}]{1,8}") {
            let path = EntryPath::parse(name.as_bytes()).unwrap();
            if let Ok(pattern) = Pattern::parse(text.as_bytes(), true) {
                let _ = pattern.matches(&path);
            }
            prop_assert!(Pattern::parse(name.as_bytes(), false).unwrap().matches(&path));
        }
    }
}
