//! The operator's commands about clients: the list, and what is changed about one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::Desk;
use crate::base::amount::Size;
use crate::base::ids::UserName;
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;
use crate::crypto::PublicKey;
use crate::storage::{ClientRecord, ClientSummary, GROWTH_DAYS, Store, StoreError};

/// One row for each client; with `stale`, only for those that have stored nothing for so long.
pub fn rows(store: &Store, stale: Option<Duration>) -> Result<Vec<Value>, StoreError> {
    let now = Timestamp::now();
    let oldest = stale.map(|stale| now.seconds.saturating_sub_unsigned(stale.as_secs()));
    let mut rows = Vec::new();
    for (client, summary) in store.summaries() {
        let summary = match summary {
            Ok(summary) => summary,
            // Removed meanwhile.
            Err(StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        let last = summary.last.as_ref();
        // One that has never stored anything counts from the day it came.
        let active = last.map_or(client.registered, |last| last.committed());
        if oldest.is_some_and(|oldest| active.seconds >= oldest) {
            continue;
        }
        rows.push(row(&client, &summary, now));
    }
    Ok(rows)
}

/// What is told of a client.
pub fn row(client: &ClientRecord, summary: &ClientSummary, now: Timestamp) -> Value {
    let last = summary.last.as_ref();
    json!({
        "name": client.name,
        "former_names": client.names().skip(1).collect::<Vec<_>>(),
        "id": client.id,
        "registered": client.registered.to_string(),
        "last_success": last.map(|last| last.committed().to_string()),
        "last_snapshot": last.map(|last| last.id),
        "snapshots": summary.snapshots,
        "damaged_snapshots": summary.damaged_snapshots,
        "latest_files": last.map_or(Some(0), |last| last.files),
        "latest_bytes": last.map_or(Some(0), |last| last.bytes),
        "stored_bytes": summary.stored_bytes,
        "growth_bytes": summary.growth(now),
        "growth_days": GROWTH_DAYS,
        "quota_bytes": client.quota,
        "fingerprint": fingerprint(client),
        "next_fingerprint": client.next_key.as_deref().map(fingerprint_of),
        "legacy": client.legacy,
    })
}

/// None for a client that was reset and waits for its new key.
fn fingerprint(client: &ClientRecord) -> Option<String> {
    (!client.is_reset()).then(|| fingerprint_of(&client.public_key))
}

fn fingerprint_of(public_key: &[u8]) -> String {
    let key = PublicKey::from_spki_der(public_key);
    key.map_or_else(|_| "unreadable".to_string(), |key| key.fingerprint().to_string())
}

/// Forgets the client's key, and ends the sessions that it was proved in.
pub fn reset(desk: &Desk, name: &UserName) -> Result<Vec<Value>, StoreError> {
    let client = find(&desk.store, name)?;
    desk.store.reset_client(client.id)?;
    desk.sessions.end(client.id);
    done(name, "reset")
}

/// Removes the client with all that it stored.
///
/// # Errors
/// `InUse` while it has a session.
pub fn remove(desk: &Desk, name: &UserName) -> Result<Vec<Value>, StoreError> {
    let client = find(&desk.store, name)?;
    let stored = desk.store.summary(client.id).map(|summary| summary.stored_bytes).unwrap_or_default();
    let heads = desk.store.snapshots(client.id)?;
    let vaults: BTreeSet<VaultId> = heads.iter().filter_map(|head| Some(head.vault?.vault)).collect();
    let remove = || desk.sessions.while_absent(client.id, || desk.store.remove_client(client.id));
    let removed = desk.store.between_prunes(client.id, remove)?;
    let record = removed.map_err(|sessions| StoreError::InUse { name: name.to_string(), sessions })??;
    desk.store.remove_data(&record)?;
    for vault in vaults {
        if let Err(error) = desk.store.tidy_vault(vault) {
            log::error!("vault {vault}: its space is not won back: {error}");
        }
    }
    Ok(vec![json!({ "name": name, "done": "removed", "stored_bytes": stored })])
}

pub fn set_quota(desk: &Desk, name: &UserName, quota: Option<u64>) -> Result<Vec<Value>, StoreError> {
    let client = find(&desk.store, name)?;
    let record = desk.store.set_quota(client.id, quota)?;
    let stored = desk.store.summary(client.id)?.stored_bytes;
    if let Some(quota) = quota.filter(|quota| *quota < stored) {
        log::warn!("{name} has stored {} of a quota of {}", Size(stored), Size(quota));
    }
    Ok(vec![json!({ "name": name, "done": "quota", "quota_bytes": record.quota, "stored_bytes": stored })])
}

pub fn rename(desk: &Desk, name: &UserName, new: &UserName) -> Result<Vec<Value>, StoreError> {
    let client = find(&desk.store, name)?;
    desk.store.rename_client(client.id, new)?;
    Ok(vec![json!({ "name": new, "done": "renamed", "former_name": name })])
}

fn done(name: &UserName, what: &str) -> Result<Vec<Value>, StoreError> {
    Ok(vec![json!({ "name": name, "done": what })])
}

pub(super) fn find(store: &Store, name: &UserName) -> Result<std::sync::Arc<ClientRecord>, StoreError> {
    let what = || format!("no client is named {name}: \"cyberbackup clients\" lists them");
    store.client_named(name).ok_or_else(|| StoreError::NotFound { what: what() })
}
