//! What a backup begins at. A root is absolute and its parent holds no links, so that one file has one
//! path; the last component stays as it was named, so that a link is backed up as a link.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::facts::cause;
use crate::base::entry::merge_roots;
use crate::base::limits::ROOTS_MAX;
use crate::base::path::{EntryPath, display_bytes};

/// Where a walk begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// `/`: everything in it, itself no entry.
    Everything,
    /// A file, folder or link, which is the root's first entry.
    Path(EntryPath),
}

impl Root {
    /// The root's own entry; none for `/`.
    pub fn path(&self) -> Option<&EntryPath> {
        match self {
            Root::Everything => None,
            Root::Path(path) => Some(path),
        }
    }

    /// Whether `path` is the root or lies in it.
    pub fn holds(&self, path: &EntryPath) -> bool {
        self.path().is_none_or(|root| path.is_within(root))
    }

    /// The folder that the root stands in; none for the top of the file system.
    pub fn parent(&self) -> Option<EntryPath> {
        self.path().and_then(EntryPath::parent)
    }
}

/// The root as a person writes it, with its leading `/`.
impl fmt::Display for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().map(EntryPath::display).unwrap_or_default();
        write!(formatter, "/{path}")
    }
}

/// The roots of a backup: those that are there, merged and sorted, and those that are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRoots {
    pub roots: Vec<Root>,
    pub missing: Vec<MissingRoot>,
}

/// A root that cannot be walked; the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRoot {
    pub path: PathBuf,
    pub reason: String,
}

/// Why there is nothing to walk: wrong usage (exit 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootsError {
    NoneGiven,
    TooMany { count: usize },
    NoneExists { missing: Vec<MissingRoot> },
}

impl fmt::Display for RootsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootsError::NoneGiven => {
                write!(formatter, "nothing to back up: name a path, or write one on line 3 of transfer.info")
            }
            RootsError::TooMany { count } => {
                write!(
                    formatter,
                    "{count} paths are more than {ROOTS_MAX}: name a folder that holds several of them"
                )
            }
            RootsError::NoneExists { missing } => {
                let named: Vec<String> = missing.iter().map(MissingRoot::to_string).collect();
                write!(formatter, "nothing to back up: {}: name a path that exists", named.join("; "))
            }
        }
    }
}

impl std::error::Error for RootsError {}

impl fmt::Display for MissingRoot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", display_bytes(self.path.as_os_str().as_bytes()), self.reason)
    }
}

/// Makes paths into roots; relative ones count from `base_folder`.
pub fn resolve_roots(paths: &[PathBuf], base_folder: &Path) -> Result<ResolvedRoots, RootsError> {
    match paths.len() {
        0 => return Err(RootsError::NoneGiven),
        count if count > ROOTS_MAX => return Err(RootsError::TooMany { count }),
        _ => {}
    }
    let (mut found, mut missing, mut everything) = (Vec::new(), Vec::new(), false);
    for path in paths {
        match resolve_root(&base_folder.join(path)) {
            Ok(Root::Everything) => everything = true,
            Ok(Root::Path(path)) => found.push(path),
            Err(reason) => missing.push(MissingRoot { path: path.clone(), reason }),
        }
    }
    let roots: Vec<Root> = match everything {
        true => vec![Root::Everything],
        false => merge_roots(found).into_iter().map(Root::Path).collect(),
    };
    if roots.is_empty() { Err(RootsError::NoneExists { missing }) } else { Ok(ResolvedRoots { roots, missing }) }
}

fn resolve_root(path: &Path) -> Result<Root, String> {
    let absolute = absolute(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_string(),
        _ => cause(&error),
    })?;
    let bytes = absolute.into_os_string().into_vec();
    match bytes.strip_prefix(b"/").unwrap_or(&bytes) {
        [] => Ok(Root::Everything),
        relative => EntryPath::parse(relative).map(Root::Path).map_err(|error| error.to_string()),
    }
}

/// The path without links in its parent, and the last component as it was named.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !names_what_is_behind(path) => {
            let absolute = parent.canonicalize()?.join(name);
            absolute.symlink_metadata()?;
            Ok(absolute)
        }
        _ => path.canonicalize(),
    }
}

/// `link/`, `link/.` and `folder/..` mean the folder that is reached, not the name that is written.
fn names_what_is_behind(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    [&b"/"[..], b"/.", b"/.."].iter().any(|end| bytes.ends_with(end))
}

/// The folder that a root stands in, opened one component at a time and never through a link. The handles
/// are for passing through only, which is all the right that a backup has in many a `/home`. `seen` is
/// shown each folder on the way and may turn the walk away.
pub(super) fn open_parent(
    root: &Root,
    mut seen: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The whole of `/` is listed, so that handle has to be one for reading.
    let top = if root.path().is_none() { flags.difference(OFlags::PATH) } else { flags };
    let mut folder = rustix::fs::open("/", top, Mode::empty())?;
    seen(folder.as_fd())?;
    let parent = root.parent();
    for name in parent.iter().flat_map(EntryPath::components) {
        folder = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
        seen(folder.as_fd())?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn resolved(paths: &[&str], base: &Path) -> ResolvedRoots {
        resolve_roots(&paths.iter().map(PathBuf::from).collect::<Vec<_>>(), base).unwrap()
    }

    fn shown(roots: &ResolvedRoots, base: &Path) -> Vec<String> {
        let prefix = format!("{}/", base.canonicalize().unwrap().display());
        roots.roots.iter().map(|root| root.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn overlapping_roots_are_merged_and_links_kept() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("a", base.join("link")).unwrap();
        assert_eq!(shown(&resolved(&["a/b", "a", "link"], base), base), ["a", "link"]);
        assert_eq!(shown(&resolved(&["link/b"], base), base), ["a/b"]);
        assert_eq!(shown(&resolved(&["link/"], base), base), ["a"]);
        assert_eq!(shown(&resolved(&["a/b/.."], base), base), ["a"]);
        assert_eq!(shown(&resolved(&["a/."], base), base), ["a"]);
    }

    #[test]
    fn the_dot_is_the_folder_and_the_slash_is_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        assert_eq!(resolved(&["."], &path).roots[0].to_string(), path.display().to_string());
        assert_eq!(resolved(&["/", "/tmp"], &path).roots, [Root::Everything]);
        assert_eq!(Root::Everything.to_string(), "/");
    }

    #[test]
    fn a_missing_root_is_named_and_the_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("here"), "").unwrap();
        symlink("nowhere", folder.path().join("dangling")).unwrap();
        let roots = resolved(&["here", "gone", "dangling"], folder.path());
        assert_eq!(shown(&roots, folder.path()), ["dangling", "here"]);
        assert_eq!(roots.missing.len(), 1);
        assert_eq!(roots.missing[0].to_string(), "gone: does not exist");
    }

    #[test]
    fn no_root_at_all_is_an_error_that_names_them() {
        let folder = tempfile::tempdir().unwrap();
        let error = resolve_roots(&[PathBuf::from("gone"), PathBuf::from("too")], folder.path()).unwrap_err();
        let wanted = "nothing to back up: gone: does not exist; too: does not exist: name a path that exists";
        assert_eq!(error.to_string(), wanted);
        let wanted = "nothing to back up: name a path, or write one on line 3 of transfer.info";
        assert_eq!(resolve_roots(&[], folder.path()).unwrap_err().to_string(), wanted);
    }
}
