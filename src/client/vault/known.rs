//! What the last backup knew, beside the walk: whether a range is as it was, and which chunks an unchanged file has.
//! The server is asked ahead, for the ranges that the walk has reached, whether it holds their lists; nothing is
//! reused that it does not hold.

use std::collections::VecDeque;

use crossbeam_channel::Receiver;

use super::cache::{KnownContent, KnownEntries, KnownRange, KnownRanges};
use super::parcel::{Handed, Packer};
use crate::base::entry::Entry;
use crate::base::limits::VAULT_NAMES_MAX;
use crate::base::path::EntryPath;
use crate::base::vault::ChunkName;
use crate::channel::worker::Gone;
use crate::protocol::message::content_flag;

/// What makes a content one that must be read again.
const AGAIN: u8 = content_flag::RECHECK | content_flag::CHANGED_WHILE_READ | content_flag::UNREADABLE;

/// A range that the server was asked about.
struct Asked {
    range: KnownRange,
    /// Answers that have not come.
    due: usize,
    is_held: bool,
}

/// How files are compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Comparison {
    pub ignore_inode: bool,
    pub ignore_ctime: bool,
}

/// The last backup, read side by side with the walk.
pub struct Known {
    ranges: Option<KnownRanges>,
    /// The next range, which has not been asked about.
    next: Option<KnownRange>,
    /// Those that the walk has reached, in order.
    asked: VecDeque<Asked>,
    /// Whether a question's lists are all held, in the order of the questions.
    answers: Receiver<bool>,
    /// The entries of the first one of `asked`, where they have been looked at.
    entries: Option<Reading>,
    comparison: Comparison,
}

struct Reading {
    entries: KnownEntries,
    /// The entry that has not been passed yet.
    ahead: Option<(Entry, Option<KnownContent>)>,
}

impl Known {
    pub fn new(mut ranges: Option<KnownRanges>, answers: Receiver<bool>, comparison: Comparison) -> Known {
        let next = ranges.as_mut().and_then(KnownRanges::next);
        Known { ranges, next, asked: VecDeque::new(), answers, entries: None, comparison }
    }

    /// Asks about all ranges that begin at `path` or before.
    pub fn ask_up_to(&mut self, path: &EntryPath, packer: &Packer) -> Result<(), Gone> {
        while let Some(range) = self.next.take() {
            if range.indexed.path > *path {
                self.next = Some(range);
                break;
            }
            let mut due = 0;
            for lists in range.lists.chunks(VAULT_NAMES_MAX) {
                let names = lists.iter().flat_map(ChunkName::as_bytes).copied().collect();
                packer.hand(Handed::Question(names))?;
                due += 1;
            }
            self.asked.push_back(Asked { range, due, is_held: true });
            self.next = self.ranges.as_mut().and_then(KnownRanges::next);
        }
        Ok(())
    }

    /// The range that begins at `path`, if its entries have this hash, nothing in it is to be read again, and the server
    /// holds all of it.
    pub fn same_range(&mut self, path: &EntryPath, hash: &[u8; 32]) -> Result<Option<KnownRange>, Gone> {
        self.pass_to(path)?;
        let is_same = self.asked.front().is_some_and(|asked| {
            asked.range.indexed.path == *path && asked.range.hash == *hash && !asked.range.is_flagged
        });
        Ok(match is_same && self.is_front_held()? {
            true => self.asked.front().map(|asked| asked.range.clone()),
            false => None,
        })
    }

    /// The content that the file had, if it is the same file still and the server holds it.
    pub fn same_content(&mut self, entry: &Entry, packer: &Packer) -> Result<Option<KnownContent>, Gone> {
        self.ask_up_to(&entry.path, packer)?;
        self.pass_to(&entry.path)?;
        if self.asked.front().is_none_or(|asked| asked.range.indexed.path > entry.path) || !self.is_front_held()? {
            return Ok(None);
        }
        if self.entries.is_none() {
            self.entries = self.read_front();
        }
        let Some(reading) = &mut self.entries else { return Ok(None) };
        while reading.ahead.as_ref().is_some_and(|(ahead, _)| ahead.path < entry.path) {
            reading.advance();
        }
        let comparison = self.comparison;
        let same = reading.ahead.as_ref().filter(|(before, _)| is_same(before, entry, comparison));
        Ok(same.and_then(|(_, content)| *content).filter(|content| content.header.end.flags & AGAIN == 0))
    }

    /// A part of a content's chunks, from number `first` on.
    pub fn chunks(&self, content: &KnownContent, first: u32, out: &mut Vec<u8>) -> std::io::Result<()> {
        let gone = || std::io::Error::other("the range before has been left");
        self.entries.as_ref().ok_or_else(gone)?.entries.chunks(content, first, out)
    }

    fn read_front(&self) -> Option<Reading> {
        let entries = self.ranges.as_ref()?.entries(&self.asked.front()?.range)?;
        let mut reading = Reading { entries, ahead: None };
        reading.advance();
        Some(reading)
    }

    /// Leaves the ranges behind that end before `path`.
    fn pass_to(&mut self, path: &EntryPath) -> Result<(), Gone> {
        while self.asked.get(1).is_some_and(|asked| asked.range.indexed.path <= *path) {
            self.is_front_held()?;
            self.asked.pop_front();
            self.entries = None;
        }
        Ok(())
    }

    /// Waits for the answers about the first range.
    fn is_front_held(&mut self) -> Result<bool, Gone> {
        let Some(front) = self.asked.front_mut() else { return Ok(false) };
        while front.due > 0 {
            front.is_held &= self.answers.recv().map_err(|_| Gone)?;
            front.due -= 1;
        }
        Ok(front.is_held)
    }
}

impl Reading {
    fn advance(&mut self) {
        self.ahead = self.entries.next().map(|known| (known.entry, known.content));
    }
}

fn is_same(before: &Entry, now: &Entry, comparison: Comparison) -> bool {
    before.path == now.path
        && (before.size, before.mtime) == (now.size, now.mtime)
        && (comparison.ignore_ctime || before.ctime == now.ctime)
        && (comparison.ignore_inode || before.inode == now.inode)
}
