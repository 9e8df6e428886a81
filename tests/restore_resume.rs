//! A restore into a folder where something is already, from an earlier restore that was cut off or otherwise: what is
//! right is not fetched again, inside a large file as well, and what comes out is the snapshot.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::encryption::line::{Line, Way, unharmed};
use crate::support::{Run, TestClient, TestServer, Workplace, kill, tree, wait_until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A server behind a line that counts what it brings to the client.
struct Scene {
    workplace: Workplace,
    line: Line,
    /// What has come through the line to the client.
    received: Arc<AtomicU64>,
    server: TestServer,
}

impl Scene {
    fn new() -> Scene {
        Scene::on(Workplace::new(), u64::MAX)
    }

    /// The line is cut each time it has brought so many bytes.
    fn on(workplace: Workplace, cut_after: u64) -> Scene {
        let server = TestServer::start(&workplace);
        let received = Arc::new(AtomicU64::new(0));
        let counted = received.clone();
        // Small buffers: what is on its way when the client dies is lost.
        let line = Line::with_buffers(&server.address, Some(64 * KIB), move |_, way| {
            let (counted, mut brought) = (counted.clone(), 0);
            match way {
                Way::ToServer => unharmed(),
                Way::ToClient => Box::new(move |frame| {
                    brought += frame.len() as u64;
                    counted.fetch_add(frame.len() as u64, Ordering::SeqCst);
                    (brought < cut_after).then_some(frame)
                }),
            }
        });
        Scene { workplace, line, received, server }
    }

    /// A client at the far end of the line.
    fn client(&self) -> TestClient<'_> {
        TestClient::new(&self.workplace, &self.line.address, "ada")
    }

    /// Backs up past the line.
    fn backup(&self, path: &Path) -> String {
        TestClient::new(&self.workplace, &self.server.address, "ada").backup(path)
    }

    fn source(&self) -> PathBuf {
        self.workplace.join("source")
    }

    /// Where the source lies once it is restored to `to`.
    fn restored(&self, to: &str) -> PathBuf {
        self.workplace.join(to).join(self.source().strip_prefix("/").unwrap())
    }

    /// Restores everything to `to`; gives the summary and the bytes that came for it.
    #[track_caller]
    fn restore(&self, to: &str) -> (Value, u64) {
        let before = self.received();
        let summary = self.client().run(["restore", "--json", "--quiet", "--to", to]).expect(0).event("summary");
        (summary, self.received() - before)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn start(&self, to: &str) -> Child {
        let mut command = self.client().command(["restore", "--quiet", "--to", to]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Kills a restore once the line has brought so much for it.
    fn cut_off(&self, to: &str, after: u64) {
        let (mut run, before) = (self.start(to), self.received());
        wait_until(
            || self.received() - before > after || run.try_wait().unwrap().is_some(),
            "the restore to get on",
        );
        kill(run.id(), "KILL");
        run.wait().unwrap();
    }
}

fn number(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"))
}

fn overwrite(file: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

/// The names in a folder that no snapshot has.
fn left_over(folder: &Path) -> Vec<String> {
    let names =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".cb-")).collect()
}

/// Small files, some large ones, and one of so many mebibytes, which is most of it.
fn mixed(root: &Path, mebibytes: usize) {
    tree::many_files(&root.join("a"), 500);
    fs::create_dir_all(root.join("b")).unwrap();
    fs::write(root.join("b/large"), tree::bytes(1, mebibytes * MIB)).unwrap();
    for number in 0..10 {
        fs::write(root.join(format!("b/part {number}")), tree::bytes(number, 2 * MIB)).unwrap();
    }
    tree::odd(&root.join("c"));
}

/// Kills a restore so often, at moments spread over it, and lets the last one end.
fn survives_kills(mebibytes: usize, kills: u64) {
    let scene = Scene::new();
    mixed(&scene.source(), mebibytes);
    scene.backup(&scene.source());
    let once = scene.restore("once").1;
    let before = scene.received();
    for round in 0..kills {
        // Not in even steps, and one of them before anything has come.
        scene.cut_off("again", (round * 7_919 % kills) * once / (kills * kills) + round * 104_729);
    }
    let (summary, _) = scene.restore("again");
    tree::assert_same(&scene.source(), &scene.restored("again"));
    let all = scene.received() - before;
    println!("{once} bytes at once, {all} with {kills} kills");
    assert!(all < once + once / 10, "{all} bytes came, and {once} without kills");
    assert!(number(&summary, "bytes_kept") > 0);
    assert_eq!(left_over(&scene.restored("again/").join("b")), Vec::<String>::new());
}

#[test]
fn a_restore_goes_on_after_kills() {
    survives_kills(104, 5);
}

#[test]
#[ignore = "long: fifty kills"]
fn a_restore_goes_on_after_fifty_kills() {
    survives_kills(300, 50);
}

#[test]
fn a_part_of_a_large_file_is_not_fetched_again() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    fs::write(scene.source().join("large"), tree::bytes(1, 48 * MIB)).unwrap();
    scene.backup(&scene.source());
    scene.cut_off("to", 24 * MIB as u64);
    let folder = scene.restored("to");
    let parts = left_over(&folder);
    assert_eq!(parts.len(), 1, "{parts:?}");
    let part = folder.join(&parts[0]);
    assert_eq!(fs::metadata(&part).unwrap().mode() & 0o7777, 0o600, "nobody else reads what is not whole");
    let kept = fs::metadata(&part).unwrap().len();
    assert!(kept > 16 * MIB as u64, "{kept}");
    // As if the disk had lost some of it.
    overwrite(&part, &[7; 100], 3 * MIB as u64);
    let (summary, bytes) = scene.restore("to");
    tree::assert_same(&scene.source(), &folder);
    assert!(bytes < 48 * MIB as u64 - kept + MIB as u64, "{bytes} bytes came, and {kept} were there");
    assert!(number(&summary, "bytes_kept") + 2 * 16 * KIB as u64 > kept);
    assert_eq!((number(&summary, "files"), number(&summary, "files_kept")), (1, 0));
}

#[test]
fn a_changed_block_of_a_large_file_costs_about_that_block() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    let file = scene.source().join("large");
    fs::write(&file, tree::bytes(1, 64 * MIB + 5)).unwrap();
    scene.backup(&scene.source());
    scene.restore("to");
    let restored = scene.restored("to").join("large");
    let changes: [&dyn Fn(); 4] = [
        &|| overwrite(&restored, b"changed", 20 * MIB as u64 + 9),
        &|| overwrite(&restored, b"x", 64 * MIB as u64 + 4),
        &|| File::options().write(true).open(&restored).unwrap().set_len(64 * MIB as u64 - 3).unwrap(),
        &|| overwrite(&restored, &[1; 40 * KIB], 64 * MIB as u64 + 5),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        change();
        let (summary, bytes) = scene.restore("to");
        tree::assert_same(&scene.source(), &scene.restored("to"));
        println!("change {place}: {bytes} bytes");
        assert!(bytes < 150 * KIB as u64, "change {place}: {bytes} bytes came");
        assert!(number(&summary, "bytes_kept") > 63 * MIB as u64, "{summary}");
        assert_eq!(number(&summary, "bytes"), 64 * MIB as u64 + 5);
    }
}

