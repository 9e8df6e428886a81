//! From arguments and files to a client that is ready to connect. Precedence: flag, environment, file,
//! default.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::storage_key;
use super::vault::vault_keys;
use crate::base::ids::UserName;
use crate::base::path::EntryPath;
use crate::base::shutdown::Shutdown;
use crate::bridge::BridgeError;
use crate::client::config::{ServerAddress, TransferInfo};
use crate::client::state::{StateFolder, StatePlaces};
use crate::client::vault::{VaultAccess, VaultKeys};
use crate::client::{
    Client, ClientError, ClientOptions, Destination, ExitCode, LOW_MEMORY_WINDOW_BYTES, LegacyClient,
    LegacySettings, RetryPolicy, Window, check_selection, legacy_user,
};
use crate::crypto::Fingerprint;
use crate::protocol::handshake::WINDOW_BYTES_RANGE;
use crate::protocol::message::Selection;
use crate::server::{Server, ServerConfig, ServerError};

/// The file that a run without flags goes by.
pub const TRANSFER_INFO: &str = "transfer.info";
/// The data folder of a server that was told no other.
pub const DATA_FOLDER: &str = "server";

/// What a command can fail with.
#[derive(Debug)]
pub enum CliError {
    Usage(UsageError),
    Client(ClientError),
    Server(ServerError),
    Operator(crate::server::OperatorError),
    Bridge(BridgeError),
}

impl CliError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Usage(_) => ExitCode::Usage,
            CliError::Client(error) => error.exit_code(),
            CliError::Server(_) | CliError::Bridge(_) => ExitCode::Failed,
            CliError::Operator(error) => match error {
                crate::server::OperatorError::NoServer { .. } => ExitCode::Usage,
                _ => ExitCode::Failed,
            },
        }
    }

    /// What to tell the user; none where it was told.
    pub fn message(&self) -> Option<String> {
        match self {
            CliError::Usage(error) => Some(error.to_string()),
            CliError::Client(error) => Some(error.to_string()),
            CliError::Server(error) => Some(error.to_string()),
            CliError::Operator(error) => Some(error.to_string()),
            CliError::Bridge(error) => Some(error.to_string()),
        }
    }
}

impl From<UsageError> for CliError {
    fn from(error: UsageError) -> CliError {
        CliError::Usage(error)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        CliError::Client(error)
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> CliError {
        CliError::Server(error)
    }
}

impl From<BridgeError> for CliError {
    fn from(error: BridgeError) -> CliError {
        CliError::Bridge(error)
    }
}

impl From<crate::server::OperatorError> for CliError {
    fn from(error: crate::server::OperatorError) -> CliError {
        CliError::Operator(error)
    }
}

/// Whether a command changes the state folder or only asks the server something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Exclusive,
    Reading,
}

/// A run of the client: everything it needs, and the server inside the process if there is one.
pub struct Setup {
    pub info: Option<TransferInfo>,
    options: Option<ClientOptions>,
    state: Option<StateFolder>,
    /// Until the client has taken them.
    vault: Option<VaultKeys>,
    local: Option<LocalServer>,
}

struct LocalServer {
    server: Option<Server>,
    shutdown: Shutdown,
    data: PathBuf,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(server) = self.server.take() {
            server.join();
        }
    }
}

impl Setup {
    pub fn new(arguments: &Arguments, purpose: &str, access: Access, output: &Output) -> Result<Setup, CliError> {
        let info = transfer_info(arguments)?;
        let named = named_user(arguments, info.as_ref())?;
        let folder = state_path(arguments, info.as_ref())?;
        output.detail(&format!("state folder: {}", folder.display()));
        let opened = match access {
            Access::Exclusive => StateFolder::open(&folder, purpose),
            Access::Reading => StateFolder::open_for_reading(&folder, purpose),
        };
        let state = opened.map_err(ClientError::from)?.beside(info.as_ref().map(|info| info.file.as_path()));
        let user = match named {
            Some(user) => user,
            None => usual_user(&state)?,
        };
        let (destination, local) = destination(arguments, info.as_ref(), output)?;
        let options = client_options(arguments, destination, user)?;
        let vault = Some(vault_keys(arguments, &folder, &Shutdown::new())?);
        Ok(Setup { info, options: Some(options), state: Some(state), vault, local })
    }

