//! `find`: where in the snapshots a name is.

use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde_json::json;

use super::arguments::{Arguments, UsageError};
use super::look::{ListStyle, close, session, tell_chain};
use super::output::Output;
use super::setup::{CliError, selection_of};
use crate::base::amount::{Size, Span};
use crate::base::entry::EntryKind;
use crate::base::ids::SnapshotId;
use crate::base::pattern::Pattern;
use crate::base::shutdown::Shutdown;
use crate::base::time::{MomentError, Timestamp};
use crate::base::vault::VaultId;
use crate::client::json::{entry_json, size};
use crate::client::vault::{Known, LATEST};
use crate::client::{ClientError, Damage, ExitCode, Listed, Session};
use crate::protocol::message::{FailureCode, SnapshotRow};

/// The selector of all of this client's snapshots.
const ALL: &str = "all";

pub fn find(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let wanted = Wanted::of(arguments)?;
    let selection = selection_of(arguments.text("snapshot")?, arguments.value("root"), ALL, &[])?;
    let (mut session, _setup) = session(arguments, output, shutdown, "find")?;
    let mut finding = Finding { wanted, style: ListStyle::of(arguments), output, found: 0, damaged: 0, closed: 0 };
    // All of them are not there where the newest is gone.
    let meant = if selection.snapshot == ALL { LATEST.to_string() } else { selection.snapshot.clone() };
    let looked = if selection.snapshot == ALL {
        finding.look_into_all(&mut session)
    } else {
        let snapshot = OnceLock::new();
        let head = |row: &SnapshotRow| {
            let _ = snapshot.set(row.id);
            Ok(())
        };
        let row = |listed: &Listed| match snapshot.get() {
            Some(id) => finding.take(*id, listed),
            None => Ok(()),
        };
        let listed = session.entries(selection, head, row, |damage| output.damage(damage));
        listed.map(|listed| finding.damaged += listed.damaged)
    };
    let code = tell_chain(&session.compared_with_chain(), &meant, finding.code(), output);
    looked?;
    close(session);
    Ok(code)
}

/// A time as it is given: a moment, or how long ago.
struct Moment(Timestamp);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        if let Ok(Span(ago)) = text.parse() {
            let now = Timestamp::now();
            return Ok(Moment(Timestamp { seconds: now.seconds - ago.as_secs() as i64, ..now }));
        }
        text.parse().map(Moment).map_err(|error: MomentError| format!("{error}, or how long ago, as in 36h or 3d"))
    }
}

/// What an entry has to be.
struct Wanted {
    patterns: Vec<Pattern>,
    kind: Option<EntryKind>,
    newer: Option<Timestamp>,
    older: Option<Timestamp>,
    larger: Option<u64>,
    smaller: Option<u64>,
}

impl Wanted {
    fn of(arguments: &Arguments) -> Result<Wanted, UsageError> {
        let ignore_case = arguments.is_on("ignore-case");
        let pattern = |text: &std::ffi::OsString| {
            let parsed = Pattern::parse(text.as_bytes(), ignore_case);
            parsed.map_err(|error| UsageError(format!("{:?}: {error}", text.display().to_string())))
        };
        let patterns: Vec<Pattern> = arguments.positional.iter().map(pattern).collect::<Result<_, _>>()?;
        if patterns.is_empty() {
            let text = "what to find is not said: give a pattern, quoted, as in cyberbackup find '*.jpg'";
            return Err(UsageError(text.into()));
        }
        let kind = match arguments.text("type")?.as_deref() {
            None => None,
            Some("f" | "file") => Some(EntryKind::File),
            Some("d" | "folder") => Some(EntryKind::Folder),
            Some("l" | "link") => Some(EntryKind::Link),
            Some(other) => return Err(UsageError(format!("--type {other:?}: the types are f, d and l"))),
        };
        let moment = |name| Ok(arguments.parsed::<Moment>(name)?.map(|Moment(moment)| moment));
        let bytes = |name| Ok(arguments.parsed::<Size>(name)?.map(|Size(bytes)| bytes));
        Ok(Wanted {
            patterns,
            kind,
            newer: moment("newer")?,
            older: moment("older")?,
            larger: bytes("larger")?,
            smaller: bytes("smaller")?,
        })
    }

