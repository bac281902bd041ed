//! Rows as they were read become a batch: everything that can be wrong with a row is found here, and flagged.

use arrow_array::RecordBatch;

use crate::{RowFlags, Shard, SpectraError, SpectrumBatch, holdout_hash};

/// What every row of a batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// D.
    pub n_pixels: usize,
    /// K.
    pub n_labels: usize,
    /// What [`RawRow::error`] holds.
    pub error: ErrorKind,
    /// What [`RawRow::label_error`] holds.
    pub label_error: LabelErrorKind,
    /// Whether the catalogue has a mask column.
    pub mask: MaskKind,
}

/// What the error of the flux is given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Standard deviations.
    Sigma,
    /// Inverse variances.
    Ivar,
    /// Nothing: the flux is exact.
    Exact,
}

/// What the errors of the labels are given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelErrorKind {
    /// Nothing.
    None,
    /// `K` standard deviations.
    Sigma,
    /// `K * K` covariances.
    Covariance,
}

/// Whether pixels are marked as bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// They are not.
    NotGiven,
    /// They are.
    Given,
}

/// One row as it was read.
#[derive(Clone, Copy, Debug)]
pub struct RawRow<'a> {
    /// Whether the identifier is there.
    pub has_id: bool,
    /// Whether the run leaves the spectrum out by its identifier.
    pub excluded: bool,
    /// The flux; `None` = null.
    pub flux: Option<&'a [f64]>,
    /// The pixels whose flux is null: masked, whatever the flux holds there. `None`: no pixel is null.
    pub null_pixels: Option<&'a [bool]>,
    /// Its standard deviations or inverse variances; `None` = null. Not looked at where the flux is exact.
    pub error: Option<&'a [f64]>,
    /// The bad pixels by the mask column; `None` = null. Not looked at where there is no mask.
    pub mask: Option<&'a [bool]>,
    /// `[K]`; NaN = null.
    pub labels: &'a [f64],
    /// `[K]` or `[K, K]`, NaN = null; any other length = missing.
    pub label_error: &'a [f64],
    /// What decides whether the row is held out.
    pub holdout_key: &'a str,
}

/// Builds a batch row by row.
#[derive(Debug)]
pub struct SpectrumBatchBuilder {
    shape: BatchShape,
    flux: Vec<f64>,
    variance: Vec<f64>,
    good: Vec<bool>,
    n_pix_good: Vec<u32>,
    labels: Vec<f64>,
    label_covariance: Vec<f64>,
    flags: Vec<RowFlags>,
    holdout: Vec<f64>,
}

impl SpectrumBatchBuilder {
    /// A builder of at most `n_rows` rows.
    #[must_use]
    pub fn new(shape: BatchShape, n_rows: usize) -> Self {
        let (d, k) = (shape.n_pixels, shape.n_labels);
        Self {
            shape,
            flux: Vec::with_capacity(n_rows * d),
            variance: Vec::with_capacity(n_rows * d),
            good: Vec::with_capacity(n_rows * d),
            n_pix_good: Vec::with_capacity(n_rows),
            labels: Vec::with_capacity(n_rows * k),
            label_covariance: Vec::new(),
            flags: Vec::with_capacity(n_rows),
            holdout: Vec::with_capacity(n_rows),
        }
    }

    /// Checks one row and appends it: flagged, where something is wrong with it.
    pub fn push(&mut self, row: &RawRow<'_>) {
        let mut flags = self.push_pixels(row);
        if !row.has_id {
            flags.insert(RowFlags::ID_NULL);
        }
        if row.excluded {
            flags.insert(RowFlags::EXCLUDED);
        }
        flags |= self.push_labels(row);
        if flags.is_bad() {
            let start = self.flags.len() * self.shape.n_pixels;
            self.flux.truncate(start);
            self.variance.truncate(start);
            self.good.truncate(start);
            self.push_blank();
        } else {
            let start = self.flags.len() * self.shape.n_pixels;
            let n_good = self.good[start..].iter().filter(|&&good| good).count();
            self.n_pix_good.push(n_good as u32);
        }
        self.flags.push(flags);
        self.holdout.push(holdout_hash(row.holdout_key));
    }

