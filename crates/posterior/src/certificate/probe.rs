//! The residual of the answer: what arithmetic has done to a star's variance, found with nothing but the training spectra themselves.
//!
//! A variance is `z . x` with `x = M^-1 z`. Were M right, `M x` would give z back: the relative error of the variance is, to first order,
//!
//! ```text
//! x . (z - M x) / (x . z) = 1 - (c x . S x + delta x . x) / (x . z),    M = c S + delta I
//! ```
//!
//! and `x . S x` is a sum of squares over spectra, streamed in f64 through all of them: a number a probe. Traces, random probes and the count of
//! negative eigenvalues see nothing of such errors; this tracks them within a factor 3. What S is depends on the structure:
//!
//! | structure | S | c |
//! | --- | --- | --- |
//! | `full`, `block`, `dual` | H, over the block's weights | 1 |
//! | Kronecker, inputs | `S_A = sum [a;1][a;1]^T`, with `t_i` of the direction i of `S_G` that carries most of the star's variance | `t_i / n` |
//! | Kronecker, gradients | `S_G`, with `s_j` of the direction j of `S_A` that carries most | `s_j / n` |
//! | `diagonal` | `diag(H)` | 1 |
//!
//! An `ekfac` block has no probes: its eigenvalues are sums in the very bases that answer. Nor has a `low_rank` block, which answers with less than
//! H, or a Kronecker block whose weights are shared by several positions of a spectrum.
//!
//! Of a star one label is probed, star after star the next.

use fisherflow_curvature::{BlockPlan, LayerSides, Matrix, WeightJacobian};
use fisherflow_network::LayerCapture;
use serde::{Deserialize, Serialize};

use crate::product::{dot, product, rows};
use crate::structures::captures::Wanted;
use crate::structures::dense::{jacobian, sides_of};
use crate::structures::dual::times_weights;
use crate::structures::eigenbasis::Eigenbasis;
use crate::{PosteriorError, Precision};

/// Values of the vectors of one block's probes, at most: 256 MiB.
const PROBED_VALUES: usize = 1 << 25;

/// A vector x with which a block answered, and what is needed to check it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    side: Side,
    x: Vec<f64>,
    pub(super) scale: f64,
    prior_precision: f64,
    pub(super) x_dot_z: f64,
}

/// What S is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Side {
    Weights,
    Inputs,
    Gradients,
    Diagonal,
}

/// By the number that stands for each in what is kept.
const SIDES: [Side; 4] = [Side::Weights, Side::Inputs, Side::Gradients, Side::Diagonal];

/// `x . S x` of each of a block's probes over spectra.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeSums {
    /// One a probe; none before the first spectrum.
    pub sums: Vec<f64>,
}

impl Probe {
    fn new(side: Side, x: Vec<f64>, z: &[f64], scale: f64, prior_precision: f64) -> Self {
        Self {
            side,
            x_dot_z: dot(&x, z),
            x,
            scale,
            prior_precision,
        }
    }

    /// All of it as numbers: bit by bit what [`from_numbers`](Self::from_numbers) takes.
    #[must_use]
    pub fn to_numbers(&self) -> Vec<f64> {
        let side = SIDES.iter().take_while(|&&side| side != self.side).count();
        let mut numbers = vec![side as f64, self.scale, self.prior_precision, self.x_dot_z];
        numbers.extend_from_slice(&self.x);
        numbers
    }

    /// From its numbers; `None` where they are those of no probe.
    #[must_use]
    pub fn from_numbers(numbers: &[f64]) -> Option<Self> {
        let (&[side, scale, prior_precision, x_dot_z], x) = numbers.split_first_chunk()?;
        Some(Self {
            side: *SIDES.get(side as usize)?,
            x: x.to_vec(),
            scale,
            prior_precision,
            x_dot_z,
        })
    }

