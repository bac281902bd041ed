//! The addresses of the processes: the first n lines of a file, as timely reads them, or ports of this machine.

use std::path::{Path, PathBuf};

/// The first port where no hostfile is given, as in every timely program.
pub const FIRST_PORT: u16 = 2101;

/// A hostfile that does not name the processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostfileError {
    /// The file cannot be read.
    #[error("cannot read the hostfile {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is no address.
    #[error("{}:{line}: `{said}` is no address, expected host:port", path.display())]
    NoAddress {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What stands there.
        said: String,
    },
    /// Two lines are the same address.
    #[error("{}:{line}: `{said}` stands there twice, each process needs an address of its own", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The second line, counted from 1.
        line: usize,
        /// The address.
        said: String,
    },
    /// Fewer addresses than processes.
    #[error("{} has {found} addresses, -n {processes} needs a line of host:port for each process", path.display())]
    TooFew {
        /// The file.
        path: PathBuf,
        /// Addresses found.
        found: usize,
        /// Addresses needed.
        processes: usize,
    },
}

/// `localhost:2101`, `localhost:2102`, ...
pub fn localhost(processes: usize) -> Vec<String> {
    (0..processes)
        .map(|i| format!("localhost:{}", usize::from(FIRST_PORT) + i))
        .collect()
}

/// The first `processes` addresses of a file, a line each; blank lines and lines that begin with `#` do not count.
///
/// # Errors
/// The file cannot be read, has too few lines, or a line is no `host:port`.
pub fn read(path: &Path, processes: usize) -> Result<Vec<String>, HostfileError> {
    let text = std::fs::read_to_string(path).map_err(|source| HostfileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text, processes)
}

fn parse(path: &Path, text: &str, processes: usize) -> Result<Vec<String>, HostfileError> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .take(processes);
    let mut addresses: Vec<String> = Vec::new();
    for (line, said) in lines {
        let (path, said) = (path.to_owned(), said.to_owned());
        if !is_address(&said) {
            return Err(HostfileError::NoAddress { path, line, said });
        }
        if addresses.contains(&said) {
            return Err(HostfileError::Twice { path, line, said });
        }
        addresses.push(said);
    }
    if addresses.len() < processes {
        return Err(HostfileError::TooFew {
            path: path.to_owned(),
            found: addresses.len(),
            processes,
        });
    }
    Ok(addresses)
}

/// `host:port`, the host a name or an IPv4 address.
pub fn is_address(said: &str) -> bool {
    said.rsplit_once(':').is_some_and(|(host, port)| {
        let is_one = !host.is_empty() && !host.contains(|c: char| c == ':' || c.is_whitespace());
        is_one && port.parse::<u16>().is_ok_and(|p| p != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str, n: usize) -> Result<Vec<String>, String> {
        parse(Path::new("hosts.txt"), text, n).map_err(|e| e.to_string())
    }

    #[test]
    fn takes_the_first_lines() {
        let text = "node-0:2101\n\n# spare\n node-1:2101 \n10.0.0.2:2101\n";
        assert_eq!(hosts(text, 2).unwrap(), ["node-0:2101", "node-1:2101"]);
        assert_eq!(hosts(text, 3).unwrap()[2], "10.0.0.2:2101");
        assert_eq!(localhost(2), ["localhost:2101", "localhost:2102"]);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert_eq!(
            hosts("a:1\n", 2).unwrap_err(),
            "hosts.txt has 1 addresses, -n 2 needs a line of host:port for each process"
        );
        for bad in ["a", "a:", ":1", "a:0", "a:70000", "[::1]:2101", "a b:1"] {
            assert_eq!(
                hosts(&format!("ok:1\n{bad}\n"), 2).unwrap_err(),
                format!("hosts.txt:2: `{bad}` is no address, expected host:port")
            );
        }
        assert!(hosts("a:1\na:1\n", 2).unwrap_err().contains("hosts.txt:2"));
    }
}
