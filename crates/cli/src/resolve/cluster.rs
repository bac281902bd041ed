//! `-n`, `-p`, `--hostfile`, `--hosts`, `--slurm`, `--rendezvous`, `-w`, `--secret-file` and the time limits into a [`Cluster`].

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use fisherflow_dataflow::{Cluster, FailPoints, Hosts, Interrupt};
use sha2::{Digest, Sha256};

use crate::args::{ClusterArgs, HostsArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::hostfile::{self, FIRST_PORT};
use crate::slurm::SlurmStep;

/// Threads of one kind in a process: more than a machine has cores. What timely holds grows with the square of the workers, to 2.7 GiB here.
const MOST_THREADS: usize = 1024;
/// Processes of a run: as many as there are ports from the first on.
const MOST_PROCESSES: usize = 60_000;

/// The cluster that the arguments place.
///
/// # Errors
/// No process or worker at all, or more than can be, a position that is not there or not said, hosts or a secret that cannot be read.
pub fn cluster(args: &ClusterArgs, environment: &Environment) -> Result<Cluster, CliError> {
    let wrong = |problem: String| Err(CliError::Arguments(problem));
    let workers = workers(args.workers)?;
    let step = args.hosts.slurm.then_some(&environment.slurm);
    step.map_or(Ok(()), SlurmStep::check)?;
    let processes = processes(args.processes.or(step.and_then(|step| step.tasks)).unwrap_or(1))?;
    let from_environment = match step {
        Some(step) => step.process,
        None => environment.completion_index.filter(|_| processes > 1),
    };
    let process = match args.process.or(from_environment) {
        Some(p) if p >= processes => {
            return wrong(format!(
                "-p {p} is not one of the {processes} processes of -n {processes}: they count from 0"
            ));
        }
        Some(p) => p,
        None if processes > 1 => {
            return wrong(format!(
                "-n {processes} needs -p: say which of the processes, from 0, this one is"
            ));
        }
        None => 0,
    };
    if args.peer_timeout == 0 {
        return wrong("--peer-timeout takes at least 1".to_owned());
    }
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
        processes,
        hosts: hosts(&args.hosts, processes, environment)?,
        workers,
        secret,
        build: if processes > 1 { build()? } else { [0; 32] },
        deadline: Duration::from_secs(args.deadline),
        peer_timeout: Duration::from_secs(args.peer_timeout),
        interrupt: Interrupt::default(),
        fail_points: args.fail_at.map_or_else(FailPoints::default, FailPoints::at),
    })
}

/// Where `--metrics` is answered.
///
/// # Errors
/// It is no address.
pub fn metrics(args: &ClusterArgs) -> Result<Option<SocketAddr>, CliError> {
    let Some(said) = &args.metrics else { return Ok(None) };
    let port = said.strip_prefix(':').unwrap_or(said).parse::<u16>();
    match port {
        Ok(port) => Ok(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
        Err(_) => said.parse().map(Some).map_err(|_| {
            CliError::Arguments(format!(
                "--metrics {said} is no PORT, :PORT or ADDRESS:PORT; an address is a number, as 0.0.0.0:9464"
            ))
        }),
    }
}

/// Where the processes are.
fn hosts(args: &HostsArgs, processes: usize, environment: &Environment) -> Result<Hosts, CliError> {
    let wrong = |problem: String| Err(CliError::Arguments(problem));
    if let Some(path) = &args.hostfile {
        return Ok(Hosts::Listed(hostfile::read(path, processes)?));
    }
    if let Some(pattern) = &args.hosts {
        return match pattern_addresses(pattern, processes) {
            Some(addresses) => Ok(Hosts::Listed(addresses)),
            None => wrong(format!(
                "--hosts {pattern} is no host or host:port with a {{}} for the number of the process"
            )),
        };
    }
    if args.slurm {
        let mut addresses = environment.slurm.addresses(FIRST_PORT)?;
        if addresses.len() < processes {
            return wrong(format!(
                "-n {processes}, but the Slurm step has {} tasks",
                addresses.len()
            ));
        }
        addresses.truncate(processes);
        return Ok(Hosts::Listed(addresses));
    }
    let Some(address) = &args.rendezvous else {
        return Ok(Hosts::Listed(hostfile::localhost(processes)));
    };
    let (host, port) = address.split_once(':').unwrap_or((address, "0"));
    match (host, port.parse()) {
        ("", Ok(port)) => Ok(Hosts::Rendezvous {
            host: own_address().to_string(),
            port,
        }),
        (host, Ok(port)) if !host.contains(char::is_whitespace) => Ok(Hosts::Rendezvous {
            host: host.to_owned(),
            port,
        }),
        _ => wrong(format!("--rendezvous={address} is no HOST, HOST:PORT or :PORT")),
    }
}

/// `fisherflow-{}.fisherflow` for every process. The names are looked up when they are dialled, again and again: those of a
/// Kubernetes service come into being with its pods.
fn pattern_addresses(pattern: &str, processes: usize) -> Option<Vec<String>> {
    let pattern = match pattern.contains(':') {
        true => pattern.to_owned(),
        false => format!("{pattern}:{FIRST_PORT}"),
    };
    let addresses: Vec<String> = (0..processes)
        .map(|process| pattern.replace("{}", &process.to_string()))
        .collect();
    (pattern.contains("{}") && addresses.iter().all(|address| hostfile::is_address(address))).then_some(addresses)
}

/// The address by which this machine reaches others, as its routes have it; nothing is sent.
fn own_address() -> Ipv4Addr {
    // 192.0.2.1 stands for "any other machine": an address that nobody has (RFC 5737).
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket
            .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
            .and(socket.local_addr())
    });
    match found.map(|address| address.ip()) {
        Ok(std::net::IpAddr::V4(address)) => address,
        _ => {
            tracing::warn!(
                "no IPv4 route leads out of this machine: --rendezvous announces 127.0.0.1, where no other machine finds this process; \
                 --rendezvous=HOST says how it is reached"
            );
            Ipv4Addr::LOCALHOST
        }
    }
}

