//! A batch of spectra: rows of one shard, or chosen ones of several, checked row by row.
//!
//! Whatever is wrong with a row, it keeps its place: flux and variance 0, no good pixel, and a flag that says why.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;

use crate::{PixelFlux, PixelPopulation, RowFlags, Shard, SpectraError};

/// Spectra of a catalogue in its order: consecutive ones of one shard until some are [selected](Self::select) or others [added](Self::append).
#[derive(Clone, Debug)]
pub struct SpectrumBatch {
    /// Where the first of them comes from.
    pub shard: Shard,
    /// `[n]`: the position of each in the shard that it comes from; where held-out rows alone were read, among those, which says nothing of the shard.
    pub positions: Vec<u64>,
    /// The identifier (first column) and the kept columns, as the catalogue types them: `[n]`.
    pub rows: RecordBatch,
    /// D.
    pub n_pixels: usize,
    /// K; 0 where the catalogue names no labels.
    pub n_labels: usize,
    /// `[n, D]`, flux units; 0 in masked pixels and bad rows.
    pub flux: Vec<f64>,
    /// `[n, D]`, flux units squared; 0 in masked pixels and bad rows until [`SpectrumBatch::impute`].
    pub variance: Vec<f64>,
    /// `[n, D]`: false = masked.
    pub good: Vec<bool>,
    /// `[n]`: good pixels; 0 in bad rows.
    pub n_pix_good: Vec<u32>,
    /// `[n, K]`, label units; NaN = missing.
    pub labels: Vec<f64>,
    /// `[n, K, K]`, label units; NaN all over a row where the error of a label is missing. `None`: the catalogue names no label errors.
    pub label_covariance: Option<Vec<f64>>,
    /// `[n]`.
    pub flags: Vec<RowFlags>,
    /// `[n]`: for which pixel a row is flagged [`RowFlags::FLUX_OUT_OF_RANGE`].
    pub out_of_range: Vec<Option<PixelFlux>>,
    /// `[n]`: uniform hash in `[0, 1)` of the identifier or of its hold-out group.
    pub holdout: Vec<f64>,
}

impl SpectrumBatch {
    /// Number of spectra.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.flags.len()
    }

    /// Whether a spectrum has no prediction.
    #[must_use]
    pub fn is_bad(&self, row: usize) -> bool {
        self.flags.get(row).is_none_or(|flags| flags.is_bad())
    }

    /// Whether the run leaves a spectrum out by its identifier.
    #[must_use]
    pub fn is_excluded(&self, row: usize) -> bool {
        self.flags
            .get(row)
            .is_some_and(|flags| flags.contains(RowFlags::EXCLUDED))
    }

    /// Whether a spectrum can be counted in sums over labels: it is good, it has all its labels, and their errors where the catalogue
    /// names errors.
    #[must_use]
    pub fn is_labelled(&self, row: usize) -> bool {
        self.n_labels > 0
            && !self.is_bad(row)
            && !self.flags[row].contains(RowFlags::LABEL_MISSING)
            && !self.flags[row].contains(RowFlags::LABEL_ERROR_MISSING)
    }

    /// Flags a row and, as every bad row, leaves nothing of its pixels.
    pub(crate) fn blank(&mut self, row: usize, flag: RowFlags) {
        let pixels = row * self.n_pixels..(row + 1) * self.n_pixels;
        self.flux[pixels.clone()].fill(0.0);
        self.variance[pixels.clone()].fill(0.0);
        self.good[pixels].fill(false);
        self.n_pix_good[row] = 0;
        self.flags[row].insert(flag);
    }

    /// Puts the population in the place of masked pixels: its mean as flux, its variance as variance. What is masked is unknown, never
    /// perfectly measured. Bad rows stay 0.
    ///
    /// # Errors
    /// The population has another number of pixels.
    pub fn impute(&mut self, population: &PixelPopulation) -> Result<(), SpectraError> {
        if population.mean.len() != self.n_pixels || population.variance.len() != self.n_pixels {
            return Err(SpectraError::Length {
                what: "the population of pixels",
                found: population.mean.len(),
                expected: self.n_pixels,
            });
        }
        for (row, flags) in self.flags.iter().enumerate() {
            if flags.is_bad() || !flags.contains(RowFlags::PIXELS_MASKED) {
                continue;
            }
            let start = row * self.n_pixels;
            for pixel in 0..self.n_pixels {
                if !self.good[start + pixel] {
                    self.flux[start + pixel] = population.mean[pixel];
                    self.variance[start + pixel] = population.variance[pixel];
                }
            }
        }
        Ok(())
    }

    /// Adds the rows of another batch of the same catalogue. `shard` stays that of this one.
    ///
    /// # Errors
    /// The other has other pixels, labels or columns.
    pub fn append(&mut self, other: SpectrumBatch) -> Result<(), SpectraError> {
        for (what, found, expected) in [
            ("a spectrum", other.n_pixels, self.n_pixels),
            ("the labels of a spectrum", other.n_labels, self.n_labels),
        ] {
            if found != expected {
                return Err(SpectraError::Length { what, found, expected });
            }
        }
        self.rows = concat_batches(&self.rows.schema(), [&self.rows, &other.rows]).map_err(SpectraError::Select)?;
        self.positions.extend(other.positions);
        self.flux.extend(other.flux);
        self.variance.extend(other.variance);
        self.good.extend(other.good);
        self.n_pix_good.extend(other.n_pix_good);
        self.labels.extend(other.labels);
        if let (Some(own), Some(others)) = (&mut self.label_covariance, other.label_covariance) {
            own.extend(others);
        }
        self.flags.extend(other.flags);
        self.out_of_range.extend(other.out_of_range);
        self.holdout.extend(other.holdout);
        Ok(())
    }

    /// The rows at `rows`, in that order.
    ///
    /// # Errors
    /// A row is not in the batch.
    pub fn select(&self, rows: &[usize]) -> Result<SpectrumBatch, SpectraError> {
        if let Some(&row) = rows.iter().find(|&&row| row >= self.n_rows()) {
            return Err(SpectraError::Length {
                what: "the batch",
                found: self.n_rows(),
                expected: row + 1,
            });
        }
        let indices = UInt32Array::from_iter_values(rows.iter().map(|&row| row as u32));
        let (d, k) = (self.n_pixels, self.n_labels);
        Ok(SpectrumBatch {
            shard: self.shard.clone(),
            positions: gather(&self.positions, 1, rows),
            rows: take_record_batch(&self.rows, &indices).map_err(SpectraError::Select)?,
            n_pixels: d,
            n_labels: k,
            flux: gather(&self.flux, d, rows),
            variance: gather(&self.variance, d, rows),
            good: gather(&self.good, d, rows),
            n_pix_good: gather(&self.n_pix_good, 1, rows),
            labels: gather(&self.labels, k, rows),
            label_covariance: self.label_covariance.as_ref().map(|cov| gather(cov, k * k, rows)),
            flags: gather(&self.flags, 1, rows),
            out_of_range: gather(&self.out_of_range, 1, rows),
            holdout: gather(&self.holdout, 1, rows),
        })
    }
}

fn gather<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    let mut taken = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        taken.extend_from_slice(&values[row * width..(row + 1) * width]);
    }
    taken
}
