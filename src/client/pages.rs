//! One page of a restore into a folder where something is: looked at first, so that only what is lacking is fetched.
//!
//! The page comes twice, and the second time each entry must be the one that was looked at: what is not fetched was
//! compared with what the first told.

use super::error::ClientError;
use super::progress::Progress;
use super::properties::Properties;
use super::query::{Listed, check_rows, malformed, sums, unexpected};
use super::refill::Candidate;
use super::standing::{Found, Standing};
use crate::base::codec::Writer;
use crate::base::entry::EntryKind;
use crate::base::limits::{PAGE_ENTRIES_MAX, PAGE_LARGE_FILES_MAX, PAGE_LARGE_PATHS_BYTES_MAX};
use crate::base::path::EntryPath;
use crate::crypto::blake3_hash;
use crate::protocol::message::{EntryRow, SnapshotRow, ToClient, content_flag};

/// How much of an entry's hash is remembered.
const PRINT_BYTES: usize = 8;

/// What is known of a page's entries: a few bytes for each.
#[derive(Debug, Default)]
pub(super) struct Page {
    prints: Vec<[u8; PRINT_BYTES]>,
    /// A bit for each entry: its content is to be fetched.
    wanted: Vec<u8>,
    /// The large files that were made right, by rising place, and how much of each was there.
    refilled: Vec<(u32, u64)>,
    /// How many entries have come again.
    taken: usize,
    /// Whether no page follows.
    pub is_last: bool,
}

impl Page {
    pub fn entries(&self) -> u32 {
        self.prints.len() as u32
    }

    pub fn wanted(&self) -> &[u8] {
        &self.wanted
    }

    /// A large file has been made right, with so many bytes that were there.
    pub fn refill(&mut self, number: u32, kept: u64) {
        self.refilled.push((number, kept));
        self.want(number, false);
    }

    /// Takes the next entry again. Says whether its content follows, and if not, how much of it was there in case it
    /// was made right.
    pub fn take(&mut self, row: &EntryRow<'_>) -> Result<Coming, ClientError> {
        let number = self.taken;
        if self.prints.get(number) != Some(&print(row)) {
            let text = "the list of the snapshot is not what it was a moment ago: run this again";
            return Err(ClientError::Integrity(text.to_string()));
        }
        self.taken += 1;
        if self.wanted[number / 8] >> (number % 8) & 1 == 1 {
            return Ok(Coming::Content);
        }
        let refilled = self.refilled.binary_search_by_key(&number, |(refilled, _)| *refilled as usize);
        Ok(refilled.map_or(Coming::Right, |place| Coming::Refilled { kept: self.refilled[place].1 }))
    }

    fn add(&mut self, row: &EntryRow<'_>, is_wanted: bool) {
        let number = self.entries();
        self.prints.push(print(row));
        self.wanted.resize(self.prints.len().div_ceil(8), 0);
        self.want(number, is_wanted);
    }

    fn want(&mut self, number: u32, is_wanted: bool) {
        let (byte, bit) = (&mut self.wanted[number as usize / 8], 1 << (number % 8));
        *byte = if is_wanted { *byte | bit } else { *byte & !bit };
    }
}

/// What follows an entry that comes the second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    Content,
    /// Nothing: a content was found right.
    Right,
    /// Nothing: the content was made right.
    Refilled {
        kept: u64,
    },
}

fn print(row: &EntryRow<'_>) -> [u8; PRINT_BYTES] {
    let mut bytes = Vec::with_capacity(64 + row.entry.len());
    if let Some(content) = &row.content {
        bytes.put_u64(content.bytes);
        bytes.put_u32(content.crc32);
        bytes.put_bytes(&content.blake3);
        bytes.put_u8(content.flags);
    }
    bytes.put_bytes(row.entry);
    *blake3_hash(&bytes).first_chunk().expect("a hash has 32 bytes")
}

/// A page that is being looked at: each file's place is looked up in the target.
pub(super) struct Look<'a, 'p> {
    pub page: Page,
    pub candidates: Vec<Candidate>,
    pub snapshot: Option<SnapshotRow>,
    standing: Standing,
    progress: &'a mut Progress<'p>,
    /// The path of the entry before.
    last: Option<EntryPath>,
    entries: u32,
    damaged: u64,
    candidates_bytes: usize,
    /// What still comes belongs to the next page.
    is_full: bool,
}

impl<'a, 'p> Look<'a, 'p> {
    /// A look at the page that begins behind `after`.
    pub fn new(standing: Standing, progress: &'a mut Progress<'p>, after: Option<EntryPath>) -> Look<'a, 'p> {
        Look {
            page: Page::default(),
            candidates: Vec::new(),
            snapshot: None,
            standing,
            progress,
            last: after,
            entries: 0,
            damaged: 0,
            candidates_bytes: 0,
            is_full: false,
        }
    }

