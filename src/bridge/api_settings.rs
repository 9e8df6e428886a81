//! The files that a person edits.

use serde_json::{Value, json};

use super::answer::{Answer, JSON};
use super::error::ApiError;
use super::routes::{Call, Reply};
use super::settings::write_transfer_info;
use crate::client::config::{TransferInfo, VAULT_LINE};

pub fn progress_file(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(plain(json!(call.app.settings.progress())))
}

pub fn page_file(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(plain(json!(call.app.settings.page())))
}

/// The file itself, without `success`.
fn plain(data: Value) -> Reply {
    Reply::Answer(Answer::content(JSON, (data.to_string() + "\n").into_bytes()))
}

pub fn settings(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::from(call.app.settings.json()))
}

pub fn change_settings(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let change = call.json()?;
    call.app.settings.change(&change)?;
    settings(call)
}

pub fn transfer_info(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let (app, file) = (call.app, &call.app.config.transfer_info);
    let peer = app.peers.current();
    let read = std::fs::read(file).ok().filter(|_| file.exists());
    let mut data = match &read {
        Some(bytes) => {
            let info = TransferInfo::parse(bytes, file).map_err(|error| ApiError::conflict(error.to_string()))?;
            json!({
                "server": info.server.to_string(),
                "user": info.user.as_str(),
                "vault": info.vault,
                "paths": paths(bytes),
            })
        }
        None => json!({
            "server": peer.address().to_string(),
            "user": peer.user.as_str(),
            "vault": false,
            "paths": [],
        }),
    };
    data["exists"] = json!(read.is_some());
    data["file"] = json!(file.display().to_string());
    Ok(Reply::from(data))
}

/// The paths as they are written, not as they are resolved.
fn paths(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let is_other = |line: &&str| !matches!(line.trim(), "" | VAULT_LINE);
    text.lines().filter(is_other).skip(2).map(str::to_string).collect()
}

pub fn change_transfer_info(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let body = call.json()?;
    let text = |name: &str| {
        let text = body[name].as_str();
        text.ok_or_else(|| ApiError::bad(format!("{name} is missing")))
    };
    let paths = body["paths"].as_array().ok_or_else(|| ApiError::bad("paths is missing: a list of texts"))?;
    let paths: Option<Vec<String>> = paths.iter().map(|path| path.as_str().map(str::to_string)).collect();
    let paths = paths.ok_or_else(|| ApiError::bad("paths must be texts"))?;
    if paths
        .iter()
        .any(|path| std::path::Path::new(path).components().any(|part| part == std::path::Component::ParentDir))
    {
        return Err(ApiError::bad("a path with .. is not taken"));
    }
    let file = &call.app.config.transfer_info;
    let vault = match body.get("vault") {
        // What is not said stays as it is.
        None => TransferInfo::open(file).is_ok_and(|info| info.vault),
        Some(vault) => vault.as_bool().ok_or_else(|| ApiError::bad("vault must be true or false"))?,
    };
    write_transfer_info(file, text("server")?, text("user")?, vault, &paths)?;
    transfer_info(call)
}
