//! Files from the browser: a list at first, then each content when the backup server wants it. Nothing is kept
//! here but the list.
//!
//! ## Who waits for whom
//! The backup's reading thread opens files in the order of paths, those only that the server lacks; it waits in
//! [`GivenFiles::open`] until somebody gives the content. A request that gives one waits in
//! [`BrowserFiles::turn`] until its file is wanted or has been passed over, for a while at most. `stop` ends both, and
//! the reading of a content whose request has stalled. A request that breaks off in a content stops the job first and
//! lets the reading thread know after that.
//!
//! A request that has stalled can outlive the run of its job, and another run can have begun when it goes on. So each
//! run has a number, and what a request of an earlier run says counts no more.

use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::handover::{Giver, Stopper, Taker, handover};
use crate::base::entry::{Entry, EntryKind};
use crate::base::order::sort_by;
use crate::base::path::{EntryPath, compare_paths};
use crate::base::time::Timestamp;
use crate::client::given::{GivenContent, GivenFiles};
use crate::client::source::SourceError;

/// What is above everything that is uploaded.
pub const UPLOADS: &str = "uploads";
/// Files in one upload.
pub const FILES_MAX: usize = 50_000;
/// How long a request waits for its file's turn, and how many may.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
const WAITING_MAX: usize = 16;
/// How long the next wanted file is waited for when one has been given.
const NEXT_WAIT: Duration = Duration::from_millis(100);

/// A file as the page names it.
#[derive(Debug, Deserialize)]
pub struct NamedFile {
    pub path: String,
    pub size: u64,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub mtime: f64,
}

struct File {
    path: EntryPath,
    /// Its place in the page's list.
    index: usize,
    size: u64,
    mtime: Timestamp,
}

type Wanted = Box<dyn Fn(usize, &EntryPath) + Send + Sync>;

/// The files of one upload.
pub struct BrowserFiles {
    /// In the order of paths.
    files: Vec<File>,
    /// From a place in the page's list to one in `files`.
    places: Vec<usize>,
    bytes: u64,
    newest: Timestamp,
    state: Mutex<State>,
    changed: Condvar,
    /// Told of a file that is wanted: its place in the page's list, and its path.
    wanted: Wanted,
}

#[derive(Default)]
struct State {
    /// Entries that the walk has taken: folders that are open, and the file that comes next.
    folder: Option<EntryPath>,
    next: usize,
    /// The file that the backup waits for.
    wanted: Option<usize>,
    /// All files before it are dealt with.
    passed: usize,
    offered: Option<(usize, Taker)>,
    /// Of the content that was offered last.
    stopper: Option<Stopper>,
    /// The file that somebody is giving.
    giving: Option<usize>,
    /// Files that the request which gives now gives after that: nobody needs to be told that they are wanted.
    coming: Range<usize>,
    /// Requests may wait, the job is to run.
    running: bool,
    /// Counts runs: the next begins where one is stopped.
    run: u64,
    waiting: usize,
    sent: u64,
    bytes: u64,
}

/// Where an upload stands.
pub struct UploadState {
    pub files: usize,
    pub wanted: Option<(usize, EntryPath)>,
    pub sent: u64,
    pub held: u64,
    pub bytes: u64,
}

