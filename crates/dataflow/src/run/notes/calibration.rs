//! What a reader should know of the prior and of what is fitted to held-out spectra, in words.

use fisherflow_posterior::{
    CellScatter, Evidence, FEWEST_STARS, HoldoutPrior, LabelFit, LabelScale, NOISE_FLOOR, OVERWHELMED, PullSums,
    ScatterEstimate,
};

use crate::context::Context;
use crate::job::{Noise, Prior};
use crate::passes::calibrate::Calibrated;
use crate::passes::in_fit::{InFit, by_id_alone};
use crate::passes::predict::Predicted;
use crate::run::prior_choice::PriorChoice;
use crate::run::stage_state::{FitCounts, FitState};

/// Root mean square of a label's pulls over held-out spectra below which something is wrong with its error bars.
const SMALL_PULLS: f64 = 0.2;

/// The remedy where an error of a spectrum's own is far beyond all residuals.
const MASK_THEM: &str = "Pixels whose error stands for \"bad\" must be masked (an error of 0 or NaN, or a mask); where it is most spectra, look for an \
                         inverse variance that is named as sigma";

/// What pulls are over.
pub(crate) const HELD_OUT: &str = "held-out spectra";
const PREDICTED: &str = "spectra of [predict]";

/// Of labelled spectra of another catalogue than the fit's.
pub(crate) fn of_predicted_pulls(context: &Context, predicted: &Predicted) -> Vec<String> {
    if context.is_fused() {
        return Vec::new();
    }
    let mut notes = of_pulls(context, &predicted.pulls, PREDICTED);
    let overwhelmed = predicted.counts.overwhelmed;
    if overwhelmed > 0 {
        notes.push(format!(
            "{overwhelmed} labelled {PREDICTED} are in no pulls: {}",
            why_overwhelmed()
        ));
    }
    let (to_predict, fit) = (context.predicted_uri(), &context.job.catalogue.uri);
    let by = if by_id_alone(context) {
        "id alone (other stars of the same ids are told apart where [catalogue] has labels, too)"
    } else {
        "id and labels"
    };
    notes.extend(
        predicted
            .in_fit
            .and_then(|in_fit| of_in_fit(in_fit, to_predict, fit, by)),
    );
    notes
}

/// Of labelled stars of another catalogue that the fit has too; `by` what they are known.
fn of_in_fit(in_fit: InFit, to_predict: &str, fit: &str, by: &str) -> Option<String> {
    let InFit {
        looked_up,
        found,
        is_test,
    } = in_fit;
    if in_fit == InFit::UNKNOWN {
        return Some(format!(
            "how many labelled stars of {to_predict} are in the fit's catalogue {fit}, too, could not be looked up (the log says why): whether the \
             pulls test the error bars is unknown"
        ));
    }
    let tell = if is_test {
        "so few change little in the pulls"
    } else {
        "over these the pulls are no test of the error bars"
    };
    let are = if found == 1 { "is" } else { "are" };
    (found > 0).then(|| {
        format!(
            "{found} of {looked_up} labelled stars of {to_predict} that were looked up {are} in the fit's catalogue {fit}, too, by {by}: \
             {tell}; predict.exclude leaves stars out"
        )
    })
}

/// Of the prior, and which pulls judge it, once these are known: the curves are written with the prediction.
pub(crate) fn of_prior(
    context: &Context,
    choice: &PriorChoice,
    found: Option<&(Calibrated, Predicted)>,
) -> Vec<String> {
    let (mut notes, is_written) = (Vec::new(), found.is_some());
    for of in &choice.evidence {
        let block = of.block.and_then(|block| context.blocks.get(block));
        let name = match block {
            Some(block) => format!("{}: ", block.name()),
            None if context.job.prior_by_layer.is_empty() => String::new(),
            None => "layers without a precision in [prior.layers]: ".to_owned(),
        };
        let beside = choice.holdout.is_some();
        notes.extend(of_evidence(&of.evidence, &name, beside, is_written));
    }
    if let Some(holdout) = &choice.holdout {
        notes.extend(of_holdout(holdout, is_written));
    }
    if matches!(context.job.prior, Prior::Evidence | Prior::EvidencePerBlock) {
        let judge = found.map_or("the pulls that `predict` finds decide", |(calibrated, predicted)| {
            judge(context, calibrated, predicted)
        });
        let which = match context.job.prior {
            Prior::EvidencePerBlock => "one for each block",
            _ if context.job.prior_by_layer.is_empty() => "one for all weights",
            _ => "one for all layers without a precision in [prior.layers]",
        };
        let curve = if is_written {
            ". The evidence's curve is posterior/evidence.parquet"
        } else {
            ""
        };
        notes.push(format!(
            "a prior precision by evidence, {which}, can be far from calibrated: {judge}{curve}"
        ));
    }
    notes
}

