//! `rotate-key`: a new key for this client.

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::output::Output;
use super::setup::{Access, CliError, Setup};
use crate::base::shutdown::Shutdown;
use crate::client::{ExitCode, rotate_key};

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    if let Some(extra) = arguments.positional.first() {
        return Err(UsageError(format!("{}: \"rotate-key\" takes no paths", extra.display())).into());
    }
    let mut setup = Setup::new(arguments, "rotate-key", Access::Exclusive, output)?;
    let rotation = rotate_key(&mut setup.client(output, shutdown)?)?;
    let data = json!({
        "old_fingerprint": rotation.old.to_string(),
        "fingerprint": rotation.new.to_string(),
        "bits": rotation.bits,
    });
    let text = format!("the key of this client is {} now ({} bits)", rotation.new, rotation.bits);
    output.result("key_rotated", data, &text)?;
    Ok(ExitCode::Done)
}
