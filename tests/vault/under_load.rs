//! Vaults while much goes wrong at once: servers that are killed, lines that are cut, disks that are full, files that
//! change. What was stored stays, nothing is stored twice, and the space of what was dropped comes back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{back_up, create_vault, opened, restore, with_vault};
use crate::recovery::full_disk;
use crate::support::random::Random;
use crate::support::slow_line::{Nature, SlowLine};
use crate::support::tree::{self, Look};
use crate::support::{LARGE_BYTES, Run, TestClient, TestServer, Workplace, kill, wait_until};
use crate::verifying::settle;

const HOSTS: [&str; 2] = ["ada", "bob"];
const MIB: u64 = 1 << 20;

/// What the packs take; nothing where there is no vault yet.
fn pack_bytes(server: &TestServer) -> u64 {
    let vaults = server.data.join("vaults");
    let files = if vaults.exists() { tree::files_below(&vaults) } else { Vec::new() };
    let packs = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "pack"));
    packs.map(|pack| fs::metadata(pack).map_or(0, |metadata| metadata.len())).sum()
}

fn operator(workplace: &Workplace, words: &[&str], data: &Path) -> Run {
    workplace.run(words.iter().map(OsStr::new).chain(["--data".as_ref(), data.as_os_str()]))
}

/// A host whose files change between backups, and what each of its snapshots has to give back.
struct Host {
    source: PathBuf,
    random: Random,
    stored: BTreeMap<String, BTreeMap<OsString, Look>>,
}

impl Host {
    fn new(workplace: &Workplace, name: &str, seed: u64) -> Host {
        let source = workplace.join(format!("files of {name}"));
        tree::many_files(&source, 120);
        Host { source, random: Random::new(seed), stored: BTreeMap::new() }
    }

    fn change(&mut self) {
        for _ in 0..1 + self.random.below(6) {
            let name = format!("changing {}", self.random.below(12));
            let bytes = tree::bytes(self.random.next(), self.random.below(400_000) as usize);
            fs::write(self.source.join(name), bytes).unwrap();
        }
    }

    /// One backup, which may be cut off; says whether it was stored.
    fn back_up(&mut self, workplace: &Workplace, address: &str, name: &str) -> bool {
        let client = TestClient::new(workplace, address, name);
        let words = ["backup", "--vault", "--json", "--quiet", "--retries", "0"].map(OsStr::new);
        let run = client.run(words.into_iter().chain([self.source.as_os_str()]));
        assert!([0, 1, 4].contains(&run.code), "{}: {}{}", run.code, run.out(), run.err());
        if run.code == 0 {
            let id = run.event("summary")["snapshot"].as_str().expect("a stored snapshot").to_string();
            self.stored.insert(id, tree::look(&self.source));
        }
        run.code == 0
    }

    /// Restores each snapshot that is kept and that this host knows of; gives how many.
    fn check(&self, workplace: &Workplace, address: &str, name: &str) -> usize {
        let client = TestClient::new(workplace, address, name);
        let rows = client.run(["snapshots", "--json"]).expect(0);
        let kept = rows.events().into_iter().filter(|event| event.name == "snapshot");
        let kept: Vec<String> = kept.map(|row| row.data["snapshot"].as_str().unwrap().to_string()).collect();
        let known = kept.iter().filter_map(|id| Some((id, self.stored.get(id)?)));
        let mut checked = 0;
        for (id, looks) in known {
            let to = workplace.join(format!("restored {name} {id}"));
            let words =
                [OsStr::new("restore"), "--snapshot".as_ref(), id.as_ref(), "--to".as_ref(), to.as_os_str()];
            Run::of(opened(&client, words)).expect(0);
            let came = tree::look(&to.join(self.source.strip_prefix("/").unwrap()));
            assert!(came == *looks, "{name}: snapshot {id} comes back as another one");
            fs::remove_dir_all(&to).unwrap();
            checked += 1;
        }
        checked
    }
}

/// The server, wherever it is now.
struct Place {
    address: Mutex<String>,
    /// Held while an operator's command runs.
    operating: Mutex<()>,
    is_over: AtomicBool,
}

