//! The operator's page of a backup server: who is here and what they do, the clients, the disk, what failed. It reads
//! the server's own figures and changes nothing.
//!
//! What it tells is made at most once a second, whoever asks how often: viewers and watchers cost the server the same
//! as one of them.

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::admission::Admission;
use super::answer::{Answer, JSON};
use super::assets::{self, Page};
use super::error::ApiError;
use super::front::Front;
use super::inner::Inner;
use super::routes::{self, Call, Reply, Route, get};
use super::{BridgeError, failed, metrics, own_address, token, url};
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;
use crate::server::{FailureNote, Overview, SessionView};

pub const ROUTES: &[Route<Desk>] = &[
    get("/", assets::page),
    get("/static/{}", assets::part),
    get("/favicon.ico", assets::icon),
    get("/health", health),
    get("/api/health", health),
    get("/api/overview", overview),
    get("/api/openapi.json", assets::openapi),
    get("/metrics", metrics),
];

/// How long an answer is given again.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How often the sessions are looked at for their rates.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// A rate is that of the time between so many looks.
const SAMPLES_KEPT: usize = 5;
/// What Prometheus wants its text to be called.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a run of the dashboard is told.
pub struct DashboardConfig {
    pub token: Option<String>,
    pub host_name: String,
}

/// A dashboard that listens.
pub struct Dashboard {
    front: Arc<Front>,
    desk: Arc<Desk>,
    listener: TcpListener,
    url: String,
}

/// What all requests share.
pub struct Desk {
    server: Overview,
    began: Instant,
    rates: Mutex<Rates>,
    overview: Kept,
    metrics: Kept,
}

impl Page for Desk {
    const FIRST: &'static str = "dashboard.html";
    const OPENAPI: &'static str = include_str!("dashboard_openapi.json");

    fn folder(&self) -> Option<&Path> {
        None
    }
}

impl Dashboard {
    /// Makes everything ready; the wish on `shutdown` ends it.
    pub fn open(
        listener: TcpListener,
        config: DashboardConfig,
        server: Overview,
        shutdown: Shutdown,
    ) -> Result<Dashboard, BridgeError> {
        let address = own_address(&listener)?;
        let token = token(config.token, address.ip());
        let url = url(address, &config.host_name, token.as_deref());
        let admission = Admission::new(address.ip(), address.port(), &config.host_name, token.as_deref());
        let desk = Arc::new(Desk {
            server,
            began: Instant::now(),
            rates: Mutex::default(),
            overview: Kept::default(),
            metrics: Kept::default(),
        });
        let answering = desk.clone();
        let inner = Inner::start(move |request| routes::answer(ROUTES, &answering, request));
        let inner = inner.map_err(failed("start the dashboard's inner HTTP server"))?;
        let front = Front::new(admission, inner, None, shutdown);
        Ok(Dashboard { front, desk, listener, url })
    }

    /// Where a browser finds it, the token included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves until the wish to stop is made.
    pub fn run(self) -> Result<(), BridgeError> {
        let (desk, shutdown) = (self.desk.clone(), self.front.shutdown.clone());
        let sample = move || {
            while !shutdown.is_requested() {
                locked(&desk.rates).sample(Instant::now(), &desk.server.sessions());
                shutdown.wait(SAMPLE_INTERVAL);
            }
        };
        let sampling = thread::Builder::new().name("rates".into()).spawn(sample);
        let sampling = sampling.map_err(failed("start a thread for the dashboard"))?;
        let ran = self.front.run(&self.listener);
        self.front.shutdown.request();
        if let Err(panic) = sampling.join() {
            std::panic::resume_unwind(panic);
        }
        ran.map_err(failed("accept connections for the dashboard"))
    }
}

// ---- what is told ----

/// An answer's text that is given again while it is fresh. Those who ask meanwhile wait for the one that is being made.
#[derive(Default)]
struct Kept(Mutex<Option<(Instant, Vec<u8>)>>);

