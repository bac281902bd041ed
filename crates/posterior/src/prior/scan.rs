//! A block at many prior precisions at once: the weights' part of a star's error as a function of `delta`.
//!
//! The eigenvectors of `P = H + delta I` are those of `H`, whatever `delta`. So a batch is rotated once, and each prior precision costs one
//! diagonal in between:
//!
//! ```text
//! dense      T = J V,                                (J P^-1 J^T)_kl = sum_i T_ki T_li / (lambda_i + delta), all delta in one product
//! Kronecker  a~ = V^T [a; 1],  g~_k = U^T g_k,        (J P^-1 J^T)_kl = sum_i g~_ki g~_li sum_j a~_j^2 / (lambda_ij + delta)
//!            a product's lambda_ij = s_j t_i: all prior precisions together are one more product, with few columns (structures/stieltjes.rs)
//! diagonal   the same with a and g themselves
//! dual       through the eigenpairs of the Gram matrix of its rows
//! ```
//!
//! The rotations and the products with `1 / (lambda + delta)` are in the type that the scan is made for, eigenproblems and last sums in f64. In f32
//! inputs are rotated as those of predictions are, with the leading columns of V apart (structures/input_side.rs).

use candle_core::{DType, WithDType};
use faer::{MatMut, MatRef};
use fisherflow_curvature::{BlockPlan, Matrix, StructureKind};
use fisherflow_kernels::{Start, multiply};
use fisherflow_network::LayerCapture;
use fisherflow_network::scratch::{Number, Scratch};

use crate::eigen::Eigenpairs;
use crate::product::{Right, as_f32, product, rows};
use crate::structures::captures::{Sides, Wanted};
use crate::structures::contraction::{contract_read_off, covariance, weighted_squares};
use crate::structures::dense::{JACOBIAN_BYTES, jacobian, sides_of};
use crate::structures::diagonal::ends;
use crate::structures::dual::DualScan;
use crate::structures::eigenbasis::{Eigenbasis, check_seen};
use crate::structures::factored_block::check_prior;
use crate::structures::input_side::{Rotation, Vectors};
use crate::structures::matrices::single_layer;
use crate::structures::pairs::at_one_position;
use crate::structures::stieltjes::Points;
use crate::{PosteriorError, Spectrum};

/// Eigenvectors of a dense block that a star's rows are multiplied by at a time: so many of each row stay in a core's cache.
const VECTORS_AT_ONCE: usize = 1024;

/// A block's curvature in its eigenbasis, ready for any prior precision.
pub struct PriorScan {
    plan: BlockPlan,
    spectrum: Spectrum,
    form: Form,
    /// Smallest and largest eigenvalue.
    ends: (f64, f64),
    threads: usize,
}

enum Form {
    Dense(Eigenpairs),
    Dual(DualScan),
    F32(Layer<f32>),
    F64(Layer<f64>),
}

/// One layer whose curvature is diagonal in a pair of bases.
struct Layer<T: Rotates> {
    /// V `[columns, columns]` and U `[out, out]`; none where the bases are those of the weights themselves.
    bases: Option<(T::Basis, Vec<T>)>,
    eigenvalues: Eigenvalues,
}

/// How inputs of one type are rotated.
trait Rotates: Number {
    /// V, as the rotation takes it.
    type Basis;

    /// `V^T [a; 1]` of rows `[a; 1]`, without a bias `a`: `[n, columns]`.
    fn rotated(basis: &Self::Basis, input: &[Self], size: (usize, usize), threads: usize) -> Scratch<Self>;
}

impl Rotates for f64 {
    /// `[columns, columns]`.
    type Basis = Vec<f64>;

    fn rotated(basis: &Self::Basis, input: &[f64], (n, columns): (usize, usize), threads: usize) -> Scratch<f64> {
        product(rows(input, n, columns), rows(basis, columns, columns), threads).into()
    }
}

impl Rotates for f32 {
    type Basis = Rotation;

