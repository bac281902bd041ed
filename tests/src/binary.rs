//! The binary `fisherflow`, and how a command of it ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A command of the binary, built once a test process from the sources as they are, without colours, and without what the environment
/// says about object stores, logs and secrets.
///
/// # Panics
/// The binary does not build.
#[must_use]
pub fn fisherflow() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(BINARY.get_or_init(build));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("AWS_") || name == "FISHERFLOW_LOG" || name == "FISHERFLOW_CLUSTER_SECRET" {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// What a finished process left.
    ///
    /// # Panics
    /// It panicked: nothing that a user can ask for may.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        let ended = Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!ended.stderr.contains("panicked"), "{ended}");
        assert!(!ended.stderr.contains("internal error"), "{ended}");
        ended
    }

    /// It ended with this code, and its standard error says each of these.
    ///
    /// # Panics
    /// It did not.
    pub fn expect(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        for words in said {
            assert!(self.stderr.contains(words), "\"{words}\" is not said\n{self}");
        }
        if code != 0 {
            let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!(errors, 1, "one line says what is wrong\n{self}");
        }
    }

    /// It did what was asked for.
    ///
    /// # Panics
    /// It did not.
    pub fn expect_done(&self) {
        self.expect(0, &[]);
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit code {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started, or it panicked.
pub fn run(command: &mut Command) -> Ended {
    Ended::of(&command.output().expect("the binary starts"))
}

/// Runs a command on a run file or an output, with more arguments, to its end.
///
/// # Panics
/// As [`run`].
pub fn fisherflow_on(command: &str, at: &Path, more: &[&str]) -> Ended {
    run(fisherflow().arg(command).arg(at).args(more))
}

/// Builds as a shell would: what `cargo test` tells a test about its own package would make build scripts run again (ring's does).
fn build() -> PathBuf {
    const OF_THIS_PACKAGE: [&str; 5] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if OF_THIS_PACKAGE.iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
    let output = cargo
        .args([
            "build",
            "--release",
            "--locked",
            "-p",
            "fisherflow-cli",
            "--message-format",
            "json",
        ])
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the binary does not build");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the binary")
}
