//! Several processes of one run on this machine.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::binary::{Ended, fisherflow};

/// Addresses on this machine that nothing listens at.
///
/// # Panics
/// There is no free port.
#[must_use]
pub fn free_addresses(n: usize) -> Vec<String> {
    let held: Vec<TcpListener> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("an address").to_string()).collect()
}

/// Running processes, killed when dropped.
#[derive(Debug)]
pub struct Processes(Vec<Option<Child>>);

impl Processes {
    /// Starts `fisherflow run` of one run file a process, with `workers` workers each.
    ///
    /// # Panics
    /// One cannot be started.
    #[must_use]
    pub fn start(folder: &Path, run_files: &[&Path], addresses: &[String], workers: usize, more: &[&str]) -> Self {
        let hosts = folder.join(format!("hosts-{}", addresses.join("-").replace([':', '.'], "_")));
        std::fs::write(&hosts, addresses.join("\n")).expect("a hostfile can be written");
        let children = run_files.iter().enumerate().map(|(process, run_file)| {
            let mut command = fisherflow();
            command.arg("run").arg(run_file).args(["-n", &run_files.len().to_string(), "-p", &process.to_string()]);
            command.args(["-w", &workers.to_string(), "--hostfile"]).arg(&hosts).args(more);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            Some(command.spawn().expect("the binary starts"))
        });
        Self(children.collect())
    }

    /// Whether a process has ended by itself.
    ///
    /// # Panics
    /// The system does not say.
    pub fn has_ended(&mut self, process: usize) -> bool {
        match &mut self.0[process] {
            Some(child) => child.try_wait().expect("a child can be asked").is_some(),
            None => true,
        }
    }

    /// Kills a process with SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// The system refuses.
    pub fn kill(&mut self, process: usize) {
        if let Some(mut child) = self.0[process].take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Waits for the end of a process.
    ///
    /// # Panics
    /// It was killed before, or panicked.
    pub fn wait(&mut self, process: usize) -> Ended {
        let child = self.0[process].take().expect("a process that runs");
        Ended::of(&child.wait_with_output().expect("a child can be waited for"))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.0.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
