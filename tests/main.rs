//! The program as its users meet it: the real binary, over real sockets, against real files.
//!
//! One test binary; a module for each behaviour. `cargo test --profile quick demo_scenarios` runs the end-to-end
//! ones alone.

mod allocations;
mod at_rest;
mod bad_lines;
mod bridge;
mod client;
mod contrib;
mod damage;
mod deltas;
mod demo_scenarios;
mod encryption;
mod hooks;
mod instructions;
mod legacy;
mod memory;
mod page;
mod progress_reporting;
mod prune;
mod random_changes;
mod recovery;
mod restore_resume;
mod resume;
mod rotation;
mod scale;
mod server;
mod support;
mod tidy;
mod vault;
mod verifying;
// What is timed by `cargo bench` is what is counted here.
#[path = "../benches/kernels/workload.rs"]
mod workload;
