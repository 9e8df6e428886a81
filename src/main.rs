//! The `cyberbackup` program.

fn main() {
    let words = std::env::args_os().skip(1).collect();
    std::process::exit(cyberbackup::cli::run(words));
}