/// Which pulls decide whether a prior by evidence serves: C_intrinsic hides a weights' part that is too small from held-out spectra, and none too large.
fn judge(context: &Context, calibrated: &Calibrated, predicted: &Predicted) -> &'static str {
    let is_test = predicted.in_fit.is_none_or(|in_fit| in_fit.is_test);
    if !context.is_fused() && is_test && predicted.pulls.pulls().is_some() {
        "the pulls over spectra of [predict] decide"
    } else if context.job.keeps_out() && calibrated.pulls.pulls().is_some() {
        "the pulls over held-out spectra decide where their root mean square is far from 1 (C_intrinsic is fitted to these: one near 1 proves nothing)"
    } else {
        "the pulls would decide, and none here are known to be over unseen spectra: nothing here checks the weights' part"
    }
}

fn of_evidence(evidence: &Evidence, name: &str, beside: bool, is_written: bool) -> Vec<String> {
    let delta = evidence.prior_precision;
    let verb = if beside { "would be" } else { "is" };
    let mut notes = vec![format!(
        "{name}prior precision by evidence {verb} {}: {:.1} effective parameters over {} for the sum of squared weights and biases",
        rounded(delta),
        evidence.effective_parameters,
        rounded(evidence.weights_squared)
    )];
    if evidence.at_edge {
        let from = evidence.curve.first().map_or(delta, |point| point.prior_precision);
        let file = if is_written {
            " (posterior/evidence.parquet)"
        } else {
            ""
        };
        notes.push(if delta > from {
            format!(
                "{name}the evidence still rises at {delta:.1e}, the end of its curve{file}: the spectra determine hardly \
                 anything of the weights, and this prior precision is no optimum; give prior.precision a number"
            )
        } else {
            format!(
                "{name}the evidence still rises towards 0 at {delta:.1e}, the end of its curve{file}, where eigenvalues \
                 are rounding: this prior precision is no optimum; give prior.precision a number"
            )
        });
    }
    notes
}

fn of_holdout(holdout: &HoldoutPrior, is_written: bool) -> Vec<String> {
    let ends = [holdout.curve.first(), holdout.curve.last()].map(|point| point.map_or(f64::NAN, |p| p.prior_precision));
    let mut told = format!(
        "prior precision {} makes the residuals of {} held-out spectra likeliest; {} to {} are as good to them (log likelihood within 2)",
        rounded(holdout.prior_precision),
        holdout.n_spectra,
        rounded(holdout.indistinct.0),
        rounded(holdout.indistinct.1)
    );
    let where_it_ends = |ends: bool| if ends { " (where the curve ends)" } else { "" };
    if holdout.flat {
        told = format!(
            "{} held-out spectra cannot tell the prior precision: all from {}{} to {}{} are as good to them (log likelihood within 2 of the best), \
             and {} was taken, the one nearest to the evidence's",
            holdout.n_spectra,
            rounded(holdout.indistinct.0),
            where_it_ends(holdout.indistinct.0 == ends[0]),
            rounded(holdout.indistinct.1),
            where_it_ends(holdout.indistinct.1 == ends[1]),
            rounded(holdout.prior_precision)
        );
    }
    if is_written {
        told += ". The curve is posterior/holdout.parquet";
    }
    let mut notes = vec![told];
    if holdout.at_edge {
        notes.push(format!(
            "the held-out spectra's likelihood is highest at an end of its curve ({} to {}): it has no maximum there",
            rounded(ends[0]),
            rounded(ends[1])
        ));
    }
    notes
}