#[test]
fn holes_stay_holes_and_cost_nothing() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    let (file, size) = (scene.source().join("sparse"), 64 * MIB as u64);
    File::create(&file).unwrap().set_len(size).unwrap();
    overwrite(&file, &tree::bytes(1, 2 * MIB), 30 * MIB as u64);
    scene.backup(&scene.source());
    let folder = scene.restored("to");
    fs::create_dir_all(&folder).unwrap();
    // The file has data where the snapshot has a hole, and the other way round.
    let restored = folder.join("sparse");
    File::create(&restored).unwrap().set_len(size / 2).unwrap();
    overwrite(&restored, &tree::bytes(2, MIB), 5 * MIB as u64);
    let (_, bytes) = scene.restore("to");
    tree::assert_same(&scene.source(), &folder);
    assert!(bytes < 3 * MIB as u64, "{bytes} bytes came");
    let stored = fs::metadata(&restored).unwrap().blocks() * 512;
    assert!(stored < 4 * MIB as u64, "{stored} bytes are stored");
}

#[test]
fn what_is_right_is_not_fetched_and_gets_its_properties() {
    let scene = Scene::on(Workplace::in_memory(), u64::MAX);
    let root = scene.source();
    tree::many_files(&root.join("small"), 2_000);
    fs::write(root.join("large"), tree::bytes(1, 8 * MIB)).unwrap();
    tree::odd(&root.join("odd"));
    scene.backup(&root);
    scene.restore("to");
    let restored = scene.restored("to");
    let untouched = fs::metadata(restored.join("small/0001/file 101")).unwrap().ctime_nsec();
    let changed = restored.join("small/0000/file 7");
    fs::set_permissions(&changed, fs::Permissions::from_mode(0o777)).unwrap();
    File::options().write(true).open(&changed).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::remove_file(restored.join("small/0003/file 307")).unwrap();
    let shut = restored.join("small/0005");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
    let (summary, bytes) = scene.restore("to");
    tree::assert_same(&root, &restored);
    println!("{bytes} bytes for what is right");
    assert!(bytes < MIB as u64, "{bytes} bytes came");
    assert_eq!(number(&summary, "files"), number(&summary, "files_kept") + 1, "{summary}");
    let now = fs::metadata(restored.join("small/0001/file 101")).unwrap().ctime_nsec();
    assert_eq!(untouched, now, "what is right in all ways is not touched");
}

