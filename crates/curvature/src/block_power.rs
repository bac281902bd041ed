//! The leading eigenpairs of a positive semidefinite H that is known by its products alone: subspace iteration with Rayleigh-Ritz.
//!
//! An orthonormal basis Q of some more vectors than are wanted starts at random; each pass over the spectra gives `Y = H Q`, whose
//! orthonormal basis is the next Q. From the last pass `Q^T Y = S diag(lambda) S^T` and `u = Q s`, with the residual `|H u - lambda u| =
//! |Y s - lambda Q s|` exact. Halko, Martinsson and Tropp (2011), SIAM Review 53, 217; Golub and Van Loan, 8.2.4 and 8.1 for Rayleigh-Ritz.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::CurvatureError;
use crate::orthonormal::{add_scaled, dot, eigenpairs, norm, orthogonalise, scale};

/// Vectors beyond those wanted, at least.
const OVERSAMPLING: usize = 8;

/// The seed of the start, and after each pass of what stands in for directions that H does not have.
const SEED: u64 = 1;

/// A vector of which less than this share is left by orthogonalisation lies in the span of those before it.
const DEPENDENT: f64 = 1e-10;

/// Eigenpairs, the largest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeadingPairs {
    /// `lambda`, descending.
    pub values: Vec<f64>,
    /// `|H u - lambda u|` of each.
    pub residuals: Vec<f64>,
    /// Orthonormal u, one after the other, `[rank, p]`.
    pub vectors: Vec<Vec<f64>>,
}

/// The iteration, between two passes.
#[derive(Clone, Debug)]
pub struct BlockPower {
    n_weights: usize,
    rank: usize,
    /// Passes of the iteration,
    passes: usize,
    /// and how many of them were made.
    done: usize,
    basis: Vec<Vec<f64>>,
    random: ChaCha8Rng,
    found: Option<LeadingPairs>,
}

impl BlockPower {
    /// For `rank` eigenpairs (at most `n_weights`) after `passes` passes, at least 1.
    #[must_use]
    pub fn new(n_weights: usize, rank: usize, passes: usize) -> Self {
        let rank = rank.min(n_weights);
        let mut start = Self {
            n_weights,
            rank,
            passes: passes.max(1),
            done: 0,
            basis: Vec::new(),
            random: random_after(0),
            found: None,
        };
        for _ in 0..Self::vectors(n_weights, rank) {
            let vector = start.normal();
            start.push(vector);
        }
        start
    }

    /// How many vectors a pass multiplies for `rank` eigenpairs.
    #[must_use]
    pub fn vectors(n_weights: usize, rank: usize) -> usize {
        (rank + OVERSAMPLING.max(rank / 4)).min(n_weights)
    }

    /// The vectors whose products are the next pass, `[n, n_weights]`; none after the last.
    #[must_use]
    pub fn directions(&self) -> Vec<f64> {
        if self.done == self.passes {
            return Vec::new();
        }
        self.basis.concat()
    }

    /// Goes on with the products of [`BlockPower::directions`], `[n, n_weights]`.
    ///
    /// # Errors
    /// A product is not finite.
    pub fn step(&mut self, products: &[f64]) -> Result<(), CurvatureError> {
        if self.done == self.passes {
            return Ok(());
        }
        self.done += 1;
        let products: Vec<&[f64]> = products.chunks_exact(self.n_weights.max(1)).collect();
        if self.done == self.passes {
            self.found = Some(self.rayleigh_ritz(&products)?);
            self.basis.clear();
            return Ok(());
        }
        self.basis.clear();
        self.random = random_after(self.done);
        for product in products {
            self.push(product.to_vec());
        }
        Ok(())
    }

    /// The eigenpairs, after the last pass.
    #[must_use]
    pub fn found(&self) -> Option<LeadingPairs> {
        self.found.clone()
    }

    /// What the passes so far come to, all that the others need: the directions of the next one or, after the last, the eigenpairs.
    #[must_use]
    pub fn state(&self) -> Vec<f64> {
        match &self.found {
            None => self.basis.concat(),
            Some(pairs) => {
                let mut state = [pairs.values.as_slice(), &pairs.residuals].concat();
                state.extend(pairs.vectors.iter().flatten());
                state
            }
        }
    }

    /// Goes on after `done` passes, which came to this [state](BlockPower::state).
    pub fn resume(&mut self, done: usize, state: &[f64]) {
        self.done = done.min(self.passes);
        let vectors_of = |state: &[f64]| -> Vec<Vec<f64>> {
            let vectors = state.chunks_exact(self.n_weights.max(1));
            vectors.map(<[f64]>::to_vec).collect()
        };
        if self.done < self.passes {
            self.basis = vectors_of(state);
            return;
        }
        let (numbers, vectors) = state.split_at(state.len().min(2 * self.rank));
        let (values, residuals) = numbers.split_at(numbers.len() / 2);
        self.found = Some(LeadingPairs {
            values: values.to_vec(),
            residuals: residuals.to_vec(),
            vectors: vectors_of(vectors),
        });
        self.basis.clear();
    }

    /// Appends what is new in `vector`; where nothing is, something random that is.
    fn push(&mut self, mut vector: Vec<f64>) {
        let before = norm(&vector);
        orthogonalise(&mut vector, &self.basis);
        let mut left = norm(&vector);
        let mut enough = DEPENDENT * before;
        while left <= enough && self.basis.len() < self.n_weights {
            vector = self.normal();
            enough = DEPENDENT * norm(&vector);
            orthogonalise(&mut vector, &self.basis);
            left = norm(&vector);
        }
        scale(&mut vector, 1.0 / left);
        orthogonalise(&mut vector, &self.basis);
        let unit = norm(&vector);
        scale(&mut vector, 1.0 / unit);
        self.basis.push(vector);
    }

