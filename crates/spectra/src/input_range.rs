//! Spectra beyond anything that the others hold: one pixel of 1e20 alone would decide the sums over all of them.

use crate::{RowFlags, SpectrumBatch};

/// Pixels that are looked at together.
const LANES: usize = 8;

/// How far a network's inputs may be from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRange {
    /// `[D]`, flux units: what the network subtracts.
    pub mean: Vec<f64>,
    /// `[D]`, flux units: what it divides by.
    pub scale: Vec<f64>,
    /// The largest `|(flux - mean) / scale|` that a pixel may have; infinite where none is known.
    pub limit: f64,
}

/// A pixel of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelFlux {
    /// Its position, from 0.
    pub pixel: usize,
    /// Flux units.
    pub flux: f64,
}

impl InputRange {
    /// The limit by what spectra of the catalogue have: so many times the median of their [farthest](Self::farthest). A median, because
    /// they may hold such pixels themselves. `None` where none of them is anywhere but at the mean, or where `times` is infinite.
    #[must_use]
    pub fn limit_by(mut farthest: Vec<f64>, times: f64) -> Option<f64> {
        farthest.retain(|&input| input > 0.0);
        farthest.sort_unstable_by(f64::total_cmp);
        let median = farthest.get(farthest.len() / 2)?;
        Some(times * median).filter(|limit| limit.is_finite())
    }

    /// The largest `|(flux - mean) / scale|` over the good pixels of each row, `[n]`; 0 in bad rows.
    #[must_use]
    pub fn farthest(&self, batch: &SpectrumBatch) -> Vec<f64> {
        let d = batch.n_pixels.max(1);
        let rows = batch.flux.chunks_exact(d).zip(batch.good.chunks_exact(d));
        let scale: Vec<f64> = self.scale.iter().map(|scale| scale.recip()).collect();
        rows.map(|(flux, good)| {
            // Several maxima at once: every spectrum of every pass comes by here.
            let mut farthest = [0.0; LANES];
            let pixels = flux.chunks(LANES).zip(good.chunks(LANES));
            let inputs = self.mean.chunks(LANES).zip(scale.chunks(LANES));
            for ((flux, good), (mean, scale)) in pixels.zip(inputs) {
                for ((((farthest, flux), good), mean), scale) in
                    farthest.iter_mut().zip(flux).zip(good).zip(mean).zip(scale)
                {
                    let input = if *good { ((flux - mean) * scale).abs() } else { 0.0 };
                    *farthest = if input > *farthest { input } else { *farthest };
                }
            }
            farthest.into_iter().fold(0.0, f64::max)
        })
        .collect()
    }

    /// Flags the rows that are beyond the limit, notes the pixel that is farthest, and blanks them as any bad row.
    pub fn flag(&self, batch: &mut SpectrumBatch) {
        for (row, farthest) in self.farthest(batch).into_iter().enumerate() {
            if farthest > self.limit {
                batch.out_of_range[row] = self.farthest_pixel(batch, row);
                batch.blank(row, RowFlags::FLUX_OUT_OF_RANGE);
            }
        }
    }

    /// The good pixel of a row whose input is farthest from 0.
    fn farthest_pixel(&self, batch: &SpectrumBatch, row: usize) -> Option<PixelFlux> {
        let pixels = row * batch.n_pixels..(row + 1) * batch.n_pixels;
        let all = batch.flux[pixels.clone()].iter().zip(&batch.good[pixels]).enumerate();
        let good = all.filter(|(_, (_, good))| **good);
        let input = |of: &PixelFlux| ((of.flux - self.mean[of.pixel]) / self.scale[of.pixel]).abs();
        good.map(|(pixel, (&flux, _))| PixelFlux { pixel, flux })
            .max_by(|a, b| input(a).total_cmp(&input(b)))
    }
}
