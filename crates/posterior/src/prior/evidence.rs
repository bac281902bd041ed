//! The prior precision that the data ask for: the maximum of the marginal likelihood (MacKay 1992, "Bayesian interpolation").
//!
//! With the eigenvalues `lambda` of all blocks, `|theta|^2` over all their weights, biases included as the prior covers them, and one
//! precision `delta` for the network,
//!
//! ```text
//! ln evidence(delta) = -1/2 delta |theta|^2 + 1/2 p ln delta - 1/2 ln det(H + delta I) + constants
//!                    = -1/2 delta |theta|^2 - 1/2 sum ln(1 + lambda / delta)
//! d / d ln delta     = 1/2 (gamma(delta) - delta |theta|^2),      gamma = sum lambda / (lambda + delta)
//! ```
//!
//! `gamma` falls and `delta |theta|^2` rises with `delta`, so that there is one maximum, where `delta = gamma / |theta|^2`: one for which
//! neither the weights nor the eigenvalues all vanish. It is looked for where the eigenvalues can tell: from 1e-16 of the largest, or what
//! rounding hides of a block where that is more ([`Spectrum::rounding`]), to 1e4 times it, above which the prior alone determines every weight.

use serde::{Deserialize, Serialize};

use crate::prior::spectrum::AtPrior;
use crate::{PosteriorError, Spectrum};

/// Points of the curve in a decade.
const PER_DECADE: f64 = 4.0;

/// Decades below the largest eigenvalue at which the curve begins.
const DECADES_BELOW: f64 = 16.0;

/// Decades above the largest eigenvalue at which the curve ends.
const DECADES_ABOVE: f64 = 4.0;

/// The optimum is known to so much of its logarithm.
const TOLERANCE: f64 = 1e-12;

/// More steps than halving an interval of the curve to its last bit takes.
const STEPS: usize = 100;

/// The prior precision of maximum evidence, and the curve it is the maximum of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `delta`, in normalised label units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// The log evidence there, up to constants that do not depend on `delta`: 0 where the data say nothing about weights that are 0.
    pub log_evidence: f64,
    /// `gamma` there, over all blocks that it is the evidence of.
    pub effective_parameters: f64,
    /// `|theta|^2` of all their weights, biases included.
    pub weights_squared: f64,
    /// Whether the curve still rises at the end that was taken: the optimum is beyond it, and is not trusted.
    pub at_edge: bool,
    /// Eigenvalues that were negative from rounding and count as 0.
    pub clipped_eigenvalues: u64,
    /// The log evidence over a fixed logarithmic grid, ascending in `delta`.
    pub curve: Vec<EvidencePoint>,
}

/// The evidence of one prior precision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidencePoint {
    /// `delta`.
    pub prior_precision: f64,
    /// Log evidence, up to the same constants everywhere on the curve.
    pub log_evidence: f64,
    /// `gamma`.
    pub effective_parameters: f64,
}

/// Maximises the evidence over one prior precision for all blocks; `weights_squared` is `|theta|^2` over all their weights, biases
/// included.
///
/// # Errors
/// [`PosteriorError::NoEvidence`] where there is no maximum: all weights are 0, or all eigenvalues.
pub fn evidence(spectra: &[Spectrum], weights_squared: f64) -> Result<Evidence, PosteriorError> {
    let refused = |reason| Err(PosteriorError::NoEvidence { reason });
    let largest = spectra.iter().map(Spectrum::largest).fold(0.0, f64::max);
    if !weights_squared.is_finite() || !largest.is_finite() {
        return refused("the network's weights or the Hessian's eigenvalues overflow");
    }
    if weights_squared <= 0.0 {
        return refused("all weights are 0, for which every larger one is better");
    }
    if largest <= 0.0 {
        return refused("the Hessian is 0, for which every smaller one is better");
    }
    let sums = |delta: f64| {
        let mut all = AtPrior::default();
        for spectrum in spectra {
            all.add(spectrum.at(delta));
        }
        all
    };
    let point = |delta: f64| {
        let at = sums(delta);
        EvidencePoint {
            prior_precision: delta,
            log_evidence: -0.5 * (delta * weights_squared + at.log_det_over_prior),
            effective_parameters: at.effective_parameters,
        }
    };
    let rounding = spectra.iter().map(Spectrum::rounding).fold(0.0, f64::max);
    let seen = grid(largest).filter(|delta| *delta > rounding);
    let curve: Vec<EvidencePoint> = seen.map(point).collect();
    let rises = |point: &EvidencePoint| point.effective_parameters > point.prior_precision * weights_squared;
    let rising = curve.iter().take_while(|point| rises(point)).count();
    let inside = rising
        .checked_sub(1)
        .and_then(|low| Some((curve.get(low)?, curve.get(rising)?)));
    let (best, at_edge) = match (inside, curve.as_slice()) {
        (Some((low, high)), _) => {
            let slope = |log_delta: f64| {
                let delta = log_delta.exp();
                let at = sums(delta);
                let prior = delta * weights_squared;
                (at.effective_parameters - prior, -(at.decrease + prior))
            };
            let found = falling_root(slope, low.prior_precision.ln(), high.prior_precision.ln());
            (point(found.exp()), false)
        }
        (None, [first, .., last]) => (if rising == 0 { *first } else { *last }, true),
        (None, _) => return refused("its range is empty"),
    };
    Ok(Evidence {
        prior_precision: best.prior_precision,
        log_evidence: best.log_evidence,
        effective_parameters: best.effective_parameters,
        weights_squared,
        at_edge,
        clipped_eigenvalues: spectra.iter().map(Spectrum::clipped).sum(),
        curve,
    })
}

