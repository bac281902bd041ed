//! The photons' part of the error: `C_flux = J_x diag(variance) J_x^T` for each spectrum, summed in f64.

use candle_core::{DType, Tensor, WithDType};
use fisherflow_network::{Backward, Network};

use crate::PosteriorError;
use crate::labels::weighted_gram::{WeightedGram, weighted_gram_elsewhere};
use crate::structures::captures::with_values;

/// `[batch, K, K]`, row-major, exactly symmetric, in the units of the labels squared.
///
/// `input_jacobian`: `[K, batch, D]` in f32 or f64, label unit per flux unit; `variance`: `[batch, D]`, flux unit squared.
///
/// # Errors
/// If the sizes do not agree, the Jacobian is of another type, or a variance is negative or not finite: a masked pixel must have been
/// given a variance before.
pub fn flux_covariance(input_jacobian: &Tensor, variance: &[f64]) -> Result<Vec<f64>, PosteriorError> {
    let &[_, _, pixels] = input_jacobian.dims() else {
        return Err(PosteriorError::Shape {
            what: "the input Jacobian".to_owned(),
            expected: vec![0, 0, 0],
            found: input_jacobian.dims().to_vec(),
        });
    };
    check(variance, pixels)?;
    covariance_of(input_jacobian, variance)
}

/// The same, bit by bit, of a backward pass of [`InputJacobian::InBlocks`](fisherflow_network::InputJacobian::InBlocks): J_x is made some spectra
/// at a time, and is gone before it leaves the cache.
///
/// # Errors
/// As [`flux_covariance`]; a backward pass that was not asked for blocks.
pub fn flux_covariance_in_blocks(
    network: &Network,
    backward: &Backward,
    variance: &[f64],
) -> Result<Vec<f64>, PosteriorError> {
    let pixels = network.n_inputs();
    check(variance, pixels)?;
    let mut covariance = Vec::with_capacity(variance.len() / pixels.max(1) * network.n_labels().pow(2));
    network.jacobian_blocks(backward, |first, jacobian| {
        let n = jacobian.dim(1)?;
        let variance = variance.get(first * pixels..(first + n) * pixels);
        covariance.extend(covariance_of(jacobian, variance.unwrap_or_default())?);
        Ok::<_, PosteriorError>(())
    })?;
    Ok(covariance)
}

/// Refuses a variance that is none.
fn check(variance: &[f64], pixels: usize) -> Result<(), PosteriorError> {
    let is_variance = |v: &f64| *v >= 0.0 && *v < f64::INFINITY;
    // All of many at once: one by one only where one is none.
    let are_variances = |values: &[f64]| values.iter().fold(true, |all, v| all & is_variance(v));
    if variance.chunks(1024).all(are_variances) {
        return Ok(());
    }
    if let Some(at) = variance.iter().position(|v| !is_variance(v)) {
        return Err(PosteriorError::Value {
            what: "the flux variance",
            row: at / pixels.max(1),
            value: variance[at],
            remedy: "a pixel's variance must be finite and 0 or larger; give masked pixels the population's",
        });
    }
    Ok(())
}

fn covariance_of(input_jacobian: &Tensor, variance: &[f64]) -> Result<Vec<f64>, PosteriorError> {
    let (k, batch, pixels) = input_jacobian.dims3()?;
    if variance.len() != batch * pixels {
        return Err(PosteriorError::Shape {
            what: "the flux variance".to_owned(),
            expected: vec![batch, pixels],
            found: vec![variance.len()],
        });
    }
    let jacobian = input_jacobian.contiguous()?;
    match jacobian.dtype() {
        DType::F32 | DType::F64 if !jacobian.device().is_cpu() => elsewhere(&jacobian, variance),
        DType::F32 => with_values(&jacobian, |j: &[f32]| contract(j, variance, k, batch, pixels)),
        DType::F64 => with_values(&jacobian, |j: &[f64]| contract(j, variance, k, batch, pixels)),
        other => Err(PosteriorError::Type {
            what: "the input Jacobian".to_owned(),
            found: other.as_str().to_owned(),
        }),
    }
}

/// On whatever device.
fn elsewhere(jacobian: &Tensor, variance: &[f64]) -> Result<Vec<f64>, PosteriorError> {
    let (_, batch, pixels) = jacobian.dims3()?;
    let variance = Tensor::from_slice(variance, (batch, pixels), jacobian.device())?;
    Ok(weighted_gram_elsewhere(jacobian, &variance)?)
}