    fn rotated(basis: &Self::Basis, input: &[f32], (n, _): (usize, usize), _: usize) -> Scratch<f32> {
        basis.rotated(input, n)
    }
}

enum Eigenvalues {
    /// `lambda`, `[columns, out]`.
    All(Vec<f64>),
    /// `lambda_ij = s_j t_i`.
    Product { s: Vec<f64>, t: Vec<f64> },
}

impl Eigenvalues {
    fn of(basis: &Eigenbasis) -> Self {
        if let Some((s, t)) = basis.product() {
            return Self::Product { s: s.to_vec(), t };
        }
        let (inputs, outputs) = basis.sides();
        let mut eigenvalues = vec![0.0; inputs * outputs];
        for i in 0..outputs {
            for (j, lambda) in basis.row(i).enumerate() {
                eigenvalues[j * outputs + i] = lambda;
            }
        }
        Self::All(eigenvalues)
    }

    /// `1 / (lambda + delta)`, `[columns, out]`.
    fn inverse<T: WithDType>(&self, delta: f64) -> Vec<T> {
        let inverse = |lambda: f64| T::from_f64(1.0 / (lambda + delta));
        match self {
            Self::All(eigenvalues) => eigenvalues.iter().map(|&lambda| inverse(lambda)).collect(),
            Self::Product { s, t } => s.iter().flat_map(|s| t.iter().map(move |t| inverse(s * t))).collect(),
        }
    }

    /// The points that tell the covariance at a prior precision, where they are few.
    fn few_points(&self, delta: f64) -> Option<Points> {
        match self {
            Self::All(_) => None,
            Self::Product { s, t } => Points::few(s, t, delta),
        }
    }

    /// The points for all of `deltas`, the t that are read off them, and the values there, `[batch, points]`.
    fn at_points<T: Number>(
        &self,
        deltas: &[f64],
        sides: &Sides<T>,
        threads: usize,
    ) -> Option<(Points, &[f64], Scratch<T>)> {
        let Self::Product { s, t } = self else { return None };
        let xs = deltas.iter().flat_map(|delta| t.iter().map(move |t| t / delta));
        let points = Points::covering(xs, s.iter().copied().fold(0.0, f64::max));
        let inverse = points.inverse(s);
        let inverse = Right::Plain(rows(&inverse, s.len(), points.len()));
        Some((points, t, weighted_squares(&sides.input, sides.batch, inverse, threads)))
    }
}

impl PriorScan {
    /// Of a dense block.
    pub(crate) fn dense(plan: &BlockPlan, pairs: Eigenpairs, threads: usize) -> Self {
        Self {
            plan: plan.clone(),
            spectrum: Spectrum::dense(pairs.values.clone(), pairs.clipped, pairs.most_negative),
            ends: ends(&pairs.values),
            form: Form::Dense(pairs),
            threads,
        }
    }

    /// Of a dual block.
    pub(crate) fn dual(plan: &BlockPlan, spectrum: Spectrum, scan: DualScan, threads: usize) -> Self {
        Self {
            plan: plan.clone(),
            spectrum,
            ends: (0.0, scan.largest()),
            form: Form::Dual(scan),
            threads,
        }
    }

    /// Of a layer in the eigenbases of its factors, for captures of one type.
    pub(crate) fn rotated(plan: &BlockPlan, basis: &Eigenbasis, captures: DType, threads: usize) -> Self {
        let eigenvalues = Eigenvalues::of(basis);
        Self {
            plan: plan.clone(),
            spectrum: basis.spectrum(),
            ends: basis.ends(),
            form: if captures == DType::F32 {
                let vectors = Vectors {
                    values: &basis.a_vectors,
                    columns: basis.sides().0,
                };
                let rotation = Rotation::new(vectors, &basis.sizes(), threads);
                let bases = Some((rotation, as_f32(&basis.g_vectors)));
                Form::F32(Layer { bases, eigenvalues })
            } else {
                let bases = Some((basis.a_vectors.clone(), basis.g_vectors.clone()));
                Form::F64(Layer { bases, eigenvalues })
            },
            threads,
        }
    }

