//! What the numbers of a certificate mean: the thresholds and the sentences, all in one place.

use super::{BlockCertificate, Certificate, NewtonStep, SigmaRatio};
use crate::BlockInfo;

/// Standard deviations whose median ratio to the exact ones is so close to 1 agree with them, as far as single stars are within [`WILL_DO`].
pub const AGREES: f64 = 0.05;

/// Standard deviations whose median ratio is so close to 1 will do; beyond it another structure, or a prior by held-out stars, is needed.
pub const WILL_DO: f64 = 0.2;

/// A relative error of a variance from arithmetic that is to be looked at.
pub const ANSWER_ERROR: f64 = 1e-3;

/// Theta is no minimum where the Newton decrement exceeds so many times `sqrt(gamma)`, the distance of a typical draw from the posterior.
pub const NEWTON: f64 = 1.0;

/// Share of the spectral weight of the true Hessian plus the prior precision below zero that is to be looked at.
pub const NEGATIVE_SHARE: f64 = 0.01;

/// What follows of a block's numbers.
#[must_use]
pub fn of_block(block: &BlockCertificate, info: &BlockInfo) -> Vec<String> {
    let mut said = Vec::new();
    said.extend(
        block
            .sigma_ratio
            .map(|ratio| format!("errors from this block {}", compared(&ratio))),
    );
    said.extend(block.answer_error.and_then(arithmetic));
    said.extend(
        block
            .newton
            .and_then(|step| no_minimum(&step, info.effective_parameters)),
    );
    said
}

/// Whether effective parameters are more than there can be. A block that is determined whole may be above its limit by rounding.
#[must_use]
pub fn exceeds_limit(effective_parameters: f64, limit: f64) -> bool {
    effective_parameters > limit * (1.0 + 1e-9)
}

/// What follows of a run's numbers.
#[must_use]
pub fn of_run(run: &Certificate) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(comparison) = &run.comparison {
        let own = comparison.structures.first().and_then(|own| own.ratio);
        said.extend(own.map(|ratio| {
            let remedy = if ratio.median.is_nan() || (ratio.median - 1.0).abs() <= WILL_DO {
                ""
            } else {
                "; use structure = \"dual\" or prior.precision = \"holdout\""
            };
            format!(
                "errors of the weights' part {} on {} training spectra{remedy}",
                compared(&ratio),
                comparison.n_spectra
            )
        }));
    }
    said.extend(
        run.not_compared
            .as_ref()
            .map(|why| format!("not compared with the exact posterior: {why}")),
    );
    if exceeds_limit(run.effective_parameters, run.effective_limit) {
        said.push(format!(
            "effective parameters {:.0} exceed the {:.0} that the spectra can determine: the structure counts information that is not there",
            run.effective_parameters, run.effective_limit
        ));
    }
    said.extend(run.answer_error.and_then(arithmetic));
    said.extend(run.newton.and_then(|step| no_minimum(&step, run.effective_parameters)));
    said.extend(run.curvature.filter(|share| share.negative > NEGATIVE_SHARE).map(|share| {
        format!(
            "{:.1} % or more of the spectrum of the true Hessian and the prior together is below zero, down to {:.1e}: theta is no minimum, or noise bends the loss",
            100.0 * share.negative,
            share.lowest
        )
    }));
    said
}

/// `are 0.57 of exact (5 to 95 %: 0.42 to 0.72): too small`.
fn compared(ratio: &SigmaRatio) -> String {
    if ratio.median.is_nan() {
        return "cannot be compared with exact: the variance of some star is no number".to_owned();
    }
    let off = ratio.median - 1.0;
    let spread = format!("5 to 95 %: {:.2} to {:.2}", ratio.p05, ratio.p95);
    if off.abs() <= AGREES {
        let agree = format!("agree with exact within {:.0} %", 100.0 * AGREES);
        return if ratio.p05 >= 1.0 - WILL_DO && ratio.p95 <= 1.0 + WILL_DO {
            format!("{agree} ({spread})")
        } else {
            format!("{agree} in the median, but not star by star ({spread})")
        };
    }
    let judgement = match (off < 0.0, off.abs() <= WILL_DO) {
        (true, true) => "somewhat small",
        (true, false) => "too small",
        (false, true) => "somewhat large",
        (false, false) => "too large",
    };
    format!("are {:.2} of exact ({spread}): {judgement}", ratio.median)
}

fn arithmetic(error: f64) -> Option<String> {
    (error > ANSWER_ERROR || error.is_nan())
        .then(|| format!("arithmetic: relative error {error:.0e} of a variance: use compute.precision = \"f64\" or a larger prior precision"))
}

fn no_minimum(step: &NewtonStep, effective_parameters: f64) -> Option<String> {
    let typical = effective_parameters.max(0.0).sqrt();
    (step.decrement > NEWTON * typical || step.decrement.is_nan()).then(|| {
        format!(
            "theta is no minimum: Newton decrement {:.1} against sqrt(effective parameters) {typical:.1}: train longer, or with this prior \
             as weight decay",
            step.decrement
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_judged_by_their_middle_and_their_tails() {
        for (median, p05, p95, said) in [
            (1.0, 0.8, 1.2, "agree with exact within 5 % (5 to 95 %"),
            (1.0, 0.79, 1.2, "but not star by star"),
            (1.0, 0.8, 1.21, "but not star by star"),
            (
                0.9,
                0.8,
                1.2,
                "are 0.90 of exact (5 to 95 %: 0.80 to 1.20): somewhat small",
            ),
            (1.1, 0.8, 1.2, "somewhat large"),
            (0.79, 0.5, 1.0, "too small"),
            (1.21, 1.0, 1.5, "too large"),
            (f64::NAN, f64::NAN, f64::NAN, "cannot be compared"),
        ] {
            let ratio = SigmaRatio {
                median,
                p05,
                p95,
                spearman: None,
            };
            assert!(compared(&ratio).contains(said), "{said}: {}", compared(&ratio));
        }
    }

    #[test]
    fn what_is_at_a_threshold_is_let_pass_and_what_is_none_is_not() {
        assert_eq!((arithmetic(ANSWER_ERROR), arithmetic(f64::NAN).is_some()), (None, true));
        let step = |decrement| NewtonStep {
            gradient_norm: 1.0,
            decrement,
        };
        assert_eq!(no_minimum(&step(3.0), 9.0), None);
        assert!(
            no_minimum(&step(3.01), 9.0)
                .is_some_and(|said| said.contains("3.0 against sqrt(effective parameters) 3.0"))
        );
        assert!(
            no_minimum(&step(0.1), -1e-9).is_some(),
            "less than nothing from rounding"
        );
        assert!(no_minimum(&step(f64::NAN), 9.0).is_some());
    }
}
