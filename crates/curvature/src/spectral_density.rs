//! What the eigenvalues of a curvature of any size are, from products alone: stochastic Lanczos quadrature.
//!
//! Each probe is a vector of random signs z, of length `sqrt p`. `E[z^T f(H) z] = tr f(H)` (Hutchinson 1990), and m Lanczos steps from z give
//! `z^T f(H) z` as a quadrature of m nodes, exact for polynomials up to degree 2 m - 1. The mean over probes is the spectral density: the nodes'
//! weights say which share of the p eigenvalues is where. Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal. Appl. 38, 1075; Ghorbani, Krishnan
//! and Xiao (2019), arXiv:1901.10159.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::CurvatureError;
use crate::lanczos::{Lanczos, Ritz, Tridiagonal};

/// Width of the smoothing of [`SpectralDensity::curve`], in decades.
const SMOOTHING: f64 = 0.1;

/// The probes of a stochastic Lanczos quadrature, between two products: all of them go through one pass.
#[derive(Clone, Debug)]
pub struct SpectralProbes {
    n_weights: usize,
    probes: Vec<Lanczos>,
}

/// An approximate eigenvalue of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// The probe, from 0.
    pub probe: usize,
    /// Value, the probe's weight (1 in all over a probe), and residual.
    pub ritz: Ritz,
}

/// The eigenvalues of a curvature, as far as the probes show them.
#[derive(Clone, Debug, PartialEq)]
pub struct SpectralDensity {
    /// Number of weights: of eigenvalues.
    pub n_weights: usize,
    /// All probes' nodes, probe after probe, values ascending.
    pub nodes: Vec<Node>,
    /// `tr H`, Hutchinson's estimate.
    pub trace: f64,
    /// Standard error of the trace over the probes; `None` for one probe.
    pub trace_error: Option<f64>,
    /// The smallest Ritz value of all probes, which no eigenvalue's smallest exceeds.
    pub smallest: Ritz,
    /// The largest.
    pub largest: Ritz,
    /// Values of no more than this size are rounding.
    pub rounding: f64,
    /// Share of the eigenvalues that are negative beyond rounding: of the nodes, by their weights.
    pub negative_share: f64,
    /// Share of `sum |lambda|` that they have.
    pub negative_trace_share: f64,
    /// Of each probe.
    matrices: Vec<Tridiagonal>,
}

/// A point of the spectral density.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DensityPoint {
    /// An eigenvalue.
    pub value: f64,
    /// Share of the eigenvalues a decade of `value`, smoothed over a tenth of a decade; between plus and minus rounding the scale is linear.
    pub per_decade: f64,
    /// Share of the eigenvalues up to it, not smoothed.
    pub cumulative: f64,
}

impl SpectralProbes {
    /// `probes` vectors of random signs over `n_weights` weights; each has its own stream of the seed, so that more probes keep the first ones.
    #[must_use]
    pub fn new(n_weights: usize, probes: usize, seed: u64) -> Self {
        let probe = |stream: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream as u64);
            let mut signs = Vec::with_capacity(n_weights);
            while signs.len() < n_weights {
                let bits = rng.next_u64();
                let left = (n_weights - signs.len()).min(64);
                signs.extend((0..left).map(|bit| if bits >> bit & 1 == 1 { 1.0 } else { -1.0 }));
            }
            Lanczos::new(signs)
        };
        Self {
            n_weights,
            probes: (0..probes).map(probe).collect(),
        }
    }

    /// The vectors whose products are the next step, `[n, n_weights]`; none once every probe's space is complete.
    #[must_use]
    pub fn directions(&self) -> Vec<f64> {
        self.probes
            .iter()
            .filter_map(Lanczos::direction)
            .flatten()
            .copied()
            .collect()
    }

    /// Goes on with the products of [`SpectralProbes::directions`], `[n, n_weights]`.
    pub fn step(&mut self, products: &[f64]) {
        let waiting = self.probes.iter_mut().filter(|probe| probe.direction().is_some());
        for (probe, product) in waiting.zip(products.chunks_exact(self.n_weights.max(1))) {
            probe.step(product.to_vec());
        }
    }

    /// What the steps so far show. `relative_rounding`: the error of the products, relative to the largest eigenvalue.
    ///
    /// # Errors
    /// No step was done, or a product was not finite.
    pub fn density(&self, relative_rounding: f64) -> Result<SpectralDensity, CurvatureError> {
        let mut nodes = Vec::new();
        for (probe, lanczos) in self.probes.iter().enumerate() {
            nodes.extend(
                lanczos
                    .tridiagonal()
                    .ritz()?
                    .into_iter()
                    .map(|ritz| Node { probe, ritz }),
            );
        }
        let by_value = |a: &&Node, b: &&Node| a.ritz.value.total_cmp(&b.ritz.value);
        let (Some(smallest), Some(largest)) = (nodes.iter().min_by(by_value), nodes.iter().max_by(by_value)) else {
            return Err(CurvatureError::Eigenvalues { size: 0 });
        };
        let (smallest, largest) = (smallest.ritz, largest.ritz);
        let (n, p) = (self.probes.len() as f64, self.n_weights as f64);
        let traces: Vec<f64> = self.probes.iter().map(|probe| p * probe.quadratic_form()).collect();
        let trace = traces.iter().sum::<f64>() / n;
        let spread: f64 = traces.iter().map(|t| (t - trace) * (t - trace)).sum();
        let rounding = relative_rounding * smallest.value.abs().max(largest.value.abs());
        let negative = || nodes.iter().filter(|node| node.ritz.value < -rounding);
        let size = |node: &Node| node.ritz.weight * node.ritz.value.abs();
        let all: f64 = nodes.iter().map(size).sum();
        // An empty sum is -0.
        let below = 0.0 + negative().map(size).sum::<f64>();
        Ok(SpectralDensity {
            n_weights: self.n_weights,
            trace,
            trace_error: (n > 1.0).then(|| (spread / (n - 1.0) / n).sqrt()),
            smallest,
            largest,
            rounding,
            negative_share: 0.0 + negative().map(|node| node.ritz.weight).sum::<f64>() / n,
            negative_trace_share: if all > 0.0 { below / all } else { 0.0 },
            nodes,
            matrices: self.probes.iter().map(|probe| probe.tridiagonal().clone()).collect(),
        })
    }
}

