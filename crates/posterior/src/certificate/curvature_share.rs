//! How much of a symmetric operator's spectrum is below zero, by stochastic Lanczos quadrature.
//!
//! `m` steps of Lanczos from a random unit vector v give a tridiagonal T, with eigenvalues `theta_i` and eigenvectors whose first components
//! `tau_i` weigh them: `sum_i tau_i^2 f(theta_i)` estimates `tr f(A) / p` (Ubaru, Chen and Saad 2017, doi:10.1137/16M1104974). With every vector
//! orthogonalised against all before it; memory `m` vectors.

use fisherflow_curvature::Matrix;
use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::eigen::symmetric;
use crate::product::dot;

/// The negative part of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvatureShare {
    /// Lanczos steps taken.
    pub steps: u64,
    /// Share of the spectral weight below zero.
    pub negative: f64,
    /// The lowest Ritz value: never below the lowest eigenvalue.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

/// Of `scale A + diag(prior)`, by at most `steps` steps of Lanczos; `times` is `A v`. The start is always the same.
///
/// # Errors
/// Whatever `times` fails with; eigenvalues that do not converge.
pub fn curvature_share<E: From<PosteriorError>>(
    (scale, prior): (f64, &[f64]),
    steps: usize,
    mut times: impl FnMut(&[f64]) -> Result<Vec<f64>, E>,
) -> Result<CurvatureShare, E> {
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(steps);
    let (mut diagonal, mut beside): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = start(prior.len());
    let mut largest = 0.0_f64;
    while vectors.len() < steps.min(prior.len()) {
        let norm = dot(&next, &next).sqrt();
        if !vectors.is_empty() {
            // What is left is rounding: the Krylov space is exhausted.
            if norm <= 1e-12 * largest {
                break;
            }
            beside.push(norm);
        }
        next.iter_mut().for_each(|value| *value /= norm);
        let mut image = times(&next)?;
        for ((image, v), prior) in image.iter_mut().zip(&next).zip(prior) {
            *image = scale * *image + prior * v;
        }
        diagonal.push(dot(&next, &image));
        largest = largest.max(dot(&image, &image).sqrt());
        vectors.push(next);
        for _ in 0..2 {
            for vector in &vectors {
                let along = dot(vector, &image);
                image.iter_mut().zip(vector).for_each(|(value, v)| *value -= along * v);
            }
        }
        next = image;
    }
    let m = diagonal.len();
    let mut values = vec![0.0; m * m];
    for i in 0..m {
        values[i * m + i] = diagonal[i];
        if i + 1 < m {
            values[i * m + i + 1] = beside[i];
            values[(i + 1) * m + i] = beside[i];
        }
    }
    let tridiagonal = Matrix {
        rows: m,
        cols: m,
        values,
    };
    let (ritz, eigenvectors) = symmetric(&tridiagonal, "the Lanczos matrix of all weights")?;
    let weights = ritz.iter().zip(&eigenvectors[..m]);
    Ok(CurvatureShare {
        steps: m as u64,
        negative: weights
            .filter(|(ritz, _)| **ritz < 0.0)
            .map(|(_, first)| first * first)
            .sum(),
        lowest: ritz.first().copied().unwrap_or(0.0),
        highest: ritz.last().copied().unwrap_or(0.0),
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
