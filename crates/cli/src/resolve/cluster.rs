//! `-n`, `-p`, `--hostfile`, `-w`, `--secret-file` and `--deadline` into a [`Cluster`].

use std::time::Duration;

use fisherflow_dataflow::Cluster;

use crate::args::ClusterArgs;
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::hostfile;

/// The cluster that the arguments place.
///
/// # Errors
/// No process or worker at all, a position that is not there or not said, a hostfile or secret that cannot be read.
pub fn cluster(args: &ClusterArgs, environment: &Environment) -> Result<Cluster, CliError> {
    let wrong = |problem: String| Err(CliError::Arguments(problem));
    let workers = workers(args.workers)?;
    if args.processes == 0 {
        return wrong("-n takes at least 1".to_owned());
    }
    let process = match args.process {
        Some(p) if p >= args.processes => {
            return wrong(format!(
                "-p {p} is not one of the {} processes of -n {}: they count from 0",
                args.processes, args.processes
            ));
        }
        Some(p) => p,
        None if args.processes > 1 => {
            return wrong(format!(
                "-n {} needs -p: say which of the processes, from 0, this one is",
                args.processes
            ));
        }
        None => 0,
    };
    let addresses = match &args.hostfile {
        Some(path) => hostfile::read(path, args.processes)?,
        None => hostfile::localhost(args.processes),
    };
    let secret = match (&args.secret_file, &environment.cluster_secret) {
        (Some(path), _) => std::fs::read(path)
            .map_err(|source| CliError::SecretFile {
                path: path.clone(),
                source,
            })?
            .trim_ascii()
            .to_vec(),
        (None, Some(secret)) => secret.as_encoded_bytes().trim_ascii().to_vec(),
        (None, None) => Vec::new(),
    };
    if secret.is_empty() && args.secret_file.is_some() {
        return wrong("the file of --secret-file is empty".to_owned());
    }
    Ok(Cluster {
        process,
        addresses,
        workers,
        secret,
        deadline: Duration::from_secs(args.deadline),
    })
}

/// Workers of each process.
///
/// # Errors
/// None at all.
pub fn workers(said: usize) -> Result<usize, CliError> {
    match said {
        0 => Err(CliError::Arguments("-w takes at least 1".to_owned())),
        workers => Ok(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(processes: usize, process: Option<usize>) -> ClusterArgs {
        ClusterArgs {
            processes,
            process,
            hostfile: None,
            workers: 2,
            secret_file: None,
            deadline: 30,
        }
    }

    #[test]
    fn places_processes() {
        let environment = Environment {
            cluster_secret: Some("hush\n".into()),
            ..Environment::default()
        };
        let placed = cluster(&args(2, Some(1)), &environment).unwrap();
        assert_eq!(placed.process, 1);
        assert_eq!(placed.addresses, ["localhost:2101", "localhost:2102"]);
        assert_eq!(placed.secret, b"hush");
        assert_eq!(placed.deadline, Duration::from_secs(30));
        let alone = cluster(&args(1, None), &Environment::default()).unwrap();
        assert_eq!((alone.process, alone.addresses.len()), (0, 1));
        assert!(alone.secret.is_empty());
    }

    #[test]
    fn refuses_positions_that_are_not_there() {
        for (processes, process, said) in [
            (0, None, "at least 1"),
            (2, None, "-n 2 needs -p"),
            (2, Some(2), "-p 2 is not one of the 2"),
        ] {
            let error = cluster(&args(processes, process), &Environment::default()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn an_unreadable_hostfile_is_named() {
        let mut args = args(1, None);
        args.hostfile = Some("no/such/hosts".into());
        let error = cluster(&args, &Environment::default()).unwrap_err();
        assert!(error.to_string().contains("no/such/hosts"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
