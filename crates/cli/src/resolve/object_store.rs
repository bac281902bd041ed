//! `AWS_*` variables into [`StoreOptions`]: read here alone, and only for URIs that need them.

use fisherflow_store::{CredentialsFile, Patience, StoreError, StoreOptions};

use crate::environment::Environment;
use crate::exit_code::CliError;

const CREDENTIALS_FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
const PROFILE: &str = "AWS_PROFILE";

/// The options for reaching `uris` as a run file is patient.
///
/// # Errors
/// As [`options`].
pub fn patient(environment: &Environment, uris: &[&str], patience: &Patience) -> Result<StoreOptions, CliError> {
    Ok(StoreOptions {
        patience: patience.clone(),
        ..options(environment, uris)?
    })
}

/// The options for reaching `uris`: every `AWS_*` variable that the store knows.
///
/// Other programs have `AWS_*` variables of their own, so one that the store does not know is no error; it is logged, by its name alone.
///
/// # Errors
/// A variable is not text, or the store can make no request of what it says.
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
    let credentials_file = credentials_file(environment);
    let is_alone = credentials_file.is_none() && said(environment, "AWS_ACCESS_KEY_ID").is_none();
    if is_alone && said(environment, PROFILE).is_some() {
        tracing::warn!(
            variable = PROFILE,
            "names a profile of no file: ignored; AWS_SHARED_CREDENTIALS_FILE says which file has it"
        );
    }
    let mut known = StoreOptions {
        credentials_file,
        ..StoreOptions::default()
    };
    for (name, value) in &environment.aws {
        if [CREDENTIALS_FILE, PROFILE].contains(&name.as_str()) {
            continue;
        }
        let one = StoreOptions {
            s3: vec![(name.to_lowercase(), value.clone())],
            ..StoreOptions::default()
        };
        match one.validate() {
            Ok(()) => known.s3.extend(one.s3),
            Err(StoreError::UnknownOption { nearest, .. }) => {
                warn_of(name, nearest.as_deref());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(known)
}

/// The profile of the shared credentials file, where one is named.
fn credentials_file(environment: &Environment) -> Option<CredentialsFile> {
    Some(CredentialsFile {
        path: said(environment, CREDENTIALS_FILE)?,
        profile: said(environment, PROFILE).unwrap_or_else(|| "default".to_owned()),
    })
}

/// What a variable says, if it is set.
fn said(environment: &Environment, wanted: &str) -> Option<String> {
    let found = environment.aws.iter().find(|(name, _)| name == wanted);
    found.map(|(_, value)| value.clone())
}

/// A name that is one or two letters from one that the store knows is a slip, and worth a warning.
fn warn_of(name: &str, nearest: Option<&str>) {
    let nearest = nearest.map(str::to_uppercase);
    match nearest.filter(|near| strsim::damerau_levenshtein(name, near) <= 2) {
        Some(nearest) => tracing::warn!(variable = name, nearest, "not an option of the object store: ignored"),
        None => tracing::debug!(variable = name, "not an option of the object store: ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::of(
            [
                ("AWS_SECRET_ACCESS_KEY", "hush"),
                ("AWS_ENDPOINT_URL", "http://localhost:9000"),
                ("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE"),
                ("AWS_PAGER", ""),
            ]
            .map(|(k, v)| (k.into(), v.into())),
        )
    }

    #[test]
    fn takes_the_variables_that_the_store_knows() {
        let options = options(&environment(), &["/data", "s3://bucket/x"]).unwrap();
        let names: Vec<&str> = options.s3.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["aws_endpoint_url", "aws_secret_access_key"]);
        assert!(options.validate().is_ok());
        assert!(!format!("{options:?}").contains("hush"));
    }

    /// As the message about missing credentials has it.
    #[test]
    fn a_public_bucket_needs_no_keys() {
        let environment = Environment::of([("AWS_SKIP_SIGNATURE".into(), "true".into())]);
        let options = options(&environment, &["s3://b/k"]).unwrap();
        assert_eq!(options.s3, [("aws_skip_signature".to_owned(), "true".to_owned())]);
    }

    #[test]
    fn a_password_in_the_endpoint_is_refused_and_not_repeated() {
        let variables = [("AWS_ENDPOINT_URL", "http://user:hush@localhost:9000")];
        let environment = Environment::of(variables.map(|(k, v)| (k.into(), v.into())));
        let error = options(&environment, &["s3://b/k"]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("aws_endpoint_url") && !said.contains("hush"), "{said}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_value_of_which_no_request_can_be_made_is_refused_by_its_name() {
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "minio.local:9000"),
            ("AWS_SECRET_ACCESS_KEY", "hush\n"),
        ] {
            let environment = Environment::of([(name.into(), value.into())]);
            let error = options(&environment, &["s3://b/k"]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(name) && !said.contains("hush"), "{said}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_file_of_keys_has_a_profile() {
        let named = |profile: &str| {
            let variables = [("AWS_SHARED_CREDENTIALS_FILE", "/keys"), ("AWS_PROFILE", profile)];
            let environment = Environment::of(variables.map(|(k, v)| (k.into(), v.into())));
            options(&environment, &["s3://b/k"]).unwrap()
        };
        let file = named("night").credentials_file.unwrap();
        assert_eq!((file.path.as_str(), file.profile.as_str()), ("/keys", "night"));
        assert_eq!(named("").credentials_file.unwrap().profile, "default");
        assert!(named("night").s3.is_empty());
    }

    /// Or requests would be signed with an empty key, and the file of keys be hidden.
    #[test]
    fn an_empty_variable_counts_as_unset() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_SESSION_TOKEN", ""),
            ("AWS_REGION", ""),
            ("AWS_ENDPOINT_URL", ""),
            ("AWS_SHARED_CREDENTIALS_FILE", "/keys"),
        ];
        let environment = Environment::of(variables.map(|(k, v)| (k.into(), v.into())));
        let options = options(&environment, &["s3://b/k"]).unwrap();
        assert_eq!(options.s3, []);
        assert_eq!(options.credentials_file.unwrap().path, "/keys");
    }

    #[test]
    fn local_runs_take_none() {
        let mut environment = environment();
        environment.unreadable.push("AWS_X".to_owned());
        assert!(options(&environment, &["/data/a.parquet"]).unwrap().s3.is_empty());
        let error = options(&environment, &["s3://b/k"]).unwrap_err();
        assert_eq!(error.to_string(), "the environment variable AWS_X is not text");
        assert_eq!(error.exit_code(), 2);
    }
}
