//! Helpers outside Rust that `tests/run` provides: a Python with readers of Parquet, and an S3 server.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::binary::repository;

/// The Python of `tests/environment`; `None`, saying so, where `FISHERFLOW_TEST_PYTHON` does not name one.
#[must_use]
pub fn python() -> Option<PathBuf> {
    said("FISHERFLOW_TEST_PYTHON").map(PathBuf::from)
}

/// The endpoint of the S3 server of `tests/run`; `None`, saying so, where `FISHERFLOW_TEST_S3_ENDPOINT` does not name one.
#[must_use]
pub fn s3_endpoint() -> Option<String> {
    said("FISHERFLOW_TEST_S3_ENDPOINT")
}

/// Runs a script and leaves without taking the interpreter down: a thread of pyarrow that still holds a Python file at that moment aborts the
/// process now and then, when the script has long ended (<https://github.com/apache/arrow/issues/39162>).
const RUN: &str = "\
import os, runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
sys.stdout.flush()
os._exit(0)
";

/// What a script of `tests/consumers` prints, as JSON; `None`, saying so, where there is no Python.
///
/// # Panics
/// The script fails, or does not print JSON.
pub fn consumer<I>(script: &str, arguments: I) -> Option<Value>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let output = Command::new(python()?)
        .args(["-c", RUN])
        .arg(repository().join("tests/consumers").join(script))
        .args(arguments)
        .output()
        .expect("Python starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{script}:\n{stdout}\n{stderr}");
    print!("{stderr}");
    Some(serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{script} prints no JSON ({error}):\n{stdout}")))
}

fn said(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        println!("skipped: {name} is not set; tests/run sets it");
    }
    value
}
