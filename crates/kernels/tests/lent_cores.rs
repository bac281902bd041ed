//! Cores that are lent, and what is made with them. One test: what is lent is common to the process.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::current;
use std::time::Duration;

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Packed, Start, add_cross, add_gram, lend, multiply, multiply_packed, run_all};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two jobs, each of which ends when it has heard of the other: done if two threads are at them at once.
fn two_at_once() -> bool {
    let (tell_first, first) = channel();
    let (tell_second, second) = channel();
    let (done, ends) = channel();
    let pair = |tell: Sender<()>, hear: Receiver<()>| {
        let done = done.clone();
        move || {
            tell.send(()).unwrap();
            done.send(hear.recv_timeout(Duration::from_secs(30)).is_ok()).unwrap();
        }
    };
    run_all(vec![pair(tell_first, second), pair(tell_second, first)], 1);
    drop(done);
    ends.iter().all(|heard| heard)
}

/// Whether many jobs are all done by the calling thread.
fn alone() -> bool {
    let (done, threads) = channel();
    let jobs = (0..64).map(|_| {
        let done = done.clone();
        move || done.send(current().id()).unwrap()
    });
    run_all(jobs.collect(), 1);
    drop(done);
    threads.iter().all(|thread| thread == current().id())
}

/// Products of every kind, each of more work than one thread would be given.
fn products() -> (Vec<f32>, Vec<f32>, Vec<f64>, Vec<f64>) {
    let (m, k, n) = (150, 1100, 233);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (a, b) = (numbers(m * k), numbers(k * n));
    let (a, b) = (
        MatRef::from_row_major_slice(&a, m, k),
        MatRef::from_row_major_slice(&b, k, n),
    );
    let (mut plain, mut packed) = (vec![0.0; m * n], vec![0.0; m * n]);
    let into = |to| MatMut::from_row_major_slice_mut(to, m, n);
    multiply(into(&mut plain), Start::Zero, a, b, 1);
    multiply_packed(into(&mut packed), Start::Zero, a, &Packed::new(b, 1), 1);
    let (mut gram, mut cross) = (vec![0.0; k * (k + 1) / 2], vec![0.0; m * n]);
    add_gram(a, &mut gram, 1);
    add_cross(a.transpose(), b, &mut cross, n, 1);
    (plain, packed, gram, cross)
}

#[test]
fn lent_cores_are_used_given_back_and_change_no_bit() {
    rayon::ThreadPoolBuilder::new().num_threads(4).build_global().unwrap();
    let expected = products();
    assert!(alone());
    for cores in [1, 2, 3, 8] {
        let lent = lend(cores);
        for _ in 0..3 {
            assert!(two_at_once(), "{cores} cores");
            assert!(products() == expected, "{cores} cores");
        }
        drop(lent);
        assert!(alone(), "{cores} cores came back");
    }
    assert!(products() == expected);
}
