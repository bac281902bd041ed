//! Simulated spectra in the manner of APOGEE: a continuum near 1, absorption lines whose depth follows the labels, photon noise.
//!
//! They serve timings and tests of any size. Nothing about a star is to be learnt from them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A sequence of simulated spectra: the i-th depends on the seed and on i alone.
#[derive(Clone, Debug)]
pub struct Simulation {
    n_pixels: usize,
    seed: u64,
    lines: Vec<Line>,
    /// Least and largest signal to noise: uniform in its logarithm between the two.
    snr: (f64, f64),
}

/// One simulated spectrum.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSpectrum {
    /// `[D]`, continuum near 1.
    pub flux: Vec<f32>,
    /// `[D]`, flux units: the standard deviation of the noise in `flux`.
    pub sigma: Vec<f32>,
    /// Teff (K), logg (dex), [Fe/H] (dex): the labels it was made from.
    pub labels: [f64; 3],
}

#[derive(Clone, Debug)]
struct Line {
    centre: f64,
    width: f64,
    depth: f64,
    /// Change of log depth with each label, a standard deviation of that label.
    slopes: [f64; 3],
}

/// Range of each label: uniform between the two.
const RANGES: [(f64, f64); 3] = [(3700.0, 5500.0), (0.3, 4.5), (-2.2, 0.5)];

impl Simulation {
    /// Names of the labels.
    pub const LABELS: [&'static str; 3] = ["teff", "logg", "fe_h"];

    /// Least and largest signal to noise where nothing else is said.
    pub const SNR: (f64, f64) = (20.0, 300.0);

    /// Spectra of `n_pixels` pixels; the lines are drawn from `seed`.
    #[must_use]
    pub fn new(n_pixels: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_lines = (n_pixels / 12).max(3);
        let lines = (0..n_lines)
            .map(|_| Line {
                centre: rng.random_range(0.0..n_pixels.max(1) as f64),
                width: rng.random_range(1.2..3.5),
                depth: 0.35 * rng.random_range(0.05f64..1.0).powi(2),
                slopes: [
                    rng.random_range(-0.5..0.2),
                    rng.random_range(-0.25..0.25),
                    rng.random_range(0.2..0.6),
                ],
            })
            .collect();
        Self {
            n_pixels,
            seed,
            lines,
            snr: Self::SNR,
        }
    }

    /// The same stars observed at another signal to noise a pixel: uniform in its logarithm from `low` to `high`, both above 0.
    #[must_use]
    pub fn with_snr(self, low: f64, high: f64) -> Self {
        Self {
            snr: (low, high),
            ..self
        }
    }

    /// D.
    #[must_use]
    pub fn n_pixels(&self) -> usize {
        self.n_pixels
    }

    /// The identifier of the i-th spectrum.
    #[must_use]
    pub fn id(&self, i: u64) -> String {
        format!("sim-{i:09}")
    }

    /// The i-th spectrum.
    #[must_use]
    pub fn spectrum(&self, i: u64) -> SimulatedSpectrum {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(i + 1);
        let unit: [f64; 3] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        let labels = std::array::from_fn(|l| {
            let (low, high) = RANGES[l];
            0.5 * (low + high) + 0.5 * (high - low) * unit[l]
        });
        let tilt: f64 = rng.random_range(-0.01..0.01);
        let snr = self.snr.0 * (self.snr.1 / self.snr.0).powf(rng.random_range(0.0..1.0));
        let scale = 1.0 / self.n_pixels.max(1) as f64;
        let mut model: Vec<f64> = (0..self.n_pixels)
            .map(|p| 1.0 + tilt * (2.0 * p as f64 * scale - 1.0))
            .collect();
        for line in &self.lines {
            let strength: f64 = line.slopes.iter().zip(&unit).map(|(s, u)| s * u).sum();
            let depth = (line.depth * strength.exp()).min(0.9);
            let reach = 4.0 * line.width;
            let first = (line.centre - reach).max(0.0) as usize;
            let last = ((line.centre + reach) as usize + 1).min(self.n_pixels);
            for (p, value) in model.iter_mut().enumerate().take(last).skip(first) {
                let z = (p as f64 - line.centre) / line.width;
                *value *= 1.0 - depth * (-0.5 * z * z).exp();
            }
        }
        let mut flux = Vec::with_capacity(self.n_pixels);
        let mut sigma = Vec::with_capacity(self.n_pixels);
        for value in model {
            let s = value.max(0.01).sqrt() / snr;
            let noise: f64 = StandardNormal.sample(&mut rng);
            flux.push((value + s * noise) as f32);
            sigma.push(s as f32);
        }
        SimulatedSpectrum { flux, sigma, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spectra_are_reproducible_and_differ() {
        let (a, b) = (Simulation::new(200, 7), Simulation::new(200, 7));
        assert_eq!(a.spectrum(3), b.spectrum(3));
        assert_ne!(a.spectrum(3).flux, a.spectrum(4).flux);
        assert_ne!(a.spectrum(3).flux, Simulation::new(200, 8).spectrum(3).flux);
    }

    #[test]
    fn the_signal_to_noise_is_the_one_asked_for() {
        let simulation = Simulation::new(50, 1).with_snr(50.0, 100.0);
        for i in 0..50 {
            let (s, other) = (simulation.spectrum(i), Simulation::new(50, 1).spectrum(i));
            assert_eq!(s.labels, other.labels);
            // sigma = sqrt(model) / snr, and no line is deeper than 0.9.
            let largest = s.sigma.iter().fold(0.0_f32, |m, &e| m.max(e));
            assert!((0.0099..0.0202).contains(&largest), "{largest}");
        }
    }

    #[test]
    fn spectra_look_like_spectra() {
        let simulation = Simulation::new(500, 1);
        for i in 0..50 {
            let s = simulation.spectrum(i);
            assert_eq!((s.flux.len(), s.sigma.len()), (500, 500));
            assert!(s.sigma.iter().all(|&e| e > 0.0 && e < 0.06));
            let mean = s.flux.iter().map(|&f| f64::from(f)).sum::<f64>() / 500.0;
            assert!((0.7..1.05).contains(&mean), "{mean}");
            for (label, (low, high)) in s.labels.iter().zip(RANGES) {
                assert!((low..high).contains(label));
            }
        }
    }
}
