//! What the operator wants to hear of: failures, damage, clients that went silent, quotas, low space. One thread
//! tells a program of it, one event at a time.
//!
//! A flood cannot become a flood of processes: events of one kind about one client are put together until they are
//! told, the same is told again only after [`REPEAT_AFTER`], two runs are [`PAUSE`] apart, and of more than
//! [`WAITING_MAX`] that wait the newest are put together by their kind alone.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::config::Watch;
use super::error::ServerError;
use crate::base::amount::{Size, Span};
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;
use crate::protocol::message::FailureCode;
use crate::storage::Store;

/// Events of different kinds or clients that wait to be told.
const WAITING_MAX: usize = 64;
/// The least time between two runs of the program.
const PAUSE: Duration = Duration::from_secs(1);
/// The least time between two runs about the same.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// How often space and silence are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How often what has not changed is told again.
const REMIND_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Clients that one event names.
const NAMES_MAX: usize = 100;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Failure,
    Damage,
    Stale,
    Quota,
    LowSpace,
}

impl EventKind {
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Failure => "failure",
            EventKind::Damage => "damage",
            EventKind::Stale => "stale",
            EventKind::Quota => "quota",
            EventKind::LowSpace => "low_space",
        }
    }

    /// What a failed command is to the operator; none for what is its client's own affair.
    pub fn of_failure(code: FailureCode) -> Option<EventKind> {
        match code {
            FailureCode::Quota => Some(EventKind::Quota),
            FailureCode::Damaged => Some(EventKind::Damage),
            FailureCode::Internal | FailureCode::DiskFull | FailureCode::OutOfPlace => Some(EventKind::Failure),
            FailureCode::NotFound | FailureCode::Refused | FailureCode::TakenOver => None,
        }
    }
}

/// What an event is about: its kind, and the client where it is about one.
type Subject = (EventKind, Option<String>);

/// Events of one subject, put together.
#[derive(Debug, Clone)]
struct Waiting {
    /// Of the newest.
    text: String,
    clients: Vec<String>,
    count: u64,
}

/// Where events are told.
#[derive(Debug, Default)]
pub struct Events {
    waiting: Mutex<HashMap<Subject, Waiting>>,
    came: Condvar,
    /// Nobody listens: nothing is kept.
    is_off: bool,
}

impl Events {
    pub fn new(watch: &Watch) -> Arc<Events> {
        Arc::new(Events { is_off: watch.hook.is_none(), ..Events::default() })
    }

    /// Tells of something, about one client or none; never waits for the program.
    pub fn tell(&self, kind: EventKind, client: Option<&str>, text: &str) {
        self.add(kind, client, text, Vec::new());
    }

