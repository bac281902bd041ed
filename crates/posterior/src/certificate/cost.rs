//! What the comparison with the exact posterior costs, before it is begun.

use std::collections::BTreeMap;

use fisherflow_curvature::{
    BlockPlan, CurvatureError, References, StructureKind, correction_flops, plan_blocks, structure_of,
};
use fisherflow_network::DenseShape;

use super::span::{narrow, wide_layers};
use super::subset::{compared_options, exact_form, in_form, joint_options, jointly};
use crate::cost::{DualCost, bases_flops, dense_covariance_flops, inverse_flops};

/// Sizes that a [`Subset`](super::Subset) is compared at.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonSizes<'a> {
    /// The network's dense layers.
    pub shapes: &'a [DenseShape],
    /// The run's blocks.
    pub plans: &'a [BlockPlan],
    /// Structures compared beside them, each over all layers.
    pub compare: &'a [StructureKind],
    /// K.
    pub n_labels: usize,
    /// Training spectra of the subset.
    pub n_spectra: usize,
    /// Stars compared on.
    pub n_stars: usize,
    /// Whether the subset is all of the training spectra: then the run's own structures are not summed again.
    pub is_all: bool,
}

impl ComparisonSizes<'_> {
    /// Floating-point operations of [`Subset::compare`](super::Subset::compare), to leading order: the exact posterior of all weights and its
    /// effective parameters, that of every block which is not the whole network, the run's own structures over the subset where they are summed
    /// again, and those compared beside. All but a few are in f64. 0 where positions share too many weights for a comparison.
    ///
    /// # Errors
    /// Blocks of layers that the network does not have.
    pub fn flops(&self) -> Result<f64, CurvatureError> {
        let (mut shapes, mut plans, mut flops) = (self.shapes.to_vec(), self.plans.to_vec(), 0.0);
        if !self.is_all {
            let vectors = 1 + self.n_spectra + self.n_stars;
            for layer in wide_layers(self.shapes, self.plans, self.compare, vectors) {
                // Householder reflections (Golub and Van Loan, 5.2).
                let (d, n) = (self.shapes[layer].inputs as f64, vectors as f64);
                flops += 2.0 * n * n * (d - n / 3.0);
                narrow(&mut shapes, &mut plans, layer, vectors);
            }
        }
        let over_all = |structure, options| plan_blocks(&shapes, structure, &BTreeMap::new(), options);
        let joint = match over_all(StructureKind::Dual, joint_options(&plans)) {
            Err(CurvatureError::SharedRows { .. }) => return Ok(0.0),
            joint => joint?,
        };
        let references = References::zero(&shapes, self.n_labels);
        for plan in &joint {
            flops += self.exact(plan, &references, true)? + self.of_stars(plan);
        }
        if !self.is_all {
            for plan in &plans {
                flops += self.posterior(plan, &references)?;
            }
        }
        for &structure in self.compare {
            for plan in over_all(structure, compared_options(&plans, structure))? {
                flops += self.posterior(&plan, &references)?;
            }
        }
        for plan in plans.iter().filter(|plan| plan.layers.len() < shapes.len()) {
            let plan = jointly(plan);
            flops += self.exact(&plan, &references, false)? + self.of_stars(&plan);
        }
        Ok(flops)
    }

    /// An exact posterior, with its effective parameters or without.
    fn exact(&self, plan: &BlockPlan, references: &References, effective: bool) -> Result<f64, CurvatureError> {
        if self.form(plan) == StructureKind::Full {
            let plan = in_form(plan, StructureKind::Full);
            return Ok(self.sums(&plan, references)? + inverse_flops(&plan));
        }
        let cost = self.dual(plan);
        let trace = if effective { cost.trace_flops } else { 0.0 };
        Ok(cost.gram_flops + cost.cholesky_flops + trace)
    }

    /// The stars' covariances under it.
    fn of_stars(&self, plan: &BlockPlan) -> f64 {
        let of_one = if self.form(plan) == StructureKind::Full {
            dense_covariance_flops(plan, self.n_labels)
        } else {
            self.dual(plan).predict_flops
        };
        self.n_stars as f64 * of_one
    }

    /// A block's posterior over the subset.
    fn posterior(&self, plan: &BlockPlan, references: &References) -> Result<f64, CurvatureError> {
        Ok(match plan.structure {
            StructureKind::Full | StructureKind::Block | StructureKind::Dual => self.exact(plan, references, true)?,
            StructureKind::Kfac | StructureKind::Diagonal => self.sums(plan, references)? + inverse_flops(plan),
            StructureKind::Ekfac => {
                self.sums(plan, references)?
                    + bases_flops(plan)
                    + correction_flops(plan, self.n_labels, self.n_spectra as u64)
                    + inverse_flops(plan)
            }
            // It is compared only where it is not summed again.
            StructureKind::LowRank => 0.0,
        })
    }

    fn sums(&self, plan: &BlockPlan, references: &References) -> Result<f64, CurvatureError> {
        Ok(structure_of(plan, references, self.n_labels, 1)?.flops(self.n_spectra as u64))
    }

    fn form(&self, plan: &BlockPlan) -> StructureKind {
        exact_form(plan, self.n_labels * self.n_spectra)
    }

    fn dual(&self, plan: &BlockPlan) -> DualCost {
        DualCost::of(plan, self.n_labels, self.n_spectra as u64)
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_curvature::BlockOptions;

    use super::*;

    fn shapes(sizes: &[usize]) -> Vec<DenseShape> {
        let pairs = sizes.windows(2).enumerate();
        pairs
            .map(|(layer, pair)| DenseShape {
                name: layer.to_string(),
                inputs: pair[0],
                outputs: pair[1],
                bias: true,
                shared: 1,
            })
            .collect()
    }

    fn flops(sizes: &[usize], structure: StructureKind, is_all: bool) -> f64 {
        let shapes = shapes(sizes);
        let plans = plan_blocks(&shapes, structure, &BTreeMap::new(), BlockOptions::default()).unwrap();
        let sizes = ComparisonSizes {
            shapes: &shapes,
            plans: &plans,
            compare: &[],
            n_labels: 3,
            n_spectra: 1000,
            n_stars: 0,
            is_all,
        };
        sizes.flops().unwrap()
    }

    /// 3,000 rows; layers of 900 x 64 and 64 x 3 weights: the first is larger than that, the second has 195.
    #[test]
    fn a_factor_for_all_layers_and_for_each_large_one() {
        let (side, sizes) = (3000.0_f64.powi(3), [900, 64, 3]);
        let pair = |inputs: f64, outputs: f64| 2.0 * (inputs + 9.0 * outputs) * 0.5 * 1000.0 * 1256.0;
        let (first, second) = (pair(901.0, 64.0), pair(65.0, 3.0));
        // Jointly: Gram matrix, factor and trace.
        let joint = first + second + 2.0 / 3.0 * side;
        let whole = flops(&sizes, StructureKind::Full, true);
        assert!((whole / joint - 1.0).abs() < 0.01, "{whole:e} {joint:e}");
        // The first layer alone without a trace; the second's dense block is small beside these.
        let alone = joint + first + side / 3.0;
        let by_layer = flops(&sizes, StructureKind::Kfac, true);
        assert!((by_layer / alone - 1.0).abs() < 0.02, "{by_layer:e} {alone:e}");
        // Of a part of the spectra: the eigenproblems of 901, 64, 65 and 3 as well.
        let again = flops(&sizes, StructureKind::Kfac, false) - by_layer;
        let eigen = 9.0 * (901.0_f64.powi(3) + 2.0 * 64.0_f64.powi(3));
        assert!(again > eigen && again < 1.5 * eigen, "{again:e} {eigen:e}");
    }

    /// Biases are split off the blocks compared as off the run's: they cost what the run's own do again, by the weights and not by the rows.
    #[test]
    fn a_structure_compared_costs_what_the_runs_own_does() {
        let shapes = shapes(&[900, 64, 3]);
        let split = BlockOptions {
            split_bias: true,
            ..BlockOptions::default()
        };
        for structure in [StructureKind::Kfac, StructureKind::Block] {
            let plans = plan_blocks(&shapes, structure, &BTreeMap::new(), split).unwrap();
            let flops = |compare: &[StructureKind], is_all| {
                let sizes = ComparisonSizes {
                    shapes: &shapes,
                    plans: &plans,
                    compare,
                    n_labels: 3,
                    n_spectra: 1000,
                    n_stars: 0,
                    is_all,
                };
                sizes.flops().unwrap()
            };
            let (own, compared) = (flops(&[], false), flops(&[structure], true));
            assert!(
                (own / compared - 1.0).abs() < 1e-12,
                "{structure}: {own:e} {compared:e}"
            );
        }
    }

    /// Pixels beyond the spectra cost a reduction to their span, no eigenproblem.
    #[test]
    fn wide_layers_are_compared_in_their_span() {
        let wide = flops(&[20_000, 64, 3], StructureKind::Kfac, false);
        let within = flops(&[1001, 64, 3], StructureKind::Kfac, false);
        let reflections = 2.0 * 1001.0_f64.powi(2) * (20_000.0 - 1001.0 / 3.0);
        assert!(
            ((wide - reflections) / within - 1.0).abs() < 1e-9,
            "{wide:e} {within:e}"
        );
    }
}
