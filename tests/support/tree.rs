//! Trees of files: made from a seed or of odd things, and compared to the last property that a restore has
//! to bring back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Everything about one name that has to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub kind: char,
    pub mode: u32,
    /// Seconds and nanoseconds; of links too.
    pub mtime: (i64, i64),
    /// The BLAKE3 of a file's bytes, or a link's target.
    pub content: Vec<u8>,
    pub size: u64,
}

/// All files below a folder, in order; none where there is no folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = item.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The sizes of all of them together. What goes away meanwhile counts as nothing.
pub fn bytes_below(folder: &Path) -> u64 {
    files_below(folder).iter().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum()
}

/// Looks at everything below `root`, the root itself under an empty name.
pub fn look(root: &Path) -> BTreeMap<OsString, Look> {
    let mut found = BTreeMap::new();
    visit(root, OsString::new(), &mut found);
    found
}

fn visit(path: &Path, name: OsString, found: &mut BTreeMap<OsString, Look>) {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (kind, content) = match metadata.file_type() {
        kind if kind.is_symlink() => ('l', fs::read_link(path).unwrap().into_os_string().into_vec()),
        kind if kind.is_dir() => ('d', Vec::new()),
        _ => ('f', hash_file(path)),
    };
    if kind == 'd' {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let mut below = name.clone();
            below.push("/");
            below.push(entry.file_name());
            visit(&entry.path(), below, found);
        }
    }
    let look = Look {
        kind,
        mode: if kind == 'l' { 0 } else { metadata.mode() & 0o7777 },
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        size: if kind == 'f' { metadata.size() } else { 0 },
    };
    found.insert(name, look);
}

fn hash_file(path: &Path) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::io::copy(&mut file, &mut hasher).unwrap();
    hasher.finalize().as_bytes().to_vec()
}

/// Fails the test at the first difference between two trees.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let (left_looks, right_looks) = (look(left), look(right));
    for (name, look) in &left_looks {
        assert_eq!(Some(look), right_looks.get(name), "{} is not the same", name.display());
    }
    for name in right_looks.keys() {
        assert!(left_looks.contains_key(name), "{} is only in {}", name.display(), right.display());
    }
}

/// Bytes from a seed, not compressible, the same every time.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(blake3::hash(&seed.to_le_bytes()).as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes `count` small files in folders of 100; their sizes go up to 16 KiB.
pub fn many_files(root: &Path, count: usize) {
    for number in 0..count {
        let folder = root.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        let length = number * 7_919 % 16_384;
        fs::write(folder.join(format!("file {number}")), bytes(number as u64, length)).unwrap();
    }
}

/// Makes a tree of everything that tends to break backups.
pub fn odd(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let file = |name: &[u8], content: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    };
    file(&[b'n'; 255], b"a name of 255 bytes");
    file(b"line\nbreak", b"newline");
    file(b"tab\tquote\"backslash\\", b"quoting");
    file(b"not utf-8 \xff\xfe", b"bytes");
    file(b"-rf", b"looks like a flag");
    file(b" leading and trailing ", b"spaces");
    file("\u{202e}reversed".as_bytes(), b"bidi");
    file(b"Case", b"upper");
    file(b"case", b"lower");
    file(b".renamed", b"a name that the store uses itself");
    file(b"empty", b"");
    for size in [1, 15, 16, 16_383, 16_384, 16_385, 131_071, 131_072, 131_073, 1_048_575, 1_048_576, 1_048_577] {
        file(format!("size {size}").as_bytes(), &bytes(size as u64, size));
    }
    fs::create_dir(root.join("empty folder")).unwrap();
    let mut deep = root.join("deep");
    for level in 0..100 {
        deep.push(format!("level {level}"));
        fs::create_dir_all(&deep).unwrap();
    }
    fs::write(deep.join("bottom"), b"100 levels down").unwrap();
    std::os::unix::fs::symlink("nowhere/at all", root.join("dangling link")).unwrap();
    std::os::unix::fs::symlink("case", root.join("link to a file")).unwrap();
    std::os::unix::fs::symlink("/", root.join("link to the root")).unwrap();
    std::os::unix::fs::symlink("..", root.join("link upwards")).unwrap();
    modes_and_times(root, &file);
}

fn modes_and_times(root: &Path, file: &impl Fn(&[u8], &[u8]) -> PathBuf) {
    for mode in [0o400, 0o644, 0o755, 0o600, 0o1644] {
        let path = file(format!("mode {mode:o}").as_bytes(), b"mode");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::new(86_400 * 365 * 3, 123_456_789);
    let far = SystemTime::UNIX_EPOCH + Duration::new(5_000_000_000, 999_999_999);
    for (name, time) in [("before 1970", before_1970), ("far in the future", far)] {
        let path = file(name.as_bytes(), b"time");
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let shut = root.join("read-only folder");
    fs::create_dir(&shut).unwrap();
    fs::write(shut.join("inside"), b"inside").unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o555)).unwrap();
    fs::File::open(&shut).unwrap().set_modified(before_1970).unwrap();
}
