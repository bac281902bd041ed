//! Activations: value and first and second derivative of each, element by element.
//!
//! Derivatives at a kink are taken from the left (0 for `relu` at 0), and 0 at both ends of `clipped_relu`. Second derivatives at a kink, where
//! there is none, are 0.

use candle_core::{DType, Result, Tensor};

use crate::blocks::element_wise;
use crate::in_place::{Change, change_by};
use crate::scratch::Number;

/// An element-wise nonlinearity. Its names are those of [`crate::LayerSpec`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`; 0 where x is not a number, which torch keeps.
    Relu,
    /// `x` above 0, `slope * x` below.
    LeakyRelu {
        /// Slope below 0.
        slope: f64,
    },
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `x` above 0, `alpha * (exp(x) - 1)` below.
    Elu {
        /// Minus the limit at minus infinity.
        alpha: f64,
    },
    /// `x * Phi(x)`, Phi the normal distribution function (by erf, not its tanh approximation).
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `clip(x, 0, max)`.
    ClippedRelu {
        /// Upper end.
        max: f64,
    },
    /// `x`.
    Linear,
}

impl Activation {
    /// The activation of every element of `x`.
    ///
    /// # Errors
    /// Only where the device refuses.
    pub fn value(&self, x: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Relu => x.relu(),
            Self::LeakyRelu { slope } => x.gt(0.0)?.where_cond(x, &x.affine(slope, 0.0)?),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            // max(x, 0) + ln(1 + exp(-|x|)) does not overflow
            Self::Softplus => {
                let tail = |x: &Tensor| x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log();
                x.relu()?.add(&in_f64(x, tail)?)
            }
            Self::Elu { alpha } => in_f64(x, |x| x.elu(alpha)),
            Self::Gelu => x.mul(&normal_cdf(x)?),
            Self::Silu => x.mul(&sigmoid(x)?),
            Self::ClippedRelu { max } => x.clamp(0.0, max),
            Self::Linear => Ok(x.clone()),
        }
    }

    /// The derivative of the activation at every element of `x`.
    ///
    /// # Errors
    /// Only where the device refuses.
    pub fn derivative(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        Ok(match *self {
            Self::Relu => x.gt(0.0)?.to_dtype(dtype)?,
            Self::LeakyRelu { slope } => {
                let one = x.ones_like()?;
                x.gt(0.0)?.where_cond(&one, &one.affine(slope, 0.0)?)?
            }
            // 4 s'(2 x), with the slope s' of sigmoid: of 1 - tanh^2 the tails are rounding
            Self::Tanh => Self::Sigmoid.derivative(&x.affine(2.0, 0.0)?)?.affine(4.0, 0.0)?,
            Self::Sigmoid => {
                // exp(-|x|) / (1 + exp(-|x|))^2 keeps its digits in both tails
                let e = x.abs()?.neg()?.exp()?;
                e.div(&e.affine(1.0, 1.0)?.sqr()?)?
            }
            Self::Softplus => sigmoid(x)?,
            Self::Elu { alpha } => {
                let below = x.minimum(0.0)?.exp()?.affine(alpha, 0.0)?;
                x.gt(0.0)?.where_cond(&x.ones_like()?, &below)?
            }
            Self::Gelu => {
                let density = x.sqr()?.affine(-0.5, 0.0)?.exp()?;
                let tilt = x
                    .mul(&density)?
                    .affine(1.0 / (2.0 * std::f64::consts::PI).sqrt(), 0.0)?;
                normal_cdf(x)?.add(&tilt)?
            }
            Self::Silu => {
                // s (1 + x (1 - s))
                let s = sigmoid(x)?;
                let inner = x.mul(&s.affine(-1.0, 1.0)?)?.affine(1.0, 1.0)?;
                s.mul(&inner)?
            }
            Self::ClippedRelu { max } => x.gt(0.0)?.mul(&x.lt(max)?)?.to_dtype(dtype)?,
            Self::Linear => x.ones_like()?,
        })
    }

    /// Gradients at its value, `[S * batch, width]`, as those at its input, `[batch, width]`; on the CPU in their own memory.
    pub(crate) fn vjp(&self, grad: Tensor, input: &Tensor, threads: usize) -> Result<Tensor> {
        match self {
            Self::Linear => {}
            _ if !grad.device().is_cpu() => return self.vjp_elsewhere(&grad, input),
            Self::Relu => change_by(&grad, input, &TimesReluSlope, threads)?,
            _ => {
                let slope = element_wise(input, usize::MAX, threads, |_, x| self.derivative(x))?;
                change_by(&grad, &slope, &Times, threads)?;
            }
        }
        Ok(grad)
    }

    /// The same by candle's own operations, on whatever device.
    fn vjp_elsewhere(&self, grad: &Tensor, input: &Tensor) -> Result<Tensor> {
        let (rows, width) = input.dims2()?;
        let by_seed = grad.reshape(((), rows, width))?;
        by_seed.broadcast_mul(&self.derivative(input)?)?.reshape(grad.shape())
    }

    /// Whether the second derivative is 0 everywhere: an output of a network of such activations is linear in the weights of each layer.
    #[must_use]
    pub fn is_piecewise_linear(&self) -> bool {
        matches!(
            self,
            Self::Relu | Self::LeakyRelu { .. } | Self::ClippedRelu { .. } | Self::Linear
        )
    }

    /// The second derivative of the activation at every element of `x`; 0 at a kink.
    ///
    /// # Errors
    /// Only where the device refuses.
    pub fn second_derivative(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match *self {
            Self::Relu | Self::LeakyRelu { .. } | Self::ClippedRelu { .. } | Self::Linear => x.zeros_like()?,
            Self::Tanh => Self::Tanh.derivative(x)?.mul(&x.tanh()?.affine(-2.0, 0.0)?)?,
            // s'' = -s' tanh(x / 2)
            Self::Sigmoid => Self::Sigmoid.derivative(x)?.mul(&x.affine(0.5, 0.0)?.tanh()?.neg()?)?,
            Self::Softplus => Self::Sigmoid.derivative(x)?,
            Self::Elu { alpha } => {
                let below = x.minimum(0.0)?.exp()?.affine(alpha, 0.0)?;
                x.lt(0.0)?.where_cond(&below, &x.zeros_like()?)?
            }
            Self::Gelu => {
                // (2 - x^2) times the normal density, the square as two factors: the density vanishes before they overflow
                let density = x
                    .sqr()?
                    .affine(-0.5, 0.0)?
                    .exp()?
                    .affine(1.0 / (2.0 * std::f64::consts::PI).sqrt(), 0.0)?;
                density.affine(2.0, 0.0)?.sub(&x.mul(&density)?.mul(x)?)?
            }
            // s' (2 - x tanh(x / 2))
            Self::Silu => {
                let inner = x.mul(&x.affine(0.5, 0.0)?.tanh()?)?.affine(-1.0, 2.0)?;
                Self::Sigmoid.derivative(x)?.mul(&inner)?
            }
        })
    }
}

