//! Contents from the browser: read off their request piece by piece and handed to the job that sends them on.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::answer::Answer;
use super::api_jobs::{check_label, create_from_paths, into_vault};
use super::app::App;
use super::error::ApiError;
use super::handover::{Giver, PIECE_BYTES};
use super::job::{Intent, Job, JobState, Work};
use super::jobs::{stop, submit};
use super::multipart::{Multipart, boundary};
use super::parts::PartFiles;
use super::routes::{Call, Reply};
use super::upload::{BrowserFiles, Turn, upload_path};
use crate::base::limits::LABEL_BYTES_MAX;
use crate::base::path::EntryPath;
use crate::base::progress::Totals;

/// A job ends some time after its last part: the server flushes first.
const END_WAIT: Duration = Duration::from_secs(600);

/// Files in one request.
const FILES_TOGETHER_MAX: u64 = 1_000;

const STOPPED: &str = "the backup stopped in this file: send it again when it is wanted";

/// How giving a content ended.
enum Given {
    Whole(u64),
    /// The backup stopped.
    NotWanted,
    /// The request broke off.
    CutOff,
}

/// Takes the content of one file, or of several that follow each other in the order of paths.
pub fn put_file(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let job = call.app.jobs.find(call.part(0)?)?;
    let index: usize = call.part(1)?.parse().map_err(|_| ApiError::bad("the number of the file is no number"))?;
    let Work::Files(files) = &job.work else {
        return Err(ApiError::conflict("this job takes no files"));
    };
    let count = call.query_number("count")?.unwrap_or(1);
    if !(1..=FILES_TOGETHER_MAX).contains(&count) {
        return Err(ApiError::bad(format!("count: one request takes 1 to {FILES_TOGETHER_MAX} files")));
    }
    let given = files.following(index, count as usize);
    let given = given.ok_or_else(|| ApiError::missing("the job has no file of this number, or not so many"))?;
    let size = given.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
    if call.length.is_some_and(|length| length != size) {
        return Err(ApiError::bad(format!("{size} bytes were announced")));
    }
    let run = files.these_come(index, given.len());
    let result = take_files(call, &job, files, run, &given);
    files.none_comes(run);
    result
}

/// Takes contents for one run of a job.
fn take_files(
    call: &mut Call<'_>,
    job: &Arc<Job>,
    files: &BrowserFiles,
    run: u64,
    given: &[(usize, u64)],
) -> Result<Reply, ApiError> {
    let refusal = |text: &str| ApiError::conflict(text).with(json!({ "wanted": files.wanted() }));
    let (mut bytes, mut held, mut piece) = (0, Vec::new(), vec![0; PIECE_BYTES]);
    for (place, (index, size)) in given.iter().enumerate() {
        let is_last = place + 1 == given.len();
        let mut content = Announced { body: &mut *call.body, left: *size, is_last, is_wrong: false };
        match files.turn(run, *index) {
            // Of one file alone nothing needs to be read.
            Turn::Held if given.len() == 1 => held.push(*index),
            Turn::Held => match content.skip(&mut piece) {
                Ok(()) => held.push(*index),
                Err(_) => return Err(cut_off(content.is_wrong, call.app, job, files, run)),
            },
            Turn::Give(giver) => match give_announced(&mut content, giver, &mut piece) {
                (Given::Whole(count), giver) => {
                    files.given(run, count, true);
                    bytes += count;
                    drop(giver);
                }
                (Given::NotWanted, _) => {
                    files.given(run, 0, false);
                    return Err(refusal(STOPPED));
                }
                // The giver is held until the job stops.
                (Given::CutOff, _giver) => return Err(cut_off(content.is_wrong, call.app, job, files, run)),
            },
            Turn::NotNow(text) => return Err(refusal(text)),
            Turn::NoSuchFile => return Err(ApiError::missing("the job has no file of this number")),
        }
    }
    let last = given.last().map_or(0, |(index, _)| *index);
    let is_held = held.len() == given.len();
    let wanted = if is_held { files.wanted() } else { files.next_wanted(last) };
    Ok(Reply::from(json!({ "held": is_held, "held_files": held, "bytes": bytes, "wanted": wanted })))
}