/// SHA-256 of the program's file: the same machine code on every machine, or no cluster. A version would not do: another compiler, or
/// another flag, gives other bits.
fn build() -> Result<[u8; 32], CliError> {
    let running = std::path::Path::new("/proc/self/exe");
    let file = match running.exists() {
        // As it runs, even where another file has taken its place by now.
        true => std::fs::File::open(running),
        false => std::env::current_exe().and_then(std::fs::File::open),
    };
    let mut hash = Sha256::new();
    file.and_then(|mut file| std::io::copy(&mut file, &mut hash))
        .map_err(|source| CliError::System {
            what: "read the program's own file, which the processes compare",
            source,
        })?;
    Ok(hash.finalize().into())
}

/// Workers of each process.
///
/// # Errors
/// None at all, or too many.
pub fn workers(said: usize) -> Result<usize, CliError> {
    counted("-w", said, MOST_THREADS, "a worker a core is enough")
}

/// Threads of a worker, or of a command that has none.
///
/// # Errors
/// None at all, or too many.
pub fn threads(said: usize) -> Result<usize, CliError> {
    counted("--threads", said, MOST_THREADS, "a thread a core is enough")
}

/// Processes of a run.
///
/// # Errors
/// None at all, or too many.
pub fn processes(said: usize) -> Result<usize, CliError> {
    counted("-n", said, MOST_PROCESSES, "give each more workers, with -w")
}