    /// The batch, which begins at `first_row` of the shard, with the identifier and kept columns of its rows.
    ///
    /// # Errors
    /// `rows` has another number of rows than were pushed.
    pub fn finish(self, shard: Shard, first_row: u64, rows: RecordBatch) -> Result<SpectrumBatch, SpectraError> {
        if rows.num_rows() != self.flags.len() {
            return Err(SpectraError::Length {
                what: "the table of identifiers",
                found: rows.num_rows(),
                expected: self.flags.len(),
            });
        }
        Ok(SpectrumBatch {
            shard,
            positions: (first_row..).take(self.flags.len()).collect(),
            rows,
            n_pixels: self.shape.n_pixels,
            n_labels: self.shape.n_labels,
            flux: self.flux,
            variance: self.variance,
            good: self.good,
            n_pix_good: self.n_pix_good,
            labels: self.labels,
            label_covariance: (self.shape.label_error != LabelErrorKind::None).then_some(self.label_covariance),
            out_of_range: vec![None; self.flags.len()],
            flags: self.flags,
            holdout: self.holdout,
        })
    }

    fn push_blank(&mut self) {
        let end = (self.flags.len() + 1) * self.shape.n_pixels;
        self.flux.resize(end, 0.0);
        self.variance.resize(end, 0.0);
        self.good.resize(end, false);
        self.n_pix_good.push(0);
    }

    /// Appends the pixels of a row as far as they go; a row that turns out bad is blanked by the caller.
    fn push_pixels(&mut self, row: &RawRow<'_>) -> RowFlags {
        let d = self.shape.n_pixels;
        let mut flags = RowFlags::NONE;
        let mut present = |values: Option<usize>, null: RowFlags| match values {
            None => flags.insert(null),
            Some(n) if n != d => flags.insert(RowFlags::WRONG_LENGTH),
            Some(_) => {}
        };
        present(row.flux.map(<[f64]>::len), RowFlags::FLUX_NULL);
        if self.shape.error != ErrorKind::Exact {
            present(row.error.map(<[f64]>::len), RowFlags::ERROR_NULL);
        }
        if self.shape.mask == MaskKind::Given {
            present(row.mask.map(<[bool]>::len), RowFlags::MASK_NULL);
        }
        let Some(flux) = row.flux else { return flags };
        if flags.is_bad() {
            return flags;
        }
        let start = self.good.len();
        match (row.null_pixels, self.shape.mask) {
            (None, MaskKind::NotGiven) => self.good.resize(start + d, true),
            (null, mask) => self.good.extend((0..d).map(|pixel| {
                let is_set = |bits: &[bool]| bits.get(pixel).copied().unwrap_or(true);
                !null.is_some_and(is_set) && (mask == MaskKind::NotGiven || !row.mask.is_none_or(is_set))
            })),
        }
        // The shape's error is there: it was looked for above.
        let error = row.error.unwrap_or_default();
        match self.shape.error {
            ErrorKind::Exact => self.variance.resize(start + d, 0.0),
            ErrorKind::Sigma => self.push_variance(error, |sigma| sigma * sigma),
            ErrorKind::Ivar => self.push_variance(error, |ivar| 1.0 / ivar),
        }
        let good = &self.good[start..];
        let mut is_finite = true;
        self.flux.extend(flux.iter().zip(good).map(|(&f, &good)| {
            is_finite &= !good | f.is_finite();
            if good { f } else { 0.0 }
        }));
        if !is_finite {
            flags.insert(RowFlags::FLUX_NOT_FINITE);
        }
        let n_good = good.iter().filter(|&&good| good).count();
        if n_good == 0 {
            flags.insert(RowFlags::NO_GOOD_PIXEL);
        } else if n_good < d {
            flags.insert(RowFlags::PIXELS_MASKED);
        }
        flags
    }

    /// Appends the variances of a row whose `good` is appended, and takes back what of it has none.
    fn push_variance(&mut self, error: &[f64], variance_of: impl Fn(f64) -> f64) {
        let good = &mut self.good[self.variance.len()..];
        self.variance.extend(error.iter().zip(good).map(|(&error, good)| {
            let variance = variance_of(error);
            // A variance that over- or underflows is no measurement either.
            *good &= (error > 0.0) & error.is_finite() & (variance > 0.0) & variance.is_finite();
            if *good { variance } else { 0.0 }
        }));
    }

