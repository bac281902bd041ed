//! What a reader should know of the blocks' posteriors, in words.

use fisherflow_posterior::BlockInfo;
use fisherflow_posterior::verdict::exceeds_limit;

use crate::context::Context;
use crate::files;
use crate::run::stage_state::InvertState;
use crate::run::summary::EffectiveParameters;

/// A share of the largest eigenvalue that decompositions in f64 round away in factors of up to some ten thousand columns: below 0 by less is 0, and
/// told of in the table of blocks alone.
const ROUNDING: f64 = 1e-11;

/// Of eigenvalues far below 0.
pub(crate) fn of_clipped(info: &BlockInfo) -> Option<String> {
    (info.most_negative_eigenvalue < -ROUNDING).then(|| {
        format!(
            "{}: {} eigenvalues below 0 set to 0, the lowest {:.1e} of the largest",
            info.layers.join("+"),
            info.clipped_eigenvalues,
            info.most_negative_eigenvalue
        )
    })
}

/// Of what eigenpairs hold.
pub(crate) fn of_low_rank(info: &BlockInfo) -> Option<String> {
    let facts = info.low_rank?;
    Some(format!(
        "{}: {} eigenpairs hold {:.1} % of the trace, eigenvalues from {:.3e} down to {:.3e}, each within {:.1e} of one of the Hessian's; of the \
         rest the diagonal alone is held",
        info.layers.join("+"),
        facts.rank,
        100.0 * facts.trace_share,
        facts.largest_eigenvalue,
        facts.smallest_eigenvalue,
        facts.largest_residual
    ))
}

/// Of more parameters than there can be.
pub(crate) fn of_effective(parameters: &EffectiveParameters) -> Option<String> {
    let EffectiveParameters { all, limit, of, .. } = parameters;
    exceeds_limit(*all, *limit as f64).then(|| {
        format!(
            "effective parameters {all:.0} exceed {of} = {limit}: the structure counts information that is not there, and the \
             weights' part is too small"
        )
    })
}

/// Of a dual block whose file of marginal variances is not there.
pub(crate) fn of_missing_variance(context: &Context, inverted: &InvertState) -> Option<String> {
    let plan = context.dual_plan()?;
    let path = files::marginal_variance_path(plan);
    inverted.files.iter().all(|file| file.path != path).then(|| {
        format!(
            "{}: the marginal variance of each weight is not written: for so many weights and spectra it takes more than all the rest, or \
             under so small a prior precision rounding swamps it",
            plan.name()
        )
    })
}
