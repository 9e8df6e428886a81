//! What differs between two snapshots: their lists, which have the same order, are read side by side, a page of each at
//! a time. Contents are compared by size and BLAKE3, so that it does not matter whether a snapshot is in a vault.

use std::collections::VecDeque;

use super::connect::Session;
use super::error::ClientError;
use super::json::size;
use super::query::{Damage, Listed, check_rows, malformed, unexpected};
use crate::base::entry::{Entry, EntryKind};
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::selection::PathSelection;
use crate::protocol::message::{FailureCode, Page, Selection, ToClient, ToServer, content_flag};

/// Entries that are asked for at once, and how many bytes of them are kept: what does not fit is asked for again.
const PAGE_ENTRIES: u32 = 16_384;
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
    /// A file has another content.
    Content,
    /// Mode, owner, group, time or the target of a link, and not the content.
    Facts,
    /// A file has become a folder, or the like.
    Kind,
}

/// A path that differs.
#[derive(Debug)]
pub struct Difference<'a> {
    pub change: Change,
    /// What of the entry differs, by the names that its JSON has.
    pub fields: Vec<&'static str>,
    pub before: Option<&'a Listed>,
    pub after: Option<&'a Listed>,
}

/// Paths and bytes of files, by how they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffSummary {
    pub added: u64,
    pub removed: u64,
    pub content: u64,
    pub facts: u64,
    pub kind: u64,
    pub added_bytes: u64,
    pub removed_bytes: u64,
    /// Of files with another content: as they are now.
    pub content_bytes: u64,
    /// What could not be listed; each was told.
    pub damaged: u64,
}

impl DiffSummary {
    pub fn is_empty(&self) -> bool {
        *self == DiffSummary { damaged: self.damaged, ..DiffSummary::default() }
    }

    fn add(&mut self, difference: &Difference<'_>) {
        let bytes = |listed: Option<&Listed>| listed.map_or(0, size);
        match difference.change {
            Change::Added => {
                (self.added, self.added_bytes) = (self.added + 1, self.added_bytes + bytes(difference.after))
            }
            Change::Removed => {
                (self.removed, self.removed_bytes) =
                    (self.removed + 1, self.removed_bytes + bytes(difference.before));
            }
            Change::Content => {
                (self.content, self.content_bytes) =
                    (self.content + 1, self.content_bytes + bytes(difference.after));
            }
            Change::Facts => self.facts += 1,
            Change::Kind => self.kind += 1,
        }
    }
}

/// Who is told of differences and of damage.
pub struct DiffTelling<'a> {
    pub difference: &'a mut dyn FnMut(&Difference<'_>) -> Result<(), ClientError>,
    pub damage: &'a mut dyn FnMut(&Damage),
}

/// Compares what is selected of two snapshots, which have the same paths selected.
///
/// # Errors
/// Those of the line and of keys; `Failure` where a path is in neither snapshot. Damage is told and counted.
pub fn diff(
    session: &mut Session,
    before: Selection,
    after: Selection,
    telling: DiffTelling<'_>,
) -> Result<DiffSummary, ClientError> {
    let DiffTelling { difference, damage } = telling;
    let mut filter = PathSelection::new(&after.paths);
    let (mut before, mut after) = (Side::new(before), Side::new(after));
    let mut summary = DiffSummary::default();
    loop {
        before.fill(session, damage)?;
        after.fill(session, damage)?;
        let (old, new) = (before.first_path(), after.first_path());
        let (left, right) = match (old, new) {
            (None, None) => break,
            (Some(old), Some(new)) => (old <= new, new <= old),
            (left, right) => (left.is_some(), right.is_some()),
        };
        let (left, right) = (before.take_if(left), after.take_if(right));
        if let Some(listed) = left.as_ref().or(right.as_ref()) {
            filter.selects(&listed.entry.path);
        }
        if let Some(found) = compare(left.as_ref(), right.as_ref()) {
            summary.add(&found);
            difference(&found)?;
        }
    }
    summary.damaged = before.damaged + after.damaged;
    match filter.unmatched() {
        [path, ..] if summary.damaged == 0 => Err(ClientError::Failure {
            code: FailureCode::NotFound,
            text: format!("{} is in neither snapshot: \"cyberbackup ls\" shows what is", path.display()),
        }),
        _ => Ok(summary),
    }
}