    /// The client; once.
    pub fn client<'a>(&mut self, output: &'a Output, shutdown: &Shutdown) -> Result<Client<'a>, CliError> {
        let options = self.options.take().expect("a run opens its client once");
        let state = self.state.take().expect("a run opens its client once");
        let mut client = Client::open(options, state, output, shutdown.clone())?;
        let keys = self.vault.take().map(|keys| VaultKeys { shutdown: shutdown.clone(), ..keys });
        client.vault = keys.map(|keys| Arc::new(VaultAccess::new(keys)));
        Ok(client)
    }

    /// The same for a legacy server.
    pub fn legacy_client<'a>(
        &mut self,
        settings: LegacySettings,
        output: &'a Output,
        shutdown: &Shutdown,
    ) -> Result<LegacyClient<'a>, CliError> {
        let options = self.options.take().expect("a run opens its client once");
        let state = self.state.take().expect("a run opens its client once");
        Ok(LegacyClient::open(options, settings, state, output, shutdown.clone())?)
    }

    /// The data folder of the server inside the process.
    pub fn local_data(&self) -> Option<&Path> {
        self.local.as_ref().map(|local| local.data.as_path())
    }

    /// The state folder, until the client has taken it.
    pub fn state_path(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.path().to_path_buf())
    }
}

/// What `gui` needs of a run: it opens state folders by itself, one for each server.
pub struct GuiSetup {
    pub info: Option<TransferInfo>,
    pub folder: PathBuf,
    pub options: ClientOptions,
    local: Option<LocalServer>,
}

impl GuiSetup {
    pub fn new(arguments: &Arguments, output: &Output) -> Result<GuiSetup, CliError> {
        let info = transfer_info(arguments)?;
        let folder = state_path(arguments, info.as_ref())?;
        let user = match named_user(arguments, info.as_ref())? {
            Some(user) => user,
            None => usual_user(&StateFolder::look(&folder))?,
        };
        let (destination, local) = destination(arguments, info.as_ref(), output)?;
        let options = client_options(arguments, destination, user)?;
        Ok(GuiSetup { info, folder, options, local })
    }

    /// Data folder and key of the server inside the process.
    pub fn local_server(&self) -> Option<(&Path, Fingerprint)> {
        let local = self.local.as_ref()?;
        Some((&local.data, local.server.as_ref()?.fingerprint()))
    }
}

/// Where the state folder is.
pub fn state_path(arguments: &Arguments, info: Option<&TransferInfo>) -> Result<PathBuf, CliError> {
    let file = info.map(|info| info.file.clone());
    let places = StatePlaces::from_environment(arguments.path("state"), file);
    Ok(places.resolve().map_err(ClientError::from)?)
}

/// The `transfer.info` in use.
pub fn transfer_info(arguments: &Arguments) -> Result<Option<TransferInfo>, CliError> {
    match arguments.path("config") {
        Some(file) => Ok(Some(TransferInfo::open(&file).map_err(ClientError::from)?)),
        None if Path::new(TRANSFER_INFO).exists() => {
            let file = std::env::current_dir().map_or_else(|_| TRANSFER_INFO.into(), |dir| dir.join(TRANSFER_INFO));
            Ok(Some(TransferInfo::open(&file).map_err(ClientError::from)?))
        }
        None => Ok(None),
    }
}

/// The name that a flag, the environment or the file gives.
fn named_user(arguments: &Arguments, info: Option<&TransferInfo>) -> Result<Option<UserName>, CliError> {
    Ok(arguments.parsed("user")?.or_else(|| info.map(|info| info.user.clone())))
}

/// The name that the state folder belongs to; in a new one, who runs this and where.
fn usual_user(state: &StateFolder) -> Result<UserName, CliError> {
    if let Some(identity) = state.read_identity().map_err(ClientError::from)? {
        return Ok(identity.user);
    }
    if let Some(user) = legacy_user(state) {
        return Ok(user);
    }
    let login = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or("user".into());
    let name = format!("{login}@{}", host_name());
    name.parse().map_err(|error| {
        UsageError(format!("{name:?} cannot be a user name ({error}): give one with --user")).into()
    })
}

/// This host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn destination(
    arguments: &Arguments,
    info: Option<&TransferInfo>,
    output: &Output,
) -> Result<(Destination, Option<LocalServer>), CliError> {
    if arguments.is_on("local-server") {
        if arguments.value("server").is_some() {
            return Err(UsageError("--server and --local-server exclude each other: leave one out".into()).into());
        }
        let local = start_local(arguments)?;
        let address = local.server.as_ref().expect("it was just started").address();
        output.detail(&format!("local server: {address}, data in {}", local.data.display()));
        let address = address.to_string().parse().expect("a socket address is HOST:PORT");
        return Ok((Destination::Local(address), Some(local)));
    }
    if arguments.is_on("encrypt-at-rest") {
        let text = "--encrypt-at-rest is the server's affair: here it belongs to --local-server";
        return Err(UsageError(text.into()).into());
    }
    let address: Option<ServerAddress> = arguments.parsed("server")?;
    match address.or_else(|| info.map(|info| info.server.clone())) {
        Some(address) => {
            output.detail(&format!("server: {address}"));
            Ok((Destination::Remote(address), None))
        }
        None => Err(UsageError(
            "no server is named: give one with --server HOST:PORT, write a transfer.info, or add --local-server"
                .into(),
        )
        .into()),
    }
}

