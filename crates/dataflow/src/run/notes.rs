//! What a reader should know of a run: every repair, everything left out, everything odd, in words.

mod blocks;
pub(crate) mod calibration;
pub(crate) mod data;

use crate::basis;
use crate::context::Context;
use crate::passes::exclusions;
use crate::run::stages::Found;
use crate::run::summary::EffectiveParameters;

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
    notes.extend(calibration::of_weightless(&found.fit.counts));
    notes.extend(calibration::of_labels_in_sums(context, &found.fit));
    notes.extend(data::of_range(context, &found.fit));
    notes.extend(exclusions::unmatched(context));
    if let (Some(pinned), Some((calibrated, _))) = (&found.fit.estimate, &found.predict)
        && let Some(today) = &calibrated.noise_today
    {
        notes.extend(basis::drift(pinned, today, &context.network.labels().names));
    }
    notes.extend(data::of_left_out(context));
    if let Some(noise) = &found.fit.estimate {
        notes.extend(calibration::of_climb("noise", noise));
        notes.extend(calibration::of_floor(noise));
    }
    notes.extend(found.fit.population.as_ref().and_then(data::of_borrowed));
    if let Some(inverted) = &found.invert {
        notes.extend(inverted.blocks.iter().filter_map(blocks::of_clipped));
        notes.extend(inverted.blocks.iter().filter_map(blocks::of_low_rank));
        notes.extend(blocks::of_effective(&EffectiveParameters::of(context, found)));
        notes.extend(blocks::of_missing_variance(context, inverted));
        if let Some(choice) = context.prior_choice() {
            notes.extend(calibration::of_prior(context, choice, found.predict.as_ref()));
        }
    }
    if let Some((calibrated, _)) = &found.predict {
        match &calibrated.intrinsic {
            None => notes.push(calibration::of_no_intrinsic(context)),
            Some(intrinsic) => notes.extend(calibration::of_vanishing(intrinsic)),
        }
        notes.extend(calibration::of_calibration(context, calibrated));
    }
    notes
}