/// The list of one snapshot, as far as it is here.
struct Side {
    selection: Selection,
    rows: VecDeque<Listed>,
    /// The last entry that came.
    after: Option<EntryPath>,
    is_over: bool,
    damaged: u64,
    /// What was told last, in case the next page begins with it.
    told: Option<(Option<EntryPath>, String)>,
}

/// What came of a page.
#[derive(Default)]
struct Came {
    snapshot: Option<SnapshotId>,
    rows: VecDeque<Listed>,
    /// The last entry, kept or not.
    last: Option<EntryPath>,
    bytes: usize,
    entries: u32,
    damages: Vec<Damage>,
    damaged: u64,
    /// What still comes belongs to the next page.
    is_full: bool,
}

impl Side {
    fn new(selection: Selection) -> Side {
        Side { selection, rows: VecDeque::new(), after: None, is_over: false, damaged: 0, told: None }
    }

    fn first_path(&self) -> Option<&EntryPath> {
        self.rows.front().map(|listed| &listed.entry.path)
    }

    fn take_if(&mut self, is_wanted: bool) -> Option<Listed> {
        if is_wanted { self.rows.pop_front() } else { None }
    }

    /// Sees to it that the next entry is here, if there is one.
    fn fill(&mut self, session: &mut Session, damage: &mut dyn FnMut(&Damage)) -> Result<(), ClientError> {
        while self.rows.is_empty() && !self.is_over {
            let (selection, after) = (self.selection.clone(), self.after.clone());
            let mut came = Came { last: after.clone(), ..Came::default() };
            let request = Page { selection, after, entries: PAGE_ENTRIES, wanted: None };
            session.stream(&ToServer::Page(request), |message| came.take(message))?;
            // From the first answer on it is one snapshot, whatever becomes the latest.
            if let Some(snapshot) = came.snapshot {
                (self.selection.snapshot, self.selection.root) = (snapshot.to_string(), None);
            }
            for found in came.damages {
                let told = Some((found.path.clone(), found.text.clone()));
                if self.told != told {
                    self.damaged += 1;
                    damage(&found);
                }
                self.told = told;
            }
            self.is_over = came.entries < PAGE_ENTRIES && !came.is_full;
            if let Some(last) = came.rows.back() {
                self.after = Some(last.entry.path.clone());
            }
            self.rows = came.rows;
        }
        Ok(())
    }
}