    /// Of a diagonal `[out, columns]`, for captures of one type.
    pub(crate) fn diagonal(
        plan: &BlockPlan,
        spectrum: Spectrum,
        diagonal: &Matrix,
        captures: DType,
        threads: usize,
    ) -> Self {
        let (outputs, inputs) = (diagonal.rows, diagonal.cols);
        let eigenvalues: Vec<f64> = (0..inputs * outputs)
            .map(|at| diagonal.values[(at % outputs) * inputs + at / outputs])
            .collect();
        Self {
            plan: plan.clone(),
            spectrum,
            ends: ends(&eigenvalues),
            form: if captures == DType::F32 {
                Form::F32(Layer {
                    bases: None,
                    eigenvalues: Eigenvalues::All(eigenvalues),
                })
            } else {
                Form::F64(Layer {
                    bases: None,
                    eigenvalues: Eigenvalues::All(eigenvalues),
                })
            },
            threads,
        }
    }

    /// The eigenvalues of `H`.
    #[must_use]
    pub fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    /// The block's part of the outputs' covariance at each of the prior precisions: `[prior_precisions, batch, K, K]`, normalised label
    /// units, exactly symmetric. `captures` are those of all layers of the network.
    ///
    /// # Errors
    /// As [`Precision::covariance_of`](crate::Precision::covariance_of); a prior precision that is none, or under which the block is
    /// singular.
    pub fn covariance_at(
        &self,
        captures: &[LayerCapture],
        prior_precisions: &[f64],
    ) -> Result<Vec<f64>, PosteriorError> {
        for &delta in prior_precisions {
            self.check(delta)?;
        }
        match &self.form {
            Form::Dense(pairs) => self.of_dense(pairs, captures, prior_precisions),
            Form::Dual(scan) => scan.covariance_at(captures, prior_precisions, self.threads),
            Form::F32(layer) => self.of_layer(layer, captures, prior_precisions),
            Form::F64(layer) => self.of_layer(layer, captures, prior_precisions),
        }
    }

    fn check(&self, delta: f64) -> Result<(), PosteriorError> {
        if let Form::Dual(scan) = &self.form {
            return scan.check(delta);
        }
        check_prior(&self.plan, delta)?;
        let is_rotated = match &self.form {
            Form::F32(layer) => layer.bases.is_some(),
            Form::F64(layer) => layer.bases.is_some(),
            Form::Dense(_) | Form::Dual(_) => false,
        };
        if is_rotated {
            return check_seen(&self.plan, self.ends, delta);
        }
        let (smallest, largest) = self.ends;
        let is_rounding = smallest <= self.plan.n_weights() as f64 * f64::EPSILON * largest;
        let overflows = ((1.0 / (smallest + delta)) as f32).is_infinite();
        if delta == 0.0 && is_rounding || overflows {
            return Err(PosteriorError::SingularSpectrum {
                block: self.plan.name(),
                prior_precision: delta,
                smallest,
                largest,
            });
        }
        Ok(())
    }

