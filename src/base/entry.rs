//! One file, folder or link as it travels and as it is kept. Wire and disk hold the same bytes, so that
//! a range's hash is the same on both sides.
//!
//! Encoding, little-endian: kind u8 · mode u16 · size u64 · mtime (seconds i64, nanoseconds u32) ·
//! ctime (the same) · inode u64 · owner u32 · group u32 · path (u16 length) · owner name (u8 length) ·
//! group name (u8 length) · link target (u16 length) · hard-link reference (u16 length) · field count u8 ·
//! fields (tag u16, length u32, value), tags strictly rising.

use super::codec::{DecodeError, Reader, Writer};
use super::limits::{
    ENTRY_FIELDS_BYTES_MAX, ENTRY_FIELDS_MAX, LINK_TARGET_BYTES_MAX, OWNER_NAME_BYTES_MAX, PATH_BYTES_MAX,
    RANGE_BYTES_MAX, RANGE_ENTRIES_MAX, RANGE_LONG_BYTES, RANGE_LONG_MEAN_ENTRIES, RANGE_MEAN_ENTRIES,
};
use super::path::{EntryPath, compare_paths};
use super::time::Timestamp;
use crate::base::order::sort_by;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    File = 1,
    Folder = 2,
    Link = 3,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Result<EntryKind, DecodeError> {
        match byte {
            1 => Ok(EntryKind::File),
            2 => Ok(EntryKind::Folder),
            3 => Ok(EntryKind::Link),
            _ => Err(DecodeError::Invalid { what: "entry kind" }),
        }
    }

    /// The word shown to a person and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            EntryKind::File => "file",
            EntryKind::Folder => "folder",
            EntryKind::Link => "link",
        }
    }
}

/// An optional property under a number, so that entries can grow: a reader keeps tags it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryField {
    pub tag: u16,
    pub value: Vec<u8>,
}

/// A file, folder or symbolic link with its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: EntryPath,
    pub kind: EntryKind,
    /// Bytes of content; 0 for what has none.
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub inode: u64,
    /// The 12 permission bits, setuid, setgid and sticky among them.
    pub mode: u16,
    pub owner: u32,
    pub group: u32,
    /// At most 255 bytes; empty where the host has no name for the number.
    pub owner_name: Vec<u8>,
    pub group_name: Vec<u8>,
    /// Where a link points; empty for other kinds.
    pub link_target: Vec<u8>,
    /// The path of the entry that this is a further name of; none for a first or only name.
    pub hard_link: Option<EntryPath>,
    pub fields: Vec<EntryField>,
}

impl Entry {
    /// Whether contents travel and are stored for this entry.
    pub fn has_content(&self) -> bool {
        self.kind == EntryKind::File && self.hard_link.is_none()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind as u8);
        out.put_u16(self.mode);
        out.put_u64(self.size);
        self.mtime.encode(out);
        self.ctime.encode(out);
        out.put_u64(self.inode);
        out.put_u32(self.owner);
        out.put_u32(self.group);
        out.put_bytes16(self.path.as_bytes());
        out.put_bytes8(&self.owner_name);
        out.put_bytes8(&self.group_name);
        out.put_bytes16(&self.link_target);
        out.put_bytes16(self.hard_link.as_ref().map_or(&[][..], EntryPath::as_bytes));
        out.put_u8(u8::try_from(self.fields.len()).expect("at most 32 fields"));
        for field in &self.fields {
            out.put_u16(field.tag);
            out.put_bytes32(&field.value);
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        let kind = EntryKind::from_byte(reader.u8("entry kind")?)?;
        let mode = reader.u16("entry mode")?;
        let size = reader.u64("entry size")?;
        let mtime = Timestamp::decode(reader)?;
        let ctime = Timestamp::decode(reader)?;
        let inode = reader.u64("entry inode")?;
        let owner = reader.u32("entry owner")?;
        let group = reader.u32("entry group")?;
        let path = decode_path(reader.bytes16(PATH_BYTES_MAX, "entry path")?, "entry path")?;
        let owner_name = reader.bytes8(OWNER_NAME_BYTES_MAX, "owner name")?.to_vec();
        let group_name = reader.bytes8(OWNER_NAME_BYTES_MAX, "group name")?.to_vec();
        let link_target = reader.bytes16(LINK_TARGET_BYTES_MAX, "link target")?.to_vec();
        let hard_link = match reader.bytes16(PATH_BYTES_MAX, "hard link")? {
            [] => None,
            bytes => Some(decode_path(bytes, "hard link")?),
        };
        let fields = decode_fields(reader)?;
        let entry = Entry {
            path,
            kind,
            size,
            mtime,
            ctime,
            inode,
            mode,
            owner,
            group,
            owner_name,
            group_name,
            link_target,
            hard_link,
            fields,
        };
        entry.check()?;
        Ok(entry)
    }

