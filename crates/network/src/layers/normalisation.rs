//! How flux becomes the network's input: `x = (flux - mean) / scale`, pixel by pixel.

use candle_core::{Device, Tensor, WithDType};

use crate::arithmetic::Arithmetic;
use crate::error::NetworkError;
use crate::labels::{check_finite, check_positive};

/// The normalisation of a network's input.
#[derive(Clone, Debug)]
pub(crate) struct InputNormalisation {
    /// `[D]`, flux units.
    pub mean: Vec<f64>,
    /// `[D]`, flux units, positive.
    pub scale: Vec<f64>,
    /// How `1 / scale` is applied.
    inverse_scale: InverseScale,
}

/// `1 / scale` of all pixels.
#[derive(Clone, Debug)]
pub(crate) enum InverseScale {
    /// The same for every pixel.
    Uniform(f64),
    /// `[1, D]` in the arithmetic's type.
    ByPixel(Tensor),
}

impl InputNormalisation {
    /// `mean` and `scale` have `inputs` values or one for all.
    pub fn new(mean: &[f64], scale: &[f64], inputs: usize, arithmetic: &Arithmetic) -> Result<Self, NetworkError> {
        let mean = for_all_pixels("input_mean", mean, inputs)?;
        let scale = for_all_pixels("input_scale", scale, inputs)?;
        check_finite("input_mean", &mean)?;
        check_positive("input_scale", &scale)?;
        let row = |values: Vec<f64>| {
            Tensor::from_vec(values, (1, inputs), &arithmetic.device())?.to_dtype(arithmetic.precision.dtype())
        };
        let first = scale.first().copied().unwrap_or(1.0);
        let inverse_scale = if scale.iter().all(|s| *s == first) {
            InverseScale::Uniform(1.0 / first)
        } else {
            InverseScale::ByPixel(row(scale.iter().map(|s| 1.0 / s).collect())?)
        };
        Ok(Self {
            mean,
            scale,
            inverse_scale,
        })
    }

    /// The same on a device.
    pub fn on(&self, device: &Device) -> Result<Self, NetworkError> {
        let mut moved = self.clone();
        if let InverseScale::ByPixel(row) = &self.inverse_scale {
            moved.inverse_scale = InverseScale::ByPixel(row.to_device(device)?);
        }
        Ok(moved)
    }

    /// The network's input of spectra, `[batch * D]`. In f64, and rounded once: of a flux far from 0 little is left of what f32 would have
    /// rounded before.
    pub fn apply<T: WithDType>(&self, flux: &[f64]) -> Vec<T> {
        let mut input = Vec::with_capacity(flux.len());
        for spectrum in flux.chunks_exact(self.mean.len().max(1)) {
            let pixels = spectrum.iter().zip(self.mean.iter().zip(&self.scale));
            input.extend(pixels.map(|(flux, (mean, scale))| T::from_f64((flux - mean) / scale)));
        }
        input
    }

    /// `1 / scale`.
    pub fn inverse_scale(&self) -> &InverseScale {
        &self.inverse_scale
    }
}

/// One value a pixel.
fn for_all_pixels(what: &'static str, values: &[f64], inputs: usize) -> Result<Vec<f64>, NetworkError> {
    match values.len() {
        n if n == inputs => Ok(values.to_vec()),
        1 => Ok(vec![values[0]; inputs]),
        count => Err(NetworkError::NormalisationLength { what, count, inputs }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Precision;

    const F64: Arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };

    #[test]
    fn one_value_serves_all_pixels() {
        for scale in [vec![0.5], vec![0.5; 3], vec![0.5, 1.0, 2.0]] {
            let normalisation = InputNormalisation::new(&[1.0], &scale, 3, &F64).unwrap();
            let x: Vec<f64> = normalisation.apply(&[1.0, 2.0, 4.0]);
            let expected = if scale.len() == 3 && scale[2] == 2.0 {
                [0.0, 1.0, 1.5]
            } else {
                [0.0, 2.0, 6.0]
            };
            assert_eq!(x, expected);
        }
    }

    #[test]
    fn a_wrong_length_carries_both_sides() {
        let said = InputNormalisation::new(&[0.0, 1.0], &[1.0], 3, &F64)
            .unwrap_err()
            .to_string();
        assert_eq!(
            said,
            "input_mean has 2 values, the network takes 3 (or a single one for all)"
        );
        let said = InputNormalisation::new(&[0.0], &[1.0, 0.0, 1.0], 3, &F64)
            .unwrap_err()
            .to_string();
        assert_eq!(said, "input_scale[1] is 0; it must be a finite number above 0");
        assert!(InputNormalisation::new(&[f64::NAN], &[1.0], 3, &F64).is_err());
    }
}
