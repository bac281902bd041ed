//! How products are made: on which path, on how many threads.

use crate::path::Path;

/// A path and a number of threads. A number of threads alone means [`Path::best`]; the bits of no product depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Products {
    /// The path, which the machine has to have.
    pub path: Path,
    /// Threads a product may use; 0 counts as 1.
    pub threads: usize,
}

impl From<usize> for Products {
    fn from(threads: usize) -> Self {
        Self {
            path: Path::best(),
            threads,
        }
    }
}
