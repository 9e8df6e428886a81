//! State, the connection, statistics, receipts and the log.

use log::Level;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::ApiError;
use super::peers::Wish;
use super::routes::{Call, Reply};
use crate::base::time::Timestamp;
use crate::protocol::header::VERSION as PROTOCOL_VERSION;

/// Lines of the log in one answer.
const LOG_LINES: u64 = 200;
const LOG_LINES_MAX: u64 = 2_000;

pub fn health(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let app = call.app;
    let reachable = app.is_server_reachable();
    Ok(Reply::from(json!({
        "status": if reachable { "healthy" } else { "degraded" },
        "api_server": "running",
        "backup_server": if reachable { "reachable" } else { "unreachable" },
        "backup_server_address": app.peers.current().address().to_string(),
        "jobs": app.jobs.counts(),
        "viewers": app.hub.viewers(),
        "uptime_seconds": app.began.elapsed().as_secs(),
        "process": std::process::id(),
        "timestamp": Timestamp::now().to_string(),
    })))
}

pub fn status(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let job = match call.query_text("job_id")? {
        Some(id) => Some(call.app.jobs.find(id)?),
        None => call.app.jobs.running(),
    };
    Ok(Reply::from(call.app.status(job.as_deref())))
}

pub fn connect(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish = wish(&call.json()?, call)?;
    let question = call.app.question();
    let connected = call.app.peers.connect(wish, &question.shutdown);
    drop(question);
    call.app.hub.tell("status", || call.app.status(call.app.jobs.running().as_deref()));
    let peer = connected?;
    log::info!("connected to {} as {}", peer.address(), peer.user.as_str());
    Ok(Reply::from(json!({ "server": peer.full_json() })))
}

/// What a page asks before it connects to a server for the first time: a person must look at the key.
pub fn server_key(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish = wish(&call.json()?, call)?;
    let (fingerprint, confirm_needed) = call.app.peers.look_at_key(&wish)?;
    Ok(Reply::from(json!({ "fingerprint": fingerprint.to_string(), "confirm_needed": confirm_needed })))
}

fn wish(body: &Value, call: &Call<'_>) -> Result<Wish, ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad("an object is wanted, as {\"host\": …, \"port\": …, \"username\": …}"));
    }
    let current = call.app.peers.current();
    let text = |name: &str| match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str())),
        _ => Err(ApiError::bad(format!("{name} must be a text"))),
    };
    let host = text("host")?.unwrap_or(current.address().host());
    let port = match &body["port"] {
        Value::Null => current.address().port(),
        port => {
            let port = port.as_u64().or_else(|| port.as_str()?.parse().ok());
            let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            port.ok_or_else(|| ApiError::bad("port must be a number from 1 to 65535"))?
        }
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let user = text("username")?.unwrap_or(current.user.as_str());
    Ok(Wish {
        address: address.parse().map_err(|error| ApiError::bad(format!("{address}: {error}")))?,
        user: user.parse().map_err(|error: crate::base::ids::IdError| ApiError::bad(error.to_string()))?,
        token: text("token")?.filter(|token| !token.is_empty()).map(|token| Zeroizing::new(token.to_string())),
        confirm: text("confirm")?.map(str::to_string),
    })
}

pub fn disconnect(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    call.app.peers.current().note(false);
    call.app.hub.tell("status", || call.app.status(call.app.jobs.running().as_deref()));
    Ok(Reply::from(json!({})))
}

pub fn server_info(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (app, peer) = (call.app, call.app.peers.current());
    Ok(Reply::from(json!({
        "program": format!("cyberbackup {}", env!("CARGO_PKG_VERSION")),
        "protocol_version": PROTOCOL_VERSION,
        "server": peer.full_json(),
        "known": peer.is_known(),
        "connected": peer.is_connected(),
        "local_server": peer.is_local(),
        "state_folder": peer.folder.display().to_string(),
        "log_file": app.config.log_file.display().to_string(),
        "started": app.started.to_string(),
    })))
}

pub fn stats(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let question = call.app.question();
    let mut session = call.app.peers.session(&question.shutdown)?;
    let text = session.statistics()?;
    let _ = session.close();
    let stats: Value = serde_json::from_str(&text)
        .map_err(|error| ApiError::new(502, format!("the server's statistics cannot be read: {error}")))?;
    Ok(Reply::from(json!({ "stats": stats })))
}

pub fn received_files(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::from(json!({ "files": call.app.receipts() })))
}

pub fn check_receipt(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wanted = call.part(0)?;
    let receipts = call.app.receipts();
    let found = receipts.into_iter().find(|file| file["name"] == wanted || file["path"] == wanted);
    Ok(Reply::from(json!({ "received": found.is_some(), "file": found })))
}

pub fn logs(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let level = match call.query_text("level")? {
        None => Level::Info,
        Some(word) => word.parse().map_err(|_| ApiError::bad("level is none of error, warn, info and debug"))?,
    };
    let limit = call.query_number("limit")?.unwrap_or(LOG_LINES).min(LOG_LINES_MAX) as usize;
    let search = call.query_text("search")?.unwrap_or_default();
    let lines = call.app.config.log.find(level, search, limit);
    Ok(Reply::from(json!({ "lines": lines, "file": call.app.config.log_file.display().to_string() })))
}
