//! `snapshots`, `ls`, `cat`, `verify` and `stats`: looking without changing anything.

use std::io::IsTerminal;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::arguments::{Arguments, UsageError};
use super::output::{Output, bytes_text, count_text, read_text, sealed_text};
use super::setup::{Access, CliError, Setup, selection};
use crate::base::path::display_bytes;
use crate::base::progress::{Event, ProgressSink, Totals};
use crate::base::shutdown::Shutdown;
use crate::client::json::{entry_json, sealed_snapshot_json, size, snapshot_json};
use crate::client::vault::{Compared, Known, LATEST, Telling};
use crate::client::{ClientError, Damage, ExitCode, ListSummary, Listed, Session, VerifySummary};
use crate::protocol::message::SnapshotRow;

/// Opens a session for a command that only looks.
pub fn session(
    arguments: &Arguments,
    output: &Output,
    shutdown: &Shutdown,
    purpose: &str,
) -> Result<(Session, Setup), CliError> {
    let mut setup = Setup::new(arguments, purpose, Access::Reading, output)?;
    let session = setup.client(output, shutdown)?.connect()?;
    Ok((session, setup))
}

/// An answer that has ended is whole: how the connection ends after it does not matter.
pub fn close(session: Session) {
    let _ = session.close();
}

fn no_paths(arguments: &Arguments, command: &str) -> Result<(), UsageError> {
    match arguments.positional.first() {
        None => Ok(()),
        Some(extra) => Err(UsageError(format!("{}: \"{command}\" takes no paths", extra.display()))),
    }
}

pub fn snapshots(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    no_paths(arguments, "snapshots")?;
    let (mut session, _setup) = session(arguments, output, shutdown, "snapshots")?;
    // Nobody is asked for a passphrase who has not named a key: cron prints this list too.
    let may_be_others = session.may_have_vault_key() && !session.has_vault_key();
    let summary = match session.has_vault_key() {
        true => snapshots_with_vault(&mut session, output)?,
        false => own_snapshots(&mut session, output)?,
    };
    close(session);
    if summary == ListSummary::default() {
        output.say(match may_be_others {
            true => {
                "there is no snapshot of this host yet: with --vault-key those of others in the vault are listed"
            }
            false => "there is no snapshot yet: \"cyberbackup backup\" makes one",
        });
    }
    Ok(list_code(summary))
}

/// This client's snapshots, as the server lists them.
fn own_snapshots(session: &mut Session, output: &Output) -> Result<ListSummary, ClientError> {
    let mut sealed = 0;
    let row = |row: &SnapshotRow| {
        sealed += u64::from(row.vault.is_some());
        put_row(output, row, Head::Sealed)
    };
    let summary = session.snapshots(row, |damage| output.damage(damage))?;
    if sealed > 0 {
        output.say(&format!(
            "{} in a vault: \"cyberbackup snapshots --vault-key FILE\" shows what is in it, and other hosts' snapshots too",
            count_text(sealed, "snapshot"),
        ));
    }
    Ok(summary)
}

