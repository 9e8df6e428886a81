//! Retention, for the operator and by the clock: rules applied to the clients' snapshots, and the reasons told. What
//! is dropped and how is the store's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ServerError;
use super::events::{EventKind, Events};
use super::operator::verify::{self, lower_priority};
use super::operator::{Desk, VerifyRequest};
use crate::base::ids::{SnapshotId, UserName};
use crate::base::order::set_of;
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;
use crate::base::vault::VaultId;
use crate::storage::{ClientRecord, Head, InUse, Reason, Rules, Store, StoreError, Swept, decide};

const POLICY_VERSION: u64 = 1;
/// How often the clock is looked at: it may be set, and the machine may sleep.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
const SECONDS_PER_DAY: i64 = 86_400;

/// What to prune.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PruneRequest {
    /// All clients for none.
    pub client: Option<UserName>,
    pub rules: Option<Rules>,
    /// Beginnings of ids of snapshots to drop, whatever the rules say.
    pub snapshots: Vec<String>,
    pub dry_run: bool,
}

/// Prunes, and gives a row for each snapshot that was looked at (with `dry_run`) or dropped, and one for each client.
pub fn prune(store: &Store, request: &PruneRequest) -> Result<Vec<Value>, StoreError> {
    let clients = clients(store, request.client.as_ref())?;
    let mut named: BTreeMap<String, Vec<SnapshotId>> = BTreeMap::new();
    for selector in &request.snapshots {
        let (client, id) = find(store, &clients, selector)?;
        named.entry(client.name.to_string()).or_default().push(id);
    }
    let mut rows = Vec::new();
    for client in &clients {
        let named = named.get(client.name.as_str()).map_or(&[][..], Vec::as_slice);
        if request.rules.is_some() || !named.is_empty() {
            prune_client(store, client, request, named, &mut rows)?;
        }
    }
    Ok(rows)
}

fn clients(store: &Store, name: Option<&UserName>) -> Result<Vec<std::sync::Arc<ClientRecord>>, StoreError> {
    let Some(name) = name else { return Ok(store.clients()) };
    let what = || format!("there is no client {name}: \"cyberbackup clients\" lists them");
    Ok(vec![store.client_named(name).ok_or_else(|| StoreError::NotFound { what: what() })?])
}