#[test]
fn what_only_looks_right_is_fetched() {
    let scene = Scene::new();
    let root = scene.source();
    for name in ["content", "link", "pipe", "linked twice", "folder/inside"] {
        scene.workplace.write(root.join(name), format!("from the snapshot: {name}"));
    }
    fs::write(root.join("large"), tree::bytes(1, 2 * MIB)).unwrap();
    scene.backup(&root);
    scene.restore("to");
    let to = scene.restored("to");
    // The same size and time, and another content.
    let time = fs::metadata(to.join("content")).unwrap().modified().unwrap();
    overwrite(&to.join("content"), b"F", 0);
    File::options().write(true).open(to.join("content")).unwrap().set_modified(time).unwrap();
    // Files of the right content, reached through links; nothing is done to where they lead.
    let outside = scene.workplace.join("outside");
    fs::create_dir(&outside).unwrap();
    for (name, at) in [("link", "link"), ("folder/inside", "inside"), ("large", "large")] {
        fs::rename(to.join(name), outside.join(at)).unwrap();
        fs::set_permissions(outside.join(at), fs::Permissions::from_mode(0o640)).unwrap();
    }
    fs::remove_dir(to.join("folder")).unwrap();
    symlink(&outside, to.join("folder")).unwrap();
    symlink(outside.join("link"), to.join("link")).unwrap();
    symlink(outside.join("large"), to.join("large")).unwrap();
    fs::remove_file(to.join("pipe")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(to.join("pipe")).status().unwrap();
    assert!(made.success());
    // Its other name must not get the properties of this one.
    fs::hard_link(to.join("linked twice"), outside.join("second")).unwrap();
    let before = tree::look(&outside);
    let (summary, _) = scene.restore("to");
    assert_eq!(tree::look(&outside), before);
    tree::assert_same(&root, &to);
    assert_eq!(number(&summary, "files_kept"), 0, "{summary}");
    fs::set_permissions(outside.join("second"), fs::Permissions::from_mode(0o600)).unwrap();
    tree::assert_same(&root, &to);
}

#[test]
fn a_name_that_a_part_would_have_is_used_only_if_it_is_ones_own_file() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    fs::write(scene.source().join("large"), tree::bytes(1, 24 * MIB)).unwrap();
    scene.backup(&scene.source());
    scene.cut_off("to", 12 * MIB as u64);
    let folder = scene.restored("to");
    let part = folder.join(&left_over(&folder)[0]);
    let victim = scene.workplace.write("victim", "untouched");
    let traps: [&dyn Fn(); 3] =
        [&|| symlink(&victim, &part).unwrap(), &|| fs::hard_link(&victim, &part).unwrap(), &|| {
            fs::create_dir(&part).unwrap()
        }];
    for trap in traps {
        if part.is_dir() {
            fs::remove_dir(&part).unwrap()
        } else {
            fs::remove_file(&part).unwrap()
        }
        let _ = fs::remove_file(folder.join("large"));
        trap();
        scene.restore("to");
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert!(fs::read(folder.join("large")).unwrap() == tree::bytes(1, 24 * MIB));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "the trap is left alone");
    }
}

#[test]
fn another_snapshot_takes_the_part_over() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    let file = scene.source().join("large");
    fs::write(&file, tree::bytes(1, 32 * MIB)).unwrap();
    let first = scene.backup(&scene.source());
    overwrite(&file, &tree::bytes(2, MIB), 4 * MIB as u64);
    scene.backup(&scene.source());
    let before = scene.received();
    let mut run =
        scene.client().command(["restore", "--quiet", "--snapshot", &first, "--to", "to"]).spawn().unwrap();
    wait_until(|| scene.received() - before > 16 * MIB as u64, "half of the first snapshot");
    kill(run.id(), "KILL");
    run.wait().unwrap();
    let (_, bytes) = scene.restore("to");
    assert!(bytes < 20 * MIB as u64, "{bytes} bytes came");
    tree::assert_same(&scene.source(), &scene.restored("to"));
    assert_eq!(left_over(&scene.restored("to")), Vec::<String>::new());
}

