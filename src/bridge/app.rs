//! What all requests share, and what is told to whoever watches.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::assets::Page;
use super::hub::{self, Hub, Message};
use super::job::{Job, JobState};
use super::jobs::Jobs;
use super::log_book::LogBook;
use super::peers::Peers;
use super::settings::Settings;
use super::vault::{IDLE, Vault};
use crate::base::ids::hex;
use crate::base::shutdown::Shutdown;
use crate::base::time::Timestamp;
use crate::client::json::put_path;
use crate::client::scan::FolderIdentity;

/// Receipts that are remembered.
const RECEIPTS_MAX: usize = 1_000;
/// How long the answer about a server's being there counts.
const REACHABLE_FOR: Duration = Duration::from_secs(2);
/// How long a server may take to take a connection, for that answer.
const REACH_TIMEOUT: Duration = Duration::from_millis(700);

/// What a run of the bridge is told.
pub struct BridgeConfig {
    pub bind: IpAddr,
    /// The port that was taken.
    pub port: u16,
    pub token: Option<String>,
    /// The page is read from here in the place of what is compiled in.
    pub static_dir: Option<PathBuf>,
    /// Open a browser.
    pub open: bool,
    pub host_name: String,
    /// Where the two JSON files lie.
    pub settings_folder: PathBuf,
    pub transfer_info: PathBuf,
    pub log_file: PathBuf,
    /// Folders of this program, which no backup may hold.
    pub own_folders: Vec<PathBuf>,
    pub log: Arc<LogBook>,
    /// A new passphrase costs little memory.
    pub low_memory: bool,
}

/// What all requests share.
pub struct App {
    pub config: BridgeConfig,
    pub peers: Peers,
    pub jobs: Jobs,
    pub hub: Arc<Hub>,
    pub settings: Settings,
    pub vault: Arc<Vault>,
    pub started: Timestamp,
    pub began: Instant,
    receipts: Mutex<VecDeque<Value>>,
    reachable: Mutex<Option<(Instant, String, bool)>>,
    /// Questions to servers that are under way: each can be ended.
    questions: Mutex<Vec<(u64, Shutdown)>>,
}

impl Page for App {
    const FIRST: &'static str = "index.html";
    const OPENAPI: &'static str = include_str!("openapi.json");

    fn folder(&self) -> Option<&Path> {
        self.config.static_dir.as_deref()
    }
}

/// A question under way; forgotten when it is dropped.
pub struct Question<'a> {
    app: &'a App,
    number: u64,
    pub shutdown: Shutdown,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        locked(&self.app.questions).retain(|(number, _)| *number != self.number);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl App {
    pub fn new(config: BridgeConfig, peers: Peers) -> Arc<App> {
        let hub = Arc::new(Hub::default());
        let app = Arc::new(App {
            settings: Settings::open(&config.settings_folder),
            vault: Vault::new(peers.state_folder(), config.low_memory, IDLE, hub.clone()),
            config,
            peers,
            jobs: Jobs::default(),
            hub,
            started: Timestamp::now(),
            began: Instant::now(),
            receipts: Mutex::default(),
            reachable: Mutex::default(),
            questions: Mutex::default(),
        });
        let watched = Arc::downgrade(&app);
        app.hub.tell_present_with(move || watched.upgrade().map(|app| app.present()).unwrap_or_default());
        app.config.log.attach(app.hub.clone());
        app
    }

    /// A wish to stop for one question to a server.
    pub fn question(&self) -> Question<'_> {
        let shutdown = Shutdown::new();
        let mut questions = locked(&self.questions);
        let number = questions.last().map_or(0, |(number, _)| number + 1);
        questions.push((number, shutdown.clone()));
        Question { app: self, number, shutdown }
    }

    /// Ends all questions that are under way.
    pub fn end_questions(&self) {
        for (_, shutdown) in locked(&self.questions).iter() {
            shutdown.request();
        }
    }

    pub fn own_folders(&self) -> Vec<FolderIdentity> {
        self.config.own_folders.iter().filter_map(|folder| FolderIdentity::of(folder).ok()).collect()
    }

    /// The status object of a job, or of none.
    pub fn status(&self, job: Option<&Job>) -> Value {
        let mut data = match job {
            Some(job) => job.status_json(),
            None => json!({
                "job_id": null,
                "kind": null,
                "state": null,
                "phase": "READY",
                "message": "ready",
                "progress": super::progress::Progress::new([1.0; 3]).json(),
                "last_updated": Timestamp::now().to_string(),
            }),
        };
        self.add_whole(&mut data);
        data
    }

    /// The job object.
    pub fn job_json(&self, job: &Job) -> Value {
        let mut data = job.json();
        self.add_whole(&mut data);
        data
    }

    fn add_whole(&self, data: &mut Value) {
        data["connected"] = json!(self.peers.current().is_connected());
        data["backing_up"] = json!(self.jobs.running().is_some());
    }

    fn present(&self) -> Vec<Message> {
        let running = self.jobs.running();
        let open = self.jobs.list().into_iter().filter(|job| !job.state().has_ended());
        let status = hub::message("status", self.status(running.as_deref()));
        std::iter::once(status)
            .chain(open.map(|job| hub::message("progress_update", self.status(Some(&job)))))
            .collect()
    }

    /// A job has another state or phase.
    pub fn tell_state(&self, job: &Job) {
        self.hub.tell("status", || self.status(Some(job)));
        self.tell_progress(job);
    }

    pub fn tell_progress(&self, job: &Job) {
        self.hub.tell("progress_update", || self.status(Some(job)));
    }

    /// Where no job runs any more: that.
    pub fn tell_ready(&self) {
        let is_busy =
            self.jobs.list().iter().any(|job| matches!(job.state(), JobState::Running | JobState::Queued));
        if !is_busy {
            self.hub.tell("status", || self.status(None));
        }
    }

    pub fn note_receipt(&self, job: &Job, path: &[u8], bytes: u64, crc32: u32, blake3: &[u8; 32]) {
        let mut data = json!({
            "job_id": job.id,
            "bytes": bytes,
            "crc32": format!("{crc32:08x}"),
            "blake3": hex(blake3),
            "time": Timestamp::now().to_string(),
        });
        put_path(&mut data, "path", path);
        put_path(&mut data, "name", path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
        self.hub.tell_single("file_receipt", || data.clone());
        let mut receipts = locked(&self.receipts);
        if receipts.len() == RECEIPTS_MAX {
            receipts.pop_front();
        }
        receipts.push_back(data);
    }

    /// Receipts, newest first.
    pub fn receipts(&self) -> Vec<Value> {
        locked(&self.receipts).iter().rev().cloned().collect()
    }

    /// Whether something takes connections at the server's address.
    pub fn is_server_reachable(&self) -> bool {
        use std::net::{TcpStream, ToSocketAddrs};
        let address = self.peers.current().address().clone();
        let mut last = locked(&self.reachable);
        if let Some((at, of, reachable)) = last.as_ref()
            && at.elapsed() < REACHABLE_FOR
            && *of == address.to_string()
        {
            return *reachable;
        }
        let resolved = (address.host(), address.port()).to_socket_addrs().ok().into_iter().flatten();
        let reachable = resolved.take(4).any(|socket| TcpStream::connect_timeout(&socket, REACH_TIMEOUT).is_ok());
        *last = Some((Instant::now(), address.to_string(), reachable));
        reachable
    }
}
