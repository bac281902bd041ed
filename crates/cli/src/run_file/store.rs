//! `[store]`: how long to try again with an object store that is busy or away.

use std::time::Duration;

use fisherflow_store::Patience;

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[store]`.
pub const KEYS: &[&str] = &["retries", "retry_seconds", "timeout_seconds", "connect_timeout_seconds"];

/// Reads the table.
///
/// # Errors
/// Wrong values.
pub fn read(table: &Table<'_>) -> Result<Patience, RunFileError> {
    let mut read = Patience::default();
    if let Some(e) = table.get("retries") {
        read.retries = e.count(0)?;
    }
    if let Some(e) = table.get("retry_seconds") {
        read.retry_for = seconds(&e)?;
    }
    if let Some(e) = table.get("timeout_seconds") {
        read.timeout = seconds(&e)?;
    }
    if let Some(e) = table.get("connect_timeout_seconds") {
        read.connect_timeout = seconds(&e)?;
    }
    Ok(read)
}

/// A time above 0 and below a day.
fn seconds(entry: &Entry<'_>) -> Result<Duration, RunFileError> {
    let seconds = entry.number()?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(entry.invalid(format!("is {seconds}, expected seconds above 0, at most 86400")))
    }
}
