//! One run of a command, and what it cost on both sides.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::corpus::stored_bytes;

/// How often the peak memory of a process is looked at. It only rises, so the last look before the end is what counts.
const LOOK: Duration = Duration::from_millis(2);
/// Clock ticks a second in the kernel's table of processes, on every Linux of today.
const TICKS: f64 = 100.0;

/// What one run cost.
#[derive(Clone, Default)]
pub struct Cost {
    pub wall: f64,
    /// Seconds of CPU time, in steps of 10 ms.
    pub client_cpu: f64,
    pub server_cpu: f64,
    pub client_kib: u64,
    pub server_kib: u64,
    /// Bytes that came through the loopback interface, headers and all.
    pub wire: u64,
    /// What the data folder has grown by, in blocks.
    pub stored: i64,
}

/// The server that takes part in a run.
pub struct Side<'a> {
    pub id: u32,
    pub data: &'a Path,
}

/// Runs all of the commands at once, from the start of the first to the end of the last. Each must succeed.
pub fn run(commands: Vec<Command>, server: &Side<'_>) -> Cost {
    let stored = stored_bytes(server.data) as i64;
    // What earlier runs wrote is not this one's to wait for.
    rustix::fs::sync();
    // The peak of before is none of this run either.
    let _ = fs::write(format!("/proc/{}/clear_refs", server.id), "5");
    let (wire, server_cpu) = (loopback_bytes(), cpu_seconds(server.id));
    let began = Instant::now();
    let children: Vec<Child> = commands.into_iter().map(start).collect();
    let clients: Vec<(f64, u64)> = thread::scope(|scope| {
        let waiting: Vec<_> = children.into_iter().map(|child| scope.spawn(move || finish(child))).collect();
        waiting.into_iter().map(|one| one.join().expect("the command succeeded")).collect()
    });
    Cost {
        wall: began.elapsed().as_secs_f64(),
        client_cpu: clients.iter().map(|(cpu, _)| cpu).sum(),
        server_cpu: cpu_seconds(server.id) - server_cpu,
        client_kib: clients.iter().map(|(_, peak)| *peak).max().unwrap_or(0),
        server_kib: peak_memory_kib(server.id).unwrap_or(0),
        wire: loopback_bytes() - wire,
        stored: stored_bytes(server.data) as i64 - stored,
    }
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Waits for the end; its CPU seconds and peak memory.
fn finish(mut child: Child) -> (f64, u64) {
    let pid = Pid::from_child(&child);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let mut peak = 0;
    // Ended and not yet waited for, its times can still be read.
    while waitid(WaitId::Pid(pid), options).expect("it is a child").is_none() {
        peak = peak_memory_kib(child.id()).unwrap_or(peak);
        thread::sleep(LOOK);
    }
    let cpu = cpu_seconds(child.id());
    let status = child.wait().expect("it has ended");
    assert!(status.success(), "a measured command failed: {status}");
    (cpu, peak)
}

fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Behind the name, which may have any character in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}

fn peak_memory_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn loopback_bytes() -> u64 {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
