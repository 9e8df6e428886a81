//! The names under which a legacy server keeps files: one flat list, so the whole way to a file has to stand in its
//! name. As web addresses do it, what a name cannot hold becomes `%` and two hex digits; `docs/migration.md` has the
//! rules. Two files never get the same name, and a name says which file it is without a list beside it.

use crate::base::order::sort;
use crate::base::path::EntryPath;
use crate::client::roots::Root;
use crate::crypto::blake3_hash;
use crate::protocol::legacy::{FILE_NAME_BYTES_MAX, FileName};

/// How much of a hash stands in a shortened name.
const HASH_BYTES: usize = 16;
/// What marks it: `%` is followed by a hex digit everywhere else.
const SHORTENED: &str = "%~";
/// What is left of a shortened name on either side of the hash.
const HEAD_BYTES: usize = 107;
const TAIL_BYTES: usize = FILE_NAME_BYTES_MAX - HEAD_BYTES - SHORTENED.len() - 2 * HASH_BYTES - 1;

/// Makes names for the files below some roots.
#[derive(Debug)]
pub struct FlatNames {
    /// Where the name of a file begins in its path, for each root.
    starts: Vec<(Root, usize)>,
}

impl FlatNames {
    /// Names count from the last component of their root; where two roots end alike, from the top.
    pub fn new(roots: &[Root]) -> FlatNames {
        let mut ends: Vec<&[u8]> = roots.iter().filter_map(Root::path).map(EntryPath::name).collect();
        sort(&mut ends);
        let end_alike = ends.windows(2).any(|pair| pair[0] == pair[1]);
        let above = |root: &Root| root.parent().map_or(0, |parent| parent.as_bytes().len() + 1);
        let start = |root: &Root| if end_alike { 0 } else { above(root) };
        FlatNames { starts: roots.iter().map(|root| (root.clone(), start(root))).collect() }
    }

    /// The name of the file at `path`, and whether the path can be read back from it.
    pub fn name(&self, path: &EntryPath) -> (FileName, bool) {
        let start = self.starts.iter().find(|(root, _)| root.holds(path)).map_or(0, |(_, start)| *start);
        let escaped = escape(&path.as_bytes()[start..]);
        let is_whole = escaped.len() <= FILE_NAME_BYTES_MAX;
        let name = if is_whole { escaped } else { shorten(&escaped) };
        (FileName::new(name.as_bytes()).expect("nothing unsafe is left unescaped"), is_whole)
    }
}

/// Text with `%XX` for whatever some server's file system or rules do not take.
fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            let is_second_dot = character == '.' && out.ends_with('.');
            if is_second_dot || character.is_control() || r#"/\%:*?"<>|"#.contains(character) {
                let mut bytes = [0; 4];
                character.encode_utf8(&mut bytes).bytes().for_each(|byte| put_escaped(&mut out, byte));
            } else {
                out.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| put_escaped(&mut out, *byte));
    }
    // Windows drops dots and spaces at the end.
    if let Some(last @ ('.' | ' ')) = out.chars().last() {
        out.pop();
        put_escaped(&mut out, last as u8);
    }
    out
}

fn put_escaped(out: &mut String, byte: u8) {
    out.push_str(&format!("%{byte:02X}"));
}