    fn of_dense(
        &self,
        pairs: &Eigenpairs,
        captures: &[LayerCapture],
        prior_precisions: &[f64],
    ) -> Result<Vec<f64>, PosteriorError> {
        let p = pairs.values.len();
        let layers = sides_of(&self.plan, captures)?;
        let Some(&Sides {
            batch, n_outputs: k, ..
        }) = layers.first()
        else {
            return Ok(Vec::new());
        };
        let n_priors = prior_precisions.len();
        let mut covariance = vec![0.0; n_priors * batch * k * k];
        // `1 / (lambda + delta)`, `[p, prior precisions]`.
        let inverse = pairs
            .values
            .iter()
            .flat_map(|lambda| prior_precisions.iter().map(move |delta| 1.0 / (lambda + delta)));
        let inverse: Vec<f64> = inverse.collect();
        let labels: Vec<(usize, usize)> = (0..k).flat_map(|i| (0..=i).map(move |j| (i, j))).collect();
        let chunk = (JACOBIAN_BYTES / (16 * p * k).max(1)).max(1);
        let mut sums = vec![0.0; labels.len() * n_priors];
        for start in (0..batch).step_by(chunk) {
            let len = chunk.min(batch - start);
            let turned = self.turned(&layers, pairs, start, len);
            for (n, star) in turned.chunks_exact(k * p).enumerate() {
                sums.fill(0.0);
                for from in (0..p).step_by(VECTORS_AT_ONCE) {
                    let some = VECTORS_AT_ONCE.min(p - from);
                    let mut products = Scratch::new(labels.len() * some);
                    for (to, &(i, j)) in products.chunks_exact_mut(some).zip(&labels) {
                        let [a, b] = [i, j].map(|label| &star[label * p + from..][..some]);
                        to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = a * b);
                    }
                    multiply(
                        MatMut::from_row_major_slice_mut(&mut sums, labels.len(), n_priors),
                        Start::Kept,
                        rows(&products, labels.len(), some),
                        rows(&inverse, p, n_priors).subrows(from, some),
                        self.threads,
                    );
                }
                for (&(i, j), sums) in labels.iter().zip(sums.chunks_exact(n_priors.max(1))) {
                    for (at, sum) in sums.iter().enumerate() {
                        let out = (at * batch + start + n) * k * k;
                        covariance[out + i * k + j] = *sum;
                        covariance[out + j * k + i] = *sum;
                    }
                }
            }
        }
        Ok(covariance)
    }

    /// `J V` of `len` stars from `start` on, `[len, K, p]`. At one position a row of J is the layers' `g_k (x) a`, and V meets the inputs first: `2 p^2`
    /// operations a star, for all K rows.
    fn turned(&self, layers: &[Sides<f64>], pairs: &Eigenpairs, start: usize, len: usize) -> Vec<f64> {
        let (p, k) = (pairs.values.len(), layers.first().map_or(0, |sides| sides.n_outputs));
        if !at_one_position(&self.plan) {
            let jacobian = jacobian(layers, &self.plan, start, len, p);
            return product(rows(&jacobian, len * k, p), rows(&pairs.vectors, p, p), self.threads);
        }
        let mut turned = vec![0.0; len * k * p];
        let mut first = 0;
        for (sides, shape) in layers.iter().zip(&self.plan.shapes) {
            let (columns, outputs, batch) = (shape.columns(), shape.outputs, sides.batch);
            let input = rows(&sides.input[start * columns..][..len * columns], len, columns);
            let vectors = rows(
                &pairs.vectors[first * p..][..columns * outputs * p],
                columns * outputs,
                p,
            );
            let at_once = (JACOBIAN_BYTES / (8 * outputs * len)).clamp(1, VECTORS_AT_ONCE.min(p));
            // `a V` of every output, `[out, len, vectors]`.
            let mut of_inputs = Scratch::new(outputs * len * at_once);
            for from in (0..p).step_by(at_once) {
                let n = at_once.min(p - from);
                for (o, to) in of_inputs.chunks_exact_mut(len * n).take(outputs).enumerate() {
                    let of_output = vectors.submatrix(o * columns, from, columns, n);
                    multiply(
                        MatMut::from_row_major_slice_mut(to, len, n),
                        Start::Zero,
                        input,
                        of_output,
                        self.threads,
                    );
                }
                for star in 0..len {
                    // By columns: faer 0.24.4 takes the strides of a mutable row-major slice the wrong way round.
                    let to = &mut turned[star * k * p + from..];
                    let gradients = &sides.grad[(start + star) * outputs..];
                    multiply(
                        MatMut::from_column_major_slice_with_stride_mut(to, n, k, p).transpose_mut(),
                        Start::Kept,
                        MatRef::from_row_major_slice_with_stride(gradients, k, outputs, batch * outputs),
                        MatRef::from_row_major_slice_with_stride(&of_inputs[star * n..], outputs, n, len * n),
                        self.threads,
                    );
                }
            }
            first += columns * outputs;
        }
        turned
    }

    fn of_layer<T: Rotates>(
        &self,
        layer: &Layer<T>,
        captures: &[LayerCapture],
        prior_precisions: &[f64],
    ) -> Result<Vec<f64>, PosteriorError> {
        let shape = single_layer(&self.plan)?;
        let wanted = Wanted {
            index: self.plan.layers.first().copied().unwrap_or_default(),
            shape,
        };
        let mut sides = wanted.sides::<T>(wanted.find(captures)?)?;
        let (positions, k) = (sides.batch * sides.shared, sides.n_outputs);
        if let Some((v, u)) = &layer.bases {
            let (inputs, outputs) = (shape.columns(), shape.outputs);
            sides.input = T::rotated(v, &sides.input, (positions, inputs), self.threads);
            sides.grad = product(
                rows(&sides.grad, k * positions, outputs),
                rows(u, outputs, outputs),
                self.threads,
            )
            .into();
        }
        let mut covariances = Vec::with_capacity(prior_precisions.len() * sides.batch * k * k);
        let few: Vec<f64> = prior_precisions
            .iter()
            .copied()
            .filter(|&delta| sides.shared == 1 && layer.eigenvalues.few_points(delta).is_some())
            .collect();
        let at_points = match few[..] {
            [] => None,
            _ => layer.eigenvalues.at_points(&few, &sides, self.threads),
        };
        for delta in prior_precisions {
            covariances.extend(match &at_points {
                Some((points, t, values)) if few.contains(delta) => {
                    let readings: Vec<_> = t.iter().map(|t| points.reading(t / delta, 1.0 / delta)).collect();
                    contract_read_off(values, (sides.batch, k), &sides.grad, &readings)
                }
                _ => covariance(&sides, &layer.eigenvalues.inverse(*delta), self.threads),
            });
        }
        Ok(covariances)
    }
}