    fn is_met_by(&self, listed: &Listed) -> bool {
        let entry = &listed.entry;
        let has_size = entry.kind == EntryKind::File;
        self.kind.is_none_or(|kind| kind == entry.kind)
            && self.newer.is_none_or(|moment| entry.mtime > moment)
            && self.older.is_none_or(|moment| entry.mtime < moment)
            && self.larger.is_none_or(|bytes| has_size && size(listed) > bytes)
            && self.smaller.is_none_or(|bytes| has_size && size(listed) < bytes)
            && self.patterns.iter().any(|pattern| pattern.matches(&entry.path))
    }
}

/// What has been found so far.
struct Finding<'a> {
    wanted: Wanted,
    style: ListStyle,
    output: &'a Output,
    found: u64,
    /// Lists, or parts of them, that could not be read.
    damaged: u64,
    /// Snapshots in vaults whose key is not here.
    closed: u64,
}

impl Finding<'_> {
    /// All of this client's snapshots, and those of others in the vault whose key was given, the newest first.
    fn look_into_all(&mut self, session: &mut Session) -> Result<(), ClientError> {
        let output = self.output;
        let key = session.has_vault_key().then(|| session.vault_key(None)).transpose()?;
        let (listed, snapshots) = session.known_snapshots(key, |damage| output.damage(damage))?;
        self.damaged += listed.damaged;
        if snapshots.is_empty() && listed.damaged == 0 {
            output.say(&nothing_yet(session));
        }
        // Of each vault it is asked once whether its key is here.
        let mut asked: Option<(VaultId, Option<String>)> = None;
        for Known { id, vault, own, .. } in snapshots.into_iter().rev() {
            if let Some(vault) = vault {
                if asked.as_ref().is_none_or(|(known, _)| *known != vault) {
                    asked = Some((vault, lacking(session, vault)?));
                }
                if let Some((_, Some(text))) = &asked {
                    let text = format!("not looked into: {text}");
                    output.damage(&Damage { snapshot: id, path: None, text });
                    self.closed += 1;
                    continue;
                }
            }
            self.look_into(session, id, own.is_some())?;
        }
        Ok(())
    }

    fn look_into(&mut self, session: &mut Session, id: SnapshotId, is_own: bool) -> Result<(), ClientError> {
        let output = self.output;
        match session.entries_of((id, is_own), |listed| self.take(id, listed), |damage| output.damage(damage)) {
            Ok(listed) => self.damaged += listed.damaged,
            // The others may be whole.
            Err(ClientError::Integrity(text) | ClientError::Failure { code: FailureCode::Damaged, text }) => {
                output.damage(&Damage { snapshot: id, path: None, text });
                self.damaged += 1;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, snapshot: SnapshotId, listed: &Listed) -> Result<(), ClientError> {
        if !self.wanted.is_met_by(listed) {
            return Ok(());
        }
        self.found += 1;
        if self.output.is_json() {
            let mut data = entry_json(listed);
            data["snapshot"] = json!(snapshot);
            return self.output.result("entry", data, "");
        }
        let mut line = format!("{snapshot}  {}  {:>12}  ", listed.entry.mtime, size(listed)).into_bytes();
        line.extend(self.style.line(listed));
        self.output.raw(&line)
    }

    /// What has been seen counts, and more what could not be looked into.
    fn code(&self) -> ExitCode {
        match (self.damaged, self.closed, self.found) {
            (1.., _, _) => ExitCode::Integrity,
            (0, 1.., _) => ExitCode::Partial,
            (0, 0, 1..) => ExitCode::Done,
            (0, 0, 0) => ExitCode::Failed,
        }
    }
}

/// What is said where there is nothing to look into.
fn nothing_yet(session: &Session) -> String {
    match session.may_have_vault_key() && !session.has_vault_key() {
        true => {
            "there is no snapshot of this client yet: with --vault-key FILE others' in the vault are looked into"
                .into()
        }
        false => "there is no snapshot yet: \"cyberbackup backup\" makes one".into(),
    }
}

/// Why what is in a vault cannot be opened; nothing where it can.
fn lacking(session: &Session, vault: VaultId) -> Result<Option<String>, ClientError> {
    match session.vault_key(Some(vault)) {
        Ok(_) => Ok(None),
        Err(error) if error.lacks_vault_key() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}