/// Prior precisions `10^(k / 4)` about a largest eigenvalue: the same numbers for every Hessian.
fn grid(largest: f64) -> impl Iterator<Item = f64> {
    let decade = largest.log10();
    let first = (PER_DECADE * (decade - DECADES_BELOW)).floor() as i64;
    let last = (PER_DECADE * (decade + DECADES_ABOVE)).ceil() as i64;
    (first..=last).map(|k| 10_f64.powf(k as f64 / PER_DECADE))
}

/// The root of a falling function between a place where it is above 0 and one where it is not: Newton's steps, or halves of the interval
/// where a step would leave it. The function gives its value and derivative.
fn falling_root(function: impl Fn(f64) -> (f64, f64), mut low: f64, mut high: f64) -> f64 {
    let mut x = 0.5 * (low + high);
    for _ in 0..STEPS {
        let (value, derivative) = function(x);
        if value > 0.0 {
            low = x;
        } else {
            high = x;
        }
        let step = -value / derivative;
        if step.abs() <= TOLERANCE {
            return x + step;
        }
        let next = x + step;
        x = if low < next && next < high {
            next
        } else {
            0.5 * (low + high)
        };
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_weight_by_hand() {
        // lambda / (lambda + delta) = delta theta^2.
        for (lambda, squared) in [(3.0, 0.25), (1e9, 1e-3), (1e-7, 40.0), (2.0_f64, 2e-4)] {
            let half: f64 = 0.5 * lambda;
            let expected = (half * half + lambda / squared).sqrt() - half;
            let found = evidence(&[Spectrum::new(vec![lambda], 0)], squared).unwrap();
            assert!((found.prior_precision / expected - 1.0).abs() < 1e-6, "{found:?}");
            assert!(!found.at_edge);
        }
    }

    #[test]
    fn the_maximum_is_stationary_and_above_its_curve() {
        let spectrum = Spectrum::kronecker(vec![1e-8, 0.3, 2.0, 7e5], &[1e-3, 1.0, 40.0], 3, 2);
        let other = Spectrum::new(vec![0.0, 11.0, 1e-20], 1);
        let found = evidence(&[spectrum.clone(), other.clone()], 6.5).unwrap();
        let implied = found.effective_parameters / found.weights_squared;
        assert!((found.prior_precision / implied - 1.0).abs() < 1e-10);
        let gamma = |delta: f64| spectrum.effective_parameters(delta) + other.effective_parameters(delta);
        assert_eq!(found.effective_parameters, gamma(found.prior_precision));
        assert!(found.curve.iter().all(|point| point.log_evidence <= found.log_evidence));
        assert!(found.curve.is_sorted_by(|a, b| {
            a.prior_precision < b.prior_precision && a.effective_parameters >= b.effective_parameters
        }));
        assert_eq!(found.clipped_eigenvalues, 3);
        assert_eq!(
            found.curve.len(),
            82,
            "four a decade over twenty decades, to both sides rounded"
        );
    }

    #[test]
    fn a_larger_sum_and_the_same_ratio_move_the_optimum_with_the_sum() {
        let lambdas = [0.2, 3.0, 900.0];
        let at = |times: f64| {
            let scaled = Spectrum::new(lambdas.map(|l| l * times).to_vec(), 0);
            evidence(&[scaled], 2.0 / times).unwrap().prior_precision
        };
        assert!((at(1e5) / at(1.0) / 1e5 - 1.0).abs() < 1e-10);
    }

    #[test]
    fn where_the_optimum_is_beyond_the_curve_its_end_is_taken_and_said() {
        let regular = [Spectrum::new(vec![1.0, 2.0], 0)];
        let heavy = evidence(&regular, 1e20).unwrap();
        assert!(heavy.at_edge);
        assert_eq!(heavy.prior_precision, heavy.curve[0].prior_precision);
        let light = evidence(&regular, 1e-20).unwrap();
        assert!(light.at_edge);
        assert_eq!(light.prior_precision, light.curve.last().unwrap().prior_precision);
    }

    #[test]
    fn an_optimum_that_rounding_hides_is_none() {
        let of = |rounding: f64| {
            let spectrum = Spectrum::new(vec![0.0, 1.0, 2.0], 1).with_rounding(rounding);
            evidence(&[spectrum], 1e10).unwrap()
        };
        assert!(!of(0.0).at_edge && of(0.0).prior_precision < 1e-9);
        let hidden = of(1e-7);
        assert!(hidden.at_edge && hidden.prior_precision > 1e-7, "{hidden:?}");
        assert_eq!(hidden.prior_precision, hidden.curve[0].prior_precision);
        assert_eq!(of(1e-12).prior_precision, of(0.0).prior_precision);
    }

    #[test]
    fn without_weights_or_curvature_there_is_no_maximum() {
        let regular = Spectrum::new(vec![1.0, 2.0], 0);
        let zero = Spectrum::new(vec![0.0, 0.0], 0);
        for (spectra, squared, said) in [
            (vec![regular.clone()], 0.0, "all weights are 0"),
            (vec![zero.clone()], 1.0, "the Hessian is 0"),
            (vec![], 1.0, "the Hessian is 0"),
            (vec![regular.clone()], f64::NAN, "overflow"),
        ] {
            let error = evidence(&spectra, squared).unwrap_err();
            assert!(matches!(error, PosteriorError::NoEvidence { .. }));
            assert!(error.to_string().contains(said), "{error}");
        }
        let mixed = evidence(&[zero, regular.clone()], 1.0).unwrap();
        let alone = evidence(&[regular], 1.0).unwrap();
        assert_eq!(mixed.prior_precision, alone.prior_precision);
    }
}