/// `relu` of numbers where they are.
pub(crate) struct Relu;

impl Change for Relu {
    const NAME: &'static str = "relu";

    fn apply<T: Number>(&self, to: &mut [T], _: &[T]) {
        for x in to {
            // As candle has it: a NaN becomes 0.
            *x = if *x > T::ZERO { *x } else { T::ZERO };
        }
    }
}

/// Gradients times the derivative of `relu` at its input.
struct TimesReluSlope;

impl Change for TimesReluSlope {
    const NAME: &'static str = "derivative of relu";

    fn apply<T: Number>(&self, grad: &mut [T], input: &[T]) {
        for (grad, x) in grad.iter_mut().zip(input) {
            *grad *= if *x > T::ZERO { T::from_f64(1.0) } else { T::ZERO };
        }
    }
}

/// Gradients times slopes.
struct Times;

impl Change for Times {
    const NAME: &'static str = "product with a slope";

    fn apply<T: Number>(&self, grad: &mut [T], slope: &[T]) {
        for (grad, slope) in grad.iter_mut().zip(slope) {
            *grad *= *slope;
        }
    }
}

/// `1 / (1 + exp(-x))`; an overflowing exponential gives 0, as it should.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.neg()?.exp()?.affine(1.0, 1.0)?.recip()
}