/// The structures whose scan needs more than their factorisation: a dense block's eigenvectors, about `9 p^3` operations.
#[must_use]
pub fn scan_flops(plan: &BlockPlan) -> f64 {
    match plan.structure {
        StructureKind::Full | StructureKind::Block => 9.0 * (plan.n_weights() as f64).powi(3),
        StructureKind::Kfac
        | StructureKind::Ekfac
        | StructureKind::Diagonal
        | StructureKind::LowRank
        | StructureKind::Dual => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fisherflow_curvature::{BlockCurvature, CurvatureForm};

    use crate::brute_force::{Mlp, relative_error};
    use crate::structures::cases::{Case, K, case, cases, draw, matrix, plan, small};
    use crate::{factor, holdout_grid, invert};

    /// A block of low rank has no scan.
    fn scanned() -> Vec<Case> {
        let mut cases = cases();
        cases.retain(|case| case.plan.structure != StructureKind::LowRank);
        cases
    }

    #[test]
    fn every_prior_is_that_of_an_inverse_of_its_own() {
        let (mlp, _) = small();
        let x = draw(6 * 9, 31);
        let priors = [1e-3, 0.3, 7.0, 4e3];
        for case in scanned() {
            let factored = factor(&case.plan, case.curvature.clone(), 1).unwrap();
            for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 2e-4)] {
                let captures = mlp.captures(&x, dtype);
                let scan = factored.prior_scan(dtype, 1).unwrap();
                let found = scan.covariance_at(&captures, &priors).unwrap();
                for (delta, found) in priors.iter().zip(found.chunks_exact(9 * K * K)) {
                    let posterior = invert(&case.plan, case.curvature.clone(), *delta, 1).unwrap();
                    let expected = posterior.covariance_of(&captures).unwrap();
                    let error = relative_error(found, &expected);
                    assert!(error < tolerance, "{:?} {dtype:?} {delta}: {error:e}", case.plan);
                }
                let spectrum = factored.spectrum().unwrap();
                assert_eq!(scan.spectrum().n_weights(), spectrum.n_weights());
                let (gamma, expected) = (
                    scan.spectrum().effective_parameters(0.3),
                    spectrum.effective_parameters(0.3),
                );
                assert!((gamma - expected).abs() < 1e-10 * expected);
            }
        }
    }

    /// More weights than eigenvectors are taken at a time, in one layer and with another.
    #[test]
    fn a_large_dense_block_at_every_prior_is_that_of_an_inverse_of_its_own() {
        let mlp = Mlp::random(&[30, 40, 5, K], 61);
        let (x, priors) = (draw(30 * 7, 62), [0.3, 7.0]);
        for (structure, layers) in [(StructureKind::Block, vec![0]), (StructureKind::Full, vec![0, 1, 2])] {
            let large = case(&mlp, &draw(30 * 500, 63), structure, &layers);
            assert!(large.plan.n_weights() > VECTORS_AT_ONCE);
            let captures = mlp.captures(&x, DType::F64);
            let factored = factor(&large.plan, large.curvature.clone(), 2).unwrap();
            let found = factored.prior_scan(DType::F64, 2).unwrap();
            let found = found.covariance_at(&captures, &priors).unwrap();
            for (delta, found) in priors.iter().zip(found.chunks_exact(7 * K * K)) {
                let posterior = invert(&large.plan, large.curvature.clone(), *delta, 2).unwrap();
                let error = relative_error(found, &posterior.covariance_of(&captures).unwrap());
                assert!(error < 1e-10, "{structure} {delta}: {error:e}");
            }
        }
    }

    /// A wide layer's covariances are read off few points: against inverses that take all eigenvalues, in f64.
    #[test]
    fn a_wide_layer_at_every_prior_is_that_of_an_inverse_of_its_own() {
        let mlp = Mlp::random(&[6, 700, K], 34);
        let case = wide(&mlp);
        let factored = factor(&case.0, case.1.clone(), 1).unwrap();
        let x = draw(6 * 9, 36);
        let priors = [1e-4, 0.1, 0.3, 40.0, 1e7];
        for (dtype, tolerance) in [(DType::F64, 4e-9), (DType::F32, 2e-6)] {
            let scan = factored.prior_scan(dtype, 1).unwrap();
            let Form::F32(Layer { eigenvalues, .. }) = factored.prior_scan(DType::F32, 1).unwrap().form else {
                panic!("kfac is scanned in its bases");
            };
            assert!(priors.iter().all(|&delta| eigenvalues.few_points(delta).is_some()));
            let found = scan.covariance_at(&mlp.captures(&x, dtype), &priors).unwrap();
            for (delta, found) in priors.iter().zip(found.chunks_exact(9 * K * K)) {
                let posterior = invert(&case.0, case.1.clone(), *delta, 1).unwrap();
                let exact = posterior.covariance_of(&mlp.captures(&x, DType::F64)).unwrap();
                let error = relative_error(found, &exact);
                assert!(error < tolerance, "{dtype:?} {delta}: {error:e}");
            }
        }
    }

    /// A unit of ReLU made larger and what follows it smaller: the block is singular, however many stars there are. In f64, and with sums of f32,
    /// whose eigenvalues of rounding are of either sign.
    #[test]
    fn of_a_singular_dense_block_what_is_scanned_can_be_inverted() {
        let mlp = Mlp::random(&[4, 6, K], 44);
        let exact = case(&mlp, &draw(4 * 200, 45), StructureKind::Full, &[0, 1]);
        let captures = mlp.captures(&draw(4 * 2, 46), DType::F64);
        let p = exact.plan.n_weights();
        let narrow = exact.h.iter().map(|h| f64::from(*h as f32)).collect();
        for h in [exact.h.clone(), narrow] {
            let form = CurvatureForm::Dense(matrix(p, h));
            let curvature = BlockCurvature { n_spectra: 200, form };
            let factored = factor(&exact.plan, curvature.clone(), 1).unwrap();
            let (scan, spectrum) = (
                factored.prior_scan(DType::F64, 1).unwrap(),
                factored.spectrum().unwrap(),
            );
            assert!(spectrum.rounding() > 1e-15 * spectrum.largest());
            for evidence in [1e-10, 1e-15] {
                let grid = holdout_grid(evidence * spectrum.largest(), spectrum.rounding());
                for delta in grid {
                    let scanned = scan.covariance_at(&captures, &[delta]);
                    let inverted = invert(&exact.plan, curvature.clone(), delta, 1);
                    assert!(scanned.is_ok() && inverted.is_ok(), "{delta:e}: {:?}", inverted.err());
                }
            }
        }
    }

    /// Fewer rows than weights, and elements of f32: at the lowest precision of a search, scan and curve are those of the inverse, though its
    /// matrix has rounding's negative eigenvalues where they have 0.
    #[test]
    fn at_the_lowest_prior_of_a_search_a_dense_block_of_rounding_is_scanned_as_inverted() {
        const STARS: usize = 8;
        let mlp = Mlp::random(&[4, 6, K], 44);
        let exact = case(&mlp, &draw(4 * STARS, 45), StructureKind::Full, &[0, 1]);
        let captures = mlp.captures(&draw(4 * 2, 46), DType::F64);
        let p = exact.plan.n_weights();
        assert!(K * STARS < p);
        let curvature = BlockCurvature {
            n_spectra: STARS as u64,
            form: CurvatureForm::Dense(matrix(p, exact.h.iter().map(|h| f64::from(*h as f32)).collect())),
        };
        let factored = factor(&exact.plan, curvature.clone(), 1).unwrap();
        let scan = factored.prior_scan(DType::F64, 1).unwrap();
        let spectrum = scan.spectrum();
        let delta = holdout_grid(1e-15 * spectrum.largest(), spectrum.rounding())[0];
        let scanned = scan.covariance_at(&captures, &[delta]).unwrap();
        let inverted = invert(&exact.plan, curvature, delta, 1).unwrap();
        let error = relative_error(&scanned, &inverted.covariance_of(&captures).unwrap());
        assert!(error < 0.15, "{error:e}");
        let curve = spectrum.effective_parameters(delta);
        let found = inverted.info().effective_parameters;
        assert!((found - curve).abs() < 0.05 * curve, "{found} {curve}");
    }

    /// A prior precision that is given need not be one that a search would find: beside a unit that is always off it decides, however small it is.
    #[test]
    fn behind_a_dead_unit_any_prior_of_a_dense_block_is_that_of_an_inverse() {
        const INPUTS: usize = 5;
        let mlp = Mlp::random(&[INPUTS, K], 47);
        let stars = |n: usize, seed: u64| {
            let mut x = draw(INPUTS * n, seed);
            x.iter_mut().step_by(INPUTS).for_each(|dead| *dead = 0.0);
            x
        };
        let block = case(&mlp, &stars(20, 48), StructureKind::Block, &[0]);
        let captures = mlp.captures(&stars(2, 49), DType::F64);
        let factored = factor(&block.plan, block.curvature.clone(), 1).unwrap();
        let scan = factored.prior_scan(DType::F64, 1).unwrap();
        let delta = 0.5 * scan.spectrum().rounding();
        assert!(delta > 0.0);
        let found = scan.covariance_at(&captures, &[delta]).unwrap();
        let posterior = invert(&block.plan, block.curvature, delta, 1).unwrap();
        let error = relative_error(&found, &posterior.covariance_of(&captures).unwrap());
        assert!(error < 1e-9, "{error:e}");
    }

    /// Next to no noise under next to no prior: what decides is what is left of an input once all that is large has cancelled, so a scan has to
    /// rotate as its posterior does.
    #[test]
    fn a_star_next_to_no_noise_is_that_of_its_posterior() {
        const INPUTS: usize = 300;
        const OUTPUTS: usize = 12;
        let mlp = Mlp::random(&[INPUTS, OUTPUTS, K], 37);
        let spectra = |n: usize, seed: u64| -> Vec<f64> {
            let (depths, noise) = (draw(n, seed), draw(n * INPUTS, seed + 1));
            let pixel = |(at, noise): (usize, &f64)| {
                let line = ((at % INPUTS) as f64 / 20.0).sin();
                1.0 + 0.01 * depths[at / INPUTS] * line + 1e-5 * noise
            };
            noise.iter().enumerate().map(pixel).collect()
        };
        let mut g = vec![0.0; OUTPUTS * OUTPUTS];
        g.iter_mut().step_by(OUTPUTS + 1).for_each(|value| *value = 40.0);
        let form = CurvatureForm::Kronecker {
            a: matrix(INPUTS + 1, mlp.factors(&spectra(40, 38), 0).0),
            g: matrix(OUTPUTS, g),
        };
        let curvature = BlockCurvature { n_spectra: 40, form };
        let plan = plan(&mlp, StructureKind::Kfac, &[0]);
        let captures = mlp.captures(&spectra(9, 40), DType::F32);
        let delta = 1e-9;
        let factored = factor(&plan, curvature.clone(), 1).unwrap();
        let scan = factored.prior_scan(DType::F32, 1).unwrap();
        let found = scan.covariance_at(&captures, &[delta]).unwrap();
        let posterior = invert(&plan, curvature, delta, 1).unwrap();
        let error = relative_error(&found, &posterior.covariance_of(&captures).unwrap());
        assert!(error < 1e-5, "{error:e}");
    }

    fn wide(mlp: &Mlp) -> (BlockPlan, BlockCurvature) {
        let x = draw(6 * 30, 35);
        let (a, g) = mlp.factors(&x, 0);
        let form = CurvatureForm::Kronecker {
            a: matrix(7, a),
            g: matrix(700, g),
        };
        (
            plan(mlp, StructureKind::Kfac, &[0]),
            BlockCurvature { n_spectra: 30, form },
        )
    }

    #[test]
    fn threads_and_neighbours_change_no_bit() {
        let (mlp, _) = small();
        let captures = mlp.captures(&draw(6 * 9, 32), DType::F32);
        let large = Mlp::random(&[6, 700, K], 34);
        let of_large = large.captures(&draw(6 * 9, 32), DType::F32);
        let cases = scanned().into_iter().map(|case| (case.plan, case.curvature, &captures));
        let (plan, curvature) = wide(&large);
        for (plan, curvature, captures) in cases.chain([(plan, curvature, &of_large)]) {
            let scan = |threads| {
                factor(&plan, curvature.clone(), threads)
                    .unwrap()
                    .prior_scan(DType::F32, threads)
                    .unwrap()
            };
            let many = scan(1).covariance_at(captures, &[0.1, 2.0, 50.0]).unwrap();
            assert!(many == scan(3).covariance_at(captures, &[0.1, 2.0, 50.0]).unwrap());
            let one = scan(1).covariance_at(captures, &[2.0]).unwrap();
            assert!(many[one.len()..2 * one.len()] == one);
        }
    }

    #[test]
    fn a_prior_that_is_none_is_refused() {
        let (mlp, _) = small();
        let captures = mlp.captures(&draw(6 * 2, 33), DType::F64);
        let case = scanned().remove(0);
        let scan = factor(&case.plan, case.curvature, 1)
            .unwrap()
            .prior_scan(DType::F64, 1)
            .unwrap();
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                scan.covariance_at(&captures, &[1.0, bad]),
                Err(PosteriorError::Prior { .. })
            ));
        }
        // 20 spectra of 3 labels leave most of a layer's weights undetermined.
        assert!(matches!(
            scan.covariance_at(&captures, &[0.0]),
            Err(PosteriorError::SingularSpectrum { .. })
        ));
    }
}