    /// What no encoder of ours writes, and no reader should have to think about.
    fn check(&self) -> Result<(), DecodeError> {
        let is_link = self.kind == EntryKind::Link;
        let impossible = self.mode > 0o7777
            || is_link == self.link_target.is_empty()
            || self.link_target.contains(&0)
            || (self.kind != EntryKind::File && self.size != 0)
            || (self.kind != EntryKind::File && self.hard_link.is_some())
            || self.hard_link.as_ref().is_some_and(|first| *first >= self.path);
        if impossible { Err(DecodeError::Invalid { what: "entry" }) } else { Ok(()) }
    }
}

fn decode_path(bytes: &[u8], what: &'static str) -> Result<EntryPath, DecodeError> {
    EntryPath::parse(bytes).map_err(|_| DecodeError::Invalid { what })
}

fn decode_fields(reader: &mut Reader<'_>) -> Result<Vec<EntryField>, DecodeError> {
    let count = reader.u8("entry field count")? as usize;
    if count > ENTRY_FIELDS_MAX {
        let (found, limit) = (count as u64, ENTRY_FIELDS_MAX as u64);
        return Err(DecodeError::TooLarge { what: "entry field count", found, limit });
    }
    let mut fields: Vec<EntryField> = Vec::with_capacity(count);
    let mut room = ENTRY_FIELDS_BYTES_MAX;
    for _ in 0..count {
        let tag = reader.u16("entry field tag")?;
        if fields.last().is_some_and(|last| last.tag >= tag) {
            return Err(DecodeError::Invalid { what: "entry field tag" });
        }
        let value = reader.bytes32(room, "entry field")?.to_vec();
        room -= value.len();
        fields.push(EntryField { tag, value });
    }
    Ok(fields)
}

/// Decodes the entries of one range: 1 to 8,192 of them, each path greater than the one before.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut entries: Vec<Entry> = Vec::new();
    while !reader.is_empty() {
        if entries.len() == RANGE_ENTRIES_MAX {
            let limit = RANGE_ENTRIES_MAX as u64;
            return Err(DecodeError::TooLarge { what: "entries in a range", found: limit + 1, limit });
        }
        let entry = Entry::decode(&mut reader)?;
        if entries.last().is_some_and(|last| last.path >= entry.path) {
            return Err(DecodeError::Invalid { what: "order of entries" });
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(DecodeError::Short { what: "range" });
    }
    Ok(entries)
}

/// Cuts a sorted run of entries into ranges. Most cuts depend on the path after them alone, so that an
/// insertion or a deletion changes the range it is in and no others. A range that has become long is cut at
/// the next of many more paths: one changed entry sends a whole range, which must not be much longer than
/// most. An insertion there may change the ranges up to the next common cut.
#[derive(Debug, Default)]
pub struct RangeCutter {
    entries: usize,
    bytes: usize,
}

impl RangeCutter {
    /// Whether an entry with this path and encoded length begins a new range; counts it either way.
    pub fn begins_new_range(&mut self, path: &[u8], encoded_bytes: usize) -> bool {
        let full = self.entries == RANGE_ENTRIES_MAX || self.bytes + encoded_bytes > RANGE_BYTES_MAX;
        let mean_entries = match self.bytes < RANGE_LONG_BYTES {
            true => RANGE_MEAN_ENTRIES,
            false => RANGE_LONG_MEAN_ENTRIES,
        };
        let begins = self.entries > 0 && (full || is_cut(path, mean_entries));
        if begins {
            (self.entries, self.bytes) = (0, 0);
        }
        self.entries += 1;
        self.bytes += encoded_bytes;
        begins
    }
}

/// One path in `mean_entries` is a cut: where the first four bytes of its BLAKE3 are a multiple of that.
fn is_cut(path: &[u8], mean_entries: u32) -> bool {
    let hash = blake3::hash(path);
    let head: [u8; 4] = hash.as_bytes()[..4].try_into().expect("a hash has 32 bytes");
    u32::from_le_bytes(head).is_multiple_of(mean_entries)
}

/// Merges overlapping roots: a root that lies within another is dropped. The result is sorted.
pub fn merge_roots(mut roots: Vec<EntryPath>) -> Vec<EntryPath> {
    sort_by(&mut roots, |left, right| compare_paths(left.as_bytes(), right.as_bytes()));
    let mut merged: Vec<EntryPath> = Vec::new();
    for root in roots {
        if !merged.last().is_some_and(|last| root.is_within(last)) {
            merged.push(root);
        }
    }
    merged
}

#[cfg(test)]
pub mod strategies {
    //! Random entries for the property tests of every layer above.
    use super::*;
    use proptest::prelude::*;