impl Kept {
    fn get(&self, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let mut kept = locked(&self.0);
        if let Some((made, text)) = kept.as_ref()
            && made.elapsed() < FRESH_FOR
        {
            return text.clone();
        }
        let text = make();
        *kept = Some((Instant::now(), text.clone()));
        text
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever is kept here is whole, or made anew.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells little: whoever reaches the port may ask.
fn health(call: &mut Call<'_, Desk>) -> Result<Reply, ApiError> {
    let desk = call.app;
    let is_well = desk.server.space().is_ok_and(|space| !desk.server.is_low(space));
    let report = desk.server.report();
    Ok(Reply::from(json!({
        "status": if is_well { "healthy" } else { "degraded" },
        "dashboard": "running",
        "backup_server": "running",
        "active_connections": report.active_connections,
        "available_slots": report.available_slots,
        "uptime_seconds": desk.began.elapsed().as_secs(),
        "process": std::process::id(),
        "timestamp": Timestamp::now().to_string(),
    })))
}

fn overview(call: &mut Call<'_, Desk>) -> Result<Reply, ApiError> {
    let desk = call.app;
    let body = desk.overview.get(|| Answer::ok(desk.overview_json()).body);
    Ok(Reply::Answer(Answer { status: 200, content_type: JSON, headers: Vec::new(), body }))
}

fn metrics(call: &mut Call<'_, Desk>) -> Result<Reply, ApiError> {
    let desk = call.app;
    let body = desk.metrics.get(|| metrics::text(&desk.server).into_bytes());
    Ok(Reply::Answer(Answer { status: 200, content_type: METRICS_TYPE, headers: Vec::new(), body }))
}

impl Desk {
    fn overview_json(&self) -> Value {
        let server = &self.server;
        let sessions: Vec<Value> = {
            let rates = locked(&self.rates);
            server.sessions().iter().map(|session| session_json(session, &rates)).collect()
        };
        let disk = match server.space() {
            Ok(space) => json!({
                "total_bytes": space.total,
                "available_bytes": space.available,
                "low": server.is_low(space),
            }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        json!({
            "program": format!("cyberbackup {}", env!("CARGO_PKG_VERSION")),
            "address": server.address().to_string(),
            "fingerprint": server.fingerprint().to_string(),
            "data": server.data().display().to_string(),
            "timestamp": Timestamp::now().to_string(),
            "stats": serde_json::to_value(server.report()).unwrap_or_default(),
            "sessions": sessions,
            "disk": disk,
            "clients": server.clients(),
            "failures": server.failures().iter().map(failure_json).collect::<Vec<_>>(),
        })
    }
}

fn session_json(session: &SessionView, rates: &Rates) -> Value {
    let (receiving, sending) = rates.of(session, Instant::now());
    json!({
        "number": session.number,
        "client": session.client,
        "peer": session.peer.to_string(),
        "legacy": session.legacy,
        "phase": session.doing.word(),
        "began": session.began.to_string(),
        "age_seconds": session.age.as_secs(),
        "bytes_received": session.received,
        "bytes_sent": session.sent,
        "receive_rate": receiving,
        "send_rate": sending,
    })
}

fn failure_json(note: &FailureNote) -> Value {
    json!({
        "time": note.time.to_string(),
        "peer": note.peer.to_string(),
        "client": note.client,
        "text": note.text,
        "count": note.count,
    })
}

// ---- rates ----

/// What the sessions had carried at the last few looks, by their numbers.
#[derive(Default)]
struct Rates(HashMap<u64, VecDeque<(Instant, u64, u64)>>);

impl Rates {
    fn sample(&mut self, now: Instant, sessions: &[SessionView]) {
        self.0.retain(|number, _| sessions.iter().any(|session| session.number == *number));
        for session in sessions {
            let samples = self.0.entry(session.number).or_default();
            if samples.len() == SAMPLES_KEPT {
                samples.pop_front();
            }
            samples.push_back((now, session.received, session.sent));
        }
    }

    /// Bytes that come in and go out in a second, of late. A session that was never looked at has its whole age for that.
    fn of(&self, session: &SessionView, now: Instant) -> (u64, u64) {
        let oldest = self.0.get(&session.number).and_then(|samples| samples.front());
        let (for_long, received, sent) = match oldest {
            Some((at, received, sent)) => (now.saturating_duration_since(*at), *received, *sent),
            None => (session.age, 0, 0),
        };
        let rate = |bytes: u64| (bytes as f64 / for_long.as_secs_f64().max(0.1)) as u64;
        (rate(session.received.saturating_sub(received)), rate(session.sent.saturating_sub(sent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Doing;

    fn session(number: u64, received: u64) -> SessionView {
        SessionView {
            number,
            client: "ada".parse().unwrap(),
            peer: "127.0.0.1:1".parse().unwrap(),
            legacy: false,
            doing: Doing::Receiving,
            began: Timestamp::now(),
            age: Duration::from_secs(2),
            received,
            sent: 0,
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_few_looks() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        assert_eq!(rates.of(&session(1, 4_000), began), (2_000, 0));
        for second in 0..10 {
            rates.sample(began + Duration::from_secs(second), &[session(1, 1_000 * second), session(2, 0)]);
        }
        let now = began + Duration::from_secs(10);
        assert_eq!(rates.of(&session(1, 10_000), now), (1_000, 0));
        rates.sample(now, &[session(2, 0)]);
        assert_eq!(rates.0.len(), 1, "a session that has ended is forgotten");
        let later = now + Duration::from_secs(1);
        assert_eq!(rates.of(&session(2, 0), later), (0, 0));
    }

    #[test]
    fn what_is_fresh_is_given_again() {
        let kept = Kept::default();
        assert_eq!(kept.get(|| b"first".to_vec()), b"first");
        assert_eq!(kept.get(|| unreachable!("it is fresh")), b"first");
    }
}
