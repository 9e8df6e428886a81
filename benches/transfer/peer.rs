//! An rsync daemon: unencrypted, unverified, and the fastest that people have.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(10);

pub struct Rsync {
    daemon: Child,
    port: u16,
    pub data: PathBuf,
}

impl Rsync {
    /// Starts a daemon with an empty module in `folder`; none where rsync is not installed.
    pub fn start(folder: &Path) -> Option<Rsync> {
        Command::new("rsync").arg("--version").stdout(Stdio::null()).status().ok()?;
        let data = folder.join("rsync-data");
        fs::create_dir_all(&data).expect("a folder can be made");
        let port =
            TcpListener::bind("127.0.0.1:0").expect("loopback is there").local_addr().expect("a port").port();
        let config = folder.join("rsyncd.conf");
        let text = format!(
            "port = {port}\naddress = 127.0.0.1\nuse chroot = no\nuid = {}\ngid = {}\nlog file = {}\n\
             [store]\npath = {}\nread only = no\n",
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
            folder.join("rsync.log").display(),
            data.display(),
        );
        fs::write(&config, text).expect("a file can be written");
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let daemon = command.stdin(Stdio::null()).spawn().expect("rsync starts");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < START_MAX, "the rsync daemon does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Some(Rsync { daemon, port, data })
    }

    pub fn id(&self) -> u32 {
        self.daemon.id()
    }

    pub fn forget(&self) {
        let _ = fs::remove_dir_all(&self.data);
        fs::create_dir_all(&self.data).expect("a folder can be made");
    }

    fn address(&self, below: &str) -> String {
        format!("rsync://127.0.0.1:{}/store/{below}", self.port)
    }

    pub fn send(&self, source: &Path, below: &str) -> Command {
        let mut command = Command::new("rsync");
        command.arg("-a").arg(format!("{}/", source.display())).arg(self.address(below));
        command
    }

    pub fn fetch(&self, below: &str, target: &Path) -> Command {
        let mut command = Command::new("rsync");
        command.arg("-a").arg(self.address(below)).arg(format!("{}/", target.display()));
        command
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