impl SpectralDensity {
    /// The least and the most that the share of eigenvalues up to `x` can be by these steps of these probes: the mean over them. What is left is by
    /// chance, as of the trace.
    #[must_use]
    pub fn share_up_to(&self, x: f64) -> [f64; 2] {
        let n = self.matrices.len().max(1) as f64;
        self.matrices.iter().fold([0.0, 0.0], |[least, most], matrix| {
            // Where nothing can be told it is all or none.
            let of_probe = matrix.share_up_to(x).unwrap_or([0.0, 1.0]);
            [least + of_probe[0] / n, most + of_probe[1] / n]
        })
    }

    /// The least and the most of the share of eigenvalues above `low` and up to `high`.
    #[must_use]
    pub fn share_between(&self, low: f64, high: f64) -> [f64; 2] {
        let (below, up_to) = (self.share_up_to(low), self.share_up_to(high));
        [(up_to[0] - below[1]).max(0.0), (up_to[1] - below[0]).max(0.0)]
    }

    /// The density as a curve of `points` points, evenly spaced in the logarithm of the value on either side of 0.
    #[must_use]
    pub fn curve(&self, points: usize) -> Vec<DensityPoint> {
        let ten = std::f64::consts::LN_10;
        let unit = self.rounding.max(f64::MIN_POSITIVE);
        // asinh: linear within rounding, the logarithm beyond
        let (down, up) = (
            |value: f64| (value / unit).asinh() / ten,
            |decade: f64| (decade * ten).sinh() * unit,
        );
        let margin = 5.0 * SMOOTHING;
        let (low, high) = (down(self.smallest.value) - margin, down(self.largest.value) + margin);
        let step = (high - low) / (points.max(2) - 1) as f64;
        let probes = self.nodes.last().map_or(1.0, |node| (node.probe + 1) as f64);
        let height = 1.0 / (SMOOTHING * (2.0 * std::f64::consts::PI).sqrt() * probes);
        (0..points)
            .map(|point| {
                let decade = low + point as f64 * step;
                let value = up(decade);
                let share = |node: &Node| {
                    let away = (down(node.ritz.value) - decade) / SMOOTHING;
                    height * node.ritz.weight * (-0.5 * away * away).exp()
                };
                let up_to = self.nodes.iter().filter(|node| node.ritz.value <= value);
                DensityPoint {
                    value,
                    per_decade: self.nodes.iter().map(share).sum(),
                    cumulative: up_to.map(|node| node.ritz.weight).sum::<f64>() / probes,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orthonormal::scale;

    /// A diagonal matrix, whose trace random signs give exactly.
    #[test]
    fn a_diagonal_is_found_out() {
        let values: Vec<f64> = (0..50)
            .map(|i| if i < 5 { -2.0 } else { 1.0 + f64::from(i % 3) })
            .collect();
        let mut probes = SpectralProbes::new(50, 3, 1);
        for _ in 0..10 {
            let products: Vec<f64> = probes
                .directions()
                .chunks(50)
                .flat_map(|v| v.iter().zip(&values).map(|(v, value)| v * value).collect::<Vec<_>>())
                .collect();
            probes.step(&products);
        }
        assert!(
            probes.directions().is_empty(),
            "four different eigenvalues are four steps"
        );
        let density = probes.density(1e-12).unwrap();
        let trace: f64 = values.iter().sum();
        assert!((density.trace - trace).abs() < 1e-12);
        assert!(density.trace_error.unwrap() < 1e-12);
        assert!((density.smallest.value + 2.0).abs() < 1e-12 && (density.largest.value - 3.0).abs() < 1e-12);
        assert!((density.negative_share - 0.1).abs() < 1e-12);
        for share in density.share_up_to(-1e-9) {
            assert!((share - 0.1).abs() < 1e-12);
        }
        let size: f64 = values.iter().map(|v| v.abs()).sum();
        assert!((density.negative_trace_share - 10.0 / size).abs() < 1e-12);
        let curve = density.curve(400);
        assert!((curve[399].cumulative - 1.0).abs() < 1e-12 && curve[0].cumulative == 0.0);
        let below = curve
            .iter()
            .filter(|point| point.value < 0.0)
            .map(|point| point.cumulative);
        assert!((below.fold(0.0, f64::max) - 0.1).abs() < 1e-12);
        assert_eq!(
            SpectralProbes::new(50, 3, 1).directions()[..50],
            SpectralProbes::new(50, 1, 1).directions()
        );
    }

    /// Of a matrix that is not diagonal the traces of the probes differ: their mean, and the standard deviation of that.
    #[test]
    fn the_error_of_the_trace_is_that_of_a_mean() {
        let p = 12;
        let element = |i: usize, j: usize| if i == j { 2.0 } else { 1.0 / (1 + i.abs_diff(j)) as f64 };
        let times = |v: &[f64]| -> Vec<f64> {
            let row = |i: usize| v.iter().enumerate().map(|(j, v)| element(i, j) * v).sum();
            (0..p).map(row).collect()
        };
        let mut probes = SpectralProbes::new(p, 5, 2);
        let starts = probes.directions();
        let products: Vec<Vec<f64>> = starts.chunks(p).map(times).collect();
        probes.step(&products.concat());
        // The starts have length 1, random signs that of the square root of p.
        let of_probe = |(z, hz): (&[f64], &Vec<f64>)| z.iter().zip(hz).map(|(z, hz)| p as f64 * z * hz).sum();
        let traces: Vec<f64> = starts.chunks(p).zip(&products).map(of_probe).collect();
        let mean = traces.iter().sum::<f64>() / 5.0;
        let square: f64 = traces.iter().map(|trace| (trace - mean).powi(2)).sum();
        let density = probes.density(1e-9).unwrap();
        let error = density.trace_error.unwrap();
        assert!(square > 1.0, "the traces differ: {traces:?}");
        assert!((density.trace - mean).abs() < 1e-12 * mean);
        assert!((error - (square / 20.0).sqrt()).abs() < 1e-12 * error, "{error}");
    }

    #[test]
    fn what_is_within_rounding_is_not_negative() {
        let values = [-1e-9, 1.0, 2.0, 2.0];
        let density = |relative_rounding: f64| {
            let mut probes = SpectralProbes::new(4, 1, 1);
            while !probes.directions().is_empty() {
                let v = probes.directions();
                let products: Vec<f64> = v.iter().zip(values).map(|(v, value)| v * value).collect();
                probes.step(&products);
            }
            probes.density(relative_rounding).unwrap()
        };
        let (within, beyond) = (density(1e-8), density(1e-12));
        assert_eq!((within.negative_share, within.negative_trace_share), (0.0, 0.0));
        assert_eq!(within.trace_error, None, "one probe");
        assert!((beyond.negative_share - 0.25).abs() < 1e-6, "{}", beyond.negative_share);
    }

    #[test]
    fn without_a_step_there_is_no_density() {
        assert!(SpectralProbes::new(5, 2, 0).density(1e-6).is_err());
    }

    #[test]
    fn scaling_the_matrix_scales_the_curve_and_keeps_its_area() {
        let mut probes = SpectralProbes::new(64, 2, 3);
        for _ in 0..6 {
            let mut products = probes.directions();
            for v in products.chunks_mut(64) {
                for (i, v) in v.iter_mut().enumerate() {
                    *v *= 10f64.powf(i as f64 / 16.0);
                }
            }
            scale(&mut products, 7.0);
            probes.step(&products);
        }
        let density = probes.density(1e-9).unwrap();
        let curve = density.curve(2000);
        let decades = (curve[1999].value / curve[0].value).log10();
        let area: f64 = curve.iter().map(|point| point.per_decade).sum::<f64>() * decades / 1999.0;
        assert!((area - 1.0).abs() < 1e-3, "{area}");
    }
}