pub(super) fn counted(name: &str, said: usize, most: usize, remedy: &str) -> Result<usize, CliError> {
    match said {
        0 => Err(CliError::Arguments(format!("{name} takes at least 1"))),
        said if said > most => Err(CliError::Arguments(format!(
            "{name} {said} is too many: it takes at most {most}; {remedy}"
        ))),
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(processes: usize, process: Option<usize>) -> ClusterArgs {
        ClusterArgs {
            processes: Some(processes),
            process,
            hosts: HostsArgs::default(),
            workers: 2,
            secret_file: None,
            deadline: 30,
            peer_timeout: 60,
            metrics: None,
            fail_at: None,
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
        assert_eq!(placed.hosts, listed(&["localhost:2101", "localhost:2102"]));
        assert_ne!(placed.build, [0; 32]);
        assert_eq!(placed.secret, b"hush");
        assert_eq!(placed.deadline, Duration::from_secs(30));
        let alone = cluster(&args(1, None), &Environment::default()).unwrap();
        assert_eq!((alone.process, alone.processes), (0, 1));
        assert!(alone.secret.is_empty());
    }

    fn listed(addresses: &[&str]) -> Hosts {
        Hosts::Listed(addresses.iter().map(|&address| address.to_owned()).collect())
    }

    #[test]
    fn metrics_are_answered_on_this_machine_alone_unless_said() {
        let said = |said: &str| {
            let mut args = args(1, None);
            args.metrics = Some(said.to_owned());
            metrics(&args).map(|found| found.map(|address| address.to_string()))
        };
        assert_eq!(said("9464").unwrap().as_deref(), Some("127.0.0.1:9464"));
        assert_eq!(said(":0").unwrap().as_deref(), Some("127.0.0.1:0"));
        assert_eq!(said("0.0.0.0:9464").unwrap().as_deref(), Some("0.0.0.0:9464"));
        assert!(said("9464 or so").is_err());
        assert_eq!(metrics(&args(1, None)).unwrap(), None);
    }

    #[test]
    fn a_pattern_names_every_process() {
        let environment = Environment {
            completion_index: Some(2),
            ..Environment::default()
        };
        let mut args = args(3, None);
        args.hosts.hosts = Some("ff-{}.ff.survey.svc".into());
        let placed = cluster(&args, &environment).unwrap();
        assert_eq!(placed.process, 2);
        assert_eq!(
            placed.hosts,
            listed(&[
                "ff-0.ff.survey.svc:2101",
                "ff-1.ff.survey.svc:2101",
                "ff-2.ff.survey.svc:2101"
            ])
        );
        args.hosts.hosts = Some("ff-{}:7".into());
        assert_eq!(
            cluster(&args, &environment).unwrap().hosts,
            listed(&["ff-0:7", "ff-1:7", "ff-2:7"])
        );
        for bad in ["ff", "ff:7", "ff:{}", "{}:x", "a b{}", ""] {
            args.hosts.hosts = Some(bad.into());
            assert_eq!(cluster(&args, &environment).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_slurm_step_says_everything() {
        let mut environment = Environment::default();
        let mut args = args(1, None);
        args.processes = None;
        args.hosts.slurm = true;
        assert!(cluster(&args, &environment).unwrap_err().to_string().contains("srun"));
        let mut variables = [
            ("SLURM_JOB_NODELIST", "n[1-2]"),
            ("SLURM_TASKS_PER_NODE", "1(x2)"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_PROCID", "1"),
        ];
        let read =
            |variables: [(&str, &str); 4]| Environment::of(variables.map(|(name, value)| (name.into(), value.into())));
        environment.slurm = read(variables).slurm;
        let placed = cluster(&args, &environment).unwrap();
        assert_eq!((placed.process, placed.processes), (1, 2));
        assert_eq!(placed.hosts, listed(&["n1:2101", "n2:2101"]));
        args.processes = Some(3);
        assert!(
            cluster(&args, &environment)
                .unwrap_err()
                .to_string()
                .contains("2 tasks")
        );
        for which in [2, 3] {
            let right = std::mem::replace(&mut variables[which].1, "four");
            let error = cluster(&args, &read(variables)).unwrap_err();
            let said = format!("--slurm: {}=four is no number", variables[which].0);
            assert_eq!((error.exit_code(), error.to_string()), (2, said));
            variables[which].1 = right;
        }
    }

    #[test]
    fn a_rendezvous_has_an_address_of_its_own() {
        let environment = Environment::default();
        let mut args = args(2, Some(0));
        let mut meet = |address: &str| {
            args.hosts.rendezvous = Some(address.into());
            cluster(&args, &environment).map(|placed| placed.hosts)
        };
        let at = |host: &str, port| Hosts::Rendezvous {
            host: host.into(),
            port,
        };
        let own = own_address().to_string();
        assert_eq!(meet("").unwrap(), at(&own, 0));
        assert_eq!(meet(":2101").unwrap(), at(&own, 2101));
        assert_eq!(meet("node-1").unwrap(), at("node-1", 0));
        assert_eq!(meet("node-1:7").unwrap(), at("node-1", 7));
        for bad in ["node-1:x", "a b", "node-1:70000"] {
            assert_eq!(meet(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn refuses_positions_that_are_not_there() {
        for (processes, process, said) in [
            (0, None, "at least 1"),
            (2, None, "-n 2 needs -p"),
            (2, Some(2), "-p 2 is not one of the 2"),
            (60_001, Some(0), "at most 60000"),
        ] {
            let error = cluster(&args(processes, process), &Environment::default()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn threads_beyond_what_a_machine_has_are_refused_before_any_starts() {
        for (count, name) in [(workers as fn(usize) -> _, "-w"), (threads, "--threads")] {
            assert_eq!(count(MOST_THREADS).unwrap(), MOST_THREADS);
            for (said, words) in [
                (0, "at least 1"),
                (20_000, "at most 1024"),
                (usize::MAX, "at most 1024"),
            ] {
                let error = count(said).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                let error = error.to_string();
                assert!(error.starts_with(name) && error.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn an_unreadable_hostfile_is_named() {
        let mut args = args(1, None);
        args.hosts.hostfile = Some("no/such/hosts".into());
        let error = cluster(&args, &Environment::default()).unwrap_err();
        assert!(error.to_string().contains("no/such/hosts"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
