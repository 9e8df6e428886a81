//! Names of owners and groups, from `/etc/passwd` and `/etc/group`, read once for a walk. No name service
//! is asked: it could block on a network, and a static binary has none. A number without a line there
//! simply has no name.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::base::limits::OWNER_NAME_BYTES_MAX;

/// How much of such a file is read.
const NAMES_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Names by number.
#[derive(Debug, Default)]
pub struct OwnerNames {
    owners: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl OwnerNames {
    /// Reads the system's files; what cannot be read gives no names.
    pub fn open() -> OwnerNames {
        let parsed = |path: &str| parse(&read_bounded(Path::new(path)));
        OwnerNames { owners: parsed("/etc/passwd"), groups: parsed("/etc/group") }
    }

    /// The owner's name; empty where there is none.
    pub fn owner(&self, number: u32) -> &[u8] {
        self.owners.get(&number).map_or(&[], Vec::as_slice)
    }

    /// The group's name; empty where there is none.
    pub fn group(&self, number: u32) -> &[u8] {
        self.groups.get(&number).map_or(&[], Vec::as_slice)
    }
}

fn read_bounded(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What was read before an error still gives names.
        let _ = file.take(NAMES_FILE_BYTES_MAX).read_to_end(&mut bytes);
    }
    bytes
}

/// Lines of `name:password:number:…`; the first line of a number counts, as everywhere else.
fn parse(bytes: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        if let (Some(number), 1..=OWNER_NAME_BYTES_MAX) = (number, name.len()) {
            names.entry(number).or_insert_with(|| name.to_vec());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_line_of_a_number_counts_and_odd_lines_do_not() {
        let names = parse(b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n:x:1:\nbad:x:-1:\nshort:x\na:x:7");
        assert_eq!(names.get(&0).map(Vec::as_slice), Some(&b"root"[..]));
        assert_eq!(names.get(&7).map(Vec::as_slice), Some(&b"a"[..]));
        assert_eq!(names.len(), 2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }
}
