//! A restore. Into an empty folder the server streams entries and contents in path order, and a thread of its own
//! writes them. Where something is already, or the line was lost on the way, it goes page by page: the entries of a
//! page are looked up in the target ([`super::pages`]), large files are made right from what is there
//! ([`super::refill`]), and what is lacking is streamed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::connect::{Client, Session};
use super::error::ClientError;
use super::pages::{Look, Page};
use super::refill::{Candidate, refill};
use super::restoring::Restoring;
use super::standing::Standing;
use super::target::{RestoreTarget, TargetError};
use crate::base::limits::PAGE_ENTRIES_MAX;
use crate::base::path::EntryPath;
use crate::base::progress::{Event, Phase, ProgressSink};
use crate::protocol::message::{self, Selection, SnapshotRow, ToServer};

/// How a restore went.
#[derive(Debug, Clone)]
pub struct RestoreSummary {
    pub snapshot: SnapshotRow,
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    pub bytes: u64,
    /// Of the files, those that were right already.
    pub files_kept: u64,
    /// Of the bytes, those that were there already, parts of large files among them.
    pub bytes_kept: u64,
    /// Entries, or properties of entries, that could not be restored; each was told.
    pub errors: u64,
    /// Contents that arrived or lay there damaged; among the errors.
    pub damaged: u64,
    pub elapsed: Duration,
}

/// A restore that goes on where it was in each session that it is given.
pub struct Restore<'a> {
    selection: Selection,
    to: PathBuf,
    restoring: Restoring<'a>,
    sink: &'a dyn ProgressSink,
    /// Nothing was in the target when it began.
    was_empty: bool,
    /// Large files of the present page that cannot be made right from what is there, and so are fetched whole: to try
    /// again after a lost line would fetch the same again, and look like getting on.
    hopeless: Vec<EntryPath>,
    began: Instant,
}

impl<'a> Restore<'a> {
    /// A restore of what is selected under `to`. Errors of single paths are told to `sink` and counted.
    pub fn create(selection: Selection, to: &Path, sink: &'a dyn ProgressSink) -> Result<Restore<'a>, ClientError> {
        let target = RestoreTarget::create(to)?;
        let was_empty = std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_none());
        let restoring = Restoring::new(target, selection.paths.is_empty(), sink);
        let (to, hopeless) = (to.to_path_buf(), Vec::new());
        Ok(Restore { selection, to, restoring, sink, was_empty, hopeless, began: Instant::now() })
    }

    /// Goes on to the end, if the session lasts. After a passing error it can be run again.
    fn run(&mut self, session: &mut Session) -> Result<RestoreSummary, ClientError> {
        self.sink.event(Event::Phase { phase: Phase::BackupInProgress, message: "restoring" });
        let ran = self.try_run(session);
        self.name_snapshot();
        if ran.is_err() {
            self.restoring.cut_off();
        }
        ran?;
        self.restoring.finish(self.began)
    }

    /// Goes on to the end, over a new connection after each lost line. A line that brings something each time is worth
    /// another try: the tries that the client's options allow are those in which nothing came.
    pub fn run_to_end(
        &mut self,
        client: &mut Client<'_>,
        mut session: Session,
    ) -> Result<RestoreSummary, ClientError> {
        let (mut tries, mut progress) = (0, 0);
        loop {
            let error = match self.run(&mut session) {
                Ok(summary) => {
                    // Everything is here and checked: a line that fails during the close changes nothing.
                    let _ = session.close();
                    return Ok(summary);
                }
                Err(error) => error,
            };
            if self.progress() > progress {
                (tries, progress) = (0, self.progress());
            }
            if !error.is_passing() || tries >= client.options.retry.retries {
                return Err(error);
            }
            tries += 1;
            let wait = client.options.retry.wait(tries);
            client.notice(&format!("{error}; going on in {:.1} s", wait.as_secs_f64()));
            if client.shutdown.wait(wait) {
                return Err(ClientError::Interrupted);
            }
            session = client.connect()?;
        }
    }

    /// What is restored: from the first answer on, of one snapshot by its id.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Grows with everything that need not be fetched again after a lost line.
    fn progress(&self) -> u64 {
        self.restoring.lasting
    }

    fn try_run(&mut self, session: &mut Session) -> Result<(), ClientError> {
        self.name_snapshot();
        if self.was_empty && self.restoring.snapshot.is_none() {
            let restoring = &mut self.restoring;
            restoring.begin_answer(None);
            return session.stream(&ToServer::Restore(self.selection.clone()), |message| restoring.take(message));
        }
        while !self.page(session)? {}
        Ok(())
    }

    /// Restores one page; says whether it was the last.
    fn page(&mut self, session: &mut Session) -> Result<bool, ClientError> {
        let (mut page, candidates) = self.look(session)?;
        self.refill(session, &mut page, &candidates)?;
        let is_last = page.is_last;
        // In the last page one more is asked for, so that the server comes to the end.
        let entries = page.entries() + u32::from(is_last);
        let (after, wanted) = (self.restoring.after.clone(), page.wanted().to_vec());
        let request = message::Page { selection: self.selection.clone(), after, entries, wanted: Some(&wanted) };
        let restoring = &mut self.restoring;
        restoring.begin_answer(Some(page));
        session.stream(&ToServer::Page(request), |message| restoring.take(message))?;
        self.hopeless.clear();
        Ok(is_last)
    }

    /// Makes large files of the page right from what is there.
    fn refill(
        &mut self,
        session: &mut Session,
        page: &mut Page,
        candidates: &[Candidate],
    ) -> Result<(), ClientError> {
        if candidates.is_empty() {
            return Ok(());
        }
        // Apart from the one that is written to, which is still in the folders of the page before.
        let mut target = RestoreTarget::create(&self.to)?;
        let Restoring { progress, lasting, .. } = &mut self.restoring;
        for candidate in candidates {
            if self.hopeless.contains(&candidate.path) {
                continue;
            }
            let told = |kept, fetched| {
                *lasting += fetched;
                progress.find(kept + fetched, candidate.path.as_bytes());
            };
            let refilled = refill(session, &self.selection, candidate, &mut target, told)?;
            if refilled.is_right {
                page.refill(candidate.number, refilled.kept);
            } else {
                progress.unfind(refilled.kept + refilled.fetched);
                self.hopeless.push(candidate.path.clone());
            }
        }
        Ok(())
    }
    /// Looks at the next page: what of it is there, and what large files may be made right.
    fn look(&mut self, session: &mut Session) -> Result<(Page, Vec<Candidate>), ClientError> {
        let standing = Standing::open(&self.to, session.shutdown.clone());
        let standing = standing.map_err(|source| TargetError::Target { to: self.to.clone(), source })?;
        let (selection, after) = (self.selection.clone(), self.restoring.after.clone());
        let mut look = Look::new(standing, &mut self.restoring.progress, after.clone());
        let request = message::Page { selection, after, entries: PAGE_ENTRIES_MAX, wanted: None };
        session.stream(&ToServer::Page(request), |message| look.take(message))?;
        let Look { page, candidates, snapshot, .. } = look;
        if let Some(snapshot) = snapshot {
            self.restoring.begin(snapshot);
        }
        self.name_snapshot();
        Ok((page, candidates))
    }

    /// From the first answer on it is one snapshot, whatever becomes the latest.
    fn name_snapshot(&mut self) {
        if let Some(snapshot) = &self.restoring.snapshot {
            (self.selection.snapshot, self.selection.root) = (snapshot.id.to_string(), None);
        }
    }
}
