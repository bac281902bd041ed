//! What `invert` does to one large matrix, timed: the eigendecomposition of a Kronecker factor, and the Cholesky factor and inverse of a dense
//! block, f64.
//!
//! ```text
//! cargo bench --bench inverse -- --matrix FILE.safetensors --threads 2
//! ```
//!
//! The file holds `matrix`, `[n, n]` f64, positive definite; without one it is made up, `--size` on a side. One JSON line a kind of work, with
//! the logarithm of the determinant to compare by.

use std::error::Error;
use std::time::Instant;

use fisherflow_curvature::{BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, Matrix, StructureKind};
use fisherflow_network::DenseShape;
use fisherflow_posterior::factor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use serde_json::json;

const USAGE: &str = "--matrix FILE | --size N (512); --threads N (1); --work eigen,cholesky; --repetitions N (1)";

/// As in a run.
#[global_allocator]
static BUFFERS: fisherflow_kernels::Buffers = fisherflow_kernels::Buffers::new();

fn main() -> Result<(), Box<dyn Error>> {
    let (mut file, mut size, mut threads, mut repetitions) = (None, 512, 1, 1);
    let mut work = vec!["eigen".to_owned(), "cholesky".to_owned()];
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = given.next() {
        if name == "--help" {
            println!("{USAGE}");
            return Ok(());
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
        match name.as_str() {
            "--matrix" => file = Some(value),
            "--size" => size = value.parse()?,
            "--threads" => threads = value.parse()?,
            "--repetitions" => repetitions = value.parse()?,
            "--work" => work = value.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("there is no {name}\n{USAGE}").into()),
        }
    }
    let matrix = match file {
        Some(path) => read(&path)?,
        None => positive_definite(size),
    };
    for work in work {
        for _ in 0..repetitions {
            let (seconds, log_det) = match work.as_str() {
                "eigen" => eigen(&matrix, threads)?,
                "cholesky" => cholesky(&matrix, threads)?,
                _ => return Err(format!("there is no work {work}\n{USAGE}").into()),
            };
            let (size, rate) = (matrix.rows, 1e-9 / seconds * (matrix.rows as f64).powi(3));
            println!(
                "{}",
                json!({ "work": work, "size": size, "threads": threads, "seconds": seconds, "n3_per_ns": rate, "log_det": log_det })
            );
        }
    }
    Ok(())
}

/// A block of as many weights as the matrix has rows; as a Kronecker factor, one layer's inputs.
fn plan(matrix: &Matrix, structure: StructureKind) -> BlockPlan {
    BlockPlan {
        id: 0,
        structure,
        layers: vec![0],
        shapes: vec![DenseShape {
            name: "layers.0".to_owned(),
            inputs: matrix.rows,
            outputs: 1,
            bias: false,
            shared: 1,
        }],
        options: BlockOptions::default(),
    }
}

fn eigen(matrix: &Matrix, threads: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let one = Matrix {
        rows: 1,
        cols: 1,
        values: vec![1.0],
    };
    let curvature = BlockCurvature {
        n_spectra: 1,
        form: CurvatureForm::Kronecker {
            a: matrix.clone(),
            g: one,
        },
    };
    let plan = plan(matrix, StructureKind::Kfac);
    let start = Instant::now();
    let factored = factor(&plan, curvature, threads)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok((seconds, factored.finish(0.0)?.info().log_det))
}

fn cholesky(matrix: &Matrix, threads: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let curvature = BlockCurvature {
        n_spectra: 1,
        form: CurvatureForm::Dense(matrix.clone()),
    };
    let factored = factor(&plan(matrix, StructureKind::Full), curvature, threads)?;
    let start = Instant::now();
    let posterior = factored.finish(0.0)?;
    Ok((start.elapsed().as_secs_f64(), posterior.info().log_det))
}

fn read(path: &str) -> Result<Matrix, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensor = file.tensor("matrix")?;
    let [rows, cols] = tensor.shape()[..] else {
        return Err(format!("matrix of {path} is {:?}, expected [n, n]", tensor.shape()).into());
    };
    let values = tensor.data().as_chunks::<8>().0.iter();
    Ok(Matrix {
        rows,
        cols,
        values: values.map(|&value| f64::from_le_bytes(value)).collect(),
    })
}

/// `Z Z^T / n + I / 20`, Z random.
fn positive_definite(n: usize) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let z: Vec<f64> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let rows: Vec<&[f64]> = z.chunks_exact(n).collect();
    let mut values = Vec::with_capacity(n * n);
    for (i, x) in rows.iter().enumerate() {
        for (j, y) in rows.iter().enumerate() {
            let dot: f64 = x.iter().zip(*y).map(|(x, y)| x * y).sum();
            values.push(dot / n as f64 + if i == j { 0.05 } else { 0.0 });
        }
    }
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}
