//! Timely's workers, over threads and processes, and what becomes of a lost peer.

pub(crate) mod handshake;
pub(crate) mod heartbeat;
pub(crate) mod mesh;
pub(crate) mod strays;
pub(crate) mod terms;
pub(crate) mod whereabouts;
pub(crate) mod wire;

use std::any::Any;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks, WorkerGuards};
use timely::execute::execute_from;
use timely::worker::Worker;

use crate::cluster::heartbeat::Heartbeat;
use crate::cluster::terms::Terms;
use crate::cluster::whereabouts::Whereabouts;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::Faults;
use crate::job::Cluster;
use crate::progress::meter::Meter;
use crate::progress::operator_times;
use crate::progress::repeated;

/// How long a worker that only sees a connection close waits for the heartbeat to say whose it was.
const WHO_WAS_IT: Duration = Duration::from_millis(300);
/// How long a process that stands alone waits after a fault for its workers, which take back what they have half written as they stop: longer than
/// the 5 s that each of two files on their way to a store may take them.
const LAST_STEPS: Duration = Duration::from_secs(12);

/// Runs `work` on every worker of this process, and `conclude` on what the first of them returns: in the first process that is what makes the work
/// count, and the others wait for it, and fail with it, before they come to their own.
///
/// `terms` name the run that all processes must share. A panic in a worker, and in a cluster the loss of any peer at work, comes back as an
/// error. After an error the process is expected to exit: a worker in the middle of something is left at it, and in a cluster, whose other processes
/// have been told, the sockets are left as they are.
pub(crate) fn execute<T: Send + 'static, U>(
    cluster: &Cluster,
    terms: &Terms,
    whereabouts: &Whereabouts,
    faults: &Arc<Faults>,
    meter: &Arc<Meter>,
    work: impl Fn(&mut Worker) -> Result<T, RunError> + Send + Sync + 'static,
    conclude: impl FnOnce(T) -> Result<U, RunError>,
) -> Result<U, RunError> {
    let processes = cluster.processes;
    meter.is_process(cluster.process, processes);
    let ((builders, others), hearts) = connected(cluster, terms, whereabouts, meter)?;
    let names = (0..processes).map(|process| whereabouts.name(process)).collect();
    let heartbeat = Heartbeat::start(cluster, hearts, names, faults, meter)?;
    let (in_worker, counting) = (Arc::clone(faults), Arc::clone(meter));
    let _shown = repeated::shown(meter)?;
    let guards = execute_from(builders, others, WorkerConfig::default(), move |worker| {
        operator_times::observe(worker, counting.is_worker(worker.index()));
        outcome(worker, &work, &in_worker)
    })
    .map_err(|said| RunError::no_thread("the workers", &said))?;
    // The other processes of a cluster are to hear of it at once.
    let patience = (processes <= 1).then_some(LAST_STEPS);
    let found = match joined(guards, faults, patience) {
        Ok(found) => found,
        Err(error) => return Err(told(error, faults, heartbeat)),
    };
    let Some(heartbeat) = heartbeat.rest() else {
        return match faults.take() {
            Some(fault) => Err(fault),
            None => conclude(found),
        };
    };
    match conclude(found) {
        Ok(concluded) => {
            heartbeat.finish();
            Ok(concluded)
        }
        Err(error) => Err(told(error, faults, heartbeat)),
    }
}

/// How the workers of this process reach one another and those of the others, with what must live as long as they do.
type Connections = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// The workers' connections and the heartbeat's, by process, once all processes are there.
fn connected(
    cluster: &Cluster,
    terms: &Terms,
    whereabouts: &Whereabouts,
    meter: &Meter,
) -> Result<(Connections, BTreeMap<usize, TcpStream>), RunError> {
    if cluster.processes <= 1 {
        let alone = Config::Process(cluster.workers)
            .try_build()
            .map_err(RunError::Internal)?;
        return Ok((alone, BTreeMap::new()));
    }
    let mesh = mesh::connect(cluster, terms, whereabouts)?;
    cluster.fail_points.pass(FailPoint::Formed);
    quiet_communication_panics();
    let local = ProcessBuilder::new_typed_vector(cluster.workers, Hooks::default().refill, None);
    let (builders, guard) = initialize_networking_from_sockets(
        local,
        mesh.data,
        cluster.process,
        cluster.workers,
        meter.on_the_wire().hooks(),
    )
    .map_err(|error| no_connections(&error))?;
    let builders: Vec<_> = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let others: Box<dyn Any + Send> = Box::new(guard);
    Ok(((builders, others), mesh.heartbeat))
}

/// What `work` comes to on a worker; what it fails with, a panic too, is raised.
fn outcome<T>(worker: &mut Worker, work: &impl Fn(&mut Worker) -> Result<T, RunError>, faults: &Faults) -> Option<T> {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| work(worker))).unwrap_or_else(|panic| {
        let said = said(&*panic);
        Err(if is_communication(&said) {
            let seen = Instant::now();
            while !faults.raised() && seen.elapsed() < WHO_WAS_IT {
                std::thread::sleep(Duration::from_millis(5));
            }
            RunError::PeerLost(said)
        } else {
            RunError::Internal(said)
        })
    });
    if outcome.is_err() {
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
    outcome
        .map_err(|error| {
            if !matches!(error, RunError::Stopped) {
                faults.raise(error);
            }
        })
        .ok()
}

