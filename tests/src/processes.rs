//! Several processes of one run on this machine.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary::{Ended, fisherflow};

/// A process that takes longer hangs.
const HANGS: Duration = Duration::from_secs(240);

/// Addresses on this machine that nothing listens at. Below the ports that connections are made from: who dials one of those again and again, while
/// nobody listens, at last meets itself there.
///
/// # Panics
/// A listener does not know where it listens.
#[must_use]
pub fn free_addresses(n: usize) -> Vec<String> {
    let mut held = Vec::new();
    while held.len() < n {
        held.extend(TcpListener::bind(("127.0.0.1", rand::random_range(10_000..32_000))));
    }
    held.iter()
        .map(|listener| listener.local_addr().expect("an address").to_string())
        .collect()
}

/// The processes of one cluster on free ports, killed when dropped.
#[derive(Debug)]
pub struct Processes {
    addresses: Vec<String>,
    hosts: tempfile::NamedTempFile,
    children: Vec<Option<Child>>,
}

impl Processes {
    /// Places for `n` processes; none is started.
    ///
    /// # Panics
    /// The hostfile cannot be written.
    #[must_use]
    pub fn new(n: usize) -> Self {
        let addresses = free_addresses(n);
        let hosts = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(hosts.path(), addresses.join("\n")).expect("a hostfile can be written");
        Self {
            addresses,
            hosts,
            children: (0..n).map(|_| None).collect(),
        }
    }

    /// A process of its own, of a command that runs a run file, which stands still at a point.
    ///
    /// # Panics
    /// It cannot be started, ends before, or hangs.
    #[must_use]
    pub fn stopped_at(point: &str, mut command: Command) -> Self {
        let mut process = Self::new(1);
        command.args(["--fail-at", &format!("{point}:stop")]);
        process.spawn_as(0, command);
        let started = Instant::now();
        while !process.is_stopped(0) {
            assert!(!process.has_ended(0), "{point}: {}", process.wait(0));
            assert!(started.elapsed() < HANGS, "{point}: never");
            std::thread::sleep(Duration::from_millis(2));
        }
        process
    }

    /// A cluster that runs one run file, each process with `workers` workers.
    ///
    /// # Panics
    /// A process cannot be started.
    #[must_use]
    pub fn start(n: usize, run_file: &Path, workers: usize) -> Self {
        let mut processes = Self::new(n);
        for process in 0..n {
            processes.spawn(process, run_file, workers, &[]);
        }
        processes
    }

    /// Starts `fisherflow run` as one of the processes.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(&mut self, process: usize, run_file: &Path, workers: usize, more: &[&str]) {
        let mut command = fisherflow();
        self.place(&mut command, process, run_file);
        command.args(["-w", &workers.to_string()]).args(more);
        self.spawn_as(process, command);
    }

    /// Lets a command run a run file as one of the processes.
    pub fn place(&self, command: &mut Command, process: usize, run_file: &Path) {
        command
            .arg("run")
            .arg(run_file)
            .args([
                "-n",
                &self.children.len().to_string(),
                "-p",
                &process.to_string(),
                "--hostfile",
            ])
            .arg(self.hosts.path());
    }

    /// Starts a command as one of the processes.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn_as(&mut self, process: usize, mut command: Command) {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.children[process] = Some(command.spawn().expect("the binary starts"));
    }

    /// Sends a process a signal: `TERM`, `STOP`, ...
    ///
    /// # Panics
    /// There is no such process, or no such signal.
    pub fn signal(&self, process: usize, signal: &str) {
        let child = self.children[process].as_ref().expect("a process that was started");
        let signal: Signal = format!("SIG{signal}").parse().expect("a signal");
        kill(Pid::from_raw(child.id() as i32), signal).expect("the process takes signals");
    }

    /// Where a process listens.
    #[must_use]
    pub fn address(&self, process: usize) -> &str {
        &self.addresses[process]
    }

    /// Whether a process has ended by itself.
    ///
    /// # Panics
    /// The system does not say.
    pub fn has_ended(&mut self, process: usize) -> bool {
        match &mut self.children[process] {
            Some(child) => child.try_wait().expect("a child can be asked").is_some(),
            None => true,
        }
    }

    /// The number that the system gave a process.
    ///
    /// # Panics
    /// It was not started.
    #[must_use]
    pub fn id(&self, process: usize) -> u32 {
        self.children[process]
            .as_ref()
            .expect("a process that was started")
            .id()
    }

    /// Whether a process is stopped, by SIGSTOP.
    #[must_use]
    pub fn is_stopped(&self, process: usize) -> bool {
        let child = self.children[process].as_ref();
        let stat = child.and_then(|child| std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok());
        // The state follows the program's name, which stands in brackets.
        stat.is_some_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")))
    }

    /// Kills a process with SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// The system refuses.
    pub fn kill(&mut self, process: usize) {
        if let Some(mut child) = self.children[process].take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Waits for the end of a process.
    ///
    /// # Panics
    /// It was killed before, hangs, or panicked.
    pub fn wait(&mut self, process: usize) -> Ended {
        let started = Instant::now();
        while !self.has_ended(process) {
            assert!(started.elapsed() < HANGS, "process {process} hangs");
            std::thread::sleep(Duration::from_millis(10));
        }
        let child = self.children[process].take().expect("a process that was started");
        Ended::of(&child.wait_with_output().expect("a child can be waited for"))
    }

    /// Waits for all of them, in order.
    ///
    /// # Panics
    /// As [`Processes::wait`].
    pub fn wait_all(&mut self) -> Vec<Ended> {
        (0..self.children.len()).map(|process| self.wait(process)).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A run of a run file, a process of its own, which stands still at a point.
///
/// # Panics
/// As [`Processes::stopped_at`].
#[must_use]
pub fn stopped_at(point: &str, run_file: &Path) -> Processes {
    let mut command = fisherflow();
    command.arg("run").arg(run_file);
    Processes::stopped_at(point, command)
}

/// Waits for a file to be there while a process runs; `false` where the process ended first.
///
/// # Panics
/// The process hangs.
pub fn wait_for_file(file: &Path, processes: &mut Processes, process: usize) -> bool {
    let started = Instant::now();
    while !file.exists() {
        if processes.has_ended(process) {
            return false;
        }
        assert!(
            started.elapsed() < HANGS,
            "process {process} never writes {}",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
