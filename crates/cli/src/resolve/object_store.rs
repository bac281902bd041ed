//! `AWS_*` variables into [`StoreOptions`]: read here alone, and only for URIs that need them.

use fisherflow_store::StoreOptions;

use crate::environment::Environment;
use crate::exit_code::CliError;

/// The options for reaching `uris`.
///
/// # Errors
/// A variable that one of them needs is not text, or not one that the store knows.
pub fn options(environment: &Environment, uris: &[&str]) -> Result<StoreOptions, CliError> {
    let reaches_s3 = uris
        .iter()
        .any(|uri| uri.starts_with("s3://") || uri.starts_with("s3a://"));
    if !reaches_s3 {
        return Ok(StoreOptions::default());
    }
    if let Some(name) = environment.unreadable.first() {
        return Err(CliError::Arguments(format!(
            "the environment variable {name} is not text"
        )));
    }
    Ok(StoreOptions {
        s3: environment.aws.clone(),
    })
}