/// Of a C_intrinsic that no spectrum tells of.
pub(crate) fn of_no_intrinsic(context: &Context) -> String {
    let share = context.job.compute.holdout_fraction;
    let why = if share == 0.0 && !context.job.catalogue.columns.labels.is_empty() {
        "no spectrum is held out (noise.holdout_fraction = 0): raise it".to_owned()
    } else {
        format!(
            "none of the spectra held out (noise.holdout_fraction = {share}) has labels, and errors that these can be compared with"
        )
    };
    format!("C_intrinsic is 0: {why}; error bars are not calibrated")
}

/// Of directions in which nothing is left for C_intrinsic.
pub(crate) fn of_vanishing(intrinsic: &ScatterEstimate) -> Option<String> {
    (intrinsic.vanishing > 0).then(|| {
        format!(
            "C_intrinsic vanishes in {} of {} directions: there the photons' part, the weights' part and the labels' own errors already \
             explain the held-out residuals, or exceed them",
            intrinsic.vanishing,
            intrinsic.eigenvalues.len()
        )
    })
}

/// Of what was fitted to the held-out spectra beside C_intrinsic over all.
pub(crate) fn of_calibration(context: &Context, calibrated: &Calibrated) -> Vec<String> {
    let labels = &context.network.labels().names;
    let mut notes = of_labels(context, &calibrated.label_fits);
    let of_all = of_pulls(context, &calibrated.pulls, HELD_OUT);
    if of_all.is_empty() {
        // Those of a cell with few stars are under the scatter of all, which says nothing of the other parts.
        let cells = calibrated.cells.iter().zip(&calibrated.pulls_by_cell);
        for (cell, pulls) in cells.filter(|(cell, _)| cell.own.is_some()) {
            let spectra = format!("{HELD_OUT} of {}", cell_name(cell, labels));
            notes.extend(of_pulls(context, pulls, &spectra));
        }
    }
    notes.extend(of_all);
    if let Some(all) = &calibrated.intrinsic {
        notes.extend(of_climb("C_intrinsic", all));
        if all.n_spectra < FEWEST_STARS {
            notes.push(format!(
                "what is fitted to held-out spectra rests on {} of them, fewer than {FEWEST_STARS}: raise noise.holdout_fraction",
                all.n_spectra
            ));
        }
        if !context.job.keeps_out() {
            notes.push(format!(
                "the {} held-out spectra that C_intrinsic is fitted to are in the Hessian like all others: no pulls are taken over them (a [predict] \
                 catalogue with labels gives some), and where the network was trained on them it is too small",
                all.n_spectra
            ));
        }
    }
    if calibrated.overwhelmed > 0 {
        let is_found_here = context.basis.as_ref().is_none_or(|basis| basis.is_of(&context.run_id));
        let is_r_of_all =
            context.job.noise == Noise::Holdout && is_found_here && !context.job.calibration.errors_in_variables;
        notes.push(format!(
            "{} held-out spectra are neither in C_intrinsic nor in the pulls{}: {}",
            calibrated.overwhelmed,
            if is_r_of_all {
                " (but in R, where the error is the photons')"
            } else {
                ""
            },
            why_overwhelmed()
        ));
    }
    notes.extend(calibrated.label_scale.iter().map(|found| of_label_scale(found, labels)));
    for cell in &calibrated.cells {
        let name = cell_name(cell, labels);
        match &cell.own {
            None => notes.push(format!(
                "C_intrinsic of {name}: {} held-out spectra, fewer than {FEWEST_STARS}: that of all cells is taken",
                cell.n_spectra
            )),
            Some(own) if own.vanishing > 0 => notes.push(format!(
                "C_intrinsic of {name} vanishes in {} of {} directions",
                own.vanishing,
                own.eigenvalues.len()
            )),
            Some(_) => {}
        }
    }
    notes
}