    fn normal(&mut self) -> Vec<f64> {
        (0..self.n_weights)
            .map(|_| self.random.sample(StandardNormal))
            .collect()
    }

    fn rayleigh_ritz(&self, products: &[&[f64]]) -> Result<LeadingPairs, CurvatureError> {
        let n = self.basis.len();
        let mut projected = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let value = 0.5 * (dot(&self.basis[i], products[j]) + dot(&self.basis[j], products[i]));
                projected[i * n + j] = value;
                projected[j * n + i] = value;
            }
        }
        let (values, vectors) = eigenpairs(&projected, n)?;
        let mut pairs = LeadingPairs {
            values: Vec::with_capacity(self.rank),
            residuals: Vec::with_capacity(self.rank),
            vectors: Vec::with_capacity(self.rank),
        };
        for (&value, s) in values.iter().zip(vectors.chunks_exact(n.max(1))).rev().take(self.rank) {
            let (mut u, mut residual) = (vec![0.0; self.n_weights], vec![0.0; self.n_weights]);
            for ((s, q), y) in s.iter().zip(&self.basis).zip(products) {
                add_scaled(&mut u, *s, q);
                add_scaled(&mut residual, *s, y);
            }
            add_scaled(&mut residual, -value, &u);
            pairs.values.push(value);
            pairs.residuals.push(norm(&residual));
            pairs.vectors.push(u);
        }
        Ok(pairs)
    }
}

/// Of each number of passes its own, so that where an iteration goes on decides nothing.
fn random_after(passes: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    random.set_stream(passes as u64);
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `X^T X` of `rows` random rows whose lengths fall off.
    fn gram(n: usize, rows: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut matrix = vec![0.0; n * n];
        for row in 0..rows {
            let x: Vec<f64> = (0..n)
                .map(|_| rng.sample::<f64, _>(StandardNormal) * 0.5f64.powi(row as i32))
                .collect();
            (0..n * n).for_each(|at| matrix[at] += x[at / n] * x[at % n]);
        }
        matrix
    }

    fn pass(power: &mut BlockPower, matrix: &[f64], n: usize) {
        let products: Vec<f64> = power
            .directions()
            .chunks(n)
            .flat_map(|v| matrix.chunks(n).map(|row| dot(row, v)).collect::<Vec<_>>())
            .collect();
        power.step(&products).unwrap();
    }

    fn run(matrix: &[f64], n: usize, rank: usize, passes: usize) -> LeadingPairs {
        let mut power = BlockPower::new(n, rank, passes);
        for _ in 0..passes {
            pass(&mut power, matrix, n);
        }
        assert!(power.directions().is_empty());
        power.found().unwrap()
    }

    #[test]
    fn the_leading_eigenvalues_are_found_with_their_residuals() {
        let (n, rank) = (60, 6);
        let matrix = gram(n, 40);
        let (expected, _) = eigenpairs(&matrix, n).unwrap();
        let pairs = run(&matrix, n, rank, 6);
        for (i, u) in pairs.vectors.iter().enumerate() {
            assert!((pairs.values[i] / expected[n - 1 - i] - 1.0).abs() < 1e-9, "{i}");
            let mut residual: Vec<f64> = matrix.chunks(n).map(|row| dot(row, u)).collect();
            add_scaled(&mut residual, -pairs.values[i], u);
            assert!((norm(&residual) - pairs.residuals[i]).abs() < 1e-12 * expected[n - 1]);
            for (j, other) in pairs.vectors.iter().enumerate() {
                assert!((dot(u, other) - f64::from(i == j)).abs() < 1e-13);
            }
        }
        let once = run(&matrix, n, rank, 1);
        assert!(once.residuals[rank - 1] > 1e3 * pairs.residuals[rank - 1]);
    }

    /// Of a matrix of rank 3, so that most directions are random in every pass.
    #[test]
    fn an_iteration_goes_on_from_its_state_with_the_same_bits() {
        let (n, rank, passes) = (12, 6, 3);
        let matrix = gram(n, 3);
        let expected = run(&matrix, n, rank, passes);
        let mut power = BlockPower::new(n, rank, passes);
        for done in 1..=passes {
            pass(&mut power, &matrix, n);
            let mut resumed = BlockPower::new(n, rank, passes);
            resumed.resume(done, &power.state());
            for _ in done..passes {
                pass(&mut resumed, &matrix, n);
            }
            assert_eq!(resumed.found().unwrap(), expected, "{done}");
            assert!(resumed.directions().is_empty());
        }
    }

    #[test]
    fn every_direction_is_found_even_those_that_the_matrix_lacks() {
        let n = 12;
        for rows in [0, 3, 12] {
            let matrix = gram(n, rows);
            let (expected, _) = eigenpairs(&matrix, n).unwrap();
            let pairs = run(&matrix, n, 50, 3);
            assert_eq!(pairs.values.len(), n);
            for (i, value) in pairs.values.iter().enumerate() {
                assert!(
                    (value - expected[n - 1 - i]).abs() < 1e-12 * (1.0 + expected[n - 1]),
                    "{rows} {i}"
                );
            }
        }
    }
}
