//! Processes killed at every named point of a run, stopped at some, and both at random moments, and the run started again until it is done: whoever
//! survives ends with exit code 75 and one line, and what is there in the end is bitwise what one undisturbed process writes.
//!
//! `FISHERFLOW_CHAOS_SEED` repeats the choices of a run of this suite, which prints its seed.

mod place;

use std::time::{SystemTime, UNIX_EPOCH};

use fisherflow_dataflow::FailPoint;
use fisherflow_tests::{Attempt, Disturbance};
use place::{Case, Place};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Attempts after which a run that nobody disturbs any more must be done.
const TRIES: usize = 3;

/// The choices of this run of the suite.
fn choices(of: &str) -> ChaCha8Rng {
    let given = std::env::var("FISHERFLOW_CHAOS_SEED").ok();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs())
    };
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("{of}: FISHERFLOW_CHAOS_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// Lets a run go on to its end.
fn finish(place: &Place, case: Case, output: &str, rng: &mut ChaCha8Rng) {
    for _ in 0..TRIES {
        let attempt = Attempt {
            processes: rng.random_range(1..=4),
            workers: rng.random_range(1..=2),
            disturbance: Disturbance::None,
            deadline: 60,
            replaced: false,
        };
        if place.attempt(case, output, &attempt).done {
            place.assert_whole(case, output);
            return;
        }
    }
    panic!("{output}: {TRIES} attempts that nobody disturbed did not end it");
}

/// Points before the cluster has formed: the others wait, and a process that comes again finds them.
const FORMING: [FailPoint; 4] = [
    FailPoint::Opened,
    FailPoint::Claimed,
    FailPoint::Listening,
    FailPoint::Seated,
];

/// Points that the first process alone comes by.
const FIRST: [FailPoint; 9] = [
    FailPoint::Claimed,
    FailPoint::Begun,
    FailPoint::BeforeStage,
    FailPoint::StageLeft,
    FailPoint::BeforeManifest,
    FailPoint::Sealed,
    FailPoint::Committed,
    FailPoint::Released,
    FailPoint::Cleared,
];

/// One process of a run fails at `point`, and the run is brought to its end. Which process comes by a point may depend on who is quick: where
/// the chosen one does not, another is tried, on another output.
fn fails_at(place: &Place, case: Case, point: FailPoint, how: &str, rng: &mut ChaCha8Rng) {
    let processes = rng.random_range(2..=3);
    let first = if FIRST.contains(&point) {
        0
    } else {
        rng.random_range(0..processes)
    };
    for process in (0..processes).map(|i| (first + i) % processes) {
        let output = format!("{case:?}-{}{}-{process}", point.name(), how.replace(':', "-"));
        let attempt = Attempt {
            processes,
            workers: 1,
            disturbance: Disturbance::At(process, format!("{}{how}", point.name())),
            // A process that stops before its first sign of life is missed no earlier.
            deadline: if how.ends_with("stop") { 5 } else { 60 },
            replaced: FORMING.contains(&point),
        };
        let ends = place.attempt(case, &output, &attempt);
        if !ends.done {
            finish(place, case, &output, rng);
        }
        place.assert_whole(case, &output);
        if ends.disturbed {
            return;
        }
    }
    panic!("{case:?}: no process comes by {}", point.name());
}

#[test]
fn a_process_may_die_at_every_named_point() {
    let mut rng = choices("points");
    let place = Place::on_disk(&[Case::Kfac]);
    // Without a line nothing is released: that point is the one before.
    for point in FailPoint::ALL.into_iter().filter(|&point| point != FailPoint::Released) {
        // The first two plans are those of whether all processes reach the output.
        let nth = if point == FailPoint::Planned { ":3" } else { "" };
        fails_at(&place, Case::Kfac, point, nth, &mut rng);
    }
    println!("{} processes killed at named points", FailPoint::ALL.len() - 1);
}

/// Points at which the others, who give up a process that stands still, find something half made: the cluster, a group, a stage, a part, the commit.
const STANDING: [FailPoint; 10] = [
    FailPoint::Formed,
    FailPoint::Begun,
    FailPoint::GroupWritten,
    FailPoint::Merged,
    FailPoint::BeforeStage,
    FailPoint::BeforePart,
    FailPoint::BeforeManifest,
    FailPoint::Sealed,
    FailPoint::Committed,
    FailPoint::Released,
];

#[test]
fn a_process_may_stop_where_something_is_half_made() {
    let mut rng = choices("stops");
    let place = Place::on_disk(&[Case::Ekfac]);
    for point in STANDING {
        fails_at(&place, Case::Ekfac, point, ":stop", &mut rng);
    }
    println!("{} processes stopped at named points", STANDING.len());
}

/// How many processes fell, and at whose hands.
#[derive(Debug, Default)]
struct Fallen {
    killed: usize,
    stopped: usize,
    outputs: usize,
}

/// Kills and stops processes at random, until so many have fallen; each output is brought to its end.
fn at_any_time(place: &Place, killed: usize, stopped: usize, rng: &mut ChaCha8Rng) -> Fallen {
    let mut fallen = Fallen::default();
    while fallen.killed < killed || fallen.stopped < stopped {
        let case = if rng.random_bool(0.5) { Case::Kfac } else { Case::Ekfac };
        let output = format!("random-{}", fallen.outputs);
        fallen.outputs += 1;
        for _ in 0..5 {
            let processes = rng.random_range(2..=4);
            let signal = if fallen.stopped < stopped && rng.random_bool(0.3) {
                "STOP"
            } else {
                "KILL"
            };
            let after = place.took().mul_f64(rng.random_range(0.0..1.5));
            let attempt = Attempt {
                processes,
                workers: rng.random_range(1..=2),
                disturbance: Disturbance::Signal(rng.random_range(0..processes), signal, after),
                deadline: 2,
                replaced: false,
            };
            let ends = place.attempt(case, &output, &attempt);
            match (ends.disturbed, signal) {
                (true, "STOP") => fallen.stopped += 1,
                (true, _) => fallen.killed += 1,
                _ => {}
            }
            if ends.done {
                break;
            }
        }
        finish(place, case, &output, rng);
    }
    fallen
}

#[test]
fn processes_may_be_killed_and_stopped_at_any_time() {
    let mut rng = choices("random");
    let place = Place::on_disk(&[Case::Kfac, Case::Ekfac]);
    println!("on disk: {:?}", at_any_time(&place, 12, 2, &mut rng));
}

#[test]
fn an_object_store_makes_no_difference() {
    let mut rng = choices("object store");
    let Some(place) = Place::on_s3(&[Case::Kfac, Case::Ekfac], rng.random()) else {
        return;
    };
    println!("object store: {:?}", at_any_time(&place, 3, 1, &mut rng));
}