    /// `x . S x` of some spectra, from the rows of the block's Jacobian.
    fn quadratic(&self, of: &WeightJacobian, threads: usize) -> Result<f64, PosteriorError> {
        let layer = of.layers().first();
        Ok(match (self.side, layer) {
            (Side::Weights, _) => {
                let along = times_weights(of, &self.x, threads);
                dot(&along, &along)
            }
            (Side::Inputs, Some(layer)) => {
                let (x, bias) = self.x.split_at(layer.inputs.cols);
                let through = |row: &[f64]| dot(row, x) + bias.iter().sum::<f64>();
                squares(layer.inputs.values.chunks_exact(x.len().max(1)).map(through))
            }
            (Side::Gradients, Some(layer)) => {
                let rows = layer.gradients.values.chunks_exact(self.x.len().max(1));
                squares(rows.map(|row| dot(row, &self.x)))
            }
            (Side::Diagonal, _) => {
                let squared: Vec<f64> = self.x.iter().map(|x| x * x).collect();
                times_weights(of, &squared, threads).iter().sum()
            }
            (_, None) => 0.0,
        })
    }

    /// The relative error of the probed variance, from `x . S x` over all spectra; 0 of a star that no weight moves.
    fn error(&self, x_s_x: f64) -> f64 {
        if self.x_dot_z == 0.0 {
            return 0.0;
        }
        let again = self.scale * x_s_x + self.prior_precision * dot(&self.x, &self.x);
        1.0 - again / self.x_dot_z
    }
}

impl ProbeSums {
    /// Adds the spectra of some rows of the block's Jacobian, whitened by the labels' precision.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn accumulate(
        &mut self,
        plan: &BlockPlan,
        probes: &[Probe],
        of: &WeightJacobian,
        threads: usize,
    ) -> Result<(), PosteriorError> {
        self.sums.resize(probes.len(), 0.0);
        let mut squared = None;
        for (sum, probe) in self.sums.iter_mut().zip(probes) {
            let of = match probe.side {
                Side::Diagonal => match &mut squared {
                    Some(rows) => rows,
                    none => none.insert(squared_rows(plan, of)?),
                },
                Side::Weights | Side::Inputs | Side::Gradients => of,
            };
            *sum += probe.quadratic(of, threads)?;
        }
        Ok(())
    }

    /// The largest relative error of a probed variance, without its sign; `None` without probes.
    #[must_use]
    pub fn largest_error(&self, probes: &[Probe]) -> Option<f64> {
        let errors = probes
            .iter()
            .zip(&self.sums)
            .map(|(probe, &sum)| probe.error(sum).abs());
        errors.reduce(larger)
    }
}

/// The label of which the star counted `star` is probed.
pub(crate) fn probed_label(star: usize, n_labels: usize) -> usize {
    star % n_labels.max(1)
}

/// Probes over a block's weights, through its own [`solve`](Precision::solve): as many stars as 256 MiB allow, one at least.
pub(crate) fn of_weights(
    precision: &(impl Precision + ?Sized),
    plan: &BlockPlan,
    stars: &[LayerCapture],
) -> Result<Vec<Probe>, PosteriorError> {
    rows_of(plan, stars)?
        .into_iter()
        .map(|z| {
            let x = precision.solve(&z)?;
            Ok(Probe::new(Side::Weights, x, &z, 1.0, precision.info().prior_precision))
        })
        .collect()
}

/// Probes of a diagonal block.
pub(crate) fn diagonal_probes(
    precision: &(impl Precision + ?Sized),
    plan: &BlockPlan,
    stars: &[LayerCapture],
) -> Result<Vec<Probe>, PosteriorError> {
    let mut probes = of_weights(precision, plan, stars)?;
    probes.iter_mut().for_each(|probe| probe.side = Side::Diagonal);
    Ok(probes)
}

