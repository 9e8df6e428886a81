//! Jobs: made, looked at, cancelled, paused, resumed.

use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::api_snapshots::{entry_path, selection};
use super::app::App;
use super::error::ApiError;
use super::job::{Intent, Job, Work};
use super::jobs::{resume as resume_job, stop, submit};
use super::routes::{Call, Reply};
use super::upload::{BrowserFiles, NamedFile};
use crate::base::limits::{LABEL_BYTES_MAX, ROOTS_MAX, TAGS_MAX};
use crate::client::config::{ConfigError, TransferInfo};
use crate::client::json::put_path;
use crate::client::roots::resolve_roots;

/// A list of files, as JSON.
const FILES_BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How long `?wait=` may hold an answer back.
const WAIT_SECONDS_MAX: u64 = 30;

/// What `POST /api/jobs` takes.
#[derive(Deserialize)]
struct Wish {
    paths: Option<Vec<String>>,
    files: Option<Vec<NamedFile>>,
    #[serde(default)]
    label: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    full: bool,
    vault: Option<bool>,
}

pub fn list(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let jobs = call.app.jobs.list();
    let jobs: Vec<Value> = jobs.iter().rev().map(|job| call.app.job_json(job)).collect();
    Ok(Reply::from(json!({ "jobs": jobs })))
}

pub fn look(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let job = call.app.jobs.find(call.part(0)?)?;
    if let (Some(seconds), Work::Files(files)) = (call.query_number("wait")?, &job.work) {
        let after = call.query_number("after")?.map(|index| index as usize);
        files.wait_for_wanted(after, Duration::from_secs(seconds.min(WAIT_SECONDS_MAX)));
    }
    Ok(Reply::from(json!({ "job": call.app.job_json(&job) })))
}

pub fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish: Wish = call.read_json(FILES_BODY_BYTES_MAX)?;
    create_from(call, wish)
}

/// What a body with nothing but paths makes.
pub fn create_from_paths(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish: Wish = call.read_json(super::routes::BODY_BYTES_MAX)?;
    create_from(call, wish)
}

fn create_from(call: &Call<'_>, wish: Wish) -> Result<Reply, ApiError> {
    check_texts(&wish)?;
    let vault = into_vault(call.app, wish.vault)?;
    let work = match (wish.paths, wish.files) {
        (Some(paths), None) => Work::Paths { paths: host_paths(&paths)?, tags: wish.tags, full: wish.full },
        (None, Some(files)) => {
            return create_upload(call, files, wish.label, vault);
        }
        _ => return Err(ApiError::bad("either paths or files is wanted")),
    };
    let job = new_job(call, work, wish.label, vault)?;
    accepted(call, submit(call.app, job)?, None)
}

/// Whether a job's snapshot goes into the vault: as the job says, else as `transfer.info` does. A file that nobody can
/// read does not say that the server may.
pub fn into_vault(app: &App, wish: Option<bool>) -> Result<bool, ApiError> {
    let into_vault = match (wish, TransferInfo::open(&app.config.transfer_info)) {
        (Some(wish), _) => wish,
        (None, Ok(info)) => info.vault,
        (None, Err(ConfigError::Unreadable { source, .. })) if source.kind() == std::io::ErrorKind::NotFound => {
            false
        }
        (None, Err(error)) => return Err(ApiError::conflict(format!("{error}; or say vault, true or false"))),
    };
    if into_vault {
        // Said now, not when the job's turn comes.
        app.vault.put_key()?;
    }
    Ok(into_vault)
}

fn create_upload(call: &Call<'_>, files: Vec<NamedFile>, label: String, vault: bool) -> Result<Reply, ApiError> {
    let hub = call.app.hub.clone();
    // The id is known when the job is made, and nothing is wanted before that.
    let id: Arc<std::sync::OnceLock<String>> = Arc::default();
    let told = id.clone();
    let files = BrowserFiles::new(files, move |index, path| {
        hub.tell("file_wanted", || {
            let mut data = json!({ "job_id": told.get(), "index": index });
            put_path(&mut data, "path", super::job::relative(path.as_bytes()));
            data
        });
    });
    let files = Arc::new(files.map_err(ApiError::bad)?);
    let order = files.order();
    let job = new_job(call, Work::Files(files), label, vault)?;
    let _ = id.set(job.id.clone());
    accepted(call, submit(call.app, job)?, Some(order))
}

