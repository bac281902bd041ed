//! What a reader should know of rows that gave nothing, in words.

use fisherflow_spectra::{PixelPopulation, RowFlags};

use crate::bad_rows::BadRows;
use crate::context::Context;
use crate::passes::predict::Predicted;
use crate::run::stage_state::FitState;

/// Of rows of the fit's catalogue, where it is not the one to predict: those are told of there.
pub(crate) fn of_fit(context: &Context, fit: &FitState) -> Option<String> {
    let (bad, all) = (fit.counts.bad, fit.counts.spectra);
    (!context.is_fused() && bad > 0).then(|| {
        let uri = &context.job.catalogue.uri;
        format!(
            "{bad} of {all} spectra of {uri} are bad, and in no sum: {}",
            fit.bad_rows
        )
    })
}

/// Where nothing tells how far a flux may be.
pub(crate) fn of_range(context: &Context, fit: &FitState) -> Option<String> {
    let limit = fit.population.as_ref().and_then(|population| population.input_limit);
    (limit.is_none() && context.job.compute.farthest_input.is_finite()).then(|| {
        "no spectrum is out of range but where it overflows: too few held-out spectra tell how far a flux may be (noise.farthest_input)".to_owned()
    })
}

/// Of objects that are no part of their catalogue.
pub(crate) fn of_left_out(context: &Context) -> Vec<String> {
    let catalogues = [Some(&context.fit), context.predict.as_ref()].into_iter().flatten();
    catalogues
        .flat_map(|grouped| grouped.catalogue.skipped())
        .map(|skipped| format!("object left out: {}: {}", skipped.object, skipped.reason))
        .collect()
}

/// Of pixels that hardly any held-out spectrum tells of.
pub(crate) fn of_borrowed(population: &PixelPopulation) -> Option<String> {
    (population.borrowed > 0).then(|| {
        format!(
            "masked pixels: {} pixels are good in fewer than two held-out spectra and take the nearest pixel's mean and variance",
            population.borrowed
        )
    })
}

/// Of rows without a prediction.
pub(crate) fn of_predictions(context: &Context, predicted: &Predicted) -> Option<String> {
    let (counts, rows) = (&predicted.counts, &predicted.bad_rows);
    let uri = context.predicted_uri();
    let (bad, all) = (counts.bad, counts.spectra);
    match bad {
        0 => None,
        _ if bad + counts.excluded == all => {
            Some(format!("none of the {all} spectra of {uri} has a prediction: {rows}"))
        }
        _ if is_most(predicted) => Some(format!(
            "most spectra of {uri}, {bad} of {all}, have no prediction: {rows}"
        )),
        _ => Some(format!("{bad} of {all} spectra of {uri} have no prediction: {rows}")),
    }
}

/// Whether so many rows have no prediction that something is wrong with the catalogue, or with the run file.
pub(crate) fn is_most(predicted: &Predicted) -> bool {
    2 * predicted.counts.bad > predicted.counts.spectra
}

/// Of rows whose fluxes are not what the network was fitted to.
pub(crate) fn of_unlike(context: &Context, predicted: &Predicted) -> Option<String> {
    let counts = &predicted.counts;
    let (unlike, good) = (counts.unlike_fit, counts.spectra - counts.bad - counts.excluded);
    let source = context.job.predict.catalogue.as_ref()?;
    let which = match 2 * unlike > good {
        true => format!("most spectra of {}, {unlike} of {good}, are", source.uri),
        false => format!("{unlike} of {good} spectra of {} are", source.uri),
    };
    (unlike > 0).then(|| {
        format!(
            "{which} unlike those of {}, and their error bars mean little: {}. Look for other flux units, another normalisation, and another wavelength \
             grid or order of pixels",
            context.job.catalogue.uri, predicted.unlike
        )
    })
}

/// Of rows for which shorter numbers were not exact enough.
pub(crate) fn of_slower_path(context: &Context, predicted: &Predicted) -> Option<String> {
    let counts = &predicted.counts;
    let (again, good) = (counts.weights_in_f32, counts.spectra - counts.bad - counts.excluded);
    let precision = context.job.compute.arithmetic.precision;
    let advice = match 2 * again > good {
        true => "; of most, so compute.precision = \"f32\" is faster here",
        false => "",
    };
    (again > 0).then(|| {
        format!(
            "the weights' part of {again} of {good} spectra was made in f32, because by compute.precision = \"{precision}\" it could have been off by \
             more than 1e-3 (flag {}){advice}",
            RowFlags::WEIGHTS_IN_F32.names().next().unwrap_or_default()
        )
    })
}

/// Why no held-out spectrum gives a residual: of `held_out` of them, `unlabelled` are good and have not all their labels.
pub(crate) fn of_held_out(held_out: u64, unlabelled: u64, rows: &BadRows) -> String {
    let labels = match unlabelled {
        0 => String::new(),
        _ => format!(" ({unlabelled} good ones were left out because a label or a covariance is missing)"),
    };
    format!("no held-out spectrum with all its labels and a good flux, of {held_out}{labels}: {rows}")
}
