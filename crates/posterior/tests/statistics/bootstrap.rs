//! The weights' part against a bootstrap of training: the same network fitted again to resampled stars.
//!
//! 400 stars for 17 weights of a network that could have made the labels: the posterior is narrow and normal, the prior hardly seen
//! (precision 0.01 beside sums of thousands), so that the spread of refits and the posterior are the same covariance. With fewer stars, or a
//! prior that matters, they are not: refits do not know the prior's part, `P^-1 H P^-1 < P^-1`.

use fisherflow_curvature::StructureKind;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::small_net::{Knowledge, SmallNet};

const STARS: usize = 400;
const REFITS: usize = 200;
const PREDICTED: usize = 60;
const INPUTS: usize = 2;

#[test]
fn the_weights_part_is_the_spread_of_refits() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut normal = |n: usize| -> Vec<f64> { StandardNormal.sample_iter(&mut rng).take(n).collect() };
    let net = SmallNet::new(&[INPUTS, 4, 1]);
    let known = Knowledge {
        sigma: 0.1,
        prior: 0.01,
    };
    let truth = normal(net.n_weights());
    let x = normal(STARS * INPUTS);
    let noise = normal(STARS);
    let y: Vec<f64> = net
        .at(&truth)
        .outputs(&x)
        .iter()
        .zip(&noise)
        .map(|(f, e)| f + known.sigma * e)
        .collect();
    let stars = normal(PREDICTED * INPUTS);
    let fitted = net.fit(&x, &y, known, &truth);
    let posterior = net.posterior(&fitted, &x, known, StructureKind::Full);
    let predicted = net.covariance(&fitted, &posterior, &stars);

    let (mut sum, mut squares) = (vec![0.0; PREDICTED], vec![0.0; PREDICTED]);
    let at_fit = fitted.outputs(&stars);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..REFITS {
        let drawn: Vec<usize> = (0..STARS).map(|_| rng.random_range(0..STARS)).collect();
        let x: Vec<f64> = drawn
            .iter()
            .flat_map(|&star| &x[star * INPUTS..(star + 1) * INPUTS])
            .copied()
            .collect();
        let y: Vec<f64> = drawn.iter().map(|&star| y[star]).collect();
        let refitted = net.fit(&x, &y, known, &fitted.theta).outputs(&stars);
        for (star, (again, first)) in refitted.iter().zip(&at_fit).enumerate() {
            sum[star] += again - first;
            squares[star] += (again - first).powi(2);
        }
    }
    let n = REFITS as f64;
    let mut ratios: Vec<f64> = (0..PREDICTED)
        .map(|star| {
            let spread = (squares[star] - sum[star].powi(2) / n) / (n - 1.0);
            (predicted[star] / spread).sqrt()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quantile = |q: usize| ratios[PREDICTED * q / 100];
    println!(
        "sigma over the spread of refits: median {:.3}, 5 to 95 %: {:.3} to {:.3}",
        quantile(50),
        quantile(5),
        quantile(95)
    );
    assert!((0.8..1.25).contains(&quantile(50)), "{}", quantile(50));
}
