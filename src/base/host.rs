//! This host, as far as the program needs to know it.

/// A name of this boot of this kernel; empty where the system has none. Two processes that see the same one
/// share devices and inodes.
pub fn boot_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_string()
}

/// Raises the number of descriptors this process may have to what the system allows it.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Not allowed to: it stays as it was, and the accept loop copes.
    let _ = setrlimit(Resource::Nofile, limit);
}