/// Of training spectra that weigh nothing.
pub(crate) fn of_weightless(counts: &FitCounts) -> Option<String> {
    (counts.overwhelmed > 0).then(|| {
        format!(
            "{} of {} spectra in the sums weigh nothing (noise.errors_in_variables): what photon noise does to a label is more than {OVERWHELMED:.0e} times R's standard \
             deviation. {MASK_THEM}",
            counts.overwhelmed, counts.in_sums
        )
    })
}

/// Why nothing can be learnt of a spectrum's label, and the remedy.
fn why_overwhelmed() -> String {
    format!(
        "their own error of a label is more than {OVERWHELMED:.0e} times the residuals' of held-out spectra (R's, where none of these has labels). {MASK_THEM}"
    )
}

/// Of labels whose error bars are far larger than the residuals over `spectra`, which no scatter can mend.
pub(crate) fn of_pulls(context: &Context, pulls: &PullSums, spectra: &str) -> Vec<String> {
    let labels = &context.network.labels().names;
    let pulls = pulls.pulls().unwrap_or_default();
    // About 0: a bias is a residual, too.
    let sized = labels
        .iter()
        .zip(&pulls)
        .map(|(label, pulls)| (label, pulls.n_spectra, pulls.mean.hypot(pulls.standard_deviation)));
    let small = sized.filter(|(.., size)| *size < SMALL_PULLS);
    let named = small.map(|(label, n, size)| {
        format!(
            "label {label}: its error bars are {} times as large as the residuals of {n} {spectra}. Look for errors of the flux in another \
             form (an inverse variance named as sigma, or a sigma as ivar) or in other units, and for a prior precision that is too small",
            rounded(size.recip())
        )
    });
    named.collect()
}

/// Of a scatter whose likelihood was still rising.
pub(crate) fn of_climb(name: &str, estimate: &ScatterEstimate) -> Option<String> {
    (!estimate.has_converged()).then(|| {
        format!(
            "{name}: its likelihood was still rising after {} iterations: look for spectra whose errors or residuals are far from all others'",
            estimate.iterations
        )
    })
}

/// Of an R that was raised to its floor, and what leaves nothing of it.
pub(crate) fn of_floor(noise: &ScatterEstimate) -> Option<String> {
    let is_known = |part: &[f64]| part.iter().any(|&value| value != 0.0);
    let why = match (is_known(&noise.mean_flux), is_known(&noise.mean_label_covariance)) {
        (false, false) => "one label's residuals are a combination of the others'",
        (false, true) => "the labels' own errors are as large as the residuals",
        (true, false) => "the photons' part is as large as the residuals: look at the catalogue's sigma or ivar",
        (true, true) => {
            "the photons' part and the labels' own errors are as large as the residuals: look at the catalogue's sigma or ivar, and at its \
             label errors"
        }
    };
    (noise.clipped > 0).then(|| {
        format!(
            "noise: {} of {} eigenvalues raised to the floor, {NOISE_FLOOR:.0e} of the residuals' mean square: there {why}",
            noise.clipped,
            noise.eigenvalues.len()
        )
    })
}

/// Of labels in the sums that are hardly labels.
pub(crate) fn of_labels_in_sums(context: &Context, fit: &FitState) -> Vec<String> {
    let named = fit.label_ends.iter().zip(&context.network.labels().names);
    named
        .filter_map(|(ends, name)| {
            let (n, stray) = (ends.n_spectra(), ends.stray()?);
            Some(format!(
                "label {name}: of {n} spectra in the sums, {stray}: a missing label must be null, else the gradient of the loss, and with kind = \
                 \"empirical_fisher\" or \"hessian\" the Hessian too, takes it for an error of the network"
            ))
        })
        .collect()
}

/// Of labels that the network does not know, or that are hardly labels.
pub(crate) fn of_labels(context: &Context, fits: &[LabelFit]) -> Vec<String> {
    let (labels, columns) = (context.network.labels(), &context.job.catalogue.columns.labels);
    let named = fits.iter().zip(labels.names.iter().zip(&labels.units));
    named
        .filter_map(|(fit, (name, unit))| of_label(fit, name, unit, columns))
        .collect()
}