/// Hosts back up into one vault while the server is pruned, verified, restored from, and killed again and again.
fn kill_again_and_again(time: Duration, seed: u64) {
    let workplace = Workplace::in_memory();
    let server = TestServer::start(&workplace);
    let data = server.data.clone();
    for name in HOSTS {
        let client = TestClient::new(&workplace, &server.address, name);
        match name == HOSTS[0] {
            true => create_vault(&client),
            false => {
                fs::create_dir(client.state()).unwrap();
                for key in ["vault.key", "vault-put.key"] {
                    fs::copy(workplace.join(format!("state-{}/{key}", HOSTS[0])), client.state().join(key))
                        .unwrap();
                }
            }
        }
    }
    let mut hosts: Vec<Host> = (seed..).zip(HOSTS).map(|(seed, name)| Host::new(&workplace, name, seed)).collect();
    let place = Place {
        address: Mutex::new(server.address.clone()),
        operating: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    let (mut kills, mut random, until) = (0, Random::new(seed), Instant::now() + time);
    let server = thread::scope(|scope| {
        let (workplace, place) = (&workplace, &place);
        for (host, name) in hosts.iter_mut().zip(HOSTS) {
            scope.spawn(move || {
                while !place.is_over.load(Ordering::SeqCst) {
                    let address = place.address.lock().unwrap().clone();
                    if host.back_up(workplace, &address, name) {
                        host.change();
                    }
                }
            });
        }
        let operated = data.clone();
        scope.spawn(move || operate(workplace, place, &operated, Random::new(seed + 9)));
        let mut server = server;
        while Instant::now() < until {
            // At any moment.
            thread::sleep(Duration::from_millis(200 + random.below(1_800)));
            server.kill();
            kills += 1;
            // A command that finds no server has the data folder for itself.
            let _operated = place.operating.lock().unwrap();
            server = TestServer::start(workplace);
            *place.address.lock().unwrap() = server.address.clone();
        }
        place.is_over.store(true, Ordering::SeqCst);
        server
    });
    for (host, name) in hosts.iter_mut().zip(HOSTS) {
        // What a run left behind is gone on with, as it was, and nothing waits for it any more.
        assert!(host.back_up(&workplace, &server.address, name));
        host.change();
        assert!(host.back_up(&workplace, &server.address, name));
    }
    operator(&workplace, &["verify"], &data).expect(0);
    let checked: Vec<usize> =
        hosts.iter().zip(HOSTS).map(|(host, name)| host.check(&workplace, &server.address, name)).collect();
    assert!(checked.iter().all(|checked| *checked > 0), "{checked:?}");
    let stored: usize = hosts.iter().map(|host| host.stored.len()).sum();
    println!("{kills} kills; {stored} snapshots stored, {checked:?} kept ones restored equal");
    space_comes_back(&workplace, &server, &hosts);
}

/// Prunes, verifies and restores beside everything else.
fn operate(workplace: &Workplace, place: &Place, data: &Path, mut random: Random) {
    while !place.is_over.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(random.below(400)));
        let address = place.address.lock().unwrap().clone();
        let client = TestClient::new(workplace, &address, HOSTS[random.below(2) as usize]);
        let run = match random.below(4) {
            0 => Run::of(opened(&client, ["verify", "--retries", "0"])),
            1 => Run::of(opened(&client, ["restore", "--retries", "0", "--to", "beside"])),
            _ => {
                let count = (1 + random.below(3)).to_string();
                let _operating = place.operating.lock().unwrap();
                operator(workplace, &["prune", "--keep-last", &count, "--keep-within", "0"], data)
            }
        };
        // A server that is killed is no damage.
        assert_ne!(run.code, 6, "{}{}", run.out(), run.err());
    }
}

/// With one snapshot left of each host, the packs take what these need, and as much again at most: a pack is written anew
/// once less than half of it is needed.
fn space_comes_back(workplace: &Workplace, server: &TestServer, hosts: &[Host]) {
    operator(workplace, &["prune", "--keep-last", "1", "--keep-within", "0"], &server.data).expect(0);
    let fresh = TestServer::start_with(workplace, "fresh", &["--rsa-bits", "2048"]);
    for (host, name) in hosts.iter().zip(HOSTS) {
        let state = workplace.join(format!("state-fresh {name}"));
        fs::create_dir(&state).unwrap();
        fs::copy(workplace.join(format!("state-{name}/vault-put.key")), state.join("vault-put.key")).unwrap();
        back_up(&TestClient::new(workplace, &fresh.address, &format!("fresh {name}")), &host.source);
    }
    let (taken, needed) = (pack_bytes(server), pack_bytes(&fresh));
    println!("{taken} bytes are taken, {needed} are needed");
    assert!(taken <= 2 * needed + MIB, "{taken} bytes for what needs {needed}:\n{}", server.log());
}

