//! What a reader should know of a run: every repair, everything left out, everything odd, in words.

pub(crate) mod calibration;
pub(crate) mod data;

use crate::basis;
use crate::context::Context;
use crate::files;
use crate::passes::exclusions;
use crate::run::stages::Found;
use crate::run::summary::EffectiveParameters;

/// A share of the largest eigenvalue that decompositions in f64 round away in factors of up to some ten thousand columns: below 0 by less is 0, and
/// told of in the table of blocks alone.
const ROUNDING: f64 = 1e-11;

/// Every repair and everything left out, in words.
pub(crate) fn notes(context: &Context, found: &Found) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((_, predicted)) = &found.predict {
        notes.extend(data::of_predictions(context, predicted));
        notes.extend(data::of_unlike(context, predicted));
        notes.extend(data::of_slower_path(context, predicted));
        notes.extend(calibration::of_predicted_pulls(context, predicted));
    }
    notes.extend(data::of_fit(context, &found.fit));
    notes.extend(data::of_range(context, &found.fit));
    notes.extend(exclusions::unmatched(context));
    if let (Some(pinned), Some((calibrated, _))) = (&found.fit.estimate, &found.predict)
        && let Some(today) = &calibrated.noise_today
    {
        notes.extend(basis::drift(pinned, today, &context.network.labels().names));
    }
    for catalogue in [Some(&context.fit), context.predict.as_ref()].into_iter().flatten() {
        for skipped in catalogue.catalogue.skipped() {
            notes.push(format!("object left out: {}: {}", skipped.object, skipped.reason));
        }
    }
    if let Some(noise) = &found.fit.estimate {
        notes.extend(calibration::of_climb("noise", noise));
        notes.extend(calibration::of_floor(noise));
    }
    if let Some(population) = found
        .fit
        .population
        .as_ref()
        .filter(|population| population.borrowed > 0)
    {
        notes.push(format!(
            "masked pixels: {} pixels are good in fewer than two held-out spectra and take the nearest pixel's mean and variance",
            population.borrowed
        ));
    }
    for info in found
        .invert
        .iter()
        .flat_map(|invert| &invert.blocks)
        .filter(|info| info.most_negative_eigenvalue < -ROUNDING)
    {
        notes.push(format!(
            "{}: {} eigenvalues below 0 set to 0, the lowest {:.1e} of the largest",
            info.layers.join("+"),
            info.clipped_eigenvalues,
            info.most_negative_eigenvalue
        ));
    }
    for (info, facts) in found
        .invert
        .iter()
        .flat_map(|invert| &invert.blocks)
        .filter_map(|info| Some((info, info.low_rank?)))
    {
        notes.push(format!(
            "{}: {} eigenpairs hold {:.1} % of the trace, eigenvalues from {:.3e} down to {:.3e}, each within {:.1e} of one of the Hessian's; of the \
             rest the diagonal alone is held",
            info.layers.join("+"),
            facts.rank,
            100.0 * facts.trace_share,
            facts.largest_eigenvalue,
            facts.smallest_eigenvalue,
            facts.largest_residual
        ));
    }
    if found.invert.is_some() {
        let EffectiveParameters { all, limit, of, .. } = EffectiveParameters::of(context, found);
        if all > limit as f64 {
            notes.push(format!(
                "effective parameters {all:.0} exceed {of} = {limit}: the structure counts information that is not there, and the \
                 weights' part is too small"
            ));
        }
    }
    if let (Some(invert), Some(plan)) = (&found.invert, context.dual_plan())
        && !invert
            .files
            .iter()
            .any(|file| file.path == files::marginal_variance_path(plan))
    {
        notes.push(format!(
            "{}: the marginal variance of each weight is not written: for so many weights and spectra it takes more than all the rest, or \
             under so small a prior precision rounding swamps it",
            plan.name()
        ));
    }
    if let Some(choice) = context.prior_choice().filter(|_| found.invert.is_some()) {
        let pulls = found.predict.as_ref().map(|(_, predicted)| {
            predicted.pulls.pulls().is_some() && predicted.in_fit.is_none_or(|in_fit| in_fit.is_test)
        });
        notes.extend(calibration::of_prior(context, choice, pulls));
    }
    if let Some((calibrated, _)) = &found.predict {
        match &calibrated.intrinsic {
            None => notes.push(calibration::of_no_intrinsic(context)),
            Some(intrinsic) if intrinsic.vanishing > 0 => notes.push(format!(
                "C_intrinsic vanishes in {} of {} directions: there the photons' part, the weights' part and the labels' own errors already \
                 explain the held-out residuals, or exceed them",
                intrinsic.vanishing,
                intrinsic.eigenvalues.len()
            )),
            Some(_) => {}
        }
        notes.extend(calibration::of_calibration(context, calibrated));
    }
    notes
}
