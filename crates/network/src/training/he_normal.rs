//! Fresh weights: He normal, as Keras' `he_normal`, with biases 0.
//!
//! He et al. 2015 (arXiv:1502.01852): variance `2 / fan_in`. As in Keras, the normal is cut at two standard deviations and widened
//! so that its variance is `2 / fan_in` after the cut.

use candle_core::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::arithmetic::{Arithmetic, Precision};
use crate::error::NetworkError;
use crate::labels::Labels;
use crate::layers::activation::Activation;
use crate::layers::chain::Weights;
use crate::layers::spec::LayerSpec;
use crate::network::Network;

/// Standard deviation of a standard normal cut at -2 and 2.
const CUT_NORMAL_STD: f64 = 0.879_625_661_034_239_8;

impl Network {
    /// A network of fresh weights: dense layers of the given widths (input, hidden ones, output) with `activation` between them, called
    /// `layers.0`, `layers.2`, ... The same seed gives the same weights on any machine; f32 weights are those of f64, rounded.
    ///
    /// # Errors
    /// Widths that describe no network, labels or normalisation that do not fit it.
    pub fn he_normal(
        widths: &[usize],
        activation: Activation,
        labels: Labels,
        input_mean: &[f64],
        input_scale: &[f64],
        seed: u64,
        arithmetic: Arithmetic,
    ) -> Result<Self, NetworkError> {
        if widths.len() < 2 || widths.contains(&0) {
            return Err(NetworkError::Widths {
                widths: widths.to_vec(),
            });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let device = arithmetic.device();
        let mut specs = Vec::new();
        let mut weights = Vec::new();
        for pair in widths.windows(2) {
            let (inputs, outputs) = (pair[0], pair[1]);
            if !specs.is_empty() {
                specs.push(LayerSpec::Activation(activation));
            }
            let name = format!("layers.{}", specs.len());
            specs.push(LayerSpec::Dense);
            let std = (2.0 / inputs as f64).sqrt() / CUT_NORMAL_STD;
            let draws = std::iter::repeat_with(|| std * cut_normal(&mut rng)).take(outputs * inputs);
            let weight = match arithmetic.precision {
                Precision::F32 | Precision::Auto | Precision::Bf16x3 | Precision::Bf16 => {
                    Tensor::from_vec(draws.map(|w| w as f32).collect::<Vec<_>>(), (outputs, inputs), &device)?
                }
                Precision::F64 => Tensor::from_vec(draws.collect::<Vec<f64>>(), (outputs, inputs), &device)?,
            };
            let bias = Tensor::zeros(outputs, arithmetic.precision.dtype(), &device)?;
            weights.push(Weights {
                name,
                weight,
                bias: Some(bias),
            });
        }
        let labels = |outputs| labels.check(outputs).map(|()| labels);
        Self::assemble(&specs, weights, labels, input_mean, input_scale, arithmetic)
    }
}

/// A standard normal between -2 and 2.
fn cut_normal(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let z: f64 = rng.sample(StandardNormal);
        if z.abs() <= 2.0 {
            return z;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(widths: &[usize], seed: u64, precision: Precision) -> Vec<f64> {
        let n = widths[widths.len() - 1];
        let labels = Labels::unscaled((0..n).map(|k| k.to_string()).collect(), vec![String::new(); n]);
        let arithmetic = Arithmetic { precision, threads: 1 };
        let network = Network::he_normal(widths, Activation::Relu, labels, &[0.0], &[1.0], seed, arithmetic).unwrap();
        let (weight, bias) = network.dense_weights(0).unwrap();
        let all = |t: &Tensor| -> Vec<f64> {
            t.to_dtype(candle_core::DType::F64)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        assert!(all(bias.unwrap()).iter().all(|b| *b == 0.0));
        all(weight)
    }

    #[test]
    fn variance_is_two_over_the_inputs_and_nothing_lies_beyond_the_cut() {
        let w = weights(&[200, 1000], 3, Precision::F64);
        let n = w.len() as f64;
        let mean = w.iter().sum::<f64>() / n;
        let variance = w.iter().map(|w| w * w).sum::<f64>() / n;
        assert!(mean.abs() < 4.0 * (0.01 / n).sqrt(), "{mean}");
        // the cut normal's fourth moment makes the relative error of the variance about 1.06 / sqrt(n)
        assert!((variance / 0.01 - 1.0).abs() < 4.5 / n.sqrt(), "{variance}");
        let cut = 2.0 * 0.1 / CUT_NORMAL_STD;
        assert!(w.iter().all(|w| w.abs() <= cut) && w.iter().any(|w| w.abs() > 0.99 * cut));
    }

    #[test]
    fn the_seed_decides() {
        let first = weights(&[30, 20, 2], 3, Precision::F64);
        assert_eq!(first, weights(&[30, 20, 2], 3, Precision::F64));
        assert_ne!(first, weights(&[30, 20, 2], 4, Precision::F64));
        let narrow = weights(&[30, 20, 2], 3, Precision::F32);
        assert!(first.iter().zip(&narrow).all(|(a, b)| *a as f32 == *b as f32));
    }

    #[test]
    fn widths_that_are_none_are_refused() {
        for widths in [&[][..], &[3], &[3, 0, 1]] {
            let labels = Labels::unscaled(vec!["a".into()], vec![String::new()]);
            let refused = Network::he_normal(
                widths,
                Activation::Relu,
                labels,
                &[0.0],
                &[1.0],
                0,
                Arithmetic::default(),
            );
            assert!(matches!(refused, Err(NetworkError::Widths { .. })));
        }
    }
}