#[test]
fn snapshots_outlive_kills_of_the_server_and_the_space_of_dropped_ones_comes_back() {
    kill_again_and_again(Duration::from_secs(8), 1);
}

#[test]
#[ignore = "long: four minutes of kills"]
fn snapshots_outlive_many_kills_of_the_server() {
    kill_again_and_again(Duration::from_secs(240), 2);
}

#[test]
fn a_line_that_is_cut_in_the_midst_of_a_backup_has_nothing_stored_twice() {
    let workplace = Workplace::in_memory();
    let source = workplace.join("source");
    tree::many_files(&source, 1_500);
    for number in 0..6 {
        fs::write(source.join(format!("large {number}")), tree::bytes(number, 2 << 20)).unwrap();
    }
    // Else they are marked to be read again, and lists that were stored differ from later ones.
    settle();
    let once = TestServer::start_with(&workplace, "once", &["--rsa-bits", "2048"]);
    let owner = TestClient::new(&workplace, &once.address, "ada");
    create_vault(&owner);
    back_up(&owner, &source);
    let server = TestServer::start(&workplace);
    let line = SlowLine::start(&server.address, Nature { cut_after: Some(2 * MIB), ..Nature::default() });
    let client = TestClient::new(&workplace, &line.address, "bob");
    fs::create_dir(client.state()).unwrap();
    for key in ["vault.key", "vault-put.key"] {
        fs::copy(owner.state().join(key), client.state().join(key)).unwrap();
    }
    back_up(&client, &source);
    let connections = line.connections();
    assert!(connections > 4, "{connections} connections");
    drop(line);
    let (taken, needed) = (pack_bytes(&server), pack_bytes(&once));
    // Each session has a data key of its own, whose record may lie in two packs.
    assert!(
        taken <= needed + connections * 1_024,
        "{taken} bytes over {connections} connections, {needed} in one go"
    );
    let client = TestClient::new(&workplace, &server.address, "bob");
    tree::assert_same(&source, &restore(&client, &source, "restored"));
    client.run(["verify"]).expect(0);
}

#[test]
fn backups_that_are_cut_off_at_any_moment_hold_no_space_once_one_is_stored() {
    let workplace = Workplace::in_memory();
    let (server, client) = with_vault(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 10);
    fs::write(source.join("dropped"), tree::bytes(1, MIB as usize)).unwrap();
    back_up(&client, &source);
    let cut_off = |bytes: u64| {
        let line = SlowLine::start(&server.address, Nature { cut_after: Some(bytes), ..Nature::default() });
        let words = ["backup", "--vault", "--quiet", "--retries", "0"].map(OsStr::new);
        let run =
            TestClient::new(&workplace, &line.address, "ada").run(words.into_iter().chain([source.as_os_str()]));
        assert!([0, 4].contains(&run.code), "{}", run.err());
        run.code != 0
    };
    // A login has some 2,000 bytes, an answer some 100: between two of them the server may know of an upload that the
    // client was not told of.
    let cuts = (1_000..).step_by(100).take_while(|bytes| cut_off(*bytes)).count();
    assert!(cuts > 10, "{cuts} backups were cut off");
    fs::remove_file(source.join("dropped")).unwrap();
    back_up(&client, &source);
    operator(&workplace, &["prune", "--keep-last", "1", "--keep-within", "0"], &server.data).expect(0);
    let taken = pack_bytes(&server);
    assert!(taken < MIB / 2, "{taken} bytes are taken after {cuts} backups that were cut off");
}

