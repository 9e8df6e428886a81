//! `diff`: what differs between two snapshots.

use serde_json::{Value, json};

use super::arguments::{Arguments, UsageError};
use super::look::{ListStyle, close, session, tell_chain};
use super::output::{Output, bytes_text, count_text};
use super::setup::{CliError, selection_of};
use crate::base::ids::SnapshotId;
use crate::base::shutdown::Shutdown;
use crate::client::diff::{Change, DiffSummary, DiffTelling, Difference, diff};
use crate::client::json::{entry_json, put_path};
use crate::client::vault::LATEST;
use crate::client::{ExitCode, Listed};

pub fn run(arguments: &Arguments, output: &Output, shutdown: &Shutdown) -> Result<ExitCode, CliError> {
    let Some((first, rest)) = arguments.positional.split_first() else {
        let text = "what to compare is not said: give a snapshot, or two, as \"cyberbackup snapshots\" lists them";
        return Err(UsageError(text.into()).into());
    };
    let second = rest.first().and_then(|word| word.to_str()).filter(|word| is_selector(word));
    let paths = &rest[usize::from(second.is_some())..];
    let side = |selector: &str| {
        let root = arguments.value("root").filter(|_| selector == LATEST);
        selection_of(Some(selector.to_string()), root, LATEST, paths)
    };
    let first = first.to_str().ok_or_else(|| UsageError(format!("{}: is no snapshot", first.display())))?;
    let (before, after) = (side(first)?, side(second.unwrap_or(LATEST))?);
    let style = ListStyle::of(arguments);
    let (mut session, _setup) = session(arguments, output, shutdown, "diff")?;
    let mut told = |difference: &Difference<'_>| match output.is_json() {
        true => output.result("difference", difference_json(difference), ""),
        false => output.raw(&[&[sign(difference.change), b' '], &style.line(entry_of(difference))[..]].concat()),
    };
    let mut damage = |damage: &crate::client::Damage| output.damage(damage);
    let meant = if after.snapshot == LATEST { LATEST } else { &before.snapshot.clone() };
    let compared = diff(&mut session, before, after, DiffTelling { difference: &mut told, damage: &mut damage });
    let doubt = tell_chain(&session.compared_with_chain(), meant, ExitCode::Done, output);
    let summary = compared?;
    close(session);
    let code = match summary {
        _ if doubt != ExitCode::Done => doubt,
        DiffSummary { damaged: 1.., .. } => ExitCode::Integrity,
        summary if summary.is_empty() => ExitCode::Done,
        _ => ExitCode::Failed,
    };
    // Beside rows that end with NUL a line would be half a row.
    let text = summary_text(&summary);
    if arguments.is_on("null") {
        output.say(&text);
    }
    let text = if arguments.is_on("null") { "" } else { &text };
    Ok(output.verdict(summary_json(&summary, code), text, code)?)
}

/// Whether a word names a snapshot, and not a path.
fn is_selector(word: &str) -> bool {
    word == LATEST || SnapshotId::is_beginning(word)
}

fn sign(change: Change) -> u8 {
    match change {
        Change::Added => b'+',
        Change::Removed => b'-',
        Change::Content => b'M',
        Change::Facts => b'U',
        Change::Kind => b'T',
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Content => "content",
        Change::Facts => "facts",
        Change::Kind => "kind",
    }
}

fn entry_of<'a>(difference: &Difference<'a>) -> &'a Listed {
    difference.after.or(difference.before).expect("a path that differs is in one of the two")
}

fn difference_json(difference: &Difference<'_>) -> Value {
    let mut data = json!({
        "change": word(difference.change),
        "fields": difference.fields,
        "before": difference.before.map(entry_json),
        "after": difference.after.map(entry_json),
    });
    put_path(&mut data, "path", entry_of(difference).entry.path.as_bytes());
    data
}

fn summary_text(summary: &DiffSummary) -> String {
    if summary.is_empty() {
        return "no difference".to_string();
    }
    let paths = |count, what: &str, bytes| format!("{} {what} ({})", count_text(count, "path"), bytes_text(bytes));
    format!(
        "{}, {}, {}, {} with other facts, {} of another kind",
        paths(summary.added, "added", summary.added_bytes),
        paths(summary.removed, "removed", summary.removed_bytes),
        paths(summary.content, "with other content", summary.content_bytes),
        summary.facts,
        summary.kind,
    )
}

fn summary_json(summary: &DiffSummary, code: ExitCode) -> Value {
    json!({
        "added": summary.added,
        "removed": summary.removed,
        "content": summary.content,
        "facts": summary.facts,
        "kind": summary.kind,
        "added_bytes": summary.added_bytes,
        "removed_bytes": summary.removed_bytes,
        "content_bytes": summary.content_bytes,
        "damaged": summary.damaged,
        "exit_code": code as i32,
    })
}