fn of_label(fit: &LabelFit, name: &str, unit: &str, columns: &[String]) -> Option<String> {
    let n = fit.n_spectra;
    if !fit.is_doubtful() {
        return fit.stray.map(|stray| {
            format!(
                "label {name}: of {n} held-out spectra, {stray}: a missing label must be null, else it counts as an error of the network"
            )
        });
    }
    let verdict = match fit.r_squared {
        Some(r_squared) if r_squared < 0.0 => format!("worse than the labels' mean (R^2 {})", rounded(r_squared)),
        _ => "far off".to_owned(),
    };
    let order = fit.follows.and_then(|label| columns.get(label)).map_or_else(
        || "columns in another order than the network's outputs".to_owned(),
        |column| {
            format!("columns in another order than the network's outputs (this output follows column \"{column}\")")
        },
    );
    let values = fit.stray.map_or_else(String::new, |stray| format!(" ({stray})"));
    Some(format!(
        "label {name}: over {n} held-out spectra the network is {verdict}, with a mean residual of {} {unit} and a standard deviation of {} about it: \
         its error bars mean little. Look for {order}, other units, a missing normalisation (network.input_mean, network.input_scale, \
         network.labels.mean, network.labels.scale), and missing labels that are numbers{values}",
        rounded(fit.mean_residual),
        rounded(fit.scatter)
    ))
}

fn of_label_scale(found: &LabelScale, labels: &[String]) -> String {
    if found.not_told.iter().all(|not_told| *not_told) {
        return format!(
            "the weights' part is multiplied by 1, label by label: {} held-out spectra do not tell a factor from 1 (log likelihood within 2 of \
             the best)",
            found.n_spectra
        );
    }
    let each = found.scale.iter().zip(&found.not_told).zip(&found.at_limit);
    let said: Vec<String> = labels
        .iter()
        .zip(each)
        .map(|(label, ((scale, not_told), at_limit))| {
            let why = match (not_told, at_limit) {
                (true, _) => " (kept: not told, log likelihood within 2 of the best)",
                (false, true) => " (as far from 1 as a factor may be)",
                (false, false) => "",
            };
            format!("{label} {}{why}", rounded(*scale))
        })
        .collect();
    format!(
        "the weights' part is multiplied, in standard deviations, by {}: so {} held-out spectra are likeliest, by {:.1} in log likelihood",
        said.join(", "),
        found.n_spectra,
        found.log_likelihood_gain
    )
}

/// `3500 <= teff < 4500, logg < 3.5`.
fn cell_name(cell: &CellScatter, labels: &[String]) -> String {
    let intervals = cell.intervals.iter().map(|interval| {
        let label = labels.get(interval.label).map_or("?", String::as_str);
        let low = interval.low.map_or(String::new(), |low| format!("{low} <= "));
        let high = interval.high.map_or(String::new(), |high| format!(" < {high}"));
        format!("{low}{label}{high}")
    });
    intervals.collect::<Vec<_>>().join(", ")
}