#[test]
fn a_line_that_is_cut_again_and_again_does_not_begin_anew() {
    let scene = Scene::on(Workplace::new(), 16 * MIB as u64);
    let root = scene.source();
    tree::many_files(&root.join("a"), 1_000);
    fs::write(root.join("large"), tree::bytes(1, 50 * MIB)).unwrap();
    tree::odd(&root.join("odd"));
    scene.backup(&root);
    let words = ["restore", "--json", "--retries", "1", "--retry-max-wait", "1", "--to", "to"];
    let run = scene.client().run(words).expect(0);
    tree::assert_same(&root, &scene.restored("to"));
    let (summary, all) = (run.event("summary"), scene.received());
    let bytes = number(&summary, "bytes");
    println!("{bytes} bytes restored, {all} came");
    assert!(all > bytes && all < bytes + bytes / 10, "{all} came for {bytes}");
    let lines = run.events();
    let cuts = lines.iter().filter(|line| line.data.to_string().contains("going on in")).count();
    assert!(cuts >= 3, "{cuts} cuts");
    let mut shown = (0, 0);
    for line in lines.iter().filter(|line| line.name == "progress_update") {
        let now = (number(&line.data, "files_done"), number(&line.data, "bytes_transferred"));
        assert!(now.0 >= shown.0 && now.1 >= shown.1, "{now:?} after {shown:?}");
        assert!(now.1 <= number(&line.data, "total_bytes"), "{}", line.data);
        shown = now;
    }
    assert_eq!(shown, (number(&summary, "files"), bytes));
    let receipts = lines.iter().filter(|line| line.name == "file_receipt").count() as u64;
    assert_eq!(receipts, number(&summary, "files"), "each file is told once");
}

#[test]
fn two_restores_into_one_folder_do_not_harm_each_other() {
    let scene = Scene::new();
    fs::create_dir(scene.source()).unwrap();
    for number in 0..6 {
        fs::write(scene.source().join(format!("large {number}")), tree::bytes(number, 8 * MIB)).unwrap();
    }
    scene.backup(&scene.source());
    scene.cut_off("to", 4 * MIB as u64);
    let runs = [(); 2].map(|()| scene.client().start(["restore", "--quiet", "--to", "to"]));
    let ended: Vec<Run> = runs.into_iter().map(|run| run.finish()).collect();
    assert!(ended.iter().any(|run| run.code == 0), "{ended:?}");
    scene.restore("to");
    tree::assert_same(&scene.source(), &scene.restored("to"));
    assert_eq!(left_over(&scene.restored("to")), Vec::<String>::new());
}

#[test]
fn a_path_that_is_not_there_is_told_after_the_rest() {
    let scene = Scene::new();
    let root = scene.source();
    for name in ["a", "b", "c"] {
        scene.workplace.write(root.join(name), name);
    }
    scene.backup(&root);
    let to = scene.restored("to");
    fs::create_dir_all(&to).unwrap();
    fs::write(to.join("a"), "a").unwrap();
    let paths = ["a", "aa", "c"].map(|name| root.join(name));
    let words = ["restore", "--to", "to"].map(OsStr::new).into_iter();
    let run = scene.client().run(words.chain(paths.iter().map(|path| path.as_os_str()))).expect(1);
    assert!(run.err().contains("source/aa is not in snapshot"), "{}", run.err());
    assert_eq!(fs::read(to.join("c")).unwrap(), b"c");
    assert!(!to.join("b").exists());
}

#[test]
fn a_restore_of_more_than_a_page_keeps_the_times_of_folders() {
    let scene = Scene::on(Workplace::in_memory(), u64::MAX);
    let root = scene.source();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for folder in ["a", "b"] {
        fs::create_dir_all(root.join(folder)).unwrap();
        (0..36_000).for_each(|number| drop(File::create(root.join(folder).join(format!("{number:06}"))).unwrap()));
        File::open(root.join(folder)).unwrap().set_modified(old).unwrap();
    }
    fs::write(root.join("b/large"), tree::bytes(1, 2 * MIB)).unwrap();
    File::open(root.join("b")).unwrap().set_modified(old).unwrap();
    scene.backup(&root);
    scene.restore("to");
    let to = scene.restored("to");
    overwrite(&to.join("b/large"), b"changed", 0);
    for number in (0..36_000).step_by(500) {
        fs::remove_file(to.join("b").join(format!("{number:06}"))).unwrap();
    }
    let (summary, bytes) = scene.restore("to");
    tree::assert_same(&root, &to);
    println!("{bytes} bytes for 72,000 entries");
    assert_eq!(number(&summary, "files_kept"), 72_000 - 72, "{summary}");
}
