//! The Lanczos process on a symmetric matrix H that is known by its products alone, with full reorthogonalisation.
//!
//! From a start v it builds an orthonormal basis Q of the Krylov space and `T = Q^T H Q`, tridiagonal. With T's eigenpairs (theta, s):
//!
//! ```text
//! Ritz value   theta, an approximate eigenvalue: extreme ones converge first
//! residual     |H u - theta u| = beta_m |s_m|,  u = Q s:  an eigenvalue of H lies within it of theta
//! weight       s_1^2: the nodes of the Gauss quadrature v^T f(H) v = sum s_1^2 f(theta)
//! ```
//!
//! How much of v lies in the eigenvectors up to some x is known within the weight that x has as a node of the quadrature with a node prescribed there, T
//! with one more row whose diagonal makes x an eigenvalue (Gauss and Radau): no less than the nodes below it have, and no more than with it (Chebyshev,
//! Markov and Stieltjes).
//!
//! Golub and Van Loan, Matrix Computations, 10.1; Golub and Meurant (2010) for the quadratures.

use crate::CurvatureError;
use crate::orthonormal::{dot, eigenpairs, norm, orthogonalise, scale};

/// What is left of a vector below this share of the matrix's size is rounding: the Krylov space is complete.
const COMPLETE: f64 = 1e-13;

/// A diagonal so many times the matrix's size has its node out of the way, and one of the others at x.
const OUT_OF_THE_WAY: f64 = 1e4;

/// An approximate eigenvalue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ritz {
    /// `theta`.
    pub value: f64,
    /// `s_1^2`; adds up to 1 over all.
    pub weight: f64,
    /// `|H u - theta u|`, for exact products.
    pub residual: f64,
}

/// The process, between two products.
#[derive(Clone, Debug)]
pub struct Lanczos {
    /// Orthonormal; the last one waits for its product.
    basis: Vec<Vec<f64>>,
    t: Tridiagonal,
    /// The largest product so far.
    size: f64,
}

/// T, and what couples it to what is not yet in the basis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tridiagonal {
    alpha: Vec<f64>,
    /// `beta[j]` couples j and j + 1; the last one couples to what is not yet in the basis.
    beta: Vec<f64>,
}

impl Lanczos {
    /// Starts from `v`, which needs no unit length.
    #[must_use]
    pub fn new(mut v: Vec<f64>) -> Self {
        let length = norm(&v);
        if length > 0.0 {
            scale(&mut v, 1.0 / length);
        }
        Self {
            basis: vec![v],
            t: Tridiagonal::default(),
            size: 0.0,
        }
    }

    /// The vector whose product with H is the next step; `None` once the Krylov space is complete, and its Ritz values are eigenvalues.
    #[must_use]
    pub fn direction(&self) -> Option<&[f64]> {
        (self.basis.len() > self.steps())
            .then(|| self.basis.last().map(Vec::as_slice))
            .flatten()
    }

    /// Goes on with the product of H and [`Lanczos::direction`].
    pub fn step(&mut self, mut product: Vec<f64>) {
        let Some(direction) = self.direction() else {
            return;
        };
        self.t.alpha.push(dot(direction, &product));
        self.size = self.size.max(norm(&product));
        orthogonalise(&mut product, &self.basis);
        let beta = norm(&product);
        if beta <= COMPLETE * self.size || self.basis.len() >= product.len() {
            self.t.beta.push(0.0);
            return;
        }
        self.t.beta.push(beta);
        scale(&mut product, 1.0 / beta);
        self.basis.push(product);
    }

    /// Steps done.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.t.alpha.len()
    }

    /// T so far.
    #[must_use]
    pub fn tridiagonal(&self) -> &Tridiagonal {
        &self.t
    }

    /// `v^T H v` of the unit start; 0 before the first step.
    #[must_use]
    pub fn quadratic_form(&self) -> f64 {
        self.t.alpha.first().copied().unwrap_or(0.0)
    }
}

impl Tridiagonal {
    /// The Ritz values, ascending; none before the first step.
    ///
    /// # Errors
    /// A product was not finite.
    pub fn ritz(&self) -> Result<Vec<Ritz>, CurvatureError> {
        let m = self.alpha.len();
        let (values, vectors) = self.eigenpairs(None)?;
        let last = self.coupling();
        Ok(values
            .into_iter()
            .zip(vectors.chunks_exact(m.max(1)))
            .map(|(value, s)| Ritz {
                value,
                weight: s[0] * s[0],
                residual: last * s[m - 1].abs(),
            })
            .collect())
    }

