//! What a masked pixel is replaced with: the mean and the variance of that pixel over the spectra of a population.
//!
//! Sums are kept as count, mean and `m2 = sum (x - mean)^2` a pixel (Welford 1962), and merged by the formula of Chan, Golub and
//! LeVeque (1979): the same sums in the same order give the same bits.

use serde::{Deserialize, Serialize};

use crate::{SpectraError, SpectrumBatch};

/// Sums over good pixels, mergeable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelSums {
    /// Spectra looked at.
    pub n_spectra: u64,
    /// `[D]`: spectra in which the pixel was good.
    pub count: Vec<u64>,
    /// `[D]`, flux units.
    pub mean: Vec<f64>,
    /// `[D]`, flux units squared: sum of squared deviations from `mean`.
    pub m2: Vec<f64>,
}

/// The mean and the variance of every pixel over a population of spectra.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelPopulation {
    /// Spectra looked at.
    pub n_spectra: u64,
    /// `[D]`, flux units.
    pub mean: Vec<f64>,
    /// `[D]`, flux units squared: of the population, photon noise included.
    pub variance: Vec<f64>,
    /// Pixels that were good in fewer than two spectra: they have the mean and variance of the nearest pixel that was.
    pub borrowed: u64,
    /// The [limit of inputs](crate::InputRange) of its spectra; `None` where it was not looked for.
    #[serde(default)]
    pub input_limit: Option<f64>,
}

impl PixelPopulation {
    /// How far a spectrum is from the population: the root mean square, over its good pixels, of `flux - mean` in standard deviations of the
    /// population and the pixel's own error together; 0 where no pixel says anything, infinite where one is off that never was in the population
    /// and has no error. `flux`, `variance`, `good`: `[D]`.
    #[must_use]
    pub fn distance(&self, flux: &[f64], variance: &[f64], good: &[bool]) -> f64 {
        let pixels = flux.iter().zip(variance).zip(good);
        let (mut squares, mut n) = (0.0, 0_u64);
        for (((flux, own), good), (mean, spread)) in pixels.zip(self.mean.iter().zip(&self.variance)) {
            let (apart, total) = (flux - mean, own + spread);
            // 0 of 0 says nothing.
            if *good && (total > 0.0 || apart != 0.0) {
                squares += apart.powi(2) / total;
                n += 1;
            }
        }
        if n == 0 { 0.0 } else { (squares / n as f64).sqrt() }
    }
}

impl PixelSums {
    /// No spectra.
    #[must_use]
    pub fn new(n_pixels: usize) -> Self {
        Self {
            n_spectra: 0,
            count: vec![0; n_pixels],
            mean: vec![0.0; n_pixels],
            m2: vec![0.0; n_pixels],
        }
    }

    /// Adds the good pixels of the given rows, in their order; bad rows are passed over.
    ///
    /// # Errors
    /// The batch has another number of pixels, or no such row.
    pub fn accumulate(
        &mut self,
        batch: &SpectrumBatch,
        rows: impl IntoIterator<Item = usize>,
    ) -> Result<(), SpectraError> {
        let d = self.count.len();
        if batch.n_pixels != d {
            return Err(SpectraError::Length {
                what: "a spectrum",
                found: batch.n_pixels,
                expected: d,
            });
        }
        for row in rows {
            if row >= batch.n_rows() {
                return Err(SpectraError::Length {
                    what: "the batch",
                    found: batch.n_rows(),
                    expected: row + 1,
                });
            }
            if batch.is_bad(row) {
                continue;
            }
            self.n_spectra += 1;
            let span = row * d..(row + 1) * d;
            for (pixel, (&flux, &good)) in batch.flux[span.clone()].iter().zip(&batch.good[span]).enumerate() {
                if good {
                    self.count[pixel] += 1;
                    let from_old = flux - self.mean[pixel];
                    self.mean[pixel] += from_old / self.count[pixel] as f64;
                    self.m2[pixel] += from_old * (flux - self.mean[pixel]);
                }
            }
        }
        Ok(())
    }

    /// Adds the sums of other spectra.
    ///
    /// # Errors
    /// They have another number of pixels.
    pub fn merge(&mut self, other: &PixelSums) -> Result<(), SpectraError> {
        if other.count.len() != self.count.len() {
            return Err(SpectraError::Length {
                what: "the sums over pixels",
                found: other.count.len(),
                expected: self.count.len(),
            });
        }
        self.n_spectra += other.n_spectra;
        for pixel in 0..self.count.len() {
            let (n, m) = (self.count[pixel] as f64, other.count[pixel] as f64);
            if m == 0.0 {
                continue;
            }
            let shift = other.mean[pixel] - self.mean[pixel];
            self.count[pixel] += other.count[pixel];
            self.mean[pixel] += shift * m / (n + m);
            self.m2[pixel] += other.m2[pixel] + shift * shift * n * m / (n + m);
        }
        Ok(())
    }

    /// The population: unbiased variances.
    ///
    /// # Errors
    /// No pixel was good in two spectra.
    pub fn finish(&self) -> Result<PixelPopulation, SpectraError> {
        let known: Vec<usize> = (0..self.count.len()).filter(|&pixel| self.count[pixel] >= 2).collect();
        if known.is_empty() {
            return Err(SpectraError::NoPopulation {
                spectra: self.n_spectra,
            });
        }
        let nearest = |pixel: usize| {
            let after = known.partition_point(|&k| k < pixel);
            let below = known[after.saturating_sub(1)];
            let above = known[after.min(known.len() - 1)];
            if below.abs_diff(pixel) <= above.abs_diff(pixel) {
                below
            } else {
                above
            }
        };
        let sources: Vec<usize> = (0..self.count.len()).map(nearest).collect();
        Ok(PixelPopulation {
            n_spectra: self.n_spectra,
            mean: sources.iter().map(|&p| self.mean[p]).collect(),
            variance: sources
                .iter()
                .map(|&p| self.m2[p] / (self.count[p] - 1) as f64)
                .collect(),
            borrowed: (self.count.len() - known.len()) as u64,
            input_limit: None,
        })
    }
}
