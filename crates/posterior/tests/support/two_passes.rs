//! The curvature of a block, from captures.

use std::sync::Arc;

use fisherflow_curvature::{
    BlockCurvature, BlockPlan, LabelPrecision, References, Structure, StructureKind, correction_of, structure_of,
};
use fisherflow_network::LayerCapture;
use fisherflow_posterior::kronecker_bases;

/// Through one sum over spectra, or both.
pub fn curvature(
    plan: &BlockPlan,
    references: &References,
    captures: &[LayerCapture],
    precision: &LabelPrecision,
) -> BlockCurvature {
    let sum = |structure: &dyn Structure| {
        let mut sums = structure.empty().unwrap();
        structure.accumulate(captures, precision, &mut sums).unwrap();
        structure.curvature(&sums).unwrap()
    };
    let k = precision.n_labels;
    let first = sum(structure_of(plan, references, k, 1).unwrap().as_ref());
    if plan.structure != StructureKind::Ekfac {
        return first;
    }
    let bases = Arc::new(kronecker_bases(plan, first, 1).unwrap());
    sum(correction_of(plan, references, bases, k, 1).unwrap().as_ref())
}