/// To four digits.
fn rounded(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use fisherflow_posterior::{HeldOutStars, KnownParts};

    use super::*;

    #[test]
    fn an_r_at_its_floor_is_explained_by_what_is_known() {
        let residuals = [1.0, -1.0].repeat(25);
        let note = |flux: f64, own: f64| {
            let mut stars = HeldOutStars::new(1);
            let (flux, own) = ([flux; 50], [own; 50]);
            let known = KnownParts {
                flux: Some(&flux),
                label_covariance: Some(&own),
                ..KnownParts::default()
            };
            stars.push(&residuals, known).unwrap();
            of_floor(&stars.noise().unwrap())
        };
        assert_eq!(note(0.0, 0.0), None);
        for (flux, own, said) in [
            (0.0, 100.0, "there the labels' own errors are as large"),
            (100.0, 0.0, "there the photons' part is as large as"),
            (50.0, 50.0, "there the photons' part and the labels' own errors are"),
        ] {
            let note = note(flux, own).unwrap();
            assert!(note.contains(said), "{note}");
        }
        let mut twice = HeldOutStars::new(2);
        let residuals = residuals.iter().flat_map(|r| [*r, 3.0 * r]).collect::<Vec<_>>();
        twice.push(&residuals, KnownParts::default()).unwrap();
        let note = of_floor(&twice.noise().unwrap()).unwrap();
        assert!(note.contains("a combination of the others'"), "{note}");
    }

    #[test]
    fn a_prior_that_was_found_is_told_with_its_curve() {
        let mut evidence = Evidence {
            prior_precision: 4.0,
            log_evidence: -3.0,
            effective_parameters: 250.0,
            weights_squared: 62.5,
            at_edge: false,
            clipped_eigenvalues: 0,
            curve: Vec::new(),
        };
        let told = "prior precision by evidence is 4: 250.0 effective parameters over 62.5 for the sum of squared weights and biases";
        assert_eq!(of_evidence(&evidence, "", false, true), [told]);
        let beside = of_evidence(&evidence, "layers.2: ", true, true);
        assert!(beside[0].starts_with("layers.2: prior precision by evidence would be 4:"));
        evidence.at_edge = true;
        let at_edge = of_evidence(&evidence, "", false, true);
        assert!(at_edge[1].contains("still rises") && at_edge[1].contains("(posterior/evidence.parquet)"));
        let before = of_evidence(&evidence, "", false, false);
        assert!(before[1].contains("still rises") && !before[1].contains(".parquet"));
        let mut holdout = HoldoutPrior {
            prior_precision: 90.0,
            log_likelihood: -1.0,
            effective_parameters: 250.0,
            indistinct: (20.0, 500.0),
            flat: false,
            at_edge: false,
            n_spectra: 80,
            curve: Vec::new(),
        };
        assert!(!of_holdout(&holdout, false)[0].contains(".parquet"));
        assert_eq!(
            of_holdout(&holdout, true),
            [
                "prior precision 90 makes the residuals of 80 held-out spectra likeliest; 20 to 500 are as good to them (log likelihood within 2). \
                 The curve is posterior/holdout.parquet"
            ]
        );
        holdout.flat = true;
        let flat = of_holdout(&holdout, true);
        assert!(
            flat[0].contains("cannot tell the prior precision: all from 20 to 500")
                && flat[0].ends_with("holdout.parquet")
        );
    }

    #[test]
    fn factors_are_told_with_what_the_stars_say_of_them() {
        let labels = ["teff", "logg", "mh"].map(str::to_owned);
        let mut found = LabelScale {
            scale: vec![1.25, 1.0, 1e-3],
            log_likelihood_gain: 12.34,
            n_spectra: 150,
            not_told: vec![false, true, false],
            at_limit: vec![false, false, true],
        };
        assert_eq!(
            of_label_scale(&found, &labels),
            "the weights' part is multiplied, in standard deviations, by teff 1.25, logg 1 (kept: not told, log likelihood within 2 of the best), \
             mh 0.001 (as far from 1 as a factor may be): so 150 held-out spectra are likeliest, by 12.3 in log likelihood"
        );
        found.not_told = vec![true; 3];
        let none = of_label_scale(&found, &labels);
        assert!(
            none.contains("multiplied by 1, label by label: 150 held-out spectra do not tell"),
            "{none}"
        );
    }

    #[test]
    fn known_stars_are_told_and_judged_by_their_number() {
        let note = |found| of_in_fit(InFit::of(60, found), "/new", "/old", "id and labels");
        assert_eq!(note(0), None);
        let unknown = of_in_fit(InFit::UNKNOWN, "/new", "/old", "id alone").unwrap();
        assert!(unknown.contains("could not be looked up") && unknown.ends_with("is unknown"));
        assert_eq!(
            note(6).unwrap(),
            "6 of 60 labelled stars of /new that were looked up are in the fit's catalogue /old, too, by id and labels: so few change little in \
             the pulls; predict.exclude leaves stars out"
        );
        assert!(note(1).unwrap().contains("looked up is in"));
        assert!(
            note(7)
                .unwrap()
                .contains("over these the pulls are no test of the error bars")
        );
    }
}
