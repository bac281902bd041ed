//! The diagonal alone: `P^-1 = 1 / (d + delta)`, weight by weight.

use std::sync::OnceLock;

use candle_core::{DType, WithDType};
use fisherflow_curvature::{BlockPlan, Matrix};
use fisherflow_network::scratch::Number;
use fisherflow_network::{DenseShape, LayerCapture};

use crate::certificate::diagonal_probes;
use crate::structures::block_info::Certificate;
use crate::structures::captures::Wanted;
use crate::structures::contraction::covariance;
use crate::structures::elements::{check_vector, check_weights};
use crate::structures::matrices::single_layer;
use crate::{BlockInfo, Factor, NamedMatrix, PosteriorError, Precision, Probe};

/// The variances of a layer's weights.
pub(crate) struct DiagonalPrecision {
    index: usize,
    shape: DenseShape,
    info: BlockInfo,
    /// `1 / (d + delta)`, `[out, columns]`.
    variance: Matrix,
    threads: usize,
    /// The variances as `[columns, out]`, in the type of the captures that came.
    in_f32: OnceLock<Vec<f32>>,
    in_f64: OnceLock<Vec<f64>>,
}

/// A diagonal, in whichever basis, whose elements below 0, which are rounding, were set to 0.
pub(crate) struct NonNegative {
    /// `[out, columns]`.
    pub values: Matrix,
    /// How many elements were negative.
    pub clipped: u64,
    /// The most negative, relative to the largest; 0 where none was.
    pub most_negative: f64,
}

impl NonNegative {
    /// Clips rounding, and refuses more than that; `factor` is what an error calls it.
    pub(crate) fn new(plan: &BlockPlan, factor: Factor, mut values: Matrix) -> Result<Self, PosteriorError> {
        let (least, most) = ends(&values.values);
        let rounding = values.values.len() as f64 * f64::EPSILON * most;
        if least < -rounding {
            return Err(PosteriorError::Indefinite {
                block: plan.name(),
                factor,
                smallest: least,
                largest: most,
            });
        }
        let mut clipped = 0;
        for value in values.values.iter_mut().filter(|v| **v < 0.0) {
            *value = 0.0;
            clipped += 1;
        }
        Ok(Self {
            values,
            clipped,
            most_negative: if clipped == 0 { 0.0 } else { least / most },
        })
    }
}

/// Smallest element, and the largest of them and 0.
pub(crate) fn ends(values: &[f64]) -> (f64, f64) {
    (
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(0.0, f64::max),
    )
}

impl DiagonalPrecision {
    /// Adds the prior and takes the reciprocal.
    pub(crate) fn with_prior(
        plan: &BlockPlan,
        n_spectra: u64,
        diagonal: NonNegative,
        prior_precision: f64,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        let NonNegative {
            values: mut variance,
            clipped,
            most_negative,
        } = diagonal;
        let (least, most) = ends(&variance.values);
        // A variance that is no number of f32 is none for f32 captures.
        if ((1.0 / (least + prior_precision)) as f32).is_infinite() {
            return Err(PosteriorError::SingularSpectrum {
                block: plan.name(),
                prior_precision,
                smallest: least,
                largest: most,
            });
        }
        let (mut log_det, mut effective_parameters) = (0.0, 0.0);
        for value in &mut variance.values {
            let d = *value;
            log_det += (d + prior_precision).ln();
            effective_parameters += d / (d + prior_precision);
            *value = 1.0 / (d + prior_precision);
        }
        let ends = (least + prior_precision, most + prior_precision);
        let certificate = Certificate {
            log_det,
            effective_parameters,
            eigenvalues: Some(ends),
            condition: ends.1 / ends.0,
            clipped_eigenvalues: clipped,
            most_negative_eigenvalue: most_negative,
        };
        let info = BlockInfo::new(plan, n_spectra, prior_precision, certificate);
        Self::new(plan, variance, info, threads)
    }

    /// From variances that were computed before.
    pub(crate) fn new(
        plan: &BlockPlan,
        variance: Matrix,
        info: BlockInfo,
        threads: usize,
    ) -> Result<Self, PosteriorError> {
        Ok(Self {
            index: plan.layers.first().copied().unwrap_or_default(),
            shape: single_layer(plan)?.clone(),
            info,
            variance,
            threads,
            in_f32: OnceLock::new(),
            in_f64: OnceLock::new(),
        })
    }

    fn transposed<T: WithDType>(&self) -> Vec<T> {
        let (outputs, inputs) = (self.variance.rows, self.variance.cols);
        let mut values = Vec::with_capacity(outputs * inputs);
        for j in 0..inputs {
            for o in 0..outputs {
                values.push(T::from_f64(self.variance.values[o * inputs + j]));
            }
        }
        values
    }

    fn predict<T: Number>(
        &self,
        wanted: &Wanted<'_>,
        capture: &LayerCapture,
        inverse: &[T],
    ) -> Result<Vec<f64>, PosteriorError> {
        let sides = wanted.sides::<T>(capture)?;
        Ok(covariance(&sides, inverse, self.threads))
    }
}

impl Precision for DiagonalPrecision {
    fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        check_vector(&self.info, v)?;
        Ok(v.iter()
            .zip(&self.variance.values)
            .map(|(v, variance)| v * variance)
            .collect())
    }

    fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        check_weights(&self.info, rows.iter().chain(cols))?;
        let row = |&row: &usize| {
            let variance = self.variance.values[row];
            cols.iter().map(move |&col| if col == row { variance } else { 0.0 })
        };
        Ok(Matrix {
            rows: rows.len(),
            cols: cols.len(),
            values: rows.iter().flat_map(row).collect(),
        })
    }

    fn covariance_of(&self, captures: &[LayerCapture]) -> Result<Vec<f64>, PosteriorError> {
        let wanted = Wanted {
            index: self.index,
            shape: &self.shape,
        };
        let capture = wanted.find(captures)?;
        if capture.input.dtype() == DType::F32 {
            let inverse = self.in_f32.get_or_init(|| self.transposed());
            self.predict(&wanted, capture, inverse)
        } else {
            let inverse = self.in_f64.get_or_init(|| self.transposed());
            self.predict(&wanted, capture, inverse)
        }
    }

    fn marginal_variance(&self) -> Result<Vec<Matrix>, PosteriorError> {
        Ok(vec![self.variance.clone()])
    }

    fn inverse_matrices(&self) -> Result<Vec<NamedMatrix>, PosteriorError> {
        Ok(vec![NamedMatrix::new(
            &self.shape.name,
            Factor::Diagonal,
            self.variance.clone(),
        )])
    }

    fn probes(&self, plan: &BlockPlan, stars: &[LayerCapture]) -> Result<Vec<Probe>, PosteriorError> {
        diagonal_probes(self, plan, stars)
    }

    fn info(&self) -> &BlockInfo {
        &self.info
    }
}