/// Probes of a block that is diagonal in the eigenbases of `S_A` and `S_G`: of each star one on either side.
pub(crate) fn kronecker_probes(
    wanted: &Wanted<'_>,
    basis: &Eigenbasis,
    prior_precision: f64,
    stars: &[LayerCapture],
    threads: usize,
) -> Result<Vec<Probe>, PosteriorError> {
    let sides = wanted.sides::<f64>(wanted.find(stars)?)?;
    let Some((s, t, n_terms)) = basis.factors().filter(|_| sides.shared == 1) else {
        return Ok(Vec::new());
    };
    let (inputs, outputs) = basis.sides();
    let turned = product(
        rows(&sides.input, sides.batch, inputs),
        rows(&basis.a_vectors, inputs, inputs),
        threads,
    );
    let mut probes = Vec::with_capacity(2 * sides.batch);
    for star in 0..sides.batch {
        let input = &sides.input[star * inputs..(star + 1) * inputs];
        let at = probed_label(star, sides.n_outputs) * sides.batch + star;
        let grad = &sides.grad[at * outputs..(at + 1) * outputs];
        let input_turned = &turned[star * inputs..(star + 1) * inputs];
        let grad_turned = product(
            rows(grad, 1, outputs),
            rows(&basis.g_vectors, outputs, outputs),
            threads,
        );
        let (mut of_input, mut of_grad) = (vec![0.0; inputs], vec![0.0; outputs]);
        for (i, (total, g)) in of_grad.iter_mut().zip(&grad_turned).enumerate() {
            for ((of_input, lambda), a) in of_input.iter_mut().zip(basis.row(i)).zip(input_turned) {
                let share = (g * a).powi(2) / (lambda + prior_precision);
                *total += share;
                *of_input += share;
            }
        }
        let per_term = |value: f64| if n_terms == 0 { 0.0 } else { value / n_terms as f64 };
        for (side, (vectors, values), z, z_turned, scale) in [
            (
                Side::Inputs,
                (&basis.a_vectors, s),
                input,
                input_turned,
                per_term(t[largest(&of_grad)]),
            ),
            (
                Side::Gradients,
                (&basis.g_vectors, t),
                grad,
                &grad_turned[..],
                per_term(s[largest(&of_input)]),
            ),
        ] {
            let n = values.len();
            let weighted: Vec<f64> = z_turned
                .iter()
                .zip(values)
                .map(|(z, value)| z / (scale * value + prior_precision))
                .collect();
            let x = product(rows(vectors, n, n), rows(&weighted, n, 1), threads);
            probes.push(Probe::new(side, x, z, scale, prior_precision));
        }
    }
    Ok(probes)
}

/// Of each probed star the row of the unwhitened Jacobian of its probed label.
fn rows_of(plan: &BlockPlan, stars: &[LayerCapture]) -> Result<Vec<Vec<f64>>, PosteriorError> {
    let (layers, p) = (sides_of(plan, stars)?, plan.n_weights());
    let Some((batch, k)) = layers.first().map(|sides| (sides.batch, sides.n_outputs)) else {
        return Ok(Vec::new());
    };
    let count = (PROBED_VALUES / p.max(1)).clamp(1, batch.max(1)).min(batch);
    Ok((0..count)
        .map(|star| {
            let rows = jacobian(&layers, plan, star, 1, p);
            rows[probed_label(star, k) * p..][..p].to_vec()
        })
        .collect())
}

/// The rows with every number squared.
fn squared_rows(plan: &BlockPlan, of: &WeightJacobian) -> Result<WeightJacobian, PosteriorError> {
    let squared = |matrix: &Matrix| Matrix {
        values: matrix.values.iter().map(|value| value * value).collect(),
        ..*matrix
    };
    let layers = plan
        .shapes
        .iter()
        .zip(of.layers())
        .map(|(shape, layer)| LayerSides::new(shape, squared(&layer.inputs), squared(&layer.gradients)));
    Ok(WeightJacobian::from_layers(plan, of.n_labels(), layers.collect())?)
}

fn squares(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum()
}

/// The larger of two; NaN where one is.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The position of the largest; the first of equals.
fn largest(values: &[f64]) -> usize {
    let mut at = 0;
    for (position, value) in values.iter().enumerate() {
        if *value > values[at] {
            at = position;
        }
    }
    at
}
