//! 1,000 repetitions of a simulation with known truth: how often the 1- and 2-sigma intervals of a prediction hold it.
//!
//! Each repetition draws spectra, labels and one more star, takes one of its labels, and so gives one yes or no: their number is binomial.

use fisherflow_curvature::StructureKind;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::small_net::{Knowledge, SmallNet};

const REPETITIONS: usize = 1000;
/// Chance of a normal deviate within one and within two standard deviations.
const WITHIN: [f64; 2] = [0.682_689, 0.954_500];

/// Where the truth of a repetition comes from.
#[derive(Clone, Copy, Debug)]
enum Truth {
    /// The prior, another in each repetition: then the posterior's intervals are exact on average over it.
    Prior,
    /// The same in all repetitions, with a flat prior: then they are confidence intervals too.
    Fixed,
}

struct Simulation {
    net: SmallNet,
    inputs: usize,
    n: usize,
    known: Knowledge,
    truth: Truth,
    seed: u64,
}

/// Standard normal numbers.
fn normal(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    StandardNormal.sample_iter(rng).take(n).collect()
}

impl Simulation {
    /// Counts of predictions and of new noisy labels within one and two of their standard deviations, by structure.
    fn counts(&self, structures: &[StructureKind]) -> Vec<[[usize; 2]; 2]> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let k = self.net.n_labels();
        let fixed = normal(&mut rng, self.net.n_weights());
        let mut counts = vec![[[0; 2]; 2]; structures.len()];
        for repetition in 0..REPETITIONS {
            let truth: Vec<f64> = match self.truth {
                Truth::Fixed => fixed.clone(),
                Truth::Prior => {
                    let drawn = normal(&mut rng, self.net.n_weights());
                    drawn.iter().map(|t| t / self.known.prior.sqrt()).collect()
                }
            };
            let at_truth = self.net.at(&truth);
            let x = normal(&mut rng, self.n * self.inputs);
            let noise = normal(&mut rng, self.n * k);
            let y: Vec<f64> = at_truth
                .outputs(&x)
                .iter()
                .zip(&noise)
                .map(|(f, e)| f + self.known.sigma * e)
                .collect();
            // From the truth, so that the maximum is the one that the truth belongs to, of the many that hidden units' symmetries give.
            let fitted = self.net.fit(&x, &y, self.known, &truth);
            let star = normal(&mut rng, self.inputs);
            let label = repetition % k;
            let (expected, found) = (at_truth.outputs(&star)[label], fitted.outputs(&star)[label]);
            let measured = expected + self.known.sigma * normal(&mut rng, 1)[0];
            for (structure, counts) in structures.iter().zip(&mut counts) {
                let posterior = self.net.posterior(&fitted, &x, self.known, *structure);
                let variance = self.net.covariance(&fitted, &posterior, &star)[label * (k + 1)];
                let of_label = variance + self.known.sigma.powi(2);
                for (which, (apart, variance)) in [(found - expected, variance), (found - measured, of_label)]
                    .iter()
                    .enumerate()
                {
                    for (within, count) in counts[which].iter_mut().enumerate() {
                        *count += usize::from(apart.abs() < (within + 1) as f64 * variance.sqrt());
                    }
                }
            }
        }
        counts
    }

    fn check(&self, structures: &[StructureKind]) {
        for (structure, counts) in structures.iter().zip(self.counts(structures)) {
            for (what, counts) in ["prediction", "label"].iter().zip(counts) {
                for (within, (count, chance)) in counts.into_iter().zip(WITHIN).enumerate() {
                    let (found, n) = (count as f64 / REPETITIONS as f64, REPETITIONS as f64);
                    let deviation = (chance * (1.0 - chance) / n).sqrt();
                    println!(
                        "{structure} {:?} {what} within {} sigma: {found:.3} of {chance:.3}",
                        self.truth,
                        within + 1
                    );
                    assert!(
                        (found - chance).abs() < 3.0 * deviation,
                        "{structure} {what}: {found} within {} sigma, {chance} +- {deviation:.4} expected",
                        within + 1
                    );
                }
            }
        }
    }
}

/// Structures that are exact for one linear layer: with the same noise for all, H is a Kronecker product.
const EXACT_IF_LINEAR: [StructureKind; 3] = [StructureKind::Full, StructureKind::Block, StructureKind::Kfac];

#[test]
fn linear_networks_drawn_from_their_prior() {
    let simulation = Simulation {
        net: SmallNet::new(&[6, 2]),
        inputs: 6,
        n: 9,
        known: Knowledge { sigma: 0.8, prior: 0.7 },
        truth: Truth::Prior,
        seed: 1,
    };
    simulation.check(&EXACT_IF_LINEAR);
}

#[test]
fn a_linear_network_with_a_flat_prior() {
    let simulation = Simulation {
        net: SmallNet::new(&[6, 2]),
        inputs: 6,
        n: 15,
        known: Knowledge { sigma: 0.8, prior: 0.0 },
        truth: Truth::Fixed,
        seed: 2,
    };
    simulation.check(&EXACT_IF_LINEAR);
}

/// Where Laplace's approximation holds: 150 spectra for 16 weights, a noise far below the signal, and weights of about 1/2, which keep tanh off
/// its ends. The posterior is then narrow beside the bends of the network, and nearly normal. (With 50 spectra and weights of about 1, a
/// part of the networks saturates, and 2-sigma intervals hold 93 %.)
#[test]
fn nonlinear_networks_drawn_from_their_prior() {
    let simulation = Simulation {
        net: SmallNet::new(&[3, 3, 1]),
        inputs: 3,
        n: 150,
        known: Knowledge {
            sigma: 0.05,
            prior: 4.0,
        },
        truth: Truth::Prior,
        seed: 3,
    };
    simulation.check(&[StructureKind::Full]);
}