/// Beginning and end of a long name, with the hash of all of it in between.
fn shorten(escaped: &str) -> String {
    let is_cut = |at: usize| {
        let before = &escaped.as_bytes()[at.saturating_sub(2)..at];
        escaped.is_char_boundary(at) && !before.contains(&b'%')
    };
    let head = (0..=HEAD_BYTES).rev().find(|at| is_cut(*at)).unwrap_or(0);
    let tail = (escaped.len() - TAIL_BYTES..=escaped.len()).find(|at| is_cut(*at)).unwrap_or(escaped.len());
    let hash = crate::base::ids::hex(&blake3_hash(escaped.as_bytes())[..HASH_BYTES]);
    format!("{}{SHORTENED}{hash}~{}", &escaped[..head], &escaped[tail..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: impl AsRef<[u8]>) -> EntryPath {
        EntryPath::parse(text.as_ref()).unwrap()
    }

    fn names(roots: &[&str]) -> FlatNames {
        FlatNames::new(&roots.iter().map(|root| Root::Path(path(root))).collect::<Vec<_>>())
    }

    fn name(names: &FlatNames, of: impl AsRef<[u8]>) -> String {
        names.name(&path(of)).0.to_string()
    }

    #[test]
    fn names_are_readable_and_begin_with_their_root() {
        let names = names(&["home/ada/docs", "home/ada/notes.txt"]);
        assert_eq!(name(&names, "home/ada/notes.txt"), "notes.txt");
        assert_eq!(name(&names, "home/ada/docs/a b.txt"), "docs%2Fa b.txt");
        assert_eq!(name(&names, "home/ada/docs/änderung"), "docs%2Fänderung");
        assert_eq!(name(&names, "home/ada/docs/.hidden"), "docs%2F.hidden");
    }

    #[test]
    fn roots_that_end_alike_are_told_apart_by_the_whole_path() {
        let alike = names(&["a/docs", "b/docs", "c"]);
        assert_eq!(name(&alike, "a/docs/x"), "a%2Fdocs%2Fx");
        assert_eq!(name(&alike, "c/x"), "c%2Fx");
        let everything = FlatNames::new(&[Root::Everything]);
        assert_eq!(everything.name(&path("etc/hosts")).0.to_string(), "etc%2Fhosts");
    }

    #[test]
    fn what_some_server_does_not_take_is_escaped() {
        for (of, wanted) in [
            (&b"100%"[..], "100%25"),
            (b"a:b*c?d\"e<f>g|h\\i", "a%3Ab%2Ac%3Fd%22e%3Cf%3Eg%7Ch%5Ci"),
            (b"a\nb\x7f", "a%0Ab%7F"),
            (b"...", ".%2E%2E"),
            (b"a..b", "a.%2Eb"),
            (b"end.", "end%2E"),
            (b"end ", "end%20"),
            (b"\xE4rger", "%E4rger"),
            ("\u{85}".as_bytes(), "%C2%85"),
        ] {
            assert_eq!(name(&names(&[]), of), wanted);
        }
    }

    #[test]
    fn long_names_keep_their_ends_and_stay_apart() {
        let long = |end: &str| format!("{}/{end}", vec!["folder".repeat(8); 9].join("/"));
        let of = |end: &str| names(&[]).name(&path(long(end)));
        let (first, is_whole) = of("one.txt");
        assert!(!is_whole && first.as_bytes().len() <= 250, "{first}");
        let text = first.to_string();
        assert!(text.starts_with("folderfolder") && text.ends_with("one.txt"), "{text}");
        let (middle, _) = names(&[]).name(&path(long("one.txt").replacen("folderf", "folderF", 1)));
        assert_ne!(first, middle, "the hash is of all of the name");
        assert_eq!(first, of("one.txt").0, "the same file has the same name the next time");
    }

    /// The standard way back.
    fn unescape(name: &str) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), name.as_bytes());
        while let Some((first, after)) = rest.split_first() {
            let escaped = (*first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
            out.push(escaped.map_or(*first, |digits| u8::from_str_radix(digits, 16).unwrap()));
            rest = if escaped.is_some() { &after[2..] } else { after };
        }
        out
    }

    proptest! {
        #[test]
        fn a_whole_name_leads_back_to_its_path(
            components in prop::collection::vec(prop::collection::vec(1_u8..=255, 1..40), 1..6),
        ) {
            if let Ok(path) = EntryPath::parse(&components.join(&b'/')) {
                let (name, is_whole) = names(&[]).name(&path);
                prop_assert!(name.as_bytes().len() <= FILE_NAME_BYTES_MAX);
                let text = std::str::from_utf8(name.as_bytes()).unwrap();
                prop_assert!(!text.contains(".."));
                prop_assert_eq!(is_whole, !text.contains(SHORTENED));
                if is_whole {
                    prop_assert_eq!(unescape(text), path.as_bytes());
                }
            }
        }
    }
}
