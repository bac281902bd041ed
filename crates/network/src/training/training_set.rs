//! Spectra and labels to train on or to validate with, and their means and scales.

use crate::error::NetworkError;

/// Spectra with their labels, in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingSet {
    /// Number of spectra.
    pub n_spectra: usize,
    /// Pixels a spectrum.
    pub n_pixels: usize,
    /// `[n_spectra * n_pixels]`, row-major, flux units; all finite.
    pub flux: Vec<f32>,
    /// `[n_spectra * K]`, row-major, label units; all finite.
    pub labels: Vec<f64>,
}

impl TrainingSet {
    /// Checks sizes and values; `set` is `training` or `validation`, for the message.
    pub(crate) fn check(&self, set: &'static str, n_pixels: usize, n_labels: usize) -> Result<(), NetworkError> {
        let fits = self.n_pixels == n_pixels
            && self.n_spectra.checked_mul(n_pixels) == Some(self.flux.len())
            && self.n_spectra.checked_mul(n_labels) == Some(self.labels.len());
        if !fits {
            return Err(NetworkError::TrainingSetShape {
                set,
                n_spectra: self.n_spectra,
                n_pixels,
                n_labels,
                flux: self.flux.len(),
                labels: self.labels.len(),
            });
        }
        let bad_flux = self
            .flux
            .iter()
            .position(|f| !f.is_finite())
            .map(|i| (i / n_pixels, "flux"));
        let bad_label = || {
            self.labels
                .iter()
                .position(|y| !y.is_finite())
                .map(|i| (i / n_labels, "label"))
        };
        match bad_flux.or_else(bad_label) {
            None => Ok(()),
            Some((row, what)) => Err(NetworkError::TrainingValue { set, row, what }),
        }
    }

    /// Mean of each pixel, and one scale for all: the root mean square of the flux about these means (1 where that is 0).
    ///
    /// One scale, because a scale of each pixel's own would blow up the pixels that hold nothing but noise.
    pub(crate) fn input_normalisation(&self) -> (Vec<f64>, f64) {
        let mut mean = vec![0.0; self.n_pixels];
        for spectrum in self.flux.chunks_exact(self.n_pixels) {
            mean.iter_mut().zip(spectrum).for_each(|(m, f)| *m += f64::from(*f));
        }
        mean.iter_mut().for_each(|m| *m /= self.n_spectra as f64);
        let mut squares = 0.0;
        for spectrum in self.flux.chunks_exact(self.n_pixels) {
            let of_one = mean.iter().zip(spectrum).map(|(m, f)| (f64::from(*f) - m).powi(2));
            squares += of_one.sum::<f64>() / self.n_pixels as f64;
        }
        // Sums of f32 in f64 are as good as exact.
        (mean, scale_of(squares / self.n_spectra as f64, 0.0))
    }

    /// Mean and standard deviation (1 where that is 0, or no more than rounding leaves) of each label.
    pub(crate) fn label_normalisation(&self, n_labels: usize) -> (Vec<f64>, Vec<f64>) {
        let n = self.n_spectra as f64;
        (0..n_labels)
            .map(|k| {
                let label = || self.labels.iter().skip(k).step_by(n_labels);
                let mean = label().sum::<f64>() / n;
                let variance = label().map(|y| (y - mean).powi(2)).sum::<f64>() / n;
                // By so much the mean of labels that are all alike may miss them.
                (mean, scale_of(variance, n * f64::EPSILON * mean.abs()))
            })
            .unzip()
    }
}

/// Root of a variance; 1 where it is no more than `rounding`.
fn scale_of(variance: f64, rounding: f64) -> f64 {
    let scale = variance.sqrt();
    if scale > rounding { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> TrainingSet {
        TrainingSet {
            n_spectra: 2,
            n_pixels: 3,
            flux: vec![1.0, 2.0, 5.0, 3.0, 2.0, 1.0],
            labels: vec![5000.0, 1.0, 4000.0, 1.0],
        }
    }

    #[test]
    fn means_and_scales_by_hand() {
        let (mean, scale) = set().input_normalisation();
        assert_eq!(mean, [2.0, 2.0, 3.0]);
        assert!((scale - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(set().label_normalisation(2), (vec![4500.0, 1.0], vec![500.0, 1.0]));
    }

    #[test]
    fn labels_that_are_all_alike_have_no_scale() {
        for n_spectra in [3, 10, 1000] {
            let alike = TrainingSet {
                n_spectra,
                labels: [0.1, -1e9 / 3.0, 1e-300].repeat(n_spectra),
                ..TrainingSet::default()
            };
            assert_eq!(alike.label_normalisation(3).1, [1.0; 3], "{n_spectra}");
        }
        // A spread in the last digits is one, as long as it is above what rounding may leave.
        let mut near = TrainingSet {
            n_spectra: 2,
            labels: vec![1.0, 1.0 + 1e-14],
            ..TrainingSet::default()
        };
        assert!(near.label_normalisation(1).1[0] < 1e-14);
        near.labels[1] = 1.0;
        assert_eq!(near.label_normalisation(1).1, [1.0]);
    }

    #[test]
    fn wrong_sizes_and_values_are_named() {
        assert!(set().check("training", 3, 2).is_ok());
        assert!(matches!(
            set().check("training", 3, 3),
            Err(NetworkError::TrainingSetShape { .. })
        ));
        assert!(matches!(
            set().check("validation", 4, 2),
            Err(NetworkError::TrainingSetShape { .. })
        ));
        let mut bad = set();
        bad.labels[3] = f64::NAN;
        let said = bad.check("validation", 3, 2).unwrap_err().to_string();
        assert_eq!(
            said,
            "spectrum 1 of the validation set has a label that is not finite; leave such rows out"
        );
    }
}
