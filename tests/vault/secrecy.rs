//! What a server knows of a vault: nothing of its contents and names, on the disk, in the log, or in its memory.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::with_vault;
use crate::support::{TestClient, TestServer, Workplace, is_sealed_at_rest, tree};

const MIB: usize = 1024 * 1024;
/// How long a stretch of bytes is looked for: no accident makes it.
const STRETCH: usize = 16;

/// Everything that must not be found.
#[derive(Default)]
struct Secrets(HashSet<[u8; STRETCH]>);

impl Secrets {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.windows(STRETCH).map(|stretch| <[u8; STRETCH]>::try_from(stretch).unwrap()));
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        bytes.windows(STRETCH).position(|stretch| self.0.contains(stretch))
    }

    #[track_caller]
    fn assert_not_in_files(&self, files: &[PathBuf]) {
        for file in files {
            // A socket, or what has gone meanwhile.
            let Ok(bytes) = fs::read(file) else { continue };
            assert_eq!(self.find(&bytes), None, "a secret lies in {}", file.display());
        }
    }

    #[track_caller]
    fn assert_not_in_memory(&self, process: u32) {
        let (maps, memory) = (format!("/proc/{process}/maps"), format!("/proc/{process}/mem"));
        let (maps, memory) = (fs::read_to_string(maps).unwrap(), File::open(memory).unwrap());
        let mut looked_at = 0;
        for line in
            maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")))
        {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let mut bytes = vec![0; (end - start) as usize];
            if memory.read_exact_at(&mut bytes, start).is_ok() {
                looked_at += bytes.len();
                assert_eq!(self.find(&bytes), None, "a secret lies in the server's memory: {line}");
            }
        }
        assert!(looked_at > MIB, "there is something to look into");
    }
}

fn files_of(server: &TestServer, workplace: &Workplace) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        tree::files_below(&server.data).into_iter().map(|name| server.data.join(name)).collect();
    files.push(workplace.join("data.log"));
    files
}

fn contains(path: &Path, text: &[u8]) -> bool {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).is_ok()
        && bytes.windows(text.len()).any(|stretch| stretch == text)
}

#[test]
fn neither_disk_nor_log_nor_memory_of_the_server_shows_contents_or_names() {
    let workplace = Workplace::new();
    let (server, ada) = with_vault(&workplace);
    let (source, mut secrets) = (workplace.join("source-of-a-long-name"), Secrets::default());
    for number in 0..20 {
        let name = format!("source-of-a-long-name/folder of secrets {number}/file of secrets {number}.txt");
        let file = workplace.write(&name, tree::bytes(number, 40 + 3_001 * number as usize));
        secrets.add(&fs::read(&file).unwrap());
        secrets.add(name.as_bytes());
    }
    let words = "a line that compresses well, again and again. ".repeat(4_000);
    secrets.add(words.as_bytes());
    workplace.write("source-of-a-long-name/words", &words);
    let large = workplace.write("source-of-a-long-name/large", tree::bytes(99, 3 * MIB));
    secrets.add(&fs::read(&large).unwrap());
    let label = "the-label-of-this-very-backup";
    secrets.add(label.as_bytes());
    let source_text = source.to_str().unwrap();

    ada.run(["backup", "--vault", "--label", label, source_text]).expect(0);
    secrets.assert_not_in_memory(server.id());
    fs::write(&large, tree::bytes(98, 3 * MIB)).unwrap();
    secrets.add(&fs::read(&large).unwrap());
    ada.run(["backup", "--vault", source_text]).expect(0);
    secrets.assert_not_in_files(&files_of(&server, &workplace));
    secrets.assert_not_in_memory(server.id());
    // The sizes of the large files, as numbers, lie in no head.
    let size = (3 * MIB).to_string();
    for file in
        files_of(&server, &workplace).iter().filter(|file| file.extension().is_some_and(|end| end == "json"))
    {
        assert!(!contains(file, size.as_bytes()), "an exact size lies in {}", file.display());
    }
}

#[test]
fn the_looks_find_what_is_there() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let (mut secrets, secret) = (Secrets::default(), tree::bytes(7, 5_000));
    secrets.add(&secret);
    let source = workplace.write("source/file", &secret);
    TestClient::new(&workplace, &server.address, "ada").backup(source.parent().unwrap());
    let found = files_of(&server, &workplace)
        .iter()
        .any(|file| secrets.find(&fs::read(file).unwrap_or_default()).is_some());
    assert_eq!(found, !is_sealed_at_rest(), "a plain backup shows its contents, unless the store is sealed");
}
