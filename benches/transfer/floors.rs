//! What this machine can do at all, measured in the same run.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::options::Options;

const COPIED_BYTES: u64 = 1 << 30;
const PIECE_BYTES: usize = 128 << 10;

/// Bytes in a second.
pub struct Floors {
    /// AES-256-CBC encryption by one core, without any authentication; none where openssl is missing.
    pub aes_cbc: Option<f64>,
    /// From one process through a loopback connection to nowhere.
    pub loopback: f64,
}

pub fn measure(options: &Options) -> Floors {
    Floors { aes_cbc: openssl_speed(), loopback: best_loopback(options) }
}

fn openssl_speed() -> Option<f64> {
    let output = Command::new("openssl")
        .args(["speed", "-elapsed", "-mr", "-seconds", "2", "-bytes", "16384", "-evp", "aes-256-cbc"])
        .output()
        .ok()?;
    // Its last line for machines: +F:number:name:bytes a second.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("+F:"))?.rsplit(':').next()?.trim().parse().ok()
}

fn best_loopback(options: &Options) -> f64 {
    let bytes = (COPIED_BYTES / options.scale).max(PIECE_BYTES as u64);
    (0..options.runs).map(|_| loopback(bytes)).fold(0.0, f64::max)
}

fn loopback(bytes: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("it has an address");
    let began = Instant::now();
    let sender = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let piece = vec![0x5a; PIECE_BYTES];
        (0..bytes / PIECE_BYTES as u64).for_each(|_| stream.write_all(&piece).expect("the other end reads"));
    });
    let (mut stream, _) = listener.accept().expect("the sender connects");
    let mut piece = vec![0; PIECE_BYTES];
    let mut received = 0;
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        received += count;
    }
    sender.join().expect("all was sent");
    received as f64 / began.elapsed().as_secs_f64()
}

impl fmt::Display for Floors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.aes_cbc {
            Some(rate) => write!(f, "aes-256-cbc {:.2} GB/s on one core", rate / 1e9)?,
            None => write!(f, "no openssl here")?,
        }
        write!(f, "; loopback copy {:.2} GB/s", self.loopback / 1e9)
    }
}