    fn push_labels(&mut self, row: &RawRow<'_>) -> RowFlags {
        let k = self.shape.n_labels;
        let mut flags = RowFlags::NONE;
        for label in 0..k {
            let value = row
                .labels
                .get(label)
                .copied()
                .filter(|v| v.is_finite())
                .unwrap_or(f64::NAN);
            if value.is_nan() {
                flags.insert(RowFlags::LABEL_MISSING);
            }
            self.labels.push(value);
        }
        let covariance = match self.shape.label_error {
            LabelErrorKind::None => return flags,
            LabelErrorKind::Sigma => sigma_covariance(row.label_error, k),
            LabelErrorKind::Covariance => checked_covariance(row.label_error, k),
        };
        match covariance {
            Some(covariance) => self.label_covariance.extend(covariance),
            None => {
                flags.insert(RowFlags::LABEL_ERROR_MISSING);
                self.label_covariance.extend(std::iter::repeat_n(f64::NAN, k * k));
            }
        }
        flags
    }
}

/// `diag(sigma^2)`; `None` where a sigma is missing or negative, or its square is not finite.
fn sigma_covariance(sigma: &[f64], k: usize) -> Option<Vec<f64>> {
    if sigma.len() != k || sigma.iter().any(|s| !(s * s).is_finite() || *s < 0.0) {
        return None;
    }
    let mut covariance = vec![0.0; k * k];
    for (i, s) in sigma.iter().enumerate() {
        covariance[i * k + i] = s * s;
    }
    Some(covariance)
}

/// What rounding may do to a correlation: covariances come as f32, too.
const ROUNDING: f64 = 1e-6;

/// The covariance, its two triangles averaged; `None` where it is missing, not finite, not symmetric to 1e-6, or has a negative variance or
/// an eigenvalue of its correlations below -1e-6. Where they are not positive definite within that, they are shrunk by it.
fn checked_covariance(covariance: &[f64], k: usize) -> Option<Vec<f64>> {
    if covariance.len() != k * k || covariance.iter().any(|c| !c.is_finite()) {
        return None;
    }
    let mut checked = covariance.to_vec();
    for i in 0..k {
        if covariance[i * k + i] < 0.0 {
            return None;
        }
        for j in 0..i {
            let (lower, upper) = (covariance[i * k + j], covariance[j * k + i]);
            let scale = scale_of(covariance, k, i, j);
            if (lower - upper).abs() > ROUNDING * scale || lower.abs() > scale * (1.0 + ROUNDING) {
                return None;
            }
            let mean = 0.5 * (lower + upper);
            checked[i * k + j] = mean;
            checked[j * k + i] = mean;
        }
    }
    if !are_correlations_definite(&checked, k, 0.0) {
        if !are_correlations_definite(&checked, k, ROUNDING) {
            return None;
        }
        for at in (0..k * k).filter(|at| at / k != at % k) {
            checked[at] /= 1.0 + ROUNDING;
        }
    }
    Some(checked)
}

/// What an element is a correlation times: the product of the variances may overflow.
fn scale_of(covariance: &[f64], k: usize, i: usize, j: usize) -> f64 {
    covariance[i * k + i].sqrt() * covariance[j * k + j].sqrt()
}

/// Whether the correlations of a symmetric matrix, `shift` added to their diagonal, have a Cholesky factor; a variance of 0 is one of 1 that
/// nothing is correlated with.
fn are_correlations_definite(covariance: &[f64], k: usize, shift: f64) -> bool {
    let mut factor = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            let scale = scale_of(covariance, k, i, j);
            let correlation = if i == j {
                1.0 + shift
            } else if scale > 0.0 {
                covariance[i * k + j] / scale
            } else {
                0.0
            };
            let known: f64 = (0..j).map(|l| factor[i * k + l] * factor[j * k + l]).sum();
            let left = correlation - known;
            factor[i * k + j] = if i != j {
                left / factor[j * k + j]
            } else if left > 0.0 {
                left.sqrt()
            } else {
                return false;
            };
        }
    }
    true
}