impl Came {
    fn take(&mut self, message: &ToClient<'_>) -> Result<Option<()>, ClientError> {
        match message {
            ToClient::Snapshot(row) => self.snapshot = Some(row.id),
            ToClient::Entry(row) => {
                self.bytes += row.entry.len();
                self.entry(Listed::decode(row).map_err(malformed)?)?;
            }
            ToClient::Damage { snapshot, path, text } => {
                self.damaged += 1;
                if !self.is_full {
                    self.damages.push(Damage { snapshot: *snapshot, path: path.clone(), text: text.clone() });
                }
            }
            ToClient::End { rows } => {
                return check_rows(u64::from(self.entries) + self.damaged, *rows).map(Some);
            }
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn entry(&mut self, listed: Listed) -> Result<(), ClientError> {
        if self.entries == PAGE_ENTRIES || self.last.as_ref().is_some_and(|last| *last >= listed.entry.path) {
            return Err(unexpected());
        }
        self.entries += 1;
        self.last = Some(listed.entry.path.clone());
        // One is kept whatever its length: without it there would be no next page.
        self.is_full |= self.bytes > PAGE_BYTES_MAX && !self.rows.is_empty();
        if !self.is_full {
            self.rows.push_back(listed);
        }
        Ok(())
    }
}

/// What differs between two entries of one path, of which one may be missing; nothing where they are the same.
fn compare<'a>(before: Option<&'a Listed>, after: Option<&'a Listed>) -> Option<Difference<'a>> {
    let (change, fields) = match (before, after) {
        (None, _) => (Change::Added, Vec::new()),
        (_, None) => (Change::Removed, Vec::new()),
        (Some(old), Some(new)) if old.entry.kind != new.entry.kind => (Change::Kind, vec!["kind"]),
        (Some(old), Some(new)) => {
            let has_changed = has_other_content(old, new);
            let content = has_changed.then_some("content");
            let fields: Vec<&str> = content.into_iter().chain(other_facts(&old.entry, &new.entry)).collect();
            (if has_changed { Change::Content } else { Change::Facts }, fields)
        }
    };
    let is_same = change == Change::Facts && fields.is_empty();
    (!is_same).then_some(Difference { change, fields, before, after })
}

fn other_facts(old: &Entry, new: &Entry) -> impl Iterator<Item = &'static str> {
    // A link has no mode of its own.
    let has_mode = old.kind != EntryKind::Link;
    let facts = [
        ("mode", has_mode && old.mode != new.mode),
        ("owner", old.owner != new.owner),
        ("group", old.group != new.group),
        ("mtime", old.mtime != new.mtime),
        ("link_target", old.link_target != new.link_target),
        ("hard_link", old.hard_link != new.hard_link),
    ];
    facts.into_iter().filter_map(|(name, differs)| differs.then_some(name))
}

/// Whether two files have another content, as far as the lists tell: what could not be read is another one than what could,
/// and of two further names of a file the size is compared.
fn has_other_content(old: &Listed, new: &Listed) -> bool {
    let sums = |listed: &Listed| {
        let content = listed.content.filter(|content| content.flags & content_flag::UNREADABLE == 0);
        content.map(|content| (content.bytes, content.blake3))
    };
    let is_further_name = old.entry.hard_link.is_some() || new.entry.hard_link.is_some();
    match (sums(old), sums(new)) {
        (Some(old), Some(new)) => old != new,
        (None, None) => size(old) != size(new),
        _ if is_further_name => size(old) != size(new),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::protocol::message::ContentEnd;

    fn listed(content: Option<(u64, u8, u8)>) -> Listed {
        let entry = Entry {
            path: EntryPath::parse(b"a").unwrap(),
            kind: EntryKind::File,
            size: 3,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            inode: 1,
            mode: 0o644,
            owner: 1,
            group: 1,
            owner_name: Vec::new(),
            group_name: Vec::new(),
            link_target: Vec::new(),
            hard_link: None,
            fields: Vec::new(),
        };
        let end = |(bytes, hash, flags)| ContentEnd { bytes, crc32: 0, blake3: [hash; 32], flags };
        Listed { entry, content: content.map(end) }
    }

    fn changed(old: &Listed, new: &Listed) -> Option<(Change, Vec<&'static str>)> {
        compare(Some(old), Some(new)).map(|found| (found.change, found.fields))
    }

    #[test]
    fn what_differs_is_named_and_what_does_not_matter_is_not() {
        let old = listed(Some((3, 1, 0)));
        let mut new = old.clone();
        (new.entry.inode, new.entry.ctime.seconds, new.content.as_mut().unwrap().flags) =
            (2, 9, content_flag::RECHECK);
        assert_eq!(changed(&old, &new), None);
        (new.entry.mode, new.entry.mtime.seconds) = (0o600, 7);
        assert_eq!(changed(&old, &new), Some((Change::Facts, vec!["mode", "mtime"])));
        new.content.as_mut().unwrap().blake3 = [2; 32];
        assert_eq!(changed(&old, &new), Some((Change::Content, vec!["content", "mode", "mtime"])));
        new.entry.kind = EntryKind::Folder;
        assert_eq!(changed(&old, &new), Some((Change::Kind, vec!["kind"])));
        assert_eq!(compare(None, Some(&new)).unwrap().change, Change::Added);
        assert_eq!(compare(Some(&new), None).unwrap().change, Change::Removed);
    }

    #[test]
    fn what_could_not_be_read_is_another_content_and_a_further_name_counts_by_its_size() {
        let (read, unread) = (listed(Some((3, 1, 0))), listed(Some((0, 0, content_flag::UNREADABLE))));
        assert_eq!(changed(&read, &unread), Some((Change::Content, vec!["content"])));
        assert_eq!(changed(&unread, &unread.clone()), None);
        let mut further = listed(None);
        further.entry.hard_link = Some(EntryPath::parse(b"0").unwrap());
        assert_eq!(changed(&read, &further), Some((Change::Facts, vec!["hard_link"])));
        further.entry.size = 4;
        assert_eq!(changed(&read, &further), Some((Change::Content, vec!["content", "hard_link"])));
    }
}