fn accepted(call: &Call<'_>, job: Arc<Job>, order: Option<Vec<usize>>) -> Result<Reply, ApiError> {
    let mut data = json!({ "job_id": job.id, "job": call.app.job_json(&job) });
    if let Some(order) = order {
        data["order"] = json!(order);
    }
    Ok(Reply::Answer(Answer::json(202, data)))
}

/// A job for the server that is in use.
pub fn new_job(call: &Call<'_>, work: Work, label: String, vault: bool) -> Result<Job, ApiError> {
    let peer = call.app.peers.current();
    if !peer.is_known() {
        let text = format!("the server at {} has not been met yet: connect first", peer.address());
        return Err(ApiError::conflict(text));
    }
    Ok(Job::new(peer, work, label, vault, call.app.settings.progress().weights()))
}

fn check_texts(wish: &Wish) -> Result<(), ApiError> {
    if wish.tags.len() > TAGS_MAX {
        return Err(ApiError::bad(format!("a snapshot has at most {TAGS_MAX} tags")));
    }
    check_label(&wish.label)?;
    wish.tags.iter().try_for_each(|tag| check_label(tag))
}

pub fn check_label(text: &str) -> Result<(), ApiError> {
    match text.len() > LABEL_BYTES_MAX {
        true => Err(ApiError::bad(format!("a label or tag has at most {LABEL_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

/// Paths of this host that exist.
fn host_paths(paths: &[String]) -> Result<Vec<PathBuf>, ApiError> {
    if paths.len() > ROOTS_MAX {
        return Err(ApiError::bad(format!("at most {ROOTS_MAX} paths: name folders above them")));
    }
    let paths: Vec<PathBuf> = paths.iter().map(|path| host_path(path.as_bytes())).collect::<Result<_, _>>()?;
    // Said now, not when the job's turn comes.
    resolve_roots(&paths, std::path::Path::new("/")).map_err(|error| ApiError::bad(error.to_string()))?;
    Ok(paths)
}

/// A path of this host: absolute, and without `..`.
pub fn host_path(bytes: &[u8]) -> Result<PathBuf, ApiError> {
    use std::os::unix::ffi::OsStrExt;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let shown = crate::base::path::display_bytes(bytes);
    if !path.is_absolute() || bytes.contains(&0) {
        return Err(ApiError::bad(format!("{shown}: an absolute path is wanted")));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(ApiError::bad(format!("{shown}: a path with .. is not taken")));
    }
    Ok(path)
}

pub fn restore(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let body = call.json()?;
    let snapshot = body["snapshot"].as_str().unwrap_or("latest");
    let to = body["to"].as_str().ok_or_else(|| ApiError::bad("to is missing: the folder to restore to"))?;
    let to = host_path(to.as_bytes())?;
    let paths = match &body["paths"] {
        Value::Null => Vec::new(),
        Value::Array(paths) => paths.iter().map(json_path).collect::<Result<_, _>>()?,
        _ => return Err(ApiError::bad("paths must be a list")),
    };
    let work = Work::Restore { selection: selection(snapshot, paths)?, to };
    let job = new_job(call, work, String::new(), false)?;
    accepted(call, submit(call.app, job)?, None)
}

/// A path of a snapshot: text, or as listings give it, with its exact bytes.
fn json_path(value: &Value) -> Result<crate::base::path::EntryPath, ApiError> {
    use base64::Engine;
    if let Some(exact) = value["path_base64"].as_str() {
        let bytes = base64::engine::general_purpose::STANDARD.decode(exact);
        return entry_path(&bytes.map_err(|_| ApiError::bad("path_base64 is no base64"))?);
    }
    let text = value.as_str().or_else(|| value["path"].as_str());
    entry_path(text.ok_or_else(|| ApiError::bad("a path must be a text"))?.as_bytes())
}

pub fn cancel(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    steered(call, |call, job| stop(call.app, job, Intent::Cancel))
}

pub fn pause(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    steered(call, |call, job| stop(call.app, job, Intent::Pause))
}

pub fn resume(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    steered(call, |call, job| resume_job(call.app, job))
}

fn steered(
    call: &Call<'_>,
    steer: impl FnOnce(&Call<'_>, &Arc<Job>) -> Result<(), ApiError>,
) -> Result<Reply, ApiError> {
    let job = call.app.jobs.find(call.part(0)?)?;
    steer(call, &job)?;
    Ok(Reply::from(json!({ "job": call.app.job_json(&job) })))
}
