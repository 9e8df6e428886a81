//! A server whose disk is filled to the last byte: a small file system of its own, in memory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::{ADDRESS, BACKUP, SERVER_FLAGS, World, contents};
use crate::support::random::Random;
use crate::support::{PROGRAM, TestServer, Workplace};

const MIB: usize = 1 << 20;

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes).map(|_| random.below(256) as u8).collect()
}

/// A server with its data on a file system of 24 MiB, which is there for its process alone; none where the system does
/// not let anybody mount one.
pub fn start(workplace: &Workplace, flags: &[&str]) -> Option<TestServer> {
    fs::create_dir(workplace.join("disk")).unwrap();
    let in_namespace = |script: &str| {
        let mut command = Command::new("unshare");
        let own: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        command.args(own).args(["--mount", "sh", "-c", script, "sh"]).arg(workplace.join("disk"));
        command.env("HOME", workplace.path());
        command
    };
    let mount = "mount -t tmpfs -o size=24m tmpfs \"$1\"";
    if !in_namespace(mount).status().is_ok_and(|status| status.success()) {
        return None;
    }
    let script = format!("{mount} && shift && exec \"$@\"");
    let mut command = in_namespace(&script);
    command.args([PROGRAM, "server", "--bind", "127.0.0.1", "--port", "0", "--data"]);
    command.arg(workplace.join("disk/data")).args(flags);
    Some(TestServer::of(command, workplace.join("disk/data"), workplace.join("disk.log"), false))
}

/// Writes into a file until there is no room.
pub fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    for size in [64 * 1024, 4_096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_server_on_a_full_disk_stays_loses_nothing_and_goes_on_when_there_is_room() {
    let workplace = Workplace::new();
    let Some(server) = start(&workplace, &SERVER_FLAGS) else {
        println!("no file system can be mounted here: a full disk is not tested");
        return;
    };
    // The file system as the server's process sees it.
    let disk = format!("/proc/{}/root{}", server.id(), workplace.join("disk").display());
    std::os::unix::fs::symlink(format!("{disk}/data"), workplace.join("data")).unwrap();
    fs::create_dir(workplace.join("bin")).unwrap();
    std::os::unix::fs::symlink(PROGRAM, workplace.join("bin/cyberbackup")).unwrap();
    let mut world = World::of(workplace, server);
    world.sh("cyberbackup enroll ada --data /var/lib/cyberbackup").expect(0);
    world.sh(&format!("export CYBERBACKUP_ENROLL_TOKEN={}", super::TOKEN)).expect(0);
    for seed in 0..2 {
        world.workplace.write("source/changing", noise(6 * MIB, seed));
        world.sh(BACKUP).expect(0);
    }
    world.exported.clear();
    let (snapshots, before) = (world.snapshots(), contents(&world.source()));
    assert_eq!(snapshots.len(), 2);

    // More than there is room for.
    for n in 0..7u64 {
        world.workplace.write(format!("source/more{n}"), noise(2 * MIB, 10 + n));
    }
    let full = world.sh(BACKUP).expect(1);
    assert!(full.err().contains("the server's disk is full"), "{}", full.err());
    fill(Path::new(&format!("{disk}/filler")));
    let full = world.sh(BACKUP).expect(1);
    assert!(full.err().contains("the server's disk is full"), "{}", full.err());
    // What was stored is there, and is given.
    assert_eq!(world.snapshots(), snapshots);
    world.check_restored("latest", &before);
    world.sh("cyberbackup verify --data /var/lib/cyberbackup").expect(0);

    fs::OpenOptions::new().append(true).open(format!("{disk}/filler")).unwrap().write_all(b"x").unwrap_err();
    let runs = world.run_section("The disk is full");
    assert!(runs[0].out().contains("1 dropped, 1 kept"), "{}", runs[0].out());
    assert!(runs[1].err().contains("going on with the upload"), "{}", runs[1].err());
    let wanted = contents(&world.source());
    world.check_restored("latest", &wanted);
    let line = format!("cyberbackup verify --server {ADDRESS} --user ada");
    world.sh(&line).expect(0);
}