fn contract<T: WithDType>(jacobian: &[T], variance: &[f64], k: usize, batch: usize, pixels: usize) -> Vec<f64> {
    let mut covariance = vec![0.0; batch * k * k];
    if pixels == 0 {
        return covariance;
    }
    let mut gram = WeightedGram::new(k);
    let spectra = variance.chunks_exact(pixels).zip(covariance.chunks_exact_mut(k * k));
    for (n, (variance, covariance)) in spectra.enumerate() {
        gram.write(
            |row| &jacobian[(row * batch + n) * pixels..][..pixels],
            variance,
            covariance,
        );
    }
    covariance
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fisherflow_network::{Activation, Arithmetic, InputJacobian, Labels};

    use super::*;
    use crate::brute_force::Numbers;

    #[test]
    fn it_is_the_direct_sum() {
        let (k, batch, pixels) = (3, 5, 37);
        let mut numbers = Numbers::new(3);
        let j: Vec<f64> = (0..k * batch * pixels).map(|_| numbers.next()).collect();
        let v: Vec<f64> = (0..batch * pixels).map(|_| numbers.next().abs()).collect();
        let tensor = Tensor::from_slice(&j, (k, batch, pixels), &Device::Cpu).unwrap();
        let found = flux_covariance(&tensor, &v).unwrap();
        let single = flux_covariance(&tensor.to_dtype(DType::F32).unwrap(), &v).unwrap();
        for n in 0..batch {
            for a in 0..k {
                for b in 0..k {
                    let direct: f64 = (0..pixels)
                        .map(|d| j[(a * batch + n) * pixels + d] * v[n * pixels + d] * j[(b * batch + n) * pixels + d])
                        .sum();
                    let at = (n * k + a) * k + b;
                    assert!((found[at] - direct).abs() < 1e-13);
                    assert!((single[at] - direct).abs() < 1e-5);
                }
            }
        }
        // What a GPU is given, here on the CPU too.
        let elsewhere = elsewhere(&tensor, &v).unwrap();
        assert!(elsewhere.iter().zip(&found).all(|(x, y)| (x - y).abs() < 1e-13));
        assert!((0..batch).all(|n| elsewhere[n * k * k + 1] == elsewhere[n * k * k + k]));
        // A view that is not contiguous is the same Jacobian.
        let turned = tensor.transpose(0, 1).unwrap().contiguous().unwrap();
        let view = turned.transpose(0, 1).unwrap();
        assert_eq!(flux_covariance(&view, &v).unwrap(), found);
    }

    #[test]
    fn blocks_have_the_bits_of_the_whole() {
        let (widths, batch) = ([31, 20, 3], 200);
        let mut numbers = Numbers::new(5);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| numbers.next().abs() + 0.1).collect() };
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let (flux, variance) = (draw(batch * 31), draw(batch * 31));
        for scale in [vec![0.5], draw(31)] {
            let labels = Labels::unscaled(names.clone(), vec![String::new(); 3]);
            let arithmetic = Arithmetic::default();
            let network = Network::he_normal(&widths, Activation::Relu, labels, &[0.3], &scale, 1, arithmetic).unwrap();
            for network in [network.clone(), network.with_packed_weights()] {
                let forward = network.forward(&flux).unwrap();
                let whole = network.backward(&forward, InputJacobian::Wanted).unwrap();
                let blocks = network.backward(&forward, InputJacobian::InBlocks).unwrap();
                assert!(blocks.input_jacobian.is_none());
                let expected = flux_covariance(whole.input_jacobian.as_ref().unwrap(), &variance).unwrap();
                assert_eq!(
                    flux_covariance_in_blocks(&network, &blocks, &variance).unwrap(),
                    expected
                );
                assert!(flux_covariance_in_blocks(&network, &blocks, &variance[31..]).is_err());
                assert!(flux_covariance_in_blocks(&network, &whole, &variance).is_err());
            }
        }
    }

    #[test]
    fn a_variance_that_is_none_is_named() {
        let j = Tensor::ones((1, 2, 3), DType::F64, &Device::Cpu).unwrap();
        for bad in [f64::NAN, -1.0, f64::INFINITY] {
            let error = flux_covariance(&j, &[1.0, 1.0, 1.0, 1.0, bad, 1.0]).unwrap_err();
            assert!(error.to_string().starts_with("row 1 of the flux variance"));
        }
        assert!(flux_covariance(&j, &[1.0]).is_err());
        assert!(flux_covariance(&j.flatten_all().unwrap(), &[1.0; 6]).is_err());
        assert!(flux_covariance(&j.to_dtype(DType::U8).unwrap(), &[1.0; 6]).is_err());
    }
}