/// This client's snapshots, and those that other hosts have stored into the key's vault; the heads in it opened.
fn snapshots_with_vault(session: &mut Session, output: &Output) -> Result<ListSummary, ClientError> {
    let key = session.vault_key(None)?;
    let vault = key.put().vault();
    let (mut summary, known) = session.known_snapshots(Some(key.clone()), |damage| output.damage(damage))?;
    for Known { id, own, .. } in known {
        let of_host = if own.is_some() { Head::Own } else { Head::Others };
        match own {
            Some(row) if row.vault != Some(vault) => put_row(output, &row, Head::Sealed)?,
            own => match session.vault_row(id, key.clone()) {
                Ok(row) => put_row(output, &row, of_host)?,
                Err(ClientError::Integrity(text)) => {
                    summary.damaged += 1;
                    output.damage_text(&text);
                    if let Some(row) = own {
                        put_row(output, &row, Head::Sealed)?;
                    }
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(summary)
}

/// What is known of the head of a snapshot in a vault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    Sealed,
    /// It is open, and this client has stored it.
    Own,
    /// It is open, and another host has.
    Others,
}

/// Prints a row; what it says of a vault's snapshot is in its head.
fn put_row(output: &Output, row: &SnapshotRow, head: Head) -> Result<(), ClientError> {
    let is_sealed = row.vault.is_some() && head == Head::Sealed;
    let mut data = if is_sealed { sealed_snapshot_json(row) } else { snapshot_json(row) };
    data["own"] = json!(head != Head::Others);
    let text = if is_sealed { closed_text(row) } else { snapshot_text(row, head) };
    output.result("snapshot", data, &text)
}

fn closed_text(row: &SnapshotRow) -> String {
    format!("{}  {:>9} files  {:>12}  {:>12} new  vault", row.id, "-", "-", "-")
}

/// Tells what does not fit the chain of this host, once a vault's snapshot was opened. The code that the command ends with,
/// which went well else: what was wanted as the latest may not be.
pub fn tell_chain(compared: &Compared, snapshot: &str, code: ExitCode, output: &Output) -> ExitCode {
    for finding in &compared.findings {
        output.event(Event::Warning { message: &finding.to_string() });
    }
    let is_doubtful = snapshot == LATEST && compared.is_newest_doubtful;
    if is_doubtful { ExitCode::Integrity } else { code }
}

/// What was listed is true; where something could not be listed, that counts.
fn list_code(summary: ListSummary) -> ExitCode {
    if summary.damaged > 0 { ExitCode::Integrity } else { ExitCode::Done }
}

fn roots_text(row: &SnapshotRow) -> String {
    let roots: Vec<String> = row.roots.iter().map(|root| format!("/{}", root.display())).collect();
    if roots.is_empty() { "/".to_string() } else { roots.join(" ") }
}

fn snapshot_text(row: &SnapshotRow, head: Head) -> String {
    let tags = match row.tags.is_empty() {
        true => String::new(),
        false => format!("  [{}]", display_bytes(row.tags.join(", ").as_bytes())),
    };
    let label = match row.label.is_empty() {
        true => String::new(),
        false => format!("  \"{}\"", display_bytes(row.label.as_bytes())),
    };
    let place = match (row.vault, head) {
        (None, _) => String::new(),
        (Some(_), Head::Others) => format!("  (vault, of {})", display_bytes(row.host.as_bytes())),
        (Some(_), _) => "  (vault)".to_string(),
    };
    format!(
        "{}  {:>9} files  {:>12}  {:>12} new  {}{label}{tags}{place}",
        row.id,
        row.files,
        bytes_text(row.bytes),
        bytes_text(row.new_bytes),
        roots_text(row),
    )
}

pub fn ls(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let selection = selection(arguments, "latest")?;
    let style = ListStyle::of(arguments);
    let (mut session, _setup) = session(arguments, output, shutdown, "ls")?;
    let wanted = selection.snapshot.clone();
    let row = |listed: &Listed| match output.is_json() {
        true => output.result("entry", entry_json(listed), ""),
        false => output.raw(&style.line(listed)),
    };
    let listed = session.entries(selection, |_| Ok(()), row, |damage| output.damage(damage));
    let code = tell_chain(&session.compared_with_chain(), &wanted, ExitCode::Done, output);
    let summary = listed?;
    close(session);
    Ok(if summary.damaged > 0 { list_code(summary) } else { code })
}

/// How entries are printed.
pub struct ListStyle {
    long: bool,
    escape: bool,
    null: bool,
}

impl ListStyle {
    pub fn of(arguments: &Arguments) -> ListStyle {
        let null = arguments.is_on("null");
        ListStyle { long: arguments.is_on("long"), escape: std::io::stdout().is_terminal() && !null, null }
    }

    /// The line of an entry, with its end.
    pub fn line(&self, listed: &Listed) -> Vec<u8> {
        let mut line = Vec::new();
        if self.long {
            line.extend_from_slice(details(listed).as_bytes());
        }
        match self.escape {
            true => line.extend_from_slice(listed.entry.path.display().as_bytes()),
            false => line.extend_from_slice(listed.entry.path.as_bytes()),
        }
        if self.long && !listed.entry.link_target.is_empty() {
            line.extend_from_slice(format!(" -> {}", display_bytes(&listed.entry.link_target)).as_bytes());
        }
        line.push(if self.null { 0 } else { b'\n' });
        line
    }
}

fn details(listed: &Listed) -> String {
    let entry = &listed.entry;
    let kind = match entry.kind.word() {
        "folder" => 'd',
        "link" => 'l',
        _ => '-',
    };
    let owner = match entry.owner_name.is_empty() {
        true => entry.owner.to_string(),
        false => display_bytes(&entry.owner_name),
    };
    format!("{kind} {:04o} {owner:>8} {:>12} {} ", entry.mode, size(listed), entry.mtime)
}

pub fn cat(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let selection = selection(arguments, "latest")?;
    if selection.paths.len() != 1 {
        return Err(UsageError("\"cat\" prints one file: give exactly one path".into()).into());
    }
    let from = arguments.number("offset", 0, u64::MAX)?.unwrap_or(0);
    let length = arguments.number("length", 0, u64::MAX)?.unwrap_or(u64::MAX);
    let (mut session, _setup) = session(arguments, output, shutdown, "cat")?;
    let (mut offset, wanted) = (from, selection.snapshot.clone());
    let read = session.read_file(selection, (from, length), |bytes| {
        let data = json!({ "offset": offset, "base64": STANDARD.encode(bytes) });
        offset += bytes.len() as u64;
        if output.is_json() { output.result("content", data, "") } else { output.raw(bytes) }
    });
    let code = tell_chain(&session.compared_with_chain(), &wanted, ExitCode::Done, output);
    read?;
    close(session);
    Ok(code)
}

pub fn verify(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    // An empty selector is everything that the client has; with paths, the newest snapshot is meant.
    let default = if arguments.positional.is_empty() { "" } else { "latest" };
    if let Some(flag) = ["client", "sample"].into_iter().find(|flag| arguments.value(flag).is_some()) {
        let text = format!("--{flag} is the operator's: name the server's data folder with --data");
        return Err(UsageError(text).into());
    }
    let selection = selection(arguments, default)?;
    let read_data = arguments.is_on("read-data");
    let (mut session, _setup) = session(arguments, output, shutdown, "verify")?;
    let (selection, is_plain) = session.verified_as(selection)?;
    let progress = |files, bytes| {
        let totals = Totals { files_done: files, bytes_done: bytes, ..Totals::default() };
        output.event(Event::Progress { totals, current_file: &[] });
    };
    let is_opened = !is_plain && (read_data || session.has_vault_key());
    // What another host has stored the server does not look for here: it is opened or not found.
    let may_be_others = is_opened && session.may_have_vault_key() && !selection.snapshot.is_empty();
    let mut summary = match may_be_others && !session.is_own(&selection.snapshot)? {
        true => VerifySummary::default(),
        false => session.verify(selection.clone(), progress, |damage| output.damage_event(damage))?,
    };
    let (mut opened, mut snapshots_dropped, mut is_doubtful) = (None, 0, false);
    // With the key the whole chain is compared, below.
    if !is_opened
        && selection.snapshot.is_empty()
        && let Some(finding) = session.newest_in_vault_is_shown()?
    {
        is_doubtful = true;
        output.event(Event::Warning { message: &finding.to_string() });
    }
    if is_opened {
        let mut damage = |damage: &Damage| output.damage_event(damage);
        let mut warning = |message: &str| output.event(Event::Warning { message });
        let telling = Telling { progress: &mut { progress }, damage: &mut damage, warning: &mut warning };
        let found = session.verify_vaults(&selection, read_data, telling)?;
        opened = Some((found.files, found.bytes));
        snapshots_dropped = found.snapshots_dropped;
        summary.not_looked_into = found.not_looked_into;
        is_doubtful = found.is_chain_unread;
        summary.add_damage(found);
    }
    close(session);
    output.end_progress();
    if snapshots_dropped > 0 {
        let what = count_text(snapshots_dropped, "snapshot");
        output.say(&format!("the server says that it dropped {what} of this host from the vault"));
    }
    let count = summary.damaged.len() as u64 + summary.more_damaged;
    let code = match (count, summary.not_looked_into > 0 || is_doubtful) {
        (1.., _) => ExitCode::Integrity,
        (0, true) => ExitCode::Partial,
        (0, false) => ExitCode::Done,
    };
    let verdict = match count {
        0 => "all are whole".to_string(),
        count => {
            format!(
                "{count} damaged, named above: \"cyberbackup backup\" stores again what is still there, and brings back \
                 no snapshot that is gone"
            )
        }
    };
    let here = match opened {
        Some((files, bytes)) => {
            format!("; of vaults {}, {} opened here", count_text(files, "file"), bytes_text(bytes))
        }
        None => String::new(),
    };
    let (read, bytes) = (read_text(summary.files, summary.sealed_objects), bytes_text(summary.bytes));
    let inside = match opened {
        Some(_) => String::new(),
        None => sealed_text(summary.sealed_snapshots, "with --vault-key or --read-data they are opened here"),
    };
    let closed = match summary.not_looked_into {
        0 => String::new(),
        count => format!("; {} of other vaults not looked into, named above", count_text(count, "snapshot")),
    };
    let text = format!("{read}, {bytes} read back{here}: {verdict}{closed}{inside}");
    let data = json!({
        "files": summary.files,
        "bytes": summary.bytes,
        "sealed_snapshots": summary.sealed_snapshots,
        "sealed_objects": summary.sealed_objects,
        "opened_files": opened.map(|(files, _)| files),
        "opened_bytes": opened.map(|(_, bytes)| bytes),
        "damaged": count,
        "snapshots_dropped": opened.map(|_| snapshots_dropped),
        "not_looked_into": opened.map(|_| summary.not_looked_into),
        "exit_code": code as i32,
    });
    Ok(output.verdict(data, &text, code)?)
}

pub fn stats(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    no_paths(arguments, "stats")?;
    let (mut session, _setup) = session(arguments, output, shutdown, "stats")?;
    let text = session.statistics()?;
    close(session);
    let data: Value = serde_json::from_str(&text)
        .map_err(|error| ClientError::Io { doing: "read the server's statistics".into(), source: error.into() })?;
    let lines: Vec<String> = match &data {
        Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name:<22} {value}")).collect(),
        other => vec![other.to_string()],
    };
    output.result("stats", data, &lines.join("\n"))?;
    Ok(ExitCode::Done)
}
