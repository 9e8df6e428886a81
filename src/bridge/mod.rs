//! The bridge: the page and its API on one local address, driving the same client as the command line.
//!
//! A request comes through [`front`], which bounds and checks it, and is relayed to an inner HTTP server;
//! [`routes`] names the handler that answers. Jobs run on threads of their own and tell the hub, which tells
//! whoever watches. Nothing that a page sends is kept on this host.
//!
//! [`Dashboard`] is a second page with routes of its own, through the same front: a backup server's, for its operator.

mod admission;
mod answer;
mod api;
mod api_host;
mod api_jobs;
mod api_settings;
mod api_snapshots;
mod api_upload;
mod api_vault;
mod app;
mod assets;
mod body;
mod dashboard;
mod error;
mod front;
mod handover;
mod head;
mod hub;
mod inner;
mod job;
mod job_run;
mod jobs;
mod log_book;
mod metrics;
mod multipart;
mod parts;
mod peer_user;
mod peers;
mod progress;
mod relay;
mod routes;
mod settings;
mod socket;
mod upload;
mod vault;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use admission::{Admission, host_text};
use app::App;
use front::Front;
use inner::Inner;

pub use app::BridgeConfig;
pub use dashboard::{Dashboard, DashboardConfig};
pub use log_book::LogBook;
pub use peers::{ClientSettings, Peer, Peers, Wish};

use crate::base::ids::{hex, random_array};
use crate::base::shutdown::Shutdown;

pub const DEFAULT_PORT: u16 = 9090;
/// How long whoever holds the port may take to say who it is.
const WHO_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the bridge could not run.
#[derive(Debug)]
pub enum BridgeError {
    /// Somebody listens there already.
    InUse {
        address: SocketAddr,
        holder: String,
        /// Where another one is chosen.
        flag: &'static str,
    },
    Io {
        doing: String,
        source: io::Error,
    },
}

impl fmt::Display for BridgeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BridgeError::InUse { address, holder, flag } => {
                write!(formatter, "{address} is in use by {holder}: end it, or choose another port with {flag}")
            }
            BridgeError::Io { doing, source } => write!(formatter, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for BridgeError {}

/// A bridge that listens.
pub struct Bridge {
    app: Arc<App>,
    front: Arc<Front>,
    listener: TcpListener,
    url: String,
}

/// Takes the address; before anything else is begun, because another bridge may have it. `flag` is where another one
/// is chosen.
pub fn listen(wanted: SocketAddr, flag: &'static str) -> Result<TcpListener, BridgeError> {
    TcpListener::bind(wanted).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BridgeError::InUse { address: wanted, holder: holder_of(wanted), flag },
        _ => BridgeError::Io { doing: format!("listen on {wanted}"), source },
    })
}

impl Bridge {
    /// Makes everything ready.
    pub fn open(
        listener: TcpListener,
        mut config: BridgeConfig,
        peers: Peers,
        shutdown: Shutdown,
    ) -> Result<Bridge, BridgeError> {
        let address = own_address(&listener)?;
        config.port = address.port();
        config.token = token(config.token, config.bind);
        let url = url(address, &config.host_name, config.token.as_deref());
        let admission = Admission::new(config.bind, config.port, &config.host_name, config.token.as_deref());
        let app = App::new(config, peers);
        let answering = app.clone();
        let inner = Inner::start(move |request| routes::answer(routes::ROUTES, &answering, request));
        let inner = inner.map_err(failed("start the inner HTTP server"))?;
        let front = Front::new(admission, inner, Some(app.hub.clone()), shutdown);
        Ok(Bridge { app, front, listener, url })
    }

    /// Where a browser finds it, the token included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves until the wish to stop is made; running jobs are stopped so that they can be gone on with.
    pub fn run(self) -> Result<(), BridgeError> {
        self.meet_expected_server();
        if self.app.config.open {
            open_browser(&self.url);
        }
        let ran = self.front.run(&self.listener);
        log::info!("ending: what runs is stopped and can be resumed");
        jobs::close(&self.app);
        self.app.end_questions();
        self.app.vault.lock();
        self.app.hub.wake_all();
        ran.map_err(|source| BridgeError::Io { doing: "accept connections".into(), source })
    }

    /// A server whose key is known beforehand is met without being asked for.
    fn meet_expected_server(&self) {
        let peer = self.app.peers.current();
        if peer.is_known() || !self.app.peers.expects_a_key() {
            return;
        }
        let app = self.app.clone();
        let meet = move || {
            let wish =
                Wish { address: peer.address().clone(), user: peer.user.clone(), token: None, confirm: None };
            let question = app.question();
            if let Err(error) = app.peers.connect(wish, &question.shutdown) {
                log::warn!("the server could not be met: {}", error.text);
            }
        };
        if let Err(error) = thread::Builder::new().name("meet".into()).spawn(meet) {
            log::warn!("the server could not be met: {error}");
        }
    }
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> BridgeError {
    let doing = doing.to_string();
    move |source| BridgeError::Io { doing, source }
}

fn own_address(listener: &TcpListener) -> Result<SocketAddr, BridgeError> {
    listener.local_addr().map_err(failed("find its own address"))
}

/// The token that was given; off loopback there must be one.
fn token(given: Option<String>, bind: IpAddr) -> Option<String> {
    given.or_else(|| (!bind.is_loopback()).then(|| hex(&random_array::<16>())))
}

fn url(address: SocketAddr, host_name: &str, token: Option<&str>) -> String {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => host_name.to_ascii_lowercase(),
        ip => host_text(ip),
    };
    let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
    format!("http://{host}:{}/{token}", address.port())
}

/// Who listens there, in words.
fn holder_of(address: SocketAddr) -> String {
    let other = "another program".to_string();
    let Ok(health) = ask_health(address) else { return other };
    let command = match (&health["api_server"], &health["dashboard"]) {
        (Value::String(word), _) if word == "running" => "gui",
        (_, Value::String(word)) if word == "running" => "server --dashboard",
        _ => return other,
    };
    let (process, uptime) = (&health["process"], &health["uptime_seconds"]);
    format!("another \"cyberbackup {command}\" (process {process}, for {uptime} s)")
}

fn ask_health(mut address: SocketAddr) -> io::Result<Value> {
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    let mut stream = TcpStream::connect_timeout(&address, WHO_TIMEOUT)?;
    stream.set_read_timeout(Some(WHO_TIMEOUT))?;
    let host = format!("{}:{}", host_text(address.ip()), address.port());
    write!(stream, "GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text)?;
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}

/// Opens the page in a browser, if there is one.
fn open_browser(url: &str) {
    use std::process::{Command, Stdio};
    let usual = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let program = std::env::var_os("BROWSER").filter(|program| !program.is_empty()).unwrap_or(usual.into());
    let mut command = Command::new(&program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut child) => {
            // Somebody has to take note of its end.
            let _ = thread::Builder::new().name("browser".into()).spawn(move || child.wait());
        }
        Err(error) => log::warn!("no browser could be opened ({}: {error}): open {url}", program.display()),
    }
}
