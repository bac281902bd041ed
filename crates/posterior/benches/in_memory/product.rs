//! A product of two square matrices: what the network's products reach at best here.

use std::error::Error;
use std::time::Instant;

use fisherflow_network::product::product;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::passes::median;

/// Rows and columns.
const SIZE: usize = 3072;

/// Times it on all the threads that the benchmark was given.
pub(crate) fn time(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut random = || -> Result<candle_core::Tensor, candle_core::Error> {
        let values: Vec<f32> = (0..SIZE * SIZE).map(|_| rng.random_range(-1.0..1.0)).collect();
        let tensor = candle_core::Tensor::from_vec(values, (SIZE, SIZE), &candle_core::Device::Cpu)?;
        tensor.to_dtype(arguments.precision.dtype())
    };
    let (a, b) = (random()?, random()?);
    let threads = arguments.threads.max(1) * arguments.workers;
    let mut seconds = Vec::new();
    for repetition in 0..=arguments.repetitions {
        let start = Instant::now();
        std::hint::black_box(product(&a, &b, threads)?);
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let median = median(&seconds);
    Ok(json!({
        "work": "product",
        "size": SIZE,
        "threads": threads,
        "precision": arguments.precision.to_string(),
        "seconds": seconds,
        "median_seconds": median,
        "gflops": 2.0 * (SIZE as f64).powi(3) / median / 1e9,
    }))
}
