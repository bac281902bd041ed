//! A run that is disturbed, and started again until it is done: what every attempt must look like from outside.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::processes::Processes;

/// From the start of a process to the moment at which it hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// What is done to one process of an attempt.
#[derive(Clone, Debug)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// `--fail-at` of a process: it kills or stops itself.
    At(usize, String),
    /// A process is sent KILL or STOP, so long after the start.
    Signal(usize, &'static str, Duration),
}

/// One attempt: all processes at once, a disturbance, and the end of them all.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Number of processes.
    pub processes: usize,
    /// Workers of each.
    pub workers: usize,
    /// What is done to them.
    pub disturbance: Disturbance,
    /// Seconds that they wait for one another at start-up.
    pub deadline: u64,
    /// Whether a process that died is started again at once: while the others wait for it.
    pub replaced: bool,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Whether the disturbance came in time to kill or stop a process.
    pub disturbed: bool,
    /// Whether every process ended with 0.
    pub done: bool,
}

impl Attempt {
    /// Starts the processes with `command` and lets them end. Whoever is not killed ends with 0, or with 75 and one line that says to run
    /// again; who is stopped is killed once all others have ended.
    ///
    /// # Panics
    /// A process ends otherwise, or hangs.
    #[must_use]
    pub fn run(&self, run_file: &Path, command: impl Fn() -> Command) -> Ends {
        let mut processes = Processes::new(self.processes);
        for process in 0..self.processes {
            let mut command = self.command(process, &processes, run_file, &command);
            if let Disturbance::At(whom, point) = &self.disturbance
                && *whom == process
            {
                command.args(["--fail-at", point]);
            }
            processes.spawn_as(process, command);
        }
        let mut replaced = false;
        if let (Disturbance::At(whom, _), true) = (&self.disturbance, self.replaced) {
            let ended = processes.wait(*whom);
            assert_eq!(ended.code, None, "{self:?}: it does not come by\n{ended}");
            replaced = true;
            let again = self.command(*whom, &processes, run_file, &command);
            processes.spawn_as(*whom, again);
        }
        let disturbed = self.disturb(&mut processes);
        let mut ends = Ends {
            disturbed: disturbed || replaced,
            done: !disturbed,
        };
        for (process, ended) in processes.wait_all().into_iter().enumerate() {
            match ended.code {
                Some(0) => {}
                None if self.disturbance.is_to(process) => {
                    ends.disturbed = true;
                    ends.done = false;
                }
                _ => {
                    ended.expect(75, &["run again"]);
                    ends.done = false;
                }
            }
        }
        ends
    }

    fn command(
        &self,
        process: usize,
        processes: &Processes,
        run_file: &Path,
        command: impl Fn() -> Command,
    ) -> Command {
        let mut command = command();
        processes.place(&mut command, process, run_file);
        command.args(["-w", &self.workers.to_string(), "--peer-timeout", "1"]);
        command.args(["--deadline", &self.deadline.to_string()]);
        command
    }

    /// Waits until all have ended, or are stopped, and ends those; whether a signal of ours reached a living process.
    fn disturb(&self, processes: &mut Processes) -> bool {
        let started = Instant::now();
        let (mut disturbed, mut sent) = (false, false);
        loop {
            if let Disturbance::Signal(whom, signal, after) = self.disturbance
                && !sent
                && started.elapsed() >= after
            {
                sent = true;
                if !processes.has_ended(whom) {
                    processes.signal(whom, signal);
                    disturbed = true;
                }
            }
            let living: Vec<usize> = (0..self.processes)
                .filter(|&process| !processes.has_ended(process))
                .collect();
            if living.iter().all(|&process| processes.is_stopped(process)) {
                for process in living {
                    processes.signal(process, "KILL");
                    disturbed = true;
                }
                return disturbed;
            }
            assert!(started.elapsed() < HANGS, "{self:?}: processes {living:?} hang");
            std::thread::sleep(LOOK);
        }
    }
}

impl Disturbance {
    fn is_to(&self, process: usize) -> bool {
        match self {
            Self::None => false,
            Self::At(whom, _) | Self::Signal(whom, ..) => *whom == process,
        }
    }
}
