//! What the command line asks for.

use std::path::PathBuf;

pub const USAGE: &str =
    "usage: cargo bench --bench transfer -- [--runs N] [--scale N] [--memory DIR] [--store DIR] \
                         [--program FILE] [--no-peer] [--json] [SCENARIO…]

  --runs N        runs of each scenario, the best of which counts (5)
  --scale N       everything N times smaller, to see whether it works (1)
  --memory DIR    where sources and restored files lie (/dev/shm)
  --store DIR     where the server keeps its data (cargo's folder for temporary files)
  --program FILE  the program to measure (the one that cargo has built)
  --no-peer       without rsync
  --json          print JSON
  SCENARIO        run only those whose name has this text in it";

pub struct Options {
    pub runs: usize,
    pub scale: u64,
    pub memory: PathBuf,
    pub store: PathBuf,
    pub program: PathBuf,
    pub with_peer: bool,
    pub json: bool,
    chosen: Vec<String>,
}

impl Options {
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            runs: 5,
            scale: 1,
            memory: PathBuf::from("/dev/shm"),
            store: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            program: PathBuf::from(env!("CARGO_BIN_EXE_cyberbackup")),
            with_peer: true,
            json: false,
            chosen: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--runs" => options.runs = number(&value()?)? as usize,
                "--scale" => options.scale = number(&value()?)?,
                "--memory" => options.memory = value()?.into(),
                "--store" => options.store = value()?.into(),
                "--program" => options.program = value()?.into(),
                "--no-peer" => options.with_peer = false,
                "--json" => options.json = true,
                flag if flag.starts_with('-') => return Err(format!("there is no option {flag}")),
                _ => options.chosen.push(argument),
            }
        }
        Ok(options)
    }

    pub fn chooses(&self, name: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|text| name.contains(text.as_str()))
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or(format!("\"{text}\" is no number above zero"))
}