fn start_local(arguments: &Arguments) -> Result<LocalServer, CliError> {
    let data = arguments.path("data").unwrap_or_else(|| PathBuf::from(DATA_FOLDER));
    let storage_keys = storage_key::for_server(arguments, &data)?;
    let mut config = ServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, data.clone());
    config.storage_keys = storage_keys;
    config.legacy = false;
    config.low_memory = arguments.is_on("low-memory");
    config.rsa_bits = rsa_bits(arguments, config.rsa_bits)?;
    let shutdown = Shutdown::new();
    let server = Server::start(config, shutdown.clone())?;
    Ok(LocalServer { server: Some(server), shutdown, data })
}

/// `--rsa-bits`, checked.
pub fn rsa_bits(arguments: &Arguments, default: usize) -> Result<usize, UsageError> {
    let bits = arguments.number("rsa-bits", 1_024, 4_096)?.map_or(default, |bits| bits as usize);
    match bits.is_multiple_of(8) {
        true => Ok(bits),
        false => Err(UsageError(format!("--rsa-bits {bits}: the size must be a multiple of 8"))),
    }
}

/// `--timeout` or another number of seconds.
pub fn seconds(arguments: &Arguments, name: &'static str, default: Duration) -> Result<Duration, UsageError> {
    Ok(arguments.number(name, 0, 86_400)?.map_or(default, Duration::from_secs))
}

fn client_options(
    arguments: &Arguments,
    destination: Destination,
    user: UserName,
) -> Result<ClientOptions, UsageError> {
    let default = RetryPolicy::default();
    let retries = arguments.number("retries", 0, 1_000_000)?;
    let window =
        arguments.number("window", (*WINDOW_BYTES_RANGE.start()).into(), (*WINDOW_BYTES_RANGE.end()).into())?;
    Ok(ClientOptions {
        destination,
        user,
        fingerprint: arguments.parsed("server-fingerprint")?,
        token: match arguments.text("enroll-token")? {
            // The text is a secret: an error must not repeat it.
            Some(text) => Some(text.parse().map_err(|error| UsageError(format!("--enroll-token: {error}")))?),
            None => None,
        },
        retry: RetryPolicy {
            retries: retries.map_or(default.retries, |retries| u32::try_from(retries).unwrap_or(u32::MAX)),
            wait_max: arguments.number("retry-max-wait", 1, 300)?.map_or(default.wait_max, Duration::from_secs),
        },
        timeout: arguments
            .number("timeout", 1, 86_400)?
            .map_or(crate::base::limits::DEFAULT_SOCKET_TIMEOUT, Duration::from_secs),
        window: match window {
            Some(bytes) => Window::Fixed(u32::try_from(bytes).expect("bounded above")),
            None if arguments.is_on("low-memory") => Window::Fixed(LOW_MEMORY_WINDOW_BYTES),
            None => Window::Fitting,
        },
        rsa_bits: rsa_bits(arguments, crate::server::DEFAULT_RSA_BITS)?,
    })
}

/// The snapshot and the paths that a command is about.
pub fn selection(arguments: &Arguments, default_snapshot: &str) -> Result<Selection, CliError> {
    let (snapshot, root) = (arguments.text("snapshot")?, arguments.value("root"));
    selection_of(snapshot, root, default_snapshot, &arguments.positional)
}

/// What `snapshot` selects; where it is not said, with a root the newest, else what `default_snapshot` does.
pub fn selection_of(
    snapshot: Option<String>,
    root: Option<&OsStr>,
    default_snapshot: &str,
    paths: &[OsString],
) -> Result<Selection, CliError> {
    let root = root.map(entry_path).transpose()?;
    let snapshot = match (snapshot, &root) {
        (Some(snapshot), _) => snapshot,
        (None, Some(_)) => "latest".to_string(),
        (None, None) => default_snapshot.to_string(),
    };
    let paths: Result<Vec<EntryPath>, UsageError> = paths.iter().map(|path| entry_path(path)).collect();
    let selection = Selection { snapshot, root, paths: paths? };
    check_selection(&selection)?;
    Ok(selection)
}

/// A path of a snapshot as a person writes it: a `/` before and after it does not matter.
fn entry_path(text: &OsStr) -> Result<EntryPath, UsageError> {
    let bytes = text.as_bytes();
    let from = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    let to = bytes.iter().rposition(|byte| *byte != b'/').map_or(from, |last| last + 1);
    EntryPath::parse(&bytes[from..to.max(from)]).map_err(|error| {
        UsageError(format!("{}: {error}: give paths as \"cyberbackup ls\" prints them", text.display()))
    })
}
