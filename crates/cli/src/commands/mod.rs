//! Each command, from what is meant to what is printed.

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::resolve::Task;

/// Carries a command out.
///
/// # Errors
/// Whatever ended it.
pub fn carry_out(task: Task, _terminal: &Terminal) -> Result<(), CliError> {
    let _ = task;
    Ok(())
}
