//! `-2 ln likelihood` of residuals `r_n ~ N(0, T_n)` and its slope by the covariances: what is climbed to find a scatter.
//!
//! `sum_n ln det T_n + r_n . w_n` with `w_n = T_n^-1 r_n`; its derivative by `T_n` is `G_n = T_n^-1 - w_n w_n^T`.

use fisherflow_kernels::run_all;
use fisherflow_network::product::in_wide_registers;

use crate::labels::small::{Inversion, add_outer, dot, product};

/// Operations worth handing to another core.
const OPERATIONS: usize = 1 << 20;

/// Sums over stars.
pub(crate) struct Deviance {
    pub(crate) value: f64,
    /// `sum G_n`, `[K, K]`.
    pub(crate) slope: Vec<f64>,
    /// What else was summed of each `G_n`.
    pub(crate) more: Vec<f64>,
}

/// What is summed of stars with residuals of K labels.
pub(crate) trait Residuals: Sync {
    type Star: Sync;

    /// `[K]`.
    fn residual<'s>(&self, star: &'s Self::Star) -> &'s [f64];

    /// `T_n`, `[K, K]`.
    fn covariance(&self, star: &Self::Star, to: &mut [f64]);

    /// Adds what else is wanted of `G_n`.
    fn add_more(&self, _star: &Self::Star, _g: &[f64], _more: &mut [f64]) {}
}

/// Over all stars, some at a time on every core that is free, in an order that does not depend on these; `None` where a `T_n` is not positive definite.
pub(crate) fn deviance<R: Residuals>(of: &R, stars: &[R::Star], k: usize, n_more: usize) -> Option<Deviance> {
    let at_once = (OPERATIONS / (k + 1).pow(3)).max(1);
    let mut parts: Vec<Option<Deviance>> = Vec::new();
    parts.resize_with(stars.len().div_ceil(at_once), || None);
    let jobs = parts
        .iter_mut()
        .zip(stars.chunks(at_once))
        .map(|(part, stars)| move || *part = in_wide_registers(|| of_some(of, stars, k, n_more)));
    run_all(jobs.collect(), 1);
    let mut sum = Deviance {
        value: 0.0,
        slope: vec![0.0; k * k],
        more: vec![0.0; n_more],
    };
    for part in parts {
        let part = part?;
        sum.value += part.value;
        sum.slope
            .iter_mut()
            .zip(&part.slope)
            .for_each(|(sum, part)| *sum += part);
        sum.more.iter_mut().zip(&part.more).for_each(|(sum, part)| *sum += part);
    }
    Some(sum)
}

#[inline(always)]
fn of_some<R: Residuals>(of: &R, stars: &[R::Star], k: usize, n_more: usize) -> Option<Deviance> {
    let (mut total, mut weighted, mut inversion) = (vec![0.0; k * k], vec![0.0; k], Inversion::new(k));
    let (mut value, mut slope, mut more) = (0.0, vec![0.0; k * k], vec![0.0; n_more]);
    for star in stars {
        of.covariance(star, &mut total);
        let log_det = inversion.of(&total)?;
        let (g, residual) = (&mut inversion.inverse, of.residual(star));
        for (weighted, row) in weighted.iter_mut().zip(g.chunks_exact(k)) {
            *weighted = dot(row, residual);
        }
        value += log_det + dot(residual, &weighted);
        add_outer(g, &weighted, -1.0);
        slope.iter_mut().zip(&*g).for_each(|(sum, g)| *sum += g);
        of.add_more(star, g, &mut more);
    }
    Some(Deviance { value, slope, more })
}

/// The derivative by the lower factor L of `C = L L^T`, a part of every `T_n`, over so many stars: `2 (sum G_n) L / n`, lower triangle.
pub(crate) fn by_lower_factor(slope: &[f64], factor: &[f64], k: usize, n: f64) -> impl Iterator<Item = f64> {
    let product = product(slope, factor, k);
    let lower = move |(i, g): (usize, f64)| if i % k <= i / k { 2.0 * g / n } else { 0.0 };
    product.into_iter().enumerate().map(lower)
}