/// The job pauses before its reading thread hears that the content ends; another run of it than that of the request
/// goes on. Gives the answer.
fn cut_off(is_wrong: bool, app: &App, job: &Arc<Job>, files: &BrowserFiles, run: u64) -> ApiError {
    let error = if !files.is_current(run) {
        ApiError::conflict(STOPPED)
    } else {
        log::warn!("job {}: an upload was cut off: it is paused", job.id);
        let _ = stop(app, job, Intent::Pause);
        match is_wrong {
            true => ApiError::bad("the body has not the length that was announced; the job is paused"),
            false => ApiError::conflict("the upload was cut off; the job is paused"),
        }
    };
    error.with(json!({ "wanted": files.wanted() }))
}

/// The part of a body that is one file: exactly what was announced for it, or an error.
struct Announced<'a> {
    body: &'a mut dyn Read,
    left: u64,
    /// Nothing may come behind it.
    is_last: bool,
    /// The body came whole, and was shorter or longer than announced.
    is_wrong: bool,
}

impl Read for Announced<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.is_wrong = self.is_last && self.body.read(&mut [0])? > 0;
            return if self.is_wrong { Err(io::ErrorKind::InvalidData.into()) } else { Ok(0) };
        }
        let most = piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.body.read(&mut piece[..most])? {
            0 => {
                self.is_wrong = true;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

impl Announced<'_> {
    /// Reads it for nobody.
    fn skip(&mut self, piece: &mut [u8]) -> io::Result<()> {
        loop {
            match self.read(piece) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }
}

/// Gives a content. The giver comes back where its end must wait.
fn give_announced(content: &mut Announced<'_>, giver: Giver, piece: &mut [u8]) -> (Given, Option<Giver>) {
    match pass_on(&giver, piece, |piece| content.read(piece)) {
        Given::Whole(bytes) => match giver.finish() {
            Ok(()) => (Given::Whole(bytes), None),
            Err(_) => (Given::NotWanted, None),
        },
        other => (other, Some(giver)),
    }
}

fn pass_on(giver: &Giver, piece: &mut [u8], mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Given {
    let mut bytes = 0;
    loop {
        match read(piece) {
            Ok(0) => return Given::Whole(bytes),
            Ok(count) => {
                if giver.give(&piece[..count]).is_err() {
                    return Given::NotWanted;
                }
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Given::CutOff,
        }
    }
}

pub fn start_backup(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    match boundary(&call.content_type) {
        Some(boundary) => store_parts(call, &boundary),
        None if call.content_type.starts_with("multipart/") => {
            Err(ApiError::bad("multipart/form-data with a boundary is wanted"))
        }
        None => create_from_paths(call),
    }
}

/// A job that was made for the first file among the parts.
struct PartsJob {
    job: Arc<Job>,
    parts: Arc<PartFiles>,
}

fn store_parts(call: &mut Call<'_>, boundary: &str) -> Result<Reply, ApiError> {
    let mut running = None;
    let result = read_parts(call, boundary, &mut running);
    let Some(PartsJob { job, parts }) = running else {
        result?;
        return Err(ApiError::bad("there is no part named file with a file in it"));
    };
    match result {
        Ok(()) => {
            // The body is longer than what is in it.
            let (files, bytes) = parts.counts();
            job.change(|live| live.progress.counted(files, bytes));
            parts.close();
        }
        Err(error) => {
            let _ = stop(call.app, &job, Intent::Cancel);
            return Err(error.with(json!({ "job_id": job.id })));
        }
    }
    job.wait_until(END_WAIT, |state| state.has_ended() || state == JobState::Paused);
    let (files, bytes) = parts.counts();
    let live = job.live();
    match live.state {
        JobState::Completed => Ok(Reply::from(
            json!({ "job_id": job.id, "snapshots": live.snapshots, "files": files, "bytes": bytes }),
        )),
        _ => {
            let text = live.error.clone().unwrap_or_else(|| live.message.clone());
            Ok(Reply::Answer(Answer::json(
                502,
                json!({ "error": text, "job_id": job.id, "snapshots": live.snapshots }),
            )))
        }
    }
}

fn read_parts(call: &mut Call<'_>, boundary: &str, running: &mut Option<PartsJob>) -> Result<(), ApiError> {
    let (app, length) = (call.app, call.length);
    let (mut label, mut vault) = (String::new(), None);
    let mut multipart = Multipart::new(&mut *call.body, boundary);
    loop {
        let part = multipart.next_part().map_err(|error| ApiError::bad(error.to_string()))?;
        let Some(part) = part else { return Ok(()) };
        let name = part.file_name.filter(|name| !name.is_empty());
        match (part.name.as_str(), name) {
            ("file", Some(name)) => {
                // Some browsers put a folder before the name; it is kept, as a folder.
                let path =
                    upload_path(name.as_bytes()).map_err(|text| ApiError::bad(format!("{name:?}: {text}")))?;
                if running.is_none() {
                    let parts = Arc::new(PartFiles::default());
                    let peer = app.peers.current();
                    if !peer.is_known() {
                        return Err(ApiError::conflict("the server has not been met yet: connect first"));
                    }
                    let weights = app.settings.progress().weights();
                    let vault = into_vault(app, vault)?;
                    let job = Job::new(peer, Work::Parts(parts.clone()), label.clone(), vault, weights);
                    if let Some(length) = length {
                        job.change(|live| live.progress.counted(0, length));
                    }
                    *running = Some(PartsJob { job: submit(app, job)?, parts });
                }
                if let Some(running) = running {
                    give_part(&mut multipart, app, running, &path)?;
                }
            }
            ("label", None) => {
                label = read_text(&mut multipart, "label")?;
                check_label(&label)?;
            }
            ("vault", None) if running.is_some() => {
                return Err(ApiError::bad("the part vault must come before the first file"));
            }
            ("vault", None) => vault = Some(read_switch(&mut multipart)?),
            _ => {}
        }
    }
}

fn give_part(
    multipart: &mut Multipart<impl Read>,
    app: &App,
    PartsJob { job, parts }: &PartsJob,
    path: &EntryPath,
) -> Result<(), ApiError> {
    let giver = parts.begin(path).map_err(ApiError::conflict)?;
    let (files, mut bytes) = parts.counts();
    let read = |piece: &mut [u8]| {
        let count = multipart.read_part(piece)?;
        bytes += count as u64;
        tell_given(app, job, files + u64::from(count == 0), bytes, path);
        Ok(count)
    };
    match pass_on(&giver, &mut vec![0; PIECE_BYTES], read) {
        Given::Whole(bytes) => {
            parts.given(bytes);
            giver.finish().map_err(|_| ApiError::conflict("the backup stopped"))
        }
        Given::NotWanted => Err(ApiError::conflict("the backup stopped")),
        Given::CutOff => {
            // Held until the job is stopped: its reading thread must not take this for a file that cannot be read.
            parts.hold(giver);
            Err(ApiError::bad("the body was cut off"))
        }
    }
}

/// What has come of the parts: the walk of the backup knows no sizes of them.
fn tell_given(app: &App, job: &Arc<Job>, files: u64, bytes: u64, path: &EntryPath) {
    let interval = Duration::from_millis(app.settings.page().progress_interval);
    let may_tell = job.change(|live| {
        let totals = Totals { files_done: files, bytes_done: bytes, ..Totals::default() };
        live.progress.update(totals, path.as_bytes());
        live.may_tell(interval)
    });
    if may_tell {
        app.tell_progress(job);
    }
}

fn read_switch(multipart: &mut Multipart<impl Read>) -> Result<bool, ApiError> {
    match read_text(multipart, "vault")?.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ApiError::bad("the part vault must be true or false")),
    }
}

/// A part that is no file. What is longer than a label is cut off: it is of no use.
fn read_text(multipart: &mut Multipart<impl Read>, what: &str) -> Result<String, ApiError> {
    let mut text = Vec::new();
    let mut piece = [0; 256];
    loop {
        match multipart.read_part(&mut piece)? {
            0 => break,
            count => text.extend_from_slice(&piece[..count]),
        }
        if text.len() > LABEL_BYTES_MAX {
            break;
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::bad(format!("the {what} is no text")))
}

#[cfg(test)]
mod tests {
    use super::super::handover::handover;
    use super::*;

    #[test]
    fn a_content_is_passed_on_in_pieces_and_its_length_counted() {
        let (giver, mut taker, _stopper) = handover();
        let content = vec![7; 3 * PIECE_BYTES + 5];
        let mut source = content.as_slice();
        assert!(
            matches!(pass_on(&giver, &mut [0; PIECE_BYTES], |piece| source.read(piece)), Given::Whole(bytes) if bytes == content.len() as u64)
        );
        giver.finish().unwrap();
        let mut read = Vec::new();
        taker.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        let (giver, taker, _stopper) = handover();
        drop(taker);
        assert!(matches!(pass_on(&giver, &mut [0; PIECE_BYTES], |piece| Ok(piece.len())), Given::NotWanted));
        let (giver, _taker, _stopper) = handover();
        assert!(matches!(
            pass_on(&giver, &mut [0; PIECE_BYTES], |_| Err(io::ErrorKind::UnexpectedEof.into())),
            Given::CutOff
        ));
    }
}
