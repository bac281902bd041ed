//! Processes killed and stopped at every named point of a run and at random moments, and the run started again until it is done: whoever
//! survives ends with exit code 75 and one line, and what is there in the end is bitwise what one undisturbed process writes.
//!
//! `FISHERFLOW_CHAOS_SEED` repeats the choices of a run of this suite, which prints its seed.

mod place;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        };
        if place.attempt(case, output, &attempt).done {
            place.assert_whole(case, output);
            return;
        }
    }
    panic!("{output}: {TRIES} attempts that nobody disturbed did not end it");
}

/// The points that lie before the cluster has formed: whoever waits for the dead gives up in time.
const FORMING: [FailPoint; 4] = [
    FailPoint::Opened,
    FailPoint::Claimed,
    FailPoint::Listening,
    FailPoint::Seated,
];

/// Attempts with a process that fails at `point`, until it does; whether it ever did.
fn fails_at(place: &Place, case: Case, output: &str, point: FailPoint, how: &str, rng: &mut ChaCha8Rng) -> bool {
    let processes = rng.random_range(2..=3);
    let first = rng.random_range(0..processes);
    for process in (0..processes).map(|i| (first + i) % processes) {
        let attempt = Attempt {
            processes,
            workers: 1,
            disturbance: Disturbance::At(process, format!("{}{how}", point.name())),
            deadline: if FORMING.contains(&point) { 1 } else { 20 },
        };
        if place.attempt(case, output, &attempt).disturbed {
            return true;
        }
    }
    false
}

#[test]
fn a_process_may_fail_at_every_named_point() {
    let mut rng = choices("points");
    let place = Place::on_disk(&[Case::Kfac, Case::Ekfac]);
    let mut failed = 0;
    for (case, how) in [(Case::Kfac, ""), (Case::Ekfac, "")] {
        for point in FailPoint::ALL {
            let output = format!("{case:?}-{}{}", point.name(), how.replace(':', "-"));
            assert!(
                fails_at(&place, case, &output, point, how, &mut rng),
                "{output}: no process comes by"
            );
            failed += 1;
            finish(&place, case, &output, &mut rng);
        }
    }
    println!("{failed} processes failed at named points");
}

#[test]
fn processes_may_be_killed_and_stopped_at_any_time() {
    let mut rng = choices("random");
    let place = Place::on_disk(&[Case::Kfac, Case::Ekfac]);
    let (mut killed, mut stopped, mut outputs) = (0, 0, 0);
    while killed < 24 || stopped < 4 {
        let case = if rng.random_bool(0.5) { Case::Kfac } else { Case::Ekfac };
        let output = format!("random-{outputs}");
        outputs += 1;
        for _ in 0..5 {
            let processes = rng.random_range(2..=4);
            let signal = if rng.random_bool(0.2) { "STOP" } else { "KILL" };
            let after = place.took(case).mul_f64(rng.random_range(0.0..2.0));
            let attempt = Attempt {
                processes,
                workers: rng.random_range(1..=2),
                disturbance: Disturbance::Signal(rng.random_range(0..processes), signal, after),
                deadline: 2,
            };
            let ends = place.attempt(case, &output, &attempt);
            if ends.disturbed {
                *(if signal == "STOP" { &mut stopped } else { &mut killed }) += 1;
            }
            if ends.done {
                break;
            }
        }
        finish(&place, case, &output, &mut rng);
    }
    println!("{killed} killed and {stopped} stopped at random, over {outputs} outputs");
    assert!(Duration::ZERO < place.took(Case::Kfac));
}