/// What the first worker came to, once all have ended; after a fault they have so much time for that, in a cluster (`None`) none.
fn joined<T: Send + 'static>(
    guards: WorkerGuards<Option<T>>,
    faults: &Faults,
    patience: Option<Duration>,
) -> Result<T, RunError> {
    // The workers are joined one by one, and the communication threads only if all went well: joining those of a lost peer panics.
    let finished = loop {
        if faults.raised() || guards.guards().iter().all(std::thread::JoinHandle::is_finished) {
            break !faults.raised();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if !finished && patience.is_none() {
        std::mem::forget(guards);
        return Err(RunError::Stopped);
    }
    let joining = std::thread::Builder::new().name("join".into()).spawn(move || {
        std::panic::catch_unwind(AssertUnwindSafe(move || {
            guards.join().into_iter().collect::<Result<Vec<_>, String>>()
        }))
    });
    let joining = joining.map_err(|error| RunError::no_thread("the end of the workers", &error))?;
    // A connection to a process that hangs is not closed: the heartbeat tells.
    let (waiting, patience) = (Instant::now(), patience.unwrap_or_default());
    let is_over = || faults.raised() && waiting.elapsed() >= patience;
    while !(joining.is_finished() || is_over()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let results = match joining.is_finished().then(|| joining.join()) {
        Some(results) => results.unwrap_or_else(Err),
        None => Ok(Ok(Vec::new())),
    };
    match results {
        _ if faults.raised() => Err(RunError::Stopped),
        Ok(Ok(results)) => results
            .into_iter()
            .flatten()
            .next()
            .ok_or_else(|| RunError::Internal("a worker stopped without a result".into())),
        Ok(Err(said)) => Err(RunError::Internal(said)),
        Err(panic) => Err(RunError::PeerLost(said(&*panic))),
    }
}

/// Why the connections could not be handed to their threads: a limit of this machine is no lost peer.
fn no_connections(error: &std::io::Error) -> RunError {
    let what = "the connections to other processes";
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) => RunError::no_thread(what, error),
        Some(Errno::EMFILE) => RunError::NoFile {
            what: what.to_owned(),
            why: error.to_string(),
        },
        _ => RunError::PeerLost(format!("network start-up: {error}")),
    }
}

/// The fault that this process ends with, `error` unless there was one before, once the others are told.
fn told(error: RunError, faults: &Faults, heartbeat: Heartbeat) -> RunError {
    faults.raise(error);
    heartbeat.leave();
    faults
        .take()
        .unwrap_or_else(|| RunError::Internal("a worker stopped without a reason".into()))
}

fn said(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "panic without words".into())
}

/// Timely reports a lost peer only as a panic; its texts are part of its documented behaviour.
fn is_communication(said: &str) -> bool {
    said.starts_with("timely communication error") || said.contains("MergeQueue")
}

/// A lost peer panics several threads at once; one readable line is enough.
fn quiet_communication_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let communication = info
            .payload_as_str()
            .is_some_and(|said| is_communication(said) || said.contains("thread panic"));
        if !communication {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_fault_waits_for_no_worker_that_is_in_the_middle_of_something() {
        let (builders, others) = Config::Process(2).try_build().unwrap();
        let faults = Arc::new(Faults::default());
        let (release, released) = mpsc::channel::<()>();
        let has_ended = Arc::new(AtomicBool::new(false));
        let (failing, released, ending) = (Arc::clone(&faults), Mutex::new(released), Arc::clone(&has_ended));
        let guards = execute_from(builders, others, WorkerConfig::default(), move |worker| {
            if worker.index() == 0 {
                failing.raise(RunError::Refused("the disk is full".into()));
            } else {
                // Until the test lets it go; where that waits for this worker, it need not do so for ever.
                let _ = released.lock().unwrap().recv_timeout(Duration::from_secs(30));
                ending.store(true, Ordering::SeqCst);
            }
            None::<()>
        });
        let joined = joined(guards.unwrap(), &faults, Some(Duration::from_millis(50)));
        assert!(matches!(joined, Err(RunError::Stopped)));
        assert!(!has_ended.load(Ordering::SeqCst), "the other worker was waited for");
        drop(release);
    }

    #[test]
    fn a_limit_of_this_machine_is_no_lost_peer_and_no_defect() {
        let limits: [(Errno, &[&str]); 2] = [
            // A stack that finds no room under a limit on memory is told alike.
            (
                Errno::EAGAIN,
                &["no thread", "ulimit -u", "pids", "ulimit -v", "fewer workers"],
            ),
            (Errno::EMFILE, &["no further file", "ulimit -n"]),
        ];
        for (errno, remedy) in limits {
            let why = std::io::Error::from_raw_os_error(errno as i32);
            let error = no_connections(&why);
            assert_eq!(error.exit_code(), 1);
            let said = error.to_string();
            assert!(
                said.contains("connections to other processes") && said.contains(&why.to_string()),
                "{said}"
            );
            for words in remedy {
                assert!(said.contains(words), "{said}");
            }
            assert!(!said.contains("report it") && !said.contains("lost"), "{said}");
        }
        let reset = no_connections(&std::io::Error::from_raw_os_error(Errno::ECONNRESET as i32));
        assert_eq!(reset.exit_code(), 75, "{reset}");
    }
}
