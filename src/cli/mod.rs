//! The command line: arguments, output, exit codes, and one function for each command. It joins client and
//! server, which know nothing of each other.

mod arguments;
mod clients;
mod commands;
mod diff;
mod export;
mod find;
mod help;
mod logging;
mod look;
mod operator;
mod output;
mod prune;
mod rekey;
mod repair;
mod result_hooks;
mod rotate_key;
mod run_backup;
mod run_backup_legacy;
mod run_gui;
mod run_restore;
mod run_server;
mod server_key;
mod setup;
mod storage_key;
mod vault;
mod verify_data;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use log::LevelFilter;

use arguments::{Arguments, Command, UsageError};
use commands::{COMMANDS, HELP};
use output::Output;
use setup::CliError;

use crate::base::shutdown::Shutdown;
use crate::client::{ClientError, ExitCode};

/// The commands whose standard output has rows and nothing else.
const LISTINGS: [&str; 12] = [
    "snapshots",
    "ls",
    "cat",
    "find",
    "diff",
    "stats",
    "clients",
    "enroll",
    "prune",
    "hold",
    "release",
    "server-key",
];

/// Runs the program with these words (its own name left out) and gives the exit code.
pub fn run(words: Vec<OsString>) -> i32 {
    let Some((first, rest)) = words.split_first() else {
        eprint!("{}", help::overview());
        return ExitCode::Usage as i32;
    };
    match first.to_str() {
        Some("--version" | "-V") => print(&help::version()),
        Some("--help" | "-h") => print(&help::overview()),
        Some(HELP) => print_help(rest.first().map(OsString::as_os_str)),
        Some(name) => match command(name) {
            Some(command) => run_command(command, rest),
            None => unknown(name),
        },
        None => unknown(&first.to_string_lossy()),
    }
}

fn print(text: &str) -> i32 {
    // A reader that has seen enough is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::Done as i32
}

fn print_help(name: Option<&OsStr>) -> i32 {
    match name.map(|name| (name, name.to_str().and_then(command))) {
        None => print(&help::overview()),
        Some((name, None)) if name == HELP => print(&help::overview()),
        Some((_, Some(command))) => print(&help::of_command(command)),
        Some((name, None)) => unknown(&name.to_string_lossy()),
    }
}

fn command(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

fn unknown(name: &str) -> i32 {
    eprintln!("cyberbackup: there is no command {name:?}: \"cyberbackup help\" lists the commands");
    ExitCode::Usage as i32
}

fn run_command(command: &Command, words: &[OsString]) -> i32 {
    let arguments = match Arguments::parse(command, words.iter().cloned(), std::env::vars_os()) {
        Ok(arguments) if arguments.is_on("help") => return print(&help::of_command(command)),
        Ok(arguments) => arguments,
        Err(error) => {
            let json = words.iter().any(|word| word == "--json");
            Output::new(json, false, false).error(&error.to_string(), ExitCode::Usage);
            return ExitCode::Usage as i32;
        }
    };
    let output = Output::new(arguments.is_on("json"), arguments.is_on("quiet"), arguments.is_on("verbose"));
    let is_listing = LISTINGS.contains(&command.name) || export::is_to_stdout(command.name, &arguments);
    let output = if is_listing { output.for_listing() } else { output };
    let code = match dispatch(command, &arguments, &output) {
        Ok(code) => code,
        // Nobody reads on, as in `cyberbackup ls | head`.
        Err(CliError::Client(ClientError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            ExitCode::Done
        }
        Err(error) => {
            let code = error.exit_code();
            if let Some(message) = error.message() {
                output.error(&message, code);
            }
            code
        }
    };
    output.end_progress();
    code as i32
}

fn dispatch(command: &Command, arguments: &Arguments, output: &Output) -> Result<ExitCode, CliError> {
    // The page's log has a place of its own, which the command finds first.
    if command.name != "gui" {
        start_log(command, arguments)?;
    }
    let shutdown = Shutdown::new();
    watch_signals(&shutdown)?;
    match command.name {
        "server" => run_server::run(arguments, output, &shutdown),
        "backup" => run_backup::run(arguments, output, &shutdown),
        "restore" => run_restore::run(arguments, output, &shutdown),
        "snapshots" => look::snapshots(arguments, output, &shutdown),
        "ls" => look::ls(arguments, output, &shutdown),
        "cat" => look::cat(arguments, output, &shutdown),
        "find" => find::find(arguments, output, &shutdown),
        "diff" => diff::run(arguments, output, &shutdown),
        "verify" if verify_data::is_asked_for(arguments) => verify_data::run(arguments, output, &shutdown),
        "verify" => look::verify(arguments, output, &shutdown),
        "stats" => look::stats(arguments, output, &shutdown),
        "rotate-key" => rotate_key::run(arguments, output, &shutdown),
        "gui" => run_gui::run(arguments, output, &shutdown),
        "enroll" => operator::enroll(arguments, output),
        "rekey" => rekey::run(arguments, output, &shutdown),
        "prune" => prune::prune(arguments, output),
        "hold" => prune::hold(arguments, output, true),
        "release" => prune::hold(arguments, output, false),
        "export" => export::run(arguments, output, &shutdown),
        "server-key" => server_key::run(arguments, output),
        "vault" => vault::run(arguments, output, &shutdown),
        "clients" => clients::run(arguments, output),
        name => unreachable!("{name} is in the table of commands and has no function"),
    }
}

fn start_log(command: &Command, arguments: &Arguments) -> Result<(), UsageError> {
    let verbose = arguments.is_on("verbose");
    let level = match command.name {
        "server" if verbose => LevelFilter::Debug,
        "server" if arguments.is_on("quiet") => LevelFilter::Warn,
        "server" => LevelFilter::Info,
        _ if verbose => LevelFilter::Info,
        _ => LevelFilter::Error,
    };
    logging::start(level, arguments.path("log-file").as_slice(), None)
}

/// Turns SIGINT and SIGTERM into the wish to stop; the second one ends the process at once.
fn watch_signals(shutdown: &Shutdown) -> Result<(), CliError> {
    let failed = |source| ClientError::Io { doing: "watch for signals".into(), source };
    let (mut reader, writer) = UnixStream::pair().map_err(failed)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let end = writer.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, end).map_err(failed)?;
    }
    let shutdown = shutdown.clone();
    let watch = move || {
        let mut byte = [0];
        if reader.read_exact(&mut byte).is_ok() {
            shutdown.request();
        }
        if reader.read_exact(&mut byte).is_ok() {
            std::process::exit(ExitCode::Interrupted as i32);
        }
    };
    // It sleeps until a signal comes or the process ends: there is nothing to join it for.
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}