    fn add(&self, kind: EventKind, client: Option<&str>, text: &str, clients: Vec<String>) {
        if self.is_off {
            return;
        }
        let mut waiting = self.waiting();
        let mut subject = (kind, client.map(str::to_string));
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&subject) {
            subject.1 = None;
        }
        let entry = waiting.entry(subject).or_insert_with(|| Waiting {
            text: String::new(),
            clients: Vec::new(),
            count: 0,
        });
        entry.text = text.to_string();
        entry.clients = clients;
        entry.count += 1;
        self.came.notify_all();
    }

    /// Takes the next event that may be told now.
    fn take(&self, told: &HashMap<Subject, Instant>) -> Option<(Subject, Waiting)> {
        let mut waiting = self.waiting();
        let subject = waiting.keys().find(|subject| !told.contains_key(*subject))?.clone();
        waiting.remove_entry(&subject)
    }

    fn wait(&self, most: Duration) {
        let waiting = self.waiting();
        let _ = self.came.wait_timeout(waiting, most);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Subject, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread, if there is anything for it to do.
pub fn start(
    watch: Watch,
    events: Arc<Events>,
    store: Arc<Store>,
    shutdown: Shutdown,
) -> Result<Option<JoinHandle<()>>, ServerError> {
    if watch.hook.is_none() && watch.low_space.is_none() && watch.stale_after.is_none() {
        return Ok(None);
    }
    let mut teller = Teller {
        watch,
        events,
        store,
        shutdown,
        told: HashMap::new(),
        low_told: None,
        stale_told: HashMap::new(),
        looked: None,
    };
    let started = thread::Builder::new().name("events".to_string()).spawn(move || teller.run());
    started.map(Some).map_err(|source| ServerError::Io { doing: "start a thread", source })
}

struct Teller {
    watch: Watch,
    events: Arc<Events>,
    store: Arc<Store>,
    shutdown: Shutdown,
    /// What was told so recently that it waits.
    told: HashMap<Subject, Instant>,
    low_told: Option<Instant>,
    stale_told: HashMap<String, Instant>,
    looked: Option<Instant>,
}

impl Teller {
    fn run(&mut self) {
        while !self.shutdown.is_requested() {
            if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL) {
                self.looked = Some(Instant::now());
                self.look_at_space();
                self.look_for_silence();
            }
            self.told.retain(|_, told| told.elapsed() < REPEAT_AFTER);
            match self.events.take(&self.told) {
                Some((subject, waiting)) => {
                    self.call(&subject, &waiting);
                    self.told.insert(subject, Instant::now());
                    self.shutdown.wait(PAUSE);
                }
                // Short enough that the wish to end is seen soon.
                None => self.events.wait(PAUSE),
            }
        }
    }

    fn call(&self, (kind, client): &Subject, waiting: &Waiting) {
        let Some(hook) = &self.watch.hook else { return };
        let (word, time) = (kind.word(), Timestamp::now().to_string());
        let data = json!({
            "event": word,
            "client": client,
            "clients": waiting.clients,
            "text": waiting.text,
            "count": waiting.count,
            "time": time,
        });
        let variables = [
            ("EVENT", word.to_string()),
            ("CLIENT", client.clone().unwrap_or_default()),
            ("TEXT", waiting.text.clone()),
            ("COUNT", waiting.count.to_string()),
            ("TIME", time),
        ];
        let shutdown = &self.shutdown;
        if let Err(error) = hook.tell(&variables, format!("{data}\n").as_bytes(), &|| shutdown.is_requested()) {
            log::warn!("--on-event: {error}");
        }
    }

    fn look_at_space(&mut self) {
        let Some(limit) = self.watch.low_space else { return };
        let Ok(space) = self.store.space() else { return };
        if space.available >= limit.bytes_of(space.total) {
            self.low_told = None;
        } else if self.low_told.is_none_or(|told| told.elapsed() >= REMIND_AFTER) {
            self.low_told = Some(Instant::now());
            let left = Size(space.available);
            let text =
                format!("{left} are left on the disk of {}: prune or make room", self.store.path().display());
            log::warn!("{text}");
            self.events.tell(EventKind::LowSpace, None, &text);
        }
    }

    fn look_for_silence(&mut self) {
        let Some(limit) = self.watch.stale_after else { return };
        let oldest = Timestamp::now().seconds.saturating_sub_unsigned(limit.as_secs());
        let mut stale = Vec::new();
        for (client, summary) in self.store.summaries() {
            let Ok(summary) = summary else { continue };
            if summary.last.map_or(client.registered, |last| last.committed()).seconds < oldest {
                stale.push(client.name.to_string());
            }
        }
        self.stale_told.retain(|name, told| told.elapsed() < REMIND_AFTER && stale.contains(name));
        stale.retain(|name| !self.stale_told.contains_key(name));
        if stale.is_empty() {
            return;
        }
        self.stale_told.extend(stale.iter().map(|name| (name.clone(), Instant::now())));
        let more = match stale.len().saturating_sub(NAMES_MAX) {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        stale.truncate(NAMES_MAX);
        let text = format!("no success for {}: {}{more}", Span(limit), stale.join(", "));
        log::warn!("{text}");
        self.events.add(EventKind::Stale, None, &text, stale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        Events::default()
    }

    #[test]
    fn a_flood_is_put_together_by_client_and_beyond_the_limit_by_kind() {
        let events = events();
        for number in 0..1_000 {
            events.tell(EventKind::Failure, Some("ada"), &format!("failure {number}"));
        }
        let (subject, waiting) = events.take(&HashMap::new()).unwrap();
        assert_eq!(subject, (EventKind::Failure, Some("ada".to_string())));
        assert_eq!((waiting.count, waiting.text.as_str()), (1_000, "failure 999"));
        assert!(events.take(&HashMap::new()).is_none());
        for number in 0..1_000 {
            events.tell(EventKind::Quota, Some(&format!("client {number}")), "full");
        }
        assert_eq!(events.waiting().len(), WAITING_MAX + 1);
        assert_eq!(events.waiting()[&(EventKind::Quota, None)].count, 1_000 - WAITING_MAX as u64);
    }

    #[test]
    fn what_was_told_just_now_waits_and_the_rest_does_not() {
        let events = events();
        events.tell(EventKind::Failure, Some("ada"), "again");
        events.tell(EventKind::Failure, Some("bob"), "first");
        let told = HashMap::from([((EventKind::Failure, Some("ada".to_string())), Instant::now())]);
        assert_eq!(events.take(&told).unwrap().0.1.as_deref(), Some("bob"));
        assert!(events.take(&told).is_none());
        assert_eq!(events.waiting().len(), 1);
    }
}