/// `(1 + erf(x / sqrt 2)) / 2`.
fn normal_cdf(x: &Tensor) -> Result<Tensor> {
    in_f64(x, |x| {
        x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)
    })
}

/// `f` of numbers in f64, where it ends in a difference that in f32 is rounding: far below 0, or near it.
fn in_f64(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(DType::F64)?)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const ALL: [Activation; 12] = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.01 },
        Activation::LeakyRelu { slope: 0.3 },
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Softplus,
        Activation::Elu { alpha: 1.0 },
        Activation::Elu { alpha: 0.7 },
        Activation::Gelu,
        Activation::Silu,
        Activation::ClippedRelu { max: 2.5 },
        Activation::Linear,
    ];

    fn tensor(x: &[f64]) -> Tensor {
        Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap()
    }

    fn value(activation: Activation, x: &[f64]) -> Vec<f64> {
        activation.value(&tensor(x)).unwrap().to_vec1().unwrap()
    }

    fn derivative(activation: Activation, x: &[f64]) -> Vec<f64> {
        activation.derivative(&tensor(x)).unwrap().to_vec1().unwrap()
    }

    fn second_derivative(activation: Activation, x: &[f64]) -> Vec<f64> {
        activation.second_derivative(&tensor(x)).unwrap().to_vec1().unwrap()
    }

    /// Points without a kink within a difference step.
    fn points() -> Vec<f64> {
        (-60..60).map(|i| f64::from(i) * 0.11 + 0.037).collect()
    }

    fn normal_density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// The normal distribution function: `phi(x) / (-x + 1 / (-x + 2 / (-x + ...)))` in the tail, where the series has lost its digits; elsewhere
    /// the series of erf, the terms summed until they vanish.
    fn cdf_by_hand(x: f64) -> f64 {
        if x < -3.0 {
            return normal_density(x) / (1..=100).rev().fold(-x, |below, n| -x + f64::from(n) / below);
        }
        let z = x / 2f64.sqrt();
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term.abs() > 1e-20 * sum.abs().max(1e-300) {
            n += 1.0;
            term *= -z * z / n * (2.0 * n - 1.0) / (2.0 * n + 1.0);
            sum += term;
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    }

    /// First and second derivative, not at a kink.
    fn derivatives_by_hand(activation: Activation, x: f64) -> [f64; 2] {
        let above = f64::from(x > 0.0);
        let s = 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Relu => [above, 0.0],
            Activation::LeakyRelu { slope } => [above + slope * (1.0 - above), 0.0],
            Activation::Tanh => [x.cosh().powi(-2), -2.0 * x.sinh() * x.cosh().powi(-3)],
            Activation::Sigmoid => [(2.0 + x.exp() + (-x).exp()).recip(), s * (1.0 - s) * (1.0 - 2.0 * s)],
            Activation::Softplus => [s, s * (1.0 - s)],
            Activation::Elu { alpha } => {
                let below = (1.0 - above) * alpha * x.exp();
                [above + below, below]
            }
            Activation::Gelu => [
                cdf_by_hand(x) + x * normal_density(x),
                (2.0 - x * x) * normal_density(x),
            ],
            Activation::Silu => [s + x * s * (1.0 - s), s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))],
            Activation::ClippedRelu { max } => [above * f64::from(x < max), 0.0],
            Activation::Linear => [1.0, 0.0],
        }
    }

    /// What a GPU is given says what the CPU's kernels say, here on the CPU too.
    #[test]
    fn gradients_by_candle_are_those_in_place() {
        let (rows, width, seeds) = (40, 3, 2);
        let input = tensor(&points()).reshape((rows, width)).unwrap();
        let grad: Vec<f64> = (0..seeds * rows * width).map(|i| (i as f64).sin()).collect();
        let grad = tensor(&grad).reshape((seeds * rows, width)).unwrap();
        for activation in ALL {
            let elsewhere = activation.vjp_elsewhere(&grad, &input).unwrap();
            let own = activation.vjp(grad.copy().unwrap(), &input, 2).unwrap();
            assert_eq!(
                elsewhere.to_vec2::<f64>().unwrap(),
                own.to_vec2::<f64>().unwrap(),
                "{activation:?}"
            );
        }
    }

    #[test]
    fn derivatives_are_central_differences() {
        let (x, h) = (points(), 1e-5);
        let up: Vec<f64> = x.iter().map(|x| x + h).collect();
        let down: Vec<f64> = x.iter().map(|x| x - h).collect();
        for activation in ALL {
            let (up, down) = (value(activation, &up), value(activation, &down));
            for (i, d) in derivative(activation, &x).into_iter().enumerate() {
                let difference = (up[i] - down[i]) / (2.0 * h);
                assert!(
                    (d - difference).abs() < 2e-10,
                    "{activation:?} at {}: {d} {difference}",
                    x[i]
                );
            }
        }
    }

    #[test]
    fn second_derivatives_are_central_differences_of_the_first() {
        let (x, h) = (points(), 1e-5);
        let up: Vec<f64> = x.iter().map(|x| x + h).collect();
        let down: Vec<f64> = x.iter().map(|x| x - h).collect();
        for activation in ALL {
            let (up, down) = (derivative(activation, &up), derivative(activation, &down));
            let found = second_derivative(activation, &x);
            assert_eq!(activation.is_piecewise_linear(), found.iter().all(|d| *d == 0.0));
            for (i, d) in found.into_iter().enumerate() {
                let difference = (up[i] - down[i]) / (2.0 * h);
                assert!(
                    (d - difference).abs() < 2e-10,
                    "{activation:?} at {}: {d} {difference}",
                    x[i]
                );
            }
        }
    }

    #[test]
    fn values_are_the_closed_forms() {
        let x: Vec<f64> = points().into_iter().filter(|x| x.abs() < 4.0).collect();
        for activation in ALL {
            for (i, v) in value(activation, &x).into_iter().enumerate() {
                let x = x[i];
                let expected = match activation {
                    Activation::Relu => x.max(0.0),
                    Activation::LeakyRelu { slope } => x.max(0.0) + slope * x.min(0.0),
                    Activation::Tanh => (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
                    Activation::Sigmoid => x.exp() / (1.0 + x.exp()),
                    Activation::Softplus => x.exp().ln_1p(),
                    Activation::Elu { alpha } => x.max(0.0) + alpha * x.min(0.0).exp_m1(),
                    Activation::Gelu => x * cdf_by_hand(x),
                    Activation::Silu => x * x.exp() / (1.0 + x.exp()),
                    Activation::ClippedRelu { max } => x.max(0.0).min(max),
                    Activation::Linear => x,
                };
                assert!((v - expected).abs() < 1e-12, "{activation:?} at {x}: {v} {expected}");
            }
        }
    }

    #[test]
    fn derivatives_are_the_closed_forms() {
        let x: Vec<f64> = points().into_iter().filter(|x| x.abs() < 4.0).collect();
        for activation in ALL {
            let found = derivative(activation, &x)
                .into_iter()
                .zip(second_derivative(activation, &x));
            for ((first, second), &x) in found.zip(&x) {
                for (d, expected) in [first, second].into_iter().zip(derivatives_by_hand(activation, x)) {
                    assert!((d - expected).abs() < 1e-12, "{activation:?} at {x}: {d} {expected}");
                }
            }
        }
    }

    #[test]
    fn kinks_and_extremes_stay_finite() {
        let x = [-1e5, -800.0, 0.0, 2.5, 800.0, 1e5];
        for activation in ALL {
            let second = second_derivative(activation, &[-1e200, -1e5, -800.0, 800.0, 1e5, 1e200]);
            assert_eq!(second, [0.0; 6], "{activation:?}");
            for v in value(activation, &x).into_iter().chain(derivative(activation, &x)) {
                assert!(v.is_finite(), "{activation:?}");
            }
        }
        for kinked in [
            Activation::Relu,
            Activation::LeakyRelu { slope: 0.3 },
            Activation::Elu { alpha: 0.7 },
        ] {
            assert_eq!(second_derivative(kinked, &[0.0]), [0.0], "{kinked:?}");
        }
        assert_eq!(derivative(Activation::Relu, &[0.0]), [0.0]);
        assert_eq!(derivative(Activation::LeakyRelu { slope: 0.3 }, &[0.0]), [0.3]);
        assert_eq!(derivative(Activation::Elu { alpha: 0.7 }, &[0.0]), [0.7]);
        assert_eq!(
            derivative(Activation::ClippedRelu { max: 2.5 }, &[0.0, 1.0, 2.5, 3.0]),
            [0.0, 1.0, 0.0, 0.0]
        );
        assert_eq!(value(Activation::Softplus, &[800.0]), [800.0]);
    }

    #[test]
    fn derivatives_of_saturated_units_keep_the_digits_of_f32() {
        let narrow = |x: &[f64], derivative: &dyn Fn(&Tensor) -> Result<Tensor>| -> Vec<f64> {
            let found = derivative(&tensor(x).to_dtype(DType::F32).unwrap()).unwrap();
            assert_eq!(found.dtype(), DType::F32);
            found.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
        };
        let saturated: Vec<f64> = (10..=24).map(|i| 0.5 * f64::from(i)).collect();
        for (slope, x) in narrow(&saturated, &|x| Activation::Tanh.derivative(x))
            .into_iter()
            .zip(&saturated)
        {
            let expected = x.cosh().powi(-2);
            assert!((slope / expected - 1.0).abs() < 1e-5, "{x}: {slope:e} {expected:e}");
        }
        for (activation, x, expected) in [
            (Activation::Softplus, -20.0, (-20_f64).exp().ln_1p()),
            (Activation::Softplus, -9.5, (-9.5_f64).exp().ln_1p()),
            (Activation::Elu { alpha: 0.7 }, -1e-5, 0.7 * (-1e-5_f64).exp_m1()),
        ] {
            let found = narrow(&[x], &|x| activation.value(x))[0];
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{activation:?} at {x}: {found:e} {expected:e}"
            );
        }
        let leaky = Activation::LeakyRelu { slope: 0.01 };
        let slopes = narrow(&[2.0, -2.0], &|x| leaky.derivative(x));
        assert_eq!(slopes, [1.0, f64::from(0.01_f32)]);
        // Beyond all roots.
        let tails: Vec<f64> = (6..=12).map(|i| 0.5 * f64::from(i)).flat_map(|x| [-x, x]).collect();
        for activation in ALL {
            let first = narrow(&tails, &|x| activation.derivative(x));
            let second = narrow(&tails, &|x| activation.second_derivative(x));
            for ((first, second), &x) in first.into_iter().zip(second).zip(&tails) {
                for (found, expected) in [first, second].into_iter().zip(derivatives_by_hand(activation, x)) {
                    let apart = (found - expected).abs();
                    assert!(
                        apart <= 1e-5 * expected.abs(),
                        "{activation:?} at {x}: {found:e} {expected:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn f32_follows_f64() {
        let x = points();
        for activation in ALL {
            let narrow = tensor(&x).to_dtype(DType::F32).unwrap();
            let v: Vec<f64> = activation
                .value(&narrow)
                .unwrap()
                .to_dtype(DType::F64)
                .unwrap()
                .to_vec1()
                .unwrap();
            for (v, expected) in v.into_iter().zip(value(activation, &x)) {
                assert!((v - expected).abs() < 2e-6, "{activation:?}: {v} {expected}");
            }
        }
    }
}