/// What becomes of a file that somebody wants to give.
pub enum Turn {
    Give(Giver),
    /// The server has it.
    Held,
    NotNow(&'static str),
    NoSuchFile,
}

impl BrowserFiles {
    /// Takes a list whose paths are relative, differ, and are not both file and folder.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(
        named: Vec<NamedFile>,
        wanted: impl Fn(usize, &EntryPath) + Send + Sync + 'static,
    ) -> Result<BrowserFiles, String> {
        match named.len() {
            0 => return Err("there are no files in the list".into()),
            count if count > FILES_MAX => {
                return Err(format!("{count} files are more than {FILES_MAX}: upload them in several jobs"));
            }
            _ => {}
        }
        let mut files = Vec::with_capacity(named.len());
        for (index, file) in named.into_iter().enumerate() {
            files.push(File {
                path: upload_path(file.path.as_bytes()).map_err(|problem| format!("{:?}: {problem}", file.path))?,
                index,
                size: file.size,
                mtime: from_milliseconds(file.mtime),
            });
        }
        sort_by(&mut files, |left, right| compare_paths(left.path.as_bytes(), right.path.as_bytes()));
        // In the order of paths, what is in a folder stands directly behind its name.
        if let Some(pair) = files.windows(2).find(|pair| pair[1].path.is_within(&pair[0].path)) {
            return Err(format!("{:?} is in the list twice, or is a file and a folder", pair[0].path.display()));
        }
        let mut places = vec![0; files.len()];
        files.iter().enumerate().for_each(|(place, file)| places[file.index] = place);
        let bytes = files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        let newest = files.iter().map(|file| file.mtime).max().unwrap_or_default();
        let wanted = Box::new(wanted);
        Ok(BrowserFiles { files, places, bytes, newest, state: Mutex::default(), changed: Condvar::new(), wanted })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The places in the page's list, in the order in which files are wanted.
    pub fn order(&self) -> Vec<usize> {
        self.files.iter().map(|file| file.index).collect()
    }

    /// The files that follow a file of the page's list in the order of paths, itself the first; each by its place in
    /// the page's list, with the size that was announced. None where there are not so many.
    pub fn following(&self, index: usize, count: usize) -> Option<Vec<(usize, u64)>> {
        let place = *self.places.get(index)?;
        let files = self.files.get(place..place.checked_add(count)?)?;
        Some(files.iter().map(|file| (file.index, file.size)).collect())
    }

    /// One request gives so many files that follow each other; until [`BrowserFiles::none_comes`] nobody else is asked.
    /// Gives the number of the run that it belongs to.
    pub fn these_come(&self, index: usize, count: usize) -> u64 {
        let place = self.places.get(index).copied().unwrap_or_default();
        let mut state = self.lock();
        state.coming = place..place + count;
        state.run
    }

    /// Whether this run has not been stopped.
    pub fn is_current(&self, run: u64) -> bool {
        self.lock().run == run
    }

    /// That request has ended. A file that is wanted of it is asked for again.
    pub fn none_comes(&self, run: u64) {
        let mut state = self.lock();
        if state.run != run {
            return;
        }
        let coming = std::mem::take(&mut state.coming);
        let asked = state.wanted.filter(|place| coming.contains(place));
        drop(state);
        if let Some(place) = asked {
            (self.wanted)(self.files[place].index, &self.files[place].path);
        }
    }

    pub fn state(&self) -> UploadState {
        let state = self.lock();
        let wanted = state.wanted.map(|place| (self.files[place].index, self.files[place].path.clone()));
        let held = (state.passed as u64).saturating_sub(state.sent);
        UploadState { files: self.files.len(), wanted, sent: state.sent, held, bytes: state.bytes }
    }

    /// The file that is wanted now.
    pub fn wanted(&self) -> Option<usize> {
        self.lock().wanted.map(|place| self.files[place].index)
    }

    /// Waits until a file other than `after` is wanted or the backup is not running; a while at most.
    pub fn wait_for_wanted(&self, after: Option<usize>, limit: Duration) -> Option<usize> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let wanted = state.wanted.map(|place| self.files[place].index);
            let left = deadline.saturating_duration_since(Instant::now());
            if (wanted.is_some() && wanted != after) || left.is_zero() || self.is_done(&state) {
                return wanted;
            }
            state = self.wait(state, left);
        }
    }

    /// The file wanted after one was given, if that shows soon.
    pub fn next_wanted(&self, given: usize) -> Option<usize> {
        self.wait_for_wanted(Some(given), NEXT_WAIT).filter(|wanted| *wanted != given)
    }

    /// Waits for the turn of a file of the page's list in this run.
    pub fn turn(&self, run: u64, index: usize) -> Turn {
        let Some(&place) = self.places.get(index) else { return Turn::NoSuchFile };
        let deadline = Instant::now() + TURN_TIMEOUT;
        let mut state = self.lock();
        if state.waiting >= WAITING_MAX {
            return Turn::NotNow("too many files are waiting for their turn");
        }
        state.waiting += 1;
        let turn = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.run != run {
                break Turn::NotNow("the job was stopped");
            }
            if state.wanted == Some(place) && state.giving.is_none() {
                let (giver, taker, stopper) = handover();
                (state.offered, state.giving, state.stopper) = (Some((place, taker)), Some(place), Some(stopper));
                self.changed.notify_all();
                break Turn::Give(giver);
            }
            if place < state.passed && state.wanted != Some(place) {
                break Turn::Held;
            }
            if !state.running {
                break Turn::NotNow("the job is not running");
            }
            if left.is_zero() {
                break Turn::NotNow("it was not this file's turn");
            }
            state = self.wait(state, left);
        };
        state.waiting -= 1;
        turn
    }

    /// A content was given whole, or not.
    pub fn given(&self, run: u64, bytes: u64, is_whole: bool) {
        let mut state = self.lock();
        if state.run != run {
            return;
        }
        let place = state.giving.take();
        if let (Some(place), true) = (place, is_whole) {
            state.passed = state.passed.max(place + 1);
            state.sent += 1;
            state.bytes += bytes;
        }
        self.changed.notify_all();
    }

    /// The backup runs, or will: requests may wait for their turn.
    pub fn start(&self) {
        self.lock().running = true;
    }

    /// The backup stops, or has ended.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.run += 1;
        (state.running, state.wanted, state.coming) = (false, None, 0..0);
        (state.offered, state.giving, state.stopper) = (None, None, None);
        self.changed.notify_all();
    }

    /// Everything that was wanted has been given.
    pub fn finish(&self) {
        let mut state = self.lock();
        (state.passed, state.wanted) = (self.files.len(), None);
        self.changed.notify_all();
    }

    fn is_done(&self, state: &State) -> bool {
        !state.running || state.passed == self.files.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl GivenFiles for BrowserFiles {
    fn rewind(&self) {
        let mut state = self.lock();
        (state.folder, state.next, state.wanted, state.passed) = (None, 0, None, 0);
        (state.sent, state.bytes, state.offered) = (0, 0, None);
    }

    fn next(&self) -> io::Result<Option<Entry>> {
        let mut state = self.lock();
        let Some(file) = self.files.get(state.next) else { return Ok(None) };
        if let Some(folder) = next_folder(state.folder.as_ref(), &file.path) {
            state.folder = Some(folder.clone());
            return Ok(Some(entry(folder, EntryKind::Folder, 0, self.newest)));
        }
        state.next += 1;
        Ok(Some(entry(file.path.clone(), EntryKind::File, file.size, file.mtime)))
    }

    fn next_may_wait(&self) -> bool {
        false
    }

    fn open(&self, path: &EntryPath) -> Result<GivenContent, SourceError> {
        let place = self.files.binary_search_by(|file| compare_paths(file.path.as_bytes(), path.as_bytes()));
        let place = place.map_err(|_| SourceError::OutsideRoots)?;
        let mut state = self.lock();
        (state.wanted, state.passed, state.offered) = (Some(place), place, None);
        self.changed.notify_all();
        if !state.coming.contains(&place) {
            drop(state);
            (self.wanted)(self.files[place].index, path);
            state = self.lock();
        }
        loop {
            match state.offered.take() {
                Some((offered, taker)) if offered == place => {
                    state.wanted = None;
                    return Ok(GivenContent { reader: Box::new(taker), size: Some(self.files[place].size) });
                }
                _ if !state.running => return Err(SourceError::Io(io::ErrorKind::Interrupted.into())),
                _ => state = self.wait(state, TURN_TIMEOUT),
            }
        }
    }
}

/// The path below the root of uploads.
pub fn upload_path(relative: &[u8]) -> Result<EntryPath, String> {
    let path = EntryPath::parse(relative).map_err(|error| error.to_string())?;
    let bytes = [UPLOADS.as_bytes(), b"/", path.as_bytes()].concat();
    EntryPath::parse(&bytes).map_err(|error| error.to_string())
}

/// The outermost folder above `path` that has not been named: `last` is the one that was named last.
pub fn next_folder(last: Option<&EntryPath>, path: &EntryPath) -> Option<EntryPath> {
    let parent = path.parent()?;
    let Some(last) = last else { return Some(first_component(&parent)) };
    if last.is_within(&parent) {
        return None;
    }
    // Down from what both have in common, one folder at a time.
    let mut common = last.clone();
    while !parent.is_within(&common) {
        common = common.parent()?;
    }
    let below = parent.as_bytes().get(common.as_bytes().len() + 1..)?;
    let name = below.split(|byte| *byte == b'/').next()?;
    common.join(name).ok()
}

fn first_component(path: &EntryPath) -> EntryPath {
    let first = path.components().next().unwrap_or_default();
    EntryPath::parse(first).unwrap_or_else(|_| path.clone())
}

/// An entry for what is handed over: it belongs to whoever runs this, and has no inode.
pub fn entry(path: EntryPath, kind: EntryKind, size: u64, mtime: Timestamp) -> Entry {
    Entry {
        path,
        kind,
        size,
        mtime,
        ctime: mtime,
        inode: 0,
        mode: if kind == EntryKind::Folder { 0o755 } else { 0o644 },
        owner: rustix::process::geteuid().as_raw(),
        group: rustix::process::getegid().as_raw(),
        owner_name: Vec::new(),
        group_name: Vec::new(),
        link_target: Vec::new(),
        hard_link: None,
        fields: Vec::new(),
    }
}

fn from_milliseconds(milliseconds: f64) -> Timestamp {
    // What is no number is 0, and what is too large the nearest that there is.
    let whole = milliseconds as i64;
    let nanoseconds = whole.rem_euclid(1_000) as u32 * 1_000_000;
    Timestamp { seconds: whole.div_euclid(1_000), nanoseconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::Arc;

    fn named(paths: &[&str]) -> Vec<NamedFile> {
        paths.iter().map(|path| NamedFile { path: (*path).into(), size: 3, mtime: 1_500.0 }).collect()
    }

    #[test]
    fn entries_come_in_path_order_with_their_folders() {
        let files = BrowserFiles::new(named(&["b/x", "a", "b/c/d/y", "b!", "b/c/z"]), |_, _| ()).unwrap();
        for _ in 0..2 {
            files.rewind();
            let mut shown = Vec::new();
            while let Some(entry) = files.next().unwrap() {
                shown.push(format!("{}{}", entry.path.display(), if entry.has_content() { "" } else { "/" }));
            }
            let wanted = ["", "/a", "/b/", "/b/c/", "/b/c/d/", "/b/c/d/y", "/b/c/z", "/b/x", "/b!"];
            let wanted: Vec<String> = wanted.iter().map(|path| format!("uploads{path}")).collect();
            assert_eq!(shown[0], "uploads/");
            assert_eq!(shown[1..], wanted[1..]);
        }
        assert_eq!(files.order(), [1, 2, 4, 0, 3]);
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        for wrong in [&["a", "a"][..], &["a", "a/b"], &["../a"], &["/a"], &["a//b"], &[""], &["a\0"], &[]] {
            assert!(BrowserFiles::new(named(wrong), |_, _| ()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_waits_for_its_turn_and_those_passed_over_are_held() {
        let files = Arc::new(BrowserFiles::new(named(&["a", "b"]), |_, _| ()).unwrap());
        files.start();
        let run = files.these_come(1, 1);
        let opener = files.clone();
        let reading = std::thread::spawn(move || {
            let mut content = opener.open(&upload_path(b"b").unwrap()).unwrap();
            let mut bytes = Vec::new();
            content.reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let Turn::Give(giver) = files.turn(run, 1) else { panic!("it is wanted") };
        giver.give(b"abc").unwrap();
        giver.finish().unwrap();
        files.given(run, 3, true);
        assert_eq!(reading.join().unwrap().unwrap(), b"abc");
        assert!(matches!(files.turn(run, 0), Turn::Held));
        assert!(matches!(files.turn(run, 2), Turn::NoSuchFile));
        files.stop();
        assert!(files.open(&upload_path(b"a").unwrap()).is_err());
    }

    #[test]
    fn a_request_of_a_run_that_was_stopped_counts_no_more() {
        let files = Arc::new(BrowserFiles::new(named(&["a"]), |_, _| ()).unwrap());
        files.start();
        let reading = || {
            let opener = files.clone();
            std::thread::spawn(move || {
                // Stopped before it is open or afterwards: it depends on who is faster.
                let Ok(mut content) = opener.open(&upload_path(b"a").unwrap()) else {
                    return Err("the backup was stopped".into());
                };
                let mut bytes = Vec::new();
                content.reader.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
            })
        };
        let (stalled, first) = (files.these_come(0, 1), reading());
        let Turn::Give(_giver) = files.turn(stalled, 0) else { panic!("it is wanted") };
        files.stop();
        assert_eq!(first.join().unwrap(), Err("the backup was stopped".into()));
        files.start();
        let (run, second) = (files.these_come(0, 1), reading());
        let Turn::Give(giver) = files.turn(run, 0) else { panic!("nobody gives it") };
        assert!(files.is_current(run) && !files.is_current(stalled));
        files.given(stalled, 0, false);
        files.none_comes(stalled);
        assert!(matches!(files.turn(stalled, 0), Turn::NotNow(_)));
        giver.give(b"abc").unwrap();
        giver.finish().unwrap();
        files.given(run, 3, true);
        assert_eq!(second.join().unwrap(), Ok(b"abc".to_vec()));
        assert_eq!((files.state().sent, files.state().bytes), (1, 3));
    }

    #[test]
    fn times_of_the_page_become_times() {
        let at = |milliseconds| from_milliseconds(milliseconds);
        assert_eq!(at(1_500.0), Timestamp { seconds: 1, nanoseconds: 500_000_000 });
        assert_eq!(at(-1.0), Timestamp { seconds: -1, nanoseconds: 999_000_000 });
        assert_eq!((at(f64::NAN), at(f64::INFINITY).seconds), (Timestamp::default(), i64::MAX / 1_000));
    }
}
