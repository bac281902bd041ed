//! The limit on open files: many systems begin with 1,024 a process, and a worker holds two for every large file that it writes.

/// Raises it as far as the system allows this process.
#[cfg(unix)]
pub fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let files = Resource::RLIMIT_NOFILE;
    if let Err(error) = getrlimit(files).and_then(|(_, most)| setrlimit(files, most, most)) {
        // Where it is too low, whoever needs more of them says so.
        tracing::debug!(%error, "the limit on open files stays");
    }
}

/// Nothing to raise.
#[cfg(not(unix))]
pub fn raise_limit() {}
