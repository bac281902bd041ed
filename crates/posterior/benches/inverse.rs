//! Eigendecomposition of a Kronecker factor, and Cholesky with inverse of a dense block, in f64.
//!
//! `cargo bench -p fisherflow-posterior -- [size] [threads]`; default 2000 and all cores. The matrix is the mean product of spectra near 1
//! with lines and photon noise, of 1.13 times as many spectra as pixels.

use std::time::Instant;

use faer::{MatMut, MatRef, Par};
use fisherflow_curvature::{BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, Matrix, StructureKind};
use fisherflow_network::DenseShape;
use fisherflow_posterior::{invert, kronecker_bases};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let n: usize = numbers.next().unwrap_or(2000);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: usize = numbers.next().unwrap_or(cores);
    let stars = n * 113 / 100;
    let factor = factor_of_spectra(n, stars, threads);
    let plan = |structure, inputs| BlockPlan {
        id: 0,
        structure,
        layers: vec![0],
        shapes: vec![DenseShape {
            name: "layers.0".to_owned(),
            inputs,
            outputs: 1,
            bias: false,
            shared: 1,
        }],
        options: BlockOptions::default(),
    };
    let one = Matrix {
        rows: 1,
        cols: 1,
        values: vec![1.0],
    };
    let factors = BlockCurvature {
        n_spectra: stars as u64,
        form: CurvatureForm::Kronecker {
            a: factor.clone(),
            g: one,
        },
    };
    let start = Instant::now();
    kronecker_bases(&plan(StructureKind::Ekfac, n), factors, threads)?;
    println!(
        "eigenvectors {n} x {n}, {threads} threads: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let dense = BlockCurvature {
        n_spectra: stars as u64,
        form: CurvatureForm::Dense(factor),
    };
    let start = Instant::now();
    invert(&plan(StructureKind::Block, n), dense, 1e-3, threads)?;
    println!(
        "Cholesky and inverse {n} x {n}, {threads} threads: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn factor_of_spectra(n: usize, stars: usize, threads: usize) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut number = || rng.random_range(-1.0..1.0);
    let lines: Vec<f64> = (0..8 * n).map(|_| 0.02 * number()).collect();
    let mut x = vec![1.0; stars * n];
    for star in x.chunks_exact_mut(n) {
        let strengths: [f64; 8] = std::array::from_fn(|_| number());
        let noise = 0.003 + 0.05 * number().abs();
        for (j, flux) in star.iter_mut().enumerate() {
            let line: f64 = strengths.iter().enumerate().map(|(l, s)| s * lines[l * n + j]).sum();
            *flux += line + noise * number();
        }
    }
    let x = MatRef::from_row_major_slice(&x, stars, n);
    let mut values = vec![0.0; n * n];
    faer::linalg::matmul::matmul(
        MatMut::from_column_major_slice_mut(&mut values, n, n),
        faer::Accum::Replace,
        x.transpose(),
        x,
        1.0 / stars as f64,
        Par::rayon(threads),
    );
    for j in 0..n {
        for i in 0..j {
            values[j * n + i] = values[i * n + j];
        }
    }
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}