    fn timestamp() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
    }

    pub fn path() -> impl Strategy<Value = EntryPath> {
        prop::collection::vec("[^/\0.]{1,12}", 1..5)
            .prop_map(|components| EntryPath::parse(components.join("/").as_bytes()).unwrap())
    }

    pub fn entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![Just(EntryKind::File), Just(EntryKind::Folder), Just(EntryKind::Link)];
        let names = (prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..20));
        let fields = prop::collection::btree_map(any::<u16>(), prop::collection::vec(any::<u8>(), 0..50), 0..4);
        (path(), kind, any::<[u64; 2]>(), timestamp(), timestamp(), 0u16..=0o7777, any::<[u32; 2]>(), names, fields)
            .prop_map(|(path, kind, [size, inode], mtime, ctime, mode, [owner, group], names, fields)| Entry {
                path,
                kind,
                size: if kind == EntryKind::File { size } else { 0 },
                mtime,
                ctime,
                inode,
                mode,
                owner,
                group,
                owner_name: names.0,
                group_name: names.1,
                link_target: if kind == EntryKind::Link { b"../x".to_vec() } else { Vec::new() },
                hard_link: None,
                fields: fields.into_iter().map(|(tag, value)| EntryField { tag, value }).collect(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(entry in strategies::entry()) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Entry::decode(&mut reader).unwrap(), entry);
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_entries(&bytes);
        }

        #[test]
        fn every_shortened_entry_is_refused(entry in strategies::entry(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(Entry::decode(&mut Reader::new(&bytes)).is_err());
        }
    }

    #[test]
    fn a_range_refuses_entries_out_of_order() {
        let mut bytes = Vec::new();
        for name in ["b", "a"] {
            plain_folder(name).encode(&mut bytes);
        }
        assert_eq!(decode_entries(&bytes), Err(DecodeError::Invalid { what: "order of entries" }));
        assert_eq!(decode_entries(&[]), Err(DecodeError::Short { what: "range" }));
    }

    #[test]
    fn cuts_follow_the_path_and_come_about_every_1024() {
        let mut cutter = RangeCutter::default();
        let cuts = (0..100_000).filter(|n| cutter.begins_new_range(format!("a/{n:06}").as_bytes(), 100)).count();
        assert!((60..150).contains(&cuts), "{cuts}");
    }

    #[test]
    fn ranges_are_seldom_much_longer_than_a_long_one() {
        let mut cutter = RangeCutter::default();
        let mut lengths = vec![0];
        for number in 0..1_000_000 {
            match cutter.begins_new_range(format!("a/{number:06}").as_bytes(), 100) {
                true => lengths.push(100),
                false => *lengths.last_mut().unwrap() += 100,
            }
        }
        assert!((900..1_300).contains(&lengths.len()), "{}", lengths.len());
        let longest = lengths.into_iter().max().unwrap();
        assert!(longest < RANGE_LONG_BYTES + 128 * 1024, "{longest}");
    }

    #[test]
    fn a_range_never_passes_its_limits() {
        let mut cutter = RangeCutter::default();
        let mut bytes = 0;
        for number in 0..100 {
            if cutter.begins_new_range(format!("x{number}").as_bytes(), 300_000) {
                bytes = 0;
            }
            bytes += 300_000;
            assert!(bytes <= RANGE_BYTES_MAX);
        }
    }

    #[test]
    fn overlapping_roots_are_merged() {
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        let merged = merge_roots(vec![path("a/b"), path("a"), path("a!"), path("c"), path("c")]);
        assert_eq!(merged, vec![path("a"), path("a!"), path("c")]);
    }

    #[test]
    fn the_bytes_of_an_entry_are_pinned() {
        let mut bytes = Vec::new();
        plain_folder("ab").encode(&mut bytes);
        let expected = [
            &[2u8][..],
            &[0xed, 0x01],
            &[0; 8],
            &[0xff; 8],
            &[5, 0, 0, 0],
            &[0; 12],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[0xe8, 3, 0, 0],
            &[0xe9, 3, 0, 0],
            &[2, 0],
            b"ab",
            &[1],
            b"u",
            &[0],
            &[0, 0],
            &[0, 0],
            &[0],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    fn plain_folder(name: &str) -> Entry {
        Entry {
            path: EntryPath::parse(name.as_bytes()).unwrap(),
            kind: EntryKind::Folder,
            size: 0,
            mtime: Timestamp { seconds: -1, nanoseconds: 5 },
            ctime: Timestamp { seconds: 0, nanoseconds: 0 },
            inode: 9,
            mode: 0o755,
            owner: 1000,
            group: 1001,
            owner_name: b"u".to_vec(),
            group_name: Vec::new(),
            link_target: Vec::new(),
            hard_link: None,
            fields: Vec::new(),
        }
    }
}
