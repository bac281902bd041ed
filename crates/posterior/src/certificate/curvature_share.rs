//! How much of a symmetric operator's spectrum is below zero, by stochastic Lanczos quadrature.
//!
//! `m` steps of Lanczos from a random unit vector v give a tridiagonal T, with eigenvalues `theta_i` and eigenvectors whose first components
//! `tau_i` weigh them: `sum_i tau_i^2 f(theta_i)` estimates `tr f(A) / p` (Ubaru, Chen and Saad 2017, doi:10.1137/16M1104974). With every vector
//! orthogonalised against all before it; memory `m` vectors.
//!
//! The share counted is the least that the steps leave possible ([`Tridiagonal::share_up_to`](fisherflow_curvature::Tridiagonal::share_up_to)): few of them
//! have one node for all that is near 0, on whichever side.

use fisherflow_curvature::{Lanczos, Ritz};
use serde::{Deserialize, Serialize};

use crate::PosteriorError;

/// The negative part of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvatureShare {
    /// Lanczos steps taken.
    pub steps: u64,
    /// Share of the spectral weight that is below zero by more than rounding: no less than this.
    pub negative: f64,
    /// The lowest Ritz value: never below the lowest eigenvalue.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

/// Of `scale A + diag(prior)`, by at most `steps` steps of Lanczos; `times` is `A v`, whose error is `relative_rounding` of the largest eigenvalue.
/// Most eigenvalues are the prior's, and where that is less than rounding it turns any of them below zero. The start is always the same.
///
/// # Errors
/// Whatever `times` fails with; eigenvalues that do not converge.
pub fn curvature_share<E: From<PosteriorError>>(
    (scale, prior): (f64, &[f64]),
    steps: usize,
    relative_rounding: f64,
    mut times: impl FnMut(&[f64]) -> Result<Vec<f64>, E>,
) -> Result<CurvatureShare, E> {
    let mut lanczos = Lanczos::new(start(prior.len()));
    while lanczos.steps() < steps
        && let Some(v) = lanczos.direction()
    {
        let mut image = times(v)?;
        for ((image, v), prior) in image.iter_mut().zip(v).zip(prior) {
            *image = scale * *image + prior * v;
        }
        lanczos.step(image);
    }
    let ritz = lanczos.tridiagonal().ritz().map_err(PosteriorError::from)?;
    let end = |ritz: Option<&Ritz>| ritz.map_or(0.0, |ritz| ritz.value);
    let (lowest, highest) = (end(ritz.first()), end(ritz.last()));
    let rounding = relative_rounding * lowest.abs().max(highest.abs());
    let below = lanczos.tridiagonal().share_up_to(-rounding);
    let [negative, _] = below.map_err(PosteriorError::from)?;
    Ok(CurvatureShare {
        steps: lanczos.steps() as u64,
        negative,
        lowest,
        highest,
    })
}

/// Numbers uniform in (-1, 1), always the same (splitmix64; Steele, Lea and Flood 2014).
pub(super) fn start(len: usize) -> Vec<f64> {
    let mut state = 0_u64;
    let mut number = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..len).map(|_| number()).collect()
}