    /// The least and the most of the squared unit start that can lie in eigenvectors of eigenvalues up to `x`; the same where the Krylov space is
    /// complete.
    ///
    /// # Errors
    /// A product was not finite.
    pub fn share_up_to(&self, x: f64) -> Result<[f64; 2], CurvatureError> {
        let beta = self.coupling();
        if beta == 0.0 {
            let up_to = self.ritz()?.into_iter().filter(|ritz| ritz.value <= x);
            let share = 0.0 + up_to.map(|ritz| ritz.weight).sum::<f64>();
            return Ok([share, share]);
        }
        // The last pivot of T - x.
        let mut pivot = f64::INFINITY;
        for (j, alpha) in self.alpha.iter().enumerate() {
            let coupled = if j == 0 { 0.0 } else { self.beta[j - 1].powi(2) / pivot };
            pivot = alpha - x - coupled;
        }
        let size = self
            .alpha
            .iter()
            .chain(&self.beta)
            .fold(x.abs(), |size, t| size.max(t.abs()));
        let diagonal = x + beta * beta / pivot;
        // Not a number where a pivot was 0, and the next infinite.
        let one_more = (diagonal.abs() <= OUT_OF_THE_WAY * size).then_some(diagonal);
        let (values, vectors) = self.eigenpairs(one_more)?;
        let Some(at) = (0..values.len()).min_by(|&a, &b| (values[a] - x).abs().total_cmp(&(values[b] - x).abs()))
        else {
            return Ok([0.0, 1.0]);
        };
        let weights = vectors.chunks_exact(values.len()).map(|s| s[0] * s[0]);
        let below = 0.0 + weights.clone().take(at).sum::<f64>();
        Ok([below, below + weights.skip(at).take(1).sum::<f64>()])
    }

    fn coupling(&self) -> f64 {
        self.beta.last().copied().unwrap_or(0.0)
    }