/// The one snapshot of these clients that a beginning of an id means; its head may be one that cannot be read.
fn find<'a>(
    store: &Store,
    clients: &'a [std::sync::Arc<ClientRecord>],
    selector: &str,
) -> Result<(&'a ClientRecord, SnapshotId), StoreError> {
    let mut found = Vec::new();
    let mut failed = None;
    for client in clients {
        match store.find_snapshot(client.id, selector, None) {
            // The newest is whose, among several clients?
            Ok(_) if selector == "latest" && clients.len() > 1 => {}
            Ok(head) => found.push((&**client, head.id)),
            Err(StoreError::DamagedHead { snapshot, .. }) if selector != "latest" => {
                found.push((&**client, snapshot))
            }
            Err(error @ StoreError::NotFound { .. }) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (found.pop(), found.pop(), failed) {
        (Some(one), None, _) => Ok(one),
        (Some((_, first)), Some((_, second)), _) => Err(StoreError::Ambiguous {
            selector: selector.to_string(),
            matches: vec![second.to_string(), first.to_string()],
        }),
        (None, _, Some(error)) if clients.len() == 1 => Err(error),
        _ => Err(StoreError::NotFound {
            what: format!("no client has a snapshot that begins with \"{}\"", selector.escape_debug()),
        }),
    }
}

fn prune_client(
    store: &Store,
    client: &ClientRecord,
    request: &PruneRequest,
    named: &[SnapshotId],
    rows: &mut Vec<Value>,
) -> Result<(), StoreError> {
    let heads = store.snapshots(client.id)?;
    let held = store.held_snapshots(client.id)?;
    let (decisions, clock_is_behind) = match &request.rules {
        Some(rules) => decide(&heads, &held, store.clock().now(), rules),
        None => (Vec::new(), false),
    };
    if clock_is_behind {
        log::warn!("{}: the clock is behind the newest snapshot: rules drop nothing", client.name);
    }
    let mut reasons: BTreeMap<SnapshotId, Vec<String>> = BTreeMap::new();
    for decision in decisions {
        reasons.insert(decision.head.id, decision.reasons.iter().map(Reason::to_string).collect());
    }
    reasons.extend(named.iter().map(|id| (*id, Vec::new())));
    let mut going: Vec<SnapshotId> =
        heads.iter().map(|head| head.id).filter(|id| reasons.get(id).is_some_and(Vec::is_empty)).collect();
    let damaged = store.damaged_heads(client.id)?.into_iter().map(|damaged| damaged.id);
    let damaged: Vec<SnapshotId> = damaged.filter(|id| named.contains(id)).collect();
    going.extend(&damaged);
    let kept = match request.dry_run {
        true => store.snapshots_in_use(client.id, &going)?,
        false => store.drop_snapshots(client.id, &going)?.kept,
    };
    for (id, in_use) in kept {
        reasons.entry(id).or_default().push(in_use_text(in_use));
    }
    let wanted = std::mem::take(&mut going);
    going = wanted.iter().copied().filter(|id| reasons[id].is_empty()).collect();
    for head in &heads {
        // In a run that drops, only what was to be dropped is told of.
        if let Some(reasons) = reasons.get(&head.id).filter(|_| request.dry_run || wanted.contains(&head.id)) {
            rows.push(snapshot_row(client, head, reasons, named.contains(&head.id)));
        }
    }
    rows.extend(damaged.iter().map(|id| damaged_row(client, *id, &reasons[id])));
    let swept = match request.dry_run {
        true => store.would_free(client.id, &going),
        false => store.sweep(client.id),
    };
    let mut row = json!({
        "row": "client", "client": client.name, "dropped": going.len(),
        "kept": heads.len() + damaged.len() - going.len(),
        "clock_is_behind": clock_is_behind, "dry_run": request.dry_run,
    });
    add_swept(&mut row, swept)?;
    if !request.dry_run {
        tidy_vaults(store, &heads, &mut row)?;
    }
    rows.push(row);
    Ok(())
}

/// Wins back what the client's dropped snapshots alone needed of vaults.
fn tidy_vaults(store: &Store, heads: &[Arc<Head>], row: &mut Value) -> Result<(), StoreError> {
    let vaults: BTreeSet<VaultId> = heads.iter().filter_map(|head| Some(head.vault?.vault)).collect();
    for vault in vaults {
        match store.tidy_vault(vault) {
            Ok(tidied) => row["freed_bytes"] = (row["freed_bytes"].as_u64().unwrap_or(0) + tidied.bytes).into(),
            Err(error) if error.is_damage() => row["damage"] = error.to_string().into(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Damage keeps some of a client's space from being given back; the other clients' turn comes all the same.
fn add_swept(row: &mut Value, swept: Result<Swept, StoreError>) -> Result<(), StoreError> {
    match swept {
        Ok(swept) => {
            row["freed_bytes"] = swept.bytes.into();
            row["contents"] = swept.contents.into();
            row["ranges"] = swept.ranges.into();
            if !swept.hindrances.is_empty() {
                row["damage"] = swept.hindrances.join("; ").into();
            }
        }
        Err(error) if error.is_damage() => row["damage"] = error.to_string().into(),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn snapshot_row(client: &ClientRecord, head: &Head, reasons: &[String], is_named: bool) -> Value {
    let why = if is_named { "named" } else { "no rule keeps it" };
    let roots: Vec<String> = head.roots.iter().map(|root| root.display()).collect();
    json!({
        "row": "snapshot", "client": client.name, "snapshot": head.id, "sequence": head.sequence,
        "committed": head.committed.to_string(), "roots": roots, "keep": !reasons.is_empty(),
        "reasons": if reasons.is_empty() { vec![why.to_string()] } else { reasons.to_vec() },
    })
}

/// Of a snapshot whose head cannot be read.
fn damaged_row(client: &ClientRecord, id: SnapshotId, reasons: &[String]) -> Value {
    json!({
        "row": "snapshot", "client": client.name, "snapshot": id, "roots": [], "keep": !reasons.is_empty(),
        "reasons": if reasons.is_empty() { vec!["named; its head cannot be read".to_string()] } else { reasons.to_vec() },
    })
}

fn in_use_text(reason: InUse) -> String {
    match reason {
        InUse::Held => "held",
        InUse::Busy => "being read or compared with: the next prune drops it",
        InUse::Awaited => "an upload that was cut off is compared with it",
    }
    .to_string()
}

/// Holds a snapshot, or releases it.
pub fn hold(
    store: &Store,
    client: Option<&UserName>,
    snapshot: &str,
    hold: bool,
) -> Result<Vec<Value>, StoreError> {
    let clients = clients(store, client)?;
    let (client, id) = find(store, &clients, snapshot)?;
    let changed = store.hold(client.id, id, hold)?;
    Ok(vec![json!({ "client": client.name, "snapshot": id, "held": hold, "changed": changed })])
}

/// The rules for each client, as a file has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    version: u64,
    /// For clients that are not named; none prunes only those that are.
    #[serde(default)]
    default: Option<Rules>,
    /// In the place of the default.
    #[serde(default)]
    clients: BTreeMap<UserName, Rules>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// With the file, and the line or the client.
    pub fn read(path: &Path) -> Result<Policy, String> {
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read the policy {shown}: {error}"))?;
        let policy: Policy = serde_json::from_slice(&bytes).map_err(|error| format!("{shown}: {error}"))?;
        if policy.version != POLICY_VERSION {
            return Err(format!("{shown}: \"version\" is {}, and must be {POLICY_VERSION}", policy.version));
        }
        if let Some(rules) = &policy.default {
            rules.check().map_err(|problem| format!("{shown}: \"default\": {problem}"))?;
        }
        for (name, rules) in &policy.clients {
            rules.check().map_err(|problem| format!("{shown}: client {name}: {problem}"))?;
        }
        Ok(policy)
    }

    /// For a client with these names: what it is called now, then what it was called before. The first that has rules
    /// counts, so that a rename takes no rules away.
    pub fn rules_for<'a>(&self, names: impl IntoIterator<Item = &'a UserName>) -> Option<&Rules> {
        names.into_iter().find_map(|name| self.clients.get(name)).or(self.default.as_ref())
    }

    /// The names with rules that are not among `known`, each with what is said of it.
    pub fn warnings<'a>(&self, known: impl IntoIterator<Item = &'a UserName>) -> Vec<String> {
        let known = set_of(known);
        let unknown = self.clients.keys().filter(|name| !known.contains(name));
        unknown
            .map(|name| {
                format!("the policy has rules for {name}, and no client is called so or was: nothing goes by them")
            })
            .collect()
    }
}

/// When a server prunes by itself.
#[derive(Debug, Clone)]
pub struct DailyPrune {
    /// Minutes after midnight, UTC.
    pub minute_of_day: u32,
    pub policy: std::path::PathBuf,
    /// Then verify so many of a hundred contents.
    pub verify_percent: Option<u32>,
}

/// When the next daily prune is due, in seconds since 1970. The clock is what counts, not the time that passed.
#[derive(Debug)]
struct Schedule {
    minute_of_day: u32,
    due: i64,
}

impl Schedule {
    /// One that was missed since the last is due at once, however many were. Without a last one, none was missed.
    fn new(minute_of_day: u32, last: Option<Timestamp>, now: i64) -> Schedule {
        let last = last.map_or(now, |last| last.seconds.min(now));
        Schedule { minute_of_day, due: next_due(last, minute_of_day) }
    }

    fn is_due(&mut self, now: i64) -> bool {
        if self.due - now > SECONDS_PER_DAY {
            // The clock was set back.
            self.done(now);
        }
        now >= self.due
    }

    fn done(&mut self, now: i64) {
        self.due = next_due(now, self.minute_of_day);
    }
}

/// Prunes every day until `shutdown`. One that was missed, since the machine slept or no server ran, is made up for.
pub(super) fn prune_daily(
    desk: Desk,
    events: Arc<Events>,
    daily: DailyPrune,
) -> Result<JoinHandle<()>, ServerError> {
    let watch = move || {
        let (store, shutdown) = (&desk.store, &desk.shutdown);
        let now = || store.clock().now();
        let mut schedule = Schedule::new(daily.minute_of_day, store.last_daily_prune(), now().seconds);
        loop {
            let begun = now();
            if schedule.is_due(begun.seconds) {
                if prune_all(store, &daily.policy, shutdown)
                    && let Err(error) = store.note_daily_prune(begun)
                {
                    log::error!("the next start will prune again: {error}");
                }
                if let Some(percent) = daily.verify_percent {
                    verify_sample(&desk, &events, percent);
                }
                schedule.done(now().seconds);
            }
            if shutdown.wait(CLOCK_INTERVAL) {
                return;
            }
        }
    };
    let started = thread::Builder::new().name("prune".to_string()).spawn(watch);
    started.map_err(|source| ServerError::Io { doing: "start a thread", source })
}

/// The first moment after `now` at that minute of a day.
fn next_due(now: i64, minute_of_day: u32) -> i64 {
    let today = now.div_euclid(SECONDS_PER_DAY) * SECONDS_PER_DAY + i64::from(minute_of_day) * 60;
    if today > now { today } else { today + SECONDS_PER_DAY }
}

/// The nightly run over all clients; what else belongs to a night follows here. False where it was cut short.
fn prune_all(store: &Store, policy: &Path, shutdown: &Shutdown) -> bool {
    let policy = match Policy::read(policy) {
        Ok(policy) => policy,
        Err(problem) => {
            log::error!("nothing is pruned: {problem}");
            return false;
        }
    };
    let clients = store.clients();
    let known = clients.iter().flat_map(|client| client.names());
    policy.warnings(known).iter().for_each(|warning| log::warn!("{warning}"));
    for client in clients {
        let Some(rules) = policy.rules_for(client.names()) else { continue };
        if shutdown.is_requested() {
            return false;
        }
        let request = PruneRequest {
            client: Some(client.name.clone()),
            rules: Some(rules.clone()),
            snapshots: Vec::new(),
            dry_run: false,
        };
        match prune(store, &request) {
            Ok(rows) => rows.iter().filter(|row| row["row"] == "client").for_each(log_client),
            Err(_) if shutdown.is_requested() => return false,
            Err(error) => log::error!("{}: the prune failed: {error}", client.name),
        }
    }
    tidy_all_vaults(store, shutdown)
}

/// Those too of which no client has a snapshot any more. False where it was cut short.
fn tidy_all_vaults(store: &Store, shutdown: &Shutdown) -> bool {
    for vault in store.vaults().unwrap_or_default() {
        if shutdown.is_requested() {
            return false;
        }
        match store.tidy_vault(vault) {
            Ok(tidied) => log::info!("vault {vault}: {} bytes free again", tidied.bytes),
            Err(error) => log::error!("vault {vault}: its space is not won back: {error}"),
        }
    }
    true
}

/// The nightly sample, on a thread of its own, whose priority is the lowest.
fn verify_sample(desk: &Desk, events: &Events, percent: u32) {
    let request = VerifyRequest { client: None, sample_percent: Some(percent) };
    let verify = || {
        lower_priority();
        verify::run(&desk.to_read(), &request, &mut |row| {
            let client = row["client"].as_str();
            match row["row"].as_str() {
                Some("damage") => {
                    let (file, reason) = (row["file"].as_str(), row["reason"].as_str());
                    let text = format!("{}: {}", file.unwrap_or_default(), reason.unwrap_or_default());
                    log::error!("damage: {text}");
                    events.tell(EventKind::Damage, client, &text);
                }
                Some("end") => log::info!("verified: {} files, {} damaged", row["files"], row["damaged"]),
                Some("error") => log::warn!("the verification ended early: {}", row["text"]),
                _ => {}
            }
            !desk.shutdown.is_requested()
        });
    };
    thread::scope(|scope| {
        if let Err(error) = thread::Builder::new().name("verify".to_string()).spawn_scoped(scope, verify) {
            log::warn!("nothing is verified tonight: {error}");
        }
    });
}

fn log_client(row: &Value) {
    let client = row["client"].as_str().unwrap_or_default();
    if let Some(damage) = row["damage"].as_str() {
        log::error!("{client}: not all space was given back: {damage}");
    }
    log::info!(
        "{client}: pruned: {} snapshots dropped, {} kept, {} bytes free again",
        row["dropped"],
        row["kept"],
        row["freed_bytes"].as_u64().unwrap_or(0)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        std::fs::write(&path, text).unwrap();
        Policy::read(&path)
    }

    #[test]
    fn a_policy_names_rules_for_all_and_for_some() {
        let text = r#"{"version": 1, "default": {"keep_daily": 7, "keep_within": "3d"},
                       "clients": {"ada": {"keep_yearly": 5, "keep_tag": ["release"]}}}"#;
        let policy = policy(text).unwrap();
        let (ada, bob): (UserName, UserName) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        assert_eq!(policy.rules_for([&ada]).unwrap().keep_yearly, 5);
        assert_eq!(policy.rules_for([&bob]).unwrap().keep_daily, 7);
        assert_eq!(policy.rules_for([&bob, &ada]).unwrap().keep_yearly, 5, "bob was ada");
        assert!(policy.warnings([&bob, &ada]).is_empty());
        assert!(policy.warnings([&bob])[0].contains("rules for ada"));
    }

    #[test]
    fn of_two_names_with_rules_the_present_one_counts() {
        let text = r#"{"version": 1, "clients": {"cy": {"keep_daily": 1}, "cyril": {"keep_daily": 2}}}"#;
        let (policy, cy, cyril) = (policy(text).unwrap(), "cy".parse().unwrap(), "cyril".parse().unwrap());
        assert_eq!(policy.rules_for([&cyril, &cy]).unwrap().keep_daily, 2);
        assert_eq!(policy.rules_for([&cy]).unwrap().keep_daily, 1);
        assert!(policy.rules_for([&"dan".parse().unwrap()]).is_none());
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_with_its_place() {
        for (text, place) in [
            ("{\"version\": 1,\n \"default\": {\"keep_dayly\": 7}}", "line 2"),
            ("{\"version\": 1, \"default\": {\"keep_within\": \"7x\"}}", "7d"),
            (r#"{"version": 2}"#, "version"),
            (r#"{"version": 1, "clients": {"ada": {"keep_last": 3}}}"#, "client ada: --keep-last"),
            (r#"{"version": 1, "default": {}}"#, "\"default\": no rule"),
            ("", "line 1"),
        ] {
            let problem = policy(text).unwrap_err();
            assert!(problem.contains("policy.json") && problem.contains(place), "{problem}");
        }
    }

    #[test]
    fn what_was_missed_is_due_once_and_what_was_done_is_not() {
        let at = |seconds| Some(Timestamp { seconds, nanoseconds: 0 });
        let (noon, day) = (43_200, SECONDS_PER_DAY);
        assert!(!Schedule::new(720, None, 5 * day + noon + 1).is_due(5 * day + noon + 1), "nothing was missed");
        assert!(!Schedule::new(720, at(4 * day + noon), 5 * day).is_due(5 * day));
        let mut schedule = Schedule::new(720, at(noon), 5 * day);
        assert!(schedule.is_due(5 * day), "four were missed");
        schedule.done(5 * day);
        assert!(!schedule.is_due(5 * day + noon - 1) && schedule.is_due(5 * day + noon));
        // The clock was wrong, and is put right.
        let mut schedule = Schedule::new(720, at(900 * day), 5 * day);
        assert!(!schedule.is_due(5 * day) && schedule.is_due(5 * day + noon));
        let mut schedule = Schedule::new(720, None, 900 * day);
        assert!(!schedule.is_due(5 * day) && schedule.is_due(5 * day + noon));
    }

    #[test]
    fn the_next_time_is_today_or_tomorrow() {
        assert_eq!(next_due(0, 0), SECONDS_PER_DAY);
        assert_eq!(next_due(59, 1), 60);
        assert_eq!(next_due(60, 1), SECONDS_PER_DAY + 60);
    }
}