    pub fn take(&mut self, message: &ToClient<'_>) -> Result<Option<()>, ClientError> {
        match message {
            ToClient::Snapshot(row) => self.snapshot = Some(row.clone()),
            ToClient::Entry(row) => self.entry(row)?,
            // It is told when the page comes again.
            ToClient::Damage { .. } => self.damaged += 1,
            ToClient::End { rows } => {
                check_rows(u64::from(self.entries) + self.damaged, *rows)?;
                self.page.is_last = self.entries < PAGE_ENTRIES_MAX && !self.is_full;
                return Ok(Some(()));
            }
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn entry(&mut self, row: &EntryRow<'_>) -> Result<(), ClientError> {
        let listed = Listed::decode(row).map_err(malformed)?;
        if self.entries == PAGE_ENTRIES_MAX || self.last.as_ref().is_some_and(|last| *last >= listed.entry.path) {
            return Err(unexpected());
        }
        self.entries += 1;
        if self.is_full {
            self.last = Some(listed.entry.path);
            return Ok(());
        }
        let is_wanted = self.lacks_content(&listed)?;
        // The file that found no room among the candidates begins the next page.
        if !self.is_full {
            self.page.add(row, is_wanted);
        }
        self.last = Some(listed.entry.path);
        Ok(())
    }

    fn lacks_content(&mut self, listed: &Listed) -> Result<bool, ClientError> {
        let Some(content) = &listed.content else { return Ok(false) };
        if listed.entry.kind != EntryKind::File || content.flags & content_flag::UNREADABLE != 0 {
            return Ok(false);
        }
        let (path, sums) = (&listed.entry.path, sums(content));
        match self.standing.find(&listed.entry, &sums)? {
            Found::Nothing => return Ok(true),
            Found::Right => {
                self.progress.find(sums.size, path.as_bytes());
                return Ok(false);
            }
            Found::Parts => {}
        }
        self.candidates_bytes += path.as_bytes().len();
        let has_room =
            self.candidates.len() < PAGE_LARGE_FILES_MAX && self.candidates_bytes <= PAGE_LARGE_PATHS_BYTES_MAX;
        match has_room {
            true => self.candidates.push(Candidate {
                number: self.page.entries(),
                path: path.clone(),
                sums,
                properties: Properties::of(&listed.entry),
            }),
            false => self.is_full = true,
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::base::shutdown::Shutdown;
    use crate::client::scan::ScanOptions;
    use crate::client::test_tree::walk_with;
    use crate::protocol::message::ContentEnd;

    /// The encoded entries of three files.
    fn encoded() -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        ["a", "b", "c"].into_iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
        let (_, collected) = walk_with(folder.path(), &ScanOptions::default(), |_| {});
        let files = collected.entries().into_iter().filter(|entry| entry.kind == EntryKind::File);
        let encode = |entry: crate::base::entry::Entry| {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            bytes
        };
        files.map(encode).collect()
    }

    fn row(entry: &[u8]) -> EntryRow<'_> {
        EntryRow { content: Some(ContentEnd { bytes: 1, crc32: 2, blake3: [3; 32], flags: 0 }), entry }
    }

    #[test]
    fn an_entry_that_is_not_the_one_that_was_looked_at_is_refused() {
        let entries = encoded();
        let looked_at = || {
            let mut page = Page::default();
            entries.iter().zip([true, false, true]).for_each(|(entry, wanted)| page.add(&row(entry), wanted));
            page.refill(2, 7);
            page
        };
        let mut page = looked_at();
        let coming: Vec<Coming> = entries.iter().map(|entry| page.take(&row(entry)).unwrap()).collect();
        assert_eq!(coming, [Coming::Content, Coming::Right, Coming::Refilled { kept: 7 }]);
        assert!(page.take(&row(&entries[2])).is_err(), "one more than there were");
        assert!(looked_at().take(&row(&entries[1])).is_err(), "another entry");
        let mut other = row(&entries[0]);
        other.content = Some(ContentEnd { blake3: [4; 32], ..other.content.unwrap() });
        assert!(looked_at().take(&other).is_err(), "another content");
    }

    #[test]
    fn a_page_whose_paths_do_not_rise_is_refused() {
        let (entries, to) = (encoded(), tempfile::tempdir().unwrap());
        let mut progress = Progress::new(&Silent);
        let standing = Standing::open(to.path(), Shutdown::new()).unwrap();
        let mut look = Look::new(standing, &mut progress, None);
        look.take(&ToClient::Entry(row(&entries[1]))).unwrap();
        assert!(look.take(&ToClient::Entry(row(&entries[1]))).is_err());
        assert!(look.take(&ToClient::Entry(row(&entries[0]))).is_err());
        assert!(look.take(&ToClient::End { rows: 7 }).is_err());
        look.take(&ToClient::End { rows: 1 }).unwrap();
        assert_eq!((look.page.entries(), look.page.wanted(), look.page.is_last), (1, &[1][..], true));
    }
}
