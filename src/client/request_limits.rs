//! What a request may hold at most, checked before anybody is connected to: wrong usage, with the limit named.
//! The server has the same limits and would end the session.

use super::backup::BackupOptions;
use super::error::ClientError;
use crate::base::limits::{LABEL_BYTES_MAX, PATHS_BYTES_MAX, REQUEST_PATHS_MAX, ROOTS_MAX, TAGS_MAX};
use crate::base::path::EntryPath;
use crate::protocol::message::Selection;

/// Whether a server takes a backup with this label, these tags and these roots.
///
/// # Errors
/// `Impossible`, which names the limit.
pub fn check_backup(options: &BackupOptions) -> Result<(), ClientError> {
    if options.tags.len() > TAGS_MAX {
        return refuse(format!(
            "--tag: {} tags are given, and a snapshot has at most {TAGS_MAX}",
            options.tags.len()
        ));
    }
    for (flag, text) in options.tags.iter().map(|tag| ("--tag", tag)).chain([("--label", &options.label)]) {
        if text.len() > LABEL_BYTES_MAX {
            return refuse(format!(
                "{flag}: the text has {} bytes, at most {LABEL_BYTES_MAX} are kept",
                text.len()
            ));
        }
    }
    check_paths("a backup", ROOTS_MAX, options.roots.iter().filter_map(|root| root.path()))
}

/// Whether a server takes a request about this selection.
///
/// # Errors
/// As above.
pub fn check_selection(selection: &Selection) -> Result<(), ClientError> {
    if selection.snapshot.len() > LABEL_BYTES_MAX {
        return refuse(format!("--snapshot: no id is longer than {LABEL_BYTES_MAX} bytes"));
    }
    check_paths("a request", REQUEST_PATHS_MAX, selection.paths.iter())
}

fn check_paths<'a>(
    what: &str,
    most: usize,
    paths: impl Iterator<Item = &'a EntryPath> + Clone,
) -> Result<(), ClientError> {
    let (count, bytes) = (paths.clone().count(), paths.map(|path| path.as_bytes().len()).sum::<usize>());
    if count > most {
        return refuse(format!(
            "{count} paths are given, and {what} takes at most {most}: name folders above them"
        ));
    }
    if bytes > PATHS_BYTES_MAX {
        return refuse(format!(
            "the paths have {bytes} bytes together, and {what} takes at most {PATHS_BYTES_MAX}: name folders above them"
        ));
    }
    Ok(())
}

fn refuse(text: String) -> Result<(), ClientError> {
    Err(ClientError::Impossible(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ExitCode;

    fn text_of(result: Result<(), ClientError>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        error.to_string()
    }

    #[test]
    fn what_no_server_takes_is_wrong_usage_and_names_the_limit() {
        let mut options = BackupOptions { tags: vec!["t".into(); 65], ..BackupOptions::default() };
        assert_eq!(text_of(check_backup(&options)), "--tag: 65 tags are given, and a snapshot has at most 64");
        options.tags = vec!["t".repeat(1_025)];
        assert_eq!(text_of(check_backup(&options)), "--tag: the text has 1025 bytes, at most 1024 are kept");
        options = BackupOptions { label: "l".repeat(2_000), ..BackupOptions::default() };
        assert_eq!(text_of(check_backup(&options)), "--label: the text has 2000 bytes, at most 1024 are kept");
        options.label.truncate(1_024);
        check_backup(&options).unwrap();
    }

    #[test]
    fn more_paths_than_a_request_holds_are_wrong_usage() {
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        let mut selection = Selection { snapshot: "latest".into(), root: None, paths: vec![path("a"); 1_100] };
        let many = "1100 paths are given, and a request takes at most 1024: name folders above them";
        assert_eq!(text_of(check_selection(&selection)), many);
        selection.paths = vec![path(&"a".repeat(4_000)); 100];
        assert!(text_of(check_selection(&selection)).starts_with("the paths have 400000 bytes together"));
        selection.paths.truncate(90);
        check_selection(&selection).unwrap();
    }
}