#[test]
fn a_full_disk_ends_a_backup_keeps_what_is_there_and_the_backup_goes_on_when_there_is_room() {
    let workplace = Workplace::new();
    let Some(server) = full_disk::start(&workplace, &["--rsa-bits", "2048"]) else {
        println!("no file system can be mounted here: a full disk is not tested");
        return;
    };
    let disk = format!("/proc/{}/root{}", server.id(), workplace.join("disk").display());
    let data = PathBuf::from(format!("{disk}/data"));
    let client = TestClient::new(&workplace, &server.address, "ada");
    create_vault(&client);
    let source = workplace.join("source");
    tree::many_files(&source, 60);
    for seed in 0..2 {
        fs::write(source.join("changing"), tree::bytes(seed, 4 << 20)).unwrap();
        back_up(&client, &source);
    }
    let before = tree::look(&source);
    let words = ["backup", "--vault", "--quiet"].map(OsStr::new);
    let try_again = || client.run(words.into_iter().chain([source.as_os_str()]));
    let check = |name: &str| assert!(tree::look(&restore(&client, &source, name)) == before, "{name}");
    // To the last byte, so that neither an upload nor a compaction has room.
    fs::write(source.join("more 0"), tree::bytes(90, 2 << 20)).unwrap();
    full_disk::fill(Path::new(&format!("{disk}/filler")));
    let full = try_again().expect(1);
    assert!(full.err().contains("the server's disk is full"), "{}", full.err());
    check("with no room");
    let _ = operator(&workplace, &["prune", "--keep-last", "1", "--keep-within", "0"], &data);
    check("after a prune with no room");
    fs::remove_file(format!("{disk}/filler")).unwrap();
    // In the midst of an upload, which fills the disk itself.
    for number in 1..10 {
        fs::write(source.join(format!("more {number}")), tree::bytes(90 + number, 2 << 20)).unwrap();
    }
    let full = try_again().expect(1);
    assert!(full.err().contains("the server's disk is full"), "{}", full.err());
    check("after an upload that found no room");
    client.run(["verify"]).expect(0);
    // With room, what was dropped goes, and the backup goes on.
    for number in 3..10 {
        fs::remove_file(source.join(format!("more {number}"))).unwrap();
    }
    operator(&workplace, &["prune", "--keep-last", "1", "--keep-within", "0"], &data).expect(0);
    try_again().expect(0);
    tree::assert_same(&source, &restore(&client, &source, "at last"));
    operator(&workplace, &["verify"], &data).expect(0);
}

#[test]
fn files_that_change_or_go_while_a_vault_is_written_are_named_and_the_rest_is_there() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    create_vault(&client);
    let source = workplace.join("source");
    for name in ["grows", "becomes a folder", "becomes a link", "stays", "vanishes"] {
        workplace.write(source.join(name), format!("0123456789 {name}"));
    }
    fs::write(workplace.join("outside"), "not to be read").unwrap();
    // The walk is past all of them while the first one, which is large, is being cut.
    large_noise(&source.join("a large file"));
    let words = ["backup", "--vault"].map(OsStr::new);
    let started = client.start(words.into_iter().chain([source.as_os_str()]));
    wait_until(|| pack_bytes(&server) > MIB, "a mebibyte at the server");
    kill(started.id(), "STOP");
    fs::write(source.join("grows"), "0123456789 and more").unwrap();
    for name in ["becomes a folder", "becomes a link", "vanishes"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::create_dir(source.join("becomes a folder")).unwrap();
    symlink("../outside", source.join("becomes a link")).unwrap();
    kill(started.id(), "CONT");
    let run = started.finish().expect(3);
    for (name, reason) in
        [("becomes a folder", "is now a folder"), ("becomes a link", "is now a link"), ("vanishes", "vanished")]
    {
        assert!(run.err().contains(&format!("/{name}: {reason}")), "{name}:\n{}", run.err());
    }
    let to = workplace.join("to");
    Run::of(opened(&client, [OsStr::new("restore"), "--to".as_ref(), to.as_os_str()])).expect(3);
    let came = to.join(source.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(came.join("grows")).unwrap(), "0123456789 and more");
    assert_eq!(fs::read_to_string(came.join("stays")).unwrap(), "0123456789 stays");
    assert!(fs::read(came.join("a large file")).unwrap() == fs::read(source.join("a large file")).unwrap());
    assert!(!came.join("vanishes").exists() && !came.join("becomes a link").exists());
    Run::of(opened(&client, ["verify", "--read-data"])).expect(0);
}

/// A file so large that it is still being sent when it is looked at.
fn large_noise(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for seed in 0..LARGE_BYTES / (4 * MIB) {
        file.write_all(&tree::bytes(seed, 4 << 20)).unwrap();
    }
}
