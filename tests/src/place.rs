//! A folder in which runs are tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::binary::fisherflow_on;
use crate::catalogue::{simulated, write_objects};
use crate::network::network;
use crate::output::digests;
use crate::run_file::RunFile;

/// A folder with a network and a catalogue, removed when dropped.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A network of these widths, and so many simulated spectra in objects of 60.
    ///
    /// # Panics
    /// They cannot be written.
    #[must_use]
    pub fn new(widths: &[usize], spectra: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        network(&folder.path().join("network.safetensors"), widths);
        write_objects(&folder.path().join("catalogue"), &simulated(widths[0], 0, spectra), 60);
        Self { folder }
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What has a name in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// A run file with an output of this name.
    #[must_use]
    pub fn run_file(&self, output: &str) -> PathBuf {
        RunFile::new(self.folder(), output).write(self.folder(), output)
    }

    /// Another run on the same output.
    #[must_use]
    pub fn other_run_file(&self, output: &str) -> PathBuf {
        let mut run_file = RunFile::new(self.folder(), output);
        run_file.compute = "batch = 32\ngroup = 50".to_owned();
        run_file.write(self.folder(), &format!("other-{output}"))
    }

    /// What an undisturbed run leaves, in `undisturbed`.
    ///
    /// # Panics
    /// It is not done.
    pub fn undisturbed(&self) -> BTreeMap<String, String> {
        fisherflow_on("run", &self.run_file("undisturbed"), &[]).expect_done();
        digests(&self.path("undisturbed"))
    }
}