    /// Of T, with one more row where its diagonal is given.
    fn eigenpairs(&self, one_more: Option<f64>) -> Result<(Vec<f64>, Vec<f64>), CurvatureError> {
        let diagonal: Vec<f64> = self.alpha.iter().copied().chain(one_more).collect();
        let m = diagonal.len();
        let mut t = vec![0.0; m * m];
        for (j, alpha) in diagonal.into_iter().enumerate() {
            t[j * m + j] = alpha;
            if j + 1 < m {
                t[j * m + j + 1] = self.beta[j];
                t[(j + 1) * m + j] = self.beta[j];
            }
        }
        eigenpairs(&t, m)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn symmetric(n: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let value: f64 = rng.random_range(-1.0..1.0);
                matrix[i * n + j] = value;
                matrix[j * n + i] = value;
            }
        }
        matrix
    }

    fn times(matrix: &[f64], v: &[f64]) -> Vec<f64> {
        matrix.chunks_exact(v.len()).map(|row| dot(row, v)).collect()
    }

    fn run(matrix: &[f64], start: Vec<f64>, steps: usize) -> Lanczos {
        let mut lanczos = Lanczos::new(start);
        for _ in 0..steps {
            let Some(direction) = lanczos.direction() else { break };
            let product = times(matrix, direction);
            lanczos.step(product);
        }
        lanczos
    }

    #[test]
    fn a_complete_space_gives_all_eigenvalues() {
        let n = 40;
        let matrix = symmetric(n, 1);
        let lanczos = run(&matrix, vec![1.0; n], 2 * n);
        assert_eq!(lanczos.steps(), n);
        assert_eq!(lanczos.direction(), None);
        let (expected, _) = eigenpairs(&matrix, n).unwrap();
        for (ritz, expected) in lanczos.tridiagonal().ritz().unwrap().iter().zip(expected) {
            assert!((ritz.value - expected).abs() < 1e-12);
            assert_eq!(ritz.residual, 0.0);
        }
    }

    /// m nodes integrate polynomials up to degree 2 m - 1 exactly, and a residual bounds the distance to an eigenvalue.
    #[test]
    fn nodes_are_a_gauss_quadrature_and_residuals_bound() {
        let (n, m) = (60, 7);
        let matrix = symmetric(n, 2);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let start: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let lanczos = run(&matrix, start.clone(), m);
        let ritz = lanczos.tridiagonal().ritz().unwrap();
        let unit: Vec<f64> = start.iter().map(|x| x / norm(&start)).collect();
        let mut power = unit.clone();
        for degree in 0..2 * m {
            let moment = dot(&unit, &power);
            let quadrature: f64 = ritz.iter().map(|r| r.weight * r.value.powi(degree as i32)).sum();
            let size = ritz
                .iter()
                .map(|r| r.weight * r.value.abs().powi(degree as i32))
                .sum::<f64>();
            assert!((moment - quadrature).abs() < 1e-12 * size, "degree {degree}");
            power = times(&matrix, &power);
        }
        let (eigenvalues, _) = eigenpairs(&matrix, n).unwrap();
        for r in &ritz {
            let nearest = eigenvalues
                .iter()
                .map(|e| (e - r.value).abs())
                .fold(f64::INFINITY, f64::min);
            assert!(nearest <= r.residual * (1.0 + 1e-10) + 1e-12);
        }
        assert!((lanczos.quadratic_form() - dot(&unit, &times(&matrix, &unit))).abs() < 1e-13);
    }

    /// `|H u - theta u|` of the vectors themselves, in the order of the values.
    #[test]
    fn residuals_are_those_of_the_vectors() {
        let (n, m) = (30, 6);
        let matrix = symmetric(n, 4);
        let lanczos = run(&matrix, vec![1.0; n], m);
        let basis = &lanczos.basis[..m];
        let images: Vec<Vec<f64>> = basis.iter().map(|q| times(&matrix, q)).collect();
        let projected: Vec<f64> = (0..m * m).map(|at| dot(&basis[at / m], &images[at % m])).collect();
        let (values, vectors) = eigenpairs(&projected, m).unwrap();
        let ritz = lanczos.tridiagonal().ritz().unwrap();
        for ((ritz, value), s) in ritz.iter().zip(&values).zip(vectors.chunks_exact(m)) {
            let combined =
                |vectors: &[Vec<f64>], i: usize| -> f64 { vectors.iter().zip(s).map(|(v, s)| s * v[i]).sum() };
            let left: Vec<f64> = (0..n)
                .map(|i| combined(&images, i) - value * combined(basis, i))
                .collect();
            assert!((ritz.value - value).abs() < 1e-12);
            assert!(
                (ritz.residual - norm(&left)).abs() < 1e-12,
                "{} {}",
                ritz.residual,
                norm(&left)
            );
        }
        assert!(ritz[m / 2].residual > 1e-3, "{ritz:?}");
    }

    /// Of a spectrum with a gap, a cluster about 0, and much else: the truth is between, closely in gaps, and ever more closely with more steps.
    #[test]
    fn how_much_is_below_is_known_within_bounds() {
        let n = 400;
        let values: Vec<f64> = (0..n)
            .map(|i| match i {
                0..20 => -5.0 - 0.01 * i as f64,
                20..300 => 1e-3 * (i as f64 - 150.0),
                _ => 2.0 + 0.05 * i as f64,
            })
            .collect();
        let start: Vec<f64> = (0..n).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        let mut lanczos = Lanczos::new(start);
        let mut widths = Vec::new();
        for steps in 1..=100 {
            let direction = lanczos.direction().unwrap();
            let product = direction.iter().zip(&values).map(|(v, value)| v * value).collect();
            lanczos.step(product);
            let t = lanczos.tridiagonal();
            let mut wide = 0.0;
            for x in [
                -6.0,
                -5.05,
                -1.0,
                -1e-3,
                0.0,
                1e-9,
                0.1,
                1.0,
                2.5,
                15.0,
                30.0,
                t.ritz().unwrap()[0].value,
            ] {
                let [least, most] = t.share_up_to(x).unwrap();
                let truth = values.iter().filter(|value| **value <= x).count() as f64 / n as f64;
                let atom = values.iter().filter(|value| **value == x).count() as f64 / n as f64;
                assert!(
                    least <= truth + 1e-9 && truth - atom <= most + 1e-9,
                    "{steps} steps, {x}: {least} {truth} {most}"
                );
                if x == 0.0 {
                    wide = most - least;
                }
                if x == -1.0 && steps >= 20 {
                    assert!(most - least < 1e-6, "{steps} steps: {least} to {most} in a gap");
                }
            }
            widths.push(wide);
        }
        assert!(widths[29] > 0.01 && widths[99] < 0.5 * widths[29], "{widths:?}");
        // A complete space knows.
        let complete = run(&symmetric(9, 1), vec![1.0; 9], 9);
        let [least, most] = complete.tridiagonal().share_up_to(0.0).unwrap();
        assert!(least == most && least > 0.0 && least < 1.0);
    }

    #[test]
    fn an_invariant_start_ends_at_once() {
        let mut matrix = vec![0.0; 9];
        (0..3).for_each(|i| matrix[i * 4] = 2.0 + i as f64);
        let lanczos = run(&matrix, vec![0.0, 5.0, 0.0], 3);
        let ritz = lanczos.tridiagonal().ritz().unwrap();
        assert_eq!((ritz.len(), ritz[0].value, ritz[0].residual), (1, 3.0, 0.0));
        assert!(run(&[0.0; 9], vec![1.0; 3], 3).tridiagonal().ritz().unwrap()[0].value == 0.0);
    }
}
