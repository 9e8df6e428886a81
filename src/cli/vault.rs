//! `vault`: the keys of a vault, on this host alone; and what every command knows of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::setup::{CliError, state_path, transfer_info};
use crate::base::hook::Hook;
use crate::base::shutdown::Shutdown;
use crate::client::state::StateFolder;
use crate::client::vault::key_file::export_put_key;
use crate::client::vault::{PassphraseSource, VaultKeys, calibrate, create_vault};
use crate::client::{ClientError, ExitCode};

/// The flags and the variable that say a passphrase.
struct PassphraseFlags {
    file: &'static str,
    command: &'static str,
    variable: &'static str,
}

const PRESENT: PassphraseFlags =
    PassphraseFlags { file: "passphrase-file", command: "passphrase-command", variable: "CYBERBACKUP_PASSPHRASE" };
const NEW: PassphraseFlags = PassphraseFlags {
    file: "new-passphrase-file",
    command: "new-passphrase-command",
    variable: "CYBERBACKUP_NEW_PASSPHRASE",
};

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let words: Vec<&OsStr> = arguments.positional.iter().map(|word| word.as_os_str()).collect();
    let folder = state_path(arguments, transfer_info(arguments)?.as_ref())?;
    let keys = vault_keys(arguments, &folder, shutdown)?;
    match words[..] {
        [word] if word == "create" => create(arguments, &keys, output),
        [word] if word == "passphrase" => change_passphrase(arguments, &keys, output),
        [word, file] if word == "export-put-key" => export(&keys, Path::new(file), output),
        _ => {
            let text = "\"vault\" makes keys: vault create, vault passphrase, or vault export-put-key FILE";
            Err(UsageError(text.into()).into())
        }
    }
}

/// Where a run finds the keys of a vault, should it need them.
pub fn vault_keys(arguments: &Arguments, state: &Path, shutdown: &Shutdown) -> Result<VaultKeys, UsageError> {
    Ok(VaultKeys {
        file: arguments.path("vault-key"),
        state: state.to_path_buf(),
        passphrase: passphrase(arguments, &PRESENT)?,
        shutdown: shutdown.clone(),
    })
}

/// A flag comes before the environment, and that before a person.
fn passphrase(arguments: &Arguments, flags: &PassphraseFlags) -> Result<PassphraseSource, UsageError> {
    let command: Option<Hook> = arguments.parsed(flags.command)?;
    let file: Option<PathBuf> = arguments.path(flags.file);
    Ok(match (file, command, std::env::var_os(flags.variable)) {
        (Some(_), Some(_), _) => {
            let text = format!("--{} and --{} exclude each other: leave one out", flags.file, flags.command);
            return Err(UsageError(text));
        }
        (Some(file), None, _) => PassphraseSource::File(file),
        (None, Some(command), _) => PassphraseSource::Command(command),
        (None, None, Some(text)) => PassphraseSource::Given(Zeroizing::new(text.into_vec())),
        (None, None, None) => PassphraseSource::Terminal,
    })
}

fn create(arguments: &Arguments, keys: &VaultKeys, output: &Output) -> Result<ExitCode, CliError> {
    // Held until the end, so that no other run makes another vault here.
    let _state = StateFolder::open(&keys.state, "vault create").map_err(ClientError::from)?;
    let made = create_vault(keys, arguments.is_on("low-memory"))?;
    let data = json!({
        "vault": made.vault,
        "key_file": made.full_key,
        "put_key_file": made.put_key,
        "memory_kib": made.cost.kib,
        "passes": made.cost.passes,
    });
    let text = format!(
        "made the vault {}\nthe full key, under the passphrase:  {}\nthe half that writes, in clear:      {}\n\
         Keep a copy of the full key in another place, and the passphrase: without both, what is stored in the vault is\n\
         gone for good. Back up into it with \"cyberbackup backup --vault\".",
        made.vault,
        made.full_key.display(),
        made.put_key.display()
    );
    output.result("vault_created", data, &text)?;
    Ok(ExitCode::Done)
}

fn change_passphrase(arguments: &Arguments, keys: &VaultKeys, output: &Output) -> Result<ExitCode, CliError> {
    let cost = calibrate(arguments.is_on("low-memory"));
    let file = keys.full_key_path().display().to_string();
    let cost = cost.map_err(|error| ClientError::VaultKey { file: file.clone(), source: error.into() })?;
    let vault = keys.change_passphrase(&passphrase(arguments, &NEW)?, cost)?;
    let data = json!({ "vault": vault, "key_file": file, "memory_kib": cost.kib, "passes": cost.passes });
    let text = format!("{file} opens with the new passphrase only; copies of it open with the old one as before");
    output.result("vault_passphrase_changed", data, &text)?;
    Ok(ExitCode::Done)
}

fn export(keys: &VaultKeys, file: &Path, output: &Output) -> Result<ExitCode, CliError> {
    let vault = export_put_key(keys, file)?;
    let text = format!(
        "{} lets a host write to the vault {vault} (--vault-key {0}): it cannot read, and can test guesses and plant \
         chunks",
        file.display()
    );
    output.result("vault_put_key_exported", json!({ "vault": vault, "put_key_file": file }), &text)?;
    Ok(ExitCode::Done)
}
